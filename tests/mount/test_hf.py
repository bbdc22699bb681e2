# SPDX-License-Identifier: MIT
"""hf/: folders for transformers, of checkpoints and of GGUF files, as safetensors and tokenizers read
them. What GGUF changed is changed back: names, row orders, norms, stacked experts."""

import json
import os
import shutil
import struct

import gguf
import numpy as np
import pytest
import safetensors
import tokenizers

import models
import reference
from architectures import MODELS, make
from conftest import DATA, run
from stores import edit

DEMOS = ("demo-llama", "demo-qwen2")
DTYPES = {"bf16": ("BF16", "bfloat16"), "f16": ("F16", "float16"), "f32": ("F32", "float32")}
MADE = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

TEXTS = ("", " ", "  ", "\n", "\r\n\r\n", "\t\tx", "Hello, world!", " leading", "trailing ",
         "the king and the queen of that river", "  two  spaces   three", "don't I'LL we've",
         "1234567890 3.14159 1,000,000", "CamelCaseAndUPPER", "\u00fcber stra\u00dfe na\u00efve",
         "e\u0301 against \u00e9", "\u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f",
         "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u0631\u062d\u0628\u0627",
         "\u00a0nbsp\u2003em\u200bzero", "def f(x):\n    return x**2  # y\n\n\n",
         "a\u0000b\u0001", "!!! ... ??? --- <> [] {}", "\ufeffbom", "x" * 300,
         "\u2581\u2581 marks", "-1 +2 \u0663\u0664 \u216b \u00bd")


