"""Every prompt of the project: ``data/prompts.csv`` gives its id, source, label and its one role; notebooks take prompts from here only.

The texts of harmful benchmark prompts are not in the repository; they are read from the benchmarks' own verified files.
"""

import csv
import json
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.assets import fetch
from lib.errors import ParameterError, UserError, nearest
from lib.files import DATA, sha256
from lib.registry import DATASETS

ROLES = ("direction", "validation", "test", "post-training", "prober")
STATEMENT_SETS = ("cities", "neg_cities", "larger_than", "smaller_than", "translations", "element_symbols", "animal_class")
NEGATED_SETS = ("neg_translations", "neg_element_symbols", "neg_animal_class")  # given where they are named, not by default
SOURCES = ("harmbench", "strongreject", "do_not_answer", "harmless", "pseudo_harmful", "pseudo_twin", "cannot")
BY_NAME_ONLY = ("cannot",)  # questions that nobody can answer from outside: no sample of ordinary requests


def all_prompts(tier: str = "embedded") -> pd.DataFrame:
    """The whole table: id, source, label, role, category, pair (the id of a twin), text. The smoke tier has its own, generated one."""
    if tier == "smoke":
        from lib.tiny import planted_prompts

        return planted_prompts()
    table = pd.read_csv(DATA / "prompts.csv", dtype=str, keep_default_na=False)
    texts = _benchmark_texts()
    missing = [i for i in table.id[table.text == ""] if i not in texts]
    if missing:
        raise UserError(f"{len(missing)} prompts of data/prompts.csv are not in the benchmark files, the first is {missing[0]}")
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


