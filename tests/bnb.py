# SPDX-License-Identifier: MIT
"""NF4 and INT8 by the letter of codec/bnb/FORMAT.md and of nothing else: matrices to the tensors of
bitsandbytes' loaders, and back; and the bytes of tensors/."""

import json

import numpy as np

F32 = np.float32
VALUES = np.array([
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
], np.uint32).view(F32)
THRESHOLDS = (VALUES[1:] + VALUES[:-1]) / F32(2)
STATE = "quant_state.bitsandbytes__nf4"


def nested_values():
    """The 256 values of a quantized absmax, in ascending order."""
    found = [F32(0), F32(1)]
    for i in range(7):
        cells = 1 << i
        step = F32(F32(1) - F32(0.1)) / F32(cells)
        # a float32 product and a sum, rounded once: both are exact in float64 up to its 53 bits
        corners = [F32(float(step) * j + float(F32(0.1))) if j < (cells + 1) / 2 else
                   F32(1 - float(step) * (cells - j)) for j in range(cells + 1)]
        for low, high in zip(corners, corners[1:]):
            v = F32(10.0 ** (i - 6)) * F32(F32(low + high) / F32(2))
            found += [v, -v]
    return np.array(sorted(found), F32)


def blocks_of(weights):
    """(blocks of 64 with zeros behind the last weight, how many weights the last one has)"""
    flat = weights.reshape(-1).astype(F32)
    padded = np.zeros(-(-flat.size // 64) * 64, F32)
    padded[:flat.size] = flat
    return padded.reshape(-1, 64), (flat.size - 1) % 64 + 1


def nf4(weights):
    """(bytes of weight, absmax)"""
    blocks, last = blocks_of(weights)
    absmax = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        v = blocks * (F32(1) / absmax)[:, None]
        if last < 64:
            v[-1] = blocks[-1] / absmax[-1]
    codes = (v[:, :, None] > THRESHOLDS).sum(axis=2).astype(np.uint8)
    codes[blocks == 0] = 7
    codes = codes.reshape(-1, 2)
    return (codes[:, 0] << 4 | codes[:, 1])[:(weights.size + 1) // 2], absmax


def nest(absmax):
    """(codes, scales, offset) of absmax, quantized in turn."""
    total = 0.0
    for a in absmax.astype(np.float64):
        total += a
    offset, values = F32(total / len(absmax)), nested_values()
    middles = (values[1:] + values[:-1]) * F32(0.5)
    codes, scales = [], []
    for at in range(0, len(absmax), 256):
        y = absmax[at:at + 256] - offset
        scale = np.abs(y).max()
        v = y * (F32(1) / scale if scale else F32(0))
        codes.append(np.searchsorted(middles, v))  # how many middles are below v
        scales.append(scale)
    return np.concatenate(codes).astype(np.uint8), np.array(scales, F32), offset


def state(shape, dtype, offset=None):
    """The JSON of a quant_state, in 200 bytes."""
    told = {"quant_type": "nf4", "blocksize": 64, "dtype": dtype, "shape": list(shape)}
    if offset is not None:
        told |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
    return np.frombuffer(json.dumps(told).encode().ljust(200), np.uint8)


def nf4_tensors(weights, dtype, nested=False):
    """What stands for `weight`: name -> array."""
    codes, absmax = nf4(weights)
    found = {"weight": codes[:, None], "weight.quant_map": VALUES}
    if not nested:
        return found | {"weight.absmax": absmax, f"weight.{STATE}": state(weights.shape, dtype)}
    quantized, scales, offset = nest(absmax)
    return found | {"weight.absmax": quantized, "weight.nested_absmax": scales,
                    "weight.nested_quant_map": nested_values(),
                    f"weight.{STATE}": state(weights.shape, dtype, offset)}


def nf4_weights(tensors):
    """float32, from what stands for `weight`, before they are rounded to the model's type."""
    told = json.loads(tensors[f"weight.{STATE}"].tobytes())
    absmax = tensors["weight.absmax"]
    if "nested_offset" in told:
        scales = np.repeat(tensors["weight.nested_absmax"], 256)[:len(absmax)]
        absmax = tensors["weight.nested_quant_map"][absmax] * scales + F32(told["nested_offset"])
    packed = tensors["weight"].reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:np.prod(told["shape"])]
    scales = np.repeat(absmax, 64)[:codes.size]
    return (tensors["weight.quant_map"][codes] * scales).reshape(told["shape"])


def nf4_packed(weights):
    """The bytes of tensors/NAME/nf4."""
    codes, absmax = nf4(weights)
    codes = np.concatenate([codes, np.full(-codes.size % 32, 0x77, np.uint8)]).reshape(-1, 32)
    return np.concatenate([absmax[:, None].view(np.uint8), codes], axis=1).tobytes()


# ---- INT8 ----

def int8_tensors(weights):
    half = weights.astype(np.float16).astype(F32)
    greatest = np.abs(half).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(greatest > 0, F32(1) / greatest * F32(127), F32(0))
    codes = np.rint(half * factor[:, None]).astype(np.int8)
    return {"weight": codes, "SCB": greatest, "weight_format": np.array(0, np.uint8)}


def int8_weights(tensors):
    return tensors["weight"].astype(F32) * tensors["SCB"][:, None] * F32(7.874015718698502e-3)


def int8_packed(weights):
    """The bytes of tensors/NAME/int8."""
    tensors = int8_tensors(weights)
    return np.concatenate([tensors["SCB"][:, None].view(np.uint8), tensors["weight"].view(np.uint8)],
                          axis=1).tobytes()
