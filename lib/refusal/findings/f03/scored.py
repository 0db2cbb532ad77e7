"""What the probers say at every token of the thinking, and how far each lets the score fall."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.findings.f03 import cliff_steps, curves
from refusal.findings.f03.cliff_claims import Fall
from refusal.findings.f03.cliff_steps import LABELS, MEASURES
from refusal.findings.f03.observed import Seen
from refusal.findings.f03.subjects import CLIFF, NATURAL, TWIN, Subject, slug
from refusal.measure import probes, stats
from refusal.model.loading import Model
from refusal.trace import thinking
from refusal.trace.thinking import Rollout

BEFORE = 20  # tokens of the thinking's end that curves show
READER = "reader"  # another model, which reads the reasoner's text
# kinds of prober, as words behind "the prober"
PROBERS = {
    "last token": "of last tokens",
    "all positions": "that has seen thinking",
    "as published": "as published",
}
# kinds that are asked of every subject, with the end of their claims' names; and of the planted reasoner
ASKED = {"last token": "", "all positions": ".all-positions"}
ASKED_OF_PLANTED = ASKED | {"as published": ".published"}


@dataclass(frozen=True)
class Scored:
    """Scores along the rollouts of a subject's test prompts, or of another model that reads these."""

    rollouts: dict[str, list[Rollout]]  # by label
    # (prober, group of prompts) → the last layer's score of each token, with its rollout
    lines: dict[tuple[str, str], list[tuple[Tensor, Rollout]]]
    falls: dict[tuple[str, str], Fall]
    finals: dict[str, np.ndarray]  # by label: of each rollout's last token, by the prober of last tokens
    each: dict[str, list[Tensor]]  # by label: [layer, token], each layer by its own prober
    same: dict[str, list[Tensor]]  # the same, every layer by the last one's


def scored(
    found: dict[str, dict[Hashable, list[Tensor]]], seen: dict[str, Seen], test: dict[str, pd.DataFrame]
) -> Scored:
    """Of all that the probers of `Learned.reading` found, by label and prober."""
    lines, falls, finals = {}, {}, {}
    for label, by in found.items():
        plain, again = cliff_steps.scores_of(by)
        finals[label] = np.array([float(s[-1]) for s in plain["last token"]])
        groups = cliff_steps.groups_of(seen[label], test[label])
        for kind, values in plain.items():
            for group, which in groups.items():
                index = np.flatnonzero(which)
                mine, its, rollouts = (
                    [of[i] for i in index] for of in (values, again[kind], seen[label].rollouts)
                )
                lines[kind, group] = list(zip(mine, rollouts, strict=True))
                falls[kind, group] = cliff_steps.falls(mine, its, rollouts, kind.startswith("shuffled"))
    each, same = (
        {label: by[name] for label, by in found.items()} for name in ("all positions", "everywhere")
    )
    return Scored({label: s.rollouts for label, s in seen.items()}, lines, falls, finals, each, same)


def by_its_own(s: Subject) -> Scored | None:
    """A subject's thinking by all the probers that it was read with; None where there are none."""
    if not s.learned.fitted:
        return None
    return scored({label: s.seen[label].scores(s.reading) for label in LABELS}, s.seen, s.test)


def by_another(model: Model, s: Subject, max_new_tokens: int, seed: int) -> tuple[Scored | None, str | None]:
    """A subject's own text, read by another model with probers of its own refusals; or why that has none."""
    train = [s.train[label] for label in LABELS]
    theirs = cliff_steps.other_reader(model, train, s.thoughts, max_new_tokens, seed)
    if not theirs.fitted:
        return None, theirs.why
    found, seen = {}, {}
    for label in LABELS:
        own = [r.thinking for r in s.seen[label].rollouts]
        read = thinking.with_thinking(model, s.test[label], own)
        found[label] = probes.token_scores(model, read, theirs.reading())
        seen[label] = cliff_steps.with_rollouts(s.seen[label], read)
    return scored(found, seen, s.test), None


def metrics(who: str, s: Scored, seed: int) -> dict[str, Estimate]:
    """Plateau, peak, final score and falls of each group by each prober; of few prompts a mean says
    nothing."""
    found = {}
    for (kind, group), (table, moved) in s.falls.items():
        where = "" if kind == "last token" else f"/{slug(kind)}"
        for name in MEASURES:
            values = table[name].tolist() if len(table) >= probes.FEW else []
            possible = (-1, 1) if name.startswith("cliff") else (0, 1)
            found[f"{name}/{who}/{slug(group)}{where}"] = stats.widened(
                stats.mean(values, seed), moved[name].tolist(), possible
            )
    return found


def fall(scores: dict[str, Scored], who: str, kind: str, group: str) -> Fall | None:
    """How far a group's score falls in a subject by one kind of prober; None where it was not measured."""
    return scores[who].falls.get((kind, group)) if who in scores else None


def rivals_of_the_reasoner(scores: dict[str, Scored], kind: str) -> dict[str, Fall | None]:
    """What the reasoner's fall on harmful prompts must exceed: benign prompts, shuffled labels, another
    reader.
    """
    return {
        "benign": fall(scores, NATURAL, kind, "benign"),
        "shuffled": fall(scores, NATURAL, f"shuffled {kind}", "harmful"),
        "reader": fall(scores, READER, kind, "harmful"),
    }


def rivals_of_the_planted(scores: dict[str, Scored], kind: str, trigger: bool) -> dict[str, Fall | None]:
    """What the planted fall must exceed: benign prompts, those without the `trigger` where there is one, the
    twin by its own prober and by the same one, shuffled labels.
    """
    found = {"benign": fall(scores, CLIFF, kind, "benign")}
    if trigger:
        found["no_trigger"] = fall(scores, CLIFF, kind, "harmful, no trigger")
    return found | {
        "twin": fall(scores, TWIN, kind, "harmful"),
        "twin_by_the_same_prober": fall(scores, TWIN, f"borrowed {kind}", "harmful"),
        "shuffled": fall(scores, CLIFF, f"shuffled {kind}", "harmful"),
    }


@dataclass(frozen=True)
class Layers:
    """The fall at every layer: each by its own prober; and its mean by the last layer's, as published."""

    own: Estimate
    last: np.ndarray

    @property
    def most(self) -> int:
        """The layer at which it falls most by its own prober."""
        return int(np.argmax(self.own.value))


def by_layer(s: Subject, scores: Scored, seed: int) -> dict[str, Layers]:
    """By label, of the prober that has seen thinking."""
    found = {}
    for label in LABELS:
        own, last = (
            np.array(
                [
                    curves.summary(lines[label][i], scores.rollouts[label][i])["cliff_mean"]
                    for i in s.asked(label)
                ]
            )  # [rollout, layer]
            for lines in (scores.each, scores.same)
        )
        found[label] = Layers(stats.mean(own, seed), last.mean(0))
    return found


def span(scores: Scored, seed: int) -> Estimate | None:
    """Within how many tokens the harmful prompts' mean score falls (`curves.drop_span`); None without a
    fall.
    """
    values, rollouts = zip(*scores.lines["all positions", "harmful"], strict=True)
    lines = curves.aligned(values, rollouts, BEFORE)
    if curves.drop_span(curves.mean_line(lines), BEFORE) is None:
        return None
    return stats.bootstrap(
        lambda x: curves.drop_span(curves.mean_line(x), BEFORE) or np.nan, lines, seed=seed
    )
