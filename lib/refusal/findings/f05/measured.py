"""What notebook 05 asks of its numbers (arXiv 2401.18018), and what the ledger holds of each claim.

Compliance is a share of sampled answers by prompt; a difference between arms is paired over prompts. Soft
prompts of several seeds are averaged by prompt, and what differs between them widens the interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from refusal.base.estimate import Estimate
from refusal.findings.f05 import shifts
from refusal.findings.f05.arms import Sampled, broken
from refusal.measure import stats
from refusal.measure.trainings import mean_over

LEAST, MOST, RANKS = 0.05, 0.95, 0.75


def cannot_lower(share: np.ndarray, under: str) -> str | None:
    """Why nothing can be said of lowering compliance, from the share of samples that comply [prompt]."""
    mean = float(np.mean(share))
    if LEAST <= mean <= MOST:
        return None
    what = f"under {under} {mean:.0%} of the answers to {len(share)} harmful prompts comply"
    return f"{what}; {LEAST:.0%} to {MOST:.0%} are needed"


def cannot_train(ranks: float, fell: float) -> str | None:
    """Why what DRO learns says nothing: its regression does not rank, or its loss does not fall."""
    if not ranks >= RANKS:
        what = f"the regression that DRO follows ranks other prompts with an AUROC of {ranks:.2f}"
        return f"{what}; {RANKS} is needed"
    return None if fell > 0 else f"the loss of DRO does not fall in training ({fell:+.3f})"


def separable(
    scores: np.ndarray, harmful: np.ndarray, shuffled: Sequence[np.ndarray], others: Mapping[str, np.ndarray]
) -> tuple[Estimate, dict]:
    """How well a reader of four components ranks harmful above harmless prompts; beside it readers taught
    shuffled labels, and readers of text: (measured, controls).
    """
    by_chance = [stats.area(s[harmful], s[~harmful]) for s in shuffled]
    controls = {"shuffled_high": stats.high(by_chance), "shuffles": len(by_chance)}
    for name, s in others.items():
        controls[name] = stats.area(s[harmful], s[~harmful])
    return stats.auroc(scores[harmful], scores[~harmful]), controls


def separable_gain(
    own: np.ndarray, safety: np.ndarray, harmful: np.ndarray, name: str
) -> tuple[Estimate, dict]:
    """The area under a safety prompt minus that under the template's own: (measured, controls)."""
    area = lambda s: stats.area(s[harmful], s[~harmful])
    found = stats.auroc_difference(safety[harmful], safety[~harmful], own[harmful], own[~harmful])
    return found, {"own": area(own), "safety": area(safety), "best_prompt": name}


