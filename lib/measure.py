"""Measurements that notebooks share: behaviour of prompts, layer sweeps, the single refusal direction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from lib import cache, stats
from lib.directions import random_directions, successive_halving
from lib.edits import Ablate, Add, Edit
from lib.judge import judge
from lib.prompts import Prompt, chat
from lib.tracing import generate, score


def behaviour(model, prompts: Sequence[Prompt], max_new_tokens: int = 12) -> pd.DataFrame:
    """The judged greedy answer to each prompt: columns id, source, label, outcome, answer (its first words)."""
    answers = generate(model, prompts, max_new_tokens=max_new_tokens)[0]
    rows = [(p.id, p.source, p.label, judge(a), a) for p, a in zip(prompts, answers, strict=True)]
    return pd.DataFrame(rows, columns=["id", "source", "label", "outcome", "answer"])


def find(model, table: pd.DataFrame, outcome: str, n: int, *, at_most: int | None = None, chunk: int = 32, max_new_tokens: int = 12):
    """Go through `table` in chunks until `n` prompts with `outcome` were seen; (prompts, behaviour) of all that were tried."""
    prompts, seen = [], []
    for start in range(0, min(len(table), at_most or len(table)), chunk):
        prompts += (new := chat(model, table.iloc[start : start + chunk]))
        seen.append(behaviour(model, new, max_new_tokens))
        if sum((s.outcome == outcome).sum() for s in seen) >= n:
            break
    return prompts, pd.concat(seen, ignore_index=True)


def first(mask: ArrayLike, n: int) -> np.ndarray:
    """The mask with only its first `n` hits left."""
    mask = np.array(mask, bool)
    mask[np.flatnonzero(mask)[n:]] = False
    return mask


def layer_sweep(model, prompts, directions: torch.Tensor, layers: Sequence[int], span: str, readout: Callable, coefficient: float = 1.0) -> np.ndarray:
    """`readout` after adding ``directions[l]`` ([layer, d_model]) at each of `layers`: [layer, prompt, …]."""
    arms = [[Add(directions[l], l, span, coefficient)] for l in layers]
    return score(model, prompts, readout, arms, label=f"adding at {len(layers)} layers, {span}").numpy()


def random_sweep(
    model, prompts, like: torch.Tensor, layers: Sequence[int], span: str, readout: Callable, n: int, seed: int, coefficient: float = 1.0
) -> np.ndarray:
    """As `layer_sweep` with `n` random directions of the norm of ``like[l]`` at each layer: [direction, layer, prompt, …]."""
    drawn = [random_directions(like[l], n, seed + l) for l in layers]
    arms = [[Add(drawn[i][k], l, span, coefficient)] for k in range(n) for i, l in enumerate(layers)]
    values = score(model, prompts, readout, arms, label=f"{n} random directions at {len(layers)} layers, {span}")
    return values.unflatten(0, (n, len(layers))).numpy()


def outcomes(model, prompts, arms, max_new_tokens: int = 12, how: Callable[[str], str] = judge) -> list[list[str]]:
    """The judged outcome of every prompt under every arm."""
    return [[how(a) for a in answers] for answers in generate(model, prompts, arms, max_new_tokens)]


@dataclass(frozen=True)
class Arm:
    """What prompts did under an edit with a direction, and under the same edit with random directions of its norm."""

    texts: list[str]
    outcomes: list[str]
    random: list[list[str]]  # [direction][prompt]

    def rate(self, *kinds: str) -> dict:
        """{value, ci95, n} of the share of answers that are one of `kinds`."""
        return stats.rate([o in kinds for o in self.outcomes])

    def random_rate(self, *kinds: str) -> dict:
        """As `rate`, of all random directions' answers together."""
        return stats.rate([o in kinds for arm in self.random for o in arm])

    def band(self, *kinds: str) -> dict:
        """`lib.stats.random_band` of the random directions: what an effect must exceed, or stay below."""
        return stats.random_band([[o in kinds for o in arm] for arm in self.random])


NO_ARM = Arm([], [], [])  # where an experiment could not be run: rates of nothing, with value None


def against_random(
    model, prompts, edit: Callable[[torch.Tensor], Edit], vector: torch.Tensor, n_random: int, n_prompts: int, seed: int,
    max_new_tokens: int = 12, how: Callable[[str], str] = judge,
) -> Arm:  # fmt: skip
    """Answers of `prompts` under ``edit(vector)``, and of the first `n_prompts` of them under ``edit(r)`` for random r of equal norm."""
    texts = generate(model, prompts, [[edit(vector)]], max_new_tokens)[0]
    noise = [[edit(r)] for r in random_directions(vector, n_random, seed)]
    return Arm(texts, [how(t) for t in texts], outcomes(model, prompts[:n_prompts], noise, max_new_tokens, how))


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)


def select_direction(model, candidates: dict[tuple[int, int], torch.Tensor], harmful, harmless, readout, rungs=(3, 8, 16), max_kl: float = 0.1) -> pd.DataFrame:
    """The single refusal direction of arXiv 2406.11717 (section 2.3, appendix C) by successive halving. Cached on disk.

    `candidates` maps (position, layer) to a difference of means. Each is judged by ``bypass``, the mean refusal score of `harmful`
    under ablation at every layer and position (lower is better), subject to ``induce`` > 0 (refusal score of `harmless` after
    adding it at its layer) and ``kl`` < `max_kl` (next-token distribution of `harmless` under ablation); a candidate that breaks a
    condition ranks after all that keep it. One row per survivor, best first, with ``admissible``.
    """
    n = max(rungs)
    name = cache.key(model, "select_direction", [*harmful[:n], *harmless[:n]], [[Ablate(v)] for v in candidates.values()],
                     keys=list(candidates), readout=readout.key, rungs=list(rungs), max_kl=max_kl)  # fmt: skip
    return pd.DataFrame(cache.remember_json(name, lambda: _select_direction(model, candidates, harmful, harmless, readout, rungs, max_kl)))


def _select_direction(model, candidates, harmful, harmless, readout, rungs, max_kl) -> list[dict]:
    measured: dict[tuple, dict] = {}

    def evaluate(keys, n):
        ablations, label = [[Ablate(candidates[key])] for key in keys], f"{len(keys)} candidate directions, {n} prompts"
        bypass = score(model, harmful[:n], readout, ablations, label=label).mean(1)
        induce = score(model, harmless[:n], readout, [[Add(candidates[key], key[1], "prompt")] for key in keys], label=label).mean(1)
        clean = score(model, harmless[:n], _log_probabilities)[0]
        kl, at_once = [], max(1, 32 // n)  # whole next-token distributions are held: only of a few candidates at a time
        for first in range(0, len(keys), at_once):
            ablated = score(model, harmless[:n], _log_probabilities, ablations[first : first + at_once], label=label)
            kl.append((clean.exp() * (clean - ablated)).sum(-1).mean(1))
        kl = torch.cat(kl)
        losses = []
        for key, b, i, k in zip(keys, bypass.tolist(), induce.tolist(), kl.tolist(), strict=True):
            ok = i > 0 and k < max_kl
            measured[key] = {"position": key[0], "layer": key[1], "bypass": b, "induce": i, "kl": k, "admissible": ok, "n": n}
            losses.append(b + (0 if ok else 1e3))
        return losses

    ranked = successive_halving(list(candidates), evaluate, rungs)
    return [measured[key] for key, _ in ranked]
