# SPDX-License-Identifier: MIT
"""quantfs-run on files in SpQR: what comes out, on every instruction set, streamed and resident."""

import json
import os
import subprocess

import pytest
import spqr

from conftest import DATA, QUANTFS, run, wait_until
from gguf_header import Header

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"


def quantfs_run(command, file, *args, **env):
    return subprocess.run([RUN, command, "--json", *map(str, args), file], capture_output=True,
                          timeout=300, check=False, env={**os.environ, **env})


def told(command, file, *args, **env):
    args += {"perplexity": ("-f", TEXT), "generate": ("-p", "In the beginning", "--temp", 0)}[command]
    done = quantfs_run(command, file, *args, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def perplexity(file, *args, **env):
    return told("perplexity", file, *(args or ("-c", 512, "--chunks", 8)), **env)["perplexity"]


@pytest.fixture(scope="module")
def files(calibration, tmp_path_factory):
    """Of demo-llama, with its calibration."""
    folder = tmp_path_factory.mktemp("spqr")
    for recipe in ("F16", "SPQR4", "SPQR3"):
        run("convert", DATA / "demo-llama", "-t", recipe, "--calibration", calibration, "-o",
            folder / f"{recipe}.gguf")
    return {recipe: folder / f"{recipe}.gguf" for recipe in ("F16", "SPQR4", "SPQR3")}


def test_what_is_expected_is_near_that_of_f16(mount, files, tmp_path):
    """With a calibration nearer than without."""
    plain = mount(DATA / "demo-llama") / "demo-llama" / "gguf" / "demo-llama-SPQR3.gguf"
    base, some = tmp_path / "base", ("-c", 512, "--chunks", 8)
    f16 = perplexity(files["F16"], *some, "--save-logits", base)

    def divergence(file):
        found = told("perplexity", file, *some[:2], "--kl-divergence", base)
        assert found["perplexity"] < 1.02 * f16
        return found["kl_divergence_mean"]
    spqr4, spqr3 = (divergence(files[recipe]) for recipe in ("SPQR4", "SPQR3"))
    assert 0 < spqr4 < 0.5 * spqr3 < 0.4 * divergence(plain)


def test_all_instruction_sets_say_the_same(files):
    wanted = perplexity(files["SPQR3"], "-c", 64, "--chunks", 2)
    for isa in ("c", "avx2", "avx512", "avx512_vnni"):
        done = quantfs_run("perplexity", files["SPQR3"], "-c", 64, "--chunks", 2, "-f", TEXT,
                           QUANTFS_ISA=isa)
        if done.returncode and b"cannot run" in done.stderr:
            continue  # not on this machine
        assert json.loads(done.stdout)["perplexity"] == wanted, isa


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_streamed_is_resident_to_the_bit(files, io):
    file, args = files["SPQR3"], ("-c", 64, "-n", 12)
    text = told("generate", file, *args)
    assert text["resident_bytes"] == text["weights_bytes"] and len(text["tokens"]) == 12
    words = quantfs_run("generate", file, "-p", "a", "-c", 64, "--ram", "1M").stderr.split()
    needed = float(words[words.index(b"take") + 1])  # "... and the program take 5.27 MiB, and ..."
    for more in (0.7, 0.85):
        small = told("generate", file, *args, "--ram", f"{int((needed + more) * 1024)}K", "--io", io)
        assert small["tokens"] == text["tokens"]
        missing = small["weights_bytes"] - small["resident_bytes"]
        assert 0 < missing == small["streamed_bytes_least"]


def test_stripes_stream_from_the_cache(mount, calibration, files, tmp_path):
    mnt = mount(DATA / "demo-llama", f"calibration={calibration}", f"cache={tmp_path / 'cache'}",
                "compress=off")
    virtual = mnt / "demo-llama" / "gguf" / "demo-llama-SPQR3.gguf"
    assert virtual.read_bytes() == files["SPQR3"].read_bytes()
    text = told("generate", files["SPQR3"], "-c", 64, "-n", 12)

    def streamed():
        words = quantfs_run("generate", virtual, "-p", "a", "-c", 64, "--ram", "1M").stderr.split()
        needed = float(words[words.index(b"take") + 1]) + 0.8
        small = told("generate", virtual, "-c", 64, "-n", 12, "--ram", f"{int(needed * 1024)}K")
        assert small["tokens"] == text["tokens"] and small["damaged_tiles"] == 0
        return small["from_objects_bytes"] > 0.5 * small["streamed_bytes"] > 0
    wait_until(streamed)


def test_experts(mount, experts, tmp_path):
    """A tensor has the stripes of all of them, and an order of the columns for each."""
    model, made = experts
    run("convert", model, "-t", "SPQR4", "--calibration", made, "-o", tmp_path / "moe.gguf")
    text = told("generate", tmp_path / "moe.gguf", "-c", 64, "-n", 8)
    virtual = mount(model, f"calibration={made}") / model.name / "gguf" / f"{model.name}-SPQR4.gguf"
    assert told("generate", virtual, "-c", 64, "-n", 8)["tokens"] == text["tokens"]
    run("convert", model, "-t", "F16", "-o", tmp_path / "f16.gguf")
    short, base = ("-c", 64, "--chunks", 4), tmp_path / "base"
    perplexity(tmp_path / "f16.gguf", *short, "--save-logits", base)
    found = told("perplexity", tmp_path / "moe.gguf", *short[:2], "--kl-divergence", base)
    # 0.0002; 0.0026 were the order of the first expert's columns that of all.
    assert 0 < found["kl_divergence_mean"] < 0.0008


def test_each_matrix_has_its_own_order(files, tmp_path):
    """k's with no calibration between q's and v's with one: three of one input, two orders."""
    plain, mixed = tmp_path / "plain.gguf", bytearray(files["SPQR3"].read_bytes())
    run("convert", DATA / "demo-llama", "-t", "SPQR3", "-o", plain)
    other = plain.read_bytes()
    of_mixed, of_plain = Header(mixed).tensors, Header(other).tensors
    names = [name for name in of_mixed if name.endswith("attn_k.weight")]
    for name in names:
        (kind, (columns, rows), at), (_, _, source) = of_mixed[name], of_plain[name]
        assert kind == 1003
        size = spqr.size(3, rows, columns)
        assert mixed[at:at + size] != other[source:source + size]
        mixed[at:at + size] = other[source:source + size]
    (tmp_path / "mixed.gguf").write_bytes(mixed)
    some = ("-c", 64, "--chunks", 4)
    assert perplexity(tmp_path / "mixed.gguf", *some) < 1.05 * perplexity(files["F16"], *some)


def damaged(file, tmp_path, at, data):
    copy = tmp_path / "damaged.gguf"
    content = bytearray(file.read_bytes())
    content[at:at + len(data)] = data
    copy.write_bytes(content)
    return copy


@pytest.mark.parametrize("part, problem", [("permutation", b"there twice"),
                                           ("outlier", b"a product failed")])
def test_what_breaks_a_rule_is_an_error(files, tmp_path, part, problem):
    header = Header(files["SPQR3"].read_bytes())
    name = "blk.2.ffn_down.weight"
    _, (columns, rows), at = header.tensors[name]
    slots, width, stripe_size = spqr.shape(3, columns, 0.01)
    stripes = -(-rows // 16) * stripe_size
    where = {"permutation": at + stripes,
             "outlier": at + stripe_size - 2 * spqr.align(slots * width)}[part]
    data = {"permutation": files["SPQR3"].read_bytes()[where + 2:where + 4],
            "outlier": b"\xff\xff"}[part]
    copy = damaged(files["SPQR3"], tmp_path, where, data)
    done = quantfs_run("generate", copy, "-p", "a", "-n", 2)
    assert done.returncode == 2 and not done.stdout
    assert problem in done.stderr and str(copy).encode() in done.stderr


def test_plan_knows_the_recipes(files):
    done = subprocess.run([RUN, "plan", "--json", files["SPQR3"]], capture_output=True, check=True)
    assert json.loads(done.stdout)
    config = DATA / "demo-llama" / "config.json"
    done = subprocess.run([RUN, "plan", "--json", "--config", config, "--formats",
                           "SPQR3,Q3_K_M,Q4_K_M-guided"], capture_output=True, check=True)
    assert b"SPQR3" in done.stdout
