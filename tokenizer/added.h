/* Added tokens: strings that are found in the text before the model sees it, special ones and others. */
#ifndef TOKENIZER_ADDED_H
#define TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer/strmap.h"

struct added_token {
	char *content; /* NUL-terminated; owned */
	size_t len;    /* bytes */
	int32_t id;
	bool special;     /* left out by TOKENIZER_SKIP_SPECIAL, plain text under TOKENIZER_PLAIN_SPECIAL */
	bool single_word; /* only where no word character is next to it */
	bool lstrip;      /* takes the white space before it */
	bool rstrip;      /* takes the white space behind it */
	bool normalized;  /* searched in normalised text, else in the text as it came */
};

/* Finds the leftmost, then longest, of many strings: a trie over bytes, since many of them share long beginnings
 * ("<unused…", runs of white space). */
struct matcher {
	struct matcher_node {
		uint32_t child;   /* first of the longer ones, 0: none */
		uint32_t sibling; /* next of the same length and beginning, 0: none */
		int32_t token;    /* whose string ends here, -1: none */
		uint8_t byte;     /* last of the string so far */
	} * nodes;
	size_t n, cap;       /* nodes; 0 is no node */
	uint32_t first[256]; /* by first byte, 0: no string begins with it */
};

struct added {
	struct added_token *list;
	size_t n, cap;
	struct strmap index; /* content -> index in list */
	struct matcher raw;  /* those searched in the text as it came */
	struct matcher normalized;
	char **owned; /* normalised contents that normalized points to */
	size_t n_owned, owned_cap;
};

/* Adds a token; content is copied. -1 when there is one of this content already. */
int added_add(struct added *a, struct added_token token);
/* Makes token i findable in raw, or as text (which is copied) in normalized. */
void added_search_raw(struct added *a, size_t i);
void added_search_normalized(struct added *a, size_t i, const char *text, size_t len);
void added_free(struct added *a);

/* The next token in s[from, n) at or behind `from`: its index, and the bytes that it takes, white space
 * included. -1 when there is none. plain: special tokens are not found. */
ptrdiff_t added_next(const struct added *a, const struct matcher *m, bool plain, const char *s, size_t n,
		     size_t from, size_t *begin, size_t *end);

#endif
