"""First tokens of many prompts of which some begin alike: what several begin with is read once.

Prompts put into the same words share more than the template's opening. Sorted by their tokens, those that
share most stand side by side; a stem is what neighbours share.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from refusal.base.progress import track
from refusal.trace import cache
from refusal.trace.batches import batch, check_lengths, micro_batches, plan
from refusal.trace.decode import read_prefix
from refusal.trace.edits import rows_of
from refusal.trace.passes import forward, not_finite
from refusal.trace.prompts import Prompt
from refusal.trace.reads import score_rows

if TYPE_CHECKING:
    from refusal.model.loading import Model

LEAST = 8  # tokens that a stem is longer than the stem below it, or it is not worth a row of its own


def score_stems(
    model: "Model", prompts: Sequence[Prompt], readout: Callable, *, label: str = "scoring"
) -> torch.Tensor:
    """As `refusal.trace.reads.score` of prompts without edits: [prompt, …]. Cached on disk."""
    name = cache.key(model, score_stems_of, prompts=prompts, readout=readout)
    compute = lambda: {"score": score_stems_of(model, prompts, readout, label)}
    return cache.remember_tensors(name, compute)["score"]


def score_stems_of(model: "Model", prompts: Sequence[Prompt], readout: Callable, label: str) -> torch.Tensor:
    """As `score_stems`, and not cached."""
    prefix = read_prefix(model, stems([p.ids for p in prompts]))
    if prefix is None:
        return score_rows(model, rows_of(prompts), readout, label=label)
    check_lengths(model, prompts)
    of = [prefix.longest(p.ids, len(p.ids) - 1) for p in prompts]
    skip, out = [prefix.length(k) for k in of], None
    widths = [len(p.ids) - n for p, n in zip(prompts, skip, strict=True)]
    lengths, groups = [len(p.ids) for p in prompts], []
    for some in plan(model, widths, max(skip)):  # what lies before the rest is copied for every row
        groups += [[some[k] for k in part] for part in micro_batches(model, [lengths[i] for i in some], 0)]
    for members in track(groups, label):
        cached, mask = prefix.rows([of[i] for i in members])
        part = batch(model, [prompts[i].ids[skip[i] :] for i in members], mask, members)
        _, logits = forward(model, part, cache=cached, logits=True)
        if not torch.isfinite(logits).all():
            not_finite(model, "the logits after a prompt")
        values = readout(logits.float()).cpu()
        out = torch.empty(len(prompts), *values.shape[1:]) if out is None else out
        out[members] = values.float()
    assert out is not None, "there are prompts"
    return out


def stems(sequences: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """What at least two of these sequences begin with, and what those share that begin with more: each
    `LEAST` tokens longer than the one below it; never a whole sequence.
    """
    found: list[tuple[int, ...]] = []

    def split(group: list[tuple[int, ...]], at: int) -> None:
        if len(group) < 2:
            return
        n = shared(group[0], group[-1])  # in order, the ends differ most
        n = min(n, min(map(len, group)) - 1)
        if n >= at + LEAST:
            found.append(group[0][:n])
            at = n
        parts: dict[int | None, list[tuple[int, ...]]] = {}
        for s in group:
            parts.setdefault(s[n] if len(s) > n else None, []).append(s)
        if len(parts) > 1:
            for part in parts.values():
                split(part, at)

    split(sorted(set(sequences)), 0)
    return found


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    n = min(len(a), len(b))
    return next((k for k in range(n) if a[k] != b[k]), n)
