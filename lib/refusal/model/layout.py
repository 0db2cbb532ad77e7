"""Whether a loaded model's parts are what the library takes them for: found out by running it, not from
names.

A few short passes with plain hooks settle, for every block, that ``h[l + 1] = h[l] + f * attn + f * mlp`` (f
= 1 in most families) and which parts of the block those two are (the sublayer itself, or a norm after it:
Gemma, OLMo 2, GLM-4); that logits come from the last block's output; and that a row of a padded batch, and
what goes on from kept keys and values, get the values of the prompt alone.
"""

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch.utils._pytree import tree_map_only
from transformers import DynamicCache

from refusal.base.errors import UserError

if TYPE_CHECKING:
    from refusal.model.loading import Model

# share of the residual stream's squared norm in one coordinate above which raw differences of means mislead
LOUD = 0.5
# how a block calls what it multiplies its sublayers' outputs by (Granite, MiniCPM)
FACTORS = ("residual_multiplier", "residual_scale")
POST_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
N_IDS = 10


def first(out) -> torch.Tensor:
    """What a module returns, or the first of a tuple."""
    return out[0] if isinstance(out, tuple) else out


def embedding(model: "Model") -> torch.nn.Embedding:
    """The token embedding."""
    return cast(torch.nn.Embedding, model.module.get_input_embeddings())


def probe_ids(model: "Model") -> torch.Tensor:
    """Some tokens [1, N_IDS] for a short pass: valid ids, spread over the vocabulary."""
    rows = embedding(model).num_embeddings
    return torch.linspace(rows // 10, rows - 1 - rows // 10, N_IDS, device=model.device).long()[None]


def run(model: "Model", ids: torch.Tensor, pad: int = 0, **options):
    """One forward pass as `refusal.trace.passes` makes it: logits [row, position, vocabulary]. The first
    `pad` tokens are padding, which the row's mask says; with a ``cache`` the pass goes on from the tokens
    that are in it, and they are the first.
    """
    cached = options["cache"].get_seq_length() if "cache" in options else 0
    mask = torch.ones(len(ids), cached + ids.shape[1], dtype=torch.long, device=ids.device)
    mask[:, :pad] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, cached:]
    with torch.no_grad():
        return model.module(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache="cache" in options,
            logits_to_keep=0,
            **options,
        ).logits


