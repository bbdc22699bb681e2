# SPDX-License-Identifier: MIT
"""The tile cache: what is written, by the byte; what a later mount, a mount beside it, or one after
kill -9 makes of it; and who shares it with whom. Whatever happens, the bytes are right."""

import hashlib
import os
import random
import shutil
import subprocess
import threading
import time

import pytest

import tilecache
from conftest import DATA, convert, wait_until
from models import make

MODELS = ("demo-llama", "demo-qwen2")
CACHED = "Q8_0 Q6_K Q5_K_M Q5_1 Q4_K_M Q4_0 IQ4_NL Q3_K_M Q2_K".split()
PASSED_THROUGH = ("F32", "F16", "BF16")


def gguf(mnt, model, recipe):
    return (mnt / model / "gguf" / f"{model}-{recipe}.gguf").read_bytes()


def is_right(oracle, mnt, model, recipe):
    return (hashlib.sha256(gguf(mnt, model, recipe)).hexdigest()
            == oracle[model][recipe]["sha256"])


def filled(mount, store, cache, model, recipe, *options):
    """A cache that holds one file of gguf/, and all of it."""
    mnt = mount(store, f"cache={cache}", *options)
    data = gguf(mnt, model, recipe)
    mnt.unmount()
    return data


# ---- what is written ----

def test_objects_hold_every_tensor_once(mount, tmp_path):
    """Objects follow CACHE-FORMAT.md, and each one's bytes are a run of the converted file."""
    cache = tmp_path / "cache"
    filled(mount, DATA, cache, "demo-llama", "Q4_K_M", "compress=off")
    converted = convert(DATA / "demo-llama", "Q4_K_M")
    found = tilecache.objects(cache)
    places = sorted((converted.find(o.packed()), o.size) for o in found)
    assert len(found) > 10
    for (place, size), (following, _) in zip(places, places[1:]):
        assert 0 < place and place + size <= following
    assert {o.kind for o in found} == {tilecache.GROWING}
    assert {path.stat().st_mode & 0o777 for path in tilecache.paths(cache)} == {0o600}
    assert {folder.stat().st_mode & 0o777 for folder in (cache, cache / "v2")} == {0o700}


