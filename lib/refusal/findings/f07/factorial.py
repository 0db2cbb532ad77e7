"""Word or context: requests with an alarming word or a calm one in its place, after a clause that makes plain
that they are harmless or one that says nothing of it.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from refusal.measure.attribution import words
from refusal.model.loading import Model
from refusal.trace import reads
from refusal.trace.prompts import chat

WORDS, CONTEXTS = ("alarm", "calm"), ("plain", "idle")


def cell(table: pd.DataFrame, word: str, context: str | None) -> list[str]:
    """The requests with one kind of word, after one kind of clause; None: alone."""
    swapped = [
        t.replace(alarm, new) for t, alarm, new in zip(table.text, table.alarm, table[word], strict=True)
    ]
    if context is None:
        return swapped
    return [f"{clause} {t}" for clause, t in zip(table[context], swapped, strict=True)]


def cells(table: pd.DataFrame) -> dict[tuple[str, str | None], list[str]]:
    """All texts of the factorial, and the requests alone with each kind of word, `other` among them: {(word,
    context): texts}.
    """
    found: dict[tuple[str, str | None], list[str]] = {}
    for word in WORDS:
        found |= {(word, context): cell(table, word, context) for context in CONTEXTS}
    return found | {(word, None): cell(table, word, None) for word in (*WORDS, "other")}


def scored(model: Model, texts: dict, readout: Callable) -> dict[tuple[str, str | None], np.ndarray]:
    """The refusal score of every text: {(word, context): [pair]}."""
    flat = [t for some in texts.values() for t in some]
    scores = reads.score(model, chat(model, flat), readout)[0].numpy()
    parts = np.split(scores, np.cumsum([len(some) for some in texts.values()])[:-1])
    return dict(zip(texts, parts, strict=True))


def in_stretch(text: str, stretch: str) -> np.ndarray:
    """Which words of a text belong to a stretch of it [word]."""
    start = text.index(stretch)
    return np.array([a < start + len(stretch) and b > start for a, b in words(text)])


def first(scores: list[np.ndarray], table: pd.DataFrame) -> np.ndarray:
    """Whether the word with the highest score belongs to the alarming stretch [pair]."""
    both = zip(scores, table.text, table.alarm, strict=True)
    return np.array([bool(in_stretch(t, a)[int(np.argmax(s))]) for s, t, a in both])


def chance(table: pd.DataFrame) -> np.ndarray:
    """How often a word drawn at random does [pair]."""
    return np.array([in_stretch(t, a).mean() for t, a in zip(table.text, table.alarm, strict=True)])


def of_stretch(scores: list[np.ndarray], table: pd.DataFrame) -> np.ndarray:
    """The highest score of the alarming stretch's words [pair]."""
    both = zip(scores, table.text, table.alarm, strict=True)
    return np.array([float(s[in_stretch(t, a)].max()) for s, t, a in both])