def watch(model: "Model", parts: dict, ids: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """{name: (input, output)} of the modules `parts` in one pass, in the order in which they finished, and
    the logits.
    """
    seen, handles = {}, []
    for name, part in parts.items():

        def hook(_module, args, kwargs, out, name=name):
            given = args[0] if args else next(iter(kwargs.values()), None)
            seen[name] = (given, tree_map_only(torch.Tensor, torch.clone, out))  # Falcon adds to it in place

        handles.append(part.register_forward_hook(hook, with_kwargs=True))
    try:
        return seen, run(model, ids)[0]
    finally:
        for handle in handles:
            handle.remove()


def tolerance(dtype: torch.dtype) -> float:
    """The largest difference, relative to the largest number of its layer, that the rounding of a whole pass
    in `dtype` explains.
    """
    return max(1e-3, 16 * torch.finfo(dtype).eps)


def close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are the same to the arithmetic of a whole pass in `dtype`, which need not be
    theirs: training leaves wrappers that return float32 of what was computed in bfloat16.
    """
    return bool((a - b).abs().max() <= tolerance(dtype) * b.abs().max())


def max_positions(module, config) -> int | None:
    """The number of tokens a model has positions for, where a table of them sets a hard limit (GPT-2, GPT-J);
    None where none does (rotary, ALiBi).
    """
    limit = getattr(config, "max_position_embeddings", None)
    tables = [
        m.num_embeddings - getattr(m, "offset", 0)
        for m in module.modules()
        if isinstance(m, torch.nn.Embedding) and m is not module.get_input_embeddings()
    ]
    tables += [
        n
        for b in module.buffers()
        if b.ndim > 1
        for n in (b.shape[0], b.shape[-1])
        if b.shape[0] > 1 or b.ndim == 4
    ]
    return limit if limit in tables else None


def _factor(block) -> float:
    """What a block multiplies its sublayers' outputs by when it adds them to the stream; 1 in most
    families."""
    return next((float(getattr(block, name)) for name in FACTORS if hasattr(block, name)), 1.0)


def by_names(model: "Model"):
    """`model` with what its blocks write told by names alone: for a remote one, which cannot be run at
    load."""
    block = model.nn.layers[0]._module
    attn, mlp = next(
        (pair for pair in POST_NORMS if all(hasattr(block, name) for name in pair)), ("self_attn", "mlp")
    )
    return replace(model, attn_writes=attn, mlp_writes=mlp, residual_factor=_factor(block))


def checked(model: "Model"):
    """`model` with what its parts turned out to be. Raises UserError with the reason where they are not what
    the library takes them for.
    """
    ids = probe_ids(model)
    blocks = [model.nn.layers[layer]._module for layer in range(model.n_layers)]
    parts: dict = {("block", layer): block for layer, block in enumerate(blocks)} | {
        "norm": model.nn.ln_final._module
    }
    parts |= {
        (layer, name): part for layer, block in enumerate(blocks) for name, part in block.named_children()
    }
    parts |= {
        ("heads", layer): model.nn.layers[layer].self_attn.o_proj._module for layer in range(model.n_layers)
    }
    try:
        seen, logits = watch(model, parts, ids)
        again = _padded_and_continued(model, ids)
    except Exception as error:  # whatever a foreign forward pass raises; the user needs one sentence
        raise UserError(
            f"{model.name}: its forward pass does not take what this library gives it: {_line(error)}"
        ) from error
    if not torch.isfinite(logits).all():
        raise UserError(
            f"{model.name}: its output is not finite in {str(model.dtype).removeprefix('torch.')}",
            "try DTYPE=bfloat16 or DTYPE=float32",
        )
    _check_stream(model, seen, logits)
    model = _found_writes(model, blocks, seen)
    for value, alone, what in zip(
        again,
        (logits[5], logits[-1]),
        ("padded on the left", "that goes on from kept keys and values"),
        strict=True,
    ):
        if not close(value, alone, model.dtype):
            raise UserError(
                f"{model.name}: a prompt {what} gets other values than the prompt alone",
                "this architecture cannot be run in batches here",
            )
    return model


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _padded_and_continued(
    model: "Model", ids, first: int = 6, pad: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the `first` tokens' last one, padded on the left, and of the last token, read after them from
    the cache that they left.
    """
    cache = DynamicCache()
    padded = torch.cat([ids[:, :pad], ids[:, :first]], 1)
    return run(model, padded, pad, cache=cache)[0, -1], run(model, ids[:, first:], pad, cache=cache)[0, -1]


def _check_stream(model: "Model", seen, logits) -> None:
    """From block to block, into the final norm and through the vocabulary head: what one gives is what the
    next reads.
    """
    top = model.n_layers - 1
    for layer in range(model.n_layers):
        if ("block", layer) not in seen or ("heads", layer) not in seen:
            raise UserError(
                f"{model.name}: block {layer} or its attention's output projection takes no part in a pass"
            )
        h, out = seen["block", layer][0], first(seen["block", layer][1])
        if not isinstance(h, torch.Tensor) or h.shape != (1, N_IDS, model.d_model) or out.shape != h.shape:
            raise UserError(
                f"{model.name}: block {layer} does not map [1, {N_IDS}, {model.d_model}] to the same",
                "only one residual stream is read here",
            )
        if layer < top and not torch.equal(out, seen["block", layer + 1][0]):
            raise UserError(f"{model.name}: block {layer + 1} does not read what block {layer} gives")
        if seen["heads", layer][0].shape != (1, N_IDS, model.n_heads * model.d_head):
            raise UserError(
                f"{model.name}: block {layer} does not have {model.n_heads} heads of {model.d_head} like "
                f"the first one"
            )
    if logits.shape[0] != N_IDS:
        raise UserError(f"{model.name} gives {logits.shape[0]} rows of logits for {N_IDS} tokens")
    last = first(seen["block", top][1])
    if "norm" not in seen or not torch.equal(last, seen["norm"][0]):
        raise UserError(
            f"{model.name}: the final norm does not read the last block's output",
            "RENAME in lib/refusal/model/loading.py picks the wrong norm",
        )
    with torch.no_grad():
        direct = model.nn.lm_head._module(model.nn.ln_final._module(last))[0].float()
    cap = getattr(model.module.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    direct, logits = torch.tanh(direct / cap) * cap if cap else direct, logits.float()
    # Granite divides its logits, Cohere multiplies them
    scale = (direct * logits).sum() / direct.square().sum()
    if not scale > 0 or (scale * direct - logits).abs().max() > 1e-2 * logits.abs().max():
        raise UserError(
            f"{model.name}: lm_head(ln_final(h)) is not the model's output",
            "RENAME in lib/refusal/model/loading.py picks the wrong module",
        )


def _found_writes(model: "Model", blocks, seen):
    """`model` with the names of the parts whose outputs are added to the stream in every block, and what
    those return.
    """
    native = [
        _native(blocks[0], part)
        for part in (model.nn.layers[0].self_attn._module, model.nn.layers[0].mlp._module)
    ]
    ran = [name for layer, name in (key for key in seen if isinstance(key, tuple)) if layer == 0]
    factor = _factor(blocks[0])
    pairs = (
        [(a, m) for a in ran[ran.index(native[0]) :] for m in ran[ran.index(native[1]) :] if a != m]
        if set(native) <= set(ran)
        else []
    )
    pair = next(
        (
            pair
            for pair in pairs
            if all(_adds_up(seen, layer, *pair, factor) for layer in range(model.n_layers))
        ),
        None,
    )
    if pair is None:
        raise UserError(
            f"{model.name}: its blocks do not add what attention and MLP give to the residual stream: "
            f"h[l+1] − h[l] is not attn + mlp",
            f"{type(blocks[0]).__name__} does something else in between; this library cannot read or edit "
            f"it rightly",
        )
    last = first(seen["block", model.n_layers - 1][1])
    squares = last.float().square().mean((0, 1))
    share = float(squares.max() / squares.sum())
    if share > LOUD:
        warnings.warn(
            f"{model.name}: one coordinate holds {share:.0%} of the last residual stream's squared norm; "
            "raw differences of means mostly measure that coordinate",
            stacklevel=2,
        )
    writes = ["self_attn" if pair[0] == native[0] else pair[0], "mlp" if pair[1] == native[1] else pair[1]]
    outputs = (seen["block", 0][1], *(seen[0, name][1] for name in pair))
    tuples = tuple(isinstance(out, tuple) for out in outputs)
    return replace(
        model,
        attn_writes=writes[0],
        mlp_writes=writes[1],
        residual_factor=factor,
        tuple_outputs=tuples,
        loudest_share=share,
    )


def _native(block, part) -> str | None:
    """The block's own name of one of its parts."""
    return next((name for name, child in block.named_children() if child is part), None)


def _adds_up(seen, layer: int, attn: str, mlp: str, factor: float) -> bool:
    """Whether block `layer` adds `factor` times the outputs of these parts, coordinate by coordinate to the
    dtype's rounding.
    """
    h, out = seen["block", layer][0], first(seen["block", layer][1])
    eps, h, out = torch.finfo(out.dtype).eps, h.float(), out.float()
    terms = [first(seen[layer, name][1]) if (layer, name) in seen else None for name in (attn, mlp)]
    fit = [factor * t.float() for t in terms if isinstance(t, torch.Tensor) and t.shape == h.shape]
    if len(fit) < 2:
        return False
    a, m = fit
    return bool(((h + a + m) - out).abs().le(4 * eps * (h.abs() + a.abs() + m.abs())).all())
