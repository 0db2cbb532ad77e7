"""Parameters, the runner, the command line: end to end on the smoke tier, and what is said when something is
wrong.
"""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
import torch
import transformers

from conftest import tiny_module
from ggufs import tiny_gguf
from refusal.base import machine
from refusal.base.errors import ParameterError, UserError
from refusal.base.files import FIGURES, NOTEBOOKS, PACKAGE, RESULTS, ROOT, write_json
from refusal.base.took import about_minutes
from refusal.model import loading
from refusal.model.names import folder_name
from refusal.model.registry import MODELS, RECIPES, TIERS
from refusal.model.tiny import tiny_tokenizer
from refusal.report import gallery
from refusal.report.rules import read_claims
from refusal.run import cli, params, runner
from refusal.run.help import make_variables

BOOK = NOTEBOOKS / "02_harmfulness_vs_refusal.ipynb"
OUTPUTS = ("run.json", "metrics.json", "claims.json", "figures.json", "executed.ipynb")


def make(*words, timeout=1200, **env):
    return subprocess.run(
        ["make", "--no-print-directory", f"PY={sys.executable}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | env,
    )


@pytest.fixture(scope="module")
def smoke():
    """One smoke run from nothing."""
    shutil.rmtree(RESULTS / "smoke", ignore_errors=True)
    done = make("reproduce", "TIER=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return RESULTS / "smoke" / "tiny" / BOOK.stem, done.stdout


def test_a_run_leaves_what_the_contract_names(smoke):
    folder, printed = smoke
    assert all((folder / name).exists() for name in OUTPUTS)
    about = json.loads((folder / "run.json").read_text())
    assert {
        "parameters",
        "model",
        "data",
        "seed",
        "dtype",
        "device",
        "batch_tokens",
        "versions",
        "git_commit",
        "duration_s",
        "peak_memory_bytes",
    } <= set(about)
    figures = json.loads((folder / "figures.json").read_text())
    drawn = FIGURES / "smoke" / "tiny" / BOOK.stem
    assert figures and all(
        (folder / "data" / f"{n}.csv").exists() and (drawn / f"{n}.png").exists() for n in figures
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert all(value is None or isinstance(value, (int, float, list)) for value in metrics.values())
    assert re.search(r"\] cell \d+/\d+ · ", printed) and "REPLICATED" in printed


def subjects_of(path) -> str:
    """The folder of a notebook's smoke run."""
    return "--vs--".join(p.tiers["smoke"] for p in params.parameters_of(path).values() if p.subject)


@pytest.mark.parametrize(
    "number, subjects", [(n, subjects_of(path)) for n, path in params.notebooks().items()]
)
def test_every_notebook_leaves_what_the_contract_names(smoke, number, subjects):
    folder = RESULTS / "smoke" / subjects / params.notebooks()[number].stem
    assert all((folder / name).exists() for name in OUTPUTS)
    about = json.loads((folder / "run.json").read_text())
    assert (
        about["model"]["name"] == subjects
        and len(about["model"]["revision"].split()) == subjects.count("--vs--") + 1
    )
    for claim in json.loads((folder / "claims.json").read_text()):
        assert (
            claim["id"].startswith(f"{number}.") and claim["evidence"] == "constructed" and claim["controls"]
        )
    assert all(
        v is None or isinstance(v, (int, float, list))
        for v in json.loads((folder / "metrics.json").read_text()).values()
    )


def test_executed_notebooks_show_every_figure(smoke):
    for path in (RESULTS / "smoke").glob("*/*/executed.ipynb"):
        shown = sum(
            "image/png" in o.get("data", {})
            for cell in nbformat.read(path, 4).cells
            for o in cell.get("outputs", [])
        )
        assert shown == len(json.loads((path.parent / "figures.json").read_text())) > 0, path


def test_the_planted_cliff_carries_the_verdicts_of_the_instrument(smoke):
    folder = RESULTS / "smoke" / "tiny-cliff" / params.notebooks()["03"].stem
    verdict = {c["id"]: c["verdict"] for c in json.loads((folder / "claims.json").read_text())}
    # by the prober that has seen thinking; a last-token prober of the tiny model is not clearly above one of
    # shuffled labels, which varies a lot
    for name in ("cliff.all-positions", "twin.all-positions", "heads.score", "heads.refusal", "heads.twin"):
        assert verdict[f"03.instrument.{name}"] == "replicated", verdict
    # what does not find the planted cliff may not speak of the twin
    blind = verdict["03.instrument.cliff"] != "replicated"
    assert verdict["03.instrument.twin"] == ("uninformative" if blind else "replicated"), verdict


def test_smoke_stays_out_of_tracked_files(smoke):
    status = subprocess.run(
        ["git", "status", "--porcelain", "results", "figures"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "smoke" not in status
    manifest = FIGURES / "manifest.json"
    assert not manifest.exists() or "smoke" not in manifest.read_text()


def test_the_constructed_model_never_speaks_for_a_paper(smoke):
    claims = json.loads((smoke[0] / "claims.json").read_text())
    assert claims and {c["evidence"] for c in claims} == {"constructed"}


def test_a_second_call_does_no_work(smoke):
    before = {name: (smoke[0] / name).stat().st_mtime_ns for name in OUTPUTS}
    done = make("nb-02", "TIER=smoke")
    assert done.returncode == 0 and "up to date" in done.stdout
    assert before == {name: (smoke[0] / name).stat().st_mtime_ns for name in OUTPUTS}


def test_a_changed_output_is_noticed_and_the_same_numbers_come_back(smoke):
    metrics = smoke[0] / "metrics.json"
    old = metrics.read_text()
    metrics.write_text("{}")
    done = make("nb-02", "TIER=smoke")
    assert done.returncode == 0 and metrics.read_text() == old  # same seed, same machine, same numbers


def test_figures_are_redrawn_from_saved_data_without_torch(smoke):
    picture = FIGURES / "smoke" / "tiny" / BOOK.stem / "cosines.png"
    old = picture.read_bytes()
    picture.unlink()
    code = (
        "import sys; from refusal.run.cli import main; status = main(['figures']); assert 'torch' not in "
        "sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes() == old


@pytest.fixture()
def at_work():
    """A function that starts notebook 02 with a seed and returns when one of its cells has been run, so that
    its kernel is at work.
    """
    started = []

    def start(seed: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "refusal.run.cli", "nb", "02"],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COMPANION_PARAM_TIER": "smoke", "COMPANION_PARAM_SEED": str(seed)},
        )
        started.append(process)
        assert any("] cell " in line for line in process.stdout), process.stderr.read()
        return process

    yield start
    for process in started:
        process.communicate(timeout=300)


def test_killed_at_work_then_run_again(smoke, at_work):
    """kill -9 in the middle: the old results stand until the next run, which cleans up and ends well."""
    old = (smoke[0] / "claims.json").read_text()
    process = at_work(seed=1)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (smoke[0] / "claims.json").read_text() == old
    assert make("nb-02", "TIER=smoke", "SEED=1").returncode == 0
    assert (
        not list(smoke[0].parent.glob(f".{BOOK.stem}*"))
        and (smoke[0].parent / f"{BOOK.stem}@SEED=1" / "claims.json").exists()
    )


def test_ctrl_c_says_that_nothing_is_lost(smoke, at_work):
    process = at_work(seed=2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert (
        process.returncode == 130
        and "what was computed is kept" in errors
        and "Traceback" not in errors.split("stopped;")[-1]
    )
    assert not list(smoke[0].parent.glob(f".{BOOK.stem}*"))


def test_an_unknown_target_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "refusal.run.cli", "reprodcue"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 2 and "did you mean 'reproduce'" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["MDOEL=x"], "did you mean 'MODEL'"),
        (["TIER=smal"], "did you mean 'smoke'"),
        (["MODEL=qwen2.5-coder-0.5b"], "did you mean 'qwen2.5-coder-0.5b-instruct'"),
        (["DTYPE=bf16"], "did you mean 'bfloat16'"),
        (["DEVICE=gpu"], "valid: auto, cpu, cuda, mps"),
        (["N=0"], "choose from 4 to 128"),
        (["N=-5"], "choose from 4 to 128"),
        (["N=100000"], "choose from 4 to 128"),
        (["N=many"], "is not of type int"),
        (["SEED=1.5"], "is not of type int"),
        (["BATCH_TOKENS=-1"], "neither auto nor a positive number"),
        (["REMOTE=yes"], "REMOTE=yes is not known"),
        (["REMOTE=1"], "needs a hub id"),
        (["TIER=smoke", "MODEL=smollm2-135m-instruct"], "TIER=smoke takes no MODEL"),
        (["MODEL=./nowhere"], "no such file or folder"),
        ([f"MODEL={ROOT / 'lib'}"], "without config.json"),
        (["TEMPLATE=nothing"], "{x} once"),
        (["P=alfa=2"], "did you mean 'alpha'"),
        (["ALPHA=2"], 'P="alpha=…"'),
        (["P=alpha={[1]:2}"], "is not of type float"),
        (["P=alpha"], "not name=value"),
        (["P=alpha=100"], "choose from 0.1 to 10"),
        (["BASE=x"], "has a parameter 'BASE'"),
    ],
)
def test_a_bad_parameter_ends_with_status_2_before_anything_runs(words, message):
    done = make("nb-02", *words, timeout=300)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "about" not in done.stdout  # nothing was announced or started


@pytest.mark.parametrize(
    "notebook, words, message",
    [
        ("nb-01", ["BASE=smollm2-135m-instuct"], "did you mean 'smollm2-135m-instruct'"),
        ("nb-01", ["POST=./nowhere"], "POST=./nowhere: there is no such file"),
        ("nb-01", ["TIER=smoke", "POST=smollm2-135m-safe"], "TIER=smoke takes no POST"),
        ("nb-01", ["MODEL=smollm2-135m-instruct"], "has a parameter 'MODEL'"),
        ("nb-03", ["REASONER=qwen"], "unknown model 'qwen'"),
        ("nb-03", ["MODEL=qwen"], "unknown model 'qwen'"),
        ("nb-03", ["P=think_tokens=1"], "choose from 8 to 2000"),
        ("nb-02b", ["P=n_templates=0"], "choose from 1 to 60"),
        ("nb-02", ["P=endings=words"], "did you mean 'word'"),
        ("reproduce", ["SEED=-1"], "choose from 0"),
    ],
)
def test_bad_parameters_of_every_notebook(notebook, words, message):
    done = make(notebook, *words, timeout=300)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_model_stands_in_for_the_reasoner(monkeypatch):
    monkeypatch.setenv("COMPANION_PARAM_MODEL", "qwen2.5-coder-0.5b-instruct")
    seen = {}
    monkeypatch.setattr(runner, "run", lambda path, values: seen.update({path.stem[:2]: values}))
    monkeypatch.setattr(cli, "claims", lambda tier=None: None)
    cli.reproduce()
    assert seen["03"]["REASONER"] == seen["02"]["MODEL"] == "qwen2.5-coder-0.5b-instruct"
    assert (seen["01"]["BASE"], seen["01"]["POST"]) == ("smollm2-135m-instruct", "smollm2-135m-safe")


@pytest.mark.parametrize("only", [None, "02"])
def test_a_command_ends_with_where_its_results_lie(monkeypatch, capsys, tmp_path, only):
    monkeypatch.setenv("COMPANION_PARAM_TIER", "smoke")
    monkeypatch.setenv("COMPANION_PARAM_SEED", "1")
    monkeypatch.setattr(runner, "run", lambda path, values: "ran")
    monkeypatch.setattr(cli, "claims", lambda tier=None: None)
    cli.reproduce(only)
    told = capsys.readouterr().out.partition("results:\n")[2].splitlines()
    stems = [path.stem for number, path in params.notebooks().items() if only in (None, number)]
    told = [line for line in told if line.startswith("  ")]
    assert told[-1 if only else 1] == f"  results/smoke/tiny/{BOOK.stem}@SEED=1"
    assert [line.rpartition("/")[2] for line in told] == [f"{stem}@SEED=1" for stem in stems]


def test_an_unknown_notebook_is_an_error():
    done = make("nb-99", timeout=300)
    assert done.returncode == 2 and "there is no notebook 99" in done.stderr


def test_parameters_are_read_from_the_notebook_with_types_and_bounds():
    found = params.parameters_of(BOOK)
    assert (
        found["N"].type is int
        and (found["N"].low, found["N"].high) == (4, 128)
        and found["alpha"].type is float
    )
    assert all(p.help for p in found.values())
    values = params.resolve(BOOK, {"alpha": "2", "TIER": "smoke"})
    assert values["alpha"] == 2.0 and isinstance(values["alpha"], float) and values["MODEL"] == "tiny"
    assert params.resolve(BOOK, {"TIER": "paper"})["MODEL"] == "Qwen/Qwen2.5-1.5B-Instruct"


def test_bounds_are_those_of_the_data():
    from refusal import data

    found = params.parameters_of(BOOK)
    for tier in ("smoke", "embedded"):
        assert found["N"].high <= min(
            (data.prompts("direction", label=label, tier=tier).shape[0]) for label in ("harmful", "harmless")
        )
        for label, source in (("harmful", None), ("harmless", "harmless")):
            assert found["n_test"].high <= len(data.prompts("test", label=label, source=source, tier=tier))


def test_further_parameters_are_split_as_written():
    assert params.parse_further('alpha=2 layers=[8, 9] name="x y"') == {
        "alpha": "2",
        "layers": "[8, 9]",
        "name": "x y",
    }


def book(tmp_path, *sources):
    cells = [
        nbformat.v4.new_code_cell(
            'MODEL: str = "tiny"  # model\nTIER: str = "smoke"  # tier\nSEED: int = 0  # seed',
            metadata={"tags": ["parameters"]},
        )
    ]
    nb = nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(s) for s in sources])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "99_broken.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.mark.parametrize(
    "sources, message",
    [
        (["x = 1", "raise ValueError('no such thing')"], "failed in cell 3: ValueError: no such thing"),
        (["x = 1"], "ended without writing metrics.json"),
    ],
)
def test_a_notebook_that_fails_or_reports_nothing_is_an_error(tmp_path, sources, message):
    with pytest.raises(UserError, match=message):
        runner.run(book(tmp_path, *sources), {"MODEL": "tiny", "TIER": "smoke", "SEED": 0})
    shutil.rmtree(RESULTS / "smoke" / "tiny" / "99_broken", ignore_errors=True)


