# SPDX-License-Identifier: MIT
"""What weights come in beside plain safetensors: GGUF, also quantized, torch's zip archives, and
8-bit floats with scales. The same weights give the same bytes; what cannot be read is named."""

import collections
import hashlib
import json
import os
import pickle
import shutil
import zipfile

import gguf
import numpy as np
import pytest

import models
import reference
import torchfile
from conftest import DATA, convert, run
from stores import edit, listed

DEMOS = ("demo-llama", "demo-qwen2")
QUANTIZED = "Q8_0 Q6_K Q5_K_M Q5_1 Q5_0 Q4_K_M Q4_1 Q4_0 IQ4_NL Q3_K_M Q2_K".split()


def refused(source, *args):
    """What convert says of a source that it does not take."""
    done = run("convert", source, "-t", "Q8_0", "-o", source.parent / "out.gguf", *args,
               check=False)
    assert done.returncode == 2 and not (source.parent / "out.gguf").exists()
    return done.stderr


# ---- GGUF ----

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A store with the demo models as GGUF files, in their own type."""
    base = tmp_path_factory.mktemp("files")
    for name in DEMOS:
        run("convert", DATA / name, "-t", "BF16", "-o", base / f"{name}.gguf")
    return base


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_file_is_as_good_as_its_folder(mount, files, oracle, tmp_path, version):
    store = tmp_path / "store"
    shutil.copytree(files, store)
    for path in store.iterdir():
        with open(path, "r+b") as file:
            file.seek(4)
            file.write(bytes([version]))
    mnt = mount(store)
    for model in DEMOS:
        for recipe in ("Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K", "BF16", "F32"):
            found = (mnt / model / "gguf" / f"{model}-{recipe}.gguf").read_bytes()
            assert hashlib.sha256(found).hexdigest() == oracle[model][recipe]["sha256"], recipe
            if version == 2:
                assert found == convert(store / f"{model}.gguf", recipe)


def test_tensors_of_a_gguf_file_carry_its_names(mount, files):
    mnt = mount(files)
    for model in DEMOS:
        tensors = gguf.GGUFReader(files / f"{model}.gguf").tensors
        assert set(os.listdir(mnt / model / "tensors")) == {t.name for t in tensors}
        for t in tensors:
            folder, kind = mnt / model / "tensors" / t.name, t.tensor_type.name.lower()
            assert (folder / kind).read_bytes() == t.data.tobytes()
        folder, weights = mnt / model / "tensors", reference.read_model(DATA / model)
        assert (folder / "blk.1.ffn_down.weight" / "q5_0").read_bytes() == reference.quantize(
            weights["model.layers.1.mlp.down_proj.weight"], "Q5_0")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A store of GGUF files, one for each recipe."""
    base = tmp_path_factory.mktemp("quantized")
    for recipe in QUANTIZED:
        run("convert", DATA / "demo-llama", "-t", recipe, "-o", base / f"{recipe}.gguf")
    return base


def test_quantized_tensors_are_shown_as_they_are(mount, quantized):
    """The stored type, and plain floats made of it; no other format, no recipe."""
    mnt, seen = mount(quantized), set()
    for recipe, model in listed(quantized).items():
        assert model["state"] == "refused" and "quantized already" in model["problem"]
        assert sorted(os.listdir(mnt / recipe)) == ["hf", "original", "tensors"]
        for t in gguf.GGUFReader(quantized / f"{recipe}.gguf").tensors:
            folder, kind = mnt / recipe / "tensors" / t.name, t.tensor_type.name
            assert (folder / kind.lower()).read_bytes() == t.data.tobytes()
            if kind == "F32" or kind in seen:
                continue
            seen.add(kind)
            assert set(os.listdir(folder)) == {kind.lower(), "f32", "f16", "bf16", "info.json",
                                               "sensitivity.png"}
            shape = t.shape[::-1].tolist()
            x = reference.dequantize(t.data.tobytes(), kind, shape)
            assert (folder / "f32").read_bytes() == x.tobytes(), kind
            assert (folder / "f16").read_bytes() == x.astype(np.float16).tobytes(), kind
    assert seen == {"Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL",
                    "Q3_K", "Q2_K"}


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q5_0"])
def test_requantizing_is_encoding_what_was_decoded(mount, quantized, tmp_path, recipe):
    mnt = mount(quantized, "requantize")
    for source in QUANTIZED:
        path = quantized / f"{source}.gguf"
        out = mnt / source / "gguf" / f"{source}-{recipe}.gguf"
        stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
        made = gguf.GGUFReader(out).tensors
        assert {t.name for t in made} == set(stored)
        for t in made:
            before, kind = stored[t.name], t.tensor_type.name
            expected = before.data.tobytes()
            if kind != before.tensor_type.name:
                shape = before.shape[::-1].tolist()
                x = reference.dequantize(expected, before.tensor_type.name, shape)
                expected = reference.quantize(x, kind)
            assert t.data.tobytes() == expected, (source, t.name, kind)
    assert convert(path, recipe, "--allow-requantize") == out.read_bytes()
    assert "quantized already" in refused(shutil.copy(path, tmp_path / "m.gguf"))
    assert {m["state"] for m in listed(mnt.point).values()} == {"ready"}


