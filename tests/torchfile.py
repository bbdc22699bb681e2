# SPDX-License-Identifier: MIT
"""Writes checkpoints as torch.save does, without torch: a zip archive of a pickle and the bytes of
every storage, each aligned to 64."""

import collections
import pickle
import struct
import sys
import types
import unittest.mock
import zipfile

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
            "I64": "LongStorage", "U8": "ByteStorage"}
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}

# Stand-ins of the names that the pickle has; a pickler looks them up while it writes.
torch = types.ModuleType("torch")
torch._utils = types.ModuleType("torch._utils")
for _name in STORAGES.values():
    setattr(torch, _name, type(_name, (), {"__module__": "torch"}))


def _rebuild_tensor_v2():
    pass


_rebuild_tensor_v2.__module__ = "torch._utils"
torch._utils._rebuild_tensor_v2 = _rebuild_tensor_v2


class Storage:
    """Bytes that tensors lie in."""

    def __init__(self, dtype, data):
        self.dtype, self.data = dtype, data


class Tensor:
    """A part of a storage. strides: None for rows one after the other."""

    def __init__(self, storage, shape, first=0, strides=None):
        self.storage, self.shape, self.first, self.strides = storage, shape, first, strides

    def __reduce__(self):
        strides, step = [], 1
        for extent in reversed(self.shape):
            strides.insert(0, step)
            step *= extent
        return _rebuild_tensor_v2, (self.storage, self.first, tuple(self.shape),
                                    tuple(self.strides or strides), False,
                                    collections.OrderedDict())


def tensor(dtype, shape, data):
    return Tensor(Storage(dtype, data), shape)


class _Pickler(pickle.Pickler):
    """Storages stand outside, under their numbers."""

    def __init__(self, file, storages):
        super().__init__(file, 2)
        self.storages = storages

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        return ("storage", getattr(torch, STORAGES[obj.dtype]),
                str(self.storages.index(obj)), "cpu", len(obj.data) // SIZES[obj.dtype])


def write(path, content, *, byteorder="little", compression=zipfile.ZIP_STORED):
    """content: a dictionary from names to tensors, or anything else that can be pickled."""
    storages = []
    with zipfile.ZipFile(path, "w", compression) as archive:
        def add(name, data):
            info = zipfile.ZipInfo(f"archive/{name}")
            info.compress_type = compression
            begin = archive.fp.tell() + 30 + len(info.filename) + 4
            padding = -begin % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(info, data)

        with unittest.mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": torch._utils}):
            with archive.open("archive/data.pkl", "w") as file:
                _Pickler(file, storages).dump(content)
        add("byteorder", byteorder)
        for i, storage in enumerate(storages):
            add(f"data/{i}", storage.data)
        add("version", "3\n")
