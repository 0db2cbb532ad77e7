"""What findings give to commands: modules of a certain name in their packages, found by looking."""

import importlib
from pathlib import Path
from types import ModuleType

from refusal.base.files import PACKAGE


def part_of(notebook: Path, name: str) -> ModuleType | None:
    """The module `name` of a notebook's own finding; None where it has none."""
    finding = f"f{notebook.stem.partition('_')[0]}"
    there = (PACKAGE / "findings" / finding / f"{name}.py").is_file()
    return importlib.import_module(f"refusal.findings.{finding}.{name}") if there else None


def parts_of_findings(name: str) -> list[ModuleType]:
    """The modules ``findings/*/<name>.py``, in the order of the findings."""
    files = sorted((PACKAGE / "findings").glob(f"*/{name}.py"))
    return [importlib.import_module(f"refusal.findings.{file.parent.name}.{name}") for file in files]
