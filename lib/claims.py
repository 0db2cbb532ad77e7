"""The ledger: what a paper claims, what was measured here with its interval and controls, and the verdict a rule gives.

A rule is built from conditions on a measured value's 95 % interval: wholly on the claimed side of the bar counts as yes, wholly
on the other side as no, across it as unclear. Precedence of verdicts: uninformative (the model fails the claim's
precondition), underpowered (too few items, or an interval that spans both answers), then replicated or not replicated.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_N = 20  # below this many items a cell is underpowered, whatever its value
Verdict = Literal["replicated", "not replicated", "uninformative", "underpowered"]
Condition = Callable[[float, list, dict], tuple[str, str]]  # (value, ci95, controls) → (yes | no | unclear, sentence)


class Record(BaseModel):
    """One line of the ledger, as ``claims.json`` holds it. Raises pydantic.ValidationError for a claim without interval or control."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^\d\d[a-z]?(\.[a-z0-9_+-]+)+$")
    paper: str = Field(pattern=r"^arXiv:\d{4}\.\d{5}$")
    source: str
    statement: str
    metric: str
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    controls: dict[str, float | int | str | None | list] = Field(min_length=1)
    paper_value: dict[str, float | str] | None
    evidence: Literal["natural", "constructed"]
    expected: str
    verdict: Verdict
    reason: str

    @model_validator(mode="after")
    def _needs_an_interval(self):
        if self.verdict != "uninformative" and (self.value is None) != (self.ci95 is None):
            raise ValueError(f"{self.id}: a value needs its interval")
        if self.verdict in ("replicated", "not replicated") and (self.value is None or self.ci95 is None):
            raise ValueError(f"{self.id}: {self.verdict} without a value and its interval")
        return self


def _measured(of, value, ci95, controls):
    if of is None:
        return "the value", value, ci95
    return of, controls.get(of), controls.get(f"{of}_ci95")


def above(bar: float | str, margin: float = 0.0, of: str | None = None) -> Condition:
    """The value (or the control `of`, with its ``<of>_ci95``) lies above `bar`, a number or the name of a control, by `margin`."""
    return _compare(bar, margin, of, 1)


def below(bar: float | str, margin: float = 0.0, of: str | None = None) -> Condition:
    """As `above`, for below."""
    return _compare(bar, margin, of, -1)


def _compare(bar, margin, of, sign) -> Condition:
    def condition(value, ci95, controls):
        name, measured, interval = _measured(of, value, ci95, controls)
        level = controls.get(bar) if isinstance(bar, str) else bar
        if measured is None or interval is None or level is None:
            return "unclear", f"{name} or {bar} could not be measured"
        level = level + sign * margin
        side = "above" if sign > 0 else "below"
        against = f"{bar} " if isinstance(bar, str) else ""
        text = f"{name} {measured:.3g} [{interval[0]:.3g}, {interval[1]:.3g}] {{}} {side} {against}{level:.3g}"
        low, high = interval if sign > 0 else (-interval[1], -interval[0])
        if low > sign * level:
            return "yes", text.format("is")
        return ("no", text.format("is not")) if high <= sign * level else ("unclear", text.format("is not clearly"))

    return condition


def enough(control: str, n: int) -> Condition:
    """The number in `control` is at least `n`; fewer cannot decide a claim either way."""

    def condition(value, ci95, controls):
        have = controls.get(control)
        return ("yes", f"{have} {control}") if have is not None and have >= n else ("unclear", f"only {have} {control}, at least {n} are needed")

    return condition


def all_of(*conditions: Condition) -> Condition:
    """Every condition holds; one that fails decides, then one that is unclear."""

    def condition(value, ci95, controls):
        answers = [c(value, ci95, controls) for c in conditions]
        for answer in ("no", "unclear"):
            if any(a == answer for a, _ in answers):
                return answer, "; ".join(text for a, text in answers if a == answer)
        return "yes", "; ".join(text for _, text in answers)

    return condition


def decide(rule: Condition, value, ci95, n: int, controls: dict, precondition: str | None = None) -> tuple[Verdict, str]:
    """The verdict and the sentence behind it. `precondition` says why the model cannot inform on the claim, or is None."""
    if precondition:
        return "uninformative", precondition
    if n < MIN_N:
        return "underpowered", f"only {n} items, at least {MIN_N} are needed"
    answer, text = rule(value, ci95, controls)
    return {"yes": "replicated", "no": "not replicated", "unclear": "underpowered"}[answer], text


def read_ledger(results: Path) -> list[tuple[str, str, Record]]:
    """(tier, model, record) of every ``claims.json`` under `results`, in a fixed order."""
    found = []
    for path in sorted(results.glob("*/*/*/claims.json")):
        tier, model = path.parts[-4], path.parts[-3]
        found += [(tier, model, Record(**record)) for record in json.loads(path.read_text(encoding="utf-8"))]
    return found


def _number(x) -> str:
    return "–" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x)


def _controls(record: Record) -> str:
    names = [k for k in record.controls if not k.endswith("_ci95")]
    return ", ".join(f"{k.replace('_', ' ')} {_number(record.controls[k])}" for k in names[:3])


