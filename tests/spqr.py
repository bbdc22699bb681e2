# SPDX-License-Identifier: MIT
"""Reads SpQR tensors by the letter of codec/spqr/FORMAT.md and of nothing else. Whatever breaks a
rule of that page is an AssertionError."""

import dataclasses

import numpy as np

ROWS, GROUP, COLUMNS = 16, 16, 64
PLANES = {2: ((0, 2),), 3: ((0, 2), (256, 1)), 4: ((0, 4),)}  # where, and how many bits
STATISTICS = {2: 256, 3: 384, 4: 512}
SUPERTILE = {2: 336, 3: 464, 4: 592}


def align(n):
    return -(-n // 16) * 16


@dataclasses.dataclass
class Tensor:
    weights: np.ndarray      # float32, columns in the matrix's order
    slots: int               # outliers that a stripe has room for
    filled: list             # of these, by stripe
    permutation: np.ndarray


def codes(plane, bits):
    """[row][column] of the bytes of a plane of weights."""
    width = 8 * bits
    rows = np.frombuffer(plane, np.uint8).reshape(ROWS, width)
    parts = [(rows >> (i * bits)) & ((1 << bits) - 1) for i in range(COLUMNS // width)]
    return np.concatenate(parts, axis=1)


def supertile(data, bits, step):
    q = np.zeros((ROWS, COLUMNS), step)
    shift = 0
    for at, width in PLANES[bits]:
        q += codes(data[at:at + ROWS * 8 * width], width).astype(step) * step(1 << shift)
        shift += width
    at = STATISTICS[bits]
    scales, zeros, third = (np.frombuffer(data, np.uint8, ROWS, at + 16 * i) for i in range(3))
    ss, sz, zs, zz = (np.frombuffer(data, np.float16, 4, at + 48 + 8 * i).astype(step)
                      for i in range(4))
    out = np.empty((ROWS, COLUMNS), np.float32)
    for g in range(COLUMNS // GROUP):
        qs = ((scales >> 2 * g & 3) | (third >> g & 1) << 2).astype(step)
        qz = ((zeros >> 2 * g & 3) | (third >> (4 + g) & 1) << 2).astype(step)
        scale, zero = ss[g] * (qs - sz[g]), zs[g] * (qz - zz[g])
        part = slice(GROUP * g, GROUP * (g + 1))
        out[:, part] = scale[:, None] * (q[:, part] - zero[:, None])
    assert np.isfinite(out).all()
    return out


def outliers(data, columns, slots, dense):
    """Adds them to the dense stripe; returns how many there are."""
    if not slots:
        assert not data
        return 0
    width = 2 if columns <= 65536 else 4
    ends = np.frombuffer(data, np.uint32, ROWS).astype(int)
    where = np.frombuffer(data, f"<u{width}", slots, 64).astype(int)
    values_at = 64 + align(slots * width)
    values = np.frombuffer(data, np.float16, slots, values_at).astype(np.float32)
    assert len(data) == values_at + align(slots * 2)
    assert (np.diff(ends) >= 0).all() and 0 <= ends[0] and ends[-1] <= slots
    assert not any(data[64 + slots * width:values_at]) and not any(data[values_at + slots * 2:])
    assert not where[ends[-1]:].any() and not values[ends[-1]:].any()
    for row in range(ROWS):
        mine = slice(ends[row - 1] if row else 0, ends[row])
        assert (where[mine] < columns).all() and (np.diff(where[mine]) > 0).all()
        dense[row, where[mine]] += values[mine]
    return int(ends[-1])


def shape(bits, columns, budget):
    """Slots of a stripe, bytes of a column's number and of a stripe."""
    slots = int(np.floor(budget * ROWS * columns + 0.5))
    width = 2 if columns <= 65536 else 4
    extra = 64 + align(slots * width) + align(slots * 2) if slots else 0
    return slots, width, -(-columns // COLUMNS) * SUPERTILE[bits] + extra


def size(bits, rows, columns, budget=0.01):
    """Bytes of a matrix."""
    _, width, stripe_size = shape(bits, columns, budget)
    return -(-rows // ROWS) * stripe_size + columns * width


def decode(data, bits, rows, columns, budget=0.01, step=np.float32):
    """step: what each operation of a dense weight is rounded to; the page says binary32, and the
    published kernels compute in binary16."""
    slots, width, stripe_size = shape(bits, columns, budget)
    tiles, stripes = -(-columns // COLUMNS), -(-rows // ROWS)
    assert len(data) == size(bits, rows, columns, budget)
    permutation = np.frombuffer(data, f"<u{width}", columns, stripes * stripe_size).astype(int)
    assert (np.sort(permutation) == np.arange(columns)).all()
    out, filled = np.empty((stripes * ROWS, columns), np.float32), []
    for s in range(stripes):
        stripe = data[s * stripe_size:(s + 1) * stripe_size]
        dense = np.concatenate([supertile(stripe[i * SUPERTILE[bits]:(i + 1) * SUPERTILE[bits]],
                                          bits, step) for i in range(tiles)], axis=1)[:, :columns]
        filled.append(outliers(stripe[tiles * SUPERTILE[bits]:], columns, slots, dense))
        out[s * ROWS:(s + 1) * ROWS] = dense
    weights = np.empty((rows, columns), np.float32)
    weights[:, permutation] = out[:rows]
    return Tensor(weights, slots, filled, permutation)
