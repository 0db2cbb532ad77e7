"""Results of forward passes and generations on disk, under a key of everything they depend on.

A key holds the model's hash, dtype, device and batch size, every input (prompts with all they hold, edits
with their kind and vectors), the library versions, the machine's threads, and the source of the function that
computes with all that it imports (`refusal.base.syntax`). So a stale result is never read, and a changed
parameter recomputes only what it touches. The files lie in the user's cache folder, never in the repository.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from types import FunctionType

import nnsight
import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers

from refusal.base import syntax
from refusal.base.files import ReadOnlyError, cache_dir, say_once, write_bytes
from refusal.base.machine import give_back
from refusal.model.loading import Model


def key(model: Model, computes: FunctionType, **inputs) -> str:
    """A SHA-256 over all that the result of the function `computes` depends on. Raises TypeError for an input
    that cannot be told from its like.
    """
    digest = hashlib.sha256()
    versions = [
        str(torch.__version__),
        transformers.__version__,
        nnsight.__version__,
        torch.get_num_threads(),
    ]
    about = [
        syntax.of(type(model)),
        model.revision,
        str(model.dtype),
        model.device.type,
        model.batch_tokens,
        str(model.remote),
    ]
    for value in (computes.__qualname__, syntax.of(computes), versions, about, inputs):
        _feed(digest, value)
    return digest.hexdigest()


PLAIN = (type(None), bool, int, float, str, bytes)


def _feed(digest, value) -> None:
    """Add a value to a digest with its type and extent, at any depth, so that no two unequal values add the
    same.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in PLAIN or (type(value) is tuple and all(type(v) in PLAIN for v in value)):
        text = repr(value)
        digest.update(f"{len(text)} {text}".encode())
    elif isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        digest.update(f"array {value.dtype} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, (list, tuple, range)):
        digest.update(f"list {len(value)}".encode())
        for v in value:
            _feed(digest, v)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}".encode())
        for k in sorted(value, key=repr):
            _feed(digest, k)
            _feed(digest, value[k])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        _feed(digest, (kind.__qualname__, syntax.of(kind)))
        _feed(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif callable(value) and isinstance(getattr(value, "key", None), str):
        # a readout: its source, and what it closes over
        _feed(digest, (value.__qualname__, syntax.of(value), value.key))
    else:
        raise TypeError(f"a {type(value).__qualname__} cannot be part of a key")


def _store(path, data: bytes) -> None:
    """Keep `data` for the next time; a cache that may not be written to is no reason to stop. Raises
    UserError when the disk is full.
    """
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
