# SPDX-License-Identifier: MIT
"""Packed checkpoints that llama.cpp's converter reads, too: its files, and what llama-quantize makes of
them, are ours, byte for byte."""

import os
import pathlib
import subprocess

import pytest

import packed_models
from conftest import DATA, convert

HERE = pathlib.Path(__file__).resolve().parent
LLAMA, QWEN = ("demo-llama", ""), ("demo-qwen2", "qwen2")  # and the name of the pre-tokenizer

KINDS = {
    "gptq, 2 bits": (LLAMA, "gptq", {"bits": 2, "sym": False}),
    "gptq, 4 bits": (QWEN, "gptq", {}),
    "gptq, 4 bits, in order": (LLAMA, "gptq", {"shuffled": True, "sym": False}),
    "gptq, 4 bits, in order, version 2": (QWEN, "gptq", {"shuffled": True, "sym": False, "v2": True}),
    "gptq, 4 bits, one group of f16": (LLAMA, "gptq", {"group": -1, "rest": "F16"}),
    "gptq, 8 bits": (LLAMA, "gptq", {"bits": 8, "group": 32, "sym": False}),
    "compressed, 4 bits": (LLAMA, "packed", {}),
    "compressed, 4 bits, with zeros": (QWEN, "packed", {"sym": False, "group": 32}),
    "compressed, 8 bits": (LLAMA, "packed", {"bits": 8}),
    "compressed, bytes": (QWEN, "bytes", {}),
}


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_those_of_the_converter(tmp_path, kind):
    (source, pre), writer, options = KINDS[kind]
    folder = packed_models.make(tmp_path / "m", DATA / source, writer, **options)
    quantize = pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-quantize"
    for outtype, recipes in (("f32", ("F32", "Q4_K_M", "Q8_0")), ("bf16", ("BF16",)),
                             ("f16", ("F16",))):
        converted, made = tmp_path / f"{outtype}.gguf", tmp_path / "made.gguf"
        run(os.environ["QUANTFS_FULL_PYTHON"], HERE / "converter.py", pre, folder, converted, outtype)
        for recipe in recipes:
            run(quantize, converted, made, recipe, 2)
            assert convert(folder, recipe, "--allow-requantize") == made.read_bytes(), recipe
