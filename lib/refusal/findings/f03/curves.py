"""The refusal score along the tokens of a thinking: plateau, cliff, curves aligned where the thinking
stops."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.measure import stats
from refusal.trace.thinking import Rollout


def summary(scores: Float[Tensor, "*row token"], rollout: Rollout) -> dict[str, np.ndarray | np.floating]:
    """Plateau (mean score over the thinking from 20 % of its span on), peak (maximum there), final (last
    token), and the cliffs down to it: [*row].
    """
    scores, first = scores.numpy(), rollout.start + round(0.2 * (rollout.stop - rollout.start))
    span = scores[..., first : rollout.stop] if rollout.stop > first else scores[..., -1:]
    plateau, peak, final = span.mean(-1), span.max(-1), scores[..., -1]
    return {
        "plateau": plateau,
        "peak": peak,
        "final": final,
        "cliff_mean": plateau - final,
        "cliff_max": peak - final,
    }


def aligned(
    scores: Sequence[Tensor], rollouts: Sequence[Rollout], before: int = 20, after: int | None = None
) -> Float[np.ndarray, "rollout offset"]:
    """Scores in raw tokens, aligned where the thinking stops: offsets −`before` … −1 are its last tokens, 0 …
    the closing ones; NaN where a rollout has no such token.
    """
    after = after if after is not None else min(len(r.prompt.ids) - r.stop for r in rollouts)
    out = np.full((len(rollouts), before + after), np.nan)
    for row, s, r in zip(out, scores, rollouts, strict=True):
        for k in range(-before, after):
            if r.start <= r.stop + k < len(s):
                row[k + before] = s[r.stop + k]
    return out


def mean_curve(lines: Float[np.ndarray, "rollout offset"], seed: int = 0) -> Estimate:
    """Estimate of the mean over the rollouts that have a token at each offset; None where fewer than five
    have one.
    """
    enough = (~np.isnan(lines)).sum(0) >= 5
    value, ci95 = [None] * lines.shape[1], [[None, None]] * lines.shape[1]
    found = (
        stats.bootstrap(lambda x: np.nanmean(x, 0), lines[:, enough], seed=seed)
        if enough.any()
        else Estimate([], [], 0)
    )
    for k, v, interval in zip(np.flatnonzero(enough), found.value, found.ci95, strict=True):
        value[k], ci95[k] = v, interval
    return Estimate(value, ci95, len(lines))


def as_published(scores: Sequence[Tensor], points: int = 100) -> Float[np.ndarray, "points"]:
    """The authors' curve: traces right-aligned by padding with zeros, averaged, interpolated to 100 points.
    Kept to show what it hides.
    """
    width = max(map(len, scores))
    mean = np.mean([np.pad(s.numpy(), (width - len(s), 0)) for s in scores], 0)
    return np.interp(np.linspace(0, width - 1, points), np.arange(width), mean)


def mean_line(lines: Float[np.ndarray, "rollout *offset"]) -> Float[np.ndarray, "*offset"]:
    """The mean over the rollouts that have a token there; NaN where none has."""
    n = (~np.isnan(lines)).sum(0)
    return np.divide(np.nansum(lines, 0), n, out=np.full(lines.shape[1:], np.nan), where=n > 0)


def drop_span(curve: Float[np.ndarray, "offset"], before: int) -> int | None:
    """In how many raw tokens the mean curve falls from nine to one tenth of the way between its plateau and
    its end, and stays there; None without a fall.
    """
    inside = curve[:before][~np.isnan(curve[:before])]  # fewer than `before` where no thinking is so long
    high, low = inside[: max(1, len(inside) // 2)].mean() if len(inside) else np.nan, curve[-1]
    if not high - low > 0.05:
        return None
    above = np.flatnonzero(curve >= low + 0.9 * (high - low))
    down = np.flatnonzero(curve > low + 0.1 * (high - low))[-1] + 1  # from here on it stays down
    return int(down - above[-1])
