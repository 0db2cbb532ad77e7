"""The ledger's rules: each verdict, the precedence, what may not enter, and how rules are written down."""

import json

import pytest
from pydantic import ValidationError

from refusal.base import files
from refusal.base.files import NOTEBOOKS
from refusal.report.render import BEGIN, END, counts, readme_with_results, table
from refusal.report.rules import Claim, Measured, Record, decide, evidence_of, read_claims, record, rule_of
from refusal.run import cli

RULE = rule_of({"all": [{"above": "random_high", "margin": 0.1}, {"below": 0.5, "of": "broken"}]})
GOOD = {"random_high": 0.2, "broken": 0.1, "broken_ci95": [0.0, 0.2]}


def measured(value, ci95, n=50, controls=GOOD):
    return Measured(value=value, ci95=ci95, n=n, controls=controls)


@pytest.mark.parametrize(
    "value, ci95, n, controls, precondition, verdict",
    [
        (0.8, [0.7, 0.9], 50, GOOD, None, "replicated"),
        (0.1, [0.05, 0.2], 50, GOOD, None, "not replicated"),
        (0.3, [0.2, 0.3], 50, GOOD, None, "not replicated"),  # at the bar is not above it
        (0.35, [0.25, 0.45], 50, GOOD, None, "underpowered"),
        (0.8, [0.7, 0.9], 19, GOOD, None, "underpowered"),
        (0.8, [0.7, 0.9], 50, GOOD, "the model never refuses", "uninformative"),
        (None, None, 0, GOOD, "the model never refuses", "uninformative"),  # before underpowered
        (0.8, [0.7, 0.9], 50, GOOD | {"broken": 0.9, "broken_ci95": [0.8, 1.0]}, None, "not replicated"),
        (0.8, [0.7, 0.9], 50, GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]}, None, "underpowered"),
        # a no decides over an unclear
        (0.1, [0.05, 0.2], 50, GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]}, None, "not replicated"),
        (0.8, [0.7, 0.9], 50, GOOD | {"random_high": None}, None, "underpowered"),
        # a control that is missing comes before a no
        (0.1, [0.05, 0.2], 50, {"random_high": 0.2, "broken": None}, None, "underpowered"),
    ],
)
def test_verdicts(value, ci95, n, controls, precondition, verdict):
    assert decide(RULE, measured(value, ci95, n, controls), precondition)[0] == verdict


def test_too_few_random_sets_decide_nothing():
    """Sufficiency comes before the rule: a value that fails is no evidence against a paper where its control
    is too small.
    """
    rule = rule_of({"all": [{"above": "random_high"}, {"enough": "random_sets", "n": 20}]})
    for sets, verdict in ((3, "underpowered"), (None, "underpowered"), (20, "not replicated")):
        assert (
            decide(rule, measured(0.1, [0.0, 0.15], controls={"random_high": 0.2, "random_sets": sets}))[0]
            == verdict
        )


def test_below_mirrors_above():
    for value, ci95 in ((0.3, [0.2, 0.4]), (0.7, [0.6, 0.8]), (0.5, [0.4, 0.6])):
        mirrored = decide(rule_of({"above": 0.5}), measured(1 - value, [1 - ci95[1], 1 - ci95[0]]))[0]
        assert decide(rule_of({"below": 0.5}), measured(value, ci95))[0] == mirrored


def test_a_pattern_asks_every_control_that_fits_and_at_least_one():
    rule = rule_of({"above": 0, "of": "group_*"})
    both = {
        "group_a": 0.2,
        "group_a_ci95": [0.1, 0.3],
        "group_b": 0.1,
        "group_b_ci95": [-0.2, -0.1],
        "group_a_n": 30,
    }
    assert decide(rule, measured(1.0, [0.9, 1.1], controls=both))[0] == "not replicated"
    assert (
        decide(rule, measured(1.0, [0.9, 1.1], controls=both | {"group_b_ci95": [0.05, 0.2]}))[0]
        == "replicated"
    )
    assert decide(rule, measured(1.0, [0.9, 1.1], controls={"other": 1.0}))[0] == "underpowered"


def test_a_bar_that_is_a_control_can_be_scaled():
    rule = rule_of({"below": "ceiling", "times": 0.5})
    assert decide(rule, measured(0.3, [0.25, 0.35], controls={"ceiling": 0.8}))[0] == "replicated"
    assert decide(rule, measured(0.3, [0.25, 0.35], controls={"ceiling": 0.5}))[0] == "not replicated"


