"""Soft prompts in the place of system prompts: untrained they are the text, their gradients are those of
plain PyTorch, and what is trained on planted answers finds them, on every architecture.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from conftest import Plain, greedy, plain_edit, table, tiny_module
from refusal.base.errors import UserError
from refusal.findings.f05 import arms, dro, trials
from refusal.measure.readouts import refusal_score
from refusal.model.tiny import ALARM, DISGUISE, HARMFUL, planted_direction, tiny_tokenizer
from refusal.model.weights import final_norm, vocabulary_head
from refusal.trace import cache, opening, reads
from refusal.trace.decode import Decoding, generate, generate_rows
from refusal.trace.edits import Add, Patch, Row
from refusal.trace.prompts import chat, with_first_tokens
from refusal.train import soft_prompt

SYSTEM = "please carry the stone with the rope now"
G = torch.Generator().manual_seed(2)


def everything(logits):
    return logits


@dataclass(frozen=True, eq=False)
class Along:
    """A loss with a known gradient: a line through the last output, and the others' mean."""

    line: torch.Tensor

    def __call__(self, x, which, head):
        return (x.float() @ self.line).sum() + head(x[:, -1]).float().square().mean()


@pytest.fixture()
def asked(tiny):
    return chat(tiny, table(), system=SYSTEM)


def test_untrained_it_is_the_text(tiny, asked):
    theta = soft_prompt.states_of_text(tiny, asked)
    assert len(theta) == len(SYSTEM.split())
    edits = soft_prompt.soft(theta)
    plain, soft = (reads.score_rows(tiny, [Row(p, e) for p in asked], everything) for e in ((), edits))
    torch.testing.assert_close(soft, plain, rtol=1e-5, atol=1e-4)
    said = [generate(tiny, [Row(p, e) for p in asked], decoding=6) for e in ((), edits)]
    assert said[0] == said[1]
    sides = [reads.collect(tiny, asked, edits=edits, side=side)["resid"] for side in ("left", "right")]
    torch.testing.assert_close(sides[0], reads.collect(tiny, asked)["resid"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*sides, rtol=1e-4, atol=1e-4)


def test_what_stands_there_is_what_plain_hooks_put_there(tiny, asked):
    theta = torch.randn(len(SYSTEM.split()), 32, generator=G)
    edits = (*soft_prompt.soft(theta), Add(torch.randn(32, generator=G), 2, "closing"))
    got = reads.score_rows(tiny, [Row(p, edits) for p in asked], everything)
    assert opening.shared_length(tiny, [Row(p, edits) for p in asked]) > max(asked[0].span("system"))
    for p, logits in zip(asked, got, strict=True):
        theirs, _ = Plain(tiny.module, tiny.name).run(p.ids, plain_edit(tiny, p, edits, len(p.ids)))
        torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=1e-3)


def test_what_is_decoded_under_it_is_what_plain_hooks_say(llama):
    asked = chat(llama, table(), system=SYSTEM)
    edits = soft_prompt.soft(2 * torch.randn(len(SYSTEM.split()), 32, generator=G))
    said = generate(llama, [Row(p, edits) for p in asked], decoding=Decoding(5, keep_special=True))
    for p, text in zip(asked, said, strict=True):
        theirs = greedy(llama, p, 5, lambda n, p=p: plain_edit(llama, p, edits, n), "llama")
        assert text == llama.tokenizer.decode(theirs)


def gradient(model, prompts, theta, objective, monkeypatch=None) -> tuple[float, torch.Tensor]:
    learned = torch.nn.Parameter(theta.clone())
    x = soft_prompt.outputs(model, prompts, learned)
    loss = objective(x, range(len(prompts)), vocabulary_head(model))
    loss.backward()
    return float(loss.detach()), learned.grad


