"""Attention on a processor, when one token is decoded: the query heads that share keys and values as rows of
one product.

torch's kernel takes them one by one, which is up to ten times as slow for many short rows and half of a
decoding step.
"""

from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_heads_as_rows"


def attention(
    module, query, key, value, attention_mask, dropout: float = 0.0, scaling: float | None = None, **other
):
    """As transformers' ``sdpa``: query [row, head, token, d_head], key and value [row, shared head, token,
    d_head] → [row, token, head, d_head].
    """
    if query.shape[2] > 1 or any(other.get(name) is not None for name in ("position_bias", "softcap")):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **other
        )
    # [row, shared head, heads that share it, d_head]
    as_rows = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
    out = scaled_dot_product_attention(
        as_rows, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return out.flatten(1, 2)[:, None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
