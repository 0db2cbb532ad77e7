"""Figures as files: what stands is not drawn again, what was asked for is, the gallery says what is there."""

import json
import subprocess
import sys

import pytest

from refusal.base.errors import ParameterError, UserError
from refusal.base.files import FIGURES, ROOT, sha256
from refusal.report import gallery, pictures
from refusal.report.committed import committed
from refusal.run import cli

SPEC = {"kind": "layers", "title": "T [1]", "xlabel": "layer", "ylabel": "y", "note": "a note", "model": "m"}
TABLE = "series,role,x,value,low,high\ns,effect,0,0.1,0,0.2\ns,effect,1,0.3,0.2,0.4\n"


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """A folder with two runs of two figures, one of them with another parameter."""
    for module in (pictures, gallery):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(module, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr("refusal.base.files.FIGURES", tmp_path / "figures")
    monkeypatch.setattr(cli, "given_parameters", dict)
    for run in ("embedded/m/21_one", "embedded/m/21_one@SEED=1", "embedded/other--m/21_one"):
        folder = tmp_path / "results" / run
        (folder / "data").mkdir(parents=True)
        specs = {name: SPEC | {"title": f"{name} of {run}"} for name in ("first", "second")}
        (folder / "figures.json").write_text(json.dumps(specs))
        for name in specs:
            (folder / "data" / f"{name}.csv").write_text(TABLE)
    return tmp_path


def make(monkeypatch, capsys, **options):
    """`make figures` with these variables: exit status and what was printed."""
    for name in ("FIG", "STYLE", "FORMAT"):
        monkeypatch.delenv(cli.PREFIX + name, raising=False)
    for name, value in options.items():
        monkeypatch.setenv(cli.PREFIX + name, value)
    status = cli.main(["figures"])
    return status, "".join(capsys.readouterr())


def drawn(here) -> set[str]:
    root = here / "figures" / "embedded"
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_what_stands_is_not_drawn_again_and_what_changed_is(here, monkeypatch, capsys):
    assert "6 drawn, 0 stand" in make(monkeypatch, capsys)[1] and len(drawn(here)) == 6
    assert "0 drawn, 6 stand" in make(monkeypatch, capsys)[1]
    run, picture = here / "results/embedded/m/21_one", here / "figures/embedded/m/21_one/first.png"
    old = picture.read_bytes()
    specs = json.loads((run / "figures.json").read_text())

    def write(**changed):
        (run / "figures.json").write_text(json.dumps(specs | {"first": specs["first"] | changed}))

    write(note="another", reading="read")  # what is not drawn
    assert "0 drawn, 6 stand" in make(monkeypatch, capsys)[1]
    write(title="another")
    assert "1 drawn, 5 stand" in make(monkeypatch, capsys)[1] and picture.read_bytes() != old
    write()
    (run / "data" / "first.csv").write_text(TABLE.replace("0.3", "0.35"))
    assert "1 drawn, 5 stand" in make(monkeypatch, capsys)[1] and picture.read_bytes() != old
    (run / "data" / "first.csv").write_text(TABLE)
    assert "1 drawn, 5 stand" in make(monkeypatch, capsys)[1] and picture.read_bytes() == old
    picture.unlink()
    assert "1 drawn, 5 stand" in make(monkeypatch, capsys)[1] and picture.read_bytes() == old
    monkeypatch.setattr(pictures, "_drawing", lambda: "other code")
    assert "6 drawn, 0 stand" in make(monkeypatch, capsys)[1]


def test_two_processes_draw_what_one_draws(here, monkeypatch, capsys):
    make(monkeypatch, capsys)
    one = {name: (here / "figures/embedded" / name).read_bytes() for name in drawn(here)}
    figures, _ = pictures.saved(pictures.runs())
    for figure in figures:
        figure.file().unlink()
    monkeypatch.setattr(pictures, "TOGETHER", 1)
    assert pictures.draw(figures) == figures
    assert {name: (here / "figures/embedded" / name).read_bytes() for name in drawn(here)} == one


@pytest.mark.parametrize(
    "asked, found",
    [
        ("21/first", {"m/21_one/first", "other--m/21_one/first"}),
        ("21_one/first", {"m/21_one/first", "other--m/21_one/first"}),
        ("m/21/second", {"m/21_one/second"}),
        ("embedded/other--m/21_one/second", {"other--m/21_one/second"}),
        ("21_one@SEED=1/first", {"m/21_one@SEED=1/first"}),
    ],
)
@pytest.mark.parametrize("style, format, end", [("paper", "svg", ".svg"), ("slide", "pdf", ".slide.pdf")])
def test_a_figure_is_drawn_on_request_beside_the_others(
    here, monkeypatch, capsys, asked, found, style, format, end
):
    status, said = make(monkeypatch, capsys, FIG=asked, STYLE=style, FORMAT=format)
    assert status == 0 and drawn(here) == {name + end for name in found}
    assert all(f"figures/embedded/{name}{end}" in said for name in found)
    assert f"{len(found)} drawn" in said
    assert "0 drawn" in make(monkeypatch, capsys, FIG=asked, STYLE=style, FORMAT=format)[1]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"FIG": "21/frist"}, "did you mean 21/first"),
        ({"FIG": "first"}, "did you mean 21/first"),
        ({"FIG": "@/@"}, "valid: a notebook's number"),
        ({"STYLE": "slides"}, "did you mean 'slide'"),
        ({"FORMAT": "jpg"}, "valid: pdf, png, svg"),
    ],
)
def test_what_is_not_known_is_named_with_the_nearest(here, monkeypatch, capsys, options, says):
    status, said = make(monkeypatch, capsys, **options)
    assert status == 2 and says in said and len(said.splitlines()) == 2 and not drawn(here)


