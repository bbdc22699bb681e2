/* SPDX-License-Identifier: MIT
 *
 * Encodes many texts with the vocabulary of a GGUF file and decodes what comes out: gguf_tokenize FILE
 * FLAGS (of gguf_encode). Texts come in and results go out as records of a u32 size and as many
 * bytes: for each text its ids, then the bytes of every id with special tokens written out, then
 * without.
 */
#include "codec/gguf_encode.h"

#include <stdio.h>

static int fail(const char *what)
{
    fprintf(stderr, "gguf_tokenize: %s\n", what);
    return 1;
}

static bool read_file(const char *path, struct buffer *out)
{
    FILE *file = fopen(path, "rb");
    char chunk[1 << 16];
    for (size_t n; file && (n = fread(chunk, 1, sizeof chunk, file));)
        buffer_add(out, chunk, n);
    return file && !ferror(file) && !fclose(file) && !out->failed;
}

static void write_record(const void *data, size_t size)
{
    fwrite(&(uint32_t){(uint32_t)size}, 4, 1, stdout);
    fwrite(data, 1, size, stdout);
}

int main(int argc, char **argv)
{
    struct error err;
    struct buffer file = {0}, text = {0}, bytes = {0};
    struct gguf_header header;
    struct gguf_vocab vocab;
    if (argc != 3 || !read_file(argv[1], &file))
        return fail("no file");
    if (gguf_parse(file.data, file.size, &header, &err) ||
        gguf_vocab_load(&header, &vocab, &err))
        return fail(err.text);
    for (uint32_t size; fread(&size, sizeof size, 1, stdin) == 1;) {
        struct token_ids ids;
        text.size = 0;
        if (size && (!buffer_extend(&text, size) || fread(text.data, 1, size, stdin) != size))
            return fail("input cut off");
        if (gguf_encode(&vocab, (char *)text.data, size, (unsigned)atoi(argv[2]), &ids, &err))
            return fail(err.text);
        write_record(ids.ids, ids.count * sizeof *ids.ids);
        for (int special = 1; special >= 0; special--) {
            bytes.size = 0;
            for (size_t i = 0; i < ids.count; i++)
                gguf_vocab_decode(&vocab, ids.ids[i], special, &bytes);
            write_record(bytes.data, bytes.size);
        }
        free(ids.ids);
    }
    gguf_vocab_free(&vocab);
    gguf_header_free(&header);
    buffer_free(&file);
    buffer_free(&text);
    buffer_free(&bytes);
    return 0;
}
