"""Load a model into nnsight under uniform names, and check at load time that the names mean what the library takes them for.

Names after loading, on every architecture: ``layers[l]``, ``layers[l].self_attn``, ``….self_attn.o_proj``, ``layers[l].mlp``,
``ln_final``, ``lm_head``. The idea of uniform names with load-time checks is nnterp's (Dumas, 2025).

Layers: ``h[l]`` is the input of block l, ``h[n_layers]`` the output of the last block before the final norm.
"""

import functools
import gc
import os
import warnings
from dataclasses import dataclass

import torch
import transformers
from nnsight import TransformersModel, ndif

from lib import attention
from lib.assets import check_model, locate
from lib.errors import ParameterError, UserError, nearest
from lib.machine import cpu_has_bfloat16, give_back
from lib.registry import DEVICES, DTYPES, TINY_BASE, TINY_CLIFF

ndif.register("lib")  # a remote request carries the source of this package with it

RENAME = {
    "*.layers": "layers", "*.h": "layers", "*.norm": "ln_final", "*.ln_f": "ln_final", "*.final_layer_norm": "ln_final",
    "embed_out": "lm_head", "attn": "self_attn", "attention": "self_attn", "attn.c_proj": "attn.o_proj", "attention.dense": "attention.o_proj",
}  # fmt: skip
BATCH_TOKENS = {"cpu": 2048, "mps": 4096, "cuda": 32768}  # fixed, because bf16 results depend on the shape of a batch
LOUD = 0.5  # share of the residual stream's squared norm in one coordinate above which raw differences of means mislead


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: the nnsight model `nn` with uniform names, and what every caller needs to know about it.

    `attn_writes` and `mlp_writes` name the submodule of a block whose output is added to the residual stream (with Gemma 2
    and 3 that is a norm after the sublayer, and weights cannot be orthogonalised exactly: `post_norms`).
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
    attn_writes: str
    mlp_writes: str
    post_norms: bool
    tuple_outputs: tuple[bool, bool, bool]  # whether block, attention, MLP return a tuple
    loudest_share: float

    @property
    def tokenizer(self):
        return self.nn.tokenizer

    @property
    def module(self) -> torch.nn.Module:
        """The plain transformers model."""
        return self.nn._module


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; `auto` takes CUDA where there is one, else the CPU. Raises ParameterError."""
    if device not in DEVICES:
        raise ParameterError(f"DEVICE={device} is not known", nearest(device, DEVICES))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda" and not torch.cuda.is_available()) or (device == "mps" and not torch.backends.mps.is_available()):
        raise ParameterError(f"DEVICE={device}: this machine has none", "use DEVICE=cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype by name; `auto` is bfloat16 where the hardware computes in it, else float32. Raises ParameterError."""
    if dtype not in DTYPES:
        raise ParameterError(f"DTYPE={dtype} is not known", nearest(dtype, DTYPES))
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.float32


def load(name: str, *, device: str = "auto", dtype: str = "auto", batch_tokens: int | str = "auto", remote=0, template: str | None = None) -> Model:
    """Load a registered model, a hub id, a folder or a `.gguf` file, frozen and in evaluation mode.

    `remote`: 0 here, 1 on NDIF, a URL on that host, "local" the remote path run here. `template`: text with ``{x}`` where the
    instruction goes, for tokenizers without a chat template. Raises ParameterError or UserError.
    """
    where, remote = choose_device(device), _remote(remote)
    kind = check_model(name)
    gc.collect()  # what the caller no longer refers to, another model perhaps
    give_back()
    if remote is True and kind != "hub":
        raise ParameterError(f"REMOTE=1 runs hub models on NDIF; {name} is not a hub id", "use REMOTE=local, or give a hub id")
    if kind == "tiny":
        from lib.tiny import planted_model

        module, tokenizer = planted_model(refuses=name != TINY_BASE, cliff=name == TINY_CLIFF)
        return wrap(module.to(where), tokenizer, name=name, revision=locate(name).revision, batch_tokens=batch_tokens, remote=remote, template=template)
    if remote is True:
        nn = TransformersModel(name, task="text-generation", rename=RENAME)
        return _describe(nn, name, name, torch.device("meta"), nn._module.dtype, batch_tokens, remote, template)
    source = locate(name)
    tokenizer = _tokenizer(source.folder, source.revision)
    try:
        module = transformers.AutoModelForCausalLM.from_pretrained(source.folder, dtype=choose_dtype(dtype, where), use_safetensors=True)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{source.folder} cannot be loaded as a language model: {error}", "a decoder-only model with safetensors is needed") from error
    return wrap(module.to(where), tokenizer, name=name, revision=source.revision, batch_tokens=batch_tokens, remote=remote, template=template)


