# SPDX-License-Identifier: MIT
"""Writes the tokenizer files of small models: byte-level BPE and SentencePiece, with vocabularies
of about 300 tokens. The same arguments give the same bytes."""

import json
import struct

WORDS = ("the", "and", "in", "he", "of", "that", "it", "was", "for", "she", "king", "river")

# The regular expressions of Split steps, as real tokenizers have them.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_alphabet():
    """The characters that stand for the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def bpe_model(**more):
    """A vocabulary of all bytes and of the words, each reached from the left by merges."""
    alphabet = byte_alphabet()
    tokens, merges = [alphabet[b] for b in range(256)], []
    for word in WORDS:
        spelled = alphabet[ord(" ")] + word
        for i in range(1, len(spelled)):
            if spelled[:i + 1] not in tokens:
                tokens.append(spelled[:i + 1])
                merges.append([spelled[:i], spelled[i]])
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, **more,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior,
            "invert": invert}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(token, number):
    """A post_processor that puts one token in front."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": token, "type_id": 1}},
              {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "Sequence", "processors": [
        byte_level(True),
        {"type": "TemplateProcessing", "single": [special, text], "pair": [special, text, *second],
         "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}}}]}


def added(first, specials, others=()):
    """added_tokens from an id on: special ones, then plain ones."""
    return [{"id": first + i, "content": text, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": text in specials}
            for i, text in enumerate((*specials, *others))]


def decoder(tokens):
    """The same list as added_tokens_decoder of tokenizer_config.json."""
    return {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokens}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_bpe(folder, tokenizer_class, pre_tokenizer, specials, *, others=(), normalizer=None,
              bos=False, ignore_merges=False, **config):
    """tokenizer.json and tokenizer_config.json; bos: the first special token is put in front.
    Returns the number of tokens."""
    model = bpe_model(ignore_merges=ignore_merges)
    tokens = added(len(model["vocab"]), specials, others)
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": template(specials[0], tokens[0]["id"]) if bos else byte_level(True),
        "decoder": byte_level(True), "model": model})
    write_json(folder / "tokenizer_config.json", {
        "added_tokens_decoder": decoder(tokens), "clean_up_tokenization_spaces": False,
        "tokenizer_class": tokenizer_class, **config})
    return tokens[-1]["id"] + 1


# ---- SentencePiece ----

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """A field of a protobuf message: an integer, a float, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_sentencepiece(path, head, tail=()):
    """tokenizer.model: the pieces of `head` (text, type), bytes, words, characters, and those of
    `tail`. Returns the number of pieces."""
    pieces = [(text, 0.0, kind) for text, kind in head]
    pieces += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    texts = ["▁" + word[:i] for word in WORDS for i in range(1, len(word) + 1)]
    texts += sorted({c for word in WORDS for c in word} | {"▁"})
    pieces += [(text, -float(i), NORMAL) for i, text in enumerate(dict.fromkeys(texts))]
    pieces += [(text, 0.0, kind) for text, kind in tail]
    names = [text for text, _, _ in pieces]
    model = b"".join(field(1, field(1, text.encode()) + field(2, score) +
                           (field(3, kind) if kind != NORMAL else b""))
                     for text, score, kind in pieces)
    trainer = field(3, 2) + field(4, len(pieces)) + field(35, 1)  # BPE, vocab_size, byte_fallback
    for number, text in ((40, "<unk>"), (41, "<bos>"), (42, "<eos>"), (43, "<pad>")):
        text = text if text in names else {"<bos>": "<s>", "<eos>": "</s>"}.get(text, text)
        if text in names:
            trainer += field(number, names.index(text))
    path.write_bytes(model + field(2, trainer))
    return len(pieces)
