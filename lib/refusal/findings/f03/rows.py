"""Rows of the figures of notebook 03, of one subject each; the planted pair's stand in panels."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from refusal.base.estimate import Estimate
from refusal.findings.f03 import curves
from refusal.findings.f03.ablations import Ablated, Answered
from refusal.findings.f03.cliff_claims import Fall
from refusal.findings.f03.cliff_judge import ARMS, Judged
from refusal.findings.f03.cliff_steps import KEEP, LABELS, Cut
from refusal.findings.f03.scored import BEFORE, PROBERS, Layers, Scored
from refusal.findings.f03.subjects import CALLED, CLIFF, SAID, TWIN, Quality, Subject, outcomes
from refusal.measure import probes, stats
from refusal.measure.attention_heads import most_negative
from refusal.report.figures import curve, point

PANEL = {CLIFF: "planted reasoner: made to comply", TWIN: "its twin: made to refuse"}
TRIED_ON = {  # what a prober is tried on
    "val": "held-out prompts",
    "test": "test prompts",
    "harmful": "harmful test prompts",
    "late": "harmful, after thinking",
    "ood": "a source not trained on",
    "shuffled": "held-out, labels shuffled",
}
RIVALS = {  # what a fall must exceed
    "benign": "benign prompts",
    "no_trigger": "prompts without the trigger",
    "twin": "the twin by its own prober",
    "twin_by_the_same_prober": "the twin by the same prober",
    "shuffled": "probers of shuffled labels",
    "reader": "the other model",
}
HIGHEST = "highest control"  # the largest fall among the rivals
ROLE = {"harmful": "effect", "harmless": "control"}


def table(parts: Iterable[list[dict]]) -> pd.DataFrame:
    """The rows of several subjects as a figure's data."""
    return pd.DataFrame([row for part in parts for row in part])


def places(data: pd.DataFrame, claims: dict[str, dict]) -> dict[str, dict]:
    """Of claims with their places in a figure, {id: {column: value}}, those whose place is drawn."""
    return {
        id: place
        for id, place in claims.items()
        if np.logical_and.reduce([data[column] == value for column, value in place.items()]).any()
    }


def behaviour(s: Subject) -> list[dict]:
    """The share of refusals at once and after thinking, by group of prompts."""
    return [
        point(
            group,
            stats.rate(outcome == "refusal"),
            when,
            "control" if when == "at once" else "effect",
            PANEL.get(s.who),
        )
        for group, when, outcome in outcomes(s)
    ]


def prober(who: str, q: Quality) -> list[dict]:
    """AUROC by what the prober was tried on; shuffled labels are the control."""
    return [
        point(words, q.area[key], "labels shuffled", "control", PANEL.get(who))
        if key == "shuffled"
        else point(words, q.area[key], "prober", "effect", PANEL.get(who))
        for key, words in TRIED_ON.items()
        if key in q.area
    ]


def along(
    who: str, scores: Scored, kind: str, group: str, name: str, role: str, seed: int, of: Scored | None = None
) -> list[dict]:
    """The mean score in raw tokens, aligned where the thinking stops, as far as all rollouts of the subject
    go; none where fewer than five are of that group. With `of`, another model's reading of the same text.
    """
    found = (of or scores).lines.get((kind, group), [])
    if len(found) < probes.FEW:
        return []
    after = min(len(r.prompt.ids) - r.stop for rollouts in scores.rollouts.values() for r in rollouts)
    lines = curves.aligned(*zip(*found, strict=True), BEFORE, after)
    return curve(range(-BEFORE, after), curves.mean_curve(lines, seed), name, role, PANEL.get(who))


def by_group(who: str, scores: Scored, seed: int) -> list[dict]:
    """The curve of each group of prompts, by the prober that has seen thinking."""
    harmful = [f"harmful, {how}" for how in ("complied", "refused", "no trigger")]
    return [
        row
        for group in (*harmful, "benign")
        for row in along(
            who,
            scores,
            "all positions",
            group,
            group,
            "control" if group == "benign" else "effect",
            seed,
        )
    ]


def by_prober(who: str, scores: Scored, seed: int) -> list[dict]:
    """The curve of the same harmful prompts, by each prober; what has learned of another model, or nothing,
    is a control.
    """
    controls = {
        "borrowed all positions": "prober of the planted reasoner",
        "shuffled all positions": "probers of shuffled labels",
    }
    return [
        row
        for kind, name in ({kind: f"prober {of}" for kind, of in PROBERS.items()} | controls).items()
        for row in along(
            who, scores, kind, "harmful", name, "control" if kind in controls else "effect", seed
        )
    ]


def fallen(found: Fall, seed: int) -> Estimate:
    """The mean fall, its interval widened by the probers fitted again, as in the records."""
    table, moved = found
    return stats.widened(stats.mean(table.cliff_mean, seed), moved.cliff_mean)


def highest(rivals: dict[str, Fall | None]) -> str | None:
    """Which rival falls most; None where none was measured."""
    means = {name: f[0].cliff_mean.mean() for name, f in rivals.items() if f is not None and len(f[0])}
    return max(means, key=lambda name: means[name]) if means else None


