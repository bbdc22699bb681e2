# SPDX-License-Identifier: MIT
"""Guided K-quants, GPTQ and RTN in a mount, without a calibration and with one: what readers that
know the page of the format, or llama.cpp's own, make of them."""

import errno
import json
import os
import shutil

import gptq
import gguf
import models
import numpy as np
import pytest
import reference

from calibration import Calibrated, write_factor
from conftest import DATA, calibrate, convert

GUIDED = ("q5_k", "q4_k", "q3_k", "q2_k")
INPUTS = {"self_attn.q_proj": "attn_qkv", "self_attn.v_proj": "attn_qkv",
          "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate_up",
          "mlp.down_proj": "ffn_down"}
UP = "model.layers.0.mlp.up_proj.weight"


def read_gptq(folder, form, shape):
    """form: with its twin, as in rtn4-g32."""
    kind = form.removeprefix("gptq").removeprefix("rtn").removesuffix("-natural")
    return gptq.decode((folder / form).read_bytes(), kind, *shape)


def read_k(data, kind, shape):
    """By the decoders of the gguf package."""
    kind = gguf.GGMLQuantizationType[kind.upper()]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.frombuffer(data, np.uint8).reshape(shape[0], shape[1] // block * size)
    return gguf.quants.dequantize(rows, kind)


def loss(weights, told, hessian):
    """What the error does to the output, summed over rows."""
    d = (told - weights).astype(np.float64)
    return float(np.einsum("ri,ij,rj->", d, hessian, d))


def digest(path):
    return os.getxattr(path, "user.quantfs.calibration").decode()


# ---- without a calibration ----

@pytest.mark.parametrize("name", ["demo-llama", "demo-qwen2"])
def test_weights_come_back(mount, name):
    tensors, seen = mount(DATA) / name / "tensors", set()
    for tensor, weights in reference.read_model(DATA / name).items():
        for kind, (bits, group, _) in gptq.FORMATS.items():
            folder = tensors / tensor
            if weights.ndim != 2 or weights.shape[1] % group:
                assert not (folder / f"rtn{kind}").exists()
                continue
            told, scales, codes = read_gptq(folder, f"rtn{kind}", weights.shape)
            seen.add(kind)
            # the code next to each weight; half a step more is lost at the upper end of the range
            step = np.repeat(scales, group, axis=1)
            assert (np.abs(told - weights) <= step * np.where(codes == 2**bits - 1, 0.6, 0.501)).all()
            greatest = np.abs(weights.reshape(*scales.shape, group)).max(2)
            np.testing.assert_allclose(scales, 2 * greatest / (2**bits - 1), rtol=2**-11)
            for twin in (f"gptq{kind}", f"gptq{kind}-natural"):
                assert (folder / twin).read_bytes() == (folder / f"rtn{kind}").read_bytes()
        assert not any("guided" in form for form in os.listdir(tensors / tensor))
    assert seen == {kind for kind, (_, group, _) in gptq.FORMATS.items()
                    if name == "demo-llama" or group == 32}


def test_that_nothing_is_calibrated_is_told(mount):
    mnt = mount(DATA, "loglevel=info")
    folder = mnt / "demo-llama" / "tensors" / UP
    assert digest(folder / "gptq4-g128") == "none"
    for form, name in (("rtn4-g128", "calibration"), ("gptq4-g128", "reference")):
        with pytest.raises(OSError) as missing:
            os.getxattr(folder / form, f"user.quantfs.{name}")
        assert missing.value.errno == errno.ENODATA
    (folder / "rtn4-g128").read_bytes()
    assert not [line for line in mnt.lines() if "without a calibration" in line]
    for _ in range(2):
        (folder / "gptq4-g128").read_bytes()
    assert len([line for line in mnt.lines() if "without a calibration" in line]) == 1


def test_sizes_and_names(mount, calibration):
    mnt = mount(DATA / "demo-llama", f"calibration={calibration}",
                "forms=gptq3-g32:RTN8-g128:q4_k-guided:Q8_0")
    folder = mnt / "demo-llama" / "tensors" / UP
    forms = {name for name in os.listdir(folder) if not name.endswith(".png") and
             ".error." not in name}
    assert forms == {"bf16", "gptq3-g32", "rtn8-g128", "q4_k-guided", "q8_0", "info.json"}
    info = json.loads((folder / "info.json").read_text())
    for form, bpw in (("gptq3-g32", 3.5), ("rtn8-g128", 8.125), ("q4_k-guided", 4.5)):
        size = (folder / form).stat().st_size
        assert len((folder / form).read_bytes()) == size
        assert info["forms"][form] == {"bytes": size, "bpw": bpw}
    # what is no matrix of a layer has no guided form
    for other in ("lm_head.weight", "model.embed_tokens.weight"):
        assert not (mnt / "demo-llama" / "tensors" / other / "q4_k-guided").exists()
        assert (mnt / "demo-llama" / "tensors" / other / "gptq3-g32").exists()


def test_rows_too_long_for_a_tile_are_not_offered(mount, tmp_path):
    wide = 1 << 22
    folder = models.make(tmp_path / "store" / "m", hidden=64, heads=2, layers=1, ffn=wide // 32)
    path = folder / "model.safetensors"
    header, begin = reference.header(path)
    name = "model.layers.0.mlp.down_proj.weight"
    header[name]["shape"] = [2, wide]
    text = json.dumps(header).encode()
    data = path.read_bytes()[begin:]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    forms = os.listdir(mount(folder.parent) / "m" / "tensors" / name)
    assert "q4_k" in forms and "rtn3-g32" in forms and "rtn8-g128" not in forms


def test_weights_that_are_too_large_are_an_error(mount, tmp_path):
    folder = models.make(tmp_path / "store" / "m", hidden=64, heads=2, layers=1, ffn=128, dtype="F32")
    path = folder / "model.safetensors"
    header, begin = reference.header(path)
    data = bytearray(path.read_bytes())
    at = begin + header[UP]["data_offsets"][0] + (40 * 64 + 5) * 4
    data[at:at + 4] = np.float32(1e30).tobytes()
    path.write_bytes(data)
    mnt = mount(folder.parent)
    with open(mnt / "m" / "tensors" / UP / "gptq4-g32", "rb") as file:
        with pytest.raises(OSError) as failed:
            file.read()
    assert failed.value.errno == errno.EIO
    assert any(f'"{UP}", row 40, column 0: the weights are too large for the format' in line
               for line in mnt.lines())


# ---- with a calibration ----

def test_gptq_makes_outputs_better(mount, calibration):
    mnt = mount(DATA / "demo-llama", f"calibration={calibration}")
    weights_of = reference.read_model(DATA / "demo-llama")
    for matrix, name in INPUTS.items():
        tensor = f"model.layers.1.{matrix}.weight"
        folder, weights = mnt / "demo-llama" / "tensors" / tensor, weights_of[tensor]
        hessian = Calibrated(calibration / f"blk.1.{name}.hessian").matrix
        for kind in gptq.FORMATS:
            rounded, scales, _ = read_gptq(folder, f"rtn{kind}", weights.shape)
            for twin, factor in (("", "damp0.1"), ("-natural", "damp0.1.natural")):
                form = f"gptq{kind}{twin}"
                data = (calibration / f"blk.1.{name}.{factor}.factor").read_bytes()
                assert digest(folder / form) == data[-32:].hex()
                told, scales_too, _ = read_gptq(folder, form, weights.shape)
                assert (scales_too == scales).all()
                assert loss(weights, told, hessian) < 0.7 * loss(weights, rounded, hessian), form
    assert digest(mnt / "demo-llama" / "tensors" / "lm_head.weight" / "gptq4-g32") == "none"


def test_guided_makes_outputs_better(mount, calibration):
    """Of two that have the same scales and mins."""
    plain = mount(DATA / "demo-llama", f"imatrix={calibration / 'imatrix.gguf'}")
    guided = mount(DATA / "demo-llama", f"calibration={calibration}")
    weights_of = reference.read_model(DATA / "demo-llama")
    for matrix, name in INPUTS.items():
        tensor = f"model.layers.1.{matrix}.weight"
        weights = weights_of[tensor]
        hessian = Calibrated(calibration / f"blk.1.{name}.hessian").matrix
        for kind in GUIDED:
            path = guided / "demo-llama" / "tensors" / tensor / f"{kind}-guided"
            data = (calibration / f"blk.1.{name}.damp0.1.factor").read_bytes()
            assert digest(path) == data[-32:].hex()
            found = path.read_bytes()
            base = (plain / "demo-llama" / "tensors" / tensor / kind).read_bytes()
            assert len(found) == len(base)
            told, nearest = (read_k(data, kind, weights.shape) for data in (found, base))
            assert loss(weights, told, hessian) < 0.7 * loss(weights, nearest, hessian), path
            size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][1]
            fixed = [np.frombuffer(data, np.uint8).reshape(-1, size)[:, SCALES[kind]]
                     for data in (found, base)]
            assert (fixed[0] == fixed[1]).all()


# Where in a superblock its scales lie.
SCALES = {"q5_k": list(range(16)), "q4_k": list(range(16)), "q3_k": list(range(96, 110)),
          "q2_k": [*range(16), *range(80, 84)]}


def test_without_its_factor_a_guided_form_is_the_plain_one(mount, calibration, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(calibration, folder)
    (folder / "blk.0.ffn_gate_up.damp0.1.factor").unlink()
    plain = mount(DATA / "demo-llama", f"imatrix={calibration / 'imatrix.gguf'}")
    guided = mount(DATA / "demo-llama", f"calibration={folder}")
    for kind in GUIDED:
        path = guided / "demo-llama" / "tensors" / UP / f"{kind}-guided"
        assert digest(path) == "none"
        assert path.read_bytes() == (plain / "demo-llama" / "tensors" / UP / kind).read_bytes()
    # and without its matrix that of no matrix
    guided.unmount()
    (folder / "imatrix.gguf").unlink()
    guided = mount(DATA / "demo-llama", f"calibration={folder}")
    data = (guided / "demo-llama" / "tensors" / UP / "q4_k-guided").read_bytes()
    assert data == (guided / "demo-llama" / "tensors" / UP / "q4_k").read_bytes()


def test_a_damaged_importance_matrix_concerns_guided_forms_alone(mount, calibration, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(calibration, folder)
    (folder / "imatrix.gguf").write_bytes(b"GGUF")
    mnt = mount(DATA / "demo-llama", f"calibration={folder}")
    tensors = mnt / "demo-llama" / "tensors" / UP
    with pytest.raises(OSError) as failed:
        (tensors / "q4_k-guided").read_bytes()
    assert failed.value.errno in (errno.EIO, errno.EINVAL)
    assert any(str(folder / "imatrix.gguf") in line for line in mnt.lines())
    assert (tensors / "q4_k").read_bytes() and (tensors / "gptq4-g128").read_bytes()
    assert (mnt / "demo-llama" / "gguf" / "demo-llama-Q4_K_M.gguf").stat().st_size


def test_a_calibration_is_part_of_the_key(mount, model, calibration, tmp_path):
    """Its factors and its importance, in a cache that has all the others."""
    other = calibrate(model, tmp_path / "other", "--tokens", 1024)
    mixed = tmp_path / "mixed"
    shutil.copytree(calibration, mixed)
    shutil.copy(other / "imatrix.gguf", mixed)
    cache, seen = f"cache={tmp_path / 'cache'}", {}
    for folder in (None, calibration, other, mixed) * 2:
        options = [f"calibration={folder}"] if folder else []
        found = []
        for where in (cache, "cache=none"):
            mnt = mount(DATA / "demo-llama", where, *options)
            tensors = mnt / "demo-llama" / "tensors" / UP
            forms = ["gptq4-g32", "gptq4-g32-natural"] + ["q4_k-guided"] * bool(folder)
            found.append([(tensors / form).read_bytes() for form in forms])
            mnt.unmount()
        assert found[0] == found[1]
        seen[folder] = found[0]
    guided = [seen[folder][2] for folder in (calibration, other, mixed)]
    assert len(set(guided)) == 3


def test_bytes_do_not_depend_on_who_makes_them(mount, calibration, tmp_path):
    """Instruction sets, workers, and reading from behind."""
    forms = ["q3_k-guided", "gptq3-g128", "gptq8-g128-natural", "rtn4-g32"]
    found = {}
    for isa in ("c", "avx2", None):
        env = os.environ | ({"QUANTFS_ISA": isa} if isa else {})
        mnt = mount(DATA / "demo-llama", f"calibration={calibration}",
                    "workers=1" if isa == "c" else "workers=3", env=env)
        folder = mnt / "demo-llama" / "tensors" / UP
        found[isa] = [(folder / form).read_bytes() for form in forms]
    assert found["c"] == found["avx2"] == found[None]
    fresh = mount(DATA / "demo-llama", f"calibration={calibration}")
    for form, data in zip(forms, found["c"], strict=True):
        with open(fresh / "demo-llama" / "tensors" / UP / form, "rb") as file:
            parts = [os.pread(file.fileno(), 10_000, at)
                     for at in reversed(range(0, len(data), 10_000))]
        assert b"".join(reversed(parts)) == data


def test_a_gguf_file_as_a_source(mount, model, calibration):
    """Names are GGUF's there; the rows of a query are in another order, and no others."""
    folder = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama" / "tensors"
    single = mount(model, f"calibration={calibration}") / "demo-llama" / "tensors"
    for form in ("q4_k-guided", "gptq4-g128", "gptq3-g32-natural", "spqr3"):
        data = (single / "blk.0.ffn_up.weight" / form).read_bytes()
        assert data == (folder / UP / form).read_bytes()
        assert digest(single / "blk.0.ffn_up.weight" / form) == digest(folder / UP / form) != "none"


# ---- experts ----

def test_each_expert_has_inputs_of_its_own(mount, experts):
    model, calibration = experts
    plain = mount(model, f"imatrix={calibration / 'imatrix.gguf'}") / model.name / "tensors"
    mnt = mount(model, f"calibration={calibration}") / model.name / "tensors"
    weights_of, better = reference.read_model(model), 0
    matrix = {t.name: t.data for t in gguf.GGUFReader(calibration / "imatrix.gguf").tensors}
    sums, counts = (matrix[f"blk.0.ffn_gate_exps.weight.{part}"] for part in ("in_sum2", "counts"))
    for expert in range(8):
        gate, down = (f"model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight"
                      for name in ("w1", "w2"))
        hessians = [Calibrated(calibration / f"blk.0.{name}.{expert}.hessian")
                    for name in ("ffn_gate_up", "ffn_down")]
        for tensor, name, hessian, forms in (
                (gate, "ffn_gate_up", hessians[0], ("q2_k-guided", "gptq3-g32", "spqr2")),
                (down, "ffn_down", hessians[1], ("gptq4-g32", "spqr3"))):
            for form in forms:
                damping = 1 if form.startswith("spqr") else 0.1
                data = (calibration / f"blk.0.{name}.{expert}.damp{damping}.factor").read_bytes()
                assert digest(mnt / tensor / form) == data[-32:].hex()
        if not hessians[0].tokens:
            continue
        weights = weights_of[gate]
        assert (plain / gate / "q2_k").read_bytes() == reference.quantize(
            weights, "Q2_K", sums[expert] / np.float32(counts.ravel()[expert]))
        for told, nearest in (
                (read_k((mnt / gate / "q2_k-guided").read_bytes(), "q2_k", weights.shape),
                 read_k((plain / gate / "q2_k").read_bytes(), "q2_k", weights.shape)),
                (read_gptq(mnt / gate, "gptq3-g32", weights.shape)[0],
                 read_gptq(mnt / gate, "rtn3-g32", weights.shape)[0])):
            assert (loss(weights, told, hessians[0].matrix)
                    < 0.7 * loss(weights, nearest, hessians[0].matrix)), expert
        better += 1
    assert better > 2


def test_an_expert_that_no_token_chose_keeps_its_weights(mount, experts, tmp_path):
    """Nothing is known of its inputs: it is rounded as it stands."""
    model, made = experts
    folder = tmp_path / "made"
    shutil.copytree(made, folder)
    hessian = Calibrated(folder / "blk.0.ffn_down.3.hessian")
    hessian.matrix[:] = 0
    for damping, end in ((0.1, ""), (1, "")):
        write_factor(folder / f"blk.0.ffn_down.3.damp{damping}{end}.factor", hessian,
                     range(hessian.cols), damping)
    tensors = mount(model, f"calibration={folder}") / model.name / "tensors"
    plain = mount(model) / model.name / "tensors"
    name = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    for form in ("gptq4-g32", "spqr3"):
        assert digest(tensors / name / form) != "none"
        assert (tensors / name / form).read_bytes() == (plain / name / form).read_bytes()
