# SPDX-License-Identifier: MIT
"""quantfs-run calibrate: what matters of a model's columns, found by letting it read a text."""

import errno
import json
import os
import re
import shutil
import signal
import struct
import subprocess

import architectures
import gguf
import models
import numpy as np
import pytest
import spqr
import stores

from calibration import Calibrated
from conftest import DATA, QUANTFS, convert, run, wait_until
from gguf_header import Header

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
    told = done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", folder, "--imatrix-only", file)
    assert sorted(os.listdir(folder)) == ["calibration.json", "imatrix.gguf"]
    assert told["chunks"] == CHUNKS and told["imatrix"] == str(folder / "imatrix.gguf")
    return folder / "imatrix.gguf"


def test_importance_is_that_of_llama_imatrix(matrix):
    ours, theirs = tensors(matrix), tensors(DATA / "demo-llama.imatrix.gguf")
    assert list(ours) == list(theirs) and len(ours) == 2 * ENTRIES
    for name, wanted in theirs.items():
        assert ours[name].shape == wanted.shape
        np.testing.assert_allclose(ours[name], wanted, rtol=0.01)
    wanted = keys(DATA / "demo-llama.imatrix.gguf") | {"imatrix.datasets": [str(TEXT)]}
    assert keys(matrix) == wanted


def test_importance_of_a_mounted_file(mount, matrix, tmp_path):
    """And of another number of threads: the same bytes. The next mount has the same file."""
    out = tmp_path / "out"
    for passes in (1, 0):
        mnt = mount(DATA)
        virtual = mnt / "demo-llama" / "gguf" / "demo-llama-BF16.gguf"
        told = done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", out, "-t", 3, "--imatrix-only", virtual)
        assert told["text_passes"] == passes
        mnt.unmount()
    assert (out / "imatrix.gguf").read_bytes() == matrix.read_bytes()


def test_importance_of_experts(tmp_path):
    """Each has the tokens that chose it, so all together have every token twice."""
    path = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "-t", "F32", "-o", path)
    told = done("-f", TEXT, "-c", 64, "-n", 20 * 64 + 63, "-o", tmp_path, "--keep-hessian", path)
    found = tensors(tmp_path / "imatrix.gguf")
    assert told["chunks"] == 20
    router = found["blk.0.ffn_gate_inp.weight.in_sum2"]
    assert found["blk.0.ffn_gate_inp.weight.counts"].tolist() == [20 * 64]
    for name in ("gate", "up", "down"):
        counts = found[f"blk.0.ffn_{name}_exps.weight.counts"]
        assert counts.sum() == 2 * 20 * 64 and counts.shape[0] > 2 and (counts > 0).sum() > 2
    for expert, seen in enumerate(counts.ravel()):
        for name, matrices in (("ffn_gate_up", ("ffn_gate", "ffn_up")), ("ffn_down", ("ffn_down",))):
            hessian = Calibrated(tmp_path / f"blk.0.{name}.{expert}.hessian")
            assert (hessian.part, hessian.tokens, hessian.chunks) == (expert, seen, 20)
            for matrix in matrices:
                np.testing.assert_allclose(
                    np.diag(hessian.matrix) * 20 / 2,
                    found[f"blk.0.{matrix}_exps.weight.in_sum2"][expert], rtol=1e-5)
            check_factor(tmp_path / f"blk.0.{name}.{expert}.damp0.1.factor", hessian)
    for name in ("gate", "up"):
        sums = found[f"blk.0.ffn_{name}_exps.weight.in_sum2"]
        assert sums.shape == (counts.shape[0], router.shape[0])
        np.testing.assert_allclose(sums.sum(0), 2 * router, rtol=1e-4)
    run("convert", tmp_path / "moe", "-t", "Q2_K", "--imatrix", tmp_path / "imatrix.gguf", "-o",
        tmp_path / "out.gguf")


def test_experts_without_tokens(tmp_path):
    """Their columns are dead, and U has ones there."""
    path = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "-t", "F32", "-o", path)
    short = tmp_path / "short.txt"
    short.write_text("a")
    done("-f", short, "-c", 1, "-o", tmp_path, path)
    counts = tensors(tmp_path / "imatrix.gguf")["blk.0.ffn_down_exps.weight.counts"].ravel()
    assert counts.min() == 0
    factor = Calibrated(tmp_path / f"blk.0.ffn_down.{counts.argmin()}.damp1.factor")
    assert factor.tokens == 0 and (factor.matrix == np.eye(factor.cols)).all()
    assert factor.order.tolist() == list(range(factor.cols))


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


