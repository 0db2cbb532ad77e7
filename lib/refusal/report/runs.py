"""The runs whose results are here, each read whole: what a page about a run is made from."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from refusal.report import outputs
from refusal.report.rules import Record, read_records


@dataclass(frozen=True)
class Run:
    """One results folder: its records, the labels of its figures by name, its ``run.json``, and what the
    notebook's cells showed (see `outputs.shown`).
    """

    folder: Path
    records: list[Record]
    figures: dict[str, dict]
    about: dict
    shown: dict[str, list[dict[str, str]]]

    @property
    def tier(self) -> str:
        return self.folder.parts[-3]

    @property
    def model(self) -> str:
        return self.folder.parts[-2]

    @property
    def notebook(self) -> str:
        """The notebook's name, number first, without suffix."""
        return self.folder.name.partition("@")[0]

    @property
    def number(self) -> str:
        return self.notebook.partition("_")[0]

    @property
    def differs(self) -> str:
        """The parameters that are not the defaults, as the folder names them; empty where all are."""
        return self.folder.name.partition("@")[2]

    @property
    def title(self) -> str:
        """What the run is of: the model or the pair, and the parameters that differ."""
        return self.model.replace("--vs--", " against ") + (f", {self.differs}" if self.differs else "")

    @property
    def place(self) -> str:
        """``<tier>/<model>/<notebook>``, below ``results/`` and ``figures/``."""
        return "/".join(self.folder.parts[-3:])

    @property
    def page(self) -> str:
        return page_of(self.folder)


def page_of(folder: Path) -> str:
    """The name of a run's page: its place, without what Sphinx reads as something else."""
    place = "/".join(folder.parts[-3:])
    return "runs/" + re.sub(r"[^\w./@=,+-]", lambda odd: f"~{ord(odd[0]):x}", place)


def read_runs(results: Path) -> list[Run]:
    """Every run under `results` that is no smoke run, by notebook, the defaults first. What sweeps leave in
    their folders ``<tier>/sweeps`` is no run.

    A run of which a file is missing or cannot be read is named on stderr and left out.
    """
    found = []
    for folder in sorted(results.glob("*/*/*/")):
        hidden = any(part.startswith(".") for part in folder.parts[-3:])  # of a run at work
        if hidden or folder.parts[-3] == "smoke" or folder.parts[-2] == "sweeps":
            continue
        try:
            found.append(_read(folder))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = (
                f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
            )
            print(f"left out: {folder} ({what}); run that again, or remove its folder", file=sys.stderr)
    return sorted(found, key=lambda run: (run.number, bool(run.differs), run.place))


def _read(folder: Path) -> Run:
    records = read_records(folder / "claims.json")
    figures, about, cells = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("figures.json", "run.json", outputs.FILE)
    )
    for spec in figures.values():
        spec["title"], spec["note"]  # what no figure is without
    for cell in cells.values():
        for output in cell:
            dict(output)
    return Run(folder, records, dict(figures), dict(about), dict(cells))
