# SPDX-License-Identifier: MIT
"""Makes small checkpoints of every architecture but the demo models', with the configs and
tokenizer files that such models have.

    from architectures import MODELS, make
    make("store/Qwen3-tiny", "Qwen3-tiny")

or, from a shell, `architectures.py STORE` for all of them. Everything follows from the name.
"""

import dataclasses
import pathlib
import struct
import sys
import zlib

import numpy as np

from models import write_safetensors
from vocabularies import (CONTROL, LLAMA3, QWEN2, UNKNOWN, USER_DEFINED, added, byte_level,
                          decoder, sequence, split, write_bpe, write_json, write_sentencepiece)

HIDDEN, FFN, LAYERS = 256, 256, 2
NFC = {"type": "NFC"}

# Norms by the name of the architecture: those of a layer, and whether heads have their own.
BEFORE = ("input_layernorm", "post_attention_layernorm")
BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")
BOTH = ("input_layernorm", "pre_feedforward_layernorm", *BEHIND)


def layer(*, q, kv, head_norms=0, norms=BEFORE, hidden=HIDDEN, ffn=FFN, experts="", count=0,
          fused=False):
    """name -> shape of the tensors of a layer. q, kv: rows of its projections; head_norms: width
    of q_norm (and k_norm, unless it is as wide as all heads); experts: how they are called."""
    shapes = {f"{name}.weight": (hidden,) for name in norms}
    if fused:
        shapes["self_attn.qkv_proj.weight"] = (q + 2 * kv, hidden)
    else:
        shapes |= {"self_attn.q_proj.weight": (q, hidden), "self_attn.k_proj.weight": (kv, hidden),
                   "self_attn.v_proj.weight": (kv, hidden)}
    shapes["self_attn.o_proj.weight"] = (hidden, q)
    if head_norms:
        shapes["self_attn.q_norm.weight"] = (head_norms,)
        shapes["self_attn.k_norm.weight"] = (kv if head_norms == q else head_norms,)
    gate, up, down = ("w1", "w3", "w2") if "sparse" in experts else ("gate_proj", "up_proj",
                                                                    "down_proj")
    if experts:
        shapes[f"{experts}.gate.weight"] = (count, hidden)
    for place in [f"{experts}.experts.{e}" for e in range(count)] or ["mlp"]:
        if fused:
            shapes[f"{place}.gate_up_proj.weight"] = (2 * ffn, hidden)
        else:
            shapes |= {f"{place}.{gate}.weight": (ffn, hidden),
                       f"{place}.{up}.weight": (ffn, hidden)}
        shapes[f"{place}.{down}.weight"] = (hidden, ffn)
    return shapes


# ---- vocabularies: each writes the tokenizer's files and returns how many tokens there are ----

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def qwen_vocab(folder):
    return write_bpe(folder, "Qwen2Tokenizer", sequence(split(QWEN2), byte_level(False)),
                     ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
                     others=("<think>", "</think>"), normalizer=NFC, add_bos_token=False,
                     add_prefix_space=False, bos_token=None, eos_token="<|im_end|>",
                     pad_token="<|endoftext|>", unk_token=None, errors="replace",
                     model_max_length=131072, split_special_tokens=False, chat_template=CHAT,
                     additional_special_tokens=["<|im_start|>", "<|im_end|>"])


def llama3_vocab(folder):
    return write_bpe(folder, "PreTrainedTokenizerFast", sequence(split(LLAMA3), byte_level(False)),
                     ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"), bos=True,
                     ignore_merges=True, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                     model_input_names=["input_ids", "attention_mask"], model_max_length=131072,
                     chat_template=CHAT)


def smollm3_vocab(folder):
    (folder / "chat_template.jinja").write_text(CHAT)
    return write_bpe(folder, "PreTrainedTokenizerFast", sequence(split(LLAMA3), byte_level(False)),
                     ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
                     others=("<think>", "</think>", "<tool_call>"), ignore_merges=True,
                     bos_token=None, eos_token="<|im_end|>", pad_token="<|im_end|>",
                     fast=False, model_max_length=131072)


