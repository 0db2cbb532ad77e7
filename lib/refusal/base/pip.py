"""pip as this project calls it: told where the package index is and how to reach it, and nothing else that
the user set.

``pip.conf`` and ``PIP_…`` variables also hold ``user``, ``target``, ``prefix``, ``platform``,
``require-hashes``: with those an installation ends in another place, or does not work, and says little about
why. ``python -m refusal.base.pip install …`` is pip without them.
"""

import functools
import json
import os
import subprocess
import sys

REACH = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
    "cache-dir",
    "no-cache-dir",
    "keyring-provider",
    "use-feature",
    "no-input",
)
ASK = """
import json, sys
from pip._internal.configuration import Configuration, ConfigurationError
found, asked = {}, Configuration(isolated=False)
asked.load()
for section in ("global", sys.argv[1], ":env:"):
    for option in sys.argv[2:]:
        try:
            found[option] = asked.get_value(f"{section}.{option}")
        except ConfigurationError:
            pass
print(json.dumps(found))
"""  # `pip config list` takes PIP_USER and its like for its own options and leaves files out


@functools.cache
def _reach(command: str) -> dict[str, str]:
    """What the user's files and variables say about reaching the index, by variable. The command's own
    section comes before the global one.
    """
    done = subprocess.run(
        [sys.executable, "-c", ASK, command, *REACH], capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:  # a file that pip cannot read
        return {name: value for name, value in os.environ.items() if name in map(_variable, REACH)}
    return {_variable(option): value for option, value in json.loads(done.stdout).items() if value}


def _variable(option: str) -> str:
    return "PIP_" + option.upper().replace("-", "_")


def pip_environment(command: str = "download") -> dict[str, str]:
    """The environment for a subprocess that runs ``python -m pip <command>``."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") and name not in ("PYTHONPATH", "PYTHONHOME")
    }
    return own | _reach(command) | {"PIP_CONFIG_FILE": os.devnull}  # of that name pip reads no file at all


if __name__ == "__main__":
    sys.exit(
        subprocess.run(
            [sys.executable, "-m", "pip", *sys.argv[1:]], env=pip_environment("install")
        ).returncode
    )
