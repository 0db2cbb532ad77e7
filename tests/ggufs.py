"""GGUF files small enough for a test."""

from pathlib import Path

import gguf
import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode


def tiny_gguf(path: Path, leave_out: str = "", extra: str = "", parts: int = 1) -> Path:
    """A llama of one block as a GGUF file, with a byte-level tokenizer; without one tensor, or with one more,
    or as the first of `parts`.
    """
    writer = gguf.GGUFWriter(path, "llama")
    letters = sorted(bytes_to_unicode().values())  # one for each byte, so that any text can be read
    tokens = ["<unk>", "<s>", "</s>", *letters, "ab", "bc"]
    writer.add_name("tiny")
    for add, value in (
        (writer.add_context_length, 2048),
        (writer.add_embedding_length, 32),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 4),
        (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, len(tokens)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, tokens),
        (writer.add_token_merges, ["a b", "b c"]),
        (writer.add_token_types, [3, 3, 3, *[1] * (len(letters) + 2)]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
    ):
        add(value)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    rng = np.random.default_rng(0)
    sizes = {
        "token_embd": (len(tokens), 32),
        "output_norm": (32,),
        "output": (len(tokens), 32),
        "blk.0.attn_norm": (32,),
        "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    } | ({extra: (4,)} if extra else {})
    for name, size in sizes.items():
        if name != leave_out:
            writer.add_tensor(f"{name}.weight", rng.normal(size=size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
