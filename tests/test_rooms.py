"""The house keeps its shape: arrows go down only, a finding knows no other finding, the core knows none, one
room opens traces.
"""

import ast
import importlib
import re

import pytest

from refusal.base.files import NOTEBOOKS, PACKAGE
from refusal.model.registry import RECIPES
from refusal.run.params import parameters_of

# a room may import itself and what stands after it here; report stands beside measure, so neither imports the
# other
ORDER = ("run", "findings", "report", "train", "measure", "trace", "data", "model", "base")
FILES = sorted(
    p
    for p in PACKAGE.rglob("*.py")
    if p.relative_to(PACKAGE).parts[0] in ORDER and not p.name.startswith("make_")
)
CORE = [p for p in FILES if p.relative_to(PACKAGE).parts[0] not in ("findings",)]


def imported(path) -> set[str]:
    """The package's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("refusal"):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("refusal")}
    return found


def rooms(names) -> set[str]:
    return {name.split(".")[1] for name in names if name.count(".")} & set(ORDER)


def name_of(path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_go_down(path):
    own = path.relative_to(PACKAGE).parts[0]
    below = set(ORDER[ORDER.index(own) :]) - ({"train", "measure"} if own == "report" else set())
    assert rooms(imported(path)) <= below, f"{own} imports {rooms(imported(path)) - below}"


@pytest.mark.parametrize("path", [p for p in FILES if "findings" in p.parts], ids=name_of)
def test_no_finding_knows_another(path):
    own = path.relative_to(PACKAGE).parts[1]
    others = {name.split(".")[2] for name in imported(path) if name.startswith("refusal.findings.")}
    assert others <= {own}


def test_traces_are_opened_in_one_room():
    """And nnsight's names and the module inside it are known only where models are loaded and where traces
    are opened.
    """
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        room = path.relative_to(PACKAGE).parts[0]
        if re.search(r"\bas tracer\b", text):
            assert room == "trace", path
        if re.search(r"^\s*(import|from) nnsight", text, re.M):
            assert room in ("trace", "model"), path
        if re.search(r"\._module\b", text):
            assert room in ("trace", "model", "run"), path  # run compares values with plain hooks


def test_the_core_forgets_its_findings():
    """No notebook's number, no model and no parameter of a finding stands in what findings are built on."""
    own = {
        value
        for path in NOTEBOOKS.glob("[0-9]*.ipynb")
        for p in parameters_of(path).values()
        if p.model
        for value in p.tiers.values()
    }
    named = "|".join(re.escape(name) for name in sorted({*RECIPES, *(n for n in own if "/" in n)}))
    forbidden = re.compile(
        rf"\bnotebooks? "
        rf"(0\d|\d\d)b?\b|\bnb-\d\d|[\"'](0\d|10)b?[\"'.]|\b(0\d|10)b?_[a-z]|\bf(0\d|10)b?\b|{named}",
        re.I,
    )
    found = {f"{name_of(p)}: {m[0]}" for p in CORE for m in forbidden.finditer(p.read_text(encoding="utf-8"))}
    assert not found


def test_every_room_says_what_it_is_for():
    for folder in {p.parent for p in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def names_something(reference: str) -> bool:
    """Whether a dotted name in a docstring or comment leads somewhere: a module's full name, or its last
    part, and what is in it.
    """
    head, *rest = reference.split(".")
    modules = [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in FILES]
    modules.append("refusal")  # the front door
    for module in [m for m in modules if reference == m or reference.startswith(f"{m}.")] or [
        m for m in modules if m.endswith(f".{head}")
    ]:
        left = reference.removeprefix(module).split(".")[1:] if head == "refusal" else rest
        found = importlib.import_module(module)
        for name in left:
            found = getattr(found, name, None) or getattr(found, "__dataclass_fields__", {}).get(name)
        if found is not None:
            return True
    return False


def test_names_in_docstrings_and_comments_lead_somewhere():
    """What was renamed is renamed there as well."""
    stale = {
        f"{name_of(path)}: {reference}"
        for path in FILES
        for reference in re.findall(r"(?<!`)`([a-z_]\w*(?:\.\w+)+)`(?!`)", path.read_text(encoding="utf-8"))
        if not reference.endswith((".py", ".toml", ".json", ".md")) and not names_something(reference)
    }
    assert not stale
    assert names_something("refusal.trace.reads.collect") and names_something("reads.collect")
    assert not any(
        map(names_something, ("cliff.summary", "lib.judge", "refusal.trace.nowhere", "reads.nothing"))
    )
