"""The site: its pages hold what the records hold, bad results are named, and in a browser they work without a
network.
"""

import base64
import html
import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from refusal.base.errors import UserError
from refusal.base.files import ROOT, notebook_hash
from refusal.report import outputs, site_pages
from refusal.report.rules import Claim, Measured, record
from refusal.report.runs import read_runs
from refusal.run import cli, site

ODD = 'odd<b>&"model'  # what a folder may be called
HTML = "text/html"


def png(width: int, height: int) -> bytes:
    """A grey picture."""
    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def claim(id: str, **fields) -> Claim:
    return Claim(
        **{
            "id": id,
            "paper": "arXiv:2507.11878",
            "source": "Fig. 4",
            "statement": f"The statement of {id} & more",
            "metric": "rate",
            "paper_value": {"A": 0.7, "of <another> scale": 95},
            "precondition": "it refuses",
            "rule": {"above": "random_high", "margin": 0.1},
        }
        | fields
    )


def judged(id: str, value: float, low: float, high: float, evidence="released", **fields):
    """A record whose bar lies at 0.3."""
    measured = Measured(
        value=value,
        ci95=(low, high),
        n=40,
        controls={"random_high": 0.2, "odd_<i>": "x<y", "other": 0.25, "other_ci95": [0.1, 0.4]},
    )
    return record(claim(id, **fields), measured, evidence)


RECORDS = [
    judged("97.first", 0.6, 0.5, 0.7),
    judged("97.second", 0.15, 0.1, 0.2),
    judged("97.third", 0.31, 0.2, 0.42, origin="ours", paper_value=None),
    judged("97.planted", 0.9, 0.8, 1.0, evidence="constructed", origin="ours", paper_value=None),
]
FIGURES = {
    "shown": {"title": "A title", "note": "n 40", "reading": 'It "rises" to 0.6', "claims": ["97.first"]},
    "plain": {"title": "A <plain> one", "note": "no reading"},
}


def output(data: dict) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": data}


