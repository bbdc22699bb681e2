# SPDX-License-Identifier: MIT
"""Reads folders of transformers whose linear layers are quantized, as their loaders do, from bytes
alone: SpQR as its published kernels take it, GPTQ, version 1, and AWQ, version gemm. Whatever a loader
relies on is an AssertionError where it does not hold."""

import dataclasses
import json
import os
import struct

import numpy as np

DTYPES = {"I64": np.int64, "I32": np.int32, "F16": np.float16}


@dataclasses.dataclass
class Folder:
    config: dict
    tensors: dict  # name -> array, as stored
    order: list    # names, as their bytes lie


def read(folder):
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header, begin = json.loads(data[8:8 + size]), 8 + size
    assert begin % 8 == 0 and header.pop("__metadata__") == {"format": "pt"}
    order = sorted(header, key=lambda name: header[name]["data_offsets"])
    tensors, end = {}, 0
    for name in order:
        dtype, (first, last) = DTYPES[header[name]["dtype"]], header[name]["data_offsets"]
        assert first == end and first % np.dtype(dtype).itemsize == 0, name
        end = last
        tensors[name] = np.frombuffer(data[begin + first:begin + last], dtype).reshape(
            header[name]["shape"])
    assert begin + end == len(data)
    return Folder(json.loads((folder / "config.json").read_text()), tensors, order)


def check_any_range(path, whole):
    """Reads of a safetensors file from behind, of odd offsets and sizes, and of one byte at the ends of
    tensors."""
    assert path.stat().st_size == len(whole)
    rng, (size,) = np.random.default_rng(1), struct.unpack_from("<Q", whole)
    ends = [8 + size + entry["data_offsets"][1]
            for name, entry in json.loads(whole[8:8 + size]).items() if name != "__metadata__"]
    ranges = [(end - 1, 2) for end in ends] + [
        (int(at), int(n)) for at, n in zip(rng.integers(0, len(whole), 60),
                                           rng.integers(1, 200_000, 60))]
    fd = os.open(path, os.O_RDONLY)
    for at, n in reversed(sorted(ranges)):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, n, at) == whole[at:at + n], (at, n)
    os.close(fd)


def parts_of(folder, layer, names):
    return [folder.tensors[f"{layer}.{name}"] for name in names]


# ---- SpQR ----

SPQR = ("dense_weights", "row_offsets", "col_vals", "in_perm")


def spqr_layers(folder):
    """The layers that the loader makes its own of; the config must agree with the tensors."""
    quantization = dict(folder.config["quantization_config"])
    shapes, kept = quantization.pop("shapes"), quantization.pop("modules_to_not_convert")
    assert quantization == {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16}
    layers = {name.rsplit(".", 1)[0] for name in folder.tensors if name.endswith(".dense_weights")}
    assert shapes == {f"{layer}.{part}.shape": len(folder.tensors[f"{layer}.{part}"])
                      for layer in layers for part in SPQR}
    rest = {name for name in folder.tensors if name.rsplit(".", 1)[0] not in layers}
    assert set(kept) == rest | {"lm_head.weight"} and len(kept) == len(set(kept))
    assert all(folder.tensors[name].dtype == np.float16 for name in rest)
    return layers


def spqr_tiles(words):
    """[tile][row][column] of 64-bit words, each step rounded to binary16 as in the kernel."""
    words = words.astype(np.uint64).reshape(-1, 16)
    assert not (words >> np.uint64(62)).any()
    eighths = words >> np.uint64(54)
    assert (eighths[:, 0::2] == eighths[:, 1::2]).all()  # both kinds of lanes have all of it
    halfs = sum(eighths[:, 2 * i] << np.uint64(8 * i) for i in range(8))
    ss, zs, sz, zz = ((halfs >> np.uint64(16 * i) & np.uint64(0xffff)).astype(np.uint16).view(
        np.float16)[:, None] for i in range(4))
    code = [(words >> np.uint64(3 * i) & np.uint64(7)).astype(np.float16) for i in range(18)]
    scale, zero = ss * (code[0] - sz), zs * (code[1] - zz)
    return np.stack([scale * (q - zero) for q in code[2:]], axis=2)


