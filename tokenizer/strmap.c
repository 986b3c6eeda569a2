#include "tokenizer/strmap.h"

#include <stdlib.h>

static void resize(struct strmap *m, size_t size)
{
	struct strmap_slot *old = m->slots;
	size_t old_size = old ? m->mask + 1 : 0;

	m->slots = xcalloc(size, sizeof *m->slots);
	m->mask = size - 1;
	for (size_t k = 0; k < old_size; k++) {
		if (!old[k].s)
			continue;
		size_t i = hash_string(old[k].s, old[k].len) & m->mask;
		while (m->slots[i].s)
			i = (i + 1) & m->mask;
		m->slots[i] = old[k];
	}
	free(old);
}

void strmap_reserve(struct strmap *m, size_t n)
{
	size_t size = 16;

	while (size < 2 * n)
		size *= 2;
	if (!m->slots || size > m->mask + 1)
		resize(m, size);
}

int32_t strmap_add(struct strmap *m, const char *s, size_t len, int32_t id)
{
	if (!m->slots || 2 * (m->n + 1) > m->mask + 1)
		resize(m, m->slots ? 2 * (m->mask + 1) : 16);
	size_t i = hash_string(s, len) & m->mask;
	for (; m->slots[i].s; i = (i + 1) & m->mask) {
		if (m->slots[i].len == len && memcmp(m->slots[i].s, s, len) == 0)
			return m->slots[i].id;
	}
	m->slots[i] = (struct strmap_slot){s, (uint32_t)len, id};
	m->n++;
	return -1;
}

void strmap_free(struct strmap *m)
{
	free(m->slots);
	*m = (struct strmap){NULL, 0, 0};
}