def test_gradients_are_those_of_plain_pytorch_and_of_finite_differences(tiny, asked, monkeypatch):
    if tiny.device.type != "cpu":
        pytest.skip("the plain run is on the processor")
    objective, place = Along(torch.randn(32, generator=G)), list(asked[0].span("system"))
    theta = soft_prompt.states_of_text(tiny, asked)
    loss, got = gradient(tiny, asked, theta, objective)
    with monkeypatch.context() as m:
        m.setattr(opening, "shared_length", lambda *_: 0)
        torch.testing.assert_close(gradient(tiny, asked, theta, objective)[1], got, rtol=1e-3, atol=1e-4)
    learned, states = torch.nn.Parameter(theta.clone()), []
    path = Plain(tiny.module, tiny.name)
    for p in asked:  # one prompt at a time, without the library

        def put(_module, args, kwargs, out=None):
            x = (kwargs["hidden_states"] if not args else args[0]).clone()
            x[0, place] = learned
            return ((), {**kwargs, "hidden_states": x}) if not args else ((x, *args[1:]), kwargs)

        def keep(_module, _args, out):
            states.append(out[0, -1])

        handles = [path.blocks[0].register_forward_pre_hook(put, with_kwargs=True)]
        handles.append(final_norm(tiny).register_forward_hook(keep))
        tiny.module(input_ids=torch.tensor([p.ids]), use_cache=False)
        for handle in handles:
            handle.remove()
    theirs = objective(torch.stack(states)[:, None], range(len(asked)), vocabulary_head(tiny))
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), rel=1e-4)
    torch.testing.assert_close(got, learned.grad, rtol=2e-3, atol=1e-3)
    step = torch.zeros_like(theta)
    step[1, 3] = 1e-2
    up, down = (gradient(tiny, asked, theta + s, objective)[0] for s in (step, -step))
    assert (up - down) / 2e-2 == pytest.approx(float(got[1, 3]), rel=0.05, abs=0.02)


def test_answers_that_are_given_are_read_token_by_token(llama):
    prompts = [
        with_first_tokens(p, range(9, 9 + k)) for k, p in enumerate(chat(llama, table(), system=SYSTEM), 1)
    ]
    theta = torch.randn(len(SYSTEM.split()), 32, generator=G)
    x = soft_prompt.outputs(llama, prompts, theta)
    for p, row in zip(prompts, x, strict=True):
        edit = plain_edit(llama, p, soft_prompt.soft(theta), len(p.ids))
        _, seen = Plain(llama.module, "llama").run(p.ids, edit)
        last = seen["resid"][-1][-1 - p.given :]
        torch.testing.assert_close(row[-len(last) :], final_norm(llama)(last), rtol=1e-3, atol=1e-3)
    said = dro.Tuning(tuple(p.ids[-p.given :] for p in prompts), (True, False, True, True, False))
    loss = said(x, range(len(prompts)), vocabulary_head(llama))
    by_hand = []
    for p, good in zip(prompts, said.good, strict=True):
        edit = plain_edit(llama, p, soft_prompt.soft(theta), len(p.ids))
        logits, _ = Plain(llama.module, "llama").run(p.ids, edit)
        log_p = logits.log_softmax(-1)[-1 - p.given : -1]
        at = log_p[range(p.given), list(p.ids[-p.given :])]
        by_hand.append(-(at if good else (1 - at.exp()).log()).mean())
    assert float(loss) == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-3)
    given = reads.read_given(llama, [Row(p, soft_prompt.soft(theta)) for p in prompts[::2]])
    for found, i in zip(given, (0, 2, 4), strict=True):
        p = prompts[i]
        edit = plain_edit(llama, p, soft_prompt.soft(theta), len(p.ids))
        logits, _ = Plain(llama.module, "llama").run(p.ids, edit)
        log_p = logits.log_softmax(-1)[-1 - p.given : -1]
        assert float(found) == pytest.approx(
            -float(log_p[range(p.given), list(p.ids[-p.given :])].mean()), rel=1e-3
        )


def test_training_goes_down_and_is_kept_once(llama, monkeypatch):
    prompts, objective = chat(llama, table(), system=SYSTEM), Along(torch.randn(32, generator=G))
    theta = soft_prompt.states_of_text(llama, prompts)
    how = {"learning_rate": 0.01, "label": "trying"}
    found, losses = soft_prompt.train(llama, prompts, theta, objective, [[0, 1, 2]] * 12, **how)
    assert losses[-1] < losses[0] - 0.1 and not torch.equal(found, theta)
    monkeypatch.setattr(soft_prompt, "learn", lambda *_: pytest.fail("it was kept"))
    monkeypatch.undo()
    again, _ = soft_prompt.train(llama, prompts, theta, objective, [[0, 1, 2]] * 12, **how)
    assert torch.equal(again, found)
    other, _ = soft_prompt.train(llama, prompts, theta, objective, [[0, 1, 3]] * 12, **how)
    assert not torch.equal(other, found)


@dataclass(frozen=True, eq=False)
class Cut:
    """Stops at its second step."""

    seen: list

    def __call__(self, x, which, head):
        self.seen.append(1)
        if len(self.seen) > 1:
            raise KeyboardInterrupt
        return x.square().mean()


