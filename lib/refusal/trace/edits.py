"""Interventions as small frozen values that say what, where and when. `refusal.trace.passes` turns them into
nnsight traces.

An edit at layer l changes ``h[l]``, the input of block l (``h[n_layers]``: the last block's output). The span
is explicit: ``instruction``, ``closing``, ``system``, ``slot``, ``t_inst``, ``t_post`` and ``prompt`` act on
the prompt only; ``every_token`` acts on the prompt and on every generated token, as directional ablation and
orthogonalisation do; ``last`` on the last token of the prompt and every generated one. A tuple lists the
prompt's positions themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from refusal.base.errors import ParameterError
from refusal.trace.prompts import Prompt

if TYPE_CHECKING:
    from refusal.model.loading import Model


LATER = ("every_token", "last")  # spans that reach generated tokens


@dataclass(frozen=True, eq=False)
class Add:
    """``h[layer] += coefficient * vector`` on the span; vector [d_model], in residual-stream units."""

    vector: torch.Tensor
    layer: int
    span: str | tuple[int, ...]
    coefficient: float = 1.0


@dataclass(frozen=True, eq=False)
class Ablate:
    """Remove the component along `vector` [d_model] (arXiv 2406.11717, eq. 4).

    `layers` None: from every block's input and every attention and MLP output, which equals orthogonalising
    the weights.
    """

    vector: torch.Tensor
    layers: tuple[int, ...] | None = None
    span: str | tuple[int, ...] = "every_token"


@dataclass(frozen=True, eq=False)
class ScaleHead:
    """Multiply one query head's output, before the output projection, by `factor`.

    With `rescale` what the attention then writes is brought back to its old norm, token by token (arXiv
    2510.06036, section 4, where it is done over the whole tensor and so depends on the batch).
    """

    layer: int
    head: int
    factor: float
    span: str | tuple[int, ...] = "every_token"
    rescale: bool = False


@dataclass(frozen=True, eq=False)
class Patch:
    """Replace ``h[layer]`` on the span by `values`: [d_model], or [span length, d_model] for a span of the
    prompt alone.
    """

    values: torch.Tensor
    layer: int
    span: str | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Steer:
    """At a token, read ``h[l]`` of the layers `reads`, put them together through one hidden layer of ReLUs,
    and add ``coefficient * s * w_k * vectors[k]`` to ``h[layers[k]]``: s is the first output, w_k the sigmoid
    of the others (arXiv 2505.20309, section 3.2). Acts on the last token of the prompt and on every generated
    one, read anew at each, in the pass that pushes; what other edits do there is seen, and comes before.

    `network` holds the weights and biases of its two linear maps: [h, reads * d_model], [h], [1 + layer, h]
    and [1 + layer]. Raises ParameterError for a layer that is pushed before all are read, and where vectors
    or outputs are of another number than the layers.
    """

    reads: tuple[int, ...]
    layers: tuple[int, ...]
    vectors: torch.Tensor
    network: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    coefficient: float = 1.0
    span: ClassVar[str] = "last"

    def __post_init__(self):
        if min(self.layers) <= max(self.reads):
            raise ParameterError(
                f"layer {min(self.layers)} is pushed before layer {max(self.reads)} is read",
                f"push layers from {max(self.reads) + 1} on",
            )
        if not len(self.layers) == len(self.vectors) == len(self.network[2]) - 1:
            raise ParameterError(
                f"{len(self.vectors)} vectors and {len(self.network[2]) - 1} weights for "
                f"{len(self.layers)} layers"
            )


Edit = Add | Ablate | ScaleHead | Patch | Steer


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch: a prompt, and the edits under which it is run."""

    prompt: Prompt
    edits: tuple[Edit, ...] = ()


def rows_of(prompts: Sequence[Prompt | Row], arms: Sequence[Sequence[Edit]] = ((),)) -> list[Row]:
    """Every prompt under every arm of edits, arm by arm; rows stay as they are, for they have edits of their
    own.

    Raises ValueError for rows under arms.
    """
    rows = [p for p in prompts if isinstance(p, Row)]
    bare = [p for p in prompts if not isinstance(p, Row)]
    if rows:
        if any(map(list, arms)) or bare:
            raise ValueError("rows have edits of their own: give prompts with arms of edits, or rows alone")
        return rows
    return [Row(p, tuple(arm)) for arm in arms for p in bare]


