"""``python -m refusal.model.convert model.gguf folder``: a GGUF file as bf16 safetensors with its tokenizer.
What cannot be used ends in one line on stderr.
"""

import os
import re
import sys
from pathlib import Path

from refusal.base.errors import UserError
from refusal.base.machine import end_with

# tables that transformers computes from the configuration; and what its readers of single architectures take
# under a name of their own
READ_OTHERWISE = re.compile(
    r"rope_(freqs|factors_(long|short))\.weight|output\.weight|.*_exps\.(weight|bias)"
)


def contents(gguf: Path) -> tuple[str, list[str]]:
    """The architecture and the names of the tensors in `gguf`. Raises UserError for one part of several,
    which holds some of the weights only.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(gguf)
    except Exception as error:  # a cut file shows in many ways
        raise UserError(
            f"it cannot be read, damaged or incomplete perhaps ({type(error).__name__}: {error})"
        ) from error
    split = reader.get_field("split.count")
    if split is not None and (parts := int(split.contents())) > 1:
        raise UserError(
            f"it is one of {parts} parts: join them with `llama-gguf-split --merge FIRST_PART WHOLE_FILE`, "
            f"and give the whole file"
        )
    architecture = reader.get_field("general.architecture")
    if architecture is None:
        raise UserError("it does not name its architecture")
    return architecture.contents(), [tensor.name for tensor in reader.tensors]


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` into `folder`, in bfloat16. The weights are those of the quantised file, not of the
    original model.

    Raises UserError unless every weight of the model is in the file, and every tensor of the file in the
    model.
    """
    architecture, names = contents(gguf)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    from refusal.model.loading import whole

    model, found = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
        output_loading_info=True,
    )  # ty: ignore[not-iterable]  # its type leaves out the loading info
    whole(gguf.name, found)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    # transformers passes over names that it does not know without a word
    known = get_gguf_hf_weights_map(model, processor)
    if unread := [name for name in names if name not in known and not READ_OTHERWISE.fullmatch(name)]:
        more = f" and {len(unread) - 1} more tensors" if len(unread) > 1 else ""
        raise UserError(
            f"{gguf.name} holds {unread[0]}{more}, which transformers does not read into "
            f"{type(model).__name__}"
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    # transformers refuses to save a model that still calls itself quantised
    for owner, attributes in (
        (model, ("hf_quantizer", "quantization_method")),
        (model.config, ("quantization_config", "_pre_quantization_dtype")),
    ):
        for attribute in attributes:
            owner.__dict__.pop(attribute, None)
    model.is_quantized = False
    if model.config.tie_word_embeddings:
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # ty: ignore[missing-union-attribute]  # its type holds None, for no tokenizers


if __name__ == "__main__":
    end_with(os.getppid())
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        sys.exit(error.what)
