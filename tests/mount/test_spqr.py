# SPDX-License-Identifier: MIT
"""SpQR tensors in a mount, without a calibration and with one: what a reader written from the page of
the format makes of them."""

import errno
import json
import os
import subprocess

import models
import numpy as np
import pytest
import reference
import spqr

from calibration import Calibrated
from conftest import DATA, QUANTFS, convert

BITS = {"spqr2": 2, "spqr3": 3, "spqr4": 4}


def error(weights, told):
    return float(np.sqrt(np.mean((weights - told.weights) ** 2) / np.mean(weights ** 2)))


def read(folder, form, shape):
    return spqr.decode((folder / form).read_bytes(), BITS[form], *shape)


@pytest.mark.parametrize("model", ["demo-llama", "demo-qwen2"])
def test_weights_come_back(mount, model):
    tensors = mount(DATA) / model / "tensors"
    seen = 0
    for name, weights in reference.read_model(DATA / model).items():
        if weights.ndim != 2:
            assert not (tensors / name / "spqr3").exists()
            continue
        told = {form: read(tensors / name, form, weights.shape) for form in BITS}
        errors = [error(weights, told[form]) for form in ("spqr4", "spqr3", "spqr2")]
        assert errors == sorted(errors) and errors[0] < 0.09 and errors[1] < 0.18, name
        for form in BITS:
            assert told[form].slots == round(0.16 * weights.shape[1])
            assert (told[form].permutation == np.arange(weights.shape[1])).all()
            assert min(told[form].filled) >= 0.9 * told[form].slots
        seen += 1
    assert seen > 20


def test_outliers_are_worth_their_place(mount):
    """A few weights that are far from all others cost next to nothing."""
    name = "model.layers.0.mlp.up_proj.weight"
    weights = reference.read_model(DATA / "demo-llama")[name]
    told = read(mount(DATA) / "demo-llama" / "tensors" / name, "spqr3", weights.shape)
    worst = np.abs(weights - told.weights).max() / np.abs(weights).max()
    assert worst < 0.2
    # the largest of every stripe come back as good as they are
    for first in range(0, len(weights), 16):
        stripe = slice(first, first + 16)
        row, column = np.unravel_index(np.abs(weights[stripe]).argmax(), weights[stripe].shape)
        assert told.weights[stripe][row, column] == pytest.approx(weights[stripe][row, column],
                                                                  rel=0.1)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_odd_sizes(mount, tmp_path, dtype):
    """Neither a multiple of 16 rows nor one of 64 columns; sizes are exact before anything is read."""
    folder = models.make(tmp_path / "store" / "m", hidden=72, heads=3, kv_heads=1, head_dim=24,
                         ffn=1000, layers=1, dtype=dtype)
    tensors = mount(folder.parent) / "m" / "tensors"
    for name, weights in reference.read_model(folder).items():
        if weights.ndim != 2:
            continue
        for form in BITS:
            size = (tensors / name / form).stat().st_size
            assert len((tensors / name / form).read_bytes()) == size
            told = read(tensors / name, form, weights.shape)
            assert error(weights, told) < 0.5
        info = json.loads((tensors / name / "info.json").read_text())
        assert info["forms"][form]["bytes"] == size


def test_bytes_do_not_depend_on_who_makes_them(mount, tall):
    """Instruction sets, workers, the cache, and reading from behind."""
    name, files = tall.file("spqr3"), {}
    for isa in ("c", "avx2", None):
        env = os.environ | ({"QUANTFS_ISA": isa} if isa else {})
        mnt = mount(tall.store, "workers=1" if isa == "c" else "workers=3", env=env)
        files[isa] = (mnt / name).read_bytes()
    assert files["c"] == files["avx2"] == files[None]
    path = mount(tall.store) / name
    fd = os.open(path, os.O_RDONLY)
    step = 100_000
    parts = [os.pread(fd, step, at) for at in reversed(range(0, len(files["c"]), step))]
    os.close(fd)
    assert b"".join(reversed(parts)) == files["c"]


def test_a_tile_of_a_new_mount_comes_from_the_cache(mount, tmp_path):
    name = "demo-llama/tensors/model.layers.0.mlp.down_proj.weight"
    first = mount(DATA, f"cache={tmp_path / 'cache'}")
    data = (first / name / "spqr3").read_bytes()
    first.unmount()
    second = mount(DATA, f"cache={tmp_path / 'cache'}")
    assert (second / name / "spqr3").read_bytes() == data
    stats = second.stats()
    assert stats["tiles_loaded"] > 0 == stats["tiles_encoded"]
    # another form is another object
    assert (second / name / "spqr4").read_bytes() != data
    assert second.stats()["tiles_encoded"] > 0


def test_that_nothing_is_calibrated_is_told(mount):
    mnt = mount(DATA, "loglevel=info")
    folder = mnt / "demo-llama" / "tensors" / "model.layers.0.mlp.up_proj.weight"
    assert os.getxattr(folder / "spqr3", "user.quantfs.calibration") == b"none"
    assert os.getxattr(folder / "spqr3", "user.quantfs.format") == b"spqr3"
    with pytest.raises(OSError) as missing:
        os.getxattr(folder / "q4_k", "user.quantfs.calibration")
    assert missing.value.errno == errno.ENODATA
    for form in BITS:
        (folder / form).read_bytes()
    assert len([line for line in mnt.lines() if "without a calibration" in line]) == 1


def test_shown_by_request(mount):
    mnt = mount(DATA, "forms=spqr3:Q8_0")
    folder = mnt / "demo-llama" / "tensors" / "model.layers.0.mlp.up_proj.weight"
    assert {name for name in os.listdir(folder) if "." not in name} == {"bf16", "spqr3", "q8_0"}


