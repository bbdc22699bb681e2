# SPDX-License-Identifier: MIT
"""Reads the files of a calibration by the letter of codec/CALIBRATION.md."""

import hashlib
import struct

import numpy as np

HEADER = 88


class Calibrated:
    """A factor or a Hessian, as the page has it."""

    def __init__(self, path):
        data = path.read_bytes()
        (magic, version, self.kind, self.damping, self.layer, self.input, self.part, self.cols,
         self.chunk_size, self.chunks, self.origin, self.tokens) = struct.unpack_from(
             "<8s2If3IQ2I32sQ", data)
        assert (magic, version) == (b"QFSCALIB", 1)
        assert data[-32:] == hashlib.sha256(data[:-32]).digest()
        at, triangle = HEADER, np.triu_indices(self.cols)
        if self.kind == 1:
            self.order = np.frombuffer(data, "<u4", self.cols, at)
            at += 4 * self.cols
        packed = np.frombuffer(data, "<f4", len(triangle[0]), at)
        assert at + packed.nbytes + 32 == len(data)
        self.matrix = np.zeros((self.cols, self.cols))
        self.matrix[triangle] = packed
        if self.kind == 2:
            self.matrix += np.triu(self.matrix, 1).T
