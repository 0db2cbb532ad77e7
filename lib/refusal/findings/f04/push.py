"""The push of notebook 04: vectors added above the layers that a controller reads, each prompt at a
strength of its own.

Added to ``h[l]`` is α · s · w_l · 2/K · v_l, with K the number of pushed layers: at s = 1 and w = ½
everywhere, which is what an untrained head gives, α = 1 adds the mean of all v_l.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.base.errors import ParameterError
from refusal.findings.f04.controller import Controller
from refusal.model.loading import Model
from refusal.trace.edits import Add, Edit, Row, Steer
from refusal.trace.last import score_last
from refusal.trace.prefix import Prefix
from refusal.trace.prompts import Prompt

HALF = 0.5


@dataclass(frozen=True)
class Push:
    """What is added, one vector for each of `layers`, at the prompt's last token and every generated one.
    Raises ParameterError for layers at or below those that are read, for vectors of another number, and for
    α that is not above 0.
    """

    vectors: Float[Tensor, "layer d"]
    layers: tuple[int, ...]
    alpha: float = 1.0
    reads: tuple[int, ...] = ()

    def __post_init__(self):
        if self.reads and min(self.layers) <= max(self.reads):
            raise ParameterError(
                f"layer {min(self.layers)} is pushed before layer {max(self.reads)} is read",
                f"push layers from {max(self.reads) + 1} on",
            )
        if len(self.vectors) != len(self.layers):
            raise ParameterError(f"{len(self.vectors)} vectors for {len(self.layers)} layers")
        if not self.alpha > 0:
            raise ParameterError(f"alpha={self.alpha:g} pushes nothing", "give a number above 0")

    def at(self, alpha: float) -> "Push":
        """The same push at another strength."""
        return replace(self, alpha=alpha)

    def along(self, vectors: Tensor) -> "Push":
        """The same push along other vectors."""
        return replace(self, vectors=vectors)

    def edits(self, scale: float, weights: ArrayLike | None = None, span: str = "last") -> tuple[Edit, ...]:
        """The edits of one prompt: none at scale 0; w = ½ in all layers where no weights are given."""
        if not scale:
            return ()
        w = np.full(len(self.layers), HALF) if weights is None else np.asarray(weights, float)
        strength = self.alpha * float(scale) * 2 / len(self.layers)
        each = zip(self.vectors, self.layers, w, strict=True)
        return tuple(Add(v, layer, span, strength * float(one)) for v, layer, one in each)

    def steer(self, controller: Controller) -> Steer:
        """The push as strong as a controller says, read anew at each token in the pass that pushes."""
        hidden, _, out = cast(list[torch.nn.Linear], controller.network)
        network = (hidden.weight, hidden.bias, out.weight, out.bias)
        return Steer(controller.layers, self.layers, self.vectors, network, self.alpha * 2 / len(self.layers))

    def rows(
        self, prompts: Sequence[Prompt], scale: ArrayLike, weights: np.ndarray | None = None
    ) -> list[Row]:
        """Each prompt with its own push: scale [prompt], weights [prompt, layer]."""
        w = [None] * len(prompts) if weights is None else list(weights)
        return [
            Row(p, self.edits(s, x)) for p, s, x in zip(prompts, np.asarray(scale, float), w, strict=True)
        ]


def refused(model: Model, rows: Sequence[Row], readout: Callable, prefix: Prefix | None) -> np.ndarray:
    """Whether each row's first token is one with which refusals begin [row]; `readout` is above 0 there,
    and `prefix` holds what comes before the last token.
    """
    return score_last(model, rows, readout, prefix).numpy() > 0
