"""``make new``: the files of a new finding, filled in from the templates beside the notebooks."""

import re
from pathlib import Path

from refusal.base.errors import ParameterError, nearest
from refusal.base.files import ROOT, write_text

EXAMPLE = "make new NN=11 PAPER=2501.01234 NAME=short_name"
WORDS = {
    "NN": (r"\d\d[a-z]?", "two digits, and a letter where it goes on from another notebook, as 02b does"),
    "PAPER": (r"\d\d(0[1-9]|1[0-2])\.\d{5}", "the paper's arXiv id, such as 2501.01234, without a version"),
    "NAME": (r"[a-z0-9_]{1,40}", "a short name of small letters, digits and underscores"),
}


def new_finding(given: dict[str, str], root: Path = ROOT) -> list[Path]:
    """Write the files of a new finding and say what comes next; returns their paths. All of them or none.

    Raises ParameterError for what `check` finds wrong, and UserError where something can't be written.
    """
    number, paper, name = check(given)
    texts = files(number, paper, name, root)
    free(number, root)
    _write(texts)
    for path in texts:
        print(f"made {path.relative_to(root)}")
    print(f"next: docs/add-a-finding.md; `make nb-{number} TIER=smoke` runs it as it stands")
    return list(texts)


def check(given: dict[str, str]) -> tuple[str, str, str]:
    """NN, PAPER and NAME. Raises ParameterError for one that is missing or not of its form, and for any other
    word.
    """
    for word in given:
        if word not in WORDS:
            raise ParameterError(f"make new has no parameter {word!r}", nearest(word, WORDS))
    for word, (form, meaning) in WORDS.items():
        if not given.get(word):
            raise ParameterError(f"make new needs {word}: {meaning}", f"for example {EXAMPLE}")
        if not re.fullmatch(form, given[word], re.ASCII):
            raise ParameterError(
                f"{word}={given[word]} cannot be used", f"{word} is {meaning}; for example {EXAMPLE}"
            )
    nn, paper, name = (given[word] for word in WORDS)
    return nn, paper, name


def files(number: str, paper: str, name: str, root: Path = ROOT) -> dict[Path, str]:
    """{path: text} of a finding's files. The notebook comes last: with it the number is taken."""
    notebooks, finding = root / "notebooks", root / "lib" / "refusal" / "findings" / f"f{number}"
    stem = f"{number}_{name}"

    def filled(ending: str) -> str:
        text = (notebooks / f"_template.{ending}").read_text(encoding="utf-8")
        return text.replace("NN_name", stem).replace("NN", number).replace("PAPER", paper)

    return {
        finding / "__init__.py": f'"""Notebook {number}: {name.replace("_", " ")} (arXiv {paper})."""\n',
        finding / "measured.py": filled("measured.py"),
        root / "tests" / f"test_ideal_{number}.py": filled("test.py"),
        notebooks / f"{stem}.claims.toml": filled("claims.toml"),
        notebooks / f"{stem}.ipynb": filled("ipynb"),
    }


def free(number: str, root: Path = ROOT) -> None:
    """Raise ParameterError where a notebook has this number, or where files of one that is not there are left
    over.
    """
    notebooks, finding = root / "notebooks", root / "lib" / "refusal" / "findings" / f"f{number}"
    taken = sorted(path.stem.partition("_")[0] for path in notebooks.glob("[0-9][0-9]*_*.ipynb"))
    if number in taken:
        raise ParameterError(
            f"NN={number} is taken by {next(notebooks.glob(f'{number}_*.ipynb')).relative_to(root)}",
            f"the next number after the last is {int(taken[-1][:2]) + 1:02d}",
        )
    left = [
        *notebooks.glob(f"{number}_*"),
        *(root / "tests").glob(f"test_ideal_{number}.py"),
        *(path for path in finding.rglob("*") if path.is_file() and path.suffix != ".pyc"),
    ]
    if left:
        raise ParameterError(
            f"NN={number} has no notebook, and files of it are there: "
            + ", ".join(str(path.relative_to(root)) for path in sorted(left)),
            "remove what is left of it, or choose another NN",
        )


def _write(texts: dict[Path, str]) -> None:
    """Write every file, or take back those that were written."""
    folders = {path.parent for path in texts if not path.parent.exists()}
    try:
        for path, text in texts.items():
            write_text(path, text)
    except BaseException:
        for path in texts:
            path.unlink(missing_ok=True)
        for folder in folders:
            if folder.exists():
                folder.rmdir()
        raise
