"""The settings of notebook 08 and what a model does in each: who is marked as asking, who as answering, and
whether the template's system prompt stands.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from refusal.findings.f08 import on_task, published
from refusal.measure.seen import Seen, look
from refusal.model.loading import Model
from refusal.trace.prompts import Prompt, chat, template_text
from refusal.trace.roles import Roles, Setting, chat_as

T_POST = 1  # of `refusal.measure.seen.POSITIONS`


@dataclass(frozen=True)
class Cell:
    """What prompts led to in one setting: what is seen, and the `kinds` of the answers [prompt], of
    `refusal.findings.f08.on_task.KINDS`.
    """

    seen: Seen
    kinds: np.ndarray

    def of(self, kind: str) -> np.ndarray:
        """Which answers are of a kind [prompt]."""
        return self.kinds == kind

    @property
    def harmful(self) -> np.ndarray:
        return np.array([p.label == "harmful" for p in self.seen.prompts])

    @property
    def published(self) -> np.ndarray:
        """Which answers the released code counts as successes [prompt]."""
        return np.array([published.success(a) for a in self.seen.answers])

    @property
    def states(self) -> Float[Tensor, "prompt layer d"]:
        """At t_post."""
        return self.seen.states[:, :, T_POST]


def usual(parts: Roles) -> Setting:
    """As the template has it."""
    return Setting(system=bool(parts.system))


def swapped(parts: Roles) -> Setting:
    """With the two headers exchanged."""
    return Setting("assistant", "user", bool(parts.system))


def settings(parts: Roles, made_up: bool = False) -> list[Setting]:
    """Every pair of the template's own speakers, with its system prompt, where it has one, and without; with
    `made_up` those of a speaker that no training has seen, in either place and in both.
    """
    own, systems = ("user", "assistant"), (True, False) if parts.system else (False,)
    found = [Setting(a, b, s) for s, a, b in itertools.product(systems, own, own)]
    if made_up and "narrator" in parts.headers:
        pairs = (("narrator", "assistant"), ("user", "narrator"), ("narrator", "narrator"))
        found += [Setting(a, b, s) for s in systems for a, b in pairs]
    return found


def observe(
    model: Model, table: pd.DataFrame, which: Sequence[Setting], max_new_tokens: int, least: float
) -> dict[Setting, Cell]:
    """What the prompts of a table lead to in each setting."""
    found = {}
    for one in which:
        seen = look(model, chat_as(model, table, **vars(one)), max_new_tokens)
        found[one] = Cell(seen, on_task.kinds(list(table.text), list(seen.answers), least))
    return found


def doubled(model: Model, table: pd.DataFrame, max_new_tokens: int) -> Seen:
    """Prompts that are wrapped in the template twice, as the released code does with those whose tags it does
    not know.
    """
    before, after = template_text(model)
    return look(model, chat(model, table.assign(text=before + table.text + after)), max_new_tokens)


def effect(cells: Mapping[Setting, Cell], one: Setting, other: Setting, kind: str, harmful: bool = True):
    """Which prompts of a label get answers of a kind in either setting: (in one, in the other)."""
    which = cells[one].harmful == harmful
    return cells[one].of(kind)[which], cells[other].of(kind)[which]


def judged(tests: Mapping[str, Sequence[Prompt]], said: Mapping[str, Sequence[str]], least: float) -> dict:
    """The kinds of the answers to each group of prompts; what else stands there is left as it is."""
    found = dict(said)
    for group, prompts in tests.items():
        found[group] = on_task.kinds([p.text for p in prompts], said[group], least).tolist()
    return found
