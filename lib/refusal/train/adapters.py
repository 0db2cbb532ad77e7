"""Low-rank adapters as everything here is taught with them: rank 16, at every linear layer or at those
named.
"""

from collections.abc import Sequence

from peft import LoraConfig  # the field's own library for them


def low_rank(where: str | list[str] = "all-linear", rows: Sequence[int] = ()) -> LoraConfig:
    """The adapters' configuration; of the embeddings the `rows` alone learn, none by default."""
    return LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=where,
        trainable_token_indices=list(rows) or None,
        task_type="CAUSAL_LM",
    )
