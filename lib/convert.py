"""``python -m lib.convert model.gguf folder``: a GGUF file as bf16 safetensors with its tokenizer."""

import sys
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` into `folder`, in bfloat16. The weights are those of the quantised file, not of the original model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers refuses to save a model that still calls itself quantised
    for owner, names in ((model, ("hf_quantizer", "quantization_method")), (model.config, ("quantization_config", "_pre_quantization_dtype"))):
        for name in names:
            owner.__dict__.pop(name, None)
    model.is_quantized = False
    if model.config.tie_word_embeddings:
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
