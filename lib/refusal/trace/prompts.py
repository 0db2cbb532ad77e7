"""Instructions as token sequences with named positions, found from the template's own text and checked by
decoding them.

``t_inst`` is the last token of the instruction, ``t_post`` the last token of the prompt; between them lie the
template's closing tokens (arXiv 2507.11878, section 2). A position counts from the prompt's first token, so
padding never moves it. A template that writes the date writes the model's `date`, so that a prompt has the
same tokens on every day.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from unittest import mock

import jinja2
import pandas as pd
from transformers.utils import chat_template_utils

from refusal.base.errors import ParameterError, UserError
from refusal.model.loading import Model
from refusal.model.registry import DATE

SENTINEL, REPLY, SYSTEM = "␟instruction␟", "␟reply␟", "␟system␟"
TAG = re.compile(r"<((?:seed:)?(?:think|thinking|thought|reasoning))>|\[(THINK)\]")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `ids` are its tokens; the instruction is ``ids[start:stop]``, so t_inst = stop − 1. The
    last `given` tokens are the first of its answer, given and not generated (`with_first_tokens`); t_post is
    the one before them. `system` is where the text of a system prompt stands, from its first token to the one
    after its last, and `slot` what stands beside the query (`refusal.trace.roles`); empty where none was
    given.
    """

    id: str
    text: str
    source: str
    label: str
    ids: tuple[int, ...]
    start: int
    stop: int
    given: int = 0
    system: tuple[int, int] = (0, 0)
    slot: tuple[int, int] = (0, 0)

    @property
    def t_inst(self) -> int:
        return self.stop - 1

    @property
    def t_post(self) -> int:
        return len(self.ids) - self.given - 1

    def position(self, where: str | int) -> int:
        """An absolute position from ``t_inst``, ``t_post`` or an offset: k > 0 is the k-th token after
        t_inst, k < 0 counts from the end.

        Raises ParameterError where the prompt has no such token.
        """
        if isinstance(where, str):
            return getattr(self, where)
        found = self.t_inst + where if where > 0 else len(self.ids) + where
        if not 0 <= found < len(self.ids):
            raise ParameterError(
                f"prompt {self.id} of {len(self.ids)} tokens has none at offset {where}",
                "count from its end with negative offsets",
            )
        return found

    def span(self, name: str | tuple[int, ...]) -> Sequence[int]:
        """The positions of ``instruction``, ``closing``, ``prompt`` or ``every_token`` (within the prompt),
        ``t_inst``, ``t_post``, ``last`` (t_post and what of the answer is given), ``system``, ``slot``.

        A tuple lists positions itself; negative ones count from the end. Raises ParameterError for a span
        that is none, or a position that the prompt has not.
        """
        if isinstance(name, tuple):
            n = len(self.ids)
            if bad := [k for k in name if not -n <= k < n]:
                raise ParameterError(
                    f"prompt {self.id} of {n} tokens has no position {bad[0]}",
                    "count from its end with negative positions",
                )
            return [k % n for k in name]
        spans = {
            "instruction": range(self.start, self.stop),
            "closing": range(self.stop, self.t_post + 1),
            "prompt": range(self.t_post + 1),
            "every_token": range(len(self.ids)),
            "last": range(self.t_post, len(self.ids)),
            "t_inst": range(self.t_inst, self.stop),
            "t_post": range(self.t_post, self.t_post + 1),
            "system": range(*self.system),
            "slot": range(*self.slot),
        }
        if name not in spans:
            raise ParameterError(f"unknown span {name!r}", "use one of " + ", ".join(spans))
        return spans[name]


def rendered(tokenizer, chats: Sequence[Sequence[tuple[str, str]]], date: str = DATE, **options) -> list[str]:
    """What the tokenizer's chat template makes of conversations of (role, text), on the day `date`,
    YYYY-MM-DD.

    Raises ParameterError for a date that is none, UserError where the template refuses the conversation.
    """
    try:
        day = datetime.fromisoformat(date)
    except ValueError as error:
        raise ParameterError(f"DATE={date} is not a day", "write it as 2024-07-26") from error
    messages = [[{"role": role, "content": text} for role, text in chat] for chat in chats]
    # what strftime_now asks; a template takes no function
    fixed = type("Fixed", (datetime,), {"now": classmethod(lambda cls, tz=None: day)})
    try:
        with mock.patch.object(chat_template_utils, "datetime", fixed):
            return [
                tokenizer.apply_chat_template(m, tokenize=False, date_string=f"{day:%d %b %Y}", **options)
                for m in messages
            ]
    except jinja2.TemplateError as error:
        raise UserError(
            f"the chat template does not take this conversation: {error}", "give a plain TEMPLATE="
        ) from error


