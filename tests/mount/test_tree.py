# SPDX-License-Identifier: MIT
"""What a mount shows: names, sizes, numbers and attributes; what options change of it; and that
nobody can write."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess

import numpy as np
import pytest

import models
import reference
from conftest import DATA, OWN_RECIPES, QUANTFS, RECIPES, run

MODELS = ("demo-llama", "demo-qwen2")
BLOCKS = {"f32": 1, "f16": 1, "bf16": 1, "q8_0": 32, "q6_k": 256, "q5_k": 256, "q5_1": 32,
          "q5_0": 32, "q4_k": 256, "q4_1": 32, "q4_0": 32, "iq4_nl": 32, "q3_k": 256, "q2_k": 256}
SPQR = {"spqr4", "spqr3", "spqr2"}  # of any width; see test_spqr.py
GPTQ = ("4-g128", "4-g32", "3-g128", "3-g32", "8-g128")
LLAMA_TENSOR = "demo-llama/tensors/model.layers.2.self_attn.q_proj.weight"


def forms_of(dtype, shape):
    """The names under which a tensor is offered."""
    if len(shape) != 2:
        return {dtype.lower()}
    blocks = BLOCKS | {"rtn-awq4-g128": 128} | {name: int(kind[kind.index("g") + 1:]) for kind in GPTQ
                       for name in (f"gptq{kind}", f"gptq{kind}-natural", f"rtn{kind}")}
    suffix = "" if dtype == "BF16" else f"-{dtype.lower()}"
    blocks |= {"nf4": 64, "int8": 1, f"w4a16-g128{suffix}": 128, f"w8a16{suffix}": 1}
    return {dtype.lower()} | SPQR | {name for name, block in blocks.items()
                                     if shape[-1] % block == 0}


def measures_of(forms):
    """What is measured of a tensor and lies beside these forms of it."""
    lossy = forms - {"f32", "f16", "bf16", "info.json"}
    matrix = {"sensitivity.png"} if lossy else set()
    return matrix | {f"{form}.error.{kind}" for form in lossy for kind in ("png", "json")}


def entries_of(folder):
    """name -> entry of the header, of all tensors of a checkpoint."""
    found = {}
    for path in folder.glob("*.safetensors"):
        found.update(reference.header(path)[0])
    found.pop("__metadata__", None)
    return found


def everything(folder):
    """Paths of all below a folder, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


# ---- names ----

def test_a_mount_shows_four_views_of_every_model(mount):
    mnt = mount(DATA)
    assert sorted(os.listdir(mnt.point)) == sorted(MODELS)
    for model in MODELS:
        assert sorted(os.listdir(mnt / model)) == ["gguf", "hf", "original", "tensors"]
        assert set(os.listdir(mnt / model / "gguf")) == {f"{model}-{r}.gguf"
                                                         for r in RECIPES + OWN_RECIPES}
        assert everything(mnt / model / "original") == everything(DATA / model)
        entries = entries_of(DATA / model)
        assert set(os.listdir(mnt / model / "tensors")) == set(entries)
        for name, entry in entries.items():
            shown, forms = (set(os.listdir(mnt / model / "tensors" / name)),
                            forms_of(entry["dtype"], entry["shape"]))
            assert shown == forms | measures_of(forms) | {"info.json"}
    assert set(os.listdir(mnt / ".quantfs")) == {"stats", "stats.json", "metrics", "version",
                                                 "extents"}
    for name in ("nothing", "demo-llama/nothing", "demo-llama/gguf/demo-llama-Q9_K.gguf",
                 "demo-llama/gguf/demo-llama-q4_k_m.gguf", "demo-llama/original/nothing",
                 "demo-llama/tensors/nothing", f"{LLAMA_TENSOR}/Q4_K", ".quantfs/nothing"):
        assert not (mnt / name).exists(), name


def test_a_store_of_one_model_shows_it_under_its_name(mount):
    mnt = mount(DATA / "demo-qwen2")
    assert os.listdir(mnt.point) == ["demo-qwen2"]
    assert (mnt / "demo-qwen2" / "gguf" / "demo-qwen2-Q2_K.gguf").exists()


