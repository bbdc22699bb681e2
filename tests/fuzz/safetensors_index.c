/* SPDX-License-Identifier: MIT
 *
 * A model.safetensors.index.json.
 */
#include "codec/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct safetensors_index index;
    if (safetensors_index_parse((const char *)data, size, &index, &err))
        return 0;
    assert(index.shard_count && index.shard_count <= index.tensor_count);
    for (size_t i = 0; i < index.shard_count; i++) {
        use_text(index.shards[i]);
        assert(*index.shards[i] != '/' && *index.shards[i]);
        assert(i == 0 || strcmp(index.shards[i - 1], index.shards[i]) < 0);
    }
    for (size_t i = 0; i < index.tensor_count; i++)
        use_text(index.tensors[i]);
    safetensors_index_free(&index);
    return 0;
}
