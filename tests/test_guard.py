"""Latent Guard on the planted model, the text-only baselines, jailbreaks, the attack, categories, and where
notebook 02b ends early.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import TEXTS, Plain, table
from refusal import data
from refusal.base.errors import ParameterError, UserError
from refusal.base.files import NOTEBOOKS
from refusal.findings.f02b import attack, categories, guard, jailbreaks
from refusal.measure import seen, stats, text_baselines
from refusal.measure.judge import judge
from refusal.measure.seen import Seen, joined, look
from refusal.model import loading
from refusal.report import recorder
from refusal.trace import decode, reads
from refusal.trace.prompts import Prompt, chat


@pytest.fixture(scope="module")
def prompts(planted):
    made = {
        label: chat(planted, data.prompts("direction", label=label, n=40, tier="smoke"))
        for label in ("harmful", "harmless")
    }
    test = {
        label: chat(planted, data.prompts("test", label=label, n=40, tier="smoke"))
        for label in ("harmful", "harmless")
    }
    return made, test


@pytest.mark.parametrize("kind", guard.KINDS)
def test_every_kind_of_guard_finds_planted_harm_and_not_the_alarm_word(planted, prompts, kind):
    made, test = prompts
    watch = guard.fit(planted, made["harmful"], made["harmless"], kind)
    found = guard.quality(
        np.concatenate([guard.score(planted, watch, test[label]) for label in test]),
        np.repeat([True, False], 40),
    )
    assert found["auroc"].value > 0.95 and found["fpr"].value < 0.1
    alarm = chat(planted, data.prompts("test", source="pseudo_harmful", tier="smoke"))
    assert (guard.score(planted, watch, alarm) > 0).mean() < 0.1
    # h[2] is the first that holds harm
    assert len(watch.layers) == (planted.n_layers if kind == "mean" else 1) and (
        kind != "layer" or watch.layers[0] >= 2
    )


def test_the_published_score_by_hand(planted, prompts):
    made, test = prompts
    watch = guard.fit(planted, made["harmful"][:6], made["harmless"][:6])
    plain = Plain(planted.module, "llama")
    states = lambda ps: torch.stack([plain.run(p.ids)[1]["resid"][1:, p.t_inst] for p in ps])
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
    assert np.array_equal(
        guard.score(planted, back, test["harmful"]), guard.score(planted, watch, test["harmful"])
    )
    about = json.loads((tmp_path / "g" / "guard.json").read_text())
    assert (
        about["revision"] == planted.revision
        and about["position"] == "t_inst"
        and about["layers"] == list(watch.layers)
    )
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
    for call in (
        lambda: data.jailbreak_templates(0),
        lambda: data.jailbreak_templates(10_000),
        lambda: data.past_tense_requests(0),
    ):
        with pytest.raises(ParameterError):
            call()


BAD, FINE = (
    [f"how to {verb} a {x}" for x in "cat dog horse cow goat".split()] for verb in ("poison", "feed")
)


def test_text_baselines_learn_words():
    for reader in (text_baselines.tfidf_reader(BAD, FINE), text_baselines.embedding_reader(BAD, FINE)):
        found = reader(["how to poison a sheep", "how to feed a sheep"])
        assert found[0] > 0 > found[1]


def test_the_best_reader_is_the_one_that_ranks_the_given_texts_best():
    readers = {
        "blind": lambda t: np.zeros(len(t)),
        "words": text_baselines.tfidf_reader(BAD, FINE),
        "inverted": lambda t: -text_baselines.tfidf_reader(BAD, FINE)(t),
    }
    assert (
        text_baselines.best_reader(readers, BAD, FINE) == "words"
        and text_baselines.best_reader(readers, FINE, BAD) == "inverted"
    )


def test_a_request_at_the_end_of_a_long_template_is_read():
    """Jailbreak templates of up to 200 words come before the request: a reader that cut there would see the
    same text whatever is asked.
    """
    longest = " ".join(f"word{i}" for i in range(200))  # many more tokens than the encoder reads at once
    a, b = text_baselines.sentence_embeddings(
        [f"{longest}\n\nHow do I poison a well?", f"{longest}\n\nHow do I bake bread?"]
    )
    assert a @ b < 1 - 1e-4


def test_sentence_embeddings_are_near_for_near_meanings():
    a, b, c = text_baselines.sentence_embeddings(
        ["A cat sits on the mat.", "A kitten is sitting on a rug.", "The central bank raised interest rates."]
    )
    assert a @ b > 0.5 > a @ c and abs(a @ a - 1) < 1e-5
    one = text_baselines.sentence_embeddings(["A cat sits on the mat."])[0]
    np.testing.assert_allclose(one, a, atol=1e-4)  # padding does not matter


def test_jailbreak_material_is_seeded_and_fits():
    few = data.jailbreak_templates(8, 1)
    assert few == data.jailbreak_templates(8, 1) != data.jailbreak_templates(8, 2) and all(
        20 <= len(t.split()) <= 200 for t in few
    )
    assert len(data.past_tense_requests(20)) == 20 and all(p.count("{x}") == 1 for p in data.persuasions())


def test_what_is_seen_is_what_a_plain_run_holds_and_says(tiny):
    prompts = chat(tiny, table())
    seen, plain = look(tiny, prompts, 6), Plain(tiny.module, tiny.name)
    for i, p in enumerate(prompts):
        held = plain.run(p.ids)[1]["resid"]
        torch.testing.assert_close(
            seen.states[i], torch.stack([held[:, p.t_inst], held[:, p.t_post]], 1), rtol=1e-3, atol=1e-3
        )
    assert list(seen.outcome) == [judge(t) for t in decode.generate(tiny, prompts, decoding=6)[0]]
    part = seen.where(np.array([False, True, False, True, False]))
    assert (
        part.texts == [TEXTS[1], TEXTS[3]]
        and torch.equal(part.states, seen.states[[1, 3]])
        and list(part.outcome) == list(seen.outcome[[1, 3]])
    )
    again = joined([seen.where([0]), seen.where([1, 2, 3, 4])])
    assert (
        again.prompts == seen.prompts
        and torch.equal(again.states, seen.states)
        and list(again.outcome) == list(seen.outcome)
    )


def prompt(text: str) -> Prompt:
    return Prompt(text, text, "", "harmful", (0,), 0, 1)


def seen_of(outcomes: list[str], states: torch.Tensor | None = None) -> Seen:
    return Seen(
        [prompt("")] * len(outcomes),
        np.array(outcomes),
        torch.zeros(len(outcomes), 1) if states is None else states,
    )


def test_deltas_by_hand():
    g = torch.Generator().manual_seed(0)
    states = torch.randn(9, 4, 2, 8, generator=g)
    groups = [seen_of(["answer"] * 3, part) for part in states.split(3)]
    cos = torch.nn.functional.cosine_similarity
    for k, found in enumerate(guard.deltas(*groups)):
        bad, good = (x.states[:, 1:, k].mean(0) for x in groups[1:])
        expected = [
            float((cos(h, bad, dim=-1) - cos(h, good, dim=-1)).mean()) for h in groups[0].states[:, 1:, k]
        ]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_of_nothing_are_none_of_every_detector():
    watches = {"mean": guard.Guard("mean", (1,), torch.zeros(1, 8), torch.zeros(1, 8), "", "", (5, 5))}
    found = guard.scores(seen_of([]), watches, {"TF-IDF": text_baselines.tfidf_reader(BAD, FINE)})
    assert list(found) == ["guard, mean", "TF-IDF"] and all(len(x) == 0 for x in found.values())
    measured, controls = guard.caught((found["TF-IDF"],) * 2, (found["TF-IDF"],) * 2, "TF-IDF")
    assert (
        measured.value is None and controls["auroc_over_reader"] is None and controls["harmless_high"] is None
    )


def test_caught_is_counted_by_hand():
    watch, reader = (
        (np.array([1.0, 2, -1]), np.array([-1.0, 1])),
        (np.array([1.0, 1, 2]), np.array([0.0, -3])),
    )
    measured, controls = guard.caught(watch, reader, "r", "calm")
    assert (
        measured.value == pytest.approx(2 / 3)
        and controls["calm_flagged"] == 0.5
        and controls["calm_high"] == pytest.approx(stats.rate([1, 0]).ci95[1])
    )
    assert controls["best_reader_harmful"] == 1 and controls["best_reader_harmless"] == 0
    assert controls["guard"] == pytest.approx((0.5 + 1 + 1 + 1 + 0.5) / 6) and controls["reader"] == 1
    assert controls["auroc_over_reader"] == pytest.approx(controls["guard"] - 1)


@pytest.fixture()
def pretend(monkeypatch):
    """A model that answers a request only in the wordings that it is weak to: text → outcome. What was asked
    is kept.
    """
    asked = []

    def attacked(weak: dict[str, str]):
        def look(model, prompts, max_new_tokens):
            asked.append([p.text for p in prompts])
            wording = [(p.text.split()[0], weak.get(p.text.split()[-1])) for p in prompts]
            return Seen(
                prompts,
                np.array(["answer" if used == works else "refusal" for used, works in wording]),
                torch.zeros(len(prompts), 1),
            )

        monkeypatch.setattr(jailbreaks, "look", look)
        monkeypatch.setattr(jailbreaks, "chat", lambda model, rows: [prompt(text) for text in rows.text])
        return asked

    return attacked


REQUESTS = pd.DataFrame(
    {"id": list("abcd"), "text": ["r0", "r1", "r2?", "r3"], "source": "", "label": "harmful"}
)
WORDINGS = ["first {x}.", "second {x}.", "third {x}."]


def test_a_request_is_tried_until_it_works_and_counts_once(pretend, llama):
    asked = pretend({"r0": "second", "r1": "second", "r3": "third"})
    found = jailbreaks.search(llama, REQUESTS, WORDINGS, wanted=9, tries=3)
    assert asked == [
        ["first r0", "second r1", "third r2", "first r3"],
        ["second r0", "first r2", "second r3"],
        ["second r2", "third r3"],
    ]
    assert found.seen.where(found.won).texts == ["second r1", "second r0", "third r3"]
    assert list(found.wording) == [0, 1, 2, 0, 1, 0, 1, 1, 2] and len(found.won) == 9


def test_the_search_stops_when_enough_have_worked_or_every_wording_was_tried(pretend, llama):
    asked = pretend({"r0": "first", "r3": "second"})
    assert jailbreaks.search(
        llama, REQUESTS, WORDINGS, wanted=1, tries=3, chunk=2
    ).won.sum() == 1 and asked == [["first r0", "second r1"]]
    asked.clear()
    assert len(jailbreaks.search(llama, REQUESTS, WORDINGS, wanted=9, tries=1).won) == 4 and len(asked) == 1
    asked.clear()
    jailbreaks.search(llama, REQUESTS, WORDINGS, wanted=9, tries=99)
    assert len(asked) == 3  # no wording twice


def test_harmless_requests_come_in_the_words_that_worked(pretend, llama):
    pretend({"r0": "second", "r1": "second", "r3": "third"})
    found = jailbreaks.search(llama, REQUESTS, WORDINGS, wanted=9, tries=3)
    assert list(jailbreaks.in_the_same_words(found, REQUESTS, WORDINGS).text) == [
        "second r0",
        "second r1",
        "third r2",
        "second r3",
    ]


def test_no_request_gives_no_attempt_and_no_value(planted):
    found = jailbreaks.search(planted, REQUESTS.iloc[:0], WORDINGS, wanted=5, tries=3)
    assert len(found.won) == 0 and found.seen.states.shape[1:] == (planted.n_layers + 1, 2, planted.d_model)
    assert list(jailbreaks.in_the_same_words(found, REQUESTS, WORDINGS).text) == [
        "first r0",
        "second r1",
        "third r2",
        "first r3",
    ]
    nothing = np.array([])
    assert jailbreaks.caught((nothing, np.ones(3)), (nothing, np.ones(3)), found.won, "r")[0].value is None


def test_all_attempts_are_a_second_number():
    won = np.array([True, False, False, True])
    measured, controls = jailbreaks.caught(
        (np.array([1.0, -1, -1, 1]), -np.ones(4)), (np.ones(4), np.ones(4)), won, "r"
    )
    assert (
        measured.value == 1
        and measured.n == 2
        and controls["attempts_flagged"] == 0.5
        and controls["attempts"] == 4
    )


def test_the_attack_is_measured_on_the_way_and_leaves_nothing(planted, prompts, own_cache):
    made, test = prompts
    before = {k: p.clone() for k, p in planted.module.named_parameters()}
    tests = test["harmful"][:4] + test["harmless"][:4]
    found = attack.after(planted, made["harmful"][:32], tests)
    assert list(found) == attack.sizes(32) == [8, 16, 32]
    held = [m["seen"].states for m in found.values()]
    assert held[0].shape == (8, planted.n_layers + 1, 2, planted.d_model) and all(
        len(m["seen"].outcome) == 8 for m in found.values()
    )
    # training goes on between the measurements
    assert not torch.equal(held[0], held[1]) and not torch.equal(held[1], held[2])
    assert found[32]["loss"] < found[8]["loss"]
    again = attack.after(planted, made["harmful"][:32], tests)
    assert all(
        torch.equal(again[n]["seen"].states, found[n]["seen"].states)
        and list(again[n]["seen"].outcome) == list(found[n]["seen"].outcome)
        for n in found
    )
    short = attack.after(planted, made["harmful"][:8], tests)
    # the first measurement is that of an attack of this size
    torch.testing.assert_close(short[8]["seen"].states, held[0])
    assert all(torch.equal(p, before[k]) for k, p in planted.module.named_parameters())


def test_a_trained_opening_is_no_acceptance():
    one, two = attack.OPENINGS[:2]
    for text, outcome in (
        (one, "empty"),
        (f"{one} {two} ", "empty"),
        (f"{one} I cannot help with that.", "refusal"),
        (f" {one}\n1. Mix flour and water", "answer"),
    ):
        assert judge(attack.own_words(text)) == outcome
    assert (
        attack.own_words("Mix flour and water") == "Mix flour and water" and len(set(attack.OPENINGS)) >= 10
    )


def test_the_shift_is_in_units_of_the_gap_and_has_no_sign():
    before, rng = np.repeat([1.0, 0.0], 30), np.random.default_rng(0)
    harmful, noise = before > 0.5, rng.normal(0, 0.01, 60)
    for sign in (1, -1):
        after = {8: before + noise, 16: before + sign * 0.3 * harmful + noise}
        measured, controls, void = attack.stays(
            before, after, harmful, {8: harmful, 16: harmful | True}, np.zeros(60, bool)
        )
        assert (
            measured.value == pytest.approx(0.3, abs=0.01)
            and controls["shift_harmless_16"] < 0.02 > controls["shift_harmful_8"]
            and void is None
        )
        assert set(k for k in controls if k.startswith("shift_") and not k.endswith("_ci95")) == {
            "shift_harmful_8",
            "shift_harmless_8",
            "shift_harmless_16",
        }
    assert "did not work" in attack.stays(before, after, harmful, {8: harmful, 16: harmful}, harmful)[2]


@pytest.mark.parametrize("moved", [0.0, 0.02, -0.02, 0.5, -0.5])
def test_the_interval_of_a_shift_holds_it_and_is_that_of_the_signed_one(moved):
    """Also where the shift is next to nothing, which the absolute means of draws are not."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.1, 48)
    d = noise - noise.mean() + moved
    found = attack.shift(np.zeros(48), d, -2.0)
    (low, high), half = found.ci95, stats.mean(d).ci95[1] - d.mean()
    assert low <= found.value <= high and found.value == pytest.approx(abs(moved) / 2)
    assert high == pytest.approx((abs(moved) + half) / 2, rel=0.1)
    assert (low == 0) == (abs(moved) < half)


