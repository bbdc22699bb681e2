# SPDX-License-Identifier: MIT
"""codec/hf_encode.c gives the ids that Hugging Face's tokenizers give: each kind of step alone, and
the chains of real models, on texts that are made to be awkward."""

import json
import random
import subprocess

import pytest
from tokenizers import Tokenizer

from conftest import QUANTFS
from vocabularies import (LLAMA3, QWEN2, WORDS, added, bpe_model, byte_level, sequence, split,
                          template)

TOKENIZE = QUANTFS.parent / "tests" / "tokenize"
DIGITS = {"type": "Digits", "individual_digits": True}
O200 = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"


def string_split(text, behavior):
    return {"type": "Split", "pattern": {"String": text}, "behavior": behavior, "invert": False}


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


PRE_TOKENIZERS = {
    "gpt-2": byte_level(True),
    "prefix space": {**byte_level(True), "add_prefix_space": True},
    "llama-3": sequence(split(LLAMA3), byte_level(False)),
    "dbrx": sequence(split(LLAMA3, "Removed", True), byte_level(False)),
    "qwen-2": sequence(split(QWEN2), byte_level(False)),
    "gpt-4o": sequence(split(O200), byte_level(False)),
    "bloom": sequence(split(BLOOM), byte_level(False)),
    "starcoder": sequence(DIGITS, byte_level(True)),
    "falcon": sequence(punctuation("Contiguous"), byte_level(True),
                       {**DIGITS, "individual_digits": False}, split("[0-9][0-9][0-9]")),
    "line ends": sequence(split(r"\s+$"), byte_level(False)),
    **{f"pattern {b}": sequence(split(r"\p{L}+", b), byte_level(False))
       for b in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")},
    **{f"inverted {b}": sequence(split(r"\p{L}+", b, True), byte_level(False))
       for b in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")},
    **{f"string {b}": sequence(string_split(" ", b), byte_level(False))
       for b in ("Isolated", "MergedWithPrevious", "MergedWithNext")},
    **{f"punctuation {b}": sequence(punctuation(b), byte_level(False))
       for b in ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")},
}

PIECES = [*WORDS, *"aAzZéßñ中我のกខे́٣৪Ⅷ½", " ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000",
          "'s", "'RE", "'ll", "1", "23", "456", "7890", ".", "...", "!?", "(", "。", "、", "।", "$",
          "+", "_", "🚀", "👩\u200d🚀", "\u0301", "e\u0301", "ﬁ", "Ａ", "①", "～", "<|end|>", "<tool>",
          "word", "éé", "Ⓐ", "<mask>"]


def texts(seed, count=400):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 14))) for _ in range(count)]


def tokenizer(pre_tokenizer, normalizer=None, post_processor=None, tokens=(), **model):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(tokens),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor, "decoder": None, "model": bpe_model(**model)}


def check(description, path, samples):
    path.write_text(json.dumps(description))
    reference = Tokenizer.from_file(str(path))
    done = subprocess.run([TOKENIZE, path], input="".join(t + "\0" for t in samples).encode(),
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [[int(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
    assert len(found) == len(samples)
    for text, ids in zip(samples, found):
        assert ids == reference.encode(text).ids, repr(text)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(name, tmp_path):
    check(tokenizer(PRE_TOKENIZERS[name]), tmp_path / "tokenizer.json", texts(name))


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normalizers(form, tmp_path):
    for normalizer in ({"type": form}, {"type": "Sequence", "normalizers": [{"type": form}]}):
        check(tokenizer(byte_level(True), normalizer), tmp_path / "tokenizer.json", texts(form))


def test_whole_pieces_before_merges(tmp_path):
    """ignore_merges: a piece that is a token is not merged together."""
    for ignore in (False, True):
        description = tokenizer(byte_level(True), ignore_merges=ignore)
        description["model"]["vocab"]["word"] = len(description["model"]["vocab"])
        check(description, tmp_path / "tokenizer.json", texts("whole"))


def test_added_tokens(tmp_path):
    """In the raw text and in the normalized one, as parts of words, with spaces beside."""
    base = added(len(bpe_model()["vocab"]), ("<|end|>", "<|end|>s"),
                 ("<tool>", "  ", "word", "éé"))
    for change in ({}, {"lstrip": True}, {"rstrip": True}, {"single_word": True},
                   {"normalized": True}, {"normalized": True, "rstrip": True, "lstrip": True}):
        tokens = [token | change for token in base]
        check(tokenizer(byte_level(True), {"type": "NFKC"}, tokens=tokens),
              tmp_path / "tokenizer.json", texts("added"))


def test_post_processors(tmp_path):
    tokens = added(len(bpe_model()["vocab"]), ("<s>", "</s>"))
    first, last = (token["id"] for token in tokens)
    pair = {"sep": ["</s>", last], "cls": ["<s>", first]}
    for processor in (template("<s>", first), byte_level(True),
                      {"type": "BertProcessing", **pair},
                      {"type": "RobertaProcessing", **pair, "trim_offsets": True,
                       "add_prefix_space": False}):
        check(tokenizer(byte_level(True), post_processor=processor, tokens=tokens),
              tmp_path / "tokenizer.json", texts("post", 50))


def test_what_is_not_known_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    for description in (tokenizer({"type": "Metaspace", "replacement": "▁",
                                   "prepend_scheme": "first", "split": False}),
                        tokenizer(byte_level(True), {"type": "Lowercase"}),
                        tokenizer(split("(")),
                        tokenizer(byte_level(True), end_of_word_suffix="@")):
        path.write_text(json.dumps(description))
        done = subprocess.run([TOKENIZE, path], input=b"text\0", capture_output=True, check=False)
        assert done.returncode == 2 and b"is not known" in done.stderr
