/* SPDX-License-Identifier: MIT
 *
 * Weights that other programs have packed. What is packed here, by the published rules, has the hashes
 * of what bitsandbytes, GPTQModel, AutoAWQ and compressed-tensors made of the same numbers; so what is
 * decoded is what they decode. Every window on the weights is what it is of the whole.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "codec/unpack/unpack.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* ---- numbers, and hashes of them ---- */

static void *allocate(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static float *numbers(uint32_t seed, size_t n, float scale)
{
    float *out = allocate(n, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (float)((int)(seed >> 8) - 8388608) / 8388608 * scale;
    }
    return out;
}

static float to_bf16(float v)
{
    return f32_from_bf16(bf16_from_f32(v));
}
static float to_f16(float v)
{
    return f32_from_f16(f16_from_f32(v));
}

static void assert_hash(const void *data, size_t n, const char *expected)
{
    uint8_t digest[crypto_hash_sha256_BYTES];
    char text[17];
    crypto_hash_sha256(digest, data, n);
    for (int i = 0; i < 8; i++)
        sprintf(text + 2 * i, "%02x", digest[i]);
    assert_string_equal(text, expected);
}

static void assert_hash_16(const float *v, size_t n, bool bf16, const char *expected)
{
    uint16_t *halfs = allocate(n, sizeof *halfs);
    for (size_t i = 0; i < n; i++) {
        halfs[i] = bf16 ? bf16_from_f32(v[i]) : f16_from_f32(v[i]);
        if (!bf16)
            assert_float_equal(f32_from_f16(halfs[i]), v[i], 0);
    }
    assert_hash(halfs, 2 * n, expected);
    free(halfs);
}

/* ---- parts in memory ---- */

struct parts {
    struct tensor tensors[DERIVED_PARTS];
    const struct tensor *list[DERIVED_PARTS];
    uint64_t shapes[DERIVED_PARTS][2];
    const uint8_t *data[DERIVED_PARTS];
    unsigned reads;
};

static void put(struct parts *p, int part, const char *type, uint64_t rows, uint64_t cols,
                const void *data)
{
    struct tensor *t = &p->tensors[part];
    p->shapes[part][0] = rows;
    p->shapes[part][1] = cols;
    *t = (struct tensor){.name = "part",
                         .dtype = dtype_by_name(type),
                         .shape = p->shapes[part],
                         .ndim = cols ? 2 : 1,
                         .elements = rows * (cols ? cols : 1)};
    assert_true(dtype_bytes(t->dtype, t->elements, &t->size));
    p->list[part] = t;
    p->data[part] = data;
}

static int read_part(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                     struct error *err)
{
    struct parts *p = context;
    (void)err;
    assert_non_null(p->list[part]);
    assert_true(at <= p->tensors[part].size && n <= p->tensors[part].size - at);
    memcpy(out, p->data[part] + at, n);
    p->reads++;
    return 0;
}

static int read_nothing(void *context, uint32_t part, uint64_t at, void *out, size_t n,
                        struct error *err)
{
    unsigned *left = context;
    (void)part;
    (void)at;
    if (!(*left)--)
        return error_set(err, -ESTALE, "the file has changed");
    memset(out, 0, n);
    return 0;
}

static void check_window(const struct derived *d, struct parts *p, const float *whole,
                         uint64_t first, size_t n)
{
    struct error err;
    const struct derived_reader r = {read_part, p};
    float *piece = allocate(n, sizeof *piece);
    assert_int_equal(d->method->weights(d, NULL, &r, first, n, piece, &err), 0);
    assert_memory_equal(piece, whole + first, n * sizeof *piece);
    free(piece);
}

/* All weights; and windows on them, and errors of the reader. */
static float *unpack(const struct unpack *u, const struct unpack_settings *s, struct parts *p)
{
    struct derived d;
    struct error err;
    const struct derived_reader r = {read_part, p};
    assert_int_equal(unpack_make(u, s, p->list, &d, &err), 0);
    size_t rows = (size_t)d.rows, cols = (size_t)d.cols, n = rows * cols;
    float *whole = allocate(n, sizeof *whole), *rounded = allocate(n, sizeof *rounded);
    assert_int_equal(d.method->weights(&d, NULL, &r, 0, n, whole, &err), 0);
    memcpy(rounded, whole, n * sizeof *whole);
    derived_round(&d, NULL, rounded, n);
    assert_memory_equal(rounded, whole, n * sizeof *whole);
    for (size_t row = 0; row < rows; row++) {
        size_t count = 1 + row * 7 % 5;
        count = count < rows - row ? count : rows - row;
        check_window(&d, p, whole, row * cols, count * cols);
        size_t col = row * 31 % cols, left = cols - col;
        check_window(&d, p, whole, row * cols + col, 1);
        check_window(&d, p, whole, row * cols + col, left);
        check_window(&d, p, whole, row * cols + col, left / 2 + 1);
    }
    for (unsigned i = 0; i < 2; i++) {
        unsigned left = i;
        const struct derived_reader broken = {read_nothing, &left};
        assert_int_equal(d.method->weights(&d, NULL, &broken, 0, n, rounded, &err), -ESTALE);
    }
    free(rounded);
    return whole;
}

static void assert_refused(const struct unpack *u, const struct unpack_settings *s,
                           const struct parts *p, int code, const char *sentence)
{
    struct derived d;
    struct error err;
    assert_int_equal(unpack_make(u, s, p->list, &d, &err), code);
    assert_string_equal(err.text, sentence);
}

/* ---- bitsandbytes ---- */

static const uint32_t nf4_codes[16] = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};

