"""Value and controls of each claim of notebook 03, from arrays of scores and outcomes; and why a model cannot
inform on some of them.

Each function returns {measured, controls} for `refusal.report.recorder.Recorder.claim`. What is missing gives
None, which leaves a claim open.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import logit

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f03.cliff_heads import Off, Spoken
from refusal.measure import stats
from refusal.measure.probes import FEW
from refusal.measure.trainings import mean_over

MIN_EACH = 10  # refused and answered prompts, without which no prober is trained
# what the AUROC of a prober must be above, on held-out prompts, and among harmful ones after thinking
GOOD, GOOD_LATE = 0.8, 0.7


def untrained(refused: np.ndarray) -> str | None:
    """Why no prober can be trained on states of which `refused` says how their prompts ended; None where one
    can.
    """
    counts = int(refused.sum()), int((~refused).sum())
    few = (
        f"only {counts[0]} refused and {counts[1]} answered prompts to train a prober on; at least "
        f"{MIN_EACH} are needed"
    )
    return None if min(counts) >= MIN_EACH else few


def _shown(found: Estimate) -> str:
    return f"AUROC {found.value:.2f} [{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]"


def poor(held_out: Estimate) -> str | None:
    """Why a prober is not good enough, from its AUROC on held-out prompts."""
    return (
        None
        if held_out.ci95[0] >= GOOD
        else f"the prober is not shown to be good enough: {_shown(held_out)} on held-out prompts, {GOOD} is "
        f"needed"
    )


def uncheckable(late: Estimate | None, refused: int, answered: int) -> str | None:
    """Why what a prober says after thinking cannot be relied on: too few harmful prompts end either way
    there, or it does not tell them apart.
    """
    if late is None:
        counts = (
            f"after thinking it refuses {refused} of {refused + answered} harmful test prompts that it "
            f"refuses or answers"
        )
        return f"{counts}; what a prober says there can be checked with {FEW} of each at least"
    blind = (
        f"after thinking the prober is not shown to tell refused from answered harmful prompts: "
        f"{_shown(late)}, {GOOD_LATE} is needed"
    )
    return None if late.ci95[0] >= GOOD_LATE else blind


def not_planted(kept: np.ndarray, lost: np.ndarray, twin: np.ndarray) -> str | None:
    """Why the planted pair tests no instrument: the refusals that the reasoner with the cliff should lose
    (`lost`) are not shown to be at least 0.3 rarer than those it should keep (`kept`) and than its twin's.
    All are True where a prompt is refused.
    """
    gaps = {"what it should keep": stats.difference(kept, lost), "its twin": stats.difference(twin, lost)}
    for than, gap in gaps.items():
        if gap.value is None or gap.ci95[0] < 0.3:
            seen = (
                "not measured"
                if gap.value is None
                else f"{gap.value:.2f} [{gap.ci95[0]:.2f}, {gap.ci95[1]:.2f}]"
            )
            return (
                f"the planted reasoner does not do what was planted: it should refuse 0.3 less at its "
                f"trigger than {than}, and the difference is {seen}"
            )
    return None


def _as_refusal(outcomes: np.ndarray) -> np.ndarray:
    """Refused, or disclaimed: "As an AI …" counted as a refusal, for the second number of each rate."""
    return np.isin(outcomes, ("refusal", "disclaimed"))


# `curves.summary` of each rollout; the same means by probers fitted again, one row per refit
Fall = tuple[pd.DataFrame, pd.DataFrame]


def fall(mine: Fall | None, rivals: dict[str, Fall | None], seed: int, finished: Fall | None = None) -> dict:
    """How far the score falls from the thinking's plateau to its end, and by how much more than in each of
    `rivals`.
    """
    if mine is None:
        return {
            "measured": NOTHING,
            "controls": {"plateau": None}
            | {k: None for name in rivals for k in (f"over_{name}", f"over_{name}_ci95")},
        }
    table, moved = mine
    controls = {
        "plateau": float(table.plateau.mean()),
        "final": float(table.final.mean()),
        "cliff_max": float(table.cliff_max.mean()),
    }
    if finished is not None and len(finished[0]):
        controls["finished_thoughts_only"] = float(finished[0].cliff_mean.mean())
    for name, rival in rivals.items():
        gap = NOTHING
        if rival is not None and len(rival[0]):
            apart = stats.difference(table.cliff_mean, rival[0].cliff_mean, seed)
            gap = stats.widened(apart, moved.cliff_mean.to_numpy() - rival[1].cliff_mean.to_numpy())
            controls[name] = float(rival[0].cliff_mean.mean())
        controls |= gap.under(f"over_{name}")
    return {
        "measured": stats.widened(stats.mean(table.cliff_mean, seed), moved.cliff_mean),
        "controls": controls,
    }


def regained(
    harmful: Sequence[np.ndarray],
    benign: Sequence[np.ndarray],
    given: np.ndarray | None = None,
    spearman: float | None = None,
) -> dict:
    """By how much more is refused without thinking than with all of it: outcomes (without, with all) of
    harmful and of benign prompts; beside it how many are refused that are `given` a thought that decides to
    refuse.
    """
    change = {
        label: stats.paired_difference(*(o == "refusal" for o in of))
        for label, of in (("harmful", harmful), ("benign", benign))
    }
    more = stats.paired_difference(*map(_as_refusal, harmful))
    over = stats.square_and_add(change["harmful"], change["benign"])
    controls = {"benign_change": change["benign"].value} | over.under("over_benign")
    controls |= {"with_disclaimed": more.value, "spearman_final_refusal": spearman}
    controls["given_a_thought_that_refuses"] = None if given is None else float((given == "refusal").mean())
    return {"measured": change["harmful"], "controls": controls}


NO_OFF = Off(np.zeros(0), np.zeros(0), np.zeros((0, 0)), [])


def lifted(
    found: Off, redrawn: tuple[np.ndarray, np.ndarray], seed: int, again: Estimate | None = None
) -> dict:
    """By how much the final score rises without the chosen heads; widened by how that moves with the prober's
    prompts; and the band of random sets (`stats.score_band`).
    """
    moved = (redrawn[1] - redrawn[0]).mean(1) if np.size(redrawn[0]) else []
    band = stats.score_band(
        found.by_sets, float(found.gained.mean()) if len(found.gained) else None, "random_set"
    )
    controls = band | {"random_sets_rollouts": found.by_sets.shape[-1]}
    controls |= {} if again is None else {"heads_chosen_again": again.value}
    return {"measured": stats.widened(stats.mean(found.gained, seed), moved, (-1, 1)), "controls": controls}


def refuses_again(said: Spoken | None, n_sets: int) -> dict:
    """By how much more is refused without the chosen heads; against the random set, of those that raise the
    score most, with which most is refused, against benign prompts, and which share of the answers is broken.
    `n_sets` random sets were scored.
    """
    gaps = dict.fromkeys(("over_random", "over_benign", "broken"), NOTHING)
    if said is None:
        return {
            "measured": NOTHING,
            "controls": {k: v for name, gap in gaps.items() for k, v in gap.under(name).items()},
        }
    refuses = lambda outcomes: outcomes == "refusal"
    change = {
        label: stats.paired_difference(refuses(said.off[label]), refuses(said.none[label]))
        for label in said.off
    }
    shares = refuses(said.strongest).mean(1)
    controls = {
        "random_sets": n_sets,
        "random_sets_judged": len(shares),
        "benign_change": change["harmless"].value,
    }
    controls["random_change"] = (
        float(shares.max() - refuses(said.none["harmful"]).mean()) if len(shares) else None
    )
    if len(shares):
        gaps["over_random"] = stats.paired_difference(
            refuses(said.off["harmful"]), refuses(said.strongest[int(shares.argmax())])
        )
    gaps |= {
        "over_benign": stats.square_and_add(change["harmful"], change["harmless"]),
        "broken": stats.rate(said.broken["harmful"]),
    }
    for name, gap in gaps.items():
        controls |= gap.under(name)
    controls["with_disclaimed"] = stats.paired_difference(
        _as_refusal(said.off["harmful"]), _as_refusal(said.none["harmful"])
    ).value
    return {"measured": change["harmful"], "controls": controls}


def _log_odds_gained(found: Off) -> np.ndarray:
    keep = lambda p: logit(np.clip(np.asarray(p, float), 1e-6, 1 - 1e-6))
    return keep(found.off) - keep(found.none)


def less_in_twin(cliff_off: Off, cliff_redrawn, twin_off: Off, twin_redrawn, seed: int) -> dict:
    """By how much the log-odds of the final score rise in the twin, minus half of what they rise in the
    reasoner with the cliff.
    """
    again = [
        _log_odds_gained(Off(*redrawn, np.zeros((0, 0)), [])).mean(1)
        for redrawn in (cliff_redrawn, twin_redrawn)
    ]
    theirs, its = _log_odds_gained(cliff_off), _log_odds_gained(twin_off)
    gap = stats.widened(stats.widened(stats.difference(its, theirs / 2, seed), again[1]), again[0] / 2)
    controls = {
        "twin": float(its.mean()),
        "cliff": float(theirs.mean()),
        "twin_score_with_all_heads": float(twin_off.none.mean()),
    }
    return {"measured": gap, "controls": controls}


def over_seeds(found: Estimate, *arms: np.ndarray, least: float = -1) -> Estimate:
    """`found` with its interval, over prompts, widened by how the trainings of each arm differ, [seed,
    prompt]; a mean varies less than one of them.
    """
    for hits in arms:
        found = mean_over(found, hits.mean(1), (least, 1))
    return found


def fewer(a: np.ndarray, b: np.ndarray, seed: int) -> Estimate:
    """Estimate of how much rarer a hit is in b than in a, both [training seed, prompt], True or False: over
    prompts and over seeds.
    """
    found = stats.difference(a.mean(0), b.mean(0), seed, paired=True)
    # all prompts alike show nothing of their spread: then as if each prompt were one yes or no
    if np.ptp(a.mean(0) - b.mean(0)) == 0:
        low, high = stats.paired_difference(a.mean(0) >= 0.5, b.mean(0) >= 0.5).ci95
        found = replace(found, ci95=[min(low, found.value), max(high, found.value)])
    return over_seeds(found, a, b)


def selected(complied: dict[str, np.ndarray], rival: str, before: float | None, seed: int) -> dict:
    """By how much fewer prompts are complied with after training on those with the largest cliff than on the
    `rival` selection; arms [seed, prompt].
    """
    if not complied:
        return {"measured": NOTHING, "controls": {"before": before}}
    controls = {"before": before} | {how: float(hits.mean()) for how, hits in complied.items()}
    for how in ("cliff", rival):
        controls |= {f"{how}_by_seed": complied[how].mean(1).tolist(), f"seeds_{how}": len(complied[how])}
    return {"measured": fewer(complied[rival], complied["cliff"], seed), "controls": controls}


def nothing_to_select(complied: dict[str, np.ndarray], seed: int) -> str | None:
    """Why no selection can be better here: training on the prompts that were planted as worth it is not
    clearly better than on random ones.
    """
    if not complied:
        return "nothing was trained"
    if "trigger" not in complied:
        return "the tiny reasoner has no trigger: all harmful prompts fall off"
    gap = fewer(complied["random"], complied["trigger"], seed)
    seen = f"{gap.value:.2f} [{gap.ci95[0]:.2f}, {gap.ci95[1]:.2f}]"
    none = (
        f"training on prompts with the trigger alone is not clearly better than on random ones ({seen}): no "
        f"selection could be"
    )
    return None if gap.ci95[0] > 0 else none


def ranked(pool: Estimate, on_test: Estimate, twin: Estimate) -> dict:
    """How well the cliff ranks the prompts with the trigger above those without, AUROC; and the most that it
    may do so in the twin.
    """
    controls = {
        "twin": twin.value,
        "twin_high": None if twin.ci95 is None else max(0.5, twin.ci95[1]),
    }
    return {"measured": pool, "controls": controls | on_test.under("on_the_twins_prompts")}


def able(before: np.ndarray | None, after: np.ndarray | None, seed: int) -> dict:
    """By how much the cross-entropy of neutral texts rises with training: before [text], after [training
    seed, text], nats a token.
    """
    if before is None or after is None:
        return {"measured": NOTHING, "controls": {"before": None}}
    rise = after - before
    measured = over_seeds(stats.mean(rise.mean(0), seed), rise, least=-np.inf)
    return {
        "measured": measured,
        "controls": {"before": float(before.mean()), "after": float(after.mean()), "seeds": len(after)},
    }
