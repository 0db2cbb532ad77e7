"""New tokens for a model to say before its answer: into its tokenizer and its embeddings, which stay tied
where they were.

A vocabulary is often padded, so that a new token's row may be there already; it is made new all the same.
"""

from collections.abc import Sequence
from typing import cast

import torch
from transformers import PreTrainedModel

from refusal.base.errors import ParameterError, nearest


def add_tokens(tokenizer, tokens: Sequence[str]) -> list[int]:
    """Add `tokens` to the tokenizer as special tokens; their ids. Raises ParameterError for one that it has
    already, or that is no single token then.
    """
    if known := [t for t in tokens if t in tokenizer.get_vocab()]:
        raise ParameterError(f"the tokenizer has a token {known[0]!r} already", "choose other names")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False
    )
    return ids_of(tokenizer, tokens)


def ids_of(tokenizer, tokens: Sequence[str]) -> list[int]:
    """The ids of tokens, looked up as they are: no piece of another one stands for them. Raises
    ParameterError for one that the tokenizer has not, or that it reads as several.
    """
    added = tokenizer.get_added_vocab()
    for token in tokens:
        if token not in added:
            raise ParameterError(f"the tokenizer has no token {token!r}", nearest(token, added))
        if tokenizer(token, add_special_tokens=False)["input_ids"] != [added[token]]:
            raise ParameterError(f"the tokenizer reads {token!r} as several tokens", "choose another name")
    return [added[token] for token in tokens]


@torch.no_grad()
def make_room(module: PreTrainedModel, ids: Sequence[int], seed: int) -> None:
    """Give each of the new `ids` a row in the embeddings and, where that is another matrix, in the head:
    the mean row and noise, of the mean norm.
    """
    tables = lambda: cast(
        list[torch.nn.Linear], [module.get_input_embeddings(), module.get_output_embeddings()]
    )
    first, head = tables()
    tied = head.weight is first.weight
    if max(ids) >= len(first.weight):
        module.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    for weight in [table.weight for table in tables()[: 1 if tied else 2]]:
        old = torch.ones(len(weight), dtype=torch.bool)
        old[list(ids)] = False
        mean, norm = weight[old].float().mean(0), weight[old].float().norm(dim=-1).mean()
        noise = torch.randn(len(ids), weight.shape[1], generator=generator) * weight[old].float().std(0).cpu()
        rows = mean.cpu() + noise
        weight[list(ids)] = (rows / rows.norm(dim=-1, keepdim=True) * norm.cpu()).to(weight)