def spqr_weights(folder, layer, shape):
    """(dense weights in binary16, the outliers to be added in binary32, the order of columns): both
    with columns as they are stored."""
    rows, cols = shape
    dense, offsets, entries, order = parts_of(folder, layer, SPQR)
    assert [x.dtype for x in (dense, offsets, entries, order)] == [np.int64] + [np.int32] * 3
    assert rows % 16 == cols % 16 == 0 and cols < 23500
    assert len(dense) == rows * cols // 16 and len(offsets) == rows + 1 and len(order) == cols // 2
    tiles = spqr_tiles(dense).reshape(rows // 16, cols // 16, 16, 16)
    weights = tiles.transpose(0, 2, 1, 3).reshape(rows, cols)
    columns = entries & 0xffff
    values = (entries >> 16).astype(np.int16).view(np.float16).astype(np.float32)
    assert offsets[0] == 0 and offsets[-1] == len(entries) and (np.diff(offsets) >= 0).all()
    assert (columns < cols).all()
    outliers = np.zeros(shape, np.float32)
    np.add.at(outliers, (np.repeat(np.arange(rows), np.diff(offsets)), columns), values)
    order = order.view(np.uint16).astype(int)
    assert (np.sort(order) == np.arange(cols)).all()
    return weights, outliers, order


# ---- GPTQ ----

def gptq_layers(folder, bits):
    quantization = dict(folder.config["quantization_config"])
    roles = quantization.pop("modules_in_block_to_quantize", None)
    assert quantization == {"quant_method": "gptq", "bits": bits, "group_size": 128, "sym": True,
                            "desc_act": False, "checkpoint_format": "gptq", "lm_head": False}
    layers = {name.rsplit(".", 1)[0] for name in folder.tensors if name.endswith(".qweight")}
    for layer in layers:
        assert f"{layer}.weight" not in folder.tensors
    rest = [name for name in folder.tensors if name.endswith("_proj.weight")]
    assert (roles is not None) == bool(rest)
    if roles is not None:
        assert set(sum(roles, [])) == {layer.split(".", 3)[3] for layer in layers}
        assert not any(name.split(".", 3)[3].removesuffix(".weight") in sum(roles, [])
                       for name in rest)
    return layers


def numbers(words, bits):
    """[number][...] of strings of bits, the lowest first, that go along the first axis of words."""
    words = words.view(np.uint32)
    string = (words[:, None] >> np.arange(32, dtype=np.uint32)[:, *[None] * (words.ndim - 1)]) & 1
    string = string.reshape(-1, bits, *words.shape[1:])
    return sum(string[:, i].astype(int) << i for i in range(bits))


def gptq_weights(folder, layer, shape, bits):
    """float32, [rows][cols]."""
    rows, cols = shape
    words, zeros, scales, groups = parts_of(folder, layer, ("qweight", "qzeros", "scales", "g_idx"))
    count = cols // 128
    assert words.dtype == zeros.dtype == groups.dtype == np.int32 and scales.dtype == np.float16
    assert words.shape == (cols * bits // 32, rows) and zeros.shape == (count, rows * bits // 32)
    assert scales.shape == (count, rows) and (groups == np.arange(cols) // 128).all()
    codes = numbers(words, bits)
    zeros = (numbers(np.ascontiguousarray(zeros.T), bits).T + 1) % (1 << bits)
    assert (zeros == 1 << (bits - 1)).all()
    return (scales.astype(np.float32)[groups] * (codes - zeros[groups]).astype(np.float32)).T


# ---- AWQ ----

def awq_layers(folder):
    quantization = dict(folder.config["quantization_config"])
    kept = quantization.pop("modules_to_not_convert", [])
    assert quantization == {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True,
                            "version": "gemm"}
    layers = {name.rsplit(".", 1)[0] for name in folder.tensors if name.endswith(".qweight")}
    for layer in layers:
        assert f"{layer}.weight" not in folder.tensors and not any(part in layer for part in kept)
    rest = {name.split(".", 3)[3].removesuffix(".weight") for name in folder.tensors
            if name.endswith("_proj.weight")}
    assert rest == set(kept)
    return layers


def awq_numbers(words):
    """[row][number]: eight numbers in a word, the even ones first."""
    words = words.view(np.uint32)
    out = np.empty((*words.shape, 8), int)
    for nibble, place in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        out[..., place] = words >> np.uint32(4 * nibble) & np.uint32(15)
    return out.reshape(len(words), -1)


def awq_weights(folder, layer, shape):
    """float32, [rows][cols], and codes."""
    rows, cols = shape
    words, zeros, scales = parts_of(folder, layer, ("qweight", "qzeros", "scales"))
    assert words.dtype == zeros.dtype == np.int32 and scales.dtype == np.float16
    assert words.shape == (cols, rows // 8) and zeros.shape == (cols // 128, rows // 8)
    assert scales.shape == (cols // 128, rows)
    codes, groups = awq_numbers(words), np.arange(cols) // 128
    told = scales.astype(np.float32)[groups] * (codes - awq_numbers(zeros)[groups]).astype(np.float32)
    return told.T, codes.T
