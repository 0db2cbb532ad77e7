"""What notebook 08 asks of its numbers (arXiv 2504.03735), and what the ledger holds of each claim. The unit
is a test prompt; differences between settings are paired over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats
from refusal.measure.trainings import mean_over, under

LEAST_REFUSED, LEAST_OF_KIND = 0.2, 10
LEAST_HARMLESS, LEAST_LOST, LEAST_NAMED, LEAST_ON_TASK = 0.5, 0.1, 0.8, 0.1


def cannot_ask(refused: np.ndarray, behind: tuple[int, int]) -> str | None:
    """Why roles say nothing of refusal, from which harmful prompts are refused in the usual setting and how
    many (refused, answered) prompts are behind r; or None.
    """
    if refused.mean() < LEAST_REFUSED:
        what = f"{refused.mean():.0%} of {len(refused)} harmful prompts are refused"
        return f"{what}, {LEAST_REFUSED:.0%} are needed"
    if min(behind) < LEAST_OF_KIND:
        what = f"{behind[0]} refused and {behind[1]} answered prompts are behind r"
        return f"{what}, {LEAST_OF_KIND} of each are needed"
    return None


def cannot_harmless(on_task: np.ndarray) -> str | None:
    """Why harmless prompts say nothing, from which are on task in the usual setting; or None."""
    if on_task.mean() < LEAST_HARMLESS:
        what = f"{on_task.mean():.0%} of {len(on_task)} harmless prompts are answered on task"
        return f"{what}, {LEAST_HARMLESS:.0%} are needed"
    return None


def cannot_restore(lost: float) -> str | None:
    """Why nothing can be given back, from how many refusals are lost; or None."""
    if lost < LEAST_LOST:
        what = f"exchanging the roles costs {100 * lost:.0f} points of refusals"
        return f"{what}, {100 * LEAST_LOST:.0f} are needed"
    return None


def cannot_see(named: np.ndarray) -> str | None:
    """Why pictures say nothing, from whether colour and shape are named [picture, 2]; or None."""
    share = float(named.all(1).mean())
    if share < LEAST_NAMED:
        return f"{share:.0%} of {len(named)} pictures are named right, {LEAST_NAMED:.0%} are needed"
    return None


def cannot_mitigate(on_task: np.ndarray, where: str = "the perturbed settings") -> str | None:
    """Why training says nothing, from the shares of harmful prompts that are answered on task; or None."""
    if on_task.mean() < LEAST_ON_TASK:
        what = f"{on_task.mean():.0%} of harmful prompts are answered on task in {where}"
        return f"{what}, {LEAST_ON_TASK:.0%} are needed"
    return None


def fewer(
    usual: np.ndarray,
    there: np.ndarray,
    broken: np.ndarray,
    success: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Estimate, dict]:
    """By how much less often something is seen than in the usual setting; beside it the share that is broken
    there, and how much oftener the released scorer sees a `success` (usual, there): (measured, controls).
    """
    controls = {"usual": float(usual.mean()), "there": float(there.mean())}
    if success:
        controls |= stats.paired_difference(success[1], success[0]).under("published_success_gain")
    return stats.paired_difference(usual, there), controls | stats.rate(broken).under("broken")


def more(usual: np.ndarray, there: np.ndarray, broken: np.ndarray) -> tuple[Estimate, dict]:
    """By how much more often: (measured, controls)."""
    controls = {"usual": float(usual.mean()), "there": float(there.mean())}
    return stats.paired_difference(there, usual), controls | stats.rate(broken).under("broken")


def system_matters(usual: np.ndarray, bare: np.ndarray, swapped: np.ndarray) -> tuple[Estimate, dict]:
    """What leaving out the system prompt adds over what exchanging the roles adds, both to the usual setting,
    prompt by prompt: (measured, controls).
    """
    a, b, c = (x.astype(float) for x in (bare, usual, swapped))
    controls = {"bare": float((a - b).mean()), "swapped": float((c - b).mean())}
    return stats.paired_difference(bare, swapped), controls


def restored(
    without: np.ndarray,
    given: np.ndarray,
    random: np.ndarray,
    harmless: tuple[np.ndarray, np.ndarray],
    gap: tuple[float, float],
) -> tuple[Estimate, dict]:
    """By how much giving back raises refusals of harmful prompts; beside it the same along random directions
    [direction, prompt], what harmless ones gain (without, given), and what the mean gap in place of each
    one's own does to both labels: (measured, controls).
    """
    found = stats.paired_difference(given, without)
    rises = [hits.astype(float) - without for hits in random]
    controls = {"without": float(without.mean()), "given": float(given.mean())}
    controls |= stats.score_band(rises)
    controls |= stats.paired_difference(harmless[1], harmless[0]).under("harmless_rise")
    return found, controls | {"mean_gap_harmful": gap[0], "mean_gap_harmless": gap[1]}


def composed(both: np.ndarray, place: np.ndarray, swapped: np.ndarray) -> tuple[Estimate, dict]:
    """By how much more often both together lead to on-task answers than either: the smaller of the two
    differences: (measured, controls).
    """
    if not len(both):
        return NOTHING, {"both": None}
    apart = [stats.paired_difference(both, alone) for alone in (place, swapped)]
    controls = {"both": float(both.mean()), "place": float(place.mean()), "swapped": float(swapped.mean())}
    return min(apart, key=lambda e: e.value), controls


def placed(
    inside: np.ndarray,
    there: np.ndarray,
    words: tuple[np.ndarray, np.ndarray],
    broken: np.ndarray,
    others: Mapping[str, float],
) -> tuple[Estimate, dict]:
    """By how much less is refused with an image there than before the query; beside it the same of its
    caption in words, its upper bound, and refusals with other things there: (measured, controls).
    """
    if not len(there):
        return NOTHING, {"words_high": None, "broken": None}
    by_words = stats.paired_difference(*words)
    controls = {"in": float(inside.mean()), "there": float(there.mean()), "words": by_words.value}
    controls |= {"words_high": by_words.ci95[1] if by_words.ci95 else None}
    return stats.paired_difference(inside, there), controls | stats.rate(broken).under("broken") | dict(
        others
    )


def per_prompt(kinds: Sequence[Sequence[str]], kind: str) -> np.ndarray:
    """The share of settings in which each prompt's answer is of a kind [prompt]; `kinds` "
    "[setting][prompt]."""
    return np.mean([np.asarray(some) == kind for some in kinds], axis=0)


def of_seeds(one: Sequence[np.ndarray], other: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """mean(one) − mean(other) of shares [prompt] by training seed, paired over prompts and seeds."""
    apart = np.array(one, float) - np.array(other, float)
    found = stats.mean(apart.mean(0), seed, shares=False)
    if not np.ptp(apart.mean(0)):  # where no prompt differs from another, as sure as of yes and no
        flat = stats.paired_difference(np.zeros(apart.shape[1]), np.zeros(apart.shape[1]))
        found = replace(found, ci95=[found.value + x for x in flat.ci95])
    return mean_over(found, apart.mean(1), (-1, 1))


def rise(before: np.ndarray, after: Sequence[np.ndarray], seed: int = 0) -> dict:
    """By how much more harmless prompts are refused after training, as a control."""
    return under(of_seeds(after, [before] * len(after), seed), "harmless_rise")
