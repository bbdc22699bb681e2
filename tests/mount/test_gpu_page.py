# SPDX-License-Identifier: MIT
"""docs/gpu.md has what tools/gpu-expected makes of quantfs-run plan."""

import json
import subprocess
import sys

import pytest

from conftest import DATA, QUANTFS, ROOT

EXPECTED = ROOT / "tools" / "gpu-expected"
PAGE = ROOT / "docs" / "gpu.md"


def expected(*args):
    return subprocess.run([sys.executable, EXPECTED, *map(str, args)], capture_output=True, text=True,
                          timeout=120, check=False)


def test_page_is_what_comes_out():
    done = expected("--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_figures_are_those_of_the_formula():
    (row,) = [line for line in PAGE.read_text().partition("### Llama 3.1 8B")[2].splitlines()[:12]
              if line.startswith("| RTX 3060")]
    done = subprocess.run([QUANTFS.with_name("quantfs-run"), "plan", "--json", "--vram", "12G",
                           "--config", DATA / "configs" / "llama-3.1-8b.json", "--formats",
                           "F16,Q8_0"], capture_output=True, check=True)
    f16, q8_0 = json.loads(done.stdout)["formats"]
    ram, disk = (f16["streamed_bytes"] / link for link in (25e9, 7e9))
    resident = q8_0["weights_bytes"] / (0.85 * 360e9) + 32 * 50e-6
    assert q8_0["streamed_bytes"] == 0 < f16["streamed_bytes"]
    assert row.split("|")[2:4] == [f" {1 / ram:.2f} / {1 / disk:.2f} ", f" **{1 / resident:.1f}** "]


def test_what_differs_is_told_and_mended(tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(PAGE.read_text().replace("| RTX 3060 | 12 GiB |", "| RTX 3060 | 13 GiB |"))
    done = expected("--check", "--page", page)
    assert done.returncode == 1 and "13 GiB" in done.stderr and "12 GiB" in done.stderr
    assert expected("--page", page).returncode == 0 and page.read_text() == PAGE.read_text()


@pytest.mark.parametrize("name, weights", [("llama-3.2-1b", 1.24), ("llama-3.1-8b", 8.03),
                                           ("llama-3.1-70b", 70.6), ("qwen2.5-32b", 32.8),
                                           ("mixtral-8x7b", 46.7)])
def test_configs_have_the_published_numbers_of_weights(name, weights):
    done = subprocess.run([QUANTFS.with_name("quantfs-run"), "plan", "--vram", "200G", "--config",
                           DATA / "configs" / f"{name}.json"], capture_output=True, text=True,
                          check=True)
    assert f" {weights} B weights" in done.stdout.splitlines()[0]
