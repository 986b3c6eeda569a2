/* Switching between stacks of one operating-system thread: some ten instructions on x86-64, ucontext elsewhere. */
#ifndef TESTS_FAKES_CUDA_CONTEXT_H
#define TESTS_FAKES_CUDA_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__

struct context {
	void *sp;
};

/* Keeps the callee's registers on the stack, its address in *from, and goes on with what to holds. The mode of floating
 * point is the same everywhere and stays. */
extern "C" void cuda_fake_switch(struct context *from, const struct context *to);

#ifdef CUDA_FAKE_CONTEXT_CODE
__asm__(".text\n"
	".p2align 4\n"
	".globl cuda_fake_switch\n"
	".type cuda_fake_switch, @function\n"
	"cuda_fake_switch:\n"
	"\tpushq %rbp\n"
	"\tpushq %rbx\n"
	"\tpushq %r12\n"
	"\tpushq %r13\n"
	"\tpushq %r14\n"
	"\tpushq %r15\n"
	"\tmovq %rsp, (%rdi)\n"
	"\tmovq (%rsi), %rsp\n"
	"\tpopq %r15\n"
	"\tpopq %r14\n"
	"\tpopq %r13\n"
	"\tpopq %r12\n"
	"\tpopq %rbx\n"
	"\tpopq %rbp\n"
	"\tret\n"
	".size cuda_fake_switch, .-cuda_fake_switch\n");
#endif

/* c starts with entry on the stack [bottom, top), top a multiple of 16. */
static inline void context_prime(struct context *c, void *bottom, void *top, void (*entry)(void))
{
	void **sp = (void **)top;

	(void)bottom;
	*--sp = NULL;
	*--sp = (void *)entry;
	for (int i = 0; i < 6; i++)
		*--sp = NULL;
	c->sp = sp;
}

#else

#include <ucontext.h>

struct context {
	ucontext_t u;
};

static inline void cuda_fake_switch(struct context *from, const struct context *to)
{
	swapcontext(&from->u, &to->u);
}

static inline void context_prime(struct context *c, void *bottom, void *top, void (*entry)(void))
{
	getcontext(&c->u);
	c->u.uc_stack.ss_sp = bottom;
	c->u.uc_stack.ss_size = (size_t)((char *)top - (char *)bottom);
	c->u.uc_link = NULL;
	makecontext(&c->u, entry, 0);
}

#endif
#endif
