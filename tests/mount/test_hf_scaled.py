# SPDX-License-Identifier: MIT
"""hf/ as bitsandbytes and compressed-tensors load it: every byte of the weights against what
independent encoders make of the source, what config.json says, and what a read makes."""

import json
import os
import struct

import bnb
import compressed
import folders
import models
import numpy as np
import pytest
import reference

from conftest import DATA, convert, run
from stores import listed

BNB = ("nf4", "nf4-dq", "int8-bnb")
COMPRESSED = ("w4a16", "w8a16")
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def is_layer(name):
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def read(path):
    """(name -> (type, shape, bytes) in the order of their places, the whole file)"""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header, end, found = json.loads(data[8:8 + size]), 0, {}
    assert size % 8 == 0 and header.pop("__metadata__") == {"format": "pt"}
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        entry = header[name]
        first, last = entry["data_offsets"]
        assert first == end and first % SIZES[entry["dtype"]] == 0, name
        assert last - first == np.prod(entry["shape"], dtype=int) * SIZES[entry["dtype"]], name
        found[name] = entry["dtype"], tuple(entry["shape"]), data[8 + size + first:8 + size + last]
        end = last
    assert 8 + size + end == len(data) == path.stat().st_size
    return found, data


TYPES = {np.dtype(np.uint8): "U8", np.dtype(np.int8): "I8", np.dtype(np.int32): "I32",
         np.dtype(np.int64): "I64", np.dtype(np.float32): "F32"}


def expected_tensors(form, weights, dtype):
    """What stands for a layer's weight."""
    if form.startswith("nf4"):
        return bnb.nf4_tensors(compressed.rounded(weights, dtype), TORCH[dtype], form == "nf4-dq")
    if form == "int8-bnb":
        return bnb.int8_tensors(compressed.rounded(weights, dtype))
    make = compressed.w4_tensors if form == "w4a16" else compressed.w8_tensors
    return make(weights, dtype)


def quantizes(form, weights):
    return form != "w4a16" or weights.shape[1] % 128 == 0


def expected(form, source, dtype):
    """name -> (type, shape, bytes) of all of the folder."""
    found = {}
    for name, weights in source.items():
        if not is_layer(name) or not quantizes(form, weights):
            found[name] = dtype, weights.shape, compressed.stored(
                compressed.rounded(weights, dtype), dtype).tobytes()
            continue
        for part, x in expected_tensors(form, weights, dtype).items():
            kind = dtype if part == "weight_scale" else TYPES[x.dtype]
            found[name.removesuffix("weight") + part] = kind, x.shape, x.tobytes()
    return found


def check_config(folder, form, source, dtype):
    config = json.loads((folder / "config.json").read_text())
    assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {TORCH[dtype]}
    told = config["quantization_config"]
    if form in BNB:
        four = form != "int8-bnb"
        assert told.pop("quant_method") == "bitsandbytes"
        assert (told.pop("load_in_4bit"), told.pop("load_in_8bit")) == (four, not four)
        assert told.pop("llm_int8_threshold") == 6.0 and told.pop("llm_int8_skip_modules") is None
        assert not told.pop("llm_int8_enable_fp32_cpu_offload")
        assert not told.pop("llm_int8_has_fp16_weight")
        assert told == ({} if not four else {
            "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": form == "nf4-dq",
            "bnb_4bit_compute_dtype": TORCH[dtype], "bnb_4bit_quant_storage": "uint8"})
        return
    layout = "pack-quantized" if form == "w4a16" else "int-quantized"
    kept = [name.removesuffix(".weight") for name, x in source.items()
            if is_layer(name) and not quantizes(form, x)]
    assert sorted(told.pop("ignore")) == sorted(["lm_head", *kept])
    assert told == {
        "quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
        "kv_cache_scheme": None, "global_compression_ratio": None,
        "config_groups": {"group_0": {
            "format": layout, "targets": ["Linear"], "input_activations": None,
            "output_activations": None, "weights": {
                "num_bits": 4 if form == "w4a16" else 8, "type": "int", "symmetric": True,
                "strategy": "group" if form == "w4a16" else "channel",
                "group_size": 128 if form == "w4a16" else None, "dynamic": False}}}}