def test_needed_n_is_what_would_put_the_interval_on_one_side():
    verdict, _, n = decide(rule_of({"above": 0.5}), measured(0.6, [0.4, 0.8], 25))
    assert verdict == "underpowered" and n == 100  # half the width needs four times the items
    assert decide(rule_of({"above": 0.5}), measured(0.5, [0.4, 0.6], 25))[2] is None


def test_a_missing_control_says_that_more_items_do_not_help():
    verdict, reason, n = decide(RULE, measured(0.8, [0.7, 0.9], controls=GOOD | {"random_high": None}))
    assert (verdict, n) == ("underpowered", None)
    assert reason == "random_high could not be measured; no number of items decides without it"


@pytest.mark.parametrize(
    "value, ci95, controls, said, needed",
    [
        (0.6, [0.4, 0.8], GOOD, "about 100 items would decide, 25 were used", 100),
        (0.5, [0.3, 0.7], GOOD, "the value lies on its bar, so no number of items decides", None),
        (
            0.9,
            [0.8, 1.0],
            GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]},
            "more items of broken would help",
            None,
        ),
        (
            0.6,
            [0.4, 0.8],
            GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]},
            "about 100 items would decide, 25 were used; more items of broken would help",
            100,
        ),
    ],
)
def test_an_unclear_reason_says_what_would_decide(value, ci95, controls, said, needed):
    rule = rule_of({"all": [{"above": 0.5}, {"below": 0.5, "of": "broken"}]})
    verdict, reason, n = decide(rule, measured(value, ci95, 25, controls))
    assert (verdict, n) == ("underpowered", needed) and reason.endswith("; " + said)


def test_a_bar_that_is_a_control_and_a_pattern_are_named_by_control():
    _, reason, n = decide(rule_of({"above": "random_high"}), measured(0.4, [0.15, 0.65], 25))
    assert n == 40 and reason.endswith(
        "about 40 items would decide, 25 were used; more items of random_high would help"
    )
    groups = {"group_a": 0.1, "group_a_ci95": [-0.1, 0.3], "group_b": 0.4, "group_b_ci95": [0.3, 0.5]}
    groups |= {"group_c": 0.2, "group_c_ci95": [-0.1, 0.5]}
    rule = rule_of({"all": [{"above": 0.5}, {"all": [{"above": 0, "of": "group_*"}]}]})
    _, reason, n = decide(rule, measured(0.8, [0.7, 0.9], controls=groups))
    assert n is None and reason.endswith("; more items of group_a, group_c would help")


def test_the_reason_says_what_was_compared():
    reason = decide(RULE, measured(0.1, [0.05, 0.2]))[1]
    assert reason == "the value 0.1 [0.05, 0.2] is not above random_high 0.3"
    assert RULE.words() == "value above random_high by 0.1; broken below 0.5"


@pytest.mark.parametrize(
    "wrong",
    [{"over": 1}, {"above": 1, "below": 2}, {"all": []}, {"enough": "sets"}, {"above": 0.5, "margins": 1}],
)
def test_a_rule_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError):
        rule_of(wrong)


CLAIM = {
    "id": "02.steer.harm",
    "paper": "arXiv:2507.11878",
    "source": "Fig. 4",
    "statement": "s",
    "metric": "m",
    "precondition": "the model refuses",
    "rule": {"above": "random_high"},
}


def test_a_verdict_can_be_computed_again_from_the_record_alone():
    made = record(Claim(**CLAIM), measured(0.8, [0.7, 0.9]), "released")
    again = Record.model_validate_json(made.model_dump_json())
    assert again == made and decide(
        again.rule, Measured(**{k: getattr(again, k) for k in Measured.model_fields})
    )[:2] == (again.verdict, again.reason)


@pytest.mark.parametrize(
    "change",
    [
        {"controls": {}},
        {"ci95": None},
        {"verdict": "partly"},
        {"id": "steer"},
        {"paper": "2507.11878"},
        {"evidence": "natural"},
        {"extra": 1},
        {"value": None, "ci95": None},
        {"origin": "theirs"},
    ],
)
def test_a_record_without_control_interval_or_form_does_not_enter(change):
    good = record(Claim(**CLAIM), measured(0.8, [0.7, 0.9]), "released").model_dump()
    assert Record(**good)
    with pytest.raises(ValidationError):
        Record(**(good | change))


