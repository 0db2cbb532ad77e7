"""The truth direction: what separates true from false statements, across data sets and models (arXiv
2504.02904, section 4).

Activations are those of a statement's last token, [statement, layer, d_model]; `sets` names each statement's
data set. A direction is made of all sets but one and tested on that one. Two pairs of statements in a row
exchange their subjects; such a `group` stays together wherever statements are split, drawn or given other
labels.

A direction that reads whether subject and object go together passes for truth until statements are negated:
so negated sets are asked for themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f01.pairs import moved_by, ratio_of_means
from refusal.measure import stats
from refusal.measure.directions import centred, difference_of_means
from refusal.measure.patching import QUESTION, shot_lines, token_span, verdict_tokens
from refusal.measure.readouts import keyed
from refusal.model.loading import Model
from refusal.trace.edits import Add, Edit
from refusal.trace.prompts import Prompt, plain
from refusal.trace.reads import collect, score

# sets that say the opposite of another, with every label turned round
NEGATED = {"neg_cities": "cities", "smaller_than": "larger_than"}
PERMUTATIONS = 200
Hits = Bool[np.ndarray, "statement layer"]


def groups_of(sets: ArrayLike, pair_of: ArrayLike) -> Int[np.ndarray, "statement"]:
    """The number of each statement's group: two pairs of one set, in the order in which
    `refusal.data.statement_sets.statements` gives them.
    """
    sets, pair_of, found, first = (
        np.asarray(sets),
        np.asarray(pair_of),
        np.zeros(len(np.asarray(sets)), int),
        0,
    )
    for name in dict.fromkeys(sets):
        order = {pair: first + k // 2 for k, pair in enumerate(dict.fromkeys(pair_of[sets == name]))}
        found[sets == name] = [order[pair] for pair in pair_of[sets == name]]
        first = max(order.values()) + 1
    return found


def chooses(sets: ArrayLike, group: ArrayLike) -> Bool[np.ndarray, "statement"]:
    """Which statements choose a layer, every other group of each set; the rest are for testing."""
    sets, group, found = np.asarray(sets), np.asarray(group), np.zeros(len(np.asarray(sets)), bool)
    for name in np.unique(sets):
        found |= (sets == name) & np.isin(group, np.unique(group[sets == name])[::2])
    return found


def direction(
    acts: Float[Tensor, "statement *rest"], label: Bool[np.ndarray, "statement"], sets: ArrayLike
) -> Float[Tensor, "*rest"]:
    """mean(true) − mean(false) over all data sets, each centred on its own mean."""
    label = np.asarray(label, bool)
    return difference_of_means(centred(acts, sets), label, ~label)


def transfer_hits(
    states: Mapping[str, Tensor], label: ArrayLike, sets: ArrayLike
) -> dict[tuple[str, str, str, str], Hits]:
    """Which statements the direction of model i, from all other sets, judges rightly in model j: {(centre,
    set, i, j): [statement of set, layer]}.

    Centre ``own``: the tested set is centred on its own mean, as in the paper, which hides an offset between
    models and between sets; ``training``: on the mean of the training statements in model i.
    """
    label, sets, found = np.asarray(label, bool), np.asarray(sets), {}
    flat = {name: centred(x, sets) for name, x in states.items()}
    for name in np.unique(sets):
        inside = sets == name
        for i, x in states.items():
            v = difference_of_means(flat[i][~inside], label[~inside], ~label[~inside])  # [layer, d_model]
            middle = x[~inside].mean(0, dtype=torch.float64).float()
            for j, y in states.items():
                for centre, tested in (("own", flat[j][inside]), ("training", y[inside] - middle)):
                    found[centre, name, i, j] = ((tested * v).sum(-1) > 0).numpy() == label[inside][:, None]
    return found


def best_layer(accuracy: Sequence[Hits]) -> int:
    """The layer at which the least accurate of several models is most accurate."""
    return int(np.min([hits.mean(0) for hits in accuracy], axis=0).argmax())


def cross_fitted(
    hits: Hits, layers: tuple[int, int], chosen_by: Bool[np.ndarray, "statement"]
) -> Bool[np.ndarray, "statement"]:
    """Each statement at the layer that the other half of the statements chose: `layers` are what those in
    `chosen_by` chose, and the rest.
    """
    return np.where(chosen_by, hits[:, layers[1]], hits[:, layers[0]])


def permuted_maxima(
    acts: Tensor,
    label: ArrayLike,
    sets: ArrayLike,
    group: np.ndarray,
    name: str,
    seed: int = 0,
    draws: int = PERMUTATIONS,
) -> np.ndarray:
    """The largest accuracy over layers on data set `name` when the labels mean nothing: those of each group
    turned round or not by chance, in all sets, and the direction made anew: [draw].
    """
    label, sets, rng = np.asarray(label, bool), np.asarray(sets), np.random.default_rng(seed)
    # [draw, statement]
    sign = rng.choice([-1, 1], (draws, group.max() + 1))[:, group] * np.where(label, 1, -1)
    inside, flat = sets == name, centred(acts, sets)
    others = sign[:, ~inside]
    weight = torch.from_numpy(
        np.where(others > 0, 1 / (others > 0).sum(1, keepdims=True), -1 / (others < 0).sum(1, keepdims=True))
    ).float()
    best = np.zeros(draws)
    for layer in range(acts.shape[1]):
        projected = flat[inside, layer] @ (weight @ flat[~inside, layer]).T  # [statement, draw]
        best = np.maximum(best, ((projected.T.numpy() > 0) == (sign[:, inside] > 0)).mean(1))
    return best


def over_groups(
    statistic: Callable, values: Sequence[ArrayLike], group: ArrayLike, seed: int = 0
) -> np.ndarray:
    """`statistic` of the means of several values of the same statements, with groups of statements drawn
    anew: [draw].
    """
    names, number = np.unique(np.asarray(group), return_inverse=True)
    sums = np.stack([np.bincount(number, np.asarray(v, float)) for v in values])  # [value, group]
    sizes = np.bincount(number)
    times = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), stats.BOOTSTRAPS
    )
    return statistic(*((times @ s) / (times @ sizes) for s in sums))


def _hull(found: Estimate, draws: np.ndarray, group: ArrayLike) -> Estimate:
    """The interval of independent items widened to hold that of groups, which has no width where all items
    agree.
    """
    groups = len(np.unique(np.asarray(group)))
    low, high = np.percentile(draws, stats.percentiles(groups))
    return replace(found, ci95=[min(found.ci95[0], float(low)), max(found.ci95[1], float(high))])


def accuracy(hits: ArrayLike, group: ArrayLike, seed: int = 0) -> Estimate:
    """Estimate of a share right; the interval holds Wilson's and the one over groups."""
    return (
        _hull(stats.rate(hits), over_groups(lambda x: x, [hits], group, seed), group)
        if np.size(hits)
        else NOTHING
    )


