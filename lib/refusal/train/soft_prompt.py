"""Soft prompts: the states of a system prompt's tokens before the first block, learned by gradient with the
model frozen (arXiv 2104.08691; 2401.18018, section 3).

A soft prompt is an edit, ``Patch(theta, 0, "system")``, on prompts that have a system prompt of as many
tokens: read, scored and decoded like any other. It begins as the states of a text, and then is that text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.errors import UserError
from refusal.model.weights import final_norm, vocabulary_head
from refusal.trace import cache, opening
from refusal.trace.batches import check_lengths
from refusal.trace.edits import Patch, Row, compile_edits
from refusal.trace.opening import Opening, rest
from refusal.trace.passes import forward
from refusal.trace.prompts import Prompt
from refusal.trace.reads import collect
from refusal.train.fit import fit

if TYPE_CHECKING:
    from refusal.model.loading import Model


@runtime_checkable
class Objective(Protocol):
    """The loss of some prompts from the outputs of the final norm at their last token and at those of their
    answer that are given, [prompt, 1 + given, d_model], padded on the left; `which` are their numbers. A
    frozen dataclass, so that what is learned by it can be kept.
    """

    def __call__(self, x: Tensor, which: Sequence[int], head: torch.nn.Module) -> Tensor: ...


def soft(theta: Float[Tensor, "token d"]) -> tuple[Patch, ...]:
    """The edits under which prompts have the soft prompt theta in place of their system prompt."""
    return (Patch(theta, 0, "system"),)


def states_of_text(model: "Model", prompts: Sequence[Prompt]) -> Float[Tensor, "token d"]:
    """What the system prompt that all `prompts` have is before the first block. Raises UserError where they
    have none, or not all the same.
    """
    places = {(p.system, p.ids[slice(*p.system)]) for p in prompts}
    if len(places) != 1 or prompts[0].system[0] == prompts[0].system[1]:
        raise UserError("these prompts have no system prompt in common", "give chat one: system=")
    at = [k - len(prompts[0].ids) for k in range(*prompts[0].system)]
    return collect(model, prompts[:1], [at], layers=[0])["resid"][0, 0]


def normed(model: "Model", states: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest d"]:
    """Outputs of the final norm of the last block's outputs, float32, on the CPU."""
    with torch.no_grad():
        return final_norm(model)(states.to(model.device, model.dtype)).float().cpu()


def train(
    model: "Model",
    prompts: Sequence[Prompt],
    theta: Float[Tensor, "token d"],
    objective: Objective,
    batches: Sequence[Sequence[int]],
    *,
    learning_rate: float,
    label: str = "training a soft prompt",
) -> tuple[Float[Tensor, "token d"], list[float]]:
    """The soft prompt learned from `theta` by AdamW, one step for each of `batches` of prompts' numbers, and
    the loss of each step. Cached on disk.

    Raises UserError for a theta of another width or length than the prompts' system prompt, for a loss that
    is not finite, and for a remote run, which gives values back and no gradients.
    """
    if model.remote:
        raise UserError("a soft prompt is trained by gradients, which a remote run does not give back")
    places = {p.system for p in prompts}
    tokens = {stop - start for start, stop in places}
    if theta.dim() != 2 or theta.shape[1] != model.d_model or tokens != {len(theta)}:
        raise UserError(
            f"a soft prompt of shape {list(theta.shape)} does not fit prompts of {model.name} with "
            f"{sorted(tokens)} system tokens",
            f"it needs one row for each of them, {model.d_model} wide",
        )
    name = cache.key(
        model,
        learn,
        prompts=prompts,
        theta=theta,
        objective=objective,
        batches=batches,
        learning_rate=learning_rate,
    )
    compute = lambda: learn(model, prompts, theta, objective, batches, learning_rate, label)
    found = cache.remember_tensors(name, compute)
    return found["theta"], found["losses"].tolist()


def learn(
    model: "Model",
    prompts: Sequence[Prompt],
    theta: Tensor,
    objective: Objective,
    batches: Sequence[Sequence[int]],
    learning_rate: float,
    label: str,
) -> dict[str, Tensor]:
    """As `train`, and not cached: {"theta", "losses"}."""
    check_lengths(model, prompts)
    learned = torch.nn.Parameter(theta.detach().clone().float())
    head = vocabulary_head(model)
    attention = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")  # half the time of a backward pass on a CPU

    def loss_of(which: Sequence[int]) -> Tensor:
        return objective(outputs(model, [prompts[i] for i in which], learned), which, head)

    try:
        losses = fit(
            [learned],
            loss_of,
            [[which] for which in batches],
            learning_rate=learning_rate,
            label=label,
            clip=1.0,
        )
    finally:
        model.module.set_attn_implementation(attention)
    return {"theta": learned.detach(), "losses": torch.tensor(losses)}


def outputs(model: "Model", prompts: Sequence[Prompt], theta: Tensor) -> Float[Tensor, "prompt position d"]:
    """Outputs of the final norm as an `Objective` takes them, in the graph of theta; what all prompts begin
    with is read once.
    """
    edits = soft(theta)
    rows = [Row(p, edits) for p in prompts]
    shared = Opening(model, rows, opening.shared_length(model, rows), grad=True)
    which = range(len(rows))
    batch = rest(model, rows, which, shared.n)
    width, back = batch.ids.shape[1], 1 + max(p.given for p in prompts)
    ops = compile_edits(model, rows, width, shared.n)
    columns = torch.arange(width - back, width).expand(len(rows), -1)
    read, _ = forward(
        model,
        batch,
        ops,
        {"resid": ([model.n_layers], columns)},
        cache=shared.cache(which),
        grad=True,
    )
    return final_norm(model)(read["resid"][:, 0])
