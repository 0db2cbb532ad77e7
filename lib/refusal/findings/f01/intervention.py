"""What a truth direction moves when it is added: in a score some layers above, and in what the model says.

Directions are given by layer, {layer: [d_model]}, under any name. Each is added to the last two tokens of
false statements and subtracted from those of true ones, and effects are in gaps between true and false: 1
moves a statement all the way to the other side. Part of a shift of the score is the added vector itself,
carried up by the residual stream without any computation.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.findings.f01 import truth
from refusal.measure import directions, stats
from refusal.model.loading import Model
from refusal.trace.prompts import Prompt

SPEAKS = 0.7  # the share of statements that a model must judge rightly in words, for its words to be read
Vectors = Mapping[int, Tensor]


@dataclass
class Moved:
    """Effects of directions in one model, {name: [statement]}, in gaps between true and false. `carried` is
    the part of each that needs no computation; `right` the share of statements that are judged rightly in
    words before, and `normalised` the paper's two normalisations of each effect.
    """

    effects: dict[Hashable, np.ndarray] = field(default_factory=dict)
    carried: dict[Hashable, float] = field(default_factory=dict)
    right: Estimate | None = None
    normalised: dict[Hashable, dict[str, float]] = field(default_factory=dict)


def random_vectors(
    states: Float[Tensor, "statement layer d"],
    label: ArrayLike,
    sets: ArrayLike,
    like: Float[Tensor, "all_layers d"],
    layers: Iterable[int],
    n: int,
    seed: int = 0,
) -> list[dict[int, Tensor]]:
    """`n` random directions at each of `layers`, of the norm of `like` there, drawn from the covariance of
    states of one set and one label: without what sets true and false apart.
    """
    names = np.char.add(np.asarray(sets).astype(str), np.asarray(label, bool).astype(str))
    plain, layers = directions.centred(states, names), list(layers)
    drawn = [directions.covariance_directions(plain[:, l], like[l], n, seed + l) for l in layers]
    return [{l: d[k] for l, d in zip(layers, drawn, strict=True)} for k in range(n)]


def by_score(
    model: Model,
    prompts: Sequence[Prompt],
    states: Float[Tensor, "statement d"],
    label: Bool[np.ndarray, "statement"],
    v: Float[Tensor, "d"],
    layer: int,
    vectors: Mapping[Hashable, Vectors],
) -> Moved:
    """Read in the truth score: the projection of ``h[layer]`` of the last token on the model's own direction
    `v` there. `states` are those of the statements at that layer, without intervention.
    """
    reader, found = v / v.norm(), Moved()
    scores = states @ reader
    gap = float(scores[label].mean() - scores[~label].mean())
    read = truth.probe(model, layer, reader)
    for name, by_layer in vectors.items():
        found.effects[name] = truth.moved(read, prompts, by_layer, (-2, -1), label) / gap
        found.carried[name] = float(sum(u @ reader for u in by_layer.values())) / gap
    return found


def by_verdict(
    model: Model,
    statements: Sequence[str],
    shots: pd.DataFrame,
    label: Bool[np.ndarray, "statement"],
    vectors: Mapping[Hashable, Vectors],
) -> Moved:
    """Read in words, P(TRUE) − P(FALSE) after the question, as in the paper; nothing but `right` where the
    model's words are right for fewer than `SPEAKS` of the statements.
    """
    asked, span = truth.questions(model, statements, shots)
    read = truth.verdict(model)
    clean = read(asked, []).numpy()
    right = stats.rate((clean > 0) == label)
    found = Moved(right=right)
    if right.value is None or right.value < SPEAKS:
        return found
    gap = clean[label].mean() - clean[~label].mean()
    for name, by_layer in vectors.items():
        shift = truth.moved(read, asked, by_layer, span, label)
        found.effects[name] = shift / gap
        found.normalised[name] = truth.normalised(shift, clean, label)
    return found
