"""Directions in the residual stream: differences of means, how sure they are, cluster scores, random
controls, a search for one direction.

Everything is float32 or wider, with axes [prompt, layer, position, d_model] and absent ones left out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.base.estimate import Estimate


def difference_of_means(
    acts: Float[Tensor, "prompt *rest"],
    positive: Bool[np.ndarray, "prompt"],
    negative: Bool[np.ndarray, "prompt"],
) -> Float[Tensor, "*rest"]:
    """mean(positive) − mean(negative), raw, means in float64 (arXiv 2507.11878, eq. 1; 2406.11717, eq. 1).

    Raises ValueError when a group is empty.
    """
    positive, negative = np.array(positive, bool), np.array(negative, bool)
    if not positive.any() or not negative.any():
        raise ValueError(
            f"difference of means over an empty group ({positive.sum()} and {negative.sum()} prompts)"
        )
    return (acts[positive].double().mean(0) - acts[negative].double().mean(0)).float()


def cosine(a: Float[Tensor, "*rest d"], b: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
    """Cosine similarity over the last axis; NaN where a vector is zero, as at ``h[0]`` of a shared last
    token.
    """
    norms = a.double().norm(dim=-1) * b.double().norm(dim=-1)
    return torch.where(norms > 0, (a.double() * b.double()).sum(-1) / norms, torch.nan).float()


def cluster_score(
    acts: Float[Tensor, "prompt layer d"],
    refused_harmful: Float[Tensor, "layer d"],
    accepted_harmless: Float[Tensor, "layer d"],
) -> Float[Tensor, "prompt layer"]:
    """s(h) = cos(h, μ refused-harmful) − cos(h, μ accepted-harmless), per layer (arXiv 2507.11878, eq. 2)."""
    return cosine(acts, refused_harmful.expand_as(acts)) - cosine(acts, accepted_harmless.expand_as(acts))


def split_half_cosine(acts, positive, negative, seed: int = 0, repeats: int = 20) -> Float[Tensor, "*layers"]:
    """Mean cosine between directions from two disjoint halves of both groups. Half the prompts make more
    noise than all: see `reliability`.
    """
    rng = np.random.default_rng(seed)
    total = torch.zeros(())
    for _ in range(repeats):
        halves = []
        for half in (0, 1):
            if half == 0:
                picks = [rng.permutation(np.flatnonzero(group)) for group in (positive, negative)]
            groups = []
            for pick in picks:
                chosen = np.zeros(len(acts), bool)
                chosen[pick[half::2]] = True
                groups.append(chosen)
            halves.append(difference_of_means(acts, *groups))
        total = total + cosine(*halves)
    return total / repeats


def spearman_brown(r):
    """What an agreement `r` of two halves says of two sets of full size: 2r / (1 + r); a number, an array or
    a tensor.
    """
    return 2 * r / (1 + r)


def reliability(acts, positive, negative, seed: int = 0, repeats: int = 20) -> Float[Tensor, "*layers"]:
    """The cosine to expect between directions from two sets of as many prompts as these: the ceiling that
    sampling noise allows.
    """
    return spearman_brown(split_half_cosine(acts, positive, negative, seed, repeats))


def cosine_ceiling(reliability_a, reliability_b):
    """The cosine that two directions would show if they were one but for sampling noise, sqrt(a · b), of
    arrays; NaN where one has no reliability.
    """
    a, b = np.asarray(reliability_a, float), np.asarray(reliability_b, float)
    return np.sqrt(np.where((a > 0) & (b > 0), a * b, np.nan))


def cosine_across_halves(
    acts_a: Float[Tensor, "prompt *layers d"],
    acts_b: Float[Tensor, "prompt *layers d"],
    positive: Bool[np.ndarray, "prompt"],
    negative: Bool[np.ndarray, "prompt"],
    seed: int = 0,
    repeats: int = 20,
    draws: int = 200,
    mean_over_layers: bool = False,
) -> dict[str, Estimate]:
    """How parallel two directions of the same prompts are (at two positions, in two models), freed of
    sampling noise.

    ``cosine``: direction a of one half with direction b of the other, no prompt in both, over sqrt(r_a · r_b)
    of the halves; 1 for the same direction, whatever the noise. ``ceiling``: `cosine_ceiling` of the two
    `reliability`, what a cosine of all prompts can be at most. ``across``: their product, the cosine of all
    prompts if the two shared no noise. Intervals: 1.96 standard deviations of prompts drawn anew, halves
    within each draw. n is that of the smaller group. With `mean_over_layers` the half cosines are averaged
    over layers first, and each value is a number. NaN (a number: None) where a direction has no reliability,
    in all prompts or in more than one draw of twenty. Raises ValueError for groups under 4 prompts.
    """
    groups = [np.flatnonzero(group) for group in (positive, negative)]
    n = min(map(len, groups))
    if n < 4:
        raise ValueError(
            f"halves of groups of {len(groups[0])} and {len(groups[1])} prompts: at least 4 each are needed"
        )
    rng, layers = np.random.default_rng(seed), acts_a.shape[1:-1]
    # [layer, prompt, d]
    states = [
        (x.double() - x.double().mean(0)).reshape(len(x), -1, x.shape[-1]).transpose(0, 1)
        for x in (acts_a, acts_b)
    ]

    def estimate(times: np.ndarray, halvings: int) -> np.ndarray:  # [draw, prompt] → [draw, 3, layer]
        u, v = _halves(np.tile(times, (halvings, 1)), groups, rng)
        cosines = np.stack(
            [_half_cosines(a.numpy(), b.numpy(), u, v) for a, b in zip(*states, strict=True)], -1
        )
        cosines = cosines.reshape(halvings, len(times), 3, -1).mean(0)
        cross, a, b = np.moveaxis(cosines.mean(-1, keepdims=True) if mean_over_layers else cosines, 1, 0)
        ceiling = cosine_ceiling(spearman_brown(a), spearman_brown(b))
        return np.stack([cross / cosine_ceiling(a, b), ceiling, cross / cosine_ceiling(a, b) * ceiling], 1)

    times = np.zeros((draws, len(acts_a)))
    for group in groups:
        times[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), draws)
    values, drawn = estimate(np.ones((1, len(acts_a))), repeats)[0], estimate(times, 4)
    error = 1.96 * np.ma.masked_invalid(drawn).std(0, ddof=1).filled(np.nan)
    # draws without reliability say that it is not known to be there
    error[np.isfinite(drawn).mean(0) < 0.95] = np.nan
    found = {}
    for name, value, e in zip(("cosine", "ceiling", "across"), values, error, strict=True):
        ci95 = np.stack([value - e, value + e], -1)
        if mean_over_layers:
            known = bool(np.isfinite(ci95).all())
            found[name] = Estimate(float(value[0]), ci95[0].tolist(), n) if known else Estimate(None, None, n)
        else:
            found[name] = Estimate(value.reshape(layers).tolist(), ci95.reshape(*layers, 2).tolist(), n)
    return found


def _halves(times: np.ndarray, groups: Sequence[np.ndarray], rng) -> tuple[np.ndarray, np.ndarray]:
    """Weights [draw, prompt] that make the difference of means of each of two halves; a prompt drawn several
    `times` stays in one half.
    """
    out = np.zeros((2, *times.shape))
    for sign, group in ((1, groups[0]), (-1, groups[1])):
        first = rng.permuted(np.tile(np.arange(len(group)) % 2, (len(times), 1)), axis=1)
        for half in (0, 1):
            mine = times[:, group] * (first == half)
            total = mine.sum(1, keepdims=True)
            out[half][:, group] = sign * np.divide(
                mine, total, out=np.full_like(mine, np.nan), where=total > 0
            )
    return out[0], out[1]


def _half_cosines(a: np.ndarray, b: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cosines [draw, 3] at one layer between the directions of two halves: a with b (both ways), a with a, b
    with b; NaN where one is zero.
    """
    # of prompts [prompt, prompt]: far fewer numbers than directions have
    product = lambda gram, x, y: ((x @ gram) * y).sum(-1)
    ab, aa, bb = a @ b.T, a @ a.T, b @ b.T
    with np.errstate(invalid="ignore", divide="ignore"):
        au, av, bu, bv = (product(gram, x, x) ** -0.5 for gram in (aa, bb) for x in (u, v))
        cross = (product(ab, u, v) * au * bv + product(ab, v, u) * av * bu) / 2
        found = np.stack([cross, product(aa, u, v) * au * av, product(bb, u, v) * bu * bv], -1)
    return np.where(np.isfinite(found), found, np.nan)


