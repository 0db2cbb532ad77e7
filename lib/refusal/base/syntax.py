"""What this package's code says, apart from comments, docstrings and layout: the part that keys, fingerprints
and recipes take of the code that computes.

A module stands for itself and for all that it imports inside the package, at any depth and wherever the
import is written. So a changed line changes what depends on it, and a changed comment changes nothing.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path

SHOWS = ("base.errors", "base.kernel", "base.progress")  # of these no computed value depends
PACKAGE = Path(__file__).resolve().parent.parent
NAME = __name__.partition(".")[0]


def code(*modules: str) -> str:
    """A SHA-256 of modules, by their full names, and of all that they import inside the package. Raises
    ValueError for a module of elsewhere.
    """
    return _joined({m for module in modules for m in reached(module)})


def of(thing) -> str:
    """The code of a function or a class: its module's, with all that it imports but what only shows, or its
    own text where it stands outside of the package, in a notebook.

    Raises TypeError where it has none that can be read.
    """
    if _path(thing.__module__):
        return _joined(reached(thing.__module__) - {f"{NAME}.{module}" for module in SHOWS})
    try:
        return hashlib.sha256(
            ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing)))).encode()
        ).hexdigest()
    except (OSError, TypeError, SyntaxError):
        raise TypeError(
            f"{thing.__module__}.{thing.__qualname__} has no source that can be read: what it computes has "
            f"no key"
        ) from None


def alone(*modules: str) -> str:
    """As `code`, of the modules themselves and nothing that they import."""
    return _joined(modules)


def of_cells(sources: Iterable[str]) -> str:
    """As `code`, of the modules that a notebook's cells import. Cells that are not Python (magics, somebody
    typing) import nothing.
    """
    found: set[str] = set()
    for source in sources:
        try:
            found |= _imports(ast.parse(source))
        except SyntaxError:
            continue
    return code(*found)


def _joined(modules: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{m} {_said(m)}\n" for m in sorted(modules)).encode()).hexdigest()


def _path(module: str) -> Path | None:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return (
        next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
        if module.split(".")[0] == NAME
        else None
    )


@functools.cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ValueError(f"{module} is no module of {NAME}: what it computes has no key")
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _said(module: str) -> str:
    return hashlib.sha256(ast.unparse(_Plain().visit(_tree(module))).encode()).hexdigest()


class _Plain(ast.NodeTransformer):
    """Without docstrings."""

    def _body(self, node):
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _body


@functools.cache
def reached(module: str) -> frozenset[str]:
    """The names of a module and of all that it imports inside the package."""
    found, left = set(), [module]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _imports(_tree(name))
    return frozenset(found)


def _imports(tree: ast.Module) -> set[str]:
    """The package's modules that a tree imports; of ``from room import x`` that is x where x is a module,
    else the room.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if _path(name) else node.module for name in inside}
    return {name for name in found if _path(name)}
