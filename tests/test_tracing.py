"""Reading, editing and generating against plain hooks, one prompt at a time; and properties that must not
matter.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
import transformers

from conftest import TEXTS, Plain, greedy, plain_edit, table, text_of, tiny_module, windowed
from refusal.base.errors import ParameterError, UserError
from refusal.model import attention, loading
from refusal.model.tiny import tiny_tokenizer
from refusal.trace import batches, decode, opening, passes, prefix, reads
from refusal.trace.edits import Ablate, Add, Patch, Row, ScaleHead, rows_of
from refusal.trace.prompts import chat, opening_length, plain, without_closing

torch.manual_seed(0)
V, W = torch.randn(32), torch.randn(32) * 2


def wanted(model, prompts, at):
    """States of two sites at positions, and projections on three directions from each prompt's second last
    token or its middle on.
    """
    since = [len(p.ids) - 2 if k % 2 else len(p.ids) // 2 for k, p in enumerate(prompts)]
    projections = reads.Projections(torch.stack([V, W, V - W]), [model.n_layers, 0, 1], since)
    return decode.Reading(reads.positions(prompts, at), ("resid", "heads"), projections)


def generate_all(model, prompts, arms, n, until=None, **more):
    """Greedy texts [arm][prompt], not cached, and the states and lines of what is wanted."""
    how, rows = decode.Decoding(n, until=until), rows_of(prompts, arms)
    texts, states, lines = decode.generate_rows(model, rows, how, **more)
    flat, k = [text for (text,) in texts], len(prompts)
    return [flat[a * k : (a + 1) * k] for a in range(len(arms))], states, lines


def counted(monkeypatch) -> list[tuple[int, int]]:
    """The shapes of all forward passes that are run from now on."""
    shapes: list = []
    for module in (reads, decode, opening):
        run = module.forward
        monkeypatch.setattr(
            module, "forward", lambda *a, run=run, **k: shapes.append(tuple(a[1].ids.shape)) or run(*a, **k)
        )
    return shapes


def same(a, b):
    """Whether states and projections are the same."""
    (states, lines), (theirs, others) = a, b
    assert states.keys() == theirs.keys() and len(lines) == len(others)
    for site in states:
        torch.testing.assert_close(states[site], theirs[site], rtol=1e-3, atol=1e-4)
    for line, other in zip(lines, others, strict=True):
        torch.testing.assert_close(line, other, rtol=1e-3, atol=2e-3)


def arms():
    return [
        [],
        [Add(V, 1, "instruction", 1.5)],
        [Add(V, 2, "prompt")],
        [Add(V, 3, "t_post"), Add(W, 0, "closing")],
        [Ablate(V)],
        [Ablate(W, layers=(1, 3), span="t_inst")],
        [ScaleHead(1, 2, 0.0), ScaleHead(2, 0, 3.0, "instruction")],
        [Patch(W, 1, "t_inst"), Add(V, 1, "every_token")],
        [Add(V, 2, (-3, -1))],
        [ScaleHead(1, 2, 0.0, rescale=True), ScaleHead(1, 0, 0.2, rescale=True)],
        [ScaleHead(1, 2, 0.5), ScaleHead(1, 2, 0.3)],
        [Patch(W, 2, "last")],
    ]


@pytest.mark.parametrize("batch_tokens", [30, 4000])
@pytest.mark.parametrize("side", ["left", "right"])
def test_collect_equals_plain_hooks(tiny, five, batch_tokens, side):
    plain = Plain(tiny.module, tiny.name)
    got = reads.collect_rows(
        replace(tiny, batch_tokens=batch_tokens),
        five,
        ["t_inst", 1, "t_post"],
        {s: list(range(3 + (s == "resid"))) for s in passes.SITES},
        side,
    )
    for i, p in enumerate(five):
        _, seen = plain.run(p.ids)
        places = [p.t_inst, p.t_inst + 1, p.t_post]
        for site in passes.SITES:
            torch.testing.assert_close(got[site][i], seen[site][:, places], rtol=1e-4, atol=5e-5)


def test_positions_may_differ_between_prompts_and_lie_in_the_common_opening(tiny, five):
    plain = Plain(tiny.module, tiny.name)
    at = [[-len(p.ids), p.start - len(p.ids) + i % 2, -1] for i, p in enumerate(five)]
    got = reads.collect(tiny, five, at)["resid"]
    for p, where, states in zip(five, at, got, strict=True):
        torch.testing.assert_close(
            states, plain.run(p.ids)[1]["resid"][:, [len(p.ids) + k for k in where]], rtol=1e-4, atol=2e-5
        )


def test_scores_under_every_edit_equal_plain_hooks(tiny, five):
    plain = Plain(tiny.module, tiny.name)
    got = reads.score(tiny, five, lambda logits: logits, arms())
    for a, arm in enumerate(arms()):
        for i, p in enumerate(five):
            logits, _ = plain.run(p.ids, plain_edit(tiny, p, arm, len(p.ids)))
            torch.testing.assert_close(
                got[a, i], logits[-1], rtol=1e-3, atol=2e-4, msg=f"arm {a}, prompt {i}"
            )
    changed = (got[1:] - got[:1]).abs().amax((1, 2))
    assert (changed > 1e-3).all(), changed  # every edit does something


def test_states_of_rows_with_edits_of_their_own(tiny, five):
    some = [
        (0, [Add(V, 1, "instruction")]),
        (2, []),
        (1, [ScaleHead(2, 1, 0.0)]),
        (0, [Patch(W, 3, "t_post")]),
    ]
    got = reads.score_rows(tiny, [Row(five[i], tuple(arm)) for i, arm in some], lambda h: h, of="state")
    for (i, arm), state in zip(some, got, strict=True):
        _, seen = Plain(tiny.module, tiny.name).run(
            five[i].ids, plain_edit(tiny, five[i], arm, len(five[i].ids))
        )
        torch.testing.assert_close(state, seen["resid"][-1, -1], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("heads", [6, 2])
def test_attention_of_one_token_is_a_softmax_over_the_keys_it_sees(heads):
    g = torch.Generator().manual_seed(6)
    q, k, v = (
        torch.randn(3, heads, 1, 8, generator=g),
        torch.randn(3, 2, 5, 8, generator=g),
        torch.randn(3, 2, 5, 8, generator=g),
    )
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., :2] = False
    for seen in (mask, None):
        got, _ = attention.attention(None, q, k, v, seen, scaling=0.3)
        assert got.shape == (3, 1, heads, 8)
        for row in range(3):
            first = 2 if seen is not None and row == 1 else 0
            for head in range(heads):
                keys, values = (x[row, head // (heads // 2), first:] for x in (k, v))
                torch.testing.assert_close(
                    got[row, 0, head], (0.3 * keys @ q[row, head, 0]).softmax(0) @ values
                )


def test_a_model_stays_where_it_was_put(monkeypatch):
    """transformers' pipeline, which nnsight builds, takes an accelerator wherever there is one."""
    monkeypatch.setattr("transformers.pipelines.base.is_torch_cuda_available", lambda: True)
    assert loading.wrap(tiny_module("llama"), tiny_tokenizer(), name="llama").device.type == "cpu"


