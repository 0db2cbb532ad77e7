"""The controller of arXiv 2505.20309 (section 3.2): from the states of a few layers at the last prompt
token, how strongly to push (a scale s) and in which layers (weights w). One hidden layer of 1024 units.

As described, s is learned by squares and w by nothing; as released, s is learned by a logistic loss on what
is later used without its sigmoid, and w is pulled to ½.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from refusal.base.errors import ParameterError, nearest
from refusal.train.fit import fit as descend

HIDDEN = 1024
LEAST = 20  # training prompts of each class
RATE, CLIP = 5e-5, 1.0


@dataclass(frozen=True)
class Loss:
    """How a controller learns: the batch, the passes over all prompts, whether as released."""

    batch: int
    epochs: int
    released: bool = False

    def of(self, out: Float[Tensor, "prompt k"], harmful: Float[Tensor, "prompt"]) -> Tensor:
        """The loss of a batch, from the scale and the weights' logits."""
        s, w = out[:, 0], out[:, 1:].sigmoid()
        if self.released:  # training.py 99 and 105
            return binary_cross_entropy_with_logits(s, harmful) + (w - 0.5).square().mean()
        return (s - harmful).square().mean() / 2  # section 3.2; no term holds w

    def batches(self, harmful: Tensor, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The prompts of each step: mixed; as released all harmful ones and then all harmless ones, every
        time.
        """
        kinds = [np.flatnonzero(harmful.numpy() == kind) for kind in (1, 0)]
        for _ in range(self.epochs):
            mixed = [rng.permutation(k) for k in kinds] if self.released else [rng.permutation(len(harmful))]
            for order in mixed:
                yield from (order[i : i + self.batch] for i in range(0, len(order), self.batch))


LOSSES = {"published": Loss(4, 4), "released": Loss(8, 10, True), "untrained": Loss(4, 0)}


@dataclass(frozen=True)
class Controller:
    """A fitted controller: the `layers` that it reads, and its network, float32."""

    layers: tuple[int, ...]
    network: torch.nn.Module  # [prompt, layers * d_model] → [prompt, 1 + n]

    def out(self, states: Float[Tensor, "prompt layer d"]) -> Float[Tensor, "prompt k"]:
        """The scale and the weights' logits."""
        return self.network(states[:, list(self.layers)].flatten(1).float())


def reads_of(n_layers: int, given: Sequence[int] = ()) -> list[int]:
    """The layers that a controller reads: those given, else the four up to a third of the depth. The
    closing token's ``h[0]`` is the same for every prompt. Raises ParameterError for a layer that is not
    there, or above which none is left to push.
    """
    reads = sorted(set(given)) or list(range(max(1, n_layers // 3 - 3), max(1, n_layers // 3) + 1))
    if not all(isinstance(k, int) and 1 <= k < n_layers - 1 for k in reads):
        raise ParameterError(
            f"a controller cannot read the layers {reads}", f"choose layers from 1 to {n_layers - 2}"
        )
    return reads


def fit(
    states: Float[Tensor, "prompt layer d"],
    harmful: ArrayLike,
    layers: Sequence[int],
    n_weights: int,
    loss: str = "published",
    seed: int = 0,
) -> Controller:
    """A controller that reads `layers` of the states and weighs `n_weights` layers. Raises ParameterError
    for an unknown loss, a layer that is not there, or fewer than 20 prompts of a class.
    """
    if loss not in LOSSES:
        raise ParameterError(f"unknown loss {loss!r}", nearest(loss, LOSSES))
    harmful = np.asarray(harmful, bool)
    if bad := [k for k in layers if not 0 <= k < states.shape[1]]:
        raise ParameterError(f"there is no layer {bad[0]}", f"layers run from 0 to {states.shape[1] - 1}")
    if min(harmful.sum(), (~harmful).sum()) < LEAST:
        raise ParameterError(
            f"a controller is trained on at least {LEAST} prompts of each class, not {harmful.sum()} and "
            f"{(~harmful).sum()}"
        )
    torch.manual_seed(seed)
    x, y = states[:, list(layers)].flatten(1).float(), torch.from_numpy(harmful).float()
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1 + n_weights)
    )
    how = LOSSES[loss]
    order = [torch.from_numpy(rows) for rows in how.batches(y, np.random.default_rng(seed))]
    loss_of = lambda rows: how.of(network(x[rows]), y[rows])
    descend(
        network.parameters(),
        loss_of,
        [[rows] for rows in order],
        learning_rate=RATE,
        clip=CLIP,
        label="a controller",
    )
    return Controller(tuple(layers), network.requires_grad_(False))


def strengths(
    controller: Controller, states: Float[Tensor, "prompt layer d"]
) -> tuple[Float[np.ndarray, "prompt"], Float[np.ndarray, "prompt weight"]]:
    """The scale of each prompt and the weights of its layers."""
    out = controller.out(states)
    return out[:, 0].numpy(), out[:, 1:].sigmoid().numpy()
