/* Running kernels: a block's threads are fibers of one operating-system thread.
 *
 * A thread that must wait goes straight to the next one that can run. Lanes of the current warp come first, so that warps
 * run far apart (which shows barriers that are missing) and few stacks are in use at a time: a thread gets a stack when it
 * starts, and the next thread to start takes over the stack of one that has ended, without a switch. A warp operation is
 * done, for all of its lanes, by the one that arrives last. When nobody can run and somebody waits, the kernel would hang,
 * and the program is stopped. */
#include "internal.h"

#include <cuda_fp16.h>
#include <ptx_fake.h>

#define CUDA_FAKE_CONTEXT_CODE
#include "context.h"

#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#define STACK_SIZE  (CUDA_FAKE_ASAN ? 256 * 1024 : 64 * 1024)
#define STACK_CHUNK 32 /* stacks mapped at a time */
#define PAGE        4096
#define LANES       32
#define WARPGROUP   128
#define FULL        0xffffffffu
#define REDZONE     256 /* around dynamic shared memory */

enum wait {
	WAIT_NOT,
	WAIT_BARRIER,
	WAIT_WARP,
	WAIT_SHUFFLE,
	WAIT_BALLOT,
	WAIT_ANY,
	WAIT_ALL,
	WAIT_MMA,
	WAIT_LDMATRIX,
	WAIT_WGMMA,
	ENDED
};

static const char *const wait_names[] = {
	"runs",
	"waits at __syncthreads",
	"waits at __syncwarp",
	"waits at __shfl_sync",
	"waits at __ballot_sync",
	"waits at __any_sync",
	"waits at __all_sync",
	"waits at mma_16816",
	"waits at ldmatrix_x4",
	"waits at wgmma_wait",
	"has ended",
};

struct stack {
	char *bottom, *top;
	struct stack *next; /* among those that are free */
};

struct copy {
	char *to;
	const char *from;
	int size, group;
	bool keep;
};

/* A product of a warpgroup that one of its threads asked for. */
struct warpgroup_product {
	float *d;
	int tiles, group;
	float *before;     /* what d held, when it is added to and no product before this one writes it */
	const uint32_t *a; /* registers, and what they held; NULL: a_operand */
	uint32_t a_held[4];
	uint64_t a_operand, b_operand;
	bool bf16, a_columns, b_columns, add;
};

struct lane {
	struct context context;
	struct stack *stack; /* NULL: not started */
	void *fake_stack;    /* AddressSanitizer's */
	uint3 index;
	enum wait wait;
	unsigned mask; /* of the warp operation that it waits at */
	void *data;    /* what it brought there, on its stack */
	bool waited;   /* for the kernels before this one */
	bool ahead;    /* grid_ahead */
	bool next;     /* grid_next */

	/* cp.async: copies not done yet, in order, and the group that is being filled. */
	struct copy *copies;
	int n_copies, cap_copies, group;
	bool unfenced; /* copies have come that async_fence has not seen */

	/* wgmma: products not done yet, in order, the group that is being filled, and whether wgmma_fence came after the last wait. */
	struct warpgroup_product *products;
	int n_products, cap_products, product_group, products_left;
	bool fenced;
};

struct warp {
	unsigned lanes; /* that the block has */
	unsigned ready; /* can run */
};

enum order { FORWARD, REVERSE, SHUFFLE };

/* What runs one block at a time, kept from launch to launch. */
struct runner {
	const struct kernel_launch *launch;
	uint64_t nexts; /* threads that called grid_next, of all blocks */
	struct warp warps[MAX_THREADS / LANES];
	struct lane lanes[MAX_THREADS];
	int threads, n_warps;
	int current;          /* lane */
	int warp;             /* whose lanes run first; -1: none */
	unsigned ready_warps; /* that have a lane that can run */
	int at_barrier, ended;
	bool unfenced; /* some thread came to the last barrier with copies that async_fence had not seen */
	enum order order;
	uint64_t random;
	struct stack *free_stacks;
	struct context main;
	const void *main_bottom; /* of the stack that called, for AddressSanitizer */
	size_t main_size;
	void *main_fake;
	bool entered; /* the first fiber of a block learns main's stack */
	char *shared, *shared_map;
	struct runner *next; /* among those that are free */
};

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static __thread struct runner *running;

static struct runner *free_runners;
static pthread_mutex_t runners_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- what went wrong ---- */

[[noreturn]] static void stop_here(const char *format, ...)
{
	char text[512];
	va_list list;
	const uint3 *b = &blockIdx, *t = &threadIdx;

	va_start(list, format);
	vsnprintf(text, sizeof text, format, list);
	va_end(list);
	stop("kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", function_name(running->launch->kernel),
	     b->x, b->y, b->z, t->x, t->y, t->z, text);
}

static void describe(const struct lane *l, char *out, size_t size)
{
	int n = snprintf(out, size, "thread (%u, %u, %u) %s", l->index.x, l->index.y, l->index.z,
			 wait_names[l->wait]);

	if (l->wait > WAIT_BARRIER && l->wait < ENDED)
		snprintf(out + n, size - n, " (mask 0x%08x)", l->mask);
}

