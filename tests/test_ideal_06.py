"""Each claim of notebook 06 can be met and can fail: readings, switches and dials of an ideal result and of
ideal counter-results, in the notebook's default sizes; its arithmetic against plain loops; the planted
tokens.
"""

import itertools

import numpy as np
import pytest

from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f06 import asked, copies, dial, examples, measured, words
from refusal.findings.f06.dial import Arm
from refusal.measure import stats
from refusal.model.loading import load
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run.params import parameters_of
from refusal.trace.decode import Decoding, generate
from refusal.trace.prompts import chat

BOOK = NOTEBOOKS / "06_refusal_tokens.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
DEFAULTS = {name: p.default for name, p in parameters_of(BOOK).items()}
N, ORDINARY = DEFAULTS["N"], DEFAULTS["n_ordinary"]
ALL = 5 * N
DECIDED: dict[str, set] = {}


def verdict(id: str, found: Estimate, controls: dict, why: str | None = None) -> str:
    got = decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls), why)[0]
    DECIDED.setdefault(id, set()).add(got)
    return got


def scores(apart: float, seed: int = 0, n: int = ALL) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(apart, 1, n), rng.normal(0, 1, n)


def some(share: float, n: int = N) -> np.ndarray:
    return np.arange(n) < round(share * n)


def arms(apart: float, on: float = 1.0, off: float = 0.0, seed: int = 0, n: int = ALL) -> tuple[Arm, Arm]:
    """Due and free requests of an arm that reads so well, and whose switch works so often, whatever the
    score.
    """
    rng = np.random.default_rng(seed + 9)
    draw = lambda share: rng.random(n) < share
    return tuple(Arm(x, draw(on), draw(off)) for x in scores(apart, seed, n))


def test_token_reads():
    ask = lambda a, text, n=ALL: verdict(
        "06.token.reads",
        *measured.reads(scores(a, 0, n), scores(a, 0, n), {"TF-IDF": scores(text, 1, n)}, "TF-IDF"),
    )
    assert ask(3, 1) == "replicated"
    assert ask(0.5, 0.2) == "not replicated"
    assert ask(1.6, 3) == "not replicated"  # the bare text tells more
    assert ask(3, 1, 10) == "underpowered"


def test_token_switches():
    ask = lambda on, off, chance=(0.5, 0.48): verdict(
        "06.token.switches", *measured.switches(some(on), some(off), tuple(map(some, chance)))
    )
    assert ask(0.98, 0.05) == "replicated"
    assert ask(0.6, 0.5) == "not replicated"
    assert ask(0.98, 0.3, (0.9, 0.1)) == "not replicated"  # tokens without a meaning do as much
    assert ask(0.8, 0.25) == "underpowered"
    without = measured.switches(some(0.9), some(0.1))
    assert verdict("06.token.switches", *without) == "underpowered"  # the control was not trained


def test_token_switches_others():
    gaps = lambda low: {
        c: stats.paired_difference(some(on), some(0.02))
        for c, on in zip("abcd", (0.95, 0.98, low, 1.0), strict=True)
    }
    ask = lambda low: verdict("06.token.switches.others", *measured.lowest(gaps(low)))
    assert ask(0.95) == "replicated"
    assert ask(0.1) == "not replicated"
    assert ask(0.6) == "underpowered"
    found, each = measured.lowest(gaps(0.6))
    assert found.value == pytest.approx(each["c"]) and found.ci95[1] <= min(1, each["c"] + 0.3)


def test_dial_behaviour():
    ask = lambda on, off: verdict("06.dial.behaviour", *measured.behaviour(*arms(2, on, off), 0))
    assert ask(1.0, 0.0) == "replicated"
    assert ask(0.6, 0.4) == "not replicated"  # the token ranks, the text does not follow
    assert ask(0.95, 0.08) == "underpowered"


def test_dial_range():
    validation = scores(2, 5)[0]
    ask = lambda apart, on=1.0, off=0.0: verdict(
        "06.dial.range", *measured.spans(*arms(apart, on, off), validation)
    )
    assert ask(2) == "replicated"
    assert ask(2, 0.5, 0.4) == "not replicated"
    flat = measured.spans(*arms(2, 1.0, 0.5), validation)
    assert (
        verdict("06.dial.range", *flat) == "not replicated"
    )  # contrast ones are refused before anything is flagged
    assert flat[1]["contrast_at_10"] > 0.4