@dataclass(frozen=True, eq=False)
class Steering:
    """What a `Steer` does at one layer. `memory` is the same for all of its layers: first it fills with what
    is read of a token [row, d_model], and then it is the scale [row, 1] and the weights [row, layer].
    """

    memory: list
    first: bool  # of the layers that are read, or of those that are pushed
    network: tuple = ()  # where it is pushed
    k: int = 0
    push: torch.Tensor | None = None  # vectors[k] times the coefficient
    on: torch.Tensor | None = None  # [row, position or 1, 1]


@dataclass(frozen=True, eq=False)
class Op:
    """One compiled edit of a batch: ``x * keep + shift`` where keep is given, else ``x − on * (x·unit)
    unit``; or a `Steering`.

    keep, shift, on are [row, position or 1, 1 or width]; `later` holds the same for generated tokens ([row,
    1, …]) or None.
    """

    site: str  # resid, heads, attn, mlp
    layer: int
    prompt: tuple | Steering
    later: tuple | Steering | None
    rescale: torch.Tensor | None = None  # [row, 1, 1], 1 where the attention's output keeps its norm


def compile_edits(model: "Model", rows: Sequence[Row], width: int, skip: int = 0) -> list[Op]:
    """The edits of a batch as tensors; those of one layer and site in the order in which they act.

    `width` is the padded length and rows are padded on the left; `skip` tokens of each prompt's opening are
    not in the batch (``width`` counts the rest). Edits of the same kind, layer and rank in their rows become
    one op; rows without it are untouched.

    Raises ParameterError for a layer or head that the model does not have, and for a `Patch` with values for
    other tokens than its span has.
    """
    groups: dict[tuple, dict[int, list[Edit]]] = {}
    steers: dict[int, tuple[Steer, list[int]]] = {}
    prompts = [r.prompt for r in rows]
    for row, edits in enumerate(r.edits for r in rows):
        rank: dict[tuple, int] = {}
        for edit in edits:
            for site, layer in _sites(model, edit):
                if isinstance(edit, Steer):
                    steers.setdefault(id(edit), (edit, []))[1].append(row)
                    break
                if isinstance(edit, ScaleHead):  # heads of one layer commute: one op for all of them
                    key = (layer, site, 0, ScaleHead, edit.span)
                else:
                    # edits of one place act in the order in which they are given
                    rank[layer, site] = rank.get((layer, site), -1) + 1
                    key = (layer, site, rank[layer, site], type(edit), None)
                groups.setdefault(key, {}).setdefault(row, []).append(edit)
    ops, shared = [], {}
    for (layer, site, _, kind, _), by_row in sorted(groups.items(), key=lambda g: g[0][2]):  # by rank
        same = (kind, tuple((row, id(edits[0])) for row, edits in by_row.items()))
        if kind is Ablate and same in shared:  # one direction at all sites: build the tensors once
            ops.append(Op(site, layer, *shared[same]))
            continue
        tensors = _tensors(model, prompts, by_row, kind, width, skip)
        shared[same] = tensors
        rescale = None
        asks = lambda edit: isinstance(edit, ScaleHead) and edit.rescale
        if whose := [row for row, edits in by_row.items() if any(map(asks, edits))]:
            rescale = torch.zeros(len(prompts), 1, 1, device=model.device)
            rescale[whose] = 1.0
        ops.append(Op(site, layer, *tensors, rescale))
    for steer, which in steers.values():
        ops += _steerings(model, steer, which, len(prompts), width)
    return ops


def _steerings(model: "Model", steer: Steer, which: Sequence[int], rows: int, width: int) -> list[Op]:
    """A `Steer` of the rows `which`, layer by layer."""
    device = model.device if model.device.type != "meta" else torch.device("cpu")
    at_last, later_on = torch.zeros(rows, width, 1), torch.zeros(rows, 1, 1)
    at_last[list(which), -1:] = later_on[list(which)] = 1.0
    network, memory = tuple(x.float().to(device) for x in steer.network), []
    ops = []
    for i, layer in enumerate(steer.reads):
        one = Steering(memory, not i)
        ops.append(Op("resid", layer, one, one))
    for k, (layer, vector) in enumerate(zip(steer.layers, steer.vectors, strict=True)):
        push = (vector.float() * steer.coefficient).to(device)
        at = lambda on, k=k, push=push: Steering(memory, not k, network, k, push, on.to(device))
        ops.append(Op("resid", layer, at(at_last), at(later_on)))
    return ops


