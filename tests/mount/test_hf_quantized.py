# SPDX-License-Identifier: MIT
"""hf/ with quantized layers: what readers of the published layouts make of a folder, against what
tensors/ has of the same weights; and which models have none."""

import json
import os
import shutil
import subprocess

import awq
import folders
import gptq
import models
import numpy as np
import pytest
import reference
import spqr

from architectures import make
from calibration import Calibrated, write_factor
from conftest import DATA, QUANTFS, convert, run
from stores import edit, listed

BITS = (3, 4, 8)
SPQR = ["spqr-3bit"]
GPTQ = [f"gptq-{bits}bit-g128{order}" for bits in BITS for order in ("", "-natural")]
RTN_AWQ = ["rtn-awq-4bit-g128"]
PLAIN = ["bf16", "f16", "f32"]
BNB, COMPRESSED = ["nf4", "nf4-dq", "int8-bnb"], ["w4a16", "w8a16"]  # test_hf_scaled.py
ALL = PLAIN + SPQR + GPTQ + RTN_AWQ + BNB + COMPRESSED


def is_layer(name):
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def half(x):
    return x.astype(np.float16)


def check_rest(folder, source, layers, own):
    """All else is in binary16, and config.json says what it said."""
    names = {name for name in source if name.removesuffix(".weight") not in layers}
    assert {name for name in folder.tensors if name.rsplit(".", 1)[0] not in layers or
            name.endswith(".bias")} == names
    for name in names:
        assert folder.tensors[name].tobytes() == half(source[name]).tobytes(), name
    config = {k: v for k, v in folder.config.items() if k != "quantization_config"}
    assert {config.pop(key) for key in ("dtype", "torch_dtype") if key in config} == {"float16"}
    original = json.loads((own / "config.json").read_text())
    assert config == {k: v for k, v in original.items() if k not in ("dtype", "torch_dtype")}


