"""A copy that learned from pairs of answers, in memory: what it says, knows and holds; measured and thrown
away. Nothing here judges an answer, so that no rule of judging makes a copy learn anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from refusal.model.loading import Model
from refusal.trace import cache, reads
from refusal.trace.decode import Decoding, Reading, generate_rows
from refusal.trace.edits import rows_of
from refusal.trace.prompts import Prompt, plain
from refusal.train.fit import adapted, alike
from refusal.train.preference import Pair, preference_steps

RATE = 1e-3
POSITIONS = ("t_inst", "t_post")


@dataclass(frozen=True)
class Tests:
    """What every arm is asked: groups of prompts and the length of their answers.
    `statements` hold true ones and false ones in turn.
    """

    prompts: dict[str, list[Prompt]]
    tokens: dict[str, int]
    statements: list[str]
    paragraphs: list[str]


@dataclass(frozen=True)
class Axis:
    """A direction at a layer and position, scaled so that the mean of answered harmless prompts is 0 and that
    of refused harmful ones 1.
    """

    position: str
    layer: int
    origin: Float[Tensor, "d"]
    direction: Float[Tensor, "d"]

    def on(self, states: Float[Tensor, "prompt d"]) -> Float[np.ndarray, "prompt"]:
        moved = (states.double() - self.origin.double()) @ self.direction.double()
        return (moved / (self.direction.double() ** 2).sum()).numpy()


def after(
    model: Model,
    learned: Sequence[Pair] | None,
    tests: Tests,
    axes: Sequence[Axis],
    weight: float,
    n_steps: int,
    seed: int,
    label: str,
) -> dict:
    """What a copy that learned `learned`, or the model itself where that is None, does: {"answers": {group:
    texts}, "known": [two pairs of statements], "ce": [paragraph], "axes": {group: [axis][query]}, "losses"}.
    Cached on disk, as all answers are; those to disallowed requests go no further than `judged`.
    """
    given = {
        "learned": None if learned is None else [[list(x or []) for x in pair] for pair in learned],
        "prompts": tests.prompts,
        "rest": [tests.tokens, tests.statements, tests.paragraphs],
        "axes": list(axes),
        "how": (weight, n_steps, seed),
    }
    name = cache.key(model, _after, **given)
    return cache.remember_json(
        name, lambda: _after(model, learned, tests, axes, weight, n_steps, seed, label)
    )


def _after(model: Model, learned, tests: Tests, axes, weight, n_steps, seed, label) -> dict:
    losses: list[float] = []
    if learned is not None:
        copied = adapted(model.module, seed)
        losses = preference_steps(copied, learned, n_steps, RATE, seed, weight, label=label)
        model = alike(model, copied)
    return {
        "losses": losses,
        **asked(model, tests, axes),
        "known": known(model, tests.statements),
        "ce": reads.read_text(model, tests.paragraphs)["loss"].tolist(),
    }


def asked(model: Model, tests: Tests, axes: Sequence[Axis]) -> dict[str, dict[str, list]]:
    """What is answered and where the prompts lie on each axis, from one pass: {"answers": {group: texts},
    "axes": {group: [axis][prompt]}}. Groups of answers of one length are decoded together.
    """
    answers, lie = {}, {}
    for n in set(tests.tokens.values()):
        groups = {group: prompts for group, prompts in tests.prompts.items() if tests.tokens[group] == n}
        rows = rows_of([p for prompts in groups.values() for p in prompts])
        wanted = Reading(reads.positions([r.prompt for r in rows], POSITIONS))
        said, states, _ = generate_rows(
            model, rows, Decoding(n), f"asking about {', '.join(groups)}", wanted=wanted
        )
        read = states["resid"]
        on = [axis.on(read[:, axis.layer, POSITIONS.index(axis.position)]).tolist() for axis in axes]
        ends = np.cumsum([len(prompts) for prompts in groups.values()])
        for group, end in zip(groups, ends, strict=True):
            mine = slice(end - len(tests.prompts[group]), end)
            answers[group], lie[group] = [texts[0] for texts in said[mine]], [line[mine] for line in on]
    return {"answers": {g: answers[g] for g in tests.prompts}, "axes": {g: lie[g] for g in tests.prompts}}


def known(model: Model, texts: Sequence[str]) -> list[bool]:
    """Whether of each two pairs of statements, true, false, true, false, with subjects exchanged, the true
    ones together are likelier, so that how frequent a word is drops out.
    """
    per_token = reads.read_text(model, texts)["loss"].numpy()
    lengths = [len(p.ids) for p in plain(model, list(texts))]
    total = (per_token * (np.array(lengths) - 1)).reshape(-1, 4)
    return (total[:, 0] + total[:, 2] < total[:, 1] + total[:, 3]).tolist()