def _sites(model: "Model", edit: Edit) -> list[tuple[str, int]]:
    if isinstance(edit, Ablate):
        if edit.layers is None:
            blocks = range(model.n_layers)
            return [(site, layer) for layer in blocks for site in ("resid", "attn", "mlp")] + [
                ("resid", model.n_layers)
            ]
        wanted = edit.layers
    elif isinstance(edit, Steer):
        wanted = (*edit.reads, *edit.layers)
    else:
        wanted = (edit.layer,)
    top = model.n_layers - 1 if isinstance(edit, ScaleHead) else model.n_layers
    if bad := [layer for layer in wanted if not 0 <= layer <= top]:
        raise ParameterError(f"layer {bad[0]} does not exist in {model.name}", f"layers run from 0 to {top}")
    if isinstance(edit, ScaleHead):
        if not 0 <= edit.head < model.n_heads:
            raise ParameterError(
                f"head {edit.head} does not exist in {model.name}", f"heads run from 0 to {model.n_heads - 1}"
            )
        return [("heads", edit.layer)]
    return [("resid", layer) for layer in wanted]


def _tensors(model: "Model", prompts, by_row, kind, width, skip):
    """(prompt, later) of one op: the tensors for the prompt's positions and for generated tokens."""
    rows = len(prompts)
    on = torch.zeros(rows, width, 1)
    later_on = torch.zeros(rows, 1, 1)
    d = model.n_heads * model.d_head if kind is ScaleHead else model.d_model
    vectors = torch.zeros(rows, 1, d)
    patch = torch.zeros(rows, width, d) if kind is Patch else torch.empty(0)
    everywhere = kind is not Patch
    for row, edits in by_row.items():
        edit = edits[0]
        span = prompts[row].span(edit.span)
        offset = width - (len(prompts[row].ids) - skip) - skip
        columns = [p + offset for p in span if p >= skip]
        on[row, columns] = 1.0
        everywhere &= len(set(columns)) == len(prompts[row].ids) - skip
        later_on[row] = float(edit.span in LATER)
        if kind is Add:
            vectors[row] = edit.vector.float().cpu() * edit.coefficient
        elif kind is Ablate:
            unit = edit.vector.float().cpu()
            vectors[row] = unit / unit.norm().clamp_min(1e-12)
        elif kind is ScaleHead:
            factors: dict[int, float] = {}  # a head that is scaled twice is scaled by the product
            for one in edits:
                factors[one.head] = factors.get(one.head, 1) * one.factor
            for head, factor in factors.items():
                vectors[row, 0, head * model.d_head : (head + 1) * model.d_head] = factor - 1
        else:
            values = edit.values.float().cpu()  # which may be learned: then the batch is in their graph
            later = edit.span in LATER
            if values.dim() > 1 and (later or len(values) != len(span)):
                raise ParameterError(
                    f"this Patch has values for {len(values)} tokens, its span={edit.span} of prompt "
                    f"{prompts[row].id} has {len(span)}" + " and each generated one" * later,
                    "give one value [d_model] for all, or a span of the prompt and a value for each token",
                )
            patch[row, columns] = values if values.dim() == 1 else values[[p >= skip for p in span]]
            if later:
                vectors[row] = values
    if everywhere:
        # one factor per row in place of one per token; what it does to padding is never read
        on = on.amax(1, keepdim=True)
    device, dtype = model.device if model.device.type != "meta" else torch.device("cpu"), model.dtype
    any_later = bool(later_on.any())
    if kind is Ablate:
        # the projection is computed in float32: in bfloat16 a rest of the component would stay
        return (None, on.to(device), vectors.to(device)), (
            None,
            later_on.to(device),
            vectors.to(device),
        ) if any_later else None
    if kind is Add:
        build = lambda mask: ((torch.ones(1)).to(device, dtype), (mask * vectors).to(device, dtype), None)
    elif kind is ScaleHead:
        build = lambda mask: ((1 + mask * vectors).to(device, dtype), torch.zeros(1).to(device, dtype), None)
    else:
        return ((1 - on).to(device, dtype), patch.to(device, dtype), None), (
            (1 - later_on).to(device, dtype),
            (later_on * vectors).to(device, dtype),
            None,
        ) if any_later else None
    return build(on), build(later_on) if any_later else None