def check(mnt, model, own, form, dtype="BF16"):
    source = reference.read_model(own)
    folder = mnt / model / "hf" / form
    found, whole = read(folder / "model.safetensors")
    told = expected(form, source, dtype)
    assert set(found) == set(told)
    for name, (kind, shape, data) in told.items():
        assert found[name][:2] == (kind, shape), name
        assert found[name][2] == data, name
    check_config(folder, form, source, dtype)
    return whole


# ---- every byte ----

@pytest.mark.parametrize("model, form", [
    *(("demo-llama", form) for form in (*BNB, *COMPRESSED)),
    *(("demo-qwen2", form) for form in (*BNB, "w8a16"))])
def test_folders(mount, model, form):
    check(mount(DATA), model, DATA / model, form)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("form", [*BNB, *COMPRESSED])
def test_types(mount, tmp_path, dtype, form):
    """Halves stay what they are. Floats become BF16 before NF4 and INT8; compressed-tensors has
    arithmetic of their own."""
    own = models.make(tmp_path / "store" / "m", hidden=256, ffn=384, layers=2, dtype=dtype)
    kept = dtype if dtype == "F16" or form in COMPRESSED else "BF16"
    check(mount(own.parent), "m", own, form, kept)


@pytest.mark.parametrize("form", [*BNB, "w8a16"])
@pytest.mark.parametrize("sizes", [
    # blocks of 64 that run over rows; a short last one; odd numbers of bytes and of scales
    {"hidden": 72, "heads": 3, "kv_heads": 1, "head_dim": 24, "ffn": 104},
    {"hidden": 80, "heads": 5, "kv_heads": 5, "head_dim": 2, "ffn": 21},
    {"hidden": 6, "heads": 3, "kv_heads": 1, "head_dim": 2, "ffn": 3},
])
def test_any_shape(mount, tmp_path, form, sizes):
    own = models.make(tmp_path / "store" / "m", layers=2, dtype="F32", **sizes)
    check(mount(own.parent), "m", own, form, "F32" if form in COMPRESSED else "BF16")


def test_layers_that_groups_do_not_divide_are_ignored(mount, tmp_path):
    own = models.make(tmp_path / "store" / "m", arch="qwen2", hidden=256, ffn=192, layers=2)
    check(mount(own.parent), "m", own, "w4a16")


