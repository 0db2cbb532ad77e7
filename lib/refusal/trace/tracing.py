"""The one module that builds nnsight traces: reading activations, editing them, scoring, generating; here or
remote.

What keeps it near the floor of needed forward passes: batches filled by token count and sorted by length; the
template's common opening computed once per distinct set of edits, its keys and values kept; sweeps as rows of
one batch; a pass that starts at the edited layer from stored states; no vocabulary head where no logits are
read, else the last position only; and no layer above the last one that is read. A remote run takes the plain
path: whole prompts, every layer.

Inside a trace only plain tensor arithmetic is allowed: the body is serialised for ``remote``.
"""

import itertools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import nnsight
import torch
from transformers import DynamicCache, GenerationConfig

from refusal.base.errors import UserError
from refusal.base.machine import give_back
from refusal.base.progress import track
from refusal.trace import cache
from refusal.trace.edits import Ablate, Edit, compile_edits
from refusal.trace.prefix import Held, merged, picked, reach
from refusal.trace.prompts import Prompt, opening_length, plain, tags, turn_end

SITES = ("resid", "attn", "mlp", "heads")
CONTROL = "\ufffc"  # stands in a text for a control token that was said before the end
DOCUMENT_END = re.compile(
    r"</s>|\W*(?:seed:)?(?:end\W*_?of_?\W*(?:text|sentence|document)|eos(?:_token)?|eod)\W*", re.IGNORECASE
)


@dataclass
class Batch:
    """Rows of one forward pass: which prompts, the tokens after the shared opening, and masks over opening +
    rest.
    """

    rows: list[int]
    ids: torch.Tensor  # [row, width]
    mask: torch.Tensor  # [row, opening + width]
    positions: torch.Tensor  # [row, width]
    pad: list[int]  # padding on the left of each row


@dataclass
class Along:
    """Directions [k, d_model], each with the layer whose states are projected on it, and the first token of
    each prompt from which on they are.
    """

    directions: torch.Tensor
    layers: Sequence[int]
    since: Sequence[int]

    @property
    def by_layer(self) -> dict[int, torch.Tensor]:
        """{layer: [d_model, k]}, as `_forward` takes them."""
        at = torch.as_tensor(self.layers)
        return {layer: self.directions[at == layer].float().T for layer in at.unique().tolist()}

    def in_order(self, values: torch.Tensor) -> torch.Tensor:
        """Projections [..., k] as `_forward` gives them, in the order of the directions."""
        return values[..., torch.as_tensor(self.layers).argsort(stable=True).argsort()]


@dataclass
class Wanted:
    """What a pass over prompts reads on its way: the states of `sites` at each prompt's positions `where`,
    and projections along directions.
    """

    where: Sequence[Sequence[int]]
    sites: Sequence[str] = ("resid",)
    along: Along | None = None

    def first(self, i: int) -> list[int]:
        """Positions of prompt `i` before which nothing is read."""
        return [*self.where[i], *([self.along.since[i]] if self.along else [])]


def _plan(model, widths: Sequence[int], before: int = 0, new: float = 0) -> list[list[int]]:
    """Rows of so many tokens by batch: longest first, within ``batch_tokens`` padded tokens, and no row much
    shorter than the longest of its batch.

    Where `before` tokens lie before them as keys and values, padding would lie between: rows of one length
    then, if the model sees no further than padding, `before` and `new` tokens after them.
    """
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    batches: list[list[int]] = []
    unpadded = before and before + max(widths, default=0) + new > reach(model.module)
    for i in order:
        if batches:
            width = widths[batches[-1][0]]
            padded = widths[i] < width if unpadded else len(batches[-1]) >= 8 and widths[i] < 0.75 * width
            if (len(batches[-1]) + 1) * width <= model.batch_tokens and not padded:
                batches[-1].append(i)
                continue
        batches.append([i])
    return batches


def _widths(prompts, opening: int = 0) -> list[int]:
    return [len(p.ids) - opening for p in prompts]


def _batch(model, prompts, rows, opening: int, side: str = "left") -> Batch:
    return _rest(
        model,
        [prompts[i].ids[opening:] for i in rows],
        torch.ones(len(rows), opening, dtype=torch.long),
        rows,
        side,
    )


def _rest(model, tails: Sequence[Sequence[int]], before: torch.Tensor, rows, side: str = "left") -> Batch:
    """The batch of what follows tokens whose keys and values are there; `before` is their mask, [row,
    token]."""
    width, held = max(map(len, tails)), before.shape[1]
    device = "cpu" if model.device.type == "meta" else model.device
    ids = torch.full((len(tails), width), model.tokenizer.pad_token_id)
    mask = torch.cat([before.cpu(), torch.zeros(len(tails), width, dtype=torch.long)], 1)
    pad = []
    for r, tail in enumerate(tails):
        left = width - len(tail) if side == "left" else 0
        ids[r, left : left + len(tail)] = torch.tensor(tail)
        mask[r, held + left : held + left + len(tail)] = 1
        pad.append(left)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, held:]
    return Batch(list(rows), ids.to(device), mask.to(device), positions.to(device), pad)


def _by_site(model, ops) -> dict[str, list[list]]:
    """ops as plain nested lists [site][layer] → [(prompt, later), …], which a remote trace can carry."""
    table: dict[str, list[list]] = {site: [[] for _ in range(model.n_layers + 1)] for site in SITES}
    for op in ops:
        table[op.site][op.layer].append((op.prompt, op.later))
    return table


