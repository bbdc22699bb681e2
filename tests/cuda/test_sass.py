# SPDX-License-Identifier: MIT
"""What nvcc made of the kernels is within kernels/cuda/budgets.txt; and tools/sass tells what is
not, for a kernel that was made worse in each way."""

import subprocess
import sys

import pytest

from conftest import QUANTFS, ROOT

BUILD = QUANTFS.parent
BUDGETS = ROOT / "kernels" / "cuda" / "budgets.txt"
# What the toy takes as it is: 16 weights in a turn, with two loads.
TOY = "toy 16 2 1.1 24 0\n"


def sass(budgets, *fatbins):
    return subprocess.run([sys.executable, ROOT / "tools" / "sass", budgets, *fatbins], text=True,
                          capture_output=True, check=False)


@pytest.fixture
def toy(tmp_path):
    """tools/sass on the toy kernel made in some way."""
    def run(way, budget=TOY):
        (tmp_path / "budgets.txt").write_text("# a comment\n\n" + budget)
        return sass(tmp_path / "budgets.txt", BUILD / "tests" / f"toy_{way}.fatbin")
    return run


def test_kernels_are_within_their_budgets():
    done = sass(BUDGETS, *(BUILD / "kernels" / "cuda").glob("*.fatbin"))
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_what_a_kernel_takes(toy):
    done = toy("good")
    assert done.returncode == 0, done.stderr
    name, gpu, registers, shared, cost, *mix = done.stdout.splitlines()[1].split()
    assert (name, gpu, registers, shared, cost) == ("toy", "sm_80", "24", "0", "1.06")
    counts = dict(zip(mix[1::2], map(int, mix[::2])))
    assert counts["IDP"] == 4 and counts["LDG"] == 2
    assert sum(counts.values()) == 17


def test_turns_that_were_unrolled(toy):
    """Four turns in one loop are counted as four."""
    done = toy("unrolled", "toy 16 2 1.0 99 0\n")
    assert done.returncode == 0, done.stderr
    assert "16 IDP" in done.stdout


@pytest.mark.parametrize("way, said", [
    ("slow", "1.44 instructions a weight, 1.1 allowed"),
    ("registers", "46 registers, 24 allowed"),
    ("shared", "256 bytes of shared memory, 0 allowed"),
    ("spills", "bytes of a thread's memory: registers are spilled"),
    ("no_loop", "no loop has 2 loads and no loop in it"),
    ("inner_loop", "no loop has 2 loads and no loop in it"),
])
def test_worse_kernels(toy, way, said):
    done = toy(way)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if said in line]
    assert line.startswith("toy sm_80: ")


@pytest.mark.parametrize("budget, said", [
    ("other - - - 99 0\n", "toy: no budget"),
    (TOY + "other - - - 99 0\n", "other: a budget, but no kernel"),
    ("toy 48 3 1.1 24 0\n", "toy sm_80: no loop has 3 loads and no loop in it"),
])
def test_budgets_that_do_not_fit(toy, budget, said):
    done = toy("good", budget)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()