def test_a_model_without_finite_output_is_refused():
    module = tiny_module("llama")
    module.lm_head.weight.data[3] = torch.inf
    with pytest.raises(UserError, match="not finite in float32"):
        loading.wrap(module, tiny_tokenizer(), name="llama")


def test_projections_at_every_token_equal_plain_hooks(tiny, five):
    directions, layers = torch.randn(5, 32, generator=torch.Generator().manual_seed(4)), [3, 0, 2, 3, 2]
    for p, values in zip(five, reads.project(tiny, five, directions, layers), strict=True):
        _, seen = Plain(tiny.module, tiny.name).run(p.ids)
        torch.testing.assert_close(
            values, (seen["resid"][layers] * directions[:, None]).sum(-1), rtol=1e-3, atol=1e-4
        )


def test_generation_under_edits_equals_plain_hooks(tiny, five, monkeypatch):
    some = [
        [],
        [Add(V, 1, "instruction", 1.5)],
        [Ablate(V)],
        [Add(W, 2, "every_token")],
        [ScaleHead(1, 2, 0.0)],
        [Add(V, 2, "prompt")],
        [ScaleHead(1, 2, 0.0, rescale=True)],
        [Patch(0.1 * V, 2, "every_token")],
        [Patch(0.1 * W, 1, "last"), Add(V, 1, "every_token", 0.1)],
    ]
    got = generate_all(tiny, five, some, 6)[0]
    for a, arm in enumerate(some):
        for i, p in enumerate(five):
            said = greedy(tiny, p, 6, lambda length, p=p, arm=arm: plain_edit(tiny, p, arm, length))
            assert got[a][i] == text_of(tiny.tokenizer, said), (a, i)
    monkeypatch.setattr(decode, "LEAVE_SHARE", 0.0)
    # rows that say it leave, the others go on as before
    word = " ".join([*got[0], tiny.tokenizer.eos_token]).split()[0]
    for text, whole in zip(generate_all(tiny, five, [[]], 6, until=word)[0][0], got[0], strict=True):
        assert whole.startswith(text) and (word in text or text == whole)


@pytest.mark.parametrize("span", ["instruction", "closing", "prompt"])
def test_a_patch_has_a_value_for_each_token_of_its_span(tiny, five, span):
    """Spans that all rows begin with among them."""
    plain = Plain(tiny.module, tiny.name)
    values = [torch.randn(len(p.span(span)), tiny.d_model) for p in five]
    rows = [Row(p, (Patch(v, 1, span),)) for p, v in zip(five, values, strict=True)]
    got = reads.score(tiny, rows, lambda logits: logits)
    for p, v, logits in zip(five, values, got, strict=True):

        def put(site, layer, x, p=p, v=v):
            x = x.clone()
            if (site, layer) == ("resid", 1):
                x[0, list(p.span(span))] = v
            return x

        torch.testing.assert_close(logits, plain.run(p.ids, put)[0][-1], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("span", "more"), [("instruction", 1), ("instruction", -1), ("every_token", 0), ("last", 0)]
)
def test_a_patch_with_values_for_other_tokens_is_an_error(tiny, five, span, more):
    """Nobody knows how many tokens will be generated."""
    values = torch.randn(len(five[0].span(span)) + more, tiny.d_model)
    with pytest.raises(ParameterError, match="this Patch has values for"):
        decode.generate(tiny, five[:1], [[Patch(values, 1, span)]], 3)


