/* SPDX-License-Identifier: MIT
 *
 * The two functions that gate a feed-forward layer, in single precision, with the same bits on every
 * machine. GATES(qualifiers, exp) defines them:
 *
 *     qualifiers float silu(float v)      v / (1 + exp(-v))
 *     qualifiers float gelu(float v)      0.5 v (1 + tanh(u)), u = sqrt(2 / pi) (v + 0.044715 v^3)
 *
 * Since 1 + tanh(u) is 2 / (1 + exp(-2 u)), both are v / (1 + exp(-w)), of another w. exp is a function
 * of kernels/exp.h, which takes nothing above 0; for w < 0 both sides of the fraction are multiplied by
 * exp(w). The order of operations is that of the lines below: each is one of single precision, rounded
 * by itself, from the left to the right, nothing fused. Where v is NaN, so is what comes out.
 */
#ifndef KERNELS_GATE_H
#define KERNELS_GATE_H

#define GELU_SCALE 0x1.988454p+0f /* 2 sqrt(2 / pi) */
#define GELU_CUBE  0.044715f

#define GATES(qualifiers, exp)                                                                     \
    qualifiers float gated(float v, float w)                                                       \
    {                                                                                              \
        float e = exp(w < 0 ? w : -w);                                                             \
        return (w < 0 ? v * e : v) / (1 + e);                                                      \
    }                                                                                              \
    qualifiers float silu(float v) { return gated(v, v); }                                         \
    qualifiers float gelu(float v)                                                                 \
    {                                                                                              \
        return gated(v, GELU_SCALE * v * (1 + GELU_CUBE * v * v));                                 \
    }

#endif
