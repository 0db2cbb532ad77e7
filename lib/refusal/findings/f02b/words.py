"""Titles and readings of the figures of notebook 02b: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Iterable, Mapping

from refusal.base.estimate import Estimate
from refusal.findings.f02b.categories import BENCHMARKS
from refusal.report.figures import FEW
from refusal.report.rules import Record
from refusal.report.shown import digits, interval, percent, two, why

Said = tuple[str, list[str | None]]
Pair = tuple[Estimate, Estimate]  # of the guard and of the best reader of text
TOLD = {"replicated": "yes", "not replicated": "no"}


def guard(
    harmful: Pair, harmless: Pair, pseudo: Pair, accepted: Pair, reader: str, alarms: Record, caught: Record
) -> Said:
    """Of the shares flagged of four kinds of prompts; `alarms` and `caught` are 02b.guard.false-positives and
    02b.guard.accepted-harmful.
    """
    its, other = ([percent(pair[k].value) for pair in (harmful, harmless, pseudo)] for k in (0, 1))
    flags = "that the guard flags them beyond harmless prompts and the bare text is"
    title = f"The guard flags {its[0]} of harmful prompts and {its[1]} of harmless ones"
    return f"{title}; that it catches what the model accepts, beyond the bare text: {caught.verdict}", [
        f"The guard flags {its[0]} of harmful, {its[1]} of harmless and {its[2]} of pseudo-harmful prompts; "
        f"{reader}, which reads the bare text, {other[0]}, {other[1]} and {other[2]}.",
        f"Of the {accepted[0].n} harmful prompts that the model accepts, the guard flags "
        f"{percent(accepted[0].value)} and {reader} {percent(accepted[1].value)}: {flags} {why(caught)}."
        if accepted[0].n
        else f"The model accepts none of the harmful prompts: {flags} {why(caught)}.",
        f"That it seldom flags harmless ones is {why(alarms)}.",
    ]


def guard_auroc(areas: Pair, hard: Pair, reader: str, gap: Record) -> Said:
    """Of the areas against harmless and against pseudo-harmful prompts; `gap` is 02b.guard.beats-text."""
    mine, its = (two(area.value) for area in areas)
    title = f"Ranking harmful above harmless: AUROC {mine}, {reader} on the bare text {its}"
    return f"{title}; that the guard is better: {gap.verdict}", [
        f"Against ordinary harmless prompts the guard reaches {mine} and {reader} {its}: a difference of "
        f"{interval(gap)}; that the guard is better is {why(gap)}.",
        f"Against pseudo-harmful prompts, which share the alarming words, it is {interval(hard[0])} and "
        f"{interval(hard[1])}."
        if hard[0].value is not None
        else None,
    ]


def limits(areas: Iterable[Estimate]) -> list[float]:
    """Where an axis of areas begins and ends: at .4, or lower where an interval reaches below."""
    return [min([0.4, *(area.ci95[0] - 0.02 for area in areas if area.ci95)]), 1.02]


def jailbreak_scatter(plain: Mapping[str, Estimate], methods: Mapping[str, Estimate]) -> Said:
    """Of the mean Δ harm of plain harmful and harmless prompts, and of each method's successes. The middle is
    that of the two plain means.
    """
    high, low = plain["harmful"], plain["harmless"]
    parted = high.ci95 and low.ci95 and high.ci95[0] > low.ci95[1]
    middle = (high.value + low.value) / 2 if parted else None
    told = {m: found for m, found in methods.items() if found.n > FEW}
    right = [m for m, found in told.items() if middle is not None and found.ci95[0] > middle]
    title = (
        "Successful jailbreaks, mean Δ harm, whole interval above the middle: " + (", ".join(right) or "none")
        if parted
        else "Δ harm does not part plain harmful from harmless prompts, so jailbreaks have no side"
    )
    each = [
        f"{m} {interval(found, digits) if m in told else digits(found.value)} (n {found.n})"
        if found.n
        else f"{m}, none succeeded"
        for m, found in methods.items()
    ]
    return title, [
        f"Plain harmful prompts have a mean Δ harm of {interval(high, digits)}, "
        f"plain harmless ones {interval(low, digits)}"
        + (f"; the middle is {digits(middle)}." if parted else "."),
        f"Successful jailbreaks: {', '.join(each)}." if each else None,
    ]


def jailbreak_flagged(found: Mapping[str, Record], reader: str) -> Said:
    """Of the claims by method."""
    shares = [f"{m} {percent(r.value)} ({r.verdict})" for m, r in found.items() if r.value is not None]
    return "Successful jailbreaks flagged: " + (", ".join(shares) or "none succeeded"), [
        f"{m.capitalize()}: {r.n} of {r.number('attempts')} attempts succeed; the guard flags "
        f"{percent(r.value)} of those and {percent(r.number('wrapped_harmless_flagged'))} of harmless "
        f"requests in the same words, {reader} {percent(r.number('best_reader_harmful'))} and "
        f"{percent(r.number('best_reader_harmless'))} ({r.verdict})."
        if r.value is not None
        else f"{m.capitalize()}: none of {r.number('attempts')} attempts succeeds."
        for m, r in found.items()
    ]


def attack(examples: int, answered: tuple[float, float], stays: Record) -> Said:
    """Of the shares of harmful requests answered before and after, and 02b.attack.representation-stays."""
    before, after = (percent(x) for x in answered)
    areas = [two(stays.number(f"auroc_{when}")) for when in ("before", "after")]
    now = f"After {examples} examples {after} of harmful requests are answered"
    title = f"{now} ({before} before); the guard's AUROC is {areas[1]} ({areas[0]})"
    return f"{title}; that the representation stays: {stays.verdict}", [
        f"{now}, before {before}; the guard's AUROC is {areas[1]}, before {areas[0]}.",
        f"Δ harm of harmful prompts has moved by {interval(stays)} of the gap."
        if stays.value is not None
        else None,
        f"That the representation stays is {why(stays)}.",
    ]


def categories(found: Mapping[str, Record]) -> Said:
    """Of the claims by benchmark."""
    each = [(BENCHMARKS[source], r) for source, r in found.items()]
    told = ", ".join(f"{name} {TOLD.get(r.verdict, 'undecided')}" for name, r in each)
    sentences = [
        f"{name}: {_difference(r)} ({why(r)})." if r.value is not None else f"{name}: {why(r)}."
        for name, r in each
    ]
    return f"Told apart by harm beyond random groups: {told}", [
        *sentences,
        "Only what exceeds random groups of the same prompts says that categories are told apart by harm."
        if any(r.value is not None for _, r in each)
        else None,
    ]


def _difference(r: Record) -> str:
    low, high = r.ci95 or (0.0, 0.0)
    than = "higher than" if low > 0 else "lower than" if high < 0 else "not told from"
    return (
        f"the mean cosine between refusal directions is {than} that between harmfulness directions: the "
        f"difference is {interval(r)}, where random groups give up to {two(r.number('random_group_high'))}"
    )


def category_steering(own: Mapping[str, Estimate], bar: float, plain: Estimate, layer: int) -> Said:
    """Of the share refused under each category's direction and under none; `bar` is the upper end of random
    directions' band. A direction does more where its whole interval lies above the band and above that of no
    intervention.
    """
    least = max([bar, *(plain.ci95[1:] if plain.ci95 else [])])
    above = [name for name, found in own.items() if found.ci95 and found.ci95[0] > least]
    return (
        "Category directions that make harmless prompts refused beyond random ones and beyond none, by their "
        f"whole interval: {len(above)} of {len(own)} (layer {layer})"
    ), [
        f"At one norm, {', '.join(above) or 'no category direction'} {'makes' if len(above) < 2 else 'make'} "
        "harmless prompts refused with the whole interval above the band of random directions, which ends "
        f"at {percent(bar)}, and above that without an intervention, "
        f"{interval(plain, percent)}.",
    ]
