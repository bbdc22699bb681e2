/* SPDX-License-Identifier: MIT
 *
 * Blocks and their weights, written so that one can read them. Bytes: "00 3c 88*14 e439*2" is a
 * half, fourteen times 0x88, and twice 0xe4 0x39. Weights: "0-31=-1 5=0x1p-3" are those that differ
 * from the rest, of which the last one said holds.
 */
#ifndef TESTS_UNIT_PATTERN_H
#define TESTS_UNIT_PATTERN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Writes at most size bytes to out; returns how many bytes the pattern has. */
static inline size_t pattern_bytes(const char *text, uint8_t *out, size_t size)
{
    size_t n = 0;
    while (*text) {
        size_t digits = strspn(text, "0123456789abcdef");
        const char *end = text + digits;
        unsigned long times = 1;
        if (*end == '*')
            times = strtoul(end + 1, (char **)&end, 10);
        while (times--)
            for (size_t i = 0; i < digits; i += 2, n++) {
                unsigned byte = 0;
                sscanf(text + i, "%2x", &byte);
                if (n < size)
                    out[n] = (uint8_t)byte;
            }
        text = end + strspn(end, " ");
    }
    return n;
}

/* Writes n weights: rest, but for those that the pattern names. */
static inline void pattern_weights(float rest, const char *text, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = rest;
    while (*text) {
        char *end;
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        float value = strtof(end + 1, &end);
        for (; first <= last && first < n; first++)
            out[first] = value;
        text = end + strspn(end, " ");
    }
}

#endif
