/* SPDX-License-Identifier: MIT
 *
 * Lifting: what a kernel is given are the bytes of the piece, by copies or mapped, whatever is held,
 * however many slots there are and in whatever order an emulated driver does its work; and a wait
 * that is left out is found.
 */
#include "tests/unit/emulated.h"
#include "tools/run/lift.h"
#include "tools/run/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum {
    PIECES = 24,
    FLOATS = 1536,
    SIZE = FLOATS * sizeof(float),
    BEGIN = 64,
    PAGE = 4096,
    PASSES = 3
};

static char path[] = "test_lift.XXXXXX";
static float values[PIECES][FLOATS];
static const struct beneath anywhere = {AT_FDCWD, true};
static struct stats stats;
static struct source_set *set;
static struct source *whole;
static struct piece pieces[PIECES];

static int set_up(void **state)
{
    (void)state;
    const char before[BEGIN] = {0};
    struct error err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (int p = 0; p < PIECES; p++)
        for (int i = 0; i < FLOATS; i++)
            values[p][i] = (float)(p * 5000 + i);
    assert_int_equal(write(fd, before, BEGIN), BEGIN);
    assert_int_equal(write(fd, values, sizeof values), sizeof values);
    close(fd);
    set = source_set_new(4, &stats);
    assert_int_equal(source_open(set, &anywhere, path, &whole, &err), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    source_unref(whole);
    source_set_free(set);
    return unlink(path);
}

/* Every every-th piece is held; 0: none. */
struct setting {
    enum lift_kind kind;
    uint32_t slots;
    uint64_t ring_slots;
    int every;
    size_t at_once; /* pieces that are taken before they are given */
    uint64_t seed;
    bool ahead;
    void (*change)(struct backend *b); /* what is wrong; NULL: nothing */
};

struct world {
    struct backend *backend;
    struct ring *ring;
    struct lift *lift;
    void *held;
    struct mirror out;
};

static void place(struct world *w, const struct setting *s, int file)
{
    uint8_t *to = w->held;
    for (int p = 0; p < PIECES; p++) {
        uint64_t at = BEGIN + (uint64_t)p * SIZE;
        pieces[p] = (struct piece){
            .offset = at, .at = at, .size = SIZE, .expert = PIECE_ALWAYS, .file = file};
        if (!s->every || p % s->every)
            continue;
        memcpy(to, values[p], SIZE);
        pieces[p].held = to;
        to += SIZE;
    }
}

/* 1 where something cannot be had. */
static int build(struct world *w, const struct setting *s)
{
    struct error err;
    int file = 0;
    uint64_t size = (sizeof values + PAGE - 1) / PAGE * PAGE, slot = ring_slot_size(SIZE);
    *w = (struct world){.backend = emulated_open((struct emu_api_options){
                            .budget = 1 << 20, .seed = s->seed, .reverse = s->seed % 2})};
    w->held = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    place(w, s, 0);
    if (s->every != 1 &&
        (ring_open(pieces, PIECES, slot, s->ring_slots, READER_PREAD, whole, &w->ring, &err) ||
         reader_add(ring_reader(w->ring), open(path, O_RDONLY), &file)))
        return 1;
    place(w, s, file);
    if (s->change)
        s->change(w->backend);
    const struct lift_parts parts = {s->kind,
                                     pieces,
                                     PIECES,
                                     w->ring,
                                     w->ring ? s->ring_slots : 0,
                                     slot,
                                     s->kind == LIFT_COPY ? s->slots : 0,
                                     s->every ? w->held : NULL,
                                     s->every ? size : 0,
                                     0};
    return lift_open(w->backend, &parts, &w->lift, &err) ||
           mirror_new(w->backend, PIECES * FLOATS, sizeof(float), &w->out);
}

static void tear(struct world *w)
{
    lift_close(w->lift);
    ring_close(w->ring);
    mirror_free(w->backend, &w->out);
    emulated_close(w->backend);
    munmap(w->held, sizeof values);
}

/* A pass: each piece is added to a row of zeros. 1 where something went wrong. */
static int pass(struct world *w, const struct setting *s)
{
    struct backend *b = w->backend;
    struct error err;
    float *out = w->out.device;
    size_t taken = 0;
    if (w->ring)
        ring_begin(w->ring);
    if (b->clear(b, out, PIECES * FLOATS))
        return 1;
    for (size_t p = 0; p < PIECES;) {
        const uint8_t *data;
        if (lift_take(w->lift, p, taken == 0, &data, &err))
            return 1;
        if (data) {
            if (b->add(b, out + p * FLOATS, (const float *)data, FLOATS, FLOATS))
                return 1;
            taken++;
            p++;
        }
        if (!data || taken == s->at_once) {
            if (lift_give(w->lift))
                return 1;
            taken = 0;
        }
    }
    return lift_give(w->lift) || (s->ahead && lift_ahead(w->lift, &err));
}

/* What came out; 1 where that is not what is in the file. */
static int look(struct world *w)
{
    struct backend *b = w->backend;
    struct event *done;
    memset(w->out.host, 1, sizeof values);
    int rc = b->event_new(b, &done) || mirror_fetch(b, &w->out, sizeof values) ||
             b->event_record(b, done, QUEUE_COMPUTE) || b->event_wait(b, done) ||
             memcmp(w->out.host, values, sizeof values) != 0;
    b->event_free(b, done);
    return rc;
}

static int run(const struct setting *s)
{
    struct world w;
    int rc = build(&w, s);
    for (int i = 0; !rc && i < PASSES; i++)
        rc = pass(&w, s) || look(&w);
    if (!rc)
        rc = lift_stats(w.lift)->bytes != (uint64_t)PASSES * sizeof values ||
             lift_stats(w.lift)->pieces != PASSES * PIECES;
    tear(&w);
    return rc;
}

static void test_passes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++)
        for (int kind = 0; kind < 2; kind++)
            for (uint32_t slots = 2; slots <= 4; slots++)
                for (int every = 0; every <= 3; every++) {
                    struct setting s = {(enum lift_kind)kind, slots, 1 + seed % 4, every,
                                        1 + seed % 3,         seed,  slots % 2,    NULL};
                    if (run(&s))
                        fail_msg("kind %d, %u slots, every %d held, seed %u", kind, slots, every,
                                 (unsigned)seed);
                }
}

