"""What a harmless request can be put into so that it sounds alarming and stays harmless:
``data/mutators.csv`` and ``data/contexts.csv``, described in data/README.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from refusal.base.errors import ParameterError, UserError
from refusal.base.files import DATA

NEUTRAL, ANY, SLOT = "neutral", "any", "{x}"
FAMILIES = (
    "controversy",
    "scenario",
    "implied",
    "violent",
    "prejudice",
    "sensitive",
    "anger",
    "disgust",
    "despair",
)
# pairs that turn a harmless text into one that need not be: a word of each list, near each other
AT_SOMEBODY = re.compile(
    r"\b(?:kill|crush|destroy|attack|bomb|poison|strangle|murder|shoot|stab|drown|torture)\w*"
    r"(?: \w+){0,3} (?:child|children|kids?|boys?|girls?|man|men|woman|women|people|person|dogs?|cats?|pets?|"
    r"babies|baby|neighbou?rs?|myself|yourself|himself|herself)\b",
    re.I,
)
ASKS = re.compile(
    r"\?|(?:^|[.:;,!—-]\s+|\b(?:and|please|to|you|me) )"
    r"(?:who|what|when|where|why|how(?! dare)|which|can|could|is|are|do|does|should|would|"
    r"give|write|list|explain|"
    r"describe|tell|show|suggest|provide|make|compose|propose|create|draft|name|compare|help|teach|find|plan|"
    r"recommend|summari[sz]e|translate|outline|offer|ideas|advice|tips|ways|"
    r"clarify|in what|at what|design|share|"
    r"turn|put|rewrite|imagine|pick|choose|sketch|prepare|invent|fix|convert|define|identify)\b",
    re.I,
)


@dataclass(frozen=True)
class Mutator:
    """A template with ``{x}`` where a request goes, the family it belongs to, and the topics it may be put on
    (empty: any).
    """

    name: str
    family: str
    template: str
    topics: frozenset[str] = frozenset()

    def fits(self, topic: str) -> bool:
        """Whether it may be put on a request of this topic."""
        return not self.topics or topic in self.topics

    def on(self, text: str) -> str:
        """The text put into it."""
        return self.template.replace(SLOT, text)


def mutators(tier: str = "embedded", table: pd.DataFrame | None = None) -> list[Mutator]:
    """Every mutator; of the smoke tier, in the words of its model. Raises ParameterError for one without a
    place for the request or without topics.
    """
    if table is None:
        table = pd.read_csv(DATA / "mutators.csv", dtype=str, keep_default_na=False)
    found = []
    columns = (table[c] for c in ("name", "family", "template", "topics"))
    for name, family, template, topics in zip(*columns, strict=True):
        if template.count(SLOT) != 1 or not topics.split():
            what = "topics" if template.count(SLOT) == 1 else f"one place {SLOT} for the request"
            raise ParameterError(f"the mutator {name} has not {what}", "see data/mutators.csv")
        on = frozenset() if topics == ANY else frozenset(topics.split())
        found.append(Mutator(name, family, template, on))
    return _in_tiny_words(found) if tier == "smoke" else found


def _in_tiny_words(found: Sequence[Mutator]) -> list[Mutator]:
    from refusal.model.tiny import ALARM, NOUNS, OTHER

    rng, out = np.random.default_rng(0), []
    for m in found:
        words = (
            list(rng.choice(NOUNS, 3))
            if m.family == NEUTRAL
            else [*rng.choice(NOUNS, 2), *rng.choice(ALARM, 1)]
        )
        rng.shuffle(words)
        end = str(rng.choice([w for w in OTHER if w.isalpha() and w.islower()][:3]))
        out.append(Mutator(m.name, m.family, f"{' '.join(words)} {SLOT} {end}"))
    return out


def wrongs(text: str, seed: str) -> str | None:
    """Why a text made from a harmless `seed` is not kept: the request is not in it word for word, something
    may happen to somebody, or it asks for nothing; None where nothing is wrong.
    """
    if seed not in text:
        return "the request is not in it word for word"
    if AT_SOMEBODY.search(text.replace(seed, " ")):
        return "what it says is done to somebody"
    return None if asks(text) else "it asks for nothing"


def asks(text: str) -> bool:
    """Whether a text asks for something: it has a question, or begins a sentence as requests do."""
    return bool(ASKS.search(text.strip()))


def contexts(prompts: pd.DataFrame, tier: str = "embedded") -> pd.DataFrame:
    """Requests with an alarming stretch of words (`text`), the calm one that takes its place (`alarm`,
    `calm`) and another harmless one (`other`), a clause that makes plain that the request is harmless
    (`plain`) and one as long that says nothing of it (`idle`): id, text, alarm, calm, other, plain, idle.
    `prompts` are the table's own pseudo-harmful ones.

    Raises UserError where a stretch is not in its request once.
    """
    if tier == "smoke":
        return _tiny_contexts(prompts)
    table = pd.read_csv(DATA / "contexts.csv", dtype=str, keep_default_na=False)
    text = prompts.set_index("id").text
    table = table[table.id.isin(text.index)].assign(text=lambda t: [text[i] for i in t.id])
    for row in table.itertuples():
        if row.text.count(row.alarm) != 1:
            raise UserError(f"the stretch {row.alarm!r} is not once in {row.id}", "see data/contexts.csv")
    return table.reset_index(drop=True)


def _tiny_contexts(prompts: pd.DataFrame) -> pd.DataFrame:
    from refusal.model.tiny import ALARM, NOUNS

    rows = []
    for i, (id, text) in enumerate(zip(prompts.id, prompts.text, strict=True)):
        alarm = next((w for w in text.split() if w in ALARM), None)
        if alarm:
            plain, idle = f"please {NOUNS[i % 12]} now", f"the {NOUNS[i % 12]} now"
            rows.append((id, alarm, NOUNS[(i + 3) % 12], NOUNS[(i + 5) % 12], plain, idle, text))
    return pd.DataFrame(rows, columns=["id", "alarm", "calm", "other", "plain", "idle", "text"])
