/* SPDX-License-Identifier: MIT
 *
 * exp for what is not above 0, in single precision, with the same bits on every machine: that of a C
 * library has other ones. Within one unit in the last place, and 0 below EXP_LEAST, where it would
 * soon be no normal number.
 *
 * exp(x) is 2^n * exp(r) with n the integer nearest to x / ln 2. Adding EXP_ROUND leaves n + 127,
 * the exponent of 2^n, in a float's low bits. LN2_HIGH has so few bits that n * LN2_HIGH is exact.
 * exp(r) is 1 + r + r^2 * (a polynomial of least relative error, 3e-9, for |r| <= ln 2 / 2).
 *
 * EXP(qualifiers, name, bits, from) defines it as `qualifiers float name(float x)`, of no x above 0; what
 * is NaN stays so. bits and from are a float's bits and the float of bits.
 */
#ifndef KERNELS_EXP_H
#define KERNELS_EXP_H

#define EXP_LEAST (-87.0f)
#define EXP_ROUND (0x1.8p23f + 127)
#define LOG2_E    0x1.715476p0f
#define LN2_HIGH  0x1.63p-1f
#define LN2_LOW   (-0x1.bd0106p-13f)
#define EXP_2     0x1.fffffcp-2f
#define EXP_3     0x1.555490p-3f
#define EXP_4     0x1.5558f8p-5f
#define EXP_5     0x1.123b02p-7f
#define EXP_6     0x1.6a2256p-10f

#define EXP(qualifiers, name, bits, from)                                                          \
    qualifiers float name(float x)                                                                 \
    {                                                                                              \
        if (x < EXP_LEAST)                                                                         \
            return 0;                                                                              \
        float rounded = x * LOG2_E + EXP_ROUND, n = rounded - EXP_ROUND;                           \
        float r = (x - n * LN2_HIGH) - n * LN2_LOW;                                                \
        float rest = (((EXP_6 * r + EXP_5) * r + EXP_4) * r + EXP_3) * r + EXP_2;                  \
        return (1 + (r + r * r * rest)) * from(bits(rounded) << 23);                               \
    }

#endif
