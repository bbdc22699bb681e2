/* SPDX-License-Identifier: MIT
 *
 * UTF-8, strict: no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#ifndef CODEC_UTF8_H
#define CODEC_UTF8_H

#include "codec/bytes.h"

/* Decodes the character at the start of n bytes. Returns its length, or 0 where no valid one
 * starts; *bad is then the length (1 to 3) of what a decoder replaces by one U+FFFD. */
static inline unsigned utf8_next(const uint8_t *s, size_t n, uint32_t *code, unsigned *bad)
{
    *bad = 1;
    if (n == 0)
        return 0;
    uint8_t first = s[0];
    if (first < 0x80) {
        *code = first;
        return 1;
    }
    unsigned length = first >= 0xc2 && first <= 0xdf   ? 2
                      : first >= 0xe0 && first <= 0xef ? 3
                      : first >= 0xf0 && first <= 0xf4 ? 4
                                                       : 0;
    if (!length)
        return 0;
    /* the second byte is what excludes overlong forms, surrogates and values too large */
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    uint32_t value = first & (0x7fu >> length);
    for (unsigned i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high) {
            *bad = i;
            return 0;
        }
        value = value << 6 | (s[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *code = value;
    return length;
}

static inline bool utf8_valid(const void *data, size_t n)
{
    const uint8_t *s = data;
    uint32_t code;
    unsigned bad;
    while (n) {
        unsigned length = utf8_next(s, n, &code, &bad);
        if (!length)
            return false;
        s += length;
        n -= length;
    }
    return true;
}

#endif