static void nf4_map(float map[16])
{
    for (int i = 0; i < 16; i++)
        map[i] = f32_from_bits(nf4_codes[i]);
}

static void fp4_map(float map[16])
{
    const float sizes[8] = {0,    f32_from_bits(0x3baaaaab), 2.0f / 3, 1, 1.0f / 3, 0.5f, 1.0f / 6,
                            0.25f};
    for (int i = 0; i < 16; i++)
        map[i] = i < 8 ? sizes[i] : -sizes[i - 8];
}

static unsigned nf4_code(float v)
{
    unsigned q = 0;
    for (int i = 0; i < 15; i++)
        q += v > (f32_from_bits(nf4_codes[i]) + f32_from_bits(nf4_codes[i + 1])) / 2;
    return q;
}

static unsigned fp4_code(float v)
{
    static const float edges[7] = {0.0026041667f, 0.0859375f,  0.20833334f, 0.29166669f,
                                   0.41666669f,   0.58333337f, 0.83333337f};
    static const uint8_t codes[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
    unsigned q = v > 0;
    for (int i = 0; i < 7; i++)
        q += (unsigned)(v > -edges[i]) + (unsigned)(v > edges[i]);
    return codes[q];
}

/* Blocks of 64; a short last one divides where the others multiply. */
static void pack_4(const float *x, size_t n, unsigned (*code)(float), uint8_t *bytes, float *absmax)
{
    memset(bytes, 0, (n + 1) / 2);
    for (size_t i = 0; i < n; i += 64) {
        size_t count = n - i < 64 ? n - i : 64;
        float a = 0;
        for (size_t k = 0; k < count; k++)
            a = fabsf(x[i + k]) > a ? fabsf(x[i + k]) : a;
        float inverse = 1 / a;
        absmax[i / 64] = a;
        for (size_t k = 0; k < count; k++) {
            float v = count < 64 ? x[i + k] / a : x[i + k] * inverse;
            unsigned q = code(v < -1 ? -1 : v > 1 ? 1 : v);
            bytes[(i + k) / 2] |= (uint8_t)((i + k) % 2 ? q : q << 4);
        }
    }
    if (n % 2)
        bytes[n / 2] |= (uint8_t)code(0);
}

static void nested_map(float map[256])
{
    int count = 0;
    map[127] = 0;
    map[255] = 1;
    for (int i = 0; i < 7; i++) {
        int k = 1 << i;
        float b[65], step = (1 - 0.1f) / (float)k, power = (float)pow(10, i - 6);
        for (int j = 0; j <= k; j++)
            b[j] = j < (k + 1) / 2.0 ? fmaf(step, (float)j, 0.1f) : fmaf(-step, (float)(k - j), 1);
        for (int j = 0; j < k; j++, count++) {
            map[128 + count] = power * ((b[j] + b[j + 1]) / 2);
            map[126 - count] = -map[128 + count];
        }
    }
    assert_int_equal(count, 127);
}

static void pack_nested(const float *absmax, size_t n, float offset, const float map[256],
                        uint8_t *codes, float *nested)
{
    for (size_t i = 0; i < n; i += 256) {
        size_t count = n - i < 256 ? n - i : 256;
        float a = 0;
        for (size_t k = 0; k < count; k++) {
            float y = fabsf(absmax[i + k] - offset);
            a = y > a ? y : a;
        }
        float inverse = 1 / a;
        nested[i / 256] = a;
        for (size_t k = 0; k < count; k++) {
            float y = absmax[i + k] - offset, v = y * inverse;
            unsigned q = 0;
            while (q < 255 && v > (map[q] + map[q + 1]) / 2)
                q++;
            codes[i + k] = (uint8_t)q;
        }
    }
}

/* The tensor of most vectors. */
static float *bnb_numbers(void)
{
    float *x = numbers(1, 64 * 512, 1);
    for (int i = 0; i < 64 * 512; i++)
        x[i] = to_bf16(to_bf16(x[i]) * 0.05f);
    assert_hash_16(x, 64 * 512, true, "bc9555abe4fdb502");
    return x;
}

static void test_4_bit_block(void **state)
{
    (void)state;
    static const char *const expected[2] = {
        "2eae0e400ff868add56e471ce41f16611ad1ae29437c31ea4f712e971610bd18",
        "d273b2fbb331e6755e92f9a52fa3aeeaa75b73d6cc15ca27f39ad369aeab45a6"};
    float *x = numbers(7, 64, 0.1f), map[16], absmax;
    uint8_t bytes[32];
    for (int i = 0; i < 64; i++)
        x[i] = to_bf16(x[i]);
    assert_hash_16(x, 64, true, "a9ff06ba7359f081");
    for (int fp4 = 0; fp4 < 2; fp4++) {
        char text[65];
        pack_4(x, 64, fp4 ? fp4_code : nf4_code, bytes, &absmax);
        for (int i = 0; i < 32; i++)
            sprintf(text + 2 * i, "%02x", bytes[i]);
        assert_string_equal(text, expected[fp4]);
        assert_float_equal(absmax, 0.099609375f, 0);
        (fp4 ? fp4_map : nf4_map)(map);
        struct parts p = {0};
        put(&p, 0, "U8", 32, 1, bytes);
        put(&p, 1, "F32", 1, 0, &absmax);
        put(&p, 2, "F32", 16, 0, map);
        struct unpack_settings s = {
            .group = 64, .type = dtype_by_name("BF16"), .rows = 4, .cols = 16};
        float *found = unpack(fp4 ? &unpack_fp4 : &unpack_nf4, &s, &p);
        for (int i = 0; i < 64; i++)
            assert_float_equal(
                found[i], to_bf16(map[i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4] * absmax), 0);
        free(found);
    }
    free(x);
}

static void test_nf4_tensor(void **state)
{
    (void)state;
    enum { N = 64 * 512, BLOCKS = N / 64 };
    float *x = bnb_numbers(), map[16], big[256], absmax[BLOCKS], nested[BLOCKS / 256];
    uint8_t *bytes = allocate(N / 2, 1), codes[BLOCKS];
    const float offset = 0.04921150207519531f;
    nf4_map(map);
    nested_map(big);
    pack_4(x, N, nf4_code, bytes, absmax);
    assert_hash(bytes, N / 2, "c0cf7f0375141a2e");
    assert_hash(absmax, sizeof absmax, "7bcf1e54321fe4e9");
    pack_nested(absmax, BLOCKS, offset, big, codes, nested);
    assert_hash(codes, sizeof codes, "fcea8c8f4a2b1ae4");
    assert_hash(nested, sizeof nested, "f87979e7fe4c08c7");

    struct parts p = {0};
    put(&p, 0, "U8", N / 2, 1, bytes);
    put(&p, 1, "F32", BLOCKS, 0, absmax);
    put(&p, 2, "F32", 16, 0, map);
    struct unpack_settings s = {
        .group = 64, .type = dtype_by_name("BF16"), .rows = 64, .cols = 512};
    float *found = unpack(&unpack_nf4, &s, &p);
    assert_hash_16(found, N, true, "52bf4bef79c57c56");
    free(found);

    put(&p, 1, "U8", BLOCKS, 0, codes);
    put(&p, 3, "F32", BLOCKS / 256, 0, nested);
    put(&p, 4, "F32", 256, 0, big);
    s.variant = 256;
    s.number = offset;
    found = unpack(&unpack_nf4, &s, &p);
    assert_hash_16(found, N, true, "2049e3cd020a1c4c");
    free(found);

    pack_4(x, N, fp4_code, bytes, absmax);
    assert_hash(bytes, N / 2, "bab872de7ae2584b");
    free(bytes);
    free(x);
}

/* Blocks go on across the ends of rows, and the last is short. */
static void test_nf4_tail(void **state)
{
    (void)state;
    float *x = numbers(5, 100, 1), map[16], absmax[2];
    uint8_t bytes[50];
    for (int i = 0; i < 100; i++)
        x[i] = to_bf16(x[i]);
    nf4_map(map);
    pack_4(x, 100, nf4_code, bytes, absmax);
    assert_hash(bytes, 50, "031848f861375857");
    assert_float_equal(absmax[0], 0.99609375f, 0);
    assert_float_equal(absmax[1], 0.9765625f, 0);
    struct parts p = {0};
    put(&p, 0, "U8", 50, 1, bytes);
    put(&p, 1, "F32", 2, 0, absmax);
    put(&p, 2, "F32", 16, 0, map);
    static const uint64_t shapes[][2] = {
        {1,  100},
        {4,  25 },
        {20, 5  },
        {33, 3  }
    };
    for (int i = 0; i < 4; i++) {
        struct unpack_settings s = {
            .group = 64, .type = dtype_by_name("F32"), .rows = shapes[i][0], .cols = shapes[i][1]};
        float *found = unpack(&unpack_nf4, &s, &p);
        for (size_t k = 0; k < shapes[i][0] * shapes[i][1]; k++) /* 99: half a byte is left over */
            assert_float_equal(
                found[k], map[k % 2 ? bytes[k / 2] & 15 : bytes[k / 2] >> 4] * absmax[k / 64], 0);
        free(found);
    }
    free(x);
}

static void test_int8(void **state)
{
    (void)state;
    enum { ROWS = 64, COLS = 512 };
    float *x = bnb_numbers(), scb[ROWS];
    int8_t *codes = allocate(ROWS * COLS, 1);
    for (int row = 0; row < ROWS; row++) {
        float a = 0;
        for (int c = 0; c < COLS; c++) {
            x[row * COLS + c] = to_f16(x[row * COLS + c]);
            a = fabsf(x[row * COLS + c]) > a ? fabsf(x[row * COLS + c]) : a;
        }
        scb[row] = a;
        float inverse = 1 / a, t = inverse * 127;
        for (int c = 0; c < COLS; c++)
            codes[row * COLS + c] = (int8_t)rintf(x[row * COLS + c] * t);
    }
    assert_hash(codes, ROWS * COLS, "9092866935b70c45");
    assert_hash(scb, sizeof scb, "a7c49e17b339d600");
    struct parts p = {0};
    put(&p, 0, "I8", ROWS, COLS, codes);
    put(&p, 1, "F32", ROWS, 0, scb);
    struct unpack_settings s = {0};
    float *found = unpack(&unpack_int8, &s, &p);
    for (int i = 0; i < ROWS * COLS; i++) {
        float scaled = (float)codes[i] * scb[i / COLS];
        assert_float_equal(found[i], scaled * 7.874015718698502e-3f, 0);
        assert_true(fabsf(found[i] - x[i]) <= scb[i / COLS] / 253);
    }
    free(found);
    free(codes);
    free(x);
}

/* ---- GPTQ ---- */

enum { M = 64, N_COLS = 128, G = 32, GROUPS = N_COLS / G };

static float *gptq_numbers(void)
{
    float *w = numbers(1, M * N_COLS, 0.1f);
    assert_hash(w, M * N_COLS * sizeof *w, "fa9b1bcbd96549ab");
    return w;
}

static void put_code(uint32_t *words, size_t step, uint64_t i, unsigned bits, uint32_t code)
{
    for (unsigned b = 0; b < bits; b++) {
        uint64_t bit = i * bits + b;
        words[bit / 32 * step] |= (code >> b & 1) << bit % 32;
    }
}

struct gptq {
    uint32_t qweight[N_COLS / 4 * M], v1[GROUPS * M / 4], v2[GROUPS * M / 4];
    uint16_t scales[GROUPS * M];
    uint8_t codes[M][N_COLS], zeros[M][GROUPS];
};

static void pack_gptq(const float *w, unsigned bits, bool sym, struct gptq *out)
{
    float most = (float)((1 << bits) - 1);
    *out = (struct gptq){0};
    for (size_t row = 0; row < M; row++)
        for (size_t g = 0; g < GROUPS; g++) {
            const float *x = w + row * N_COLS + g * G;
            float low = 0, high = 0;
            for (int i = 0; i < G; i++) {
                low = x[i] < low ? x[i] : low;
                high = x[i] > high ? x[i] : high;
            }
            if (sym) {
                high = -low > high ? -low : high;
                low = low < 0 ? -high : low;
            }
            float s = (high - low) / most, z = sym ? (most + 1) / 2 : rintf(-low / s);
            out->scales[g * M + row] = f16_from_f32(s);
            out->zeros[row][g] = (uint8_t)z;
            put_code(out->v2 + g * (M * bits / 32), 1, row, bits, (uint32_t)z);
            put_code(out->v1 + g * (M * bits / 32), 1, row, bits, (uint32_t)z - 1);
            for (size_t i = 0; i < G; i++) {
                float q = rintf(x[i] / s) + z;
                q = q < 0 ? 0 : q > most ? most : q;
                out->codes[row][g * G + i] = (uint8_t)q;
                put_code(out->qweight + row, M, g * G + i, bits, (uint32_t)q);
            }
        }
}

static void check_gptq(const struct gptq *p, const float *found)
{
    for (size_t row = 0; row < M; row++)
        for (size_t c = 0; c < N_COLS; c++) {
            float scale = f32_from_f16(p->scales[c / G * M + row]);
            int level = p->codes[row][c] - p->zeros[row][c / G];
            assert_float_equal(found[row * N_COLS + c], scale * (float)level, 0);
        }
}

static void put_gptq(struct parts *p, const struct gptq *from, unsigned bits, bool v2)
{
    put(p, 0, "I32", N_COLS * bits / 32, M, from->qweight);
    put(p, 1, "I32", GROUPS, M * bits / 32, v2 ? from->v2 : from->v1);
    put(p, 2, "F16", GROUPS, M, from->scales);
}

static void test_gptq(void **state)
{
    (void)state;
    static const struct {
        unsigned bits;
        bool sym;
        const char *qweight, *v2, *v1, *scales;
    } cases[] = {
        {2, true,  "9937f2122ab1847b", "693e5f0f347a5d70", "3d9eae666b06b1a9", "f57edc45bd811ce1"},
        {2, false, "f32d583ebb188982", "cd58e8d44fc2a6f3", "f5effd6a90e2067b", "896f3b02b1d4f813"},
        {3, true,  "38e015a1c21bbc3e", "7c7fba8b76a09271", "3279730a2290f3d2", "2c080e17a9e7f575"},
        {3, false, "87643c498b07cdc2", "21ae3bdbeaa6f969", "85cd7dfc8a1ae67b", "e2a81e98e0dc6526"},
        {4, true,  "8315e4b45872f289", "078d4a4542bc9ad5", "d84a714f01404371", "d6d6a00d3f7dabe6"},
        {4, false, "de8b9f4f5cfa3903", "bc54d5c8e1f2afab", "155023098d7371d2", "5b07df7e268ae6d2"},
        {8, true,  "b6ccd258faaf0781", "5a5f307aa9ce504d", "22527f13f62eb6f2", "b828f3a1735cb0c3"},
        {8, false, "b7dc00b569a180bd", "ecb1a92e2a5deb5a", "c351317cbb15119a", "c5e4d7f09b3b0a37"},
    };
    float *w = gptq_numbers();
    struct gptq *packed = allocate(1, sizeof *packed);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned bits = cases[i].bits;
        pack_gptq(w, bits, cases[i].sym, packed);
        assert_hash(packed->qweight, N_COLS * bits / 32 * M * 4, cases[i].qweight);
        assert_hash(packed->v2, GROUPS * M * bits / 8, cases[i].v2);
        assert_hash(packed->v1, GROUPS * M * bits / 8, cases[i].v1);
        assert_hash(packed->scales, sizeof packed->scales, cases[i].scales);
        for (int v2 = 0; v2 < 2; v2++) {
            struct parts p = {0};
            put_gptq(&p, packed, bits, v2);
            struct unpack_settings s = {
                .bits = bits, .group = G, .variant = v2 ? GPTQ_ZEROS : GPTQ_ZEROS_LESS_1};
            float *found = unpack(&unpack_gptq, &s, &p);
            check_gptq(packed, found);
            free(found);
        }
    }
    free(packed);
    free(w);
}

