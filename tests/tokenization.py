# SPDX-License-Identifier: MIT
"""Tokenizers of GGUF files, ours and llama.cpp's, and texts that are hard on them."""

import ctypes
import os
import random
import struct
import subprocess

import xllamacpp

from conftest import QUANTFS

TOKENIZE = QUANTFS.parent / "tests" / "gguf_tokenize"
ADD, PARSE = 1, 2  # flags of gguf_encode

PIECES = [
    # words, contractions, cases, digits
    "the", "Hello", "world", "I'm", "WE'LL", "don't", "'s", "'S", "'ſ", "can’t", "camelCaseWord",
    "HTTPServer", "iPhone", "GitHub", "JavaScript", "YouTube", "IMGIMGABZ", "<sentinel:12>",
    "*/\n/", "x", "1", "12", "123", "1234567", "٣٤", "½", "Ⅷ", "一二三", "3.14", "1,000,000", "0x1F",
    # scripts, with and without combining marks
    "Ärger", "A\u0308rger", "naïve", "ﬁ", "ǅ", "İstanbul", "ß", "Привет", "мир", "Ελλάδα", "שלום",
    "שָׁלוֹם", "مرحبا", "हिन्दी", "বাংলা", "ภาษาไทย", "ខ្មែរ", "日本語", "ひらがな", "カタカナ", "中文字符", "한국어",
    "ᄒ\u1161\u11ab", "ㄅㄆ", "𝒳𝓎", "𐐀𐐨", "𠀀", "Ꭰꭰ",
    # emoji, joined and modified
    "😀", "👩‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇩🇪", "☺️", "1️⃣",
    # white space of all kinds
    " ", "  ", "   ", "      ", "\n", "\n\n", "\r\n", "\t", "\t\t", " \n", "\n ", "\v\f", "\u00a0",
    "\u3000", "\u2003", "\u200b", "\u0085", "\u2028", "\ufeff",
    # signs
    "!", "...", "?!", "(", ")]}", "==", "<=", "$", "€", "+", "~", "^", "|", "`", "_", "__init__",
    "—", "。", "、", "！？", "«»", "“”", "/", "\\", "//", "#", "@", "%", "&", "*", "<", ">", "→", "∑",
    "°",
    # controls, and characters that nobody assigned
    "\x00", "\x01", "\x1b[0m", "\x1c", "\x7f", "\u0378", "\ufffd", "\U000e0041", "\uffff",
    "\U0010ffff",
    # what looks like a token
    "▁", "▁the", "Ġ", "ĠĊ", "<0x41>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>",
    "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<bos>", "<|im_", "start|>", "<pad>",
    "[PAD]", "<mask>", "<|", "|>",
]

INVALID = [b"\xff", b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80",
           b"\xf8\x88", b"a\xe2\x96", b"\xe2\x82(", b"\x9f\x98\x80"]


def texts(count, seed, invalid=True):
    """Texts of up to 30 pieces, as bytes. The same seed gives the same texts."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.random()
        parts = []
        for _ in range(rng.randint(0, 30)):
            if kind < 0.1:  # any characters
                code = rng.choice((0x80, 0x3000, 0x20000, 0x110000))
                piece = chr(rng.randrange(code)).encode("utf-8", "ignore")
            elif invalid and kind < 0.25 and rng.random() < 0.3:
                piece = rng.choice(INVALID)
            else:
                piece = rng.choice(PIECES).encode()
            parts.append(piece * (rng.randint(2, 40) if rng.random() < 0.03 else 1))
            if kind > 0.6 and rng.random() < 0.5:
                parts.append(b" ")
        yield b"".join(parts)


def ours(path, texts, flags):
    """[ids, bytes with special tokens, bytes without] of every text."""
    done = subprocess.run([TOKENIZE, path, str(flags)], capture_output=True, check=True,
                          input=b"".join(struct.pack("<I", len(t)) + t for t in texts))
    records, at = [], 0
    while at < len(done.stdout):
        (size,) = struct.unpack_from("<I", done.stdout, at)
        records.append(done.stdout[at + 4:at + 4 + size])
        at += 4 + size
    return [[list(struct.unpack(f"<{len(ids) // 4}I", ids)), shown, hidden]
            for ids, shown, hidden in zip(*(records[i::3] for i in range(3)))]


class Params(ctypes.Structure):
    """llama_model_params, up to what is set here, and room for more."""
    _fields_ = [("before", ctypes.c_char * 72), ("vocab_only", ctypes.c_bool),
                ("behind", ctypes.c_char * 183)]


class Llama:
    """The vocabulary of a GGUF file in a llama.cpp: the one in xllamacpp, or another library."""

    def __init__(self, path, library=xllamacpp.xllamacpp.__file__):
        self.lib = lib = ctypes.CDLL(library)
        lib.llama_model_default_params.restype = Params
        for name in ("llama_model_load_from_file", "llama_model_get_vocab"):
            getattr(lib, name).restype = ctypes.c_void_p
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.model = ctypes.c_void_p(lib.llama_model_load_from_file(os.fsencode(path), params))
        assert self.model
        self.vocab = ctypes.c_void_p(lib.llama_model_get_vocab(self.model))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lib.llama_model_free(self.model)

    def encode(self, text, flags):
        room = 3 * len(text) + 8
        ids = (ctypes.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, text, len(text), ids, room,
                                    ctypes.c_bool(flags & ADD), ctypes.c_bool(flags & PARSE))
        assert n >= 0
        return ids[:n]

    def decode(self, ids, special):
        piece, out = ctypes.create_string_buffer(4096), b""
        for i in ids:
            n = self.lib.llama_token_to_piece(self.vocab, i, piece, len(piece), 0,
                                              ctypes.c_bool(special))
            assert n >= 0
            out += piece.raw[:n]
        return out
