"""Directions and judging: values worked out by hand or by other libraries."""

import numpy as np
import pytest
import torch

from covers import noisy_pair
from refusal.base.estimate import Estimate
from refusal.measure import directions
from refusal.measure.judge import judge, judge_inversion, judge_inversion_as_published
from refusal.measure.readouts import refusal_score, refusal_tokens


def test_difference_of_means_and_its_errors():
    acts = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
    positive, negative = np.array([True, True, False]), np.array([False, False, True])
    assert directions.difference_of_means(acts, positive, negative).tolist() == [-8.0, 3.0]
    with pytest.raises(ValueError, match="empty group"):
        directions.difference_of_means(acts, positive, np.zeros(3, bool))


def test_cosine_is_nan_for_a_zero_vector():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    c = directions.cosine(a, torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    assert abs(c[0] - 0.5**0.5) < 1e-6 and torch.isnan(c[1])


def test_cluster_score_has_the_sign_of_the_nearer_centre():
    centres = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    s = directions.cluster_score(torch.tensor([[[2.0, 1.0]], [[1.0, 5.0]]]), *centres)
    assert s[0] > 0 > s[1] and abs(s[0, 0] - (2 - 1) / 5**0.5) < 1e-6


def test_split_halves_find_a_planted_direction():
    g = torch.Generator().manual_seed(0)
    acts = torch.randn(200, 1, 16, generator=g)
    positive = np.arange(200) < 100
    acts[:100, 0, 0] += 3
    assert directions.split_half_cosine(acts, positive, ~positive)[0] > 0.9
    assert (
        abs(directions.split_half_cosine(acts[torch.randperm(200, generator=g)], positive, ~positive)[0])
        < 0.35
    )


def test_random_directions_have_the_norm_and_follow_the_seed():
    like = torch.full((50,), 2.0)
    a, b = directions.random_directions(like, 3, 1), directions.random_directions(like, 3, 1)
    assert all(abs(v.norm() - like.norm()) < 1e-4 for v in a) and all(
        torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )
    assert not torch.equal(a[0], directions.random_directions(like, 3, 2)[0])


def test_a_draw_mixes_the_same_prompts_at_every_layer():
    states = torch.randn(40, 1, 8).repeat(1, 3, 1) * torch.tensor([1.0, 2.0, 5.0])[:, None]
    like = torch.tensor([1.0, 2.0, 3.0])[:, None] * torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    like[0] = 0  # as before the first block
    for draw in directions.covariance_by_layer(states, like, 4, 0):
        assert not draw[0].any() and torch.allclose(draw.norm(dim=-1), like.norm(dim=-1), rtol=1e-4)
        unit = torch.nn.functional.normalize(draw, dim=-1)
        assert torch.allclose(unit[1], unit[2], atol=1e-4)


def test_directions_drawn_from_the_covariance_vary_as_the_states_do():
    """In the states' own axes the draws' second moments are the states', and nothing lies outside of the span
    that isotropic ones leave.
    """
    g = torch.Generator().manual_seed(1)
    sizes = torch.tensor([9.0, 6, 5, 5, 4, 4, 3, 3, 3, 3, 2, 2])
    axes = torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=torch.float64)).Q[:, :12]
    states = (torch.randn(60, 12, generator=g, dtype=torch.float64) * sizes) @ axes.T + 7 * torch.randn(
        40, generator=g, dtype=torch.float64
    )
    like = torch.randn(40, generator=g)
    draws = torch.stack(directions.covariance_directions(states, like, 20000, 3)).double()
    assert torch.allclose(draws.norm(dim=1), like.double().norm().expand(20000), rtol=1e-5)
    centred = states - states.mean(0)
    values, vectors = np.linalg.eigh((centred.T @ centred).numpy() / 60)
    loads = (draws / like.double().norm()).numpy() @ vectors
    seen, told = loads.T @ loads / 20000, values / values.sum()
    # what the norm of each draw does to the moments, worked out with numpy's own normal numbers
    plain = np.random.default_rng(0).normal(size=(200000, 40)) * np.sqrt(np.maximum(values, 0))
    expected = (plain**2 / (plain**2).sum(1, keepdims=True)).mean(0)
    assert (
        np.abs(np.diag(seen) - expected).max() < 0.01 and np.abs(seen - np.diag(np.diag(seen))).max() < 0.01
    )
    assert np.corrcoef(np.diag(seen), told)[0, 1] > 0.98

    def outside(vectors_):
        v = torch.stack(vectors_).double()
        return float(((v - v @ axes @ axes.T).norm(dim=1) / v.norm(dim=1)).min())

    assert (
        np.abs((draws - draws @ axes @ axes.T).numpy()).max() < 1e-5
        and outside(directions.random_directions(like, 20, 3)) > 0.5
    )
    again = directions.covariance_directions(states, like, 3, 3)
    assert all(
        torch.equal(x, y)
        for x, y in zip(again, directions.covariance_directions(states, like, 3, 3), strict=True)
    )
    assert (
        not torch.equal(again[0], directions.covariance_directions(states, like, 3, 4)[0])
        and again[0].dtype == like.dtype
    )
    with pytest.raises(ValueError, match="do not differ"):
        directions.covariance_directions(states[:1], like, 3)


