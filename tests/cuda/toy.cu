/* SPDX-License-Identifier: MIT
 *
 * Adds up products of bytes, 16 in a turn of a lane; and made worse in each way that is checked.
 */
#include <stdint.h>

#ifdef SPILLS
#define BOUNDS __launch_bounds__(1024, 2) /* leaves 32 registers */
#define REGISTERS
#define KEPT 100
#else
#define BOUNDS __launch_bounds__(32)
#define KEPT   40
#endif

static __device__ __forceinline__ uint4 load16_once(const uint4 *p)
{
    uint4 v;
    asm("ld.global.nc.L1::evict_first.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(__cvta_generic_to_global(p)));
    return v;
}

#ifdef REGISTERS
/* Values that all live at once. */
static __device__ __forceinline__ int more(const int *x)
{
    int kept[KEPT], sum = 0;
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        kept[i] = ((const volatile int *)x)[i];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        sum = sum * 3 + (kept[i] ^ kept[KEPT - 1 - i]);
    return sum;
}
#elif defined(SHARED)
static __device__ __forceinline__ int more(const int *x)
{
    __shared__ int all[64];
    all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    return all[threadIdx.x ^ 1];
}
#else
static __device__ __forceinline__ int more(const int *)
{
    return 0;
}
#endif

extern "C" __global__ void BOUNDS toy(const uint4 *w, const uint4 *x, int *y, int n)
{
    int sum = more((const int *)x);
#ifdef NO_LOOP
    n = 1;
#endif
#ifdef UNROLLED
#pragma unroll 4
#else
#pragma unroll 1
#endif
    for (int i = 0; i < n; i++) {
        uint4 a = load16_once(w + 32 * i + threadIdx.x);
        uint4 b = x[32 * i + threadIdx.x];
        sum = __dp4a((int)a.x, (int)b.x, sum);
        sum = __dp4a((int)a.y, (int)b.y, sum);
        sum = __dp4a((int)a.z, (int)b.z, sum);
        sum = __dp4a((int)a.w, (int)b.w, sum);
#ifdef SLOW
        sum ^= sum >> 3;
        sum *= (int)a.x | 1;
        sum ^= sum >> 5;
#endif
#ifdef INNER_LOOP
#pragma unroll 1
        for (int j = 0; j < sum; j++)
            sum ^= __brev(sum + j);
#endif
    }
    y[threadIdx.x] = sum;
}
