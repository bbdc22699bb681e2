# SPDX-License-Identifier: MIT
"""quantfs-run calibrate: what matters of a model's columns, found by letting it read a text."""

import json
import os
import re
import struct
import subprocess

import architectures
import gguf
import numpy as np
import pytest

from conftest import DATA, QUANTFS, convert, run

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-train.txt"
CONTEXT, CHUNKS = 512, 40  # those of llama-imatrix's file
ENTRIES = 28


def calibrate(*args, **kwargs):
    return subprocess.run([RUN, "calibrate", *map(str, args)], capture_output=True, text=True,
                          timeout=300, check=False, **kwargs)


def done(*args, **kwargs):
    """What it tells machines."""
    child = calibrate("--json", *args, **kwargs)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def refused(*args, status=2):
    child = calibrate("-q", *args)
    assert child.returncode == status and not child.stdout
    return child.stderr


def tensors(path):
    return {t.name: t.data.astype(np.float64) for t in gguf.GGUFReader(path).tensors}


def keys(path):
    fields = gguf.GGUFReader(path).fields
    return {name: f.contents() for name, f in fields.items() if not name.startswith("GGUF.")}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    run("convert", DATA / "demo-llama", "-t", "BF16", "-o", path)
    return path


@pytest.fixture(scope="module")
def matrix(file, tmp_path_factory):
    """The importance matrix from the text that llama-imatrix's file is from."""
    folder = tmp_path_factory.mktemp("calibration") / "new"
    told = done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", folder, file)
    assert told["chunks"] == CHUNKS and told["imatrix"] == str(folder / "imatrix.gguf")
    return folder / "imatrix.gguf"


def test_importance_is_that_of_llama_imatrix(matrix):
    ours, theirs = tensors(matrix), tensors(DATA / "demo-llama.imatrix.gguf")
    assert list(ours) == list(theirs) and len(ours) == 2 * ENTRIES
    for name, wanted in theirs.items():
        assert ours[name].shape == wanted.shape
        np.testing.assert_allclose(ours[name], wanted, rtol=0.01)
    assert keys(matrix) == keys(DATA / "demo-llama.imatrix.gguf") | {"imatrix.datasets": [str(TEXT)]}


def test_importance_of_a_mounted_file(mount, matrix, tmp_path):
    """And of another number of threads: the same bytes."""
    virtual = mount(DATA) / "demo-llama" / "gguf" / "demo-llama-BF16.gguf"
    done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", tmp_path, "-t", 3, virtual)
    assert (tmp_path / "imatrix.gguf").read_bytes() == matrix.read_bytes()


def test_importance_of_experts(tmp_path):
    """Each has the tokens that chose it, so all together have every token twice."""
    path = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "-t", "F32", "-o", path)
    told = done("-f", TEXT, "-c", 64, "-n", 20 * 64 + 63, "-o", tmp_path, path)
    found = tensors(tmp_path / "imatrix.gguf")
    assert told["chunks"] == 20
    router = found["blk.0.ffn_gate_inp.weight.in_sum2"]
    assert found["blk.0.ffn_gate_inp.weight.counts"].tolist() == [20 * 64]
    for name in ("gate", "up", "down"):
        counts = found[f"blk.0.ffn_{name}_exps.weight.counts"]
        assert counts.sum() == 2 * 20 * 64 and counts.shape[0] > 2 and (counts > 0).sum() > 2
    for name in ("gate", "up"):
        sums = found[f"blk.0.ffn_{name}_exps.weight.in_sum2"]
        assert sums.shape == (counts.shape[0], router.shape[0])
        np.testing.assert_allclose(sums.sum(0), 2 * router, rtol=1e-4)
    run("convert", tmp_path / "moe", "-t", "Q2_K", "--imatrix", tmp_path / "imatrix.gguf", "-o",
        tmp_path / "out.gguf")


def legacy(path):
    """The same weights in the other layout."""
    found = tensors(path)
    out = struct.pack("<i", ENTRIES)
    for name in (n[:-len(".in_sum2")] for n in found if n.endswith(".in_sum2")):
        sums = found[f"{name}.in_sum2"].astype(np.float32)
        weights = sums / found[f"{name}.counts"].astype(np.float32)
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<2i", 1, weights.size)
        out += weights.astype("<f4").tobytes()
    return out


def test_quantized_with_it(matrix, tmp_path):
    """The weights are those of its sums and counts, and they matter."""
    other = tmp_path / "other.dat"
    other.write_bytes(legacy(matrix))
    made = {}
    for name, args in (("ours", ["--imatrix", matrix]), ("other", ["--imatrix", other]), ("plain", [])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(convert(DATA / "demo-llama", "Q3_K_M", *args))
        made[name] = {t.name: t.data.tobytes() for t in gguf.GGUFReader(path).tensors}
    assert made["ours"] == made["other"] != made["plain"]


def test_streamed_is_resident(file, matrix, tmp_path):
    told = done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", tmp_path, "--ram", "12M", file)
    assert told["streamed_bytes"] > 0
    assert (tmp_path / "imatrix.gguf").read_bytes() == matrix.read_bytes()


def test_what_cannot_be_done_is_named(file, tmp_path):
    short, folder = tmp_path / "short.txt", tmp_path / "out"
    short.write_text("In the beginning")
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for args, reason in (
            (("-f", short, "-o", folder, file), f"{short}: the text has .* tokens, fewer than two"),
            (("-f", TEXT, "-n", 511, "-o", folder, file), "511 tokens are less than a context of 512"),
            (("-f", tmp_path / "none", "-o", folder, file), "none: No such file"),
            (("-f", TEXT, "-o", folder, tmp_path / "none.gguf"), "none.gguf: No such file"),
            (("-f", TEXT, "-o", tmp_path / "no" / "where", file), "no/where: No such file"),
            (("-f", TEXT, "-o", taken, file), f"{taken}.*: Not a directory")):
        assert re.search(f"^quantfs-run: .*{reason}", refused(*args)), args
    assert taken.read_text() == "mine" and os.listdir(folder) == []


@pytest.mark.parametrize("args", [
    [], ["x"], ["-f", "t", "x"], ["-o", "d", "x"], ["-f", "t", "-o", "d"],
    ["-f", "t", "-o", "d", "x", "y"], ["-f", "t", "-o", "d", "-n", "0", "x"],
    ["-f", "t", "-o", "d", "--layers", "1", "x", "y"]])
def test_wrong_command_lines_are_refused(args):
    assert "usage: quantfs-run calibrate" in refused(*args, status=1)
