"""Two models of one lineage side by side: whether they can be compared, how far apart their weights are, how
alike their grids and directions.

Two models that read the same statements agree better than two halves of the statements do in one model, for
what is peculiar to a statement is then in both. So models are compared across halves: one model's first half
with the other's second, next to the halves of each model.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import directions, patching, stats
from refusal.model.loading import Model
from refusal.model.registry import RECIPES
from refusal.model.sources import recipe_folder
from refusal.report.rules import Measured, Record, decide

SPLITS, DRAWS = 40, 200  # random halves, and halves of items drawn anew, behind each value and its interval


def difference(a: Model, b: Model) -> str | None:
    """Why the inside of two models cannot be compared, as a sentence; None where they share depth, width and
    tokenizer.
    """
    for what in ("n_layers", "d_model"):
        x, y = getattr(a, what), getattr(b, what)
        if x != y:
            return f"the two models differ in {what}: {a.name} has {x}, {b.name} has {y}"
    probe = "The city of Zürich isn't in 1984's Peru.\n"
    if (
        a.tokenizer.get_vocab() != b.tokenizer.get_vocab()
        or a.tokenizer(probe)["input_ids"] != b.tokenizer(probe)["input_ids"]
    ):
        return f"the tokenizers of {a.name} and {b.name} differ"
    return None


def weight_change(a: Model, b: Model) -> float | None:
    """‖W_b − W_a‖ / ‖W_a‖ over all parameters; None for remote models."""
    if a.remote is True or b.remote is True:
        return None
    moved = total = 0.0
    theirs = dict(b.module.named_parameters())
    for name, w in a.module.named_parameters():
        w = w.detach().double()
        moved += float((theirs[name].detach().double() - w).square().sum())
        total += float(w.square().sum())
    return (moved / total) ** 0.5


def training_record(name: str) -> dict | None:
    """What `refusal.train.recipes` wrote about the training of a model made here; None for any other
    model."""
    return (
        json.loads((recipe_folder(name) / "recipe.json").read_text(encoding="utf-8"))
        if name in RECIPES
        else None
    )


def with_template_of(model: Model, other: Model):
    """`model`; where it has no chat template, as most base models, with that of `other`."""
    if not model.template and not model.tokenizer.chat_template:
        model.tokenizer.chat_template = other.tokenizer.chat_template
    return model


def uninformative(run, prefix: str, why: str) -> None:
    """Report every claim of `run` whose id begins with `prefix`, and that was not reported yet, as one that
    these models cannot inform on.
    """
    reported = {r.id for r in run.claims}
    for id in run.planned:
        if id.startswith(prefix) and id not in reported:
            run.claim(id, NOTHING, {"same_model": None}, precondition=why)


def for_one_model(records: Sequence[Record]) -> tuple[list[str], list[str], list[str]]:
    """Of the replicated claims, the ids of those that one model given twice would meet as well, of those that
    it would not, and of those that cannot be asked of one model.

    The control ``same_model`` holds the value that one model gives; it is left out where there is none. The
    first show that the instrument finds no difference where there is none.
    """
    twice, not_twice, not_asked = [], [], []
    for r in (r for r in records if r.verdict == "replicated"):
        same = r.controls.get("same_model")
        if not isinstance(same, (int, float)):
            not_asked.append(r.id)
            continue
        found = Measured(value=same, ci95=(same, same), n=r.n, controls=r.controls)
        (twice if decide(r.rule, found)[0] == "replicated" else not_twice).append(r.id)
    return twice, not_twice, not_asked


@dataclass(frozen=True)
class Grid:
    """A patching grid of `refusal.measure.patching.grid` with the unpatched ends: values [pair, layer,
    position], clean [pair], corrupt [pair].

    Pairs of equal `cluster` [pair] share a subject and stay together in halves and draws; `cells` are the
    columns that a paper tells apart.
    """

    values: Float[np.ndarray, "pair layer position"]
    clean: Float[np.ndarray, "pair"]
    corrupt: Float[np.ndarray, "pair"]
    cluster: np.ndarray
    cells: dict[str, slice]

    def mean(self, pick: np.ndarray | slice = slice(None)) -> Float[np.ndarray, "layer position"]:
        """The mean over the pairs `pick`, in units of the unpatched difference: 0 the corrupt run, 1 the
        clean one.
        """
        low, high = self.corrupt[pick].mean(), self.clean[pick].mean()
        return (self.values[pick].mean(0) - low) / (high - low)


def grid_of(source: Model, target: Model, some: Sequence[patching.Pair], layers: Sequence[int]) -> Grid:
    """The grid of states of `source` put into runs of `target`, with the ends of the runs that were
    patched."""
    clean, corrupt = patching.baseline(target, some)
    values = patching.grid(source, target, some, layers)
    return Grid(
        values.numpy(), clean.numpy(), corrupt.numpy(), np.array([p.cluster for p in some]), some[0].cells
    )


def grid_rows(means: dict[str, np.ndarray], layers, tokens: list[str], start: int) -> pd.DataFrame:
    """The table of a ``grid`` figure: two mean grids and their difference, from the first token that differs
    on, the last layer on top.
    """
    (first, a), (second, b) = means.items()
    rows = []
    for panel, matrix in ((first, a), (second, b), (f"{second} − {first}", b - a)):
        for i, layer in reversed(list(enumerate(layers))):
            rows += [
                {"panel": panel, "row": layer, "column": f"{k} {tokens[k]!r}", "value": matrix[i, k]}
                for k in range(start, len(tokens))
            ]
    return pd.DataFrame(rows)


def readouts(
    both: dict[str, Model], table: pd.DataFrame, n_pairs: int, few: int = 8, least: float = 0.7
) -> tuple[dict[str, dict], str | None]:
    """How two models can be asked for the facts of one statement set, and the first way that both are right
    by in `least` of their runs, or None.

    {"verbal" or "recall": {"pairs": pairs, "right": {model: estimate}}}: the share of clean and
    corrupt runs on the right side. The verbal way stops after `few` pairs where it fails. The first two pairs
    of the table are its shots.
    """
    shots = table[table.pair.isin(list(dict.fromkeys(table.pair))[:2])]
    some = {"verbal": patching.verbal_pairs(both["base"], table[~table.pair.isin(shots.pair)], shots)}
    if table.set.iloc[0] in patching.RECALL_SETS:
        some["recall"] = patching.recall_pairs(both["base"], table)
    found: dict[str, dict] = {}
    for kind, asked in some.items():
        right = {name: _right(model, asked[:few]) for name, model in both.items()}
        if kind == "recall" or all((r.value or 0) >= least for r in right.values()):
            right = {name: _right(model, asked[:n_pairs]) for name, model in both.items()}
        found[kind] = {"pairs": asked[:n_pairs], "right": right}
    return found, next(
        (kind for kind, f in found.items() if all((r.value or 0) >= least for r in f["right"].values())),
        None,
    )


def _right(model: Model, some: Sequence[patching.Pair]) -> Estimate:
    if not some:
        return NOTHING
    clean, corrupt = patching.baseline(model, some)
    return stats.rate(torch.cat([clean > 0, corrupt < 0]).numpy())


def halves(
    groups: np.ndarray, rng: np.random.Generator, strata: np.ndarray | None = None, anew: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """How often each item is in either of two halves, [item] and [item]; items of one group stay together,
    and each stratum is halved by itself.

    With `anew` the groups of each half are drawn again with replacement, so that what is made of them varies
    as over new items.
    """
    times = np.zeros((2, len(groups)), int)
    strata = np.zeros(len(groups), int) if strata is None else np.asarray(strata)
    for stratum in np.unique(strata):
        names = rng.permutation(np.unique(groups[strata == stratum]))
        for side in (0, 1):
            part = names[side::2]
            if not len(part):
                continue
            chosen, count = np.unique(rng.choice(part, len(part)) if anew else part, return_counts=True)
            for name, k in zip(chosen, count, strict=True):
                times[side, (groups == name) & (strata == stratum)] = k
    return times[0], times[1]


def _alike(x: np.ndarray, y: np.ndarray, cells: dict[str, slice]) -> dict[str, float]:
    found = patching.compare(x, y) | {
        f"max_diff_{name}": v for name, v in patching.largest_difference(x, y, cells).items()
    }
    return {name: np.nan if v is None else v for name, v in found.items()}


def _mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def compare_grids(a: Grid, b: Grid, seed: int = 0) -> dict[str, Estimate]:
    """How alike two models' grids are: r over binned, raw and nonzero cells, and the largest difference by
    kind of cell.

    Bare names: all pairs in both models, which share what is peculiar to a pair. ``across_…``: one model's
    half of the pairs against the other model's other half; ``halves_…``: two halves of one model, mean of the
    two models; ``first_…``: two halves of a, which is what a given twice would show across; ``gap_…``: across
    − halves; ``null_…``: b's layers shuffled. Values are means over random halves; intervals are ±1.96
    standard deviations over halves whose pairs were drawn anew, or for the null its middle 95 %. Where all
    pairs share one subject there are no halves, and every value is None.
    """
    rng, n, cells = np.random.default_rng(seed), len(a.values), a.cells

    def once(anew: bool) -> dict[str, dict[str, float]]:
        one, other = (np.repeat(np.arange(n), times) for times in halves(a.cluster, rng, anew=anew))
        (a1, a2), (b1, b2) = ((grid.mean(one), grid.mean(other)) for grid in (a, b))
        across = _mean_of([_alike(a1, b2, cells), _alike(b1, a2, cells)])
        first = _alike(a1, a2, cells)
        within = _mean_of([first, _alike(b1, b2, cells)])
        every = np.concatenate([one, other])
        gap = {name: across[name] - within[name] for name in across}
        return {
            "": _alike(a.mean(every), b.mean(every), cells),
            "across_": across,
            "halves_": within,
            "first_": first,
            "gap_": gap,
        }

    out: dict[str, Estimate] = defaultdict(lambda: NOTHING)
    if len(np.unique(a.cluster)) < 2:
        return out
    plain, anew = [once(False) for _ in range(SPLITS)], [once(True) for _ in range(DRAWS)]
    for kind in plain[0]:
        for name in plain[0][kind]:
            value, spread = np.array([p[kind][name] for p in plain]), np.array([d[kind][name] for d in anew])
            out[kind + name] = _around(
                value.mean(), spread, n, 1.0 if name.startswith("r_") and kind != "gap_" else None
            )
    shuffled = [_alike(a.mean(), b.mean()[rng.permutation(a.values.shape[1])], cells) for _ in range(DRAWS)]
    for name in shuffled[0]:
        x = np.array([s[name] for s in shuffled])
        out["null_" + name] = (
            NOTHING
            if np.isnan(x).all()
            else Estimate(float(np.nanmean(x)), np.nanpercentile(x, [2.5, 97.5]).tolist(), n)
        )
    return out


def _around(value: float, draws: np.ndarray, n: int, most: float | None = None) -> Estimate:
    """An estimate from a value and draws of it; None where it is not a number, or where the draws are not in
    more than one of ten.
    """
    if not np.isfinite(value) or np.isfinite(draws).mean() < 0.9:
        return NOTHING
    error = 1.96 * float(np.nanstd(draws))
    high = value + error if most is None else min(most, value + error)
    return Estimate(float(value), [float(value - error), float(high)], n)


def peak_ratio(crossed: Grid, own: Grid, seed: int = 0, cells: int = 5) -> Estimate:
    """The effect of another model's states over that of the model's own, at the `cells` where its own is
    largest.

    The cells are chosen on one half of the pairs and read on the other, and the other way round; clusters of
    pairs are drawn anew.
    """
    names = np.unique(own.cluster)
    if len(names) < 2:
        return NOTHING
    first = np.isin(own.cluster, np.random.default_rng(seed).permutation(names)[::2])
    effects = np.zeros((2, len(first)))
    for chooses in (first, ~first):
        at = np.unravel_index(np.argsort(own.mean(chooses).ravel())[-cells:], own.values.shape[1:])
        for row, grid in zip(effects, (crossed, own), strict=True):
            row[~chooses] = (grid.values[:, *at].mean(1) - grid.corrupt)[~chooses]
    return ratio_of_means(effects[0], effects[1], own.cluster, seed)


def ratio_of_means(crossed: ArrayLike, own: ArrayLike, groups: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate of mean(crossed) / mean(own), both of the same items; groups of items are drawn anew. n counts
    items.
    """
    sums = [
        np.array([np.asarray(values, float)[groups == name].sum() for name in np.unique(groups)])
        for values in (crossed, own)
    ]
    found = stats.bootstrap(lambda x, y: x.mean(0) / y.mean(0), *sums, seed=seed, paired=True)
    return replace(found, n=len(groups))