def _rescaled(model, ops) -> dict[int, torch.Tensor]:
    """{layer: rows [row, 1, 1] whose attention output keeps its norm}. Raises UserError for a remote run,
    where the weights are not here.
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
    return table


def _project(projection, z):
    """What an attention's output projection makes of z, by its plain weights, so that no hook sees it."""
    out = z @ projection.weight if type(projection).__name__ == "Conv1D" else z @ projection.weight.T
    return out if projection.bias is None else out + projection.bias


def _changed(x, change):
    """One compiled edit applied to x [row, position, width]: affine, or the projection off `unit`, in
    float32.
    """
    keep, shift, unit = change
    if unit is None:
        return x * keep + shift
    y = x.float()
    return (y - shift * (y * unit).sum(-1, keepdim=True) * unit).to(x.dtype)


def _forward(
    model,
    batch: Batch,
    ops=(),
    read=None,
    cache=None,
    logits=False,
    start=None,
    keep=1,
    along=None,
    check=True,
):
    """One forward pass. `read` maps a site to (layers, columns [row, position]); `start` is (layer, states
    [row, width, d_model]); `along` maps a layer to directions [d_model, k] on which its states are projected,
    at every position.

    Returns ({site: [row, layer, position, d_model], "along": [row, width, all k by layer]}, last-position
    logits [row, vocabulary] or None; with ``keep=0`` those of all positions, [row, width, vocabulary]).
    Raises UserError where what is read is not finite, with `check`.
    """
    nn, n_layers = model.nn, model.n_layers
    block_tuple, attn_tuple, mlp_tuple = model.tuple_outputs
    edits, rescaled = _by_site(model, ops), _rescaled(model, ops)
    projections = {layer: nn.layers[layer].self_attn.o_proj._module for layer in rescaled}
    read, along = read or {}, along or {}
    wanted = {site: set(read[site][0]) if site in read else set() for site in SITES}
    columns = {site: read[site][1].to(batch.ids.device)[..., None] for site in read}
    first, states = start if start else (0, None)
    tops = [layer if site == "resid" else layer + 1 for site in read for layer in wanted[site]]
    top = n_layers if logits else max([*tops, *along], default=n_layers)
    attn_writes, mlp_writes, factor = (
        model.attn_writes,
        model.mlp_writes,
        model.residual_factor,
    )  # what is added to the stream is what is read
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    options = {"position_ids": batch.positions, "use_cache": cache is not None, "logits_to_keep": keep}
    if cache is not None:
        options["cache"] = cache
    with torch.no_grad(), model.nn.trace(inputs, remote=model.remote, **options) as tracer:
        found, lines = {site: [] for site in columns}, []
        for layer in range(n_layers if top == n_layers else top + 1):
            block = nn.layers[layer]
            if layer < first:
                block.skip(block.input)
                continue
            if states is not None and layer == first:
                block.input = states
            for change, _ in edits["resid"][layer]:
                block.input = _changed(block.input, change)
            if layer in wanted["resid"]:
                h = block.input
                found["resid"].append(h.gather(1, columns["resid"].expand(-1, -1, h.shape[-1])))
            if layer in along:
                h = block.input
                lines.append(h.float() @ along[layer].to(h.device))
            if layer == top:
                break
            whole = block.self_attn.o_proj.input if layer in rescaled else None
            for change, _ in edits["heads"][layer]:
                block.self_attn.o_proj.input = _changed(block.self_attn.o_proj.input, change)
            if layer in wanted["heads"]:
                h = block.self_attn.o_proj.input
                found["heads"].append(h.gather(1, columns["heads"].expand(-1, -1, h.shape[-1])))
            if layer in rescaled:
                out = block.self_attn.o_proj.output
                ratio = _project(projections[layer], whole).float().norm(
                    dim=-1, keepdim=True
                ) / out.float().norm(dim=-1, keepdim=True).clamp_min(1e-6)
                block.self_attn.o_proj.output = out * (1 + rescaled[layer] * (ratio - 1)).to(out.dtype)
            attn = getattr(block, attn_writes)
            for change, _ in edits["attn"][layer]:
                if attn_tuple:
                    attn.output = (_changed(attn.output[0], change), *attn.output[1:])
                else:
                    attn.output = _changed(attn.output, change)
            if layer in wanted["attn"]:
                h = attn.output[0] if attn_tuple else attn.output
                found["attn"].append(h.gather(1, columns["attn"].expand(-1, -1, h.shape[-1])) * factor)
            mlp = getattr(block, mlp_writes)
            for change, _ in edits["mlp"][layer]:
                if mlp_tuple:
                    mlp.output = (_changed(mlp.output[0], change), *mlp.output[1:])
                else:
                    mlp.output = _changed(mlp.output, change)
            if layer in wanted["mlp"]:
                h = mlp.output[0] if mlp_tuple else mlp.output
                found["mlp"].append(h.gather(1, columns["mlp"].expand(-1, -1, h.shape[-1])) * factor)
        if top == n_layers:
            last = nn.layers[n_layers - 1]
            for change, _ in edits["resid"][n_layers]:
                if block_tuple:
                    last.output = (_changed(last.output[0], change), *last.output[1:])
                else:
                    last.output = _changed(last.output, change)
            if n_layers in wanted["resid"]:
                h = last.output[0] if block_tuple else last.output
                found["resid"].append(h.gather(1, columns["resid"].expand(-1, -1, h.shape[-1])))
            if n_layers in along:
                h = last.output[0] if block_tuple else last.output
                lines.append(h.float() @ along[n_layers].to(h.device))
        out = {site: torch.stack(found[site], 1) for site in found}
        if lines:
            out["along"] = torch.cat(lines, -1)
        out = nnsight.save(out)
        if logits:
            scores = nnsight.save(nn.output.logits[:, -1] if keep == 1 else nn.output.logits)
        else:
            scores = nnsight.save(None)
            if (
                out
            ):  # nothing above the last read is needed; without reads the pass is there to fill the cache
                tracer.stop()
    for site, values in out.items() if check else ():
        _check_read(model, batch, site, values, sorted(wanted.get(site, ())), columns.get(site))
    return out, scores


