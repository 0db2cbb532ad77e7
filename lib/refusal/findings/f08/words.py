"""Titles and readings of the figures of notebook 08: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from refusal.base.estimate import Estimate
from refusal.report.rules import Record
from refusal.report.shown import capitalized, interval, percent, points, two, why

Said = tuple[str, list[str | None]]


def judge(kappa: Estimate, least: float) -> str:
    """Of the rule for answers on task, against a reader's labels."""
    return (
        f"Against a reader's labels of {kappa.n} short answers the rule has κ {interval(kappa)}; an "
        f"answer on "
        f"task has a similarity of at least {two(least)} to its query."
    )


def roles(
    refusal: Record, on_task: Record, harmless: Record, system: Record, off: Mapping[str, float]
) -> Said:
    """Of 08.roles.*; `off` are the shares of harmful prompts answered off task or broken, exchanged and
    with a made-up speaker.
    """
    title = (
        f"With the headers exchanged refusals change by {points(_less(refusal))} ({refusal.verdict}), "
        f"on-task "
        f"answers by {points(on_task.value)} ({on_task.verdict})"
    )
    each = ", ".join(f"{percent(share)} {name}" for name, share in off.items())
    return title, [
        f"Of harmful prompts {percent(refusal.number('usual'))} are refused in the usual roles and "
        f"{percent(refusal.number('there'))} with the headers exchanged ({why(refusal)}); what is asked is "
        f"done in {percent(on_task.number('usual'))} and {percent(on_task.number('there'))} "
        f"({why(on_task)}). What is neither: {each}.",
        f"Harmless prompts lose {points(harmless.value)} of on-task answers ({why(harmless)}).",
        f"Leaving out the system prompt changes on-task answers to harmful prompts by "
        f"{points(system.number('bare'))}, exchanging the headers by {points(system.number('swapped'))} "
        f"({why(system)})."
        if system.value is not None
        else None,
    ]


def _less(r: Record) -> float | None:
    return None if r.value is None else 0.0 - r.value


def published(success: Mapping[str, float], on_task: Mapping[str, float]) -> Said:
    """Of the released scorer's successes and on-task answers to harmful prompts, by setting."""
    off = {name: success[name] - on_task[name] for name in success}
    worst = max(off, key=lambda name: off[name])
    title = (
        f"The released scorer calls {percent(success[worst])} of harmful prompts successes where "
        f"{percent(on_task[worst])} are answered on task ({worst})"
    )
    each = "; ".join(f"{name}: {percent(success[name])} and {percent(on_task[name])}" for name in success)
    return title, [
        f"Successes by the released list of phrases, and on-task answers: {each}. What lacks a phrase is a "
        "success there, so that a question back, thanks, or playing the user counts."
    ]


def shift(along: Record, difference: Record, cos: float | None, double: float | None) -> Said:
    """Of 08.shift.along and .harmful-only; the mean cosines over admitted layers of the exchange and of a
    template that is wrapped twice.
    """
    title = (
        f"Exchanged headers move harmful prompts by {interval(along)} of r against r ({along.verdict}), "
        f"{interval(difference)} more than harmless ones ({difference.verdict})"
    )
    return title, [
        f"In units of the refusal direction's length harmful prompts move by {interval(along)} against it "
        f"({why(along)}; random directions: up to {two(along.number('random_direction_high'))}), harmless "
        f"ones "
        f"by {two(difference.number('harmless'))}; the difference is {interval(difference)} "
        f"({why(difference)}).",
        f"The cosine with −r is {two(cos)} over the same layers. A prompt that is wrapped in the template "
        f"twice, as released code does it, has {two(double)}: cosines say nothing of what is done."
        if cos is not None and double is not None
        else None,
    ]


def paradox(r: Record, furthest: str, refused: float, usual: float) -> Said:
    """Of 08.shift.explains; the setting that moves states furthest, and its refusals."""
    title = f"Over settings, shift and lost refusals have a rank correlation of {interval(r)} ({r.verdict})"
    return title, [
        f"The setting that moves harmful prompts furthest against r is {furthest}: {percent(refused)} are "
        f"refused there, {percent(usual)} in the usual one. Over all settings the rank correlation between "
        f"shift and lost refusals is {interval(r)} ({why(r)})."
    ]


def restore(r: Record, layer: int | None) -> Said:
    """Of 08.shift.cause."""
    title = (
        f"Given back what they lost along r, harmful prompts are refused {points(r.value)} more often "
        f"({r.verdict})"
    )
    return title, [
        f"At layer {layer}, chosen on other prompts, giving each prompt back its own component takes "
        f"refusals "
        f"of harmful prompts from {percent(r.number('without'))} to {percent(r.number('given'))} ({why(r)}), "
        f"as much of random directions changes them by up to "
        f"{points(r.number('random_direction_high'))}, and harmless ones change by "
        f"{points(r.number('harmless_rise'))}."
        if layer is not None
        else capitalized(why(r)) + ".",
        f"The mean of what all lost, given to every prompt, makes {percent(r.number('mean_gap_harmful'))} of "
        f"harmful and {percent(r.number('mean_gap_harmless'))} of harmless prompts be refused."
        if layer is not None
        else None,
    ]


