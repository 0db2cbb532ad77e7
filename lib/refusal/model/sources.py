"""Where a model's files are and what identifies them: a name, a folder, a ``.gguf`` file or a hub id,
resolved once.

GGUF files are converted once, models of a recipe are trained once, each in a process of its own. No torch
here.
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
from dataclasses import dataclass
from pathlib import Path

from refusal.base import syntax
from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.files import DATA, cache_dir, lock, need_space, sha256, write_json
from refusal.base.machine import slower
from refusal.model.fetch import fetch, hub_record
from refusal.model.names import local_path
from refusal.model.registry import CONSTRUCTED, MODELS, RECIPES

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a model's files are and what identifies them: `folder` of safetensors, `revision` a SHA-256 or
    hub commit.
    """

    name: str
    folder: Path | None
    revision: str


def check_model(name: str, parameter: str = "MODEL") -> str:
    """`registry`, `recipe`, `gguf`, `folder`, `hub` or `tiny`, from the name and the local disk alone.

    Raises ParameterError, naming the `parameter`, for a name that is none of them, or a path that holds no
    model.
    """
    if name in CONSTRUCTED:
        return "tiny"
    if name in MODELS:
        return "registry"
    if name in RECIPES:
        return "recipe"
    path = local_path(name)
    if path and path.is_file():
        if path.suffix != ".gguf":
            raise ParameterError(
                f"{parameter}={name} is a file, but not a .gguf file",
                "give a .gguf file or a folder with config.json",
            )
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise ParameterError(
                    f"{parameter}={name} does not start like a GGUF file",
                    "the download may be damaged or incomplete",
                )
        return "gguf"
    if path and path.is_dir():
        missing = [
            what
            for what, pattern in (
                ("config.json", "config.json"),
                ("a tokenizer", "tokenizer*"),
                ("safetensors weights", "*.safetensors"),
            )
            if not any(path.glob(pattern))
        ]
        if missing:
            extra = (
                " (pickled weights are not loaded: convert them to safetensors)"
                if any(path.glob("*.bin"))
                else ""
            )
            raise ParameterError(
                f"{parameter}={name} is a folder without {', '.join(missing)}{extra}",
                "give a folder written by save_pretrained",
            )
        return "folder"
    if name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ParameterError(f"{parameter}={name}: there is no such file or folder")
    if HUB_ID.fullmatch(name):
        return "hub"
    raise ParameterError(
        f"unknown model {name!r}",
        nearest(name, [*MODELS, *RECIPES]) + "; or a hub id (owner/name), a folder, a .gguf file",
    )


def locate(name: str) -> Source:
    """The model's files on this disk, fetched and converted first if need be (progress is printed).

    Raises ParameterError for an unknown name, UserError for what cannot be fetched.
    """
    kind = check_model(name)
    if kind == "tiny":
        # the weights of a tiny model are in its code
        return Source(name, None, f"planted-{name}-" + syntax.alone("refusal.model.tiny")[:12])
    if kind == "registry":
        file = MODELS[name].file
        return Source(name, _converted(name, lambda: fetch(file), file.sha256), file.sha256)
    if kind == "recipe":
        folder = _post_trained(name)
        return Source(
            name, folder, json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["sha256"]
        )
    if kind == "gguf":
        path = Path(name).expanduser()
        digest = sha256(path)
        return Source(name, _converted(path.name.removesuffix(".gguf"), lambda: path, digest), digest)
    if kind == "folder":
        folder = Path(name).expanduser()
        check_folder(folder)
        return Source(name, folder, _folder_hash(folder))
    from huggingface_hub import snapshot_download

    revision = hub_record(name).sha
    folder = snapshot_download(
        name, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    )
    check_folder(Path(folder))
    return Source(name, Path(folder), revision)


