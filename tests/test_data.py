"""The prompt table: splits, duplicates, matched form; drawing from it; bad requests. The other written files:
counts, forms, no near-duplicates.
"""

import difflib
import itertools
import json
import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.files import DATA, ROOT
from refusal.model.fetch import fetch
from refusal.model.registry import DATASETS


@pytest.fixture(scope="module")
def rows():
    return data.all_prompts()


def words(text: str) -> set[str]:
    common = (
        "a an the of to and in for on with is are was my i how do can what that this it or from be by me as "
        "at your you".split()
    )
    common += "write give describe explain list".split()
    return set(re.findall(r"[a-z']+", text.lower())) - set(common)


def overlap(a: str, b: str) -> float:
    """Jaccard of two texts' words, function words left out."""
    x, y = words(a), words(b)
    return len(x & y) / max(1, len(x | y))


def test_every_prompt_has_one_role_a_source_and_a_text(rows):
    assert rows.id.is_unique and set(rows.role) == set(data.ROLES) and set(rows.source) == set(data.SOURCES)
    assert (rows.text.str.len() > 5).all() and set(rows.label) == {"harmful", "harmless"}
    assert (
        (rows.label == "harmful") == rows.source.isin(["harmbench", "strongreject", "do_not_answer"])
    ).all()


def test_no_harmful_text_is_in_the_repository():
    own = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False)
    assert (own.text[own.label == "harmful"] == "").all() and (own.text[own.label == "harmless"] != "").all()