# ---- Hessians and factors ----

INPUTS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "attn_output": ("attn_output",),
          "ffn_gate_up": ("ffn_gate", "ffn_up"), "ffn_down": ("ffn_down",)}
LAYERS, SOME = 4, 6  # SOME: chunks
MEMORY = "53M"  # enough for the weights and two layers at once


def check_factor(path, hessian):
    """Of reference/spqr's preparation: order, damping, dead columns, U."""
    factor, n = Calibrated(path), hessian.cols
    assert (factor.kind, hessian.kind, hessian.damping, factor.cols) == (1, 2, 0, n)
    for name in ("layer", "input", "part", "chunk_size", "chunks", "origin", "tokens"):
        assert getattr(factor, name) == getattr(hessian, name)
    diagonal = np.diag(hessian.matrix)
    natural = path.name.endswith(".natural.factor")
    wanted = np.arange(n) if natural else np.argsort(-diagonal, kind="stable")
    assert factor.order.tolist() == wanted.tolist()
    damped = hessian.matrix + np.diag(np.where(diagonal == 0, 1, factor.damping * diagonal.mean()))
    damped = damped[factor.order][:, factor.order]
    assert (np.diag(factor.matrix) > 0).all() and (np.tril(factor.matrix, -1) == 0).all()
    np.testing.assert_allclose(factor.matrix.T @ factor.matrix @ damped, np.eye(n), atol=2e-3)
    wanted = np.linalg.cholesky(np.linalg.inv(damped)).T
    np.testing.assert_allclose(factor.matrix, wanted, atol=2e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """All that there is."""
    folder = tmp_path_factory.mktemp("calibration") / "whole"
    told = done("-f", TEXT, "-n", SOME * CONTEXT, "-o", folder, "--keep-hessian", file)
    assert told["text_passes"] == 1 and told["layers_done"] == LAYERS
    made = [p for p in folder.iterdir() if p.name.startswith("blk.")]
    assert sum(p.stat().st_size for p in made) == told["disk_bytes"]
    assert len(made) == LAYERS * len(INPUTS) * 3
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("number, name", list(zip((0, 1, 3, 4), INPUTS)))
def test_hessians_and_factors(whole, number, name):
    sums = tensors(whole / "imatrix.gguf")
    for layer in range(LAYERS):
        hessian = Calibrated(whole / f"blk.{layer}.{name}.hessian")
        assert (hessian.layer, hessian.input, hessian.part) == (layer, number, 0)
        assert (hessian.chunk_size, hessian.chunks, hessian.tokens) == (
            CONTEXT, SOME, CONTEXT * SOME)
        origin = json.loads((whole / "calibration.json").read_text())["origin"]
        assert hessian.origin.hex() == origin
        assert np.linalg.eigvalsh(hessian.matrix).min() > -1e-5 * np.diag(hessian.matrix).max()
        for tensor in INPUTS[name]:
            np.testing.assert_allclose(np.diag(hessian.matrix) * SOME / 2,
                                       sums[f"blk.{layer}.{tensor}.weight.in_sum2"], rtol=1e-5)
        for damping in ("1", "0.1"):
            check_factor(whole / f"blk.{layer}.{name}.damp{damping}.factor", hessian)


def test_natural_factors(file, whole, tmp_path):
    """Besides the others, of which nothing changes; the disk that they take is counted."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    told = done("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, "--keep-hessian", "--natural", file)
    before, after = contents(whole), contents(tmp_path)
    assert before.items() <= after.items()
    made = {f"blk.{layer}.{name}.damp{damping}.natural.factor" for layer in range(LAYERS)
            for name in INPUTS for damping in ("1", "0.1")}
    assert after.keys() - before.keys() == made
    assert sum(len(after[name]) for name in made) == told["disk_bytes"]
    for name in made:
        layer, kind = name.split(".")[1:3]
        check_factor(tmp_path / name, Calibrated(tmp_path / f"blk.{layer}.{kind}.hessian"))


def embeddings(path, text):
    """The first layer's first input, computed from the file."""
    reader = gguf.GGUFReader(path)
    found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors
             if t.name in ("token_embd.weight", "blk.0.attn_norm.weight")}
    ids = json.loads(subprocess.run([RUN, "tokenize", "-p", text, path], check=True,
                                    capture_output=True).stdout)
    ids = np.array(ids[:SOME * CONTEXT]).reshape(SOME, CONTEXT)
    ids[:, 0] = ids[0, 0]  # BOS
    x = found["token_embd.weight"][ids.ravel()].astype(np.float64)
    eps = reader.get_field("llama.attention.layer_norm_rms_epsilon").contents()
    x /= np.sqrt((x**2).mean(1, keepdims=True) + eps)
    return x * found["blk.0.attn_norm.weight"]


