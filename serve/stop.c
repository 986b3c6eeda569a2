#include "serve/stop.h"

#include <string.h>

/* The length of the longest end of text that is a proper beginning of s. */
static size_t overlap(const char *text, size_t n, const char *s)
{
	size_t most = strlen(s) - 1;

	for (size_t k = most < n ? most : n; k; k--)
		if (memcmp(text + n - k, s, k) == 0)
			return k;
	return 0;
}

bool stop_feed(struct stop_filter *f, const char *text, size_t n, struct strbuf *out)
{
	if (f->n == 0) {
		strbuf_add(out, text, n);
		return false;
	}
	strbuf_add(&f->held, text, n);

	const char *first = NULL;
	for (size_t i = 0; i < f->n; i++) {
		const char *at = memmem(f->held.data, f->held.len, f->strings[i], strlen(f->strings[i]));
		if (at && (!first || at < first))
			first = at;
	}
	if (first) {
		strbuf_add(out, f->held.data, (size_t)(first - f->held.data));
		strbuf_clear(&f->held);
		return true;
	}

	size_t keep = 0;
	for (size_t i = 0; i < f->n; i++) {
		size_t k = overlap(f->held.data, f->held.len, f->strings[i]);
		keep = k > keep ? k : keep;
	}
	size_t release = f->held.len - keep;
	strbuf_add(out, f->held.data, release);
	memmove(f->held.data, f->held.data + release, keep);
	f->held.len = keep;
	return false;
}

void stop_finish(struct stop_filter *f, struct strbuf *out)
{
	strbuf_add(out, f->held.data, f->held.len);
	strbuf_clear(&f->held);
}

void stop_free(struct stop_filter *f)
{
	strbuf_free(&f->held);
}
