# SPDX-License-Identifier: MIT
"""llama.cpp's converter, told the name of a pre-tokenizer: converter.py NAME FOLDER OUT OUTTYPE.

It knows tokenizers by the hash of some token ids and refuses the others, such as the small ones of
the tests. Runs in QUANTFS_FULL_PYTHON with QUANTFS_LLAMA_TREE."""

import os
import pathlib
import runpy
import sys

TREE = pathlib.Path(os.environ["QUANTFS_LLAMA_TREE"])
sys.path[:0] = [str(TREE), str(TREE / "gguf-py")]

from conversion.base import TextModel  # noqa: E402 (in the tree named just now)

if __name__ == "__main__":
    name, folder, out, outtype = sys.argv[1:]
    if name:
        TextModel.get_vocab_base_pre = lambda self, tokenizer: name
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", outtype]
    runpy.run_path(str(TREE / "convert_hf_to_gguf.py"), run_name="__main__")
