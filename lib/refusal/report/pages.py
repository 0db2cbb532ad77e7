"""The pages that ``make readme`` writes from the committed ledger: results/README.md, whole, and the first
screen of README.md between two markers. No number on them is typed by hand.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from refusal.report.render import (
    ORDER,
    beside_default,
    controls,
    counts,
    flips,
    interval,
    needed,
    number,
    paper_value,
)
from refusal.report.rules import Record
from refusal.report.shown import percent

Run = tuple[str, str]  # tier, model
Ledger = Sequence[tuple[str, str, Record]]
Paragraph = Callable[[list[Record]], str | None]

BEGIN, END = "<!-- results: written by `make readme` from the ledger -->", "<!-- end of results -->"
KINDS = {"released": "on released models", "trained here": "on models trained here"}


@dataclass(frozen=True)
class Picture:
    """A committed figure, by its path from the root, what it is in a few words, and what it shows."""

    path: str
    alt: str
    reading: str


@dataclass(frozen=True)
class Finding:
    """What the pages need to know of one notebook: its file's name, its question, the (tier, model) of its
    default run, and what its finding adds (``findings/*/readme.py``): claims to name on the first screen, as
    {id: words with {value}, {share} or a control's name}, and a paragraph from one model's records.
    """

    stem: str
    question: str
    default: Run | None = None
    headlines: Mapping[str, str] = field(default_factory=dict)
    paragraph: Paragraph | None = None


def ledger_page(everything: Ledger, findings: Mapping[str, Finding]) -> str:
    """results/README.md: for each notebook, by its number, a row per claim and a column per model; papers'
    claims, then questions of ours. Constructed models once, in a table of their own; then what other
    parameters change.
    """
    ledger = [entry for entry in everything if " @ " not in entry[1]]
    parts = [
        "# The ledger\n\nWritten by `make readme` from the committed records (`*/*/*/claims.json`); "
        "`make claims` prints the same of all runs that are here. A row is a claim, a column a model; what "
        "disagrees with a paper comes first. Values have their 95 % interval in brackets, n is the number of "
        "items. [How verdicts are made](../docs/verdicts.md), [the words](../docs/glossary.md), "
        "[what the runs cannot show](../docs/limits.md).",
        "\n".join(f"- [{n} · {f.question}](#nb-{n})" for n, f in findings.items())
        + "\n- [Constructed models](#constructed)\n- [With other parameters](#other-parameters)",
    ]
    for n, finding in findings.items():
        mine = [e for e in ledger if _number(e[2]) == n and e[2].evidence != "constructed"]
        parts.append(f'<a id="nb-{n}"></a>\n\n## {n} · {finding.question}')
        if not mine:
            parts.append("No run of this notebook is committed.")
            continue
        parts += _section(mine, [e for e in ledger if _number(e[2]) == n], finding)
    planted: dict[str, Record] = {}
    for _, _, r in ledger:  # the same whatever model a run is about
        if r.evidence == "constructed":
            planted.setdefault(r.id, r)
    parts.append('<a id="constructed"></a>\n\n## Constructed models: does the instrument find what is there?')
    ordered = sorted(planted.values(), key=lambda r: ORDER.index(r.verdict))
    parts.append(
        f"The answer is planted in these models; they test the instrument and speak for or against no "
        f"paper. {counts(ordered) or 'None is committed'}."
    )
    if ordered:
        parts.append(
            _table(
                ["claim", "verdict and value", "controls", "reason"],
                [[_claim(r), _cell(r), controls(r), r.reason] for r in ordered],
            )
        )
    parts.append('<a id="other-parameters"></a>\n\n## With other parameters')
    changed = [
        f"{_shown(model)}\n\n{said}"
        for model in dict.fromkeys(m for _, m, _ in ledger)
        if (said := flips(list(everything), model))
    ]
    parts += changed or ["No run with other parameters is committed."]
    return "\n\n".join(parts) + "\n"


def _section(mine: Ledger, with_planted: Ledger, finding: Finding) -> list[str]:
    """What one notebook's runs found: counts, tables, the finding's paragraph, and behind a fold the controls
    and reasons.
    """
    runs = list(dict.fromkeys((tier, model) for tier, model, _ in mine))
    lines = []
    for run in runs:
        of_paper = [r for t, m, r in mine if (t, m) == run and r.origin == "paper"]
        lines.append(f"- {_named(run, mine)}: claims of papers, {counts(of_paper) or 'none'}")
    parts = ["\n".join(lines)]
    for origin, title in (("paper", "Claims of papers"), ("ours", "Questions of ours")):
        rows = _rows([e for e in mine if e[2].origin == origin], runs)
        if rows:
            beside = ["paper's value"] if origin == "paper" else []
            header = ["claim", *beside, *(_named(run, mine) for run in runs)]
            parts.append(f"**{title}**" + ("" if origin == "paper" else ", which no paper answered"))
            parts.append(_table(header, [[row[0], *row[1 : 1 + len(beside)], *row[2:]] for row in rows]))
    for run in runs:
        records = [r for t, m, r in with_planted if (t, m) == run]
        if finding.paragraph and (said := finding.paragraph(records)):
            parts.append(f"{_shown(run[1])}. {said}")
    rows = [
        [f"`{r.id}`", _shown(model), controls(r), r.reason]
        for _, model, r in sorted(mine, key=lambda e: ORDER.index(e[2].verdict))
    ]
    parts.append(
        "<details><summary>Controls, and the reason of each verdict</summary>\n\n"
        + _table(["claim", "model", "controls", "reason"], rows)
        + "\n\n</details>"
    )
    return parts


def _rows(mine: Ledger, runs: list[Run]) -> list[list[str]]:
    """Claim, paper's value, and a cell for each run; the claim on which a verdict disagrees most comes
    first.
    """
    claims: dict[str, dict[Run, Record]] = {}
    for tier, model, r in mine:
        claims.setdefault(r.id, {})[tier, model] = r
    ordered = sorted(claims.values(), key=lambda by: min(ORDER.index(r.verdict) for r in by.values()))
    return [
        [
            _claim(next(iter(by.values()))),
            paper_value(next(iter(by.values()))),
            *(_cell(by[run]) if run in by else "not run" for run in runs),
        ]
        for by in ordered
    ]


def _claim(r: Record) -> str:
    return f"`{r.id}` {r.statement}"


def _cell(r: Record) -> str:
    """Verdict in words, value with interval, n."""
    measured = f" {number(r.value)}{interval(r)}, n {r.n}" if r.value is not None else ""
    return f"**{r.verdict}**{measured}{needed(r)}"


def _named(run: Run, mine: Ledger) -> str:
    """A run's model, its kind of evidence, and its tier where that is not the embedded one."""
    tier, model = run
    kinds = dict.fromkeys(r.evidence for t, m, r in mine if (t, m) == run)
    return f"{_shown(model)} ({', '.join([*kinds, *([f'tier {tier}'] if tier != 'embedded' else [])])})"


def _shown(model: str) -> str:
    return f"`{model.replace('--vs--', '` against `')}`"


def _number(r: Record) -> str:
    return r.id.partition(".")[0]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in rows)])


def first_screen(everything: Ledger, findings: Mapping[str, Finding], picture: Picture | None) -> str:
    """The generated part of README.md: a picture with its reading, then for each notebook its question, what
    came out, and how many verdicts on papers' claims rest on which kind of evidence.
    """
    ledger = [entry for entry in everything if " @ " not in entry[1] and entry[2].evidence != "constructed"]
    rows, usual = [], _usual(findings)
    for n, finding in findings.items():
        mine = [e for e in ledger if _number(e[2]) == n]
        of = {
            kind: counts(r for _, _, r in mine if (r.origin, r.evidence) == ("paper", kind)) or "none run"
            for kind in KINDS
        }
        rows.append(
            [
                f"[{n}](notebooks/{finding.stem}.ipynb) {finding.question}",
                _came_out(mine, finding, usual) + _moved(everything, mine, finding),
                *of.values(),
            ]
        )
    came = f"what came out, on {_shown(usual)} where no other is named" if usual else "what came out"
    header = ["question", came, *(f"papers' claims, {where}" for where in KINDS.values())]
    shown = [f"![{picture.alt}]({picture.path})", picture.reading] if picture else []
    return "\n\n".join([*shown, _table(header, rows)])


def _usual(findings: Mapping[str, Finding]) -> str | None:
    """The model that most notebooks run on by default; None where none has one."""
    defaults = Counter(finding.default[1] for finding in findings.values() if finding.default)
    return defaults.most_common(1)[0][0] if defaults else None


def _came_out(mine: Ledger, finding: Finding, usual: str | None) -> str:
    """The finding's headline claims with value and verdict, and the interval of what is not decided: of the
    default model, or of the one that decides most where that was not run; which one it is, unless the
    `usual`.
    """
    runs: dict[Run, list[Record]] = {}
    for tier, model, r in mine:
        runs.setdefault((tier, model), []).append(r)
    decided = lambda rs: sum(r.verdict in ("replicated", "not replicated") for r in rs)
    best = sorted(runs.items(), key=lambda run: (run[0] != finding.default, -decided(run[1]), run[0]))
    if not best:
        return "no run is committed"
    (_, model), records = best[0]
    by = {r.id: r for r in records}
    said = [
        f"{_filled(words, by[id])}: {by[id].verdict}"
        + (interval(by[id]) if by[id].verdict == "underpowered" else "")
        for id, words in finding.headlines.items()
        if id in by
    ]
    return "; ".join(said + [f"on {_shown(model)}"] * (model != usual))


def _filled(words: str, r: Record) -> str:
    """`words` with what is measured in place of {value} and {share}, and a control in place of its name."""
    controls = {name: number(value) for name, value in r.controls.items()}
    return words.format(**controls | {"value": number(r.value), "share": percent(r.value)})


def _moved(everything: Ledger, mine: Ledger, finding: Finding) -> str:
    """How many verdicts of the default model are others with other parameters, where that was run."""
    if finding.default is None:
        return ""
    tier, model = finding.default
    own = {r.id for t, m, r in mine if (t, m) == finding.default}
    here = [entry for entry in everything if entry[0] == tier and entry[2].id in own]
    said = [
        f"`{name}` changes {sum(a.verdict != b.verdict for a, b in both)} of {len(both)} verdicts"
        for name, both in beside_default(here, model).items()
    ]
    return f"; {', '.join(said)}" if said else ""


def between(text: str, made: str) -> str:
    """`text` with what stands between its two markers made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"