def olmo2_vocab(folder):
    return write_bpe(folder, "GPT2Tokenizer",
                     sequence(split(LLAMA3, "Removed", True), byte_level(False)),
                     ("<|endoftext|>", "<|pad|>"), others=("<|extra_id_0|>", "|||PHONE|||"),
                     add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                     pad_token="<|pad|>", unk_token="<|endoftext|>", chat_template=CHAT)


def phi4_vocab(folder):
    return write_bpe(folder, "GPT2Tokenizer",
                     sequence(split(LLAMA3, "Removed", True), byte_level(False)),
                     ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"),
                     add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|im_end|>",
                     pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=CHAT)


def granite_vocab(folder):
    digits = {"type": "Digits", "individual_digits": True}
    return write_bpe(folder, "GPT2Tokenizer", sequence(digits, byte_level(True)),
                     ("<|end_of_text|>", "<fim_prefix>", "<|start_of_role|>", "<|end_of_role|>"),
                     add_bos_token=False, add_prefix_space=False, bos_token="<|end_of_text|>",
                     eos_token="<|end_of_text|>", pad_token="<|end_of_text|>",
                     unk_token="<|end_of_text|>", errors="replace", chat_template=CHAT)


def mistral_vocab(folder):
    count = write_sentencepiece(folder / "tokenizer.model", (("<unk>", UNKNOWN), ("<s>", CONTROL),
                                                             ("</s>", CONTROL)))
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder(
            added(0, ("<unk>", "<s>", "</s>"))), "additional_special_tokens": [],
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
        "legacy": False, "tokenizer_class": "LlamaTokenizer", "chat_template": CHAT})
    return count


def phi3_vocab(folder):
    count = write_sentencepiece(folder / "tokenizer.model", (("<unk>", UNKNOWN), ("<s>", CONTROL),
                                                             ("</s>", CONTROL)))
    base = added(0, ("<unk>", "<s>"), ("</s>",))
    more = added(count, ("<|endoftext|>", "<|assistant|>"), ("<|step|>", "▁plain"))
    write_json(folder / "added_tokens.json", {t["content"]: t["id"] for t in more})
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "added_tokens": base + more[:3], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {"<unk>": 0}, "merges": []}})
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False, "added_tokens_decoder": decoder(
            base + more), "bos_token": "<s>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "unk_token": "<unk>", "legacy": False,
        "tokenizer_class": "LlamaTokenizer", "chat_template": CHAT})
    return more[-1]["id"] + 1


def gemma_vocab(folder):
    head = [("<pad>", CONTROL), ("<eos>", CONTROL), ("<bos>", CONTROL), ("<unk>", UNKNOWN),
            ("<mask>", USER_DEFINED), ("<2mass>", USER_DEFINED), ("[@BOS@]", USER_DEFINED),
            ("<unused0>", USER_DEFINED), ("<start_of_turn>", USER_DEFINED),
            ("<end_of_turn>", USER_DEFINED), ("\n", USER_DEFINED), ("▁▁", USER_DEFINED)]
    count = write_sentencepiece(folder / "tokenizer.model", head, (("<table>", USER_DEFINED),))
    tokens = added(0, ("<pad>", "<eos>", "<bos>", "<unk>"), [text for text, _ in head[4:]])
    for token in tokens:
        token["special"] |= "turn" in token["content"]
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder(tokens),
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"], "bos_token": "<bos>",
        "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "sp_model_kwargs": {},
        "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer",
        "chat_template": CHAT})
    write_json(folder / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": 2, "cache_implementation": "hybrid",
        "eos_token_id": [1, 9], "pad_token_id": 0, "top_k": 64, "top_p": 0.95})
    return count


# ---- models ----

