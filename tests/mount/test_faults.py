# SPDX-License-Identifier: MIT
"""What goes wrong beside a mount: a cache that is damaged, full, read-only, gone, or not ours; a
store that changes. Reads are right or fail; counters and log say what happened."""

import errno
import itertools
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest

import tilecache
from conftest import DATA, QUANTFS, convert, run, wait_until, written
from models import make

MODEL, RECIPES = "demo-llama", ("Q8_0", "Q6_K", "Q5_1", "Q4_K_M", "Q3_K_M", "Q2_K")
KINDS = {"growing": tilecache.GROWING, "sealed": tilecache.SEALED}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts or owns what only root may")


# ---- a damaged cache ----

def read_all(mnt, converted):
    for recipe, data in converted.items():
        assert (mnt / MODEL / "gguf" / f"{MODEL}-{recipe}.gguf").read_bytes() == data, recipe


def fill(mount, store, cache, kind, read):
    """A cache with complete objects of a kind, made by what read(mnt) reads."""
    mnt = mount(store, f"cache={cache}", "cache_size=1G", "keep_free=0", "compress=off")
    read(mnt)
    mnt.unmount()
    if kind == "sealed":
        mnt = mount(store, f"cache={cache}")
        read(mnt)
        wait_until(lambda: mnt.stats()["objects_sealed"] == len(tilecache.paths(cache)))
        mnt.unmount()
    found = tilecache.objects(cache)
    assert {o.kind for o in found} == {KINDS[kind]}
    return found


@pytest.fixture(scope="module")
def converted():
    return {recipe: convert(DATA / MODEL, recipe) for recipe in RECIPES}


def flip(found, where, rng):
    """Flips one bit of an object's header, of its index, or of a tile."""
    tile = rng.randrange(found.tile_count)
    start, size = {"header": (0, 88),  # what follows is padding
                   "index": (tilecache.HEADER, len(found.index())),
                   "tile": (found.offset(tile), found.entry(tile)[0])}[where]
    found.data[start + rng.randrange(size)] ^= 1 << rng.randrange(8)
    found.write()


