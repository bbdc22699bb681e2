/* SPDX-License-Identifier: MIT
 *
 * The kernels as functions that the emulator runs.
 */
#include "kernels/cuda/kernels.cu"