/* ---- what is left out ---- */

static int no_wait(struct backend *b, struct event *e, enum backend_queue queue)
{
    (void)b;
    (void)e;
    (void)queue;
    return 0;
}

static int (*queue_wait)(struct backend *, struct event *, enum backend_queue);

static int no_copy_wait(struct backend *b, struct event *e, enum backend_queue queue)
{
    return queue == QUEUE_COPY ? 0 : queue_wait(b, e, queue);
}

static int no_compute_wait(struct backend *b, struct event *e, enum backend_queue queue)
{
    return queue == QUEUE_COMPUTE ? 0 : queue_wait(b, e, queue);
}

static int always_done(struct backend *b, struct event *e)
{
    (void)b;
    (void)e;
    return 1;
}

static void copies_do_not_wait(struct backend *b)
{
    queue_wait = b->event_queue_wait;
    b->event_queue_wait = no_copy_wait;
}

static void products_do_not_wait(struct backend *b)
{
    queue_wait = b->event_queue_wait;
    b->event_queue_wait = no_compute_wait;
}

static void events_are_not_recorded(struct backend *b)
{
    b->event_record = no_wait;
}

static void slots_are_reused_early(struct backend *b)
{
    b->event_done = always_done;
}

static void run_child(void *setting)
{
    if (run(setting))
        abort();
}

static void test_missing_waits_are_found(void **state)
{
    static void (*const changes[])(struct backend *) = {
        copies_do_not_wait, products_do_not_wait, events_are_not_recorded, slots_are_reused_early};
    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            struct setting s = {LIFT_COPY, 3, 3, 0, 2, seed, true, changes[i]};
            if (!is_found(run_child, &s))
                fail_msg("change %zu is not found with seed %u", i, (unsigned)seed);
        }
}

/* What a kernel reads where it lands nobody knows beforehand, so here it takes an order in which it is
 * read too late. */
static void test_early_reuse_of_what_is_mapped_is_found(void **state)
{
    int found = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 8 && !found; seed++) {
        struct setting s = {LIFT_MAPPED, 0, 3, 0, 2, seed, true, slots_are_reused_early};
        found = is_found(run_child, &s);
    }
    assert_true(found);
}

/* ---- what is refused ---- */

static void test_memory_that_cannot_be_pinned(void **state)
{
    (void)state;
    struct error err;
    struct lift *lift;
    void *held = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct backend *b =
        emulated_open((struct emu_api_options){.budget = 1 << 20, .register_limit = PAGE - 1});
    struct lift_parts parts = {LIFT_COPY, pieces, 0, NULL, 0, PAGE, 2, held, PAGE, 0};
    assert_int_equal(lift_open(b, &parts, &lift, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "pinning memory"));
    emulated_close(b);
    b = emulated_open((struct emu_api_options){.budget = PAGE});
    assert_int_equal(lift_open(b, &parts, &lift, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "setting up"));
    emulated_close(b);
    munmap(held, PAGE);
}

static void test_pieces_out_of_turn(void **state)
{
    (void)state;
    struct setting s = {LIFT_COPY, 3, 3, 0, 1, 0, true, NULL};
    struct world w;
    struct error err;
    const uint8_t *data;
    assert_int_equal(build(&w, &s), 0);
    ring_begin(w.ring);
    assert_int_equal(lift_take(w.lift, 1, true, &data, &err), -EINVAL);
    assert_int_equal(pass(&w, &s), 0);
    assert_int_equal(lift_take(w.lift, 1, true, &data, &err),
                     -EINVAL); /* the first is there already */
    assert_int_equal(look(&w), 0);
    tear(&w);
}

/* Whatever is under way when it ends, as after an error, is waited for. */
static void test_end_within_a_pass(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++)
        for (int every = 0; every < 2; every++)
            for (uint64_t seed = 0; seed < 6; seed++) {
                struct setting s = {(enum lift_kind)kind, 3, 3, every, 2, seed, true, NULL};
                struct world w;
                struct error err;
                assert_int_equal(build(&w, &s), 0);
                if (w.ring)
                    ring_begin(w.ring);
                for (size_t p = 0; p < 2; p++) {
                    const uint8_t *data;
                    assert_int_equal(lift_take(w.lift, p, true, &data, &err), 0);
                    assert_int_equal(w.backend->add(w.backend, w.out.device, (const float *)data,
                                                    FLOATS, FLOATS),
                                     0);
                }
                tear(&w);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_missing_waits_are_found),
        cmocka_unit_test(test_early_reuse_of_what_is_mapped_is_found),
        cmocka_unit_test(test_memory_that_cannot_be_pinned),
        cmocka_unit_test(test_pieces_out_of_turn),
        cmocka_unit_test(test_end_within_a_pass),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
