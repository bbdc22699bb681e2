/* SPDX-License-Identifier: MIT
 *
 * Tests of kernels run twice: with the lanes of a warp forward, and backward. To be included behind
 * `emu`, the emulator that they use.
 */
#ifndef TESTS_UNIT_EMU_WAYS_H
#define TESTS_UNIT_EMU_WAYS_H

static int forward(void **state)
{
    (void)state;
    emu_reverse(emu, false);
    return 0;
}

static int backward(void **state)
{
    (void)state;
    emu_reverse(emu, true);
    return 0;
}

#define BOTH(test)                                                                                 \
    {#test ", forward", test, forward, NULL, NULL},                                                \
    {                                                                                              \
#test ", backward", test, backward, NULL, NULL                                             \
    }

#endif
