# SPDX-License-Identifier: MIT
"""What transformers makes of folders: logits.py JOBS OUT. JOBS is a JSON list of [folder, type,
token ids, count]; OUT gets, as JSON, for each the logits behind the last id, so many greedy tokens,
and the names of weights that were missing or unexpected. Runs in QUANTFS_FULL_PYTHON."""

import json
import sys

import torch
import transformers


def run(folder, dtype, ids, count):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True)
    logits, begin = None, len(ids)
    with torch.no_grad():
        while len(ids) < begin + count:
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits = last.float().tolist() if logits is None else logits
            ids = [*ids, int(last.argmax())]
    return {"logits": logits, "tokens": ids[begin:], "missing": sorted(info["missing_keys"]),
            "unexpected": sorted(info["unexpected_keys"])}


if __name__ == "__main__":
    with open(sys.argv[1]) as jobs:
        results = [run(*job) for job in json.load(jobs)]
    with open(sys.argv[2], "w") as out:
        json.dump(results, out)
