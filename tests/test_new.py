"""A new finding from the template: what `make new` writes, what it refuses, and that it runs as it comes."""

import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest

from refusal import findings
from refusal.base import files
from refusal.base.errors import ParameterError, UserError
from refusal.base.files import NOTEBOOKS, PACKAGE, ROOT
from refusal.run import new

GIVEN = {"NN": "11", "PAPER": "2501.01234", "NAME": "short_name"}
MADE = [
    "lib/refusal/findings/f11/__init__.py",
    "lib/refusal/findings/f11/measured.py",
    "notebooks/11_short_name.claims.toml",
    "notebooks/11_short_name.ipynb",
    "tests/test_ideal_11.py",
]


@pytest.fixture()
def root(tmp_path):
    """A checkout of the templates, and of a notebook 02b and one 10 by name."""
    for folder in ("notebooks", "tests", "lib/refusal/findings"):
        (tmp_path / folder).mkdir(parents=True)
    for path in NOTEBOOKS.glob("_template.*"):
        shutil.copy(path, tmp_path / "notebooks")
    for name in ("02b_x.ipynb", "10_y.ipynb"):
        (tmp_path / "notebooks" / name).touch()
    return tmp_path


def there(root) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_it_makes_these_files_and_fills_them_in(root):
    before = there(root)
    new.new_finding(GIVEN, root)
    assert sorted(set(there(root)) - set(before)) == MADE
    for name in MADE:
        text = (root / name).read_text(encoding="utf-8")
        assert "NN" not in text and "PAPER" not in text and ("11" in text or "measured" in name), name
    assert "(https://arxiv.org/abs/2501.01234)" in (root / MADE[3]).read_text(encoding="utf-8")
    new.new_finding(GIVEN | {"NN": "02c"}, root)  # beside 02b
    assert "notebooks/02c_short_name.ipynb" in there(root)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "make new needs NN: two digits"),
        ({"NN": "11", "NAME": "x"}, "make new needs PAPER"),
        ({"NN": "11", "PAPER": "2501.01234"}, "make new needs NAME"),
        (
            GIVEN | {"NN": "10"},
            "NN=10 is taken by notebooks/10_y.ipynb\n  the next number after the last is 11",
        ),
        (GIVEN | {"NN": "02b"}, "NN=02b is taken by notebooks/02b_x.ipynb"),
        (GIVEN | {"NN": "1"}, "NN=1 cannot be used"),
        (GIVEN | {"NN": "011"}, "NN=011 cannot be used"),
        (GIVEN | {"NN": "11B"}, "NN=11B cannot be used"),
        (GIVEN | {"NN": "١١"}, "cannot be used"),
        (GIVEN | {"PAPER": "2501.1234"}, "PAPER=2501.1234 cannot be used\n  PAPER is the paper's arXiv id"),
        (GIVEN | {"PAPER": "2513.01234"}, "cannot be used"),
        (GIVEN | {"PAPER": "arXiv:2501.01234"}, "cannot be used"),
        (GIVEN | {"PAPER": "2501.01234v2"}, "without a version"),
        (GIVEN | {"NAME": "Short"}, "NAME=Short cannot be used"),
        (GIVEN | {"NAME": "a-b"}, "small letters, digits and underscores"),
        (GIVEN | {"NAME": "../x"}, "cannot be used"),
        (GIVEN | {"NMAE": "x"}, "did you mean 'NAME'"),
    ],
)
def test_what_cannot_be_used_is_said_and_nothing_written(root, given, message):
    before = there(root)
    with pytest.raises(ParameterError) as error:
        new.new_finding(given, root)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 2
    assert there(root) == before


@pytest.mark.parametrize("left", [*MADE[:3], MADE[4], "lib/refusal/findings/f11/recipes.toml"])
def test_what_is_left_of_another_is_said_and_kept(root, left):
    (root / left).parent.mkdir(exist_ok=True)
    (root / left).write_text("mine")
    before = there(root)
    with pytest.raises(ParameterError, match=f"files of it are there: {left}\n  remove"):
        new.new_finding(GIVEN, root)
    assert there(root) == before and (root / left).read_text() == "mine"


def test_what_python_left_in_an_emptied_folder_is_in_nobodys_way(root):
    cached = root / "lib/refusal/findings/f11/__pycache__/measured.cpython-312.pyc"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert len(new.new_finding(GIVEN, root)) == len(MADE)


@pytest.mark.parametrize("k", range(len(MADE)))
def test_where_one_file_cannot_be_written_none_is(root, monkeypatch, k):
    write, left = new.write_text, iter(range(len(MADE)))

    def full(path, text):
        if next(left) == k:
            raise UserError("no space left on the disk")
        write(path, text)

    monkeypatch.setattr(new, "write_text", full)
    before = there(root)
    with pytest.raises(UserError, match="no space"):
        new.new_finding(GIVEN, root)
    assert there(root) == before and not (root / "lib/refusal/findings/f11").exists()


def test_its_own_tests_pass_as_they_come(root, monkeypatch):
    new.new_finding(GIVEN | {"NN": "99"}, root)
    monkeypatch.setattr(findings, "__path__", [*findings.__path__, str(root / "lib/refusal/findings")])
    monkeypatch.setattr(files, "NOTEBOOKS", root / "notebooks")
    try:
        made = runpy.run_path(str(root / "tests" / "test_ideal_99.py"))
    finally:
        for name in [name for name in sys.modules if name.startswith("refusal.findings.f99")]:
            del sys.modules[name]
    tests = [test for name, test in made.items() if name.startswith("test_")]
    for test in tests:
        test()
    assert len(tests) == 2


def test_a_new_finding_runs_as_it_comes(tmp_path):
    """In a copy of the checkout: its files are clean, its smoke run ends well, no other file changes."""
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    env = os.environ | {"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}

    def done(*words):
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=env)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    make, python = ("make", "--no-print-directory", f"PY={sys.executable}"), (sys.executable, "-m")
    number = next(n for n in map("{:02d}".format, range(99, 0, -1)) if not list(NOTEBOOKS.glob(f"{n}_*")))
    said = done(*make, "new", f"NN={number}", "PAPER=2501.01234", "NAME=made_by_a_test")
    assert said.count("made ") == len(MADE) and "docs/add-a-finding.md" in said
    code = [f"lib/refusal/findings/f{number}", f"tests/test_ideal_{number}.py"]
    done(*python, "ruff", "check", "--no-cache", *code, f"notebooks/{number}_made_by_a_test.ipynb")
    done(*python, "ruff", "format", "--no-cache", "--check", *code)
    done(*make, f"nb-{number}", "TIER=smoke")
    claims = tmp_path / "results" / "smoke" / "tiny" / f"{number}_made_by_a_test" / "claims.json"
    (claim,) = json.loads(claims.read_text(encoding="utf-8"))
    assert claim["verdict"] == "replicated" and claim["evidence"] == "constructed"
    assert all(path.read_bytes() == text for path, text in before.items())


def test_the_checklist_is_there():
    text = (ROOT / "docs" / "add-a-finding.md").read_text(encoding="utf-8")
    assert new.EXAMPLE in text and len(text.splitlines()) < 60
    for name in MADE:
        folder = name.rpartition("/")[0] if "findings" in name else name
        assert folder in text, name


def test_the_checkout_of_the_library_is_where_it_writes():
    assert PACKAGE == ROOT / "lib" / "refusal" and NOTEBOOKS == ROOT / "notebooks"
