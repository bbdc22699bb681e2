/* SPDX-License-Identifier: MIT
 *
 * The matrices of one layer, held in memory: as they are in the file, or with other values. While
 * they are held, a model whose weights were never placed can run this layer.
 */
#ifndef TOOLS_RUN_HELD_H
#define TOOLS_RUN_HELD_H

#include "tools/run/inputs.h"
#include "tools/run/model.h"

struct held {
    struct weights *weights; /* not owned */
    struct held_matrix {
        const struct weight **place; /* in the layer */
        const struct weight *stored; /* which stands there when this is over */
        enum layer_input input;
        uint32_t part;              /* expert */
        struct weight here, floats; /* as it is now, as it may become */
        void *memory;               /* the backend's, with room for floats; NULL: not loaded yet */
    } * matrices;
    size_t count;
};

/* Bytes of a layer as floats, which is the most that one takes. */
uint64_t held_bytes(const struct facts *f);

/* Reads a layer's matrices. -errno with a sentence, and nothing is held. */
int held_load(struct held *h, struct run_model *m, uint32_t layer, struct weights *weights,
              struct error *err);

/* Room for floats [rows][cols] in place of what the matrix had, which the layer takes from now on. */
float *held_replace(struct held_matrix *m);

/* The layer's matrices are those of the file again. */
void held_free(struct held *h);

#endif
