/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/emu_switch.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

struct emu_context {
    char *stack;
    size_t size;
    bool mapped; /* the stack is our own */
#ifdef __x86_64__
    void *top;
#else
    ucontext_t context;
#endif
    void *fake_stack;         /* AddressSanitizer's */
    struct emu_context *from; /* who switched here last */
    void (*run)(void);
};

/* The one that runs, as told before the stack changed. */
static thread_local struct emu_context *running;

struct emu_context *emu_context_new(void)
{
    return (struct emu_context *)calloc(1, sizeof(struct emu_context));
}

struct emu_context *emu_fiber_new(size_t size)
{
    struct emu_context *c = emu_context_new();
    if (!c)
        return NULL;
    void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) {
        free(c);
        return NULL;
    }
    c->stack = (char *)stack;
    c->size = size;
    c->mapped = true;
    return c;
}

/* Nothing may be known of the frames of those that never returned. */
static void stack_forget(struct emu_context *c)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(c->stack, c->size);
#endif
    (void)c;
}

void emu_context_free(struct emu_context *c)
{
    if (!c)
        return;
    if (c->mapped) {
        stack_forget(c);
        munmap(c->stack, c->size);
    }
    free(c);
}

/* AddressSanitizer must know on which stack it is; and learns here where that of the thread lies. */
static void arrived(struct emu_context *self)
{
#ifdef __SANITIZE_ADDRESS__
    const void *stack;
    size_t size;
    __sanitizer_finish_switch_fiber(self->fake_stack, &stack, &size);
    self->from->stack = (char *)stack;
    self->from->size = size;
#endif
    (void)self;
}

extern "C" __attribute__((noreturn, used)) void emu_fiber_entry(void);
void emu_fiber_entry(void)
{
    arrived(running);
    running->run();
    abort();
}

#ifdef __x86_64__

extern "C" void emu_stack_switch(void **save, void *top);
__asm__(".text\n"
        ".type emu_stack_switch, @function\n"
        "emu_stack_switch:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size emu_stack_switch, . - emu_stack_switch\n");

static void stack_start(struct emu_context *fiber)
{
    /* Six registers, the entry to return to, and a return address that it has not; at the entry the
     * stack is where a call leaves it, 8 bytes off a multiple of 16. */
    void **top = (void **)(fiber->stack + fiber->size) - 8;
    memset(top, 0, 8 * sizeof *top);
    top[6] = (void *)emu_fiber_entry;
    fiber->top = top;
}

static void stack_switch(struct emu_context *from, struct emu_context *to)
{
    emu_stack_switch(&from->top, to->top);
}

#else

static void stack_start(struct emu_context *fiber)
{
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = fiber->size;
    makecontext(&fiber->context, emu_fiber_entry, 0);
}

static void stack_switch(struct emu_context *from, struct emu_context *to)
{
    swapcontext(&from->context, &to->context);
}

#endif

void emu_fiber_start(struct emu_context *fiber, void (*run)(void))
{
    stack_forget(fiber);
    fiber->run = run;
    fiber->fake_stack = NULL;
    stack_start(fiber);
}

void emu_switch(struct emu_context *from, struct emu_context *to, bool ends)
{
    to->from = from;
    running = to;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? NULL : &from->fake_stack, to->stack, to->size);
#endif
    (void)ends;
    stack_switch(from, to);
    arrived(from);
}
