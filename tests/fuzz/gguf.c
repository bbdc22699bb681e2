/* SPDX-License-Identifier: MIT
 *
 * A GGUF file: its header, its tensors, the model that recipes see and the keys that are handed
 * on; and as the folder that transformers would load, with a tokenizer made of the keys.
 */
#include "codec/gguf_model.h"
#include "codec/hf_gguf.h"
#include "codec/hf_quant.h"
#include "codec/hf_tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void use_value(const struct gguf_value *v)
{
    struct reader r = reader_make(v->data, v->size);
    struct gguf_string s;
    double number;
    use_text(gguf_type_name(v->type));
    for (uint64_t i = 0; i < v->count; i++) {
        bool there = gguf_next_element(&r, v->type, &number, &s);
        assert(there);
        use_bytes(s.data, s.size);
    }
    assert(reader_left(&r) == 0);
}

static void use_header(const struct gguf_header *h)
{
    for (size_t i = 0; i < h->key_count; i++) {
        const struct gguf_key *k = &h->keys[i];
        use_bytes(k->name.data, k->name.size);
        use_bytes(k->raw, k->raw_size);
        use_value(&k->value);
    }
    for (size_t i = 0; i < h->tensor_count; i++)
        use_bytes(h->tensors[i].name.data, h->tensors[i].name.size);
}

static void use_as_model(const struct gguf_header *h, const struct tensor_list *list)
{
    struct error err;
    struct model m;
    for (int requantize = 0; requantize < 2; requantize++) {
        if (gguf_model_map(h, list, requantize, &m, &err))
            continue;
        use_model(&m);
        model_free(&m);
    }
    for (int imatrix = 0; imatrix < 2; imatrix++) {
        struct gguf_keys keys = {0};
        if (gguf_model_put_keys(h, imatrix, &keys, &err) == 0)
            use_keys(&keys);
        buffer_free(&keys.bytes);
    }
}

/* There are no bytes behind the header. */
static int read_values(void *context, const struct tensor *t, float *out, struct error *err)
{
    (void)context;
    (void)err;
    for (uint64_t i = 0; i < t->elements; i++)
        out[i] = (float)(i % 7 + 1);
    return 0;
}

static void use_form(const struct hf_model *hf, const struct hf_form *form)
{
    struct error err;
    struct hf_layout l;
    struct buffer header = {0};
    char *config = hf_model_config(hf, form);
    use_text(config);
    free(config);
    if (hf_layout_make(hf, form, &l, &err))
        return;
    if (hf_layout_put_header(&l, form, &header, &err) == 0)
        use_bytes(header.data, header.size);
    buffer_free(&header);
    hf_layout_free(&l);
}

static void use_as_folder(const struct gguf_header *h, const struct tensor_list *list)
{
    struct error err;
    struct hf_model hf;
    struct model m;
    const struct hf_values values = {.read = read_values};
    if (hf_model_of_gguf(h, list, &values, &hf, &err))
        return;
    bool mapped = gguf_model_map(h, list, true, &m, &err) == 0;
    if (mapped)
        hf_model_mark_linear(&hf, &m);
    for (int i = 0; i < HF_FORM_COUNT; i++)
        if (!hf_forms[i].method || (mapped && hf_form_check(&hf_forms[i], &m, &err) == 0))
            use_form(&hf, &hf_forms[i]);
    if (mapped)
        model_free(&m);
    hf_model_free(&hf);
}

static void use_tokenizer(const struct gguf_header *h)
{
    struct error err;
    char *text;
    if (hf_tokenizer_json(h, &text, &err) == 0) {
        use_text(text);
        free(text);
    }
    if (hf_tokenizer_config(h, &text, &err) == 0) {
        use_text(text);
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct gguf_header h;
    struct tensor_list list = {0};
    if (gguf_parse(data, size, &h, &err))
        return 0;
    use_header(&h);
    use_tokenizer(&h);
    if (gguf_list_tensors(&h, size, 0, &list, &err) == 0) {
        use_tensors(&list, data, size);
        use_as_model(&h, &list);
    }
    tensor_list_free(&list);
    /* a sparse file can have any size */
    if (gguf_list_tensors(&h, INT64_MAX, 0, &list, &err) == 0) {
        use_as_model(&h, &list);
        use_as_folder(&h, &list);
    }
    tensor_list_free(&list);
    gguf_header_free(&h);
    return 0;
}
