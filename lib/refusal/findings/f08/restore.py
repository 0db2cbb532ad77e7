"""Does the shift along r cause what is done? Each prompt is given back its own lost component, at t_post and
one layer, so that a prompt that lost nothing is given nothing; a constant would make every prompt be refused.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from refusal.findings.f08.cells import Cell
from refusal.findings.f08.shift import moved, projection
from refusal.measure import directions
from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace.decode import generate
from refusal.trace.edits import Add, Row

CANDIDATES, RANDOM = 4, 20


def rows(there: Cell, p: Float[np.ndarray, "prompt"], direction: Float[Tensor, "d"], layer: int) -> list[Row]:
    """Each prompt of a cell with p times a direction added at t_post."""
    return [
        Row(prompt, (Add(direction, layer, "t_post", float(x)),))
        for prompt, x in zip(there.seen.prompts, p, strict=True)
    ]


def candidates(layers: Sequence[int], n: int = CANDIDATES) -> list[int]:
    """Some of the admitted layers, spread over them; blocks alone, for the last output has none after it."""
    inner = list(layers)[:-1] or list(layers)
    return sorted({inner[round(k * (len(inner) - 1) / max(n - 1, 1))] for k in range(n)})


def lost(there: Cell, usual: Cell, r: Float[Tensor, "layer d"]) -> Float[np.ndarray, "prompt layer"]:
    """What each prompt lost along r, in units of r."""
    return projection(moved(there.states, usual.states), r)


def refused(model: Model, which: Sequence[Row], max_new_tokens: int) -> np.ndarray:
    """Which rows are refused [row]."""
    said = generate(model, which, decoding=max_new_tokens, label="giving back what was lost")
    return np.array([judge(text) == "refusal" for text in said], bool)


def best_layer(
    model: Model, there: Cell, usual: Cell, r: Tensor, layers: Sequence[int], max_new_tokens: int
) -> tuple[int, dict[int, float]]:
    """The candidate layer at which giving back makes the most harmful prompts be refused, the first of
    several, and the share at each. Give it prompts that no claim is tested on.
    """
    p, tried = lost(there, usual, r), candidates(layers)
    every = [row for layer in tried for row in rows(there, p[:, layer], r[layer], layer)]
    parts = np.split(refused(model, every, max_new_tokens), len(tried))
    share = {layer: float(hits.mean()) for layer, hits in zip(tried, parts, strict=True)}
    return max(share, key=lambda layer: (share[layer], -layer)), share


def at_random(
    model: Model,
    there: Cell,
    p: np.ndarray,
    states: Float[Tensor, "prompt d"],
    groups: np.ndarray,
    like: Float[Tensor, "d"],
    layer: int,
    max_new_tokens: int,
    seed: int,
) -> np.ndarray:
    """Which prompts are refused with as much of random directions in place of r, that vary as `states` do
    within their `groups` [direction, prompt].
    """
    drawn = directions.covariance_directions(directions.centred(states, groups), like, RANDOM, seed)
    every = [row for g in drawn for row in rows(there, p, g, layer)]
    return np.array(np.split(refused(model, every, max_new_tokens), RANDOM))


def mean_gap(model: Model, there: Cell, p: np.ndarray, r: Tensor, layer: int, max_new_tokens: int):
    """Which prompts are refused if each is given the mean of what all lost [prompt]: the constant."""
    return refused(model, rows(there, np.full(len(p), p.mean()), r, layer), max_new_tokens)


def both_labels(there: Cell, hits: np.ndarray) -> tuple[float, float]:
    """The share refused among harmful and among harmless prompts."""
    return float(hits[there.harmful].mean()), float(hits[~there.harmful].mean())
