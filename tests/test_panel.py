"""The panel for steering: what it computes is what plain calls give, as widgets and as text."""

import pandas as pd
import pytest
import torch

from refusal.base.errors import ParameterError
from refusal.measure.readouts import refusal_score
from refusal.report import panel
from refusal.trace.decode import generate
from refusal.trace.edits import Add
from refusal.trace.prompts import chat
from refusal.trace.reads import score

PROMPTS = ["please paint the table", "kill the lamp"]


@pytest.fixture(scope="module")
def given(planted):
    torch.manual_seed(0)
    vectors = 5 * torch.randn(planted.n_layers + 1, planted.d_model)
    first = planted.tokenizer("Sorry", add_special_tokens=False)["input_ids"][:1]
    return {"random": vectors, "nothing": torch.zeros_like(vectors)}, refusal_score(first)


def expected(model, text, vector, layer, coefficient, readout, n, span):
    prompts, arms = chat(model, [text]), [[], [Add(vector, layer, span, coefficient)]]
    scores = [f"{value:.2f}" for value in score(model, prompts, readout, arms)[:, 0].tolist()]
    answers = [repr(said[0]) for said in generate(model, prompts, arms, n)]
    return pd.DataFrame([scores, answers], index=["score", f"first {n} tokens"], columns=["without", "with"])


def test_without_a_notebook_the_first_prompt_is_text(planted, given, capsys):
    directions, readout = given
    panel.steering(planted, directions, PROMPTS, readout, span="prompt", max_new_tokens=5)
    layer = planted.n_layers // 2
    wanted = expected(planted, PROMPTS[0], directions["random"][layer], layer, 2.0, readout, 5, "prompt")
    assert wanted.loc["score", "without"] != wanted.loc["score", "with"]
    where = f"random added at layer {layer}, span prompt, coefficient 2"
    assert capsys.readouterr().out == f"{PROMPTS[0]}\n{where}\n\n{wanted.T.to_string()}\n"


def test_without_a_readout_there_are_answers_only(planted, given, capsys):
    panel.steering(planted, given[0], PROMPTS)
    said = capsys.readouterr().out
    assert "score" not in said and "first 12 tokens" in said


@pytest.fixture()
def widgets(planted, given):
    """The panel's widgets by what they are called, and what was asked of it."""
    directions, readout = given
    asked = []

    def compare(setting):
        asked.append(setting)
        return panel.effect(planted, setting, directions, readout, "instruction", 4)

    first = panel.Setting(PROMPTS[0], "random", 3, 1.0)
    box = panel.controls(first, compare(first), compare, list(directions), PROMPTS, planted.n_layers)
    asked.clear()
    return {c.description or "result": c for c in box.children}, asked


def test_the_button_computes_what_is_set(planted, given, widgets):
    found, asked = widgets
    found["prompt"].value = PROMPTS[1]
    assert not asked  # not while somebody writes
    found["Compute"].click()
    vector = given[0]["random"][3]
    wanted = expected(planted, PROMPTS[1], vector, 3, 1.0, given[1], 4, "instruction")
    shown = found["result"].value
    assert all(f">{v}<" in shown for v in wanted.to_numpy().ravel()), shown


@pytest.mark.parametrize(
    "control, value",
    [("layer", 1), ("coefficient", -2.0), ("direction", "nothing")],
)
def test_sliders_and_directions_compute_when_they_are_set(widgets, control, value):
    found, asked = widgets
    assert not getattr(found[control], "continuous_update", False)
    found[control].value = value
    assert [getattr(setting, control) for setting in asked] == [value]


def test_an_example_is_put_where_it_can_be_changed(widgets):
    found, asked = widgets
    found["example"].value = PROMPTS[1]
    assert found["prompt"].value == PROMPTS[1]
    found["prompt"].value = "please lift a stone"  # is none of the examples
    found["Compute"].click()
    assert [setting.prompt for setting in asked] == ["please lift a stone"]


def test_a_prompt_that_cannot_be_used_is_told_in_the_panel(widgets):
    found, _ = widgets
    found["prompt"].value = " "
    found["Compute"].click()
    assert "no token covers the instruction" in found["result"].value
    assert found["Compute"].description == "Compute" and not found["Compute"].disabled


def test_the_button_says_that_it_is_at_work_and_the_panel_what_failed(planted):
    seen = []

    def compare(_):
        seen.append((button.disabled, button.description))
        raise ZeroDivisionError("a bug")

    first = panel.Setting(PROMPTS[0], "random", 3, 1.0)
    box = panel.controls(first, pd.DataFrame(), compare, ["random"], PROMPTS, planted.n_layers)
    button, result = box.children[-2:]
    button.click()
    assert seen == [(True, "Computing …")] and not button.disabled and button.description == "Compute"
    assert "ZeroDivisionError: a bug" in result.value


def test_an_answer_is_shown_as_text_and_whole():
    said = "<b>" + "word " * 30
    shown = panel._table(pd.DataFrame({"with": [repr(said)]}, index=["first 24 tokens"]))
    assert "&lt;b&gt;" in shown and shown.count("word ") == 30


def test_what_cannot_be_shown_is_an_error(planted, given):
    directions, _ = given
    for wrong, message in (
        ({"prompts": []}, "no prompts or no directions"),
        ({"directions": {}}, "no prompts or no directions"),
        ({"directions": {"v": directions["random"][:-1]}}, "direction 'v' has the shape"),
        ({"directions": {"v": directions["random"][0]}}, "direction 'v' has the shape"),
        ({"max_new_tokens": panel.FEW + 1}, "max_new_tokens=25 is out of range"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is out of range"),
    ):
        with pytest.raises(ParameterError, match=message):
            panel.steering(planted, **({"directions": directions, "prompts": PROMPTS} | wrong))
