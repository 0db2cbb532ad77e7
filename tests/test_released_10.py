"""Released answers read from a made-up DATA folder, each way it can be wrong, and the paper's text
classifiers against scikit-learn written out.
"""

import csv
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from refusal.base.errors import ParameterError
from refusal.base.files import NOTEBOOKS, sha256
from refusal.findings.f10 import recognise, released
from refusal.run import cli, params, runner

TONES = ["complied", "rejected", "complied", "redirected", "dontknow", "complied", "disclaimed", "complied"]
THINGS = ["lamps", "boats", "maps", "bread", "clocks", "bells", "chairs", "kites"]
VERBS = ["paint", "sell", "carry", "draw", "count", "fold", "lend"]


def row(prompt: str, tone: str) -> dict:
    said = "This is how." if tone == "complied" else "That is not something for me."
    return {"prompt": prompt, "response": f"{said} {prompt[:12]}", "tone": tone, "finish_reason": "stop"}


def made(folder: Path) -> Path:
    """A folder with both sets: 40 + 30 + 6 rows of the authors, shuffled, and 12 of each of five models."""
    asked = [f"How do I {verb} {thing}?" for verb in VERBS for thing in THINGS]
    sources = {
        "quora": asked[:40],
        "political": [f"Write a poem about minister {k}" for k in range(30)],
        "news": [f"What is in  paper {k}?" for k in range(6)],
    }
    rows = {
        s: [row(p, TONES[k % len(TONES)]) for k, p in enumerate(prompts)] for s, prompts in sources.items()
    }
    for source, name in released.SOURCES.items():
        (folder / name).write_text(json.dumps(rows[source]))
    everything = [r for some in rows.values() for r in some]
    order = np.random.default_rng(0).permutation(len(everything))
    (folder / released.ALL).write_text(json.dumps([everything[k] for k in order]))
    labels = list(released.LABELS)
    for name in released.XSTEST:
        with (folder / name).open("w", newline="") as f:
            lines = [["id", "prompt", "completion", "annotation_1", "final_label"]]
            lines += [[k, asked[k], f"Well,\nNA {k}", "", labels[k % 3]] for k in range(12)]
            csv.writer(f).writerows(lines)
    return folder


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path)


def test_both_sets_are_read_in_the_order_of_their_files(folder):
    found = released.read(str(folder))
    released.check(str(folder))
    raw = json.loads((folder / released.ALL).read_text())
    kept = [r for r in raw if r["tone"] != "dontknow"]
    answers = found.answers
    assert list(answers.columns) == ["prompt", "response", "tone", "source", "refused"]
    assert answers.prompt.tolist() == [r["prompt"] for r in kept] and len(kept) == 76 - (5 + 4 + 1)
    assert answers.response.tolist() == [r["response"] for r in kept]
    assert answers.refused.tolist() == [r["tone"] != "complied" for r in kept]
    assert answers.source.value_counts().to_dict() == {"quora": 35, "political": 26, "news": 5}
    assert set(answers.prompt[answers.source == "news"].str[:7]) == {"What is"}
    assert list(found.xstest.columns) == ["model", "prompt", "completion", "label", "refused"]
    assert found.xstest.model.tolist() == [model for model in released.MODELS for _ in range(12)]
    assert found.xstest.refused.tolist() == [False, True, True] * 20
    assert found.xstest.completion[0] == "Well,\nNA 0"
    assert not found.listed


def test_one_set_alone_and_none(folder, tmp_path_factory):
    assert released.read("") == released.Released() and released.hashes("") == {}
    released.check("")
    for left, names in (("answers", released.XSTEST), ("xstest", released.AUTHORS)):
        alone = made(tmp_path_factory.mktemp("alone"))
        for name in names:
            (alone / name).unlink()
        found = released.read(str(alone))
        assert getattr(found, left) is not None and {"answers", "xstest"} == {left} | {
            name for name in ("answers", "xstest") if getattr(found, name) is None
        }


@pytest.mark.parametrize("values", [list, lambda side: {str(k): v for k, v in enumerate(side)}])
def test_columns_as_pandas_writes_them_are_the_same_rows(folder, values):
    before = released.read(str(folder)).answers
    for name in released.AUTHORS:
        rows = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: values([r[key] for r in rows]) for key in rows[0]}))
    pd.testing.assert_frame_equal(released.read(str(folder)).answers, before)


