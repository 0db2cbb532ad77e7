"""Every claim of notebook 03 can be met and can fail under the defaults: an ideal result and an ideal
counter-result, made of scores and outcomes of the notebook's default sizes, go through the functions that the
notebook calls, and the rule of the claims file judges what comes out.
"""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import tiny_module
from refusal import data
from refusal.base.estimate import Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f03 import cliff_claims, cliff_steps
from refusal.findings.f03.cliff_heads import Off, Spoken
from refusal.findings.f03.cliff_steps import MEASURES, half
from refusal.measure import probes, stats
from refusal.model import loading
from refusal.model.tiny import tiny_tokenizer
from refusal.report import recorder
from refusal.report.render import standing, verdicts_here
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run import params
from refusal.run.params import parameters_of

BOOK = NOTEBOOKS / "03_refusal_cliff.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
PARAMETERS = parameters_of(BOOK)
DEFAULT = {name: p.default for name, p in PARAMETERS.items()}
N, HALF = DEFAULT["N"], half(DEFAULT["N"])
ALIKE, AGAIN = 0.05, 0.02  # the spread of scores between prompts; and between means by probers fitted again


def near(centre: float, *shape: int, spread: float = ALIKE) -> np.ndarray:
    return np.clip(
        np.random.default_rng(int(1000 * abs(centre)) + len(shape)).normal(centre, spread, shape), -1, 1
    )


def falls(by: float, n: int = N):
    """Rollouts whose score falls by so much, and the same by probers fitted again."""
    make = lambda rows, spread: pd.DataFrame(
        {name: near(by if name.startswith("cliff") else 0.5, rows, spread=spread) for name in MEASURES}
    )
    return make(n, ALIKE), make(probes.REFITS, AGAIN)


def outcomes(refused: int, n: int) -> np.ndarray:
    return np.array(["refusal"] * refused + ["answer"] * (n - refused))


def natural(mine: float, others: float) -> dict:
    return cliff_claims.fall(
        falls(mine), {name: falls(others) for name in ("benign", "shuffled", "reader")}, 0, falls(mine, 20)
    )


def planted(mine: float, others: float) -> dict:
    rivals = {"benign": HALF, "no_trigger": HALF, "twin": N, "twin_by_the_same_prober": N, "shuffled": N}
    return cliff_claims.fall(falls(mine), {name: falls(others, n) for name, n in rivals.items()}, 0)


def in_twin(its: float) -> dict:
    return cliff_claims.fall(falls(its), {"cliff": falls(0.5)}, 0)


def cut(without: int, whole: int) -> dict:
    n = DEFAULT["n_cut"]
    return cliff_claims.regained(
        (outcomes(without, n), outcomes(whole, n)), (outcomes(1, n), outcomes(1, n)), outcomes(9, n), 0.9
    )


def off(gain: float, by_sets: float) -> Off:
    n, sets, on = DEFAULT["n_heads_prompts"], DEFAULT["n_random"], 8
    return Off(near(0.4, n), near(0.4, n) + gain, near(by_sets, sets, on), [[(0, k)] for k in range(sets)])


def lifted(gain: float, by_sets: float) -> dict:
    again = near(0.4, probes.REFITS, 8)
    return cliff_claims.lifted(off(gain, by_sets), (again, again + gain), 0)


def spoken(refused: int, by_random: int) -> dict:
    n = 20  # of a reasoner; the tiny pair has more
    said = Spoken(
        {"harmful": outcomes(1, n), "harmless": outcomes(1, n)},
        {"harmful": outcomes(refused, n), "harmless": outcomes(1, n)},
        {"harmful": np.zeros(n, bool), "harmless": np.zeros(n, bool)},
        np.array([outcomes(by_random, n)] * 2),
    )
    return cliff_claims.refuses_again(said, DEFAULT["n_random"])


def twin_rises(gain: float) -> dict:
    again = near(0.3, probes.REFITS, 8)
    return cliff_claims.less_in_twin(
        off(0.5, 0), (again, again + 0.5), off(gain, 0), (again, again + gain), 0
    )


def arms(**complied: int) -> dict:
    """Trainings of each selection, each complying with so many test prompts."""
    return {
        how: np.array([outcomes(N - k, N) == "answer" for _ in range(cliff_steps.SEEDS[how])])
        for how, k in complied.items()
    }


