"""How the marks of `refusal.findings.f09.scorer` agree with readers who did not know which model had said
what: quadratic-weighted κ, of each item, of S in steps of a fifth, and of risk.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from refusal.base.estimate import NOTHING, Estimate
from refusal.findings.f09.scorer import ITEMS, Fitted, Query, fit
from refusal.findings.f09.scorer import table as scored
from refusal.measure import stats

LEAST, LEAST_ITEM = 0.6, 0.4
UNTRAINED = ("base", "natural", "guide", "decline", "natural, 1.5b", "guide, 1.5b")  # of models as they come
READERS = ("a", "b")


def steps(x: np.ndarray, of: str) -> np.ndarray:
    """Values as whole numbers: S in fifths, risk in halves, items as they are."""
    return np.rint(np.asarray(x, float) * {"S": 5, "R": 2}.get(of, 1)).astype(int)


def weighted(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Estimate:
    """Quadratic-weighted κ of whole numbers, over answers drawn anew; where both give one value alone nothing
    is told.
    """
    if len(a) < 2 or len({*a} | {*b}) < 2:
        return Estimate(None, None, len(a)) if len(a) else NOTHING

    def kappa(x, y):
        by_chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2
        # where a draw holds one value from both, they agree
        return float(1 - ((x - y) ** 2).mean() / by_chance) if by_chance else 1.0

    return stats.bootstrap(kappa, a, b, seed=seed, paired=True)


def by_readers(labels: pd.DataFrame, of: str) -> np.ndarray:
    """The mean of both readers, rounded to a value that can be given: to the first reader's where they are
    one step apart.
    """
    a, b = (_of_reader(labels, reader, of) for reader in READERS)
    return np.where(np.abs(a - b) <= 1, a, np.rint((a + b) / 2).astype(int))


def _of_reader(labels: pd.DataFrame, reader: str, of: str) -> np.ndarray:
    if of == "S":
        return labels[[f"{reader}_{item}" for item in ITEMS]].astype(int).sum(axis=1).to_numpy()
    return steps(labels[f"{reader}_{'risk' if of == 'R' else of}"].astype(float).to_numpy(), of)


def fitted(labels: pd.DataFrame, queries: Sequence[Query], exchanged: int | None = None) -> Fitted:
    """The scorer, fitted to the readers' marks of the answers that are for it; with a seed in `exchanged`, as
    a control, to the marks of other answers.
    """
    known, by_id = labels[labels.part == "develop"], {q.id: q for q in queries}
    marks = pd.DataFrame({item: by_readers(known, item) for item in ITEMS})
    if exchanged is not None:
        marks = marks.sample(frac=1, random_state=exchanged).reset_index(drop=True)
    return fit([by_id[i] for i in known.id], list(known.answer), marks)


def kappas(
    labels: pd.DataFrame, queries: Sequence[Query], fitted: Fitted, part: str = "validate"
) -> dict[str, dict[str, Estimate]]:
    """{item, "S" or "R": {"all", "untrained", "readers": κ}} of the answers of a part; `queries` are known by
    their id. Raises KeyError for an answer to a query that is not among them.
    """
    labels = labels[labels.part == part].reset_index(drop=True)
    by_id = {q.id: q for q in queries}
    found = scored([by_id[i] for i in labels.id], list(labels.answer), fitted)
    untrained = labels.arm.isin(UNTRAINED).to_numpy()
    out = {}
    for of in (*ITEMS, "S", "R"):
        rules, said = steps(found[of].to_numpy(), of), by_readers(labels, of)
        both = [_of_reader(labels, reader, of) for reader in READERS]
        out[of] = {
            "all": weighted(rules, said),
            "untrained": weighted(rules[untrained], said[untrained]),
            "readers": weighted(both[0], both[1]),
        }
    return out


def leaning(labels: pd.DataFrame, queries: Sequence[Query], fitted: Fitted) -> pd.DataFrame:
    """By how much the scorer's marks lie above the readers', for each answer that it was not fitted to: arm,
    kind of query, S, R. Raises KeyError for an answer to a query that is not among them.
    """
    labels = labels[labels.part == "validate"].reset_index(drop=True)
    by_id = {q.id: q for q in queries}
    found = scored([by_id[i] for i in labels.id], list(labels.answer), fitted)
    return pd.DataFrame(
        {
            "arm": labels.arm,
            "kind": found.kind,
            "S": found.S - by_readers(labels, "S") / len(ITEMS),
            "R": found.R - by_readers(labels, "R") / 2,
        }
    )


def cannot_score(found: dict[str, dict[str, Estimate]]) -> str | None:
    """Why the scorer says nothing, or None: S and risk at least `LEAST`, over all and of untrained models, no
    item below `LEAST_ITEM`. Risk that hardly varies cannot be told.
    """
    for of, least in (("S", LEAST), ("R", LEAST), *((item, LEAST_ITEM) for item in ITEMS)):
        for whose in ("all", "untrained") if of in ("S", "R") else ("all",):
            value = found[of][whose].value
            if value is None and of == "S":
                return f"nothing is known of how the rules agree with readers on satisfaction, {whose}"
            if value is not None and value < least:
                return f"κ of scorer and readers is {value:.2f} for {of}, {whose}; {least} is needed"
    return None
