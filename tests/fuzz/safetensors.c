/* SPDX-License-Identifier: MIT
 *
 * A safetensors file: the length of its header, the header, the tensors' bytes.
 */
#include "codec/safetensors.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct tensor_list list = {0};
    uint64_t header_size;
    if (safetensors_header_size(data, size, size, &header_size, &err))
        return 0;
    const char *json = (const char *)data + SAFETENSORS_PREFIX;
    if (safetensors_parse(json, (size_t)header_size, size, 0, &list, &err) == 0)
        use_tensors(&list, data, size);
    tensor_list_free(&list);
    /* a sparse file can have any size: offsets that no input of ours reaches */
    safetensors_parse(json, (size_t)header_size, INT64_MAX, 0, &list, &err);
    tensor_list_free(&list);
    return 0;
}