def _check_read(
    model, batch: Batch, site: str, values: torch.Tensor, layers: Sequence[int], columns: torch.Tensor | None
) -> None:
    """Raises UserError where what was read of tokens, not of padding, is not finite."""
    if torch.isfinite(values).all():
        return
    real = batch.mask[:, -batch.ids.shape[1] :].bool().to(values.device)
    if site == "along":
        if not torch.isfinite(values[real]).all():
            _not_finite(model, "a projection of the residual stream")
        return
    bad = (
        ~torch.isfinite(values).all(-1) & real.gather(1, columns[..., 0].to(real.device))[:, None]
    )  # [row, layer, position]
    if bad.any():
        _not_finite(model, f"what is read of {site} at layer {layers[int(bad.any(0).any(-1).nonzero()[0])]}")


def _not_finite(model, what: str):
    dtype = str(model.dtype).removeprefix("torch.")
    raise UserError(
        f"{model.name}: {what} is not finite in DTYPE={dtype}",
        "values overflow: try DTYPE=bfloat16 or DTYPE=float32",
    )


def _check_lengths(model, prompts, new: int = 1) -> None:
    """Raises UserError for a prompt which with its new tokens, of which the last is not read, is longer than
    the positions that a model has learned.
    """
    most = getattr(model, "max_positions", None)
    for p in prompts if most else ():
        if len(p.ids) + new - 1 > most:
            raise UserError(
                f"prompt {p.id} has {len(p.ids)} "
                f"tokens{f' and is given {new} new ones' if new > 1 else ''}; {model.name} has only {most} "
                f"positions",
                "leave it out, shorten it, or ask for fewer new tokens",
            )


def _edit_step(model, edits, rescaled, projections, step: int) -> None:
    """Inside a generation: the edits of one step, in the order in which the model reaches them; step 0 is the
    prompt.
    """
    nn, which = model.nn, min(step, 1)
    for layer in range(model.n_layers):
        block = nn.layers[layer]
        for change in edits["resid"][layer]:
            if change[which] is not None:
                block.input = _changed(block.input, change[which])
        acts = [change[which] for change in edits["heads"][layer] if change[which] is not None]
        whole = block.self_attn.o_proj.input if acts and layer in rescaled else None
        for change in acts:
            block.self_attn.o_proj.input = _changed(block.self_attn.o_proj.input, change)
        if acts and layer in rescaled:
            out = block.self_attn.o_proj.output
            ratio = _project(projections[layer], whole).float().norm(dim=-1, keepdim=True) / out.float().norm(
                dim=-1, keepdim=True
            ).clamp_min(1e-6)
            block.self_attn.o_proj.output = out * (1 + rescaled[layer] * (ratio - 1)).to(out.dtype)
        for site, writes, is_tuple in (
            ("attn", model.attn_writes, model.tuple_outputs[1]),
            ("mlp", model.mlp_writes, model.tuple_outputs[2]),
        ):
            part = getattr(block, writes)
            for change in edits[site][layer]:
                if change[which] is not None:
                    out = part.output
                    part.output = (
                        (_changed(out[0], change[which]), *out[1:])
                        if is_tuple
                        else _changed(out, change[which])
                    )
    last = nn.layers[model.n_layers - 1]
    for change in edits["resid"][model.n_layers]:
        if change[which] is not None:
            out = last.output
            last.output = (
                (_changed(out[0], change[which]), *out[1:])
                if model.tuple_outputs[0]
                else _changed(out, change[which])
            )


