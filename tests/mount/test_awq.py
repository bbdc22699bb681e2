# SPDX-License-Identifier: MIT
"""AWQ with a calibration: its scales, found again by numpy; folders in a mount that have them, whose
norms, biases and matrices change together; and what that is worth."""

import errno
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess

import awq
import folders
import gguf
import models
import numpy as np
import pytest
import reference

from architectures import make
from calibration import Calibrated
from conftest import DATA, QUANTFS, convert, run
from stores import edit

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-train.txt"
FORM = "awq-4bit-g128"
INPUTS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "attn_output": ("attn_output",),
          "ffn_gate_up": ("ffn_gate", "ffn_up"), "ffn_down": ("ffn_down",)}

# GGUF's tensor of a layer -> by which input's scales its columns grow, and by which its rows shrink
RULES = {"attn_norm.weight": (None, "attn_qkv"), "attn_q.weight": ("attn_qkv", None),
         "attn_k.weight": ("attn_qkv", None), "attn_v.weight": ("attn_qkv", "attn_output"),
         "attn_v.bias": (None, "attn_output"), "attn_output.weight": ("attn_output", None),
         "ffn_norm.weight": (None, "ffn_gate_up"), "ffn_gate.weight": ("ffn_gate_up", None),
         "ffn_up.weight": ("ffn_gate_up", "ffn_down"), "ffn_up.bias": (None, "ffn_down"),
         "ffn_down.weight": ("ffn_down", None)}
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
GEMMA = {**NAMES, "pre_feedforward_layernorm": "ffn_norm", "post_attention_layernorm": None}


def calibrate(*args, status=0):
    child = subprocess.run([RUN, "calibrate", "--json", *map(str, args)], capture_output=True,
                           text=True, timeout=300, check=False)
    assert child.returncode == status, child.stderr
    return child.stderr if status else json.loads(child.stdout)


def found(folder, own, *args):
    """A calibration with scales, and with Hessians, of a checkpoint's BF16 file."""
    file = folder / "model.gguf"
    file.write_bytes(convert(own, "BF16"))
    calibrate("-f", TEXT, "-c", 128, "-n", 2048, "--awq", "--keep-hessian", *args, "-o",
              folder / "made", file)
    return folder / "made"


def no_gqa(path):
    """As many heads of values as of queries, with biases; and more rows than are tried."""
    return models.make(path, arch="qwen2", kv_heads=4, ffn=1536, dtype="F32")


MAKERS = {"demo-llama": lambda path: shutil.copytree(DATA / "demo-llama", path),
          "no-gqa": no_gqa, "gemma": lambda path: make(path, "gemma-3-1b-it")}


@pytest.fixture(scope="module", params=MAKERS)
def model(request, tmp_path_factory):
    """(the checkpoint, its calibration)"""
    folder = tmp_path_factory.mktemp("awq")
    own = MAKERS[request.param](folder / "store" / "m")
    return own, found(folder, own)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return found(tmp_path_factory.mktemp("awq"), DATA / "demo-llama")


# ---- the search ----

def inputs_of(own):
    config = json.loads((own / "config.json").read_text())
    groups = config["num_attention_heads"] != config["num_key_value_heads"]
    return {name: matrices for name, matrices in INPUTS.items() if name != "attn_output" or not groups}


def test_scales_are_those_of_numpy(model):
    own, made = model
    vectors, told = awq.read_scales(made / "awq.safetensors")
    layers = json.loads((own / "config.json").read_text())["num_hidden_layers"]
    sums = {t.name: t.data.astype(float) for t in gguf.GGUFReader(made / "imatrix.gguf").tensors}
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
               for t in gguf.GGUFReader(made.parent / "model.gguf").tensors}
    assert set(vectors) == {f"blk.{layer}.{name}.{what}" for layer in range(layers)
                            for name in inputs_of(own) for what in ("scale", "magnitude")}
    for layer in range(layers):
        for name, matrices in inputs_of(own).items():
            place = f"blk.{layer}.{name}"
            parts = [weights[f"blk.{layer}.{matrix}.weight"] for matrix in matrices]
            hessian = Calibrated(made / f"{place}.hessian")
            magnitude = vectors[f"{place}.magnitude"]
            squares = sums[f"blk.{layer}.{matrices[0]}.weight.in_sum2"] / hessian.tokens
            assert (magnitude > 0).all() and (magnitude <= 1.0001 * np.sqrt(squares)).all()
            tried = list(awq.candidates(parts, magnitude))
            lost = [awq.losses(parts, scales, hessian.matrix) for scales in tried]
            best = round(20 * float(told[f"{place}.ratio"]))
            assert lost[best] <= min(lost) * (1 + 1e-4), place  # sums are of 32-bit floats
            np.testing.assert_allclose(vectors[f"{place}.scale"], tried[best], rtol=1e-5)


