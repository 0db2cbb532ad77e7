"""What this machine can do: whether its processor computes in bfloat16; and memory that is free goes back to
the system, so that models and passes one after another do not add up. Without torch, so that the command line
can ask.
"""

import ctypes
import os
import platform
import re
import sys
import threading
import time
from pathlib import Path

from refusal.base.errors import ParameterError

# a processor's flag → what it multiplies in bfloat16 with
BFLOAT16 = {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX"}
SWITCH = "COMPANION_BFLOAT16"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX-512 BF16 or AMX); where it only stores it, float32 is
    several times as fast.

    The environment variable ``COMPANION_BFLOAT16`` answers in its place: 0 takes the processor for one
    without, 1 for one with it. Results record the answer. Raises ParameterError for another value.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ParameterError(f"{SWITCH}={switch} is not known", "set it to 0 or 1, or unset it")
    if switch:
        return switch == "1"
    return any(flag in _cpuinfo() for flag in BFLOAT16)


def processor() -> str:
    """The processor's name and what it multiplies in bfloat16 with: times differ by these."""
    about = _cpuinfo()
    name, units = (
        re.search(r"model name\s*: (.*)", about),
        [unit for flag, unit in BFLOAT16.items() if flag in about],
    )
    return ", ".join([name[1] if name else platform.processor() or platform.machine(), *units])


def slower() -> str:
    """What to add to a time that was measured on two cores with bfloat16 arithmetic, where this processor has
    none.
    """
    return (
        ""
        if cpu_has_bfloat16()
        else ", three to six times that on this processor, which has no bfloat16 arithmetic"
    )


def give_back() -> None:
    """Return what was freed inside the C library's heap, which keeps it otherwise; without effect where it
    has no such call.
    """
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            pass


def end_with(pid: int) -> None:
    """From now on this process ends when the process `pid` is gone: kill -9 reaches that one only, and what
    it started would go on for nobody, on all cores.
    """

    def watch():
        while True:
            time.sleep(1)
            try:
                os.kill(pid, 0)
            except OSError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