def _template(tokenizer) -> str:
    """The source of the tokenizer's chat templates, empty where it has none."""
    written = getattr(tokenizer, "chat_template", None) or ""
    return written if isinstance(written, str) else " ".join(written.values())


def tags(model: Model) -> tuple[str, str]:
    """What a model opens and closes its thinking with: as its chat template writes them, else as its added
    tokens do, else ``<think>`` and ``</think>``.
    """
    found = TAG.search(_template(model.tokenizer)) or next(
        filter(None, map(TAG.fullmatch, model.tokenizer.get_added_vocab())), None
    )
    word = next(filter(None, found.groups())) if found else "think"
    return (f"[{word}]", f"[/{word}]") if word == "THINK" else (f"<{word}>", f"</{word}>")


def turn_end(tokenizer) -> int | None:
    """The token with which the chat template closes a turn of the model, such as ``<|im_end|>``; None where
    it is no token of its own.
    """
    if not _template(tokenizer):
        return None
    try:
        (text,) = rendered(tokenizer, [[("user", SENTINEL), ("assistant", REPLY)]])
    except UserError:
        return None
    ids = (
        tokenizer(text.rpartition(REPLY)[2].lstrip(), add_special_tokens=False)["input_ids"]
        if REPLY in text
        else []
    )
    return next((token for token in ids[:1] if token in tokenizer.added_tokens_decoder), None)


def no_template(model: Model) -> str | None:
    """Why chat prompts can't be made for this model, as a sentence; None where they can."""
    if model.template or getattr(model.tokenizer, "chat_template", None):
        return None
    return (
        rf"the tokenizer of {model.name} has no chat template; give one, for example TEMPLATE='User: "
        rf"{{x}}\nAssistant:'"
    )


def _has_turn_for(model: Model, system: str) -> bool:
    """Whether the template shows a system prompt once, in a turn of its own before the instruction."""
    said = system or SYSTEM
    try:
        (text,) = rendered(
            model.tokenizer,
            [[("system", said), ("user", SENTINEL)]],
            model.date,
            add_generation_prompt=True,
        )
    except UserError:
        return False
    return text.partition(SENTINEL)[0].count(said) == 1


def _turns(text: str, system: str | None, own_turn: bool) -> list[tuple[str, str]]:
    """The conversation of one instruction, as (role, text)."""
    if system is not None and own_turn:
        return [("system", system), ("user", text)]
    return [("user", f"{system}\n\n{text}" if system else text)]


def template_text(model: Model, system: str | None = None) -> tuple[str, str]:
    """What the model's chat template writes before and after an instruction, on the model's day: with its own
    system prompt, if it has one, or with `system` in that place, which may be empty.

    Raises ParameterError when the tokenizer has no chat template and no `TEMPLATE` was given, UserError where
    it does not show the instruction once.
    """
    tokenizer = model.tokenizer
    if model.template:
        if model.template.count("{x}") != 1:
            raise ParameterError(
                "TEMPLATE must hold {x} once, where the instruction goes",
                r"for example TEMPLATE='User: {x}\nAssistant:'",
            )
        begun = f"{system}\n\n" if system else ""
        text = model.template.replace("\\n", "\n").replace("{x}", begun + SENTINEL)
        bos = tokenizer.bos_token or ""
        text = text if text.startswith(bos) else bos + text
    elif _template(tokenizer):
        turns = _turns(SENTINEL, system, system is not None and _has_turn_for(model, system))
        (text,) = rendered(tokenizer, [turns], model.date, add_generation_prompt=True)
    else:
        raise ParameterError(
            f"the tokenizer of {model.name} has no chat template",
            r"give one: TEMPLATE='User: {x}\nAssistant:'",
        )
    if text.count(SENTINEL) != 1:
        raise UserError(
            f"the chat template of {model.name} shows the instruction {text.count(SENTINEL)} times",
            "give a plain TEMPLATE=",
        )
    opening, closing = text.split(SENTINEL)
    return opening, closing


