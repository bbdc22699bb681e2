/* SPDX-License-Identifier: MIT
 *
 * How a text begins and ends.
 */
#ifndef CODEC_AFFIX_H
#define CODEC_AFFIX_H

#include <stdbool.h>
#include <string.h>

static inline bool starts_with(const char *s, const char *head)
{
    return strncmp(s, head, strlen(head)) == 0;
}

static inline bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

#endif
