/* Device memory: one range of addresses, cut into spans. A span holds one allocation between redzones; freed ones wait in a
 * queue before they are used again. The range is closed to everybody while nothing of the device's runs. */
#include "internal.h"

#include <sys/mman.h>
#include <unistd.h>

#define RANGE      ((size_t)64 << 30)
#define REDZONE    256u
#define GRAIN      512u /* spans are multiples: data begins 256 after one, so aligned to 256 and no more */
#define QUARANTINE ((size_t)8 << 20)
#define LARGE                                                                                                \
	((size_t)4                                                                                           \
	 << 20) /* of an allocation above it only both ends are poisoned, so that the rest has no pages */
#define ENDS ((size_t)256 << 10)

enum span_state { SPAN_FREE, SPAN_LIVE, SPAN_QUARANTINED };

struct span {
	char *start;
	size_t length;
	size_t size; /* of the data, which is at start + REDZONE */
	enum span_state state;
	uint64_t freed; /* when, counted in calls of memory_free */
};

static struct {
	char *base;
	size_t range;
	size_t top;         /* beyond it nothing was ever allocated */
	struct span *spans; /* by address, without gaps */
	size_t n, cap;
	size_t quarantined; /* bytes of spans */
	size_t allocations, used;
	uint64_t limit, frees;
	int opened;
	size_t open_to; /* what lies before it can be touched */
	uint64_t closes;
} memory = {.base = NULL,
	    .range = 0,
	    .top = 0,
	    .spans = NULL,
	    .n = 0,
	    .cap = 0,
	    .quarantined = 0,
	    .allocations = 0,
	    .used = 0,
	    .limit = (uint64_t)8 << 30,
	    .frees = 0,
	    .opened = 0,
	    .open_to = 0,
	    .closes = 0};

static void range_reserve(void)
{
	if (memory.base)
		return;
	for (memory.range = RANGE; memory.range >= RANGE >> 6; memory.range /= 2) {
		memory.base = (char *)mmap(NULL, memory.range, PROT_NONE,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory.base != MAP_FAILED)
			break;
	}
	if (memory.base == MAP_FAILED)
		stop("no address space for device memory");
	memory.cap = 64;
	memory.spans = (struct span *)calloc(memory.cap, sizeof *memory.spans);
	memory.spans[0] = {memory.base, memory.range, 0, SPAN_FREE, 0};
	memory.n = 1;
}

static void range_protect(int how, size_t from, size_t to)
{
	const size_t page = 4096;

	to = (to + page - 1) / page * page;
	from = from / page * page;
	if (to > from && mprotect(memory.base + from, to - from, how))
		stop("mprotect of device memory failed");
}

void memory_open(void)
{
	if (memory.opened++ > 0 || memory.open_to >= memory.top)
		return;
	range_protect(PROT_READ | PROT_WRITE, memory.open_to, memory.top);
	memory.open_to = memory.top;
}

/* The last span that starts at or before p. */
static struct span *span_find(const void *p)
{
	size_t low = 0, high = memory.n;

	while (high - low > 1) {
		size_t middle = (low + high) / 2;

		if (memory.spans[middle].start <= (const char *)p)
			low = middle;
		else
			high = middle;
	}
	return &memory.spans[low];
}

bool memory_in_range(const void *p)
{
	return memory.base && (const char *)p >= memory.base && (const char *)p < memory.base + memory.range;
}

bool memory_is_device(const void *p, size_t size)
{
	const struct span *s;
	const char *at = (const char *)p;

	if (!memory_in_range(p))
		return false;
	s = span_find(p);
	return s->state == SPAN_LIVE && at >= s->start + REDZONE && size <= s->size &&
	       (size_t)(at - s->start - REDZONE) <= s->size - size;
}

/* Closing takes as long as a small kernel: after the first times it is done now and then. */
void memory_close(void)
{
	if (--memory.opened != 0)
		return;
	if (memory.closes++ > 256 && memory.closes % 16 != 0)
		return;
	range_protect(PROT_NONE, 0, memory.open_to);
	memory.open_to = 0;
}

#if CUDA_FAKE_ASAN
void memory_check(const void *)
{
}
#else
static void span_check(const struct span *s, const void *kernel)
{
	const unsigned char *start = (const unsigned char *)s->start;

	for (size_t i = 0; i < s->length; i++) {
		if (i == REDZONE)
			i += s->size;
		if (start[i] != CANARY)
			stop("kernel %s writes %s the %zu bytes at %p", function_name(kernel),
			     i < REDZONE ? "before" : "beyond", s->size, (const void *)(start + REDZONE));
	}
}

void memory_check(const void *kernel)
{
	for (size_t i = 0; i < memory.n; i++)
		if (memory.spans[i].state == SPAN_LIVE)
			span_check(&memory.spans[i], kernel);
}
#endif

