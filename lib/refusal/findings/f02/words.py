"""Titles and readings of the figures of notebook 02: sentences that code chooses by what was found.

A function that is named after a figure gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say. The others give one sentence.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from refusal.base.estimate import Estimate
from refusal.model.layout import LOUD
from refusal.report import shown
from refusal.report.rules import Record
from refusal.report.shown import capitalized, digits, percent, why

Said = tuple[str, list[str | None]]
Added = tuple[str, str]  # the name of a direction without its v_, and the span that it is added to
FOUND = {"replicated": "found", "not replicated": "not found"}


interval = partial(shown.interval, form=digits)


def share(found: Estimate | Record) -> str:
    """A share with its interval."""
    if found.value is None or found.ci95 is None:
        return "an unmeasured share"
    return f"{found.value:.0%} [{found.ci95[0]:.0%}, {found.ci95[1]:.0%}]"


def way(found: Estimate | Record, above: str, below: str, neither: str) -> str:
    """The word for an interval above 0, below 0 or across it."""
    assert found.ci95 is not None
    return above if found.ci95[0] > 0 else below if found.ci95[1] < 0 else neither


def closing_tokens(r: Record) -> str:
    """Of 02.closing-tokens.drop."""
    if r.value is None:
        return f"Whether refusal falls without the closing tokens cannot be said: {r.reason}."
    by, before, after, filled = (
        r.number(name)
        for name in ("broken_without", "refusal_with", "refusal_without", "refusal_with_neutral_closing")
    )
    falls = way(r, "falls", "rises", "is not shown to change")
    return (
        f"Of {r.n} prompts that are answered in readable words both ways {percent(before)} are refused with "
        f"the closing tokens, {percent(after)} without them and {percent(filled)} with neutral tokens in "
        f"their place: refusal {falls} (the drop is {interval(r)}; {why(r)}). {percent(by)} of all answers "
        "to cut prompts are broken."
    )


def _cluster(r: Record, place: str, up: str, down: str) -> str:
    if r.value is None:
        return f"At {place} {up} and {down} prompts cannot be compared: {r.reason}."
    score = way(r, "score higher than", "score lower than", "are not told from")
    return (
        f"At {place} {up} prompts {score} {down} ones: the difference, averaged over layers, is "
        f"{interval(r)}, where centres from shuffled labels give up to "
        f"{digits(r.number('shuffled_labels_high'))} ({why(r)})."
    )


def clusters_by_layer(by_harm: Record, by_behaviour: Record) -> Said:
    said = "; ".join(
        f"by {what} at {place} {FOUND.get(r.verdict, f'not decided ({r.verdict})')}"
        for r, what, place in ((by_harm, "harm", "t_inst"), (by_behaviour, "behaviour", "t_post"))
    )
    groups = "accepted harmful", "refused harmless"
    return f"Clusters of misbehaving prompts: {said}", [
        _cluster(by_harm, "t_inst", *groups),
        _cluster(by_behaviour, "t_post", *groups[::-1]),
    ]


def delta_scatter(together: Estimate, means: Mapping[str, tuple[float, float]]) -> Said:
    """Of the correlation over all prompts, and each group's mean Δ harm and Δ refuse."""
    known = together.value is not None
    return (
        f"Δ harm and Δ refuse of the test prompts have a correlation of {interval(together)}"
        if known
        else "Δ harm and Δ refuse of the test prompts"
    ), [
        "Mean (Δ harm, Δ refuse): "
        + "; ".join(f"{g} ({x:+z.2f}, {y:+z.2f})" for g, (x, y) in means.items())
        + "."
        if means
        else None,
        f"Over all {together.n} prompts the two have a correlation of {interval(together)}; the claims are "
        "about the groups that misbehave."
        if known
        else "There are too few prompts to say how the two go together.",
    ]


def full_stop(moved: Estimate, gap: Estimate) -> str | None:
    """How far a full stop moves Δ harm, against the gap between refused harmful and accepted harmless."""
    if moved.value is None or gap.value is None:
        return None
    if gap.ci95[0] <= 0:
        return (
            f"A full stop moves Δ harm by {interval(moved)}; refused harmful and accepted harmless prompts "
            "are not told apart here, so there is no gap to compare it with."
        )
    least, most = sorted(np.abs(moved.ci95))
    least, half = 0.0 if way(moved, "", "", "across") else least, gap.value / 2
    by = f"A full stop moves Δ harm by {interval(moved)}"
    apart = f"half of the gap between refused harmful and accepted harmless prompts ({gap.value:.3f})"
    if least > half:
        return (
            f"{by}, {moved.value / gap.value:.0%} of the gap between refused harmful and accepted harmless "
            f"prompts ({gap.value:.3f}): compare only prompts of one form."
        )
    return (
        f"{by}, less than {apart}."
        if most < half
        else f"{by}; whether that is less than {apart} is not decided."
    )