def load(folder):
    """name -> (dtype, weights as float32), of a folder's model.safetensors."""
    found = {}
    for name, entry in safetensors.deserialize((folder / "model.safetensors").read_bytes()):
        raw = np.frombuffer(entry["data"], {"F32": np.float32, "F16": np.float16,
                                            "BF16": np.uint16}[entry["dtype"]])
        x = ((raw.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16"
             else raw.astype(np.float32))
        found[name] = entry["dtype"], x.reshape(entry["shape"])
    return found


def rounded(x, form):
    """float32 through another type."""
    if form == "bf16":
        return (models.to_bf16(x).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float16).astype(np.float32) if form == "f16" else x


def same(a, b):
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def sizes_are_exact(folder):
    return all((folder / name).stat().st_size == len((folder / name).read_bytes())
               for name in os.listdir(folder))


# ---- of folders ----

@pytest.mark.parametrize("model", DEMOS)
def test_a_folder_has_every_weight_in_one_type(mount, model):
    mnt, source = mount(DATA), reference.read_model(DATA / model)
    assert set(DTYPES) <= set(os.listdir(mnt / model / "hf"))
    own = {path.name for path in (DATA / model).iterdir()
           if path.suffix != ".safetensors" and not path.name.endswith(".index.json")}
    for form, (dtype, torch_dtype) in DTYPES.items():
        folder = mnt / model / "hf" / form
        weights = load(folder)
        assert set(weights) == set(source)
        for name, x in source.items():
            assert weights[name][0] == dtype and same(weights[name][1], rounded(x, form)), name
        assert set(os.listdir(folder)) == own | {"model.safetensors"}
        for name in own - {"config.json"}:
            assert (folder / name).read_bytes() == (DATA / model / name).read_bytes()
        config, original = config_of(folder), config_of(DATA / model)
        assert {config.pop(key) for key in ("dtype", "torch_dtype") if key in config} == {
            torch_dtype}
        assert config == {k: v for k, v in original.items() if k not in ("dtype", "torch_dtype")}
        assert sizes_are_exact(folder)


def test_types_that_are_no_floats_stay(mount, tmp_path):
    """A mask, ids and the like go along as they are, in front of floats whatever their width."""
    folder = tmp_path / "store" / "m"
    shutil.copytree(DATA / "demo-llama", folder)
    stored = {"a": ("U8", [3], bytes(3)), "z": ("I64", [2], bytes(range(16))),
              "f": ("F32", [2], np.float32([1, 2]).tobytes()),
              "h": ("F16", [2], np.float16([3, 4]).tobytes())}
    header, data = {}, b""
    for name, (dtype, shape, raw) in stored.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = dict(safetensors.deserialize((mount(tmp_path / "store") / "m" / "hf" / "bf16" /
                                          "model.safetensors").read_bytes()))
    assert {name: entry["dtype"] for name, entry in found.items()} == {
        "a": "U8", "z": "I64", "f": "BF16", "h": "BF16"}
    assert bytes(found["z"]["data"]) == bytes(range(16))


def test_an_architecture_unknown_to_gguf_has_its_folder(mount, store):
    edit(store / "demo-qwen2", architectures=["SomethingNew"])
    folder = mount(store) / "demo-qwen2" / "hf" / "f32"
    assert config_of(folder)["architectures"] == ["SomethingNew"]
    for name, x in reference.read_model(DATA / "demo-qwen2").items():
        assert same(load(folder)[name][1], x)


# ---- of GGUF files ----

@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """name -> folder, of every architecture and of the demo models."""
    base = tmp_path_factory.mktemp("originals")
    return {name: make(base / name, name) for name in MODELS} | {n: DATA / n for n in DEMOS}


@pytest.fixture(scope="module")
def files(originals, tmp_path_factory):
    """A store with a GGUF file of each, in full precision."""
    base = tmp_path_factory.mktemp("files")
    for name, folder in originals.items():
        run("convert", folder, "-t", "F32", "-o", base / f"{name}.gguf")
    return base


NAMES = [*MODELS, *DEMOS]


# What config.json says that a model computes with.
SETTINGS = (
    "architectures model_type hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim max_position_embeddings rms_norm_eps vocab_size rope_theta "
    "rope_local_base_freq partial_rotary_factor original_max_position_embeddings sliding_window "
    "use_sliding_window query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping "
    "attention_multiplier embedding_multiplier residual_multiplier logits_scaling num_experts "
    "num_local_experts num_experts_per_tok moe_intermediate_size norm_topk_prob hidden_activation "
    "hidden_act attention_bias tie_word_embeddings").split()


def text_part(config):
    return config.get("text_config", config)


def scaling_of(config):
    """rope_scaling with the newer name of its type, numbers as float32 has them."""
    scaling = config.get("rope_scaling")
    return scaling and {("rope_type" if k == "type" else k):
                        [*map(np.float32, v)] if isinstance(v, list) else
                        np.float32(v) if isinstance(v, float) else v
                        for k, v in scaling.items()}


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_config_come_back(mount, originals, files, name):
    folder = mount(files / f"{name}.gguf") / name / "hf" / "f32"
    assert set(os.listdir(folder)) == MADE and sizes_are_exact(folder)
    weights = load(folder)
    config, original = config_of(folder), text_part(config_of(originals[name]))
    expected = {}
    for tensor, x in reference.read_model(originals[name]).items():
        # no part of the text model, or a copy
        if not tensor.startswith(("vision_tower.", "multi_modal_projector.")) and not (
                tensor == "lm_head.weight" and config["tie_word_embeddings"]):
            expected[tensor.removeprefix("language_model.")] = x
    # rows beyond the vocabulary are no one's
    embedding = "model.embed_tokens.weight"
    expected[embedding] = expected[embedding][:config["vocab_size"]]
    assert set(weights) == set(expected)
    for tensor, x in expected.items():
        found = weights[tensor][1]
        if name.startswith("gemma") and tensor.endswith("norm.weight"):
            # 1 was added, in the checkpoint's type if that is F16, and is taken away
            step = 2.0 ** -9 if MODELS[name].dtype == "F16" else 2.0 ** -22
            assert found.shape == x.shape and np.abs(found - x).max() < step, tensor
        else:
            assert same(found, x), tensor

    for key in SETTINGS:
        value = original.get(key)
        if value is not None:
            assert config.get(key, value) == value, key
        elif key in original:
            assert config.get(key) is None, key
    assert {"architectures", "hidden_size", "num_attention_heads", "num_key_value_heads",
            "rms_norm_eps", "vocab_size", "max_position_embeddings"} <= set(config)
    assert scaling_of(config) == scaling_of(original)
    assert config["torch_dtype"] == "float32"


@pytest.mark.parametrize("model", DEMOS)
def test_a_folder_and_its_gguf_have_the_same_weights(mount, files, model):
    """To the last byte, in the type that the folder has."""
    name = f"{model}/hf/bf16/model.safetensors"
    assert (mount(files) / name).read_bytes() == (mount(DATA) / name).read_bytes()


BYTE_LEVEL = [name for name in NAMES if name not in MODELS or MODELS[name].vocab.__name__ not in (
    "mistral_vocab", "phi3_vocab", "gemma_vocab")]
BYTE_LEVEL.remove("demo-llama")


def tokenizer(folder):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def both(mnt, originals, name):
    return tokenizer(mnt / name / "hf" / "bf16"), tokenizer(originals[name])


def ids_of(of, text):
    """With and without the tokens that models want in front or behind."""
    return [of.encode(text, add_special_tokens=special).ids for special in (False, True)]


def test_byte_level_tokenizers_are_rebuilt(mount, originals, files):
    mnt = mount(files)
    for name in BYTE_LEVEL:
        mine, theirs = both(mnt, originals, name)
        added = [t.content for t in theirs.get_added_tokens_decoder().values()]
        for text in (*TEXTS, *added, "".join(added), f"the {added[0]} king{added[-1]}\n\n of"):
            assert ids_of(mine, text) == ids_of(theirs, text), (name, text)
            ids = theirs.encode(text).ids
            assert (mine.decode(ids, skip_special_tokens=False)
                    == theirs.decode(ids, skip_special_tokens=False)), (name, text)
        assert mine.get_vocab() == theirs.get_vocab()


def test_sentencepiece_tokenizers_are_rebuilt(mount, originals, files):
    """As SentencePiece has it, a space is put before every text; the original's tokenizer.json
    passes over texts that begin with one."""
    mine, theirs = both(mount(files), originals, "demo-llama")
    for text in (*TEXTS, "<s>", "the king</s>"):
        mark = [mine.token_to_id("\u2581")] * text.startswith((" ", "\u2581"))
        plain, marked = ids_of(theirs, text)
        assert ids_of(mine, text) == [mark + plain, marked[:1] + mark + marked[1:]], repr(text)
        assert mine.decode(marked) == theirs.decode(marked), repr(text)


def test_tokenizers_come_round(mount, files):
    """Those that have no tokenizer.json of their own."""
    mnt = mount(files)
    for name in set(NAMES) - set(BYTE_LEVEL):
        mine = tokenizer(mnt / name / "hf" / "bf16")
        for text in TEXTS:
            ids = mine.encode(text, add_special_tokens=False).ids
            assert mine.decode(ids) == text.replace("\u2581", " "), (name, text)


def test_special_tokens_are_those_of_the_file(mount, files):
    mnt, roles = mount(files), {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for name in NAMES:
        fields = gguf.GGUFReader(files / f"{name}.gguf").fields
        folder = mnt / name / "hf" / "bf16"
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        for role, key in roles.items():
            number = fields.get(f"tokenizer.ggml.{role}_token_id")
            token = number and tokenizer(folder).id_to_token(number.contents())
            assert settings.get(f"{key}_token") == token, (name, role)
        template = fields.get("tokenizer.chat_template")
        assert settings.get("chat_template") == (template and template.contents())


# ---- what has no folder ----

def test_scaling_that_config_cannot_say_is_refused(mount, originals, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(originals["Llama-3.2-1B-Instruct"], folder)
    scaling = config_of(folder)["rope_scaling"]
    edit(folder, rope_scaling={**scaling, "low_freq_factor": 2.0})
    run("convert", folder, "-t", "F16", "-o", tmp_path / "m.gguf")
    mnt = mount(tmp_path / "m.gguf")
    for name in MADE:
        with pytest.raises(OSError, match="Input/output error"):
            (mnt / "m" / "hf" / "f16" / name).read_bytes()
    assert any("rope_freqs.weight does not belong to a scaling" in line for line in mnt.lines())
    assert (mnt / "m" / "gguf" / "m-Q8_0.gguf").read_bytes()


def test_an_architecture_without_a_class_has_no_folder(mount, files, tmp_path):
    data = (files / "demo-qwen2.gguf").read_bytes().replace(b"qwen2", b"other")
    (tmp_path / "m.gguf").write_bytes(data)
    assert sorted(os.listdir(mount(tmp_path / "m.gguf") / "m")) == ["gguf", "original", "tensors"]
