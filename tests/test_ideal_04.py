"""Each claim of notebook 04 can be met and can fail: readings, pushes and curves of an ideal result and of
ideal counter-results, in the notebook's default sizes; and its arithmetic against plain loops.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f04 import arms, controller, inputs, measured, released, words
from refusal.findings.f04.push import Push
from refusal.measure import tradeoff
from refusal.measure.tradeoff import Curve
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run.params import parameters_of, resolve
from refusal.trace import reads
from refusal.trace.edits import Row, rows_of
from refusal.trace.prompts import chat

BOOK = NOTEBOOKS / "04_steering_controllers.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
DEFAULTS = {name: p.default for name, p in parameters_of(BOOK).items()}
N, ALPHAS = DEFAULTS["n_test"], DEFAULTS["alphas"]
SPARED = N + 2 * N // 3
DECIDED: dict[str, set] = {}


def verdict(id: str, found: Estimate, controls: dict, why: str | None = None) -> str:
    got = decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls), why)[0]
    DECIDED.setdefault(id, set()).add(got)
    return got


def scores(apart: float, seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(apart, 1, n), rng.normal(0, 1, n)


def some(share: float, n: int = N) -> np.ndarray:
    """The first prompts of `n`."""
    return np.arange(n) < round(share * n)


def said(share: float, n: int = N, otherwise: str = "answer") -> list[str]:
    return ["refusal" if hit else otherwise for hit in some(share, n)]


def test_reads_matched():
    ask = lambda *given: verdict("04.reads.matched", *measured.matched(*given))
    chance = [scores(0, k) for k in range(5)]
    assert ask(scores(3), chance, {}) == "replicated"
    assert ask(scores(0.2), chance, {}) == "not replicated"
    assert ask(scores(1), [scores(4, k) for k in range(5)], {}) == "not replicated"  # labels don't matter
    assert ask(scores(3, n=10), [scores(0, k, 10) for k in range(5)], {}) == "underpowered"


def test_reads_out_of_format():
    ask = lambda apart, n=N: verdict(
        "04.reads.out-of-format",
        *measured.out_of_format(scores(apart, n=n), scores(5, n=n), scores(5, n=n), some(1.0)),
    )
    assert ask(3) == "replicated"
    assert ask(0.4) == "not replicated"  # it read the form
    assert ask(3, 10) == "underpowered"


def test_reads_beats_text():
    ask = lambda a, b: verdict(
        "04.reads.beats-text", *measured.over_text(scores(a, 1), scores(b, 2), "TF-IDF")
    )
    assert ask(4, 0.5) == "replicated"
    assert ask(0.5, 4) == "not replicated"
    assert ask(1.5, 1.5) == "underpowered"


def raised(to: float, chance: float, broken: str = "answer", n_random: int = 20, base: float = 0.4):
    plain = some(base)
    by_chance = [some(chance)] * n_random
    return measured.raises(said(base), said(to, otherwise=broken), by_chance, plain)


def test_steer_raises():
    ask = lambda *given, **how: verdict("04.steer.raises", *raised(*given, **how))
    assert ask(0.9, 0.45) == "replicated"
    assert ask(0.42, 0.45) == "not replicated"
    assert ask(0.7, 0.95) == "not replicated"  # random directions do as much
    assert ask(0.7, 0.45, "degenerate") == "not replicated"  # broken answers besides
    assert ask(0.9, 0.45, n_random=5) == "underpowered"
    judged = measured.raises(said(0.4), said(0.7), [some(0.45)] * 20, some(0.4), {3: said(0.9)})[1]
    assert judged["random_direction_high"] == pytest.approx(
        0.5, abs=0.01
    )  # judged answers count where they say more


def test_steer_spares():
    group = lambda a, b: {"harmless": said(a, N), "pseudo-harmful": said(b, 2 * N // 3)}
    ask = lambda a, b: verdict("04.steer.spares", *measured.spares(group(0.1, 0.4), group(a, b)))
    assert ask(0.1, 0.4) == "replicated"
    assert ask(0.5, 0.9) == "not replicated"
    assert ask(0.13, 0.44) == "underpowered"


def push_arm(harmful: float, spared: float, ready: float = 0.0) -> Curve:
    """An arm that comes to refuse these shares; from `ready` of the way on it refuses all harmful ones it
    will.
    """
    steps = np.linspace(0, 1, len(ALPHAS))
    rows = lambda base, top, at, n: np.stack([some(base + (top - base) * at(t), n) for t in steps])
    return Curve(
        rows(0.4, harmful, lambda t: min(1.0, t / max(1e-9, 1 - ready)), N),
        rows(0.2, spared, lambda t: t, SPARED),
    )


PLAIN = Curve(some(0.4)[None], some(0.2, SPARED)[None])


@pytest.mark.parametrize(
    ("id", "other"), [("fixed", "fixed push"), ("threshold", "cosine gate"), ("text", "a gate")]
)
def test_gain(id, other):
    good, bad = push_arm(0.95, 0.22), push_arm(0.95, 0.9)
    ask = lambda one, two: verdict(
        f"04.gain.{id}",
        *measured.gain(
            {"fixed push": bad, "oracle": good, "controller": one, other: two}, "controller", other, PLAIN, 0
        ),
    )
    assert ask(good, bad) == "replicated"
    assert ask(bad, good) == "not replicated"
    assert ask(good, good) == "underpowered"  # two arms that never differ are not known to be equal


def test_controllers_that_differ_by_their_seed_widen_what_is_gained():
    arms_ = {
        "controller": push_arm(0.95, 0.22),
        "fixed push": push_arm(0.95, 0.9),
        "oracle": push_arm(1, 0.2),
    }
    one, controls = measured.gain(arms_, "controller", "fixed push", PLAIN, 0)
    several, more = measured.gain(
        arms_, "controller", "fixed push", PLAIN, 0, [push_arm(0.5, 0.3), push_arm(0.7, 0.5)]
    )
    assert more["lowest_controller"] < several.value < one.value and several.ci95[0] < one.ci95[0] - 0.1
    apart_ = [
        measured.gain(arms_, "controller", "fixed push", PLAIN, 0, [push_arm(x, 0.3)] * 2)[0]
        for x in (0.9, 0.5)
    ]
    assert np.ptp(apart_[0].ci95) < np.ptp(apart_[1].ci95)
    assert controls["controllers"] == 1 and more["controllers"] == 3
    assert more["lowest_controller"] < more["highest_controller"] == pytest.approx(one.value)
    alike = measured.raises(said(0.4), said(0.9), [some(0.4)] * 20, some(0.4), draws=[0.5, 0.5, 0.5])[0]
    apart = measured.raises(said(0.4), said(0.9), [some(0.4)] * 20, some(0.4), draws=[0.5, 0.1, 0.9])[0]
    assert alike.ci95[0] > 0.3 > apart.ci95[0]


def test_weights_help():
    ask = lambda a, b: verdict("04.weights.help", *measured.weights_gain(some(a), some(b), some(0.4)))
    assert ask(0.9, 0.5) == "replicated"
    assert ask(0.5, 0.9) == "not replicated"
    assert ask(0.58, 0.5) == "underpowered"


def patterns(shared: float, seed: int, n: int = DEFAULTS["n_seeds"], layers: int = 15) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=layers)
    return [0.5 + 0.05 * (shared * common + rng.normal(size=layers)) for _ in range(n)]


def test_weights_learned():
    ask = lambda a, b: verdict("04.weights.learned", *measured.weights_learned(a, b))
    assert ask(patterns(4, 0), patterns(0, 1)) == "replicated"
    assert ask(patterns(0, 0), patterns(0, 1)) == "not replicated"
    assert ask(patterns(4, 0), patterns(9, 1)) == "not replicated"  # untrained ones agree as well
    assert ask(patterns(1.2, 4), patterns(0, 1)) == "underpowered"
    assert measured.weights_learned(patterns(4, 0, 2), patterns(0, 1, 2))[0].value is None


def test_released_acts():
    ask = lambda to, chance=0.42, n=20: verdict(
        "04.released.acts", *measured.acts(some(0.4), some(to), [some(chance)] * n)
    )
    assert ask(0.9) == "replicated"
    assert ask(0.41) == "not replicated"
    assert ask(0.7, 0.95) == "not replicated"
    assert ask(0.9, n=3) == "underpowered"


def test_capability():
    rng = np.random.default_rng(0)
    plain = rng.normal(3, 0.3, 32)
    ask = lambda more, spread=0.01: verdict(
        "04.capability", *measured.capability(plain, plain + rng.normal(more, spread, 32), plain + 1)
    )
    assert ask(0.01) == "replicated"
    assert ask(0.4) == "not replicated"
    assert ask(-0.4) == "not replicated"  # text that became easier is another text
    assert ask(0.05, 0.2) == "underpowered"


def test_every_claim_was_met_and_failed():
    assert set(DECIDED) == set(CLAIMS)
    for id, verdicts in DECIDED.items():
        assert {"replicated", "not replicated"} <= verdicts, id


def test_when_a_model_can_inform():
    assert "5 %" in (measured.cannot_steer(some(0.01)) or "").replace("5%", "5 %")
    assert measured.cannot_steer(some(0.99))
    assert "only 10" in (measured.cannot_steer(np.arange(20) < 10) or "")
    assert measured.cannot_steer(some(0.5)) is None
    assert measured.cannot_push(some(0.9), [some(0.3)] * 20) is None
    assert "does not make this model refuse" in (measured.cannot_push(some(0.3), [some(0.3)] * 20) or "")


# the arithmetic


def test_a_gate_composed_is_the_gate_prompt_by_prompt():
    rng = np.random.default_rng(0)
    plain = Curve(rng.random((1, 30)) < 0.4, rng.random((1, 40)) < 0.2)
    pushed = Curve(rng.random((1, 30)) < 0.9, rng.random((1, 40)) < 0.7)
    by = (rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 40).round(1))
    found = tradeoff.gate(by, plain, pushed)
    cuts = [np.inf, *sorted({*by[0], *by[1]}, reverse=True)]
    assert len(found.harmful) == len(cuts)
    for k, cut in enumerate(cuts):
        for side, s in zip(("harmful", "spared"), by, strict=True):
            for i, x in enumerate(s):
                source = pushed if x >= cut else plain
                assert getattr(found, side)[k, i] == getattr(source, side)[0, i]
    assert (found.harmful[0] == plain.harmful[0]).all() and (found.spared[-1] == pushed.spared[0]).all()


def test_refusals_at_equal_cost_against_numpy():
    spared, harmful = np.array([0.1, 0.2, 0.4, 0.6]), np.array([0.3, 0.5, 0.8, 0.9])
    for limit in (0.15, 0.3, 0.59):
        assert tradeoff.at_cost(harmful, spared, limit) == pytest.approx(np.interp(limit, spared, harmful))
    assert tradeoff.at_cost(harmful, spared, 1.0) == 0.9  # never that dear: its best
    assert np.isnan(tradeoff.at_cost(harmful, spared, 0.05))
    back = tradeoff.at_cost(np.array([0.3, 0.9, 0.4]), np.array([0.1, 0.3, 0.1]), 0.2)
    assert back == pytest.approx(0.65)  # on the way back as well
    arm = push_arm(0.95, 0.9)
    line = tradeoff.most(arm, np.linspace(0.1, 1, 30))
    assert np.isnan(line[0]) and (np.diff(line[5:]) >= 0).all() and line[-1] == arm.rates[0].max()
    assert tradeoff.at_limit(arm, 0.25).mean() == pytest.approx(tradeoff.at_cost(*arm.rates, 0.25))


def test_share_of_oracle():
    assert tradeoff.share_of_oracle(0.5, 0.5, 0.9) == 0
    assert tradeoff.share_of_oracle(0.9, 0.5, 0.9) == 1
    assert tradeoff.share_of_oracle(0.5, 0.5, 0.5) is None


def test_strengths_are_chosen_within_the_cost():
    a, h, s = [1, 2, 3, 4], np.array([0.5, 0.8, 0.81, 0.95]), np.array([0.2, 0.22, 0.24, 0.5])
    assert tradeoff.chosen(a, h, s, 0.2) == 2  # the third is no better worth, the fourth costs too much
    assert tradeoff.chosen(a, h, s, 0.0) == 1
    assert tradeoff.strongest(a, h) == 4


def test_the_gain_has_a_width_and_covers():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(120):
        same = rng.random((3, 48)) < np.array([[0.3], [0.6], [0.8]])
        one = Curve(same, rng.random((3, 64)) < np.array([[0.1], [0.14], [0.4]]))
        two = Curve(
            rng.random((3, 48)) < np.array([[0.3], [0.6], [0.8]]),
            rng.random((3, 64)) < np.array([[0.1], [0.14], [0.4]]),
        )
        found = tradeoff.gain(one, two, Curve(same[:1], one.spared[:1]), seed=1)
        assert found.ci95[0] < found.ci95[1]
        hits += found.ci95[0] <= 0 <= found.ci95[1]
    assert hits / 120 > 0.9  # the two arms have the same distribution


# controllers


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    x = torch.randn(120, 7, 24)
    y = np.arange(120) % 2 == 0
    x[y, 3:, :4] += 3  # nothing below layer 3
    return x, y


def test_a_controller_reads_what_is_planted_and_nothing_else(states):
    x, y = states
    far = controller.fit(x, y, [4, 5], 6)
    near = controller.fit(x, y, [1, 2], 6)
    other = torch.randn(80, 7, 24)
    other[:40, 3:, :4] += 3
    s, w = controller.strengths(far, other)
    assert measured.area((s[:40], s[40:])).value > 0.99
    assert 0.2 < measured.area(tuple(np.split(controller.strengths(near, other)[0], 2))).value < 0.8
    shuffled = controller.fit(x, np.random.default_rng(0).permutation(y), [4, 5], 6)
    assert measured.area(tuple(np.split(controller.strengths(shuffled, other)[0], 2))).value < 0.9
    assert w.shape == (80, 6) and ((w > 0) & (w < 1)).all()
    again = controller.strengths(controller.fit(x, y, [4, 5], 6), other)
    assert (again[0] == s).all() and (again[1] == w).all()


def test_no_gradient_reaches_the_weights_of_the_paper(states):
    x, y = states
    beginning, after = (controller.fit(x, y, [4], 6, loss, seed=3) for loss in ("untrained", "published"))
    a, b = (dict(c.network.named_parameters())["2.weight"] for c in (beginning, after))
    decay = (1 - controller.RATE * 0.01) ** (4 * 30)  # AdamW's own
    assert torch.allclose(b[1:], a[1:] * decay, rtol=1e-4) and not torch.allclose(
        b[0], a[0] * decay, rtol=1e-2
    )
    pulled = controller.fit(x, y, [4], 6, "released", seed=3)
    assert (
        np.abs(controller.strengths(pulled, x)[1] - 0.5).mean()
        < np.abs(controller.strengths(beginning, x)[1] - 0.5).mean()
    )


def test_the_losses_by_hand(states):
    out, y = torch.tensor([[2.0, 0.0, 1.0], [-1.0, 3.0, 0.0]]), torch.tensor([1.0, 0.0])
    assert controller.LOSSES["published"].of(out, y).item() == pytest.approx(((2 - 1) ** 2 + 1) / 2 / 2)
    w = 1 / (1 + np.exp(-out[:, 1:].numpy()))
    by_hand = np.mean([np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1))]) + ((w - 0.5) ** 2).mean()
    assert controller.LOSSES["released"].of(out, y).item() == pytest.approx(by_hand, rel=1e-5)
    y = torch.tensor([1.0, 0.0] * 10)
    order = list(controller.LOSSES["released"].batches(y, np.random.default_rng(0)))
    assert len(order) == 10 * 4 and [y[b].mean().item() for b in order[:4]] == [1, 1, 0, 0]
    seen = np.concatenate(list(controller.LOSSES["published"].batches(y, np.random.default_rng(0))))
    assert (np.bincount(seen) == 4).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: controller.fit(x, y, [4], 3, "hinge"),
        lambda x, y: controller.fit(x, y, [9], 3),
        lambda x, y: controller.fit(x, np.arange(120) < 10, [4], 3),
        lambda x, y: controller.reads_of(6, [5]),
        lambda x, y: controller.reads_of(6, [0]),
        lambda x, y: Push(torch.ones(2, 4), (3, 4), reads=(3,)),
        lambda x, y: Push(torch.ones(1, 4), (3, 4)),
        lambda x, y: Push(torch.ones(2, 4), (3, 4), alpha=0.0),
        lambda x, y: inputs.check({"alphas": [1.0, 0.5], "read": []}),
        lambda x, y: inputs.check({"alphas": [0.0, 0.5], "read": []}),
        lambda x, y: inputs.check({"alphas": [0.5], "read": []}),
        lambda x, y: inputs.check({"alphas": [0.5, 1], "read": ["four"]}),
    ],
)
def test_bad_input(states, wrong):
    with pytest.raises(ParameterError):
        wrong(*states)


def test_a_wrong_list_ends_before_anything_runs():
    for given in ({"alphas": "[1.0, 0.5]"}, {"alphas": "[0, 1]"}, {"read": "['four']"}, {"read": "[0]"}):
        with pytest.raises(ParameterError):
            resolve(BOOK, given)
    assert resolve(BOOK, {"alphas": "[0.5, 1]", "read": "[4, 5]"})["read"] == [4, 5]


def test_layers_by_default():
    assert controller.reads_of(24) == [5, 6, 7, 8] and controller.reads_of(28, [3, 2]) == [2, 3]
    assert controller.reads_of(6) == [1, 2]


def test_a_push_by_hand():
    v = torch.eye(3, 5)
    push = Push(v, (2, 3, 4), alpha=1.5)
    edits = push.edits(0.8, [0.2, 0.5, 0.9])
    assert [e.layer for e in edits] == [2, 3, 4] and {e.span for e in edits} == {"last"}
    for e, w, row in zip(edits, (0.2, 0.5, 0.9), v, strict=True):
        assert e.coefficient == pytest.approx(1.5 * 0.8 * w * 2 / 3) and torch.equal(e.vector, row)
    assert push.edits(0.0) == ()
    total = sum(e.coefficient * e.vector for e in push.at(1.0).edits(1.0))
    assert torch.allclose(total, v.mean(0))  # at alpha 1 the mean of the vectors


def test_a_push_in_one_pass_is_that_of_two(planted):
    """`Steer` reads what the controller reads, and pushes as strongly as it says."""
    prompts = chat(planted, data.prompts("test", label="harmful", n=6, tier="smoke"))
    states = reads.collect(planted, prompts, at=["t_post"])["resid"][:, :, 0]
    layers = tuple(range(5, planted.n_layers))
    G = torch.Generator().manual_seed(3)
    push = Push(torch.randn(len(layers), planted.d_model, generator=G), layers, alpha=2.0, reads=(3, 4))
    taught = controller.fit(
        torch.randn(40, planted.n_layers + 1, planted.d_model, generator=G),
        np.repeat([True, False], 20),
        (3, 4),
        len(layers),
    )
    two = push.rows(prompts, *controller.strengths(taught, states))
    one = [Row(p, (push.steer(taught),)) for p in prompts]
    at_first = [reads.score_rows(planted, rows, lambda x: x) for rows in (one, two)]
    torch.testing.assert_close(*at_first, rtol=1e-4, atol=1e-4)
    assert (at_first[0] - reads.score_rows(planted, rows_of(prompts), lambda x: x)).abs().max() > 0.01


# the released code


def test_blocks_that_the_released_code_changes():
    assert released.inputs(24) == [21, 22, 23, 24]
    assert released.blocks_changed(released.inputs(24), 24) == 1  # the last block's output alone
    assert released.blocks_changed([1, 2, 3, 4], 24) == 21  # layers 0 to 3: blocks from 3 on


def test_where_training_reads_under_a_template_of_ones_own(planted):
    """Which has no generation prompt to leave out."""
    model = dataclasses.replace(planted, template="User : {x} .")
    prompts = chat(model, ["paint the table", "fold the letter now"])
    assert released.trained_at(model, prompts) == [[p.t_post] for p in prompts]


def test_rows_at_padding_by_hand():
    assert released.rows_at_padding([3, 5, 5, 2, 7], batch=4) == pytest.approx(2 / 5)
    assert released.rows_at_padding([4, 4, 4, 4], batch=2) == 0


def test_keywords():
    assert released.by_keywords("Unfortunately, the train was late.") and not released.by_keywords(
        "Sure, here it is."
    )
    assert released.by_keywords("I can’t do that")


def test_correlation_of_a_flat_pattern_is_not_known():
    assert np.isnan(released.correlation(np.ones(4), np.arange(4)))
    assert released.correlation(np.arange(4.0), 2 * np.arange(4.0)) == pytest.approx(1)


def test_frames_hold_the_request_and_tell_no_refusal():
    texts = arms.framed_texts(["water the roses"] * 12)
    assert len(set(texts)) == 12 and all("water the roses" in t for t in texts)
    assert not any(released.by_keywords(t) for t in texts)


# words


def records(sign: float, why: str | None = None) -> dict:
    """Every record of the notebook, of values of one sign."""
    area = 0.9 if sign > 0 else 0.55
    good, bad = (push_arm(0.95, 0.22), push_arm(0.95, 0.9))[:: int(sign)]
    by = {
        "controller": good,
        "fixed push": bad,
        "cosine gate": bad,
        "TF-IDF gate": bad,
        "oracle": push_arm(1, 0.2),
    }
    others = {"logistic": scores(1), "form": scores(0), "TF-IDF": scores(1)}
    given = {
        "reads.matched": measured.matched(scores(4 * area), [scores(0, k) for k in range(5)], others),
        "reads.out-of-format": measured.out_of_format(scores(3 * area), scores(5), scores(5), some(1.0)),
        "reads.beats-text": measured.over_text(scores(1 + sign), scores(1), "TF-IDF"),
        "steer.raises": raised(0.4 + 0.3 * sign, 0.42),
        "steer.spares": measured.spares(
            {"harmless": said(0.3), "pseudo-harmful": said(0.4)},
            {"harmless": said(0.3 + 0.2 * sign), "pseudo-harmful": said(0.4)},
        ),
        "gain.fixed": measured.gain(by, "controller", "fixed push", PLAIN, 0),
        "gain.threshold": measured.gain(by, "controller", "cosine gate", PLAIN, 0),
        "gain.text": measured.gain(by, "controller", "TF-IDF gate", PLAIN, 0),
        "weights.help": measured.weights_gain(some(0.5 + 0.2 * sign), some(0.5), some(0.4)),
        "weights.learned": measured.weights_learned(patterns(2 + sign, 0), patterns(0, 1)),
        "released.acts": measured.acts(some(0.4), some(0.4 + 0.2 * sign), [some(0.42)] * 20),
        "capability": measured.capability(np.ones(32), np.ones(32) + 0.02 * sign, np.ones(32) + 1),
    }
    assert {f"04.{id}" for id in given} == set(CLAIMS)
    return {
        id: record(CLAIMS[f"04.{id}"], Measured(**vars(m), controls=c), "released", why)
        for id, (m, c) in given.items()
    }


@pytest.mark.parametrize(("sign", "why"), itertools.product((1, -1), (None, "the model never refuses")))
def test_titles_and_readings_follow_from_what_was_found(sign, why):
    r = records(sign, why)
    numbers = {
        "template_effect": -0.4,
        "blocks_changed": 1,
        "share_of_norm": 0.019,
        "first_token_changed": 0.05,
        "negative_scale/harmful": 0.1,
        "negative_scale/harmless": 0.9,
        "auroc/as_trained": 1.0,
        "auroc/as_used": 0.6,
        "rows_at_padding": 0.7,
        "judge_gap": 0.04,
    }
    at = {"controller": 0.8, "fixed push": 0.5, "oracle": 0.95}
    for title, sentences in (
        words.auroc(r["reads.matched"], r["reads.beats-text"], r["reads.out-of-format"]),
        words.tradeoff(r["gain.fixed"], r["gain.threshold"], r["gain.text"], at, 0.2),
        words.steered(r["steer.raises"], r["steer.spares"], 1.5),
        words.scales({"persuasion": 0.7, "template": None}, r["reads.matched"]),
        words.weights(r["weights.learned"], r["weights.help"]),
        words.released(r["released.acts"], numbers, {"bare text": 0.1, "template": None}),
        words.push(
            {"harmful": np.array([0.5, 0.9])},
            [1.0, 2.0],
            2.0,
            {"random_direction_mean": 0.2, "random_direction_high": 0.3},
            0.1,
            why,
        ),
    ):
        text = " ".join(s for s in [title, *sentences] if s)
        assert "nan" not in text and "None" not in text and len(text) > 60
        assert not why or "uninformative" in text or why in text
    assert (
        r["gain.fixed"].verdict
        in words.tradeoff(r["gain.fixed"], r["gain.threshold"], r["gain.text"], at, 0.2)[0]
    )
    assert ("+" if sign > 0 else "-") in words.points(r["gain.fixed"].value)
    assert words.in_words(list(r.values()))
    assert words.in_words([]).startswith("Nothing")
    assert words.capability(r["capability"], 0.2)
