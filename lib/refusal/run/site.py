"""``make site``: notebooks, figures and ledger as pages that open from a folder, without a server.

What `results/` holds becomes Markdown and notebooks under ``build/site``, from the texts in ``docs/_site``;
Sphinx makes pages of them in ``site/``. Sources that did not change are not written again, so that Sphinx
leaves their pages as they are.
"""

import base64
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from refusal.base.errors import UserError
from refusal.base.files import FIGURES, NOTEBOOKS, RESULTS, ROOT, disk_errors, lock, write_bytes, write_text
from refusal.report import site_pages
from refusal.report.runs import Run, read_runs
from refusal.report.site_pages import escape

TEXTS, DOCS, SITE = ROOT / "docs" / "_site", ROOT / "docs", ROOT / "site"
ELSEWHERE = {"README.md": "index.md", "results/README.md": "ledger.md", "figures/README.md": "figures.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
HIDDEN = ("parameters", "injected-parameters")  # cells that are folded, whatever the notebook says
OWN = ("run.opening(", "run.ledger()")  # what shows a box or a ledger, of which the page has its own
WIDGET = "application/vnd.jupyter.widget-view+json"  # shown, it would ask for a script from outside


def build() -> None:
    """Everything: sources, then Sphinx. Raises UserError where there are no results, or no Sphinx."""
    runs = read_runs(RESULTS)
    if not runs:
        raise UserError("there are no results to show (smoke runs are none)", "run `make reproduce` first")
    if importlib.util.find_spec("myst_nb") is None or importlib.util.find_spec("sphinx_book_theme") is None:
        raise UserError(
            "Sphinx and what it needs are not installed",
            f"{sys.executable} -m pip install -r requirements-site.txt",
        )
    work = ROOT / "build" / "site"  # Sphinx keeps what it read here, and myst-nb puts files beside its output
    source, out = work / "source", work / "html"
    with lock(work, "the site"):
        made, stamp = write_sources(runs, source, out), work / "made"
        if SITE.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == made:
            print(f"{SITE / 'index.html'} is up to date")
            return
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", str(TEXTS)]
        command += ["-d", str(work / "doctrees"), str(source), str(out)]
        if subprocess.run(command, env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}).returncode:
            raise UserError("Sphinx could not make the pages", "its own message stands above")
        remove_others(out, {path.relative_to(source).with_suffix("") for path in source.rglob("*.*")})
        replace(SITE, out, work)
        write_text(stamp, made)
    figures = sum(len(run.figures) for run in runs)
    print(f"{SITE / 'index.html'}: {len(runs)} runs, {figures} figures; open it in a browser")


def write_sources(runs: list[Run], source: Path, out: Path) -> str:
    """The pages' sources into `source`; figures and their data, which pages link to, into `out`. Returns a
    hash over all that the site is made from.
    """
    written, drawn = {}, {run.place: pictures(run) for run in runs}
    for run in runs:
        for name, png in drawn[run.place].items():
            written[out / "figures" / run.place / f"{name}.png"] = png
            data = run.folder / "data" / f"{name}.csv"
            written[out / "results" / run.place / "data" / data.name] = data.read_bytes()
        text, suffix = run_page(run, drawn[run.place])
        written[source / f"{run.page}{suffix}"] = text.encode()
    for path in sorted(DOCS.glob("*.md")):
        text = local_links(path.read_text(encoding="utf-8"), DOCS, "docs/")
        written[source / "docs" / path.name] = text.encode()
        for picture, _, address in LINK.findall(text):
            file = (DOCS / address).resolve()
            if picture and file.is_file() and file.is_relative_to(ROOT):  # its place beside docs/ stays
                written[source / file.relative_to(ROOT)] = file.read_bytes()
    filled = {
        "overview": lambda: raw(site_pages.overview(runs, {run.notebook: title(run)[1] for run in runs})),
        "ledger": lambda: raw(site_pages.ledger(runs, "")),
        "constructed": lambda: raw(site_pages.ledger(runs, "", constructed=True)),
        "gallery": lambda: gallery(runs, drawn),
        "toctree": lambda: "\n".join(f"{run.number} · {run.title} <{run.page}>" for run in runs),
    }
    for path in sorted(TEXTS.glob("*.md")):
        fill = lambda found: filled[found[1]]()
        text = re.sub(r"^\{\{ (\w+) \}\}$", fill, path.read_text(encoding="utf-8"), flags=re.M)
        written[source / path.name] = text.encode()
    for path, data in written.items():
        if not path.exists() or path.read_bytes() != data:
            write_bytes(path, data)
    with disk_errors(source):
        for folder in (source, out / "figures", out / "results"):
            for path in folder.rglob("*"):
                if path.is_file() and path not in written:
                    path.unlink()
    style = {path: path.read_bytes() for path in (TEXTS / "conf.py", *(TEXTS / "static").iterdir())}
    everything = [(str(path), hashlib.sha256(data).hexdigest()) for path, data in (written | style).items()]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def remove_others(out: Path, names: set[Path]) -> None:
    """Remove the pages of runs and documents that are no more."""
    for path in [*(out / "runs").rglob("*.html"), *(out / "docs").rglob("*.html")]:
        if path.relative_to(out).with_suffix("") not in names:
            path.unlink()


