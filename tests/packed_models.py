# SPDX-License-Identifier: MIT
"""Checkpoints as bitsandbytes, GPTQ, AWQ and compressed-tensors store them: made of another one's
weights, rounded to the nearest code, and read back. The reader knows nothing of the writer: it takes a
folder as its loaders do, from the tensors' names, types and shapes and from config.json alone."""

import json
import pathlib
import shutil

import numpy as np

import reference

TYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32, "F16": np.float16, "I8": np.int8,
         "U8": np.uint8, "BF16": np.uint16}
F32 = np.float32


def to_bf16(x):
    bits = np.ascontiguousarray(x, F32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def of_bf16(halfs):
    return (halfs.astype(np.uint32) << 16).view(F32)


def rounded(x, dtype):
    """float32, as a type has it."""
    x = np.ascontiguousarray(x, F32)
    return {"F32": lambda: x, "F16": lambda: x.astype(np.float16).astype(F32),
            "BF16": lambda: of_bf16(to_bf16(x))}[dtype]()


# ---- files ----

def stored(x, dtype):
    """A float32 array as a tensor of safetensors."""
    x = np.ascontiguousarray(x, F32)
    raw = {"F32": lambda: x, "F16": lambda: x.astype(np.float16), "BF16": lambda: to_bf16(x)}[dtype]()
    return dtype, x.shape, raw.tobytes()


def tensor(x):
    """An array of numpy as a tensor; bfloat16 is none of its types."""
    (dtype,) = (name for name, t in TYPES.items() if t == x.dtype)
    return dtype, x.shape, np.ascontiguousarray(x).tobytes()


def write(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {"__metadata__": {"format": "pt"}}, []
    end = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(raw)]}
        end += len(raw)
        data.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))


