"""How often each interval of `refusal.measure.stats`, and those that directions and findings make of draws of
their own, holds the truth, by simulation or, for rates, by adding up all that can happen.

``python tests/covers.py`` prints every case with how often it covers and how wide it is; ``test_stats.py``
asks each for at least 93 %.
"""

import sys

import numpy as np
import torch
from scipy.stats import binom, multinomial, norm, t

from refusal.base.estimate import Estimate
from refusal.findings.f01 import neurons, pairs, transfer
from refusal.findings.f01 import truth as statements
from refusal.findings.f03 import cliff_claims
from refusal.findings.f10 import recognise
from refusal.measure import directions, stats

# 3000 repeats: a coverage of .95 is known to ±.008
SIZES, RATES, REPEATS = (16, 32, 64), (0.02, 0.1, 0.5), 3000


def holds(low, high, truth, weights=None) -> float:
    inside = (np.asarray(low) <= truth + 1e-12) & (truth - 1e-12 <= np.asarray(high))
    return float(np.average(inside, weights=weights))


def rates():
    """Exact: every count that can be seen, with its probability."""
    for n in SIZES:
        every = np.array([stats.rate([True] * k + [False] * (n - k)).ci95 for k in range(n + 1)])
        for p in RATES:
            yield f"rate {p}", n, holds(*every.T, p, binom.pmf(range(n + 1), n, p))


def unpaired_rates():
    for n in SIZES:
        one = [np.repeat([1.0, 0.0], [k, n - k]) for k in range(n + 1)]
        every = np.array([[stats.difference(x, y).ci95 for y in one] for x in one])
        chance = {p: binom.pmf(range(n + 1), n, p) for p in RATES}
        for p in RATES:
            for q in RATES:
                yield (
                    f"difference of rates {p}, {q}",
                    n,
                    holds(every[..., 0], every[..., 1], p - q, np.outer(chance[p], chance[q])),
                )


def paired_rates():
    """Pairs of which one outcome goes with the other not at all, halfway or as far as the rates allow."""
    for n in SIZES:
        b, c = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)]).T
        low, high = stats.tango(b, c, n)
        for p in RATES:
            for q in RATES:
                for tie in (0, 0.5, 0.9):
                    both = (1 - tie) * p * q + tie * min(p, q)
                    chances = multinomial.pmf(
                        np.stack([b, c, n - b - c], 1), n, [p - both, q - both, 1 - p - q + 2 * both]
                    )
                    yield f"paired difference {p}, {q}, tie {tie}", n, holds(low, high, p - q, chances)