/* Columns of all groups in between each other. */
static void test_gptq_order(void **state)
{
    (void)state;
    uint32_t groups[N_COLS];
    float *w = gptq_numbers();
    struct gptq *packed = allocate(1, sizeof *packed);
    pack_gptq(w, 4, false, packed);
    struct parts p = {0};
    put_gptq(&p, packed, 4, true);
    put(&p, 3, "I32", N_COLS, 0, groups);
    for (size_t c = 0; c < N_COLS; c++)
        groups[c] = (uint32_t)(c * 37 % N_COLS / G);
    struct unpack_settings s = {.bits = 4, .group = G, .variant = GPTQ_ZEROS};
    float *found = unpack(&unpack_gptq, &s, &p);
    for (size_t row = 0; row < M; row++)
        for (size_t c = 0; c < N_COLS; c++) {
            float scale = f32_from_f16(packed->scales[groups[c] * M + row]);
            int level = packed->codes[row][c] - packed->zeros[row][groups[c]];
            assert_float_equal(found[row * N_COLS + c], scale * (float)level, 0);
        }
    struct error err;
    struct derived d;
    const struct derived_reader r = {read_part, &p};
    groups[5] = (uint32_t)-1;
    assert_int_equal(unpack_make(&unpack_gptq, &s, p.list, &d, &err), 0);
    assert_int_equal(d.method->weights(&d, NULL, &r, 0, N_COLS, found, &err), -EINVAL);
    assert_string_equal(err.text, "a column is of group -1, and there are 4");
    free(found);
    free(packed);
    free(w);
}