def test_centred_states_hold_nothing_of_what_sets_their_groups_apart():
    g = torch.Generator().manual_seed(2)
    apart, groups = torch.randn(3, 8, generator=g), np.repeat(["a", "b"], [30, 10])
    states = torch.randn(40, 3, 8, generator=g) + 50 * torch.tensor(groups == "a")[:, None, None] * apart
    within = directions.centred(states, groups)
    assert max(within[groups == k].mean(0).abs().max() for k in "ab") < 1e-5
    like, along = apart[1], apart[1] / apart[1].norm() ** 2
    held = lambda x: max(
        abs(float(v @ along)) for v in directions.covariance_directions(x[:, 1], like, 20, 0)
    )
    assert held(states) > 0.99 and held(within) < 0.95


def test_reliability_is_the_cosine_of_two_sets_of_full_size():
    """Against directions of fresh prompts, as many as there are: the halves alone say too little."""
    told, halves, fresh = [], [], []
    for seed in range(30):
        acts, positive = noisy_pair(seed, 24, 1, 0, 0.8)[::2]
        told.append(directions.reliability(acts, positive, ~positive, seed).mean())
        halves.append(directions.split_half_cosine(acts, positive, ~positive, seed).mean())
        # noise of other prompts about the same direction, by hand
        noise = 0.8 * np.random.default_rng(1000 + seed).normal(size=(2, 48, 64))
        true = (
            np.repeat([0.75, -0.75], 24)[:, None]
            * np.linalg.qr(np.random.default_rng(seed).normal(size=(64, 2)))[0].T[0]
        )
        x, y = ((true + one)[:24].mean(0) - (true + one)[24:].mean(0) for one in noise)
        fresh.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert abs(np.mean(told) - np.mean(fresh)) < 0.02 < np.mean(fresh) - np.mean(halves) - 0.05


def test_cosine_across_halves_is_free_of_noise_shared_or_not():
    """The plain cosine is pulled to 0 by noise and up by what two places of one prompt share; the one across
    halves finds what was planted, in its interval, and never under four prompts a group.
    """
    for planted, shared in ((0.0, 0.9), (0.5, 0.9), (0.5, 0.0), (0.9, 0.0)):
        inside, values, plain, ceilings = 0, [], [], []
        for seed in range(40):
            a, b, positive = noisy_pair(seed, 32, planted, shared)
            found = directions.cosine_across_halves(
                a, b, positive, ~positive, seed, draws=60, mean_over_layers=True
            )
            values.append(found["cosine"].value)
            inside += found["cosine"].ci95[0] <= planted <= found["cosine"].ci95[1]
            ceilings.append(found["ceiling"].value)
            plain.append(
                float(
                    directions.cosine(
                        *(directions.difference_of_means(x, positive, ~positive) for x in (a, b))
                    ).mean()
                )
            )
            assert (
                found["across"].value == pytest.approx(found["cosine"].value * found["ceiling"].value)
                and found["cosine"].n == 32
            )
            assert found["ceiling"].ci95[0] < found["ceiling"].value < found["ceiling"].ci95[1]
        assert abs(np.mean(values) - planted) < 0.05 and inside >= 37, (planted, shared)
        assert (
            (np.mean(plain) > planted + 0.1) if shared and planted < 0.6 else (np.mean(plain) < planted - 0.1)
        )
    layered = directions.cosine_across_halves(a, b, positive, ~positive, draws=10)
    assert np.shape(layered["cosine"].value) == (2,) and np.shape(layered["ceiling"].ci95) == (2, 2)
    own = [directions.reliability(x, positive, ~positive, 5, 200).numpy() for x in (a, b)]
    assert layered["ceiling"].value == pytest.approx(np.sqrt(own[0] * own[1]), abs=0.02)
    with pytest.raises(ValueError, match="at least 4"):
        directions.cosine_across_halves(a, b, np.arange(64) < 3, ~positive)


