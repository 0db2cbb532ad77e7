"""Keys and values: of rows that are decoded together, with room for what they will say; and of what prompts
begin with, kept for what follows.

The tokens that follow are padded on their left, so padding may lie between a row's tokens. A window of
attention counts it: `reach` says how far it may.

transformers' own cache copies all keys and values at every step to append one token; here a step writes its
own and nothing else, which is a third of a step's time for a small model.
"""

import functools
import math
import weakref
from collections.abc import Callable, Hashable, Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "local_attention_window_len",
)
# columns of padding, and tokens on either side of it: no multiples of what attention may be cut into
GAP, PART = 23, 7
_measured: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def reach(module) -> float:
    """Columns in which padding between the tokens of a row changes nothing: as many as the narrowest window
    of any layer, any number (inf) where all layers see all tokens, and 0 where the model measures distance by
    column in other ways, as some position biases do.
    """
    config = module.config.get_text_config(decoder=True)
    if module not in _measured:
        _measured[module] = _measures_columns(module)
    if _measured[module]:
        return 0
    if set(getattr(config, "layer_types", None) or ["unknown"]) == {"full_attention"}:
        return math.inf
    unused = {"sliding_window"} if getattr(config, "use_sliding_window", True) is False else set()
    return min(
        (size for name in WINDOWS if name not in unused and (size := getattr(config, name, None))),
        default=math.inf,
    )


@torch.no_grad()
def _measures_columns(module) -> bool:
    """Whether padding between tokens changes what a model says after them, against as much padding before
    them.
    """
    table = module.get_input_embeddings()
    tokens, padding = (
        torch.arange(2, 2 + 2 * PART, device=module.device) % table.num_embeddings,
        torch.zeros(GAP, dtype=torch.long, device=module.device),
    )
    join = lambda x, gap: torch.stack([torch.cat([gap, x]), torch.cat([x[:PART], gap, x[PART:]])])
    mask = join(torch.ones_like(tokens), padding)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    logits = (
        module(input_ids=join(tokens, padding), attention_mask=mask, position_ids=positions, use_cache=False)
        .logits[:, -1]
        .float()
    )
    return bool(
        (logits[0] - logits[1]).abs().max() > (1e-3 if module.dtype == torch.float32 else 0.05) * logits.std()
    )


class _Roomy(DynamicLayer):
    """One layer: `keys` and `values` are views, [row, head, token, d_head], of tensors that have room for
    more tokens than `width`.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, width: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.whole = (keys, values)
        self.keys, self.values = keys[:, :, :width], values[:, :, :width]

    def update(self, key_states, value_states, *args, **kwargs):
        start, n = self.get_seq_length(), key_states.shape[2]
        for whole, new in zip(self.whole, (key_states, value_states), strict=True):
            whole.narrow(2, start, n).copy_(new)  # raises where there is no room left
        self.keys, self.values = (whole[:, :, : start + n] for whole in self.whole)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        width = self.get_seq_length()
        self.whole = (self.whole[0][indices], self.whole[1][indices])
        self.keys, self.values = (whole[:, :, :width] for whole in self.whole)


def merged(parts: list, n_rows: int, room: int) -> tuple[DynamicCache, torch.Tensor]:
    """One cache of all rows from [(rows, cache, mask [row, token])], padded on the left to the widest and
    with room for `room` tokens more, and its mask [row, width]; the parts are emptied on the way.
    """
    width = max(part.shape[1] for _, _, part in parts)
    cache, mask = DynamicCache(), torch.zeros(n_rows, width, dtype=torch.long, device=parts[0][2].device)
    for rows, _, part in parts:
        mask[rows, width - part.shape[1] :] = part
    for layer in range(len(parts[0][1].layers)):
        whole = []
        for name in ("keys", "values"):
            tensors = [(rows, getattr(part.layers[layer], name)) for rows, part, _ in parts]
            _, heads, _, d_head = tensors[0][1].shape
            whole.append(tensors[0][1].new_zeros(n_rows, heads, width + room, d_head))
            for rows, tensor in tensors:
                whole[-1][rows, :, width - tensor.shape[2] : width] = tensor
            for _, part, _ in parts:
                setattr(part.layers[layer], name, None)
        cache.layers.append(_Roomy(*whole, width))
    return cache, mask


class Prefix:
    """Keys and values of what rows begin with, of one model; passes over the rest of a row go on from them.

    `of` is the revision of the model that has read it. Each sequence is its tokens, and on request a name of
    what else tells it from its like: the edits under which it is read. `read` gives keys and values of all
    sequences, [sequence, head, width, d_head], and their mask [sequence, width]; it is called when they are
    first asked for.
    """

    def __init__(
        self,
        sequences: Sequence[tuple[int, ...]],
        read: Callable[[], tuple[DynamicCache, torch.Tensor]],
        under: Sequence[Hashable] | None = None,
        *,
        of: str,
    ):
        self.of = of
        self.sequences = list(sequences)
        names = self.sequences if under is None else zip(self.sequences, under, strict=True)
        self._row = {name: k for k, name in enumerate(names)}
        self._lengths = sorted({len(ids) for ids in self.sequences}, reverse=True)
        self._read = functools.cache(read)

    def row(self, ids: tuple[int, ...], under: Hashable = None) -> int:
        """The index of a sequence. Raises KeyError where there is no such one."""
        return self._row[ids] if under is None else self._row[ids, under]

    def longest(self, ids: Sequence[int], most: int) -> int | None:
        """The index of the longest sequence, of `most` tokens at most, with which `ids` begin; None where
        there is none.
        """
        found = (self._row.get(tuple(ids[:n])) for n in self._lengths if n <= most)
        return next((k for k in found if k is not None), None)

    def length(self, row: int | None) -> int:
        """The tokens of a sequence."""
        return 0 if row is None else len(self.sequences[row])

    def rows(self, which: Sequence[int | None]) -> tuple[DynamicCache, torch.Tensor]:
        """A cache of its own for each sequence in `which`, as narrow as they allow, and its mask [row,
        width]; all masked where there is none.
        """
        whole, mask = self._read()
        index = torch.tensor([k or 0 for k in which], device=mask.device)
        mask = mask[index] * torch.tensor([[k is not None] for k in which], device=mask.device)
        # what all of them are padded with; inside a sequence there may be padding as well
        first = int((~mask.any(0)).cumprod(0).sum())
        return picked(whole, index, first), mask[:, first:]


def kept(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, [row, head, token, d_head]. Raises TypeError where a layer has none."""
    found = []
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise TypeError(f"a {type(layer).__name__} holds no keys and values of every token")
        found.append((layer.keys, layer.values))
    return found


def picked(cache: DynamicCache, index: torch.Tensor, first: int = 0) -> DynamicCache:
    """A cache of its own of the rows `index`, which may repeat, from the token `first` on."""
    found = DynamicCache()
    for keys, values in kept(cache):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys[:, :, first:][index], values[:, :, first:][index]
        found.layers.append(layer)
    return found
