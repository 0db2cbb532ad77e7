"""The figure of a sweep: each claim's value over the parameter that was swept, beside what its rule compares
with, in grey.
"""

import fnmatch
import itertools
from collections.abc import Iterator, Sequence

import pandas as pd

from refusal.model.names import shown_name
from refusal.report.rules import Record, comparisons
from refusal.run import params
from refusal.run.sweep import Sweep, in_words, is_number

COLUMNS = ("panel", "series", "role", "x", "group", "value", "low", "high", "n")
Records = Sequence[dict[str, Record]]  # of each run by claim; empty where it failed


def points(one: Sweep, records: Records) -> pd.DataFrame:
    """The rows that `refusal.report.figures.draw` draws: over a number curves, a panel for each claim and
    each combination of what else was swept; otherwise runs side by side, a panel a claim.
    """
    rows = []
    for k, id in itertools.product(range(len(one.runs)), one.claims):
        if id not in records[k]:
            continue
        apart = one.apart(k)
        x = apart.pop(one.along) if one.along else None
        said = [id] if len(one.claims) > 1 or not (one.along and apart) else []
        panel = ", ".join([*said, in_words(apart)] if one.along and apart else said)
        for name, role, value, (low, high) in _compared(records[k][id]):
            rows.append((panel, name, role, x, in_words(apart), value, low, high, records[k][id].n))
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS)).astype(
        dict.fromkeys(("value", "low", "high"), float)
    )
    measured = table.groupby(["panel", "series"]).value.transform("count") > 0
    return table[measured].drop(columns="group" if one.along else "x")


def _compared(r: Record) -> Iterator[tuple]:
    """(name, role, value, interval) of a record's value, of the controls that its rule compares with, and of
    a bar that is a number.
    """
    yield "value", "effect", r.value, r.ci95 or (None, None)
    for pattern in dict.fromkeys(r.rule.controls()):
        for name in fnmatch.filter(r.controls, pattern):
            if is_number(value := r.controls[name]):
                yield name.replace("_", " "), "control", value, r.controls.get(f"{name}_ci95") or (None, None)
    for part in comparisons(r.rule):
        if part.of is None and not isinstance(part.bar, str):
            yield f"bar {part.level(r):g}", "control", part.level(r), (None, None)


def labels(one: Sweep, records: Records, table: pd.DataFrame) -> dict:
    """What `refusal.report.figures.draw` writes around the rows."""
    found = [run[id] for run in records for id in one.claims if id in run]
    rules, n = {r.rule.words() for r in found}, sorted({r.n for r in found})
    models = {shown_name(n) for v in one.values for n in params.models_of(one.notebook, v)[0]}
    made = " (constructed model)" if any(r.evidence == "constructed" for r in found) else ""
    items = f"n {n[0]}" if len(n) == 1 else f"n {n[0]} to {n[-1]}"
    rule = f", {rules.pop()}" if len(rules) == 1 else ""
    spec = {
        "kind": "layers" if one.along else "rates",
        "title": f"{', '.join(one.claims)} over {one.along or ', '.join(one.swept)}",
        "xlabel": one.along or "",
        "ylabel": "value of the claim",
        "sharey": len(one.claims) == 1,
        "model": ", ".join(sorted(models)) + made,
        "note": f"{len(one.runs)} runs of {one.notebook.stem}; {items}; 95 % intervals; grey: what the rule "
        f"compares with{rule}",
    }
    return spec | ({"xticks": sorted(set(table.x))} if one.along else {})