def read(folder):
    """name -> (dtype, array), of all shards; bfloat16 as its bits."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = (begin + offset for offset in entry["data_offsets"])
            found[name] = entry["dtype"], np.frombuffer(data[first:last], TYPES[entry["dtype"]]
                                                        ).reshape(entry["shape"])
    return found


def values(entry):
    dtype, x = entry
    return of_bf16(x) if dtype == "BF16" else x.astype(F32)


# ---- strings of bits, the lowest first, along the first axis ----

def pack_bits(codes, bits):
    codes = np.asarray(codes, np.uint32)
    string = (codes[:, None] >> np.arange(bits, dtype=np.uint32).reshape(-1, *[1] * (codes.ndim - 1))
              ) & 1
    string = string.reshape(-1, *codes.shape[1:])
    pad = -len(string) % 32
    string = np.concatenate([string, np.zeros((pad, *string.shape[1:]), np.uint32)])
    string = string.reshape(-1, 32, *string.shape[1:])
    words = np.zeros((string.shape[0], *string.shape[2:]), np.uint32)
    for i in range(32):
        words |= string[:, i] << np.uint32(i)
    return words.view(np.int32)


def unpack_bits(words, bits, count):
    words = np.ascontiguousarray(words).view(np.uint32)
    out = np.zeros((count, *words.shape[1:]), np.int64)
    for i in range(count):
        for b in range(bits):
            at = i * bits + b
            out[i] |= ((words[at // 32] >> np.uint32(at % 32)) & 1).astype(np.int64) << b
    return out


# ---- writers: of a layer's weights, [rows][cols], the tensors by their ending ----

NF4 = np.array([0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0,
                0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3,
                0x3f800000], np.uint32).view(F32)
_SIZES = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], F32)
FP4 = np.concatenate([_SIZES, -_SIZES])
NESTED = np.sort(np.concatenate([np.linspace(-1, 1, 255) ** 3, [0.999]])).astype(F32)


def nearest(x, table):
    """The number of the entry next to each value."""
    order = np.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(middles, x)].astype(np.uint8)


def write_4_bit(w, kind, *, double=False, blocksize=64, dtype="bfloat16"):
    flat, table = w.reshape(-1), {"nf4": NF4, "fp4": FP4}[kind]
    blocks = -(-flat.size // blocksize)
    padded = np.zeros(blocks * blocksize, F32)
    padded[:flat.size] = flat
    padded = padded.reshape(blocks, blocksize)
    absmax = np.abs(padded).max(axis=1)
    codes = nearest(padded / absmax[:, None], table).reshape(-1)[:flat.size + flat.size % 2]
    state = {"quant_type": kind, "blocksize": blocksize, "dtype": dtype, "shape": list(w.shape)}
    out = {".weight": (codes[0::2] << 4 | codes[1::2]).reshape(-1, 1), ".weight.absmax": absmax,
           ".weight.quant_map": table}
    if double:
        offset = F32(absmax.mean(dtype=np.float64))
        rest = np.zeros(-(-blocks // 256) * 256, F32)
        rest[:blocks] = absmax - offset
        rest = rest.reshape(-1, 256)
        most = np.abs(rest).max(axis=1)
        out[".weight.absmax"] = nearest(rest / most[:, None], NESTED).reshape(-1)[:blocks]
        out[".weight.nested_absmax"] = most
        out[".weight.nested_quant_map"] = NESTED
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
    text = json.dumps(state).ljust(200).encode()
    out[f".weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, np.uint8)
    return {ending: tensor(x) for ending, x in out.items()}


def write_int8(w):
    scb = np.abs(w).max(axis=1)
    codes = np.rint(w / scb[:, None] * F32(127)).astype(np.int8)
    return {".weight": tensor(codes), ".SCB": tensor(scb),
            ".weight_format": tensor(np.array(0, np.uint8))}


def fit(w, bits, group, sym):
    """(scales, zeros, codes) of groups, [row][group] and [row][col]."""
    groups, most = w.reshape(len(w), -1, group), (1 << bits) - 1
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    if sym:
        high = np.maximum(-low, high)
        low = -high
    scale = ((high - low) / F32(most)).astype(np.float16).astype(F32)
    zero = np.full_like(scale, (most + 1) // 2) if sym else np.clip(np.rint(-low / scale), 1, most)
    codes = np.rint(groups / scale[:, :, None]) + zero[:, :, None]
    return scale, zero.astype(int), np.clip(codes, 0, most).astype(int).reshape(w.shape)


def write_gptq(w, *, bits=4, group=64, sym=True, v2=False, order=None, g_idx=True, scales="F16"):
    """order: of columns, as they fill the groups; None: their own."""
    group = group if group > 0 else w.shape[1]
    order = np.arange(w.shape[1]) if order is None else order
    scale, zero, codes = fit(w[:, order], bits, group, sym)
    place = np.argsort(order)
    out = {".qweight": tensor(pack_bits(codes[:, place].T, bits)),
           ".qzeros": tensor(np.ascontiguousarray(
               pack_bits(zero if v2 else zero - 1, bits).T)),
           ".scales": stored(scale.T, scales)}
    if g_idx:
        out[".g_idx"] = tensor((place // group).astype(np.int32))
    return out


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the output in each of a word's places


def awq_words(codes):
    """[col][row / 8], of [row][col]."""
    eights = codes.T.reshape(codes.shape[1], -1, 8).astype(np.uint32)
    words = np.zeros(eights.shape[:2], np.uint32)
    for place, k in enumerate(AWQ_ORDER):
        words |= eights[:, :, k] << np.uint32(4 * place)
    return words.view(np.int32)


def write_awq(w, *, group=64, scales="F16"):
    group = group if group > 0 else w.shape[1]
    scale, zero, codes = fit(w, 4, group, False)
    return {".qweight": tensor(awq_words(codes)), ".qzeros": tensor(awq_words(zero)),
            ".scales": stored(scale.T, scales)}


def write_packed(w, *, bits=4, group=64, sym=True, scales="BF16"):
    group = group if group > 0 else w.shape[1]
    scale, zero, codes = fit(w, bits, group, sym)
    out = {".weight_packed": tensor(np.ascontiguousarray(pack_bits(codes.T, bits).T)),
           ".weight_scale": stored(scale, scales),
           ".weight_shape": tensor(np.array(w.shape, np.int64))}
    if not sym:
        out[".weight_zero_point"] = tensor(pack_bits(zero, bits))
    return out


def write_bytes(w, *, scales="BF16"):
    scale = rounded(np.abs(w).max(axis=1, keepdims=True) / F32(127.5), scales)
    codes = np.clip(np.rint(w / scale), -128, 127).astype(np.int8)
    return {".weight": tensor(codes), ".weight_scale": stored(scale, scales)}


# ---- what config.json says ----

def groups_config(bits, strategy, group, sym, form):
    weights = {"num_bits": bits, "type": "int", "symmetric": sym, "strategy": strategy,
               "group_size": group, "dynamic": False}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"format": form, "targets": ["Linear"], "weights": weights,
                                          "input_activations": None, "output_activations": None}}}


def config_of(kind, options):
    group = options.get("group", 64)
    if kind in ("nf4", "fp4"):
        return {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                "bnb_4bit_use_double_quant": options.get("double", False),
                "bnb_4bit_compute_dtype": "bfloat16"}
    if kind == "int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True}
    if kind == "gptq":
        config = {"quant_method": "gptq", "bits": options.get("bits", 4), "group_size": group,
                  "desc_act": "order" in options, "sym": options.get("sym", True),
                  "checkpoint_format": "gptq_v2" if options.get("v2") else "gptq"}
        return config
    if kind == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True,
                "version": "gemm"}
    if kind == "packed":
        return groups_config(options.get("bits", 4), "group" if group > 0 else "channel",
                             group if group > 0 else None, options.get("sym", True),
                             "pack-quantized")
    return groups_config(8, "channel", None, True, "int-quantized")


WRITERS = {"nf4": lambda w, **o: write_4_bit(w, "nf4", **o),
           "fp4": lambda w, **o: write_4_bit(w, "fp4", **o), "int8": write_int8,
           "gptq": write_gptq, "awq": write_awq, "packed": write_packed, "bytes": write_bytes}


def is_layer(name):
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def make(folder, source, kind, *, shuffled=False, rest="BF16", **options):
    """The folder `folder`, a checkpoint like `source`, whose linear layers are packed. shuffled: groups
    are of columns that are not beside each other."""
    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {}
    for name, w in reference.read_model(source).items():
        if not is_layer(name):
            tensors[name] = stored(w, rest)
            continue
        if shuffled:
            options["order"] = np.random.default_rng(len(name)).permutation(w.shape[1])
        for ending, t in WRITERS[kind](w, **options).items():
            tensors[name.removesuffix(".weight") + ending] = t
    write(folder / "model.safetensors", tensors)
    configure(folder, quantization_config=config_of(kind, options))
    return folder


def configure(folder, **more):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more, indent=2))


# ---- readers ----

TORCH = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def read_4_bit(t, base, kind):
    state = json.loads(t[f"{base}.weight.quant_state.bitsandbytes__{kind}"][1].tobytes())
    absmax, table = t[f"{base}.weight.absmax"][1], t[f"{base}.weight.quant_map"][1]
    if "nested_offset" in state:
        spread = t[f"{base}.weight.nested_absmax"][1].repeat(state["nested_blocksize"])
        absmax = t[f"{base}.weight.nested_quant_map"][1][absmax] * spread[:len(absmax)]
        absmax = absmax + F32(state["nested_offset"])
    packed = t[f"{base}.weight"][1].reshape(-1)
    count = int(np.prod(state["shape"]))
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:count]
    w = table[codes] * absmax.astype(F32).repeat(state["blocksize"])[:count]
    return rounded(w.reshape(state["shape"]), TORCH[state["dtype"]]), TORCH[state["dtype"]]


def read_int8(t, base):
    codes, scb = t[f"{base}.weight"][1], t[f"{base}.SCB"][1]
    return codes.astype(F32) * scb[:, None] * F32(7.874015718698502e-3), "F32"


def read_gptq(t, base, quantization):
    bits, v2 = quantization["bits"], quantization.get("checkpoint_format") == "gptq_v2"
    words, zeros = t[f"{base}.qweight"][1], t[f"{base}.qzeros"][1]
    scales = values(t[f"{base}.scales"])
    cols, rows = len(words) * 32 // bits, words.shape[1]
    group = quantization["group_size"] if quantization["group_size"] > 0 else cols
    index = t[f"{base}.g_idx"][1] if f"{base}.g_idx" in t else np.arange(cols) // group
    codes = unpack_bits(words, bits, cols)
    zeros = unpack_bits(np.ascontiguousarray(zeros.T), bits, rows).T + (not v2)
    return (scales[index] * (codes - zeros[index]).astype(F32)).T, "F32"


def awq_codes(words):
    """[col][row], of [col][row / 8]."""
    words = words.view(np.uint32)
    out = np.zeros((*words.shape, 8), int)
    for place, k in enumerate(AWQ_ORDER):
        out[:, :, k] = words >> np.uint32(4 * place) & 15
    return out.reshape(len(words), -1)


def read_awq(t, base, quantization):
    dtype = t[f"{base}.scales"][0]
    codes, zeros = (awq_codes(t[f"{base}.{part}"][1]) for part in ("qweight", "qzeros"))
    group = quantization["group_size"] if quantization["group_size"] > 0 else len(codes)
    index = np.arange(len(codes)) // group
    w = values(t[f"{base}.scales"])[index] * (codes - zeros[index]).astype(F32)
    return rounded(w.T, dtype), dtype


def read_compressed(t, base, quantization):
    (group,) = quantization["config_groups"].values()
    bits, scale = group["weights"]["num_bits"], values(t[f"{base}.weight_scale"])
    if f"{base}.weight_packed" in t:
        rows, cols = t[f"{base}.weight_shape"][1]
        codes = unpack_bits(np.ascontiguousarray(t[f"{base}.weight_packed"][1].T), bits, cols).T
        zero = np.full(scale.shape, 1 << (bits - 1))
        if f"{base}.weight_zero_point" in t:
            zero = unpack_bits(t[f"{base}.weight_zero_point"][1], bits, rows)
    else:
        codes, zero = t[f"{base}.weight"][1].astype(int), np.zeros(scale.shape, int)
    each = codes.shape[1] // scale.shape[1]
    return scale.repeat(each, 1) * (codes - zero.repeat(each, 1)).astype(F32), "F32"


def decode(folder):
    """name -> (weights, type) of all tensors of a packed folder."""
    t, found = read(folder), {}
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    method, bases = quantization["quant_method"], set()
    for name in t:
        for kind in ("nf4", "fp4"):
            if name.endswith(f"bitsandbytes__{kind}"):
                base = name.split(".weight.quant_state")[0]
                found[base] = read_4_bit(t, base, kind)
        base = name.rsplit(".", 1)[0]
        if name.endswith(".SCB"):
            found[base] = read_int8(t, base)
        elif name.endswith(".qweight"):
            found[base] = {"gptq": read_gptq, "awq": read_awq}[method](t, base, quantization)
        elif name.endswith(".weight_scale"):
            found[base] = read_compressed(t, base, quantization)
    bases = set(found)
    plain = {f"{base}.weight": w for base, w in found.items()}
    for name, entry in t.items():
        if not any(name.startswith(base + ".") for base in bases) or name.endswith(".bias"):
            plain[name] = values(entry), entry[0]
    return plain


def make_plain(folder, packed):
    """The twin of a packed folder that stores what it decodes to."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(packed, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    write(folder / "model.safetensors",
          {name: stored(w, dtype) for name, (w, dtype) in sorted(decode(packed).items())})
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
