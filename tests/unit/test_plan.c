/* SPDX-License-Identifier: MIT
 *
 * What stays in memory: never more than the budget, always as much of it as can be, evenly, and
 * first what every pass touches. And what follows from that for the speed.
 */
#include "tools/run/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 12, BYTES = 1000 };

/* Layers of one size. */
static void equal_blocks(struct plan_block *blocks)
{
    for (uint32_t i = 0; i < LAYERS; i++)
        blocks[i] = (struct plan_block){.layer = i, .bytes = BYTES, .share = 1};
}

static void test_whole_layers_lie_evenly(void **state)
{
    (void)state;
    struct plan_block blocks[LAYERS];
    equal_blocks(blocks);
    for (uint64_t whole = 0; whole <= LAYERS; whole++) {
        plan_place(blocks, LAYERS, whole * BYTES);
        assert_int_equal(plan_resident(blocks, LAYERS), whole * BYTES);
        /* among the first n of them there are n / LAYERS of the resident ones, but for one */
        uint64_t seen = 0;
        for (uint64_t n = 1; n <= LAYERS; n++) {
            uint64_t resident = blocks[n - 1].resident;
            assert_true(resident == 0 || resident == BYTES);
            seen += resident == BYTES;
            assert_in_range(seen * LAYERS + LAYERS, n * whole, n * whole + 2 * LAYERS);
        }
    }
}

static void test_the_rest_goes_to_the_first_that_are_not_resident(void **state)
{
    (void)state;
    struct plan_block blocks[LAYERS];
    equal_blocks(blocks);
    plan_place(blocks, LAYERS, 3 * BYTES + 300);
    size_t whole = 0;
    for (size_t i = 0; i < LAYERS; i++)
        whole += blocks[i].resident == BYTES;
    assert_int_equal(whole, 3);
    assert_int_equal(blocks[0].resident, 300);
    assert_int_equal(plan_resident(blocks, LAYERS), 3 * BYTES + 300);
}

static void test_placing_again_forgets_what_was(void **state)
{
    (void)state;
    struct plan_block blocks[LAYERS], again[LAYERS];
    equal_blocks(blocks);
    equal_blocks(again);
    plan_place(again, LAYERS, LAYERS * BYTES);
    plan_place(blocks, LAYERS, 5 * BYTES);
    plan_place(again, LAYERS, 5 * BYTES);
    assert_memory_equal(blocks, again, sizeof blocks);
}

static void test_the_budget_is_spent_and_not_more(void **state)
{
    (void)state;
    unsigned seed = 1;
    for (int round = 0; round < 3000; round++) {
        struct plan_block blocks[LAYERS];
        uint64_t all = 0;
        size_t count = 1 + (size_t)rand_r(&seed) % LAYERS;
        for (size_t i = 0; i < count; i++) {
            blocks[i] = (struct plan_block){.bytes = (uint64_t)rand_r(&seed) % 5000 + 1,
                                            .share = rand_r(&seed) % 2 ? 1 : 0.25};
            all += blocks[i].bytes;
        }
        uint64_t budget = (uint64_t)rand_r(&seed) % (all + 2000), partial = 0;
        plan_place(blocks, count, budget);
        for (size_t i = 0; i < count; i++) {
            assert_true(blocks[i].resident <= blocks[i].bytes);
            partial += blocks[i].resident && blocks[i].resident < blocks[i].bytes;
        }
        assert_int_equal(plan_bytes(blocks, count), all);
        assert_int_equal(plan_resident(blocks, count), budget < all ? budget : all);
        assert_true(partial <= 1);
    }
}

/* Layers and experts of them, in turns. */
static void test_what_every_pass_touches_goes_first(void **state)
{
    (void)state;
    struct plan_block blocks[2 * LAYERS];
    for (uint32_t i = 0; i < 2 * LAYERS; i++)
        blocks[i] = (struct plan_block){.layer = i / 2,
                                        .experts = i % 2,
                                        .bytes = i % 2 ? 8 * BYTES : BYTES,
                                        .share = i % 2 ? 0.25 : 1};
    plan_place(blocks, 2 * LAYERS, (LAYERS - 1) * BYTES);
    for (uint32_t i = 1; i < 2 * LAYERS; i += 2)
        assert_int_equal(blocks[i].resident, 0);
    assert_true(plan_touched(blocks, 2 * LAYERS) == LAYERS * (BYTES + 2 * BYTES));
    assert_true(plan_streamed(blocks, 2 * LAYERS) == BYTES + LAYERS * 2 * BYTES);
    plan_place(blocks, 2 * LAYERS, LAYERS * BYTES + 8 * BYTES + 100);
    for (uint32_t i = 0; i < 2 * LAYERS; i += 2)
        assert_int_equal(blocks[i].resident, BYTES);
    assert_true(plan_streamed(blocks, 2 * LAYERS) == (LAYERS - 1) * 2 * BYTES - 25);
}

static void test_speed_is_that_of_what_takes_longer(void **state)
{
    (void)state;
    struct plan_rates rates = {.link = 10, .memory = 100};
    assert_true(plan_speed(200, 40, rates) == 0.25);
    assert_true(plan_speed(800, 40, rates) == 0.125);
    assert_true(plan_speed(800, 0, rates) == 0.125);
    rates.launch = 8;
    assert_true(plan_speed(800, 40, rates) == 0.0625);
    assert_true(plan_prefill(40, 8, 16, 10, 32) == 2);
    assert_true(plan_prefill(400, 8, 16, 10, 32) == 0.4);
    assert_true(plan_prefill(0, 8, 16, 10, 32) == 2);
}

static void test_a_ring_is_a_quarter_of_the_budget_within_limits(void **state)
{
    (void)state;
    static const struct {
        uint64_t largest, budget, least, ring; /* MiB */
    } cases[] = {
        {100,  4000, 1,  64 },
        {400,  4000, 1,  100},
        {4000, 4000, 1,  256},
        {400,  200,  1,  50 },
        {400,  200,  70, 70 },
        {400,  4,    1,  1  },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan_block blocks[] = {{.bytes = 1}, {.bytes = cases[i].largest << 20}};
        assert_int_equal(plan_ring(blocks, 2, cases[i].budget << 20, cases[i].least << 20),
                         cases[i].ring << 20);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_layers_lie_evenly),
        cmocka_unit_test(test_the_rest_goes_to_the_first_that_are_not_resident),
        cmocka_unit_test(test_placing_again_forgets_what_was),
        cmocka_unit_test(test_the_budget_is_spent_and_not_more),
        cmocka_unit_test(test_what_every_pass_touches_goes_first),
        cmocka_unit_test(test_speed_is_that_of_what_takes_longer),
        cmocka_unit_test(test_a_ring_is_a_quarter_of_the_budget_within_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
