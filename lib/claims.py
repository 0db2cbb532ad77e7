"""The ledger: what a paper claims, what was measured here with its interval and controls, and the verdict a rule gives.

The fixed part of a claim (`Claim`: statement, paper's values, rule) stands in ``notebooks/NN_name.claims.toml`` and is written before the
run; a notebook adds what it measured. A rule is a value: conditions on 95 % intervals. An interval wholly on the claimed side of the bar
counts as yes, wholly on the other side as no, across it as unclear. Precedence of verdicts: uninformative (the model fails the claim's
precondition), underpowered (too few items, random directions or sets, or a control that is missing), then the rule: replicated, not
replicated, or underpowered again where an interval spans both answers.
"""

import fnmatch
import json
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from lib.registry import RECIPES, TINY, TINY_BASE, TINY_CLIFF

MIN_N = 20  # below this many items a cell is underpowered, whatever its value
Verdict = Literal["replicated", "not replicated", "uninformative", "underpowered"]
Evidence = Literal["released", "trained here", "constructed"]
Origin = Literal["paper", "ours"]
Answer = tuple[str, str]  # yes | no | unclear, and the sentence behind it


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Compare(_Frozen):
    """The value (or the control `of` with its ``<of>_ci95``) lies on one side of a bar, a number or the name of a control, by `margin`.

    `times` scales a bar that is a control. `of` may be a pattern (``refused_*``): then every control that fits must hold, and one must be there.
    """

    margin: float = 0.0
    times: float = 1.0
    of: str | None = None

    def _answer(self, bar: float | str, sign: int, measured: "Measured") -> Answer:
        level = measured.controls.get(bar) if isinstance(bar, str) else bar
        level = None if level is None else level * (self.times if isinstance(bar, str) else 1) + sign * self.margin
        side, against = ("above" if sign > 0 else "below"), (f"{bar} " if isinstance(bar, str) else "")
        found = []
        for name, value, interval in measured.named(self.of):
            if value is None or interval is None or level is None:
                return "missing", f"{name if value is None or interval is None else bar} could not be measured"
            low, high = interval if sign > 0 else (-interval[1], -interval[0])
            answer = "yes" if low > sign * level else "no" if high <= sign * level else "unclear"
            verb = {"yes": "is", "no": "is not", "unclear": "is not clearly"}[answer]
            found.append((answer, f"{name} {value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}] {verb} {side} {against}{level:.3g}"))
        return _worst(found) if found else ("missing", f"{self.of} could not be measured")

    def words(self) -> str:
        bar, side = (self.above, "above") if isinstance(self, Above) else (self.below, "below")
        bar = f"{self.times:g} × {bar}" if self.times != 1 else bar if isinstance(bar, str) else f"{bar:g}"
        by = f" by {self.margin:g}" if self.margin else ""
        return f"{self.of or 'value'} {side} {bar}{by}"

    def sufficiency(self) -> Iterable["Enough"]:
        return ()

    def controls(self) -> list[str]:
        """Names, or patterns of names, of the controls that are compared."""
        return [name for name in (self.above if isinstance(self, Above) else self.below, self.of) if isinstance(name, str)]


class Above(_Compare):
    above: float | str

    def answer(self, measured: "Measured") -> Answer:
        return self._answer(self.above, 1, measured)


class Below(_Compare):
    below: float | str

    def answer(self, measured: "Measured") -> Answer:
        return self._answer(self.below, -1, measured)


class Enough(_Frozen):
    """The number in the control `enough` is at least `n`; fewer cannot decide a claim either way, so this is asked before all else."""

    enough: str
    n: int

    def answer(self, measured: "Measured") -> Answer:
        have = measured.controls.get(self.enough)
        return ("yes" if (have or 0) >= self.n else "missing"), f"{have or 0} {self.enough}, at least {self.n} are needed"

    def words(self) -> str:
        return f"at least {self.n} {self.enough}"

    def sufficiency(self):
        yield self

    def controls(self) -> list[str]:
        return []


class All(_Frozen):
    """Every condition holds; one that fails decides, then one that is unclear."""

    all: tuple["Rule", ...] = Field(min_length=1)

    def answer(self, measured: "Measured") -> Answer:
        return _worst([rule.answer(measured) for rule in self.all])

    def words(self) -> str:
        return "; ".join(rule.words() for rule in self.all)

    def sufficiency(self):
        for rule in self.all:
            yield from rule.sufficiency()

    def controls(self) -> list[str]:
        return [name for rule in self.all for name in rule.controls()]


