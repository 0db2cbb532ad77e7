"""What the dial costs: thresholds, the continuations of one prompt, training that teaches tokens as well."""

import copy
from collections.abc import Callable
from typing import cast

import numpy as np
from transformers import PreTrainedModel

from refusal.findings.f06 import dial
from refusal.findings.f06.copies import with_rows
from refusal.findings.f06.examples import TOKENS
from refusal.model.loading import Model
from refusal.trace.decode import Decoding, generate_rows
from refusal.trace.edits import rows_of
from refusal.trace.last import before_last, score_last_rows
from refusal.trace.prompts import with_first_tokens
from refusal.train.tokens import add_tokens, make_room


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """Ninety-nine thresholds over one, answers included; what is read before the answer and two answers begun
    with a token, from one reading, over a plain answer; a step that teaches tokens over one without.
    """
    some, how = prompts[:24], Decoding(16)
    begun = [[with_first_tokens(p, [k]) for p in some] for k in (5, 6)]

    def both():
        prefix = before_last(model, some)
        score_last_rows(model, rows_of(some), lambda logits: logits[:, 0], prefix, "reading")
        for which in begun:
            generate_rows(model, rows_of(which), how, prefix=prefix)

    rng = np.random.default_rng(0)
    arm = dial.Arm(rng.random(500), rng.random(500) > 0.5, rng.random(500) > 0.5)
    examples = [(list(p.ids), list(range(5, 21))) for p in prompts[:8]]
    module, tokenizer = copy.deepcopy(model.module).float(), copy.deepcopy(model.tokenizer)
    ids = add_tokens(tokenizer, TOKENS)
    make_room(cast(PreTrainedModel, module), ids, 0)
    half = "bfloat16" in str(model.dtype)
    taught = lambda rows: with_rows(copy.deepcopy(module), rows, examples, 2, 0, half, "two steps")
    t = alternate(
        rounds=3,
        one=lambda: generate_rows(model, rows_of(some), how) and dial.dial(arm, np.array([0.5])),
        many=lambda: generate_rows(model, rows_of(some), how) and dial.dial(arm, np.linspace(0, 1, 99)),
        both=both,
        plain=lambda: generate_rows(model, rows_of(some), how),
        tokens=lambda: taught(ids),
        none=lambda: taught([]),
    )
    return [
        f"ninety-nine thresholds / one, answers included                    {t['many'] / t['one']:.2f}   "
        "(at most 1.02)",
        f"what is read before the answer and two answers / one answer       {t['both'] / t['plain']:.2f}   "
        "(at most 1.4)",
        f"steps that teach tokens / steps without                           {t['tokens'] / t['none']:.2f}   "
        "(at most 1.1)",
    ]