def judged(rival: str, by_cliff: int, by_rival: int) -> dict:
    return cliff_claims.selected(arms(cliff=by_cliff, **{rival: by_rival}), rival, 1.0, 0)


def ranked(pool: float, twin: float) -> dict:
    half_pool = DEFAULT["n_pool"] // 2
    areas = [
        stats.auroc(near(gap, a), near(0, b))
        for gap, a, b in ((pool, half_pool, half_pool), (pool, N, HALF), (twin, N, HALF))
    ]
    return cliff_claims.ranked(*areas)


def able(rise: float) -> dict:
    before = near(0.5, cliff_steps.PARAGRAPHS) + 2
    return cliff_claims.able(
        before,
        np.array([before + near(rise, cliff_steps.PARAGRAPHS) for _ in range(cliff_steps.SEEDS["cliff"])]),
        0,
    )


@functools.cache
def ideal() -> dict:
    """id → what an ideal result and an ideal counter-result give."""
    return {
        "03.cliff": (natural(0.5, 0.02), natural(0.02, 0.02)),
        "03.cliff.all-positions": (natural(0.5, 0.02), natural(0.5, 0.55)),
        "03.truncation": (cut(18, 2), cut(2, 18)),
        "03.heads.score": (lifted(0.3, 0.01), lifted(0.1, 0.3)),
        "03.heads.refusal": (spoken(18, 2), spoken(3, 18)),
        "03.judge": (judged("random", 1, 16), judged("random", 16, 1)),
        "03.judge.ability": (able(0.02), able(0.5)),
        "03.instrument.cliff": (planted(0.5, 0.02), planted(0.02, 0.02)),
        "03.instrument.cliff.all-positions": (planted(0.5, 0.02), planted(0.5, 0.55)),
        "03.instrument.cliff.published": (planted(0.5, 0.02), planted(-0.3, 0.02)),
        "03.instrument.twin": (in_twin(0.01), in_twin(0.5)),
        "03.instrument.twin.all-positions": (in_twin(0.01), in_twin(0.5)),
        "03.instrument.heads.score": (lifted(0.5, 0.01), lifted(0.1, 0.3)),
        "03.instrument.heads.refusal": (spoken(18, 2), spoken(3, 18)),
        "03.instrument.heads.twin": (twin_rises(0.01), twin_rises(0.5)),
        "03.instrument.judge": (judged("random", 1, 16), judged("random", 16, 1)),
        "03.instrument.judge.final": (judged("final", 1, 16), judged("final", 16, 1)),
        "03.instrument.judge.twin": (ranked(0.3, 0), ranked(0, 0.3)),
    }


def test_every_claim_of_the_file_is_tried():
    assert set(ideal()) == set(CLAIMS)


@pytest.mark.parametrize("id", CLAIMS)
def test_a_precondition_names_every_bar_that_is_asked(id):
    said = CLAIMS[id].precondition
    if "instrument.heads" in id:  # of models that are what they are by hand
        assert "written by hand" in said
        return
    assert f"at least {cliff_claims.MIN_EACH} prompts" in said and f"above {cliff_claims.GOOD}" in said
    of_twin, of_answers = "instrument.twin" in id, id == "03.truncation"  # its ends are known; no score
    late = f"at least {probes.FEW} of them refused and {probes.FEW} answered, above {cliff_claims.GOOD_LATE}"
    assert (late in said) is not (of_twin or of_answers)
    assert ("nothing was planted in it" in said) is not ("instrument" in id)
    assert ("the planted pair does what was planted" in said) is ("instrument" in id)
    assert ("the twin refuses and answers" in said) is (of_twin or id.endswith("judge.twin"))
    assert ("its weights are here" in said) is any(part in id for part in (".heads", "03.judge"))


def test_a_papers_number_stands_beside_ours_only_in_the_same_unit():
    """Attack success is no refusal, a score no rise of it, a level no difference: those are words."""
    assert not [x for c in CLAIMS.values() for x in (c.paper_value or {}).values() if not isinstance(x, str)]


def verdict(id: str, found: dict) -> tuple:
    return decide(CLAIMS[id].rule, Measured(**vars(found["measured"]), controls=found["controls"]))


