"""Jailbreaks as arXiv 2507.11878 (section 5.2) counts them: successful ones, requests that a model refuses
plainly and answers in other words.

An attacker tries one wording after another, so a request is tried until it works, and is scored once, at its
first success. The same wordings around harmless requests tell a guard that sees harm from one that sees the
wording.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from refusal import data
from refusal.base.estimate import Estimate
from refusal.findings.f02b import guard
from refusal.findings.f02b.guard import Scores
from refusal.measure import stats
from refusal.measure.seen import Seen, joined, look
from refusal.model.loading import Model
from refusal.trace.prompts import chat

AS_IT_IS = ("{x}",)  # for requests that are rewritten already


@dataclass(frozen=True)
class Attempts:
    """Every attempt that was made, in order: what the model did, and which wording it was [attempt]."""

    seen: Seen
    wording: np.ndarray

    @property
    def won(self) -> np.ndarray:
        """Which attempts succeeded; none is made on a request after that, so each request counts once at
        most.
        """
        return self.seen.outcome == "answer"


def wrapped(requests: pd.DataFrame, wordings: Sequence[str]) -> pd.DataFrame:
    """Requests with their text put into the wordings' ``{x}``, one each, without final punctuation."""
    texts = [wording.replace("{x}", text) for wording, text in zip(wordings, requests.text, strict=True)]
    return data.without_final_punctuation(requests.assign(text=texts))


def search(
    model: Model,
    requests: pd.DataFrame,
    wordings: Sequence[str],
    wanted: int,
    tries: int,
    max_new_tokens: int = 12,
    chunk: int = 32,
) -> Attempts:
    """Try wordings on requests until `wanted` have succeeded: the first on all, the next on those that stand,
    up to `tries` (at most all wordings).

    The i-th request begins with the i-th wording, so that all are used. No request gives no attempt.
    """
    seen, used, standing, n_won = [], [], np.arange(len(requests)), 0
    for k in range(min(tries, len(wordings))):
        still = []
        for start in range(0, len(standing), chunk):
            rows = standing[start : start + chunk]
            which = (rows + k) % len(wordings)
            seen.append(
                look(
                    model,
                    chat(model, wrapped(requests.iloc[rows], [wordings[i] for i in which])),
                    max_new_tokens,
                )
            )
            used.append(which)
            success = seen[-1].outcome == "answer"
            still.append(rows[~success])
            n_won += int(success.sum())
            if n_won >= wanted:
                return Attempts(joined(seen), np.concatenate(used))
        standing = np.concatenate(still) if still else standing
    if not seen:
        return Attempts(
            Seen([], np.array([], str), torch.empty(0, model.n_layers + 1, 2, model.d_model)),
            np.array([], int),
        )
    return Attempts(joined(seen), np.concatenate(used))


def in_the_same_words(attempts: Attempts, requests: pd.DataFrame, wordings: Sequence[str]) -> pd.DataFrame:
    """Harmless requests in the wordings of the successful attempts, as often as they come there; in all
    wordings where none succeeded.
    """
    which = attempts.wording[attempts.won] if attempts.won.any() else np.arange(len(wordings))
    return wrapped(requests, [wordings[which[i % len(which)]] for i in range(len(requests))])


def caught(watch: Scores, reader: Scores, won: np.ndarray, name: str, seed: int = 0) -> tuple[Estimate, dict]:
    """Value and controls of "flags successful jailbreaks": `guard.caught` of the attempts that `won`; all
    attempts beside it.

    `watch` and `reader` are scores of all attempts and of harmless requests in the same words.
    """
    value, controls = guard.caught(
        (watch[0][won], watch[1]), (reader[0][won], reader[1]), name, "wrapped_harmless", seed
    )
    everything = stats.rate(watch[0] > 0)
    return value, controls | everything.under("attempts_flagged") | {"attempts": len(won)}
