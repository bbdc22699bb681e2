# SPDX-License-Identifier: MIT
"""What is in the store: models that come and go while it is mounted, models that cannot be mapped,
files beside the weights. Every fault takes away what depends on it, and is named."""

import json
import os
import re
import shutil

import pytest

from conftest import DATA, convert, run, wait_until


def edit(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def read(mnt, model, recipe="Q4_K_M"):
    return (mnt / model / "gguf" / f"{model}-{recipe}.gguf").read_bytes()


# ---- models that come and go ----

def test_models_come_and_go(mount, store, tmp_path):
    shutil.move(store / "demo-qwen2", tmp_path / "aside")
    mnt = mount(store)
    assert os.listdir(mnt.point) == ["demo-llama"]
    assert not (mnt / "added").exists()

    shutil.copytree(DATA / "demo-qwen2", tmp_path / "added")
    (tmp_path / "added").rename(store / "added")
    wait_until(lambda: (mnt / "added").exists())
    wait_until(lambda: sorted(os.listdir(mnt.point)) == ["added", "demo-llama"])
    assert read(mnt, "added") == convert(store / "added", "Q4_K_M")

    shutil.rmtree(store / "demo-llama")
    wait_until(lambda: os.listdir(mnt.point) == ["added"])
    wait_until(lambda: not (mnt / "demo-llama" / "gguf").exists())

    (store / "added").rename(store / "renamed")
    wait_until(lambda: os.listdir(mnt.point) == ["renamed"])
    assert read(mnt, "renamed") == convert(store / "renamed", "Q4_K_M")


def test_what_is_no_model_is_not_shown(mount, tmp_path):
    """Folders without weights or config, hidden ones, links that lead out, files."""
    store = tmp_path / "store"
    for name in ("notes", ".hidden", "loop"):
        (store / name).mkdir(parents=True)
    (store / "notes" / "README.md").write_text("nothing")
    shutil.copytree(DATA / "demo-qwen2", store / ".hidden", dirs_exist_ok=True)
    (store / "file").write_text("a file")
    (store / "loop" / "loop").symlink_to("loop")
    (store / "out").symlink_to(DATA / "demo-qwen2")
    assert run("ls", store).stdout == (
        f"out is not shown: it is a link that leaves the store\nno models in {store}\n")
    assert json.loads(run("ls", "--json", store).stdout) == []
    mnt = mount(store)
    assert os.listdir(mnt.point) == []
    for name in ("notes", ".hidden", "file", "out"):
        assert not (mnt / name).exists()


def test_links_are_followed_within_the_store_only(mount, store, tmp_path):
    folder = store / "demo-llama"
    (folder / "model.safetensors").rename(store / "blob")
    (folder / "model.safetensors").symlink_to("../blob")
    (folder / "secret.txt").symlink_to("/etc/hostname")
    (folder / "up.txt").symlink_to("../../outside.txt")
    (tmp_path / "outside.txt").write_text("outside")
    (folder / "gone").symlink_to("nothing")
    (folder / ".hidden").write_text("hidden")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "file").write_text("deep")
    mnt = mount(store)
    original = mnt / "demo-llama" / "original"
    assert set(os.listdir(original)) == {*os.listdir(DATA / "demo-llama"), "sub"}
    for hidden in (".hidden", "secret.txt", "up.txt", "gone"):
        assert not os.path.lexists(original / hidden)
    assert (original / "sub" / "deep" / "file").read_text() == "deep"
    assert not (original / "model.safetensors").is_symlink()
    assert (original / "model.safetensors").read_bytes() == (store / "blob").read_bytes()
    assert read(mnt, "demo-llama") == convert(DATA / "demo-llama", "Q4_K_M")
    listed = run("ls", store).stdout
    assert "original/secret.txt" in listed and "original/up.txt" in listed


# ---- models that cannot be mapped ----

def break_architecture(folder):
    edit(folder / "config.json", architectures=["MambaForCausalLM"])


def break_config(folder):
    (folder / "config.json").write_text("{")


def remove_config(folder):
    (folder / "config.json").unlink()


def break_dimension(folder):
    edit(folder / "config.json", num_hidden_layers="three")


def rename_tensor(folder):
    for path in folder.glob("model*safetensors*"):
        path.write_bytes(path.read_bytes().replace(b".1.mlp.up_proj.", b".1.mlp.no_proj."))


