# SPDX-License-Identifier: MIT
""".quantfs/extents/, read by the letter of fs/EXTENTS.md: what it says of a file is true for as
long as the text is open, and every file of the mount has one."""

import errno
import os
import pathlib
import re
import shutil
import subprocess

import gguf
import pytest

import tilecache
from conftest import DATA, QUANTFS, wait_until

LLAMA = "demo-llama/gguf/demo-llama-{}.gguf"
CACHED = ("Q8_0", "Q5_1", "Q4_K_M", "Q2_K")
LINES = re.compile(r"quantfs extents 1\nsize (0|[1-9]\d*)\n((?:object .*\n)*)((?:tile .*\n)*)")
TILE = re.compile(r"tile (\d+) (\d+) (?:-|(\d+) (\d+) ([0-9a-f]{16}) ([0-9a-f]{16}))")


class Tile:
    def __init__(self, offset, length, number, at, checksum, seed):
        self.offset, self.length, self.end = int(offset), int(length), int(offset) + int(length)
        self.object = None if number is None else int(number)
        if number is not None:
            self.at, self.checksum, self.seed = int(at), int(checksum, 16), int(seed, 16)


class Extents:
    """The extents of a file, which stay open. Our own parser must read them as they are, too."""

    def __init__(self, mnt, path):
        self.file = open(mnt / ".quantfs/extents" / path, "rb")
        data = self.file.read()
        again = subprocess.run([QUANTFS.parent / "tests" / "extents"], input=data,
                               capture_output=True, check=True).stdout
        assert again == data
        size, objects, tiles = LINES.fullmatch(data.decode()).groups()
        self.size = int(size)
        self.objects = [line.split(" ", 2)[2] for line in objects.splitlines()]
        assert [line.split(" ", 2)[1] for line in objects.splitlines()] == \
            [str(i) for i in range(len(self.objects))]
        self.tiles = [Tile(*TILE.fullmatch(line).groups()) for line in tiles.splitlines()]
        self.raw = [tile for tile in self.tiles if tile.object is not None]
        assert {tile.object for tile in self.raw} == set(range(len(self.objects)))
        for tile, following in zip(self.tiles, self.tiles[1:]):
            assert tile.end <= following.offset
        assert not self.tiles or self.tiles[-1].end <= self.size

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.file.close()

    def check(self, data):
        """Every tile that lies anywhere is what the virtual file has there."""
        assert len(data) == self.size
        for tile in self.raw:
            with open(self.objects[tile.object], "rb") as file:
                stored = os.pread(file.fileno(), tile.length, tile.at)
            assert stored == data[tile.offset:tile.end]
            assert tilecache.xxh3(stored, tile.seed) == tile.checksum


def extents(mnt, path):
    with Extents(mnt, path) as found:
        return found


def tensors(path):
    """(offset, size, whether it is packed) of each tensor of a GGUF file."""
    return [(t.data_offset, t.n_bytes, t.tensor_type != gguf.GGMLQuantizationType.F32)
            for t in gguf.GGUFReader(path).tensors]


def whole(path):
    """The tensors as if each was a tile."""
    return [Tile(offset, size, *4 * [None]) for offset, size, _ in tensors(path)]


def runs(tiles):
    """Tiles joined where they lie end to end."""
    found = []
    for tile in tiles:
        if found and found[-1][1] == tile.offset:
            found[-1][1] = tile.end
        else:
            found.append([tile.offset, tile.end])
    return found


