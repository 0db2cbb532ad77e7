"""Load a model into nnsight under uniform names, and check at load time that the names mean what the library
takes them for.

Names after loading, on every architecture: ``layers[l]``, ``layers[l].self_attn``, ``….self_attn.o_proj``,
``layers[l].mlp``, ``ln_final``, ``lm_head``. The idea of uniform names with load-time checks is nnterp's
(Dumas, 2025).

Layers: ``h[l]`` is the input of block l, ``h[n_layers]`` the output of the last block before the final norm.
"""

import functools
import gc
import os
import re
from dataclasses import dataclass, replace

import torch
import transformers
from nnsight import TransformersModel, ndif

from refusal.base.errors import ParameterError, UserError, nearest
from refusal.base.machine import cpu_has_bfloat16, give_back
from refusal.model import attention, layout, vision
from refusal.model.registry import DATE, DEVICES, DTYPES, RECIPES, TINY_BASE, TINY_CLIFF, TINY_TOKENS
from refusal.model.sources import check_model, locate

ndif.register("refusal")  # a remote request carries the source of this package with it

RENAME = {
    "*.layers": "layers",
    "*.h": "layers",
    "*.norm": "ln_final",
    "*.ln_f": "ln_final",
    "*.final_layernorm": "ln_final",
    "gpt_neox.final_layer_norm": "ln_final",
    "embed_out": "lm_head",
    "attn": "self_attn",
    "attention": "self_attn",
    "self_attention": "self_attn",
    "attn.c_proj": "attn.o_proj",
    "attn.out_proj": "attn.o_proj",
    "attention.dense": "attention.o_proj",
    "self_attention.dense": "self_attention.o_proj",
    "self_attn.dense": "self_attn.o_proj",
    "self_attn.out_proj": "self_attn.o_proj",
    "feed_forward": "mlp",
    "block_sparse_moe": "mlp",
}
# fixed, because bf16 results depend on the shape of a batch
BATCH_TOKENS = {"cpu": 2048, "mps": 4096, "cuda": 32768}
# tensors that older versions of transformers saved and that hold no weights: frequencies of rotary positions,
# causal masks, token numbers
NO_WEIGHTS = re.compile(r"(inv_freq|masked_bias|position_ids|(attn|attention)\.bias)$")


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: the nnsight model `nn` with uniform names, and what every caller needs to know about
    it.

    `attn_writes` and `mlp_writes` name the submodule of a block whose output is added to the residual stream
    (with Gemma 2 and 3, OLMo 2 and GLM-4 that is a norm after the sublayer), after it is multiplied by
    `residual_factor` (1 except in Granite and its kin). `max_positions` is the number of tokens that the
    model has positions for, where that is a hard limit (a table of positions: GPT-2), else None.
    """

    nn: TransformersModel
    name: str
    revision: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    remote: bool | str
    template: str | None
    date: str
    attn_writes: str
    mlp_writes: str
    residual_factor: float
    max_positions: int | None
    tuple_outputs: tuple[bool, bool, bool]  # whether block, attention, MLP return a tuple
    loudest_share: float
    eyes: vision.Eyes | None = None  # of a vision-language model

    @property
    def tokenizer(self):
        return self.nn.tokenizer

    @property
    def module(self) -> transformers.PreTrainedModel:
        """The plain transformers model."""
        return self.nn._module


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; `auto` takes CUDA where there is one, else the CPU. Raises ParameterError."""
    if device not in DEVICES:
        raise ParameterError(f"DEVICE={device} is not known", nearest(device, DEVICES))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise ParameterError(f"DEVICE={device}: this machine has none", "use DEVICE=cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype by name; `auto` is bfloat16 where the hardware computes in it, else float32. Raises
    ParameterError.
    """
    if dtype not in DTYPES:
        raise ParameterError(f"DTYPE={dtype} is not known", nearest(dtype, DTYPES))
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.float32


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | str = "auto",
    remote=0,
    template: str | None = None,
    date: str = DATE,
) -> Model:
    """Load a registered model, a hub id, a folder or a `.gguf` file, frozen and in evaluation mode.

    `remote`: 0 here, 1 on NDIF, a URL on that host, "local" the remote path run here. `template`: text with
    ``{x}`` where the instruction goes, for tokenizers without a chat template. Raises ParameterError or
    UserError.
    """
    where, remote = choose_device(device), _remote(remote)
    kind = check_model(name)
    gc.collect()  # what the caller no longer refers to, another model perhaps
    give_back()
    if remote is True and kind != "hub":
        raise ParameterError(
            f"REMOTE=1 runs hub models on NDIF; {name} is not a hub id", "use REMOTE=local, or give a hub id"
        )
    if kind == "tiny":
        from refusal.model.tiny import planted_model, planted_tokens

        if name == TINY_TOKENS:
            module, tokenizer = planted_tokens(next(r.tokens for r in RECIPES.values() if r.tokens))
        else:
            module, tokenizer = planted_model(refuses=name != TINY_BASE, cliff=name == TINY_CLIFF)
        return wrap(
            module.to(where),
            tokenizer,
            name=name,
            revision=locate(name).revision,
            batch_tokens=batch_tokens,
            remote=remote,
            template=template,
            date=date,
        )
    if remote is True:
        nn = TransformersModel(name, task="text-generation", rename=RENAME, trust_remote_code=False)
        return layout.by_names(
            _describe(
                nn, name, name, torch.device("meta"), nn._module.dtype, batch_tokens, remote, template, date
            )
        )
    source = locate(name)
    tokenizer = _tokenizer(source.folder, source.revision)
    module, eyes = read_weights(source.folder, choose_dtype(dtype, where)).to(where), None
    if vision.is_seeing(module.config):
        eyes = vision.eyes_of(module.eval().requires_grad_(False), source.folder)
        module = vision.language_model(module)
    model = wrap(
        module,
        tokenizer,
        name=name,
        revision=source.revision,
        batch_tokens=batch_tokens,
        remote=remote,
        template=template,
        date=date,
    )
    return replace(model, eyes=eyes)


def read_weights(folder, dtype: torch.dtype):
    """The causal language model in `folder`, or the vision-language model, every weight from its files.
    Raises UserError where it cannot be read, or lacks or holds more tensors.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        text = config.get_text_config(decoder=True)
        if not (getattr(text, "pad_token_id", None) or 0) < getattr(text, "vocab_size", float("inf")):
            # transformers would give this row of the embedding a meaning that it has not
            text.pad_token_id = None
        seeing = transformers.AutoModelForImageTextToText
        kind = seeing if vision.is_seeing(config) else transformers.AutoModelForCausalLM
        module, found = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )  # ty: ignore[not-iterable]  # its type leaves out the loading info
    # a cut file, an unknown architecture, shapes that do not fit, no memory: each library has exceptions of
    # its own
    except Exception as error:
        raise UserError(
            f"{folder} cannot be loaded as a language model: {_first_line(error)}",
            "a decoder-only model of an architecture that transformers knows is needed, with all its "
            "safetensors files whole",
        ) from error
    whole(folder, found)
    return module


