"""What a model does with prompts: judged answers, with and without edits, beside those under random
directions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from refusal.base.estimate import Estimate
from refusal.measure import stats
from refusal.measure.judge import judge
from refusal.model.loading import Model
from refusal.trace.decode import generate
from refusal.trace.edits import Edit
from refusal.trace.prompts import Prompt, chat
from refusal.trace.reads import score


def behaviour(model: Model, prompts: Sequence[Prompt], max_new_tokens: int = 24) -> pd.DataFrame:
    """The judged greedy answer to each prompt: columns id, source, label, outcome, answer (its first
    words)."""
    answers = generate(model, prompts, decoding=max_new_tokens)[0]
    rows = [(p.id, p.source, p.label, judge(a), a) for p, a in zip(prompts, answers, strict=True)]
    return pd.DataFrame(rows, columns=["id", "source", "label", "outcome", "answer"])


def find(model: Model, table: pd.DataFrame, outcome: str, n: int, *, max_new_tokens: int = 24):
    """Go through `table` until `n` prompts with `outcome` were seen; (prompts, behaviour) of all that were
    tried: first `n` of them, then as many as the share of hits so far asks for, at most twice what was tried
    before.
    """
    prompts, seen, hits, size = [], [], 0, n
    while hits < n and len(prompts) < len(table):
        prompts += (new := chat(model, table.iloc[len(prompts) : len(prompts) + size]))
        seen.append(behaviour(model, new, max_new_tokens))
        hits += int((seen[-1].outcome == outcome).sum())
        size = min(2 * len(prompts), max(8, math.ceil((n - hits) * len(prompts) / max(hits, 1))))
    return prompts, pd.concat(seen, ignore_index=True)


def first(mask: ArrayLike, n: int) -> np.ndarray:
    """The mask with only its first `n` hits left."""
    mask = np.array(mask, bool)
    mask[np.flatnonzero(mask)[n:]] = False
    return mask


def outcomes(
    model: Model, prompts, arms, max_new_tokens: int = 24, how: Callable[[str], str] = judge
) -> list[list[str]]:
    """The judged outcome of every prompt under every arm."""
    return [[how(a) for a in answers] for answers in generate(model, prompts, arms, max_new_tokens)]


def refused(values: np.ndarray) -> np.ndarray:
    """Outcomes by a refusal score, as judged answers have them: refusal above 0."""
    return np.where(values > 0, "refusal", "answer")


@dataclass(frozen=True)
class Arm:
    """What prompts did under an edit with a direction, and under the same edit with random directions of its
    norm.

    The random directions are judged by the first token, on all of the prompts: `random` [direction][prompt];
    for the few whose rate of `wanted` is most extreme, `judged` holds the judged answers as well, {direction:
    outcomes of the prompts}.
    """

    texts: list[str]
    outcomes: list[str]
    random: list[list[str]]
    judged: dict[int, list[str]] = field(default_factory=dict)

    def rate(self, *kinds: str) -> Estimate:
        """Estimate of the share of answers that are one of `kinds`."""
        return stats.rate([o in kinds for o in self.outcomes])

    def band(self, *kinds: str, lowest: bool = False) -> dict:
        """`refusal.measure.stats.random_band` of the random directions' rates: what an effect must exceed, or
        with `lowest` stay below.

        For directions whose answers were judged the more extreme of the two rates counts.
        """
        hits = [np.isin(arm, kinds) for arm in self.random]
        for k, said in self.judged.items():
            hits[k] = (min if lowest else max)(hits[k], np.isin(said, kinds), key=np.mean)
        return stats.random_band(hits)

    def at_random(self, *kinds: str, lowest: bool = False) -> Estimate:
        """What to draw beside `rate`: the mean of the random directions' rates, their `band` in place of an
        interval, how many they are.
        """
        return stats.shown_band(self.band(*kinds, lowest=lowest))


NO_ARM = Arm([], [], [])  # where an experiment could not be run: rates of nothing, with value None


def against_random(
    model: Model,
    prompts,
    edit: Callable[[torch.Tensor], Edit],
    vector: torch.Tensor,
    drawn: Sequence[torch.Tensor],
    readout: Callable,
    wanted: str = "refusal",
    *,
    by_token: Callable[[np.ndarray], np.ndarray] = refused,
    how: Callable[[str], str] = judge,
    lowest: bool = False,
    n_judged: int = 2,
    max_new_tokens: int = 24,
) -> Arm:
    """Judged answers of `prompts` under ``edit(vector)``; and under ``edit(r)`` for each random direction r
    of `drawn`, by the first token.

    `readout` is scored and `by_token` turns its values [direction, prompt, …] into outcomes. Of the
    `n_judged` directions with the highest (with `lowest` the lowest) rate of `wanted` answers are generated
    and judged too, by `how`.
    """
    texts = generate(model, prompts, [[edit(vector)]], max_new_tokens)[0]
    values = score(
        model, prompts, readout, [[edit(r)] for r in drawn], label=f"{len(drawn)} random directions"
    ).numpy()
    by_first = by_token(values)
    rates = (by_first == wanted).mean(1) * (-1 if lowest else 1)
    strongest = np.argsort(-rates, kind="stable")[:n_judged].tolist()
    said = (
        outcomes(model, prompts, [[edit(drawn[k])] for k in strongest], max_new_tokens, how)
        if strongest
        else []
    )
    return Arm(texts, [how(t) for t in texts], by_first.tolist(), dict(zip(strongest, said, strict=True)))
