# SPDX-License-Identifier: MIT
"""docs/formats.md has a row for every form of the program, and its bits."""
import json
import re

from conftest import ROOT, run


def rows(heading):
    """name -> bits, of the table below a heading."""
    text = (ROOT / "docs" / "formats.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    told = {}
    for line in re.findall(r"^\|(.+)\|$", text, re.M)[2:]:
        names, bits, *rest = (cell.strip() for cell in line.split("|"))
        assert rest and all(rest), line
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in told, name
            told[name] = bits
    return told


def bits(number):
    return f"{number:.4g}"


def test_every_form_has_a_row():
    told = json.loads(run("formats", "--json").stdout)
    packed = {f["name"]: bits(f.get("bpw", f.get("bpw_4096")))
              for kind in ("formats", "guided", "spqr", "gptq", "awq", "scaled") for f in told[kind]}
    assert rows("tensors/") == packed
    assert rows("gguf/") == {r["name"]: bits(r["bpw"]) for r in told["recipes"]}
    assert rows("hf/") == {f["name"]: packed[f["layers"]] for f in told["folders"]}