def check_spqr(mnt, model, own):
    """Returns the orders of columns."""
    folder, source, orders = folders.read(mnt / model / "hf" / "spqr-3bit"), {}, {}
    source = reference.read_model(own)
    layers = folders.spqr_layers(folder)
    assert layers == {name.removesuffix(".weight") for name in source if is_layer(name)}
    check_rest(folder, source, layers, own)
    for layer in layers:
        weights = source[f"{layer}.weight"]
        dense, outliers, order = folders.spqr_weights(folder, layer, weights.shape)
        found = np.empty_like(weights)
        found[:, order] = dense.astype(np.float32) + outliers
        packed = (mnt / model / "tensors" / f"{layer}.weight" / "spqr3").read_bytes()
        told = spqr.decode(packed, 3, *weights.shape, step=np.float16)
        assert (found == told.weights).all() and (order == told.permutation).all(), layer
        assert (outliers != 0).sum() > 0.9 * sum(told.filled)
        assert np.sqrt(np.mean((found - weights) ** 2) / np.mean(weights ** 2)) < 0.3, layer
        orders[layer] = order
    return orders


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """Of demo-llama, with factors in both orders."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "model.gguf").write_bytes(convert(DATA / "demo-llama", "BF16"))
    made = folder / "made"
    subprocess.run([QUANTFS.parent / "quantfs-run", "calibrate", "-q", "--text",
                    DATA / "kjv-train.txt", "--tokens", "1024", "--keep-hessian", "-o", made,
                    folder / "model.gguf"], check=True, timeout=300)
    for path in made.glob("*.hessian"):
        hessian = Calibrated(path)
        write_factor(path.with_suffix(".damp0.1.natural.factor"), hessian, range(hessian.cols), 0.1)
    return made


# ---- SpQR ----

def test_spqr_layers_are_those_of_tensors(mount):
    mnt = mount(DATA)
    for order in check_spqr(mnt, "demo-llama", DATA / "demo-llama").values():
        assert (order == np.arange(len(order))).all()


@pytest.mark.parametrize("sizes", [
    # an odd number of words in col_vals, in row_offsets only, in neither; columns to be padded
    {"hidden": 48, "heads": 3, "kv_heads": 1, "ffn": 80}, {"hidden": 64, "heads": 4, "ffn": 208},
    {"hidden": 112, "heads": 7, "kv_heads": 1, "ffn": 16, "tied": True}])
def test_spqr_of_any_shape(mount, tmp_path, sizes):
    own = models.make(tmp_path / "store" / "m", layers=3, dtype="F32", **sizes)
    check_spqr(mount(own.parent), "m", own)


def test_spqr_follows_the_calibration(mount, calibration):
    mnt = mount(DATA / "demo-llama", f"calibration={calibration}")
    orders = check_spqr(mnt, "demo-llama", DATA / "demo-llama")
    assert all((order != np.arange(len(order))).any() for order in orders.values())


# ---- GPTQ ----

def nearest(weights, bits):
    """What codes without feedback decode to, one scale for 128 columns."""
    groups = weights.reshape(len(weights), -1, 128)
    greatest = np.abs(groups).max(axis=2, keepdims=True)
    scale = half((greatest + greatest) / np.float32(2 ** bits - 1)).astype(np.float32)
    codes = np.clip(np.rint(groups / scale), -2 ** (bits - 1), 2 ** (bits - 1) - 1)
    return (scale * codes.astype(np.float32)).reshape(weights.shape)


def check_gptq(mnt, model, own, bits, order):
    folder = folders.read(mnt / model / "hf" / f"gptq-{bits}bit-g128{order}")
    source, layers = reference.read_model(own), folders.gptq_layers(folder, bits)
    check_rest(folder, source, layers, own)
    return {layer: (source[f"{layer}.weight"],
                    folders.gptq_weights(folder, layer, source[f"{layer}.weight"].shape, bits))
            for layer in layers}


@pytest.mark.parametrize("bits", BITS)
def test_gptq_layers_without_a_calibration(mount, bits):
    """They are rounded, then, whatever the order."""
    mnt = mount(DATA)
    for order in ("", "-natural"):
        found = check_gptq(mnt, "demo-llama", DATA / "demo-llama", bits, order)
        assert len(found) == 28
        for layer, (weights, told) in found.items():
            assert (told == nearest(weights, bits)).all(), layer


@pytest.mark.parametrize("bits", BITS)
def test_gptq_layers_are_those_of_tensors(mount, calibration, bits):
    mnt, packed = mount(DATA / "demo-llama", f"calibration={calibration}"), {}
    for order in ("", "-natural"):
        found = check_gptq(mnt, "demo-llama", DATA / "demo-llama", bits, order)
        for layer, (weights, told) in found.items():
            path = mnt / "demo-llama" / "tensors" / f"{layer}.weight" / f"gptq{bits}-g128{order}"
            packed[layer, order] = path.read_bytes()
            same, _, _ = gptq.decode(packed[layer, order], f"{bits}-g128", *weights.shape)
            assert (told == same).all() and (told != nearest(weights, bits)).any(), layer
    assert all(packed[layer, ""] != packed[layer, "-natural"] for layer in found)


def test_gptq_keeps_biases_and_what_does_not_fit(mount, tmp_path):
    own = models.make(tmp_path / "store" / "m", arch="qwen2", hidden=256, ffn=192, layers=2)
    found = check_gptq(mount(own.parent), "m", own, 4, "")
    assert {layer.split(".", 3)[3] for layer in found} == {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj"}
    for layer, (weights, told) in found.items():
        assert (told == nearest(weights, 4)).all(), layer


# ---- AWQ without a calibration ----

def check_rtn_awq(mnt, model, own):
    folder = folders.read(mnt / model / "hf" / "rtn-awq-4bit-g128")
    source, layers = reference.read_model(own), folders.awq_layers(folder)
    check_rest(folder, source, layers, own)
    for layer in layers:
        weights = source[f"{layer}.weight"]
        told, codes = folders.awq_weights(folder, layer, weights.shape)
        wanted, _, _, wanted_codes = awq.quantize(weights)
        assert (codes == wanted_codes).all() and (told == wanted).all(), layer
        packed = (mnt / model / "tensors" / f"{layer}.weight" / "rtn-awq4-g128").read_bytes()
        assert (awq.decode(packed, *weights.shape)[0] == told).all(), layer
    return layers


@pytest.mark.parametrize("given", [False, True])
def test_awq_layers_without_scales(mount, calibration, given):
    """They are rounded, whatever else is known of their inputs, and there is nothing else."""
    mnt = mount(DATA / "demo-llama", *[f"calibration={calibration}"] * given)
    assert len(check_rtn_awq(mnt, "demo-llama", DATA / "demo-llama")) == 28
    hf = mnt / "demo-llama" / "hf"
    assert not (hf / "awq-4bit-g128").exists()
    path = hf / "rtn-awq-4bit-g128" / "model.safetensors"
    assert os.getxattr(path, "user.quantfs.calibration") == b"none"


def test_awq_keeps_biases_and_what_does_not_fit(mount, tmp_path):
    own = models.make(tmp_path / "store" / "m", arch="qwen2", hidden=256, ffn=192, layers=2)
    layers = check_rtn_awq(mount(own.parent), "m", own)
    assert {layer.split(".", 3)[3] for layer in layers} == {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj"}


# ---- reading ----

@pytest.mark.parametrize("form", ["spqr-3bit", "gptq-3bit-g128", "gptq-8bit-g128",
                                  "rtn-awq-4bit-g128"])
def test_any_range(mount, tall, form):
    name = f"tall/hf/{form}/model.safetensors"
    whole = (mount(tall.store) / name).read_bytes()
    folders.check_any_range(mount(tall.store, "memory=16M") / name, whole)


@pytest.mark.parametrize("form, packed", [
    ("spqr-3bit", "spqr3"), ("gptq-4bit-g128", "gptq4-g128"), ("rtn-awq-4bit-g128", "rtn-awq4-g128")])
def test_every_tile_is_made_once(mount, tall, form, packed):
    """Reading a folder's weights makes what reading each of its tensors makes, and no more."""
    mine, theirs = mount(tall.store), mount(tall.store)
    (mine / "tall" / "hf" / form / "model.safetensors").read_bytes()
    for name in reference.read_model(tall.store / "tall"):
        kind = packed if is_layer(name) else "f16"
        if (theirs / "tall" / "tensors" / name / kind).exists():
            (theirs / "tall" / "tensors" / name / kind).read_bytes()
    small = sum(not is_layer(name) and x.ndim == 1
                for name, x in reference.read_model(tall.store / "tall").items())
    assert mine.stats()["tiles_encoded"] == theirs.stats()["tiles_encoded"] + small


