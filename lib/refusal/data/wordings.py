"""What a request can be put into: jailbreak templates, persuasions, questions about the past. Their text is
for measuring and never shown.
"""

import json
import re

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError
from refusal.base.files import DATA
from refusal.model.fetch import fetch
from refusal.model.registry import DATASETS


def jailbreak_templates(n: int, seed: int = 0, longest: int = 200) -> list[str]:
    """`n` jailbreak templates collected in the wild (arXiv 2308.03825), of at most `longest` words and
    without a place to fill in.

    Their text is for measuring only and is never shown. A request is put after a blank line.
    """
    texts = json.loads(fetch(DATASETS["jailbreak_templates"]).read_text(encoding="utf-8"))
    fit = [t.strip() for t in texts if 20 <= len(t.split()) <= longest and not re.search(r"[\[\]{}<>]", t)]
    if not 1 <= n <= len(fit):
        raise ParameterError(f"{n} jailbreak templates were asked for", f"there are {len(fit)}")
    return [fit[i] for i in np.random.default_rng(seed).choice(len(fit), n, replace=False)]


def past_tense_requests(n: int, seed: int = 0) -> pd.DataFrame:
    """`n` harmful requests rewritten as questions about the past (arXiv 2407.11969): id, text, source
    ``past_tense``, label ``harmful``.
    """
    lines = [
        x.strip() for x in fetch(DATASETS["past_tense"]).read_text(encoding="utf-8").splitlines() if x.strip()
    ]
    if not 1 <= n <= len(lines):
        raise ParameterError(f"{n} past-tense requests were asked for", f"there are {len(lines)}")
    chosen = np.random.default_rng(seed).choice(len(lines), n, replace=False)
    return pd.DataFrame(
        [
            {"id": f"past_tense:{i}", "text": lines[i], "source": "past_tense", "label": "harmful"}
            for i in chosen
        ]
    )


def past_tense_harmless(n: int | None = None, seed: int = 0) -> pd.DataFrame:
    """`n` harmless test prompts (all where None) rewritten in the form of `past_tense_requests`: id (that of
    the original, after ``past_tense:``), text, source ``past_tense``, label ``harmless``. Raises
    ParameterError for n < 1 or more than there are.
    """
    table = pd.read_csv(DATA / "past_tense_harmless.csv", dtype=str, keep_default_na=False)
    if n is not None and not 1 <= n <= len(table):
        raise ParameterError(f"{n} harmless past-tense requests were asked for", f"there are {len(table)}")
    table = table.assign(id="past_tense:" + table.id, source="past_tense", label="harmless")
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:n]].reset_index(drop=True)


def dialogue_frames() -> list[str]:
    """Dialogues of two turns, written for this project; the request stands at ``{x}``. For classes of
    another form.
    """
    return _lines("dialogue_frames.txt")


def persuasions() -> list[str]:
    """Phrasings that give a reason for a request, written for this project; the request stands at ``{x}``,
    inside the text and never at its end.

    They end in punctuation: put `without_final_punctuation` on what comes out where the last token is read.
    """
    return _lines("persuasions.txt")


def _lines(name: str) -> list[str]:
    return [x.strip() for x in (DATA / name).read_text(encoding="utf-8").splitlines() if x.strip()]
