# SPDX-License-Identifier: MIT
"""Reads GPTQ tensors by the letter of codec/gptq/FORMAT.md and of nothing else."""

import numpy as np

#: name without twins -> bits, group, bytes of a group
FORMATS = {"4-g128": (4, 128, 66), "4-g32": (4, 32, 18), "3-g128": (3, 128, 50),
           "3-g32": (3, 32, 14), "8-g128": (8, 128, 130)}


def decode(data, kind, rows, columns):
    """(weights, scales [row][group], codes [row][column])"""
    bits, group, size = FORMATS[kind]
    assert columns % group == 0 and len(data) == rows * columns // group * size
    groups = np.frombuffer(data, np.uint8).reshape(rows, columns // group, size)
    scales = np.ascontiguousarray(groups[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    assert np.isfinite(scales).all()
    string = np.unpackbits(groups[:, :, 2:], axis=2, bitorder="little")
    string = string.reshape(rows, columns // group, group, bits).astype(int)
    codes = string @ (1 << np.arange(bits))
    weights = scales[:, :, None] * (codes - (1 << (bits - 1))).astype(np.float32)
    return weights.reshape(rows, columns), scales, codes.reshape(rows, columns)
