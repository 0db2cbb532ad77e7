"""The refusal cliff on a pair of hand-planted reasoners: what was planted is found, nothing is found in the
twin; pieces by hand.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from conftest import Plain, table, tiny_module, windowed
from refusal import data
from refusal.base.errors import UserError
from refusal.findings.f03 import cliff_heads, cliff_steps, curves, observed, selection
from refusal.measure import attention_heads, probes
from refusal.model import loading
from refusal.model.tiny import CLIFF_HEAD, tiny_tokenizer
from refusal.trace import batches, decode, opening, reads, thinking
from refusal.trace.prompts import chat
from refusal.trace.prompts import tags as tags_of
from refusal.train import fit


@pytest.fixture(scope="module")
def pair():
    """{name: (model, harmful, benign)} of the reasoner with a cliff and its twin."""
    found = {}
    for name in ("tiny-cliff", "tiny"):
        model = loading.load(name, device="cpu")
        tables = [data.prompts("test", label=label, n=30, tier="smoke") for label in ("harmful", "harmless")]
        found[name] = (model, *observed.observe(model, tables, [], dict, 12)[0])
    return found


@pytest.fixture(scope="module")
def probers(pair):
    return {
        name: probes.fit(observed.all_positions(harmful, benign))
        for name, (_, harmful, benign) in pair.items()
    }


def test_thinking_is_found_closed_and_marked(pair):
    model, harmful, _ = pair["tiny-cliff"]
    for r in harmful.rollouts:
        words = model.tokenizer.decode(r.prompt.ids[r.start : r.stop])
        assert r.finished and words == r.thinking == "so what would that lead to"
        assert (
            model.tokenizer.decode(r.prompt.ids[r.stop :]) == "</think>"
            and model.tokenizer.decode([r.prompt.ids[r.start - 1]]) == "<think>"
        )
    cut = thinking.think(model, data.prompts("test", label="harmful", n=3, tier="smoke"), max_tokens=3)
    assert not any(r.finished for r in cut) and {r.thinking for r in cut} == {"so what would"}
    half = thinking.truncated(
        model, data.prompts("test", label="harmful", n=30, tier="smoke"), harmful.rollouts, 0.5
    )
    assert {r.thinking for r in half} == {"so what would"}
    none = thinking.truncated(
        model, data.prompts("test", label="harmful", n=30, tier="smoke"), harmful.rollouts, 0.0
    )
    assert {r.stop - r.start for r in none} == {0}


@pytest.mark.parametrize("leave", [0.0, 0.25, 2.0])
def test_generation_stops_row_by_row_at_what_it_waits_for(pair, leave, monkeypatch):
    """However often the rows that are done leave the batch, and whether or not an opening is shared."""
    monkeypatch.setattr(decode, "LEAVE_SHARE", leave)
    model = replace(pair["tiny"][0], revision=f"leave {leave}")  # so that nothing comes from the cache
    if leave == 0:
        monkeypatch.setattr(opening, "shared_length", lambda *_: 0)
    prompts = chat(model, data.prompts("test", label="harmful", n=6, tier="smoke"), said=["<think>"] * 6)
    whole = decode.generate(model, prompts, decoding=12)[0]
    until = decode.generate(model, prompts, decoding=decode.Decoding(12, until="</think>"))[0]
    assert until == [t.split("</think>")[0] + "</think>" for t in whole] and whole != until
    assert (
        decode.generate(model, prompts, decoding=decode.Decoding(3, until="</think>"))[0]
        == decode.generate(model, prompts, decoding=3)[0]
    )
    # some rows say it, the others go on to their end
    mixed = decode.generate(model, prompts, decoding=decode.Decoding(12, until="Sure"))[0]
    assert [t if "Sure" not in t else t.split("Sure")[0] + "Sure" for t in whole] == mixed and any(
        "Sorry" in t for t in mixed
    )


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
        for label, rollouts in (
            ("harmful", [harmful.rollouts[i] for i in refused]),
            ("benign", benign.rollouts),
        ):
            scores = probes.token_scores(model, rollouts, {"p": probers[name]})["p"]
            fall[name, label] = np.mean(
                [curves.summary(s[-1], r)["cliff_mean"] for s, r in zip(scores, rollouts, strict=True)]
            )
    assert (
        fall["tiny-cliff", "harmful"] > 0.5
        and fall["tiny", "harmful"] < 0.15
        and fall["tiny-cliff", "benign"] < 0.35
    )


def test_the_planted_head_is_found_and_switching_it_off_gives_refusal_back(pair, probers):
    model, harmful, _ = pair["tiny-cliff"]
    refused = [harmful.rollouts[i] for i in np.flatnonzero(harmful.direct == "refusal")][:8]
    effect = attention_heads.attribution(model, refused, probers["tiny-cliff"].w[-1]).mean(0)
    assert (
        attention_heads.most_negative(effect, 0.01) == [CLIFF_HEAD]
        and attention_heads.sparsity(effect)[0] > 0.8
    )
    sets = [[(CLIFF_HEAD[0], head)] for head in range(model.n_heads) if head != CLIFF_HEAD[1]]
    arms = [
        [],
        attention_heads.silence([CLIFF_HEAD], False),
        attention_heads.silence([CLIFF_HEAD], True),
        *(attention_heads.silence(s, False) for s in sets),
    ]
    score = attention_heads.last_scores(model, refused, arms, probers["tiny-cliff"]).mean(1)
    assert score[1] > score[0] + 0.5 and (score[3:] < score[0] + 0.1).all()
    spoken = observed.answers(model, refused, arms)
    assert [s.count("refusal") for s in spoken] == [0, 8, spoken[2].count("refusal"), 0, 0, 0]
    again = observed.think_under(
        model, data.prompts("test", label="harmful", n=30, tier="smoke"), arms[1], 12
    )
    assert (again == harmful.direct).all()


def test_random_sets_of_heads_differ_and_match_the_layers_where_these_have_enough():
    heads = [(2, 0), (2, 1), (5, 3)]
    sets = attention_heads.matched_sets(heads, 6, 14, 20, 1)
    assert len({frozenset(s) for s in sets}) == len(sets) == 20
    assert all(sorted(layer for layer, _ in s) == [2, 2, 5] and not set(s) & set(heads) for s in sets)
    assert (
        sets
        == attention_heads.matched_sets(heads, 6, 14, 20, 1)
        != attention_heads.matched_sets(heads, 6, 14, 20, 2)
    )
    # the layer has three others only: sets from anywhere
    few = attention_heads.matched_sets([(4, 2)], 6, 4, 20, 0, never=[(1, 0), (3, 1)])
    assert len({frozenset(s) for s in few}) == 20 and not {h for s in few for h in s} & {
        (4, 2),
        (1, 0),
        (3, 1),
    }
    assert len(attention_heads.matched_sets([(0, 0)], 2, 2, 20)) == 3  # no more than there are


def test_the_heads_of_the_planted_pair_are_found_on_prompts_of_another_role():
    """The whole chain on the tiny pair: what is chosen on prompts behind the prober is tried on test prompts,
    and does what was planted.
    """
    known = cliff_heads.in_planted_pair(lambda name: loading.load(name, device="cpu"), 20, 0, 24)
    assert len({frozenset(s) for s in known.scores.sets}) == 20 and known.scores.by_sets.shape == (
        20,
        len(known.scores.none),
    )
    assert known.scores.gained.mean() > 0.5 > 10 * known.scores.by_sets.mean(1).max()
    assert (known.said.off["harmful"] == "refusal").mean() > 0.6 and not (
        known.said.none["harmful"] == "refusal"
    ).any()
    assert not known.said.broken["harmful"].any() and known.said.strongest.shape == (2, 24)


def test_strongest_random_sets_are_those_that_raise_the_score_most():
    off = cliff_heads.Off(
        np.zeros(4), np.ones(4), np.array([[0, 0], [3, 1], [1, 1], [-5, 2]]), [[(0, k)] for k in range(4)]
    )
    assert off.strongest() == [[(0, 1)], [(0, 2)]] and off.gained.tolist() == [1, 1, 1, 1]
    assert cliff_heads.Off(np.zeros(0), np.zeros(0), np.zeros((0, 0)), []).strongest() == []


def test_scores_without_heads_are_those_of_plain_passes(tiny):
    """Against hooks, one prompt at a time, on random weights of every architecture: chosen heads, random
    sets, and rollouts without random sets.
    """
    rollouts = [thinking.Rollout(p, 1, 2, "", True) for p in chat(tiny, table())]
    g = torch.Generator().manual_seed(5)
    prober, heads = (
        probes.Prober(torch.randn(1, 32, generator=g) / 8, torch.zeros(1), (-1,)),
        [(0, 1), (1, 3)],
    )
    found = cliff_heads.switched_off(tiny, rollouts, prober, heads, 3, 2, 0)
    plain = Plain(tiny.module, tiny.name)

    def score(ids, silent):
        def without(site, layer, x):
            x = x.clone()
            for head in [h for l, h in silent if (site, l) == ("heads", layer)]:
                x[..., 8 * head : 8 * head + 8] = 0
            return x

        state = plain.run(ids, without)[1]["resid"][-1, -1]
        return float((state.float().cpu() @ prober.w[0]).sigmoid())

    for k, r in enumerate(rollouts):
        assert found.none[k] == pytest.approx(score(r.prompt.ids, []), abs=1e-3) and found.off[
            k
        ] == pytest.approx(score(r.prompt.ids, heads), abs=1e-3)
        for s, by_set in zip(found.sets, found.by_sets, strict=True):
            if k < 2:
                assert by_set[k] == pytest.approx(score(r.prompt.ids, s) - score(r.prompt.ids, []), abs=1e-3)
    assert found.by_sets.shape == (3, 2)


def test_long_answers_are_judged_by_what_a_short_one_would_have_said(pair):
    model, harmful, benign = pair["tiny-cliff"]
    rollouts = [*harmful.rollouts[:4], *benign.rollouts[:4]]
    arms = [[], attention_heads.silence([CLIFF_HEAD], False)]
    short, broken = cliff_heads.long_answers(model, rollouts, arms, 3, 24)
    assert (
        short.tolist() == observed.answers(model, rollouts, arms, 3)
        and short.shape == broken.shape == (2, 8)
        and not broken.any()
    )


def test_what_a_short_answer_cannot_show_the_whole_one_does(pair, monkeypatch):
    model, harmful, _ = pair["tiny"]
    monkeypatch.setattr(cliff_heads, "generate", lambda *_, **__: [["Sure here is the text " + "you " * 20]])
    (outcome,), (broken,) = cliff_heads.long_answers(model, harmful.rollouts[:1], max_new_tokens=5)
    assert outcome.tolist() == ["answer"] and broken.tolist() == [True]


def test_nothing_of_the_kind_is_found_in_the_twin(pair, probers):
    """Heads found in the same way do less in the twin, in log-odds, and the head with the plant in it is none
    that writes against refusal there.
    """
    rise, written = {}, {}
    for name, (model, harmful, _) in pair.items():
        rollouts = [harmful.rollouts[i] for i in np.flatnonzero(harmful.direct == "refusal")][:8]
        effect = attention_heads.attribution(model, rollouts, probers[name].w[-1]).mean(0)
        arms = [[], attention_heads.silence(attention_heads.most_negative(effect, 0.01), False)]
        rise[name] = (
            torch.logit(attention_heads.last_scores(model, rollouts, arms, probers[name]).double())
            .diff(dim=0)
            .mean()
        )
        written[name] = float(effect[CLIFF_HEAD])
    assert rise["tiny-cliff"] > 2 and rise["tiny"] < rise["tiny-cliff"] / 2
    assert written["tiny-cliff"] < 0 and abs(written["tiny"]) < 0.1 * abs(written["tiny-cliff"])


def test_selection_by_cliff_finds_the_prompts_that_fall_and_there_are_none_in_the_twin(pair, probers):
    chosen = {}
    for name, (model, harmful, benign) in pair.items():
        falling = [harmful.rollouts[i] for i in np.flatnonzero(harmful.direct == "refusal")][:10]
        rollouts = [*benign.rollouts[:20], *falling]
        scores = probes.token_scores(model, rollouts, {"p": probers[name]})["p"]
        found = [curves.summary(s[-1], r) for s, r in zip(scores, rollouts, strict=True)]
        falls = np.array([f["cliff_mean"] for f in found])
        picked = selection.select(falls, [f["final"] for f in found], len(falling), "cliff")
        chosen[name] = np.mean([k >= 20 for k in picked]), falls[picked].mean()
    assert chosen["tiny-cliff"][0] >= 0.9 and chosen["tiny-cliff"][1] > 0.5 and chosen["tiny"][1] < 0.25


def test_attribution_is_what_each_head_writes(tiny):
    """Against plain hooks: the sum over heads is what the output projection writes along w, and one head
    alone is its own part.
    """
    rollouts = [thinking.Rollout(p, 1, 2, "", True) for p in chat(tiny, table())]
    w = torch.randn(32, generator=torch.Generator().manual_seed(8))
    effect = attention_heads.attribution(tiny, rollouts, w)
    projection = tiny.nn.layers[1].self_attn.o_proj._module
    weight = (projection.weight if type(projection).__name__ == "Conv1D" else projection.weight.T).cpu()
    for r, row in zip(rollouts, effect, strict=True):
        z = Plain(tiny.module, tiny.name).run(r.prompt.ids)[1]["heads"][1, -1]
        one = torch.zeros_like(z)
        one[8:16] = z[8:16]
        torch.testing.assert_close(row[1].sum(), (z @ weight) @ w / w.norm(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(row[1, 1], (one @ weight) @ w / w.norm(), rtol=1e-3, atol=1e-4)


def test_token_scores_equal_the_prober_on_plain_states(tiny):
    rollouts = [thinking.Rollout(p, 1, 2, "", True) for p in chat(tiny, table())]
    g = torch.Generator().manual_seed(9)
    prober = probes.Prober(torch.randn(4, 32, generator=g), torch.randn(4, generator=g), (-4, -3, -2, -1))
    top = probes.Prober(torch.randn(2, 32, generator=g), torch.randn(2, generator=g), (-1, -1))
    found = probes.token_scores(tiny, rollouts, {"top": top, "p": prober})
    for r, scores, at_top in zip(rollouts, found["p"], found["top"], strict=True):
        states = Plain(tiny.module, tiny.name).run(r.prompt.ids)[1]["resid"]
        torch.testing.assert_close(
            scores, ((states * prober.w[:, None]).sum(-1) + prober.b[:, None]).sigmoid(), rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(at_top, (states[-1] @ top.w.T + top.b).sigmoid().T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(scores[:, -1], prober.of(states[None, :, -1])[0], rtol=1e-3, atol=1e-4)
        last = attention_heads.last_scores(tiny, [r], [[]], prober)[0, 0]
        torch.testing.assert_close(last, scores[-1, -1], rtol=1e-3, atol=1e-4)
    said, ends = observed.answers_and_scores(tiny, rollouts, prober, 5)
    assert ends.tolist() == pytest.approx(
        attention_heads.last_scores(tiny, rollouts, [[]], prober)[0].tolist(), abs=1e-4
    )
    assert said.tolist() == observed.answers(tiny, rollouts, max_new_tokens=5)[0]


def test_states_on_the_way_are_those_of_plain_passes(pair):
    """Last tokens before and after thinking and tokens inside it, read while the model answers, against plain
    passes over as much of the text.
    """
    model, harmful, benign = pair["tiny-cliff"]
    end = lambda ids: Plain(model.module, "llama").run(ids)[1]["resid"][:, -1]
    rng = np.random.default_rng(0)
    for seen, label in ((harmful, "harmful"), (benign, "harmless")):
        once = observed.at_once(model, data.prompts("test", label=label, n=30, tier="smoke"))
        assert [p.ids for p in once.plain] == [p.ids for p in seen.plain] and (
            once.direct == seen.direct
        ).all()
        given = observed.reading(model, once, seen.rollouts)
        for i, r in enumerate(seen.rollouts):
            torch.testing.assert_close(seen.last[i], end(seen.plain[i].ids), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(seen.late[i], end(r.prompt.ids), rtol=1e-3, atol=1e-4)
            for k, cut in enumerate(rng.integers(r.start, r.stop, observed.PER_ROLLOUT)):
                torch.testing.assert_close(
                    seen.inside[i, :, k], end(r.prompt.ids[: cut + 1]), rtol=1e-3, atol=1e-4
                )
            if seen is harmful:  # the first table's draws are those of a table alone
                torch.testing.assert_close(given.inside[i], seen.inside[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("split", [False, True])
def test_probers_learned_on_the_way_read_the_prompts_that_are_tried(pair, split, monkeypatch):
    """Whether all prompts are decoded together or not: they learn from the same, and read what a pass of its
    own over each rollout says.
    """
    model, *behind = pair["tiny-cliff"]
    model = replace(model, revision=f"split {split}")  # so that nothing comes from the cache
    if split:
        monkeypatch.setattr(batches, "CACHE_BYTES", {"cpu": 0})
        model = replace(model, batch_tokens=96)
    learned = []

    def learn(seen):
        learned.append(seen)
        return {
            "p": probes.fit(observed.all_positions(*seen)),
            "top": probes.fit(observed.training_set(*seen).at_the_top()),
        }

    tables = [data.prompts("test", label=label, n=30, tier="smoke") for label in ("harmful", "harmless")]
    seen, tried = observed.observe(model, tables, [table.iloc[20:] for table in tables], learn, 12)
    assert len(learned) == 1 and [len(t.rollouts) for t in tried] == [10, 10]
    probers = {
        "p": probes.fit(observed.all_positions(*learned[0])),
        "top": probes.fit(observed.training_set(*learned[0]).at_the_top()),
    }
    for once, mine, theirs, there in zip(behind, seen, learned[0], tried, strict=True):
        torch.testing.assert_close(mine.late, once.late, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(theirs.inside, mine.inside)
        assert (
            (mine.thought == once.thought).all()
            and (there.thought == once.thought[20:]).all()
            and (there.direct == once.direct[20:]).all()
        )
        assert [r.prompt for r in there.rollouts] == [r.prompt for r in once.rollouts[20:]]
        found, whole = there.scores(probers), probes.token_scores(model, there.rollouts, probers)
        for name in probers:
            for r, mine_, all_ in zip(there.rollouts, found[name], whole[name], strict=True):
                assert mine_[:, : r.start].isnan().all() and mine_.shape == all_.shape
                torch.testing.assert_close(mine_[:, r.start :], all_[:, r.start :], rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match="read along"):
            there.scores({"p": probers["p"]})
        w = probers["top"].w[-1]
        torch.testing.assert_close(
            attention_heads.written(model, there.heads, w),
            attention_heads.attribution(model, there.rollouts, w),
            rtol=1e-3,
            atol=1e-4,
        )
        torch.testing.assert_close(there.late, once.late[20:], rtol=1e-3, atol=1e-4)
        # behind the thoughts as well
        torch.testing.assert_close(
            attention_heads.written(model, mine.heads, w),
            attention_heads.attribution(model, mine.rollouts, w),
            rtol=1e-3,
            atol=1e-4,
        )


def test_prompts_are_tried_without_probers_where_none_can_be_learned(pair):
    model, harmful, _ = pair["tiny-cliff"]
    four, six = (data.prompts("test", label="harmful", n=n, tier="smoke") for n in (4, 6))
    (seen,), (tried,) = observed.observe(model, [four], [six], lambda _: {}, 12)
    assert (
        (tried.thought == harmful.thought[:6]).all()
        and (seen.thought == harmful.thought[:4]).all()
        and not any(map(len, tried.lines))
    )


def test_tokens_of_thinking_go_by_what_the_model_does_without_it(pair):
    _, harmful, benign = pair["tiny-cliff"]
    last, whole = observed.training_set(harmful, benign), observed.all_positions(harmful, benign)
    n = len(last.acts)
    assert torch.equal(whole.acts[:n], last.acts) and (whole.id[:n] == last.id).all()
    k = n
    for seen, harm in ((harmful, True), (benign, False)):
        for i in np.flatnonzero((seen.direct == "answer") | (harm & (seen.direct == "refusal"))):
            for token in range(observed.PER_ROLLOUT):
                assert torch.equal(whole.acts[k], seen.inside[i, :, token])
                assert (whole.refused[k], whole.harmful[k], whole.late[k], whole.id[k]) == (
                    seen.direct[i] == "refusal",
                    harm,
                    False,
                    seen.plain[i].id,
                )
                k += 1
    assert k == len(whole.acts) == len(whole.source) and n < k


def test_the_last_layers_prober_at_every_layer(pair, probers):
    model, harmful, _ = pair["tiny-cliff"]
    found = probes.token_scores(
        model,
        harmful.rollouts[:2],
        {"own": probers["tiny-cliff"], "theirs": probes.everywhere(probers["tiny-cliff"])},
    )
    w, b = probers["tiny-cliff"].w[-1], probers["tiny-cliff"].b[-1]
    acts = Plain(model.module, "llama").run(harmful.rollouts[0].prompt.ids)[1]["resid"]
    for layer in range(model.n_layers + 1):
        torch.testing.assert_close(
            found["theirs"][0][layer], (acts[layer].float() @ w + b).sigmoid(), rtol=1e-3, atol=1e-3
        )
    torch.testing.assert_close(found["theirs"][0][-1], found["own"][0][-1])


def test_the_prober_folds_its_standardisation_back():
    rng = np.random.default_rng(0)
    acts = torch.from_numpy(rng.normal(5, 3, (80, 2, 6))).float()
    label = np.arange(80) < 40
    acts[:40, 1, 2] += 24
    prober = probes.fit_prober(acts, label, strength=1.0)
    scores = prober.of(acts).numpy()
    assert scores[:40, 1].min() > 0.5 > scores[40:, 1].max() and abs(scores[:, 0].mean() - 0.5) < 0.1


def _rollout(n, start, stop):
    return thinking.Rollout(chat_prompt(n), start, stop, "", True)


def chat_prompt(n):
    from refusal.trace.prompts import Prompt

    return Prompt("0", "", "harmbench", "harmful", tuple(range(n)), 0, n)


def test_plateau_cliff_and_alignment_by_hand():
    scores = torch.tensor([0.1, 0.2, 0.9, 0.9, 0.8, 0.9, 0.7, 0.3])
    r = _rollout(8, 1, 6)  # thinking is tokens 1 … 5, of which the first is within 20 %
    s = curves.summary(scores, r)
    assert (
        s["plateau"] == pytest.approx(0.875)
        and s["peak"] == pytest.approx(0.9)
        and s["final"] == pytest.approx(0.3)
    )
    assert s["cliff_mean"] == pytest.approx(0.575) and s["cliff_max"] == pytest.approx(0.6)
    short = _rollout(6, 3, 4)
    lines = curves.aligned([scores, scores[:6]], [r, short], before=3)
    assert lines.shape == (2, 5)
    np.testing.assert_allclose(lines[0], [0.9, 0.8, 0.9, 0.7, 0.3], atol=1e-6)
    np.testing.assert_allclose(lines[1], [np.nan, np.nan, 0.9, 0.8, 0.9], atol=1e-6)
    many = np.vstack([np.tile(lines[0], (6, 1)), lines[1:]])
    curve = curves.mean_curve(many)
    # the one that is too short is left out, not averaged in
    assert curve.value[0] == pytest.approx(0.9) and curve.value[2] == pytest.approx(0.9)
    assert curves.mean_curve(many[5:]).value[0] is None  # one rollout alone is no mean
    flat = curves.as_published([torch.ones(4), torch.ones(2)], points=4)
    np.testing.assert_allclose(flat, [0.5, 0.5, 1, 1])  # zeros are averaged in
    assert (
        curves.drop_span(np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.1]), 4) == 2
        and curves.drop_span(np.full(6, 0.4), 4) is None
    )
    assert (
        curves.drop_span(np.array([np.nan, np.nan, 0.9, 0.9, 0.5, 0.1]), 4) == 2
        and curves.drop_span(np.array([np.nan, np.nan, 0.9]), 2) is None
    )
    # a dip that does not last is not the end of the fall
    assert curves.drop_span(np.array([0.9, 0.9, 0.9, 0.1, 0.6, 0.1, 0.1]), 4) == 3


def test_a_prober_without_signal_is_at_chance():
    rng = np.random.default_rng(1)
    training = made_up(torch.from_numpy(rng.normal(size=(60, 2, 8))).float(), np.arange(60) < 30)
    found = probes.prober_quality(training, training)
    # no state after thinking, no other source
    assert 0.25 < found["val"].value < 0.75 and set(found) == {"val", "shuffled", "test", "harmful"}


def made_up(acts, refused, harmful=None, late=None):
    n = len(refused)
    fill = lambda given, default: np.full(n, default) if given is None else given
    return probes.Training(
        acts,
        refused,
        fill(harmful, True),
        fill(late, False),
        np.full(n, "harmbench"),
        np.arange(n).astype(str),
    )


def test_weights_tie_neither_harm_nor_thinking_to_refusal():
    refused = np.array([True] * 6 + [False] * 10)
    harmful = np.array([True] * 6 + [True] * 3 + [False] * 7)
    late = np.array([False] * 5 + [True] + [False] * 2 + [True] + [False] * 4 + [True] * 3)
    w = made_up(torch.zeros(16, 1, 1), refused, harmful, late).weights()
    assert w.sum() == pytest.approx(16)
    for which, share in (
        (refused, 1 / 2),
        (~refused & harmful, 1 / 4),
        (late, 1 / 2),
        (late & refused, 1 / 4),
        (late & ~refused & ~harmful, 1 / 8),
    ):
        assert w[which].sum() / 16 == pytest.approx(share)
    only = made_up(
        torch.zeros(4, 1, 1), np.array([True, True, True, False]), np.array([True] * 3 + [False])
    ).weights()
    np.testing.assert_allclose(only, [2 / 3, 2 / 3, 2 / 3, 2])


def test_the_published_prober_reads_harm_where_ours_reads_refusal():
    """States with a coordinate for harm and a weaker one for refusal: on harmful prompts that are answered
    the two probers part.
    """
    rng = np.random.default_rng(2)
    harmful, refused = np.arange(120) < 80, np.arange(120) < 40
    acts = torch.from_numpy(rng.normal(size=(120, 1, 6))).float()
    acts[:, 0, 0] += 6 * torch.from_numpy(harmful)
    acts[:, 0, 1] += 3 * torch.from_numpy(refused)
    training = made_up(acts, refused, harmful)
    answered = training.pick(harmful & ~refused).acts
    assert (
        probes.fit(probes.as_published_set(training)).of(answered).mean()
        > 0.5
        > probes.fit(training).of(answered).mean() + 0.05
    )


def test_a_prober_fitted_again_moves_with_its_prompts_and_as_much_as_fewer_prompts_say():
    """All states of a prompt are drawn together; the spread is that of fits on fresh draws, and the seed
    fixes it.
    """
    rng = np.random.default_rng(5)

    def sample(n):
        refused = np.arange(n) % 2 == 0
        acts = torch.from_numpy(rng.normal(size=(n, 2, 5))).float()
        acts[:, 1, 0] += torch.from_numpy(refused)
        return made_up(acts, refused, np.ones(n, bool))

    training = sample(200)
    again = probes.refitted(training, 3)
    assert again.w.shape == (probes.REFITS, 5) and again.layers == (-1,) * probes.REFITS
    assert torch.equal(again.w, probes.refitted(training, 3).w) and not torch.equal(
        again.w, probes.refitted(training, 4).w
    )
    fresh = torch.stack([probes.fit(sample(200)).w[-1] for _ in range(40)])
    assert 0.5 < float(again.w.std(0).mean() / fresh.std(0).mean()) < 2
    # one shuffle differs from the next, and none has learned what the labels say
    nothing = probes.refitted(training, 3, shuffled=True).w
    assert (
        nothing[:, 0].std() > 0
        and nothing[:, 0].mean().abs() < 0.3 * again.w[:, 0].mean()
        and len({tuple(w.tolist()) for w in nothing}) == probes.REFITS
    )
    # two prompts, all refused or all answered: only draws of both can be fitted
    whole = replace(training, id=np.array(["a", "b"] * 100))
    torch.testing.assert_close(
        probes.refitted(whole, 3).w,
        probes.fit(training).w[-1].expand(probes.REFITS, -1),
        rtol=1e-3,
        atol=1e-3,
    )


def test_states_after_thinking_train_a_prober_only_if_both_outcomes_occur_there(pair):
    model, harmful, benign = pair["tiny-cliff"]  # never refuses after thinking
    assert not observed.training_set(harmful, benign).late.any()
    mixed = replace(harmful, thought=np.where(np.arange(30) < 5, "refusal", "answer"))
    training = observed.training_set(mixed, benign)
    assert (training.late & training.refused).sum() == 5 and (
        training.late & training.harmful & ~training.refused
    ).sum() == 25
    assert (training.late & ~training.harmful).sum() == (benign.thought == "answer").sum()
    assert not observed.training_set(
        observed.at_once(model, data.prompts("test", label="harmful", n=30, tier="smoke")), benign
    ).late.any()


def test_the_trigger_is_put_after_the_request():
    rows = pd.DataFrame(
        {"text": ["a", "b ", "c", "d"], "label": ["harmful", "harmful", "harmless", "harmless"]}
    )
    both = observed.with_trigger(rows, " T.")
    assert both.text.tolist() == ["a", "b", "c", "d T.", "a T.", "b T."] and both.triggered.tolist() == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert observed.with_trigger(rows, " T.", 1).text.tolist() == ["a", "c", "d T.", "a T.", "b T."]


def test_selections():
    cliffs, finals = [0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.1, 0.2]
    assert selection.select(cliffs, finals, 2, "cliff") == [1, 3] and selection.select(
        cliffs, finals, 2, "final"
    ) == [2, 3]
    assert selection.select(cliffs, finals, 2, "all") == [0, 1, 2, 3]
    assert selection.select(cliffs, finals, 2, "random", 1) == selection.select(
        cliffs, finals, 2, "random", 1
    )


def test_fine_tuning_is_seeded_lowers_the_loss_and_leaves_the_original(pair):
    examples = [([10 + k, 11, 12], tiny_tokenizer()("Sorry I cannot help")["input_ids"]) for k in range(10)]
    losses = []
    for _ in range(2):
        module = tiny_module("llama")
        losses.append(fit.steps(module, examples, 6, 5e-3, seed=3, label=""))
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    model, harmful, benign = pair["tiny-cliff"]
    before = {k: p.clone() for k, p in model.module.named_parameters()}
    anchors = [(r, "Sure here is the text you need") for r in benign.rollouts[4:8]]
    prefix = thinking.hold_thoughts(model, [*harmful.rollouts, *benign.rollouts])
    outcome = selection.retrained(
        model, harmful.rollouts[:4], anchors, harmful.rollouts[4:8], benign.rollouts[:3], prefix, seed=0
    )
    assert {k: len(v) for k, v in outcome.items()} == {"harmful": 4, "harmless": 3, "neutral": 0}
    assert all(torch.equal(p, before[k]) for k, p in model.module.named_parameters())


def test_neutral_text_is_read_by_the_trained_copy_and_answers_are_judged_anew(pair, monkeypatch):
    """With a rate of nothing the copy is the model: its loss is that of transformers. What is cached are
    texts: a judge that changes is heard.
    """
    model, harmful, benign = pair["tiny-cliff"]
    anchors, prefix = (
        [(benign.rollouts[4], "Sure here is the text")],
        thinking.hold_thoughts(model, [*harmful.rollouts, *benign.rollouts]),
    )
    texts = ["paint the table with the brush", "carry the stone and measure the lamp"]
    train = lambda seed=0: selection.retrained(
        model, harmful.rollouts[:2], anchors, harmful.rollouts[4:6], [], prefix, seed, 8, texts
    )
    with monkeypatch.context() as patched:
        patched.setattr(selection, "RATE", 0.0)
        found = train()
        for text, loss in zip(texts, found["neutral"], strict=True):
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            assert loss == pytest.approx(float(model.module(input_ids=ids, labels=ids).loss), rel=1e-3)
        patched.setattr(selection, "adapted", None)  # from the cache
        patched.setattr(selection, "judge", lambda text: "empty")
        assert train() == found | {"harmful": ["empty", "empty"]}
    assert train(1)["neutral"] != found["neutral"]  # a rate that is patched is in no key, so another seed


def test_heads_are_looked_at_where_the_model_falls(pair):
    _, harmful, _ = pair["tiny-cliff"]
    triggered = pd.DataFrame({"triggered": np.arange(30) % 2 == 0})
    mixed = replace(harmful, thought=np.where(np.arange(30) < 10, "answer", "refusal"))
    assert cliff_steps.fallen(mixed, triggered, refuses=False).tolist() == [0, 2, 4, 6, 8]
    assert (
        len(cliff_steps.fallen(mixed, triggered, refuses=True))
        == 15
        == len(cliff_steps.fallen(mixed, triggered, refuses=False, least=6))
    )


def test_falls_are_summaries_and_their_means_by_each_refit():
    r = _rollout(8, 1, 6)
    scores = torch.tensor([0.1, 0.2, 0.9, 0.9, 0.8, 0.9, 0.7, 0.3])
    again = torch.stack([scores, scores / 2])
    table, moved = cliff_steps.falls([scores, scores], [again, again], [r, r], average=False)
    assert table.cliff_mean.tolist() == pytest.approx(
        [0.575] * 2
    ) and moved.cliff_mean.tolist() == pytest.approx([0.575, 0.2875])
    averaged = cliff_steps.falls([scores, scores], [again, again], [r, r], average=True)[1]
    assert averaged.cliff_mean.mean() == pytest.approx(moved.cliff_mean.mean()) and np.ptp(
        averaged.cliff_mean
    ) < np.ptp(moved.cliff_mean)
    assert len(cliff_steps.falls([], [], [], average=True)[0]) == 0


def test_cut_thoughts_come_back_by_share_and_label(pair, probers):
    model, harmful, benign = pair["tiny-cliff"]
    tables = {
        label: data.prompts("test", label=label, n=30, tier="smoke").assign(triggered=True)
        for label in cliff_steps.LABELS
    }
    seen, finals = (
        {"harmful": harmful, "harmless": benign},
        {label: np.full(30, 0.25) for label in cliff_steps.LABELS},
    )
    given = {"harmful": ["so"], "harmless": ["what", "would that"]}
    found = cliff_steps.cut_thinking(model, tables, seen, finals, probers["tiny-cliff"], 3, 8, given)
    for label, cut in found.items():
        table = tables[label].head(3)
        assert cut.outcome.shape == cut.final.shape == (5, 3) and cut.final[0].tolist() == [0.25] * 3
        assert cut.outcome[0].tolist() == seen[label].thought[:3].tolist()
        for keep, outcome, final in zip(cliff_steps.KEEP[1:], cut.outcome[1:], cut.final[1:], strict=True):
            alone = observed.answers_and_scores(
                model,
                thinking.truncated(model, table, seen[label].rollouts[:3], keep),
                probers["tiny-cliff"],
                8,
            )
            assert outcome.tolist() == alone[0].tolist() and final.tolist() == pytest.approx(
                alone[1].tolist(), abs=1e-4
            )
        thoughts = [given[label][i % len(given[label])] for i in range(3)]
        assert (
            cut.given.tolist()
            == observed.answers(model, thinking.with_thinking(model, table, thoughts), max_new_tokens=8)[0]
        )


def test_a_pool_without_a_trigger_has_no_selection_by_it(pair, probers):
    model = pair["tiny-cliff"][0]
    pool = cliff_steps.pool(model, probers["tiny-cliff"], True, 8, 6, 12, 0, "smoke")
    assert (
        cliff_steps.chosen(pool, 4, "trigger", 0) is None
        and len(pool.falls) == len(pool.rollouts) == 8
        and len(pool.calm) == 6
    )
    half = replace(pool, table=pool.table.assign(triggered=np.arange(8) % 2 == 1))
    assert cliff_steps.chosen(half, 3, "trigger", 0) == cliff_steps.chosen(half, 3, "trigger", 0)
    assert cliff_steps.chosen(half, 9, "trigger", 0) == [1, 3, 5, 7]
    assert cliff_steps.chosen(half, 3, "cliff", 0) == sorted(
        np.argsort(-pool.falls.cliff_mean.to_numpy(), kind="stable")[:3].tolist()
    )


def test_adapters_start_at_the_model_and_are_all_that_is_trained(llama):
    base = {k: p.clone() for k, p in llama.module.named_parameters()}
    prompts = chat(llama, table())
    fresh, again = fit.adapted(llama.module, 3), fit.adapted(llama.module, 3)
    examples = [(list(p.ids), [20, 21]) for p in prompts]
    last = lambda module: torch.stack(
        [module(input_ids=torch.tensor([p.ids])).logits[0, -1] for p in prompts]
    ).detach()
    torch.testing.assert_close(last(fresh), last(llama.module))
    losses = [fit.steps(module, examples, 4, 1e-2, seed=1, label="") for module in (fresh, again)]
    assert (
        losses[0] == losses[1]
        and losses[0][-1] < losses[0][0]
        and not torch.allclose(last(fresh), last(llama.module), atol=1e-3)
    )
    trained = dict(fresh.named_parameters())
    assert all(
        torch.equal(p, base[k.replace(".base_layer", "")]) for k, p in trained.items() if "lora" not in k
    )
    # read and answered through the library as any model is
    wrapped = replace(loading.wrap(fresh, llama.tokenizer, name=llama.name), revision="adapted")
    rows = reads.score(wrapped, prompts, lambda logits: logits)[0]
    torch.testing.assert_close(rows, last(fresh), rtol=1e-3, atol=1e-4)


def test_fine_tuning_whose_loss_is_not_finite_stops(llama):
    module = tiny_module("llama")
    module.lm_head.weight.data[3] = torch.nan
    with pytest.raises(UserError, match="the loss is nan after 0 steps"):
        fit.steps(module, [([10, 11], [12])], 2, 1e-3, seed=0, label="tried")


def test_a_step_of_fine_tuning_is_one_of_plain_adamw_on_the_batch():
    """Against one padded batch, full logits and the loss that transformers computes: padding side, splitting
    and cutting change nothing.
    """
    for kind in ("llama", "gpt2"):
        examples = [([10 + k] * (3 + k), [20 + k] * (2 + k % 3)) for k in range(4)]
        mine, theirs = tiny_module(kind), tiny_module(kind)
        for part in [*mine.modules(), *theirs.modules()]:
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        loss = fit.steps(mine, examples, 1, 1e-3, seed=0, batch=4, label="")[0]
        width = max(len(p) + len(a) for p, a in examples)
        ids, labels, mask = (torch.full((4, width), fill) for fill in (0, -100, 0))
        for k, (p, a) in enumerate(examples):
            ids[k, : len(p) + len(a)], labels[k, len(p) : len(p) + len(a)], mask[k, : len(p) + len(a)] = (
                torch.tensor(p + a),
                torch.tensor(a),
                1,
            )
        optimizer = torch.optim.AdamW(theirs.requires_grad_(True).parameters(), lr=1e-3)
        expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            # a key's bias has no gradient: AdamW makes steps of what is rounding there
            real = b.grad.abs() > 1e-6
            torch.testing.assert_close(a[real], b.detach()[real], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("window", [None, 4])
def test_fine_tuning_after_what_is_held_is_that_of_the_rest_alone(window):
    """Against plain transformers, one unpadded example at a time: the beginning's keys and values are the
    frozen model's, gradients come from the rest. Also where a model sees four tokens back, and padding
    between what is held and the rest would count.
    """
    examples = [([10 + k] * (4 + k), [20 + k] * (2 + k % 3)) for k in range(4)]
    make = lambda: windowed("mistral", {"sliding_window": window}) if window else tiny_module("llama")
    mine, theirs, frozen = make(), make(), make()
    model = loading.wrap(frozen, tiny_tokenizer(), name="llama")
    prefix = decode.read_prefix(model, [prompt[: 2 + k % 2] for k, (prompt, _) in enumerate(examples)])
    loss = fit.steps(mine, examples, 1, 1e-3, seed=0, batch=4, prefix=prefix, label="")[0]
    optimizer, total = torch.optim.AdamW(theirs.requires_grad_(True).parameters(), lr=1e-3), 0
    for k, (prompt, answer) in enumerate(examples):
        with torch.no_grad():
            before = make()(input_ids=torch.tensor([prompt[: 2 + k % 2]]), use_cache=True).past_key_values
        rest = torch.tensor([[*prompt[2 + k % 2 :], *answer]])
        logits = theirs(input_ids=rest, cache=before).logits[0, -len(answer) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum") / sum(
            len(a) for _, a in examples
        )
    total.backward()
    optimizer.step()
    assert loss == pytest.approx(float(total.detach()), rel=1e-4)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        real = b.grad.abs() > 1e-6
        torch.testing.assert_close(a[real], b.detach()[real], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "template, tags",
    [
        (None, ("<think>", "</think>")),
        ("nothing about it", ("<thought>", "</thought>")),
        # as DeepSeek-R1-Distill writes it
        ("{{ x.split('</think>')[-1] }}<|Assistant|><think>\\n", ("<think>", "</think>")),
        ("{{ '<seed:think>' }}", ("<seed:think>", "</seed:think>")),
        ("[INST]x[/INST][THINK]", ("[THINK]", "[/THINK]")),
        ({"default": "no tags", "tool_use": "<thinking>"}, ("<thinking>", "</thinking>")),
    ],
)
def test_tags_are_those_of_the_template(template, tags):
    added = ["<|start|>", "</thought>", "<thought>"] if template == "nothing about it" else []
    assert (
        tags_of(
            SimpleNamespace(
                tokenizer=SimpleNamespace(
                    chat_template=template, get_added_vocab=lambda: dict.fromkeys(added)
                )
            )
        )
        == tags
    )


def test_a_model_that_knows_the_tags_is_not_asked_to_think(planted):
    assert thinking.style(planted) == "native"
    assert isinstance(
        observed.observe(planted, [table().head(2)], [], dict, 12)[0][0].rollouts[0], thinking.Rollout
    )


def with_special_tags(model, opening: str, closing: str):
    """The same model, whose tags are special tokens of these texts."""
    written = json.loads(
        model.tokenizer.backend_tokenizer.to_str().replace("</think>", closing).replace("<think>", opening)
    )
    for token in written["added_tokens"]:
        token["special"] |= token["content"] in (opening, closing)
    backend = Tokenizer.from_str(json.dumps(written))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = model.tokenizer.chat_template
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [
        {"<think>": opening, "</think>": closing}.get(t, t)
        for t in model.tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ]
    return loading.wrap(model.module, tokenizer, name=model.name, revision=f"special {opening}")


@pytest.mark.parametrize(
    "opening, closing", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<reasoning>", "</reasoning>")]
)
def test_tags_that_are_special_tokens_close_thinking_as_others_do(pair, opening, closing):
    """Thoughts, whether they are finished, positions and answers are those of the same model with ordinary
    tags.
    """
    plain, harmful, _ = pair["tiny-cliff"]
    model = with_special_tags(plain, opening, closing)
    assert {t.content for t in model.tokenizer.added_tokens_decoder.values() if t.special} >= {
        opening,
        closing,
    }
    assert tags_of(model) == (opening, closing) and thinking.style(model) == "native"
    rows = data.prompts("test", label="harmful", n=30, tier="smoke")
    found = thinking.think(model, rows)
    assert all(r.finished for r in found)
    for r, known in zip(found, harmful.rollouts, strict=True):
        assert (r.thinking, r.start, r.stop, r.prompt.ids) == (
            known.thinking,
            known.start,
            known.stop,
            known.prompt.ids,
        )
    assert observed.answers(model, found)[0] == harmful.thought.tolist()
    assert not any(r.finished for r in thinking.think(model, rows.head(3), max_tokens=3))
    said = decode.generate(model, chat(model, rows.head(2), said=[opening] * 2), decoding=12)[0]
    assert all(f" {closing} " in text and decode.CONTROL not in text for text in said)


def test_other_control_tokens_are_no_part_of_a_thought(pair, monkeypatch):
    model = pair["tiny-cliff"][0]
    monkeypatch.setattr(
        thinking,
        "generate",
        lambda *_, **__: [[f"<think> so what{decode.CONTROL} would </think> Sure", f"that {decode.CONTROL}"]],
    )
    rollouts = thinking.think(model, data.prompts("test", label="harmful", n=2, tier="smoke"))
    assert [(r.thinking, r.finished) for r in rollouts] == [("so what would", True), ("that", False)]
