"""A chat template in parts, and prompts that are put together from them with other speakers: who is marked as
asking, who as answering, whether a system prompt stands, and what stands in a slot beside the query.

The parts are found by rendering conversations and comparing them; a query's own words are never searched, so
that a header written inside a query stays part of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from refusal.base.errors import ParameterError, UserError
from refusal.model.loading import Model
from refusal.trace.prompts import REPLY, SENTINEL, Prompt, _template, _tokenize, rendered

SPEAKERS, PLACES = ("user", "assistant", "narrator"), ("in", "end", "out")
AGAIN = "␟again␟"


@dataclass(frozen=True)
class Roles:
    """What a chat template writes around turns: `system` before the first one, empty where it has no system
    prompt of its own, the `headers` by speaker, the `end` of a turn. `begin` opens every text.
    """

    begin: str
    system: str
    headers: dict[str, str]
    end: str


@dataclass(frozen=True)
class Slot:
    """What stands beside the query: `before` the query, at its `end`, or `out`side, after the header of the
    answer. `inner` is what the span ``slot`` names, `opened` and `closed` surround it.
    """

    place: str
    inner: str
    opened: str = ""
    closed: str = ""

    @property
    def text(self) -> str:
        return self.opened + self.inner + self.closed


@dataclass(frozen=True)
class Setting:
    """Who is marked as asking, who as answering, and whether the system prompt stands."""

    asked_by: str = "user"
    answered_by: str = "assistant"
    system: bool = True

    @property
    def pair(self) -> str:
        return f"{self.asked_by} → {self.answered_by}"

    @property
    def key(self) -> str:
        return f"{'sp' if self.system else 'bare'}/{self.asked_by}_{self.answered_by}"


def roles(model: Model) -> Roles:
    """The parts of the model's chat template, with a made-up speaker beside its own where the header of the
    user names it.

    Raises ParameterError naming `asked_by` where the template has no header for each speaker, as Llama 2's
    has not, or where a plain ``TEMPLATE=`` is used.
    """
    no_headers = ParameterError(
        f"the template of {model.name} has no header for each speaker, so asked_by= and answered_by= change "
        "nothing in it",
        "use a model whose chat template marks who speaks",
    )
    if model.template or not _template(model.tokenizer):
        raise no_headers
    one, two = [("user", SENTINEL)], [("user", SENTINEL), ("assistant", REPLY), ("user", AGAIN)]
    render = lambda turns, **how: rendered(model.tokenizer, [turns], model.date, **how)[0]
    asked, answering = render(one, add_generation_prompt=False), render(one, add_generation_prompt=True)
    eos = model.tokenizer.eos_token or ""
    if eos and not answering.startswith(asked):  # some end with it what is not to be answered, as Phi 3 does
        asked = asked.removesuffix(eos)
    whole = render(two, add_generation_prompt=True)
    if any(whole.count(x) != 1 for x in (SENTINEL, REPLY, AGAIN)) or not answering.startswith(asked):
        raise no_headers
    begun, end = asked.split(SENTINEL)
    header = answering[len(asked) :]
    to_reply = whole.partition(SENTINEL)[2].partition(REPLY)[0]
    to_again = whole.partition(REPLY)[2].partition(AGAIN)[0]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(end, to_again, strict=False))
    closes = end[: len(list(same))]  # a template may strip what follows the last turn
    asks = to_again[len(closes) :]
    if not header or not asks or not to_reply.startswith(end) or not begun.endswith(asks):
        raise no_headers
    opening = begun[: len(begun) - len(asks)]
    bos = model.tokenizer.bos_token or ""
    begin = (
        bos if opening.startswith(bos) and not asks.startswith(bos) else ""
    )  # ChatML's is no mark of its own
    headers = {"user": asks, "assistant": header}
    if asks.count("user") == 1:
        headers["narrator"] = asks.replace("user", "narrator")
    return Roles(begin, opening[len(begin) :], headers, end)


def chat_as(
    model: Model,
    table: pd.DataFrame | Sequence[str],
    asked_by: str = "user",
    answered_by: str = "assistant",
    system: bool = True,
    slots: Slot | Sequence[Slot] | None = None,
) -> list[Prompt]:
    """As `refusal.trace.prompts.chat`, with the query under the header of `asked_by` and the answer under
    that of `answered_by`; with `system` the template's own system prompt stands, else none. `slots` is one
    for all queries, or one for each.

    Raises ParameterError for an unknown speaker or place.
    """
    parts = roles(model)
    for name, who in (("asked_by", asked_by), ("answered_by", answered_by)):
        if who not in parts.headers:
            raise ParameterError(f"{name}={who!r} has no header", f"use one of {', '.join(parts.headers)}")
    if not isinstance(table, pd.DataFrame):
        ids = [str(i) for i in range(len(table))]
        table = pd.DataFrame({"id": ids, "text": list(table)}).assign(source="", label="")
    each = [slots] * len(table) if slots is None or isinstance(slots, Slot) else list(slots)
    opening = parts.begin + parts.system * system + parts.headers[asked_by]
    closing = parts.end + parts.headers[answered_by]
    return [
        _with_slot(model, opening, str(text).strip(), closing, row, slot)
        for text, row, slot in zip(table.text, table.itertuples(), each, strict=True)
    ]


def _with_slot(model: Model, opening: str, text: str, closing: str, row, slot: Slot | None) -> Prompt:
    if slot is None:
        return _tokenize(model, opening, text, closing, row)
    if slot.place not in PLACES:
        raise ParameterError(f"a slot has no place {slot.place!r}", f"use one of {', '.join(PLACES)}")
    said = {
        "in": (opening + slot.text, closing, len(opening)),
        "end": (opening, slot.text + closing, len(opening + text)),
        "out": (opening, closing + slot.text, len(opening + text + closing)),
    }
    before, after, start = said[slot.place]
    prompt = _tokenize(model, before, text, after, row)
    first = start + len(slot.opened)
    whole = before + text + after
    offsets = model.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    last = first + len(slot.inner)
    inside = [i for i, (a, b) in enumerate(offsets) if a < last and b > first]
    if not inside:
        raise UserError(f"prompt {row.id}: no token covers what stands in its slot {slot.inner!r}")
    return replace(prompt, slot=(inside[0], inside[-1] + 1))
