# SPDX-License-Identifier: MIT
"""Reads the files of a calibration by the letter of codec/CALIBRATION.md, and writes factors."""

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


def write_factor(path, hessian, order, damping):
    """The factor of a Hessian (as read) with its columns in that order."""
    h = hessian.matrix[np.ix_(order, order)]
    dead = np.diag(h) == 0
    h = h + np.diag(np.where(dead, 1, damping * np.mean(np.diag(h))))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T.astype("<f4")
    data = struct.pack("<8s2If3IQ2I32sQ", b"QFSCALIB", 1, 1, damping, hessian.layer, hessian.input,
                       hessian.part, hessian.cols, hessian.chunk_size, hessian.chunks,
                       hessian.origin, hessian.tokens)
    data += np.asarray(order, "<u4").tobytes() + upper[np.triu_indices(hessian.cols)].tobytes()
    path.write_bytes(data + hashlib.sha256(data).digest())
