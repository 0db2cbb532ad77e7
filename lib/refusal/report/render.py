"""The ledger as text: tables, counts, paragraphs for the README."""

import fnmatch
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from refusal.report.committed import committed
from refusal.report.rules import Claim, Record


def read_ledger(results: Path, tracked: bool = False) -> list[tuple[str, str, Record]]:
    """(tier, model, record) of every ``claims.json`` under `results`, or of those that are committed, in a
    fixed order; a run with other parameters is "model @ parameters".

    A file that holds no records of the present kind is named on stderr and left out.
    """
    found, kept = [], committed(results) if tracked else None
    for path in sorted(results.glob("*/*/*/claims.json")):
        if kept is not None and path not in kept:
            continue
        tier, model, (_, at, differs) = path.parts[-4], path.parts[-3], path.parts[-2].partition("@")
        try:
            records = [Record(**r) for r in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            print(f"left out: {path} cannot be read; run that again, or remove its folder", file=sys.stderr)
            continue
        found += [(tier, f"{model} @ {differs}" if at else model, r) for r in records]
    return found


def flips(ledger: list[tuple[str, str, Record]], model: str) -> str | None:
    """Which verdicts of `model` change with other parameters, and from what to what value, as a list; None
    where there are no such runs.
    """
    default = {r.id: r for _, m, r in ledger if m == model}
    parts = []
    for name in dict.fromkeys(m for _, m, _ in ledger if m.startswith(f"{model} @ ")):
        both = [(default[r.id], r) for _, m, r in ledger if m == name and r.id in default]
        changed = [
            f"{r.id} from {d.verdict} ({_number(d.value)}) to {r.verdict} ({_number(r.value)})"
            for d, r in both
            if d.verdict != r.verdict
        ]
        parts.append(
            f"- `{name.partition(' @ ')[2]}`: {len(changed)} of {len(both)} verdicts change"
            + (": " if changed else "")
            + "; ".join(changed)
        )
    return "With other parameters:\n\n" + "\n".join(parts) if parts else None


def _number(x) -> str:
    return "–" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x)


def _controls(r: Record) -> str:
    """Four controls of a record as text, those that its rule compares with first."""
    names = [k for k, v in r.controls.items() if not k.endswith("_ci95") and not isinstance(v, list)]
    used = [k for k in names if any(fnmatch.fnmatchcase(k, pattern) for pattern in r.rule.controls())]
    return ", ".join(
        f"{k.replace('_', ' ')} {_number(r.controls[k])}" for k in list(dict.fromkeys(used + names))[:4]
    )


MADE = {
    "released": "",
    "trained here": " (model trained here)",
    "constructed": " (constructed model: tests the instrument)",
}


def paper_value(claim: Claim) -> str:
    """What a claim's paper found, as text."""
    return "; ".join(f"{k} {_number(v)}" for k, v in (claim.paper_value or {}).items()) or (
        "our question" if claim.origin == "ours" else "–"
    )


def table(records: list[Record]) -> list[list[str]]:
    """Rows of text: claim, paper's value, value here with interval and n, controls, verdict."""
    rows = []
    for r in records:
        here = _number(r.value) + (f" [{r.ci95[0]:.2f}, {r.ci95[1]:.2f}]" if r.ci95 else "") + f", n {r.n}"
        more = f" (about {r.needed_n} items would decide)" if r.needed_n else ""
        said = f"{r.id}: {r.statement}{MADE[r.evidence]}"
        rows.append([said, paper_value(r), here, _controls(r), r.verdict + more])
    return rows


HEADER = ["claim", "paper", "here [95 % interval]", "controls", "verdict"]


def markdown(records: list[Record]) -> str:
    """The ledger as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(
        lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table(records)]
    )


ORDER = (
    "not replicated",
    "underpowered",
    "uninformative",
    "replicated",
)  # what disagrees with a paper comes first


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
    the start of its ids. Smoke runs, and those with other parameters than the defaults, stay out.
    """
    from refusal.base.files import RESULTS

    return [
        r.verdict
        for tier, model, r in read_ledger(RESULTS)
        if tier != "smoke" and " @ " not in model and r.id.startswith(f"{finding}.")
        if (r.origin, r.evidence) == ("paper", "released")
    ]


BEGIN, END = "<!-- results: written by `make readme` from the ledger -->", "<!-- end of results -->"


def readme_with_results(text: str, paragraphs: Sequence[Callable[[list[Record]], str | None]] = ()) -> str:
    """`text` with the part between its two markers made anew from the committed ledger, and what the findings
    say of their records.

    For each model: papers' claims, then questions of ours. Records of constructed models are the same
    whatever model a run is about, so they come once, at the end, and speak for or against no paper.
    """
    from refusal.base.files import RESULTS

    everything = [entry for entry in read_ledger(RESULTS, tracked=True) if entry[0] != "smoke"]
    ledger = [entry for entry in everything if " @ " not in entry[1]]
    parts, constructed = [], {}
    for tier, model in dict.fromkeys((t, m) for t, m, _ in ledger):
        records = sorted(
            (r for t, m, r in ledger if (t, m) == (tier, model)), key=lambda r: ORDER.index(r.verdict)
        )
        for r in records:
            if r.evidence == "constructed":
                constructed.setdefault(r.id, r)
        real = [r for r in records if r.evidence != "constructed"]
        if not real:
            continue
        kinds = {
            kind: [r for r in real if r.evidence == kind and r.origin == "paper"]
            for kind in ("released", "trained here")
        }
        heads = [
            f"{counts(of)} "
            f"({'weights published by others' if kind == 'released' else 'a model trained here'})"
            for kind, of in kinds.items()
            if of
        ]
        parts.append(
            f"**{model}** (tier `{tier}`), claims of papers: "
            f"{'; '.join(heads) or 'none'}\n\n{markdown([r for r in real if r.origin == 'paper'])}"
        )
        if ours := [r for r in real if r.origin == "ours"]:
            parts.append(f"Questions of ours, which no paper answered: {counts(ours)}\n\n{markdown(ours)}")
        parts += filter(None, [*(paragraph(records) for paragraph in paragraphs), flips(everything, model)])
    if constructed:
        planted = sorted(constructed.values(), key=lambda r: ORDER.index(r.verdict))
        parts.append(
            f"**Constructed models**, in which the answer is planted (they test the instrument): "
            f"{counts(planted)}\n\n{markdown(planted)}"
        )
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + rest.split(END)[1]