# ---- torch ----

def tensors_of(path):
    """name -> (dtype, shape, bytes) of a safetensors file."""
    entries, begin = reference.header(path)
    data = path.read_bytes()[begin:]
    return {name: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])])
            for name, e in entries.items() if name != "__metadata__"}


def to_torch(folder, name="pytorch_model.bin"):
    """Writes a folder's weights anew, every file as one of torch."""
    index = folder / "model.safetensors.index.json"
    for path in sorted(folder.glob("*.safetensors")):
        torchfile.write(folder / path.name.replace("model", "pytorch_model")
                        .replace(".safetensors", ".bin") if index.exists() else folder / name,
                        collections.OrderedDict((key, torchfile.tensor(*t))
                                                for key, t in tensors_of(path).items()))
        path.unlink()
    if index.exists():
        (folder / "pytorch_model.bin.index.json").write_text(
            index.read_text().replace("model-0", "pytorch_model-0").replace(".safetensors", ".bin"))
        index.unlink()
    return folder


@pytest.mark.parametrize("model, name", [
    ("demo-llama", "pytorch_model.bin"), ("demo-llama", "model.pt"), ("demo-llama", "a.pth"),
    ("demo-qwen2", "")])
def test_torch_files_are_as_good_as_safetensors(mount, store, oracle, model, name):
    folder = to_torch(store / model, name)
    assert not list(folder.glob("*.safetensors*"))
    mnt = mount(store)
    for recipe in ("Q4_K_M", "BF16"):
        found = (mnt / model / "gguf" / f"{model}-{recipe}.gguf").read_bytes()
        assert hashlib.sha256(found).hexdigest() == oracle[model][recipe]["sha256"]
        assert convert(folder, recipe) == found
    for tensor in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        place = mnt / model / "tensors" / tensor
        (kind,) = {p.name for p in place.iterdir()} & {"bf16"}
        whole = mount(DATA) / model / "tensors" / tensor
        assert (place / kind).read_bytes() == (whole / kind).read_bytes()


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_every_float_of_torch(tmp_path, dtype):
    folder = models.make(tmp_path / "m", dtype=dtype, hidden=64, ffn=96, layers=1)
    expected = convert(folder, "Q8_0")
    assert convert(to_torch(folder), "Q8_0") == expected


def torch_model(folder, content, **options):
    """A demo model with a torch file of anything."""
    shutil.copytree(DATA / "demo-llama", folder)
    (folder / "model.safetensors").unlink()
    torchfile.write(folder / "pytorch_model.bin", content, **options)
    return folder


def test_tensors_may_share_a_storage(mount, tmp_path):
    storage = torchfile.Storage("F32", np.arange(12, dtype=np.float32).tobytes())
    torch_model(tmp_path / "s" / "m", {
        "a": torchfile.Tensor(storage, (3, 4)), "b": torchfile.Tensor(storage, (2, 3), first=5),
        "ids": torchfile.tensor("I64", (2,), bytes(16))})
    tensors = mount(tmp_path / "s") / "m" / "tensors"
    assert (tensors / "a" / "f32").read_bytes() == storage.data
    assert (tensors / "b" / "f32").read_bytes() == storage.data[20:44]
    assert (tensors / "ids" / "i64").read_bytes() == bytes(16)


