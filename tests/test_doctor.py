"""``make doctor``: its comparison against plain hooks, what it notices, and what it says before a run."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from conftest import TEXTS, Plain, plain_edit, table, tiny_module
from refusal.base.errors import ParameterError, UserError
from refusal.base.estimate import Estimate
from refusal.base.files import ROOT
from refusal.findings.f02 import doctor as of_02
from refusal.findings.f02b import doctor as of_02b
from refusal.findings.f03 import doctor as of_03
from refusal.measure import stats
from refusal.model import layout, loading
from refusal.model.tiny import tiny_tokenizer
from refusal.report.outlook import Asked, by_preconditions, too_few
from refusal.report.rules import read_claims
from refusal.run import cli, doctor, minutes, params, values
from refusal.trace.edits import Add
from refusal.trace.prompts import chat, plain

SMOKE = {"TIER": "smoke"}
BOOKS = params.notebooks()
CLAIMS = {
    id: claim
    for path in BOOKS.values()
    for id, claim in read_claims(path.with_suffix(".claims.toml")).items()
}


def examined(capsys, **changed) -> str:
    doctor.main(params.resolve(BOOKS["02"], SMOKE) | changed)
    return capsys.readouterr().out


def section(text: str, title: str) -> str:
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0]


# values


def test_hooks_see_what_an_independent_implementation_sees(tiny, five):
    edit = Add(torch.randn(tiny.d_model), 1, "instruction", 1.5)
    for p in five:
        for add in (None, edit):
            change = plain_edit(tiny, p, [add], len(p.ids)) if add else None
            theirs, sites = Plain(tiny.module, tiny.name).run(p.ids, change)
            seen, logits = values.by_hooks(tiny, p, add)
            torch.testing.assert_close(logits, theirs[-1], rtol=1e-3, atol=2e-4)
            for site in values.SITES:
                torch.testing.assert_close(seen[site], sites[site], rtol=1e-3, atol=1e-4)


def test_every_architecture_fits(tiny, five):
    checks = values.compare(tiny, five)
    assert len(checks) == 8 and all(check.fits for check in checks), checks
    assert max(check.difference for check in checks) < 1e-3


def wrong_in(tiny, five) -> set[str]:
    return {check.what.split(" at layer")[0] for check in values.compare(tiny, five) if not check.fits}


def test_what_is_read_from_another_layer_is_wrong(llama, monkeypatch):
    collect = values.reads.collect_rows

    def shifted(*given):
        found = collect(*given)
        return found | {"mlp": found["mlp"].roll(1, 1)}

    monkeypatch.setattr(values.reads, "collect_rows", shifted)
    found = wrong_in(llama, chat(llama, table()))
    assert found == {"the MLP's writes, one by one", "the MLP's writes, as a batch"}


def test_a_batch_in_which_rows_disturb_each_other_is_wrong(llama, monkeypatch):
    collect = values.reads.collect_rows

    def disturbed(model, prompts, *more):
        found = collect(model, prompts, *more)
        return {site: x + 0.1 * (len(prompts) - 1) for site, x in found.items()}

    monkeypatch.setattr(values.reads, "collect_rows", disturbed)
    assert wrong_in(llama, chat(llama, table())) == {
        f"{what}, as a batch" for what in ("states", "attention's writes", "the MLP's writes")
    }


def test_an_edit_that_is_not_put_in_is_wrong(llama, monkeypatch):
    score = values.reads.score_rows
    bare = lambda model, rows, readout: score(model, [replace(r, edits=()) for r in rows], readout)
    monkeypatch.setattr(values.reads, "score_rows", bare)
    assert wrong_in(llama, chat(llama, table())) == {"logits with a vector added"}


def test_a_difference_is_relative_to_its_layer():
    theirs = torch.tensor([[[3.0, 4.0], [0.3, 0.4]], [[1.0, 2.0], [0.1, 0.2]]])  # [prompt, layer, d_model]
    ours = theirs + torch.tensor([[[0.2, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.1]]])
    assert values.relative(ours, theirs) == pytest.approx(0.1 / 0.4)
    assert values.relative(ours[:, :1], theirs[:, :1]) == pytest.approx(0.2 / 4)
    assert values.relative(theirs, theirs) == 0
    ours[0, 0, 0] = torch.nan
    assert values.relative(ours, theirs) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_tolerance_is_that_of_the_check_at_load(dtype):
    b = torch.tensor([1.0, 0.5])
    for share, fits in ((0.99, True), (1.01, False)):
        a = b + torch.tensor([share * layout.tolerance(dtype), 0])
        assert (
            layout.close(a, b, dtype)
            == fits
            == (values.relative(a[None], b[None]) <= layout.tolerance(dtype))
        )


def test_wrong_values_end_in_status_1_after_all_is_said(monkeypatch, capsys):
    bad = [values.Check("states, as a batch", 0.5, False), values.Check("logits, as a batch", 0.0, True)]
    monkeypatch.setattr(doctor, "compare", lambda *_: bad)
    with pytest.raises(UserError) as error:
        doctor.main(params.resolve(BOOKS["02"], SMOKE))
    printed = capsys.readouterr().out
    assert error.value.status == 1 and error.value.what.endswith("plain PyTorch: states, as a batch")
    assert "states, as a batch: 5.0e-01, WRONG" in printed
    assert "uninformative" in printed and "it fits" not in printed


# what is printed


def test_a_constructed_model_fits(capsys):
    text = examined(capsys)
    assert text.rstrip().endswith("it fits: its values are those of plain PyTorch")
    assert "6 blocks, 4 heads of 16, d_model 128, float32" in section(text, "layout")
    assert section(text, "values").count("fits") == 8
    assert section(text, "chat template").splitlines()[0].endswith("⟧<end>⟦<assistant>⟧")
    assert re.search(r"harmful, n 16: refusal \d+% \[\d+%, \d+%\]", section(text, "refusals"))
    assert " GB (process)" in section(text, "memory") and "tokens a second" in section(text, "speed")
    assert "minutes per notebook" not in text  # nobody waits for the smoke tier


def test_answers_to_harmful_prompts_are_never_printed(capsys, monkeypatch):
    def said(model, prompts):
        rows = [(p.label, "answer", f"words for a {p.label} one {p.text}") for p in prompts]
        return pd.DataFrame(rows, columns=["label", "outcome", "answer"])

    monkeypatch.setattr(doctor.behaviour, "behaviour", said)
    text = examined(capsys)
    assert "words for a harmless one" in text and "words for a harmful one" not in text
    harmful = doctor.data.prompts("validation", label="harmful", n=doctor.N, tier="smoke")
    assert not [t for t in harmful.text if t in text]


def test_positions_are_marked(planted):
    prompt = chat(planted, table(["please paint the table"]))[0]
    assert doctor._marked(planted, prompt) == [
        "<s> <user> please paint the⟦table⟧<end>⟦<assistant>⟧",
        "t_inst: token 6 of 8, 'table'; t_post: token 8 of 8, '<assistant>'",
    ]
    assert doctor._marked(planted, plain(planted, ["paint it"])[0])[0].count("⟦") == 1


def test_without_a_chat_template_values_are_compared_and_no_claim_can_be_informed_on(capsys, monkeypatch):
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", None)
    model = loading.wrap(tiny_module("llama"), tokenizer, name="llama", revision="no template")
    monkeypatch.setattr(doctor, "_load", lambda *_: model)
    text = examined(capsys)
    assert "has no chat template" in section(text, "chat template") and "\nrefusals\n" not in text
    assert section(text, "values").count("fits") == 8
    for number, path in BOOKS.items():
        n = len(read_claims(path.with_suffix(".claims.toml")))
        assert f"{number}: {n} of {n} claims: the tokenizer of llama has no" in text


# what will be uninformative


def answers(refused: int, answered: int, n: int = 16) -> pd.DataFrame:
    """`refused` of n harmful prompts refused, `answered` of n harmless ones answered."""
    said = ["refusal"] * refused + ["answer"] * (n - refused + answered) + ["refusal"] * (n - answered)
    return pd.DataFrame({"label": ["harmful"] * n + ["harmless"] * n, "outcome": said})


def asked(model, refused: int, answered: int = 16) -> Asked:
    tables = {
        "harmful": doctor.data.prompts("validation", label="harmful", n=16, tier="smoke"),
        "harmless": doctor.data.prompts("validation", source="harmless", n=16, tier="smoke"),
    }
    return Asked(model, "smoke", tables, answers(refused, answered), CLAIMS)


def test_a_share_below_what_is_needed_is_told_surely_or_probably():
    assert (
        too_few(Estimate(0.2, [0.1, 0.4], 16), 0.2, "x") is too_few(Estimate(None, None, 0), 1, "x") is None
    )
    assert too_few(Estimate(0.1, [0.02, 0.3], 16), 0.2, "it does:").startswith("probably, it does: 10% of 16")
    assert (
        too_few(Estimate(0, [0, 0.15], 16), 0.2, "it does:") == "it does: 0% of 16 [0%, 15%], 20% is needed"
    )


def test_preconditions_that_name_a_share_of_refusals_are_read():
    low, high = (stats.rate([True] * k + [False] * (16 - k)) for k in (1, 9))
    found = by_preconditions(CLAIMS, low)
    assert {"01.refusal.forward.ablate.matched", "02.steer.refuse.prompt"} <= set(found)
    assert all("% of harmful prompts" in CLAIMS[id].precondition for id in found)
    assert not by_preconditions(CLAIMS, high)


@pytest.mark.parametrize("part, prefix", [(of_02, "02."), (of_02b, "02b.")])
def test_a_model_that_refuses_nothing_leaves_a_whole_notebook_uninformative(planted, part, prefix):
    assert set(part.uninformative(asked(planted, 0))) == {id for id in CLAIMS if id.startswith(prefix)}


def test_a_reasoner_that_refuses_nothing_informs_on_the_planted_ones_only(planted):
    found = of_03.uninformative(asked(planted, 0))
    assert set(found) == {id for id in CLAIMS if id.startswith("03.") and ".instrument." not in id}


def test_a_model_that_refuses_and_answers_informs(planted):
    for part in (of_02, of_02b, of_03):  # the planted model judges harm in words
        assert part.uninformative(asked(planted, 12)) == {}


def test_a_model_that_answers_nothing_harmless_makes_no_guard(planted):
    found = of_02b.uninformative(asked(planted, 12, answered=0))
    assert len(found) == 9 and "harmless prompts answered: 0% of 16" in found["02b.guard.accepted-harmful"]


def test_a_model_that_does_not_judge_harm_in_words_has_no_inversion_task(planted, monkeypatch):
    monkeypatch.setattr(of_02.reads, "score", lambda model, prompts, readout: torch.zeros(1, len(prompts), 2))
    found = of_02.uninformative(asked(planted, 12))
    assert set(found) == {id for id in CLAIMS if "02.inversion" in id} and "AUROC 0.50" in found.popitem()[1]
    monkeypatch.undo()
    monkeypatch.setattr(of_02.decode, "generate", lambda model, prompts, decoding: [["No"] * len(prompts)])
    found = of_02.uninformative(asked(planted, 12))
    assert set(found) == {id for id in CLAIMS if re.match(r"02\.inversion\..*harmful$", id)} and found
    monkeypatch.setattr(of_02.decode, "generate", lambda model, prompts, decoding: [["Well"] * len(prompts)])
    assert set(of_02.uninformative(asked(planted, 12))) == {id for id in CLAIMS if "02.inversion" in id}


# minutes


@pytest.fixture()
def runs(tmp_path, monkeypatch):
    """A function that leaves a run's run.json under results."""
    monkeypatch.setattr(minutes, "RESULTS", tmp_path)
    here = minutes.runner.environment()["machine"]

    def leave(folder: str, seconds: float, device: str = "cpu", **machine):
        name = folder.split("/")[1]
        about = {
            "duration_s": 1,
            "longest_s": seconds,
            "device": device,
            "machine": here | machine,
            "model": {"name": name},
        }
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text(json.dumps(about))

    monkeypatch.setattr(minutes.runner, "missing", lambda names: [])
    monkeypatch.setattr(minutes, "measured_speed", lambda other: minutes.Speed(10, 1.0, 1.0))
    return leave


