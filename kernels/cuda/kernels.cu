/* SPDX-License-Identifier: MIT
 *
 * All kernels, for one module of a GPU and for the emulator.
 */
#include "kernels/cuda/argmax.cu"
#include "kernels/cuda/attend.cu"
#include "kernels/cuda/elementwise.cu"
#include "kernels/cuda/floats.cu"
#include "kernels/cuda/gemv_nibbles.cu"
#include "kernels/cuda/gemv_q2_k.cu"
#include "kernels/cuda/gemv_q3_k.cu"
#include "kernels/cuda/gemv_q4_k.cu"
#include "kernels/cuda/gemv_q5_k.cu"
#include "kernels/cuda/gemv_q6_k.cu"
#include "kernels/cuda/gemv_q8_0.cu"
#include "kernels/cuda/gemv_spqr.cu"
#include "kernels/cuda/matmul_32.cu"
#include "kernels/cuda/matmul_k.cu"
#include "kernels/cuda/matmul_spqr.cu"
#include "kernels/cuda/quantize.cu"
#include "kernels/cuda/rms_norm.cu"
