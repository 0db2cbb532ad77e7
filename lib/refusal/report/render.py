"""The ledger as text: its rows, counts, and what other parameters change."""

import fnmatch
import sys
from collections.abc import Iterable
from pathlib import Path

from refusal.report.committed import committed
from refusal.report.rules import Claim, Record, read_records


def read_ledger(results: Path, tracked: bool = False) -> tuple[list[tuple[str, str, Record]], list[str]]:
    """(tier, model, record) of every ``claims.json`` under `results`, or of those that are committed, in a
    fixed order; a run with other parameters is "model @ parameters". And a line for each file that is
    missing, or holds no records of the present kind.
    """
    found, problems = [], []
    here = committed(results) if tracked else results.glob("*/*/*/claims.json")
    for path in sorted(path for path in here if path.name == "claims.json"):
        tier, model, (_, at, differs) = path.parts[-4], path.parts[-3], path.parts[-2].partition("@")
        try:
            records = read_records(path)
        except (OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(f"left out: {path} ({why}); run that again, or remove its folder")
            continue
        found += [(tier, f"{model} @ {differs}" if at else model, r) for r in records]
    return found, problems


def beside_default(
    ledger: Iterable[tuple[str, str, Record]], model: str
) -> dict[str, list[tuple[Record, Record]]]:
    """{other parameters: [(record by default, record with them)]} of a model's runs."""
    ledger = list(ledger)
    default = {r.id: r for _, m, r in ledger if m == model}
    found: dict[str, list[tuple[Record, Record]]] = {}
    for _, name, r in ledger:
        if name.startswith(f"{model} @ ") and r.id in default:
            found.setdefault(name.partition(" @ ")[2], []).append((default[r.id], r))
    return found


def flips(ledger: Iterable[tuple[str, str, Record]], model: str) -> str | None:
    """Which verdicts of `model` change with other parameters, and from what to what value, as a list; None
    where there are no such runs.
    """
    parts = []
    for name, both in beside_default(ledger, model).items():
        changed = [
            f"{r.id} from {d.verdict} ({number(d.value)}) to {r.verdict} ({number(r.value)})"
            for d, r in both
            if d.verdict != r.verdict
        ]
        parts.append(
            f"- `{name}`: {len(changed)} of {len(both)} verdicts change"
            + (": " if changed else "")
            + "; ".join(changed)
        )
    return "\n".join(parts) or None


def number(x: float | str | list | None) -> str:
    """A value as text: two decimals, of a small one two digits."""
    if not isinstance(x, float):
        return "–" if x is None else str(x)
    return f"{x:.2f}" if x == 0 or abs(x) >= 0.095 else f"{x:.2g}"


def interval(r: Record) -> str:
    """The interval behind a value as text; nothing where there is none."""
    return f" [{number(r.ci95[0])}, {number(r.ci95[1])}]" if r.ci95 else ""


def needed(r: Record) -> str:
    """About how many items would decide, as text; nothing where it is decided or no number would."""
    return f" (about {r.needed_n} items would decide)" if r.needed_n else ""


def controls_of(r: Record) -> dict[str, float | int | str | None]:
    """The controls of a record that are one value, without their intervals."""
    return {k: v for k, v in r.controls.items() if not k.endswith("_ci95") and not isinstance(v, list)}


def controls_used(r: Record) -> dict[str, float | int | str | None]:
    """Those of `controls_of` that the record's rule compares with."""
    patterns = r.rule.controls()
    return {k: v for k, v in controls_of(r).items() if any(fnmatch.fnmatchcase(k, p) for p in patterns)}


def controls(r: Record) -> str:
    """Four controls of a record as text, those that its rule compares with first."""
    found = list((controls_used(r) | controls_of(r)).items())[:4]
    return ", ".join(f"{k.replace('_', ' ')} {number(v)}" for k, v in found)


MADE = {
    "released": "",
    "trained here": " (model trained here)",
    "constructed": " (constructed model: tests the instrument)",
}


def paper_value(claim: Claim) -> str:
    """What a claim's paper found, as text."""
    return "; ".join(f"{k} {number(v)}" for k, v in (claim.paper_value or {}).items()) or (
        "our question" if claim.origin == "ours" else "–"
    )


def table(records: list[Record]) -> list[list[str]]:
    """Rows of text: claim, paper's value, value here with interval and n, controls, verdict."""
    rows = []
    for r in records:
        here = f"{number(r.value)}{interval(r)}, n {r.n}"
        said = f"{r.id}: {r.statement}{MADE[r.evidence]}"
        rows.append([said, paper_value(r), here, controls(r), r.verdict + needed(r)])
    return rows


# what disagrees with a paper comes first
ORDER = ("not replicated", "underpowered", "uninformative", "replicated")


def counts(records: Iterable[Record]) -> str:
    """How many records have each verdict, as words."""
    verdicts = [r.verdict for r in records]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts)


def standing(verdicts: list[str]) -> str:
    """What the verdicts on a paper's claims, of models that others released, say about that paper: a
    sentence.
    """
    tally = ", ".join(f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts)
    if not any(v in ("replicated", "not replicated") for v in verdicts):
        return (
            f"This finding says nothing about its paper yet: "
            f"{f'of its claims, on released models, {tally}' if verdicts else 'no released model was tried'}."
        )
    return f"Of its paper's claims, on released models: {tally}."


def verdicts_here(finding: str) -> list[str]:
    """The verdicts on a paper's claims, of released models, in the ledger that is here: of one finding, by
    the start of its ids. Smoke runs, and those with other parameters than the defaults, stay out; what cannot
    be read is named on stderr.
    """
    from refusal.base.files import RESULTS

    ledger, problems = read_ledger(RESULTS)
    for problem in problems:
        print(problem, file=sys.stderr)
    return [
        r.verdict
        for tier, model, r in ledger
        if tier != "smoke" and " @ " not in model and r.id.startswith(f"{finding}.")
        if (r.origin, r.evidence) == ("paper", "released")
    ]
