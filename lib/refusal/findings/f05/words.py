"""Titles and readings of the figures of notebook 05: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

from refusal.report.rules import Record
from refusal.report.shown import interval, percent, points, signed, two, why

Said = tuple[str, list[str | None]]


def behaviour(refused: Mapping[str, Mapping[str, float]], start: str, neutral: str) -> Said:
    """Of the share refused by system prompt and group."""
    each = lambda name: ", ".join(f"{percent(share)} of {group}" for group, share in refused[name].items())
    title = (
        f"Harmful prompts are refused {percent(refused['own']['harmful'])} of the time under the own system "
        f"prompt, {percent(refused[start]['harmful'])} under {start}, {percent(refused[neutral]['harmful'])} "
        "under its neutral twin"
    )
    return title, [
        f"Under its own system prompt the model refuses {each('own')} prompts; under *{start}*, which asks "
        "for "
        f"safety, {each(start)}; under its neutral twin, which asks for a manner, {each(neutral)}. What a "
        "safety prompt does is the difference between the last two, not between the first two.",
    ]


def separable(alone: Record, gain: Record) -> str:
    """Of 05.separable.*."""
    texts = {name: alone.number(name) for name in ("TF-IDF", "sentence embeddings", "form")}
    readers = ", ".join(f"{name} {two(x)}" for name, x in texts.items() if x is not None)
    return (
        f"Under the template's own system prompt four components rank harmful above harmless prompts with "
        f"an AUROC of {interval(alone)} ({why(alone)}); readers of the bare text: {readers}. Under "
        f"*{gain.controls['best_prompt']}*, the paper's safety prompt that is best on the prompts that "
        "teach, "
        f"it is {signed(gain.value)} more ({why(gain)})."
    )


def prompts(by: Mapping[str, Record]) -> Said:
    """Of 05.shift.own.* and 05.shift.neutral.*."""
    own, neutral = (
        [by[f"05.shift.{kind}.{g}"] for g in ("harmful", "harmless")] for kind in ("own", "neutral")
    )
    title = (
        f"Safety prompts move the refusal score of harmful prompts by {signed(own[0].value)} from the own "
        f"prompt's ({own[0].verdict}), by {signed(neutral[0].value)} from neutral ones ({neutral[0].verdict})"
    )
    foreign = own[0].number("neutral")
    return title, [
        f"Against the template's own system prompt safety prompts move the score of harmful prompts by "
        f"{interval(own[0])} nats ({why(own[0])}) and that of harmless ones by {interval(own[1])} "
        f"({why(own[1])}).",
        f"Neutral prompts of the same form move it by {signed(foreign)}: that a system prompt is not the one "
        f"the model was trained with is part of every such shift."
        if foreign is not None
        else None,
        f"Above their neutral twins they lie by {interval(neutral[0])} for harmful prompts "
        f"({why(neutral[0])}) "
        f"and by {interval(neutral[1])} for harmless ones ({why(neutral[1])}); prompts that decline "
        "something "
        f"harmless by {signed(neutral[0].number('declining'))} on average and "
        f"{signed(neutral[0].number('declining_high'))} at most, which is the bar for harmful ones.",
    ]


def cosines(common: Record) -> Said:
    """Of 05.shift.common."""
    title = (
        f"Safety prompts move prompts alike (cosine {two(common.number('safety'))}), and neutral ones nearly "
        f"as they do ({two(common.number('safety_neutral'))}): {common.verdict}"
    )
    if (common.value or 0) > 0.1:
        title = (
            f"Safety prompts move prompts alike (cosine {two(common.number('safety'))}), more than neutral "
            f"ones move them as they do ({two(common.number('safety_neutral'))}): {common.verdict}"
        )
    return title, [
        f"Mean moves under two safety prompts have a cosine of {two(common.number('safety'))}, under a "
        "safety "
        f"and a neutral one {two(common.number('safety_neutral'))}; one move and itself, from two halves of "
        f"the prompts, {two(common.number('split_half'))}. The difference is {interval(common)} "
        f"({why(common)}).",
    ]


def plane(record: Record) -> Said:
    """Of 05.shift.not-harm."""
    refuse, harm = record.number("toward_refusal"), record.number("toward_harm")
    if record.value is None:
        title = "Where system prompts move states: too few refusals say where refusing lies"
    else:
        title = (
            f"Beyond neutral prompts, safety prompts go {percent(refuse)} of the way from answered to "
            "refused "
            f"and {percent(harm)} of that from harmless to harmful ({record.verdict})"
        )
    return title, [
        "Each point is the mean of the prompts under one system prompt, on two lines of the states under the "
        "own one: across from answered harmless to answered harmful prompts, upwards from answered to "
        "refused harmful ones; 1 is the whole way.",
        f"What safety prompts add to neutral ones goes {percent(refuse)} of the way to refusing and "
        f"{percent(harm)} of that to harm: {interval(record)} apart ({why(record)})."
        if record.value is not None
        else None,
    ]


def labels(numbers: Mapping[str, float]) -> str:
    """Of the regressions that DRO follows."""
    return (
        f"Compliance is {percent(numbers['labels/r2_class'])} explained by the class, yet the two "
        "regressions "
        f"have weights with a cosine of {two(numbers['labels/cos_wr_wh'])}; one fitted on harmful prompts "
        f"alone, which cannot be harm, has {two(numbers['labels/cos_wr_harmful_only'])} with the first. On "
        f"prompts left out the first ranks with an AUROC of {two(numbers['estimator/auroc'])}, row by row, "
        "as "
        f"published, {two(numbers['estimator/auroc_rows'])}."
    )


def loss(fell: float, gap: Mapping[str, float], seconds: float | None = None) -> Said:
    """Of the mean loss of the first and the last quarter of the steps, and the regression's gap between the
    classes on validation prompts before and after.
    """
    title = f"DRO's loss falls by {two(fell)}, and what it follows parts the classes on other prompts as well"
    if fell <= 0 or gap["after"] <= gap["before"]:
        title = f"DRO's loss changes by {two(-fell)}"
    return title, [
        f"On validation prompts, which it was not trained on, the regression for complying has a gap of "
        f"{two(gap['before'])} between harmless and harmful prompts under the start, and of "
        f"{two(gap['after'])} under the trained prompt; off the components states move by "
        f"{two(gap['off'])} of their spread there.",
    ]


def tradeoff(trivial: Record, spares: Record) -> Said:
    """Of 05.dro.trivial and 05.dro.spares."""
    title = (
        f"Judged at strengths chosen on validation prompts, DRO refuses {points(trivial.value)} of harmful "
        f"prompts against training the first token ({trivial.verdict}), and {points(spares.value)} of others "
        f"against its start ({spares.verdict})"
    )
    return title, [
        f"Lines go from the start's states to a trained prompt's and half as far beyond. At the strengths "
        f"chosen on validation prompts DRO makes the model refuse {percent(trivial.number('dro'))} of "
        "harmful "
        f"prompts, the first-token objective {percent(trivial.number('trivial'))}: {why(trivial)}.",
        f"As trained, harmless and pseudo-harmful prompts are refused or deflected {points(spares.value)} "
        f"more often than under the start ({why(spares)}); of pseudo-harmful ones "
        f"{points(spares.number('pseudo_harmful'))}.",
    ]


def samples(by: Mapping[str, Record], shares: Mapping[str, float]) -> Said:
    """Of 05.dro.* on sampled answers, and the share of samples that comply by arm."""
    low, human, swap = by["05.dro.harmful"], by["05.human.behaviour"], by["05.dro.swapped"]
    title = (
        f"Of sampled answers to harmful prompts {percent(shares.get('own'))} comply under the own prompt, "
        f"{percent(shares.get('human'))} under the human one, {percent(low.number('dro'))} after DRO "
        f"({low.verdict})"
    )
    turned = lambda x: points(None if x is None else -x)
    return title, [
        f"Under the human safety prompt compliance is {turned(human.value)} against the template's own, "
        "which "
        f"it was to lower ({why(human)}); its neutral twin leaves {percent(human.number('neutral'))}.",
        f"DRO lowers compliance by {interval(low)} against the text it began as ({why(low)}), to between "
        f"{percent(low.number('lowest_seed'))} and {percent(low.number('highest_seed'))} by seed; trained "
        "along "
        f"random directions the prompt changes it by {turned(low.number('random'))}. Without the harmful "
        f"prompt that gives most, DRO lowers it by {two(low.number('without_top_prompt'))}."
        if low.value is not None
        else f"Of DRO nothing can be said: {why(low)}.",
        f"With the classes swapped in training compliance is {points(swap.value)} above that under DRO "
        f"({why(swap)})."
        if swap.value is not None
        else None,
    ]


def judges(parts: Mapping[str, Mapping[str, float]]) -> Said:
    """Of the share of greedy answers to harmful prompts by arm and kind."""
    arms = [name for name in ("own", "start", "DRO") if name in parts]
    each = "; ".join(
        f"{name}: {percent(parts[name]['refusal'])} refused, {percent(parts[name]['deflection'])} deflected, "
        f"{percent(parts[name]['answer'])} answered"
        for name in arms
    )
    last = parts[arms[-1]]
    title = (
        f"Harmful prompts under {arms[-1]}: {percent(last['refusal'])} refused, "
        f"{percent(last['deflection'])} deflected, {percent(last['answer'])} answered"
    )
    return title, [
        f"Of greedy answers to harmful prompts, by arm: {each}. Deflections say that the request is wrong, "
        "or "
        "ask back, and give nothing: a list of refusal phrases passes them as help, a rule by length as "
        "safe.",
    ]


def influence(numbers: Mapping[str, float | None]) -> str:
    """Of the share of an arm's compliance that one prompt holds."""
    each = ", ".join(f"{percent(x)} under {name}" for name, x in numbers.items() if x is not None)
    return f"One prompt holds so much of all compliance: {each}."


