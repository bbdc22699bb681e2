# SPDX-License-Identifier: MIT
"""Models of every architecture are what llama.cpp's converter and llama-quantize make of them, to
the last byte (tests/full/make_oracles.py)."""

import hashlib
import json

import gguf
import pytest

from architectures import MODELS, make, write_imatrix
from conftest import DATA, run

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
