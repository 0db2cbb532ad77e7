"""Intervals and controls. Each way to an interval is here because it covers the truth in at least 93 % of
cases at 16, 32 and 64 items (``tests/covers.py`` prints the table): score intervals for rates and their
differences, bootstrap-t for means, DeLong and Newcombe for areas.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata, t

from refusal.base.estimate import NOTHING, Estimate

BOOTSTRAPS = 2000
Z = float(norm.ppf(0.975))
Numbers = np.ndarray | np.floating | np.integer | float | int  # one or many


def rate(hits: ArrayLike) -> Estimate:
    """Estimate of a share of hits, in a list or an array of any shape. None at all give value None.

    The interval is Wilson's with Student's quantile in place of the normal one, which alone covers .92 at 8
    of 16.
    """
    hits = np.asarray(hits, bool).ravel()
    if len(hits) == 0:
        return NOTHING
    low, high = wilson(hits.sum(), len(hits), t.ppf(0.975, max(len(hits) - 1, 1)))
    return Estimate(float(hits.mean()), [float(low), float(high)], len(hits))


def wilson(hits: Numbers, n: Numbers, z: float | int = Z) -> tuple[Numbers, Numbers]:
    """Both ends of Wilson's score interval (1927) for `hits` of `n`, which may be arrays and need not be
    whole.
    """
    p = np.asarray(hits, float) / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return np.where(p == 0, 0.0, low), np.where(p == 1, 1.0, high)


def _ends(value: Numbers, least: float | int, most: float | int, inside: Callable) -> np.ndarray:
    """The points on both sides of `value`, down to `least` and up to `most`, up to which ``inside(point)``
    holds, by halving; shape [2, *value].
    """
    near = np.stack([value, value]).astype(float)
    far = np.stack([np.full(near.shape[1:], least), np.full(near.shape[1:], most)]).astype(float)
    for _ in range(40):
        middle = (near + far) / 2
        ok = inside(middle)
        near, far = np.where(ok, middle, near), np.where(ok, far, middle)
    return near


def tango(only_a: Numbers, only_b: Numbers, n: Numbers) -> tuple[Numbers, Numbers]:
    """Both ends of Tango's score interval (1998) for a difference of paired shares, of `n` pairs of which
    `only_a` and `only_b` are discordant.
    """
    b, c = np.broadcast_arrays(np.asarray(only_a, float), np.asarray(only_b, float))

    def inside(d):  # the score test does not reject the difference d
        return (b - c - n * d) ** 2 <= Z * Z * n * _tango_variance(b, c, n, d)

    low, high = _ends((b - c) / n, -1, 1, inside)
    return low, high


def _tango_variance(b, c, n, d):
    """The variance of one pair's difference if d is the true one, with the likeliest share of discordant
    pairs under it.
    """
    linear = -b - c + (2 * n - b + c) * d
    only_b = (np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0)) - linear) / (4 * n)
    return np.maximum(2 * only_b + d * (1 - d), 0)


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Estimate of mean(a) − mean(b) of two outcomes, yes or no, of the same items; Tango's interval, which
    always has a width.

    Raises ValueError for groups of different length.
    """
    a, b = np.asarray(a, bool).ravel(), np.asarray(b, bool).ravel()
    if len(a) != len(b):
        raise ValueError(f"paired outcomes of {len(a)} and {len(b)} items")
    if len(a) == 0:
        return NOTHING
    low, high = tango((a & ~b).sum(), (b & ~a).sum(), len(a))
    return Estimate(float(a.mean() - b.mean()), [float(low), float(high)], len(a))


