"""Means over trainings, prober fits or texts: their differences widen an interval over items, and no number
of items takes that away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import t

from refusal.base.estimate import Estimate
from refusal.measure import stats


@dataclass(frozen=True)
class OverTrainings(Estimate):
    """An estimate whose interval holds how trainings differ; `half_width` is that part of it."""

    half_width: float = 0.0


def mean_over(
    found: Estimate,
    by_training: Sequence[float] | np.ndarray,
    within: tuple[float | int, float | int] = (-np.inf, np.inf),
) -> Estimate:
    """`found`, a mean over trainings with its interval over items, widened by how it differs between them:
    Student's quantile times their standard deviation over √k, for a mean of k varies less than one of them.
    Half widths add in quadrature. Fewer than two trainings leave it as it is. `within` bounds what can be.
    """
    each = np.asarray(by_training, float)
    if len(each) < 2:
        return found
    return of_one(found, each.mean() + (each - each.mean()) / np.sqrt(len(each)), within)


def of_one(
    found: Estimate,
    draws: Sequence[float] | np.ndarray,
    within: tuple[float | int, float | int] = (-np.inf, np.inf),
) -> Estimate:
    """`found`, of one training (fit, text) as they come, widened by how far `draws` of it lie apart, as
    `stats.widened` does.
    """
    if found.value is None or len(draws) < 2:
        return found
    wide = stats.widened(found, draws, within)
    half = float(t.ppf(0.975, len(draws) - 1) * np.std(draws, ddof=1))
    given = {f.name: getattr(wide, f.name) for f in fields(Estimate)}
    return OverTrainings(**given, half_width=float(np.hypot(getattr(found, "half_width", 0.0), half)))


def under(found: Estimate, name: str) -> dict:
    """A control called `name`, with its interval and the part of it that is of trainings."""
    half = getattr(found, "half_width", 0.0)
    return found.under(name) | ({f"{name}_trainings_half_width": half} if half else {})
