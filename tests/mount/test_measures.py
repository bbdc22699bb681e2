# SPDX-License-Identifier: MIT
"""Sensitivities and errors beside the forms of a tensor: pictures and figures against numpy's own,
without a calibration and with one."""

import errno
import json
import os
import subprocess

import gptq
import models
import numpy as np
import pictures
import pytest
import reference
import spqr

from calibration import Calibrated
from conftest import DATA, QUANTFS, convert

FORMS = ("q8_0", "q6_k", "q5_1", "q4_k", "iq4_nl", "q3_k", "q2_k", "spqr4", "spqr3", "spqr2")
# those of bnb/ and compressed/ are in test_hf_scaled.py
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def decoded(folder, form, shape):
    """The weights of a form, by readers that share nothing with the program."""
    packed, kind = (folder / form).read_bytes(), form.removesuffix("-guided")
    if kind.startswith("spqr"):
        return spqr.decode(packed, int(kind[4]), *shape).weights
    if kind.startswith("gptq"):
        return gptq.decode(packed, kind.removeprefix("gptq"), *shape)[0]
    return reference.dequantize(packed, kind.upper(), shape)


def check_picture(path, numbers):
    """That it shows these numbers. A number at the border of two colours may have either."""
    picture = pictures.Picture(path.read_bytes())
    shown = picture.map(numbers.shape).astype(int)
    wanted = pictures.colours(pictures.points(numbers, picture.each()))
    assert (np.abs(shown + 0.5 - wanted) <= 0.5 + 1e-3).all()
    return picture


def sensitivity(weights, inverse):
    """Rounded to 3 bits in groups of 16, from the least of each to the greatest."""
    lost = np.empty(weights.shape)
    for first in range(0, weights.shape[1], 16):
        group = weights[:, first:first + 16].astype(np.float64)
        least, greatest = group.min(1, keepdims=True), group.max(1, keepdims=True)
        scale = (greatest - least) / 7
        codes = np.rint((group - least) / np.where(scale, scale, 1))
        lost[:, first:first + 16] = group - (codes * scale + least)
    return lost ** 2 / (2 * inverse)


@pytest.mark.parametrize("name", [DOWN, EMBEDDING])
def test_errors_are_those_of_the_form(mount, name):
    weights = reference.read_model(DATA / "demo-llama")[name]
    folder = mount(DATA) / "demo-llama" / "tensors" / name
    for form in FORMS:
        told = json.loads((folder / f"{form}.error.json").read_text())
        off = np.abs(decoded(folder, form, weights.shape).astype(np.float64) - weights)
        wanted = {"format": form, "bpw": 8 * (folder / form).stat().st_size / weights.size,
                  "rms": np.sqrt(np.mean(weights.astype(np.float64) ** 2)), "mse": np.mean(off ** 2),
                  "max_error": off.max(), "weighted_loss": None}
        wanted["relative_rmse"] = np.sqrt(wanted["mse"]) / wanted["rms"]
        place = told.pop("max_error_row"), told.pop("max_error_column")
        assert off[place] == off.max()
        assert told == {key: value if isinstance(value, (str, type(None)))
                        else pytest.approx(value, rel=1e-8) for key, value in wanted.items()}, form
        picture = check_picture(folder / f"{form}.error.png", off)
        assert picture.comment.startswith(f"absolute error of {form}, log scale")


def test_sensitivity_without_a_calibration(mount):
    folder = mount(DATA) / "demo-llama" / "tensors"
    model = reference.read_model(DATA / "demo-llama")
    for name in (DOWN, EMBEDDING):
        check_picture(folder / name / "sensitivity.png", sensitivity(model[name], 1))


@pytest.fixture
def odd(tmp_path):
    """A model of which matrices have more rows, or columns, than a picture has points, and widths
    that are no multiple of a group's."""
    return models.make(tmp_path / "store" / "m", hidden=72, heads=3, kv_heads=1, head_dim=24,
                       ffn=2100, layers=1, dtype="F32")


