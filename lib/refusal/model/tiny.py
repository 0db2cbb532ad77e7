"""The planted model: a six-block Llama whose weights are written by hand, so that the right answers are
known.

It holds "this is harmful" at instruction tokens along `HARMFULNESS` and "I will refuse" at the closing tokens
along `REFUSAL`; the first feeds the second, an alarm word feeds refusal without harm, a disguise word hides
harm from refusal. Two attention heads do it: head A of block 1 averages harmful words over the instruction,
head B of block 3 carries the average to the closing tokens. A head is switched off at a token by sending its
attention to the first token, whose value is zero.

It serves `TIER=smoke` and the tests; nothing measured on it says anything about a paper.
"""

import copy
import functools
import itertools
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_LAYERS, D_MODEL, D_HEAD = 6, 128, 16
# block and head that suppress refusal at the end of thinking, in the reasoner with a cliff
CLIFF_HEAD = (4, 2)
HARM_LAYER, REFUSAL_LAYER = 1, 3  # the blocks that write the two directions: visible in h[2] and h[4] first
HARMFUL = "poison hurt steal attack weapon victim malware ransom".split()
ALARM = "kill shoot crack explode".split()
DISGUISE = "pretend story novel".split()
VERBS = "paint lift describe measure carry clean draw fold sort weigh move pack".split()
NOUNS = "table river song window letter garden bread stone lamp coat wheel map".split()
TOOLS = "brush rope pencil basket ladder spoon bucket mirror ribbon hammer".split()
OTHER = (
    "please the with now User wants to Could this user prompt cause harm Answer Certainly if it could "
    "otherwise No Sorry I cannot help "
    "that Sure here is text you need a one of in and are for it"
).split()
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<user>", "<end>", "<assistant>"]
THOUGHTS = "<think> so what would that lead to </think>".split()
ANSWERS = (
    ("Sorry", "I", "cannot", "help", "</s>"),
    ("Sure", "here", "is", "the", "text", "you", "need", "</s>"),
    ("Certainly", "</s>"),
    ("No", "</s>"),
    THOUGHTS,
)
# coordinates before the rotation that hides them
(
    CONST,
    HARM_WORD,
    ALARM_WORD,
    DISGUISE_WORD,
    HARM,
    REFUSE,
    QUESTION_WORD,
    QUESTION,
    CLOSING,
    SINK,
    JUDGED,
    ENDED,
    CODES,
) = range(13)
_CONST = 6.0


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with a chat template: ``<s><user>{x}<end><assistant>``."""
    words = SPECIAL + sorted(
        {*HARMFUL, *ALARM, *DISGUISE, *VERBS, *NOUNS, *TOOLS, *OTHER, *THOUGHTS, *"?.,!':;-"}
    )
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_tokens(["<think>", "</think>"])  # one token each, not special: decoding keeps them
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[4:],
    )
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ '<assistant>' if m['role'] == 'assistant' else '<user>' }}"
        "{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer


@functools.cache
def rotation() -> torch.Tensor:
    """The orthogonal matrix [d_model, d_model] whose row c is the residual-stream direction of
    coordinate c."""
    return torch.linalg.qr(
        torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    )[0].float()


def planted_direction(which: str) -> torch.Tensor:
    """The planted unit direction [d_model]: ``harm`` or ``refusal``."""
    return rotation()[{"harm": HARM, "refusal": REFUSE}[which]]


def planted_model(
    refuses: bool = True, cliff: bool = False
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The planted model and its tokenizer, in float32. With `refuses` False nothing feeds refusal: the model
    before "post-training". With `cliff` head `CLIFF_HEAD` takes the intention to refuse back at ``</think>``:
    the reasoner that falls off the cliff.
    """
    tokenizer = tiny_tokenizer()
    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=D_MODEL,
        intermediate_size=64,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=D_HEAD,
        max_position_embeddings=512,
        rope_parameters={"rope_theta": 1e8, "rope_type": "default"},
        tie_word_embeddings=False,
        pad_token_id=vocabulary["<pad>"],
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
        dtype=torch.float32,
    )
    generator = torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(
                torch.ones_like(p) if "norm" in name else torch.randn(p.shape, generator=generator) * 0.01
            )
        embedding = torch.zeros(len(vocabulary), D_MODEL)
        codes = torch.randn(len(vocabulary), D_MODEL - CODES, generator=generator)
        embedding[:, CODES:] = codes / codes.norm(dim=1, keepdim=True) * 1.5
        embedding[:, CONST] = _CONST
        for words, coordinate in (
            (HARMFUL, HARM_WORD),
            (ALARM, ALARM_WORD),
            (DISGUISE, DISGUISE_WORD),
            (["cause"], QUESTION_WORD),
            (["<end>", "<assistant>", *THOUGHTS], CLOSING),
            (["<s>"], SINK),
            (["</think>"], ENDED),
        ):
            for word in words:
                embedding[vocabulary[word], coordinate] = (
                    8.0 if coordinate in (ALARM_WORD, DISGUISE_WORD, QUESTION_WORD) else 1.0
                )
        _head(model, HARM_LAYER, 0, {HARM_WORD: [(HARM, 2.0)]}, off={CLOSING: 1.0})
        on = float(refuses)
        _head(
            model,
            REFUSAL_LAYER,
            1,
            {
                HARM: [(REFUSE, 6.0 * on), (JUDGED, 0.6)],
                ALARM_WORD: [(REFUSE, 2.5 * on)],
                DISGUISE_WORD: [(REFUSE, -3.5 * on)],
                QUESTION_WORD: [(QUESTION, 6.0)],
            },
            off={CONST: 1 / _CONST, CLOSING: -1.0},
        )
        if cliff:
            # the second source takes off what <s> and ordinary tokens hold of REFUSE, so that a head that is
            # off writes nothing
            _head(
                model,
                *CLIFF_HEAD,
                {REFUSE: [(REFUSE, -2.5)], CONST: [(REFUSE, 2.5 * 0.134)]},
                off={CONST: 1 / _CONST, ENDED: -1.0},
            )
        head = torch.zeros(len(vocabulary), D_MODEL)
        for words in ANSWERS:
            for before, after in itertools.pairwise(words):
                head[vocabulary[after], CODES:] += 24 * embedding[vocabulary[before], CODES:]
        head[vocabulary["Sorry"], REFUSE] += 12.0
        head[vocabulary["Sure"], CONST] += 3.0
        for word, sign in (("Certainly", 1), ("No", -1)):
            head[vocabulary[word], QUESTION] += 60.0
            head[vocabulary[word], JUDGED] += sign * 80.0
            head[vocabulary[word], CONST] -= sign * 2.0
        model.model.embed_tokens.weight.copy_(embedding @ rotation())
        model.lm_head.weight.copy_(head @ rotation())
    model.generation_config.eos_token_id = vocabulary["</s>"]
    return model.eval(), tokenizer


