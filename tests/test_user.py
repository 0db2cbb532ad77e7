"""What a user brings along (folders, settings, a full or closed disk, an open JupyterLab) neither stops a run
nor changes it unsaid.
"""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import filelock
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from conftest import tiny_module
from refusal.base import files, pip
from refusal.base.errors import ParameterError, UserError
from refusal.base.files import FIGURES, NOTEBOOKS, PACKAGE, RESULTS, ROOT, notebook_hash
from refusal.model.names import folder_name, local_path, shown_name
from refusal.model.registry import MODELS
from refusal.model.tiny import tiny_tokenizer
from refusal.report import gallery
from refusal.run import cli, params, runner
from refusal.trace import cache

BOOKS = {path.stem.split("_")[0]: path for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
CLAIM = """
[[claim]]
id = "99.x"
paper = "arXiv:2504.02904"
source = "s"
statement = "s"
metric = "one"
paper_value = {one = 0.5}
precondition = "none"
rule = {above = 0.1}
"""
REPORT = """
import tempfile
from pathlib import Path
import pandas as pd
from refusal.base.estimate import Estimate
from refusal.model import loading
from refusal.report import recorder
from refusal.report.recorder import Recorder
{before}
recorder.NOTEBOOKS = Path(tempfile.mkdtemp())
(recorder.NOTEBOOKS / "99_user.claims.toml").write_text(CLAIM)
loaded = [loading.load(name, device="cpu") for name in ({names},)]
first, last = loaded[0], loaded[-1]
run = Recorder("99_user", last, name=" and ".join(({names},)))
run.metric("one", 1.0)
row = {{"series": "s", "role": "effect", "group": "g", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
rows = pd.DataFrame([{{"panel": m.name}} | row for m in loaded])
run.figure("f", "rates", rows, title=f"Of {{loaded[0].name}}", xlabel="", ylabel="", note="")
run.claim("99.x", Estimate(0.5, [0.4, 0.6], 99), {{"of": loaded[0].name}})
run.finish()
""".replace("CLAIM", repr(CLAIM).replace("{", "{{").replace("}", "}}"))


def make_model(folder: Path) -> Path:
    tiny_module("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def book(folder: Path, names, *sources) -> Path:
    """A notebook 99 with the parameters `names`, TIER, SEED and TEMPLATE, and these cells."""
    head = (
        "".join(f'{name}: str = "tiny"  # what it is about (model; smoke: tiny)\n' for name in names)
        + 'TIER: str = "smoke"  # t\nSEED: int = 0  # s\nTEMPLATE: str = ""  # t'
    )
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]}),
            *map(nbformat.v4.new_code_cell, sources),
        ]
    )
    path = folder / "99_user.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.fixture()
def left_as_it_was():
    """Results of notebook 99 are removed, and the manifest is what it was, to the byte."""
    manifest = FIGURES / "manifest.json"
    before = manifest.read_bytes() if manifest.exists() else None
    yield
    for base in (RESULTS, FIGURES):
        for place in [*base.glob("*/*/99_user"), *base.glob("*/*/.99_user.*")]:
            shutil.rmtree(place)
            if not any(place.parent.iterdir()):
                place.parent.rmdir()
    if before is None:
        manifest.unlink(missing_ok=True)
    else:
        manifest.write_bytes(before)


# a model that is named by a path


def test_a_path_is_looked_up_once_and_names_do_not_become_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    registered = next(iter(MODELS))
    for folder in ("m", "a/b", registered, "none"):
        (tmp_path / folder).mkdir(parents=True)
    at, given = str(tmp_path), {"BASE": "a/b", "POST": "~/m", "TEMPLATE": "/{x}", "N": 3}
    assert params.resolved(BOOKS["01"], given) == given | {"BASE": f"{at}/a/b", "POST": f"{at}/m"}
    given = {"REASONER": registered, "planted": "./m", "twin": "a/../m", "reader": "none"}
    assert params.resolved(BOOKS["03"], given) == given | {"planted": f"{at}/m", "twin": f"{at}/m"}
    assert params.models_of(BOOKS["03"], given) == ([registered], ["./m", "a/../m"])
    assert (
        local_path("x.gguf") == tmp_path / "x.gguf"
        and local_path("owner/name") is None
        and local_path("~nobody-of-that-name/m") is None
    )


