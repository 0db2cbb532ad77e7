"""Odds-ratio preference training (ORPO, arXiv 2403.07691): an answer to prefer against one to avoid, in one
loss and without a reference model.

L = NLL(chosen) − λ log σ(o(chosen) − o(rejected)), o = ℓ − log(1 − e^ℓ), ℓ the mean log-probability of an
answer's tokens. NLL is the mean over all tokens of a batch's chosen answers, as in `refusal.train.fit.steps`,
so that λ = 0 is supervised training; trl averages it over the prompts' tokens as well. The odds are a mean
over pairs. Our own few lines, for trl brings a data library for them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel

from refusal.train.batches import left_padded
from refusal.train.fit import TOGETHER, Example, drawn, learn

HIGHEST = -1e-6  # of ℓ: at 0 the odds are infinite
Pair = tuple[list[int], list[int], list[int] | None]  # a prompt, the answer to prefer, the one to avoid


def log_odds(mean_log_p: Tensor) -> Tensor:
    """o of mean log-probabilities, clamped below 0."""
    mean_log_p = mean_log_p.clamp_max(HIGHEST)
    return mean_log_p - torch.log(-torch.expm1(mean_log_p))


def log_probabilities(module: torch.nn.Module, rows: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """The summed log-probability of each row's answer, float32, and how many tokens it has, both [row]."""
    device = next(module.parameters()).device
    batch = {k: x.to(device) if isinstance(x, Tensor) else x for k, x in left_padded(rows).items()}
    labels = batch.pop("labels")[:, 1:]
    logits = module(**batch).logits[:, :-1].float()
    losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return -losses.sum(1), (labels != -100).sum(1)


def odds_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ of the difference of log-odds, summed over pairs, from ℓ of both [pair]."""
    return -logsigmoid(log_odds(chosen) - log_odds(rejected)).sum()


def preference_steps(
    module: PreTrainedModel,
    pairs: Sequence[Pair],
    n: int,
    learning_rate: float,
    seed: int,
    weight: float,
    batch: int = 8,
    *,
    label: str,
) -> list[float]:
    """`n` steps on pairs, `weight` being λ; returns the loss of each. Rejected answers are read only where λ
    is above 0; a pair without one has no odds.
    """

    def loss_of(part: tuple[list[Pair], int]) -> Tensor:
        some, tokens = part
        total, count = log_probabilities(module, [(p, c) for p, c, _ in some])
        found = -total.sum() / tokens
        with_both = [k for k, (_, _, r) in enumerate(some) if r] if weight > 0 else []
        if with_both:
            avoid = log_probabilities(module, [(some[k][0], some[k][2] or []) for k in with_both])
            chosen = (total / count)[with_both]
            found = found + weight * odds_loss(chosen, avoid[0] / avoid[1]) / batch
        return found

    batches = []
    for some in drawn(pairs, n, batch, seed):
        tokens = sum(len(chosen) for _, chosen, _ in some)
        batches.append([(some[i : i + TOGETHER], tokens) for i in range(0, batch, TOGETHER)])
    return learn(module, loss_of, batches, learning_rate, label)
