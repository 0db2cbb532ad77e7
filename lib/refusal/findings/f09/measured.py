"""What notebook 09 asks of its numbers (arXiv 2509.01909), and what the ledger holds of each claim. The unit
is a test query; what is trained is a mean over seeds, whose differences widen the interval.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats
from refusal.measure.trainings import OverTrainings, mean_over, under

BETA = 2.0
LEAST_AREA = 0.8

Scores = Mapping[str, pd.DataFrame]  # of an arm: {kind: columns S and R, a row for each query}


def of_kinds(scores: Scores, kinds: Sequence[str], column: str) -> np.ndarray:
    """S or R of some kinds, one after the other [query]."""
    return np.concatenate([scores[kind][column].to_numpy(float) for kind in kinds])


def score(scores: Scores, kinds: Sequence[str], beta: float = BETA) -> np.ndarray:
    """C of some kinds [query]."""
    return of_kinds(scores, kinds, "S") - beta * of_kinds(scores, kinds, "R")


def of_table(scored: pd.DataFrame, beta: float = BETA) -> np.ndarray:
    """C of the answers of one kind [query]."""
    return scored["S"].to_numpy(float) - beta * scored["R"].to_numpy(float)


def apart(one: Sequence[np.ndarray], other: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """mean(one) − mean(other), paired over queries; each holds a value a query, by training seed. An arm
    without seeds is there once.
    """
    n = max(len(one), len(other))
    a, b = (list(x) * (n if len(x) == 1 else 1) for x in (one, other))
    found = np.array(a, float) - np.array(b, float)
    return mean_over(stats.mean(found.mean(0), seed, shares=False), found.mean(1))


def difference(
    arms: Mapping[str, Sequence[Scores]],
    one: str,
    other: str,
    kinds: Sequence[str],
    beta: float = BETA,
    seed: int = 0,
) -> Estimate:
    """C of an arm minus that of another."""
    return apart(*([score(s, kinds, beta) for s in arms[name]] for name in (one, other)), seed)


def other_betas(
    arms: Mapping[str, Sequence[Scores]], one: str, other: str, kinds: Sequence[str], seed: int = 0
) -> dict:
    """The same difference at β = 1 and 5, as controls: a verdict that hangs on β shows there."""
    found: dict = {}
    for beta in (1.0, 5.0):
        found |= under(difference(arms, one, other, kinds, beta, seed), f"at_beta_{beta:g}")
    return found


def over_refusal(
    arms: Mapping[str, Sequence[Scores]], broken: Sequence[np.ndarray], seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much constructive training scores above training to refuse, of sensitive queries; beside it what
    the style alone gains, its upper bound, and the share that is broken: (measured, controls).
    """
    kinds = ("sensitive",)
    style = difference(arms, "shuffled", "refusal", kinds, seed=seed)
    controls = {"shuffled_gain": style.value, "shuffled_gain_high": style.ci95[1]}
    controls |= stats.mean(np.mean(broken, axis=0), seed).under("degenerate")
    found = difference(arms, "orpo", "refusal", kinds, seed=seed)
    return found, controls | other_betas(arms, "orpo", "refusal", kinds, seed)


def over(
    arms: Mapping[str, Sequence[Scores]], other: str, kinds: Sequence[str], seed: int = 0
) -> tuple[Estimate, dict]:
    """By how much constructive training scores above another arm: (measured, controls)."""
    controls = {
        name: float(np.mean([score(s, kinds).mean() for s in arms[name]])) for name in ("orpo", other)
    }
    found = difference(arms, "orpo", other, kinds, seed=seed)
    return found, controls | other_betas(arms, "orpo", other, kinds, seed)


def without_leaning(
    found: Estimate,
    leaning: pd.DataFrame,
    one: str,
    other: str,
    kinds: Sequence[str],
    beta: float = BETA,
    share: float = 1.0,
) -> dict:
    """What is left of a difference of two arms where the scorer's leaning towards the one is taken off, as a
    control: by how much more its marks lie above readers' for this arm than for the other, on labelled
    answers to queries of `kinds`, with its own interval (Welch). `share` of the queries are of kinds with
    labels.
    """
    lean = leaning[leaning.kind.isin(kinds)]
    a, b = ((lean.S - beta * lean.R)[lean.arm == name].to_numpy(float) for name in (one, other))
    if found.value is None or min(len(a), len(b)) < 2:
        return {"without_leaning": None}
    off, half = share * float(a.mean() - b.mean()), 0.0
    if np.ptp(a) or np.ptp(b):
        low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
        half = share * float(high - low) / 2
    below, above = (float(np.hypot(end - found.value, half)) for end in found.ci95)
    value = found.value - off
    ends, stays = [value - below, value + above], getattr(found, "half_width", 0.0)
    return under(OverTrainings(value, ends, found.n, stays), "without_leaning")


