"""First tokens under edits of a prompt's last token: all before it is read once, and each row costs one
token.

What an edit at the last token changes is never seen by the tokens before it, so their keys and values serve
every arm.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from refusal.base.progress import track
from refusal.trace import cache
from refusal.trace.batches import batch, check_lengths, micro_batches
from refusal.trace.decode import read_prefix
from refusal.trace.edits import Row, compile_edits
from refusal.trace.passes import forward, not_finite
from refusal.trace.prefix import Prefix
from refusal.trace.prompts import Prompt
from refusal.trace.reads import score_rows

if TYPE_CHECKING:
    from refusal.model.loading import Model


def before_last(model: "Model", prompts: Sequence[Prompt]) -> Prefix | None:
    """Keys and values of prompts up to their last token, read when first asked for; None for a remote run."""
    return read_prefix(model, [p.ids[:-1] for p in prompts])


def score_last(
    model: "Model",
    rows: Sequence[Row],
    readout: Callable,
    prefix: Prefix | None,
    *,
    label: str = "first tokens",
) -> torch.Tensor:
    """As `refusal.trace.reads.score` of rows: [row, …]; their edits act on the last token alone. `prefix` is
    `before_last` of their prompts; without it whole prompts are read. Cached on disk.

    Raises ValueError for an edit that acts on an earlier token.
    """
    for row in rows:
        if any(min(row.prompt.span(e.span)) < len(row.prompt.ids) - 1 for e in row.edits):
            raise ValueError("an edit of an earlier token changes what is read before the last one")
    name = cache.key(model, score_last_rows, rows=rows, readout=readout)
    compute = lambda: {"score": score_last_rows(model, rows, readout, prefix, label)}
    return cache.remember_tensors(name, compute)["score"]


def score_last_rows(
    model: "Model", rows: Sequence[Row], readout: Callable, prefix: Prefix | None, label: str
) -> torch.Tensor:
    """As `score_last`, and not cached."""
    if prefix is None:
        return score_rows(model, rows, readout, label=label)
    prompts, out = [r.prompt for r in rows], None
    check_lengths(model, prompts)
    for members in track(micro_batches(model, [len(p.ids) for p in prompts], 0), label):
        some = [prompts[i] for i in members]
        cached, mask = prefix.rows([prefix.row(p.ids[:-1]) for p in some])
        part = batch(model, [p.ids[-1:] for p in some], mask, members)
        # every position but the last is before the batch, in all rows
        ops = compile_edits(model, [rows[i] for i in members], 1, min(len(p.ids) for p in some) - 1)
        _, logits = forward(model, part, ops, cache=cached, logits=True)
        if not torch.isfinite(logits).all():
            not_finite(model, "the logits after a prompt")
        values = readout(logits.float()).cpu()
        out = torch.empty(len(rows), *values.shape[1:]) if out is None else out
        out[members] = values.float()
    assert out is not None, "there are rows"
    return out
