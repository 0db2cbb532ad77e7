"""The ledger: what a paper claims, what was measured here with its interval and controls, and the verdict a
rule gives.

The fixed part of a claim (`Claim`: statement, paper's values, rule) stands in
``notebooks/NN_name.claims.toml`` and is written before the run; a notebook adds what it measured. A rule is a
value: conditions on 95 % intervals. An interval wholly on the claimed side of the bar counts as yes, wholly
on the other side as no, across it as unclear. Precedence of verdicts: uninformative (the model fails the
claim's precondition), underpowered (too few items, random directions or sets, or a control that is missing),
then the rule: replicated, not replicated, or underpowered again where an interval spans both answers.
"""

import fnmatch
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from refusal.base.errors import UserError
from refusal.model.registry import CONSTRUCTED, RECIPES

MIN_N = 20  # below this many items a cell is underpowered, whatever its value
Verdict = Literal["replicated", "not replicated", "uninformative", "underpowered"]
# the control that says which part of a half width is of trainings (`refusal.measure.trainings`): the
# value's, or, after its name, a control's
OF_TRAININGS = "trainings_half_width"
Evidence = Literal["released", "trained here", "constructed"]
Origin = Literal["paper", "ours"]
Answer = tuple[str, str]  # yes | no | unclear, and the sentence behind it


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Compare(_Frozen):
    """The value (or the control `of` with its ``<of>_ci95``) lies on one side of a bar, a number or the name
    of a control, by `margin`.

    `times` scales a bar that is a control. `of` may be a pattern (``refused_*``): then every control that
    fits must hold, and one must be there.
    """

    margin: float = 0.0
    times: float = 1.0
    of: str | None = None

    @property
    def bar(self) -> float | str:
        """A number, or the name of the control that is the bar."""
        assert isinstance(self, (Above, Below))
        return self.above if isinstance(self, Above) else self.below

    @property
    def sign(self) -> int:
        """1 where the value is to lie above the bar, -1 where below."""
        return 1 if isinstance(self, Above) else -1

    def at(self, control: float | None) -> float | None:
        """Where the bar lies if the control that it is has this value; None without one. A bar that is a
        number lies where it lies.
        """
        bar = self.bar
        if isinstance(bar, str):
            if control is None:
                return None
            bar = control * self.times
        return bar + self.sign * self.margin

    def level(self, measured: "Measured") -> float | None:
        """Where the bar lies; None where the control that it is was not measured."""
        return self.at(measured.number(self.bar) if isinstance(self.bar, str) else None)

    def answer(self, measured: "Measured") -> Answer:
        bar, sign, level = self.bar, self.sign, self.level(measured)
        side, against = ("above" if sign > 0 else "below"), (f"{bar} " if isinstance(bar, str) else "")
        found = []
        for name, value, interval in measured.named(self.of):
            if value is None or interval is None or level is None:
                return (
                    "missing",
                    f"{name if value is None or interval is None else bar} could not be measured",
                )
            low, high = interval if sign > 0 else (-interval[1], -interval[0])
            answer = "yes" if low > sign * level else "no" if high <= sign * level else "unclear"
            verb = {"yes": "is", "no": "is not", "unclear": "is not clearly"}[answer]
            found.append(
                (
                    answer,
                    f"{name} {value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}] {verb} {side} "
                    f"{against}{level:.3g}",
                )
            )
        return _worst(found) if found else ("missing", f"{self.of} could not be measured")

    def words(self) -> str:
        bar, side = self.bar, "above" if self.sign > 0 else "below"
        bar = f"{self.times:g} × {bar}" if self.times != 1 else bar if isinstance(bar, str) else f"{bar:g}"
        by = f" by {self.margin:g}" if self.margin else ""
        return f"{self.of or 'value'} {side} {bar}{by}"

    def sufficiency(self) -> Iterable["Enough"]:
        return ()

    def controls(self) -> list[str]:
        """Names, or patterns of names, of the controls that are compared."""
        return [name for name in (self.bar, self.of) if isinstance(name, str)]


class Above(_Compare):
    above: float | str


class Below(_Compare):
    below: float | str


class Enough(_Frozen):
    """The number in the control `enough` is at least `n`; fewer cannot decide a claim either way, so this is
    asked before all else.
    """

    enough: str
    n: int

    def answer(self, measured: "Measured") -> Answer:
        have = measured.number(self.enough)
        return (
            "yes" if (have or 0) >= self.n else "missing"
        ), f"{have or 0} {self.enough}, at least {self.n} are needed"

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
    """What decides among conditions that must all hold: what could not be measured, then a no, then what is
    unclear.
    """
    for kind in ("missing", "no", "unclear"):
        if any(answer == kind for answer, _ in answers):
            return kind, "; ".join(text for answer, text in answers if answer == kind)
    return "yes", "; ".join(text for _, text in answers)


