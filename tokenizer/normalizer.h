/* The "normalizer" of a tokenizer.json: rewrites text before it is split, keeping track of where bytes come
 * from. */
#ifndef TOKENIZER_NORMALIZER_H
#define TOKENIZER_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "tokenizer/aligned.h"
#include "tokenizer/regex.h"

enum normalizer_kind {
	NORMALIZE_REPLACE,       /* text -> content */
	NORMALIZE_REPLACE_REGEX, /* what the pattern matches -> content */
	NORMALIZE_PREPEND,       /* content before text that is not empty */
	NORMALIZE_STRIP,         /* white space off the ends */
	NORMALIZE_UNICODE,       /* a normalization form, by utf8proc */
	NORMALIZE_LOWERCASE,
	NORMALIZE_STRIP_ACCENTS, /* removes combining marks */
};

struct normalizer {
	enum normalizer_kind kind;
	char *text; /* REPLACE: what is searched; owned */
	size_t text_len;
	char *content; /* REPLACE, REPLACE_REGEX, PREPEND: what is put; owned */
	size_t content_len;
	struct regex *regex; /* REPLACE_REGEX; owned */
	bool left, right;    /* STRIP: at which ends */
	int form;            /* UNICODE: utf8proc options */
};

struct normalizers {
	struct normalizer *list; /* applied in order */
	size_t n, cap;
};

/* Adds an empty normalizer of this kind at the end. */
struct normalizer *normalizers_add(struct normalizers *ns, enum normalizer_kind kind);
/* Options of utf8proc for "NFC", "NFD", "NFKC", "NFKD"; -1 for other names. */
int normalizer_form(const char *name);
void normalizers_free(struct normalizers *ns);

/* Rewrites *a; *tmp is scratch memory. */
int normalizers_apply(const struct normalizers *ns, struct aligned *a, struct aligned *tmp,
		      struct regex_match *m, struct error *err);

#endif
