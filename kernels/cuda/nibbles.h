/* SPDX-License-Identifier: MIT
 *
 * The formats of blocks of 32 that have 16 bytes of nibbles: weight i in the low nibble of byte i,
 * weight i + 16 in the high one. What of a block a lane takes, with t from 0 to 3: bytes 4 t to
 * 4 t + 3 of the nibbles, which are the weights 4 t and 16 + 4 t and the three behind each; of fifth
 * bits the word that has all 32. Blocks of Q4_1 and Q5_1 begin at multiples of four, the others at
 * even addresses, so there words are two loads each.
 *
 * A format is a struct N with SIZE of its block, MINS (whether m lies behind d), ZERO (what codes are
 * to be less by), and
 *   codes(block, t, out)   two words of four codes each, below 128 or signed bytes
 */
#ifndef KERNELS_CUDA_NIBBLES_H
#define KERNELS_CUDA_NIBBLES_H

#include "kernels/cuda/device.h"
#include "kernels/cuda/unaligned.h"

/* w: eight nibbles. */
DEVICE void nibbles_part(uint32_t w, uint32_t *out)
{
    out[0] = w & 0x0f0f0f0f;
    out[1] = w >> 4 & 0x0f0f0f0f;
}

/* The low four bits of v as bit 4 of four bytes: 7 j further up, bit j is where byte j begins. */
DEVICE uint32_t fifth_bits(uint32_t v)
{
    return (v & 15) * (0x00204081 << 4) & 0x10101010;
}

/* low, high: the fifth bits of 16 weights each. */
DEVICE void fifth_bits_add(uint32_t low, uint32_t high, uint32_t t, uint32_t *out)
{
    out[0] |= fifth_bits(low >> 4 * t);
    out[1] |= fifth_bits(high >> 4 * t);
}

struct nibbles_q4_0 {
    enum { SIZE = 18, MINS = 0, ZERO = 8 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        nibbles_part(load_word(block + 2 + 4 * t), out);
    }
};

struct nibbles_q4_1 {
    enum { SIZE = 20, MINS = 1, ZERO = 0 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        nibbles_part(load4(block + 4 + 4 * t), out);
    }
};

struct nibbles_q5_0 {
    enum { SIZE = 22, MINS = 0, ZERO = 16 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        nibbles_part(load_word(block + 6 + 4 * t), out);
        fifth_bits_add(load2(block + 2), load2(block + 4), t, out);
    }
};

struct nibbles_q5_1 {
    enum { SIZE = 24, MINS = 1, ZERO = 0 };

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        uint32_t fifths = load4(block + 4);
        nibbles_part(load4(block + 8 + 4 * t), out);
        fifth_bits_add(fifths, fifths >> 16, t, out);
    }
};

/* A code is the number of one of sixteen levels, each a signed byte of these words. */
struct nibbles_iq4_nl {
    enum { SIZE = 18, MINS = 0, ZERO = 0 };

    /* Levels of the nibbles in the low half of w. low: w without the top bit of each; high: 4 + i in
     * nibble i where that bit is set, else i. */
    static DEVICE_MEMBER uint32_t four_levels(uint32_t low, uint32_t high)
    {
        return bytes_pick(bytes_pick(0xbfad9881, 0xf6eaddcf, low),
                          bytes_pick(0x26190d01, 0x71594535, low), high);
    }

    static DEVICE_MEMBER void codes(const uint8_t *block, uint32_t t, uint32_t *out)
    {
        uint32_t w = load_word(block + 2 + 4 * t), low = w & 0x77777777;
        uint32_t high = (w >> 1 & 0x44444444) | 0x32103210;
        uint32_t a = four_levels(low, high), b = four_levels(low >> 16, high >> 16);
        out[0] = bytes_pick(a, b, 0x6420);
        out[1] = bytes_pick(a, b, 0x7531);
    }
};

#endif
