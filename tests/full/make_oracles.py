# SPDX-License-Identifier: MIT
"""Writes tests/data/architectures.oracle.json: what llama.cpp's converter and llama-quantize make
of the models of tests/architectures.py. Needs what tests/full/environment.sh sets up.

    make_oracles.py [MODEL...]      without a name: of all"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import gguf  # noqa: E402

from architectures import MODELS, make, write_imatrix  # noqa: E402

ORACLE = HERE.parent / "data" / "architectures.oracle.json"
RECIPES = ("BF16", "Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K")


def describe(path):
    """Size, hashes, keys and tensors of a GGUF file."""
    content = pathlib.Path(path).read_bytes()
    reader = gguf.GGUFReader(path)
    tensors = {t.name: [t.tensor_type.name, hashlib.sha256(t.data.tobytes()).hexdigest()[:24]]
               for t in reader.tensors}
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            "header": hashlib.sha256(content[:reader.data_offset]).hexdigest(),
            "keys": [key for key in reader.fields if not key.startswith("GGUF.")],
            "tensors": tensors}


def run(*command, **kwargs):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)}\n{done.stdout}{done.stderr}")


def oracle(name):
    """recipe -> description of the file that the real tools make; with experts also of one with an
    importance matrix."""
    model, quantize = MODELS[name], pathlib.Path(os.environ["QUANTFS_LLAMA_BIN"]) / "llama-quantize"
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        source, made = scratch / "converted.gguf", scratch / "made.gguf"
        run(os.environ["QUANTFS_FULL_PYTHON"], HERE / "converter.py", model.pre,
            make(scratch / name, name), source, model.dtype.lower())
        for recipe in RECIPES:
            run(quantize, source, made, recipe, 2)
            found[recipe] = describe(made)
        if model.experts:
            write_imatrix(scratch / "imatrix.dat", name)
            run(quantize, "--imatrix", "imatrix.dat", source, made, "Q2_K", 2, cwd=scratch)
            found["Q2_K, imatrix"] = describe(made)
    return found


if __name__ == "__main__":
    known = json.loads(ORACLE.read_text()) if ORACLE.exists() else {}
    wanted = sys.argv[1:] or MODELS
    known |= {each: oracle(each) for each in wanted}
    known = {each: known[each] for each in MODELS if each in known}
    lines = [f"{json.dumps(each)}: {{\n" +
             ",\n".join(f"{json.dumps(recipe)}: {json.dumps(file)}"
                        for recipe, file in recipes.items()) + "\n}"
             for each, recipes in known.items()]
    ORACLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