def encoded(name):
    """A name as a path component, by the words of SEMANTICS.md."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return re.sub(r"[\x00-\x1f\x7f/%]", lambda match: f"%{ord(match[0]):02X}", name)


def test_any_name_of_a_tensor_is_a_path(mount, tmp_path):
    names = ["a/b", "a%2Fb", "..", ".", "...", "%", "100%", "tab\tline\nend\x7f\x01", "Case",
             "case", "mit Umlaut \u00fc", "\U0001f40d", "-rf", " ", "~", "x" * 255, "/" * 85]
    long = ["y" * 300, "y" * 299 + "z", "\u00fc" * 150, "/" * 86, "%" * 300]
    (tmp_path / "s" / "m").mkdir(parents=True)
    models.write_safetensors(tmp_path / "s" / "m" / "model.safetensors",
                             {name: ("F32", (3,)) for name in names + long},
                             np.random.default_rng(1))
    weights = reference.read_model(tmp_path / "s" / "m")
    tensors = mount(tmp_path / "s") / "m" / "tensors"
    shown = os.listdir(tensors)
    assert len(set(shown)) == len(shown) == len(names) + len(long)
    assert {encoded(name) for name in names} <= set(shown)
    cut = set(shown) - {encoded(name) for name in names}
    assert all(re.search("~[0-9a-f]{16}$", name) and len(os.fsencode(name)) <= 255 for name in cut)
    told = {}
    for name in shown:
        told[json.loads((tensors / name / "info.json").read_text())["name"]] = name
        assert (tensors / name / "f32").stat().st_size == 12
    assert set(told) == set(weights)
    for name, x in weights.items():
        assert (tensors / told[name] / "f32").read_bytes() == x.tobytes(), name
    for wrong in ("a%2fb", "%41", "%2", "%zz", "y" * 250):
        assert not (tensors / wrong).exists()


# ---- sizes, numbers, times ----

def test_every_size_is_exact_and_every_number_its_own(mount):
    seen = []
    for _ in range(2):
        mnt, inodes = mount(DATA), {}
        for folder, folders, files in os.walk(mnt.point):
            for entry in os.scandir(folder):
                assert entry.inode() == entry.stat(follow_symlinks=False).st_ino
                inodes[os.path.relpath(entry.path, mnt.point)] = entry.inode()
            for name in files if not seen else ():
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    st = os.fstat(file.fileno())
                    assert st.st_size == os.stat(path).st_size == len(file.read()), path
                    assert st.st_nlink == 1 and st.st_blocks == -(-st.st_size // 512)
        assert len(set(inodes.values())) == len(inodes) > 800
        seen.append(inodes)
        mnt.unmount()
    assert seen[0] == seen[1]


def test_times_owner_and_permissions_are_the_checkpoints(mount, store):
    folder = store / "demo-llama"
    weights = folder / "model.safetensors"
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, ns=(0, 10**18 + number))
    os.utime(weights, ns=(0, 2 * 10**18 + 5))
    weights.chmod(0o640)
    mnt = mount(store)
    for name in ("demo-llama/gguf/demo-llama-Q4_0.gguf", f"{LLAMA_TENSOR}/q4_0",
                 f"{LLAMA_TENSOR}/info.json", "demo-llama/original/model.safetensors"):
        st = (mnt / name).stat()
        assert st.st_mtime_ns == 2 * 10**18 + 5
        assert stat.filemode(st.st_mode) == "-r--r-----"
        assert (st.st_uid, st.st_gid) == (weights.stat().st_uid, weights.stat().st_gid)
    for path in folder.iterdir():
        shown = (mnt / "demo-llama" / "original" / path.name).stat()
        assert shown.st_mtime_ns == path.stat().st_mtime_ns
        assert shown.st_mode == path.stat().st_mode & ~0o333


def test_uid_gid_and_umask_change_everything(mount):
    mnt = mount(DATA, "uid=1234", "gid=2345", "umask=027")
    for path in (mnt.point, mnt / "demo-llama", mnt / "demo-llama" / "gguf",
                 mnt / "demo-llama" / "gguf" / "demo-llama-F16.gguf", mnt / LLAMA_TENSOR / "q2_k",
                 mnt / "demo-qwen2" / "original" / "config.json"):
        st = path.stat()
        assert (st.st_uid, st.st_gid, st.st_mode & 0o227) == (1234, 2345, 0), path


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
@pytest.mark.parametrize("option, allowed", [("allow_other", True), ("umask=0", False)])
def test_other_users_see_it_with_allow_other_only(mount, store, option, allowed):
    (store / "demo-llama" / "tokenizer.json").chmod(0o600)
    mnt = mount(store, option)
    for name, readable in (("config.json", allowed), ("tokenizer.json", False)):
        done = subprocess.run(["cat", f"demo-llama/original/{name}"], cwd=mnt.point, user=65534,
                              group=65534, extra_groups=[], capture_output=True, check=False)
        assert (done.returncode == 0) == readable, done.stderr


def test_the_file_system_is_the_stores_and_full(mount):
    shown, own = os.statvfs(mount(DATA) / "demo-llama"), os.statvfs(DATA)
    assert (shown.f_blocks, shown.f_frsize) == (own.f_blocks, own.f_frsize)
    assert shown.f_bfree == shown.f_bavail == shown.f_ffree == shown.f_favail == 0
    assert shown.f_namemax == 255 and shown.f_flag & os.ST_RDONLY


# ---- provenance ----

def attributes(path):
    return {name.removeprefix("user.quantfs."): os.getxattr(path, name).decode()
            for name in os.listxattr(path)}


def test_extended_attributes_tell_where_bytes_come_from(mount):
    mnt = mount(DATA)
    reference_name = "llama.cpp 0c1e5709"
    assert attributes(mnt / "demo-llama/gguf/demo-llama-Q5_K_S.gguf") == {
        "format": "gguf", "recipe": "Q5_K_S", "source": "demo-llama", "reference": reference_name}
    assert attributes(mnt / LLAMA_TENSOR / "q5_k") == {
        "format": "q5_k", "source": "demo-llama/model.safetensors", "reference": reference_name}
    assert attributes(mnt / LLAMA_TENSOR / "bf16") == {
        "format": "bf16", "source": "demo-llama/model.safetensors"}
    assert attributes(mnt / "demo-llama") == {"source": "demo-llama"}
    assert attributes(mnt / "demo-llama" / "tensors") == attributes(mnt.point) == {}
    with pytest.raises(OSError) as missing:
        os.getxattr(mnt / "demo-llama", "user.quantfs.recipe")
    assert missing.value.errno == errno.ENODATA


@pytest.mark.parametrize("model", MODELS)
def test_info_tells_what_is_there(mount, model):
    mnt = mount(DATA)
    for name, entry in entries_of(DATA / model).items():
        folder = mnt / model / "tensors" / name
        info = json.loads((folder / "info.json").read_text())
        assert (info["name"], info["dtype"], info["shape"]) == (name, entry["dtype"],
                                                                entry["shape"])
        assert info["elements"] == np.prod(entry["shape"])
        assert {form: told["bytes"] for form, told in info["forms"].items()} == {
            path.name: path.stat().st_size for path in folder.iterdir() if not path.suffix}
        for form, told in info["forms"].items():
            assert told["bpw"] == 8 * told["bytes"] / info["elements"], form
        source = (DATA / model / info["source"]["file"]).read_bytes()
        begin = info["source"]["offset"]
        assert (folder / entry["dtype"].lower()).read_bytes() == (
            source[begin:begin + info["source"]["bytes"]])
        assert info["gguf"].startswith(("blk.", "output", "token_embd"))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_tensor_in_every_format_is_ggmls(mount, tmp_path, dtype):
    """In the checkpoint's own order of rows, without fallback types."""
    folder = models.make(tmp_path / "store" / "m", hidden=256, ffn=288, layers=1, dtype=dtype)
    weights = reference.read_model(folder)
    tensors = mount(folder.parent) / "m" / "tensors"
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        name = f"model.layers.0.{name}.weight"
        forms = forms_of(dtype, weights[name].shape)
        assert len(forms & BLOCKS.keys()) == (14 if "q_proj" in name else 9)
        for form in forms & BLOCKS.keys():
            packed = (tensors / name / form).read_bytes()
            assert packed == reference.quantize(weights[name], form.upper()), form


