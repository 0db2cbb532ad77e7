"""What stands beside the pictures: ``figures/manifest.json`` (what each was drawn from) and
``figures/README.md`` (the gallery: each committed picture with its reading, note, claims and data).
"""

import json
from itertools import groupby
from pathlib import Path

from refusal.base.errors import UserError
from refusal.base.files import (
    FIGURES,
    NOTEBOOKS,
    RESULTS,
    lock,
    sha256,
    write_json,
    write_text,
)
from refusal.model.names import shown_name
from refusal.report.committed import committed
from refusal.report.pictures import Figure, saved

HEAD = """\
# Figures

Every figure of the committed runs, by notebook and model. Each is drawn from the CSV file beside it, and
`make figures` draws all of them again; this page is written with them. Controls are grey in every figure. A
dotted line is the bar of a claim's rule, a purple mark a paper's value.
"""


def update() -> None:
    """Write the manifest of every real run's figures, and the gallery of the committed ones. Smoke runs stay
    out; what cannot be read is left out.
    """
    with lock(FIGURES / ".manifest", "the figure manifest"):
        path, made = FIGURES / "manifest.json", manifest()
        if made and _held(path) != made:
            write_json(path, made)
        try:
            text, path = page(), FIGURES / "README.md"
        except UserError:  # no git here: what is committed stays as it is
            return
        if not (path.exists() and path.read_text(encoding="utf-8") == text):
            write_text(path, text)


def page() -> str:
    """The gallery, as Markdown. Raises UserError outside git."""
    kept = committed(RESULTS)
    runs = [path.parent for path in kept if path.name == "figures.json" and path.is_file()]
    figures, _ = saved(sorted((r for r in runs if r.parts[-3] != "smoke"), key=lambda r: (r.name, r)))
    contents, sections = [], []
    for run, own in groupby(figures, key=lambda figure: figure.run):
        tier, model, notebook = run.parts[-3:]
        claims = run / "claims.json"
        records = [r for r in _held(claims) or () if isinstance(r, dict) and "id" in r]
        verdicts = {r["id"]: r["verdict"] for r in records if "verdict" in r}
        at = f"{len(contents) + 1:02}"
        contents.append(f"- [{notebook}, {model}](#{at})")
        sections.append(f'<a id="{at}"></a>\n\n## {notebook}, {model}\n\nTier `{tier}`.\n')
        sections += [_entry(figure, verdicts) for figure in own]
    return "\n".join([HEAD, *contents, "", *sections])


def _held(path: Path):
    """What a JSON file holds; None where it is not there or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _entry(figure: Figure, verdicts: dict[str, str]) -> str:
    spec = figure.spec
    said = " ".join(str(spec.get("reading") or spec["title"]).split())
    place = figure.file().relative_to(FIGURES).as_posix()
    data = figure.table.relative_to(RESULTS.parent).as_posix()
    claims = ", ".join(f"`{id}` {verdicts.get(id, 'without a verdict')}" for id in spec.get("claims", []))
    parts = [
        f"### {spec['title']}",
        f"![{said.replace('[', '(').replace(']', ')')}]({place})",
        said if spec.get("reading") else "",
        f"*{' '.join(spec['note'].split())}*" if spec["note"] else "",
        (f"Claims: {claims}. " if claims else "") + f"Data: [{figure.table.name}](../{data})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def manifest() -> dict:
    """What every saved figure of a real run was drawn from, by ``tier/model/notebook/name``."""
    found = {}
    for path in sorted(RESULTS.glob("*/*/*/figures.json")):
        run = path.parent
        source = NOTEBOOKS / f"{run.name.partition('@')[0]}.ipynb"
        about = _held(run / "run.json")
        whole = isinstance(about, dict) and {"parameters", "model", "notebook_sha256"} <= about.keys()
        if run.parts[-3] == "smoke" or not source.exists() or not whole:
            continue
        parameters = {
            k: shown_name(v) if k in about.get("names_models", ()) else v
            for k, v in about["parameters"].items()
        }
        for figure in saved([run])[0]:
            found[figure.key] = {
                "data": figure.table.relative_to(RESULTS.parent).as_posix(),
                "data_sha256": sha256(figure.table),
                "notebook": f"notebooks/{source.name}",
                "notebook_sha256": about["notebook_sha256"],
                "parameters": parameters,
                "model": about["model"]["name"],
            }
    return found
