"""A run once more, from its ``run.json``: the same notebook with the same parameters, and what of the
environment is another than it was.
"""

import json
import re
from pathlib import Path

from refusal import data
from refusal.base.errors import ParameterError, nearest
from refusal.base.files import notebook_hash, sha256
from refusal.model.names import local_path, shown_name
from refusal.model.registry import MODELS
from refusal.model.sources import check_model, locate, recipe_folder
from refusal.run import params, runner

HASHED = re.compile(r"[^/]+-[0-9a-f]{8}")  # how a model that was named by a path is called in results
NEEDED = ("notebook", "parameters", "model", "data", "versions", "machine", "git_commit")


def repeat(path: str) -> None:
    """Say what differs from the environment of the run at `path` (its ``run.json``, or the folder of it), one
    line each, then run its notebook with its parameters. Raises ParameterError where that cannot be done.
    """
    file, about = _read(path)
    notebook, values = as_given(file, about)
    print(f"repeating {notebook.stem} as in {file}")
    lines = differences(about, notebook, values)
    print("\n".join(f"differs: {line}" for line in lines) or "nothing of its environment differs", flush=True)
    runner.run(notebook, values)


def _read(path: str) -> tuple[Path, dict]:
    """The file and what is in it."""
    place = Path(path).expanduser()
    file = place / "run.json" if place.is_dir() else place
    if not file.is_file():
        hint = "every run leaves one in results/<tier>/<model>/<notebook>/"
        raise ParameterError(
            f"RUN={path}: there is no {'run.json in it' if place.is_dir() else 'such file'}", hint
        )
    hint = "give the file that a run left beside its metrics.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ParameterError(f"RUN={path} cannot be read: it is no JSON", hint) from None
    lacking = [key for key in NEEDED if key not in about] if isinstance(about, dict) else [*NEEDED]
    if lacking:
        raise ParameterError(
            f"RUN={path} is no run.json: it lacks {', '.join(lacking)}",
            hint,
        )
    return file, about


def as_given(file: Path, about: dict) -> tuple[Path, dict]:
    """The notebook of the run that `file` is `about`, and its parameters checked as if they had been given.
    Raises ParameterError.
    """
    books = {path.name: path for path in params.notebooks().values()}
    if about["notebook"] not in books:
        raise ParameterError(
            f"the notebook {about['notebook']} of that run is not here any more",
            nearest(about["notebook"], books),
        )
    notebook, given = books[about["notebook"]], about["parameters"]
    known = params.parameters_of(notebook)
    for name in given:
        if name not in known:
            raise ParameterError(
                f"{notebook.stem} no longer has the parameter {name!r} of that run",
                nearest(name, known) + "; git_commit in run.json says where it had",
            )
    subjects = [name for name, p in known.items() if p.subject and given.get(name, "") not in ("", *p.words)]
    for name, was in zip(subjects, about["model"]["name"].split("--vs--"), strict=False):
        # a path was recorded as it was written, and beside it only its last part and a hash of the whole
        unknown = HASHED.fullmatch(given[name]) and local_path(given[name]) is None
        if shown_name(given[name]) != was or unknown:
            raise ParameterError(
                f"{name} of that run is told only as {was}, and {given[name]} is not that here",
                f"give its path and the run's other parameters yourself: make "
                f"nb-{notebook.stem.partition('_')[0]} {name}=path/to/it …",
            )
    texts = {name: v if isinstance(v, str) else repr(v) for name, v in given.items()}
    try:
        return notebook, params.resolve(notebook, texts)
    except ParameterError as error:
        # of a model that is not known the message tells the name alone
        whose = [f"{name}: " for name in given if error.what == f"unknown model {given[name]!r}"]
        raise ParameterError(f"{file}: {''.join(whose)}{error.what}", error.hint) from None


def differences(about: dict, notebook: Path, values: dict) -> list[str]:
    """What of a run's environment is another now than `about`, its ``run.json``, says: a line each. `values`
    are its parameters.
    """
    now = runner.environment()
    lines = [*_changed(about["versions"], now["versions"]), *_changed(about["machine"], now["machine"])]
    lines += _commit(about["git_commit"], now["git_commit"])
    if (was := about.get("notebook_sha256")) != notebook_hash(notebook):
        lines.append(
            f"{notebook.name}: {'its cells were others' if was else 'its cells then are not recorded'}"
        )
    later = [name for name in values if name not in about["parameters"]]
    lines += [f"parameter {name}: came later, {values[name]!r} by default" for name in later]
    files = data.hashes(values["TIER"])
    for name in dict.fromkeys([*about["data"], *files]):
        if about["data"].get(name) != files.get(name):
            how = (
                "is gone"
                if name not in files
                else "came later"
                if name not in about["data"]
                else "was another"
            )
            lines.append(f"data file {name}: {how}")
    return lines + _models(about["model"]["revision"], notebook, values)


def _changed(then: dict, now: dict) -> list[str]:
    return [
        f"{name}: {then.get(name, 'not recorded')} then, {now.get(name, 'not asked for')} now"
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]


def _commit(then: str | None, now: str | None) -> list[str]:
    """What a working tree holds beside its commit is recorded by neither, so it cannot be compared."""
    if then == now and then and not then.endswith("+changes"):
        return []
    return [f"git commit: {then or 'none'} then, {now or 'none'} now"]


def _models(then: str, notebook: Path, values: dict) -> list[str]:
    """Models of the run whose files are others; those that would have to be fetched first are left out."""
    if values.get("REMOTE", "0") not in ("0", "local"):
        return []
    names = params.models_of(notebook, values)[0]
    return [
        f"model {name}: revision {was[:12]} then, {is_now[:12]} now"
        for name, was in zip(names, then.split(), strict=False)
        if (is_now := _at_hand(name)) not in (None, was)
    ]


def _at_hand(name: str) -> str | None:
    """A model's revision as `locate` would give it, without fetching, converting or training; None where that
    takes one of these, or the hub.
    """
    kind = check_model(name)
    if kind == "registry":
        return MODELS[name].file.sha256
    if kind == "gguf":
        return sha256(Path(name).expanduser())
    if kind == "hub" or (kind == "recipe" and not (recipe_folder(name) / "recipe.json").exists()):
        return None
    return locate(name).revision
