/* SPDX-License-Identifier: MIT
 *
 * What the fuzz targets share: uses of what a parser handed back, so that a length that lies is
 * seen, and inputs that stand for several files.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "codec/model.h"

#include <assert.h>

/* The target: parses `size` bytes and uses what comes out of them. Always 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte. */
void use_bytes(const void *data, size_t n);
void use_text(const char *s);

/* Reads the tensors, which must lie in the file, and what can be widened of them; one is encoded
 * in every format. */
void use_tensors(const struct tensor_list *list, const uint8_t *file, size_t file_size);

/* Asks every view for rows, and every recipe for the tensors' formats. */
void use_model(const struct model *m);

/* What was put must be a GGUF header that our own reader accepts. */
void use_keys(const struct gguf_keys *keys);

/* Several files in one input: a line "--- NAME" and then the file, up to the newline in front of
 * the next such line. Each is a piece of memory of its own. */
struct files {
    struct {
        char *name, *data;
        size_t size;
    } items[16];
    size_t count;
};

void files_split(const uint8_t *data, size_t size, struct files *f);
void files_free(struct files *f);

/* As model_files.get; context: the files. */
int files_get(void *context, const char *name, struct blob *out, struct error *err);

/* The file as JSON; NULL if there is none or it is no JSON. */
json_t *files_json(struct files *f, const char *name);

#endif
