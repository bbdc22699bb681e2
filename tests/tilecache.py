# SPDX-License-Identifier: MIT
"""Reads tile cache objects by the letter of daemon/CACHE-FORMAT.md and of nothing else: a second
reader, which shares no code with the program. Whatever breaks a rule of that page is an
AssertionError."""

import ctypes
import struct

ALIGNMENT = HEADER = 4096
ENTRY = struct.Struct("<IIQ")
GROWING, SEALED = 1, 2
PRESENT, COMPRESSED = 1, 2

# The two libraries that the program is linked with, for what is not ours to test.
_zstd = ctypes.CDLL("libzstd.so.1")
_xxhash = ctypes.CDLL("libxxhash.so.0")
_zstd.ZSTD_decompress.restype = _zstd.ZSTD_compress.restype = ctypes.c_size_t
_xxhash.XXH64.restype = _xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64


def xxh64(data, seed=0):
    return _xxhash.XXH64(bytes(data), ctypes.c_size_t(len(data)), ctypes.c_uint64(seed))


def xxh3(data, seed):
    return _xxhash.XXH3_64bits_withSeed(bytes(data), ctypes.c_size_t(len(data)),
                                        ctypes.c_uint64(seed))


def zstd_compress(data):
    out = ctypes.create_string_buffer(len(data) + 4096)
    n = _zstd.ZSTD_compress(out, ctypes.c_size_t(len(out)), bytes(data),
                            ctypes.c_size_t(len(data)), 1)
    return out.raw[:n]


def zstd_decompress(frame, size):
    out = ctypes.create_string_buffer(size + 1)
    n = _zstd.ZSTD_decompress(out, ctypes.c_size_t(size), bytes(frame),
                              ctypes.c_size_t(len(frame)))
    assert n == size, "a frame that does not inflate to exactly its tile"
    return out.raw[:n]


def to_planes(tile, block_size):
    return b"".join(tile[i::block_size] for i in range(block_size))


def from_planes(planes, block_size):
    blocks = len(planes) // block_size
    return b"".join(planes[i::blocks] for i in range(blocks))


def align(n):
    return -(-n // ALIGNMENT) * ALIGNMENT


class Object:
    """One object, taken apart. `data` may be changed; seal_header() and seal_entry() make the
    checksums right again, as somebody would who wants to be believed."""

    def __init__(self, path):
        self.path = path
        self.data = bytearray(path.read_bytes())
        (magic, version, self.kind, self.key, self.size, self.tile_size, self.block_size,
         self.tile_count, index_checksum, checksum) = struct.unpack_from("<8sII32sQIIQQQ", self.data)
        assert magic == b"QFSTILES" and version == 2
        assert self.kind in (GROWING, SEALED)
        assert path.parent.name + path.name == self.key.hex()
        assert self.tile_count == -(-self.size // self.tile_size)
        assert checksum == xxh64(self.data[:80])
        assert not any(self.data[88:HEADER])
        assert index_checksum == (xxh64(self.index()) if self.kind == SEALED else 0)

    def index_end(self):
        return HEADER + ENTRY.size * self.tile_count

    def index(self):
        """The index; a growing file may end before it does."""
        return bytes(self.data[HEADER:self.index_end()]).ljust(ENTRY.size * self.tile_count, b"\0")

    def entry(self, tile):
        """(stored length, flags, checksum)"""
        return ENTRY.unpack_from(self.index(), ENTRY.size * tile)

    def set_entry(self, tile, length, flags, checksum):
        ENTRY.pack_into(self.data, HEADER + ENTRY.size * tile, length, flags, checksum)

    def raw_size(self, tile):
        return min(self.tile_size, self.size - tile * self.tile_size)

    def offset(self, tile):
        if self.kind == GROWING:
            return align(self.index_end()) + tile * align(self.tile_size)
        return self.index_end() + sum(self.entry(i)[0] for i in range(tile))

    def stored(self, tile):
        at = self.offset(tile)
        return bytes(self.data[at:at + self.entry(tile)[0]])

    def checksum(self, tile, length, flags, stored):
        return xxh3(stored, xxh64(struct.pack("<32sQII", self.key, tile, length, flags)))

    def tile(self, i):
        """The bytes of a tile, proven; None if it is not there."""
        length, flags, checksum = self.entry(i)
        if (length, flags, checksum) == (0, 0, 0):
            assert self.kind == GROWING
            return None
        stored = self.stored(i)
        assert flags in (PRESENT, PRESENT | COMPRESSED) and len(stored) == length
        assert checksum == self.checksum(i, length, flags, stored)
        if flags == PRESENT:
            assert length == self.raw_size(i)
            return stored
        assert self.kind == SEALED and length <= 0.97 * self.raw_size(i)
        return from_planes(zstd_decompress(stored, self.raw_size(i)), self.block_size)

    def tiles(self):
        return [self.tile(i) for i in range(self.tile_count)]

    def packed(self):
        """All bytes of the encoding; every tile must be there."""
        return b"".join(self.tiles())

    def seal_entry(self, tile, stored, flags):
        self.set_entry(tile, len(stored), flags, self.checksum(tile, len(stored), flags, stored))

    def seal_header(self):
        if self.kind == SEALED:
            struct.pack_into("<Q", self.data, 72, xxh64(self.index()))
        struct.pack_into("<Q", self.data, 80, xxh64(self.data[:80]))

    def write(self):
        """Writes data back in place: the inode stays."""
        with open(self.path, "r+b") as out:
            out.write(self.data)
            out.truncate()


def paths(cache):
    """All files among a cache's objects."""
    return sorted((cache / "v2").glob("??/*"))


def objects(cache):
    return [Object(path) for path in paths(cache)]


def disk_usage(folder):
    """Bytes on disk of all files in a folder, which may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            st = path.lstat()
        except FileNotFoundError:
            continue
        if path.is_file():
            total += st.st_blocks * 512
    return total