def rule_of(value: dict) -> Rule:
    """A rule from its plain form, as claims files and records hold it. Raises pydantic.ValidationError."""
    return TypeAdapter(Rule).validate_python(value)


class Plan(_Frozen):
    """What a claim's default size is meant to decide, set before any result; `refusal.report.power` says how
    many items that takes. No verdict depends on it.

    `smallest` is the smallest effect worth seeing: how far beyond its bar the value lies, in the value's
    unit. `n` says how many items there are by default: a number, a parameter of the notebook, or a product
    (``2 * n_arm``, ``n_pool // 2``); of two groups, those of each. What is not known before a run is assumed:
    `bar` is the level of a bar that is a control, `spread` the standard deviation of one item. `of` names the
    control that the claim hinges on, where it is not the value. `undecided` says why the default stays though
    it cannot decide at that effect.
    """

    smallest: float = Field(gt=0)
    n: int | str
    kind: Literal["rate", "paired", "unpaired", "mean", "auroc", "other"]
    bar: float | None = None
    spread: float | None = Field(default=None, gt=0)
    of: str | None = None
    undecided: str | None = Field(default=None, min_length=10)


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
    plan: Plan | None = None


class Measured(_Frozen):
    """What a notebook found for one claim: a value with its 95 % interval, from n items, and the controls
    beside it.
    """

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    controls: dict[str, float | int | str | None | list] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _of_trainings(cls, given):
        """What an estimate says of its trainings stands among the controls."""
        if not isinstance(given, dict) or "half_width" not in given:
            return given
        given = dict(given)
        if half := given.pop("half_width"):
            given["controls"] = given["controls"] | {OF_TRAININGS: half}
        return given

    def number(self, name: str) -> float | int | None:
        """A control that is one number; None where it is not there."""
        found = self.controls.get(name)
        assert not isinstance(found, (str, list)), f"the control {name} is no number"
        return found

    def named(self, of: str | None):
        """(name, value, interval) of the value itself, of a control, or of all controls that fit a
        pattern."""
        if of is None:
            return [("the value", self.value, self.ci95)]
        fit = (
            [k for k in self.controls if fnmatch.fnmatchcase(k, of) and f"{k}_ci95" in self.controls]
            if "*" in of
            else [of]
        )
        return [(name, self.controls.get(name), self.controls.get(f"{name}_ci95")) for name in fit]


class Record(Claim, Measured):
    """One line of the ledger, as ``claims.json`` holds it. Raises pydantic.ValidationError for a claim
    without interval or control.
    """

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
    """The claims of one file, by id. Raises UserError where there is no such file, where it is no claims
    file, and where an id stands twice.
    """
    hint = "docs/verdicts.md says what a claims file holds"
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    except FileNotFoundError:
        raise UserError(f"there is no claims file {path.name} beside the notebook", hint) from None
    except (KeyError, ValueError) as error:
        raise UserError(f"{path.name} is no claims file: {error}", hint) from None
    claims: dict[str, Claim] = {}
    for entry in entries:
        try:
            claim = Claim(**entry)
        except (TypeError, ValidationError) as error:
            which = entry.get("id", "without an id") if isinstance(entry, dict) else "that is no table"
            raise UserError(f"{path.name}, claim {which}: {_first_fault(error)}", hint) from None
        if claim.id in claims:
            raise UserError(f"{path.name} has the claim {claim.id} twice", hint)
        claims[claim.id] = claim
    return claims


def _first_fault(error: Exception) -> str:
    """One line of what pydantic says in several."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def read_records(path: Path) -> list[Record]:
    """The records of a ``claims.json``. Raises OSError where it cannot be read, and ValueError where it holds
    no records of the present kind.
    """
    return TypeAdapter(list[Record]).validate_json(path.read_bytes())


def evidence_of(*names: str) -> Evidence:
    """What models of these names are evidence for: weights published by others, trained here without a
    planted answer, or constructed.
    """
    kinds = [
        "constructed" if n in CONSTRUCTED else RECIPES[n].evidence if n in RECIPES else "released"
        for n in names
    ]
    return next(kind for kind in ("constructed", "trained here", "released") if kind in kinds)


def decide(
    rule: Rule, measured: Measured, precondition: str | None = None
) -> tuple[Verdict, str, int | None]:
    """The verdict, the sentence behind it, and about how many items would decide (None where it is decided or
    more items would not help).

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
    if answer == "missing":
        return "underpowered", f"{text}; no number of items decides without it", None
    return "underpowered", f"{text}; {_what_would_decide(rule, measured)}", needed_n(rule, measured)


