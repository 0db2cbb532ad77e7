"""How system prompts move states: whether safety prompts move them alike, and where to. Moves are those of
means over prompts, on the outputs of the final norm at the last prompt token.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats
from refusal.measure.trainings import mean_over, of_one

DRAWS, HALVINGS = 300, 10
Pairs = Sequence[tuple[str, str]]  # a safety prompt and its neutral one


def products(moved: Mapping[str, Tensor], names: Sequence[str]) -> Float[np.ndarray, "arm arm prompt prompt"]:
    """Inner products of each prompt's move under one system prompt with each one's under another."""
    x = torch.stack([moved[name] for name in names]).double()
    return torch.einsum("ipd,jqd->ijpq", x, x).numpy()


def cosines(gram: np.ndarray, times: np.ndarray, rng: np.random.Generator, halvings: int) -> np.ndarray:
    """Cosines [arm, arm] between mean moves of two halves of the prompts, prompt p counted `times`[p]: no
    prompt is in both, so that what all moves share by the noise of the unmoved states makes none alike. On
    the diagonal: how well one move agrees with itself.
    """
    out = np.zeros(gram.shape[:2])
    drawn = np.flatnonzero(times)
    for _ in range(halvings):
        rng.shuffle(drawn)
        u, v = np.zeros(len(times)), np.zeros(len(times))
        u[drawn[::2]], v[drawn[1::2]] = times[drawn[::2]], times[drawn[1::2]]
        u, v = u / u.sum(), v / v.sum()
        cross = np.einsum("p,ijpq,q->ij", u, gram, v)
        own_u, own_v = (np.einsum("p,iipq,q->i", w, gram, w) for w in (u, v))
        one = cross / np.sqrt(np.outer(own_u, own_v))
        out += (one + one.T) / 2
    return out / halvings


def common(moved: Mapping[str, Tensor], pairs: Pairs, seed: int = 0) -> tuple[Estimate, dict, np.ndarray]:
    """By how much more alike two safety prompts move prompts than a safety and a neutral one do: the
    estimate, its interval over prompts widened over texts; the means it is made of; and the cosines [arm,
    arm], safety prompts first.
    """
    names, k = [a for a, _ in pairs] + [b for _, b in pairs], len(pairs)
    gram, rng = products(moved, names), np.random.default_rng(seed)
    n = gram.shape[-1]
    whole = cosines(gram, np.ones(n), rng, HALVINGS)
    times = rng.multinomial(n, np.full(n, 1 / n), DRAWS)
    drawn = [_apart(cosines(gram, t, rng, 1), range(k), k)[0] for t in times]
    value, safety, across = _apart(whole, range(k), k)
    error = 1.96 * float(np.std(drawn, ddof=1))
    left_out = np.array([_apart(whole, [i for i in range(k) if i != j], k)[0] for j in range(k)])
    # a jackknife over the texts, as draws of as many
    texts = left_out.mean() + (left_out - left_out.mean()) * (k - 1) / np.sqrt(k)
    found = of_one(Estimate(value, [value - error, value + error], n), texts, (-2, 2))
    controls = {"safety": safety, "safety_neutral": across, "split_half": float(np.diag(whole)[:k].mean())}
    return found, controls | {"texts": k}, whole


def _apart(cosine: np.ndarray, which: Sequence[int], k: int) -> tuple[float, float, float]:
    """Mean cosine between the safety prompts `which` minus that with the neutral ones, and the two."""
    rows = np.array(which)
    among = cosine[np.ix_(rows, rows)][~np.eye(len(rows), dtype=bool)].mean()
    across = cosine[np.ix_(rows, k + rows)].mean()
    return float(among - across), float(among), float(across)


def between(moved: Mapping[str, Tensor], some: Sequence[str], others: Sequence[str], seed: int = 0) -> float:
    """The mean cosine between mean moves under system prompts of two kinds, from halves of the prompts."""
    gram, rng = products(moved, [*some, *others]), np.random.default_rng(seed)
    cosine = cosines(gram, np.ones(gram.shape[-1]), rng, HALVINGS)
    return float(cosine[: len(some), len(some) :].mean())


def over_texts(differences: Float[np.ndarray, "text prompt"], seed: int = 0) -> Estimate:
    """The mean of paired differences over prompts and texts, its interval over prompts widened over texts."""
    by_text = differences.mean(1)
    return mean_over(stats.mean(differences.mean(0), seed, shares=False), by_text)


def gap(delta: Tensor, to: Tensor, origin: Tensor) -> float:
    """How far a mean move goes from one group's mean towards another's, in parts of the way: states [prompt,
    d_model]. What noise of the two means adds to the way is taken off; NaN where nothing is left.
    """
    v = to.mean(0) - origin.mean(0)
    noise = sum(float(x.var(0).sum()) / len(x) for x in (to, origin))
    way = float(v @ v) - noise
    return float(delta @ v) / way if way > 0 else float("nan")


def not_harm(
    moved: Float[Tensor, "prompt d"],
    refused: Tensor,
    answered: Tensor,
    harmless: Tensor,
    by_text: Sequence[Tensor],
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """By how much further the mean move goes along refusing (refused from answered harmful prompts) than
    along harm (answered harmful from answered harmless ones), in parts of each way: prompts and those that
    make the directions are drawn anew together, and widened over texts (`by_text`, the mean move of each).
    """

    def apart(x, r, a, h):
        return gap(x, r, a) - gap(x, a, h)

    groups, rng = (moved, refused, answered, harmless), np.random.default_rng(seed)
    if min(map(len, groups)) < 5:
        return NOTHING, {}
    draws = []
    for _ in range(DRAWS):
        m, *others = (g[torch.from_numpy(rng.integers(0, len(g), len(g)))] for g in groups)
        draws.append(apart(m.mean(0), *others))
    value, error = apart(moved.mean(0), *groups[1:]), 1.96 * float(np.nanstd(draws, ddof=1))
    controls = {
        "toward_refusal": gap(moved.mean(0), refused, answered),
        "toward_harm": gap(moved.mean(0), answered, harmless),
        "refused": len(refused),
        "answered": len(answered),
    }
    if not np.isfinite(value) or np.isnan(draws).mean() > 0.05:
        return Estimate(None, None, len(moved)), controls
    each = np.array([apart(x, *groups[1:]) for x in by_text])
    texts = each.mean() + (each - each.mean()) / np.sqrt(len(each))
    return of_one(Estimate(value, [value - error, value + error], len(moved)), texts), controls
