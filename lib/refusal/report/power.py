"""How many items decide a claim, computed before its run from the smallest effect worth seeing.

A verdict is a yes only where the whole 95 % interval lies past the bar, so the number of items follows from
the value, the bar and the kind of interval. Every function returns the smallest n at which that happens in 80
of 100 runs if the value is the true one. Planning, never evidence: no n is raised until a verdict turns.

What it leaves out: a bar that is a control has noise of its own, the other conditions of a rule ask for items
of their own, and an interval that was widened by a second source (a prober fitted again, a training's seed)
does not shrink below that source with any number of prompts.
"""

import ast
import math
from collections.abc import Callable, Mapping

from refusal.report.rules import MIN_N, Claim, comparisons

Z, POWER = 1.959964, 0.841621  # normal quantiles of 97.5 and of 80 %


def student(df: int) -> float:
    """Student's quantile of 97.5 %, by Cornish and Fisher's expansion; within .001 from 19 degrees of freedom
    on. scipy's would take longer to import than all the rest of the plan.
    """
    return Z + (Z**3 + Z) / (4 * df) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * df**2)


def _smallest(enough: Callable[[int], bool]) -> int:
    """The smallest n from 2 on for which ``enough(n)`` holds, as it does for all above."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _shares(*values: float) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"{value:g} is no share")


def rate(value: float, bar: float) -> int:
    """For a share `value`: Wilson's bound passes the bar L where v − L > z √(L (1 − L) / n). Raises
    ValueError for what is no share.
    """
    _shares(value, bar)
    null, own = math.sqrt(bar * (1 - bar)), math.sqrt(value * (1 - value))
    return _smallest(lambda n: student(n - 1) * null + POWER * own <= abs(value - bar) * math.sqrt(n))


def mean(spread: float, distance: float) -> int:
    """For a mean, or a paired difference, `distance` from its bar: `spread` is one item's standard deviation
    (of paired yes and no: √(p₁₀ + p₀₁ − d²), from the discordant shares and their difference).
    """
    return _smallest(lambda n: (student(n - 1) + POWER) * spread <= abs(distance) * math.sqrt(n))


def unpaired(spread: float, distance: float) -> int:
    """Items of each group, for a difference of two groups; `spread` is one item's standard deviation in
    either (of shares: √(p (1 − p))).
    """
    return _smallest(lambda n: (student(2 * n - 2) + POWER) * spread * math.sqrt(2 / n) <= abs(distance))


def auroc(area: float, bar: float = 0.5) -> int:
    """Items of each class, for an area under the ROC curve, with Hanley and McNeil's standard error (1982).
    Raises ValueError for what is no area, and for 1, which has no error.
    """
    _shares(area, bar)
    if area == 1:
        raise ValueError("an area of 1 has no standard error")
    one, two = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    error = lambda n: math.sqrt(area * (1 - area) + (n - 1) * (one + two)) / n
    return _smallest(lambda n: (student(2 * n - 2) + POWER) * error(n) <= abs(area - bar))


def needed(claim: Claim) -> int:
    """How many items decide a claim of its plan's smallest effect, at least those that any verdict needs.
    Raises ValueError for a claim without a plan, and for a plan that lacks something.
    """
    plan = claim.plan
    if plan is None:
        raise ValueError(f"{claim.id} has no plan")
    bars = []  # (level, 1 above or -1 below)
    for part in comparisons(claim.rule):
        if part.of == plan.of:
            level = part.at(plan.bar)
            if level is None:
                raise ValueError(f"{claim.id}: what {part.bar} may be is not assumed")
            bars.append((level, part.sign))
    if not bars:
        raise ValueError(f"{claim.id}: its rule asks nothing of {plan.of or 'the value'}")
    side = bars[0][1]
    hardest = max(side * level for level, sign in bars if sign == side)
    value = side * (hardest + plan.smallest)
    return max(MIN_N, *(_size(claim.id, plan, value, level) for level, _ in bars))


def _size(id: str, plan, value: float, bar: float) -> int:
    if plan.kind in ("rate", "auroc"):
        return (rate if plan.kind == "rate" else auroc)(value, bar)
    if plan.spread is None:
        raise ValueError(f"{id}: the spread of one item is not assumed")
    return (unpaired if plan.kind == "unpaired" else mean)(plan.spread, value - bar)


def planned(n: int | str, parameters: Mapping[str, object]) -> int:
    """A plan's number of items, from the notebook's `parameters` by default. Raises ValueError for what is
    neither a number, a parameter nor a product or whole quotient of these.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(x)):
                return x
            case ast.Name(id=name) if isinstance(found := parameters.get(name), int):
                return found
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return value(left) // value(right)
        raise ValueError(f"{ast.unparse(node)!r} of the plan's n is neither a number nor a parameter")

    return value(ast.parse(str(n), mode="eval").body)