def cosine_halves(
    a: Float[Tensor, "item layer d"],
    b: Float[Tensor, "item layer d"],
    positive: ArrayLike,
    groups: np.ndarray,
    strata: np.ndarray,
    seed: int = 0,
) -> dict[str, Float[Tensor, "three draw layer"]]:
    """Cosines of difference-of-means directions from halves that share no item: across the models a and b,
    within a, within b.

    ``plain`` are of random halves, ``anew`` of halves whose groups were drawn again. `a` and `b` are states
    of the same items in two models.
    """
    rng, positive, found = np.random.default_rng(seed), np.asarray(positive, bool), {}
    for kind, draws in (("plain", SPLITS), ("anew", DRAWS)):
        # [draw, half, item]
        times = np.stack([halves(groups, rng, strata, kind == "anew") for _ in range(draws)])
        weight = times * (
            positive / (times * positive).sum(-1, keepdims=True)
            - ~positive / (times * ~positive).sum(-1, keepdims=True)
        )
        weight = torch.from_numpy(weight).float()
        # [draw, layer, d]
        (a1, a2), (b1, b2) = ([torch.tensordot(weight[:, half], x, 1) for half in (0, 1)] for x in (a, b))
        across = (directions.cosine(a1, b2) + directions.cosine(b1, a2)) / 2
        found[kind] = torch.stack([across, directions.cosine(a1, a2), directions.cosine(b1, b2)])
    return found