def lost(crossed: ArrayLike, own: ArrayLike, group: ArrayLike, seed: int = 0) -> Estimate:
    """Estimate of the share right with another model's direction minus with the own one; the interval holds
    the paired one and that over groups.
    """
    if not np.size(crossed):
        return NOTHING
    return _hull(
        stats.difference(crossed, own, seed, paired=True),
        over_groups(lambda x, y: x - y, [crossed, own], group, seed),
        group,
    )


class Read:
    """What directions from all other sets read on one data set, with layers chosen on other statements than
    each is tested on.
    """

    def __init__(
        self,
        hits,
        maxima: Mapping[str, np.ndarray],
        name: str,
        group: np.ndarray,
        chosen_by: np.ndarray,
        layers: tuple[int, int],
        seed: int = 0,
    ):
        """`hits` as by `transfer_hits`, `maxima` those of `permuted_maxima` by model; `group` and `chosen_by`
        of the set's own statements; `layers` as for `cross_fitted`.
        """
        models = list(maxima)
        self.name, self.group, self.seed, self.layers = name, group, seed, layers
        self.by = {key: cross_fitted(h, self.layers, chosen_by) for key, h in hits.items() if key[1] == name}
        self.permuted = {m: float(np.percentile(maxima[m], 97.5)) for m in models}

    def hits(self, i: str, j: str, centre: str = "own") -> Bool[np.ndarray, "statement"]:
        """Which statements the direction of model i judges rightly in model j."""
        return self.by[centre, self.name, i, j]

    def share(self, i: str, j: str, centre: str = "own") -> Estimate:
        """Estimate of `hits`."""
        return accuracy(self.hits(i, j, centre), self.group, self.seed)

    def clear(self, model: str) -> bool:
        """Whether the model's own direction is right more often than the best layer is when labels mean
        nothing.
        """
        return self.share(model, model).ci95[0] > self.permuted[model]

    def reads(self, change: float | None) -> tuple[Estimate, dict]:
        """(measured, controls): the share right in the post-trained model, with that of the base model beside
        it.
        """
        base = self.share("base", "base")
        controls = {
            "same_model": base.value,
            **moved_by(change),
            **base.under("own_base"),
            "permuted_max": self.permuted["post"],
            "permuted_max_base": self.permuted["base"],
            "centred_on_training": self.share("post", "post", "training").value,
        }
        return self.share("post", "post"), controls

    def transfers(self, i: str, j: str, change: float | None) -> tuple[Estimate, dict]:
        """(measured, controls): what is lost when model j is read with the direction of model i."""
        own, crossed = self.share(j, j), self.share(i, j)
        level = lost(self.hits(i, j, "training"), self.hits(j, j, "training"), self.group, self.seed)
        controls = {
            "same_model": lost(self.hits(j, j), self.hits(j, j), self.group).value,
            **moved_by(change),
            "own": own.value,
            "crossed": crossed.value,
            "permuted_max": self.permuted[j],
            **level.under("lost_centred_on_training"),
        }
        return lost(self.hits(i, j), self.hits(j, j), self.group, self.seed), controls

    def unclear(self, *models: str) -> str | None:
        """Why transfer cannot be judged on this set: an own direction that reads nothing has nothing to
        lose."""
        for m in models:
            if not self.clear(m):
                return (
                    f"{m}'s own direction is right in {self.share(m, m).value:.2f} of {self.name}, not "
                    f"clearly above {self.permuted[m]:.2f} by chance"
                )
        return None