def test_hessian_is_the_sum_over_tokens(file, whole):
    x = embeddings(file, TEXT.read_text())
    wanted = 2 / SOME * x.T @ x
    hessian = Calibrated(whole / "blk.0.attn_qkv.hessian").matrix
    np.testing.assert_allclose(hessian, wanted, atol=1e-5 * np.abs(wanted).max())


def test_sums_do_not_depend_on_threads(file, whole, tmp_path):
    """Nor do factors, but for rounding."""
    done("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, "--keep-hessian", "-t", 3, file)
    ours, wanted = contents(tmp_path), contents(whole)
    assert ours.keys() == wanted.keys()
    for name, data in ours.items():
        layer, kind = (name.split(".") + [""])[1:3]
        if name.endswith(".factor"):
            check_factor(tmp_path / name, Calibrated(whole / f"blk.{layer}.{kind}.hessian"))
        else:
            assert data == wanted[name], name


def test_bytes_do_not_depend_on_memory(file, whole, tmp_path):
    told = done("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, "--keep-hessian", "--ram", MEMORY,
                file)
    assert told["text_passes"] == 2
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("budget, passes, args", [
    (100, 3, ()), (160, 1, ()), (115, 1, ("--sequential", "spqr3"))])
def test_budget_is_kept(tmp_path, budget, passes, args):
    """The high-water mark of the process, which has libraries, too."""
    models.make(tmp_path / "m", hidden=512, layers=3, ffn=2048)
    run("convert", tmp_path / "m", "-t", "F16", "-o", tmp_path / "m.gguf")
    most = 0
    with subprocess.Popen([RUN, "calibrate", "-f", TEXT, "-n", "512", "-o", tmp_path / "out", "--ram",
                           f"{budget}M", "--json", *args, tmp_path / "m.gguf"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            with open(f"/proc/{child.pid}/status", encoding="ascii") as status:
                most = max([most] + [int(line.split()[1]) for line in status if "VmHWM" in line])
        told = json.loads(child.stdout.read())
    assert child.returncode == 0 and told["text_passes"] == passes
    assert (budget - 50) * 1024 < most < (budget + 4) * 1024


def test_what_is_there_is_not_made_again(file, whole, tmp_path):
    """Some layers, then others with a kept file, then what was lost, then nothing."""
    def stamps():
        return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    args = ("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, file)
    assert done("--layers", "1-2", *args)["layers_done"] == 2
    before = stamps()
    assert len(before) == 2 * len(INPUTS) * 2 + 2
    assert done("--keep-hessian", "--layers", "0", *args)["layers_done"] == 1
    assert done("--keep-hessian", *args)["layers_done"] == 3
    assert before.items() <= stamps().items() and contents(tmp_path) == contents(whole)
    for lost in ("blk.2.ffn_down.damp1.factor", "imatrix.gguf"):
        (tmp_path / lost).unlink()
        before = stamps()
        assert done("--keep-hessian", *args)["text_passes"] == 1
        assert before.items() <= stamps().items() and contents(tmp_path) == contents(whole)
    before = stamps()
    assert done("--keep-hessian", *args)["text_passes"] == 0
    assert stamps() == before


def test_a_run_that_is_killed_is_gone_on_with(file, whole, tmp_path):
    args = ("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, "--ram", MEMORY,
            "--keep-hessian", file)
    with subprocess.Popen([RUN, "calibrate", "-q", *map(str, args)]) as child:
        wait_until(lambda: (tmp_path / "blk.1.ffn_down.hessian").exists(), seconds=60)
        child.kill()
    there = contents(tmp_path)
    assert there.items() <= contents(whole).items()
    assert len(there) < len(contents(whole))
    assert done(*args)["layers_done"] == 2
    assert contents(tmp_path) == contents(whole)


# ---- layers that see the others packed ----

def sums(folder):
    """All that a calibration says of the inputs, without what it is from."""
    found = {p.name: Calibrated(p).matrix for p in folder.glob("blk.*")}
    return {name: m.tobytes() for name, m in found.items()} | {
        "imatrix": (folder / "imatrix.gguf").read_bytes()}


def layer_of(name):
    return int(name.split(".")[1])


def sequential(file, folder, name, *args):
    told = done("-f", TEXT, "-n", SOME * CONTEXT, "-o", folder, "--keep-hessian", "--sequential",
                name, *args, file)
    assert json.loads((folder / "calibration.json").read_text())["sequential"] == name
    return told


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_what_loses_nothing_changes_nothing(file, whole, tmp_path, name):
    sequential(file, tmp_path, name)
    assert sums(tmp_path) == sums(whole)


@pytest.fixture(scope="module")
def spqr3(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "spqr"
    assert sequential(file, folder, "spqr3")["layers_done"] == LAYERS
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
    return folder


@pytest.mark.parametrize("name, args", [
    ("spqr3", ()), ("q4_k-guided", ()), ("gptq4-g128", ()), ("gptq4-g128-natural", ("--natural",))])
def test_later_layers_see_those_before_packed(file, whole, tmp_path, name, args):
    """The first one has none before it. What others see is near to what it was."""
    sequential(file, tmp_path, name, *args)
    for path in whole.glob("blk.*"):
        plain, ours = Calibrated(path), Calibrated(tmp_path / path.name)
        if plain.layer == 0:
            assert (ours.matrix == plain.matrix).all()
        elif plain.kind == 2:
            change = np.linalg.norm(ours.matrix - plain.matrix) / np.linalg.norm(plain.matrix)
            assert 0.001 < change < 0.1


def is_matrix_of_first(name):
    return re.fullmatch(r"blk\.0\.(attn|ffn)_(?!norm).*", name)


def check_second_layer(folder, values, tmp_path):
    """It has the inputs that a model has whose first layer is replaced by hand."""
    path = tmp_path / "m.gguf"
    data = bytearray(path.read_bytes())
    for tensor in gguf.GGUFReader(path).tensors:
        if is_matrix_of_first(tensor.name):
            new = values[tensor.name].astype("<f4").tobytes()
            assert len(new) == tensor.n_bytes
            data[tensor.data_offset:tensor.data_offset + len(new)] = new
    path.write_bytes(data)
    done("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path / "plain", "--keep-hessian", path)
    ours, wanted = sums(folder), sums(tmp_path / "plain")
    compared = [n for n in wanted if n.startswith("blk.1.")]
    assert len(compared) == len(INPUTS) * 3
    assert all(ours[n] == wanted[n] for n in compared)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_what_is_seen_is_what_is_converted(tmp_path, name):
    """With the importance that was found."""
    packed, folder = tmp_path / "packed.gguf", tmp_path / "sequential"
    run("convert", DATA / "demo-llama", "-t", "F32", "-o", tmp_path / "m.gguf")
    sequential(tmp_path / "m.gguf", folder, name)
    packed.write_bytes(convert(DATA / "demo-llama", name.upper(), "--imatrix",
                               folder / "imatrix.gguf"))
    check_second_layer(folder, {t.name: gguf.quants.dequantize(t.data, t.tensor_type)
                                for t in gguf.GGUFReader(packed).tensors}, tmp_path)


def test_what_is_seen_is_what_a_mount_shows(mount, spqr3, tmp_path):
    """With the factors that were found."""
    mnt = mount(DATA / "demo-llama", f"calibration={spqr3}")
    data = (mnt / "demo-llama" / "gguf" / "demo-llama-SPQR3.gguf").read_bytes()
    values = {}
    for name, (_, extents, offset) in Header(data).tensors.items():
        if is_matrix_of_first(name):
            size = spqr.size(3, *reversed(extents))
            values[name] = spqr.decode(data[offset:offset + size], 3, *reversed(extents)).weights
    run("convert", DATA / "demo-llama", "-t", "F32", "-o", tmp_path / "m.gguf")
    check_second_layer(spqr3, values, tmp_path)


def fails(path):
    with pytest.raises(OSError) as failed:
        path.read_bytes()
    return failed.value.errno in (errno.EIO, errno.EINVAL)


def test_such_a_calibration_is_for_its_format_alone(mount, spqr3):
    mnt = mount(DATA / "demo-llama", f"calibration={spqr3}")
    folder = mnt / "demo-llama" / "tensors" / "model.layers.1.mlp.down_proj.weight"
    factor = (spqr3 / "blk.1.ffn_down.damp1.factor").read_bytes()
    assert os.getxattr(folder / "spqr3", "user.quantfs.calibration").decode() == factor[-32:].hex()
    assert (folder / "spqr3").read_bytes() and (folder / "q4_k").read_bytes()
    assert (mnt / "demo-llama" / "tensors" / "lm_head.weight" / "spqr4").read_bytes()
    for form in ("spqr4", "q4_k-guided", "gptq4-g128"):
        assert fails(folder / form)
        problem = f"{form}: the calibration in {spqr3} is for spqr3 alone, not for {form}"
        assert len([line for line in mnt.lines() if problem in line]) == 1
    assert fails(mnt / "demo-llama" / "gguf" / "demo-llama-SPQR4.gguf")


@pytest.mark.parametrize("text", ["{", "[]", '{"sequential": 3}', "\0"])
def test_what_does_not_say_what_it_is_for_is_for_nothing(mount, spqr3, tmp_path, text):
    shutil.copytree(spqr3, tmp_path, dirs_exist_ok=True)
    (tmp_path / "calibration.json").write_text(text)
    mnt = mount(DATA / "demo-llama", f"calibration={tmp_path}")
    folder = mnt / "demo-llama" / "tensors" / "model.layers.1.mlp.down_proj.weight"
    assert fails(folder / "spqr3") and (folder / "q4_k").read_bytes()
    assert any(f"{tmp_path}/calibration.json: " in line for line in mnt.lines())


def test_sequential_is_gone_on_with(file, spqr3, tmp_path):
    """Killed, then with files lost, then with nothing to do."""
    args = ("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path, "--keep-hessian", "--sequential",
            "spqr3", file)
    with subprocess.Popen([RUN, "calibrate", "-q", *map(str, args)]) as child:
        wait_until(lambda: (tmp_path / "blk.1.ffn_down.hessian").exists(), seconds=60)
        child.kill()
    there = contents(tmp_path)
    assert there.items() <= contents(spqr3).items() and len(there) < len(contents(spqr3))
    assert done(*args)["layers_done"] >= 1
    assert contents(tmp_path) == contents(spqr3)
    for lost in ("blk.2.ffn_down.damp1.factor", "imatrix.gguf"):
        (tmp_path / lost).unlink()
        assert done(*args)["text_passes"] == 1
        assert contents(tmp_path) == contents(spqr3)
    assert done(*args)["text_passes"] == 0


def test_sequential_holds_one_layer(tmp_path):
    """A model that is larger than the memory that it may take."""
    models.make(tmp_path / "m", hidden=512, layers=24, ffn=1024)
    run("convert", tmp_path / "m", "-t", "F32", "-o", tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").stat().st_size > 200 << 20
    told = done("-f", TEXT, "-n", 512, "-o", tmp_path / "out", "--percdamp", 1, "--sequential",
                "spqr4", "--ram", "100M", tmp_path / "m.gguf")
    assert told["layers_done"] == 24
    message = refused("-f", TEXT, "-n", 512, "-o", tmp_path / "out", "--sequential", "spqr4", "--ram",
                      "20M", tmp_path / "m.gguf")
    assert "20.0 MiB of memory are not enough" in message


def test_a_format_that_does_not_fit_is_refused_at_once(tmp_path):
    run("convert", DATA / "demo-qwen2", "-t", "BF16", "-o", tmp_path / "m.gguf")
    message = refused("-f", TEXT, "-o", tmp_path / "out", "--sequential", "q4_k", tmp_path / "m.gguf")
    assert re.search(r"m.gguf: rows of \d+ weights cannot be packed as q4_k, whose blocks have 256",
                     message)
    assert not os.listdir(tmp_path / "out")


def test_sequential_with_experts(tmp_path):
    path = tmp_path / "model.gguf"
    run("convert", architectures.make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "-t", "F32", "-o", path)
    for folder, args in (("plain", ()), ("f32", ("--sequential", "f32")),
                         ("spqr3", ("--sequential", "spqr3"))):
        done("-f", TEXT, "-c", 64, "-n", 1280, "-o", tmp_path / folder, "--keep-hessian", *args, path)
    plain, f32, spqr3 = (sums(tmp_path / name) for name in ("plain", "f32", "spqr3"))
    assert f32 == plain
    for name in plain.keys() - {"imatrix"}:
        assert (spqr3[name] == plain[name]) == (layer_of(name) == 0), name


# ---- from a checkpoint ----

@pytest.fixture
def private(tmp_path_factory, monkeypatch):
    """Where private mounts go."""
    folder = tmp_path_factory.mktemp("private")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def mounts_in(folder):
    with open("/proc/mounts", encoding="utf-8") as mounts:
        return [line for line in mounts if f" {folder}/" in line]


def is_tidy(folder):
    return not mounts_in(folder) and not os.listdir(folder)


def test_calibration_of_a_checkpoint(whole, private, tmp_path):
    """That of its BF16 file. The next run has the same file, though it is another mount's."""
    args = ("-f", TEXT, "-n", SOME * CONTEXT, "-o", tmp_path / "out", "--keep-hessian", "--json")
    for passes in (1, 0):
        child = run("calibrate", DATA / "demo-llama", *args)
        assert json.loads(child.stdout)["text_passes"] == passes
        assert is_tidy(private)
    assert sums(tmp_path / "out") == sums(whole)


def test_calibration_of_a_model_in_a_store(private, tmp_path):
    """By the name that it has there, which is none of a folder."""
    stores.hub(tmp_path / "hub", "acme/m", "0" * 40, DATA / "demo-llama", main=True)
    run("calibrate", tmp_path / "hub" / "acme" / "m", "-q", "-f", TEXT, "-n", CONTEXT, "-o", tmp_path / "out",
        "--imatrix-only")
    assert (tmp_path / "out" / "imatrix.gguf").exists() and is_tidy(private)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_private_mount_ends_with_the_run(private, tmp_path, number):
    folder = tmp_path / "out"
    with subprocess.Popen([QUANTFS, "calibrate", DATA / "demo-llama", "-q", "-f", TEXT, "-o",
                           folder]) as child:
        wait_until(lambda: (folder / "calibration.json").exists())
        assert mounts_in(private)
        child.send_signal(number)
        assert child.wait(timeout=60) == 2
    assert is_tidy(private)
    assert not (folder / "blk.3.ffn_down.damp0.1.factor").exists()


def test_what_cannot_be_calibrated_is_named(private, tmp_path):
    (tmp_path / "empty").mkdir()
    for args, status, reason in (
            ((tmp_path / "none", "-q"), 2, "none: it is not a model"),
            ((tmp_path / "no" / "such" / "model", "-q"), 2, "model: No such file"),
            ((tmp_path / "empty", "-q"), 2, "empty: it is not a model"),
            ((DATA, "-q"), 2, "it is not a model"),
            ((DATA / "demo-llama", "-f", TEXT, "-o", tmp_path / "no" / "where"), 2, "No such file"),
            ((DATA / "demo-llama", "-f", TEXT), 1, "usage: quantfs-run calibrate"),
            (("-f", TEXT), 1, "a model and then options"), ((), 1, "a model and then options"),
            ((DATA / "demo-llama",), 1, "a model and then options")):
        child = run("calibrate", *args, check=False)
        assert child.returncode == status and reason in child.stderr, args
        assert is_tidy(private)


def test_another_format_is_another_calibration(file, whole, spqr3):
    for folder, args in ((whole, ("--sequential", "spqr3")), (spqr3, ("--sequential", "spqr4")),
                         (spqr3, ())):
        message = refused("-f", TEXT, "-n", SOME * CONTEXT, "-o", folder, *args, file)
        assert "calibration.json is of another" in message


def test_another_text_or_model_is_refused(file, whole, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(file.read_bytes())
    before = contents(whole)
    for args in (("-f", DATA / "kjv-eval.txt", "-n", SOME * CONTEXT, file),
                 ("-f", TEXT, "-n", 2 * CONTEXT, file), ("-f", TEXT, "-c", 256, file),
                 ("-f", TEXT, "-n", SOME * CONTEXT, other)):
        assert f"{whole}/calibration.json is of another" in refused("-o", whole, *args)
    assert contents(whole) == before


def test_files_that_cannot_be_ours_are_named(file, tmp_path):
    args = ("-f", TEXT, "-n", CONTEXT, "-o", tmp_path, "--layers", "0", file)
    done(*args)
    stray = tmp_path / "blk.0.attn_qkv.damp1.factor"
    stray.write_bytes(stray.read_bytes()[:-1])
    assert f"{stray} is there, and not a file of" in refused(*args)


def test_too_few_tokens_for_a_small_damping(file, tmp_path):
    args = ("-f", TEXT, "-c", 32, "-n", 32, "-o", tmp_path, "--layers", "0", "--percdamp")
    message = refused(*args, "0.1,1e-6", file)
    assert re.search(r"damp1e-06.factor: its Hessian, damped by 1e-06, is not positive definite", message)
    assert not list(tmp_path.glob("*damp1e-06*")) and list(tmp_path.glob("*damp0.1*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts tmpfs: needs root")
def test_disk_without_room(file, tmpfs):
    """Found out before the text is read."""
    disk = tmpfs("disk", "size=4m")
    message = refused("-f", TEXT, "-o", disk, file)
    assert re.search(rf"{disk}: 7.\d+ MiB are needed, and [34].\d+ MiB are free", message)
    assert os.listdir(disk) == ["calibration.json"]
    done("-f", TEXT, "-n", CONTEXT, "-o", disk / "one", "--layers", 0, file)


def test_what_is_expected_is_told(file, tmp_path):
    child = calibrate("-f", TEXT, "-n", 2 * CONTEXT, "-o", tmp_path, "--ram", MEMORY, file)
    assert re.search(r"^# text: 2 chunks, read 2 times; 4 layers to do, 2 at once$", child.stderr, re.M)
    assert re.search(r"^# disk: 7.\d+ MiB are needed, [\d.]+ [KMGT]iB are free$", child.stderr, re.M)
    assert all(line.startswith("# ") for line in child.stderr.splitlines())


def test_streamed_is_resident(file, matrix, tmp_path):
    told = done("-f", TEXT, "-n", CHUNKS * CONTEXT, "-o", tmp_path, "--imatrix-only", "--ram",
                "14M", file)
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
            (("-f", TEXT, "--layers", "2-4", "-o", folder, file), "no layer 4 among 4"),
            (("-f", TEXT, "-o", taken, file), f"{taken}.*: Not a directory")):
        assert re.search(f"^quantfs-run: .*{reason}", refused(*args)), args
    assert taken.read_text() == "mine" and os.listdir(folder) == ["calibration.json"]


@pytest.mark.parametrize("args", [
    [], ["x"], ["-f", "t", "x"], ["-o", "d", "x"], ["-f", "t", "-o", "d"],
    ["-f", "t", "-o", "d", "x", "y"], ["-f", "t", "-o", "d", "-n", "0", "x"],
    *(["-f", "t", "-o", "d", *args, "x"] for args in (
        ["--layers", "2-1"], ["--layers", "a"], ["--layers", "1-"], ["--layers", "-1"],
        ["--percdamp", "0"], ["--percdamp", "1,1.0"], ["--percdamp", "1,"], ["--percdamp", "nan"],
        ["--percdamp", "1,2,3,4,5,6,7,8,9"], ["--imatrix-only", "--keep-hessian"],
        ["--imatrix-only", "--layers", "1"], ["--imatrix-only", "--natural"],
        ["--sequential", "q9"], ["--sequential", "spqr3", "--layers", "0-1"],
        ["--sequential", "spqr3", "--percdamp", "0.1"], ["--sequential", "spqr3", "--imatrix-only"],
        ["--sequential", "gptq4-g128-natural"]))])
def test_wrong_command_lines_are_refused(args):
    assert "usage: quantfs-run calibrate" in refused(*args, status=1)
