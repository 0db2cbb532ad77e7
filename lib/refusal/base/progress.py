"""Progress of long loops: a bar in a notebook or terminal, and a line for the runner to show while a cell is
at work.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path

import tqdm
import tqdm.notebook

from refusal.base.kernel import PROGRESS_FILE, in_kernel


def widgets() -> bool:
    """Whether somebody may look at widgets: a kernel that the runner did not start, with ipywidgets."""
    return in_kernel() and not os.environ.get(PROGRESS_FILE) and bool(importlib.util.find_spec("ipywidgets"))


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
    bar = _Widgets if widgets() else tqdm.tqdm
    started = last = time.monotonic()
    for done, item in enumerate(
        bar(items, desc=label, total=total, leave=False, disable=off, mininterval=0.5, file=stream)
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


class _Widgets(tqdm.notebook.tqdm):
    """tqdm's bar of widgets, for loops of more than half a second. What stays in the notebook's file is text
    (none after a whole loop), since a widget cannot be shown once its kernel is gone.
    """

    def __init__(self, *args, **options):
        self.place = None
        super().__init__(*args, display=False, **options)

    def display(self, *args, **options):
        super().display(*args, **options)
        if not self.place and not self.disable and self._time() - self.start_t > 0.5:
            self.place = tqdm.notebook.display(self.container, display_id=True)

    def close(self):
        if self.disable:
            return
        super().close()
        if self.place:
            left = "" if self.n == self.total else repr(self.container)
            self.place.update({"text/plain": left}, raw=True)
        for widget in (*self.container.children, self.container):
            widget.close()
