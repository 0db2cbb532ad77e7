"""How far a setting moves states against the refusal direction r, in units of r: p = −a·r / ‖r‖², where a is
the state there minus that in the usual setting, at t_post, of the same prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import directions, stats
from refusal.measure.trainings import OverTrainings

RANDOM, HALVES = 100, 0.5  # random directions; agreement of r's halves that a layer needs


def moved(there: Float[Tensor, "prompt layer d"], usual: Float[Tensor, "prompt layer d"]):
    """a [prompt, layer, d_model]."""
    return there - usual


def projection(
    a: Float[Tensor, "prompt layer d"], r: Float[Tensor, "layer d"]
) -> Float[np.ndarray, "prompt layer"]:
    """p; 0 where r is zero, as it is before the first block."""
    size = (r.double() ** 2).sum(-1)
    found = -(a.double() * r.double()).sum(-1) / size.clamp_min(1e-12)
    return torch.where(size > 0, found, 0.0).numpy()


def at_random(
    states: Float[Tensor, "prompt layer d"], groups: np.ndarray, r: Float[Tensor, "layer d"], seed: int = 0
) -> Float[Tensor, "n layer d"]:
    """Random directions of r's norm that vary as the states behind r do within their `groups`: isotropic ones
    would touch hardly anything that a model uses.
    """
    return directions.covariance_by_layer(directions.centred(states, groups), r, RANDOM, seed)


def admitted(halves: Float[Tensor, "layer"]) -> list[int]:
    """The layers at which r of two halves of the prompts agrees; none before the first block."""
    ok = (halves.nan_to_num(0.0) >= HALVES).numpy()
    ok[0] = False
    return np.flatnonzero(ok).tolist()


def mean_over(p: Float[np.ndarray, "prompt layer"], layers: Sequence[int]) -> np.ndarray:
    """The mean projection over some layers [prompt]."""
    return p[:, list(layers)].mean(1)


def along(
    a: Tensor, r: Tensor, randoms: Tensor, layers: Sequence[int], seed: int = 0
) -> tuple[Estimate, dict]:
    """p over the admitted layers; beside it that along `randoms` [n, layer, d_model]:
    (measured, controls).
    """
    if not len(layers):
        return NOTHING, {"random_direction_high": None}
    drawn = [mean_over(projection(a, g), layers) for g in randoms]
    return stats.mean(mean_over(projection(a, r), layers), seed), stats.score_band(drawn)


def harmful_only(
    a: Tensor,
    harmful: np.ndarray,
    r: Tensor,
    randoms: Tensor,
    layers: Sequence[int],
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """p of harmful prompts minus that of harmless ones; beside it the same along random directions, as in
    `along`: (measured, controls).
    """
    if not len(layers):
        return NOTHING, {"random_direction_high": None}
    apart = lambda p: p[harmful].mean() - p[~harmful].mean()
    p = mean_over(projection(a, r), layers)
    drawn = [[apart(mean_over(projection(a, g), layers))] for g in randoms]
    controls = {"harmful": float(p[harmful].mean()), "harmless": float(p[~harmful].mean())}
    return stats.difference(p[harmful], p[~harmful], seed), controls | stats.score_band(drawn)


def explains(p: Mapping[str, np.ndarray], refused: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The rank correlation over settings between how far they move states, p [prompt], and how few prompts
    are refused; nothing where one of them does not vary. Prompts are drawn anew, n is their number, and the
    interval is widened by how far it moves where settings are: that no number of prompts takes away.
    """
    if not p:
        return NOTHING
    x, y = (np.stack([of[name] for name in p], 1).astype(float) for of in (p, refused))
    if np.ptp(x.mean(0)) == 0 or np.ptp(y.mean(0)) == 0:
        return NOTHING
    found = stats.bootstrap(_rank_correlation, x, y, seed=seed, paired=True)
    over_settings = lambda a, b: _rank_correlation(a.T, b.T)
    of_settings = stats.bootstrap(over_settings, x.T, y.T, seed=seed, paired=True)
    sides = lambda e: np.abs(np.array(e.ci95) - found.value)
    below, above = np.hypot(sides(found), sides(of_settings))
    ci95 = [max(-1.0, float(found.value - below)), min(1.0, float(found.value + above))]
    return OverTrainings(found.value, ci95, found.n, half_width=float(sides(of_settings).max()))


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    a, b = rankdata(x.mean(0)), rankdata(-y.mean(0))
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")


def cosine(a: Float[Tensor, "prompt layer d"], r: Float[Tensor, "layer d"]) -> list[float | None]:
    """The cosine of the mean shift and −r, by layer; None where one of them is zero."""
    return [None if x != x else x for x in directions.cosine(a.mean(0), -r).tolist()]


def all_ones(r: Float[Tensor, "layer d"]) -> list[float | None]:
    """The cosine with −r of numbers drawn uniformly from 0 to 1, as the released control has them, by
    layer."""
    drawn = torch.rand(r.shape[-1], generator=torch.Generator().manual_seed(0))
    return cosine(drawn.expand(1, *r.shape), r)