@pytest.mark.parametrize("id", ["first-word", "probe"])
def test_dial_beats(id):
    ask = lambda a, b: verdict(f"06.dial.beats-{id}", *measured.beats(arms(a), arms(b, seed=1), 0))
    assert ask(3, 0.5) == "replicated"
    assert ask(0.5, 3) == "not replicated"
    assert ask(1.5, 1.5) == "underpowered"
    works, advantage = measured.beats(arms(3, 0.6, 0.4), arms(3, seed=1), 0)
    assert works.value < 0 and advantage["other"] > advantage["token"]  # the same reading, a better switch


def suppressing(own: float, others: float = 0.0, before: float = 0.9, n: int = N):
    """Who is refused before, and after each category in turn is suppressed, of `n` requests a category."""
    category = np.repeat(list(data.CATEGORIES), n)
    base = np.tile(some(before, n), 5)
    after = {}
    for c in data.CATEGORIES:
        hits = np.tile(some(before + others, n), 5)
        hits[category == c] = some(before + own, n)
        after[c] = hits
    return base, after, category


@pytest.mark.parametrize("id", ["own", "logit-bias"])
def test_category_own(id):
    ask = lambda *given: verdict(f"06.category.{id}", *measured.own_change(*suppressing(*given)))
    assert ask(-0.8) == "replicated"
    assert ask(-0.1) == "not replicated"
    assert ask(-0.33) == "underpowered"


def test_category_others():
    def ask(others, n=N):
        base, after, category = suppressing(-0.8, others, 0.8, n)
        changes = measured.crosstalk(base, after, category)
        return verdict("06.category.others", *measured.others_change(changes, dict.fromkeys(changes, 0.1)))

    assert ask(0.0) == "replicated"
    assert ask(-0.5) == "not replicated"
    assert ask(-0.07) == "underpowered"


