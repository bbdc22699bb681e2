# SPDX-License-Identifier: MIT
"""quantfs-run plan: what it says of a model is what its file has, and what the formulas give."""

import json
import math
import shutil
import subprocess

import gguf
import pytest

from architectures import MODELS, make
from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
CONFIGS = DATA / "configs"
LLAMA_33B, LLAMA_70B, MIXTRAL = (CONFIGS / f"{name}.json"
                                 for name in ("llama-33b", "llama-2-70b", "mixtral-8x7b"))
GIB = 2**30
# GB of the files of Llama 3.1 70B that can be downloaded; their headers take some MB.
PUBLISHED = {"Q8_0": 74.98, "Q6_K": 57.89, "Q5_K_M": 49.95, "Q5_K_S": 48.66, "Q4_K_M": 42.52,
             "Q4_K_S": 40.35, "Q3_K_L": 37.14, "Q3_K_M": 34.27, "Q3_K_S": 30.91}
# Of what architectures.py makes, those that quantfs-run runs.
RUNNABLE = [name for name, model in MODELS.items()
            if model.config["architectures"][0] in (
                "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM",
                "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM",
                "Gemma3ForConditionalGeneration")]


def quantfs_run(*args):
    return subprocess.run([RUN, *map(str, args)], capture_output=True, text=True, timeout=120,
                          check=False)