def test_magnitudes_are_means_over_the_tokens(demo):
    """Of the first layer's input, which follows from the embeddings."""
    file = demo.parent / "model.gguf"
    reader = gguf.GGUFReader(file)
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors
              if t.name in ("token_embd.weight", "blk.0.attn_norm.weight")}
    ids = np.array(json.loads(subprocess.run([RUN, "tokenize", "-p", TEXT.read_text(), file],
                                             check=True, capture_output=True).stdout)[:2048])
    ids.reshape(16, 128)[:, 0] = ids[0]
    x = values["token_embd.weight"][ids].astype(float)
    x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
    x *= values["blk.0.attn_norm.weight"]
    vectors, _ = awq.read_scales(demo / "awq.safetensors")
    np.testing.assert_allclose(vectors["blk.0.attn_qkv.magnitude"], np.abs(x).mean(0), rtol=1e-5)


def test_what_they_are_from_is_told(demo):
    _, told = awq.read_scales(demo / "awq.safetensors")
    made_from = json.loads((demo / "calibration.json").read_text())
    ratios = {key: float(told.pop(key)) for key in list(told) if key.endswith(".ratio")}
    assert len(ratios) == 4 * 3 and set(ratios.values()) <= set(awq.RATIOS)
    assert told == {"format": "pt", "awq": "1", "origin": made_from["origin"], "chunk_size": "128",
                    "chunks": "16", "bits": "4", "group_size": "128"}


def test_scales_do_not_depend_on_memory_or_threads(demo, tmp_path):
    told = calibrate("-f", TEXT, "-c", 128, "-n", 2048, "--awq", "--ram", "50M", "-t", 2, "-o",
                     tmp_path, demo.parent / "model.gguf")
    assert told["text_passes"] > 1 and told["awq"] == str(tmp_path / "awq.safetensors")
    assert (tmp_path / "awq.safetensors").read_bytes() == (demo / "awq.safetensors").read_bytes()


def test_it_is_made_once(demo, tmp_path):
    """Beside factors that are there, which stay as they are; and not again."""
    args = ("-f", TEXT, "-c", 128, "-n", 2048, "-o", tmp_path, demo.parent / "model.gguf")
    calibrate(*args)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "awq.safetensors" not in before
    for passes in (1, 0):
        told = calibrate("--awq", *args)
        assert told["text_passes"] == passes
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.pop("awq.safetensors") == (demo / "awq.safetensors").read_bytes()
    assert after == before
    assert told["disk_bytes"] == 0


def test_from_a_checkpoint(demo, tmp_path):
    run("calibrate", DATA / "demo-llama", "-q", "-f", TEXT, "-c", 128, "-n", 2048, "--awq", "-o",
        tmp_path)
    ours, _ = awq.read_scales(tmp_path / "awq.safetensors")
    wanted, _ = awq.read_scales(demo / "awq.safetensors")
    assert all((ours[name] == wanted[name]).all() for name in wanted)


def test_models_without_scales_are_named(tmp_path):
    for name, own, reason in (
            ("moe", make(tmp_path / "moe", "Mixtral-8x7B-v0.1"), "experts are no linear layers"),
            ("narrow", DATA / "demo-qwen2", "no width is a multiple of 128")):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(convert(own, "BF16"))
        message = calibrate("-q", "-f", TEXT, "-c", 64, "-n", 640, "--awq", "-o", tmp_path / "out",
                            file, status=2)
        assert re.search(f"{file}: .*{reason}", message)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("args", [["--layers", "0"], ["--sequential", "spqr3"], ["--imatrix-only"]])
