"""The one exception a user should see: what happened, and what to do."""

import difflib


class UserError(Exception):
    """A mistake or a condition outside the code. `hint` says what to do next; the command line prints both,
    without a traceback.
    """

    def __init__(self, what: str, hint: str = "", status: int = 1):
        super().__init__(f"{what}\n  {hint}" if hint else what)
        self.what, self.hint, self.status = what, hint, status

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of the frames that led here."""
        return [f"\x1b[31m{type(self).__name__}\x1b[0m: {self.what}", *_indented(self.hint)]


class ParameterError(UserError):
    """A parameter that cannot be used; found before anything is downloaded or run. Exit status 2."""

    def __init__(self, what: str, hint: str = ""):
        super().__init__(what, hint, status=2)


def _indented(hint: str) -> list[str]:
    return [f"  {hint}"] if hint else []


class NotebookEnded(UserError):
    """A notebook that has said all it can before its last cell; not a failure."""

    def _render_traceback_(self) -> list[str]:
        return [f"The notebook ends here. It is {self.what}", *_indented(self.hint)]


def nearest(word: str, choices) -> str:
    """A sentence that names the nearest valid choice, and all of them."""
    choices = sorted(choices)
    folded = {c.lower(): c for c in choices}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.4)
    return (f"did you mean {folded[close[0]]!r}? " if close else "") + "valid: " + ", ".join(choices)
