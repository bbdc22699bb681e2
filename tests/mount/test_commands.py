# SPDX-License-Identifier: MIT
"""The commands: what they print for people and for machines, what they refuse, and how they exit:
0, 1 for a wrong command line, 2 for what could not be done."""

import json
import os
import re
import signal
import subprocess

import gguf
import pytest

import reference
import tilecache
from conftest import DATA, GUIDED, OWN_RECIPES, QUANTFS, RECIPES, convert, run, wait_until, written

COMMANDS = "mount umount ls inspect formats convert calibrate warm status cache".split()
MODELS = ("demo-llama", "demo-qwen2")


def fails(*args, status=2, **kwargs):
    """What a command that must fail says on stderr."""
    done = run(*args, check=False, **kwargs)
    assert done.returncode == status and "quantfs" in done.stderr
    return done.stderr


def load(*args):
    return json.loads(run(*args).stdout)


# ---- help ----

def test_help_lists_every_command():
    text = run("--help").stdout
    assert re.findall(r"^  quantfs (\w+) +\w", text, re.M) == COMMANDS
    assert run("-h").stdout == run("help").stdout == text
    assert re.fullmatch(r"quantfs \d+\.\d+\.\d+ \(reference: llama.cpp 0c1e5709\)\n",
                        run("--version").stdout)
    without = run(check=False)
    assert (without.returncode, without.stdout, without.stderr) == (1, "", text)
    assert '"nonsense"' in fails("nonsense", status=1)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    text = run(command, "--help").stdout
    assert text.startswith(f"Usage: quantfs {command} ")
    assert f"\nExample: quantfs {command}" in text
    assert run(command, "-h").stdout == text
    assert f"quantfs {command}: " in fails(command, "--nonsense", status=1)
    if command != "warm":
        fails(command, "too", "many", "words", "here", status=1)


# ---- ls ----

def test_ls_tells_what_is_offered(mount, oracle):
    """For a mount the same as for its store, exact sizes with -v."""
    text = run("ls", DATA).stdout
    assert re.findall(r"^(\S+)  (\w+), (\d+) tensors, ([\d.]+ M) parameters$", text, re.M) == [
        ("demo-llama", "llama", "39", "2.89 M"), ("demo-qwen2", "qwen2", "38", "1.59 M")]
    assert re.findall(r"[A-Z0-9_]+(?= +[\d.]+ [KM]iB)", text) == 2 * (RECIPES + OWN_RECIPES)
    exact = load("ls", "-v", "--json", DATA)
    for model in exact:
        name = model["name"]
        sizes = model["file_bytes"]
        assert list(sizes) == RECIPES + OWN_RECIPES
        assert {r: sizes[r] for r in RECIPES} == {r: oracle[name][r]["size"] for r in RECIPES}
        assert model["problem"] is None and model["architecture"] == name.split("-")[1]
    rough = load("ls", "--json", DATA)
    for model, other in zip(rough, exact):
        for recipe, size in model["data_bytes"].items():
            assert 0 < other["file_bytes"][recipe] - size < 100_000
    listed = re.findall(r"(\d+)  gguf/(\S+)", run("ls", "-v", DATA).stdout)
    assert {name: int(size) for size, name in listed} == {
        f"{model['name']}-{recipe}.gguf": size
        for model in exact for recipe, size in model["file_bytes"].items()}
    mnt = mount(DATA)
    assert run("ls", mnt.point).stdout == text
    assert load("ls", "-v", "--json", mnt.point) == exact


def test_ls_lists_tensors(mount):
    mnt = mount(DATA / "demo-qwen2")
    text = run("ls", "-t", DATA / "demo-qwen2").stdout
    (model,) = load("ls", "-t", "--json", DATA / "demo-qwen2")
    assert len(model["tensors"]) == model["tensor_count"] == 38
    for info in model["tensors"]:
        folder = mnt / "demo-qwen2" / "tensors" / info["name"]
        assert info == json.loads((folder / "info.json").read_text())
        (line,) = re.findall(rf"^  tensors/{re.escape(info['name'])}  (.*)$", text, re.M)
        assert line == f"{info['dtype']} {info['shape']}  {' '.join(info['forms'])}"