def test_wrong_command_lines_are_refused(args):
    assert "usage: " in calibrate("-f", "t", "-o", "d", "--awq", *args, "x", status=1)


# ---- folders ----

def scaled(name, weights, vectors, names, plus):
    """A tensor of a checkpoint with scales, in float32, one operation after the other."""
    place = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    kind = place and names.get(place[2])
    columns, rows = RULES.get(f"{kind}.{place[3]}", (None, None)) if kind else (None, None)
    columns, rows = (vectors.get(f"blk.{place[1]}.{which}.scale") if which else None
                     for which in (columns, rows))
    if columns is None and rows is None:
        return weights
    plus = np.float32(plus if "norm" in place[2] else 0)
    weights = weights + plus
    if columns is not None:
        weights = weights * columns
    if rows is not None:
        weights = weights / (rows[:, None] if weights.ndim == 2 else rows)
    return weights - plus


def check_folder(folder, source, vectors, names=None, plus=0):
    """Every tensor is scaled, by what it is to be scaled by, and rounded then. Returns how many are."""
    names, changed = names or NAMES, 0
    layers = folders.awq_layers(folder)
    for name, weights in source.items():
        wanted = scaled(name, weights, vectors, names, plus)
        changed += wanted is not weights
        layer = name.removesuffix(".weight")
        if layer in layers and name.endswith(".weight"):
            told, codes = folders.awq_weights(folder, layer, weights.shape)
            nearest, _, _, nearest_codes = awq.quantize(wanted)
            assert (codes == nearest_codes).all() and (told == nearest).all(), name
        else:
            assert folder.tensors[name].tobytes() == wanted.astype(np.float16).tobytes(), name
    return changed


def is_gemma(own):
    return "gemma" in json.loads((own / "config.json").read_text())["model_type"]


def test_all_that_belongs_together_is_scaled(mount, model):
    own, made = model
    mnt = mount(own, f"calibration={made}")
    vectors, _ = awq.read_scales(made / "awq.safetensors")
    folder, source = folders.read(mnt / "m" / "hf" / FORM), reference.read_model(own)
    layers = json.loads((own / "config.json").read_text())["num_hidden_layers"]
    gemma = is_gemma(own)
    count = check_folder(folder, source, vectors, GEMMA if gemma else NAMES, 1 if gemma else 0)
    # two norms, all matrices; without groups also what attention puts out, and a bias
    assert count == layers * (10 if "attn_output" in inputs_of(own) else 8)
    told = os.getxattr(mnt / "m" / "hf" / FORM / "model.safetensors", "user.quantfs.calibration")
    assert told.decode() == hashlib.sha256((made / "awq.safetensors").read_bytes()).hexdigest()


def test_a_gguf_file_has_the_same_folder(mount, model, tmp_path):
    """Row orders, names and norms are brought back."""
    own, made = model
    (tmp_path / "m.gguf").write_bytes(convert(own, "F32"))
    mine, theirs = (folders.read(mount(of, f"calibration={made}") / "m" / "hf" / FORM)
                    for of in (tmp_path / "m.gguf", own))
    assert mine.order == theirs.order
    for name, values in theirs.tensors.items():
        if name != "model.embed_tokens.weight":  # of which Gemma's file has fewer rows
            assert mine.tensors[name].tobytes() == values.tobytes(), name


def write_scales(path, vectors):
    header, end = {}, 0
    for name, values in vectors.items():
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [end, end + 4 * len(values)]}
        end += 4 * len(values)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text +
                     b"".join(np.asarray(v, "<f4").tobytes() for v in vectors.values()))


def made_up(tmp_path, sizes, layers=2):
    """Scales of these inputs, of so many columns."""
    rng = np.random.default_rng(5)
    vectors = {f"blk.{layer}.{name}.scale": np.exp(rng.normal(size=n) / 2).astype("<f4")
               for layer in range(layers) for name, n in sizes.items()}
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "calibration.json").write_text("{}")
    write_scales(tmp_path / "made" / "awq.safetensors", vectors)
    return tmp_path / "made", vectors


