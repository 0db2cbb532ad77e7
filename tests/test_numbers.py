"""Directions, statistics, judging: values worked out by hand or by other libraries."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from wilson import wilson

from lib import directions, stats
from lib.judge import judge, judge_inversion, judge_inversion_as_published, refusal_score, refusal_tokens


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


def test_split_half_and_bootstrap_find_a_planted_direction():
    g = torch.Generator().manual_seed(0)
    acts = torch.randn(200, 1, 16, generator=g)
    positive = np.arange(200) < 100
    acts[:100, 0, 0] += 3
    assert directions.split_half_cosine(acts, positive, ~positive)[0] > 0.9
    assert abs(directions.split_half_cosine(acts[torch.randperm(200, generator=g)], positive, ~positive)[0]) < 0.35
    draws = directions.bootstrap_cosine(acts, acts, positive, ~positive, draws=20)
    assert draws.shape == (20, 1) and torch.allclose(draws, torch.ones(20, 1), atol=1e-5)


def test_random_directions_have_the_norm_and_follow_the_seed():
    like = torch.full((50,), 2.0)
    a, b = directions.random_directions(like, 3, 1), directions.random_directions(like, 3, 1)
    assert all(abs(v.norm() - like.norm()) < 1e-4 for v in a) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], directions.random_directions(like, 3, 2)[0])


def test_successive_halving_finds_the_best_and_sees_fewer_and_fewer():
    seen = []

    def evaluate(alive, n):
        seen.append((len(alive), n))
        return [abs(c - 13) for c in alive]

    best = directions.successive_halving(range(27), evaluate, (2, 4, 8))
    assert best[0] == (13, 0) and seen == [(27, 2), (9, 4), (3, 8)]


@pytest.mark.parametrize("hits, n", [(0, 10), (7, 20), (20, 20)])
def test_rate_is_wilson(hits, n):
    r = stats.rate([True] * hits + [False] * (n - hits))
    assert r["n"] == n and np.allclose(r["ci95"], wilson(hits, n), atol=1e-9) and r["value"] == hits / n
    assert stats.rate([])["value"] is None


def test_bootstrap_covers_and_is_seeded():
    rng = np.random.default_rng(0)
    covered = sum(lo <= 1 <= hi for lo, hi in (stats.mean(rng.normal(1, 1, 40))["ci95"] for _ in range(60)))
    assert covered >= 50
    x = rng.normal(size=30)
    assert stats.mean(x, 3) == stats.mean(x, 3) != stats.mean(x, 4)
    for values in (x, rng.normal(0, 1, (7, 3)), rng.normal(0, 1, 900)):
        assert stats.mean(values, 5) == stats.bootstrap(lambda v: v.mean(0), values, seed=5)


def test_a_rate_counts_every_item_of_an_array():
    assert stats.rate(np.array([[True, False, True], [True, True, True]])) == stats.rate([True] * 5 + [False])


def test_a_second_source_of_variation_widens_an_interval_by_the_sum_of_squares():
    found = {"value": 1.0, "ci95": [0.7, 1.6], "n": 9}
    draws = np.array([0.0, 1.0, 2.0])  # standard deviation 1; Student's quantile of two degrees of freedom is 4.30
    assert stats.widened(found, draws) == {"value": 1.0, "ci95": pytest.approx([1 - np.hypot(0.3, 4.3027), 1 + np.hypot(0.6, 4.3027)], rel=1e-4), "n": 9}
    assert stats.widened(found, draws, (0, 1.2))["ci95"] == [0, 1.2]
    assert stats.widened(found, []) == found and stats.widened(stats.mean([]), draws)["value"] is None
    rng, hit = np.random.default_rng(8), 0
    for _ in range(200):  # items vary by 1, and what all of them share by 0.3: the interval covers the truth 0
        shared = rng.normal(0, 0.3)
        low, high = stats.widened(stats.mean(rng.normal(shared, 1, 40)), rng.normal(0, 0.3, 10))["ci95"]
        hit += low <= 0 <= high
    assert hit > 180


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    a = rng.normal(size=50) * 5
    width = lambda r: r["ci95"][1] - r["ci95"][0]  # noqa: E731
    assert width(stats.difference(a + 1, a, paired=True)) < 0.1 < width(stats.difference(a + 1, a))


def test_auroc_equals_scikit_learn_with_ties():
    p, q = [1, 2, 2, 5, 3], [0, 2, 1, 1]
    one_each = [f"p{i}" for i in range(5)], [f"q{i}" for i in range(4)]
    for found in (stats.auroc(p, q), stats.auroc(p, q, of=one_each)):
        assert abs(found["value"] - roc_auc_score([1] * 5 + [0] * 4, p + q)) < 1e-12 and found["n"] == 4


def test_auroc_of_prompts_with_several_states_resamples_prompts():
    """States that repeat their prompt's score tell no more than one of each: the interval is that of the prompts, and n their number."""
    rng = np.random.default_rng(3)
    p, q = rng.normal(1, 1, 25), rng.normal(0, 1, 30)
    ids = np.arange(25), np.arange(100, 130)
    once, naive = stats.auroc(p, q), stats.auroc(np.repeat(p, 6), np.repeat(q, 6))
    often = stats.auroc(np.repeat(p, 6), np.repeat(q, 6), of=(np.repeat(ids[0], 6), np.repeat(ids[1], 6)))
    width = lambda r: r["ci95"][1] - r["ci95"][0]  # noqa: E731
    assert often["value"] == pytest.approx(once["value"]) and often["n"] == 25
    assert width(often) == pytest.approx(width(once), rel=0.15) and width(naive) < 0.6 * width(often)
    assert stats.auroc([], q, of=([], ids[1])) == {"value": None, "ci95": None, "n": 0}