def plan(*args):
    done = quantfs_run("plan", "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def forecast(*args):
    """The one format of a plan, with what holds for the whole plan."""
    told = plan(*args)
    (form,) = told.pop("formats")
    return told | form


def fails(*args, status=2):
    done = quantfs_run("plan", *args)
    assert done.returncode == status and not done.stdout, done
    return done.stderr


def page(*args):
    done = quantfs_run("plan", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def write_config(path, base, **changes):
    config = json.loads(base.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return path


def about(value):
    return pytest.approx(value, rel=1e-9)


# ---- sizes ----

def test_sizes_are_those_of_published_files(tmp_path):
    config = write_config(tmp_path / "config.json", LLAMA_70B, vocab_size=128256)
    told = plan("--config", config, "--vram", "100G", "--formats", ",".join(PUBLISHED))
    sizes = {form["format"]: (form["weights_bytes"] + form["embedding_bytes"]) / 1e9
             for form in told["formats"]}
    assert sizes == {name: pytest.approx(size, abs=0.03) for name, size in PUBLISHED.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    run("convert", DATA / "demo-llama", "-t", "Q4_K_M", "-o", path)
    return path


def test_file_is_its_config(file):
    """Whatever the memory: also where parts are streamed."""
    def told(*args):
        found = plan(*args)
        found["formats"][0].pop("format")
        return {key: found[key] for key in found if key != "model"}
    config = ("--config", DATA / "demo-llama" / "config.json", "--formats", "Q4_K_M")
    least = forecast(file, "--ram", "1G")["needed_bytes"]
    for size in (least, least + 400_000, least + 600_000, least + 10_000_000):
        for memory in (("--ram", size), ("--vram", size + 300_000_000)):
            assert told(file, *memory) == told(*config, *memory)
    streamed = forecast(file, "--ram", least + 600_000)
    assert 0 < streamed["resident_bytes"] < streamed["weights_bytes"]


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q2_K", "F16"])
@pytest.mark.parametrize("name", [*RUNNABLE, "demo-qwen2"])
def test_config_tells_the_bytes_of_the_file(name, recipe, tmp_path):
    folder = DATA / name if (DATA / name).exists() else make(tmp_path / name, name)
    path = tmp_path / "model.gguf"
    run("convert", folder, "-t", recipe, "-o", path)
    matrices = {t.name: t.n_bytes for t in gguf.GGUFReader(path).tensors
                if len(t.shape) > 1 and t.name.endswith(".weight")}
    told = forecast("--config", folder / "config.json", "--formats", recipe, "--ram", "2G")
    embedding = matrices["token_embd.weight"] if "output.weight" in matrices else 0
    assert told["embedding_bytes"] == embedding
    assert told["weights_bytes"] == sum(matrices.values()) - embedding
    of_file = forecast(path, "--ram", "2G")
    for key in ("weights_bytes", "embedding_bytes", "touched_bytes", "products", "layers",
                "experts", "experts_used", "cache_bytes", "activation_bytes", "needed_bytes"):
        assert of_file[key] == told[key], key


def test_file_in_a_mount(mount, file):
    virtual = mount(DATA) / "demo-llama" / "gguf" / "demo-llama-Q4_K_M.gguf"
    told, real = forecast(virtual, "--ram", "1G"), forecast(file, "--ram", "1G")
    assert told | {"model": None} == real | {"model": None}


def test_a_run_has_the_weights_of_its_plan(file):
    done = quantfs_run("generate", "-p", "In", "-n", 1, "--json", file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights_bytes"] == forecast(file)["weights_bytes"]


# ---- against the formulas ----

def sizes_33b():
    """Weights of a layer, and of the output."""
    return 4 * 6656**2 + 3 * 6656 * 17920, 32000 * 6656


def test_llama_33b_on_24_gb():
    layer, output = sizes_33b()
    links = (7e9, 25e9)
    told = plan("--config", LLAMA_33B, "--formats", "F16,Q6_K,3.94", "--vram", "24G",
                "--link", "7G,25G", "--memory", "900G", "--flops", "71T")
    cache = 2 * 60 * 2048 * 6656 * 2
    assert (told["context"], told["cache_bytes"]) == (2048, cache)
    assert told["link_rates"] == list(links)
    assert (told["memory_rate"], told["flops"], told["batch"]) == (900e9, 71e12, 128)
    rest = cache + told["activation_bytes"] + told["logit_bytes"] + told["program_bytes"]
    assert told["program_bytes"] == 300_000_000 and told["logit_bytes"] == 4 * 32000
    # at least two vectors of the width of the feed-forward part, at most twenty
    assert 2 <= told["activation_bytes"] / (128 * 17920 * 4) < 20
    for form, layer_bits in zip(told["formats"], (16, 6.5625, 3.94), strict=True):
        end_bits = max(layer_bits, 6.5625)
        one, end = layer * layer_bits / 8, output * end_bits / 8
        weights = 60 * one + end
        budget = 24 * GIB - rest
        slots = 4 * form["slot_bytes"]
        resident = weights if weights <= budget else budget - slots
        streamed = weights - resident
        rounded = pytest.approx
        assert form["bits_per_weight"] == rounded(
            (60 * layer * layer_bits + 2 * output * end_bits) / (60 * layer + 2 * output), rel=3e-4)
        assert form["weights_bytes"] == rounded(weights, rel=3e-4)
        assert form["touched_bytes"] == form["weights_bytes"]
        assert form["resident_bytes"] == rounded(resident, rel=3e-4)
        assert form["streamed_bytes"] == form["weights_bytes"] - form["resident_bytes"]
        # four pieces of 4 MiB, less than a row or two, and what a disk's blocks leave around one
        assert form["slots"] == 4 and -0.02 < form["slot_bytes"] / 2**22 - 1 < 0.01
        assert form["ring_bytes"] == (slots if streamed else 0)
        assert form["products"] == 60 * layer + output
        for i, link in enumerate(links):
            seconds = max(form["streamed_bytes"] / link,
                          form["weights_bytes"] / (0.85 * 900e9) + 60 * 50e-6)
            assert form["tok_s"][i] == about(1 / seconds)
            seconds = max(form["streamed_bytes"] / link, 2 * 128 * form["products"] / 71e12)
            assert form["prefill_tok_s"][i] == about(128 / seconds)
        assert form["output_resident"]
        assert len(form["resident_layers"]) == (math.floor((resident - end) / one + 1e-6)
                                                if streamed else 60)
    f16, *others = told["formats"]
    assert f16["streamed_bytes"] > 0
    assert [form["streamed_bytes"] > 0 for form in others] == [True, False]


def test_mixture_of_experts():
    told = forecast("--config", MIXTRAL, "--formats", "Q8_0", "--ram", "16G", "--link", "3G",
                    "-c", "1024")
    bits = 8.5 / 8
    attention = (2 * 4096**2 + 2 * 4096 * 1024) * bits + 8 * 4096 * 4
    expert, output = 3 * 4096 * 14336 * bits, 32000 * 4096 * bits
    always = 32 * attention + output
    assert told["weights_bytes"] == always + 32 * 8 * expert
    assert told["touched_bytes"] == always + 32 * 2 * expert
    assert told["products"] == 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 8 * 4096
                                     + 2 * 3 * 4096 * 14336) + 32000 * 4096
    rest = sum(told[key] for key in ("cache_bytes", "activation_bytes", "logit_bytes",
                                     "program_bytes"))
    assert told["cache_bytes"] == 2 * 32 * 1024 * 1024 * 2 and told["program_bytes"] == 30_000_000
    # a ring is a quarter of the largest block, within limits, of which this is the upper
    assert told["ring_bytes"] == 256 * 2**20
    resident = 16 * GIB - rest - told["ring_bytes"]
    assert told["resident_bytes"] == resident
    # what every token touches stays, then as many experts as fit
    streamed = (32 * 8 * expert - (resident - always)) / 4
    assert told["streamed_bytes"] == about(streamed)
    assert told["tok_s"] == [about(1 / max(streamed / 3e9, told["touched_bytes"] / 40e9))]
    unplaced = told["weights_bytes"] - resident
    assert told["prefill_tok_s"] == [
        about(told["batch"] / max(unplaced / 3e9, 2 * told["batch"] * told["products"] / 0.5e12))]
    whole = math.floor((resident - always) / (8 * expert))
    assert len(told["resident_layers"]) == whole
    assert len(told["resident_but_experts"]) == 32 - whole
    assert told["partial_bytes"] == resident - always - whole * 8 * expert


def test_layers_lie_evenly_and_are_told_once():
    for form in plan("--config", LLAMA_70B, "--vram", "24G")["formats"]:
        resident, streamed = form["resident_layers"], form["streamed_layers"]
        assert sorted(resident + streamed) == list(range(80)) and resident and streamed
        rarer = min(resident, streamed, key=len)
        gaps = {b - a for a, b in zip(rarer, rarer[1:])}
        assert max(gaps) - min(gaps) <= 1
        assert form["partial_layer"] in streamed


def test_all_fits():
    told = forecast("--config", LLAMA_33B, "--formats", "Q4_K_M", "--vram", "80G",
                    "--link", "1G,50G", "--memory", "2T")
    assert told["resident_layers"] == list(range(60)) and told["output_resident"]
    assert told["streamed_layers"] == [] and told["partial_layer"] is None
    assert told["streamed_bytes"] == told["ring_bytes"] == 0
    assert told["resident_bytes"] == told["weights_bytes"]
    speed = about(1 / (told["weights_bytes"] / (0.85 * 2e12) + 60 * 50e-6))
    assert told["tok_s"] == [speed, speed]
    flops = about(70e12 / 2 / told["products"])
    assert told["prefill_tok_s"] == [flops, flops]


@pytest.mark.parametrize("memory", ["--ram", "--vram"])
def test_nothing_fits(memory):
    args = ("--config", LLAMA_33B, "--formats", "Q6_K")
    needed = forecast(*args, memory, "80G")["needed_bytes"]
    if memory == "--vram":  # with so little memory there are three slots of 256 KiB
        rest = sum(forecast(*args, memory, "80G")[key] for key in (
            "cache_bytes", "activation_bytes", "logit_bytes", "program_bytes"))
        assert 0.9 * 3 * 2**18 < needed - rest < 1.1 * 3 * 2**18
    told = forecast(*args, memory, needed)
    assert told["resident_bytes"] == 0 and told["resident_layers"] == []
    assert told["streamed_bytes"] == told["weights_bytes"] and not told["output_resident"]
    message = fails(*args, memory, needed - 1)
    assert f"Q6_K needs {needed / 1e9:.2f} GB at least" in message
    assert memory[2:].upper() in message and "a context of 2048" in message


def test_a_model_smaller_than_its_slots_needs_only_itself(tmp_path):
    config = write_config(tmp_path / "config.json", DATA / "demo-llama" / "config.json",
                          num_hidden_layers=1)
    args = ("--config", config, "--formats", "Q4_K_M", "--vram")
    told = forecast(*args, "80G")
    assert told["needed_bytes"] == told["weights_bytes"] + sum(
        told[key] for key in ("cache_bytes", "activation_bytes", "logit_bytes", "program_bytes"))
    assert forecast(*args, told["needed_bytes"])["streamed_bytes"] == 0
    assert "are not enough" in fails(*args, told["needed_bytes"] - 1)


@pytest.mark.parametrize("name, vram", [("demo-llama", "1600K"), ("demo-llama", "3M"),
                                        ("demo-qwen2", "3M")])
def test_a_run_on_a_gpu_has_the_slots_of_its_plan(name, vram, tmp_path):
    """And as much is resident, but for runs that begin at multiples of 64 bytes."""
    path = tmp_path / "model.gguf"
    run("convert", DATA / name, "-t", "F16", "-o", path)
    done = quantfs_run("bench", "-p", 0, "-n", 1, "--repeats", 1, "-c", 64, "--backend", "emu",
                       "--vram", vram, "--json", path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    taken = told["vram_used_bytes"] - told["resident_bytes"] - told["lift_slots_bytes"]
    rest = forecast(path, "--vram", "1G", "-c", 64)
    rest = sum(rest[key] for key in ("cache_bytes", "activation_bytes", "logit_bytes",
                                     "program_bytes"))
    planned = forecast(path, "--vram", rest + told["vram_bytes"] - taken, "-c", 64)
    assert planned["ring_bytes"] == told["lift_slots_bytes"] == 3 * planned["slot_bytes"]
    assert 0 <= planned["resident_bytes"] - told["resident_bytes"] < 20_000


def test_what_does_not_fit_among_others():
    """Slots hold whole rows, so what is needed at least differs by less than one."""
    args = ("--config", LLAMA_33B, "--formats", "F32,Q2_K", "--vram")
    needs = {form["format"]: form["needed_bytes"] for form in plan(*args, "80G")["formats"]}
    less, more = sorted(needs, key=needs.get)
    assert needs[less] < needs[more]
    told = {form["format"]: form for form in plan(*args, needs[less])["formats"]}
    assert told[less]["fits"] and not told[more]["fits"]
    assert "tok_s" not in told[more] and told[more]["needed_bytes"] == needs[more]
    (row,) = [line for line in page(*args, needs[less]) if line.startswith(more)]
    assert row.endswith(f"needs {needs[more] / 1e9:.2f} GB at least")


# ---- for people ----

def test_page():
    args = ("--config", MIXTRAL, "--formats", "Q3_K_M,4.5", "--vram", "16G", "--link", "3.35G")
    lines, told = page(*args), plan(*args)
    text = "\n".join(lines)
    assert "tok/s   = 1 / max(D / L, S / (0.85 * V) + 32 layers * 50 us)" in text
    assert "prefill = 128 / max((W - R) / L, 2 * 128 * P / F)" in text
    assert "2 * 32 layers * 4096 positions * 1024 * 2 bytes" in text
    assert "of experts 2 in 8" in text and "3.35 GB/s\n" in text
    assert "800 GB/s (assumed; --memory)" in text and "70 TFLOP/s (assumed; --flops)" in text
    for form, name in zip(told["formats"], ("Q3_K_M", "4.5 bits"), strict=True):
        row, layers = (line for line in lines if line.startswith(name))
        assert row.split()[len(name.split()):] == [
            f"{form['bits_per_weight']:.2f}",
            *(word for key in ("weights", "resident", "touched", "streamed")
              for word in (f"{form[key + '_bytes'] / 1e9:.2f}", "GB")),
            f"{form['tok_s'][0]:.2f}",
            f"{form['prefill_tok_s'][0]:.2f}"]
        count = len(form["resident_layers"])
        assert f"{count} of 32 layers resident, {32 - count} more without their experts" in layers
    given = "\n".join(page("--config", MIXTRAL, "--vram", "40G", "--link", "7G", "--memory", "1T",
                           "--flops", "100T"))
    assert "assumed" not in given and "1000 GB/s" in given and "100 TFLOP/s" in given


def test_page_has_the_shorter_list_of_layers():
    def listed(memory):
        (line,) = [line for line in page("--config", LLAMA_70B, "--formats", "Q4_K_M", "--vram",
                                         memory) if line.startswith("Q4_K_M") and "layers" in line]
        return line
    few, many = listed("8G"), listed("40G")
    assert "; resident: " in few and "; streamed: " in many
    for line, memory in ((few, "8G"), (many, "40G")):
        told = forecast("--config", LLAMA_70B, "--formats", "Q4_K_M", "--vram", memory)
        kind, ranges = line.split("; ")[1].split(": ")
        found = []
        for part in ranges.split(", "):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
        assert found == told[f"{kind}_layers"]
        assert len(told[f"{kind}_layers"]) < 40
    assert "; " not in listed("60G") and "80 of 80 layers resident, the output" in listed("60G")


def test_this_machine_is_what_is_meant_otherwise(file):
    told = forecast(file)
    with open("/proc/meminfo") as info:
        total = int(info.readline().split()[1]) * 1024
    assert told["device"] == "ram" and 0 < told["memory_bytes"] < total
    assert told["context"] == 512 and forecast(file, "-c", 100)["context"] == 100


# ---- refusals ----

@pytest.mark.parametrize("base, changes, message", [
    (LLAMA_33B, {"num_hidden_layers": 5000}, "num_hidden_layers 5000 is above 4096"),
    (LLAMA_33B, {"num_hidden_layers": 0}, "num_hidden_layers is not a positive integer"),
    (LLAMA_33B, {"hidden_size": "6656"}, "hidden_size is not a positive integer"),
    (LLAMA_33B, {"hidden_size": 2**20 + 1}, "hidden_size 1048577 is above 1048576"),
    (LLAMA_33B, {"intermediate_size": 2**40}, "intermediate_size is not a positive integer"),
    (LLAMA_33B, {"vocab_size": -1}, "vocab_size is not a positive integer"),
    (LLAMA_33B, {"num_key_value_heads": 5},
     "num_key_value_heads 5 does not divide num_attention_heads 52"),
    (LLAMA_33B, {"head_dim": 63}, "head_dim 63 is odd"),
    (LLAMA_33B, {"head_dim": 2**20}, "num_attention_heads of 1048576 are wider than 1048576"),
    (LLAMA_33B, {"model_type": "none", "num_key_value_heads": 52, "vocab_size": ...},
     "vocab_size is missing"),
    (LLAMA_33B, {"architectures": ["FalconForCausalLM"]},
     "architectures: FalconForCausalLM is not known"),
    (LLAMA_33B, {"architectures": ["Phi3ForCausalLM"]}, "models like phi3 cannot be run"),
    (LLAMA_33B, {"architectures": ...}, "architectures does not name a class"),
    (LLAMA_33B, {"model_type": "none", "num_key_value_heads": 52,
                 "max_position_embeddings": ...}, "give -c"),
    (MIXTRAL, {"num_local_experts": 2000}, "num_local_experts 2000 is above 1024"),
    (MIXTRAL, {"num_experts_per_tok": 9}, "num_experts_per_tok 9 is above 8"),
    (MIXTRAL, {"num_experts_per_tok": None}, "num_experts_per_tok is missing"),
    (MIXTRAL, {"num_local_experts": 1024, "num_hidden_layers": 4096, "hidden_size": 2**20,
               "intermediate_size": 2**20}, "more than 2^56 weights"),
])
def test_bad_configs_are_named(base, changes, message, tmp_path):
    config = write_config(tmp_path / "config.json", base, **changes)
    said = fails("--config", config, "--vram", "24G")
    assert str(config) in said and message in said


def test_what_is_no_config_is_refused(tmp_path, file):
    config = tmp_path / "config.json"
    for text in ("", "{", "[]", '{"architectures": 1}', "\0"):
        config.write_text(text)
        assert str(config) in fails("--config", config)
    assert "nowhere" in fails("--config", "nowhere")
    assert "nowhere" in fails("nowhere")
    assert str(config) in fails(config)
    shutil.copy(file, config)
    assert str(config) in fails("--config", config)


def test_largest_sizes_do_not_overflow(tmp_path):
    config = write_config(tmp_path / "config.json", LLAMA_33B, num_hidden_layers=4096,
                          hidden_size=2**20, intermediate_size=2**20, num_attention_heads=2**13,
                          num_key_value_heads=2**13, vocab_size=2**32 - 1)
    layer, output = 7 * 2**40, (2**32 - 1) * 2**20
    told = forecast("--config", config, "--formats", "F32", "--vram", "1000000T", "-c", 2**20)
    assert told["weights_bytes"] == 4 * (4096 * layer + output)
    assert told["cache_bytes"] == 2 * 4096 * 2**20 * 2**20 * 2


@pytest.mark.parametrize("args", [
    [], ["x", "y"], ["x", "--config", LLAMA_33B], ["x", "--formats", "Q8_0"],
    ["x", "--ram", "1G", "--vram", "1G"], ["x", "--ram", "0"], ["x", "--ram", "1X"],
    ["x", "--vram", "-1"], ["x", "--link", ""], ["x", "--link", "1G,"], ["x", "--link", "0"],
    ["x", "--link", "nan"], ["x", "--link", "-3G"], ["x", "--link", "1e300"],
    ["x", "--link", ",".join(["1G"] * 9)], ["x", "--memory", "fast"], ["x", "--flops", "T"],
    ["x", "-c", "0"], ["x", "-c", "2000000"], ["x", "--nonsense"], ["x", "-t", "3"]])
def test_wrong_command_lines_are_refused(args):
    assert "usage: quantfs-run plan" in fails(*args, status=1)


@pytest.mark.parametrize("formats, message", [
    ("Q4_K_X", '"Q4_K_X"'), ("Q4_K_M,", '""'), ("0.5", '"0.5"'), ("33", '"33"'), ("nan", '"nan"'),
    (",".join(["Q8_0"] * 33), "more than 32")])
def test_wrong_formats_are_named(formats, message):
    said = fails("--config", LLAMA_33B, "--vram", "24G", "--formats", formats)
    assert "--formats" in said and message in said


def test_help():
    done = quantfs_run("plan", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: quantfs-run plan ")
    assert "\nExample: quantfs-run plan" in done.stdout
