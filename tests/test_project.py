"""The repository holds together: pins, README, notebooks, committed results."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest

from refusal.base.files import FIGURES, NOTEBOOKS, PACKAGE, RESULTS, ROOT, sha256
from refusal.report.rules import Claim, Measured, Record, decide, read_claims
from refusal.run import cli


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))


def test_environment_yml_reads_the_same_pins():
    text = (ROOT / "environment.yml").read_text()
    assert (
        "- -r requirements.txt" in text and "==" not in text.split("pip:")[1]
    )  # no second place for a version


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


def tracked(*patterns):
    return subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()


def test_the_readme_tables_are_the_committed_ledger():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert cli.with_results(text) == text, "run `make readme`"


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


def test_no_answers_are_committed():
    """Committed results hold numbers and labels, never generated text: no CSV column and no metric is an
    answer.
    """
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
        assert not any(isinstance(v, str) for v in json.loads((ROOT / name).read_text()).values())
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


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 5 and not [
        link for link in links if not link.startswith("http") and not (ROOT / link).exists()
    ]


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
