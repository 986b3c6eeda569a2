/* The patterns of a tokenizer.json. They are written for Oniguruma (Ruby syntax); they run on PCRE2 in UTF
 * and UCP mode, after the few constructs whose meaning differs were spelt out or refused. */
#ifndef TOKENIZER_REGEX_H
#define TOKENIZER_REGEX_H

#include <stddef.h>

#include "base/error.h"

struct regex;       /* a compiled pattern; immutable */
struct regex_match; /* what matching needs to write to; one per thread */

/* ERR_USAGE, naming the place in the pattern, when it does not compile or has no equal meaning in PCRE2. */
int regex_compile(const char *pattern, size_t n, struct regex **out, struct error *err);
void regex_free(struct regex *r);

struct regex_match *regex_match_new(void);
void regex_match_free(struct regex_match *m);

/* The next match in s[from, n): 1 and its bounds, 0 when there is none, -1 when it exceeds PCRE2's limits.
 * What is before `from` is seen by look-behind. s must be valid UTF-8. */
int regex_next(const struct regex *r, struct regex_match *m, const char *s, size_t n, size_t from,
	       size_t *begin, size_t *end, struct error *err);

#endif