def test_what_is_not_quantized_is_scaled_too(mount, tmp_path):
    """A matrix that does not fit stays in 16 bits, and its input has scales all the same."""
    own = models.make(tmp_path / "store" / "m", arch="qwen2", hidden=256, ffn=192, layers=2)
    made, vectors = made_up(tmp_path, {"attn_qkv": 256, "ffn_gate_up": 256, "ffn_down": 192})
    folder = folders.read(mount(own, f"calibration={made}") / "m" / "hf" / FORM)
    assert check_folder(folder, reference.read_model(own), vectors) == 2 * 8
    assert "model.layers.0.mlp.down_proj.weight" in folder.tensors


@pytest.mark.parametrize("name, sizes", [
    ("gemma-2-2b-it", {"attn_qkv": 256, "ffn_gate_up": 256, "ffn_down": 256}),
    ("granite-3.3-2b-instruct", {"attn_qkv": 256, "ffn_gate_up": 256, "ffn_down": 256})])
def test_other_architectures(mount, tmp_path, name, sizes):
    own = make(tmp_path / "store" / "m", name)
    made, vectors = made_up(tmp_path, sizes)
    folder = folders.read(mount(own, f"calibration={made}") / "m" / "hf" / FORM)
    gemma = is_gemma(own)
    assert check_folder(folder, reference.read_model(own), vectors, GEMMA if gemma else NAMES,
                        1 if gemma else 0) == 2 * 8


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q4_0"])
def test_a_quantized_source(mount, demo, tmp_path, recipe):
    """What it decodes to is scaled."""
    (tmp_path / "m.gguf").write_bytes(convert(DATA / "demo-llama", recipe))
    hf = mount(tmp_path / "m.gguf", f"calibration={demo}", "requantize") / "m" / "hf"
    source = reference.read_safetensors(hf / "f32" / "model.safetensors")
    vectors, _ = awq.read_scales(demo / "awq.safetensors")
    assert check_folder(folders.read(hf / FORM), source, vectors) == 4 * 8


# ---- one calibration, one key ----

def test_other_scales_are_another_key(mount, demo, tmp_path):
    """All of a model follows from the file: what was cached with another is never shown."""
    made = tmp_path / "made"
    shutil.copytree(demo, made)
    first, _ = awq.read_scales(made / "awq.safetensors")
    second = {name: v[::-1] for name, v in first.items() if name.endswith(".scale")}
    source, cache = reference.read_model(DATA / "demo-llama"), f"cache={tmp_path / 'cache'}"
    original = (made / "awq.safetensors").read_bytes()
    encoded = []
    for vectors in (first, second, first):
        if vectors is second:
            write_scales(made / "awq.safetensors", second)
        else:
            (made / "awq.safetensors").write_bytes(original)
        mnt = mount(DATA / "demo-llama", f"calibration={made}", cache)
        assert check_folder(folders.read(mnt / "demo-llama" / "hf" / FORM), source, vectors) == 4 * 8
        encoded.append(mnt.stats()["tiles_encoded"])
        mnt.unmount()
    # matrices come from the cache in the end; what attention puts out has no scales, and always does
    assert encoded[0] > encoded[1] > encoded[2]


def test_rounded_folders_have_none_of_it(mount, demo):
    """Not with scales there, either."""
    mnt = mount(DATA / "demo-llama", f"calibration={demo}")
    plain = mount(DATA / "demo-llama")
    name = "demo-llama/hf/rtn-awq-4bit-g128/model.safetensors"
    assert (mnt / name).read_bytes() == (plain / name).read_bytes()
    assert not (plain / "demo-llama" / "hf" / FORM).exists()


@pytest.mark.parametrize("case, reason", [
    ("text", "awq.safetensors: "), ("cut", "awq.safetensors: "),
    ("zero", "scale 7 is no positive number"), ("infinite", "scale 7 is no positive number"),
    ("short", "which do not fit blk.1.ffn_up.weight"), ("layer", "the model has no blk.4.attn_norm.weight"),
    ("groups", "which do not fit blk.0.attn_v.weight"), ("input", "there is no such input"),
    ("empty", "there are no scales in it")])