def test_growing_objects_are_sparse(mount, tall, tmp_path):
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}", "readahead=0")
    with open(mnt / tall.file("q8_0"), "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 100, 3_500_000) == tall.bytes("q8_0")[3_500_000:3_500_100]
    mnt.unmount()
    (found,) = tilecache.objects(cache)
    assert found.kind == tilecache.GROWING
    assert [tile is not None for tile in found.tiles()] == [i == 3 for i in range(5)]
    st = found.path.stat()
    assert st.st_blocks * 512 < 1.5 * found.tile_size < st.st_size / 2


def test_complete_objects_are_sealed_when_there_is_time(mount, tall, tmp_path):
    """Sealed objects are compact, compressed only where that pays, and read the same."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    wait_until(lambda: mnt.stats()["objects_sealed"] == 2)
    mnt.unmount()
    seen = set()
    for found in tilecache.objects(cache):
        form = "q8_0" if found.block_size == 34 else "q4_k"
        assert found.kind == tilecache.SEALED
        assert found.packed() == tall.bytes(form)
        assert len(found.data) == found.offset(found.tile_count)
        for i in range(found.tile_count):
            stored, flags, _ = found.entry(i)
            compressed = flags == tilecache.PRESENT | tilecache.COMPRESSED
            assert compressed or flags == tilecache.PRESENT
            size = min(found.tile_size, found.size - i * found.tile_size)
            assert stored <= size * 0.97 if compressed else stored == size
            seen.add((form, compressed))
    assert ("q8_0", True) in seen and ("q4_k", False) in seen
    mnt = mount(tall.store, f"cache={cache}")
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    stats = mnt.stats()
    assert stats["tiles_encoded"] == 0 and stats["tiles_loaded"] == 8


def test_what_an_earlier_mount_left_growing_is_sealed_by_a_later_one(mount, tall, tmp_path):
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}", "compress=off")
    tall.read(mnt, "q8_0")
    mnt.unmount()
    mnt = mount(tall.store, f"cache={cache}")
    tall.read(mnt, "q8_0")
    wait_until(lambda: mnt.stats()["objects_sealed"] == 1)


@pytest.mark.parametrize("recipe", PASSED_THROUGH)
def test_plain_floats_are_not_cached(mount, oracle, tmp_path, recipe):
    cache = tmp_path / "cache"
    mnt = mount(DATA, f"cache={cache}")
    assert is_right(oracle, mnt, "demo-llama", recipe)
    mnt.unmount()
    assert tilecache.paths(cache) == []


def test_without_a_cache_nothing_is_written(mount, oracle, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    mnt = mount(DATA, "cache=none",
                env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)})
    assert is_right(oracle, mnt, "demo-llama", "Q4_K_M")
    assert mnt.stats()["tiles_stored"] == 0
    mnt.unmount()
    assert list(home.iterdir()) == []


# ---- later mounts ----

@pytest.mark.parametrize("model", MODELS)
def test_a_second_mount_loads(mount, oracle, tmp_path, model):
    for number, counter, other in ((1, "tiles_encoded", "tiles_loaded"),
                                   (2, "tiles_loaded", "tiles_encoded")):
        mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
        for recipe in ("Q8_0", "Q2_K"):
            assert is_right(oracle, mnt, model, recipe), number
        stats = mnt.stats()
        # vectors stay plain floats in every recipe: they are copied each time
        assert stats[counter] > 20 and (number == 1 or stats[other] == plain_tiles(oracle, model))
        mnt.unmount()


def plain_tiles(oracle, model):
    """How many tensors of the two recipes above pass through the cache."""
    return sum(kind == "F32" for recipe in ("Q8_0", "Q2_K")
               for kind, _ in oracle[model][recipe]["tensors"].values())


@pytest.mark.parametrize("seed", range(8))
def test_kill_9_leaves_only_valid_tiles(mount, oracle, store, tmp_path, seed):
    """At any moment: what has an entry is there, and the next mount is right."""
    rng = random.Random(seed)
    cache = tmp_path / "cache"
    files = [(model, recipe) for model in MODELS for recipe in CACHED]
    rng.shuffle(files)
    for seal in rng.sample(["sealed", "sealed", "off"], 2):
        mnt = mount(store, f"cache={cache}", f"compress={seal}", "memory=16M")

        def load(mine, mnt=mnt):
            for model, recipe in mine:
                try:
                    gguf(mnt, model, recipe)
                except OSError:
                    return  # the daemon has gone

        readers = [threading.Thread(target=load, args=(files[i::3],)) for i in range(3)]
        for reader in readers:
            reader.start()
        time.sleep(rng.uniform(0.01, 0.3))  # the moment of the kill
        mnt.kill()
        mnt.clean_up()
        for reader in readers:
            reader.join()
        for path in tilecache.paths(cache):
            if path.suffix != ".tmp" and path.stat().st_size:
                tilecache.Object(path).tiles()
    mnt = mount(store, f"cache={cache}")
    for model, recipe in files[:6]:
        assert is_right(oracle, mnt, model, recipe)
    assert mnt.stats()["tiles_healed"] == 0
    mnt.unmount()


# ---- who shares ----

@pytest.mark.parametrize("same", [True, False], ids=["same files", "other files"])
def test_two_mounts_share_a_cache_at_once(mount, oracle, tmp_path, same):
    cache = tmp_path / "cache"
    mounts = [mount(DATA, f"cache={cache}", "memory=16M") for _ in range(2)]
    plans = [CACHED[:6], CACHED[:6] if same else CACHED[6:] + CACHED[:3]]
    wrong = []

    def read(mnt, plan):
        wrong.extend((model, recipe) for recipe in plan for model in MODELS
                     if not is_right(oracle, mnt, model, recipe))

    readers = [threading.Thread(target=read, args=pair) for pair in zip(mounts, plans)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong
    for mnt in mounts:
        mnt.unmount()
    for found in tilecache.objects(cache):
        found.tiles()
    mnt = mount(DATA, f"cache={cache}")
    for recipe in CACHED[:6]:
        assert is_right(oracle, mnt, "demo-llama", recipe)
    assert mnt.stats()["tiles_healed"] == 0


def twins(store):
    """Two models that differ in their weights and in nothing that can be seen without reading."""
    for seed, name in enumerate("ab"):
        make(store / name, seed=seed, layers=1)
    files = [store / name / "model.safetensors" for name in "ab"]
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    first, second = (file.read_bytes() for file in files)
    header = 8 + int.from_bytes(first[:8], "little")
    assert len(first) == len(second) and first[:header] == second[:header] and first != second


def check_each(mount, store, cache):
    mnt = mount(store, f"cache={cache}")
    for folder in sorted(store.iterdir()):
        assert gguf(mnt, folder.name, "Q4_K_M") == convert(folder, "Q4_K_M")
    stats = mnt.stats()
    mnt.unmount()
    return stats


def swap(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def test_models_that_differ_only_in_weights_never_share(mount, tmp_path):
    store, cache = tmp_path / "twins", tmp_path / "cache"
    twins(store)
    first = check_each(mount, store, cache)
    assert first["tiles_loaded"] == 0

    subprocess.run(["cp", "-pr", store / "a", store / "c"], check=True)
    check_each(mount, store, cache)

    swap(store / "a", store / "b")
    assert check_each(mount, store, cache)["tiles_healed"] == 0

    swap(store / "a" / "model.safetensors", store / "b" / "model.safetensors")
    check_each(mount, store, cache)

    copy = (store / "a" / "model.safetensors").read_bytes()
    (store / "b" / "model.safetensors").write_bytes(copy)
    os.utime(store / "b" / "model.safetensors", ns=(10**18, 10**18))
    check_each(mount, store, cache)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts tmpfs: needs root")
def test_equal_inodes_of_two_file_systems_do_not_share(mount, tmpfs, tmp_path):
    """Fresh file systems number their files alike, and the clock of ctime is coarse: inode, size and
    times of two files can be the same."""
    twins(tmp_path / "twins")
    stores = [tmpfs(name, "size=64m") for name in ("first", "second")]
    files = [path / "m" / "model.safetensors" for path in stores]
    for source, copy in zip("ab", stores):
        shutil.copytree(tmp_path / "twins" / source, copy / "m")

    def identities():
        for file in files:
            os.utime(file, ns=(10**18, 10**18))
        return {(st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
                for st in map(os.stat, files)}

    wait_until(lambda: len(identities()) == 1)
    for path in stores:
        check_each(mount, path, tmp_path / "cache")


def test_the_same_weights_under_another_name_share(mount, store, tmp_path):
    """The folder renamed, the store moved, a hard link: none of it is encoded again."""
    cache = tmp_path / "cache"
    shutil.rmtree(store / "demo-qwen2")
    linked = store / "linked"
    linked.mkdir()
    for file in (store / "demo-llama").iterdir():
        os.link(file, linked / file.name)
    filled(mount, store, cache, "demo-llama", "Q4_K_M")
    kept = len(tilecache.paths(cache))

    (store / "demo-llama").rename(store / "renamed")
    moved = store.rename(tmp_path / "moved")
    mnt = mount(moved, f"cache={cache}")
    for model in ("linked", "renamed"):
        assert gguf(mnt, model, "Q4_K_M") == convert(moved / model, "Q4_K_M")
    assert mnt.stats()["tiles_stored"] == 0
    mnt.unmount()
    assert len(tilecache.paths(cache)) == kept


def test_importance_has_its_own_objects(mount, store, oracle, tmp_path):
    cache, matrix = tmp_path / "cache", DATA / "demo-llama.imatrix.dat"
    shutil.rmtree(store / "demo-qwen2")
    without = filled(mount, store, cache, "demo-llama", "Q3_K_M")
    before = set(tilecache.paths(cache))
    weighted = filled(mount, store, cache, "demo-llama", "Q3_K_M", f"imatrix={matrix}")
    assert weighted == convert(store / "demo-llama", "Q3_K_M", "--imatrix", matrix) != without
    assert set(tilecache.paths(cache)) > before
    mnt = mount(store, f"cache={cache}")
    assert is_right(oracle, mnt, "demo-llama", "Q3_K_M")
    assert mnt.stats()["tiles_stored"] == 0
