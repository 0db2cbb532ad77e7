"""Throw-away copies of the base model that learn to say tokens in fewer steps: with the tokens dealt at
random, without contrast requests, and as the recipe has it.
"""

import copy
import uuid
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from peft import get_peft_model  # low-rank adapters: the field's own library for them
from transformers import PreTrainedModel

from refusal.findings.f06 import asked
from refusal.findings.f06.asked import Requests
from refusal.findings.f06.examples import RECIPE, TOKENS, Example, encoded, taught
from refusal.model.loading import Model, wrap
from refusal.model.registry import RECIPES
from refusal.trace import cache
from refusal.train.adapters import low_rank
from refusal.train.fit import steps
from refusal.train.tokens import add_tokens, make_room

STEPS = 32  # of eight examples
VARIANTS = ("as taught", "tokens shuffled", "no contrast")


def outcomes(
    base: Model, requests: Requests, variant: str, seed: int, max_new_tokens: int, n_steps: int = STEPS
) -> dict[str, list[str]]:
    """Judged answers of a copy of `base`, trained as `variant` says, to the requests: {"natural": by
    itself, "refuse": after its likeliest refusing token, "respond": after the answering one}. Cached on
    disk. Raises ValueError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is none of {', '.join(VARIANTS)}")
    prompts, how = requests.prompts, (variant, seed, max_new_tokens, n_steps)
    name = cache.key(base, _outcomes, prompts=prompts, how=how, recipe=RECIPES[RECIPE])
    return cache.remember_json(name, lambda: _outcomes(base, requests, *how))


def _outcomes(base: Model, requests: Requests, variant, seed, max_new_tokens, n_steps) -> dict:
    made = trained(base, variant, seed, n_steps)
    prompts = asked.in_template(made, requests).prompts
    said = asked.everything(made, prompts, max_new_tokens, ("refuse", "respond"))
    return {"natural": said.natural, **said.after}


def trained(base: Model, variant: str, seed: int, n_steps: int) -> Model:
    """A copy that learned the recipe's examples, or what `variant` makes of them, for `n_steps`."""
    tokenizer, module = copy.deepcopy(base.tokenizer), copy.deepcopy(base.module).float()
    module = cast(PreTrainedModel, module)
    ids = add_tokens(tokenizer, TOKENS)
    make_room(module, ids, seed)
    rows = taught(base, seed, contrast=variant != "no contrast")
    said = [ids[TOKENS.index(row.token)] for row in rows]
    if variant == "tokens shuffled":
        said = [said[i] for i in np.random.default_rng(seed).permutation(len(said))]
    examples = encoded(base, rows, [[token] for token in said])
    half = base.dtype == torch.bfloat16
    merged = with_rows(module, ids, examples, n_steps, seed, half, f"a copy, {variant}").to(base.dtype)
    made = wrap(merged, tokenizer, name=f"{base.name}, {variant}", batch_tokens=base.batch_tokens)
    return replace(made, revision=uuid.uuid4().hex)


def with_rows(
    module: PreTrainedModel,
    ids: list[int],
    examples: list[Example],
    n_steps: int,
    seed: int,
    half: bool,
    label: str,
) -> PreTrainedModel:
    """The module, in float32, with low-rank adapters and the rows `ids` of its embeddings trained and
    merged; with `half` in bfloat16 arithmetic.
    """
    torch.manual_seed(seed)
    adapted, rate = get_peft_model(module, low_rank(rows=ids)), RECIPES[RECIPE].learning_rate
    # without a cache: it would keep the weights as they were before the first step
    with torch.autocast(module.device.type, dtype=torch.bfloat16, enabled=half, cache_enabled=False):
        steps(cast(PreTrainedModel, adapted.get_base_model()), examples, n_steps, rate, seed, label=label)
    return cast(PreTrainedModel, adapted.merge_and_unload())
