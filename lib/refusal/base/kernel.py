"""What this library changes in a Jupyter kernel that imports it: an interrupted cell and a notebook that ends
early say so in a line or two, and no progress bars are red.
"""

import os
import sys
import warnings

from refusal.base.errors import NotebookEnded

PROGRESS_FILE = "COMPANION_PROGRESS"  # set by the runner for the kernels it starts


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel."""
    return hasattr(_shell(), "kernel")


def _shell():
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _calmly(shell, kind, error, _traceback, tb_offset=None) -> list[str]:
    """Show what is no failure, without a traceback."""
    if isinstance(error, NotebookEnded):
        lines = error._render_traceback_()
        if not os.environ.get(PROGRESS_FILE):
            print("\n".join(lines))  # an error is red in a notebook; the next cells are not run all the same
            return lines
    else:
        lines = [f"{kind.__name__}: this cell was stopped before its end"]
    shell._showtraceback(kind, error, lines)  # without it the runner would go on with the next cell
    return lines


def prepare() -> None:
    """Called when the library is imported; does nothing outside a kernel."""
    if not in_kernel():
        return
    _shell().set_custom_exc((KeyboardInterrupt, NotebookEnded), _calmly)
    # tqdm asks for ipywidgets, in a red box; `refusal.base.progress` needs none
    warnings.filterwarnings("ignore", message="IProgress not found")
    # bars of loading weights: red, and over in a second
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
