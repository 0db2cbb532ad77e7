"""The repository holds together: pins, README, notebooks, committed results."""

import ast
import csv
import itertools
import json
import re
import subprocess
import sys
import tomllib
from typing import get_args

import nbformat
import pytest

from refusal.base.files import FIGURES, NOTEBOOKS, PACKAGE, RESULTS, ROOT, sha256
from refusal.report import pictures
from refusal.report.outputs import KINDS
from refusal.report.pages import BEGIN, END
from refusal.report.rules import Claim, Measured, Record, Verdict, decide, read_claims
from refusal.run import cli, repeat


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))


def test_environment_yml_reads_the_same_pins():
    text = (ROOT / "environment.yml").read_text()
    # no second place for a version
    assert "- -r requirements.txt" in text and "==" not in text.split("pip:")[1]


def test_constraints_agree_with_requirements_and_pin_everything():
    direct, all_pins = (
        pins((ROOT / "requirements.txt").read_text()),
        pins((ROOT / "constraints.txt").read_text()),
    )
    assert direct and direct.items() <= all_pins.items() and len(all_pins) > 100


def test_every_import_is_required():
    names = {
        "sklearn": "scikit-learn",
        "IPython": "ipykernel",
        "jupyter_client": "ipykernel",
        "tokenizers": "transformers",
        "huggingface_hub": "huggingface-hub",
        "yaml": "pyyaml",
    }
    direct = pins((ROOT / "requirements.txt").read_text())
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in (name.partition(".")[0] for name in found):
                if module not in (*sys.stdlib_module_names, "refusal", "pip"):  # every environment brings pip
                    assert names.get(module, module) in direct, (path.name, module)


def test_notebooks_hold_no_outputs_and_state_their_question():
    for path in NOTEBOOKS.glob("*.ipynb"):
        nb = nbformat.read(path, 4)
        assert nb.cells[0].cell_type == "markdown" and nb.cells[0].source.startswith("# ")
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in nb.cells)


def ignored(path):
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def tracked(*patterns):
    return subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()


