"""Titles and readings of the figures of notebook 04: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from refusal.base.estimate import Estimate
from refusal.report.rules import Record
from refusal.report.shown import interval, percent, points, two, why

Said = tuple[str, list[str | None]]


def behaviour(refused: Mapping[str, Estimate]) -> Said:
    """Of the share refused by group."""
    each = ", ".join(f"{percent(found.value)} of {group}" for group, found in refused.items())
    return f"By itself the model refuses {each} prompts", [
        f"The model refuses {each} prompts. What it answers of the harmful ones a push can change; what "
        f"it answers of the others is what a push should leave."
    ]


def first_token(begin: Sequence[str], agrees: float) -> str:
    """How refusals begin, and how often the first token's sign is the judge's verdict on test prompts."""
    tokens = ", ".join(repr(t) for t in begin)
    return (
        f"Refusals of this model begin with {tokens}. By its sign the score agrees with {agrees:.0%} of the "
        "judged answers to test prompts."
    )


def push(
    refused: Mapping[str, np.ndarray],
    alphas: Sequence[float],
    strong: float,
    band: Mapping,
    share: float,
    cannot: str | None,
) -> Said:
    """Of the share refused by group and α under the fixed push, and the random directions at α = `strong`."""
    at = {group: float(rates[list(alphas).index(strong)]) for group, rates in refused.items()}
    each = ", ".join(f"{percent(rate)} of {group}" for group, rate in at.items())
    title = f"Pushed at α = {strong:g}, {each} prompts are refused, along random directions at most "
    return title + f"{percent(band['random_direction_high'])} of harmful", [
        f"At α = {strong:g}, the smallest strength that does on validation prompts what any does, {each} "
        "prompts "
        f"are refused by their first token: without a reading the push asks nothing of a prompt.",
        f"Random directions of the same norms make it {percent(band['random_direction_mean'])} of harmful "
        "ones "
        f"on average, {percent(band['random_direction_high'])} at most; what is added is {percent(share)} "
        "of the "
        "states' norm in each layer.",
        f"So nothing can be said of what a reading adds here: {cannot}." if cannot else None,
    ]


def auroc(matched: Record, beats: Record, formats: Record) -> Said:
    """Of 04.reads.matched, .beats-text and .out-of-format."""
    reader = str(beats.controls["best_reader"])
    title = (
        f"The scale ranks harmful above harmless prompts with AUROC {two(matched.value)} "
        f"({matched.verdict}), "
        f"{reader} with {two(beats.number('reader'))}; taught in another form {two(formats.value)} "
        f"({formats.verdict})"
    )
    sign = "more" if (beats.value or 0) > 0 else "less"
    return title, [
        f"In matched form the controller's scale has an AUROC of {interval(matched)}; controllers taught "
        f"shuffled labels have at most {two(matched.number('shuffled_high'))} ({why(matched)}).",
        f"That is {two(abs(beats.value or 0))} {sign} than {reader}, the reader of the bare text that was "
        "best on "
        f"validation prompts: {why(beats)}. A logistic regression on the same states has "
        f"{two(matched.number('logistic'))}, form alone {two(matched.number('form'))}.",
        f"Taught on harmful dialogues and harmless instructions it has {two(formats.number('in_format'))} "
        "in its "
        f"own format, where form alone has {two(formats.number('form_only'))}, and {interval(formats)} on "
        "prompts "
        f"of one form ({why(formats)}); of harmless requests in dialogues it then flags "
        f"{percent(formats.number('harmless_dialogues_flagged'))}.",
    ]


def tradeoff(fixed: Record, threshold: Record, text: Record, at: Mapping[str, float], base: float) -> Said:
    """Of 04.gain.* and each arm's share of harmful prompts refused at equal cost, that of controllers as a
    mean over seeds.
    """
    at = {n: x for n, x in at.items() if "seed" not in n} | {"controller": fixed.number("arm") or 0.0}
    best = max((name for name in at if name != "oracle"), key=lambda name: at[name])
    title = (
        f"At equal cost controllers refuse {percent(at['controller'])} of harmful prompts, the fixed "
        "push "
        f"{percent(at['fixed push'])} ({fixed.verdict}), a gate by text {percent(text.number('other'))} "
        f"({text.verdict})"
    )
    ranked = sorted((n for n in at if n != "oracle"), key=lambda n: -at[n])
    return title, [
        f"By itself the model refuses {percent(base)} of harmless and pseudo-harmful prompts; five points "
        "more "
        "are the cost at which arms are compared. There the controller refuses "
        f"{percent(at['controller'])} of "
        f"harmful prompts, {points(fixed.value)} against the fixed push ({why(fixed)}), "
        f"{points(threshold.value)} against a threshold on a cosine ({why(threshold)}) and "
        f"{points(text.value)} "
        f"against the best reader of text before the same push ({why(text)}).",
        f"That is a mean over {fixed.number('controllers')} controllers that differ by their seed, which "
        "gain from "
        f"{points(fixed.number('lowest_controller'))} to "
        f"{points(fixed.number('highest_controller'))} against the fixed push; its interval holds that.",
        f"A gate that knows the label refuses {percent(at['oracle'])}; of the way there from the fixed "
        "push the "
        f"controller goes {percent(fixed.number('share_of_oracle'))}.",
        f"On top lies {best}; in order: " + ", ".join(f"{n} {percent(at[n])}" for n in ranked) + ".",
    ]


def steered(raised: Record, spared: Record, alpha: float) -> Said:
    """Of 04.steer.*, judged answers at the strength `alpha`."""
    title = (
        f"The controller adds {points(raised.value)} to refusals of harmful prompts ({raised.verdict}), "
        f"{points(spared.value)} to those of others ({spared.verdict})"
    )
    return title, [
        f"At α = {alpha:g} the judge calls {percent(raised.number('steered'))} of the answers to harmful "
        "prompts "
        f"refusals, {percent(raised.number('no_intervention'))} without the controller: "
        f"{points(raised.value)} "
        f"(along random directions at most {points(raised.number('random_direction_high'))}), {why(raised)}.",
        f"Judged is the first of {raised.number('controllers'):g} controllers; by first tokens those of all "
        f"seeds raise refusals by {points(raised.number('lowest_controller'))} to "
        f"{points(raised.number('highest_controller'))}."
        if raised.number("controllers")
        else None,
        f"Of harmless and pseudo-harmful prompts {points(spared.value)} are refused, {why(spared)}: of "
        "harmless "
        f"{points(spared.number('harmless'))}, of pseudo-harmful {points(spared.number('pseudo_harmful'))}.",
    ]


def scales(other: Mapping[str, float | None], matched: Record) -> Said:
    """Of the scale by group, and its AUROC where requests are in other words."""
    known = {name: value for name, value in other.items() if value is not None}
    each = ", ".join(f"{two(value)} in {name}s" for name, value in known.items())
    title = f"The scale by group: AUROC {two(matched.value)} on test prompts ({matched.verdict})"
    title += f", {each}" if each else ""
    return title, [
        "A scale of 1 pushes at full strength, one of 0 not at all. Refused and answered prompts of a "
        "group are "
        "shown apart: a scale that follows refusal pushes where nothing has to be pushed.",
        f"Harmful requests in other words are told from harmless ones in the same words with AUROC {each}."
        if each
        else None,
    ]


def weights(learned: Record, helped: Record) -> Said:
    """Of 04.weights.*."""
    title = (
        f"Weights over layers of two seeds correlate {two(learned.value)}, untrained ones at most "
        f"{two(learned.number('untrained_high'))} ({learned.verdict})"
    )
    return title, [
        f"Patterns of two seeds correlate {interval(learned)} over layers ({learned.n} weights in all), "
        "those of untrained "
        f"controllers at most {two(learned.number('untrained_high'))} ({why(learned)}); each correlates "
        f"{two(learned.number('init_r'))} with its own beginning. All weights lie within "
        f"{two(learned.number('spread'))} of each other: no term of the loss moves them.",
        f"Against equal weights of the same mean they add {points(helped.value)} to refusals of harmful "
        "prompts "
        f"({why(helped)}).",
    ]


def released(acts: Record, numbers: Mapping[str, float], ladder: Mapping[str, float | None]) -> Said:
    """Of 04.released.acts, the numbers of the released code, and the share refused on each step."""
    steps = "; ".join(f"{name}: {percent(value)}" for name, value in ladder.items())
    title = (
        f"As released the controller changes refusals by {points(acts.value)} in one format "
        f"({acts.verdict}); "
        f"the template alone by {points(numbers['template_effect'])}"
    )
    return title, [
        f"Harmful prompts refused: {steps}. Comparing the second arm of the released code with its first "
        "counts "
        f"the template, {points(numbers['template_effect'])}, as steering.",
        f"In one format it is {points(acts.value)} by first tokens ({why(acts)}): of {acts.n} prompts "
        f"{percent(numbers['first_token_changed'])} get another first token, for "
        f"{numbers['blocks_changed']:g} "
        f"block's output is pushed, by {percent(numbers['share_of_norm'])} of its norm at s = 1.",
        f"{percent(numbers['negative_scale/harmless'])} of harmless prompts get a negative scale, which "
        "pushes "
        f"them away from refusal, and {percent(numbers['negative_scale/harmful'])} of harmful ones; "
        f"{percent(numbers['rows_at_padding'])} of training rows are read at padding. Its scale's AUROC is "
        f"{two(numbers['auroc/as_trained'])} as trained, on its own classes and position, and "
        f"{two(numbers['auroc/as_used'])} as used. Keywords call {points(numbers['judge_gap'])} more answers "
        "refusals than the judge.",
    ]


def capability(r: Record, scale: float) -> str:
    """Of 04.capability, at the median scale of harmless prompts."""
    return (
        f"At a harmless prompt's median scale, {two(scale)}, neutral text costs {interval(r)} nats a token "
        "more "
        f"({why(r)}); at full strength {two(r.number('full_strength'))}."
    )


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by = {r.id.removeprefix("04."): r for r in records}
    said = []
    if (r := by.get("reads.matched")) and r.value is not None:
        over = by["reads.beats-text"]
        said.append(
            f"The controller reads harm in prompts of one form (AUROC {two(r.value)}), "
            f"{over.controls['best_reader']} "
            f"has {two(over.number('reader'))}: that it beats the text is {over.verdict}."
        )
    if (r := by.get("gain.fixed")) and r.verdict != "uninformative":
        said.append(
            f"At equal cost it refuses {points(r.value)} against a push without a reading ({r.verdict}), "
            f"{points(by['gain.threshold'].value)} against a threshold ({by['gain.threshold'].verdict}), "
            f"{points(by['gain.text'].value)} against a reader of text ({by['gain.text'].verdict})."
        )
    if (r := by.get("weights.learned")) and r.value is not None:
        said.append(
            f"That its layer weights are learned is {r.verdict}; as released it is "
            f"{by['released.acts'].verdict}."
        )
    return " ".join(said) or "Nothing can be said of steering here; the records give the reason."