def test_a_declared_figure_that_was_not_written_is_an_error(tmp_path):
    code = """import os, json, pathlib
for name in ("metrics", "claims", "usage", "figures"):
    (pathlib.Path(os.environ["COMPANION_OUT"]) / f"{name}.json").write_text(json.dumps({"ghost": {}}))"""
    with pytest.raises(UserError, match="declared the figure ghost"):
        runner.run(book(tmp_path, code), {"MODEL": "tiny", "TIER": "smoke", "SEED": 0})


def test_help_names_every_target_and_parameter():
    done = make("help", timeout=300)
    targets = re.findall(r"^([a-z]+)(?=[ :])", (ROOT / "Makefile").read_text(), re.M)
    # not for everybody, or no targets
    words = {"nb", "help", "readme", "environment", "export", "unexport", "ifeq", "endif"}
    shown = {"nb-NN", *targets, *cli.TARGETS} - words
    assert len(shown) > 12 and not [t for t in shown if f"make {t}" not in done.stdout]
    assert all(name in done.stdout for name in (*cli.make_variables(), *cli.OPTIONS))


def test_help_is_short_and_says_the_rest_by_topic(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 120
    assert cli.main(["help", "02"]) == 0
    said = capsys.readouterr().out
    known = params.parameters_of(BOOK)
    assert all(f"  {name} " in said for name, p in known.items() if p.subject or not name.isupper())
    assert f"{len(read_claims(BOOK.with_suffix('.claims.toml')))} claims" in said and "[96]" in said
    assert cli.main(["help", "models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*MODELS, *RECIPES, *TIERS))
    for name, (target, about) in cli.OPTIONS.items():
        assert cli.main(["help", target]) == 0
        assert f"  {name} " in (said := capsys.readouterr().out) and about in said
    assert cli.main(["help", "model"]) == 2 and "did you mean 'models'?" in capsys.readouterr().err


def test_help_needs_no_package():
    """As in a clone where nothing is installed: without site-packages, in another folder."""
    code = """import sys
sys.path.insert(0, sys.argv.pop(1))
from refusal.run import cli
sys.exit(cli.main(sys.argv[1:]))"""
    for words in ([], ["help"], ["help", "02"], ["help", "models"]):
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(PACKAGE.parent), *words],
            capture_output=True,
            cwd="/",
        )
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    "words, given",
    [
        (["help"], {}),
        (["claims"], {}),
        (["claims"], {"PLAN": "1"}),
        (["reproduce"], {"MODL": "x"}),
        (["nb", "02"], {"MODEL": "no-such-model"}),
        (["nb", "02"], {"P": "alpa=2"}),
        (["nb", "02"], {"N": "many"}),
    ],
)
def test_what_runs_nothing_loads_nothing_heavy(words, given):
    code = (
        "import sys; from refusal.run import cli; cli.main(sys.argv[1:]); "
        "print([m for m in ('torch', 'matplotlib', 'transformers', 'IPython') if m in sys.modules])"
    )
    env = os.environ | {"COMPANION_GIVEN": " ".join(given)} | {cli.PREFIX + k: v for k, v in given.items()}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_make_hands_on_every_parameter_and_option():
    """Under a name of its own, so that a variable of the user's shell is none and make expands nothing."""
    names = re.search(r"^NAMES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert names and set(names[1].split()) == set(make_variables()) | set(cli.OPTIONS)


@pytest.mark.parametrize("target", ["figures", "models", "readme", "hello"])
def test_a_target_without_parameters_refuses_them_before_it_does_anything(monkeypatch, capsys, target):
    monkeypatch.setenv("COMPANION_GIVEN", "MODEL")
    monkeypatch.setenv(cli.PREFIX + "MODEL", "smollm2-135m-safe")
    monkeypatch.setitem(cli.TARGETS, target, lambda: pytest.fail("it ran"))
    assert cli.main([target]) == 2 and f"make {target} takes no MODEL" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device", "x.json")

    monkeypatch.setitem(cli.TARGETS, "figures", full)
    assert cli.main(["figures"]) == 1 and "no space left" in capsys.readouterr().err


def test_remote_path_of_the_whole_notebook(smoke):
    """REMOTE=local: everything is serialised as for NDIF and run here; the verdicts are the same."""
    old = {c["id"]: c["verdict"] for c in json.loads((smoke[0] / "claims.json").read_text())}
    done = make("nb-02", "TIER=smoke", "REMOTE=local")
    assert done.returncode == 0, done.stdout + done.stderr
    new = {c["id"]: c["verdict"] for c in json.loads((smoke[0] / "claims.json").read_text())}
    assert new == old


def test_unknown_parameters_raise_before_make(monkeypatch):
    monkeypatch.setenv("COMPANION_GIVEN", "SEED TEIR")
    with pytest.raises(ParameterError, match="TIER"):
        cli.given_parameters()


def saved(folder, template: bool = True, layers: int | None = None, gguf: bool = False):
    """A tiny random model in a folder, which never refuses, on request without a chat template or of another
    depth, or as a GGUF file of another family (without a template).
    """
    if gguf:
        folder.mkdir()
        return tiny_gguf(folder / "tiny.gguf")
    tokenizer = copy.deepcopy(tiny_tokenizer())
    if not template:
        tokenizer.chat_template = None
    module = tiny_module("llama")
    if layers:
        module = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**module.config.to_dict() | {"num_hidden_layers": layers})
        )
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "number, which, reason",
    [
        ("02", {}, "refuses"),
        ("02", {"template": False}, "no chat template"),
        ("02", {"gguf": True}, "no chat template"),
        ("02b", {}, "were refused"),
        ("02b", {"gguf": True}, "no chat template"),
        ("02b", {"template": False}, "no chat template"),
        ("01", {"layers": 2}, "differ in n_layers"),
        ("01", {"gguf": True}, "differ in"),
        ("03", {"template": False}, "no chat template"),
        ("03", {"gguf": True}, "no chat template"),
    ],
)
def test_a_model_that_cannot_inform_ends_in_a_reason_for_every_claim(tmp_path, number, which, reason):
    """On the real prompts; for two models of unequal shape as well. Nothing after the reason is run."""
    folder = saved(tmp_path / "one", **which)
    given, name = [f"MODEL={folder}"], folder_name(str(folder))
    if number == "01":
        other = saved(tmp_path / "two")
        given, name = [f"BASE={folder}", f"POST={other}"], f"{name}--vs--{folder_name(str(other))}"
    places = [base / "embedded" / name for base in (RESULTS, FIGURES)]
    try:
        done = make(f"nb-{number}", *given)
        assert done.returncode == 0, done.stdout + done.stderr
        run = places[0] / params.notebooks()[number].stem
        claims = json.loads((run / "claims.json").read_text())
        assert {c["id"] for c in claims} == set(read_claims(NOTEBOOKS / f"{run.name}.claims.toml"))
        assert {c["verdict"] for c in claims} == {"uninformative"} and all(
            reason in c["reason"] for c in claims
        )
        assert done.stdout.count("uninformative: ") == 1 and {f.name for f in (run / "data").glob("*")} <= {
            "behaviour.csv"
        }
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        gallery.update()