def test_a_page_of_spqr_makes_a_tile(mount, tall):
    mnt = mount(tall.store)
    path = mnt / "tall" / "hf" / "spqr-3bit" / "model.safetensors"
    path.stat()
    assert mnt.stats()["tiles_encoded"] == 0
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert len(os.pread(fd, 4096, 1_000_000)) == 4096
    os.close(fd)
    assert 1 <= mnt.stats()["tiles_encoded"] <= 2


@pytest.mark.parametrize("form", [*SPQR, *GPTQ, *RTN_AWQ])
def test_a_folder_and_its_gguf_have_the_same_weights(mount, tmp_path, form):
    """Row orders and names are brought back before anything is packed."""
    (tmp_path / "demo-llama.gguf").write_bytes(convert(DATA / "demo-llama", "BF16"))
    name = f"demo-llama/hf/{form}/model.safetensors"
    mine = mount(tmp_path / "demo-llama.gguf") / name
    assert mine.read_bytes() == (mount(DATA) / name).read_bytes()
    config = json.loads((mine.parent / "config.json").read_text())
    assert config["quantization_config"] == json.loads(
        (mount(DATA) / f"demo-llama/hf/{form}/config.json").read_text())["quantization_config"]


# ---- what is not offered ----

def refusals(mnt, store, model):
    """method -> why, told by ls in both its forms; what is not refused is there."""
    entry = listed(store)[model]
    text = run("ls", store).stdout
    for method, reason in entry["hf_refused"].items():
        folders = method if method in BNB + COMPRESSED else f"{method}-*"
        assert f"  no hf/{folders}: {reason}\n" in text
    there = sorted(os.listdir(mnt / model / "hf"))
    assert there == sorted(entry["hf"])
    shown = {"spqr": SPQR, "gptq": GPTQ, "awq": RTN_AWQ} | {
        form: [form] for form in BNB + COMPRESSED}
    assert there == sorted(sum((forms for method, forms in shown.items()
                                if method not in entry["hf_refused"]), PLAIN))
    return entry["hf_refused"]


def old(refused):
    """Those of SpQR, GPTQ and AWQ."""
    return {method: reason for method, reason in refused.items() if method in ("spqr", "gptq", "awq")}


def test_the_demo_models(mount):
    mnt = mount(DATA)
    assert sorted(os.listdir(mnt / "demo-llama" / "hf")) == sorted(ALL)
    assert sorted(os.listdir(mnt / "demo-qwen2" / "hf")) == sorted(PLAIN + BNB + ["w8a16"])
    assert refusals(mnt, DATA, "demo-llama") == {}
    assert old(refusals(mnt, DATA, "demo-qwen2")) == {
        "spqr": 'tensor "model.layers.0.self_attn.k_proj.bias": the loader knows no biases',
        "gptq": 'tensor "model.layers.0.self_attn.k_proj.weight": its width is no multiple of 128, '
                "GPTQ's group",
        "awq": 'tensor "model.layers.0.self_attn.k_proj.weight": its width is no multiple of 128, '
               "AWQ's group"}


