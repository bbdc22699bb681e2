# SPDX-License-Identifier: MIT
"""Adapters beside the real tools: PEFT merges them to the same weights, llama.cpp's converter makes
the same file of them, and llama.cpp computes with that file what it does with the merged model."""

import os
import pathlib
import re
import subprocess

import numpy as np
import pytest

import adapters
from conftest import DATA, run

HERE = pathlib.Path(__file__).resolve().parent
TREE = pathlib.Path(os.environ.get("QUANTFS_LLAMA_TREE", "."))
RANKS = {"layers.0.self_attn.q_proj": 3, r"layers\.1\..*": 11, "down_proj": 4}
ALPHAS = {"layers.2.mlp.up_proj": 7, r"self_attn\.(k|v)_proj": 1.5}
LINEAR = [role.rsplit(".", 1)[1] for role in adapters.ROLES]
CARD = """---
base_model: acme/Demo-Llama-3.1-8B-v1.0
license: apache-2.0
tags:
- lora
datasets: [a/b-7B-lora]
---
"""


def read(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(adapters.read(path))
    return found


def make(folder, base, **knobs):
    knobs.setdefault("target_modules", LINEAR)
    return adapters.make(folder, read(DATA / base), base_name=str(DATA / base),
                         task_type="CAUSAL_LM", **knobs)


def python(*args):
    done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], *map(str, args)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


MERGED = {
    "ranks": ("demo-llama", {"ranks": RANKS, "alphas": ALPHAS}),
    "rslora": ("demo-qwen2", {"ranks": RANKS, "alphas": ALPHAS, "rslora": True}),
    "half": ("demo-llama", {"half": True, "ranks": RANKS}),
    "embedding": ("demo-llama", {"embedding": True, "target_modules": [*LINEAR, "embed_tokens"]}),
    "biases": ("demo-qwen2", {"biases": True, "bias": "all"}),
    "whole": ("demo-llama", {"saved": ["model.norm.weight"], "modules_to_save": ["model.norm"]}),
    "dora": ("demo-llama", {"ranks": RANKS, "dora": True}),
}


@pytest.mark.parametrize("base, knobs", MERGED.values(), ids=MERGED)
def test_peft_merges_to_the_same_weights(mount, tmp_path, base, knobs):
    adapter = make(tmp_path / "store" / "tuned", base, **knobs)
    python(HERE / "merge_adapter.py", DATA / base, adapter, tmp_path / "merged.safetensors")
    expected = adapters.read(tmp_path / "merged.safetensors")
    form = next(iter(read(DATA / base).values()))[1].lower()
    mnt = mount(tmp_path / "store", f"base={DATA / base}")
    found = adapters.read(mnt / "tuned" / "hf" / form / "model.safetensors")
    assert set(found) <= set(expected) # one that is tied is there twice
    off = 0
    for name, (x, dtype) in found.items():
        y, _ = expected[name]
        assert dtype == form.upper() and x.shape == y.shape
        if "dora" in knobs: # the sum of a row's squares is not in PEFT's order
            np.testing.assert_allclose(x, y, rtol=2 ** -7)
        off += int((x != y).sum())
    assert off <= (100 if "dora" in knobs else 0)


FILES = {
    "plain": ("demo-llama", "tuned", {}),
    "ranks": ("demo-llama", "demo-8B-lora-v2", {"ranks": {**RANKS, "o_proj": 1}}),
    "embedding": ("demo-llama", "some-1M-lora", {"embedding": True}),
    "norms": ("demo-qwen2", "long-128k", {"half": True, "saved": ["model.norm.weight"]}),
}


@pytest.mark.parametrize("base, name, knobs", FILES.values(), ids=FILES)
@pytest.mark.parametrize("card", ["", CARD], ids=["", "card"])
def test_the_converter_makes_the_same_file(tmp_path, base, name, knobs, card):
    adapter = make(tmp_path / name, base, **knobs)
    if card:
        (adapter / "README.md").write_text(card)
    python(TREE / "convert_lora_to_gguf.py", adapter, "--base", DATA / base, "--outtype", "f16",
           "--outfile", tmp_path / "theirs.gguf")
    run("convert", adapter, "-t", "lora-F16", "--base", DATA / base, "-o", tmp_path / "ours.gguf")
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def perplexity(model, *args):
    """Of two chunks. What llama-perplexity prints last is lost at times."""
    command = [pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-perplexity", "-m", model, "-f",
               DATA / "kjv-eval.txt", "-c", "256", "--chunks", "2", "-t", "2", *args]
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr
        found = re.search(r"\[2\]([0-9.]+),", done.stdout + done.stderr)
        if found:
            return float(found.group(1))
    raise AssertionError(done.stdout + done.stderr)


@pytest.mark.parametrize("base, knobs", [
    ("demo-llama", {"ranks": RANKS, "alphas": ALPHAS}),
    ("demo-qwen2", {"ranks": RANKS, "rslora": True}),
    ("demo-llama", {"embedding": True}),
], ids=["alphas", "rslora", "embedding"])
def test_llama_cpp_adds_it_to_the_base(tmp_path, base, knobs):
    adapter = make(tmp_path / "tuned", base, **{"alpha": 3, **knobs})
    lora, plain, merged = (tmp_path / f"{name}.gguf" for name in ("lora", "plain", "merged"))
    run("convert", DATA / base, "-t", "F32", "-o", plain)
    run("convert", adapter, "-t", "F32", "--base", DATA / base, "-o", merged)
    run("convert", adapter, "-t", "lora-F16", "--base", DATA / base, "-o", lora)
    with_it, without = perplexity(plain, "--lora", lora), perplexity(plain)
    assert with_it == pytest.approx(perplexity(merged), rel=0.01)
    assert abs(with_it / without - 1) > 0.1
