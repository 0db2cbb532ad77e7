"""What findings give to commands: modules of a certain name in their packages, found by looking."""

import importlib
from pathlib import Path
from types import ModuleType

from refusal.base.files import PACKAGE


def part_of(notebook: Path, name: str) -> ModuleType:
    """The module `name` of a notebook's own finding."""
    return importlib.import_module(f"refusal.findings.f{notebook.stem.partition('_')[0]}.{name}")


def parts_of_findings(name: str) -> list[ModuleType]:
    """The modules ``findings/*/<name>.py``, in the order of the findings."""
    files = sorted((PACKAGE / "findings").glob(f"*/{name}.py"))
    return [importlib.import_module(f"refusal.findings.{file.parent.name}.{name}") for file in files]
