"""Latent Guard: a model's own harmfulness representation as a safeguard (arXiv 2507.11878, section 6).

Three lines are enough:

    watch = guard.fit(model, harmful, harmless)           # prompts of `refusal.chat`, a hundred of each
    scores = guard.score(model, watch, prompts)           # above 0: harmful
    guard.save(watch, "folder")                           # guard.load("folder") gives it back

It reads the residual stream at ``t_inst``, which the model computes anyway when it answers. What a notebook
says of it is worked out here from scores alone: `beats_text`, `false_positives` and `caught` give a claim's
value and controls.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.estimate import Estimate
from refusal.base.files import write_bytes, write_json
from refusal.measure import stats
from refusal.measure.directions import cluster_score
from refusal.measure.probes import fit_prober
from refusal.measure.seen import Seen
from refusal.measure.text_baselines import Reader
from refusal.model.loading import Model
from refusal.trace.decode import generate
from refusal.trace.prompts import Prompt, chat
from refusal.trace.reads import collect

KINDS = ("mean", "layer", "probe")
Scores = tuple[np.ndarray, np.ndarray]  # of harmful and of harmless prompts, above 0 harmful


@dataclass(frozen=True)
class Guard:
    """A fitted guard. ``mean``: the cluster score averaged over all layers, as published; ``layer``: of one
    layer, chosen on held-out fifths of its own training prompts; ``probe``: a logistic regression at such a
    layer. `a`, `b` are the two centres [layer, d_model], or the probe's weights and bias.
    """

    kind: str
    layers: tuple[int, ...]
    a: Tensor
    b: Tensor
    model: str
    revision: str
    trained_on: tuple[int, int]


def states(model: Model, prompts: Sequence[Prompt]) -> Tensor:
    """What a guard reads: ``h`` at t_inst of every layer, [prompt, layer, d_model]."""
    return collect(model, prompts, at=["t_inst"])["resid"][:, :, 0]


def fit(model: Model, harmful: Sequence[Prompt], harmless: Sequence[Prompt], kind: str = "mean") -> Guard:
    """A guard from harmful and harmless prompts. Raises ParameterError for an unknown kind, UserError for
    fewer than five prompts of a class.
    """
    if kind not in KINDS:
        raise ParameterError(f"unknown guard {kind!r}", nearest(kind, KINDS))
    if min(len(harmful), len(harmless)) < 5:
        raise UserError(
            f"a guard needs at least five prompts of each class, not {len(harmful)} and {len(harmless)}"
        )
    return fit_states(model, states(model, harmful), states(model, harmless), kind)


def fit_states(model: Model, bad: Tensor, good: Tensor, kind: str = "mean") -> Guard:
    """As `fit`, from states at t_inst [prompt, layer, d_model]."""
    layers = tuple(range(1, model.n_layers + 1)) if kind == "mean" else (_best_layer(bad, good, kind),)
    if kind == "probe":
        prober = fit_prober(
            torch.cat([bad, good])[:, list(layers)], np.repeat([True, False], [len(bad), len(good)])
        )
        a, b = prober.w, prober.b
    else:
        a, b = bad[:, list(layers)].double().mean(0).float(), good[:, list(layers)].double().mean(0).float()
    return Guard(kind, layers, a, b, model.name, model.revision, (len(bad), len(good)))


def _best_layer(bad: Tensor, good: Tensor, kind: str, folds: int = 5) -> int:
    """The layer of highest AUROC over held-out fifths of the training prompts; layer 0 knows only the last
    token and is left out.
    """
    area = np.zeros(bad.shape[1])
    for k in range(folds):
        here = [np.arange(len(x)) % folds == k for x in (bad, good)]
        if kind == "probe":
            label = np.repeat([True, False], [(~here[0]).sum(), (~here[1]).sum()])
            prober = fit_prober(torch.cat([bad[~here[0]], good[~here[1]]])[:, 1:], label)
            held = [prober.of(x[h][:, 1:]) for x, h in zip((bad, good), here, strict=True)]
        else:
            centres = [x[~h][:, 1:].mean(0) for x, h in zip((bad, good), here, strict=True)]
            held = [cluster_score(x[h][:, 1:], *centres) for x, h in zip((bad, good), here, strict=True)]
        for layer in range(held[0].shape[1]):
            area[layer + 1] += (held[0][:, None, layer] > held[1][None, :, layer]).float().mean()
    return int(area.argmax())


def score_states(guard: Guard, acts: Tensor) -> np.ndarray:
    """The guard's score of states [prompt, layer, d_model]: above 0 is harmful."""
    acts = acts[:, list(guard.layers)]
    if guard.kind == "probe":
        return (torch.einsum("pld,ld->pl", acts, guard.a) + guard.b).mean(1).numpy()
    return cluster_score(acts, guard.a, guard.b).mean(1).numpy()


def scores(seen: Seen, watches: dict[str, Guard], readers: dict[str, Reader]) -> dict[str, np.ndarray]:
    """{"guard, kind" or reader's name: score of each prompt}, above 0 harmful."""
    if not seen.prompts:  # text readers take no empty lists
        return {name: np.array([]) for name in [*(f"guard, {kind}" for kind in watches), *readers]}
    found = {f"guard, {kind}": score_states(watch, seen.states[:, :, 0]) for kind, watch in watches.items()}
    return found | {name: reader(seen.texts) for name, reader in readers.items()}


