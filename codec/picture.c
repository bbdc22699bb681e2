/* SPDX-License-Identifier: MIT */
#include "codec/picture.h"

#include "codec/png.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DECADES = 4,
    STEPS = 16,                /* colours of a decade */
    COLOURS = DECADES * STEPS,
    PAPER = COLOURS, INK,      /* two more */
    PALETTE,
    HIGHEST_MIN = -34, HIGHEST_MAX = 39, /* exponents of 10 at the bar's upper end, for floats */
    /* Points. To the right of the map: a gap, the bar, ticks, labels. */
    GAP = 8, BAR = 12, TICK = 4, GLYPH_WIDTH = 5, GLYPH_HEIGHT = 7, LETTERS = 5,
    LEGEND = GAP + BAR + TICK + 2 + LETTERS * (GLYPH_WIDTH + 1),
    BORDER = GLYPH_HEIGHT / 2, /* above the bar and below it, for the labels of its ends */
    HEIGHT_MIN = 2 * BORDER + 1 + COLOURS,
};

/* 10^(i / 16). Powers are not computed, for libraries round them differently. */
static const double steps[STEPS] = {
    1.0,                1.1547819846894583, 1.333521432163324, 1.539926526059492,
    1.7782794100389228, 2.0535250264571463, 2.371373705661655, 2.7384196342643614,
    3.1622776601683795, 3.651741272548377,  4.216965034285822, 4.869675251658631,
    5.623413251903491,  6.493816315762113,  7.498942093324558, 8.659643233600654,
};

/* From the least number to the greatest; what is between two of them is mixed. */
static const uint8_t stops[][3] = {
    {8, 8, 32}, {48, 16, 104}, {124, 24, 128}, {196, 44, 96}, {240, 96, 48}, {252, 176, 56},
    {255, 248, 200},
};

/* Rows of a glyph from above, five bits each, the leftmost the highest. */
static const char letters[] = "0123456789e+-";
static const uint8_t glyphs[][GLYPH_HEIGHT] = {
    {14, 17, 19, 21, 25, 17, 14}, {4, 12, 4, 4, 4, 4, 14},     {14, 17, 1, 2, 4, 8, 31},
    {31, 2, 4, 2, 1, 17, 14},     {2, 6, 10, 18, 31, 2, 2},    {31, 16, 30, 1, 1, 17, 14},
    {6, 8, 16, 30, 17, 17, 14},   {31, 1, 2, 4, 8, 8, 8},      {14, 17, 17, 14, 17, 17, 14},
    {14, 17, 17, 15, 1, 2, 12},   {0, 0, 14, 17, 31, 16, 14},  {0, 4, 4, 31, 4, 4, 0},
    {0, 0, 0, 31, 0, 0, 0},
};

static void make_palette(uint8_t palette[PALETTE][3])
{
    enum { PARTS = sizeof stops / sizeof *stops - 1 };
    for (int i = 0; i < COLOURS; i++) {
        int at = i * PARTS, part = at / (COLOURS - 1), rest = at % (COLOURS - 1);
        const uint8_t *from = stops[part], *to = stops[part + (rest > 0)];
        for (int k = 0; k < 3; k++)
            palette[i][k] = (uint8_t)(from[k] + (to[k] - from[k]) * rest / (COLOURS - 1));
    }
    memset(palette[PAPER], 255, 3);
    memset(palette[INK], 0, 3);
}

/* Points for so many weights, of which each has as many but the last. */
static uint32_t points_of(uint64_t n, uint64_t max, uint64_t *each)
{
    *each = (n - 1) / max + 1;
    return (uint32_t)((n - 1) / *each + 1);
}

void picture_init(struct picture *p, uint64_t rows, uint64_t columns, const char *title)
{
    *p = (struct picture){.rows = rows, .columns = columns};
    p->map_height = points_of(rows, PICTURE_SIDE_MAX, &p->point_rows);
    p->map_width = points_of(columns, PICTURE_SIDE_MAX - LEGEND, &p->point_columns);
    p->height = p->map_height > HEIGHT_MIN ? p->map_height : HEIGHT_MIN;
    p->width = p->map_width + LEGEND;
    snprintf(p->comment, sizeof p->comment,
             "%.*s, log scale; a point is the greatest of %llu x %llu weights", PICTURE_TITLE_MAX,
             title, (unsigned long long)p->point_rows, (unsigned long long)p->point_columns);
}

