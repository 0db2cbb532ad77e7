"""Probers: logistic regressions on states, one per layer, that tell refused from answered prompts; and how
good they are.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from refusal.base.estimate import Estimate
from refusal.measure import stats
from refusal.model.loading import Model
from refusal.trace.prompts import Prompt
from refusal.trace.reads import Projections, project
from refusal.trace.thinking import Rollout


@dataclass(frozen=True)
class Prober:
    """Logistic regressions, each of one layer: P(refusal) = σ(h[l] · w + b); w [row, d_model], b [row],
    float32, and the layer of each row, counted from the last one, −1.
    """

    w: Tensor
    b: Tensor
    layers: tuple[int, ...]

    def __call__(self, projected: Tensor) -> Tensor:
        """Scores from projections ``h[l] · w`` of shape [row, …]."""
        return (projected + self.b.reshape(-1, *[1] * (projected.dim() - 1))).sigmoid()

    def of(self, acts: Float[Tensor, "prompt layer d"]) -> Float[Tensor, "prompt layer"]:
        """Scores of states."""
        return (torch.einsum("pld,ld->pl", acts.float(), self.w) + self.b).sigmoid()

    @property
    def top(self) -> list[int]:
        """The rows that read the last layer."""
        return [row for row, layer in enumerate(self.layers) if layer == -1]

    def at_the_end(self, states: Float[Tensor, "prompt d"]) -> Float[Tensor, "prompt *row"]:
        """Scores of the last block's output: one of each prompt, or one by each row that reads that layer
        where there are several.
        """
        return (states.cpu() @ self.w[self.top].T + self.b[self.top]).sigmoid().squeeze(-1)


def everywhere(prober: Prober) -> Prober:
    """The last layer's regression in every layer's place: the authors read all layers with it. Kept to show
    what that does.
    """
    return Prober(prober.w[-1:].expand_as(prober.w), prober.b[-1:].expand_as(prober.b), prober.layers)


def fit_prober(
    acts: Float[Tensor, "prompt layer d"],
    refused: ArrayLike,
    weights: ArrayLike | None = None,
    strength: float = 0.01,
) -> Prober:
    """A prober per layer, on standardised states of the last layers, folded back into raw units; `weights` of
    the prompts, balanced between the classes by default.

    The ridge penalty 1 / `strength` is large because there are more dimensions than prompts: scores then stay
    off 0 and 1.
    """
    w, b = torch.zeros(acts.shape[1:]), torch.zeros(acts.shape[1])
    for layer in range(acts.shape[1]):
        balanced = None if weights is not None else "balanced"
        # newton-cg is five times as fast as the default on these states
        logistic = LogisticRegression(C=strength, solver="newton-cg", max_iter=1000, class_weight=balanced)
        pipeline = make_pipeline(StandardScaler(), logistic)
        pipeline.fit(
            acts[:, layer].numpy(), np.asarray(refused, bool), logisticregression__sample_weight=weights
        )
        scale, model = pipeline[0], pipeline[1]
        w[layer] = torch.from_numpy(model.coef_[0] / scale.scale_).float()
        b[layer] = float(model.intercept_[0] - (model.coef_[0] * scale.mean_ / scale.scale_).sum())
    return Prober(w, b, tuple(range(-acts.shape[1], 0)))


@dataclass(frozen=True)
class Training:
    """What a prober is trained or tried on: states [prompt, layer, d_model], of all layers or the last ones,
    and what is known of each: whether it was refused, whether the prompt is harmful, whether the state comes
    after thinking, its source, and which prompt it is.
    """

    acts: Tensor
    refused: np.ndarray
    harmful: np.ndarray
    late: np.ndarray
    source: np.ndarray
    id: np.ndarray

    def at_the_top(self) -> "Training":
        """The last layer's states."""
        return replace(self, acts=self.acts[:, -1:].clone())

    def pick(self, which: np.ndarray) -> "Training":
        """The states of a mask, or of indices."""
        return Training(*(getattr(self, f.name)[which] for f in fields(self)))

    def joined(self, other: "Training") -> "Training":
        """The states of both."""
        known = [np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)[1:]]
        return Training(torch.cat([self.acts, other.acts]), *known)

    def weights(self) -> Float[np.ndarray, "prompt"]:
        """Weights under which refused and answered states count the same, harmful and benign ones among the
        answered, and states before and after thinking in each of these: so that neither harm nor the closing
        tag tells the classes apart.
        """
        w = np.zeros(len(self.refused))
        for label in (True, False):
            kinds = [
                m for kind in (True, False) if (m := (self.refused == label) & (self.harmful == kind)).any()
            ]
            for kind in kinds:
                whens = [m for late in (True, False) if (m := kind & (self.late == late)).any()]
                for when in whens:
                    w[when] = len(w) / (2 * len(kinds) * len(whens) * when.sum())
        return w


# refused and answered harmful prompts after thinking, without which nothing can be learned about that
FEW = 5