/* Version 1 with a zero of 16: the field is 15, and the 1 is added to it, not into the bits. */
static void test_gptq_zero_of_16(void **state)
{
    (void)state;
    static uint32_t words[4 * 8], zeros[1] = {0xf0f7f8ff};
    uint16_t scales[8];
    for (int i = 0; i < 8; i++)
        scales[i] = f16_from_f32(0.5f);
    struct parts p = {0};
    put(&p, 0, "I32", 4, 8, words);
    put(&p, 1, "I32", 1, 1, zeros);
    put(&p, 2, "F16", 1, 8, scales);
    struct unpack_settings s = {.bits = 4};
    float *found = unpack(&unpack_gptq, &s, &p);
    static const float expected[8] = {16, 16, 9, 16, 8, 16, 1, 16};
    for (int i = 0; i < 8; i++)
        assert_float_equal(found[i * 32 + 7], -0.5f * expected[i], 0);
    free(found);
}

/* A matrix so tall that words of a row are read one by one. */
static void test_gptq_tall(void **state)
{
    (void)state;
    enum { TALL = 4096, WIDE = 64 };
    uint32_t *words = allocate(WIDE / 8 * TALL, 4), *zeros = allocate(2 * TALL / 8, 4);
    uint16_t *scales = allocate(2 * TALL, 2);
    for (uint32_t i = 0; i < WIDE / 8 * TALL; i++)
        words[i] = i * 2654435761u;
    for (uint32_t i = 0; i < 2 * TALL / 8; i++)
        zeros[i] = i * 2246822519u;
    for (uint32_t i = 0; i < 2 * TALL; i++)
        scales[i] = f16_from_f32((float)(i % 97) / 64);
    struct parts p = {0};
    put(&p, 0, "I32", WIDE / 8, TALL, words);
    put(&p, 1, "I32", 2, TALL / 8, zeros);
    put(&p, 2, "F16", 2, TALL, scales);
    struct unpack_settings s = {.bits = 4, .group = 32, .variant = GPTQ_ZEROS};
    float *found = unpack(&unpack_gptq, &s, &p);
    for (size_t row = 0; row < TALL; row++)
        for (size_t c = 0; c < WIDE; c++) {
            int q = words[c / 8 * TALL + row] >> c % 8 * 4 & 15;
            int z = zeros[c / 32 * (TALL / 8) + row / 8] >> row % 8 * 4 & 15;
            assert_float_equal(found[row * WIDE + c],
                               f32_from_f16(scales[c / 32 * TALL + row]) * (float)(q - z), 0);
        }
    free(found);
    free(words);
    free(zeros);
    free(scales);
}

