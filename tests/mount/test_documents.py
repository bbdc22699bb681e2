# SPDX-License-Identifier: MIT
"""Runs the examples of the documents: every line after "$ " in a console block, in order, and
compares what it prints with the lines below it. A line of "..." stands for any number of lines."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import adapters
from chats import TEMPLATES, set_template
from conftest import DATA, QUANTFS, ROOT

# What README.md calls the two commands that everything else rests on: they are run by people and
# by CI, and take long.
NOT_HERE = ("tools/quickstart", "tools/check")

# A stand-in for the program of that name: the same loader, from a wheel.
LLAMA_CLI = """#!{python}
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[sys.argv.index("-m") + 1]
params.n_ctx, params.warmup = 128, False
server = xllamacpp.Server(params)
answer = server.handle_completions({{"prompt": sys.argv[sys.argv.index("-p") + 1],
                                    "max_tokens": 8, "temperature": 0}})
print(answer["choices"][0]["text"])
"""


def examples(document):
    """(command, expected lines) of all console blocks, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", document.read_text(), re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def matches(expected, lines):
    pattern = "".join("(.*\n)*" if line == "..." else re.escape(line + "\n") for line in expected)
    return re.fullmatch(pattern, "".join(line + "\n" for line in lines)) is not None


def make_adapter(folder):
    adapters.make(folder, adapters.read(DATA / "demo-llama" / "model.safetensors"), alpha=0.1)


@pytest.mark.parametrize("name", ["README.md", "fs/SEMANTICS.md", "tools/run/README.md", "docs/gpu.md",
                                  "docs/adapters.md"])
def test_examples(name, tmp_path):
    home, tools = tmp_path / "home", tmp_path / "bin"
    for store, model, source in (("models", "demo-llama", "demo-llama"),
                                 ("models", "demo-qwen2", "demo-qwen2"),
                                 ("checkpoints", "SmolLM2", "demo-llama")):
        shutil.copytree(DATA / source, home / store / model)
    set_template(home / "checkpoints" / "SmolLM2", TEMPLATES["chatml"][0])
    make_adapter(home / ("models" if name == "docs/adapters.md" else "adapters") / "psalms")
    (home / "mnt").mkdir()
    (home / "tests").symlink_to(ROOT / "tests")
    shutil.copy(DATA / "demo-llama.imatrix.dat", home / "SmolLM2.imatrix.dat")
    shutil.copy(DATA / "kjv-eval.txt", home / "text.txt")
    tools.mkdir()
    for program in ("quantfs", "quantfs-run"):
        (tools / program).symlink_to(QUANTFS.with_name(program))
    (tools / "llama-cli").write_text(LLAMA_CLI.format(python=sys.executable))
    (tools / "llama-cli").chmod(0o755)
    env = dict(os.environ, HOME=str(home), PATH=f"{tools}:{os.environ['PATH']}", LC_ALL="C",
               XDG_CACHE_HOME=str(home / ".cache"))
    commands = 0
    try:
        for command, expected in examples(ROOT / name):
            if command.startswith(NOT_HERE):
                continue
            done = subprocess.run(["bash", "-c", command], cwd=home, env=env, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                                  check=False)
            assert matches(expected, done.stdout.splitlines()), f"$ {command}\n{done.stdout}"
            commands += 1
    finally:
        subprocess.run(["umount", "-l", home / "mnt"], stderr=subprocess.DEVNULL, check=False)
    assert commands
