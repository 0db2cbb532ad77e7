"""Latent Guard on the planted model, the text-only baselines, the attack, and the jailbreak material."""

import json

import numpy as np
import pytest
import torch
from conftest import Plain

from lib import attack, data, guard, stats
from lib.errors import ParameterError, UserError
from lib.prompts import chat


@pytest.fixture(scope="module")
def prompts(planted):
    made = {label: chat(planted, data.prompts("direction", label=label, n=40, tier="smoke")) for label in ("harmful", "harmless")}
    test = {label: chat(planted, data.prompts("test", label=label, n=40, tier="smoke")) for label in ("harmful", "harmless")}
    return made, test


@pytest.mark.parametrize("kind", guard.KINDS)
def test_every_kind_of_guard_finds_planted_harm_and_not_the_alarm_word(planted, prompts, kind):
    made, test = prompts
    watch = guard.fit(planted, made["harmful"], made["harmless"], kind)
    found = guard.quality(np.concatenate([guard.score(planted, watch, test[label]) for label in test]), np.repeat([True, False], 40))
    assert found["auroc"]["value"] > 0.95 and found["fpr"]["value"] < 0.1
    alarm = chat(planted, data.prompts("test", source="pseudo_harmful", tier="smoke"))
    assert (guard.score(planted, watch, alarm) > 0).mean() < 0.1
    assert len(watch.layers) == (planted.n_layers if kind == "mean" else 1) and (kind != "layer" or watch.layers[0] >= 2)  # h[2] is the first that holds it


def test_the_published_score_by_hand(planted, prompts):
    made, test = prompts
    watch = guard.fit(planted, made["harmful"][:6], made["harmless"][:6])
    plain = Plain(planted.module, "llama")
    states = lambda ps: torch.stack([plain.run(p.ids)[1]["resid"][1:, p.t_inst] for p in ps])  # noqa: E731
    a, b = states(made["harmful"][:6]).mean(0), states(made["harmless"][:6]).mean(0)
    h = states(test["harmful"][:3])
    cos = torch.nn.functional.cosine_similarity
    expected = (cos(h, a[None], dim=-1) - cos(h, b[None], dim=-1)).mean(1)
    np.testing.assert_allclose(guard.score(planted, watch, test["harmful"][:3]), expected.numpy(), atol=1e-4)


def test_a_guard_is_saved_loaded_and_tied_to_its_model(planted, llama, prompts, tmp_path):
    made, test = prompts
    watch = guard.fit(planted, made["harmful"], made["harmless"], "probe")
    guard.save(watch, tmp_path / "g")
    back = guard.load(tmp_path / "g")
    assert np.array_equal(guard.score(planted, back, test["harmful"]), guard.score(planted, watch, test["harmful"]))
    about = json.loads((tmp_path / "g" / "guard.json").read_text())
    assert about["revision"] == planted.revision and about["position"] == "t_inst" and about["layers"] == list(watch.layers)
    with pytest.raises(UserError, match="not on this version"):
        guard.score(llama, back, chat(llama, data.prompts("test", label="harmful", n=2, tier="smoke")))
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="holds no guard"):
            guard.load(bad)


def test_bad_requests(planted, prompts):
    made, _ = prompts
    with pytest.raises(ParameterError, match="did you mean 'mean'"):
        guard.fit(planted, made["harmful"], made["harmless"], "meen")
    with pytest.raises(UserError, match="at least five"):
        guard.fit(planted, made["harmful"][:2], made["harmless"])
    for call in (lambda: data.jailbreak_templates(0), lambda: data.jailbreak_templates(10_000), lambda: data.past_tense_requests(0)):
        with pytest.raises(ParameterError):
            call()


def test_text_baselines_learn_words():
    bad, good = [f"how to poison a {x}" for x in "cat dog horse cow goat".split()], [f"how to feed a {x}" for x in "cat dog horse cow goat".split()]
    for scores in (guard.tfidf_scores, guard.embedding_scores):
        found = scores(bad, good, ["how to poison a sheep", "how to feed a sheep"])
        assert found[0] > 0 > found[1], scores


def test_sentence_embeddings_are_near_for_near_meanings():
    a, b, c = guard.sentence_embeddings(["A cat sits on the mat.", "A kitten is sitting on a rug.", "The central bank raised interest rates."])
    assert a @ b > 0.5 > a @ c and abs(a @ a - 1) < 1e-5
    one = guard.sentence_embeddings(["A cat sits on the mat."])[0]
    np.testing.assert_allclose(one, a, atol=1e-4)  # padding does not matter


def test_jailbreak_material_is_seeded_and_fits():
    few = data.jailbreak_templates(8, 1)
    assert few == data.jailbreak_templates(8, 1) != data.jailbreak_templates(8, 2) and all(20 <= len(t.split()) <= 200 for t in few)
    assert len(data.past_tense_requests(20)) == 20 and all(p.count("{x}") == 1 for p in data.persuasions())


def test_the_attack_is_measured_and_leaves_nothing(planted, prompts, own_cache):
    made, test = prompts
    before = {k: p.clone() for k, p in planted.module.named_parameters()}
    tests = test["harmful"][:4] + test["harmless"][:4]
    one = attack.after(planted, made["harmful"][:8], tests, passes=4)
    assert one["states"].shape == (8, planted.n_layers + 1, 2, planted.d_model) and len(one["outcomes"]) == 8 and one["loss"][1] < one["loss"][0]
    two = attack.after(planted, made["harmful"][:8], tests, passes=4)
    assert torch.equal(one["states"], two["states"]) and one["outcomes"] == two["outcomes"]
    assert all(torch.equal(p, before[k]) for k, p in planted.module.named_parameters())


def test_area_with_ties_and_without_a_class():
    assert stats.area(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875 and np.isnan(stats.area(np.array([]), np.array([1.0])))


def test_a_moderator_is_read_by_its_words(planted, monkeypatch):
    monkeypatch.setattr(guard, "generate", lambda model, prompts, **_: [["\n\nsafe", "\n\nunsafe\nS2", "Unsafe", "hm"][: len(prompts)]])
    assert guard.moderator_scores(planted, ["a", "b", "c", "d"]).tolist() == [-1, 1, 1, -1]
    monkeypatch.undo()
    with pytest.raises(UserError, match="neither safe nor unsafe"):
        guard.moderator_scores(planted, ["please paint the table with the brush now"])
