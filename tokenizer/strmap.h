/* Strings to ids: the vocabulary's index. Open addressing; the strings belong to the caller and must stay. */
#ifndef TOKENIZER_STRMAP_H
#define TOKENIZER_STRMAP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"

struct strmap_slot {
	const char *s; /* NULL: free */
	uint32_t len;  /* bytes */
	int32_t id;
};

struct strmap {
	struct strmap_slot *slots; /* (mask + 1), a power of two, at most half full */
	size_t mask;
	size_t n; /* strings */
};

/* 64 bits of a string, for tables: multiply and fold, eight bytes at a time. */
static inline uint64_t hash_string(const char *s, size_t n)
{
	const uint64_t k =
		0x9e3779b97f4a7c15u; /* 2^64 / golden ratio, as in Knuth's multiplicative hashing */
	uint64_t h = n * k, v;

	for (; n > 8; s += 8, n -= 8) {
		memcpy(&v, s, 8);
		h = (h ^ v) * k;
		h ^= h >> 32;
	}
	v = 0;
	if (n >= 4) {
		uint32_t a, b;
		memcpy(&a, s, 4);
		memcpy(&b, s + n - 4, 4);
		v = (uint64_t)a << 32 | b;
	} else if (n > 0) {
		v = (uint64_t)(uint8_t)s[0] << 16 | (uint64_t)(uint8_t)s[n / 2] << 8 | (uint8_t)s[n - 1];
	}
	h = (h ^ v) * k;
	return h ^ h >> 29;
}

/* Makes room for n strings, before the first strmap_add. */
void strmap_reserve(struct strmap *m, size_t n);
/* The id that s has already, or -1 after adding it with this id. */
int32_t strmap_add(struct strmap *m, const char *s, size_t len, int32_t id);
void strmap_free(struct strmap *m);

/* The id of s, -1 when it is not there. */
static inline int32_t strmap_get(const struct strmap *m, const char *s, size_t len)
{
	if (!m->slots)
		return -1;
	for (size_t i = hash_string(s, len) & m->mask;; i = (i + 1) & m->mask) {
		const struct strmap_slot *p = &m->slots[i];
		if (!p->s)
			return -1;
		if (p->len == len && memcmp(p->s, s, len) == 0)
			return p->id;
	}
}

#endif
