/* SPDX-License-Identifier: MIT */
#include "fs/guidance.h"

#include "codec/layer_input.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct calibration *guidance_calibration(const struct checkpoint *c, bool own)
{
    return own ? c->own_imatrix : c->calibration;
}

int guidance_importance(const struct checkpoint *c, const struct model_tensor *t, bool own,
                        const float **importance, struct error *err)
{
    struct calibration *from = guidance_calibration(c, own);
    *importance = NULL;
    if (own && *c->own_imatrix_problem.text)
        return error_set(err, -EINVAL, "%s", c->own_imatrix_problem.text);
    const struct imatrix_entry *e = from ? imatrix_find(&from->imatrix, t->name) : NULL;
    if (!e)
        return 0;
    if (e->count != t->ne[0] * t->ne[2]) {
        /* An embedding's entry of another size is passed over, as upstream does. */
        if (strcmp(t->name, "token_embd.weight") == 0)
            return 0;
        return error_set(err, -EINVAL,
                         "importance matrix %s: the entry of %s has %zu values, not %" PRIu64,
                         own ? c->factor_folder : from->name, t->name, e->count,
                         t->ne[0] * t->ne[2]);
    }
    *importance = e->weights;
    return 0;
}

bool guidance_knows(const struct checkpoint *c, const struct model_tensor *t)
{
    struct layer_input_id id;
    return c->factor_folder && layer_input_of(t->name, &id);
}

/* A layer's factors are those of inputs that depend on how the layers before it are packed. */
static int check_sequential(const struct checkpoint *c, const struct format *f, struct error *err)
{
    if (*c->sequential_problem.text)
        return error_set(err, -EINVAL, "%s", c->sequential_problem.text);
    if (c->sequential && strcmp(c->sequential, f->name) != 0)
        return error_set(err, -EINVAL, "the calibration in %s is for %.32s alone, not for %s",
                         c->factor_folder, c->sequential, f->name);
    return 0;
}

static int open_factor(const struct checkpoint *c, const struct layer_input_id *id, uint64_t expert,
                       const struct format *f, uint64_t columns, struct factor **out,
                       struct error *err)
{
    char path[PATH_MAX], name[64];
    factor_file_name(id, expert, f->damping, f->natural, name, sizeof name);
    int n = snprintf(path, sizeof path, "%s/%s", c->factor_folder, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return error_set(err, -ENAMETOOLONG, "%s: the name is too long", c->factor_folder);
    int rc = factor_open(c->factors, path, columns, out, err);
    return rc == -ENOENT ? 0 : rc;
}

int guidance_factors(const struct checkpoint *c, const struct model_tensor *t, uint64_t first,
                     uint64_t count, const struct format *f, struct factor **out,
                     struct error *err)
{
    struct layer_input_id id;
    memset(out, 0, count * sizeof *out);
    if (f->damping == 0 || !c->factor_folder || !layer_input_of(t->name, &id))
        return 0;
    int rc = check_sequential(c, f, err);
    for (uint64_t i = 0; !rc && i < count; i++)
        rc = open_factor(c, &id, first + i, f, t->ne[0], &out[i], err);
    for (uint64_t i = 0; rc && i < count; i++) {
        factor_unref(out[i]);
        out[i] = NULL;
    }
    return rc;
}