def test_no_harmful_text_is_in_any_committed_file(rows):
    """Of the benchmarks, the past-tense rewrites and the collected templates: texts of at least five words,
    whatever their case and spacing.
    """
    plain = lambda text: " ".join(text.lower().split())
    texts = [
        *rows.text[rows.label == "harmful"],
        *fetch(DATASETS["past_tense"]).read_text(encoding="utf-8").splitlines(),
    ]
    texts += json.loads(fetch(DATASETS["jailbreak_templates"]).read_text(encoding="utf-8"))
    texts = {plain(t) for t in texts if len(t.split()) >= 5}
    names = subprocess.run(
        ["git", "ls-files", "*.csv", "*.txt", "*.md", "*.py", "*.ipynb", "*.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    found = {
        name
        for name in names
        if (own := plain((ROOT / name).read_text(encoding="utf-8"))) and any(t in own for t in texts)
    }
    assert len(texts) > 1000 and "lib/refusal/data/prompts.csv" in names and not found


def test_there_are_as_many_as_promised(rows):
    """The tables of data/README.md count what is there."""
    counts = rows.source.value_counts()
    statements = data.statements(data.STATEMENT_SETS + data.NEGATED_SETS).set.value_counts()
    told = {
        name: int(n)
        for name, n in re.findall(
            r"^\| `(\w+)` \| (\d+) \|", (DATA / "README.md").read_text(encoding="utf-8"), re.M
        )
    }
    assert told == dict(counts) | dict(statements) and counts["cannot"] == 60
    assert (
        counts["harmless"] >= 400
        and counts["pseudo_harmful"] >= 150
        and counts["pseudo_twin"] == counts["pseudo_harmful"]
    )


def test_twins_share_role_and_length(rows):
    by_id = rows.set_index("id")
    for pseudo in rows[rows.source == "pseudo_harmful"].itertuples():
        twin = by_id.loc[pseudo.pair]
        assert (
            twin.role == pseudo.role
            and abs(len(twin.text.split()) - len(pseudo.text.split())) <= 2
            and twin.text != pseudo.text
        )


def test_no_near_duplicates(rows):
    """Word overlap (Jaccard, without function words) of any two prompts that are not twins of each other
    stays below 0.5.
    """
    bags = [(r.id, r.pair, words(r.text)) for r in rows.itertuples()]
    close = [
        (a, b)
        for (a, pair, x), (b, _, y) in itertools.combinations(bags, 2)
        if pair != b and x | y and len(x & y) / len(x | y) > 0.5
    ]
    assert not close, close[:5]


def test_length_and_form_do_not_tell_harmful_from_harmless(rows):
    rows = rows[rows.source.isin(["harmbench", "strongreject", "harmless"])]
    first = rows.text.str.split().str[0]
    common = first.value_counts().index[:20]
    form = np.column_stack(
        [
            np.log(rows.text.str.split().str.len()),
            rows.text.str.endswith("?"),
            rows.text.str.contains(r"\. "),
            *[first == w for w in common],
        ]
    )
    guess = cross_val_predict(
        LogisticRegression(max_iter=2000),
        form.astype(float),
        rows.label == "harmful",
        cv=10,
        method="predict_proba",
    )[:, 1]
    assert roc_auc_score(rows.label == "harmful", guess) < 0.6


def test_drawing_is_seeded_and_keeps_the_sources_in_proportion():
    a, b = (data.prompts("test", label="harmful", n=60, seed=3) for _ in range(2))
    assert a.equals(b) and not a.equals(data.prompts("test", label="harmful", n=60, seed=4))
    whole = data.prompts("test", label="harmful")
    assert abs((a.source == "harmbench").mean() - (whole.source == "harmbench").mean()) < 0.05
    assert set(a.id) < set(whole.id)


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"role": "train"}, "unknown role 'train'"),
        ({"role": "test", "source": "harmbnch"}, "harmbench"),
        ({"role": "test", "n": 0}, "choose from 1"),
        ({"role": "test", "n": -3}, "choose from 1"),
        ({"role": "test", "source": "harmless", "n": 10_000}, "there are"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(ParameterError, match=message):
        data.prompts(**request_)


def test_neutral_text_is_neutral_in_size():
    assert len(data.neutral_text()) >= 24 and all(50 < len(p.split()) < 120 for p in data.neutral_text())


def test_questions_that_nobody_can_answer_are_drawn_only_by_name(monkeypatch):
    """Every other draw is what it would be if they were not in the table."""
    table = data.all_prompts()
    own = data.prompts("test", source="cannot")
    assert (
        len(own) == 60 and set(own.label) == {"harmless"} and own.text.str.match(r"[A-Z].*[a-z0-9]\?$").all()
    )
    requests = [
        {"role": role, "seed": seed, **which}
        for role in data.ROLES
        for seed in (0, 5)
        for which in ({}, {"label": "harmful"}, {"label": "harmless", "n": 20}, {"source": "harmless"})
    ]
    with_them = [data.prompts(**r) for r in requests]
    monkeypatch.setattr(
        "refusal.data.table.all_prompts", lambda tier: table[table.source != "cannot"].reset_index(drop=True)
    )
    for request_, drawn in zip(requests, with_them, strict=True):
        assert drawn.equals(data.prompts(**request_)) and "cannot" not in set(drawn.source)


CASE_KINDS = (
    "plain apology unable soft moralising redirect partial disclaimer_then_help disclaimer_only sympathy "
    "quotation no_access repetition markup code empty "
    "near_miss other_language"
).split()
OF_KIND = {
    "disclaimer_then_help": "disclaimed",
    "disclaimer_only": "disclaimed",
    "repetition": "degenerate",
    "markup": "degenerate",
    "empty": "empty",
}
OF_KIND |= dict.fromkeys(["plain", "apology", "unable", "soft", "moralising"], "refusal")
# the kinds that are not named here have both
OF_KIND |= dict.fromkeys(["sympathy", "quotation", "code", "near_miss", "other_language"], "answer")


def test_the_cases_of_the_judge_are_unique_and_enough_of_each_kind():
    cases = data.judge_cases()
    assert (
        list(cases.columns) == ["id", "kind", "text", "outcome"]
        and cases.id.is_unique
        and cases.text.is_unique
    )
    counts = cases.kind.value_counts()
    assert set(counts.index) == set(CASE_KINDS) and counts.min() >= 12
    assert f"holds {len(cases)} short texts of {len(counts)} kinds" in (DATA / "README.md").read_text(
        encoding="utf-8"
    )
    for kind, part in cases.groupby("kind"):
        expected = {OF_KIND[kind]} if kind in OF_KIND else {"refusal", "answer"}
        assert set(part.outcome) == expected and (part.outcome.value_counts() >= 5).all(), kind
        assert (part.id == [f"{kind}:{i:02}" for i in range(1, len(part) + 1)]).all()
    assert (cases.text.str.strip() == "").equals(cases.outcome == "empty")
    assert cases.text.str.contains("’").sum() >= 5  # generated text has both apostrophes
    assert (cases.text.str.split().str.len() <= 30).mean() > 0.9


def test_no_near_duplicates_among_the_cases():
    texts = [t for t in data.judge_cases().text if t.strip()]
    close = [
        (a, b)
        for a, b in itertools.combinations(texts, 2)
        if difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() > 0.7
    ]
    assert not close, close[:5]


def test_a_persuasion_goes_on_after_the_request():
    """At the end or in a paragraph of its own the request would be read as if nothing stood around it."""
    texts = data.persuasions()
    assert len(texts) >= 10 and all("\n" not in t for t in texts)
    for text in texts:
        assert (
            text.count("{x}") == 1
            and len(text.split("{x}")[1].split()) >= 8
            and len(text.split("{x}")[0].split()) >= 3
        ), text
    close = [(a, b) for a, b in itertools.combinations(texts, 2) if overlap(a, b) > 0.25]
    assert not close, close[:2]


def test_harmless_requests_about_the_past_are_test_prompts_in_the_published_form(rows):
    table = data.past_tense_harmless()
    assert (
        len(table) >= 60 and table.id.is_unique and table.text.is_unique and set(table.label) == {"harmless"}
    )
    assert f"{len(table)} harmless test prompts" in (DATA / "README.md").read_text(encoding="utf-8")
    originals = rows.set_index("id").loc[table.id.str.removeprefix("past_tense:")]
    assert set(originals.source) == {"harmless"} and set(originals.role) == {"test"}
    for text, original in zip(table.text, originals.text, strict=True):
        assert text.endswith("?") and text != original and overlap(text, original) > 0.1, (text, original)
    published = data.past_tense_requests(200).text
    timed = r"\bpast\b|century|\b1[89]\d\d|\bera\b|\btimes\b|early|ago\b|\bage\b|period"
    for form in (r"^(?:How|What|Which|Why)\b", r"\b(?:was|were|did)\b", timed):
        assert abs(table.text.str.contains(form).mean() - published.str.contains(form).mean()) < 0.15, form
    assert abs(table.text.str.split().str.len().median() - published.str.split().str.len().median()) <= 2
    close = [(a, b) for a, b in itertools.combinations(table.text, 2) if overlap(a, b) > 0.5]
    assert not close, close[:5]


def test_harmless_requests_about_the_past_are_drawn_by_seed():
    a, b = (data.past_tense_harmless(20, seed=3) for _ in range(2))
    assert a.equals(b) and len(a) == 20 and not a.equals(data.past_tense_harmless(20, seed=4))
    assert set(data.past_tense_harmless().id) == set(data.past_tense_harmless(seed=4).id)
    for n in (0, -1, 10_000):
        with pytest.raises(ParameterError, match="there are"):
            data.past_tense_harmless(n)
