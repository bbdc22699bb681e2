# SPDX-License-Identifier: MIT
"""Adapters: models of their own in a mount, whose bytes are those of a merged checkpoint, which
numpy makes (tests/adapters.py). Which base they are merged onto, what is refused, what happens when
either changes, and the adapter as a file by itself, which llama.cpp takes."""

import errno
import json
import os
import random
import shutil

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapters
import torchfile
from architectures import make as make_architecture
from adapters import stored
from conftest import DATA, convert, run, wait_until
from stores import listed, read_gguf

DEMOS = ("demo-llama", "demo-qwen2")
RANKS = {"layers.0.self_attn.q_proj": 3, r"layers\.1\..*": 11, "down_proj": 4}
ALPHAS = {"layers.2.mlp.up_proj": 7, r"self_attn\.(k|v)_proj": 1.5}
EMBEDDING = "model.embed_tokens.weight"


def read_base(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(adapters.read(path))
    return found


def through(weights):
    """As they are once they are stored."""
    return {name: (adapters.through(x, dtype), dtype) for name, (x, dtype) in weights.items()}


def write(folder, like, weights):
    """A checkpoint with these weights, and else the files of another."""
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    header, data = {}, b""
    for name, (x, dtype) in weights.items():
        raw = stored(x, dtype).tobytes()
        header[name] = {"dtype": dtype, "shape": x.shape,
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def settings(folder, **changed):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def problem(store, name="tuned"):
    return listed(store)[name]["problem"]


class Pair:
    """A store with a base and an adapter of it, and a checkpoint that is both merged."""

    def __init__(self, tmp_path, base="demo-llama", dtype=None, **knobs):
        self.store, self.base = tmp_path / "store", tmp_path / "store" / base
        weights = read_base(DATA / base)
        if dtype:
            weights = through({name: (x, dtype) for name, (x, _) in weights.items()})
            write(self.base, DATA / base, weights)
        else:
            shutil.copytree(DATA / base, self.base)
        self.adapter = adapters.make(self.store / "tuned", weights, base_name=base, **knobs)
        self.weights = adapters.merge(self.adapter, weights)
        self.merged = write(tmp_path / "merged" / "tuned", self.base, self.weights)


CASES = {
    "plain": {},
    "ranks": {"ranks": RANKS, "alphas": ALPHAS},
    "rslora": {"ranks": RANKS, "alphas": ALPHAS, "rslora": True},
    "dora": {"ranks": RANKS, "dora": True},
    "embedding": {"embedding": True},
    "whole": {"saved": ("model.norm.weight", "model.layers.1.mlp.gate_proj.weight"),
              "roles": ("q_proj", "down_proj")},
    "half": {"half": True, "ranks": RANKS},
    "whole, half": {"half": True, "saved": (EMBEDDING,)},
    "f16": {"dtype": "F16", "ranks": RANKS},
    "f32": {"dtype": "F32", "ranks": RANKS, "dora": True},
    "biases": {"base": "demo-qwen2", "biases": True, "ranks": RANKS, "roles": ("q_proj",)},
    "qwen, bf16": {"base": "demo-qwen2", "dtype": "BF16", "rslora": True},
}


@pytest.mark.parametrize("knobs", CASES.values(), ids=CASES)
def test_a_merged_model_is_the_merged_checkpoint(mount, tmp_path, knobs):
    pair = Pair(tmp_path, **knobs)
    mnt, merged = mount(pair.store), mount(tmp_path / "merged")
    assert listed(pair.store)["tuned"]["problem"] is None
    for form in ("bf16", "f16", "f32"):
        path = f"tuned/hf/{form}/model.safetensors"
        found = adapters.read(mnt / path)
        assert set(found) == set(pair.weights)
        for name, (x, _) in through(pair.weights).items():
            assert found[name][1] == form.upper()
            assert stored(found[name][0], form.upper()).tobytes() == stored(
                x, form.upper()).tobytes(), name
        assert (mnt / path).read_bytes() == (merged / path).read_bytes()
    for recipe in ("BF16", "Q4_K_M"):
        assert read_gguf(mnt, "tuned", recipe) == read_gguf(merged, "tuned", recipe)
    tensors = os.listdir(merged / "tuned" / "tensors")
    assert sorted(os.listdir(mnt / "tuned" / "tensors")) == sorted(tensors)
    for name in tensors:
        for form in os.listdir(merged / "tuned" / "tensors" / name):
            if form in ("bf16", "f16", "f32", "q8_0", "q4_k"):
                path = f"tuned/tensors/{name}/{form}"
                assert (mnt / path).read_bytes() == (merged / path).read_bytes(), path


def test_a_merged_model_has_the_files_of_both(mount, tmp_path):
    pair = Pair(tmp_path)
    tokenizer = json.loads((DATA / "demo-llama" / "tokenizer_config.json").read_text())
    changed = json.dumps({**tokenizer, "chat_template": "{{ messages }}"})
    (pair.adapter / "tokenizer_config.json").write_text(changed)
    (pair.merged / "tokenizer_config.json").write_text(changed)
    for name in ("README.md", "config.json"): # of the adapter, and not of the model
        (pair.adapter / name).write_text("---\nlicense: mit\n---\n")
    mnt, merged = mount(pair.store), mount(tmp_path / "merged")
    own = {path.name: path.read_bytes() for path in pair.adapter.iterdir()}
    folder = mnt / "tuned" / "original"
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == own
    folder, expected = mnt / "tuned" / "hf" / "bf16", merged / "tuned" / "hf" / "bf16"
    assert sorted(os.listdir(folder)) == sorted(os.listdir(expected))
    for name in os.listdir(folder):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
        assert (folder / name).stat().st_size == (expected / name).stat().st_size
    assert b"{{ messages }}" in read_gguf(mnt, "tuned")
    assert read_gguf(mnt, "tuned") == read_gguf(merged, "tuned")
    assert b"{{ messages }}" not in read_gguf(mnt, "demo-llama")


def test_what_a_tensor_follows_from(mount, tmp_path):
    pair = Pair(tmp_path, base="demo-qwen2", ranks=RANKS, saved=("model.norm.weight",))
    mnt = mount(pair.store)
    tensors, name = mnt / "tuned" / "tensors", "model.layers.1.mlp.up_proj"
    info = json.loads((tensors / f"{name}.weight" / "info.json").read_text())
    parts = info["source"]["parts"]
    assert info["source"]["method"] == "lora"
    assert [part["name"] for part in parts] == [f"{name}.weight"] + [
        f"{adapters.PREFIX}{name}.lora_{x}.weight" for x in "AB"]
    (one,) = (path for path in pair.base.glob("*.safetensors")
              if f"{name}.weight" in adapters.read(path))
    places = [pair.store / parts[0]["file"], pair.adapter / parts[1]["file"]]
    assert places == [one, pair.adapter / "adapter_model.safetensors"]
    for place, part in zip((*places, places[1]), parts):
        x, dtype = adapters.read(place)[part["name"]]
        begin = part["offset"]
        assert place.read_bytes()[begin:begin + part["bytes"]] == stored(x, dtype).tobytes()
    for name, folder in (("model.norm.weight", pair.adapter),
                         ("model.layers.0.self_attn.q_proj.bias", pair.store)):
        source = json.loads((tensors / name / "info.json").read_text())["source"]
        begin = source["offset"]
        assert (folder / source["file"]).read_bytes()[begin:begin + source["bytes"]] == stored(
            *pair.weights[name]).tobytes()


def test_an_adapter_by_torch(mount, tmp_path):
    """Beside it lie files that a trainer leaves behind."""
    pair = Pair(tmp_path)
    path = pair.adapter / "adapter_model.safetensors"
    torchfile.write(pair.adapter / "adapter_model.bin",
                    {name: torchfile.tensor("F32", x.shape, x.tobytes())
                     for name, x in load_file(path).items()})
    path.unlink()
    (pair.adapter / "training_args.bin").write_bytes(b"no weights")
    (pair.adapter / "optimizer.pt").write_bytes(b"no weights")
    assert read_gguf(mount(pair.store), "tuned") == convert(pair.merged, "Q4_K_M")


# ---- in any order, by any means ----

def test_any_range_can_be_read_first(mount, tmp_path):
    pair = Pair(tmp_path, ranks=RANKS, dora=True, roles=("q_proj", "down_proj"))
    embedded = Pair(tmp_path / "other", embedding=True, roles=("v_proj",))
    draw = random.Random(1)
    for each in (pair, embedded):
        mnt = mount(each.store)
        for path in ("tuned/gguf/tuned-Q4_K_M.gguf", "tuned/hf/f32/model.safetensors"):
            whole = (mount(each.merged.parent) / path).read_bytes()
            with open(mnt / path, "rb", buffering=0) as file:
                for _ in range(40):
                    at = draw.randrange(len(whole))
                    n = draw.choice((1, 100, 5000, 200000))
                    assert os.pread(file.fileno(), n, at) == whole[at:at + n]


@pytest.mark.parametrize("isa", ["c", "avx2", "avx512"])
@pytest.mark.parametrize("workers", [1, 5])
def test_the_bytes_are_the_same_by_all_means(mount, tmp_path, isa, workers):
    if isa not in open("/proc/cpuinfo").read().replace("avx512f", "avx512") + " c ":
        pytest.skip(f"a processor without {isa}")
    pair = Pair(tmp_path, ranks=RANKS, embedding=True)
    mnt = mount(pair.store, f"workers={workers}", env={**os.environ, "QUANTFS_ISA": isa})
    assert read_gguf(mnt, "tuned") == convert(pair.merged, "Q4_K_M")


# ---- which base ----

def test_the_base_by_the_name_that_the_adapter_has_for_it(mount, tmp_path):
    pair = Pair(tmp_path)
    expected = convert(pair.merged, "Q4_K_M")
    os.rename(pair.base, pair.store / "unlike")
    (pair.store / "acme").mkdir()
    for place, name in (("acme/demo-llama", "acme/demo-llama"), ("acme/demo-llama", "demo-llama"),
                        ("demo-llama", "other/demo-llama"), ("demo-llama", "/home/me/demo-llama"),
                        ("demo-llama", "./demo-llama/")):
        os.rename(pair.store / "unlike", pair.store / place)
        settings(pair.adapter, base_model_name_or_path=name)
        assert read_gguf(mount(pair.store), "tuned") == expected
        os.rename(pair.store / place, pair.store / "unlike")
    # of several with one last part, the one that is named in full
    shutil.copytree(DATA / "demo-qwen2", pair.store / "zeta" / "demo-llama")
    os.rename(pair.store / "unlike", pair.store / "acme" / "demo-llama")
    settings(pair.adapter, base_model_name_or_path="acme/demo-llama")
    assert read_gguf(mount(pair.store), "tuned") == expected
    settings(pair.adapter, base_model_name_or_path="demo-llama")
    assert problem(pair.store) == (
        'its base "demo-llama" could be several models: base= says which')
    assert not (mount(pair.store) / "tuned" / "gguf").exists()


def test_the_base_by_option(mount, tmp_path):
    pair = Pair(tmp_path)
    expected = convert(pair.merged, "Q4_K_M")
    settings(pair.adapter, base_model_name_or_path="nowhere/to-be-found")
    elsewhere = tmp_path / "else where" / "base"
    shutil.copytree(pair.base, elsewhere)
    shutil.copytree(DATA / "demo-qwen2", pair.store / "demo-qwen2")
    for option in ("demo-llama", "tuned:demo-llama", "other:demo-qwen2;tuned:demo-llama",
                   "tuned:demo-llama;demo-qwen2", f"tuned:{elsewhere}", str(elsewhere)):
        mnt = mount(pair.store, f"base={option}")
        assert read_gguf(mnt, "tuned") == expected
        assert listed(mnt.point)["tuned"]["state"] == "ready" # as the mount has it
    assert problem(pair.store) == ('its base "nowhere/to-be-found" is not in the store: '
                                   "base= says where it is")
    assert convert(pair.adapter, "Q4_K_M", "--base", pair.base) == expected
    assert convert(pair.adapter, "Q4_K_M", "--base", os.path.relpath(pair.base)) == expected
    done = run("convert", pair.adapter, "-t", "Q4_K_M", "-o", tmp_path / "out", check=False)
    assert done.returncode and "nowhere/to-be-found" in done.stderr
    done = run("convert", pair.adapter, "-t", "Q4_K_M", "-o", tmp_path / "out", "--base", "no-such",
               check=False)
    assert done.returncode and 'there is no model "no-such" in the store, nor a fold' in done.stderr


def test_a_base_that_could_be_several_is_refused_at_once(tmp_path):
    pair = Pair(tmp_path)
    for group in ("a", "b"):
        shutil.copytree(pair.base, pair.store / group / "twin")
    point = tmp_path / "mnt"
    point.mkdir()
    done = run("mount", pair.store, point, "-o", "cache=none,base=twin", check=False)
    assert done.returncode and 'base=twin: "twin" could be several models' in done.stderr


@pytest.mark.parametrize("base", DEMOS)
def test_onto_nf4(mount, tmp_path, base):
    """All layers but the output, which bitsandbytes leaves as it is."""
    pair = Pair(tmp_path, base=base, ranks=RANKS, roles=(*adapters.ROLES, "lm_head"))
    expected = through(adapters.merge(pair.adapter, read_base(pair.base), onto_nf4=True))
    write(tmp_path / "onto" / "tuned", pair.base, expected)
    mnt = mount(pair.store, "onto_nf4")
    found = adapters.read(mnt / "tuned" / "hf" / "f32" / "model.safetensors")
    for name, (x, _) in expected.items():
        assert found[name][0].tobytes() == x.tobytes(), name
    made = read_gguf(mnt, "tuned")
    assert made == convert(tmp_path / "onto" / "tuned", "Q4_K_M") != convert(pair.merged, "Q4_K_M")
    assert made == convert(pair.adapter, "Q4_K_M", "--base", pair.base, "--onto-nf4")
    assert listed(mnt.point)["tuned"]["state"] == "ready"
    with open(mnt / "tuned" / "tensors" / "model.layers.1.mlp.up_proj.weight" / "f32", "rb") as file:
        whole = file.read()
    with open(mount(pair.store, "onto_nf4") / "tuned" / "tensors" /
              "model.layers.1.mlp.up_proj.weight" / "f32", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 1000, 40004) == whole[40004:41004]


# ---- what is refused ----

def tensors_changed(adapter, change):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


A = f"{adapters.PREFIX}model.layers.1.mlp.up_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")

REFUSED = {
    "no base": (lambda c: settings(c, base_model_name_or_path=None),
                "it is an adapter and does not say of what: base= can"),
    "another kind": (lambda c: settings(c, peft_type="IA3"),
                     "adapter_config.json: peft_type: adapters of type IA3 cannot be merged"),
    "a use of tokens": (lambda c: settings(c, alora_invocation_tokens=[1]),
                        "adapter_config.json: adapters with alora_invocation_tokens cannot be merged"),
    "no JSON": (lambda c: (c / "adapter_config.json").write_text("{"), "adapter_config.json: "),
    "rank": (lambda c: settings(c, rank_pattern={"layers.1.mlp.up_proj": 5}),
             'tensor "model.layers.1.mlp.up_proj.weight": its rank is 5 by the config, and 6 by A'),
    "shape": (lambda c: tensors_changed(c, lambda t: t.update({B: t[B][:-1]})),
              'tensor "model.layers.1.mlp.up_proj.weight": the adapter\'s A and B do not fit it'),
    "another vocabulary": (lambda c: tensors_changed(c, lambda t: t.update({
        adapters.PREFIX + EMBEDDING: np.zeros((1030, 256), np.float32)})),
                           f'tensor "{EMBEDDING}": the adapter has it in another shape'),
    "half of it": (lambda c: tensors_changed(c, lambda t: t.pop(B)),
                   'tensor "model.layers.1.mlp.up_proj.weight": the adapter has only some of A, B '
                   "and magnitudes for it"),
    "unused": (lambda c: tensors_changed(c, lambda t: t.update({"base_model.model.x": t[B]})),
               'tensor "base_model.model.x": the base has nothing that it is for'),
    "no magnitudes": (lambda c: settings(c, use_dora=True), 'tensor "model.layers.0.mlp.down_proj.'
                      "weight\": the adapter's magnitudes are not where use_dora says"),
    "no weights": (lambda c: (c / "adapter_model.safetensors").unlink(), "there are no weights"),
}


@pytest.mark.parametrize("change, sentence", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_said(mount, tmp_path, change, sentence):
    pair = Pair(tmp_path)
    change(pair.adapter)
    said = problem(pair.store)
    assert said == sentence or (sentence.endswith(": ") and said.startswith(sentence))
    assert sentence in run("ls", pair.store).stdout
    mnt = mount(pair.store)
    assert not (mnt / "tuned" / "gguf").exists() and not (mnt / "tuned" / "hf").exists()
    folder = mnt / "tuned" / "original" # its own files are there all the same
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == {
        path.name: path.read_bytes() for path in pair.adapter.iterdir()}
    assert convert(pair.base, "Q8_0") == read_gguf(mnt, "demo-llama", "Q8_0")


def test_a_base_that_cannot_be_added_to(tmp_path):
    pair = Pair(tmp_path)
    shutil.copytree(pair.adapter, pair.store / "first")
    settings(pair.adapter, base_model_name_or_path="first")
    assert problem(pair.store) == 'its base "first" is an adapter'
    settings(pair.adapter, base_model_name_or_path="file")
    run("convert", pair.base, "-t", "F16", "-o", pair.store / "file.gguf")
    assert problem(pair.store) == "file: it cannot be added to: it is a GGUF file"
    shutil.copytree(pair.base, pair.store / "cut")
    settings(pair.adapter, base_model_name_or_path="cut")
    (pair.store / "cut" / "model.safetensors").unlink()
    assert problem(pair.store) == "cut: it cannot be added to: there are no weights"
    settings(pair.adapter, base_model_name_or_path="tuned") # it is not its own base
    assert problem(pair.store) == ('its base "tuned" is not in the store: base= says where it is')


# ---- what changes ----

CHANGES = ("adapter", "base", "base elsewhere", "config of the base")


@pytest.mark.parametrize("where", CHANGES)
def test_what_changes_is_merged_anew(mount, tmp_path, where):
    pair = Pair(tmp_path)
    base, options = pair.base, []
    if where == "base elsewhere":
        base = tmp_path / "elsewhere"
        shutil.move(pair.base, base)
        options = [f"base={base}"]
    mnt = mount(pair.store, *options)
    path = mnt / "tuned" / "gguf" / "tuned-Q4_K_M.gguf"
    assert path.read_bytes() == convert(pair.merged, "Q4_K_M")
    weights = read_base(base)
    unchanged = convert(pair.merged, "Q8_0")
    with open(mnt / "tuned" / "gguf" / "tuned-Q8_0.gguf", "rb", buffering=0) as file:
        if where == "adapter":
            shutil.rmtree(pair.adapter)
            adapters.make(pair.adapter, weights, seed=2)
        elif where == "config of the base":
            for folder in (base, pair.merged):
                (folder / "generation_config.json").write_text(json.dumps({"top_k": 7}))
        else:
            weights = through({name: (x / 2, dtype) for name, (x, dtype) in weights.items()})
            write(tmp_path / "new", base, weights)
            os.replace(tmp_path / "new" / "model.safetensors", base / "model.safetensors")
        shutil.rmtree(pair.merged)
        write(pair.merged, base, adapters.merge(pair.adapter, weights))
        expected = convert(pair.merged, "Q4_K_M")

        def is_new():
            try:
                return path.read_bytes() == expected
            except OSError as e:
                assert e.errno in (errno.EIO, errno.ENOENT, errno.ESTALE)
                return False

        wait_until(is_new)
        if where == "config of the base": # the weights are what they were
            assert os.pread(file.fileno(), len(unchanged), 0) == unchanged
        else:
            with pytest.raises(OSError) as failed:
                os.pread(file.fileno(), 4096, os.fstat(file.fileno()).st_size - 5000)
            assert failed.value.errno == errno.EIO
    # without its base it has its own files alone
    os.rename(base, tmp_path / "gone")
    wait_until(lambda: not path.exists())
    own = mnt / "tuned" / "original" / "adapter_config.json"
    assert own.read_bytes() == (pair.adapter / "adapter_config.json").read_bytes()
    os.rename(tmp_path / "gone", base)
    wait_until(path.exists)
    assert path.read_bytes() == expected


def test_a_base_may_come_later(mount, tmp_path):
    pair = Pair(tmp_path)
    os.rename(pair.base, tmp_path / "later")
    mnt = mount(pair.store)
    path = mnt / "tuned" / "gguf" / "tuned-Q4_K_M.gguf"
    assert os.listdir(mnt / "tuned") == ["original", "tensors"] and not path.exists()
    # of another shape first
    shutil.copytree(DATA / "demo-qwen2", pair.base)
    wait_until((mnt / "demo-llama").exists)
    assert not path.exists()
    shutil.rmtree(pair.base)
    os.rename(tmp_path / "later", pair.base)
    wait_until(path.exists)
    assert path.read_bytes() == convert(pair.merged, "Q4_K_M")


# ---- the adapter as a file of its own ----

CARD = """---
base_model: acme/Demo-Llama-8B-v1.0
license: apache-2.0
tags:
- lora
datasets: [a/b-7B-lora]
---
What it is good for.
"""
NORMS = ("model.norm.weight", "model.layers.1.input_layernorm.weight")
GGUF_ROLES = dict(zip(adapters.ROLES, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate",
                                       "ffn_up", "ffn_down")))


def to_pairs(b, heads):
    """The order of rows that llama.cpp's RoPE takes."""
    return b.reshape(heads, 2, b.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(b.shape)


def lora_tensors(pair):
    """name -> values, in the order of the adapter's file, norms first."""
    adapter = load_file(pair.adapter / "adapter_model.safetensors")
    config = json.loads((pair.adapter / "adapter_config.json").read_text())
    model = json.loads((pair.base / "config.json").read_text())
    norms, pairs = {}, {}
    for name, a in sorted(adapter.items()):
        name = name.removeprefix(adapters.PREFIX)
        module, _, kind = name.partition(".lora_")
        if name in NORMS:
            name = {"model.norm.weight": "output_norm.weight"}.get(name, "blk.1.attn_norm.weight")
            norms[name] = a.astype(np.float32)
        if kind not in ("A.weight", "embedding_A"):
            continue
        b = adapter[adapters.PREFIX + name.replace("_A", "_B")].astype(np.float32)
        if kind == "embedding_A":
            to, a = "token_embd", np.ascontiguousarray(a.T)
        else:
            _, _, layer, role = module.split(".", 3)
            to = f"blk.{layer}.{GGUF_ROLES[role]}"
            if model["model_type"] == "llama" and role[-6:] in ("q_proj", "k_proj"):
                heads = "num_attention_heads" if "q_" in role else "num_key_value_heads"
                b = to_pairs(b, model[heads])
        rank = b.shape[1]
        factor = float(adapters.scale(config, module)) / (config["lora_alpha"] / rank)
        if abs(factor - 1) > 1e-5:
            b = b * np.float32(factor)
        pairs[f"{to}.weight.lora_a"] = a.astype(np.float16)
        pairs[f"{to}.weight.lora_b"] = b.astype(np.float16)
    return norms | pairs


LORAS = {
    "plain": {},
    "ranks": {"ranks": {**RANKS, "k_proj": 1}},
    "embedding": {"embedding": True},
    "norms": {"saved": NORMS},
    "half": {"half": True, "base": "demo-qwen2"},
    "alphas": {"ranks": RANKS, "alphas": ALPHAS},
    "rslora": {"rslora": True, "base": "demo-qwen2"},
}


@pytest.mark.parametrize("knobs", LORAS.values(), ids=LORAS)
def test_an_adapter_is_a_file_of_its_own(mount, tmp_path, knobs):
    pair = Pair(tmp_path, **knobs)
    mnt = mount(pair.store)
    path = mnt / "tuned" / "gguf" / "tuned-lora-F16.gguf"
    assert path.name in os.listdir(path.parent)
    assert path.stat().st_size == len(path.read_bytes())
    assert path.read_bytes() == convert(pair.adapter, "lora-F16", "--base", pair.base)
    reader, expected = gguf.GGUFReader(path), lora_tensors(pair)
    assert [t.name for t in reader.tensors] == list(expected)
    for t in reader.tensors:
        x = expected[t.name]
        assert t.shape.tolist() == list(x.shape[::-1]), t.name
        assert t.tensor_type.name == ("F32" if x.ndim == 1 else "F16")
        assert t.data.tobytes() == x.tobytes(), t.name
    arch = "llama" if knobs.get("base") != "demo-qwen2" else "qwen2"
    keys = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(keys.items()) == list({
        "general.architecture": arch, "general.type": "adapter", "adapter.type": "lora",
        "general.name": "Tuned", "adapter.lora.alpha": 10.0,
        "general.quantization_version": 2}.items())
    listing = listed(pair.store)["tuned"]
    assert listing["lora_bytes"] == path.stat().st_size and listing["lora_refused"] is None
    attributes = {name: os.getxattr(path, name).decode() for name in os.listxattr(path)}
    reference = os.getxattr(path.with_name("tuned-Q8_0.gguf"), "user.quantfs.reference").decode()
    assert attributes.pop("user.quantfs.reference", reference) == reference
    folded = {"alphas", "rslora"} & set(knobs) # the converter would leave it out
    assert folded or "user.quantfs.reference" in os.listxattr(path)
    assert attributes == {"user.quantfs.format": "gguf", "user.quantfs.recipe": "lora-F16",
                          "user.quantfs.source": "tuned"}


def test_an_adapters_keys_are_of_its_own_card_and_folder(mount, tmp_path):
    """Sizes in names are not taken to be those of the adapter; "lora" is no name."""
    pair = Pair(tmp_path)
    os.rename(pair.adapter, pair.store / "some-8B-lora-v2")
    folder = pair.store / "some-8B-lora-v2"
    (folder / "README.md").write_text(CARD)
    (folder / "generation_config.json").write_text(json.dumps({"top_k": 7}))
    path = mount(pair.store) / folder.name / "gguf" / f"{folder.name}-lora-F16.gguf"
    keys = {name: f.contents() for name, f in gguf.GGUFReader(path).fields.items()
            if not name.startswith("GGUF.")}
    assert list(keys.items()) == list({
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
        "general.sampling.top_k": 7, "general.name": "Some 8B Lora v2", "general.version": "v2",
        "general.basename": "some", "general.size_label": "8B", "general.license": "apache-2.0",
        "general.base_model.count": 1, "general.base_model.0.name": "Demo Llama 8B v1.0",
        "general.base_model.0.version": "v1.0", "general.base_model.0.organization": "Acme",
        "general.base_model.0.repo_url": "https://huggingface.co/acme/Demo-Llama-8B-v1.0",
        "general.dataset.count": 1, "general.dataset.0.name": "B 7B Lora",
        "general.dataset.0.organization": "A",
        "general.dataset.0.repo_url": "https://huggingface.co/a/b-7B-lora",
        "general.tags": ["lora"], "adapter.lora.alpha": 10.0,
        "general.quantization_version": 2}.items())


def test_an_adapters_file_can_be_hidden(mount, tmp_path):
    pair = Pair(tmp_path, roles=("q_proj",))
    assert os.listdir(mount(pair.store, "forms=lora-F16") / "tuned" / "gguf") == [
        "tuned-lora-F16.gguf"]
    path = mount(pair.store, "forms=Q8_0") / "tuned" / "gguf"
    assert os.listdir(path) == ["tuned-Q8_0.gguf"]
    assert not (path / "tuned-lora-F16.gguf").exists()
    assert not (mount(pair.store) / "demo-llama" / "gguf" / "demo-llama-lora-F16.gguf").exists()


WITHOUT = {
    "dora": ({"dora": True},
             'tensor "model.layers.0.mlp.down_proj.weight": it has magnitudes (DoRA)'),
    "biases": ({"biases": True, "base": "demo-qwen2"},
               'tensor "model.layers.0.self_attn.k_proj.bias": it is trained as a whole'),
    "whole": ({"saved": (EMBEDDING,)}, f'tensor "{EMBEDDING}": it is trained as a whole'),
    "nothing": ({"saved": NORMS, "roles": ("none",)}, "it adds to no tensor"),
}


@pytest.mark.parametrize("knobs, sentence", WITHOUT.values(), ids=WITHOUT)
def test_what_llama_cpp_has_no_place_for_is_only_merged(mount, tmp_path, knobs, sentence):
    pair = Pair(tmp_path, **knobs)
    listing = listed(pair.store)["tuned"]
    assert listing["lora_bytes"] is None and listing["lora_refused"] == sentence
    assert listing["state"] == "ready" and listing["problem"] is None
    assert f"  no gguf/tuned-lora-F16.gguf: {sentence}\n" in run("ls", pair.store).stdout
    assert "tuned-lora-F16.gguf" not in os.listdir(mount(pair.store) / "tuned" / "gguf")
    done = run("convert", pair.adapter, "-t", "lora-F16", "-o", tmp_path / "out", "--base",
               pair.base, check=False)
    assert done.returncode and sentence in done.stderr


@pytest.mark.parametrize("roles", [("w1", "w2", "w3", "q_proj"), ("0.w1", "3.w2", "gate")],
                         ids=["all", "some"])
def test_experts(mount, tmp_path, roles):
    """Also where it adds to some of a layer's experts alone."""
    base = tmp_path / "store" / "moe"
    make_architecture(base, "Mixtral-8x7B-v0.1")
    weights = read_base(base)
    adapter = adapters.make(tmp_path / "store" / "tuned", weights, base_name="moe", roles=roles)
    write(tmp_path / "merged" / "tuned", base, adapters.merge(adapter, weights))
    (tmp_path / "merged" / "tuned" / "README.md").unlink() # the base's, which is none of its own
    mnt, merged = mount(tmp_path / "store"), mount(tmp_path / "merged")
    for path in ("tuned/hf/bf16/model.safetensors", "tuned/gguf/tuned-BF16.gguf",
                 "tuned/gguf/tuned-Q4_K_M.gguf"):
        assert (mnt / path).read_bytes() == (merged / path).read_bytes()
    assert listed(tmp_path / "store")["tuned"]["lora_refused"].endswith("one of several experts")
