/* SPDX-License-Identifier: MIT
 *
 * The K formats times 2 to 16 columns: what tile.h needs of each. Lane t has bytes 4 t to 4 t + 3 of
 * every 16; codec/block.h says which bits of them are whose.
 */
#include "kernels/cuda/tile.h"
#include "kernels/cuda/unaligned.h"

/* n words, 16 bytes apart. */
template <int n> DEVICE void words_load(const uint8_t *p, uint32_t *out)
{
    for (int i = 0; i < n; i++)
        out[i] = load4(p + 16 * i);
}

template <int n> DEVICE void even_words_load(struct even_block b, uint32_t at, uint32_t *out)
{
    for (int i = 0; i < n; i++)
        load_even<1>(b, at + 16 * i, out + i);
}

/* Sixteen j of two bits in 64 bytes, of which w has four words: two for each half. */
DEVICE uint32_t two_bits_of(const uint32_t *w, int j)
{
    return w[j / 8 * 2 + j % 2] >> j % 8 / 2 * 2;
}

/* Sixteen j of four bits in 128 bytes, of which w has eight words: two for each 64 weights. */
DEVICE uint32_t four_bits_of(const uint32_t *w, int j)
{
    return w[j / 4 * 2 + j % 2] >> j % 4 / 2 * 4;
}

/* d, dmin and the scales and mins of Q4_K and Q5_K, each in two words. */
DEVICE void header_load(const uint8_t *block, struct tile_row *row)
{
    struct words4 head = load16(block);
    const uint32_t *s = head.w + 1;
    row->d = half_to_float((uint16_t)head.w[0]);
    row->dmin = half_to_float((uint16_t)(head.w[0] >> 16));
    row->scales[0] = s[0] & 0x3f3f3f3f;
    row->scales[1] = (s[2] & 0x0f0f0f0f) | (s[0] >> 2 & 0x30303030);
    row->mins[0] = s[1] & 0x3f3f3f3f;
    row->mins[1] = (s[2] >> 4 & 0x0f0f0f0f) | (s[1] >> 2 & 0x30303030);
}

/* A sub-block's min is that of both its sixteens. */
DEVICE void mins_of_subs(const struct tile_row *row, uint32_t *m)
{
    m[0] = m[2] = row->mins[0];
    m[1] = m[3] = row->mins[1];
}

struct tile_q4_k {
    enum { SIZE = 144, MINS = 1 };

    static DEVICE_MEMBER void load(const uint8_t *block, uint32_t t, struct tile_row *row)
    {
        header_load(block, row);
        words_load<8>(block + 16 + 4 * t, row->low);
    }

    static DEVICE_MEMBER uint32_t codes(const struct tile_row *row, int j)
    {
        return four_bits_of(row->low, j) & 0x0f0f0f0f;
    }

    static DEVICE_MEMBER int scale(const struct tile_row *row, int j)
    {
        return byte_of(row->scales, j / 2);
    }

    static DEVICE_MEMBER void mins(const struct tile_row *row, uint32_t *m)
    {
        mins_of_subs(row, m);
    }
};

struct tile_q5_k {
    enum { SIZE = 176, MINS = 1 };

    static DEVICE_MEMBER void load(const uint8_t *block, uint32_t t, struct tile_row *row)
    {
        header_load(block, row);
        words_load<2>(block + 16 + 4 * t, row->high);
        words_load<8>(block + 48 + 4 * t, row->low);
    }

    static DEVICE_MEMBER uint32_t codes(const struct tile_row *row, int j)
    {
        uint32_t fifth = row->high[j % 2] >> j / 2 & 0x01010101;
        return (four_bits_of(row->low, j) & 0x0f0f0f0f) | fifth << 4;
    }

    static DEVICE_MEMBER int scale(const struct tile_row *row, int j)
    {
        return byte_of(row->scales, j / 2);
    }

    static DEVICE_MEMBER void mins(const struct tile_row *row, uint32_t *m)
    {
        mins_of_subs(row, m);
    }
};

struct tile_q6_k {
    enum { SIZE = 210, MINS = 0 };

