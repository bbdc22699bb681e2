# SPDX-License-Identifier: MIT
"""tools/gpu-report: what its page says in emulation, and that nothing that is wrong goes unseen."""

import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys

import pytest

from conftest import QUANTFS, ROOT

REPORT = ROOT / "tools" / "gpu-report"
BUILD = QUANTFS.parent
EMULATED = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0",
            "IQ4_NL", "Q3_K", "Q2_K", "SPQR4",
            "SPQR3", "SPQR2", "attention", "rope", "rope, halves", "norm", "silu", "gelu", "add",
            "argmax")


def report(*args):
    return subprocess.run([sys.executable, REPORT, *map(str, args)], capture_output=True, text=True,
                          timeout=300, check=False)


def tables(page):
    """Rows of all tables, by what stands above them."""
    found, title = {}, None
    for line in page.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return {title: rows[2:] for title, rows in found.items()}


@pytest.fixture(scope="module")
def loaded():
    loader = importlib.machinery.SourceFileLoader("gpu_report", str(REPORT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_report", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path):
    """A build folder in which Python stands for some programs: it sets status and out, where
    original() is what they would be."""
    def make(**filters):
        folder = tmp_path / "build"
        (folder / "tests").mkdir(parents=True)
        for name in ("quantfs", "quantfs-run", "tests/gpu"):
            code = filters.get(name.replace("-", "_").replace("/", "_"))
            if code is None:
                (folder / name).symlink_to(BUILD / name)
                continue
            (folder / name).write_text(
                f"#!{sys.executable} -S\nimport json, subprocess, sys\nargs = sys.argv[1:]\n"
                "def original():\n"
                f"    done = subprocess.run(['{BUILD / name}', *args], stdout=subprocess.PIPE)\n"
                "    return done.returncode, done.stdout.decode()\n"
                f"{code}\nprint(out, end='')\nsys.exit(status)\n")
            (folder / name).chmod(0o755)
        return folder
    return make


def test_page_of_the_emulator(tmp_path):
    done = report("--backend", "emu", "--build", BUILD, "-o", tmp_path / "page.md")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "in emulation" in done.stderr
    page = (tmp_path / "page.md").read_text()
    assert page.splitlines()[2].startswith("**In emulation: no GPU was used")
    assert "All bits and all texts are the processor's." in page
    assert "tok/s |" in page and not re.search(r"\d (tok/s|GFLOP/s)", page)
    found = tables(page)
    assert [row[0] for row in found["The same bits"]] == list(EMULATED)
    assert all(int(row[2]) and row[3] == "0" for row in found["The same bits"])
    models = {title: rows for title, rows in found.items() if ".gguf" in title}
    assert [title.partition(",")[0] for title in models] == [
        "demo-F16.gguf", "demo-Q4_K_M.gguf", "made-up-F16.gguf"]
    for rows in models.values():
        assert [row[1] for row in rows] == ["", *["yes"] * (len(rows) - 1)]
        assert all((row[5] != "-") == row[0].startswith(("copy", "mapped")) for row in rows)
    *_, made = models.values()
    assert [row[0] for row in made if row[6] != "-"] == ["copy, from the file", "mapped, from the file"]
    for way in ("copy", "mapped"):
        for place in ("memory", "the file"):
            rows = found[f"{way}, from {place}"]
            assert len(rows) == 12 and all((row[2] == "-") == (way == "mapped") for row in rows)
    assert page.count("multiplied with; ") == page.count(" ms: products ran ") == 4


def test_text_that_differs_fails(build):
    folder = build(quantfs_run="""
if "--trace" in args:
    status, out = 2, ""
    print("no trace today", file=sys.stderr)
else:
    status, out = original()
if args[0] == "generate" and "mapped" in args:
    told = json.loads(out)
    told["tokens"][-1] += 1
    out = json.dumps(told)""", tests_gpu="""
found = [{"what": "F32", "values": 9, "different": 2}, {"what": "F16", "values": 9, "different": 0}]
status, out = 1, json.dumps({"device": "one", "compared_with": "another", "compared": found})""")
    done = report("--backend", "emu", "--build", folder)
    assert done.returncode == 1
    wrong = [line for line in done.stderr.splitlines() if "emulation" not in line]
    assert wrong[0] == "gpu-report: Not the processor's bits: F32"
    assert wrong[1] == ("gpu-report: demo-F16.gguf, mapped, from memory: not the processor's text")
    assert sum("not the processor's text" in line for line in wrong) == 4
    assert sum("no trace today" in line for line in wrong) == 4 and len(wrong) == 9
    assert "All bits" not in done.stdout and "**Wrong:**" in done.stdout
    for line in wrong:
        assert f"- {line.removeprefix('gpu-report: ')}" in done.stdout.splitlines()
    assert {row[1] for row in tables(done.stdout)["demo-F16.gguf, 5.80 MB"]} == {"", "yes", "NO"}


def test_what_does_not_run_fails(build):
    folder = build(quantfs_run="print('not today', file=sys.stderr)\nout, status = '', 2",
                   tests_gpu="print('nor this', file=sys.stderr)\nout, status = '', 2")
    done = report("--build", folder, "--backend", "emu")
    assert done.returncode == 1
    assert "tests/gpu ended with status 2: nor this" in done.stderr and "not today" in done.stderr


def test_without_a_gpu(build):
    """By itself it is content with the emulator, and says so; a GPU that is asked for must be there."""
    folder = build(quantfs_run="""
if "cuda" in args:
    print("quantfs-run: no CUDA driver: none is here", file=sys.stderr)
out, status = "", 2""", tests_gpu="out, status = '', 2")
    done = report("--build", folder)
    assert "in emulation, without rates: no CUDA driver: none is here" in done.stderr
    assert "no GPU was used (no CUDA driver: none is here)" in done.stdout
    done = report("--build", folder, "--backend", "cuda")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gpu-report: quantfs-run: no CUDA driver: none is here\n"


def test_what_is_not_built_is_named(tmp_path):
    done = report("--build", tmp_path)
    assert done.returncode == 1 and f"{tmp_path}/quantfs is not there" in done.stderr


def test_rates(loaded):
    page = loaded.Report(None, "cuda", None)
    page.rates({"memory_bytes_s": 2e12, "launch_seconds": 2.5e-6,
                "attention": {"positions": 128, "bytes": 5e8, "bytes_s": 1e12},
                "copies": [{"bytes": 1 << 20, "bytes_s": 25.5e9}],
                "products": [{"format": "Q4_K", "bytes_s": 1.5e12, "flop_s_8": 9e12,
                              "flop_s_16": 18e12, "mapped_bytes_s": 24e9}]})
    text = "\n".join(page.lines)
    assert "| Q4_K | 1500.0 | 75 % | 9000 | 18000 | 24.00 |" in text
    assert "2000.0 GB/s, its makers say" in text
    assert "| copies of 1024 KiB from pinned memory | 25.50 GB/s |" in text
    assert "| attention over 128 positions, 500.00 MB | 1000.0 GB/s |" in text
    assert "| a launch, behind others | 2.50 us |" in text


def test_trace(loaded):
    """Two copies of a millisecond one behind the other, and products half a millisecond later."""
    pieces = [{"piece": i, "bytes": 4000000, "copy": [i * 1e-3, (i + 1) * 1e-3],
               "run": [(i + 1) * 1e-3 + 5e-4, (i + 2) * 1e-3]} for i in range(4)]
    text = "\n".join(loaded.trace_page(pieces))
    assert ("4 pieces, 16.00 MB, in 5.00 ms: products ran 40 % of the time, copies 80 % at 4.00 GB/s,"
            " and both at once 30 %.") in text
    assert "| 2 | 4000000 | 0 to 1000 | 4.00 | 1500 to 2000 |" in text
    chart = [line[8:] for line in text.splitlines() if re.match(r" {5}\d  ", line)]
    assert len(chart) == 2 and all(re.fullmatch(r" *=+ +#+", line) for line in chart)
    for way in ("copy", "run"):
        assert loaded.total([piece[way] for piece in pieces]) == pytest.approx(
            {"copy": 4e-3, "run": 2e-3}[way])
    mapped = "\n".join(loaded.trace_page([{key: p[key] for key in p if key != "copy"} for p in pieces]))
    assert "| - | - | 0 to 500 |" in mapped and "copies" not in mapped


def test_made_model_has_its_size(loaded, tmp_path):
    loaded.write_made_model(tmp_path / "made", loaded.SHAPES["emu"])
    done = subprocess.run([QUANTFS, "ls", "--json", tmp_path / "made"], capture_output=True,
                          check=False)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
