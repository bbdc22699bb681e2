/* SPDX-License-Identifier: MIT
 *
 * What the keys of a GGUF file say of a model that is to be run: its sizes, and the habits of its
 * architecture. Sizes that contradict each other are refused, so that nothing overflows that is
 * computed from them.
 */
#ifndef TOOLS_RUN_FACTS_H
#define TOOLS_RUN_FACTS_H

#include "codec/gguf.h"

enum {
    EXPERTS_MAX = 1024,
    LAYERS_MAX = 4096,
    WIDTH_MAX = 1 << 20, /* of any vector */
};

/* What one architecture does otherwise than the others. */
struct habits {
    const char *arch;
    bool halves;       /* RoPE turns element i with i + half, not 2i with 2i + 1 */
    bool gelu;         /* in place of SiLU */
    bool scaled_input; /* embeddings are multiplied by the root of their width */
    bool windows;      /* all layers but every sixth look back through a window, with a base for
                          RoPE of their own */
};

/* By general.architecture; NULL where it cannot be run. */
const struct habits *habits_by_arch(struct gguf_string arch);

struct facts {
    const struct habits *habits;
    uint32_t layers, width, heads, kv_heads, head_dim, rope_dim, ffn, vocab, trained_context;
    uint32_t experts, experts_used; /* 0: none */
    uint32_t window;                /* positions */
    float eps, rope_base, rope_base_window, rope_scale, query_scale, softcap; /* softcap 0: none */
    const float *rope_factors;      /* rope_dim / 2 of them, or NULL */
};

/* All but what only tensors tell: vocab and rope_factors are 0. -ENOTSUP for architectures and RoPE
 * scalings that are not known, -EINVAL for sizes that cannot be. */
int facts_read(const struct gguf_header *h, struct facts *f, struct error *err);

#endif
