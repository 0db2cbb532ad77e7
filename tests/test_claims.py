"""The ledger's rules: each verdict, the precedence, what may not enter, and how rules are written down."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from refusal.base import files
from refusal.base.errors import UserError
from refusal.base.files import NOTEBOOKS
from refusal.report import pages
from refusal.report.pages import BEGIN, END
from refusal.report.render import counts, table
from refusal.report.rules import (
    Claim,
    Measured,
    Record,
    decide,
    evidence_of,
    read_claims,
    read_records,
    record,
    rule_of,
)
from refusal.run import cli
from refusal.run.parts import parts_of_findings

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
    on_it = decide(rule_of({"above": 0.3}), measured(0.1 + 0.2, [0.2, 0.4], 25))  # but for rounding
    assert on_it[2] is None and "lies on its bar" in on_it[1]


def test_a_missing_control_says_that_more_items_do_not_help():
    verdict, reason, n = decide(RULE, measured(0.8, [0.7, 0.9], controls=GOOD | {"random_high": None}))
    assert (verdict, n) == ("underpowered", None)
    assert reason == "random_high could not be measured; no number of items decides without it"


@pytest.mark.parametrize(
    "value, ci95, controls, said, needed",
    [
        (0.6, [0.4, 0.8], GOOD, "about 100 items would decide, 25 were used", 100),
        (0.5, [0.3, 0.7], GOOD, "a value lies on its bar, so no number of items decides", None),
        (
            0.9,
            [0.8, 1.0],
            GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]},
            "a value lies on its bar, so no number of items decides",
            None,
        ),
        (
            0.9,
            [0.8, 1.0],
            GOOD | {"broken": 0.45, "broken_ci95": [0.25, 0.65]},
            "about 400 items would decide, 25 were used, with as many times the items of broken",
            400,
        ),
        (
            0.6,
            [0.4, 0.8],
            GOOD | {"broken": 0.45, "broken_ci95": [0.4, 0.51]},
            "about 100 items would decide, 25 were used, with as many times the items of broken",
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
        "about 40 items would decide, 25 were used, with as many times the items of random_high"
    )
    groups = {"group_a": 0.1, "group_a_ci95": [-0.1, 0.3], "group_b": 0.4, "group_b_ci95": [0.3, 0.5]}
    groups |= {"group_c": 0.2, "group_c_ci95": [-0.1, 0.5]}
    rule = rule_of({"all": [{"above": 0.5}, {"all": [{"above": 0, "of": "group_*"}]}]})
    _, reason, n = decide(rule, measured(0.8, [0.7, 0.9], controls=groups))
    assert n == 200 and reason.endswith(  # a needs four times as many, c two and a quarter times
        "about 200 items would decide, 50 were used, with as many times the items of group_a, group_c"
    )


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


TOML = """[[claim]]
id = "02.steer.harm"
paper = "arXiv:2507.11878"
source = "Fig. 4"
statement = "s"
metric = "m"
precondition = "the model refuses"
rule = {above = "random_high"}
"""


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "there is no claims file 02_x.claims.toml beside the notebook"),
        ("", "02_x.claims.toml is no claims file: 'claim'"),
        ("[[claim]\n", "02_x.claims.toml is no claims file: "),
        ("claim = [1]", "claim that is no table: "),
        (TOML + TOML, "has the claim 02.steer.harm twice"),
        (TOML.replace("metric", "metrics"), "claim 02.steer.harm: metric"),
        (TOML.replace("above", "abvoe"), "claim 02.steer.harm: rule."),
        (TOML.partition("\n")[0] + "\n" + TOML.partition("\n")[2].partition("\n")[2], "without an id: id: "),
    ],
)
def test_a_claims_file_that_is_none_is_an_error_of_two_lines(tmp_path, text, says):
    path = tmp_path / "02_x.claims.toml"
    path.write_text(TOML)
    assert read_claims(path)["02.steer.harm"].statement == "s"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_claims(path)
    assert says in str(raised.value) and len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '[{"id": "02.x"}]', "null"])
def test_what_are_no_records_is_one_kind_of_error(tmp_path, text):
    path = tmp_path / "claims.json"
    made = record(Claim(**CLAIM), measured(0.8, [0.7, 0.9]), "released")
    path.write_text(f"[{made.model_dump_json()}]")
    assert read_records(path) == [made]
    path.write_text(text)
    with pytest.raises(ValueError):
        read_records(path)


@pytest.mark.parametrize("side, sign", [("above", 1), ("below", -1)])
def test_where_a_bar_lies(side, sign):
    """A number stands where it stands; a control is scaled; the margin goes to the claimed side."""
    number, control = (
        rule_of({side: bar, "margin": 0.1, "times": times}) for bar, times in ((0.5, 1.0), ("r", 3.0))
    )
    assert number.at(None) == number.at(9.0) == pytest.approx(0.5 + sign * 0.1)
    assert control.at(None) is None and control.at(0.2) == pytest.approx(0.6 + sign * 0.1)
    seen = measured(0.8, [0.7, 0.9], controls={"r": 0.2})
    assert control.level(seen) == control.at(0.2) and number.level(seen) == number.at(None)


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


@pytest.mark.parametrize("own", [None, "released", "trained here", "constructed"])
def test_what_another_claim_is_about_is_constructed_where_the_notebooks_models_are(own):
    claim = Claim(**CLAIM | {"evidence": own})
    found = measured(0.8, [0.7, 0.9])
    assert record(claim, found, "constructed").evidence == "constructed"
    assert record(claim, found, "released").evidence == (own or "released")


RUNS = sorted((files.RESULTS / "embedded").glob("*/*/claims.json"))


@pytest.mark.parametrize("path", RUNS, ids=lambda p: f"{p.parent.parent.name}-{p.parent.name[:3]}")
def test_a_figure_of_models_trained_in_a_run_names_no_other(path):
    """Where all that a figure is about is of models trained in this run, it does not carry the run's."""
    of = {r.id: r for r in read_records(path)}
    name = json.loads((path.parent / "run.json").read_text())["model"]["name"]
    if evidence_of(*name.split("--vs--")) != "released":
        return
    for figure, spec in json.loads((path.parent / "figures.json").read_text()).items():
        about = {of[id].evidence for id in spec.get("claims", []) if id in of}
        assert about != {"trained here"} or spec["model"] != name, figure


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
    new = pages.between(f"before {BEGIN} old {END} after", "made")
    assert new == f"before {BEGIN}\n\nmade\n\n{END} after" and pages.between(new, "made") == new