/* ---- AWQ ---- */

static void test_awq(void **state)
{
    (void)state;
    static const unsigned nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    float *w = gptq_numbers(), *transposed = allocate(M * N_COLS, sizeof *transposed);
    static uint32_t qweight[N_COLS * M / 8], qzeros[GROUPS * M / 8];
    static uint16_t scales[GROUPS * M];
    for (int i = 0; i < M * N_COLS; i++)
        w[i] = to_f16(w[i]);
    assert_hash_16(w, M * N_COLS, false, "d19cbcc87f824bc1");
    for (size_t row = 0; row < M; row++)
        for (size_t g = 0; g < GROUPS; g++) {
            const float *x = w + row * N_COLS + g * G;
            float low = x[0], high = x[0];
            for (int i = 1; i < G; i++) {
                low = x[i] < low ? x[i] : low;
                high = x[i] > high ? x[i] : high;
            }
            float s = to_f16(to_f16(high - low) / 15), z = -rintf(to_f16(low / s));
            z = z < 0 ? 0 : z > 15 ? 15 : z;
            scales[g * M + row] = f16_from_f32(s);
            qzeros[(g * M + row) / 8] |= (uint32_t)z << 4 * nibble[row % 8];
            for (size_t i = 0; i < G; i++) {
                float q = rintf(to_f16(x[i] / s)) + z;
                q = q < 0 ? 0 : q > 15 ? 15 : q;
                qweight[((g * G + i) * M + row) / 8] |= (uint32_t)q << 4 * nibble[row % 8];
            }
        }
    assert_hash(scales, sizeof scales, "18cafef3e5c71004");
    assert_hash(qweight, sizeof qweight, "82c74c860974f50a");
    assert_hash(qzeros, sizeof qzeros, "e51cb8de2b3efb98");
    struct parts p = {0};
    put(&p, 0, "I32", N_COLS, M / 8, qweight);
    put(&p, 1, "I32", GROUPS, M / 8, qzeros);
    put(&p, 2, "F16", GROUPS, M, scales);
    struct unpack_settings s = {.group = G};
    float *found = unpack(&unpack_awq, &s, &p);
    for (size_t row = 0; row < M; row++)
        for (size_t c = 0; c < N_COLS; c++)
            transposed[c * M + row] = found[row * N_COLS + c];
    assert_hash_16(transposed, M * N_COLS, false, "d88a02e9537ef356");
    free(found);
    free(transposed);
    free(w);
}