def test_a_cut_training_leaves_nothing(llama):
    prompts = chat(llama, table(), system=SYSTEM)
    theta = soft_prompt.states_of_text(llama, prompts)
    before, attention = (
        set((cache.cache_dir() / "computed").iterdir()),
        llama.module.config._attn_implementation,
    )
    with pytest.raises(KeyboardInterrupt):
        soft_prompt.train(llama, prompts, theta, Cut([]), [[0], [1]], learning_rate=0.1)
    assert set((cache.cache_dir() / "computed").iterdir()) == before
    assert llama.module.config._attn_implementation == attention
    assert not any(p.requires_grad for p in llama.module.parameters())


@dataclass(frozen=True, eq=False)
class Infinite:
    def __call__(self, x, which, head):
        return x.sum() * torch.inf


def test_bad_soft_prompts(llama):
    prompts, plain = chat(llama, table(), system=SYSTEM), chat(llama, table())
    theta, one = soft_prompt.states_of_text(llama, prompts), [[0, 1]]
    ask = lambda p, t, o=Infinite(), m=llama: soft_prompt.train(m, p, t, o, one, learning_rate=0.1)
    for wrong in (theta[:, :5], theta[:3], theta[0]):
        with pytest.raises(UserError, match="does not fit"):
            ask(prompts, wrong)
    with pytest.raises(UserError, match="no system prompt in common"):
        soft_prompt.states_of_text(llama, plain)
    with pytest.raises(UserError, match="no system prompt in common"):
        soft_prompt.states_of_text(llama, [*prompts, *chat(llama, table(), system="now")])
    with pytest.raises(UserError, match="the loss is"):
        ask(prompts, theta)
    with pytest.raises(UserError, match="does not give back"):
        ask(prompts, theta, m=replace(llama, remote="local"))
    with pytest.raises(UserError, match="nothing is given"):
        reads.read_given(llama, [Row(p) for p in plain])


def test_a_system_prompt_that_differs_by_row_is_not_shared(llama):
    prompts = [p for s in (SYSTEM, "please now", "") for p in chat(llama, table()[:2], system=s)]
    theta = torch.randn(len(SYSTEM.split()), 32, generator=G)
    rows = [Row(p, soft_prompt.soft(theta[: len(p.span("system"))])) for p in prompts]
    got = reads.score_rows(llama, rows, everything)
    for row, logits in zip(rows, got, strict=True):
        edit = plain_edit(llama, row.prompt, row.edits, len(row.prompt.ids))
        theirs, _ = Plain(llama.module, "llama").run(row.prompt.ids, edit)
        torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("span", [(1, 3), (-3,), (2, 9)])
def test_listed_positions_in_the_opening(llama, span):
    prompts = chat(llama, table(), system=SYSTEM)
    edits = (Patch(torch.randn(len(span), 32, generator=G), 1, span), Add(torch.ones(32), 0, (0,)))
    got = reads.score_rows(llama, [Row(p, edits) for p in prompts], everything)
    for p, logits in zip(prompts, got, strict=True):
        theirs, _ = Plain(llama.module, "llama").run(p.ids, plain_edit(llama, p, edits, len(p.ids)))
        torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=1e-3)


def test_prompts_are_read_once_for_all_samples(llama, monkeypatch):
    from refusal.trace import decode

    rows, sizes = [Row(p) for p in chat(llama, table())], []
    forward = decode.forward
    monkeypatch.setattr(
        decode, "forward", lambda m, b, *a, **k: (sizes.append(len(b.rows)), forward(m, b, *a, **k))[1]
    )
    many = generate_rows(llama, rows, Decoding(4, samples=6, temperature=1.0))[0]
    assert sizes[0] <= len(rows) < sizes[-1]
    alone = [generate_rows(llama, [row], Decoding(4, samples=6, temperature=1.0))[0][0] for row in rows]
    assert many == alone and len({t for some in many for t in some}) > len(rows)
    twice = generate_rows(llama, [rows[0], rows[1], rows[0]], Decoding(4))[0]
    assert twice[0] == twice[2]


def loss_of(planted, prompts):
    """The paper's loss on the planted model: labels by the words of its prompts."""
    x = arms.final(planted, arms.states(planted, prompts))
    harmless = np.array([not any(w in p.text.split() for w in HARMFUL) for p in prompts])
    complied = np.array([not any(w in p.text.split() for w in (*HARMFUL, *ALARM)) for p in prompts])
    return dro.boundary(x, complied, harmless), x, harmless