/* Nobody can run: tells of one thread that waits, and of one that it waits for. */
[[noreturn]] static void stop_deadlock(const struct runner *r)
{
	char one[160], other[160];
	const uint3 *b = &blockIdx;

	for (int i = 0; i < r->threads; i++) {
		const struct lane *l = &r->lanes[i];
		int first = 0, end = r->threads;

		if (l->wait == ENDED)
			continue;
		if (l->wait == WAIT_WGMMA) {
			first = i / WARPGROUP * WARPGROUP;
			end = first + WARPGROUP;
		} else if (l->wait != WAIT_BARRIER) {
			first = i / LANES * LANES;
			end = first + LANES < end ? first + LANES : end;
		}
		for (int j = first; j < end; j++) {
			const struct lane *o = &r->lanes[j];

			if (l->wait != WAIT_BARRIER && l->wait != WAIT_WGMMA && !(l->mask >> (j - first) & 1))
				continue;
			if (o->wait == l->wait && (l->wait == WAIT_BARRIER || o->mask == l->mask))
				continue;
			describe(l, one, sizeof one);
			describe(o, other, sizeof other);
			stop("kernel %s, block (%u, %u, %u): %s, but %s", function_name(r->launch->kernel),
			     b->x, b->y, b->z, one, other);
		}
	}
	stop("kernel %s: no thread can run", function_name(r->launch->kernel));
}

/* ---- choosing who runs ---- */

static uint32_t random_below(struct runner *r, uint32_t n)
{
	r->random = r->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((r->random >> 32) * n >> 32);
}

static int choose_bit(struct runner *r, unsigned bits)
{
	int n;

	if (r->order == FORWARD)
		return __builtin_ctz(bits);
	if (r->order == REVERSE)
		return 31 - __builtin_clz(bits);
	for (n = (int)random_below(r, (uint32_t)__builtin_popcount(bits)); n > 0; n--)
		bits &= bits - 1;
	return __builtin_ctz(bits);
}

/* The next lane to run, which is no longer ready. */
static struct lane *choose(struct runner *r)
{
	int w = r->warp, bit;

	if (r->ready_warps == 0)
		stop_deadlock(r);
	if (w < 0 || r->warps[w].ready == 0 || (r->order == SHUFFLE && random_below(r, 4) == 0))
		r->warp = w = choose_bit(r, r->ready_warps);
	bit = choose_bit(r, r->warps[w].ready);
	r->warps[w].ready &= ~(1u << bit);
	if (r->warps[w].ready == 0)
		r->ready_warps &= ~(1u << w);
	r->current = w * LANES + bit;
	r->lanes[r->current].wait = WAIT_NOT;
	return &r->lanes[r->current];
}

static void make_ready(struct runner *r, int warp, unsigned mask)
{
	r->warps[warp].ready |= mask;
	r->ready_warps |= 1u << warp;
}

/* ---- stacks and switches ---- */

static struct stack *stack_take(struct runner *r)
{
	struct stack *s = r->free_stacks;

