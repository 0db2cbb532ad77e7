"""Notebook 01's figures and sentences, and what a truth direction moves: values against planted answers."""

import numpy as np
import pandas as pd
import pytest
import torch

from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f01 import figures, intervention, neurons, pairs, truth
from refusal.report.rules import Claim, Measured, read_claims, record
from refusal.trace.prompts import plain

CLAIMS = read_claims(NOTEBOOKS / "01_base_vs_post_trained.claims.toml")
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
    table = figures.grid_rows(one, grid(shift=0.25), LAYERS, 2)
    said = figures.apart(table)
    most = [table[table.panel.str.contains(kind)].value.max() for kind in ("post − base", "half")]
    assert f"cell is {most[0]:.2f} between the models, and {most[1]:.2f} between halves of base's own" in said
    assert "halves" not in figures.apart(figures.grid_rows(alone, alone, LAYERS, 2))


def test_where_the_answer_passes_to_the_last_token():
    late = grid()
    late.values[:, 6:9, 7], late.values[:, 6:9, 3] = 0.2, 1.0
    never = grid()
    never.values[:, :, 3] = 2.0
    at = {"base": figures.handover(grid(), LAYERS), "post": figures.handover(late, LAYERS)}
    assert at == {"base": 7, "post": 10} and figures.handover(never, LAYERS) is None
    assert figures.passes("cities", at).endswith("at layer 7 in base and layer 10 in post")
    assert figures.passes("cities", {"base": 7, "post": 7}).endswith("at layer 7 in both models")
    one = figures.passes("cities", {"base": 7, "post": None})
    assert one.endswith("to the last token at layer 7 in base, and never in post")
    assert "last token never carries more" in figures.passes("cities", {"base": None, "post": None})


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
        "Ablated, post's own direction ends refusal in 78% of 32 prompts and random ones in up to 50% by the "
        "first token, the strongest of them in up to 62% by their answers; base's does so in 10% (as "
        "published) and 40% (matched): replicated."
    )
    by["matched"] = refusal_record("matched", 0.4, precondition="too weak")
    assert "10% (as published, replicated) and 40% (matched, uninformative)." in figures.tried("add", by)
    by["as-published"] = refusal_record("as-published", None, precondition="too weak")
    assert "– (as published) and 40% (matched): uninformative, for the" in figures.tried("add", by)
    nothing = Measured(
        value=None, ci95=None, n=0, controls={"own_effect": 0.0}
    )  # a ratio with nothing below it
    idle = record(CLAIMS["01.refusal.forward.add.matched"], nothing, "released", "too weak")
    assert "brings refusal in 0% of the prompts and random ones in up to –" in figures.tried(
        "add", {"m": idle}
    )
    none = {"matched": refusal_record("matched", None, own=None, precondition="too few prompts")}
    assert figures.tried("add", none) == "Added: uninformative, too few prompts."


def judged(id, value=None, ci95=None, why=None, **controls):
    """A record of a claim of the notebook."""
    found = Measured(
        value=value, ci95=ci95, n=64 if value is not None else 0, controls=controls or {"x": None}
    )
    return record(CLAIMS[id], found, "released", why)


def test_numbers_of_the_paper_are_of_what_is_measured_here():
    """A number is drawn beside ours; one of another quantity is words."""
    numbers = {
        id: [v for v in (c.paper_value or {}).values() if not isinstance(v, str)] for id, c in CLAIMS.items()
    }
    assert {id for id, found in numbers.items() if found} == {
        "01.truth.reads.cities",
        "01.truth.transfer.forward.cities",
        "01.truth.transfer.backward.cities",
        "01.confidence.overlap",
    }


@pytest.mark.parametrize(
    "found, words",
    [
        (Estimate(0.9, [0.85, 0.95], 40), "nearly parallel"),
        (Estimate(0.5, [0.4, 0.6], 40), "not nearly parallel"),
        (Estimate(0.5, [-0.2, 1.2], 40), "too wide to say"),
        (Estimate(0.99, [0.6, 1.3], 40), "too wide to say"),
        (NOTHING, "not measurable"),
    ],
)
def test_a_cosine_is_judged_by_its_whole_interval(found, words):
    assert figures.alike(found) == words and words in figures.cosine(found)
    template = {
        "nearly parallel": "turns the direction little",
        "not nearly parallel": "the template's doing",
        "too wide to say": "too wide",
        "not measurable": "not known",
    }
    assert template[words] in figures.of_template(found)


def test_the_signature_names_what_one_model_gives():
    gap, alone = Estimate(0.5, [0.3, 0.7], 64), Estimate(-0.1, [-0.2, 0.0], 64)
    said = figures.signature("as published", gap, alone, "replicated")
    assert "is 0.50 [0.30, 0.70], and -0.10 [-0.20, 0.00] where post is given twice: replicated." in said
    assert figures.signature("as published", gap, NOTHING, None).endswith(
        "not measurable where post is given twice."
    )
    none = figures.signature("as published", NOTHING, NOTHING, "uninformative")
    assert none.endswith("refusal is not measurable: uninformative.")


