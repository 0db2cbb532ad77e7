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


def shared_length(model: "Model", rows: Sequence[Row]) -> int:
    """Tokens that all rows share before any instruction; 0 where everything runs remotely.

    Only edits of whole prompts may touch them; they end before the first position that an edit lists itself
    or has a value of its own for.
    """
    if model.remote or not rows:
        return 0
    lists = lambda e: isinstance(e.span, tuple) or (isinstance(e, Patch) and e.values.dim() > 1)
    listed = [k for r in rows for e in r.edits if lists(e) for k in r.prompt.span(e.span)]
    return min([opening_length(list({id(r.prompt): r.prompt for r in rows}.values())), *listed])


class Opening:
    """The first `n` tokens of all `rows`: their keys and values, and their states without edits."""

    def __init__(self, model: "Model", rows: Sequence[Row], n: int):
        self.model, self.rows, self.n = model, rows, n
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
            edits = [self._edits(next(r for r, key in keys.items() if key == k)) for k in distinct]
            ids = tuple(self.rows[0].prompt.ids[: self.n])
            self._edited = (
                mark,
                Prefix(
                    [ids] * len(distinct),
                    lambda: self._read(edits, first),
                    under=distinct,
                    of=self.model.revision,
                ),
            )
        prefix = self._edited[1]
        return prefix.rows([prefix.row(prefix.sequences[0], keys[r]) for r in rows])[0]

    def _edits(self, row: int) -> list[Edit]:
        return [e for e in self.rows[row].edits if e.span in ON_OPENING]

    def _key(self, row: int) -> tuple:
        return tuple(id(e) for e in self._edits(row))

    def _read(self, arms: Sequence[Sequence[Edit]], first: int) -> tuple[DynamicCache, torch.Tensor]:
        ids = tuple(self.rows[0].prompt.ids[: self.n])
        rows = [Row(Prompt("", "", "", "", ids, 0, self.n), tuple(edits)) for edits in arms]
        whole, cache = self._batch(len(rows)), DynamicCache()
        start = (first, self.clean[1][first].expand(len(rows), -1, -1)) if first else None
        forward(self.model, whole, compile_edits(self.model, rows, self.n), cache=cache, start=start)
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
