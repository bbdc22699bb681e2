# SPDX-License-Identifier: MIT
"""Adapters as PEFT stores them, made up, and what merging them gives, by another way than the program's."""

import json
import re

import numpy as np
from safetensors.numpy import load_file, save_file

PREFIX = "base_model.model."
ROLES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def to_float(raw, dtype):
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def stored(x, dtype):
    """Floats as a type has them."""
    return to_bf16(x) if dtype == "BF16" else np.ascontiguousarray(
        x, {"F16": np.float16, "F32": np.float32}[dtype])


def through(x, dtype):
    """Floats once they were stored."""
    return to_float(stored(x, dtype).view(np.uint8).reshape(-1), dtype).reshape(x.shape)


def read(path):
    """All tensors of a safetensors file as floats, with the types that they have."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        first, end = t["data_offsets"]
        raw = np.frombuffer(data, np.uint8, end - first, 8 + size + first)
        out[name] = (to_float(raw, t["dtype"]).reshape(t["shape"]), t["dtype"])
    return out


def modules(base):
    """Linear layers by their names, with their shapes."""
    return {name.removesuffix(".weight"): w.shape for name, (w, _) in base.items()
            if name.startswith(("model.layers.", "lm_head.")) and w.ndim == 2}


def make(folder, base, *, ranks=None, rank=6, alpha=10, alphas=None, roles=ROLES, rslora=False,
         dora=False, embedding=False, saved=(), biases=False, seed=1, base_name="demo-llama",
         half=False, **more):
    """ranks, alphas: by regular expression, as rank_pattern and alpha_pattern have them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (rows, cols) in modules(base).items():
        if not module.endswith(roles):
            continue
        r = next((n for key, n in (ranks or {}).items()
                  if re.match(rf"(.*\.)?({key})$", module)), rank)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = rng.normal(0, 0.1, (r, cols))
        tensors[f"{PREFIX}{module}.lora_B.weight"] = rng.normal(0, 0.1, (rows, r))
        if dora:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = rng.uniform(0.5, 2, rows)
    if embedding:
        vocab, width = base["model.embed_tokens.weight"][0].shape
        tensors[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = rng.normal(0, 0.1, (rank, vocab))
        tensors[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = rng.normal(0, 0.1, (width, rank))
    for name in saved:
        tensors[PREFIX + name] = rng.normal(0, 1, base[name][0].shape)
    if biases:
        for name, (v, _) in base.items():
            module = name.removesuffix(".bias")
            if module != name:
                layer = ".base_layer" if module.endswith(roles) else ""
                tensors[f"{PREFIX}{module}{layer}.bias"] = rng.normal(0, 1, v.shape)
    folder.mkdir(parents=True)
    save_file({k: np.ascontiguousarray(v, np.float16 if half else np.float32)
               for k, v in tensors.items()},
              folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "base_model_name_or_path": base_name, "r": rank,
              "lora_alpha": alpha, "use_rslora": rslora, "use_dora": dora, "fan_in_fan_out": False,
              "rank_pattern": ranks or {}, "alpha_pattern": alphas or {}, "bias": "none", **more}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def product(b, a):
    """B A with a fused multiplication and addition for each rank in turn, which a sum of doubles rounded
    to single precision is: a product of floats is exact there."""
    acc = np.zeros((b.shape[0], a.shape[1]), np.float32)
    for k in range(a.shape[0]):
        step = b[:, k, None].astype(np.float64) * a[k].astype(np.float64) + acc.astype(np.float64)
        acc = step.astype(np.float32)
    return acc


def scale(config, module):
    def pattern(key, usual):
        return next((v for k, v in config[key].items() if re.match(rf"(.*\.)?({k})$", module)), usual)
    r, alpha = pattern("rank_pattern", config["r"]), pattern("alpha_pattern", config["lora_alpha"])
    return np.float32(alpha / np.sqrt(r) if config["use_rslora"] else alpha / r)


NF4 = np.array("""bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000
3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000""".split())
NF4 = np.array([int(x, 16) for x in NF4], np.uint32).view(np.float32)


def nf4(w):
    """What NF4 leaves of it."""
    blocks = w.astype(np.float32).reshape(-1, 64)
    most = np.abs(blocks).max(1, keepdims=True)
    v = blocks * (np.float32(1) / most)
    codes = np.searchsorted((NF4[1:] + NF4[:-1]) / np.float32(2), v)
    return (NF4[codes] * most).reshape(w.shape)


def merge(folder, base, onto_nf4=False):
    """What merge_and_unload leaves of a base: floats of the base's types, before they are rounded."""
    stored = load_file(folder / "adapter_model.safetensors")
    adapter = {k: v.astype(np.float32) for k, v in stored.items()}
    config = json.loads((folder / "adapter_config.json").read_text())
    out = {}
    for name, (w, dtype) in base.items():
        module = name.removesuffix(".weight")
        a, b = (adapter.get(f"{PREFIX}{module}.lora_{x}.weight") for x in "AB")
        saved = [n for n in (name, name.replace(".bias", ".base_layer.bias"))
                 if PREFIX + n in adapter]
        if saved:
            w = adapter[PREFIX + saved[0]]
            dtype = {2: "F16", 4: "F32"}[stored[PREFIX + saved[0]].itemsize]
        elif a is not None:
            w = through(nf4(w), dtype) if onto_nf4 and module != "lm_head" else w
            w = w + product(b, a) * scale(config, module)
            magnitude = adapter.get(f"{PREFIX}{module}.lora_magnitude_vector")
            if magnitude is not None:
                length = np.sqrt((w.astype(np.float64) ** 2).sum(1)).astype(np.float32)
                w = w * (magnitude / length)[:, None]
        elif f"{PREFIX}{module}.lora_embedding_A" in adapter:
            a, b = (adapter[f"{PREFIX}{module}.lora_embedding_{x}"] for x in "AB")
            more = product(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T))
            w = w + through(more * scale(config, module), dtype) # which PEFT rounds
        out[name] = (w, dtype)
    return out
