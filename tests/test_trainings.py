"""Means over trainings: how often the interval holds the truth, and what the ledger says would decide."""

import numpy as np
import pytest

from refusal.base.estimate import NOTHING, Estimate
from refusal.measure import stats
from refusal.measure.trainings import OverTrainings, mean_over, of_one, under
from refusal.report.rules import OF_TRAININGS, Above, Measured, decide, needed_n


@pytest.mark.parametrize("between, within", [(0.3, 1.0), (1.0, 0.3), (0.0, 1.0)])
@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(between, within, trainings):
    """Truth 0; items vary by one spread, trainings by another."""
    rng, held, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        each = rng.normal(0, within, (trainings, 48)) + rng.normal(0, between, (trainings, 1))
        mean = each.mean(0)
        half = 1.96 * mean.std(ddof=1) / 48**0.5
        found = mean_over(Estimate(mean.mean(), [mean.mean() - half, mean.mean() + half], 48), each.mean(1))
        held += found.ci95[0] <= 0 <= found.ci95[1]
    assert held / runs >= 0.92
    if between > within:  # and hardly oftener: as much as the deviations of one training would be too wide
        assert held / runs <= 0.985


def test_a_mean_over_trainings_by_hand():
    found = mean_over(Estimate(1.0, [0.8, 1.1], 40), [0.0, 1.0, 2.0])
    assert found.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    low, high = (np.hypot(x, found.half_width) for x in (0.2, 0.1))
    assert found.ci95 == pytest.approx([1 - low, 1 + high]) and (found.value, found.n) == (1.0, 40)
    assert mean_over(found, [0.0, 1.0, 2.0]).half_width == pytest.approx(2**0.5 * found.half_width)
    assert mean_over(Estimate(1.0, [0.8, 1.1], 40), [0.0, 1.0, 2.0], (0, 1.5)).ci95 == [0, 1.5]
    for few in ([], [1.0]):
        assert mean_over(found, few) is found
    assert mean_over(NOTHING, [1.0, 2.0]) == NOTHING
    same = stats.mean(np.arange(30) / 30, shares=False)
    assert mean_over(same, [0.5, 0.5]).ci95 == pytest.approx(same.ci95)


def test_one_training_among_others_is_as_wide_as_they_lie_apart():
    """And what they lie apart by is no matter of items."""
    one = Estimate(1.0, [0.8, 1.1], 40)
    found = of_one(one, [0.0, 1.0, 2.0])
    assert found.half_width == pytest.approx(4.302653, rel=1e-5)
    assert found.ci95 == pytest.approx(stats.widened(one, [0.0, 1.0, 2.0]).ci95)
    assert of_one(one, [1.0]) is one and of_one(NOTHING, [1.0, 2.0]) == NOTHING
    unclear = Measured(**vars(of_one(Estimate(0.3, [0.2, 0.4], 48), [0.1, 0.3, 0.5])), controls={})
    verdict, reason, n = decide(Above(above=0), unclear)
    assert (verdict, n) == ("underpowered", None) and "no number of items changes" in reason


def measured(value, half, ci95=(-0.5, 1.1)):
    return Measured(**vars(OverTrainings(value, ci95, 48, half)), controls={"base": 0.1})


def test_what_no_number_of_items_takes_away_is_said():
    rule = Above(above=0)
    assert measured(0.3, 0.0).controls == {"base": 0.1}
    assert measured(0.3, 0.4).controls == {"base": 0.1, OF_TRAININGS: 0.4}
    verdict, reason, n = decide(rule, measured(0.3, 0.4))
    assert (verdict, n) == ("underpowered", None) and "trainings, or settings, differ by more" in reason
    plain, some = needed_n(rule, measured(0.3, 0.0)), needed_n(rule, measured(0.3, 0.1))
    assert plain == int(np.ceil(48 * (0.8 / 0.3) ** 2))
    assert some == pytest.approx(48 * (0.8**2 - 0.1**2) / (0.3**2 - 0.1**2), abs=1) and some > plain
    assert "on its bar" in decide(rule, measured(0.0, 0.4))[1]


def test_what_trainings_hide_of_a_control_is_counted_for_it_alone():
    rule = Above(above=0, of="other")
    other = under(OverTrainings(0.1, [-0.1, 0.3], 48, 0.05), "other")
    found = Measured(value=0.9, ci95=(0.5, 1.1), n=48, controls={OF_TRAININGS: 0.4} | other)
    assert needed_n(rule, found) == int(np.ceil(48 * (0.2**2 - 0.05**2) / (0.1**2 - 0.05**2)))
    plain = {OF_TRAININGS: 0.4} | under(Estimate(0.1, [-0.1, 0.3], 48), "other")
    assert needed_n(rule, Measured(value=0.9, ci95=(0.5, 1.1), n=48, controls=plain)) == 48 * 4
    much = {"base": 1} | under(OverTrainings(0.1, [-0.1, 0.3], 48, 0.15), "other")
    verdict, reason, n = decide(rule, Measured(value=0.9, ci95=(0.5, 1.1), n=48, controls=much))
    assert (verdict, n) == ("underpowered", None) and "trainings, or settings, differ by more" in reason
