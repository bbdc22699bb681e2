/* SPDX-License-Identifier: MIT
 *
 * CUDA_KERNELS of kernels.h lists all kernels: each is there, for this is linked with them, and they
 * are just those that budgets.txt names, which tests/cuda/ compares with what nvcc compiled.
 */
#include "kernels/cuda/emu.h"
#include "kernels/cuda/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KERNEL_DECLARE(name, type) emu_kernel_fn name;
CUDA_KERNELS(KERNEL_DECLARE)

static const struct {
    const char *name;
    emu_kernel_fn *run;
} kernels[] = {
#define KERNEL_LIST(name, type) {#name, name},
    CUDA_KERNELS(KERNEL_LIST)};

enum { KERNELS = sizeof kernels / sizeof *kernels };

static void test_list_and_budgets(void **state)
{
    char line[256], name[64];
    bool found[KERNELS] = {false};
    FILE *budgets = fopen(getenv("CUDA_BUDGETS"), "r");
    (void)state;
    assert_non_null(budgets);
    while (fgets(line, sizeof line, budgets)) {
        size_t k = 0;
        if (*line == '#' || sscanf(line, "%63s", name) != 1)
            continue;
        while (k < KERNELS && strcmp(kernels[k].name, name) != 0)
            k++;
        if (k == KERNELS)
            fail_msg("%s has a budget but is not in the list", name);
        else
            found[k] = true;
    }
    fclose(budgets);
    for (size_t k = 0; k < KERNELS; k++) {
        assert_non_null(kernels[k].run);
        if (!found[k])
            fail_msg("%s has no budget", kernels[k].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_and_budgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
