"""How many items decide a claim: the formulas against what can happen at that n, and every claim's plan."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binom, multinomial, t

from refusal.base.files import NOTEBOOKS, ROOT
from refusal.measure import stats
from refusal.report import power
from refusal.report.rules import MIN_N, Claim, Measured, Plan, decide, read_claims, record
from refusal.run import cli, params

BOOKS = params.notebooks()
CLAIMS = {
    c.id: (c, path) for path in BOOKS.values() for c in read_claims(path.with_suffix(".claims.toml")).values()
}


def test_students_quantile_needs_no_scipy():
    for df in (MIN_N - 1, 31, 200):
        assert power.student(df) == pytest.approx(t.ppf(0.975, df), abs=0.001)


@pytest.mark.parametrize(
    "value, bar, about", [(0.9, 0.8, 108), (0.3, 0.2, 137), (0.95, 0.9, 239), (0.69, 0.35, 16)]
)
def test_a_rates_n_decides_in_four_of_five_runs(value, bar, about):
    """Exact: all counts that can be seen, with their probabilities; of few items it goes in steps. `about` is
    what the normal quantile gives.
    """
    n = power.rate(value, bar)
    assert about <= n <= about + 3 and power.rate(1 - value, 1 - bar) == n
    intervals = [stats.rate(np.arange(n) < k).ci95 for k in range(n + 1)]
    decided = [low > bar for low, _ in intervals]
    assert 0.74 <= binom.pmf(np.arange(n + 1), n, value)[decided].sum() <= 0.86


def test_a_paired_differences_n_decides_in_four_of_five_runs():
    only_a, only_b = 0.25, 0.05
    n = power.mean(math.sqrt(only_a + only_b - (only_a - only_b) ** 2), only_a - only_b)
    assert 52 <= n <= 54
    b, c = (x.ravel() for x in np.mgrid[: n + 1, : n + 1])
    b, c = b[b + c <= n], c[b + c <= n]
    chance = multinomial.pmf(np.stack([b, c, n - b - c], 1), n, [only_a, only_b, 1 - only_a - only_b])
    low, _ = stats.tango(b, c, n)
    assert 0.77 <= chance[low > 0].sum() <= 0.85


def test_an_unpaired_differences_n_decides_in_four_of_five_runs():
    n = power.unpaired(math.sqrt(0.24), 0.2)
    assert 95 <= n <= 97
    chance = np.outer(binom.pmf(np.arange(n + 1), n, 0.6), binom.pmf(np.arange(n + 1), n, 0.4))
    likely = np.argwhere(chance > 1e-6)
    decided = [stats.difference(np.arange(n) < a, np.arange(n) < b).ci95[0] > 0 for a, b in likely]
    assert 0.77 <= chance[tuple(likely.T)][decided].sum() <= 0.85


def test_a_means_n_decides_in_four_of_five_runs():
    n, rng = power.mean(1.0, 0.5), np.random.default_rng(0)
    x = rng.normal(0.5, 1, (20000, n))
    low = x.mean(1) - t.ppf(0.975, n - 1) * x.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.02)


def test_an_areas_n_decides_in_four_of_five_runs():
    n, rng = power.auroc(0.7), np.random.default_rng(1)
    assert 27 <= n <= 29
    apart = math.sqrt(2) * 0.5244  # the area of two normal classes is Φ(their distance / √2) = .7
    runs = [stats.auroc(rng.normal(apart, 1, n), rng.normal(0, 1, n)).ci95[0] > 0.5 for _ in range(400)]
    assert np.mean(runs) == pytest.approx(0.8, abs=0.06)


def test_what_is_no_share_is_an_error():
    for wrong in (lambda: power.rate(1.1, 0.9), lambda: power.rate(0.5, -0.1), lambda: power.auroc(1.2, 0.9)):
        with pytest.raises(ValueError, match="is no share"):
            wrong()
    with pytest.raises(ValueError, match="no standard error"):
        power.auroc(1.0)


def claim(rule, **plan):
    return Claim(
        id="99.x",
        paper="arXiv:2507.11878",
        source="s",
        statement="s",
        metric="m",
        precondition="p",
        rule=rule,
        plan={"smallest": 0.2, "n": 50, "kind": "rate"} | plan,
    )


def test_needed_looks_at_the_hardest_bar():
    assert power.needed(claim({"above": 0.4})) == power.rate(0.6, 0.4)
    assert power.needed(claim({"below": 0.6})) == power.rate(0.4, 0.6)
    both = {"all": [{"above": 0.1}, {"above": "high", "margin": 0.1}, {"below": 0.5, "of": "broken"}]}
    assert power.needed(claim(both, bar=0.3)) == power.rate(0.6, 0.4)
    assert power.needed(claim({"above": "high", "times": 2.0}, bar=0.2)) == power.rate(0.6, 0.4)
    within = claim({"all": [{"below": 0.25}, {"above": -0.25}]}, kind="mean", spread=0.5, smallest=0.15)
    assert power.needed(within) == power.mean(0.5, 0.15)
    assert power.needed(claim(both, kind="mean", spread=1.0, of="broken")) == power.mean(1.0, 0.2)
    assert power.needed(claim({"above": 0.0}, kind="mean", spread=0.01)) == MIN_N
    assert power.needed(claim({"above": 0.0}, kind="unpaired", spread=1.0)) == power.unpaired(1.0, 0.2)
    assert power.needed(claim({"above": 0.5}, kind="auroc")) == power.auroc(0.7)


@pytest.mark.parametrize(
    "rule, plan, message",
    [
        ({"above": "high"}, {}, "what high may be is not assumed"),
        ({"above": 0.5, "of": "other"}, {}, "asks nothing of the value"),
        ({"above": 0.5}, {"of": "other"}, "asks nothing of other"),
        ({"above": 0.5}, {"kind": "mean"}, "the spread of one item is not assumed"),
        ({"above": 0.9}, {}, "is no share"),
    ],
)
def test_a_plan_that_lacks_something_is_an_error(rule, plan, message):
    with pytest.raises(ValueError, match=message):
        power.needed(claim(rule, **plan))
    with pytest.raises(ValueError, match="has no plan"):
        power.needed(claim(rule).model_copy(update={"plan": None}))


@pytest.mark.parametrize(
    "wrong", [{"smallest": 0}, {"kind": "median"}, {"spread": -1}, {"undecided": ""}, {"m": 1}]
)
def test_a_plan_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError):
        Plan(**({"smallest": 0.1, "n": 3, "kind": "rate"} | wrong))


def test_the_planned_n_is_a_number_or_a_product_of_parameters():
    given = {"N": 32, "n_arm": 8, "name": "x"}
    for text, n in ((7, 7), ("N", 32), ("2 * n_arm", 16), ("N // 2", 16), ("3 * n_arm // 2", 12)):
        assert power.planned(text, given) == n
    for text in ("M", "name", "N + 1", "1.5", "print(1)"):
        with pytest.raises(ValueError, match="neither a number nor a parameter"):
            power.planned(text, given)


@pytest.mark.parametrize("id", CLAIMS)
def test_a_default_decides_its_claim_or_says_why_not(id):
    """At the smallest effect worth seeing. A reason that no longer holds fails as well."""
    claim, path = CLAIMS[id]
    assert claim.plan, "a claim needs the smallest effect worth seeing"
    n = power.planned(claim.plan.n, {name: p.default for name, p in params.parameters_of(path).items()})
    enough = power.needed(claim)
    assert (n >= enough) == (claim.plan.undecided is None), f"{n} items by default, {enough} decide"


def test_no_verdict_depends_on_a_plan():
    found = Measured(value=0.5, ci95=(0.35, 0.65), n=50, controls={"high": 0.4})
    plain = claim({"above": "high"})
    plans = [None, Plan(smallest=0.01, n=1, kind="mean"), plain.plan]
    made = [record(plain.model_copy(update={"plan": plan}), found, "released") for plan in plans]
    assert len({(r.verdict, r.reason, r.needed_n) for r in made}) == 1
    assert made[0].verdict == decide(plain.rule, found)[0] and made[2].plan == plain.plan


def test_the_plan_is_printed_without_running_anything(monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_GIVEN", "PLAN")
    monkeypatch.setenv("COMPANION_PARAM_PLAN", "1")
    assert cli.main(["claims"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for claim, _ in CLAIMS.values():
        assert f"{claim.id}: {' '.join(claim.statement.split())} rule: {claim.rule.words()}" in text
    assert "paper: Llama3-8B 0.94; Llama2-7B 0.58; Qwen2-7B 0.37 n: 32 by default (n_arm), 38 needed" in text
    decided = sum(c.plan.undecided is None for c, _ in CLAIMS.values())
    assert f"{len(CLAIMS)} claims; the defaults decide {decided}" in text


def test_the_plan_needs_neither_torch_nor_the_runner():
    code = (
        "import sys; from refusal.run import cli; assert cli.main(['claims']) == 0; "
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'IPython'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(NOTEBOOKS.parent / "lib"),
            "COMPANION_PARAM_PLAN": "1",
            "PYTHONIOENCODING": "utf-8",
        },
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ claims; the defaults decide \d+", done.stdout)
