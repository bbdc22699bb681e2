# SPDX-License-Identifier: MIT
"""Reading: any range, by any way, by many at once, gives the bytes of the converted file; and no
more is made for it than was asked for."""

import mmap
import os
import random
import threading

import gguf
import pytest

from conftest import DATA, convert

FILES = [("demo-llama", "Q4_K_M"), ("demo-qwen2", "Q3_K_M"), ("demo-qwen2", "BF16")]


def path(mnt, model, recipe):
    return mnt / model / "gguf" / f"{model}-{recipe}.gguf"


def tiles(mnt):
    return {name: n for name, n in mnt.stats().items() if name.startswith("tiles_")}


def read_direct(fd, offset, size):
    """Past the page cache, into memory that is aligned as O_DIRECT may want it."""
    buffer = mmap.mmap(-1, max(size, 1))
    return buffer[:os.preadv(fd, [memoryview(buffer)[:size]], offset)]


# ---- ranges ----

def borders(file):
    """Where one kind of bytes ends and another begins: header, tensors, padding, the end."""
    reader = gguf.GGUFReader(file)
    found = {0, reader.data_offset, file.stat().st_size}
    for tensor in reader.tensors:
        found |= {tensor.data_offset, tensor.data_offset + tensor.n_bytes}
    return sorted(found)


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["cached", "O_DIRECT"])
@pytest.mark.parametrize("model, recipe", FILES)
def test_any_range_is_that_of_the_converted_file(mount, tmp_path, model, recipe, flags):
    expected = convert(DATA / model, recipe)
    (tmp_path / "converted").write_bytes(expected)
    rng = random.Random(f"{model}{recipe}{flags}")
    edges = borders(tmp_path / "converted")
    near = [max(0, edge + rng.randint(-70, 10)) for edge in edges]
    ranges = [(at, rng.randint(1, 200)) for at in near]
    ranges += [(edge - 4, 4 + over) for edge in edges[1:] for over in (-1, 0, 1)]
    ranges += [(at, rng.randint(1, 1 << 18)) for at in rng.sample(near, 20)]
    ranges += [(rng.randrange(len(expected)), rng.randint(1, 9000)) for _ in range(100)]
    ranges += [(4096 * rng.randrange(len(expected) // 4096), 4096) for _ in range(20)]
    ranges += [(len(expected) - 1, 4096), (len(expected), 1), (len(expected) + 4096, 10)]
    rng.shuffle(ranges)
    fd = os.open(path(mount(DATA), model, recipe), os.O_RDONLY | flags)
    try:
        for at, size in ranges:
            got = read_direct(fd, at, size) if flags else os.pread(fd, size, at)
            assert got == expected[at:at + size], (at, size)
    finally:
        os.close(fd)


@pytest.mark.parametrize("model, recipe", FILES)
def test_a_shared_mapping_is_the_file(mount, model, recipe):
    expected = convert(DATA / model, recipe)
    with open(path(mount(DATA), model, recipe), "rb") as file:
        with mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            page = len(expected) // 2 & -mmap.PAGESIZE
            assert mapped[page:page + 4096] == expected[page:page + 4096]  # back to front first
            assert mapped[:] == expected


def test_many_readers_of_one_file_agree(mount):
    """Cached, direct and mapped readers at once, each in an order of its own, in little memory."""
    expected = convert(DATA / "demo-llama", "Q5_K_M")
    file = path(mount(DATA, "memory=16M"), "demo-llama", "Q5_K_M")
    wrong = []

    def check(seed, kind):
        rng = random.Random(seed)
        step = rng.choice([5000, 65536, 200_001])
        places = [*range(0, len(expected), step)]
        if seed % 2:
            rng.shuffle(places)
        fd = os.open(file, os.O_RDONLY | (os.O_DIRECT if kind == "direct" else 0))
        mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        for at in places:
            got = {"cached": lambda: os.pread(fd, step, at),
                   "direct": lambda: read_direct(fd, at, step),
                   "mapped": lambda: mapped[at:at + step]}[kind]()
            if got != expected[at:at + step]:
                wrong.append((seed, kind, at))
        mapped.close()
        os.close(fd)

    readers = [threading.Thread(target=check, args=(3 * n + i, kind)) for n in range(2)
               for i, kind in enumerate(("cached", "direct", "mapped"))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


# ---- what reading makes ----

def test_looking_at_everything_makes_nothing(mount):
    mnt = mount(DATA)
    looked_at = 0
    for folder, _, files in os.walk(mnt.point):
        for name in files:
            looked_at += os.path.getsize(os.path.join(folder, name)) > 0
    assert looked_at > 700
    assert not any(tiles(mnt).values())


@pytest.mark.parametrize("size", [1, 4096])
def test_a_small_read_makes_one_or_two_tiles(mount, tall, size):
    """In the middle of a file: nothing in front of it is made, nor behind."""
    mnt = mount(tall.store)
    for number, file in enumerate((path(mnt, "tall", "Q4_K_S"), path(mnt, "tall", "Q6_K"),
                                   mnt / tall.file("q8_0")), 1):
        before = tiles(mnt)["tiles_encoded"]
        fd = os.open(file, os.O_RDONLY)
        os.pread(fd, size, file.stat().st_size // 2 + 100)
        os.close(fd)
        made = tiles(mnt)
        assert 1 <= made["tiles_encoded"] - before <= 2, number
        assert made["tiles_prefetched"] == 0


def test_the_header_makes_no_tiles(mount, tall):
    """Programs that list tensors read headers and no more."""
    mnt = mount(tall.store, "readahead=0")
    with open(path(mnt, "tall", "Q4_K_S"), "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 4096, 0)[:4] == b"GGUF"
    assert not any(tiles(mnt).values())


@pytest.mark.parametrize("cache", [False, True], ids=["memory", "cache"])
def test_pages_are_kept_when_a_file_is_opened_again(mount, tmp_path, cache):
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}" if cache else "cache=none", "compress=off")
    for file in (path(mnt, "demo-llama", "Q4_K_M"), mnt / "demo-qwen2" / "tensors" /
                 "model.embed_tokens.weight" / "q4_0"):
        first = file.read_bytes()
        before = tiles(mnt)
        assert before["tiles_encoded"]
        assert file.read_bytes() == first
        after = tiles(mnt)
        # storing goes on behind the reader's back
        assert {**after, "tiles_stored": 0} == {**before, "tiles_stored": 0}


def test_what_recipes_share_is_made_once_with_a_cache(mount, tmp_path):
    """The same tensor in the same format is one encoding, in whichever file it is."""
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
    path(mnt, "demo-llama", "Q4_K_S").read_bytes()
    mnt.unmount()
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
    embedding = mnt / "demo-llama" / "tensors" / "model.embed_tokens.weight" / "q4_k"
    converted = convert(DATA / "demo-llama", "Q4_K_S")
    assert embedding.read_bytes() in converted
    assert tiles(mnt)["tiles_encoded"] == 0
