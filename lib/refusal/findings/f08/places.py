"""Where an image stands: tokens of a picture, and what else can stand in the same slot, before the query,
after it, or after the header of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from refusal.base.errors import UserError
from refusal.findings.f08 import on_task, vision
from refusal.findings.f08.vision import Shown
from refusal.model.loading import Model
from refusal.trace.decode import generate
from refusal.trace.edits import Patch, Row
from refusal.trace.roles import Setting, Slot, chat_as

STANDS = ("image", "words", "random vectors", "placeholders", "image, no tags")
QUESTION = "What does the picture show?"


@dataclass(frozen=True)
class Arm:
    """What stands where: one of `STANDS`, at one of `refusal.trace.roles.PLACES`, in a setting."""

    stands: str
    place: str
    setting: Setting


def blind(model: Model) -> str | None:
    """Why pictures cannot be given to this model; None where they can."""
    if model.eyes:
        return None
    if model.remote is True or (isinstance(model.remote, str) and model.remote != "local"):
        return "pictures need the model's weights, which a remote run does not give"
    try:
        vision.first_tokens(model)
    except UserError as error:
        return error.what
    return None


def caption(colour: str, shape: str) -> str:
    """What the tokens of a picture stand for, in words."""
    return f" picture of {colour} {shape}"


def slot(image: Shown, stands: str, place: str, words: str) -> Slot:
    """The slot of one arm; `words` are what its picture shows."""
    if stands == "words":
        return Slot(place, words.strip() if place == "out" else words, closed="\n" if place != "end" else "")
    inner, around = image.tags.holds * image.tokens.shape[1], (image.tags.opened, image.tags.closed)
    return Slot(place, inner, *(("", "") if stands == "image, no tags" else around))


def rows(
    model: Model,
    table: pd.DataFrame,
    arm: Arm,
    image: Shown,
    noise: Float[Tensor, "picture token d"],
) -> list[Row]:
    """The prompts of a table under one arm, each with a picture of its own, in turn."""
    which = [i % len(image.tokens) for i in range(len(table))]
    words = [caption(image.colour[i], image.shape[i]) for i in which]
    slots = [slot(image, arm.stands, arm.place, text) for text in words]
    prompts = chat_as(model, table, **vars(arm.setting), slots=slots)
    values = {"image": image.tokens, "image, no tags": image.tokens, "random vectors": noise}.get(arm.stands)
    if values is None:
        return [Row(p) for p in prompts]
    return [Row(p, (Patch(values[i], 0, "slot"),)) for p, i in zip(prompts, which, strict=True)]


def asked(
    model: Model,
    table: pd.DataFrame,
    arms: Sequence[Arm],
    image: Shown,
    seed: int,
    max_new_tokens: int,
    least: float,
) -> dict[Arm, np.ndarray]:
    """The kinds of the answers to the prompts of a table under each arm: {arm: [prompt]}."""
    noise = vision.random_tokens(image.tokens, seed)
    every = [row for arm in arms for row in rows(model, table, arm, image, noise)]
    said = generate(model, every, decoding=max_new_tokens, label="prompts with a slot")
    n, texts = len(table), list(table.text)
    return {arm: on_task.kinds(texts, said[i * n : (i + 1) * n], least) for i, arm in enumerate(arms)}


def named(model: Model, image: Shown, setting: Setting, stands: str = "image", max_new_tokens: int = 24):
    """What the model says a picture shows, asked plainly with the picture before the question: (answers,
    [picture, 2] whether the colour and the shape are named).
    """
    table = pd.DataFrame({"id": [str(i) for i in range(len(image.tokens))]})
    table = table.assign(text=QUESTION, source="", label="harmless")
    noise = vision.random_tokens(image.tokens, 0)
    which = rows(model, table, Arm(stands, "in", setting), image, noise)
    said = generate(model, which, decoding=max_new_tokens, label="naming pictures")
    right = [vision.named(t, c, s) for t, c, s in zip(said, image.colour, image.shape, strict=True)]
    return said, np.array(right)