def test_ls_of_nothing_fails(tmp_path):
    assert "nowhere: No such file" in fails("ls", tmp_path / "nowhere")
    assert "config.json: neither a folder nor a .gguf file" in fails("ls", DATA / "demo-llama" / "config.json")


# ---- inspect, formats ----

def test_inspect_reads_gguf(mount, tmp_path):
    virtual = mount(DATA) / "demo-qwen2" / "gguf" / "demo-qwen2-Q4_K_M.gguf"
    found, reader = load("inspect", "--json", virtual), gguf.GGUFReader(virtual)
    assert (found["format"], found["alignment"]) == ("GGUF v3", reader.alignment)
    assert found["data_offset"] == reader.data_offset
    assert {key: told["value"] for key, told in found["keys"].items()} == {
        key: field.contents() for key, field in reader.fields.items()
        if not key.startswith("GGUF.")} | {
        # a float32 as the shortest decimal of a double
        key: pytest.approx(field.contents()) for key, field in reader.fields.items()
        if isinstance(field.contents(), float)}
    assert [(t["name"], t["type"], t["ne"]) for t in found["tensors"]] == [
        (t.name, t.tensor_type.name, t.shape.tolist()) for t in reader.tensors]
    assert [t["offset"] for t in found["tensors"]] == [t.data_offset for t in reader.tensors]
    text = run("inspect", virtual).stdout
    assert text.startswith("GGUF v3\n") and "qwen2.block_count  u32  3\n" in text
    assert len(text.splitlines()) == 1 + len(found["keys"]) + len(found["tensors"])


def test_inspect_reads_safetensors():
    path = DATA / "demo-qwen2" / "model-00002-of-00002.safetensors"
    found, (entries, data) = load("inspect", "--json", path), reference.header(path)
    entries.pop("__metadata__")
    assert found["format"] == "safetensors"
    assert {t["name"]: (t["type"], t["shape"], t["offset"], t["offset"] + t["bytes"])
            for t in found["tensors"]} == {
        name: (e["dtype"], e["shape"], *(data + at for at in e["data_offsets"]))
        for name, e in entries.items()}
    text = run("inspect", path).stdout
    assert len(text.splitlines()) == 1 + len(entries) and all(name in text for name in entries)


@pytest.mark.parametrize("content", [
    b"", b"GGUF", b"GGUF\x09\0\0\0" + bytes(16), b"GGUF\x03\0\0\0" + b"\xff" * 16,
    b"short", b"\xff" * 16, b"\x10" + bytes(7) + b"{", b"\x02" + bytes(7) + b"{}trailing",
    b"\x08" + bytes(7) + b'{"a":1} '])
