"""Which heads write against refusal, and what becomes of scores and answers without them (arXiv 2510.06036,
section 4).

Heads are chosen on rollouts behind the prober and tried on others. An effect counts against random sets with
as many heads in the same layers: all of these by the refusal score, which starts from stored states, and the
strongest of them by judged answers, on the prompts of the effect.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from refusal import data
from refusal.base.estimate import Estimate
from refusal.findings.f03 import observed
from refusal.measure import probes
from refusal.measure.attention_heads import last_scores, matched_sets, most_negative, silence, written
from refusal.measure.judge import BROKEN, judge
from refusal.measure.probes import Prober
from refusal.model.loading import Model
from refusal.model.registry import TINY, TINY_CLIFF
from refusal.model.tiny import HARM_LAYER, REFUSAL_LAYER
from refusal.trace.decode import generate
from refusal.trace.thinking import Rollout

ALONE = 2  # rollouts on which heads are switched off one by one
STRONGEST = 2  # random sets whose answers are judged
TRIED_ALONE = 10  # of the most negative heads, of the most positive ones, and at random

HARM_HEAD, REFUSAL_HEAD = (HARM_LAYER, 0), (REFUSAL_LAYER, 1)  # of the tiny models (`refusal.model.tiny`)
Heads = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Off:
    """The final refusal score with some heads off."""

    none: np.ndarray  # with all heads on, [rollout]
    off: np.ndarray  # with the chosen ones off, [rollout]
    by_sets: np.ndarray  # how random sets change it, [set, rollout]; on the first rollouts only
    sets: Sequence[Heads]

    @property
    def gained(self) -> np.ndarray:
        """How the chosen heads change it: [rollout]."""
        return self.off - self.none

    def strongest(self, n: int = STRONGEST) -> list[Heads]:
        """The random sets that raise the score most."""
        return [self.sets[k] for k in np.argsort(-self.by_sets.mean(1))[:n]] if len(self.sets) else []


def switched_off(
    model: Model,
    rollouts: Sequence[Rollout],
    prober: Prober,
    heads: Heads,
    n_sets: int,
    on: int,
    seed: int,
    rescale: bool = False,
    never: Heads = (),
) -> Off:
    """The final score of all `rollouts` without `heads`, and of the first `on` of them without each of
    `n_sets` random sets, as `matched_sets` draws them.
    """
    sets = matched_sets(heads, model.n_layers, model.n_heads, n_sets, seed, never)
    arms = [[], *(silence(each, rescale) for each in (heads, *sets))]
    none, off, *by_sets = last_scores(model, rollouts[:on], arms, prober).numpy()
    if len(rollouts) > on:
        rest = last_scores(model, rollouts[on:], arms[:2], prober).numpy()
        none, off = np.concatenate([none, rest[0]]), np.concatenate([off, rest[1]])
    return Off(none, off, np.reshape(by_sets, (len(sets), -1)) - none[:on], sets)


def alone(
    model: Model, rollouts: Sequence[Rollout], prober: Prober, effect: Tensor, seed: int
) -> tuple[list[float], list[float], float]:
    """What each of some heads writes, by how much the final score changes without it alone, and Spearman's
    correlation of the two.
    """
    order, rng = effect.flatten().argsort().tolist(), np.random.default_rng(seed)
    some = {
        *order[:TRIED_ALONE],
        *order[-TRIED_ALONE:],
        *rng.choice(len(order), min(TRIED_ALONE, len(order)), replace=False).tolist(),
    }
    heads = [divmod(k, model.n_heads) for k in sorted(some)]
    plain, *without = last_scores(
        model, rollouts[:ALONE], [[], *(silence([head], False) for head in heads)], prober
    )
    writes, moves = (
        [float(effect[head]) for head in heads],
        [float((score - plain).mean()) for score in without],
    )
    return writes, moves, float(spearmanr(writes, moves).statistic)


def by_refits(
    model: Model, z: Tensor, refits: Prober, share: float, rollouts: Sequence[Rollout]
) -> tuple[np.ndarray, np.ndarray]:
    """Final scores without and with heads off, by each prober fitted again, which chooses its own `share` of
    heads on `z`: both [refit, rollout].
    """
    others = [most_negative(written(model, z, w).mean(0), share) for w in refits.w]
    # [arm, rollout, refit]
    by_each = last_scores(model, rollouts, [[], *(silence(other, False) for other in others)], refits).numpy()
    return by_each[0].T, np.stack([by_each[1 + k, :, k] for k in range(len(others))])


def chosen_again(model: Model, z: Tensor, refits: Prober, first: Heads) -> Estimate:
    """Which share of the heads `first` each prober fitted again chooses as well: mean and range."""
    others = [
        most_negative(written(model, z, w).mean(0), len(first) / (model.n_layers * model.n_heads))
        for w in refits.w
    ]
    shares = [len({*first} & {*other}) / len(first) for other in others]
    return Estimate(float(np.mean(shares)), [min(shares), max(shares)], len(shares))


def long_answers(
    model: Model, rollouts: Sequence[Rollout], arms=((),), max_new_tokens: int = 12, whole: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    """The outcome of each answer by its first `max_new_tokens`, as `observed.answers` gives it, and whether
    it is broken by all of its `whole` tokens, for no fewer can show that: both [arm, rollout].
    """
    texts = generate(model, [r.prompt for r in rollouts], arms, max(whole, max_new_tokens), label="answering")
    begun = [[judge(_first_tokens(model, text, max_new_tokens)) for text in arm] for arm in texts]
    return np.array(begun), np.array([[judge(text) in BROKEN for text in arm] for arm in texts])


def _first_tokens(model: Model, text: str, n: int) -> str:
    """A text's first `n` tokens: greedy decoding would have said just these had it stopped there."""
    offsets = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: offsets[n - 1][1]] if len(offsets) > n else text


