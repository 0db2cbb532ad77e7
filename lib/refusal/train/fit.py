"""A few steps of fine-tuning on (prompt, answer) tokens; for measurements on copies that are thrown away.

Models that are kept are made by `refusal.train.recipes`.
"""

import copy
import math
import random
from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model  # low-rank adapters: the field's own library for them
from torch.nn.functional import cross_entropy

from refusal.base.errors import UserError
from refusal.base.progress import track
from refusal.trace.prefix import Prefix, reach
from refusal.train.batches import left_padded

TOGETHER = (
    2  # examples per backward pass; gradients add up over a batch, so only memory and time depend on it
)


def adapted(module, seed: int, where: str | list[str] = "all-linear"):
    """A copy of `module` to be trained, with low-rank adapters (rank 16) at every linear layer or at those
    named; all else is frozen.

    The adapters stay beside the weights: added to weights in bfloat16, small updates would be rounded away.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=where, task_type="CAUSAL_LM")
    frozen = {
        id(t): t for t in [*module.parameters(), *module.buffers()]
    }  # shared with the original, for nothing changes them
    return get_peft_model(copy.deepcopy(module, frozen), config).get_base_model()


def steps(
    module,
    examples: Sequence[tuple[list[int], list[int]]],
    n: int,
    learning_rate: float,
    seed: int,
    batch: int = 8,
    together: int = TOGETHER,
    *,
    prefix: Prefix | None = None,
    label: str,
) -> list[float]:
    """`n` AdamW steps on the answers' cross-entropy; returns the loss of each step. Examples are drawn in
    seeded passes over all of them.

    With `prefix` what an example begins with is taken as it was read there, so that what is trained acts on
    the rest alone, as in activated low-rank adapters (Greenewald et al., arXiv 2504.12397); requests and
    thoughts are then read once for any number of trainings.
    """
    rng, order, losses = random.Random(seed), [], []
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=learning_rate)
    if prefix and reach(module) < math.inf:
        # rows of unequal length would have padding between what was read and the rest, which such a model
        # counts as tokens
        together = 1
    attention = module.config._attn_implementation
    module.set_attn_implementation(
        "eager"
        # half the time on a CPU; on a GPU the default's gradients are not finite for rows that are padded on
        # the
        # left
    )
    module.train()
    for _ in track(range(n), label):
        while len(order) < batch:
            order += rng.sample(range(len(examples)), len(examples))
        rows, order = (
            sorted((examples[i] for i in order[:batch]), key=lambda row: len(row[0]) + len(row[1])),
            order[batch:],
        )  # alike lengths go together
        n_learned, total = sum(len(answer) for _, answer in rows), 0.0
        for i in range(0, batch, together):
            loss = _summed_loss(module, rows[i : i + together], device, prefix) / n_learned
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(total):
            raise UserError(
                f"{label}: the loss is {total} after {len(losses)} steps",
                "a lower rate, or DTYPE=float32, may help",
            )
        losses.append(total)
    module.set_attn_implementation(attention)
    module.eval().requires_grad_(False)
    return losses


def _summed_loss(module, rows, device, prefix: Prefix | None = None) -> torch.Tensor:
    """The answers' summed cross-entropy."""
    before = {}
    if prefix:
        stems = [prefix.longest(prompt, len(prompt) - 1) for prompt, _ in rows]
        rows = [(prompt[prefix.length(k) :], answer) for k, (prompt, answer) in zip(stems, rows, strict=True)]
        cache, held = prefix.rows(stems)
        before = {"cache": cache}
    batch = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in left_padded(rows).items()
    }
    if prefix:
        batch["attention_mask"] = torch.cat([held, batch["attention_mask"]], 1)
        batch["position_ids"] = batch["position_ids"] + held.sum(1, keepdim=True)
    labels = batch.pop("labels")
    logits = module(**batch, **before).logits
    return cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
