"""Answers: greedy or sampled, under edits or without, with what is read of the prompts in the same pass.

Rows are decoded together, for a step reads the weights once for few rows as for many; keys and values of what
they begin with are computed once. A row's answer does not depend on the others: what a sampled token depends
on beside the logits is a number that follows from seed, prompt, sample and step.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DynamicCache

from refusal.base.errors import ParameterError
from refusal.base.machine import give_back
from refusal.base.progress import track
from refusal.trace import cache, opening
from refusal.trace.batches import Batch, batch, check_lengths, micro_batches, plan
from refusal.trace.edits import LATER, Edit, Row, compile_edits, rows_of
from refusal.trace.opening import Opening, rest
from refusal.trace.passes import chosen, forward, generate_remote, not_finite
from refusal.trace.prefix import Prefix, merged, picked
from refusal.trace.prompts import Prompt, tags, turn_end
from refusal.trace.reads import Projections, collect_rows, positions, project_all, widths

if TYPE_CHECKING:
    from refusal.model.loading import Model

CONTROL = "\ufffc"  # stands in a text for a control token that was said before the end
DOCUMENT_END = re.compile(
    r"</s>|\W*(?:seed:)?(?:end\W*_?of_?\W*(?:text|sentence|document)|eos(?:_token)?|eod)\W*", re.IGNORECASE
)
LEAVE_SHARE = 0.125  # share of rows that are done at which they leave the batch


@dataclass(frozen=True)
class Decoding:
    """How answers are made. At temperature 0 greedily; above it sampled, `samples` of them for each row, from
    the tokens that hold the share `top_p` of the probability.

    With `until` a row is done once it has said that (a remote run goes on). With `keep_special` control
    tokens stand in the text as they are written, else `CONTROL` stands for each. Raises ParameterError for
    values that make no answers.
    """

    max_new_tokens: int = 12
    until: str | None = None
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    keep_special: bool = False

    def __post_init__(self):
        bounds = {"max_new_tokens": (1, math.inf), "samples": (1, math.inf), "temperature": (0, math.inf)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ParameterError(
                    f"{name}={getattr(self, name)} makes no answers", f"at least {low} is needed"
                )
        if not 0 < self.top_p <= 1:
            raise ParameterError(f"top_p={self.top_p} is no share of the probability", "above 0, at most 1")
        if self.samples > 1 and not self.temperature:
            raise ParameterError(f"{self.samples} greedy answers are one", "set a temperature above 0")

    def draws(self, prompt: Prompt, sample: int) -> torch.Tensor:
        """The numbers from 0 to 1 that choose the tokens of one sample, [step], float64."""
        mark = hashlib.sha256(repr((self.seed, prompt.ids, sample)).encode()).digest()
        return torch.from_numpy(np.random.default_rng(list(mark)).random(self.max_new_tokens))


@dataclass
class Reading:
    """What a pass over prompts reads on its way: the states of `sites` at each prompt's positions `where`,
    and projections along directions.
    """

    where: Sequence[Sequence[int]]
    sites: Sequence[str] = ("resid",)
    projections: Projections | None = None

    def first(self, i: int) -> list[int]:
        """Positions of prompt `i` before which nothing is read."""
        return [*self.where[i], *([self.projections.since[i]] if self.projections else [])]


def generate(
    model: "Model",
    prompts: Sequence[Prompt | Row],
    arms: Sequence[Sequence[Edit]] = ((),),
    decoding: Decoding | int = 12,
    *,
    prefix: Prefix | None = None,
    label: str = "generating",
) -> list:
    """Answers as texts: [arm][prompt], of rows [row]; where several samples are asked for, a list of them in
    place of each text. Cached on disk. A number in place of a `Decoding` is that of new tokens, greedy.

    `prefix` holds what prompts begin with (`read_prefix`), which saves time and changes nothing where `model`
    has read it; it can't be used under edits. Edits with the spans ``every_token`` and ``last`` also act on
    each generated token; all others on the prompt only. An answer begins with the tokens that are given
    (`refusal.trace.prompts.with_first_tokens`) and ends at any token that ends a turn or a document. Raises
    UserError where a prompt and its answer are too long for the model.
    """
    decoding = decoding if isinstance(decoding, Decoding) else Decoding(decoding)
    rows = rows_of(prompts, arms)
    _bare(rows, prefix)
    of = _foreign(model, prefix)
    name = cache.key(model, generate_rows, prompts=prompts, arms=arms, decoding=decoding, **of)
    compute = lambda: generate_rows(model, rows, decoding, label, prefix=prefix)[0]
    texts = cache.remember_json(name, compute)
    if decoding.samples == 1:
        texts = [said[0] for said in texts]
    n = len(prompts)
    return texts if rows and rows[0] is prompts[0] else [texts[a * n : (a + 1) * n] for a in range(len(arms))]


def generate_and_read(
    model: "Model",
    prompts: Sequence[Prompt],
    at: Sequence = (-1,),
    decoding: Decoding | int = 12,
    *,
    sites: Sequence[str] = ("resid",),
    projections: Projections | None = None,
    prefix: Prefix | None = None,
    label: str = "generating",
) -> tuple[list[str], dict[str, torch.Tensor], list[torch.Tensor]]:
    """One answer [prompt], and what is read in the same pass: the states of `sites` at the positions `at` as
    `refusal.trace.reads.collect` gives them, {site: [prompt, layer, position, d_model]}, and projections
    of `projections`, prompt → [k, token], none by default. `prefix` as in `generate`. Cached on disk.
    """
    decoding = decoding if isinstance(decoding, Decoding) else Decoding(decoding)
    name = cache.key(
        model,
        generate_rows,
        prompts=prompts,
        at=at,
        sites=sites,
        projections=projections,
        decoding=decoding,
        **_foreign(model, prefix),
    )
    made: list = []

    def compute():
        if not made:
            wanted = Reading(positions(prompts, at), sites, projections)
            made.extend(generate_rows(model, rows_of(prompts), decoding, label, wanted=wanted, prefix=prefix))
        return made

    tensors = lambda: compute()[1] | {str(i): line for i, line in enumerate(compute()[2])}
    found = cache.remember_tensors(name, tensors)
    lines = [found.pop(str(i)) for i in range(len(prompts))] if projections else []
    return [said[0] for said in cache.remember_json(name, lambda: compute()[0])], found, lines


def read_prefix(
    model: "Model", sequences: Sequence[Sequence[int]], prefix: Prefix | None = None
) -> Prefix | None:
    """Keys and values of the tokens with which prompts begin, for `generate` and `generate_and_read` without
    edits: what several prompts begin with is read once. They go on from `prefix` where that is given. None
    for a remote run, which keeps nothing here, and where all sequences are empty.

    What is cached lies in memory, for each token as much as in decoding, until the caller lets it go.
    """
    distinct = list(dict.fromkeys(tuple(sequence) for sequence in sequences if sequence))
    if model.remote or not distinct:
        return None
    rows = rows_of([Prompt("", "", "", "", ids, len(ids), len(ids)) for ids in distinct])

    def read():
        check_lengths(model, [r.prompt for r in rows])
        shared = Opening(model, rows, opening.shared_length(model, rows))
        which = list(range(len(rows)))
        # what follows isn't known
        parts = _read_prompts(model, rows, which, shared, math.inf, Decoding(), None, prefix=prefix)
        return merged([(places, cached, mask) for places, _, cached, mask, *_ in parts], len(rows), 0)

    return Prefix(distinct, read, of=model.revision)


def _bare(rows: Sequence[Row], prefix: Prefix | None) -> None:
    """Raises ValueError for edits under a prefix."""
    if prefix and any(r.edits for r in rows):
        raise ValueError("prefix= can't be used under edits: they act on what prompts begin with")


def _foreign(model: "Model", prefix: Prefix | None) -> dict[str, str]:
    """What results depend on beside the rest where `prefix` was read by another model."""
    return {"prefix": prefix.of} if prefix and prefix.of != model.revision else {}


def generate_rows(
    model: "Model",
    rows: Sequence[Row],
    decoding: Decoding,
    label: str = "generating",
    *,
    wanted: Reading | None = None,
    prefix: Prefix | None = None,
) -> tuple[list[list[str]], dict[str, torch.Tensor], list[torch.Tensor]]:
    """As `generate`, of rows, and not cached: texts [row][sample]; and what is `wanted` of prompts without
    edits, {site: [row, layer, position, d_model]} and projections, row → [k, token].
    """
    rows = rows_of(rows)
    _bare(rows, prefix)
    prompts, n, k = [r.prompt for r in rows], decoding.max_new_tokens, decoding.samples
    check_lengths(model, prompts, n)
    each = [r for r in rows for _ in range(k)]  # a sample is a row
    draws = [decoding.draws(r.prompt, s) for r in rows for s in range(k)] if decoding.temperature else []
    if wanted and k > 1:
        raise ValueError("what is read of a prompt is the same for all of its samples: ask for one")
    states: dict[str, torch.Tensor] = {}
    lines: list = [None] * len(rows) if wanted and wanted.projections else []
    if model.remote:
        said = _all_remote(model, each, decoding, draws, label)
        if wanted:
            at = [[w - len(p.ids) for w in where] for p, where in zip(prompts, wanted.where, strict=True)]
            which = {site: range(model.n_layers + (site == "resid")) for site in wanted.sites}
            states = collect_rows(model, rows, at, which)
        if wanted and wanted.projections:
            whole = project_all(model, prompts, wanted.projections, label)
            lines = [whole[str(i)][:, first:] for i, first in enumerate(wanted.projections.since)]
    else:
        said = [[] for _ in each]
        firsts = [w for i in range(len(rows)) for w in (wanted.first(i) if wanted else [])]
        shared = Opening(model, each, min([opening.shared_length(model, each), *firsts]))
        groups = micro_batches(model, [len(r.prompt.ids) for r in each], n)
        passes = [len(_passes(model, each, some, shared.n, n, wanted, prefix)[0]) for some in groups]
        work = _groups(model, each, groups, shared, wanted, decoding, draws, said, states, lines, prefix)
        for _ in track(work, label, sum(passes) + len(groups) * (n - 1)):
            pass
    given = [list(r.prompt.ids[len(r.prompt.ids) - r.prompt.given :]) for r in each]
    texts = _texts(model, [g + new for g, new in zip(given, said, strict=True)], decoding.keep_special)
    return [texts[i : i + k] for i in range(0, len(texts), k)], states, lines


def _all_remote(model: "Model", each, decoding: Decoding, draws, label) -> list[list[int]]:
    """The new tokens of each row, in traces that a remote run can carry."""
    said: list[list[int]] = [[] for _ in each]
    n, stops = decoding.max_new_tokens, stop_tokens(model)
    for members in track(plan(model, widths(each, -n)), label):
        whole = rest(model, each, members, 0)
        ops = compile_edits(model, [each[i] for i in members], whole.ids.shape[1])
        u = torch.stack([draws[i] for i in members]) if draws else None
        new = generate_remote(model, whole, ops, n, stops, u, decoding.temperature, decoding.top_p)
        for i, row in zip(members, new, strict=True):
            said[i] = row
    return said


def _groups(
    model: "Model", each, groups, shared, wanted, decoding, draws, said, states, lines, prefix
) -> Iterator[None]:
    """Fill `said` with the new tokens, `states` and `lines` with what is read on the way; yields after every
    step of the work.
    """
    n = decoding.max_new_tokens
    for rows in groups:
        parts, first = [], torch.empty(len(rows), dtype=torch.long, device=model.device)
        u = torch.stack([draws[i] for i in rows]) if draws else None
        read = _read_prompts(model, each, rows, shared, n, decoding, u, wanted, prefix)
        for places, tokens, cached, mask, found, projected in read:
            first[places] = tokens
            parts.append((places, cached, mask))
            for site, values in found.items():
                if site not in states:
                    states[site] = torch.empty(len(each), *values.shape[1:])
                states[site][[rows[k] for k in places]] = values.float().cpu()
            for k, line in zip(places, projected, strict=False):  # none where none are wanted
                lines[rows[k]] = line
            yield
        later = [Row(each[i].prompt, tuple(e for e in each[i].edits if e.span in LATER)) for i in rows]
        ops = []
        if any(r.edits for r in later):
            width = max(len(r.prompt.ids) for r in later)
            ops = [replace(op, prompt=op.later) for op in compile_edits(model, later, 0, width + 1)]
        new = [[token] for token in first.tolist()]
        whole = merged(parts, len(rows), n)
        give_back()
        yield from _decode(model, new, *whole, ops, decoding, u)
        del whole
        for i, row in zip(rows, new, strict=True):
            said[i] = row


def _read_prompts(
    model: "Model", each, rows, shared: Opening, new: float, decoding, u, wanted=None, prefix=None
) -> Iterator:
    """Batch by batch the prompts of `rows`, which `new` tokens follow: yields the rows' places, their first
    new token [row], the cache, its mask and what is `wanted` of them: {site: [row, layer, position,
    d_model]}, and the projections [k, token] of each row.
    """
    batches, skip, sequences = _passes(model, each, rows, shared.n, new, wanted, prefix)
    samples = _samples(each, rows, wanted)
    of = {places[0]: places for places in samples}
    for places in batches:
        members = [rows[k] for k in places]
        if prefix:
            cached, before = prefix.rows([sequences[k] for k in places])
            part = batch(model, [each[rows[k]].prompt.ids[skip[k] :] for k in places], before, members)
            ops = []
        else:
            part = rest(model, each, members, shared.n)
            ops = compile_edits(model, [each[i] for i in members], part.ids.shape[1], shared.n)
            cached = shared.cache(members, among=rows) or DynamicCache()
        read, lines, projections = None, [], None
        if wanted:
            pads = zip(places, part.pad, strict=True)
            columns = torch.tensor([[at - skip[k] + pad for at in wanted.where[rows[k]]] for k, pad in pads])
            sites = {site: (range(model.n_layers + (site == "resid")), columns) for site in wanted.sites}
            read, projections = (
                sites if columns.numel() else None,
                wanted.projections and wanted.projections.by_layer,
            )
        found, logits = forward(model, part, ops, read, cache=cached, logits=True, projections=projections)
        if wanted and "projections" in found:
            values, since = (
                wanted.projections.in_order(found.pop("projections").cpu()),
                wanted.projections.since,
            )
            pads = enumerate(zip(places, part.pad, strict=True))
            lines = [values[r, pad + since[rows[k]] - skip[k] :].T for r, (k, pad) in pads]
        give_back()  # each batch has a shape of its own, and what one has freed does not fit the next
        mask, said = part.mask, places
        if len(samples) < len(rows):  # what is read once serves all samples of a row
            said = [k for place in places for k in of[place]]
            row = [r for r, place in enumerate(places) for _ in of[place]]
            index = torch.tensor(row, device=mask.device)
            cached, mask, logits = picked(cached, index), mask[index], logits[index]
        first = _next(model, logits, decoding, None if u is None else u[said, 0])
        yield said, first, cached, mask, found, lines


def _samples(each: Sequence[Row], rows: Sequence[int], wanted) -> list[list[int]]:
    """The places in `rows` of the samples of each row; every row alone where something is `wanted` of it."""
    found: dict[int, list[int]] = {}
    for place, i in enumerate(rows):
        found.setdefault(place if wanted else id(each[i]), []).append(place)
    return list(found.values())


def _passes(
    model: "Model", each: Sequence[Row], rows: Sequence[int], shared: int, new: float, wanted, prefix
) -> tuple[list[list[int]], list[int], list[int | None]]:
    """The batches in which the prompts of `rows` are read, by their place, each row once for all of its
    samples; and how many tokens of each are read already, and as which sequence of `prefix`.
    """
    skip, sequences = _begins(each, rows, shared, wanted, prefix)
    once = [places[0] for places in _samples(each, rows, wanted)]
    tails = [len(each[rows[k]].prompt.ids) - skip[k] for k in once]
    batches = [[once[j] for j in some] for some in plan(model, tails, max(skip), new)]
    return batches, skip, sequences


def _begins(each, rows, shared: int, wanted, prefix: Prefix | None) -> tuple[list[int], list[int | None]]:
    """For each of `rows` how many of its tokens are read already, and which sequence of `prefix` they are; at
    least one token and those `wanted` are not.
    """
    if not prefix:
        return [shared] * len(rows), []
    firsts = {i: min([len(each[i].prompt.ids) - 1, *(wanted.first(i) if wanted else [])]) for i in rows}
    sequences = [prefix.longest(each[i].prompt.ids, firsts[i]) for i in rows]
    return [prefix.length(k) for k in sequences], sequences


def _next(model: "Model", logits: torch.Tensor, decoding: Decoding, u: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row. Raises UserError where the largest logit is not finite.

    Greedy: the first of the largest logits, as argmax, which takes four times as long in bfloat16 on a CPU.
    """
    most = logits.max(-1)  # a nan is the largest
    if not torch.isfinite(most.values).all():
        not_finite(model, "the logits after a prompt or an answer")
    return most.indices if u is None else chosen(logits, u, decoding.temperature, decoding.top_p)


