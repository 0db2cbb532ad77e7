"""JupyterLab as `make lab` starts it, in a real browser: one server and one page, and one kernel for all that
is small.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from refusal.base.files import ROOT, notebook_hash
from refusal.report import panel

pytestmark = pytest.mark.browser
TWO, FEW = "02_harmfulness_vs_refusal.ipynb", 4


def until(found, what: str, seconds: float = 300):
    """What `found` gives, once it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository in which notebook 02 is set to the smoke tier."""
    copy = tmp_path_factory.mktemp("lab") / "repository"
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("figures", "results"):
        (copy / name).mkdir()
    for name in ("Makefile", "README.md", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    book = nbformat.read(copy / "notebooks" / TWO, 4)
    cell = next(c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = re.sub(r'(?m)^(MODEL: str = )"[^"]*"', r'\1"tiny"', cell.source)
    cell.source = re.sub(r'(?m)^(TIER: str = )"[^"]*"', r'\1"smoke"', cell.source)
    nbformat.write(book, copy / "notebooks" / TWO)
    return copy


@pytest.fixture(scope="module")
def address(house):
    """The page that `make lab` opens, on the next free port, with its token."""
    home, said = house.parent / "home", house.parent / "said"
    settings = home / ".jupyter" / "jupyter_lab_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"LabApp": {"expose_app_in_browser": true}}')  # for the tests to ask it
    ours = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "BROWSER": "true"}
    foreign = ("JUPYTER", "COMPANION", "PYTEST", "XDG")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | ours
    with said.open("w") as out:
        command = ["make", "--no-print-directory", f"PY={sys.executable}", "lab"]
        process = subprocess.Popen(
            command, cwd=house, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+")
        yield until(lambda: process.poll() is None and url.search(said.read_text()), "a page")[0]
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the session that began with it
        process.wait(300)


class Page:
    """A tab of the browser that shows the lab."""

    def __init__(self, tab, address):
        self.tab, self.address = tab, address
        tab.set_default_timeout(300_000)  # milliseconds; machines at work are slow
        self.home()

    def home(self) -> None:
        self.tab.goto(self.address)
        until(lambda: self.ask("return !!window.jupyterapp"), "JupyterLab")
        self.ask("await jupyterapp.restored")

    def ask(self, source: str, *values):
        """What a piece of JavaScript with the arguments `a` returns, within five minutes."""
        late = "new Promise((_, no) => setTimeout(() => no(new Error('no answer')), 300000))"
        return self.tab.evaluate(f"a => Promise.race([(async () => {{{source}}})(), {late}])", list(values))

    def command(self, name: str) -> None:
        self.ask("await jupyterapp.commands.execute(a[0])", name)

    def open(self, path: str) -> None:
        """A notebook with its kernel at work."""
        self.ask(
            """window.book = await jupyterapp.commands.execute("docmanager:open", {path: a[0]});
            await book.context.ready;
            await book.sessionContext.ready;
            jupyterapp.shell.activateById(book.id)""",
            path,
        )
        until(lambda: self.ask("return !!book.sessionContext.session?.kernel"), "a kernel")

    def write(self, *cells: str) -> None:
        """Put sources into the first cells, and nothing into the others; outputs go."""
        self.ask(
            "book.content.widgets.forEach((w, i) => w.model.sharedModel.setSource(a[0][i] ?? ''))", cells
        )
        self.command("notebook:clear-all-cell-outputs")

    def start(self, which: str = "notebook:run-all-cells") -> None:
        """Begin once the kernel has nothing to do: after an error it drops what it is sent too soon."""
        until(lambda: self.ask("return book.sessionContext.session.kernel.status === 'idle'"), "a rest")
        self.ask(
            """window.ended = false;
            jupyterapp.commands.execute(a[0]).finally(() => {window.ended = true})""",
            which,
        )

    def ended(self) -> bool:
        return self.ask("return window.ended")

    def run_all(self, seconds: float = 300) -> list[list[dict]]:
        """Every cell's outputs."""
        self.start()
        until(self.ended, "the last cell", seconds)
        return self.outputs()

    def outputs(self) -> list[list[dict]]:
        book = self.ask("return book.content.model.sharedModel.toJSON()")
        return [cell.get("outputs", []) for cell in book["cells"]]

    def seen(self, selector: str) -> list[str]:
        """The texts of what is in sight."""
        return self.ask(
            """const found = [...document.querySelectorAll(a[0])];
            return found.filter(e => e.offsetParent).map(e => e.innerText)""",
            selector,
        )

    def picture(self, name: str) -> None:
        """Keep what is in sight, where somebody wants to look at it: COMPANION_PICTURES names a folder."""
        if folder := os.environ.get("COMPANION_PICTURES"):
            self.tab.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture(scope="module")
