# SPDX-License-Identifier: MIT
"""GGUF files of a model with a calibration: guided K-quants, which are llama.cpp's own types, and
SpQR, whose bytes stand in codec/spqr/FORMAT.md."""

import os

import gguf
import numpy as np
import pytest
import reference
import spqr

from calibration import Calibrated
from conftest import DATA, GUIDED, OWN_RECIPES, RECIPES, convert, run
from gguf_header import Header
from test_clients import generate

OWN = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
       "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}  # whose rows stand as they do in GGUF
INPUT = {"attn_q": "attn_qkv", "attn_k": "attn_qkv", "attn_v": "attn_qkv",
         "attn_output": "attn_output", "ffn_gate": "ffn_gate_up", "ffn_up": "ffn_gate_up",
         "ffn_down": "ffn_down", "ffn_gate_exps": "ffn_gate_up", "ffn_up_exps": "ffn_gate_up",
         "ffn_down_exps": "ffn_down"}


def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def loss(weights, told, hessian):
    lost = (told - weights).astype(float)
    return np.sum(lost @ hessian * lost)


# ---- guided ----

def test_guided_files_are_there_with_a_calibration(mount, calibration, tmp_path):
    folder = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama" / "gguf"
    names = {path.name for path in folder.iterdir()}
    assert names == {f"demo-llama-{r}.gguf" for r in RECIPES + OWN_RECIPES + GUIDED}
    for recipe in GUIDED:
        plain = folder / f"demo-llama-{recipe.removesuffix('-guided')}.gguf"
        assert (folder / f"demo-llama-{recipe}.gguf").stat().st_size == plain.stat().st_size
    assert "user.quantfs.calibration" not in os.listxattr(folder / "demo-llama-SPQR3.gguf")
    assert "user.quantfs.reference" not in os.listxattr(folder / "demo-llama-Q4_K_M-guided.gguf")
    other = mount(DATA) / "demo-llama" / "gguf"
    assert not (other / "demo-llama-Q4_K_M-guided.gguf").exists()
    done = run("convert", DATA / "demo-llama", "-t", "Q4_K_M-guided", "-o", tmp_path / "out.gguf",
               check=False)
    assert done.returncode == 2 and "Q4_K_M-guided needs a calibration" in done.stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q3_K_M", "Q2_K"])
def test_codes_are_guided_and_the_rest_is_weighed(mount, calibration, recipe):
    """Matrices that inputs are known of have the guided form's bytes, all others the bytes that they
    have with the calibration's importance matrix."""
    model = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama"
    weighed = mount(DATA / "demo-llama", f"imatrix={calibration / 'imatrix.gguf'}") / "demo-llama"
    guided = tensors(model / "gguf" / f"demo-llama-{recipe}-guided.gguf")
    other = tensors(weighed / "gguf" / f"demo-llama-{recipe}.gguf")
    assert list(guided) == list(other)
    seen = 0
    for name, tensor in guided.items():
        assert tensor.tensor_type == other[name].tensor_type
        part = name.split(".")[2] if name.startswith("blk.") else ""
        kind = tensor.tensor_type.name.lower()
        if part not in INPUT or kind == "q6_k":
            assert tensor.data.tobytes() == other[name].data.tobytes(), name
        elif part in OWN:
            alone = model / "tensors" / f"model.layers.{name.split('.')[1]}.{OWN[part]}.weight"
            assert tensor.data.tobytes() == (alone / f"{kind}-guided").read_bytes(), name
            seen += 1
        else:
            assert tensor.data.tobytes() != other[name].data.tobytes(), name
    assert seen > 10
    assert convert(DATA / "demo-llama", f"{recipe}-guided", "--calibration", calibration) == (
        model / "gguf" / f"demo-llama-{recipe}-guided.gguf").read_bytes()


def test_llama_cpp_runs_a_guided_file(mount, calibration):
    model = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama"
    path = model / "gguf" / "demo-llama-Q4_K_M-guided.gguf"
    text = generate(path, "In the beginning")
    assert text.strip()


# ---- SpQR ----

def matrices_of(header, data, name):
    """What the stripes of a tensor come back to, matrix by matrix."""
    kind, extents, at = header.tensors[name]
    columns, rows, count = (*extents, 1)[:3]
    _, width, stripe_size = spqr.shape(kind - 1000, columns, 0.01)
    stripes = -(-rows // 16) * stripe_size
    for i in range(count):
        order = at + count * stripes + i * columns * width
        alone = data[at + i * stripes:at + (i + 1) * stripes] + data[order:order + columns * width]
        yield spqr.decode(alone, kind - 1000, rows, columns)


def check_orders(path, folder):
    """Every matrix has the columns of its input's factor; returns what was seen."""
    data, seen = path.read_bytes(), 0
    header = Header(data)
    for name, (kind, _, _) in header.tensors.items():
        if kind < 1000:
            continue
        _, layer, part, _ = name.split(".")
        for i, told in enumerate(matrices_of(header, data, name)):
            expert = f".{i}" if part.endswith("_exps") else ""
            factor = Calibrated(folder / f"blk.{layer}.{INPUT[part]}{expert}.damp1.factor")
            assert (told.permutation == factor.order).all(), name
            seen += 1
    return seen


def test_stripes_are_calibrated(mount, calibration):
    model = mount(DATA / "demo-llama", f"calibration={calibration}") / "demo-llama"
    path = model / "gguf" / "demo-llama-SPQR3.gguf"
    assert check_orders(path, calibration) == 4 * 7
    plain, data = mount(DATA) / "demo-llama" / "gguf" / path.name, path.read_bytes()
    weights = tensors(model / "gguf" / "demo-llama-F32.gguf")
    hessian = Calibrated(calibration / "blk.2.ffn_down.hessian").matrix
    name = "blk.2.ffn_down.weight"
    told, nearest = (next(matrices_of(Header(bytes_), bytes_, name)).weights
                     for bytes_ in (data, plain.read_bytes()))
    assert loss(weights[name].data, told, hessian) < 0.75 * loss(weights[name].data, nearest,
                                                                 hessian)


def test_each_expert_has_an_order_of_its_own(mount, experts):
    model, folder = experts
    path = (mount(model, f"calibration={folder}") / model.name / "gguf"
            / f"{model.name}-SPQR4.gguf")
    assert check_orders(path, folder) > 3 * 8
    weights = tensors(path.with_name(f"{model.name}-F32.gguf"))["blk.0.ffn_gate_exps.weight"].data
    data = path.read_bytes()
    for expert, told in enumerate(matrices_of(Header(data), data, "blk.0.ffn_gate_exps.weight")):
        missed = np.mean((told.weights - weights[expert]) ** 2) / np.mean(weights[expert] ** 2)
        assert missed < 0.15 ** 2
