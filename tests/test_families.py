"""Every decoder family that transformers can build tiny: it loads with right values, or ends in a UserError
that gives the reason.
"""

import warnings

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from conftest import randomised
from refusal.base.errors import UserError
from refusal.findings.f01 import neurons
from refusal.model import loading, weights
from refusal.model.tiny import tiny_tokenizer
from refusal.trace import reads
from refusal.trace.edits import Ablate
from refusal.trace.prompts import plain

TEXTS = [
    "please paint the table",
    "please poison the victim with the rope now and then lift a stone",
    "kill the lamp with the hammer now",
]
LARGEST = 2_000_000  # parameters: what stays larger with every size below is not tiny, and is left out
# names that configurations give to sizes and factors; each takes those it knows
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "intermediate_size_mlp"), 64
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "max_window_layers"), 3
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "expert_ffn_hidden_size",
            "moe_shared_expert_intermediate_size",
        ),
        16,
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(
        ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "index_head_dim", "head_dim", "rotary_dim"), 8
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("residual_multiplier", "logits_scaling", "logit_scale"), 0.4),
    **dict.fromkeys(("embedding_multiplier",), 3.0),
}
# sizes that a configuration may not take
CONFLICTS = ((), ("head_dim",), ("num_hidden_layers",), ("num_key_value_heads",), ("num_experts_per_tok",))


# the families that have no test, by why transformers does not build them tiny
NOT_TINY = {
    "too large": """
        blt cpmant emu3 gemma3 gemma3n_text gemma4 gemma4_text gemma4_unified
        gemma4_unified_assistant git got_ocr2 inkling2_loop_text inkling2_text inkling_text
        kimi_linear llama4 mllama moss_transcribe_diarize phi4_multimodal qwen3_5 qwen3_5_moe
        qwen4_exp_text roc_bert
    """,
    "does not fit": """
        bamba cohere_compass_text dbrx dots3_note dots3_note_text gemma4_assistant gpt_neo
        granitemoehybrid lfm2_moe mamba2 minicpm3 musicgen musicgen_melody prophetnet qwen4_exp
        reformer xlnet xlstm
    """,
    "needs a package": """
        gemma3n
    """,
}
# the families that load ends in a UserError for, by what it says
REFUSED = {
    "is not laid out as a decoder": """
        axk2 bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small
        camembert ctrl data2vec-text deepseek_v4 electra ernie falcon_mamba gpt_neox_japanese
        hrm_text jamba jetmoe lara_mini lfm2 lfm3 longcat_flash mamba marian mbart megatron-bert
        modernbert-decoder mpt mvp nemotron_h olmo_hybrid openai-gpt opt pegasus plbart
        qwen3_5_moe_text qwen3_5_text qwen3_next recurrent_gemma rembert roberta
        roberta-prelayernorm roformer rwkv trocr whisper xglm xlm xlm-roberta xlm-roberta-xl xmod
        zamba zamba2
    """,
    "forward pass does not take": """
        bailing_hybrid deepseek_v32 dory falcon_h1 glm_moe_dsa hy_v4 minimax zaya
    """,
    "its blocks do not add": """
        beam bloom doge llama4_text
    """,
    "heads of": """
        gemma4_unified_text moshi
    """,
}
names = lambda classes: {why: some.split() for why, some in classes.items()}


def tiny_config(kind: str):
    """A small configuration, or a word of `NOT_TINY` on why transformers cannot build it tiny."""
    tokenizer = tiny_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    why = "does not fit"
    for left_out in CONFLICTS:
        try:
            config = CONFIG_MAPPING[kind](
                **ids, **{name: size for name, size in SIZES.items() if name not in left_out}
            )
            with torch.device("meta"):
                module = transformers.AutoModelForCausalLM.from_config(config)
        except ImportError:
            why = "needs a package"
            continue
        except Exception:  # each configuration has exceptions of its own for what does not fit together
            continue
        return config if sum(p.numel() for p in module.parameters()) <= LARGEST else "too large"
    return why


