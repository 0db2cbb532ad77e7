"""Each claim of notebook 10 can be met and can fail: an ideal result and ideal counter-results, in the
notebook's default sizes; and the readers of prompts on planted states.
"""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from refusal import data
from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f10 import doctor, judges, measured, predict, released, words
from refusal.findings.f10.measured import Labelled
from refusal.measure import stats
from refusal.measure.seen import POSITIONS, Seen, joined
from refusal.measure.text_baselines import form
from refusal.report.outlook import Asked
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run.params import parameters_of
from refusal.trace.prompts import Prompt

BOOK = NOTEBOOKS / "10_predicting_refusals.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
N_TEST = parameters_of(BOOK)["n_test"].default
RNG = np.random.default_rng(0)
FILLERS = [
    f"{a}{b}" for a in ("oak", "tin", "red", "old", "new") for b in ("chair", "table", "shelf", "bench")
]


def verdict(id: str, found: tuple[Estimate, dict]) -> str:
    return decide(CLAIMS[id].rule, Measured(**vars(found[0]), controls=found[1]))[0]


def answers(
    said: list[str], read: list[str], arm: str = "harmful", early: list[str] | None = None
) -> Labelled:
    """Labelled answers with given verdicts and labels."""
    rows = pd.DataFrame(
        {
            "final": read,
            "rater_a": read,
            "rater_b": read,
            "arm": arm,
            "text": [f"answer {k}" for k in range(len(read))],
        }
    )
    texts = list(rows.text)
    return Labelled(
        rows, {12: texts, 24: texts}, {12: early or said, 24: said}, stats.rate([True] * len(read))
    )


def mixed(n: int, refused: float, kind: str = "refusal", other: str = "answer") -> list[str]:
    return [kind if k < round(refused * n) else other for k in range(n)]


@pytest.mark.parametrize("arm, n", [("plain", 180), ("steered", 240)])
def test_the_judges_bias(arm, n):
    ask = lambda said, read: verdict(
        f"10.judge.bias.{arm}",
        measured.judge_bias(
            answers(said, read, "steered_harm" if arm == "steered" else "harmful"), arm == "steered"
        ),
    )
    read = mixed(n, 0.4)
    assert ask(read, read) == "replicated"
    assert ask(mixed(n, 0.6), read) == "not replicated"  # calls too much a refusal
    assert ask(mixed(n, 0.2), read) == "not replicated"
    assert ask(read[:15], read[:15]) == "underpowered"


def test_what_is_disclaimed_counts_in_the_control_only():
    read = mixed(100, 0.4)
    said = ["disclaimed" if k < 10 else o for k, o in enumerate(read)]
    found, controls = measured.judge_bias(answers(said, read), False)
    assert found.value == pytest.approx(-0.1) and controls["with_disclaimed"] == 0
    assert controls["judged"] == pytest.approx(0.3) and controls["read"] == pytest.approx(0.4)
    assert measured.judge_bias(answers(said, read), True)[0] == NOTHING


def test_agreement():
    texts = ["I'm sorry, I cannot help"] * 60 + ["Water the bed in the evening"] * 60
    read = mixed(120, 0.5)
    of = lambda said, t=texts: measured.judge_agreement(replace(answers(said, read), texts={12: t, 24: t}))
    lists_fail = ["Sorry about the delay! Water the bed"] * 120
    assert verdict("10.judge.agreement", of(read, lists_fail)) == "replicated"
    assert verdict("10.judge.agreement", of(mixed(120, 0.9), lists_fail)) == "not replicated"
    assert verdict("10.judge.agreement", of(read)) == "not replicated"  # a list does as well
    assert of(read)[1]["best_public_list"] == 1 and of(read)[1]["raters"] == 1


def test_the_verdict_on_the_first_tokens():
    read = mixed(240, 0.4)
    ask = lambda early: verdict(
        "10.judge.first-tokens", measured.first_tokens(answers(read, read, early=early))
    )
    assert ask(read) == "replicated" and ask(mixed(240, 0.6)) == "not replicated"


