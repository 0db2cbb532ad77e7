"""Activations, projections, scores and losses of prompts, under edits or without: results of single passes.

What keeps it near the floor of needed forward passes: batches filled by token count and sorted by length; the
template's common opening computed once per distinct set of edits, its keys and values kept; sweeps as rows of
one batch; a pass that starts at the edited layer from stored states; no vocabulary head where no logits are
read, else the last position only; and no layer above the last one that is read. A remote run takes the plain
path: whole prompts, every layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from refusal.base.errors import UserError
from refusal.base.progress import track
from refusal.trace import cache, opening
from refusal.trace.batches import check_lengths, plan
from refusal.trace.edits import Ablate, Edit, Row, Steer, compile_edits, rows_of
from refusal.trace.opening import Opening, rest
from refusal.trace.passes import forward, not_finite
from refusal.trace.prompts import Prompt, plain

if TYPE_CHECKING:
    from refusal.model.loading import Model


@dataclass
class Projections:
    """Directions [k, d_model], each with the layer whose states are projected on it, and the first token of
    each prompt from which on they are.
    """

    directions: torch.Tensor
    layers: Sequence[int]
    since: Sequence[int]

    @property
    def by_layer(self) -> dict[int, torch.Tensor]:
        """{layer: [d_model, k]}, as `forward` takes them."""
        at = torch.as_tensor(self.layers)
        return {layer: self.directions[at == layer].float().T for layer in at.unique().tolist()}

    def in_order(self, values: torch.Tensor) -> torch.Tensor:
        """Projections [..., k] as `forward` gives them, in the order of the directions."""
        return values[..., torch.as_tensor(self.layers).argsort(stable=True).argsort()]


def widths(rows: Sequence[Row], shared: int = 0) -> list[int]:
    """The tokens that each row has after those that all share."""
    return [len(r.prompt.ids) - shared for r in rows]


def positions(prompts: Sequence[Prompt], at: Sequence) -> list[list[int]]:
    """The positions `at` of each prompt, counted from its first token."""
    each = at if at and isinstance(at[0], Sequence) and not isinstance(at[0], str) else [at] * len(prompts)
    return [[p.position(w) for w in where] for p, where in zip(prompts, each, strict=True)]


def _some(prompts: Sequence) -> None:
    if not len(prompts):
        raise UserError("there are no prompts to read", "give at least one")


def collect(
    model: "Model",
    prompts: Sequence[Prompt | Row],
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
    prompt (rows bring their own), before what they change is read. Results are cached on disk; memory grows
    with what is returned, not with the number of tokens. `side` is the padding side, which changes nothing
    beyond dtype noise.

    Raises UserError for no prompts.
    """
    _some(prompts)
    rows = rows_of(prompts, [edits])
    which = {
        s: list(range(model.n_layers + (s == "resid"))) if layers is None else list(layers) for s in sites
    }
    name = cache.key(model, collect_rows, rows=rows, at=at, which=which, side=side)
    return cache.remember_tensors(name, lambda: collect_rows(model, rows, at, which, side))


def collect_rows(
    model: "Model", rows: Sequence[Prompt | Row], at, which: Mapping[str, Sequence[int]], side: str = "left"
):
    """As `collect`, of rows, and not cached; `which` says which layers of each site."""
    rows = rows_of(rows)
    where = positions([r.prompt for r in rows], at)
    check_lengths(model, [r.prompt for r in rows])
    shared = Opening(
        model, rows, min([opening.shared_length(model, rows), *(k for some in where for k in some)])
    )
    if any(r.edits for r in rows):
        side = "left"  # edits are placed on left-padded rows
    out: dict[str, torch.Tensor] = {}
    for members in track(plan(model, widths(rows, shared.n), shared.n), "reading activations"):
        batch = rest(model, rows, members, shared.n, side)
        pads = zip(members, batch.pad, strict=True)
        columns = torch.tensor([[k - shared.n + pad for k in where[i]] for i, pad in pads])
        ops = compile_edits(model, [rows[i] for i in members], batch.ids.shape[1], shared.n)
        taken = {site: (ls, columns) for site, ls in which.items()}
        read, _ = forward(model, batch, ops, read=taken, cache=shared.cache(members))
        for site, values in read.items():
            if site not in out:
                out[site] = torch.empty(len(rows), *values.shape[1:])
            out[site][members] = values.float().cpu()
    for site, ls in which.items():  # a pass reads layers from below, each once
        if site in out and list(ls) != (read_ls := sorted(set(ls))):
            out[site] = out[site][:, [read_ls.index(layer) for layer in ls]]
    return out


