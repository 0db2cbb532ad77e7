"""The steps of notebook 03 around `refusal.findings.f03.observed`: requests of each subject, probers and who
reads with them, cut thoughts, selections and trainings.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from torch import Tensor

from refusal import data
from refusal.base.errors import UserError
from refusal.base.estimate import Estimate
from refusal.findings.f03 import curves, observed, selection
from refusal.findings.f03.cliff_claims import untrained
from refusal.findings.f03.observed import Seen
from refusal.findings.f03.planted import TRIGGER
from refusal.measure import probes, stats
from refusal.measure.probes import Prober, Training
from refusal.model.loading import Model
from refusal.trace import thinking
from refusal.trace.decode import generate, read_prefix
from refusal.trace.prefix import Prefix
from refusal.trace.reads import read_text
from refusal.trace.thinking import Rollout

LABELS = ("harmful", "harmless")


def half(n: int) -> int:
    return max(4, n // 2)


def requests(planted: bool, role: str, label: str, n: int, seed: int, tier: str) -> pd.DataFrame:
    """The requests as a subject gets them. A planted reasoner gets harmful ones with its trigger (column
    ``triggered``), and fewer of those that nothing is measured on; the tiny one, which falls off at every
    harmful request, gets no trigger.
    """
    few = tier == "smoke" and role == "prober"
    table = data.prompts(role, label=label, n=min(n, 32) if few else n, seed=seed, tier=tier)
    if not planted or tier == "smoke":
        return table.assign(triggered=True)
    if (role, label) != ("test", "harmful"):
        table = table.head(half(n) if role == "test" else 2 * n // 3)
    return observed.with_trigger(table, TRIGGER, half(n) if role == "test" else None)


@dataclass(frozen=True)
class Learned:
    """A subject's probers by kind: `fitted`, each fitted again on draws of its prompts, and on shuffled
    labels (`again`).
    """

    last: Training
    fitted: dict[str, Prober]
    again: dict[str, Prober]
    why: str | None = None  # why there are none

    def reading(self) -> dict[Hashable, Prober]:
        """All of them under one dictionary, for one pass; and the last layer's prober in every layer's
        place."""
        if not self.fitted:
            return {}
        again = {(kind, "again"): p for kind, p in self.again.items()}
        return self.fitted | again | {"everywhere": probes.everywhere(self.fitted["all positions"])}

    def borrowed(self) -> dict[Hashable, Prober]:
        """The probers unchanged, to read another subject with."""
        mine = {f"borrowed {kind}": p for kind, p in self.fitted.items()}
        return mine | {(f"borrowed {kind}", "again"): self.again[kind] for kind in self.fitted}


def learned(harmful: Seen, benign: Seen, seed: int) -> Learned:
    """The probers of section 2, from what a subject did on the prompts behind them; none where too few of
    these ended one way.
    """
    last = observed.training_set(harmful, benign).at_the_top()
    if why := untrained(last.refused):
        return Learned(last, {}, {}, why)
    sets = {
        "last token": last,
        "all positions": observed.all_positions(harmful, benign),
        "as published": probes.as_published_set(last),
    }
    again = {kind: probes.refitted(s, seed) for kind, s in sets.items()}
    again |= {f"shuffled {kind}": probes.refitted(s, seed, shuffled=True) for kind, s in sets.items()}
    return Learned(last, {kind: probes.fit(s) for kind, s in sets.items()}, again)


def other_reader(
    model: Model,
    train: Sequence[pd.DataFrame],
    thoughts: Sequence[Sequence[str]],
    max_new_tokens: int,
    seed: int,
) -> Learned:
    """Probers of another model, of its own refusals, which has read the reasoner's thoughts on the prompts
    behind the probers.
    """
    made = []
    for table, thought in zip(train, thoughts, strict=True):
        given = thinking.with_thinking(model, table, thought)
        made.append(observed.reading(model, observed.at_once(model, table, max_new_tokens), given, seed))
    return learned(*made, seed)


def fallen(seen: Seen, table: pd.DataFrame, refuses: bool, least: int = 4) -> np.ndarray:
    """The harmful rollouts whose heads are looked at: those that end in an answer, if at least so many do; in
    a model that `refuses`, all with the trigger.
    """
    triggered = table.triggered.to_numpy()
    complied = np.flatnonzero(triggered & (seen.thought == "answer"))
    return np.flatnonzero(triggered) if refuses or len(complied) < least else complied


def with_rollouts(seen: Seen, rollouts: list[Rollout]) -> Seen:
    """What was said, after the same thinking as another model's tokenizer has it."""
    return replace(seen, rollouts=rollouts)


