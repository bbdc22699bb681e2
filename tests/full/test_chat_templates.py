# SPDX-License-Identifier: MIT
"""quantfs-run generate --chat beside transformers, which runs the templates: those of chats.py, and the
real ones that llama.cpp's tree carries."""

import json
import os
import pathlib
import subprocess

import pytest

from chats import SYSTEM, TEMPLATES, USER, convert_with
from conftest import QUANTFS

HERE = pathlib.Path(__file__).resolve().parent
RUN = QUANTFS.parent / "quantfs-run"
REAL = {path.stem: path.read_text() for path in sorted(
    (pathlib.Path(os.environ.get("QUANTFS_LLAMA_TREE", ".")) / "models" / "templates").glob("*.jinja"))}
ALONE = [{"role": "user", "content": USER}]
BOTH = [{"role": "system", "content": SYSTEM}, *ALONE]

# Which give the same text.
SAME = ("Bielik-11B-v3.0-Instruct", "Qwen-Qwen3-0.6B", "mistralai-Mistral-Nemo-Instruct-2407",
        "microsoft-Phi-3.5-mini-instruct", "LFM2.5-Instruct", "openbmb-MiniCPM5-1B")
# These have a system message of their own, if there is no other.
SAME_WITH_SYSTEM = ("Qwen-Qwen2.5-7B-Instruct", "Mistral-Small-3.2-24B-Instruct-2506",
                    "unsloth-mistral-Devstral-Small-2507")
SAME_ALONE = ("google-gemma-2-2b-it",)  # which refuses a system message

# What these add by themselves.
DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LLAMA = ("meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct")

# Of other kinds: taken for none of ours.
UNKNOWN = ("CohereForAI-c4ai-command-r-plus-tool_use", "GLM-4.6", "Kimi-K2-Instruct", "MiniMax-M2",
           "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-V3.1",
           "ibm-granite-granite-3.3-2B-Instruct", "openai-gpt-oss-120b", "llama-cpp-rwkv-world",
           "google-gemma-4-31B-it", "upstage-Solar-Open-100B", "ByteDance-Seed-OSS")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(template, with a system message) -> what transformers makes of it, without BOS."""
    folder = tmp_path_factory.mktemp("chat")
    templates = {name: template for name, (template, _, _) in TEMPLATES.items()} | REAL
    jobs = [(name, system) for name in templates for system in (False, True)]
    (folder / "jobs").write_text(json.dumps([[templates[name], BOTH if system else ALONE]
                                             for name, system in jobs]))
    done = subprocess.run([os.environ["QUANTFS_FULL_PYTHON"], HERE / "apply_chat_template.py",
                           folder / "jobs", folder / "out"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    texts = json.loads((folder / "out").read_text())
    return {job: text and text.removeprefix("<s>") for job, text in zip(jobs, texts, strict=True)}


def chat(template, folder, system):
    """Our text, or None where the template is not known."""
    file = convert_with(template, folder)
    done = subprocess.run([RUN, "generate", "--chat", "-p", USER, "-n", "1", "--json",
                           *(("--system", SYSTEM) if system else ()), file], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        assert "none of those that are known" in done.stderr
        return None
    return json.loads(done.stdout)["prompt"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_short_templates_say_what_is_expected(name, rendered):
    _, alone, with_system = TEMPLATES[name]
    assert rendered[name, False] == alone and rendered[name, True] == with_system


@pytest.mark.parametrize("name, system", [
    *((name, system) for name in SAME for system in (False, True)),
    *((name, True) for name in SAME_WITH_SYSTEM), *((name, False) for name in SAME_ALONE)])
def test_real_templates(name, system, rendered, tmp_path):
    assert chat(REAL[name], tmp_path, system) == rendered[name, system]


@pytest.mark.parametrize("name", LLAMA)
def test_dates_are_left_out(name, rendered, tmp_path):
    assert DATE in rendered[name, True]
    theirs = rendered[name, True].replace(DATE, "")
    assert chat(REAL[name], tmp_path, True) == theirs


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_kinds_are_not_known(name, tmp_path):
    assert chat(REAL[name], tmp_path, False) is None