def shift_own(
    safety: np.ndarray, own: np.ndarray, neutral: np.ndarray, seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much safety prompts [text, prompt] raise the refusal score above the own prompt's [prompt];
    beside it neutral ones: (measured, controls).
    """
    controls = {"neutral": float((neutral - own).mean()), "texts": len(safety)}
    return shifts.over_texts(safety - own, seed), controls


def shift_neutral(
    safety: np.ndarray, neutral: np.ndarray, declining: np.ndarray, seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much safety prompts raise it above their neutral twins [text, prompt]; beside it the most that a
    prompt which declines something harmless does: (measured, controls).
    """
    by_text = (declining - neutral.mean(0)).mean(1)
    controls = {
        "declining_high": stats.high(by_text),
        "declining": float(by_text.mean()),
        "texts": len(safety),
    }
    return shifts.over_texts(safety - neutral, seed), controls


def upper(found: Estimate) -> float | None:
    return None if found.ci95 is None else found.ci95[1]


def lowers(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Estimate:
    """By how much compliance falls, from shares or yes and no by prompt."""
    return stats.difference(before, after, seed, paired=True)


def human(own: Sampled, safety: Sampled, neutral: Sampled, seed: int = 0) -> tuple[Estimate, dict]:
    """By how much the human prompt lowers compliance per sample; beside it its neutral twin's upper bound:
    (measured, controls).
    """
    twin = lowers(own.share, neutral.share, seed)
    controls = {"own": own.share.mean(), "safety": safety.share.mean(), "neutral": neutral.share.mean()}
    controls |= {"neutral_high": upper(twin)} | lowers(own.any, safety.any).under("any_of_k")
    return lowers(own.share, safety.share, seed), controls


def over_seeds(before: np.ndarray, after: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """By how much compliance [prompt] falls, on average over soft prompts of several seeds; what differs
    between them widens the interval.
    """
    found = lowers(before.astype(float), np.mean([a.astype(float) for a in after], 0), seed)
    each = np.array([float(before.mean() - a.mean()) for a in after])
    return mean_over(found, each, (-1, 1))


def without_top(before: np.ndarray, after: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """The same without the prompt in which compliance falls most."""
    keep = np.arange(len(before)) != int(np.argmax(before - np.mean(after, 0)))
    return over_seeds(before[keep], [a[keep] for a in after], seed)


def random_high(start: Sampled, random: Sequence[Sampled], seed: int = 0) -> dict:
    """What soft prompts trained along random directions lower: their mean, and what an effect must exceed,
    the upper bound of the mean over them or the most that one of them lowers. None without any.
    """
    each = [start.share - r.share for r in random]
    if not each:
        return {"random": None, "random_high": None}
    by_prompt = stats.mean(np.mean(each, 0), seed, shares=False)  # the start and the prompts are shared
    return {
        "random": by_prompt.value,
        "random_high": max(by_prompt.ci95[1], *(float(x.mean()) for x in each)),
    }


def dro_lowers(
    start: Sampled, trained: Sequence[Sampled], random: Sequence[Sampled], seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much DRO lowers compliance per sample below its start's; beside it soft prompts trained along
    random directions, and without the prompt that gives most: (measured, controls).
    """
    each = [float(t.share.mean()) for t in trained]
    controls: dict = {"start": float(start.share.mean()), "dro": float(np.mean(each)), "seeds": len(each)}
    controls |= random_high(start, random, seed)
    controls |= without_top(start.share, [t.share for t in trained], seed).under("without_top_prompt")
    controls |= {"lowest_seed": min(each), "highest_seed": max(each)}
    return over_seeds(start.share, [t.share for t in trained], seed), controls


def dro_any(start: Sampled, trained: Sequence[Sampled], seed: int = 0) -> tuple[Estimate, dict]:
    """The same for whether any sample complies: (measured, controls)."""
    controls = {"start": float(start.any.mean()), "dro": float(np.mean([t.any.mean() for t in trained]))}
    return over_seeds(start.any, [t.any for t in trained], seed), controls


def dro_below(other: Sampled, trained: Sequence[Sampled], name: str, seed: int = 0) -> tuple[Estimate, dict]:
    """By how much compliance per sample is lower under DRO than in another arm: (measured, controls)."""
    controls = {name: float(other.share.mean()), "dro": float(np.mean([t.share.mean() for t in trained]))}
    return over_seeds(other.share, [t.share for t in trained], seed), controls


def spares(
    start: Mapping[str, np.ndarray], trained: Sequence[Mapping[str, np.ndarray]], seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much more harmless and pseudo-harmful prompts are refused or deflected, of greedy answers by
    group, on average over seeds; each group's own difference, and broken answers: (measured, controls).
    """
    gone = lambda kinds: np.isin(kinds, ("refusal", "deflection", "disclaimed"))
    added = lambda how, groups: _turned(
        over_seeds(
            np.concatenate([how(start[g]) for g in groups]),
            [np.concatenate([how(t[g]) for g in groups]) for t in trained],
            seed,
        )
    )
    controls: dict = {"start": float(np.mean(np.concatenate([gone(k) for k in start.values()])))}
    controls |= added(broken, start).under("degenerate_added")
    for g in start:
        controls |= added(gone, [g]).under(g.replace("-", "_"))
    return added(gone, start), controls


def _turned(found: Estimate) -> Estimate:
    """The estimate of minus the value."""
    if found.value is None:
        return found
    low, high = found.ci95
    return replace(found, value=-found.value, ci95=[-high, -low])


def over_trivial(
    harmful: tuple[np.ndarray, np.ndarray], spared: tuple[np.ndarray, np.ndarray], at: tuple[float, float]
) -> tuple[Estimate, dict]:
    """By how much more harmful prompts DRO makes refused than the trivial objective, of greedy answers at the
    strengths that validation prompts choose within one cost; what both cost on test prompts beside it:
    (measured, controls).
    """
    hits = [kinds == "refusal" for kinds in (*harmful, *spared)]
    controls = {"dro": float(hits[0].mean()), "trivial": float(hits[1].mean())}
    controls |= {"dro_at": at[0], "trivial_at": at[1]}
    controls |= stats.paired_difference(hits[2], hits[3]).under("spared_refused_more")
    return stats.paired_difference(hits[0], hits[1]), controls


def regulariser(full: np.ndarray, without: np.ndarray, start: np.ndarray) -> tuple[Estimate, dict]:
    """By how much more the cross-entropy of neutral text grows without the third term, in nats per token
    [text]: (measured, controls).
    """
    return stats.mean(without - full, shares=False), {
        "dro_minus_start": float((full - start).mean()),
        "without_minus_start": float((without - start).mean()),
        "start": float(start.mean()),
    }


def published(gains: pd.DataFrame) -> tuple[Estimate, dict]:
    """What the released results say of DRO against prompt tuning: (measured, controls)."""
    of = lambda row: Estimate(float(row.gain), [float(row.low), float(row.high)], int(row.n))
    one, without, other = (of(row) for row in gains.itertuples())
    return one, without.under("without_top_prompt") | other.under("advbench")


def top_share(found: Sampled) -> float | None:
    """The share of all compliance that one prompt holds."""
    total = found.complied.sum()
    return float(found.complied.sum(1).max() / total) if total else None
