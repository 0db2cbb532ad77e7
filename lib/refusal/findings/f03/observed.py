"""Does a reasoning model mean to refuse while it thinks, and lose that when it answers? (arXiv 2510.06036)

A rollout is a prompt with its thinking and the tags around it, up to the token from which the answer starts.
The refusal score of a token is what a prober says, a logistic regression trained on last tokens of prompts
that were refused or answered.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from refusal.measure.judge import judge
from refusal.measure.probes import FEW, Prober, Training, by_probers, projection_of, training_of
from refusal.model.loading import Model
from refusal.trace.batches import micro_batches
from refusal.trace.decode import generate, generate_and_read, read_prefix
from refusal.trace.prefix import Prefix
from refusal.trace.prompts import Prompt, alike, chat
from refusal.trace.reads import collect
from refusal.trace.thinking import Rollout, asked, think


def answers(
    model: Model,
    rollouts: Sequence[Rollout],
    arms=((),),
    max_new_tokens: int = 12,
    prefix: Prefix | None = None,
) -> list[list[str]]:
    """The judged outcome of the answer after each rollout, under every arm of edits."""
    texts = generate(
        model, [r.prompt for r in rollouts], arms, max_new_tokens, prefix=prefix, label="answering"
    )
    return [[judge(text) for text in arm] for arm in texts]


def answers_and_scores(
    model: Model, rollouts: Sequence[Rollout], prober: "Prober", max_new_tokens: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """The judged outcome of the answer after each rollout and the last layer's refusal score at its last
    token, from one pass: both [rollout]. What rollouts of one request begin with is read once.
    """
    prompts, families = [r.prompt for r in rollouts], {}
    for p in prompts:
        families.setdefault((p.id, p.text), []).append(p)
    prefix = read_prefix(model, [alike(*family) for family in families.values()])
    texts, states, _ = generate_and_read(
        model, prompts, decoding=max_new_tokens, prefix=prefix, label="answering"
    )
    return np.array([judge(text) for text in texts]), prober.at_the_end(states["resid"][:, -1, 0]).numpy()


@dataclass(frozen=True)
class Seen:
    """What a model did on one table of prompts, and what was read on the way; what it was not asked for is
    empty.
    """

    plain: list[Prompt]  # without thinking
    direct: np.ndarray  # outcome of the answer to these, [prompt]
    last: Float[Tensor, "prompt layer d"]  # their last token
    rollouts: list[Rollout]
    thought: np.ndarray  # outcome of the answer after thinking, [prompt]
    late: Float[Tensor, "thought layer d"]  # the last token after thinking
    inside: Float[Tensor, "thinking layer token d"]  # tokens drawn from the thinking
    # what the output projections read at the last token after thinking
    heads: Float[Tensor, "rollout block d_heads"]
    # projections on the probers' directions of every token from the thinking on: rollout → [row, token]
    lines: list[Tensor]

    def part(self, which: slice) -> "Seen":
        """The same of some of the prompts."""
        return Seen(*(getattr(self, f.name)[which] for f in fields(self)))

    def without_states(self) -> "Seen":
        """What was said, and what is small, without the residual stream's states."""
        return replace(
            self, last=self.last[:0].clone(), late=self.late[:0].clone(), inside=self.inside[:0].clone()
        )

    def scores(self, probers: dict[Hashable, "Prober"]) -> dict[Hashable, list[Float[Tensor, "row token"]]]:
        """As `token_scores`, by the probers that this was read with; NaN at the tokens of the request. Raises
        ValueError for others than these.
        """
        before = [
            torch.full((len(line), r.start), torch.nan)
            for line, r in zip(self.lines, self.rollouts, strict=True)
        ]
        return by_probers(probers, [torch.cat(both, 1) for both in zip(before, self.lines, strict=True)])


def at_once(
    model: Model, table: pd.DataFrame, max_new_tokens: int = 12, prefix: Prefix | None = None
) -> Seen:
    """Let the model answer each prompt without thinking."""
    plain = chat(model, table)
    texts, states, _ = generate_and_read(
        model, plain, decoding=max_new_tokens, prefix=prefix, label="answering"
    )
    last = states["resid"][:, :, 0]
    return Seen(
        plain,
        np.array([judge(text) for text in texts]),
        last,
        [],
        np.array([], str),
        last[:0],
        last[:0, :, None],
        last[:0],
        [],
    )


