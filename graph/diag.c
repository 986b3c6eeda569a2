#include "graph/diag.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static const struct source *keep_source(struct diags *d, const struct source *s)
{
	struct diag_source *known;

	for (known = d->sources; known; known = known->next)
		if (known->original == s)
			return known->copy;
	struct source *copy = arena_alloc(&d->arena, sizeof *copy);
	*copy = *s;
	copy->name = arena_strdup(&d->arena, s->name);
	copy->text = arena_strndup(&d->arena, s->text, s->len);
	copy->basedir = s->basedir ? arena_strdup(&d->arena, s->basedir) : NULL;
	known = arena_alloc(&d->arena, sizeof *known);
	*known = (struct diag_source){s, copy, d->sources ? d->sources->number + 1 : 0, d->sources};
	d->sources = known;
	return copy;
}

static void add(struct diags *d, enum severity severity, struct span span, const char *fmt, va_list ap)
{
	va_list again;

	if (!d)
		return;
	if (severity == DIAG_ERROR)
		d->muted = ++d->errors > MAX_ERRORS;
	else if (severity == DIAG_WARNING)
		d->muted = false;
	if (d->muted)
		return;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	char *text = arena_alloc(&d->arena, (size_t)n + 1);
	vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	if (span.source)
		span.source = keep_source(d, span.source);
	grow(&d->items, &d->cap, d->n + 1, sizeof *d->items);
	d->items[d->n++] = (struct diag){severity, span, text, NULL};
}

void diag_error(struct diags *d, struct span span, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, DIAG_ERROR, span, fmt, ap);
	va_end(ap);
}

void diag_warning(struct diags *d, struct span span, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, DIAG_WARNING, span, fmt, ap);
	va_end(ap);
}

void diag_note(struct diags *d, struct span span, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, DIAG_NOTE, span, fmt, ap);
	va_end(ap);
}

void diag_label(struct diags *d, const char *fmt, ...)
{
	va_list ap, again;

	if (!d || d->muted || !d->n)
		return;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *text = arena_alloc(&d->arena, (size_t)n + 1);
	vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	d->items[d->n - 1].label = text;
}

const char *did_you_mean(struct diags *d, const char *name, const char *const *candidates, size_t n)
{
	const char *near = d->muted ? NULL : nearest_name(name, candidates, n);

	return near ? arena_printf(&d->arena, ". Did you mean \"%s\"?", near) : "";
}

/* A diagnostic and its notes. */
struct group {
	const struct diag *first;
	size_t n;
	size_t rank; /* nowhere, the file, then the overrides in the order of their first mistake */
};

static int compare(const void *a, const void *b)
{
	const struct group *x = a, *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (x->rank && x->first->span.offset != y->first->span.offset)
		return x->first->span.offset < y->first->span.offset ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

static size_t rank_of(const struct diags *d, const struct source *s)
{
	if (!s)
		return 0;
	if (!s->external)
		return 1;
	for (const struct diag_source *k = d->sources; k; k = k->next)
		if (k->copy == s)
			return 2 + k->number;
	return 1;
}

void diags_finish(struct diags *d, size_t from)
{
	size_t count = d->n - from, n = 0, at = from;
	struct group *groups = xcalloc(count + 1, sizeof *groups);
	struct diag *sorted = xcalloc(count + 1, sizeof *sorted);

	memcpy(sorted, count ? d->items + from : sorted, count * sizeof *sorted);
	for (size_t i = 0; i < count; i++) {
		if (sorted[i].severity == DIAG_NOTE && n)
			groups[n - 1].n++;
		else
			groups[n++] = (struct group){&sorted[i], 1, rank_of(d, sorted[i].span.source)};
	}
	qsort(groups, n, sizeof *groups, compare);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < groups[i].n; k++)
			d->items[at++] = groups[i].first[k];
	for (struct diag_source *k = d->sources; k; k = k->next)
		k->original = NULL;
	free(sorted);
	free(groups);
}

void diags_free(struct diags *d)
{
	arena_free(&d->arena);
	free(d->items);
	*d = (struct diags)DIAGS_INIT;
}
