"""Intervals against published values and other libraries, and how often each covers the truth (see
``covers.py``).
"""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, t
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import covers
from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats

YES, NO = [True], [False]
width = lambda found: found.ci95[1] - found.ci95[0]


def hits(k, n):
    return YES * k + NO * (n - k)


@pytest.mark.parametrize(
    "cases",
    [
        *(pytest.param(family, id=family.__name__) for family in covers.EXACT),
        pytest.param(lambda: covers.means(800), id="means"),
        pytest.param(lambda: covers.differences(600), id="differences"),
        pytest.param(lambda: covers.generic_bootstrap(500), id="bootstrap"),
        pytest.param(lambda: covers.areas(2000), id="areas"),
        pytest.param(lambda: covers.area_differences(1000), id="area differences"),
        pytest.param(lambda: covers.areas_of_prompts(500, (0.9,), (0.8,)), id="areas of prompts"),
        pytest.param(lambda: covers.areas_within(800), id="areas within strata"),
        pytest.param(lambda: covers.kappas(600, (0.0, 0.8, 0.95), ((0.5, 0.5), (0.9, 0.1))), id="kappas"),
        pytest.param(lambda: covers.widened(1000), id="widened"),
        pytest.param(lambda: covers.ratios_of_rates(400), id="ratios of rates"),
        pytest.param(lambda: covers.fewer_hits(40, (3,), ((0.2, 0.05),)), id="fewer hits"),
        pytest.param(lambda: covers.peak_ratios(100, (0.3,), (1.0,), (2,), (16,)), id="peak ratios"),
        pytest.param(lambda: covers.cosines(20, ((0.5, 0.9),)), id="cosines"),
        pytest.param(lambda: covers.pairs_of_statements(120, (64,), (0.5,)), id="pairs of statements"),
        pytest.param(lambda: covers.pairs_of_statements(600, (16,), (0.9,)), id="few pairs"),
        pytest.param(lambda: covers.overlaps(10, (1024,), (0.0,)), id="overlaps"),
        pytest.param(lambda: covers.ngram_overlaps(60, (64,), (0.9,)), id="overlaps of n-grams"),
    ],
)
def test_an_interval_covers(cases):
    """Each way to an interval at 16, 32 and 64 items: rates from .02 to .5, areas from .5 to .95, scores that
    are skewed, bounded or long-tailed.
    """
    low = [(name, n, share) for name, n, share in cases() if not share >= 0.93]
    assert not low


@pytest.mark.parametrize("k, n", [(0, 10), (7, 20), (20, 20), (8, 16)])
def test_rate_is_wilson_with_students_quantile(k, n):
    found, level = stats.rate(hits(k, n)), 1 - 2 * covers.norm.sf(t.ppf(0.975, n - 1))
    ci = binomtest(k, n).proportion_ci(level, method="wilson")
    assert found.ci95 == pytest.approx([ci.low, ci.high], abs=1e-9) and found.value == k / n and found.n == n
    plain = binomtest(k, n).proportion_ci(method="wilson")
    assert stats.wilson(k, n) == pytest.approx([plain.low, plain.high], abs=1e-9)


def test_a_rate_counts_every_item_of_an_array():
    assert stats.rate(np.array([[True, False, True], [True, True, True]])) == stats.rate(hits(5, 6))
    assert stats.rate([]) == NOTHING and 0 <= stats.rate(YES).ci95[0] < 1 == stats.rate(YES).ci95[1]


def paired(both, only_a, only_b, neither):
    return YES * (both + only_a) + NO * (
        only_b + neither
    ), YES * both + NO * only_a + YES * only_b + NO * neither


@pytest.mark.parametrize(
    "table, ci95",
    [
        (
            (1, 1, 7, 12),
            (-0.517, -0.026),
            # airway hyper-responsiveness (Bentur et al., 2009), in Fagerland, Lydersen & Laake (2014), table
            # V
        ),
        ((0, 3, 0, 29), (-0.0235, 0.2422)),  # three discordant pairs of 32, all one way
    ],
)
def test_paired_shares_have_tangos_interval(table, ci95):
    a, b = paired(*table)
    found = stats.difference(a, b, paired=True)
    assert found == stats.paired_difference(a, b) and found.ci95 == pytest.approx(ci95, abs=6e-4)
    assert found.value == pytest.approx((table[1] - table[2]) / sum(table)) and found.n == sum(table)
    low, high = stats.paired_difference(b, a).ci95
    assert [-high, -low] == pytest.approx(found.ci95, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 20, 200])
