"""Every rule of notebook 02 can be met and can fail: under the default sizes an ideal result is replicated
and an ideal counter-result is not.

Results are made as data (outcomes of answers, scores, states) and go through the functions that the notebook
calls.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f02 import harmfulness
from refusal.measure import directions, stats
from refusal.measure.behaviour import Arm
from refusal.report.rules import Measured, decide, read_claims
from refusal.run.params import parameters_of

NAME = "02_harmfulness_vs_refusal"
CLAIMS = read_claims(NOTEBOOKS / f"{NAME}.claims.toml")
SIZES = {name: p.default for name, p in parameters_of(NOTEBOOKS / f"{NAME}.ipynb").items()}
RNG = np.random.default_rng(0)


def outcomes(n: int, share: float, of: str, otherwise: str) -> list[str]:
    return [of if k < round(share * n) else otherwise for k in range(n)]


def arm(share: float, random: float, of: str = "refusal", otherwise: str = "answer") -> Arm:
    n = SIZES["n_arm"]
    return Arm(
        [""] * n,
        outcomes(n, share, of, otherwise),
        [outcomes(n, random, of, otherwise) for _ in range(SIZES["n_random"])],
    )


def drop(without: float):
    n = 2 * SIZES["n_arm"]
    whole, cut = outcomes(n, 0.7, "refusal", "answer"), outcomes(n, without, "refusal", "answer")
    return harmfulness.drop_claim(whole, cut, whole)


def test_closing_tokens_compares_the_same_prompts():
    """A broken answer without the closing tokens counts on neither side, nor in the control."""
    said = (["refusal"] * 8 + ["answer"] * 2, ["refusal"] * 4 + ["degenerate"] * 4 + ["answer"] * 2)
    measured, controls = harmfulness.drop_claim(
        *said, ["refusal"] * 3 + ["answer"] + ["refusal"] * 4 + ["answer"] * 2
    )
    assert (measured.value, measured.n) == (0.0, 6)
    assert controls["refusal_with"] == controls["refusal_without"] == 4 / 6
    assert controls["refusal_with_neutral_closing"] == 3 / 6
    assert controls["broken_without"] == 0.4


GROUP = np.repeat(harmfulness.GROUPS, 40)
SOURCE = np.where(np.arange(160) % 2 == 0, "harmbench", "strongreject")


def scores(refused_harmful, accepted_harmful, refused_harmless, accepted_harmless):
    """Scores [prompt] of four groups of 40 around these means."""
    return np.repeat(
        [refused_harmful, accepted_harmful, refused_harmless, accepted_harmless], 40
    ) + RNG.normal(0, 0.05, 160)


def cluster(place: str, by_harm: bool):
    delta = scores(1, 1, -1, -1) if by_harm else scores(1, -1, 1, -1)
    up, down = (
        ("accepted harmful", "refused harmless")
        if place == "t_inst"
        else ("refused harmless", "accepted harmful")
    )
    shuffled = RNG.normal(0, 0.05, (harmfulness.SHUFFLES, 160))
    return harmfulness.cluster_claim(delta, shuffled, GROUP, SOURCE, up, down, 0)


def positions(after_by_harm: bool):
    by_harm, by_behaviour = (1, 1, -1, -1), (1, -1, 1, -1)
    s = np.stack(
        [scores(*by_harm)] + [scores(*(by_harm if after_by_harm else by_behaviour)) for _ in range(5)], 1
    )
    return harmfulness.positions_claim(s, RNG.normal(0, 0.05, (harmfulness.SHUFFLES, 160, 6)), GROUP, 0)[1:]


def cosine(planted: float):
    """Two directions over 8 layers with the cosine `planted`, from the default number of prompts."""
    n, d = SIZES["N"], 64
    positive = np.arange(2 * n) < n
    u, w = torch.eye(d)[0], torch.eye(d)[1]
    sign = torch.tensor(np.where(positive, 1.0, -1.0)).float()[:, None, None]
    noise = lambda k: torch.randn(2 * n, 8, d, generator=torch.Generator().manual_seed(k))
    a, b = (noise(k) + 2 * sign * v for k, v in ((0, u), (1, planted * u + (1 - planted**2) ** 0.5 * w)))
    halves = directions.cosine_across_halves(a, b, positive, ~positive, 0, mean_over_layers=True)
    return halves["cosine"], {"ceiling": halves["ceiling"].value}


def inversion(wanted: str, share: float, random: float):
    other = {"certainly": "no", "no": "certainly"}[wanted]
    return harmfulness.inversion_claim(
        arm(share, random, wanted, other), wanted, outcomes(SIZES["n_arm"], 0.1, wanted, other)
    )


def dissociation(refuse: float):
    return harmfulness.dissociation_claim(
        arm(0.9, 0.1, "certainly", "no"), arm(refuse, 0.1, "certainly", "no")
    )


def loss(by: float):
    measured = stats.mean(RNG.normal(by, 0.02, 24))
    return measured, stats.score_band(RNG.normal(0, 0.02, (SIZES["n_random"], 24)), measured.value)


STEERING = {
    f"02.steer.{name}.{span}" for name in ("harm", "refuse") for span in ("instruction", "prompt")
} | {"02.single.add"}
RESULTS = {
    "02.closing-tokens.drop": (lambda: drop(0.3), lambda: drop(0.95)),
    "02.cluster.t_inst": (lambda: cluster("t_inst", True), lambda: cluster("t_inst", False)),
    "02.cluster.t_post": (lambda: cluster("t_post", False), lambda: cluster("t_post", True)),
    "02.positions.only-t_inst": (lambda: positions(False), lambda: positions(True)),
    "02.cosine.distinct": (lambda: cosine(0.1), lambda: cosine(0.9)),
    "02.inversion.harm.harmless": (
        lambda: inversion("certainly", 0.9, 0.1),
        lambda: inversion("certainly", 0.1, 0.6),
    ),
    "02.inversion.harm.harmful": (lambda: inversion("no", 0.9, 0.1), lambda: inversion("no", 0.1, 0.6)),
    "02.inversion.dissociation.prompt": (lambda: dissociation(0.0), lambda: dissociation(0.9)),
    "02.inversion.dissociation.instruction": (lambda: dissociation(0.0), lambda: dissociation(0.9)),
    "02.single.ablate": (
        lambda: harmfulness.steering_claim(arm(0.02, 0.95), lowest=True),
        lambda: harmfulness.steering_claim(arm(0.95, 0.95), lowest=True),
    ),
    "02.single.harmless-ablation": (lambda: loss(0.0), lambda: loss(0.5)),
} | {
    id: (
        lambda: harmfulness.steering_claim(arm(0.9, 0.05)),
        lambda: harmfulness.steering_claim(arm(0.05, 0.3)),
    )
    for id in STEERING
}


def verdict(id: str, result) -> str:
    found, controls = result
    return decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls))[0]


def test_every_claim_has_an_ideal_result():
    assert RESULTS.keys() == CLAIMS.keys()


@pytest.mark.parametrize("id", sorted(RESULTS))
def test_an_ideal_result_is_replicated_and_its_contrary_is_not(id):
    ideal, contrary = RESULTS[id]
    assert verdict(id, ideal()) == "replicated"
    assert verdict(id, contrary()) == "not replicated"


def test_broken_answers_are_no_steering():
    """An arm that breaks every answer can't be a replication, however its rest is judged."""
    n = SIZES["n_arm"]
    broken = Arm([""] * n, ["degenerate"] * (n - 8) + ["refusal"] * 8, arm(0, 0).random)
    assert verdict("02.steer.harm.instruction", harmfulness.steering_claim(broken)) == "not replicated"


