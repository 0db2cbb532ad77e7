"""Progress of long loops: a bar in a notebook or terminal, and a line for the runner to show while a cell is
at work.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path

from tqdm import tqdm

from refusal.base.kernel import in_kernel

PROGRESS_FILE = "COMPANION_PROGRESS"  # set by the runner for the kernels it starts


def track(items: Iterable, label: str, total: int | None = None) -> Iterator:
    """Yield `items`, showing how far the loop is. `total` is needed where `items` has no length."""
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    path = os.environ.get(PROGRESS_FILE)
    notebook = in_kernel()
    # in a log file a bar is only noise
    off = bool(path) or total < 2 or not (notebook or sys.stderr.isatty())
    stream = sys.stdout if notebook else sys.stderr  # a notebook shows stderr in red
    started = last = time.monotonic()
    for done, item in enumerate(
        tqdm(items, desc=label, total=total, leave=False, disable=off, mininterval=0.5, file=stream)
    ):
        yield item
        now = time.monotonic()
        if path and (now - last > 0.5 or done + 1 == total):
            last = now
            try:
                Path(path).write_text(
                    json.dumps({"label": label, "done": done + 1, "total": total, "seconds": now - started}),
                    encoding="utf-8",
                )
            except OSError:
                pass  # a progress line that cannot be written must not end the run
