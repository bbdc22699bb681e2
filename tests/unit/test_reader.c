/* SPDX-License-Identifier: MIT
 *
 * Readers of both kinds: bytes, ends of files, errors, and what comes in parts.
 */
#include "tools/run/reader_kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILE_SIZE = 5 * READER_ALIGNMENT + 100, SLOTS = 64, SLOT = 4 * READER_ALIGNMENT };

static uint8_t *memory;

static uint8_t byte_at(uint64_t i) { return (uint8_t)(i * 31 + (i >> 8)); }

/* A file of FILE_SIZE bytes, open and without a name. */
static int make_file(void)
{
    char path[] = "test_reader.XXXXXX";
    uint8_t bytes[FILE_SIZE];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    for (int i = 0; i < FILE_SIZE; i++)
        bytes[i] = byte_at((uint64_t)i);
    assert_int_equal(write(fd, bytes, FILE_SIZE), FILE_SIZE);
    return fd;
}

/* Whether the kernel lets us have io_uring: asked without the library. */
static bool has_uring(void)
{
    char params[120] = {0};
    long fd = syscall(SYS_io_uring_setup, 1, params);
    if (fd >= 0)
        close((int)fd);
    return fd >= 0;
}

static struct reader *open_reader(enum reader_kind kind)
{
    struct reader *r;
    struct error err;
    assert_int_equal(reader_open(kind, memory, SLOTS * SLOT, &r, &err), 0);
    return r;
}

static void wait_for(struct reader *r, const struct read *read)
{
    while (!read->landed)
        reader_reap(r, true);
}

static void test_uring_where_it_can_be_had(void **state)
{
    (void)state;
    struct reader *r = open_reader(READER_ANY);
    assert_int_equal(reader_kind(r), has_uring() ? READER_URING : READER_PREAD);
    reader_close(r);
}

static void check_kind(enum reader_kind kind)
{
    struct reader *r = open_reader(kind);
    struct read reads[SLOTS];
    int file;
    assert_int_equal(reader_kind(r), kind);
    assert_int_equal(reader_add(r, make_file(), &file), 0);
    /* More than can be under way at once, of all sizes and places. */
    for (int i = 0, first = 0; i < SLOTS; i++) {
        uint32_t offset = (uint32_t)(i % 5) * READER_ALIGNMENT;
        uint32_t needed = FILE_SIZE - offset < SLOT ? FILE_SIZE - offset : SLOT;
        reads[i] = (struct read){.offset = offset,
                                 .to = memory + (size_t)i * SLOT,
                                 .size = SLOT,
                                 .needed = needed,
                                 .file = file};
        while (!reader_has_room(r))
            wait_for(r, &reads[first++]);
        reader_ask(r, &reads[i]);
    }
    for (int i = 0; i < SLOTS; i++) {
        wait_for(r, &reads[i]);
        assert_int_equal(reads[i].result, 0);
        for (uint32_t b = 0; b < reads[i].needed; b++)
            assert_int_equal(reads[i].to[b], byte_at(reads[i].offset + b));
    }
    assert_int_equal(reader_stats(r).reads, SLOTS);
    reader_close(r);
}

static void check_errors(enum reader_kind kind)
{
    struct reader *r = open_reader(kind);
    int file, closed;
    assert_int_equal(reader_add(r, make_file(), &file), 0);
    assert_int_equal(reader_add(r, open(".", O_RDONLY | O_DIRECTORY), &closed), 0);
    struct read beyond = {.offset = 4 * READER_ALIGNMENT,
                          .to = memory,
                          .size = SLOT,
                          .needed = READER_ALIGNMENT + 101,
                          .file = file};
    struct read folder = {.to = memory + SLOT, .size = SLOT, .needed = 1, .file = closed};
    reader_ask(r, &beyond);
    reader_ask(r, &folder);
    wait_for(r, &beyond);
    wait_for(r, &folder);
    assert_int_equal(beyond.result, -ENODATA);
    assert_int_equal(folder.result, -EISDIR);
    reader_close(r);
}

static void test_pread(void **state)
{
    (void)state;
    check_kind(READER_PREAD);
    check_errors(READER_PREAD);
}

static void test_uring(void **state)
{
    (void)state;
    struct reader *r;
    struct error err;
    if (!has_uring()) { /* then it is refused, and not replaced */
        assert_true(reader_open(READER_URING, memory, SLOTS * SLOT, &r, &err) < 0);
        return;
    }
    check_kind(READER_URING);
    check_errors(READER_URING);
}

static void test_closing_waits_for_what_is_under_way(void **state)
{
    (void)state;
    struct read reads[READER_DEPTH];
    struct reader *r = open_reader(READER_ANY);
    int file;
    assert_int_equal(reader_add(r, make_file(), &file), 0);
    for (int i = 0; i < READER_DEPTH; i++) {
        reads[i] = (struct read){
            .to = memory + (size_t)i * SLOT, .size = SLOT, .needed = SLOT, .file = file};
        reader_ask(r, &reads[i]);
    }
    reader_close(r);
    for (int i = 0; i < READER_DEPTH; i++)
        assert_true(reads[i].landed && reads[i].result == 0);
}

/* What a call may give, and what is made of it. */
static void test_parts(void **state)
{
    (void)state;
    enum { PAGE = READER_ALIGNMENT };
    static const struct {
        uint32_t needed;
        int64_t got[3];
        bool landed[3];
        uint32_t done[3]; /* where the rest is asked for, while it has not landed */
        int result;
    } cases[] = {
        {3 * PAGE, {3 * PAGE}, {true}, {0}, 0},
        {3 * PAGE, {PAGE, 2 * PAGE}, {false, true}, {PAGE}, 0},
        {3 * PAGE, {PAGE + 7, PAGE, PAGE}, {false, false, true}, {PAGE, 2 * PAGE}, 0},
        {3 * PAGE, {-EINTR, -EAGAIN, 3 * PAGE}, {false, false, true}, {0, 0}, 0},
        {2 * PAGE + 5, {2 * PAGE + 5}, {true}, {0}, 0},
        {2 * PAGE + 5, {2 * PAGE, 4}, {false, true}, {2 * PAGE}, -ENODATA},
        {2 * PAGE, {PAGE, 0}, {false, true}, {PAGE}, -ENODATA},
        {PAGE, {0}, {true}, {0}, -ENODATA},
        {PAGE, {-EIO}, {true}, {0}, -EIO},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct read read = {.size = 4 * PAGE, .needed = cases[c].needed};
        for (int i = 0;; i++) {
            bool landed = read_advance(&read, cases[c].got[i]);
            assert_int_equal(landed, cases[c].landed[i]);
            if (landed)
                break;
            assert_int_equal(read.done, cases[c].done[i]);
        }
        assert_int_equal(read.result, cases[c].result);
    }
}

int main(void)
{
    memory = aligned_alloc(READER_ALIGNMENT, SLOTS * SLOT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uring_where_it_can_be_had),
        cmocka_unit_test(test_pread),
        cmocka_unit_test(test_uring),
        cmocka_unit_test(test_closing_waits_for_what_is_under_way),
        cmocka_unit_test(test_parts),
    };
    int failed = cmocka_run_group_tests_name("reader", tests, NULL, NULL);
    free(memory);
    return failed;
}
