# SPDX-License-Identifier: MIT
"""transformers loads hf/ of a mount and computes with it what it computes with the original folder,
and what llama.cpp computes with the GGUF file."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from architectures import MODELS, make
from conftest import DATA, run
from stores import edit

HERE = pathlib.Path(__file__).resolve().parent
DEMOS = ("demo-llama", "demo-qwen2")
IDS = [(7 * i * i + 3 * i + 11) % 250 for i in range(24)]

# Log-probabilities by which llama.cpp may differ, on average over the likelier half of all tokens:
# three times what it does. It rounds activations to BF16 or to 8-bit blocks, as the weights are.
TOLERANCE = {"BF16": 0.02, "Q8_0": 0.1}

LOGPROBS = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.warmup, params.cpuparams.n_threads = 128, False, 2
answer = xllamacpp.Server(params).handle_completions({
    "prompt": json.loads(sys.argv[2]), "max_tokens": 1, "temperature": 0, "logprobs": 1 << 20})
(first,) = answer["choices"][0]["logprobs"]["content"]
print("FOUND" + json.dumps({t["id"]: t["logprob"] for t in first["top_logprobs"]}))
"""

CONFIG = """
import sys, transformers
from transformers.quantizers.auto import AutoQuantizationConfig
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
assert config.architectures == ["LlamaForCausalLM"] and config.dtype.itemsize == 2
found = AutoQuantizationConfig.from_dict(config.quantization_config)
print(found.quant_method.value, found.bits)
"""


def transformers(tmp_path, *jobs):
    """What logits.py says of (folder, type, number of tokens)."""
    (tmp_path / "jobs").write_text(json.dumps([[str(folder), dtype, IDS, count]
                                               for folder, dtype, count in jobs]))
    done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], HERE / "logits.py",
                           tmp_path / "jobs", tmp_path / "out"], capture_output=True, text=True,
                          timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((tmp_path / "out").read_text())


def llama_cpp(path):
    """id -> log-probability of the token behind IDS."""
    done = subprocess.run([sys.executable, "-c", LOGPROBS, path, json.dumps(IDS)],
                          capture_output=True, text=True, timeout=300, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    return {int(number): p for number, p in json.loads(lines[-1][5:]).items()}


def log_softmax(logits):
    x = np.array(logits) - max(logits)
    return x - np.log(np.exp(x).sum())


def test_a_folder_says_what_the_original_says(mount, tmp_path):
    mnt = mount(DATA)
    found = transformers(tmp_path, *((base, "bfloat16", 12) for model in DEMOS for base in (
        DATA / model, mnt / model / "hf" / "bf16")))
    for original, through_mount in zip(found[::2], found[1::2]):
        assert original == through_mount
        assert len(original["tokens"]) == 12 and original["missing"] == []


def test_every_architecture_comes_back_from_gguf(mount, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for name in MODELS:
        folder = make(tmp_path / "originals" / name, name)
        run("convert", folder, "-t", "F32", "-o", store / f"{name}.gguf")
        # what transformers insists on: a padding token in the vocabulary, all rows of a matrix
        config = json.loads((folder / "config.json").read_text())
        if MODELS[name].rows:
            edit(folder, vocab_size=config["vocab_size"] + MODELS[name].rows)
        edit(folder, pad_token_id=None)
    mnt = mount(store)
    found = transformers(tmp_path, *((base, "float32", 8) for name in MODELS for base in (
        tmp_path / "originals" / name, mnt / name / "hf" / "f32")))
    for name, original, made in zip(MODELS, found[::2], found[1::2]):
        assert made["missing"] == [] and made["unexpected"] == [], name
        theirs = np.array(original["logits"])[:len(made["logits"])]
        # Gemma's norms lost a little to the 1 that was added, most where the type was F16
        close = 0.01 if name.startswith("gemma") else 0
        assert np.abs(np.array(made["logits"]) - theirs).max() <= close, name
        assert made["tokens"] == original["tokens"], name


@pytest.mark.parametrize("recipe", TOLERANCE)
def test_a_gguf_says_what_llama_cpp_says(mount, tmp_path, recipe):
    store = tmp_path / "store"
    store.mkdir()
    for model in DEMOS:
        run("convert", DATA / model, "-t", recipe, "-o", store / f"{model}.gguf")
    mnt = mount(store)
    found = transformers(tmp_path, *((mnt / model / "hf" / "f32", "float32", 1)
                                     for model in DEMOS))
    for model, made in zip(DEMOS, found):
        assert made["missing"] == [] and made["unexpected"] == []
        mine, theirs = log_softmax(made["logits"]), llama_cpp(store / f"{model}.gguf")
        assert made["tokens"] == [max(theirs, key=theirs.get)]
        likely = sorted(theirs, key=theirs.get, reverse=True)[:len(theirs) // 2]
        off = np.mean([abs(mine[number] - theirs[number]) for number in likely])
        assert len(theirs) == len(mine) and off < TOLERANCE[recipe], model


def test_configs_of_quantized_folders_are_read(mount):
    """Loading them takes a GPU, but transformers knows what they say of themselves."""
    hf = mount(DATA) / "demo-llama" / "hf"
    forms = [form for form in os.listdir(hf) if form.startswith(("spqr-", "gptq-", "rtn-"))]
    assert len(forms) == 8
    for form in forms:
        done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], "-c", CONFIG, hf / form],
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        method, bits = done.stdout.split()
        assert form.removeprefix("rtn-").startswith(f"{method}-{bits}bit")
