"""Rows as padded batches: filled by token count and sorted by length, never wider than a model can bear."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from refusal.base.errors import UserError
from refusal.trace.prefix import reach

if TYPE_CHECKING:
    from refusal.model.loading import Model

# bytes of keys and values of the rows that are decoded together, on a CPU if in bfloat16
CACHE_BYTES = {"cpu": 640 << 20, "mps": 1 << 30, "cuda": 4 << 30}


@dataclass
class Batch:
    """Rows of a forward pass: which they are, their tokens after the prefix, masks over prefix and rest."""

    rows: list[int]
    ids: torch.Tensor  # [row, width]
    mask: torch.Tensor  # [row, prefix + width]
    positions: torch.Tensor  # [row, width]
    pad: list[int]  # padding on the left of each row


def plan(model: "Model", widths: Sequence[int], before: int = 0, new: float = 0) -> list[list[int]]:
    """Rows of so many tokens by batch: longest first, within ``batch_tokens`` padded tokens, and no row much
    shorter than the longest of its batch.

    Where `before` tokens lie before them as keys and values, padding would lie between: rows of one length
    then, if the model sees no further than padding, `before` and `new` tokens after them.
    """
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    batches: list[list[int]] = []
    unpadded = before and before + max(widths, default=0) + new > reach(model.module)
    for i in order:
        if batches:
            width = widths[batches[-1][0]]
            padded = widths[i] < width if unpadded else len(batches[-1]) >= 8 and widths[i] < 0.75 * width
            if (len(batches[-1]) + 1) * width <= model.batch_tokens and not padded:
                batches[-1].append(i)
                continue
        batches.append([i])
    return batches


def batch(
    model: "Model", tails: Sequence[Sequence[int]], before: torch.Tensor, rows, side: str = "left"
) -> Batch:
    """The batch of what follows tokens that are read already; `before` is their mask, [row, token]."""
    width, cached = max(map(len, tails)), before.shape[1]
    device = "cpu" if model.device.type == "meta" else model.device
    ids = torch.full((len(tails), width), model.tokenizer.pad_token_id)
    mask = torch.cat([before.cpu(), torch.zeros(len(tails), width, dtype=torch.long)], 1)
    pad = []
    for r, tail in enumerate(tails):
        left = width - len(tail) if side == "left" else 0
        ids[r, left : left + len(tail)] = torch.tensor(tail)
        mask[r, cached + left : cached + left + len(tail)] = 1
        pad.append(left)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, cached:]
    return Batch(list(rows), ids.to(device), mask.to(device), positions.to(device), pad)


def micro_batches(model: "Model", lengths: Sequence[int], new: int) -> list[list[int]]:
    """Rows of so many tokens by group that is decoded together, longest first: a step reads the weights once,
    for few rows as for many.

    What is left for the last group joins the one before it where it is less than an eighth of that.
    """
    if model.device.type == "meta":  # a remote run keeps nothing here
        return [list(range(len(lengths)))]
    config = model.module.config.get_text_config(decoder=True)
    # as many rows in float32 as in bfloat16: fewer, and each step waits for the weights
    size = 2 if model.device.type == "cpu" else model.dtype.itemsize
    heads = getattr(config, "num_key_value_heads", None) or model.n_heads
    per_token = 2 * model.n_layers * heads * model.d_head * size
    kept, weights = CACHE_BYTES[model.device.type], model.module.num_parameters() * size
    if model.device.type == "cpu":
        # so that a large model and what is kept of it fit a small machine
        kept = max(kept // 4, kept - weights // 5)
    tokens = max(model.batch_tokens, kept // per_token)
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * (lengths[groups[-1][0]] + new) <= tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    if len(groups) > 1 and 8 * len(groups[-1]) < len(groups[-2]):
        groups[-2:] = [groups[-2] + groups[-1]]
    return groups


def check_lengths(model: "Model", prompts, new: int = 1) -> None:
    """Raises UserError for a prompt which with its new tokens, of which the last is not read, is longer than
    the positions that a model has learned."""
    most = model.max_positions
    if most is None:
        return
    for p in prompts:
        if len(p.ids) + new - 1 > most:
            more = f" and is given {new} new ones" if new > 1 else ""
            raise UserError(
                f"prompt {p.id} has {len(p.ids)} tokens{more}; {model.name} has only {most} positions",
                "leave it out, shorten it, or ask for fewer new tokens",
            )
