# SPDX-License-Identifier: MIT
"""quantfs-run tokenize: the ids and bytes are llama.cpp's, for files and in mounts, and where both
differ from Hugging Face's is known."""

import json
import struct
import subprocess
import unicodedata

import pytest
import tokenizers

from conftest import DATA, QUANTFS, run
from tokenization import ADD, PARSE, PIECES, Llama, ours, texts

RUN = QUANTFS.parent / "quantfs-run"
MODELS = ("demo-llama", "demo-qwen2")


def quantfs_run(*args):
    return subprocess.run([RUN, *args], capture_output=True, timeout=60, check=False)


def tokenize(*args):
    done = quantfs_run("tokenize", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(*args, status):
    done = quantfs_run(*args)
    assert done.returncode == status and done.stdout == b""
    return done.stderr.decode()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """model -> a GGUF file of it."""
    folder = tmp_path_factory.mktemp("gguf")
    for name in MODELS:
        run("convert", DATA / name, "-t", "Q4_0", "-o", folder / f"{name}.gguf")
    return {name: folder / f"{name}.gguf" for name in MODELS}


# ---- the command ----

def test_help():
    text = quantfs_run("--help").stdout
    assert b"\n  quantfs-run tokenize " in text and quantfs_run("help").stdout == text
    assert quantfs_run("--version").stdout.startswith(b"quantfs-run ")
    text = quantfs_run("tokenize", "--help").stdout
    assert text.startswith(b"Usage: quantfs-run tokenize ")
    assert b"\nExample: quantfs-run tokenize" in text
    assert quantfs_run("tokenize", "-h").stdout == text


def test_wrong_command_lines_are_refused(converted, tmp_path):
    file = converted["demo-llama"]
    assert '"nonsense"' in fails("nonsense", status=1)
    assert "quantfs-run tokenize" in fails(status=1)
    assert "'--nonsense'" in fails("tokenize", "--nonsense", "-p", "a", file, status=1)
    for args in ([], ["-p", "a"], [file], ["-p", "a", file, file], ["-p"]):
        assert "usage: quantfs-run tokenize" in fails("tokenize", *args, status=1)
    for path, reason in ((tmp_path / "nothing", "No such file"), (tmp_path, "not a regular file"),
                         (DATA / "demo-llama" / "config.json", "GGUF")):
        message = fails("tokenize", "-p", "a", path, status=2)
        assert message.startswith(f"quantfs-run: {path}: ") and reason in message


def test_prints_a_list(converted):
    file = converted["demo-llama"]
    plain = quantfs_run("tokenize", "-p", "the river", file)
    assert quantfs_run("tokenize", "--prompt", "the river", "--json", file).stdout == plain.stdout
    assert plain.stdout.count(b"\n") == 1
    ids = json.loads(plain.stdout)
    assert tokenize("--no-bos", "-p", "the river", file) == ids[1:] and ids[0] == 1
    assert tokenize("-p", "", file) == [1] and tokenize("-p", "", "--no-bos", file) == []


@pytest.mark.parametrize("name", MODELS)
def test_virtual_files_have_the_vocabulary(name, mount, converted):
    virtual = mount(DATA) / name / "gguf" / f"{name}-Q4_K_M.gguf"
    with Llama(virtual) as llama:
        for text in ("In the beginning", *PIECES):
            if "\0" not in text:
                ids = tokenize("-p", text, virtual)
                assert ids == tokenize("-p", text, converted[name])
                assert ids == llama.encode(text.encode(), ADD | PARSE)


@pytest.mark.parametrize("name", MODELS)
def test_command_agrees_with_llama(name, converted):
    """One text a run, and a hundred texts in one."""
    with Llama(converted[name]) as llama:
        short = [t.replace(b"\0", b"") for t in texts(150, seed=1)]
        long = [b"\n".join(t.replace(b"\0", b"") for t in texts(100, seed)) for seed in range(2, 6)]
        for text in short + long:
            assert tokenize("-p", text, converted[name]) == llama.encode(text, ADD | PARSE), text
            assert tokenize("--no-bos", "-p", text, converted[name]) == llama.encode(text, PARSE)


# ---- ids and bytes ----

@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_thousands_of_texts(name, flags, converted):
    """With and without BOS, control tokens parsed and not; bytes of ids, too."""
    many = [b"", b"\0", b"a\0b", b"x" * 100_000, b" " * 10_000 + b"x", *texts(3000, seed=7)]
    with Llama(converted[name]) as llama:
        for text, (ids, shown, hidden) in zip(many, ours(converted[name], many, flags),
                                              strict=True):
            assert ids == llama.encode(text, flags), text
            assert (shown, hidden) == (llama.decode(ids, True), llama.decode(ids, False)), text


def test_a_vocabulary_is_enough(converted, tmp_path):
    """A header without tensors, as vocabularies are handed on."""
    whole = converted["demo-qwen2"].read_bytes()
    magic, version, _, keys = struct.unpack_from("<4sIQQ", whole)
    start = whole.index(b"token_embd.weight") - 8  # the first tensor's name and its size
    only = tmp_path / "vocabulary.gguf"
    only.write_bytes(struct.pack("<4sIQQ", magic, version, 0, keys) + whole[24:start])
    assert tokenize("-p", "the river", only) == tokenize("-p", "the river",
                                                         converted["demo-qwen2"])


# ---- Hugging Face ----

# What the tokenizer.json of the same model makes something else of: model, text, why.
DIFFERENCES = [
    ("demo-qwen2", "A\u0308rger", "a normalizer (NFC) composes; llama.cpp does not normalize"),
    ("demo-qwen2", "\u1112\u1161\u11ab", "NFC composes Hangul, too"),
    ("demo-qwen2", "\u212b", "NFC replaces what is canonically the same"),
    ("demo-llama", " the", "a space goes in front even of a text that begins with one"),
    ("demo-llama", "\u2581the", "and of one that begins with the mark for a space"),
    ("demo-llama", "the<s>the", "a space goes in front of the text behind a special token, too"),
]


@pytest.mark.parametrize("name, text, why", DIFFERENCES)
def test_known_differences_from_hugging_face(name, text, why, converted):
    theirs = tokenizers.Tokenizer.from_file(str(DATA / name / "tokenizer.json"))
    assert theirs.encode(text, add_special_tokens=False).ids != tokenize("--no-bos", "-p", text,
                                                                         converted[name]), why


def test_otherwise_as_hugging_face(converted):
    """Texts in NFC; for the other model, those that have none of what is listed."""
    valid = [t.decode() for t in texts(1500, seed=11, invalid=False)]
    for name in MODELS:
        theirs = tokenizers.Tokenizer.from_file(str(DATA / name / "tokenizer.json"))
        if name == "demo-qwen2":
            chosen = [unicodedata.normalize("NFC", t) for t in valid]
        else:
            chosen = [t for t in valid if not t.startswith((" ", "\u2581")) and
                      not any(s in t for s in ("<s>", "</s>", "<unk>"))]
        assert len(chosen) > 500
        for text, (ids, _, _) in zip(chosen, ours(converted[name], [t.encode() for t in chosen],
                                                  PARSE), strict=True):
            assert theirs.encode(text, add_special_tokens=False).ids == ids, text