def test_tangos_bounds_are_where_the_score_test_turns(n):
    """From the definition: the likelihood of the discordant pairs is maximised at each difference by brute
    force. Unanimous groups included.
    """
    rng = np.random.default_rng(n)
    tables = [(0, 0), (n, 0), (0, n)] + [tuple(rng.multinomial(n, [0.3, 0.1, 0.6])[:2]) for _ in range(3)]
    for b, c in tables:
        a_, b_ = paired(n - b - c, b, c, 0)
        low, high = stats.paired_difference(a_, b_).ci95
        assert -1 <= low < high <= 1
        for bound in (low, high):
            if abs(bound) == 1:
                continue
            only_b = np.linspace(max(0, -bound), (1 - bound) / 2, 200001)[1:-1]
            loglik = (
                b * np.log(only_b + bound) + c * np.log(only_b) + (n - b - c) * np.log1p(-2 * only_b - bound)
            )
            variance = 2 * only_b[loglik.argmax()] + bound - bound**2
            assert (b - c - n * bound) ** 2 / (n * variance) == pytest.approx(stats.Z**2, rel=0.01), (
                b,
                c,
                bound,
            )


@pytest.mark.parametrize(
    "k, m, l, n, ci95",
    # Newcombe (1998), "Interval estimation for the difference between independent proportions", table II,
    # method 10
    [
        (56, 70, 48, 80, (0.0524, 0.3339)),
        (9, 10, 3, 10, (0.1705, 0.8090)),
        (6, 7, 2, 7, (0.0582, 0.8062)),
        (5, 56, 0, 29, (-0.0381, 0.1926)),
        (0, 10, 0, 20, (-0.1611, 0.2775)),
        (0, 10, 0, 10, (-0.2775, 0.2775)),
        (10, 10, 0, 20, (0.6791, 1.0)),
        (10, 10, 0, 10, (0.6075, 1.0)),
    ],
)
def test_unpaired_shares_have_newcombes_interval(k, m, l, n, ci95):
    found = stats.difference(hits(k, m), hits(l, n))
    assert (
        found.ci95 == pytest.approx(ci95, abs=6e-5)
        and found.value == pytest.approx(k / m - l / n)
        and found.n == min(m, n)
    )


def test_means_and_their_differences():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(25, 3))
    for n in (40, 12, 3):  # of values that are evenly about their mean, Student's interval, within a tenth
        half = t.ppf(0.975, n - 1) * x[:n, 0].std(ddof=1) / n**0.5
        low, high = stats.mean(np.r_[x[:n, 0]]).ci95
        assert (
            low <= x[:n, 0].mean() - half + 1e-12
            and high >= x[:n, 0].mean() + half - 1e-12
            and (n < 30 or high - low < 2.2 * half)
        )
    assert stats.mean(x, 3) == stats.mean(x, 3) and stats.mean(rng.exponential(1, 16), 3) != stats.mean(
        rng.exponential(1, 16), 4
    )
    each = [stats.mean(x[:, k], 5) for k in range(3)]
    assert stats.mean(x, 5).value == pytest.approx([e.value for e in each])
    assert np.allclose(stats.mean(x, 5).ci95, [e.ci95 for e in each]) and np.shape(
        stats.mean(x[:, :, None], 5).ci95
    ) == (3, 1, 2)
    apart = stats.difference(x, y)
    assert np.allclose(apart.value, x.mean(0) - y.mean(0)) and apart.n == 25
    (a, b), (c, d) = stats.mean(x[:, 0]).ci95, stats.mean(y[:, 0]).ci95
    half = np.hypot(x[:, 0].mean() - a, d - y[:, 0].mean()), np.hypot(b - x[:, 0].mean(), y[:, 0].mean() - c)
    assert apart.ci95[0] == pytest.approx([apart.value[0] - half[0], apart.value[0] + half[1]])
    moved = x[:, 0] * 5 + 1
    assert (
        width(stats.difference(moved, x[:, 0] * 5, paired=True))
        < 0.1
        < width(stats.difference(moved, x[:, 0] * 5))
    )
    assert stats.difference(x[:, 0], x[:, 1], 2, paired=True) == stats.mean(x[:, 0] - x[:, 1], 2)