def _decode(model: "Model", out: list[list[int]], cached, mask, ops, decoding: Decoding, u) -> Iterator[None]:
    """Decoding of rows whose prompts are in the cache `cached`: add to the one new token that each row of
    `out` has, up to the number asked for; yields after each step.

    Rows that are done leave, for each costs the reading of its keys and values; not one by one, since that
    copies the cache. Under `ops` they stay.
    """
    until = decoding.until
    live, last = list(range(len(out))), len((until or "").encode()) + 1  # no token is shorter than a byte
    # what is awaited is said in one token, or spelled out
    stops = {*stop_tokens(model), model.tokenizer.get_added_vocab().get(until)}
    for step in range(1, decoding.max_new_tokens):
        said = lambda i: bool(until) and until in model.tokenizer.decode(out[i][-last:])
        done = [out[i][-1] in stops or said(i) for i in live]
        if all(done):
            break
        if any(done) and sum(done) >= LEAVE_SHARE * len(live) and not ops:
            stay = torch.tensor([k for k in range(len(live)) if not done[k]], device=mask.device)
            cached.batch_select_indices(stay)
            mask, live = mask[stay], [i for i, d in zip(live, done, strict=True) if not d]
            done = [False] * len(stay)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        ids = torch.tensor([[out[i][-1]] for i in live], device=mask.device)
        part = Batch(live, ids, mask, mask.sum(1, keepdim=True) - 1, [])
        _, logits = forward(model, part, ops, cache=cached, logits=True)
        tokens = _next(model, logits, decoding, None if u is None else u[live, step])
        for i, token, d in zip(live, tokens.tolist(), done, strict=True):
            if not d:
                out[i].append(token)
        yield


