"""The smoke tier's prompts and statements: nonsense with the words that the planted model knows."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from refusal.model.tiny import ALARM, DISGUISE, HARMFUL, NOUNS, TOOLS, VERBS


@functools.cache
def _planted_rows() -> tuple:
    rng = np.random.default_rng(11)
    combinations = list(itertools.product(VERBS, NOUNS, TOOLS))
    rng.shuffle(combinations)
    stock = iter(combinations)
    rows = []

    def text(extra, kind):
        verb, noun, tool = next(stock)
        words = ["please", str(verb), "the", str(noun), "with", "the", str(tool), "now"]
        for word, place in zip(extra, (3, 6, 1), strict=False):
            words[place] = word
        return " ".join(words)

    counts = {
        "direction": range(140),
        "validation": range(60),
        "test": range(140),
        "prober": range(16),
        "post-training": range(16),
    }
    # the probers' come last, where they take no other role's words
    for role, numbers in (*counts.items(), ("prober", range(16, 32))):
        for i in numbers:
            extra = list(rng.choice(HARMFUL, 2, replace=False)) + (
                [str(rng.choice(DISGUISE))] if i % 3 == 0 else []
            )
            source = ("harmbench", "strongreject")[i % 2]
            rows.append((f"{source}:{role}{i}", source, "harmful", role, "", text(extra, "harmful")))
            rows.append(
                (
                    f"harmless:{role}{i}",
                    "harmless",
                    "harmless",
                    role,
                    "",
                    text([str(rng.choice(ALARM))] if i % 8 == 0 else [], "harmless"),
                )
            )
            if role in ("validation", "test", "post-training") and i < 48:
                rows.append(
                    (
                        f"pseudo:{role}{i}",
                        "pseudo_harmful",
                        "harmless",
                        role,
                        f"twin:{role}{i}",
                        text([str(rng.choice(ALARM))], "pseudo"),
                    )
                )
                rows.append(
                    (
                        f"twin:{role}{i}",
                        "pseudo_twin",
                        "harmless",
                        role,
                        f"pseudo:{role}{i}",
                        text([], "twin"),
                    )
                )
    return tuple(rows)


def planted_prompts() -> pd.DataFrame:
    """The smoke tier's prompts, with the columns and sources of ``data/prompts.csv``; texts are nonsense with
    planted words.
    """
    table = pd.DataFrame(_planted_rows(), columns=["id", "source", "label", "role", "pair", "text"])
    table.insert(4, "category", "planted")
    return table


def planted_statements(sets: Sequence[str]) -> pd.DataFrame:
    """The smoke tier's statements, with the columns and sets of ``data/statements.csv``. Nothing about them
    is true in this model.
    """
    rows = []
    for k, name in enumerate(sets):
        for i in range(40):
            mine, other, thing = NOUNS[i % 12], NOUNS[(i ^ 1) % 12], TOOLS[(i + k) % 10]
            for label, subject in (("true", mine), ("false", other)):
                text = f"{VERBS[k]} {VERBS[(i // 12) % 12]} the {subject} with the {thing} ."
                rows.append((f"{name}:{i}:{label}", name, text, label, subject, thing, f"{name}:{i}"))
    return pd.DataFrame(rows, columns=["id", "set", "statement", "label", "subject", "object", "pair"])