def replace(site: Path, out: Path, work: Path) -> None:
    """`site` becomes what is in `out`: the old one stands until the new one is whole."""
    new, old = work / "new", work / "old"
    with disk_errors(site):
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(out, new, ignore=shutil.ignore_patterns(".buildinfo", "objects.inv", "_sources"))
        if site.exists():
            site.rename(old)
        new.rename(site)
        shutil.rmtree(old, ignore_errors=True)


def raw(html: str) -> str:
    """HTML as a block of Markdown, which no text in it can end."""
    return f"``````{{raw}} html\n{html.replace('`', '&#96;')}\n``````"


def title(run: Run) -> tuple[str, str]:
    """The first heading of a run's notebook, without links, and the question in it; the notebook's name where
    it is gone.
    """
    path = NOTEBOOKS / f"{run.notebook}.ipynb"
    notebook = run.executed or (json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)
    first = "".join(notebook["cells"][0]["source"]).splitlines() if notebook else []
    heading = LINK.sub(r"\2", first[0].removeprefix("# ")) if first else run.notebook
    return heading, heading.partition(" · ")[2] or heading


def pictures(run: Run) -> dict[str, bytes]:
    """The PNG file of every figure of a run: as drawn, or else as the executed notebook shows it. One that is
    nowhere is named on stderr.
    """
    shown = [image for image, _ in images(run.executed)] if run.executed else []
    found = {}
    for i, name in enumerate(run.figures):
        path, data = FIGURES / run.place / f"{name}.png", run.folder / "data" / f"{name}.csv"
        if not data.exists():
            print(f"left out: {data} is missing; run that again, or remove its folder", file=sys.stderr)
        elif path.exists():
            found[name] = path.read_bytes()
        elif len(shown) == len(run.figures):
            found[name] = base64.b64decode(shown[i])
        else:
            print(f"left out: {path} is missing; `make figures` draws it", file=sys.stderr)
    return found


