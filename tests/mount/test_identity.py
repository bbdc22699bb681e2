# SPDX-License-Identifier: MIT
"""The bytes are llama.cpp's: those of the demo models by hashes of what its converter and
llama-quantize wrote, those of models made here tensor by tensor by ggml itself, from weights that
numpy reads."""

import hashlib
import os
import random
import re
import shutil

import gguf
import numpy as np
import pytest

import models
import reference
from conftest import DATA, RECIPES, run

MODELS = ("demo-llama", "demo-qwen2")
IMATRICES = ("demo-llama.imatrix.dat", "demo-llama.imatrix.gguf")
WEIGHTED = "Q6_K Q5_K_M Q4_K_M Q3_K_M Q2_K Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL".split()
COMPARED = "F16 Q8_0 Q5_1 IQ4_NL Q4_K_M Q3_K_M Q2_K".split()
SEED = os.environ.get("QUANTFS_TEST_SEED", "1")


def differences(path, expected):
    """What of a file is not as expected: "size", "header", names of tensors."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() == expected["sha256"]:
        assert len(data) == expected["size"]
        return []
    found = [f"size {len(data)}, not {expected['size']}"] * (len(data) != expected["size"])
    reader = gguf.GGUFReader(path)
    if hashlib.sha256(data[:reader.data_offset]).hexdigest() != expected["header"]:
        keys = [key for key in reader.fields if not key.startswith("GGUF.")]
        found.append("header" if keys == expected["keys"] else f"header: keys {keys}")
    for tensor in reader.tensors:
        kind, digest = expected["tensors"].get(tensor.name, ("not there", ""))
        if tensor.tensor_type.name != kind:
            found.append(f"{tensor.name} is {tensor.tensor_type.name}, not {kind}")
        elif hashlib.sha256(tensor.data.tobytes()).hexdigest()[:len(digest)] != digest:
            found.append(f"{tensor.name}, bytes")
    return found or ["padding"]


# ---- the demo models ----

@pytest.mark.parametrize("model", MODELS)
def test_converted_files_are_the_references(oracle, tmp_path, model):
    for recipe in RECIPES:
        out = tmp_path / f"{recipe}.gguf"
        run("convert", DATA / model, "-t", recipe, "-o", out)
        assert differences(out, oracle[model][recipe]) == [], recipe


def test_files_in_a_mount_are_the_references(mount, oracle):
    mnt = mount(DATA)
    for model in MODELS:
        for recipe in RECIPES:
            file = mnt / model / "gguf" / f"{model}-{recipe}.gguf"
            assert file.stat().st_size == oracle[model][recipe]["size"]
            assert differences(file, oracle[model][recipe]) == [], (model, recipe)


@pytest.mark.parametrize("imatrix", IMATRICES)
@pytest.mark.parametrize("through", ["convert", "mount"])
def test_files_with_an_importance_matrix_are_the_references(mount, oracle, tmp_path, monkeypatch,
                                                            through, imatrix):
    """The matrix's path stands in the header as it was given."""
    for name in ("demo-llama", imatrix):
        (tmp_path / name).symlink_to(DATA / name)
    monkeypatch.chdir(tmp_path)
    mnt = mount("demo-llama", f"imatrix={imatrix}") if through == "mount" else None
    for recipe in WEIGHTED:
        if mnt:
            file = mnt / "demo-llama" / "gguf" / f"demo-llama-{recipe}.gguf"
        else:
            file = tmp_path / f"{recipe}.gguf"
            run("convert", "demo-llama", "-t", recipe, "-o", file, "--imatrix", imatrix)
        expected = oracle["demo-llama"][f"{recipe} --imatrix {imatrix}"]
        assert differences(file, expected) == [], recipe


# ---- models of any shape ----

PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", stem)
    return f"blk.{layer[1]}.{PARTS[layer[2]]}.{kind}" if layer else f"{OUTER[stem]}.{kind}"


def to_pairs(x, heads):
    """Rows of a rotated matrix from the checkpoint's order (first halves, second halves) to that of
    GGUF (pairs)."""
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return halves.swapaxes(1, 2).reshape(x.shape)


