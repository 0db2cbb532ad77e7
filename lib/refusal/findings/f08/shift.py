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


def admitted(halves: Float[Tensor, "layer"]) -> list[int]:
    """The layers at which r of two halves of the prompts agrees; none before the first block."""
    ok = (halves.nan_to_num(0.0) >= HALVES).numpy()
    ok[0] = False
    return np.flatnonzero(ok).tolist()


def gaussian(r: Float[Tensor, "layer d"], n: int = RANDOM, seed: int = 0) -> Float[Tensor, "n layer d"]:
    """Isotropic directions of r's norm, each the same at every layer."""
    g = torch.randn(n, 1, r.shape[-1], generator=torch.Generator().manual_seed(seed))
    return g / g.norm(dim=-1, keepdim=True) * r.norm(dim=-1)[None, :, None]


def mean_over(p: Float[np.ndarray, "prompt layer"], layers: Sequence[int]) -> np.ndarray:
    """The mean projection over some layers [prompt]."""
    return p[:, list(layers)].mean(1)


def along(a: Tensor, r: Tensor, layers: Sequence[int], seed: int = 0) -> tuple[Estimate, dict]:
    """p over the admitted layers; beside it that along random directions: (measured, controls)."""
    if not len(layers):
        return NOTHING, {"random_direction_high": None}
    drawn = [mean_over(projection(a, g), layers) for g in gaussian(r, seed=seed)]
    return stats.mean(mean_over(projection(a, r), layers), seed), stats.score_band(drawn)


def harmful_only(
    a: Tensor, harmful: np.ndarray, r: Tensor, layers: Sequence[int], seed: int = 0
) -> tuple[Estimate, dict]:
    """p of harmful prompts minus that of harmless ones; beside it the same along random directions:
    (measured, controls).
    """
    if not len(layers):
        return NOTHING, {"random_direction_high": None}
    apart = lambda p: p[harmful].mean() - p[~harmful].mean()
    p = mean_over(projection(a, r), layers)
    drawn = [[apart(mean_over(projection(a, g), layers))] for g in gaussian(r, seed=seed)]
    controls = {"harmful": float(p[harmful].mean()), "harmless": float(p[~harmful].mean())}
    return stats.difference(p[harmful], p[~harmful], seed), controls | stats.score_band(drawn)


def explains(p: Mapping[str, np.ndarray], refused: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The rank correlation over settings between how far they move states, p [prompt], and how few prompts
    are refused, over prompts drawn anew; nothing where one of them does not vary. n is that of the prompts.
    """
    x, y = (np.stack([of[name] for name in p], 1).astype(float) for of in (p, refused))
    if np.ptp(x.mean(0)) == 0 or np.ptp(y.mean(0)) == 0:
        return NOTHING
    return stats.bootstrap(_rank_correlation, x, y, seed=seed, paired=True)


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
