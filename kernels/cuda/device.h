/* SPDX-License-Identifier: MIT
 *
 * What kernels are written against: threads, memory, and the few instructions that matter. nvcc
 * compiles it for a GPU; g++ compiles the same sources for the emulator (emu.h), which runs them on
 * a processor and checks what a GPU would not tell. Both give the same bits: every operation here
 * is exact or rounded by itself (-fmad=false, -ffp-contract=off), and nothing is atomic.
 *
 * Kernels are C-like: functions, structs, at most a template over a format. One struct is all of a
 * kernel's arguments. Blocks are one-dimensional, whole warps, and all 32 lanes take part in every
 * exchange. Memory is read and written by the functions below alone, never through a pointer, so
 * that the emulator sees it; they want addresses that are multiples of their size.
 */
/* clang-format off: a line each for what is that short */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include <stddef.h>
#include <stdint.h>

enum { WARP_LANES = 32 };

/* Eight and sixteen bytes, as one load brings them. */
struct words2 {
    uint32_t w[2];
};
struct words4 {
    uint32_t w[4];
};

#ifndef __CUDACC__
#include "kernels/cuda/emu_device.h"
#else

#define DEVICE        static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

/* KERNEL(name, struct arguments, threads of a block) { ... a->member ... } Enough blocks for 512
 * threads must fit a multiprocessor at once: that leaves a thread 128 registers. */
#define KERNEL(name, type, threads)                                                                \
    DEVICE void name##_body(const type *a);                                                        \
    extern "C" __global__ void __launch_bounds__(threads, 512 / (threads))                         \
        name(const type arguments)                                                                 \
    {                                                                                              \
        name##_body(&arguments);                                                                   \
    }                                                                                              \
    DEVICE void name##_body(const type *a)

/* Before a loop: turns written out, so that what they index are registers; or not, where that would
 * take more of them than there are. */
#define UNROLLED   _Pragma("unroll")
#define ONE_BY_ONE _Pragma("unroll 1")

/* count elements that the threads of a block share; of no value until they are written. */
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]

/* ---- threads ---- */

DEVICE uint32_t thread_index(void) { return threadIdx.x; }
DEVICE uint32_t block_index(void) { return blockIdx.x; }

/* Behind it, all threads of the block (of the warp) see what they wrote before it. */
DEVICE void block_barrier(void) { __syncthreads(); }
DEVICE void warp_barrier(void) { __syncwarp(); }

/* The value of lane (mine ^ mask). */
DEVICE uint32_t shuffle_xor(uint32_t v, uint32_t mask)
{
    return __shfl_xor_sync(0xffffffff, v, mask);
}

/* The value of a lane, which each may choose for itself. */
DEVICE uint32_t shuffle_from(uint32_t v, uint32_t lane)
{
    return __shfl_sync(0xffffffff, v, lane);
}

/* ---- memory ---- */

/* Through the cache that is never written to: for what no kernel changes while this one runs. */
DEVICE uint8_t load1(const void *p) { return __ldg((const unsigned char *)p); }
DEVICE uint16_t load2(const void *p) { return __ldg((const unsigned short *)p); }
DEVICE uint32_t load4(const void *p) { return __ldg((const unsigned int *)p); }

DEVICE struct words4 load16(const void *p)
{
    uint4 v = __ldg((const uint4 *)p);
    return {{v.x, v.y, v.z, v.w}};
}

/* For weights: the first to leave the cache. */
DEVICE struct words4 load16_once(const void *p)
{
    struct words4 v;
    asm("ld.global.nc.L1::evict_first.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
        : "l"(__cvta_generic_to_global(p)));
    return v;
}

/* What this kernel itself may have written, behind a barrier. */
DEVICE uint32_t load4_again(const void *p) { return *(const volatile uint32_t *)p; }

DEVICE void store2(void *p, uint16_t v) { *(uint16_t *)p = v; }
DEVICE void store4(void *p, uint32_t v) { *(uint32_t *)p = v; }

DEVICE uint32_t shared_get4(const void *p) { return *(const uint32_t *)p; }
DEVICE void shared_put4(void *p, uint32_t v) { *(uint32_t *)p = v; }
DEVICE void shared_put8(void *p, struct words2 v) { *(uint2 *)p = make_uint2(v.w[0], v.w[1]); }

DEVICE struct words2 shared_get8(const void *p)
{
    uint2 v = *(const uint2 *)p;
    return {{v.x, v.y}};
}

