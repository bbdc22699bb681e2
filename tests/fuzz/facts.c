/* SPDX-License-Identifier: MIT
 *
 * What quantfs-run takes from the keys of a GGUF file: the sizes of a model, and with its vocabulary a
 * message in the words of its chat template.
 */
#include "tests/fuzz/fuzz.h"
#include "tools/run/chat.h"
#include "tools/run/facts.h"

/* What buffers and loops of the forward pass rest on. */
static void use_facts(const struct facts *f)
{
    assert(f->layers && f->width && f->ffn && f->heads && f->kv_heads && f->head_dim);
    assert(f->heads % f->kv_heads == 0);
    assert(f->head_dim % 2 == 0 && f->rope_dim % 2 == 0 && f->rope_dim <= f->head_dim);
    assert(f->layers <= 1 << 12 && f->width <= 1 << 20 && f->ffn <= 1 << 20);
    assert((uint64_t)f->heads * f->head_dim <= 1 << 20);
    assert(f->experts <= EXPERTS_MAX && f->experts_used <= f->experts);
    assert(!f->experts == !f->experts_used);
    assert(f->query_scale > 0 && f->rope_scale > 0);
    assert(!f->vocab && !f->rope_factors);
    use_text(f->habits->arch);
}

static void use_chat(const struct gguf_header *h, const struct gguf_vocab *v)
{
    static const char *const systems[] = {NULL, "", " be brief\n"};
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++) {
        struct error err;
        struct buffer out = {0};
        if (chat_format(h, v, systems[i], "\t who? ", &out, &err) == 0)
            assert(memmem(out.data, out.size, "who?", 4));
        buffer_free(&out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct gguf_header h;
    struct gguf_vocab v;
    struct facts f;
    if (gguf_parse(data, size, &h, &err))
        return 0;
    if (facts_read(&h, &f, &err) == 0)
        use_facts(&f);
    if (gguf_vocab_load(&h, &v, &err) == 0) {
        use_chat(&h, &v);
        gguf_vocab_free(&v);
    }
    gguf_header_free(&h);
    return 0;
}
