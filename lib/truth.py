"""The truth direction: what separates true from false statements, across data sets and models (arXiv 2504.02904, section 4).

Activations are those of a statement's last token, [statement, layer, d_model]; `sets` names each statement's data set.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from lib.directions import difference_of_means
from lib.edits import Add
from lib.tracing import collect


def centred(acts: Float[Tensor, "statement *rest"], sets: ArrayLike) -> Float[Tensor, "statement *rest"]:
    """Each statement minus the mean of its own data set, so that what the sets are about drops out."""
    out, sets = acts.clone(), np.asarray(sets)
    for name in np.unique(sets):
        out[sets == name] -= acts[sets == name].double().mean(0).float()
    return out


def direction(acts: Float[Tensor, "statement *rest"], label: Bool[np.ndarray, "statement"], sets: ArrayLike) -> Float[Tensor, "*rest"]:
    """mean(true) − mean(false) over all data sets, each centred on its own mean."""
    label = np.asarray(label, bool)
    return difference_of_means(centred(acts, sets), label, ~label)


def held_out_hits(trained_on: Tensor, tested_on: Tensor, label, sets: ArrayLike, name: str, centre: str = "own") -> Bool[np.ndarray, "statement"]:
    """Which statements of data set `name` a direction from all the other sets judges rightly: [statement of that set].

    `trained_on` and `tested_on` are the same statements' activations in two models at one layer, [statement, d_model]. `centre`
    ``own``: the tested set is centred on its own mean, as in the paper, which hides an offset between models and between sets;
    ``training``: on the mean of the training statements in the model that was trained on.
    """
    label, inside = np.asarray(label, bool), np.asarray(sets) == name
    v = direction(trained_on[~inside], label[~inside], np.asarray(sets)[~inside])
    middle = tested_on[inside] if centre == "own" else trained_on[~inside]
    return ((tested_on[inside] - middle.double().mean(0).float()) @ v > 0).numpy() == label[inside]


def held_out_accuracy(trained_on: Tensor, tested_on: Tensor, label, sets: ArrayLike) -> Float[np.ndarray, "set layer"]:
    """Share of `held_out_hits` (own mean) for every data set and layer, from activations [statement, layer, d_model]."""
    return np.array(
        [[held_out_hits(trained_on[:, l], tested_on[:, l], label, sets, s).mean() for l in range(trained_on.shape[1])] for s in np.unique(np.asarray(sets))]
    )


def shuffled_within(label, sets: ArrayLike, seed: int = 0) -> Bool[np.ndarray, "statement"]:
    """The labels, shuffled within each data set: the control for every accuracy."""
    label, sets, rng = np.array(label, bool), np.asarray(sets), np.random.default_rng(seed)
    for name in np.unique(sets):
        label[sets == name] = rng.permutation(label[sets == name])
    return label


def shift(model, prompts, vector: Tensor, layer: int, read_at: int, reader: Tensor, label) -> Float[Tensor, "statement"]:
    """How far the score ``h[read_at] · reader`` of a statement's last token moves when `vector` is added to its last two tokens at `layer`,
    and subtracted where `label` is true."""
    score = lambda some, edits: collect(model, some, at=["t_inst"], layers=[read_at], edits=edits)["resid"][:, 0, 0] @ reader  # noqa: E731
    out = torch.zeros(len(prompts))
    for side, sign in ((True, -1.0), (False, 1.0)):
        which = np.flatnonzero(np.asarray(label, bool) == side)
        if len(which):
            some = [prompts[i] for i in which]
            out[which] = score(some, [Add(vector, layer, (-2, -1), sign)]) - score(some, [])
    return out