@pytest.mark.parametrize("id", CLAIMS)
def test_an_ideal_result_is_replicated_and_an_ideal_counter_result_is_not(id):
    result, counter = ideal()[id]
    assert verdict(id, result)[0] == "replicated", verdict(id, result)
    assert verdict(id, counter)[0] == "not replicated", verdict(id, counter)


@pytest.mark.parametrize("id", [id for id, claim in CLAIMS.items() if any(claim.rule.sufficiency())])
def test_with_three_random_sets_nothing_is_decided(id):
    for found in ideal()[id]:
        assert verdict(id, found | {"controls": found["controls"] | {"random_sets": 3}})[0] == "underpowered"


def test_a_cliff_whose_control_is_missing_is_left_open():
    rivals = {"benign": falls(0.02), "shuffled": falls(0.02)}
    assert (
        verdict("03.cliff", cliff_claims.fall(falls(0.5), rivals | {"reader": None}, 0))[0] == "underpowered"
    )
    assert (
        verdict("03.instrument.cliff", cliff_claims.fall(falls(0.5), rivals | {"twin": None}, 0))[0]
        == "underpowered"
    )
    for id, found in {
        "03.cliff": cliff_claims.fall(None, rivals, 0),
        "03.heads.refusal": cliff_claims.refuses_again(None, 0),
        "03.heads.score": cliff_claims.lifted(cliff_claims.NO_OFF, ([], []), 0),
        "03.judge": cliff_claims.selected({}, "random", None, 0),
        "03.judge.ability": cliff_claims.able(None, None, 0),
    }.items():
        assert found["measured"].value is None and verdict(id, found)[0] == "underpowered"


def test_broken_answers_are_no_refusals_regained():
    n = 20
    said = Spoken(
        {"harmful": outcomes(0, n), "harmless": outcomes(0, n)},
        {"harmful": outcomes(18, n), "harmless": outcomes(0, n)},
        {"harmful": np.arange(n) < 18, "harmless": np.zeros(n, bool)},
        np.array([outcomes(0, n)]),
    )
    assert verdict("03.heads.refusal", cliff_claims.refuses_again(said, 20))[0] == "not replicated"


def test_as_much_on_benign_prompts_is_no_refusal_regained():
    n, off_ = 20, outcomes(15, 20)
    said = Spoken(
        {"harmful": outcomes(0, n), "harmless": outcomes(0, n)},
        {"harmful": off_, "harmless": outcomes(20, n)},
        {"harmful": np.zeros(n, bool), "harmless": np.zeros(n, bool)},
        np.array([outcomes(0, n)]),
    )
    found = cliff_claims.refuses_again(said, 20)
    assert (
        found["controls"]["over_benign"] == pytest.approx(-0.25)
        and verdict("03.heads.refusal", found)[0] != "replicated"
    )


def test_disclaimed_answers_are_counted_apart():
    n = DEFAULT["n_cut"]
    disclaimed = np.where(np.arange(n) < 10, "disclaimed", "answer")
    found = cliff_claims.regained((disclaimed, outcomes(0, n)), (outcomes(0, n), outcomes(0, n)))
    assert found["measured"].value == 0 and found["controls"]["with_disclaimed"] == pytest.approx(0.5)


def test_alike_answers_of_all_prompts_leave_an_interval_a_width():
    """Both arms at zero: nothing was seen of what would tell them apart, so nothing is decided."""
    found = judged("random", 0, 0)
    low, high = found["measured"].ci95
    assert low < 0 < high and verdict("03.judge", found)[0] == "underpowered"


def test_trainings_that_differ_by_seed_widen_the_interval():
    apart = arms(cliff=8, random=16)
    apart["cliff"][0] = False
    steady, shaky = (
        cliff_claims.fewer(arms(random=16)["random"], arms(cliff=8)["cliff"], 0),
        cliff_claims.fewer(apart["random"], apart["cliff"], 0),
    )
    width = lambda found: found.ci95[1] - found.ci95[0]
    assert width(shaky) > 1.2 * width(steady)


