# SPDX-License-Identifier: MIT
"""quantfs-run beside llama.cpp: perplexity of every recipe, and the text of other architectures."""

import json
import os
import pathlib
import subprocess

import architectures
import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
ORACLE = json.loads((DATA / "perplexity.json").read_text())
CASES = [(model, recipe) for model, oracle in ORACLE.items() for recipe in oracle["perplexity"]]
PROMPT = "In the beginning the river"


@pytest.mark.parametrize("model, recipe", CASES)
def test_perplexity_of_recipe(model, recipe, tmp_path):
    oracle, file = ORACLE[model], tmp_path / "model.gguf"
    run("convert", DATA / model, "-t", recipe, "-o", file)
    done = subprocess.run([RUN, "perplexity", "-f", DATA / "kjv-eval.txt", "-c",
                           str(oracle["context"]), "--json", file], capture_output=True, check=True)
    told = json.loads(done.stdout)["perplexity"]
    assert told == pytest.approx(oracle["perplexity"][recipe], rel=0.002)


@pytest.mark.parametrize("name", ["Llama-3.2-1B-Instruct", "Qwen3-0.6B", "Mixtral-8x7B-v0.1",
                                  "gemma-3-1b-it", "gemma-3-4b-it"])
def test_text_of_architecture(name, tmp_path):
    """The random models tell which sum was taken apart; llama-completion may lose the end of what
    it wrote when it exits."""
    file = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / name, name), "-t", "F32", "-o", file)
    ours = subprocess.run([RUN, "generate", "-p", PROMPT, "-n", "24", "--temp", "0", "-c", "512", file],
                          capture_output=True, check=True).stdout
    theirs = subprocess.run(
        [pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-completion", "-m", file, "-p",
         PROMPT, "-n", "24", "--temp", "0", "-c", "512", "-no-cnv", "--no-display-prompt",
         "--no-warmup", "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32"],
        capture_output=True, stdin=subprocess.DEVNULL, check=True).stdout.rstrip(b"\n")
    assert theirs and ours.startswith(theirs)