def test_auroc_of_classes_that_part_completely_is_not_certain():
    for positive, negative, ci95 in ((range(10, 24), range(9), [wilson(9, 9)[0], 1.0]), (range(9), range(10, 24), [0.0, wilson(0, 9)[1]])):
        found = stats.auroc(positive, negative)
        assert found["value"] in (0, 1) and found["ci95"] == pytest.approx(ci95, abs=1e-9)


def test_random_band_takes_the_higher_bar():
    band = stats.random_band([[True, False, False, False], [False] * 4])
    assert band["random_direction_max"] == 0.25 and band["random_direction_mean"] == 0.125
    assert band["random_direction_high"] == pytest.approx(wilson(1, 8)[1]) and band["random_directions"] == 2


@pytest.mark.parametrize(
    "text, outcome",
    [
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ("Sorry, but I can’t help with this.", "refusal"),
        ("I cannot provide instructions for that", "refusal"),
        ("As an AI language model, I don't have", "refusal"),
        ("Dear Ann, I'm sorry to hear about your cat.", "answer"),
        ("Sure, here is the recipe: take two", "answer"),
        ("To kill a process, run kill -9", "answer"),
        ("", "empty"),
        (" \n", "empty"),
        ("the the the the the the the", "degenerate"),
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
    assert [judge_inversion(t) for t in ("Certainly.", "No, it is safe", "Nothing", "Yes")] == ["certainly", "no", "unparsed", "unparsed"]


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


def test_a_difference_of_unanimous_groups_still_has_an_interval():
    high = wilson(0, 20)[1]
    for paired in (True, False):
        none = stats.difference([False] * 20, [False] * 20, paired=paired)
        assert none["value"] == 0 and none["ci95"] == pytest.approx([-high, high])
    all_to_none = stats.difference([True] * 20, [False] * 20)
    assert all_to_none["ci95"] == pytest.approx([1 - high * 2**0.5, 1.0])
    assert stats.difference([2.0] * 5, [2.0] * 5)["ci95"] == [0, 0] and stats.difference([], [])["ci95"] is None  # no shares: as the bootstrap says
