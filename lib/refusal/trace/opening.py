"""What all rows of a call begin with, most often the chat template's own words: read once for each distinct
set of edits that acts on it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from refusal.trace.batches import Batch, batch
from refusal.trace.edits import Edit, Patch, Row, compile_edits
from refusal.trace.passes import forward
from refusal.trace.prefix import Prefix, kept, picked
from refusal.trace.prompts import Prompt, opening_length

if TYPE_CHECKING:
    from refusal.model.loading import Model

ON_OPENING = ("prompt", "every_token")  # spans that reach the tokens before the instruction


def _within(edit: Edit, prompt: Prompt, n: int) -> bool:
    """Whether an edit, of listed tokens or of the system prompt, acts on none but the first `n` tokens."""
    from_start = isinstance(edit.span, tuple) and min(edit.span, default=-1) >= 0
    if edit.span != "system" and not from_start:  # from the end they are other ones in the opening alone
        return False
    return max(prompt.span(edit.span), default=-1) < n


def _lists(edit: Edit) -> bool:
    """Whether an edit names tokens, or has a value of its own for each."""
    named = isinstance(edit.span, tuple) or edit.span == "system"
    return named or (isinstance(edit, Patch) and edit.values.dim() > 1)


def shared_length(model: "Model", rows: Sequence[Row]) -> int:
    """Tokens that all rows share before any instruction; 0 where everything runs remotely.

    Edits of whole prompts may touch them, and those which act on nothing else, such as a soft prompt's; they
    end before the first position that another edit lists itself or has a value of its own for.
    """
    if model.remote or not rows:
        return 0
    n = opening_length(list({id(r.prompt): r.prompt for r in rows}.values()))
    listed = [(e, r.prompt) for r in rows for e in r.edits if _lists(e)]
    while n:  # what is cut by one edit may be in the way of another
        new = min([n, *(k for e, p in listed if not _within(e, p, n) for k in p.span(e.span))])
        if new == n:
            break
        n = new
    return n


class Opening:
    """The first `n` tokens of all `rows`: their keys and values, with `grad` in the graph of what edits hold,
    and their states without edits.
    """

    def __init__(self, model: "Model", rows: Sequence[Row], n: int, grad: bool = False):
        self.model, self.rows, self.n, self.grad = model, rows, n, grad
        self._clean: tuple[DynamicCache, torch.Tensor] | None = None
        self._edited: tuple[tuple, Prefix] | None = None

    @property
    def clean(self) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of one row without edits, and its states [layer, token, d_model]."""
        if self._clean is None:
            cache, at = DynamicCache(), torch.arange(self.n)[None]
            read = {"resid": (range(self.model.n_layers + 1), at)}
            # most of what is read here is used by nobody, so it may overflow
            states, _ = forward(self.model, self._batch(1), read=read, cache=cache, check=False)
            self._clean = cache, states["resid"][0]
        return self._clean

    def cache(self, rows: Sequence[int], first: int = 0, among: Sequence[int] = ()) -> DynamicCache | None:
        """Keys and values for each of `rows`, read under its own edits; None where nothing is shared.

        Those under the edits of all rows `among` which batches are taken are kept between batches, where they
        are no more than a batch. With `first` > 0 the passes under edits start at that layer.
        """
        if not self.n:
            return None
        keys = {r: self._key(r) for r in (*among, *rows)}
        distinct = list(dict.fromkeys(keys.values()))
        if len(distinct) * self.n > self.model.batch_tokens:
            distinct = list(dict.fromkeys(keys[r] for r in rows))
        if distinct == [()]:
            return picked(self.clean[0], torch.zeros(len(rows), dtype=torch.long, device=self.model.device))
        mark = (first, *distinct)
        if self._edited is None or self._edited[0] != mark:
            like = [next(r for r, key in keys.items() if key == k) for k in distinct]
            ids = tuple(self.rows[0].prompt.ids[: self.n])
            self._edited = (
                mark,
                Prefix(
                    [ids] * len(distinct),
                    lambda: self._read(like, first),
                    under=distinct,
                    of=self.model.revision,
                ),
            )
        prefix = self._edited[1]
        return prefix.rows([prefix.row(prefix.sequences[0], keys[r]) for r in rows])[0]

    def _edits(self, row: int) -> list[Edit]:
        prompt = self.rows[row].prompt
        return [e for e in self.rows[row].edits if e.span in ON_OPENING or _within(e, prompt, self.n)]

    def _key(self, row: int) -> tuple:
        return tuple(id(e) for e in self._edits(row))

    def _read(self, like: Sequence[int], first: int) -> tuple[DynamicCache, torch.Tensor]:
        ids = tuple(self.rows[0].prompt.ids[: self.n])
        alone = lambda r: Prompt("", "", "", "", ids, 0, self.n, system=self.rows[r].prompt.system)
        rows = [Row(alone(r), tuple(self._edits(r))) for r in like]
        whole, cache = self._batch(len(rows)), DynamicCache()
        start = (first, self.clean[1][first].expand(len(rows), -1, -1)) if first else None
        ops = compile_edits(self.model, rows, self.n)
        forward(self.model, whole, ops, cache=cache, start=start, grad=self.grad)
        # skipped layers: their keys and values are never read, but their length is
        for layer, (k, v) in enumerate(kept(self.clean[0])[:first] if first else ()):
            cache.update(k.expand(len(rows), *k.shape[1:]), v.expand(len(rows), *v.shape[1:]), layer)
        return cache, whole.mask

    def _batch(self, rows: int) -> Batch:
        ids = self.rows[0].prompt.ids[: self.n]
        return batch(self.model, [ids] * rows, torch.ones(rows, 0, dtype=torch.long), range(rows))


def rest(model: "Model", rows: Sequence[Row], which: Sequence[int], n: int, side: str = "left") -> Batch:
    """The batch of what the rows `which` have after the first `n` tokens."""
    tails = [rows[i].prompt.ids[n:] for i in which]
    return batch(model, tails, torch.ones(len(tails), n, dtype=torch.long), which, side)
