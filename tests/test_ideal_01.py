"""Every claim of notebook 01 can be met and can fail: ideal data and ideal counter-data, of the notebook's
default sizes, through the same functions.
"""

import dataclasses
import re

import numpy as np
import pytest
import torch

from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.data.statement_sets import STATEMENT_SETS
from refusal.findings.f01 import neurons, pairs, transfer, truth
from refusal.measure import stats
from refusal.measure.directions import centred
from refusal.report.rules import Measured, Record, decide, read_claims, record
from refusal.run.params import parameters_of

CLAIMS = read_claims(NOTEBOOKS / "01_base_vs_post_trained.claims.toml")
DEFAULT = {name: p.default for name, p in parameters_of(NOTEBOOKS / "01_base_vs_post_trained.ipynb").items()}
LAYERS, WIDTH, NEAR = 12, 16, slice(4, 11)
CHANGE = 0.002


def measured(found: tuple[Estimate, dict]) -> Measured:
    (estimate, controls) = found
    return Measured(**vars(estimate), controls=controls)


def verdict(id: str, found: tuple[Estimate, dict]) -> str:
    return decide(CLAIMS[id].rule, measured(found))[0]


def grid(upside_down=False, seed=0, scale=1.0) -> pairs.Grid:
    """A grid as of the notebook: what is peculiar to a pair is the same whatever the model, two pairs of a
    few clusters share a subject.
    """
    n, signal, cells = (
        DEFAULT["n_pairs"],
        np.zeros((30, 8)),
        {"subject": slice(1, 3), "object": slice(4, 5), "last": slice(7, 8)},
    )
    signal[2:15, 2], signal[18:, 7] = np.linspace(0.5, 1, 13), np.linspace(0.55, 1, 12)
    signal = signal[::-1] if upside_down else signal
    peculiar = 0.15 * np.random.default_rng(99).normal(size=(n, 30, 8))
    values = scale * (signal + peculiar) + 0.02 * np.random.default_rng(seed).normal(size=(n, 30, 8))
    return pairs.Grid(values, np.ones(n), np.zeros(n), np.arange(n) % (n - 5), cells)


def knowledge(good: bool) -> dict:
    a, b = grid(), grid(upside_down=not good, seed=1)
    alike, crossed = (
        pairs.knowledge(pairs.compare_grids(a, b), CHANGE),
        pairs.crossing(grid(seed=2, scale=0.95 if good else 0.4), a, CHANGE),
    )
    kinds = {"": alike, ".cross.forward": crossed, ".cross.backward": crossed}
    return {f"01.knowledge.{s}{kind}": found for s in DEFAULT["know_sets"] for kind, found in kinds.items()}