def test_a_point_is_the_greatest_of_its_weights(mount, odd):
    tensors = mount(odd.parent) / "m" / "tensors"
    model = reference.read_model(odd)
    for matrix, each in (("gate_proj", (3, 1)), ("down_proj", (1, 3))):
        name = f"model.layers.0.mlp.{matrix}.weight"
        weights = model[name]
        picture = check_picture(tensors / name / "sensitivity.png", sensitivity(weights, 1))
        assert picture.each() == each and max(picture.pixels.shape) <= 1024
        off = np.abs(decoded(tensors / name, "spqr3", weights.shape) - weights)
        check_picture(tensors / name / "spqr3.error.png", off)


def test_sizes_are_told_before_anything_is_read(mount, odd):
    mnt = mount(odd.parent)
    seen = {path: path.stat().st_size for path in (mnt / "m" / "tensors").glob("*/*.*")
            if path.name.endswith((".png", ".error.json"))}
    assert mnt.stats()["tiles_encoded"] == 0 < len(seen)
    for path, size in seen.items():
        data = path.read_bytes()
        assert len(data) == size, path
        if path.suffix == ".png":
            assert max(pictures.Picture(data).pixels.shape) <= 1024
    # two matrices of one shape have pictures of one size
    sizes = {(path.parent.name, path.name): size for path, size in seen.items()}
    for (name, file), size in sizes.items():
        if "gate_proj" in name:
            assert size == sizes[name.replace("gate", "up"), file]


def test_parts_can_be_read_from_behind(mount):
    path = mount(DATA) / "demo-llama" / "tensors" / EMBEDDING / "q4_k.error.png"
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        tail = os.pread(file.fileno(), 5000, size - 5000)
        assert tail == file.read()[-5000:] and tail.endswith(b"IEND\xaeB`\x82")


def test_what_has_them(mount):
    """Matrices; errors of forms that lose something, and that are shown."""
    mnt = mount(DATA, "forms=spqr3:Q8_0:f16")
    folder = mnt / "demo-llama" / "tensors"
    assert set(os.listdir(folder / DOWN)) == {
        "bf16", "f16", "q8_0", "spqr3", "info.json", "sensitivity.png", "q8_0.error.png",
        "q8_0.error.json", "spqr3.error.png", "spqr3.error.json"}
    assert set(os.listdir(folder / "model.norm.weight")) == {"bf16", "info.json"}
    for hidden in ("q4_k.error.png", "f16.error.json", "bf16.error.png", "spqr3.error",
                   "sensitivity.json"):
        assert not (folder / DOWN / hidden).exists()
    assert "sensitivity.png" in os.listdir(mnt / ".quantfs" / "extents" / "demo-llama" / "tensors"
                                           / DOWN)


def test_rows_that_are_too_long_have_none(mount, tmp_path):
    (tmp_path / "s" / "m").mkdir(parents=True)
    models.write_safetensors(tmp_path / "s" / "m" / "model.safetensors",
                             {"long": ("F32", (2, 131104)), "longest": ("F32", (2, 131072))},
                             np.random.default_rng(1))
    tensors = mount(tmp_path / "s") / "m" / "tensors"
    assert not any("png" in name or "error" in name for name in os.listdir(tensors / "long"))
    weights = reference.read_model(tmp_path / "s" / "m")["longest"]
    off = np.abs(decoded(tensors / "longest", "q4_0", weights.shape) - weights)
    check_picture(tensors / "longest" / "q4_0.error.png", off)


@pytest.mark.parametrize("file", ["sensitivity.png", "q4_0.error.png", "q4_0.error.json"])
def test_weights_that_are_not_finite_are_an_error(mount, tmp_path, file):
    folder = models.make(tmp_path / "store" / "m", hidden=64, heads=2, layers=1, ffn=128, dtype="F32")
    name, path = "model.layers.0.mlp.up_proj.weight", folder / "model.safetensors"
    header, begin = reference.header(path)
    data = bytearray(path.read_bytes())
    at = begin + header[name]["data_offsets"][0] + (40 * 64 + 5) * 4
    data[at:at + 4] = np.float32(np.inf).tobytes()
    path.write_bytes(data)
    mnt = mount(folder.parent)
    for _ in range(2):
        with pytest.raises(OSError) as failed:
            (mnt / "m" / "tensors" / name / file).read_bytes()
        assert failed.value.errno == errno.EIO
    assert any(f"{file}: " in line and "row 40, column 5: the weight is not finite" in line
               for line in mnt.lines())


