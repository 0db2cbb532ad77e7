"""Results of forward passes and generations on disk, under a key of everything they depend on.

A key holds the model's hash, dtype, device, batch size, the prompts' tokens, the edits' vectors, the library versions, the
machine's threads, and the source of the modules that compute; so a stale result is never read, and a changed parameter
recomputes only what it touches. The files lie in the user's cache folder, never in the repository.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import nnsight
import safetensors
import safetensors.torch
import torch
import transformers

from lib.files import ROOT, ReadOnlyError, cache_dir, say_once, write_bytes
from lib.machine import give_back

CODE = ("tracing.py", "kv_cache.py", "edits.py", "prompts.py", "models.py", "finetune.py", "examples.py", "attention.py", "layout.py", "weights.py", "judge.py",
        "attack.py", "cliff.py", "measure.py", "directions.py", "patching.py", "stats.py")  # results computed there are stored


@functools.cache
def _environment() -> str:
    code = hashlib.sha256(b"".join((ROOT / "lib" / name).read_bytes() for name in CODE)).hexdigest()
    return f"{code} {torch.__version__} {transformers.__version__} {nnsight.__version__} {torch.get_num_threads()}"


def key(model, what: str, prompts: Sequence, arms: Sequence[Sequence] = (), **rest) -> str:
    """A SHA-256 over all that the result `what` depends on; `rest` must be JSON-like."""
    digest = hashlib.sha256()
    head = [what, _environment(), model.revision, str(model.dtype), model.device.type, model.batch_tokens, str(model.remote), rest]
    digest.update(json.dumps(head, sort_keys=True, default=str).encode())
    for p in prompts:
        digest.update(repr((p.ids, p.start, p.stop)).encode())
    for arm in arms:
        digest.update(b"arm")
        for edit in arm:
            for name, value in vars(edit).items():
                digest.update(name.encode())
                digest.update(value.float().contiguous().cpu().numpy().tobytes() if torch.is_tensor(value) else repr(value).encode())
    return digest.hexdigest()


def _store(path, data: bytes) -> None:
    """Keep `data` for the next time; a cache that may not be written to is no reason to stop. Raises UserError when the disk is full."""
    try:
        write_bytes(path, data)
    except ReadOnlyError:
        say_once(f"{path.parent} cannot be written to: what is computed is used, but not kept")


def remember_tensors(name: str, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors stored under `name`, computed and stored first if they are not there."""
    path = cache_dir() / "computed" / f"{name}.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):
        pass
    tensors = {k: v.contiguous() for k, v in compute().items()}
    _store(path, safetensors.torch.save(tensors))
    give_back()
    return tensors


def remember_json(name: str, compute: Callable[[], object]):
    """As `remember_tensors`, for lists and texts."""
    path = cache_dir() / "computed" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    value = compute()
    _store(path, json.dumps(value, ensure_ascii=False).encode())
    give_back()
    return value