@pytest.mark.parametrize(
    "flags, units",
    [("avx2", ""), ("avx2 avx512_bf16", ", AVX-512 BF16"), ("avx512_bf16 amx_bf16", ", AVX-512 BF16, AMX")],
)
def test_what_the_processor_multiplies_bfloat16_with_is_recorded(monkeypatch, flags, units):
    monkeypatch.delenv(machine.SWITCH, raising=False)
    monkeypatch.setattr(machine, "_cpuinfo", lambda: f"model name\t: Some CPU\nflags\t\t: fpu {flags}\n")
    assert machine.processor() == "Some CPU" + units and machine.cpu_has_bfloat16() == bool(units) == (
        machine.slower() == ""
    )
    monkeypatch.setattr(machine, "_cpuinfo", str)
    assert machine.processor() and not machine.cpu_has_bfloat16()


@pytest.mark.parametrize("switch, dtype", [("0", torch.float32), ("1", torch.bfloat16)])
def test_a_switch_takes_the_processor_for_one_of_the_other_kind(monkeypatch, switch, dtype):
    values = params.resolve(BOOK, {"TIER": "smoke"})
    marks = set()
    for value in ("0", "1", switch):
        monkeypatch.setenv(machine.SWITCH, value)
        marks.add(runner.fingerprint(BOOK, values, "r"))
    assert len(marks) == 2  # what one kind computed is not up to date on the other
    assert (
        machine.cpu_has_bfloat16() == (switch == "1")
        and loading.choose_dtype("auto", torch.device("cpu")) == dtype
    )
    monkeypatch.setenv(machine.SWITCH, "yes")
    with pytest.raises(ParameterError, match="COMPANION_BFLOAT16=yes is not known"):
        machine.cpu_has_bfloat16()


def test_minutes_are_those_of_the_longest_run_on_one_machine(tmp_path):
    """A run that finds everything in the cache says nothing of what the next user waits for."""
    path, same = tmp_path / "run.json", {"parameters": {"N": 4}, "machine": runner.environment()["machine"]}
    assert runner._longest(path, 30.0, {"N": 4}) == 30
    write_json(path, same | {"duration_s": 600.0, "longest_s": 900.0})
    assert about_minutes(tmp_path) == 15
    assert runner._longest(path, 30.0, {"N": 4}) == 900
    assert runner._longest(path, 1000.0, {"N": 4}) == 1000
    assert runner._longest(path, 30.0, {"N": 8}) == 30
    write_json(path, same | {"duration_s": 600.0, "machine": {"processor": "another"}})
    assert runner._longest(path, 30.0, {"N": 4}) == 30
    path.write_text("half a fi")
    assert runner._longest(path, 30.0, {"N": 4}) == 30
    assert about_minutes(tmp_path) is None
