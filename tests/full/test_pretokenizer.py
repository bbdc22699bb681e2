# SPDX-License-Identifier: MIT
"""tokenizer.ggml.pre of real vocabularies. llama.cpp's tree carries a number of them as GGUF; their
tokenizer.json is rebuilt from that and from the chain of steps that the model's file had."""

import functools
import json
import os
import pathlib
import re
import subprocess

import gguf
import numpy as np
import pytest

from conftest import run
from vocabularies import (LLAMA3, QWEN2, byte_level, decoder, sequence, split, template,
                          write_json)

HERE = pathlib.Path(__file__).resolve().parent
TREE = pathlib.Path(os.environ.get("QUANTFS_LLAMA_TREE", "."))
NFC = {"type": "NFC"}
DIGITS = {"type": "Digits", "individual_digits": True}
NEWLINES = split(r"[\r\n]")
CJK = split("[一-龥ࠀ-一가-퟿]+")
GPT2 = byte_level(True)
LAST = byte_level(False)


def letters():
    """deepseek-llm's list of letter ranges, which llama.cpp's source has between quotes."""
    source = (TREE / "src" / "llama-vocab.cpp").read_text()
    found = re.search(r'"(\\\\s\?\[A-Za-z[^"]+\]\+)"', source)
    return found.group(1).replace("\\\\", "\\")


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


# vocabulary -> pre_tokenizer, normalizer
CHAINS = {
    "llama-bpe": (lambda: sequence(split(LLAMA3), LAST), None),
    "qwen2": (lambda: sequence(split(QWEN2), LAST), NFC),
    "gpt-2": (lambda: GPT2, None),
    "mpt": (lambda: GPT2, NFC),
    "starcoder": (lambda: sequence(DIGITS, GPT2), None),
    "refact": (lambda: sequence(DIGITS, GPT2), None),
    "command-r": (lambda: sequence(DIGITS, GPT2), NFC),
    "falcon": (lambda: sequence(punctuation("Contiguous"), GPT2,
                                {"type": "Digits", "individual_digits": False},
                                split("[0-9][0-9][0-9]")), None),
    "deepseek-llm": (lambda: sequence(NEWLINES, split(letters()),
                                      split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"),
                                      CJK, DIGITS, LAST), None),
    "deepseek-coder": (lambda: sequence(NEWLINES, split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), CJK,
                                        DIGITS, LAST), None),
}


@functools.cache
def load(vocabulary):
    """Its tokens, their types, merges, and the id of its first special token."""
    fields = gguf.GGUFReader(TREE / "models" / f"ggml-vocab-{vocabulary}.gguf").fields
    return [fields[f"tokenizer.ggml.{key}"].contents()
            for key in ("tokens", "token_type", "merges", "bos_token_id")]


def write_model(folder, vocabulary, *, bos, **config):
    """A model of zeros with the vocabulary, and with tokenizer_config.json as given."""
    texts, types, merges, first = load(vocabulary)
    base = {text: i for i, text in enumerate(texts) if not text.startswith("[PAD")}
    more = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": kind == 3}
            for i, (text, kind) in enumerate(zip(texts, types))
            if kind != 1 and not text.startswith("[PAD")]
    chain, normalizer = CHAINS[vocabulary]
    folder.mkdir()
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "added_tokens": more, "normalizer": normalizer,
        "pre_tokenizer": chain(), "decoder": GPT2,
        "post_processor": template(texts[first], first) if bos else GPT2,
        "model": {"type": "BPE", "byte_fallback": False, "vocab": base, "merges": merges,
                  "ignore_merges": vocabulary == "llama-bpe"}})
    write_json(folder / "tokenizer_config.json", {
        "added_tokens_decoder": decoder(more), "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts[first]} | config)
    write_json(folder / "config.json", {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 8,
        "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1,
        "num_key_value_heads": 1, "vocab_size": len(texts), "tie_word_embeddings": True})
    data = np.zeros((len(texts), 8), np.float16).tobytes()
    header = json.dumps({"model.embed_tokens.weight": {
        "dtype": "F16", "shape": [len(texts), 8], "data_offsets": [0, len(data)]}}).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + data)
    return folder


def pre_of(folder, out):
    """The name in the converted file, and whether it was a guess."""
    done = run("convert", folder, "-t", "F16", "-o", out)
    content, key = out.read_bytes(), b"tokenizer.ggml.pre"
    value = content[content.index(key) + len(key) + 4:]
    size = int.from_bytes(value[:8], "little")
    return value[8:8 + size].decode(), "is a guess" in done.stderr


LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "unk_token": None}

# The hash belongs to a vocabulary with its habit of adding tokens: (vocabulary, whether the
# post_processor puts bos in front, what else tokenizer_config.json says) -> name. The classes are
# those that put bos and eos themselves, whatever tokenizer.json says.
NAMES = [
    ("llama-bpe", True, {}, "llama-bpe"),
    ("llama-bpe", False, {}, "smaug-bpe"),
    ("qwen2", False, {}, "qwen2"),
    ("gpt-2", False, {}, "gpt-2"),
    ("mpt", False, {}, "olmo"),
    ("starcoder", False, {}, "starcoder"),
    ("refact", False, {}, "refact"),
    ("command-r", True, {}, "command-r"),
    ("falcon", False, {}, "falcon"),
    ("deepseek-llm", True, {}, "deepseek-llm"),
    ("deepseek-coder", True, {}, "deepseek-coder"),
    ("llama-bpe", False, {**LLAMA, "tokenizer_class": "LlamaTokenizerFast"}, "llama-bpe"),
    ("llama-bpe", True, {**LLAMA, "tokenizer_class": "LlamaTokenizerFast",
                         "add_bos_token": False}, "smaug-bpe"),
    ("llama-bpe", True, {**LLAMA, "tokenizer_class": "LlamaTokenizer", "add_bos_token": False,
                         "add_eos_token": True}, "jina-v5-nano"),
    ("mpt", True, {"tokenizer_class": "GPTNeoXTokenizer"}, "olmo"),
    ("command-r", False, {"tokenizer_class": "CohereTokenizer",
                          "eos_token": "<|END_OF_TURN_TOKEN|>", "unk_token": None}, "command-r"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each of the rows."""
    base = tmp_path_factory.mktemp("vocabularies")
    return [write_model(base / f"model-{i}", vocabulary, bos=bos, **config)
            for i, (vocabulary, bos, config, _) in enumerate(NAMES)]


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_hash_tells_the_name(row, models, tmp_path):
    assert pre_of(models[row], tmp_path / "out.gguf") == (NAMES[row][3], False)


def test_names_are_the_converters(models):
    """The names above are what transformers and the converter say."""
    done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], HERE / "pretokenizer.py", *models],
                          capture_output=True, text=True, check=True)
    assert done.stdout.split() == [name for _, _, _, name in NAMES]


def test_unknown_vocabulary_is_guessed(tmp_path):
    folder = write_model(tmp_path / "model", "qwen2", bos=False)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    del tokenizer["model"]["merges"][::2]
    write_json(folder / "tokenizer.json", tokenizer)
    assert pre_of(folder, tmp_path / "out.gguf") == ("qwen2", True)