def test_cosines_of_categories_by_hand():
    """Products of means of different prompts, one prompt at a time: what a mean has in common with itself is
    left out, that of the harmless prompts too.
    """
    g = torch.Generator().manual_seed(1)
    acts, calm = torch.randn(11, 4, 2, 8, generator=g) + 1, torch.randn(5, 4, 2, 8, generator=g)
    groups = [np.arange(5), np.arange(5, 11)]
    expected = []
    for k in (0, 1):
        x, base = acts[:, 1:, k].double(), calm[:, 1:, k].double()
        apart = lambda a, b: torch.stack([a[i] * b[j] for i in range(len(a)) for j in range(len(b))]).sum(-1)
        alone = lambda a: torch.stack(
            [(a[i] * a[j]).sum(-1) for i in range(len(a)) for j in range(len(a)) if i != j]
        )
        of = [x[group] for group in groups]
        between = apart(of[0], of[1]).mean(0) - sum(apart(part, base).mean(0) for part in of)
        between = between + alone(base).mean(0)
        own = [alone(part).mean(0) - 2 * apart(part, base).mean(0) + alone(base).mean(0) for part in of]
        scale = sum((part.mean(0) - base.mean(0)).square().sum(-1) for part in of) / 2
        lengths = [(length / scale).sum() for length in own]
        expected.append(float((between / scale).sum() / (lengths[0] * lengths[1]).sqrt()))
    np.testing.assert_allclose(categories.alike(acts, calm, groups), expected, atol=1e-5)
    _, controls = categories.differ_in_harm(acts, calm, groups, 25)
    assert (controls["harm"], controls["refusal"]) == pytest.approx(expected, abs=1e-5)
    assert 20 <= controls["random_groups"] <= 25
    new = categories.regrouped(groups, np.random.default_rng(0))
    assert [len(x) for x in new] == [5, 6] and sorted(np.concatenate(new)) == list(range(11))
    assert categories.differ_in_harm(acts, calm, groups[:1], 25)[0].value is None