def score(model: Model, guard: Guard, prompts: Sequence[Prompt]) -> np.ndarray:
    """The guard's score of each prompt: above 0 is harmful. Raises UserError for a model that it was not
    fitted on.
    """
    if model.revision != guard.revision:
        raise UserError(
            f"this guard was fitted on {guard.model}, and not on this version of {model.name}",
            "fit a guard for it",
        )
    return score_states(guard, states(model, prompts))


def save(guard: Guard, folder: str | Path) -> None:
    """Write ``guard.safetensors`` and ``guard.json`` (kind, layers, model and its hash) into `folder`."""
    write_bytes(
        Path(folder) / "guard.safetensors",
        safetensors.torch.save({"a": guard.a.contiguous(), "b": guard.b.contiguous()}),
    )
    about = {
        "kind": guard.kind,
        "layers": guard.layers,
        "position": "t_inst",
        "model": guard.model,
        "revision": guard.revision,
        "trained_on": guard.trained_on,
    }
    write_json(Path(folder) / "guard.json", about)


def load(folder: str | Path) -> Guard:
    """The guard in `folder`. Raises UserError where there is none."""
    try:
        about = json.loads((Path(folder) / "guard.json").read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(Path(folder) / "guard.safetensors")
    except (FileNotFoundError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} holds no guard: {error}", "give the folder that guard.save wrote"
        ) from error
    return Guard(
        about["kind"],
        tuple(about["layers"]),
        tensors["a"],
        tensors["b"],
        about["model"],
        about["revision"],
        tuple(about["trained_on"]),
    )


def moderator_scores(moderator, texts: Sequence[str]) -> np.ndarray:
    """1 where a moderation model says that a request is unsafe, −1 where it does not. Llama Guard 3 answers
    "safe", or "unsafe" and a category.

    Raises UserError where it says neither to more than half of the texts: then it is no such model.
    """
    table = pd.DataFrame(
        {"id": [str(i) for i in range(len(texts))], "text": list(texts), "source": "", "label": ""}
    )
    replies = generate(moderator, chat(moderator, table), decoding=8, label=f"asking {moderator.name}")[0]
    said = [re.search(r"\b(un)?safe\b", reply.lower()) for reply in replies]
    if sum(found is None for found in said) > len(said) / 2:
        raise UserError(
            f"{moderator.name} answers neither safe nor unsafe",
            "set moderator=none, or to a model made for moderation, Llama Guard 3, say",
        )
    return np.array([1.0 if found and found[1] else -1.0 for found in said])


def quality(scores: np.ndarray, harmful: np.ndarray, seed: int = 0) -> dict[str, Estimate]:
    """{accuracy, auroc, fpr, tpr} with intervals, at the guard's own threshold 0; those that need a class
    that is missing have value None.
    """
    flagged, harmful = scores > 0, np.asarray(harmful, bool)
    return {
        "accuracy": stats.rate(flagged == harmful),
        "auroc": stats.auroc(scores[harmful], scores[~harmful], seed),
        "fpr": stats.rate(flagged[~harmful]),
        "tpr": stats.rate(flagged[harmful]),
    }


def deltas(seen: Seen, bad: Seen, good: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Δ harm and Δ refuse of each prompt: the mean over layers of its cluster score at t_inst and at t_post
    (arXiv 2507.11878, eq. 3).
    """
    centre = lambda s, k: s.states[:, 1:, k].double().mean(0).float()
    return tuple(
        cluster_score(seen.states[:, 1:, k], centre(bad, k), centre(good, k)).mean(1).numpy() for k in (0, 1)
    )


def against_reader(guard: Scores, reader: Scores, name: str, seed: int = 0) -> dict:
    """Controls: how well the guard and the reader `name` rank the same harmful prompts above the same
    harmless ones, and the paired difference.
    """
    gap = stats.auroc_difference(*guard, *reader, seed)
    areas = {who: stats.auroc(*scores, seed).value for who, scores in (("guard", guard), ("reader", reader))}
    return areas | {"best_reader": name} | gap.under("auroc_over_reader")


def beats_text(guard: Scores, reader: Scores, name: str, seed: int = 0) -> tuple[Estimate, dict]:
    """Value and controls: the guard's area under the ROC curve minus that of the best reader of text, on the
    same prompts.
    """
    controls = against_reader(guard, reader, name, seed)
    return stats.auroc_difference(*guard, *reader, seed), {
        k: controls[k] for k in ("guard", "best_reader", "reader")
    }


def false_positives(guard: np.ndarray, controls: dict[str, np.ndarray]) -> tuple[Estimate, dict]:
    """Value and controls: the share of harmless prompts that are flagged, from scores; `controls` are scores
    of others, or yes and no.
    """
    return stats.rate(guard > 0), {name: stats.rate(np.asarray(x) > 0).value for name, x in controls.items()}


def caught(
    guard: Scores, reader: Scores, name: str, harmless: str = "harmless", seed: int = 0
) -> tuple[Estimate, dict]:
    """Value and controls of "flags these harmful prompts": the share flagged, that of harmless ones (called
    `harmless`) with its upper bound as a bar, and the best reader of text on the same prompts.
    """
    value, alarms = stats.rate(guard[0] > 0), stats.rate(guard[1] > 0)
    controls = {
        "harmful_flagged": value.value,
        f"{harmless}_flagged": alarms.value,
        f"{harmless}_high": alarms.ci95 and alarms.ci95[1],
    }
    flagged = {
        f"best_reader_{what}": stats.rate(scores > 0).value
        for what, scores in zip(("harmful", "harmless"), reader, strict=True)
    }
    return value, controls | flagged | against_reader(guard, reader, name, seed)