def project(
    model: "Model",
    prompts: Sequence[Prompt],
    directions: torch.Tensor,
    layers: Sequence[int],
    *,
    label: str = "reading every token",
) -> list[torch.Tensor]:
    """``h[layers[k]] · directions[k]`` at every token of each prompt: prompt → [k, token], float32;
    directions [k, d_model].

    States are projected batch by batch, so memory does not grow with the number of prompts. Cached on disk.
    """
    projections = Projections(directions, layers, [0] * len(prompts))
    name = cache.key(model, project_all, prompts=prompts, projections=projections)
    found = cache.remember_tensors(name, lambda: project_all(model, prompts, projections, label))
    return [found[str(i)] for i in range(len(prompts))]


def project_all(
    model: "Model", prompts: Sequence[Prompt], projections: Projections, label: str
) -> dict[str, torch.Tensor]:
    """As `project`, and not cached: {number of the prompt: [k, token]}."""
    rows = rows_of(prompts)
    check_lengths(model, prompts)
    out, shared = {}, Opening(model, rows, opening.shared_length(model, rows))
    for members in track(plan(model, widths(rows, shared.n), shared.n), label):
        batch = rest(model, rows, members, shared.n)
        values = forward(model, batch, cache=shared.cache(members), projections=projections.by_layer)[0][
            "projections"
        ].cpu()
        begins = values[0, :0]
        if shared.n:
            states = shared.clean[1]
            each = [states[layer].float() @ w.to(model.device) for layer, w in projections.by_layer.items()]
            begins = torch.cat(each, -1).cpu()
        if not torch.isfinite(begins).all():
            not_finite(model, "a projection of the residual stream")
        for r, i in enumerate(members):
            out[str(i)] = projections.in_order(torch.cat([begins, values[r, batch.pad[r] :]])).T
    return out


def score(
    model: "Model",
    prompts: Sequence[Prompt | Row],
    readout: Callable,
    arms: Sequence[Sequence[Edit]] = ((),),
    *,
    label: str = "scoring",
) -> torch.Tensor:
    """`readout` of the logits at the last token, for every arm and prompt: [arm, prompt, …], of rows [row,
    …]; float32.

    `readout` maps logits [row, vocabulary] to [row, …]; its attribute ``key`` names it, and then the result
    is cached on disk. Every arm is a list of edits; all arms × prompts run as rows of shared batches, and a
    row whose first edit is at layer l starts at l from the stored clean states.

    Raises UserError for no prompts.
    """
    _some(prompts)
    rows = rows_of(prompts, arms)
    compute = lambda: {"score": score_rows(model, rows, readout, label=label)}
    if hasattr(readout, "key"):
        name = cache.key(model, score_rows, prompts=prompts, readout=readout, arms=arms)
        values = cache.remember_tensors(name, compute)["score"]
    else:
        values = compute()["score"]
    return values if rows and rows[0] is prompts[0] else values.unflatten(0, (len(arms), len(prompts)))


def score_rows(
    model: "Model", rows: Sequence[Row], readout: Callable, *, of: str = "logits", label: str = "scoring"
) -> torch.Tensor:
    """As `score`, of rows, and not cached: [row, …].

    With `of` ``state`` the readout gets the last block's output at the last token, [row, d_model], before the
    final norm.
    """
    check_lengths(model, [r.prompt for r in rows])
    shared = Opening(model, rows, opening.shared_length(model, rows))
    firsts = [0 if model.remote else _first_layer(model, r.edits) for r in rows]
    # what is not edited starts where it is stored for others
    firsts = [first if r.edits else max(firsts) for first, r in zip(firsts, rows, strict=True)]
    groups: dict[int, list[int]] = {}
    for i, first in enumerate(firsts):
        groups.setdefault(first, []).append(i)
    stored = _clean_states(model, rows, sorted(set(firsts) - {0}), shared.n)
    todo = [
        (first, [members[j] for j in some])
        for first, members in sorted(groups.items())
        for some in plan(model, widths([rows[i] for i in members], shared.n), shared.n)
    ]
    out = None
    for first, members in track(todo, label):
        batch = rest(model, rows, members, shared.n)
        width = batch.ids.shape[1]
        ops = compile_edits(model, [rows[i] for i in members], width, shared.n)
        opened = shared.cache(members, first, groups[first])
        start = None
        if first:
            states = torch.zeros(len(members), width, model.d_model, dtype=model.dtype, device=model.device)
            for r, i in enumerate(members):
                states[r, batch.pad[r] :] = stored[first][id(rows[i].prompt)]
            start = (first, states)
        if of == "logits":
            _, read = forward(model, batch, ops, cache=opened, logits=True, start=start)
            if not torch.isfinite(read).all():
                not_finite(model, "the logits after a prompt")
        else:
            last = {"resid": ([model.n_layers], torch.full((len(members), 1), width - 1))}
            read = forward(model, batch, ops, read=last, cache=opened, start=start)[0]["resid"][:, 0, 0]
        values = readout(read.float()).cpu()
        if out is None:
            out = torch.empty(len(rows), *values.shape[1:])
        out[members] = values.float()
    assert out is not None, "there are rows"
    return out