def read_some(path, offset, size):
    """Reads that much and nothing ahead."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(file.fileno(), size, offset)


def settle(mnt, path):
    """Reads a file, and waits until all its tiles lie raw but those of vectors, each of one tile."""
    data = (mnt / path).read_bytes()
    vectors = sum(not packed for *_, packed in tensors(mnt / path)) if path.endswith("gguf") else 0

    def is_stored():
        now = extents(mnt, path)
        return len(now.raw) + vectors == len(now.tiles)

    wait_until(is_stored)
    return data


def kind(path):
    """Whether an object is growing or sealed; 0: it is just being made."""
    return int.from_bytes(pathlib.Path(path).read_bytes()[12:16], "little")


def objects(cache):
    return {str(path) for path in tilecache.paths(cache) if path.suffix != ".tmp"}


def being_written(cache):
    return any(path.suffix == ".tmp" for path in tilecache.paths(cache))


# ---- what is told is true ----

@pytest.mark.parametrize("name", ["demo-llama", "org/demo-llama", "a/b/demo-llama"])
@pytest.mark.parametrize("recipe", CACHED)
def test_every_packed_tile_lies_where_it_is_said(mount, tmp_path, name, recipe):
    """None before the file is read; then all but those of vectors, which are plain floats."""
    shutil.copytree(DATA / "demo-llama", tmp_path / "store" / name)
    mnt = mount(tmp_path / "store", f"cache={tmp_path / 'cache'}", "compress=off")
    path = f"{name}/{LLAMA.format(recipe).split('/', 1)[1]}"
    before = extents(mnt, path)
    assert before.size == (mnt / path).stat().st_size
    assert before.tiles and not before.raw and not before.objects
    data = settle(mnt, path)
    after = extents(mnt, path)
    after.check(data)
    assert [(tile.offset, tile.length) for tile in after.raw] == \
        [(offset, size) for offset, size, packed in tensors(mnt / path) if packed]
    assert [(t.offset, t.end) for t in after.tiles] == [(t.offset, t.end) for t in before.tiles]
    assert runs(after.tiles) == runs(whole(mnt / path))
    assert set(after.objects) == objects(tmp_path / "cache")


def test_tiles_are_told_one_by_one(mount, tall, tmp_path):
    mnt = mount(tall.store, f"cache={tmp_path / 'cache'}", "readahead=0")
    path, data = tall.file("q8_0"), tall.bytes("q8_0")
    tiles = extents(mnt, path).tiles
    assert len(tiles) == 5
    made = []
    for which in (3, 0):
        assert read_some(mnt / path, tiles[which].offset, 10) == \
            data[tiles[which].offset:tiles[which].offset + 10]
        made.append(tiles[which].offset)
        wait_until(lambda: len(extents(mnt, path).raw) == len(made))
        now = extents(mnt, path)
        assert [tile.offset for tile in now.raw] == sorted(made)
        assert all(tile.at % 4096 == 0 for tile in now.raw)
        now.check(data)


def test_of_sealed_objects_what_is_not_compressed(mount, tall, tmp_path):
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    wait_until(lambda: mnt.stats()["objects_sealed"] == 2)
    by_block = {found.block_size: found for found in tilecache.objects(cache)}
    kinds = set()
    for form, block in (("q8_0", 34), ("q4_k", 144)):
        now, found = extents(mnt, tall.file(form)), by_block[block]
        now.check(tall.bytes(form))
        raw = [found.entry(i)[1] == tilecache.PRESENT for i in range(found.tile_count)]
        kinds |= {(form, kind) for kind in raw}
        assert [tile.object is not None for tile in now.tiles] == raw
        assert [tile.at for tile in now.raw] == \
            [found.offset(i) for i in range(found.tile_count) if raw[i]]
    assert ("q8_0", False) in kinds and ("q4_k", True) in kinds


@pytest.mark.parametrize("recipe", ["F32", "F16", "BF16"])
def test_plain_floats_lie_nowhere(mount, tmp_path, recipe):
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
    path = LLAMA.format(recipe)
    (mnt / path).read_bytes()
    now = extents(mnt, path)
    assert runs(now.tiles) == runs(whole(mnt / path))
    assert not now.raw


@pytest.mark.parametrize("folder", ["none", "a\nb"])
def test_without_a_cache_that_can_be_named_all_lies_nowhere(mount, tmp_path, folder):
    cache = folder if folder == "none" else tmp_path / folder
    mnt = mount(DATA, f"cache={cache}")
    path = LLAMA.format("Q4_K_M")
    (mnt / path).read_bytes()
    if folder != "none":
        packed = sum(packed for *_, packed in tensors(mnt / path))
        wait_until(lambda: mnt.stats()["tiles_stored"] == packed)
    now = extents(mnt, path)
    assert runs(now.tiles) == runs(whole(mnt / path))
    assert not now.raw and not now.objects


def test_a_model_that_changes_has_other_extents(mount, store, tmp_path):
    mnt = mount(store, f"cache={tmp_path / 'cache'}", "compress=off")
    path = LLAMA.format("Q4_K_M")
    data = settle(mnt, path)
    with Extents(mnt, path) as before:
        os.utime(store / "demo-llama/model.safetensors", (10**9, 10**9))

        def has_changed():
            try:
                return not extents(mnt, path).raw
            except OSError as error:
                assert error.errno in (errno.ESTALE, errno.EIO)
                return False

        wait_until(has_changed)
        before.check(data)


# ---- and stays so ----

def test_a_held_object_is_sealed_when_it_is_let_go(mount, tall, tmp_path):
    """One worker seals in order: once a later object is sealed, an earlier one was passed by."""
    mnt = mount(tall.store, f"cache={tmp_path / 'cache'}", "readahead=0", "workers=1")
    path, data = tall.file("q8_0"), tall.bytes("q8_0")
    read_some(mnt / path, 0, 10)
    wait_until(lambda: mnt.stats()["tiles_stored"] == 1)
    with Extents(mnt, path) as first, Extents(mnt, path) as second:
        tall.read(mnt, "q8_0")
        wait_until(lambda: mnt.stats()["tiles_stored"] == 5)
        tall.read(mnt, "q4_k")
        wait_until(lambda: mnt.stats()["objects_sealed"] == 1)
        assert len(first.raw) == len(second.raw) == 1
        first.check(data)
        first.close()
        (mnt / tall.file("q4_0")).read_bytes()
        wait_until(lambda: mnt.stats()["objects_sealed"] == 2)
        second.check(data)
        (name,) = second.objects
        assert kind(name) == tilecache.GROWING
    wait_until(lambda: mnt.stats()["objects_sealed"] == 3)
    assert kind(name) == tilecache.SEALED


def test_a_text_that_is_opened_while_its_object_is_sealed(mount, tall, tmp_path):
    """The sealing is given up, or was over: in either case what is told stays true."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    tall.read(mnt, "q8_0")
    wait_until(lambda: being_written(cache) or mnt.stats()["objects_sealed"], pause=0)
    with Extents(mnt, tall.file("q8_0")) as held:
        wait_until(lambda: not being_written(cache))
        held.check(tall.bytes("q8_0"))
    wait_until(lambda: {tilecache.SEALED} == set(map(kind, objects(cache))))


