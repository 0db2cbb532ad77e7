"""Run notebooks: papermill underneath, checked parameters, progress per cell, provenance, up-to-date runs
skipped.

A run happens in a staging folder; its files move into place one by one when it ended well, ``run.json`` last,
and that file names them with their hashes. So a run that was interrupted at any moment is seen as not up to
date, and loses nothing.
"""

import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from refusal import data
from refusal.base import syntax
from refusal.base.errors import NotebookEnded, UserError
from refusal.base.files import (
    FIGURES,
    NOTEBOOKS,
    PACKAGE,
    RESULTS,
    ROOT,
    cache_dir,
    disk_errors,
    lock,
    need_space,
    notebook_hash,
    sha256,
    write_json,
    writing,
)
from refusal.base.kernel import PROGRESS_FILE
from refusal.base.machine import cpu_has_bfloat16, processor, slower
from refusal.base.took import about_minutes
from refusal.model.names import folder_name, shown_name
from refusal.model.registry import MODELS, RECIPES
from refusal.model.sources import is_converted, locate, recipe_folder
from refusal.report import gallery, outputs
from refusal.report.recorder import NAMES, OUT, RUNNER
from refusal.run import params

# of glibc, in the kernel
TUNABLES = (
    f"glibc.malloc.mmap_threshold={64 << 20}:glibc.malloc.trim_threshold={256 << 20}:glibc.malloc.hugetlb=1"
)
PATH_FIRST = (
    "import sys; sys.path[0] = sys.argv.pop(1); from ipykernel.kernelapp import launch_new_instance; "
    "launch_new_instance()"
)
# folders that others' variables name
PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TORCH_HOME", "TMPDIR")
PACKAGES = (
    "torch",
    "transformers",
    "nnsight",
    "papermill",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "matplotlib",
)


def fingerprint(notebook: Path, parameters: dict, revision: str) -> str:
    """A SHA-256 over all that a run depends on: the notebook's cells, the code they import, the claims, data,
    pinned requirements, parameters, model, kind of processor.
    """
    digest, known = hashlib.sha256(notebook_hash(notebook).encode()), params.parameters_of(notebook)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    digest.update(syntax.of_cells("".join(c["source"]) for c in cells if c["cell_type"] == "code").encode())
    for path in [
        NOTEBOOKS / f"{notebook.stem}.claims.toml",
        ROOT / "requirements.txt",
        ROOT / "constraints.txt",
    ]:
        digest.update(path.read_bytes() if path.exists() else b"")
    digest.update(
        json.dumps(
            [
                {k: v for k, v in parameters.items() if not known[k].folder},
                revision,
                data.hashes(parameters["TIER"]) | params.files_of(notebook, parameters),
                cpu_has_bfloat16(),
            ],
            sort_keys=True,
        ).encode()
    )
    return digest.hexdigest()


def place_of(name: str) -> Path:
    """Where a registered model or that of a recipe lies in the cache once it is there."""
    if name in RECIPES:
        return recipe_folder(name)
    return cache_dir() / "models" / f"{name}-{MODELS[name].file.sha256[:12]}"


def missing(names: Iterable[str]) -> list[str]:
    """One line for each registered model or recipe of `names` that is not in the cache yet: what it takes to
    get it.
    """
    lines = []
    for name in names:
        if name in RECIPES:
            recipe = RECIPES[name]
            if not place_of(name).exists():
                lines += missing([recipe.base])
                lines.append(
                    f"{name}: about {recipe.minutes} minutes of post-training from {recipe.base}{slower()}; "
                    f"{recipe.disk_gb} GB on disk, once"
                )
        elif name in MODELS:
            entry = MODELS[name]
            if not is_converted(place_of(name)):
                size = f"{entry.file.bytes / 1e9:.2f} GB to download, {entry.disk_gb} GB on disk"
                lines.append(f"{name}: {size}, then about {entry.convert_s} s of conversion, once")
    return list(dict.fromkeys(lines))


def run_name(notebook: Path, parameters: dict) -> str:
    """The folder of a run: the notebook's name, and behind an @ what differs from its defaults, sorted; a
    hash where that is long.
    """
    known = params.parameters_of(notebook)
    differs = {
        k: v
        for k, v in sorted(parameters.items())
        if k != "TIER"
        and not known[k].subject
        and v != known[k].tiers.get(parameters["TIER"], known[k].default)
    }
    text = ",".join(f"{k}={v}" for k, v in differs.items())
    if len(text) > 60 or not re.fullmatch(r"[\w.,=+-]*", text):
        text = hashlib.sha256(json.dumps(differs, sort_keys=True).encode()).hexdigest()[:12]
    return f"{notebook.stem}@{text}" if differs else notebook.stem