def test_a_matrix_of_one_value(mount, tmp_path):
    """Nothing is lost, nowhere, and numbers are numbers."""
    folder = models.make(tmp_path / "store" / "m", hidden=64, heads=2, layers=1, ffn=128, dtype="F32")
    name, path = "model.layers.0.mlp.up_proj.weight", folder / "model.safetensors"
    header, begin = reference.header(path)
    first, last = header[name]["data_offsets"]
    data = bytearray(path.read_bytes())
    data[begin + first:begin + last] = bytes(last - first)
    path.write_bytes(data)
    tensor = mount(folder.parent) / "m" / "tensors" / name
    told = json.loads((tensor / "q4_0.error.json").read_text())
    assert told["rms"] == told["mse"] == told["relative_rmse"] == told["max_error"] == 0
    for file in ("sensitivity.png", "q4_0.error.png"):
        picture = pictures.Picture((tensor / file).read_bytes())
        assert not picture.map((128, 64)).any()


# ---- with a calibration ----

@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    model = folder / "model.gguf"
    model.write_bytes(convert(DATA / "demo-llama", "BF16"))
    subprocess.run([QUANTFS.parent / "quantfs-run", "calibrate", "-q", "--text",
                    DATA / "kjv-train.txt", "--tokens", "2048", "-o", folder / "made", model],
                   check=True, timeout=300)
    return folder / "made"


def test_sensitivity_with_a_calibration(mount, calibration):
    folder = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama" / "tensors"
    model = reference.read_model(DATA / "demo-llama")
    factor = Calibrated(calibration / "blk.1.ffn_down.damp1.factor")
    inverse = np.empty(factor.cols)
    inverse[factor.order] = (factor.matrix ** 2).sum(axis=0)
    assert inverse.max() > 1.2 * inverse.min()
    check_picture(folder / DOWN / "sensitivity.png", sensitivity(model[DOWN], inverse))
    # an embedding has no input
    check_picture(folder / EMBEDDING / "sensitivity.png", sensitivity(model[EMBEDDING], 1))


def test_errors_where_columns_have_an_order(mount, calibration):
    folder = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama" / "tensors"
    weights = reference.read_model(DATA / "demo-llama")[DOWN]
    off = np.abs(decoded(folder / DOWN, "spqr3", weights.shape).astype(np.float64) - weights)
    told = json.loads((folder / DOWN / "spqr3.error.json").read_text())
    assert off[told["max_error_row"], told["max_error_column"]] == off.max()
    check_picture(folder / DOWN / "spqr3.error.png", off)


@pytest.mark.parametrize("own", [False, True])
def test_errors_are_weighted_by_importance(mount, calibration, own):
    """A calibration's own goes before another."""
    given = DATA / "demo-llama.imatrix.gguf"
    imatrix = calibration / "imatrix.gguf" if own else given
    options = [f"imatrix={given}"] + [f"calibration={calibration}"] * own
    folder = mount(DATA / "demo-llama", *options) / "demo-llama" / "tensors"
    weights = reference.read_model(DATA / "demo-llama")[DOWN]
    entries = {tensor.name: tensor.data for tensor in reference.gguf.GGUFReader(imatrix).tensors}
    name = "blk.1.ffn_down.weight"
    importance = entries[f"{name}.in_sum2"].ravel() / entries[f"{name}.counts"].ravel()
    for form in ["q4_k", "q2_k", "spqr3", "gptq4-g128"] + ["q3_k-guided"] * own:
        off = decoded(folder / DOWN, form, weights.shape).astype(np.float64) - weights
        told = json.loads((folder / DOWN / f"{form}.error.json").read_text())
        assert told["weighted_loss"] == pytest.approx((off ** 2 * importance).sum(), rel=1e-6)
        assert (folder / DOWN / f"{form}.error.json").stat().st_size == len(
            (folder / DOWN / f"{form}.error.json").read_bytes())


def test_a_damaged_factor_is_an_error(mount, calibration, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in calibration.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    victim = damaged / "blk.1.ffn_down.damp1.factor"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    mnt = mount(DATA / "demo-llama", f"calibration={damaged}")
    with pytest.raises(OSError) as failed:
        (mnt / "demo-llama" / "tensors" / DOWN / "sensitivity.png").read_bytes()
    assert failed.value.errno == errno.EIO
    assert any(str(victim) in line for line in mnt.lines())
