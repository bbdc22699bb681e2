# SPDX-License-Identifier: MIT
"""Reads the header of a GGUF file that may have types of tensors which the gguf package refuses."""

import struct

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}
STRING, ARRAY = 8, 9


class Header:
    """keys: by name. tensors: name -> (type, extents fastest first, offset in the file)."""

    def __init__(self, data):
        self.data, self.at = data, 0
        magic, version, tensor_count, key_count = self.take("<4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        self.keys = {self.text(): self.value(self.take("<I")[0]) for _ in range(key_count)}
        infos = [self.info() for _ in range(tensor_count)]
        start = self.at + -self.at % 32
        self.tensors = {name: (kind, extents, start + offset)
                        for name, kind, extents, offset in infos}

    def take(self, layout):
        found = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return found

    def text(self):
        size, = self.take("<Q")
        self.at += size
        return self.data[self.at - size:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            kind, count = self.take("<IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(f"<{SCALARS[kind]}")[0]

    def info(self):
        name, (dims,) = self.text(), self.take("<I")
        extents = self.take(f"<{dims}Q")
        return name, *self.take("<I"), extents, *self.take("<Q")