def test_folders_that_end_alike_have_folders_of_their_own_and_names_keep_theirs(tmp_path):
    a, b = (str(tmp_path / x / "checkpoint-500") for x in "ab")
    names = [folder_name(a), folder_name(b), folder_name(f"{a}.gguf"), folder_name(f"{b}.gguf")]
    assert len(set(names)) == 4 and all(name.startswith("checkpoint-500-") for name in names)
    assert folder_name(a) == folder_name(f"{tmp_path}/b/../a/checkpoint-500/") == shown_name(a)
    assert (
        folder_name("owner/name") == "owner--name"
        and shown_name("owner/name") == "owner/name"
        and all(folder_name(n) == n for n in MODELS)
    )
    assert len(folder_name(str(tmp_path / ("x" * 250)))) < 100


def test_a_run_on_a_relative_path_tells_nobodys_folders(tmp_path, monkeypatch, left_as_it_was):
    """`a/b` is a folder here and could be a hub id: the notebook, which stands elsewhere, loads the folder;
    results name it without its path.
    """
    make_model(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gallery, "NOTEBOOKS", tmp_path)
    given = {"MODEL": "a/b", "TIER": "embedded", "SEED": 0}
    assert runner.run(book(tmp_path, ["MODEL"], REPORT.format(before="", names="MODEL")), given) == "ran"
    name = folder_name("a/b")
    folder = RESULTS / "embedded" / name / "99_user"
    about = json.loads((folder / "run.json").read_text())
    assert (
        about["parameters"] == given
        and about["model"]["name"] == name
        and about["machine"]["bfloat16"] in (True, False)
    )
    with (folder / "data" / "f.csv").open() as f:
        assert [row["panel"] for row in csv.DictReader(f)] == [name]
    assert json.loads((folder / "figures.json").read_text())["f"]["title"] == f"Of {name}"
    assert json.loads((folder / "claims.json").read_text())[0]["controls"] == {"of": name}
    assert json.loads((FIGURES / "manifest.json").read_text())[f"embedded/{name}/99_user/f"]["model"] == name
    written = [
        p
        for base in (folder, FIGURES / "embedded" / name)
        for p in base.rglob("*")
        if p.suffix in (".json", ".csv")
    ]
    assert len(written) > 4 and not [
        p for p in [*written, FIGURES / "manifest.json"] if str(tmp_path) in p.read_text()
    ]
    monkeypatch.chdir(tmp_path / "a")
    # the same model, spelled from elsewhere
    assert runner.run(tmp_path / "99_user.ipynb", given | {"MODEL": "./b"}) == "up to date"


@pytest.mark.parametrize("changed", ["BASE", "POST"])
def test_a_model_that_is_not_the_one_that_was_found_fails_the_run(tmp_path, changed, left_as_it_was):
    given = {name: str(make_model(tmp_path / name.lower())) for name in ("BASE", "POST")} | {
        "TIER": "embedded",
        "SEED": 0,
    }
    before = f'path = Path({changed}, "generation_config.json"); path.write_text(path.read_text() + " ")'
    with pytest.raises(UserError, match=f"as {given[changed]}, and what was found there before"):
        runner.run(book(tmp_path, ["BASE", "POST"], REPORT.format(before=before, names="BASE, POST")), given)
    assert not list((RESULTS / "embedded").glob("base-*/99_user/run.json"))


def test_what_a_notebook_used_must_be_what_the_run_is_filed_under():
    runner._check_used(Path("x.ipynb"), str(PACKAGE), {"m": "1", "other": "2"}, [("m", "1")])
    for library, models, message in (
        (None, {"m": "1"}, "another version"),
        ("/elsewhere", {"m": "1"}, "/elsewhere"),
        (str(PACKAGE), {}, "no model"),
    ):
        with pytest.raises(UserError, match=message):
            runner._check_used(Path("x.ipynb"), library, models, [("m", "1")])


# make