def test_one_head_that_keeps_its_norm_makes_its_layer_keep_it(tiny, five):
    """Whichever of a layer's heads asks for it, and in whichever order they are given."""
    a, b = ScaleHead(1, 2, 0.1, rescale=True), ScaleHead(1, 0, 0.2)
    some = [[a, b], [b, a], [a, replace(b, rescale=True)]]
    ab, ba, both = reads.score(tiny, five, lambda logits: logits, some)
    torch.testing.assert_close(ab, both)
    torch.testing.assert_close(ba, both)


@pytest.mark.parametrize("layers", [[3, 0, 2], [1, 1], (2,), range(3, 0, -1)])
def test_layers_come_in_the_order_in_which_they_are_asked_for(tiny, five, layers):
    whole = reads.collect(tiny, five)["resid"]
    torch.testing.assert_close(reads.collect(tiny, five, layers=layers)["resid"], whole[:, list(layers)])


@pytest.mark.parametrize("position", [-100, 100])
def test_a_position_that_a_prompt_has_not_is_an_error(tiny, five, position):
    with pytest.raises(ParameterError, match=f"no position {position}"):
        reads.score(tiny, five, lambda logits: logits, [[Add(V, 1, (position,))]])


def test_no_layers_are_no_edit(tiny, five):
    clean, none = reads.score(tiny, five, lambda logits: logits, [[], [Ablate(V, layers=())]])
    torch.testing.assert_close(clean, none)


@pytest.mark.parametrize("text", ["", "the"])
def test_a_text_in_which_nothing_is_predicted_is_an_error(tiny, text):
    with pytest.raises(UserError, match="fewer than two tokens"):
        reads.read_text(tiny, ["the cat sat", text])


def test_what_another_model_has_read_is_told_from_what_this_one_has(tiny, five):
    """Answers after its prefix are not remembered as answers of this model, nor the other way round."""
    module = copy.deepcopy(tiny.module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * weight.std())
    other = loading.wrap(module, tiny.tokenizer, name="other", revision="other")
    sequences, how = [p.ids[:-2] for p in five], decode.Decoding(8, temperature=4.0, keep_special=True)
    ways = [decode.read_prefix(other, sequences), None, decode.read_prefix(tiny, sequences)]
    made = [decode.generate_rows(tiny, rows_of(five), how, prefix=way)[0] for way in ways]
    made = [[text for (text,) in texts] for texts in made]
    assert made[0] != made[1] == made[2]
    assert [decode.generate(tiny, five, decoding=how, prefix=way)[0] for way in ways] == made
    assert [decode.generate_and_read(tiny, five, decoding=how, prefix=way)[0] for way in ways] == made


def test_edits_under_a_prefix_are_an_error_whatever_is_remembered(tiny, five):
    decode.generate(tiny, five, [[Ablate(V)]], 3)
    with pytest.raises(ValueError, match="prefix="):
        decode.generate(
            tiny, five, [[Ablate(V)]], 3, prefix=decode.read_prefix(tiny, [p.ids[:3] for p in five])
        )


@pytest.mark.parametrize("lengths", [(3,), (2, 5), (1, 4, 4, 7)])
def test_what_prompts_begin_with_is_read_once_and_changes_nothing(tiny, five, lengths):
    """Sequences of one length or several, some of a prompt no sequence at all, and sequences that go on
    from others; states after the sequence are read as well.
    """
    want = wanted(tiny, five, [-1, -2])
    whole, *states = generate_all(tiny, five, [[]], 6, wanted=want)
    short = decode.read_prefix(tiny, [p.ids[: lengths[k % len(lengths)]] for k, p in enumerate(five[1:])])
    longer = decode.read_prefix(tiny, [p.ids[:-3] for p in five[2:]], short)
    assert (
        short.longest([999, 999], 2) is None
        and longer.length(longer.longest(five[2].ids, 99)) == len(five[2].ids) - 3
    )
    for held in (short, longer):
        texts, *read = generate_all(tiny, five, [[]], 6, wanted=want, prefix=held)
        assert texts == whole
        same(read, states)
    same(
        generate_all(replace(tiny, batch_tokens=1), five, [[]], 6, wanted=want, prefix=longer)[1:],
        states,
    )
    with pytest.raises(ValueError, match="edits"):
        generate_all(tiny, five, [[Ablate(V)]], 6, prefix=short)
    assert decode.read_prefix(replace(tiny, remote="local"), [[1]]) is None is decode.read_prefix(tiny, [()])


