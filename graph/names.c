#include "graph/names.h"

#include <string.h>

/* FNV-1a (Fowler, Noll, Vo), 32 bits, finished with a mix so that the low bits are good. */
static uint32_t hash_of(const char *s, size_t n)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)s[i]) * 16777619u;
	h ^= h >> 15;
	return h * 0x2c1b3c6du;
}

void names_init(struct names *t, struct arena *a, size_t expect)
{
	t->arena = a;
	t->n = 0;
	t->cap = 16;
	while (t->cap < 2 * expect)
		t->cap *= 2;
	t->slots = arena_calloc(a, t->cap, sizeof *t->slots);
}

static struct names_slot *slot_of(const struct names *t, const char *name, size_t len, uint32_t hash)
{
	size_t i = hash & (t->cap - 1);

	for (;; i = (i + 1) & (t->cap - 1)) {
		struct names_slot *s = &t->slots[i];
		if (!s->name || (s->hash == hash && s->len == len && !memcmp(s->name, name, len)))
			return s;
	}
}

uint32_t names_add(struct names *t, const char *name, size_t len, uint32_t value)
{
	uint32_t hash = hash_of(name, len);

	if (2 * (t->n + 1) > t->cap) {
		struct names bigger;
		names_init(&bigger, t->arena, t->cap);
		for (size_t i = 0; i < t->cap; i++)
			if (t->slots[i].name)
				*slot_of(&bigger, t->slots[i].name, t->slots[i].len,
					 t->slots[i].hash) = t->slots[i];
		t->slots = bigger.slots;
		t->cap = bigger.cap;
	}
	struct names_slot *s = slot_of(t, name, len, hash);
	if (s->name)
		return s->value;
	*s = (struct names_slot){name, (uint32_t)len, hash, value};
	t->n++;
	return NAMES_NONE;
}

uint32_t names_find(const struct names *t, const char *name, size_t len)
{
	const struct names_slot *s = slot_of(t, name, len, hash_of(name, len));

	return s->name ? s->value : NAMES_NONE;
}
