/* Stop strings: an answer ends before the first of them, also when it is spread over several tokens. Text is released
 * as soon as it cannot be the beginning of a stop string any more. */
#ifndef SERVE_STOP_H
#define SERVE_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

struct stop_filter {
	const char *const *strings; /* valid UTF-8, none empty; the caller's, must outlive the filter */
	size_t n;
	struct strbuf held; /* text that may still turn out to be a stop string's beginning */
};

/* Appends to out what of the text so far is certain to belong to the answer, given its next n bytes (whole UTF-8
 * characters). True when a stop string was completed: the text before it was appended, the rest is dropped, and the
 * filter is of no further use. Of several the one that begins first ends the answer. */
bool stop_feed(struct stop_filter *f, const char *text, size_t n, struct strbuf *out);
/* The answer ended otherwise: appends what was held back. */
void stop_finish(struct stop_filter *f, struct strbuf *out);
void stop_free(struct stop_filter *f);

#endif