def test_what_is_read_while_answering_is_what_plain_passes_give(tiny, five):
    want = wanted(tiny, five, ["t_inst", -1])
    _, states, lines = generate_all(tiny, five, [[]], 4, wanted=want)
    projected = reads.project(tiny, five, want.projections.directions, want.projections.layers)
    for i, p in enumerate(five):
        # [layer, token, width]
        seen = Plain(tiny.module, tiny.name).run(p.ids)[1]
        resid, heads = seen["resid"], seen["heads"]
        torch.testing.assert_close(states["resid"][i], resid[:, [p.t_inst, p.t_post]], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(states["heads"][i], heads[:, [p.t_inst, p.t_post]], rtol=1e-3, atol=1e-4)
        along = torch.stack(
            [
                resid[layer] @ w
                for layer, w in zip(want.projections.layers, want.projections.directions, strict=True)
            ]
        )
        torch.testing.assert_close(lines[i], along[:, want.projections.since[i] :], rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(projected[i], along, rtol=1e-3, atol=2e-3)


def test_the_opening_under_edits_is_read_once_for_all_batches(llama, monkeypatch):
    prompts, some = chat(llama, table()) * 4, [[], [Add(V, 1, "prompt")], [Add(W, 1, "prompt")]]
    whole, run = reads.score(llama, prompts, lambda x: x, some), counted(monkeypatch)
    n, small = opening_length(prompts), replace(llama, batch_tokens=32)
    torch.testing.assert_close(reads.score(small, prompts, lambda x: x, some), whole, rtol=1e-3, atol=1e-4)
    assert n and sum(shape == (len(some), n) for shape in run) == 1 and len(run) > 10


def test_what_is_held_is_read_when_it_is_asked_for_and_once(llama, five, monkeypatch):
    run = counted(monkeypatch)
    held = decode.read_prefix(llama, [p.ids[:-1] for p in five])
    assert not run
    generate_all(llama, five, [[]], 1, prefix=held)
    read = len(run)
    generate_all(llama, five, [[]], 1, prefix=held)
    assert read < len(run) and sum(map(math.prod, run[read:])) == len(five)  # one token of each prompt


def test_answers_do_not_depend_on_batches_or_on_how_the_model_samples(llama, monkeypatch):
    """Few rows or many decoded together, rows leaving early or late; and a model's own settings, such as a
    penalty on repetition, are not greedy decoding.
    """
    prompts, some = chat(llama, table()) * 3, [[], [Add(W, 2, "every_token")]]
    want = wanted(llama, prompts, [-1, "t_inst"])
    texts, *states = generate_all(llama, prompts, some[:1], 20, wanted=want)
    both = generate_all(llama, prompts, some, 20)[0]
    assert len(set(map(len, texts[0]))) > 1 and both[0] == texts[0] != both[1]
    monkeypatch.setattr(llama.module.generation_config, "repetition_penalty", 5.0)
    for tokens, leave in ((8, 0.25), (64, 0.0), (4096, 2.0)):
        monkeypatch.setattr(decode, "LEAVE_SHARE", leave)
        monkeypatch.setattr(batches, "CACHE_BYTES", {"cpu": 0, "cuda": 0})  # groups of one batch
        small = replace(llama, batch_tokens=tokens)
        assert generate_all(small, prompts, some, 20)[0] == both
        same(generate_all(small, prompts, some[:1], 20, wanted=want)[1:], states)


def test_remote_path_run_here_gives_the_same(llama):
    prompts = chat(llama, table())
    remote = replace(llama, remote="local")
    some = [[], [Add(V, 1, "instruction")], [Ablate(V)]]
    which = {"resid": [0, 2, 3], "heads": [1]}
    for site, values in reads.collect_rows(remote, prompts, ["t_inst", "t_post"], which, "left").items():
        torch.testing.assert_close(
            values,
            reads.collect_rows(llama, prompts, ["t_inst", "t_post"], which, "left")[site],
            rtol=1e-4,
            atol=1e-5,
        )
    torch.testing.assert_close(
        reads.score(remote, prompts, lambda x: x, some),
        reads.score(llama, prompts, lambda x: x, some),
        rtol=1e-3,
        atol=1e-4,
    )
    assert generate_all(remote, prompts, some, 5)[0] == generate_all(llama, prompts, some, 5)[0]
    want = wanted(llama, prompts, ["t_inst", -1])
    (texts, *read), (theirs, *there) = (
        generate_all(m, prompts, [[]], 5, wanted=want) for m in (llama, remote)
    )
    assert texts == theirs and read[0]["resid"].shape == (len(prompts), llama.n_layers + 1, 2, llama.d_model)
    same(read, there)


def test_text_loss_equals_plain_cross_entropy(llama):
    texts = ["please paint the table with the brush now", "the river and the song of the stone"]
    for edits in ([], [Ablate(V)]):
        for text, loss in zip(texts, reads.read_text(llama, texts, edits)["loss"], strict=True):
            ids = llama.tokenizer(text)["input_ids"]
            prompt = plain(llama, [text])[0]
            logits, _ = Plain(llama.module, "llama").run(ids, plain_edit(llama, prompt, edits, len(ids)))
            torch.testing.assert_close(
                loss,
                torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])),
                rtol=1e-4,
                atol=1e-5,
            )