    static DEVICE_MEMBER void load(const uint8_t *block, uint32_t t, struct tile_row *row)
    {
        struct even_block even = even_block_at(block);
        even_words_load<8>(even, 4 * t, row->low);
        even_words_load<4>(even, 128 + 4 * t, row->high);
        load_even<4>(even, 192, row->scales);
        row->d = half_to_float(load2(block + 208));
    }

    /* Low bits lie as 64 bytes for each 128 weights, the first 64 in low nibbles. */
    static DEVICE_MEMBER uint32_t codes(const struct tile_row *row, int j)
    {
        uint32_t low = row->low[j / 8 * 4 + j % 4] >> j % 8 / 4 * 4 & 0x0f0f0f0f;
        return bytes_less(low | (two_bits_of(row->high, j) & 0x03030303) << 4, 32);
    }

    static DEVICE_MEMBER int scale(const struct tile_row *row, int j)
    {
        return byte_of(row->scales, j);
    }

    static DEVICE_MEMBER void mins(const struct tile_row *, uint32_t *) {}
};

struct tile_q3_k {
    enum { SIZE = 110, MINS = 0 };

    static DEVICE_MEMBER void load(const uint8_t *block, uint32_t t, struct tile_row *row)
    {
        struct even_block even = even_block_at(block);
        uint32_t packed[3];
        even_words_load<2>(even, 4 * t, row->high);
        even_words_load<4>(even, 32 + 4 * t, row->low);
        load_even<3>(even, 96, packed);
        for (int i = 0; i < 4; i++) {
            uint32_t low = packed[i % 2] >> i / 2 * 4 & 0x0f0f0f0f;
            row->scales[i] = bytes_less(low | (packed[2] >> 2 * i & 0x03030303) << 4, 32);
        }
        row->d = half_to_float(load2(block + 108));
    }

    static DEVICE_MEMBER uint32_t codes(const struct tile_row *row, int j)
    {
        uint32_t third = row->high[j % 2] >> j / 2 & 0x01010101;
        return bytes_less((two_bits_of(row->low, j) & 0x03030303) | third << 2, 4);
    }

    static DEVICE_MEMBER int scale(const struct tile_row *row, int j)
    {
        return byte_of(row->scales, j);
    }

    static DEVICE_MEMBER void mins(const struct tile_row *, uint32_t *) {}
};

struct tile_q2_k {
    enum { SIZE = 84, MINS = 1 };

    static DEVICE_MEMBER void load(const uint8_t *block, uint32_t t, struct tile_row *row)
    {
        for (int i = 0; i < 4; i++)
            row->scales[i] = load4(block + 4 * i);
        words_load<4>(block + 16 + 4 * t, row->low);
        uint32_t halves = load4(block + 80);
        row->d = half_to_float((uint16_t)halves);
        row->dmin = half_to_float((uint16_t)(halves >> 16));
    }

    static DEVICE_MEMBER uint32_t codes(const struct tile_row *row, int j)
    {
        return two_bits_of(row->low, j) & 0x03030303;
    }

    static DEVICE_MEMBER int scale(const struct tile_row *row, int j)
    {
        return byte_of(row->scales, j) & 15;
    }

    static DEVICE_MEMBER void mins(const struct tile_row *row, uint32_t *m)
    {
        for (int i = 0; i < 4; i++) {
            const uint32_t *pair = row->scales + i % 2 * 2;
            m[i] = bytes_pick(pair[0], pair[1], i / 2 ? 0x7531 : 0x6420) >> 4 & 0x0f0f0f0f;
        }
    }
};

#define MATMUL_K(name)                                                                              \
    KERNEL(matmul8_##name, struct matmul_args, TILE_THREADS)                                       \
    {                                                                                              \
        matmul_superblocks<struct tile_##name, 1>(a);                                              \
    }                                                                                              \
    KERNEL(matmul16_##name, struct matmul_args, TILE_THREADS)                                      \
    {                                                                                              \
        matmul_superblocks<struct tile_##name, 2>(a);                                              \
    }
MATMUL_K(q2_k)
MATMUL_K(q3_k)
MATMUL_K(q4_k)
MATMUL_K(q5_k)
MATMUL_K(q6_k)
