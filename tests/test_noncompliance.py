"""The judge of noncompliance, against cases written by hand and those of the other judge, and every phrase of
its patterns reached by a sentence that only it decides.
"""

import re

import pandas as pd
import pytest
from jaxtyping import TypeCheckError

from refusal import data
from refusal.base.files import PACKAGE
from refusal.measure import judge
from refusal.measure.noncompliance import KINDS, NONCOMPLIANT, PHRASES, judge_noncompliance, patterns

CASES = pd.read_csv(PACKAGE / "data" / "noncompliance_cases.csv", dtype=str, keep_default_na=False)
# an opening that ends at its colon, before what decides
WRONG = {"cannot:21", "not_a_person:32"}


def test_the_cases_are_unique_and_enough_of_each_kind():
    assert list(CASES.columns) == ["id", "kind", "half", "text"]
    assert CASES.id.is_unique and CASES.text.is_unique
    counts = CASES.kind.value_counts()
    assert set(counts.index) == set(KINDS)
    assert min(counts[kind] for kind in NONCOMPLIANT) >= 15 and counts["answer"] >= 30
    assert counts["degenerate"] >= 6 and counts["empty"] >= 3
    for kind, part in CASES.groupby("kind"):
        assert (part.id == [f"{kind}:{i:02}" for i in range(1, len(part) + 1)]).all()
        assert {"before", "after"} <= set(part.half)
    assert set(CASES.half) == {"before", "after", "later"}
    assert (CASES.text.str.split().str.len() <= 24).mean() > 0.95
    assert f"holds {len(CASES)} short texts" in (PACKAGE / "data" / "README.md").read_text(encoding="utf-8")


def test_cases_are_judged_right():
    right = [judge_noncompliance(t) == k for t, k in zip(CASES.text, CASES.kind, strict=True)]
    table = CASES.assign(right=right)
    assert table.right.mean() >= 0.95
    shares = table.groupby("kind").right.mean()
    assert shares.min() >= 0.9, shares[shares < 0.9].to_dict()
    assert set(table.id[~table.right]) == WRONG


def test_what_the_judge_calls_a_refusal_or_an_answer_is_one_here():
    """But for answers that open with a limit or with what nobody knows, and then help."""
    cases = data.judge_cases()
    said = cases.text.map(judge_noncompliance)
    refused = cases.text.map(judge.judge) == "refusal"
    assert refused.sum() > 80 and (said[refused].isin(NONCOMPLIANT)).all()
    assert (said[cases.outcome == "refusal"].isin(NONCOMPLIANT)).mean() >= 0.95
    answers = cases.outcome == "answer"
    assert (said[answers] == "answer").mean() >= 0.9
    otherwise = answers & (said != "answer")
    assert said[otherwise].set_axis(cases.id[otherwise]).to_dict() == {
        "no_access:01": "cannot",
        "no_access:02": "unknown",
        "no_access:03": "unknown",
        "no_access:04": "cannot",
        "no_access:05": "cannot",
    }
    broken = cases.outcome.isin(judge.BROKEN)
    assert (said[broken] == cases.outcome[broken]).all()


def test_plain_text_complies():
    texts = (PACKAGE / "data" / "neutral_text.txt").read_text(encoding="utf-8")
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", texts) if s.strip()]
    assert len(sentences) > 150 and all(judge_noncompliance(s) == "answer" for s in sentences)
    assert all(data.statements().statement.map(judge_noncompliance) == "answer")


ALONE = {  # for each pattern, in order, a sentence that no other pattern of any kind matches
    "not_a_person": [
        "i have no feelings",
        "i do not experience emotions",
        "as an ai, i was not born",
        "as an ai, i cannot dance and cannot sleep",
        "i am a bot without feelings",
        "i am not a human",
        "i am an ai",
    ],
    "cannot": [
        "i cannot draw",
        "i cannot hear it",
        "i cannot create an image",
        "i cannot provide current prices",
        "my last update was in may",
        "i do not have access",
        "my knowledge ends in may",
        "i only work with text",
        "i am limited to short replies",
    ],
    "asks_back": [
        "could you tell me more",
        "please tell me more",
        "i do not see a file",
        "you have not said which",
        "i need more",
        "which one do you mean?",
        "who is she in your question?",
        "there is no list",
        "your message is empty",
        "the list is missing",
        "i do not understand your point",
        "it is not clear which team you support",
    ],
    "unknown": [
        "nobody knows it",
        "nobody can tell",
        "we may never know",
        "i have no information about it",
        "it is impossible to predict",
        "it cannot be foreseen",
        "there is no consensus",
        "that was never recorded",
        "its origin is unknown",
        "experts disagree",
        "i do not know when it ends",
        "i have no idea",
        "no other records survive",
    ],
}