def test_texts_that_are_opened_while_objects_wait_to_be_sealed(mount, tmp_path):
    cache = tmp_path / "cache"
    mnt = mount(DATA, f"cache={cache}", "workers=1")
    files = [LLAMA.format(recipe) for recipe in CACHED]
    data = [(mnt / path).read_bytes() for path in files]
    held = [Extents(mnt, path) for path in files]
    named = {name for text in held for name in text.objects}
    (mnt / "demo-qwen2/gguf/demo-qwen2-Q8_0.gguf").read_bytes()
    wait_until(lambda: {tilecache.SEALED} == set(map(kind, objects(cache) - named)))
    for text, content in zip(held, data):
        text.check(content)
        text.close()
    wait_until(lambda: {tilecache.SEALED} == set(map(kind, objects(cache))))


def others(mnt, tall):
    """Reads other matrices, one after the other."""
    for part in ("up", "down"):
        for form in "q8_0 q6_k q5_k q5_1 q5_0 q4_k q4_1 q4_0 iq4_nl q3_k q2_k".split():
            name = tall.file(form).replace("gate", part)
            yield (mnt / name).read_bytes()


def test_a_held_object_is_not_evicted(mount, tall, tmp_path):
    mnt = mount(tall.store, f"cache={tmp_path / 'cache'}", "cache_size=16M", "keep_free=0",
                "compress=off")
    path, data = tall.file("q4_k"), tall.bytes("q4_k")
    settle(mnt, path)
    reading = others(mnt, tall)
    with Extents(mnt, path) as held:
        (name,) = held.objects
        os.utime(name, (10**9, 10**9))  # the first that would go
        wait_until(lambda: next(reading) and mnt.stats()["objects_evicted"] > 2)
        held.check(data)
    wait_until(lambda: next(reading) and not os.path.exists(name))


