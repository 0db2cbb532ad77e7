"""Rows of notebook 01's figures, and words that follow from its numbers, where a cell would be long."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from refusal.base.estimate import Estimate
from refusal.findings.f01 import pairs
from refusal.report.rules import Record
from refusal.report.shown import percent

BANDS = 5  # of layers, in the figure of a grid


def kinds(grid: pairs.Grid, start: int) -> dict[str, np.ndarray]:
    """The columns of each kind of cell from the first token that differs on, in the order of the text:
    subject, other tokens, object where it is named, last token. A kind without a column is left out.
    """
    columns = np.arange(start, grid.values.shape[2])
    named = {name: columns[np.isin(columns, columns_of(grid, name))] for name in grid.cells}
    taken = np.concatenate([*named.values()]) if named else np.empty(0, int)
    found = {
        "subject": named.get("subject", columns[:0]),
        "other": columns[~np.isin(columns, taken)],
        "object": named.get("object", columns[:0]),
        "last": named.get("last", columns[:0]),
    }
    return {name: which for name, which in found.items() if len(which)}


def columns_of(grid: pairs.Grid, kind: str) -> np.ndarray:
    """The columns of a kind of cell, as numbers."""
    return np.arange(grid.values.shape[2])[grid.cells[kind]]


def bands(layers: Sequence[int], n: int = BANDS) -> dict[str, np.ndarray]:
    """Layers in at most `n` bands of about equal length, first ones first: {"1–6": places in `layers`}."""
    parts = [part for part in np.array_split(np.arange(len(layers)), n) if len(part)]
    ends = [(layers[part[0]], layers[part[-1]]) for part in parts]
    return {f"{a}–{b}" if a != b else str(a): part for (a, b), part in zip(ends, parts, strict=True)}


def between_halves(grid: pairs.Grid, seed: int = 0) -> Float[np.ndarray, "layer position"] | None:
    """How far the mean grids of two random halves of one model's pairs lie apart: the mean of |difference|
    over halves. None where all pairs share one subject.
    """
    if len(np.unique(grid.cluster)) < 2:
        return None
    rng, every, apart = np.random.default_rng(seed), np.arange(len(grid.cluster)), []
    for _ in range(pairs.SPLITS):
        one, other = (np.repeat(every, times) for times in pairs.halves(grid.cluster, rng))
        apart.append(np.abs(grid.mean(one) - grid.mean(other)))
    return np.mean(apart, 0)


def grid_rows(a: pairs.Grid, b: pairs.Grid, layers: Sequence[int], start: int, seed: int = 0) -> pd.DataFrame:
    """The table of a ``grid`` figure of two models' grids by kind of cell and band of layers, last layers on
    top.

    Panels of each model: of the tokens of a kind the one that carries most, mean over the band's layers.
    Panels of differences: the largest of the cells.
    """
    off = between_halves(a, seed)
    panels = {"base": a.mean(), "post": b.mean(), "largest |post − base|": np.abs(b.mean() - a.mean())}
    panels |= {} if off is None else {"control: largest |half − half| of base": off}
    rows = []
    for panel, cells in panels.items():
        for band, at in reversed(bands(layers).items()):
            for kind, columns in kinds(a, start).items():
                most = cells[np.ix_(at, columns)].max(1)
                value = most.mean() if panel in ("base", "post") else most.max()
                rows.append({"panel": panel, "row": band, "column": kind, "value": float(value)})
    return pd.DataFrame(rows)


def handover(grid: pairs.Grid, layers: Sequence[int]) -> int | None:
    """The first layer at which the last token's state carries more of the answer than any of the subject's
    tokens; None where it never does.
    """
    mean = grid.mean()
    last, subject = (mean[:, columns_of(grid, kind)].max(1) for kind in ("last", "subject"))
    return next((int(l) for l, more in zip(layers, last > subject, strict=True) if more), None)


def passes(name: str, at: Mapping[str, int | None]) -> str:
    """Where the answer passes to the last token in each model, in words."""
    if None in at.values():
        return f"{name}: the last token never carries more of the answer than the subject"
    words = (
        f"layer {next(iter(at.values()))} in both models"
        if len(set(at.values())) == 1
        else " and ".join(f"layer {layer} in {model}" for model, layer in at.items())
    )
    return f"{name}: the answer passes from the subject to the last token at {words}"


def span(values: Iterable[float | None], form: str = ".2f") -> str:
    """Smallest and largest of some numbers as words, "0.92 to 1.11"; a dash where there are none."""
    seen = sorted(v for v in values if v is not None)
    ends = list(dict.fromkeys(f"{v:{form}}" for v in (seen[0], seen[-1]))) if seen else ["–"]
    return " to ".join(ends)


def interval(found: Estimate) -> str:
    """A value with its interval as words; "not measurable" where there is none."""
    if found.value is None or found.ci95 is None:
        return "not measurable"
    low, high = found.ci95
    return f"{found.value:.2f} [{low:.2f}, {high:.2f}]"


def rate_words(rates: Mapping[str, Estimate]) -> str:
    """Shares and what they are of, as words: "77 % of harmful, 15 % of harmless"."""
    return ", ".join(f"{percent(r.value)} of {name.replace('_', '-')}" for name, r in rates.items())


def number(r: Record, *controls: str) -> float | None:
    """The largest of some controls of a record; None where there is none."""
    found = (r.controls.get(name) for name in controls)
    return max((x for x in found if isinstance(x, (int, float))), default=None)


def by_chance(r: Record) -> float | None:
    """The largest effect that random directions had, of those read by the first token and those judged."""
    return number(r, "random_direction_high", "random_direction_judged_max")


def tried(what: str, by: Mapping[str, Record]) -> str:
    """What the other model's refusal direction does in the post-trained one, beside its own and random ones,
    as a sentence with the verdicts. `by` holds the records of one intervention by how the direction was
    extracted.
    """
    first, doing = next(iter(by.values())), "Ablated" if what == "ablate" else "Added"
    own = number(first, "own_effect")
    if own is None:
        return f"{doing}: {first.verdict}, {first.reason}."
    each = [(how.replace("-", " "), percent(number(r, "crossed_effect")), r.verdict) for how, r in by.items()]
    verdicts = {verdict for _, _, verdict in each}
    crossed = " and ".join(
        f"{share} ({how})" if len(verdicts) == 1 else f"{share} ({how}, {verdict})"
        for how, share, verdict in each
    )
    end = f": {verdicts.pop()}" if len(verdicts) == 1 else ""
    if end.endswith("uninformative"):
        end += ", for the own direction has to reach 20% and clearly exceed random ones"
    return (
        f"{doing}, post's own direction {'ends' if what == 'ablate' else 'brings'} refusal in {percent(own)} "
        f"of {first.n} prompts and random ones in up to {percent(by_chance(first))}; base's does so in "
        f"{crossed}{end}."
    )