def test_other_bytes_than_listed_are_said(folder, monkeypatch):
    (folder / "quora_insincere_large_bootstrap.json").write_text("not read")
    found = released.hashes(str(folder))
    assert set(found) == {*released.AUTHORS, *released.XSTEST} and len(found) == 9
    assert found[released.ALL] == sha256(folder / released.ALL)
    listed = released.listed_hashes()
    assert set(listed) == set(found)
    assert {len(h) for h in listed.values()} == {64}
    assert not released.read(str(folder)).listed
    monkeypatch.setattr(released, "listed_hashes", lambda: found)
    assert released.read(str(folder)).listed
    (folder / "nyp.json").write_text((folder / "nyp.json").read_text() + "\n")
    assert not released.read(str(folder)).listed


def test_listed_bytes_may_have_an_answer_without_text_and_others_not(folder, monkeypatch):
    change(folder, released.XSTEST[1], lambda rows: [rows[0] | {"completion": " "}, *rows[1:]])
    with pytest.raises(ParameterError, match="llama2new.csv: row 1 has no completion"):
        released.read(str(folder))
    monkeypatch.setattr(released, "listed_hashes", lambda: now)
    now = {name: sha256(folder / name) for name in (*released.AUTHORS, *released.XSTEST)}
    assert len(released.read(str(folder)).xstest) == 60