def falls(who: str, kind: str, mine: Fall | None, rivals: dict[str, Fall | None], seed: int) -> list[dict]:
    """The fall by one kind of prober, and the largest fall of its controls."""
    if mine is None or not len(mine[0]):
        return []
    rows = [point(PROBERS[kind], fallen(mine, seed), "harmful", panel=PANEL.get(who))]
    if (name := highest(rivals)) is not None:
        rival = rivals[name]
        assert rival is not None
        rows.append(point(PROBERS[kind], fallen(rival, seed), HIGHEST, "control", PANEL.get(who)))
    return rows


def layers(who: str, found: dict[str, Layers]) -> list[dict]:
    """The fall at every layer, of harmful and of benign prompts; and as published, by the last layer's
    prober.
    """
    x, rows = range(len(found["harmful"].last)), []
    for label in LABELS:
        rows += curve(x, found[label].own, SAID[label], ROLE[label], PANEL.get(who))
    name = "harmful, last layer's prober"
    return rows + curve(x, found["harmful"].last.tolist(), name, "control", PANEL.get(who))


def as_published(scores: Scored, group: str) -> np.ndarray:
    """The authors' curve of a group, by the prober that has seen thinking."""
    return curves.as_published([s[r.start :] for s, r in scores.lines["all positions", group]])


def drawn_as_published(who: str, scores: Scored) -> list[dict]:
    return [
        row
        for label in LABELS
        for row in curve(
            range(1, 101),
            as_published(scores, SAID[label]).tolist(),
            SAID[label],
            ROLE[label],
            PANEL.get(who),
        )
    ]


def truncation(who: str, cut: dict[str, Cut], seed: int) -> list[dict]:
    """Refusals by how much of the thinking is kept; of the reasoner the final score as well."""
    rows, scored = [], "final score, by the prober of last tokens"
    for panel in [PANEL[who]] if who in PANEL else ["share refused", scored]:
        for label, found in cut.items():
            each = (
                [stats.mean(f, seed) for f in found.final]
                if panel == scored
                else [stats.rate(o == "refusal") for o in found.outcome]
            )
            for keep, m in zip(KEEP, each, strict=True):
                measured = Estimate([m.value], [m.ci95], m.n)
                rows += curve([100 * keep], measured, SAID[label], ROLE[label], panel)
    return rows


def head_scores(who: str, a: Ablated, seed: int) -> list[dict]:
    """How the final score changes without each share of the heads, against the mean and range of random
    sets; no norm brought back.
    """
    rows, panel, name = [], PANEL.get(who, CALLED[who]), f"{random_sets(a)} (range)"
    for (share, rescale), off in a.off.items():
        if rescale:
            continue
        rows.append(point(f"{share:.0%}", stats.mean(off.gained, seed), "most negative heads", panel=panel))
        by_set = off.by_sets.mean(1)
        if len(by_set):
            spread = Estimate(float(by_set.mean()), [float(by_set.min()), float(by_set.max())], len(by_set))
            rows.append(point(f"{share:.0%}", spread, name, "control", panel))
    return rows


def random_sets(a: Ablated) -> str:
    """What the random sets are: as many heads in the same layers, or, where the layers of a small model have
    too few other heads for that, as many from anywhere (`attention_heads.matched_sets`).
    """
    layers = lambda heads: sorted(layer for layer, _ in heads)
    matched = all(
        layers(each) == layers(most_negative(a.effect, share))
        for (share, _), off in a.off.items()
        for each in off.sets
    )
    return "random sets, same layers" if matched else "random sets, any layers"


def heads(who: str, a: Ablated) -> list[dict]:
    """What each head that was switched off alone writes, and what its absence does."""
    head = {"panel": PANEL[who]} if who in PANEL else {}
    return [
        head | {"series": "heads", "role": "effect", "x": x, "y": y}
        for x, y in zip(a.writes, a.moves, strict=True)
    ]


def answers(who: str, answered: Answered) -> list[dict]:
    """Refusals with all heads on and with shares of them off, and with the strongest random set off."""
    rows, arms = [], {share: said for (share, rescale), said in answered.said.items() if not rescale}
    for label in LABELS:
        each = {"all heads on": next(iter(arms.values())).none[label]}
        each |= {f"{share:.0%} off": said.off[label] for share, said in arms.items()}
        for group, outcome in each.items():
            r = stats.rate(outcome == "refusal")
            rows.append(point(group, r, SAID[label], ROLE[label], PANEL.get(who)))
    for share, said in arms.items():
        if len(said.strongest):
            r = stats.rate(most_refusing(said.strongest) == "refusal")
            rows.append(point(f"{share:.0%} off", r, "harmful, random set", "control", PANEL.get(who)))
    return rows


def most_refusing(sets: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Outcomes under that random set with which most is refused."""
    return max(sets, key=lambda outcome: (outcome == "refusal").mean())


def judge(j: Judged) -> list[dict]:
    """Compliance with harmful prompts and refusals of benign ones, before and after each training."""
    said = {"harmful": "harmful: complies", "harmless": "benign: refuses"}
    return [
        point(words, j.rates[label, how], said[label], ROLE[label])
        for how, words in ARMS.items()
        for label in LABELS
        if (label, how) in j.rates
    ]