def test_the_instrument_is_judged_only_where_the_planted_is_there():
    refused = lambda k, n: np.arange(n) < k
    assert cliff_claims.not_planted(refused(13, HALF), refused(1, N), refused(29, N)) is None
    assert "than what it should keep" in cliff_claims.not_planted(
        refused(3, HALF), refused(1, N), refused(29, N)
    )
    assert "than its twin" in cliff_claims.not_planted(refused(13, HALF), refused(1, N), refused(4, N))
    assert "not measured" in cliff_claims.not_planted(refused(0, 0), refused(1, N), refused(29, N))
    assert cliff_claims.nothing_to_select(arms(random=16, trigger=1), 0) is None
    assert "no selection could be" in cliff_claims.nothing_to_select(arms(random=5, trigger=4), 0)
    assert cliff_claims.nothing_to_select(arms(random=5), 0) and cliff_claims.nothing_to_select({}, 0)


def test_what_a_prober_says_is_claimed_only_where_it_can_be_checked():
    assert cliff_claims.untrained(np.arange(40) < 9) and not cliff_claims.untrained(np.arange(40) < 10)
    auroc = lambda low: Estimate(0.9, [low, 0.99], 20)
    assert cliff_claims.poor(auroc(0.79)) and not cliff_claims.poor(auroc(0.81))
    assert "0 of 32" in cliff_claims.uncheckable(None, 0, 32)
    assert cliff_claims.uncheckable(auroc(0.69), 10, 22) and not cliff_claims.uncheckable(auroc(0.71), 10, 22)


@pytest.mark.parametrize(
    "verdicts, said",
    [
        ([], "nothing about its paper yet: no released model was tried"),
        (["underpowered", "uninformative"], "yet: of its claims"),
        (
            ["replicated", "uninformative"],
            "Of its paper's claims, on released models: 1 uninformative, 1 replicated",
        ),
    ],
)
def test_what_a_finding_says_about_its_paper_comes_from_its_verdicts(verdicts, said):
    assert said in standing(verdicts)