def test_order_and_repetition_of_prompts_do_not_matter(llama):
    prompts = chat(llama, table())
    a = reads.collect(llama, prompts)["resid"]
    b = reads.collect(llama, prompts[::-1])["resid"].flip(0)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_layer_or_head_that_does_not_exist_is_an_error(llama):
    prompts = chat(llama, table())
    for edit, message in (
        (Add(V, 4, "prompt"), "layer 4"),
        (ScaleHead(0, 9, 0.0), "head 9"),
        (ScaleHead(3, 0, 0.0), "layer 3"),
    ):
        with pytest.raises(ParameterError, match=message):
            reads.score(llama, prompts, lambda x: x, [[edit]])
    with pytest.raises(ParameterError, match="span"):
        reads.score(llama, prompts, lambda x: x, [[Add(V, 1, "nowhere")]])


def test_results_are_read_from_the_cache_and_follow_what_they_depend_on(llama, monkeypatch):
    prompts = chat(llama, table())
    first = decode.generate(llama, prompts, [[Add(V, 1, "prompt")]], 4)
    monkeypatch.setattr(decode, "_groups", lambda *a, **k: pytest.fail("computed again"))
    assert decode.generate(llama, prompts, [[Add(V.clone(), 1, "prompt")]], 4) == first
    for changed in (
        lambda: decode.generate(llama, prompts, [[Add(V + 1e-3, 1, "prompt")]], 4),
        lambda: decode.generate(llama, prompts, [[Add(V, 1, "instruction")]], 4),
        lambda: decode.generate(llama, prompts[:4], [[Add(V, 1, "prompt")]], 4),
        lambda: decode.generate(replace(llama, revision="another"), prompts, [[Add(V, 1, "prompt")]], 4),
        lambda: decode.generate(replace(llama, batch_tokens=100), prompts, [[Add(V, 1, "prompt")]], 4),
    ):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            changed()


def real_prompts(real):
    texts = [
        "What is the capital of France?",
        "Write a short poem about the sea, the moon and a dog.",
        "Hi",
        "How do I kill a Python process?",
    ]
    return chat(real, table(texts))


def test_real_model_equals_transformers(real):
    prompts = real_prompts(real)
    got = reads.collect(real, prompts)["resid"]
    for i, p in enumerate(prompts):
        with torch.no_grad():
            out = real.module(input_ids=torch.tensor([p.ids]), output_hidden_states=True)
        hidden = torch.stack(out.hidden_states[:-1])[:, 0]  # the last entry is after the final norm
        torch.testing.assert_close(got[i, :-1], hidden[:, [p.t_inst, p.t_post]], rtol=1e-3, atol=1e-3)
    texts = decode.generate(real, prompts, decoding=8)[0]
    for text, p in zip(texts, prompts, strict=True):
        with torch.no_grad():
            ids = real.module.generate(
                input_ids=torch.tensor([p.ids]),
                attention_mask=torch.ones(1, len(p.ids), dtype=torch.long),
                max_new_tokens=8,
                do_sample=False,
            )
        assert text == real.tokenizer.decode(ids[0, len(p.ids) :], skip_special_tokens=True)
    assert "Paris" in texts[0]


def test_on_a_real_model_batch_padding_and_order_change_nothing(real):
    prompts = real_prompts(real) + without_closing(real_prompts(real))
    which = {"resid": list(range(real.n_layers + 1))}
    reference = reads.collect_rows(real, prompts, ["t_inst", "t_post"], which, "left")["resid"]
    for model, order, side in (
        (replace(real, batch_tokens=60), 1, "left"),
        (real, 1, "right"),
        (real, -1, "left"),
    ):
        other = reads.collect_rows(model, prompts[::order], ["t_inst", "t_post"], which, side)["resid"][::1]
        other = other.flip(0) if order < 0 else other
        assert ((other - reference).norm(dim=-1) <= 1e-4 * reference.norm(dim=-1) + 1e-4).all()


def test_texts_have_unequal_lengths():
    assert len({len(t.split()) for t in TEXTS}) > 3  # else padding would not be tested


# how far a token sees: the architecture, what its configuration says, and whose paths its parts have
WINDOWED = {
    "mistral 8": ("mistral", {"sliding_window": 8}, "llama"),
    "mistral 29": ("mistral", {"sliding_window": 29}, "llama"),
    "mistral 45": ("mistral", {"sliding_window": 45}, "llama"),
    "mistral above": ("mistral", {"sliding_window": 200}, "llama"),
    "phi3 8": ("phi3", {"sliding_window": 8}, "llama"),
    "starcoder2 8": ("starcoder2", {"sliding_window": 8}, "llama"),
    "qwen2 8": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "qwen2"),
    "qwen2 unused": ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, "qwen2"),
    "gemma2 8": ("gemma2", {"sliding_window": 8, "head_dim": 8}, "gemma2"),
    "gemma3 8": (
        "gemma3_text",
        {
            "sliding_window": 8,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "gemma3_text",
    ),
}
# an opening of 14 tokens, and rests of 3 to 30
LONG = "<s> <user> please lift the heavy stone with the rope and then the lamp {x} <end> <assistant>"
MANY = [
    "Sure",
    "paint the table",
    "please poison the victim",
    "kill the lamp now",
    "lift a stone",
    "fold the letter and weigh the bread ?",
    " ".join(TEXTS[1:4]),
    "No",
]


