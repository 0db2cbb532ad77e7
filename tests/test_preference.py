"""Odds-ratio preferences (`refusal.train.preference`) against plain transformers, one row at a time in
float64, and against supervised training; and what twenty steps do to the planted model.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import PATHS, tiny_module
from refusal.trace.prompts import chat
from refusal.train import fit, preference
from refusal.train.preference import (
    HIGHEST,
    drawn,
    log_odds,
    log_probabilities,
    odds_loss,
    preference_steps,
)

PAIRS = [  # of unlike lengths, so that rows are padded
    ([4, 9, 17], [20, 21, 22, 23], [30, 31]),
    ([4, 11, 12, 13, 14, 15], [24, 25], [32, 33, 34, 35, 36]),
    ([4, 40], [26], [37]),
    ([4, 41, 42, 43], [27, 28, 29], [38, 39, 44, 45]),
]
ROWS = [(prompt, answer) for prompt, *both in PAIRS for answer in both]


def plain_log_p(module, prompt, answer) -> torch.Tensor:
    """The log-probability of each token of an answer, from one unpadded row."""
    logits = module(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].double()
    log_p = logits.log_softmax(-1)
    return torch.stack([log_p[len(prompt) - 1 + k, token] for k, token in enumerate(answer)])


def by_formula(module, pairs, weight: float, batch: int) -> torch.Tensor:
    """The loss of one batch, pair by pair: the mean over all chosen tokens, and the odds' mean over pairs."""
    nll, tokens, odds = 0.0, sum(len(chosen) for _, chosen, _ in pairs), 0.0
    for prompt, chosen, rejected in pairs:
        yes = plain_log_p(module, prompt, chosen)
        nll = nll - yes.sum() / tokens
        if rejected:
            p, q = yes.mean().exp(), plain_log_p(module, prompt, rejected).mean().exp()
            ratio = (p / (1 - p)) / (q / (1 - q))
            odds = odds - torch.log(ratio / (1 + ratio)) / batch
    return nll + weight * odds


def caught(monkeypatch, of, call) -> tuple:
    """(loss of a part, batches) that `call` hands to ``learn`` of the module `of`."""
    got = []
    monkeypatch.setattr(of, "learn", lambda _module, loss_of, batches, *_: got.append((loss_of, batches)))
    call()
    return got[0]


def summed(loss_of, parts) -> torch.Tensor:
    return sum((loss_of(part) for part in parts), torch.zeros(()))


def gradients(module, loss) -> dict[str, torch.Tensor]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g.double() for n, g in zip(names, found, strict=True) if g is not None}


def agree(a: dict, b: dict, **how) -> None:
    assert a.keys() == b.keys() and len(a) > 5
    for name in a:
        torch.testing.assert_close(a[name], b[name], **how)


def test_log_odds_are_those_of_probabilities():
    p = np.concatenate([[1e-20, 1e-9, 1e-4], np.linspace(0.01, 0.99, 50), [0.999, 0.99999]])
    got = log_odds(torch.from_numpy(np.log(p)))
    assert got.dtype == torch.float64
    assert got.numpy() == pytest.approx(np.log(p / (1 - p)), rel=1e-7, abs=1e-9)
    assert log_odds(torch.from_numpy(np.log(p)).float()).numpy() == pytest.approx(
        np.log(p / (1 - p)), rel=1e-3, abs=1e-5
    )
    assert float(log_odds(torch.tensor(np.log(0.5)))) == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_they_are_finite_at_both_ends(dtype):
    ends = torch.tensor([0.0, -1e-9, -1e-6, -50.0, -200.0], dtype=dtype, requires_grad=True)
    got = log_odds(ends)
    assert torch.isfinite(got).all() and got[-2:].tolist() == pytest.approx([-50, -200])
    assert got[:2].tolist() == pytest.approx([-np.log(-HIGHEST)] * 2, rel=1e-3)
    for chosen, rejected in ((ends, ends.flip(0)), (ends.flip(0), ends)):
        loss = odds_loss(chosen, rejected)
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, ends, retain_graph=True)[0]).all()


def test_exchanging_both_changes_the_sign():
    rng = torch.Generator().manual_seed(0)
    chosen, rejected = -3 * torch.rand(2, 16, generator=rng, dtype=torch.float64) - 1e-3
    one, other = (log_odds(a) - log_odds(b) for a, b in ((chosen, rejected), (rejected, chosen)))
    torch.testing.assert_close(one, -other)
    # −log σ(x) + log σ(−x) is −x
    torch.testing.assert_close(odds_loss(chosen, rejected) - odds_loss(rejected, chosen), -one.sum())
    assert float(odds_loss(chosen, chosen)) == pytest.approx(16 * np.log(2))


