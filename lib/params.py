"""Notebook parameters: read from the notebook's own parameter cell, checked before anything is downloaded or run.

A parameter is a line ``name: type = default  # what it is (low to high)``, or ``(one of a, b)``, of the cell tagged ``parameters``; both are optional.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from lib.assets import check_model
from lib.errors import ParameterError, nearest
from lib.registry import DEVICES, DTYPES, TIERS

CHOICES = {"TIER": TIERS, "DEVICE": DEVICES, "DTYPE": DTYPES}


@dataclass(frozen=True)
class Parameter:
    name: str
    type: type
    default: object
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in order. Raises ValueError when its parameter cell is not of the stated form."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign):
            raise ValueError(f"{notebook.name}: a parameter is written `name: type = default`, not {ast.unparse(node)!r}")
        kind = {"str": str, "int": int, "float": float, "list": list, "bool": bool}[ast.unparse(node.annotation)]
        text = lines[node.lineno - 1].partition("  # ")[2]
        bounds = re.search(r"\(([\d.]+) to ([\d.]+)\)", text)
        low, high = (float(bounds[1]), float(bounds[2])) if bounds else (None, None)
        listed = re.search(r"\(one of ([^)]+)\)", text)
        choices = tuple(CHOICES.get(node.target.id, ())) or (tuple(re.split(r",\s*", listed[1])) if listed else ())
        found[node.target.id] = Parameter(node.target.id, kind, ast.literal_eval(node.value), text, low, high, choices)
    return found


def parse_further(text: str) -> dict[str, str]:
    """``P="alpha=2 layers=[8,9]"`` as {name: text}. Raises ParameterError for a word without ``=``."""
    found = {}
    for word in re.findall(r"\S+=(?:\[[^\]]*\]|\"[^\"]*\"|'[^']*'|\S*)|\S+", text):
        name, equals, value = word.partition("=")
        if not equals:
            raise ParameterError(f"P holds {word!r}, which is not name=value", 'for example P="alpha=2 layers=[8,9]"')
        found[name] = value.strip("\"'")
    return found


def check(parameter: Parameter, text: str):
    """`text` as a value of the parameter's type and range. Raises ParameterError."""
    name = parameter.name
    if parameter.choices and text not in parameter.choices:
        raise ParameterError(f"{name}={text} is not known", nearest(text, parameter.choices))
    if name == "BATCH_TOKENS" and text != "auto" and not (text.isdigit() and int(text) > 0):
        raise ParameterError(f"BATCH_TOKENS={text} is neither auto nor a positive number")
    if name == "REMOTE" and text not in ("0", "1", "local") and not text.startswith(("http://", "https://")):
        raise ParameterError(f"REMOTE={text} is not known", "use 0, 1, local or the URL of an NDIF-compatible host")
    if name == "TEMPLATE" and text and text.count("{x}") != 1:
        raise ParameterError("TEMPLATE must hold {x} once, where the instruction goes", r"for example TEMPLATE='User: {x}\nAssistant:'")
    if parameter.type is str:
        return text
    try:
        value = ast.literal_eval(text)
        value = float(value) if parameter.type is float and isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(value, parameter.type) or (parameter.type is int and isinstance(value, bool)):
            raise ValueError
    except (ValueError, SyntaxError):
        raise ParameterError(f"{name}={text} is not of type {parameter.type.__name__}", parameter.help) from None
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise ParameterError(f"{name}={text} is out of range", f"choose from {parameter.low:g} to {parameter.high:g}: {parameter.help}")
    return value


def resolve(notebook: Path, given: dict[str, str]) -> dict:
    """All parameters of a run, given ones checked, the tier's model filled in. Raises ParameterError.

    A given name that this notebook does not have is an error that names the nearest one.
    """
    known = parameters_of(notebook)
    for name in given:
        if name not in known:
            raise ParameterError(f"{notebook.stem} has no parameter {name!r}", nearest(name, known))
    values = {name: p.default for name, p in known.items()} | {name: check(known[name], text) for name, text in given.items()}
    tier = values["TIER"]
    defaults = dict(zip(("MODEL", "BASE", "POST", "REASONER"), (TIERS[tier].model, *TIERS[tier].pair, TIERS[tier].reasoner), strict=True))
    for name in [n for n in defaults if n in known]:
        if name not in given:
            values[name] = defaults[name]
        elif tier == "smoke" and given[name] != defaults[name]:
            raise ParameterError(f"TIER=smoke takes no {name}", "it runs on the tiny constructed model; use TIER=embedded for a real one")
        kind = check_model(values[name], name)
        if kind == "tiny" and tier != "smoke":
            raise ParameterError(f"{name}={values[name]} is the constructed model", "use TIER=smoke")
        if values.get("REMOTE", "0") not in ("0", "local") and kind != "hub":
            raise ParameterError(f"REMOTE={values['REMOTE']} needs a hub id, {name}={values[name]} is none", "use REMOTE=local for any model")
    return values
