"""How models are called in folders, figures and records: nobody's own folders are told."""

import contextlib
import hashlib
import os
from pathlib import Path

from refusal.model.registry import CONSTRUCTED, MODELS, RECIPES


def local_path(model: str) -> Path | None:
    """The absolute path of a model that is named by one; None for a registered name or a hub id. A registered
    name comes before a folder of that name.
    """
    if model in (*MODELS, *RECIPES, *CONSTRUCTED):
        return None
    with contextlib.suppress(RuntimeError, OSError):  # ~ of a user who is not there, a name that is too long
        path = Path(model).expanduser()
        if path.exists() or path.is_absolute() or model.endswith(".gguf") or model.startswith((".", "~")):
            return path.resolve()
    return None


def folder_name(model: str) -> str:
    """A model's name as a folder name: ``/`` becomes ``--``; a path keeps its last part and gets a hash, for
    two paths may end alike.
    """
    path = local_path(model)
    if path is None:
        return model.replace("/", "--")
    return f"{path.name.removesuffix('.gguf')[:80]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def shown_name(model: str) -> str:
    """A model's name for figures and records: as given, but nobody's folders are told."""
    return model if local_path(model) is None else folder_name(model)