	if (!s) {
		const size_t each = STACK_SIZE + PAGE;
		char *map = (char *)mmap(NULL, each * STACK_CHUNK, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (map == MAP_FAILED)
			stop("no memory for the stacks of threads");
		s = (struct stack *)calloc(STACK_CHUNK, sizeof *s);
		for (int i = 0; i < STACK_CHUNK; i++) {
			mprotect(map + each * i, PAGE, PROT_NONE);
			s[i].bottom = map + each * i + PAGE;
			/* Tops differ in their low bits: the lanes of a warp share a small cache. */
			s[i].top = s[i].bottom + STACK_SIZE - i * 320;
			s[i].next = i + 1 < STACK_CHUNK ? &s[i + 1] : NULL;
		}
	}
	r->free_stacks = s->next;
	return s;
}

static void stack_give(struct runner *r, struct stack *s)
{
	s->next = r->free_stacks;
	r->free_stacks = s;
}

#if CUDA_FAKE_ASAN
#define SWITCH_BEGIN(save, stack)                                                                            \
	__sanitizer_start_switch_fiber(save, (stack)->bottom, (stack)->top - (stack)->bottom)
#define SWITCH_END(saved) __sanitizer_finish_switch_fiber(saved, NULL, NULL)
#else
#define SWITCH_BEGIN(save, stack) ((void)(save))
#define SWITCH_END(saved)         ((void)(saved))
#endif

static void fiber(void);

/* A lane about to be switched to has a stack. */
static void lane_prepare(struct runner *r, struct lane *l)
{
	if (l->stack)
		return;
	l->stack = stack_take(r);
	l->fake_stack = NULL;
	context_prime(&l->context, l->stack->bottom, l->stack->top, fiber);
}

static void copies_finish(struct lane *l, int groups);

/* The body of every fiber: runs threads that have not started for as long as those are next. No frame of it is ever
 * returned to after its last switch, so it must leave no redzones behind. */
__attribute__((no_sanitize("address", "undefined"))) static void fiber(void)
{
	struct runner *r = running;

#if CUDA_FAKE_ASAN
	if (r->entered)
		__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
	else
		__sanitizer_finish_switch_fiber(NULL, &r->main_bottom, &r->main_size);
#endif
	r->entered = true;
	for (;;) {
		struct lane *l = &r->lanes[r->current], *next;
		struct stack *s = l->stack;

		threadIdx = l->index;
		r->launch->run(r->launch->call);
		if (l->n_copies > 0)
			copies_finish(l, 0);
		if (l->n_products > 0)
			stop_here("it ends before its products of a warpgroup do");
		if (r->launch->overlaps && !l->waited)
			stop_here("it ends without a wait for the kernel before this one, with which it may "
				  "overlap");
		r->nexts += l->next;
		l->wait = ENDED;
		l->stack = NULL;
		if (++r->ended == r->threads) {
			stack_give(r, s);
#if CUDA_FAKE_ASAN
			__sanitizer_start_switch_fiber(NULL, r->main_bottom, r->main_size);
#endif
			cuda_fake_switch(&l->context, &r->main);
		}
		next = choose(r);
		if (!next->stack) {
			next->stack = s;
			continue;
		}
		stack_give(r, s);
		SWITCH_BEGIN(NULL, next->stack);
		cuda_fake_switch(&l->context, &next->context);
	}
}

/* The current lane stops here until somebody made it ready and it is chosen. */
static void lane_wait(struct runner *r)
{
	struct lane *me = &r->lanes[r->current], *next = choose(r);

	if (next == me)
		return;
	lane_prepare(r, next);
	SWITCH_BEGIN(&me->fake_stack, next->stack);
	cuda_fake_switch(&me->context, &next->context);
	SWITCH_END(me->fake_stack);
	threadIdx = me->index;
}

/* ---- barriers ---- */

static struct runner *inside(const char *what)
{
	if (!running)
		stop("%s outside a kernel", what);
	return running;
}

void cuda_fake_barrier(void)
{
	struct runner *r = inside("__syncthreads");

	r->lanes[r->current].wait = WAIT_BARRIER;
	if (++r->at_barrier == r->threads) {
		r->at_barrier = 0;
		r->unfenced = false;
		for (int i = 0; i < r->threads; i++) {
			r->lanes[i].wait = WAIT_NOT;
			r->unfenced = r->unfenced || r->lanes[i].unfenced;
		}
		for (int w = 0; w < r->n_warps; w++)
			make_ready(r, w, r->warps[w].lanes);
		r->warp = -1;
	}
	lane_wait(r);
}

/* Arrives at a warp operation with data. When everybody in mask has, finish(warp's lanes, mask) does it for all of them. */
static void warp_meet(enum wait kind, unsigned mask, void *data,
		      void (*finish)(struct lane *lanes, unsigned mask))
{
	struct runner *r = inside(wait_names[kind]);
	int w = r->current / LANES, lane = r->current % LANES;
	struct lane *lanes = r->lanes + w * LANES, *me = lanes + lane;
	bool all = true;

	if (!(mask >> lane & 1) || (mask & ~r->warps[w].lanes))
		stop_here("%s (mask 0x%08x), which %s", wait_names[kind], mask,
			  mask >> lane & 1 ? "names lanes that the block does not have"
					   : "does not name this lane");
	me->wait = kind;
	me->mask = mask;
	me->data = data;
	for (unsigned rest = mask; rest && all; rest &= rest - 1) {
		const struct lane *l = &lanes[__builtin_ctz(rest)];

		all = l->wait == kind && l->mask == mask;
	}
	if (all) {
		if (finish)
			finish(lanes, mask);
		/* One that goes on at once may come to the next operation before the others have left this one. */
		for (unsigned rest = mask; rest; rest &= rest - 1)
			lanes[__builtin_ctz(rest)].wait = WAIT_NOT;
		make_ready(r, w, mask);
	}
	lane_wait(r);
}

void cuda_fake_warp_barrier(unsigned mask)
{
	warp_meet(WAIT_WARP, mask, NULL, NULL);
}

/* ---- shuffles and votes ---- */

struct shuffled {
	uint64_t in, out;
	int from; /* lane; may not be in the mask */
};

static void shuffle_finish(struct lane *lanes, unsigned mask)
{
	for (unsigned rest = mask; rest; rest &= rest - 1) {
		struct shuffled *s = (struct shuffled *)lanes[__builtin_ctz(rest)].data;

		s->out = mask >> s->from & 1 ? ((const struct shuffled *)lanes[s->from].data)->in
					     : UINT64_MAX;
	}
}

uint64_t cuda_fake_shuffle(enum cuda_fake_shuffle kind, unsigned mask, uint64_t value, int lane, int width)
{
	struct runner *r = inside("a shuffle");
	int own = r->current % LANES, first = own & ~(width - 1), last = own | (width - 1), from = own;
	struct shuffled s;

	if (width < 1 || width > LANES || (width & (width - 1)))
		stop_here("a shuffle of width %d, which is no power of two up to 32", width);
	switch (kind) {
	case CUDA_FAKE_SHUFFLE: from = first | (lane & (width - 1)); break;
	case CUDA_FAKE_SHUFFLE_XOR: from = own ^ (lane & 31); break;
	case CUDA_FAKE_SHUFFLE_UP: from = own - (lane & 31); break;
	case CUDA_FAKE_SHUFFLE_DOWN: from = own + (lane & 31); break;
	}
	if (from > last || (kind == CUDA_FAKE_SHUFFLE_UP && from < first))
		from = own;
	s.in = value;
	s.out = 0;
	s.from = from;
	warp_meet(WAIT_SHUFFLE, mask, &s, shuffle_finish);
	return s.out;
}

struct vote {
	int predicate;
	unsigned result;
};

static void vote_finish(struct lane *lanes, unsigned mask)
{
	unsigned result = 0;

	for (unsigned rest = mask; rest; rest &= rest - 1) {
		int lane = __builtin_ctz(rest);

		if (((const struct vote *)lanes[lane].data)->predicate)
			result |= 1u << lane;
	}
	for (unsigned rest = mask; rest; rest &= rest - 1)
		((struct vote *)lanes[__builtin_ctz(rest)].data)->result = result;
}

unsigned cuda_fake_vote(enum cuda_fake_vote kind, unsigned mask, int predicate)
{
	struct vote v = {predicate, 0};

	warp_meet(kind == CUDA_FAKE_BALLOT ? WAIT_BALLOT
		  : kind == CUDA_FAKE_ANY  ? WAIT_ANY
					   : WAIT_ALL,
		  mask, &v, vote_finish);
	return v.result;
}

void cuda_fake_trap(void)
{
	inside("__trap");
	stop_here("__trap");
}

/* ---- shared memory ---- */

void *cuda_fake_dynamic_shared(void)
{
	return inside("dynamic shared memory")->shared;
}

/* This thread's copy of a program's or library's thread_local variables, where static shared arrays are. */
static __thread struct {
	const char *begin[16];
	size_t size[16];
	int n;
} tls;

static int tls_note(struct dl_phdr_info *info, size_t size, void *unused)
{
	(void)size;
	(void)unused;
	for (int i = 0; i < info->dlpi_phnum && tls.n < 16; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data) {
			tls.begin[tls.n] = (const char *)info->dlpi_tls_data;
			tls.size[tls.n++] = info->dlpi_phdr[i].p_memsz;
		}
	return 0;
}

uint32_t cuda_fake_shared_address(const void *p)
{
	struct runner *r = inside("shared_address");
	const char *at = (const char *)p;

	if (at >= r->shared && at < r->shared + r->launch->shared)
		return (uint32_t)(at - r->shared) + 1024;
	if (tls.n == 0)
		dl_iterate_phdr(tls_note, NULL);
	for (int i = 0; i < tls.n; i++)
		if (at >= tls.begin[i] && at < tls.begin[i] + tls.size[i])
			return (uint32_t)(at - tls.begin[i]) + 0x40000;
	stop_here("%p is not in shared memory", p);
}

static void shared_check(const void *p, int size, const char *what)
{
	if ((uintptr_t)p % size != 0)
		stop_here("%s: the address %p in shared memory is not aligned to %d", what, p, size);
	cuda_fake_shared_address(p);
	cuda_fake_shared_address((const char *)p + size - 1);
}

/* ---- matrices ---- */

struct mma {
	float *d;
	const uint32_t *a, *b;
};

typedef float row8 __attribute__((vector_size(32)));

/* Its operands are checked by those who load them. */
__attribute__((no_sanitize("address", "undefined"))) static void mma_multiply(const float (*a)[16],
									      const row8 *b, row8 *d)
{
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 16; k++)
			d[i] += a[i][k] * b[k];
}

