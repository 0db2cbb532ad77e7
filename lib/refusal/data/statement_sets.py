"""True and false statements, in pairs that share the object and differ in the subject."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError, nearest
from refusal.base.files import DATA

STATEMENT_SETS = (
    "cities",
    "neg_cities",
    "larger_than",
    "smaller_than",
    "translations",
    "element_symbols",
    "animal_class",
)
# given where they are named, not by default
NEGATED_SETS = ("neg_translations", "neg_element_symbols", "neg_animal_class")


def statements(
    names: Sequence[str] = STATEMENT_SETS, *, pairs: int | None = None, seed: int = 0, tier: str = "embedded"
) -> pd.DataFrame:
    """True and false statements: id, set, statement, label (bool), subject, object, pair; `pairs` of each
    set, drawn by `seed`.

    The two statements of a pair share the object and differ in the subject; of a set, subjects occur as often
    true as false. Raises ParameterError for an unknown set or more pairs than the smallest set has.
    """
    known = STATEMENT_SETS + NEGATED_SETS
    if unknown := set(names) - set(known):
        raise ParameterError(f"unknown statement set {min(unknown)!r}", nearest(min(unknown), known))
    if tier == "smoke":
        from refusal.data.planted import planted_statements

        table = planted_statements(STATEMENT_SETS)
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
