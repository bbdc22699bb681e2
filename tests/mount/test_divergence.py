# SPDX-License-Identifier: MIT
"""quantfs-run perplexity --save-logits and --kl-divergence: what a model expects, saved, and how far
another is from it."""

import json
import math
import os
import re
import struct
import subprocess

import numpy as np
import pytest

from conftest import DATA, QUANTFS, run

RUN = QUANTFS.parent / "quantfs-run"
TEXT = DATA / "kjv-eval.txt"
CONTEXT, CHUNKS = 128, 3
ROWS = CONTEXT - 1 - CONTEXT // 2
HEAD = 20
IDS_END = HEAD + 4 * CONTEXT * CHUNKS


SPEED = ("memory_bytes_s", "expected_tok_s")  # which no two runs share


def perplexity(*args):
    return subprocess.run([RUN, "perplexity", "-q", *map(str, args)], capture_output=True, text=True,
                          timeout=120, check=False)


def compared(base, file, *args):
    done = perplexity("--kl-divergence", base, "--json", *args, file)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return {key: value for key, value in told.items() if key not in SPEED}


def refused(*args, status=2):
    done = perplexity(*args)
    assert done.returncode == status and not done.stdout
    return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a model, and `base`, which was saved with the first."""
    path = tmp_path_factory.mktemp("divergence")
    for recipe in ("F16", "Q4_K_M", "Q2_K"):
        run("convert", DATA / "demo-llama", "-t", recipe, "-o", path / recipe)
    run("convert", DATA / "demo-qwen2", "-t", "Q4_0", "-o", path / "other")
    done = perplexity("-f", TEXT, "-c", CONTEXT, "--chunks", CHUNKS, "--save-logits", path / "base",
                      "--json", path / "F16")
    assert done.returncode == 0, done.stderr
    (path / "figures").write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def vocab(folder):
    return struct.unpack_from("<I", (folder / "base").read_bytes(), 12)[0]


def test_bytes_of_a_base_run(folder, vocab):
    """Head, ids of the text, and rows that are probabilities and give the base's perplexity."""
    data = (folder / "base").read_bytes()
    assert struct.unpack_from("<8s3I", data) == (b"_logits_", CONTEXT, vocab, CHUNKS)
    text = TEXT.read_text()[:4000]
    ids = json.loads(subprocess.run([RUN, "tokenize", "-p", text, folder / "F16"], check=True,
                                    capture_output=True).stdout)
    saved = struct.unpack_from(f"<{CONTEXT * CHUNKS}I", data, HEAD)
    assert saved == tuple(ids[:len(saved)])
    row_size = 8 + (vocab + 1) // 2 * 4
    assert len(data) == IDS_END + CHUNKS * ROWS * row_size
    surprise = 0
    for chunk in range(CHUNKS):
        for i in range(ROWS):
            at = IDS_END + (chunk * ROWS + i) * row_size
            scale, least = struct.unpack_from("<2f", data, at)
            codes = struct.unpack_from(f"<{vocab}H", data, at + 8)
            assert sum(math.exp(least + scale * c) for c in codes) == pytest.approx(1, abs=1e-3)
            surprise -= least + scale * codes[saved[chunk * CONTEXT + CONTEXT // 2 + i + 1]]
    figures = json.loads((folder / "figures").read_text())
    assert figures["tokens"] == CHUNKS * ROWS and figures["chunks"] == CHUNKS
    assert math.exp(surprise / (CHUNKS * ROWS)) == pytest.approx(figures["perplexity"], rel=0.01)


def test_model_does_not_diverge_from_itself(folder):
    told, alone = compared(folder / "base", folder / "F16"), json.loads((folder / "figures").read_text())
    assert told["same_top_p"] == 1 and told["same_top_p_error"] == 0
    assert abs(told["kl_divergence_mean"]) < 1e-5 and told["kl_divergence_max"] < 1e-3
    assert told["delta_p_rms"] < 1e-4 and told["ln_perplexity_correlation"] > 0.999
    for key in ("perplexity", "perplexity_error", "chunks", "tokens"):
        assert told[key] == pytest.approx(alone[key])


def test_fewer_bits_diverge_more(folder):
    fine, coarse = (compared(folder / "base", folder / r) for r in ("Q4_K_M", "Q2_K"))
    assert 0.001 < fine["kl_divergence_mean"] < coarse["kl_divergence_mean"]
    assert fine["delta_p_rms"] < coarse["delta_p_rms"]
    assert 1 > fine["same_top_p"] > coarse["same_top_p"]
    for told in (fine, coarse):
        order = [told[f"kl_divergence_{q}"] for q in
                 "min p0_1 p1 p5 p10 median p90 p95 p99 p99_9 max".split()]
        assert order == sorted(order)
        assert told["perplexity"] - told["perplexity_base"] == pytest.approx(
            told["perplexity_difference"], abs=1e-6)


def saved_rows(path, vocab):
    """ln p of every row of a base file, and the ids that came true."""
    data, row_size = path.read_bytes(), 8 + (vocab + 1) // 2 * 4
    rows = np.frombuffer(data, np.uint8, offset=IDS_END).reshape(-1, row_size)
    scale, least = rows[:, :8].copy().view("<f4").T.astype(np.float64)
    ids = np.frombuffer(data, "<u4", CONTEXT * CHUNKS, HEAD).reshape(CHUNKS, CONTEXT)
    codes = rows[:, 8:8 + 2 * vocab].copy().view("<u2")
    return least[:, None] + scale[:, None] * codes, ids[:, CONTEXT // 2 + 1:].reshape(-1)


def test_figures_follow_from_the_rows(folder, vocab, tmp_path):
    """Computed once more, from what both models expect as it was saved."""
    done = perplexity("-f", TEXT, "-c", CONTEXT, "--chunks", CHUNKS, "--save-logits",
                      tmp_path / "coarse", folder / "Q2_K")
    assert done.returncode == 0, done.stderr
    told = compared(folder / "base", folder / "Q2_K")
    (base, ids), (own, _) = (saved_rows(path, vocab) for path in (folder / "base",
                                                                   tmp_path / "coarse"))
    kld = (np.exp(base) * (base - own)).sum(1)
    at = np.arange(len(ids)), ids
    change, n = np.exp(own[at]) - np.exp(base[at]), len(ids)
    wanted = {
        "kl_divergence_mean": kld.mean(), "kl_divergence_mean_error": kld.std(ddof=1) / n**0.5,
        "kl_divergence_max": kld.max(), "kl_divergence_p90": np.quantile(kld, 0.9),
        "kl_divergence_median": np.median(kld), "delta_p_rms": (change**2).mean()**0.5,
        "delta_p_mean": change.mean(), "delta_p_p25": np.quantile(change, 0.25),
        "same_top_p": (own.argmax(1) == base.argmax(1)).mean(),
        "perplexity": np.exp(-own[at].mean()), "perplexity_base": np.exp(-base[at].mean()),
        "ln_perplexity_ratio": (base[at] - own[at]).mean(),
        "ln_perplexity_ratio_error": (base[at] - own[at]).std(ddof=1) / n**0.5,
        "ln_perplexity_correlation": np.corrcoef(own[at], base[at])[0, 1]}
    for key, value in wanted.items():
        assert told[key] == pytest.approx(value, rel=0.02, abs=1e-4), key


def test_text_is_that_of_llama_perplexity(folder):
    """Its headings, its names and its digits."""
    done, told = perplexity("--kl-divergence", folder / "base", folder / "Q2_K"), compared(
        folder / "base", folder / "Q2_K")
    assert done.returncode == 0
    assert re.findall(r"^=+ (.*) =+$", done.stdout, re.M) == [
        f"{what} statistics" for what in ("Perplexity", "KL divergence", "Token probability")]
    for pattern, key, factor in (
            (r"^Mean PPL\(Q\) +: +(\S+) ± +\S+$", "perplexity", 1),
            (r"^Mean +KLD: +(\S+) ± +\S+$", "kl_divergence_mean", 1),
            (r"^99.9% +KLD: +(\S+)$", "kl_divergence_p99_9", 1),
            (r"^Median +Δp: +(\S+)%$", "delta_p_median", 100),
            (r"^RMS Δp +: +(\S+) ± +\S+ %$", "delta_p_rms", 100),
            (r"^Same top p: +(\S+) ± +\S+ %$", "same_top_p", 100)):
        assert float(re.search(pattern, done.stdout, re.M)[1]) == pytest.approx(
            factor * told[key], abs=0.001), pattern


def test_first_chunks_and_the_same_text(folder):
    whole = compared(folder / "base", folder / "Q2_K")
    assert compared(folder / "base", folder / "Q2_K", "-f", TEXT, "-c", CONTEXT) == whole
    two = compared(folder / "base", folder / "Q2_K", "--chunks", 2)
    assert (two["chunks"], two["tokens"]) == (2, 2 * ROWS) and two != whole


def test_what_does_not_belong_together_is_named(folder, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(TEXT.read_text().replace("the", "teh"))
    base, file = folder / "base", folder / "Q2_K"
    for args, reason in (((folder / "other",), "of a vocabulary of"),
                         (("-c", 64, file), f"contexts of {CONTEXT} tokens, not 64"),
                         (("-f", other, file), f"{other} is another text"),
                         (("-f", tmp_path / "none", file), "No such file"),
                         (("--chunks", 1, file), f"{ROWS} tokens are compared")):
        message = refused("--kl-divergence", base, *args)
        assert reason in message and message.startswith("quantfs-run: ")


def damage(data, at, value):
    return data[:at] + value + data[at + len(value):]


ROW = IDS_END + 8  # the first code
DAMAGED = {
    "magic": lambda d: damage(d, 0, b"_logits-"),
    "empty": lambda d: b"",
    "head": lambda d: d[:19],
    "short": lambda d: d[:-1],
    "long": lambda d: d + b"\0\0\0\0",
    "chunks": lambda d: damage(d, 16, struct.pack("<I", CHUNKS + 1)),
    "chunks-huge": lambda d: damage(d, 16, b"\xff\xff\xff\xff"),
    "no-chunks": lambda d: damage(d, 16, bytes(4)),
    "context": lambda d: damage(d, 8, struct.pack("<I", CONTEXT + 2)),
    "context-huge": lambda d: damage(d, 8, b"\xff\xff\xff\xff"),
    "context-2": lambda d: damage(d, 8, struct.pack("<I", 2)),
    "vocab": lambda d: damage(d, 12, b"\xff\xff\xff\xff"),
    "no-vocab": lambda d: damage(d, 12, bytes(4)),
    "id": lambda d: damage(d, HEAD + 4 * 7, struct.pack("<i", -1)),
    "scale-nan": lambda d: damage(d, IDS_END, struct.pack("<f", math.nan)),
    "scale-negative": lambda d: damage(d, IDS_END, struct.pack("<f", -1)),
    "scale-inf": lambda d: damage(d, IDS_END, struct.pack("<f", math.inf)),
    "least-nan": lambda d: damage(d, IDS_END + 4, struct.pack("<f", math.nan)),
    "least-low": lambda d: damage(d, IDS_END + 4, struct.pack("<f", -1e30)),
    "least-high": lambda d: damage(d, IDS_END + 4, struct.pack("<f", 1)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(folder, tmp_path, kind):
    path = tmp_path / "damaged"
    path.write_bytes(DAMAGED[kind]((folder / "base").read_bytes()))
    message = refused("--kl-divergence", path, folder / "Q2_K")
    assert re.fullmatch(rf"quantfs-run: {path}: .{{10,}}\n", message)
    place = {"id": "chunk 0, token 7: ", "scale": "chunk 0, row 0: ",
             "least": "chunk 0, row 0: "}.get(kind.split("-")[0], "")
    assert f"{path}: {place}" in message


def test_only_whole_files_are_left(folder, tmp_path):
    """A file that is there stays as it is; one that cannot be finished leaves nothing."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"mine")
    short = tmp_path / "short.txt"
    short.write_text("In the beginning")
    assert f"{kept} is there already" in refused("-f", TEXT, "--save-logits", kept, folder / "Q2_K")
    assert kept.read_bytes() == b"mine"
    assert "two contexts" in refused("-f", short, "--save-logits", tmp_path / "new", folder / "Q2_K")
    assert "No such file" in refused("-f", TEXT, "--save-logits", tmp_path / "no" / "new",
                                     folder / "Q2_K")
    assert sorted(os.listdir(tmp_path)) == ["kept", "short.txt"]


@pytest.mark.parametrize("args", [
    ["--save-logits", "x", "y"], ["-f", "x", "--save-logits", "y", "--kl-divergence", "z", "w"],
    ["--kl-divergence", "x"], ["-f", "x", "-c", "2", "y"]])
def test_wrong_command_lines_are_refused(args):
    assert "usage: quantfs-run perplexity" in refused(*args, status=1)
