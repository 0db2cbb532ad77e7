"""What notebook 06 asks of its numbers (arXiv 2412.06748), and what the ledger holds of each claim.

Requests to refuse are *due*, contrast ones *free*. Who was refused comes from judged text, never from the
token that was forced.
"""

from collections.abc import Mapping

import numpy as np
from scipy.stats import norm

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f06 import dial
from refusal.findings.f06.dial import Arm
from refusal.measure import stats

EMITS, REFUSES, OVER = 0.9, 0.5, 0.3  # shares below, and above, which a model has no dial to speak of
NEARLY_ALL, FEW = 0.9, 0.1  # of validation requests that are flagged at the two ends of the dial


def has_no_dial(emits: np.ndarray, safety: np.ndarray, ordinary: np.ndarray) -> str | None:
    """Why a model can say nothing of its tokens, from whether each test answer begins with one, and which
    safety and ordinary requests are refused; or None.
    """
    shares = float(np.mean(emits)), float(np.mean(safety)), float(np.mean(ordinary))
    if shares[0] >= EMITS and shares[1] >= REFUSES and shares[2] <= OVER:
        return None
    return (
        f"the model begins {shares[0]:.0%} of {len(emits)} answers with a token, refuses {shares[1]:.0%} "
        "of safety and "
        f"{shares[2]:.0%} of ordinary requests"
    )


def reads(
    relative: tuple[np.ndarray, np.ndarray],
    whole: tuple[np.ndarray, np.ndarray],
    readers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    best: str,
) -> tuple[Estimate, dict]:
    """How well the token's probability ranks due above free requests; beside it the same over the whole
    vocabulary, and every other reader, the best of text as a bar: (measured, controls).
    """
    controls = {"whole_vocabulary": stats.auroc(*whole).value, "best": best}
    controls |= {name: stats.auroc(*scores).value for name, scores in readers.items()}
    return stats.auroc(*relative), controls | {"best_reader": controls[best]}


def switches(
    refuse: np.ndarray, respond: np.ndarray, shuffled: tuple[np.ndarray, np.ndarray] | None = None, **more
) -> tuple[Estimate, dict]:
    """Noncompliance after the refusing token minus that after the answering one, of the same requests;
    beside it the upper end of the same gap in a copy whose tokens were dealt at random: (measured,
    controls).
    """
    controls = {"after_refuse": float(refuse.mean()), "after_respond": float(respond.mean()), **more}
    if shuffled is not None:
        by_chance = stats.paired_difference(*shuffled)
        controls |= by_chance.under("shuffled") | {"shuffled_high": by_chance.ci95[1]}
    return stats.paired_difference(refuse, respond), controls


def lowest(gaps: Mapping[str, Estimate]) -> tuple[Estimate, dict]:
    """The lowest of several gaps: its value, from the lowest lower end to the lowest upper one, since the
    lowest true gap lies below every upper end; each gap beside it: (measured, controls).
    """
    controls = {name: gap.value for name, gap in gaps.items()}
    ends = np.array([gap.ci95 for gap in gaps.values()])
    first = min(gaps.values(), key=lambda gap: gap.value)
    return Estimate(first.value, ends.min(0).tolist(), first.n), controls


def behaviour(due: Arm, free: Arm, seed: int) -> tuple[Estimate, dict]:
    """The area under the ROC of what was said minus that of the token: (measured, controls)."""
    return dial.difference_of_areas((due, free), seed=seed), {
        "behaviour": dial.behavioural_area(due, free),
        "token": stats.area(due.score, free.score),
    }


def spans(due: Arm, free: Arm, validation: np.ndarray) -> tuple[Estimate, dict]:
    """The share of due requests refused at the threshold that flags 90 % of validation requests minus that
    at 10 %; beside it free ones at both: (measured, controls).
    """
    ends = dial.flagging(validation, [NEARLY_ALL, FEW])
    most, least = dial.dial(due, ends)
    controls = {"due_at_90": float(most.mean()), "due_at_10": float(least.mean())}
    wide, narrow = (stats.rate(hits) for hits in dial.dial(free, ends))
    controls |= {"contrast_at_90": wide.value, **narrow.under("contrast_at_10")}
    return stats.paired_difference(most, least), controls


def beats(token: tuple[Arm, Arm], other: tuple[Arm, Arm], seed: int) -> tuple[Estimate, dict]:
    """The behavioural area of the token minus that of another arm on the same requests: (measured,
    controls).
    """
    return dial.difference_of_areas(token, other, seed), {
        "token": dial.behavioural_area(*token),
        "other": dial.behavioural_area(*other),
        "other_score": stats.area(other[0].score, other[1].score),
    }


def crosstalk(
    before: np.ndarray, after: Mapping[str, np.ndarray], category: np.ndarray
) -> dict[tuple[str, str], Estimate]:
    """{(suppressed, tested): change of the share refused}, from who is refused before and with each category
    suppressed [prompt].
    """
    return {
        (off, on): stats.paired_difference(hits[category == on], before[category == on])
        for off, hits in after.items()
        for on in after
    }


def own_change(
    before: np.ndarray, after: Mapping[str, np.ndarray], category: np.ndarray
) -> tuple[Estimate, dict]:
    """By how much refusals of a category fall when it is suppressed, over the requests of all categories:
    (measured, controls).
    """
    both = [
        np.concatenate([x[category == c] for c, x in each])
        for each in (
            [(c, after[c]) for c in after],
            [(c, before) for c in after],
        )
    ]
    each = {
        f"own_{c}": stats.paired_difference(after[c][category == c], before[category == c]).value
        for c in after
    }
    return stats.paired_difference(*both), {"no_intervention": float(both[1].mean())} | each


def others_change(changes: Mapping[tuple[str, str], Estimate], confused: Mapping[tuple[str, str], float]):
    """The change of a category other than the suppressed one whose interval reaches furthest from none;
    beside it how often that one's token is the likeliest for requests of the category that changed:
    (measured, controls).

    That all stay within a bar is shown where each interval does, so its outer end is its own. That one does
    not is shown of the worst of many, so its inner end is that of as many at once (Bonferroni), where that
    reaches no further than the outer one.
    """
    others = {pair: found for pair, found in changes.items() if pair[0] != pair[1]}
    pair = max(others, key=lambda p: max(map(abs, others[p].ci95)))
    value, (low, high), n = others[pair].value, others[pair].ci95, others[pair].n
    wider = norm.ppf(1 - 0.025 / len(others)) / norm.ppf(0.975)
    if -low >= high:
        high = max(high, min(-low, value + float(wider * (high - value))))
    else:
        low = min(low, max(-high, value - float(wider * (value - low))))
    return Estimate(value, [low, high], n), {
        "suppressed": pair[0],
        "tested": pair[1],
        "token_confusion": confused[pair],
        "mean_of_others": float(np.mean([found.value for found in others.values()])),
    }


def contrast(with_it: np.ndarray, without: np.ndarray) -> tuple[Estimate, dict]:
    """Refusals of contrast requests by a copy taught with them minus those by one taught without: (measured,
    controls).
    """
    controls = {"with": float(with_it.mean()), "without": float(without.mean())}
    return stats.paired_difference(with_it, without), controls


def cost(with_token: np.ndarray, twin: np.ndarray) -> tuple[Estimate, dict]:
    """By how much the base's own answers cost more, in nats a token, after the answering token than in the
    twin [prompt]: (measured, controls).
    """
    if not len(with_token):
        return NOTHING, {"twin": None}
    return stats.mean(with_token - twin, shares=False), {
        "with_token": float(with_token.mean()),
        "twin": float(twin.mean()),
    }