def regulariser(r: Record) -> str:
    """Of 05.dro.regulariser."""
    return (
        f"Neutral text, given as an answer, costs {signed(r.number('dro_minus_start'))} nats a token under "
        "DRO "
        f"and {signed(r.number('without_minus_start'))} without the third term, against the start: "
        f"{interval(r)} apart ({why(r)})."
    )


def published(r: Record) -> str:
    """Of 05.published.gain."""
    hundredth = lambda x: "–" if x is None else f"{100 * x:+.2f} points"
    return (
        f"In the released results of eight models DRO lowers compliance per sample by {hundredth(r.value)} "
        "more "
        f"than prompt tuning ({r.verdict}); without the one prompt that holds most of what is left, by "
        f"{hundredth(r.number('without_top_prompt'))}, and on AdvBench by {hundredth(r.number('advbench'))}."
    )


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by = {r.id.removeprefix("05."): r for r in records}
    said = []
    if (r := by.get("shift.common")) and r.value is not None:
        said.append(
            f"Safety prompts move states alike (cosine {two(r.number('safety'))}); a safety and a neutral "
            f"one have {two(r.number('safety_neutral'))}; that safety has a direction of its own is "
            f"{r.verdict}."
        )
    if (r := by.get("human.behaviour")) and r.value is not None:
        said.append(
            f"Under the human prompt compliance is {points(-r.value)} against the template's own; that it "
            "falls "
            f"is {r.verdict}."
        )
    if (r := by.get("dro.harmful")) and r.value is not None:
        said.append(
            f"Trained by DRO it is {points(-r.value)} against its start (that it falls is {r.verdict}), and "
            f"refusals of "
            f"harmless prompts rise by {points(by['dro.spares'].value)} ({by['dro.spares'].verdict}); "
            "against "
            f"training the first token alone it gains {points(by['dro.trivial'].value)} "
            f"({by['dro.trivial'].verdict})."
        )
    return " ".join(said) or "Nothing can be said of safety prompts here; the records give the reason."
