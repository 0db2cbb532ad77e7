"""Paths, whole-file writes and locks. Every file this project writes is either the old one or the new one, never half."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import filelock

from lib.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
RESULTS, FIGURES, NOTEBOOKS, DATA = ROOT / "results", ROOT / "figures", ROOT / "notebooks", ROOT / "data"


def cache_dir() -> Path:
    """The project's cache, outside the repository: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``refusal-companion``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "refusal-companion"


def folder_name(model: str) -> str:
    """A model's name as a folder name: ``/`` becomes ``--``; a path keeps its last part."""
    path = Path(model).expanduser()
    if model.endswith(".gguf") or model.startswith((".", "~", "/")) or path.is_dir():
        return path.resolve().name.removesuffix(".gguf")
    return model.replace("/", "--")


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path):
    """Yield a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Raises UserError when the disk is full, naming the file and what to free.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == 28:
            raise UserError(
                f"no space left on the disk while writing {path}",
                "free some space (`make clean` removes results and computed caches) and run the same command again",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise UserError unless `folder`'s disk has `size` bytes to spare."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{what} needs {size / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB left",
            "free some space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )


@contextlib.contextmanager
def lock(path: Path, what: str):
    """Hold a lock file, so that two processes do not do the same work twice; the second waits and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(f"{path}.lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        print(f"another process is at work on {what}; waiting for it", flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()