@pytest.mark.parametrize(
    "content, says",
    [
        ("[", "figures.json of embedded/m/21_one cannot be read"),
        ('["first"]', "figures.json of embedded/m/21_one cannot be read"),
        ('{"first": {"title": "T"}}', "is of another version: first has no kind"),
        ('{"first": "T"}', "is of another version: first has no labels"),
        (json.dumps({"third": SPEC}), "figure third of embedded/m/21_one has no data/third.csv"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_drawn(
    here, monkeypatch, capsys, content, says
):
    (here / "results/embedded/m/21_one/figures.json").write_text(content)
    status, said = make(monkeypatch, capsys)
    assert status == 1 and says in said and "Traceback" not in said and len(drawn(here)) == 4
    status, said = make(monkeypatch, capsys, FIG="embedded/m/21/first")
    assert status == 2 and says in said and "names no figure that is here" in said
    assert make(monkeypatch, capsys, FIG="other--m/21/first")[0] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"parameters": {}}', '{"parameters": {}, "model": '])
@pytest.mark.parametrize("name", ["run.json", "claims.json", "manifest.json"])
def test_what_stands_beside_the_pictures_survives_half_a_file(here, monkeypatch, text, name):
    run = here / "results/embedded/m/21_one"
    (here / "21_one.ipynb").write_text('{"cells": []}')
    monkeypatch.setattr(gallery, "NOTEBOOKS", here)
    monkeypatch.setattr(gallery, "committed", lambda _: {run / "figures.json"})
    about = {"parameters": {"N": 1}, "model": {"name": "m"}, "notebook_sha256": "a"}
    (run / "run.json").write_text(json.dumps(about))
    gallery.update()
    whole = (here / "figures/manifest.json").read_text()
    drawn_from = json.loads(whole)["embedded/m/21_one/first"]
    # of the run, not of the notebook as it is now
    assert drawn_from["parameters"] == {"N": 1} and drawn_from["notebook_sha256"] == "a"
    (here / "figures/manifest.json" if name == "manifest.json" else run / name).write_text(text)
    gallery.update()
    kept = json.loads((here / "figures/manifest.json").read_text())
    assert "# Figures" in (here / "figures/README.md").read_text()
    assert kept == json.loads(whole)  # a run that is half written leaves the last manifest


def test_data_that_is_not_what_its_run_wrote_is_named(here, monkeypatch, capsys):
    """A table that was cut is not drawn as a result."""
    run = here / "results/embedded/m/21_one"
    told = {f"results/embedded/m/21_one/data/{p.name}": sha256(p) for p in (run / "data").iterdir()}
    (run / "run.json").write_text(json.dumps({"outputs": told}))
    assert make(monkeypatch, capsys)[0] == 0
    table = run / "data" / "first.csv"
    table.write_text(table.read_text()[:-4])
    status, said = make(monkeypatch, capsys)
    assert status == 1 and "data/first.csv of embedded/m/21_one is not what its run wrote" in said


def test_options_of_figures_go_with_no_other_target(monkeypatch):
    monkeypatch.setenv(cli.PREFIX + "STYLE", "slide")
    with pytest.raises(ParameterError, match="STYLE goes with make figures"):
        cli.given_options("claims")


def test_nothing_that_draws_is_imported_where_nothing_is_drawn():
    code = (
        "import sys; from refusal.report import gallery, pictures; "
        "found, _ = pictures.saved(pictures.runs()); pictures._stands(found[0], 'paper', 'png'); "
        "gallery.page(); heavy = {'matplotlib', 'pandas', 'numpy', 'torch', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_gallery_shows_each_committed_figure_with_what_it_says(here, monkeypatch):
    run = here / "results/embedded/m/21_one"
    spec = SPEC | {"reading": "It\nrises [twice].", "claims": ["21.a", "21.b"]}
    (run / "figures.json").write_text(json.dumps({"first": spec, "second": SPEC}))
    (run / "claims.json").write_text(json.dumps([{"id": "21.a", "verdict": "not replicated"}]))
    monkeypatch.setattr(gallery, "committed", lambda _: {run / "figures.json"})
    text = gallery.page()
    assert (
        "### T [1]\n\n![It rises (twice).](embedded/m/21_one/first.png)\n\nIt rises [twice].\n\n*a note*"
        in text
    )
    assert "Claims: `21.a` not replicated, `21.b` without a verdict." in text
    assert "[first.csv](../results/embedded/m/21_one/data/first.csv)" in text
    assert "![T (1)](embedded/m/21_one/second.png)" in text and "other--m" not in text


def test_outside_git_the_gallery_stays_as_it_is(here):
    with pytest.raises(UserError, match="git cannot say"):
        committed(here)
    (here / "figures").mkdir()
    (here / "figures" / "README.md").write_text("old")
    gallery.update()
    assert (here / "figures" / "README.md").read_text() == "old"


def test_the_committed_gallery_is_current():
    assert (FIGURES / "README.md").read_text(encoding="utf-8") == gallery.page()