def executed(**tags) -> dict:
    """A notebook as a run leaves it, the figures in one cell; `tags` are of that cell and of the last."""
    drawn = output({"image/png": base64.b64encode(png(4, 3)).decode(), "text/plain": "<Image>"})
    below = [output({HTML: "<small>n 40</small>"}), output({"text/markdown": [FIGURES["shown"]["reading"]]})]
    shown = [drawn, *below, drawn, output({HTML: "<p>stays</p>"})]
    noise = [
        {"output_type": "stream", "name": "stderr", "text": "progress-bar-text"},
        output({outputs.WIDGET: {"model_id": "1"}, "text/plain": "HBox-text"}),
        {
            "output_type": "error",
            "ename": "E",
            "evalue": "uninformative: why",
            "traceback": ["traceback-text"],
        },
    ]
    code = {"cell_type": "code", "execution_count": 3}
    own = lambda call: (
        code
        | {
            "metadata": {},
            "source": call,
            "outputs": [output({"text/html": f"<p>shown by {call}</p>"})],
        }
    )
    notebook: dict = {
        "cells": [
            {
                "cell_type": "markdown",
                "metadata": {},
                "source": ["# 97 · Does it [stand](../README.md) there?\n", "See [the file](../Makefile)."],
            },
            code | {"metadata": {"tags": ["parameters"]}, "source": "N = 1", "outputs": []},
            own('run.opening("Does it stand there?")'),
            code
            | {
                "metadata": {"tags": tags.get("figures", [])},
                "source": 'run.figure("shown")',
                "outputs": shown,
            },
            own("display(run.ledger())"),
            code | {"metadata": {"tags": tags.get("last", [])}, "source": "last()", "outputs": noise},
        ],
        "metadata": {"papermill": {"input_path": "/home/somebody"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"c{i}"
    return notebook


def source_of(notebook: dict) -> dict:
    """The notebook as it was before the run."""
    cells = [c | ({"outputs": []} if c["cell_type"] == "code" else {}) for c in notebook["cells"]]
    return notebook | {"cells": cells}


def make_run(results: Path, model: str, name: str = "97_made_up", records=RECORDS, notebook=None) -> Path:
    folder, notebook = results / "embedded" / model / name, notebook or executed()
    (folder / "data").mkdir(parents=True)
    about = {"duration_s": 130.0, "device": "cpu", "outputs": {}}
    (folder / "source.ipynb").write_text(json.dumps(source_of(notebook)))
    about["notebook_sha256"] = notebook_hash(folder / "source.ipynb")
    (folder / "source.ipynb").unlink()
    (folder / "shown.json").write_text(json.dumps(outputs.shown(notebook, list(FIGURES))))
    (folder / "claims.json").write_text(json.dumps([json.loads(r.model_dump_json()) for r in records]))
    (folder / "figures.json").write_text(json.dumps(FIGURES))
    (folder / "run.json").write_text(json.dumps(about))
    for figure in FIGURES:
        (folder / "data" / f"{figure}.csv").write_text("x,value\n1,2\n")
    return folder


def make_place(place: Path, patch) -> Path:
    """A project folder of three runs, and the site's module pointed at it; returns its results."""
    results = place / "results"
    make_run(results, "model-a")
    make_run(results, "model-a", "97_made_up@SEED=1", RECORDS[:1])
    make_run(results, ODD, records=[judged("97.first", 0.15, 0.1, 0.2, evidence="trained here")])
    for run in (results / "embedded").glob("*/*"):
        into = place / "figures" / run.relative_to(results)
        into.mkdir(parents=True)
        for name in FIGURES:
            (into / f"{name}.png").write_bytes(png(40, 20))
    (place / "notebooks").mkdir()
    (place / "notebooks" / "97_made_up.ipynb").write_text(json.dumps(source_of(executed())))
    shutil.copytree(ROOT / "docs", place / "docs")
    (place / "docs" / "made-up.md").write_text(
        "# Made up\n\n[next](add-a-finding.md), [ledger](../results/README.md), [code](../Makefile), "
        "[out](https://example.org), ![picture](../figures/one.png), ![ours](two.png)\n"
    )
    for name in ("figures/one.png", "docs/two.png"):
        (place / name).write_bytes(png(4, 4))
    for name in ("results", "figures", "notebooks", "docs", "site"):
        patch.setattr(site, name.upper(), place / name)
    patch.setattr(site, "ROOT", place)
    patch.setattr(site, "TEXTS", place / "docs" / "_site")
    return results


@pytest.fixture
def results(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def sources(results: Path) -> dict[str, str]:
    """The sources of the pages, by name."""
    source = results.parent / "build" / "source"
    site.write_sources(read_runs(results), source, results.parent / "build" / "html")
    return {
        path.relative_to(source).as_posix(): path.read_text(encoding="utf-8")
        for path in source.rglob("*")
        if path.suffix in (".md", ".ipynb")
    }


def words(text: str) -> str:
    """What a reader sees of HTML."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text))).replace("\u00a0", " ")


def row(page: str, id: str) -> str:
    """The part of a ledger that is about one claim."""
    return page.partition(f'<tbody id="{id}"')[2].partition("<tbody id=")[0]


def test_the_ledger_holds_what_the_records_hold(results):
    page = sources(results)["ledger.md"]
    first = row(page, "97.first")
    said = words(first)
    assert "The statement of 97.first & more" in said and "arXiv:2507.11878 , Fig. 4 A 0.70" in said
    assert "replicated 0.60 [0.50, 0.70], n 40" in said and "not replicated 0.15 [0.10, 0.20], n 40" in said
    assert "the value 0.6 [0.5, 0.7] is above random_high 0.3" in said  # the reason
    assert "Replicated if: value above random_high by 0.1" in said and "random_high by 0.1 (0.3)" in said
    assert "random high 0.2; odd <i> x<y; other 0.25 [0.1, 0.4]" in said  # controls with their intervals
    assert "model-a, SEED=1" in said and first.count('class="seen"') == 3
    assert 'href="figures.html#embedded/model-a/97_made_up/shown"' in first
    assert 'href="runs/embedded/model-a/97_made_up.html#97.first"' in first
    assert 'data-verdict="not replicated|replicated"' in first  # of the default runs, in a fixed order
    assert 'data-evidence="released|trained here"' in first
    assert "our question" in words(row(page, "97.third")) and "underpowered" in row(page, "97.third")
    columns = re.findall(r'<th scope="col">(.*?)</th>', page.partition("<tbody")[0])
    assert [words(c).strip() for c in columns] == ["claim", "the paper", "model-a", ODD]
    assert page.count("<tbody id=") == 3 and "97.planted" not in page
    assert row(sources(results)["constructed.md"], "97.planted") and "97.first" not in row(page, "97.planted")


def test_names_are_escaped(results):
    for name, text in sources(results).items():
        if not name.startswith("docs"):
            text = text.replace(f"97 · {ODD} <", "")  # the list of pages, which Sphinx escapes
            assert "<b>&" not in text and "<i>" not in text and "<another>" not in text, name


def test_an_interval_bar_is_to_scale():
    svg = site_pages.interval_bar("the value", 0.5, (0.25, 0.75), [("above", 0.0)], [1.0], (0.0, 1.0))
    inside = site_pages.WIDTH - 2 * site_pages.EDGE
    at = lambda x: site_pages.EDGE + x * inside
    found = re.findall(r'<line class="(\w+)" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert {kind: (float(a), float(b)) for kind, a, b in found} == {
        "axis": (0, site_pages.WIDTH),
        "bar": (at(0), at(0)),
        "interval": (at(0.25), at(0.75)),
    }
    assert float(re.search(r'cx="([\d.]+)"', svg)[1]) == at(0.5)
    assert f'class="paper" d="M{at(1.0)} ' in svg
    assert 'aria-label="the value 0.5, interval 0.25 to 0.75; bar at 0; the paper 1"' in svg


def test_a_value_of_the_paper_on_another_scale_is_not_drawn(results):
    first = row(sources(results)["ledger.md"], "97.first").partition("</section>")[0]
    assert first.count('class="paper"') == 1 and "the paper 0.7" in first and "95" in words(first)


def test_the_front_page_counts_by_evidence(results):
    page = sources(results)["index.md"]
    said = words(page)
    assert "Does it stand there?" in said
    assert "claims of papers, on weights published by others: 1 not replicated, 1 replicated" in said
    assert "claims of papers, on a model trained here: 1 not replicated" in said
    assert "questions of ours, on a constructed model: 1 replicated" in said
    assert "Of its paper's claims, on released models: 1 not replicated, 1 replicated." in said
    assert "97 · model-a, SEED=1 <runs/embedded/model-a/97_made_up@SEED=1>" in page
    assert 'href="runs/embedded/model-a/97_made_up%40SEED%3D1.html"' in page


def test_what_a_run_showed_becomes_a_page(results):
    text = sources(results)["runs/embedded/model-a/97_made_up.ipynb"]
    notebook = json.loads(text)
    for gone in ("progress-bar-text", "HBox-text", "traceback-text", "somebody", "image/png", "shown by"):
        assert gone not in text
    assert "uninformative: why" in text and "has changed since" not in text
    head, about, parameters, opening, drawn, own_ledger, ledger, _ = notebook["cells"]
    assert parameters["metadata"]["tags"] == ["hide-input"]
    assert not opening["outputs"] and not own_ledger["outputs"]  # the page has its own box and ledger
    assert "[stand](../../../index.md)" in head["source"] and "the file (`Makefile`)" in head["source"]
    assert "2 minutes, on cpu" in about["source"]
    assert "make reproduce RUN=results/embedded/model-a/97_made_up/run.json" in about["source"]
    first, second, stays = (o["data"][HTML] for o in drawn["outputs"])
    assert 'alt="It &quot;rises&quot; to 0.6"' in first and 'width="40" height="20"' in first
    assert "<p>n 40</p>" in first and stays == "<p>stays</p>"  # the caption says what stood below
    assert "replicated" in words(about["source"]) and 'href="#97.first"' in about["source"]
    assert 'src="../../../figures/embedded/model-a/97_made_up/shown.png"' in first
    assert 'alt="A &lt;plain&gt; one. no reading"' in second
    assert "results/embedded/model-a/97_made_up/data/plain.csv" in second
    assert row(ledger["source"], "97.first") and row(ledger["source"], "97.planted")
    assert "<form" not in ledger["source"] and "<button" not in ledger["source"]


def test_what_is_kept_of_an_executed_notebook_holds_no_picture_and_nothing_printed():
    notebook = executed()
    notebook["cells"][-1]["outputs"].append({"output_type": "stream", "name": "stdout", "text": "an answer"})
    kept = outputs.shown(notebook, list(FIGURES))
    note, reading = {HTML: "<small>n 40</small>"}, {"text/markdown": FIGURES["shown"]["reading"]}
    assert kept == {
        "c3": [{"figure": "shown"}, note, reading, {"figure": "plain"}, {HTML: "<p>stays</p>"}],
        "c5": [{"error": "uninformative: why"}],
    }


def test_code_is_folded_by_tags(results):
    run = read_runs(results)[0]
    path = results.parent / "notebooks" / "97_made_up.ipynb"
    path.write_text(json.dumps(source_of(executed(last=["hide-input"]))))
    page = site.run_page(run, {})
    folded = ["hide-input" in c["metadata"]["tags"] for c in page["cells"] if c["cell_type"] == "code"]
    assert folded == [True, False, False, False, True]
    assert "has changed since this run" in page["cells"][1]["source"]  # a tag more


def test_a_run_whose_notebook_is_gone_has_its_figures_and_ledger(results):
    (results.parent / "notebooks" / "97_made_up.ipynb").unlink()
    page = json.loads(sources(results)["runs/embedded/odd~3cb~3e~26~22model/97_made_up.ipynb"])
    head, about, ledger = (cell["source"] for cell in page["cells"])
    assert head == r"# 97\_made\_up" and ledger.count("<figure") == 2 and "make reproduce" in about
    assert "not replicated" in row(ledger, "97.first")


def test_the_gallery_has_every_figure_with_its_reading(results):
    page = sources(results)["figures.md"]
    assert page.count("<img") == 6 and page.count("It &quot;rises&quot; to 0.6") == 6  # alt text and caption
    assert 'id="embedded/model-a/97_made_up/shown"' in page
    assert (results.parent / "build/html/figures/embedded/model-a/97_made_up/shown.png").exists()
    assert (results.parent / "build/html/results/embedded/model-a/97_made_up/data/shown.csv").exists()


def test_a_figure_that_was_never_drawn_is_named(results, capsys):
    shutil.rmtree(results.parent / "figures" / "embedded")
    assert "<img" not in sources(results)["figures.md"]
    assert capsys.readouterr().err.count("`make figures` draws it") == 6


def test_documents_are_pages_and_their_links_lead_somewhere(results):
    page = sources(results)["docs/made-up.md"]
    assert "[next](../docs/add-a-finding.md), [ledger](../ledger.md), code (`Makefile`), " in page
    assert "[out](https://example.org), ![picture](../figures/one.png)" in page
    source = results.parent / "build" / "source"
    assert (source / "figures/one.png").exists() and (source / "docs/two.png").exists()


def test_nothing_that_stands_is_written_again_and_what_is_gone_goes(results):
    sources(results)
    build = results.parent / "build"
    before = {path: path.stat().st_mtime_ns for path in build.rglob("*") if path.is_file()}
    runs = read_runs(results)
    made = site.write_sources(runs, build / "source", build / "html")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert site.write_sources(runs, build / "source", build / "html") == made
    shutil.rmtree(results / "embedded" / "model-a" / "97_made_up@SEED=1")
    gone = read_runs(results)
    assert site.write_sources(gone, build / "source", build / "html") != made
    assert not [path for path in build.rglob("*") if path.is_file() and "SEED" in str(path)]


@pytest.mark.parametrize(
    "name, text",
    [
        ("claims.json", None),
        ("figures.json", None),
        ("run.json", None),
        ("claims.json", "[{"),
        ("claims.json", '[{"id": "97.first", "verdict": "replicated"}]'),
        ("claims.json", "3"),
        ("figures.json", '{"shown": {"title": "of an older version"}}'),
        ("figures.json", '["shown"]'),
        ("run.json", "null"),
        ("run.json", "\udcff"),
        ("shown.json", None),
        ("shown.json", "[]"),
        ("shown.json", '{"c3": [1]}'),
    ],
)
def test_a_run_that_cannot_be_read_is_named_and_left_out(results, capsys, name, text):
    folder = results / "embedded" / "model-a" / "97_made_up"
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [run.title for run in read_runs(results)] == [ODD, "model-a, SEED=1"]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line and line.startswith("left out: ") and ("missing" in line) == (text is None)


def test_what_sweeps_leave_is_no_run(results, capsys):
    for name in ("tried.csv", "older/table.csv"):
        path = results / "embedded" / "sweeps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SEED,claim\n")
    assert len(read_runs(results)) == 3 and not capsys.readouterr().err


def test_no_text_ends_the_block_that_it_stands_in():
    block = site.raw("<p>\n``````\n# `heading`</p>")
    assert block.splitlines()[0] == "``````{raw} html" and block.splitlines()[-1] == "``````"
    assert block.count("`") == 12 and "`heading`" in html.unescape(block)


def test_runs_at_work_and_smoke_runs_are_no_pages(results, monkeypatch):
    real = read_runs(results)
    make_run(results, "model-a", ".97_made_up.123")
    (results / "embedded").rename(results / "smoke")
    assert not read_runs(results) and len(real) == 3
    with pytest.raises(UserError, match="no results to show"):
        site.build()
    assert not (results.parent / "site").exists()


def test_without_sphinx_the_error_says_what_to_install(results, monkeypatch):
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("requirements-site.txt")):
        site.build()


def test_make_site_takes_no_parameters(monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_GIVEN", "MODEL")
    monkeypatch.setenv("COMPANION_PARAM_MODEL", "x")
    assert cli.main(["site"]) == 2 and "make site takes no MODEL" in capsys.readouterr().err


def test_pins_of_the_site_agree_and_change_no_others():
    pins = lambda name: dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.M))
    direct, needed, base = map(pins, ("requirements-site.txt", "constraints-site.txt", "constraints.txt"))
    assert direct and direct.items() <= needed.items() and not needed.keys() & base.keys()


# ---- in a browser

PAGES = (
    "index.html",
    "ledger.html",
    "constructed.html",
    "figures.html",
    "runs/embedded/model-a/97_made_up.html",
    "runs/embedded/model-a/97_made_up@SEED=1.html",
    "docs/made-up.html",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of the made-up results."""
    pytest.importorskip("myst_nb", reason="what makes the site is not installed: make site-environment")
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("project")
        make_place(place, patch)
        site.build()
        yield place


def test_sphinx_makes_the_pages_and_is_not_called_again(built, capfd):
    assert all((built / "site" / name).exists() for name in PAGES)
    assert "97.first" in (built / "site" / "ledger.html").read_text(encoding="utf-8")
    site.build()
    said = capfd.readouterr()
    assert "is up to date" in said.out and not said.err


@pytest.fixture
def page(browser, built):
    """A page that notes what it complains about and what it asks of the outside; neither may be."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)  # milliseconds; machines at work are slow
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url))
    page.at = lambda name: page.goto((built / "site").as_uri() + "/" + name)
    yield page
    context.close()
    assert not wrong


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit(page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    for name in PAGES:
        page.at(name)
        page.evaluate("document.querySelectorAll('details').forEach((row) => { row.open = true; })")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        # without preload: from a folder it may not read the style sheets a second time
        found = axe.run(page, options={"preload": False}).response["violations"]
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not bad, (name, [(v["id"], v["nodes"][0]["html"]) for v in bad])
        broken = "[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
        assert page.evaluate(broken) == []


def seen(page) -> list[str]:
    """The claims that are shown, in order."""
    return page.evaluate(
        "[...document.querySelectorAll('table.ledger > tbody:not([hidden])')].map((t) => t.id)"
    )


@pytest.mark.browser
def test_the_ledger_sorts(page):
    page.at("ledger.html")
    assert seen(page) == ["97.first", "97.second", "97.third"]
    header = page.locator("thead th").filter(has_text="model-a")
    header.get_by_role("button").click()
    assert seen(page) == ["97.second", "97.third", "97.first"]  # not replicated, underpowered, replicated
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").click()
    assert seen(page) == ["97.first", "97.third", "97.second"]
    assert header.get_attribute("aria-sort") == "descending"
    page.locator("thead th").first.get_by_role("button").click()
    assert seen(page) == ["97.first", "97.second", "97.third"]
    assert page.locator("th[aria-sort]").count() == 1


@pytest.mark.browser
def test_the_ledger_filters(page):
    page.at("ledger.html")
    assert page.locator("output").text_content() == "3 of 3 claims"
    page.get_by_label("verdict").select_option("not replicated")
    assert seen(page) == ["97.first", "97.second"]  # one of its two models
    page.get_by_label("evidence").select_option("trained here")
    assert seen(page) == ["97.first"] and page.locator("output").text_content() == "1 of 3 claims"
    page.get_by_label("verdict").select_option("")
    page.get_by_label("evidence").select_option("")
    page.get_by_label("origin").select_option("ours")
    assert seen(page) == ["97.third"]
    page.get_by_label("origin").select_option("")
    page.get_by_label("words").fill("STATEMENT of 97.second")
    assert seen(page) == ["97.second"]


@pytest.mark.browser
def test_an_address_opens_its_claim(page):
    page.at("ledger.html#97.second")
    opened = page.locator("tbody details[open]")
    assert opened.count() == 1 and "0.15 [0.1, 0.2]" in opened.text_content()
    opened.get_by_role("link", name="notebook").click()
    page.wait_for_url("**/runs/embedded/model-a/97_made_up.html#97.second")
    page.locator("tbody details[open]").first.wait_for()
    assert page.locator("tbody details[open]").count() == 1


@pytest.mark.browser
def test_search_works_from_a_folder(page):
    page.at("search.html?q=planted")
    page.locator("#search-results li", has_text="instrument").first.wait_for()  # they come one by one