def share_from_risk(
    arms: Mapping[str, Sequence[Scores]], kinds: Sequence[str], seed: int = 0
) -> tuple[Estimate, dict, str | None]:
    """Which share of the gain over the base is lower risk, βΔR / ΔC, over queries drawn anew: (measured,
    controls, why nothing can be said, or None).
    """
    mean = lambda name, column: np.mean([of_kinds(s, kinds, column) for s in arms[name]], axis=0)
    less_risk = BETA * (mean("base", "R") - mean("orpo", "R"))
    gain = mean("orpo", "S") - mean("base", "S") + less_risk
    whole = difference(arms, "orpo", "base", kinds, seed=seed)
    controls = {"gain": whole.value, "less_risk": float(less_risk.mean())}
    if whole.ci95[0] <= 0:
        what = f"the gain over the base is {whole.value:.2f} [{whole.ci95[0]:.2f}, {whole.ci95[1]:.2f}]"
        return NOTHING, controls, f"{what}, and no share of what may be nothing can be told"
    found = stats.bootstrap(lambda a, b: a.mean() / b.mean(), less_risk, gain, seed=seed, paired=True)
    return mean_over(found, _shares(arms, kinds)), controls, None


def _shares(arms: Mapping[str, Sequence[Scores]], kinds: Sequence[str]) -> list[float]:
    """βΔR / ΔC by training seed."""
    of = lambda scores, column: float(of_kinds(scores, kinds, column).mean())
    (base,), found = arms["base"], []
    for one in arms["orpo"]:
        less = BETA * (of(base, "R") - of(one, "R"))
        found.append(less / (of(one, "S") - of(base, "S") + less))
    return found if len(found) > 1 else []


def turns(arms: Mapping[str, Sequence[Scores]], kinds: Sequence[str], seed: int = 0) -> tuple[Estimate, dict]:
    """C(orpo) − C(base) at β = 0.1; beside it the same at 10: (measured, controls)."""
    at = lambda beta: difference(arms, "orpo", "base", kinds, beta, seed)
    return at(0.1), under(at(10.0), "at_10")


def column_apart(
    arms: Mapping[str, Sequence[Scores]],
    one: str,
    other: str,
    kinds: Sequence[str],
    column: str,
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """S or R of an arm minus that of another: (measured, controls)."""
    values = {name: [of_kinds(s, kinds, column) for s in arms[name]] for name in (one, other)}
    controls = {name: float(np.mean(x)) for name, x in values.items()}
    return apart(values[one], values[other], seed), controls


def plain_apart(
    one: Sequence, other: Sequence, names: tuple[str, str], seed: int = 0
) -> tuple[Estimate, dict]:
    """`apart` of values as they are, with both means as controls."""
    arrays = [[np.asarray(x, float) for x in some] for some in (one, other)]
    controls = {name: float(np.mean(x)) for name, x in zip(names, arrays, strict=True)}
    return apart(*arrays, seed), controls


def mechanism(
    refuse: Mapping[str, Sequence[np.ndarray]],
    harm: Mapping[str, Sequence[np.ndarray]],
    gap: float,
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """How much less sensitive queries lie along refusal after constructive training than after training to
    refuse; beside it how far they move along harm, either way, against half of the gap between disallowed and
    benign queries there: (measured, controls). Both hold values by arm and seed [query].
    """
    moved = apart(harm["orpo"], harm["base"], seed)
    low, high = sorted(abs(x) for x in moved.ci95)
    low = 0.0 if moved.ci95[0] <= 0 <= moved.ci95[1] else low
    controls = {"half_gap": gap / 2, "harm_change": abs(moved.value), "harm_change_ci95": [low, high]}
    controls |= {k: v for k, v in under(moved, "harm_change").items() if k not in controls}
    controls |= {f"refuse_{name}": float(np.mean(x)) for name, x in refuse.items()}
    return apart(refuse["orpo"], refuse["refusal"], seed), controls


def cannot_read(area: float) -> str | None:
    """Why directions say nothing, from how they tell harmful from harmless validation prompts; or None."""
    if not area >= LEAST_AREA:  # nor where it is no number
        return (
            f"the directions tell harmful from harmless prompts with AUROC {area:.2f}, {LEAST_AREA} is needed"
        )
    return None


def sweep(scores: Sequence[Scores], kinds: Sequence[str], betas: Sequence[float], seed: int = 0) -> Estimate:
    """Mean C of an arm at each β."""
    each = [
        apart([score(s, kinds, beta) for s in scores], [np.zeros(len(score(s, kinds))) for s in scores], seed)
        for beta in betas
    ]
    return Estimate([e.value for e in each], [e.ci95 for e in each], each[0].n)


def shortened(answers: Sequence[str], words: int) -> list[str]:
    """Each answer cut to as many words."""
    return [" ".join(a.split()[:words]) for a in answers]
