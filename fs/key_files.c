/* SPDX-License-Identifier: MIT */
#include "fs/key_files.h"

#include "daemon/log.h"
#include "fs/adapter.h"

#include <errno.h>
#include <stdlib.h>

enum { FILE_MAX = 256 << 20 }; /* of tokenizer.json and its kin */

struct loaded_file {
    struct loaded_file *next;
    uint64_t size;
    char data[];
};

static int get_file(void *context, const char *name, struct blob *out, struct error *err)
{
    struct key_files *k = context;
    struct source *s;
    *out = (struct blob){0};
    const struct checkpoint *owner = k->checkpoint;
    const struct checkpoint_file *f =
        k->own ? checkpoint_find_file(owner, name) : adapter_find_file(k->checkpoint, name, &owner);
    if (!f || f->folder)
        return 0;
    if (f->outside)
        return error_set(err, -EXDEV, "%s: leads out of the store", name);
    if (f->missing)
        return error_set(err, -ENOENT, "%s: a link to nothing", name);
    int rc = checkpoint_open(owner, name, &s, err);
    if (rc)
        return rc;
    uint64_t size = source_identity(s)->size;
    struct loaded_file *file = size <= FILE_MAX ? malloc(sizeof *file + size + 1) : NULL;
    if (size > FILE_MAX)
        rc = error_set(err, -EFBIG, "%s: too large", source_path(s));
    else if (!file)
        rc = error_set(err, -ENOMEM, "out of memory");
    else
        rc = source_read(s, file->data, 0, size, err);
    source_unref(s);
    if (rc) {
        free(file);
        return rc;
    }
    file->next = k->loaded;
    file->size = size;
    k->loaded = file;
    *out = (struct blob){file->data, size};
    return 0;
}

static void warn(void *context, const char *sentence)
{
    const struct key_files *k = context;
    log_warning("%s: %s", k->checkpoint->name, sentence);
}

struct model_files key_files(struct key_files *k)
{
    return (struct model_files){.get = get_file, .warn = warn, .context = k};
}

void key_files_free(struct key_files *k)
{
    for (struct loaded_file *f; (f = k->loaded);) {
        k->loaded = f->next;
        free(f);
    }
}
