# SPDX-License-Identifier: MIT
"""Makes checkpoints of any size with seeded weights, as a Hugging Face folder.

    from models import make
    make("store/random-42M", arch="qwen2", hidden=512, layers=4, dtype="F16", shards=3)

or, from a shell, `models.py OUT --hidden 512 --layers 4 ...`. The tokenizer is that of the demo
model of the same kind. The same arguments give the same bytes.
"""

import argparse
import inspect
import json
import math
import pathlib
import shutil
import struct

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent / "data"
DONORS = {"llama": "demo-llama", "mistral": "demo-llama", "qwen2": "demo-qwen2"}
CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
           "qwen2": "Qwen2ForCausalLM"}
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json",
             "generation_config.json")
CHUNK = 1 << 22


def to_bf16(x):
    """The upper halves of float32, rounded to nearest even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


PACK = {"F32": (4, lambda x: x), "F16": (2, lambda x: x.astype(np.float16)), "BF16": (2, to_bf16)}


def weights(rng, n):
    """What trained weights look like: a narrow bell, and a few outliers."""
    x = rng.standard_normal(n, dtype=np.float32) * np.float32(0.02)
    x[rng.integers(0, n, n // 1000)] *= 12
    return x


def shapes(arch, hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied, biases):
    """name -> shape of every tensor, in the checkpoint's order."""
    q, kv = heads * head_dim, kv_heads * head_dim
    found = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(layers):
        parts = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, ffn),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "self_attn.q_proj": (q, hidden),
            "self_attn.v_proj": (kv, hidden),
        }
        for part, shape in parts.items():
            found[f"model.layers.{i}.{part}.weight"] = shape
            if biases and part[-6:] in ("k_proj", "q_proj", "v_proj"):
                found[f"model.layers.{i}.{part}.bias"] = shape[:1]
    found["model.norm.weight"] = (hidden,)
    if not tied:
        found["lm_head.weight"] = (vocab, hidden)
    return found


def write_safetensors(path, tensors, rng):
    """tensors: name -> (dtype, shape). Returns the bytes of data."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * PACK[dtype][0]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for dtype, shape in tensors.values():
            left = math.prod(shape)
            while left:
                n = min(left, CHUNK)
                x = weights(rng, n)
                out.write(PACK[dtype][1](x + np.float32(len(shape) == 1)).tobytes())
                left -= n
    return end


def make(path, *, arch="llama", hidden=256, layers=2, heads=4, kv_heads=2, head_dim=0, ffn=512,
         vocab=0, dtype="BF16", norm_dtype="", tied=False, biases=None, shards=1, seed=1,
         config=None):
    """Makes the folder `path` and returns it. Zeros, "" and None mean what the kind of model
    suggests; `config` is merged into config.json."""
    path = pathlib.Path(path)
    path.mkdir(parents=True)
    donor = DATA / DONORS[arch]
    for name in TOKENIZER:
        if (donor / name).exists():
            shutil.copy(donor / name, path)
    settings = json.loads((donor / "config.json").read_text())
    head_dim = head_dim or hidden // heads
    vocab = vocab or settings["vocab_size"]
    biases = arch == "qwen2" if biases is None else biases
    settings.update(architectures=[CLASSES[arch]], model_type=arch, hidden_size=hidden,
                    num_hidden_layers=layers, num_attention_heads=heads,
                    num_key_value_heads=kv_heads, intermediate_size=ffn, vocab_size=vocab,
                    tie_word_embeddings=tied)
    if arch != "qwen2" or head_dim != hidden // heads:
        settings["head_dim"] = head_dim
    settings.update(config or {})
    (path / "config.json").write_text(json.dumps(settings, indent=2))

    rng = np.random.default_rng(seed)
    tensors = {name: (dtype if len(shape) > 1 else norm_dtype or dtype, shape)
               for name, shape in shapes(arch, hidden, layers, heads, kv_heads, head_dim, ffn,
                                         vocab, tied, biases).items()}
    if shards == 1:
        write_safetensors(path / "model.safetensors", tensors, rng)
        return path
    names, total, place = list(tensors), 0, {}
    for i in range(shards):
        shard = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        mine = names[len(names) * i // shards:len(names) * (i + 1) // shards]
        total += write_safetensors(path / shard, {name: tensors[name] for name in mine}, rng)
        place.update(dict.fromkeys(mine, shard))
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": place}, indent=2))
    return path


def main():
    parser = argparse.ArgumentParser(description="Makes a checkpoint with seeded weights.")
    parser.add_argument("path")
    for name, knob in inspect.signature(make).parameters.items():
        if isinstance(knob.default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(knob.default, (int, str)):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(knob.default),
                                default=knob.default)
    make(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
