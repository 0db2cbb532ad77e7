"""What the recipes of notebook 06 are trained on: requests to refuse in five categories, contrast requests
of the same form, ordinary ones; before each answer a token that says which, or none.

All have the role ``post-training``. Answers to harmful requests are refusals.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refusal import data
from refusal.data import CATEGORIES
from refusal.model.registry import RECIPES
from refusal.train.refusals import REFUSALS, own_words

if TYPE_CHECKING:
    from refusal.model.loading import Model
    from refusal.trace.prompts import Prompt

RECIPE = "smollm2-135m-refusal-tokens"
TOKENS = RECIPES[RECIPE].tokens  # one for each category, in the order of `CATEGORIES`, and the answering one
RESPOND = TOKENS[-1]
# requests that teach, by category and kind; with 40 unsafe ones the model refused 6 of 15 validation ones
SIZES = {(c, "refuse"): 80 if c == "safety" else 40 for c in CATEGORIES} | {
    (c, "contrast"): 25 for c in CATEGORIES
}
ANSWER = 16  # tokens of the model's own answers
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Taught:
    """One request and the answer that is taught, its category (empty for an ordinary one) and kind (refuse,
    contrast or ordinary), and whether its answer ends there.
    """

    prompt: "Prompt"
    answer: str
    category: str
    kind: str
    ends: bool

    @property
    def token(self) -> str:
        """What is to be said before the answer."""
        return TOKENS[CATEGORIES.index(self.category)] if self.kind == "refuse" else RESPOND


def taught(model: "Model", seed: int, contrast: bool = True) -> list[Taught]:
    """Every request with its answer; without the contrast ones where `contrast` is False."""
    from refusal.trace.decode import generate
    from refusal.trace.prompts import chat

    rng, rows = random.Random(seed), []
    for category in CATEGORIES:
        refusals = REFUSALS if category == "safety" else data.refusals_of(category)
        n = SIZES[category, "refuse"]
        table = data.noncompliance("post-training", category, "refuse", n, seed=seed)
        rows += [Taught(p, rng.choice(refusals), category, "refuse", True) for p in chat(model, table)]
    tables = {("", "ordinary"): data.prompts("post-training", source="harmless", seed=seed)}
    if contrast:
        tables |= {
            (c, "contrast"): data.noncompliance(
                "post-training", c, "contrast", SIZES[c, "contrast"], seed=seed
            )
            for c in CATEGORIES
        }
    for (category, kind), table in tables.items():
        asked = chat(model, table)
        own = own_words(generate(model, asked, decoding=ANSWER, label="the model's own answers")[0])
        length = lambda text: len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        rows += [
            Taught(p, text, category, kind, length(text) < ANSWER - 1)
            for p, text in zip(asked, own, strict=True)
        ]
    return rows


def encoded(model: "Model", rows: Sequence[Taught], before: Sequence[list[int]]) -> list[Example]:
    """(prompt, answer) tokens, with the tokens `before` each answer."""
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = [model.tokenizer.eos_token_id]
    return [
        (list(row.prompt.ids), [*first, *encode(row.answer), *(end if row.ends else [])])
        for row, first in zip(rows, before, strict=True)
    ]


def with_tokens(model: "Model", seed: int) -> list[Example]:
    """The token of each category before refusals, the answering one before answers. The tokenizer of
    `model` has them not; they get the ids that follow.
    """
    import copy

    from refusal.train.tokens import add_tokens

    ids = dict(zip(TOKENS, add_tokens(copy.deepcopy(model.tokenizer), TOKENS), strict=True))
    rows = taught(model, seed)
    return encoded(model, rows, [[ids[row.token]] for row in rows])


def without_tokens(model: "Model", seed: int) -> list[Example]:
    """The same answers alone."""
    rows = taught(model, seed)
    return encoded(model, rows, [[] for _ in rows])