@pytest.fixture(scope="module")
def walk():
    """{family: its Model, the UserError it ended in, or a word on why it cannot be built tiny}."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            if isinstance(config := tiny_config(kind), str):
                found[kind] = config
                continue
            torch.manual_seed(0)
            module = randomised(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
            try:
                found[kind] = loading.wrap(module, tiny_tokenizer(), name=kind, revision=f"family {kind}")
            except UserError as error:
                found[kind] = error
    return found


@pytest.fixture(scope="module")
def loaded(walk):
    return {kind: model for kind, model in walk.items() if isinstance(model, loading.Model)}


def hidden_states(model, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """``h`` [layer, position, d_model] and logits [position, vocabulary] of one prompt alone, by
    transformers' own ``output_hidden_states`` for what blocks read and a plain hook for what the last one
    gives.
    """
    seen = []
    handle = model.nn.layers[model.n_layers - 1]._module.register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        out = model.module(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    handle.remove()
    return torch.cat([*out.hidden_states[: model.n_layers], seen[0]]), out.logits[0]


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_most_families_load_and_the_rest_says_why(walk, loaded):
    refused = {kind: error for kind, error in walk.items() if isinstance(error, UserError)}
    print(f"\n{len(loaded)} load, {len(refused)} are refused")
    unbuilt = {kind: why for kind, why in walk.items() if isinstance(why, str)}
    assert {why: [k for k in unbuilt if unbuilt[k] == why] for why in NOT_TINY} == names(NOT_TINY)
    told = {why: [k for k, error in refused.items() if why in error.what] for why in REFUSED}
    assert told == names(REFUSED) and sum(map(len, told.values())) == len(refused)
    for kind, error in refused.items():
        print(f"{kind}: {error.what}")
        assert "\n" not in error.what and len(error.what) > len(kind) + 10
    assert len(loaded) >= 80  # as measured: the walk has not become empty
    for kind in (
        "llama",
        "gpt2",
        "gemma2",
        "glm4",
        "olmo2",
        "granite",
        "cohere",
        "falcon",
        "gpt_neox",
        "phi",
        "mixtral",
        "deepseek_v3",
        "gptj",
        "stablelm",
    ):
        assert kind in loaded, walk[kind]
    for kind in ("bloom", "opt", "mamba", "bert"):
        assert kind in refused


def test_states_and_logits_of_a_batch_are_those_of_each_prompt_alone(loaded):
    wrong = {}
    for kind, model in loaded.items():
        prompts = plain(model, TEXTS)
        states = reads.collect(model, prompts, at=[-3, -1])["resid"]
        logits = reads.score(model, prompts, lambda x: x)[0]
        for i, p in enumerate(prompts):
            h, alone = hidden_states(model, p.ids)
            wrong[kind] = max(wrong.get(kind, 0), off(states[i], h[:, [-3, -1]]), off(logits[i], alone[-1]))
    assert not {kind: value for kind, value in wrong.items() if value > 1e-3}


def test_attention_and_mlp_sites_are_what_the_stream_gains(loaded):
    wrong = {}
    for kind, model in loaded.items():
        seen = reads.collect(model, plain(model, TEXTS), at=[-2, -1], sites=("resid", "attn", "mlp"))
        wrong[kind] = off(seen["attn"] + seen["mlp"], seen["resid"].diff(dim=1))
    assert not {kind: value for kind, value in wrong.items() if value > 1e-3}


def test_orthogonal_weights_equal_ablation_or_the_reason_is_given(loaded):
    v, wrong, refused = torch.randn(32, generator=torch.Generator().manual_seed(5)), {}, {}
    for kind, model in loaded.items():
        prompts, before = plain(model, TEXTS), {k: p.clone() for k, p in model.module.named_parameters()}
        ablated = reads.score(model, prompts, lambda x: x, [[Ablate(v)]])[0]
        try:
            with weights.orthogonalized(model, v):
                written = torch.stack([hidden_states(model, p.ids)[1][-1] for p in prompts])
            wrong[kind] = off(written, ablated)
        except UserError as error:
            refused[kind] = error.what
        assert all(torch.equal(p, before[k]) for k, p in model.module.named_parameters()), kind
    print("\n", refused)
    assert not {kind: value for kind, value in wrong.items() if value > 1e-3}
    assert (
        len(wrong) >= 60
        and {"llama", "gpt2", "mixtral", "deepseek_v3", "granite", "falcon", "gpt_neox"} <= wrong.keys()
    )
    assert {"gemma2", "glm4", "olmo2"} <= refused.keys() and all(
        "norm follows" in refused[kind] for kind in ("gemma2", "glm4", "olmo2")
    )


def test_the_last_neurons_write_through_the_weights_that_are_read_for_them(loaded):
    """What ``silenced`` takes off is a sum of these neurons' rows; mixtures of experts and norms after the
    MLP are refused.
    """
    refused = {}
    for kind, model in loaded.items():
        try:
            w = neurons.output_weights(model)
        except UserError as error:
            refused[kind] = error.what
            continue
        prompts, top = plain(model, TEXTS[:1]), model.n_layers - 1
        site = lambda m: reads.collect(m, prompts, at=[-1], sites=("mlp",), layers=[top])["mlp"][0, 0, 0]
        whole = site(model)
        with neurons.silenced(model, range(8)) as changed:  # several, for an activation may be off
            gone = (whole - site(changed))[:, None]
        left = gone - w[:8].T @ torch.linalg.lstsq(w[:8].T, gone).solution
        assert gone.norm() > 0 and left.norm() < 1e-3 * gone.norm(), kind
    assert (
        "experts" in refused["mixtral"]
        and "experts" in refused["deepseek_v3"]
        and "norm follows" in refused["gemma2"]
    )
    assert len(loaded) - len(refused) >= 40


def test_max_positions_is_where_a_table_of_positions_ends(loaded):
    """The position after the last one that the configuration names: without a table of positions it runs,
    with one it does not.
    """
    ends = set()
    for kind, model in loaded.items():
        limit = model.module.config.max_position_embeddings
        call = lambda position: model.module(
            input_ids=torch.tensor([[9]]), position_ids=torch.tensor([[position]]), use_cache=False
        )
        with torch.no_grad():
            assert torch.isfinite(call(limit - 1).logits).all(), kind
            try:
                call(limit)
            except IndexError:
                ends.add(kind)
                assert model.max_positions == limit, kind
            else:
                assert model.max_positions is None, kind
    assert {"gpt2", "gpt_bigcode", "gptj"} <= ends and not {"llama", "gemma2", "gpt_neox"} & ends
