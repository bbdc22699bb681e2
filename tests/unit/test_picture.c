/* SPDX-License-Identifier: MIT
 *
 * Pictures: a file's size is known before it is written, for any shape, and zlib reads its stream;
 * points are the greatest of their weights, and colours follow them.
 */
#include "codec/picture.h"
#include "codec/png.h"
#include "tests/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

enum { GUARD = 64, GUARD_BYTE = 0xa5 };

/* A chunk's data lies so far behind its start. */
enum { CHUNK_DATA = 8, CHUNK_EXTRA = 12 };

static const uint8_t palette[4][3] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};

static uint32_t load_big(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Room for n bytes, behind which nothing may be written. */
static uint8_t *guarded(size_t n)
{
    uint8_t *p = malloc(n + GUARD);
    assert_non_null(p);
    memset(p, GUARD_BYTE, n + GUARD);
    return p;
}

static void check_guard(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < GUARD; i++)
        assert_int_equal(p[n + i], GUARD_BYTE);
}

/* The data of the first chunk of a type; every chunk up to the end must have its CRC. */
static const uint8_t *find_chunk(const uint8_t *file, size_t size, const char *type, size_t *length)
{
    const uint8_t *found = NULL;
    for (size_t at = 8; at < size;) {
        uint32_t n = load_big(file + at);
        assert_true(n <= size - at - CHUNK_EXTRA);
        assert_int_equal(load_big(file + at + CHUNK_DATA + n), crc32(0, file + at + 4, n + 4));
        if (!found && memcmp(file + at + 4, type, 4) == 0) {
            found = file + at + CHUNK_DATA;
            *length = n;
        }
        at += n + CHUNK_EXTRA;
    }
    assert_non_null(found);
    return found;
}

static void check_shape(uint32_t width, uint32_t height, const char *comment)
{
    struct random random = {width * 7919u + height};
    struct png png = {width, height, palette, 4, comment};
    size_t size = png_size(&png), pixels_size = (size_t)width * height, length;
    uLongf raw_size = height * (width + 1ul), told = raw_size;
    uint8_t *pixels = malloc(pixels_size), *file = guarded(size), *raw = malloc(raw_size);
    for (size_t i = 0; i < pixels_size; i++)
        pixels[i] = (uint8_t)(random_bits(&random) % 4);
    png_write(&png, pixels, file);
    check_guard(file, size);
    assert_memory_equal(file, "\x89PNG\r\n\x1a\n", 8);
    const uint8_t *head = find_chunk(file, size, "IHDR", &length);
    assert_int_equal(load_big(head), width);
    assert_int_equal(load_big(head + 4), height);
    const uint8_t *data = find_chunk(file, size, "IDAT", &length);
    assert_int_equal(uncompress(raw, &told, data, length), Z_OK);
    assert_int_equal(told, raw_size);
    for (size_t row = 0; row < height; row++) {
        assert_int_equal(raw[row * (width + 1)], 0);
        assert_memory_equal(raw + row * (width + 1) + 1, pixels + row * width, width);
    }
    assert_memory_equal(file + size - CHUNK_EXTRA + 4, "IEND", 4);
    free(pixels);
    free(file);
    free(raw);
}

/* Streams end before a block's end, with it, and behind it. */
static void test_a_file_is_as_large_as_told(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1},       {1, 65535},  {65534, 1},  {65535, 1},
                                         {65533, 1},   {254, 257},  {254, 258},  {254, 514},
                                         {1023, 1024}, {1024, 1024}, {3, 20000},  {570, 256}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(shapes[i][0], shapes[i][1], i % 2 ? "" : "a comment");
}

/* A picture of numbers, as a file. */
struct drawn {
    struct picture picture;
    uint8_t *pixels, *file;
    size_t size;
};

static struct drawn draw(uint64_t rows, uint64_t columns, const float *numbers)
{
    struct drawn d;
    picture_init(&d.picture, rows, columns, "numbers");
    float *points = calloc((size_t)d.picture.map_height * d.picture.map_width, sizeof *points);
    for (uint64_t row = 0; row < rows; row++)
        picture_add_row(&d.picture, row, numbers + row * columns, points);
    size_t pixels = (size_t)d.picture.height * d.picture.width;
    d.pixels = guarded(pixels);
    d.size = picture_size(&d.picture);
    d.file = guarded(d.size);
    picture_write(&d.picture, points, d.pixels, d.file);
    check_guard(d.pixels, pixels);
    check_guard(d.file, d.size);
    free(points);
    return d;
}

static void drawn_free(struct drawn *d)
{
    free(d->pixels);
    free(d->file);
}

static uint8_t pixel(const struct drawn *d, uint32_t y, uint32_t x)
{
    return d->pixels[y * d->picture.width + x];
}

static void test_no_side_is_longer_than_told(void **state)
{
    (void)state;
    static const uint64_t shapes[][2] = {{1, 1}, {1, 5000}, {5000, 1}, {1024, 978}, {1025, 979},
                                         {3000, 40}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint64_t rows = shapes[i][0], columns = shapes[i][1];
        float *numbers = calloc(rows * columns, sizeof *numbers);
        numbers[rows * columns - 1] = 1;
        struct drawn d = draw(rows, columns, numbers);
        assert_in_range(d.picture.height, 1, PICTURE_SIDE_MAX);
        assert_in_range(d.picture.width, 1, PICTURE_SIDE_MAX);
        /* the last weight is in the last point, and nothing else is */
        for (uint32_t y = 0; y < d.picture.map_height; y++)
            for (uint32_t x = 0; x < d.picture.map_width; x++)
                assert_int_equal(pixel(&d, y, x) > 0, y == d.picture.map_height - 1 &&
                                                          x == d.picture.map_width - 1);
        drawn_free(&d);
        free(numbers);
    }
}

/* Of a decade 16, the greatest number's decade being the highest of four. */
static void test_colours_are_logarithms(void **state)
{
    (void)state;
    const float numbers[] = {0, 9e-5f, 1.0001e-4f, 1.2e-4f, 1.0001e-3f, 3.2e-3f, 1.0001e-1f, 1};
    const uint8_t colours[] = {0, 0, 0, 1, 16, 24, 48, 63};
    struct drawn d = draw(1, sizeof numbers / sizeof *numbers, numbers);
    for (uint32_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_int_equal(pixel(&d, 0, i), colours[i]);
    drawn_free(&d);
}

/* Labels are the same for the same decades, and otherwise not. */
static void test_the_bar_tells_the_decades(void **state)
{
    (void)state;
    const float greatest[] = {0, 0.5f, 0.7f, 5, 3e38f, 1e-44f};
    struct drawn d[sizeof greatest / sizeof *greatest];
    enum { COUNT = sizeof greatest / sizeof *greatest };
    for (int i = 0; i < COUNT; i++)
        d[i] = draw(1, 1, &greatest[i]);
    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < COUNT; k++) {
            bool same = true;
            for (uint32_t y = 0; y < d[i].picture.height; y++)
                for (uint32_t x = 1; x < d[i].picture.width; x++)
                    same &= pixel(&d[i], y, x) == pixel(&d[k], y, x);
            bool least = (i == 0 || i == COUNT - 1) && (k == 0 || k == COUNT - 1);
            assert_int_equal(same, i == k || (i + k == 3 && i && k) || least);
        }
    for (int i = 0; i < COUNT; i++)
        drawn_free(&d[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_is_as_large_as_told),
        cmocka_unit_test(test_no_side_is_longer_than_told),
        cmocka_unit_test(test_colours_are_logarithms),
        cmocka_unit_test(test_the_bar_tells_the_decades),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