Rule = Above | Below | Enough | All
All.model_rebuild()


def _worst(answers: list[Answer]) -> Answer:
    """What decides among conditions that must all hold: what could not be measured, then a no, then what is unclear."""
    for kind in ("missing", "no", "unclear"):
        if any(answer == kind for answer, _ in answers):
            return kind, "; ".join(text for answer, text in answers if answer == kind)
    return "yes", "; ".join(text for _, text in answers)


def rule_of(value: dict) -> Rule:
    """A rule from its plain form, as claims files and records hold it. Raises pydantic.ValidationError."""
    return TypeAdapter(Rule).validate_python(value)


class Claim(_Frozen):
    """The fixed part of a ledger record, as a claims file holds it."""

    id: str = Field(pattern=r"^\d\d[a-z]?(\.[a-zA-Z0-9_+-]+)+$")
    paper: str = Field(pattern=r"^arXiv:\d{4}\.\d{5}$")
    origin: Origin = "paper"  # a paper's claim, in its direction; or a control question of ours
    source: str
    statement: str
    metric: str
    paper_value: dict[str, float | str] | None = None
    precondition: str  # when a model can inform on the claim, in words
    evidence: Evidence | None = None  # where it is about another model than the notebook's
    rule: Rule


class Measured(_Frozen):
    """What a notebook found for one claim: a value with its 95 % interval, from n items, and the controls beside it."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    controls: dict[str, float | int | str | None | list] = Field(min_length=1)

    def named(self, of: str | None):
        """(name, value, interval) of the value itself, of a control, or of all controls that fit a pattern."""
        if of is None:
            return [("the value", self.value, self.ci95)]
        fit = [k for k in self.controls if fnmatch.fnmatchcase(k, of) and f"{k}_ci95" in self.controls] if "*" in of else [of]
        return [(name, self.controls.get(name), self.controls.get(f"{name}_ci95")) for name in fit]


class Record(Claim, Measured):
    """One line of the ledger, as ``claims.json`` holds it. Raises pydantic.ValidationError for a claim without interval or control."""

    evidence: Evidence
    expected: str
    verdict: Verdict
    reason: str
    needed_n: int | None

    @model_validator(mode="after")
    def _needs_an_interval(self):
        if (self.value is None) != (self.ci95 is None):
            raise ValueError(f"{self.id}: a value needs its interval")
        if self.verdict in ("replicated", "not replicated") and self.value is None:
            raise ValueError(f"{self.id}: {self.verdict} without a value and its interval")
        return self


def read_claims(path: Path) -> dict[str, Claim]:
    """The claims of one file, by id. Raises ValueError where an id stands twice."""
    claims = [Claim(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]]
    if len({c.id for c in claims}) < len(claims):
        raise ValueError(f"{path.name} has a claim twice")
    return {c.id: c for c in claims}


def evidence_of(*names: str) -> Evidence:
    """What models of these names are evidence for: weights published by others, trained here without a planted answer, or constructed."""
    kinds = ["constructed" if n in (TINY, TINY_BASE, TINY_CLIFF) else RECIPES[n].evidence if n in RECIPES else "released" for n in names]
    return next(kind for kind in ("constructed", "trained here", "released") if kind in kinds)


def decide(rule: Rule, measured: Measured, precondition: str | None = None) -> tuple[Verdict, str, int | None]:
    """The verdict, the sentence behind it, and about how many items would decide (None where it is decided or more items would not help).

    `precondition` says why the model cannot inform on the claim, or is None.
    """
    if precondition:
        return "uninformative", precondition, None
    if measured.n < MIN_N:
        return "underpowered", f"only {measured.n} items, at least {MIN_N} are needed", MIN_N
    for condition in rule.sufficiency():
        answer, text = condition.answer(measured)
        if answer != "yes":
            return "underpowered", f"only {text}", None
    answer, text = rule.answer(measured)
    if answer in ("yes", "no"):
        return {"yes": "replicated", "no": "not replicated"}[answer], text, None
    return "underpowered", text, needed_n(rule, measured) if answer == "unclear" else None


def needed_n(rule: Rule, measured: Measured) -> int | None:
    """About how many items would put the value's interval on one side of every bar, if the value stays: widths shrink with √n."""
    needed = []
    for part in rule.all if isinstance(rule, All) else (rule,):
        if isinstance(part, (Above, Below)) and part.of is None and part.answer(measured)[0] == "unclear":
            bar, sign = (part.above, 1) if isinstance(part, Above) else (part.below, -1)
            level = (measured.controls[bar] * part.times if isinstance(bar, str) else bar) + sign * part.margin
            gap = measured.value - level
            if gap == 0:
                return None
            needed.append(math.ceil(measured.n * (abs(measured.value - measured.ci95[0 if gap > 0 else 1]) / abs(gap)) ** 2))
    return max(needed, default=None)