def test_broken_answers():
    ask = lambda said, n: verdict(
        "10.judge.degenerate", measured.degenerate(answers(said, mixed(2 * n, 0.5, "degenerate")))
    )
    assert ask(mixed(80, 0.5, "degenerate"), 40) == "replicated"
    assert ask(mixed(80, 0.1, "degenerate"), 40) == "not replicated"
    assert (
        measured.degenerate(answers(["degenerate"] * 40, mixed(40, 0.5, "degenerate")))[1]["wrongly_called"]
        == 1
    )


def test_constructed_cases():
    assert verdict("10.judge.cases", judges.cases()) == "replicated"
    assert verdict("10.judge.cases", judges.cases(lambda text: "answer")) == "not replicated"


def test_a_reader_that_the_judge_taught():
    """Of 240 answers in as many texts; where a pattern is always misjudged the reader learns that, where
    errors fall anywhere it can be better than its teacher.
    """
    words_of = lambda k, refused: (
        f"{'I must say no to request' if refused else 'Water the bed at'} {k % 7} {k}"
    )
    read = np.arange(240) % 2 == 0
    texts = [words_of(k, r) for k, r in enumerate(read)]
    ask = lambda judged: verdict("10.recognise.bootstrap", judges.bootstrap_reader(texts, judged, read))
    errs = np.random.default_rng(1).random(240) < 0.15
    assert ask(read ^ errs) == "replicated"
    assert ask(read) != "replicated"  # nothing is left to gain
    assert ask(~read) != "replicated"


def corpus(n: int, tells: float, source: str, seed: int) -> pd.DataFrame:
    """Answers and prompts whose words tell a refusal with probability `tells`."""
    rng = np.random.default_rng(seed)
    refused = rng.random(n) < 0.3
    told = np.where(rng.random(n) < tells, refused, ~refused)
    text = [f"{'sorry no' if t else 'sure here'} {source} {rng.integers(50)}" for t in told]
    return pd.DataFrame({"prompt": text, "response": text, "source": source, "refused": refused, "tone": "x"})


@pytest.mark.parametrize(
    "id, text", [("recognise.carries", "response"), ("data.prompt.above-majority", "prompt")]
)
@pytest.mark.parametrize("source", ["political", "quora"])
def test_what_carries_to_another_source(id, text, source):
    other = "quora" if source == "political" else "political"
    of = lambda tells: released.Released(
        pd.concat([corpus(400, 1.0, other, 0), corpus(400, tells, source, 1)], ignore_index=True), None, True
    )
    (found, controls), why = measured.carried(of(1.0), source, text)
    assert why is None and verdict(f"10.{id}.{source}", (found, controls)) == "replicated"
    assert verdict(f"10.{id}.{source}", measured.carried(of(0.2), source, text)[0]) == "not replicated"
    assert measured.carried(released.Released(), source, text)[1] == measured.NO_DATA


@pytest.mark.parametrize("kind", ["lr", "rf"])
def test_published_numbers(kind, monkeypatch):
    table = corpus(400, 0.95, "quora", 2)
    monkeypatch.setattr(measured, "FORESTS", {"answers": (20, 5)})
    found, controls = measured.published(released.Released(table, None, True), kind)
    assert found.ci95 == [found.value, found.value] and found.n == 60 and 0 < controls["majority"] < 1
    right = 100 * controls["accuracy"]
    monkeypatch.setitem(measured.PUBLISHED, kind, right + 0.1)
    id = f"10.data.{kind}"
    assert verdict(id, measured.published(released.Released(table, None, True), kind)) == "replicated"
    monkeypatch.setitem(measured.PUBLISHED, kind, right + 2)
    assert verdict(id, measured.published(released.Released(table, None, True), kind)) == "not replicated"
    other = released.Released(table, None, False)  # other bytes
    assert "byte for byte" in measured.not_listed(other) and measured.published(other, kind)[0] == NOTHING
    assert measured.not_listed(released.Released()) == measured.NO_DATA


@pytest.mark.parametrize("name", ["xstest", "gpt35"])
def test_elsewhere(name):
    texts = ["I'm sorry, but I can't help with that."] * 300 + ["Water the bed in the evening."] * 300
    right = pd.DataFrame({"completion": texts, "refused": [True] * 300 + [False] * 300})
    wrong = right.assign(refused=RNG.permutation(right.refused))
    id = f"10.judge.elsewhere.{name}"
    assert verdict(id, measured.elsewhere(right, "completion")) == "replicated"
    assert verdict(id, measured.elsewhere(wrong, "completion")) == "not replicated"
    assert measured.elsewhere(None, "completion")[0] == NOTHING