def remove_from_index(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))


def remove_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def cut_shard(folder):
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 2)


def break_header(folder):
    with open(folder / "model-00001-of-00002.safetensors", "r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff\xff")


def break_prefix(folder):
    with open(folder / "model-00001-of-00002.safetensors", "r+b") as file:
        file.write(b"\xff" * 8)


def break_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


# what happens to the checkpoint -> (what is left of it beside original/, what the problem names)
FAULTS = {
    break_architecture: (["hf", "tensors"], "MambaForCausalLM"),
    break_config: (["tensors"], "config.json"),
    remove_config: (["tensors"], "config.json"),
    break_dimension: (["hf", "tensors"], "num_hidden_layers"),
    rename_tensor: (["hf", "tensors"], "model.layers.1.mlp.no_proj.weight"),
    remove_from_index: (["tensors"], "model.norm.weight"),
    remove_shard: ([], "model-00002-of-00002.safetensors"),
    cut_shard: ([], "model-00002-of-00002.safetensors"),
    break_header: ([], "model-00001-of-00002.safetensors"),
    break_prefix: ([], "model-00001-of-00002.safetensors"),
    break_index: ([], "model.safetensors.index.json"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named_and_the_rest_is_shown(mount, store, tmp_path, fault):
    left, named = FAULTS[fault]
    folder = store / "demo-qwen2"
    fault(folder)
    listed = run("ls", store)
    state = "incomplete" if fault is remove_shard else "refused"
    (problem,) = re.findall("(?:no gguf/|incomplete): (.*)", listed.stdout)
    assert named in problem
    (model,) = (m for m in json.loads(run("ls", "--json", store).stdout)
                if m["name"] == "demo-qwen2")
    assert model["problem"] == problem and model["state"] == state
    done = run("convert", folder, "-t", "F16", "-o", tmp_path / "out.gguf", check=False)
    assert done.returncode == 2 and named in done.stderr

    mnt = mount(store)
    assert sorted(os.listdir(mnt / "demo-qwen2")) == sorted([*left, "original"])
    assert os.getxattr(mnt / "demo-qwen2", "user.quantfs.problem").decode() == problem
    for path in folder.iterdir():
        assert (mnt / "demo-qwen2" / "original" / path.name).read_bytes() == path.read_bytes()
    if left:
        tensor = mnt / "demo-qwen2" / "tensors" / "model.layers.0.mlp.down_proj.weight"
        whole = mount(DATA) / tensor.relative_to(mnt.point)
        assert (tensor / "q5_0").read_bytes() == (whole / "q5_0").read_bytes()
    assert read(mnt, "demo-llama") == convert(DATA / "demo-llama", "Q4_K_M")


def test_a_fault_that_is_mended_is_forgotten(mount, store):
    folder = store / "demo-qwen2"
    shard = folder / "model-00002-of-00002.safetensors"
    shard.rename(store / "aside")
    mnt = mount(store)
    assert os.listdir(mnt / "demo-qwen2") == ["original"]
    (store / "aside").rename(shard)
    wait_until(lambda: (mnt / "demo-qwen2" / "gguf").exists())
    assert read(mnt, "demo-qwen2") == convert(DATA / "demo-qwen2", "Q4_K_M")


@pytest.mark.parametrize("model", ["demo-llama", "demo-qwen2"])
def test_a_broken_vocabulary_fails_when_it_is_needed(mount, store, tmp_path, model):
    """It is read when a file of gguf/ is looked at; until then, and beside, nothing is wrong."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (store / model / name).exists():
            (store / model / name).write_text('{"model": {"type": ')
    listed = run("ls", "-v", store, check=False)
    assert listed.returncode == 2 and "tokenizer" in listed.stdout
    done = run("convert", store / model, "-t", "F16", "-o", tmp_path / "out.gguf", check=False)
    assert done.returncode == 2 and "tokenizer" in done.stderr
    mnt = mount(store)
    assert "gguf" in os.listdir(mnt / model)
    with pytest.raises(OSError, match="Input/output error"):
        read(mnt, model)
    assert any(model in line and "tokenizer" in line for line in mnt.lines())
    assert (mnt / model / "tensors" / "model.norm.weight" / "bf16").read_bytes()
