"""The package's values against those of plain PyTorch, on a user's own model: forward hooks on the module
underneath, one unpadded prompt at a time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refusal.model import layout, loading
from refusal.trace import reads
from refusal.trace.edits import Add, rows_of
from refusal.trace.prompts import Prompt

SITES = ("resid", "attn", "mlp")


@dataclass(frozen=True)
class Check:
    """One comparison with plain PyTorch: the largest relative difference, and whether it is rounding."""

    what: str
    difference: float
    fits: bool


def compare(model: loading.Model, prompts: Sequence[Prompt]) -> list[Check]:
    """The package's states, sublayer writes, logits and one edit against hooks on the plain module, which
    sees one unpadded prompt at a time.

    Differences are relative to the largest number of the same layer, or of all logits.
    """
    which = {"resid": range(model.n_layers + 1), "attn": range(model.n_layers), "mlp": range(model.n_layers)}
    at = ["t_inst", "t_post"]
    known = [by_hooks(model, p) for p in prompts]
    alone = [reads.collect_rows(model, [p], at, which) for p in prompts]
    together = reads.collect_rows(model, prompts, at, which)
    truth = {
        site: torch.stack(
            [seen[site][:, [p.t_inst, p.t_post]] for p, (seen, _) in zip(prompts, known, strict=True)]
        )
        for site in SITES
    }
    names = {"resid": "states", "attn": "attention's writes", "mlp": "the MLP's writes"}
    found = [
        (f"{names[site]}, {how}", read[site], truth[site])
        for how, read in (
            ("one by one", {site: torch.cat([a[site] for a in alone]) for site in SITES}),
            ("as a batch", together),
        )
        for site in SITES
    ]
    logits = torch.stack([logits for _, logits in known])
    layer = model.n_layers // 2
    vector = truth["resid"][0, layer, 0] - truth["resid"][-1, layer, 0]
    edit = Add(vector, layer, "instruction")
    edited = torch.stack([by_hooks(model, p, edit)[1] for p in prompts])
    scored = reads.score_rows(model, rows_of(prompts, [[], [edit]]), lambda x: x).unflatten(
        0, (2, len(prompts))
    )
    found += [
        ("logits, as a batch", scored[0][:, None], logits[:, None]),
        (f"logits with a vector added at layer {layer}, as a batch", scored[1][:, None], edited[:, None]),
    ]
    return [
        Check(what, d := relative(ours, theirs), d <= layout.tolerance(model.dtype))
        for what, ours, theirs in found
    ]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two sets [prompt, layer, …], relative to the largest number of its layer, as
    `refusal.model.layout.close` asks; infinite where a number is not finite.
    """
    most = lambda x: x.abs().transpose(0, 1).flatten(1).amax(1)
    return float((most(ours - theirs) / most(theirs).clamp_min(1e-30)).nan_to_num(math.inf).max())


def by_hooks(model: loading.Model, prompt: Prompt, add: Add | None = None) -> tuple[dict, torch.Tensor]:
    """{site: [layer, position, d_model]} and the last token's logits [vocabulary] of one prompt, by forward
    hooks of PyTorch alone; `add` is put in by a hook as well.
    """
    seen: dict = {site: {} for site in SITES}
    handles = []

    def before(layer):
        def hook(_module, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            if add is not None and layer == add.layer:
                x = x.clone()
                x[0, list(prompt.span(add.span))] += add.coefficient * add.vector.to(x)
            seen["resid"][layer] = x[0].float().cpu()
            return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

        return hook

    def after(site, layer, factor):
        def hook(_module, _args, out):
            seen[site][layer] = factor * layout.first(out)[0].float().cpu()

        return hook

    for layer in range(model.n_layers):
        block = model.nn.layers[layer]
        handles.append(block._module.register_forward_pre_hook(before(layer), with_kwargs=True))
        for site, name in (("attn", model.attn_writes), ("mlp", model.mlp_writes)):
            part = getattr(block, name)._module
            handles.append(part.register_forward_hook(after(site, layer, model.residual_factor)))
    top = model.nn.layers[model.n_layers - 1]._module
    handles.append(top.register_forward_hook(after("resid", model.n_layers, 1)))
    try:
        with torch.no_grad():
            ids = torch.tensor([list(prompt.ids)], device=model.device)
            logits = model.module(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return {site: torch.stack([by[l] for l in sorted(by)]) for site, by in seen.items()}, logits.float().cpu()