# ---- options ----

def test_forms_and_notensors_restrict_what_is_shown(mount):
    mnt = mount(DATA, "forms=Q4_K_M:q6_k:Q8_0")
    assert set(os.listdir(mnt / "demo-llama" / "gguf")) == {
        f"demo-llama-{recipe}.gguf" for recipe in ("Q4_K_M", "Q6_K", "Q8_0")}
    forms = {"bf16", "q6_k", "q8_0", "info.json"}
    assert set(os.listdir(mnt / LLAMA_TENSOR)) == forms | measures_of(forms)
    for hidden in ("demo-llama/gguf/demo-llama-Q2_K.gguf", f"{LLAMA_TENSOR}/q2_k"):
        assert not (mnt / hidden).exists()
    assert (mnt / "demo-llama" / "gguf" / "demo-llama-Q4_K_M.gguf").read_bytes()
    mnt = mount(DATA, "notensors")
    assert sorted(os.listdir(mnt / "demo-llama")) == ["gguf", "hf", "original"]
    assert not (mnt / LLAMA_TENSOR).exists()


@pytest.mark.parametrize("word", [
    "nonsense", "cache_sise=1G", "memory=lots", "memory=1M", "memory", "cache_size=1K",
    "workers=two", "workers=-1", "workers=5000", "umask=999", "umask=1000", "uid=root",
    "notensors=1", "forms=Q4_K_M:Q9_K", "compress=best", "loglevel=loud", "readahead=4X"])
