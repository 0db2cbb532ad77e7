"""Directions of single harm categories (arXiv 2507.11878, Fig. 9): are kinds of harm told apart at t_inst,
while refusal is one at t_post?

The mean of a few prompts is a direction and noise, and noise makes directions unlike, more so at one position
than at the other; the harmless mean, which all share, makes them alike. What both add to the products of
directions is known from the spread of the prompts, and is taken off. So groups that are drawn at random from
the same prompts have a cosine near 1 whatever their size, and what the claim compares is worked out for such
groups too.
"""

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import t
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats

BENCHMARKS = {"harmbench": "HB", "strongreject": "SR"}  # their requests differ in form as well as in harm
SMALLEST = 8  # prompts of a category
DRAWS = 100  # bootstrap draws of an interval, of which the standard deviation is used

Groups = Sequence[np.ndarray]  # each the numbers of its prompts
States = Float[Tensor, "prompt layer 2 d"]  # of every layer at t_inst and t_post
Calm = Float[Tensor, "harmless layer 2 d"]  # those of harmless prompts


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


def cosines(acts: States, calm: Calm, groups: Groups, k: int) -> np.ndarray:
    """Cosines between the directions of groups at position `k`, 0 t_inst or 1 t_post, over all layers, each
    scaled to the same mean length, freed of the noise of means: [group, group].

    The products are unbiased, so a cosine may lie beyond 1. NaN where a group's direction is no longer than
    noise is.
    """
    # [group, layer, d_model]; h[0] is the token alone
    parts, base = [acts[g, 1:, k] for g in groups], calm[:, 1:, k]
    v = torch.stack([part.mean(0) for part in parts]) - base.mean(0)
    noise = torch.stack([_noise_of_mean(part) for part in parts])  # [group, layer]
    products = torch.einsum("ald,bld->lab", v, v) - _noise_of_mean(base)[:, None, None]
    products -= torch.diag_embed(noise.T)
    products = (products / v.square().sum(-1).mean(0)[:, None, None]).sum(0).double().numpy()
    own = np.diag(products)
    lengths = np.sqrt(np.where(own > 0, own, np.nan))
    return products / np.outer(lengths, lengths)


def _noise_of_mean(x: Float[Tensor, "prompt layer d"]) -> Float[Tensor, "layer"]:
    """The expected squared length of the error of a mean over prompts."""
    return x.var(0).sum(-1) / len(x)


def alike(acts: States, calm: Calm, groups: Groups) -> np.ndarray:
    """How alike the directions of groups are: the mean cosine over pairs of groups, at t_inst and at t_post;
    NaN where a direction is no longer than noise is.
    """
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


def differ_in_harm(
    acts: States, calm: Calm, groups: Groups, n_random: int, seed: int = 0
) -> tuple[Estimate, dict]:
    """Value and controls: mean cosine of refusal directions minus that of harmfulness directions, against
    `n_random` random groupings.

    The interval is Student's for the smallest group, with the standard deviation of bootstrap draws of
    prompts, harmless ones as well: the draws themselves are biased, as fewer different prompts make noisier
    directions. Value None where there are fewer than two
    groups, or where a direction is no longer than noise is, in all prompts or in more than one draw of
    twenty.
    """
    nothing = NOTHING, {"categories": len(groups), "random_groups": 0}
    if len(groups) < 2:
        return nothing
    rng = np.random.default_rng(seed)
    # the mean of prompts drawn anew varies less than that of new ones, and how much is known from few
    smallest = min(map(len, groups))
    wider = float(t.ppf(0.975, smallest - 1)) * (smallest / (smallest - 1)) ** 0.5
    around = lambda value, draws: [value - wider * float(np.std(draws)), value + wider * float(np.std(draws))]
    found, n = alike(acts, calm, groups), sum(map(len, groups))
    anew = lambda: calm[rng.integers(len(calm), size=len(calm))]
    drawn = _known([alike(acts, anew(), resampled(groups, rng)) for _ in range(DRAWS)])
    random = _known([alike(acts, calm, regrouped(groups, rng)) for _ in range(n_random)])
    if np.isnan(found).any() or len(drawn) < 0.95 * DRAWS:
        return nothing
    gap = float(found[1] - found[0])
    value = Estimate(gap, around(gap, drawn[:, 1] - drawn[:, 0]), n)
    controls: dict = {"harm": float(found[0]), "refusal": float(found[1]), "categories": len(groups)}
    controls |= {"harm_ci95": around(found[0], drawn[:, 0]), "refusal_ci95": around(found[1], drawn[:, 1])}
    return value, controls | stats.score_band([[g] for g in random[:, 1] - random[:, 0]], gap, "random_group")


def _known(draws: list[np.ndarray]) -> np.ndarray:
    """Those of draws [draw, position] in which every direction is longer than noise."""
    found = np.array(draws).reshape(len(draws), 2)
    return found[~np.isnan(found).any(1)]


def table(acts: States, calm: Calm, groups: dict[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Rows of a ``grid`` figure: the cosine of each pair of categories at both positions, ± 1.96 standard
    deviations over prompts drawn anew; nothing where a direction is no longer than noise is.
    """
    rng, rows, names = np.random.default_rng(seed), [], list(groups)
    draws = [resampled([*groups.values()], rng) for _ in range(DRAWS)]
    for k, panel in enumerate(("v_harm at t_inst", "v_refuse at t_post")):
        error = 1.96 * np.nanstd([cosines(acts, calm, g, k) for g in draws], axis=0)
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
