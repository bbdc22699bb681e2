# SPDX-License-Identifier: MIT
"""Makes the hand-written part of the corpora: small valid files, many cut down from tests/data,
and hostile ones, one idea each. The same bytes every time; what fuzzing found is called found-* and
is left alone.

    tests/fuzz/seeds.py          writes tests/fuzz/corpus/TARGET/NAME
"""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"
LLAMA, QWEN = DATA / "demo-llama", DATA / "demo-qwen2"
U64 = 2**64 - 1


def text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def nested(depth, left="[", right="]"):
    return left * depth + right * depth


# ---- safetensors ----

def safetensors(header, data=b"", size=None):
    header = header if isinstance(header, bytes) else text(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    one = {"a": tensor("F32", [8], 0, 32)}
    floats = struct.pack("<256f", *(i / 7 for i in range(256)))
    every = {}
    for i, (dtype, size) in enumerate([("F64", 8), ("I64", 8), ("F32", 4), ("I32", 4), ("BF16", 2),
                                       ("F16", 2), ("I16", 2), ("U8", 1), ("BOOL", 1),
                                       ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("F4", 1)]):
        end = every[f"t{i - 1}"]["data_offsets"][1] if i else 0
        shape = [2, 3] if dtype != "F4" else [12]
        every[f"t{i}"] = tensor(dtype, shape, end, end + 6 * size)
    total = every[f"t{len(every) - 1}"]["data_offsets"][1]
    return {
        "valid": safetensors({"__metadata__": {"format": "pt"},
                              "w": tensor("F32", [2, 128], 0, 1024), "s": tensor("F32", [], 1024, 1028),
                              "e": tensor("F32", [0, 7], 1028, 1028)}, floats + bytes(4)),
        "every-dtype": safetensors(every, bytes(range(total))),
        "huge-values": safetensors({"w": tensor("F32", [256], 0, 1024)},
                                   struct.pack("<256f", *(3e38 / (i + 1) for i in range(256)))),
        "not-finite": safetensors({"w": tensor("F16", [4], 0, 8)}, b"\x00\x7c\x01\x7e\x00\xfc\xff\xff"),
        "no-tensors": safetensors({}),
        "empty": b"",
        "short-prefix": b"\x08\0\0",
        "header-2-63": safetensors(b"{}", size=2**63),
        "header-2-64": safetensors(b"{}", size=U64),
        "header-past-end": safetensors(b"{}", size=3),
        "header-at-limit": safetensors(b"{}", size=100000000),
        "overlap": safetensors({"a": tensor("F32", [8], 0, 32), "b": tensor("F32", [8], 16, 48)},
                               bytes(48)),
        "hole": safetensors({"a": tensor("F32", [8], 4, 36)}, bytes(36)),
        "trailing": safetensors(one, bytes(33)),
        "truncated": safetensors(one, bytes(31)),
        "shape-overflows": safetensors({"a": tensor("F32", [2**32, 2**32, 2], 0, 32)}, bytes(32)),
        "size-overflows": safetensors({"a": tensor("F64", [2**61], 0, 0)}),
        "zero-times-huge": safetensors({"a": tensor("F32", [0, 2**62, 2**62], 0, 0)}),
        "offsets-2-63": safetensors({"a": tensor("U8", [2**63 - 1], 0, 2**63 - 1),
                                     "b": tensor("U8", [2**63 - 1], 2**63 - 1, 2**63 - 1)}),
        "offset-negative": safetensors({"a": tensor("U8", [1], -1, 0)}),
        "offset-reversed": safetensors({"a": tensor("U8", [1], 8, 7)}, bytes(8)),
        "offset-float": safetensors(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1e0]}}'),
        "shape-negative": safetensors({"a": tensor("U8", [-1, -1], 0, 1)}, bytes(1)),
        "half-bytes": safetensors({"a": tensor("F4", [3], 0, 1)}, bytes(1)),
        "many-dimensions": safetensors({"a": tensor("U8", [1] * 500, 0, 1)}, bytes(1)),
        "unknown-dtype": safetensors({"a": tensor("F128", [1], 0, 16)}, bytes(16)),
        "duplicate-names": safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                                       b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "deep": safetensors(b'{"a":' + nested(3000).encode() + b"}"),
        "name-with-nul": safetensors(b'{"a\\u0000b":{"dtype":"U8","shape":[0],'
                                     b'"data_offsets":[0,0]}}'),
        "name-not-utf8": safetensors(b'{"\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "no-object": safetensors(b"[1,2]"),
        "wrong-types": safetensors({"__metadata__": {}, "a": [1]}),
        "metadata-list": safetensors({"__metadata__": []}),
    }


def index_seeds():
    def index(weights):
        return text({"metadata": {"total_size": 1}, "weight_map": weights}).encode()

    whole = json.loads((QWEN / "model.safetensors.index.json").read_text())
    return {
        "valid": index(dict(list(whole["weight_map"].items())[::4])),
        "above": index({"a": "../model.safetensors"}),
        "above-within": index({"a": "x/../../m"}),
        "dots": index({"a": "..a/.../m..", "b": "./m"}),
        "absolute": index({"a": "/etc/passwd"}),
        "empty-path": index({"a": ""}),
        "not-text": index({"a": 1}),
        "no-tensors": index({}),
        "map-is-list": index([1]),
        "same-shard": index({str(i): "m" for i in range(50)}),
        "duplicates": b'{"weight_map":{"a":"x","a":"y","b":"x"}}',
        "deep": nested(3000).encode(),
        "not-json": b"\x00\xff{",
    }


# ---- GGUF ----

def string(s, size=None):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s) if size is None else size) + s


def key(name, kind, value):
    return string(name) + struct.pack("<I", kind) + value


def array(kind, count, values=b""):
    return struct.pack("<IQ", kind, count) + values


def u32(name, v):
    return key(name, 4, struct.pack("<I", v))


def info(name, ne, kind, offset, ndim=None):
    return (string(name) + struct.pack("<I", len(ne) if ndim is None else ndim) +
            struct.pack(f"<{len(ne)}Q", *ne) + struct.pack("<IQ", kind, offset))


def gguf(keys, tensors=(), data=b"", key_count=None, tensor_count=None, version=3, alignment=32):
    head = b"GGUF" + struct.pack("<IQQ", version,
                                 len(tensors) if tensor_count is None else tensor_count,
                                 len(keys) if key_count is None else key_count)
    out = head + b"".join(keys) + b"".join(tensors)
    return out + bytes(-len(out) % alignment) + data if data or tensors else out


