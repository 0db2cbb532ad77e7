"""Heads that write against refusal, switched off in the subjects of notebook 03: scores and answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.findings.f03 import cliff_heads, cliff_steps, observed
from refusal.findings.f03.cliff_heads import SHARE, Off, Spoken
from refusal.findings.f03.cliff_steps import LABELS
from refusal.findings.f03.subjects import CLIFF, NATURAL, SAID, TWIN, Subject, slug
from refusal.measure import stats
from refusal.measure.attention_heads import most_negative, silence, sparsity, written
from refusal.model.loading import Model
from refusal.trace.thinking import Rollout

SHARES = (0.01, SHARE, 0.1)  # of all heads, switched off together
# rollouts on which other shares than 3 % are tried, or the norm brought back; and those of random sets
BESIDE, FIRST = 3, 8
ANSWERS = 20  # prompts of each label that a reasoner in which nothing was planted answers with heads off
FEW_SETS = 5  # random sets where nothing is claimed
MAIN = (SHARE, False)  # the arm that claims are about
Arm = tuple[float, bool]  # the share of heads that is off, and whether the norm is brought back


@dataclass(frozen=True)
class Ablated:
    """What a subject's heads write, and its final score without the most negative ones."""

    effect: Tensor  # what each head writes along the prober's direction, [layer, head]
    writes: list[float]  # of the heads that were switched off one by one: the same
    moves: list[float]  # and how the final score changes without each
    spearman: float  # between the two
    again: Estimate  # which share of the chosen heads probers fitted again choose as well
    # final scores by probers fitted again, without and with their own heads off: [refit, rollout]
    redrawn: tuple[np.ndarray, np.ndarray]
    off: dict[Arm, Off]


def ablate(
    model: Model, s: Subject, informs: bool, n_prompts: int, n_random: int, seed: int
) -> Ablated | None:
    """Choose heads on the prompts behind the prober and switch them off on `n_prompts` test prompts, against
    `n_random` random sets; where the prober does not inform, on few of each. Of a reasoner that is not
    planted 3 % only, and without a GPU with no norm brought back. None where the weights are remote, which
    attribution needs.
    """
    if model.remote is True:
        return None
    prober, refits = s.learned.fitted["last token"], s.learned.again["last token"]
    which = cliff_steps.fallen(s.seen["harmful"], s.test["harmful"], s.who == TWIN)
    some = [s.seen["harmful"].rollouts[i] for i in which[: n_prompts if informs else FIRST]]
    effect = written(model, s.behind, prober.w[-1]).mean(0)
    causal = cliff_heads.alone(model, some, prober, effect, seed)
    again = cliff_heads.chosen_again(model, s.behind, refits, most_negative(effect, SHARE))
    redrawn = np.zeros((0, 0)), np.zeros((0, 0))
    if informs:
        redrawn = cliff_heads.by_refits(model, s.behind, refits, SHARE, some[:FIRST])
    both = s.who != NATURAL or model.device.type == "cuda"
    n_sets, off = n_random if informs else min(FEW_SETS, n_random), {}
    for share in SHARES if s.planted else (SHARE,):
        for rescale in (False, True) if both else (False,):
            on, heads = some if (share, rescale) == MAIN else some[:BESIDE], most_negative(effect, share)
            off[share, rescale] = cliff_heads.switched_off(
                model, on, prober, heads, n_sets, FIRST, seed, rescale
            )
    return Ablated(effect, *causal, again, redrawn, off)


def metrics(who: str, a: Ablated, seed: int) -> dict[str, Estimate | float | list[float]]:
    found: dict[str, Estimate | float | list[float]] = {}
    for (share, rescale), off in a.off.items():
        key = f"ablation_{100 * share:.0f}pct_score/{who}" + ("/rescaled" if rescale else "")
        found[key] = stats.mean(off.gained, seed)
        found[f"{key}/random_max"] = float(off.by_sets.mean(1).max())
    held = sparsity(a.effect)
    return found | {
        f"head_sparsity/{who}": held[: max(10, len(held) // 10)],
        f"attribution_vs_causal_spearman/{who}": a.spearman,
        f"heads_chosen_again/{who}": a.again,
    }


def half_of_it(a: Ablated) -> tuple[int, int]:
    """How many heads hold half of the negative attribution, and of how many."""
    held = sparsity(a.effect)
    return int(np.searchsorted(held, 0.5)) + 1, len(held)


@dataclass(frozen=True)
class Answered:
    """What a subject answers with heads off."""

    said: dict[Arm, Spoken]  # after the same thinking
    anew: dict[str, np.ndarray]  # by label: outcomes after thinking anew with the heads off; none for most


def answer(
    model: Model,
    s: Subject,
    a: Ablated,
    n: int,
    think_tokens: int,
    max_new_tokens: int,
    whole_tokens: int,
) -> Answered:
    """Answers of `n` test prompts of each label after the same thinking with the chosen heads off, and with
    the strongest random sets off; the planted reasoner with other shares too, and thinking anew.
    """
    which = {label: s.asked(label)[:n] for label in LABELS}
    rollouts: dict[str, Sequence[Rollout]] = {
        label: [s.seen[label].rollouts[i] for i in index] for label, index in which.items()
    }
    none = {label: s.seen[label].thought[index] for label, index in which.items()}
    said, anew = {}, {}
    for (share, rescale), off in a.off.items():
        if share == SHARE or s.who == CLIFF:
            heads, main = most_negative(a.effect, share), (share, rescale) == MAIN and s.who != TWIN
            strongest = off.strongest() if main else []
            said[share, rescale] = cliff_heads.spoken(
                model, rollouts, none, heads, strongest, max_new_tokens, whole_tokens, rescale
            )
    if s.who == CLIFF:  # every token of the thinking under the edits
        tables = [s.test[label].iloc[which[label]] for label in LABELS]
        edits = silence(most_negative(a.effect, SHARE), False)
        both = observed.think_under(model, pd.concat(tables), edits, think_tokens, max_new_tokens)
        anew = dict(zip(LABELS, np.split(both, [len(tables[0])]), strict=True))
    return Answered(said, anew)


def _rates(who: str, label: str, arm: str, outcome: np.ndarray) -> dict[str, Estimate]:
    refusal = "refusal" if label == "harmful" else "benign_refusal"
    disclaimed = stats.rate(np.isin(outcome, ["refusal", "disclaimed"]))
    return {
        f"ablation_{slug(arm)}_{refusal}/{who}": stats.rate(outcome == "refusal"),
        f"ablation_{slug(arm)}_refusal_with_disclaimed/{who}/{SAID[label]}": disclaimed,
    }


def answer_metrics(who: str, answered: Answered) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for (share, rescale), said in answered.said.items():
        arm = f"{share:.0%}{', rescaled' if rescale else ''}"
        for label in LABELS:
            found |= _rates(who, label, "0%", said.none[label]) | _rates(who, label, arm, said.off[label])
            found[f"ablation_{slug(arm)}_degenerate/{who}/{label}"] = stats.rate(said.broken[label])
    for label, outcome in answered.anew.items():
        found |= _rates(who, label, f"{SHARE:.0%}, thinking anew", outcome)
    return found
