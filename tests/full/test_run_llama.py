# SPDX-License-Identifier: MIT
"""quantfs-run beside llama.cpp: perplexity of every recipe, divergence from a base that either has
saved, and the text of other architectures."""

import json
import os
import pathlib
import re
import subprocess

import architectures
import gguf
import numpy as np
import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
ORACLE = json.loads((DATA / "perplexity.json").read_text())
CASES = [(model, recipe) for model, oracle in ORACLE.items() for recipe in oracle["perplexity"]]
PROMPT = "In the beginning the river"
TEXT = DATA / "kjv-eval.txt"


@pytest.mark.parametrize("model, recipe", CASES)
def test_perplexity_of_recipe(model, recipe, tmp_path):
    oracle, file = ORACLE[model], tmp_path / "model.gguf"
    run("convert", DATA / model, "-t", recipe, "-o", file)
    done = subprocess.run([RUN, "perplexity", "-f", TEXT, "-c",
                           str(oracle["context"]), "--json", file], capture_output=True, check=True)
    told = json.loads(done.stdout)["perplexity"]
    assert told == pytest.approx(oracle["perplexity"][recipe], rel=0.002)


def importance(path):
    return {t.name: t.data.astype(np.float64) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("model", ["demo-llama", "demo-qwen2", "Mixtral-8x7B-v0.1"])
def test_importance_is_that_of_llama_imatrix(model, tmp_path):
    """And its counts: the tokens of every expert."""
    file, ours, theirs = (tmp_path / n for n in ("model.gguf", "imatrix.gguf", "theirs.gguf"))
    folder = DATA / model
    if not folder.exists():
        folder = architectures.make(tmp_path / "model", model)
    run("convert", folder, "-t", "F32", "-o", file)
    text = DATA / "kjv-train.txt"
    subprocess.run([RUN, "calibrate", "-f", text, "-c", "256", "-n", "5120", "--imatrix-only", "-o",
                    tmp_path, file], check=True, capture_output=True)
    subprocess.run([pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-imatrix", "-m", file,
                    "-f", text, "-c", "256", "--chunks", "20", "-o", theirs, "-t", "2"], check=True,
                   capture_output=True, stdin=subprocess.DEVNULL)
    found, wanted = importance(ours), importance(theirs)
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=0 if name.endswith("counts") else 0.01)


def test_llama_quantize_takes_our_importance(tmp_path):
    """And makes of it what quantfs makes."""
    source, theirs, ours = (tmp_path / n for n in ("bf16.gguf", "theirs.gguf", "ours.gguf"))
    run("convert", DATA / "demo-llama", "-t", "BF16", "-o", source)
    subprocess.run([RUN, "calibrate", "-f", DATA / "kjv-train.txt", "-n", "8192", "-o", tmp_path,
                    source], check=True, capture_output=True)
    matrix = tmp_path / "imatrix.gguf"
    quantize = pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-quantize"
    subprocess.run([quantize, "--imatrix", matrix, source, theirs, "Q2_K"], check=True,
                   capture_output=True)
    run("convert", DATA / "demo-llama", "-t", "Q2_K", "--imatrix", matrix, "-o", ours)
    assert ours.read_bytes() == theirs.read_bytes()


def llama_perplexity(*args):
    done = subprocess.run(
        [pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-perplexity", *map(str, args),
         "-t", "2"], capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def divergence(base, file, *args):
    done = subprocess.run([RUN, "perplexity", "--kl-divergence", base, "--json", *args, file],
                          capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", ORACLE)
def test_base_files_go_both_ways(model, tmp_path):
    """llama-perplexity reads our file and finds the same figures, in the last chunk's line of which
    all is there: it may lose the end of what it wrote when it exits. We read its file."""
    fine, coarse, ours, theirs = (tmp_path / n for n in ("fine", "coarse", "ours", "theirs"))
    run("convert", DATA / model, "-t", "F16", "-o", fine)
    run("convert", DATA / model, "-t", "Q3_K_M", "-o", coarse)
    shape = ("-f", TEXT, "-c", "256", "--chunks", "12")
    subprocess.run([RUN, "perplexity", *shape, "--save-logits", ours, fine], check=True,
                   capture_output=True)
    llama_perplexity("-m", fine, *shape, "--kl-divergence-base", theirs)
    printed = llama_perplexity("-m", coarse, "-c", 256, "--kl-divergence-base", ours,
                               "--kl-divergence")
    number = r" +(-?[\d.]+)"
    lines = re.findall(rf"^ +(\d+){number} ±{number}{number} ±{number}{number} ±{number}{number} ±"
                       rf"{number} %{number} ±{number} %$", printed, re.M)
    assert lines, printed
    chunks, *figures = map(float, lines[-1])
    for base in (ours, theirs):
        told = divergence(base, coarse, "--chunks", str(int(chunks)), "-f", TEXT)
        for key, value, error in zip(
                ("perplexity", "ln_perplexity_ratio", "kl_divergence_mean", "delta_p_rms",
                 "same_top_p"), figures[::2], figures[1::2], strict=True):
            factor = 100 if key in ("delta_p_rms", "same_top_p") else 1
            assert factor * told[key] == pytest.approx(value, rel=0.05, abs=error / 2), key
            assert factor * told[key + "_error"] == pytest.approx(error, rel=0.25), key
    assert ours.read_bytes()[:20 + 4 * 12 * 256] == theirs.read_bytes()[:20 + 4 * 12 * 256]


@pytest.mark.parametrize("name", ["Llama-3.2-1B-Instruct", "Qwen3-0.6B", "Mixtral-8x7B-v0.1",
                                  "gemma-3-1b-it", "gemma-3-4b-it"])
def test_text_of_architecture(name, tmp_path):
    """The random models tell which sum was taken apart; llama-completion may lose the end of what
    it wrote when it exits."""
    file = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / name, name), "-t", "F32", "-o", file)
    ours = subprocess.run([RUN, "generate", "-p", PROMPT, "-n", "24", "--temp", "0", "-c", "512", file],
                          capture_output=True, check=True).stdout
    command = [pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-completion", "-m", file, "-p",
               PROMPT, "-n", "24", "--temp", "0", "-c", "512", "-no-cnv", "--no-display-prompt",
               "--no-warmup", "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    for _ in range(5):  # at worst all of it is lost
        theirs = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL,
                                check=True).stdout.rstrip(b"\n")
        if theirs:
            break
    assert theirs and ours.startswith(theirs)
