"""Memory that is free goes back to the system, so that models and passes one after another do not add up."""

import ctypes
import sys


def give_back() -> None:
    """Return what was freed inside the C library's heap, which keeps it otherwise; without effect where it has no such call."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            pass
