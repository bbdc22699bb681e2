# SPDX-License-Identifier: MIT
"""Chat templates of each known kind, short ones, and what they make of a message: without BOS, with
"</s>" as EOS."""

import json
import shutil

from conftest import DATA, run

SYSTEM, USER = " Be brief. ", " Who\nare you? "

_TURNS = "{% for message in messages %}"
_HEAD = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system_message = "
         "messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}" + _TURNS)


def _mistral(first, plain):
    """The system's message goes into the user's last one."""
    return (_HEAD + "{% if loop.last and system_message is defined %}{{ " + first +
            " }}{% else %}{{ " + plain + " }}{% endif %}{% endfor %}"
            "{# [AVAILABLE_TOOLS] are left out here #}")


# name: (template, text, text with a system message)
TEMPLATES = {
    "chatml": (
        _TURNS + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n",
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n"
        "<|im_start|>assistant\n"),
    "llama2": (
        _HEAD + "{{ '[INST] ' + ('<<SYS>>\\n' + system_message.strip() + '\\n<</SYS>>\\n\\n' if "
        "system_message is defined else '') + message.content.strip() + ' [/INST]' }}{% endfor %}",
        f"[INST] {USER.strip()} [/INST]",
        f"[INST] <<SYS>>\n{SYSTEM.strip()}\n<</SYS>>\n\n{USER.strip()} [/INST]"),
    "llama2-unstripped": (
        _HEAD + "{{ '[INST] ' + ('<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' if "
        "system_message is defined else '') + message['content'] + ' [/INST]' }}{% endfor %}",
        f"[INST] {USER} [/INST]", f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{USER} [/INST]"),
    "llama2-bare": (
        _HEAD + "{{ '[INST] ' + (system_message + '\\n' if system_message is defined else '') + "
        "message['content'] + ' [/INST]' }}{% endfor %}",
        f"[INST] {USER} [/INST]", f"[INST] {SYSTEM}\n{USER} [/INST]"),
    "llama3": (
        _TURNS + "{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
        f"<|start_header_id|>user<|end_header_id|>\n\n{USER.strip()}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM.strip()}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{USER.strip()}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral-v1": (
        _mistral("' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]'",
                 "' [INST] ' + message['content'] + ' [/INST]'"),
        f" [INST] {USER} [/INST]", f" [INST] {SYSTEM}\n\n{USER} [/INST]"),
    "mistral-v3": (
        _mistral("'[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]'",
                 "'[INST] ' + message['content'] + '[/INST]'"),
        f"[INST] {USER}[/INST]", f"[INST] {SYSTEM}\n\n{USER}[/INST]"),
    "mistral-v3-tekken": (
        _mistral('"[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]"',
                 '"[INST]" + message["content"] + "[/INST]"'),
        f"[INST]{USER}[/INST]", f"[INST]{SYSTEM}\n\n{USER}[/INST]"),
    "mistral-v7": (
        _HEAD + "{% if system_message is defined %}{{ '[SYSTEM_PROMPT] ' + system_message + "
        "'[/SYSTEM_PROMPT]' }}{% endif %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endfor %}",
        f"[INST] {USER}[/INST]", f"[SYSTEM_PROMPT] {SYSTEM}[/SYSTEM_PROMPT][INST] {USER}[/INST]"),
    "mistral-v7-tekken": (
        _HEAD + "{% if system_message is defined %}{{ '[SYSTEM_PROMPT]' + system_message + "
        "'[/SYSTEM_PROMPT]' }}{% endif %}{{ '[INST]' + message['content'] + '[/INST]' }}{% endfor %}",
        f"[INST]{USER}[/INST]", f"[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]{USER}[/INST]"),
    "phi3": (
        _TURNS + "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
        "{% endfor %}{{ '<|assistant|>\\n' }}",
        f"<|user|>\n{USER}<|end|>\n<|assistant|>\n",
        f"<|system|>\n{SYSTEM}<|end|>\n<|user|>\n{USER}<|end|>\n<|assistant|>\n"),
    "zephyr": (
        _TURNS + "\n{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + "
        "eos_token }}\n{% else %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
        "{% endif %}\n{% endfor %}",
        f"<|user|>\n{USER}</s>\n<|assistant|>\n",
        f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{USER}</s>\n<|assistant|>\n"),
    "zephyr-line-feeds": (
        _TURNS + "{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + "
        "eos_token + '\n' }}{% else %}{{ '<|system|>\n' + message['content'] + eos_token + '\n' }}"
        "{% endif %}{% endfor %}{{ '<|assistant|>\n' }}",
        f"<|user|>\n{USER}</s>\n<|assistant|>\n",
        f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{USER}</s>\n<|assistant|>\n"),
    "gemma": (
        _HEAD + "{{ '<start_of_turn>user\\n' + (system_message | trim + '\\n\\n' if system_message "
        "is defined else '') + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{{ '<start_of_turn>model\\n' }}",
        f"<start_of_turn>user\n{USER.strip()}<end_of_turn>\n<start_of_turn>model\n",
        f"<start_of_turn>user\n{SYSTEM.strip()}\n\n{USER.strip()}<end_of_turn>\n"
        "<start_of_turn>model\n"),
}


def set_template(folder, template):
    """Gives a model's folder this chat template; None: none."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config if template is None else
                               {**config, "chat_template": template}))


def convert_with(template, folder):
    """A GGUF file of a demo model with this chat template."""
    source, out = folder / "source", folder / "chat.gguf"
    shutil.copytree(DATA / "demo-llama", source)
    set_template(source, template)
    run("convert", source, "-t", "Q4_0", "-o", out)
    return out
