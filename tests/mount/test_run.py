# SPDX-License-Identifier: MIT
"""quantfs-run generate and perplexity: llama.cpp's figures, and the same text whatever it is made
with."""

import json
import os
import subprocess

import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"
ORACLE = json.loads((DATA / "perplexity.json").read_text())


def quantfs_run(*args, **env):
    return subprocess.run([RUN, *map(str, args)], capture_output=True, timeout=120, check=False,
                          env=os.environ | env)


def generate(file, *args, **env):
    done = quantfs_run("generate", "-p", "And it came to pass", "--json", *args, file, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(*args, status):
    done = quantfs_run(*args)
    assert done.returncode == status and not done.stdout
    return done.stderr.decode()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    run("convert", DATA / "demo-llama", "-t", "Q4_K_M", "-o", path)
    return path


@pytest.mark.parametrize("model, recipe", [("demo-llama", "Q4_K_M"), ("demo-qwen2", "Q5_0")])
def test_perplexity_is_that_of_llama_cpp(mount, model, recipe):
    oracle = ORACLE[model]
    virtual = mount(DATA) / model / "gguf" / f"{model}-{recipe}.gguf"
    done = quantfs_run("perplexity", "-f", TEXT, "-c", oracle["context"], "--json", virtual)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chunks"] == oracle["chunks"]
    assert told["perplexity"] == pytest.approx(oracle["perplexity"][recipe], rel=0.002)


def test_text_is_the_same_with_all_threads_and_instructions(file):
    first = generate(file, "-n", 40, "--temp", 0, "-t", 1, QUANTFS_ISA="c")
    assert first["kernels"] == "cpu c" and len(first["tokens"]) == 40 and first["text"]
    assert generate(file, "-n", 40, "--temp", 0, "-t", 3)["tokens"] == first["tokens"]


def test_virtual_file_gives_the_text_of_the_real_one(mount, file):
    virtual = mount(DATA) / "demo-llama" / "gguf" / "demo-llama-Q4_K_M.gguf"
    args = ("generate", "-p", "In the beginning", "-n", 30, "--seed", 7)
    done = quantfs_run(*args, virtual)
    assert done.returncode == 0 and done.stdout
    assert all(line.startswith(b"# ") for line in done.stderr.splitlines() if line)
    again = quantfs_run(*args, "-q", file)
    assert (again.stdout, again.stderr) == (done.stdout, b"")


def test_sampling(file):
    def tokens(*args):
        return generate(file, "-n", 30, *args)["tokens"]
    assert tokens("--seed", 1) == tokens("--seed", 1) != tokens("--seed", 2)
    best = tokens("--temp", 0)
    assert tokens("--top-k", 1, "--seed", 5) == tokens("--top-p", 0, "--seed", 6) == best
    assert tokens("--temp", 100, "--top-k", 0, "--top-p", 1, "--seed", 1) != best


def test_context_is_a_limit(file):
    prompt = generate(file, "-n", 1)["prompt_tokens"]
    done = quantfs_run("generate", "-p", "And it came to pass", "-n", 100, "-c", 20, "--temp", 0,
                       "--json", file)
    assert done.returncode == 0 and b"the context of 20 tokens is full" in done.stderr
    tokens = json.loads(done.stdout)["tokens"]
    assert len(tokens) == 20 - prompt + 1
    assert generate(file, "-n", 100, "--temp", 0)["tokens"][:len(tokens)] == tokens
    message = fails("generate", "-p", "And it came to pass", "-c", prompt - 1, file, status=2)
    assert f"{prompt} tokens" in message


def test_what_cannot_be_run_is_named(file, tmp_path):
    data = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[:len(data) // 2])
    assert str(cut) in fails("generate", "-p", "a", cut, status=2)
    other = tmp_path / "other.gguf"
    other.write_bytes(data.replace(b"llama", b"lhama", 1))
    assert 'architecture "lhama" cannot be run' in fails("generate", "-p", "a", other, status=2)
    missing = tmp_path / "missing.gguf"
    missing.write_bytes(data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    assert '"blk.1.attn_q.weight" is missing' in fails("generate", "-p", "a", missing, status=2)
    short = tmp_path / "short.txt"
    short.write_text("In the beginning")
    assert "fewer than two contexts" in fails("perplexity", "-f", short, file, status=2)
    assert "nowhere" in fails("perplexity", "-f", "nowhere", file, status=2)


@pytest.mark.parametrize("args", [
    ["generate"], ["generate", "-p", "a"], ["generate", "-p", "a", "x", "y"],
    ["generate", "-p", "a", "-n", "0", "x"], ["generate", "-p", "a", "--temp", "nan", "x"],
    ["generate", "-p", "a", "--top-p", "1.5", "x"], ["generate", "-p", "a", "-t", "-1", "x"],
    ["generate", "-p", "a", "--seed", "1x", "x"], ["perplexity", "x"],
    ["perplexity", "-f", "x", "--chunks", "0", "x"], ["perplexity", "-f", "x", "-c", "0", "x"]])
def test_wrong_command_lines_are_refused(args):
    assert f"usage: quantfs-run {args[0]}" in fails(*args, status=1)


@pytest.mark.parametrize("command", ["generate", "perplexity"])
def test_help(command):
    done = quantfs_run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: quantfs-run {command} ".encode())
