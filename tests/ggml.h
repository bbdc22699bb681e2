/* SPDX-License-Identifier: MIT
 *
 * ggml's own encoders and decoders, out of its shared library: what ours are compared with. The
 * library is loaded by path, so nothing of it is needed to build.
 */
#ifndef TESTS_GGML_H
#define TESTS_GGML_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* struct ggml_type_traits of ggml.h. */
struct ggml_traits {
    const char *name; /* "q4_K" */
    int64_t block, interleaved;
    size_t block_size;
    bool quantized;
    void (*to_float)(const void *blocks, float *x, int64_t n); /* NULL for F32 */
    void (*from_float)(const float *x, void *blocks, int64_t n);
};

struct ggml {
    /* ggml_quantize_chunk: nrows rows of ncols weights; importance is NULL or ncols floats. */
    size_t (*quantize)(int type, const float *x, void *blocks, int64_t start, int64_t nrows,
                       int64_t ncols, const float *importance);
    const struct ggml_traits *(*traits)(int type);
    /* ggml_validate_row_data: whether the scales of packed rows are finite. */
    bool (*validate)(int type, const void *blocks, size_t size);
};

/* Loads libggml-base.so; false with the reason in dlerror(). It stays loaded. */
static inline bool ggml_load(struct ggml *g, const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    return library && (*(void **)&g->quantize = dlsym(library, "ggml_quantize_chunk")) &&
           (*(void **)&g->traits = dlsym(library, "ggml_get_type_traits")) &&
           (*(void **)&g->validate = dlsym(library, "ggml_validate_row_data"));
}

#endif