/* The product that the registers of a warp hold; value turns 16 bits into a float. */
template <float (*value)(unsigned short)> static void mma_finish(struct lane *lanes, unsigned)
{
	float a[16][16];
	row8 b[16], d[16];

	for (int lane = 0; lane < LANES; lane++) {
		const struct mma *m = (const struct mma *)lanes[lane].data;
		int g = lane / 4, c = lane % 4 * 2;

		for (int half = 0; half < 2; half++) {
			int shift = 16 * half, at = c + half;

			a[g][at] = value((unsigned short)(m->a[0] >> shift));
			a[g + 8][at] = value((unsigned short)(m->a[1] >> shift));
			a[g][at + 8] = value((unsigned short)(m->a[2] >> shift));
			a[g + 8][at + 8] = value((unsigned short)(m->a[3] >> shift));
			b[at][g] = value((unsigned short)(m->b[0] >> shift));
			b[at + 8][g] = value((unsigned short)(m->b[1] >> shift));
			d[g][at] = m->d[half];
			d[g + 8][at] = m->d[2 + half];
		}
	}
	mma_multiply(a, b, d);
	for (int lane = 0; lane < LANES; lane++) {
		const struct mma *m = (const struct mma *)lanes[lane].data;
		int g = lane / 4, c = lane % 4 * 2;

		for (int half = 0; half < 2; half++) {
			m->d[half] = d[g][c + half];
			m->d[2 + half] = d[g + 8][c + half];
		}
	}
}

