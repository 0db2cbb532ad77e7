"""Does a refusal direction of one model work in another? (arXiv 2504.02904, section 5)

Ablated everywhere in prompts that are refused, a refusal direction should end refusal; added to the tokens of
prompts that are answered, it should bring refusal. Each direction's layer, and when adding its coefficient,
are sought on validation prompts in the model it is tried in, with the first-token score; answers to test
prompts are then judged. Random directions come from the covariance of the model's own states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f01.pairs import moved_by
from refusal.measure import behaviour, directions, stats
from refusal.measure.judge import BROKEN
from refusal.model.loading import Model
from refusal.trace.edits import Ablate, Add, Edit
from refusal.trace.reads import score

COEFFICIENTS = (1.0, 2.0, 4.0)
JUDGED = 3  # of the random directions those of strongest first-token effect, whose answers are judged as well


@dataclass(frozen=True)
class Found:
    """Where a direction works best on validation prompts: the layer it is taken from for ablation; layer and
    coefficient for adding.

    `pushed` [coefficient, layer] is the mean refusal score after adding it, `layers` the ones tried.
    """

    out: int
    into: int
    coefficient: float
    pushed: Float[Tensor, "coefficient layer"]
    layers: tuple[int, ...]

    def edit(self, what: str, v: Float[Tensor, "layer d"], like: Float[Tensor, "d"] | None = None) -> Edit:
        """The edit ``ablate`` or ``add`` with ``v`` at its best layer, or with another direction `like` in
        its place.
        """
        if what == "ablate":
            return Ablate(v[self.out] if like is None else like)
        return Add(v[self.into] if like is None else like, self.into, "prompt", self.coefficient)

    def layer(self, what: str) -> int:
        return self.out if what == "ablate" else self.into


def search(
    model: Model, harmful, harmless, v: Float[Tensor, "layer d"], layers: Sequence[int], readout: Callable
) -> Found:
    """The best layer and coefficient of a direction in one model, by the mean refusal score of validation
    prompts.
    """
    ablated = score(model, harmful, readout, [[Ablate(v[l])] for l in layers], label="ablating").mean(1)
    arms = [[Add(v[l], l, "prompt", c)] for c in COEFFICIENTS for l in layers]
    pushed = (
        score(model, harmless, readout, arms, label="adding")
        .mean(1)
        .unflatten(0, (len(COEFFICIENTS), len(layers)))
    )
    c, at = divmod(int(pushed.argmax()), len(layers))
    return Found(layers[int(ablated.argmin())], layers[at], COEFFICIENTS[c], pushed, tuple(layers))


def effect(what: str, outcomes: Sequence[str]) -> np.ndarray:
    """Whether each prompt did what was asked for: ``ablate`` ends refusal, ``add`` brings it; [prompt],
    bool."""
    refused = np.array([o == "refusal" for o in outcomes], bool)
    return ~refused if what == "ablate" else refused


def within_classes(
    states: Float[Tensor, "prompt d"], harmful: Sequence[bool] | np.ndarray, outcome: Sequence[str]
) -> Float[Tensor, "kept d"]:
    """States without the means of the classes harmful or harmless × judged outcome, for random directions to
    be drawn from: what sets refused prompts apart from answered ones is the effect itself. A class of fewer
    than two prompts has no spread and is left out.
    """
    classes = np.array([f"{h} {o}" for h, o in zip(harmful, outcome, strict=True)])
    names, counts = np.unique(classes, return_counts=True)
    kept = np.flatnonzero(np.isin(classes, names[counts > 1]))
    return directions.centred(states[torch.from_numpy(kept)], classes[kept])


def random_controls(
    model: Model, what: str, prompts, edits: Sequence[Edit], readout: Callable, max_new_tokens: int
) -> dict:
    """Controls from random directions, each on all prompts of the effect: the band of their effects by the
    first token, and the largest effect among the judged answers of the few strongest. `readout` is above 0
    where a refusal begins.
    """
    # [direction, prompt]
    begins = (
        score(model, prompts, readout, [[e] for e in edits], label=f"{len(edits)} random directions").numpy()
        > 0
    )
    hits = ~begins if what == "ablate" else begins
    strongest = np.argsort(-hits.mean(1), kind="stable")[:JUDGED]
    judged = behaviour.outcomes(model, prompts, [[edits[k]] for k in strongest], max_new_tokens)
    return stats.random_band(list(hits)) | {
        "random_direction_judged_max": max(float(effect(what, o).mean()) for o in judged)
    }


def refused_at_random(what: str, controls: dict) -> Estimate:
    """Estimate of the share refused under random directions, their mean and band, from `random_controls`,
    which count effects.
    """
    found = stats.shown_band(controls)
    return (
        Estimate(1 - found.value, [1 - x for x in reversed(found.ci95)], found.n)
        if what == "ablate"
        else found
    )


def ratio(crossed: Sequence[bool] | np.ndarray, own: Sequence[bool] | np.ndarray) -> Estimate:
    """Estimate of share(crossed) / share(own) over the same prompts: Wilson's intervals of both put together
    (Donner & Zou, 2012), which has a width where all prompts agree. None where nothing is left to divide by.
    """
    crossed, own = np.asarray(crossed, bool), np.asarray(own, bool)
    if not len(own) or not len(crossed) or not own.any():
        return NOTHING
    (p, (p_low, p_high)), (q, (q_low, q_high)) = (
        (r.value, r.ci95) for r in (stats.rate(crossed), stats.rate(own))
    )
    # their correlation
    both = (
        float(np.corrcoef(crossed, own)[0, 1])
        if crossed.any() and not crossed.all() and not own.all()
        else 0.0
    )
    root = lambda middle, product: float(np.sqrt(max(middle**2 - product, 0.0)))
    a, c, middle = (
        q_high * (2 * q - q_high),
        p_low * (2 * p - p_low),
        p * q - both * (p - p_low) * (q_high - q),
    )
    low = c / (middle + root(middle, a * c)) if c > 0 else 0.0
    a, c, middle = (
        q_low * (2 * q - q_low),
        p_high * (2 * p - p_high),
        p * q - both * (p_high - p) * (q - q_low),
    )
    high = (middle + root(middle, a * c)) / a if a > 0 else float("inf")
    return Estimate(p / q, [min(low, p / q), max(high, p / q)], len(own))


def too_weak(what: str, own: Sequence[str], random: dict) -> str | None:
    """Why nothing can be compared with the effect of the model's own direction: it must reach a fifth of the
    prompts and exceed random directions'.
    """
    if not len(own):
        return "too few prompts to try directions on"
    found = stats.rate(effect(what, own))
    chance = max(
        (
            random[k]
            for k in ("random_direction_high", "random_direction_judged_max")
            if random.get(k) is not None
        ),
        default=0.0,
    )
    if found.value >= 0.2 and found.ci95[0] > chance:
        return None
    words = "ablating" if what == "ablate" else "adding"
    return (
        f"{words} the model's own direction changes {found.value:.2f} of the answers, random ones up to "
        f"{chance:.2f}: too little to compare with"
    )


def forward(
    what: str,
    crossed: Sequence[str],
    own: Sequence[str],
    same: Sequence[str],
    random: dict,
    change: float | None,
) -> tuple[Estimate, dict]:
    """(measured, controls): the effect of the other model's direction over that of the own one, from judged
    outcomes of the same prompts. `same` are outcomes under the same model's direction extracted as the
    other's was: what one model given twice would show.
    """
    shares = {name: stats.rate(effect(what, o)) for name, o in (("own", own), ("crossed", crossed))}
    broken = {
        name: stats.rate([o in BROKEN for o in outcomes])
        for name, outcomes in (("own", own), ("crossed", crossed))
    }
    controls = {"same_model": ratio(effect(what, same), effect(what, own)).value, **moved_by(change)}
    for name in shares:
        controls |= shares[name].under(f"{name}_effect") | broken[name].under(f"broken_{name}")
    return ratio(effect(what, crossed), effect(what, own)), controls | random
