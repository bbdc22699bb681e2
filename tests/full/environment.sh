# SPDX-License-Identifier: MIT
# Sourced by tools/check --full in the repository's root: fetches llama.cpp (the source package of
# llama-cpp-python carries the whole tree), builds its tools, makes a Python environment for its
# converter, and says where all that is:
#
#   QUANTFS_LLAMA_TREE    llama.cpp's sources, with convert_hf_to_gguf.py
#   QUANTFS_LLAMA_BIN     the folder with llama-quantize and its like
#   QUANTFS_FULL_PYTHON   a Python with torch and the transformers that the converter pins, and what
#                         this loads quantized layers with

full_folder=$PWD/build-check/full
full_version=0.3.36
QUANTFS_LLAMA_TREE=$full_folder/llama_cpp_python-$full_version/vendor/llama.cpp
QUANTFS_LLAMA_BIN=$full_folder/llama/bin
QUANTFS_FULL_PYTHON=$full_folder/venv/bin/python
export QUANTFS_LLAMA_TREE QUANTFS_LLAMA_BIN QUANTFS_FULL_PYTHON

mkdir -p "$full_folder"
if [ ! -x "$QUANTFS_FULL_PYTHON" ]; then
    echo "check: installing torch and transformers into $full_folder/venv"
    /usr/bin/python3 -m venv "$full_folder/venv.new"
    "$full_folder/venv.new/bin/pip" install -q --disable-pip-version-check \
        torch transformers==4.57.6 sentencepiece==0.2.3 safetensors numpy pyyaml requests
    mv "$full_folder/venv.new" "$full_folder/venv"
fi
if ! "$QUANTFS_FULL_PYTHON" -c 'import accelerate, bitsandbytes, compressed_tensors' \
        > "$full_folder/import.log" 2>&1; then
    echo "check: installing bitsandbytes and compressed-tensors"
    "$full_folder/venv/bin/pip" install -q --disable-pip-version-check \
        accelerate bitsandbytes==0.50.2 compressed-tensors==0.20.0 transformers==4.57.6
fi
if ! "$QUANTFS_FULL_PYTHON" -c 'import peft' 2> /dev/null; then
    echo "check: installing peft into $full_folder/venv"
    "$full_folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2
fi
if [ ! -d "$QUANTFS_LLAMA_TREE" ]; then
    echo "check: fetching llama.cpp"
    "$PWD/build-check/venv/bin/pip" download -q --disable-pip-version-check --no-deps \
        --no-binary :all: -d "$full_folder" "llama-cpp-python==$full_version"
    tar -xf "$full_folder/llama_cpp_python-$full_version.tar.gz" -C "$full_folder"
fi
full_tools="llama-quantize llama-completion llama-perplexity llama-bench llama-imatrix"
for full_tool in $full_tools; do
    [ -x "$QUANTFS_LLAMA_BIN/$full_tool" ] || full_missing=$full_tool
done
if [ -n "${full_missing-}" ]; then
    echo "check: building llama.cpp's tools"
    cmake -G Ninja -S "$QUANTFS_LLAMA_TREE" -B "$full_folder/llama" -DCMAKE_BUILD_TYPE=Release \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF \
        -DLLAMA_OPENSSL=OFF > "$full_folder/cmake.log"
    # shellcheck disable=SC2086  # a list of targets
    ninja -C "$full_folder/llama" $full_tools > "$full_folder/ninja.log"
fi