def test_inspect_refuses_what_is_broken(tmp_path, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    assert re.fullmatch(rf"quantfs: {path}: .{{10,}}\n", fails("inspect", path))


def test_inspect_refuses_what_cannot_be_read(tmp_path):
    converted = tmp_path / "cut.gguf"
    converted.write_bytes(convert(DATA / "demo-llama", "Q2_K")[:20_000])
    for path, reason in ((converted, ""), (tmp_path, "not a regular file"),
                         (tmp_path / "nothing", "No such file or directory")):
        assert re.fullmatch(rf"quantfs: {path}: .*{reason}\n", fails("inspect", path))


def test_formats_are_ggmls():
    found, text = load("formats", "--json"), run("formats").stdout
    for told in found["formats"]:
        kind = gguf.GGMLQuantizationType[told["ggml"]]
        assert told["name"] == told["ggml"].lower() and told["ggml_type"] == kind
        assert (told["block_weights"], told["block_bytes"]) == gguf.GGML_QUANT_SIZES[kind]
        assert told["bpw"] == 8 * told["block_bytes"] / told["block_weights"]
        assert re.search(rf"^  {told['name']} +{told['bpw']:.4g} ", text, re.M)
    assert len(found["formats"]) == 14
    plain = {told["name"]: told["bpw"] for told in found["formats"]}
    for told in found["guided"]:
        assert told["name"] == f"{told['plain']}-guided" and told["bpw"] == plain[told["plain"]]
        assert re.search(rf"^  {told['name']} .*needs a calibration$", text, re.M)
    for told in found["gptq"]:
        assert told["block_bytes"] == 2 + told["block_weights"] * told["bits"] // 8
        assert told["calibration"] == told["name"].startswith("gptq")
        assert re.search(rf"^  {told['name']} +{told['bpw']:.4g} ", text, re.M)
    assert [len(found[kind]) for kind in ("guided", "spqr", "gptq")] == [4, 3, 15]
    for told in found["scaled"]:
        assert told["bpw"] == 8 * told["block_bytes"] / told["block_weights"]
        assert re.search(rf"^  {told['name']} +{told['bpw']:.4g} ", text, re.M)
    assert len(found["scaled"]) == 8
    assert [told["name"] for told in found["recipes"]] == RECIPES + OWN_RECIPES + GUIDED
    for told in found["recipes"][:len(RECIPES)]:
        names = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}
        assert told["ftype"] == gguf.LlamaFileType[
            names.get(told["name"], f"MOSTLY_{told['name']}")]
    assert [told["ftype"] for told in found["recipes"][len(RECIPES):][:2]] == [1004, 1003]
    for told in found["recipes"]:
        assert re.search(rf"^  {told['name']} +{told['bpw']:.4g}: ", text, re.M)


# ---- convert ----

def test_convert_writes_a_file_like_any_other(oracle, tmp_path):
    """By a recipe's name in any case, beside what is there, with the permissions of new files."""
    out = tmp_path / "out.gguf"
    subprocess.run(["sh", "-c", 'umask 027; exec "$@"', "sh", QUANTFS, "convert",
                    DATA / "demo-llama", "-t", "q4_k_s", "-o", out], check=True)
    assert out.stat().st_mode & 0o777 == 0o640
    assert out.stat().st_size == oracle["demo-llama"]["Q4_K_S"]["size"]
    assert os.listdir(tmp_path) == ["out.gguf"]
    before = out.read_bytes()
    assert "--force" in fails("convert", DATA / "demo-qwen2", "-t", "F16", "-o", out)
    assert out.read_bytes() == before
    run("convert", DATA / "demo-qwen2", "--type", "F16", "--output", out, "--force", "--workers", 1)
    assert out.read_bytes() == convert(DATA / "demo-qwen2", "f16")


@pytest.mark.parametrize("args, status, named", [
    (["demo-llama", "-t", "Q9_K"], 1, '"Q9_K"'),
    (["demo-llama", "-t", "q4_k"], 1, '"q4_k"'),
    (["demo-llama"], 1, "-t"),
    (["-t", "F16"], 1, "checkpoint"),
    (["demo-llama", "-t", "F16", "--workers", "many"], 1, "many"),
    ([".", "-t", "F16"], 2, "no model"),
    (["nowhere", "-t", "F16"], 2, "nowhere"),
    (["demo-llama/model.safetensors", "-t", "F16"], 2, "model.safetensors"),
    ([".", "-t", "Q4_0", "--imatrix", "demo-llama.imatrix.dat"], 2, "models"),
    (["demo-llama", "-t", "Q4_0", "--imatrix", "nowhere.dat"], 2, "nowhere.dat"),
    (["demo-llama", "-t", "Q4_0", "--imatrix", "demo-llama.oracle.json"], 2, "oracle.json"),
])
def test_convert_says_what_is_wrong(tmp_path, args, status, named):
    message = fails("convert", *args, "-o", tmp_path / "out.gguf", status=status, cwd=DATA)
    assert named in message
    assert os.listdir(tmp_path) == []


