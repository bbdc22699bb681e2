/* SPDX-License-Identifier: MIT
 *
 * A picture of numbers that the weights of a matrix have, none of them negative: rows and columns
 * as they are, a logarithmic scale of four decades in colours, and a bar at the right that tells
 * them. The greatest number is in the highest decade; what is below the lowest has its colour.
 *
 * A picture has at most 1024 points a side. Where a matrix has more, a point is a rectangle of its
 * weights, and shows the greatest of them, since what is rare is what is looked for. Everything but
 * the colours follows from the matrix's shape and the title, and so does the size of the file.
 */
#ifndef CODEC_PICTURE_H
#define CODEC_PICTURE_H

#include <stddef.h>
#include <stdint.h>

enum { PICTURE_SIDE_MAX = 1024, PICTURE_TITLE_MAX = 64 };

struct picture {
    uint64_t rows, columns;             /* of the matrix */
    uint64_t point_rows, point_columns; /* of these, in a point */
    uint32_t map_height, map_width;     /* points */
    uint32_t height, width;             /* with the bar */
    char comment[PICTURE_TITLE_MAX + 96];
};

/* A matrix of at least one weight. title: what the numbers are, at most PICTURE_TITLE_MAX bytes of
 * ASCII; more is cut off. */
void picture_init(struct picture *p, uint64_t rows, uint64_t columns, const char *title);

/* Bytes of the file. */
size_t picture_size(const struct picture *p);

/* Puts row `row` of the numbers into the points it belongs to: map_height * map_width of them, which
 * are 0 at first. */
void picture_add_row(const struct picture *p, uint64_t row, const float *numbers, float *points);

/* Writes the file. pixels: room for height * width bytes. */
void picture_write(const struct picture *p, const float *points, uint8_t *pixels, uint8_t *out);

#endif