def difference(a: ArrayLike, b: ArrayLike, seed: int = 0, paired: bool = False) -> Estimate:
    """Estimate of mean(a) − mean(b); n is the size of the smaller group, and an empty one gives value None.

    Where both hold only yes and no, the interval is Tango's (`paired`) or Newcombe's (1998, method 10). Else
    it is that of the mean of the paired differences, or is put together from the intervals of the two means
    as Newcombe does. Raises ValueError for pairs that do not match.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if not paired:
        return _newcombe(a, b) if _binary(a) and _binary(b) else square_and_add(mean(a, seed), mean(b, seed))
    if len(a) != len(b):
        raise ValueError(f"paired values of {len(a)} and {len(b)} items")
    return paired_difference(a, b) if _binary(a) and _binary(b) else mean(a - b, seed, shares=False)


def _binary(values: np.ndarray) -> bool:
    return values.ndim == 1 and len(values) > 0 and bool(np.isin(values, (0, 1)).all())


def _newcombe(a: np.ndarray, b: np.ndarray) -> Estimate:
    one, other = (Estimate(float(x.mean()), np.array(wilson(x.sum(), len(x))), len(x)) for x in (a, b))
    found = square_and_add(one, other)
    return replace(found, ci95=np.clip(found.ci95, -1, 1).tolist())


def square_and_add(a: Estimate, b: Estimate, correlation: Numbers = 0.0) -> Estimate:
    """The difference of two estimates with intervals: the half widths that point its way, as the sides of a
    triangle (Zou & Donner, 2008).
    """
    if a.value is None or b.value is None:
        return NOTHING
    x, y = np.asarray(a.value), np.asarray(b.value)
    (x_down, x_up), (y_down, y_up) = (
        np.abs(np.moveaxis(np.asarray(f.ci95), -1, 0) - f.value) for f in (a, b)
    )
    side = lambda p, q: np.sqrt(np.maximum(p * p + q * q - 2 * correlation * p * q, 0))
    ci95 = np.stack([x - y - side(x_down, y_up), x - y + side(x_up, y_down)], -1)
    return Estimate((x - y).tolist(), ci95.tolist(), min(a.n, b.n))


def mean(values: ArrayLike, seed: int = 0, shares: bool = True) -> Estimate:
    """Estimate of a mean over the first axis; of more axes, value and bounds are nested lists. Yes and no
    alone are a `rate`, unless they are no `shares` but differences that happen to be 0 and 1.

    The interval holds Student's and the bootstrap-t one: the first misses where values are skewed, the second
    where their tails are long. Values that are all the same, as one value is, show nothing of their spread:
    their interval has no width.
    """
    values = np.asarray(values, float)
    if len(values) == 0 or np.isnan(values).all():
        return NOTHING
    if shares and _binary(values):
        return rate(values)
    n, flat = len(values), values.reshape(len(values), -1)
    ci95 = np.repeat(flat.mean(0)[:, None], 2, 1) if n == 1 else _mean_interval(flat, seed)
    return Estimate(values.mean(0).tolist(), ci95.reshape(*values.shape[1:], 2).tolist(), n)


def _mean_interval(values: np.ndarray, seed: int) -> np.ndarray:
    """[column, 2] of values [item, column]; how often each item is drawn is the same for all columns."""
    n, centre = len(values), values.mean(0)
    error, student = values.std(0, ddof=1) / np.sqrt(n), t.ppf(0.975, n - 1)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n
    out, at_a_time = [], 4_000_000 // BOOTSTRAPS
    for k in range(0, values.shape[1], at_a_time):
        x = values[:, k : k + at_a_time] - centre[k : k + at_a_time]
        moved = times @ x
        errors = np.sqrt(np.maximum(times @ x**2 - moved**2, 0) / (n - 1))
        # draws of one value again and again have no error of their own: how far off they are cannot be told,
        # so as far as is allowed
        ratio = np.divide(
            moved, errors, out=1e9 * np.sign(moved), where=errors > 1e-9 * error[k : k + at_a_time]
        )
        out.append(np.percentile(np.clip(ratio, -3 * student, 3 * student), [2.5, 97.5], axis=0))
    low, high = np.concatenate(out, 1)
    return np.stack(
        [centre - np.maximum(high, student) * error, centre - np.minimum(low, -student) * error], -1
    )


def bootstrap(
    statistic: Callable, *groups: ArrayLike, seed: int = 0, paired: bool = False, level: float = 0.95
) -> Estimate:
    """Estimate of ``statistic(*groups)`` with a percentile bootstrap over items; `paired` resamples all
    groups together. Another `level` than 95 % is for several values at once (Bonferroni).

    For what has no better way to an interval (not for rates, means, areas and their differences). The
    percentiles are taken further out, as Student's quantiles lie for as few items (Hesterberg, 2015). n is
    the size of the smallest group; an empty or all-NaN group gives value None. Groups may have trailing axes,
    and the statistic may return an array: then so are the bounds.
    """
    arrays = [np.asarray(g, float) for g in groups]
    n = min(len(g) for g in arrays)
    if n == 0 or any(np.isnan(g).all() for g in arrays):
        return NOTHING
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAPS):
        picks = (
            [rng.integers(0, len(arrays[0]), len(arrays[0]))] * len(arrays)
            if paired
            else [rng.integers(0, len(g), len(g)) for g in arrays]
        )
        draws.append(statistic(*(g[pick] for g, pick in zip(arrays, picks, strict=True))))
    low, high = np.nanpercentile(draws, percentiles(n, level), axis=0)
    return Estimate(np.asarray(statistic(*arrays)).tolist(), np.stack([low, high], -1).tolist(), n)


def percentiles(n: int, level: float = 0.95) -> list[float]:
    """Where to cut the draws of `n` items: they spread by sqrt((n − 1) / n) too little, and Student's
    quantile is wider than the normal one.
    """
    tail = 100 * float(norm.cdf(-np.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1))) if n > 1 else 0.0
    return [tail, 100 - tail]


def widened(
    found: Estimate,
    draws: Sequence | np.ndarray | pd.Series,
    within: tuple[float | int, float | int] = (-np.inf, np.inf),
) -> Estimate:
    """`found` with the interval widened by a second, independent source of variation: `draws` are the value
    under it [draw], or empty.

    Half widths add in quadrature; that of the draws is their standard deviation times Student's quantile.
    `within` bounds what can be.
    """
    if found.value is None or len(draws) < 2:
        return found
    value, (low, high), more = (
        found.value,
        found.ci95,
        float(t.ppf(0.975, len(draws) - 1) * np.std(draws, ddof=1)),
    )
    low, high = value - float(np.hypot(value - low, more)), value + float(np.hypot(high - value, more))
    return replace(found, ci95=[max(low, within[0]), min(high, within[1])])


def auroc(
    positive: ArrayLike, negative: ArrayLike, seed: int = 0, of: tuple[ArrayLike, ArrayLike] | None = None
) -> Estimate:
    """Estimate of the area under the ROC curve. `of` names the prompt behind each positive and negative,
    where one prompt gives several: then prompts are what varies, with all they gave, and n is how many are
    behind the smaller class.

    At each end the wider of DeLong's interval on the logit scale (1988; of prompts: Obuchowski, 1997), which
    fails near 1 and where classes part completely, and Newcombe's (2006, method 5), which fails where one
    class spreads far more than the other. Nothing is drawn: `seed` is not used.
    """
    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    if not len(positive) or not len(negative):
        return NOTHING
    a, b = _numbered(positive, negative, of)
    found, alone = (
        _influence(positive, negative, *ids) for ids in ((a, b), _numbered(positive, negative, None))
    )
    variance, times = (found[1] ** 2).sum(), [(np.bincount(ids) ** 2).sum() / len(ids) for ids in (a, b)]
    # how many independent items they are worth: as many as give this variance, at the least as if all of a
    # prompt were the same
    worth = variance / (alone[1] ** 2).sum() if variance > 0 else np.inf
    m, n = (len(ids) / np.clip(worth, 1, most) for ids, most in zip((a, b), times, strict=True))
    low, high = area_interval(found[0], variance, m, n, t.ppf(0.975, max(len(found[1]) - 2, 1)))
    behind = int(min(np.count_nonzero(np.bincount(ids)) for ids in (a, b)))
    return Estimate(float(found[0]), [float(low), float(high)], behind)


def _numbered(positive, negative, of) -> tuple[np.ndarray, np.ndarray]:
    """The number of the prompt behind each positive and negative; without names each has its own."""
    m = len(positive)
    if of is None:
        return np.arange(m), np.arange(m, m + len(negative))
    number = np.unique(np.concatenate([np.asarray(ids, str) for ids in of]), return_inverse=True)[1]
    return number[:m], number[m:]


def _influence(
    positive: np.ndarray, negative: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[float, np.ndarray]:
    """The area, and how far each prompt moves it [prompt]; the sum of squares of these is the area's variance
    (DeLong; Obuchowski).
    """
    wins = np.sign(positive[:, None] - negative) / 2 + 0.5
    value, moved = wins.mean(), np.zeros(max(a.max(), b.max()) + 1)
    for ids, score in ((a, wins.mean(1)), (b, wins.mean(0))):
        k = np.count_nonzero(np.bincount(ids))
        moved += np.bincount(ids, (score - value) / len(ids) * np.sqrt(k / max(k - 1, 1)), len(moved))
    return value, moved


def area_interval(
    area: Numbers, variance: Numbers, m: Numbers, n: Numbers, student: float | int = Z
) -> tuple[Numbers, Numbers]:
    """Both ends for an area of m positives and n negatives with DeLong's `variance`: the wider of Newcombe's
    and the logit one. All may be arrays.
    """
    area = np.asarray(area, float)

    def inside(
        x,
        # Newcombe's method 5: Hanley & McNeil's variance at the bound, with the mean number of items in place
        # of
        # each
    ):
        spread = x * (1 - x) * (1 + ((m + n) / 2 - 1) * ((1 - x) / (2 - x) + x / (1 + x))) / (m * n)
        return (x - area) ** 2 <= Z * Z * spread

    low, high = _ends(area, 0, 1, inside)
    within = np.clip(area, 1e-9, 1 - 1e-9)
    logit, half = (
        np.log(within / (1 - within)),
        np.minimum(student * np.sqrt(variance) / (within * (1 - within)), 50),
    )
    parted = (area <= 0) | (area >= 1)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    return np.where(parted, low, np.minimum(low, sigmoid(logit - half))), np.where(
        parted, high, np.maximum(high, sigmoid(logit + half))
    )


def auroc_difference(
    positive_a: ArrayLike, negative_a: ArrayLike, positive_b: ArrayLike, negative_b: ArrayLike, seed: int = 0
) -> Estimate:
    """Estimate of the area of reader a minus that of reader b, who score the same items in the same order.

    Put together from the two areas' intervals, with DeLong's correlation between the areas. Nothing is drawn:
    `seed` is not used. Raises ValueError for readers of different numbers of items.
    """
    readers = [
        [np.asarray(x, float) for x in pair] for pair in ((positive_a, negative_a), (positive_b, negative_b))
    ]
    if [len(x) for x in readers[0]] != [len(x) for x in readers[1]]:
        raise ValueError("the two readers must have scored the same items")
    a, b = (auroc(positive, negative) for positive, negative in readers)
    if a.value is None:
        return NOTHING
    x, y = (_influence(*reader, *_numbered(*reader, None))[1] for reader in readers)
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return square_and_add(a, b, correlation=float((x * y).sum() / scale) if scale > 0 else 0.0)


def auroc_within(scores: ArrayLike, positive: ArrayLike, stratum: ArrayLike) -> Estimate:
    """Estimate of the area over pairs of one stratum only: how often a positive scores above a negative of
    the same source, say, so that telling strata apart counts for nothing. n is the smaller class of the
    strata that have both classes.
    """
    value, moved, positive = _within(scores, positive, stratum)
    if value is None:
        return NOTHING
    m, n = int(positive.sum()), int((~positive).sum())
    low, high = area_interval(value, (moved**2).sum(), m, n, t.ppf(0.975, max(m + n - 2, 1)))
    return Estimate(value, [float(low), float(high)], min(m, n))


def auroc_within_difference(a: ArrayLike, b: ArrayLike, positive: ArrayLike, stratum: ArrayLike) -> Estimate:
    """Estimate of `auroc_within` of scores `a` minus that of scores `b` of the same items, put together as in
    `auroc_difference`.
    """
    one, other = (auroc_within(scores, positive, stratum) for scores in (a, b))
    if one.value is None:
        return NOTHING
    x, y = (_within(scores, positive, stratum)[1] for scores in (a, b))
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return square_and_add(one, other, correlation=float((x * y).sum() / scale) if scale > 0 else 0.0)


def _within(scores, positive, stratum) -> tuple[float | None, np.ndarray, np.ndarray]:
    """The area within strata, how far each item of a stratum with both classes moves it, and these items'
    class; None where there is no such stratum.
    """
    scores, positive, stratum = np.asarray(scores, float), np.asarray(positive, bool), np.asarray(stratum)
    parts = [(scores[stratum == s], positive[stratum == s]) for s in np.unique(stratum)]
    parts = [(x, yes) for x, yes in parts if yes.any() and not yes.all()]
    if not parts:
        return None, np.zeros(0), np.zeros(0, bool)
    weights = np.array([yes.sum() * (~yes).sum() for _, yes in parts], float)
    weights /= weights.sum()
    value, moved, classes = 0.0, [], []
    for weight, (x, yes) in zip(weights, parts, strict=True):
        area, by_item = _influence(x[yes], x[~yes], *_numbered(x[yes], x[~yes], None))
        value += weight * float(area)
        moved.append(weight * by_item)
        classes.append(np.repeat([True, False], [yes.sum(), (~yes).sum()]))
    return value, np.concatenate(moved), np.concatenate(classes)


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties half. NaN where a
    class is missing.
    """
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / (
        len(positive) * len(negative)
    )


