"""``make bench``: what the library costs, as ratios of alternating measurements in one run."""

import statistics
import time

import torch

from lib import data, models, tracing
from lib.prompts import chat, opening_length

MODEL, ROUNDS = "smollm2-135m-instruct", 7


def alternate(**parts) -> dict[str, float]:
    """Median seconds of each part, run in turn, after one round that is not counted."""
    seconds = {name: [] for name in parts}
    for i in range(ROUNDS + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if i:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print each ratio with what it should stay below."""
    model = models.load(MODEL)
    prompts = chat(model, data.prompts("test", source="harmless", n=64))
    which = {"resid": list(range(model.n_layers + 1))}
    plan = tracing._plan(model, prompts, 0)
    batches = [tracing._batch(model, prompts, rows, 0) for rows in plan]
    base = model.module.base_model

    def bare():
        with torch.no_grad():
            for b in batches:
                base(input_ids=b.ids, attention_mask=b.mask, position_ids=b.positions, use_cache=False)

    def whole():  # the same tokens as the bare passes: without the shared opening
        shared, tracing._share_opening = tracing._share_opening, lambda *_: 0
        try:
            tracing._collect(model, prompts, ["t_inst", "t_post"], which, "left")
        finally:
            tracing._share_opening = shared

    t = alternate(bare=bare, collect=whole, shared=lambda: tracing._collect(model, prompts, ["t_inst", "t_post"], which, "left"))
    tokens = sum(len(p.ids) for p in prompts)
    opening = opening_length(prompts)
    print(f"{MODEL}, {len(prompts)} prompts, {tokens} tokens, {opening} of each in the template's common opening, {model.dtype}")
    print(f"collecting all layers / bare forward over the same tokens      {t['collect'] / t['bare']:.2f}   (at most 1.10)")
    print(f"collecting with the common opening computed once / bare        {t['shared'] / t['bare']:.2f}")


if __name__ == "__main__":
    main()