def test_bootstrap_t_is_that_of_scipy():
    """The studentised bootstrap written out draw by draw, on skewed values, whose interval is much longer
    above than below.
    """
    x, rng = np.random.default_rng(1).exponential(1, 30), np.random.default_rng(2)
    error = x.std(ddof=1) / 30**0.5
    picked = x[rng.integers(0, 30, (20000, 30))]
    low, high = np.percentile((picked.mean(1) - x.mean()) / (picked.std(1, ddof=1) / 30**0.5), [2.5, 97.5])
    student = t.ppf(0.975, 29)
    expected = x.mean() - max(high, student) * error, x.mean() - min(low, -student) * error
    assert stats.mean(x).ci95 == pytest.approx(expected, abs=0.06 * error * 4)
    normal = scipy_bootstrap((x,), np.mean, method="percentile", rng=3).confidence_interval
    assert stats.mean(x).ci95[1] > normal.high + 0.1 * error


def test_means_that_know_little():
    assert stats.mean([]) == stats.difference([], [1.5]) == stats.difference([], [], paired=True) == NOTHING
    assert stats.mean([2.5]) == Estimate(2.5, [2.5, 2.5], 1) and stats.mean([[1.0, 2.0]]).ci95 == [
        [1, 1],
        [2, 2],
    ]
    assert stats.mean([1, 0, 1]) == stats.rate([True, False, True])  # a mean of yes and no is a share
    low, high = stats.mean([0.0] * 15 + [0.3]).ci95  # most draws hold only zeros
    assert low < 0.3 / 16 < high < 0.3
    with pytest.raises(ValueError, match="2 and 3"):
        stats.difference([1.5, 2], [1.5, 2, 3], paired=True)
    with pytest.raises(ValueError, match="2 and 1"):
        stats.paired_difference([True, False], [True])


def test_bootstrap_follows_its_seed_and_takes_arrays():
    x = np.random.default_rng(4).normal(size=(20, 2))
    found = stats.bootstrap(lambda v: v.mean(0), x, seed=1)
    assert (
        found
        == stats.bootstrap(lambda v: v.mean(0), x, seed=1)
        != stats.bootstrap(lambda v: v.mean(0), x, seed=2)
    )
    assert np.shape(found.ci95) == (2, 2) and found.n == 20 and np.allclose(found.value, x.mean(0))
    assert np.allclose(np.diff(found.ci95)[:, 0], 2 * t.ppf(0.975, 19) * x.std(0, ddof=1) / 20**0.5, rtol=0.1)
    assert stats.bootstrap(np.mean, []) == stats.bootstrap(np.mean, [np.nan]) == NOTHING


def test_a_second_source_of_variation_widens_an_interval_by_the_sum_of_squares():
    found = Estimate(1.0, [0.7, 1.6], 9)
    # standard deviation 1; Student's quantile of two degrees of freedom is 4.30
    draws = np.array([0.0, 1.0, 2.0])
    assert stats.widened(found, draws) == Estimate(
        1.0, pytest.approx([1 - np.hypot(0.3, 4.3027), 1 + np.hypot(0.6, 4.3027)], rel=1e-4), 9
    )
    assert stats.widened(found, draws, (0, 1.2)).ci95 == [0, 1.2]
    assert stats.widened(found, []) == found and stats.widened(stats.mean([]), draws).value is None


def test_auroc_equals_scikit_learn_with_ties():
    p, q = [1, 2, 2, 5, 3], [0, 2, 1, 1]
    one_each = [f"p{i}" for i in range(5)], [f"q{i}" for i in range(4)]
    for found in (stats.auroc(p, q), stats.auroc(p, q, of=one_each)):
        assert found.value == pytest.approx(roc_auc_score([1] * 5 + [0] * 4, p + q)) and found.n == 4
    assert stats.auroc(p, q) == stats.auroc(p, q, of=one_each) and stats.area(
        np.array(p), np.array(q)
    ) == pytest.approx(stats.auroc(p, q).value)
    assert stats.auroc([], q) == stats.auroc(p, []) == stats.auroc_difference([], q, [], q) == NOTHING


