# SPDX-License-Identifier: MIT
"""Mounting in the background and unmounting: when the command returns, how it exits, and what it
says where it cannot."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import DATA, QUANTFS, run, wait_until

ENV = {**os.environ, "XDG_CACHE_HOME": "/nowhere"}  # no test touches the user's own cache


def is_mounted(path):
    with open("/proc/self/mountinfo") as table:
        return f" {path} " in table.read()


def daemon_of(path):
    """The process behind a mount."""
    return json.loads((path / ".quantfs" / "stats.json").read_text())["pid"]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- mount ----

@pytest.mark.parametrize("command", ["mount", ""], ids=["mount", "as mount(8)"])
def test_mount_returns_when_the_mount_is_ready(point, command):
    """And not before: no pipe makes the shell wait for more than the command's end."""
    line = f'"$0" {command} "$1" "$2" -o cache=none && exec cat "$2/.quantfs/version"'
    with open(point.parent / "said", "w+") as said:
        subprocess.run(["sh", "-c", line, QUANTFS, DATA, point], stdout=said, stderr=said,
                       check=True)
        said.seek(0)
        assert said.read() == (point / ".quantfs" / "version").read_text()
    daemon = daemon_of(point)
    assert os.getsid(daemon) == daemon and os.readlink(f"/proc/{daemon}/cwd") == "/"
    assert {os.readlink(f"/proc/{daemon}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    run("umount", point)
    assert not is_mounted(point) and not is_running(daemon)


def test_relative_paths_are_those_of_the_caller(point, store, tmp_path):
    shutil.copy(DATA / "demo-llama.imatrix.dat", tmp_path / "given.dat")
    run("mount", "store/demo-llama", "mnt", "-o", "cache=cache,imatrix=given.dat,log=log",
        cwd=tmp_path)
    assert (point / "demo-llama" / "gguf" / "demo-llama-Q4_0.gguf").read_bytes()
    run("umount", "mnt", cwd=tmp_path)
    assert list((tmp_path / "cache" / "v2").iterdir())


@pytest.mark.parametrize("args, status, reason", [
    (["nowhere", "mnt"], 3, "nowhere: No such file or directory"),
    (["file", "mnt"], 3, "file: neither a folder nor a .gguf file"),
    (["store", "nowhere"], 2, "mount point nowhere: No such file or directory"),
    (["store", "file"], 2, "mount point file: not a folder"),
    (["store", "store"], 2, "must not lie within each other"),
    (["store", "store/demo-llama"], 2, "must not lie within each other"),
    (["store/demo-llama", "store"], 2, "must not lie within each other"),
    (["store", "mnt", "-o", "nonsense"], 1, "unknown option: nonsense"),
    (["store", "mnt", "-o", "cache=none,memory=1M"], 1, "option memory"),
    (["store"], 1, "a store and a mount point are needed"),
    (["store/demo-llama", "mnt", "-o", "imatrix=nowhere.dat"], 3, "imatrix=nowhere.dat: No such"),
    (["store/demo-llama", "mnt", "-o", "imatrix=file"], 3, "file: "),
    (["store", "mnt", "-o", "imatrix=given.dat"], 3, "one file cannot serve the 2 models"),
])
@pytest.mark.parametrize("where", [[], ["-f"]], ids=["background", "foreground"])
def test_what_cannot_be_mounted_is_said(point, store, tmp_path, args, status, reason, where):
    (tmp_path / "file").write_text("not a matrix, nor a folder")
    shutil.copy(DATA / "demo-llama.imatrix.dat", tmp_path / "given.dat")
    done = run("mount", *args, *where, cwd=tmp_path, env=ENV, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert reason in done.stderr
    for path in (point, store, store / "demo-llama"):
        assert not is_mounted(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away: needs root")
@pytest.mark.parametrize("where", [[], ["-f"]], ids=["background", "foreground"])
def test_what_fails_in_the_daemon_is_said(point, tmp_path, where):
    """Its cache is found to be another's when it has gone to the background already."""
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 1234, 1234)
    done = run("mount", DATA, point, "-o", f"cache={tmp_path}/cache", *where, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "cache belongs to another user" in done.stderr
    assert not is_mounted(point)


def test_a_folder_of_matrices_serves_many_models(point, store, tmp_path):
    (tmp_path / "matrices").mkdir()
    matrix = tmp_path / "matrices" / "demo-llama.dat"
    shutil.copy(DATA / "demo-llama.imatrix.dat", matrix)
    run("mount", store, point, "-o", "cache=none,imatrix=matrices,notensors", cwd=tmp_path)
    for model, args in (("demo-llama", ["--imatrix", "matrices/demo-llama.dat"]),
                        ("demo-qwen2", [])):
        run("convert", store / model, "-t", "Q4_K_M", "-o", tmp_path / f"{model}.gguf", *args,
            cwd=tmp_path)
        assert (point / model / "gguf" / f"{model}-Q4_K_M.gguf").read_bytes() == (
            (tmp_path / f"{model}.gguf").read_bytes())


def test_a_mount_is_not_mounted_over(mount):
    mnt = mount(DATA)
    done = run("mount", DATA, mnt.point, "-o", "cache=none", check=False)
    assert done.returncode == 2 and "there is a quantfs on it already" in done.stderr
    assert mnt.stats()["pid"] == mnt.daemon.pid
    mnt.unmount()
    assert not is_mounted(mnt.point)


def test_what_a_crash_left_is_replaced_at_once(mount):
    mnt = mount(DATA)
    assert mnt.point.stat()
    mnt.kill()
    run("mount", DATA, mnt.point, "-o", "cache=none")
    assert os.listdir(mnt / "demo-llama")
    run("umount", mnt.point)
    assert not is_mounted(mnt.point)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_mount(mount, number):
    mnt = mount(DATA)
    mnt.daemon.send_signal(number)
    assert mnt.daemon.wait(timeout=20) == 0
    assert not is_mounted(mnt.point)


def test_the_log_goes_where_it_is_wanted(point, store, tmp_path):
    log = tmp_path / "log"
    run("mount", store, point, "-o", f"cache=none,log={log},loglevel=info")
    assert (point / "demo-qwen2" / "gguf").exists()
    os.truncate(store / "demo-qwen2" / "model-00001-of-00002.safetensors", 100)
    wait_until(lambda: not (point / "demo-qwen2" / "gguf").exists())
    run("umount", point)
    assert "demo-qwen2: its files have changed\n" in log.read_text()


# ---- umount ----

def test_umount_of_what_is_no_mount_fails(tmp_path):
    for path, reason in ((tmp_path, "no quantfs is mounted there"),
                         (tmp_path / "nowhere", "No such file or directory"),
                         ("/proc", "no quantfs is mounted there")):
        done = run("umount", path, check=False)
        assert (done.returncode, done.stderr) == (2, f"quantfs: {path}: {reason}\n")
    assert run("umount", check=False).returncode == 1


def test_umount_clears_what_a_crash_left(mount):
    mnt = mount(DATA)
    mnt.kill()
    assert is_mounted(mnt.point)
    run("umount", mnt.point)
    assert not is_mounted(mnt.point) and os.listdir(mnt.point) == []


def test_files_that_are_open_outlive_the_mount(mount):
    """The name goes at once, the daemon with the last open file."""
    mnt = mount(DATA)
    expected = (DATA / "demo-llama" / "model.safetensors").read_bytes()
    with open(mnt / "demo-llama" / "original" / "model.safetensors", "rb", 0) as file:
        with subprocess.Popen([QUANTFS, "umount", mnt.point]) as umount:
            wait_until(lambda: not is_mounted(mnt.point))
            assert file.read() == expected
            assert mnt.daemon.poll() is None
            file.close()
            assert umount.wait(timeout=20) == 0
    assert mnt.daemon.wait(timeout=20) == 0
