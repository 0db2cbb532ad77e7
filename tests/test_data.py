"""The prompt table: splits, duplicates, matched form; drawing from it; bad requests."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from lib import data
from lib.errors import ParameterError
from lib.files import DATA


@pytest.fixture(scope="module")
def rows():
    return data.all_prompts()


def words(text: str) -> set[str]:
    common = "a an the of to and in for on with is are was my i how do can what that this it or from be by me as at your you".split()
    common += "write give describe explain list".split()
    return set(re.findall(r"[a-z']+", text.lower())) - set(common)


def test_every_prompt_has_one_role_a_source_and_a_text(rows):
    assert rows.id.is_unique and set(rows.role) == set(data.ROLES) and set(rows.source) == set(data.SOURCES)
    assert (rows.text.str.len() > 5).all() and set(rows.label) == {"harmful", "harmless"}
    assert ((rows.label == "harmful") == rows.source.isin(["harmbench", "strongreject", "do_not_answer"])).all()


def test_no_harmful_text_is_in_the_repository():
    own = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False)
    assert (own.text[own.label == "harmful"] == "").all() and (own.text[own.label == "harmless"] != "").all()


def test_there_are_as_many_as_promised(rows):
    counts = rows.source.value_counts()
    assert counts["harmless"] >= 400 and counts["pseudo_harmful"] >= 150 and counts["pseudo_twin"] == counts["pseudo_harmful"]


def test_twins_share_role_and_length(rows):
    by_id = rows.set_index("id")
    for pseudo in rows[rows.source == "pseudo_harmful"].itertuples():
        twin = by_id.loc[pseudo.pair]
        assert twin.role == pseudo.role and abs(len(twin.text.split()) - len(pseudo.text.split())) <= 2 and twin.text != pseudo.text


def test_no_near_duplicates(rows):
    """Word overlap (Jaccard, without function words) of any two prompts that are not twins of each other stays below 0.5."""
    bags = [(r.id, r.pair, words(r.text)) for r in rows.itertuples()]
    close = [(a, b) for (a, pair, x), (b, _, y) in itertools.combinations(bags, 2) if pair != b and x | y and len(x & y) / len(x | y) > 0.5]
    assert not close, close[:5]


def test_length_and_form_do_not_tell_harmful_from_harmless(rows):
    rows = rows[rows.source.isin(["harmbench", "strongreject", "harmless"])]
    first = rows.text.str.split().str[0]
    common = first.value_counts().index[:20]
    form = np.column_stack(
        [np.log(rows.text.str.split().str.len()), rows.text.str.endswith("?"), rows.text.str.contains(r"\. "), *[first == w for w in common]]
    )
    guess = cross_val_predict(LogisticRegression(max_iter=2000), form.astype(float), rows.label == "harmful", cv=10, method="predict_proba")[:, 1]
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