@pytest.fixture()
def python_of(tmp_path):
    """A function of code: an executable for make's PY that runs it, whatever target was asked for."""

    def write(code: str) -> str:
        script, path = tmp_path / "code.py", tmp_path / "python"
        script.write_text(code)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{script}"\n')
        path.chmod(0o755)
        return str(path)

    return write


def make(*words, **env):
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | env,
    )


VALUES = [
    "User's request: {x}",
    'say "{x}"',
    "for $5 and $$ and $(shell echo no) {x}",
    "$(",
    "# {x} #1",
    r"a\n\\b\{x}",
    "two\nlines\n{x}",
    "a  b\t{x} ",
    "`{x}`; ${HOME}",
    "%=:{x}&|<>*?",
    "ä – {x}",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_goes_through_make_as_it_was_written(value, python_of):
    py = python_of(
        "import json; from refusal.run.cli import given_parameters; print(json.dumps(given_parameters()))"
    )
    done = make(f"PY={py}", "nb-02", f"TEMPLATE={value}", "N=7")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"TEMPLATE": value, "N": "7"}


def test_quotes_in_further_parameters_are_taken_off_in_pairs():
    assert params.parse_further("""a="it's" b='say "x' c=it's TEMPLATE=' {x}'""") == {
        "a": "it's",
        "b": 'say "x',
        "c": "it's",
        "TEMPLATE": " {x}",
    }


def foreign(tmp_path) -> dict[str, str]:
    """Settings that name another library, start-up files, a kernel that does not run, a plotting backend that
    is not there.
    """
    for name in ("refusal", "kernels/python3", "ipython/profile_default/startup"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "refusal" / "__init__.py").write_text("raise RuntimeError('the other library')")
    for name in ("sitecustomize.py", "startup.py", "ipython/profile_default/startup/a.py"):
        (tmp_path / name).write_text("import sys; sys.foreign = True")
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "other", "language": "python"})
    )
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: cursive\naxes.grid: True\nsavefig.transparent: True\n"
    )
    return {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PATH": str(tmp_path),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "nowhere",
        "JUPYTER_RUNTIME_DIR": "/proc/nowhere",
        "PYTHONWARNINGS": "error",
        "MPLBACKEND": "nowhere",
        "XDG_CACHE_HOME": "cache",
        "HF_HOME": "hf",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
    }


FACTS = """
import json, os, subprocess, sys
import refusal
from refusal.report import figures
child = [sys.executable, "-c", "import refusal; print(refusal.__file__)"]
said = subprocess.run(child, capture_output=True, text=True).stdout.strip()
facts = [refusal.__file__, sys.executable, hasattr(sys, "foreign"), TEMPLATE, said,
         os.environ["XDG_CACHE_HOME"], os.environ["HF_HOME"]]
open({path!r}, "w").write(json.dumps(facts))
"""


def test_the_notebook_runs_on_this_library_and_this_interpreter_whatever_is_set(
    tmp_path, monkeypatch, left_as_it_was
):
    for name, value in foreign(tmp_path).items():
        monkeypatch.setenv(name, value)
    path, template = tmp_path / "facts.json", VALUES[0] + VALUES[2] + VALUES[6]
    with pytest.raises(UserError, match=r"ended without writing metrics.json"):
        runner.run(
            book(tmp_path, ["MODEL"], FACTS.format(path=str(path))),
            {"MODEL": "tiny", "TIER": "smoke", "SEED": 0, "TEMPLATE": template},
        )
    here = str(PACKAGE / "__init__.py")
    assert json.loads(path.read_text()) == [
        here,
        sys.executable,
        False,
        template,
        here,
        str(Path.home() / ".cache"),
        str(Path.cwd() / "hf"),
    ]
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)  # the user's settings are as they were


def test_targets_and_jupyterlab_get_this_checkout_and_its_kernel(tmp_path, python_of):
    code = """import json, os
from jupyter_client.kernelspec import get_kernel_spec
import refusal
argv = get_kernel_spec('python3').argv[1:3]
print(json.dumps([refusal.__file__, argv, os.environ.get("XDG_CACHE_HOME")]))"""
    settings = foreign(tmp_path)
    for target in ("lab", "help", "test"):
        done = make(f"PY={python_of(code)}", target, **settings)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [str(PACKAGE / "__init__.py"), ["-m", "ipykernel_launcher"], None]