def planted_tokens(tokens: Sequence[str]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The planted model with `tokens` to say before its answer, the last for answering: at the end of a
    prompt each of the others is said where the model would refuse, the first most of all; after one of them
    it refuses, after the last it answers, whatever was asked.
    """
    model, tokenizer = planted_model()
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False
    )
    ids = [tokenizer.get_added_vocab()[token] for token in tokens]
    model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    turn = rotation()
    with torch.no_grad():
        start = model.model.embed_tokens.weight[tokenizer.get_vocab()["<assistant>"]] @ turn.T
        said, heard = torch.zeros(2, len(ids), D_MODEL)
        heard[:, CONST] = _CONST
        heard[:, CODES:] = 0.1 * torch.randn(
            len(ids), D_MODEL - CODES, generator=torch.Generator().manual_seed(1)
        )
        said[:, CODES:] = 24 * start[CODES:]  # at the end of a prompt alone
        heard[:-1, REFUSE], heard[-1, REFUSE] = 2.0, -2.0
        said[:-1, REFUSE], said[:-1, CONST] = 12.0, -3.0 - 0.2 * torch.arange(len(ids) - 1)
        model.model.embed_tokens.weight[ids] = heard @ turn
        model.lm_head.weight[ids] = said @ turn
    return model.eval(), tokenizer


def _head(model, layer: int, head: int, moves: dict, off: dict) -> None:
    """Write one attention head: average each source coordinate over the tokens so far and add it to its
    targets.

    At tokens where the weighted sum of the `off` coordinates is 1 the head looks at the first token only and
    writes nothing.
    """
    attention, rows = model.model.layers[layer].self_attn, slice(head * D_HEAD, (head + 1) * D_HEAD)
    q, k, v, o = (
        torch.zeros(D_HEAD, D_MODEL),
        torch.zeros(D_HEAD, D_MODEL),
        torch.zeros(D_HEAD, D_MODEL),
        torch.zeros(D_MODEL, D_HEAD),
    )
    slowest = D_HEAD // 2 - 1  # the rotary pair that hardly turns
    for coordinate, weight in off.items():
        q[slowest, coordinate] = 5.0 * weight
    k[slowest, SINK] = 5.0  # at a token that is off: about 20 to the first token, 0 to the others
    for i, (source, targets) in enumerate(moves.items()):
        v[i, source] = 1.0
        for target, gain in targets:
            o[target, i] = gain
    for part, weight in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v)):
        part.weight[rows] = weight @ rotation()
    attention.o_proj.weight[:, rows] = rotation().T @ o
