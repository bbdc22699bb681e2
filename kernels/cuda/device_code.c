/* SPDX-License-Identifier: MIT
 *
 * CUDA_MODULES is meson.build's: M(name) for each source file that was compiled.
 */
#include "kernels/cuda/device_code.h"

#include <stddef.h>

#define M(name) extern const unsigned long long name##_fatbin[];
CUDA_MODULES
#undef M

#define M(name) name##_fatbin,
const void *const cuda_device_code[] = {CUDA_MODULES NULL};