def stop_tokens(model: "Model") -> list[int]:
    """The tokens that end an answer: those of the tokenizer and of the generation's settings, the one with
    which the chat template closes a turn, and those that end a document, after which a model writes another.
    """
    ends, added = model.module.generation_config.eos_token_id, model.tokenizer.get_added_vocab()
    documents = {token for text, token in added.items() if DOCUMENT_END.fullmatch(text)}
    settings = ends if isinstance(ends, list) else [ends]
    found = (model.tokenizer.eos_token_id, turn_end(model.tokenizer), *settings, *documents)
    return sorted({token for token in found if token is not None})


def _texts(model: "Model", said: Sequence[Sequence[int]], keep_special: bool = False) -> list[str]:
    """Tokens as texts up to their end, with `CONTROL` in place of each control token unless they are kept;
    the tags around thinking are shown.
    """
    stops, shown = set(stop_tokens(model)), tags(model)
    added = model.tokenizer.added_tokens_decoder.items()
    controls = set() if keep_special else {k for k, t in added if t.special and t.content not in shown}
    texts = []
    for row in said:
        until_end = itertools.takewhile(lambda token: token not in stops, row)
        runs = [
            (hidden, list(tokens)) for hidden, tokens in itertools.groupby(until_end, controls.__contains__)
        ]
        parts = (
            CONTROL * len(tokens) if hidden else model.tokenizer.decode(tokens) for hidden, tokens in runs
        )
        texts.append("".join(parts))
    return texts
