"""What attention heads write along a direction, and what becomes of a score without some of them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.measure.probes import Prober
from refusal.model import weights
from refusal.model.loading import Model
from refusal.trace import cache
from refusal.trace.edits import ScaleHead, rows_of
from refusal.trace.reads import collect, score_rows
from refusal.trace.thinking import Rollout


def attribution(
    model: Model, rollouts: Sequence[Rollout], w: Float[Tensor, "d"]
) -> Float[Tensor, "rollout layer head"]:
    """What every head writes at the last token along the prober's direction, from one forward pass."""
    return written(
        model,
        collect(model, [r.prompt for r in rollouts], at=["t_post"], sites=["heads"])["heads"][:, :, 0],
        w,
    )


def written(
    model: Model, z: Float[Tensor, "rollout layer d"], w: Float[Tensor, "d_model"]
) -> Float[Tensor, "rollout layer head"]:
    """What every head writes along a direction: (W_O^h z_h) · w / ‖w‖; z are the output projections' inputs,
    [..., n_heads * d_head].
    """
    unit = w / w.norm()
    read = []
    for layer in range(model.n_layers):
        writes = weights.rows(weights.head_projection(model, layer))  # [input, d_model]
        read.append(writes.detach().float().cpu() @ unit)
    return (z * torch.stack(read)).unflatten(-1, (model.n_heads, model.d_head)).sum(-1)


def last_scores(
    model: Model, rollouts: Sequence[Rollout], arms: Sequence[Sequence], prober: Prober
) -> Float[Tensor, "arm rollout *row"]:
    """The last layer's refusal score at the last token of each rollout, under every arm of edits, as
    `Prober.at_the_end`. Cached on disk.
    """
    prompts, of = [r.prompt for r in rollouts], {"w": prober.w[prober.top], "b": prober.b[prober.top]}
    name = cache.key(model, last_scores, prompts=prompts, arms=arms, **of)

    def compute():
        rows, label = rows_of(prompts, arms), f"{len(arms)} sets of heads"
        return {"score": score_rows(model, rows, prober.at_the_end, of="state", label=label)}

    return cache.remember_tensors(name, compute)["score"].unflatten(0, (len(arms), -1))


def most_negative(effect: Float[Tensor, "layer head"], share: float) -> list[tuple[int, int]]:
    """The (layer, head) of the `share` of heads that write most against refusal; one at least."""
    n = max(1, round(share * effect.numel()))
    order = effect.flatten().argsort()[:n]
    return [divmod(int(k), effect.shape[1]) for k in order]


def matched_sets(
    heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int, n: int, seed: int = 0, never: Sequence = ()
) -> list[list]:
    """`n` different random sets with as many heads in each layer as `heads` has, none of `heads` itself where
    a layer has enough others. Where the layers have no `n` such sets, sets of as many heads from anywhere,
    but for those `never` to be drawn; fewer than `n` where there are no more of these either.
    """
    rng, out, tries = np.random.default_rng(seed), {}, 50 * n
    by_layer: dict[int, set] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, set()).add(head)
    pools = {
        layer: others
        if len(others := [h for h in range(n_heads) if h not in mine]) >= len(mine)
        else list(range(n_heads))
        for layer, mine in by_layer.items()
    }
    matched = math.prod(math.comb(len(pool), len(by_layer[layer])) for layer, pool in pools.items()) >= n
    anywhere = [
        (layer, head)
        for layer in range(n_layers)
        for head in range(n_heads)
        if (layer, head) not in {*heads, *never}
    ]
    while len(out) < n and tries:
        tries -= 1
        if matched:
            chosen = [
                (layer, int(h))
                for layer, pool in pools.items()
                for h in rng.choice(pool, len(by_layer[layer]), replace=False)
            ]
        else:
            chosen = [
                anywhere[k] for k in rng.choice(len(anywhere), min(len(heads), len(anywhere)), replace=False)
            ]
        if set(chosen) != set(heads):
            out.setdefault(frozenset(chosen), chosen)
    return list(out.values())


def silence(heads: Sequence[tuple[int, int]], rescale: bool, span: str = "every_token") -> list[ScaleHead]:
    """Edits that switch heads off at every token."""
    return [ScaleHead(layer, head, 0.0, span, rescale) for layer, head in heads]


def sparsity(effect: Float[Tensor, "layer head"]) -> list[float]:
    """The share of all negative attribution that the most negative 1, 2, 3, … heads hold."""
    negative = (-effect.flatten()).clamp_min(0).sort(descending=True).values
    return (negative.cumsum(0) / negative.sum().clamp_min(1e-12)).tolist()
