/* SPDX-License-Identifier: MIT
 *
 * Where the largest is; of equal ones the first. One block: thread t looks at elements t,
 * t + ARGMAX_THREADS and so on, then pairs of lanes and at last of warps compare theirs. All begin
 * with element 0, so a NaN there stays the largest, and any other never is, as in tools/run. Whether
 * all are finite follows from the largest magnitude, in which infinity and NaN are above the rest.
 */
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernels.h"

struct candidate {
    uint32_t value; /* a float's bits */
    uint32_t at;
    uint32_t magnitude; /* the largest of all that were met: bits, which compare as magnitudes do */
};

DEVICE struct candidate candidate_at(const float *x, uint32_t i)
{
    uint32_t bits = load4(x + i);
    return {bits, i, bits & 0x7fffffff};
}

DEVICE void candidate_meet(struct candidate *best, struct candidate other)
{
    float mine = float_from(best->value), its = float_from(other.value);
    if (its > mine || (its == mine && other.at < best->at))
        best->value = other.value, best->at = other.at;
    if (other.magnitude > best->magnitude)
        best->magnitude = other.magnitude;
}

/* The best of a warp, the same for all its lanes. */
DEVICE void candidates_of_warp(struct candidate *best)
{
    for (uint32_t mask = WARP_LANES / 2; mask; mask /= 2) {
        struct candidate other = {shuffle_xor(best->value, mask), shuffle_xor(best->at, mask),
                                  shuffle_xor(best->magnitude, mask)};
        candidate_meet(best, other);
    }
}

KERNEL(argmax, struct argmax_args, ARGMAX_THREADS)
{
    SHARED(uint32_t, of_warps, 3 * (ARGMAX_THREADS / WARP_LANES));
    struct candidate best = candidate_at(a->x, 0);
    for (uint32_t i = thread_index(); i < a->count; i += ARGMAX_THREADS)
        candidate_meet(&best, candidate_at(a->x, i));
    candidates_of_warp(&best);
    if (lane_index() == 0) {
        uint32_t *mine = of_warps + 3 * warp_index();
        shared_put4(mine, best.value);
        shared_put4(mine + 1, best.at);
        shared_put4(mine + 2, best.magnitude);
    }
    block_barrier();
    for (uint32_t w = 0; w < ARGMAX_THREADS / WARP_LANES; w++) {
        const uint32_t *its = of_warps + 3 * w;
        candidate_meet(&best, {shared_get4(its), shared_get4(its + 1), shared_get4(its + 2)});
    }
    if (thread_index() == 0) {
        store4(a->out, best.at);
        store4(a->out + 1, best.magnitude < 0x7f800000);
    }
}
