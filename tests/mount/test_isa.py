# SPDX-License-Identifier: MIT
"""QUANTFS_ISA chooses the instructions that encode, and nothing of what readers see."""

import os

import pytest

from conftest import DATA, run


def environment(isa):
    return {**os.environ, "QUANTFS_ISA": isa}


def convert(isa, out):
    return run("convert", DATA / "demo-llama", "-t", "Q4_K_M", "-o", out, env=environment(isa),
               check=False)


@pytest.mark.parametrize("isa", ("avx2", "avx512"))
def test_every_set_of_instructions_gives_the_same_file(tmp_path, isa):
    assert convert("c", tmp_path / "c.gguf").returncode == 0
    done = convert(isa, tmp_path / "isa.gguf")
    if "this processor cannot run" in done.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "isa.gguf").read_bytes() == (tmp_path / "c.gguf").read_bytes()


def test_an_unknown_set_is_refused_by_name(tmp_path):
    done = convert("sse9", tmp_path / "out.gguf")
    assert done.returncode != 0
    assert "QUANTFS_ISA" in done.stderr and "sse9" in done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_a_cache_serves_all_sets(mount, tmp_path):
    """What one set has made another finds again: keys do not depend on it."""
    cache = tmp_path / "cache"
    path = "demo-llama/tensors/model.layers.1.mlp.down_proj.weight/q4_k"
    first = mount(DATA, f"cache={cache}", env=environment("c"))
    assert first.stats()["isa"] == "c"
    made = (first / path).read_bytes()
    first.unmount()
    second = mount(DATA, f"cache={cache}")
    assert (second / path).read_bytes() == made
    assert second.stats()["tiles_encoded"] == 0
    assert second.stats()["tiles_loaded"] > 0
