"""Directions of single harm categories (arXiv 2507.11878, Fig. 9): are kinds of harm told apart at t_inst,
while refusal is one at t_post?

All directions share their harmless mean, which alone makes them alike, and more so at one position than at
the other. So what the claim compares is also worked out for groups that are drawn at random from the same
prompts.
"""

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats

BENCHMARKS = {"harmbench": "HB", "strongreject": "SR"}  # their requests differ in form as well as in harm
SMALLEST = 8  # prompts of a category
DRAWS = 100  # bootstrap draws of an interval, of which the standard deviation is used

Groups = Sequence[np.ndarray]  # each the numbers of its prompts
States = Float[Tensor, "prompt layer 2 d"]  # of every layer at t_inst and t_post


def members(pool: pd.DataFrame) -> dict[str, np.ndarray]:
    """{"HB name": row numbers} of the categories of both benchmarks that have at least `SMALLEST` prompts in
    `pool`.
    """
    tidy = pool.category.map(
        lambda name: shorten(name.replace("_", " ").replace(",", "").lower(), 26, placeholder="…")
    )
    names = pool.source.map(BENCHMARKS) + " " + tidy
    sizes = names.value_counts()
    return {name: np.flatnonzero(names == name) for name in sorted(sizes[sizes >= SMALLEST].index)}


def cosines(acts: States, calm: Float[Tensor, "layer 2 d"], groups: Groups, k: int) -> np.ndarray:
    """Cosines between the directions of groups at position `k`, 0 t_inst or 1 t_post, averaged over layers:
    [group, group].
    """
    # [group, layer, d_model]; h[0] is the token alone
    v = torch.stack([acts[g, 1:, k].mean(0) - calm[1:, k] for g in groups])
    v = v / v.norm(dim=-1, keepdim=True)
    return torch.einsum("ald,bld->ab", v, v).numpy() / v.shape[1]


def alike(acts: States, calm, groups: Groups) -> np.ndarray:
    """How alike the directions of groups are: the mean cosine over pairs of groups, at t_inst and at
    t_post."""
    below = np.tril_indices(len(groups), -1)
    return np.array([cosines(acts, calm, groups, k)[below].mean() for k in (0, 1)])


def at_one_norm(vectors: Mapping[str, Float[Tensor, "d"]], like: Float[Tensor, "d"]) -> dict[str, Tensor]:
    """The vectors, each with the norm of `like`: what they do is compared at one size."""
    return {name: v * (like.norm() / v.norm()) for name, v in vectors.items()}


def resampled(groups: Groups, rng: np.random.Generator) -> list[np.ndarray]:
    """The groups with their prompts drawn anew."""
    return [rng.choice(g, len(g)) for g in groups]


def regrouped(groups: Groups, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups of the same sizes, drawn at random from all of their prompts."""
    return np.split(rng.permutation(np.concatenate(groups)), np.cumsum([len(g) for g in groups])[:-1])


def differ_in_harm(acts: States, calm, groups: Groups, n_random: int, seed: int = 0) -> tuple[Estimate, dict]:
    """Value and controls: mean cosine of refusal directions minus that of harmfulness directions, against
    `n_random` random groupings.

    The interval is ± 1.96 standard deviations over bootstrap draws of prompts: the draws themselves are
    biased, as fewer different prompts make noisier directions. Fewer than two groups give value None.
    """
    if len(groups) < 2:
        return NOTHING, {"categories": len(groups), "random_groups": 0}
    rng = np.random.default_rng(seed)
    around = lambda value, draws: [value - 1.96 * float(np.std(draws)), value + 1.96 * float(np.std(draws))]
    found, n = alike(acts, calm, groups), sum(map(len, groups))
    drawn = np.array([alike(acts, calm, resampled(groups, rng)) for _ in range(DRAWS)])
    random = np.array([alike(acts, calm, regrouped(groups, rng)) for _ in range(n_random)])
    gap = float(found[1] - found[0])
    value = Estimate(gap, around(gap, drawn[:, 1] - drawn[:, 0]), n)
    controls: dict = {"harm": float(found[0]), "refusal": float(found[1]), "categories": len(groups)}
    controls |= {"harm_ci95": around(found[0], drawn[:, 0]), "refusal_ci95": around(found[1], drawn[:, 1])}
    return value, controls | stats.score_band([[g] for g in random[:, 1] - random[:, 0]], gap, "random_group")


def table(acts: States, calm, groups: dict[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Rows of a ``grid`` figure: the cosine of each pair of categories at both positions, ± 1.96 standard
    deviations over prompts drawn anew.
    """
    rng, rows, names = np.random.default_rng(seed), [], list(groups)
    draws = [resampled([*groups.values()], rng) for _ in range(DRAWS)]
    for k, panel in enumerate(("v_harm at t_inst", "v_refuse at t_post")):
        error = 1.96 * np.std([cosines(acts, calm, g, k) for g in draws], axis=0)
        for (i, j), value in np.ndenumerate(cosines(acts, calm, [*groups.values()], k)):
            rows.append(
                {
                    "panel": panel,
                    "row": names[i],
                    "column": names[j],
                    "value": value,
                    "low": value - error[i, j],
                    "high": value + error[i, j],
                }
            )
    return pd.DataFrame(rows)