def estimated(model, seconds=6.0):
    return minutes.estimates(
        model, minutes.Speed(10, seconds / 2, seconds / 2), lambda name: SimpleNamespace()
    )


def test_minutes_are_scaled_by_the_time_of_the_same_work(runs, llama):
    assert estimated(llama) == ["no run is here to tell it from"]
    books = {number: path.stem for number, path in BOOKS.items()}
    runs(f"embedded/a--vs--smollm2-135m-instruct/{books['01']}", 1200)
    runs(f"embedded/smollm2-135m-instruct/{books['02']}", 600)
    runs(f"embedded/qwen2.5-coder-1.5b-instruct/{books['02']}", 6000)  # further in size
    runs(f"embedded/smollm2-135m-instruct/{books['02']}@SEED=1", 9000)
    runs(f"smoke/tiny/{books['02']}", 30)
    runs(f"embedded/llama/{books['02b']}", 900)
    runs(f"embedded/smollm2-135m-instruct/{books['02b']}", 60)
    runs(f"embedded/smollm2-135m-instruct/{books['03']}", 600, processor="another", cores=64)
    first, second, guard, third, said = estimated(llama)
    assert first == "01: about 60, 3.0 times the 20 of smollm2-135m-instruct"
    assert second == "02: about 30, 3.0 times the 10 of smollm2-135m-instruct"
    assert guard == "02b: about 15, which it took in the run whose results are here"
    assert third == "03: not known for this machine; 10 with smollm2-135m-instruct on another, 64 cores"
    assert "factor of two" in said


