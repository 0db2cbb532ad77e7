"""Rows of notebook 01's figures, and words that follow from its numbers, where a cell would be long."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from refusal.base.estimate import Estimate
from refusal.findings.f01 import pairs
from refusal.report.rules import Record
from refusal.report.shown import measured, percent, two
from refusal.report.shown import number as digits

BANDS = 5  # of layers, in the figure of a grid
NAMED = 4  # sets that a title names one by one
PARALLEL = 0.7  # the bar of 01.truth.cosine: from there on two directions are called nearly parallel
SMALL_CHANGE = 0.01  # of the weights' norm: single neurons are then nearly what they were
EACH_BY_ITSELF = "01.truth.reads."  # claims that compare no model with another
OF_A_DIFFERENCE = ("01.refusal.", "01.signature.")  # all others that compare are claims of sameness


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


def apart(table: pd.DataFrame) -> str:
    """How far two models' grids lie apart in the table of `grid_rows`, as a sentence."""
    most = {
        name: panel.value.max() for name, panel in table.groupby("panel") if str(name) not in ("base", "post")
    }
    models, *halves = [f"{two(x)}" for _, x in sorted(most.items(), key=lambda item: "half" in str(item[0]))]
    beside = f", and {halves[0]} between halves of base's own pairs" if halves else ""
    return f"The largest difference of a cell is {models} between the models{beside}; 1 is the whole effect."


def handover(grid: pairs.Grid, layers: Sequence[int]) -> int | None:
    """The first layer at which the last token's state carries more of the answer than any of the subject's
    tokens; None where it never does.
    """
    mean = grid.mean()
    last, subject = (mean[:, columns_of(grid, kind)].max(1) for kind in ("last", "subject"))
    return next((int(l) for l, more in zip(layers, last > subject, strict=True) if more), None)


def passes(name: str, at: Mapping[str, int | None]) -> str:
    """Where the answer passes to the last token in each model, in words."""
    seen = {model: layer for model, layer in at.items() if layer is not None}
    never = " and ".join(model for model in at if model not in seen)
    if not seen:
        return f"{name}: the last token never carries more of the answer than the subject"
    words = (
        f"layer {next(iter(seen.values()))} in both models"
        if len(set(seen.values())) == 1 and not never
        else " and ".join(f"layer {layer} in {model}" for model, layer in seen.items())
    )
    passes = f"{name}: the answer passes from the subject to the last token at {words}"
    return f"{passes}, and never in {never}" if never else passes


def limits(
    rows: Iterable[Mapping], low: float | int, high: float | int, room: float | int = 0.02
) -> list[float]:
    """The ends of an axis that holds `low`, `high` and all of the rows' values and intervals."""
    found = [row[k] for row in rows for k in ("value", "low", "high") if row[k] is not None]
    seen = [x for x in found if np.isfinite(x)]
    return [min([low, *seen]) - room, max([high, *seen]) + room]


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


def alike(found: Estimate) -> str:
    """Whether a cosine is that of nearly parallel directions, in words: by its whole interval."""
    if found.value is None or found.ci95 is None:
        return "not measurable"
    low, high = found.ci95
    if low > PARALLEL:
        return "nearly parallel"
    return "not nearly parallel" if high < PARALLEL else "too wide to say"


def cosine(found: Estimate) -> str:
    """A cosine with its interval and what it says, as words."""
    said = alike(found)
    return said if said == "not measurable" else f"{interval(found)} ({said})"


def of_template(alone: Estimate) -> str:
    """What a chat template by itself makes of a direction, from the cosine of one model's directions without
    and with it, as a sentence.
    """
    said = {
        "nearly parallel": "the template by itself turns the direction little",
        "not nearly parallel": "what is missing there is the template's doing",
        "too wide to say": "too wide to say what the template does",
        "not measurable": "what the template does is not known",
    }
    return (
        "The post-trained model's own two extractions, without and with the template, have "
        f"{interval(alone)}: {said[alike(alone)]}."
    )


def signature(how: str, gap: Estimate, alone: Estimate, verdict: str | None) -> str:
    """The truth directions' cosine minus the refusal directions', beside what the post-trained model alone
    gives, as a sentence; the verdict where there is a claim.
    """
    judged = f": {verdict}" if verdict else ""
    if gap.value is None:
        return f"Extracted {how}, the first cosine minus that of refusal is not measurable{judged}."
    return (
        f"Extracted {how}, the first cosine minus that of refusal is {interval(gap)}, and "
        f"{interval(alone)} where post is given twice{judged}."
    )


def right_on(read: Mapping[str, Record]) -> str:
    """On how many statements of each set post's own direction is right, as words: by name where they are
    few.
    """
    if len(read) <= NAMED:
        return ", ".join(f"{name} {percent(r.value)}" for name, r in read.items())
    return f"{span((r.value for r in read.values()), '.0%')} of the statements of {len(read)} sets"