static void span_insert(size_t at, struct span s)
{
	if (memory.n == memory.cap) {
		memory.cap *= 2;
		memory.spans = (struct span *)realloc(memory.spans, sizeof *memory.spans * memory.cap);
	}
	memmove(memory.spans + at + 1, memory.spans + at, sizeof *memory.spans * (memory.n - at));
	memory.spans[at] = s;
	memory.n++;
}

static void span_remove(size_t at)
{
	memory.n--;
	memmove(memory.spans + at, memory.spans + at + 1, sizeof *memory.spans * (memory.n - at));
}

cudaError_t memory_alloc(size_t size, void **out)
{
	size_t length = (REDZONE + size + REDZONE + GRAIN - 1) / GRAIN * GRAIN, at = 0;
	struct span *s;

	range_reserve();
	if (size > memory.limit || memory.used > memory.limit - size)
		return cudaErrorMemoryAllocation;
	while (at < memory.n && (memory.spans[at].state != SPAN_FREE || memory.spans[at].length < length))
		at++;
	if (at == memory.n)
		return cudaErrorMemoryAllocation;
	if (memory.spans[at].length > length) {
		span_insert(at + 1, {memory.spans[at].start + length, memory.spans[at].length - length, 0,
				     SPAN_FREE, 0});
		memory.spans[at].length = length;
	}
	s = &memory.spans[at];
	s->size = size;
	s->state = SPAN_LIVE;
	if ((size_t)(s->start - memory.base) + length > memory.top)
		memory.top = (size_t)(s->start - memory.base) + length;
	memory.allocations++;
	memory.used += size;
	memory_open();
	ASAN_UNPOISON_MEMORY_REGION(s->start, length);
	if (!CUDA_FAKE_ASAN) {
		memset(s->start, CANARY, REDZONE);
		memset(s->start + REDZONE + size, CANARY, length - REDZONE - size);
	}
	memset(s->start + REDZONE, POISON, size > LARGE ? ENDS : size);
	if (size > LARGE)
		memset(s->start + REDZONE + size - ENDS, POISON, ENDS);
	ASAN_POISON_MEMORY_REGION(s->start, REDZONE);
	ASAN_POISON_MEMORY_REGION(s->start + REDZONE + size, length - REDZONE - size);
	*out = s->start + REDZONE;
	memory_close();
	return cudaSuccess;
}

/* Gives the spans that were freed first back, until the others are few enough; joins them with free neighbours. */
static void quarantine_trim(void)
{
	while (memory.quarantined > QUARANTINE) {
		size_t oldest = memory.n;
		struct span *s;

		for (size_t i = 0; i < memory.n; i++)
			if (memory.spans[i].state == SPAN_QUARANTINED &&
			    (oldest == memory.n || memory.spans[i].freed < memory.spans[oldest].freed))
				oldest = i;
		s = &memory.spans[oldest];
		memory.quarantined -= s->length;
		s->state = SPAN_FREE;
		if (oldest + 1 < memory.n && s[1].state == SPAN_FREE) {
			s->length += s[1].length;
			span_remove(oldest + 1);
		}
		if (oldest > 0 && s[-1].state == SPAN_FREE) {
			s[-1].length += s->length;
			span_remove(oldest);
		}
	}
}

static void span_free(struct span *s)
{
	memory.allocations--;
	memory.used -= s->size;
	memory.quarantined += s->length;
	memory_open();
	ASAN_UNPOISON_MEMORY_REGION(s->start, s->length);
	if (s->length >= QUARANTINE) {
		/* Too much to keep: reads give zeros. */
		uintptr_t first = ((uintptr_t)s->start + 4095) & ~(uintptr_t)4095;
		uintptr_t last = (uintptr_t)(s->start + s->length) & ~(uintptr_t)4095;

		madvise((void *)first, last - first, MADV_DONTNEED);
	} else {
		memset(s->start, POISON, s->length);
	}
	ASAN_POISON_MEMORY_REGION(s->start, s->length);
	s->state = SPAN_QUARANTINED;
	s->freed = ++memory.frees;
	memory_close();
}

void memory_free(void *p)
{
	struct span *s;

	if (!memory_in_range(p))
		stop("cudaFree of %p, which is not in device memory", p);
	s = span_find(p);
	if (s->state == SPAN_QUARANTINED)
		stop("cudaFree of %p, which is free already", p);
	if (s->state != SPAN_LIVE || s->start + REDZONE != p)
		stop("cudaFree of %p, which does not come from cudaMalloc", p);
	span_free(s);
	quarantine_trim();
}

void memory_free_all(void)
{
	for (size_t i = 0; i < memory.n; i++)
		if (memory.spans[i].state == SPAN_LIVE)
			span_free(&memory.spans[i]);
	quarantine_trim();
}

void memory_set_limit(uint64_t bytes)
{
	memory.limit = bytes;
}

uint64_t memory_limit(void)
{
	return memory.limit;
}

uint64_t memory_used(void)
{
	return memory.used;
}

size_t memory_allocations(void)
{
	return memory.allocations;
}