def test_areas_have_the_intervals_that_the_simulation_looks_at():
    """`covers` computes many at a time, with DeLong's variance written by itself."""
    rng = np.random.default_rng(5)
    for size in ((9, 14), (20, 20), (3, 3), (1, 6)):
        p, q, r, s = (
            rng.normal(1, 1, (1, size[0])),
            rng.normal(0, 1, (1, size[1])),
            rng.normal(1, 1, (1, size[0])),
            rng.normal(0, 1, (1, size[1])),
        )
        if size[0] > 1:
            assert stats.auroc(p[0], q[0]).ci95 == pytest.approx(covers.area_ends(covers.delong(p, q))[0])
            both = stats.auroc_difference(p[0], q[0], r[0], s[0])
            assert both.ci95 == pytest.approx(
                covers.area_difference_ends(covers.delong(p, q), covers.delong(r, s))[0]
            )
            assert both.value == pytest.approx(
                stats.auroc(p[0], q[0]).value - stats.auroc(r[0], s[0]).value
            ) and both.n == min(size)
        assert 0 <= stats.auroc(p[0], q[0]).ci95[0] < stats.auroc(p[0], q[0]).ci95[1] <= 1


def test_readers_that_agree_are_told_apart_better():
    rng = np.random.default_rng(6)
    p, q = rng.normal(1, 1, 40), rng.normal(0, 1, 40)
    alike = stats.auroc_difference(p, q, p + rng.normal(0, 0.2, 40), q + rng.normal(0, 0.2, 40))
    apart = stats.auroc_difference(p, q, rng.normal(1, 1, 40), rng.normal(0, 1, 40))
    assert width(alike) < 0.6 * width(apart) and stats.auroc_difference(p, q, p, q).ci95 == pytest.approx(
        [0, 0], abs=0.05
    )
    parted = stats.auroc_difference(p + 9, q, p + 9, q - 1)
    assert parted.value == 0 and parted.ci95[0] < 0 < parted.ci95[1]
    with pytest.raises(ValueError, match="same items"):
        stats.auroc_difference(p, q, p[:5], q)


def test_auroc_of_prompts_with_several_states_counts_prompts():
    """States that repeat their prompt's score tell no more than one of each: the interval is that of the
    prompts, and n their number.
    """
    rng = np.random.default_rng(3)
    p, q = rng.normal(1, 1, 25), rng.normal(0, 1, 30)
    ids = np.arange(25), np.arange(100, 130)
    once, naive = stats.auroc(p, q), stats.auroc(np.repeat(p, 6), np.repeat(q, 6))
    often = stats.auroc(np.repeat(p, 6), np.repeat(q, 6), of=(np.repeat(ids[0], 6), np.repeat(ids[1], 6)))
    assert often.value == pytest.approx(once.value) and often.n == 25
    assert width(often) == pytest.approx(width(once), rel=0.02) and width(naive) < 0.6 * width(often)
    assert stats.auroc([], q, of=([], ids[1])) == NOTHING
    parted = stats.auroc(
        np.repeat(p + 9, 6), np.repeat(q, 6), of=(np.repeat(ids[0], 6), np.repeat(ids[1], 6))
    )
    assert parted.ci95 == pytest.approx(stats.auroc(p + 9, q).ci95)


def test_auroc_of_classes_that_part_completely_is_not_certain():
    for n in (1, 9, 40):
        up, down = stats.auroc(range(100, 100 + n), range(n)), stats.auroc(range(n), range(100, 100 + n))
        assert (
            up.value == 1 == up.ci95[1]
            and up.ci95[0] < 1
            and down.ci95 == pytest.approx([0, 1 - up.ci95[0]], abs=1e-9)
        )
    assert up.ci95[0] > 0.9


def test_kappa_equals_scikit_learn():
    rng = np.random.default_rng(7)
    a = rng.choice(["yes", "no", "unclear"], 60, p=[0.6, 0.3, 0.1])
    b = np.where(rng.random(60) < 0.7, a, rng.permutation(a))
    found = stats.kappa(a, b, 1)
    assert (
        found.value == pytest.approx(cohen_kappa_score(a, b))
        and found.ci95[0] < found.value < found.ci95[1] <= 1
        and found.n == 60
    )
    assert found == stats.kappa(a, b, 1)
    whole = stats.kappa(hits(9, 20), hits(9, 20))
    assert whole.value == 1 == whole.ci95[1] and whole.ci95[0] < 0.8  # all agree, and yet this is not certain
    assert stats.kappa(NO * 9, NO * 9) == Estimate(None, None, 9) and stats.kappa([], []).value is None
    with pytest.raises(ValueError, match="2 and 1"):
        stats.kappa(list("ab"), list("a"))