def test_nothing_of_one_machine_is_committed():
    """No link that leads out of the repository, no environment and no output that is made again."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True).stdout
    files = {line.split("\t")[1]: line.split()[0] for line in listed.splitlines()}
    links = {name for name, mode in files.items() if mode not in ("100644", "100755")}
    assert files and all((ROOT / name).resolve().is_relative_to(ROOT / "lib") for name in links)
    made = {".venv", "__pycache__", "site", "build", ".ipynb_checkpoints"}
    assert not [name for name in files if made & set(name.split("/"))]


def test_the_pages_are_the_committed_ledger():
    for path, made in cli.pages((ROOT / "README.md").read_text(encoding="utf-8")).items():
        assert (ROOT / path).read_text(encoding="utf-8") == made, f"{path}: run `make readme`"
    assert tracked("results/README.md") or not ignored("results/README.md")


def test_every_committed_run_is_whole():
    """All that a page is made from, and what its cells showed without pictures or printed text."""
    for name in tracked("results/**/claims.json"):
        folder = (ROOT / name).parent
        figures, shown = (json.loads((folder / f"{n}.json").read_text()) for n in ("figures", "shown"))
        outputs = [output for cell in shown.values() for output in cell]
        assert {kind for output in outputs for kind in output} <= {"figure", "error", *KINDS}, name
        assert [o["figure"] for o in outputs if "figure" in o] == list(figures), name
        assert all((folder / "data" / f"{figure}.csv").exists() for figure in figures), name
        assert {"metrics.json", "run.json"} <= {path.name for path in folder.iterdir()}, name


def test_every_committed_record_stands_in_the_ledgers_page():
    """With its verdict, value, interval and n, in the row of its claim: read from the files, not by what
    writes the page.
    """
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    small = lambda x: f"{x:.2f}" if x == 0 or abs(x) >= 0.095 else f"{x:.2g}"
    found = set()
    for name in (name for name in tracked("results/*/*/*/claims.json") if "@" not in name):
        for r in json.loads((ROOT / name).read_text()):
            if r["evidence"] == "constructed" and any(id == r["id"] for _, id in found):
                continue  # the same whatever model a run is about, so it stands there once
            cell = f"**{r['verdict']}**"
            if r["value"] is not None:
                cell += f" {small(r['value'])} [{small(r['ci95'][0])}, {small(r['ci95'][1])}], n {r['n']}"
            if r["needed_n"]:
                cell += f" (about {r['needed_n']} items would decide)"
            assert [
                row for row in rows if row.startswith(f"| `{r['id']}` {r['statement']} |") and cell in row
            ], r
            found.add((name, r["id"]))
    assert len(found) > 50


def test_the_readme_is_one_screen_that_says_how_to_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 9216
    assert "\nmake test " in text and "make hello" in text and "make reproduce" in text


def test_no_result_is_typed_into_the_documents():
    """A value with its interval, a size, or a verdict in the line of a claim's id, stands in pages that are
    made alone.
    """
    verdicts = "|".join(sorted(get_args(Verdict), key=len, reverse=True))
    an_id = r"`\d\d[a-z]?\.[\w.-]+`"
    typed = re.compile(
        rf"\[[-−]?\d+\.\d+, ?[-−]?\d+\.\d+\]|\bn \d+\b|AUROC (?:is |of )?0\.\d\d"
        rf"|{an_id}.*\b(?:{verdicts})\b|\b(?:{verdicts})\b.*{an_id}"
    )
    for text in (
        "0.31 [0.12, 0.48]",
        "[−0.2,-0.1]",
        "n 64",
        "AUROC of 0.91",
        "`02.steer.harm` is replicated",
        "not replicated: `02.steer.harm`",
    ):
        assert typed.search(text), text
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]:
        if path.name != "rule-changes.md":  # a history, which keeps what was
            assert not typed.findall(path.read_text(encoding="utf-8")), path.name
    by_hand = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)
    assert not typed.findall(by_hand[0] + by_hand[1].split(END)[1])


def test_committed_verdicts_follow_from_their_records_alone():
    files = tracked("results/**/claims.json")
    assert files
    for name in files:
        records = [Record(**r) for r in json.loads((ROOT / name).read_text())]
        assert len({r.id for r in records}) == len(records)
        for r in records:
            measured = Measured(**{field: getattr(r, field) for field in Measured.model_fields})
            assert decide(r.rule, measured, r.reason if r.verdict == "uninformative" else None) == (
                r.verdict,
                r.reason,
                r.needed_n,
            ), (name, r.id)


def test_committed_values_lie_in_their_intervals():
    for name in tracked("results/**/claims.json"):
        for r in json.loads((ROOT / name).read_text()):
            found = r["controls"] | {"value": r["value"], "value_ci95": r["ci95"]}
            intervals = {k: v for k, v in found.items() if k.endswith("_ci95") and v is not None}
            for k, (low, high) in intervals.items():
                value = found[k.removesuffix("_ci95")]
                assert low - 1e-9 <= value <= high + 1e-9, (name, r["id"], k)


def test_committed_runs_can_be_repeated_with_their_parameters():
    files = tracked("results/**/run.json")
    assert files
    for name in files:
        notebook, values = repeat.as_given(ROOT / name, json.loads((ROOT / name).read_text()))
        assert notebook.stem == name.split("/")[-2].partition("@")[0] and values


def test_committed_records_are_of_the_claims_files_as_they_stand():
    """A rule that was changed after a run shows: its record holds the old one."""
    for name in tracked("results/**/claims.json"):
        notebook = name.split("/")[-2].partition("@")[0]
        planned = read_claims(NOTEBOOKS / f"{notebook}.claims.toml")
        for r in json.loads((ROOT / name).read_text()):
            claim = planned[r["id"]]
            assert r["evidence"] == (claim.evidence or r["evidence"])
            fixed = {field: r[field] for field in Claim.model_fields if field != "evidence"}
            assert Claim(**fixed, evidence=claim.evidence) == claim, (name, r["id"])


def test_the_manifest_is_current():
    manifest = json.loads((FIGURES / "manifest.json").read_text())
    assert manifest
    for name, entry in manifest.items():
        assert sha256(ROOT / entry["data"]) == entry["data_sha256"], name
        assert (FIGURES / f"{name}.png").exists()


def test_the_committed_pictures_are_those_that_the_code_draws():
    """Or a fresh clone's first `make figures` would draw all of them again."""
    figures, problems = pictures.saved(
        sorted((ROOT / name).parent for name in tracked("results/embedded/**/figures.json"))
    )
    assert figures and not problems
    assert not [f.key for f in figures if not pictures._stands(f, "paper", "png")]


def strings(found, name=""):
    """Each string of a JSON file with the nearest name above it, and each name of its own."""
    if isinstance(found, str):
        yield name, found
    for key, value in found.items() if isinstance(found, dict) else ():
        yield "a name", key
        yield from strings(value, key)
    for value in found if isinstance(found, list) else ():
        yield from strings(value, name)


# the characters that sentences made of labels and numbers take; a label, and whatever else, has at most 80
SENTENCES = {
    "reading": 960,
    "reason": 480,
    "precondition": 640,
    "note": 480,
    "statement": 240,
    "title": 240,
    "undecided": 240,
    "expected": 160,
    "metric": 120,
}


