# SPDX-License-Identifier: MIT
"""Whole models in SpQR: GGUF files with types of their own, read by the letter of FORMAT.md."""

import os

import gguf
import numpy as np
import pytest
import spqr

from conftest import DATA, convert
from gguf_header import Header

F32 = 0


@pytest.mark.parametrize("recipe, bits", [("SPQR3", 3), ("SPQR4", 4)])
@pytest.mark.parametrize("model", ["demo-llama", "demo-qwen2"])
def test_matrices_are_stripes_and_the_rest_is_as_ever(mount, model, recipe, bits):
    folder = mount(DATA) / model / "gguf"
    data = (folder / f"{model}-{recipe}.gguf").read_bytes()
    header, seen = Header(data), 0
    assert header.keys["general.file_type"] == 1000 + bits
    plain, q6_k = ({t.name: t for t in gguf.GGUFReader(folder / f"{model}-{other}.gguf").tensors}
                   for other in ("F32", "Q6_K"))
    assert list(header.tensors) == list(plain)
    for name, (kind, extents, offset) in header.tensors.items():
        assert extents == tuple(int(n) for n in plain[name].shape)
        if len(extents) == 1:
            assert kind == F32 and data[offset:].startswith(plain[name].data.tobytes())
        elif name in ("token_embd.weight", "output.weight"):
            assert kind == q6_k[name].tensor_type
            assert data[offset:].startswith(q6_k[name].data.tobytes())
        else:
            assert kind == 1000 + bits
            weights = plain[name].data
            size = spqr.size(bits, *weights.shape)
            told = spqr.decode(data[offset:offset + size], bits, *weights.shape)
            missed = np.mean((told.weights - weights) ** 2) / np.mean(weights ** 2)
            assert missed < (0.18 if bits == 3 else 0.09) ** 2
            seen += 1
    assert seen > 20


def test_a_matrix_has_the_bytes_that_it_has_alone(mount):
    folder = mount(DATA) / "demo-llama"
    data = (folder / "gguf" / "demo-llama-SPQR3.gguf").read_bytes()
    for name, own in (("blk.1.ffn_down", "mlp.down_proj"), ("blk.1.attn_v", "self_attn.v_proj")):
        alone = (folder / "tensors" / f"model.layers.1.{own}.weight" / "spqr3").read_bytes()
        assert data[Header(data).tensors[f"{name}.weight"][2]:].startswith(alone)


def test_what_is_told_of_it(mount):
    """Nothing of it is llama.cpp's, and it says where no calibration is known."""
    folder = mount(DATA) / "demo-llama"
    ours, theirs = (folder / "gguf" / f"demo-llama-{r}.gguf" for r in ("SPQR3", "Q4_K_M"))
    assert os.getxattr(ours, "user.quantfs.calibration") == b"none"
    assert os.getxattr(folder / "hf" / "spqr-3bit" / "model.safetensors",
                       "user.quantfs.calibration") == b"none"
    assert "user.quantfs.reference" not in os.listxattr(ours)
    assert "user.quantfs.reference" in os.listxattr(theirs)
    assert "user.quantfs.calibration" not in os.listxattr(theirs)


def test_others_refuse_it(mount, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes((mount(DATA) / "demo-llama" / "gguf" / "demo-llama-SPQR3.gguf").read_bytes())
    with pytest.raises(ValueError, match="1003"):
        gguf.GGUFReader(copy)


def test_a_store_of_such_a_file_offers_it_as_it_is(mount, tmp_path):
    file = convert(DATA / "demo-llama", "SPQR3")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.gguf").write_bytes(file)
    folder = mount(tmp_path / "store", "requantize") / "m"
    header = Header(file)
    name = "blk.0.attn_q.weight"
    stored = (folder / "tensors" / name / "spqr3").read_bytes()
    assert file[header.tensors[name][2]:].startswith(stored)
    assert len(stored) == spqr.size(3, *reversed(header.tensors[name][1]))