static inline float bf16_value(unsigned short bits)
{
	return __uint_as_float((unsigned)bits << 16);
}

void cuda_fake_mma_bf16(float *d, const uint32_t *a, const uint32_t *b)
{
	struct mma m = {d, a, b};

	warp_meet(WAIT_MMA, FULL, &m, mma_finish<bf16_value>);
}

void cuda_fake_mma_f16(float *d, const uint32_t *a, const uint32_t *b)
{
	struct mma m = {d, a, b};

	warp_meet(WAIT_MMA, FULL, &m, mma_finish<cuda_fake_f16_value>);
}

struct ldmatrix {
	uint32_t *r;
	const void *row;
	bool transposed;
};

static void ldmatrix_finish(struct lane *lanes, unsigned)
{
	uint16_t m[4][8][8];
	bool transposed = ((const struct ldmatrix *)lanes[0].data)->transposed;

	for (int lane = 0; lane < LANES; lane++) {
		const struct ldmatrix *l = (const struct ldmatrix *)lanes[lane].data;

		if (l->transposed != transposed)
			stop_here("lanes load matrices transposed and not transposed together");
		memcpy(m[lane / 8][lane % 8], l->row, 16);
	}
	for (int lane = 0; lane < LANES; lane++) {
		const struct ldmatrix *l = (const struct ldmatrix *)lanes[lane].data;
		int g = lane / 4, c = lane % 4 * 2;

		for (int i = 0; i < 4; i++)
			l->r[i] = transposed ? m[i][c][g] | (uint32_t)m[i][c + 1][g] << 16
					     : m[i][g][c] | (uint32_t)m[i][g][c + 1] << 16;
	}
}

void cuda_fake_ldmatrix(uint32_t *registers, const void *row, bool transposed)
{
	struct ldmatrix l = {registers, row, transposed};

	inside("ldmatrix_x4");
	shared_check(row, 16, "ldmatrix_x4");
	warp_meet(WAIT_LDMATRIX, FULL, &l, ldmatrix_finish);
}

/* ---- cp.async ---- */

void cuda_fake_cp_async(void *shared, const void *global, int size, bool keep)
{
	struct runner *r = inside("cp_async");
	struct lane *l = &r->lanes[r->current];

	shared_check(shared, size, "cp_async");
	if ((uintptr_t)global % size != 0)
		stop_here("cp_async: the global address %p is not aligned to %d", global, size);
	if (keep && !memory_is_device(global, size))
		stop_here("cp_async reads %d bytes at %p, which are not in one allocation", size, global);
	memset(shared, POISON, size);
	if (l->n_copies == l->cap_copies) {
		l->cap_copies = l->cap_copies ? 2 * l->cap_copies : 16;
		l->copies = (struct copy *)realloc(l->copies, sizeof *l->copies * l->cap_copies);
	}
	l->copies[l->n_copies++] = {(char *)shared, (const char *)global, size, l->group, keep};
}

void cuda_fake_cp_async_commit(void)
{
	struct runner *r = inside("cp_async_commit");

	r->lanes[r->current].group++;
}

/* Does the copies of all groups but the last so many. */
static void copies_finish(struct lane *l, int groups)
{
	int n = 0;

	while (n < l->n_copies && l->copies[n].group < l->group - groups) {
		const struct copy *c = &l->copies[n++];

		if (c->keep)
			memcpy(c->to, c->from, c->size);
		else
			memset(c->to, 0, c->size);
		l->unfenced = true;
	}
	l->n_copies -= n;
	memmove(l->copies, l->copies + n, sizeof *l->copies * l->n_copies);
}

void cuda_fake_cp_async_wait(int groups)
{
	struct runner *r = inside("cp_async_wait");
	struct lane *l = &r->lanes[r->current];

	if (l->n_copies > 0)
		copies_finish(l, groups);
}

/* ---- wgmma ---- */

/* Products are done when they are waited for, from what shared memory holds then; until then d holds 0xff bytes. So registers that
 * are looked at and tiles that are written too early show. */

/* The address of element (mn, k), k < 16, of an operand: the PTX ISA's canonical layouts with 128-byte swizzling. In units of 16
 * bytes, K-major: ((8, m), 2) : ((8, stride), 1); MN-major: ((8, m), (8, 2)) : ((1, leading), (8, stride)). Bits 4 … 6 of
 * addresses are exclusive-ored with bits 7 … 9. */
static uint32_t operand_address(uint64_t operand, bool columns, int mn, int k)
{
	uint32_t start = (uint32_t)(operand & 0x3fff) << 4, leading = (uint32_t)(operand >> 16 & 0x3fff) << 4;
	uint32_t stride = (uint32_t)(operand >> 32 & 0x3fff) << 4, at;

	if (columns)
		at = start + mn % 64 * 2 + mn / 64 * leading + k % 8 * 128 + k / 8 * stride;
	else
		at = start + mn % 8 * 128 + mn / 8 * stride + k * 2;
	return at ^ (at >> 7 & 7) << 4;
}

