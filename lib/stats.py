"""Intervals and controls: Wilson for rates, bootstrap for everything else, a band for random directions."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, rankdata, t

BOOTSTRAPS = 2000


def rate(hits: ArrayLike) -> dict:
    """{value, ci95 (Wilson), n} of a share of hits, in a list or an array of any shape. None at all give value None."""
    hits = np.asarray(hits, bool).ravel()
    if len(hits) == 0:
        return {"value": None, "ci95": None, "n": 0}
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"value": float(hits.mean()), "ci95": [float(interval.low), float(interval.high)], "n": len(hits)}


def bootstrap(statistic: Callable, *groups: ArrayLike, seed: int = 0, paired: bool = False) -> dict:
    """{value, ci95, n} of ``statistic(*groups)`` with a percentile bootstrap over items; `paired` resamples all groups together.

    n is the size of the smallest group; an empty or all-NaN group gives value None.
    Groups may have trailing axes, and the statistic may return an array: then so are the bounds.
    """
    groups = [np.asarray(g, float) for g in groups]
    if min(len(g) for g in groups) == 0 or any(np.isnan(g).all() for g in groups):
        return {"value": None, "ci95": None, "n": 0}
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAPS):
        picks = [rng.integers(0, len(groups[0]), len(groups[0]))] * len(groups) if paired else [rng.integers(0, len(g), len(g)) for g in groups]
        draws.append(statistic(*(g[pick] for g, pick in zip(groups, picks, strict=True))))
    return _interval(statistic(*groups), draws, min(len(g) for g in groups))


def _interval(value, draws: ArrayLike, n: int) -> dict:
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    return {"value": np.asarray(value).tolist(), "ci95": np.stack([low, high], -1).tolist(), "n": n}


def mean(values: ArrayLike, seed: int = 0) -> dict:
    """{value, ci95, n} of a mean, as by `bootstrap`, with many draws at a time."""
    values = np.asarray(values, float)
    if len(values) == 0 or np.isnan(values).all():
        return {"value": None, "ci95": None, "n": 0}
    picks = np.random.default_rng(seed).integers(0, len(values), (BOOTSTRAPS, len(values)))
    at_a_time = max(1, 1_000_000 // values.size)
    draws = [values[picks[k : k + at_a_time]].mean(1) for k in range(0, BOOTSTRAPS, at_a_time)]
    return _interval(values.mean(0), np.concatenate(draws), len(values))


def widened(found: dict, draws: ArrayLike, within: tuple[float | int, float | int] = (-np.inf, np.inf)) -> dict:
    """{value, ci95, n} with the interval widened by a second, independent source of variation: `draws` are the value under it [draw], or empty.

    Half widths add in quadrature; that of the draws is their standard deviation times Student's quantile. `within` bounds what can be.
    """
    if found["value"] is None or len(draws) < 2:
        return found
    value, (low, high), more = found["value"], found["ci95"], float(t.ppf(0.975, len(draws) - 1) * np.std(draws, ddof=1))
    low, high = value - float(np.hypot(value - low, more)), value + float(np.hypot(high - value, more))
    return found | {"ci95": [max(low, within[0]), min(high, within[1])]}


def difference(a: ArrayLike, b: ArrayLike, seed: int = 0, paired: bool = False) -> dict:
    """{value, ci95, n} of mean(a) − mean(b).

    Where all hits or none are seen in each group a bootstrap has no width; then the interval is Newcombe's, from the two Wilson ones (1998, method 10).
    """
    found = bootstrap(lambda x, y: x.mean(0) - y.mean(0), a, b, seed=seed, paired=paired)
    a, b = np.asarray(a, float), np.asarray(b, float)
    if found["n"] and a.ndim == b.ndim == 1 and np.ptp(a) == np.ptp(b) == 0 and {a[0], b[0]} <= {0, 1}:
        (l1, u1), (l2, u2) = rate(a)["ci95"], rate(b)["ci95"]
        down, up = np.hypot(a[0] - l1, u2 - b[0]), np.hypot(u1 - a[0], b[0] - l2)
        found["ci95"] = [max(-1.0, found["value"] - float(down)), min(1.0, found["value"] + float(up))]
    return found


def auroc(positive: ArrayLike, negative: ArrayLike, seed: int = 0, of: tuple[ArrayLike, ArrayLike] | None = None) -> dict:
    """{value, ci95, n} of the area under the ROC curve. `of` names the prompt behind each positive and negative, where one prompt gives
    several: then prompts are resampled, with all they gave, and n is how many are behind the smaller class.

    Classes that part completely leave a bootstrap no width; then the bound is Wilson's for as many hits as n.
    """
    found = bootstrap(area, positive, negative, seed=seed) if of is None else _auroc_of_prompts(positive, negative, of, seed)
    if found["value"] in (0.0, 1.0):
        found["ci95"] = rate([bool(found["value"])] * found["n"])["ci95"]
    return found


def _auroc_of_prompts(positive, negative, of, seed) -> dict:
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    if not len(positive) or not len(negative):
        return {"value": None, "ci95": None, "n": 0}
    names, number = np.unique(np.concatenate([np.asarray(ids, str) for ids in of]), return_inverse=True)
    a, b = number[: len(positive)], number[len(positive) :]
    wins = np.sign(positive[:, None] - negative) / 2 + 0.5
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), BOOTSTRAPS)  # how often each prompt is drawn
    pairs = times[:, a].sum(1) * times[:, b].sum(1)
    draws = ((times[:, a] @ wins) * times[:, b]).sum(1)[pairs > 0] / pairs[pairs > 0]
    return {"value": float(wins.mean()), "ci95": np.percentile(draws, [2.5, 97.5]).tolist(), "n": min(len(set(a)), len(set(b)))}


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties half. NaN where a class is missing."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative))


def random_band(hits_by_direction: Sequence[ArrayLike]) -> dict:
    """Controls of a rate from random directions: mean, maximum, count, and the bars an effect must exceed or stay below.

    `random_direction_high` is the largest single direction's rate or the upper Wilson bound of all of them together, whichever is
    higher; `random_direction_low` likewise. No directions give None.
    """
    rates = [float(np.mean(h)) for h in hits_by_direction]
    if not rates:
        return {"random_direction_low": None, "random_direction_high": None}
    pooled = rate(np.concatenate([np.asarray(h, bool) for h in hits_by_direction]))
    return {
        "random_direction_mean": pooled["value"],
        "random_direction_max": max(rates),
        "random_direction_low": min(min(rates), pooled["ci95"][0]),
        "random_direction_high": max(max(rates), pooled["ci95"][1]),
        "random_directions": len(rates),
        "random_direction_n": pooled["n"],
    }