def check_folder(folder: Path) -> None:
    """Raise UserError for a model that this library does not read: quantised, an adapter alone, or one that
    brings Python code of its own.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}/config.json cannot be read: {str(error).splitlines()[0]}", "get the model again"
        ) from None
    text = config.get("text_config") or {}
    if quantised := config.get("quantization_config") or text.get("quantization_config"):
        how = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
        raise UserError(
            f"the weights in {folder} are quantised ({how}), and cannot be read or edited as numbers",
            "give the same model in 16 or 32 bits",
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds a low-rank adapter",
            "merge it into its model (peft: merge_and_unload) and save that",
        )
    if config.get("auto_map") and any(folder.glob("*.py")):
        raise UserError(
            f"{folder} brings Python code of its own (auto_map in config.json), which is never run here",
            "if transformers has the architecture, a copy of the folder without that code and without "
            "auto_map loads",
        )


def _folder_hash(folder: Path) -> str:
    """One SHA-256 over the names and contents of the files that make the model."""
    files = sorted(
        p
        for pattern in ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
        for p in folder.glob(pattern)
    )
    return hashlib.sha256("\n".join(f"{p.name} {sha256(p)}" for p in files).encode()).hexdigest()


def conversion() -> str:
    """What identifies the code that converts: a conversion that other code left is not trusted."""
    return syntax.alone("refusal.model.convert")


def is_converted(folder: Path) -> bool:
    """Whether `folder` holds what a conversion by the present code wrote, whole: every file with its SHA-256,
    which is computed again only where a file's size or time is not the recorded one.
    """
    try:
        source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        return source["conversion"] == conversion() and all(
            _as_written(folder / name, **file) for name, file in source["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _as_written(path: Path, bytes: int, mtime_ns: int, digest: str) -> bool:
    stat = path.stat()
    return stat.st_size == bytes and (stat.st_mtime_ns == mtime_ns or sha256(path) == digest)


def _written(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "digest": sha256(path)}


def _converted(name: str, gguf, digest: str) -> Path:
    """The bf16 safetensors copy of a GGUF file, made once, in a process of its own so that its memory is
    given back.
    """
    target = cache_dir() / "models" / f"{name}-{digest[:12]}"
    if is_converted(target):
        return target
    path = gguf()
    with lock(target, f"converting {name}"):
        if is_converted(target):
            return target
        need_space(target.parent, 4 * path.stat().st_size, f"converting {name}")
        # left by a conversion that was killed; the lock says that none is running
        for left in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(left)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        print(
            f"converting {path.name} to bf16 safetensors, once "
            f"({MODELS[name].convert_s if name in MODELS else 60} s or so)",
            flush=True,
        )
        try:
            done = subprocess.run(
                [sys.executable, "-m", "refusal.model.convert", str(path), str(temporary)],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"},
            )
            if done.returncode:
                full = " (no space left on the disk)" if "No space left" in done.stderr else ""
                raise UserError(
                    f"cannot convert {path.name}{full}: "
                    f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'killed'}",
                    "one whole GGUF file of an architecture that transformers can read is needed, and about "
                    "3x its size in free memory",
                )
            files = {p.name: _written(p) for p in sorted(temporary.iterdir())}
            write_json(
                temporary / "source.json",
                {"file": path.name, "sha256": digest, "conversion": conversion(), "files": files},
            )
            temporary.chmod(0o755)
            if target.exists():  # left by other code, or damaged
                shutil.rmtree(target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def recipe_folder(name: str) -> Path:
    """Where the model of a recipe lies once it was made: the name ends in a hash of recipe, code, data and
    starting checkpoint.
    """
    recipe = RECIPES[name]
    own = [
        m
        for m in syntax.reached(recipe.examples.partition(":")[0])
        if m.split(".")[1] in ("train", "findings")
    ]
    # not all that these import: a faster pass makes no other model
    made_by = syntax.alone(
        *(f"refusal.train.{part}" for part in ("recipes", "adapters", "batches", "tokens")), *own
    )
    made_of = [
        dataclasses.asdict(recipe),
        MODELS[recipe.base].file.sha256,
        made_by,
        *(sha256(DATA / name) for name in recipe.data),
    ]
    return cache_dir() / "models" / f"{name}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"


def _post_trained(name: str) -> Path:
    """The folder of a recipe's model, trained first if need be, in a process of its own; an interrupted
    training goes on where it was saved.
    """
    target, recipe = recipe_folder(name), RECIPES[name]
    if (target / "recipe.json").exists():
        return target
    locate(recipe.base)
    with lock(target, f"post-training {name}"):
        if (target / "recipe.json").exists():
            return target
        need_space(
            target.parent,
            5_000_000_000 if recipe.method == "full" else 2_000_000_000,
            f"post-training {name}",
        )
        print(
            f"post-training {recipe.base} into {name}, once: about {recipe.minutes} minutes on two "
            f"cores{slower()}",
            flush=True,
        )
        done = subprocess.run(
            [sys.executable, "-m", "refusal.train.recipes", name, str(target)],
            stderr=subprocess.PIPE if not sys.stderr.isatty() else None,
            text=True,
        )
        if done.returncode:
            if done.returncode < 0:
                raise UserError(
                    f"post-training {name} was stopped (signal {-done.returncode})",
                    "run the same command again; it goes on where it was saved",
                )
            full = " (no space left on the disk)" if "No space left" in (done.stderr or "") else ""
            # the last line that is not indented: a traceback ends in its error, and that may go on in a hint
            lines = [line for line in (done.stderr or "").splitlines() if line[:1].strip()] or ["see above"]
            last = lines[-1].removeprefix("refusal.base.errors.UserError: ")
            raise UserError(
                f"post-training {name} failed{full}: {last}",
                "run the same command again; it goes on where it was saved",
            )
    return target
