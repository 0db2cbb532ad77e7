"""Measurements that notebooks share: behaviour of prompts, layer sweeps, the single refusal direction."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from lib import cache, stats
from lib.directions import successive_halving
from lib.edits import Ablate, Add, Edit
from lib.judge import judge
from lib.prompts import Prompt, chat
from lib.tracing import generate, score


def behaviour(model, prompts: Sequence[Prompt], max_new_tokens: int = 24) -> pd.DataFrame:
    """The judged greedy answer to each prompt: columns id, source, label, outcome, answer (its first words)."""
    answers = generate(model, prompts, max_new_tokens=max_new_tokens)[0]
    rows = [(p.id, p.source, p.label, judge(a), a) for p, a in zip(prompts, answers, strict=True)]
    return pd.DataFrame(rows, columns=["id", "source", "label", "outcome", "answer"])


def find(model, table: pd.DataFrame, outcome: str, n: int, *, max_new_tokens: int = 24):
    """Go through `table` until `n` prompts with `outcome` were seen; (prompts, behaviour) of all that were tried: first `n` of them, then as many
    as the share of hits so far asks for, at most twice what was tried before."""
    prompts, seen, hits, size = [], [], 0, n
    while hits < n and len(prompts) < len(table):
        prompts += (new := chat(model, table.iloc[len(prompts) : len(prompts) + size]))
        seen.append(behaviour(model, new, max_new_tokens))
        hits += int((seen[-1].outcome == outcome).sum())
        size = min(2 * len(prompts), max(8, math.ceil((n - hits) * len(prompts) / max(hits, 1))))
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


def random_sweep(model, prompts, drawn: Mapping[int, Sequence[torch.Tensor]], span: str, readout: Callable, coefficient: float = 1.0) -> np.ndarray:
    """As `layer_sweep` with random directions, as many at each layer: `drawn` maps a layer to its own; [direction, layer, prompt, …]."""
    n = min(map(len, drawn.values()))
    arms = [[Add(vectors[k], layer, span, coefficient)] for k in range(n) for layer, vectors in drawn.items()]
    values = score(model, prompts, readout, arms, label=f"{n} random directions at {len(drawn)} layers, {span}")
    return values.unflatten(0, (n, len(drawn))).numpy()


def outcomes(model, prompts, arms, max_new_tokens: int = 24, how: Callable[[str], str] = judge) -> list[list[str]]:
    """The judged outcome of every prompt under every arm."""
    return [[how(a) for a in answers] for answers in generate(model, prompts, arms, max_new_tokens)]


def refused(values: np.ndarray) -> np.ndarray:
    """Outcomes by a refusal score, as judged answers have them: refusal above 0."""
    return np.where(values > 0, "refusal", "answer")


@dataclass(frozen=True)
class Arm:
    """What prompts did under an edit with a direction, and under the same edit with random directions of its norm.

    The random directions are judged by the first token, on all of the prompts: `random` [direction][prompt]; for the few whose rate of `wanted` is
    most extreme, `judged` holds the judged answers as well, {direction: outcomes of the prompts}.
    """

    texts: list[str]
    outcomes: list[str]
    random: list[list[str]]
    judged: dict[int, list[str]] = field(default_factory=dict)

    def rate(self, *kinds: str) -> dict:
        """{value, ci95, n} of the share of answers that are one of `kinds`."""
        return stats.rate([o in kinds for o in self.outcomes])

    def band(self, *kinds: str, lowest: bool = False) -> dict:
        """`lib.stats.random_band` of the random directions' rates: what an effect must exceed, or with `lowest` stay below.

        For directions whose answers were judged the more extreme of the two rates counts.
        """
        hits = [np.isin(arm, kinds) for arm in self.random]
        for k, said in self.judged.items():
            hits[k] = (min if lowest else max)(hits[k], np.isin(said, kinds), key=np.mean)
        return stats.random_band(hits)

    def at_random(self, *kinds: str, lowest: bool = False) -> dict:
        """{value, ci95, n} to draw beside `rate`: the mean of the random directions' rates, their `band` in place of an interval, how many they are."""
        return stats.shown_band(self.band(*kinds, lowest=lowest))


NO_ARM = Arm([], [], [])  # where an experiment could not be run: rates of nothing, with value None


