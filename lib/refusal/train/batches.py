"""(prompt, answer) tokens as batches to learn from, for the models of `refusal.train.recipes` and the trials
of `refusal.train.fit`.
"""

from collections.abc import Sequence

import torch


def left_padded(rows: Sequence[tuple[list[int], list[int]]]) -> dict:
    """(prompt, answer) tokens as one batch: what a causal language model's `forward` takes. Only answers are
    learned: labels are -100 elsewhere.

    Padded on the left, so that logits are needed at the last few tokens only; a vocabulary is wide, and they
    cost memory and time.
    """
    width, keep = max(len(p) + len(a) for p, a in rows), max(len(a) for _, a in rows) + 1
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.long),
    )
    labels = torch.full((len(rows), keep), -100)
    for k, (prompt, answer) in enumerate(rows):
        start = width - len(prompt) - len(answer)
        ids[k, start:], mask[k, start:] = torch.tensor([*prompt, *answer]), 1
        labels[k, keep - len(answer) :] = torch.tensor(answer)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "labels": labels,
        "logits_to_keep": keep,
    }