def permuted(read: Mapping[str, Record]) -> str:
    """What permuted labels reach on some sets in either model, as words."""
    bars = {"post": "permuted_max", "base": "permuted_max_base"}
    return " and ".join(
        f"{span((number(r, bar) for r in read.values()), '.0%')} in {model}" for model, bar in bars.items()
    )


def not_read(name: str, r: Record) -> str:
    """That a set was not shown to be read, with what permuted labels reach in either model, as a sentence."""
    return (
        f"{name} is {r.verdict}: post's own direction is right on {percent(r.value)} (permuted labels reach "
        f"{percent(number(r, 'permuted_max'))}) and base's on {percent(number(r, 'own_base'))} "
        f"({percent(number(r, 'permuted_max_base'))})."
    )


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
    by_token, judged = (number(first, f"random_direction_{x}") for x in ("high", "judged_max"))
    return (
        f"{doing}, post's own direction {'ends' if what == 'ablate' else 'brings'} refusal in {percent(own)} "
        f"of {first.n or 'the'} prompts and random ones in up to {percent(by_token)} by the first token, the "
        f"strongest of them in up to {percent(judged)} by their answers; base's does so in {crossed}{end}."
    )


def overlap(r: Record, change: float | None) -> list[str]:
    """How many entropy neurons two models share, beside random sets, as sentences; `change` is that of the
    weights over their norm.
    """
    said = [
        f"The overlap of the two models' entropy neurons is {measured(r)}, {r.verdict}; 97.5 % of pairs of "
        "random sets from the quarter with the largest weights overlap by no more than "
        f"{digits(number(r, 'chance_high'))}."
    ]
    if change is not None and change < SMALL_CHANGE and (r.value or 0) > 0.5:
        said.append(
            f"The weights moved by only {100 * change:.3g} % of their norm, so that single neurons are "
            "nearly what they were: on so close a pair the overlap is large by construction."
        )
    return said


def closes(found: Mapping[str, Record], ends: bool = False) -> str:
    """What part of the entropy gap goes with the entropy neurons, by how, as words, with the interval where
    `ends` are asked for; a dash where it was not measured.
    """
    said = []
    for how, r in found.items():
        if r.value is not None and r.ci95 is not None:
            low, high = (100 * x for x in r.ci95)
            said.append(f"{100 * r.value:.2f} %{f' [{low:.2f}, {high:.2f}]' if ends else ''} ({how})")
    return " and ".join(said) or "–"


def gap_title(found: Mapping[str, Record], unchanged: str | None) -> str:
    """What the entropy neurons have to do with the change in confidence, as a title."""
    if unchanged:
        return "No change in confidence was shown, so that there is nothing for entropy neurons to explain"
    verdicts = ", ".join(dict.fromkeys(r.verdict for r in found.values()))
    return (
        f"The entropy neurons close {closes(found)} of the change in confidence; that they do not explain "
        f"it: {verdicts}"
    )


def gap_words(found: Mapping[str, Record], unchanged: str | None) -> str:
    """The same as a sentence, beside random sets of neurons; a share below 0 is a gap that grew."""
    if unchanged:
        return f"There is nothing to explain ({unchanged})."
    moved = [number(r, "random_neurons_largest") for r in found.values()]
    random = " and ".join(f"{100 * abs(x):.1f} %" for x in moved if x is not None)
    grew = ", where below 0 would be a gap that grew" * any((r.value or 0) < 0 for r in found.values())
    beside = f"; random sets of as many neurons move it by up to {random}" if random else ""
    verdicts = ", ".join(dict.fromkeys(r.verdict for r in found.values()))
    return (
        f"The entropy neurons close {closes(found, ends=True)} of it{grew}{beside}. That they do not explain "
        f"the change: {verdicts}."
    )


def one_model(records: Iterable[Record], moved: str) -> str:
    """What one model given twice says of the replicated claims that compare two models, in sentences; `moved`
    says by how much the weights did.
    """
    compare = [r for r in records if not r.id.startswith(EACH_BY_ITSELF)]
    twice, not_twice, not_asked = pairs.for_one_model(compare)
    apart = [id for id in twice if id.startswith(OF_A_DIFFERENCE)]
    n, same = len(twice + not_twice + not_asked), len(twice) - len(apart)
    said = [f"The weights moved by {moved} of their norm."]
    said += [] if n else ["No claim that compares the two models is replicated here."]
    if n:
        shown = ": they say that the instruments find no difference where there is none" if same else ""
        said.append(
            f"Of {n} replicated claims that compare the two models, {same} are claims of sameness that one "
            f"model given twice would meet as well{shown}."
        )
    if apart:
        said.append(
            "One model given twice would meet these claims of a difference as well, so that training need "
            f"not be behind them: {', '.join(apart)}."
        )
    said += [f"It would not meet these: {', '.join(not_twice)}."] if not_twice else []
    said += [f"Of one model given twice these cannot be asked: {', '.join(not_asked)}."] if not_asked else []
    return " ".join(said)
