/* SPDX-License-Identifier: MIT
 *
 * A baseline on disk: read row by row, or written so that it is complete or not there. Errors are
 * -errno with a sentence that begins with the path.
 */
#ifndef TOOLS_RUN_BASELINE_FILE_H
#define TOOLS_RUN_BASELINE_FILE_H

#include "codec/token_ids.h"
#include "daemon/source.h"
#include "tools/output.h"
#include "tools/run/baseline.h"

/* ---- reading ---- */

struct baseline_reader {
    struct baseline layout;
    struct source_set *set;
    struct source *file;
    struct stats stats;
    uint8_t *row; /* the one that was read last */
};

int baseline_open(struct baseline_reader *r, const char *path, struct error *err);

/* All ids of the text, each below the vocabulary; free ids->ids. */
int baseline_read_ids(struct baseline_reader *r, struct token_ids *ids, struct error *err);

/* A row of a chunk; it is there until the next is read. */
int baseline_read_row(struct baseline_reader *r, uint32_t chunk, uint32_t number,
                      struct baseline_row *row, struct error *err);

void baseline_close(struct baseline_reader *r);

/* ---- writing ---- */

struct baseline_writer {
    struct baseline layout;
    struct output out;
    uint8_t *row;
};

/* -EEXIST where the file is there. */
int baseline_create(struct baseline_writer *w, const char *path, struct error *err);

/* Writes head and ids: context * chunks of them. */
int baseline_begin(struct baseline_writer *w, struct baseline layout, const uint32_t *ids,
                   struct error *err);

/* Writes the next row. */
int baseline_write_row(struct baseline_writer *w, const float *logits, struct error *err);

/* As output_close. */
int baseline_finish(struct baseline_writer *w, int rc, struct error *err);

#endif
