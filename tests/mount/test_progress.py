# SPDX-License-Identifier: MIT
"""Lines about long jobs: on a terminal, and nowhere else."""

import os
import pty
import re
import subprocess

import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    run("convert", DATA / "demo-llama", "-t", "Q4_0", "-o", path)
    return path


def on_terminal(*args):
    """What a program writes to stdout, and what to a terminal as its stderr."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*map(str, args)], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:  # EIO: the other end is closed
            pass
        os.close(ours)
        out = process.stdout.read()
    assert process.returncode == 0, seen
    return out.decode(), seen.decode()


def test_long_prompt_is_read_with_a_line_that_goes_away(file):
    prompt = TEXT.read_text()[:1500]
    text, line = on_terminal(RUN, "generate", "-p", prompt, "-n", "4", "--temp", "0", file)
    assert re.search(r"\rreading the prompt \[=* *\] +\d+ %  128 of \d+ tokens  \d+:\d\d left", line)
    assert "\n" not in line[line.index("\rreading"):line.rindex("\r\x1b[K")]
    assert "reading" not in line[line.rindex("\r\x1b[K"):]
    done = subprocess.run([RUN, "generate", "-p", prompt, "-n", "4", "--temp", "0", file],
                          capture_output=True, text=True, check=True)
    assert done.stdout == text and "reading" not in done.stderr


def test_short_prompt_is_read_without(file):
    line = on_terminal(RUN, "generate", "-p", "a", "-n", "1", file)[1]
    assert "reading" not in line and "\x1b" not in line


def test_perplexity_counts_chunks(file):
    args = (RUN, "perplexity", "-f", TEXT, "-c", "64", "--chunks", "3", file)
    text, line = on_terminal(*args)
    assert text.startswith("perplexity ")
    assert re.search(r"\rperplexity \[=+\] 100 %  3 of 3 chunks  0:00 left *\r?\n", line)
    assert b"chunks  " not in subprocess.run(args, capture_output=True, check=True).stderr


def test_calibration_counts_chunks_and_files(file, tmp_path):
    args = (RUN, "calibrate", "-q", "-f", TEXT, "-c", "64", "-n", "192", "-o", tmp_path, file)
    text, line = on_terminal(*args)
    assert "factors of layers 0 to 3" in text
    assert re.search(r"\rcalibrating \[=+\] 100 %  3 of 3 chunks  0:00 left", line)
    assert "\r\x1b[K\rfactoring [" in line
    assert re.search(r"\rfactoring \[=+\] 100 %  32 of 32 files  0:00 left *\r?\n", line)


def test_conversion_counts_bytes(tmp_path):
    _, line = on_terminal(QUANTFS, "convert", DATA / "demo-llama", "-t", "Q2_K", "-o",
                          tmp_path / "out.gguf")
    assert re.search(r"\rconverting \[=+\] 100 %  1.15 MiB  [\d.]+ [KMG]iB/s  0:00 left *\r?\n$",
                     line)