SCORES = {
    "normal": (lambda rng, size: rng.normal(0, 1, size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(1, size), 1.0),
    "uniform": (lambda rng, size: rng.random(size), 0.5),
    "bounded, at its ends": (lambda rng, size: rng.beta(0.5, 0.5, size), 0.5),
    "bounded, skewed": (lambda rng, size: rng.beta(1, 5, size), 1 / 6),
    "long tails": (lambda rng, size: rng.standard_t(4, size), 0.0),
}


def means(repeats):
    for name, (draw, truth) in SCORES.items():
        for n in SIZES:
            found = stats.mean(draw(np.random.default_rng(n), (n, repeats)), 1)
            yield f"mean, {name}", n, holds(*np.array(found.ci95).T, truth)


def differences(repeats):
    for name, (draw, truth) in SCORES.items():
        for n, m in ((16, 16), (32, 16), (64, 64)):
            rng = np.random.default_rng(n)
            x, y, shared = draw(rng, (n, repeats)), draw(rng, (m, repeats)), rng.normal(size=(n, repeats))
            yield (
                f"difference, {name}, and of {m}",
                n,
                holds(*np.array(stats.difference(x, y, 1).ci95).T, 0),
            )
            pairs = stats.difference(x + shared, shared + rng.normal(size=(n, repeats)), 1, paired=True)
            yield f"paired difference, {name}", n, holds(*np.array(pairs.ci95).T, truth)


def generic_bootstrap(repeats):
    """What is left to the percentile bootstrap: a ratio of means of one set of items, and a median. Its
    statistic sees all repeats at a time.
    """
    for n in SIZES:
        rng = np.random.default_rng(n)
        below = rng.normal(2, 0.5, (n, repeats))
        above = 0.5 * below + rng.normal(0, 0.5, (n, repeats))
        found = stats.bootstrap(lambda x, y: x.mean(0) / y.mean(0), above, below, seed=1, paired=True)
        yield "bootstrap, ratio of means", n, holds(*np.array(found.ci95).T, 0.5)
        found = stats.bootstrap(lambda x: np.median(x, 0), rng.normal(0, 1, (n, repeats)), seed=1)
        yield "bootstrap, median", n, holds(*np.array(found.ci95).T, 0)


AREAS, KINDS = (0.5, 0.7, 0.9, 0.95), ("normal", "exponential", "one class spreads twice as far")


def classes(rng, kind: str, area: float, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [repeat] of m positives and n negatives (shapes) whose true area is `area`."""
    if kind == "exponential":
        return rng.exponential(area / (1 - area), m), rng.exponential(1, n)
    wide = 2.0 if kind == "one class spreads twice as far" else 1.0
    return rng.normal(norm.ppf(area) * np.hypot(wide, 1), wide, m), rng.normal(0, 1, n)


def delong(positive, negative) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas [repeat] of scores [repeat, item] and what each positive and negative contributes (DeLong's
    structural components), [repeat, item].
    """
    wins = (positive[:, :, None] > negative[:, None]) + 0.5 * (positive[:, :, None] == negative[:, None])
    return wins.mean((1, 2)), wins.mean(2), wins.mean(1)


def covariance(one, other) -> np.ndarray:
    """DeLong's covariance [repeat] of two areas, each as `delong` gives them."""
    parts = [
        ((x - x.mean(1, keepdims=True)) * (y - y.mean(1, keepdims=True))).sum(1)
        / (x.shape[1] - 1)
        / x.shape[1]
        for x, y in zip(one[1:], other[1:], strict=True)
    ]
    return parts[0] + parts[1]


def area_ends(one) -> np.ndarray:
    m, n = one[1].shape[1], one[2].shape[1]
    return np.stack(stats.area_interval(one[0], covariance(one, one), m, n, t.ppf(0.975, m + n - 2)), -1)


def area_difference_ends(one, other) -> np.ndarray:
    scale = np.sqrt(covariance(one, one) * covariance(other, other))
    r = np.divide(covariance(one, other), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.array(
        stats.square_and_add(*(Estimate(x[0], area_ends(x), x[1].shape[1]) for x in (one, other)), r).ci95
    )


def areas(repeats, kinds=KINDS):
    for kind in kinds:
        for area in AREAS:
            for m, n in ((16, 16), (16, 64), (32, 32), (64, 64)):
                rng = np.random.default_rng(m + n)
                found = [
                    area_ends(delong(*classes(rng, kind, area, (repeats // 4, m), (repeats // 4, n))))
                    for _ in range(4)
                ]
                yield f"AUROC {area}, {kind}, and {n}", m, holds(*np.concatenate(found).T, area)


def areas_of_prompts(repeats, areas=AREAS, shares=(0.2, 0.8)):
    """Each prompt gives one to six scores that share a part; in half of the cases prompts are in both
    classes.
    """
    for area in areas:
        for n in SIZES:
            for share in shares:
                for mixed in (False, True):
                    rng, found = np.random.default_rng(n), []
                    for _ in range(repeats):
                        number = np.repeat(np.arange(2 * n), rng.integers(1, 7, 2 * n))
                        label = rng.random(len(number)) < 0.5 if mixed else number < n
                        scores = np.sqrt(share) * rng.normal(size=2 * n)[number] + np.sqrt(
                            1 - share
                        ) * rng.normal(size=len(number))
                        scores = scores + np.sqrt(2) * norm.ppf(area) * label
                        found.append(
                            stats.auroc(
                                scores[label], scores[~label], of=(number[label], number[~label])
                            ).ci95
                        )
                    yield (
                        f"AUROC {area} of prompts, shared {share}, mixed {mixed}",
                        n,
                        holds(*np.array(found).T, area),
                    )


def area_differences(repeats):
    """Two readers that see the same of each item and each some noise of their own."""
    for first, second in ((0.5, 0.5), (0.7, 0.7), (0.9, 0.7), (0.95, 0.95), (0.95, 0.8)):
        for n in SIZES:
            for shared in (0.0, 0.5, 0.9):
                rng, found = np.random.default_rng(n), []
                for _ in range(4):
                    common, own = (
                        rng.normal(size=(repeats // 4, 2 * n)),
                        rng.normal(size=(2, repeats // 4, 2 * n)),
                    )
                    readers = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
                    shift = np.sqrt(2) * norm.ppf([first, second])
                    found.append(
                        area_difference_ends(
                            *(delong(x[:, :n] + s, x[:, n:]) for x, s in zip(readers, shift, strict=True))
                        )
                    )
                yield (
                    f"AUROC {first} − {second}, shared {shared}",
                    n,
                    holds(*np.concatenate(found).T, first - second),
                )


def kappas(repeats, truths=(0.0, 0.5, 0.8, 0.95), shared_labels=((0.5, 0.5), (0.9, 0.1), (0.7, 0.2, 0.1))):
    """Labels of one judge that the other repeats with probability κ and else draws anew. Each table that
    comes up is looked at once.
    """
    for shares in shared_labels:
        for truth in truths:
            for n in SIZES:
                cells = truth * np.diag(shares) + (1 - truth) * np.outer(shares, shares)
                tables, times = np.unique(
                    np.random.default_rng(n).multinomial(n, cells.ravel(), repeats),
                    axis=0,
                    return_counts=True,
                )
                a, b = np.indices(cells.shape).reshape(2, -1)
                found = [
                    stats.kappa(np.repeat(a, table), np.repeat(b, table), seed=1).ci95 for table in tables
                ]
                known = [ci95 is not None for ci95 in found]  # one label only has no κ
                yield (
                    f"kappa {truth}, {shares}",
                    n,
                    holds(*np.array([c for c in found if c]).T, truth, times[known]),
                )


def widened(repeats):
    """Items vary by 1 and what all of them share by 0.3, which ten refits show."""
    for n in SIZES:
        rng, found = np.random.default_rng(n), []
        for values in rng.normal(rng.normal(0, 0.3, (repeats, 1)), 1, (repeats, n)):
            found.append(
                stats.widened(Estimate(values.mean(), _student(values), n), rng.normal(0, 0.3, 10)).ci95
            )
        yield "widened", n, holds(*np.array(found).T, 0)


def _student(values):
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [values.mean() - half, values.mean() + half]


def ratios_of_rates(repeats):
    """Two answers to each prompt, of which one goes with the other not at all, halfway or nearly as far as it
    can.
    """
    for n in SIZES:
        for p, q in ((0.1, 0.5), (0.3, 0.5), (0.5, 0.5), (0.5, 0.9), (0.9, 0.9)):
            for tie in (0, 0.5, 0.9):
                both = (1 - tie) * p * q + tie * min(p, q)
                cells = [both, p - both, q - both, 1 - p - q + both]
                tables, times = np.unique(
                    np.random.default_rng(n).multinomial(n, cells, repeats), axis=0, return_counts=True
                )
                one, other = np.array([True, True, False, False]), np.array([True, False, True, False])
                found = [transfer.ratio(np.repeat(one, x), np.repeat(other, x)).ci95 for x in tables]
                known = [ci95 is not None for ci95 in found]
                yield (
                    f"ratio of rates {p}, {q}, tie {tie}",
                    n,
                    holds(*np.array([c for c in found if c]).T, p / q, times[known]),
                )


def pairs_of_statements(repeats, sizes=SIZES, shares=(0, 0.5, 0.9)):
    """Shares right of n statements in n / 2 pairs that share a part, and what another direction loses on
    them.
    """
    for n in sizes:
        group = np.arange(n) // 2
        for share in shares:
            for p, q in ((0.5, 0.8), (0.8, 0.8), (0.95, 0.9)):
                rng, right, lost = np.random.default_rng(n), [], []
                for k in range(repeats):
                    common, item = np.sqrt(share) * rng.normal(size=n)[group], rng.normal(size=n)
                    own = np.sqrt((1 - share) / 2) * (item + rng.normal(size=(2, n)))
                    hits = common + own < norm.ppf([[p], [q]])
                    right.append(statements.accuracy(hits[0], group, k).ci95)
                    lost.append(statements.lost(hits[0], hits[1], group, k).ci95)
                yield f"accuracy {p} in pairs, shared {share}", n, holds(*np.array(right).T, p)
                yield f"accuracy lost {p} − {q} in pairs, shared {share}", n, holds(*np.array(lost).T, p - q)


def fewer_hits(repeats, trainings=(3, 5), rates=((0.5, 0.5), (0.6, 0.3), (0.2, 0.05))):
    """Prompts that differ in how likely each is a hit, and trainings that do or do not move all of them."""
    hidden = np.random.default_rng(0).normal(size=(2, 400_000))
    for n in SIZES:
        for seeds in trainings:
            for p, q in rates:
                for moves in (0, 0.6):
                    chance = lambda p, prompt, training: 1 / (1 + (1 / p - 1) * np.exp(-prompt - training))
                    true = [chance(x, 0.6 * hidden[0], moves * hidden[1]).mean() for x in (p, q)]
                    rng, found = np.random.default_rng(n), []
                    for k in range(repeats):
                        prompt = 0.6 * rng.normal(size=n)
                        arms = [
                            rng.random((seeds, n)) < chance(x, prompt, moves * rng.normal(size=(seeds, 1)))
                            for x in (p, q)
                        ]
                        found.append(cliff_claims.fewer(*arms, k).ci95)
                    yield (
                        f"fewer hits {p}, {q}, of {seeds} trainings that move by {moves}",
                        n,
                        holds(*np.array(found).T, true[0] - true[1]),
                    )


def peak_ratios(repeats, ratios=(0.3, 1.0), noises=(0.3, 1.0), clusters=(1, 2), sizes=SIZES):
    """Effects that vary from pair to pair, alone or two to a cluster."""
    signal = np.zeros((6, 4))
    signal[1:4, 1], signal[3:, 3] = (0.6, 0.9, 0.8), (0.7, 0.8, 0.9)
    for n in sizes:
        for ratio in ratios:
            for noise in noises:
                for size in clusters:
                    rng, found, cluster = np.random.default_rng(n), [], np.arange(n) // size
                    for k in range(repeats):
                        varies = 1 + noise * (
                            rng.normal(size=(n, 1, 1))[cluster] + rng.normal(size=(n, 6, 4))
                        )
                        values = (
                            r * signal * varies + 0.1 * rng.normal(size=varies.shape) for r in (ratio, 1)
                        )
                        grids = (pairs.Grid(x, np.ones(n), np.zeros(n), cluster, {}) for x in values)
                        found.append(pairs.peak_ratio(*grids, k).ci95)
                    yield (
                        f"peak ratio {ratio}, noise {noise}, clusters of {size}",
                        n,
                        holds(*np.array(found).T, ratio),
                    )


def noisy_pair(seed: int, n: int, cosine: float, shared: float, noise: float = 0.5, d: int = 64):
    """States [2 n, 2, d] at two places whose true directions have `cosine` and whose noise is `shared` in
    part; and which are positive.
    """
    rng = np.random.default_rng(seed)
    first, other = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    sign, common = np.repeat([0.75, -0.75], n)[:, None, None], rng.normal(size=(2 * n, 2, d))
    own = shared * common + np.sqrt(1 - shared**2) * rng.normal(size=common.shape)
    second = cosine * first + np.sqrt(1 - cosine**2) * other
    return (
        torch.tensor(sign * first + noise * common),
        torch.tensor(sign * second + noise * own),
        np.arange(2 * n) < n,
    )


def cosines(repeats, cases=((0.0, 0.9), (0.5, 0.0), (0.5, 0.9), (0.9, 0.0))):
    """Of two directions, freed of noise: across halves of one set of prompts, and as notebook 01 makes them
    of two models' statements. Where no cosine is given, it is no case.
    """
    for n in SIZES:
        for planted, shared in cases:
            across, corrected = [], []
            for seed in range(repeats):
                a, b, positive = noisy_pair(seed, n, planted, shared)
                halves = directions.cosine_across_halves(
                    a, b, positive, ~positive, seed, draws=60, mean_over_layers=True
                )
                across.append(halves["cosine"].ci95)
                drawn = pairs.cosine_halves(
                    a.float(), b.float(), positive, np.arange(2 * n), 1 * positive, seed
                )
                corrected.append(pairs.corrected(drawn, slice(None))["corrected"].ci95)
            for name, found in (("across halves", across), ("corrected", corrected)):
                if known := [c for c in found if c]:
                    yield f"cosine {planted} {name}, shared {shared}", n, holds(*np.array(known).T, planted)


def overlaps(repeats, sizes=(64, 256, 1024), likeness=(0.0, 0.8, 1.0)):
    """Entropy neurons of two models whose weights are unlike, alike or the same, about the mean overlap."""
    for n in sizes:
        for alike in likeness:
            ends, values = [], []
            for seed in range(repeats):
                base, new = torch.rand(2, 2, n, generator=torch.Generator().manual_seed(seed))
                post = alike * base + (1 - alike) * new
                w = {"base": 0.5 + base[0, :, None], "post": 0.5 + post[0, :, None]}
                variance = {"base": base[1], "post": post[1]}
                ends.append(neurons.overlap_interval(w, variance, seed, 200))
                chosen = (neurons.entropy_neurons(w[name], variance[name]) for name in w)
                values.append(neurons.overlap(*chosen))
            yield f"overlap of neurons, alike {alike}", n, holds(*np.array(ends).T, np.mean(values))


def areas_within(repeats, sizes=(32, 64), areas=(0.6, 0.9)):
    """Areas over pairs of one of three strata, which differ in how many are positive and in their level, and
    the difference to another reader of the same items.
    """
    for n in sizes:
        for area in areas:
            rng, level = np.random.default_rng(n), np.sqrt(2) * norm.ppf(area)
            stratum = np.arange(n) % 3
            found, apart = [], []
            for _ in range(repeats):
                positive = rng.random(n) < np.array([0.3, 0.5, 0.7])[stratum]
                shared, own = rng.normal(size=n), rng.normal(size=(2, n))
                a, b = (np.sqrt(0.5) * (shared + x) + level * positive + 3 * stratum for x in own)
                if min(positive.sum(), (~positive).sum()) < 4:
                    continue
                found.append(stats.auroc_within(a, positive, stratum).ci95)
                apart.append(stats.auroc_within_difference(a, b, positive, stratum).ci95)
            yield f"area within {area}", n, holds(*np.array(found).T, area)
            yield f"difference of areas within {area}", n, holds(*np.array(apart).T, 0)


def ngram_overlaps(repeats, sizes=(64, 128), tells=(0.6, 0.9)):
    """Strongest words of two halves of short texts, in which some words speak for a refusal, about the mean
    overlap.
    """
    words = [
        f"{a}{b}" for a in ("oak", "tin", "red", "old", "new", "far") for b in ("chair", "table", "bench")
    ]
    for n in sizes:
        for told in tells:
            ends, values = [], []
            for seed in range(repeats):
                rng = np.random.default_rng(seed)
                refused = rng.random(n) < 0.4
                says = np.where(rng.random(n) < told, refused, ~refused)
                texts = [f"{'paint' if yes else 'clean'} {' '.join(rng.choice(words, 3))}" for yes in says]
                found, _ = recognise.ngram_overlap(texts, refused, seed, repeats=4)
                ends.append(found.ci95)
                values.append(found.value)
            yield f"overlap of n-grams, told {told}", n, holds(*np.array(ends).T, np.mean(values))


EXACT = (rates, unpaired_rates, paired_rates)
SIMULATED = (
    means,
    differences,
    generic_bootstrap,
    areas,
    areas_of_prompts,
    areas_within,
    area_differences,
    kappas,
    widened,
    ratios_of_rates,
    pairs_of_statements,
    fewer_hits,
    peak_ratios,
    cosines,
    overlaps,
    ngram_overlaps,
)

if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    for family in (*EXACT, *SIMULATED):
        for name, n, share in family() if family in EXACT else family(repeats):
            print(f"{name:<64} n {n:>3}  {share:.3f}{'  below .93' if share < 0.93 else ''}", flush=True)
