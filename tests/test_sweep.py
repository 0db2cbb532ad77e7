"""``make sweep``: what its file may say, what is refused before anything starts, and what it leaves."""

import csv
import json
import re
import shutil

import pandas as pd
import pytest

from refusal.base.errors import ParameterError, UserError
from refusal.base.files import FIGURES, RESULTS
from refusal.report import figures
from refusal.report.rules import Measured, read_claims, record
from refusal.run import cli, params, runner, sweep, sweep_figure

BOOKS = params.notebooks()
STEER, AUROC = "02.steer.refuse.prompt", "02b.guard.beats-text"
HEAD = f"notebook: 02\nclaim: {STEER}\n"
RUNS = HEAD + "runs:\n- {SEED: 0}\n- {SEED: 1}\n"


@pytest.fixture()
def file(tmp_path):
    def write(text: str, name: str = "tried.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def one(file, text: str) -> sweep.Sweep:
    (found,) = sweep.read(file(text))
    return found


# what the file says


def test_over_is_every_combination_with_what_all_share(file):
    text = (
        HEAD.replace("02\n", '"02"\n')
        + "base: {TIER: smoke, n_arm: 16}\nover: {alpha: [0.5, 2], SEED: [0, 1]}"
    )
    found = one(file, text)
    assert [(v["alpha"], v["SEED"]) for v in found.values] == [(0.5, 0), (0.5, 1), (2.0, 0), (2.0, 1)]
    assert {(v["TIER"], v["n_arm"], v["MODEL"]) for v in found.values} == {("smoke", 16, "tiny")}
    assert (found.name, found.notebook, found.claims) == ("tried", BOOKS["02"], (STEER,))
    assert found.swept == ("alpha", "SEED") and found.along == "alpha"
    assert found.apart(3) == {"alpha": 2.0, "SEED": 1}


def test_runs_are_taken_as_they_are_listed(file):
    text = HEAD + "base: {SEED: 3}\nruns: [{endings: word}, {endings: verbatim, SEED: 4}]"
    found = one(file, text)  # 02 is a number in YAML
    assert [(v["endings"], v["SEED"]) for v in found.values] == [("word", 3), ("verbatim", 4)]
    assert found.notebook == BOOKS["02"]


def test_values_are_read_as_on_the_command_line(file):
    text = "runs: [{DATE: 2024-07-26, BATCH_TOKENS: 512, TEMPLATE: 'a {x}', alpha: 1}]"
    (values,) = one(file, HEAD + text).values
    assert (values["DATE"], values["BATCH_TOKENS"], values["TEMPLATE"]) == ("2024-07-26", "512", "a {x}")
    text = "notebook: 01\nclaim: 01.knowledge.cities\nruns: [{know_sets: [cities, larger_than]}]"
    assert one(file, text).values[0]["know_sets"] == ["cities", "larger_than"]


def test_a_list_is_several_sweeps(file):
    part = "- {{notebook: {}, claim: {}, over: {{SEED: [0, 1]}}}}\n"
    found = sweep.read(file(part.format("02", STEER) + part.format("02b", AUROC)))
    assert [s.name for s in found] == ["tried-1", "tried-2"] and found[1].notebook == BOOKS["02b"]


def test_what_differs_by_its_default_only_is_not_swept(file):
    text = f"notebook: 02\nclaim: {STEER}\nruns: [{{SEED: 0, endings: word}}, {{SEED: 0, endings: verbatim}}]"
    found = one(file, text)
    assert found.swept == ("endings",) and found.along is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no sweep"),
        ("just words", "holds no sweep"),
        ("[1, 2]", "holds no sweep"),
        ("notebook: [02\nclaim: x\n", "tried.yaml, line 2: "),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("notbook: 02\n", "there is no key 'notbook'\n  did you mean 'notebook'"),
        (HEAD + "over: {SEED: [0]}\n3: x", "there is no key 3"),
        (f"claim: {STEER}\nover: {{SEED: [0]}}", "there is no notebook ''"),
        (f"notebook: 2b\nclaim: {STEER}\nover: {{SEED: [0]}}", "no notebook '2b'\n  did you mean '02b'"),
        (f"notebook: 99\nclaim: {STEER}\nover: {{SEED: [0]}}", "there is no notebook '99'"),
        ("notebook: 02\nover: {SEED: [0]}", "it names no claim"),
        ("notebook: 02\nclaim: 02.steer.refuse\nover: {SEED: [0]}", "did you mean '02.steer.refuse."),
        (f"notebook: 02b\nclaim: {STEER}\nover: {{SEED: [0]}}", f"there is no claim '{STEER}'"),
        ("notebook: 02\nclaim: {id: 02.steer}\nover: {SEED: [0]}", "there is no claim {'id': '02.steer'}"),
        ("notebook: 02\nclaim: [[02.steer]]\nover: {SEED: [0]}", "there is no claim ['02.steer']"),
        (HEAD, "neither over nor runs is given"),
        (RUNS + "over: {SEED: [2]}", "both over and runs are given"),
        (HEAD + "over: {SEED: 1}", "over is no mapping of lists"),
        (HEAD + "over: {SEED: []}", "over is no mapping of lists"),
        (HEAD + "over: [SEED]", "over is no mapping of lists"),
        (HEAD + "runs: {SEED: 1}", "runs is no list of mappings"),
        (HEAD + "runs: [1]", "runs is no list of mappings"),
        (HEAD + "base: [1]\nover: {SEED: [0]}", "base is no mapping"),
        (RUNS + "- {alfa: 2}", "02_harmfulness_vs_refusal has no parameter 'alfa'\n  did you mean 'alpha'"),
        (RUNS + "- {alpha: 100}", "run 3 of 3: alpha=100 is out of range\n  choose from 0.1 to 10"),
        (RUNS + "- {alpha: many}", "run 3 of 3: alpha=many is not of type float"),
        (RUNS + "- {alpha: }", "run 3 of 3: alpha=None is not of type float"),
        (RUNS + "- {alpha: {a: 1}}", "is not of type float"),
        (RUNS + "- {MODEL: qwen2.5-coder-0.5b}", "run 3 of 3: unknown model"),
        (RUNS + "- {TIER: smoke, MODEL: smollm2-135m-safe}", "run 3 of 3: TIER=smoke takes no MODEL"),
        (RUNS + "- {TIER: smoke}", "its runs are of several tiers"),
        (RUNS + "- {SEED: 1, endings: word}", "runs 2 and 3 are the same"),
        (HEAD + "over: {alpha: [1, 2, 1.0]}", "runs 1 and 3 are the same"),
        (f"- {{notebook: 02, claim: {STEER}, over: {{SEED: [0]}}}}\n- {{a: 1}}", "sweep 2: there is no key"),
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_starts_nothing(file, monkeypatch, capsys, text, message):
    monkeypatch.setattr(runner, "run", lambda *_: pytest.fail("it started"))
    monkeypatch.setenv(cli.PREFIX + "SWEEP", str(file(text)))
    assert cli.main(["sweep"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") <= 2, said


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for name, message in (("no.yaml", "no such file"), (".", "is a directory"), ("b.yaml", "it is no text")):
        with pytest.raises(ParameterError, match=message):
            sweep.read(tmp_path / name)


def test_parameters_stand_in_the_file_only(file, monkeypatch):
    with pytest.raises(ParameterError, match="make sweep needs a file"):
        cli.sweep()
    monkeypatch.setenv(cli.PREFIX + "SWEEP", str(file(RUNS)))
    monkeypatch.setenv(cli.PREFIX + "SEED", "1")
    with pytest.raises(ParameterError, match="make sweep takes no SEED"):
        cli.sweep()
    monkeypatch.delenv(cli.PREFIX + "SEED")
    with pytest.raises(ParameterError, match="SWEEP goes with make sweep"):
        cli.reproduce()


# what it does


def steered(value: float, high: float = 0.3, n: int = 100):
    """A record of the claim as a run with that rate leaves it."""
    claim = read_claims(BOOKS["02"].with_suffix(".claims.toml"))[STEER]
    controls = {"random_direction_high": high, "random_directions": 20, "random_direction_n": 20 * n}
    controls |= {"broken": 0.0, "broken_ci95": [0.0, 0.05], "no_intervention": 0.0}
    measured = Measured(value=value, ci95=(value - 0.1, value + 0.1), n=n, controls=controls)
    return record(claim, measured, "constructed")


@pytest.fixture()
def ran(tmp_path, monkeypatch):
    """Runs that leave a planted record: a rate of 0.2 times alpha. That with alpha 3 fails, that with alpha 1
    is up to date; what was run.
    """
    done = []
    monkeypatch.setattr(runner, "missing", lambda names: [])
    monkeypatch.setattr(runner, "place", lambda notebook, values: tmp_path / f"alpha={values['alpha']}")
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    monkeypatch.setattr(sweep, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sweep, "FIGURES", tmp_path / "figures")

    def run(notebook, values):
        print("what a runner says")
        done.append(values["alpha"])
        if values["alpha"] == 3:
            raise UserError("cell 7 failed", "look into it")
        folder = tmp_path / f"alpha={values['alpha']}"
        folder.mkdir(exist_ok=True)
        (folder / "claims.json").write_text(f"[{steered(0.2 * values['alpha']).model_dump_json()}]")
        return "up to date" if values["alpha"] == 1 else "ran"

    monkeypatch.setattr(runner, "run", run)
    return done


ALPHAS = HEAD + "base: {TIER: smoke}\nover: {alpha: [1, 3, 4]}"


def test_each_run_is_one_line_and_a_failed_one_stops_nothing(ran, file, capsys, tmp_path):
    with pytest.raises(UserError, match="1 of 3 runs failed") as error:
        sweep.sweep(str(file(ALPHAS)))
    assert error.value.status == 1 and ran == [1.0, 3.0, 4.0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "02_harmfulness_vs_refusal, 3 runs",
        f"1/3  alpha=1.0: {STEER} {steered(0.2).verdict} 0.2 [0.1, 0.3] (up to date)",
        "2/3  alpha=3.0: failed: cell 7 failed; look into it",
        f"3/3  alpha=4.0: {STEER} replicated 0.8 [0.7, 0.9]",
    ]
    assert lines[-1] == "figure: figures/smoke/sweeps/tried.png"
    with (tmp_path / "results/smoke/sweeps/tried.csv").open() as f:
        first, failed, last = csv.DictReader(f)
    assert first == {
        "alpha": "1",
        "claim": STEER,
        "value": "0.2",
        "low": "0.1",
        "high": "0.3",
        "n": "100",
    } | {
        "verdict": steered(0.2).verdict,
        "run": "alpha=1.0",
    }
    assert (failed["verdict"], failed["value"], failed["n"]) == ("failed", "", "")
    assert (last["verdict"], last["alpha"]) == ("replicated", "4")


def test_the_figure_draws_the_value_over_the_parameter_and_its_controls_in_grey(file):
    swept = one(file, HEAD + "base: {TIER: smoke}\nover: {alpha: [1, 4], SEED: [0, 1]}")
    records = [{STEER: steered(v, high)} for v, high in ((0.2, 0.3), (0.3, 0.3), (0.8, 0.2), (0.9, 0.4))]
    table = sweep_figure.points(swept, records)
    assert table.panel.unique().tolist() == ["SEED=0", "SEED=1"]
    of = lambda name, panel: table[(table.series == name) & (table.panel == panel)]
    value = of("value", "SEED=1")
    assert value.x.tolist() == [1, 4] and value.value.tolist() == [0.3, 0.9]
    assert value.low.tolist() == pytest.approx([0.2, 0.8]) and set(value.role) == {"effect"}
    bar = of("random direction high", "SEED=0")
    assert bar.value.tolist() == [0.3, 0.2] and set(bar.role) == {"control"} and bar.low.isna().all()
    assert of("broken", "SEED=0").high.tolist() == [0.05, 0.05]
    assert not table.series.str.contains("no intervention").any()  # the rule does not compare with it
    spec = sweep_figure.labels(swept, records, table)
    assert spec["kind"] == "layers" and spec["xticks"] == [1, 4] and spec["xlabel"] == "alpha"
    assert spec["model"] == "tiny (constructed model)" and steered(0.2).rule.words() in spec["note"]
    fig = figures.draw(spec, table)
    (legend,) = fig.legends
    names = [text.get_text() for text in legend.get_texts()]
    colours = dict(zip(names, (line.get_color() for line in legend.get_lines()), strict=True))
    assert colours["random direction high"] == "0.45" != colours["value"]
    figures.plt.close(fig)


def test_words_stand_side_by_side_and_a_claim_without_a_value_is_left_out(file):
    swept = one(file, HEAD + "base: {TIER: smoke}\nover: {endings: [word, verbatim]}")
    claim = read_claims(BOOKS["02"].with_suffix(".claims.toml"))[STEER]
    nothing = record(
        claim, Measured(value=None, ci95=None, n=0, controls={"x": 1}), "constructed", "it never refuses"
    )
    table = sweep_figure.points(swept, [{STEER: steered(0.8)}, {STEER: nothing}])
    value = table[table.series == "value"]
    assert value.group.tolist() == ["endings=word", "endings=verbatim"] and value.value.isna().tolist() == [
        False,
        True,
    ]
    assert sweep_figure.labels(swept, [{STEER: steered(0.8)}, {}], table)["kind"] == "rates"
    assert sweep_figure.points(swept, [{STEER: nothing}, {}]).empty


def test_a_bar_that_is_a_number_is_drawn(file):
    swept = one(file, f"notebook: 02b\nclaim: {AUROC}\nbase: {{TIER: smoke}}\nover: {{SEED: [0, 1]}}")
    claim = read_claims(BOOKS["02b"].with_suffix(".claims.toml"))[AUROC]
    found = record(
        claim, Measured(value=0.1, ci95=(0.05, 0.15), n=99, controls={"guard": 0.9}), "constructed"
    )
    table = sweep_figure.points(swept, [{AUROC: found}, {AUROC: found}])
    assert table[table.series == "bar 0"].value.tolist() == [0, 0]


def test_a_sweep_where_nothing_has_a_value_has_no_figure(ran, file, capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_: (_ for _ in ()).throw(UserError("no")))
    with pytest.raises(UserError, match="2 of 2 runs failed"):
        sweep.sweep(str(file(HEAD + "base: {TIER: smoke}\nover: {alpha: [1, 2]}")))
    assert "figure: none, for no run has a value" in capsys.readouterr().out


def test_a_sweep_end_to_end_lies_beside_other_runs_and_does_no_work_twice(file, capsys):
    """On the smoke tier, in a sweep folder that is its own."""
    name = "of_a_test"
    small = "base: {TIER: smoke, n_test: 20, n_victims: 20}\nover: {SEED: [5]}"
    text = f"notebook: 02b\nclaim: {AUROC}\n{small}"
    table, figure = RESULTS / f"smoke/sweeps/{name}.csv", FIGURES / f"smoke/sweeps/{name}.png"
    folder = runner.place(BOOKS["02b"], one(file, text).values[0])
    try:
        sweep.sweep(str(file(text, f"{name}.yaml")))
        first = capsys.readouterr().out
        assert folder == RESULTS / "smoke" / "tiny" / f"{BOOKS['02b'].stem}@SEED=5,n_test=20,n_victims=20"
        (told,) = [r for r in json.loads((folder / "claims.json").read_text()) if r["id"] == AUROC]
        assert re.search(rf"1/1  TIER=smoke .*SEED=5: {AUROC} {told['verdict']}", first)
        row = pd.read_csv(table).iloc[0]
        assert row.value == pytest.approx(told["value"], rel=1e-4) and figure.exists()
        sweep.sweep(str(file(text, f"{name}.yaml")))
        assert "(up to date)" in capsys.readouterr().out
    finally:
        for path in (table, figure):
            path.unlink(missing_ok=True)
        for base in (RESULTS, FIGURES):
            shutil.rmtree(base / "smoke" / "tiny" / folder.name, ignore_errors=True)
