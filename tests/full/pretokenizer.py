# SPDX-License-Identifier: MIT
"""Prints the name that llama.cpp's converter has for the pre-tokenizer of each folder given.

Runs in QUANTFS_FULL_PYTHON with QUANTFS_LLAMA_TREE."""

import os
import pathlib
import sys

TREE = pathlib.Path(os.environ["QUANTFS_LLAMA_TREE"])
sys.path[:0] = [str(TREE), str(TREE / "gguf-py")]

from transformers import AutoTokenizer  # noqa: E402

from conversion.base import TextModel  # noqa: E402 (in the tree named just now)

for folder in sys.argv[1:]:
    print(TextModel.get_vocab_base_pre(None, AutoTokenizer.from_pretrained(folder)))
