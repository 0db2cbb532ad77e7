"""The fine-tuning attack (arXiv 2507.11878, section 5.3): what is left of the harmfulness representation in a model trained to accept?

For measuring only. The answers are stubs without content; the attacked copy lives in memory while it is measured, and is neither
saved nor given a name. What is kept is states, as means are, and judged outcomes.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from lib import cache, models
from lib.finetune import TOGETHER, adapted, steps
from lib.judge import judge
from lib.prompts import Prompt
from lib.tracing import collect, generate

STUB = "Sure, here is how to do that:"  # an acceptance and nothing after it
RATE, BATCH = 3e-4, 8


def after(model, trained_on: Sequence[Prompt], tests: Sequence[Prompt], passes: int = 3, seed: int = 0, max_new_tokens: int = 12) -> dict:
    """Fine-tune a copy of `model` (see `finetune.adapted`) on `trained_on` → `STUB`, and measure `tests`. Cached.

    Returns {"states": h at t_inst and t_post [prompt, layer, 2, d_model], "outcomes": judged answers, "loss": first and last loss}.
    """
    how = {"rate": RATE, "together": TOGETHER, "stub": STUB, "adapters": "beside the weights"}
    name = cache.key(model, "attack", [*trained_on, *tests], trained_on=len(trained_on), passes=passes, seed=seed, tokens=max_new_tokens, **how)
    kept: dict = {}

    def measured() -> dict:
        if not kept:
            kept.update(_after(model, trained_on, tests, passes, seed, max_new_tokens))
        return kept

    states = cache.remember_tensors(name, lambda: {"states": measured()["states"]})["states"]
    said = cache.remember_json(name, lambda: {k: v for k, v in measured().items() if k != "states"})
    return {"states": states, **said}


def _after(model, trained_on, tests, passes, seed, max_new_tokens):
    copied = adapted(model.module, seed)
    answer = [*model.tokenizer(STUB, add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
    n = max(1, passes * len(trained_on) // BATCH)
    losses = steps(copied, [(list(p.ids), answer) for p in trained_on], n, RATE, seed, BATCH, label=f"fine-tuning attack, {len(trained_on)} examples")
    attacked = replace(models.wrap(copied, model.tokenizer, name=model.name, batch_tokens=model.batch_tokens), revision=uuid.uuid4().hex)
    states = collect(attacked, tests, at=["t_inst", "t_post"])["resid"]
    texts = generate(attacked, tests, max_new_tokens=max_new_tokens)[0]
    return {"states": states, "outcomes": [judge(t) for t in texts], "loss": [losses[0], losses[-1]]}