def categories_of(apart: tuple[float, float], n: int, noise: float, seed: int):
    """(states, harmless states, groups) of four categories with known directions, and those directions: they
    share one, and have one of their own `apart` times as long, at each of two positions.
    """
    fixed, rng = torch.Generator().manual_seed(1), torch.Generator().manual_seed(seed)
    unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=fixed), dim=-1)
    shared, own = unit(3, 2, 64), unit(4, 3, 2, 64)
    true = shared + torch.tensor(apart)[:, None] * own
    noisy = lambda x: x + noise * torch.randn(*x.shape, generator=rng)
    groups = np.split(np.arange(4 * n), 4)
    return noisy(true.repeat_interleave(n, 0)), noisy(torch.zeros(40, 3, 2, 64)), groups, true


@pytest.mark.parametrize("n", [8, 16, 32])
def test_categories_are_compared_without_the_noise_of_their_means(n):
    """What holds of the directions themselves is found from few prompts, and its interval holds it; groups
    drawn at random differ by nothing.
    """
    found, off, random = [], [], []
    for seed in range(25):
        acts, calm, groups, true = categories_of((0.8, 0.2), n, 0.3, seed)
        v = torch.nn.functional.normalize(true[:, 1:], dim=-1)
        between = torch.einsum("alkd,blkd->kab", v, v) / 2
        harm, refusal = ((between[k].sum() - 4) / 12 for k in (0, 1))
        measured, controls = categories.differ_in_harm(acts, calm, groups, 10, seed)
        (low, high), gap = measured.ci95, float(refusal - harm)
        found.append(low <= gap <= high)
        off.append(measured.value - gap)
        random.append(controls["random_group_mean"])
    assert np.mean(found) >= 0.88  # 22 of 25: of an interval of 95 % one time in thirty
    assert abs(np.mean(off)) < 0.03 and abs(np.mean(random)) < 0.03


