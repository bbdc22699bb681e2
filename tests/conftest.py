# SPDX-License-Identifier: MIT
"""What the tests in mount/ and full/ share: the program, demo models, and mounts that go away."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import gguf
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
QUANTFS = pathlib.Path(os.environ.get("QUANTFS", ROOT / "build" / "quantfs"))
sys.path.insert(0, str(ROOT / "tests"))

# What is started in the background by a shell, or by nohup, ignores them, and so would all that it
# starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import architectures  # noqa: E402 (in the folder named just now)
import models  # noqa: E402

RECIPES = ("F32 BF16 F16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL "
           "Q3_K_L Q3_K_M Q3_K_S Q2_K").split()
OWN_RECIPES = ["SPQR4", "SPQR3"]  # which llama.cpp does not have
GUIDED = [f"{r}-guided" for r in RECIPES if re.match("Q[2-5]_K", r)]  # with a calibration


def run(*args, check=True, **kwargs):
    """Runs quantfs and returns the finished process, its output as text."""
    done = subprocess.run([str(QUANTFS), *map(str, args)], capture_output=True, text=True,
                          timeout=kwargs.pop("timeout", 120), **kwargs)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def convert(folder, recipe, *args):
    """What `quantfs convert` makes of a model folder, as bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out.gguf"
        run("convert", folder, "-t", recipe, "-o", out, *args)
        return out.read_bytes()


def wait_until(condition, seconds=20, pause=0.02):
    """Polls until condition() is true; fails the test when that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


def written(pid):
    """Bytes that a process has written so far."""
    counters = pathlib.Path(f"/proc/{pid}/io").read_text()
    return int(re.search(r"wchar: (\d+)", counters).group(1))


class Mount:
    """A mount with its daemon in the foreground, so that its log and its end can be seen."""

    def __init__(self, store, point, log, options=(), prefix=(), env=None):
        self.point, self.log = pathlib.Path(point), pathlib.Path(log)
        self.point.mkdir(parents=True, exist_ok=True)
        words = list(options)
        if not any(w.startswith("cache=") for w in words):
            words.append("cache=none")
        command = [*prefix, str(QUANTFS), "mount", "-f", str(store), str(point), "-o",
                   ",".join(words)]
        with open(self.log, "ab") as out:
            self.daemon = subprocess.Popen(command, stdout=out, stderr=out, env=env)
        wait_until(lambda: self.is_ready() or self.daemon.poll() is not None)
        assert self.daemon.poll() is None, self.lines()

    def is_ready(self):
        with open("/proc/self/mountinfo") as table:
            mounted = f" {self.point} " in table.read()
        return mounted and (self.point / ".quantfs" / "version").exists()

    def __truediv__(self, name):
        return self.point / name

    def lines(self):
        """The log so far."""
        return self.log.read_text().splitlines()

    def stats(self):
        return json.loads((self.point / ".quantfs" / "stats.json").read_text())

    def unmount(self):
        """Ends the mount as a user would and waits for the daemon."""
        run("umount", self.point)
        assert self.daemon.wait(timeout=20) == 0

    def kill(self):
        """kill -9: the mount point is left behind."""
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(timeout=20)

    def clean_up(self):
        if self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(timeout=20)
        subprocess.run(["umount", "-l", str(self.point)], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["fusermount3", "-u", "-z", str(self.point)], stderr=subprocess.DEVNULL,
                       check=False)


@pytest.fixture
def mount(tmp_path):
    """mount(store, *options) -> Mount; all are taken away after the test."""
    mounts = []

    def make(store, *options, **kwargs):
        n = len(mounts)
        made = Mount(store, kwargs.pop("point", tmp_path / f"mnt{n}"), tmp_path / f"log{n}",
                     options, **kwargs)
        mounts.append(made)
        return made

    yield make
    for made in mounts:
        made.clean_up()


@pytest.fixture
def point(tmp_path):
    """A mount point, which is free again after the test."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture
def store(tmp_path):
    """A folder with copies of both demo models, free to be changed."""
    path = tmp_path / "store"
    path.mkdir()
    for name in ("demo-llama", "demo-qwen2"):
        shutil.copytree(DATA / name, path / name)
    return path


@pytest.fixture(scope="session")
def oracle():
    """model -> recipe -> what llama.cpp makes of it."""
    return {name: json.loads((DATA / f"{name}.oracle.json").read_text())
            for name in ("demo-llama", "demo-qwen2")}


class Tall:
    """A store of one model, of which one matrix takes several tiles in every format."""

    TENSOR, MAPPED = "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"
    RECIPE = {"q8_0": "Q8_0", "q4_k": "Q4_K_S"}

    def __init__(self, store):
        self.store = store
        models.make(store / "tall", hidden=1024, layers=1, ffn=4096)
        self.packed = {form: self._convert(form) for form in self.RECIPE}

    def _convert(self, form):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(convert(self.store / "tall", self.RECIPE[form]))
            file.flush()
            (found,) = (t for t in gguf.GGUFReader(file.name).tensors if t.name == self.MAPPED)
            assert found.tensor_type.name == form.upper()
            return found.data.tobytes()

    def file(self, form):
        """The matrix in a mount."""
        return f"tall/tensors/{self.TENSOR}/{form}"

    def bytes(self, form):
        """What the converted file has of it."""
        return self.packed[form]

    def read(self, mnt, form):
        """Reads all of it through a mount; it must be right."""
        assert (mnt / self.file(form)).read_bytes() == self.packed[form]


@pytest.fixture(scope="session")
def tall(tmp_path_factory):
    return Tall(tmp_path_factory.mktemp("tall"))


@pytest.fixture
def tmpfs(tmp_path):
    """tmpfs(name, options) -> a folder with a file system of its own, taken away after the test.
    Depends on being root."""
    folders = []

    def make(name, options):
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "-l", folder], check=True)


# ---- calibrations ----

def calibrate(model, folder, *args):
    """With Hessians, and with factors in both orders."""
    subprocess.run([QUANTFS.parent / "quantfs-run", "calibrate", "-q", "--text",
                    DATA / "kjv-train.txt", "--keep-hessian", "--natural", "-o", folder,
                    *map(str, args), model], check=True, timeout=300)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """demo-llama as a GGUF file."""
    path = tmp_path_factory.mktemp("model") / "demo-llama.gguf"
    path.write_bytes(convert(DATA / "demo-llama", "BF16"))
    return path


@pytest.fixture(scope="session")
def calibration(model, tmp_path_factory):
    """Of demo-llama, with Hessians."""
    return calibrate(model, tmp_path_factory.mktemp("calibration") / "made", "--tokens", 8192)


@pytest.fixture(scope="session")
def experts(tmp_path_factory):
    """A model with eight of them, and its calibration."""
    folder = tmp_path_factory.mktemp("experts")
    path = architectures.make(folder / "moe", "Mixtral-8x7B-v0.1")
    run("convert", path, "-t", "F32", "-o", folder / "moe.gguf")
    calibrate(folder / "moe.gguf", folder / "made", "-c", 64, "-n", 20 * 64)
    return pathlib.Path(path), folder / "made"
