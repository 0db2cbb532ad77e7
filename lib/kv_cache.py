"""The key-value cache of rows that are decoded together, with room for what they will say.

transformers' own cache copies all keys and values at every step to append one token; here a step writes its own and nothing else,
which is a third of a step's time for a small model.
"""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _Roomy(DynamicLayer):
    """One layer: `keys` and `values` are views, [row, head, token, d_head], of tensors that have room for more tokens than `width`."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, width: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.whole, self.keys, self.values = (keys, values), keys[:, :, :width], values[:, :, :width]

    def update(self, key_states, value_states, *args, **kwargs):
        start, n = self.keys.shape[2], key_states.shape[2]
        for whole, new in zip(self.whole, (key_states, value_states), strict=True):
            whole.narrow(2, start, n).copy_(new)  # raises where there is no room left
        self.keys, self.values = (whole[:, :, : start + n] for whole in self.whole)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        self.whole = tuple(whole[indices] for whole in self.whole)
        self.keys, self.values = (whole[:, :, : self.keys.shape[2]] for whole in self.whole)


def merged(parts: list, n_rows: int, width: int, room: int) -> tuple[DynamicCache, torch.Tensor]:
    """One cache of all rows from [(rows, cache, mask [row, token])], padded on the left to `width` and with room for `room` tokens more, and its
    mask [row, width]; the parts are emptied on the way."""
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
