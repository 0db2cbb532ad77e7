"""What a model did with prompts and held before its first word, from one pass over each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace.decode import generate_and_read
from refusal.trace.prompts import Prompt

POSITIONS = ("t_inst", "t_post")


@dataclass(frozen=True)
class Seen:
    """`outcome` of the answers [prompt], `states` of every layer at `POSITIONS` [prompt, layer, 2, d_model],
    and, where they are kept, the first words of the `answers`.
    """

    prompts: list[Prompt]
    outcome: np.ndarray
    states: Tensor
    answers: Sequence[str] = ()

    def where(self, which: ArrayLike) -> "Seen":
        """The prompts of a mask, or of a list of numbers."""
        at = np.arange(len(self.prompts))[np.asarray(which)]
        answers = [self.answers[i] for i in at] if self.answers else ()
        return Seen([self.prompts[i] for i in at], self.outcome[at], self.states[at], answers)

    @property
    def told(self) -> "Seen":
        """What was refused or answered; neither disclaimed nor broken."""
        return self.where(np.isin(self.outcome, ("refusal", "answer")))

    @property
    def refused(self) -> np.ndarray:
        return self.outcome == "refusal"

    @property
    def texts(self) -> list[str]:
        return [p.text for p in self.prompts]

    @property
    def source(self) -> np.ndarray:
        return np.array([p.source for p in self.prompts])


def look(model: Model, prompts: Sequence[Prompt], max_new_tokens: int = 12) -> Seen:
    """The judged greedy answers to prompts and the states of the same pass."""
    texts, found, _ = generate_and_read(
        model, prompts, at=list(POSITIONS), decoding=max_new_tokens, label="answering and reading"
    )
    return Seen(list(prompts), np.array([judge(t) for t in texts]), found["resid"], texts)


def joined(parts: Sequence[Seen]) -> Seen:
    """Several of them as one. Raises ValueError for none."""
    return Seen(
        [p for s in parts for p in s.prompts],
        np.concatenate([s.outcome for s in parts]),
        torch.cat([s.states for s in parts]),
        [a for s in parts for a in s.answers],
    )
