"""Which files are committed: documents that are committed speak of those alone."""

import subprocess
from pathlib import Path

from refusal.base.errors import UserError


def committed(folder: Path) -> set[Path]:
    """The files under `folder` that git knows. Raises UserError where there is no git, or no repository."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"git cannot say which files of {folder} are committed", "run this in a clone of the repository"
        ) from None
    return {folder / name for name in listed.stdout.split("\0") if name}
