# SPDX-License-Identifier: MIT
"""quantfs-run generate --chat: a message in the words of the model's chat template. That the texts of
chats.py are those of the templates is seen in tests/full, by running them."""

import json
import re
import struct
import subprocess

import pytest

from chats import SYSTEM, TEMPLATES, USER, convert_with
from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"


def quantfs_run(*args):
    return subprocess.run([RUN, *map(str, args)], capture_output=True, text=True, timeout=120,
                          check=False)


def chat(file, *args, prompt=USER):
    done = quantfs_run("generate", "--chat", "-p", prompt, "-n", 1, "--temp", 0, "--json", *args,
                       file)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tokenize(file, text):
    done = quantfs_run("tokenize", "-p", text, file)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A model with ChatML in its vocabulary."""
    path = tmp_path_factory.mktemp("qwen") / "model.gguf"
    run("convert", DATA / "demo-qwen2", "-t", "Q8_0", "-o", path)
    return path


@pytest.mark.parametrize("name", TEMPLATES)
def test_message_is_formatted(name, tmp_path):
    template, alone, with_system = TEMPLATES[name]
    file = convert_with(template, tmp_path)
    told = chat(file)
    assert told["prompt"] == alone
    assert chat(file, "--system", SYSTEM)["prompt"] == with_system
    ids = tokenize(file, alone)  # which parses special tokens, and adds one BOS
    assert told["prompt_tokens"] == len(ids) and ids.count(1) == 1


def test_control_tokens_are_tokens(qwen):
    """Marks of turns are not spelled out, and the text goes on as it does from the same tokens."""
    told = chat(qwen, "-n", 8, prompt="the river")
    ids = tokenize(qwen, told["prompt"])
    (start,), (end,) = (tokenize(qwen, mark) for mark in ("<|im_start|>", "<|im_end|>"))
    assert (ids.count(start), ids.count(end)) == (2, 1) and told["prompt_tokens"] == len(ids)
    plain = quantfs_run("generate", "-p", told["prompt"], "-n", 8, "--temp", 0, "--json", qwen)
    assert json.loads(plain.stdout)["tokens"] == told["tokens"]
    assert chat(qwen, "-n", 8, "--system", "", prompt="the river")["prompt"].startswith(
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("template, reason", [
    (None, "there is no tokenizer.chat_template"),
    ("{{ messages[0]['content'] }}", "tokenizer.chat_template is none of those that are known"),
    ("<|im_start|>{{ messages[0]['content'] }}<|im_sep|>", "none of those that are known")])
def test_what_cannot_be_formatted_is_said(template, reason, tmp_path):
    file = convert_with(template, tmp_path)
    done = quantfs_run("generate", "--chat", "-p", "a", file)
    assert done.returncode == 2 and not done.stdout
    assert re.search(rf"^quantfs-run: {file}: .*{re.escape(reason)}", done.stderr, re.M)
    assert quantfs_run("generate", "-p", "a", "-n", 1, file).returncode == 0


def test_system_is_for_chats(qwen):
    done = quantfs_run("generate", "-p", "a", "--system", "b", qwen)
    assert done.returncode == 1 and "--system needs --chat" in done.stderr


@pytest.mark.parametrize("key", ["eot", "eom"])
def test_text_ends_with_the_turn(key, qwen, tmp_path):
    """A token that the file calls the end of a turn, or of a message, ends the text as EOS does."""
    args = ("generate", "-p", "And it came to pass", "-n", 12, "--temp", 0, "--json")
    tokens = json.loads(quantfs_run(*args, qwen).stdout)["tokens"]
    assert len(tokens) == 12
    end = next(i for i in range(3, 12) if tokens[i] not in tokens[:i])
    data = qwen.read_bytes()
    at = data.index(b"tokenizer.ggml.eos_token_id")
    name = f"tokenizer.ggml.{key}_token_id".encode()
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data[:at] + name + data[at + len(name):][:4] +
                        struct.pack("<I", tokens[end]) + data[at + len(name) + 8:])
    assert json.loads(quantfs_run(*args, changed).stdout)["tokens"] == tokens[:end]
