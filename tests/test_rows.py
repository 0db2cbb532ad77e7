"""Rows with edits of their own, sampled answers, given first tokens, the span ``last``: against plain hooks,
one row at a time, here and on the remote path run here.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import Plain, greedy, plain_edit, table, text_of
from refusal.base.errors import ParameterError
from refusal.trace import batches, decode, passes, reads
from refusal.trace.decode import Decoding, generate_rows
from refusal.trace.edits import Ablate, Add, Patch, Row, ScaleHead, Steer, rows_of
from refusal.trace.last import before_last, score_last_rows
from refusal.trace.prompts import chat, with_first_tokens

G = torch.Generator().manual_seed(5)
V, W = torch.randn(32, generator=G), 2 * torch.randn(32, generator=G)
NETWORK = tuple(torch.randn(*size, generator=G) / 4 for size in ((7, 64), (7,), (3, 7), (3,)))
STEER = Steer((0, 1), (2, 3), torch.stack([V, W]), NETWORK, 1.5)
ARMS = (
    (),
    (Add(V, 1, "instruction", 1.5),),
    (Ablate(V),),
    (Add(W, 2, "every_token"),),
    (ScaleHead(1, 2, 0.0), Add(V, 2, "prompt")),
    (Patch(W, 3, "t_post"),),
    (Add(W, 1, "last"),),
    (Ablate(W, (1, 3), "last"),),
    (STEER,),
    (STEER, Add(V, 1, "prompt"), Add(W, 3, "last")),
)
REMOTE = ("", "local")


def mixed(prompts) -> list[Row]:
    """Rows of different prompts, each under an arm of its own."""
    return [Row(prompts[k % len(prompts)], arm) for k, arm in enumerate(ARMS)]


def texts(model, rows, how) -> list[str]:
    return [text for (text,) in generate_rows(model, rows, how)[0]]


@pytest.mark.parametrize("remote", REMOTE)
def test_a_batch_of_mixed_rows_is_each_row_alone_and_plain_hooks(tiny, five, remote):
    model, rows, how = replace(tiny, remote=remote), mixed(five), Decoding(5)
    which = {"resid": [0, 2, 3], "heads": [1]}
    states, logits = (
        reads.collect_rows(model, rows, [-1, "t_inst"], which),
        reads.score_rows(model, rows, lambda x: x),
    )
    said = texts(model, rows, how)
    for i, row in enumerate(rows):
        p, change = row.prompt, lambda n, row=row: plain_edit(tiny, row.prompt, row.edits, n)
        theirs, seen = Plain(tiny.module, tiny.name).run(p.ids, change(len(p.ids)))
        torch.testing.assert_close(logits[i], theirs[-1], rtol=1e-3, atol=1e-3)
        for site, layers in which.items():
            expected = seen[site][layers][:, [p.t_post, p.t_inst]]
            torch.testing.assert_close(states[site][i], expected, rtol=1e-3, atol=1e-3)
        assert said[i] == text_of(tiny.tokenizer, greedy(tiny, p, 5, change)), i
        assert said[i] == texts(model, [row], how)[0], i


def test_prompts_under_arms_are_their_rows(llama):
    prompts, arms = chat(llama, table())[:3], [list(arm) for arm in ARMS[:3]]
    rows = rows_of(prompts, arms)
    assert [(r.prompt, r.edits) for r in rows] == [(p, tuple(arm)) for arm in arms for p in prompts]
    flat = decode.generate(llama, rows, decoding=4)
    assert [flat[a * 3 : a * 3 + 3] for a in range(3)] == decode.generate(llama, prompts, arms, 4)
    read = lambda x: x
    torch.testing.assert_close(
        reads.score(llama, rows, read), reads.score(llama, prompts, read, arms).flatten(0, 1)
    )
    assert rows_of(rows) == rows
    for wrong in (lambda: rows_of(rows, arms), lambda: rows_of([rows[0], prompts[0]])):
        with pytest.raises(ValueError, match="edits of their own"):
            wrong()


@pytest.mark.parametrize("remote", REMOTE)
def test_last_acts_on_the_last_token_of_the_prompt_and_on_every_generated_one(llama, remote):
    """Written out: which tokens the edit reaches at each step."""
    model, (prompt,) = replace(llama, remote=remote), chat(llama, table(["paint the table"]))
    reached = []

    def edit(length):
        def change(site, layer, x):
            if site == "resid" and layer == 1:
                x = x.clone()
                reached.append(list(range(len(prompt.ids) - 1, length)))
                x[0, len(prompt.ids) - 1 : length] += W
            return x

        return change

    said = text_of(llama.tokenizer, greedy(llama, prompt, 5, edit))
    assert texts(model, [Row(prompt, (Add(W, 1, "last"),))], Decoding(5)) == [said]
    assert reached[0] == [len(prompt.ids) - 1] and said != texts(model, [Row(prompt)], Decoding(5))[0]


@pytest.mark.parametrize("remote", REMOTE)
def test_first_tokens_that_are_given_begin_the_answer_and_are_no_part_of_the_prompt(tiny, five, remote):
    model, words = replace(tiny, remote=remote), tiny.tokenizer("lift a stone")["input_ids"][-3:]
    given = [with_first_tokens(p, words) for p in five]
    assert all(g.t_post == p.t_post and g.t_inst == p.t_inst for g, p in zip(given, five, strict=True))
    assert [list(g.span("prompt")) for g in given] == [list(range(len(p.ids))) for p in five]
    assert [list(g.span("last")) for g in given] == [[*range(p.t_post, len(p.ids) + 3)] for p in five]
    for arm in ((), (Add(V, 1, "prompt"),), (Add(W, 1, "last"),), (Add(W, 2, "every_token"),)):
        said = texts(model, [Row(g, arm) for g in given], Decoding(4))
        for text, g in zip(said, given, strict=True):
            new = greedy(tiny, g, 4, lambda n, g=g, arm=arm: plain_edit(tiny, g, arm, n))
            assert text == text_of(tiny.tokenizer, [*words, *new])


HOW = Decoding(6, samples=3, temperature=0.8, top_p=0.9, seed=4)


def test_samples_do_not_depend_on_the_batch_its_order_or_its_padding(tiny, five):
    rows = mixed(five)
    whole = generate_rows(tiny, rows, HOW)[0]
    assert [len(some) for some in whole] == [3] * len(rows) and any(len(set(some)) > 1 for some in whole)
    assert generate_rows(tiny, rows[::-1], HOW)[0] == whole[::-1]
    assert generate_rows(replace(tiny, batch_tokens=1), rows, HOW)[0] == whole
    assert [generate_rows(tiny, [row], HOW)[0][0] for row in rows] == whole
    assert generate_rows(tiny, rows, replace(HOW, samples=2))[0] == [some[:2] for some in whole]
    assert generate_rows(tiny, rows, replace(HOW, seed=5))[0] != whole
    assert generate_rows(replace(tiny, remote="local"), rows, HOW)[0] == whole


def test_sampled_tokens_are_those_that_the_numbers_draw(llama):
    """Written again: where the probabilities of a plain pass, added up in the order of their size, pass the
    number.
    """
    (prompt,) = chat(llama, table(["paint the table"]))
    for sample, text in enumerate(generate_rows(llama, [Row(prompt)], HOW)[0][0]):
        ids, u = list(prompt.ids), HOW.draws(prompt, sample)
        for step in range(6):
            logits = Plain(llama.module, "llama").run(ids)[0][-1].double() / 0.8
            p, order = logits.softmax(-1).sort(descending=True)
            kept = int((p.cumsum(0) < 0.9).sum()) + 1
            at = int(
                np.searchsorted((p[:kept].cumsum(0) / p[:kept].sum()).numpy(), float(u[step]), side="right")
            )
            ids.append(int(order[at]))
            if ids[-1] in decode.stop_tokens(llama):
                ids.pop()
                break
        assert text == text_of(llama.tokenizer, ids[len(prompt.ids) :])


def test_drawn_tokens_follow_the_probabilities_and_the_share():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = passes.chosen(logits.expand(len(u), -1), u, 1.0, 1.0).bincount(minlength=5) / len(u)
    assert torch.allclose(drawn.double(), logits.double().softmax(0), atol=0.01)
    cold = passes.chosen(logits.expand(len(u), -1), u, 0.5, 1.0).bincount(minlength=5) / len(u)
    assert torch.allclose(cold.double(), (logits.double() / 0.5).softmax(0), atol=0.01)
    few = passes.chosen(logits.expand(len(u), -1), u, 1.0, 0.7).unique().tolist()
    assert few == [0, 1]  # 0.64 and 0.24: the second passes the share
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert passes.chosen(logits.expand(2, -1), ends, 1.0, 1.0).tolist() == [0, 4]
    assert passes.chosen(logits.expand(2, -1), ends, 1.0, 0.7).tolist() == [0, 1]


def test_the_most_probable_tokens_are_those_of_a_full_order(monkeypatch):
    g = torch.Generator().manual_seed(8)
    logits, u = torch.randn(40, 300, generator=g) * 3, torch.rand(40, generator=g, dtype=torch.float64)
    logits[::2] /= 30  # nearly flat: few tokens do not hold the share
    p, order = (logits.double() / 0.9).softmax(-1).sort(-1, descending=True)
    p = p * (p.cumsum(-1) - p < 0.9)
    total = p.cumsum(-1)
    by_hand = [int(order[r, (total[r] > u[r] * total[r, -1]).nonzero()[0, 0]]) for r in range(40)]
    for k in (5, 64, 1024):
        monkeypatch.setattr(passes, "NUCLEUS", k)
        assert passes.chosen(logits, u, 0.9, 0.9).tolist() == by_hand


def test_control_tokens_are_kept_where_they_are_asked_for(llama, monkeypatch):
    (prompt,), vocabulary = chat(llama, table(["paint the table"])), llama.tokenizer.get_vocab()
    script = [vocabulary[word] for word in ("lift", "<assistant>", "stone", "</s>")]
    for keep, expected in ((False, f"lift{decode.CONTROL}stone"), (True, "lift<assistant>stone")):
        said = iter(script)
        monkeypatch.setattr(decode, "_next", lambda *_, said=said: torch.tensor([next(said)]))
        (text,) = texts(llama, [Row(prompt)], Decoding(8, keep_special=keep))
        assert text.replace(" ", "") == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"samples": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"samples": 2},
    ],
)
def test_settings_that_make_no_answers_are_an_error(wrong):
    with pytest.raises(ParameterError):
        Decoding(**wrong)


@pytest.mark.parametrize("remote", REMOTE)
def test_steering_in_one_pass_is_reading_and_then_pushing(llama, five_of_llama, remote):
    """The first token under `Steer` is that of two passes: states first, and then vectors as strong as they
    say; and a network that says nothing changes nothing.
    """
    model, prompts = replace(llama, remote=remote), five_of_llama
    one = reads.score_rows(model, [Row(p, (STEER,)) for p in prompts], lambda x: x)
    states = reads.collect(model, prompts, at=["t_post"], layers=STEER.reads)["resid"][:, :, 0].flatten(1)
    hidden, bias, out, other = NETWORK
    s, *w = ((states @ hidden.T + bias).relu() @ out.T + other).T
    pushed = lambda i, k: float(1.5 * s[i] * w[k][i].sigmoid())
    rows = [
        Row(p, tuple(Add((V, W)[k], 2 + k, "last", pushed(i, k)) for k in (0, 1)))
        for i, p in enumerate(prompts)
    ]
    two = reads.score_rows(model, rows, lambda x: x)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    prefix = before_last(model, prompts)
    last = score_last_rows(model, [Row(p, (STEER,)) for p in prompts], lambda x: x, prefix, "one pass")
    torch.testing.assert_close(last, two, rtol=1e-4, atol=1e-4)
    silent = replace(STEER, network=(hidden, bias, 0 * out, 0 * other))
    bare = reads.score_rows(model, [Row(p) for p in prompts], lambda x: x)
    quiet = reads.score_rows(model, [Row(p, (silent,)) for p in prompts], lambda x: x)
    torch.testing.assert_close(quiet, bare)
    assert (one - bare).abs().max() > 0.1


@pytest.fixture()
def five_of_llama(llama):
    return chat(llama, table())


def test_what_cannot_steer_is_told(llama, five_of_llama):
    with pytest.raises(ParameterError, match="layer 2 is pushed before layer 2 is read"):
        replace(STEER, reads=(0, 2))
    with pytest.raises(ParameterError, match="1 vectors and 2 weights for 2 layers"):
        replace(STEER, vectors=V[None])
    with pytest.raises(ParameterError, match="layer 9 does not exist"):
        reads.score_rows(llama, [Row(five_of_llama[0], (replace(STEER, layers=(2, 9)),))], lambda x: x)


def test_a_remote_model_keeps_nothing_here(llama):
    away = SimpleNamespace(device=torch.device("meta"))
    assert batches.micro_batches(away, [5, 900, 7], 16) == [[0, 1, 2]]
