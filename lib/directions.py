"""Directions in the residual stream: differences of means, cluster scores, random controls, and the search for one refusal direction.

Everything is float32 or wider, with axes [prompt, layer, position, d_model] and absent ones left out.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def difference_of_means(
    acts: Float[Tensor, "prompt *rest"], positive: Bool[np.ndarray, "prompt"], negative: Bool[np.ndarray, "prompt"]
) -> Float[Tensor, "*rest"]:
    """mean(positive) − mean(negative), raw, means in float64 (arXiv 2507.11878, eq. 1; 2406.11717, eq. 1).

    Raises ValueError when a group is empty.
    """
    positive, negative = np.array(positive, bool), np.array(negative, bool)
    if not positive.any() or not negative.any():
        raise ValueError(f"difference of means over an empty group ({positive.sum()} and {negative.sum()} prompts)")
    return (acts[positive].double().mean(0) - acts[negative].double().mean(0)).float()


def cosine(a: Float[Tensor, "*rest d"], b: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
    """Cosine similarity over the last axis; NaN where a vector is zero, as at ``h[0]`` of a shared last token."""
    norms = a.double().norm(dim=-1) * b.double().norm(dim=-1)
    return torch.where(norms > 0, (a.double() * b.double()).sum(-1) / norms, torch.nan).float()


def cluster_score(
    acts: Float[Tensor, "prompt layer d"], refused_harmful: Float[Tensor, "layer d"], accepted_harmless: Float[Tensor, "layer d"]
) -> Float[Tensor, "prompt layer"]:
    """s(h) = cos(h, μ refused-harmful) − cos(h, μ accepted-harmless), per layer (arXiv 2507.11878, eq. 2)."""
    return cosine(acts, refused_harmful.expand_as(acts)) - cosine(acts, accepted_harmless.expand_as(acts))


def split_half_cosine(acts, positive, negative, seed: int = 0, repeats: int = 20) -> Float[Tensor, "*layers"]:
    """Mean cosine between directions from two disjoint halves of both groups: the ceiling that sampling noise allows."""
    rng = np.random.default_rng(seed)
    total = 0
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


def bootstrap_cosine(acts_a, acts_b, positive, negative, draws: int = 500, seed: int = 0) -> Float[Tensor, "draws *layers"]:
    """Cosines between the directions at two positions, prompts of both groups drawn anew (the same ones for both positions)."""
    rng = np.random.default_rng(seed)
    total = []
    for acts in (acts_a, acts_b):
        total.append(torch.zeros(draws, *acts.shape[1:]))
    for sign, group in ((1, positive), (-1, negative)):
        index = np.flatnonzero(group)
        weights = torch.from_numpy(rng.multinomial(len(index), np.full(len(index), 1 / len(index)), draws) / len(index)).float()
        for sums, acts in zip(total, (acts_a, acts_b), strict=True):
            sums += sign * (weights @ acts[index].flatten(1)).unflatten(1, acts.shape[1:])
    return cosine(*total)


def random_directions(like: Float[Tensor, "d"], n: int, seed: int = 0) -> list[Float[Tensor, "d"]]:
    """`n` isotropic random directions with the norm of `like`: the control for every steering claim."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(n, like.shape[-1], generator=generator)
    return list(draws / draws.norm(dim=-1, keepdim=True) * like.norm())


def successive_halving(candidates: Sequence, evaluate, rungs: Sequence[int], keep: float = 1 / 3):
    """Search by tournament: score all on few prompts, keep the best share, score those on more (Jamieson & Talwalkar, 2016).

    `evaluate(candidates, n)` returns a list of losses on the first n prompts, lower is better. Returns the survivors of the last
    rung, best first, with their losses there.
    """
    alive = list(candidates)
    for rung, n in enumerate(rungs):
        losses = evaluate(alive, n)
        order = sorted(range(len(alive)), key=lambda i: (losses[i], i))
        if rung + 1 < len(rungs):
            order = order[: max(1, round(len(order) * keep))]
        alive, losses = [alive[i] for i in order], [losses[i] for i in order]
    return list(zip(alive, losses, strict=True))