DEVICE struct words4 shared_get16(const void *p)
{
    uint4 v = *(const uint4 *)p;
    return {{v.x, v.y, v.z, v.w}};
}

/* Sixteen bytes to shared memory, there when the thread has waited and, for others, behind a
 * barrier. wait is for all but the last `but` groups that the thread closed by commit. */
DEVICE void copy16_start(void *shared, const void *global)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(__cvta_generic_to_global(global))
                 : "memory");
#else
    *(uint4 *)shared = __ldg((const uint4 *)global);
#endif
}

DEVICE void copies_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int but> DEVICE void copies_wait(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(but) : "memory");
#endif
}

/* ---- integers ---- */

/* c + the sum of four products of bytes, unsigned or signed by signed. */
DEVICE int dp4a_us(uint32_t a, uint32_t b, int c)
{
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE int dp4a_ss(uint32_t a, uint32_t b, int c)
{
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

/* c + the sum of two products: the signed 16-bit halves of a by bytes 0 and 1 (low) or 2 and 3
 * (high) of b, unsigned or signed. */
DEVICE int dp2a_low_su(uint32_t a, uint32_t b, int c)
{
    asm("dp2a.lo.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE int dp2a_high_su(uint32_t a, uint32_t b, int c)
{
    asm("dp2a.hi.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE int dp2a_low_ss(uint32_t a, uint32_t b, int c)
{
    asm("dp2a.lo.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

DEVICE int dp2a_high_ss(uint32_t a, uint32_t b, int c)
{
    asm("dp2a.hi.s32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

/* Four of the eight bytes of a (0 to 3) and b (4 to 7), a hexadecimal digit of `which` for each. */
DEVICE uint32_t bytes_pick(uint32_t a, uint32_t b, uint32_t which)
{
    return __byte_perm(a, b, which);
}

/* The bits of a where those of mask are set, else those of b. */
DEVICE uint32_t bits_choose(uint32_t mask, uint32_t a, uint32_t b)
{
    uint32_t v;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(v) : "r"(mask), "r"(a), "r"(b));
    return v;
}

/* The low word of (high:low) >> shift % 32. */
DEVICE uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t shift)
{
    return __funnelshift_r(low, high, shift);
}

/* d = a * b + d for a warp: 16 rows of a, 8 columns of b, signed bytes, exact. With g = lane / 4
 * and t = lane % 4 a lane holds
 *
 *     a[0] (g, k)   a[1] (g + 8, k)   a[2] (g, k + 16)   a[3] (g + 8, k + 16)   b[0] (k, g)
 *     b[1] (k + 16, g)    for the four k from 4 * t on, and
 *     d[0] (g, 2 * t)   d[1] (g, 2 * t + 1)   d[2] and d[3] the same of row g + 8
 *
 * mma16 has no k beyond 15, so no a[2], a[3], b[1]. PTX ISA, "Warp Level Matrix Multiply-Accumulate
 * Instructions", m16n8k16 and m16n8k32. Turing has neither, but 8 rows at a time. */
DEVICE void mma16(int *d, const uint32_t *a, uint32_t b)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b));
#else
    for (int half = 0; half < 2; half++)
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
            : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
            : "r"(a[half]), "r"(b));
#endif
}

DEVICE void mma32(int *d, const uint32_t *a, const uint32_t *b)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    mma16(d, a, b[0]);
    mma16(d, a + 2, b[1]);
#endif
}

/* ---- floats ---- */

DEVICE uint32_t float_bits(float v) { return __float_as_uint(v); }
DEVICE float float_from(uint32_t bits) { return __uint_as_float(bits); }

DEVICE float half_to_float(uint16_t h)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

/* Byte i of a word. */
DEVICE float byte_to_float(uint32_t v, int i)
{
    float f;
    asm("cvt.rn.f32.u8 %0, %1;" : "=f"(f) : "r"(v >> 8 * i));
    return f;
}

/* To the nearest, halves to even. */
DEVICE uint16_t float_to_half(float f)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE float square_root(float v) { return __fsqrt_rn(v); }

#endif

/* ---- the same for both ---- */

DEVICE uint32_t lane_index(void) { return thread_index() % WARP_LANES; }
DEVICE uint32_t warp_index(void) { return thread_index() / WARP_LANES; }
DEVICE uint32_t min_of(uint32_t a, uint32_t b) { return a < b ? a : b; }

#endif
