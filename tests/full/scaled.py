# SPDX-License-Identifier: MIT
"""What transformers makes of a folder for bitsandbytes or compressed-tensors, and what these make of
the original themselves: scaled.py FOLDER ORIGINAL FORM. Prints JSON: how far the logits are from
those of a plain model with weights that are decoded by hand, and which tensors the library has or
reads otherwise. Runs in QUANTFS_FULL_PYTHON."""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bnb  # noqa: E402
import compressed  # noqa: E402

IDS = [(7 * i * i + 3 * i + 11) % 250 for i in range(24)]


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS]), use_cache=False).logits.float().numpy()


def as_stored(tensors):
    """Arrays, BF16 as its bytes."""
    return {name: (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
            for name, x in tensors.items()}


def read(folder):
    with safe_open(pathlib.Path(folder) / "model.safetensors", "pt") as file:
        return as_stored({name: file.get_tensor(name) for name in file.keys()})


def decoded(form, parts):
    if form.startswith("nf4"):
        return compressed.rounded(bnb.nf4_weights(parts), "BF16")
    if form == "int8-bnb":
        return bnb.int8_weights(parts)
    return (compressed.w4_weights if form == "w4a16" else compressed.w8_weights)(parts, "BF16")


def by_hand(original, form, tensors):
    """A plain model with the folder's weights."""
    model = load(original, dtype=torch.bfloat16)
    for name, module in model.named_modules():
        parts = {key[len(name) + 1:]: x for key, x in tensors.items() if key.startswith(name + ".")}
        if isinstance(module, torch.nn.Linear) and len(parts) > 1 + (module.bias is not None):
            module.weight.data = torch.tensor(decoded(form, parts)).to(torch.bfloat16)
    return model


# ---- what the libraries make ----

BNB = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
               "bnb_4bit_compute_dtype": torch.bfloat16},
       "nf4-dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                  "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16},
       "int8-bnb": {"load_in_8bit": True}}


def made_by_bnb(original, form):
    config = transformers.BitsAndBytesConfig(**BNB[form])
    model = load(original, quantization_config=config, dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return read(folder)


def made_by_compressed_tensors(original, config):
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (QuantizationConfig, QuantizationStatus,
                                                 apply_quantization_config)
    from compressed_tensors.quantization.utils import calculate_qparams
    model = load(original, dtype=torch.bfloat16)
    told = QuantizationConfig.model_validate(config)
    told.quantization_status = QuantizationStatus.FROZEN
    apply_quantization_config(model, told)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None:
            continue
        args, weight = scheme.weights, module.weight.data
        groups = weight.reshape(len(weight), -1, args.group_size or weight.shape[1])
        scale, _ = calculate_qparams(groups.amin(2), groups.amax(2), args)
        module.weight_scale.data = scale
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    found = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight")
    return as_stored(found)


def differences(theirs, mine, form):
    """What is not the same to the byte. The offset of double quantization, and what follows from it,
    is defined by us."""
    found = []
    for name in sorted(theirs.keys() | mine.keys()):
        if name not in theirs or name not in mine:
            found.append(name)
            continue
        a, b = theirs[name], mine[name]
        if name.endswith(bnb.STATE):
            a, b = (json.loads(x.tobytes()) for x in (a, b))
            offsets = [x.pop("nested_offset", 0) for x in (a, b)]
            if a != b or not np.isclose(*offsets, rtol=1e-5):
                found.append(name)
        elif form == "nf4-dq" and name.endswith(".absmax"):
            if np.mean(a != b) > 0.02 or np.abs(a.astype(int) - b.astype(int)).max() > 1:
                found.append(name)
        elif form == "nf4-dq" and name.endswith(".nested_absmax"):
            if not np.allclose(a, b, rtol=1e-4):
                found.append(name)
        elif a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
            found.append(name)
    return found


def weight_of(module):
    """What the library multiplies with. compressed-tensors decodes at the first pass, at which
    bitsandbytes gives codes another order."""
    from bitsandbytes import functional
    weight = module.weight
    state = getattr(weight, "quant_state", None)
    return weight if state is None else functional.dequantize_4bit(weight.data, state)


def misread(model, plain):
    """The weights that the library decodes to something else."""
    there = dict(plain.named_modules())
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
            and not torch.equal(weight_of(module), there[name].weight)]


def main(folder, original, form):
    mine = read(folder)
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())["quantization_config"]
    loaded, hand = load(folder, dtype="auto"), by_hand(original, form, mine)
    wrong = misread(loaded, hand) if form.startswith("nf4") else []
    told, plain = logits(loaded), logits(hand)
    wrong += misread(loaded, hand) if form not in BNB else []
    theirs = made_by_bnb(original, form) if form in BNB else \
        made_by_compressed_tensors(original, config)
    print("FOUND" + json.dumps({"off": float(np.abs(told - plain).max()),
                                "range": float(np.ptp(plain)),
                                "differences": differences(theirs, mine, form),
                                "misread": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