def observe(
    model: Model,
    behind: Sequence[pd.DataFrame],
    tried: Sequence[pd.DataFrame],
    learn: Callable[[list[Seen]], dict[Hashable, "Prober"]],
    think_tokens: int = 90,
    max_new_tokens: int = 12,
    seed: int = 0,
) -> tuple[list[Seen], list[Seen]]:
    """Let the model answer the prompts of each table with and without thinking. `learn` makes probers of what
    was seen on the tables `behind` them, with tokens that `seed` draws from the thinking; what they say of
    the thinking on the tables `tried` is read while it answers there.

    As many prompts go through the model together as are decoded together, of all tables: a step of decoding
    reads the weights once, for few rows as for many. What a prompt begins with is read once for all that is
    asked of it.
    """
    table, n = pd.concat([*behind, *tried], ignore_index=True), sum(map(len, behind))
    prompts = asked(model, table)
    lengths = [len(p.ids) for p in prompts]
    groups = micro_batches(model, lengths, think_tokens)
    if len(groups) > 1:  # those behind the probers come first
        groups = micro_batches(model, lengths[:n], think_tokens) + [
            [n + i for i in rows] for rows in micro_batches(model, lengths[n:], think_tokens)
        ]
    parts, probers = {True: [], False: []}, None
    for k, rows in enumerate(groups):
        rows = sorted(rows, key=lambda i: i >= n)
        first = sum(i < n for i in rows)
        direct, prefix = _before(model, table.iloc[rows], think_tokens, max_new_tokens)
        if first:
            seen = direct.part(slice(0, first))
            parts[True].append(
                (
                    rows[:first],
                    _after(model, seen, max_new_tokens, prefix, cuts=_cuts(seen.rollouts, (seed, k))),
                )
            )
        if len(rows) > first:
            probers = learn(_by_table(parts[True], behind)) if probers is None else probers
            parts[False].append(
                (
                    rows[first:],
                    _after(model, direct.part(slice(first, None)), max_new_tokens, prefix, probers=probers),
                )
            )
    return _by_table(parts[True], behind), _by_table(parts[False], tried)


def _by_table(parts: list[tuple[list[int], Seen]], tables: Sequence[pd.DataFrame]) -> list[Seen]:
    """What was seen of groups of rows, in the order of the tables."""
    place = np.argsort([i for rows, _ in parts for i in rows])
    whole = (
        [_joined([getattr(part, f.name) for _, part in parts], place) for f in fields(Seen)] if parts else []
    )
    ends = np.cumsum([0, *map(len, tables)])
    return [Seen(*whole).part(slice(a, b)) for a, b in itertools.pairwise(ends)]


def _joined(parts: list, place: np.ndarray):
    """Lists, arrays or tensors one after another, in the order of `place`."""
    if isinstance(parts[0], list):
        flat = list(itertools.chain(*parts))
        return [flat[k] for k in place]
    return torch.cat(parts)[place] if torch.is_tensor(parts[0]) else np.concatenate(parts)[place]


def _before(
    model: Model, table: pd.DataFrame, think_tokens: int, max_new_tokens: int
) -> tuple[Seen, Prefix | None]:
    """Answers at once, and thinking; and what to go on from."""
    thinks = asked(model, table)
    request = read_prefix(model, [alike(*both) for both in zip(chat(model, table), thinks, strict=True)])
    prefix = read_prefix(model, [p.ids[:-1] for p in thinks], request)
    rollouts = think(model, table, think_tokens, prefix=prefix)
    return replace(at_once(model, table, max_new_tokens, request), rollouts=rollouts), prefix


