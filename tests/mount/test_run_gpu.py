# SPDX-License-Identifier: MIT
"""quantfs-run on a GPU that is emulated: the text that a processor gives, whatever is resident, held
or read, and however the rest is lifted."""

import json
import os
import subprocess

import architectures
import pytest

from conftest import DATA, QUANTFS, run, wait_until

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"
EMU = ("--backend", "emu")
SEEDS = ("1", "2", "3")


def quantfs_run(command, file, *args, **env):
    given = {"generate": ("-p", "In the beginning God", "-n", 8, "--temp", 0, "-c", 64),
             "perplexity": ("-f", TEXT, "-c", 64, "--chunks", 1),
             "bench": ("-p", 20, "-n", 2, "--repeats", 1)}[command]
    return subprocess.run([RUN, command, "--json", *map(str, given + args), file],
                          capture_output=True, timeout=300, check=False, env=os.environ | env)


def told(command, file, *args, **env):
    done = quantfs_run(command, file, *args, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(file, *args):
    done = quantfs_run("generate", file, *args)
    assert done.returncode == 2 and not done.stdout
    return done.stderr.decode()


def convert(folder, model, recipe):
    path = folder / f"{model}-{recipe}.gguf"
    run("convert", DATA / model, "-t", recipe, "-o", path)
    return path


@pytest.fixture(scope="module")
def f16(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("gpu"), "demo-llama", "F16")


@pytest.mark.parametrize("lift", ["copy", "mapped"])
def test_text_is_the_processors(f16, lift):
    """With 3 MiB of its memory, so that much is lifted for every token."""
    args = ("-c", 128, "-n", 24)
    wanted = told("generate", f16, *args)
    for seed in SEEDS:
        got = told("generate", f16, *args, *EMU, "--vram", "3M", "--lift", lift,
                   QUANTFS_EMU_SEED=seed)
        assert got["text"] == wanted["text"] and got["tokens"] == wanted["tokens"]
        assert got["kernels"].startswith("cuda: emulator") and got["lift"] == lift
        missing = got["weights_bytes"] - got["resident_bytes"]
        assert got["passes"] == 24 and got["lifted_bytes_least"] == missing > 0
        assert got["lifted_bytes"] == 24 * missing
        assert got["vram_used_bytes"] <= 3 << 20 == got["vram_bytes"]


def least(file, lift):
    """About the least memory of a GPU that will do, for --vram."""
    for kib in range(300, 3000, 50):
        done = quantfs_run("generate", file, *EMU, "--vram", f"{kib}K", "--lift", lift, "-n", 1)
        if done.returncode == 0:
            return f"{kib}K"
        assert b"context" in done.stderr, done.stderr
    raise AssertionError(file)


@pytest.mark.parametrize("model, recipe", [
    ("demo-llama", "Q4_K_M"), ("demo-llama", "Q2_K"), ("demo-llama", "Q8_0"),
    ("demo-qwen2", "BF16"), ("demo-qwen2", "Q4_0"), ("demo-qwen2", "Q4_K_M"),
    ("demo-qwen2", "Q2_K")])
def test_all_formats(tmp_path, model, recipe):
    """Of which K formats fall back to others where a width is no multiple of 256."""
    file = convert(tmp_path, model, recipe)
    wanted = told("generate", file)
    everything = told("generate", file, *EMU)
    assert everything["tokens"] == wanted["tokens"] and everything["lift"] is None
    assert everything["resident_bytes"] == everything["weights_bytes"]
    for lift in ("copy", "mapped"):
        got = told("generate", file, *EMU, "--vram", least(file, lift), "--lift", lift)
        assert got["tokens"] == wanted["tokens"] and got["lifted_bytes_least"] > 0


def test_spqr(tmp_path, calibration):
    file = tmp_path / "spqr.gguf"
    run("convert", DATA / "demo-llama", "-t", "SPQR3", "--calibration", calibration, "-o", file)
    wanted = told("perplexity", file)["perplexity"]
    for args in ((), ("--vram", "1800K"), ("--vram", "1800K", "--lift", "mapped")):
        assert told("perplexity", file, *EMU, *args)["perplexity"] == wanted


@pytest.mark.parametrize("name", ["Mixtral-8x7B-v0.1", "Qwen3-0.6B", "gemma-3-1b-it",
                                  "Llama-3.2-1B-Instruct"])
def test_architectures(tmp_path, name):
    """Experts, norms of heads, windows with GELU, and angles that are scaled."""
    file = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "m", name), "-t", "F32", "-o", file)
    wanted = told("generate", file)["tokens"]
    for args in ((), ("--vram", "2M"), ("--vram", "2M", "--lift", "mapped", "--ram", "40M")):
        assert told("generate", file, *EMU, *args)["tokens"] == wanted


def test_perplexity_has_the_same_bits(f16):
    wanted = told("perplexity", f16)
    got = told("perplexity", f16, *EMU, "--vram", "3M")
    assert got["perplexity"] == wanted["perplexity"] and got["lifted_bytes_least"] > 0