@pytest.mark.parametrize("sizes, method, tensor, reason", [
    ({"hidden": 72, "heads": 3}, "spqr", "attn.k_proj.weight", "no multiples of 16"),
    ({"hidden": 64, "ffn": 23504}, "spqr", "mlp.down_proj.weight", "shared memory"),
    ({"hidden": 256, "heads": 4, "kv_heads": 1, "head_dim": 24}, "spqr", "k_proj.weight",
     "no multiples of 16"),
    ({"hidden": 64, "ffn": 192}, "gptq", "attn.k_proj.weight", "width is no multiple of 128"),
    ({"hidden": 128, "heads": 1, "kv_heads": 1, "head_dim": 16, "ffn": 16}, "gptq",
     "attn.k_proj.weight", "rows are no multiple of 32"),
    ({"hidden": 64, "ffn": 192}, "awq", "attn.k_proj.weight", "width is no multiple of 128"),
    ({"hidden": 128, "heads": 1, "kv_heads": 1, "head_dim": 4, "ffn": 4}, "awq",
     "attn.k_proj.weight", "rows are no multiple of 8"),
])
def test_shapes_that_no_kernel_takes(mount, tmp_path, sizes, method, tensor, reason):
    own = models.make(tmp_path / "store" / "m", **{"layers": 1, "heads": 4, **sizes})
    found = refusals(mount(own.parent), own.parent, "m")[method]
    assert f'{tensor}"' in found and reason in found


def test_the_widest_rows_are_taken(mount, tmp_path):
    own = models.make(tmp_path / "store" / "m", hidden=64, heads=4, ffn=23488, layers=1)
    assert "spqr" not in refusals(mount(own.parent), own.parent, "m")


def test_layers_unlike_each_other(mount, tmp_path):
    """A loader names layers by their role."""
    own = models.make(tmp_path / "store" / "m", hidden=256, layers=2)
    path = own / "model.safetensors"
    header, begin = reference.header(path)
    data = path.read_bytes()[begin:]
    name = "model.layers.1.mlp.down_proj.weight"
    header[name]["shape"] = [512, 256]  # as many weights
    name = "model.layers.1.mlp.up_proj.weight"
    header[name]["shape"] = [2048, 64]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = refusals(mount(own.parent), own.parent, "m")
    assert set(found) == {"gptq", "awq", "w4a16"}
    assert all(name in found[method] and "another layer" in found[method]
               for method in ("gptq", "awq"))


def test_experts_are_refused(mount, tmp_path):
    own = make(tmp_path / "store" / "m", "Mixtral-8x7B-v0.1")
    found = refusals(mount(own.parent), own.parent, "m")
    assert set(found) == {"spqr", "gptq", "awq", *BNB, *COMPRESSED}
    assert all("experts are no linear layers" in reason for reason in found.values())


def test_a_part_of_a_larger_model_is_refused(mount, tmp_path):
    own = make(tmp_path / "store" / "m", "gemma-3-4b-it")
    found = refusals(mount(own.parent), own.parent, "m")
    assert set(found) == {"spqr", "gptq", "awq", *BNB, *COMPRESSED}
    assert all("another name in transformers" in reason for reason in found.values())


def test_without_a_mapping_there_are_plain_types(mount, tmp_path):
    shutil.copytree(DATA / "demo-llama", tmp_path / "store" / "m")
    edit(tmp_path / "store" / "m", architectures=["SomethingNew"])
    assert sorted(os.listdir(mount(tmp_path / "store") / "m" / "hf")) == PLAIN


def test_shown_by_request(mount):
    shown = {"spqr3": SPQR, "f16": ["f16"], "gptq4-g128": ["gptq-4bit-g128"],
             "rtn-awq4-g128": RTN_AWQ,
             "nf4": ["nf4", "nf4-dq"], "int8:w4a16-g128": ["int8-bnb", "w4a16"], "w8a16": ["w8a16"],
             "spqr3:gptq8-g128-natural:bf16": ["bf16", "gptq-8bit-g128-natural", "spqr-3bit"]}
    for forms, names in shown.items():
        assert sorted(os.listdir(mount(DATA, f"forms={forms}") / "demo-llama" / "hf")) == names


def test_formats_names_every_folder():
    told = {f["name"]: f for f in json.loads(run("formats", "--json").stdout)["folders"]}
    assert sorted(told) == sorted(ALL + ["awq-4bit-g128"])
    assert told["gptq-3bit-g128-natural"] == {
        "name": "gptq-3bit-g128-natural", "method": "gptq", "layers": "gptq3-g128-natural",
        "rest": "f16"}
    assert told["bf16"] == {"name": "bf16", "method": None, "layers": "bf16", "rest": "bf16"}
    text = run("formats").stdout.split("folders for transformers")[1]
    assert all(f"  {name} " in text for name in told)


def test_xattrs_and_the_log(mount):
    mnt = mount(DATA, "loglevel=info")
    path = mnt / "demo-llama" / "hf" / "spqr-3bit" / "model.safetensors"
    assert os.getxattr(path, "user.quantfs.format") == b"spqr-3bit"
    for form in (*SPQR, *GPTQ, *RTN_AWQ):
        (mnt / "demo-llama" / "hf" / form / "model.safetensors").read_bytes()
    assert len([line for line in mnt.lines() if "without a calibration" in line]) == 1