def gguf_seeds():
    arch = key("general.architecture", 8, string("llama"))
    facts = [arch, u32("llama.block_count", 2), u32("llama.attention.head_count", 4),
             u32("llama.attention.head_count_kv", 2)]
    values = [key("k.u8", 0, b"\x01"), key("k.i8", 1, b"\xff"), key("k.u16", 2, b"\x01\x00"),
              key("k.i16", 3, b"\xff\xff"), key("k.i32", 5, b"\xff" * 4),
              key("k.f32", 6, struct.pack("<f", 1.5)), key("k.bool", 7, b"\x02"),
              key("k.u64", 10, b"\xff" * 8), key("k.i64", 11, b"\xff" * 8),
              key("k.f64", 12, struct.pack("<d", float("nan"))),
              key("k.texts", 9, array(8, 3, string("a") + string("") + string("bc"))),
              key("k.numbers", 9, array(5, 2, bytes(8))), key("k.none", 9, array(8, 0))]
    tensors, data = [], b""
    blocks = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34),
              "q2_k": (10, 256, 84), "q6_k": (14, 256, 210), "iq4_nl": (20, 32, 18),
              "bf16": (30, 1, 2), "iq2_xxs": (16, 256, 66)}
    for name, (kind, block, size) in blocks.items():
        tensors.append(info(f"blk.{len(tensors) % 2}.{name}.weight", [256, 1], kind, len(data)))
        packed = bytes((i * 37 + 11) % 61 for i in range(256 // block * size))
        data += packed + bytes(-len(packed) % 32)
    def texts(name, items):
        return key(name, 9, array(8, len(items), b"".join(map(string, items))))

    def real(name, v):
        return key(name, 6, struct.pack("<f", v))

    def vocabulary(model, tokens, types, *more):
        return [key("tokenizer.ggml.model", 8, string(model)),
                texts("tokenizer.ggml.tokens", tokens),
                key("tokenizer.ggml.token_type", 9,
                    array(5, len(types), struct.pack(f"<{len(types)}i", *types))), *more]

    def floats_key(name, v):
        return key(name, 9, array(6, len(v), struct.pack(f"<{len(v)}f", *v)))

    pieces = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab", "\u2581ab", "<u>"]
    spm = vocabulary("llama", pieces, [2, 3, 3, 6, 1, 1, 1, 1, 1, 4],
                     floats_key("tokenizer.ggml.scores", [0, 0, 0, 0, -1, -2, -3, -4, -5, 0]),
                     u32("tokenizer.ggml.bos_token_id", 1), u32("tokenizer.ggml.eos_token_id", 2),
                     u32("tokenizer.ggml.unknown_token_id", 0),
                     key("tokenizer.ggml.add_eos_token", 7, b"\x01"),
                     key("tokenizer.chat_template", 8, string("{{ x }}")))
    bpe = vocabulary("gpt2", ["a", "b", "ab", "<|x|>", "[PAD4]"], [1, 1, 1, 3, 5],
                     texts("tokenizer.ggml.merges", ["a b"]),
                     key("tokenizer.ggml.pre", 8, string("llama-bpe")),
                     u32("tokenizer.ggml.bos_token_id", 3),
                     key("tokenizer.ggml.add_bos_token", 7, b"\x01"))
    folder = [u32(f"llama.{name}", v) for name, v in (
        ("context_length", 64), ("embedding_length", 32), ("feed_forward_length", 32))] + [
        real("llama.rope.freq_base", 1e4), real("llama.attention.layer_norm_rms_epsilon", 1e-5)]
    embedding = info("token_embd.weight", [32, 10], 0, 0)
    attention = info("blk.0.attn_q.weight", [32, 32], 0, 1280)
    one = [info("token_embd.weight", [32, 2], 0, 0)]
    floats = struct.pack("<64f", *range(64))
    return {
        "valid": gguf(facts + values[:3], [info("token_embd.weight", [32, 2], 0, 0),
                                           info("blk.0.attn_v.weight", [32, 4, 1], 1, 256)],
                      floats + bytes(256)),
        "vocabulary-llama": gguf(facts + folder + spm, [embedding, attention]),
        "vocabulary-gpt2": gguf(facts + folder + bpe, [embedding, attention]),
        "vocabulary-short": gguf(facts + vocabulary("llama", pieces, [1])),
        "rope-factors": gguf(facts + folder + spm, [
            embedding, info("rope_freqs.weight", [4], 0, 1280)]),
        "experts": gguf(facts + folder + spm + [u32("llama.expert_count", 2)], [
            embedding, info("blk.0.ffn_gate_exps.weight", [32, 32, 2], 0, 1280)]),
        "experts-too-many": gguf(facts + folder + [u32("llama.expert_count", 2**31)], [
            embedding, info("blk.0.ffn_gate_exps.weight", [32, 32, 2], 0, 1280)]),
        "every-value": gguf(facts + values),
        "every-type": gguf(facts, tensors, data),
        "version-2": gguf(facts, one, floats, version=2),
        "version-1": gguf(facts, one, floats, version=1),
        "dropped-keys": gguf([arch, u32("general.file_type", 1), u32("split.count", 2),
                              u32("quantize.imatrix.chunks_count", 7)], one, floats),
        "70b": gguf([arch, u32("llama.block_count", 80), u32("llama.attention.head_count", 64),
                     u32("llama.attention.head_count_kv", 8)], one, floats),
        "count-keys-2-40": gguf([arch], key_count=2**40),
        "count-tensors-2-40": gguf([arch], one, tensor_count=2**40),
        "count-2-64": gguf([arch], key_count=U64, tensor_count=U64),
        "string-2-63": gguf([key("general.architecture", 8, string("llama", 2**63))]),
        "string-2-64": gguf([string("x", U64)]),
        "array-2-40": gguf([key("a", 9, array(4, 2**40))]),
        "array-2-62": gguf([key("a", 9, array(4, 2**62))]),
        "array-texts-2-40": gguf([key("a", 9, array(8, 2**40, string("") * 64))]),
        "array-of-arrays": gguf([key("a", 9, array(9, 1, array(4, 1, bytes(4))))]),
        "arrays-nested": gguf([key("a", 9, array(9, 1) * 500)]),
        "unknown-value": gguf([key("a", 13, bytes(8))]),
        "architecture-array": gguf([key("general.architecture", 9, array(8, 0))], one, floats),
        "architecture-nul": gguf([key("general.architecture", 8, string("ll\0ma"))], one, floats),
        "architecture-empty": gguf([key("general.architecture", 8, string(""))], one, floats),
        "heads-array": gguf([arch, key("llama.attention.head_count", 9, array(4, 0)),
                             key("llama.block_count", 6, struct.pack("<f", float("nan")))],
                            one, floats),
        "alignment-0": gguf([arch, u32("general.alignment", 0)], one, floats),
        "alignment-3": gguf([arch, u32("general.alignment", 3)], one, floats),
        "alignment-2-31": gguf([arch, u32("general.alignment", 2**31)], one, floats),
        "alignment-64": gguf([arch, u32("general.alignment", 64)], one, floats, alignment=64),
        "alignment-text": gguf([arch, key("general.alignment", 8, string("32"))], one, floats),
        "dimensions-0": gguf(facts, [info("s", [], 0, 0)], bytes(32)),
        "dimensions-5": gguf(facts, [info("s", [1] * 5, 0, 0)], bytes(32)),
        "dimensions-2-32": gguf(facts, [info("s", [1], 0, 0, ndim=2**32 - 1)], bytes(32)),
        "shape-overflows": gguf(facts, [info("s", [2**32, 2**32], 0, 0)], bytes(32)),
        "shape-0": gguf(facts, [info("s", [0, 2**63, 2**63], 0, 0)], bytes(32)),
        "block-broken": gguf(facts, [info("s", [33], 2, 0)], bytes(64)),
        "offset-2-64": gguf(facts, [info("s", [8], 0, U64 - 31)], bytes(32)),
        "offset-2-63": gguf(facts, [info("s", [8], 0, 2**63)], bytes(32)),
        "offset-odd": gguf(facts, [info("s", [8], 0, 1)], bytes(64)),
        "overlap": gguf(facts, [info("a", [8], 0, 0), info("b", [8], 0, 0)], bytes(64)),
        "truncated": gguf(facts, one, floats[:-1]),
        "type-removed": gguf(facts, [info("s", [32], 4, 0)], bytes(32)),
        "type-2-32": gguf(facts, [info("s", [32], 2**32 - 1, 0)], bytes(32)),
        "duplicate-tensors": gguf(facts, one + one, floats + floats),
        "duplicate-keys": gguf([arch, arch], one, floats),
        "name-64": gguf(facts, [info("n" * 64, [8], 0, 0)], bytes(32)),
        "name-nul": gguf(facts, [info("a\0b", [8], 0, 0)], bytes(32)),
        "name-empty": gguf(facts, [info("", [8], 0, 0)], bytes(32)),
        "huge-in-sparse-file": gguf(facts, [info("blk.0.attn_v.weight", [2**30, 2**20], 2, 0)],
                                    bytes(32)),
    }


# ---- torch ----

def entry(name, data, lies):
    """A local header with its data, and the entry of the directory."""
    name = name.encode()
    has = {"method": 0, "flags": 0, "size": len(data), "stored": len(data), "extra": b"",
           "name_size": len(name)} | lies
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, has["flags"], has["method"], 0, 0, 0,
                        len(data), len(data), len(name), 0) + name + data
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, has["flags"], has["method"], 0, 0, 0,
                          has["stored"], has["size"], has["name_size"], len(has["extra"]), 0, 0, 0,
                          0, has["offset"]) + name + has["extra"]
    return local, central


def zip_file(members, end=None, zip64=False, comment=b"", **lies):
    """members: (name, data) or (name, data, lies); the archive has no compression."""
    body = directory = b""
    for name, data, *lie in members:
        local, central = entry(name, data, {"offset": len(body)} | (lie[0] if lie else {}))
        body += local
        directory += central
    has = {"count": len(members), "size": len(directory), "offset": len(body), "disk": 0} | lies
    out = body + directory
    if zip64:
        at = len(out)
        out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, has["count"], has["count"],
                           has["size"], has["offset"])
        out += struct.pack("<4sIQI", b"PK\6\7", 0, at if end is None else end, 1)
    return out + struct.pack("<4s4H2IH", b"PK\5\6", has["disk"], 0, has["count"] & 0xffff,
                             has["count"] & 0xffff, has["size"] & 0xffffffff,
                             has["offset"] & 0xffffffff, len(comment)) + comment


