/* SPDX-License-Identifier: MIT
 *
 * All kernels, for one module of a GPU and for the emulator.
 */
#include "kernels/cuda/gemv_q4_k.cu"
#include "kernels/cuda/quantize.cu"