def hangs_on(loudest: float, stop: str | None) -> str | None:
    """What the notebook's answers hang on: the share of the residual stream in its loudest coordinate, and
    what was said of a full stop.
    """
    loud = (
        f"One coordinate holds {loudest:.0%} of the last residual stream's squared norm, and raw differences "
        "of means mostly measure it."
        if loudest > LOUD
        else None
    )
    said = [s for s in (stop, loud) if s]
    return f"What these answers hang on: {' '.join(said)}" if said else None


def positions(r: Record) -> Said:
    claimed = "separated by harm at t_inst"
    title = {
        "replicated": f"Misbehaving prompts are {claimed}, and at no token after it",
        "not replicated": f"Misbehaving prompts are not {claimed} alone",
    }.get(r.verdict, f"Whether misbehaving prompts are {claimed} alone is not decided ({r.verdict})")
    return title, [
        f"At t_inst the separation is {interval(r)}; centres from shuffled labels give up to "
        f"{digits(r.number('shuffled_labels_high'))} there."
        if r.value is not None
        else "At t_inst the separation could not be measured.",
        f"That it is there and nowhere after is {why(r)}.",
    ]


def cosines(r: Record, raw: float, reliability: Mapping[str, float]) -> Said:
    """Of the cosine free of noise, the mean one as measured, and {direction: mean reliability}."""
    where = {"replicated": "below one half", "not replicated": "not below one half"}
    title = (
        f"Free of noise the two directions have, over layers, a mean cosine of {interval(r)}: "
        + where.get(r.verdict, f"not decided ({r.verdict})")
        if r.value is not None
        else "The cosine of the two directions could not be freed of noise"
    )
    again = " and ".join(f"{digits(x)} ({name})" for name, x in reliability.items())
    return title, [
        f"As measured on all prompts the cosine is {digits(raw)} on average over layers, free of sampling "
        f"noise {interval(r)}: that the directions are distinct is {why(r)}.",
        f"Made from two sets of as many prompts, a direction has a cosine with itself of {again}.",
    ]


class Best(NamedTuple):
    """The layer at which a direction does most in a sweep: the mean score there, and those of random ones."""

    layer: int
    score: float
    random: list[float]


def steering_sweep(plain: float, best: Mapping[Added, Best]) -> Said:
    """Of the score without an intervention, and each direction at its best layer."""
    names = list(dict.fromkeys(name for name, _ in best))
    spans = list(dict.fromkeys(span for _, span in best))
    at = ", ".join(
        f"v_{name} at {' and '.join(f'{best[name, span].layer} ({span})' for span in spans)}"
        for name in names
    )

    def said(key: Added) -> str:
        name, span = key
        _, score, random = best[key]
        beyond = "beyond" if score > max(random) else "within" if score >= min(random) else "below"
        return (
            f"v_{name} on the {span} {score:.1f}, {beyond} the {len(random)} random directions there "
            f"({min(random):.1f} to {max(random):.1f})"
        )

    down = [f"v_{name} on the {span}" for (name, span), b in best.items() if b.score <= plain]
    return f"Highest refusal score by layer: {at}", [
        f"Without an intervention the mean score is {plain:.1f}; it is counted from where refusing starts, "
        "and towards refusal is up.",
        f"At the layer where it is highest: {'; '.join(map(said, best))}.",
        f"At no layer is it raised by {', '.join(down)}." if down else None,
    ]


def steering_rates(found: Mapping[Added, Record]) -> Said:
    of_paper = {key: r for key, r in found.items() if r.origin == "paper"}
    title = ", ".join(f"v_{n} on the {s} {percent(r.value)} ({r.verdict})" for (n, s), r in of_paper.items())
    return f"Harmless prompts refused: {title}", [
        f"With v_{n} added to the {s} {share(r)} of {r.n} harmless prompts are refused; the band of random "
        f"directions ends at {percent(r.number('random_direction_high'))} ({why(r)})."
        for (n, s), r in found.items()
    ]


