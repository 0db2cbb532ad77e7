"""What steering each prompt at a strength of its own costs."""

from collections.abc import Callable

import numpy as np
import torch

from refusal.findings.f04.controller import LEAST, fit
from refusal.findings.f04.push import Push
from refusal.model.loading import Model
from refusal.trace import decode, reads
from refusal.trace.decode import Decoding
from refusal.trace.edits import Row
from refusal.trace.last import before_last, score_last_rows


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """Answers with a strength for each prompt over answers under one edit; one more arm by first tokens, with
    what stands before the last token read once, over whole passes; and answers under a controller that reads
    and pushes in one pass over plain ones.
    """
    layers = tuple(range(model.n_layers // 3 + 1, model.n_layers))
    push = Push(torch.randn(len(layers), model.d_model) * 0.1, layers)
    some = prompts[:24]
    one = push.rows(some, np.ones(len(some)))
    each = push.rows(some, np.linspace(0.5, 1.5, len(some)))
    reads_of = tuple(range(max(1, layers[0] - 4), layers[0]))
    states = torch.randn(2 * LEAST, model.n_layers + 1, model.d_model)
    taught = fit(states, np.repeat([True, False], LEAST), reads_of, len(layers), "untrained")
    steer = push.steer(taught)
    prefix, readout = before_last(model, some), lambda logits: logits[:, 0]
    assert prefix is not None  # a bench runs here
    score_last_rows(model, one, readout, prefix, "reading")
    t = alternate(
        same=lambda: decode.generate_rows(model, one, Decoding(8)),
        own=lambda: decode.generate_rows(model, each, Decoding(8)),
        whole=lambda: reads.score_rows(model, each, readout),
        last=lambda: score_last_rows(model, each, readout, prefix, "first tokens"),
        plain=lambda: decode.generate_rows(model, [Row(p) for p in some], Decoding(8)),
        steer=lambda: decode.generate_rows(model, [Row(p, (steer,)) for p in some], Decoding(8)),
    )
    return [
        f"answers at a strength of each prompt's own / under one edit     {t['own'] / t['same']:.2f}   "
        "(at most 1.1)",
        f"one more arm by first tokens, last token alone / whole prompts  {t['last'] / t['whole']:.2f}   "
        "(at most 0.5)",
        f"answers under a controller in one pass / plain answers           {t['steer'] / t['plain']:.2f}   "
        "(at most 1.15)",
    ]