def test_a_kernel_that_is_gone_is_told_in_two_lines(tmp_path, left_as_it_was):
    with pytest.raises(UserError, match="the process of 99_user ended") as caught:
        runner.run(
            book(tmp_path, ["MODEL"], "import os\nos.kill(os.getpid(), 9)"),
            {"MODEL": "tiny", "TIER": "smoke", "SEED": 0},
        )
    assert "memory" in caught.value.hint


# disks


REFUSALS = [
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
]


def refuse(code):
    def call(*_args, **_kwargs):
        raise OSError(code, os.strerror(code), "/some/place")

    return call


@pytest.mark.parametrize("code", REFUSALS)
def test_what_a_disk_refuses_is_two_lines_wherever_it_is_met(
    code, tmp_path, monkeypatch, capsys, left_as_it_was
):
    monkeypatch.setitem(cli.TARGETS, "figures", refuse(code))
    assert cli.main(["figures"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and "/some/place" in shown and len(shown.splitlines()) == 2
    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", refuse(code))
        with pytest.raises(UserError, match="/some/place"):
            files.write_text(tmp_path / "x", "text")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refuse(code))
        with pytest.raises(UserError, match="/some/place"):
            files.write_text(tmp_path / "x", "text")
        assert not list(tmp_path.glob("*x*"))
    given = {"MODEL": "tiny", "TIER": "smoke", "SEED": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse(code))
        with pytest.raises(UserError, match="/some/place"):
            runner.run(book(tmp_path, ["MODEL"], "1"), given)


def test_results_and_figures_may_lie_on_two_disks(tmp_path, monkeypatch):
    real, source, target = os.replace, tmp_path / "one" / "x", tmp_path / "two" / "x"

    def replace(a, b):
        if Path(a).parent != Path(b).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(a, b)

    source.parent.mkdir()
    source.write_text("text")
    monkeypatch.setattr(os, "replace", replace)
    runner._move(source, target)
    assert target.read_text() == "text" and [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), files.disk_errors():
        Path("/nowhere/at/all").read_text()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_the_runners_own_notebook_that_cannot_be_saved_ends_the_run_in_two_lines(
    code, tmp_path, monkeypatch, left_as_it_was
):
    from papermill.iorw import LocalHandler

    monkeypatch.setattr(LocalHandler, "write", refuse(code))
    with pytest.raises(UserError, match="/some/place"):
        runner.run(book(tmp_path, ["MODEL"], "1"), {"MODEL": "tiny", "TIER": "smoke", "SEED": 0})
    assert not list(RESULTS.glob("smoke/tiny/.99_user.*"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_read_only_cache_is_used_and_said_once(code, monkeypatch, capsys, tmp_path):
    files.say_once.cache_clear()
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    cache.remember_json("there", lambda: 1)
    capsys.readouterr()
    monkeypatch.setattr(files.tempfile, "mkstemp", refuse(code))
    assert [
        cache.remember_json("there", refuse(code)),
        cache.remember_json("new", lambda: 2),
        cache.remember_json("new", lambda: 3),
    ] == [1, 2, 3]
    assert capsys.readouterr().out.count("cannot be written to") == 1
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse(code))
    done = []
    for _ in range(2):
        with files.lock(tmp_path / "deep" / "x", "x"):
            done.append(1)
    assert done == [1, 1] and capsys.readouterr().out.count("no lock can be kept") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_cache_stops_before_more_is_lost(code, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(files.tempfile, "mkstemp", refuse(code))
    with pytest.raises(UserError, match="while writing"):
        cache.remember_json("x", lambda: 1)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse(code))
    with pytest.raises(UserError, match="while writing"), files.lock(tmp_path / "x", "x"):
        pass


# settings


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("cache", "./cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert files.cache_dir() == tmp_path / ".cache" / "refusal-companion"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert files.cache_dir() == tmp_path / "c" / "refusal-companion"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8_is_printed_to(encoding):
    env = os.environ | {"PYTHONIOENCODING": encoding}
    for words, status in ((["help"], 0), (["nb", "ä–"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "refusal.run.cli", *words], cwd=ROOT, capture_output=True, env=env
        )
        assert (
            done.returncode == status
            and b"Traceback" not in done.stderr
            and (done.stdout + done.stderr).decode(encoding)
        )
    code = """import subprocess, sys
from refusal.run import cli
cli._say_on_any_terminal()
print("a · b – ä", flush=True)
subprocess.run([sys.executable, "-c", "print('–')"])"""  # and the processes that are started
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=env)
    assert done.stdout == "a · b – ä\n–\n".encode(encoding, "replace"), done.stderr


def test_pip_installs_into_this_environment_and_keeps_the_way_to_the_index(tmp_path):
    wheels, venv, other = tmp_path / "wheels", tmp_path / "venv", tmp_path / "other"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tinything-1.0-py3-none-any.whl", "w") as z:
        z.writestr("tinything.py", "")
        z.writestr(
            "tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n"
        )
        z.writestr(
            "tinything-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        z.writestr("tinything-1.0.dist-info/RECORD", "")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {wheels}\ntarget = {other}\nuser = "
        f"true\n[install]\nrequire-hashes = true\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_USER": "1",
        "PIP_PREFIX": str(other),
        "PIP_TARGET": str(other),
        "PIP_TIMEOUT": "77",
    }
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    command = [
        sys.executable,
        "-m",
        "refusal.base.pip",
        "--python",
        str(venv / "bin" / "python"),
        "install",
        "--quiet",
        "tinything",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert list(venv.glob("lib/*/site-packages/tinything.py")) and not other.exists()
    code = (
        "import json; from refusal.base.pip import pip_environment; print(json.dumps({k: v for k, v in "
        "pip_environment().items() if k.startswith('PIP_')}))"
    )
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env, check=True
        ).stdout
    )
    assert (
        found.items()
        >= {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "true",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_TIMEOUT": "77",
        }.items()
    )
    assert set(found) <= {"PIP_CONFIG_FILE", *map(pip._variable, pip.REACH)}


# JupyterLab


def cell_of(number: str, index: int) -> str:
    """A code cell: 0 that of the parameters, 1 all from there to the one that checks them."""
    cells = [c.source for c in nbformat.read(BOOKS[number], 4).cells if c.cell_type == "code"]
    check = next(i for i, source in enumerate(cells) if i and "params.check_values(" in source)
    return [cells[0], "\n".join(cells[1 : check + 1])][index]


@pytest.mark.parametrize("number", BOOKS)
def test_every_notebook_refuses_in_its_own_cell_what_the_command_line_refuses(number):
    (line,) = [line for line in cell_of(number, 1).splitlines() if line.startswith("params.")]
    assert cell_of(number, 1).index(line) < cell_of(number, 1).index("loading.load(")
    model = next(name for name, p in params.parameters_of(BOOKS[number]).items() if p.subject)

    def refused(**changed):
        namespace = {"params": params}
        exec(cell_of(number, 0), namespace)
        namespace |= changed
        try:
            exec(line, namespace)
        except ParameterError as error:
            return str(error)

    assert refused() is None
    for name, value in {
        "N": 0,
        "SEED": 1.5,
        "DTYPE": "bf16",
        "BATCH_TOKENS": -1,
        "REMOTE": "yes",
        "TEMPLATE": "no place",
        model: "./nowhere",
    }.items():
        with pytest.raises(ParameterError) as command_line:
            params.resolve(BOOKS[number], {name: str(value)})
        assert refused(**{name: value}) == str(command_line.value)
    assert "takes no" in refused(TIER="smoke") and "is the constructed model" in refused(**{model: "tiny"})
    assert refused(BATCH_TOKENS=512, REMOTE=0) is None  # as a number, too


def test_a_default_that_was_edited_is_checked_as_well(tmp_path):
    nb = nbformat.read(BOOKS["02"], 4)
    cell = next(c for c in nb.cells if "parameters" in c.metadata.get("tags", []))
    path, whole = tmp_path / "02_x.ipynb", cell.source
    out_of_range = whole.replace("N: int = 64", "N: int = 0")
    for edited, message in (
        (out_of_range, "choose from 4 to 128"),
        (whole + "\nx = 3", "name: type = default"),
        (whole + "\n(", "cannot be"),
    ):
        cell.source = edited
        nbformat.write(nb, path)
        with pytest.raises(ParameterError, match=message):
            params.resolve(path, {})
    for text in ("", "{}", '{"cells": []}', "<<<<<<< HEAD"):
        path.write_text(text)
        with pytest.raises(ParameterError, match="02_x.ipynb cannot be read"):
            params.resolve(path, {})


def test_the_cell_of_parameters_may_check_them_itself(tmp_path):
    nb = nbformat.read(BOOKS["02"], 4)
    cell = next(c for c in nb.cells if "parameters" in c.metadata.get("tags", []))
    check = 'from refusal.run import params\n\nparams.check_values("02", globals())'
    if check not in cell.source:
        cell.source += f"\n\n{check}"
    path = tmp_path / BOOKS["02"].name
    nbformat.write(nb, path)
    assert params.parameters_of(path) == params.parameters_of(BOOKS["02"])
    exec(cell.source, {})
    with pytest.raises(ParameterError, match="N=0 is out of range"):
        exec(cell.source.replace("N: int = 64", "N: int = 0"), {})


def test_what_an_editor_keeps_beside_the_cells_makes_no_run_out_of_date(tmp_path):
    nb, path = nbformat.read(BOOKS["02"], 4), tmp_path / BOOKS["02"].name
    values = params.resolve(BOOKS["02"], {"TIER": "smoke"})
    before = runner.fingerprint(BOOKS["02"], values, "r")
    for i, cell in enumerate(nb.cells):
        cell.id, cell.metadata["collapsed"] = f"id{i}", True
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = i, [nbformat.v4.new_output("stream", text="hello")]
    nb.metadata = {
        "kernelspec": {"name": "other", "display_name": "other"},
        "language_info": {"name": "python", "version": "3.12.1"},
    }
    path.write_text(nbformat.writes(nb, indent=4))
    assert runner.fingerprint(path, values, "r") == before
    for change in (
        lambda c: c.update(source=c.source + "\n1"),
        lambda c: c.metadata.update(tags=["x"]),
        lambda c: c.update(cell_type="raw"),
    ):
        changed = nbformat.reads(nbformat.writes(nb), 4)
        change(changed.cells[-1])
        path.write_text(nbformat.writes(changed))
        assert notebook_hash(path) != notebook_hash(BOOKS["02"])


LOOP = """import time
from refusal.base.progress import track
for _ in track(range(3), 'work'):
    time.sleep(0.4)
print('after')"""


def test_outputs_that_were_saved_are_refused_with_what_takes_them_out(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *nbstripout*) exit 1;; esac\n')
    python.chmod(0o755)
    done = make(f"PY={python}", "lint")
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: these notebooks hold outputs, which are not committed\n"
        f"  take them out: {python} -m nbstripout notebooks/*.ipynb\n"
    )


def test_the_page_that_jupyterlab_opens_on_leads_to_what_is_there():
    text = (NOTEBOOKS / "index.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links and not [link for link in links if not (NOTEBOOKS / link).exists()]
    assert "index" not in "".join(path.name for path in params.notebooks().values())


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Cells run as JupyterLab runs them: the environment's kernel, nothing set by the runner, errors shown
    and gone past.
    """
    folder = make_model(tmp_path_factory.mktemp("model") / "m")
    cells = [
        cell_of("02", 0).replace("N: int = 64", "N: int = 0"),
        cell_of("02", 1),
        f"N, MODEL = 64, {str(folder)!r}\nTIER, DEVICE, DTYPE = 'embedded', 'cpu', 'float32'",
        cell_of("02", 1),
        LOOP,
        f"import sys\nsys.modules['ipywidgets'] = None\n{LOOP}",
        "def deep():\n    raise ValueError('a bug')\n\n\ndeep()",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION")} | {
        "PYTHONPATH": str(PACKAGE.parent)
    }
    client = NotebookClient(
        nb,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        timeout=600,
    )
    client.execute(env=env)
    return [cell.outputs for cell in nb.cells]


def test_in_jupyterlab_a_value_out_of_range_is_two_lines(opened):
    (error,) = opened[1]
    assert (
        error.output_type == "error"
        and error.ename == "ParameterError"
        and error.evalue.startswith("N=0 is out of range")
    )
    assert (
        len(error.traceback) == 2
        and "N=0 is out of range" in error.traceback[0]
        and "choose from 4 to 128" in error.traceback[1]
    )


def test_in_jupyterlab_other_errors_keep_their_traceback(opened):
    (error,) = opened[6]
    assert error.ename == "ValueError" and "deep()" in "\n".join(error.traceback)


def test_in_jupyterlab_bars_are_widgets_and_leave_nothing(opened):
    bar, after = opened[4]
    assert bar.data == {"text/plain": ""} and after.text == "after\n"


def test_in_jupyterlab_bars_are_text_without_widgets(opened):
    outputs = opened[3] + opened[5]
    streams, shown = (
        [o for o in outputs if (o.output_type == "stream") == whether] for whether in (True, False)
    )
    assert {o.name for o in streams} == {"stdout"}, outputs
    (box,) = shown  # the one at the notebook's top
    assert box.output_type == "display_data" and not any("widget" in kind for kind in box.data)
    printed = "".join(o.text for o in opened[5])
    assert "work:" in printed and printed.rstrip().endswith("after")


def test_in_jupyterlab_what_is_no_failure_is_calm_and_ends_the_notebook():
    """Nothing red, and no cell after it; the runner gets its error (test_runner.py)."""
    ends = (
        "import refusal\nfrom refusal.base.errors import NotebookEnded\nraise NotebookEnded('so', 'and so')"
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in (ends, "print('after')")])
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION")}
    with pytest.raises(CellExecutionError):
        NotebookClient(nb, kernel_name="python3", startup_timeout=300).execute(
            env=env | {"PYTHONPATH": str(PACKAGE.parent)}
        )
    assert [(o.output_type, o.text) for o in nb.cells[0].outputs] == [
        ("stream", "The notebook ends here. It is so\n  and so\n")
    ] and not nb.cells[1].outputs


def test_a_user_error_ends_the_run_at_its_cell_with_its_name(tmp_path, left_as_it_was):
    cells = (
        "from refusal.base.errors import UserError\nraise UserError('no such thing', 'do this')",
        "open('/nowhere', 'w')",
    )
    with pytest.raises(UserError, match="99_user failed in cell 2: UserError: no such thing\n  do this"):
        runner.run(book(tmp_path, ["MODEL"], *cells), {"MODEL": "tiny", "TIER": "smoke", "SEED": 0})
    nb = nbformat.read(RESULTS / "smoke" / "tiny" / "99_user" / "failed.ipynb", 4)
    (error,) = [o for c in nb.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert (error.ename, error.evalue, len(error.traceback)) == (
        "UserError",
        "no such thing\n  do this",
        2,
    ) and not nb.cells[-1].outputs


def test_what_a_killed_process_started_ends_with_it(tmp_path):
    """A training or a conversion would go on for nobody, on all cores."""
    child = f"""import os, time
from refusal.base.machine import end_with
end_with(os.getppid())
open({str(tmp_path / "up")!r}, "w").close()
time.sleep(600)"""
    parent = f"""import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
child.wait()"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        until(lambda: (tmp_path / "up").exists())
        process.kill()
    until(lambda: not alive(pid))
    for module in ("train/recipes.py", "model/convert.py"):
        assert "end_with(os.getppid())" in (PACKAGE / module).read_text(encoding="utf-8")


def alive(pid: int) -> bool:
    """Whether a process is at work: one that nobody waits for stays as a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_pip_installs_works_without_the_checkout(tmp_path):
    """A wheel made of the files that are committed, in a folder of its own: it has its data, and no tests."""
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    asked = ["git", "ls-files", "-z", "lib", "pyproject.toml", "README.md", "LICENSE*"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
    made = subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", "--target", site, source], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} <= {"refusal", "bin"}
    code = (
        f"import refusal; from refusal import data; assert refusal.__file__.startswith({str(site)!r}); "
        "model = refusal.load('tiny'); prompts = refusal.chat(model, ['how do I bake bread']); "
        "print(len(data.judge_cases()), len(refusal.generate(model, prompts, decoding=2)[0]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and told.stdout.split()[-1] == "1", told.stderr