static float operand_value(const struct runner *r, const struct warpgroup_product *p, uint64_t operand,
			   bool columns, int mn, int k)
{
	uint32_t at = operand_address(operand, columns, mn, k);
	unsigned short bits;

	if (at < 1024 || at + 2 > 1024 + r->launch->shared)
		stop_here("wgmma reads address %u of shared memory, which has %zu bytes from 1024 on", at,
			  r->launch->shared);
	memcpy(&bits, r->shared + (at - 1024), 2);
	return p->bf16 ? bf16_value(bits) : cuda_fake_f16_value(bits);
}

/* What every thread must have asked for alike. */
static bool product_same(const struct warpgroup_product *p, const struct warpgroup_product *q)
{
	return p->tiles == q->tiles && p->group == q->group && !p->a == !q->a &&
	       p->a_operand == q->a_operand && p->b_operand == q->b_operand && p->bf16 == q->bf16 &&
	       p->a_columns == q->a_columns && p->b_columns == q->b_columns && p->add == q->add;
}

/* The index-th product of the warpgroup's threads. */
__attribute__((no_sanitize("address", "undefined"))) static void product_do(struct runner *r,
									    struct lane *lanes, int index)
{
	static __thread float a[64][16], b[16][256], d[64][256];
	const struct warpgroup_product *first = &lanes[0].products[index];
	int n = first->tiles * 8;

	for (int lane = 0; lane < WARPGROUP; lane++) {
		const struct warpgroup_product *p = &lanes[lane].products[index];
		int row = lane / LANES * 16 + lane % LANES / 4, c = lane % 4 * 2;

		if (index >= lanes[lane].n_products || !product_same(p, first))
			stop_here("threads of a warpgroup ask for different products");
		if (p->a) {
			if (memcmp(p->a, p->a_held, sizeof p->a_held))
				stop_here("registers of a product of a warpgroup changed before it was "
					  "waited for");
			for (int i = 0; i < 8; i++) {
				unsigned short bits = (unsigned short)(p->a_held[i / 2] >> 16 * (i % 2));

				a[row + i / 2 % 2 * 8][c + i % 2 + i / 4 * 8] = p->bf16 ? bf16_value(bits)
											: cuda_fake_f16_value(
												  bits);
			}
		}
		if (p->before)
			memcpy(p->d, p->before, sizeof(float) * 4 * p->tiles);
		for (int i = 0; i < 4 * p->tiles; i++)
			d[row + i / 2 % 2 * 8][i / 4 * 8 + c + i % 2] = p->add ? p->d[i] : 0.0f;
	}
	for (int i = 0; !first->a && i < 64; i++)
		for (int k = 0; k < 16; k++)
			a[i][k] = operand_value(r, first, first->a_operand, first->a_columns, i, k);
	for (int k = 0; k < 16; k++)
		for (int j = 0; j < n; j++)
			b[k][j] = operand_value(r, first, first->b_operand, first->b_columns, j, k);
	for (int i = 0; i < 64; i++)
		for (int k = 0; k < 16; k++)
			for (int j = 0; j < n; j += 8)
				for (int u = 0; u < 8; u++)
					d[i][j + u] += a[i][k] * b[k][j + u];
	for (int lane = 0; lane < WARPGROUP; lane++) {
		struct warpgroup_product *p = &lanes[lane].products[index];
		int row = lane / LANES * 16 + lane % LANES / 4, c = lane % 4 * 2;

		for (int i = 0; i < 4 * p->tiles; i++)
			p->d[i] = d[row + i / 2 % 2 * 8][i / 4 * 8 + c + i % 2];
		free(p->before);
		p->before = NULL;
	}
}

static void operand_check(uint64_t operand, const char *what)
{
	if (operand >> 62 != 1 ||
	    (operand & ~(0xc000000000000000u | (uint64_t)0x3fff << 32 | (uint64_t)0x3fff << 16 | 0x3fff)))
		stop_here("wgmma: the descriptor 0x%016llx of %s is not one of 128-byte swizzling with base "
			  "offset 0",
			  (unsigned long long)operand, what);
}

