"""Notebook 01's figures and sentences, and what a truth direction moves: values against planted answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from refusal.base.estimate import Estimate
from refusal.findings.f01 import figures, intervention, pairs, truth
from refusal.report.rules import Claim, Measured, record
from refusal.trace.prompts import plain

LAYERS = list(range(1, 13))
CELLS = {"subject": slice(2, 4), "object": slice(5, 6), "last": slice(7, 8)}


def grid(shift=0.0, cells=CELLS, n=8) -> pairs.Grid:
    """The subject's second token carries all up to layer 6, the last token all after it; `shift` is added to
    the last token at layer 12.
    """
    values = np.zeros((n, 12, 8))
    values[:, :6, 3] = values[:, 6:, 7] = 1.0
    values[:, 11, 7] += shift
    return pairs.Grid(values, np.ones(n), np.zeros(n), np.arange(n), cells)


def test_kinds_of_cells_are_in_the_order_of_the_text_and_hold_each_column_once():
    found = figures.kinds(grid(), start=2)
    assert list(found) == ["subject", "other", "object", "last"]
    assert [list(columns) for columns in found.values()] == [[2, 3], [4, 6], [5], [7]]
    short = {"subject": slice(6, 7), "last": slice(7, 8)}
    assert list(figures.kinds(grid(cells=short), start=6)) == ["subject", "last"]  # no other token


def test_bands_hold_each_layer_once():
    found = figures.bands(LAYERS, 5)
    assert list(found) == ["1–3", "4–6", "7–8", "9–10", "11–12"]
    assert np.concatenate(list(found.values())).tolist() == list(range(12))
    assert list(figures.bands([1, 2, 3], 5)) == ["1", "2", "3"]


def test_a_grid_by_kind_and_band_holds_what_was_planted():
    table = figures.grid_rows(grid(), grid(shift=0.25), LAYERS, start=2)
    assert list(dict.fromkeys(table.panel)) == [
        "base",
        "post",
        "largest |post − base|",
        "control: largest |half − half| of base",
    ]
    assert table.row.iloc[0] == "11–12" and len(table) == 4 * 5 * 4
    value = table.set_index(["panel", "row", "column"]).value
    assert value["base", "1–3", "subject"] == 1 and value["base", "7–8", "subject"] == 0
    assert value["base", "11–12", "last"] == 1 and value["post", "11–12", "last"] == pytest.approx(1.125)
    assert value["largest |post − base|", "11–12", "last"] == pytest.approx(0.25)
    assert value["largest |post − base|"].sum() == pytest.approx(0.25)  # and nowhere else
    assert (value["control: largest |half − half| of base"] == 0).all()  # all pairs are alike


def test_halves_of_one_model_differ_where_pairs_do():
    one = grid()
    one.values[::2, 3, 4] = 1.0  # every other pair
    apart = figures.between_halves(one)
    assert apart[3, 4] > 0.1 and np.delete(apart.ravel(), 3 * 8 + 4).max() == 0
    alone = pairs.Grid(one.values, one.clean, one.corrupt, np.zeros(8), CELLS)
    assert figures.between_halves(alone) is None
    assert "half" not in "".join(figures.grid_rows(alone, alone, LAYERS, 2).panel)


def test_where_the_answer_passes_to_the_last_token():
    late = grid()
    late.values[:, 6:9, 7], late.values[:, 6:9, 3] = 0.2, 1.0
    never = grid()
    never.values[:, :, 3] = 2.0
    at = {"base": figures.handover(grid(), LAYERS), "post": figures.handover(late, LAYERS)}
    assert at == {"base": 7, "post": 10} and figures.handover(never, LAYERS) is None
    assert figures.passes("cities", at).endswith("at layer 7 in base and layer 10 in post")
    assert figures.passes("cities", {"base": 7, "post": 7}).endswith("at layer 7 in both models")
    assert "never" in figures.passes("cities", {"base": 7, "post": None})


@pytest.mark.parametrize(
    "values, form, words",
    [
        ([0.5, None, 1.104], ".2f", "0.50 to 1.10"),
        ([0.5, 0.501], ".2f", "0.50"),
        ([None], ".2f", "–"),
        ([1.5, -1.0], "+.1f", "-1.0 to +1.5"),
    ],
)
def test_spans_in_words(values, form, words):
    assert figures.span(values, form) == words


def test_an_interval_in_words():
    assert figures.interval(Estimate(0.995, [0.98, 1.011], 40)) == "0.99 [0.98, 1.01]"
    assert figures.interval(Estimate(None, None, 0)) == "not measurable"


def test_shares_in_words():
    rates = {"harmful": Estimate(0.775, [0.6, 0.9], 40), "pseudo_harmful": Estimate(None, None, 0)}
    assert figures.rate_words(rates) == "78% of harmful, – of pseudo-harmful"


def refusal_record(how, crossed, own=0.78, precondition=None):
    claim = Claim(
        id=f"01.refusal.forward.ablate.{how}",
        paper="arXiv:2504.02904",
        origin="paper",
        source="section 5",
        statement="Ablating does less",
        metric="ratio",
        precondition="refuses",
        rule={"below": 0.8},
    )
    controls = {
        "own_effect": own,
        "crossed_effect": crossed,
        "random_direction_high": 0.5,
        "random_direction_judged_max": 0.625,
    }
    return record(
        claim, Measured(value=0.5, ci95=[0.4, 0.6], n=32, controls=controls), "released", precondition
    )


def test_what_refusal_directions_do_is_said_with_random_ones_and_verdicts():
    by = {"as-published": refusal_record("as-published", 0.1), "matched": refusal_record("matched", 0.4)}
    assert figures.tried("ablate", by) == (
        "Ablated, post's own direction ends refusal in 78% of 32 prompts and random ones in up to 62%; "
        "base's does so in 10% (as published) and 40% (matched): replicated."
    )
    by["matched"] = refusal_record("matched", 0.4, precondition="too weak")
    assert "10% (as published, replicated) and 40% (matched, uninformative)." in figures.tried("add", by)
    by["as-published"] = refusal_record("as-published", None, precondition="too weak")
    assert "– (as published) and 40% (matched): uninformative, for the" in figures.tried("add", by)
    none = {"matched": refusal_record("matched", None, own=None, precondition="too few prompts")}
    assert figures.tried("add", none) == "Added: uninformative, too few prompts."


def test_random_vectors_have_the_norm_and_not_the_direction_of_truth():
    n, rng = 200, torch.Generator().manual_seed(0)
    label, sets = np.tile([True, False], n // 2), np.repeat(["cities", "numbers"], n // 2)
    states = torch.randn(n, 4, 16, generator=rng)
    states[torch.from_numpy(label), :, 0] += 50  # true against false, and so much larger than the rest
    like = torch.full((4, 16), 0.5)
    found = intervention.random_vectors(states, label, sets, like, [1, 3], 6, seed=2)
    assert len(found) == 6 and all(list(v) == [1, 3] for v in found)
    for v in found:
        assert float(v[3].norm()) == pytest.approx(2.0, rel=1e-4)
        assert abs(float(v[3][0])) < 1.5
    assert not torch.allclose(found[0][1], found[1][1])


def test_a_direction_added_where_the_score_is_read_is_carried_up_whole(llama):
    prompts = plain(llama, ["paint the table with the rope", "weigh the stone"])
    v, u = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    label, states = np.array([True, False]), torch.stack([v, -v])
    found = intervention.by_score(llama, prompts, states, label, v, 2, {"own": {2: v}, 0: {2: u}})
    # of true and false the projections on v are |v| and −|v|
    assert found.carried == pytest.approx({"own": 0.5, 0: float(u @ v / v.norm() ** 2 / 2)}, rel=1e-5)
    for name, effects in found.effects.items():
        np.testing.assert_allclose(effects, [found.carried[name]] * 2, rtol=1e-3, atol=1e-3)


def test_words_are_read_only_where_they_are_right(llama, monkeypatch):
    asked, label = plain(llama, ["paint the table with the rope", "weigh the stone"]), np.array([True, False])
    v, shots = torch.randn(32, generator=torch.Generator().manual_seed(1)), pd.DataFrame()
    monkeypatch.setattr(truth, "questions", lambda *a: (asked, (-2, -1)))
    monkeypatch.setattr(truth, "verdict_tokens", lambda model: (20, 30))
    clean = truth.verdict(llama)(asked, []).numpy()
    right = float(((clean > 0) == label).mean())
    monkeypatch.setattr(intervention, "SPEAKS", right)
    found = intervention.by_verdict(llama, ["a", "b"], shots, label, {"own": {1: v}})
    shift = truth.moved(truth.verdict(llama), asked, {1: v}, (-2, -1), label)
    assert found.right.value == right
    np.testing.assert_allclose(found.effects["own"], shift / (clean[0] - clean[1]), rtol=1e-5)
    assert found.normalised["own"] == pytest.approx(truth.normalised(shift, clean, label))
    monkeypatch.setattr(intervention, "SPEAKS", right + 0.01)
    quiet = intervention.by_verdict(llama, ["a", "b"], shots, label, {"own": {1: v}})
    assert quiet.effects == {} and quiet.right.value == right