def as_long_as_answers(found) -> list[tuple[str, str]]:
    """What is longer than its place needs, or has more than one line."""
    return [(name, s) for name, s in strings(found) if len(s) > SENTENCES.get(name, 80) or "\n" in s]


def test_no_answers_are_committed():
    """Committed results hold numbers and labels, never generated text: no CSV column and no metric is an
    answer, and no label, name or sentence has room for one.
    """
    answer = "I cannot help with that. " * 4
    assert as_long_as_answers([{"controls": {"said": answer}}]) and as_long_as_answers({answer: 1})
    assert as_long_as_answers({"note": "one line\nand another"}) and not as_long_as_answers({"note": answer})
    for name in tracked("results/**/figures.json", "results/**/claims.json", "results/**/metrics.json"):
        assert not as_long_as_answers(json.loads((ROOT / name).read_text())), name
    for name in tracked("results/**/*.csv"):
        rows = list(csv.DictReader((ROOT / name).read_text().splitlines()))
        assert not as_long_as_answers(rows), name
        labels = [{r[k] for r in rows if not re.fullmatch(r"[-+.e\d]*", r[k])} for k in rows[0]]
        assert max(map(len, labels)) <= 24, name  # and there are few of them: they are no texts of prompts
    for name in tracked("results/**/*.csv"):
        header = (ROOT / name).read_text().splitlines()[0].split(",")
        assert set(header) <= {
            "panel",
            "series",
            "role",
            "group",
            "x",
            "y",
            "value",
            "low",
            "high",
            "n",
            "row",
            "column",
        }, name
    for name in tracked("results/**/metrics.json"):
        found = strings(json.loads((ROOT / name).read_text()))
        assert {place for place, _ in found} == {"a name"}, name
    assert not tracked("results/**/*.ipynb")


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "CONTRIBUTING.md",
        ".github/workflows/ci.yml",
        ".github/ISSUE_TEMPLATE/bug_report.yml",
        "CITATION.cff",
        "lib/refusal/data/README.md",
        "Makefile",
        "environment.yml",
    ],
)
def test_the_files_of_the_repository_are_there(name):
    assert (ROOT / name).stat().st_size > 200
    assert RESULTS.exists()


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "results/README.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def anchors(text: str) -> set[str]:
    """What a link into a page may name: its headings as GitHub writes them, and anchors of its own."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings} | set(
        re.findall(r'<a id="([^"]+)">', text)
    )


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert links or page.startswith("docs/")
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_page_that_the_lab_opens_names_every_notebook():
    page = (NOTEBOOKS / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((\w+\.ipynb)\)", page))
    assert named == {path.name for path in NOTEBOOKS.glob("[!_]*.ipynb")}


def test_no_page_says_a_section_twice():
    pages = [ROOT / page for page in (*PAGES, "CHANGELOG.md", "lib/refusal/data/README.md")]
    for path in pages:
        headings = re.findall(r"^#+ .*$", path.read_text(encoding="utf-8"), re.M)
        assert len(set(headings)) == len(headings), path


def test_every_page_of_docs_is_linked_from_another():
    linked = {
        (ROOT / page).parent.joinpath(link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert {p.resolve() for p in (ROOT / "docs").glob("*.md")} <= linked


def said_in_code() -> str:
    """Every text of the package, one a line, with … for what is put in; and the Makefile, whose messages make
    prints itself.
    """
    texts = [re.sub(r"\$\(\w+\)|\$\$\(.*\)", "…", (ROOT / "Makefile").read_text(encoding="utf-8"))]
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_of_the_errors_page_is_one_of_the_codes():
    """As a whole where … stands for what differs, so a message that is worded anew fails here."""
    quoted = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M)
    said = said_in_code()
    assert len(quoted) > 40 and len(set(quoted)) == len(quoted)
    open_end = {q: q.removesuffix("…").rstrip(" :;,") for q in quoted}
    assert not [q for q, words in open_end.items() if words not in said]


def test_the_package_asks_for_what_is_pinned():
    """Dependencies and extras of pyproject.toml together are requirements.txt, pin for pin."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*about["dependencies"], *itertools.chain(*about["optional-dependencies"].values())]
    assert dict(line.split("==") for line in asked) == pins((ROOT / "requirements.txt").read_text())
    assert len(asked) == len(set(asked)) and set(about["optional-dependencies"]) == {"notebooks", "dev"}


def test_every_paper_that_claims_come_from_is_cited():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    papers = {
        c.paper.removeprefix("arXiv:")
        for p in NOTEBOOKS.glob("[0-9]*.claims.toml")
        for c in read_claims(p).values()
    }
    assert papers and not [paper for paper in papers if f"arxiv.org/abs/{paper}" not in cited]
