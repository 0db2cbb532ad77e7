"""What notebooks say in words: the box, the ledger, readings and the last paragraph hold the records' values,
whole and escaped.
"""

import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from refusal.base.estimate import Estimate
from refusal.report import recorder, rules, shown
from refusal.report.figures import point
from refusal.trace.prompts import chat

CLAIM = dict(
    paper="arXiv:2501.00001",
    source="Table 1",
    metric="m",
    precondition="always",
    rule={"all": [{"above": "random_high", "margin": 0.1}, {"above": 0.3}, {"below": 0.5, "of": "broken"}]},
    paper_value={"Llama": 0.9, "direction": "up"},
)
CONTROLS = {"random_high": 0.2, "broken": 0.01, "broken_ci95": [0.0, 0.1], "beside": 3}


def a_record(id="99.steer.harm", statement="Adding <v> works", value=0.7, **more):
    claim = rules.Claim(id=id, statement=statement, **CLAIM | more)
    measured = rules.Measured(value=value, ci95=(value - 0.1, value + 0.1), n=40, controls=CONTROLS)
    return rules.record(claim, measured, "released")


@pytest.fixture()
def run(llama, monkeypatch, tmp_path):
    """A recorder of one claim that was reported, with what it displayed."""
    found = a_record()
    monkeypatch.setattr(recorder, "read_claims", lambda path: {found.id: found})
    monkeypatch.setattr(recorder, "RESULTS", tmp_path)
    said = []
    monkeypatch.setattr(recorder, "display", lambda shown, **how: said.append(shown))
    monkeypatch.delenv("COMPANION_OUT", raising=False)
    made = recorder.Recorder("99_user", llama)
    made.claims.append(found)
    return made, said


def test_a_run_may_be_evidence_for_more_than_the_claims_file_says(run):
    """The file's claim is about a constructed part; a model that brings that part itself is what it is."""
    made, _ = run
    claim = rules.Claim(id="99.eyes", statement="It sees", evidence="constructed", **CLAIM)
    for id, given, expected in (("99.eyes", None, "constructed"), ("99.own", "trained here", "trained here")):
        made.planned[id] = claim.model_copy(update={"id": id})
        made.claim(id, Estimate(0.7, (0.6, 0.8), 40), CONTROLS, None, given)
        assert made.claims[-1].evidence == expected
    assert made.planned["99.own"].evidence == "constructed"


def test_the_ledger_shows_every_record_whole():
    long = "A statement that is longer than any cell " * 5
    text = shown.ledger([a_record(statement=long), a_record("99.fails", value=0.1)])
    assert long in text
    assert "0.7 [0.6, 0.8], n 40" in text and "random_high 0.2" in text and "broken 0.01" in text
    assert "beside" not in text  # a control that the rule does not use
    assert text.count(shown.badge("replicated")) == 1 and text.count(shown.badge("not replicated")) == 1
    assert "1 not replicated, 1 replicated" in text and "is not above" in text


def test_what_comes_from_records_is_escaped():
    for text in (shown.ledger([a_record()]), shown.opening("Why <b>?", "a & b", [a_record()], "make <x>")):
        assert "Adding &lt;v&gt; works" in text and "<v>" not in text
    assert "Why &lt;b&gt;?" in text and "a &amp; b" in text and "make &lt;x&gt;" in text


def test_the_last_paragraph_says_what_failed_and_why():
    failed = a_record("99.fails", value=0.1)
    ours = a_record("99.ours", origin="ours")
    planted = a_record("99.planted", evidence="constructed")
    text = shown.closing([a_record(), failed, ours, planted])
    assert "Of the paper's claims, 2 in all: 1 not replicated, 1 replicated." in text
    assert f"**99.fails** does not hold here: {failed.reason}." in text
    assert "Of the questions that are ours, 1 in all: 1 replicated." in text
    assert "Of 1 claims about models in which the answer is planted: 1 replicated." in text
    assert "planted" not in shown.closing([failed])


def test_the_box_has_a_line_for_each_claim():
    text = shown.opening("Why?", "m, on cpu", [a_record(), a_record("99.fails", value=0.1)], "make nb-99")
    assert text.count("<li>") == 2 and "1 not replicated, 1 replicated (released)" in text
    assert "No answers yet" in shown.opening("Why?", "m, on cpu", [], "make nb-99")


