/* SPDX-License-Identifier: MIT
 *
 * PNG files (ISO 15948) of at most 256 colours, whose size is known before there is a pixel: rows
 * have no filter, and the stream of deflate (RFC 1950, 1951) has stored blocks only, as long as they
 * may be. libpng leaves the blocks to zlib's buffers, so that they differ between its versions; hence
 * this writer.
 */
#ifndef CODEC_PNG_H
#define CODEC_PNG_H

#include <stddef.h>
#include <stdint.h>

struct png {
    uint32_t width, height;      /* 1 to 65535 */
    const uint8_t (*palette)[3]; /* red, green, blue */
    unsigned colours;            /* 1 to 256 */
    const char *comment;         /* a line of ASCII, for those who look into the file */
};

/* Bytes of the file: of all but the comment's text and the palette's colours this is a function. */
size_t png_size(const struct png *p);

/* Writes so many. pixels: row-major, a byte each, less than `colours`. */
void png_write(const struct png *p, const uint8_t *pixels, uint8_t *out);

#endif
