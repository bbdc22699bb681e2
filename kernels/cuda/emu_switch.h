/* SPDX-License-Identifier: MIT
 *
 * Fibers: stacks of their own within one thread, of which one runs. On x86-64 a switch saves what a
 * call must leave as it is, a tenth of what swapcontext takes for its system calls; elsewhere it is
 * swapcontext.
 */
#ifndef KERNELS_CUDA_EMU_SWITCH_H
#define KERNELS_CUDA_EMU_SWITCH_H

#include <stddef.h>

/* Where a stack that does not run goes on. */
struct emu_context;

/* The context of a thread's own stack. NULL where there is no memory. */
struct emu_context *emu_context_new(void);
/* That of a fiber that has a stack of so many bytes; it has nothing to do yet. */
struct emu_context *emu_fiber_new(size_t stack);
void emu_context_free(struct emu_context *c);

/* The fiber's next switch calls run, from which it must not return. It must not be running. */
void emu_fiber_start(struct emu_context *fiber, void (*run)(void));

/* Goes on with `to`; returns when somebody switches to `from`. ends: nobody ever will. */
void emu_switch(struct emu_context *from, struct emu_context *to, bool ends);

#endif
