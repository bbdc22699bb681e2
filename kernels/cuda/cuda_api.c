/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cuda_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

static const struct {
    const char *symbol;
    size_t place; /* in struct cuda_api */
} entries[] = {
#define ENTRY(name, symbol, arguments) {#symbol, offsetof(struct cuda_api, name)},
    CUDA_API(ENTRY)
#undef ENTRY
};

static bool fill(struct cuda_api *api, const char *library, char *message, size_t size)
{
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        void *found = dlsym(api->library, entries[i].symbol);
        if (!found) {
            snprintf(message, size, "%s has no %s: the CUDA driver is too old", library,
                     entries[i].symbol);
            return false;
        }
        *(void **)((char *)api + entries[i].place) = found;
    }
    return true;
}

static bool start(const struct cuda_api *api, char *message, size_t size)
{
    int version = 0, device;
    unsigned result = api->driver_version(&version);
    if (!result && version < CUDA_DRIVER_VERSION) {
        snprintf(message, size, "the driver is for CUDA %d.%d; the kernels need one for %d.%d",
                 version / 1000, version % 1000 / 10, CUDA_DRIVER_VERSION / 1000,
                 CUDA_DRIVER_VERSION % 1000 / 10);
        return false;
    }
    if (!result)
        result = api->init(0);
    if (!result)
        result = api->device_get(&device, 0);
    if (result) {
        const char *text = NULL;
        api->error_text(result, &text);
        snprintf(message, size, "the CUDA driver finds no GPU: %s (%u)", text ? text : "error",
                 result);
        return false;
    }
    return true;
}

int cuda_api_open(struct cuda_api *api, const char *library, char *message, size_t size)
{
    if (!library)
        library = "libcuda.so.1";
    *api = (struct cuda_api){.library = dlopen(library, RTLD_NOW | RTLD_LOCAL)};
    if (!api->library) {
        snprintf(message, size, "no CUDA driver: %s", dlerror());
        return -ENODEV;
    }
    if (fill(api, library, message, size) && start(api, message, size))
        return 0;
    cuda_api_close(api);
    return -ENODEV;
}

void cuda_api_close(struct cuda_api *api)
{
    if (api->library)
        dlclose(api->library);
    *api = (struct cuda_api){0};
}