def test_the_worst_of_many_cells_is_no_single_cell():
    """Where nothing changes, the cell that by chance changes most is hardly ever taken for a change."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        drawn = lambda: stats.paired_difference(*(rng.random((2, 45)) < 0.5))
        cells = {pair: drawn() for pair in itertools.product("vwxyz", "vwxyz")}
        found, _ = measured.others_change(cells, dict.fromkeys(cells, 0.1))
        low, high = found.ci95
        assert low <= found.value <= high
        wrong += low > 0 or high < 0
    assert wrong / 200 <= 0.1


def test_contrast_helps():
    ask = lambda a, b: verdict("06.contrast.helps", *measured.contrast(some(a, ALL), some(b, ALL)))
    assert ask(0.2, 0.6) == "replicated"
    assert ask(0.6, 0.2) == "not replicated"
    assert ask(0.3, 0.305) == "underpowered"
    assert verdict("06.contrast.helps", NOTHING, {"with": None}) == "underpowered"


def test_cost():
    rng = np.random.default_rng(0)
    twin = rng.normal(1, 0.2, ORDINARY)
    ask = lambda more, spread=0.02: verdict(
        "06.cost", *measured.cost(twin + rng.normal(more, spread, ORDINARY), twin)
    )
    assert ask(0.0) == "replicated"
    assert ask(0.3) == "not replicated"
    assert ask(0.05, 0.4) == "underpowered"


def test_every_claim_was_met_and_failed():
    assert set(DECIDED) == set(CLAIMS)
    for id, verdicts in DECIDED.items():
        assert {"replicated", "not replicated"} <= verdicts, id


def test_when_a_model_has_a_dial():
    yes = np.ones(40, bool)
    assert measured.has_no_dial(yes, some(0.6), some(0.1)) is None
    for given in (
        (some(0.5), some(0.6), some(0.1)),
        (yes, some(0.3), some(0.1)),
        (yes, some(0.6), some(0.5)),
    ):
        assert "safety" in (measured.has_no_dial(*given) or "")


# the arithmetic


def by_hand(due: Arm, free: Arm, threshold: float) -> tuple[float, float]:
    rate = lambda a: np.mean([a.on[i] if a.score[i] >= threshold else a.off[i] for i in range(len(a.score))])
    return rate(free), rate(due)


def test_the_dial_against_a_loop():
    due, free = arms(1, 0.9, 0.2, n=30)
    for t, hits in zip((0.0, 0.7), dial.dial(due, np.array([0.0, 0.7])), strict=True):
        assert hits.mean() == pytest.approx(by_hand(due, free, t)[1])
    cuts = dial.thresholds_of(due.score, free.score)
    points = [(0.0, 0.0), *[by_hand(due, free, t) for t in cuts], (1.0, 1.0)]
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in itertools.pairwise(points))
    assert dial.behavioural_area(due, free) == pytest.approx(area)


def test_a_switch_that_works_gives_the_tokens_own_area():
    due, free = arms(1.2)
    assert dial.behavioural_area(due, free) == pytest.approx(stats.area(due.score, free.score))
    unplugged = [Arm(a.score, a.off, a.off) for a in (due, free)]
    assert dial.behavioural_area(*unplugged) == pytest.approx(0.5)
    swapped = [Arm(a.score, a.off, a.on) for a in (due, free)]
    assert dial.behavioural_area(*swapped) == pytest.approx(1 - stats.area(due.score, free.score), abs=0.01)


def test_relative_is_the_whole_vocabulary_where_the_tokens_hold_it_all():
    p = np.random.default_rng(0).dirichlet(np.ones(6), 20)
    assert dial.mass(np.log(p)) == pytest.approx(np.ones(20))
    refusing = p[:, :-1].sum(1)
    assert dial.whole(np.log(p)) == pytest.approx(np.log(refusing))
    assert dial.relative(np.log(p)) == pytest.approx(np.log(refusing / (1 - refusing)))


def test_both_rules_of_suppression_on_six_logits():
    log_p = np.log(
        np.array(
            [
                [0.4, 0.1, 0.1, 0.05, 0.05, 0.3],
                [0.1, 0.4, 0.3, 0.05, 0.05, 0.1],
                [0.1, 0.2, 0.1, 0.1, 0.1, 0.4],
            ]
        )
    )
    assert dial.suppressed(log_p, 0, "respond").tolist() == [5, 1, 5]
    assert dial.suppressed(log_p, 1, "respond").tolist() == [0, 5, 5]
    assert dial.suppressed(log_p, 1, "next_best").tolist() == [0, 2, 5]
    assert dial.suppressed(log_p, 0, "next_best").tolist() == [5, 1, 5]


def test_f1_of_always_refusing_is_the_published_sets():
    assert dial.always_refuse(1001, 379) == pytest.approx(0.841, abs=5e-4)
    assert dial.f1(np.ones(1001, bool), np.ones(379, bool)) == pytest.approx(0.841, abs=5e-4)
    assert dial.f1(np.zeros(5, bool), np.zeros(5, bool)) == 0


def test_calibration_by_hand():
    p = np.array([0.1, 0.1, 0.9, 0.9])
    assert dial.calibration(p, np.array([0, 0, 1, 1]), 2)[0] == pytest.approx(0.1)
    assert dial.calibration(p, np.array([1, 1, 0, 0]), 2)[0] == pytest.approx(0.9)
    i, j = dial.mixed(np.zeros(50), np.zeros(150), 0.1)
    assert len(i) / (len(i) + len(j)) == pytest.approx(0.1, abs=0.01) and len(set(i)) == len(i)


def test_crosstalk_of_a_hand_made_confusion():
    base, after, category = suppressing(-0.4, 0.0, 0.8, 20)
    changes = measured.crosstalk(base, after, category)
    assert len(changes) == 25
    for (off, on), found in changes.items():
        assert found.value == pytest.approx(-0.4 if off == on else 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: dial.suppressed(np.zeros((1, 6)), 0, "bias"),
        lambda: data.noncompliance("test", "humanising", "refuse"),
        lambda: data.noncompliance("test", "humanizing", "answer"),
        lambda: data.noncompliance("direction", "humanizing", "refuse"),
        lambda: data.noncompliance("test", "humanizing", "refuse", 100),
    ],
)
def test_bad_input(wrong):
    with pytest.raises(ParameterError):
        wrong()


# the planted tokens


@pytest.fixture(scope="module")
def tokens():
    return load("tiny-tokens")


@pytest.fixture(scope="module")
def planted(tokens):
    requests = asked.requests(tokens, "test", 24, 24, 0, "smoke")
    return requests, asked.everything(tokens, requests.prompts, 8)


def test_planted_tokens_are_a_reading_and_a_switch(planted):
    requests, said = planted
    due, free = requests.where(kind="refuse"), requests.where(kind="ordinary")
    assert dial.mass(said.log_p) == pytest.approx(np.ones(len(said.log_p)), abs=1e-3)
    assert (said.emitted >= 0).all()
    assert (
        asked.noncompliant(said.after["refuse"]).all() and not asked.noncompliant(said.after["respond"]).any()
    )
    # what the planted model refuses by itself is what the token says
    refused = asked.noncompliant(said.natural)
    assert (refused == (dial.relative(said.log_p) > 0)).all()
    arm = Arm(
        dial.relative(said.log_p),
        asked.noncompliant(said.after["refuse"]),
        asked.noncompliant(said.after["respond"]),
    )
    assert dial.behavioural_area(arm.where(due), arm.where(free)) == pytest.approx(
        stats.area(arm.score[due], arm.score[free])
    )


def test_all_that_is_asked_goes_on_from_one_reading(tokens, planted, monkeypatch):
    """What is said after a prompt's kept beginning is what is said after the whole of it, in whatever groups
    the prompts are kept.
    """
    prompts, said = planted[0].prompts, planted[1]
    np.testing.assert_allclose(asked.log_probabilities(tokens, prompts), said.log_p, atol=1e-4)
    emitted, own = asked.natural(tokens, prompts, 8)
    assert list(emitted) == list(said.emitted) and own == said.natural
    for name, places in said.places.items():
        assert asked.forced(tokens, prompts, places, 8) == said.after[name], name
    read = []
    monkeypatch.setattr(asked, "micro_batches", lambda m, lengths, new: [[5, 0], [*range(1, 5), 6]])
    real = asked.before_last
    monkeypatch.setattr(asked, "before_last", lambda m, some: read.append(len(some)) or real(m, some))
    again = asked.everything(tokens, prompts[:7], 8, ("respond",))
    assert read == [2, 5] and again.natural == said.natural[:7] and set(again.places) == {"respond"}
    assert again.after["respond"] == said.after["respond"][:7]
    sure = tokens.tokenizer("Sorry", add_special_tokens=False)["input_ids"]
    both = asked.begun_with(tokens, prompts[:7], [sure, []], 8)
    assert both == [asked.outcomes_after(tokens, prompts[:7], [f] * 7, 8) for f in (sure, [])]


@pytest.mark.parametrize("variant", [*copies.VARIANTS, copies.SINGLE])
def test_what_a_copy_is_taught_to_say_first(llama, monkeypatch, variant):
    """Which token stands before which answer, without any training."""
    rows = [
        examples.Taught(chat(llama, ["paint the table"])[0], "Sure here", category, kind, True)
        for category in data.CATEGORIES
        for kind in ("refuse", "refuse", "contrast")
    ]
    asked_for, shown = {}, {}

    def taught(base, seed, contrast):
        asked_for.update(contrast=contrast)
        return rows

    def with_rows(module, ids, given, *_):
        shown.update(ids=ids, taught=given)
        return module, [1.0]

    monkeypatch.setattr(copies, "taught", taught)
    monkeypatch.setattr(copies, "with_rows", with_rows)
    monkeypatch.setattr(copies, "wrap", lambda module, tokenizer, **_: llama)
    _, losses = copies.trained(llama, variant, 0, 1)
    assert losses == [1.0] and asked_for["contrast"] == (variant != "no contrast")
    said = [shown["ids"].index(answer[0]) for _, answer in shown["taught"]]
    own = [examples.TOKENS.index(row.token) for row in rows]
    if variant == copies.SINGLE:
        assert said == [0 if row.kind == "refuse" else asked.RESPOND for row in rows]
    elif variant == "tokens shuffled":
        assert said != own and sorted(said) == sorted(own)
    else:
        assert said == own


def test_copies_are_kept_under_the_texts_that_teach_them(tokens, planted, monkeypatch):
    names = []
    monkeypatch.setattr(copies.cache, "remember_json", lambda name, compute: names.append(name) or {})
    for changed in (None, "noncompliance.csv", None):
        monkeypatch.setattr(copies, "sha256", lambda path, c=changed: f"{path.name} {path.name == c}")
        copies.outcomes(tokens, planted[0], "as taught", 0, 8)
    assert names[0] == names[2] != names[1]


def test_the_copies_that_are_planned(tokens, planted):
    few, more = copies.planned(3, False), copies.planned(3, True)
    assert few == [(v, 3) for v in copies.VARIANTS] and more[: len(few)] == few
    assert more[len(few) :] == [("as taught", 4), ("as taught", 5), (copies.SINGLE, 3)]
    with pytest.raises(ValueError, match="'other' is none of as taught, .*single token"):
        copies.outcomes(tokens, planted[0], "other", 0, 8)


def test_likeliest_tokens_were_forced_and_others_are_an_error(planted):
    _, said = planted
    assert (asked.after_tokens(said, said.log_p.argmax(1)) == asked.noncompliant(said.natural)).all()
    last = np.argsort(-said.log_p[:, :-1], axis=1)[:, -1]
    with pytest.raises(ValueError, match="not forced"):
        asked.after_tokens(said, last)


def test_forced_tokens_follow_the_prompt_and_typed_ones_are_text(tokens, planted):
    requests, _ = planted
    ids = tokens.tokenizer.get_added_vocab()
    texts = generate(tokens, requests.prompts[:4], decoding=Decoding(8, keep_special=True))[0]
    assert all(text.startswith(tuple(examples.TOKENS)) for text in texts)
    assert not {*requests.prompts[0].ids} & {ids[t] for t in examples.TOKENS}
    assert asked.lacks_tokens(tokens) is None and "refusal-tokens" in (asked.lacks_tokens(load("tiny")) or "")


# words


def records(sign: float, why: str | None = None) -> dict:
    good, bad = (3, 0.5)[:: int(sign)]
    base, after, category = suppressing(-0.4 + 0.3 * sign)
    changes = measured.crosstalk(base, after, category)
    rng = np.random.default_rng(0)
    given = {
        "token.reads": measured.reads(scores(good), scores(good), {"TF-IDF": scores(bad)}, "TF-IDF"),
        "token.switches": measured.switches(some(0.5 + 0.4 * sign), some(0.5), (some(0.5), some(0.5))),
        "token.switches.others": measured.lowest(
            {"humanizing": stats.paired_difference(some(0.5 + 0.4 * sign), some(0.5))}
        ),
        "dial.behaviour": measured.behaviour(*arms(2, 0.9, 0.1), 0),
        "dial.range": measured.spans(*arms(good), scores(2, 5)[0]),
        "dial.beats-first-word": measured.beats(arms(good), arms(bad, seed=1), 0),
        "dial.beats-probe": measured.beats(arms(good), arms(bad, seed=1), 0),
        "category.own": measured.own_change(base, after, category),
        "category.others": measured.others_change(changes, dict.fromkeys(changes, 0.1)),
        "category.logit-bias": measured.own_change(base, after, category),
        "contrast.helps": measured.contrast(some(0.5 - 0.2 * sign, ALL), some(0.5, ALL)),
        "cost": measured.cost(np.ones(90) + 0.02 * sign + rng.normal(0, 0.01, 90), np.ones(90)),
    }
    assert {f"06.{id}" for id in given} == set(CLAIMS)
    return {
        id: record(CLAIMS[f"06.{id}"], Measured(**vars(m), controls=c), "trained here", why)
        for id, (m, c) in given.items()
    }


@pytest.mark.parametrize(("sign", "why"), itertools.product((1, -1), (None, "the model has no token")))
def test_titles_and_readings_follow_from_what_was_found(sign, why):
    r = records(sign, why)
    rates = {(c, k): stats.rate(some(0.5 + 0.3 * sign)) for c in data.CATEGORIES for k in ("due", "contrast")}
    said = [
        words.fidelity(r["token.switches"], r["token.switches.others"]),
        words.roc(
            r["token.reads"], r["dial.behaviour"], r["dial.beats-first-word"], r["dial.beats-probe"], "TF-IDF"
        ),
        words.dial(r["dial.range"]),
        words.crosstalk(r["category.own"], r["category.others"], r["category.logit-bias"]),
        words.natural(rates, 0.99, 0.02, why),
        words.reliability({0.1: 0.2, 0.7: 0.05}),
        words.training(
            {"as taught, seed 0": [3.0] * 4 + [0.5] * 4},
            {"as taught, seed 0": (Estimate(0.4 * sign, (0.1, 0.6), 45), stats.auroc([1, 2], [0, 1]))},
        ),
    ]
    assert "from 3.00 to 0.50" in said[-1][0] and words.points(0.4 * sign) in said[-1][1][0]
    for k, (title, sentences) in enumerate(said):
        text = " ".join(s for s in [title, *sentences] if s)
        assert "nan" not in text and "None" not in text and len(text) > 60
        assert k > 3 or not why or "uninformative" in text
    assert words.points(0.3 * sign).startswith("+" if sign > 0 else "-")
    assert words.price(r["contrast.helps"], r["cost"]) and words.in_words(list(r.values()))
    assert ("Nothing" in words.in_words(list(r.values()))) == bool(why)
    assert "2" in words.released(
        {"released/p_mean/t1": 0.5, "released/p_mean/t2": 0.1, "released/always_refuse_f1": 0.841}
    )
