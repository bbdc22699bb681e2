/* SPDX-License-Identifier: MIT
 *
 * Products of a stripe of an SpQR matrix, which is what fuzz_spqr takes: every instruction set refuses
 * what plain C refuses, and gives its bits. What is not there of the stripe is zeros.
 */
#include "codec/bytes.h"
#include "codec/float16.h"
#include "kernels/cpu/stripe.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>

enum { HEAD = 5, COLUMNS_MAX = 256 };

static struct activations *made_up(size_t columns, uint32_t batch)
{
    struct activations *a;
    float *x = malloc(batch * columns * sizeof *x);
    assert(x && !activations_new(columns, batch, false, &a));
    for (size_t i = 0; i < batch * columns; i++)
        x[i] = (float)(i * 2654435761u % 4096) - 2048;
    assert(!activations_begin(a, ACTIVATIONS_INT8_64, batch, NULL));
    assert(!activations_put(a, x, 0, batch));
    free(x);
    return a;
}

static void compare(stripe_fn *set, const struct spqr_layout *l, const uint8_t *stripe,
                    const struct activations *a)
{
    float out[STRIPE_COLUMNS_MAX][SPQR_ROWS], wanted[STRIPE_COLUMNS_MAX][SPQR_ROWS];
    int rc = stripe_c(l, stripe, a, 0, a->batch, wanted);
    struct error err;
    float *weights = malloc(SPQR_ROWS * l->columns * sizeof *weights);
    assert(weights && (rc == 0 || spqr_decode(l, stripe, l->stripe_size, weights, &err)));
    free(weights);
    assert(set(l, stripe, a, 0, a->batch, out) == rc);
    for (size_t i = 0; rc == 0 && i < a->batch; i++)
        for (int row = 0; row < SPQR_ROWS; row++)
            assert(f32_bits(out[i][row]) == f32_bits(wanted[i][row]) ||
                   (isnan(out[i][row]) && isnan(wanted[i][row])));
}

static void compare_sets(const struct spqr_layout *l, const uint8_t *stripe, uint32_t batch)
{
    struct activations *a = made_up(l->columns, batch);
    compare(stripe_c, l, stripe, a);
#ifdef __x86_64__
    bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    if (__builtin_cpu_supports("avx2"))
        compare(stripe_avx2, l, stripe, a);
    if (avx512)
        compare(stripe_avx512, l, stripe, a);
    if (avx512 && __builtin_cpu_supports("avx512vnni"))
        compare(stripe_avx512_vnni, l, stripe, a);
#endif
    activations_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct spqr_layout l;
    if (size < HEAD)
        return 0;
    uint64_t columns = load_u16(data + 1) % (COLUMNS_MAX + 1);
    if (spqr_layout(data[0], columns, (double)load_u16(data + 3) / 65535, &l, &err))
        return 0;
    data += HEAD;
    size -= HEAD;
    uint8_t *stripe = calloc(l.stripe_size, 1);
    assert(stripe);
    memcpy(stripe, data, size < l.stripe_size ? size : l.stripe_size);
    compare_sets(&l, stripe, 1);
    compare_sets(&l, stripe, STRIPE_COLUMNS_MAX);
    free(stripe);
    return 0;
}
