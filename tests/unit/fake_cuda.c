/* SPDX-License-Identifier: MIT
 *
 * A library with the driver's names. A test sets what it answers.
 */
#include "kernels/cuda/cuda_api.h"

int fake_version;
unsigned fake_init;

/* These three answer below. */
#define cuInit             other_init
#define cuDriverGetVersion other_version
#define cuGetErrorString   other_text

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define FAKE(name, symbol, arguments)                                                              \
    unsigned symbol arguments;                                                                     \
    unsigned symbol arguments                                                                      \
    {                                                                                              \
        return CUDA_SUCCESS;                                                                       \
    }
CUDA_API(FAKE)

#undef cuInit
#undef cuDriverGetVersion
#undef cuGetErrorString

unsigned cuInit(unsigned flags);
unsigned cuInit(unsigned flags)
{
    return fake_init;
}

unsigned cuDriverGetVersion(int *version);
unsigned cuDriverGetVersion(int *version)
{
    *version = fake_version;
    return CUDA_SUCCESS;
}

unsigned cuGetErrorString(unsigned result, const char **text);
unsigned cuGetErrorString(unsigned result, const char **text)
{
    *text = "no such device";
    return CUDA_SUCCESS;
}