def test_what_is_read_is_said_with_the_bars_of_both_models():
    bars = {"own_base": 0.5, "own_base_ci95": [0.4, 0.6], "permuted_max": 0.625, "permuted_max_base": 0.575}
    names = ("cities", "neg_cities", "larger_than", "smaller_than", "translations")
    read = {name: judged(f"01.truth.reads.{name}", 0.25, (0.2, 0.3), **bars) for name in names}
    few = {name: read[name] for name in names[:2]}
    assert figures.right_on(few) == "cities 25%, neg_cities 25%"
    assert figures.right_on(read) == "25% of the statements of 5 sets"
    assert figures.permuted(few) == "62% in post and 57% in base"
    said = figures.not_read("cities", read["cities"])
    assert "not replicated" in said and "reach 62%" in said and "on 50% (57%)" in said
    assert "–" in figures.not_read("cities", judged("01.truth.reads.cities"))


def test_an_axis_cuts_no_interval():
    rows = [{"value": 0.5, "low": -0.4, "high": 1.7}, {"value": None, "low": None, "high": float("nan")}]
    assert figures.limits(rows, -0.2, 1.2, 0.1) == pytest.approx([-0.5, 1.8])
    assert figures.limits([], -0.2, 1.2, 0) == [-0.2, 1.2]


@pytest.mark.parametrize(
    "value, change, by_construction",
    [(1.0, 0.002, True), (1.0, 0.2, False), (0.05, 0.002, False), (1.0, None, False), (None, 0.002, False)],
)
def test_an_overlap_is_large_by_construction_only_where_it_is_large_and_the_pair_close(
    value, change, by_construction
):
    ends = None if value is None else (value, value)
    said = " ".join(figures.overlap(judged("01.confidence.overlap", value, ends, chance_high=0.111), change))
    assert ("by construction" in said) == by_construction
    assert "97.5 % of pairs of random sets" in said and "overlap by no more than 0.111" in said


def test_random_sets_of_neurons_are_drawn_from_those_that_entropy_neurons_are_chosen_from():
    w = {m: torch.randn(400, 8, generator=torch.Generator().manual_seed(0)) for m in ("base", "post")}
    flat = {m: torch.rand(400, generator=torch.Generator().manual_seed(1)) for m in w}
    high = neurons.shared(w, flat, flat, None)[1]["chance_high"]
    assert high == np.percentile(neurons.overlap_by_chance(10, 100), 97.5)
    assert high > np.percentile(neurons.overlap_by_chance(10, 400), 97.5)
    large = set(neurons.largest(w["post"]).tolist())
    drawn = neurons.random_sets(w["post"], 10, 50)
    assert len(large) == 100 and set().union(*drawn) == large and all(len(set(s)) == 10 for s in drawn)
    assert min(w["post"][sorted(large)].norm(dim=-1)) >= max(np.delete(w["post"].norm(dim=-1), sorted(large)))
    assert len(neurons.largest(w["post"][:12])) == 10


def gaps(swapped, ablated, why=None):
    values = {"swapped": swapped, "mean-ablated": ablated}
    controls = {"random_sets": 20, "random_neurons_largest": -0.009}
    return {
        how: judged(f"01.confidence.gap.{how}", v, v and (v - 0.01, v + 0.01), why, **controls)
        for how, v in values.items()
    }


def test_what_entropy_neurons_close_is_said_with_intervals_and_not_where_there_is_no_gap():
    found = gaps(0.05, -0.02)
    assert "5.00 % (swapped) and -2.00 % (mean-ablated)" in figures.gap_title(found, None)
    said = figures.gap_words(found, None)
    assert "5.00 % [4.00, 6.00] (swapped) and -2.00 % [-3.00, -1.00] (mean-ablated)" in said
    assert "below 0 would be a gap that grew" in said and "by up to 0.9 % and 0.9 %" in said
    assert said.endswith("change: replicated.") and "grew" not in figures.gap_words(gaps(0.05, 0.02), None)
    assert "closes" not in figures.gap_title(found, "none") and "nothing" in figures.gap_title(found, "none")
    assert (
        figures.gap_words(found, "no change was shown")
        == "There is nothing to explain (no change was shown)."
    )
    assert "close – of it" in figures.gap_words(gaps(None, None), None)


def test_only_claims_that_compare_are_asked_of_one_model_given_twice():
    bars = {"own_base": 0.9, "own_base_ci95": [0.8, 1], "permuted_max": 0.6, "permuted_max_base": 0.6}
    reads = judged("01.truth.reads.cities", 0.9, (0.8, 1.0), same_model=0.9, **bars)
    assert figures.one_model([reads], "2 %") == (
        "The weights moved by 2 % of their norm. No claim that compares the two models is replicated here."
    )
    same = judged("01.confidence.overlap", 0.8, (0.7, 0.9), same_model=1.0, chance_high=0.1)
    said = figures.one_model([reads, same], "2 %")
    assert "Of 1 replicated claims that compare the two models, 1 are claims of sameness" in said
    apart = judged("01.signature.paper", 0.6, (0.5, 0.7), same_model=0.5)
    other = judged("01.signature.matched", 0.6, (0.5, 0.7), same_model=0.0)
    said = figures.one_model([apart, other], "2 %")
    assert "Of 2" in said and ", 0 are claims of sameness" in said and "no difference" not in said
    assert "training need not be behind them: 01.signature.paper." in said
    assert "It would not meet these: 01.signature.matched." in said


def test_grids_of_one_subject_have_no_agreement():
    alone = pairs.Grid(grid().values, np.ones(8), np.zeros(8), np.zeros(8), CELLS)
    measured, controls = pairs.knowledge(pairs.compare_grids(alone, alone), None)
    assert measured == NOTHING and controls["halves"] is None and controls["shuffled_layers_high"] is None


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
