# SPDX-License-Identifier: MIT
"""Models of every architecture are what llama.cpp's converter and llama-quantize make of them, to
the last byte (tests/full/make_oracles.py)."""

import hashlib
import json
import shutil

import gguf
import pytest

from architectures import MODELS, make, write_imatrix
from conftest import DATA, convert, run

ORACLE = json.loads((DATA / "architectures.oracle.json").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> the model's folder, made when it is first asked for."""
    base, made = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in made:
            made[name] = make(base / name, name)
        return made[name]

    return get


def differences(path, expected):
    """What a reader of the failure wants to know: which part of the file is not the reference's."""
    reader = gguf.GGUFReader(path)
    with open(path, "rb") as file:
        header = hashlib.sha256(file.read(reader.data_offset)).hexdigest()
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    tensors = {t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()[:24]]
               for t in reader.tensors}
    found = [] if header == expected["header"] else ["header"]
    if keys != expected["keys"]:
        found.append(f"keys {keys} instead of {expected['keys']}")
    if list(tensors) != list(expected["tensors"]):
        found.append("order of tensors")
    return found + [f"{name}: {tensors.get(name)} instead of {what}"
                    for name, what in expected["tensors"].items() if tensors.get(name) != what]


def test_every_model_has_references():
    assert list(ORACLE) == list(MODELS)


@pytest.mark.parametrize("name, recipe", [(name, recipe) for name, recipes in ORACLE.items()
                                          for recipe in recipes])
def test_file_is_the_reference(name, recipe, folders, tmp_path):
    out, options = tmp_path / "out.gguf", []
    if recipe.endswith(", imatrix"):
        write_imatrix(tmp_path / "imatrix.dat", name)
        options = ["--imatrix", "imatrix.dat"]
    done = run("convert", folders(name), "-t", recipe.split(",")[0], "-o", out, *options,
               cwd=tmp_path)
    expected = ORACLE[name][recipe]
    if hashlib.sha256(out.read_bytes()).hexdigest() != expected["sha256"]:
        assert differences(out, expected) == []
        assert out.stat().st_size == expected["size"]
        pytest.fail("the padding differs")
    # No hash knows these small vocabularies: the name of a pre-tokenizer is a guess, and that is
    # said.
    assert ("is a guess" in done.stderr) == bool(MODELS[name].pre)


def edit(folder, target, name="config.json", **changes):
    """A copy of a model with another config."""
    shutil.copytree(folder, target)
    settings = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(settings | changes))
    return target


def refusal(folder):
    done = run("convert", folder, "-t", "Q8_0", "-o", folder / "out.gguf", check=False)
    assert done.returncode != 0 and not (folder / "out.gguf").exists()
    return done.stderr


def test_number_of_experts_must_be_the_configs(folders, tmp_path):
    folder = edit(folders("Mixtral-8x7B-v0.1"), tmp_path / "model", num_local_experts=7)
    assert "there are 8 experts" in refusal(folder)


def test_rerankers_are_refused(folders, tmp_path):
    """The converter makes other tensors of them, and knows them by their name."""
    for name, readme in (("Qwen3-Reranker-0.6B", ""), ("model", "# Qwen3-Reranker-0.6B\n")):
        folder = edit(folders("Qwen3-0.6B"), tmp_path / name)
        (folder / "README.md").write_text(readme)
        assert "rank" in refusal(folder)


def test_sentencepiece_models_need_theirs(folders, tmp_path):
    for name in ("gemma-2-2b-it", "gemma-3-1b-it", "Phi-3-mini-128k-instruct"):
        folder = edit(folders(name), tmp_path / name)
        (folder / "tokenizer.model").unlink()
        assert "tokenizer.model is missing" in refusal(folder)


def test_damaged_model_card_is_passed_over(folders, tmp_path):
    folder = edit(folders("granite-3.3-2b-instruct"), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    done = run("convert", folder, "-t", "Q8_0", "-o", tmp_path / "out.gguf")
    assert "README.md: line 3" in done.stderr
    assert "general.license" not in gguf.GGUFReader(tmp_path / "out.gguf").fields


def test_any_range_of_experts_can_be_read_first(folders, mount, tmp_path):
    """Tiles run across the borders of experts."""
    store = tmp_path / "store"
    shutil.copytree(folders("Mixtral-8x7B-v0.1"), store / "moe")
    mnt = mount(store, "workers=1")
    whole = convert(store / "moe", "Q4_K_M")
    with open(mnt / "moe/gguf/moe-Q4_K_M.gguf", "rb") as file:
        for offset in range(len(whole) - 5000, 0, -77777):
            file.seek(offset)
            assert file.read(5000) == whole[offset:offset + 5000]