def _first_layer(model: "Model", edits: Sequence[Edit]) -> int:
    """The lowest layer that edits change; n_layers − 1 at most, so that one block always runs."""
    top = model.n_layers - 1
    low = lambda e: 0 if e.layers is None else min(e.layers, default=top)
    first = lambda e: low(e) if isinstance(e, Ablate) else min(e.reads) if isinstance(e, Steer) else e.layer
    return min([first(e) for e in edits] + [top]) if edits else 0


def _clean_states(
    model: "Model", rows: Sequence[Row], layers: Sequence[int], n: int
) -> dict[int, dict[int, torch.Tensor]]:
    """h[layer] of every prompt after its first `n` tokens, unedited: {layer: {id of the prompt: [token,
    d_model]}}.
    """
    out: dict[int, dict[int, torch.Tensor]] = {layer: {} for layer in layers}
    if not layers:
        return out
    bare = rows_of(list({id(r.prompt): r.prompt for r in rows}.values()))
    shared = Opening(model, bare, n)
    for members in plan(model, widths(bare, n), n):
        batch = rest(model, bare, members, n)
        columns = torch.arange(batch.ids.shape[1]).expand(len(members), -1)
        read, _ = forward(model, batch, read={"resid": (layers, columns)}, cache=shared.cache(members))
        for r, i in enumerate(members):
            for k, layer in enumerate(layers):
                out[layer][id(bare[i].prompt)] = read["resid"][r, k, batch.pad[r] :]
    return out


def read_text(
    model: "Model", texts: Sequence[str], edits: Sequence[Edit] = (), *, label: str = "reading text"
) -> dict[str, torch.Tensor]:
    """Per token of each text under `edits` (span ``every_token``), in nats: {"loss": mean cross-entropy
    [text], "entropy": mean entropy of the next-token distribution [text]}.

    Raises UserError for a text of fewer than two tokens, in which nothing is predicted.
    """
    rows = rows_of(plain(model, texts), [edits])
    if short := [text for row, text in zip(rows, texts, strict=True) if len(row.prompt.ids) < 2]:
        raise UserError(f"the text {short[0]!r} has fewer than two tokens", "no token of it is predicted")
    name = cache.key(model, _read_text, rows=rows)
    return cache.remember_tensors(name, lambda: _read_text(model, rows, label))


def read_given(model: "Model", rows: Sequence[Row], *, label: str = "reading answers") -> torch.Tensor:
    """The mean cross-entropy of the tokens that are given of each row's answer, in nats [row]. Cached on
    disk. Raises UserError for a row of which none is given.
    """
    if any(not row.prompt.given for row in rows):
        raise UserError("nothing is given of an answer", "see refusal.trace.prompts.with_first_tokens")
    name = cache.key(model, _read_text, rows=rows)
    return cache.remember_tensors(name, lambda: _read_text(model, rows, label))["loss"]


def _read_text(model: "Model", rows: Sequence[Row], label: str) -> dict[str, torch.Tensor]:
    """Of every token that has one before it, or of those of an answer where some are given."""
    check_lengths(model, [r.prompt for r in rows])
    # logits are held of all tokens that are read: of each row the last ones
    kept = [1 + r.prompt.given if r.prompt.given else len(r.prompt.ids) for r in rows]
    most = min(model.batch_tokens, 256 if model.device.type == "cpu" else 2048)
    out = {"loss": torch.empty(len(rows)), "entropy": torch.empty(len(rows))}
    for members in track(plan(replace(model, batch_tokens=most), kept), label):
        batch = rest(model, rows, members, 0)
        ops = compile_edits(model, [rows[i] for i in members], batch.ids.shape[1])
        _, logits = forward(model, batch, ops, logits=True, keep=max(kept[i] for i in members))
        for r, i in enumerate(members):
            read = logits[r, -kept[i] :]
            if not torch.isfinite(read).all():
                not_finite(model, "the logits of a text")
            log_p = read[:-1].float().log_softmax(-1)
            said = batch.ids[r, 1 - kept[i] :, None]
            out["loss"][i] = -log_p.gather(-1, said).mean().cpu()
            out["entropy"][i] = -(log_p.exp() * log_p).sum(-1).mean().cpu()
    return out