def read_sets(
    states: Mapping[str, Tensor],
    label: ArrayLike,
    sets: ArrayLike,
    group: np.ndarray,
    names: Sequence[str],
    seed: int = 0,
) -> dict[str, Read]:
    """A `Read` of each data set of `names`. A negated set is read at the layers that its affirmed set chose:
    at layers of its own choice, where the direction reads nothing, it would hide that elsewhere it is read
    the wrong way round.
    """
    sets, chosen_by, hits, found = (
        np.asarray(sets),
        chooses(sets, group),
        transfer_hits(states, label, sets),
        {},
    )
    for name in names:
        mine, affirmed = sets == name, NEGATED.get(name, name)
        halves = (chosen_by[sets == affirmed], ~chosen_by[sets == affirmed])
        first, second = (best_layer([hits["own", affirmed, m, m][half] for m in states]) for half in halves)
        maxima = {m: permuted_maxima(x, label, sets, group, name, seed) for m, x in states.items()}
        found[name] = Read(hits, maxima, name, group[mine], chosen_by[mine], (first, second), seed)
    return found


def no_truth(reads: Mapping[str, Read], known: Mapping[str, str | None], models: Sequence[str]) -> str | None:
    """Why what the directions read cannot be called truth, or None. `known` says of each set why its facts
    are not known to the models.

    Truth is read where affirmed statements are, and their negations as well.
    """
    asked = [name for name in reads if known[name] is None]
    clear = {name: all(reads[name].clear(m) for m in models) for name in asked}
    if not any(ok for name, ok in clear.items() if name not in NEGATED):
        return (
            "the directions were shown to tell true from false on no unseen set of affirmed statements whose "
            "facts the models know"
        )
    denied = [name for name in asked if name in NEGATED]
    if not denied:
        return (
            "the models do not know the facts of any negated set, and without one truth cannot be told from "
            "subject and object going together"
        )
    for name in denied:
        if not clear[name]:
            own = {m: reads[name].share(m, m) for m in models}
            worst = min(models, key=lambda m: own[m].ci95[0] - reads[name].permuted[m])
            return (
                f"what is read is not shown to be truth: {worst}'s direction is right in "
                f"{own[worst].value:.2f} of {name}, not clearly above {reads[name].permuted[worst]:.2f} by "
                f"chance; in its false statements subject and object go together"
            )
    return None