@dataclass(frozen=True)
class Spoken:
    """Answers with heads off: outcomes of harmful and of benign prompts, and which of them are broken."""

    none: dict[str, np.ndarray]  # label → outcomes with all heads on
    off: dict[str, np.ndarray]  # label → outcomes
    broken: dict[str, np.ndarray]  # label → which of those with heads off are broken
    strongest: np.ndarray  # outcomes of the harmful prompts under the strongest random sets, [set, prompt]


def spoken(
    model: Model,
    rollouts: dict[str, Sequence[Rollout]],
    none: dict[str, np.ndarray],
    heads: Heads,
    strongest: Sequence[Heads],
    max_new_tokens: int,
    whole: int,
    rescale: bool = False,
) -> Spoken:
    """What is answered after the same thinking with `heads` off; and with each of the `strongest` random sets
    off, after harmful prompts.
    """
    both = [r for label in rollouts for r in rollouts[label]]
    (outcome,), (broken,) = long_answers(model, both, [silence(heads, rescale)], max_new_tokens, whole)
    ends = np.cumsum([len(of) for of in rollouts.values()])[:-1]
    parts = [dict(zip(rollouts, np.split(values, ends), strict=True)) for values in (outcome, broken)]
    sets = [silence(each, rescale) for each in strongest]
    by_sets = (
        np.array(observed.answers(model, rollouts["harmful"], sets, max_new_tokens))
        if sets
        else np.zeros((0, len(rollouts["harmful"])), str)
    )
    return Spoken(none, *parts, by_sets)


SHARE = 0.03  # of all heads, as the paper reports


@dataclass(frozen=True)
class Planted:
    """What the instrument finds in a pair of tiny models, in one of which a head was written by hand that
    takes refusal back after thinking.
    """

    scores: Off
    # final scores by probers fitted again, without and with their own heads off: [refit, rollout]
    redrawn: tuple[np.ndarray, np.ndarray]
    twin: Off
    twin_redrawn: tuple[np.ndarray, np.ndarray]
    said: Spoken


def in_planted_pair(
    load: Callable, n_sets: int, seed: int, n: int = 40, max_new_tokens: int = 8, whole: int = 24
) -> Planted:
    """Choose heads in the tiny reasoner with the planted head and in its twin, as in any reasoner, and switch
    them off. `load` loads a model by name.

    Random sets are drawn from the heads that nothing was written into: the two that bring harm to refusal
    have a job of their own.
    """
    found = {}
    for name in (TINY_CLIFF, TINY):
        model = load(name)
        tables = [
            [
                data.prompts(
                    role, label=label, n=min(n, 32) if role == "prober" else n, seed=seed, tier="smoke"
                )
                for label in ("harmful", "harmless")
            ]
            for role in ("prober", "test")
        ]
        behind, tried = observed.observe(model, *tables, lambda _: {}, 12, max_new_tokens, seed)
        # it never refuses after thinking: only inside it can a prober of it have seen thinking
        training = observed.all_positions(*behind).at_the_top()
        prober, refits = probes.fit(training), probes.refitted(training, seed)
        z = behind[0].heads[np.flatnonzero(behind[0].direct == "refusal")]
        heads = most_negative(written(model, z, prober.w[-1]).mean(0), SHARE)
        rollouts = [tried[0].rollouts[i] for i in np.flatnonzero(tried[0].direct == "refusal")]
        off = switched_off(
            model, rollouts, prober, heads, n_sets, len(rollouts), seed, never=[HARM_HEAD, REFUSAL_HEAD]
        )
        found[name] = (off, by_refits(model, z, refits, SHARE, rollouts))
        if name == TINY_CLIFF:
            by_label = dict(zip(("harmful", "harmless"), tried, strict=True))
            said = spoken(
                model,
                {label: s.rollouts for label, s in by_label.items()},
                {label: s.thought for label, s in by_label.items()},
                heads,
                off.strongest(),
                max_new_tokens,
                whole,
            )
    return Planted(*found[TINY_CLIFF], *found[TINY], said)
