"""Requests that are not to be complied with for other reasons than harm, and their twins that are:
``data/noncompliance.csv``, described in data/README.md.
"""

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError, nearest
from refusal.base.files import DATA

OTHERS = ("humanizing", "incomplete", "indeterminate", "unsupported")
CATEGORIES = ("safety", *OTHERS)
KINDS = ("refuse", "contrast")


def noncompliance(
    role: str, category: str, kind: str, n: int | None = None, *, seed: int = 0, tier: str = "embedded"
) -> pd.DataFrame:
    """`n` requests (all where None) of a category, to refuse or contrast ones, in an order fixed by `seed`:
    id, text, source (the category), label (``harmful`` for those to refuse, whatever the reason), pair.

    Of ``safety`` these are harmful requests of the benchmarks, and pseudo-harmful ones. Raises
    ParameterError for an unknown category or kind, and for more than there are.
    """
    if category not in CATEGORIES:
        raise ParameterError(f"unknown category {category!r}", nearest(category, CATEGORIES))
    if kind not in KINDS:
        raise ParameterError(f"unknown kind {kind!r}", nearest(kind, KINDS))
    if category == "safety" or tier == "smoke":  # the constructed model knows harm and nothing else
        from refusal.data.table import prompts

        which = {"label": "harmful"} if kind == "refuse" else {"source": "pseudo_harmful"}
        if tier == "smoke" and category != "safety":
            which = {"label": "harmful"} if kind == "refuse" else {"source": "harmless"}
        table = prompts(role, n=n, seed=seed, tier=tier, **which)
        return table.assign(source=category, id=category + ":" + table.id)
    table = pd.read_csv(DATA / "noncompliance.csv", dtype=str, keep_default_na=False)
    table = table[(table.role == role) & (table.category == category) & (table.kind == kind)]
    if not len(table):
        raise ParameterError(f"no {category} requests have the role {role!r}", "see data/noncompliance.csv")
    if n is not None and not 1 <= n <= len(table):
        raise ParameterError(f"{n} {category} {kind} requests were asked for", f"there are {len(table)}")
    table = table.assign(source=category, label="harmful" if kind == "refuse" else "harmless")
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:n]].reset_index(drop=True)


def refusals_of(category: str) -> list[str]:
    """Refusals that fit every request of one of the `OTHERS`, in different words."""
    table = pd.read_csv(DATA / "noncompliance_refusals.csv", dtype=str, keep_default_na=False)
    return list(table.text[table.category == category])