void cuda_fake_wgmma(bool bf16, float *d, int tiles, const uint32_t *a, uint64_t a_operand,
		     uint64_t b_operand, bool a_columns, bool b_columns, bool add)
{
	struct runner *r = inside("wgmma");
	struct lane *l = &r->lanes[r->current];
	struct warpgroup_product *p;
	bool written = false;

	if (r->threads / WARPGROUP <= r->current / WARPGROUP)
		stop_here("wgmma in warps that are no whole warpgroup");
	if (!l->fenced)
		stop_here("wgmma without wgmma_fence since the last wait");
	if (r->unfenced)
		stop_here("wgmma after a barrier that somebody came to without async_fence after cp.async");
	if (!a)
		operand_check(a_operand, "a");
	operand_check(b_operand, "b");
	if (l->n_products == l->cap_products) {
		l->cap_products = l->cap_products ? 2 * l->cap_products : 16;
		l->products = (struct warpgroup_product *)realloc(l->products,
								  sizeof *l->products * l->cap_products);
	}
	for (int i = 0; i < l->n_products; i++)
		written = written || l->products[i].d == d;
	p = &l->products[l->n_products++];
	*p = {d, tiles, l->product_group, NULL, a, {}, a_operand, b_operand, bf16, a_columns, b_columns, add};
	if (a)
		memcpy(p->a_held, a, sizeof p->a_held);
	if (add && !written) {
		p->before = (float *)malloc(sizeof(float) * 4 * tiles);
		memcpy(p->before, d, sizeof(float) * 4 * tiles);
	}
	/* What an earlier product has put there is for this one. */
	if (!written)
		memset(d, POISON, sizeof(float) * 4 * tiles);
}

void cuda_fake_wgmma_fence(void)
{
	struct runner *r = inside("wgmma_fence");

	r->lanes[r->current].fenced = true;
}

void cuda_fake_wgmma_commit(void)
{
	struct runner *r = inside("wgmma_commit");

	r->lanes[r->current].product_group++;
}

/* All threads of the warpgroup meet here, which hardware does not ask for: its warps wait one by one. */
void cuda_fake_wgmma_wait(int groups)
{
	struct runner *r = inside("wgmma_wait");
	struct lane *me = &r->lanes[r->current], *lanes = r->lanes + r->current / WARPGROUP * WARPGROUP;
	int first = r->current / WARPGROUP * (WARPGROUP / LANES), count = me->n_products, n = 0;

	if (r->threads / WARPGROUP <= r->current / WARPGROUP)
		stop_here("wgmma_wait in warps that are no whole warpgroup");
	me->wait = WAIT_WGMMA;
	me->mask = FULL;
	me->products_left = groups;
	me->fenced = false;
	for (int i = 0; i < WARPGROUP; i++)
		if (lanes[i].wait != WAIT_WGMMA || lanes[i].products_left != groups) {
			lane_wait(r);
			return;
		}
	while (n < count && me->products[n].group < me->product_group - groups)
		product_do(r, lanes, n++);
	for (int i = 0; i < WARPGROUP; i++) {
		struct lane *l = &lanes[i];

		if (l->n_products != count || l->product_group != me->product_group)
			stop_here("threads of a warpgroup ask for different products");
		l->n_products -= n;
		memmove(l->products, l->products + n, sizeof *l->products * l->n_products);
		l->wait = WAIT_NOT;
	}
	for (int w = first; w < first + WARPGROUP / LANES; w++)
		make_ready(r, w, FULL);
	lane_wait(r);
}

void cuda_fake_async_fence(void)
{
	struct runner *r = inside("async_fence");

	r->lanes[r->current].unfenced = false;
}

/* ---- blocks ---- */

static struct runner *runner_take(void)
{
	struct runner *r;
	const size_t map = PAGE + SHARED_OPTIN + PAGE;

	pthread_mutex_lock(&runners_lock);
	r = free_runners;
	if (r)
		free_runners = r->next;
	pthread_mutex_unlock(&runners_lock);
	if (r)
		return r;
	r = (struct runner *)calloc(1, sizeof *r);
	r->shared_map = (char *)mmap(NULL, map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->shared_map == MAP_FAILED)
		stop("no memory for shared memory");
	r->shared = r->shared_map + PAGE - 128; /* aligned to 128 and no more */
	ASAN_POISON_MEMORY_REGION(r->shared_map, map);
	return r;
}

static void runner_give(struct runner *r)
{
	pthread_mutex_lock(&runners_lock);
	r->next = free_runners;
	free_runners = r;
	pthread_mutex_unlock(&runners_lock);
}

static void block_run(struct runner *r, uint64_t number)
{
	const struct kernel_launch *k = r->launch;
	const dim3 &b = k->block;
	struct lane *first;
	int i = 0;

	blockIdx.x = (unsigned)(number % k->grid.x);
	blockIdx.y = (unsigned)(number / k->grid.x % k->grid.y);
	blockIdx.z = (unsigned)(number / k->grid.x / k->grid.y);
	memset(r->shared, POISON, k->shared);
	for (unsigned z = 0; z < b.z; z++)
		for (unsigned y = 0; y < b.y; y++)
			for (unsigned x = 0; x < b.x; x++, i++) {
				struct lane *l = &r->lanes[i];

				l->index = {x, y, z};
				l->stack = NULL;
				l->wait = WAIT_NOT;
				l->n_copies = l->group = 0;
				l->n_products = l->product_group = 0;
				l->waited = l->ahead = l->next = l->unfenced = l->fenced = false;
			}
	r->ready_warps = r->n_warps == LANES ? FULL : (1u << r->n_warps) - 1;
	for (int w = 0; w < r->n_warps; w++) {
		int lanes = r->threads - w * LANES;

		r->warps[w].lanes = r->warps[w].ready = lanes >= LANES ? FULL : (1u << lanes) - 1;
	}
	r->warp = -1;
	r->at_barrier = r->ended = 0;
	r->entered = r->unfenced = false;
	first = choose(r);
	lane_prepare(r, first);
	SWITCH_BEGIN(&r->main_fake, first->stack);
	cuda_fake_switch(&r->main, &first->context);
	SWITCH_END(r->main_fake);
#if !CUDA_FAKE_ASAN
	for (int at = 0; at < REDZONE; at++)
		if ((unsigned char)r->shared[k->shared + at] != CANARY)
			stop("kernel %s, block (%u, %u, %u): writes beyond its %zu bytes of dynamic shared "
			     "memory",
			     function_name(k->kernel), blockIdx.x, blockIdx.y, blockIdx.z, k->shared);
#endif
}