def test_few_random_directions_decide_nothing():
    few = Arm([""] * 32, outcomes(32, 0.0, "refusal", "answer"), arm(0, 0.3).random[:5])
    assert verdict("02.steer.harm.instruction", harmfulness.steering_claim(few)) == "underpowered"


NOTHING_TO_STEER = """
import json, sys
from refusal.base.errors import NotebookEnded
from refusal.base.files import NOTEBOOKS
from refusal.report import recorder
from refusal.run.params import parameters_of

path, silent, cases = NOTEBOOKS / sys.argv[1], lambda *shown, **options: None, json.loads(sys.argv[2])
recorder.display = silent
recorder.Recorder.figure = lambda self, name, *a, **k: self.figures.update({name: {}})
values = {"MODEL": "tiny", "TIER": "smoke", "N": 16, "DEVICE": "cpu", "n_test": 16, "n_arm": 8}
known = {n: p.tiers["smoke"] for n, p in parameters_of(path).items() if "smoke" in p.tiers}
cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
for changed in cases:
    space = {"silent": silent}
    try:
        for c in cells:
            source = "".join(c["source"]).replace("display(", "silent(")
            if source.startswith("tuning = "):
                exec(changed, space)
            exec(source, space)
            if "parameters" in c["metadata"].get("tags", []):
                space |= known | values
    except NotebookEnded as end:
        print(json.dumps([end.what, {r.reason: r.verdict for r in space["run"].claims[-8:]}]))
"""