def record(claim: Claim, measured: Measured, evidence: Evidence, precondition: str | None = None) -> Record:
    """The ledger's line for a claim and what was measured; `evidence` is that of the notebook's models."""
    verdict, reason, needed = decide(claim.rule, measured, precondition)
    fixed = claim.model_dump(exclude={"evidence"})
    return Record(**fixed, **measured.model_dump(), evidence=claim.evidence or evidence, expected=claim.rule.words(),
                  verdict=verdict, reason=reason, needed_n=needed)  # fmt: skip


def read_ledger(results: Path) -> list[tuple[str, str, Record]]:
    """(tier, model, record) of every ``claims.json`` under `results`, in a fixed order; a run with other parameters is "model @ parameters"."""
    found = []
    for path in sorted(results.glob("*/*/*/claims.json")):
        tier, model, (_, at, differs) = path.parts[-4], path.parts[-3], path.parts[-2].partition("@")
        found += [(tier, f"{model} @ {differs}" if at else model, Record(**r)) for r in json.loads(path.read_text(encoding="utf-8"))]
    return found


def flips(ledger: list[tuple[str, str, Record]], model: str) -> str | None:
    """Which verdicts of `model` change with other parameters, and from what to what value, as a list; None where there are no such runs."""
    default = {r.id: r for _, m, r in ledger if m == model}
    parts = []
    for name in dict.fromkeys(m for _, m, _ in ledger if m.startswith(f"{model} @ ")):
        both = [(default[r.id], r) for _, m, r in ledger if m == name and r.id in default]
        changed = [f"{r.id} from {d.verdict} ({_number(d.value)}) to {r.verdict} ({_number(r.value)})" for d, r in both if d.verdict != r.verdict]
        parts.append(f"- `{name.partition(' @ ')[2]}`: {len(changed)} of {len(both)} verdicts change" + (": " if changed else "") + "; ".join(changed))
    return "With other parameters:\n\n" + "\n".join(parts) if parts else None


def _number(x) -> str:
    return "–" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x)


def _controls(r: Record) -> str:
    """Four controls of a record as text, those that its rule compares with first."""
    names = [k for k, v in r.controls.items() if not k.endswith("_ci95") and not isinstance(v, list)]
    used = [k for k in names if any(fnmatch.fnmatchcase(k, pattern) for pattern in r.rule.controls())]
    return ", ".join(f"{k.replace('_', ' ')} {_number(r.controls[k])}" for k in list(dict.fromkeys(used + names))[:4])


MADE = {"released": "", "trained here": " (model trained here)", "constructed": " (constructed model: tests the instrument)"}


def table(records: list[Record]) -> list[list[str]]:
    """Rows of text: claim, paper's value, value here with interval and n, controls, verdict."""
    rows = []
    for r in records:
        paper = "; ".join(f"{k} {_number(v)}" for k, v in (r.paper_value or {}).items()) or ("our question" if r.origin == "ours" else "–")
        here = _number(r.value) + (f" [{r.ci95[0]:.2f}, {r.ci95[1]:.2f}]" if r.ci95 else "") + f", n {r.n}"
        more = f" (about {r.needed_n} items would decide)" if r.needed_n else ""
        rows.append([f"{r.id}: {r.statement}{MADE[r.evidence]}", paper, here, _controls(r), r.verdict + more])
    return rows


HEADER = ["claim", "paper", "here [95 % interval]", "controls", "verdict"]


def markdown(records: list[Record]) -> str:
    """The ledger as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table(records)])


ORDER = ("not replicated", "underpowered", "uninformative", "replicated")  # what disagrees with a paper comes first


def counts(records: Iterable[Record]) -> str:
    """How many records have each verdict, as words."""
    verdicts = [r.verdict for r in records]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts)


def standing(verdicts: list[str]) -> str:
    """What the verdicts on a paper's claims, of models that others released, say about that paper: a sentence."""
    tally = ", ".join(f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts)
    if not any(v in ("replicated", "not replicated") for v in verdicts):
        return f"This finding says nothing about its paper yet: {f'of its claims, on released models, {tally}' if verdicts else 'no released model was tried'}."
    return f"Of its paper's claims, on released models: {tally}."


