"""pip as this project calls it: told where the package index is and how to reach it, and nothing else that the user set.

``pip.conf`` and ``PIP_…`` variables also hold ``user``, ``target``, ``prefix``, ``platform``, ``require-hashes``: with those an installation
ends in another place, or does not work, and says little about why. ``python -m lib.pip install …`` is pip without them.
"""

import ast
import functools
import os
import subprocess
import sys

REACH = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy", "timeout", "default-timeout", "retries",
         "cache-dir", "no-cache-dir", "keyring-provider", "use-feature", "no-input")  # fmt: skip


@functools.cache
def _reach(command: str) -> dict[str, str]:
    """What the user's files and variables say about reaching the index, by variable. The command's own section comes before the global one."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, encoding="utf-8", errors="replace")
    found = {}
    for section in ("global", command, ":env:"):
        for line in done.stdout.splitlines():  # global.index-url='https://…'
            name, _, value = line.partition("=")
            owner, _, option = name.rpartition(".")
            if owner == section and option in REACH:
                found["PIP_" + option.upper().replace("-", "_")] = str(ast.literal_eval(value))
    return found


def pip_environment(command: str = "download") -> dict[str, str]:
    """The environment for a subprocess that runs ``python -m pip <command>``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") and name not in ("PYTHONPATH", "PYTHONHOME")}
    return own | _reach(command) | {"PIP_CONFIG_FILE": os.devnull}  # of that name pip reads no file at all


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "pip", *sys.argv[1:]], env=pip_environment("install")).returncode)