def test_options_that_are_not_understood_are_named(tmp_path, word):
    done = run("mount", DATA, tmp_path, "-o", f"cache=none,{word}", check=False)
    assert done.returncode == 1
    assert word.split("=")[0] in done.stderr
    assert str(tmp_path) not in open("/proc/self/mountinfo").read()


@pytest.mark.parametrize("words", [
    "ro,nosuid,nodev,noauto,x-systemd.automount,x-gvfs-show,_netdev,nofail,defaults,noatime",
    "rw,suid,dev,exec,auto,user,group,owner,sync,relatime,comment=of words", ""])
def test_a_line_of_fstab_mounts_read_only(tmp_path, words):
    """As mount(8) calls it; what it asks for does not make the mount writable or its files devices
    or programs."""
    point = tmp_path / "with space"
    point.mkdir()
    try:
        run(DATA, point, "-o", f"{words},cache=none".lstrip(","))
        (line,) = (line.split() for line in open("/proc/self/mountinfo")
                   if line.split()[4] == str(point).replace(" ", "\\040"))
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(line[5].split(","))
        assert line[line.index("-") + 1:][:2] == ["fuse.quantfs", str(DATA)]
        assert os.statvfs(point).f_flag & os.ST_NOSUID
    finally:
        run("umount", point)


def test_nothing_can_be_written(mount, store):
    mnt = mount(store)
    file, new = mnt / "demo-llama" / "original" / "config.json", mnt / "demo-llama" / "new"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    attempts = {
        "open": lambda: os.open(file, os.O_WRONLY), "both": lambda: os.open(file, os.O_RDWR),
        "append": lambda: open(file, "ab"), "truncate": lambda: os.truncate(file, 0),
        "create": lambda: open(new, "xb"), "remove": file.unlink, "mkdir": new.mkdir,
        "rmdir": (mnt / "demo-llama" / "gguf").rmdir, "rename": lambda: file.rename(new),
        "link": lambda: os.link(file, new), "symlink": lambda: new.symlink_to(file),
        "mknod": lambda: os.mkfifo(new), "chmod": lambda: file.chmod(0o777),
        "chown": lambda: os.chown(file, 1, 1), "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.quantfs.source"),
        "control": lambda: open(mnt / ".quantfs" / "stats", "wb"),
        "move in": lambda: shutil.move(store / "demo-qwen2" / "config.json", new),
    }
    for name, attempt in attempts.items():
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno == errno.EROFS, name
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
