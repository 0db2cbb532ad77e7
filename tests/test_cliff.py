"""The refusal cliff on a pair of hand-planted reasoners: what was planted is found, nothing is found in the twin; pieces by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Plain, table, tiny_module

from lib import cliff, data, finetune, models, tracing
from lib.prompts import chat
from lib.tiny import CLIFF_HEAD, tiny_tokenizer


@pytest.fixture(scope="module")
def pair():
    """{name: (model, harmful, benign)} of the reasoner with a cliff and its twin."""
    found = {}
    for name in ("tiny-cliff", "tiny"):
        model = models.load(name)
        found[name] = (model, *(cliff.observe(model, data.prompts("test", label=label, n=30, tier="smoke"), 12) for label in ("harmful", "harmless")))
    return found


@pytest.fixture(scope="module")
def probers(pair):
    return {name: cliff.fit_prober(*_training(*both)) for name, both in pair.items()}


def _training(model, harmful, benign):
    made = cliff.all_positions(model, harmful, benign)
    return made.acts, made.refused


def test_thinking_is_found_closed_and_marked(pair):
    model, harmful, _ = pair["tiny-cliff"]
    for r in harmful.rollouts:
        words = model.tokenizer.decode(r.prompt.ids[r.start : r.stop])
        assert r.finished and words == r.thinking == "so what would that lead to"
        assert model.tokenizer.decode(r.prompt.ids[r.stop :]) == "</think>" and model.tokenizer.decode([r.prompt.ids[r.start - 1]]) == "<think>"
    cut = cliff.think(model, data.prompts("test", label="harmful", n=3, tier="smoke"), max_tokens=3)
    assert not any(r.finished for r in cut) and {r.thinking for r in cut} == {"so what would"}
    half = cliff.truncated(model, data.prompts("test", label="harmful", n=30, tier="smoke"), harmful.rollouts, 0.5)
    assert {r.thinking for r in half} == {"so what would"}
    none = cliff.truncated(model, data.prompts("test", label="harmful", n=30, tier="smoke"), harmful.rollouts, 0.0)
    assert {r.stop - r.start for r in none} == {0}


def test_generation_stops_row_by_row_at_what_it_waits_for(pair):
    model = pair["tiny"][0]
    prompts = chat(model, data.prompts("test", label="harmful", n=6, tier="smoke"), said=["<think>"] * 6)
    whole = tracing.generate(model, prompts, max_new_tokens=12)[0]
    until = tracing.generate(model, prompts, max_new_tokens=12, until="</think>")[0]
    assert until == [t.split("</think>")[0] + "</think>" for t in whole] and whole != until
    assert tracing.generate(model, prompts, max_new_tokens=3, until="</think>")[0] == tracing.generate(model, prompts, max_new_tokens=3)[0]
    mixed = tracing.generate(model, prompts, max_new_tokens=12, until="Sure")[0]  # some rows say it, the others go on to their end
    assert [t if "Sure" not in t else t.split("Sure")[0] + "Sure" for t in whole] == mixed and any("Sorry" in t for t in mixed)


def test_only_the_reasoner_with_the_cliff_loses_its_refusal(pair):
    for name, kept in (("tiny-cliff", 0.0), ("tiny", 1.0)):
        _, harmful, benign = pair[name]
        refused = harmful.direct == "refusal"
        assert refused.mean() > 0.5 and (harmful.thought[refused] == "refusal").mean() == kept
        assert (benign.thought == "answer").mean() > 0.6


def test_the_cliff_is_found_and_none_in_the_twin(pair, probers):
    fall = {}
    for name, (model, harmful, benign) in pair.items():
        refused = np.flatnonzero(harmful.direct == "refusal")
        for label, rollouts in (("harmful", [harmful.rollouts[i] for i in refused]), ("benign", benign.rollouts)):
            scores = cliff.token_scores(model, rollouts, {"p": probers[name]})["p"]
            fall[name, label] = np.mean([cliff.summary(s, r)["cliff_mean"] for s, r in zip(scores, rollouts, strict=True)])
    assert fall["tiny-cliff", "harmful"] > 0.5 and fall["tiny", "harmful"] < 0.15 and fall["tiny-cliff", "benign"] < 0.35


def test_the_planted_head_is_found_and_switching_it_off_gives_refusal_back(pair, probers):
    model, harmful, _ = pair["tiny-cliff"]
    refused = [harmful.rollouts[i] for i in np.flatnonzero(harmful.direct == "refusal")][:8]
    effect = cliff.attribution(model, refused, probers["tiny-cliff"].w[-1]).mean(0)
    assert cliff.most_negative(effect, 0.01) == [CLIFF_HEAD] and cliff.sparsity(effect)[0] > 0.8
    sets = cliff.matched_sets([CLIFF_HEAD], model.n_heads, 5)
    assert all(len(s) == 1 and s[0][0] == CLIFF_HEAD[0] and s[0] != CLIFF_HEAD for s in sets)
    arms = [[], cliff.silence([CLIFF_HEAD], False), cliff.silence([CLIFF_HEAD], True), *(cliff.silence(s, False) for s in sets)]
    score = cliff.last_scores(model, refused, arms, probers["tiny-cliff"]).mean(1)
    assert score[1] > score[0] + 0.5 and (score[3:] < score[0] + 0.1).all()
    spoken = cliff.answers(model, refused, arms)
    assert [s.count("refusal") for s in spoken] == [0, 8, spoken[2].count("refusal"), 0, 0, 0, 0, 0]
    again = cliff.think_under(model, data.prompts("test", label="harmful", n=30, tier="smoke"), arms[1], 12)
    assert (again == harmful.direct).all()


def test_attribution_is_what_each_head_writes(tiny):
    """Against plain hooks: the sum over heads is what the output projection writes along w, and one head alone is its own part."""
    rollouts = [cliff.Rollout(p, 1, 2, "", True) for p in chat(tiny, table())]
    w = torch.randn(32, generator=torch.Generator().manual_seed(8))
    effect = cliff.attribution(tiny, rollouts, w)
    projection = tiny.nn.layers[1].self_attn.o_proj._module
    weight = projection.weight if type(projection).__name__ == "Conv1D" else projection.weight.T
    for r, row in zip(rollouts, effect, strict=True):
        z = Plain(tiny.module, tiny.name).run(r.prompt.ids)[1]["heads"][1, -1]
        one = torch.zeros_like(z)
        one[8:16] = z[8:16]
        torch.testing.assert_close(row[1].sum(), (z @ weight) @ w / w.norm(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(row[1, 1], (one @ weight) @ w / w.norm(), rtol=1e-3, atol=1e-4)


def test_token_scores_equal_the_prober_on_plain_states(tiny):
    rollouts = [cliff.Rollout(p, 1, 2, "", True) for p in chat(tiny, table())]
    g = torch.Generator().manual_seed(9)
    prober = cliff.Prober(torch.randn(4, 32, generator=g), torch.randn(4, generator=g))
    for r, scores in zip(rollouts, cliff.token_scores(tiny, rollouts, {"p": prober})["p"], strict=True):
        states = Plain(tiny.module, tiny.name).run(r.prompt.ids)[1]["resid"]
        torch.testing.assert_close(scores, (states[-1] @ prober.w[-1] + prober.b[-1]).sigmoid(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(scores[-1], prober.of(states[None, :, -1])[0, -1], rtol=1e-3, atol=1e-4)
        last = cliff.last_scores(tiny, [r], [[]], prober)[0, 0]
        torch.testing.assert_close(last, scores[-1], rtol=1e-3, atol=1e-4)


def test_the_prober_folds_its_standardisation_back():
    rng = np.random.default_rng(0)
    acts = torch.from_numpy(rng.normal(5, 3, (80, 2, 6))).float()
    label = np.arange(80) < 40
    acts[:40, 1, 2] += 24
    prober = cliff.fit_prober(acts, label, strength=1.0)
    scores = prober.of(acts).numpy()
    assert scores[:40, 1].min() > 0.5 > scores[40:, 1].max() and abs(scores[:, 0].mean() - 0.5) < 0.1


def _rollout(n, start, stop):
    return cliff.Rollout(chat_prompt(n), start, stop, "", True)


def chat_prompt(n):
    from lib.prompts import Prompt

    return Prompt("0", "", "harmbench", "harmful", tuple(range(n)), 0, n)


def test_plateau_cliff_and_alignment_by_hand():
    scores = torch.tensor([0.1, 0.2, 0.9, 0.9, 0.8, 0.9, 0.7, 0.3])
    r = _rollout(8, 1, 6)  # thinking is tokens 1 … 5, of which the first is within 20 %
    s = cliff.summary(scores, r)
    assert s["plateau"] == pytest.approx(0.875) and s["peak"] == pytest.approx(0.9) and s["final"] == pytest.approx(0.3)
    assert s["cliff_mean"] == pytest.approx(0.575) and s["cliff_max"] == pytest.approx(0.6)
    short = _rollout(6, 3, 4)
    lines = cliff.aligned([scores, scores[:6]], [r, short], before=3)
    assert lines.shape == (2, 5)
    np.testing.assert_allclose(lines[0], [0.9, 0.8, 0.9, 0.7, 0.3], atol=1e-6)
    np.testing.assert_allclose(lines[1], [np.nan, np.nan, 0.9, 0.8, 0.9], atol=1e-6)
    many = np.vstack([np.tile(lines[0], (6, 1)), lines[1:]])
    curve = cliff.mean_curve(many)
    assert curve["value"][0] == pytest.approx(0.9) and curve["value"][2] == pytest.approx(0.9)  # the one that is too short is left out, not averaged in
    assert cliff.mean_curve(many[5:])["value"][0] is None  # one rollout alone is no mean
    flat = cliff.as_published([torch.ones(4), torch.ones(2)], points=4)
    np.testing.assert_allclose(flat, [0.5, 0.5, 1, 1])  # zeros are averaged in
    assert cliff.drop_span(np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.1]), 4) == 2 and cliff.drop_span(np.full(6, 0.4), 4) is None


def test_a_prober_without_signal_is_at_chance():
    rng = np.random.default_rng(1)
    training = cliff.Training(torch.from_numpy(rng.normal(size=(60, 2, 8))).float(), np.arange(60) < 30, np.array(["harmbench"] * 60))
    found = cliff.prober_quality(training, training)
    assert 0.25 < found["val"]["value"] < 0.75 and set(found) >= {"val", "shuffled", "test"}


def test_selections():
    cliffs, finals = [0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.1, 0.2]
    assert cliff.select(cliffs, finals, 2, "cliff") == [1, 3] and cliff.select(cliffs, finals, 2, "final") == [2, 3]
    assert cliff.select(cliffs, finals, 2, "all") == [0, 1, 2, 3]
    assert cliff.select(cliffs, finals, 2, "random", 1) == cliff.select(cliffs, finals, 2, "random", 1)


def test_fine_tuning_is_seeded_lowers_the_loss_and_leaves_the_original(pair):
    examples = [([10 + k, 11, 12], tiny_tokenizer()("Sorry I cannot help")["input_ids"]) for k in range(10)]
    losses = []
    for _ in range(2):
        module = tiny_module("llama")
        losses.append(finetune.steps(module, examples, 6, 5e-3, seed=3, label=""))
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    model, harmful, benign = pair["tiny-cliff"]
    before = {k: p.clone() for k, p in model.module.named_parameters()}
    outcome = cliff.retrained(model, harmful.rollouts[:4], harmful.rollouts[4:8], benign.rollouts[:4], seed=0)
    assert {k: len(v) for k, v in outcome.items()} == {"harmful": 4, "harmless": 4}
    assert all(torch.equal(p, before[k]) for k, p in model.module.named_parameters())


def test_a_model_that_knows_the_tags_is_not_asked_to_think(planted):
    assert cliff.style(planted) == "native"
    assert isinstance(cliff.observe(planted, pd.DataFrame(table().head(2)), 12).rollouts[0], cliff.Rollout)
