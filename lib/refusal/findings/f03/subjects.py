"""The models that notebook 03 is about, and what each of them did: a reasoner in which nothing was planted,
and the pair with a known answer.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.findings.f03 import cliff_claims, cliff_steps, observed
from refusal.findings.f03.cliff_steps import LABELS, Learned
from refusal.findings.f03.observed import Seen
from refusal.measure import probes, stats
from refusal.measure.probes import Prober, Training
from refusal.model.loading import Model

NATURAL, CLIFF, TWIN = "reasoner", "planted cliff", "planted twin"  # as metrics name them
CALLED = {NATURAL: "the reasoner", CLIFF: "the planted reasoner", TWIN: "its twin"}
SAID = {"harmful": "harmful", "harmless": "benign"}  # what metrics and figures call each label


def slug(words: str) -> str:
    """Words as a part of a metric's name."""
    return words.replace("%", "pct").replace(", ", "_").replace(" ", "_")


def one_at_a_time(load: Callable[[str], Model]) -> Callable[[str], Model]:
    """`load` by name, which lets go of one model before it loads another."""
    held: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in held:
            held.clear()
            held[name] = load(name)
        return held[name]

    return get


@dataclass(frozen=True)
class Subject:
    """One model, what it did, and the probers made of that; by label, ``harmful`` or ``harmless``."""

    who: str  # NATURAL, CLIFF or TWIN
    name: str  # of its model
    train: dict[str, pd.DataFrame]  # the prompts behind its probers
    test: dict[str, pd.DataFrame]
    learned: Learned
    reading: dict[Hashable, Prober]  # all probers that read its thinking, under one dictionary
    seen: dict[str, Seen]  # what it did on the test prompts
    tested: Training  # the same as a set on which probers are tried
    thoughts: list[list[str]]  # on the prompts behind the probers, in the order of LABELS
    behind: Tensor  # what the output projections read on harmful ones of these, [rollout, block, d_heads]

    @property
    def planted(self) -> bool:
        return self.who != NATURAL

    @property
    def triggered(self) -> np.ndarray:
        """Which harmful test prompts have the trigger; all, where there is none: [prompt]."""
        return self.test["harmful"].triggered.to_numpy()

    def asked(self, label: str) -> np.ndarray:
        """The test prompts of a label that effects are measured on: harmful ones with the trigger, all benign
        ones.
        """
        table = self.test[label]
        return np.flatnonzero((table.label == "harmless") | table.triggered)


def look(
    model: Model,
    who: str,
    n_train: int,
    n_test: int,
    think_tokens: int,
    max_new_tokens: int,
    seed: int,
    tier: str,
    beside: Subject | None = None,
) -> Subject:
    """Let a model answer at once and after thinking; its probers are made on the way, and read the thinking
    on test prompts. Those of the subject `beside` read it unchanged as well.
    """
    train, test = (
        {label: cliff_steps.requests(who != NATURAL, role, label, n, seed, tier) for label in LABELS}
        for role, n in (("prober", n_train), ("test", n_test))
    )
    made: list[Learned] = []
    reading: dict[Hashable, Prober] = {}

    def learn(behind: list[Seen]) -> dict[Hashable, Prober]:
        made.append(cliff_steps.learned(*behind, seed))
        reading.update(made[0].reading())
        if reading and beside is not None:
            reading.update(beside.learned.borrowed())
        return reading

    behind, tried = observed.observe(
        model, list(train.values()), list(test.values()), learn, think_tokens, max_new_tokens, seed
    )
    which = cliff_steps.fallen(behind[0], train["harmful"], who == TWIN)
    return Subject(
        who,
        model.name,
        train,
        test,
        made[0],
        reading,
        # without the residual stream, which is large
        {label: s.without_states() for label, s in zip(LABELS, tried, strict=True)},
        observed.training_set(*tried).at_the_top(),
        [[r.thinking for r in s.rollouts] for s in behind],
        behind[0].heads[which],
    )


def sizes(s: Subject) -> dict[str, int]:
    """How many prompts of each role and label a subject has, and how many states its prober is trained on."""
    parts = {"behind the probers": s.train, "test": s.test}
    counts = {
        f"{SAID[label]} prompts, {part}": len(of[label]) for part, of in parts.items() for label in LABELS
    }
    refused = s.learned.last.refused
    return counts | {"states, refused": int(refused.sum()), "states, answered": int((~refused).sum())}


def outcomes(s: Subject) -> Iterator[tuple[str, str, np.ndarray]]:
    """(group of test prompts, when it answers, the outcomes), for each group that has a prompt."""
    for label, seen in s.seen.items():
        triggered = s.test[label].triggered.to_numpy()
        for which, added in ((triggered, ""), (~triggered, ", no trigger")):
            for when, outcome in (("at once", seen.direct[which]), ("after thinking", seen.thought[which])):
                if len(outcome):
                    yield SAID[label] + added, when, outcome


def behaviour(s: Subject) -> dict[str, Estimate | float]:
    """Metrics of what a subject refuses and complies with, and of its thinking."""
    found: dict[str, Estimate | float] = {}
    for group, when, outcome in outcomes(s):
        key = f"{s.who}/{slug(group)}/{slug(when)}"
        found[f"refusal/{key}"] = stats.rate(outcome == "refusal")
        found[f"refusal/{key}_with_disclaimed"] = stats.rate(np.isin(outcome, ["refusal", "disclaimed"]))
        found[f"complies/{key}"] = stats.rate(outcome == "answer")
    rollouts = [r for seen in s.seen.values() for r in seen.rollouts]
    found[f"unfinished/{s.who}"] = stats.rate([not r.finished for r in rollouts])
    found[f"thinking_tokens/{s.who}"] = float(np.mean([r.stop - r.start for r in rollouts]))
    return found


def not_planted(cliff: Subject, twin: Subject, at_once: bool) -> str | None:
    """Why the planted pair tests no instrument (`cliff_claims.not_planted`). What the reasoner with the cliff
    should keep is what it refuses without the trigger; with `at_once`, for one that has no trigger, what it
    refuses at once.
    """
    seen = cliff.seen["harmful"]
    kept = seen.direct if at_once else seen.thought[~cliff.triggered]
    lost = [s.seen["harmful"].thought[s.triggered] == "refusal" for s in (cliff, twin)]
    return cliff_claims.not_planted(kept == "refusal", *lost)


@dataclass(frozen=True)
class Quality:
    """How good a subject's prober is, AUROC by what it is tried on; and why it cannot be used."""

    area: dict[str, Estimate]
    cannot: str | None = None  # there is none, or it is not good enough
    unchecked: str | None = None  # what it says after thinking could not be checked

    @property
    def why(self) -> str | None:
        """Why nothing can be claimed by what it says along the thinking; None where it can."""
        return self.cannot or self.unchecked


def quality(s: Subject, one_way: bool, seed: int) -> Quality:
    """Of the prober that is trained on last tokens. A subject that is made to end all its thinking in
    `one_way` need not be checked there: that is its known answer.
    """
    if s.learned.why:
        return Quality({}, s.learned.why)
    area = probes.prober_quality(s.learned.last, s.tested, seed)
    if why := cliff_claims.poor(area["val"]):
        return Quality(area, why)
    ended = s.seen["harmful"].thought
    counts = (ended == "refusal").sum(), (ended == "answer").sum()
    why = None if one_way else cliff_claims.uncheckable(area.get("late"), *counts)
    return Quality(area, unchecked=why)