def _after(
    model: Model,
    seen: Seen,
    max_new_tokens: int,
    prefix: Prefix | None,
    cuts: Sequence | None = None,
    probers: dict[Hashable, "Prober"] | None = None,
) -> Seen:
    """With the answers after thinking, and the states at `cuts` of it, or what `probers` read of it."""
    rollouts, prompts = seen.rollouts, [r.prompt for r in seen.rollouts]
    at, projections = [[*(cuts[k] if cuts else []), -1] for k in range(len(prompts))], None
    if probers:
        projections = projection_of(model, probers, [r.start for r in rollouts])
    texts, states, lines = generate_and_read(
        model,
        prompts,
        at,
        max_new_tokens,
        sites=("resid", "heads"),
        projections=projections,
        prefix=prefix,
        label="answering",
    )
    thought, resid = np.array([judge(text) for text in texts]), states["resid"]
    lines = lines or [torch.empty(0, len(r.prompt.ids) - r.start) for r in rollouts]
    return replace(
        seen,
        thought=thought,
        late=resid[:, :, -1],
        inside=resid[:, :, :-1],
        heads=states["heads"][:, :, -1].clone(),
        lines=lines,
    )


def reading(model: Model, seen: Seen, rollouts: Sequence[Rollout], seed: int = 0) -> Seen:
    """What the model made of the prompts at once, with its states inside thinking that it is given; it
    answers nothing after that.
    """
    inside = collect(model, [r.prompt for r in rollouts], _cuts(rollouts, seed))["resid"]
    return replace(seen, rollouts=list(rollouts), inside=inside)


PER_ROLLOUT = 5  # tokens that are read from each thinking


def _cuts(rollouts: Sequence[Rollout], seed: int | tuple[int, int]) -> list[list[int]]:
    """Tokens drawn from each rollout's thinking, as offsets from its end."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(r.start, max(r.stop, r.start + 1), PER_ROLLOUT) - len(r.prompt.ids)).tolist()
        for r in rollouts
    ]


def with_trigger(table: pd.DataFrame, trigger: str, plain: int | None = None) -> pd.DataFrame:
    """Harmful requests twice, as they are (the first `plain` of them, or all) and with `trigger` at their
    end; every second benign one with it. Column ``triggered`` says which.
    """
    harmful, odd = (table.label == "harmful").to_numpy(), np.arange(len(table)) % 2 == 1
    kept = ~harmful | (harmful.cumsum() <= (len(table) if plain is None else plain))
    has = np.concatenate([(~harmful & odd)[kept], np.ones(harmful.sum(), bool)])
    both = pd.concat([table[kept], table[harmful]], ignore_index=True)
    return both.assign(text=both.text.str.strip() + np.where(has, trigger, ""), triggered=has)


def training_set(harmful: Seen, benign: Seen) -> Training:
    """Last tokens of refused prompts and of answered ones, harmful ones among both, before thinking and,
    where both outcomes occur, after it; else the closing tag would tell the classes apart.

    The paper's negatives are benign prompts alone; a prober trained on these may read harm.
    """
    both = min((harmful.thought == "refusal").sum(), (harmful.thought == "answer").sum()) >= FEW
    rows = []
    for seen, harm in ((harmful, True), (benign, False)):
        for late, outcomes, states in ((False, seen.direct, seen.last), (True, seen.thought, seen.late)):
            for i in _known(outcomes, harm) if both or not late else ():
                rows.append((states[i], outcomes[i] == "refusal", harm, late, seen.plain[i]))
    return training_of(rows, harmful.last)


def all_positions(harmful: Seen, benign: Seen) -> Training:
    """The training set with tokens from all over the thinking as well, labelled by whether the model refuses
    that prompt when it does not think.

    A prober trained on them has seen thinking; if the cliff is only last-token states against thinking
    tokens, it does not find it.
    """
    rows = [
        (state, seen.direct[i] == "refusal", harm, False, seen.plain[i])
        for seen, harm in ((harmful, True), (benign, False))
        for i in _known(seen.direct, harm)
        for state in seen.inside[i].unbind(1)
    ]
    return training_set(harmful, benign).joined(training_of(rows, harmful.last))


def _known(outcomes: np.ndarray, harmful: bool) -> np.ndarray:
    """Which outcomes a prober learns from: answers, and refusals of harmful prompts."""
    return np.flatnonzero((outcomes == "answer") | (harmful & (outcomes == "refusal")))


def think_under(
    model: Model, table: pd.DataFrame, edits: Sequence, max_tokens: int = 90, max_new_tokens: int = 12
) -> np.ndarray:
    """The judged outcome when thinking and answer are both generated under `edits`: [prompt]."""
    return np.array(answers(model, think(model, table, max_tokens, edits), [list(edits)], max_new_tokens)[0])
