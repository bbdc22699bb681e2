/* SPDX-License-Identifier: MIT
 *
 * The ring: pieces come in the order of a pass, with the right bytes, whatever its size; experts
 * come when they were chosen, and not before; what is damaged comes right all the same.
 */
#include "tools/run/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

enum { PIECES = 40, PIECE_SIZE = 3000, EXPERTS = 4, EXPERTS_FROM = 10, EXPERTS_TO = 30 };

static char path[] = "test_ring.XXXXXX", damaged_path[] = "test_ring.XXXXXX";
static uint8_t bytes[PIECES * PIECE_SIZE + 77]; /* the file's; a few before the pieces */
static const uint64_t begin = 77;
static const struct beneath anywhere = {AT_FDCWD, true};
static struct stats stats;
static struct source_set *set;
static struct source *whole;
static struct piece pieces[PIECES];

static void write_file(char *name, const uint8_t *data, size_t n)
{
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, n), n);
    close(fd);
}

/* A layer of plain pieces, one with experts, and a plain one. */
static int set_up(void **state)
{
    (void)state;
    struct error err;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 9));
    write_file(path, bytes, sizeof bytes);
    set = source_set_new(4, &stats);
    assert_int_equal(source_open(set, &anywhere, path, &whole, &err), 0);
    for (uint32_t i = 0; i < PIECES; i++) {
        uint64_t at = begin + (uint64_t)i * PIECE_SIZE;
        bool expert = i >= EXPERTS_FROM && i < EXPERTS_TO;
        pieces[i] = (struct piece){.offset = at, .at = at, .size = PIECE_SIZE,
                                   .layer = expert ? 1 : i < EXPERTS_FROM ? 0 : 2,
                                   .expert = expert ? (i - EXPERTS_FROM) / 5 : PIECE_ALWAYS};
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    source_unref(whole);
    source_set_free(set);
    return unlink(path);
}

static struct ring *open_ring(uint64_t slots, enum reader_kind kind, const char *file)
{
    struct ring *r;
    struct error err;
    int number;
    assert_int_equal(
        ring_open(pieces, PIECES, ring_slot_size(PIECE_SIZE), slots, kind, whole, &r, &err), 0);
    assert_int_equal(reader_add(ring_reader(r), open(file, O_RDONLY), &number), 0);
    for (int i = 0; i < PIECES; i++)
        pieces[i].file = number;
    return r;
}

static void take(struct ring *r, uint32_t piece)
{
    const uint8_t *data;
    struct error err;
    assert_int_equal(ring_take(r, piece, true, &data, &err), 0);
    assert_memory_equal(data, bytes + pieces[piece].offset, PIECE_SIZE);
}

/* One pass in which only some experts are chosen; at most `held` pieces are held at once. */
static void pass(struct ring *r, const bool *chosen, size_t held)
{
    size_t count = 0;
    ring_begin(r);
    for (uint32_t i = 0; i < PIECES; i++) {
        if (i == EXPERTS_FROM)
            ring_choose(r, 1, chosen);
        if (pieces[i].expert != PIECE_ALWAYS && !chosen[pieces[i].expert])
            continue;
        if (count == held) {
            ring_give(r, count);
            count = 0;
        }
        take(r, i);
        count++;
    }
    ring_give(r, count);
}

static void test_passes(void **state)
{
    (void)state;
    static const bool choices[][EXPERTS] = {{true, true, true, true},
                                            {false, true, false, true},
                                            {true, false, false, false},
                                            {false, false, false, true},
                                            {false, false, false, false}};
    for (int kind = READER_ANY; kind <= READER_PREAD; kind += READER_PREAD)
        for (uint64_t slots = 1; slots <= 2 * PIECES + 1; slots = slots * 2 + 1) {
            struct ring *r = open_ring(slots, (enum reader_kind)kind, path);
            uint64_t expected = 0;
            for (int i = 0; i < 10; i++) {
                const bool *chosen = choices[i % 5];
                pass(r, chosen, slots < 4 ? slots : 4);
                expected += PIECES - (EXPERTS_TO - EXPERTS_FROM);
                for (int e = 0; e < EXPERTS; e++)
                    expected += chosen[e] ? 5 : 0;
            }
            assert_int_equal(ring_stats(r)->bytes[PLACE_FILE], expected * PIECE_SIZE);
            ring_close(r);
        }
}

static void test_only_what_was_chosen_is_read(void **state)
{
    (void)state;
    struct ring *r = open_ring(2 * PIECES, READER_ANY, path);
    uint64_t filled;
    double seconds;
    ring_fill(r, &filled, &seconds);
    assert_int_equal(reader_stats(ring_reader(r)).reads, EXPERTS_FROM);
    const bool chosen[EXPERTS] = {false, true, false, false};
    pass(r, chosen, 1);
    /* of the next pass as far as that is known */
    assert_int_equal(reader_stats(ring_reader(r)).reads,
                     EXPERTS_FROM + 5 + (PIECES - EXPERTS_TO) + EXPERTS_FROM);
    ring_close(r);
}

static void test_out_of_turn(void **state)
{
    (void)state;
    struct ring *r = open_ring(4, READER_ANY, path);
    const uint8_t *data;
    struct error err;
    ring_begin(r);
    assert_int_equal(ring_take(r, 1, true, &data, &err), -EINVAL);
    ring_close(r);
}

/* Pieces lie elsewhere, one of them is damaged, and the end of that file is missing. */
static void test_damaged_objects(void **state)
{
    (void)state;
    enum { DAMAGED = 3, MISSING_FROM = PIECES - 2 };
    static uint8_t copy[sizeof bytes];
    struct piece kept[PIECES];
    memcpy(kept, pieces, sizeof kept);
    memcpy(copy, bytes + begin, PIECES * PIECE_SIZE);
    copy[DAMAGED * PIECE_SIZE + 11] ^= 4;
    write_file(damaged_path, copy, MISSING_FROM * PIECE_SIZE);
    for (uint32_t i = 0; i < PIECES; i++) {
        pieces[i].place = PLACE_OBJECT;
        pieces[i].at = (uint64_t)i * PIECE_SIZE;
        pieces[i].seed = i;
        pieces[i].checksum = XXH3_64bits_withSeed(bytes + pieces[i].offset, PIECE_SIZE, i);
    }
    struct ring *r = open_ring(5, READER_ANY, damaged_path);
    const bool all[EXPERTS] = {true, true, true, true};
    pass(r, all, 2);
    const struct ring_stats *s = ring_stats(r);
    assert_int_equal(s->damaged, 1);
    assert_int_equal(s->bytes[PLACE_MOUNT], 3 * PIECE_SIZE);
    assert_int_equal(s->bytes[PLACE_OBJECT], (PIECES - 3) * PIECE_SIZE);
    pass(r, all, 2);
    ring_close(r);
    unlink(damaged_path);
    memcpy(pieces, kept, sizeof kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_only_what_was_chosen_is_read),
        cmocka_unit_test(test_out_of_turn),
        cmocka_unit_test(test_damaged_objects),
    };
    return cmocka_run_group_tests_name("ring", tests, set_up, tear_down);
}