def change(folder: Path, name: str, how) -> None:
    """Rewrite a file with its rows changed."""
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(how(json.loads(path.read_text()))))
    else:
        rows = how(pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"))
        pd.DataFrame(rows).to_csv(path, index=False)


def first(**values):
    return lambda rows: [rows[0] | values, *rows[1:]]


def without(column: str):
    return lambda rows: [{k: v for k, v in r.items() if k != column} for r in rows]


def all_of(column: str, value: str):
    return lambda rows: [r | {column: value} for r in rows]


ALL, GPT4 = released.ALL, released.XSTEST[0]


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        (ALL, without("tone"), "all_hand_labeled.json has no column 'tone'"),
        ("nyp.json", without("prompt"), "nyp.json has no column 'prompt'"),
        (GPT4, without("final_label"), "gpt4.csv has no column 'final_label'"),
        (ALL, first(tone="cheerful"), "all_hand_labeled.json: row 1 has the tone 'cheerful'"),
        (ALL, first(tone=None), "all_hand_labeled.json: row 1 has no tone"),
        (GPT4, first(final_label="4_other"), "gpt4.csv: row 1 has the final_label '4_other'"),
        (ALL, first(response=" \n"), "all_hand_labeled.json: row 1 has no response"),
        ("political_figures.json", first(prompt=None), "political_figures.json: row 1 has no prompt"),
        (GPT4, first(prompt=""), "gpt4.csv: row 1 has no prompt"),
        (
            ALL,
            first(prompt="Who is there?"),
            "all_hand_labeled.json: the prompt of row 1 is in none of quora",
        ),
        (ALL, lambda rows: rows[:50], "all_hand_labeled.json: 4. rows, of 50 at the least"),
        (ALL, lambda rows: [], "all_hand_labeled.json has no column"),
        (ALL, lambda rows: [*rows, 3], "all_hand_labeled.json holds no table"),
        (ALL, lambda rows: {"prompt": "a", "tone": "b"}, "all_hand_labeled.json holds no table"),
        (ALL, lambda rows: {"prompt": ["a"], "tone": []}, "all_hand_labeled.json holds no table"),
        (ALL, all_of("tone", "complied"), "all_hand_labeled.json: 0 refusals and 76 other answers"),
        (GPT4, lambda rows: rows[:1], r"xstest_v2_completions_\*.csv: 49 rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(folder, name, how, said):
    change(folder, name, how)
    with pytest.raises(ParameterError, match=said) as error:
        released.check(str(folder))
    assert error.value.status == 2 and error.value.hint and "Who is there" not in str(error.value)


@pytest.mark.parametrize("name", [ALL, "nyp.json", GPT4])
def test_a_file_that_is_missing_broken_or_no_file(folder, name):
    path = folder / name
    path.write_bytes(b"")
    with pytest.raises(ParameterError, match=f"{name} is not (JSON|CSV)"):
        released.check(str(folder))
    path.write_bytes(b'[{"prompt": "\xff\xfe"}, ')
    with pytest.raises(ParameterError, match=f"{name} is not (JSON|CSV)"):
        released.check(str(folder))
    path.unlink()
    with pytest.raises(ParameterError, match=f"{name} is missing"):
        released.check(str(folder))
    path.mkdir()
    with pytest.raises(ParameterError, match=f"{name} cannot be read"):
        released.check(str(folder))


def test_no_folder_and_an_empty_one(folder, tmp_path_factory):
    with pytest.raises(ParameterError, match="there is no folder .*elsewhere"):
        released.check(str(folder / "elsewhere"))
    with pytest.raises(ParameterError, match="there is no folder"):
        released.check(str(folder / ALL))
    with pytest.raises(ParameterError, match="has neither all_hand_labeled.json nor xstest"):
        released.check(str(tmp_path_factory.mktemp("empty")))


def corpus(n: int = 120, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of eight random words, and labels that one word in most of the refused tells."""
    rng = np.random.default_rng(seed)
    words, labels = [*THINGS, *VERBS], rng.random(n) < 0.4
    texts = [" ".join(rng.choice(words, 8)) for _ in range(n)]
    planted = labels & (rng.random(n) < 0.85)
    return [f"{t} sorry" if p else t for t, p in zip(texts, planted, strict=True)], labels


def test_the_split_is_the_authors():
    train, validation, test = recognise.split(1706)
    assert (len(train), len(validation), len(test)) == (1194, 256, 256)
    assert sorted([*train, *validation, *test]) == list(range(1706))
    # scikit-learn's rule written out: the test part is what a seeded permutation begins with
    first = np.random.RandomState(0).permutation(1706)
    rest, order = first[:512], np.random.RandomState(0).permutation(512)
    assert (train == first[512:]).all() and (test == rest[order[:256]]).all()
    assert (validation == rest[order[256:]]).all()


def test_the_logistic_regression_is_the_released_one():
    texts, labels = corpus()
    train, _, test = recognise.split(len(texts))
    vectors = TfidfVectorizer(ngram_range=(1, 3))
    model = LogisticRegression(C=10, solver="liblinear", random_state=0)
    model.fit(vectors.fit_transform([texts[k] for k in train]), labels[train])
    inside = vectors.transform([texts[k] for k in test])
    found = recognise.tested(recognise.lr, texts, labels, train, test)
    assert found.scores == pytest.approx(model.decision_function(inside))
    assert (found.said == model.predict(inside)).all() and (found.refused == labels[test]).all()
    numbers = recognise.measured(found)
    said, truth = model.predict(inside), labels[test]
    assert numbers["accuracy"].value == np.mean(said == truth)
    assert numbers["majority"].value == max(truth.mean(), 1 - truth.mean())
    assert numbers["above_majority"].value == pytest.approx(
        np.mean(said == truth) - max(truth.mean(), 1 - truth.mean())
    )
    assert numbers["balanced"].value == pytest.approx(balanced_accuracy_score(truth, said))
    assert numbers["auroc"].value == pytest.approx(roc_auc_score(truth, found.scores))
    for estimate in numbers.values():
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1] and estimate.n > 0
    names, weights = vectors.get_feature_names_out(), model.coef_[0]
    top = recognise.ngrams([texts[k] for k in train], labels[train])
    assert top == list(names[np.argsort(-weights, kind="stable")[:18]]) and top[0] == "sorry"


def test_the_forest_is_the_same_each_time_and_its_numbers_are_used():
    texts, labels = corpus()
    make = functools.partial(recognise.forest, trees=20, min_samples_split=5)
    train, _, test = recognise.split(len(texts))
    one, other = (recognise.tested(make, texts, labels, train, test) for _ in range(2))
    assert (one.scores == other.scores).all() and recognise.measured(one)["auroc"].value > 0.8
    trees = make(texts, labels)[-1]
    assert (len(trees.estimators_), trees.min_samples_split, trees.random_state) == (20, 5, 0)


def test_the_majority_is_that_of_the_test_items():
    truth = np.array([True] * 7 + [False] * 3)
    read = recognise.Read(truth, np.arange(10) < 5, True, np.zeros(10))
    assert read.right.sum() == 8 and read.majority_right.tolist() == truth.tolist()
    numbers = recognise.measured(read)
    assert numbers["above_majority"].value == pytest.approx(0.1) and numbers["auroc"].value == 0.5
    assert numbers["balanced"].value == pytest.approx((5 / 7 + 1) / 2)
    texts, labels = corpus()  # most are answered, and most of these test items refused
    test = np.concatenate([np.flatnonzero(labels)[:7], np.flatnonzero(~labels)[:3]])
    tested = recognise.tested(recognise.lr, texts, labels, np.arange(60), test)
    assert labels.mean() < 0.5 and tested.majority and tested.majority_right.sum() == 7
    one_class = recognise.measured(recognise.Read(truth[:7], truth[:7], True, np.zeros(7)))
    assert one_class["balanced"].value is None and one_class["auroc"].value is None


def test_a_source_is_read_by_what_the_others_teach():
    texts, labels = corpus(160)
    other = [f"{t} alas" if y else t for t, y in zip(corpus(60, 1)[0], corpus(60, 1)[1], strict=True)]
    other = [t.replace(" sorry", "") for t in other]  # refused in other words
    texts, labels = [*texts, *other, *texts[:20]], np.concatenate([labels, corpus(60, 1)[1], labels[:20]])
    source = np.repeat(["near", "like", "far", "small"], [80, 80, 60, 20])
    found = recognise.held_out(recognise.lr, texts, labels, source)
    assert set(found) == {"near", "like", "far"} and [len(found[s].right) for s in ("near", "far")] == [
        80,
        60,
    ]
    numbers = {s: recognise.measured(read) for s, read in found.items()}
    assert numbers["like"]["above_majority"].ci95[0] > 0 and numbers["far"]["auroc"].value < 0.7
    away = source != "far"
    by_hand = recognise.tested(recognise.lr, texts, labels, away, ~away)
    assert (found["far"].scores == by_hand.scores).all()
    assert not recognise.held_out(recognise.lr, texts[:160], source[:160] == "near", source[:160])


def test_ngrams_of_two_halves_agree_where_words_are_planted_and_not_by_chance():
    rng = np.random.default_rng(0)
    _, labels = corpus(160)
    kinds = ["sorry", "cannot", "unable", "alas"]
    texts = [
        " ".join([*rng.choice([*THINGS, *VERBS], 6), *(rng.permutation(kinds)[:2] if y else [])])
        for y in labels
    ]
    found, controls = recognise.ngram_overlap(texts, labels, seed=1, repeats=12, n=4)
    assert found.value > 0.8 > controls["shuffled_high"] >= controls["shuffled"]
    assert found.ci95[0] < found.value <= found.ci95[1] and (found.n, controls["shuffles"]) == (160, 12)
    again, _ = recognise.ngram_overlap(texts, labels, seed=1, repeats=12, n=4)
    assert again == found
    by_chance, controls = recognise.ngram_overlap(texts, rng.permutation(labels), seed=1, repeats=12)
    assert by_chance.value <= controls["shuffled_high"]
    assert abs(by_chance.value - controls["shuffled"]) < 0.1


BOOK = NOTEBOOKS / "10_predicting_refusals.ipynb"


def test_a_run_is_up_to_date_by_what_the_folder_holds_and_not_by_where_it_is(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for path in folder.iterdir():
        shutil.copyfile(path, other / path.name)
    mark = lambda place: runner.fingerprint(BOOK, params.resolve(BOOK, {"DATA": str(place)}), "r")
    assert mark(folder) == mark(other) != mark("")
    (other / "not listed.txt").write_text("x")
    assert mark(folder) == mark(other)
    change(other, "nyp.json", first(response="another answer"))
    assert mark(folder) != mark(other)


def test_a_folder_is_named_by_its_whole_path_for_the_notebook(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    values = params.resolve(BOOK, {"DATA": folder.name})
    assert params.resolved(BOOK, values)["DATA"] == str(folder)
    assert params.resolved(BOOK, params.resolve(BOOK, {}))["DATA"] == ""


@pytest.mark.parametrize("broken", [False, True])
def test_a_bad_folder_ends_with_status_2_before_anything_runs(folder, monkeypatch, capsys, broken):
    place = folder if broken else folder / "nowhere"
    if broken:
        (folder / "nyp.json").write_text("{")
    monkeypatch.setenv("COMPANION_GIVEN", "DATA")
    monkeypatch.setenv("COMPANION_PARAM_DATA", str(place))
    monkeypatch.setattr(runner, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main(["nb", "10"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 2 and ("nyp.json" if broken else "is no folder") in said