def short(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def integer(v):
    return b"\x8a\x08" + struct.pack("<q", v)


def storage(kind="FloatStorage", name="0", elements=8):
    return (b"(" + short("storage") + b"ctorch\n" + kind.encode() + b"\n" + short(name) +
            short("cpu") + integer(elements) + b"tQ")


def rebuild(of, shape, stride, first=0, name="_rebuild_tensor_v2"):
    numbers = [b"(" + b"".join(integer(i) for i in v) + b"t" for v in (shape, stride)]
    return (b"ctorch._utils\n" + name.encode() + b"\n(" + of + integer(first) + b"".join(numbers) +
            b"\x89ccollections\nOrderedDict\n)RtR")


def state(*tensors):
    return (b"\x80\x02}q\x00(" + b"".join(short(f"w{i}") + t for i, t in enumerate(tensors)) +
            b"u.")


def torch_seeds():
    good = state(rebuild(storage(), [2, 4], [4, 1]), rebuild(storage("HalfStorage", "1"), [8], [1]))
    data = [("archive/data/0", bytes(32)), ("archive/data/1", bytes(16)),
            ("archive/version", b"3\n")]
    member = [("archive/data.pkl", good)]
    framed = (b"\x80\x04\x95" + struct.pack("<Q", 9) + b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict"
              b"\x94\x93\x94)R\x94.")
    all_kinds = (b"\x80\x02}](K\1M\1\0J\1\0\0\0\x8a\1\1G" + bytes(8) + b"NU\1aT\1\0\0\0a\x88\x89)e"
                 b"r\0\0\0\0j\0\0\0\0h\0\x87q\1q\0\x85\x94NaN\x86}" + short("k") + b"Ns\x86b.")
    zip64 = struct.pack("<HH3Q", 1, 24, 32, 32, 0)
    return {
        "valid": zip_file(member + data),
        "valid-zip64": zip_file(member + data, zip64=True),
        "valid-comment": zip_file(member + data, comment=b"PK\5\6" + b"c" * 30),
        "valid-wide-fields": zip_file([("archive/data/0", bytes(32),
                                        {"size": 2**32 - 1, "stored": 2**32 - 1,
                                         "offset": 2**32 - 1, "extra": b"\x55\x54\1\0x" + zip64}),
                                       *member]),
        "pickle": good,
        "pickle-every-instruction": all_kinds,
        "pickle-protocol-4": framed,
        "pickle-parameter": state(b"ctorch._utils\n_rebuild_parameter\n(" +
                                  rebuild(storage(), [8], [1]) + b"\x88}tR"),
        "pickle-ordered": b"\x80\x02ccollections\nOrderedDict\n)R(" + short("w") +
                          rebuild(storage(), [8], [1]) + b"u}" + short("_metadata") + b"}sb.",
        "pickle-shared": b"\x80\x02}(" + short("a") + rebuild(storage() + b"q\0", [4], [1]) +
                         short("b") + rebuild(b"h\0", [4], [1], 4) + b"u.",
        # what a pickle could do, were it run
        "code-system": b"cos\nsystem\n(S'id'\ntR.",
        "code-eval": b"\x80\x02cbuiltins\neval\n" + short("1") + b"\x85R.",
        "code-protocol-4": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
        "code-inst": b"(S'id'\nios\nsystem\n.",
        "code-obj": b"(cos\nsystem\nS'id'\no.",
        "code-newobj": b"\x80\x02cos\nsystem\n)\x81.",
        "code-extension": b"\x80\x02\x82\x01.",
        "code-persistent-text": b"Pos.system\n.",
        "call-of-storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "call-of-text": b"\x80\x02" + short("a") + b")R.",
        "empty-stack": b"\x80\x02\x87.",
        "mark-missing": b"\x80\x02NNt.",
        "marks": b"(" * 500 + b"t" * 500 + b".",
        "memo-2-32": b"\x80\x02Nr\xff\xff\xff\xff.",
        "memo-missing": b"\x80\x02h\x05.",
        "list-in-itself": b"\x80\x02]q\0h\0a.",
        "dict-in-itself": b"\x80\x02}q\0" + short("w") + b"h\0s.",
        "mark-as-item": b"\x80\x02](a.",
        "text-2-32": b"\x80\x02X\xff\xff\xff\xffabc.",
        "text-cut": b"\x80\x02X\x03\0\0\0ab",
        "long-255": b"\x80\x02\x8a\xff" + bytes(255) + b".",
        "long-0": b"\x80\x02\x8a\0\x8a\x01\x80.",
        "frame-2-64": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
        "global-cut": b"\x80\x02ctorch\nFloat",
        "global-long": b"c" + b"a" * 2000 + b"\n" + b"b" * 2000 + b"\n.",
        "no-end": b"\x80\x02}",
        "odd-items": b"\x80\x02}(" + short("a") + b"u.",
        "entry-no-tensor": state(b"N"),
        "storage-tuple-short": b"\x80\x02(" + short("storage") + b"tQ.",
        "storage-negative": state(rebuild(storage(elements=-1), [1], [1])),
        "tensor-too-large": state(rebuild(storage(), [9], [1])),
        "tensor-first-2-63": state(rebuild(storage(elements=2**63 - 1), [2], [1], 2**63 - 2)),
        "tensor-shape-overflows": state(rebuild(storage(elements=2**63 - 1), [2**32, 2**32], [1, 1])),
        "tensor-transposed": state(rebuild(storage(), [2, 4], [1, 2])),
        "tensor-negative-stride": state(rebuild(storage(), [8], [-1])),
        "tensor-0": state(rebuild(storage(), [0, 2**62, 4], [1, 1, 1])),
        "tensor-17": state(rebuild(storage(), [1] * 17, [1] * 17)),
        "tensor-scalar": state(rebuild(storage(), [], [])),
        # directories that lie
        "end-only": zip_file([]),
        "count-65535": zip_file(member, count=65535),
        "count-2-40": zip_file(member, zip64=True, count=2**40),
        "count-2-64": zip_file(member, zip64=True, count=U64),
        "count-less": zip_file(member + data, count=1),
        "size-2-32": zip_file(member, size=2**32 - 1),
        "size-2-63": zip_file(member, zip64=True, size=2**63),
        "offset-2-64": zip_file(member, zip64=True, offset=U64),
        "offset-past-end": zip_file(member, offset=5000),
        "end64-elsewhere": zip_file(member, zip64=True, end=2**63),
        "end64-at-0": zip_file(member, zip64=True, end=0),
        "parts": zip_file(member, disk=1),
        "compressed": zip_file([("archive/data.pkl", good, {"method": 8})]),
        "encrypted": zip_file([("archive/data.pkl", good, {"flags": 1})]),
        "member-past-end": zip_file([("archive/data.pkl", good,
                                      {"size": 2**31, "stored": 2**31})]),
        "member-offset-past-end": zip_file([("archive/data.pkl", good, {"offset": 2**31})]),
        "member-into-directory": zip_file([("archive/data.pkl", good,
                                            {"size": len(good) + 90, "stored": len(good) + 90})]),
        "member-without-zip64": zip_file([("archive/data.pkl", good, {"size": 2**32 - 1})]),
        "member-zip64-cut": zip_file([("archive/data.pkl", good,
                                       {"size": 2**32 - 1, "extra": b"\1\0\xff\xff"})]),
        "member-twice": zip_file(member + member),
        "member-name-2-16": zip_file([("archive/data.pkl", good, {"name_size": 65535})]),
        "member-name-nul": zip_file([("archive\0/data.pkl", good)]),
        "tensor-past-storage": zip_file([("archive/data.pkl", good), ("archive/data/0", bytes(31))]),
    }


# ---- SentencePiece ----

def varint(v):
    out = b""
    while v > 127:
        out += bytes([v & 127 | 128])
        v >>= 7
    return out + bytes([v])


def field(number, wire, value):
    return varint(number << 3 | wire) + value


def sized(number, value, size=None):
    return field(number, 2, varint(len(value) if size is None else size) + value)


def piece(s, score=0.0, kind=None):
    body = sized(1, s if isinstance(s, bytes) else s.encode())
    body += field(2, 5, struct.pack("<f", score))
    return sized(1, body + (b"" if kind is None else field(3, 0, varint(kind))))


def pieces():
    return (piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("<0x0A>", 0, 6) +
            piece("\u2581the", -1.5) + piece("user", -2, 4) + piece("none", 0, 5))


def sentencepiece_seeds():
    whole = (LLAMA / "tokenizer.model").read_bytes()
    return {
        "valid": pieces() + sized(2, b"\x0a\x03abc") + sized(3, b"\x0a\x00"),
        "valid-head": whole[:whole.index(b"\x0a", 2000)],
        "valid-tail": pieces() + whole[-600:],
        "no-pieces": sized(2, b"abc"),
        "empty": b"",
        "length-past-end": sized(1, b"abc", 100),
        "length-2-63": sized(1, b"abc", 2**63),
        "length-2-64": sized(1, b"abc", U64),
        "inner-length-past-end": sized(1, sized(1, b"abc", 100)) + bytes(200),
        "varint-endless": b"\xff" * 40,
        "varint-11-bytes": b"\x0a" + b"\x80" * 10 + b"\x01",
        "varint-cut": b"\x0a\x80",
        "field-0": field(0, 2, b"\0"),
        "field-2-60": varint(2**63 | 2) + b"\0" + pieces(),
        "groups": b"\x0b\x0c" + pieces(),
        "wire-types": pieces() + field(9, 0, varint(U64)) + field(9, 1, bytes(8)) +
                      field(9, 5, bytes(4)),
        "wire-7": pieces() + b"\x0f",
        "piece-without-text": sized(1, field(2, 5, bytes(4))),
        "piece-empty": piece(""),
        "piece-nul": piece(b"a\0b"),
        "piece-not-utf8": piece(b"\xc0\x80"),
        "piece-surrogate": piece(b"\xed\xa0\x80"),
        "piece-cut-utf8": piece(b"\xe2\x96"),
        "piece-twice": sized(1, sized(1, b"a") + sized(1, b"b")),
        "type-0": piece("a", 0, 0),
        "type-2-32": piece("a", 0, 2**32 + 1),
        "score-nan": piece("a", float("nan")) + piece("b", float("-inf")),
    }


# ---- importance matrices ----

def dat(entries, count=None, tail=b""):
    out = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, values, *lies in entries:
        name_size, value_count = lies or (len(name), len(values))
        out += struct.pack("<i", name_size) + name + struct.pack("<ii", calls, value_count)
        out += struct.pack(f"<{len(values)}f", *values)
    return out + tail


def awq_seeds():
    def file(**vectors):
        header, data = {"__metadata__": {"awq": "1"}}, b""
        for name, values in vectors.items():
            packed = struct.pack(f"<{len(values)}f", *values)
            header[f"blk.{name.replace('__', '.')}.scale"] = {
                "dtype": "F32", "shape": [len(values)], "data_offsets": [len(data), len(data + packed)]}
            data += packed
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    ones = [1.0, 0.5, 2.0, 4.0]
    return {
        "all": file(**{f"0__{name}": ones for name in ("attn_qkv", "attn_output", "ffn_gate_up",
                                                       "ffn_down")}),
        "one": file(**{"0__ffn_down": ones}),
        "short": file(**{"0__ffn_down": ones[1:]}),
        "zero": file(**{"0__ffn_down": [1.0, 0.0, 1.0, 1.0]}),
        "layer": file(**{"1__attn_qkv": ones}),
        "router": file(**{"0__ffn_gate_inp": ones}),
        "none": file(),
        "text": b"awq",
    }


