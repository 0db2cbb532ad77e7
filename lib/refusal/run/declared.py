"""What the notebooks declare before anything runs: their parameters, and what the last runs took. Read with
the standard library alone, so that ``make help`` answers where no package is installed yet.

A parameter is a line ``name: type = default  # what it is (low to high)``, or ``(one of a, b)``, of the cell
tagged ``parameters``; both are optional. One that names a model says so: ``(model; smoke: tiny; paper:
owner/name)``, with its default in other tiers; ``(model or none)`` takes that word as well. Those in capitals
are what a run is about, and name its folder; the others are models that it needs beside them. One that names
a folder of the user's says ``(folder)``, and is empty by default.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from refusal.base.errors import ParameterError
from refusal.base.files import NOTEBOOKS
from refusal.model.registry import DEVICES, DTYPES, TIERS

CHOICES = {"TIER": TIERS, "DEVICE": DEVICES, "DTYPE": DTYPES}
TYPES = {t.__name__: t for t in (str, int, float, list, bool)}


@dataclass(frozen=True)
class Parameter:
    name: str
    type: type
    default: object
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    model: bool = False
    words: tuple[str, ...] = ()  # what may stand in place of a model
    tiers: Mapping[str, str] = field(default_factory=dict)  # the default where it is another
    folder: bool = False

    @property
    def subject(self) -> bool:
        """Whether it names a model that a run is about."""
        return self.model and self.name.isupper()


def notebooks() -> dict[str, Path]:
    """Every numbered notebook: {number: path}, numbers as they are written."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb"))
    return {path.stem.split("_")[0]: path for path in found}


def question(notebook: Path) -> str:
    """The question of a notebook: its first heading, without the number."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ").partition(" · ")[2]


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. Raises ParameterError when its parameter cell is not of the
    stated form: somebody may be editing it.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
        return _parse(source)
    except (ValueError, KeyError, TypeError, SyntaxError, StopIteration) as error:
        reason = str(error) or "it has no cell tagged parameters"
        raise ParameterError(
            f"{notebook.name} cannot be read: {reason}",
            f"mend its parameter cell, or take back what was changed: git checkout notebooks/{notebook.name}",
        ) from None


def _parse(source: str) -> dict[str, Parameter]:
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom | ast.Expr):  # the check of what stands above it
            continue
        if not (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.value is not None
            and ast.unparse(node.annotation) in TYPES
        ):
            raise ValueError(
                f"a parameter is written `name: type = default`, with a type of {', '.join(TYPES)}, not "
                f"{ast.unparse(node)!r}"
            )
        kind = TYPES[ast.unparse(node.annotation)]
        text = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
        bounds = re.search(r"\(([\d.]+) to ([\d.]+)\)", text)
        low, high = (float(bounds[1]), float(bounds[2])) if bounds else (None, None)
        listed = re.search(r"\(one of ([^)]+)\)", text)
        named = re.search(r"\(model(?: or ([^;)]*))?(?:; ([^)]*))?\)", text)
        tiers = (
            dict(re.split(r":\s*", part, maxsplit=1) for part in re.split(r";\s*", named[2]))
            if named and named[2]
            else {}
        )
        words = tuple(re.split(r",\s*", named[1])) if named and named[1] else ()
        choices = tuple(CHOICES.get(node.target.id, ())) or (
            tuple(re.split(r",\s*", listed[1])) if listed else ()
        )
        found[node.target.id] = Parameter(
            node.target.id,
            kind,
            ast.literal_eval(node.value),
            text,
            low,
            high,
            choices,
            bool(named),
            words,
            tiers,
            "(folder)" in text,
        )
    return found
