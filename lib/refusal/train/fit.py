"""The training loop: parameters, a loss, batches. What is trained here is measured and thrown away.

Models that are kept are made by `refusal.train.recipes`, with transformers' Trainer, which goes on from its
checkpoints where a run was cut.
"""

import copy
import math
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from peft import get_peft_model  # low-rank adapters: the field's own library for them
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from refusal.base.errors import UserError
from refusal.base.progress import track
from refusal.model.loading import Model, wrap
from refusal.trace.prefix import Prefix, reach
from refusal.train.adapters import low_rank
from refusal.train.batches import left_padded

TOGETHER = 4  # examples per backward pass
Example = tuple[list[int], list[int]]  # the tokens of a prompt and of its answer
Part = TypeVar("Part")
Drawn = TypeVar("Drawn", bound=tuple)


def adapted(module, seed: int, where: str | list[str] = "all-linear"):
    """A copy of `module` to be trained, with low-rank adapters (rank 16) at every linear layer or at those
    named; all else is frozen.

    The adapters stay beside the weights: added to weights in bfloat16, small updates would be rounded away.
    """
    torch.manual_seed(seed)
    # shared with the original, for nothing changes them
    frozen = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return get_peft_model(copy.deepcopy(module, frozen), low_rank(where)).get_base_model()


def alike(model: Model, module: PreTrainedModel) -> Model:
    """The module of a changed copy as a model like `model`, under a revision of its own, so that nothing that
    is kept of another one is taken for its.
    """
    found = wrap(module, model.tokenizer, name=model.name, batch_tokens=model.batch_tokens)
    return replace(found, revision=uuid.uuid4().hex)


def fit(
    parameters: Iterable[torch.nn.Parameter],
    loss_of: Callable[[Part], torch.Tensor],
    batches: Sequence[Sequence[Part]],
    *,
    learning_rate: float,
    label: str,
    clip: float = math.inf,
) -> list[float]:
    """AdamW steps, one for each batch; returns the loss of each. A batch comes in parts, whose losses and
    gradients add up, so that only memory and time depend on how it is cut. `clip` is the largest norm of a
    step's gradient. Raises UserError where a loss is not finite.
    """
    trained = list(parameters)
    optimizer, losses = torch.optim.AdamW(trained, lr=learning_rate, fused=True), []
    for parts in track(batches, label):
        total = 0.0
        for part in parts:
            loss = loss_of(part)
            loss.backward()
            total += float(loss.detach())
        if clip < math.inf:
            torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(total):
            what = f"{label}: the loss is {total} after {len(losses)} steps"
            raise UserError(what, "a lower rate, or DTYPE=float32, may help")
        losses.append(total)
    return losses


def drawn(examples: Sequence[Drawn], n: int, batch: int, seed: int) -> list[list[Drawn]]:
    """`n` batches from seeded passes over all examples, each a prompt, its answer and what may follow; within
    a batch alike lengths go together. Raises ValueError where there is no example.
    """
    if not examples:
        raise ValueError("there are no examples to train on")
    rng, order, out = random.Random(seed), [], []
    for _ in range(n):
        while len(order) < batch:
            order += rng.sample(range(len(examples)), len(examples))
        rows, order = order[:batch], order[batch:]
        out.append(sorted((examples[i] for i in rows), key=lambda row: len(row[0]) + len(row[1])))
    return out


def steps(
    module: PreTrainedModel,
    examples: Sequence[Example],
    n: int,
    learning_rate: float,
    seed: int,
    batch: int = 8,
    together: int = TOGETHER,
    *,
    prefix: Prefix | None = None,
    label: str,
) -> list[float]:
    """`n` steps of `fit` on the answers' cross-entropy; returns the loss of each.

    With `prefix` what an example begins with is taken as it was read there, so that what is trained acts on
    the rest alone, as in activated low-rank adapters (Greenewald et al., arXiv 2504.12397); requests and
    thoughts are then read once for any number of trainings.
    """
    if prefix and reach(module) < math.inf:
        # rows of unequal length would have padding between what was read and the rest, which counts there
        together = 1

    def loss_of(part: tuple[list[Example], int]) -> torch.Tensor:
        rows, learned = part
        return answers_loss(module, rows, prefix) / learned

    batches = []
    for rows in drawn(examples, n, batch, seed):
        learned = sum(len(answer) for _, answer in rows)
        batches.append([(rows[i : i + together], learned) for i in range(0, batch, together)])
    return learn(module, loss_of, batches, learning_rate, label)


def learn(
    module: PreTrainedModel,
    loss_of: Callable[[Part], torch.Tensor],
    batches: Sequence[Sequence[Part]],
    learning_rate: float,
    label: str,
) -> list[float]:
    """`fit` of what is to be trained in a module; frozen and out of training afterwards."""
    attention = module.config._attn_implementation
    # half the time on a CPU; on a GPU the default's gradients are not finite for rows padded on the left
    module.set_attn_implementation("eager")
    module.train()
    trained = [p for p in module.parameters() if p.requires_grad]
    losses = fit(trained, loss_of, batches, learning_rate=learning_rate, label=label)
    module.set_attn_implementation(attention)
    module.eval().requires_grad_(False)
    return losses


def answers_loss(
    module: torch.nn.Module, rows: Sequence[Example], prefix: Prefix | None = None
) -> torch.Tensor:
    """The answers' summed cross-entropy, in nats."""
    before, device = {}, next(module.parameters()).device
    if prefix:
        sequences = [prefix.longest(prompt, len(prompt) - 1) for prompt, _ in rows]
        rows = [
            (prompt[prefix.length(k) :], answer) for k, (prompt, answer) in zip(sequences, rows, strict=True)
        ]
        cache, cached = prefix.rows(sequences)
        before = {"cache": cache}
    batch = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in left_padded(rows).items()
    }
    if prefix:
        batch["attention_mask"] = torch.cat([cached, batch["attention_mask"]], 1)
        batch["position_ids"] = batch["position_ids"] + cached.sum(1, keepdim=True)
    labels = batch.pop("labels")
    logits = module(**batch, **before).logits
    return cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
