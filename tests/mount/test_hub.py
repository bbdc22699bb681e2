# SPDX-License-Identifier: MIT
"""Hub caches of Hugging Face: which snapshot a model is, what it is called, what is missing of it,
and blobs whose names say what is in them."""

import os
import shutil

import pytest

from conftest import DATA, convert, run, wait_until
from stores import hub, listed, plain, read_gguf

OLD, NEW = "0" * 40, "1" * 40


def test_a_hub_cache_shows_models_by_their_names(mount, tmp_path):
    """The snapshot of refs/main is the model, the others carry their revision; every file is as if
    it lay in a folder that is called like the model."""
    store, name = tmp_path / "hub", "Tiny-7B-chat"
    first, second = plain(tmp_path, name), plain(tmp_path, f"other/{name}", rms_norm_eps=0.25)
    hub(store, f"acme/{name}", OLD, first, mtime=1000, main=True)
    hub(store, f"acme/{name}", NEW, second, mtime=2000)
    hub(store, "solo", OLD, DATA / "demo-llama", main=True)
    assert convert(first, "Q4_K_M") != convert(second, "Q4_K_M")
    names = {f"acme/{name}": first, f"acme/{name}@{NEW}": second, "solo": None}
    assert list(listed(store)) == list(names)
    mnt = mount(store)
    assert sorted(os.listdir(mnt.point)) == ["acme", "solo"]
    assert sorted(os.listdir(mnt / "acme")) == [name, f"{name}@{NEW}"]
    for model, folder in list(names.items())[:2]:
        assert read_gguf(mnt, model) == convert(folder, "Q4_K_M")
        for path in folder.iterdir():
            assert (mnt / model / "original" / path.name).read_bytes() == path.read_bytes()
    shutil.copytree(DATA / "demo-llama", tmp_path / "solo")
    assert read_gguf(mnt, "solo") == convert(tmp_path / "solo", "Q4_K_M")


def test_without_refs_the_newest_snapshot_is_the_model(mount, tmp_path):
    first, second = plain(tmp_path, "m"), plain(tmp_path, "other/m", rms_norm_eps=0.25)
    hub(tmp_path / "hub", "a/m", NEW, first, mtime=1000)
    hub(tmp_path / "hub", "a/m", OLD, second, mtime=2000)
    mnt = mount(tmp_path / "hub")
    assert sorted(os.listdir(mnt / "a")) == ["m", f"m@{NEW}"]
    assert read_gguf(mnt, "a/m") == convert(second, "Q4_K_M")
    assert read_gguf(mnt, f"a/m@{NEW}") == convert(first, "Q4_K_M")


def test_refs_main_may_move(mount, tmp_path):
    store = tmp_path / "hub"
    first, second = plain(tmp_path, "m"), plain(tmp_path, "other/m", rms_norm_eps=0.25)
    hub(store, "a/m", OLD, first, main=True)
    mnt = mount(store)
    assert read_gguf(mnt, "a/m") == convert(first, "Q4_K_M")
    hub(store, "a/m", NEW, second)
    wait_until(lambda: sorted(os.listdir(mnt / "a")) == ["m", f"m@{NEW}"])
    (store / "models--a--m" / "refs" / "main").write_text(NEW)
    wait_until(lambda: sorted(os.listdir(mnt / "a")) == ["m", f"m@{OLD}"])
    assert read_gguf(mnt, "a/m") == convert(second, "Q4_K_M")
    assert read_gguf(mnt, f"a/m@{OLD}") == convert(first, "Q4_K_M")
    shutil.rmtree(store / "models--a--m" / "snapshots" / OLD)
    wait_until(lambda: os.listdir(mnt / "a") == ["m"])
    shutil.rmtree(store / "models--a--m")
    wait_until(lambda: os.listdir(mnt.point) == [])


@pytest.mark.parametrize("part", ["", "models--acme--m", f"models--acme--m/snapshots/{OLD}"],
                         ids=["hub", "model", "snapshot"])