/* ---- compressed-tensors ---- */

static float *compressed_numbers(void)
{
    float *w = gptq_numbers();
    for (int i = 0; i < M * N_COLS; i++)
        w[i] = to_bf16(w[i]);
    assert_hash_16(w, M * N_COLS, true, "be77f8f1ca07ffb9");
    return w;
}

/* Scales of groups of so many columns, and codes. */
static void quantize(const float *w, size_t group, unsigned bits, uint16_t *scales, int8_t *codes)
{
    float most = (float)((1 << (bits - 1)) - 1), least = -most - 1;
    for (size_t g = 0; g < M * N_COLS / group; g++) {
        float a = 0;
        for (size_t i = g * group; i < (g + 1) * group; i++)
            a = fabsf(w[i]) > a ? fabsf(w[i]) : a;
        scales[g] = bf16_from_f32(a / (((float)(1 << bits) - 1) / 2));
        for (size_t i = g * group; i < (g + 1) * group; i++) {
            float q = to_bf16(w[i] / f32_from_bf16(scales[g]));
            codes[i] = (int8_t)rintf(q < least ? least : q > most ? most : q);
        }
    }
}

static void test_pack_quantized(void **state)
{
    (void)state;
    float *w = compressed_numbers();
    static uint16_t scales[M * GROUPS];
    static int8_t codes[M * N_COLS];
    static uint32_t words[M * N_COLS / 8];
    quantize(w, G, 4, scales, codes);
    for (size_t i = 0; i < M * N_COLS; i++)
        put_code(words + i / N_COLS * (N_COLS / 8), 1, i % N_COLS, 4, (uint32_t)(codes[i] + 8));
    assert_hash(scales, sizeof scales, "e79480d3cd9597ff");
    assert_hash(codes, sizeof codes, "cd840b34f908de0a");
    assert_hash(words, sizeof words, "f64ef226817842a3");
    struct parts p = {0};
    put(&p, 0, "I32", M, N_COLS / 8, words);
    put(&p, 1, "BF16", M, GROUPS, scales);
    struct unpack_settings s = {.bits = 4, .group = G, .rows = M, .cols = N_COLS};
    float *found = unpack(&unpack_pack_quantized, &s, &p);
    assert_hash_16(found, M * N_COLS, true, "1875d20868eee131");
    free(found);
    free(w);
}

static void test_int_quantized(void **state)
{
    (void)state;
    float *w = compressed_numbers();
    static uint16_t scales[M];
    static int8_t codes[M * N_COLS], zeros[M];
    quantize(w, N_COLS, 8, scales, codes);
    assert_hash(scales, sizeof scales, "e769b138b1a94b49");
    assert_hash(codes, sizeof codes, "baece8f282e87e02");
    struct parts p = {0};
    put(&p, 0, "I8", M, N_COLS, codes);
    put(&p, 1, "BF16", M, 1, scales);
    struct unpack_settings s = {0};
    float *found = unpack(&unpack_int_quantized, &s, &p);
    assert_hash_16(found, M * N_COLS, true, "ae82d0afbaa38fe4");
    free(found);
    for (int i = 0; i < M; i++)
        zeros[i] = (int8_t)(i - 32);
    put(&p, 2, "I8", M, 1, zeros);
    found = unpack(&unpack_int_quantized, &s, &p);
    for (int i = 0; i < M * N_COLS; i++)
        assert_float_equal(
            found[i], f32_from_bf16(scales[i / N_COLS]) * (float)(codes[i] - zeros[i / N_COLS]), 0);
    free(found);
    free(w);
}

/* Every number of bits, rows that end within a word, zeros that are packed down the rows. */
static void test_pack_quantized_odd(void **state)
{
    (void)state;
    enum { ROWS = 37, COLS = 75, GROUP = 25 };
    for (unsigned bits = 1; bits <= 8; bits++) {
        static uint32_t words[ROWS * COLS], zeros[ROWS * 3];
        float scales[ROWS * 3];
        size_t row_words = (COLS * bits + 31) / 32;
        memset(words, 0, sizeof words);
        memset(zeros, 0, sizeof zeros);
        for (uint32_t i = 0; i < ROWS * COLS; i++)
            put_code(words + i / COLS * row_words, 1, i % COLS, bits, i * 2654435761u >> 13);
        for (uint32_t i = 0; i < ROWS * 3; i++) {
            put_code(zeros + i % 3, 3, i / 3, bits, i * 2246822519u >> 11);
            scales[i] = (float)(i + 1) / 7;
        }
        struct parts p = {0};
        put(&p, 0, "I32", ROWS, row_words, words);
        put(&p, 1, "F32", ROWS, 3, scales);
        put(&p, 2, "I32", (ROWS * bits + 31) / 32, 3, zeros);
        struct unpack_settings s = {.bits = bits, .group = GROUP, .rows = ROWS, .cols = COLS};
        float *found = unpack(&unpack_pack_quantized, &s, &p);
        for (uint32_t i = 0; i < ROWS * COLS; i++) {
            uint32_t g = i / COLS * 3 + i % COLS / GROUP, mask = (1u << bits) - 1;
            int q = (int)(i * 2654435761u >> 13 & mask), z = (int)(g * 2246822519u >> 11 & mask);
            assert_float_equal(found[i], scales[g] * (float)(q - z), 0);
        }
        free(found);
    }
}

/* ---- what does not fit ---- */

static void test_refusals(void **state)
{
    (void)state;
    static const uint8_t nothing[1];
    struct parts p = {0};
    struct unpack_settings s = {.bits = 4, .group = 32};
    put(&p, 0, "I32", 16, 64, nothing);
    put(&p, 1, "I32", 4, 8, nothing);
    put(&p, 2, "F16", 4, 64, nothing);
    put(&p, 3, "I32", 127, 0, nothing);
    assert_refused(&unpack_gptq, &s, &p, -EINVAL,
                   "tensor \"part\" does not have the 128 elements that its weights need");
    s.group = 64;
    assert_refused(&unpack_gptq, &s, &p, -EINVAL,
                   "tensor \"part\" does not have the shape [2, 8] that its weights need");
    s.bits = 5;
    assert_refused(&unpack_gptq, &s, &p, -ENOTSUP, "codes of 5 bits are not known");
    s.bits = 3;
    assert_refused(&unpack_gptq, &s, &p, -EINVAL,
                   "tensor \"part\": its shape does not fit codes of 3 bits");
    s = (struct unpack_settings){.bits = 4, .group = 32};
    put(&p, 2, "I32", 4, 64, nothing);
    assert_refused(&unpack_gptq, &s, &p, -ENOTSUP,
                   "tensor \"part\" is stored as I32, which are no scales");
    put(&p, 0, "I64", 16, 64, nothing);
    assert_refused(&unpack_gptq, &s, &p, -ENOTSUP, "tensor \"part\" is stored as I64, not as I32");
    assert_refused(&unpack_awq, &s, &p, -EINVAL, "tensor \"part\" has an impossible shape");
    put(&p, 0, "I32", 0, 8, nothing);
    assert_refused(&unpack_awq, &s, &p, -EINVAL, "tensor \"part\" has an impossible shape");

    s = (struct unpack_settings){.group = 63, .rows = 4, .cols = 16, .type = dtype_by_name("F16")};
    put(&p, 0, "U8", 32, 1, nothing);
    put(&p, 1, "F32", 1, 0, nothing);
    put(&p, 2, "F32", 16, 0, nothing);
    p.list[3] = p.list[4] = NULL;
    assert_refused(&unpack_nf4, &s, &p, -EINVAL,
                   "tensor \"part\": blocks of 63 weights are not known");
    s.group = 64;
    s.variant = 256;
    assert_refused(&unpack_nf4, &s, &p, -EINVAL,
                   "tensor \"part\" is packed, and its scales are missing");
    s.rows = (uint64_t)1 << 62;
    assert_refused(&unpack_nf4, &s, &p, -EINVAL, "tensor \"part\" has an impossible shape");

    s = (struct unpack_settings){.bits = 4, .group = 24, .rows = 64, .cols = 128};
    put(&p, 0, "I32", 64, 16, nothing);
    put(&p, 1, "F16", 64, 4, nothing);
    p.list[2] = NULL;
    assert_refused(&unpack_pack_quantized, &s, &p, -EINVAL,
                   "tensor \"part\": groups of 24 columns do not fit its width of 128");
    s.cols = (uint64_t)1 << 63;
    assert_refused(&unpack_pack_quantized, &s, &p, -EINVAL,
                   "tensor \"part\" has an impossible shape");
    put(&p, 0, "I8", 64, 0, nothing);
    assert_refused(&unpack_int_quantized, &s, &p, -ENOTSUP, "tensor \"part\" is no matrix");
    assert_refused(&unpack_int8, &s, &p, -ENOTSUP, "tensor \"part\" is no matrix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_4_bit_block),
        cmocka_unit_test(test_nf4_tensor),
        cmocka_unit_test(test_nf4_tail),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_gptq_order),
        cmocka_unit_test(test_gptq_zero_of_16),
        cmocka_unit_test(test_gptq_tall),
        cmocka_unit_test(test_awq),
        cmocka_unit_test(test_pack_quantized),
        cmocka_unit_test(test_int_quantized),
        cmocka_unit_test(test_pack_quantized_odd),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