def test_weights_that_are_not_finite_are_an_error(mount, tmp_path):
    folder = models.make(tmp_path / "store" / "m", hidden=64, heads=2, layers=1, ffn=128, dtype="F32")
    name, path = "model.layers.0.mlp.up_proj.weight", folder / "model.safetensors"
    header, begin = reference.header(path)
    data = bytearray(path.read_bytes())
    for row, value in ((40, np.inf), (90, 3e38)):
        at = begin + header[name]["data_offsets"][0] + (row * 64 + 5) * 4
        data[at:at + 4] = np.float32(value).tobytes()
    path.write_bytes(data)
    mnt = mount(folder.parent)
    with open(mnt / "m" / "tensors" / name / "spqr3", "rb") as file:
        with pytest.raises(OSError) as failed:
            file.read()
    assert failed.value.errno == errno.EIO
    assert any(f'"{name}", row 40, column 5: the weight is not finite' in line
               for line in mnt.lines())


# ---- with a calibration ----

INPUTS = {"self_attn.q_proj": "attn_qkv", "self_attn.v_proj": "attn_qkv",
          "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate_up",
          "mlp.down_proj": "ffn_down"}


def calibrate(folder, tokens):
    """Of demo-llama, with Hessians."""
    model = folder / "model.gguf"
    model.write_bytes(convert(DATA / "demo-llama", "BF16"))
    subprocess.run([QUANTFS.parent / "quantfs-run", "calibrate", "-q", "--text",
                    DATA / "kjv-train.txt", "--tokens", str(tokens), "--keep-hessian", "-o",
                    folder / "made", model], check=True, timeout=300)
    return folder / "made"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    return calibrate(tmp_path_factory.mktemp("calibration"), 8192)


def loss(weights, told, hessian):
    """What the error does to the output, summed over rows."""
    d = (told.weights - weights).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", d, hessian, d))


def test_a_calibration_makes_outputs_better(mount, calibration):
    """By what matters of the weights; rounding alone is not what it minds."""
    plain = mount(DATA / "demo-llama") / "demo-llama" / "tensors"
    guided = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama" / "tensors"
    model = reference.read_model(DATA / "demo-llama")
    for matrix, name in INPUTS.items():
        tensor = f"model.layers.1.{matrix}.weight"
        weights, shape = model[tensor], model[tensor].shape
        factor = Calibrated(calibration / f"blk.1.{name}.damp1.factor")
        hessian = Calibrated(calibration / f"blk.1.{name}.hessian").matrix
        digest = os.getxattr(guided / tensor / "spqr3", "user.quantfs.calibration").decode()
        data = (calibration / f"blk.1.{name}.damp1.factor").read_bytes()
        assert digest == data[-32:].hex()
        for form in BITS:
            with_it, without = (read(tensors / tensor, form, shape) for tensors in (guided, plain))
            assert (with_it.permutation == factor.order).all()
            assert min(with_it.filled) >= 0.9 * with_it.slots
            assert loss(weights, with_it, hessian) < 0.75 * loss(weights, without, hessian), tensor
    embedding = guided / "model.embed_tokens.weight" / "spqr3"
    assert os.getxattr(embedding, "user.quantfs.calibration") == b"none"


def test_a_folder_of_calibrations(mount, calibration, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "demo-llama").symlink_to(calibration)
    mnt = mount(DATA, f"calibration={tmp_path / 'all'}")
    for model, wanted in (("demo-llama", False), ("demo-qwen2", True)):
        path = mnt / model / "tensors" / "model.layers.0.mlp.up_proj.weight" / "spqr3"
        assert (os.getxattr(path, "user.quantfs.calibration") == b"none") == wanted
        assert path.read_bytes()


def test_a_calibration_is_part_of_the_key(mount, calibration, tmp_path):
    name = "demo-llama/tensors/model.layers.0.mlp.down_proj.weight/spqr3"
    cache = f"cache={tmp_path / 'cache'}"
    for folder in (None, calibration, calibrate(tmp_path, 1024)) * 2:
        options = [f"calibration={folder}"] if folder else []
        found = []
        for where in (cache, "cache=none"):
            mnt = mount(DATA / "demo-llama", where, *options)
            found.append((mnt / name).read_bytes())
            mnt.unmount()
        assert found[0] == found[1]


@pytest.mark.parametrize("damage", ["cut", "flip", "order", "other", "magic"])
def test_damaged_factors_are_an_error(mount, calibration, tmp_path, damage):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in calibration.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    name, victim = "model.layers.0.mlp.down_proj.weight", folder / "blk.0.ffn_down.damp1.factor"
    data = bytearray(victim.read_bytes())
    if damage == "cut":
        data = data[:-1]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "order":
        data[88:92] = data[92:96]
    elif damage == "other":
        data = (folder / "blk.0.attn_qkv.damp1.factor").read_bytes()
    else:
        data[0] ^= 1
    victim.write_bytes(data)
    mnt = mount(DATA / "demo-llama", f"calibration={folder}")
    with pytest.raises(OSError) as failed:
        (mnt / "demo-llama" / "tensors" / name / "spqr3").read_bytes()
    assert failed.value.errno in (errno.EIO, errno.EINVAL)
    assert any(str(victim) in line for line in mnt.lines())
    assert (mnt / "demo-llama" / "tensors" / name / "q4_k").read_bytes()


def test_calibrations_that_cannot_be_are_refused(calibration, tmp_path):
    for store, folder, reason in ((DATA, calibration, "it is of one model"),
                                  (DATA / "demo-llama", tmp_path / "none", "No such file")):
        done = subprocess.run([QUANTFS, "mount", "-f", store, tmp_path, "-o",
                               f"cache=none,calibration={folder}"], capture_output=True, check=False,
                              timeout=30)
        assert done.returncode and reason in done.stderr.decode()