def page(browser, address):
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        yield Page(context.new_page(), address)


@pytest.fixture(scope="module")
def scratch(page, house):
    """The page with a notebook whose cells the tests write, `FEW` of them; their kernel stays the same."""
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell("") for _ in range(FEW)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), house / "notebooks/scratch.ipynb")
    page.open("notebooks/scratch.ipynb")
    return page


def text_of(error: dict) -> list[str]:
    """The lines of an error as a reader sees them."""
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error["traceback"])).splitlines()


BAR = ".jp-OutputArea-output .widget-inline-hbox .progress, .jp-OutputArea-output .widget-hprogress"
RED = '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]'


def test_it_opens_on_a_page_that_says_where_to_start(page):
    assert until(lambda: page.seen(".jp-RenderedMarkdown h1"), "the index")[0].startswith("Start here")
    time.sleep(2)  # for a dialogue to come up
    assert not page.seen(".jp-Dialog, .Toastify__toast")
    page.picture("index")
    root = page.ask("return (await jupyterapp.serviceManager.contents.get('')).content.map(f => f.name)")
    assert {"README.md", "figures", "notebooks", "results"} <= set(root)
    page.ask(
        """const links = [...document.querySelectorAll(".jp-RenderedMarkdown a")];
        links.find(e => e.innerText.includes("README")).click()"""
    )
    headings = lambda: page.seen(".jp-RenderedMarkdown h1")
    until(lambda: any(h.startswith("How language") for h in headings()), "the README")