@pytest.fixture(scope="module", params=WINDOWED)
def seeing(request):
    """A model, prompts of mixed lengths with one opening, and plain passes over them."""
    kind, extra, paths = WINDOWED[request.param]
    model = loading.wrap(
        windowed(kind, extra), tiny_tokenizer(), name=request.param, revision=request.param, template=LONG
    )
    prompts = chat(model, table(MANY))
    assert opening_length(prompts) == 14 and len({len(p.ids) for p in prompts}) >= 5
    return model, prompts, Plain(model.module, paths), paths


def test_padding_between_tokens_never_changes_states_scores_and_projections(seeing):
    """For windows that are narrower than a prompt, about as wide, and wider: a batch is one prompt at a time,
    under edits of the opening as well.
    """
    model, prompts, plain, _ = seeing
    sites = {s: list(range(3 + (s == "resid"))) for s in passes.SITES}
    got = reads.collect_rows(model, prompts, [-1, "t_inst", 1], sites, "left")
    along = reads.project(model, prompts, torch.stack([V, W]), [3, 1])
    some = [arm for arm in arms() if not any(isinstance(e, ScaleHead) and e.rescale for e in arm)]
    scores = reads.score(model, prompts, lambda logits: logits, some)
    for i, p in enumerate(prompts):
        _, seen = plain.run(p.ids)
        for site in passes.SITES:
            torch.testing.assert_close(
                got[site][i], seen[site][:, [p.t_post, p.t_inst, p.t_inst + 1]], rtol=1e-4, atol=1e-4
            )
        torch.testing.assert_close(
            along[i], torch.stack([seen["resid"][3] @ V, seen["resid"][1] @ W]), rtol=1e-4, atol=5e-4
        )
        for a, arm in enumerate(some):
            logits, _ = plain.run(p.ids, plain_edit(model, p, arm, len(p.ids)))
            torch.testing.assert_close(
                scores[a, i], logits[-1], rtol=1e-3, atol=3e-4, msg=f"arm {a}, prompt {i}"
            )


@pytest.mark.parametrize("sequences", [None, (14,), (15, 20, 30), (2, 9, 16)])
def test_padding_between_tokens_never_changes_answers(seeing, sequences):
    """Without sequences and with sequences of several lengths, some of which go on from others; while
    answering, states and projections are read.
    """
    model, prompts, plain, paths = seeing
    held = None
    if sequences:
        first = decode.read_prefix(model, [p.ids[: sequences[0]] for p in prompts])
        held = decode.read_prefix(
            model,
            [p.ids[: min(sequences[k % len(sequences)], len(p.ids) - 1)] for k, p in enumerate(prompts)],
            first,
        )
    want = wanted(model, prompts, [-1, "t_inst"])
    texts, states, lines = generate_all(model, prompts, [[]], 12, wanted=want, prefix=held)
    for i, p in enumerate(prompts):
        assert texts[0][i] == text_of(model.tokenizer, greedy(model, p, 12, kind=paths)), i
        _, seen = plain.run(p.ids)
        torch.testing.assert_close(
            states["resid"][i], seen["resid"][:, [p.t_post, p.t_inst]], rtol=1e-4, atol=1e-4
        )
        projected = torch.stack(
            [
                seen["resid"][layer] @ w
                for layer, w in zip(want.projections.layers, want.projections.directions, strict=True)
            ]
        )
        torch.testing.assert_close(lines[i], projected[:, want.projections.since[i] :], rtol=1e-3, atol=1e-3)
    if not sequences:
        (said,) = generate_all(model, prompts, [[Add(W, 1, "every_token")]], 12)[0]
        for text, p in zip(said, prompts, strict=True):
            assert text == text_of(
                model.tokenizer,
                greedy(
                    model, p, 12, lambda n, p=p: plain_edit(model, p, [Add(W, 1, "every_token")], n), paths
                ),
            )
    # prompts of one length still share a batch
    if prefix.reach(model.module) == 0 and sequences in (None, (14,)):
        lengths = [len(p.ids) for p in prompts]
        assert len(batches.plan(model, [n - 14 for n in lengths], 14)) == len(set(lengths)) < len(lengths)


