"""The ledger's rules: each verdict, the precedence, and what may not enter."""

import pytest
from pydantic import ValidationError

from lib.claims import BEGIN, END, Record, above, all_of, below, decide, readme_with_results, table

RULE = all_of(above("random_high", margin=0.1), below(0.5, of="broken"))
GOOD = {"random_high": 0.2, "broken": 0.1, "broken_ci95": [0.0, 0.2]}


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
        (0.1, [0.05, 0.2], 50, GOOD | {"broken": 0.5, "broken_ci95": [0.4, 0.6]}, None, "not replicated"),  # a no decides over an unclear
        (0.8, [0.7, 0.9], 50, {"random_high": None, "broken": 0.1, "broken_ci95": [0, 0.2]}, None, "underpowered"),
    ],
)
def test_verdicts(value, ci95, n, controls, precondition, verdict):
    assert decide(RULE, value, ci95, n, controls, precondition)[0] == verdict


def test_below_mirrors_above():
    for value, ci95 in ((0.3, [0.2, 0.4]), (0.7, [0.6, 0.8]), (0.5, [0.4, 0.6])):
        mirrored = decide(above(0.5), 1 - value, [1 - ci95[1], 1 - ci95[0]], 30, {})[0]
        assert decide(below(0.5), value, ci95, 30, {})[0] == mirrored


def test_the_reason_says_what_was_compared():
    _, reason = decide(RULE, 0.1, [0.05, 0.2], 50, GOOD)
    assert reason == "the value 0.1 [0.05, 0.2] is not above random_high 0.3"


RECORD = {"id": "02.steer.harm", "paper": "arXiv:2507.11878", "source": "Fig. 4", "statement": "s", "metric": "m", "value": 0.8, "ci95": [0.7, 0.9], "n": 50,
          "controls": {"random_high": 0.2}, "paper_value": None, "evidence": "natural", "expected": "e", "verdict": "replicated", "reason": "r"}  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"controls": {}}, {"ci95": None}, {"verdict": "partly"}, {"id": "steer"}, {"paper": "2507.11878"}, {"evidence": "toy"}, {"extra": 1},
               {"value": None, "ci95": None}]
)  # fmt: skip
def test_a_record_without_control_interval_or_form_does_not_enter(change):
    assert Record(**RECORD)
    with pytest.raises(ValidationError):
        Record(**(RECORD | change))


def test_the_table_shows_paper_here_and_controls():
    (row,) = table([Record(**(RECORD | {"paper_value": {"Llama3": 0.94}}))])
    assert row[1:] == ["Llama3 0.94", "0.80 [0.70, 0.90], n 50", "random high 0.20", "replicated"]


def test_the_readme_part_is_made_between_its_markers():
    text = f"before {BEGIN} old {END} after"
    new = readme_with_results(text)
    assert new.startswith("before ") and new.endswith(" after") and " old " not in new and readme_with_results(new) == new
