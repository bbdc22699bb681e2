# SPDX-License-Identifier: MIT
"""quantfs-run --trace: when what is lifted to a GPU, here an emulated one, was copied and used."""

import json
import subprocess

import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
GPU = ("--backend", "emu", "--vram", "3M", "-c", 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    run("convert", DATA / "demo-llama", "-t", "F16", "-o", path)
    return path


def quantfs_run(command, *args):
    return subprocess.run([RUN, command, *map(str, args)], capture_output=True, text=True,
                          timeout=120, check=False)


def bench(file, *args, prompt=0, length=6):
    done = quantfs_run("bench", "-p", prompt, "-n", length, "--repeats", 1, "--json", *args, file)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("lift", ["copy", "mapped"])
@pytest.mark.parametrize("ram", [(), ("--ram", "12M")])
def test_all_that_is_lifted_is_traced(file, tmp_path, lift, ram):
    told = bench(file, *GPU, *ram, "--lift", lift, "--trace", tmp_path / "trace", length=2)
    found = lines(tmp_path / "trace")
    assert told["lift"] == lift and (told["ring_bytes"] > 0) == bool(ram)
    assert sum(piece["bytes"] for piece in found) == told["lifted_bytes"]
    # every pass takes the same pieces in the same order, of which all are different
    numbers = [piece["piece"] for piece in found]
    one = numbers[:len(numbers) // told["passes"]]
    assert one == list(range(len(one))) and numbers == one * told["passes"]
    assert all(("copy" in piece) == (lift == "copy") for piece in found)
    assert found[0]["copy" if lift == "copy" else "run"][0] == 0


def test_order_of_times(file, tmp_path):
    bench(file, *GPU, "--trace", tmp_path / "trace")
    found = lines(tmp_path / "trace")
    for piece in found:
        assert 0 <= piece["copy"][0] < piece["copy"][1] <= piece["run"][0] < piece["run"][1]
    for before, after in zip(found, found[1:]):
        assert before["copy"][1] <= after["copy"][0]
        assert before["run"] == after["run"] or before["run"][1] <= after["run"][0]
    # a slot is copied to when its piece has been multiplied with, and there are three
    for piece, fourth in zip(found, found[3:]):
        assert piece["run"][1] <= fourth["copy"][0]


def test_first_512_pieces(file, tmp_path):
    told = bench(file, *GPU, "--trace", tmp_path / "trace", length=30)
    found = lines(tmp_path / "trace")
    assert len(found) == 512 and sum(piece["bytes"] for piece in found) < told["lifted_bytes"]


def test_a_run_is_the_same_when_it_is_traced(file, tmp_path):
    args = ("-p", "In the beginning", "-n", 4, "--temp", 0, "--json", "-q", *GPU, file)
    done = quantfs_run("generate", "--trace", tmp_path / "trace", *args)
    assert done.returncode == 0, done.stderr
    plain, traced = json.loads(quantfs_run("generate", *args).stdout), json.loads(done.stdout)
    assert traced["tokens"] == plain["tokens"]
    assert traced["lifted_bytes"] == plain["lifted_bytes"]
    text = (DATA / "kjv-eval.txt", "--chunks", 1, *GPU, "--trace", tmp_path / "other", file)
    done = quantfs_run("perplexity", "-f", *text)
    assert done.returncode == 0 and lines(tmp_path / "other"), done.stderr


def test_file_is_replaced_or_left_alone(file, tmp_path):
    path = tmp_path / "trace"
    path.write_text("before")
    done = quantfs_run("bench", "-n", 1, "-p", 100, "-c", 64, "--backend", "emu", "--vram", "3M",
                       "--trace", path, file)
    assert done.returncode == 2 and path.read_text() == "before"
    bench(file, *GPU, "--trace", path, length=1)
    assert lines(path) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("args, message", [
    ([], "--vram, --lift and --trace are for --backend cuda, or emu"),
    (["--backend", "emu"], "--trace: all weights are resident, and none is lifted")])
def test_what_cannot_be_traced_is_refused(file, tmp_path, args, message):
    done = quantfs_run("bench", "-n", 1, "-p", 0, *args, "--trace", tmp_path / "trace", file)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(file, tmp_path):
    done = quantfs_run("bench", "-n", 1, "-p", 0, *GPU, "--trace", tmp_path / "no" / "trace", file)
    assert done.returncode == 2 and f"{tmp_path}/no/trace: No such file" in done.stderr
