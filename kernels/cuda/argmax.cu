/* SPDX-License-Identifier: MIT
 *
 * Where the largest is; of equal ones the first. One block: thread t looks at elements t,
 * t + ARGMAX_THREADS and so on, then pairs of lanes and at last of warps compare theirs. All begin
 * with element 0, so a NaN there stays the largest, and any other never is, as in tools/run.
 */
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

struct candidate {
    uint32_t value; /* a float's bits */
    uint32_t at;
};

DEVICE void candidate_meet(struct candidate *best, struct candidate other)
{
    float mine = float_from(best->value), its = float_from(other.value);
    if (its > mine || (its == mine && other.at < best->at))
        *best = other;
}

/* The best of a warp, the same for all its lanes. */
DEVICE void candidates_of_warp(struct candidate *best)
{
    for (uint32_t mask = WARP_LANES / 2; mask; mask /= 2) {
        struct candidate other = {shuffle_xor(best->value, mask), shuffle_xor(best->at, mask)};
        candidate_meet(best, other);
    }
}

KERNEL(argmax, struct argmax_args, ARGMAX_THREADS)
{
    SHARED(uint32_t, of_warps, 2 * (ARGMAX_THREADS / WARP_LANES));
    struct candidate best = {load4(a->x), 0};
    for (uint32_t i = thread_index(); i < a->count; i += ARGMAX_THREADS)
        candidate_meet(&best, {load4(a->x + i), i});
    candidates_of_warp(&best);
    if (lane_index() == 0) {
        shared_put4(of_warps + 2 * warp_index(), best.value);
        shared_put4(of_warps + 2 * warp_index() + 1, best.at);
    }
    block_barrier();
    for (uint32_t w = 0; w < ARGMAX_THREADS / WARP_LANES; w++)
        candidate_meet(&best, {shared_get4(of_warps + 2 * w), shared_get4(of_warps + 2 * w + 1)});
    if (thread_index() == 0)
        store4(a->out, best.at);
}
