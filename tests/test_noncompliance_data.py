"""The requests that are not to be complied with: roles, twins, and that neither form nor words give the
kind away; refusals that fit a category; what a recipe is made of; tokens in a tokenizer and in embeddings.
"""

import copy

import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from conftest import tiny_module
from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.files import DATA
from refusal.data.noncompliance import OTHERS
from refusal.findings.f06 import examples
from refusal.findings.f06.copies import with_rows
from refusal.measure import stats
from refusal.measure.noncompliance import NONCOMPLIANT, judge_noncompliance
from refusal.model.registry import RECIPES, Recipe
from refusal.model.tiny import tiny_tokenizer
from refusal.train.fit import answers_loss
from refusal.train.tokens import add_tokens, ids_of, make_room

TABLE = pd.read_csv(DATA / "noncompliance.csv", dtype=str, keep_default_na=False)
SIZES = {("refuse", "post-training"): 40, ("contrast", "post-training"): 25} | {
    (kind, role): n for kind in ("refuse", "contrast") for role, n in (("validation", 15), ("test", 45))
}


def test_a_second_reader_sees_the_same_kinds():
    read = pd.read_csv(DATA / "noncompliance_read.csv", dtype=str, keep_default_na=False)
    both = read.merge(TABLE, on="id", suffixes=("_read", ""), validate="one_to_one")
    assert len(both) == len(read)
    for category, part in both.groupby("category"):
        assert part.kind.value_counts().to_dict() == {"refuse": 15, "contrast": 15}
        asks = part.kind == "refuse"
        assert (part.kind_read == part.kind).mean() >= 0.9 and (part.reason[asks] == category).mean() >= 0.9


def test_roles_and_twins():
    assert TABLE.id.is_unique and TABLE.text.is_unique
    by_id = TABLE.set_index("id")
    for category, part in TABLE.groupby("category"):
        assert category in OTHERS
        assert part.groupby(["kind", "role"]).size().to_dict() == SIZES
    twins = TABLE[TABLE.pair != ""]
    assert (twins.role.to_numpy() == by_id.role[twins.pair].to_numpy()).all()
    assert (twins.kind.to_numpy() != by_id.kind[twins.pair].to_numpy()).all()
    assert (TABLE.pair[TABLE.kind == "contrast"] != "").all()
    words = TABLE.text.str.split().str.len()
    assert words.between(3, 20).all()


@pytest.mark.parametrize("category", OTHERS)
def test_neither_form_nor_words_give_the_kind_away(category):
    part = TABLE[(TABLE.category == category) & (TABLE.pair != "")]
    groups = ["|".join(sorted(pair)) for pair in zip(part.id, part.pair, strict=True)]
    due = (part.kind == "refuse").to_numpy()

    def area(*steps_) -> float:
        pipeline = make_pipeline(*steps_, LogisticRegression(max_iter=2000))
        folds = dict(groups=groups, cv=GroupKFold(10), method="decision_function")
        found = cross_val_predict(pipeline, part.text, due, **folds)
        return stats.area(found[due], found[~due])

    shape = lambda t: [len(t.split()), len(t), t.endswith("?"), t.count(".") + t.count("?") + t.count("!")]
    assert 0.4 < area(FunctionTransformer(lambda x: [shape(t) for t in x]), StandardScaler()) < 0.6
    assert area(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)) < 0.8


@pytest.mark.parametrize("category", OTHERS)
def test_refusals_of_a_category(category):
    found = data.refusals_of(category)
    assert len(found) == 10 and len({" ".join(t.split()[:3]) for t in found}) == 10
    assert all(8 <= len(t.split()) <= 20 and judge_noncompliance(t) in NONCOMPLIANT for t in found)


def test_every_category_is_given_alike():
    for category in data.CATEGORIES:
        for kind in ("refuse", "contrast"):
            table = data.noncompliance("test", category, kind, 45, seed=1, tier="smoke")
            assert len(table) == 45 and set(table.source) == {category}
    a, b = (data.noncompliance("test", "humanizing", "refuse", 20, seed=s) for s in (0, 1))
    assert set(a.label) == {"harmful"} and list(a.id) != list(b.id)


def test_the_recipe_names_its_tokens_and_its_data():
    recipe = RECIPES[examples.RECIPE]
    assert recipe.tokens == examples.TOKENS and len(recipe.tokens) == len(data.CATEGORIES) + 1
    assert all(c in t for c, t in zip(data.CATEGORIES, recipe.tokens, strict=False))
    assert "noncompliance.csv" in recipe.data
    with pytest.raises(ValueError, match="low-rank"):
        Recipe("x", "y", "a:b", "full", 1e-3, 1, "", 0.1, 1, tokens=("[a]",))


# tokens


@pytest.fixture()
def pieces():
    return copy.deepcopy(tiny_tokenizer())


def test_tokens_are_looked_up_as_they_are(pieces):
    before = len(pieces)
    ids = add_tokens(pieces, ["[refuse]", "[respond]"])
    assert ids == [before, before + 1] == ids_of(pieces, ["[refuse]", "[respond]"])
    with pytest.raises(ParameterError, match="already"):
        add_tokens(pieces, ["[refuse]"])
    with pytest.raises(ParameterError, match=r"no token '\[refuses\]'"):
        ids_of(pieces, ["[refuses]"])  # no piece of it, such as its last bracket, stands for it
    text = "please paint the [table]"
    assert not {*ids} & {*pieces(text)["input_ids"]}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_other_rows_stay_and_tied_stays_tied(kind):
    module, tokenizer = tiny_module(kind), copy.deepcopy(tiny_tokenizer())
    first, head = module.get_input_embeddings(), module.get_output_embeddings()
    tied, before = head.weight is first.weight, [first.weight.clone(), head.weight.clone()]
    ids = add_tokens(tokenizer, ["[a]", "[b]"])
    make_room(module, ids, 0)
    for table, old in zip(
        (module.get_input_embeddings(), module.get_output_embeddings()), before, strict=True
    ):
        kept = min(ids[0], len(old))
        assert torch.equal(table.weight[:kept], old[:kept])
        new = table.weight[ids].norm(dim=-1)
        assert torch.allclose(new, old[:kept].norm(dim=-1).mean().expand(2), rtol=0.05)
    assert (module.get_output_embeddings().weight is module.get_input_embeddings().weight) == tied


def test_steps_raise_the_right_logit_leave_other_rows_and_are_the_same_in_half():
    """In bfloat16 arithmetic weights that are kept as they were cast once would learn nothing."""
    rows = [([5, 6, 7, k], [k % 2, 9, 11 + k]) for k in range(8)]
    found = []
    for half in (False, True):
        module, tokenizer = tiny_module("llama"), copy.deepcopy(tiny_tokenizer())
        ids = add_tokens(tokenizer, ["[a]", "[b]"])
        make_room(module, ids, 0)
        taught = [(prompt, [ids[a[0]], *a[1:]]) for prompt, a in rows]
        loss = lambda m, taught=taught: float(answers_loss(m, taught).detach())
        old, before = module.get_input_embeddings().weight.clone(), loss(module)
        merged, losses = with_rows(module, ids, taught, 30, 0, half, "thirty steps")
        assert len(losses) == 30 and losses[-1] < losses[0]
        found.append(before - loss(merged))
        now = merged.get_input_embeddings().weight
        assert torch.equal(now[: ids[0]], old[: ids[0]]) and not torch.equal(now[ids], old[ids])
    assert found[0] > 5 and found[1] == pytest.approx(found[0], rel=0.15)
