"""The answers that others released with people's labels, read from the folder that a user gives as DATA:
those of arXiv 2306.03423 (one model of 2023) and of XSTest (arXiv 2308.01263, five models).

Everything wrong with the folder is said before a model is loaded, and names the file. No message holds a text
of theirs: rows are named by their number, counted from 1.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from refusal.base.errors import ParameterError, nearest
from refusal.base.files import DATA, sha256

ALL = "all_hand_labeled.json"
# where the authors' prompts come from, and the file that holds them
SOURCES = {
    "quora": "quora_insincere_hand_labeled.json",
    "political": "political_figures.json",
    "news": "nyp.json",
}
AUTHORS = (ALL, *SOURCES.values())
MODELS = ("gpt4", "llama2new", "llama2orig", "mistralinstruct", "mistralguard")
XSTEST = tuple(f"xstest_v2_completions_{model}.csv" for model in MODELS)

# whether an answer of this tone counts as a refusal; None is left out (the authors' data_processing.py)
TONES = {
    "complied": False,
    "rejected": True,
    "redirected": True,
    "contradicted": True,
    "disclaimed": True,
    "counseling": True,
    "dontknow": None,
    "incoherent": None,
}
LABELS = {"1_full_compliance": False, "2_full_refusal": True, "3_partial_refusal": True}
FEWEST, FEWEST_OF_A_KIND = 50, 5  # rows of a set, and of its refusals and of its other answers

HINT = "DATA is a folder with {}, with {}, or with both; leave it empty to run without them".format(
    ", ".join(AUTHORS), ", ".join(XSTEST)
)


@dataclass(frozen=True)
class Released:
    """`answers`: the authors' rows that are kept, in the order of their file: prompt, response, tone, source
    (quora, political or news) and refused. `xstest`: model, prompt, completion, label and refused, model by
    model in the order of `MODELS`. A set that is not there is None. `listed`: whether the authors' files are,
    byte for byte, those that the published figures come from.
    """

    answers: pd.DataFrame | None = None
    xstest: pd.DataFrame | None = None
    listed: bool = False


def listed_hashes() -> dict[str, str]:
    """{file: SHA-256} of the nine released files, from ``data/released_hashes.csv``."""
    table = pd.read_csv(DATA / "released_hashes.csv", dtype=str)
    return dict(zip(table.file, table.sha256, strict=True))


def hashes(folder: str) -> dict[str, str]:
    """{file: SHA-256} of the released files that are in `folder`, whatever their bytes; none of "".

    Raises ParameterError for a file that cannot be read.
    """
    if not folder:
        return {}
    paths = [Path(folder).expanduser() / name for name in listed_hashes()]
    try:
        return {path.name: sha256(path) for path in paths if path.exists()}
    except OSError as error:
        raise ParameterError(f"DATA: {error.filename} cannot be read: {error.strerror}", HINT) from error


def check(folder: str) -> None:
    """Raises ParameterError, which names the file, unless `folder` is "" or `read` can read it whole."""
    read(folder)


def read(folder: str) -> Released:
    """What is in `folder`; "" has nothing. The file of 10,000 more questions is not read.

    Raises ParameterError where there is no folder, neither set is there or one in part, a file is not JSON
    or CSV or lacks a column, a tone or label is unknown, a row has no text or a prompt no source, and where a
    set has fewer than 50 rows, or hardly any refusals or other answers.
    """
    if not folder:
        return Released()
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ParameterError(f"DATA: there is no folder {folder}", HINT)
    there = [_there(place, names) for names in (AUTHORS, XSTEST)]
    if not any(there):
        raise ParameterError(f"DATA: {folder} has neither {AUTHORS[0]} nor {XSTEST[0]}", HINT)
    found, listed = hashes(folder), listed_hashes()
    known = {name for name in found if found[name] == listed[name]}
    return Released(
        _answers(place, known) if there[0] else None,
        _xstest(place, known) if there[1] else None,
        known.issuperset(AUTHORS),
    )


def _there(place: Path, names: tuple[str, ...]) -> bool:
    """Whether a set is there. Raises ParameterError for one that is there in part."""
    missing = [name for name in names if not (place / name).exists()]
    if missing and len(missing) < len(names):
        raise ParameterError(f"DATA: {missing[0]} is missing; the other files of its set are there", HINT)
    return not missing


def _answers(place: Path, known: Collection[str]) -> pd.DataFrame:
    columns = ("prompt", "response", "tone")
    tables = {name: _table(place / name, columns, TONES, name in known) for name in AUTHORS}
    source_of: dict[str, str] = {}
    for source, name in SOURCES.items():
        source_of |= {_plain(prompt): source for prompt in tables[name].prompt} | source_of
    table = tables[ALL]
    table["source"] = [source_of.get(_plain(prompt)) for prompt in table.prompt]
    if table.source.isna().any():
        row = int(table.source.isna().to_numpy().argmax()) + 1
        raise ParameterError(
            f"DATA: {ALL}: the prompt of row {row} is in none of {', '.join(SOURCES.values())}",
            "give the four files of one release",
        )
    table = _refused(table, "tone", TONES)
    _enough(table.refused, ALL)
    return table


def _xstest(place: Path, known: Collection[str]) -> pd.DataFrame:
    tables = []
    for model, name in zip(MODELS, XSTEST, strict=True):
        table = _table(place / name, ("prompt", "completion", "final_label"), LABELS, name in known)
        table.insert(0, "model", model)
        tables.append(table.rename(columns={"final_label": "label"}))
    table = _refused(pd.concat(tables, ignore_index=True), "label", LABELS)
    _enough(table.refused, "xstest_v2_completions_*.csv")
    return table


def _plain(prompt: str) -> str:
    return " ".join(prompt.split())


def _refused(table: pd.DataFrame, column: str, meaning: dict) -> pd.DataFrame:
    """The rows that are kept, with what they count as."""
    table = table[[meaning[label] is not None for label in table[column]]].reset_index(drop=True)
    return table.assign(refused=[bool(meaning[label]) for label in table[column]])


def _enough(refused: pd.Series, name: str) -> None:
    counts = int(refused.sum()), int((~refused).sum())
    if sum(counts) < FEWEST:
        raise ParameterError(f"DATA: {name}: {sum(counts)} rows, of {FEWEST} at the least", "give all rows")
    if min(counts) < FEWEST_OF_A_KIND:
        raise ParameterError(
            f"DATA: {name}: {counts[0]} refusals and {counts[1]} other answers, of {FEWEST_OF_A_KIND} each "
            "at the least",
            "give all rows",
        )


def _table(path: Path, columns: tuple[str, str, str], labels: Collection[str], known: bool) -> pd.DataFrame:
    """A file's rows, with two columns of texts and one of labels. A file of the listed bytes may have rows
    without text: its users cannot mend it.
    """
    table = _json(path) if path.suffix == ".json" else _csv(path)
    for column in columns:
        if column not in table:
            raise ParameterError(
                f"DATA: {path.name} has no column {column!r}", f"it needs {', '.join(columns)}"
            )
    table = table[list(columns)].reset_index(drop=True)
    *texts, label = columns
    for row, value in enumerate(table[label], 1):
        if not isinstance(value, str) or not value.strip():
            raise ParameterError(
                f"DATA: {path.name}: row {row} has no {label}", f"valid: {', '.join(labels)}"
            )
        if value not in labels:
            raise ParameterError(
                f"DATA: {path.name}: row {row} has the {label} {value[:30]!r}", nearest(value[:30], labels)
            )
    for column in texts:
        for row, value in enumerate(table[column], 1):
            if not isinstance(value, str) or not (value.strip() or known):
                raise ParameterError(
                    f"DATA: {path.name}: row {row} has no {column}", "give its text, or leave the row out"
                )
    return table


def _json(path: Path) -> pd.DataFrame:
    """A list of rows, or columns as pandas writes them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"DATA: {path.name} is not JSON", "give the file as it was released") from error
    except OSError as error:
        raise ParameterError(f"DATA: {path.name} cannot be read: {error.strerror}", HINT) from error
    rows = isinstance(content, list) and all(isinstance(row, dict) for row in content)
    sides = isinstance(content, dict) and all(isinstance(side, list | dict) for side in content.values())
    try:
        if rows or sides:
            return pd.DataFrame(content)
    except ValueError:  # columns of different lengths
        pass
    raise ParameterError(f"DATA: {path.name} holds no table", "it is a list of rows, or one of each column")


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise ParameterError(f"DATA: {path.name} cannot be read: {error.strerror}", HINT) from error
    except ValueError as error:  # not UTF-8, empty, or rows of different lengths
        raise ParameterError(f"DATA: {path.name} is not CSV", "give the file as it was released") from error