class Call:
    """Something that a careless reader would call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def weight(strides=None):
    storage = torchfile.Storage("F32", bytes(48))
    return torchfile.Tensor(storage, (3, 4), strides=strides)


# what is in a torch file -> what the refusal says
HOSTILE = {
    "a call": (lambda path: {"w": Call(os.system, f"touch {path}")}, {}, "posix.system"),
    "a name": (lambda path: {"w": os.system}, {}, "posix.system"),
    "eval": (lambda path: {"w": Call(eval, f"open({str(path)!r}, 'w')")}, {}, "eval"),
    "no tensor": (lambda path: {"w": weight(), "epoch": 3}, {}, '"epoch" is no tensor'),
    "a list": (lambda path: [weight()], {}, "no dictionary of tensors"),
    "transposed": (lambda path: {"w": weight((1, 3))}, {}, "do not lie in order"),
    "compressed": (lambda path: {"w": weight()}, {"compression": zipfile.ZIP_DEFLATED},
                   "is compressed or encrypted"),
    "big-endian": (lambda path: {"w": weight()}, {"byteorder": "big"},
                   "byte order is not little-endian"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_torch_files_of_another_kind_are_refused(mount, tmp_path, what):
    content, options, said = HOSTILE[what]
    folder = torch_model(tmp_path / "s" / "m", content(tmp_path / "touched"), **options)
    (model,) = listed(tmp_path / "s").values()
    assert model["state"] == "refused"
    assert "pytorch_model.bin" in model["problem"] and said in model["problem"]
    assert said in refused(folder)
    assert os.listdir(mount(tmp_path / "s") / "m") == ["original"]
    assert not (tmp_path / "touched").exists()


def test_torch_files_of_old_are_refused(tmp_path):
    folder = torch_model(tmp_path / "m", {})
    (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + bytes(1000))
    assert "written by torch before 1.6" in refused(folder)


# ---- 8-bit floats with scales ----

def e4m3(byte):
    exponent, fraction = byte >> 3 & 15, byte & 7
    x = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0 ** -9
    return -x if byte & 128 else x


E4M3 = np.array([e4m3(b) for b in range(256)], np.float32)
FINITE = np.array([b for b in range(256) if b & 127 != 127], np.uint8)

# how scales are laid out -> (quantization_config, their name, the scale's shape, block)
SCALED = {
    "blocks": ({"quant_method": "fp8", "weight_block_size": [64, 32]}, "weight_scale_inv",
               (64, 32)),
    "tensors": ({"quant_method": "fp8"}, "weight_scale_inv", None),
    "rows": ({"quant_method": "compressed-tensors", "format": "float-quantized",
              "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float",
                                                        "strategy": "channel"}}}},
             "weight_scale", (1, 0)),
}


def write_raw(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def scaled_pair(base, block, scale_name, quantization):
    """Two folders of one name: 8-bit weights with scales, and float32 ones that they stand for."""
    rng = np.random.default_rng(5)
    small = models.make(base / "fp8" / "m", hidden=256, ffn=320, layers=1, dtype="F32")
    large = base / "f32" / "m"
    shutil.copytree(small, large)
    packed, plain = {}, {}
    for name, (dtype, shape, raw) in tensors_of(small / "model.safetensors").items():
        packed[name] = plain[name] = dtype, shape, raw
        if "_proj" not in name:
            continue
        codes = rng.choice(FINITE, shape)
        rows, cols = block or shape
        cols = cols or shape[1]
        scale = rng.uniform(1e-4, 1e-3, (-(-shape[0] // rows), -(-shape[1] // cols)))
        scale = scale.astype(np.float32)
        spread = scale.repeat(rows, 0).repeat(cols, 1)[:shape[0], :shape[1]]
        packed[name] = "F8_E4M3", shape, codes.tobytes()
        packed[name.replace("weight", scale_name)] = (
            "F32", scale.shape if block else (1,), scale.tobytes())
        plain[name] = "F32", shape, (E4M3[codes] * spread).tobytes()
    write_raw(small / "model.safetensors", packed)
    write_raw(large / "model.safetensors", plain)
    edit(small, quantization_config=quantization)
    return small, large


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_floats_are_the_floats_they_stand_for(mount, tmp_path, kind):
    quantization, scale_name, block = SCALED[kind]
    small, large = scaled_pair(tmp_path, block, scale_name, quantization)
    for recipe in ("Q4_K_M", "Q8_0"):
        assert convert(small, recipe) == convert(large, recipe), recipe
    mine, theirs = (mount(path.parent) / "m" / "hf" / "f32" for path in (small, large))
    assert (mine / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert "quantization_config" not in json.loads((mine / "config.json").read_text())


def test_scaled_floats_without_a_known_method_are_refused(tmp_path):
    quantization, scale_name, block = SCALED["blocks"]
    small, _ = scaled_pair(tmp_path, block, scale_name, quantization)
    edit(small, quantization_config={"quant_method": "bitnet"})
    assert "bitnet is not known" in refused(small)
    edit(small, quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]})
    assert "scales do not fit" in refused(small)
    config = json.loads((small / "config.json").read_text())
    del config["quantization_config"]
    (small / "config.json").write_text(json.dumps(config))
    assert "down_proj.weight_scale_inv\" has no name in GGUF" in refused(small)
    weights = small / "model.safetensors"
    write_raw(weights, {name: t for name, t in tensors_of(weights).items() if "scale" not in name})
    assert "is stored as F8_E4M3, and its scales are not there" in refused(small)
