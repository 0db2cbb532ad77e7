"""``make sweep``: one notebook with many parameters, from a YAML file; a line a run, then table and figure.

The file says ``notebook`` (its number), ``claim`` (an id or a list of them), and which runs: ``over`` (values
of each parameter; of several parameters all combinations) or ``runs`` (a list of parameters), beside what all
share, ``base``. It may hold a list of such sweeps. No torch here: parameters are checked without it.
"""

import contextlib
import io
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import yaml

from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.files import FIGURES, RESULTS, ROOT, write_bytes, write_text
from refusal.base.took import about_minutes
from refusal.model.names import shown_name
from refusal.report.rules import Record, read_claims, read_records
from refusal.run import params

KEYS = ("notebook", "claim", "base", "over", "runs")


@dataclass(frozen=True)
class Sweep:
    """Checked runs of one notebook: `runs` holds what the file says of each, `values` all of its parameters,
    `swept` the names whose values differ between runs.
    """

    name: str
    notebook: Path
    claims: tuple[str, ...]
    runs: list[dict]
    values: list[dict]
    swept: tuple[str, ...]

    @property
    def tier(self) -> str:
        return self.values[0]["TIER"]

    @property
    def along(self) -> str | None:
        """The first swept parameter that is a number."""
        return next((name for name in self.swept if all(is_number(v[name]) for v in self.values)), None)

    def apart(self, k: int) -> dict:
        """What sets run k apart: its swept parameters, nobody's folders among them."""
        known = params.parameters_of(self.notebook)
        shown = lambda name, value: shown_name(value) if known[name].model else value
        return {name: shown(name, self.values[k][name]) for name in self.swept}


def sweep(path: str) -> None:
    """Run all that the file at `path` asks for. Everything in it is checked before anything starts. Raises
    ParameterError for what cannot be run, UserError at the end where a run failed.
    """
    sweeps = read(Path(path).expanduser())
    from refusal.run import runner

    names = [n for s in sweeps for v in s.values for part in params.models_of(s.notebook, v) for n in part]
    for line in runner.missing(names):
        print(line, flush=True)
    failed = sum(_run(one) for one in sweeps)
    if failed:
        raise UserError(
            f"{failed} of {sum(len(one.runs) for one in sweeps)} runs failed, as their lines say",
            "the same command runs those again and leaves what is up to date",
        )


