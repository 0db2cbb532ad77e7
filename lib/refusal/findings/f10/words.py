"""Titles and readings of the figures of notebook 10: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from refusal.base.estimate import Estimate
from refusal.report.rules import Record
from refusal.report.shown import interval, percent, two, why

Said = tuple[str, list[str | None]]
NAMES = {"AdvBench": "AdvBench's list", "single direction": "the single-direction list", "XSTest": "XSTest's"}


def judge_agreement(agree: Record, early: Record, kappas: Mapping[str, Estimate]) -> Said:
    """κ of each judge with the labels, by name; the claims are 10.judge.agreement and .first-tokens."""
    if agree.value is None:
        return "The judge could not be held against labels", [f"Nothing is said of it here: {agree.reason}."]
    lists = {name: k.value for name, k in kappas.items() if name in NAMES.values() and k.value is not None}
    best = max(lists, key=lambda name: lists[name], default=None)
    beside = f", {best} {two(lists[best])}" if best else ""
    return f"Agreement with the labels (κ): the judge {two(agree.value)}{beside}: {agree.verdict}", [
        f"With the labels the judge has a κ of {interval(agree)} on {agree.n} answers"
        + (f", the best public list, {best}, {two(lists[best])}" if best else "")
        + f"; the two readers have {two(agree.number('raters'))} with each other. That it agrees, and better "
        f"than lists do, is {why(agree)}.",
        f"After 12 tokens its verdict is that of the whole answer's label in {percent(early.value)}, after "
        f"24 in {percent(early.number('after_24'))}.",
    ]


def judge_rates(plain: Record, steered: Record, broken: Record) -> Said:
    """Of 10.judge.bias.* and 10.judge.degenerate."""
    off = lambda r: f"{100 * r.value:+.0f} points" if r.value is not None else "not measured"
    title = (
        f"The judge's refusal rate is off by {off(plain)} on plain answers ({plain.verdict}), by "
        f"{off(steered)} on steered ones ({steered.verdict})"
    )
    if plain.value is None:
        return "Refusal rates by the judge and by reading", [
            f"The judge's error is not known here: {plain.reason}."
        ]
    said = [
        f"Of {r.n} {name} answers the judge calls {percent(r.number('judged'))} refusals, by reading "
        f"{percent(r.number('read'))} are: {100 * r.value:+.1f} points [{100 * r.ci95[0]:+.1f}, "
        f"{100 * r.ci95[1]:+.1f}], {why(r)}. With disclaimers taken for refusals it is "
        f"{100 * (r.number('with_disclaimed') or 0):+.1f} points."
        for name, r in (("plain", plain), ("steered", steered))
        if r.value is not None and r.ci95 is not None
    ]
    found = (
        f"Of {broken.n} answers that are broken by reading it finds {percent(broken.value)} at 24 tokens and "
        f"{percent(broken.number('found_in_whole'))} in all that was read ({why(broken)})."
        if broken.value is not None
        else None
    )
    return title, [*said, found]


def behaviour(refused: Mapping[str, Estimate], taught: tuple[int, int]) -> Said:
    """Of the share refused by group of test prompts, and how many refused and answered prompts teach."""
    each = ", ".join(f"{percent(found.value)} of {found.n} {group}" for group, found in refused.items())
    return f"The model refuses {each} prompts", [
        f"Of the test prompts it refuses {each} ones; what it disclaims, or says in broken text, is counted "
        "and neither teaches nor tests.",
        f"The readers below are taught on {taught[0]} refused and {taught[1]} answered prompts.",
    ]


def readers(
    outside: Record, beyond: Record, post: Record, inst: Record, closing: Record, score: float | None
) -> Said:
    """Of the areas by reader and group; `score` is the first token's among harmful prompts."""
    of_text = f"the best reader of text {two(outside.value)}"
    title = (
        f"Foretelling a refusal (AUROC): {of_text} over all prompts; among harmful ones t_post beyond the "
        f"text by {two(post.value)} ({post.verdict})"
    )
    if post.value is None or outside.value is None:
        return "What foretells a refusal could not be measured", [f"{outside.reason}."]
    return title, [
        f"Over all test prompts the best reader of text, {outside.controls['best']}, has "
        f"{interval(outside)}, a reader of form alone {two(outside.number('form'))}: that the text tells is "
        f"{outside.verdict}. Over pairs of one source it has {interval(beyond)}: {beyond.verdict}.",
        f"Among harmful prompts the states at t_post reach {two(post.number('prober'))} and those at t_inst "
        f"{two(inst.number('prober'))}, the text {two(post.number('text'))}, shuffled labels at most "
        f"{two(post.number('shuffled_high'))}: beyond the text by {interval(post)} ({post.verdict}) and "
        f"{interval(inst)} ({inst.verdict}).",
        f"t_post is ahead of t_inst by {interval(closing)} ({closing.verdict})"
        + (f"; the score of the first token, part of the answer itself, has {two(score)}." if score else "."),
    ]


def by_layer(areas: Mapping[str, np.ndarray], chosen: Mapping[str, int], text: float | None) -> Said:
    """Of the area of each layer's prober on test prompts by position, the layers that were chosen on the
    training ones, and the best text reader's area.
    """
    each = [f"{two(x[chosen[place]])} at {place} (layer {chosen[place]})" for place, x in areas.items()]
    most = [
        f"{place} {two(float(np.nanmax(x)))} at layer {int(np.nanargmax(x))}" for place, x in areas.items()
    ]
    return f"Among harmful prompts, at the chosen layers: AUROC {' and '.join(each)}", [
        f"At the layers that were chosen on training prompts the states have {' and '.join(each)}; the best "
        f"reader of text has {two(text)}.",
        f"The highest of all layers, picked here on the test prompts, are {' and '.join(most)}.",
    ]


def ngrams(r: Record) -> Said:
    """Of 10.ngrams."""
    if r.value is None:
        return "The strongest word sequences could not be compared", [f"{r.reason}."]
    return (
        f"Of the 18 strongest word sequences two halves of the prompts share {percent(r.value)} "
        f"({r.verdict})",
        [
            f"Two halves of the prompts agree in {percent(r.value)} of their strongest word sequences, with "
            f"shuffled labels in {percent(r.number('shuffled'))}, up to "
            f"{percent(r.number('shuffled_high'))}: {why(r)}."
        ],
    )


def in_words(records: Sequence[Record], majority: Estimate | None) -> str:
    """What a reader came for: how often the judge is wrong and which way, what the text alone tells, what
    t_post knows, and how much of the published number is the majority class; `majority` is that class's share
    of the released questions, where they are at hand.
    """
    by = {r.id: r for r in records}
    plain, outside, post = by["10.judge.bias.plain"], by["10.prompt.outside"], by["10.inside.t_post"]
    published = "; ".join(f"{name}: {value}" for name, value in (outside.paper_value or {}).items())
    parts = [
        f"The judge's refusal rate is off by {100 * plain.value:+.1f} points on plain answers."
        if plain.value is not None
        else f"How often the judge is wrong is not known here: {plain.reason}.",
        f"The text alone foretells a refusal with an AUROC of {two(outside.value)}, within one source with "
        f"{two(by['10.prompt.beyond-harm'].value)}."
        if outside.value is not None
        else f"What the text tells is not known here: {outside.reason}.",
        f"Before the first word the states at t_post tell it with {two(post.number('prober'))} among harmful "
        "prompts."
        if post.value is not None
        else None,
        f"Published for prompts: {published}."
        + (
            f" Of the released questions {percent(majority.value)} are of one class."
            if majority and majority.value
            else ""
        ),
    ]
    return " ".join(part for part in parts if part)
