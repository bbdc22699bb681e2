# SPDX-License-Identifier: MIT
"""What the bytes of quantfs are compared with: weights as numpy reads them, packed by ggml. Nothing
here is shared with the program."""

import ctypes
import json
import pathlib
import struct

import gguf
import libggml
import numpy as np

_base = next(pathlib.Path(libggml.__file__).parent.rglob("libggml-base.so"))
_ggml = ctypes.CDLL(str(_base))
_quantize = _ggml.ggml_quantize_chunk
_quantize.restype = ctypes.c_size_t
_quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                      ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]


def quantize(weights, kind, importance=None):
    """The bytes that ggml makes of a matrix or a vector, in a format by its ggml name; with the
    importance of its columns, if that is given."""
    weights = np.ascontiguousarray(weights, np.float32)
    cols = weights.shape[-1]
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    packed = ctypes.create_string_buffer(weights.size // block * size)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    done = _quantize(gguf.GGMLQuantizationType[kind], weights.ctypes.data, packed, 0,
                     weights.size // cols, cols,
                     None if importance is None else importance.ctypes.data)
    assert done == len(packed)
    return packed.raw


def dequantize(packed, kind, shape):
    """The weights that ggml reads from the bytes of a format."""
    if kind == "F32":
        return np.frombuffer(packed, np.float32).reshape(shape)
    found = np.empty(shape, np.float32)
    decode = getattr(_ggml, f"dequantize_row_{kind.lower().replace('_k', '_K')}")
    decode.restype, decode.argtypes = None, [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
    decode(packed, found.ctypes.data, found.size)
    return found


def header(path):
    """(the JSON header of a safetensors file, where its data begins)"""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)), 8 + size


def read_safetensors(path):
    """name -> weights as float32, of a file of F32, F16 and BF16."""
    entries, data = header(path)
    found, stored = {}, pathlib.Path(path).read_bytes()
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        begin, end = (data + offset for offset in entry["data_offsets"])
        raw = stored[begin:end]
        if entry["dtype"] == "BF16":
            x = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[entry["dtype"]])
        found[name] = x.astype(np.float32).reshape(entry["shape"])
    return found


def read_model(folder):
    """name -> weights as float32, of all shards of a checkpoint."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        found.update(read_safetensors(path))
    return found