def place(notebook: Path, given: dict) -> Path:
    """The folder that the results of a run lie in, from its checked parameters as they were given."""
    names = params.models_of(notebook, params.resolved(notebook, given))[0]
    return RESULTS / given["TIER"] / "--vs--".join(map(folder_name, names)) / run_name(notebook, given)


def up_to_date(folder: Path, mark: str) -> bool:
    """Whether the last run in `folder` was this one, and every file it wrote stands as it was."""
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return about["fingerprint"] == mark and all(
            sha256(ROOT / name) == h for name, h in about["outputs"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


@disk_errors()
def run(notebook: Path, given: dict) -> str:
    """Run one notebook with checked parameters unless it is up to date; returns ``ran`` or ``up to date``.

    A model that is named by a path is looked up once, from where the user stands; the notebook gets the
    absolute path. Raises UserError when a cell fails, when the notebook reported no figure or metric, or when
    something it needs cannot be had.
    """
    parameters = params.resolved(notebook, given)
    tier, (names, beside) = parameters["TIER"], params.models_of(notebook, parameters)
    folder = place(notebook, given)
    name = folder.parent.name
    with lock(
        cache_dir() / "locks" / hashlib.sha256(str(folder).encode()).hexdigest()[:16],
        f"{notebook.stem} on {name}",
    ):
        # left by a run that was killed; the lock says that none is at work
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            shutil.rmtree(left, ignore_errors=True)
        for needed in missing([*names, *beside]):
            print(needed, flush=True)
        remote = parameters.get("REMOTE", "0") not in ("0", "local")
        revisions = [n if remote else locate(n).revision for n in names]
        mark = fingerprint(
            notebook, parameters, " ".join([*revisions, *(locate(n).revision for n in beside)])
        )
        if up_to_date(folder, mark):
            print(f"{notebook.stem} on {name}: up to date")
            return "up to date"
        if minutes := about_minutes(folder):
            print(f"{notebook.stem} on {name}: about {minutes} minutes the last time", flush=True)
        need_space(RESULTS, 200_000_000, f"the results of {notebook.stem}")
        staging = folder.parent / f".{folder.name}.{os.getpid()}"
        staging.mkdir(parents=True)
        try:
            started = time.monotonic()
            _execute(notebook, parameters, staging, folder)
            _publish(
                notebook,
                given,
                list(zip(names, revisions, strict=True)),
                mark,
                staging,
                folder,
                time.monotonic() - started,
            )
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    if tier != "smoke":
        gallery.update()
    return "ran"


def _execute(notebook: Path, parameters: dict, staging: Path, folder: Path) -> None:
    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    class Kernel(AsyncKernelManager):
        """A kernel of this environment's interpreter with this checkout first on its path, whatever kernels
        are installed under the same name.
        """

        kernel_spec = KernelSpec(
            argv=[sys.executable, "-c", PATH_FIRST, str(PACKAGE.parent), "-f", "{connection_file}"],
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
        )

    progress = staging / "progress.json"
    screen = _Screen(notebook.stem, progress)

    class Engine(NBClientEngine):
        """papermill's own engine, telling the screen which cell is at work."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, *more, **options):
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell, cell_index=None, **kwargs):
                screen.cell(nb_man.nb, cell_index)
                return start(cell, cell_index, **kwargs)

            def cell_complete(cell, cell_index=None, **kwargs):
                screen.done()
                return complete(cell, cell_index, **kwargs)

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            return super().execute_managed_notebook(nb_man, kernel_name, *more, **options)

    papermill_engines.register("companion", Engine)
    executed = staging / "executed.ipynb"
    saved, own = dict(os.environ), _kernel_environment(staging)
    os.environ.clear()
    os.environ |= own | {
        OUT: str(staging),
        RUNNER: str(os.getpid()),
        PROGRESS_FILE: str(progress),
        NAMES: json.dumps(
            {name: shown_name(name) for part in params.models_of(notebook, parameters) for name in part}
        ),
    }
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters,
            engine_name="companion",
            kernel_name="python3",
            language="python",
            cwd=str(NOTEBOOKS),
            progress_bar=False,
            log_output=False,
            start_timeout=120,
            kernel_manager_class=Kernel,
            extra_arguments=["--IPKernelApp.log_level=50", "--HistoryManager.hist_file=:memory:"],
        )
    except PapermillExecutionError as error:
        if error.ename == NotebookEnded.__name__:  # it has said all it can, and written it
            print(f"[{notebook.stem}] {error.evalue}", flush=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        _move(executed, folder / "failed.ipynb")
        raise UserError(
            f"{notebook.stem} failed in cell {error.cell_index}: {error.ename}: {error.evalue}",
            f"the notebook up to there, with the whole traceback: "
            f"{(folder / 'failed.ipynb').relative_to(ROOT)}",
        ) from None
    except RuntimeError as error:  # nbclient's: the kernel did not start, or is gone
        raise UserError(
            f"the process of {notebook.stem} ended or does not answer: {error}",
            "most often memory ran out: close other programs, set BATCH_TOKENS=512, or choose a smaller "
            "model; what was computed is kept",
        ) from error
    finally:
        screen.close()
        os.environ.clear()
        os.environ.update(saved)


def _kernel_environment(staging: Path) -> dict[str, str]:
    """The user's environment without what would make the kernel another one (modules, start-up files,
    kernels, plotting), and with what makes it fast.
    """
    kept = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    # made absolute, for the kernel stands in another folder
    places = {
        name: str(Path(os.environ[name]).expanduser().absolute()) for name in PLACES if os.environ.get(name)
    }
    return (
        {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "IPYTHON", "JUPYTER")) or name in kept
        }
        | places
        | {
            "XDG_CACHE_HOME": str(cache_dir().parent),
            "PYTHONPATH": str(PACKAGE.parent),
            "PYTHONNOUSERSITE": "1",  # for the processes that the kernel starts, too
            "IPYTHONDIR": str(staging / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(staging / "jupyter"),
            "MPLBACKEND": "agg",
            "TQDM_DISABLE": "1",
            # a layer's results reuse memory and, where the system has them, lie in huge pages: together 1.4
            # times as fast
            "GLIBC_TUNABLES": ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), TUNABLES))),
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
            "LRU_CACHE_CAPACITY": "32",  # kernels kept per shape of a batch add up to a gigabyte else
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
    )


class _Screen:
    """Lines about the cell at work; between them, on a terminal, the progress of the loop inside it."""

    def __init__(self, title: str, progress: Path):
        self.title, self.progress, self.live = title, progress, sys.stdout.isatty()
        self.label, self.since, self.closed = "", time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def cell(self, nb, index) -> None:
        heading = next(
            (
                line.lstrip("# ")
                for cell in reversed(nb.cells[: index + 1])
                if cell.cell_type == "markdown"
                for line in cell.source.splitlines()
                if line.startswith("#")
            ),
            "",
        )
        code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
        self.label = (
            f"[{self.title}] cell {code.index(index) + 1}/{len(code)} · {heading}" if index in code else ""
        )
        self.since = time.monotonic()

    def done(self) -> None:
        if self.label and (seconds := time.monotonic() - self.since) > 0.5:
            print(("\r\033[K" if self.live else "") + f"{self.label} · {seconds:.0f} s", flush=True)
        self.label = ""

    def _watch(self) -> None:
        spoke = time.monotonic()
        while not self.closed.wait(0.5 if self.live else 5):
            try:
                p = json.loads(self.progress.read_text(encoding="utf-8"))
                inner = f" · {p['label']} {p['done']}/{p['total']}"
            except (OSError, ValueError):
                inner = ""
            if self.label and self.live:
                print(
                    f"\r\033[K{self.label}{inner} · {time.monotonic() - self.since:.0f} s", end="", flush=True
                )
            elif self.label and time.monotonic() - spoke > 30:
                spoke = time.monotonic()
                print(f"{self.label}{inner} · {time.monotonic() - self.since:.0f} s so far", flush=True)

    def close(self) -> None:
        self.closed.set()
        self.thread.join()
        if self.live:
            print("\r\033[K", end="")


def _publish(notebook, parameters, located, mark, staging: Path, folder: Path, duration: float) -> None:
    """Move a finished run into place and write its provenance. Raises UserError when it reported nothing, or
    read other models than were located.

    `parameters` as the user wrote them, `located` the run's models as the notebook was given them: [(name,
    revision)].
    """
    for needed in ("metrics.json", "claims.json", "figures.json", "usage.json"):
        if not (staging / needed).exists():
            raise UserError(
                f"{notebook.stem} ended without writing {needed}", "its last cell must call run.finish()"
            )
    figures = json.loads((staging / "figures.json").read_text(encoding="utf-8"))
    for name in figures:
        for path in (staging / "data" / f"{name}.csv", staging / "figures" / f"{name}.png"):
            if not path.exists():
                raise UserError(f"{notebook.stem} declared the figure {name} but did not write {path.name}")
    executed = json.loads((staging / "executed.ipynb").read_text(encoding="utf-8"))
    write_json(staging / outputs.FILE, outputs.shown(executed, list(figures)))
    usage = json.loads((staging / "usage.json").read_text(encoding="utf-8"))
    _check_used(notebook, usage.pop("library", None), usage.pop("models", {}), located)
    drawn = FIGURES / folder.relative_to(RESULTS)
    longest = _longest(folder / "run.json", duration, parameters)
    (folder / "run.json").unlink(missing_ok=True)
    written = {}
    moves = [(staging / "data", folder / "data"), (staging / "figures", drawn)]
    for source, target in moves:
        source.mkdir(exist_ok=True)  # a notebook that ended early may have drawn nothing
        target.mkdir(parents=True, exist_ok=True)
        new = {path.name for path in source.iterdir()}
        for path in target.iterdir():
            if path.name not in new:
                path.unlink()
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
            written[(target / path.name).relative_to(ROOT).as_posix()] = sha256(target / path.name)
    for name in ("metrics.json", "figures.json", "claims.json", outputs.FILE, "executed.ipynb"):
        _move(staging / name, folder / name)
        written[(folder / name).relative_to(ROOT).as_posix()] = sha256(folder / name)
    (folder / "failed.ipynb").unlink(missing_ok=True)
    write_json(
        folder / "run.json",
        {
            "notebook": notebook.name,
            "parameters": parameters,
            "names_models": [name for name, p in params.parameters_of(notebook).items() if p.model],
            "model": {
                "name": "--vs--".join(shown_name(name) for name, _ in located),
                "revision": " ".join(revision for _, revision in located),
            },
            "notebook_sha256": notebook_hash(notebook),
            "data": data.hashes(parameters["TIER"]) | params.files_of(notebook, parameters),
            "seed": parameters["SEED"],
            **usage,
            **environment(),
            "duration_s": round(duration, 1),
            "longest_s": round(longest, 1),
            "fingerprint": mark,
            "outputs": written,
        },
    )


def _longest(before: Path, duration: float, parameters: dict) -> float:
    """`duration` in seconds, or what the run of `before` took at its longest, where that was the same run on
    the same machine.
    """
    try:
        about = json.loads(before.read_text(encoding="utf-8"))
        same = (about["parameters"], about["machine"]) == (parameters, environment()["machine"])
        return max(duration, about.get("longest_s", about["duration_s"])) if same else duration
    except (OSError, ValueError, KeyError):
        return duration


def environment() -> dict:
    """What a run depends on beside its inputs, as ``run.json`` records it: versions, machine, git_commit."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in PACKAGES},
        },
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "bfloat16": cpu_has_bfloat16(),
        },
        "git_commit": _commit(),
    }


def _move(source: Path, target: Path) -> None:
    """Put a file in another's place, whole or not at all, on whatever disk: results and figures may be links
    to two of them.
    """
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)


def _check_used(
    notebook: Path, library: str | None, models: dict[str, str], located: list[tuple[str, str]]
) -> None:
    """Raise UserError where the notebook ran another checkout's library, or loaded another model than the one
    that its results would be filed under.
    """
    if library != str(PACKAGE):
        raise UserError(
            f"{notebook.stem} ran the library of {library or 'another version'}, not that of {PACKAGE}",
            "unset PYTHONPATH and run it again",
        )
    for name, revision in located:
        if models.get(name) != revision:
            raise UserError(
                f"{notebook.stem} loaded {models.get(name, 'no model')} as {name}, and what was found there "
                f"before the run is {revision}",
                "its files changed during the run: let nothing write to them, and run it again",
            )


def _commit() -> str | None:
    """The commit of the working tree, with ``+changes`` where tracked files differ from it; None
    outside git."""

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes"
            if git("status", "--porcelain", "--untracked-files=no", "--", "lib", "notebooks")
            else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