def against_random(
    model, prompts, edit: Callable[[torch.Tensor], Edit], vector: torch.Tensor, drawn: Sequence[torch.Tensor], readout: Callable,
    wanted: str = "refusal", *, by_token: Callable[[np.ndarray], np.ndarray] = refused, how: Callable[[str], str] = judge, lowest: bool = False,
    n_judged: int = 2, max_new_tokens: int = 24,
) -> Arm:  # fmt: skip
    """Judged answers of `prompts` under ``edit(vector)``; and under ``edit(r)`` for each random direction r of `drawn`, by the first token.

    `readout` is scored and `by_token` turns its values [direction, prompt, …] into outcomes. Of the `n_judged` directions with the highest (with
    `lowest` the lowest) rate of `wanted` answers are generated and judged too, by `how`.
    """
    texts = generate(model, prompts, [[edit(vector)]], max_new_tokens)[0]
    values = score(model, prompts, readout, [[edit(r)] for r in drawn], label=f"{len(drawn)} random directions").numpy()
    by_first = by_token(values)
    rates = (by_first == wanted).mean(1) * (-1 if lowest else 1)
    strongest = np.argsort(-rates, kind="stable")[:n_judged].tolist()
    said = outcomes(model, prompts, [[edit(drawn[k])] for k in strongest], max_new_tokens, how) if strongest else []
    return Arm(texts, [how(t) for t in texts], by_first.tolist(), dict(zip(strongest, said, strict=True)))


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)


def select_direction(model, candidates: dict[tuple[int, int], torch.Tensor], harmful, harmless, readout, rungs=(6, 32), keep: float = 1 / 6,
                     max_kl: float = 0.1, seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """The single refusal direction of arXiv 2406.11717 (section 2.3, appendix C) in two rungs. Cached on disk.

    `candidates` maps (position, layer) to a difference of means. Each is judged by ``bypass``, the mean refusal score of `harmful`
    under ablation at every layer and position (lower is better), subject to ``induce`` > 0 (refusal score of `harmless` after
    adding it at its layer) and ``kl`` < `max_kl` (next-token distribution of `harmless` under ablation, asked in the last rung). All are tried on the
    first few prompts, the best share `keep` on all `rungs`[-1]. One row per survivor, best first: ``admissible`` where it keeps the conditions,
    ``chosen_share`` and ``admissible_share`` of draws of the prompts in which it is chosen, and admissible.
    """
    n = max(rungs)
    name = cache.key(model, _select_direction, candidates=candidates, harmful=harmful[:n], harmless=harmless[:n], readout=readout, rungs=rungs, keep=keep,
                     max_kl=max_kl, seed=seed)  # fmt: skip
    return pd.DataFrame(cache.remember_json(name, lambda: _select_direction(model, candidates, harmful, harmless, readout, rungs, keep, max_kl, seed)))


def _select_direction(model, candidates, harmful, harmless, readout, rungs, keep, max_kl, seed) -> list[dict]:
    found: dict[tuple, dict[str, np.ndarray]] = {}

    def evaluate(keys, n):
        label = f"{len(keys)} candidate directions, {n} prompts"
        bypass = score(model, harmful[:n], readout, [[Ablate(candidates[key])] for key in keys], label=label).numpy()
        induce = score(model, harmless[:n], readout, [[Add(candidates[key], key[1], "prompt")] for key in keys], label=label).numpy()
        kl = _kl_under_ablation(model, harmless[:n], [candidates[key] for key in keys], label) if n == max(rungs) else np.zeros_like(induce)
        for i, key in enumerate(keys):
            found[key] = {"bypass": bypass[i], "induce": induce[i], "kl": kl[i]}
        return [b + (0 if i > 0 and k < max_kl else 1e3) for b, i, k in zip(bypass.mean(1), induce.mean(1), kl.mean(1), strict=True)]

    ranked = [key for key, _ in successive_halving(list(candidates), evaluate, rungs, keep)]
    chosen, admissible = _over_draws([found[key] for key in ranked], max_kl, seed)
    rows = []
    for k, key in enumerate(ranked):
        means = {name: float(values.mean()) for name, values in found[key].items()}
        ok = means["induce"] > 0 and means["kl"] < max_kl
        rows.append({"position": key[0], "layer": key[1], **means, "admissible": ok, "chosen_share": float(chosen[k]), "admissible_share": float(admissible[k]),
                     "n": int(min(len(found[key]["bypass"]), len(found[key]["induce"])))})  # fmt: skip
    return rows


def _kl_under_ablation(model, prompts, vectors, label) -> np.ndarray:
    """KL(clean ‖ ablated) of the next-token distribution, [vector, prompt]; whole distributions are held, so of a few vectors at a time."""
    clean, out, at_once = score(model, prompts, _log_probabilities)[0], [], max(1, 32 // len(prompts))
    for start in range(0, len(vectors), at_once):
        ablated = score(model, prompts, _log_probabilities, [[Ablate(v)] for v in vectors[start : start + at_once]], label=label)
        out.append((clean.exp() * (clean - ablated)).sum(-1))
    return torch.cat(out).numpy()


def _over_draws(found: list[dict[str, np.ndarray]], max_kl: float, seed: int, draws: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """In which share of draws of the prompts each candidate is chosen, and in which it is admissible: [candidate], [candidate]."""
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