def read(file: Path) -> list[Sweep]:
    """The sweeps that a file holds, checked. Raises ParameterError."""
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
        raise ParameterError(
            f"SWEEP={file} cannot be read: {reason}", "give the path of a YAML file"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "it is no YAML"
        raise ParameterError(f"{file}{where}: {reason}", "write it as in docs/sweep.md") from None
    several = isinstance(said, list)
    if not said or not all(isinstance(one, dict) for one in (said if several else [said])):
        raise ParameterError(
            f"{file} holds no sweep", f"a mapping of {', '.join(KEYS)}, or a list of such mappings, is needed"
        )
    if not several:
        return [_sweep(str(file), file.stem, said)]
    return [_sweep(f"{file}, sweep {k + 1}", f"{file.stem}-{k + 1}", one) for k, one in enumerate(said)]


def _sweep(where: str, name: str, said: dict) -> Sweep:
    for key in said:
        if key not in KEYS:
            raise ParameterError(f"{where}: there is no key {key!r}", nearest(str(key), KEYS))
    books = params.notebooks()
    number = said.get("notebook")
    number = f"{number:02d}" if isinstance(number, int) else str(number or "")  # 02 is a number in YAML
    if number not in books:
        raise ParameterError(f"{where}: there is no notebook {number!r}", nearest(number, books))
    known, claims = read_claims(books[number].with_suffix(".claims.toml")), said.get("claim")
    claims = claims if isinstance(claims, list) else [claims] if claims else []
    if not claims:
        raise ParameterError(f"{where}: it names no claim", "valid: " + ", ".join(sorted(known)))
    for id in claims:
        if not isinstance(id, str) or id not in known:
            raise ParameterError(f"{where}: there is no claim {id!r}", nearest(str(id), known))
    runs = _runs(where, said)
    values = [_checked(where, books[number], run, k, len(runs)) for k, run in enumerate(runs)]
    for (a, first), (b, second) in itertools.combinations(enumerate(values), 2):
        if first == second:
            raise ParameterError(
                f"{where}: runs {a + 1} and {b + 1} are the same, {in_words(runs[b])}",
                "leave one of them out",
            )
    if len({one["TIER"] for one in values}) > 1:
        raise ParameterError(f"{where}: its runs are of several tiers", "make one sweep of each")
    named = dict.fromkeys(name for run in runs for name in run)
    differ = tuple(n for n in named if any(one[n] != values[0][n] for one in values))
    return Sweep(name, books[number], tuple(dict.fromkeys(claims)), runs, values, differ or tuple(named))


def _runs(where: str, said: dict) -> list[dict]:
    """What the file says of each run: base and its own parameters."""
    base, over, listed = said.get("base") or {}, said.get("over"), said.get("runs")
    if not isinstance(base, dict):
        raise ParameterError(f"{where}: base is no mapping", "for example base: {SEED: 1}")
    if (over is None) == (listed is None):
        raise ParameterError(
            f"{where}: {'neither over nor runs is' if over is None else 'both over and runs are'} given",
            "give one: over: {SEED: [0, 1]} or runs: [{SEED: 0}, {SEED: 1}]",
        )
    if listed is not None:
        if not isinstance(listed, list) or not listed or not all(isinstance(run, dict) for run in listed):
            raise ParameterError(f"{where}: runs is no list of mappings", "runs: [{SEED: 0}, {SEED: 1}]")
        return [base | run for run in listed]
    if not isinstance(over, dict) or not over or not all(isinstance(v, list) and v for v in over.values()):
        raise ParameterError(f"{where}: over is no mapping of lists", "for example over: {SEED: [0, 1]}")
    return [base | dict(zip(over, some, strict=True)) for some in itertools.product(*over.values())]


def _checked(where: str, notebook: Path, run: dict, k: int, of: int) -> dict:
    """All parameters of one run."""
    try:
        return params.resolve(notebook, {str(name): str(value) for name, value in run.items()})
    except ParameterError as error:
        raise ParameterError(f"{where}, run {k + 1} of {of}: {error.what}", error.hint) from None


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def in_words(values: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _run(one: Sweep) -> int:
    """Run a sweep and leave its table and figure; how many runs failed."""
    from refusal.run import runner

    each = about_minutes(runner.place(one.notebook, one.values[0]).parent / one.notebook.stem)
    told = f", the default run took about {each} minutes" if each else ""
    print(f"{one.notebook.stem}, {len(one.runs)} runs{told}", flush=True)
    records: list[dict[str, Record]] = []
    failed = 0
    for k, values in enumerate(one.values):
        print(f"{k + 1}/{len(one.runs)}  {in_words(one.apart(k))}: ", end="", flush=True)
        try:
            with contextlib.redirect_stdout(_Seldom(sys.stdout)):
                how = runner.run(one.notebook, values)
            file = runner.place(one.notebook, values) / "claims.json"
            records.append({r.id: r for r in read_records(file)})
        except UserError as error:
            failed += 1
            records.append({})
            print(f"failed: {error.what}; {error.hint}".rstrip("; "), flush=True)
            continue
        told = "; ".join(f"{id} {_told(records[k][id])}" for id in one.claims)
        print(told + (" (up to date)" if how == "up to date" else ""), flush=True)
    _report(one, records)
    return failed


class _Seldom(io.StringIO):
    """What a run prints, of which its progress comes through once a minute."""

    def __init__(self, out: TextIO):
        super().__init__()
        self.out, self.last = out, time.monotonic()

    def write(self, text: str) -> int:
        if "so far" in text and time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            self.out.write(f"\n    {text.strip()}  ")
            self.out.flush()
        return super().write(text)


def _told(r: Record) -> str:
    if r.value is None or r.ci95 is None:
        return r.verdict
    return f"{r.verdict} {r.value:.3g} [{r.ci95[0]:.3g}, {r.ci95[1]:.3g}]"


def _report(one: Sweep, records: list[dict[str, Record]]) -> None:
    """The table of all runs and claims, printed and as a file, and the figure of the claims' values."""
    import pandas as pd

    from refusal.report.pictures import picture
    from refusal.run import runner
    from refusal.run.sweep_figure import labels, points

    rows = []
    for k, id in itertools.product(range(len(one.runs)), one.claims):
        r, folder = records[k].get(id), runner.place(one.notebook, one.values[k]).relative_to(ROOT)
        low, high = (r.ci95 if r else None) or (None, None)
        found = {"value": r and r.value, "low": low, "high": high, "n": r and r.n}
        verdict = {"verdict": r.verdict if r else "failed", "run": folder.as_posix()}
        rows.append(one.apart(k) | {"claim": id} | found | verdict)
    table = pd.DataFrame(rows).astype({"value": float, "low": float, "high": float, "n": "Int64"})
    place = Path(one.tier) / "sweeps"
    file = RESULTS / place / f"{one.name}.csv"
    write_text(file, table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    shown = table.drop(columns="run").to_string(index=False, na_rep="–", float_format="{:.3g}".format)
    print(f"\n{shown}\n\ntable: {file.relative_to(ROOT)}", flush=True)
    data = points(one, records)
    if data.empty:
        return print("figure: none, for no run has a value")
    drawn = FIGURES / place / f"{one.name}.png"
    write_bytes(drawn, picture(labels(one, records, data), data.to_csv(index=False)))
    print(f"figure: {drawn.relative_to(ROOT)}", flush=True)