def test_convert_needs_a_place_to_write(tmp_path):
    assert "nowhere/out.gguf" in fails("convert", DATA / "demo-llama", "-t", "F16", "-o",
                                       tmp_path / "nowhere" / "out.gguf")
    assert "-o" in fails("convert", DATA / "demo-llama", "-t", "F16", status=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts tmpfs: needs root")
def test_a_convert_that_fails_leaves_nothing(tmpfs):
    disk = tmpfs("disk", "size=1m")
    assert "No space left" in fails("convert", DATA / "demo-llama", "-t", "Q8_0", "-o",
                                    disk / "out.gguf")
    assert os.listdir(disk) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_convert_that_is_killed_leaves_no_output(tall, tmp_path, number):
    """Under no name, where the file system has files without one."""
    out = tmp_path / "out.gguf"
    with subprocess.Popen([QUANTFS, "convert", tall.store / "tall", "-t", "Q3_K_M", "-o", out,
                           "--workers", "1"], env={**os.environ, "QUANTFS_ISA": "c"}) as process:
        wait_until(lambda: written(process.pid) > 100_000)
        process.send_signal(number)
        assert process.wait() == -number
    assert list(tmp_path.iterdir()) == []
    run("convert", tall.store / "tall", "-t", "Q8_0", "-o", out)
    assert out.read_bytes() == convert(tall.store / "tall", "Q8_0")


# ---- warm, status ----

def test_warm_makes_files_and_folders(mount, tmp_path):
    """Afterwards a read encodes nothing, in this mount or in a later one."""
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
    file = mnt / "demo-llama" / "gguf" / "demo-llama-Q5_0.gguf"
    embedding = "demo-qwen2/tensors/model.embed_tokens.weight"
    folder = mnt / embedding
    size = file.stat().st_size + sum(path.stat().st_size for path in folder.iterdir())
    done = run("warm", file, folder)
    assert re.fullmatch(r"[\d.]+ MiB in \d+:\d\d, [\d.]+ \wi?B/s\n", done.stdout)
    assert float(done.stdout.split()[0]) == pytest.approx(size / 2**20, abs=0.1)
    made = mnt.stats()["tiles_encoded"]
    assert made
    file.read_bytes()
    assert mnt.stats()["tiles_encoded"] == made
    mnt.unmount()
    mnt = mount(DATA, f"cache={tmp_path / 'cache'}")
    (mnt / embedding / "q4_0").read_bytes()
    assert mnt.stats()["tiles_encoded"] == 0 < mnt.stats()["tiles_loaded"]
    assert "nothing" in fails("warm", mnt / "nothing")
    fails("warm", status=1)


def test_status_tells_what_a_mount_does(mount, tmp_path):
    mnt = mount(DATA)
    (mnt / "demo-llama" / "gguf" / "demo-llama-Q4_0.gguf").read_bytes()
    told, stats = load("status", "--json", mnt.point), mnt.stats()
    assert told.keys() == stats.keys() and told["store"] == str(DATA)
    assert told["pid"] == mnt.daemon.pid and told["tiles_encoded"] == stats["tiles_encoded"] > 0
    text = run("status", mnt.point).stdout
    assert text.startswith(f"{DATA} on {mnt.point}, up 0:")
    assert f"tiles: {told['tiles_encoded']} encoded" in text
    assert text.splitlines()[0][:-1] in run("status").stdout
    plain = dict(line.split(" ", 1) for line in
                 (mnt / ".quantfs" / "stats").read_text().splitlines())
    metrics = dict(line.split() for line in
                   (mnt / ".quantfs" / "metrics").read_text().splitlines() if line[0] != "#")
    assert plain["tiles_encoded"] == metrics["quantfs_tiles_encoded_total"] == str(
        told["tiles_encoded"])
    assert metrics["quantfs_open_files"] == "0"

    (entry,) = (m for m in load("status", "--json") if m["mount_point"] == str(mnt.point))
    assert entry["answers"] is True and entry["pid"] == mnt.daemon.pid
    mnt.kill()
    (entry,) = (m for m in load("status", "--json") if m["mount_point"] == str(mnt.point))
    assert entry["answers"] is False
    assert f"{mnt.point} does not answer: its daemon is gone" in run("status").stdout
    for other in (mnt.point, tmp_path, tmp_path / "nowhere"):
        assert f"{other}: no quantfs is mounted there" in fails("status", other)


def test_status_can_be_watched(mount):
    mnt = mount(DATA)
    with subprocess.Popen([QUANTFS, "status", "-w", mnt.point], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watch:
        assert watch.stdout.readline().startswith(f"{DATA} on {mnt.point}")
        mnt.unmount()
        assert "no quantfs is mounted" in watch.communicate(timeout=20)[1]
        assert watch.returncode == 2
    assert "which mount" in fails("status", "-w", status=1)


# ---- cache ----

def cache(what, folder, *args, **kwargs):
    return json.loads(run("cache", what, "--cache", folder, "--json", *args, **kwargs).stdout)


def test_cache_is_counted_verified_and_emptied(mount, tmp_path):
    folder = tmp_path / "cache"
    mnt = mount(DATA, f"cache={folder}", "compress=off")
    (mnt / "demo-llama" / "gguf" / "demo-llama-Q8_0.gguf").read_bytes()
    mnt.unmount()
    (folder / "v2" / "foreign").write_text("not the cache's")
    objects = tilecache.objects(folder)
    told = cache("stat", folder)
    assert told == {"folder": str(folder), "objects": len(objects), "sealed": 0, "damaged": 0,
                    "tiles": sum(o.tile_count for o in objects), "foreign": told["foreign"],
                    "bytes": sum(path.stat().st_blocks * 512 for path in tilecache.paths(folder))}
    assert cache("verify", folder) == told
    assert f"{folder}: {len(objects)} objects, " in run("cache", "stat", "--cache", folder).stdout

    victim = max(objects, key=lambda o: o.size)
    victim.data[victim.offset(0) + 100] ^= 1
    victim.write()
    done = run("cache", "verify", "--cache", folder, "--json", check=False)
    assert done.returncode == 2 and json.loads(done.stdout)["damaged"] == 1
    assert cache("stat", folder)["damaged"] == 0  # looks at no tile
    assert cache("verify", folder, "--repair")["damaged"] == 1
    assert cache("verify", folder)["damaged"] == 0

    left = cache("stat", folder)
    removed = cache("prune", folder, "--size", left["bytes"] // 2)
    assert 0 < removed["objects"] < left["objects"]
    assert cache("stat", folder)["bytes"] == left["bytes"] - removed["bytes"] <= left["bytes"] // 2
    assert cache("prune", folder)["objects"] == 0
    removed = cache("clear", folder)
    assert cache("stat", folder)["objects"] == cache("stat", folder)["bytes"] == 0
    assert tilecache.paths(folder) == [] and (folder / "v2" / "foreign").exists()


def test_cache_finds_its_folder_and_says_where_there_is_none(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": "/nowhere"}
    assert f"{tmp_path}/quantfs: No such file" in fails("cache", "stat", env=env)
    (tmp_path / "quantfs").mkdir(0o700)
    assert run("cache", "stat", env=env).stdout.startswith(f"{tmp_path}/quantfs: 0 objects")
    for action in ("verify", "prune", "clear"):
        run("cache", action, env=env)
    assert os.listdir(tmp_path / "quantfs") == []  # whoever looks makes nothing
    for args in (["stat", "--cache", "none"], ["nonsense"], [], ["stat", "verify"],
                 ["prune", "--size", "much"]):
        fails("cache", *args, status=1, env=env)