def test_the_bar_of_random_directions_is_a_rank_of_their_rates():
    """An effect that is one more random direction passes the bar in at most one case of 20; from 40
    directions on the largest is no longer the bar.
    """
    rng = np.random.default_rng(8)
    band = stats.random_band([hits(k, 4) for k in (1, 0, 2)], value=0.5)
    assert band == {
        "random_direction_mean": 0.25,
        "random_direction_max": 0.5,
        "random_direction_low": 0.0,
        "random_direction_high": 0.5,
        "random_directions": 3,
        "random_direction_n": 12,
        "random_direction_p": 0.5,
        "random_direction_p_below": 1.0,
    }
    assert stats.random_band([]) == {"random_direction_low": None, "random_direction_high": None}
    for k in (20, 39, 40, 100):
        drawn = rng.normal(size=(3000, k + 1))
        bands = [stats.score_band([[x] for x in one[:-1]], one[-1], "noise") for one in drawn[:1000]]
        high, low, p = (np.array([b[f"noise_{key}"] for b in bands]) for key in ("high", "low", "p"))
        beyond = np.mean(drawn[:1000, -1] > high), np.mean(drawn[:1000, -1] < low)
        assert np.mean(p <= 0.05) < 0.05 + 0.021 and max(beyond) < (1 / (k + 1) if k < 39 else 0.025) + 0.017
        assert (high == drawn[:1000, :-1].max(1)).all() == (k <= 40) and bands[0]["noises"] == bands[0][
            "noise_n"
        ] == k
        assert np.allclose(p, (1 + (drawn[:1000, :-1] >= drawn[:1000, -1:]).sum(1)) / (k + 1))


def test_more_random_directions_at_the_same_prompts_do_not_raise_the_bar():
    rng = np.random.default_rng(9)
    bar = lambda k: np.mean(
        [stats.random_band(rng.random((k, 16)) < 0.2)["random_direction_high"] for _ in range(60)]
    )
    few, many, more = bar(40), bar(400), bar(1600)
    assert abs(more - many) < 0.03 and more < few and abs(more - binom.ppf(0.975, 16, 0.2) / 16) < 0.04


def test_an_area_within_one_stratum_is_the_plain_one():
    rng = np.random.default_rng(0)
    a, b, yes = rng.normal(size=60), rng.normal(size=60), np.arange(60) % 3 == 0
    a = a + yes
    same = np.zeros(60)
    for mine, plain in (
        (stats.auroc_within(a, yes, same), stats.auroc(a[yes], a[~yes])),
        (
            stats.auroc_within_difference(a, b, yes, same),
            stats.auroc_difference(a[yes], a[~yes], b[yes], b[~yes]),
        ),
    ):
        assert mine.value == pytest.approx(plain.value) and mine.ci95 == pytest.approx(plain.ci95)
        assert mine.n == plain.n


def test_an_area_within_strata_counts_pairs_of_one_stratum():
    rng = np.random.default_rng(1)
    stratum, yes = (
        np.repeat(["a", "b", "c"], [30, 20, 10]),
        rng.random(60) < np.repeat([0.8, 0.2, 1.0], [30, 20, 10]),
    )
    scores = rng.normal(size=60) + 0.5 * yes + 10 * (stratum == "a")  # the stratum tells more than the class
    wins = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i in np.flatnonzero(yes)
        for j in np.flatnonzero(~yes)
        if stratum[i] == stratum[j]
    ]
    found = stats.auroc_within(scores, yes, stratum)
    assert found.value == pytest.approx(np.mean(wins))
    assert found.value < stats.auroc(scores[yes], scores[~yes]).value
    both = stratum != "c"  # there is but one class in it
    assert found.n == min((yes & both).sum(), (~yes & both).sum())
    assert stats.auroc_within(scores, yes, np.arange(60)) == NOTHING
    assert stats.auroc_within_difference(scores, scores, yes, stratum).value == 0


def test_differences_that_happen_to_be_yes_and_no_are_no_shares():
    """One item of many moves: a rate would be above 0 for sure, a difference is not; and either way alike."""
    before = np.full(64, 0.25)
    after = before + np.eye(64)[0]
    up, down = (stats.difference(a, b, paired=True) for a, b in ((after, before), (before, after)))
    assert up.ci95[0] < 0 < up.ci95[1]
    assert up.ci95 == pytest.approx([-x for x in down.ci95[::-1]])
    assert stats.mean(np.eye(64)[0]) == stats.rate(np.eye(64)[0])  # of shares it is one