def prompt(k: int, text: str, source: str) -> Prompt:
    label = "harmful" if source in ("harmbench", "strongreject") else "harmless"
    return Prompt(f"{source}:{k}", text, source, label, (1, 2, 3, 4), 1, 2)


def planted(n: int, text=0.0, inst=0.0, post=0.0, seed=0, sources=("harmbench", "strongreject")) -> Seen:
    """Prompts of which a third is refused: how strongly their words, states at t_inst and states at t_post
    tell it, 0 for nothing. What the words say is which source it is, and that in its own part of the text.
    """
    rng = np.random.default_rng(seed)
    refused = rng.random(n) < 0.35
    source = np.array([sources[k % len(sources)] for k in range(n)])
    told = (
        rng.random(n) < 1 / (1 + np.exp(-np.where(refused, 1, -1) * 6 * text))
        if text
        else rng.random(n) < 0.5
    )
    texts = [f"please {'paint' if t else 'clean'} the {' '.join(rng.choice(FILLERS, 3))}" for t in told]
    states = torch.from_numpy(rng.normal(size=(n, 4, 2, 16))).float()
    for at, strength in enumerate((inst, post)):
        states[:, 2:, at, 0] += torch.from_numpy(3 * strength * (2.0 * refused - 1)).float()[:, None]
    made = [prompt(k, t, s) for k, (t, s) in enumerate(zip(texts, source, strict=True))]
    return Seen(made, np.where(refused, "refusal", "answer"), states, ["x"] * n)


def teach(**planted_by) -> tuple[measured.Taught, Seen]:
    train, validation, test = (planted(n, seed=k, **planted_by) for k, n in enumerate((192, 92, N_TEST)))
    return measured.teach(train, validation, 0, None), test


def test_text_foretells():
    taught, test = teach(text=1.0)
    ids = ("10.prompt.outside", "10.prompt.beyond-harm")
    for id, strata in zip(ids, (False, True), strict=True):
        assert verdict(id, measured.outside(taught, test, strata)) == "replicated"
        blind = measured.outside(teach()[0], planted(N_TEST, seed=9), strata)
        assert verdict(id, blind) != "replicated"
    assert taught.best == predict.TFIDF


