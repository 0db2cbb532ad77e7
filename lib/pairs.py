"""Two models of one lineage side by side: whether they can be compared, how far apart their weights are, how alike their patching grids."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from lib import patching, stats
from lib.assets import recipe_folder
from lib.registry import RECIPES


def difference(a, b) -> str | None:
    """Why the inside of two models cannot be compared, as a sentence; None where they share depth, width and tokenizer."""
    for what in ("n_layers", "d_model"):
        x, y = getattr(a, what), getattr(b, what)
        if x != y:
            return f"the two models differ in {what}: {a.name} has {x}, {b.name} has {y}"
    probe = "The city of Zürich isn't in 1984's Peru.\n"
    if a.tokenizer.get_vocab() != b.tokenizer.get_vocab() or a.tokenizer(probe)["input_ids"] != b.tokenizer(probe)["input_ids"]:
        return f"the tokenizers of {a.name} and {b.name} differ"
    return None


def weight_change(a, b) -> float | None:
    """‖W_b − W_a‖ / ‖W_a‖ over all parameters; None for remote models."""
    if a.remote is True or b.remote is True:
        return None
    moved = total = 0.0
    theirs = dict(b.module.named_parameters())
    for name, w in a.module.named_parameters():
        w = w.detach().double()
        moved += float((theirs[name].detach().double() - w).square().sum())
        total += float(w.square().sum())
    return (moved / total) ** 0.5


def training_record(name: str) -> dict | None:
    """What `lib.recipes` wrote about the training of a model made here; None for any other model."""
    return json.loads((recipe_folder(name) / "recipe.json").read_text(encoding="utf-8")) if name in RECIPES else None


@dataclass(frozen=True)
class Grid:
    """A patching grid of `lib.patching.grid` with the unpatched ends: values [pair, layer, position], clean [pair], corrupt [pair]."""

    values: Float[np.ndarray, "pair layer position"]
    clean: Float[np.ndarray, "pair"]
    corrupt: Float[np.ndarray, "pair"]

    def mean(self, pick: np.ndarray | slice = slice(None)) -> Float[np.ndarray, "layer position"]:
        """The mean over the pairs `pick`, in units of the unpatched difference: 0 the corrupt run, 1 the clean one."""
        low, high = self.corrupt[pick].mean(), self.clean[pick].mean()
        return (self.values[pick].mean(0) - low) / (high - low)


def grid_rows(means: dict[str, np.ndarray], layers, tokens: list[str], start: int) -> pd.DataFrame:
    """The table of a ``grid`` figure: two mean grids and their difference, from the first token that differs on, the last layer on top."""
    (first, a), (second, b) = means.items()
    rows = []
    for panel, matrix in ((first, a), (second, b), (f"{second} − {first}", b - a)):
        for i, layer in reversed(list(enumerate(layers))):
            rows += [{"panel": panel, "row": layer, "column": f"{k} {tokens[k]!r}", "value": matrix[i, k]} for k in range(start, len(tokens))]
    return pd.DataFrame(rows)


def compare_grids(a: Grid, b: Grid, start: int, stop: int, seed: int = 0, draws: int = 200) -> dict[str, dict]:
    """How alike two models' grids are, each {value, ci95, n}: r on binned, raw and nonzero cells, the largest difference over all cells and over
    the subject's, with bootstrap intervals over pairs; ``split_half_…`` of halves of `a`, and ``null_…`` with `b`'s layers shuffled (middle 95 %).
    """
    rng, n = np.random.default_rng(seed), len(a.values)

    def measured(x, y):
        return patching.compare(x, y) | {"max_diff_knowledge": float(np.abs(x - y)[:, start:stop].max())}

    value = measured(a.mean(), b.mean())
    resampled, halves, shuffled = [], [], []
    for _ in range(draws):
        pick = rng.integers(0, n, n)
        resampled.append(measured(a.mean(pick), b.mean(pick)))
        shuffled.append(measured(a.mean(), b.mean()[rng.permutation(len(b.values[0]))]))
    for _ in range(40):
        order = rng.permutation(n)
        halves.append(measured(a.mean(order[: n // 2]), a.mean(order[n // 2 :])))
    out = {}
    for prefix, samples in (("", resampled), ("split_half_", halves), ("null_", shuffled)):
        for key in value:
            x = np.array([s[key] for s in samples if s[key] is not None], float)
            if len(x):
                low, high = np.percentile(x, [2.5, 97.5])
                out[prefix + key] = {"value": value[key] if not prefix else float(x.mean()), "ci95": [float(low), float(high)], "n": n}
            else:
                out[prefix + key] = {"value": None, "ci95": None, "n": 0}
    return out


def peak_ratio(crossed: Grid, own: Grid, seed: int = 0) -> dict:
    """{value, ci95, n}: the effect of another model's states over that of the model's own, at the five cells where its own is largest."""
    cells = np.unravel_index(np.argsort(own.mean().ravel())[-5:], own.values.shape[1:])
    effect: Callable = lambda grid: grid.values[:, *cells].mean(1) - grid.corrupt  # noqa: E731 - [pair]
    return stats.bootstrap(lambda x, y: x.mean(0) / y.mean(0), effect(crossed), effect(own), seed=seed, paired=True)


def with_template_of(model, other):
    """`model` with the chat template of `other`, for a base model whose tokenizer has none; the two tokenizers must be the same."""
    model.tokenizer.chat_template = other.tokenizer.chat_template
    return model
