"""Prompts with their thinking: a rollout is a prompt, what the model thinks and the tags around it, up to the
token from which the answer starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from refusal.model.loading import Model
from refusal.model.registry import RECIPES
from refusal.trace.decode import CONTROL, Decoding, generate, read_prefix
from refusal.trace.prefix import Prefix
from refusal.trace.prompts import Prompt, chat, tags, template_text

INSTRUCTION = (
    "\n\nThink first: between {} and {}, say in three short sentences what is asked for and whether it is "
    "safe. Then answer."
)


def style(model: Model) -> str:
    """``native`` where the model was trained to think between tags (its template or tokenizer has them), else
    ``prompted``.
    """
    opening, closing = tags(model)
    single = len(model.tokenizer(closing, add_special_tokens=False)["input_ids"]) == 1
    taught = model.name in RECIPES and RECIPES[model.name].thinks
    return "native" if single or taught or opening in template_text(model)[1] else "prompted"


@dataclass(frozen=True)
class Rollout:
    """One prompt with its thinking: `prompt` ends with the closing tag, ``prompt.ids[start:stop]`` is the
    thinking.
    """

    prompt: Prompt
    start: int
    stop: int
    thinking: str
    finished: bool  # whether the model closed its thinking itself


def _asking(model: Model) -> tuple[str, str]:
    """What follows the request in the user's turn, and what the model's turn is opened with, so that it
    thinks.
    """
    opening, closing = tags(model)
    after = "" if style(model) == "native" else INSTRUCTION.format(opening, closing)
    return after, "" if template_text(model)[1].rstrip().endswith(opening) else opening + "\n"


def asked(model: Model, table: pd.DataFrame) -> list[Prompt]:
    """Each row of `table` as a prompt after which the model thinks."""
    after, opened = _asking(model)
    return chat(model, table, after=after, said=[opened] * len(table))


def think(
    model: Model,
    table: pd.DataFrame,
    max_tokens: int = 90,
    edits: Sequence = (),
    prefix: Prefix | None = None,
) -> list[Rollout]:
    """Greedy thinking of at most `max_tokens` for each row of `table`; what is not closed by then is cut and
    closed, and marked.
    """
    opening, closing = tags(model)
    texts = generate(
        model,
        asked(model, table),
        [list(edits)],
        Decoding(max_tokens, until=closing),
        prefix=prefix,
        label="thinking",
    )[0]
    # without the opening tag: the prompt may have opened the thinking
    said = [text.replace(CONTROL, "").lstrip().removeprefix(opening) for text in texts]
    thoughts = [text.split(closing)[0].split(opening)[0].strip() for text in said]
    return with_thinking(model, table, thoughts, [closing in text for text in texts])


def with_thinking(
    model: Model, table: pd.DataFrame, thoughts: Sequence[str], finished: Sequence[bool] | None = None
) -> list[Rollout]:
    """Rollouts of given thoughts. Positions are found from the text's own offsets."""
    (opening, closing), (after, opened), close = template_text(model), _asking(model), tags(model)[1]
    said = [f"{opened}{thought}\n{close}\n\n" for thought in thoughts]
    out = []
    for prompt, text, thought, done in zip(
        chat(model, table, after=after, said=said),
        table.text,
        thoughts,
        finished or [True] * len(said),
        strict=True,
    ):
        before = opening + str(text).strip() + after + closing + opened
        offsets = model.tokenizer(
            before + f"{thought}\n{close}\n\n", add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if a < len(before) + len(thought) and b > len(before)]
        start, stop = (inside[0], inside[-1] + 1) if inside else (len(prompt.ids) - 1, len(prompt.ids) - 1)
        out.append(Rollout(prompt, start, stop, thought, done))
    return out


def truncated(model: Model, table: pd.DataFrame, rollouts: Sequence[Rollout], keep: float) -> list[Rollout]:
    """The same rollouts with only the first share `keep` of their thinking's words."""
    words = [r.thinking.split(" ") for r in rollouts]
    return with_thinking(
        model, table, [" ".join(w[: round(keep * len(w))]) for w in words], [r.finished for r in rollouts]
    )


def hold_thoughts(model: Model, rollouts: Sequence[Rollout], prefix: Prefix | None = None) -> Prefix | None:
    """Requests and thinking of `rollouts`, held up to the closing tag; on from `prefix`, what they begin
    with."""
    return read_prefix(model, [r.prompt.ids[: r.stop] for r in rollouts], prefix)
