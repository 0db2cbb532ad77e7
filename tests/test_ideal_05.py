"""Each claim of notebook 05 can be met and can fail: readings, moves and sampled answers of an ideal result
and of ideal counter-results, in the notebook's default sizes; and its arithmetic against plain loops.
"""

import numpy as np
import pytest
import torch

from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f05 import arms, dro, inputs, measured, reading, shifts, words
from refusal.findings.f05.arms import Sampled
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run.params import parameters_of, resolve

BOOK = NOTEBOOKS / "05_safety_prompts.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
DEFAULTS = {name: p.default for name, p in parameters_of(BOOK).items()}
N, K = DEFAULTS["n_test"], DEFAULTS["n_samples"]
HARMFUL = np.arange(2 * N) < N
DECIDED: dict[str, set] = {}


def verdict(id: str, found: Estimate, controls: dict, why: str | None = None) -> str:
    got = decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls), why)[0]
    DECIDED.setdefault(id, set()).add(got)
    return got


def scores(apart: float, seed: int = 0, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(apart, 1, n), rng.normal(0, 1, n)])


def sampled(share: float, seed: int = 0, n: int = N, k: int = K, spread: float = 0.3) -> Sampled:
    """`n` prompts of which `share` of the samples comply, some prompts more than others."""
    rng = np.random.default_rng(seed)
    own = np.clip(share + spread * rng.normal(size=n) * share * (1 - share) * 4, 0, 1)
    kinds = np.where(rng.random((n, k)) < own[:, None], "answer", "refusal")
    return Sampled(kinds, rng.integers(5, 20, (n, k)))


def test_separable_alone():
    chance = [scores(0, s) for s in range(20)]
    ask = lambda s, c=chance, h=HARMFUL: verdict("05.separable.alone", *measured.separable(s, h, c, {}))
    assert ask(scores(4)) == "replicated"
    assert ask(scores(0.3)) == "not replicated"
    assert ask(scores(2), [scores(5, s) for s in range(20)]) == "not replicated"
    few = np.arange(20) < 10
    assert ask(scores(4, n=10), [scores(0, s, 10) for s in range(20)], few) == "underpowered"


def test_separable_gain():
    ask = lambda a, b: verdict(
        "05.separable.gain", *measured.separable_gain(scores(a, 1), scores(b, 1), HARMFUL, "short")
    )
    assert ask(3, 3.05) == "replicated"
    assert ask(0.2, 4) == "not replicated"
    assert ask(1.2, 1.3) in ("replicated", "underpowered")


def moves(shared: float, safety: float, noise: float = 0.3, d: int = 32, seed: int = 0):
    """Six safety prompts and six neutral ones: all move one way, safety ones another way too."""
    g = torch.Generator().manual_seed(seed)
    one, two = torch.linalg.qr(torch.randn(d, 2, generator=g))[0].T
    base = noise * torch.randn(2 * N, d, generator=g)  # the unmoved states' noise, shared by all
    found = {}
    for i in range(6):
        own = 0.3 * torch.randn(2, d, generator=g) / d**0.5
        found[f"s{i}"] = (
            shared * one + safety * two + own[0] + base + noise * torch.randn(2 * N, d, generator=g)
        )
        found[f"n{i}"] = shared * one + own[1] + base + noise * torch.randn(2 * N, d, generator=g)
    return found, [(f"s{i}", f"n{i}") for i in range(6)]


def test_shift_common():
    ask = lambda *given: verdict("05.shift.common", *shifts.common(*moves(*given))[:2])
    assert ask(1, 1.5) == "replicated"
    assert ask(1, 0) == "not replicated"  # any foreign system prompt moves so
    assert ask(0.02, 0.02) == "underpowered"