def pictures(scores: Mapping[str, float], named: np.ndarray, in_words: np.ndarray, n_tokens: int = 4) -> Said:
    """Of the graft's encoder and tokens (no scores: of the model's own eyes), and what the model names:
    [picture, 2] colour and shape, from tokens and from words.
    """
    share = percent(float(named.all(1).mean()))
    whose = "that no training has seen" if scores else "drawn for this notebook"
    title = f"Of pictures {whose}, {share} are named right from {n_tokens} tokens"
    return title, [
        f"The encoder knows colour and shape of held-out combinations in {percent(scores['colour'])} and "
        f"{percent(scores['shape'])}."
        if scores
        else None,
        f"Asked what the picture shows, the model names the colour in "
        f"{percent(float(named[:, 0].mean()))} and the shape in {percent(float(named[:, 1].mean()))}; given "
        f"the caption in words, in {percent(float(in_words[:, 0].mean()))} and "
        f"{percent(float(in_words[:, 1].mean()))}.",
        f"Colour of a token and its word: cosine {two(scores['colour_cos'])}." if scores else None,
    ]


def places(end: Record, out: Record, both_end: Record, both_out: Record) -> Said:
    """Of 08.places.* and 08.compose.*."""
    title = (
        f"Against an image before the query, refusals change by {points(_less(end))} with one after it "
        f"({end.verdict}; {percent(end.number('broken'))} broken), by {points(_less(out))} with one after "
        f"the header ({out.verdict}; {percent(out.number('broken'))} broken)"
    )
    less = lambda x: points(None if x is None else 0.0 - x)
    return title, [
        f"Refusals change by {points(_less(end))} with the image after the query and by {points(_less(out))} "
        f"after the header ({why(end)}; {why(out)}); with its caption in words by "
        f"{less(end.number('words'))} and {less(out.number('words'))}. Broken are "
        f"{percent(end.number('broken'))} and {percent(out.number('broken'))} of the answers."
        if end.value is not None
        else capitalized(why(end)) + ".",
        f"Together with exchanged headers on-task answers come {points(both_end.value)} and "
        f"{points(both_out.value)} more often than with the better of the two alone ({why(both_end)}; "
        f"{why(both_out)})."
        if both_end.value is not None
        else None,
    ]


def mitigation(works: Record, needed: Record, unseen: Record, shortcut: Record) -> Said:
    """Of 08.mitigation.*."""
    title = (
        f"Training on every setting changes on-task answers to harmful prompts by {points(_less(works))} "
        f"({works.verdict}); with harmful requests alone perturbed, harmless ones are refused "
        f"{points(shortcut.value)} more ({shortcut.verdict})"
    )
    return title, [
        f"On-task answers to harmful prompts in the perturbed settings change by {points(_less(works))} "
        f"({why(works)}), and refusals of harmless ones by {points(works.number('harmless_rise'))}.",
        f"Against training on the usual setting alone this is {points(_less(needed))} ({why(needed)}); in "
        f"the setting that was left out, training on all others changes {points(_less(unseen))} against that "
        f"({why(unseen)})."
        if needed.value is not None
        else None,
        f"Where only harmful prompts were perturbed, harmless ones in exchanged roles are refused "
        f"{points(shortcut.value)} more often than where both were ({why(shortcut)}).",
    ]


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by, said = {r.id.removeprefix("08."): r for r in records}, []
    if (r := by.get("roles.on-task")) and r.value is not None:
        said.append(
            f"With the headers exchanged the model does what harmful prompts ask for {points(r.value)} more "
            f"often ({r.verdict}) and refuses {points(_less(by['roles.refusal']))} "
            f"({by['roles.refusal'].verdict} "
            f"that it refuses less); leaving out the system prompt does "
            f"{points(by['roles.system'].number('bare'))} ({by['roles.system'].verdict} that this is more)."
        )
    if (r := by.get("shift.cause")) and r.value is not None:
        said.append(
            f"The states move against the refusal direction ({by['shift.along'].verdict}), but that giving "
            f"this back restores refusals is {r.verdict}."
        )
    if (r := by.get("places.out")) and r.value is not None:
        said.append(f"An image after the header changes refusals by {points(_less(r))} ({r.verdict}).")
    if (r := by.get("mitigation.needed")) and r.value is not None:
        said.append(f"That training needs the perturbed settings is {r.verdict}.")
    return " ".join(said) or "Nothing can be said of roles here; the records give the reason."
