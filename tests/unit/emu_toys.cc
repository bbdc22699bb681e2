/* SPDX-License-Identifier: MIT */
#include "tests/unit/emu_toys.h"

#include "kernels/cuda/device.h"

#define TOY(name) KERNEL(name, struct toy_args, TOY_THREADS)

DEVICE uint32_t in_word(const struct toy_args *a)
{
    return load4(a->in + thread_index());
}
DEVICE void out_word(const struct toy_args *a, uint32_t v)
{
    store4(a->out + thread_index(), v);
}

/* ---- shared memory ---- */

TOY(toy_mirror)
{
    SHARED(uint32_t, words, TOY_THREADS);
    shared_put4(words + thread_index(), in_word(a));
    block_barrier();
    out_word(a, shared_get4(words + TOY_THREADS - 1 - thread_index()));
}

TOY(toy_mirror_without_barrier)
{
    SHARED(uint32_t, words, TOY_THREADS);
    shared_put4(words + thread_index(), in_word(a));
    warp_barrier();
    out_word(a, shared_get4(words + TOY_THREADS - 1 - thread_index()));
}

TOY(toy_mirror_written_again)
{
    SHARED(uint32_t, words, TOY_THREADS);
    shared_put4(words + thread_index(), in_word(a));
    block_barrier();
    out_word(a, shared_get4(words + TOY_THREADS - 1 - thread_index()));
    shared_put4(words + thread_index(), 0);
}

TOY(toy_never_written)
{
    SHARED(uint32_t, words, TOY_THREADS);
    if (thread_index() != 5)
        shared_put4(words + thread_index(), in_word(a));
    block_barrier();
    out_word(a, shared_get4(words + TOY_THREADS - 1 - thread_index()));
}

TOY(toy_neighbour)
{
    SHARED(uint32_t, words, TOY_THREADS);
    shared_put4(words + thread_index(), in_word(a));
    warp_barrier();
    out_word(a, shared_get4(words + (thread_index() ^ 1)));
}

TOY(toy_neighbour_without_barrier)
{
    SHARED(uint32_t, words, TOY_THREADS);
    shared_put4(words + thread_index(), in_word(a));
    out_word(a, shared_get4(words + (thread_index() ^ 1)));
}

TOY(toy_banks)
{
    SHARED(uint32_t, words, TOY_THREADS * 32);
    shared_put4(words + thread_index() * a->stride, thread_index());
    block_barrier();
    out_word(a, shared_get4(words + thread_index() * a->stride));
}

/* ---- global memory ---- */

TOY(toy_read)
{
    out_word(a, load4(a->in + thread_index() + a->stride));
}

TOY(toy_read_words)
{
    struct words4 v = load16(a->in + thread_index() * a->stride);
    out_word(a, v.w[0] + v.w[1] + v.w[2] + v.w[3]);
}

TOY(toy_write_past_the_end)
{
    store4(a->out + thread_index() + 1, in_word(a));
}

/* ---- exchanges ---- */

TOY(toy_shuffle)
{
    out_word(a, shuffle_xor(in_word(a), 5));
}

TOY(toy_shuffle_in_one_half)
{
    uint32_t v = in_word(a);
    if (lane_index() < 16)
        v = shuffle_xor(v, 5);
    out_word(a, v);
}

TOY(toy_shuffles_apart)
{
    uint32_t v = in_word(a);
    if (lane_index() < 16)
        v = shuffle_xor(v, 5);
    else
        v = shuffle_xor(v, 5);
    out_word(a, v);
}

TOY(toy_barrier_in_one_warp)
{
    if (warp_index() == 0)
        block_barrier();
    out_word(a, in_word(a));
}

TOY(toy_barriers_apart)
{
    if (warp_index() == 0)
        block_barrier();
    else
        block_barrier();
    out_word(a, in_word(a));
}

/* ---- copies ---- */

/* Two groups, a half of the words each. */
DEVICE void copies(const struct toy_args *a, uint32_t *words)
{
    for (uint32_t half = 0; half < TOY_THREADS; half += TOY_THREADS / 2) {
        if (thread_index() < TOY_THREADS / 8)
            copy16_start(words + half + 4 * thread_index(), a->in + half + 4 * thread_index());
        copies_commit();
    }
}

TOY(toy_copy)
{
    SHARED(uint32_t, words, TOY_THREADS);
    copies(a, words);
    copies_wait<1>();
    block_barrier();
    uint32_t v = thread_index() < TOY_THREADS / 2 ? shared_get4(words + thread_index()) : 0;
    copies_wait<0>();
    block_barrier();
    out_word(a, thread_index() < TOY_THREADS / 2 ? v : shared_get4(words + thread_index()));
}

TOY(toy_copy_not_waited_for)
{
    SHARED(uint32_t, words, TOY_THREADS);
    copies(a, words);
    block_barrier();
    out_word(a, shared_get4(words + thread_index()));
    copies_wait<0>();
}

TOY(toy_copy_of_the_last_group)
{
    SHARED(uint32_t, words, TOY_THREADS);
    copies(a, words);
    copies_wait<1>();
    block_barrier();
    out_word(a, shared_get4(words + thread_index()));
    copies_wait<0>();
}

TOY(toy_copy_forgotten)
{
    SHARED(uint32_t, words, TOY_THREADS);
    copies(a, words);
    copies_wait<1>();
}

/* ---- products of matrices ---- */

TOY(toy_mma16)
{
    const uint32_t *in = a->in + 7 * lane_index();
    uint32_t x[2] = {load4(in), load4(in + 1)}, y = load4(in + 2);
    int d[4];
    for (int i = 0; i < 4; i++)
        d[i] = (int)load4(in + 3 + i);
    mma16(d, x, y);
    for (int i = 0; i < 4; i++)
        store4(a->out + 4 * lane_index() + i, (uint32_t)d[i]);
}

TOY(toy_mma32)
{
    const uint32_t *in = a->in + 10 * lane_index();
    uint32_t x[4], y[2];
    int d[4];
    for (int i = 0; i < 4; i++) {
        x[i] = load4(in + i);
        d[i] = (int)load4(in + 6 + i);
    }
    y[0] = load4(in + 4);
    y[1] = load4(in + 5);
    mma32(d, x, y);
    for (int i = 0; i < 4; i++)
        store4(a->out + 4 * lane_index() + i, (uint32_t)d[i]);
}
