"""``make site``: notebooks, figures and ledger as pages that open from a folder, without a server.

What `results/` holds becomes Markdown and notebooks under ``build/site``, from the texts in ``docs/_site``;
Sphinx makes pages of them in ``site/``. Sources that did not change are not written again, so that Sphinx
leaves their pages as they are.
"""

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from refusal.base.errors import UserError
from refusal.base.files import (
    FIGURES,
    NOTEBOOKS,
    RESULTS,
    ROOT,
    disk_errors,
    lock,
    notebook_hash,
    write_bytes,
    write_text,
)
from refusal.report import site_pages
from refusal.report.runs import Run, read_runs
from refusal.report.site_pages import escape

TEXTS, DOCS, SITE = ROOT / "docs" / "_site", ROOT / "docs", ROOT / "site"
ELSEWHERE = {"README.md": "index.md", "results/README.md": "ledger.md", "figures/README.md": "figures.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


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
        pages = work / "pages"
        names = "\n".join(sorted(str(path.relative_to(source)) for path in source.rglob("*.*")))
        if not pages.exists() or pages.read_text(encoding="utf-8") != names:
            command.append("-E")  # a page that is gone stays in the others' links else
        command += ["-d", str(work / "doctrees"), str(source), str(out)]
        if subprocess.run(command, env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}).returncode:
            raise UserError("Sphinx could not make the pages", "its own message stands above")
        remove_others(out, {path.relative_to(source).with_suffix("") for path in source.rglob("*.*")})
        replace(SITE, out, work)
        write_text(stamp, made)
        write_text(pages, names)
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
        page = run_page(run, drawn[run.place])
        written[source / f"{run.page}.ipynb"] = json.dumps(page, indent=1, ensure_ascii=False).encode()
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
    notebook = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    first = "".join(notebook["cells"][0]["source"]).splitlines() if notebook else []
    heading = LINK.sub(r"\2", first[0].removeprefix("# ")) if first else run.notebook
    return heading, heading.partition(" · ")[2] or heading


def pictures(run: Run) -> dict[str, bytes]:
    """The PNG file of every figure of a run; one that is missing is named on stderr."""
    found = {}
    for name in run.figures:
        path, data = FIGURES / run.place / f"{name}.png", run.folder / "data" / f"{name}.csv"
        if not data.exists():
            print(f"left out: {data} is missing; run that again, or remove its folder", file=sys.stderr)
        elif path.exists():
            found[name] = path.read_bytes()
        else:
            print(f"left out: {path} is missing; `make figures` draws it", file=sys.stderr)
    return found


def run_page(run: Run, drawn: dict[str, bytes]) -> dict:
    """A run's page as a notebook: its notebook's text and folded code, with what each cell showed; a box
    about the run after its title, and its part of the ledger in place of its own.

    Pictures become figures with captions, in place of the notes and readings below them. Of a notebook that
    is gone there is the box, the figures and the ledger.
    """
    root = "../../../"
    figure = {name: site_pages.picture(run, name, png, root) for name, png in drawn.items()}
    command = f"make reproduce RUN={shlex.quote(f'results/{run.place}/run.json')}"
    path, added = NOTEBOOKS / f"{run.notebook}.ipynb", {"about": raw(site_pages.about(run, command))}
    added["ledger"] = f"## Ledger of this run\n\n{raw(site_pages.ledger([run], root, controls=False))}"
    if any(r.evidence == "constructed" for r in run.records):
        constructed = raw(site_pages.ledger([run], root, constructed=True, controls=False))
        added["ledger"] += f"\n\n## Constructed models: tests of the instrument\n\n{constructed}"
    cells, notebook = [_text("gone", f"# {escaped(run.notebook)}")], None
    if path.exists():
        if run.about.get("notebook_sha256") != notebook_hash(path):
            added["about"] += "\n\nThe notebook has changed since this run: some of its text may not fit."
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [_cell(cell, run, figure) for cell in notebook["cells"]]
    own = next((i for i, c in enumerate(cells) if "run.ledger()" in c["source"]), len(cells) - 1)
    if figure:  # of cells that are gone
        added["ledger"] = "\n\n".join([*map(raw, figure.values()), added["ledger"]])
    cells.insert(own + 1, _text("ledger", added["ledger"]))
    cells.insert(1, _text("about", added["about"]))
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return {"cells": cells, "metadata": language, "nbformat": 4, "nbformat_minor": 5}


def _text(name: str, source: str) -> dict:
    """A cell of Markdown."""
    return {"id": name, "cell_type": "markdown", "metadata": {}, "source": source}


def _cell(cell: dict, run: Run, figure: dict[str, str]) -> dict:
    """A notebook's cell as the page has it; figures that it shows are taken out of `figure`."""
    name, source = f"cell-{cell['id']}", "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return _text(name, local_links(source, NOTEBOOKS, "../../../"))
    tags = cell["metadata"].get("tags", ())
    kept = {tag for tag in tags if tag.startswith(("hide-", "remove-"))}
    kept |= {"hide-input"} if "parameters" in tags else set()
    specs = run.figures.values()
    captions = {f"<small>{escape(s['note'])}</small>" for s in specs} | {s.get("reading", "") for s in specs}
    outputs = [_output(o, figure) for o in run.shown.get(cell["id"], ()) if not captions & {*o.values()}]
    return {
        "id": name,
        "cell_type": "code",
        "metadata": {"tags": sorted(kept)},
        "source": source,
        "execution_count": None,
        "outputs": [output for output in outputs if output],
    }


def _output(kept: dict[str, str], figure: dict[str, str]) -> dict | None:
    """An output of a cell, from what `outputs.shown` kept of it; a figure is taken out of `figure`, and None
    where it is not there.
    """
    ((kind, text),) = kept.items()
    if kind == "figure":
        html = figure.pop(text, None)
        kind, text = "text/html", html or ""
    if not text:
        return None
    if kind == "error":
        return {"output_type": "stream", "name": "stdout", "text": text + "\n"}
    return {"output_type": "display_data", "metadata": {}, "data": {kind: text, "text/plain": ""}}


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
