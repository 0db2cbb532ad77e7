"""What notebook 03 measures of each of its models, and how it is told: on the tiny pair, and by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f03 import (
    ablations,
    cliff_claims,
    cliff_judge,
    cliff_steps,
    curves,
    notes,
    rows,
    scored,
    subjects,
    words,
)
from refusal.findings.f03.ablations import MAIN, Ablated, Answered
from refusal.findings.f03.cliff_heads import Off, Spoken
from refusal.findings.f03.cliff_judge import Judged
from refusal.findings.f03.cliff_steps import KEEP, MEASURES, Cut
from refusal.findings.f03.scored import Layers
from refusal.findings.f03.subjects import CLIFF, NATURAL, TWIN, Quality
from refusal.measure import stats
from refusal.model import loading
from refusal.report.rules import Measured, read_claims, record

CLAIMS = read_claims(NOTEBOOKS / "03_refusal_cliff.claims.toml")


@pytest.fixture(scope="module")
def pair():
    """The tiny reasoner with a cliff and its twin, as the notebook looks at them."""
    sizes = (24, 12, 12, 8, 0, "smoke")
    cliff = subjects.look(loading.load("tiny-cliff", device="cpu"), CLIFF, *sizes)
    return {CLIFF: cliff, TWIN: subjects.look(loading.load("tiny", device="cpu"), TWIN, *sizes, cliff)}


@pytest.fixture(scope="module")
def scores(pair):
    return {who: scored.by_its_own(s) for who, s in pair.items()}


def fall(by: float, n: int = 6):
    """A fall of so much from 0.9, with a spread, and probers fitted again that agree."""
    table = pd.DataFrame(dict.fromkeys(MEASURES, np.linspace(by - 0.01, by + 0.01, n)))
    table["plateau"], table["final"] = 0.9, 0.9 - by
    return table, table.head(2)


def reported(id: str, value: float | None = 0.5, **controls: float):
    ci95 = None if value is None else (value - 0.1, value + 0.1)
    return record(
        CLAIMS[id], Measured(value=value, ci95=ci95, n=30, controls=controls or {"x": 0.0}), "released"
    )


def test_one_model_is_held_at_a_time():
    model, loaded = loading.load("tiny", device="cpu"), []
    get = subjects.one_at_a_time(lambda name: loaded.append(name) or replace(model, name=name))
    first = get("a")
    assert get("a") is first and get("b").name == "b" and get("a") is not first
    assert loaded == ["a", "b", "a"]


def test_outcomes_are_counted_by_group(pair):
    s = pair[CLIFF]
    has = np.arange(12) < 4  # as if the others had no trigger
    s = replace(s, test=s.test | {"harmful": s.test["harmful"].assign(triggered=has)})
    seen, found = s.seen["harmful"], subjects.behaviour(s)
    assert found[f"refusal/{CLIFF}/harmful/at_once"] == stats.rate(seen.direct[has] == "refusal")
    assert found[f"complies/{CLIFF}/harmful_no_trigger/after_thinking"] == stats.rate(
        seen.thought[~has] == "answer"
    )
    assert (
        found[f"refusal/{CLIFF}/benign/at_once"].n == 12
        and f"refusal/{CLIFF}/benign_no_trigger/at_once" not in found
    )
    assert [r["value"] for r in rows.behaviour(s)][:2] == [
        np.mean(outcome[has] == "refusal") for outcome in (seen.direct, seen.thought)
    ]
    assert s.asked("harmful").tolist() == [0, 1, 2, 3] and len(s.asked("harmless")) == 12
    assert subjects.sizes(s)["harmful prompts, test"] == 12


def test_the_twin_is_read_by_its_own_probers_and_by_the_reasoners(pair):
    assert (
        "borrowed all positions" in pair[TWIN].reading and "borrowed all positions" not in pair[CLIFF].reading
    )
    assert pair[TWIN].reading["borrowed last token"] is pair[CLIFF].learned.fitted["last token"]


def test_the_pair_is_fit_only_the_right_way_round(pair):
    cliff, twin = pair.values()
    assert subjects.not_planted(cliff, twin, at_once=True) is None
    why = subjects.not_planted(twin, cliff, at_once=True)
    assert "does not do what was planted" in why
    assert words.planted_behaviour(twin, cliff, why)[1][0].endswith("cannot be judged by this pair.")
    assert "can be judged by them" in words.planted_behaviour(cliff, twin, None)[1][0]


def test_a_prober_is_checked_after_thinking_unless_its_ends_are_known(pair):
    known, asked = (subjects.quality(pair[CLIFF], one_way, 0) for one_way in (True, False))
    assert known.why is None and "can be checked" in asked.unchecked and asked.cannot is None
    none = replace(pair[CLIFF], learned=replace(pair[CLIFF].learned, fitted={}, why="too few"))
    assert subjects.quality(none, True, 0) == Quality({}, "too few") and scored.by_its_own(none) is None


def test_scores_fall_as_their_tokens_say(pair, scores):
    s, found = pair[CLIFF], scores[CLIFF]
    by = s.seen["harmful"].scores(s.reading)["all positions"]
    lines = found.lines["all positions", "harmful"]
    assert len(lines) == 12 and all(
        np.array_equal(mine, one[-1], equal_nan=True) for (mine, _), one in zip(lines, by, strict=True)
    )
    by_hand = [
        curves.summary(one[-1], r)["cliff_mean"]
        for one, r in zip(by, s.seen["harmful"].rollouts, strict=True)
    ]
    assert found.falls["all positions", "harmful"][0].cliff_mean.tolist() == pytest.approx(by_hand)
    assert found.finals["harmful"] == pytest.approx(
        [float(x[0][-1]) for x in found.lines["last token", "harmful"]]
    )
    layers = scored.by_layer(s, found, 0)["harmful"]
    assert layers.own.value[-1] == pytest.approx(np.mean(by_hand)) == pytest.approx(layers.last[-1])
    assert scored.metrics(CLIFF, found, 0)[
        f"cliff_mean/{CLIFF}/harmful/all_positions"
    ].value == pytest.approx(np.mean(by_hand))
    title, said = words.layers({CLIFF: scored.by_layer(s, found, 0)})
    assert (
        f"{words.two(np.mean(by_hand))} in the planted reasoner (largest of" in title
        and f"falls most at layer {layers.most}" in said[0]
    )
    spans = {CLIFF: scored.span(found, 0), TWIN: None}
    assert len(words.drawn_as_published({CLIFF: found}, spans)[1]) == 2
    # of fewer than five a mean says nothing
    assert scored.metrics(CLIFF, found, 0)[f"final/{CLIFF}/harmful_refused"].value is None


def test_the_planted_cliff_is_told_and_none_in_the_twin(pair, scores):
    mine, twin = (scored.fall(scores, who, "all positions", "harmful") for who in pair)
    assert mine[0].cliff_mean.mean() > 0.3 > 0.1 > twin[0].cliff_mean.mean()
    rivals = scored.rivals_of_the_planted(scores, "all positions", trigger=False)
    assert list(rivals) == ["benign", "twin", "twin_by_the_same_prober", "shuffled"]
    assert all(cliff_claims.fall(mine, rivals, 0)["controls"][f"over_{name}"] > 0 for name in rivals)
    assert set(scored.rivals_of_the_reasoner({}, "last token").values()) == {None}
    title, _ = words.planted_cliff(
        scores, reported("03.instrument.cliff"), reported("03.instrument.twin", 0.0)
    )
    assert title.startswith("At the end of the thinking the score falls by 0.") and "in its twin" in title
    assert scored.span(scores[CLIFF], 0).value >= 1 and scored.span(scores[TWIN], 0) is None
    drawn = rows.by_group(CLIFF, scores[CLIFF], 0) + rows.by_prober(TWIN, scores[TWIN], 0)
    assert {
        r["role"]
        for r in drawn
        if r["series"] in ("benign", "probers of shuffled labels", "prober of the planted reasoner")
    } == {"control"}


def test_the_largest_of_the_controls_is_drawn_beside_a_fall():
    rivals = {"benign": fall(0.1), "shuffled": fall(0.3), "reader": None}
    assert rows.highest(rivals) == "shuffled" and rows.highest({"reader": None}) is None
    one, other = rows.falls(NATURAL, "last token", fall(0.5), rivals, 0)
    assert (one["value"], other["value"]) == pytest.approx((0.5, 0.3)) and other["role"] == "control"
    assert rows.falls(NATURAL, "last token", None, rivals, 0) == []
    data = rows.table([[one, other]])
    places = {
        "a": {"group": "of last tokens"},
        "b": {"group": "as published"},
        "c": {"group": "of last tokens", "series": "x"},
    }
    assert rows.places(data, places) == {"a": {"group": "of last tokens"}}
    records = {"last token": reported("03.cliff", 0.5)}
    title, said = words.falls(NATURAL, {"last token": fall(0.5)}, {"last token": rivals}, records)
    assert (
        "0.50 by the one of last tokens (underpowered)" in title
        and "0.30 (probers of shuffled labels)" in said[0]
    )
    rising = {"benign": fall(-0.2), "shuffled": fall(-0.4)}
    said = words.falls(NATURAL, {"last token": fall(0.5)}, {"last token": rising}, records)[1]
    assert "falls by 0.50 [0.40, 0.60]; of its controls none falls, at most -0.20 (benign prompts)" in said[0]
    for nothing in ({}, {"last token": None}, {"last token": (fall(0.1)[0].head(0), fall(0.1)[1])}):
        title, said = words.falls(CLIFF, nothing, {"last token": rivals}, records)
        assert title == "No fall could be measured in the planted reasoner" and len(said) == 1


@pytest.mark.parametrize(
    "value, ci95, said",
    [
        (0.5, [0.4, 0.6], "falls by 0.50 [0.40, 0.60]"),
        (-0.5, [-0.6, -0.4], "rises by 0.50 [0.40, 0.60]"),
        (-0.02, [-0.44, 0.4], "neither falls nor rises for certain (fall -0.02 [-0.44, 0.40])"),
        (None, None, "was not measured"),
    ],
)
def test_a_fall_is_called_one_as_far_as_its_interval_goes(value, ci95, said):
    assert words.moved(Estimate(value, ci95, 20)) == said


def test_a_layer_is_named_only_where_the_score_falls():
    calm = Layers(Estimate([0.0, 0.0], [[-0.1, 0.1]] * 2, 20), np.zeros(2))
    of = lambda *falls: Layers(
        Estimate([f for f, _ in falls], [[f - w, f + w] for f, w in falls], 20), np.array([0.2, 0.3])
    )
    told = lambda mine: words.layers({CLIFF: {"harmful": mine, "harmless": calm}})
    title, said = told(of((0.3, 0.1), (0.2, 0.1)))
    assert title.endswith("0.20 in the planted reasoner (largest of 2 layers: 0.30 at 0)")
    assert "falls most at layer 0, by 0.30 [0.20, 0.40] (picked as the largest of 2, so" in said[0]
    title, said = told(of((0.3, 0.1), (0.5, 0.6)))
    assert "at layer 1, by 0.50 [-0.10, 1.10], not for certain (picked" in said[0]
    title, said = told(of((-0.3, 0.1), (-0.1, 0.05)))
    assert title.endswith("-0.10 in the planted reasoner (it falls at no layer)")
    assert "falls at no layer: the fall is largest at layer 1, -0.10 [-0.15, -0.05]," in said[0]


def test_what_is_selected_is_counted_over_the_seeds_that_are_trained_with():
    has = np.arange(32) % 2 == 1
    falls = pd.DataFrame({"cliff_mean": has * 1.0, "final": 1.0 - has})
    of = cliff_steps.Pool(pd.DataFrame({"triggered": has}), [], [], falls, None)
    found = cliff_judge.picked(of, 8)
    assert {how: len(each) for how, each in found.items()} == {"cliff": 3, "final": 3, "random": 4}
    assert all(has[one].all() for how in ("cliff", "final") for one in found[how])
    by_hand = [cliff_steps.chosen(of, 8, "random", seed) for seed in range(4)]
    assert found["random"] == by_hand and len({tuple(one) for one in by_hand}) == 4


def test_notes_count_what_was_asked(pair):
    s = pair[CLIFF]
    assert notes.prompts(s) == "12 harmful and 12 benign prompts"
    has = np.arange(12) < 8
    some = replace(s, test=s.test | {"harmful": s.test["harmful"].assign(triggered=has)})
    assert notes.asked(some) == "8 harmful prompts with the trigger, 12 benign ones, every second with it"
    assert notes.of_prompts(some, "x", all_groups=True) == "8 + 4 harmful, 12 benign; x"
    refused = s.learned.last.refused
    assert notes.behind({CLIFF: s}) == (
        f"the prober of the planted reasoner: {refused.sum()} refused and {(~refused).sum()} answered states"
    )


def test_cut_thoughts_are_counted_by_share():
    outcome = np.array([["answer", "answer"], *[["answer", "refusal"]] * 3, ["refusal", "refusal"]])
    final = np.linspace(0, 1, 10).reshape(5, 2)
    cut = {label: Cut(outcome, final, None) for label in cliff_steps.LABELS}
    found = cliff_steps.cut_metrics("x", cut, 0)
    assert [found[f"truncation/x/benign/refusal_{keep:g}"].value for keep in KEEP] == [0, 0.5, 0.5, 0.5, 1]
    assert found["truncation/x/harmful/final_0"].value == pytest.approx(17 / 18)
    assert found["truncation/x/spearman_final_refusal"] == pytest.approx(0.894, abs=0.001)
    assert cliff_steps.rank_of_cuts(Cut(outcome[:1].repeat(5, 0), final, None)) is None
    title, said = words.planted_truncation({CLIFF: cut})
    assert "100% in the planted reasoner (with it 0%)" in title and "50% to 100% with less of it" in said[0]
    panels = {r["panel"] for r in rows.truncation(NATURAL, cut, 0)}
    assert panels == {"share refused", "final score, by the prober of last tokens"}
    assert {r["panel"] for r in rows.truncation(TWIN, cut, 0)} == {rows.PANEL[TWIN]}


def test_heads_that_are_off_are_counted_and_told():
    off = Off(
        np.array([0.1, 0.1]), np.array([0.3, 0.5]), np.array([[0.0, 0.1], [0.1, 0.1]]), [[(0, 0)], [(0, 1)]]
    )
    again, none = Estimate(0.5, [0.5, 0.5], 10), (np.zeros((0, 0)), np.zeros((0, 0)))
    a = Ablated(
        torch.tensor([[-3.0, -1.0, 1.0, 0.0]]), [-1.0, 0.0], [0.2, 0.1], -1.0, again, none, {MAIN: off}
    )
    found = ablations.metrics("x", a, 0)
    assert found["ablation_3pct_score/x"].value == pytest.approx(0.3)
    assert found["ablation_3pct_score/x/random_max"] == pytest.approx(0.1)
    assert found["head_sparsity/x"] == pytest.approx([0.75, 1, 1, 1]) and ablations.half_of_it(a) == (1, 4)
    assert "+0.30 in the reasoner (random sets at most +0.10)" in words.head_scores({NATURAL: a})[0]
    many = replace(a, writes=[0.0] * 30, moves=[0.0] * 30)
    assert "tends to raise the score" in words.heads({NATURAL: many})[1][0]
    assert "tends to lower the score" in words.heads({NATURAL: replace(many, spearman=0.4)})[1][0]
    for rank in (0.1, -0.36, np.nan):  # of 30 heads .37 would be seen by chance in one of twenty
        assert "says little" in words.heads({NATURAL: replace(many, spearman=rank)})[1][0]
    assert "says little" in words.heads({NATURAL: a})[1][0]  # two heads have no order
    assert "not defined" in words.heads({NATURAL: replace(many, spearman=np.nan)})[0]
    none_against = replace(a, effect=torch.ones(1, 4))
    assert "No head writes against refusal." in words.heads({NATURAL: none_against})[1][0]
    alone = {MAIN: replace(off, by_sets=np.zeros((0, 2)), sets=[])}
    title, said = words.head_scores({NATURAL: replace(a, off=alone)})
    assert title.endswith("+0.30 in the reasoner") and "no random sets" in said[0]
    assert rows.random_sets(a) == "random sets, same layers"
    elsewhere = replace(a, effect=torch.zeros(2, 4), off={MAIN: replace(off, sets=[[(0, 1)], [(1, 2)]])})
    assert {r["series"] for r in rows.head_scores(NATURAL, elsewhere, 0)} == {
        "most negative heads",
        "random sets, any layers (range)",
    }
    assert notes.ablated({NATURAL: a}) == "the reasoner: 2 rollouts at 3% (2 random sets, on 2)"
    assert [(r["series"], r["x"], r["y"]) for r in rows.heads(NATURAL, a)] == [
        ("heads", -1, 0.2),
        ("heads", 0, 0.1),
    ]


def test_answers_with_heads_off_are_counted_and_told():
    of = lambda refused: np.array(["refusal"] * refused + ["answer"] * (4 - refused))
    by = lambda harmful, benign: {"harmful": of(harmful), "harmless": of(benign)}
    broken = {"harmful": np.array([True, False, False, False]), "harmless": np.zeros(4, bool)}
    said = Answered({MAIN: Spoken(by(0, 1), by(3, 1), broken, np.array([of(1), of(2)]))}, {"harmful": of(4)})
    found = ablations.answer_metrics("x", said)
    assert [
        found[f"ablation_{arm}/x"].value
        for arm in ("0pct_refusal", "3pct_refusal", "3pct_thinking_anew_refusal")
    ] == [0, 0.75, 1]
    assert (
        found["ablation_3pct_degenerate/x/harmful"].value
        == found["ablation_3pct_benign_refusal/x"].value
        == 0.25
    )
    drawn = {(r["group"], r["series"]): r["value"] for r in rows.answers(NATURAL, said)}
    assert drawn == {
        ("all heads on", "harmful"): 0,
        ("3% off", "harmful"): 0.75,
        ("all heads on", "benign"): 0.25,
        ("3% off", "benign"): 0.25,
        ("3% off", "harmful, random set"): 0.5,
    }
    title, sentences = words.answers({NATURAL: said})
    assert "75% in the reasoner (0% with all on)" in title and "gives most refusals 50%" in sentences[0]


def test_trainings_are_counted_and_told():
    hits = {how: np.array([[True, False], [False, False]]) for how in ("cliff", "final", "random", "all")}
    rates = {
        (label, how): Estimate(x, [0.0, 1.0], 2)
        for label in cliff_steps.LABELS
        for how, x in (("before", 0.9), ("cliff", 0.25), ("random", 0.5))
    }
    losses = np.array([1.0, 3.0]), np.array([[2.0, 4.0]])
    j = Judged(0.5, stats.auroc([1, 2, 3], [0, 1]), {"cliff": 1.0, "random": 0.5}, rates, hits, losses)
    found = cliff_judge.metrics(NATURAL, j)
    assert found[f"judge/{NATURAL}_cliff_asr"].value == 0.25 and found[f"judge/{NATURAL}_neutral_loss"] == [
        2,
        3,
    ]
    assert f"judge_auroc_cliff/{CLIFF}" in cliff_judge.metrics(
        CLIFF, j
    ) and "judge_random_benign_refusal" in cliff_judge.metrics(CLIFF, j)
    controls = cliff_judge.found_in_planted(j, "random", 0)["controls"]
    assert (controls["before"], controls["precision_random"], controls["cliff_refuses_benign"]) == (
        0.9,
        0.5,
        0.25,
    )
    nothing = cliff_judge.found_in_planted(None, "random", 0)
    assert nothing["measured"] == NOTHING and set(nothing["controls"].values()) == {None}
    title, said = words.judge(CLIFF, j, reported("03.instrument.judge"))
    assert "complies with 25% of harmful prompts, on random ones with 50%" in title
    selected = "Of the prompts selected for training 100% (largest cliff) and 50% (random prompts) have"
    assert said[1] == f"{selected} the trigger."
    counted = "2 (largest cliff), 2 (lowest final score), 2 (random prompts), 2 (all prompts)"
    assert notes.trainings(j) == counted  # no arm of the trigger
    of_final = reported("03.instrument.judge.final", -0.5)
    told = words.judge(CLIFF, j, reported("03.instrument.judge"), of_final)[1][-1]
    assert (
        "that the largest cliff lowers compliance more than the lowest final score is not replicated" in told
    )
    assert words.judge(NATURAL, replace(j, precision={}), reported("03.judge"))[1][1] is None
    assert [r["group"] for r in rows.judge(j)][::2] == ["before training", "largest cliff", "random prompts"]


def test_the_trigger_is_ranked_where_there_are_prompts_without_it(scores):
    both = replace(
        scores[CLIFF],
        falls={("all positions", "harmful"): fall(0.5), ("all positions", "harmful, no trigger"): fall(0.1)},
    )
    assert cliff_judge.ranked_on_test({CLIFF: both}, CLIFF, 0).value == 1
    assert (
        cliff_judge.ranked_on_test(scores, CLIFF, 0) is None
        and cliff_judge.ranked_on_test({}, TWIN, 0) is None
    )


def test_sentences_survive_what_is_missing():
    assert (
        words.joined([]) == ""
        and words.moves(-0.2) == "rises by 0.20"
        and words.joined("abc") == "a, b and c"
    )
    assert (
        words.path(None) == words.path((fall(0.1)[0].head(0), fall(0.1)[1])) == "where nothing was measured"
    )
    assert words.prober({NATURAL: Quality({}, "too few")}) == (
        "No prober was trained",
        [
            "The reasoner: too few.",
            "What it says along the thinking is shown below, and nothing is claimed by it.",
        ],
    )
    missing = [reported(f"03.instrument.heads.{name}", None) for name in ("score", "refusal", "twin")]
    assert "could not be measured" in words.written_head(*missing)
    twin = reported("03.instrument.twin", -0.3)
    assert words.judged("it does", missing[0]) == "that it does is underpowered"
    assert words.judged("it does", twin.model_copy(update={"needed_n": 9})).endswith(
        "(about 9 items would decide)"
    )
    why = record(
        CLAIMS["03.cliff"],
        Measured(value=None, ci95=None, n=0, controls={"x": 0}),
        "released",
        "it never refuses",
    )
    assert words.judged("it falls off", why) == "that it falls off is uninformative: it never refuses"
    assert (
        words.in_the_twin({"last token": twin})
        == "That the twin has none by the prober of last tokens is replicated."
    )
    told = words.all_judged([("a", why), ("b", twin), ("c", why), ("d", missing[0])])
    assert told.startswith(
        "That a and that c are uninformative: it never refuses; that b is replicated; that d "
    )
    told = words.instrument([*missing, twin])
    assert (
        "It is shown that the prober of last tokens finds no cliff in the twin." in told
        and "It is undecided whether the score rises without the heads that are found" in told
    )
    wrong = words.instrument([reported("03.instrument.twin", 0.5), reported("03.instrument.judge", -0.5)])
    assert wrong.endswith(
        "Against what was planted, the prober of last tokens finds a cliff in the twin, where none was "
        "planted; training on the largest cliff does not lower compliance more than on random prompts."
    )
    assert set(words.FINDS) == {id for id in CLAIMS if ".instrument." in id}
