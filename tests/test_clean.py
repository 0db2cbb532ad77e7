"""`make clean` and `make distclean`: what they remove, without an environment, and what they leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refusal.base.files import PACKAGE

LEFT = ["cache/models/m/model.safetensors", "results/README.md"]


@pytest.fixture()
def checkout(tmp_path):
    """A repository with committed and ignored results, and a cache beside it."""
    files = [*LEFT, "results/embedded/run.json", "figures/tiny/a.png", "cache/computed/states.safetensors"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "cache").rename(tmp_path / "refusal-companion")
    (tmp_path / ".gitignore").write_text("results/*\n!results/README.md\nfigures/*\n")
    (tmp_path / "notes.txt").write_text("mine")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "results"], cwd=tmp_path, check=True)
    return tmp_path


def run(folder: Path, *words: str, **env: str):
    """Without this environment's packages, as any Python would run it."""
    given = {"PYTHONPATH": str(PACKAGE.parent), "XDG_CACHE_HOME": str(folder), "COMPANION_GIVEN": ""}
    given["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    command = [sys.executable, "-S", "-m", "refusal.run.clean", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | given | env, capture_output=True, text=True, timeout=60
    )


def left(folder: Path) -> list[str]:
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return [name.replace("refusal-companion", "cache") for name in names if not name.startswith(".git")]


def test_results_and_what_was_computed_go_and_what_is_committed_or_fetched_stays(checkout):
    assert run(checkout).returncode == 0 and left(checkout) == ["notes.txt", *LEFT]
    assert run(checkout, "all").returncode == 0 and left(checkout) == ["notes.txt", LEFT[1]]
    assert run(checkout, "all").returncode == 0  # nothing to do is no error


def test_what_it_cannot_do_is_one_line_and_removes_nothing(checkout):
    before = left(checkout)
    done = run(checkout, COMPANION_GIVEN="PYTHON MODEL")
    assert done.returncode == 2 and "error: make clean takes no MODEL" in done.stderr
    (checkout / ".git").rename(checkout / ".gitt")
    done = run(checkout, "all")
    assert done.returncode == 1 and "git cannot clean results and figures: fatal: not a git" in done.stderr
    assert "Traceback" not in done.stderr and left(checkout) == before
