"""What runs take: the minutes of those whose results are here, and the memory of the one at work. By the
standard library alone, for ``make help``.
"""

import json
import math
from pathlib import Path


def minutes(about: dict) -> int:
    """Minutes of a run by its ``run.json``, at its longest on one machine, for later runs find parts in the
    cache.
    """
    return math.ceil(about.get("longest_s", about["duration_s"]) / 60)


def about_minutes(folder: Path) -> int | None:
    """Minutes that the run took which left its results in `folder`; None where that is not recorded."""
    try:
        return minutes(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def peak_memory(device) -> dict:
    """Peak memory of this process, and of the GPU where one is used, in bytes."""
    peak = {}
    try:
        import resource
        import sys

        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    except ImportError:  # Windows has no resource module
        pass
    if device.type == "cuda":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak
