/* SPDX-License-Identifier: MIT
 *
 * The vocabulary of a GGUF file: a text of all kinds, and then what is behind the header, are
 * encoded and decoded.
 */
#include "codec/gguf_encode.h"
#include "tests/fuzz/fuzz.h"

static const char text[] = "Hello, world's 12345 tests!\r\n\n   we'LL <s>see</s> \t<|im_end|> "
                           "caf\xc3\xa9 e\xcc\x81 \xef\xac\x81 \xe4\xb8\xad\xe6\x96\x87 "
                           "\xd0\x9f\xd1\x80\xd0\xb8 \xf0\x9f\x98\x80\xe2\x80\x8d [1.5] A\xc2\xa0"
                           "B\xe2\x96\x81 \xd9\xa3 \xff\xe4\xb8 \0 aaaaaaaaaaaaaaaaaaaaaaaa";

static void encode(const struct gguf_vocab *v, const char *s, size_t n, unsigned flags)
{
    struct error err;
    struct token_ids ids;
    struct buffer out = {0};
    if (gguf_encode(v, s, n, flags, &ids, &err))
        return;
    for (size_t i = 0; i < ids.count; i++) {
        assert(ids.ids[i] < v->count);
        gguf_vocab_decode(v, ids.ids[i], flags & ENCODE_PARSE, &out);
    }
    use_bytes(out.data, out.size);
    buffer_free(&out);
    free(ids.ids);
}

static void use_vocab(const struct gguf_vocab *v, const char *behind, size_t n)
{
    struct buffer out = {0};
    for (uint32_t id = 0; id <= v->count; id++) /* and one that there is not */
        gguf_vocab_decode(v, id, true, &out);
    use_bytes(out.data, out.size);
    buffer_free(&out);
    for (uint32_t id = 0; id < v->count; id++)
        assert(gguf_vocab_find(v, v->tokens[id].text, v->tokens[id].size) == id);
    for (uint32_t i = 1; i < v->special_count; i++)
        assert(v->tokens[v->special[i - 1]].size >= v->tokens[v->special[i]].size);
    for (unsigned flags = 0; flags < 4; flags++) {
        encode(v, text, sizeof text - 1, flags);
        encode(v, behind, n, flags);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct gguf_header h;
    struct gguf_vocab v;
    if (gguf_parse(data, size, &h, &err))
        return 0;
    if (gguf_vocab_load(&h, &v, &err) == 0) {
        size_t behind = h.data_offset < size ? (size_t)h.data_offset : size;
        use_vocab(&v, (const char *)data + behind, size - behind);
        gguf_vocab_free(&v);
    }
    gguf_header_free(&h);
    return 0;
}