def test_a_model_with_nothing_to_steer_ends_uninformative():
    """As of a model that refuses every harmless test prompt, or none of the harmful ones, though it did
    otherwise on the prompts behind the directions: the notebook is run on a tiny model up to there.
    """
    cases = {
        "test_s, test_t = (t.assign(outcome='refusal') for t in (test_s, test_t))": "test prompt is answered",
        "test_h = test_h.assign(outcome='answer')": "harmful test prompt is refused",
        "whole = reads.score\nreads.score = lambda *a, **k: whole(*a, **k).abs() + 1": "begins as an answer",
    }
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_STEER, f"{NAME}.ipynb", json.dumps(list(cases))],
        capture_output=True,
        text=True,
    )
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["uninformative')]
    assert len(ends) == 3, done.stderr
    for (what, last), says in zip(ends, cases.values(), strict=True):
        assert says in what and set(last.values()) == {"uninformative"} and all(says in r for r in last)


@pytest.mark.parametrize(
    "low, says, cannot",
    [
        (0.7, {"harmless": 0.9, "harmful": 0.9}, set()),
        (0.6, {"harmless": 0.9, "harmful": 0.9}, {"harmless", "harmful"}),  # not above the bar
        (0.7, {"harmless": 0.4, "harmful": 0.5}, {"harmless"}),
        (0.7, {"harmless": 0.9, "harmful": 0.1}, {"harmful"}),
    ],
)
def test_requests_that_a_model_does_not_judge_in_words_are_left_out(low, says, cannot):
    right = {"harmless": "no", "harmful": "certainly"}
    said = {
        label: [right[label]] * round(10 * part) + ["neither"] * round(10 - 10 * part)
        for label, part in says.items()
    }
    found = harmfulness.cannot_judge(Estimate(low + 0.1, [low, low + 0.2], 40), said, right)
    assert set(found) == cannot
    for label, reason in found.items():
        assert f"says {right[label].capitalize()} to {says[label]:.0%} of {label} requests" in reason


def test_the_layer_is_the_one_that_turns_most_and_of_equals_the_surer_one():
    assert harmfulness.best_layer([4, 8, 12], np.array([0.2, 0.5, 0.1]), np.array([9.0, 0.0, 9.0])) == 8
    assert harmfulness.best_layer([4, 8, 12], np.array([0.5, 0.5, 0.1]), np.array([0.1, 0.3, 9.0])) == 8
    assert harmfulness.best_layer([4, 8, 12], np.array([0.5, 0.5, 0.5]), np.array([0.3, 0.3, 0.3])) == 4