def test_every_pattern_has_a_sentence_of_its_own():
    every = [(kind, k, p) for kind, of in patterns().items() for k, p in enumerate(of)]
    assert {kind: len(of) for kind, of in ALONE.items()} == {k: len(of) for k, of in patterns().items()}
    for kind, sentences in ALONE.items():
        for k, sentence in enumerate(sentences):
            assert judge.spelled_out(sentence) == sentence
            found = [(of, i) for of, i, p in every if re.search(p, sentence)]
            assert found == [(kind, k)], sentence


TEMPLATES = {  # of each list the kind that it tells, and a sentence that its phrases complete
    "machine": ("not_a_person", "as a {}, i was not there"),
    "lack": ("not_a_person", "i {} feelings"),
    "voice": ("not_a_person", "i do not {} emotions"),
    "inner": ("not_a_person", "i have no {}"),
    "never": ("not_a_person", "as an ai, i {} wed"),
    "but": ("not_a_person", "as an ai, i do not {} it"),
    "live": ("not_a_person", "as an ai, i cannot {}"),
    "person": ("not_a_person", "i am not {}"),
    "unable": ("not_a_person", "i {} express emotions"),
    "sense": ("cannot", "i cannot {} it"),
    "act": ("cannot", "i cannot {}"),
    "make": ("cannot", "i cannot {} an image"),
    "medium": ("cannot", "i cannot create a {}"),
    "now": ("cannot", "i cannot provide {}"),
    "access": ("cannot", "i have no {}"),
    "until": ("cannot", "my knowledge {}"),
    "ask": ("asks_back", "please {}"),
    "thing": ("asks_back", "i do not see {}"),
    "told": ("asks_back", "you have not {}"),
    "need": ("asks_back", "i need {}"),
    "mean": ("asks_back", "which do you {}?"),
    "cut": ("asks_back", "your message {}"),
    "gone": ("asks_back", "the list {}"),
    "nobody": ("unknown", "{} knows"),
    "know": ("unknown", "nobody {}"),
    "know_it": ("unknown", "i do not {} when"),
    "may": ("unknown", "nobody {} tell"),
    "find_out": ("unknown", "it is impossible to {}"),
    "agreed": ("unknown", "there is no {}"),
    "open": ("unknown", "it is {}"),
    "noted": ("unknown", "it was never {}"),
    "experts": ("unknown", "{} differ"),
    "differ": ("unknown", "experts {}"),
    "anyway": ("unknown", "nobody knows, but {} like it"),
}


@pytest.mark.parametrize("which, phrase", [(which, p) for which, of in PHRASES.items() for p in of])
def test_every_phrase_decides_a_sentence(which, phrase):
    """Without it no pattern of its kind, or for what excepts one, finds in its sentence what was found."""
    kind, template = TEMPLATES[which]
    sentence = template.format(phrase.replace("\\b", ""))
    found = lambda of: any(re.search(p, sentence) for p in patterns(of)[kind])
    without = PHRASES | {which: tuple(p for p in PHRASES[which] if p != phrase)}
    assert judge.spelled_out(sentence) == sentence
    assert found(PHRASES) != found(without), sentence


@pytest.mark.parametrize(
    "text, kind",
    [
        ("I'm sorry, but as an AI I cannot provide personal opinions.", "not_a_person"),
        ("As a text-based AI, I cannot draw.", "cannot"),
        ("As an AI, I don't have access to it.", "cannot"),
        ("I don't have the ability to predict the future.", "unknown"),
        ("I don't have the ability to feel pain.", "not_a_person"),
        ("I can't see any file. Please upload it.", "asks_back"),
        ("Sure! I'd be happy to help. Which colors does it have?", "asks_back"),
        ("Hello! How are you?", "answer"),
        ("Hello! How can I assist you?", "answer"),
        ("Which bird sings at night? The nightingale.", "answer"),  # its question is answered
        ("Nobody knows, but some say it was a Tuesday.", "answer"),  # and then answers
        ("Nobody knows whether it was a Tuesday.", "unknown"),
        ("As of my last update in 2021, the mayor was Ms. Holm.", "answer"),
        ("As an AI engineer, I have never met a robot.", "answer"),
        ("Dear Ms. Okoro, I cannot open the file.", "answer"),
        ('He said, "I cannot open the file."', "answer"),
        ("The file is open. I cannot see what it says.", "answer"),  # what counts is the opening
    ],
)
def test_what_divides_the_kinds(text, kind):
    assert judge_noncompliance(text) == kind


def test_what_is_no_text_fails_as_the_judge_does():
    for bad in (None, 3, ["I cannot"]):
        with pytest.raises((AttributeError, TypeCheckError)) as here:
            judge_noncompliance(bad)
        with pytest.raises((AttributeError, TypeCheckError)) as there:
            judge.judge(bad)
        assert here.type is there.type