def test_what_padding_between_tokens_would_have_done(monkeypatch):
    """Where windows are not looked at, the same batch is far off: so these tests tell the two apart."""
    monkeypatch.setattr(batches, "reach", lambda _: math.inf)
    model = loading.wrap(
        windowed("mistral", {"sliding_window": 8}), tiny_tokenizer(), name="mistral", template=LONG
    )
    prompts = chat(model, table(MANY))
    got = reads.collect_rows(model, prompts, [-1], {"resid": [3]}, "left")["resid"][:, 0, 0]
    off = [
        float((h - Plain(model.module, "llama").run(p.ids)[1]["resid"][3, -1]).norm() / h.norm())
        for h, p in zip(got, prompts, strict=True)
    ]
    assert max(off) > 0.2


def test_how_far_padding_may_lie_between_tokens(tiny, llama):
    """From the configuration's windows, and from two passes for what measures distance by column without one,
    as ALiBi in MPT does.
    """
    sizes = {
        name: prefix.reach(loading.wrap(windowed(kind, extra), tiny_tokenizer(), name=name).module)
        for name, (kind, extra, _) in WINDOWED.items()
    }
    assert (
        sizes["mistral above"] == 200
        and sizes["mistral 45"] == 45
        and sizes["qwen2 unused"] == math.inf == prefix.reach(llama.module)
    )
    assert {name for name, size in sizes.items() if size == 0} == {
        name for name in WINDOWED if name.endswith(" 8")
    } | {"mistral 29"}
    assert prefix.reach(tiny.module) == {"gemma2": 4096, "gemma3_text": 4096}.get(tiny.name, math.inf)
    mpt = transformers.MptForCausalLM(
        transformers.MptConfig(
            d_model=32, n_heads=4, n_layers=2, vocab_size=90, max_seq_len=128, initializer_range=0.3
        )
    ).eval()
    bloom = transformers.BloomForCausalLM(
        transformers.BloomConfig(hidden_size=32, n_head=4, n_layer=2, vocab_size=90, initializer_range=0.3)
    ).eval()
    chunks = {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 8}
    assert (
        prefix._measures_columns(mpt)
        and not prefix._measures_columns(bloom)
        and prefix._measures_columns(windowed("llama4_text", chunks))
    )


