# SPDX-License-Identifier: MIT
"""Reads the PNG files of a mount, and says what they should show, by the words of
codec/picture.h."""

import re
import struct
import zlib

import numpy as np

DECADES, STEPS = 4, 16


class Picture:
    """The pixels of a PNG of 8-bit palette colours without filters."""

    def __init__(self, data):
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        chunks, at = [], 8
        while at < len(data):
            (size,), kind = struct.unpack_from(">I", data, at), data[at + 4:at + 8]
            body = data[at + 8:at + 8 + size]
            assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + body),)
            chunks.append((kind, body))
            at += size + 12
        assert [kind for kind, _ in chunks] == [b"IHDR", b"PLTE", b"tEXt", b"IDAT", b"IEND"]
        (_, head), (_, palette), (_, text), (_, stream), _ = chunks
        self.width, self.height, *rest = struct.unpack(">IIBBBBB", head)
        assert rest == [8, 3, 0, 0, 0]
        self.palette = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        keyword, self.comment = text.decode("ascii").split("\0")
        assert keyword == "Comment"
        rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(self.height, -1)
        assert rows.shape[1] == self.width + 1 and not rows[:, 0].any()
        self.pixels = rows[:, 1:]
        assert self.pixels.max() < len(self.palette)

    def each(self):
        """Rows and columns of the matrix in a point."""
        return tuple(map(int, re.search(r"(\d+) x (\d+) weights", self.comment).groups()))

    def map(self, shape):
        """The pixels that show a matrix."""
        height, width = (-(-n // each) for n, each in zip(shape, self.each()))
        return self.pixels[:height, :width]


def points(numbers, each):
    """The greatest number in each rectangle."""
    rows, columns = (np.arange(0, n, step) for n, step in zip(numbers.shape, each))
    return np.maximum.reduceat(np.maximum.reduceat(numbers, rows, axis=0), columns, axis=1)


def colours(numbers):
    """What they have in a picture, as real numbers: the colour is the integer below."""
    highest = np.ceil(np.log10(numbers.max()))
    with np.errstate(divide="ignore"):
        logs = np.log10(numbers.astype(np.float64)) - (highest - DECADES)
    return np.clip(STEPS * logs, 0, DECADES * STEPS - 1)