def kappa(a: Sequence | np.ndarray, b: Sequence | np.ndarray, seed: int = 0) -> Estimate:
    """Estimate of Cohen's κ between two lists of labels of the same items: agreement above chance. None where
    both give one label only.

    At each end the wider of two: Wilson's for the share that agrees, with chance agreement as it is, and a
    bootstrap of items; where nearly all agree a bootstrap alone covers less than half the time. Raises
    ValueError for lists of different length.
    """
    a, b = np.asarray(a, str).ravel(), np.asarray(b, str).ravel()
    if len(a) != len(b):
        raise ValueError(f"two judges of {len(a)} and {len(b)} items")
    labels, n = sorted({*a, *b}), len(a)
    if len(labels) < 2:
        return replace(NOTHING, n=n)
    table = np.array([[((a == i) & (b == j)).mean() for j in labels] for i in labels])
    value, agree, chance = _kappas(table)
    draws = (
        np.random.default_rng(seed).multinomial(n, table.ravel(), BOOTSTRAPS).reshape(-1, *table.shape) / n
    )
    low, high = np.percentile(_kappas(draws)[0], percentiles(n))
    least, most = ((bound - chance) / (1 - chance) for bound in wilson(agree * n, n))
    return Estimate(float(value), [max(-1.0, float(min(low, least))), min(1.0, float(max(high, most)))], n)


