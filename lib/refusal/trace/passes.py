"""Single forward passes through nnsight: states read, edits applied, logits taken; and one remote generation.

The only place where edits act, for a pass and for every step of a generation alike. Inside a trace only plain
tensor arithmetic is allowed: the body is serialised for ``remote``.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import nnsight
import torch
from transformers import GenerationConfig

from refusal.base.errors import UserError
from refusal.trace.batches import Batch
from refusal.trace.edits import Steering

if TYPE_CHECKING:
    from refusal.model.loading import Model

NUCLEUS = 1024  # tokens that are put in order where only the most probable count; a vocabulary is far wider
SITES = ("resid", "heads", "attn", "mlp")  # in the order in which a block reaches them


def _by_site(model: "Model", ops) -> dict[str, list[list]]:
    """ops as plain nested lists [site][layer] → [(prompt, later), …], which a remote trace can carry."""
    table: dict[str, list[list]] = {site: [[] for _ in range(model.n_layers + 1)] for site in SITES}
    for op in ops:
        table[op.site][op.layer].append((op.prompt, op.later))
    return table


def _rescaled(model: "Model", ops) -> dict[int, tuple]:
    """{layer: (rows [row, 1, 1] whose attention output keeps its norm, the output projection)}. Raises
    UserError for a remote run, where the weights are not here.
    """
    table: dict[int, torch.Tensor] = {}
    for op in ops:
        if op.rescale is not None:
            table[op.layer] = torch.maximum(table[op.layer], op.rescale) if op.layer in table else op.rescale
    if table and model.remote:
        raise UserError(
            "rescaling the attention's output needs the weights, which are remote",
            "use ScaleHead without rescale",
        )
    return {layer: (rows, model.nn.layers[layer].self_attn.o_proj._module) for layer, rows in table.items()}


def _project(projection, z):
    """What an attention's output projection makes of z, by its plain weights, so that no hook sees it."""
    out = z @ projection.weight if type(projection).__name__ == "Conv1D" else z @ projection.weight.T
    return out if projection.bias is None else out + projection.bias


def _changed(x, change):
    """One compiled edit applied to x [row, position, width]: affine, or the projection off `unit`, in
    float32; or one layer of a `Steer`.
    """
    if isinstance(change, Steering):
        return _steered(x, change)
    keep, shift, unit = change
    if unit is None:
        return x * keep + shift
    y = x.float()
    return (y - shift * (y * unit).sum(-1, keepdim=True) * unit).to(x.dtype)


def _steered(x, layer: Steering):
    """What a `Steer` does where it reads and where it pushes: its rows are padded on the left, so the last
    token is the last column.
    """
    memory = layer.memory
    if layer.push is None:
        if layer.first:
            memory.clear()
        memory.append(x[:, -1].float())
        return x
    if layer.first:
        hidden, hidden_bias, out, out_bias = layer.network
        outputs = torch.relu(torch.cat(memory, -1) @ hidden.T + hidden_bias) @ out.T + out_bias
        memory[:] = [outputs[:, :1], outputs[:, 1:].sigmoid()]
    scale, weights = memory
    pushed = scale * weights[:, layer.k : layer.k + 1] * layer.push
    return x + (layer.on * pushed[:, None]).to(x.dtype)


def _part(model: "Model", site: str, layer: int):
    """Inside a trace: the module whose output a site is, and whether that is a tuple."""
    if site == "resid":  # after the last block
        return model.nn.layers[layer - 1], model.tuple_outputs[0]
    if site == "attn":
        return getattr(model.nn.layers[layer], model.attn_writes), model.tuple_outputs[1]
    return getattr(model.nn.layers[layer], model.mlp_writes), model.tuple_outputs[2]


def _visit(model: "Model", site: str, layer: int, changes: Sequence, rescaled=None):
    """Inside a trace, where the model reaches a site: apply `changes` to what stands there; returns it,
    changed.
    """
    block = model.nn.layers[min(layer, model.n_layers - 1)]
    if site == "heads":
        x = before = block.self_attn.o_proj.input
    elif site == "resid" and layer < model.n_layers:
        x = block.input
    else:
        part, is_tuple = _part(model, site, layer)
        x = part.output[0] if is_tuple else part.output
    if not changes:
        return x
    for change in changes:
        x = _changed(x, change)
    if site == "heads":
        block.self_attn.o_proj.input = x
        if rescaled is not None:
            rows, projection = rescaled
            out = block.self_attn.o_proj.output
            norm = out.float().norm(dim=-1, keepdim=True).clamp_min(1e-6)
            ratio = _project(projection, before).float().norm(dim=-1, keepdim=True) / norm
            block.self_attn.o_proj.output = out * (1 + rows * (ratio - 1)).to(out.dtype)
    elif site == "resid" and layer < model.n_layers:
        block.input = x
    else:
        part.output = (x, *part.output[1:]) if is_tuple else x
    return x