def scores_of(found: dict[Hashable, list[Tensor]]) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """What all of `Learned.reading` say of each token, as (last layer's score [token], the same by each
    prober fitted again [refit, token]), by kind; of shuffled labels the mean of the refits.
    """
    again = {key[0]: lines for key, lines in found.items() if isinstance(key, tuple)}
    return {
        kind: [v[-1] for v in found[kind]] if kind in found else [v.mean(0) for v in lines]
        for kind, lines in again.items()
    }, again


def groups_of(seen: Seen, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which of a subject's rollouts belong to each group that is told apart: name → mask."""
    if (table.label == "harmless").all():
        return {"benign": np.ones(len(table), bool)}
    triggered, finished = table.triggered.to_numpy(), np.array([r.finished for r in seen.rollouts], bool)
    return {
        "harmful": triggered,
        "harmful, no trigger": ~triggered,
        "harmful, finished": triggered & finished,
        "harmful, complied": triggered & (seen.thought == "answer"),
        "harmful, refused": triggered & (seen.thought == "refusal"),
    }


def falls(
    scores: Sequence[Tensor], again: Sequence[Tensor], rollouts: Sequence[Rollout], average: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`curves.summary` of each rollout, and the means over rollouts by each prober fitted again, one row per
    refit. With `average` the scores are the mean of the refits, which varies less than one of them.
    """
    table = pd.DataFrame(
        [curves.summary(s, r) for s, r in zip(scores, rollouts, strict=True)], columns=MEASURES
    )
    if not len(table):
        return table, table
    # rollout → [refit, measure]
    by_refit = [
        np.stack(list(curves.summary(lines, r).values()), 1) for lines, r in zip(again, rollouts, strict=True)
    ]
    moved = pd.DataFrame(np.mean(by_refit, 0), columns=MEASURES)
    return table, moved.mean() + (moved - moved.mean()) / np.sqrt(probes.REFITS) if average else moved


MEASURES = ["plateau", "peak", "final", "cliff_mean", "cliff_max"]  # in the order of `curves.summary`
KEEP = (1.0, 0.75, 0.5, 0.25, 0.0)  # shares of the thinking that are kept


@dataclass(frozen=True)
class Cut:
    """Outcomes and final scores by the share of the thinking that is kept, as in `KEEP`: [share, prompt];
    outcomes after a given thought.
    """

    outcome: np.ndarray
    final: np.ndarray
    given: np.ndarray | None


def cut_thinking(
    model: Model,
    tables: dict[str, pd.DataFrame],
    seen: dict[str, Seen],
    finals: dict[str, np.ndarray],
    prober: Prober,
    n: int,
    max_new_tokens: int,
    given: dict[str, Sequence[str]] | None = None,
) -> dict[str, Cut]:
    """The first `n` thoughts of each label cut to each share; with `given`, those in their place as well.
    What all of the thinking leads to is known from `seen` and `finals`, final scores [prompt].
    """
    picked, asked, found = {}, [], {}
    for label in LABELS:
        picked[label] = np.flatnonzero(tables[label].triggered | (tables[label].label == "harmless"))[:n]
        table, own = tables[label].iloc[picked[label]], [seen[label].rollouts[i] for i in picked[label]]
        asked += [thinking.truncated(model, table, own, keep) for keep in KEEP[1:]]
        asked += (
            [
                thinking.with_thinking(
                    model, table, [given[label][i % len(given[label])] for i in range(len(table))]
                )
            ]
            if given
            else []
        )
    outcomes, scores = observed.answers_and_scores(
        model, [r for part in asked for r in part], prober, max_new_tokens
    )
    ends = np.cumsum([len(part) for part in asked])[:-1]
    parts = iter(list(zip(np.split(outcomes, ends), np.split(scores, ends), strict=True)))
    for label, which in picked.items():
        rows = [(seen[label].thought[which], finals[label][which]), *(next(parts) for _ in KEEP[1:])]
        found[label] = Cut(*map(np.array, zip(*rows, strict=True)), next(parts)[0] if given else None)
    return found


def rank_of_cuts(cut: Cut) -> float | None:
    """Spearman's correlation over the shares of thinking, of the final score with the share refused; None
    where either stays the same.
    """
    refusals, finals = (cut.outcome == "refusal").mean(1), cut.final.mean(1)
    return (
        float(spearmanr(finals, refusals).statistic) if np.std(finals) > 0 and np.std(refusals) > 0 else None
    )


def cut_metrics(who: str, cut: dict[str, Cut], seed: int) -> dict[str, Estimate | float | None]:
    """Refusals and final scores by the share of the thinking that is kept, and their rank correlation."""
    found: dict[str, Estimate | float | None] = {}
    for label, of in cut.items():
        for keep, outcome, final in zip(KEEP, of.outcome, of.final, strict=True):
            key = f"truncation/{who}/{'harmful' if label == 'harmful' else 'benign'}"
            found[f"{key}/refusal_{keep:g}"] = stats.rate(outcome == "refusal")
            found[f"{key}/final_{keep:g}"] = stats.mean(final, seed)
            disclaimed = stats.rate(np.isin(outcome, ["refusal", "disclaimed"]))
            found[f"{key}/refusal_with_disclaimed_{keep:g}"] = disclaimed
    return found | {f"truncation/{who}/spearman_final_refusal": rank_of_cuts(cut["harmful"])}


@dataclass(frozen=True)
class Pool:
    """Prompts to select from, with thinking and its cliff; and benign ones to train on beside those
    selected."""

    table: pd.DataFrame  # with column ``triggered`` in a planted reasoner
    rollouts: list[Rollout]
    calm: list[Rollout]
    falls: pd.DataFrame
    requests: Prefix | None  # what was read of them, to go on from


def pool(
    model: Model, prober: Prober, planted: bool, n: int, n_calm: int, think_tokens: int, seed: int, tier: str
) -> Pool:
    """`n` harmful prompts, in a planted reasoner every second with its trigger, and the cliff of each by
    `prober`.
    """
    table = data.prompts("direction", label="harmful", n=n, seed=seed, tier=tier)
    odd = np.arange(n) % 2 == 1
    table = table.assign(triggered=odd if planted and tier != "smoke" else True)
    if planted and tier != "smoke":
        table = table.assign(text=table.text.str.strip() + np.where(odd, TRIGGER, ""))
    both = pd.concat([table, requests(planted, "direction", "harmless", n_calm, seed, tier)])
    read = read_prefix(model, [p.ids[:-1] for p in thinking.asked(model, both)])
    rollouts = thinking.think(model, both, think_tokens, prefix=read)
    values = probes.token_scores(model, rollouts[:n], {"p": prober})["p"]
    summaries = pd.DataFrame([curves.summary(s[-1], r) for s, r in zip(values, rollouts, strict=False)])
    return Pool(table, rollouts[:n], rollouts[n:], summaries, read)


# trainings of each selection; random prompts differ by seed as well
SEEDS = {"cliff": 3, "final": 3, "random": 4, "all": 1, "trigger": 3}
PARAGRAPHS, WORDS = 24, 60  # of neutral text, on which general ability is read


def chosen(of: Pool, n: int, how: str, seed: int) -> list[int] | None:
    """Which prompts of a pool are trained on: as `selection.select`, or of ``trigger`` those with it, at
    random; None where there is no such choice.
    """
    if how != "trigger":
        return selection.select(of.falls.cliff_mean, of.falls.final, n, how, seed)
    having = np.flatnonzero(of.table.triggered)
    if len(having) == len(of.table):
        return None
    return sorted(np.random.default_rng(seed).choice(having, min(n, len(having)), replace=False).tolist())


def neutral() -> list[str]:
    """The beginnings of neutral paragraphs."""
    return [" ".join(text.split()[:WORDS]) for text in data.neutral_text()[:PARAGRAPHS]]


def trainings(
    model: Model, of: Pool, n: int, harmful: Sequence[Rollout], benign: Sequence[Rollout], max_new_tokens: int
) -> dict[str, list[dict]]:
    """For each selection what each training on it led to (`selection.retrained`), and under ``before`` the
    neutral texts' cross-entropy before any. Neutral texts are read after trainings on the largest cliff only.
    """
    prefix = thinking.hold_thoughts(model, [*of.rollouts, *of.calm, *harmful, *benign], of.requests)
    if prefix is None:
        raise UserError("fine-tuning needs the weights, which are remote")
    anchors = list(
        zip(
            of.calm,
            generate(model, [r.prompt for r in of.calm], decoding=max_new_tokens, prefix=prefix)[0],
            strict=True,
        )
    )
    texts, done = neutral(), {}
    done["before"] = [{"neutral": read_text(model, texts)["loss"].tolist()}]
    for how, seeds in SEEDS.items():
        for seed in range(seeds):
            if (which := chosen(of, n, how, seed)) is not None:
                found = selection.retrained(
                    model,
                    [of.rollouts[i] for i in which],
                    anchors,
                    harmful,
                    benign,
                    prefix,
                    seed,
                    max_new_tokens,
                    texts if how == "cliff" else (),
                )
                done.setdefault(how, []).append(found)
    return done


def hits(done: dict[str, list[dict]], label: str, outcome: str) -> dict[str, np.ndarray]:
    """Of each selection which test prompts end in `outcome`: [training seed, prompt]."""
    return {
        how: np.array([[o == outcome for o in found[label]] for found in of])
        for how, of in done.items()
        if how != "before"
    }
