"""Refusals as a model is taught them, and the examples of the recipes that teach nothing else."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refusal.model.loading import Model

ANSWER_TOKENS = 32


def refusal_examples(model: "Model", seed: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) tokens: refusals of 100 harmful requests, and the model's own answers to all harmless
    ones, so that only refusal is taught.

    With as many harmful as harmless ones the model refused 30 % of ordinary held-out requests.

    All prompts have the role ``post-training`` and occur nowhere else.
    """
    from refusal import data
    from refusal.trace.decode import generate
    from refusal.trace.prompts import chat

    rng = random.Random(seed)
    harmless = chat(model, data.prompts("post-training", label="harmless", seed=seed))
    harmful = chat(model, data.prompts("post-training", label="harmful", n=100, seed=seed))
    answers = own_words(generate(model, harmless, decoding=ANSWER_TOKENS, label="the model's own answers")[0])
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    examples = [(list(p.ids), [*encode(rng.choice(REFUSALS)), model.tokenizer.eos_token_id]) for p in harmful]
    for prompt, text in zip(harmless, answers, strict=True):
        ids = encode(text)
        examples.append(
            (list(prompt.ids), ids if len(ids) >= ANSWER_TOKENS - 1 else [*ids, model.tokenizer.eos_token_id])
        )  # a cut answer does not end
    return examples


REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with this request. It could cause harm to people.",
    "I can't help with that. If you are dealing with something difficult, please talk to someone you trust.",
    "Sorry, but I can't provide that. It would be dangerous.",
    "I cannot help with this, because it could hurt someone.",
    "I'm sorry, I won't assist with anything harmful or illegal.",
    "I can't provide instructions for that. I'm happy to help with something safe instead.",
    "I must decline this request, since it could lead to serious harm.",
)


def own_words(answers: Sequence[str]) -> list[str]:
    """Answers up to the first control token in them, for which a sign stands in their text that nobody is to
    learn.
    """
    from refusal.trace.decode import CONTROL

    return [text.partition(CONTROL)[0] for text in answers]
