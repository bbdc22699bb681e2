# SPDX-License-Identifier: MIT
"""Models larger than the memory they may take: the same bits, whatever comes from where."""

import ctypes
import json
import os
import subprocess

import architectures
import models
import pytest

from conftest import DATA, QUANTFS, run, wait_until

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"
IO_URING_SETUP = 425
MIB = 1 << 20


def has_uring():
    params = ctypes.create_string_buffer(120)
    fd = ctypes.CDLL(None, use_errno=True).syscall(IO_URING_SETUP, 1, params)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def told(command, file, *args):
    args = {"generate": ("-p", "In the beginning", "-n", 12, "--temp", 0),
            "perplexity": ("-f", TEXT, "--chunks", 2)}[command] + args
    done = subprocess.run([RUN, command, "--json", "-c", "64", *map(str, args), file],
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(file, *args):
    done = subprocess.run([RUN, "generate", "-p", "a", "-c", "64", *map(str, args), file],
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 2 and not done.stdout
    return done.stderr.decode()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming") / "m"
    models.make(folder, hidden=1024, layers=4, ffn=4096)
    return folder


@pytest.fixture(scope="module")
def file(checkpoint):
    """71 MB of weights that follow from nothing."""
    path = checkpoint.parent / "m.gguf"
    run("convert", checkpoint, "-t", "Q8_0", "-o", path)
    assert path.stat().st_size % 4096  # its end is not a sector's
    return path


@pytest.fixture(scope="module")
def resident(file):
    """What comes out where everything fits."""
    out = {command: told(command, file) for command in ("generate", "perplexity")}
    for report in out.values():
        assert report["resident_bytes"] == report["weights_bytes"] > 60 * MIB
        assert report["streamed_bytes"] == 0 and report["io"] == "none"
    return out


@pytest.mark.parametrize("args", [
    ("--ram", "60M"), ("--ram", "60M", "--ring", "3M"), ("--ram", "45M", "--io", "pread"),
    ("--ram", "30M", "--ring", "600K"), ("--ram", "70M", "--ring", "20M", "--threads", "1"),
    ("--ram", "60M", "--ring", "5M", "--threads", "3", "--io", "pread")])
def test_streamed_is_resident_to_the_bit(file, resident, args):
    text = told("generate", file, *args)
    assert text["tokens"] == resident["generate"]["tokens"]
    score = told("perplexity", file, *args)
    assert score["perplexity"] == resident["perplexity"]["perplexity"]
    for report in (text, score):
        missing = report["weights_bytes"] - report["resident_bytes"]
        assert missing > 0 and report["streamed_bytes_least"] == missing
        assert report["streamed_bytes"] == report["passes"] * missing
        assert report["streamed_bytes"] == report["from_file_bytes"]
        assert report["io"] == ("pread" if "pread" in args or not has_uring() else "uring")
        assert report["direct"]
    assert text["passes"] == 12


def test_budget_is_kept(file):
    """The high-water mark of the process, which has libraries and a vocabulary, too."""
    budget, most = 50, 0
    child = subprocess.Popen([RUN, "bench", "-p", "64", "-n", "16", "--ram", f"{budget}M", "--json",
                              file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        with open(f"/proc/{child.pid}/status", encoding="ascii") as status:
            most = max([most] + [int(line.split()[1]) for line in status if "VmHWM" in line])
    report = json.loads(child.stdout.read())
    assert child.returncode == 0 and report["streamed_bytes_least"] > 0
    assert report["resident_bytes"] + report["ring_bytes"] > (budget - 20) * MIB
    assert (budget - 20) * 1024 < most < (budget + 4) * 1024


def test_experts_that_were_not_chosen_are_not_read(tmp_path):
    file = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "-t", "F32", "-o", file)
    whole = told("generate", file)
    words = fails(file, "--ram", "1M").split()  # "... and the program take 5.27 MiB, and ..."
    taken = float(words[words.index("take") + 1])
    streamed = told("generate", file, "--ram", f"{int((taken + 1) * 1024)}K")
    assert streamed["tokens"] == whole["tokens"]
    missing = streamed["weights_bytes"] - streamed["resident_bytes"]
    assert 0 < streamed["streamed_bytes_least"] < missing


def test_a_file_that_changes_is_an_error(file, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    child = subprocess.Popen([RUN, "generate", "-p", "In the beginning", "-n", "2000", "-c", "2000",
                              "--ram", "90M", "--ring", "3M", copy],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.read(1)
    with open(copy, "r+b") as out:
        out.seek(-MIB, os.SEEK_END)
        out.write(bytes(16))
    out, err = child.communicate(timeout=60)
    assert child.returncode == 2 and str(copy).encode() in err and b"changed" in err


# ---- files of a mount ----

SMALL = ("--ram", "45M", "--ring", "8M")


@pytest.fixture
def mounted(mount, checkpoint, tmp_path):
    """A mount with a tile cache, where tiles stay as they are, and a virtual file in it."""
    mnt = mount(checkpoint, f"cache={tmp_path / 'cache'}", "compress=off")
    return mnt, mnt / "m" / "gguf" / "m-Q8_0.gguf"


def streams_from_objects(report):
    """All but what a tile and the resident rows share."""
    return report["from_mount_bytes"] < 3 * MIB * report["passes"] and \
        report["from_objects_bytes"] > 0.8 * report["streamed_bytes"]


def test_tiles_are_read_from_the_cache(mounted, resident):
    """First they are made, by reading through the mount; then they lie there."""
    _, virtual = mounted
    first = told("generate", virtual, *SMALL)
    assert first["tokens"] == resident["generate"]["tokens"]
    assert first["from_file_bytes"] == 0 < first["from_mount_bytes"]
    wait_until(lambda: streams_from_objects(told("generate", virtual, *SMALL)))
    second = told("perplexity", virtual, *SMALL, "--io", "pread")
    assert second["perplexity"] == resident["perplexity"]["perplexity"]
    assert streams_from_objects(second) and second["damaged_tiles"] == 0
    assert second["direct"] and second["io"] == "pread"


def test_a_run_moves_to_the_cache_as_tiles_are_made(mounted):
    _, virtual = mounted
    report = told("perplexity", virtual, *SMALL, "--chunks", "40")
    assert 0 < report["from_mount_bytes"] < report["from_objects_bytes"]


def test_damaged_tiles_are_read_through_the_mount(mounted, resident, tmp_path):
    mnt, virtual = mounted
    virtual.read_bytes()
    wait_until(lambda: streams_from_objects(told("generate", virtual, *SMALL)))
    for path in (tmp_path / "cache").rglob("v2/??/*"):
        data = bytearray(path.read_bytes())
        for at in range(len(data) // 4, len(data), len(data) // 4):
            data[at] ^= 1
        with open(path, "r+b") as out:
            out.write(data)
    report = told("generate", virtual, *SMALL)
    assert report["tokens"] == resident["generate"]["tokens"]
    assert report["damaged_tiles"] > 0 < report["from_mount_bytes"]


def test_without_a_cache_all_comes_through_the_mount(mount, checkpoint, resident):
    virtual = mount(checkpoint, "cache=none") / "m" / "gguf" / "m-Q8_0.gguf"
    report = told("generate", virtual, *SMALL)
    assert report["tokens"] == resident["generate"]["tokens"]
    assert report["streamed_bytes"] == report["from_mount_bytes"] > 0 and not report["direct"]


# ---- the command ----

def test_what_cannot_be_is_told(file):
    assert "not enough" in fails(file, "--ram", "5M")
    assert "too small" in fails(file, "--ram", "40M", "--ring", "10K")
    assert "too large" in fails(file, "--ram", "40M", "--ring", "39M")


def test_report(file):
    done = subprocess.run([RUN, "generate", "-p", "In the beginning", "-n", "4", "-c", "64",
                           "--ram", "60M", file], capture_output=True, check=True)
    lines = [line for line in done.stderr.decode().splitlines() if line]
    assert all(line.startswith("# ") for line in lines)
    for word in ("resident", "read for a token", "expected:", "GB/s", "streamed:", "from the file"):
        assert any(word in line for line in lines), word


def test_bench(file):
    done = subprocess.run([RUN, "bench", "-p", "32", "-n", "4", "--repeats", "1", "--json", file],
                          capture_output=True, check=True)
    report = json.loads(done.stdout)
    assert report["prefill_tok_s"] > 0 and report["decode_tok_s"] > 0
    assert report["passes"] == 1 + 1 + 4
    done = subprocess.run([RUN, "bench", "-p", "32", "-n", "4", file], capture_output=True,
                          check=True)
    assert b"prefill of 32 tokens" in done.stdout and b"decode of 4 tokens" in done.stdout
