"""Cliff-as-a-Judge in the subjects of notebook 03: what is selected from a pool of prompts, and what training
on that does.
"""

from dataclasses import dataclass

import numpy as np

from refusal.base.estimate import Estimate
from refusal.findings.f03 import cliff_claims, cliff_steps
from refusal.findings.f03.cliff_steps import Pool, half
from refusal.findings.f03.scored import Scored, fall
from refusal.findings.f03.subjects import CLIFF, Subject
from refusal.measure import stats
from refusal.model.loading import Model

# arms of training, and in words on what
ARMS = {
    "before": "before training",
    "cliff": "largest cliff",
    "final": "lowest final score",
    "random": "random prompts",
    "all": "all prompts",
    "trigger": "trigger alone",
}
# what is counted: label of the test prompts, outcome, and its name in metrics
COUNTED = (("harmful", "answer", "asr"), ("harmless", "refusal", "benign_refusal"))


@dataclass(frozen=True)
class Judged:
    """What was selected, and what each training led to, by arm (`ARMS`)."""

    overlap: float  # share of the largest cliffs that are among the lowest final scores
    ranking: Estimate | None  # AUROC of the cliff for the trigger, in a pool that has both
    # of what was selected the share with the trigger, over all seeds that were trained with
    precision: dict[str, float]
    rates: dict[tuple[str, str], Estimate]  # (label, arm) → compliance with harmful, refusal of benign
    complied: dict[str, np.ndarray]  # after training: which harmful prompts, [seed, prompt]
    # cross-entropy of neutral texts before, [text], and after training on the largest cliff, [seed, text]
    neutral: tuple[np.ndarray, np.ndarray]


def picked(of: Pool, n: int) -> dict[str, list[list[int]]]:
    """Which prompts of a pool each selection trains on, by the seed of the training, as
    `cliff_steps.trainings` goes through them; only random ones differ between seeds.
    """
    arms = ("cliff", "final", "random")
    return {
        how: [cliff_steps.chosen(of, n, how, k) or [] for k in range(cliff_steps.SEEDS[how])] for how in arms
    }


def judged(
    model: Model,
    s: Subject,
    n_test: int,
    n_pool: int,
    n_select: int,
    think_tokens: int,
    max_new_tokens: int,
    seed: int,
    tier: str,
) -> Judged:
    """Select `n_select` of `n_pool` prompts by the prober that has seen thinking, train on them, and count on
    harmful test prompts with the trigger and half of `n_test` benign ones.
    """
    prober = s.learned.fitted["all positions"]
    of = cliff_steps.pool(model, prober, s.planted, n_pool, n_select, think_tokens, seed, tier)
    picks, has, falls = picked(of, n_select), of.table.triggered.to_numpy(), of.falls.cliff_mean
    ranking, precision = None, {}
    if not has.all():
        ranking = stats.auroc(falls[has], falls[~has], seed)
        precision = {how: float(np.mean([has[one].mean() for one in each])) for how, each in picks.items()}
    on = [s.seen["harmful"].rollouts[i] for i in np.flatnonzero(s.triggered)]
    calm = s.seen["harmless"].rollouts[: half(n_test)]
    done = cliff_steps.trainings(model, of, n_select, on, calm, max_new_tokens)
    before = {
        "harmful": s.seen["harmful"].thought[s.triggered],
        "harmless": s.seen["harmless"].thought[: half(n_test)],
    }
    rates, complied = {}, {}
    for label, outcome, _ in COUNTED:
        by_arm = cliff_steps.hits(done, label, outcome)
        rates[label, "before"] = stats.rate(before[label] == outcome)
        for how, hits in by_arm.items():
            rates[label, how] = cliff_claims.over_seeds(stats.mean(hits.mean(0), seed), hits, least=0)
        complied = by_arm if label == "harmful" else complied
    after = np.array([found["neutral"] for found in done["cliff"]])
    overlap = len(set(picks["cliff"][0]) & set(picks["final"][0])) / n_select
    return Judged(
        overlap, ranking, precision, rates, complied, (np.array(done["before"][0]["neutral"]), after)
    )


def metrics(who: str, j: Judged) -> dict[str, Estimate | float | list[float]]:
    prefix = "judge" if who == CLIFF else f"judge/{who}"
    found: dict[str, Estimate | float | list[float]] = {f"judge_overlap_cliff_final/{who}": j.overlap}
    if j.ranking is not None:
        found[f"judge_auroc_cliff/{who}"] = j.ranking
    for label, _, name in COUNTED:
        found |= {f"{prefix}_{how}_{name}": rate for (of, how), rate in j.rates.items() if of == label}
    return found | {f"{prefix}_neutral_loss": [float(np.mean(losses)) for losses in j.neutral]}


def ranked_on_test(scores: dict[str, Scored], who: str, seed: int) -> Estimate | None:
    """How well the cliff ranks test prompts with the trigger above those without, AUROC; None where there are
    no such prompts.
    """
    having, lacking = (
        fall(scores, who, "all positions", group) for group in ("harmful", "harmful, no trigger")
    )
    if having is None or lacking is None or not len(lacking[0]):
        return None
    return stats.auroc(having[0].cliff_mean, lacking[0].cliff_mean, seed)


def found_in(j: Judged | None, rival: str, seed: int) -> dict:
    """`cliff_claims.selected` of one subject, None where nothing was trained."""
    before = None if j is None else j.rates["harmful", "before"].value
    return cliff_claims.selected({} if j is None else j.complied, rival, before, seed)


def found_in_planted(j: Judged | None, rival: str, seed: int) -> dict:
    """The same; beside it which share of the selected prompts has the trigger, and how many benign prompts
    are refused.
    """
    found, arms = found_in(j, rival, seed), ("cliff", rival)
    beside = {f"precision_{how}": None if j is None else j.precision.get(how) for how in arms}
    for how in ("before", *arms):
        beside[f"{how}_refuses_benign"] = None if j is None else j.rates["harmless", how].value
    return found | {"controls": found["controls"] | beside}
