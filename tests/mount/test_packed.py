# SPDX-License-Identifier: MIT
"""Checkpoints that bitsandbytes, GPTQ, AWQ and compressed-tensors have packed: every folder and file
that is made of one has the floats that numpy decodes, and what is not known is refused by name."""

import json
import tempfile

import gguf
import numpy as np
import packed_models
import pytest
import reference

from architectures import make
from conftest import DATA, convert, run
from packed_models import rounded
from stores import listed

LLAMA, QWEN = DATA / "demo-llama", DATA / "demo-qwen2"
PLAIN = ["F32", "BF16", "F16"]

KINDS = {
    "nf4": (LLAMA, "nf4", {}),
    "nf4, scales packed": (QWEN, "nf4", {"double": True}),
    "nf4 of f16, blocks of 128": (LLAMA, "nf4", {"dtype": "float16", "blocksize": 128}),
    "fp4": (QWEN, "fp4", {}),
    "fp4 of f32, scales packed": (LLAMA, "fp4", {"dtype": "float32", "double": True}),
    "int8": (LLAMA, "int8", {"rest": "F16"}),
    "gptq, 2 bits": (LLAMA, "gptq", {"bits": 2, "sym": False}),
    "gptq, 3 bits": (LLAMA, "gptq", {"bits": 3, "sym": False, "rest": "F16"}),
    "gptq, 3 bits, version 2": (QWEN, "gptq", {"bits": 3, "v2": True, "group": 32}),
    "gptq, 4 bits": (QWEN, "gptq", {}),
    "gptq, 4 bits, in order": (LLAMA, "gptq", {"shuffled": True, "sym": False}),
    "gptq, 4 bits, in order, version 2": (QWEN, "gptq", {"shuffled": True, "sym": False, "v2": True}),
    "gptq, 4 bits, one group": (LLAMA, "gptq", {"group": -1}),
    "gptq, 4 bits, without g_idx": (LLAMA, "gptq", {"g_idx": False, "scales": "BF16"}),
    "gptq, 8 bits": (LLAMA, "gptq", {"bits": 8, "group": 32}),
    "awq": (LLAMA, "awq", {"rest": "F16"}),
    "awq of bf16": (QWEN, "awq", {"scales": "BF16", "group": 32}),
    "awq, one group": (LLAMA, "awq", {"group": -1}),
    "compressed, 4 bits": (LLAMA, "packed", {}),
    "compressed, 4 bits, with zeros": (QWEN, "packed", {"sym": False, "group": 32}),
    "compressed, 3 bits": (LLAMA, "packed", {"bits": 3, "scales": "F16"}),
    "compressed, 5 bits, rows": (LLAMA, "packed", {"bits": 5, "group": -1}),
    "compressed, 8 bits": (QWEN, "packed", {"bits": 8}),
    "compressed, bytes": (LLAMA, "bytes", {}),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """kind -> a packed folder, and one of the same name that has its floats."""
    base, made = tmp_path_factory.mktemp("packed"), {}

    def get(kind):
        if kind not in made:
            source, writer, options = KINDS[kind]
            place = base / str(len(made))
            packed = packed_models.make(place / "packed" / "m", source, writer, **options)
            made[kind] = packed, packed_models.make_plain(place / "plain" / "m", packed)
        return made[kind]

    return get


def check_folder(folder, weights, dtype):
    """Every tensor of a folder of floats, row by row."""
    found = packed_models.read(folder)
    assert set(found) == set(weights)
    for name, (w, _) in weights.items():
        assert found[name][0] == dtype
        mine, expected = packed_models.values(found[name]), rounded(w, dtype)
        assert mine.shape == expected.shape
        rows = (mine != expected).reshape(len(mine), -1).any(axis=1)
        assert not rows.any(), (name, np.flatnonzero(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_folders_have_the_floats(mount, pairs, kind):
    packed, plain = pairs(kind)
    mine = mount(packed.parent) / "m"
    weights = packed_models.decode(packed)
    for form in ("bf16", "f32", "f16"):
        check_folder(mine / "hf" / form, weights, form.upper())
    theirs = mount(plain.parent) / "m" / "hf" / "bf16" / "config.json"
    config = json.loads((mine / "hf" / "bf16" / "config.json").read_text())
    assert config == json.loads(theirs.read_text()) and "quantization_config" not in config


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_is_that_of_the_floats(pairs, kind):
    packed, plain = pairs(kind)
    for recipe in PLAIN:
        assert convert(packed, recipe) == convert(plain, recipe), recipe


@pytest.mark.parametrize("kind", ["nf4", "gptq, 4 bits, in order", "awq", "compressed, 4 bits"])
def test_rows_of_q_and_k_are_paired(pairs, kind):
    packed, _ = pairs(kind)
    weights = packed_models.decode(packed)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(convert(packed, "F32"))
        file.flush()
        found = {t.name: t.data for t in gguf.GGUFReader(file.name).tensors}
        for ours, name, heads in (("attn_q", "self_attn.q_proj", 4), ("attn_k", "self_attn.k_proj", 2),
                                  ("attn_v", "self_attn.v_proj", 0), ("ffn_up", "mlp.up_proj", 0)):
            for layer in range(4):
                w, _ = weights[f"model.layers.{layer}.{name}.weight"]
                if heads:
                    w = w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
                assert (found[f"blk.{layer}.{ours}.weight"] == w).all(), (layer, ours)


@pytest.mark.parametrize("kind", ["nf4, scales packed", "int8", "gptq, 3 bits", "awq", "gptq, 4 bits",
                                  "compressed, 4 bits"])
def test_requantized_is_the_quantized_floats(mount, pairs, kind):
    packed, plain = pairs(kind)
    for recipe in ("Q4_K_M", "Q8_0"):
        assert convert(packed, recipe, "--allow-requantize") == convert(plain, recipe), recipe
    mine, theirs = mount(packed.parent, "requantize") / "m", mount(plain.parent) / "m"
    assert sorted(p.name for p in (mine / "gguf").iterdir()) == \
        sorted(p.name for p in (theirs / "gguf").iterdir())
    assert sorted(p.name for p in (mine / "hf").iterdir()) == \
        sorted(p.name for p in (theirs / "hf").iterdir())
    name = "model.layers.1.self_attn.q_proj.weight"
    forms = {path.name for path in (mine / "tensors" / name).iterdir() if "." not in path.name}
    assert forms == {path.name for path in (theirs / "tensors" / name).iterdir()
                     if "." not in path.name} and "q8_0" in forms
    for form in forms & {"q4_k", "q8_0", "q4_0", "gptq4-g128", "rtn3-g32", "spqr3", "f16"}:
        assert (mine / "tensors" / name / form).read_bytes() == \
            (theirs / "tensors" / name / form).read_bytes(), form


@pytest.mark.parametrize("kind", ["nf4", "gptq, 2 bits"])
def test_without_being_asked_nothing_is_quantized_again(mount, pairs, kind, tmp_path):
    packed, _ = pairs(kind)
    mnt = mount(packed.parent)
    assert {p.name for p in (mnt / "m" / "gguf").iterdir()} == {f"m-{r}.gguf" for r in PLAIN}
    assert {p.name for p in (mnt / "m" / "hf").iterdir()} == {r.lower() for r in PLAIN}
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.3.self_attn.o_proj.weight"):
        forms = {p.name for p in (mnt / "m" / "tensors" / name).iterdir() if "." not in p.name}
        assert forms == {r.lower() for r in PLAIN}
        w, _ = packed_models.decode(packed)[name]
        for form in forms:
            assert (mnt / "m" / "tensors" / name / form).read_bytes() == \
                packed_models.stored(w, form.upper())[2]
    kept = {p.name for p in (mnt / "m" / "tensors" / "model.embed_tokens.weight").iterdir()}
    assert {"bf16", "q4_k"} <= kept
    done = run("convert", packed, "-t", "Q4_K_M", "-o", tmp_path / "out.gguf", check=False)
    assert done.returncode and "is quantized already" in done.stderr
    assert (mnt / "m" / "original" / "model.safetensors").read_bytes() == \
        (packed / "model.safetensors").read_bytes()


INFO = {"nf4": ("nf4", 4, 64), "int8": ("int8", 8, None), "gptq, 3 bits": ("gptq", 3, 64),
        "awq": ("awq", 4, 64), "compressed, 4 bits": ("pack-quantized", 4, 64),
        "compressed, bytes": ("int-quantized", 8, None)}


@pytest.mark.parametrize("kind", INFO)
def test_how_it_is_stored_is_told(mount, pairs, kind):
    method, bits, group = INFO[kind]
    packed, _ = pairs(kind)
    name = "model.layers.0.mlp.down_proj.weight"
    info = json.loads((mount(packed.parent) / "m" / "tensors" / name / "info.json").read_text())
    told, tensors = info["source"], packed_models.read(packed)
    assert (told["method"], told["bits"], told["group"]) == (method, bits, group or 512)
    assert info["shape"] == [256, 512] and set(info["forms"]) == {
        "f32", "f16", "bf16"}
    assert len(told["parts"]) > 1
    for place in told["parts"]:
        data = (packed / place["file"]).read_bytes()[place["offset"]:][:place["bytes"]]
        assert data == tensors[place["name"]][1].tobytes()
    model = listed(packed.parent)["m"]
    assert model["state"] == "ready" and model["packed_count"] == 28
    text = run("ls", "-t", packed.parent).stdout
    assert "28 of the tensors are packed: without requantize only floats are made" in text
    line = next(line for line in text.splitlines() if f"tensors/{name} " in line)
    assert f"of {method}, {bits} bits" in line
    told = json.loads(run("inspect", "--json", packed / "model.safetensors").stdout)["packed"]
    assert len(told) == 28
    assert {"name": name, "method": method, "bits": bits, "group": group or 512,
            "type": "BF16" if method == "nf4" else "F16" if method == "awq" else "F32",
            "shape": [256, 512]} in told
    text = run("inspect", packed / "model.safetensors").stdout
    assert f"{name:<40} {method}, {bits} bits, groups of {group or 512}, as " in text


def test_older_descriptions_do_not_go_along(mount, pairs, tmp_path):
    packed, _ = pairs("gptq, 4 bits")
    folder = tmp_path / "store" / "m"
    packed_models.shutil.copytree(packed, folder)
    (folder / "quantize_config.json").write_text("{}")
    mnt = mount(folder.parent)
    assert (mnt / "m" / "original" / "quantize_config.json").read_text() == "{}"
    assert not (mnt / "m" / "hf" / "bf16" / "quantize_config.json").exists()


def test_shards_may_part_a_weight(pairs, tmp_path):
    packed, _ = pairs("gptq, 4 bits, in order")
    folder = tmp_path / "m"
    tensors = packed_models.read(packed)
    packed_models.shutil.copytree(packed, folder)
    (folder / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for i in range(3):
        file = f"model-0000{i + 1}-of-00003.safetensors"
        part = {n: (tensors[n][0], tensors[n][1].shape, tensors[n][1].tobytes()) for n in names[i::3]}
        packed_models.write(folder / file, part)
        index |= {n: file for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert convert(folder, "F32") == convert(packed, "F32")
    told = run("inspect", folder / file).stdout
    assert 'not unpacked, by this file alone: tensor "' in told


def test_experts_are_stacked(tmp_path):
    source = make(tmp_path / "source", "Mixtral-8x7B-v0.1")
    w = reference.read_model(source)
    names = [n for n in w if ".experts." in n]
    assert names
    packed = tmp_path / "packed" / "m"
    packed_models.shutil.copytree(source, packed, ignore=packed_models.shutil.ignore_patterns("*.saf*"))
    tensors = {}
    for name, x in w.items():
        if name in names:
            for ending, t in packed_models.write_4_bit(x, "nf4").items():
                tensors[name.removesuffix(".weight") + ending] = t
        else:
            tensors[name] = packed_models.stored(x, "BF16")
    packed_models.write(packed / "model.safetensors", tensors)
    packed_models.configure(packed, quantization_config=packed_models.config_of("nf4", {}))
    plain = packed_models.make_plain(tmp_path / "plain" / "m", packed)
    assert convert(packed, "F32") == convert(plain, "F32")
    assert convert(packed, "Q4_K_M", "--allow-requantize") == convert(plain, "Q4_K_M")


# ---- what is refused ----

UP = "model.layers.2.mlp.up_proj"


def raw(folder):
    return {name: (dtype, x.shape, x.tobytes())
            for name, (dtype, x) in packed_models.read(folder).items()}


def without(ending):
    def change(tensors, quantization):
        del tensors[UP + ending]
    return change


def replaced(ending, dtype, shape):
    def change(tensors, quantization):
        size = int(np.prod(shape)) * np.dtype(packed_models.TYPES[dtype]).itemsize
        tensors[UP + ending] = dtype, shape, bytes(size)
    return change


def says(**more):
    def change(tensors, quantization):
        quantization.update(more)
    return change


def state(**more):
    def change(tensors, quantization):
        name = UP + ".weight.quant_state.bitsandbytes__nf4"
        text = json.dumps(json.loads(tensors[name][2]) | more).encode()
        tensors[name] = "U8", (len(text),), text
    return change


def group(**more):
    def change(tensors, quantization):
        quantization["config_groups"]["group_0"]["weights"].update(more)
    return change


PACKED_UP = f'tensor "{UP}.weight" is packed'
REFUSED = [
    ("gptq, 4 bits", without(".qzeros"), f'{PACKED_UP}, and "{UP}.qzeros" is missing'),
    ("gptq, 4 bits", without(".qweight"), f'"{UP}.g_idx" is a part of a packed weight that is not'),
    ("gptq, 4 bits, in order", without(".g_idx"), f'{PACKED_UP}, and "{UP}.g_idx" is missing'),
    ("gptq, 4 bits", replaced(".g_idx", "I32", (255,)), f'"{UP}.g_idx" does not have the 192 elem'),
    ("gptq, 4 bits", replaced(".scales", "F16", (9, 512)), f'"{UP}.scales" does not have the shape'),
    ("gptq, 4 bits", replaced(".scales", "I32", (2, 512)), f'"{UP}.scales" is stored as I32'),
    ("gptq, 4 bits", replaced(".weight", "F32", (2, 2)), f'"{UP}.weight" is there twice'),
    ("gptq, 4 bits", says(bits=8), "does not have the"),
    ("gptq, 4 bits", says(bits=5), "5 bits are not known"),
    ("gptq, 4 bits", says(checkpoint_format="gptq_p"), "checkpoint_format gptq_p is not known"),
    ("gptq, 4 bits", says(is_marlin_format=True), "checkpoint_format marlin is not known"),
    ("gptq, 4 bits", says(group_size="all"), "group_size is missing or no number"),
    ("awq", says(version="gemv"), "version gemv is not known"),
    ("awq", says(version="marlin"), "version marlin is not known"),
    ("awq", says(backend="llm-awq"), "backend llm-awq is not known"),
    ("awq", says(bits=8), "AWQ of 8 bits is not known"),
    ("awq", without(".scales"), f'{PACKED_UP}, and "{UP}.scales" is missing'),
    ("nf4", without(".weight.absmax"), f'"{UP}.weight.absmax" is missing'),
    ("nf4", without(".weight.quant_map"), f'"{UP}.weight.quant_map" is missing'),
    ("nf4", without(".weight.quant_state.bitsandbytes__nf4"), "is a part of a packed weight that is"),
    ("nf4", replaced(".weight", "BF16", (32768, 1)), "a bnb_4bit_quant_storage other than uint8"),
    ("nf4", replaced(".weight.quant_state.bitsandbytes__nf4", "U8", (9,)), "quant_state is no JSON"),
    ("nf4", replaced(".weight.quant_state.bitsandbytes__nf4", "U8", (9999,)), "no text, or too long"),
    ("nf4", state(shape=[512, 255]), f'"{UP}.weight" does not have the shape'),
    ("nf4", state(shape=[512]), "its quant_state has no shape of a matrix"),
    ("nf4", state(dtype="float64"), "its quant_state has no dtype that is known"),
    ("nf4", state(quant_type="fp4"), "its quant_state is of another type than its name"),
    ("nf4", state(blocksize=96), "blocks of 96 weights are not known"),
    ("nf4", state(nested_offset=0.5, nested_blocksize=256, nested_dtype="float32"),
     "its scales are missing"),
    ("int8", replaced(".weight_format", "U8", (2,)), "its weight_format is not that of rows"),
    ("int8", replaced(".SCB", "F32", (500,)), f'"{UP}.SCB" does not have the 512 elements'),
    ("compressed, 4 bits", without(".weight_shape"), f'"{UP}.weight_shape" is missing'),
    ("compressed, 4 bits", without(".weight_scale"), f'"{UP}.weight_scale" is missing'),
    ("compressed, 4 bits", replaced(".weight_g_idx", "I32", (256,)), "an order of columns"),
    ("compressed, 4 bits", replaced(".weight_shape", "I64", (2,)), "not that of a matrix"),
    ("compressed, 4 bits", group(group_size=48), "groups of 48 columns do not fit its width"),
    ("compressed, 4 bits", group(type="float"), "type float is not known"),
    ("compressed, 4 bits", group(strategy="tensor"), "strategy tensor is not known"),
    ("compressed, 4 bits", says(sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    ("compressed, 4 bits", says(config_groups={}), "there is not exactly one group"),
    ("compressed, 4 bits", says(format="marlin-24"), "format marlin-24 is not known"),
    ("compressed, bytes", replaced(".weight", "I8", (511, 256)), f'"{UP}.weight_scale" does not have'),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_not_known_is_refused(mount, pairs, tmp_path, number):
    kind, change, sentence = REFUSED[number]
    packed, _ = pairs(kind)
    folder = tmp_path / "store" / "m"
    packed_models.shutil.copytree(packed, folder)
    tensors = raw(packed)
    quantization = json.loads((packed / "config.json").read_text())["quantization_config"]
    change(tensors, quantization)
    packed_models.write(folder / "model.safetensors", tensors)
    packed_models.configure(folder, quantization_config=quantization)
    model = listed(folder.parent)["m"]
    assert model["state"] == "refused" and sentence in model["problem"], model["problem"]
    mnt = mount(folder.parent)
    assert not (mnt / "m" / "gguf").exists()
    assert "marlin-24" in sentence or not (mnt / "m" / "hf").exists()
    assert (mnt / "m" / "original" / "model.safetensors").read_bytes() == \
        (folder / "model.safetensors").read_bytes()
    assert {p.name for p in (mnt / "m" / "tensors").iterdir()} == set(tensors)


def test_a_method_that_packs_nothing_is_refused(tmp_path):
    folder = tmp_path / "m"
    packed_models.shutil.copytree(LLAMA, folder)
    packed_models.configure(folder, quantization_config={"quant_method": "awq", "bits": 4,
                                                         "group_size": 64})
    (model,) = listed(folder).values()
    assert "says awq, but no tensor is packed so" in model["problem"]


def test_a_column_of_no_group_is_an_error_of_the_read(mount, pairs, tmp_path):
    packed, _ = pairs("gptq, 4 bits, in order")
    folder = tmp_path / "store" / "m"
    packed_models.shutil.copytree(packed, folder)
    tensors = raw(packed)
    dtype, shape, data = tensors[UP + ".g_idx"]
    tensors[UP + ".g_idx"] = dtype, shape, b"\xff\xff\xff\xff" + data[4:]
    packed_models.write(folder / "model.safetensors", tensors)
    mnt = mount(folder.parent)
    with pytest.raises(OSError):
        (mnt / "m" / "tensors" / f"{UP}.weight" / "f32").read_bytes()
    assert any(f'tensor "{UP}.weight": a column is of group -1' in line for line in mnt.lines())
    other = UP.replace("up", "gate")
    assert len((mnt / "m" / "tensors" / f"{other}.weight" / "f32").read_bytes()) == 4 * 512 * 256


def test_a_weight_that_is_not_finite_is_named(mount, pairs, tmp_path):
    """By its row in the checkpoint, also where rows are reordered."""
    packed, _ = pairs("nf4")
    folder, name = tmp_path / "store" / "m", "model.layers.1.self_attn.q_proj.weight"
    packed_models.shutil.copytree(packed, folder)
    tensors = raw(packed)
    dtype, shape, data = tensors[f"{name}.absmax"]
    absmax = np.frombuffer(data, np.float32).copy()
    absmax[4 * 77 + 2] = np.inf  # row 77, columns 128 to 191
    tensors[f"{name}.absmax"] = dtype, shape, absmax.tobytes()
    packed_models.write(folder / "model.safetensors", tensors)
    mnt = mount(folder.parent)
    for path in (mnt / "m" / "gguf" / "m-F32.gguf", mnt / "m" / "tensors" / name / "f32"):
        with pytest.raises(OSError):
            path.read_bytes()
    told = [line for line in mnt.lines() if f'tensor "{name}", row 77, column ' in line]
    assert len(told) == 2 and all("the weight is not finite" in line for line in told)