def test_trained_along_the_planted_direction_disguised_prompts_are_refused(planted):
    line = planted_direction("refusal")
    texts = [f"please {first} the {h} with the rope now" for first in ("paint", DISGUISE[0]) for h in HARMFUL]
    prompts = chat(planted, table(texts), system="please carry the stone")
    x = arms.final(planted, arms.states(planted, prompts))
    sorry = planted.tokenizer.get_vocab()["Sorry"]
    theta = soft_prompt.states_of_text(planted, prompts)

    def refused(end) -> float:
        rows = [Row(p, soft_prompt.soft(end)) for p in prompts]
        return float((reads.score_rows(planted, rows, refusal_score([sorry])) > 0).float().mean())

    assert refused(theta) == 0.5  # the disguised ones are answered
    loss = lambda d, up: dro.Dro(
        dro.Boundary(x.mean(0), d[None] / (x @ d).std(), d[None], -torch.ones(1), -torch.ones(1), 1.0),
        x,
        torch.full((len(x),), float(up)),
        rest=0.0,
    )
    batches, how = [[i, i + 4, i + 8, i + 12] for i in range(4)] * 10, {"learning_rate": 0.03}
    toward, _ = soft_prompt.train(planted, prompts, theta, loss(line, 0), batches, **how)
    away, _ = soft_prompt.train(planted, prompts, theta, dro.swapped(loss(line, 0)), batches, **how)
    assert refused(toward) == 1 and refused(away) == 0


def test_the_third_term_is_that_of_an_explicit_basis(planted):
    prompts = chat(
        planted, table([f"please paint the {w} now" for w in (*HARMFUL, "table", "stone")]), system="now"
    )
    bound, x, up = loss_of(planted, prompts)
    moved = torch.randn(x.shape, generator=G)
    loss = dro.Dro(bound, x, torch.from_numpy(up).float())
    l_r, l_h, l_u = loss.terms(x + moved, range(len(x)))
    basis = torch.linalg.qr(torch.cat([bound.directions.T, torch.randn(128, 124, generator=G)], 1))[0]
    torch.testing.assert_close(basis[:, :4].abs(), bound.directions.T.abs(), rtol=1e-3, atol=1e-4)
    assert float(l_u) == pytest.approx(float((moved @ basis[:, 4:]).square().mean() / bound.rest), rel=1e-3)
    z = (moved @ bound.axes.T) @ bound.refusing
    y = torch.from_numpy(up).float()
    by_hand = -(y * torch.sigmoid(z).log() + (1 - y) * torch.sigmoid(-z).log()).mean()
    assert float(l_r) == pytest.approx(float(by_hand), rel=1e-3)
    assert float(loss(x[:, None] + moved[:, None], range(len(x)), None)) == pytest.approx(
        float(l_r + 0.01 * l_h + 0.1 * l_u), rel=1e-5
    )


def test_a_line_from_the_text_to_the_trained_prompt(planted):
    prompts = chat(planted, table(), system="please carry the stone")
    theta = soft_prompt.states_of_text(planted, prompts)
    sorry = planted.tokenizer.get_vocab()["Sorry"]
    line = trials.Line(planted, theta, refusal_score([sorry]), 0.0)
    end = theta + 1
    (half,) = line.at(end, 0.5)
    torch.testing.assert_close(half.values, theta + 0.5)
    at_zero = line.refused(prompts, line.at(end, 0.0))
    assert (at_zero == line.refused(prompts, ())).all()
    sides = {"harmful": prompts[1:2], "harmless": prompts[:1], "pseudo-harmful": prompts[4:]}
    curve = line.curve(end, sides)
    assert curve.harmful.shape == (len(trials.SHARES), 1) and curve.spared.shape == (len(trials.SHARES), 2)
    assert line.chosen(end, sides) in trials.SHARES


def test_random_norms_and_biases_are_not_left_out():
    """The head and the final norm that the objectives are given are the model's own."""
    from refusal.model import loading

    model = loading.wrap(tiny_module("gpt_neox"), tiny_tokenizer(), name="gpt_neox", revision="neox soft")
    prompts = chat(model, table(), system=SYSTEM)
    x = arms.final(model, arms.states(model, prompts))
    readout = refusal_score([5, 9])
    torch.testing.assert_close(
        torch.from_numpy(arms.scores(model, prompts, x, readout)),
        reads.score_rows(model, [Row(p) for p in prompts], readout),
        rtol=1e-3,
        atol=1e-3,
    )
