# SPDX-License-Identifier: MIT
"""How a mount begins and ends, for root and for others: cleanly, or with a word on why not; and how
much memory it takes in between."""

import errno
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import threading

import pytest

import tilecache
from conftest import DATA, QUANTFS, convert, run, wait_until
from models import make

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
NOBODY = 65534


def mounts_on(point):
    table = pathlib.Path("/proc/self/mountinfo").read_text()
    return [line for line in table.splitlines() if f" {point} " in line]


def is_mounted(point):
    return bool(mounts_on(point))


# ---- ends ----

def by_signal(number):
    return lambda mnt: mnt.daemon.send_signal(number)


ENDS = {"SIGTERM": by_signal(signal.SIGTERM), "SIGINT": by_signal(signal.SIGINT),
        "umount": lambda mnt: run("umount", mnt.point)}


def check_end(mnt, cache):
    assert mnt.daemon.wait(timeout=20) == 0
    assert not is_mounted(mnt.point) and list(mnt.point.iterdir()) == []
    assert mnt.lines() == []
    for found in tilecache.objects(cache):  # there are no temporary files, which are none
        found.tiles()


@pytest.mark.parametrize("end", ENDS)
def test_an_end(mount, tall, tmp_path, end):
    """While tiles are still being stored and objects rewritten; what was read is kept."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    for form in ("q4_k", "q8_0"):
        tall.read(mnt, form)
    ENDS[end](mnt)
    check_end(mnt, cache)
    assert {o.packed() for o in tilecache.objects(cache)} == {tall.bytes("q4_k"),
                                                              tall.bytes("q8_0")}


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT"])
def test_a_signal_while_files_are_open(mount, tall, tmp_path, end):
    """Does not wait for them: they fail from now on."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    with open(mnt / tall.file("q8_0"), "rb", 0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert file.read(100) == tall.bytes("q8_0")[:100]
        ENDS[end](mnt)
        check_end(mnt, cache)
        with pytest.raises(OSError):
            os.pread(file.fileno(), 100, 4_000_000)


def test_umount_while_files_are_open(mount, tall, tmp_path):
    """The name goes at once; who has a file open can read on, and the daemon ends after that."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}")
    with open(mnt / tall.file("q8_0"), "rb", 0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        umount = subprocess.Popen([QUANTFS, "umount", mnt.point])
        wait_until(lambda: not is_mounted(mnt.point))
        assert os.pread(file.fileno(), 100, 4_000_000) == tall.bytes("q8_0")[4_000_000:4_000_100]
        assert mnt.daemon.poll() is None and umount.poll() is None
    assert umount.wait(timeout=20) == 0
    check_end(mnt, cache)


@pytest.mark.parametrize("end", ENDS)
def test_an_end_with_reads_in_flight(mount, tall, tmp_path, end):
    """They end, too: with the right bytes, or as what they are."""
    cache = tmp_path / "cache"
    mnt = mount(tall.store, f"cache={cache}", "workers=1")
    results = []

    def read():
        try:
            results.append((mnt / tall.file("q4_k")).read_bytes() == tall.bytes("q4_k"))
        except OSError as error:
            results.append(error.errno)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    wait_until(lambda: mnt.stats()["open_files"] >= len(readers))
    ENDS[end](mnt)
    for reader in readers:
        reader.join(timeout=60)
    aborted = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT}
    assert len(results) == len(readers)
    assert set(results) <= ({True} if end == "umount" else {True} | aborted)
    check_end(mnt, cache)


# ---- beginnings ----

def background(store, point, *options):
    """Mounts as a user does; the daemon stays behind. Returns its number."""
    run("mount", store, point, "-o", ",".join(("cache=none", *options)))
    return pid_of(point)


def pid_of(point):
    return json.loads(run("status", "--json", point).stdout)["pid"]


def kill(pid):
    """kill -9, and waits for the end; the daemon is not our child."""
    daemon = os.pidfd_open(pid)
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    assert select.select([daemon], [], [], 20)[0]
    os.close(daemon)


@pytest.mark.parametrize("turns", [1, 3])
def test_a_mount_that_was_left_behind_is_replaced(point, turns):
    for _ in range(turns):
        kill(background(DATA, point))
        with pytest.raises(OSError):
            list(point.iterdir())
    background(DATA, point)
    assert {path.name for path in point.iterdir()} == {"demo-llama", "demo-qwen2"}
    run("umount", point)
    assert not is_mounted(point) and list(point.iterdir()) == []


@pytest.mark.parametrize("name", ["mnt", "mnt/", "../{}/mnt"])
def test_a_mount_that_was_left_behind_is_ended(point, name):
    kill(background(DATA, point))
    run("umount", name.format(point.parent.name), cwd=point.parent)
    assert not is_mounted(point) and list(point.iterdir()) == []


def test_umount_of_what_is_no_mount(point):
    done = run("umount", point, check=False)
    assert done.returncode == 2 and str(point) in done.stderr


def refused(store, point, word):
    """Nothing is mounted, in the background or not, and the reason is said."""
    before = mounts_on(point)
    for flags in ((), ("-f",)):
        done = run("mount", *flags, store, point, "-o", "cache=none", check=False)
        assert done.returncode in (2, 3) and word in done.stderr and done.stderr.count("\n") == 1
    assert mounts_on(point) == before


def test_a_mount_over_a_mount_is_refused(point):
    pid = background(DATA, point)
    refused(DATA, point, "already")
    assert pid_of(point) == pid
    run("umount", point)


def test_a_mount_point_inside_the_store_is_refused(store):
    refused(store, store / "demo-llama", "within each other")
    refused(store, store, "within each other")


def test_a_store_inside_the_mount_point_is_refused(store):
    refused(store, store.parent, "within each other")
    refused(store / "demo-llama", store, "within each other")


def test_a_mount_point_that_is_none_is_refused(store, tmp_path):
    refused(DATA, tmp_path / "missing", os.strerror(errno.ENOENT))
    refused(DATA, store / "demo-llama" / "config.json", "not a folder")


def test_a_store_that_is_none_is_refused(store, point):
    refused(store / "missing", point, os.strerror(errno.ENOENT))
    refused(store / "demo-llama" / "config.json", point, "neither a folder nor a .gguf file")


# ---- memory ----

def high_water(pid):
    """The most that a process has held, in bytes."""
    (line,) = (line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
               if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of one model, ten times as large as the smallest budget."""
    store = tmp_path_factory.mktemp("large")
    model = make(store / "m", hidden=1024, layers=5, ffn=4352)
    assert (model / "model.safetensors").stat().st_size > 160 << 20
    yield store
    shutil.rmtree(store)


