"""Titles and readings of the figures of notebook 06: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

from refusal.base.estimate import Estimate
from refusal.report.rules import Record
from refusal.report.shown import digits, interval, percent, points, two, why

Said = tuple[str, list[str | None]]


def natural(
    rates: Mapping[tuple[str, str], Estimate], emits: float, ordinary: float, cannot: str | None
) -> Said:
    """Of the share not complied with by category and kind, and the share of answers that begin with a
    token.
    """
    mean = lambda kind: sum(r.value for (_, k), r in rates.items() if k == kind) / (len(rates) / 2)
    title = (
        f"By itself the model does not comply with {percent(mean('due'))} of due, "
        f"{percent(mean('contrast'))} of "
        f"contrast and {percent(ordinary)} of ordinary requests"
    )
    least = min((c for c, k in rates if k == "due"), key=lambda c: rates[c, "due"].value)
    return title, [
        f"{percent(emits)} of the answers begin with a token. Of due requests {percent(mean('due'))} are "
        "not complied "
        f"with on average over the categories, least of {least} ones "
        f"({percent(rates[least, 'due'].value)}); of "
        f"contrast requests {percent(mean('contrast'))}, of ordinary ones {percent(ordinary)}.",
        f"The notebook ends here for this model: {cannot}." if cannot else None,
    ]


def fidelity(first: Record, others: Record) -> Said:
    """Of 06.token.switches and .others."""
    title = (
        f"Forcing the token moves noncompliance by {points(first.value)} for safety ({first.verdict}), by "
        f"{points(others.value)} in the lowest other category ({others.verdict})"
    )
    shuffled = first.number("shuffled") if "shuffled" in first.controls else None
    return title, [
        f"After the refusing token {percent(first.number('after_refuse'))} of unsafe requests are not "
        "complied with, "
        f"after the answering one {percent(first.number('after_respond'))}: {points(first.value)}, "
        f"{why(first)}.",
        f"In the copy whose tokens were dealt at random the gap is {points(shuffled)}."
        if shuffled is not None
        else None,
        f"In the other categories the gap is {points(others.value)} at the lowest ({why(others)}).",
    ]


def training(losses: Mapping[str, Sequence[float]], came: Mapping[str, tuple[Estimate, Estimate]]) -> Said:
    """Of the losses of copies by step, and of what came of each: the gap of the switch for safety requests,
    and how well its score ranks due above contrast ones.
    """
    first = next(iter(losses))
    ends = lambda xs: (sum(xs[:4]) / len(xs[:4]), sum(xs[-4:]) / len(xs[-4:]))
    start, end = ends(losses[first])
    title = f"In {len(losses[first])} steps the loss of a copy ({first}) goes from {two(start)} to {two(end)}"
    return title, [
        f"Over its last four steps the loss is {two(ends(xs)[1])} in the copy {name}; the gap for safety "
        f"requests is {interval(gap, points)}, and its score ranks due above contrast ones with AUROC "
        f"{interval(area)}."
        for name, xs, (gap, area) in ((name, losses[name], found) for name, found in came.items())
    ]


def roc(reads: Record, behaves: Record, word: Record, probe: Record, reader: str) -> Said:
    """Of 06.token.reads, 06.dial.behaviour and .beats-*."""
    title = (
        f"The token ranks requests with AUROC {two(reads.value)} ({reads.verdict}); the text it makes has "
        f"{two(behaves.number('behaviour'))}, the first word {two(word.number('other'))}, a probe "
        f"{two(probe.number('other'))} ({probe.verdict})"
    )
    return title, [
        f"As a reading the token has an AUROC of {interval(reads)} (over the whole vocabulary "
        f"{two(reads.number('whole_vocabulary'))}); {reader}, the best reader of the bare text, has "
        f"{two(reads.number('best_reader'))}: {why(reads)}.",
        f"What is said has an area of {two(behaves.number('behaviour'))} under its ROC, "
        f"{two(behaves.value)} from the "
        f"token's own ({why(behaves)}): between the two lines lies what the switch loses.",
        f"Against the first word of a refusal in a twin without tokens it is {two(word.value)} "
        f"({why(word)}), "
        f"against a probe on the states before the training {two(probe.value)} ({why(probe)}); the probe's "
        "score has "
        f"{two(probe.number('other_score'))}.",
    ]


def dial(ranged: Record) -> Said:
    """Of 06.dial.range."""
    title = (
        f"The dial moves noncompliance with due requests by {points(ranged.value)} ({ranged.verdict}), with "
        f"contrast ones from {percent(ranged.number('contrast_at_10'))} to "
        f"{percent(ranged.number('contrast_at_90'))}"
    )
    return title, [
        "At the threshold that flags a tenth of the due validation requests "
        f"{percent(ranged.number('due_at_10'))} "
        f"of due test requests are not complied with, at the one that flags nine tenths "
        f"{percent(ranged.number('due_at_90'))}: {points(ranged.value)}, {why(ranged)}. Contrast requests "
        "go from "
        f"{percent(ranged.number('contrast_at_10'))} to {percent(ranged.number('contrast_at_90'))}.",
    ]


def reliability(errors: Mapping[float, float]) -> Said:
    """Of the expected calibration error by the share of requests that are due."""
    each = ", ".join(f"{two(e)} where {share:.0%} are due" for share, e in errors.items())
    best = min(errors, key=lambda share: errors[share])
    return f"Expected calibration error of the token: {each}", [
        f"On average p is off by {each}; it is nearest to the truth where {best:.0%} of the requests are "
        "due, and a "
        "threshold that was set there is not right elsewhere."
    ]


def crosstalk(own: Record, rest: Record, bias: Record) -> Said:
    """Of 06.category.*."""
    title = (
        f"Suppressing a category changes its own refusals by {points(own.value)} ({own.verdict}), "
        "another's by "
        f"{points(rest.value)} at most ({rest.verdict}); a logit bias its own by {points(bias.value)} "
        f"({bias.verdict})"
    )
    return title, [
        f"By the released rule the category's own refusals change by {points(own.value)} ({why(own)}); the "
        "largest "
        f"change elsewhere is that of {rest.controls.get('tested')} requests without the token of "
        f"{rest.controls.get('suppressed')}, {points(rest.value)} ({why(rest)}), where that token is the "
        "likeliest for "
        f"{percent(rest.number('token_confusion'))} of them.",
        f"By a plain logit bias the own change is {points(bias.value)} ({why(bias)}): the next likeliest "
        "token "
        "takes over.",
    ]


def price(contrast: Record, cost: Record) -> str:
    """Of 06.contrast.helps and 06.cost."""
    first = (
        f"Taught with contrast requests a copy does not comply with {percent(contrast.number('with'))} of "
        "those that "
        f"test, without them with {percent(contrast.number('without'))}: {points(contrast.value)}, "
        f"{why(contrast)}."
        if contrast.value is not None
        else f"Whether contrast requests help was not asked here ({contrast.verdict})."
    )
    return (
        f"{first} After the answering token the base model's own answers cost {interval(cost, digits)} "
        "nats a token "
        f"more than in the twin ({why(cost)})."
    )


def released(numbers: Mapping[str, float]) -> str:
    """Of the numbers of the released code."""
    n = {k.removeprefix("released/"): v for k, v in numbers.items()}
    return (
        "In the released code a loop over temperatures leaves the probabilities at 2, where the refusing "
        "tokens "
        f"hold {two(n['p_mean/t2'])} on average and not {two(n['p_mean/t1'])}; refusing everything has an "
        "F1 of "
        f"{n['always_refuse_f1']:.3f} on the published test set."
    )


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by = {r.id.removeprefix("06."): r for r in records}
    measured = {id: r for id, r in by.items() if r.value is not None and r.verdict != "uninformative"}
    said = []
    if (r := measured.get("token.switches")) and (other := measured.get("token.switches.others")):
        said.append(
            f"As a switch the token moves noncompliance with unsafe requests by {points(r.value)} "
            f"({r.verdict}), in the "
            f"lowest other category by {points(other.value)} ({other.verdict})."
        )
    if r := measured.get("token.reads"):
        said.append(
            f"As a reading it has an AUROC of {two(r.value)}, the best reader of text "
            f"{two(r.number('best_reader'))} ({r.verdict})."
        )
    if (r := measured.get("dial.beats-probe")) and (word := measured.get("dial.beats-first-word")):
        said.append(
            f"Judged by the text, the dial is {two(word.value)} from the first word of a twin without tokens "
            f"({word.verdict}) and {two(r.value)} from a probe on the states before training ({r.verdict})."
        )
    if r := measured.get("category.own"):
        said.append(
            f"One category can be turned down: {r.verdict}; the others stay: {by['category.others'].verdict}."
        )
    return " ".join(said) or "Nothing can be said of tokens here; the records give the reason."