def _at(x, columns):
    """x [row, position, width] at `columns` [row, position, 1]."""
    return x.gather(1, columns.expand(-1, -1, x.shape[-1]))


def forward(
    model: "Model",
    batch: Batch,
    ops=(),
    read=None,
    cache=None,
    logits=False,
    start=None,
    keep=1,
    projections=None,
    check=True,
    grad=False,
):
    """One forward pass. `read` maps a site to (layers, columns [row, position]); `start` is (layer, states
    [row, width, d_model]); `projections` maps a layer to directions [d_model, k] on which its states are
    projected, at every position.

    Returns ({site: [row, layer, position, d_model], "projections": [row, width, all k by layer]},
    last-position logits [row, vocabulary] or None; with ``keep=0`` those of all positions, [row, width,
    vocabulary]).
    Nothing above the last layer that is read is computed where no logits are asked for. With `grad` what is
    read is in the graph of what the edits hold. Raises UserError where what is read is not finite, with
    `check`.
    """
    nn, n_layers = model.nn, model.n_layers
    edits, rescaled = _by_site(model, ops), _rescaled(model, ops)
    read, projections = read or {}, projections or {}
    wanted = {site: set(read[site][0]) if site in read else set() for site in SITES}
    columns = {site: read[site][1].to(batch.ids.device)[..., None] for site in read}
    # what is read is what is added to the stream
    factors = {"attn": model.residual_factor, "mlp": model.residual_factor}
    first, states = start if start else (0, None)
    tops = [layer if site == "resid" else layer + 1 for site in read for layer in wanted[site]]
    top = n_layers if logits else max([*tops, *projections], default=n_layers)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    options = {"position_ids": batch.positions, "use_cache": cache is not None, "logits_to_keep": keep}
    if cache is not None:
        options["cache"] = cache
    with torch.set_grad_enabled(grad), nn.trace(inputs, remote=model.remote, **options) as tracer:
        found, lines = {site: [] for site in columns}, []
        for layer in range(top + 1):
            if layer < first:
                nn.layers[layer].skip(nn.layers[layer].input)
                continue
            if states is not None and layer == first:
                nn.layers[layer].input = states
            for site in SITES if layer < top else SITES[:1]:
                changes, reads = [change for change, _ in edits[site][layer]], layer in wanted[site]
                projects = site == "resid" and layer in projections
                if not (changes or reads or projects):
                    continue
                x = _visit(model, site, layer, changes, rescaled.get(layer))
                if reads:
                    found[site].append(_at(x, columns[site]) * factors.get(site, 1))
                if projects:
                    lines.append(x.float() @ projections[layer].to(x.device))
        out = {site: torch.stack(found[site], 1) for site in found}
        if lines:
            out["projections"] = torch.cat(lines, -1)
        out = nnsight.save(out)
        if logits:
            scores = nnsight.save(nn.output.logits[:, -1] if keep == 1 else nn.output.logits)
        else:
            scores = nnsight.save(None)
            # nothing above the last read is needed; without reads the pass is there to fill the cache
            if out:
                tracer.stop()
    for site, values in out.items() if check else ():
        _check_read(model, batch, site, values, sorted(wanted.get(site, ())), columns.get(site))
    return out, scores


def _check_read(
    model: "Model", batch: Batch, site: str, values: torch.Tensor, layers, columns: torch.Tensor | None
) -> None:
    """Raises UserError where what was read of tokens, not of padding, is not finite."""
    if torch.isfinite(values).all():
        return
    real = batch.mask[:, -batch.ids.shape[1] :].bool().to(values.device)
    if columns is None:  # along directions, at every token
        if not torch.isfinite(values[real]).all():
            not_finite(model, "a projection of the residual stream")
        return
    bad = ~torch.isfinite(values).all(-1) & real.gather(1, columns[..., 0].to(real.device))[:, None]
    if bad.any():  # [row, layer, position]
        layer = layers[int(bad.any(0).any(-1).nonzero()[0])]
        not_finite(model, f"what is read of {site} at layer {layer}")