def committed(finding: str) -> list[str]:
    """The verdicts on a paper's claims, of released models, in the ledger that is here: of one finding, by the start of its ids. Smoke runs stay out."""
    from lib.files import RESULTS

    paths = [p for p in sorted(RESULTS.glob("*/*/*/claims.json")) if p.parts[-4] != "smoke"]
    found = [r for path in paths for r in json.loads(path.read_text(encoding="utf-8")) if r["id"].startswith(f"{finding}.")]
    return [r["verdict"] for r in found if (r.get("origin"), r.get("evidence")) == ("paper", "released")]


BEGIN, END = "<!-- results: written by `make readme` from the ledger -->", "<!-- end of results -->"


def readme_with_results(text: str) -> str:
    """`text` with the part between its two markers made anew from the committed ledger.

    For each model: papers' claims, then questions of ours. Records of constructed models are the same whatever model a run is about, so they come
    once, at the end, and speak for or against no paper.
    """
    from lib.files import RESULTS

    everything = [entry for entry in read_ledger(RESULTS) if entry[0] != "smoke"]
    ledger = [(t, m, r) for t, m, r in everything if m in QUOTED]
    parts, constructed = [], {}
    for tier, model in dict.fromkeys((t, m) for t, m, _ in ledger):
        records = sorted((r for t, m, r in ledger if (t, m) == (tier, model)), key=lambda r: ORDER.index(r.verdict))
        for r in records:
            if r.evidence == "constructed":
                constructed.setdefault(r.id, r)
        real = [r for r in records if r.evidence != "constructed"]
        if not real:
            continue
        kinds = {kind: [r for r in real if r.evidence == kind and r.origin == "paper"] for kind in ("released", "trained here")}
        heads = [f"{counts(of)} ({'weights published by others' if kind == 'released' else 'a model trained here'})" for kind, of in kinds.items() if of]
        parts.append(f"**{model}** (tier `{tier}`), claims of papers: {'; '.join(heads) or 'none'}\n\n{markdown([r for r in real if r.origin == 'paper'])}")
        if ours := [r for r in real if r.origin == "ours"]:
            parts.append(f"Questions of ours, which no paper answered: {counts(ours)}\n\n{markdown(ours)}")
        parts += filter(None, (guard_answer(records), cliff_answer(records), flips(everything, model)))
    if constructed:
        planted = sorted(constructed.values(), key=lambda r: ORDER.index(r.verdict))
        parts.append(f"**Constructed models**, in which the answer is planted (they test the instrument): {counts(planted)}\n\n{markdown(planted)}")
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
    """What notebook 03 says about its paper, and whether its instrument finds a cliff that is there: a paragraph from its ledger; None where it was
    not run."""
    by = {r.id: r for r in records if r.id.startswith("03.")}
    if not by:
        return None
    parts = ["*Refusal cliff.* " + standing([r.verdict for r in by.values() if r.origin == "paper" and r.evidence == "released"])]
    kinds = {"": "trained on last tokens", ".all-positions": "that has seen thinking as well", ".published": "as published"}
    found = {words: by.get(f"03.instrument.cliff{suffix}") for suffix, words in kinds.items()}
    path = lambda r: f"{r.controls['plateau']:.2f} to {r.controls['final']:.2f}"  # noqa: E731
    if all(found.values()) and all(r.value is not None for r in found.values()):
        falls = "; ".join(f"from {path(r)} by the prober {words} ({r.verdict})" for words, r in found.items())
        parts.append(f"In the planted reasoner, which complies, the mean score of the thinking and that of the last token go {falls}.")
    twin, cut = by.get("03.instrument.twin.all-positions"), by.get("03.truncation")
    if twin and twin.value is not None:
        parts.append(f"In its twin, which refuses, they go from {path(twin)} by the prober that has seen thinking.")
    if cut and cut.value is not None:
        parts.append(f"Cutting all of its thinking changes the share of harmful prompts that the reasoner refuses by {100 * cut.value:.0f} points.")
        if (given := cut.controls.get("given_a_thought_that_refuses")) is not None:
            parts.append(f"Given a thought that decides to refuse, it refuses {given:.0%}.")
    return " ".join(parts)


QUOTED = (
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
    "smollm2-135m-safe",
    "smollm2-135m-instruct--vs--smollm2-135m-safe",
    "smollm2-135m-instruct--vs--smollm2-135m-safe-lora",
)  # the runs that are committed and quoted