@pytest.mark.parametrize("where", ["header", "index", "tile"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_healed(mount, converted, tmp_path, kind, where):
    """One in every object; all are made again, and what is stored then is whole."""
    cache, rng = tmp_path / "cache", random.Random(1)
    found = fill(mount, DATA, cache, kind, lambda mnt: read_all(mnt, converted))
    whole = {o.path: o.packed() for o in found}
    assert len(found) > 50
    for damaged in found:
        flip(damaged, where, rng)
    for healed in (len(found), 0):
        mnt = mount(DATA, f"cache={cache}", "compress=" + ("off" if kind == "growing" else kind))
        read_all(mnt, converted)
        assert mnt.stats()["tiles_healed"] == healed
        mnt.unmount()
    assert {o.path: o.packed() for o in tilecache.objects(cache)} == whole


def check_healed(mount, store, cache, read, *healed):
    """Whatever was done to the cache: what is read is right, that many tiles were damaged, and the
    next mount finds none that is."""
    for expected in (healed, (0,)):
        mnt = mount(store, f"cache={cache}", "compress=off")
        read(mnt)
        assert mnt.stats()["tiles_healed"] in expected
        assert mnt.stats()["errors"] == 0
        mnt.unmount()


@pytest.fixture
def q8(mount, tall, tmp_path):
    """The tall matrix in q8_0, an object of several tiles: q8.fill(kind), q8.check(healed)."""

    class Case:
        cache = tmp_path / "cache"

        def read(self, mnt):
            tall.read(mnt, "q8_0")

        def fill(self, kind):
            (found,) = fill(mount, tall.store, self.cache, kind, self.read)
            assert found.tile_count == 5
            return found

        def check(self, *healed):
            check_healed(mount, tall.store, self.cache, self.read, *healed)

    return Case()


def lay(found, stored, entries):
    """Puts tiles and entries where they belong by their numbers and by those entries."""
    for i, entry in enumerate(entries):
        found.set_entry(i, *entry)
    for i, (length, _, _) in enumerate(entries):
        at = found.offset(i)
        found.data[at:at + length] = stored[i][:length].ljust(length, b"\0")
    found.seal_header()
    found.write()


@pytest.mark.parametrize("entries_too", [False, True], ids=["tiles", "tiles and entries"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_tiles_that_have_changed_places(q8, kind, entries_too):
    found = q8.fill(kind)
    stored = [found.stored(i) for i in range(5)]
    entries = [found.entry(i) for i in range(5)]
    for tiles in (stored, entries)[:1 + entries_too]:
        tiles[0], tiles[1] = tiles[1], tiles[0]
    lay(found, stored, entries)
    # a sealed object whose index vouches for other bytes goes, at once or after the second
    q8.check(*(1, 2) if entries_too and kind == "sealed" else (2,))


@pytest.mark.parametrize("what", ["tile and entry", "object", "object with our key"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_another_object(mount, tall, q8, tmp_path, kind, what):
    """Valid tiles of the same shape and format, of a matrix beside it."""
    other = tall.TENSOR.replace("gate", "up")
    name = f"tall/tensors/{other}/q8_0"
    theirs = fill(mount, tall.store, tmp_path / "other", kind,
                  lambda mnt: (mnt / name).read_bytes())[0]
    ours = q8.fill(kind)
    assert ours.key != theirs.key
    if what == "tile and entry":
        stored = [ours.stored(0), theirs.stored(1), *map(ours.stored, range(2, 5))]
        entries = [ours.entry(0), theirs.entry(1), *map(ours.entry, range(2, 5))]
        lay(ours, stored, entries)
        q8.check(1)
        return
    ours.data = theirs.data
    if what == "object with our key":
        ours.data[16:48] = ours.key
        ours.seal_header()
    ours.write()
    if what == "object":
        q8.check(1)
    else:  # tile by tile, until a sealed one goes
        q8.check(*(5,) if kind == "growing" else range(1, 6))


# What is left of a file -> how many tiles of five are damaged; the others are there, or never were.
CUTS = {
    "growing": {
        "nothing": (lambda o: 0, 0),
        "a byte": (lambda o: 1, 1),
        "most of the header": (lambda o: tilecache.HEADER - 1, 1),
        "the header": (lambda o: tilecache.HEADER, 0),
        # the half is one too, once the file has grown behind it
        "one entry and a half": (lambda o: tilecache.HEADER + 24, 1, 2),
        "the index": (lambda o: o.index_end(), 5),
        "one slot": (lambda o: o.offset(1), 4),
        "one slot and a byte": (lambda o: o.offset(1) + 1, 4),
        "all but a byte": (lambda o: len(o.data) - 1, 1),
    },
    "sealed": {
        "nothing": (lambda o: 0, 0),
        "most of the header": (lambda o: tilecache.HEADER - 1, 1),
        "the header": (lambda o: tilecache.HEADER, 1),
        "most of the index": (lambda o: o.index_end() - 1, 1),
        "the index": (lambda o: o.index_end(), 5),
        "one tile": (lambda o: o.offset(1), 4),
        "one tile and a byte": (lambda o: o.offset(1) + 1, 4),
        "all but a byte": (lambda o: len(o.data) - 1, 1),
    },
}


@pytest.mark.parametrize("kind, left", [(kind, left) for kind in CUTS for left in CUTS[kind]])
def test_a_truncated_object(q8, kind, left):
    found = q8.fill(kind)
    length, *healed = CUTS[kind][left]
    os.truncate(found.path, length(found))
    q8.check(*healed)


def header(place, value):
    """A change of the header that its checksum vouches for."""
    def change(found):
        found.data[place:place + len(value)] = value
        found.seal_header()
        found.write()
    return change


FOREIGN = {
    "another version": header(8, b"\1"),
    "version 0": header(8, b"\0"),
    "another magic": header(0, b"GGUF"),
    "another kind": header(12, b"\3"),
    "another size": header(48, b"\1"),
    "another tile size": header(57, b"\1"),
    "another block size": header(60, b"\1"),
    "another number of tiles": header(64, b"\6"),
    "an endless number of tiles": header(64, b"\xff" * 8),
    "text": lambda found: found.path.write_text("not an object\n" * 1000),
    "zeros": lambda found: found.path.write_bytes(bytes(len(found.data))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_of_another_making(q8, kind, what):
    FOREIGN[what](q8.fill(kind))
    q8.check(1)


def test_a_link_in_place_of_an_object(q8, tmp_path):
    """It is removed and not followed, not even to the object itself."""
    found = q8.fill("growing")
    aside = found.path.rename(tmp_path / "aside")
    found.path.symlink_to(aside)
    q8.check(1)
    assert aside.read_bytes() == found.data and not found.path.is_symlink()


def test_a_dangling_link_in_place_of_an_object(q8, tmp_path):
    found = q8.fill("growing")
    found.path.unlink()
    found.path.symlink_to(tmp_path / "nowhere")
    q8.check(1)
    assert not (tmp_path / "nowhere").exists() and found.path.read_bytes() == found.data


def test_a_fifo_in_place_of_an_object(q8):
    found = q8.fill("growing")
    found.path.unlink()
    os.mkfifo(found.path)
    q8.check(1)
    assert found.path.is_file()


def test_a_folder_in_place_of_an_object(q8):
    """What cannot be removed costs this object and nothing else."""
    found = q8.fill("growing")
    found.path.unlink()
    found.path.mkdir()
    (found.path / "file").touch()
    q8.check(0)
    assert (found.path / "file").exists()


# ---- a cache that cannot be written ----

def complaints(mnt, *words):
    return [line for line in mnt.lines() if all(word in line for word in words)]


@NEEDS_ROOT
def test_a_disk_without_room(mount, tall, tmpfs):
    """Room is asked for first; should it be gone by then, that is said once."""
    cache = tmpfs("cache", "size=3m,mode=700")
    for _ in range(2):
        mnt = mount(tall.store, f"cache={cache}", "cache_size=1G", "keep_free=0")
        for form in ("q8_0", "q4_k"):
            tall.read(mnt, form)
        stats = mnt.stats()
        mnt.unmount()
        assert stats["tiles_healed"] == stats["errors"] == 0
        assert len(mnt.lines()) == len(complaints(mnt, os.strerror(errno.ENOSPC))) <= 1


@NEEDS_ROOT
def test_a_disk_that_turns_out_to_be_full(mount, tall, tmpfs):
    """There is room but there are no inodes left but one object's: said once, that one is kept."""
    cache = tmpfs("cache", "nr_inodes=4,size=64m,mode=700")
    for encoded in (8, 3):
        mnt = mount(tall.store, f"cache={cache}")
        for form in ("q8_0", "q4_k"):
            tall.read(mnt, form)
        stats = mnt.stats()
        mnt.unmount()
        assert stats["tiles_encoded"] == encoded and stats["errors"] == 0
        assert len(complaints(mnt, str(cache), os.strerror(errno.ENOSPC))) == len(mnt.lines()) == 1
    assert [o.packed() for o in tilecache.objects(cache)] == [tall.bytes("q8_0")]


def test_a_limit_of_file_sizes(mount, tall, tmp_path):
    """ulimit -f: what is too large for it is not kept."""
    mnt = mount(tall.store, f"cache={tmp_path / 'cache'}",
                prefix=("prlimit", f"--fsize={3 << 20}"))
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    mnt.unmount()
    assert len(complaints(mnt, os.strerror(errno.EFBIG))) == len(mnt.lines()) == 1
    assert tall.bytes("q4_k") in [o.packed() for o in tilecache.objects(tmp_path / "cache")
                                  if o.block_size == 144]


@NEEDS_ROOT
@pytest.mark.parametrize("when", ["before the mount", "under the mount"])
def test_a_read_only_cache(mount, tall, tmpfs, when):
    """Nothing more is kept, and that is said once; what is there is as it was."""
    cache = tmpfs("cache", "size=64m,mode=700")
    fill(mount, tall.store, cache, "growing", lambda mnt: tall.read(mnt, "q8_0"))
    before = [(o.path, o.data) for o in tilecache.objects(cache)]
    if when == "before the mount":
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    mnt = mount(tall.store, f"cache={cache}")
    if when == "under the mount":
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    stats = mnt.stats()
    mnt.unmount()
    assert stats["tiles_stored"] == stats["errors"] == stats["tiles_healed"] == 0
    assert stats["tiles_loaded"] == 5
    assert len(complaints(mnt, str(cache), os.strerror(errno.EROFS))) == len(mnt.lines()) == 1
    assert [(o.path, o.data) for o in tilecache.objects(cache)] == before


def test_a_cache_that_is_removed_under_the_mount(mount, tall, tmp_path):
    """It is made again for what comes next."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}", "compress=off")
    tall.read(mnt, "q8_0")
    shutil.rmtree(cache)
    for form in ("q8_0", "q4_k"):
        tall.read(mnt, form)
    assert mnt.stats()["errors"] == 0
    mnt.unmount()
    assert tall.bytes("q4_k") in [o.packed() for o in tilecache.objects(cache)]


def test_a_cache_that_cannot_be_made(mount, tall, tmp_path):
    (tmp_path / "file").touch()
    mnt = mount(tall.store, f"cache={tmp_path / 'file' / 'cache'}")
    tall.read(mnt, "q8_0")
    assert len(complaints(mnt, str(tmp_path / "file"), "no tile cache")) == len(mnt.lines()) == 1


def open_to_group(cache):
    cache.chmod(0o770)


def open_to_all(cache):
    cache.chmod(0o1777)


def given_away(cache):
    os.chown(cache, 65534, 65534)


@pytest.mark.parametrize("change", [open_to_group, open_to_all,
                                    pytest.param(given_away, marks=NEEDS_ROOT)])
def test_a_cache_that_others_may_write_is_refused(tall, tmp_path, change):
    """They could put anything there under a right checksum."""
    cache, point = tmp_path / "cache", tmp_path / "mnt"
    cache.mkdir(mode=0o700)
    point.mkdir()
    change(cache)
    done = run("mount", "-f", tall.store, point, "-o", f"cache={cache}", check=False)
    assert done.returncode == 3 and str(cache) in done.stderr
    assert not os.path.ismount(point) and list(cache.iterdir()) == []


# ---- a cache with a budget ----

# ---- a cache with a budget ----

FORMS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # objects of 2 to 5 MiB


def read_form(mnt, tall, part, form):
    (mnt / tall.file(form).replace("gate", part)).read_bytes()


def form_of(found):
    return next(form for form, size in zip(FORMS, (34, 24, 22, 20, 18))
                if found.block_size == size)


class Watch(threading.Thread):
    """The highest value that a function ever returns."""

    def __init__(self, function):
        super().__init__()
        self.function, self.peak, self.stop = function, 0, threading.Event()

    def run(self):
        while not self.stop.wait(0.001):
            self.peak = max(self.peak, self.function())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join()


@NEEDS_ROOT
@pytest.mark.parametrize("compress", ["off", "sealed"])
@pytest.mark.parametrize("limits", ["cache_size=16M,keep_free=0", "cache_size=1G,keep_free=48M"])
def test_the_cache_stays_within_its_room(mount, tall, tmpfs, limits, compress):
    """At every moment, also while objects are rewritten; what is left is whole."""
    room, cache = 16 << 20, tmpfs("cache", "size=64m,mode=700")

    def used():
        st = os.statvfs(cache)
        return (st.f_blocks - st.f_bfree) * st.f_frsize

    mnt = mount(tall.store, f"cache={cache}", *limits.split(","), f"compress={compress}",
                "workers=1")  # several ask for room at once, and may go over by a tile each
    files = itertools.cycle(itertools.product(("gate", "up", "down"), FORMS))

    def has_evicted():
        read_form(mnt, tall, *next(files))
        return mnt.stats()["objects_evicted"] > 5

    with Watch(used) as watch:
        wait_until(has_evicted, 60)
        assert mnt.stats()["errors"] == 0
        mnt.unmount()
    assert room / 2 < watch.peak <= 1.01 * room  # headers are not counted
    for found in tilecache.objects(cache):
        found.tiles()


@NEEDS_ROOT
@pytest.mark.parametrize("limits", ["cache_size=18M,keep_free=0", "cache_size=1G,keep_free=46M"])
def test_the_least_recently_used_objects_go_first(mount, tall, tmpfs, limits):
    """As many as need be and no more; what counts is use, not making; objects go as a whole."""
    cache = tmpfs("cache", "size=64m,mode=700")
    found = fill(mount, tall.store, cache, "growing",
                 lambda mnt: [read_form(mnt, tall, "gate", form) for form in FORMS])
    ages = {form_of(o): o.path for o in found}
    for age, form in enumerate(FORMS):
        os.utime(ages[form], (10**9 + age, 10**9 + age))
    whole = {o.path: o.data for o in found}
    mnt = mount(tall.store, f"cache={cache}", *limits.split(","), "compress=off")
    read_form(mnt, tall, "gate", FORMS[0])
    read_form(mnt, tall, "up", "q4_0")
    mnt.unmount()
    left = [path for path in whole if path.exists()]
    gone = [form for form in FORMS if ages[form] not in left]
    assert gone and gone == list(FORMS[1:1 + len(gone)])
    assert all(path.read_bytes() == whole[path] for path in left)


@NEEDS_ROOT
def test_an_object_is_rewritten_only_where_there_is_room_for_both(mount, tall, tmpfs):
    """Of two that could be, the first does not fit."""
    cache = tmpfs("cache", "size=64m,mode=700")
    fill(mount, tall.store, cache, "growing",
         lambda mnt: [read_form(mnt, tall, "gate", form) for form in FORMS])
    mnt = mount(tall.store, f"cache={cache}", "cache_size=18M", "keep_free=0")
    for form in ("q8_0", "q4_0"):
        read_form(mnt, tall, "gate", form)
    wait_until(lambda: mnt.stats()["objects_sealed"] > 0)
    mnt.unmount()
    sealed = [o for o in tilecache.objects(cache) if o.kind == tilecache.SEALED]
    assert [form_of(o) for o in sealed] == ["q4_0"]


# ---- a store that changes ----

WEIGHTS = "m/model.safetensors"
FILES = ("original/model.safetensors", "gguf/m-Q8_0.gguf",
         "tensors/model.layers.0.mlp.gate_proj.weight/f32",
         "tensors/model.layers.0.mlp.gate_proj.weight/q8_0")
PAGE = 4096


class Weights:
    """A file of weights, its content, and another of the same size."""

    def __init__(self, path, one, two):
        self.path, self.one, self.two = path, one, two
        path.write_bytes(one)

    def replace(self, data):
        aside = self.path.with_name("aside")
        aside.write_bytes(data)
        aside.rename(self.path)

    def rewrite(self, data):
        """In place, and the times are put back."""
        st = self.path.stat()
        with open(self.path, "r+b") as file:
            file.write(data)
        os.utime(self.path, ns=(st.st_atime_ns, st.st_mtime_ns))


class Contents(Weights):
    """Of a model all of whose weights are 1, or all 2; and what is packed from either."""

    def __init__(self, store):
        self.store, self.model = store, make(store / "m", hidden=512, layers=1, ffn=4096)
        raw = (store / WEIGHTS).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        one, two = (raw[:start] + value * ((len(raw) - start) // 2)
                    for value in (b"\x80\x3f", b"\x00\x40"))
        super().__init__(store / WEIGHTS, two, one)
        self.packed_two = convert(self.model, "Q8_0")
        super().__init__(store / WEIGHTS, one, two)
        self.packed_one = convert(self.model, "Q8_0")


@pytest.fixture
def contents(tmp_path):
    return Contents(tmp_path / "store")


CHANGES = {
    "replaced": lambda c: c.replace(c.two),
    "rewritten": lambda c: c.rewrite(c.two),
    "truncated": lambda c: os.truncate(c.path, len(c.one) // 2),
    "appended to": lambda c: c.rewrite(c.one + b"\0"),
    "deleted": lambda c: c.path.unlink(),
}


def read_at(fd, offset, direct):
    """A page, or None where that is EIO."""
    try:
        if not direct:
            return os.pread(fd, PAGE, offset)
        with mmap.mmap(-1, PAGE) as page:  # O_DIRECT wants it aligned
            return page[:os.preadv(fd, [page], offset)]
    except OSError as error:
        assert error.errno == errno.EIO
        return None


@pytest.mark.parametrize("direct", [0, os.O_DIRECT], ids=["plain", "O_DIRECT"])
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_open_while_the_store_changes(mount, contents, change, direct):
    """All that comes from the file fails; of gguf/ there is still the header, which is in memory.
    One line says so, however many files are open."""
    mnt = mount(contents.store, "readahead=0")
    files = [mnt / "m" / name for name in FILES]
    old = [file.read_bytes() for file in files]
    fds = [os.open(file, os.O_RDONLY | direct) for file in files]
    try:
        for fd, data in zip(fds, old):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert read_at(fd, 0, direct) == data[:PAGE]
        CHANGES[change](contents)
        for fd, data in zip(fds, old):
            pages = {at: read_at(fd, at, direct) for at in range(0, len(data) - PAGE, 64 * PAGE)}
            assert all(page in (None, data[at:at + PAGE]) for at, page in pages.items())
            assert sum(page is None for page in pages.values()) >= len(pages) - 1 > 0
    finally:
        for fd in fds:
            os.close(fd)
    (line,) = mnt.lines()
    assert WEIGHTS in line and "changed" in line
    assert mnt.stats()["errors"] > len(FILES)


# Maps a file, and once it is told to, touches all pages.
TOUCH = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
map.madvise(mmap.MADV_RANDOM)
print(map[0], flush=True)
sys.stdin.readline()
for at in range(0, len(map), mmap.PAGESIZE):
    map[at]
"""


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_a_file_that_is_mapped_while_the_store_changes(mount, contents, change):
    """Whoever touches a page that cannot be had gets SIGBUS."""
    mnt = mount(contents.store, "readahead=0")
    reader = subprocess.Popen([sys.executable, "-c", TOUCH, mnt / "m" / FILES[1]],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert reader.stdout.readline() == b"%d\n" % contents.packed_one[0]
        if change:
            CHANGES[change](contents)
        reader.communicate(b"now\n", timeout=60)
        assert reader.returncode == (-signal.SIGBUS if change else 0)
    finally:
        reader.kill()
        reader.wait()
    assert len(mnt.lines()) == bool(change)


def read_or_error(path):
    try:
        return path.read_bytes()
    except OSError as error:
        return error.errno


@pytest.mark.parametrize("change", CHANGES)
def test_the_name_leads_to_the_new_content(mount, contents, change):
    """Within seconds, and without anything else on the way there; or to an error, if that is what
    the new content deserves."""
    mnt = mount(contents.store)
    paths = [mnt / "m" / name for name in FILES[:2]]
    old = [contents.one, contents.packed_one]
    new = [contents.two, contents.packed_two]
    assert [read_or_error(path) for path in paths] == old
    CHANGES[change](contents)
    now = contents.path.read_bytes() if contents.path.exists() else errno.ENOENT
    errors = (errno.EIO, errno.ENOENT, errno.ESTALE)
    allowed = [(old[0], now, *errors), (old[1], new[1], *errors)]
    seen = []

    def has_arrived():
        seen[:] = [read_or_error(path) for path in paths]
        assert all(data in those for data, those in zip(seen, allowed))
        return seen[0] == now and (seen[1] == new[1] if now == new[0] else isinstance(seen[1], int))

    wait_until(has_arrived)
    assert [read_or_error(path) for path in paths] == seen


@pytest.mark.parametrize("way", ["replace", "rewrite"])
def test_old_and_new_are_never_mixed(mount, contents, way):
    """Readers of one open file see one content, whatever is done to the store meanwhile."""
    mnt = mount(contents.store, "readahead=0")
    path = mnt / "m" / FILES[1]
    packed = [contents.packed_one, contents.packed_two]
    wrong, read = [], [0, 0, 0]

    def reads(fd, version, seed, stop):
        rng = random.Random(seed)
        while not stop.is_set():
            size = rng.choice((100, 1 << 16, 1 << 20))
            at = rng.randrange(len(packed[0]) - size)
            try:
                data = os.pread(fd, size, at)
            except OSError:
                read[2] += 1
                continue
            read[version] += 1
            # where an error follows pages that the kernel has, it gives those and stops
            if not data or data != packed[version][at:at + len(data)]:
                wrong.append((at, size))

    for turn in range(6):
        version, stop = turn % 2, threading.Event()
        wait_until(lambda version=version: read_or_error(path) == packed[version])
        with open(path, "rb", 0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            readers = [threading.Thread(target=reads, args=(file.fileno(), version, seed, stop))
                       for seed in range(3)]
            for reader in readers:
                reader.start()
            failed = read[2]
            try:
                getattr(contents, way)((contents.two, contents.one)[version])
                wait_until(lambda failed=failed: read[2] > failed)
            finally:
                stop.set()
                for reader in readers:
                    reader.join()
    assert not wrong and min(read) > 0


@pytest.mark.parametrize("change", CHANGES)
def test_converting_what_changes_meanwhile(tall, tmp_path, change):
    """Fails and leaves nothing behind, under no name."""
    model, out = shutil.copytree(tall.store / "tall", tmp_path / "m"), tmp_path / "out"
    out.mkdir()
    data = (tmp_path / WEIGHTS).read_bytes()
    weights = Weights(tmp_path / WEIGHTS, data, data[:-1] + b"\0")
    program = subprocess.Popen([QUANTFS, "convert", model, "-t", "Q4_K_S", "--workers", "1",
                                "-o", out / "m.gguf"], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "QUANTFS_ISA": "c"})  # takes its time
    wait_until(lambda: written(program.pid) > 100_000)
    program.send_signal(signal.SIGSTOP)
    CHANGES[change](weights)
    program.send_signal(signal.SIGCONT)
    _, text = program.communicate(timeout=60)
    assert program.returncode == 2 and weights.path.name in text and "changed" in text
    assert list(out.iterdir()) == []
