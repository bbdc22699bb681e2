/* SPDX-License-Identifier: MIT */
#include "fs/adapter.h"

#include "codec/affix.h"
#include "codec/lora.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char config_name[] = "adapter_config.json";

bool adapter_is(const struct beneath *root, const char *path)
{
    char *file;
    if (asprintf(&file, "%s%s%s", path, *path ? "/" : "", config_name) < 0)
        return false;
    int fd = open_beneath(root, file, O_PATH);
    free(file);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* ---- merging ---- */

static int read_adapter(const struct checkpoint *c, struct lora *l, struct error *err)
{
    struct blob file;
    int rc = checkpoint_read(c, config_name, &file, err);
    if (rc)
        return rc;
    rc = lora_parse(file, l, err);
    free((void *)file.data);
    return rc ? error_prefix(err, rc, "%s", config_name) : 0;
}

/* Sources of both, by the file numbers of the merged tensors: the base's first. */
static int join_shards(struct checkpoint *c, struct checkpoint *base, struct error *err)
{
    struct source **all = calloc(base->shard_count + c->shard_count + 1, sizeof *all);
    if (!all)
        return error_set(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < base->shard_count; i++)
        all[i] = source_ref(base->shards[i]);
    memcpy(all + base->shard_count, c->shards, c->shard_count * sizeof *all);
    free(c->shards);
    c->shards = all;
    c->shard_count += base->shard_count;
    return 0;
}

/* What the merged model shows is no newer than both, and no more open than each. */
static void join_attributes(struct checkpoint *c, const struct checkpoint *base)
{
    c->mode &= base->mode;
    c->mtime_ns = base->mtime_ns > c->mtime_ns ? base->mtime_ns : c->mtime_ns;
}

static int merge(struct checkpoint *c, struct checkpoint *base, const struct lora *l, bool onto_nf4,
                 struct error *err)
{
    struct tensor_list merged = {0};
    if (base->file || *base->unreadable.text || !base->config.raw)
        return error_set(err, -ENOTSUP, "%s: it cannot be added to: %s", base->name,
                         *base->problem.text ? base->problem.text : "it is a GGUF file");
    int rc = lora_merge(l, &base->tensors, &c->tensors, (uint32_t)base->shard_count, onto_nf4,
                        &merged, err);
    rc = rc ? rc : join_shards(c, base, err);
    if (rc) {
        tensor_list_free(&merged);
        return rc;
    }
    c->own_tensors = c->tensors;
    c->lora_alpha = l->alpha;
    c->tensors = merged;
    c->container = base->container;
    c->onto = checkpoint_ref(base);
    join_attributes(c, base);
    return 0;
}

/* ---- the base ---- */

/* How it was looked for, and what came of it. */
struct adapter_base {
    int (*find)(void *context, const char *adapter, const char *name, struct checkpoint **out,
                struct error *err);
    void *context;
    char *name; /* NULL: the adapter has none for it */
    int rc;
    struct checkpoint *found;
};

static int look_for_base(struct checkpoint *c, const struct checkpoint_options *options,
                         const char *name, struct error *err)
{
    struct adapter_base *b = c->looked_for = calloc(1, sizeof *b);
    if (!b || (name && !(b->name = strdup(name))))
        return error_set(err, -ENOMEM, "out of memory");
    b->find = options->find_base;
    b->context = options->context;
    b->rc = b->find ? b->find(b->context, c->name, b->name, &b->found, err)
                    : error_set(err, -ENOENT, "it is an adapter, and its base is not known");
    return b->rc;
}

bool adapter_is_current(const struct checkpoint *c)
{
    const struct adapter_base *b = c->looked_for;
    struct checkpoint *found = NULL;
    struct error err;
    if (!b || !b->find)
        return true;
    int rc = b->find(b->context, c->name, b->name, &found, &err);
    checkpoint_unref(found);
    return rc == b->rc && found == b->found;
}

void adapter_forget(struct checkpoint *c)
{
    checkpoint_unref(c->onto);
    if (c->looked_for) {
        checkpoint_unref(c->looked_for->found);
        free(c->looked_for->name);
    }
    free(c->looked_for);
}

int adapter_merge(struct checkpoint *c, const struct checkpoint_options *options, struct error *err)
{
    struct lora l;
    int rc = read_adapter(c, &l, err);
    if (rc)
        return rc;
    rc = look_for_base(c, options, l.base, err);
    rc = rc ? rc : merge(c, c->looked_for->found, &l, options->onto_nf4, err);
    lora_free(&l);
    return rc;
}

/* ---- files ---- */

/* What an adapter's folder says of the adapter, and not of the model. */
static bool is_of_adapter(const char *name)
{
    return strcmp(name, config_name) == 0 || strcmp(name, "README.md") == 0 ||
           strcmp(name, "config.json") == 0;
}

const struct checkpoint_file *adapter_find_file(const struct checkpoint *c, const char *name,
                                                const struct checkpoint **owner)
{
    bool own = !c->onto || !is_of_adapter(name);
    const struct checkpoint_file *f = own ? checkpoint_find_file(c, name) : NULL;
    *owner = c;
    if (f || !c->onto || strcmp(name, "README.md") == 0)
        return f;
    *owner = c->onto;
    return checkpoint_find_file(c->onto, name);
}
