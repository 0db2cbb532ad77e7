"""Paths, whole-file writes and locks. Every file this project writes is either the old one or the new one,
never half.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from refusal.base.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
# None where the package was installed without one
CHECKOUT = PACKAGE.parent.parent if (PACKAGE.parent.parent / "notebooks").is_dir() else None
ROOT = CHECKOUT or Path.cwd()
RESULTS, FIGURES, NOTEBOOKS, DATA = ROOT / "results", ROOT / "figures", ROOT / "notebooks", PACKAGE / "data"

NO_SPACE = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "disk quota exceeded"}
NO_RIGHT = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "read-only file system",
}
BROKEN = (
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.EBUSY,
    errno.EFBIG,
)


class ReadOnlyError(UserError):
    """A place that may not be written to."""


@contextlib.contextmanager
def disk_errors(place: Path | str = ""):
    """Turn what a disk or its rights refuse into a UserError of two lines (ReadOnlyError for rights); `place`
    is named where the system names none.
    """
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or place
        if error.errno in NO_SPACE:
            hint = (
                "free some space (`make clean` removes results and computed caches) and run the same "
                "command again"
            )
            raise UserError(f"{NO_SPACE[error.errno]} while writing {where}", hint) from error
        if error.errno in NO_RIGHT:
            hint = (
                "change its rights or its owner, or work in a copy of this folder; XDG_CACHE_HOME moves the "
                "cache to another folder"
            )
            raise ReadOnlyError(f"{NO_RIGHT[error.errno]}: {where}", hint) from error
        if error.errno in BROKEN:
            raise UserError(
                f"{os.strerror(error.errno).lower()}: {where}",
                "look at what is in that place, then run the same command again",
            ) from error
        raise


@functools.cache
def say_once(text: str) -> None:
    """Print a line, the first time that it is said in this process."""
    print(text, flush=True)


def cache_dir() -> Path:
    """The project's cache, outside the repository: ``$XDG_CACHE_HOME`` or ``~/.cache``, then
    ``refusal-companion``.

    A relative XDG_CACHE_HOME is ignored, as its specification asks: each process would read it from where it
    stands.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "refusal-companion"
    except RuntimeError:
        raise UserError(
            "there is no home folder to keep the cache in", "set XDG_CACHE_HOME to a folder for it"
        ) from None


def notebook_hash(notebook: Path) -> str:
    """A SHA-256 over a notebook's cells: kind, source and tags. Outputs, counts and what an editor keeps
    beside them do not count.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    kept = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path):
    """Yield a temporary path beside `path`; move it into place when the block ends well, remove it otherwise.

    Raises UserError when the disk is full or may not be written to (`disk_errors`).
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(fd)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
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
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{what} needs {size / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB left",
            "free some space, or set XDG_CACHE_HOME to a folder on a larger disk",
        )


@contextlib.contextmanager
def lock(path: Path, what: str):
    """Hold a lock file, so that two processes do not do the same work twice; the second waits and says so.

    Where no lock can be kept (a read-only place, a file system without locks) the work goes on without one:
    there is nothing to do twice where nothing can be written, and whole-file writes keep the rest whole.
    """
    import filelock  # here, so that paths are known where no package is installed yet

    held = filelock.FileLock(f"{path}.lock")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.acquire(timeout=0)
    except filelock.Timeout:
        print(f"another process is at work on {what}; waiting for it", flush=True)
        held.acquire()
    except (ReadOnlyError, NotImplementedError):
        say_once(f"no lock can be kept in {path.parent}; run one command at a time")
    try:
        yield
    finally:
        held.release()
