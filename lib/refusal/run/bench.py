"""``make bench``: what the library costs, as ratios of alternating measurements in one run."""

import statistics
import time
from unittest import mock

import torch

from refusal import data
from refusal.measure import attention_heads, patching
from refusal.model import loading
from refusal.run.parts import parts_of_findings
from refusal.trace import batches, opening, reads, thinking
from refusal.trace.edits import rows_of
from refusal.trace.prompts import chat, opening_length

MODEL, ROUNDS = "smollm2-135m-instruct", 7


def alternate(rounds: int = ROUNDS, **parts) -> dict[str, float]:
    """Median seconds of each part, run in turn, after one round that is not counted."""
    seconds = {name: [] for name in parts}
    for i in range(rounds + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print each ratio with what it should stay below."""
    model = loading.load(MODEL)
    prompts = chat(model, data.prompts("test", source="harmless", n=64))
    which = {"resid": list(range(model.n_layers + 1))}
    rows = rows_of(prompts)
    plan = batches.plan(model, [len(p.ids) for p in prompts])
    parts = [opening.rest(model, rows, members, 0) for members in plan]
    base = model.module.base_model

    def bare():
        with torch.no_grad():
            for b in parts:
                base(input_ids=b.ids, attention_mask=b.mask, position_ids=b.positions, use_cache=False)

    def whole():  # the same tokens as the bare passes: without the shared opening
        with mock.patch.object(opening, "shared_length", lambda *_: 0):
            reads.collect_rows(model, prompts, ["t_inst", "t_post"], which, "left")

    t = alternate(
        bare=bare,
        collect=whole,
        shared=lambda: reads.collect_rows(model, prompts, ["t_inst", "t_post"], which, "left"),
    )
    tokens = sum(len(p.ids) for p in prompts)
    begin = opening_length(prompts)
    print(
        f"{MODEL}, {len(prompts)} prompts, {tokens} tokens, {begin} of each in the template's common "
        f"opening, {model.dtype}"
    )
    print(
        f"collecting all layers / bare forward over the same tokens      {t['collect'] / t['bare']:.2f}   "
        f"(at most 1.10)"
    )
    print(f"collecting with the common opening computed once / bare        {t['shared'] / t['bare']:.2f}")
    heads_ratio(model, prompts, bare)
    patching_ratio(model)
    for module in parts_of_findings("bench"):
        print(*module.ratios(model, prompts, parts, alternate), sep="\n")


def heads_ratio(model: loading.Model, prompts, bare) -> None:
    """What attribution of all heads costs against bare passes."""
    rollouts = [thinking.Rollout(p, p.start, p.stop, "", True) for p in prompts]
    w = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))

    def uncached(model: loading.Model, prompts, at, sites):
        return reads.collect_rows(model, prompts, at, {s: range(model.n_layers) for s in sites})

    def attributed():
        whole = mock.patch.object(opening, "shared_length", lambda *_: 0)
        with whole, mock.patch.object(attention_heads, "collect", uncached):
            attention_heads.attribution(model, rollouts, w)

    t = alternate(bare=bare, attributed=attributed)
    print(
        f"attribution of all {model.n_layers * model.n_heads} heads / bare forward                      "
        f"{t['attributed'] / t['bare']:.2f}   (at most 1.20)"
    )


def patching_ratio(model: loading.Model, n_pairs: int = 24, sample: int = 48) -> None:
    """A patching grid against one plain forward pass per cell, counting only cells that are not no-ops, and
    how far the values differ.
    """
    table = data.statements(["cities"])
    pairs = patching.recall_pairs(model, table)[:n_pairs]
    layers, width, first = list(range(1, model.n_layers + 1)), len(pairs[0].clean.ids), pairs[0].clean.start
    blocks, module = [model.nn.layers[l]._module for l in range(model.n_layers)], model.module
    cells = [(i, layer, k) for i in range(len(pairs)) for layer in layers[:-1] for k in range(first, width)]
    chosen = [
        cells[i] for i in torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:sample]
    ]
    states = {}  # the clean runs, read once and not timed

    def keep(i, layer):
        return lambda _module, args: states.update({(i, layer): args[0][0].clone()})

    with torch.no_grad():
        for i, pair in enumerate(pairs):
            handles = [block.register_forward_pre_hook(keep(i, l)) for l, block in enumerate(blocks)]
            module(input_ids=torch.tensor([pair.clean.ids], device=model.device), use_cache=False)
            for handle in handles:
                handle.remove()

    def one(i, layer, k):
        def patch(_module, args):
            x = args[0].clone()
            x[0, k] = states[i, layer][k]
            return (x, *args[1:])

        handle = blocks[layer].register_forward_pre_hook(patch)
        with torch.no_grad():
            logits = (
                module(
                    input_ids=torch.tensor([pairs[i].corrupt.ids], device=model.device),
                    use_cache=False,
                    logits_to_keep=1,
                )
                .logits[0, -1]
                .float()
            )
        handle.remove()
        return float(logits[pairs[i].answers[0]] - logits[pairs[i].answers[1]])

    grid = {}
    t = alternate(
        rounds=3,
        single=lambda: [one(*cell) for cell in chosen],
        grid=lambda: grid.update(g=patching._grid(model, model, pairs, layers)),
    )
    differ = max(abs(one(i, layer, k) - float(grid["g"][i, layer - 1, k])) for i, layer, k in chosen)
    speedup = t["single"] / sample * len(cells) / t["grid"]
    print(
        f"one forward pass per cell / patching grid, {len(cells)} cells          {speedup:.1f}   (at least "
        f"20)"
    )
    print(
        f"  largest difference of values {differ:.3f} (logits around {float(grid['g'].abs().mean()):.1f}, "
        f"{model.dtype})"
    )


if __name__ == "__main__":
    main()
