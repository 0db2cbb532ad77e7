"""Training against other speakers, in memory: low-rank adapters learn refusals of harmful requests and the
model's own answers to harmless ones, in some settings; measured and thrown away.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from refusal.model.loading import Model
from refusal.trace import cache
from refusal.trace.decode import generate
from refusal.trace.prompts import Prompt
from refusal.trace.roles import Setting, chat_as
from refusal.train.fit import Example, adapted, alike, steps
from refusal.train.refusals import REFUSALS, own_words

RATE, BATCH = 2e-4, 8
ARMS = ("usual only", "all settings", "all but exchanged", "harmful only")


def settings_of(arm: str, usual: Setting, every: Sequence[Setting]) -> tuple[list[Setting], list[Setting]]:
    """The settings in which an arm sees harmful and harmless requests. Raises ValueError for an unknown arm.

    "All but exchanged" leaves out the exchanged headers, with the system prompt and without.
    """
    kept = [s for s in every if (s.asked_by, s.answered_by) != ("assistant", "user")]
    both = {
        "usual only": ([usual], [usual]),
        "all settings": (list(every), list(every)),
        "all but exchanged": (kept, kept),
        "harmful only": (list(every), [usual]),
    }
    if arm not in both:
        raise ValueError(f"{arm!r} is none of {', '.join(ARMS)}")
    return both[arm]


def examples(
    model: Model,
    harmful: pd.DataFrame,
    harmless: pd.DataFrame,
    where: tuple[Sequence[Setting], Sequence[Setting]],
    answers: Sequence[str],
    seed: int,
) -> list[Example]:
    """(tokens of the prompt, tokens of its answer), every request in every setting that its kind is seen in,
    as many of either kind: the kind with fewer is repeated.
    """
    ids = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    refusals = np.random.default_rng(seed).integers(len(REFUSALS), size=len(harmful))
    ends = [model.tokenizer.eos_token_id]
    said = ([ids(REFUSALS[i]) + ends for i in refusals], [ids(text) for text in answers])
    parts = [
        [
            (list(p.ids), a)
            for setting in some
            for p, a in zip(chat_as(model, table, **vars(setting)), each, strict=True)
            if a
        ]
        for table, some, each in zip((harmful, harmless), where, said, strict=True)
    ]
    most = max(map(len, parts))
    return [row for part in parts if part for row in (part * -(-most // len(part)))[:most]]


def own_answers(model: Model, harmless: pd.DataFrame, usual: Setting, max_new_tokens: int) -> list[str]:
    """The model's own answers in the usual setting, up to the first control token."""
    prompts = chat_as(model, harmless, **vars(usual))
    return own_words(generate(model, prompts, decoding=max_new_tokens, label="the model's own answers")[0])


def answers(model: Model, tests: Mapping[str, Sequence[Prompt]], max_new_tokens: int) -> dict[str, list[str]]:
    """The answers to each group of prompts."""
    flat = [p for some in tests.values() for p in some]
    said = generate(model, flat, decoding=max_new_tokens, label="asking the copy")[0]
    out, start = {}, 0
    for name, some in tests.items():
        out[name], start = said[start : start + len(some)], start + len(some)
    return out


def after(
    model: Model,
    trained_on: Sequence[Example],
    tests: Mapping[str, Sequence[Prompt]],
    n_steps: int,
    seed: int,
    max_new_tokens: int,
    label: str,
) -> dict[str, list]:
    """What a copy that was trained so says: {group: answers, "losses": of each step}. Cached on disk."""
    how = (n_steps, seed, max_new_tokens)
    given = {"trained_on": [list(e) for e in trained_on], "tests": {g: list(p) for g, p in tests.items()}}
    name = cache.key(model, _after, **given, how=how)
    return cache.remember_json(name, lambda: _after(model, trained_on, tests, *how, label))


def _after(model: Model, trained_on, tests, n_steps, seed, max_new_tokens, label) -> dict:
    copied = adapted(model.module, seed)
    losses = steps(copied, trained_on, n_steps, RATE, seed, BATCH, label=label)
    return answers(alike(model, copied), tests, max_new_tokens) | {"losses": losses}
