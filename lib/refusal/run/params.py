"""Notebook parameters, as `refusal.run.declared` reads them, checked before anything is downloaded or run."""

import ast
import re
from datetime import date
from pathlib import Path

from refusal.base.errors import ParameterError, nearest
from refusal.model.names import local_path
from refusal.model.sources import check_model
from refusal.run.declared import Parameter, notebooks, parameters_of
from refusal.run.parts import part_of


def parse_further(text: str) -> dict[str, str]:
    """``P="alpha=2 layers=[8,9]"`` as {name: text}. Raises ParameterError for a word without ``=``."""
    found = {}
    for word in re.findall(r"\S+=(?:\[[^\]]*\]|\"[^\"]*\"|'[^']*'|\S*)|\S+", text):
        name, equals, value = word.partition("=")
        if not equals:
            raise ParameterError(
                f"P holds {word!r}, which is not name=value", 'for example P="alpha=2 layers=[8,9]"'
            )
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        found[name] = value[1:-1] if quoted else value
    return found


def check(parameter: Parameter, text: str):
    """`text` as a value of the parameter's type and range. Raises ParameterError."""
    name = parameter.name
    if parameter.choices and text not in parameter.choices:
        raise ParameterError(f"{name}={text} is not known", nearest(text, parameter.choices))
    if name == "BATCH_TOKENS" and text != "auto" and not (text.isdigit() and int(text) > 0):
        raise ParameterError(f"BATCH_TOKENS={text} is neither auto nor a positive number")
    if name == "REMOTE" and text not in ("0", "1", "local") and not text.startswith(("http://", "https://")):
        raise ParameterError(
            f"REMOTE={text} is not known", "use 0, 1, local or the URL of an NDIF-compatible host"
        )
    if name == "TEMPLATE" and text and text.count("{x}") != 1:
        raise ParameterError(
            "TEMPLATE must hold {x} once, where the instruction goes",
            r"for example TEMPLATE='User: {x}\nAssistant:'",
        )
    if name == "DATE":
        try:
            date.fromisoformat(text)
        except ValueError:
            raise ParameterError(f"DATE={text} is not a day", "write it as 2024-07-26") from None
    if parameter.folder and text and not Path(text).expanduser().is_dir():
        raise ParameterError(f"{name}={text} is no folder", parameter.help)
    if parameter.type is str:
        return text
    try:
        value = ast.literal_eval(text)
        value = (
            float(value)
            if parameter.type is float and isinstance(value, int) and not isinstance(value, bool)
            else value
        )
        if not isinstance(value, parameter.type) or (parameter.type is int and isinstance(value, bool)):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval raises
        raise ParameterError(
            f"{name}={text} is not of type {parameter.type.__name__}", parameter.help
        ) from None
    low, high = parameter.low, parameter.high
    if low is not None and high is not None and not low <= value <= high:
        raise ParameterError(
            f"{name}={text} is out of range",
            f"choose from {low:g} to {high:g}: {parameter.help}",
        )
    return value


def resolve(notebook: Path, given: dict[str, str]) -> dict:
    """All parameters of a run, given ones checked, the tier's model filled in. Raises ParameterError.

    A given name that this notebook does not have is an error that names the nearest one.
    """
    known = parameters_of(notebook)
    for name in given:
        if name not in known:
            raise ParameterError(f"{notebook.stem} has no parameter {name!r}", nearest(name, known))
    values = {name: check(p, given.get(name, _text(p.default))) for name, p in known.items()}
    values |= {
        name: p.tiers[values["TIER"]]
        for name, p in known.items()
        if values["TIER"] in p.tiers and name not in given
    }
    _check_models(known, values)
    _check_inputs(notebook, values)
    return values


def check_values(number: str, namespace: dict) -> None:
    """The check of `resolve` for a notebook that is at work: its parameters as they stand in `namespace`.
    Raises ParameterError.

    For whoever opened the notebook in JupyterLab and changed a value there, or made a cell of their own for
    it.
    """
    known = parameters_of(notebooks()[number])
    for name in known:
        if name not in namespace:
            raise ParameterError(f"{name} has no value", "run the cell of parameters first")
    values = {name: check(p, _text(namespace[name])) for name, p in known.items()}
    _check_models(known, values)
    _check_inputs(notebooks()[number], values)


def models_of(notebook: Path, values: dict) -> tuple[list[str], list[str]]:
    """The models that a run with these parameters is about, and those that it needs beside them."""
    known = {
        name: p for name, p in parameters_of(notebook).items() if p.model and values[name] not in p.words
    }
    about, beside = (
        [values[name] for name, p in known.items() if p.subject == subject] for subject in (True, False)
    )
    return about, beside


def resolved(notebook: Path, values: dict) -> dict:
    """`values` with each folder, and each model that is named by a path, under its absolute path, for
    processes that stand in another folder.
    """
    known = parameters_of(notebook)
    named = [name for name, p in known.items() if p.model and values[name] not in p.words]
    folders = [name for name, p in known.items() if p.folder and values[name]]
    return (
        values
        | {name: str(path) for name in named if (path := local_path(values[name]))}
        | {name: str(Path(values[name]).expanduser().absolute()) for name in folders}
    )


def files_of(notebook: Path, values: dict) -> dict[str, str]:
    """The SHA-256 of what a run reads from the folders that the user named, by file."""
    given = [values[name] for name, p in parameters_of(notebook).items() if p.folder and values[name]]
    inputs = part_of(notebook, "inputs") if given else None
    return inputs.hashes(values) if inputs is not None else {}


def _check_inputs(notebook: Path, values: dict) -> None:
    """Let the finding look at what it was given, where it has something to say. Raises ParameterError."""
    inputs = part_of(notebook, "inputs")
    if inputs is not None:
        inputs.check(values)


def _text(value) -> str:
    return value if isinstance(value, str) else repr(value)


def _check_models(known: dict[str, Parameter], values: dict) -> None:
    """Raise ParameterError where a model that `values` names is none, or does not go with TIER and REMOTE."""
    tier = values["TIER"]
    for name, p in known.items():
        if not p.model or values[name] in p.words:
            continue
        if p.subject and tier == "smoke" and values[name] != p.tiers.get("smoke"):
            raise ParameterError(
                f"TIER=smoke takes no {name}",
                f"it runs on the constructed model {p.tiers.get('smoke')!r}; use TIER=embedded for a real "
                f"one",
            )
        kind = check_model(values[name], name)
        if p.subject and kind == "tiny" and tier != "smoke":
            raise ParameterError(
                f"{name}={values[name]} is the constructed model", f"leave {name} out and use TIER=smoke"
            )
        if p.subject and values.get("REMOTE", "0") not in ("0", "local") and kind != "hub":
            raise ParameterError(
                f"REMOTE={values['REMOTE']} needs a hub id, {name}={values[name]} is none",
                "use REMOTE=local for any model",
            )
