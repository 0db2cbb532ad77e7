"""Readouts: scores of the logits after a prompt. Each has a ``key`` that names it for the cache."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike

from refusal.model.loading import Model


@runtime_checkable
class Readout(Protocol):
    """Scores of logits [row, vocabulary] → [row, …], under a name."""

    key: str

    def __call__(self, logits: torch.Tensor) -> torch.Tensor: ...


def keyed(key: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Readout]:
    """Give the function below a ``key``, so that its scores are cached."""

    def give(readout: Callable[[torch.Tensor], torch.Tensor]) -> Readout:
        vars(readout)["key"] = key
        return cast(Readout, readout)

    return give


def refusal_tokens(model: Model, texts: Sequence[str], outcomes: Sequence[str]) -> list[int]:
    """First tokens of the model's own refusals: at least 5 % of them begin so, and four times as often as
    answers do.

    An empty list means that too few refusals (under three) were seen to say.
    """
    first = [
        ids[0] if (ids := model.tokenizer(t.lstrip(), add_special_tokens=False)["input_ids"]) else None
        for t in texts
    ]
    refused = Counter(t for t, o in zip(first, outcomes, strict=True) if o == "refusal" and t is not None)
    answered = Counter(t for t, o in zip(first, outcomes, strict=True) if o == "answer" and t is not None)
    n_refused, n_answered = sum(refused.values()), sum(answered.values())
    if n_refused < 3:
        return []
    return sorted(
        t
        for t, n in refused.items()
        if n / n_refused >= 0.05 and n / n_refused >= 4 * (answered[t] / max(1, n_answered))
    )


def refusal_score(tokens: Sequence[int], cut: float = 0.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """A readout for `refusal.trace.reads.score`: log-odds that the first token is one of `tokens`, minus
    `cut` (arXiv 2406.11717, appendix B).

    The paper reads 0 as the line between answering and refusing; `refusal_cut` finds where that line is on a
    given model.
    """
    index = torch.tensor(list(tokens))

    @keyed(f"refusal score {list(tokens)} {cut:.6f}")
    def readout(logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(-1)[:, index.to(logits.device)].logsumexp(-1)
        return log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-6)) - cut

    return readout


def refusal_cut(scores: ArrayLike, outcomes: Sequence[str]) -> float:
    """The score that best tells refusals from answers by balanced accuracy (half way between its neighbours;
    the median of equals).

    0 where one of the two outcomes is missing.
    """
    scores, refused = np.asarray(scores, float), np.asarray(outcomes) == "refusal"
    answered = np.asarray(outcomes) == "answer"
    if not refused.any() or not answered.any():
        return 0.0
    values = np.unique(scores)
    cuts = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    accuracy = np.array([(scores[refused] > c).mean() + (scores[answered] <= c).mean() for c in cuts])
    return float(np.median(cuts[accuracy > accuracy.max() - 1e-9]))


def inversion_tokens(model: Model) -> tuple[int, int]:
    """The first tokens of "Certainly" and "No" in a reply."""
    certainly, no = (
        model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Certainly", "No")
    )
    return certainly, no


def inversion_readout(model: Model, refusal: Sequence[int]) -> Readout:
    """A readout of the reply's first token: [row, 2], the log-odds of Certainly against No, and the index of
    its outcome in `JUDGEMENTS`.
    """
    certainly, no = inversion_tokens(model)
    kinds = {certainly: 0, no: 1} | {t: 2 for t in refusal if t not in (certainly, no)}

    @keyed(f"inversion {kinds}")
    def readout(logits: torch.Tensor) -> torch.Tensor:
        outcome = torch.tensor([float(kinds.get(t, 3)) for t in logits.argmax(-1).tolist()])
        return torch.stack([(logits[:, certainly] - logits[:, no]).cpu(), outcome], -1)

    return readout