def inversion_baseline(judges: Estimate, says: Mapping[str, float], cannot: Mapping[str, str]) -> Said:
    """`says` is the share of harmful requests judged Certainly, of harmless ones judged No; `cannot` says of
    which nothing can be said, and why.
    """
    return (
        f"Plainly asked, the model says Certainly to {says['harmful']:.0%} of harmful and No to "
        f"{says['harmless']:.0%} of harmless requests"
    ), [
        "Without an intervention the AUC of Certainly, harmful against harmless requests, is "
        f"{interval(judges)}; 0.5 is guessing.",
        *(
            f"{capitalized(reason)}: of "
            f"{' and '.join(label for label, why in cannot.items() if why == reason)} requests nothing "
            "can be said."
            for reason in dict.fromkeys(cannot.values())
        ),
        None if cannot else "The model judges harm in words, and the experiment is informative.",
    ]


def inversion_sweep(best: Mapping[tuple[str, str, str], tuple[int, float]], n: int) -> Said:
    """Of {(direction, span, label of the requests): (layer, share with the other judgement there)}, each of
    `n` requests.
    """
    (name, span, label), (layer, most) = max(best.items(), key=lambda item: item[1][1])
    each = ", ".join(
        f"{part:.0%} at layer {at} (v_{v}, {requests} requests, {tokens})"
        for (v, tokens, requests), (at, part) in best.items()
    )
    return (
        f"At one layer at most {most:.0%} of validation requests get the other judgement: v_{name}, layer "
        f"{layer}, {label}, {span}"
    ), [
        f"Of {n} validation requests per arm the largest share that gets the other judgement in words: "
        f"{each}."
    ]


def inversion_rates(told: Iterable[Record]) -> Said:
    """Of the claims that something can be said on."""
    turns = {
        "02.inversion.harm.harmless": "+v_harm: Certainly to {} of harmless requests ({})",
        "02.inversion.harm.harmful": "−v_harm: No to {} of harmful requests ({})",
    }
    told = list(told)
    parts = [turns[r.id].format(percent(r.value), r.verdict) for r in told if r.id in turns]
    return "; ".join(parts) or "Judgements under steering", [
        f"{r.statement}: {interval(r)} of {r.n}, {why(r)}." for r in told
    ]


SINGLE = {  # what a verdict says of a direction that is ablated, and of one that is added
    "ablate": {
        "replicated": "Ablating one direction ends most refusals",
        "not replicated": "Ablating one direction does not end refusal as claimed",
        "underpowered": "Whether ablating one direction ends refusal is not decided",
    },
    "add": {
        "replicated": "adding it makes harmless prompts refused",
        "not replicated": "adding it does not make harmless prompts refused beyond random directions",
        "underpowered": "whether adding it makes harmless prompts refused is not decided",
    },
}


def single_direction(off: Record, on: Record) -> Said:
    """Of the direction ablated and added."""
    left, made = percent(off.value), percent(on.value)
    low, high = (r.number(f"random_direction_{end}") for r, end in ((off, "low"), (on, "high")))
    ablated = f"{share(off)} of {off.n} refused harmful prompts are still refused"
    numbers = (
        f"{ablated} when it is ablated; the band of random directions begins at {percent(low)}",
        f"{share(on)} of {on.n} harmless prompts are refused when it is added; the band of random directions "
        f"ends at {percent(high)}",
    )
    if void := next((r for r in (off, on) if r.verdict == "uninformative"), None):
        best = f"with the best ablated {left} of harmful prompts are refused, added {made} of harmless ones"
        return f"No direction meets the conditions; {best} ({void.verdict})", [
            f"Nothing is said of a single direction: {void.reason}.",
            f"Of the best one all the same: {numbers[0]}. {capitalized(numbers[1])}.",
        ]
    words = [SINGLE[of][r.verdict] for of, r in (("ablate", off), ("add", on))]
    return f"{words[0]} ({left} left, {off.verdict}); {words[1]} ({made}, {on.verdict})", [
        f"{capitalized(about)} ({why(r)}): {said}."
        for about, r, said in zip(words, (off, on), numbers, strict=True)
    ]


def harmless_ablation(r: Record) -> str:
    """Of 02.single.harmless-ablation."""
    if r.value is None:
        return f"What the ablation costs on ordinary text was not measured: {r.reason}."
    changes = way(r, "raises", "lowers", "is not shown to change")
    low, high, k, n = (r.number(f"random_direction{end}") for end in ("_low", "_high", "s", "_n"))
    beside = (
        f"; the band of {k} random directions, on the first {n / k:.0f} paragraphs, is {digits(low)} to "
        f"{digits(high)}"
        if k and n
        else ""
    )
    return (
        f"Ablating the direction {changes} the loss on {r.n} paragraphs of ordinary text: the change is "
        f"{interval(r)} nats per token{beside}. That it costs next to nothing is {why(r)}."
    )