def test_the_ledger_that_is_here_is_read_without_constructed_and_smoke_runs(tmp_path, monkeypatch, capsys):
    """Nor those with other parameters, which would count a claim twice, nor what cannot be read."""
    from refusal.base import files
    from refusal.base.files import write_json

    monkeypatch.setattr(files, "RESULTS", tmp_path)
    nothing = Measured(value=None, ci95=None, n=0, controls={"none": 0})
    claim = read_claims(BOOK.with_suffix(".claims.toml"))["03.cliff"]
    whole = record(claim, nothing, "released", "nothing was refused").model_dump(mode="json")
    assert (whole["origin"], whole["verdict"]) == ("paper", "uninformative")
    records = [
        whole,
        whole | {"evidence": "constructed"},
        whole | {"origin": "ours"},
        whole | {"id": "02.steer"},
    ]
    for place in ("embedded/m/03", "smoke/m/03", "embedded/m/03@SEED=1"):
        (tmp_path / place).mkdir(parents=True)
        write_json(tmp_path / place / "claims.json", records)
    for place, text in (
        ("embedded/old/03", '[{"id": "03.old", "verdict": "replicated"}]'),
        ("embedded/cut/03", "[{"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "claims.json").write_text(text)
    assert verdicts_here("03") == ["uninformative"]
    said = capsys.readouterr().err
    assert "old/03/claims.json (" in said and "cut/03/claims.json (" in said


SMALL = {
    "DEVICE": "cpu",
    "REASONER": "reasoner",
    "N": 20,
    "n_train": 24,
    "n_cut": 8,
    "n_random": 5,
    "n_pool": 16,
    "n_select": 4,
    "think_tokens": 12,
}


def keep(self, name, kind, rows, *, title, sample, claims=(), **_):
    """A figure's title in place of the figure; its rows are there, what its claims are drawn beside, and a
    foot that is short and says how many.
    """
    assert len(rows) and title and len(sample) <= 60 and any(x.isdigit() for x in sample), sample
    for id, place in claims.items() if isinstance(claims, dict) else ():
        assert self.reported(id) and all(x in set(rows[column]) for column, x in place.items())
    self.figures[name] = {"title": title}


def run_cells(monkeypatch, reasoner, **given) -> dict:
    """All code cells of the notebook in this process, on the tiny pair and `reasoner`, without drawing;
    returns the records by id.
    """
    load, prompts, tiny = (
        loading.load,
        data.prompts,
        # one that refuses and answers after thinking
        dict.fromkeys(("smollm2-135m-cliff", "smollm2-135m-thinks"), "tiny"),
    )
    monkeypatch.setattr(
        loading,
        "load",
        lambda name, **_: reasoner if name == "reasoner" else load(tiny.get(name, name), device="cpu"),
    )
    monkeypatch.setattr(data, "prompts", lambda *args, tier, **more: prompts(*args, tier="smoke", **more))
    # what stands in for a reasoner here has no name
    monkeypatch.setattr(params, "check_values", lambda *_: None)
    monkeypatch.setattr(cliff_steps, "TRIGGER", " now")  # a word that the tiny models know
    monkeypatch.setattr(recorder, "display", lambda *_, **__: None)
    monkeypatch.setattr(recorder.Recorder, "figure", keep)
    left = {}
    for cell in json.loads(BOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            try:
                exec(
                    "".join(cell["source"]).replace(
                        "from IPython.display import HTML, Markdown, display",
                        "HTML = Markdown = str; display = lambda *_: None",
                    ),
                    left,
                )
            except recorder.NotebookEnded:
                break
            if "parameters" in cell["metadata"].get("tags", []):
                smoke = (
                    {name: p.tiers["smoke"] for name, p in PARAMETERS.items() if "smoke" in p.tiers}
                    if given["TIER"] == "smoke"
                    else {}
                )
                left |= smoke | SMALL | given
    assert all(spec["reading"] for spec in left["run"].figures.values())
    return {r.id: r for r in left["run"].claims}


def test_a_reasoner_that_refuses_and_answers_after_thinking_gets_its_verdicts(monkeypatch):
    """The tiny twin under another name: every claim about a reasoner is asked of it, and none is called
    uninformative for want of a reader or of sets. Where the planted pair does not do what was planted, which
    the tiny twin in both places does not, that is said before the instrument is judged.
    """
    reasoner = replace(loading.load("tiny", device="cpu"), name="reasoner", revision="a natural one")
    found = run_cells(monkeypatch, reasoner, TIER="embedded", reader="tiny-cliff", n_random=20)
    mine = {id: r for id, r in found.items() if ".instrument." not in id}
    assert set(found) == set(CLAIMS) and {r.evidence for r in mine.values()} == {"released"}
    assert "uninformative" not in {r.verdict for r in mine.values()}, {id: r.reason for id, r in mine.items()}
    assert (
        mine["03.heads.score"].controls["random_sets"] == 20
        and mine["03.cliff"].controls["over_reader"] is not None
    )
    assert mine["03.judge.ability"].controls["seeds"] == cliff_steps.SEEDS["cliff"]
    for id in ("cliff", "twin", "judge", "judge.twin"):
        assert "does not do what was planted" in found[f"03.instrument.{id}"].reason
    assert (
        found["03.instrument.judge.twin"].value is not None
        and found["03.instrument.heads.refusal"].verdict == "replicated"
    )


def test_a_reasoner_without_chat_template_ends_before_anything_is_measured(monkeypatch):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = None
    found = run_cells(
        monkeypatch, loading.wrap(tiny_module("qwen2"), tokenizer, name="reasoner"), TIER="smoke"
    )
    assert set(found) == set(CLAIMS) and {r.verdict for r in found.values()} == {"uninformative"}
    assert all("no chat template" in r.reason and r.n == 0 for r in found.values())
    assert {id: r.evidence for id, r in found.items()} == {
        id: "constructed" if ".instrument." in id else "released" for id in CLAIMS
    }


@pytest.mark.parametrize("which", ["never refuses", "random"])
def test_a_reasoner_that_cannot_inform_ends_with_a_reason_for_every_claim(monkeypatch, which):
    reasoner = (
        loading.load("tiny-base", device="cpu")
        if which == "never refuses"
        else loading.wrap(tiny_module("qwen2"), tiny_tokenizer(), name="reasoner")
    )
    found = run_cells(monkeypatch, replace(reasoner, name="reasoner", revision=which), TIER="smoke")
    mine = {id: r for id, r in found.items() if ".instrument." not in id}
    assert (
        set(found) == set(CLAIMS)
        and {r.verdict for r in mine.values()} == {"uninformative"}
        and all(r.reason for r in mine.values())
    )
