# SPDX-License-Identifier: MIT
"""An adapter merged onto its base by PEFT: merge_adapter.py BASE ADAPTER OUT. Runs in
QUANTFS_FULL_PYTHON."""

import sys

import peft
import safetensors.torch
import transformers

if __name__ == "__main__":
    base, adapter, out = sys.argv[1:]
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    safetensors.torch.save_file({name: t.contiguous().clone()
                                 for name, t in merged.state_dict().items()}, out)
