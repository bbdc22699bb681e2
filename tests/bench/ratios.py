# SPDX-License-Identifier: MIT
"""What benches share: two things done in turns, and a line for each figure."""

import os
import pathlib
import platform
import statistics


def in_turns(rounds, ours, theirs):
    """The speed of ours by that of theirs, in each of the rounds; the order alternates. Both return
    seconds."""
    ratios = []
    for number in range(rounds):
        took = {}
        for what in (ours, theirs)[::1 if number % 2 else -1]:
            took[what] = what()
        ratios.append(took[theirs] / took[ours])
    return ratios


def show(name, values, unit, goal=""):
    scale = 100 if unit == "%" else 1
    digits = 0 if unit in ("%", "MiB") else 2
    low, middle, high = (f"{scale * value:.{digits}f}" for value in
                         (min(values), statistics.median(values), max(values)))
    print(f"{name:58} {middle:>6} {unit:3} ({low} to {high})".ljust(92) + goal, flush=True)


def machine():
    words = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        words.setdefault(name.strip(), value.strip())
    flags = words.get("flags", words.get("Features", "")).split()
    vectors = [flag for flag in flags if flag.startswith(("avx", "f16c", "fma", "sse4", "asimd",
                                                          "sve"))]
    return (f"# {len(os.sched_getaffinity(0))} cores, {platform.machine()}, "
            f"{words.get('model name', 'processor unknown')}, Linux {platform.release()}\n"
            f"# vectors: {' '.join(vectors)}; QUANTFS_ISA={os.environ.get('QUANTFS_ISA', '')}")
