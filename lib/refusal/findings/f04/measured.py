"""What notebook 04 asks of its numbers (arXiv 2505.20309), and what the ledger holds of each claim.

Rates come from who was refused, prompt by prompt; a difference between arms is paired over prompts, and its
band of random directions is that of the same difference.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f04.released import correlation
from refusal.measure import stats, tradeoff
from refusal.measure.judge import BROKEN
from refusal.measure.tradeoff import Curve
from refusal.measure.trainings import mean_over, of_one

LEAST, MOST = 0.05, 0.95  # a share of harmful prompts refused outside of which nothing can be raised
ACCEPTED = 20  # harmful prompts that are answered, at the least
Scores = tuple[np.ndarray, np.ndarray]  # of harmful and of harmless prompts


def cannot_steer(refused: np.ndarray, fewest: int = ACCEPTED) -> str | None:
    """Why nothing can be said of steering, from which harmful test prompts are refused; or None."""
    share, answered = float(np.mean(refused)), int((~refused).sum())
    if not LEAST <= share <= MOST:
        needed = f"{LEAST:.0%} to {MOST:.0%} are needed"
        return f"the model refuses {share:.0%} of {len(refused)} harmful prompts; {needed}"
    if answered < fewest:
        return f"only {answered} harmful test prompts are answered, at least {fewest} are needed"
    return None


def cannot_push(pushed: np.ndarray, random: Sequence[np.ndarray]) -> str | None:
    """Why the vector says nothing, from which of the answered harmful prompts the fixed push makes refused,
    and random directions as strong; or None.
    """
    high, lifted = stats.random_band(random)["random_direction_high"], float(np.mean(pushed))
    if high is None or lifted > high:
        return None
    return (
        f"this vector does not make this model refuse: pushed at full strength {lifted:.0%} of {len(pushed)} "
        f"answered harmful prompts are refused, along random directions up to {high:.0%}"
    )


def area(scores: Scores) -> Estimate:
    """The area under the ROC curve of a reader, of harmful against harmless prompts."""
    return stats.auroc(*scores)


def matched(scale: Scores, shuffled: Sequence[Scores], others: Mapping[str, Scores]) -> tuple[Estimate, dict]:
    """How well the scale ranks prompts of one form; beside it controllers taught shuffled labels, and other
    readers: (measured, controls).
    """
    by_chance = [area(s).value for s in shuffled]
    controls = {"shuffled_high": stats.high(by_chance), "shuffles": len(by_chance)}
    return area(scale), controls | {name: area(s).value for name, s in others.items()}


def out_of_format(
    matched_test: Scores, in_format: Scores, form_only: Scores, flagged: np.ndarray
) -> tuple[Estimate, dict]:
    """How well a scale that was taught on classes of different form ranks prompts of one form; beside it
    how well in its own format, what a reader of form alone has there, and the share of harmless requests in
    the harmful format whose scale is above ½: (measured, controls).
    """
    return area(matched_test), {
        "in_format": area(in_format).value,
        "form_only": area(form_only).value,
        "harmless_dialogues_flagged": stats.rate(flagged).value,
    }


def over_text(scale: Scores, reader: Scores, name: str) -> tuple[Estimate, dict]:
    """The scale's area minus that of the best reader of text: (measured, controls)."""
    controls = {"scale": area(scale).value, "best_reader": name, "reader": area(reader).value}
    return stats.auroc_difference(*scale, *reader), controls


def _hits(outcomes: Sequence[str]) -> np.ndarray:
    return np.array([o == "refusal" for o in outcomes], bool)


def raises(
    plain: Sequence[str],
    steered: Sequence[str],
    random: Sequence[np.ndarray],
    by_token: np.ndarray,
    judged: Mapping[int, Sequence[str]] | None = None,
    draws: Sequence[float] = (),
) -> tuple[Estimate, dict]:
    """By how much more harmful prompts are refused, from judged outcomes; beside it the same difference
    under random directions, by first tokens [direction][prompt] against `by_token` without a push, and by
    judged answers for those in `judged`; and how much more broken text there is. `draws` is the same
    difference, by first tokens, of controllers of several seeds at the strengths chosen for each:
    (measured, controls).
    """
    broken = [np.isin(said, BROKEN) for said in (steered, plain)]
    differences = [hits.astype(float) - by_token for hits in random]
    for k, said in (judged or {}).items():
        differences[k] = max(differences[k], _hits(said).astype(float) - _hits(plain), key=np.mean)
    controls = {
        "no_intervention": float(_hits(plain).mean()),
        "steered": float(_hits(steered).mean()),
        **stats.score_band(differences),
        "random_directions": len(random),
        **stats.paired_difference(*broken).under("degenerate_added"),
    }
    found, ends = over_controllers(stats.paired_difference(_hits(steered), _hits(plain)), draws)
    return found, controls | ends