def prompts(role: str, *, label: str | None = None, source: str | None = None, n: int | None = None, seed: int = 0, tier: str = "embedded") -> pd.DataFrame:
    """`n` prompts of one role (all of them where None), drawn in an order fixed by `seed`, each source in proportion.

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
        raise ParameterError(f"{n} {what} prompts were asked for", f"there are {len(table)}; choose from 1 to {len(table)}")
    order = np.random.default_rng(seed).permutation(len(table))
    share = pd.Series(range(len(table)), index=table.index[order])  # a random rank, made relative within each source
    rank = share.groupby(table.source.loc[share.index]).rank(pct=True)
    return table.loc[rank.sort_values(kind="stable").index[:n]].reset_index(drop=True)


def jailbreak_templates(n: int, seed: int = 0, longest: int = 200) -> list[str]:
    """`n` jailbreak templates collected in the wild (arXiv 2308.03825), of at most `longest` words and without a place to fill in.

    Their text is for measuring only and is never shown. A request is put after a blank line.
    """
    texts = json.loads(fetch(DATASETS["jailbreak_templates"]).read_text(encoding="utf-8"))
    fit = [t.strip() for t in texts if 20 <= len(t.split()) <= longest and not re.search(r"[\[\]{}<>]", t)]
    if not 1 <= n <= len(fit):
        raise ParameterError(f"{n} jailbreak templates were asked for", f"there are {len(fit)}")
    return [fit[i] for i in np.random.default_rng(seed).choice(len(fit), n, replace=False)]


def past_tense_requests(n: int, seed: int = 0) -> pd.DataFrame:
    """`n` harmful requests rewritten as questions about the past (arXiv 2407.11969): id, text, source ``past_tense``, label ``harmful``."""
    lines = [x.strip() for x in fetch(DATASETS["past_tense"]).read_text(encoding="utf-8").splitlines() if x.strip()]
    if not 1 <= n <= len(lines):
        raise ParameterError(f"{n} past-tense requests were asked for", f"there are {len(lines)}")
    chosen = np.random.default_rng(seed).choice(len(lines), n, replace=False)
    return pd.DataFrame([{"id": f"past_tense:{i}", "text": lines[i], "source": "past_tense", "label": "harmful"} for i in chosen])


def past_tense_harmless(n: int | None = None, seed: int = 0) -> pd.DataFrame:
    """`n` harmless test prompts (all where None) rewritten in the form of `past_tense_requests`: id (that of the original, after
    ``past_tense:``), text, source ``past_tense``, label ``harmless``. Raises ParameterError for n < 1 or more than there are.
    """
    table = pd.read_csv(DATA / "past_tense_harmless.csv", dtype=str, keep_default_na=False)
    if n is not None and not 1 <= n <= len(table):
        raise ParameterError(f"{n} harmless past-tense requests were asked for", f"there are {len(table)}")
    table = table.assign(id="past_tense:" + table.id, source="past_tense", label="harmless")
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:n]].reset_index(drop=True)


def judge_cases() -> pd.DataFrame:
    """Texts whose outcome is known, for the judge: id, kind, text (may be empty), outcome (of `lib.judge.OUTCOMES`); rules in data/README.md."""
    return pd.read_csv(DATA / "judge_cases.csv", dtype=str, keep_default_na=False)


def persuasions() -> list[str]:
    """Phrasings that give a reason for a request, written for this project; the request stands at ``{x}``, inside the text and never at its end.

    They end in punctuation: put `without_final_punctuation` on what comes out where the last token is read.
    """
    return [x.strip() for x in (DATA / "persuasions.txt").read_text(encoding="utf-8").splitlines() if x.strip()]


def without_final_punctuation(table: pd.DataFrame) -> pd.DataFrame:
    """The same prompts without closing ``?``, ``.`` and ``!``, so that each one's last token is a word.

    No HarmBench behaviour ends in punctuation and every pseudo-harmful prompt does: read at the last token, form would pass for harm.
    """
    return table.assign(text=table.text.str.strip().str.rstrip("?.!").str.rstrip())


def statements(names: Sequence[str] = STATEMENT_SETS, *, pairs: int | None = None, seed: int = 0, tier: str = "embedded") -> pd.DataFrame:
    """True and false statements: id, set, statement, label (bool), subject, object, pair; `pairs` of each set, drawn by `seed`.

    The two statements of a pair share the object and differ in the subject; of a set, subjects occur as often true as false.
    Raises ParameterError for an unknown set or more pairs than the smallest set has.
    """
    known = STATEMENT_SETS + NEGATED_SETS
    if unknown := set(names) - set(known):
        raise ParameterError(f"unknown statement set {min(unknown)!r}", nearest(min(unknown), known))
    if tier == "smoke":
        from lib.tiny import planted_statements

        table = planted_statements()
    else:
        table = pd.read_csv(DATA / "statements.csv", dtype=str, keep_default_na=False)
    table = table.assign(label=table.label == "true")
    chosen = []
    for name in names:
        part = table[table.set == name]
        # pairs come in twos that exchange their subjects, so twos are drawn: then subjects stay balanced
        order = list(dict.fromkeys(part.pair))
        twos = [order[i : i + 2] for i in range(0, len(order), 2)]
        if pairs is not None and not 1 <= pairs <= len(order):
            raise ParameterError(f"{pairs} pairs of {name} were asked for", f"there are {len(order)}")
        rank = [p for k in np.random.default_rng(seed).permutation(len(twos)) for p in twos[k]][:pairs]
        chosen.append(part.set_index("pair").loc[rank].reset_index())
    return pd.concat(chosen, ignore_index=True)


def neutral_text() -> list[str]:
    """Neutral paragraphs written for this project, for the cost of an intervention in cross-entropy."""
    return [p.strip() for p in (DATA / "neutral_text.txt").read_text(encoding="utf-8").split("\n\n") if p.strip()]


def hashes(tier: str) -> dict[str, str]:
    """SHA-256 of every data file that a run reads, for its provenance."""
    own = {path.name: sha256(path) for path in sorted(DATA.iterdir()) if path.suffix in (".csv", ".txt")}
    return own if tier == "smoke" else own | {file.name: file.sha256 for file in DATASETS.values()}


def judged_answers() -> pd.DataFrame:
    """Labels of answers that two raters read, by the SHA-256 of the text: ``data/judged_answers.csv``, described in data/README.md."""
    return pd.read_csv(DATA / "judged_answers.csv", dtype=str, keep_default_na=False)