def test_held_objects_leave_descriptors_for_all_else(mount, tmp_path):
    """More objects are named than the daemon may have files open."""
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}", "compress=off",
                prefix=("prlimit", "--nofile=256"))
    files = [f"{model}/gguf/{model}-{recipe}.gguf" for model in ("demo-llama", "demo-qwen2")
             for recipe in "Q8_0 Q6_K Q5_K_M Q5_1 Q5_0 Q4_K_M Q4_1 Q4_0 IQ4_NL Q3_K_M Q2_K".split()]
    data = {path: settle(mnt, path) for path in files}
    held = [Extents(mnt, path) for path in files]
    assert len({name for text in held for name in text.objects}) > 256
    for text, path in zip(held, files):
        text.check(data[path])
        text.close()
    for model in ("demo-llama", "demo-qwen2"):
        name = f"{model}/original/config.json"
        assert (mnt / name).read_bytes() == (DATA / model / "config.json").read_bytes()
    assert mnt.stats()["errors"] == 0


# ---- for which files ----

def test_every_file_of_the_mount_has_extents(mount, tmp_path):
    """The folders are the mount's own; inode numbers are as listed, and not those of the files."""
    shutil.copytree(DATA / "demo-llama", tmp_path / "store/org/demo-llama")
    shutil.copytree(DATA / "demo-qwen2", tmp_path / "store/demo-qwen2")
    mnt = mount(tmp_path / "store")
    root = mnt / ".quantfs/extents"
    assert sorted(os.listdir(root)) == ["demo-qwen2", "org"]
    assert ".quantfs" not in os.listdir(root) and not (root / ".quantfs").exists()
    count = 0
    for folder, folders, names in os.walk(mnt.point):
        inside = pathlib.Path(folder).relative_to(mnt.point)
        listed = {entry.name: entry for entry in os.scandir(root / inside)}
        assert set(listed) == {*folders, *names}
        for name, entry in listed.items():
            st = os.stat(root / inside / name)
            assert entry.inode() == st.st_ino != os.stat(mnt / inside / name).st_ino
            assert entry.is_dir() == (name in folders)
            assert st.st_mode & 0o777 == (0o500 if entry.is_dir() else 0o400)
            assert st.st_uid == os.getuid() and st.st_size == 0
        for name in names:
            found = extents(mnt, inside / name)
            assert found.size == (mnt / inside / name).stat().st_size
            assert not found.raw
            count += 1
    assert count > 500
    for name in ("org/demo-llama/original/model.safetensors", "org/demo-llama/original/config.json",
                 "org/demo-llama/tensors/model.norm.weight/info.json"):
        assert not extents(mnt, name).tiles, name


def test_what_is_not_there(mount):
    mnt = mount(DATA)
    root = mnt / ".quantfs/extents"
    for name in ("nothing", "demo-llama/nothing", "demo-llama/gguf/demo-llama-Q9_K.gguf", "stats",
                 "demo-llama/tensors/nothing/q8_0", ".quantfs", "extents"):
        with pytest.raises(FileNotFoundError):
            os.stat(root / name)
    with pytest.raises(NotADirectoryError):
        os.stat(root / LLAMA.format("Q8_0") / "more")
    with pytest.raises(IsADirectoryError):
        open(root / "demo-llama" / "gguf", "rb")
    with pytest.raises(OSError) as caught:
        open(root / LLAMA.format("Q8_0"), "r+b")
    assert caught.value.errno == errno.EROFS
    assert os.listxattr(root / LLAMA.format("Q8_0")) == []