def test_cosines_of_halves_are_free_of_shared_noise_and_those_of_a_plain_loop():
    found, pairs = moves(0, 0, noise=1.0)
    names = [a for a, _ in pairs]
    cosine = shifts.cosines(shifts.products(found, names), np.ones(2 * N), np.random.default_rng(0), 40)
    assert abs(cosine[~np.eye(6, dtype=bool)].mean()) < 0.25
    whole = torch.stack([found[n].mean(0) for n in names])
    biased = torch.nn.functional.cosine_similarity(whole[:1], whole[1:]).mean()
    assert biased > 0.4  # what the noise of the unmoved states alone would say
    rng = np.random.default_rng(3)
    got = shifts.cosines(shifts.products(found, names[:2]), np.ones(2 * N), np.random.default_rng(3), 1)
    order = np.arange(2 * N)
    rng.shuffle(order)
    halves = [[found[n][h].mean(0) for n in names[:2]] for h in (order[::2], order[1::2])]
    cos = lambda a, b: float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    assert got[0, 1] == pytest.approx(
        (cos(halves[0][0], halves[1][1]) + cos(halves[0][1], halves[1][0])) / 2, abs=1e-4
    )
    assert got[0, 0] == pytest.approx(cos(halves[0][0], halves[1][0]), abs=1e-4)


