"""System prompts that ask for safety, neutral ones of their form, and ones that decline something harmless:
``data/system_prompts.csv``, described in data/README.md; and what was published of prompts that are learned.
"""

import itertools

import pandas as pd

from refusal.base.files import DATA
from refusal.model.tiny import ALARM, NOUNS, TOOLS, VERBS

SAFETY, NEUTRAL, DECLINING = SYSTEM_KINDS = ("safety", "neutral", "declining")


def system_prompts(tier: str = "embedded") -> pd.DataFrame:
    """Every system prompt: id, kind, pair (the neutral one of a safety prompt and the other way round, else
    empty), source, text. The smoke tier's are nonsense in the words of its model.
    """
    table = pd.read_csv(DATA / "system_prompts.csv", dtype=str, keep_default_na=False)
    if tier != "smoke":
        return table
    stock, words = (
        itertools.product(TOOLS, VERBS, NOUNS),
        {SAFETY: ALARM[0], NEUTRAL: "now", DECLINING: "please"},
    )
    texts = []
    for kind, (tool, verb, noun) in zip(table.kind, itertools.islice(stock, 0, None, 7), strict=False):
        texts.append(f"{verb} the {noun} with the {tool} {words[kind]}")
    return table.assign(text=texts)


def published_dro() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compliance by start, test and measure without a prompt, under the human one, prompt tuning and DRO; and
    what DRO gains on prompt tuning per sample, with 95 % intervals over models and prompts.
    """
    return tuple(pd.read_csv(DATA / f"published_{name}.csv") for name in ("dro", "dro_gain"))  # type: ignore