def images(notebook: dict) -> Iterator[tuple[str, dict]]:
    """The pictures among a notebook's outputs, in order: base64 text, and the output it is in."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                yield output["data"]["image/png"], output


def run_page(run: Run, drawn: dict[str, bytes]) -> tuple[str, str]:
    """A run's page and its suffix: the executed notebook, or else the notebook's text with the figures after
    the text that is before the cells that draw them; then its part of the ledger.
    """
    root = "../../../"
    figure = {name: site_pages.picture(run, name, png, root) for name, png in drawn.items()}
    command = f"make reproduce RUN={shlex.quote(f'results/{run.place}/run.json')}"
    about = raw(site_pages.about(run, command))
    ledger = f"## Ledger of this run\n\n{raw(site_pages.ledger([run], root, controls=False))}"
    if any(r.evidence == "constructed" for r in run.records):
        constructed = raw(site_pages.ledger([run], root, constructed=True, controls=False))
        ledger += f"\n\n## Constructed models: tests of the instrument\n\n{constructed}"
    if run.executed:
        return json.dumps(executed(run, figure, about, ledger), indent=1, ensure_ascii=False), ".ipynb"
    path, left, parts = NOTEBOOKS / f"{run.notebook}.ipynb", dict(figure), [f"# {escaped(run.notebook)}"]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(local_links(source, NOTEBOOKS, root))
        else:
            parts += [raw(left.pop(name)) for name in list(left) if f'"{name}"' in source]
    if cells:
        parts.pop(0)  # the notebook brings its own
    parts.insert(
        1,
        f"{about}\n\nThe executed notebook of this run was not at hand when this page was made. Below "
        "are the notebook's text and the run's figures, without code.",
    )
    return "\n\n".join([*parts, *map(raw, left.values()), ledger, ""]), ".md"


def executed(run: Run, figure: dict[str, str], about: str, ledger: str) -> dict:
    """The executed notebook as a page: pictures become figures with captions, in place of the notes and
    readings below them, `about` stands in place of its opening box and `ledger` of its own ledger; progress
    bars and widgets go, code is folded where its tags say so, or everywhere in a notebook without such tags.
    """
    notebook = json.loads(json.dumps(run.executed))
    outputs, captions = list(images(notebook)), set()
    for i, (_, output) in enumerate(outputs):
        name = list(run.figures)[i] if len(outputs) == len(run.figures) else None
        if name in figure:
            output["data"] = {"text/html": figure[name], "text/plain": ""}
            spec = run.figures[name]
            captions |= {f"<small>{escape(spec['note'])}</small>", spec.get("reading") or None}
    tagged = any("hide-input" in cell["metadata"].get("tags", ()) for cell in notebook["cells"])
    added = {
        name: {"id": name, "cell_type": "markdown", "metadata": {}, "source": text}
        for name, text in (("about", about), ("ledger", ledger))
    }
    cells = []
    for i, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        kept = {"id": f"cell-{i}", "cell_type": cell["cell_type"], "metadata": {}, "source": cell["source"]}
        if cell["cell_type"] == "markdown":
            kept["source"] = local_links(source, NOTEBOOKS, "../../../")
        if cell["cell_type"] == "code":
            tags = [tag for tag in cell["metadata"].get("tags", ()) if tag.startswith(("hide-", "remove-"))]
            if not tagged or set(HIDDEN) & set(cell["metadata"].get("tags", ())):
                tags.append("hide-input")
            kept["metadata"] = {"tags": sorted(set(tags)), "mystnb": {"image": {"alt": run.notebook}}}
            outputs = [o for o in map(said, cell["outputs"]) if o and not captions & set(texts(o))]
            if any(call in source for call in OWN):
                outputs = [o for o in outputs if "text/html" not in o.get("data", {})]
            kept |= {"execution_count": None, "outputs": outputs}
        cells.append(kept)
        if i == 0:
            cells.append(added.pop("about"))
        if "run.ledger()" in source and "ledger" in added:
            cells.append(added.pop("ledger"))
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return {"cells": [*cells, *added.values()], "metadata": language, "nbformat": 4, "nbformat_minor": 5}


def texts(output: dict) -> list[str]:
    """An output as HTML and as Markdown, where it is such."""
    return ["".join(output.get("data", {}).get(kind, "")) for kind in ("text/html", "text/markdown")]


def said(output: dict) -> dict | None:
    """An output as a page shows it: no stderr, no widgets, an error as its one message."""
    if output["output_type"] == "error":
        return {"output_type": "stream", "name": "stdout", "text": output["evalue"] + "\n"}
    if output.get("name") == "stderr":
        return None
    if WIDGET in output.get("data", {}):
        data = {kind: value for kind, value in output["data"].items() if kind == "text/html"}
        return output | {"data": data} if data else None
    return output


def local_links(text: str, folder: Path, root: str) -> str:
    """`text`, which stands in `folder` of this repository, with links to what is no page turned into the text
    and the file's name. `root` is the way from the page to the site's top, or ``docs/`` for a page there.
    """

    def there(found: re.Match) -> str:
        picture, words, address = found.groups()
        if picture or re.match(r"[a-z]+:|#", address):
            return found[0]
        target, hash, part = address.partition("#")
        path = (folder / target).resolve()
        name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else target
        up = "../" if root == "docs/" else root
        if path.parent == DOCS and path.suffix == ".md" and path.exists():
            return f"[{words}]({up}docs/{path.name}{hash}{part})"
        if name in ELSEWHERE:
            return f"[{words}]({up}{ELSEWHERE[name]})"
        return words if words.strip("`") in (name, path.name) else f"{words} (`{name}`)"

    return LINK.sub(there, text)


def gallery(runs: list[Run], drawn: dict[str, dict[str, bytes]]) -> str:
    """Every figure with its reading, by run; `drawn` holds their files by run and name."""
    parts = []
    for run in runs:
        parts.append(f"## {escaped(f'{run.number} · {run.title}')}")
        for name, png in drawn[run.place].items():
            place = f"{run.place}/{name}"
            shown = site_pages.picture(run, name, png, "")
            parts.append(raw(f'<h3 id="{escape(place)}">{escape(run.figures[name]["title"])}</h3>{shown}'))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Text as Markdown shows it."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&-])", r"\\\1", text)
