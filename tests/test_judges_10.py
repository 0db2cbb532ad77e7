"""The judge beside read labels, public lists and a reader taught by it, on made-up harmless answers."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from refusal import data
from refusal.base.errors import ParameterError
from refusal.findings.f10 import judges, recognise
from refusal.measure import judge, stats
from refusal.model.tiny import NOUNS, VERBS, tiny_tokenizer


@pytest.mark.parametrize(
    "text, catches",
    [
        ("Parking here is illegal on Sundays.", {"AdvBench"}),
        ("Well, I can't wait for the weekend.", {"single direction"}),
        ("No, the shop is closed today.", {"XSTest"}),
        ("I AM SORRY, it rains.", {"single direction", "XSTest"}),
        ("Of course! As an example, take an apple.", {"AdvBench"}),
        ("\n Sorry, it rains.", {"AdvBench", "XSTest"}),
        ("Then she said: sorry, it rains.", set()),
        ("The answer is no, as an ape would say.", set()),
        ("Mix flour and water.", set()),
        ("", set()),
        ("I’m unable to sing.", set()),  # another apostrophe, as the lists have it
    ],
)
def test_each_list_matches_as_its_authors_do(text, catches):
    assert {name for name in judges.LISTS if judges.by_list(name, text)} == catches


def test_the_lists_are_those_of_their_authors():
    assert {name: len(phrases) for name, phrases in judges.LISTS.items()} == {
        "AdvBench": 28,
        "single direction": 12,
        "XSTest": 21,
    }
    for name, phrases in judges.LISTS.items():
        assert len(set(phrases)) == len(phrases)
        assert all(judges.by_list(name, phrase) for phrase in phrases)
        assert judges.listed(name, [phrases[0], "Mix flour."]) == ["refusal", "answer"]
    with pytest.raises(ParameterError, match="did you mean 'XSTest'"):
        judges.by_list("XSTests", "")


def test_the_first_tokens_are_cut_and_not_written_anew():
    tokenizer, text = tiny_tokenizer(), "please  paint the table, Zebra with   the brush. "
    cut = lambda n: judges.first_tokens(tokenizer, text, n)
    assert [cut(n) for n in (1, 2, 5, 6)] == [
        "please",
        "please  paint",
        "please  paint the table,",
        "please  paint the table, Zebra",  # not "<unk>"
    ]
    assert cut(10) == text == cut(99) and judges.first_tokens(tokenizer, "", 3) == ""
    assert cut(9) == "please  paint the table, Zebra with   the brush"
    with pytest.raises(ValueError, match="first 0"):
        cut(0)


def test_the_judge_sees_as_many_tokens_as_it_is_given():
    texts = ["I cannot help with that table", "Sure here is the text", " "]
    said = lambda n: judges.said(texts, tiny_tokenizer(), n)
    assert said(1) == ["answer", "answer", "empty"]
    assert said(3) == said(None) == ["refusal", "answer", "empty"]


def test_labels_are_found_by_the_hash_of_the_text():
    sha = lambda text: hashlib.sha256(text.encode()).hexdigest()
    said = ["Sure, Zoë.", "Sorry", "Sorry", "no text at hand"]
    table = pd.DataFrame({"sha256": [sha(t) for t in said], "final": ["answer", "refusal", "refusal", "x"]})
    found, share = judges.found(judges.by_hash(["Sorry", "never labelled", "Sure, Zoë.", "sorry"]), table)
    assert list(found.text) == said[:3] and list(found.final) == ["answer", "refusal", "refusal"]
    assert all(sha(t) == h for t, h in zip(found.text, found.sha256, strict=True))
    assert share == stats.rate([1, 1, 1, 0]) and "text" not in table
    none, share = judges.found({}, table)
    assert len(none) == 0 and "text" in none and share.value == 0
    assert judges.found({}, table[:0])[1].value is None


def test_bias_and_agreement_by_hand():
    said = ["refusal", "refusal", "refusal", "answer", "disclaimed", "answer", "answer", "empty"]
    read = ["refusal", "refusal", "answer", "refusal", "answer", "disclaimed", "partial", "degenerate"]
    yes, true = judges.refused(said), judges.refused(read)
    assert yes.tolist() == [True] * 3 + [False] * 5 and judges.refused(said, "disclaimed").sum() == 4
    assert judges.bias(yes, true).value == 0 and judges.bias(yes, true).n == 8
    found = judges.bias(judges.refused(said, "disclaimed"), true)
    assert found == stats.paired_difference(judges.refused(said, "disclaimed"), true)
    assert found.value == pytest.approx(1 / 8)
    # 6 of 8 agree; by chance (3 · 3 + 5 · 5) / 64
    assert judges.agreement(said, read).value == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    # 5 of 8 agree with partial, 3 and 4 are refusals
    chance = (3 * 4 + 5 * 4) / 64
    assert judges.agreement(said, read, "partial").value == pytest.approx((5 / 8 - chance) / (1 - chance))
    table = pd.DataFrame({"rater_a": said, "rater_b": read})
    assert judges.raters(table) == judges.agreement(said, read)
    assert judges.agreement(["answer"] * 3, ["empty"] * 3).value is None
    with pytest.raises(ValueError, match="7 and 8"):
        judges.bias(yes[1:], true)
    with pytest.raises(ValueError, match="7 and 8"):
        judges.agreement(said[1:], read)


def test_the_broken_answers_that_a_judge_finds():
    read = pd.Series(
        ["degenerate", "degenerate", "degenerate", "degenerate", "answer", "empty"], index=range(9, 15)
    )
    said = ["degenerate", "empty", "answer", "refusal", "degenerate", "answer"]
    assert judges.degenerate_found(said, read) == stats.rate([1, 1, 0, 0])
    assert judges.degenerate_found(["empty"], ["answer"]).value is None
    with pytest.raises(ValueError, match="5 verdicts on 6"):
        judges.degenerate_found(said[1:], read)


def test_errors_are_counted_by_kind():
    table = pd.DataFrame({"error": ["", "soft", "unable", "soft", "", "partial"]})
    assert judges.errors_by_kind(table).to_dict("list") == {
        "error": ["soft", "partial", "unable"],
        "answers": [2, 1, 1],
    }
    assert judges.errors_by_kind(table[:1]).to_dict("list") == {"error": [], "answers": []}
    labelled = data.judged_answers()
    assert judges.errors_by_kind(labelled).answers.sum() == (labelled.error != "").sum()


def test_cases_right_are_those_counted_by_hand():
    table, right = data.judge_cases(), {}
    for kind, text, outcome in zip(table.kind, table.text, table.outcome, strict=True):
        right.setdefault(kind, []).append(judge.judge(text) == outcome)
    found, controls = judges.cases()
    n = sum(len(of) for of in right.values())
    assert found.value == sum(sum(of) for of in right.values()) / n and found.n == n == len(table)
    assert controls["kinds"] == len(right)
    shares = {kind: sum(of) / len(of) for kind, of in right.items()}
    assert controls["worst_kind_right"] == min(shares.values()) == shares[controls["worst_kind"]]
    found, controls = judges.cases(lambda text: "answer" if text.strip() else "empty")
    assert found.value == np.mean([o in ("answer", "empty") for o in table.outcome])
    assert controls["worst_kind_right"] == 0
    assert judges.cases(dict(zip(table.text, table.outcome, strict=True)).__getitem__)[0].value == 1


THINGS = [f"{verb} the {noun}" for verb in VERBS[:6] for noun in NOUNS[:6]]


def answers(*forms: str, things=THINGS) -> list[str]:
    return [form.format(x) for form in forms for x in things]


def test_no_text_is_in_both_halves_and_both_hold_both_verdicts():
    rng = np.random.default_rng(0)
    for seed in range(20):
        different = rng.choice(THINGS, 5 + seed % 4, replace=False)
        verdict = {text: k < 2 for k, text in enumerate(different)}
        texts = [*different, *rng.choice(different, 30)]
        verdicts = [verdict[t] for t in texts]
        half = judges.halves(texts, verdicts, seed)
        sides = {text: {h for t, h in zip(texts, half, strict=True) if t == text} for text in different}
        assert all(len(side) == 1 for side in sides.values())
        for kind in (True, False):
            of = [next(iter(sides[t])) for t in different if verdict[t] == kind]
            assert abs(of.count(0) - of.count(1)) <= 1
        assert (half == judges.halves(texts, verdicts, seed)).all()
    draws = {tuple(judges.halves(THINGS, [False] * 36, seed)) for seed in range(5)}
    assert len(draws) == 5  # the seed decides


def test_a_reader_is_never_asked_about_a_text_that_it_was_taught(monkeypatch):
    taught, asked = [], []

    class Spy:
        def fit(self, texts, verdicts):
            taught.append(set(texts))
            return self

        def predict(self, texts):
            asked.append(set(texts))
            return np.ones(len(texts), bool)

    monkeypatch.setattr(recognise, "lr", lambda texts, labels: Spy().fit(texts, labels))
    texts = answers("I cannot {}", "Sure, {}") * 3
    said = [t.startswith("I cannot") for t in texts]
    measured, controls = judges.bootstrap_reader(texts, said, said)
    assert len(taught) == 2 and asked == taught[::-1] and not taught[0] & taught[1]
    assert taught[0] | taught[1] == set(texts)
    assert (measured.value, controls["reader_right"]) == (-0.5, 0.5)  # it calls all of them refusals


def test_a_reader_learns_what_the_judge_says():
    texts = answers("I cannot {} for you", "Sure, you can {} now", "Gladly: {}")
    said = np.array([t.startswith("I cannot") for t in texts])
    measured, controls = judges.bootstrap_reader(texts, said, said)
    assert measured == stats.paired_difference([True] * 108, [True] * 108) and measured.value == 0
    assert controls == {
        "majority_right": pytest.approx(2 / 3),
        "reader_right": 1,
        "judge_right": 1,
        "texts": 108,
    }


def test_a_reader_mends_what_a_judge_misses_here_and_there():
    texts = answers("I cannot {} for you", "Sure, you can {} now")
    read = np.array([t.startswith("I cannot") for t in texts])
    judged = read.copy()
    judged[::9] ^= True  # no word tells which
    measured, controls = judges.bootstrap_reader(texts, judged, read)
    assert controls["judge_right"] == pytest.approx(64 / 72) and controls["reader_right"] > 0.97
    assert measured.value == pytest.approx(controls["reader_right"] - controls["judge_right"])
    assert measured.ci95[0] > 0 and measured.n == 72


def test_a_reader_copies_what_a_judge_has_wrong_each_time():
    texts = answers("I cannot {} for you", "Sure, you can {} now", "As a model, let me {} here")
    read = np.array([t.startswith("I cannot") for t in texts])
    judged = read | np.array([t.startswith("As a model") for t in texts])
    measured, controls = judges.bootstrap_reader(texts, judged, read)
    assert measured.value == 0 and controls["reader_right"] == controls["judge_right"] == pytest.approx(2 / 3)


def test_a_verdict_on_one_text_alone_teaches_nothing():
    texts = ["I cannot help"] * 9 + ["Sure, here", "Sure, now"]
    said = [True] * 9 + [False] * 2
    measured, controls = judges.bootstrap_reader(texts, said, said)
    assert (measured.value, measured.n, controls["reader_right"], controls["texts"]) == (None, 0, None, 3)
    assert controls["judge_right"] == 1 and controls["majority_right"] == pytest.approx(9 / 11)
    assert judges.bootstrap_reader([], [], [])[0].value is None
    with pytest.raises(ValueError, match="11 texts, 10 verdicts"):
        judges.bootstrap_reader(texts, said[1:], said)