extern "C" void cuda_fake_grid_wait(void)
{
	running->lanes[running->current].waited = true;
}

extern "C" void cuda_fake_grid_next(void)
{
	struct lane *l = &running->lanes[running->current];

	if (running->launch->overlaps && !l->waited && !l->ahead)
		stop_here("it lets the next kernel begin (grid_next) before it waits for the one before "
			  "(grid_wait)");
	l->next = true;
}

extern "C" void cuda_fake_grid_ahead(void)
{
	struct lane *l = &running->lanes[running->current];

	if (l->waited)
		stop_here("grid_ahead comes after grid_wait");
	if (running->launch->overlaps && !running->launch->ahead)
		stop_here("it reads weights before it waits for the kernel before it, which may write them "
			  "(no grid_next there)");
	l->ahead = true;
}

/* ---- launches ---- */

/* A launch that several operating-system threads work on. */
struct job {
	const struct kernel_launch *launch;
	uint64_t blocks, next, nexts; /* nexts: threads that called grid_next */
	enum order order;
	uint64_t seed, step;
};

/* The block that comes i-th: a shuffle multiplies by a number that has no factor in common with how many there are. */
static uint64_t job_block(const struct job *j, uint64_t i)
{
	if (j->order == FORWARD)
		return i;
	if (j->order == REVERSE)
		return j->blocks - 1 - i;
	return (uint64_t)(((unsigned __int128)i * j->step + j->seed) % j->blocks);
}

static void *job_work(void *data)
{
	struct job *j = (struct job *)data;
	struct runner *r = runner_take();
	const struct kernel_launch *k = j->launch;
	uint64_t i;

	r->launch = k;
	r->threads = (int)(k->block.x * k->block.y * k->block.z);
	r->n_warps = (r->threads + LANES - 1) / LANES;
	r->order = j->order;
	r->nexts = 0;
	ASAN_UNPOISON_MEMORY_REGION(r->shared, k->shared);
#if !CUDA_FAKE_ASAN
	memset(r->shared + k->shared, CANARY, REDZONE);
#endif
	blockDim = k->block;
	gridDim = k->grid;
	running = r;
	while ((i = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED)) < j->blocks) {
		uint64_t number = job_block(j, i);

		r->random = j->seed + number * 0x9e3779b97f4a7c15u;
		block_run(r, number);
	}
	running = NULL;
	__atomic_fetch_add(&j->nexts, r->nexts, __ATOMIC_RELAXED);
	ASAN_POISON_MEMORY_REGION(r->shared, k->shared);
	runner_give(r);
	return NULL;
}

static uint64_t common_factor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static enum order order_asked(uint64_t *seed)
{
	const char *order = getenv("CUDA_FAKE_ORDER");

	*seed = 1;
	if (!order || !*order || !strcmp(order, "forward"))
		return FORWARD;
	if (!strcmp(order, "reverse"))
		return REVERSE;
	if (strncmp(order, "shuffle", 7) || (order[7] && order[7] != ':'))
		stop("CUDA_FAKE_ORDER is %s, and should be forward, reverse or shuffle[:seed]", order);
	if (order[7])
		*seed = strtoull(order + 8, NULL, 10);
	return SHUFFLE;
}

bool kernel_run(const struct kernel_launch *launch)
{
	struct job job = {};
	const char *threads = getenv("CUDA_FAKE_THREADS");
	int n = threads ? atoi(threads) : 1;
	pthread_t others[64];

	if (running)
		stop("kernel %s launches from inside a kernel", function_name(running->launch->kernel));
	job.launch = launch;
	job.blocks = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z;
	job.order = order_asked(&job.seed);
	job.step = (uint64_t)((double)job.blocks * 0.6180339887498949) + job.seed % 7 + 1;
	while (common_factor(job.step, job.blocks) != 1)
		job.step++;
	n = n < 1 ? 1 : n > 64 ? 64 : n;
	if ((uint64_t)n > job.blocks)
		n = (int)job.blocks;
	for (int i = 1; i < n; i++)
		if (pthread_create(&others[i], NULL, job_work, &job))
			stop("cannot start a thread");
	job_work(&job);
	for (int i = 1; i < n; i++)
		pthread_join(others[i], NULL);
	return job.nexts == job.blocks * launch->block.x * launch->block.y * launch->block.z;
}