def random_directions(like: Float[Tensor, "d"], n: int, seed: int = 0) -> list[Float[Tensor, "d"]]:
    """`n` isotropic random directions with the norm of `like`: a weak control, since states hardly vary along
    most directions.
    """
    generator = torch.Generator().manual_seed(seed)
    return _scaled(torch.randn(n, like.shape[-1], generator=generator), like)


def centred(acts: Float[Tensor, "prompt *rest"], groups: ArrayLike) -> Float[Tensor, "prompt *rest"]:
    """Each state minus the mean of its own group [prompt], so that what sets the groups apart drops out."""
    out, groups = acts.clone(), np.asarray(groups)
    for name in np.unique(groups):
        out[groups == name] -= acts[groups == name].mean(0, dtype=torch.float64).float()
    return out


def covariance_directions(
    states: Float[Tensor, "prompt d"], like: Float[Tensor, "d"], n: int, seed: int = 0
) -> list[Float[Tensor, "d"]]:
    """`n` random directions that vary as the states do (a normal distribution with their covariance), each
    then given the norm of `like`.

    Give it states that are `centred` on their groups, or the draws hold the direction that sets the groups
    apart, the effect itself. Raises ValueError where fewer than two states differ.
    """
    states = states.double() - states.double().mean(0)
    if not states.any():
        raise ValueError(
            f"{len(states)} states that do not differ have no covariance to draw directions from"
        )
    g = torch.randn(n, len(states), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _scaled(g @ states / len(states) ** 0.5, like)


def covariance_by_layer(
    states: Float[Tensor, "prompt layer d"], like: Float[Tensor, "layer d"], n: int, seed: int = 0
) -> Float[Tensor, "n layer d"]:
    """`covariance_directions` at every layer, zero where `like` is. A draw mixes the same prompts at all
    layers, so that it points to one thing.
    """
    zero = lambda k: [torch.zeros_like(like[k])] * n
    at = lambda k: covariance_directions(states[:, k], like[k], n, seed) if like[k].any() else zero(k)
    return torch.stack([torch.stack(at(k)) for k in range(len(like))], 1)


def _scaled(draws: Float[Tensor, "n d"], like: Float[Tensor, "d"]) -> list[Float[Tensor, "d"]]:
    return list((draws / draws.norm(dim=-1, keepdim=True) * like.norm()).to(like.dtype))


def successive_halving(candidates: Sequence, evaluate, rungs: Sequence[int], keep: float = 1 / 3):
    """Search by tournament: score all on few prompts, keep the best share, score those on more (Jamieson &
    Talwalkar, 2016).

    `evaluate(candidates, n)` returns a list of losses on the first n prompts, lower is better. Returns the
    survivors of the last rung, best first, with their losses there.
    """
    alive = list(candidates)
    for rung, n in enumerate(rungs):
        losses = evaluate(alive, n)
        order = sorted(range(len(alive)), key=lambda i: (losses[i], i))
        if rung + 1 < len(rungs):
            order = order[: max(1, round(len(order) * keep))]
        alive, losses = [alive[i] for i in order], [losses[i] for i in order]
    return list(zip(alive, losses, strict=True))
