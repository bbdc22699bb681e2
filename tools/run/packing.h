/* SPDX-License-Identifier: MIT
 *
 * What packing leaves of a layer: its matrices are encoded as a mount would do it, with a
 * calibration's factors and the importance of columns, and decoded again.
 */
#ifndef TOOLS_RUN_PACKING_H
#define TOOLS_RUN_PACKING_H

#include "codec/isa.h"
#include "daemon/factor.h"
#include "tools/run/factor_file.h"
#include "tools/run/held.h"
#include "tools/run/importance.h"
#include "tools/run/team.h"

/* Bytes that encoding takes beside the matrices, of which malloc keeps some afterwards. */
enum { PACKING_WORK = 16 << 20 };

struct packing {
    const struct format *format;
    const struct isa *isa;
    const struct facts *facts;
    struct team *team;
    const char *folder; /* where the factors are */
    const struct importance *importance;
};

/* A format by name, of those that tensors can be packed in. NULL: there is none. */
const struct format *packing_format(const char *name);

/* -ENOTSUP where rows of the model's matrices are no multiple of the format's blocks, with a
 * sentence: there is no other format in its place, as recipes have it. */
int packing_check(const struct format *f, const struct facts *facts, struct error *err);

/* Puts what is left in place of the layer's matrices; routers stay as they are. -ENOTSUP where a
 * matrix cannot be packed so, -ENOENT where its factor is missing, else -errno; with a sentence. */
int packing_apply(const struct packing *p, uint32_t layer, struct held *h, struct error *err);

#endif