def training_of(rows: Sequence[tuple[Tensor, bool, bool, bool, Prompt]], empty: Tensor) -> Training:
    """Of rows (state, refused, harmful, late, prompt)."""
    acts = torch.stack([state for state, *_ in rows]) if rows else empty[:0]
    known = np.array([row[1:4] for row in rows], bool).reshape(-1, 3).T
    return Training(
        acts, *known, *np.array([(row[4].source, row[4].id) for row in rows], str).reshape(-1, 2).T
    )


def fit(training: Training) -> Prober:
    """The prober of a training set, its classes weighed by `Training.weights`."""
    return fit_prober(training.acts, training.refused, training.weights())


def as_published_set(training: Training) -> Training:
    """The training set with the paper's negatives: refused harmful prompts against answered benign ones."""
    return training.pick(training.refused | ~training.harmful)


REFITS = 10


def refitted(training: Training, seed: int = 0, shuffled: bool = False) -> Prober:
    """The last layer's prober fitted again on `REFITS` draws of as many prompts, with replacement, one row
    each: how much it owes to its prompts.

    With `shuffled` each draw's labels are shuffled first: what probers say that have learned nothing.
    """
    rng, members = (
        np.random.default_rng(seed),
        [np.flatnonzero(training.id == one) for one in np.unique(training.id)],
    )
    training, rows = training.at_the_top(), []
    while len(rows) < REFITS:
        drawn = training.pick(
            np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        )
        if shuffled:
            drawn = replace(drawn, refused=rng.permutation(drawn.refused))
        if 0 < drawn.refused.sum() < len(drawn.refused):
            rows.append(fit(drawn))
    return Prober(torch.cat([p.w for p in rows]), torch.cat([p.b for p in rows]), (-1,) * REFITS)


def prober_quality(training: Training, test: Training, seed: int = 0) -> dict[str, Estimate]:
    """AUROC of the last layer's prober: on held-out fifths of the prompts (``val``), there with labels
    shuffled `REFITS` times (``shuffled``, their mean and range), on other prompts (``test``), among harmful
    ones only (``harmful``) and among these after thinking (``late``), and on a source it was not trained on
    (``ood``). What has fewer than five states of a class is left out. Intervals resample prompts.
    """
    rng = np.random.default_rng(seed)
    training, test = training.at_the_top(), test.at_the_top()
    number = np.unique(training.id, return_inverse=True)[1]  # all states of a prompt fall into one fold
    folds = (rng.permutation(number.max() + 1) % 5)[number]

    def held_out(of: Training):
        out = np.zeros(len(folds))
        for k in range(5):
            out[folds == k] = fit(of.pick(folds != k)).of(of.acts[folds == k])[:, 0].numpy()
        return area(out, of)

    def area(scores: np.ndarray, of: Training):
        return stats.auroc(
            scores[of.refused], scores[~of.refused], seed, (of.id[of.refused], of.id[~of.refused])
        )

    def tried(prober: Prober, on: Training):
        return area(prober.of(on.acts)[:, 0].numpy(), on)

    by_chance = [
        held_out(replace(training, refused=rng.permutation(training.refused))).value for _ in range(REFITS)
    ]
    found = {"val": held_out(training)}
    found["shuffled"] = Estimate(float(np.mean(by_chance)), [min(by_chance), max(by_chance)], REFITS)
    prober, there = fit(training), training.source != "strongreject"
    asked = {"test": test, "harmful": test.pick(test.harmful), "late": test.pick(test.harmful & test.late)}
    found |= {
        name: tried(prober, on)
        for name, on in asked.items()
        if min(on.refused.sum(), (~on.refused).sum()) >= FEW
    }
    elsewhere = test.pick((test.source == "strongreject") | ~test.harmful)
    if min(training.refused[there].sum(), elsewhere.refused.sum()) >= FEW:
        found["ood"] = tried(fit(training.pick(there)), elsewhere)
    return found


def token_scores(
    model: Model, rollouts: Sequence[Rollout], probers: dict[Hashable, Prober]
) -> dict[Hashable, list[Float[Tensor, "row token"]]]:
    """The refusal score at every token of each rollout, by each row of each prober, from one forward pass."""
    along = projection_of(model, probers, [])
    return by_probers(probers, project(model, [r.prompt for r in rollouts], along.directions, along.layers))


def projection_of(model: Model, probers: dict[Hashable, Prober], since: Sequence[int]) -> Projections:
    """All rows of all probers, with their layers."""
    layers = [model.n_layers + 1 + layer for p in probers.values() for layer in p.layers]
    return Projections(torch.cat([p.w for p in probers.values()]), layers, since)


def by_probers(probers: dict[Hashable, Prober], projected: Sequence[Tensor]) -> dict[Hashable, list[Tensor]]:
    """By each prober its rows of the projections, as scores."""
    ends = np.cumsum([0, *(len(p.layers) for p in probers.values())])
    if any(len(values) != ends[-1] for values in projected):
        raise ValueError(
            f"{ends[-1]} directions of {len(probers)} probers, but the tokens were read along "
            f"{len(projected[0])}"
        )
    return {
        name: [p(values[a:b]) for values in projected]
        for (name, p), (a, b) in zip(probers.items(), itertools.pairwise(ends), strict=True)
    }