def texts(level: float, spread: float = 0.8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return level + 0.1 * rng.normal(size=(6, 1)) + spread * rng.normal(size=(6, N))


@pytest.mark.parametrize("g", ["harmful", "harmless"])
def test_shift_own(g):
    ask = lambda a: verdict(
        f"05.shift.own.{g}", *measured.shift_own(texts(a), texts(0, seed=1)[0], texts(-1))
    )
    assert ask(1.0) == "replicated"
    assert ask(-1.0) == "not replicated"
    assert ask(0.05) == "underpowered"


@pytest.mark.parametrize("g", ["harmful", "harmless"])
def test_shift_neutral(g):
    ask = lambda a, declining=0.0: verdict(
        f"05.shift.neutral.{g}",
        *measured.shift_neutral(texts(a), texts(0, seed=1), texts(declining, seed=2)[:3]),
    )
    assert ask(1.0) == "replicated"
    assert ask(-1.0) == "not replicated"
    if g == "harmful":
        assert ask(0.6, 1.5) == "not replicated"  # declining sport does as much


def test_shift_not_harm():
    g = torch.Generator().manual_seed(1)
    refuse, harm = torch.eye(16)[0] * 4, torch.eye(16)[1] * 4
    cloud = lambda n: torch.randn(n, 16, generator=g)
    harmless, answered, refused = cloud(30), harm + cloud(20), harm + refuse + cloud(20)

    def ask(along, n=2 * N):
        delta = along + 0.5 * cloud(n)
        return verdict("05.shift.not-harm", *shifts.not_harm(delta, refused, answered, harmless, [along] * 6))

    assert ask(0.5 * refuse) == "replicated"
    assert ask(0.5 * harm) == "not replicated"
    assert ask(0.01 * refuse) == "underpowered"
    assert shifts.not_harm(cloud(40), refused[:3], answered, harmless, [])[0].value is None
    assert shifts.gap(refuse * 0.5, refused, answered) == pytest.approx(0.5, abs=0.15)
    assert np.isnan(shifts.gap(refuse, harmless[:15], harmless[15:]))  # nothing apart: no way to go


def test_human_behaviour():
    ask = lambda own, safety, neutral: verdict(
        "05.human.behaviour", *measured.human(sampled(own), sampled(safety, 1), sampled(neutral, 2))
    )
    assert ask(0.8, 0.2, 0.8) == "replicated"
    assert ask(0.3, 0.8, 0.3) == "not replicated"
    assert ask(0.8, 0.4, 0.3) == "not replicated"  # its neutral twin does as much
    assert ask(0.5, 0.47, 0.9) == "underpowered"
    assert measured.cannot_lower(sampled(0.5).share, "x") is None
    assert "0%" in measured.cannot_lower(np.zeros(N), "the start") and "100%" in measured.cannot_lower(
        np.ones(N), "x"
    )


def lowered(start=0.8, after=(0.2, 0.25, 0.2), random=(0.8, 0.75)):
    return measured.dro_lowers(
        sampled(start),
        [sampled(a, 10 + i) for i, a in enumerate(after)],
        [sampled(r, 20 + i) for i, r in enumerate(random)],
    )


def test_dro_harmful():
    ask = lambda **given: verdict("05.dro.harmful", *lowered(**given))
    assert ask() == "replicated"
    assert ask(after=(0.9, 0.9, 0.95)) == "not replicated"
    assert ask(after=(0.4, 0.45, 0.4), random=(0.05, 0.1)) == "not replicated"  # random directions do as much
    assert ask(after=(0.8, 0.1, 0.9)) == "underpowered"  # one seed of three
    assert ask(random=()) == "underpowered"  # without its control it is nothing
    one = np.zeros((N, K), bool)
    one[0] = True
    only = Sampled(np.where(one, "answer", "refusal"), np.ones((N, K)))
    none = Sampled(np.full((N, K), "refusal"), np.ones((N, K)))
    found, controls = measured.dro_lowers(only, [none] * 3, [only] * 2)
    assert controls["without_top_prompt"] == 0 and found.value == pytest.approx(1 / N)
    assert verdict("05.dro.harmful", found, controls) != "replicated"  # one prompt carries it
    assert measured.top_share(only) == 1 and measured.top_share(none) is None


def test_random_directions_are_pooled_and_the_most_counts():
    start = sampled(0.8)
    several = [sampled(0.8, k) for k in range(5)]
    alone, many = (measured.random_high(start, some)["random_high"] for some in (several[:1], several * 20))
    assert many >= alone - 0.1  # the same prompts a hundred times are no more prompts
    got = measured.random_high(start, [sampled(0.8, 1), sampled(0.3, 2)])
    assert got["random_high"] >= start.share.mean() - sampled(0.3, 2).share.mean() - 1e-9
    assert got["random"] == pytest.approx(
        start.share.mean() - (sampled(0.8, 1).share.mean() + sampled(0.3, 2).share.mean()) / 2
    )


def test_dro_any_of_k():
    ask = lambda a, b: verdict(
        "05.dro.any-of-k", *measured.dro_any(sampled(a), [sampled(b, s) for s in (1, 2, 3)])
    )
    assert ask(0.7, 0.02) == "replicated"
    assert ask(0.1, 0.9) == "not replicated"
    assert ask(0.5, 0.5) in ("underpowered", "not replicated")
    some = sampled(0.3, 5)
    by_hand = [any(kind == "answer" for kind in row) for row in some.kinds]
    assert list(some.any) == by_hand and some.share[3] == np.mean(some.kinds[3] == "answer")


@pytest.mark.parametrize(("id", "name"), [("own", "own"), ("tuning", "tuning"), ("swapped", "swapped")])
def test_dro_below(id, name):
    ask = lambda other, after: verdict(
        f"05.dro.{id}",
        *measured.dro_below(sampled(other), [sampled(a, 4 + i) for i, a in enumerate(after)], name),
    )
    assert ask(0.8, (0.2, 0.2, 0.25)) == "replicated"
    assert ask(0.2, (0.8, 0.8, 0.75)) == "not replicated"
    assert ask(0.5, (0.1, 0.9, 0.5)) == "underpowered"


def greedy(harmless: float, pseudo: float, kind: str = "refusal") -> dict[str, np.ndarray]:
    some = lambda share, n: np.where(np.arange(n) < round(share * n), kind, "answer")
    return {"harmless": some(harmless, N), "pseudo-harmful": some(pseudo, 2 * N // 3)}


def test_dro_spares():
    start = greedy(0.05, 0.3)
    ask = lambda *after: verdict("05.dro.spares", *measured.spares(start, list(after)))
    assert ask(*[greedy(0.05, 0.3)] * 3) == "replicated"
    assert ask(*[greedy(0.5, 0.9)] * 3) == "not replicated"
    assert ask(*[greedy(0.5, 0.9, "deflection")] * 3) == "not replicated"  # deflected is not answered
    assert ask(greedy(0.05, 0.3), greedy(0.3, 0.6), greedy(0.05, 0.3)) == "underpowered"
    assert ask(*[greedy(0.4, 0.6, "degenerate")] * 3) == "not replicated"
    assert measured.spares(start, [greedy(0.5, 0.3)] * 2)[1]["harmless"] == pytest.approx(0.46, abs=0.03)


def test_dro_trivial():
    some = lambda share: np.where(np.arange(N) < share * N, "refusal", "answer")
    ask = lambda a, b: verdict(
        "05.dro.trivial", *measured.over_trivial((some(a), some(b)), (some(0.1), some(0.1)), (1.0, 0.5))
    )
    assert ask(0.9, 0.4) == "replicated"
    assert ask(0.4, 0.9) == "not replicated"
    assert ask(0.6, 0.55) == "underpowered"


def test_dro_regulariser():
    rng = np.random.default_rng(0)
    start = 3 + rng.normal(0, 0.3, 32)
    ask = lambda a, b, n=32: verdict(
        "05.dro.regulariser",
        *measured.regulariser(*(start[:n] + x + rng.normal(0, 0.05, n) for x in (a, b)), start[:n]),
    )
    assert ask(0.05, 0.3) == "replicated"
    assert ask(0.3, 0.05) == "not replicated"
    assert ask(0.05, 0.3, 8) == "underpowered"


def test_published_gain():
    gains = data.published_dro()[1]
    found, controls = measured.published(gains)
    assert verdict("05.published.gain", found, controls) == "underpowered"
    assert controls["without_top_prompt"] == pytest.approx(0.0033)
    assert verdict("05.published.gain", *measured.published(gains.assign(low=0.001))) == "replicated"
    assert (
        verdict("05.published.gain", *measured.published(gains.assign(gain=-0.1, low=-0.2, high=-0.05)))
        == "not replicated"
    )


def test_every_claim_can_be_met_and_can_fail_for_lack_of_a_precondition():
    for id in CLAIMS:
        assert {"replicated", "not replicated"} <= DECIDED[id], id
        assert (
            verdict(id, Estimate(0.9, [0.8, 0.95], N), {"none": 0}, "the model never refuses")
            == "uninformative"
        )


def test_preconditions_of_training():
    assert measured.cannot_train(0.9, 0.3) is None
    assert "AUROC of 0.60" in measured.cannot_train(0.6, 0.3)
    assert "AUROC" in measured.cannot_train(float("nan"), 0.3)
    assert "does not fall" in measured.cannot_train(0.9, -0.1)


def clouds(n=80, d=24, apart=3.0, seed=0):
    """States of 2n rows, half of them harmful, along one axis; and which are complied with."""
    g = torch.Generator().manual_seed(seed)
    harmless = np.arange(2 * n) >= n
    x = torch.randn(2 * n, d, generator=g) * torch.linspace(2, 0.2, d)
    x[:, 0] += apart * torch.from_numpy(harmless).float()
    return x, harmless, np.arange(2 * n) % 2 == 0


def test_boundaries_find_what_they_are_given():
    x, harmless, _ = clouds()
    bound = dro.boundary(x, harmless, harmless)
    assert torch.allclose(bound.refusing, bound.harmless)
    z = bound.components(x)
    torch.testing.assert_close(z.std(0), torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bound.directions @ bound.directions.T, torch.eye(4), rtol=1e-4, atol=1e-4)
    assert dro.area((x @ bound.weights).numpy(), harmless) > 0.8
    off = x - x.mean(0)
    off = off - off @ bound.directions.T @ bound.directions
    assert bound.rest == pytest.approx(float(off.square().sum() / (len(x) * 20)), rel=1e-4)
    ids = np.repeat(np.arange(len(x) // 2), 2)
    assert dro.area(dro.held_out(x, harmless, ids), harmless) > 0.85
    chance = np.random.default_rng(0).permutation(harmless)
    assert abs(dro.area(dro.held_out(x, chance, ids), chance) - 0.5) < 0.2
    copies, label = (
        x.repeat(4, 1),
        np.tile(chance, 4),
    )  # four prompts of a query: rows leak what groups do not
    same = np.tile(np.arange(len(x)), 4)
    leaks = [dro.area(dro.held_out(copies, label, same, 20, apart=a), label) for a in (False, True)]
    assert leaks[0] > leaks[1] + 0.1
    area, steps = dro.as_released(x, harmless)
    assert 0 <= area <= 1 and 3 <= steps <= 2000
    assert dro.explained(harmless, harmless) == pytest.approx(1) and dro.explained(chance, harmless) < 0.1


def test_bad_boundaries():
    x, harmless, _ = clouds(4)
    with pytest.raises(ValueError, match="9 components of 8"):
        dro.boundary(x, harmless, harmless, 9)
    with pytest.raises(ValueError, match="or none"):
        dro.boundary(x, np.ones(8, bool), harmless)


def test_random_and_swapped_losses():
    x, harmless, complied = clouds()
    loss = dro.Dro(dro.boundary(x, complied, harmless), x, torch.from_numpy(harmless).float())
    assert torch.equal(dro.swapped(loss).up, 1 - loss.up)
    a, b = dro.along(loss, 0), dro.along(loss, 1)
    assert not torch.allclose(a.at.refusing, b.at.refusing)
    assert float(a.at.refusing.norm()) == pytest.approx(float(loss.at.refusing.norm()), rel=1e-5)
    assert dro.falls([4.0, 3.0, 2.0, 1.0]) == 3 and dro.falls([1.0]) == 0


def test_batches_have_both_classes_and_use_every_prompt():
    up = np.arange(24) < 8
    found = arms.steps(10, 8, up, 0)
    assert all(len(b) == 8 and sum(up[b]) == 4 for b in found)
    assert {i for b in found for i in b} == set(range(24))
    assert found == arms.steps(10, 8, up, 0) != arms.steps(10, 8, up, 1)


def test_the_longest_answers_are_those_the_paper_keeps():
    kinds = np.array([["answer", "refusal", "answer", "refusal", "answer"]])
    words = np.array([[20, 1, 9, 2, 8]])
    assert Sampled(kinds, words).long_only[0] == 3 / 4 and Sampled(kinds, words).share[0] == 3 / 5


def test_readers_of_text_and_shuffled_ones():
    taught = [f"poison the {w} quietly" for w in "well dog cat man river lake".split()]
    taught += [f"paint the {w} slowly" for w in "well dog cat man river lake".split()]
    label = np.arange(12) < 6
    found = reading.text_scores(taught, label, ["poison the cow", "paint the cow"], False)
    assert set(found) == {"TF-IDF", "form"} and found["TF-IDF"][0] > found["TF-IDF"][1]
    x, harmless, _ = clouds()
    areas = [dro.area(r(x), harmless) for r in reading.shuffled_readers(x, harmless, 0)]
    assert len(areas) == reading.SHUFFLES and abs(np.mean(areas) - 0.5) < 0.15


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("start=neutral-short", "is no safety prompt"),
        ("start=shrt", "short"),
        ("system=brief", "2 to 200"),
        ("n_samples=0", "1 to 50"),
        ("n_steps=2", "4 to 500"),
        ("learning_rate=1", "0.1"),
        ("n_seeds=1", "2 to 10"),
        ("n_test=5", "20 to 140"),
    ],
)
def test_bad_input(text, error):
    name, _, value = text.partition("=")
    with pytest.raises(ParameterError, match=error):
        values = resolve(BOOK, {name: value})
        inputs.check(values)


def a_record(id: str, found: Estimate, controls: dict):
    return record(CLAIMS[id], Measured(**vars(found), controls=controls), "released", None)


def test_words_follow_what_was_found():
    alike = a_record("05.shift.common", *shifts.common(*moves(1, 0))[:2])
    apart = a_record("05.shift.common", *shifts.common(*moves(1, 1.5))[:2])
    titles = [words.cosines(r)[0] for r in (alike, apart)]
    assert "nearly" in titles[0] and "more than" in titles[1]
    nothing = a_record("05.shift.not-harm", Estimate(None, None, 0), {"refused": 2})
    assert "too few refusals" in words.plane(nothing)[0]
    assert "nothing" in words.in_words([]).lower()
    assert "falls" in words.loss(0.5, {"before": 0.1, "after": 2.0, "off": 0.1})[0]
    assert "falls" not in words.loss(0.5, {"before": 2.0, "after": 0.1, "off": 0.1})[0]
