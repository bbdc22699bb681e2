/* SPDX-License-Identifier: MIT
 *
 * What all machines have in common in attention: how many positions of values are added up one after
 * the other before they become part of a sum of sums. A processor would not need that, but a GPU has
 * the chunks of a long context added up beside each other.
 */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

enum { ATTEND_CHUNK = 64 };

#endif
