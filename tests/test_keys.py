"""Keys of stored results: whatever a result depends on changes its key, and nothing else does."""

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from conftest import table
from refusal.base import syntax
from refusal.base.files import NOTEBOOKS
from refusal.findings.f02b import attack
from refusal.measure import readouts, sweeps
from refusal.model import loading
from refusal.run import runner
from refusal.trace import cache, reads
from refusal.trace.edits import Ablate, Add
from refusal.trace.prompts import chat


@pytest.fixture()
def package(tmp_path, monkeypatch):
    """A copy of the package's source that a test may change; what was read of it is forgotten before and
    after.
    """
    monkeypatch.setattr(syntax, "PACKAGE", shutil.copytree(syntax.PACKAGE, tmp_path / "refusal"))
    forget = lambda: [f.cache_clear() for f in (syntax._tree, syntax._said, syntax.reached)]
    forget()

    def change(module: str, before: str, after: str):
        path = tmp_path / "refusal" / f"{module}.py"
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
        forget()

    yield change
    monkeypatch.undo()
    forget()


def keys(model) -> dict[str, str]:
    """Keys of results that different modules compute: an attack's outcomes, scores by a readout of the
    judge's, a search, plain states.
    """
    prompts, readout = chat(model, table(["paint the table"])), readouts.refusal_score([3, 4])
    return {
        "attack": cache.key(model, attack._after, trained_on=prompts),
        "score": cache.key(model, reads.score_rows, prompts=prompts, readout=readout),
        "select": cache.key(model, sweeps._select_direction, harmful=prompts),
        "collect": cache.key(model, reads.collect_rows, prompts=prompts),
    }


@pytest.mark.parametrize(
    "module, before, after, changed",
    [
        ("measure/judge", '"cannot', '"can not', {"attack"}),  # a phrase: outcomes
        ("measure/readouts", "logsumexp(-1)", "sum(-1)", {"score"}),
        ("measure/sweeps", "``induce`` > 0", "``induce`` >= 0", set()),  # in a docstring
        ("measure/sweeps", 'means["induce"] > 0', 'means["induce"] >= 0', {"select"}),
        ("trace/passes", "clamp_min(1e-6)", "clamp_min(1e-5)", {"attack", "score", "select", "collect"}),
        ("trace/reads", "def collect_rows(", "# read all of it\ndef collect_rows(", set()),
        ("train/adapters", "r=16", "r=8", {"attack"}),
        # how a model is loaded
        ("model/loading", '"*.h": "layers"', '"*.hh": "layers"', {"attack", "score", "select", "collect"}),
        ("run/cli", "STOPPED = 130", "STOPPED = 131", set()),
        # what only shows
        ("base/progress", "mininterval=0.5", "mininterval=0.2", set()),
        ("base/errors", "self.what, self.hint", "self.hint, self.what", set()),
    ],
)
def test_a_key_follows_the_code_that_computes(llama, package, module, before, after, changed):
    old = keys(llama)
    package(module, before, after)
    assert {name for name, key in keys(llama).items() if key != old[name]} == changed


def test_a_runs_mark_follows_the_code_that_its_notebook_imports(package):
    """And so does a recipe's folder, but for what makes no other model."""
    book = NOTEBOOKS / "02_harmfulness_vs_refusal.ipynb"
    mark = lambda: (
        runner.fingerprint(book, {"TIER": "smoke"}, "r"),
        runner.recipe_folder("smollm2-135m-safe"),
    )
    first = mark()
    package("measure/stats", '"""', '"""Said in other words. ')
    package("findings/f01/transfer", "JUDGED = ", "JUDGED = 1 + ")  # of notebook 01 alone
    assert mark() == first
    package("findings/f02/harmfulness", "SHUFFLES = 40", "SHUFFLES = 41")
    assert mark()[0] != first[0] and mark()[1] == first[1]
    package("train/refusals", "I'm sorry", "I am sorry")
    assert mark()[1] != first[1]


@dataclass(frozen=True)
class Push:
    vector: torch.Tensor
    layer: int


@dataclass(frozen=True)
class Pull:
    vector: torch.Tensor
    layer: int


def of(value) -> str:
    import hashlib

    digest = hashlib.sha256()
    cache._feed(digest, value)
    return digest.hexdigest()


LONG = torch.arange(100_000.0)
ALMOST = LONG.clone()
ALMOST[50_000] += 1


@pytest.mark.parametrize(
    "a, b",
    [
        (Push(LONG, 1), Pull(LONG, 1)),
        (Push(LONG, 1), Push(ALMOST, 1)),
        ({"deep": [({"x": LONG},)]}, {"deep": [({"x": ALMOST},)]}),
        (LONG.numpy(), ALMOST.numpy()),
        (LONG, LONG.numpy()),
        (LONG, LONG.reshape(10, -1)),
        (torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float16)),
        (Add(LONG, 3, "prompt"), Ablate(LONG, (3,))),
        ([["a", "b"]], [["a"], ["b"]]),
        (["ab", "c"], ["a", "bc"]),
        ([1, [2]], [[1], 2]),
        (1, True),
        (1, 1.0),
        ("1", 1),
        (None, "None"),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (readouts.refusal_score([1, 2]), readouts.refusal_score([1, 3])),
    ],
)
def test_unequal_values_never_share_a_key(a, b):
    assert of(a) != of(b) and of(a) == of(a)


def test_what_a_prompt_holds_beside_its_tokens_counts(llama):
    (prompt,) = chat(llama, table(["paint the table"]))
    others = [replace(prompt, **{name: "other"}) for name in ("id", "text", "source", "label")] + [
        replace(prompt, start=prompt.start + 1)
    ]
    assert len({of(p) for p in [prompt, *others]}) == 6 and of(replace(prompt)) == of(prompt)


def test_equal_values_share_a_key():
    assert (
        of({"a": 1, "b": LONG}) == of({"b": LONG.clone(), "a": 1})
        and of(np.int64(3)) == of(3)
        and of([1, 2]) == of(range(1, 3))
    )


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, lambda x: x, [[object()]], np.array(["a"]), loading.Model]
)
def test_a_value_that_cannot_be_told_from_its_like_is_an_error(value):
    with pytest.raises(TypeError, match="cannot be part of a key"):
        of(value)


def test_code_without_source_is_an_error():
    made = eval("lambda x: x")
    made.key = "k"
    with pytest.raises(TypeError, match="has no source"):
        of(made)
    with pytest.raises(ValueError, match="is no module of refusal"):
        syntax.code("json")