def _generate(model, batch: Batch, ops, n: int) -> list[list[int]]:
    """Greedy decoding of `n` tokens after whole prompts in one trace, which a remote run can carry: the new
    tokens of each row.
    """
    edits, rescaled = _by_site(model, ops), _rescaled(model, ops)
    projections = {layer: model.nn.layers[layer].self_attn.o_proj._module for layer in rescaled}
    edited, every_step = bool(ops), any(op.later is not None for op in ops)
    plain = {
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_new_tokens": 0,
        "use_cache": True,
    }
    config = GenerationConfig(
        max_new_tokens=n, pad_token_id=model.tokenizer.pad_token_id, eos_token_id=_stop_tokens(model), **plain
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings(
            "ignore", message=".*was never reached.*"
        )  # how an open iter[:] ends, by design
        with model.nn.generate(remote=model.remote, generation_config=config) as tracer:
            with tracer.invoke({"input_ids": batch.ids, "attention_mask": batch.mask}):
                if every_step:
                    for step in tracer.iter[:]:
                        _edit_step(model, edits, rescaled, projections, step)
                elif edited:
                    _edit_step(model, edits, rescaled, projections, 0)
            with tracer.invoke():
                out = nnsight.save(tracer.result)
    return out[:, batch.ids.shape[1] :].tolist()


def _read_prompts(
    model,
    prompts,
    edits,
    rows,
    opening: int,
    clean: dict,
    new: float,
    wanted: Wanted | None = None,
    begun: Held | None = None,
):
    """Batch by batch the prompts of `rows`, which `new` tokens follow: yields the rows' places, their first
    new token [row], the cache, its mask and what is `wanted` of them: {site: [row, layer, position,
    d_model]}, and the projections [k, token] of each row.
    """
    skip, stems = _begins(prompts, rows, opening, wanted, begun)
    for places in _plan(
        model, [len(prompts[i].ids) - n for i, n in zip(rows, skip, strict=True)], max(skip), new
    ):
        members = [rows[k] for k in places]
        if begun:
            cache, before = begun.rows([stems[k] for k in places])
            batch, ops = _rest(model, [prompts[rows[k]].ids[skip[k] :] for k in places], before, members), ()
        else:
            batch = _batch(model, prompts, members, opening)
            ops = compile_edits(
                model, [prompts[i] for i in members], [edits[i] for i in members], batch.ids.shape[1], opening
            )
            cache = (
                _opening_cache(model, prompts, members, edits, opening, clean, among=rows) or DynamicCache()
            )
        read, lines = None, []
        if wanted:
            columns = torch.tensor(
                [
                    [at - skip[k] + pad for at in wanted.where[rows[k]]]
                    for k, pad in zip(places, batch.pad, strict=True)
                ]
            )
            read = (
                {site: (range(model.n_layers + (site == "resid")), columns) for site in wanted.sites}
                if columns.numel()
                else None
            )
        found, logits = _forward(
            model,
            batch,
            ops,
            read,
            cache=cache,
            logits=True,
            along=wanted.along.by_layer if wanted and wanted.along else None,
        )
        if "along" in found:
            values, since = wanted.along.in_order(found.pop("along").cpu()), wanted.along.since
            lines = [
                values[r, pad + since[rows[k]] - skip[k] :].T
                for r, (k, pad) in enumerate(zip(places, batch.pad, strict=True))
            ]
        give_back()  # each batch has a shape of its own, and what one has freed does not fit the next
        yield places, _likeliest(model, logits), cache, batch.mask, found, lines


def _begins(
    prompts, rows, opening: int, wanted: Wanted | None, begun: Held | None
) -> tuple[list[int], list[int | None]]:
    """For each of `rows` how many of its tokens are read already, and which stem of `begun` they are; at
    least one token and those `wanted` are not.
    """
    if not begun:
        return [opening] * len(rows), []
    stems = [
        begun.longest(prompts[i].ids, min([len(prompts[i].ids) - 1, *(wanted.first(i) if wanted else [])]))
        for i in rows
    ]
    return [begun.length(k) for k in stems], stems


def hold(model, stems: Sequence[Sequence[int]], begun: Held | None = None) -> Held | None:
    """Keep keys and values of the tokens with which prompts begin, for `generate` and `generate_and_read`
    without edits: what several prompts begin with is read once. They go on from `begun` where that is given.
    None for a remote run, which keeps nothing here, and where all stems are empty.

    What is held lies in memory, for each token as much as in decoding, until the caller lets it go.
    """
    stems = [stem for stem in stems if stem]
    if model.remote or not stems:
        return None
    return Held(
        stems, lambda ids: _read_stems(model, [Prompt("", "", "", "", s, len(s), len(s)) for s in ids], begun)
    )


def _read_stems(model, stems, begun):
    rows = list(range(len(stems)))
    _check_lengths(model, stems)
    read = _read_prompts(
        model, stems, [[]] * len(stems), rows, opening_length(stems), {}, math.inf, begun=begun
    )  # what follows isn't known
    return merged([(places, cache, mask) for places, _, cache, mask, *_ in read], len(stems), 0)


def _likeliest(model, logits: torch.Tensor) -> torch.Tensor:
    """The token of the largest logit, the first of equals: as argmax, which takes four times as long in
    bfloat16 on a CPU. Raises UserError where that logit is not finite.
    """
    most = logits.max(-1)  # a nan is the largest
    if not torch.isfinite(most.values).all():
        _not_finite(model, "the logits after a prompt or an answer")
    return most.indices


LEAVE = 0.125  # share of rows that are done at which they leave the batch


def _decode(model, out: list[list[int]], cache, mask, ops, n: int, until: str | None):
    """Greedy decoding of rows whose prompts are in `cache`: add to the one new token that each row of `out`
    has, up to `n`; yields after each step.

    Rows that are done leave, for each costs the reading of its keys and values; not one by one, since that
    copies the cache. Under `ops` they stay.
    """
    live, last = list(range(len(out))), len((until or "").encode()) + 1  # no token is shorter than a byte
    stops = {
        *_stop_tokens(model),
        model.tokenizer.get_added_vocab().get(until),
    }  # what is awaited is said in one token, or spelled out
    for _ in range(1, n):
        done = [
            out[i][-1] in stops or bool(until and until in model.tokenizer.decode(out[i][-last:]))
            for i in live
        ]
        if all(done):
            break
        if any(done) and sum(done) >= LEAVE * len(live) and not ops:
            stay = torch.tensor([k for k in range(len(live)) if not done[k]], device=mask.device)
            cache.batch_select_indices(stay)
            mask, live, done = (
                mask[stay],
                [i for i, d in zip(live, done, strict=True) if not d],
                [False] * len(stay),
            )
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        ids = torch.tensor([[out[i][-1]] for i in live], device=mask.device)
        _, logits = _forward(
            model, Batch(live, ids, mask, mask.sum(1, keepdim=True) - 1, []), ops, cache=cache, logits=True
        )
        for i, token, d in zip(live, _likeliest(model, logits).tolist(), done, strict=True):
            if not d:
                out[i].append(token)
        yield


def _stop_tokens(model) -> list[int]:
    """The tokens that end an answer: those of the tokenizer and of the generation's settings, the one with
    which the chat template closes a turn, and those that end a document, after which a model writes another.
    """
    ends, added = model.module.generation_config.eos_token_id, model.tokenizer.get_added_vocab()
    documents = {token for text, token in added.items() if DOCUMENT_END.fullmatch(text)}
    return sorted(
        {
            model.tokenizer.eos_token_id,
            turn_end(model.tokenizer),
            *(ends if isinstance(ends, list) else [ends]),
            *documents,
        }
        - {None}
    )


def _texts(model, said: Sequence[Sequence[int]]) -> list[str]:
    """New tokens as texts up to their end, with `CONTROL` in place of each control token; the tags around
    thinking are shown.
    """
    stops, shown = set(_stop_tokens(model)), tags(model)
    controls = {
        token
        for token, added in model.tokenizer.added_tokens_decoder.items()
        if added.special and added.content not in shown
    }
    texts = []
    for row in said:
        until_end = itertools.takewhile(lambda token: token not in stops, row)
        runs = [
            (hidden, list(tokens)) for hidden, tokens in itertools.groupby(until_end, controls.__contains__)
        ]
        texts.append(
            "".join(
                CONTROL * len(tokens) if hidden else model.tokenizer.decode(tokens) for hidden, tokens in runs
            )
        )
    return texts


def _share_opening(model, prompts, arms=()) -> int:
    """Tokens of the common opening whose keys and values are computed once; 0 where everything runs remotely.

    Only edits of whole prompts may touch it; it ends before the first position that an edit lists itself.
    """
    if model.remote:
        return 0
    listed = {e.span for arm in arms for e in arm if isinstance(e.span, tuple)}
    return min(
        [
            opening_length(prompts),
            *(position for span in listed for p in prompts for position in p.span(span)),
        ]
    )


def _opening_cache(
    model, prompts, rows, arms, opening: int, clean: dict, first: int = 0, among: Sequence[int] | None = None
):
    """Keys and values of the shared opening for each row, [one row per distinct arm that edits it] repeated
    to the batch's rows.

    `clean` keeps the unedited opening between batches, and those under the arms of all rows `among` which
    batches are, where they are no more than a batch. With `first` > 0 the arms' openings start at that layer.
    """
    if not opening:
        return None
    ids = torch.tensor([prompts[0].ids[:opening]])
    if "cache" not in clean:
        clean["cache"], clean["states"] = DynamicCache(), {}
        read = {"resid": (range(model.n_layers + 1), torch.arange(opening)[None])}
        states, _ = _forward(
            model, _opening_batch(model, ids, 1), read=read, cache=clean["cache"], check=False
        )  # most of it is read by nobody
        clean["states"] = states["resid"][0]
    keys = {
        r: tuple(id(e) for e in arms[r] if e.span in ("prompt", "every_token"))
        for r in (*(among or ()), *rows)
    }
    distinct = list(dict.fromkeys(keys.values()))
    if len(distinct) * opening > model.batch_tokens:
        distinct = list(dict.fromkeys(keys[r] for r in rows))
    if distinct == [()]:
        return picked(clean["cache"], torch.zeros(len(rows), dtype=torch.long, device=model.device))
    if clean.get("arms") != (first, distinct):
        edits = []
        for k in distinct:
            arm = next((arms[r] for r, key in keys.items() if key == k), [])
            edits.append([e for e in arm if e.span in ("prompt", "every_token")])
        stand_in = [prompts[0].__class__("", "", "", "", tuple(prompts[0].ids[:opening]), 0, opening)] * len(
            distinct
        )
        cache = DynamicCache()
        start = (first, clean["states"][first].expand(len(distinct), -1, -1)) if first else None
        _forward(
            model,
            _opening_batch(model, ids, len(distinct)),
            compile_edits(model, stand_in, edits, opening),
            cache=cache,
            start=start,
        )
        for layer in range(first):  # skipped: their keys and values are never read, but their length is
            k, v = clean["cache"].layers[layer].keys, clean["cache"].layers[layer].values
            cache.update(k.expand(len(distinct), *k.shape[1:]), v.expand(len(distinct), *v.shape[1:]), layer)
        clean["arms"], clean["edited"] = (first, distinct), cache
    return picked(clean["edited"], torch.tensor([distinct.index(keys[r]) for r in rows], device=model.device))


def _opening_batch(model, ids, rows: int) -> Batch:
    ids = ids.expand(rows, -1).to(model.device)
    return Batch(
        list(range(rows)),
        ids,
        torch.ones_like(ids),
        torch.arange(ids.shape[1], device=model.device).expand(rows, -1),
        [0] * rows,
    )


def collect(
    model,
    prompts: Sequence[Prompt],
    at: Sequence[str | int] | Sequence[Sequence[int]] = ("t_inst", "t_post"),
    sites: Sequence[str] = ("resid",),
    layers: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    *,
    side: str = "left",
) -> dict[str, torch.Tensor]:
    """Activations at the positions `at` of each prompt: {site: [prompt, layer, position, d_model]}, float32,
    on the CPU.

    `at` holds names or offsets, or for each prompt a list of offsets, all of one length. Sites: ``resid``
    (``h[l]``, n_layers + 1 of them), ``attn`` and ``mlp`` (what they write), ``heads`` (the output
    projection's input, [… n_heads * d_head], by query head). `layers` None means all; `edits` act on every
    prompt, before what they change is read. Results are cached on disk; memory grows with what is returned,
    not with the number of tokens. `side` is the padding side, which changes nothing beyond dtype noise.
    """
    which = {
        site: list(range(model.n_layers + (site == "resid"))) if layers is None else list(layers)
        for site in sites
    }
    name = cache.key(model, _collect, prompts=prompts, at=at, which=which, side=side, edits=edits)
    return cache.remember_tensors(name, lambda: _collect(model, prompts, at, which, side, edits))


def _each(prompts, at) -> list[list[int]]:
    """The positions `at` of each prompt, counted from its first token."""
    at = at if at and isinstance(at[0], Sequence) and not isinstance(at[0], str) else [at] * len(prompts)
    return [[p.position(w) for w in where] for p, where in zip(prompts, at, strict=True)]


def _collect(model, prompts, at, which, side, edits=()):
    where, clean = _each(prompts, at), {}
    _check_lengths(model, prompts)
    opening = min([_share_opening(model, prompts, [edits]), *(k for positions in where for k in positions)])
    if edits:
        side = "left"  # edits are placed on left-padded rows
    out = {}
    for rows in track(_plan(model, _widths(prompts, opening), opening), "reading activations"):
        batch = _batch(model, prompts, rows, opening, side)
        columns = torch.tensor(
            [[k - opening + pad for k in where[i]] for i, pad in zip(rows, batch.pad, strict=True)]
        )
        arms = [list(edits)] * len(rows)
        opened = _opening_cache(model, prompts, range(len(rows)), arms, opening, clean)
        ops = (
            compile_edits(model, [prompts[i] for i in rows], arms, batch.ids.shape[1], opening)
            if edits
            else ()
        )
        read, _ = _forward(
            model, batch, ops, read={site: (ls, columns) for site, ls in which.items()}, cache=opened
        )
        for site, values in read.items():
            if site not in out:
                out[site] = torch.empty(len(prompts), *values.shape[1:])
            out[site][rows] = values.float().cpu()
    return out


def project(
    model,
    prompts: Sequence[Prompt],
    directions: torch.Tensor,
    layers: Sequence[int],
    *,
    label: str = "reading every token",
):
    """``h[layers[k]] · directions[k]`` at every token of each prompt: prompt → [k, token], float32;
    directions [k, d_model].

    States are projected batch by batch, so memory does not grow with the number of prompts. Cached on disk.
    """
    along = Along(directions, layers, [0] * len(prompts))
    found = cache.remember_tensors(
        cache.key(model, _project_all, prompts=prompts, along=along),
        lambda: _project_all(model, prompts, along, label),
    )
    return [found[str(i)] for i in range(len(prompts))]


def _project_all(model, prompts, along: Along, label):
    _check_lengths(model, prompts)
    out, clean, opening = {}, {}, _share_opening(model, prompts)
    for rows in track(_plan(model, _widths(prompts, opening), opening), label):
        batch = _batch(model, prompts, rows, opening)
        opened = _opening_cache(model, prompts, range(len(rows)), [()] * len(rows), opening, clean)
        values = _forward(model, batch, cache=opened, along=along.by_layer)[0]["along"].cpu()
        shared = (
            torch.cat(
                [clean["states"][layer].float() @ w.to(model.device) for layer, w in along.by_layer.items()],
                -1,
            ).cpu()
            if opening
            else values[0, :0]
        )
        if not torch.isfinite(shared).all():
            _not_finite(model, "a projection of the residual stream")
        for r, i in enumerate(rows):
            out[str(i)] = along.in_order(torch.cat([shared, values[r, batch.pad[r] :]])).T
    return out


def score(
    model,
    prompts: Sequence[Prompt],
    readout: Callable,
    arms: Sequence[Sequence[Edit]] = ((),),
    *,
    label: str = "scoring",
) -> torch.Tensor:
    """`readout` of the logits at the last prompt token, for every arm and prompt: [arm, prompt, …], float32.

    `readout` maps logits [row, vocabulary] to [row, …]; its attribute ``key`` names it, and then the result
    is cached on disk. Every arm is a list of edits; all arms × prompts run as rows of shared batches, and a
    row whose first edit is at layer l starts at l from the stored clean states.
    """
    if not hasattr(readout, "key"):
        return _score(model, prompts, readout, arms, label)
    name = cache.key(model, _score, prompts=prompts, readout=readout, arms=arms)
    return cache.remember_tensors(name, lambda: {"score": _score(model, prompts, readout, arms, label)})[
        "score"
    ]


def _score(model, prompts, readout, arms, label):
    rows = [(i, arm) for arm in arms for i in range(len(prompts))]
    return score_rows(model, prompts, readout, rows, label=label).unflatten(0, (len(arms), len(prompts)))


def score_rows(
    model,
    prompts: Sequence[Prompt],
    readout: Callable,
    rows: Sequence[tuple[int, Sequence[Edit]]],
    *,
    of: str = "logits",
    label: str = "scoring",
) -> torch.Tensor:
    """As `score`, each row with edits of its own: rows of (index into `prompts`, edits) → [row, …]. Not
    cached.

    With `of` ``state`` the readout gets the last block's output at the last token, [row, d_model], before the
    final norm.
    """
    _check_lengths(model, prompts)
    flat = [prompts[i] for i, _ in rows]
    edits = [list(arm) for _, arm in rows]
    opening = _share_opening(model, prompts, edits)
    firsts = [0 if model.remote else _first_layer(model, arm) for arm in edits]
    firsts = [
        first if arm else max(firsts) for first, arm in zip(firsts, edits, strict=True)
    ]  # what is not edited starts where it is stored for others
    groups: dict[int, list[int]] = {}
    for i, first in enumerate(firsts):
        groups.setdefault(first, []).append(i)
    clean: dict = {}
    stored = _clean_states(model, prompts, sorted(set(firsts) - {0}), opening, clean)
    plan = [
        (first, [members[j] for j in rows])
        for first, members in sorted(groups.items())
        for rows in _plan(model, _widths([flat[i] for i in members], opening), opening)
    ]
    out = None
    for first, members in track(plan, label):
        batch = _batch(model, flat, members, opening)
        width = batch.ids.shape[1]
        ops = compile_edits(model, [flat[i] for i in members], [edits[i] for i in members], width, opening)
        opened = _opening_cache(model, flat, members, edits, opening, clean, first, groups[first])
        start = None
        if first:
            states = torch.zeros(len(members), width, model.d_model, dtype=model.dtype, device=model.device)
            for r, i in enumerate(members):
                states[r, batch.pad[r] :] = stored[first][rows[i][0]]
            start = (first, states)
        if of == "logits":
            _, read = _forward(model, batch, ops, cache=opened, logits=True, start=start)
            if not torch.isfinite(read).all():
                _not_finite(model, "the logits after a prompt")
        else:
            last = torch.full((len(members), 1), width - 1)
            read = _forward(
                model, batch, ops, read={"resid": ([model.n_layers], last)}, cache=opened, start=start
            )[0]["resid"][:, 0, 0]
        values = readout(read.float()).cpu()
        if out is None:
            out = torch.empty(len(flat), *values.shape[1:])
        out[members] = values.float()
    return out


def _first_layer(model, arm) -> int:
    """The lowest layer that an arm's edits change; n_layers − 1 at most, so that one block always runs."""
    lows = [
        0
        if isinstance(e, Ablate) and e.layers is None
        else min(e.layers)
        if isinstance(e, Ablate)
        else e.layer
        for e in arm
    ]
    return min([*lows, model.n_layers - 1]) if lows else 0


def _clean_states(model, prompts, layers, opening, clean) -> dict[int, list[torch.Tensor]]:
    """h[layer] of every prompt after the opening, unedited: {layer: [prompt → [token, d_model]]}."""
    out = {layer: [None] * len(prompts) for layer in layers}
    if not layers:
        return out
    for rows in _plan(model, _widths(prompts, opening), opening):
        batch = _batch(model, prompts, rows, opening)
        columns = torch.arange(batch.ids.shape[1]).expand(len(rows), -1)
        opened = _opening_cache(model, prompts, range(len(rows)), [()] * len(rows), opening, clean)
        read, _ = _forward(model, batch, read={"resid": (layers, columns)}, cache=opened)
        for r, i in enumerate(rows):
            for k, layer in enumerate(layers):
                out[layer][i] = read["resid"][r, k, batch.pad[r] :]
    return out


def generate(
    model,
    prompts: Sequence[Prompt],
    arms: Sequence[Sequence[Edit]] = ((),),
    max_new_tokens: int = 12,
    *,
    until: str | None = None,
    begun: Held | None = None,
    label: str = "generating",
) -> list[list[str]]:
    """Greedy answers, cut at `max_new_tokens`: one list of texts per arm. Cached on disk. With `until` a row
    is done once it has said that (a remote run goes on). `begun` holds what prompts begin with (`hold`),
    which saves time and changes nothing; it can't be used under edits.

    Edits with span ``every_token`` also act on each generated token; all others on the prompt only. An answer
    ends at any token that ends a turn or a document; each control token before that is `CONTROL` in the text.
    Raises UserError where a prompt and its answer are too long for the model.
    """
    name = cache.key(
        model, _generate_all, prompts=prompts, arms=arms, max_new_tokens=max_new_tokens, until=until
    )
    return cache.remember_json(
        name, lambda: _generate_all(model, prompts, arms, max_new_tokens, label, until, begun=begun)[0]
    )


def generate_and_read(
    model,
    prompts: Sequence[Prompt],
    at: Sequence = (-1,),
    max_new_tokens: int = 12,
    *,
    sites: Sequence[str] = ("resid",),
    along: Along | None = None,
    begun: Held | None = None,
    label: str = "generating",
):
    """Greedy answers [prompt], and what is read in the same pass: the states of `sites` at the positions `at`
    as `collect` gives them, {site: [prompt, layer, position, d_model]}, and projections `along` directions,
    prompt → [k, token], none by default. `begun` as in `generate`. Cached on disk.
    """
    name = cache.key(
        model, _generate_all, prompts=prompts, at=at, sites=sites, along=along, max_new_tokens=max_new_tokens
    )
    made: list = []

    def compute():
        if not made:
            made.extend(
                _generate_all(
                    model,
                    prompts,
                    ((),),
                    max_new_tokens,
                    label,
                    wanted=Wanted(_each(prompts, at), sites, along),
                    begun=begun,
                )
            )
        return made

    found = cache.remember_tensors(
        name, lambda: compute()[1] | {str(i): line for i, line in enumerate(compute()[2])}
    )
    lines = [found.pop(str(i)) for i in range(len(prompts))] if along else []
    return cache.remember_json(name, lambda: compute()[0])[0], found, lines


KEPT = {
    "cpu": 640 << 20,
    "mps": 1 << 30,
    "cuda": 4 << 30,
}  # bytes of keys and values of the rows that are decoded together, on a CPU if in bfloat16


def together(model, prompts, new: int) -> list[list[int]]:
    """Rows by group that is decoded together, longest first: a step reads the weights once, for few rows as
    for many.

    What is left for the last group joins the one before it where it is less than an eighth of that.
    """
    config = model.module.config.get_text_config(decoder=True)
    size = (
        2 if model.device.type == "cpu" else model.dtype.itemsize
    )  # as many rows in float32 as in bfloat16: fewer, and each step waits for the weights
    per_token = (
        2
        * model.n_layers
        * (getattr(config, "num_key_value_heads", None) or model.n_heads)
        * model.d_head
        * size
    )
    kept, weights = KEPT[model.device.type], model.module.num_parameters() * size
    if model.device.type == "cpu":
        kept = max(
            kept // 4, kept - weights // 5
        )  # so that a large model and what it keeps fit a small machine
    tokens, groups = max(model.batch_tokens, kept // per_token), []
    for i in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i)):
        if groups and (len(groups[-1]) + 1) * (len(prompts[groups[-1][0]].ids) + new) <= tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    if len(groups) > 1 and 8 * len(groups[-1]) < len(groups[-2]):
        groups[-2:] = [groups[-2] + groups[-1]]
    return groups