def test_a_notebook_runs_through_with_figures_and_nothing_red(page, house):
    """Bars are asked for below: no loop of the tiny model need last as long as one needs to be shown."""
    before, path = notebook_hash(house / "notebooks" / TWO), f"notebooks/{TWO}"
    page.open(path)
    page.start()
    until(page.ended, "the last cell", 600)
    outputs = page.outputs()
    said = [o for cell in outputs for o in cell]
    wrong = [o for o in said if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not wrong, "\n".join(text_of(wrong[0]) if "traceback" in wrong[0] else wrong[0]["text"])
    figures = [base64.b64decode(o["data"]["image/png"]) for o in said if "image/png" in o.get("data", {})]
    assert len(figures) > 5 and all(f.startswith(b"\x89PNG") for f in figures)
    # a widget of a kernel that is gone would be shown as an error: none but the panel that ends it stays
    kept = [o["data"] for o in said if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert kept == [o["data"] for o in outputs[-1]] and "score" in "".join(kept[0]["text/plain"])
    assert page.ask(
        "return [...document.querySelectorAll('.jp-RenderedImage img')].some(e => e.naturalWidth)"
    )
    page.picture("ran")
    page.ask("await book.context.save()")
    saved = json.loads((house / path).read_text())
    assert any(c.get("outputs") for c in saved["cells"]) and "language_info" in saved["metadata"]
    assert notebook_hash(house / path) == before


def test_a_wrong_parameter_is_two_lines_before_anything_is_loaded(scratch, house):
    cells = [c.source for c in nbformat.read(house / "notebooks" / TWO, 4).cells if c.cell_type == "code"]
    assert "check_values" in cells[2] and "load(" in cells[2]
    for name, value, said in (
        ("N", "'many'", ["N=many is not of type int", "prompts per class"]),
        ("N", "1000", ["N=1000 is out of range", "choose from 4 to 128"]),
        ("TIER", "'smok'", ["TIER=smok is not known", "did you mean 'smoke'"]),
    ):
        kind = "int" if name == "N" else "str"
        wrong = re.sub(rf"(?m)^{name}: {kind} = \S+", f"{name}: {kind} = {value}", cells[0])
        scratch.write(wrong, cells[1], cells[2], "print('loaded', model.name)")
        outputs = scratch.run_all()
        (error,) = [o for cell in outputs[:3] for o in cell]
        lines = text_of(error)
        assert len(lines) == 2 and all(part in line for part, line in zip(said, lines, strict=True)), lines
        assert not outputs[3] and len(scratch.seen(RED)) == 1
        scratch.picture(f"wrong-{said[0].split('=')[1].split()[0]}")


def test_an_interrupt_is_one_line_and_leaves_the_kernel_at_work(scratch):
    long = """import time
from refusal.base.progress import track
for _ in track(range(9000), "work"):
    time.sleep(0.1)"""
    scratch.write(long, "print(6 * 7)")
    scratch.start()
    until(lambda: scratch.seen(BAR) or scratch.ended(), "a bar")
    assert scratch.seen(BAR), scratch.outputs()[0]
    scratch.picture("at-work")
    scratch.command("notebook:interrupt-kernel")
    until(scratch.ended, "the end of the cell")
    (error,) = [o for o in scratch.outputs()[0] if o["output_type"] == "error"]
    assert error["ename"] == "KeyboardInterrupt" and len(text_of(error)) == 1
    scratch.picture("interrupted")
    scratch.write("pass", "print(6 * 7)")
    assert scratch.run_all()[1][0]["text"] == "42\n"


def test_a_notebook_that_ends_early_says_so_calmly(scratch):
    early = """from refusal.base.errors import NotebookEnded
import refusal
raise NotebookEnded("uninformative: it never refuses", "3 claims are reported so")"""
    scratch.write(early, "print('after')")
    outputs = scratch.run_all()
    (said,) = outputs[0]
    assert said["name"] == "stdout" and said["text"].startswith("The notebook ends here. It is uninformative")
    assert not outputs[1] and not scratch.seen(RED)
    scratch.picture("early")


PANEL = """import torch
import refusal
from refusal.measure.readouts import refusal_score
from refusal.report import panel

model = refusal.load("tiny", device="cpu")
first = model.tokenizer("I", add_special_tokens=False)["input_ids"][:1]
ones = torch.ones(model.n_layers + 1, model.d_model)
directions = {"one": ones, "none": 0 * ones}
panel.steering(model, directions, ["please paint the table", "kill the lamp"], refusal_score(first))"""


def test_the_panel_computes_when_its_button_is_pressed(scratch):
    scratch.write(PANEL)
    (shown,) = scratch.run_all()[0]
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    assert "score" in "".join(shown["data"]["text/plain"])  # where no widgets are
    table = lambda: scratch.seen(".jupyter-widgets table")
    (first,) = until(table, "the panel")
    scratch.picture("panel")
    # the notebook that was run before keeps its panel, in a tab that is not shown
    scratch.tab.locator(".jupyter-widgets textarea:visible").fill("kill the lamp")
    scratch.tab.locator(".jupyter-widgets button:visible", has_text="Compute").click()
    until(lambda: table() and table()[0] != first, "another answer")
    (label,) = until(lambda: scratch.seen("button.jupyter-button:not([disabled])"), "the button again")
    assert label == "Compute"
    scratch.picture("panel-pressed")
    answers = re.findall(r"'([^']*)'", table()[0])
    assert len(answers) == 2 and all(len(said.split()) <= 12 <= panel.FEW for said in answers)