def one_model(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `cosine_halves` would have found with model b in the place of a as well: halves of b, three
    times."""
    return {kind: values[2].expand_as(values) for kind, values in found.items()}


def corrected(found: dict[str, Tensor], layers: slice | int) -> dict[str, Estimate]:
    """What `cosine_halves` found, mean over `layers`: ``across`` and ``halves`` (of one model, mean of both)
    as they are, and ``corrected``: across over the root of the two models' halves, an estimate of the cosine
    that endless data would give. None where halves of one model do not agree.
    """
    # [three, draw]
    mean = {
        kind: values[..., layers].reshape(3, values.shape[1], -1).mean(-1).double().numpy()
        for kind, values in found.items()
    }
    level, n = mean["plain"].mean(1), found["plain"].shape[1]
    raw = {"across": (level[0], mean["anew"][0]), "halves": (level[1:].mean(), mean["anew"][1:].mean(0))}
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs_of = {
            "corrected": tuple(
                x[0] / np.sqrt(np.where((x[1:] > 0).all(0), x[1] * x[2], np.nan))
                for x in (level, mean["anew"])
            )
        }
    return {name: _around(float(value), draws, n) for name, (value, draws) in (raw | pairs_of).items()}


def corrected_by_layer(found: dict[str, Tensor]) -> dict[str, Estimate]:
    """`corrected` at every layer, as lists along the layers; NaN where there is none."""
    each = [corrected(found, layer) for layer in range(found["plain"].shape[-1])]
    return {
        name: Estimate(
            [e[name].value if e[name].value is not None else np.nan for e in each],
            [e[name].ci95 or [np.nan, np.nan] for e in each],
            found["plain"].shape[1],
        )
        for name in each[0]
    }


def gap_of_cosines(truth: dict[str, Tensor], refusal: dict[str, Tensor], layers: slice, n: int) -> Estimate:
    """The corrected cosine of one pair of directions minus that of another, from other items; half widths add
    in quadrature.
    """
    one, two = corrected(truth, layers)["corrected"], corrected(refusal, layers)["corrected"]
    if one.value is None or two.value is None:
        return NOTHING
    value, error = (
        one.value - two.value,
        float(np.hypot(*((f.ci95[1] - f.ci95[0]) / 2 for f in (one, two)))),
    )
    return Estimate(value, [value - error, value + error], n)


# What each claim about a pair is judged by: (measured, controls).


def moved_by(change: float | None) -> dict[str, float | None]:
    """The control that says how far apart two models are: the change of weights in per cent of their norm."""
    return {"weight_change_percent": None if change is None else 100 * change}


def knowledge(alike: dict[str, Estimate], change: float | None) -> tuple[Estimate, dict]:
    """Agreement of two models' grids, from `compare_grids`."""
    controls = {
        "same_model": alike["first_r_nonzero"].value,
        **moved_by(change),
        **alike["halves_r_nonzero"].under("halves"),
        **alike["gap_r_nonzero"].under("across_minus_halves"),
        "shuffled_layers": alike["null_r_nonzero"].value,
        "shuffled_layers_high": (alike["null_r_nonzero"].ci95 or [None, None])[1],
        "r_all_cells": alike["r_raw"].value,
        "r_all_cells_binned": alike["r_binned"].value,
        "max_diff": alike["max_diff_all"].value,
    }
    return alike["across_r_nonzero"], controls


def crossing(crossed: Grid, own: Grid, change: float | None, seed: int = 0) -> tuple[Estimate, dict]:
    """The effect of another model's states relative to the model's own."""
    controls = {
        "same_model": peak_ratio(own, own, seed).value,
        **moved_by(change),
        "own_peak": float(own.mean().max()),
        "no_patch": 0.0,
    }
    return peak_ratio(crossed, own, seed), controls


def parallel(
    found: dict[str, Tensor], layers: slice, n: int, d_model: int, change: float | None
) -> tuple[Estimate, dict]:
    """The cosine of two models' directions, corrected for what halves of one model leave open."""
    values = corrected(found, layers)
    controls = {
        "same_model": corrected(one_model(found), layers)["corrected"].value,
        **moved_by(change),
        **values["across"].under("across_halves"),
        "halves_of_one_model": values["halves"].value,
        "random": d_model**-0.5,
    }
    return replace(values["corrected"], n=n), controls