def test_tokens_are_marked_where_the_package_reads(llama):
    model = llama
    table = pd.DataFrame([{"id": "p", "text": "bake a <b>cake</b>", "source": "s", "label": "harmless"}])
    (prompt,) = chat(model, table)
    cells = re.findall(r"<span[^>]*>(.*?)</span>", shown.tokens(model, prompt))
    assert len(cells) == len(prompt.ids)
    assert cells[prompt.t_inst].endswith("<sub>t_inst</sub>") and cells[-1].endswith("<sub>t_post</sub>")
    assert sum("<sub>" in cell for cell in cells) == 2 and "<b>" not in "".join(cells)


def test_a_figure_holds_its_claims_bars_and_papers_values(run):
    made, _ = run
    data = pd.DataFrame([point("v_harm", Estimate(0.7, [0.6, 0.8], 40), "refusal")])
    words = dict(title="t", xlabel="", ylabel="share", note="n 40")
    made.figure("at", "rates", data, claims={"99.steer.harm": {"group": "v_harm"}}, **words)
    made.figure("beside", "rates", data, claims={"99.steer.harm": {"paper": False}}, **words)
    made.figure("listed", "rates", data, claims=["99.steer.harm"], **words)
    bars = [(b["at"], b["label"], b.get("group")) for b in made.figures["at"]["bars"]]
    assert bars == [
        (pytest.approx(0.3), "above random high by 0.1", "v_harm"),
        (0.3, "above 0.3", "v_harm"),
    ]
    assert made.figures["at"]["paper"] == [{"at": 0.9, "label": "Llama", "group": "v_harm"}]
    assert "paper" not in made.figures["beside"] and len(made.figures["beside"]["bars"]) == 2
    assert made.figures["listed"]["claims"] == ["99.steer.harm"] and "bars" not in made.figures["listed"]
    with pytest.raises(KeyError):
        made.figure("other", "rates", data, claims={"99.other": {}}, **words)


def test_a_reading_belongs_to_a_figure_and_says_something(run):
    made, said = run
    data = pd.DataFrame([point("v_harm", Estimate(0.7, [0.6, 0.8], 40), "refusal")])
    made.figure("one", "rates", data, title="t", xlabel="", ylabel="", note="")
    made.reading("one", "It rises to 70 %.", None, "", "Random ones do not.")
    assert made.figures["one"]["reading"] == "It rises to 70 %. Random ones do not."
    assert said[-1].data == made.figures["one"]["reading"]
    for name, text in (("two", "words"), ("one", None)):
        with pytest.raises(ValueError):
            made.reading(name, text)


def test_the_box_is_answered_when_the_notebook_has_run(run, monkeypatch):
    made, said = run
    boxes = []
    monkeypatch.setattr(made, "box", ("Why?", type("Handle", (), {"update": boxes.append})))
    made.metric("m", torch.tensor(1.0))
    made.figures["f"] = {}
    made.finish()
    assert len(boxes) == 1 and "Adding &lt;v&gt; works: 0.7 [0.6, 0.8], n 40" in boxes[0].data
    made.opening("Why?")
    assert "No answers yet" in said[-1].data  # nothing lies in the results folder


def test_the_box_shows_what_the_last_run_found(run, tmp_path):
    made, said = run
    folder = tmp_path / "embedded" / made.folder / "99_user"
    folder.mkdir(parents=True)
    (folder / "claims.json").write_text(f"[{made.claims[0].model_dump_json()}]")
    (folder / "run.json").write_text('{"duration_s": 61, "longest_s": 121.0}')
    made.opening("Why?")
    assert "0.7 [0.6, 0.8], n 40" in said[-1].data and "about 3 minutes" in said[-1].data
    (folder / "claims.json").write_text('[{"id": "of an older version"}]')
    made.opening("Why?")
    assert "No answers yet" in said[-1].data


@pytest.mark.parametrize(
    "verdict, needed, said",
    [
        ("replicated", None, "replicated"),
        ("not replicated", None, "not replicated"),
        ("underpowered", 87, "underpowered (about 87 items would decide)"),
        ("underpowered", None, "underpowered"),
        ("uninformative", None, "uninformative: nothing was refused"),
    ],
)
def test_a_verdict_in_prose_leaves_the_comparison_to_the_ledger(verdict, needed, said):
    """Names of controls and digits of bounds are no words."""
    reason = (
        "nothing was refused" if verdict == "uninformative" else "over_bar_1 0.0358 is not above random_high"
    )
    assert shown.why(SimpleNamespace(verdict=verdict, needed_n=needed, reason=reason)) == said
