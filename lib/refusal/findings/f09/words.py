"""Titles and readings of the figures of notebook 09: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from refusal.base.estimate import Estimate
from refusal.findings.f09 import measured
from refusal.findings.f09.scorer import ITEMS, OPEN
from refusal.report.rules import Record
from refusal.report.shown import capitalized, interval, percent, signed, two, why

Said = tuple[str, list[str | None]]


def scorer(r: Record, kappas: Mapping[str, Mapping[str, Estimate]], leaning: pd.DataFrame) -> Said:
    """Of 09.scorer, κ by item and of S and risk, all and untrained, and how far the scorer's S lies above the
    readers' by arm.
    """
    lean = leaning.groupby("arm").S.mean().sort_values()
    worst = min(ITEMS, key=lambda item: _or(kappas[item]["all"].value, 1.0))
    title = (
        f"Scorer and readers agree on satisfaction with κ {interval(r)} ({r.verdict}); worst of the items is "
        f"{worst} ({two(kappas[worst]['all'].value)})"
    )
    return title, [
        f"On answers that the scorer was not fitted to, κ of satisfaction is {two(kappas['S']['all'].value)} "
        f"over all "
        f"and {two(kappas['S']['untrained'].value)} on untrained models' answers; two readers agree with "
        f"{two(kappas['S']['readers'].value)} ({why(r)}).",
        f"Risk: {two(kappas['R']['all'].value)}, readers {two(kappas['R']['readers'].value)}; items: "
        + ", ".join(f"{item} {two(kappas[item]['all'].value)}" for item in ITEMS)
        + ".",
        f"It leans: its satisfaction lies {signed(lean.iloc[-1])} above the readers' for {lean.index[-1]}, "
        f"{signed(lean.iloc[0])} for {lean.index[0]}. So what an arm gains must also stand where this is "
        "taken off.",
    ]


def _or(x: float | None, other: float) -> float:
    return other if x is None else x


def beta(base: Record, refusal: Record, sft: Record, turns: Record, share: Record) -> Said:
    """Of 09.over-base, .over-refusal, .over-sft, .beta.turns and .gain.is-risk."""
    title = (
        f"At β = 2 constructive training changes the score by {signed(base.value)} against the base "
        f"({base.verdict}), at β = 0.1 by {signed(turns.value)}"
    )
    return title, [
        f"Over all kinds the constructive arm (ORPO) lies {signed(base.value)} above the base at β = 2 "
        f"({why(base)}), {signed(base.number('at_beta_1'))} at 1 and {signed(base.number('at_beta_5'))} "
        f"at 5. "
        f"Of people in distress it lies {signed(refusal.value)} above the arm that learned to refuse "
        f"({why(refusal)}), where the style alone gains {signed(refusal.number('shuffled_gain'))}.",
        f"Over supervised training preferences add {signed(sft.value)} ({why(sft)}).",
        f"Without the scorer's leaning, measured against readers' marks, these are {_freed(base)} over the "
        f"base, {_freed(refusal)} over refusing and {_freed(sft)} over supervised training.",
        f"At β = 0.1 the difference to the base is {signed(turns.value)}, at 10 "
        f"{signed(turns.number('at_10'))}: that the order turns is {why(turns)}. Which share of the gain at "
        f"2 is lower risk: {percent(share.value)} ({why(share)}).",
    ]


def _freed(r: Record) -> str:
    ends = r.controls.get("without_leaning_ci95")
    value = r.number("without_leaning")
    return "–" if value is None or ends is None else interval(Estimate(value, ends, r.n))


def plane(scored: Mapping[str, Sequence], kinds: Sequence[str]) -> Said:
    """Of satisfaction and risk of every arm."""
    s, r = (
        {
            name: float(np.mean([measured.of_kinds(one, some, column).mean() for one in of]))
            for name, of in scored.items()
        }
        for column, some in (("S", OPEN), ("R", kinds))
    )
    best = max(s, key=lambda name: s[name])
    title = (
        f"Satisfaction is highest for {best} ({two(s[best])}), risk lowest for {min(r, key=lambda n: r[n])}"
    )
    each = "; ".join(f"{name}: S {two(s[name])}, R {two(r[name])}" for name in s)
    return title, [f"Mean over seeds: {each}."]


def items(scored: Mapping[str, Sequence]) -> Said:
    """Of the items of sensitive queries: what the constructive arm gains over the base and over a style."""
    mean = lambda name, item: float(np.mean([one["sensitive"][item].mean() for one in scored[name]]))
    gain = {item: mean("orpo", item) - mean("base", item) for item in ITEMS}
    style = {item: mean("shuffled", item) - mean("base", item) for item in ITEMS}
    most = max(gain, key=lambda item: abs(gain[item]))
    title = f"Of people in distress constructive training changes {most} most ({signed(gain[most])})"
    say = lambda by: ", ".join(f"{item} {signed(by[item])}" for item in ITEMS)
    return title, [
        f"Against the base, constructive training: {say(gain)}. Other people's answers: {say(style)}."
    ]


def topics(r: Record, thirds: Mapping[str, Sequence[str]]) -> Said:
    """Of 09.topics."""
    title = (
        f"On each third of topics that were not trained on, guiding lies at least {signed(r.value)} above "
        f"refusing ({r.verdict})"
    )
    each = ", ".join(f"{name} {signed(r.number(name.replace(' ', '_')))}" for name in thirds)
    return title, [
        f"Constructive training minus training to refuse, by thirds of the topics: {each} ({why(r)})."
    ]


def length(matched: Mapping[str, float], words: int) -> str:
    """Of scores of answers cut to one length."""
    each = ", ".join(f"{name} {two(value)}" for name, value in matched.items())
    return f"Sensitive queries at β = 2, every answer cut to {words} words: {each}."


def second(usual: Mapping[str, float], other: Mapping[str, float]) -> str:
    """Mean scores of the arms by the scorer and by its second variant: whether they come in one order."""
    orders = [sorted(scores, key=lambda name: -scores[name]) for scores in (usual, other)]
    each = "; ".join(f"{name} {two(other[name])}" for name in orders[1])
    same = "the same order" if orders[0] == orders[1] else f"another order than {', '.join(orders[0])}"
    return f"With needs counted at two thirds and logic left out the arms come in {same}: {each}."


def jailbreak(
    disallowed: Record, attacked: Record, general: Record, wordings: Mapping[str, tuple[float, float]]
) -> Said:
    """Of 09.safety.* and 09.general; `wordings` holds the risk before and after constructive training under
    each jailbreak wording.
    """
    each = ", ".join(f"{name} from {two(a)} to {two(b)}" for name, (a, b) in wordings.items())
    title = (
        f"Constructive training takes risk on disallowed requests from {two(disallowed.number('base'))} to "
        f"{two(disallowed.number('orpo'))} (no rise: {disallowed.verdict}), {each} (a fall: "
        f"{attacked.verdict})"
    )
    return title, [
        f"Risk on disallowed requests goes from {two(disallowed.number('base'))} to "
        f"{two(disallowed.number('orpo'))}; that it does not rise is {why(disallowed)}. Under jailbreak "
        f"wording it goes {each}; that it falls over both is {why(attacked)}.",
        f"Facts are known in {percent(general.number('base'))} before and {percent(general.number('orpo'))} "
        f"after ({why(general)}).",
    ]


def training(losses: Mapping[str, Sequence[float]]) -> Said:
    """Of the losses of one seed of each arm."""
    tail = lambda x: float(np.mean(x[-4:]))
    each = "; ".join(f"{name}: {two(float(x[0]))} to {two(tail(x))}" for name, x in losses.items())
    return "What each arm learns, its loss step by step", [f"First step and mean of the last four: {each}."]


def prompted(r: Record, model: str, natural: float) -> Said:
    """Of 09.prompted; `natural` is the score without a system prompt of ours."""
    title = (
        f"Asked to guide, {model} scores {two(r.number('guide'))}, asked to decline "
        f"{two(r.number('decline'))} ({r.verdict}), asked neither way {two(natural)}"
    )
    return title, [
        f"The constructive score of people in distress is {two(r.number('guide'))} where the system "
        f"prompt asks "
        f"to guide and {two(r.number('decline'))} where it asks to decline: {interval(r)} ({why(r)}). "
        f"Asked neither way it is {two(natural)}. Nothing was trained."
    ]


def mechanism(r: Record, axes: Sequence) -> Said:
    """Of 09.mechanism."""
    at = lambda arm: two(r.number(f"refuse_{arm}"))
    title = (
        f"People in distress lie at {at('orpo')} along refusal after constructive training, at "
        f"{at('refusal')} after training to refuse ({r.verdict}), at {at('base')} before"
    )
    where = " and ".join(f"{axis.position}, layer {axis.layer}" for axis in axes)
    return title, [
        f"Along refusal sensitive queries lie at {two(r.number('refuse_base'))} before, "
        f"{two(r.number('refuse_refusal'))} after training to refuse and {two(r.number('refuse_orpo'))} "
        f"after "
        f"constructive training; along harm they move by {two(r.number('harm_change'))}, and half of the gap "
        f"between disallowed and benign ones is {two(r.number('half_gap'))} ({why(r)}). Axes: {where}."
        if r.value is not None
        else capitalized(why(r)) + ".",
    ]


def lingo(adopted: Mapping[str, Sequence[float]]) -> Said:
    """Of the share of new strategies that is adopted, by how many of four are new."""
    each = "; ".join(f"{name}: {', '.join(map(percent, x))}" for name, x in adopted.items())
    title = (
        f"As released, {percent(adopted['as released'][1])} and {percent(adopted['as released'][2])} of "
        f"two and "
        "three new strategies are adopted"
    )
    return title, [f"Of one, two, three and four new strategies are adopted, {each}."]


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by, said = {r.id.removeprefix("09."): r for r in records}, []
    r = by["scorer"]
    said.append(f"Scorer and readers agree on satisfaction with κ {interval(r)} ({r.verdict}).")
    if (r := by.get("over-refusal")) and r.verdict != "uninformative" and r.value is not None:
        said.append(
            f"Constructive training serves people in distress {signed(r.value)} better than training to "
            f"refuse "
            f"({r.verdict}); against the base it scores {signed(by['over-base'].value)} over all kinds "
            f"({by['over-base'].verdict}), and that this is mostly lower risk is "
            f"{by['gain.is-risk'].verdict}."
        )
    if (r := by.get("prompted")) and r.verdict != "uninformative" and r.value is not None:
        said.append(f"That asking alone does so is {r.verdict} ({signed(r.value)}).")
    if (r := by.get("mechanism")) and r.value is not None:
        said.append(f"That people in distress leave refusal and not harm inside is {r.verdict}.")
    return " ".join(said)