def ended(tokenizer_has, template_closes=None, settings=None):
    """A random model whose tokenizer has the special tokens `tokenizer_has` as well."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens(list(tokenizer_has), special_tokens=True)
    if template_closes:
        tokenizer.chat_template = tokenizer.chat_template.replace("<end>", template_closes)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    module = transformers.LlamaForCausalLM(config)
    module.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(settings) if settings else 3
    return loading.wrap(module, tokenizer, name="ended")


@pytest.mark.parametrize(
    "end, has, closes, settings",
    [
        ("</s>", [], None, None),
        ("<end>", [], None, None),
        ("<|im_end|>", ["<|im_end|>"], "<|im_end|>\n", None),
        ("<|end|>", ["<|end|>", "<|other|>"], None, ["<|other|>", "<|end|>"]),
        ("<|endoftext|>", ["<|endoftext|>"], None, None),
        ("<|end_of_text|>", ["<|end_of_text|>"], None, None),
        ("<｜end▁of▁sentence｜>", ["<｜end▁of▁sentence｜>"], None, None),
        ("<eos>", ["<eos>"], None, None),
        ("<EOS_TOKEN>", ["<EOS_TOKEN>"], None, None),
        ("[EOS]", ["[EOS]"], None, None),
    ],
)
def test_an_answer_ends_at_every_token_that_ends_one_and_shows_other_control_tokens(
    monkeypatch, end, has, closes, settings
):
    """Whatever the tokens are: those of the tokenizer, of the template, of the generation's settings, and
    those that end a document.
    """
    model = ended([*has, "<|start|>"], closes, settings)
    script = model.tokenizer.convert_tokens_to_ids(
        ["lift", "<|start|>", "<|start|>", "the", "stone", end, "Sorry", "lift"]
    )
    said = iter(script)
    monkeypatch.setattr(decode, "_next", lambda *_: torch.tensor([next(said)]))
    texts = generate_all(model, chat(model, table(["paint the table"])), [[]], 8)[0][0]
    assert texts == [f"lift{decode.CONTROL}{decode.CONTROL}the stone"] and list(said) == script[6:]


def test_ordinary_tokens_do_not_end_answers():
    model = ended(["<|start|>", "<|endofprompt|>", "<think>", "<s2>", "<|end|>"])
    names = {model.tokenizer.convert_ids_to_tokens(token) for token in decode.stop_tokens(model)}
    assert names == {"</s>", "<end>"}


def test_the_real_model_stops_at_the_end_of_a_document(real):
    assert {real.tokenizer.convert_ids_to_tokens(t) for t in decode.stop_tokens(real)} == {
        "<|im_end|>",
        "<|endoftext|>",
    }


@pytest.fixture(scope="module")
def overflowing():
    """A model in float16 in whose last block the word "rope" overflows; the load check does not see it."""
    module = tiny_module("llama")
    token = tiny_tokenizer().convert_tokens_to_ids("rope")
    norm, mlp = module.model.layers[2].post_attention_layernorm, module.model.layers[2].mlp
    row = module.model.embed_tokens.weight.data[token]
    # so that nothing else is in its state, of which the norm makes sqrt(d_model) along the row; other words
    # have about 1 there
    row *= 1e3
    norm.weight.data.fill_(1.0)
    mlp.gate_proj.weight.data, mlp.up_proj.weight.data = (4 * row / row.norm()).repeat(2, 64, 1)
    mlp.down_proj.weight.data.fill_(2.6)  # 64 * 2.6 * (4 * sqrt(32)) ** 2 = 85,000
    return loading.wrap(module.half(), tiny_tokenizer(), name="llama", revision="overflowing")


def test_what_overflows_is_an_error_wherever_it_is_read(overflowing):
    good, bad = (chat(overflowing, table([text])) for text in ("lift the stone", "lift the rope"))
    both, dtype = good + bad, "not finite in DTYPE=float16"
    assert torch.isfinite(reads.collect(overflowing, bad, layers=[2])["resid"]).all()
    for message, read in (
        (
            f"resid at layer 3 is {dtype}",
            lambda p: reads.collect_rows(overflowing, p, ["t_inst"], {"resid": [1, 3]}, "left"),
        ),
        (
            f"mlp at layer 2 is {dtype}",
            lambda p: reads.collect_rows(overflowing, p, ["t_inst"], {"mlp": [0, 2]}, "left"),
        ),
        (
            f"projection of the residual stream is {dtype}",
            lambda p: reads.project(overflowing, p, V[None], [3]),
        ),
        (dtype, lambda p: reads.score(overflowing, without_closing(p), lambda logits: logits)),
        (dtype, lambda p: decode.generate(overflowing, without_closing(p), decoding=2)),
        (dtype, lambda p: reads.read_text(overflowing, [x.text for x in p])),
    ):
        read(good)
        with pytest.raises(UserError, match=message):
            read(both)
    # what is read by nobody may overflow
    opened = chat(replace(overflowing, template="<user> rope {x} <end>"), table(["lift the stone", "paint"]))
    reads.collect_rows(overflowing, opened, ["t_inst"], {"resid": [1, 3]}, "left")
    with pytest.raises(UserError, match=dtype):
        reads.project(overflowing, opened, V[None], [3])


def test_prompts_longer_than_the_positions_that_were_learned_are_an_error(llama, five):
    model, prompts = replace(llama, revision="short"), chat(llama, table())
    longest = max(prompts, key=lambda p: len(p.ids))
    n = len(longest.ids)
    object.__setattr__(model, "max_positions", n)
    reads.collect_rows(model, prompts, [-1], {"resid": [1]}, "left")
    assert generate_all(model, prompts, [[]], 1)[0] == generate_all(llama, prompts, [[]], 1)[0]
    too_long = rf"prompt {longest.id} has {n} tokens and is given 2 new ones; llama has only {n} positions"
    with pytest.raises(UserError, match=too_long):
        decode.generate(model, prompts, decoding=2)
    object.__setattr__(model, "max_positions", n - 1)
    for read in (
        lambda: reads.collect(model, prompts),
        lambda: reads.project(model, prompts, V[None], [1]),
        lambda: reads.score(model, prompts, lambda x: x),
        lambda: decode.generate(model, prompts, decoding=1),
        lambda: reads.read_text(model, ["lift " * n]),
        lambda: decode.read_prefix(model, [longest.ids]).rows([0]),
    ):
        with pytest.raises(UserError, match=f"only {n - 1} positions"):
            read()


@pytest.mark.parametrize(
    "attn, mlp", [("input_layernorm", "post_attention_layernorm"), ("post_attention_layernorm", "mlp")]
)
def test_what_a_sublayer_writes_is_taken_from_whichever_part_a_model_names(llama, attn, mlp):
    """Read and edited there, in scoring and in decoding."""
    model = replace(
        llama, attn_writes=attn, mlp_writes=mlp, tuple_outputs=(False, False, False), revision=attn
    )
    prompts, edit = chat(model, table()), [Ablate(V)]
    plain_run = Plain(model.module, "llama")
    plain_run.attn_writes, plain_run.mlp_writes = attn, mlp
    got = reads.collect_rows(model, rows_of(prompts, [edit]), [-1], {"attn": [0, 2], "mlp": [0, 2]}, "left")
    texts = generate_all(model, prompts, [edit], 3)[0][0]
    whole = generate_all(replace(model, remote="local"), prompts, [edit], 3)[0][0]
    for i, p in enumerate(prompts):
        logits, seen = plain_run.run(p.ids, plain_edit(model, p, edit, len(p.ids)))
        for site in ("attn", "mlp"):
            torch.testing.assert_close(got[site][i][:, 0], seen[site][[0, 2], -1], rtol=1e-3, atol=1e-4)
        first = int(logits[-1].argmax())
        assert texts[i] == whole[i] and (
            first in decode.stop_tokens(model) or texts[i].startswith(text_of(model.tokenizer, [first]))
        )


def test_reading_no_prompts_is_an_error_that_says_so(llama):
    for read in (lambda: reads.collect(llama, []), lambda: reads.score(llama, [], lambda logits: logits)):
        with pytest.raises(UserError, match="no prompts to read"):
            read()