def _kappas(tables: np.ndarray) -> tuple[Numbers, Numbers, Numbers]:
    """κ, share that agrees and chance agreement of tables [..., label, label] of shares; κ is 1 where all
    items have one label from both.
    """
    agree, chance = np.trace(tables, axis1=-2, axis2=-1), (tables.sum(-1) * tables.sum(-2)).sum(-1)
    room = 1 - chance
    return np.divide(agree - chance, room, out=np.ones_like(agree), where=room > 1e-12), agree, chance


def random_band(hits_by_direction: Sequence | np.ndarray, value: float | int | None = None) -> dict:
    """`score_band` of rates: controls of a share of answers from random directions, each measured on the
    prompts of the effect.
    """
    return score_band([np.asarray(hits, bool) for hits in hits_by_direction], value)


def _rank(k: int) -> int:
    """Which of `k` values by size at most 2.5 % of new ones exceed."""
    return min(int(np.ceil(0.975 * (k + 1) - 1e-9)), k)


def high(values: Numbers | Sequence) -> float | None:
    """The bar from values by chance: the smallest that at most 2.5 % of new ones exceed, the largest of up to
    40. None where there are none.
    """
    values = np.sort(np.asarray(values, float).ravel())
    return float(values[_rank(len(values)) - 1]) if len(values) else None


