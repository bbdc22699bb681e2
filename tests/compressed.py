# SPDX-License-Identifier: MIT
"""w4a16-g128 and w8a16 by the letter of codec/compressed/FORMAT.md and of nothing else: matrices to
the tensors of compressed-tensors, and back; and the bytes of tensors/."""

import numpy as np

F32 = np.float32
EPSILON = {"BF16": 2.0 ** -7, "F16": 2.0 ** -10, "F32": 2.0 ** -23}


def rounded(x, dtype):
    """float32, each as the type has it."""
    x = np.ascontiguousarray(x, F32)
    if dtype == "BF16":
        bits = x.view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16 << 16
        return bits.astype(np.uint32).view(F32)
    return x.astype(np.float16).astype(F32) if dtype == "F16" else x


def stored(x, dtype):
    """As the type's own bytes."""
    if dtype == "BF16":
        return (np.ascontiguousarray(x, F32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(np.float16 if dtype == "F16" else F32)


def quantized(groups, bits, dtype):
    """(codes, scales) of groups along the last axis."""
    groups = rounded(groups, dtype)
    scales = rounded(np.abs(groups).max(axis=-1) / F32((2 ** bits - 1) / 2), dtype)
    scales[scales == 0] = EPSILON[dtype]
    half = 2 ** (bits - 1)
    codes = np.clip(rounded(groups / scales[..., None], dtype), -half, half - 1)
    return np.rint(codes).astype(np.int8), scales


def w4_parts(weights, dtype):
    """(bytes of codes [row][group][64], scales [row][group])"""
    rows, cols = weights.shape
    codes, scales = quantized(weights.reshape(rows, cols // 128, 128), 4, dtype)
    fields = (codes + 8).astype(np.uint8)
    return fields[..., 0::2] | fields[..., 1::2] << 4, scales


def w4_tensors(weights, dtype):
    """What stands for `weight`: name -> array, floats as their bytes."""
    rows, cols = weights.shape
    packed, scales = w4_parts(weights, dtype)
    return {"weight_packed": packed.reshape(rows, -1).view(np.int32),
            "weight_scale": stored(scales, dtype),
            "weight_shape": np.array([rows, cols], np.int64)}


def w4_weights(tensors, dtype):
    rows, cols = tensors["weight_shape"]
    packed = tensors["weight_packed"].view(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(rows, cols).astype(F32) - 8
    return rounded(codes * np.repeat(widened(tensors["weight_scale"], dtype), 128, axis=1), dtype)


def w8_tensors(weights, dtype):
    codes, scales = quantized(weights, 8, dtype)
    return {"weight": codes, "weight_scale": stored(scales[:, None], dtype)}


def w8_weights(tensors, dtype):
    return rounded(tensors["weight"].astype(F32) * widened(tensors["weight_scale"], dtype), dtype)


def widened(x, dtype):
    return (x.astype(np.uint32) << 16).view(F32) if dtype == "BF16" else x.astype(F32)


def packed(weights, bits, dtype):
    """The bytes of tensors/NAME/w4a16-g128 or w8a16."""
    if bits == 4:
        codes, scales = w4_parts(weights, dtype)
    else:
        codes, scales = quantized(weights, 8, dtype)
    heads = np.ascontiguousarray(stored(scales, dtype)[..., None]).view(np.uint8)
    return np.concatenate([heads, codes.view(np.uint8)], axis=-1).tobytes()