def test_scales_that_do_not_fit_make_nothing(mount, demo, tmp_path, case, reason):
    """And what they are not for is there as ever."""
    shutil.copytree(demo, tmp_path / "made")
    path = tmp_path / "made" / "awq.safetensors"
    vectors = {name: v.copy() for name, v in awq.read_scales(path)[0].items() if name.endswith(".scale")}
    if case == "zero":
        vectors["blk.1.ffn_down.scale"][7] = 0
    elif case == "infinite":
        vectors["blk.1.ffn_down.scale"][7] = np.inf
    elif case == "short":
        vectors["blk.1.ffn_down.scale"] = vectors["blk.1.ffn_down.scale"][:-1]
    elif case == "layer":
        vectors["blk.4.attn_qkv.scale"] = vectors["blk.0.attn_qkv.scale"]
    elif case == "groups":
        vectors["blk.0.attn_output.scale"] = vectors["blk.0.attn_qkv.scale"]
    elif case == "input":
        vectors["blk.0.ffn_gate_inp.scale"] = vectors["blk.0.attn_qkv.scale"]
    elif case == "empty":
        vectors = {}
    write_scales(path, vectors)
    if case == "text":
        path.write_bytes(b"no scales")
    elif case == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    mnt = mount(DATA / "demo-llama", f"calibration={tmp_path / 'made'}")
    hf = mnt / "demo-llama" / "hf"
    with pytest.raises(OSError) as failed:
        (hf / FORM / "model.safetensors").read_bytes()
    assert failed.value.errno in (errno.EIO, errno.EINVAL)
    assert any(str(path) in line and reason in line for line in mnt.lines())
    assert (hf / "gptq-4bit-g128" / "model.safetensors").read_bytes()


# ---- what it does to the model ----

def perplexity(tmp_path, name, own, tensors):
    """Of the checkpoint with other weights."""
    folder = tmp_path / name
    shutil.copytree(own, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    header, end, data = {}, 0, []
    for key, values in tensors.items():
        values = np.ascontiguousarray(values, "<f4")
        header[key] = {"dtype": "F32", "shape": values.shape, "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
        data.append(values.tobytes())
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    edit(folder, torch_dtype="float32")
    (tmp_path / f"{name}.gguf").write_bytes(convert(folder, "F32"))
    child = subprocess.run([RUN, "perplexity", "-q", "-f", DATA / "kjv-eval.txt", "-c", "128", "--chunks",
                            "40", "--json", tmp_path / f"{name}.gguf"], check=True,
                           capture_output=True, text=True, timeout=300)
    return json.loads(child.stdout)["perplexity"]


def decoded(folder, source):
    """Its weights as a loader has them."""
    layers = folders.awq_layers(folder)
    return {name: folders.awq_weights(folder, name.removesuffix(".weight"), weights.shape)[0]
            if name.removesuffix(".weight") in layers else folder.tensors[name].astype(np.float32)
            for name, weights in source.items()}


def test_scales_alone_change_nothing(model, tmp_path):
    """Before anything is rounded the model is what it was."""
    own, made = model
    source, gemma = reference.read_model(own), is_gemma(own)
    vectors, _ = awq.read_scales(made / "awq.safetensors")
    with_scales = {name: scaled(name, weights, vectors, GEMMA if gemma else NAMES, int(gemma))
                   for name, weights in source.items()}
    before = perplexity(tmp_path, "before", own, source)
    after = perplexity(tmp_path, "after", own, with_scales)
    assert after == pytest.approx(before, rel=1e-4)
    without_norms = {name: source[name] if "norm" in name else v for name, v in with_scales.items()}
    assert perplexity(tmp_path, "torn", own, without_norms) != pytest.approx(before, rel=1e-4)


def test_scales_are_worth_it(mount, demo, tmp_path):
    mnt = mount(DATA / "demo-llama", f"calibration={demo}")
    source = reference.read_model(DATA / "demo-llama")
    values = {form: perplexity(tmp_path, form, DATA / "demo-llama",
                               decoded(folders.read(mnt / "demo-llama" / "hf" / form), source))
              for form in (FORM, "rtn-awq-4bit-g128")}
    values["original"] = perplexity(tmp_path, "original", DATA / "demo-llama", source)
    assert values["original"] < values[FORM] < values["rtn-awq-4bit-g128"]