def random_shape(rng):
    """Any extents that llama.cpp takes: also some that no K-quant's block divides, and some that no
    block does."""
    def width(largest):
        return rng.choice([256, 32 * rng.randint(2, largest // 32),
                           16 * rng.randint(3, largest // 16)])

    kv_heads = rng.choice([1, 2, 3])
    return {"hidden": width(288), "ffn": width(544), "layers": rng.randint(1, 2),
            "kv_heads": kv_heads, "heads": kv_heads * rng.choice([1, 2, 4]),
            "head_dim": rng.choice([64, 2 * rng.randint(8, 40)])}


def mix_types(folder, rng):
    """Writes the weights anew, each tensor in a type of its own."""
    path = folder / "model.safetensors"
    entries, _ = reference.header(path)
    kinds = {name: (rng.choice(["F32", "F16", "BF16"]), entry["shape"])
             for name, entry in entries.items() if name != "__metadata__"}
    models.write_safetensors(path, kinds, np.random.default_rng(rng.randrange(1 << 30)))


def expected_type(recipe, x):
    """The format of a tensor where that is simple, None where it is not."""
    if x.ndim == 1:
        return "F32"
    if recipe == "F16" or (recipe == "Q8_0" and x.shape[-1] % 32):
        return "F16"
    return "Q8_0" if recipe == "Q8_0" else None


@pytest.mark.parametrize("tied", [False, True], ids=["output", "tied"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "mixed"])
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_every_tensor_of_a_random_model_is_ggmls(tmp_path, arch, dtype, tied):
    seed = f"{SEED}/{arch}/{dtype}/{tied}"
    rng = random.Random(seed)
    shape = random_shape(rng)
    biases = arch == "qwen2" or rng.random() < 0.5
    print(f"QUANTFS_TEST_SEED={SEED}", shape, "biases" * biases)
    folder = models.make(tmp_path / f"Random-{rng.randint(1, 999)}M-chat", arch=arch, tied=tied,
                         dtype="F32" if dtype == "mixed" else dtype, biases=biases,
                         seed=rng.randrange(1 << 30), **shape,
                         config={"attention_bias": biases} if arch == "llama" else None)
    if dtype == "mixed":
        mix_types(folder, rng)
    expected = {gguf_name(name): x for name, x in reference.read_model(folder).items()}
    if arch == "llama":
        for name, x in expected.items():
            part = name.split(".")[-2]
            if part in ("attn_q", "attn_k"):
                heads = shape["heads" if part == "attn_q" else "kv_heads"]
                expected[name] = to_pairs(x, heads)
    for recipe in rng.sample(COMPARED, 5):
        run("convert", folder, "-t", recipe, "-o", tmp_path / "out.gguf", "--force")
        tensors = gguf.GGUFReader(tmp_path / "out.gguf").tensors
        assert {t.name: [*reversed(t.shape.tolist())] for t in tensors} == {
            name: [*x.shape] for name, x in expected.items()}
        for tensor in tensors:
            x, kind = expected[tensor.name], tensor.tensor_type.name
            assert expected_type(recipe, x) in (kind, None), (recipe, tensor.name, kind)
            assert tensor.data.tobytes() == reference.quantize(x, kind), (recipe, tensor.name, kind)


# ---- weights that are none ----

def poison(folder, tensor, row, column, bits):
    """Puts the bits of one BF16 weight into a checkpoint."""
    path = folder / "model.safetensors"
    entries, data = reference.header(path)
    entry = entries[tensor]
    at = data + entry["data_offsets"][0] + 2 * (row * entry["shape"][1] + column)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bits.to_bytes(2, "little"))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFF81],
                         ids=["inf", "-inf", "nan", "signalling nan"])
@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.up_proj"])
def test_what_is_not_finite_is_named_and_spoils_nothing_else(mount, store, tmp_path, part, bits):
    """Tensor and row are the checkpoint's, also where GGUF orders rows otherwise."""
    tensor, row = f"model.layers.1.{part}.weight", 77
    poison(store / "demo-llama", tensor, row, 5, bits)
    done = run("convert", store / "demo-llama", "-t", "Q4_K_M", "-o", tmp_path / "out.gguf",
               check=False)
    assert done.returncode == 2
    assert f'"{tensor}", row {row}, column 5' in done.stderr
    assert not list(tmp_path.glob("out.gguf*"))

    mnt = mount(store)
    folder = mnt / "demo-llama" / "tensors"
    for form in ("q4_k", "f32"):
        with pytest.raises(OSError, match="Input/output error"):
            (folder / tensor / form).read_bytes()
    assert any(f'"{tensor}", row {row}' in line for line in mnt.lines())
    virtual = mnt / "demo-llama" / "gguf" / "demo-llama-Q4_K_M.gguf"
    with pytest.raises(OSError, match="Input/output error"):
        virtual.read_bytes()

    # what is stored is passed through, and all else is as it was
    stored = (folder / tensor / "bf16").read_bytes()
    assert int.from_bytes(stored[2 * (row * 256 + 5):][:2], "little") == bits
    other = "model.layers.1.mlp.down_proj.weight"
    x = reference.read_model(store / "demo-llama")[other]
    assert (folder / other / "q4_k").read_bytes() == reference.quantize(x, "Q4_K")
    with open(virtual, "rb") as file:
        assert file.read(4) == b"GGUF"
    for path in (store / "demo-llama").iterdir():
        assert (mnt / "demo-llama" / "original" / path.name).read_bytes() == path.read_bytes()


def test_weights_may_be_anything_finite_that_a_format_can_hold(tmp_path):
    """The largest and the smallest numbers of a type are no errors, but too large for scales."""
    shutil.copytree(DATA / "demo-llama", tmp_path / "m")
    tensor = "model.layers.0.mlp.up_proj.weight"
    for column, bits in enumerate((0x7F7F, 0xFF7F, 0x0001, 0x8000)):
        poison(tmp_path / "m", tensor, 3, column, bits)
    run("convert", tmp_path / "m", "-t", "BF16", "-o", tmp_path / "out.gguf")
    (found,) = (t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors
                if t.name == "blk.0.ffn_up.weight")
    assert found.data.tobytes()[2 * 3 * 256:][:8] == bytes.fromhex("7f7f7fff01000080")
    for recipe in ("Q8_0", "Q4_K_M", "IQ4_NL"):
        done = run("convert", tmp_path / "m", "-t", recipe, "-o", tmp_path / "no.gguf", check=False)
        assert done.returncode == 2 and f'"{tensor}", row 3' in done.stderr
        assert not (tmp_path / "no.gguf").exists()