def test_any_part_of_a_hub_cache_is_a_store(mount, tmp_path, part):
    folder = plain(tmp_path, "m")
    hub(tmp_path / "hub", "acme/m", OLD, folder, main=True)
    mnt = mount(tmp_path / "hub" / part)
    model = "m" if part else "acme/m"
    assert read_gguf(mnt, model) == convert(folder, "Q4_K_M")
    assert set(os.listdir(mnt / model / "original")) == set(os.listdir(folder))
    assert list(listed(tmp_path / "hub" / part)) == [model]
    if part:
        assert convert(tmp_path / "hub" / part, "Q3_K_M") == convert(folder, "Q3_K_M")


def test_files_of_a_snapshot_are_models_of_its_name(mount, tmp_path):
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "m-F16.gguf"
    run("convert", DATA / "demo-qwen2", "-t", "F16", "-o", file)
    snapshot = hub(tmp_path / "hub", "acme/m-GGUF", OLD, tmp_path / "files", main=True)
    mnt = mount(tmp_path / "hub")
    assert list(listed(tmp_path / "hub")) == ["acme/m-GGUF/m-F16"]
    assert read_gguf(mnt, "acme/m-GGUF/m-F16") == convert(file, "Q4_K_M")
    # a file that has not arrived yet
    blob = (snapshot / file.name).resolve()
    blob.rename(tmp_path / "aside")
    wait_until(lambda: os.listdir(mnt / "acme" / "m-GGUF" / "m-F16") == ["original"])
    (model,) = listed(tmp_path / "hub").values()
    assert model["state"] == "incomplete" and model["problem"] == f"{file.name} is missing"
    (tmp_path / "aside").rename(blob)
    wait_until(lambda: (mnt / "acme" / "m-GGUF" / "m-F16" / "gguf").exists())
    assert read_gguf(mnt, "acme/m-GGUF/m-F16") == convert(file, "Q4_K_M")


@pytest.mark.parametrize("fault", ["blob", "shard", "config"])
def test_an_incomplete_snapshot_says_what_is_missing(mount, tmp_path, fault):
    snapshot = hub(tmp_path / "hub", "acme/m", OLD, DATA / "demo-qwen2", main=True)
    name = "config.json" if fault == "config" else "model-00002-of-00002.safetensors"
    path = snapshot / name
    target = path.resolve()
    data = target.read_bytes()
    target.unlink()
    if fault == "shard":
        path.unlink()
    mnt = mount(tmp_path / "hub")
    model = listed(tmp_path / "hub")["acme/m"]
    assert model["state"] == "incomplete" and model["problem"] == f"{name} is missing"
    assert f"incomplete: {name} is missing" in run("ls", tmp_path / "hub").stdout
    assert "gguf" not in os.listdir(mnt / "acme" / "m")
    assert os.getxattr(mnt / "acme" / "m", "user.quantfs.problem") == f"{name} is missing".encode()
    assert not (mnt / "acme" / "m" / "original" / name).exists()
    target.write_bytes(data)
    if fault == "shard":
        path.symlink_to(f"../../blobs/{target.name}")
    wait_until(lambda: (mnt / "acme" / "m" / "gguf").exists())
    assert read_gguf(mnt, "acme/m") == convert(plain(tmp_path, "m"), "Q4_K_M")


def test_blobs_are_known_by_their_names(mount, tmp_path):
    """What was made of a blob is found again for one of the same name, wherever it lies."""
    cache, tensor = tmp_path / "cache", "m/tensors/model.layers.0.mlp.up_proj.weight/q5_0"
    hub(tmp_path / "one", "acme/m", OLD, DATA / "demo-qwen2", main=True)
    hub(tmp_path / "two", "else/m", NEW, DATA / "demo-qwen2", main=True)
    mnt = mount(tmp_path / "one", f"cache={cache}")
    data = (mnt / "acme" / tensor).read_bytes()
    assert mnt.stats()["tiles_encoded"] > 0
    mnt.unmount()
    mnt = mount(tmp_path / "two", f"cache={cache}")
    assert (mnt / "else" / tensor).read_bytes() == data
    stats = mnt.stats()
    assert stats["tiles_encoded"] == 0 and stats["tiles_loaded"] > 0