@functools.lru_cache(maxsize=4)
def _tokenizer(folder, revision: str):
    """Kept by folder and what is in it, for reading one takes longer than loading the weights of a small model."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def wrap(module, tokenizer, *, name: str, revision: str = "", batch_tokens="auto", remote=0, template: str | None = None) -> Model:
    """A transformers model and its tokenizer as a Model, checked. Raises UserError when the layout is not understood."""
    module.eval().requires_grad_(False)
    if module.device.type == "cpu":  # attention of several tokens reads keys and values that query heads share as they are, not copied for each head
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
        if module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(attention.NAME)
    # the last position's states are a slice; multiplied as it is, torch copies a frozen vocabulary matrix once per row (15 x slower)
    module.get_output_embeddings().register_forward_pre_hook(lambda _m, args: (args[0].clone(memory_format=torch.contiguous_format), *args[1:]))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    # without `device`, transformers' pipeline would move the model to an accelerator wherever there is one
    nn = TransformersModel(module, tokenizer=tokenizer, task="text-generation", rename=RENAME, device=module.device)
    model = _describe(nn, name, revision, module.device, module.dtype, batch_tokens, _remote(remote), template)
    return _checked(model)


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
    raise ParameterError(f"REMOTE={remote} is not known", "use 0, 1, local or the URL of an NDIF-compatible host")


def _describe(nn, name, revision, device, dtype, batch_tokens, remote, template) -> Model:
    config = nn._module.config.get_text_config(decoder=True)
    try:
        block = nn.layers[0]._module
        attention = nn.layers[0].self_attn.o_proj._module
        for part in (nn.layers[0].mlp, nn.ln_final, nn.lm_head):
            part._module  # noqa: B018 - raises AttributeError where a name is missing
    except (AttributeError, IndexError) as error:
        raise UserError(
            f"{name} ({type(nn._module).__name__}) is not laid out as a decoder this library knows: {error}",
            "if only a name differs, add it to RENAME in lib/models.py",
        ) from error
    n_heads = config.num_attention_heads
    width = getattr(attention, "in_features", None) or attention.weight.shape[0]
    post_norms = hasattr(block, "post_feedforward_layernorm")
    if batch_tokens == "auto":
        batch_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    return Model(
        nn, name, revision, config.num_hidden_layers, config.hidden_size, n_heads, width // n_heads, device, dtype, int(batch_tokens), remote, template,
        "post_attention_layernorm" if post_norms else "self_attn", "post_feedforward_layernorm" if post_norms else "mlp", post_norms,
        (False, True, False), 0.0,
    )  # fmt: skip


def _checked(model: Model) -> Model:
    """One short forward pass with plain hooks settles what the blocks return, and that the names mean what they should."""
    from dataclasses import replace

    module, block = model.module, model.nn.layers[0]._module
    last = model.nn.layers[model.n_layers - 1]._module
    ids = torch.arange(2, 10, device=model.device)[None] % module.get_input_embeddings().num_embeddings
    seen, handles = {}, []
    for key, part in (("block", block), ("attn", getattr(block, model.attn_writes, None) or model.nn.layers[0].self_attn._module),
                      ("mlp", getattr(block, model.mlp_writes, None) or model.nn.layers[0].mlp._module), ("last", last),
                      ("norm", model.nn.ln_final._module)):  # fmt: skip
        handles.append(part.register_forward_hook(lambda _m, args, out, key=key: seen.__setitem__(key, (args, out))))
    with torch.no_grad():
        logits = module(input_ids=ids, use_cache=False).logits
        for handle in handles:
            handle.remove()
        if not torch.isfinite(logits).all():
            raise UserError(f"{model.name}: its output is not finite in {str(model.dtype).removeprefix('torch.')}", "try DTYPE=bfloat16 or DTYPE=float32")
        tuples = tuple(isinstance(seen[key][1], tuple) for key in ("block", "attn", "mlp"))
        h_last = seen["last"][1][0] if tuples[0] else seen["last"][1]
        if h_last.shape != (1, ids.shape[1], model.d_model):
            raise UserError(f"{model.name}: the last block returns {tuple(h_last.shape)}, not [1, {ids.shape[1]}, {model.d_model}]")
        if not torch.equal(h_last, seen["norm"][0][0]):
            raise UserError(f"{model.name}: the final norm does not read the last block's output", "RENAME in lib/models.py picks the wrong norm")
        direct = model.nn.lm_head._module(model.nn.ln_final._module(h_last))
        cap = getattr(module.config, "final_logit_softcapping", None)
        direct = torch.tanh(direct / cap) * cap if cap else direct
        if (direct - logits).abs().max() > 1e-2 * logits.abs().max():
            raise UserError(f"{model.name}: lm_head(ln_final(h)) is not the model's output", "RENAME in lib/models.py picks the wrong module")
    squares = h_last.float().square().mean((0, 1))
    share = float(squares.max() / squares.sum())
    if share > LOUD:
        warnings.warn(
            f"{model.name}: one coordinate holds {share:.0%} of the last residual stream's squared norm; "
            "raw differences of means mostly measure that coordinate",
            stacklevel=2,
        )
    return replace(model, tuple_outputs=tuples, loudest_share=share)
