# SPDX-License-Identifier: MIT
"""AWQ by the letter of codec/awq/FORMAT.md and codec/CALIBRATION.md, with numpy and nothing of ours:
reads its tensors, quantizes as it does, reads scales and finds them again."""

import json
import struct

import numpy as np

GROUP, SIZE = 128, 67


def decode(data, rows, columns):
    """(weights, scales [row][group], zeros, codes [row][column])"""
    assert columns % GROUP == 0 and len(data) == rows * columns // GROUP * SIZE
    groups = np.frombuffer(data, np.uint8).reshape(rows, columns // GROUP, SIZE)
    scales = np.ascontiguousarray(groups[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    assert np.isfinite(scales).all()
    zeros, pairs = groups[:, :, 2].astype(int), groups[:, :, 3:].astype(int)
    codes = np.stack([pairs & 15, pairs >> 4], axis=3).reshape(rows, columns // GROUP, GROUP)
    weights = scales[:, :, None] * (codes - zeros[:, :, None]).astype(np.float32)
    return weights.reshape(rows, columns), scales, zeros, codes.reshape(rows, columns)


def quantize(weights):
    """Likewise, of float32 weights; every step in binary16."""
    half = np.float16
    groups = weights.astype(half).reshape(len(weights), -1, GROUP)
    least, greatest = groups.min(2), groups.max(2)
    scales = np.maximum(greatest - least, half(1e-5)) / half(15)
    assert scales.dtype == half
    zeros = np.clip(-np.rint(least / scales), 0, 15)
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint(groups / scales[:, :, None]) + zeros[:, :, None], 0, 15)
    told = scales.astype(np.float32)[:, :, None] * (codes - zeros[:, :, None]).astype(np.float32)
    return (told.reshape(weights.shape), scales.astype(np.float32), zeros.astype(int),
            codes.astype(int).reshape(weights.shape))


def nearest(weights):
    return quantize(weights)[0]


# ---- scales ----

RATIOS = np.arange(20) / 20


def read_scales(path):
    """(vectors by name, metadata) of awq.safetensors."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header, vectors = json.loads(data[8:8 + size]), {}
    told = header.pop("__metadata__")
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        assert entry["dtype"] == "F32" and entry["shape"] == [(last - first) // 4]
        vectors[name] = np.frombuffer(data[8 + size + first:8 + size + last], "<f4")
    return vectors, told


def candidates(matrices, magnitude):
    """The scales of each ratio."""
    weights = np.concatenate(matrices).astype(np.float32)
    groups = np.abs(weights).reshape(len(weights), -1, GROUP)
    parts = groups / (groups.max(2, keepdims=True) + np.float32(1e-6))
    mean = parts.reshape(weights.shape).mean(0, dtype=np.float64)
    for ratio in RATIOS:
        scales = np.maximum(magnitude.astype(float)**ratio / (mean**(1 - ratio) + 1e-4), 1e-4)
        yield scales / np.sqrt(scales.max() * scales.min())


def losses(matrices, scales, hessian):
    """What rounding the scaled weights does to what the matrices put out, of 1024 rows at most."""
    total = 0
    for matrix in matrices:
        count = min(len(matrix), 1024)
        matrix = matrix[np.arange(count) * len(matrix) // count]
        d = nearest(matrix * scales.astype(np.float32)) / scales - matrix
        total += np.einsum("ri,ij,rj->", d, hessian, d, optimize=True)
    return total
