"""Throw-away copies of the base model that learn to say tokens in fewer steps: as the recipe has it, with the
tokens dealt at random, without contrast requests, and with one refusing token for all categories.
"""

import copy
import uuid
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from peft import get_peft_model  # low-rank adapters: the field's own library for them
from transformers import PreTrainedModel

from refusal.base.files import DATA, sha256
from refusal.findings.f06 import asked
from refusal.findings.f06.asked import Requests
from refusal.findings.f06.dial import relative
from refusal.findings.f06.examples import RECIPE, TOKENS, Example, encoded, taught
from refusal.model.loading import Model, wrap
from refusal.model.registry import RECIPES
from refusal.trace import cache
from refusal.train.adapters import low_rank
from refusal.train.fit import steps
from refusal.train.tokens import add_tokens, make_room

STEPS = 32  # of eight examples
VARIANTS = ("as taught", "tokens shuffled", "no contrast")
SINGLE = "single token"


def planned(seed: int, extras: bool) -> list[tuple[str, int]]:
    """The copies that are trained, each (variant, seed); with `extras` two more seeds and a single token."""
    more = [("as taught", seed + 1), ("as taught", seed + 2), (SINGLE, seed)]
    return [(variant, seed) for variant in VARIANTS] + (more if extras else [])


def outcomes(
    base: Model, requests: Requests, variant: str, seed: int, max_new_tokens: int, n_steps: int = STEPS
) -> dict[str, list]:
    """Judged answers of a copy of `base`, trained as `variant` says, to the requests: {"natural": by
    itself, "refuse": after its likeliest refusing token, "respond": after the answering one}; "score", its
    relative score of each, and "losses", of each step. Cached on disk. Raises ValueError for an unknown
    variant.
    """
    if variant not in (*VARIANTS, SINGLE):
        raise ValueError(f"{variant!r} is none of {', '.join((*VARIANTS, SINGLE))}")
    prompts, how = requests.prompts, (variant, seed, max_new_tokens, n_steps)
    taught_by = [sha256(DATA / file) for file in RECIPES[RECIPE].data]
    name = cache.key(base, _outcomes, prompts=prompts, how=how, recipe=RECIPES[RECIPE], data=taught_by)
    return cache.remember_json(name, lambda: _outcomes(base, requests, *how))


def _outcomes(base: Model, requests: Requests, variant, seed, max_new_tokens, n_steps) -> dict:
    made, losses = trained(base, variant, seed, n_steps)
    prompts = asked.in_template(made, requests).prompts
    said = asked.everything(made, prompts, max_new_tokens, ("refuse", "respond"))
    return {
        "natural": said.natural,
        **said.after,
        "score": relative(said.log_p).tolist(),
        "losses": losses,
    }


def trained(base: Model, variant: str, seed: int, n_steps: int) -> tuple[Model, list[float]]:
    """A copy that learned the recipe's examples, or what `variant` makes of them, for `n_steps`, and the loss
    of each.
    """
    tokenizer, module = copy.deepcopy(base.tokenizer), copy.deepcopy(base.module).float()
    module = cast(PreTrainedModel, module)
    ids = add_tokens(tokenizer, TOKENS)
    make_room(module, ids, seed)
    rows = taught(base, seed, contrast=variant != "no contrast")
    said = [ids[TOKENS.index(row.token)] for row in rows]
    if variant == "tokens shuffled":
        said = [said[i] for i in np.random.default_rng(seed).permutation(len(said))]
    if variant == SINGLE:  # the first of the refusing tokens stands for all
        said = [ids[0] if row.kind == "refuse" else ids[-1] for row in rows]
    examples = encoded(base, rows, [[token] for token in said])
    half = base.dtype == torch.bfloat16
    merged, losses = with_rows(module, ids, examples, n_steps, seed, half, f"a copy, {variant}")
    made = wrap(
        merged.to(base.dtype), tokenizer, name=f"{base.name}, {variant}", batch_tokens=base.batch_tokens
    )
    return replace(made, revision=uuid.uuid4().hex), losses


def with_rows(
    module: PreTrainedModel,
    ids: list[int],
    examples: list[Example],
    n_steps: int,
    seed: int,
    half: bool,
    label: str,
) -> tuple[PreTrainedModel, list[float]]:
    """The module, in float32, with low-rank adapters and the rows `ids` of its embeddings trained and
    merged, and the loss of each step; with `half` in bfloat16 arithmetic.
    """
    torch.manual_seed(seed)
    adapted, rate = get_peft_model(module, low_rank(rows=ids)), RECIPES[RECIPE].learning_rate
    # without a cache: it would keep the weights as they were before the first step
    with torch.autocast(module.device.type, dtype=torch.bfloat16, enabled=half, cache_enabled=False):
        module = cast(PreTrainedModel, adapted.get_base_model())
        losses = steps(module, examples, n_steps, rate, seed, label=label)
    return cast(PreTrainedModel, adapted.merge_and_unload()), losses
