"""Sweeps over layers and candidates: scores of one forward pass each, and the single refusal direction of
arXiv 2406.11717.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from refusal.measure.directions import successive_halving
from refusal.model.loading import Model
from refusal.trace import cache
from refusal.trace.edits import Ablate, Add
from refusal.trace.reads import score


def layer_sweep(
    model: Model,
    prompts,
    directions: torch.Tensor,
    layers: Sequence[int],
    span: str,
    readout: Callable,
    coefficient: float = 1.0,
) -> np.ndarray:
    """`readout` after adding ``directions[l]`` ([layer, d_model]) at each of `layers`: [layer, prompt, …]."""
    arms = [[Add(directions[l], l, span, coefficient)] for l in layers]
    return score(model, prompts, readout, arms, label=f"adding at {len(layers)} layers, {span}").numpy()


def random_sweep(
    model: Model,
    prompts,
    drawn: Mapping[int, Sequence[torch.Tensor]],
    span: str,
    readout: Callable,
    coefficient: float = 1.0,
) -> np.ndarray:
    """As `layer_sweep` with random directions, as many at each layer: `drawn` maps a layer to its own;
    [direction, layer, prompt, …].
    """
    n = min(map(len, drawn.values()))
    arms = [[Add(vectors[k], layer, span, coefficient)] for k in range(n) for layer, vectors in drawn.items()]
    values = score(
        model, prompts, readout, arms, label=f"{n} random directions at {len(drawn)} layers, {span}"
    )
    return values.unflatten(0, (n, len(drawn))).numpy()


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)


def select_direction(
    model: Model,
    candidates: dict[tuple[int, int], torch.Tensor],
    harmful,
    harmless,
    readout,
    rungs=(6, 32),
    keep: float = 1 / 6,
    max_kl: float = 0.1,
    seed: int = 0,
) -> pd.DataFrame:
    """The single refusal direction of arXiv 2406.11717 (section 2.3, appendix C) in two rungs. Cached on
    disk.

    `candidates` maps (position, layer) to a difference of means. Each is judged by ``bypass``, the mean
    refusal score of `harmful` under ablation at every layer and position (lower is better), subject to
    ``induce`` > 0 (refusal score of `harmless` after adding it at its layer) and ``kl`` < `max_kl`
    (next-token distribution of `harmless` under ablation, asked in the last rung). All are tried on the first
    few prompts, the best share `keep` on all `rungs`[-1]. One row per survivor, best first: ``admissible``
    where it keeps the conditions, ``chosen_share`` and ``admissible_share`` of draws of the prompts in which
    it is chosen, and admissible.
    """
    n = max(rungs)
    name = cache.key(
        model,
        _select_direction,
        candidates=candidates,
        harmful=harmful[:n],
        harmless=harmless[:n],
        readout=readout,
        rungs=rungs,
        keep=keep,
        max_kl=max_kl,
        seed=seed,
    )
    return pd.DataFrame(
        cache.remember_json(
            name,
            lambda: _select_direction(
                model, candidates, harmful, harmless, readout, rungs, keep, max_kl, seed
            ),
        )
    )


def _select_direction(
    model: Model, candidates, harmful, harmless, readout, rungs, keep, max_kl, seed
) -> list[dict]:
    found: dict[tuple, dict[str, np.ndarray]] = {}

    def evaluate(keys, n):
        label = f"{len(keys)} candidate directions, {n} prompts"
        bypass = score(
            model, harmful[:n], readout, [[Ablate(candidates[key])] for key in keys], label=label
        ).numpy()
        induce = score(
            model,
            harmless[:n],
            readout,
            [[Add(candidates[key], key[1], "prompt")] for key in keys],
            label=label,
        ).numpy()
        kl = (
            _kl_under_ablation(model, harmless[:n], [candidates[key] for key in keys], label)
            if n == max(rungs)
            else np.zeros_like(induce)
        )
        for i, key in enumerate(keys):
            found[key] = {"bypass": bypass[i], "induce": induce[i], "kl": kl[i]}
        return [
            b + (0 if i > 0 and k < max_kl else 1e3)
            for b, i, k in zip(bypass.mean(1), induce.mean(1), kl.mean(1), strict=True)
        ]

    ranked = [key for key, _ in successive_halving(list(candidates), evaluate, rungs, keep)]
    chosen, admissible = _over_draws([found[key] for key in ranked], max_kl, seed)
    rows = []
    for k, key in enumerate(ranked):
        means = {name: float(values.mean()) for name, values in found[key].items()}
        ok = means["induce"] > 0 and means["kl"] < max_kl
        rows.append(
            {
                "position": key[0],
                "layer": key[1],
                **means,
                "admissible": ok,
                "chosen_share": float(chosen[k]),
                "admissible_share": float(admissible[k]),
                "n": int(min(len(found[key]["bypass"]), len(found[key]["induce"]))),
            }
        )
    return rows


def _kl_under_ablation(model: Model, prompts, vectors, label) -> np.ndarray:
    """KL(clean ‖ ablated) of the next-token distribution, [vector, prompt]; whole distributions are held, so
    of a few vectors at a time.
    """
    clean, out, at_once = score(model, prompts, _log_probabilities)[0], [], max(1, 32 // len(prompts))
    for start in range(0, len(vectors), at_once):
        ablated = score(
            model,
            prompts,
            _log_probabilities,
            [[Ablate(v)] for v in vectors[start : start + at_once]],
            label=label,
        )
        out.append((clean.exp() * (clean - ablated)).sum(-1))
    return torch.cat(out).numpy()


def _over_draws(
    found: list[dict[str, np.ndarray]], max_kl: float, seed: int, draws: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """In which share of draws of the prompts each candidate is chosen, and in which it is admissible:
    [candidate], [candidate].
    """
    rng = np.random.default_rng(seed)
    means = {}
    for name in ("bypass", "induce", "kl"):
        values = np.stack([f[name] for f in found])  # [candidate, prompt]
        if name != "kl":  # kl and induce are of the same prompts
            picks = rng.integers(0, values.shape[1], (draws, values.shape[1]))
        means[name] = values[:, picks].mean(-1)  # [candidate, draw]
    ok = (means["induce"] > 0) & (means["kl"] < max_kl)
    best = np.where(ok, means["bypass"], means["bypass"] + 1e3).argmin(0)
    return np.bincount(best, minlength=len(found)) / draws, ok.mean(1)