def _generate_all(
    model, prompts, arms, max_new_tokens, label, until=None, wanted: Wanted | None = None, begun=None
):
    """Texts by arm, and what is `wanted` of prompts without edits: {site: [prompt, layer, position, d_model]}
    and projections, prompt → [k, token].
    """
    if begun and any(map(list, arms)):
        raise ValueError("edits act on what prompts begin with: nothing of it can be held")
    _check_lengths(model, prompts, max_new_tokens)
    flat = [p for _ in arms for p in prompts]
    edits = [list(arm) for arm in arms for _ in prompts]
    said, states, lines = [[] for _ in flat], {}, [None] * len(flat) if wanted and wanted.along else []
    if model.remote:
        for rows in track(_plan(model, _widths(flat, -max_new_tokens)), label):
            batch = _batch(model, flat, rows, 0)
            ops = compile_edits(model, [flat[i] for i in rows], [edits[i] for i in rows], batch.ids.shape[1])
            for i, row in zip(rows, _generate(model, batch, ops, max_new_tokens), strict=True):
                said[i] = row
        if wanted:
            at = [[k - len(p.ids) for k in where] for p, where in zip(flat, wanted.where, strict=True)]
            states = _collect(
                model,
                flat,
                at,
                {site: range(model.n_layers + (site == "resid")) for site in wanted.sites},
                "left",
            )
        if lines:
            whole = _project_all(model, flat, wanted.along, label)
            lines = [whole[str(i)][:, first:] for i, first in enumerate(wanted.along.since)]
    else:
        opening = min(
            [
                _share_opening(model, prompts, arms),
                *(k for i in range(len(flat)) for k in (wanted.first(i) if wanted else [])),
            ]
        )
        groups = together(model, flat, max_new_tokens)
        skips = [_begins(flat, rows, opening, wanted, begun)[0] for rows in groups]
        widths = [
            [len(flat[i].ids) - n for i, n in zip(rows, skip, strict=True)]
            for rows, skip in zip(groups, skips, strict=True)
        ]
        steps = sum(
            len(_plan(model, of, max(skip), max_new_tokens)) + max_new_tokens - 1
            for of, skip in zip(widths, skips, strict=True)
        )
        for _ in track(
            _generate_groups(
                model, flat, edits, groups, opening, wanted, max_new_tokens, until, said, states, lines, begun
            ),
            label,
            steps,
        ):
            pass
    texts = _texts(model, said)
    return [texts[a * len(prompts) : (a + 1) * len(prompts)] for a in range(len(arms))], states, lines


