"""Every prompt of the project: ``data/prompts.csv`` gives its id, source, label and its one role; notebooks
take prompts from here only.

The texts of harmful benchmark prompts are not in the repository; they are read from the benchmarks' own
verified files.
"""

import csv
import json

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.files import DATA, sha256
from refusal.model.fetch import fetch
from refusal.model.registry import DATASETS

ROLES = ("direction", "validation", "test", "post-training", "prober")
SOURCES = (
    "harmbench",
    "strongreject",
    "do_not_answer",
    "harmless",
    "pseudo_harmful",
    "pseudo_twin",
    "cannot",
)
BY_NAME_ONLY = ("cannot",)  # questions that nobody can answer from outside: no sample of ordinary requests


def all_prompts(tier: str = "embedded") -> pd.DataFrame:
    """The whole table: id, source, label, role, category, pair (the id of a twin), text. The smoke tier has
    its own, generated one.
    """
    if tier == "smoke":
        from refusal.data.planted import planted_prompts

        return planted_prompts()
    table = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False)
    texts = _benchmark_texts()
    missing = [i for i in table.id[table.text == ""] if i not in texts]
    if missing:
        raise UserError(
            f"{len(missing)} prompts of data/prompts.csv are not in the benchmark files, the first is "
            f"{missing[0]}"
        )
    table["text"] = [text or texts[i] for i, text in zip(table.id, table.text, strict=True)]
    return table


def _benchmark_texts() -> dict[str, str]:
    texts = {}
    for name in ("harmbench_test", "harmbench_val"):
        with fetch(DATASETS[name]).open(encoding="utf-8", newline="") as f:
            texts |= {f"harmbench:{row['BehaviorID']}": row["Behavior"] for row in csv.DictReader(f)}
    with fetch(DATASETS["strongreject"]).open(encoding="utf-8", newline="") as f:
        texts |= {f"strongreject:{i}": row["forbidden_prompt"] for i, row in enumerate(csv.DictReader(f))}
    with fetch(DATASETS["do_not_answer"]).open(encoding="utf-8") as f:
        texts |= {f"do_not_answer:{i}": json.loads(line)["prompt"] for i, line in enumerate(f)}
    return texts


def prompts(
    role: str,
    *,
    label: str | None = None,
    source: str | None = None,
    n: int | None = None,
    seed: int = 0,
    tier: str = "embedded",
) -> pd.DataFrame:
    """`n` prompts of one role (all of them where None), drawn in an order fixed by `seed`, each source in
    proportion.

    A source of `BY_NAME_ONLY` is given only where it is named, so that no other draw holds or depends on it.
    Raises ParameterError for an unknown role or source, for n < 1, or for more prompts than there are.
    """
    if role not in ROLES:
        raise ParameterError(f"unknown role {role!r}", nearest(role, ROLES))
    if source is not None and source not in SOURCES:
        raise ParameterError(f"unknown source {source!r}", nearest(source, SOURCES))
    table = all_prompts(tier)
    keep = table.role == role
    keep &= (table.label == label) if label else True
    keep &= (table.source == source) if source else ~table.source.isin(BY_NAME_ONLY)
    table = table[keep]
    if n is not None and not 1 <= n <= len(table):
        what = " ".join(x for x in (source or label, role) if x)
        raise ParameterError(
            f"{n} {what} prompts were asked for", f"there are {len(table)}; choose from 1 to {len(table)}"
        )
    order = np.random.default_rng(seed).permutation(len(table))
    # a random rank, made relative within each source
    share = pd.Series(range(len(table)), index=table.index[order])
    rank = share.groupby(table.source.loc[share.index]).rank(pct=True)
    return table.loc[rank.sort_values(kind="stable").index[:n]].reset_index(drop=True)


def judge_cases() -> pd.DataFrame:
    """Texts whose outcome is known, for the judge: id, kind, text (may be empty), outcome (of
    `refusal.measure.judge.OUTCOMES`); rules in data/README.md.
    """
    return pd.read_csv(DATA / "judge_cases.csv", dtype=str, keep_default_na=False)


def without_final_punctuation(table: pd.DataFrame) -> pd.DataFrame:
    """The same prompts without closing ``?``, ``.`` and ``!``, so that each one's last token is a word.

    No HarmBench behaviour ends in punctuation and every pseudo-harmful prompt does: read at the last token,
    form would pass for harm.
    """
    return table.assign(text=table.text.str.strip().str.rstrip("?.!").str.rstrip())


def neutral_text() -> list[str]:
    """Neutral paragraphs written for this project, for the cost of an intervention in cross-entropy."""
    return [
        p.strip() for p in (DATA / "neutral_text.txt").read_text(encoding="utf-8").split("\n\n") if p.strip()
    ]


def hashes(tier: str) -> dict[str, str]:
    """SHA-256 of every data file that a run reads, for its provenance."""
    own = {path.name: sha256(path) for path in sorted(DATA.iterdir()) if path.suffix in (".csv", ".txt")}
    return own if tier == "smoke" else own | {file.name: file.sha256 for file in DATASETS.values()}


def judged_answers() -> pd.DataFrame:
    """Labels of answers that two raters read, by the SHA-256 of the text: ``data/judged_answers.csv``,
    described in data/README.md.
    """
    return pd.read_csv(DATA / "judged_answers.csv", dtype=str, keep_default_na=False)


def on_task() -> pd.DataFrame:
    """Beginnings of answers to harmless requests, with what two readers say they are: id, query, answer, kind
    (as written), first, second; described in data/README.md.
    """
    return pd.read_csv(DATA / "on_task.csv", dtype=str, keep_default_na=False)
