"""What this library changes in a Jupyter kernel that imports it: short errors, and no progress bars in red.

A UserError is shown as its two lines, without the library's frames above them; its name and text stay what
they are for whoever runs the notebook. Every other exception keeps its traceback.
"""

import os
import sys
import warnings

from refusal.base.errors import UserError


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel."""
    return hasattr(_shell(), "kernel")


def _shell():
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _two_lines(shell, kind, error, _traceback, tb_offset=None) -> list[str]:
    lines = [f"\x1b[31m{kind.__name__}\x1b[0m: {error.what}", *([f"  {error.hint}"] if error.hint else [])]
    # the kernel's message that a cell failed: without it a runner would go on with the next
    shell._showtraceback(kind, error, lines)
    return lines


def prepare() -> None:
    """Called when the library is imported; does nothing outside a kernel."""
    if not in_kernel():
        return
    _shell().set_custom_exc((UserError,), _two_lines)
    # tqdm asks for ipywidgets, in a red box; `refusal.base.progress` needs none
    warnings.filterwarnings("ignore", message="IProgress not found")
    # bars of loading weights: red, and over in a second
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