def _generate_groups(model, flat, edits, groups, opening, wanted, n, until, said, states, lines, begun):
    """Fill `said` with the new tokens, `states` and `lines` with what is read on the way; yields after every
    step of the work.
    """
    clean: dict = {}
    for rows in groups:
        parts, first, width = (
            [],
            torch.empty(len(rows), dtype=torch.long, device=model.device),
            max(len(flat[i].ids) for i in rows),
        )
        for places, tokens, cache_, mask, found, projected in _read_prompts(
            model, flat, edits, rows, opening, clean, n, wanted, begun
        ):
            first[places] = tokens
            parts.append((places, cache_, mask))
            for site, values in found.items():
                if site not in states:
                    states[site] = torch.empty(len(flat), *values.shape[1:])
                states[site][[rows[k] for k in places]] = values.float().cpu()
            for k, line in zip(places, projected, strict=False):  # none where none are wanted
                lines[rows[k]] = line
            yield
        later = [[e for e in edits[i] if e.span == "every_token"] for i in rows]
        ops = (
            compile_edits(model, [flat[i] for i in rows], later, 0, width + 1) if any(later) else ()
        )  # no token of the prompt
        ops = [replace(op, prompt=op.later) for op in ops]
        new = [[token] for token in first.tolist()]
        held = merged(parts, len(rows), n)
        give_back()
        for _ in _decode(model, new, *held, ops, n, until):
            yield
        del held
        for i, row in zip(rows, new, strict=True):
            said[i] = row


