# SPDX-License-Identifier: MIT
"""The references of tests/mount/test_architectures.py, made anew by the real tools: neither they
nor the generator of models may have drifted."""

import json

import pytest

from architectures import MODELS
from make_oracles import ORACLE, oracle


@pytest.mark.parametrize("name", MODELS)
def test_references_are_what_llama_cpp_makes(name):
    assert oracle(name) == json.loads(ORACLE.read_text())[name]
