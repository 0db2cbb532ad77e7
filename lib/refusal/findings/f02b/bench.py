"""What a guard adds to the pass that a request needs anyway."""

from collections.abc import Callable

import torch

from refusal.findings.f02b import guard
from refusal.model.loading import Model
from refusal.trace import passes


def ratios(model: Model, prompts, batches, alternate: Callable[..., dict[str, float]]) -> list[str]:
    """A request's prompt pass with the guard over that without; `batches` are of `prompts`, `alternate` times
    parts in turn.
    """
    watch = guard.fit(model, prompts[:10], prompts[10:20])
    at = [
        torch.tensor([[prompts[i].t_inst + pad] for i, pad in zip(b.rows, b.pad, strict=True)])
        for b in batches
    ]

    def request():
        for b in batches:
            passes.forward(model, b, logits=True)

    def guarded():
        for b, columns in zip(batches, at, strict=True):
            seen, _ = passes.forward(
                model, b, read={"resid": (range(model.n_layers + 1), columns)}, logits=True
            )
            guard.score_states(watch, seen["resid"][:, :, 0].float().cpu())

    t = alternate(request=request, guarded=guarded)
    return [
        f"a request's prompt pass with the guard / without                {t['guarded'] / t['request']:.2f} "
        f"  (at most 1.05)"
    ]
