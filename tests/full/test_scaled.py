# SPDX-License-Identifier: MIT
"""transformers loads hf/nf4, hf/nf4-dq, hf/int8-bnb, hf/w4a16 and hf/w8a16 with bitsandbytes and
compressed-tensors, computes with them what a plain model with the decoded weights computes, and saves
the same bytes when it quantizes the original itself."""

import json
import os
import pathlib
import subprocess

import models
import pytest

from conftest import DATA

HERE = pathlib.Path(__file__).resolve().parent


def found_by_library(folder, original, form):
    done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], HERE / "scaled.py", folder, original,
                           form], capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-4000:]
    return json.loads(lines[-1][5:])


# Of the range of all logits. bitsandbytes multiplies in an order of its own, and quantizes activations
# for LLM.int8; what it reads NF4 as is compared to the bit.
TOLERANCE = {"nf4": 0.02, "nf4-dq": 0.02, "int8-bnb": 0.05, "w4a16": 0, "w8a16": 0}


@pytest.mark.parametrize("model, form", [
    *(("demo-llama", form) for form in TOLERANCE),
    *(("demo-qwen2", form) for form in TOLERANCE if form != "w4a16")])
def test_demo_models(mount, model, form):
    found = found_by_library(mount(DATA) / model / "hf" / form, DATA / model, form)
    assert found["differences"] == [] and found["misread"] == []
    assert found["off"] <= TOLERANCE[form] * found["range"]


def test_layers_that_are_ignored(mount, tmp_path):
    own = models.make(tmp_path / "store" / "m", arch="qwen2", hidden=256, ffn=192, layers=3)
    found = found_by_library(mount(own.parent) / "m" / "hf" / "w4a16", own, "w4a16")
    assert found["differences"] == [] and found["off"] == 0
