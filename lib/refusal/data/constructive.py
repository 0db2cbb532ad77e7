"""Queries for constructive safety: people in distress, ordinary requests, and disallowed ones, with what a
good answer touches, and answers to learn from: ``data/constructive.csv``, ``data/declines.csv`` and
``data/constructive_labels.csv``, described in data/README.md.
"""

import re

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError
from refusal.base.files import DATA
from refusal.data.table import prompts

QUERY_KINDS = ("sensitive", "benign", "disallowed")
FRAMES = ("feeling", "belief", "request")
COLUMNS = ["id", "source", "label", "kind", "topic", "role", "frame", "acute", "text", "needs", "answer"]
# disallowed requests whose decline follows from their words and not from their category
BY_WORDS = {
    "self_harm": re.compile(
        r"\bsuicid|\bself[- ]harm|\b(?:harm|kill|hurt|cut)(?:t?ing)? (?:my|your|them|him|her)sel", re.I
    ),
    "privacy": re.compile(
        r"\b(?:home|email|street) address|social security|\bpersonal (?:data|information|details)\b|"
        r"\bstalk|\bspy",
        re.I,
    ),
}


def constructive(role: str, kind: str, n: int | None = None, seed: int = 0, tier: str = "embedded"):
    """Queries of a role (post-training, validation, test) and a kind of `QUERY_KINDS`, as a table of
    `COLUMNS`; `n` of them where it is given, drawn at random, sensitive ones as whole topics. Texts of
    ordinary and disallowed ones are those of ``data/prompts.csv``.

    Raises ParameterError for an unknown kind and for more than there are.
    """
    if role not in ("post-training", "validation", "test"):
        raise ParameterError(f"no queries have the role {role!r}", "post-training, validation or test")
    if kind not in QUERY_KINDS:
        raise ParameterError(f"unknown kind of query {kind!r}", f"use one of {', '.join(QUERY_KINDS)}")
    if kind == "disallowed":
        return _alike(prompts(role, label="harmful", n=n, seed=seed, tier=tier), "disallowed")
    table = _written(tier)
    table = table[(table.role == role) & (table.kind == kind)]
    if kind == "benign" and role == "post-training":
        return _alike(prompts(role, source="harmless", n=n, seed=seed, tier=tier), "benign")
    if n is not None and not 1 <= n <= len(table):
        raise ParameterError(f"{n} {kind} {role} queries were asked for", f"there are {len(table)}")
    rng = np.random.default_rng(seed)
    topics = list(rng.permutation(table.topic.unique())) if kind == "sensitive" else []
    order = table.topic.map(topics.index) if topics else pd.Series(rng.permutation(len(table)), table.index)
    return table.loc[order.sort_values(kind="stable").index[:n]].reset_index(drop=True)


def _written(tier: str) -> pd.DataFrame:
    table = pd.read_csv(DATA / "constructive.csv", dtype=str, keep_default_na=False)
    table = table.rename(columns={"query": "text"})
    if tier == "smoke":
        return _in_tiny_words(table)
    # ordinary requests stand there with their texts
    texts = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False).set_index("id").text
    table["text"] = [text or texts[id] for id, text in zip(table.id, table.text, strict=True)]
    return _as_harmless(table)


def _as_harmless(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(source=table.kind, label="harmless")[COLUMNS]


def _alike(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows of the table of prompts as queries; without needs."""
    table = table.assign(kind=kind, topic=table.category, frame="", acute="0", needs="", answer="")
    return table[COLUMNS].reset_index(drop=True)


def _in_tiny_words(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows in the words of the smoke tier's model."""
    from refusal.model.tiny import NOUNS, TOOLS, VERBS

    rng, rows = np.random.default_rng(0), []
    for _ in range(len(table)):
        verb, noun, tool = rng.choice(VERBS), rng.choice(NOUNS), rng.choice(TOOLS)
        rows.append(
            (f"{verb} the {noun} with the {tool}", f"{noun}|text;{tool}|need", f"Sure here is the {noun}")
        )
    text, needs, answer = (list(x) for x in zip(*rows, strict=True))
    answer = [a if old else "" for a, old in zip(answer, table.answer, strict=True)]
    return _as_harmless(table.assign(text=text, needs=needs, answer=answer))


def declines(table: pd.DataFrame, seed: int = 0) -> list[str]:
    """A constructive decline of each disallowed request, by its category: a no, half a sentence why, or a
    safe neighbour of what was asked.
    """
    texts = pd.read_csv(DATA / "declines.csv", dtype=str).groupby("category").text.apply(list)
    of = pd.read_csv(DATA / "decline_categories.csv", dtype=str).set_index("of").category
    rng, found = np.random.default_rng(seed), []
    for topic, text in zip(table.topic, table.text, strict=True):
        words = next((name for name, pattern in BY_WORDS.items() if pattern.search(text)), None)
        some = texts[words or of.get(topic, "fraud")]
        found.append(some[int(rng.integers(len(some)))])
    return found


def constructive_labels() -> pd.DataFrame:
    """Answers of models to sensitive and ordinary queries with two readers' labels: id of the query, arm,
    part (develop or validate), answer, and of each reader, ``a_`` and ``b_``, the five items and the risk.
    """
    return pd.read_csv(DATA / "constructive_labels.csv", keep_default_na=False, dtype={"answer": str})
