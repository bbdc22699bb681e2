/* SPDX-License-Identifier: MIT */
#include "fs/name.h"

#include "codec/utf8.h"

#include <stdio.h>
#include <xxhash.h>

enum { HASH_DIGITS = 16 };

static bool is_plain(const uint8_t *s, unsigned length)
{
    return length > 1 || (*s > ' ' - 1 && *s != 0x7f && *s != '/' && *s != '%');
}

void name_encode(const char *raw, char *out)
{
    const uint8_t *s = (const uint8_t *)raw;
    size_t n = strlen(raw), used = 0, fits = 0;
    bool dots = strcmp(raw, ".") == 0 || strcmp(raw, "..") == 0;
    if (n == 0) { /* "%" alone is the encoding of nothing else */
        strcpy(out, "%");
        return;
    }
    while (n) {
        uint32_t code;
        unsigned bad, length = utf8_next(s, n, &code, &bad);
        char piece[8];
        if (length && is_plain(s, length) && !dots) {
            memcpy(piece, s, length);
            piece[length] = '\0';
        } else {
            length = 1;
            snprintf(piece, sizeof piece, "%%%02X", *s);
        }
        size_t size = strlen(piece);
        if (used + size > NAME_BYTES) {
            snprintf(out + fits, HASH_DIGITS + 2, "~%016llx",
                     (unsigned long long)XXH64(raw, strlen(raw), 0));
            return;
        }
        memcpy(out + used, piece, size + 1);
        used += size;
        if (used <= NAME_BYTES - HASH_DIGITS - 1)
            fits = used;
        s += length;
        n -= length;
    }
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool name_decode(const char *encoded, char *out)
{
    char *end = out, check[NAME_BYTES + 1];
    if (strlen(encoded) > NAME_BYTES)
        return false;
    for (const char *s = encoded; *s; s++) {
        if (*s != '%') {
            *end++ = *s;
        } else if (s[1] && digit(s[1]) >= 0 && digit(s[2]) >= 0) {
            *end++ = (char)(digit(s[1]) << 4 | digit(s[2]));
            s += 2;
        } else if (s != encoded || s[1]) {
            return false;
        }
    }
    *end = '\0';
    name_encode(out, check);
    return strcmp(check, encoded) == 0;
}
