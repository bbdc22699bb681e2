# SPDX-License-Identifier: MIT
"""Real programs read what a mount shows: gguf-py, safetensors, and llama.cpp's own loader."""

import json
import shutil
import subprocess
import sys

import gguf
import numpy
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType, GGUFReader

from conftest import DATA, QUANTFS, RECIPES

MODELS = ("demo-llama", "demo-qwen2")
FORMATS = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "iq4_nl", "q3_k",
           "q2_k", "f16", "f32")

# Loads a model and prints what it says next, greedily. A process of its own: the library prints a
# lot, and one that fails ends the process.
GENERATE = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.warmup, params.cpuparams.n_threads = 128, False, 2
server = xllamacpp.Server(params)
answer = server.handle_completions({"prompt": sys.argv[2], "max_tokens": 24, "temperature": 0,
                                    "seed": 1})
print("TEXT" + json.dumps(answer["choices"][0]["text"]))
"""


def generate(path, prompt):
    done = subprocess.run([sys.executable, "-c", GENERATE, str(path), prompt], text=True,
                          capture_output=True, timeout=120, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("TEXT")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1][4:])


@pytest.mark.parametrize("model", MODELS)
def test_gguf_reads_every_virtual_file(mount, oracle, model):
    mnt = mount(DATA)
    for recipe in RECIPES:
        reader = GGUFReader(mnt / model / "gguf" / f"{model}-{recipe}.gguf")
        expected = oracle[model][recipe]
        # the reader itself adds three entries for the file's head
        keys = [key for key in reader.fields if not key.startswith("GGUF.")]
        assert keys == expected["keys"]
        assert ({t.name: t.tensor_type.name for t in reader.tensors}
                == {name: kind for name, (kind, _) in expected["tensors"].items()})


@pytest.mark.parametrize("model, tensor", [("demo-llama", "model.layers.1.mlp.down_proj.weight"),
                                           ("demo-qwen2", "model.layers.0.mlp.up_proj.weight")])
def test_dequantize_agrees_with_our_decoders(mount, model, tensor):
    folder = mount(DATA) / model / "tensors" / tensor
    checked = 0
    for name in FORMATS:
        if not (folder / name).exists():
            continue
        packed = (folder / name).read_bytes()
        ours = subprocess.run([QUANTFS.parent / "tests" / "decode", name], input=packed,
                              capture_output=True, check=True).stdout
        theirs = gguf.quants.dequantize(numpy.frombuffer(packed, numpy.uint8),
                                        GGMLQuantizationType[name.upper()])
        assert ours == theirs.astype(numpy.float32).tobytes(), name
        checked += 1
    assert checked >= 8


def test_safetensors_reads_the_original(mount, store):
    mnt = mount(store)
    for model in MODELS:
        for file in sorted((mnt / model / "original").glob("*.safetensors")):
            with safetensors.safe_open(file, "numpy") as through_mount:
                names = list(through_mount.keys())
                assert names
            own = (store / model / file.name).read_bytes()
            assert file.read_bytes() == own


@pytest.mark.parametrize("model, prompt", [("demo-llama", "In the beginning"),
                                           ("demo-qwen2", "The kernel")])
def test_llama_cpp_loads_and_generates(mount, tmp_path, model, prompt):
    """llama.cpp maps the virtual file; its greedy text is that of a copy on disk."""
    virtual = mount(DATA) / model / "gguf" / f"{model}-Q4_K_M.gguf"
    text = generate(virtual, prompt)
    assert text.strip()
    copy = tmp_path / "copy.gguf"
    shutil.copy(virtual, copy)
    assert generate(copy, prompt) == text
