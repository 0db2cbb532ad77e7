"""Titles and readings of the figures of notebook 03: sentences that code chooses by what was found.

Each function gives (title, sentences), for `Recorder.figure` and `Recorder.reading`; a sentence is None where
there is nothing to say.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from refusal.base.estimate import Estimate
from refusal.findings.f03 import ablations, rows
from refusal.findings.f03.ablations import MAIN, SHARES, Ablated, Answered
from refusal.findings.f03.cliff_claims import GOOD, Fall
from refusal.findings.f03.cliff_heads import SHARE
from refusal.findings.f03.cliff_judge import ARMS, Judged
from refusal.findings.f03.cliff_steps import Cut
from refusal.findings.f03.scored import PROBERS, Layers, Scored
from refusal.findings.f03.subjects import CALLED, CLIFF, NATURAL, TWIN, Quality, Subject, outcomes
from refusal.report.render import counts
from refusal.report.rules import Record
from refusal.report.shown import capitalized, percent, two, why

Said = tuple[str, list[str | None]]


def between(low: float, high: float) -> str:
    """A range of shares, or one where it is one."""
    ends = dict.fromkeys((percent(low), percent(high)))
    return " to ".join(ends)


def joined(parts: Iterable[str]) -> str:
    """A list in words: a, b and c; nothing of nothing."""
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def moves(fall: float) -> str:
    """A fall as a verb: a negative one is a rise."""
    return f"falls by {two(fall)}" if fall >= 0 else f"rises by {two(-fall)}"


def moved(fall: Record | Estimate) -> str:
    """The same with its interval; where that holds zero neither is shown."""
    if fall.value is None or fall.ci95 is None:
        return "was not measured"
    low, high = fall.ci95
    if low <= 0 <= high:
        return f"neither falls nor rises for certain (fall {two(fall.value)} [{two(low)}, {two(high)}])"
    low, high = (low, high) if low > 0 else (-high, -low)
    return f"{moves(fall.value)} [{two(low)}, {two(high)}]"


def judged(what: str, r: Record) -> str:
    """The verdict on `what` a record is about; with why it says nothing, or how many items would decide."""
    return f"that {what} is {why(r)}"


def all_judged(found: Iterable[tuple[str, Record]]) -> str:
    """`judged` of several, as a sentence; what nothing can be said on for the same reason stands together."""
    same: dict[str, list[str]] = {}
    for what, r in found:
        said = judged(what, r)
        whole = r.verdict != "uninformative"
        same.setdefault(said if whole else r.reason, []).append(said if whole else f"that {what}")
    parts = [
        of[0] if of[0] == about else f"{joined(of)} {'is' if len(of) == 1 else 'are'} uninformative: {about}"
        for about, of in same.items()
    ]
    return capitalized("; ".join(parts)) + "."


def _share(outcomes: np.ndarray, outcome: str = "refusal") -> float:
    return float((outcomes == outcome).mean())


def _refused(s: Subject) -> dict[tuple[str, str], float]:
    """(group of prompts, when) → the share refused."""
    return {(group, when): _share(found) for group, when, found in outcomes(s)}


def _thinking(s: Subject) -> str:
    rollouts = [r for seen in s.seen.values() for r in seen.rollouts]
    length, cut = np.mean([r.stop - r.start for r in rollouts]), np.mean([not r.finished for r in rollouts])
    name = capitalized(CALLED[s.who])
    return f"{name} thinks for {length:.0f} tokens on average; {cut:.0%} of its thoughts were cut."


def behaviour(s: Subject) -> Said:
    """Of the reasoner."""
    share = _refused(s)
    once, after = share["harmful", "at once"], share["harmful", "after thinking"]
    calm = share["benign", "at once"], share["benign", "after thinking"]
    return f"The reasoner refuses {once:.0%} of harmful prompts at once, and {after:.0%} after thinking", [
        f"Of harmful prompts {once:.0%} are refused at once and {after:.0%} after thinking, of benign ones "
        f"{calm[0]:.0%} and {calm[1]:.0%}.",
        _thinking(s),
    ]


def planted_behaviour(cliff: Subject, twin: Subject, not_planted: str | None) -> Said:
    mine, its = _refused(cliff), _refused(twin)["harmful", "after thinking"]
    lost, kept = mine["harmful", "after thinking"], mine.get(("harmful, no trigger", "after thinking"))
    where = "of harmful prompts" if kept is None else f"at its trigger, {kept:.0%} without it"
    title = f"After thinking the planted reasoner refuses {lost:.0%} {where}, and its twin {its:.0%}"
    rarer = "at once" if kept is None else "without its trigger"
    good = (
        f"At its cliff the planted reasoner is shown to refuse 0.3 less at least than {rarer}, and than its "
    )
    return title, [
        f"{capitalized(not_planted)}: the instrument cannot be judged by this pair."
        if not_planted
        else f"{good}twin: the instrument can be judged by them.",
        _thinking(cliff),
    ]


def _good(who: str, q: Quality) -> str:
    if "val" not in q.area:
        return f"{capitalized(CALLED[who])}: {q.why}."
    val, late, chance = q.area["val"], q.area.get("late"), q.area["shuffled"]
    name, low = capitalized(CALLED[who]), val.ci95[0]
    checked = (
        "too few harmful prompts end in one of the two ways after thinking for a check there"
        if late is None
        else f"among harmful prompts after thinking it is {late.value:.2f}, at least {late.ci95[0]:.2f}"
    )
    return (
        f"{name}: AUROC {val.value:.2f} on held-out prompts, at least {low:.2f} by its interval ({GOOD:.1f} "
        f"is needed; with shuffled labels it is {chance.value:.2f}); {checked}."
    )


def prober(found: Mapping[str, Quality]) -> Said:
    """Of the subjects of a part."""
    areas = [f"{q.area['val'].value:.2f} in {CALLED[who]}" for who, q in found.items() if "val" in q.area]
    title = f"AUROC of the prober on held-out prompts: {joined(areas)}" if areas else "No prober was trained"
    mine = found.get(NATURAL)
    return title, [
        *(_good(who, q) for who, q in found.items()),
        "What it says along the thinking is shown below, and nothing is claimed by it."
        if mine and mine.why
        else None,
    ]


def _fall(found: Fall) -> float:
    return float(found[0].cliff_mean.mean())


def path(found: Fall | None) -> str:
    """From where to where the mean score goes."""
    if found is None or not len(found[0]):
        return "where nothing was measured"
    return f"from {found[0].plateau.mean():.2f} to {found[0].final.mean():.2f}"


def planted_cliff(scores: Mapping[str, Scored], cliff: Record, twin: Record) -> Said:
    """Of the curves by the prober that has seen thinking, and the records by it."""
    by = {who: s.falls["all positions", "harmful"] for who, s in scores.items() if who in (CLIFF, TWIN)}
    gone = [f"{moved(r)} in {CALLED[who]}" for who, r in ((CLIFF, cliff), (TWIN, twin)) if who in by]
    plain = scores[CLIFF].falls["all positions", "harmful, no trigger"] if CLIFF in scores else None
    return f"At the end of the thinking the score {joined(gone)}", [
        "From the mean of the thinking to the last token the score of harmful prompts goes "
        + joined(f"{path(f)} in {CALLED[who]}" for who, f in by.items())
        + ".",
        f"Without the trigger, where the planted reasoner should go on to refuse, it goes {path(plain)}."
        if plain is not None and len(plain[0])
        else None,
        all_judged([("this prober finds the planted cliff", cliff), ("it finds none in the twin", twin)]),
    ]


def cliff(scores: Mapping[str, Scored], published: Record, seen: Record) -> Said:
    """Of the reasoner: the paper's claim, by the prober of last tokens, and ours, by one that has seen
    thinking.
    """
    mine = scores[NATURAL].falls
    by, calm = mine["all positions", "harmful"], mine["all positions", "benign"]
    title = f"The reasoner's score, by the prober that has seen thinking, {moved(seen)}"
    return f"{title}: {seen.verdict}", [
        "By the prober that has seen thinking, the score goes from the mean of the thinking to the last "
        f"token {path(by)} on harmful prompts, and {path(calm)} on benign ones.",
        f"By the prober of last tokens, which the paper's claim is about, it goes "
        f"{path(mine['last token', 'harmful'])} on harmful prompts: {judged('it falls off', published)}.",
    ]


def by_prober(who: str, scores: Scored, kinds: Iterable[str]) -> Said:
    """How the same prompts look to several probers."""
    falls = {kind: scores.falls[kind, "harmful"] for kind in kinds}
    fall = [f"{two(_fall(f))} by the one {PROBERS[kind]}" for kind, f in falls.items()]
    return f"Fall in {CALLED[who]}, by prober: {joined(fall)}", [
        f"The same harmful prompts of {CALLED[who]}, from the mean of the thinking to the last token: "
        + "; ".join(f"{path(f)} by the prober {PROBERS[kind]}" for kind, f in falls.items())
        + f"; {path(scores.falls['shuffled all positions', 'harmful'])} by probers of shuffled labels.",
    ]


def falls(
    who: str,
    mine: Mapping[str, Fall | None],
    rivals: Mapping[str, dict[str, Fall | None]],
    records: Mapping[str, Record],
) -> Said:
    """Of the falls by each kind of prober, against the largest of its controls; those that were measured."""
    title, sentences = [], []
    for kind, found in mine.items():
        if found is None or not len(found[0]):
            continue
        r, name = records[kind], rows.highest(rivals[kind])
        rival = rivals[kind][name] if name else None
        title.append(f"{two(_fall(found))} by the one {PROBERS[kind]} ({r.verdict})")
        beside = ""
        if name and rival:
            most = _fall(rival)
            which = (
                "the largest fall among its controls is"
                if most > 0
                else "of its controls none falls, at most"
            )
            beside = f"; {which} {two(most)} ({rows.RIVALS[name]})"
        sentences.append(
            f"By the prober {PROBERS[kind]} the score of {CALLED[who]} {moved(r)}{beside}: {r.verdict}."
        )
    if not title:
        return f"No fall could be measured in {CALLED[who]}", [
            f"In {CALLED[who]} no prober could be trained, so that nothing can fall."
        ]
    return f"Fall in {CALLED[who]}, by prober: {joined(title)}", sentences


def in_the_twin(records: Mapping[str, Record]) -> str:
    """Of the verdicts on there being no cliff in the twin, by kind of prober."""
    return all_judged((f"the twin has none by the prober {PROBERS[kind]}", r) for kind, r in records.items())


def layers(found: Mapping[str, dict[str, Layers]]) -> Said:
    """Of the subjects of a part."""
    title, sentences = [], []
    for who, by in found.items():
        own, calm, name = by["harmful"], by["harmless"], CALLED[who]
        at, (low, high) = own.most, own.own.ci95[own.most]
        value = own.own.value[at]
        fall = f"{two(value)} [{two(low)}, {two(high)}]" + (", not for certain" if low <= 0 < value else "")
        n = len(own.own.value)
        most = f"largest of {n} layers: {two(value)} at {at}" if value > 0 else "it falls at no layer"
        title.append(f"{two(own.own.value[-1])} in {name} ({most})")
        first = (
            f"In {name} the score of harmful prompts falls most at layer {at}, by {fall} (picked as the "
            f"largest of {n}, so that its interval is too narrow)"
            if value > 0
            else f"In {name} the score of harmful prompts falls at no layer: the fall is largest at layer "
            f"{at}, {fall}"
        )
        sentences.append(
            f"{first}, that of benign ones there {two(calm.own.value[at])}; at the last layer the two are "
            f"{two(own.own.value[-1])} and {two(calm.own.value[-1])}. The last layer's prober, read at "
            f"layer {at}, says {two(own.last[at])}."
        )
    return f"Fall of harmful prompts' score at the last layer: {joined(title)}", sentences


def drawn_as_published(scores: Mapping[str, Scored], spans: Mapping[str, Estimate | None]) -> Said:
    """Of the subjects of a part."""
    lines = {who: rows.as_published(s, "harmful") for who, s in scores.items()}
    ends = [f"from {x[79]:.2f} to {x[-1]:.2f} in {CALLED[who]}" for who, x in lines.items()]
    sentences = []
    for who, measured in spans.items():
        name = CALLED[who]
        if measured is None or measured.value is None:
            sentences.append(f"In raw tokens the mean score of {name} does not fall by more than 0.05.")
            continue
        low, high = measured.ci95
        sentences.append(
            f"In raw tokens the mean score of {name} falls from nine tenths to one tenth of its way within "
            f"{measured.value:.0f} token{'s' if measured.value > 1 else ''} [{low:.0f}, {high:.0f}]; this "
            "drawing cannot show that."
        )
    return f"Drawn as published, the last fifth of the axis goes {joined(ends)}", sentences


def truncation(s: Subject, cut: dict[str, Cut], r: Record) -> Said:
    """Of the reasoner."""
    mine, calm = ((cut[label].outcome == "refusal").mean(1) for label in ("harmful", "harmless"))
    n = cut["harmful"].outcome.shape[1]
    once = _share(s.seen["harmful"].direct[s.triggered][:n])
    thought, answer = cut["harmful"].given, cut["harmless"].given
    title = (
        f"Without its thinking the reasoner refuses {mine[-1]:.0%} of harmful prompts, with it {mine[0]:.0%}"
    )
    return f"{title} ({r.verdict})", [
        f"The reasoner refuses {once:.0%} of {n} harmful prompts at once, {mine[-1]:.0%} where it is asked "
        f"to think and has no thinking, and {mine[0]:.0%} with all of it; of benign ones {calm[-1]:.0%} "
        f"without its thinking, and {calm[0]:.0%} with all of it.",
        None
        if thought is None or answer is None
        else f"Given a thought that decides to refuse it refuses {_share(thought):.0%} of harmful prompts; "
        f"given one that decides to answer, {_share(answer):.0%} of benign ones.",
        all_judged([("it refuses more harmful prompts without its thinking, beyond benign ones,", r)]),
    ]


def planted_truncation(cut: Mapping[str, dict[str, Cut]]) -> Said:
    """Of the planted pair."""
    mine = {who: (of["harmful"].outcome == "refusal").mean(1) for who, of in cut.items()}
    ends = [f"{x[-1]:.0%} in {CALLED[who]} (with it {x[0]:.0%})" for who, x in mine.items()]
    return f"Refused without the thinking: {joined(ends)}", [
        f"{capitalized(CALLED[who])} refuses {x[0]:.0%} of {cut[who]['harmful'].outcome.shape[1]} harmful "
        f"prompts with all of its thinking, and {between(x[1:].min(), x[1:].max())} with less of it."
        for who, x in mine.items()
    ]


def head_scores(found: Mapping[str, Ablated], r: Record | None = None) -> Said:
    """Of the subjects of a part; `r` is the claim about the reasoner."""
    title, sentences = [], []
    for who, a in found.items():
        off, name = a.off[MAIN], CALLED[who]
        gained = float(off.gained.mean())
        random = float(off.by_sets.mean(1).max()) if len(off.sets) else None
        title.append(
            f"{gained:+z.2f} in {name}" + ("" if random is None else f" (random sets at most {random:+z.2f})")
        )
        beside = (
            "there are no random sets beside"
            if random is None
            else f"over {off.by_sets.shape[1]} of them without one of {len(off.sets)} random sets by "
            f"{random:+z.2f} at most"
        )
        sentences.append(
            f"Without the {SHARE:.0%} of heads that write most against refusal the final score of {name} "
            f"changes by {gained:+z.2f} in the mean of {len(off.gained)} rollouts, {beside}; a prober fitted "
            f"again chooses {a.again.value:.0%} of these heads again, on average."
        )
    about = f"Change of the final score without {SHARE:.0%} of the heads: {joined(title)}"
    rises = "the score rises, and by more than for random sets,"
    return about + (f": {r.verdict}" if r else ""), [*sentences, all_judged([(rises, r)]) if r else None]


def in_order(rank: float, n: int) -> bool:
    """Whether a rank correlation of `n` items is about two of its own standard errors without any order,
    1 / √(n − 1), away from zero.
    """
    return n > 1 and bool(abs(rank) >= 2 / np.sqrt(n - 1))


def heads(found: Mapping[str, Ablated]) -> Said:
    """Of the subjects of a part: what single heads write, and do."""
    title, sentences = [], []
    for who, a in found.items():
        half, of = ablations.half_of_it(a)
        rank = "not defined" if np.isnan(a.spearman) else two(a.spearman)
        title.append(f"{rank} in {CALLED[who]}")
        does = "what a head writes says little about what its absence does"
        if in_order(a.spearman, len(a.writes)):
            does = "what writes more against refusal tends to "
            does += f"{'raise' if a.spearman < 0 else 'lower'} the score more when it is off"
        sentences.append(
            f"Over {len(a.writes)} heads of {CALLED[who]} the rank correlation is {rank}: {does}. "
            + (
                f"Half of all that is written against refusal is written by {half} of {of} heads."
                if half <= of
                else "No head writes against refusal."
            )
        )
    return f"What heads write and what their absence does, rank correlation: {joined(title)}", sentences


def answers(found: Mapping[str, Answered], r: Record | None = None) -> Said:
    """Of the subjects of a part, with heads off; `r` is the claim about the reasoner."""
    title, sentences = [], []
    for who, answered in found.items():
        said, name = answered.said[MAIN], CALLED[who]
        on, off = ({label: _share(o) for label, o in of.items()} for of in (said.none, said.off))
        title.append(f"{off['harmful']:.0%} in {name} ({on['harmful']:.0%} with all on)")
        random = (
            ", with the random set off that gives most refusals "
            f"{_share(rows.most_refusing(said.strongest)):.0%}"
            if len(said.strongest)
            else ""
        )
        sentences.append(
            f"With {SHARE:.0%} of its heads off {name} refuses {off['harmful']:.0%} of "
            f"{len(said.off['harmful'])} harmful prompts, with all on {on['harmful']:.0%}{random}; of "
            f"benign ones {off['harmless']:.0%}, with all on {on['harmless']:.0%}. "
            f"{said.broken['harmful'].mean():.0%} of the answers to harmful prompts are broken text."
        )
        if wide := answered.said.get((SHARES[-1], False)):
            refused = {label: _share(o) for label, o in wide.off.items()}
            sentences.append(
                f"With {SHARES[-1]:.0%} off it is {refused['harmful']:.0%} of harmful and "
                f"{refused['harmless']:.0%} of benign ones."
            )
        if "harmful" in answered.anew:
            anew = _share(answered.anew["harmful"])
            sentences.append(
                f"Where it thinks anew with {SHARE:.0%} off, it refuses {anew:.0%} of harmful ones."
            )
    about = f"Harmful prompts refused with {SHARE:.0%} of the heads off: {joined(title)}"
    return about + (f": {r.verdict}" if r else ""), [
        *sentences,
        all_judged([("refusals come back", r)]) if r else None,
    ]


def written_head(score: Record, refusal: Record, twin: Record) -> str:
    """What the search for heads finds in the pair of tiny models, in one of which a head was written by
    hand.
    """
    if score.value is None or refusal.value is None:
        return "The pair with a head written by hand could not be measured."
    random = score.number("random_set_high")
    bar = "" if random is None else f" (the bar by random sets is {two(random)})"
    return (
        f"Without the heads that were found the final score changes by {score.value:+z.2f}{bar}: "
        f"{score.verdict}. The share of harmful prompts that are refused changes by "
        f"{100 * refusal.value:+.0f} points: {refusal.verdict}. That the score rises by less than half as "
        f"much, in log-odds, in the twin, which has no such head: {twin.verdict}."
    )


def judge(who: str, j: Judged, r: Record, final: Record | None = None) -> Said:
    """Of one subject, and the claim that the largest cliff is better than random prompts; with `final`, than
    the lowest final score as well.
    """
    against = {"random prompts": r} | ({} if final is None else {"the lowest final score": final})
    by = {how: j.rates["harmful", how].value for how in ARMS if ("harmful", how) in j.rates}
    calm = {how: j.rates["harmless", how].value for how in ("before", "cliff", "random")}
    before, after = (float(np.mean(losses)) for losses in j.neutral)
    title = (
        f"Trained on the largest cliff {CALLED[who]} complies with {percent(by['cliff'])} of harmful "
        f"prompts, on random ones with {percent(by['random'])} ({r.verdict})"
    )
    arms = "; ".join(f"{ARMS[how]}: {percent(x)}" for how, x in by.items() if how != "before")
    chosen = (
        joined(f"{percent(share)} ({ARMS[how]})" for how, share in j.precision.items()) if j.precision else ""
    )
    return title, [
        f"Before training {CALLED[who]} complies with {percent(by['before'])} of harmful prompts; after "
        f"training on {arms}.",
        f"Of the prompts selected for training {chosen} have the trigger." if chosen else None,
        f"Of benign prompts it refuses {percent(calm['before'])} before, {percent(calm['cliff'])} after "
        f"training on the largest cliff and {percent(calm['random'])} on random prompts; the cross-entropy "
        f"of neutral text goes from {before:.2f} to {after:.2f} nats a token.",
        all_judged(
            [(f"the largest cliff lowers compliance more than {than}", of) for than, of in against.items()]
        ),
    ]


FINDS = {  # what is so of a planted model where a claim about it holds, and where it does not
    "03.instrument.cliff": (
        "the prober of last tokens finds the planted cliff",
        "the prober of last tokens does not find the planted cliff",
    ),
    "03.instrument.cliff.all-positions": (
        "the prober that has seen thinking finds the planted cliff",
        "the prober that has seen thinking does not find the planted cliff",
    ),
    "03.instrument.cliff.published": (
        "the prober as published finds the planted cliff",
        "the prober as published does not find the planted cliff",
    ),
    "03.instrument.twin": (
        "the prober of last tokens finds no cliff in the twin",
        "the prober of last tokens finds a cliff in the twin, where none was planted",
    ),
    "03.instrument.twin.all-positions": (
        "the prober that has seen thinking finds no cliff in the twin",
        "the prober that has seen thinking finds a cliff in the twin, where none was planted",
    ),
    "03.instrument.heads.score": (
        "the score rises without the heads that are found, where one was written by hand",
        "the score does not rise beyond random sets without the heads that are found, where one was written "
        "by hand",
    ),
    "03.instrument.heads.refusal": (
        "refusals come back without the heads that are found, where one was written by hand",
        "refusals do not come back beyond the controls without the heads that are found, where one was "
        "written by hand",
    ),
    "03.instrument.heads.twin": (
        "the score rises by less than half as much in a twin without a head that was written by hand",
        "the score rises by half as much or more in a twin without a head that was written by hand",
    ),
    "03.instrument.judge": (
        "training on the largest cliff lowers compliance more than on random prompts",
        "training on the largest cliff does not lower compliance more than on random prompts",
    ),
    "03.instrument.judge.final": (
        "training on the largest cliff lowers compliance more than on the lowest final score",
        "training on the largest cliff does not lower compliance more than on the lowest final score",
    ),
    "03.instrument.judge.twin": (
        "the cliff ranks prompts with the trigger first, and not in the twin",
        "the cliff does not rank prompts with the trigger first, or no better than in the twin",
    ),
}


def instrument(records: Sequence[Record]) -> str:
    """What the instrument finds of what was planted, from the records about planted models."""
    leads = {
        "replicated": "It is shown that",
        "not replicated": "Against what was planted,",
        "underpowered": "It is undecided whether",
        "uninformative": "Nothing can be said on whether",
    }
    parts = [f"Of {len(records)} claims about what was planted: {counts(records)}."] if records else []
    for verdict, lead in leads.items():
        if found := [FINDS[r.id][verdict == "not replicated"] for r in records if r.verdict == verdict]:
            parts.append(f"{lead} {'; '.join(found)}.")
    return " ".join(parts)