# the command line


@pytest.mark.parametrize(
    "given, message",
    [
        ({"SEED": "1"}, "make doctor takes no SEED"),
        ({"MODEL": "qwen2.5-coder-0.5b"}, "did you mean 'qwen2.5-coder-0.5b-instruct'"),
        ({"MODEL": "./nowhere"}, "no such file"),
        ({"DTYPE": "bf16"}, "did you mean 'bfloat16'"),
        ({"TEMPLATE": "nothing"}, "{x} once"),
        ({"DATE": "today"}, "not a day"),
        ({"BATCH_TOKENS": "0"}, "positive number"),
        ({"TIER": "smoke", "MODEL": "smollm2-135m-instruct"}, "TIER=smoke takes no MODEL"),
        ({"P": "alpha=2"}, "make doctor takes no alpha"),
        ({"RUN": "x"}, "RUN goes with make reproduce"),
    ],
)
def test_a_bad_parameter_is_found_before_a_model_is(monkeypatch, given, message):
    for name, value in given.items():
        monkeypatch.setenv(cli.PREFIX + name, value)
    monkeypatch.setattr(doctor, "main", lambda *_: pytest.fail("it started"))
    with pytest.raises(ParameterError, match=re.escape(message)):
        cli.doctor()


@pytest.mark.parametrize("target", ["doctor", "sweep"])
def test_a_bad_parameter_is_found_without_torch(target):
    code = f"import sys; from refusal.run import cli; print(cli.main([{target!r}]), 'torch' in sys.modules)"
    env = {cli.PREFIX + "SEED": "no", "PYTHONPATH": str(ROOT / "lib"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["2", "False"], done.stderr


def test_a_folder_that_holds_no_readable_model_ends_in_one_error(tmp_path, capsys):
    tiny_module("llama").save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"cut")
    given = params.resolve(BOOKS["02"], {"MODEL": str(tmp_path / "m")}) | SMOKE
    with pytest.raises(UserError, match="cannot be loaded as a language model"):
        doctor.main(given)


def test_a_users_folder_is_examined(tmp_path, capsys):
    tiny_module("gpt2").save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    text = examined(capsys, MODEL=str(tmp_path / "m"), DTYPE="float32")
    assert "GPT2LMHeadModel" in text and "at most 256 tokens" in text and "it fits" in text
    assert str(tmp_path) not in text and len(TEXTS) == 5