def score_band(
    values_by_direction: Sequence | np.ndarray,
    value: float | int | None = None,
    name: str = "random_direction",
) -> dict:
    """Controls of a mean from random directions [direction][prompt]: the band of their means, which an effect
    must leave to be more than chance.

    `…_high` is the smallest of the K means that at most 2.5 % of new directions exceed, that of rank
    ceil(.975 (K + 1)): the largest up to K = 40, then a percentile, which stays where it is as K grows;
    `…_low` likewise. `…_p` of an effect `value` is (1 + how many means reach it) / (K + 1), `…_p_below` the
    same for effects that lower; 20 directions can give .048 at best. No directions give None.
    """
    means = sorted(float(np.mean(values)) for values in values_by_direction)
    k = len(means)
    if not k:
        return {f"{name}_low": None, f"{name}_high": None}
    out = _rank(k)
    band = {
        f"{name}_mean": float(np.mean(means)),
        f"{name}_max": means[-1],
        f"{name}_low": means[k - out],
        f"{name}_high": means[out - 1],
        f"{name}s": k,
        f"{name}_n": sum(np.size(values) for values in values_by_direction),
    }
    if value is not None:
        band |= {
            f"{name}_p": (1 + sum(m >= value for m in means)) / (k + 1),
            f"{name}_p_below": (1 + sum(m <= value for m in means)) / (k + 1),
        }
    return band


def shown_band(band: dict, name: str = "random_direction") -> Estimate:
    """Estimate of a `score_band` as figures draw it: the mean of the means, the band, the number of
    directions.
    """
    if not band.get(f"{name}s"):
        return NOTHING
    return Estimate(band[f"{name}_mean"], [band[f"{name}_low"], band[f"{name}_high"]], band[f"{name}s"])
