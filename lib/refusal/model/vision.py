"""The language model within a released vision-language model, and images as what it reads of them.

In LLaVA-1.5 (arXiv 2310.03744), SmolVLM and their kin an image is vectors in the place of the embeddings of
placeholder tokens, and all else is a causal language model. So an image is an edit, ``Patch(tokens, 0,
positions)``, on a prompt with placeholders there: read, scored and decoded like any other.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float, UInt8
from torch import Tensor

from refusal.base.errors import UserError

WHOLE = {"do_image_splitting": False}  # for processors that else cut a picture into crops


@dataclass(frozen=True, eq=False)
class Eyes:
    """The vision-language model that a language model is part of, and what prepares pictures for it."""

    vlm: Any
    processor: Any


@dataclass(frozen=True)
class Tags:
    """What opens an image in a prompt, holds the place of one of its tokens, and closes it."""

    opened: str
    holds: str
    closed: str


def is_seeing(config) -> bool:
    """Whether transformers knows a model of this configuration with images, and none with text alone."""
    with_text = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return not with_text and type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def eyes_of(vlm, folder) -> Eyes:
    """A released vision-language model with the processor that lies beside its weights. Raises UserError
    where that cannot be read.
    """
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a library that it needs is missing, a file of it; each has its own
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"what prepares pictures for {folder} cannot be loaded: {reason[:300]}",
            "its processor's files, and what they ask for, are needed",
        ) from error
    return Eyes(vlm, processor)


def seen(
    eyes: Eyes, pictures: UInt8[np.ndarray, "picture height width 3"]
) -> tuple[Float[Tensor, "picture token d"], Tags]:
    """What the language model reads of pictures, each looked at as a whole, and what stands around them in a
    prompt. Raises UserError as `image_tokens`, and where the tokens of an image do not stand together.
    """
    whole = {} if not hasattr(eyes.processor.image_processor, "do_image_splitting") else WHOLE
    sign, id = eyes.processor.image_token, eyes.vlm.config.image_token_id
    given = eyes.processor(
        text=[sign] * len(pictures),
        images=[[picture] for picture in pictures],
        return_tensors="pt",
        add_special_tokens=False,
        **whole,
    )
    ids = given.pop("input_ids")[0].tolist()
    at = [k for k, token in enumerate(ids) if token == id]
    takes = set(inspect.signature(eyes.vlm.get_image_features).parameters)
    device, dtype = eyes.vlm.device, eyes.vlm.dtype
    more = {k: x.to(device, dtype if x.is_floating_point() else None) for k, x in given.items() if k in takes}
    tokens = image_tokens(eyes.vlm, **more)
    if not at or at != list(range(at[0], at[-1] + 1)) or len(at) != tokens.shape[1]:
        raise UserError(
            f"{_name(eyes.vlm)} reads {tokens.shape[1]} tokens of a picture and has {len(at)} places for it",
            "a model such as LLaVA-1.5 or SmolVLM is needed",
        )
    text = eyes.processor.tokenizer.decode
    return tokens, Tags(text(ids[: at[0]]), text([id]), text(ids[at[-1] + 1 :]))


def image_tokens(vlm, pixel_values: Tensor, **more) -> Float[Tensor, "picture token d"]:
    """What the language model of `vlm` reads of each picture, in the order of its placeholders: float32, on
    the CPU. `pixel_values` [picture, …] and `more` are what the model's own processor gives; the crops of one
    picture, [picture, crop, …], count as that picture.

    Raises UserError for a model in which an image is more than that (`language_model`), and for pictures of
    different numbers of tokens.
    """
    _check_kind(vlm)
    with torch.no_grad():
        found = vlm.get_image_features(pixel_values=pixel_values, **more)
    # up to version 4 of transformers it is the features themselves
    found = getattr(found, "pooler_output", found)
    parts = [found] if isinstance(found, Tensor) else list(found)
    d, n = vlm.config.get_text_config(decoder=True).hidden_size, len(pixel_values)
    if bad := [part for part in parts if not isinstance(part, Tensor) or part.shape[-1] != d]:
        raise UserError(
            f"{_name(vlm)} does not give an image as vectors of width {d}: {_shape(bad[0])}",
            "a model whose images stand in the place of token embeddings is needed",
        )
    flat = [part.reshape(-1, d) for part in parts]
    whole = torch.cat(flat)
    if len(whole) % n or (len(flat) == n and len({len(part) for part in flat}) > 1):
        raise UserError(
            f"{_name(vlm)} gives pictures of different numbers of tokens: {[len(part) for part in flat]}",
            "give one picture at a time",
        )
    return whole.reshape(n, -1, d).float().cpu()


def language_model(vlm) -> transformers.PreTrainedModel:
    """The causal language model of `vlm`, for `refusal.model.loading.wrap`: it shares the modules themselves.

    Raises UserError for a model whose pass over an image is not that of these vectors in the place of
    embeddings: where positions have several axes, or features of the image are added at several layers (the
    Qwen-VL models), or the tokens of an image see those after them (Gemma 3, PaliGemma); and for one that
    holds no causal language model under a known name.
    """
    _check_kind(vlm)
    text = vlm.config.get_text_config(decoder=True)
    decoder, head = vlm.get_decoder(), vlm.get_output_embeddings()
    if type(text) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or head is None:
        raise _no_language_model(vlm)
    with torch.device("meta"):
        alone = transformers.AutoModelForCausalLM.from_config(text, dtype=vlm.dtype, trust_remote_code=False)
    if type(decoder) is not type(alone.base_model):
        raise _no_language_model(vlm)
    setattr(alone, alone.base_model_prefix, decoder)
    alone.set_output_embeddings(head)
    if vlm.generation_config is not None:
        alone.generation_config = vlm.generation_config
    return alone


def _check_kind(vlm) -> None:
    """Raise UserError unless an image is vectors in the place of token embeddings, and nothing else."""
    if not hasattr(vlm, "get_image_features"):
        raise UserError(
            f"{_name(vlm)} gives no features of images", "a model such as LLaVA-1.5 or SmolVLM is needed"
        )
    rotary = getattr(vlm.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    sight = getattr(vlm.config, "vision_config", None)
    why = None
    if hasattr(vlm.base_model, "get_rope_index") or "mrope_section" in rotary:
        why = "positions of image tokens have several axes"
    if getattr(sight, "deepstack_visual_indexes", None):
        why = "features of an image are added at several layers"
    if "token_type_ids" in inspect.signature(vlm.forward).parameters:
        why = "the tokens of an image see those after them"
    if why:
        raise UserError(
            f"{_name(vlm)}: {why}, so an image is not an edit of token embeddings alone",
            "a model such as LLaVA-1.5 or SmolVLM is needed",
        )


def _no_language_model(vlm) -> UserError:
    return UserError(
        f"{_name(vlm)} holds no causal language model that is laid out as transformers' own",
        "a model such as LLaVA-1.5 or SmolVLM is needed",
    )


def _name(vlm) -> str:
    return vlm.config.name_or_path or type(vlm).__name__


def _shape(part) -> str:
    return str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__
