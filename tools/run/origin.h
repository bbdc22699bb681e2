/* SPDX-License-Identifier: MIT
 *
 * What a calibration was made from: so that a run which was cut off goes on with the same model,
 * the same text and the same chunks, or not at all. The bytes are in codec/CALIBRATION.md.
 */
#ifndef TOOLS_RUN_ORIGIN_H
#define TOOLS_RUN_ORIGIN_H

#include "codec/gguf_vocab.h"
#include "codec/token_ids.h"
#include "daemon/source.h"

enum { ORIGIN_SIZE = 32 };

struct origin {
    uint32_t chunk_size, chunks;
    const char
        *sequential; /* the format in which each layer sees those before it; NULL: as they are */
    uint8_t digest[ORIGIN_SIZE];
};

/* Of a model's file and the first chunks of a text, which stand in o with the format already. */
void origin_of(const struct source *model, const struct gguf_vocab *v, struct token_ids *ids,
               struct origin *o);

/* Writes it into a folder that has none. -EEXIST where the folder has another one. */
int origin_settle(const struct origin *o, const char *folder, struct error *err);

#endif