@dataclasses.dataclass
class Model:
    """config: config.json without the sizes that all share. pre: the name of the pre-tokenizer,
    which no hash tells here. prefix, head: how tensors and the output are called. rows: of the
    embedding beyond the vocabulary. extra: more tensors."""

    config: dict
    layer: dict
    vocab: object
    dtype: str = "BF16"
    pre: str = ""
    layers: int = LAYERS
    hidden: int = HIDDEN
    prefix: str = "model."
    head: str = ""
    rows: int = 0
    extra: dict = dataclasses.field(default_factory=dict)


    @property
    def experts(self):
        return self.config.get("num_local_experts") or self.config.get("num_experts")


SIZES = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
         "num_attention_heads": 4, "num_key_value_heads": 2}
LONG = [1.0 + i * 0.37 for i in range(32)]
SHORT = [1.0 + i * 0.011 for i in range(32)]

MODELS = {
    "Llama-3.2-1B-Instruct": Model(
        {**SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 64,
         "attention_bias": False, "bos_token_id": 289, "eos_token_id": [290, 291],
         "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"},
         "tie_word_embeddings": True},
        layer(q=256, kv=128), llama3_vocab, pre="llama-bpe"),
    "Qwen3-0.6B": Model(
        {**SIZES, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128,
         "attention_bias": False, "max_window_layers": 2, "max_position_embeddings": 40960,
         "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
         "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True},
        layer(q=512, kv=256, head_norms=128), qwen_vocab, pre="qwen2"),
    "Qwen3-Coder": Model(
        {**SIZES, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
         "head_dim": 64, "intermediate_size": 768, "moe_intermediate_size": FFN,
         "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
         "num_experts": 5, "num_experts_per_tok": 2, "num_hidden_layers": 1,
         "max_position_embeddings": 40960, "max_window_layers": 1, "rms_norm_eps": 1e-06,
         "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                          "original_max_position_embeddings": 32768},
         "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
         "use_sliding_window": False, "tie_word_embeddings": False},
        layer(q=256, kv=128, head_norms=64, experts="mlp", count=5), qwen_vocab, pre="qwen2",
        layers=1, head="lm_head"),
    "Mixtral-8x7B-v0.1": Model(
        {**SIZES, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
         "bos_token_id": 1, "eos_token_id": 2, "intermediate_size": 64,
         "max_position_embeddings": 32768, "num_experts_per_tok": 2, "num_local_experts": 8,
         "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
         "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False},
        layer(q=256, kv=128, ffn=64, experts="block_sparse_moe", count=8), mistral_vocab,
        head="lm_head"),
    "gemma-2-2b-it": Model(
        {**SIZES, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 32,
         "attention_bias": False, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
         "cache_implementation": "hybrid", "eos_token_id": [1, 9],
         "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
         "max_position_embeddings": 8192, "pad_token_id": 0, "query_pre_attn_scalar": 32,
         "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096},
        layer(q=128, kv=64, norms=BOTH), gemma_vocab, head="lm_head"),
    "gemma-3-1b-it": Model(
        {**SIZES, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
         "head_dim": 64, "attention_bias": False, "attn_logit_softcapping": None,
         "bos_token_id": 2, "eos_token_id": [1, 9], "final_logit_softcapping": None,
         "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768,
         "pad_token_id": 0, "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-06,
         "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
         "sliding_window": 512, "sliding_window_pattern": 6, "num_key_value_heads": 1},
        layer(q=256, kv=64, head_norms=64, norms=BOTH), gemma_vocab, rows=13),
    "gemma-3-4b-it": Model(
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 9],
         "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
         "text_config": {"hidden_size": 128, "intermediate_size": 512,
                         "model_type": "gemma3_text", "num_hidden_layers": 1,
                         "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                         "sliding_window": 1024},
         "vision_config": {"hidden_size": 32, "image_size": 28, "intermediate_size": 64,
                           "model_type": "siglip_vision_model", "num_attention_heads": 2,
                           "num_hidden_layers": 1, "patch_size": 14}},
        layer(q=2048, kv=1024, head_norms=256, norms=BOTH, hidden=128, ffn=512), gemma_vocab,
        dtype="F16", layers=1, hidden=128, prefix="language_model.model.",
        extra={"multi_modal_projector.mm_input_projection_weight": (32, 128),
               "vision_tower.vision_model.embeddings.patch_embedding.weight": (32, 3, 14, 14),
               "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (64, 32)}),
    "Phi-3-mini-128k-instruct": Model(
        {**SIZES, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
         "attention_bias": False, "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000,
         "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
         "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 262144,
         "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
         "tie_word_embeddings": False},
        layer(q=256, kv=128, fused=True), phi3_vocab, head="lm_head"),
    "phi-4": Model(
        {**SIZES, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
         "attention_bias": False, "max_position_embeddings": 16384,
         "original_max_position_embeddings": 16384, "partial_rotary_factor": 0.75,
         "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 250000,
         "sliding_window": None, "tie_word_embeddings": True},
        layer(q=256, kv=128, fused=True), phi4_vocab, pre="midm-2.0"),
    "SmolLM3-3B": Model(
        {**SIZES, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
         "attention_bias": False, "bos_token_id": 289, "eos_token_id": 292, "pad_token_id": 292,
         "layer_types": ["full_attention"] * 2, "max_position_embeddings": 65536,
         "no_rope_layer_interval": 4, "no_rope_layers": [1, 1], "rms_norm_eps": 1e-06,
         "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
         "tie_word_embeddings": True},
        layer(q=256, kv=128), smollm3_vocab, pre="llama-bpe"),
    "OLMo-2-1124-7B-Instruct": Model(
        {**SIZES, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2",
         "attention_bias": False, "eos_token_id": 289, "pad_token_id": 290,
         "max_position_embeddings": 4096, "rms_norm_eps": 1e-06, "rope_scaling": None,
         "rope_theta": 500000, "tie_word_embeddings": False},
        layer(q=256, kv=128, head_norms=256, norms=BEHIND), olmo2_vocab, dtype="F32",
        pre="midm-2.0", head="lm_head"),
    "Olmo-3-7B-Think": Model(
        {**SIZES, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3",
         "attention_bias": False, "eos_token_id": 289, "pad_token_id": 290,
         "layer_types": ["sliding_attention", "full_attention"],
         "max_position_embeddings": 65536, "rms_norm_eps": 1e-06,
         "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0,
                          "beta_slow": 1.0, "factor": 8.0,
                          "original_max_position_embeddings": 8192, "rope_type": "yarn"},
         "rope_theta": 500000, "sliding_window": 4096, "tie_word_embeddings": False},
        layer(q=256, kv=128, head_norms=256, norms=BEHIND), olmo2_vocab, pre="midm-2.0",
        head="lm_head"),
    "granite-3.3-2b-instruct": Model(
        {**SIZES, "architectures": ["GraniteForCausalLM"], "model_type": "granite",
         "attention_bias": False, "attention_multiplier": 0.015625, "bos_token_id": 289,
         "embedding_multiplier": 12.0, "eos_token_id": 289, "logits_scaling": 8.0,
         "max_position_embeddings": 131072, "mlp_bias": False, "pad_token_id": 289,
         "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None,
         "rope_theta": 10000000.0, "tie_word_embeddings": True},
        layer(q=256, kv=128), granite_vocab, pre="smollm"),
}


# README.md of some: what the converter takes from model cards.
CARDS = {
    "Llama-3.2-1B-Instruct": """---
language:
- en
- de
- no
- "yes"
library_name: transformers
pipeline_tag: text-generation
tags:
- facebook
- pytorch
license: llama3.2
extra_gated_prompt: >-
  ### COMMUNITY LICENSE AGREEMENT

  "Agreement" means the terms: use, reproduction, distribution.
extra_gated_fields:
  First Name: text
  By clicking Submit below I accept: checkbox
base_model: https://huggingface.co/meta-llama/Llama-3.2-1B
---

# Model
""",
    "Qwen3-0.6B": """---
library_name: transformers
license: apache-2.0
license_link: https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/LICENSE
pipeline_tag: text-generation
base_model:
- Qwen/Qwen3-0.6B-Base
---
""",
    "Mixtral-8x7B-v0.1": """---
name:
model_name: Mixtral of the tests
model_creator: Mistral AI_
model_type: mixtral
quantized_by: nobody
author: ~
description: |
  Two lines,
  é and \U0001F680
version: '0.1'
license: [apache-2.0, mit]
license_name: "two\tlicences"
url: https://example.org/mixtral
model_doi: 10.1000/182
uuid: 123e4567-e89b-12d3-a456-426614174000
repo_url: no
base_models:
- name: Base
  author: Someone
  version: v1
  organization: Org
  description: "with: colon"
  url: https://example.org
  doi: 10/1
  uuid: u
  repo_url: r
  unknown: 1
- mistralai/Mistral-7B-v0.1
- ./local/Model-1B
- plain-name-13B-chat
- Some model with spaces
- ssh://git@example.org/x/y
- http://huggingface.co/a/b-1.5/tree
dataset: {name: Only a mapping}
tags: moe
language: fr
languages: [it, es]
---
text
---
more
""",
    "gemma-2-2b-it": """---
license: gemma
library_name: transformers
datasets:
- HuggingFaceH4/ultrafeedback_binarized
- name: Own data
  url: https://example.org/data
- https://huggingface.co/datasets/openbmb/UltraFeedback
tags:
	- conversational # by tab
pipeline_tag: text-generation
base_model: null
widget:
- messages: [{role: user, content: "Hi"}]
---
""",
    "SmolLM3-3B": "\n---\nlicense: mit\n---\nNot at the beginning: no card.\n",
    "phi-4": "---\r\nlicense: mit\r\nlanguage:\r\n- en\r\nfinetune: Chat\r\nsize_label: 14B\r\n"
             "organization: false\r\ntags: []\r\n---\r\n# phi\r\n",
    "OLMo-2-1124-7B-Instruct": "---\n- a list\n- is no card\n",
}


def make(path, name):
    """Makes the folder `path` with the model of that name and returns it."""
    path, model = pathlib.Path(path), MODELS[name]
    path.mkdir(parents=True)
    vocab = model.vocab(path)
    if name in CARDS:
        (path / "README.md").write_text(CARDS[name], newline="")
    config = {**model.config, "torch_dtype": "bfloat16", "use_cache": True}
    config.get("text_config", config)["vocab_size"] = vocab
    write_json(path / "config.json", config)
    shapes = {f"{model.prefix}embed_tokens.weight": (vocab + model.rows, model.hidden)}
    for i in range(model.layers):
        shapes |= {f"{model.prefix}layers.{i}.{part}": shape
                   for part, shape in model.layer.items()}
    shapes[f"{model.prefix}norm.weight"] = (model.hidden,)
    if model.head:
        shapes[f"{model.head}.weight"] = (vocab, model.hidden)
    tensors = {tensor: (model.dtype, shape) for tensor, shape in (shapes | model.extra).items()}
    write_safetensors(path / "model.safetensors", tensors,
                      np.random.default_rng(zlib.crc32(name.encode())))
    return path


def write_imatrix(path, name):
    """An importance matrix for the experts of a model, in the old format."""
    config, rng = MODELS[name].config, np.random.default_rng(zlib.crc32(name.encode()))
    width = {"gate": HIDDEN, "up": HIDDEN,
             "down": config.get("moe_intermediate_size", config["intermediate_size"])}
    entries = {f"blk.{i}.ffn_{kind}_exps.weight": rng.random((MODELS[name].experts, cols),
                                                                np.float32)
               for i in range(MODELS[name].layers) for kind, cols in width.items()}
    out = struct.pack("<i", len(entries))
    for tensor, values in entries.items():
        values[1] = 1  # of an expert that no token came to
        out += struct.pack(f"<i{len(tensor)}sii", len(tensor), tensor.encode(), 1, values.size)
        out += values.tobytes()
    path.write_bytes(out + struct.pack("<ii8s", 3, 8, b"text.txt"))


if __name__ == "__main__":
    for each in MODELS:
        make(pathlib.Path(sys.argv[1]) / each, each)
