"""`make reproduce RUN=…`: the same notebook with the same parameters, what differs from then, and each reason
why it cannot be done.
"""

import json

import pytest

from conftest import tiny_module
from refusal import data
from refusal.base.errors import ParameterError
from refusal.base.files import NOTEBOOKS, notebook_hash
from refusal.model.names import folder_name
from refusal.model.sources import locate
from refusal.model.tiny import tiny_tokenizer
from refusal.run import cli, params, repeat, runner

BOOK = NOTEBOOKS / "02_harmfulness_vs_refusal.ipynb"
HERE = {
    "versions": {"python": "3.11", "torch": "2.13"},
    "machine": {"processor": "one", "bfloat16": True},
    "git_commit": "a" * 40,
}


@pytest.fixture()
def about(monkeypatch):
    """The run.json of a smoke run that was made in just this environment."""
    monkeypatch.setattr(runner, "environment", lambda: HERE)
    return HERE | {
        "notebook": BOOK.name,
        "notebook_sha256": notebook_hash(BOOK),
        "parameters": params.resolve(BOOK, {"TIER": "smoke", "SEED": "3", "alpha": "2"}),
        "model": {"name": "tiny", "revision": locate("tiny").revision},
        "data": data.hashes("smoke"),
    }


@pytest.fixture()
def ran(monkeypatch):
    """The runs that were started, (notebook, parameters), without running any."""
    started = []
    monkeypatch.setattr(runner, "run", lambda path, values: started.append((path, values)))
    return started


def saved(folder, about):
    path = folder / "run.json"
    path.write_text(json.dumps(about))
    return str(path)


def test_a_run_is_repeated_with_its_parameters(about, ran, tmp_path, capsys):
    path = saved(tmp_path, about)
    for way in (path, str(tmp_path)):  # the file, or its folder
        repeat.repeat(way)
        assert ran.pop() == (BOOK, about["parameters"])
        assert "nothing of its environment differs" in capsys.readouterr().out


def test_what_differs_is_said_line_by_line_before_it_starts(about, ran, tmp_path, capsys):
    then = about | {
        "versions": {"python": "3.11", "torch": "2.12", "old": "1"},
        "machine": {"processor": "one", "bfloat16": False},
        "git_commit": "b" * 40,
        "notebook_sha256": "0",
        "parameters": {k: v for k, v in about["parameters"].items() if k != "DATE"},
        "model": about["model"] | {"revision": "planted-another-one"},
        "data": {"gone.csv": "0"} | {k: v for k, v in about["data"].items() if k != "prompts.csv"},
    }
    then["data"]["facts.csv"] = "0"
    repeat.repeat(saved(tmp_path, then))
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("differs: ")]
    assert [line.removeprefix("differs: ") for line in lines] == [
        "torch: 2.12 then, 2.13 now",
        "old: 1 then, not asked for now",
        "bfloat16: False then, True now",
        f"git commit: {'b' * 40} then, {'a' * 40} now",
        f"{BOOK.name}: its cells were others",
        "parameter DATE: came later, '2024-07-26' by default",
        "data file gone.csv: is gone",
        "data file facts.csv: was another",
        "data file prompts.csv: came later",
        f"model tiny: revision planted-anot then, {about['model']['revision'][:12]} now",
    ]
    assert ran == [(BOOK, about["parameters"])]


def test_what_was_not_committed_cannot_be_compared(about, ran, tmp_path, capsys):
    changed = about["git_commit"] + "+changes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "environment", lambda: HERE | {"git_commit": changed})
        repeat.repeat(saved(tmp_path, about | {"git_commit": changed}))
    assert f"differs: git commit: {changed} then, {changed} now" in capsys.readouterr().out
    repeat.repeat(saved(tmp_path, about | {"git_commit": None}))
    assert "git commit: none then" in capsys.readouterr().out
    repeat.repeat(saved(tmp_path, {k: v for k, v in about.items() if k != "notebook_sha256"}))
    assert f"{BOOK.name}: its cells then are not recorded" in capsys.readouterr().out