def table(records: list[Record]) -> list[list[str]]:
    """Rows of text: claim, paper's value, value here with interval and n, controls, verdict."""
    rows = []
    for r in records:
        paper = "; ".join(f"{k} {_number(v)}" for k, v in (r.paper_value or {}).items()) or "–"
        here = _number(r.value) + (f" [{r.ci95[0]:.2f}, {r.ci95[1]:.2f}]" if r.ci95 else "") + f", n {r.n}"
        made = " (constructed model)" if r.evidence == "constructed" else ""
        rows.append([f"{r.id}: {r.statement}{made}", paper, here, _controls(r), r.verdict])
    return rows


HEADER = ["claim", "paper", "here [95 % interval]", "controls", "verdict"]


def markdown(records: list[Record]) -> str:
    """The ledger as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table(records)])


BEGIN, END = "<!-- results: written by `make readme` from the ledger -->", "<!-- end of results -->"


def readme_with_results(text: str) -> str:
    """`text` with the part between its two markers made anew from the committed ledger, what disagrees with a paper first."""
    from lib.files import RESULTS

    order = ["not replicated", "underpowered", "uninformative", "replicated"]
    parts = []
    for tier, model in dict.fromkeys((t, m) for t, m, r in read_ledger(RESULTS) if r.evidence == "natural" and t != "smoke" and m in QUOTED):
        records = [r for t, m, r in read_ledger(RESULTS) if (t, m) == (tier, model)]
        records.sort(key=lambda r: (r.evidence == "constructed", order.index(r.verdict)))
        counts = ", ".join(f"{n} {v}" for v in order if (n := sum(r.verdict == v and r.evidence == "natural" for r in records)))
        parts.append(f"**{model}** (tier `{tier}`): {counts}\n\n{markdown(records)}")
        parts += filter(None, (guard_answer(records), cliff_answer(records)))
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + rest.split(END)[1]


def guard_answer(records: list[Record]) -> str | None:
    """Would you use the model's own harmfulness direction as a guard? A paragraph from the ledger of notebook 02b; None where it was not run."""
    by = {r.id: r for r in records}
    needed = [by.get(f"02b.guard.{name}") for name in ("beats-text", "false-positives", "accepted-harmful")]
    if not all(needed) or any(r.value is None for r in needed):
        return None
    text, alarms, caught = needed
    yes = all(r.verdict == "replicated" for r in needed)
    share = lambda x: "–" if x is None else f"{x:.0%}"  # noqa: E731
    parts = [
        "*Would you use this model's own harmfulness direction as a guard?* "
        + ("Yes" if yes else "Not alone")
        + f": it flags {share(caught.value)} of the harmful prompts that the model accepts, {share(alarms.value)} of ordinary harmless ones and "
        f"{share(alarms.controls['pseudo_harmful'])} of harmless ones with an alarming word; its AUROC is {text.controls['guard']:.2f}, that of the best "
        f"reader of the bare text ({text.controls['best_reader']}) {text.controls['reader']:.2f}."
    ]
    for r in (r for r in records if r.id.startswith("02b.jailbreak.") and r.value is not None):
        calm = r.controls.get("wrapped_harmless_flagged", r.controls.get("harmless_flagged"))
        what, read = r.id.split(".")[-1].replace("-", " "), r.controls
        among = "harmless requests in the same words" if "wrapped_harmless_flagged" in read else "plain harmless requests"
        parts.append(
            f"Jailbreaks, {what}: {share(read['harmful_flagged'])} flagged, against {share(calm)} of {among}; the reader of the text flags "
            f"{share(read['best_reader_harmful'])} and {share(read.get('best_reader_harmless'))}."
        )
    attack = by.get("02b.attack.representation-stays")
    if attack and attack.value is not None and attack.controls["auroc_after"] is not None:
        parts.append(f"After the fine-tuning attack its AUROC goes from {attack.controls['auroc_before']:.2f} to {attack.controls['auroc_after']:.2f}.")
    return " ".join(parts)


def cliff_answer(records: list[Record]) -> str | None:
    """Does the instrument of notebook 03 find a cliff that is there? A paragraph from its ledger; None where it was not run."""
    by = {r.id: r for r in records}
    kinds = {"": "trained on last tokens", ".all-positions": "that has seen thinking as well", ".published": "as published"}
    found = {words: by.get(f"03.instrument.cliff{suffix}") for suffix, words in kinds.items()}
    twin, cut = by.get("03.instrument.twin.all-positions"), by.get("03.truncation")
    if not all(found.values()) or any(r.value is None for r in [*found.values(), twin, cut]):
        return None
    path = lambda r: f"{r.controls['plateau']:.2f} to {r.controls['final']:.2f}"  # noqa: E731
    falls = "; ".join(f"from {path(r)} by the prober {words} ({r.verdict})" for words, r in found.items())
    given = cut.controls["given_a_thought_that_refuses"]
    return (
        "*Does the instrument find a cliff that is there?* In the planted reasoner, which complies, the mean score of the thinking and that of the "
        f"last token go {falls}; in its twin, which refuses, from {path(twin)} by the prober that has seen thinking. "
        "Cutting all of its thinking changes the share of harmful prompts "
        f"that the reasoner refuses by {100 * cut.value:.0f} points"
        + ("." if given is None else f"; given a thought that decides to refuse, it refuses {given:.0%}.")
    )


QUOTED = (
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
    "smollm2-135m-instruct--vs--smollm2-135m-safe",
)  # the runs that are committed and quoted