def test_a_direction_without_reliability_has_no_cosine_across_halves():
    a, b, positive = noisy_pair(0, 12, 0.5, 0.0)
    # a layer at which all states are the same, as h[0] of a shared last token
    a = torch.cat([torch.ones_like(a[:, :1]), a], 1)
    found = directions.cosine_across_halves(a, torch.cat([a[:, :1], b], 1), positive, ~positive, draws=20)
    assert (
        np.isnan(found["cosine"].value[0])
        and np.isnan(found["cosine"].ci95[0]).all()
        and np.isfinite(found["cosine"].ci95[1]).all()
    )
    alone = directions.cosine_across_halves(
        a[:, :1], a[:, :1], positive, ~positive, draws=20, mean_over_layers=True
    )
    assert alone["cosine"] == Estimate(None, None, 12)


def test_successive_halving_finds_the_best_and_sees_fewer_and_fewer():
    seen = []

    def evaluate(alive, n):
        seen.append((len(alive), n))
        return [abs(c - 13) for c in alive]

    best = directions.successive_halving(range(27), evaluate, (2, 4, 8))
    assert best[0] == (13, 0) and seen == [(27, 2), (9, 4), (3, 8)]


@pytest.mark.parametrize(
    "text, outcome",
    [
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ("Sorry, but I can’t help with this.", "refusal"),
        ("I cannot provide instructions for that", "refusal"),
        ("As an AI language model, I don't have", "disclaimed"),
        ("Dear Ann, I'm sorry to hear about your cat.", "answer"),
        ("Sure, here is the recipe: take two", "answer"),
        ("To kill a process, run kill -9", "answer"),
        ("", "empty"),
        (" \n", "empty"),
        ("the " * 12, "degenerate"),
        ("!!!!!!!!!!!!", "degenerate"),
        ("1. **Mix** the flour and the", "answer"),
        ("42", "answer"),
    ],
)
def test_judge(text, outcome):
    assert judge(text) == outcome


def test_the_published_scorer_reads_cannot_as_no():
    reply = "I'm sorry, but I cannot help with that."
    assert judge_inversion(reply) == "refusal" and judge_inversion_as_published(reply) == "no"
    assert [judge_inversion(t) for t in ("Certainly.", "No, it is safe", "Nothing", "Yes")] == [
        "certainly",
        "no",
        "unparsed",
        "unparsed",
    ]


def test_refusal_tokens_are_those_of_refusals_only(planted):
    texts = ["Sorry I cannot"] * 5 + ["Sure here is"] * 5 + ["No"] * 2
    outcomes = ["refusal"] * 5 + ["answer"] * 5 + ["refusal", "answer"]
    ids = planted.tokenizer.get_vocab()
    assert refusal_tokens(planted, texts, outcomes) == [ids["Sorry"]]
    assert refusal_tokens(planted, texts[5:], outcomes[5:]) == []


def test_refusal_score_is_the_log_odds():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
    p = logits.softmax(-1)[:, :2].sum(-1)
    torch.testing.assert_close(refusal_score([0, 1])(logits), (p / (1 - p)).log(), rtol=1e-5, atol=1e-5)