def test_revisions_are_compared_of_models_that_are_at_hand_only(about, tmp_path, monkeypatch):
    def no_fetching(name):
        raise AssertionError(f"{name} was fetched")

    monkeypatch.setattr(repeat, "recipe_folder", lambda name: tmp_path / "nowhere")
    real = repeat.locate
    monkeypatch.setattr(repeat, "locate", no_fetching)
    for name in ("smollm2-135m-safe", "owner/name"):
        assert repeat._at_hand(name) is None
    assert len(repeat._at_hand("qwen2.5-coder-0.5b-instruct")) == 64
    (tmp_path / "m.gguf").write_bytes(b"GGUF of little use")
    assert len(repeat._at_hand(str(tmp_path / "m.gguf"))) == 64
    monkeypatch.setattr(repeat, "locate", real)
    values = {"MODEL": "tiny", "REMOTE": "1"}
    assert repeat._models("another", BOOK, values) == []  # a remote run's revision is a name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"notebook": "02_harmfulness_vs_refusals.ipynb"}, "not here any more\n  did you mean '02_harm"),
        ({"parameters": {"TIER": "smoke", "alfa": 2.0}}, "no longer has the parameter 'alfa'.*\n.*'alpha'"),
        ({"parameters": {"TIER": "smoke", "alpha": 200.0}}, "run.json: alpha=200.0 is out of range"),
        (
            {"parameters": {"MODEL": "gone"}, "model": {"name": "gone", "revision": "0"}},
            "run.json: MODEL: unknown model 'gone'\n.*valid: ",
        ),
        (
            {"notebook": "02b_latent_guard.ipynb", "parameters": {"TIER": "smoke", "moderator": "auto"}},
            "run.json: moderator: unknown model 'auto'",
        ),
    ],
)
def test_a_run_that_this_checkout_cannot_repeat_says_why(about, ran, tmp_path, change, message):
    with pytest.raises(ParameterError, match=message):
        repeat.repeat(saved(tmp_path, about | change))
    assert not ran


def test_a_model_whose_place_is_not_recorded(about, ran, tmp_path, monkeypatch):
    """Relative paths are recorded as they were written; the hash says whether they still name that place."""
    tiny_module("llama").save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    name = folder_name("./m")
    here = about["parameters"] | {"MODEL": "./m", "TIER": "embedded"}
    about |= {"parameters": here, "model": {"name": name, "revision": locate("./m").revision}}
    about["data"] = data.hashes("embedded")
    path = saved(tmp_path, about)
    repeat.repeat(path)
    assert ran.pop() == (BOOK, here)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = f"MODEL of that run is told only as {name}, and .* is not that here\n.*make nb-02 MODEL="
    for written in ("./m", name):
        with pytest.raises(ParameterError, match=told):
            repeat.repeat(
                saved(tmp_path, about | {"parameters": here | {"MODEL": written}, "model": {"name": name}})
            )
    assert not ran


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no such file\n  every run leaves one in results/"),
        ("not json", "cannot be read: it is no JSON"),
        ("", "cannot be read: it is no JSON"),
        ("[1]", "is no run.json: it lacks notebook"),
        ('{"notebook": "x"}', "is no run.json: it lacks parameters, model"),
    ],
)
def test_what_is_no_run_json(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParameterError, match=message):
        repeat.repeat(str(path))
    with pytest.raises(ParameterError, match="there is no run.json in it"):
        repeat.repeat(str(tmp_path))


def test_make_variables_go_with_their_targets(about, ran, tmp_path, monkeypatch, capsys):
    path = saved(tmp_path, about)
    monkeypatch.setenv("COMPANION_GIVEN", "RUN")
    monkeypatch.setenv("COMPANION_PARAM_RUN", path)
    assert cli.main(["reproduce"]) == 0 and ran.pop() == (BOOK, about["parameters"])
    for target in (["nb", "02"], ["claims"], ["figures"]):
        assert cli.main(target) == 2 and "RUN goes with make reproduce" in capsys.readouterr().err
    monkeypatch.setenv("COMPANION_PARAM_SEED", "1")
    assert cli.main(["reproduce"]) == 2 and not ran
    assert "SEED cannot be set beside it" in capsys.readouterr().err
    monkeypatch.delenv("COMPANION_PARAM_RUN")
    monkeypatch.setenv("COMPANION_GIVEN", "RNU")
    assert cli.main(["reproduce"]) == 2 and "did you mean 'RUN'" in capsys.readouterr().err


def test_a_run_records_what_a_repetition_compares():
    now = runner.environment()
    assert set(now) == {"versions", "machine", "git_commit"} and {"python", "torch"} <= set(now["versions"])
    assert {"processor", "bfloat16"} <= set(now["machine"])