def test_sampling_is_the_same(f16):
    args = ("--temp", 1, "--seed", 4)
    assert told("generate", f16, *args, *EMU)["tokens"] == told("generate", f16, *args)["tokens"]


# ---- the host's memory ----

def own_memory(file):
    """MiB that the program itself takes, as it says where there is too little."""
    words = fails(file, *EMU, "--vram", "3M", "--ram", "1M").split()
    return float(words[words.index("takes") + 1])  # "... the program takes 9.27 MiB, and ..."


@pytest.mark.parametrize("lift", ["copy", "mapped"])
@pytest.mark.parametrize("io", ["uring", "pread"])
def test_what_the_host_has_no_room_for_is_read(f16, lift, io):
    wanted = told("generate", f16)["tokens"]
    ram = f"{int((own_memory(f16) + 2) * 1024)}K"
    for seed in SEEDS:
        got = told("generate", f16, *EMU, "--vram", "2500K", "--lift", lift, "--ram", ram, "--ring", "1M",
                   "--io", io, QUANTFS_EMU_SEED=seed)
        assert got["tokens"] == wanted
        lifted = got["weights_bytes"] - got["resident_bytes"]
        assert got["lifted_bytes_least"] == lifted
        assert 0 < got["held_bytes"] < lifted
        read = lifted - got["held_bytes"]
        assert got["streamed_bytes_least"] > 0
        # copies are ahead of the pass, at the end of one that never comes
        assert got["passes"] * read <= got["from_file_bytes"] < (got["passes"] + 1) * read


def test_tiles_of_a_mount_are_lifted(mount, tmp_path, f16):
    mnt = mount(DATA / "demo-llama", f"cache={tmp_path / 'cache'}", "compress=off")
    virtual = mnt / "demo-llama" / "gguf" / "demo-llama-Q8_0.gguf"
    wanted = told("generate", virtual)["tokens"]
    ram = f"{int((own_memory(f16) + 2) * 1024)}K"
    small = (*EMU, "--vram", "1500K", "-n", 4, "--ram", ram, "--ring", "1M")

    def from_objects():
        got = told("generate", virtual, *small)
        assert got["tokens"] == wanted[:4]
        return got["from_objects_bytes"] > 0
    wait_until(from_objects)


@pytest.mark.parametrize("lift", ["copy", "mapped"])
def test_a_file_that_changes_is_an_error(f16, tmp_path, lift):
    """What the GPU is about to read is not taken away from it."""
    copy = tmp_path / "copy.gguf"
    ram = f"{int((own_memory(f16) + 2) * 1024)}K"
    for seed in SEEDS:
        copy.write_bytes(f16.read_bytes())
        child = subprocess.Popen([RUN, "generate", "-p", "a", "-n", "250", "-c", "256", *EMU, "--vram",
                                  "3M", "--lift", lift, "--ram", ram, "--ring", "1M", copy],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=os.environ | {"QUANTFS_EMU_SEED": seed})
        assert child.stdout.read(1)
        os.truncate(copy, copy.stat().st_size // 2)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 2 and str(copy).encode() in err, err


# ---- the command ----

def test_what_cannot_be_is_told(f16):
    assert "GPU's memory are not enough" in fails(f16, *EMU, "--vram", "1M")
    assert "no memory for a context" in fails(f16, *EMU, "--vram", "100K")
    ram = f"{int(own_memory(f16)) + 2}M"
    assert "too small" in fails(f16, *EMU, "--vram", "3M", "--ram", ram, "--ring", "10K")
    assert "--backend cuda, or emu" in fails(f16, "--vram", "3M")
    assert "--backend cuda, or emu" in fails(f16, "--lift", "copy")
    assert "--threads is for" in fails(f16, *EMU, "--threads", "2")
    done = quantfs_run("generate", f16, "--backend", "gpu")
    assert done.returncode == 1 and b"usage" in done.stderr


def test_without_a_gpu_that_is_said(f16):
    """Whatever this machine and this program lack."""
    done = quantfs_run("generate", f16, "--backend", "cuda", LD_LIBRARY_PATH="/nowhere")
    if done.returncode == 0:
        assert json.loads(done.stdout)["tokens"] == told("generate", f16)["tokens"]
        return
    assert done.returncode == 2
    assert b"no CUDA driver" in done.stderr or b"without kernels" in done.stderr or \
        b"finds no GPU" in done.stderr


def test_report(f16):
    done = subprocess.run([RUN, "generate", "-p", "a", "-n", "2", "-c", "64", *EMU, "--vram", "3M", f16],
                          capture_output=True, check=True)
    lines = [line for line in done.stderr.decode().splitlines() if line]
    assert all(line.startswith("# ") for line in lines)
    for word in ("emulator", "resident in", "lifted for a token, by copies to 3 slots", "held in RAM",
                 "# lifted:", "waited for the GPU"):
        assert any(word in line for line in lines), word


def test_bench(f16):
    got = told("bench", f16, *EMU, "--vram", "3M")
    assert got["passes"] == 1 + 1 + 2 and got["lifted_bytes_least"] > 0