def not_finite(model: "Model", what: str):
    """Raises UserError: `what` is not finite."""
    dtype = str(model.dtype).removeprefix("torch.")
    raise UserError(
        f"{model.name}: {what} is not finite in DTYPE={dtype}",
        "values overflow: try DTYPE=bfloat16 or DTYPE=float32",
    )


def _edit_step(model: "Model", edits, rescaled, step: int) -> None:
    """Inside a generation: the edits of one step, in the order in which the model reaches them; step 0 is the
    prompt."""
    for layer in range(model.n_layers + 1):
        for site in SITES if layer < model.n_layers else SITES[:1]:
            changes = [change[min(step, 1)] for change in edits[site][layer]]
            if changes := [change for change in changes if change is not None]:
                _visit(model, site, layer, changes, rescaled.get(layer))


def chosen(logits, u, temperature: float, top_p: float):
    """Tokens drawn from logits [row, vocabulary] by numbers u [row] from 0 to 1, float64: where the
    probabilities, added up, pass u. With `top_p` below 1 only the most probable tokens count, those that
    reach that share together.
    """
    if logits.device.type == "mps":  # has no float64
        return chosen(logits.cpu(), u.cpu(), temperature, top_p).to(logits.device)
    u = u.to(logits.device)
    if top_p < 1:
        return _from_most_probable(logits, u, temperature, top_p)
    return _drawn((logits.double() / temperature).softmax(-1), u)


def _from_most_probable(logits, u, temperature: float, top_p: float):
    """As `chosen`: the first `NUCLEUS` tokens by probability are looked at, all of them only for rows of
    which these do not hold the share `top_p`.
    """
    k = min(NUCLEUS, logits.shape[-1])
    top, index = logits.float().topk(k)
    p = (top.double() / temperature - (logits.float() / temperature).logsumexp(-1, keepdim=True)).exp()
    short = p.sum(-1) < top_p if k < logits.shape[-1] else torch.zeros(len(p), dtype=torch.bool)
    at = _drawn(p * (p.cumsum(-1) - p < top_p), u)
    tokens = index.gather(-1, at[:, None])[:, 0]
    if short.any():
        p, index = (logits[short].double() / temperature).softmax(-1).sort(-1, descending=True)
        at = _drawn(p * (p.cumsum(-1) - p < top_p), u[short])
        tokens[short] = index.gather(-1, at[:, None])[:, 0]
    return tokens


def _drawn(p, u):
    """Where the probabilities p [row, …], added up, pass u times all of them."""
    total = p.cumsum(-1)
    last = (p > 0).double().cumsum(-1).argmax(-1)  # rounding may leave u above all of them
    return torch.minimum((total <= (u * total[:, -1])[:, None]).sum(-1), last)


def _draw_step(model: "Model", u, step: int, temperature: float, top_p: float) -> None:
    """Inside a generation: what is drawn gets the largest logit, for the generation itself is greedy."""
    if u is not None:
        logits = model.nn.output.logits
        token = chosen(logits[:, -1], u[:, step], temperature, top_p)
        logits[:, -1] = torch.zeros_like(logits[:, -1]).scatter(1, token[:, None], 1.0)


def generate_remote(
    model: "Model",
    batch: Batch,
    ops,
    n: int,
    stops: Sequence[int],
    u=None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Decoding of `n` tokens after whole prompts in one trace, which a remote run can carry: the new tokens
    of each row. Greedy, or drawn as `chosen` does by the numbers `u` [row, step].
    """
    edits, rescaled = _by_site(model, ops), _rescaled(model, ops)
    every_step = u is not None or any(op.later is not None for op in ops)
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    config = GenerationConfig(
        max_new_tokens=n,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=list(stops),
        min_new_tokens=0,
        use_cache=True,
        **plain,
    )
    with warnings.catch_warnings(), torch.no_grad():
        # an open iter[:] ends so, by design
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        with model.nn.generate(remote=model.remote, generation_config=config) as tracer:
            with tracer.invoke({"input_ids": batch.ids, "attention_mask": batch.mask}):
                if every_step:
                    for step in tracer.iter[:]:
                        _edit_step(model, edits, rescaled, step)
                        _draw_step(model, u, step, temperature, top_p)
                elif ops:
                    _edit_step(model, edits, rescaled, 0)
            with tracer.invoke():
                out = nnsight.save(tracer.result)
    return out[:, batch.ids.shape[1] :].tolist()