def test_zeros(mount, tmp_path):
    """Blocks, rows and matrices of nothing."""
    own = models.make(tmp_path / "store" / "m", hidden=256, ffn=256, layers=1)
    path = own / "model.safetensors"
    header, begin = reference.header(path)
    data = bytearray(path.read_bytes())
    for name, share in (("q_proj", 1), ("o_proj", 0.5), ("down_proj", 0.013)):
        (entry,) = (e for key, e in header.items() if f"{name}.weight" in key)
        first, last = entry["data_offsets"]
        n = int((last - first) // 2 * share) * 2
        data[begin + first:begin + first + n] = bytes(n)
    path.write_bytes(data)
    mnt = mount(own.parent)
    for form in (*BNB, *COMPRESSED):
        check(mnt, "m", own, form)


@pytest.mark.parametrize("form", [*BNB, *COMPRESSED])
def test_a_folder_and_its_gguf_have_the_same_weights(mount, tmp_path, form):
    (tmp_path / "demo-llama.gguf").write_bytes(convert(DATA / "demo-llama", "BF16"))
    name = f"demo-llama/hf/{form}/model.safetensors"
    mine = mount(tmp_path / "demo-llama.gguf") / name
    assert mine.read_bytes() == (mount(DATA) / name).read_bytes()


def test_what_comes_back(mount):
    """Roughly the source, by what the loaders compute."""
    source, folder = reference.read_model(DATA / "demo-llama"), mount(DATA) / "demo-llama" / "hf"
    back = {"nf4": bnb.nf4_weights, "nf4-dq": bnb.nf4_weights, "int8-bnb": bnb.int8_weights,
            "w4a16": lambda t: compressed.w4_weights(t, "BF16"),
            "w8a16": lambda t: compressed.w8_weights(t, "BF16")}
    limits = {"nf4": 0.1, "nf4-dq": 0.1, "int8-bnb": 0.02, "w4a16": 0.2, "w8a16": 0.02}
    kinds = {name: dtype for dtype, name in TYPES.items()} | {"BF16": np.dtype(np.uint16)}
    for form, weights_of in back.items():
        found, _ = read(folder / form / "model.safetensors")
        for name in filter(is_layer, source):
            base = name.removesuffix("weight")
            parts = {key.removeprefix(base): np.frombuffer(data, kinds[kind]).reshape(shape)
                     for key, (kind, shape, data) in found.items() if key.startswith(base)}
            lost = weights_of(parts) - source[name]
            assert np.sqrt(np.mean(lost ** 2) / np.mean(source[name] ** 2)) < limits[form], name


# ---- reading ----

@pytest.mark.parametrize("form", [*BNB, *COMPRESSED])
def test_any_range(mount, tall, form):
    name = f"tall/hf/{form}/model.safetensors"
    whole = check(mount(tall.store), "tall", tall.store / "tall", form)
    folders.check_any_range(mount(tall.store, "memory=16M") / name, whole)


def page(path, name, at=0, size=4096):
    """A read of some of a tensor, and of nothing around it."""
    with open(path, "rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_size))
    first = 8 + header_size + header[name]["data_offsets"][0] + at
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    data = os.pread(fd, size, first)
    os.close(fd)
    return data


GATE = "model.layers.0.mlp.gate_proj."


@pytest.mark.parametrize("form, part", [
    *((form, "weight") for form in (*BNB, "w8a16")), ("w4a16", "weight_packed"),
    ("nf4", "weight.absmax"), ("int8-bnb", "SCB")])
def test_a_page_makes_a_tile(mount, tall, form, part):
    """Also of weights whose absmax is quantized by what all of them tell."""
    mnt = mount(tall.store)
    path = mnt / "tall" / "hf" / form / "model.safetensors"
    page(path, "model.norm.weight", size=2)
    before = mnt.stats()["tiles_encoded"]
    assert len(page(path, GATE + part, 8192 if part != "SCB" else 0)) == 4096
    assert 1 <= mnt.stats()["tiles_encoded"] - before <= 2


def tiles_had(mnt):
    stats = mnt.stats()
    return stats["tiles_encoded"] + stats["tiles_loaded"]


def test_the_mean_is_made_once(mount, tall, tmp_path):
    """By one pass over the tiles that weights are shown from, too. From then on a page of absmax
    takes no more than what it is made of, also where there is only the mean in the cache."""
    cache, part = tmp_path / "cache", GATE + "weight.absmax"
    mnt = mount(tall.store)
    (mnt / "tall" / "tensors" / tall.TENSOR / "nf4").read_bytes()
    assert tiles_had(mnt) == 3
    for known in (False, True):
        mnt = mount(tall.store, f"cache={cache}")
        path = mnt / "tall" / "hf" / "nf4-dq" / "model.safetensors"
        page(path, "model.norm.weight", size=2)
        before = tiles_had(mnt)
        data = page(path, part, at=32768)
        had = tiles_had(mnt) - before
        assert 1 <= had <= 2 if known else 3 <= had <= 4
        assert page(path, part, at=32768) == data and tiles_had(mnt) - before == had
        mnt.unmount()
        for file in cache.rglob("*"):
            if file.is_file() and file.stat().st_size > 10_000:
                file.unlink()


def test_formats_share_tiles(mount, tall):
    """A folder's layers are what tensors/ has, so nothing is made twice."""
    mnt = mount(tall.store)
    for form, packed in (("nf4-dq", "nf4"), ("nf4", "nf4"), ("int8-bnb", "int8"),
                         ("w4a16", "w4a16-g128"), ("w8a16", "w8a16")):
        read(mnt / "tall" / "hf" / form / "model.safetensors")
        before = mnt.stats()["tiles_encoded"]
        for name in reference.read_model(tall.store / "tall"):
            if is_layer(name):
                (mnt / "tall" / "tensors" / name / packed).read_bytes()
        assert mnt.stats()["tiles_encoded"] == before, form


# ---- tensors/ ----

@pytest.mark.parametrize("dtype, suffix", [("BF16", ""), ("F16", "-f16"), ("F32", "-f32")])
def test_tensors(mount, tmp_path, dtype, suffix):
    own = models.make(tmp_path / "store" / "m", hidden=256, ffn=384, layers=1, dtype=dtype)
    mnt, source = mount(own.parent), reference.read_model(own)
    for name in filter(is_layer, source):
        folder, weights = mnt / "m" / "tensors" / name, source[name]
        assert {f for f in os.listdir(folder) if f.startswith(("w4a16", "w8a16")) and
                "." not in f} == {f"w4a16-g128{suffix}", f"w8a16{suffix}"}
        for form, told in (("nf4", bnb.nf4_packed(weights)), ("int8", bnb.int8_packed(weights)),
                           (f"w4a16-g128{suffix}", compressed.packed(weights, 4, dtype)),
                           (f"w8a16{suffix}", compressed.packed(weights, 8, dtype))):
            assert (folder / form).read_bytes() == told, (name, form)
            assert (folder / form).stat().st_size == len(told)


def test_errors(mount):
    """<format>.error.json against what independent decoders make of the bytes."""
    name = "model.layers.0.mlp.down_proj.weight"
    weights = reference.read_model(DATA / "demo-llama")[name]
    folder = mount(DATA) / "demo-llama" / "tensors" / name
    for form, back in {
            "nf4": bnb.nf4_weights(bnb.nf4_tensors(weights, "float32")),
            "int8": bnb.int8_weights(bnb.int8_tensors(weights)),
            "w4a16-g128": compressed.w4_weights(compressed.w4_tensors(weights, "BF16"), "BF16"),
            "w8a16": compressed.w8_weights(compressed.w8_tensors(weights, "BF16"), "BF16")}.items():
        told = json.loads((folder / f"{form}.error.json").read_text())
        lost = (back - weights).astype(np.float64)
        assert told["format"] == form
        assert told["mse"] == pytest.approx(np.mean(lost ** 2), rel=1e-6)
        assert told["max_error"] == pytest.approx(np.abs(lost).max(), rel=1e-6)
        assert told["bpw"] == pytest.approx(8 * (folder / form).stat().st_size / weights.size)
        assert (folder / f"{form}.error.png").read_bytes().startswith(b"\x89PNG")


def test_too_large_for_half(mount, tmp_path):
    """LLM.int8 has weights in binary16; what that cannot hold is an error, and says which."""
    own = models.make(tmp_path / "store" / "m", hidden=256, ffn=256, layers=1)
    path = own / "model.safetensors"
    header, begin = reference.header(path)
    data = bytearray(path.read_bytes())
    name = "model.layers.0.mlp.up_proj.weight"
    at = begin + header[name]["data_offsets"][0] + 2 * 300
    data[at:at + 2] = struct.pack("<H", 0x4780)  # 65536
    path.write_bytes(data)
    mnt = mount(own.parent)
    with pytest.raises(OSError):
        (mnt / "m" / "tensors" / name / "int8").read_bytes()
    assert any(f'"{name}", row 1, column 44: the weight is too large' in line
               for line in mnt.lines())
    check(mnt, "m", own, "nf4")
    check(mnt, "m", own, "w8a16")


def test_no_calibration_is_missed(mount):
    mnt = mount(DATA, "loglevel=info")
    for form in (*BNB, *COMPRESSED):
        path = mnt / "demo-llama" / "hf" / form / "model.safetensors"
        assert os.getxattr(path, "user.quantfs.format") == form.encode()
        assert "user.quantfs.calibration" not in os.listxattr(path)
        path.read_bytes()
    assert not any("without a calibration" in line for line in mnt.lines())


# ---- what is not offered ----

def test_what_no_group_divides(mount):
    told = listed(DATA)["demo-qwen2"]
    assert "w4a16" not in told["hf"] and set(BNB) < set(told["hf"])
    assert told["hf_refused"]["w4a16"] == (
        'tensor "model.layers.0.self_attn.k_proj.weight": its width is no multiple of 128, the '
        "group of w4a16")
    assert "  no hf/w4a16: " in run("ls", DATA).stdout


def test_formats_are_told():
    told = json.loads(run("formats", "--json").stdout)
    found = {f["name"]: f for f in told["scaled"]}
    assert found["nf4"] == {"name": "nf4", "block_weights": 64, "block_bytes": 36, "row_bytes": 0,
                            "bpw": 4.5, "type": None}
    assert found["w8a16-f32"]["row_bytes"] == 4 and found["w8a16-f32"]["type"] == "f32"
    assert found["w4a16-g128"]["bpw"] == 4.125
    text = run("formats").stdout
    assert all(f"  {name} " in text for name in found)
