/* Memory that cannot fail to the caller: the x functions abort the process with one line on exhaustion, which in
 * a worker costs one attempt. For sizes that a file or the user decides, use the checked functions of the caller
 * (they return ERR_INFRA) instead. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size); /* checks count * size for overflow */
void *xrealloc(void *p, size_t size);
/* As realloc(p, count * size) with the product checked. */
void *xreallocarray(void *p, size_t count, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);

/* Grows *array (of elements of elem bytes, *cap allocated) so that it holds at least need elements; doubles. */
void grow(void *array, size_t *cap, size_t need, size_t elem);

/* An arena: many small allocations, freed together. */
struct arena_block;
struct arena {
	struct arena_block *blocks; /* newest first */
	char *next;                 /* first free byte of the newest block */
	char *end;                  /* one past its last byte */
	size_t total;               /* bytes handed out, for reports */
};

#define ARENA_INIT                                                                                           \
	{                                                                                                    \
		NULL, NULL, NULL, 0                                                                          \
	}

/* size bytes, aligned to 16, not zeroed; valid until arena_free. size 0 gives a unique pointer. */
void *arena_alloc(struct arena *a, size_t size);
/* The same, zeroed; count * size is checked for overflow. */
void *arena_calloc(struct arena *a, size_t count, size_t size);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Frees every block; the arena is empty and usable again. */
void arena_free(struct arena *a);

#endif