def imatrix_seeds():
    one = (b"blk.0.attn_q.weight", 4, [1.0, 2.5, 0.0, 3.0])
    nan, inf = float("nan"), float("inf")
    f32 = struct.pack("<4f", 1, 2, 3, 4)
    as_gguf = gguf([key("general.type", 8, string("imatrix")), u32("imatrix.chunk_count", 3),
                    u32("imatrix.chunk_size", 512),
                    key("imatrix.datasets", 9, array(8, 1, string("calibration.txt")))],
                   [info("blk.0.attn_q.weight.in_sum2", [4, 1], 0, 0),
                    info("blk.0.attn_q.weight.counts", [1, 1], 0, 32)],
                   f32 + bytes(16) + struct.pack("<f", 5) + bytes(28))
    return {
        "valid": dat([one, (b"output.weight", 2, [0.5] * 8)],
                     tail=struct.pack("<ii", 7, 9) + b"train.txt"),
        "valid-head": dat([one], tail=(DATA / "demo-llama.imatrix.dat").read_bytes()[-20:]),
        "no-tail": dat([one]),
        "tail-cut": dat([one], tail=struct.pack("<ii", 7, 900) + b"train.txt"),
        "tail-negative": dat([one], tail=struct.pack("<ii", -7, -9)),
        "dataset-nul": dat([one], tail=struct.pack("<ii", 7, 5) + b"a\0b\0c"),
        "gguf": as_gguf,
        "gguf-counts-without-data": gguf([key("general.type", 8, string("imatrix"))],
                                         [info("a.counts", [1], 0, 0)], bytes(32)),
        "gguf-counts-nan": gguf([key("general.type", 8, string("imatrix"))],
                                [info("a.in_sum2", [4, 1], 0, 0), info("a.counts", [1, 1], 0, 32)],
                                f32 + bytes(16) + struct.pack("<f", nan) + bytes(28)),
        "gguf-experts": gguf([key("general.type", 8, string("imatrix"))],
                             [info("a.in_sum2", [2, 2], 0, 0), info("a.counts", [1, 2], 0, 32)],
                             f32 + bytes(16) + struct.pack("<2f", 0, 1) + bytes(24)),
        "gguf-shapes-differ": gguf([key("general.type", 8, string("imatrix"))],
                                   [info("a.in_sum2", [4], 0, 0), info("a.counts", [1, 8], 0, 32)],
                                   f32 + bytes(16) + bytes(32)),
        "gguf-not-f32": gguf([key("general.type", 8, string("imatrix"))],
                             [info("a.in_sum2", [32], 2, 0), info("a.counts", [1], 1, 32)],
                             bytes(64)),
        "empty": b"",
        "count-0": dat([]),
        "count-negative": dat([one], -1),
        "count-2-31": dat([one], 2**31 - 1),
        "calls-0": dat([(b"a", 0, [1.0])]),
        "calls-negative": dat([(b"a", -2**31, [1.0])]),
        "name-negative": dat([(b"a", 1, [1.0], -1, 1)]),
        "name-2-31": dat([(b"a", 1, [1.0], 2**31 - 1, 1)]),
        "name-empty": dat([(b"", 1, [1.0])]),
        "name-nul": dat([(b"a\0b", 1, [1.0]), (b"a", 1, [2.0])]),
        "values-0": dat([(b"a", 1, [])]),
        "values-negative": dat([(b"a", 1, [1.0], 1, -1)]),
        "values-2-31": dat([(b"a", 1, [1.0], 1, 2**31 - 1)]),
        "value-nan": dat([(b"a", 1, [1.0, nan])]),
        "value-infinite": dat([(b"a", 1, [inf])]),
        "value-denormal": dat([(b"a", 2**31 - 1, [1e-45, -0.0, 3e38])]),
        "names-twice": dat([(b"a", 1, [1.0]), (b"b", 1, [1.0]), (b"a", 1, [2.0, 3.0])]),
    }


# ---- a checkpoint's small files ----

def cut_tokenizer(folder, tokens=40, merges=12, **changes):
    """The tokenizer.json of a demo model with a small vocabulary."""
    t = json.loads((folder / "tokenizer.json").read_text())
    vocab = dict(list(t["model"]["vocab"].items())[:tokens])
    for i, token in enumerate(t["added_tokens"]):
        if token["id"] >= tokens:
            token["id"] = tokens + i
    t["model"] |= {"vocab": vocab, "merges": t["model"]["merges"][:merges]}
    return t | changes


def files(**contents):
    """JSON, text or bytes by name; "_" stands for the dot, as in tokenizer_json."""
    out = []
    for name, content in contents.items():
        stem, _, suffix = name.rpartition("_")
        if isinstance(content, (dict, list)):
            content = text(content)
        content = content if isinstance(content, bytes) else content.encode()
        out.append(f"--- {stem}.{suffix}\n".encode() + content)
    return b"\n".join(out)


def packed_seeds():
    """A layer "a" of 16 rows and 64 columns in each layout, and what is wrong with some."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    size = {"I64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}

    def raw(dtype, *shape, data=None):
        n = size[dtype]
        for extent in shape:
            n *= extent
        fill = {"F32": b"\0\0\x80\x3f", "F16": b"\0\x3c", "BF16": b"\x80\x3f"}.get(dtype)
        return dtype, shape, (data if data is not None else
                              fill * (n // len(fill)) if fill else
                              bytes(i * 37 % 256 for i in range(n)))

    def packed(quantization, **tensors):
        header, data = {}, b""
        for name, (dtype, shape, content) in tensors.items():
            name = name if "." in name else name.replace("__", ".")
            header[name] = tensor(dtype, shape, len(data), len(data) + len(content))
            data += content
        return files(config_json=config | {"quantization_config": quantization},
                     model_safetensors=safetensors(header, data))

    order = b"".join(struct.pack("<i", i * 5 % 64 // 32) for i in range(64))
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    parts = {"a__qweight": raw("I32", 8, 16), "a__qzeros": raw("I32", 2, 2),
             "a__scales": raw("F16", 2, 16), "a__g_idx": raw("I32", 64, data=order),
             "a__bias": raw("F16", 16), "b__weight": raw("F16", 3)}
    three = {"a__qweight": raw("I32", 6, 32), "a__qzeros": raw("I32", 1, 3),
             "a__scales": raw("BF16", 1, 32)}
    awq = {"a__qweight": raw("I32", 64, 2), "a__qzeros": raw("I32", 2, 2),
           "a__scales": raw("F16", 2, 16)}
    bnb = {"quant_method": "bitsandbytes"}
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [16, 64]}
    level = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}

    def described(kind="nf4", **changes):
        content = text(state | {"quant_type": kind} | changes).encode()
        return {f"a.weight.quant_state.bitsandbytes__{kind}": raw("U8", len(content), data=content)}

    four = {"a__weight": raw("U8", 512, 1), "a__weight__absmax": raw("F32", 16),
            "a__weight__quant_map": raw("F32", 16)}
    double = four | {"a__weight__absmax": raw("U8", 16), "a__weight__nested_absmax": raw("F32", 1),
                     "a__weight__nested_quant_map": raw("F32", 256)}
    eight = {"a__weight": raw("I8", 16, 64), "a__SCB": raw("F32", 16),
             "a__weight_format": raw("U8", data=b"\0")}
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    groups = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "config_groups": {"group_0": {"weights": weights}}}
    shape = struct.pack("<2q", 16, 64)
    words = {"a__weight_packed": raw("I32", 16, 8), "a__weight_scale": raw("BF16", 16, 2),
             "a__weight_shape": raw("I64", 2, data=shape)}
    five = groups | {"config_groups": {"group_0": {"weights": weights | {
        "num_bits": 5, "strategy": "channel", "group_size": None}}}}
    integers = {"a__weight": raw("I8", 16, 64), "a__weight_scale": raw("F32", 16, 1),
                "a__weight_zero_point": raw("I8", 16, 1), "a__input_scale": raw("F32", 1)}
    return {
        "gptq": packed(gptq, **parts),
        "gptq-v2": packed(gptq | {"checkpoint_format": "gptq_v2", "desc_act": True}, **parts),
        "gptq-3-bits": packed(gptq | {"bits": 3, "group_size": -1}, **three),
        "gptq-group-negative": packed(gptq, **parts | {
            "a__g_idx": raw("I32", 64, data=struct.pack("<i", -1) * 64)}),
        "gptq-group-huge": packed(gptq | {"group_size": 2**63 - 1}, **parts),
        "gptq-no-zeros": packed(gptq, **{k: v for k, v in parts.items() if k != "a__qzeros"}),
        "gptq-no-weight": packed(gptq, **{k: v for k, v in parts.items() if k != "a__qweight"}),
        "gptq-twice": packed(gptq, **parts, a__weight=raw("F32", 2)),
        "gptq-no-columns": packed(gptq, a__qweight=raw("I32", 0, 16), a__qzeros=raw("I32", 0, 2),
                                  a__scales=raw("F16", 0, 16)),
        "awq": packed({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, **awq),
        "awq-no-rows": packed({"quant_method": "awq", "bits": 4, "group_size": -1},
                              a__qweight=raw("I32", 64, 0), a__qzeros=raw("I32", 1, 0),
                              a__scales=raw("F16", 1, 0)),
        "nf4": packed(bnb, **four, **described()),
        "fp4-double": packed(bnb, **double, **described("fp4", dtype="float16", **level)),
        "nf4-odd": packed(bnb, a__weight=raw("U8", 34, 1), a__weight__absmax=raw("F32", 2),
                          a__weight__quant_map=raw("F32", 16), **described(shape=[67, 1])),
        "nf4-shape-2-62": packed(bnb, **four, **described(shape=[2**62, 4])),
        "nf4-shape-negative": packed(bnb, **four, **described(shape=[-16, -64])),
        "nf4-block-0": packed(bnb, **four, **described(blocksize=0)),
        "nf4-block-2-30": packed(bnb, **four | {"a__weight__absmax": raw("F32", 1)},
                                 **described(blocksize=2**30)),
        "nf4-nested-block-3": packed(bnb, **double, **described(**level | {"nested_blocksize": 3})),
        "nf4-no-json": packed(bnb, **four, **{"a.weight.quant_state.bitsandbytes__nf4":
                                              raw("U8", 9)}),
        "nf4-deep": packed(bnb, **four, **{"a.weight.quant_state.bitsandbytes__nf4":
                                           raw("U8", 4000, data=nested(2000).encode())}),
        "int8": packed(bnb, **eight),
        "int8-columns": packed(bnb, **eight | {"a__weight_format": raw("U8", data=b"\1")}),
        "pack-quantized": packed(groups, **words),
        "pack-quantized-zeros": packed(groups, **words, a__weight_zero_point=raw("I32", 2, 2)),
        "pack-quantized-5-bits": packed(five, a__weight_packed=raw("I32", 16, 10),
                                        a__weight_scale=raw("F16", 16, 1),
                                        a__weight_shape=raw("I64", 2, data=shape)),
        "pack-quantized-shape-2-62": packed(groups, **words | {
            "a__weight_shape": raw("I64", 2, data=struct.pack("<2q", 2**62, 2**62))}),
        "int-quantized": packed(groups | {"format": "int-quantized"} | {"config_groups": {
            "g": {"weights": weights | {"num_bits": 8, "strategy": "channel"}}}}, **integers),
        "groups-none": packed(groups | {"config_groups": []}, **words),
        "method-number": packed({"quant_method": 4}, **parts),
        "nothing-packed": packed(gptq, b__weight=raw("F16", 3)),
    }


def model_seeds():
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
              "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
              "intermediate_size": 512, "vocab_size": 64, "rms_norm_eps": 1e-5}
    qwen = config | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    llama_config = json.loads((LLAMA / "tokenizer_config.json").read_text())
    qwen_config = json.loads((QWEN / "tokenizer_config.json").read_text())
    llama_tokenizer, qwen_tokenizer = cut_tokenizer(LLAMA), cut_tokenizer(QWEN)
    llama = {"config_json": config, "tokenizer_json": llama_tokenizer,
             "tokenizer_config_json": llama_config}
    bpe = {"config_json": qwen, "tokenizer_json": qwen_tokenizer,
           "tokenizer_config_json": qwen_config}
    special = {"type": "TemplateProcessing",
               "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}},
                          {"SpecialToken": {"id": "<e>"}}],
               "pair": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}},
                        {"SpecialToken": {"id": "<x>"}}, {"SpecialToken": {"id": "<e>"}},
                        {"Sequence": {"id": "B"}}, {"SpecialToken": {"id": "<e>"}}]}
    processors = {"type": "Sequence", "processors": [
        special, {"type": "RobertaProcessing", "cls": ["<c>", 0], "sep": ["<d>", 1]}, special,
        {"type": "ByteLevel"}]}

    def with_config(**changes):
        return files(config_json=config | changes, tokenizer_model=pieces())

    def with_vocab(vocab, **changes):
        t = json.loads(text(qwen_tokenizer))
        t["model"]["vocab"] = vocab
        return files(**bpe | {"tokenizer_json": t | changes})

    return {
        "llama-sentencepiece": files(**llama, tokenizer_model=pieces(),
                                     added_tokens_json={"<a>": 7, "<far>": 2**40},
                                     generation_config_json=json.loads(
                                         (LLAMA / "generation_config.json").read_text())),
        "llama-style": files(**llama),
        "card": files(**bpe, README_md="""---
