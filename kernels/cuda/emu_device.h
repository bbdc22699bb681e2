/* SPDX-License-Identifier: MIT
 *
 * device.h for the emulator: the same functions with plain bodies. What only one lane is concerned
 * with is done in place; memory and exchanges go to emu.cc. Each passes on the line it stands in.
 */
/* clang-format off: a line each for what is that short */
#ifndef KERNELS_CUDA_EMU_DEVICE_H
#define KERNELS_CUDA_EMU_DEVICE_H

#include "codec/float16.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DEVICE        static inline __attribute__((unused))
#define DEVICE_MEMBER inline

/* The last parameter of what is checked: where its caller stands. */
#define PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define KERNEL(name, type, threads)                                                                \
    static void name##_body(const type *a);                                                        \
    extern "C" void name(const void *arguments) { name##_body((const type *)arguments); }          \
    static void name##_body(const type *a)

#define UNROLLED
#define ONE_BY_ONE

#define SHARED(type, name, count)                                                                  \
    type *name = (type *)emu_shared(sizeof(type) * (count), __FILE__, __LINE__)

enum emu_exchange { EMU_SHUFFLE, EMU_WARP_BARRIER, EMU_BLOCK_BARRIER, EMU_MMA16, EMU_MMA32 };

uint32_t emu_thread_index(void);
uint32_t emu_block_index(void);
void *emu_shared(size_t size, const char *file, int line);
/* Checks of what is about to be read or written. */
void emu_global_read(const void *p, size_t size, const char *file, int line);
void emu_global_write(const void *p, size_t size, const char *file, int line);
void emu_shared_read(const void *p, size_t size, const char *file, int line);
void emu_shared_write(const void *p, size_t size, const char *file, int line);
/* Returns when all that must be there are. Of a shuffle, in: value, lane; out: that lane's value. Of
 * a product, in: a, b, d; out: d. */
void emu_exchange(enum emu_exchange what, const uint32_t *in, uint32_t *out, const char *file,
                  int line);
void emu_copy_start(void *shared, const void *global, const char *file, int line);
void emu_copies_commit(void);
void emu_copies_wait(size_t but);

/* ---- threads ---- */

DEVICE uint32_t thread_index(void) { return emu_thread_index(); }
DEVICE uint32_t block_index(void) { return emu_block_index(); }

DEVICE void block_barrier(PLACE)
{
    emu_exchange(EMU_BLOCK_BARRIER, NULL, NULL, file, line);
}

DEVICE void warp_barrier(PLACE) { emu_exchange(EMU_WARP_BARRIER, NULL, NULL, file, line); }

DEVICE uint32_t shuffle_from(uint32_t v, uint32_t lane, PLACE)
{
    uint32_t in[2] = {v, lane}, out;
    emu_exchange(EMU_SHUFFLE, in, &out, file, line);
    return out;
}

DEVICE uint32_t shuffle_xor(uint32_t v, uint32_t mask, PLACE)
{
    return shuffle_from(v, emu_thread_index() % WARP_LANES ^ mask, file, line);
}

/* ---- memory ---- */

/* name(p): a load of type, checked. */
#define LOAD(name, type, check)                                                                    \
    DEVICE type name(const void *p, PLACE)                                                         \
    {                                                                                              \
        type v;                                                                                    \
        check(p, sizeof v, file, line);                                                            \
        memcpy(&v, p, sizeof v);                                                                   \
        return v;                                                                                  \
    }
LOAD(load1, uint8_t, emu_global_read)
LOAD(load2, uint16_t, emu_global_read)
LOAD(load4, uint32_t, emu_global_read)
LOAD(load4_again, uint32_t, emu_global_read)
LOAD(load16, struct words4, emu_global_read)
LOAD(load16_once, struct words4, emu_global_read)
LOAD(shared_get4, uint32_t, emu_shared_read)
LOAD(shared_get8, struct words2, emu_shared_read)
LOAD(shared_get16, struct words4, emu_shared_read)
#undef LOAD

#define STORE(name, type, check)                                                                   \
    DEVICE void name(void *p, type v, PLACE)                                                       \
    {                                                                                              \
        check(p, sizeof v, file, line);                                                            \
        memcpy(p, &v, sizeof v);                                                                   \
    }
STORE(store2, uint16_t, emu_global_write)
STORE(store4, uint32_t, emu_global_write)
STORE(shared_put4, uint32_t, emu_shared_write)
STORE(shared_put8, struct words2, emu_shared_write)
#undef STORE

DEVICE void copy16_start(void *shared, const void *global, PLACE)
{
    emu_copy_start(shared, global, file, line);
}

DEVICE void copies_commit(void) { emu_copies_commit(); }

template <int but> DEVICE void copies_wait(void) { emu_copies_wait(but); }

/* ---- integers ---- */

/* Byte i of a word, as what dp4a takes it for. */
DEVICE int unsigned_byte(uint32_t v, int i) { return (uint8_t)(v >> 8 * i); }
DEVICE int signed_byte(uint32_t v, int i) { return (int8_t)(v >> 8 * i); }

DEVICE int dp4a_us(uint32_t a, uint32_t b, int c)
{
    for (int i = 0; i < 4; i++)
        c += unsigned_byte(a, i) * signed_byte(b, i);
    return c;
}

DEVICE int dp4a_ss(uint32_t a, uint32_t b, int c)
{
    for (int i = 0; i < 4; i++)
        c += signed_byte(a, i) * signed_byte(b, i);
    return c;
}

DEVICE int dp2a_low_su(uint32_t a, uint32_t b, int c)
{
    return c + (int16_t)a * unsigned_byte(b, 0) + (int16_t)(a >> 16) * unsigned_byte(b, 1);
}

DEVICE int dp2a_high_su(uint32_t a, uint32_t b, int c) { return dp2a_low_su(a, b >> 16, c); }

DEVICE int dp2a_low_ss(uint32_t a, uint32_t b, int c)
{
    return c + (int16_t)a * signed_byte(b, 0) + (int16_t)(a >> 16) * signed_byte(b, 1);
}

DEVICE int dp2a_high_ss(uint32_t a, uint32_t b, int c) { return dp2a_low_ss(a, b >> 16, c); }

DEVICE uint32_t bytes_pick(uint32_t a, uint32_t b, uint32_t which)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v |= (uint32_t)(both >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return v;
}

DEVICE uint32_t bits_choose(uint32_t mask, uint32_t a, uint32_t b)
{
    return (a & mask) | (b & ~mask);
}

DEVICE uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}

DEVICE void mma16(int *d, const uint32_t *a, uint32_t b, PLACE)
{
    uint32_t in[7] = {a[0], a[1], b}, out[4];
    memcpy(in + 3, d, sizeof out);
    emu_exchange(EMU_MMA16, in, out, file, line);
    memcpy(d, out, sizeof out);
}

DEVICE void mma32(int *d, const uint32_t *a, const uint32_t *b, PLACE)
{
    uint32_t in[10] = {a[0], a[1], a[2], a[3], b[0], b[1]}, out[4];
    memcpy(in + 6, d, sizeof out);
    emu_exchange(EMU_MMA32, in, out, file, line);
    memcpy(d, out, sizeof out);
}

/* ---- floats ---- */

DEVICE uint32_t float_bits(float v) { return f32_bits(v); }
DEVICE float float_from(uint32_t bits) { return f32_from_bits(bits); }
DEVICE float half_to_float(uint16_t h) { return f32_from_f16(h); }
DEVICE float byte_to_float(uint32_t v, int i) { return (float)unsigned_byte(v, i); }
DEVICE uint16_t float_to_half(float f) { return f16_from_f32(f); }
DEVICE float square_root(float v) { return sqrtf(v); }

#endif
