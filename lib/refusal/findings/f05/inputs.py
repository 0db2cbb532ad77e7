"""What notebook 05 is given beside single numbers, looked at before anything runs."""

from refusal.base.errors import ParameterError, nearest
from refusal.data import system_prompts

LEAST, MOST = 2, 200  # words of a system prompt of one's own


def check(values: dict) -> None:
    """Raise ParameterError for a start that is no safety prompt, and for a text that is too short or long to
    be one.
    """
    table = system_prompts()
    known = list(table.id[table.kind == "safety"])
    if values["start"] not in known:
        raise ParameterError(f"start={values['start']} is no safety prompt", nearest(values["start"], known))
    words = len(values["system"].split())
    if values["system"] and not LEAST <= words <= MOST:
        raise ParameterError(f"system= has {words} words", f"a text of {LEAST} to {MOST} is needed")
