"""``make clean`` and ``make distclean``: ``python -m refusal.run.clean [all]``, in the checkout's folder.

By the standard library alone, so that no environment has to be set up for it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from refusal.base.errors import ParameterError, UserError
from refusal.base.files import cache_dir
from refusal.run.cli import MAKE_ONLY


def clean(everything: bool = False) -> None:
    """Remove results, figures that are not committed, the site, and what was computed; with `everything`
    downloaded files and models as well. Committed files stay as they are. Raises UserError where git cannot,
    and ParameterError for a make variable that was given.
    """
    given = [n for n in os.environ.get("COMPANION_GIVEN", "").split() if n not in MAKE_ONLY]
    if given:
        raise ParameterError(
            f"make {'distclean' if everything else 'clean'} takes no {given[0]}",
            "parameters are for the targets that run notebooks, and claims",
        )
    command = ["git", "clean", "-qfdX", "results", "figures"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise UserError(
            f"git cannot clean results and figures: {reason}",
            "without git, or the right to delete them, remove what is in them by hand",
        ) from None
    for folder in (cache_dir() if everything else cache_dir() / "computed", Path("site"), Path("build/site")):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        clean(sys.argv[1:] == ["all"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
