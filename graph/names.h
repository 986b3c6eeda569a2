/* Names to numbers: open addressing, linear probing. Private to graph/. */
#ifndef GRAPH_NAMES_H
#define GRAPH_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

#define NAMES_NONE UINT32_MAX

struct names_slot {
	const char *name; /* NULL: free; not copied */
	uint32_t len, hash, value;
};

struct names {
	struct names_slot *slots; /* in the arena; a power of two, at most half full */
	size_t cap, n;
	struct arena *arena;
};

/* Room for expect names before the first rehash. */
void names_init(struct names *t, struct arena *a, size_t expect);
/* Adds name with value and returns NAMES_NONE, or returns the value it has already (and keeps it). */
uint32_t names_add(struct names *t, const char *name, size_t len, uint32_t value);
/* The value of name, or NAMES_NONE. */
uint32_t names_find(const struct names *t, const char *name, size_t len);

#endif
