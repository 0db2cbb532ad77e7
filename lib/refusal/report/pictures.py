"""Figures as files: each carries a stamp of all it was drawn from, so that what stands is not drawn again.

`make figures` writes ``figures/<tier>/<model>/<notebook>/<figure>.png``, and on request
``<figure>.svg``, ``<figure>.pdf`` and, for slides, ``<figure>.slide.<format>``. Nothing that draws
is imported before it is known that something has to be drawn.
"""

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO, StringIO
from multiprocessing import get_context
from pathlib import Path

from refusal.base import syntax
from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.files import FIGURES, RESULTS, sha256, write_bytes
from refusal.report.looks import STYLES

FORMATS = ("png", "svg", "pdf")
NEEDED = ("kind", "title", "xlabel", "ylabel", "note", "model")  # of a figure's spec
NOT_DRAWN = ("note", "reading")
DRAWING = ("figures", "layout", "looks")  # the modules that draw
TOGETHER = 8  # so many figures are worth a second process


@dataclass(frozen=True)
class Figure:
    """One saved figure: the folder of its run, its name and its spec."""

    run: Path
    name: str
    spec: dict

    @property
    def key(self) -> str:
        """``tier/model/notebook/name``."""
        return "/".join((*self.run.parts[-3:], self.name))

    @property
    def table(self) -> Path:
        return self.run / "data" / f"{self.name}.csv"

    def file(self, style: str = "paper", format: str = "png") -> Path:
        kind = "" if style == "paper" else f".{style}"
        return FIGURES.joinpath(*self.run.parts[-3:]) / f"{self.name}{kind}.{format}"


def picture(spec: dict, table: str, style: str = "paper", format: str = "png") -> bytes:
    """The file of a figure drawn from the text of its CSV file; the same bytes each time. Raises UserError
    for a table that is not one of the figure's kind.
    """
    import pandas as pd

    from refusal.report import figures

    try:
        fig = figures.draw(spec, pd.read_csv(StringIO(table)), style)
    except (KeyError, AttributeError, ValueError, IndexError) as error:
        raise UserError(
            f"the figure {spec['title']!r} cannot be drawn from its table: {error!r}",
            "run its notebook again",
        ) from error
    mark, written = stamp(spec, table, style, format), BytesIO()
    about: dict = {
        "png": {"Software": None, "Comment": mark},
        "svg": {"Date": None, "Keywords": [mark]},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Keywords": mark},
    }
    fig.savefig(written, format=format, dpi=STYLES[style].dpi, facecolor="white", metadata=about[format])
    figures.plt.close(fig)
    return written.getvalue()


def stamp(spec: dict, table: str, style: str, format: str) -> str:
    """A SHA-256 of all that a figure's picture depends on: its table, what of its spec is drawn, the code
    that draws.
    """
    drawn = {key: value for key, value in spec.items() if key not in NOT_DRAWN}
    parts = [_drawing(), style, format, json.dumps(drawn, sort_keys=True), table]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@functools.cache
def _drawing() -> str:
    return syntax.alone(*(f"refusal.report.{name}" for name in DRAWING))


def saved(runs: Iterable[Path]) -> tuple[list[Figure], list[str]]:
    """The figures of results folders, and a line for each folder or figure that cannot be read."""
    found, problems = [], []
    for run in runs:
        where = "/".join(run.parts[-3:])
        try:
            specs = json.loads((run / "figures.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            specs = None
        written = _written(run)
        if not isinstance(specs, dict):
            problems.append(f"the figures.json of {where} cannot be read")
            continue
        for name, spec in specs.items():
            lacks = [key for key in NEEDED if key not in spec] if isinstance(spec, dict) else ["labels"]
            if lacks:
                problems.append(
                    f"the figures.json of {where} is of another version: {name} has no {lacks[0]}"
                )
            elif not (data := run / "data" / f"{name}.csv").is_file():
                problems.append(f"the figure {name} of {where} has no data/{name}.csv")
            elif sha256(data) != written.get(f"data/{name}.csv", sha256(data)):
                problems.append(f"data/{name}.csv of {where} is not what its run wrote")
            else:
                found.append(Figure(run, name, spec))
    return found, problems


def _written(run: Path) -> dict[str, str]:
    """The hashes of a run's files by name, as far as its ``run.json`` tells."""
    try:
        outputs = json.loads((run / "run.json").read_text(encoding="utf-8"))["outputs"]
        return {"/".join(Path(name).parts[-2:]): digest for name, digest in outputs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def chosen(figures: list[Figure], asked: str) -> list[Figure]:
    """Those that ``[[tier/]model/]notebook/figure`` names; the notebook by its folder, or by its number for
    runs with default parameters. Raises ParameterError where it names none.
    """
    wanted, found = asked.strip("/").split("/"), []
    for figure in figures:
        tier, model, notebook, name = figure.key.split("/")
        number = notebook if "@" in notebook else notebook.partition("_")[0]
        ways = ([tier, model, book, name] for book in (notebook, number))
        if 2 <= len(wanted) <= 4 and any(way[-len(wanted) :] == wanted for way in ways):
            found.append(figure)
    if found:
        return found
    known = sorted({f"{f.run.name.partition('_')[0]}/{f.name}" for f in figures if "@" not in f.run.name})
    close = difflib.get_close_matches(asked, known, n=3, cutoff=0.3)
    raise ParameterError(
        f"FIG={asked} names no figure that is here",
        f"did you mean {', '.join(close)}?" if close else "valid: a notebook's number/a figure's name",
    )


def draw(figures: list[Figure], style: str = "paper", format: str = "png") -> list[Figure]:
    """Draw those whose file does not stand as it would be drawn, and return them."""
    changed = [figure for figure in figures if not _stands(figure, style, format)]
    work = [(figure, figure.file(style, format), style, format) for figure in changed]
    if len(work) < TOGETHER:
        for one in work:
            _write(*one)
        return changed
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        list(pool.map(_write, *zip(*work, strict=True), chunksize=4))
    return changed


def _stands(figure: Figure, style: str, format: str) -> bool:
    file = figure.file(style, format)
    mark = stamp(figure.spec, figure.table.read_text(encoding="utf-8"), style, format).encode()
    return file.is_file() and mark in file.read_bytes()


def _write(figure: Figure, file: Path, style: str, format: str) -> None:
    table = figure.table.read_text(encoding="utf-8")
    write_bytes(file, picture(figure.spec, table, style, format))


def runs() -> list[Path]:
    """The results folders that hold figures. Raises UserError where there is none."""
    if not (found := sorted(path.parent for path in RESULTS.glob("*/*/*/figures.json"))):
        raise UserError("there are no results to draw", "run `make reproduce` first")
    return found


def check(style: str, format: str) -> None:
    """Raise ParameterError for a style or a format that there is not."""
    for name, value, known in (("STYLE", style, STYLES), ("FORMAT", format, FORMATS)):
        if value not in known:
            raise ParameterError(f"{name}={value} is not known", nearest(value, known))
