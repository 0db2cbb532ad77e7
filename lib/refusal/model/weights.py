"""A plain torch model's weights changed and put back: which of them write to the residual stream, and the
stream made free of a direction.

What writes is found by a short pass, never by a module's place or name: a linear map writes for its sublayer
if its output is what the sublayer adds to the stream, at every token up to one factor. Experts of a mixture
write through one tensor for all of them.
"""

import contextlib
import hashlib
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from refusal.base.errors import UserError
from refusal.model import layout
from refusal.model.loading import Model

Projection = torch.nn.Linear | Conv1D


def is_linear(part: torch.nn.Module) -> TypeGuard[Projection]:
    """Whether a module is a matrix product: torch's Linear, or GPT-2's Conv1D, which holds it transposed."""
    return isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D"


def rows(part: Projection) -> Tensor:
    """The weight of an output projection as [neuron, d_model], a view."""
    return part.weight if type(part).__name__ == "Conv1D" else part.weight.T


def _site(model: Model, layer: int, site: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """(the sublayer, the part of the block whose output is added) of a site, ``attn`` or ``mlp``."""
    block = model.nn.layers[layer]
    own, writes = (block.self_attn, model.attn_writes) if site == "attn" else (block.mlp, model.mlp_writes)
    return own._module, getattr(block, writes)._module


def _experts(part: torch.nn.Module) -> list[torch.nn.Module]:
    """Modules that hold the output weights of all experts as one tensor [expert, …]."""
    return [
        m
        for m in part.modules()
        if isinstance(getattr(m, "down_proj", None), torch.nn.Parameter) and m.down_proj.ndim == 3
    ]


def _same_up_to(out: Tensor, written: Tensor, by_token: bool) -> bool:
    """Whether ``written = c * out`` [position, d_model] with one factor c, or one for each token, to the
    dtype's rounding.
    """
    if out.shape != written.shape:
        return False
    tolerance, out, written = 16 * torch.finfo(written.dtype).eps, out.float(), written.float()
    dims = -1 if by_token else (0, 1)
    c = (out * written).sum(dims, keepdim=True) / out.square().sum(dims, keepdim=True).clamp_min(1e-30)
    return bool((c * out - written).norm() <= tolerance * written.norm())


def writers(model: Model, sites=None) -> dict[tuple[int, str], list[torch.nn.Module]]:
    """{(layer, ``attn`` or ``mlp``): the modules whose weights write there} for `sites`, by default all.
    Raises UserError with the reason where it is not weights that write: a norm follows the sublayer, or the
    sublayer does something else with what they give.
    """
    sites = sites or [(layer, site) for layer in range(model.n_layers) for site in ("attn", "mlp")]
    parts = {}
    for layer, site in sites:
        own, writes = _site(model, layer, site)
        parts |= {(layer, site, "written"): writes}
        parts |= {(layer, site, m): m for m in own.modules() if is_linear(m)} | {
            (layer, site, m): m for m in _experts(own)
        }
    seen, _ = layout.watch(model, parts, layout.probe_ids(model))
    return {
        (layer, site): _writers(
            model, layer, site, {key[2]: out for key, (_, out) in seen.items() if key[:2] == (layer, site)}
        )
        for layer, site in sites
    }


def _writers(model: Model, layer: int, site: str, outputs: dict) -> list[torch.nn.Module]:
    flat = {m: layout.first(out).flatten(0, -2) for m, out in outputs.items()}
    written = flat.pop("written")
    linear = [m for m in flat if is_linear(m)]
    if one := next((m for m in linear if _same_up_to(flat[m], written, by_token=False)), None):
        return [one]
    own, writes = _site(model, layer, site)
    name = "its attention" if site == "attn" else "its MLP"
    if own is not writes:
        raise UserError(
            f"{model.name}: a norm follows {name}, so no weights alone decide what is written",
            "an architecture without norms there is needed",
        )
    for experts in (m for m in flat if not is_linear(m)):
        rest = written - flat[experts].view_as(written)
        if rest.float().norm() <= 16 * torch.finfo(rest.dtype).eps * written.float().norm():
            return [experts]
        # an expert that all tokens go through, gated or not
        if shared := next((m for m in linear if _same_up_to(flat[m], rest, by_token=True)), None):
            return [experts, shared]
    how = (
        "writes through experts"
        if _experts(own) or "expert" in str(dict(own.named_modules()).keys())
        else "does not write through one projection"
    )
    raise UserError(
        f"{model.name}: {name} in block {layer} {how} in a way that is not understood here",
        "an architecture with a dense MLP is needed",
    )


def final_norm(model: Model) -> torch.nn.Module:
    """The norm before the vocabulary matrix."""
    return model.nn.ln_final._module


def vocabulary_head(model: Model) -> torch.nn.Module:
    """What maps outputs of the final norm to logits; a few families scale or cap these afterwards."""
    return model.nn.lm_head._module


def head_projection(model: Model, layer: int) -> Projection:
    """The output projection of a block's attention."""
    return model.nn.layers[layer].self_attn.o_proj._module


def last_projection(model: Model) -> Projection:
    """The projection through which every neuron of the last block's MLP writes. Raises UserError where there
    is no one such projection.
    """
    if model.remote is True:
        raise UserError(f"the weights of {model.name} are remote", "run it here (REMOTE=0)")
    layer = model.n_layers - 1
    projection = writers(model, [(layer, "mlp")])[layer, "mlp"][0]
    if not is_linear(projection):
        raise UserError(
            f"{model.name}: its last MLP writes through experts, so it has no one set of neurons",
            "an architecture with a dense MLP is needed",
        )
    return projection


def _matrices(part: torch.nn.Module) -> list[Tensor]:
    """What a module writes with, as matrices [row, d_model] that are views of its weights, bias included."""
    if is_linear(part):
        return [rows(part)] + ([] if part.bias is None else [part.bias[None]])
    # transformers' name for experts held as [expert, neuron, d_model]
    transposed = getattr(part, "is_transposed", False)
    bias, experts = getattr(part, "down_proj_bias", None), part.down_proj
    assert isinstance(experts, Tensor)  # as `_experts` found it
    return [w if transposed else w.T for w in experts] + ([] if bias is None else [bias])


def _embeddings(model: Model) -> list[torch.nn.Embedding]:
    """The token embedding, and the tables of positions that are added to it. Raises UserError where the
    stream starts with anything but their sum.
    """
    inside = {m for layer in range(model.n_layers) for m in model.nn.layers[layer]._module.modules()}
    tables = [
        m
        for m in model.module.modules()
        if isinstance(m, torch.nn.Embedding) and m not in inside and m.embedding_dim == model.d_model
    ]
    seen, _ = layout.watch(
        model, {m: m for m in tables} | {"block": model.nn.layers[0]._module}, layout.probe_ids(model)
    )
    start, tokens = seen.pop("block")[0][0], layout.embedding(model)
    others = [m for m in seen if m is not tokens]
    rest = start - sum((seen[m][1].view(-1, model.d_model) for m in others), torch.zeros_like(start))
    if tokens not in seen or not _same_up_to(seen[tokens][1][0], rest, by_token=False):
        raise UserError(
            f"{model.name}: a norm or something else follows its embedding, so no weights alone decide how "
            f"the stream starts",
            "use the ablation",
        )
    return [tokens, *others]


def _check_free(model: Model, unit: Tensor) -> None:
    """Raise UserError unless the stream's start and all that is written to it has no component along `unit`
    in a short pass.
    """
    parts = {
        (layer, site): _site(model, layer, site)[1]
        for layer in range(model.n_layers)
        for site in ("attn", "mlp")
    }
    seen, _ = layout.watch(model, parts | {"block": model.nn.layers[0]._module}, layout.probe_ids(model))
    written = {"what its embeddings give": seen.pop("block")[0]}
    written |= {
        f"what block {layer} writes ({site})": layout.first(out) for (layer, site), (_, out) in seen.items()
    }
    for what, x in written.items():
        x = x.float()
        if (x @ unit).norm() > max(1e-4, torch.finfo(model.dtype).eps) * x.norm():
            raise UserError(
                f"weights of {model.name} cannot be orthogonalised: {what} keeps the direction",
                "use the ablation instead",
            )


@contextlib.contextmanager
def orthogonalized(model: Model, direction: Tensor):
    """Within the block, every weight that writes to the residual stream is orthogonal to `direction` (arXiv
    2406.11717, eq. 5).

    Yields the changed model under a revision of its own, so that no cached result of one is taken for the
    other's; never saved. The weights are put back at the end, also after an error. Raises UserError, with the
    reason, for a remote model and for one in which no change of weights equals the ablation: where a norm
    follows a sublayer or the embedding, or experts write in an unknown way.
    """
    if model.remote is True:
        raise UserError(
            f"weights of {model.name} cannot be orthogonalised: they are remote", "run it here (REMOTE=0)"
        )
    unit = (direction.float() / direction.float().norm()).to(model.device)
    parts = [part for found in writers(model).values() for part in found]
    written = [table.weight for table in _embeddings(model)] + [
        matrix for part in parts for matrix in _matrices(part)
    ]
    head = model.module.get_output_embeddings()
    tied = head.weight if head.weight is written[0] else None
    saved = []
    try:
        if tied is not None:  # what reads the residual stream must stay as it is
            head.weight = torch.nn.Parameter(tied.detach().clone(), requires_grad=False)
        with torch.no_grad():
            for weight in written:  # rows are residual-stream vectors; a few thousand at a time, in float32
                saved.append((weight, weight.clone()))
                for some in weight.split(8192):
                    w = some.float()
                    some.copy_(w.addr(w @ unit, unit, alpha=-1))
        _check_free(model, unit)
        digest = hashlib.sha256(unit.cpu().numpy().tobytes()).hexdigest()
        yield replace(model, revision=f"{model.revision} orthogonal to {digest}")
    finally:
        with torch.no_grad():
            for weight, old in reversed(saved):
                weight.copy_(old)
        if tied is not None:
            head.weight = tied