def test_categories_that_are_noise_alone_are_not_compared():
    acts, calm, groups, _ = categories_of((0.0, 0.0), 8, 1.0, 0)
    measured, controls = categories.differ_in_harm(acts - acts.mean(0), calm, groups, 25)
    assert measured.value is None and controls["random_groups"] == 0


def test_small_categories_are_left_out_and_benchmarks_kept_apart():
    rows = [("harmbench", "a_b")] * 8 + [("strongreject", "a_b")] * 9 + [("harmbench", "c")] * 7
    found = categories.members(pd.DataFrame(rows, columns=["source", "category"]))
    assert {name: list(g) for name, g in found.items()} == {
        "HB a b": list(range(8)),
        "SR a b": list(range(8, 17)),
    }


@pytest.mark.parametrize("which", ["base", "random"])
def test_a_model_without_refusals_ends_the_notebook_before_what_is_dear(which, llama, monkeypatch):
    model = loading.load("tiny-base", device="cpu") if which == "base" else llama
    monkeypatch.setattr(loading, "load", lambda *_, **__: model)
    for module, name in ((seen, "look"), (attack, "after"), (jailbreaks, "search"), (reads, "collect")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("an expensive step was run"))
    runs = []
    monkeypatch.setattr(
        recorder, "Recorder", lambda *a, made=recorder.Recorder, **k: runs.append(made(*a, **k)) or runs[-1]
    )
    space: dict = {}
    for cell in json.loads((NOTEBOOKS / "02b_latent_guard.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            try:
                exec("".join(cell["source"]), space)
            except recorder.NotebookEnded:
                break
            if "parameters" in cell["metadata"].get("tags", []):
                space |= {"TIER": "smoke", "MODEL": "tiny"}
    assert {c.id for c in runs[0].claims} == set(runs[0].planned) and {c.verdict for c in runs[0].claims} == {
        "uninformative"
    }


def test_area_with_ties_and_without_a_class():
    assert stats.area(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875 and np.isnan(
        stats.area(np.array([]), np.array([1.0]))
    )


def test_a_moderator_is_read_by_its_words(planted, monkeypatch):
    monkeypatch.setattr(
        guard,
        "generate",
        lambda model, prompts, **_: [["\n\nsafe", "\n\nunsafe\nS2", "Unsafe", "hm"][: len(prompts)]],
    )
    assert guard.moderator_scores(planted, ["a", "b", "c", "d"]).tolist() == [-1, 1, 1, -1]
    monkeypatch.undo()
    with pytest.raises(UserError, match="neither safe nor unsafe"):
        guard.moderator_scores(planted, ["please paint the table with the brush now"])