def spares(
    plain: Mapping[str, Sequence[str]], steered: Mapping[str, Sequence[str]], draws: Sequence[float] = ()
) -> tuple[Estimate, dict]:
    """By how much more harmless and pseudo-harmful prompts are refused, from judged outcomes by group; each
    group's own difference beside it: (measured, controls).
    """
    both = [np.concatenate([_hits(arm[g]) for g in plain]) for arm in (steered, plain)]
    controls: dict = {"no_intervention": float(both[1].mean())}
    for g in plain:
        controls |= stats.paired_difference(_hits(steered[g]), _hits(plain[g])).under(g.replace("-", "_"))
    found, ends = over_controllers(stats.paired_difference(*both), draws)
    return found, controls | ends


def over_controllers(found: Estimate, draws: Sequence[float]) -> tuple[Estimate, dict]:
    """An estimate of the first controller, widened by how much that of others, which differ from it by
    their seed alone, varies (`draws`, its own among them; none leave it as it is); the controls say between
    which ends they lie.
    """
    if not draws:
        return found, {}
    ends = {"controllers": len(draws), "lowest_controller": min(draws), "highest_controller": max(draws)}
    return of_one(found, draws, (-1, 1)), ends


def gain(
    arms: Mapping[str, Curve], one: str, other: str, plain: Curve, seed: int, like: Sequence[Curve] = ()
) -> tuple[Estimate, dict]:
    """By how much more `one` refuses than `other` at equal cost, as a mean over it and the curves `like`
    it, those of controllers of other seeds; beside it the oracle gate and the share of what is possible:
    (measured, controls).
    """
    at = {name: tradeoff.equal_cost(arms[name], plain) for name in (other, "fixed push", "oracle")}
    each = [tradeoff.equal_cost(c, plain) for c in (arms[one], *like)]
    controls = {
        "no_intervention": float(plain.harmful.mean()),
        "arm": float(np.mean(each)),
        "other": at[other],
        "oracle": at["oracle"],
        "share_of_oracle": tradeoff.share_of_oracle(float(np.mean(each)), at["fixed push"], at["oracle"]),
    }
    draws = [x - at[other] for x in each]
    found = tradeoff.gain(arms[one], arms[other], plain, seed)
    if found.value is None:
        return found, controls
    moved = float(np.mean(draws)) - found.value  # the mean of all, with the first one's interval over prompts
    found = Estimate(found.value + moved, [x + moved for x in found.ci95], found.n)
    return mean_over(found, draws, (-1, 1)), controls | over_controllers(found, draws)[1]


def weights_gain(learned: np.ndarray, equal: np.ndarray, plain: np.ndarray) -> tuple[Estimate, dict]:
    """By how much more harmful prompts are refused under learned weights than under equal ones of the same
    mean, by first tokens: (measured, controls).
    """
    controls = {"learned": float(learned.mean()), "equal": float(equal.mean())}
    return stats.paired_difference(learned, equal), controls | {"no_intervention": float(plain.mean())}


def weights_learned(trained: Sequence[np.ndarray], untrained: Sequence[np.ndarray]) -> tuple[Estimate, dict]:
    """How alike the patterns over layers [layer] of controllers of several seeds are: the mean correlation
    over pairs of seeds, an interval over seeds, n the number of weights that are compared. Beside it
    that of untrained ones, and of each trained with its own beginning: (measured, controls).
    """
    r = lambda group: [correlation(a, b) for a, b in itertools.combinations(group, 2)]
    own = [correlation(a, b) for a, b in zip(trained, untrained, strict=True)]
    by_chance = r(untrained)
    controls = {
        "untrained_high": stats.high(by_chance),
        "init_r": float(np.mean(own)),
        "spread": float(np.ptp(np.mean(trained, 0))),
        "seeds": len(trained),
    }
    if len(trained) < 3:
        return NOTHING, controls
    return _over_seeds(trained, r), controls


def _over_seeds(trained: Sequence[np.ndarray], r) -> Estimate:
    """The mean correlation over pairs of seeds. Pairs share seeds: the variance of such a mean is at most
    2/k of one pair's (Hoeffding 1948), and Student's quantile is that of the k seeds.
    """
    k, pairs = len(trained), r(trained)
    value = float(np.mean(pairs))
    half = float(stats.t.ppf(0.975, k - 1) * np.sqrt(2 / k) * np.std(pairs, ddof=1))
    return Estimate(value, [max(-1.0, value - half), min(1.0, value + half)], k * len(trained[0]))


def acts(
    plain: np.ndarray, steered: np.ndarray, random: Sequence[np.ndarray], **more
) -> tuple[Estimate, dict]:
    """By how much more harmful prompts are refused as released, in one format, by first tokens: (measured,
    controls).
    """
    controls = {
        "no_intervention": float(plain.mean()),
        "steered": float(steered.mean()),
        **stats.score_band([hits.astype(float) - plain for hits in random]),
        "random_directions": len(random),
    }
    return stats.paired_difference(steered, plain), controls | more


def capability(plain: np.ndarray, pushed: np.ndarray, full: np.ndarray) -> tuple[Estimate, dict]:
    """By how much the cross-entropy of neutral text grows at a harmless prompt's scale, in nats per token
    [text]; beside it at full strength: (measured, controls).
    """
    return stats.mean(pushed - plain, shares=False), {
        "plain": float(np.mean(plain)),
        "full_strength": float(np.mean(full - plain)),
    }