def comparisons(rule: Rule) -> Iterable[Above | Below]:
    """The comparisons of a rule, at any depth."""
    for part in rule.all if isinstance(rule, All) else ():
        yield from comparisons(part)
    if isinstance(rule, (Above, Below)):
        yield rule


def bars(r: Record) -> list[tuple[float, str]]:
    """Where the bars of a record's value lie, and in words which they are, as figures draw them."""
    mine = [part for part in comparisons(r.rule) if part.of is None]
    words = lambda part: part.words().removeprefix("value ").replace("_", " ")
    return [(level, words(part)) for part in mine if (level := part.level(r)) is not None]


def _unclear(rule: Rule, measured: Measured) -> list[Above | Below]:
    """The comparisons whose interval spans their bar; a pattern gives one for each control that fits."""
    each = [
        part.model_copy(update={"of": name if part.of else None})
        for part in comparisons(rule)
        for name, _, _ in measured.named(part.of)
    ]
    return [part for part in each if part.answer(measured)[0] == "unclear"]


def _what_would_decide(rule: Rule, measured: Measured) -> str:
    """What would decide a rule that is unclear: about how many items of the value, more of a control, or no
    number.
    """
    unclear, n = _unclear(rule, measured), needed_n(rule, measured)
    # a bar that is a control was measured as well, and moves with its own items
    bars = dict.fromkeys(part.bar for part in unclear if isinstance(part.bar, str))
    others = [*bars, *dict.fromkeys(part.of for part in unclear if part.of)]
    if n is None and any(_hidden(part, measured) for part in unclear):
        what = "trainings, or settings, differ by more than lies between value and bar"
        return f"{what}, which no number of items changes"
    if n is None:
        return "a value lies on its bar, so no number of items decides"
    also = f", with as many times the items of {', '.join(others)}" if others else ""
    return f"about {n} items would decide, {measured.n} were used{also}"


def needed_n(rule: Rule, measured: Measured) -> int | None:
    """About how many items would put every interval on one side of its bar, if values and bars stay and the
    items of controls grow as those of the value do: widths shrink with √n, but for what the trainings behind
    the value differ by. None where a value lies on its bar, or within that of it.
    """
    needed = []
    for part in _unclear(rule, measured):
        level = part.level(measured)
        for _, value, ci95 in measured.named(part.of):
            assert value is not None and ci95 is not None and level is not None  # or it would be missing
            gap = value - level
            if abs(gap) < 1e-9:  # on it, but for rounding
                return None
            width, stays = abs(value - ci95[0 if gap > 0 else 1]), _stays(part, measured)
            if stays >= abs(gap):
                return None
            shrinks = max(width**2 - stays**2, 0.0) / (gap**2 - stays**2)
            needed.append(math.ceil(round(measured.n * shrinks, 6)))
    return max(needed, default=None)


def _stays(part: Above | Below, measured: Measured) -> float:
    """Which part of the half width of what a comparison is about no number of items takes away."""
    return float(measured.number(f"{part.of}_{OF_TRAININGS}" if part.of else OF_TRAININGS) or 0.0)


def _hidden(part: Above | Below, measured: Measured) -> bool:
    """Whether trainings, or settings, differ by more than lies between the value and its bar."""
    level = part.level(measured)
    gaps = [abs(v - level) for _, v, _ in measured.named(part.of) if v is not None and level is not None]
    return any(1e-9 <= gap <= _stays(part, measured) for gap in gaps)


def record(claim: Claim, measured: Measured, evidence: Evidence, precondition: str | None = None) -> Record:
    """The ledger's line for a claim and what was measured; `evidence` is that of the notebook's models: where
    they are constructed, so is whatever another claim is about.
    """
    verdict, reason, needed = decide(claim.rule, measured, precondition)
    fixed = claim.model_dump(exclude={"evidence"})
    return Record(
        **fixed,
        **measured.model_dump(),
        evidence=evidence if evidence == "constructed" else claim.evidence or evidence,
        expected=claim.rule.words(),
        verdict=verdict,
        reason=reason,
        needed_n=needed,
    )