def statements():
    """label, sets and groups of as many statements as the notebook takes."""
    per_set = 2 * DEFAULT["n_statements"]
    sets, label = (
        np.repeat(STATEMENT_SETS, per_set),
        np.tile([True, False], per_set * len(STATEMENT_SETS) // 2),
    )
    return label, sets, truth.groups_of(sets, np.arange(len(sets)) // 2)


def states(axis: int, kind: str, seed: int = 0, since: int = LAYERS // 2) -> torch.Tensor:
    """States [statement, layer, d]: from layer `since` on ``truth`` differ along `axis` by label, ``match``
    by whether subject and object go together, ``noise`` by nothing.
    """
    label, sets, _ = statements()
    side = label ^ np.isin(sets, list(truth.NEGATED)) if kind == "match" else label
    # the same whatever the model
    peculiar = torch.randn(len(label), LAYERS, WIDTH, generator=torch.Generator().manual_seed(5))
    acts = peculiar + 0.2 * torch.randn(
        len(label), LAYERS, WIDTH, generator=torch.Generator().manual_seed(seed)
    )
    if kind != "noise":
        acts[side, since:, axis] += 3.0
    return acts


def reads_of(base: torch.Tensor, post: torch.Tensor, names=STATEMENT_SETS) -> dict[str, truth.Read]:
    return truth.read_sets({"base": base, "post": post}, *statements(), names)


@pytest.fixture(scope="module")
def read() -> dict[str, dict[str, truth.Read]]:
    """By what two models are like: one truth direction, two of them, no truth but whether words go together,
    nothing.
    """
    return {
        "shared": reads_of(states(0, "truth"), states(0, "truth", 1)),
        "apart": reads_of(states(0, "truth"), states(1, "truth", 1)),
        "match": reads_of(states(0, "match"), states(0, "match", 1)),
        "noise": reads_of(states(0, "noise"), states(0, "noise")),
    }


KNOWN = dict.fromkeys(STATEMENT_SETS)


@pytest.mark.parametrize("name", STATEMENT_SETS)
def test_a_set_is_read_or_not(read, name):
    assert verdict(f"01.truth.reads.{name}", read["shared"][name].reads(CHANGE)) == "replicated"
    turned = states(0, "truth", since=0)
    label, sets, _ = statements()
    turned[(sets == name) & label, :, 0] -= (
        6.0  # in this set alone the false ones lie where the true ones of the others do
    )
    assert (
        verdict(f"01.truth.reads.{name}", reads_of(turned, turned, [name])[name].reads(CHANGE))
        == "not replicated"
    )
    if name in truth.NEGATED:
        assert verdict(f"01.truth.reads.{name}", read["match"][name].reads(CHANGE)) == "not replicated"
    assert verdict(f"01.truth.reads.{name}", read["noise"][name].reads(CHANGE)) != "replicated"


@pytest.mark.parametrize("name", STATEMENT_SETS)
@pytest.mark.parametrize("way, i, j", [("forward", "base", "post"), ("backward", "post", "base")])
def test_a_truth_direction_transfers_or_not(read, name, way, i, j):
    for kind, expected in (("shared", "replicated"), ("apart", "not replicated")):
        assert read[kind][name].unclear("base", "post") is None
        assert (
            verdict(f"01.truth.transfer.{way}.{name}", read[kind][name].transfers(i, j, CHANGE)) == expected
        )


def test_two_models_that_agree_on_noise_have_nothing_to_transfer(read):
    """The rule alone would be met: nothing is lost where nothing is read. So own accuracy is asked for
    first."""
    for name, found in read["noise"].items():
        assert (
            verdict(f"01.truth.transfer.forward.{name}", found.transfers("base", "post", CHANGE))
            == "replicated"
        )
        assert "not clearly above" in found.unclear("base", "post")


def test_what_goes_together_is_not_taken_for_truth(read):
    models = ["base", "post"]
    assert truth.no_truth(read["shared"], KNOWN, models) is None
    mixed = reads_of(states(0, "match"), states(0, "truth", 1), ["cities", "neg_cities"])
    for seen, worst in ((read["match"], "base|post"), (mixed, "base")):  # the one that reads worse
        said = truth.no_truth(seen, KNOWN, models)
        assert re.match(rf"what is read is not shown to be truth: ({worst})'s direction is right in 0", said)
        assert "not clearly above" in said
    assert "no unseen set" in truth.no_truth(read["noise"], KNOWN, models)
    unknown = KNOWN | dict.fromkeys(truth.NEGATED, "not known")
    assert "negated" in truth.no_truth(read["shared"], unknown, models)


def halves_of(base: torch.Tensor, post: torch.Tensor) -> dict:
    label, sets, group = statements()
    return pairs.cosine_halves(centred(base, sets), centred(post, sets), label, group, sets)


def refusal_halves(axis: int) -> dict:
    """Of `N` + `N` prompts, the base model's refusal along `axis`, the post-trained one's along the first."""
    n, harmful = DEFAULT["N"], np.repeat([True, False], DEFAULT["N"])
    acts = [torch.randn(2 * n, LAYERS, WIDTH, generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    acts[0][:n, :, axis] += 4.0
    acts[1][:n, :, 0] += 4.0
    return pairs.cosine_halves(*acts, harmful, np.arange(2 * n), harmful)


def directions(good: bool) -> dict:
    one = halves_of(states(0, "truth"), states(0 if good else 1, "truth", 1))
    shared = halves_of(states(0, "truth"), states(0, "truth", 1))
    refusal = refusal_halves(1 if good else 0)
    gap = pairs.gap_of_cosines(shared, refusal, NEAR, DEFAULT["N"])
    return {"01.truth.cosine": pairs.parallel(one, NEAR, len(statements()[0]) // 2, WIDTH, CHANGE)} | {
        f"01.signature.{key}": (gap, {"same_model": 0.0, **pairs.moved_by(CHANGE)})
        for key in ("paper", "matched")
    }


def interventions(good: bool) -> dict:
    n, rng = DEFAULT["n_arm"] // 2 * 4, np.random.default_rng(0)
    own, group = 0.8 + 0.2 * rng.normal(size=n), np.arange(n) // 4
    crossed = (0.9 if good else 0.3) * own + 0.05 * rng.normal(size=n)
    random = [0.03 * rng.normal() + 0.1 * rng.normal(size=n) for _ in range(DEFAULT["n_random"])]
    return {
        f"01.truth.intervention.{way}": truth.intervention(crossed, own, random, group, 0.2, CHANGE)
        for way in ("forward", "backward")
    }


def outcomes(what: str, share: float) -> list[str]:
    """As many judged answers as an arm has prompts, of which `share` did what was asked for."""
    did, not_done = ("answer", "refusal") if what == "ablate" else ("refusal", "answer")
    hits = round(share * DEFAULT["n_arm"])
    return [did] * hits + [not_done] * (DEFAULT["n_arm"] - hits)


def at_random(rate: float) -> dict:
    rng = np.random.default_rng(0)
    return stats.random_band(list(rng.random((DEFAULT["n_random"], DEFAULT["n_arm"])) < rate)) | {
        "random_direction_judged_max": rate
    }


def refusal(good: bool) -> dict:
    found = {}
    for what in ("ablate", "add"):
        own, crossed = outcomes(what, 0.9), outcomes(what, 0.2 if good else 0.9)
        assert transfer.too_weak(what, own, at_random(0.1)) is None
        for key in ("as-published", "matched"):
            found[f"01.refusal.forward.{what}.{key}"] = transfer.forward(
                what, crossed, own, own, at_random(0.1), CHANGE
            )
    return found


def confidence(good: bool) -> dict:
    g, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    unembed, w = (
        torch.randn(4000, 32, generator=g) * torch.linspace(0.05, 2, 32),
        torch.randn(1536, 32, generator=g),
    )
    theirs = w + 0.01 * torch.randn(1536, 32, generator=g) if good else torch.randn(1536, 32, generator=g)
    both = {"base": w, "post": theirs}
    variance, rho = (
        {m: f(x, unembed) for m, x in both.items()}
        for f in (neurons.logit_variance, neurons.null_space_share)
    )
    entropy = {"base": 2 + 0.1 * rng.normal(size=24), "post": 3 + 0.1 * rng.normal(size=24)}
    gap = entropy["post"] - entropy["base"]
    closed = (0.05 if good else 0.5) * gap + 0.02 * rng.normal(size=24)
    random = [0.01 * rng.normal(size=8) for _ in range(DEFAULT["n_random"])]
    assert neurons.no_gap(entropy) is None and neurons.no_gap(
        entropy | {"post": entropy["base"] + 0.01 * rng.normal(size=24)}
    )
    explained = neurons.explained(closed, random, entropy, CHANGE)
    return {"01.confidence.overlap": neurons.shared(both, variance, rho, CHANGE)} | {
        f"01.confidence.gap.{how}": explained for how in ("swapped", "mean-ablated")
    }


PARTS = (knowledge, directions, interventions, refusal, confidence)


@pytest.fixture(scope="module")
def ideal() -> dict[bool, dict[str, tuple[dict, dict]]]:
    """By whether the data are ideal or the counter-data: what is measured for each claim."""
    return {good: {id: found for part in PARTS for id, found in part(good).items()} for good in (True, False)}


@pytest.mark.parametrize("good, expected", [(True, "replicated"), (False, "not replicated")])
def test_ideal_data_replicate_and_ideal_counter_data_do_not(ideal, good, expected):
    for id, found in ideal[good].items():
        assert verdict(id, found) == expected, (id, decide(CLAIMS[id].rule, measured(found)))


def test_every_claim_of_the_file_has_its_ideal_data(ideal):
    ids = set(ideal[True])
    ids |= {
        f"01.truth.{kind}.{s}"
        for kind in ("reads", "transfer.forward", "transfer.backward")
        for s in STATEMENT_SETS
    }
    assert ids == set(CLAIMS)


def test_broken_answers_and_few_random_directions_do_not_pass_for_an_effect():
    own, broken = outcomes("ablate", 0.9), ["degenerate"] * DEFAULT["n_arm"]
    few = {k: v for k, v in at_random(0.1).items() if k != "random_directions"} | {"random_directions": 5}
    id = "01.refusal.forward.ablate.as-published"
    assert (
        verdict(id, transfer.forward("ablate", outcomes("ablate", 0.2), own, own, few, CHANGE))
        == "underpowered"
    )
    assert (
        verdict(id, transfer.forward("add", broken, outcomes("add", 0.9), own, at_random(0.1), CHANGE))
        == "not replicated"
    )
    assert "too little" in transfer.too_weak("ablate", outcomes("ablate", 0.1), at_random(0.0))
    assert "too little" in transfer.too_weak(
        "ablate", outcomes("ablate", 0.6), at_random(0.6)
    ) and transfer.too_weak("ablate", [], {})


@pytest.mark.parametrize("crossed, own", [(0, 32), (32, 32), (8, 30), (30, 12), (3, 7)])
def test_a_ratio_of_shares_covers(crossed, own):
    """In draws from two true shares the interval holds the true ratio; also where all prompts agree."""
    n, p, q = DEFAULT["n_arm"], crossed / 32, own / 32
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        u = rng.random(n)  # one draw for both: outcomes of one prompt go together
        found = transfer.ratio(u < p, np.where(rng.random(n) < 0.5, u, rng.random(n)) < q)
        held.append(found.value is None or found.ci95[0] <= p / q <= found.ci95[1])
        assert found.value is None or np.ptp(found.ci95) > 0.01
    assert np.mean(held) >= 0.93


def test_a_claim_that_one_model_meets_is_told_from_one_that_it_does_not():
    controls = {"chance_high": 0.1, **pairs.moved_by(CHANGE)}
    overlap = record(
        CLAIMS["01.confidence.overlap"],
        Measured(value=0.8, ci95=(0.7, 1), n=1536, controls={"same_model": 1.0} | controls),
        "released",
    )
    signature = CLAIMS["01.signature.paper"]
    found = [
        record(
            signature, Measured(value=0.6, ci95=(0.5, 0.7), n=64, controls={"same_model": same}), "released"
        )
        for same in (0.5, 0.1, None)
    ]
    ids = ["01.confidence.overlap", "01.signature.paper"]
    assert pairs.for_one_model([overlap, found[0]]) == (ids, [], [])
    assert pairs.for_one_model(found[1:]) == ([], ids[1:], ids[1:])
    failed = record(
        signature, Measured(value=0.1, ci95=(0.0, 0.15), n=64, controls={"same_model": 0.0}), "released"
    )
    assert pairs.for_one_model([failed]) == ([], [], [])


def test_random_directions_hold_neither_harm_nor_refusal():
    """Within harmful prompts refused and answered ones differ along the effect itself."""
    rng = np.random.default_rng(0)
    harmful, outcome = np.repeat([True, False], 40), np.array(["refusal", "answer"] * 40)
    outcome[0], refused = "disclaimed", outcome == "refusal"
    states = torch.from_numpy(rng.normal(0, 0.1, (80, 6))).float()
    states[:, 0] += 10 * torch.from_numpy(refused).float()
    states[:, 1] += 10 * torch.from_numpy(harmful).float()
    found = transfer.within_classes(states, harmful, list(outcome))
    assert found.shape == (79, 6)  # one disclaimed answer alone has no spread
    assert found.mean(0).abs().max() < 1e-5
    assert found.std(0).max() < 0.2


def test_what_cannot_be_asked_is_reported_once_for_each_claim():
    @dataclasses.dataclass
    class Run:
        planned: dict
        claims: list

        def claim(self, id, measured, controls, precondition):
            self.claims.append(
                record(
                    self.planned[id], Measured(**vars(measured), controls=controls), "released", precondition
                )
            )

    run = Run(CLAIMS, [])
    pairs.uninformative(run, "01.truth", "no")
    pairs.uninformative(run, "01", "the two models differ")
    assert sorted(r.id for r in run.claims) == sorted(CLAIMS) and all(
        isinstance(r, Record) and r.verdict == "uninformative" for r in run.claims
    )
    assert {r.reason for r in run.claims if r.id.startswith("01.truth")} == {"no"}