def shifts(vectors: Mapping[int, Tensor], span: tuple[int, ...], sign: float) -> list[Edit]:
    """Edits that add directions {layer: [d_model]}, or subtract them, at the tokens `span`."""
    return [Add(v, layer, span, sign) for layer, v in vectors.items()]


def moved(
    read: Callable[[list[Prompt], list[Edit]], Tensor],
    prompts: Sequence[Prompt],
    vectors: Mapping[int, Tensor],
    span,
    label: ArrayLike,
) -> np.ndarray:
    """How far `read` of each prompt moves towards the other side when directions are subtracted from true
    statements and added to false ones: [statement], positive where it moves as it should.
    """
    out = np.zeros(len(prompts))
    for side, sign in ((True, -1.0), (False, 1.0)):
        which = np.flatnonzero(np.asarray(label, bool) == side)
        if len(which):
            some = [prompts[i] for i in which]
            out[which] = sign * (read(some, shifts(vectors, span, sign)) - read(some, [])).double().numpy()
    return out


def probe(
    model: Model, layer: int, reader: Float[Tensor, "d"]
) -> Callable[[list[Prompt], list[Edit]], Tensor]:
    """A reading for `moved`: the score ``h[layer] · reader`` of the last token."""
    return lambda prompts, edits: (
        collect(model, prompts, at=["t_inst"], layers=[layer], edits=edits)["resid"][:, 0, 0] @ reader
    )


def verdict(model: Model) -> Callable[[list[Prompt], list[Edit]], Tensor]:
    """A reading for `moved`: P(TRUE) − P(FALSE) after the question, as in the paper."""
    true, false = verdict_tokens(model)

    @keyed(f"P({true}) - P({false})")
    def readout(logits: Tensor) -> Tensor:
        p = logits.softmax(-1)
        return p[:, true] - p[:, false]

    return lambda prompts, edits: score(model, prompts, readout, [edits])[0]


def questions(
    model: Model, statements: Sequence[str], shots: pd.DataFrame
) -> tuple[list[Prompt], tuple[int, int]]:
    """Prompts that ask for the verdict on each statement after four shots, and where the last two tokens of
    the statement lie, from the end.
    """
    lines = shot_lines(shots)
    texts = [f"{lines}{s}{QUESTION}" for s in statements]
    prompts = plain(model, texts)
    ends = {
        token_span(model, t, len(lines), len(t) - len(QUESTION))[1] - len(p.ids)
        for t, p in zip(texts, prompts, strict=True)
    }
    if len(ends) > 1:
        raise ValueError("statements end at different distances from the question's end")
    end = ends.pop()
    return prompts, (end - 2, end - 1)


def normalised(effects: np.ndarray, clean: np.ndarray, label: ArrayLike) -> dict[str, float]:
    """The paper's two normalisations of what an intervention did to P(TRUE) − P(FALSE), for both directions:
    by the room there was, (PD' − PD)/(∓1 − PD), and by the clean gap between true and false statements.
    `effects` as by `moved`, `clean` without intervention, both [statement].
    """
    label = np.asarray(label, bool)
    true, false = clean[label].mean(), clean[~label].mean()
    to_false, to_true = effects[label].mean(), effects[~label].mean()
    return {
        "room/true_to_false": float(to_false / (1 + true)),
        "room/false_to_true": float(to_true / (1 - false)),
        "gap/true_to_false": float(to_false / (true - false)),
        "gap/false_to_true": float(to_true / (true - false)),
    }


def intervention(
    crossed: ArrayLike,
    own: ArrayLike,
    random: Sequence[np.ndarray],
    group: np.ndarray,
    carried: float | None,
    change: float | None,
    seed: int = 0,
) -> tuple[Estimate, dict]:
    """(measured, controls): the effect of another model's direction over that of the own one. `crossed` and
    `own` are effects per statement, `random` those of each random direction, all in gaps between true and
    false; `carried` the part of `crossed` that needs no computation.
    """
    effect = stats.mean(np.asarray(crossed, float), seed)
    controls = {
        "same_model": ratio_of_means(own, own, group, seed).value,
        **moved_by(change),
        **effect.under("crossed"),
        **stats.mean(np.asarray(own, float), seed).under("own"),
        "crossed_carried_up_unchanged": carried,
        **stats.score_band([np.abs(np.mean(r)) for r in random]),
    }
    return ratio_of_means(crossed, own, group, seed), controls