def whole(source, found: dict) -> None:
    """Raise UserError unless every weight came from the files of `source` and all in them was taken; `found`
    is transformers' loading info.
    """
    kinds = {
        "missing_keys": "lacks",
        "unexpected_keys": "holds, beside what its architecture has,",
        "mismatched_keys": "holds in another shape",
    }
    for keys, what in kinds.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in found[keys])
        if names := [name for name in names if not NO_WEIGHTS.search(name)]:
            more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise UserError(
                f"{source} {what} {names[0]}{more}",
                "some weights would be random or ignored; get the complete model, or save it again",
            )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


@functools.lru_cache(maxsize=4)
def _tokenizer(folder, revision: str):
    """Kept by folder and what is in it, for reading one takes longer than loading the weights of a small
    model. Raises UserError.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as with weights
        raise UserError(
            f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}", "tokenizer.json is needed"
        ) from error


def text_decoder(module):
    """The causal language model over text alone that a multimodal one holds (Gemma 3 from 4B on), with its
    weights; any other model as it is.
    """
    text = module.config.get_text_config(decoder=True)
    if text is module.config or type(text) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return module
    with torch.device("meta"):
        alone = transformers.AutoModelForCausalLM.from_config(
            text, dtype=module.dtype, trust_remote_code=False
        )
    decoder = getattr(module.base_model, "language_model", None)
    if type(decoder) is not type(alone.base_model):
        return module
    setattr(alone, alone.base_model_prefix, decoder)
    alone.set_output_embeddings(module.get_output_embeddings())
    alone.generation_config = module.generation_config
    return alone


def _give_pad_token(tokenizer, rows: int) -> None:
    """A padding token whose id the embedding has, which not every tokenizer brings; what stands there is
    masked.
    """
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= rows:
        end = tokenizer.eos_token_id
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end if end is not None and end < rows else 0)


def wrap(
    module,
    tokenizer,
    *,
    name: str,
    revision: str = "",
    batch_tokens="auto",
    remote=0,
    template: str | None = None,
    date: str = DATE,
) -> Model:
    """A transformers model and its tokenizer as a Model, checked. Raises UserError when the layout is not
    understood.
    """
    module = text_decoder(module).eval().requires_grad_(False)
    if (
        module.device.type == "cpu"
        # attention of several tokens reads keys and values that query heads share as they are, not copied for
        # each head
    ):
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        if module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(attention.NAME)
    if module.get_output_embeddings() is None or module.get_input_embeddings() is None:
        raise UserError(
            f"{name} ({type(module).__name__}) has no token embedding or no vocabulary head",
            "a causal language model is needed",
        )
    # the last position's states are a slice; multiplied as it is, torch copies a frozen vocabulary matrix
    # once per row (15 x slower)
    module.get_output_embeddings().register_forward_pre_hook(
        lambda _m, args: (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
    )
    _give_pad_token(tokenizer, module.get_input_embeddings().num_embeddings)
    # without `device`, transformers' pipeline would move the model to an accelerator wherever there is one
    try:
        nn = TransformersModel(
            module,
            tokenizer=tokenizer,
            task="text-generation",
            rename=RENAME,
            device=module.device,
            trust_remote_code=False,
        )
    except ValueError as error:  # names of RENAME that fit several parts
        raise _unknown_layout(name, module, _first_line(error)) from error
    return layout.checked(
        _describe(
            nn, name, revision, module.device, module.dtype, batch_tokens, _remote(remote), template, date
        )
    )


def _unknown_layout(name: str, module, reason: str) -> UserError:
    return UserError(
        f"{name} ({type(module).__name__}) is not laid out as a decoder this library knows: {reason}",
        "if only a name differs, add it to RENAME in lib/refusal/model/loading.py",
    )


def _remote(remote) -> bool | str:
    if remote in (0, "0", False, None):
        return False
    if remote in (1, "1", True):
        return True
    if remote == "local":
        return "local"
    if str(remote).startswith(("http://", "https://")):
        from nnsight import CONFIG

        CONFIG.API.HOST = str(remote)
        return True
    raise ParameterError(
        f"REMOTE={remote} is not known", "use 0, 1, local or the URL of an NDIF-compatible host"
    )


def _has(nn, path: str) -> bool:
    """Whether a part of that uniform name is there."""
    try:
        for name in path.split("."):
            nn = nn[int(name)] if name.isdigit() else getattr(nn, name)
        return isinstance(nn._module, torch.nn.Module)
    except (AttributeError, IndexError, TypeError):
        return False


def _describe(nn, name, revision, device, dtype, batch_tokens, remote, template, date) -> Model:
    config = nn._module.config.get_text_config(decoder=True)
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    if missing := next((what for what in names if not isinstance(getattr(config, what, None), int)), None):
        raise _unknown_layout(name, nn._module, f"its configuration has no {missing}")
    n_layers, n_heads, d_model = (getattr(config, what) for what in names)
    for path in [
        "ln_final",
        "lm_head",
        *(
            f"layers.{layer}.{part}"
            for layer in range(n_layers)
            for part in ("mlp", "self_attn", "self_attn.o_proj")
        ),
    ]:
        if not _has(nn, path):
            raise _unknown_layout(name, nn._module, f"it has no {path}")
    projection = nn.layers[0].self_attn.o_proj._module
    width = getattr(projection, "in_features", None) or getattr(projection, "weight", torch.empty(0)).shape[0]
    if batch_tokens == "auto":
        batch_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    return Model(
        nn,
        name,
        revision,
        n_layers,
        d_model,
        n_heads,
        width // n_heads,
        device,
        dtype,
        int(batch_tokens),
        remote,
        template,
        date,
        "self_attn",
        "mlp",
        1.0,
        layout.max_positions(nn._module, config),
        (False, True, False),
        0.0,
    )