@pytest.mark.parametrize("kind", PATHS)
def test_a_padded_batch_is_one_row_at_a_time(kind):
    module = tiny_module(kind)
    with torch.no_grad():
        total, count = log_probabilities(module, ROWS)
        by_row = [plain_log_p(module, *row) for row in ROWS]
    assert count.tolist() == [len(answer) for _, answer in ROWS] and total.dtype == torch.float32
    torch.testing.assert_close(
        (total / count).double(), torch.stack([x.mean() for x in by_row]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(total.double(), torch.stack([x.sum() for x in by_row]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_the_loss_is_the_formula(kind, weight, monkeypatch):
    module = tiny_module(kind)
    monkeypatch.setattr(preference, "TOGETHER", 2)
    call = lambda: preference_steps(module, PAIRS, 1, 1e-3, 0, weight, 4, label="")
    loss_of, batches = caught(monkeypatch, preference, call)
    (parts,) = batches
    assert [len(some) for some, _ in parts] == [2, 2] and {tokens for _, tokens in parts} == {10}
    with torch.no_grad():
        got = float(summed(loss_of, parts))
        expected = float(by_formula(copy.deepcopy(module).double(), PAIRS, weight, 4))
        assert got == pytest.approx(expected, rel=1e-5)
        without = float(by_formula(copy.deepcopy(module).double(), PAIRS, 0.0, 4))
    assert got - without > 0.01 * weight


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_gradients_of_two_pairs_are_those_of_the_formula(kind, monkeypatch):
    module, plain = tiny_module(kind), tiny_module(kind).double()
    call = lambda: preference_steps(module, PAIRS[:2], 1, 1e-3, 0, 0.5, 2, label="")
    loss_of, batches = caught(monkeypatch, preference, call)
    got = gradients(module, summed(loss_of, batches[0]))
    expected = gradients(plain, by_formula(plain, PAIRS[:2], 0.5, 2))
    scale = max(float(g.abs().max()) for g in expected.values())
    agree(got, expected, rtol=1e-3, atol=1e-4 * scale)


def test_without_weight_it_is_supervised_training(monkeypatch):
    module = tiny_module("llama")
    call = lambda: preference_steps(module, PAIRS, 3, 1e-3, 5, 0.0, 4, label="")
    loss_of, batches = caught(monkeypatch, preference, call)
    examples = [(prompt, chosen) for prompt, chosen, _ in PAIRS]
    call = lambda: fit.steps(module, examples, 3, 1e-3, 5, 4, label="")
    supervised, rows = caught(monkeypatch, fit, call)
    for one, other in zip(batches, rows, strict=True):
        assert [([(p, c) for p, c, _ in some], n) for some, n in one] == other
        a, b = summed(loss_of, one), summed(supervised, other)
        assert float(a.detach()) == pytest.approx(float(b.detach()), rel=1e-5)
        agree(gradients(module, a), gradients(module, b), rtol=1e-3, atol=1e-6)
    bare = [(prompt, chosen, None) for prompt, chosen, _ in PAIRS]
    call = lambda: preference_steps(module, bare, 3, 1e-3, 5, 0.7, 4, label="")
    odds_of_none, _ = caught(monkeypatch, preference, call)
    with torch.no_grad():  # a pair without one to avoid has no odds, whatever the weight
        for one in batches:
            some = [([(p, c, None) for p, c, _ in of], n) for of, n in one]
            assert float(summed(odds_of_none, some)) == pytest.approx(float(summed(loss_of, one)), rel=1e-5)


def test_pairs_with_and_without_one_to_avoid_in_one_batch(monkeypatch):
    module = tiny_module("llama")
    some = [PAIRS[0], (*PAIRS[1][:2], None), (*PAIRS[2][:2], []), PAIRS[3]]
    call = lambda: preference_steps(module, some, 1, 1e-3, 0, 1.0, 4, label="")
    loss_of, batches = caught(monkeypatch, preference, call)
    with torch.no_grad():
        expected = float(by_formula(copy.deepcopy(module).double(), some, 1.0, 4))
        assert float(summed(loss_of, batches[0])) == pytest.approx(expected, rel=1e-5)


def test_what_is_avoided_is_read_only_where_it_counts(monkeypatch):
    module, read = tiny_module("llama"), []
    real = preference.log_probabilities
    monkeypatch.setattr(
        preference, "log_probabilities", lambda m, rows: read.extend(a for _, a in rows) or real(m, rows)
    )
    for weight, avoided in ((0.0, False), (0.1, True)):
        read.clear()
        preference_steps(copy.deepcopy(module), PAIRS, 1, 1e-4, 0, weight, 4, label="")
        assert any(a in (PAIRS[0][2], PAIRS[3][2]) for a in read) == avoided


def test_batches_pass_over_all_pairs():
    got = drawn(PAIRS, 5, 4, 0)
    size = lambda pair: len(pair[0]) + len(pair[1])
    assert [sorted(some) for some in got] == [sorted(PAIRS)] * 5  # a batch is a pass here
    assert all(some == sorted(some, key=size) for some in got)
    assert drawn(PAIRS, 5, 3, 0) == drawn(PAIRS, 5, 3, 0) != drawn(PAIRS, 5, 3, 1)
    flat = [pair for some in drawn(PAIRS, 4, 3, 0) for pair in some]
    assert all(flat.count(pair) == 3 for pair in PAIRS)
    assert [len(some) for some in drawn(PAIRS, 2, 8, 0)] == [8, 8]  # fewer pairs than a batch holds
    for call in (lambda: drawn([], 1, 4, 0), lambda: preference_steps(None, [], 1, 1, 0, 1, label="")):
        with pytest.raises(ValueError, match="no examples"):
            call()


TEXTS = [f"please {verb} the {noun}" for verb in ("paint", "poison", "weigh") for noun in ("table", "victim")]


def taught(planted, exchanged: bool, weight: float) -> dict:
    """Log-odds of both answers before and after 20 steps on an adapted copy, which are [prompt]."""
    ids = lambda text: planted.tokenizer(text, add_special_tokens=False)["input_ids"]
    answers = {"sure": ids("Sure here"), "sorry": ids("Sorry")}
    prompts = [list(p.ids) for p in chat(planted, TEXTS)]
    chosen, rejected = (answers[name] for name in (("sorry", "sure") if exchanged else ("sure", "sorry")))

    def odds(module):
        with torch.no_grad():
            of = {
                name: log_probabilities(module, [(p, answer) for p in prompts])
                for name, answer in answers.items()
            }
        return {name: log_odds(total / count) for name, (total, count) in of.items()}

    copied = fit.adapted(planted.module, 0)
    before = odds(copied)
    losses = preference_steps(
        copied, [(p, chosen, rejected) for p in prompts], 20, 1e-3, 0, weight, label="planted"
    )
    assert not copied.training and not any(p.requires_grad for p in copied.parameters())
    return {"losses": losses, "before": before, "after": odds(copied)}


def test_twenty_steps_on_the_planted_model(planted):
    original = {n: p.clone() for n, p in planted.module.named_parameters()}
    for exchanged, sign in ((False, 1), (True, -1)):
        got = taught(planted, exchanged, 1.0)
        assert len(got["losses"]) == 20 and got["losses"][-1] < got["losses"][0]
        moved = {name: (got["after"][name] - got["before"][name]).mean() for name in ("sure", "sorry")}
        assert sign * moved["sure"] > 0.5 and sign * moved["sorry"] < -0.5
    for name, p in planted.module.named_parameters():  # the copy alone has learned
        assert torch.equal(p, original[name]), name


def test_the_odds_part_both_answers_further_than_supervised_training_does():
    def apart(weight: float) -> float:
        module = fit.adapted(tiny_module("llama"), 0)
        preference_steps(module, PAIRS, 8, 5e-4, 0, weight, 4, label="")
        with torch.no_grad():
            total, count = log_probabilities(module, ROWS)
        odds = log_odds(total / count)
        return float((odds[::2] - odds[1::2]).mean())

    assert apart(5.0) > apart(0.0) + 0.1


def test_the_odds_are_those_of_trl():
    trl = pytest.importorskip("trl", reason="trl is not installed, it brings a data library")
    trainer = getattr(trl, "ORPOTrainer", None)
    if trainer is None:
        orpo = pytest.importorskip("trl.experimental.orpo", reason="this trl has no ORPO")
        trainer = orpo.ORPOTrainer
    chosen, rejected = torch.tensor([-0.3, -2.0, -0.01]), torch.tensor([-1.0, -0.5, -4.0])
    theirs = trainer.odds_ratio_loss(
        SimpleNamespace(beta=0.25, accelerator=SimpleNamespace(device="cpu")), chosen, rejected
    )[0]
    assert float(0.25 * odds_loss(chosen, rejected)) == pytest.approx(-float(theirs.sum()), rel=1e-4)