license: other
license_name: some
tags: [a, b]
language: en
base_model:
- https://huggingface.co/org/Name-7B-Instruct-v0.1
- other
datasets:
- org/data
model-index:
- name: x
  results: [{y: 1}]
author: "me & you"
anchor: &a text
alias: *a
---
# Name
"""),
        "byte-level": files(**bpe, generation_config_json={"top_k": 20, "temperature": 0.7}),
        "templates": files(**bpe | {"tokenizer_config_json": {"chat_template": [
            {"name": "default", "template": "{{ d }}"}, {"name": "tool use", "template": "{{ t }}"},
            {"name": "", "template": "x"}, {"name": "rag", "template": ""}]}}),
        "template-name-long": files(**bpe | {"tokenizer_config_json": {"chat_template": [
            {"name": "n" * 300, "template": "x"}]}}),
        "templates-alike": files(**bpe | {"tokenizer_config_json": {"chat_template": [
            {"name": "a b", "template": "1"}, {"name": "a_b", "template": "2"}]}}),
        "template-jinja": files(**bpe | {"tokenizer_config_json": {"a": 1}},
                                chat_template_jinja="{% a %}\r\n{% b %}\r"),
        "template-not-utf8": files(**bpe | {"tokenizer_config_json": {"a": 1}},
                                   chat_template_jinja=b"\xff"),
        "template-json": files(**bpe | {"tokenizer_config_json": {"a": 1}},
                               chat_template_json={"chat_template": "{{ x }}"}),
        "merges-txt": files(**bpe | {"tokenizer_json": cut_tokenizer(QWEN, merges=0)},
                            merges_txt="#version: 0.2\na b\n\n  c\td \na b c\ne"),
        "special-tokens-map": files(**llama, special_tokens_map_json={
            "bos_token": "<b>", "eos_token": {"content": "<e>"},
            "additional_special_tokens": ["<x>", {"content": "<y>"}, 3, ""]}),
        "decoder": files(**llama | {"tokenizer_config_json": {"added_tokens_decoder": {
            "2": {"content": "<n>", "special": True}, "10": {"content": "\u2581a"},
            "9999999999999999999999": {"content": "<big>"}, "9": {"content": "<|c|>"}}}},
                         tokenizer_model=pieces()),
        "decoder-and-map": files(**bpe | {"tokenizer_config_json": {
            "added_tokens_decoder": {"70": {"content": "<n>", "normalized": False}},
            "bos_token": "<b>"}}, special_tokens_map_json={"bos_token": "<m>"}),
        "special-id-2-32": files(**llama | {"config_json": config | {"bos_token_id": 2**32}}),
        "decoder-negative": files(**llama | {"tokenizer_config_json": {"added_tokens_decoder": {
            "-1": {"content": "<n>"}}}}, tokenizer_model=pieces()),
        "post-processors": files(**bpe | {"tokenizer_json": qwen_tokenizer |
                                          {"post_processor": processors}}),
        "post-processor-objects": files(**bpe | {
            "tokenizer_json": qwen_tokenizer | {"post_processor": processors},
            "tokenizer_config_json": {"bos_token": {"content": "<s>"}, "eos_token": "",
                                      "cls_token": None, "sep_token": {"content": "<x>"},
                                      "eot_token": "<t>", "add_bos_token": True}}),
        "pooling": files(**bpe, modules_json=[{"type": "a.Pooling", "path": "pool"}],
                         **{"pool/config_json": {"pooling_mode_cls_token": True}}),
        "pooling-mode": files(**bpe | {"config_json": qwen | {"is_causal": False}},
                              modules_json=[{"type": "a.Pooling", "path": "pool"}],
                              **{"pool/config_json": {"pooling_mode": "lasttoken"}}),
        "pooling-missing": files(**bpe, modules_json=[{"type": "Pooling", "path": "p" * 600}]),
        "rope-llama3": with_config(rope_scaling={"rope_type": "llama3", "factor": 8,
                                                 "low_freq_factor": 1, "high_freq_factor": 4,
                                                 "original_max_position_embeddings": 8192}),
        "rope-llama3-hostile": with_config(rope_scaling={
            "rope_type": "llama3", "factor": 0, "low_freq_factor": 1e308, "high_freq_factor": 0,
            "original_max_position_embeddings": -1, "rope_theta": -1e300}),
        "rope-head-dim-0": with_config(model_type="mistral", hidden_size=3,
                                       rope_scaling={"rope_type": "llama3"}),
        "rope-head-dim-2-32": with_config(head_dim=2**32 - 1,
                                          rope_scaling={"rope_type": "llama3"}),
        "rope-yarn": with_config(rope_scaling={"type": "yarn", "factor": 4.0,
                                               "original_max_position_embeddings": 2048,
                                               "beta_fast": "x"}),
        "rope-long": with_config(rope_scaling={"type": "longrope"}),
        "rope-per-layer": with_config(rope_parameters={"full_attention": {"rope_theta": 1e6},
                                                       "sliding_attention": {"rope_theta": 1e4}}),
        "heads-0": with_config(num_attention_heads=0),
        "heads-2-32": with_config(num_attention_heads=2**32 - 1, num_key_value_heads=2**31),
        "heads-3": with_config(num_attention_heads=3),
        "heads-float": with_config(num_attention_heads=4.0),
        "layers-0": with_config(num_hidden_layers=0),
        "layers-80": with_config(num_hidden_layers=80),
        "hidden-negative": with_config(hidden_size=-2**63, head_dim=None),
        "vocab-2-31": with_config(vocab_size=2**31),
        "vocab-codellama": with_config(vocab_size=32016),
        "vocab-never-bos": with_config(vocab_size=49152),
        "vocab-small": with_config(vocab_size=3),
        "name-path": with_config(_name_or_path="org/Some-Model-7b1-v1.2-q4_K_M-chat-iter3-128k"),
        "name-odd": with_config(_name_or_path="-/--7x8b-A2.7B-xl-1_5b-\xff--v-iter-16x"),
        "name-spaces": with_config(_name_or_path=" a  b-v1.2 \t"),
        "defaults": files(config_json={"architectures": ["MistralForCausalLM"],
                                       "model_type": "mistral"}, tokenizer_model=pieces()),
        "architecture-number": with_config(architectures=[1]),
        "architecture-unknown": with_config(architectures=["FalconForCausalLM" * 20]),
        "config-deep": files(config_json='{"a":' + nested(3000) + "}"),
        "config-list": files(config_json=[1]),
        "config-cut": b"--- config.json\n{\"architectures\":[\"Llama",
        "config-number": files(config_json='{"hidden_size": 1e999, "vocab_size": '
                                           '99999999999999999999}'),
        "tokenizer-wordpiece": files(**bpe | {"tokenizer_json": qwen_tokenizer | {
            "model": {"type": "WordPiece", "vocab": {"a": 0}}}}),
        "tokenizer-ids-alike": with_vocab({"a": 0, "b": 0, "c": 1}),
        "tokenizer-id-far": with_vocab({"a": 63}),
        "tokenizer-id-negative": with_vocab({"a": -1}),
        "tokenizer-id-2-40": with_vocab({"a": 2**40}),
        "tokenizer-pre-unknown": files(**bpe | {"tokenizer_json": qwen_tokenizer | {
            "pre_tokenizer": {"type": "Whitespace" * 100}}}),
        "tokenizer-pre-deep": files(**bpe | {"tokenizer_json": text(qwen_tokenizer).replace(
            '"pre_tokenizer":', '"pre_tokenizer":' + nested(
                900, '{"type":"Sequence","pretokenizers":[', "]}") + ',"x":')}),
        "merges-texts": files(**bpe | {"tokenizer_json": qwen_tokenizer | {
            "model": qwen_tokenizer["model"] | {"merges": ["a b", "c d e", ""]},
            "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": True}},
            "tokenizer_config_json": {"cls_token": "<|im_start|>", "sep_token": "<|im_end|>",
                                      "add_prefix_space": True}}),
        "model-missing": files(**bpe | {"tokenizer_json": {"model": {"type": "BPE"}}}),
        "merges-wrong": files(**bpe | {"tokenizer_json": qwen_tokenizer | {
            "model": qwen_tokenizer["model"] | {"merges": [["a b", " "], ["a"]]}}}),
        "normalizers": files(**bpe | {"tokenizer_json": qwen_tokenizer | {
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Lowercase"}, {"type": "StripAccents"},
                {"type": "BertNormalizer", "lowercase": None, "strip_accents": False}]}}}),
        "added-texts": files(**bpe | {"tokenizer_json": qwen_tokenizer | {"added_tokens": [
            {"id": 41, "content": "\u0120a\u00e9\u2581 n't"}, {"id": 42, "content": ""},
            {"id": 43, "content": "<unused7>", "normalized": True}]}, "tokenizer_config_json": {
                "clean_up_tokenization_spaces": True, "bos_token": "\u010a"}}),
    }


def hf_encode_seeds():
    base = cut_tokenizer(QWEN, tokens=120, merges=60)

    def with_step(pre=None, **changes):
        return files(tokenizer_json=base | {"pre_tokenizer": pre} | changes)

    def split(pattern, behavior="Isolated", kind="Regex", **more):
        return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior} | more

    def steps(*inner):
        return {"type": "Sequence", "pretokenizers": list(inner)}

    def model(**changes):
        return files(tokenizer_json=base | {"model": base["model"] | changes})

    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}},
                           {"SpecialToken": {"id": "<s>"}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1, 2, 3]}}}
    level = {"type": "ByteLevel"}
    slow = "(?:([^x]|[^y]|[^z]){9}\\x01|[\\s\\S])"
    added = [{"id": 121 + i, "content": c, "lstrip": bool(i & 1), "rstrip": bool(i & 2),
              "single_word": bool(i & 4), "normalized": bool(i & 8)}
             for i, c in enumerate(["<s>", "</s>", " ", "e", "aa", "\u00e9", "\u4e2d", "<|x|>", "a",
                                    "s", "fi", "12", "\u0301", "\u2581", "", "tests"])]
    return {
        "valid": files(tokenizer_json=base, tokenizer_config_json=json.loads(
            (QWEN / "tokenizer_config.json").read_text())),
        "llama": files(tokenizer_json=cut_tokenizer(LLAMA)),
        "added": with_step(level, added_tokens=added, normalizer={"type": "NFKC"}),
        "template": with_step(level, post_processor=template),
        "template-many": with_step(level, post_processor=template | {
            "single": [{"SpecialToken": {"id": "<s>"}}] * 200 + [{"Sequence": {"id": "A"}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [7] * 2000}}}),
        "template-odd": with_step(level, post_processor=template | {
            "single": [{"Sequence": 1}, {"Sequence": 2}], "special_tokens": []}),
        "roberta": with_step(level, post_processor={"type": "Sequence", "processors": [
            {"type": "RobertaProcessing", "cls": ["<s>", 1], "sep": ["</s>", "x"]},
            {"type": "BertProcessing", "cls": [], "sep": 1}]}),
        "steps": with_step(steps(
            {"type": "Digits", "individual_digits": True}, {"type": "Digits"},
            {"type": "Punctuation", "behavior": "Contiguous"}, split("l", kind="String"),
            split("\\s+", "Removed", invert=False), split("[a-f]", "MergedWithNext"),
            split("[0-9]", "MergedWithPrevious", invert=True),
            {"type": "ByteLevel", "add_prefix_space": True})),
        "steps-unknown": with_step(steps({"type": "Whitespace"}, 1, None)),
        "normalizers": with_step(level, normalizer={"type": "Sequence", "normalizers": [
            {"type": "NFD"}, {"type": "NFC"}, {"type": "NFKD"}, {"type": "NFKC"}]}),
        "byte-level-thrice": with_step(steps(level, level, level)),
        "byte-level-many": with_step(steps(*[level | {"use_regex": False}] * 64)),
        "regex-invalid": with_step(split("(")),
        "regex-empty-match": with_step(split("x*|")),
        "regex-single-byte": with_step(steps(split("\\C"), split("\\w+"), level)),
        "regex-start-reset": with_step(steps(split("(?<=l\\Kl)o"), split("\\w(?=\\w\\K)"),
                                             split("a\\Kb|l\\Ko"))),
        "regex-slow": with_step(split("(a|a)*+b|((a+)+)+$x")),
        "regex-slow-match": with_step(split(slow)),
        "regex-many": with_step(steps(*[split(slow, "Contiguous")] * 30)),
        "regex-recursive": with_step(split("(?R)?a|(?1)(a(?1)?)")),
        "regex-nested": with_step(split("(" * 240 + "a" + ")*" * 240)),
        "regex-named": with_step(split("".join(f"(?<g{i}>" for i in range(200)) + "a" + ")*" * 200)),
        "regex-backreference": with_step(split("(a)\\1")),
        "regex-large": with_step(split("(?:a{0,500}){0,100}")),
        "regex-callout": with_step(split("(*LIMIT_MATCH=1)a+(?C1)b")),
        "regex-long": with_step(split("a" * 9000)),
        "string-empty": with_step(split("", kind="String")),
        "ignore-merges": model(ignore_merges=True, unk_token="!"),
        "merges-odd": model(merges=["a b", "ab", ["a"], ["a", "b", "c"], [" ", ""]]),
        "merges-of-nothing": model(merges=["a a", " a", "a ", "aa aa", ["aa", "a"], ["", ""]]),
        "vocab-of-texts": model(vocab={"a": 0, "b": "x", "c": 2**33}),
        "suffix": model(end_of_word_suffix="</w>"),
        "model-unigram": model(type="Unigram"),
        "deep": b"--- tokenizer.json\n" + text(base).encode()[:-1] + b',"post_processor":' +
                nested(900, '{"type":"Sequence","processors":[', "]}").encode() + b"}",
    }


# ---- vocabularies in GGUF ----

def gguf_encode_seeds():
    def texts(name, values):
        return key(name, 9, array(8, len(values), b"".join(string(v) for v in values)))

    def vocabulary(model, tokens, types=None, *more, text=b""):
        types = [1] * len(tokens) if types is None else types
        return gguf([key("tokenizer.ggml.model", 8, string(model)),
                     texts("tokenizer.ggml.tokens", tokens),
                     key("tokenizer.ggml.token_type", 9,
                         array(5, len(types), struct.pack(f"<{len(types)}i", *types))), *more],
                    data=text + b"\0")

    def pre(name):
        return key("tokenizer.ggml.pre", 8, string(name))

    def scores(values):
        return key("tokenizer.ggml.scores", 9,
                   array(6, len(values), struct.pack(f"<{len(values)}f", *values)))

    alphabet = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "Ã", "©"]
    merged = ["he", "ll", "hell", "Ġw", "or", "Ġwor", "12"]
    merges = texts("tokenizer.ggml.merges", ["h e", "l l", "he ll", "Ġ w", "o r", "Ġw or", "1 2"])
    special = ["<s>", "</s>", "<|im_end|>", "<|im"]

    def bpe(name, text=b"", *more):
        return vocabulary("gpt2", alphabet + merged + special, [1] * 105 + [3, 3, 1, 4], pre(name),
                          merges, *more, text=text)

    spm = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁w", "he", "ll",
           "hell"]
    spm_types = [2, 3, 3] + [6] * 256 + [1] * 5
    spm_scores = [0.0] * 259 + [-1, -2, -3, -4, -5]
    rules = ["default", "llama-bpe", "qwen2", "qwen35", "gpt-2", "smollm", "falcon", "deepseek-llm",
             "deepseek-coder", "deepseek-v3", "spark2_5", "youtu", "tekken", "gpt-4o", "tiny_aya",
             "kimi-k2", "superbpe", "chameleon", "bloom", "viking", "afmoe", "laguna", "exaone-moe",
             "minicpm5", "jais-2", "granite-embed-multi-97m", "seed-coder", "ufakzeka", "glm4",
             "sarvam-moe"]
    return {
        **{f"pre-{name}": bpe(name, "hello wor 1234567\u0663½ 中文ひ가 É'LL\n/".encode())
           for name in rules},
        "spm": vocabulary("llama", spm, spm_types, scores(spm_scores), text=b"hello  w\xff</s>he"),
        "spm-bare": vocabulary("llama", ["a", "b", "ab"], None, text=b"abc"),
        "spm-nan": vocabulary("llama", ["a", "b", "ab", "ba"], None,
                              scores([0, float("nan"), float("nan"), -0.0]), text=b"abababab"),
        "gemma": vocabulary("gemma4", ["▁", "a", "\n", "\n\n", "<0xFF>"], [1, 1, 1, 1, 6],
                            texts("tokenizer.ggml.merges", ["▁ a", "a \n"]), text=b" a\n\n\xff"),
        "byte-short": vocabulary("llama", ["", "<0", "<0x", "<0xG", "<0xFFF>"], [6] * 5),
        "empty-tokens": vocabulary("llama", ["", "[EMPTY_2]", "x"], [3, 3, 4]),
        "empty-twice": vocabulary("llama", ["", "[EMPTY_0]"], [3, 3]),
        "same-tokens": vocabulary("llama", ["a", "a"]),
        "types-short": vocabulary("llama", ["a", "b"], [1]),
        "types-wild": vocabulary("llama", ["a", "b", "c"], [-1, 7, 2**31 - 1]),
        "token-not-utf8": vocabulary("gpt2", [b"\xc4", b"\xff"], None, merges, text=b"\xff "),
        "no-merges": vocabulary("gpt2", ["a"], None, pre("gpt-2")),
        "kimi-no-merges": vocabulary("gpt2", ["a"], None, pre("kimi-k2"), text=b"aa"),
        "merges-odd": vocabulary("gpt2", ["a", "aa"], None, pre("gpt-2"),
                                 texts("tokenizer.ggml.merges", ["a a", "", " ", "a", " a", "a ",
                                                                 "a a a", "  a"]),
                                 text=b"aaaa"),
        "special-overlap": vocabulary("llama", ["aa", "aab", "ba", "a", "b"], [4, 4, 4, 4, 4],
                                      text=b"aabaaabab"),
        "strip": vocabulary("llama", ["<s>", "</s>", "<|end|>", "a"], [3, 3, 3, 1],
                            key("general.name", 8, string("Phi-3 mini")),
                            text=b"</s> \t a <|end|>  "),
        "strip-left": bpe("jina-v2-de", b"a  <mask> b"),
        "ids-wild": vocabulary("llama", ["a"], None, u32("tokenizer.ggml.bos_token_id", 2**32 - 1),
                               key("tokenizer.ggml.eos_token_id", 6,
                                   struct.pack("<f", float("nan"))),
                               key("tokenizer.ggml.add_eos_token", 7, b"\1")),
        "pre-unknown": bpe("nonsense"),
        "model-unknown": vocabulary("bert", ["a"]),
        "tokens-numbers": gguf([key("tokenizer.ggml.model", 8, string("llama")),
                                key("tokenizer.ggml.tokens", 9, array(5, 1, bytes(4)))]),
        "harmony": vocabulary("llama", ["<|end|>", "<|call|>", "<|return|>", "<|start|>", "</s>",
                                        "<|tool_response>"], [3, 3, 3, 3, 3, 3],
                              text=b"<|end|></s>"),
    }


# ---- extents ----

def extents(*lines, size=4096):
    return "".join(f"{line}\n" for line in ("quantfs extents 1", f"size {size}", *lines)).encode()


def extents_seeds():
    proof = f"{2**60:016x} {U64:016x}"
    objects = ["object 0 /cache/v2/00/00", "object 1 /cache/v2/00/ 01"]
    tiles = [f"tile 32 1000 0 4112 {proof}", "tile 1032 10 -", f"tile 2048 2048 1 0 {proof}"]
    valid = extents(*objects, *tiles)
    return {
        "valid": valid,
        "no-tiles": extents(size=0),
        "truncated": valid[:-1],
        "version-2": valid.replace(b"extents 1", b"extents 2"),
        "size-2-63": extents(size=2**63),
        "size-2-64": extents(size=2**64),
        "tile-2-64": extents(f"tile {U64} {U64} -", size=2**63 - 1),
        "place-2-63": extents(*objects, f"tile 0 1 0 {2**63 - 1} {proof}"),
        "length-0": extents("tile 0 0 -"),
        "overlap": extents("tile 0 10 -", "tile 9 10 -"),
        "unsorted": extents("tile 10 10 -", "tile 0 10 -"),
        "past-end": extents("tile 4096 1 -"),
        "object-unnamed": extents(f"tile 0 1 0 0 {proof}"),
        "object-2-32": extents(*objects, f"tile 0 1 {2**32 - 1} 0 {proof}"),
        "object-skipped": extents(objects[1]),
        "object-late": extents(*tiles[1:2], *objects),
        "path-relative": extents("object 0 cache/v2/00/00"),
        "path-nul": extents("object 0 /\0/a"),
        "hex-short": extents(*objects, f"tile 0 1 0 0 {proof[:-1]}"),
        "hex-capital": extents(*objects, f"tile 0 1 0 0 {proof.upper()}"),
        "zeros-leading": extents("tile 00 01 -"),
    }


# ---- config.json, for plans ----

def sketch_seeds():
    def config(path, **changes):
        return text(json.loads((DATA / path).read_text()) | changes).encode()
    dense, sparse = "configs/llama-33b.json", "configs/mixtral-8x7b.json"
    large = {"hidden_size": 2**20, "intermediate_size": 2**20, "num_attention_heads": 2**14,
             "num_key_value_heads": 2**14, "vocab_size": 2**32 - 1}
    return {
        "llama": config(dense),
        "grouped": config("configs/llama-2-70b.json"),
        "experts": config(sparse),
        "tied": config("demo-qwen2/config.json"),
        "gemma": config(dense, architectures=["Gemma3ForCausalLM"], tie_word_embeddings=None),
        "largest": config(dense, num_hidden_layers=4096, **large),
        "weights-2-66": config(sparse, num_hidden_layers=4096, num_local_experts=1024, **large),
        "layers-2-32": config(dense, num_hidden_layers=2**32 - 1),
        "width-2-63": config(dense, hidden_size=2**63 - 1),
        "width-2-64": config(dense).replace(b":6656", b":18446744073709551616"),
        "width-prime": config(dense, hidden_size=65537, num_attention_heads=1),
        "heads-more-than-width": config(dense, num_attention_heads=2**20),
        "heads-0": config(dense, num_attention_heads=0),
        "head-odd": config(dense, head_dim=1),
        "experts-negative": config(sparse, num_local_experts=-1),
        "experts-1": config(sparse, num_local_experts=1, num_experts_per_tok=1),
        "experts-text": config(sparse, num_local_experts="8"),
        "class-number": config(dense, architectures=[7]),
        "nested": nested(3000).encode(),
        "empty": b"",
    }


# ---- what quantfs-run reads ----

def baseline_seeds():
    def head(context, vocab, chunks):
        return b"_logits_" + struct.pack("<3I", context, vocab, chunks)

    def row(vocab, scale, least):
        codes = [(i * 7919 + 13) % 65536 for i in range(vocab)]
        return struct.pack(f"<2f{vocab}H", scale, least, *codes) + bytes(vocab % 2 * 2)

    def base(context=26, vocab=5, chunks=9, scale=16 / 65535, least=-17.0, count=None):
        rows = chunks * (context - 1 - context // 2) if count is None else count
        ids = struct.pack(f"<{context * chunks}I", *(i % vocab for i in range(context * chunks)))
        return head(context, vocab, chunks) + ids + row(vocab, scale, least) * rows

    good = base()
    return {
        "valid": good,
        "one-id": base(vocab=1, scale=0.0, least=0.0),
        "even": base(vocab=6),
        "shortest": base(context=3, chunks=100),
        "few": base(chunks=1),
        "flat": base(scale=0.0, least=-1.6),
        "truncated": good[:-1],
        "trailing": good + b"\0",
        "rows-missing": base(count=7),
        "empty": b"",
        "magic": b"_logits-" + good[8:],
        "head-short": good[:15],
        "context-2": head(2, 5, 9) + bytes(200),
        "context-2-32": head(2**32 - 1, 5, 9) + bytes(200),
        "vocab-0": head(26, 0, 9) + bytes(200),
        "vocab-2-32": head(26, 2**32 - 1, 9) + bytes(200),
        "chunks-0": head(26, 5, 0),
        "all-2-32": head(2**32 - 1, 2**32 - 1, 2**32 - 1),
        "size-wraps": head(2**20, 2**31 - 1, 2**32 - 1) + bytes(200),
        "scale-nan": base(scale=float("nan")),
        "scale-inf": base(scale=float("inf")),
        "scale-negative": base(scale=-1.0),
        "least-nan": base(least=float("nan")),
        "least-inf": base(least=float("-inf")),
        "least-low": base(least=-40.0),
        "least-high": base(least=1.0),
        "impossible": base(scale=0.0, least=-17.6),
    }


def facts_seeds():
    sizes = {"block_count": 2, "embedding_length": 64, "feed_forward_length": 96,
             "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 128}

    def model(arch="llama", *more, template=None, **changes):
        numbers = {k: v for k, v in {**sizes, **changes}.items() if v is not None}
        keys = [key("general.architecture", 8, string(arch)),
                *(u32(f"{arch}.{name}", v) for name, v in numbers.items()), *more]
        if template is not None:
            tokens = ["<unk>", "<s>", "</s>", "a"]
            keys += [key("tokenizer.ggml.model", 8, string("llama")),
                     key("tokenizer.ggml.tokens", 9,
                         array(8, len(tokens), b"".join(map(string, tokens))))]
        if template:
            keys += [key("tokenizer.chat_template", 8, string(template))]
        return gguf(keys)

    def real(name, v):
        return key(name, 6, struct.pack("<f", v))

    def scaling(kind, factor=2.0):
        return (key("llama.rope.scaling.type", 8, string(kind)),
                real("llama.rope.scaling.factor", factor))

    signs = {"chatml": "<|im_start|>", "phi4": "<|im_start|><|im_sep|>",
             "mistral-v1": "' [INST] ' + system_message", "mistral-v3": "[INST][AVAILABLE_TOOLS]",
             "mistral-v7": "[INST][SYSTEM_PROMPT] ", "llama2": "[INST]content.strip()",
             "phi3": "<|assistant|><|end|>", "gemma": "<start_of_turn>",
             "zephyr": "<|user|>\n' + message['content'] + eos_token",
             "llama3": "<|start_header_id|><|end_header_id|>", "unknown": "{{ x }}", "none": ""}
    return {
        **{f"chat-{name}": model(template=sign) for name, sign in signs.items()},
        "chat-no-eos": model("llama", u32("tokenizer.ggml.eos_token_id", 99),
                             template=signs["zephyr"]),
        "chat-array": model("llama", key("tokenizer.chat_template", 9, array(8, 0)), template=""),
        **{f"arch-{arch}": model(arch) for arch in ("llama", "qwen2", "qwen3", "gemma3", "bert")},
        "gemma3-62": model("gemma3", block_count=62),
        "experts": model(**{"expert_count": 8, "expert_used_count": 2}),
        "experts-none-used": model(**{"expert_count": 8}),
        "experts-too-many": model(**{"expert_count": 2**31, "expert_used_count": 2}),
        "heads-0": model(**{"attention.head_count": 0}),
        "heads-3": model(**{"attention.head_count": 3}),
        "heads-2-32": model(**{"attention.head_count": 2**32 - 1,
                               "attention.head_count_kv": 2**32 - 1,
                               "attention.key_length": 2, "attention.value_length": 2}),
        "heads-kv-0": model(**{"attention.head_count_kv": 0}),
        "head-dim-odd": model(**{"attention.key_length": 15}),
        "head-dim-2-32": model(**{"attention.key_length": 2**32 - 2}),
        "rope-beyond-head": model(**{"rope.dimension_count": 18}),
        "rope-none": model("llama", *scaling("none")),
        "rope-linear": model("llama", *scaling("linear")),
        "rope-linear-nan": model("llama", *scaling("linear", float("nan"))),
        "rope-yarn": model("llama", *scaling("yarn")),
        "layers-2-32": model(block_count=2**32 - 1),
        "width-2-32": model(embedding_length=2**32 - 1),
        "ffn-2-32": model(feed_forward_length=2**32 - 1),
        "numbers-nan": model("llama", *(real(f"llama.{name}", float("nan")) for name in sizes),
                             **dict.fromkeys(sizes)),
        "numbers-negative": model("llama", *(real(f"llama.{name}", -1e30) for name in sizes),
                                  **dict.fromkeys(sizes)),
        "no-arch": gguf([u32("llama.block_count", 2)]),
        "no-keys": model(**dict.fromkeys(sizes)),
    }


# ---- stripes of an SpQR matrix ----

def factor_seeds():
    def factor(columns=3, order=(2, 0, 1), version=1, kind=1, size=None, magic=b"QFSCALIB"):
        head = struct.pack("<8s2If3IQ2I32sQ", magic, version, kind, 1.0, 0, 1, 0, columns, 512, 8,
                           bytes(32), 4096)
        body = struct.pack(f"<{len(order)}I", *order) + struct.pack("<6f", 1, 0, 0, 1, 0, 1)
        data = head + body + bytes(32)
        return data if size is None else data[:size]

    return {
        "valid": factor(),
        "one": factor(1, (0,))[:88 + 4 + 4 + 32],
        "twice": factor(order=(1, 1, 0)),
        "beyond": factor(order=(0, 1, 3)),
        "order-2-32": factor(order=(0, 1, 2**32 - 1)),
        "hessian": factor(kind=2),
        "version-2": factor(version=2),
        "magic": factor(magic=b"QFSTILES"),
        "head-short": factor(size=87),
        "cut": factor(size=-1),
        "longer": factor() + b"\0",
        "columns-0": factor(0),
        "columns-4": factor(4),
        "columns-2-32": factor(2**32),
        "columns-2-64": factor(2**64 - 1),
        "empty": b"",
    }


def repack_seeds():
    def input(kind, rows, columns, at, size, content=b"\xa5" * 9000):
        return struct.pack("<BBBHH", kind, rows, columns, at, size) + content

    def stripe(ends, numbers):  # of 16 columns
        return bytes(464) + struct.pack("<16I3H10x3e10x", *ends, *numbers, 0.5, -1, 0)

    good = stripe((0,) * 15 + (2,), (3, 15, 0))
    return {
        "spqr": input(0, 1, 0, 400, 500, good + good),
        "spqr-wide": input(0, 0, 3, 0, 999, bytes(464)),
        "spqr-any-bytes": input(0, 3, 3, 100, 100),
        "spqr-ends-fall": input(0, 0, 0, 0, 999, stripe((3, 1) + (3,) * 14, (3, 15, 0))),
        "spqr-end-beyond-slots": input(0, 0, 0, 0, 999, stripe((4,) * 16, (3, 15, 0))),
        "spqr-end-2-32": input(0, 1, 0, 0, 999, good + stripe((2 ** 32 - 1,) * 16, (3, 15, 0))),
        "spqr-column-in-padding": input(0, 0, 0, 0, 999, stripe((0,) * 15 + (2,), (3, 16, 0))),
        "spqr-last-offset": input(0, 3, 0, 999, 0, good * 4),
        **{f"gptq-{kind}": input(kind, 1, 2, 333, 20 * kind) for kind in (1, 2, 7, 8, 13)},
        "gptq-groups-of-32": input(4, 1, 1, 0, 0),
        "awq": input(16, 1, 2, 333, 700),
        **{f"scaled-{i}": input(17 + i, i % 4, (i + 1) % 4, 333, 100 * i) for i in range(7)},
        "short": b"\0\0\0",
    }


def spqr_seeds():
    def stripe(bits=3, columns=100, budget=131, ends=(0,) * 15 + (3,), numbers=(0, 50, 99),
               dense=b"\xa5"):
        slots = int(budget / 65535 * 16 * columns + 0.5)
        unfilled = [0] * (slots - len(numbers))
        planes = (struct.pack(f"<{slots}H", *numbers, *unfilled),
                  struct.pack(f"<{slots}e", *[0.5] * len(numbers), *unfilled))
        outliers = struct.pack("<16I", *ends) + b"".join(p + bytes(-len(p) % 16) for p in planes)
        supertile = {2: 336, 3: 464, 4: 592}.get(bits, 0)
        return struct.pack("<BHH", bits, columns, budget) + \
            dense * supertile * -(-columns // 64) + (outliers if slots else b"")

    valid = stripe()
    return {
        "valid": valid,
        "two-bits": stripe(bits=2),
        "four-bits": stripe(bits=4),
        "five-bits": stripe(bits=5),
        "no-slots": stripe(budget=0, numbers=()),
        "all-slots": stripe(columns=3, budget=65535, ends=range(3, 51, 3), numbers=[0, 1, 2] * 16),
        "no-columns": stripe(columns=0, numbers=(), budget=0),
        "truncated": valid[:-1],
        "too-long": valid + b"\0",
        "not-a-number": stripe(dense=b"\xff"),
        "column-in-padding": stripe(numbers=(0, 50, 100)),
        "column-twice": stripe(numbers=(0, 50, 50)),
        "columns-fall": stripe(numbers=(50, 0, 99)),
        "ends-fall": stripe(ends=(3,) + (0,) * 15),
        "end-beyond-slots": stripe(ends=(0,) * 15 + (4,)),
        "end-2-32": stripe(ends=(0,) * 15 + (2**32 - 1,)),
    }


# ---- adapters ----

def adapter(changes, tensors, readme=None, dtype="F32"):
    """adapter_config.json, and tensors by name with their shapes."""
    out = files(adapter_config_json={"peft_type": "LORA", "r": 4, "lora_alpha": 8} | changes,
                tensors_json={name: [dtype, *shape] for name, shape in tensors.items()})
    return out + (b"\n--- README.md\n" + readme if readme else b"")


def pair(module, a, b, kind="{}.lora_{}.weight"):
    return {f"base_model.model.{kind.format(module, x)}": s for x, s in (("A", a), ("B", b))}


def lora_seeds():
    q, k, down = (f"model.layers.0.{m}" for m in ("self_attn.q_proj", "self_attn.k_proj",
                                                  "mlp.down_proj"))
    linear = pair(q, (4, 64), (64, 4)) | pair(k, (4, 64), (32, 4)) | pair(down, (4, 128), (64, 4))
    embedding = pair("model.embed_tokens", (4, 32), (64, 4), "{}.lora_embedding_{}")
    magnitudes = {f"base_model.model.{m}.lora_magnitude_vector": (n,)
                  for m, n in ((q, 64), (k, 32), (down, 64))}
    norm, bias = "base_model.model.model.norm.weight", f"base_model.model.{q}"
    card = b"---\nbase_model: a/b-8B-lora\ntags: [lora]\n---\n"
    return {
        "valid": adapter({}, linear | embedding | {norm: (64,)}, card),
        "ranks": adapter({"rank_pattern": {"q_proj": 1, r"layers\.0\.mlp.*": 9},
                          "alpha_pattern": {"k_proj": 0.5}, "use_rslora": True},
                         pair(q, (1, 64), (64, 1)) | pair(k, (4, 64), (32, 4)) |
                         pair(down, (9, 128), (64, 9))),
        "half": adapter({}, linear | embedding, dtype="F16"),
        "whole-numbers": adapter({}, linear, dtype="I32"),
        "dora": adapter({"use_dora": True}, linear | magnitudes),
        "magnitudes-missing": adapter({"use_dora": True}, linear),
        "magnitudes-short": adapter({"use_dora": True}, linear | {
            n: (1,) for n in magnitudes}),
        "fan-in-fan-out": adapter({"fan_in_fan_out": True}, pair(q, (4, 64), (64, 4))),
        "whole": adapter({}, {"base_model.model.lm_head.weight": (32, 64), norm: (64,),
                              f"{bias}.base_layer.bias": (64,)}),
        "whole-of-another-shape": adapter({}, {norm: (3, 3, 3), "base_model.model.lm_head.weight": ()}),
        "embedding-that-grew": adapter({}, pair("model.embed_tokens", (4, 40), (64, 4),
                                               "{}.lora_embedding_{}") |
                                       {"base_model.model.model.embed_tokens.base_layer.weight":
                                        (40, 64)}),
        "rank-0": adapter({}, pair(q, (0, 64), (64, 0))),
        "rank-2-16": adapter({"r": 65536}, pair(q, (65536, 64), (64, 65536))),
        "rank-of-others": adapter({"r": 5}, linear),
        "rank-below-0": adapter({"r": -1}, linear),
        "alpha-0": adapter({"lora_alpha": 0}, linear),
        "alpha-huge": adapter({"lora_alpha": 1e308}, linear),
        "alpha-no-number": adapter({"lora_alpha": "8"}, linear),
        "a-alone": adapter({}, {n: s for n, s in linear.items() if "lora_A" in n}),
        "shapes": adapter({}, pair(q, (4, 63), (64, 4))),
        "one-dimension": adapter({}, pair(q, (64,), (64,))),
        "unused": adapter({}, {"base_model.model.x": (1,), "": (1,)}),
        "pattern-slow": adapter({"rank_pattern": {"(.*)*(.*)*(.*)*x": 4}}, linear),
        "pattern-broken": adapter({"rank_pattern": {"(": 4}}, linear),
        "pattern-no-object": adapter({"rank_pattern": [1], "alpha_pattern": 7}, linear),
        "unsupported": adapter({"layer_replication": [[0, 1]]}, linear),
        "another-kind": adapter({"peft_type": "IA3"}, linear),
        "no-tensors": adapter({}, {}),
        "not-json": b"--- adapter_config.json\n{\n--- tensors.json\n{}",
        "no-object": b"--- adapter_config.json\n[]\n--- tensors.json\n{}",
    }


SEEDS = {"awq_scales": awq_seeds, "baseline": baseline_seeds, "extents": extents_seeds,
         "facts": facts_seeds, "factor": factor_seeds,
         "gguf": gguf_seeds, "gguf_encode": gguf_encode_seeds, "hf_encode": hf_encode_seeds,
         "imatrix": imatrix_seeds, "lora": lora_seeds, "model": model_seeds,
         "packed": packed_seeds, "repack": repack_seeds,
         "safetensors": safetensors_seeds, "safetensors_index": index_seeds,
         "sentencepiece": sentencepiece_seeds,
         "sketch": sketch_seeds, "spqr": spqr_seeds, "stripe": spqr_seeds, "torch": torch_seeds}


def main():
    for target, make in SEEDS.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make().items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
