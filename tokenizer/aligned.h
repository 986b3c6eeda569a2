/* Text on its way through normalisation: its bytes, and for every byte the place in the original text. */
#ifndef TOKENIZER_ALIGNED_H
#define TOKENIZER_ALIGNED_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"

struct aligned {
	char *s; /* (n) bytes of valid UTF-8 */
	uint32_t *
		end; /* (n) offset in the original text, one past what the byte comes from; never decreases */
	size_t n, cap;
	uint32_t base; /* offset in the original text at which this text begins */
};

/* Room for n more bytes. */
static inline void aligned_reserve(struct aligned *a, size_t n)
{
	size_t need = a->n + n;

	if (need <= a->cap)
		return;
	size_t cap = a->cap ? a->cap : 1024;
	while (cap < need)
		cap *= 2;
	a->s = xreallocarray(a->s, cap, 1);
	a->end = xreallocarray(a->end, cap, sizeof *a->end);
	a->cap = cap;
}

/* Appends n bytes that all come from what ends at end. */
static inline void aligned_add(struct aligned *a, const char *s, size_t n, uint32_t end)
{
	aligned_reserve(a, n);
	for (size_t i = 0; i < n; i++) {
		a->s[a->n + i] = s[i];
		a->end[a->n + i] = end;
	}
	a->n += n;
}

/* Appends bytes [from, to) of b as they are. */
static inline void aligned_copy(struct aligned *a, const struct aligned *b, size_t from, size_t to)
{
	if (from == to)
		return;
	aligned_reserve(a, to - from);
	memcpy(a->s + a->n, b->s + from, to - from);
	memcpy(a->end + a->n, b->end + from, (to - from) * sizeof *a->end);
	a->n += to - from;
}

/* Where byte i begins in the original text. */
static inline uint32_t aligned_begin(const struct aligned *a, size_t i)
{
	return i ? a->end[i - 1] : a->base;
}

static inline void aligned_swap(struct aligned *a, struct aligned *b)
{
	struct aligned t = *a;
	*a = *b;
	*b = t;
}

#endif