def chat(
    model: Model,
    table: pd.DataFrame | Sequence[str],
    before: str = "",
    after: str = "",
    said: Sequence[str] | None = None,
    system: str | None = None,
) -> list[Prompt]:
    """Rows of a table (columns id, text, source, label), or texts alone, in the model's own chat template.

    `before` and `after` wrap each text inside the user's turn; the instruction span is then ``before +
    text``, and `after` belongs to the closing tokens (used for the inversion question). `said` holds what the
    model's turn has begun with, for each row. `system` is the system prompt: the template's own where None,
    an empty turn where empty; it stands before the text in the user's turn where the template has none.
    Raises UserError when the template changes a text, or a position does not decode to the text it stands
    for.
    """
    if not isinstance(table, pd.DataFrame):
        ids = [str(i) for i in range(len(table))]
        table = pd.DataFrame({"id": ids, "text": list(table)}).assign(source="", label="")
    system = None if system is None else system.strip()
    opening, closing = template_text(model, system)
    texts = [before + str(text).strip() for text in table.text]
    if not model.template:
        own_turn = system is not None and _has_turn_for(model, system)
        whole = rendered(
            model.tokenizer,
            [_turns(text + after, system, own_turn) for text in texts],
            model.date,
            add_generation_prompt=True,
        )
        if changed := [
            i
            for i, text, w in zip(table.id, texts, whole, strict=True)
            if w != opening + text + after + closing
        ]:
            raise UserError(
                f"prompt {changed[0]}: the chat template of {model.name} changes its text",
                "give a plain TEMPLATE=",
            )
    said = said if said is not None else [""] * len(table)
    return [
        _tokenize(model, opening, text, after + closing + s, row, system)
        for text, row, s in zip(texts, table.itertuples(), said, strict=True)
    ]


def _tokenize(model: Model, opening: str, text: str, closing: str, row, system: str | None = None) -> Prompt:
    whole = opening + text + closing
    encoded = model.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    first, end = len(opening), len(opening) + len(text)
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > first]
    if not inside:
        raise UserError(
            f"prompt {row.id}: no token covers the instruction",
            "the tokenizer may have dropped unknown characters",
        )
    start, stop = inside[0], inside[-1] + 1
    begun = opening.rfind(system) if system else 0
    theirs = [i for i, (a, b) in enumerate(offsets) if system and a < begun + len(system) and b > begun]
    place = (theirs[0], theirs[-1] + 1) if theirs else (0, 0)
    prompt = Prompt(str(row.id), text, row.source, row.label, tuple(ids), start, stop, system=place)
    if system and _bare(system) not in _bare(model.tokenizer.decode(ids[slice(*place)])):
        if model.tokenizer.unk_token_id not in ids:
            raise UserError(
                f"prompt {row.id}: the tokens of the system prompt do not decode to it",
                "the tokenizer changes the text; give a plain TEMPLATE=",
            )
    tail = model.tokenizer.decode(ids[start:stop]).strip()
    if _bare(text)[-8:] not in _bare(tail) and model.tokenizer.unk_token_id not in ids:
        raise UserError(
            f"prompt {row.id}: the tokens at t_inst decode to {tail[-20:]!r}, not to the end of the "
            f"instruction",
            "the tokenizer changes the text; give a plain TEMPLATE=",
        )
    return prompt


def _bare(text: str) -> str:
    """A text without white space, which tokenizers may change."""
    return "".join(text.split())


def with_first_tokens(prompt: Prompt, ids: Sequence[int]) -> Prompt:
    """The prompt with the first tokens of its answer given."""
    return replace(prompt, ids=(*prompt.ids, *ids), given=prompt.given + len(ids))


def without_closing(prompts: list[Prompt]) -> list[Prompt]:
    """The same prompts cut after t_inst: no closing tokens, no generation header."""
    return [replace(p, ids=p.ids[: p.stop]) for p in prompts]


def alike(*prompts: Prompt) -> tuple[int, ...]:
    """The tokens with which all `prompts` begin, the last of the shortest left out."""
    same = itertools.takewhile(
        lambda tokens: len(set(tokens)) == 1, zip(*(p.ids for p in prompts), strict=False)
    )
    return tuple(tokens[0] for tokens in same)[: min(len(p.ids) for p in prompts) - 1]


def opening_length(prompts: list[Prompt]) -> int:
    """How many leading tokens all `prompts` share before any instruction starts: the template's common
    opening.
    """
    return min([len(alike(*prompts)), *(p.start for p in prompts)]) if prompts else 0


def plain(model: Model, texts: Sequence[str], ids: Sequence[str] | None = None) -> list[Prompt]:
    """Texts as they are, without a chat template: the whole text is the instruction, so t_inst and t_post are
    its last token.

    What the tokenizer itself puts before a text stays; what it puts after one, such as an end of text, is
    left out.
    """
    encoded = []
    for text in texts:
        whole = model.tokenizer(text, add_special_tokens=True, return_special_tokens_mask=True)
        added = itertools.takewhile(bool, reversed(whole["special_tokens_mask"]))
        encoded.append(whole["input_ids"][: len(whole["input_ids"]) - len(list(added))])
    return [
        Prompt(str(i), text, "", "", tuple(e), 0, len(e))
        for i, text, e in zip(ids or range(len(texts)), texts, encoded, strict=True)
    ]
