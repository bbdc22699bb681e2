/* SPDX-License-Identifier: MIT
 *
 * The table of the CUDA driver's functions, from a library that has their names.
 */
#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/device_code.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    void *fake;
    char path[4096];
    int *version; /* what it answers */
    unsigned *init;
};

static int setup(void **state)
{
    static struct fixture f;
    snprintf(f.path, sizeof(f.path), "%s", getenv("FAKE_CUDA"));
    f.fake = dlopen(f.path, RTLD_NOW | RTLD_LOCAL);
    if (!f.fake)
        return -1;
    f.version = dlsym(f.fake, "fake_version");
    f.init = dlsym(f.fake, "fake_init");
    *f.version = CUDA_DRIVER_VERSION;
    *f.init = CUDA_SUCCESS;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    return dlclose(((struct fixture *)*state)->fake);
}

static void refuses(const char *library, const char *because)
{
    struct cuda_api api;
    char message[256] = "";
    assert_int_equal(cuda_api_open(&api, library, message, sizeof(message)), -ENODEV);
    if (!strstr(message, because))
        fail_msg("\"%s\" does not say \"%s\"", message, because);
    assert_null(api.library);
}

static void test_table(void **state)
{
    const struct fixture *f = *state;
    struct cuda_api api;
    char message[256] = "";
    assert_int_equal(cuda_api_open(&api, f->path, message, sizeof(message)), 0);
#define IS_THEIRS(name, symbol, arguments)                                                         \
    assert_ptr_equal((void *)api.name, dlsym(f->fake, #symbol));
    CUDA_API(IS_THEIRS)
    cuda_api_close(&api);
    assert_null(api.library);
}

static void test_no_driver(void **state)
{
    (void)state;
    refuses("libno-such-driver.so.1", "no CUDA driver: libno-such-driver.so.1");
}

static void test_lacks_a_function(void **state)
{
    (void)state;
    refuses("libm.so.6", "libm.so.6 has no cuInit: the CUDA driver is too old");
}

static void test_too_old(void **state)
{
    const struct fixture *f = *state;
    *f->version = 12090;
    refuses(f->path, "the driver is for CUDA 12.9; the kernels need one for 13.0");
}

static void test_no_gpu(void **state)
{
    const struct fixture *f = *state;
    *f->init = CUDA_NO_DEVICE;
    refuses(f->path, "the CUDA driver finds no GPU: no such device (100)");
}

static void test_device_code(void **state)
{
    (void)state;
    for (const void *const *code = cuda_device_code; *code; code++) {
        const uint32_t *words = *code;
        assert_int_equal((uintptr_t)words % 8, 0);
        assert_int_equal(words[0], 0xba55ed50); /* a fat binary's first word */
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_table),   TEST(test_no_driver), TEST(test_lacks_a_function),
        TEST(test_too_old), TEST(test_no_gpu),    TEST(test_device_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