@pytest.mark.parametrize("cached", [False, True])
def test_memory_stays_within_the_budget(mount, large, tmp_path, cached):
    """Reading from front to back holds no more than the budget, and what is beside it."""
    mnt = mount(large, "memory=16M", f"cache={tmp_path / 'cache' if cached else 'none'}")
    for name in ("gguf/m-Q8_0.gguf", "original/model.safetensors"):
        with open(mnt / "m" / name, "rb", 0) as file:
            while file.read(1 << 20):
                pass
    assert mnt.stats()["read_bytes"] > 240 << 20
    assert high_water(mnt.daemon.pid) < (16 + 64) << 20
    mnt.unmount()


# ---- other users ----

@pytest.fixture
def public():
    """A folder that every user can reach; with the program and a store, which they can read."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="quantfs-"))
    path.chmod(0o755)
    shutil.copy(QUANTFS, path / "quantfs")
    shutil.copytree(DATA / "demo-llama", path / "store" / "demo-llama")
    yield path
    for point in path.glob("mnt*"):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(path)


def as_nobody(*command):
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


# In a mount namespace of its own, where /dev/fuse is as on most machines: open to all.
OPEN_FUSE = """
set -e
mount -t tmpfs -o mode=755 none "$1/dev"
mknod -m 666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
shift
exec "$@"
"""

ORDINARY_USER = """
set -ex
cd "$1"
quantfs=./quantfs
file=mnt/demo-llama/gguf/demo-llama-Q4_K_M.gguf
test "$(id -u)" = 65534

$quantfs mount store mnt
cmp $file expected
$quantfs umount mnt
test -z "$(ls mnt)"
test -d home/.cache/quantfs/v2

$quantfs mount store mnt
cmp $file expected
kill -9 "$($quantfs status --json mnt | sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')"
until ls mnt 2>&1 | grep -q 'not connected'; do sleep 0.1; done
$quantfs mount store mnt -o cache=none
cmp $file expected
if $quantfs mount store mnt; then exit 1; fi
cmp $file expected
$quantfs umount mnt
test -z "$(ls mnt)"
"""


@NEEDS_ROOT
def test_an_ordinary_user(public):
    """Needs no rights but fusermount3's: mounts, reads, replaces what was left behind, unmounts."""
    for name in ("mnt", "home"):
        (public / name).mkdir()
        os.chown(public / name, NOBODY, NOBODY)
    (public / "dev").mkdir()
    (public / "expected").write_bytes(convert(DATA / "demo-llama", "Q4_K_M"))
    done = subprocess.run(["unshare", "--mount", "sh", "-c", OPEN_FUSE, "sh", public,
                           *as_nobody("sh", "-c", ORDINARY_USER, "sh", public)],
                          env={**os.environ, "HOME": str(public / "home"), "XDG_CACHE_HOME": ""},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    cached = tilecache.paths(public / "home" / ".cache" / "quantfs")
    assert len(cached) > 10 and {path.stat().st_uid for path in cached} == {NOBODY}


@NEEDS_ROOT
@pytest.mark.parametrize("options, allowed", [((), False), (("allow_other",), True),
                                              (("allow_other", "umask=077"), False)])
def test_who_may_read_a_mount(mount, public, options, allowed):
    """Only who mounted it, unless it says otherwise; then its permissions count."""
    mnt = mount(public / "store", *options, point=public / "mnt")
    file = mnt / "demo-llama" / "original" / "config.json"
    done = subprocess.run(as_nobody("cat", file), capture_output=True, check=False)
    assert (done.returncode == 0) == allowed
    if allowed:
        assert done.stdout == (DATA / "demo-llama" / "config.json").read_bytes()
    else:
        assert os.strerror(errno.EACCES) in done.stderr.decode()
    assert file.read_bytes() == (DATA / "demo-llama" / "config.json").read_bytes()
    control = subprocess.run(as_nobody("cat", mnt / ".quantfs" / "stats"), capture_output=True,
                             check=False)
    assert control.returncode != 0
