# SPDX-License-Identifier: MIT
"""Stores as people have them: folders in folders, single files, split ones; links that lead astray,
names that clash, and all of it changing under a mount."""

import errno
import os
import shutil

import pytest

from conftest import DATA, convert, run, wait_until
from stores import edit, hub, listed, plain, read_gguf, write_split


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A GGUF file with the demo model in its own type."""
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    run("convert", DATA / "demo-qwen2", "-t", "F16", "-o", path)
    return path


# ---- folders and files ----

def test_folders_in_folders_are_groups(mount, tmp_path):
    store = tmp_path / "store"
    for name in ("flat", "acme/one", "acme/two", "a/b/c/deep", "a/b/c/d/too-deep"):
        shutil.copytree(DATA / "demo-qwen2", store / name)
    names = ["a/b/c/deep", "acme/one", "acme/two", "flat"]
    assert list(listed(store)) == names
    mnt = mount(store)
    assert sorted(os.listdir(mnt.point)) == ["a", "acme", "flat"]
    assert sorted(os.listdir(mnt / "acme")) == ["one", "two"]
    assert os.listdir(mnt / "a" / "b" / "c") == ["deep"]
    assert (mnt / "acme").is_dir() and (mnt / "a" / "b").is_dir()
    for name in names:
        assert read_gguf(mnt, name) == convert(store / name, "Q4_K_M")
    # a group shows no more than its models
    assert not (mnt / "acme" / "gguf").exists() and not (mnt / "acme" / "three").exists()


def test_a_file_is_a_store_of_one_model(mount, tmp_path, whole):
    store = tmp_path / "store"
    store.mkdir()
    for name in ("one", "other"):
        shutil.copy(whole, store / f"{name}.gguf")
    mnt = mount(store / "one.gguf")
    assert os.listdir(mnt.point) == ["one"]
    assert os.listdir(mnt / "one" / "original") == ["one.gguf"]
    assert (mnt / "one" / "original" / "one.gguf").read_bytes() == whole.read_bytes()
    assert read_gguf(mnt, "one") == convert(whole, "Q4_K_M")
    assert convert(store / "one.gguf", "Q3_K_M") == convert(whole, "Q3_K_M")
    assert list(listed(store / "one.gguf")) == ["one"]
    both = mount(store)
    assert sorted(os.listdir(both.point)) == ["one", "other"]
    assert read_gguf(both, "other") == read_gguf(mnt, "one")


def test_importance_matrices_are_no_models(mount, tmp_path, whole):
    store = tmp_path / "store"
    store.mkdir()
    for name in ("imatrix.gguf", "model.imatrix.gguf"):
        shutil.copy(DATA / "demo-llama.imatrix.gguf", store / name)
    shutil.copy(whole, store / "imatrix-of-nothing.gguf")
    assert list(listed(store)) == ["imatrix-of-nothing"]
    assert os.listdir(mount(store).point) == ["imatrix-of-nothing"]


# ---- split files ----

@pytest.mark.parametrize("sizes", [(9, 11, 99), (0, 99)], ids=["three", "keys first"])
def test_parts_are_one_model(mount, tmp_path, whole, sizes):
    paths = write_split(tmp_path / "store", "model", whole, sizes)
    mnt = mount(tmp_path / "store")
    assert os.listdir(mnt.point) == ["model"]
    assert sorted(os.listdir(mnt / "model" / "original")) == [path.name for path in paths]
    assert read_gguf(mnt, "model") == convert(whole, "Q4_K_M") == convert(paths[0], "Q4_K_M")
    for kind in ("F16", "F32"):
        assert read_gguf(mnt, "model", kind) == convert(whole, kind)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_part_is_named(mount, tmp_path, whole, gone):
    store = tmp_path / "store"
    paths = write_split(store, "model", whole, (5, 5, 99))
    paths[gone].rename(tmp_path / "aside")
    (model,) = listed(store).values()
    assert model["name"] == "model" and model["state"] == "incomplete"
    assert model["problem"] == f"{paths[gone].name} is missing"
    assert f"incomplete: {paths[gone].name} is missing" in run("ls", store).stdout
    mnt = mount(store)
    assert os.listdir(mnt / "model") == ["original"]
    assert len(os.listdir(mnt / "model" / "original")) == 2
    (tmp_path / "aside").rename(paths[gone])
    wait_until(lambda: (mnt / "model" / "gguf").exists())
    assert read_gguf(mnt, "model") == convert(whole, "Q4_K_M")


def test_parts_that_call_themselves_otherwise_are_refused(tmp_path, whole):
    store = tmp_path / "store"
    paths = write_split(store, "model", whole, (5, 5, 99))
    paths[1].rename(tmp_path / "aside")
    paths[2].rename(paths[1])
    (tmp_path / "aside").rename(paths[2])
    (model,) = listed(store).values()
    assert model["state"] == "refused" and paths[1].name in model["problem"]
    assert "not part 2 of 3" in model["problem"]
    done = run("convert", paths[0], "-t", "Q8_0", "-o", tmp_path / "out", check=False)
    assert done.returncode == 2 and paths[1].name in done.stderr


# ---- links ----

def test_links_that_leave_the_store_are_named_or_followed(mount, tmp_path):
    store, outside = tmp_path / "store", tmp_path / "outside"
    for name in ("own", "linked"):
        shutil.copytree(DATA / "demo-qwen2", (store if name == "own" else outside) / name)
    (outside / "weights").write_bytes((store / "own" / "model-00001-of-00002.safetensors")
                                      .read_bytes())
    (store / "folder").symlink_to(outside / "linked")
    (store / "group").symlink_to(outside)
    (store / "own" / "model-00001-of-00002.safetensors").unlink()
    (store / "own" / "model-00001-of-00002.safetensors").symlink_to(outside / "weights")
    said = run("ls", store).stdout.splitlines()
    for path in ("original/model-00001-of-00002.safetensors", "folder", "group"):
        assert sum(f"{path} is not shown: it is a link that leaves the store" in line
                   for line in said) == 1
    assert list(listed(store)) == ["own"]
    mnt = mount(store)
    assert os.listdir(mnt.point) == ["own"] and "gguf" not in os.listdir(mnt / "own")
    assert (mnt / "own" / "original" / "model-00002-of-00002.safetensors").exists()
    assert not (mnt / "own" / "original" / "model-00001-of-00002.safetensors").exists()

    followed = mount(store, "follow_links")
    assert sorted(os.listdir(followed.point)) == ["folder", "group", "own"]
    for name in ("own", "folder", "group/linked"):
        own = plain(tmp_path / name, name.split("/")[-1])
        assert read_gguf(followed, name) == convert(own, "Q4_K_M")
    # ls of the mount sees what the mount sees
    assert list(listed(followed.point)) == ["folder", "group/linked", "own"]


def test_loops_of_links_end(mount, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(DATA / "demo-qwen2", store / "group" / "m")
    (store / "group" / "up").symlink_to("..")
    (store / "group" / "self").symlink_to("self")
    (store / "a").symlink_to("b")
    (store / "b").symlink_to("a")
    (store / "group" / "m" / "again").symlink_to("../m")
    assert list(listed(store)) == ["group/m"]
    mnt = mount(store)
    assert os.listdir(mnt.point) == ["group"] and os.listdir(mnt / "group") == ["m"]
    assert read_gguf(mnt, "group/m") == convert(plain(tmp_path, "m"), "Q4_K_M")


# ---- names ----

def test_names_that_clash_have_an_order(mount, tmp_path, whole):
    """Paths in bytewise order; a folder of models goes first."""
    store = tmp_path / "store"
    for name in ("twin", "twin~2", "group/m", "org/same"):
        shutil.copytree(DATA / "demo-qwen2", store / name)
        (store / name / "which").write_text(name)
    for name in ("twin", "group", "group/m"):
        shutil.copy(whole, store / f"{name}.gguf")
    shutil.copytree(DATA / "demo-qwen2", tmp_path / "hub")
    (tmp_path / "hub" / "which").write_text("hub")
    hub(store, "org/same", "0" * 40, tmp_path / "hub", main=True)
    hub(store / "x", "y/same", "0" * 40, tmp_path / "hub", main=True)
    which = {"group/m": None, "group/m~2": "group/m", "group~2": None, "org/same": "hub",
             "org/same~2": "org/same", "twin": None, "twin~2": "twin~2", "twin~3": "twin",
             "x/y/same": "hub"}
    for _ in range(2):
        assert sorted(listed(store)) == sorted(which)
        mnt = mount(store)
        assert sorted(os.listdir(mnt.point)) == ["group", "group~2", "org", "twin", "twin~2",
                                                 "twin~3", "x"]
        for name, what in which.items():
            original = mnt / name / "original"
            if what:
                assert (original / "which").read_text() == what
            else:
                assert os.listdir(original) == [name.split("/")[-1].split("~")[0] + ".gguf"]
        mnt.unmount()


# ---- a store that changes ----

def test_models_in_groups_come_and_go(mount, tmp_path, whole):
    store = tmp_path / "store"
    shutil.copytree(DATA / "demo-qwen2", store / "acme" / "one")
    mnt = mount(store)
    before = read_gguf(mnt, "acme/one")
    opened = open(mnt / "acme" / "one" / "gguf" / "one-Q4_K_M.gguf", "rb", buffering=0)
    shutil.copytree(DATA / "demo-llama", tmp_path / "new")
    (tmp_path / "new").rename(store / "acme" / "two")
    wait_until(lambda: sorted(os.listdir(mnt / "acme")) == ["one", "two"])
    shutil.copy(whole, store / "acme" / "three.gguf")
    wait_until(lambda: (mnt / "acme" / "three" / "gguf").exists())
    assert read_gguf(mnt, "acme/three") == convert(whole, "Q4_K_M")
    (store / "acme" / "three.gguf").unlink()
    wait_until(lambda: sorted(os.listdir(mnt / "acme")) == ["one", "two"])
    # a file that changes changes its model and no other
    edit(store / "acme" / "one", rms_norm_eps=0.25)

    def is_new():
        try:
            return read_gguf(mnt, "acme/one") != before
        except OSError:
            return False  # in between

    wait_until(is_new)
    assert read_gguf(mnt, "acme/one") == convert(store / "acme" / "one", "Q4_K_M")
    with opened:
        try:
            assert opened.read() == before
        except OSError as error:
            assert error.errno == errno.EIO
    shutil.rmtree(store / "acme")
    wait_until(lambda: os.listdir(mnt.point) == [])
    shutil.copytree(DATA / "demo-qwen2", store / "new" / "one")
    wait_until(lambda: os.listdir(mnt.point) == ["new"])
    wait_until(lambda: os.listdir(mnt / "new") == ["one"])


# ---- what is said of a store ----

def test_every_state_is_listed(tmp_path, whole):
    store = tmp_path / "store"
    hub(store, "acme/ready", "0" * 40, DATA / "demo-qwen2", main=True)
    shutil.copy(whole, store / "file.gguf")
    cut = store / "cut"
    shutil.copytree(DATA / "demo-qwen2", cut)
    (cut / "model-00001-of-00002.safetensors").unlink()
    plain(tmp_path, "strange", architectures=["MambaForCausalLM"]).rename(store / "strange")
    (store / "broken.gguf").write_bytes(b"GGUF")
    models = listed(store)
    assert {name: model["state"] for name, model in models.items()} == {
        "acme/ready": "ready", "broken": "refused", "cut": "incomplete", "file": "ready",
        "strange": "refused"}
    assert "MambaForCausalLM" in models["strange"]["problem"]
    assert "broken.gguf" in models["broken"]["problem"]
    assert models["acme/ready"]["problem"] is None and models["file"]["problem"] is None
    assert models["acme/ready"]["data_bytes"] == models["file"]["data_bytes"]
    text = run("ls", store).stdout
    assert "acme/ready  qwen2" in text and "no gguf/: config.json: architecture Mamba" in text