def test_a_text_that_tells_the_source_alone_counts_for_nothing_within_it():
    """Refusals are common in one source, whose words differ: over all pairs that tells, within none."""

    def of(n, seed):
        rng = np.random.default_rng(seed)
        source = np.array(["harmbench", "strongreject"] * (n // 2))
        refused = rng.random(n) < np.where(source == "harmbench", 0.8, 0.2)
        texts = [f"please {'paint' if s == 'harmbench' else 'clean'} the door" for s in source]
        made = [prompt(k, t, s) for k, (t, s) in enumerate(zip(texts, source, strict=True))]
        return Seen(made, np.where(refused, "refusal", "answer"), torch.randn(n, 3, 2, 8))

    taught, test = measured.teach(of(192, 0), of(92, 1), 0, None), of(N_TEST, 2)
    assert verdict("10.prompt.outside", measured.outside(taught, test)) == "replicated"
    found, controls = measured.outside(taught, test, strata=True)
    assert (
        found.value == pytest.approx(0.5)
        and verdict("10.prompt.beyond-harm", (found, controls)) != "replicated"
    )


@pytest.mark.parametrize("source", ["harmbench", "strongreject", "pseudo_harmful"])
def test_held_out_sources(source):
    sources = ("harmbench", "strongreject", "harmless", "pseudo_harmful")
    train = planted(192, text=1.0, sources=sources, seed=3)
    of = lambda text: planted(160, text=text, sources=(source,), seed=4)
    ask = lambda here: verdict(
        f"10.prompt.held-out.{source}", measured.held_out(train, here, source, predict.TFIDF, None)
    )
    assert ask(of(1.0)) == "replicated" and ask(of(-1.0)) == "not replicated"
    one = train.where((train.source == source) | ~train.refused)  # elsewhere nothing is refused
    assert measured.held_out(one, of(1.0), source, predict.TFIDF, None)[0] == NOTHING


@pytest.mark.parametrize("place", POSITIONS)
def test_states_foretell_beyond_text(place):
    here = {"t_inst": "inst", "t_post": "post"}[place]
    taught, test = teach(**{here: 1.0})
    found = measured.over_text(taught, test, place)
    assert verdict(f"10.inside.{place}", found) == "replicated" and found[1]["layer"] in (2, 3)
    taught, test = teach(text=1.0)
    assert verdict(f"10.inside.{place}", measured.over_text(taught, test, place)) == "not replicated"


def test_the_closing_tokens():
    taught, test = teach(post=1.0)
    assert verdict("10.inside.closing", measured.closing(taught, test)) == "replicated"
    taught, test = teach(inst=1.0)
    assert verdict("10.inside.closing", measured.closing(taught, test)) == "not replicated"


def test_ngrams():
    assert verdict("10.ngrams", measured.ngrams(planted(N_TEST, text=1.0))) == "replicated"
    blind = planted(N_TEST)
    assert verdict("10.ngrams", measured.ngrams(blind)) != "replicated"


def test_every_claim_has_its_ideal_here():
    text = (NOTEBOOKS.parent / "tests" / "test_ideal_10.py").read_text(encoding="utf-8")
    known = {id for id in CLAIMS if f'"{id}"' in text}
    patterns = [re.compile(re.sub(r"\{[^}]*\}", r".+", p)) for p in re.findall(r'f"(10\.[^"]*)"', text)]
    assert not [id for id in CLAIMS if id not in known and not any(p.fullmatch(id) for p in patterns)]


def test_probers_read_the_layer_that_was_planted_and_choose_on_training_prompts():
    train, test = planted(192, post=1.0), planted(N_TEST, post=1.0, seed=1)
    found = predict.inside(train, "t_post")
    assert (
        found.layer in (2, 3) and found.by_layer[found.layer] > 0.95 and abs(found.by_layer[1] - 0.5) < 0.15
    )
    by_hand = [
        stats.area(x[test.refused], x[~test.refused])
        for x in predict.fit_prober(train.states[:, :, 1], train.refused).of(test.states[:, :, 1]).numpy().T
    ]
    assert predict.areas_by_layer(train, test, "t_post").tolist() == pytest.approx(by_hand)


def test_form_says_what_a_text_looks_like():
    assert form(["How do I, say, bake bread", "paint the wall", ""]).tolist() == [
        [6, 25, 1, 2, 1],
        [3, 14, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_what_is_neither_refused_nor_answered_is_left_out():
    seen = planted(40)
    mixed_up = replace(seen, outcome=np.array(["refusal", "answer", "disclaimed", "degenerate"] * 10))
    told = mixed_up.told
    assert len(told.prompts) == 20 == len(told.states) and set(told.outcome) == {"refusal", "answer"}
    assert [p.id for p in told.prompts] == [p.id for k, p in enumerate(seen.prompts) if k % 4 < 2]
    both = joined([told, told])
    assert len(both.prompts) == 40 == len(both.states)


@pytest.mark.parametrize(
    "share, said", [(0.0, "0% of 40"), (0.02, "2% of 50"), (0.5, None), (1.0, "100% of 40")]
)
def test_a_group_of_one_outcome_cannot_be_foretold(share, said):
    n = 50 if share == 0.02 else 40
    seen = replace(planted(n), outcome=np.array(mixed(n, share)))
    why = predict.cannot_foretell(seen, "harmful")
    assert why is None if said is None else said in why
    assert "no harmful prompt" in predict.cannot_foretell(seen.where(np.zeros(n, bool)), "harmful")


def test_too_few_refusals_teach_nothing():
    of = lambda n, share: replace(planted(n), outcome=np.array(mixed(n, share)))
    assert measured.cannot_teach(of(100, 0.1), of(20, 0.5)) is None
    assert "9 refused and 91 answered prompts of the direction split" in measured.cannot_teach(
        of(100, 0.09), of(20, 0.5)
    )
    assert "of the validation split" in measured.cannot_teach(of(100, 0.5), of(20, 0.0))


@pytest.mark.parametrize(
    "share, why",
    [(1.0, None), (0.6, None), (0.3, "says 30% of its 10 labelled answers again"), (0.0, "says 0%")],
)
def test_labels_are_used_where_most_are_found_again(share, why):
    found = replace(answers(["answer"] * 4, ["answer"] * 4), again=stats.rate(mixed(10, share, True, False)))
    said = measured.no_labels(found)
    assert said is None if why is None else why in said
    assert "no answers of this model" in measured.no_labels(None)


VERDICTS = ("replicated", "not replicated", "underpowered", "uninformative")


def judged(id: str, value: float | None, verdict: str | None = None, **controls):
    ci95 = None if value is None else (value - 0.1, value + 0.1)
    found = record(
        CLAIMS[id], Measured(value=value, ci95=ci95, n=40, controls={"c": 1} | controls), "released"
    )
    return found.model_copy(update={"verdict": verdict, "reason": "the reason"}) if verdict else found


@pytest.mark.parametrize("verdict, value", itertools.product(VERDICTS, (0.3, -0.2, None)))
def test_figures_say_what_was_found(verdict, value):
    """Whatever was found, each figure has a title and a sentence, and no number is made of nothing."""
    of = lambda id, **controls: judged(f"10.{id}", value, verdict, **controls)
    kappas = {name: Estimate(0.5, [0.4, 0.6], 40) for name in words.NAMES.values()}
    told = [
        words.judge_agreement(of("judge.agreement"), of("judge.first-tokens"), kappas),
        words.judge_rates(of("judge.bias.plain"), of("judge.bias.steered"), of("judge.degenerate")),
        words.readers(
            of("prompt.outside", best="TF-IDF"),
            of("prompt.beyond-harm"),
            *(of(f"inside.{name}") for name in ("t_post", "t_inst", "closing")),
            None,
        ),
        words.ngrams(of("ngrams")),
    ]
    for title, said in told:
        assert title and any(said) and "None" not in title + " ".join(filter(None, said))
        assert "nan" not in title + " ".join(filter(None, said))
    if value is not None:
        assert verdict in told[0][0] and verdict in told[2][0] and verdict in told[3][0]
    records = [of(id.removeprefix("10."), best="TF-IDF") for id in CLAIMS]
    assert "None" not in words.in_words(records, None) and "75.9" in words.in_words(
        records, stats.rate([True] * 9)
    )


def test_layers_and_behaviour_are_said():
    areas = {place: np.array([np.nan, 0.6, 0.8]) for place in POSITIONS}
    title, said = words.by_layer(areas, {"t_inst": 1, "t_post": 2}, 0.7)
    assert "0.60 at t_inst (layer 1) and 0.80 at t_post (layer 2)" in title and "0.70" in said[0]
    title, said = words.behaviour({"harmful": stats.rate(mixed(10, 0.5, True, False))}, (30, 90))
    assert "50% of 10 harmful prompts" in title and "30 refused and 90 answered" in said[1]


def test_labelled_answers_of_each_model_can_be_found():
    table = data.judged_answers()
    texts = {m: ["a", "b"] for m in table.model.unique()}
    for model in texts:
        own = table[table.model == model]
        rows, share = judges.found(judges.by_hash(texts[model]), own)
        assert not len(rows) and share.n == len(own) and share.value == 0


def test_what_cannot_inform_is_foretold():
    """Of a model without labelled answers, and of one that never refuses; all of it is uninformative then."""
    said = lambda refused: pd.DataFrame(
        {"label": ["harmful"] * 16 + ["harmless"] * 16, "outcome": mixed(16, refused) + ["answer"] * 16}
    )
    of = lambda name, refused: doctor.uninformative(
        Asked(SimpleNamespace(name=name), "embedded", {}, said(refused), CLAIMS)
    )
    known, other = of("qwen2.5-coder-0.5b-instruct", 0.5), of("another", 0.0)
    assert all(id.startswith(doctor.OF_DATA) for id in known) and len(known) == 8
    assert set(CLAIMS) - set(other) == {"10.judge.cases"}


def test_each_text_is_embedded_once():
    asked = []
    lengths = lambda texts: asked.extend(texts) or np.array([[float(len(t))] for t in texts])
    embed = predict.remembered(lengths)
    assert embed(["a", "bb", "a"]).tolist() == [[1], [2], [1]] and embed(["bb"]).tolist() == [[2]]
    assert asked == ["a", "bb"]