def read_text(
    model, texts: Sequence[str], edits: Sequence[Edit] = (), *, label: str = "reading text"
) -> dict[str, torch.Tensor]:
    """Per token of each text under `edits` (span ``every_token``), in nats: {"loss": mean cross-entropy
    [text], "entropy": mean entropy of the next-token distribution [text]}.
    """
    prompts = plain(model, texts)
    name = cache.key(model, _read_text, prompts=prompts, edits=edits)
    return cache.remember_tensors(name, lambda: _read_text(model, prompts, edits, label))


def _read_text(model, prompts, edits, label):
    _check_lengths(model, prompts)
    small = replace(
        model, batch_tokens=min(model.batch_tokens, 256 if model.device.type == "cpu" else 2048)
    )  # every token's logits are held
    out = {"loss": torch.empty(len(prompts)), "entropy": torch.empty(len(prompts))}
    for rows in track(_plan(small, _widths(prompts)), label):
        batch = _batch(model, prompts, rows, 0)
        ops = compile_edits(model, [prompts[i] for i in rows], [list(edits)] * len(rows), batch.ids.shape[1])
        _, logits = _forward(model, batch, ops, logits=True, keep=0)
        for r, i in enumerate(rows):
            start = batch.pad[r]
            if not torch.isfinite(logits[r, start:]).all():
                _not_finite(model, "the logits of a text")
            log_p = logits[r, start:-1].float().log_softmax(-1)
            out["loss"][i] = -log_p.gather(-1, batch.ids[r, start + 1 :, None]).mean().cpu()
            out["entropy"][i] = -(log_p.exp() * log_p).sum(-1).mean().cpu()
    return out