def test_evidence_is_that_of_the_model_furthest_from_a_released_one():
    assert (
        evidence_of("qwen2.5-coder-0.5b-instruct") == "released" and evidence_of("owner/model") == "released"
    )
    assert evidence_of("smollm2-135m-instruct", "smollm2-135m-safe") == "trained here"
    assert (
        evidence_of("smollm2-135m-safe", "smollm2-135m-cliff") == "constructed"
        and evidence_of("tiny") == "constructed"
    )


def test_the_table_shows_paper_here_and_controls():
    made = record(Claim(**(CLAIM | {"paper_value": {"Llama3": 0.94}})), measured(0.8, [0.7, 0.9]), "released")
    assert table([made])[0][1:] == [
        "Llama3 0.94",
        "0.80 [0.70, 0.90], n 50",
        "random high 0.20, broken 0.10",
        "replicated",
    ]
    assert counts([made, made]) == "2 replicated"


def test_the_readme_part_is_made_between_its_markers():
    text = f"before {BEGIN} old {END} after"
    new = readme_with_results(text)
    assert (
        new.startswith("before ")
        and new.endswith(" after")
        and " old " not in new
        and readme_with_results(new) == new
    )


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9][0-9]*_*.ipynb")), ids=lambda p: p.stem)
def test_every_notebook_has_its_claims_file(path):
    claims = read_claims(path.with_suffix(".claims.toml"))
    number = path.stem.split("_")[0]
    assert claims and all(id.startswith(f"{number}.") for id in claims)
    assert all(c.paper_value for c in claims.values() if c.origin == "paper"), (
        "a paper's claim needs the paper's value"
    )


@pytest.fixture()
def ledger(tmp_path, monkeypatch):
    """A ledger of three runs: two verdicts each of a model and of a pair, one of other parameters."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    for place, values in (
        ("embedded/one/02_x", (0.8, 0.3)),
        ("embedded/owner--two--vs--one/02_x", (0.8, 0.02)),
        ("paper/three/02_x@SEED=1", (0.3,)),
    ):
        records = [
            record(Claim(**(CLAIM | {"id": f"02.c{k}"})), measured(v, [v - 0.15, v + 0.15]), "released")
            for k, v in enumerate(values)
        ]
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "claims.json").write_text(
            json.dumps([json.loads(r.model_dump_json()) for r in records])
        )


@pytest.mark.parametrize(
    "filters, shown",
    [
        ({}, "2 replicated, 2 underpowered, 1 not replicated"),
        ({"MODEL": "one"}, "2 replicated, 1 underpowered, 1 not replicated"),
        ({"MODEL": "owner/two"}, "1 replicated, 1 not replicated"),
        ({"MODEL": "owner--two--vs--one"}, "1 replicated, 1 not replicated"),
        ({"MODEL": "three"}, "1 underpowered"),
        ({"MODEL": "three @ SEED=1"}, "1 underpowered"),
        ({"VERDICT": "underpowered"}, "2 underpowered"),
        ({"VERDICT": "not replicated", "MODEL": "one"}, "1 not replicated"),
        ({"TIER": "paper"}, "1 underpowered"),
        ({"TIER": "paper", "VERDICT": "replicated"}, "no claim is replicated here"),
    ],
)
def test_the_ledger_is_filtered(ledger, monkeypatch, capsys, filters, shown):
    for name, value in filters.items():
        monkeypatch.setenv(f"COMPANION_PARAM_{name}", value)
    assert cli.main(["claims"]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == shown


@pytest.mark.parametrize(
    "filters, message",
    [
        ({"VERDICT": "replcated"}, "VERDICT=replcated is not known\n  did you mean 'replicated'?"),
        ({"TIER": "papre"}, "TIER=papre is not known\n  did you mean 'paper'?"),
        ({"MODEL": "thre"}, "no run here is of MODEL=thre\n  did you mean 'three'?"),
        ({"MODEL": "one", "TIER": "paper"}, "no run here is of MODEL=one"),
        ({"TIER": "smoke"}, "the ledger is empty"),
        ({"SEED": "1"}, "make claims takes no SEED\n  valid: MODEL, PLAN, TIER, VERDICT"),
        ({"PLAN": "yes"}, "PLAN=yes is not known"),
        ({"PLAN": "1", "MODEL": "one"}, "PLAN lists every claim, MODEL cannot be set beside it"),
    ],
)
def test_a_filter_that_can_fit_nothing_names_what_could(ledger, monkeypatch, capsys, filters, message):
    for name, value in filters.items():
        monkeypatch.setenv(f"COMPANION_PARAM_{name}", value)
    assert cli.main(["claims"]) == (1 if "empty" in message else 2) and message in capsys.readouterr().err
