/* SPDX-License-Identifier: MIT
 *
 * What torch.save writes: the zip directory, the pickle, the storages that its tensors lie in.
 * Whatever is no zip archive is read as a bare pickle.
 */
#include "codec/torch.h"
#include "codec/zip.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

/* The bytes of a member; false if its place is not valid. */
static bool get_member(const uint8_t *file, size_t size, const struct zip_member *m,
                       struct blob *out)
{
    struct error err;
    uint64_t offset;
    if (size < ZIP_LOCAL_SIZE || m->offset > size - ZIP_LOCAL_SIZE ||
        zip_data_offset(file + m->offset, m, size, &offset, &err))
        return false;
    *out = (struct blob){file + offset, (size_t)m->size};
    use_bytes(out->data, out->size);
    return true;
}

static void use_storage(const struct torch_tensor *t, const uint8_t *file, size_t size,
                        const struct zip_archive *a)
{
    char name[256];
    struct blob storage;
    uint64_t first, bytes;
    snprintf(name, sizeof name, "archive/data/%s", t->storage);
    const struct zip_member *m = zip_find(a, name);
    if (!m || !get_member(file, size, m, &storage) || !dtype_bytes(t->dtype, t->first, &first) ||
        !dtype_bytes(t->dtype, t->elements, &bytes) || first > storage.size ||
        bytes > storage.size - first)
        return;
    use_bytes((const uint8_t *)storage.data + first, (size_t)bytes);
}

static void use_pickle(struct blob pickle, const uint8_t *file, size_t size,
                       const struct zip_archive *a)
{
    struct error err;
    struct torch_pickle p;
    if (torch_pickle_parse(pickle.data, pickle.size, &p, &err))
        return;
    for (size_t i = 0; i < p.count; i++) {
        const struct torch_tensor *t = &p.tensors[i];
        uint64_t elements = 1;
        for (uint32_t d = 0; d < t->ndim; d++)
            elements *= t->shape[d];
        use_text(t->name);
        use_text(t->dtype->name);
        assert(elements == t->elements);
        use_storage(t, file, size, a);
    }
    torch_pickle_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct zip_directory d;
    struct zip_archive a = {0};
    size_t tail = size < ZIP_TAIL_MAX ? size : ZIP_TAIL_MAX;
    if (zip_find_directory(data + size - tail, tail, size, &d, &err)) {
        use_pickle((struct blob){data, size}, data, size, &a);
        return 0;
    }
    if (zip_parse_directory(data + d.offset, (size_t)d.size, &d, size, &a, &err))
        return 0;
    for (size_t i = 0; i < a.count; i++) {
        struct blob member;
        use_text(a.members[i].name);
        assert(zip_find(&a, a.members[i].name) == &a.members[i]);
        if (get_member(data, size, &a.members[i], &member) &&
            strcmp(a.members[i].name, "archive/data.pkl") == 0)
            use_pickle(member, data, size, &a);
    }
    zip_free(&a);
    return 0;
}
