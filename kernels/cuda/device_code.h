/* SPDX-License-Identifier: MIT
 *
 * The kernels as nvcc compiled them, inside the program: one fat binary a source file, each with
 * machine code for every kind of GPU that meson.build names and PTX for those to come. The driver
 * takes from it what it needs (cuda_api.h, module_load).
 */
#ifndef KERNELS_CUDA_DEVICE_CODE_H
#define KERNELS_CUDA_DEVICE_CODE_H

/* The fat binaries, NULL behind the last; none in a program that was built without nvcc. */
extern const void *const cuda_device_code[];

#endif
