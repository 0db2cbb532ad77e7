"""A few steps of fine-tuning on (prompt, answer) tokens, in place; for measurements on copies that are thrown away.

Models that are kept are made by `lib.recipes`.
"""

import random
from collections.abc import Sequence

import torch

from lib.progress import track


def steps(module, examples: Sequence[tuple[list[int], list[int]]], n: int, learning_rate: float, seed: int, batch: int = 8, *, label: str) -> list[float]:
    """`n` AdamW steps on the answers' cross-entropy; returns the loss of each step. Examples are drawn in seeded passes over all of them."""
    rng, order, losses = random.Random(seed), [], []
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=learning_rate)
    module.train()
    for _ in track(range(n), label):
        while len(order) < batch:
            order += rng.sample(range(len(examples)), len(examples))
        rows, order = [examples[i] for i in order[:batch]], order[batch:]
        width = max(len(p) + len(a) for p, a in rows)
        ids, labels = torch.zeros(batch, width, dtype=torch.long), torch.full((batch, width), -100)
        mask = torch.zeros(batch, width, dtype=torch.long)
        for k, (prompt, answer) in enumerate(rows):
            both = torch.tensor([*prompt, *answer])
            ids[k, : len(both)], mask[k, : len(both)] = both, 1
            labels[k, len(prompt) : len(both)] = both[len(prompt) :]
        loss = module(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module.eval().requires_grad_(False)
    return losses
