#!/bin/sh
# SPDX-License-Identifier: MIT
# no_fma.sh OBJECTS: fails if their machine code holds a fused multiply-add. Skipped (77) where
# there is no disassembler.
command -v objdump >/dev/null || exit 77
code=$(objdump -d --no-show-raw-insn "$1") || exit 1
multiplications=$(echo "$code" | grep -c 'mul[ps]s')
fused=$(echo "$code" | grep -E '\bvfn?m(add|sub|addsub|subadd)[0-9]*[ps][sdh]\b')
if [ -n "$fused" ]; then
    echo "$fused"
    exit 1
fi
# What has no multiplications has not been read either.
[ "$multiplications" -gt 0 ]