def entry(model, value, id="02.a", half=0.1, **change):
    made = record(
        Claim(**(CLAIM | {"id": id, "statement": f"what {id} says"} | change.pop("claim", {}))),
        measured(value, [value - half, value + half]),
        change.pop("evidence", "released"),
        **change,
    )
    return "embedded", model, made


PAGE = {
    "02": pages.Finding(
        "02_x",
        "does it?",
        headlines={"02.a": "half of it ({value})", "02.gone": "no"},
        paragraph=lambda rs: f"{len(rs)} seen",
    )
}


def test_the_ledgers_page_has_a_row_per_claim_and_a_column_per_model():
    ledger = [
        entry("one", 0.8),
        entry("one", 0.8, "02.b"),
        entry("two", 0.1, "02.b", evidence="trained here"),
        entry("two", 0.007, "02.ours", 0.002, evidence="trained here", claim={"origin": "ours"}),
        entry("two", 0.9, "02.planted", evidence="constructed"),
        entry("one", 0.9, "02.planted", evidence="constructed"),
        entry("one @ SEED=1", 0.1),
    ]
    page = pages.ledger_page(ledger, PAGE)
    lines = page.splitlines()
    assert "| claim | paper's value | `one` (released) | `two` (trained here) |" in lines
    a = "| `02.a` what 02.a says | – | **replicated** 0.80 [0.70, 0.90], n 50 | not run |"
    b = (
        "| `02.b` what 02.b says | – | **replicated** 0.80 [0.70, 0.90], n 50 "
        "| **not replicated** 0.10 [0.00, 0.20], n 50 |"
    )
    assert lines.index(b) < lines.index(a)  # what disagrees with a paper comes first
    ours = "| `02.ours` what 02.ours says | not run | **not replicated** 0.007 [0.005, 0.009], n 50 |"
    assert lines.index(a) < lines.index(ours)
    planted = [n for n, line in enumerate(lines) if line.startswith("| `02.planted`")]
    assert len(planted) == 1 and planted[0] > lines.index('<a id="constructed"></a>')
    assert "`one`. 3 seen" in lines and "`two`. 3 seen" in lines
    assert (
        lines[-1]
        == "- `SEED=1`: 1 of 1 verdicts change: 02.a from replicated (0.80) to not replicated (0.10)"
    )
    assert page == pages.ledger_page(ledger, PAGE)


def test_pages_without_runs_say_so():
    assert "No run of this notebook is committed." in pages.ledger_page([], PAGE)
    assert "| no run is committed | none run | none run |" in pages.first_screen([], PAGE, None)


def test_the_first_screen_speaks_of_the_default_model_and_of_what_other_parameters_change():
    ledger = [
        entry("weak", 0.8),
        entry("weak @ SEED=1", 0.8),
        entry("weak @ alpha=2", 0.1),
        entry("strong", 0.8),
        entry("strong", 0.8, "02.b"),
    ]
    came = lambda default: pages.first_screen(
        ledger, {n: replace(f, default=default) for n, f in PAGE.items()}, None
    )
    weak = "replicated; `SEED=1` changes 0 of 1 verdicts, `alpha=2` changes 1 of 1 verdicts |"
    tier = ledger[0][0]
    shown = came((tier, "weak"))  # most run on it: named once, at the head of the column
    assert weak in shown and "on `weak` where no other is named" in shown and shown.count("`weak`") == 1
    assert "on `strong` |" in came((tier, "none of these"))


def test_the_first_screen_speaks_of_the_model_that_decides_most_without_the_default_one():
    ledger = [
        entry("trained", 0.1, evidence="trained here"),
        entry("weak", 0.3),
        entry("released", 0.8),
        entry("released", 0.8, "02.ours", claim={"origin": "ours"}),
        entry("released", 0.9, "02.planted", evidence="constructed"),
    ]
    row = pages.first_screen(ledger, PAGE, pages.Picture("p.png", "alt", "reading")).splitlines()
    assert row[:3] == ["![alt](p.png)", "", "reading"]
    assert row[-1] == (
        "| [02](notebooks/02_x.ipynb) does it? | half of it (0.80): replicated; on `released` "
        "| 1 underpowered, 1 replicated | 1 not replicated |"
    )


def test_every_headline_is_a_claim_and_every_picture_is_read_from_records():
    for module in parts_of_findings("readme"):
        number = module.__name__.split(".")[-2].removeprefix("f")
        claims = read_claims(next(NOTEBOOKS.glob(f"{number}_*.claims.toml")))
        headlines = getattr(module, "HEADLINES", {})
        assert headlines and set(headlines) <= set(claims), number
        if hasattr(module, "picture"):
            assert module.picture("folder", "model", []) is None


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