static struct png png_of(const struct picture *p, const uint8_t (*palette)[3])
{
    return (struct png){p->width, p->height, palette, PALETTE, p->comment};
}

size_t picture_size(const struct picture *p)
{
    struct png png = png_of(p, NULL);
    return png_size(&png);
}

void picture_add_row(const struct picture *p, uint64_t row, const float *numbers, float *points)
{
    float *line = points + row / p->point_rows * p->map_width;
    for (uint64_t first = 0; first < p->columns; first += p->point_columns, line++) {
        uint64_t left = p->columns - first, n = left < p->point_columns ? left : p->point_columns;
        for (uint64_t i = 0; i < n; i++)
            *line = numbers[first + i] > *line ? numbers[first + i] : *line;
    }
}

/* The decimal that is read as it is written here, on every machine. */
static double power_of_ten(int exponent)
{
    char text[16];
    snprintf(text, sizeof text, "1e%d", exponent);
    return strtod(text, NULL);
}

/* The exponent of the least power of ten that no point is above. */
static int highest_decade(const struct picture *p, const float *points)
{
    float greatest = 0;
    int exponent = HIGHEST_MIN;
    for (size_t i = 0; i < (size_t)p->map_height * p->map_width; i++)
        greatest = points[i] > greatest ? points[i] : greatest;
    while (exponent < HIGHEST_MAX && (double)greatest > power_of_ten(exponent))
        exponent++;
    return exponent;
}

/* The last of the limits, which rise, that is not above the number; 0 if all are. */
static uint8_t colour_of(const double limits[COLOURS], float number)
{
    int low = 0;
    for (int half = COLOURS / 2; half; half /= 2)
        low += (double)number >= limits[low + half] ? half : 0;
    return (uint8_t)low;
}

static void draw_map(const struct picture *p, int highest, const float *points, uint8_t *pixels)
{
    double limits[COLOURS];
    for (int i = 0; i < COLOURS; i++)
        limits[i] = steps[i % STEPS] * power_of_ten(highest - DECADES + i / STEPS);
    for (size_t y = 0; y < p->map_height; y++)
        for (size_t x = 0; x < p->map_width; x++)
            pixels[y * p->width + x] = colour_of(limits, points[y * p->map_width + x]);
}

/* 10^exponent, around the middle of line y. */
static void draw_label(const struct picture *p, int exponent, size_t x, size_t y, uint8_t *pixels)
{
    char text[16];
    snprintf(text, sizeof text, "1e%+03d", exponent);
    for (const char *c = text; *c; c++, x += GLYPH_WIDTH + 1)
        for (size_t i = 0; i < GLYPH_HEIGHT; i++)
            for (size_t k = 0; k < GLYPH_WIDTH; k++)
                if (glyphs[strchr(letters, *c) - letters][i] >> (GLYPH_WIDTH - 1 - k) & 1)
                    pixels[(y - BORDER + i) * p->width + x + k] = INK;
}

static void draw_bar(const struct picture *p, int highest, uint8_t *pixels)
{
    size_t left = p->map_width + GAP, top = BORDER, length = p->height - 1 - 2 * BORDER;
    for (size_t y = 0; y < length; y++)
        memset(pixels + (top + y) * p->width + left,
               (int)((length - 1 - y) * COLOURS / length), BAR);
    for (int i = 0; i <= DECADES; i++) {
        size_t y = top + length * (size_t)i / DECADES;
        memset(pixels + y * p->width + left, INK, BAR + TICK);
        draw_label(p, highest - i, left + BAR + TICK + 2, y, pixels);
    }
}

void picture_write(const struct picture *p, const float *points, uint8_t *pixels, uint8_t *out)
{
    uint8_t palette[PALETTE][3];
    struct png png = png_of(p, palette);
    int highest = highest_decade(p, points);
    make_palette(palette);
    memset(pixels, PAPER, (size_t)p->width * p->height);
    draw_map(p, highest, points, pixels);
    draw_bar(p, highest, pixels);
    png_write(&png, pixels, out);
}
