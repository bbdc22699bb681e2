# SPDX-License-Identifier: MIT
"""Tokenizers of real vocabularies: those that llama.cpp's tree carries as GGUF, against its own
lists of ids and against its library, for every name of tokenizer.ggml.pre."""

import functools
import os
import pathlib
import re
import struct
import unicodedata

import pytest

from conftest import ROOT
from tokenization import Llama, ours, texts

TREE = pathlib.Path(os.environ.get("QUANTFS_LLAMA_TREE", "."))
LIBRARY = pathlib.Path(os.environ.get("QUANTFS_LLAMA_BIN", ".")) / "libllama.so"
OTHERS = ("bert-bge", "nomic-bert-moe")  # WordPiece and Unigram: not supported
VOCABULARIES = [v for v in sorted(path.stem.removeprefix("ggml-vocab-") for path in
                                  (TREE / "models").glob("ggml-vocab-*.gguf")) if v not in OTHERS]
# A name without one of the rules in the source is seen by test_every_name_is_there.
NAMES = re.findall(r'^    \{"([^"]+)", \w+, [^}]+\},$',
                   (ROOT / "codec" / "gguf_words.c").read_text(), re.M)


def vocabulary(name):
    return TREE / "models" / f"ggml-vocab-{name}.gguf"


def compare(path, count, seed):
    """All flags; ids and bytes."""
    many = list(texts(count, seed))
    with Llama(path, LIBRARY) as llama:
        for flags in range(4):
            for text, (ids, shown, hidden) in zip(many, ours(path, many, flags), strict=True):
                assert ids == llama.encode(text, flags), text
                assert (shown, hidden) == (llama.decode(ids, True), llama.decode(ids, False)), text


def test_vocabularies_are_there():
    assert len(VOCABULARIES) >= 17 and len(NAMES) > 80


@pytest.mark.parametrize("name", [v for v in VOCABULARIES
                                  if vocabulary(v).with_suffix(".gguf.inp").exists()])
def test_lists_of_ids(name):
    """NAME.inp has texts, NAME.out the ids that the model's authors' tokenizer makes of them."""
    path = vocabulary(name)
    given = path.with_suffix(".gguf.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    wanted = [[int(i) for i in line.split()]
              for line in path.with_suffix(".gguf.out").read_text().split("\n")]
    given = given[:-1] if given[-1] == b"" else given
    wanted = wanted[:len(given)]
    assert len(given) > 40
    for text, ids, (mine, _, _) in zip(given, wanted, ours(path, given, 0), strict=True):
        assert mine == ids, text


@pytest.mark.parametrize("name", VOCABULARIES)
def test_awkward_texts(name):
    compare(vocabulary(name), 1000, seed=21)


@functools.cache
def with_place_of_pre(name):
    """The bytes in front of and behind the value of tokenizer.ggml.pre."""
    content, key = vocabulary(name).read_bytes(), b"tokenizer.ggml.pre"
    start = content.index(key) + len(key) + 4
    (size,) = struct.unpack_from("<Q", content, start)
    return content[:start], content[start + 8 + size:]


@pytest.mark.parametrize("pre", NAMES)
def test_every_rule(pre, tmp_path):
    """A large vocabulary, whatever its own rule is, with each name in turn."""
    front, behind = with_place_of_pre("llama-bpe")
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(front + struct.pack("<Q", len(pre)) + pre.encode() + behind)
    compare(path, 250, seed=22)


def test_every_name_is_there():
    """The names that llama.cpp knows, but for that of a model that is not supported."""
    source = (TREE / "src" / "llama-vocab.cpp").read_text()
    known = set(re.findall(r'tokenizer_pre == "([^"]+)"', source)) - {"whitespace"}
    assert set(NAMES) == known


def test_character_classes():
    """The table is llama.cpp's, which has the categories of Unicode 15.1."""
    source = (TREE / "src" / "unicode-data.cpp").read_text()
    ranges, rest = source.split("unicode_set_whitespace")
    spaces = {int(c, 16) for c in re.findall(r"0x(\w+)", rest[:rest.index(";")])}
    starts = [(int(a, 16), int(b, 16)) for a, b in re.findall(r"\{0x(\w+), 0x(\w+)\}", ranges)]
    classes = {0x02: 1, 0x04: 2, 0x20: 3, 0x10: 4, 0x40: 5}
    wanted = bytearray(0x110000)
    for (start, flags), (end, _) in zip(starts, starts[1:]):
        wanted[start:end] = bytes([classes.get(flags, 0)]) * (end - start)
    for code in spaces:
        wanted[code] = 6
    table = (ROOT / "codec" / "char_class.c").read_text().split("runs[] = {")[1].split("};")[0]
    assert [int(x, 16) for x in re.findall(r"0x\w+", table)] == [
        code << 4 | wanted[code] for code in range(0x110000)
        if code == 0 or wanted[code] != wanted[code - 1]]
    # and what this Python knows of Unicode does not contradict it
    letters = {"N": 1, "L": 2, "P": 3, "M": 4, "S": 5}
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category != "Cn" and code not in spaces:
            assert wanted[code] == letters.get(category[0], 0), hex(code)
