/* Tokens: tokenized sequences, what `tokenize` hands to training. */
#ifndef DATA_TOKENS_H
#define DATA_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct tokens_item {
	uint64_t id;          /* the row it was made from */
	const int32_t *ids;   /* (n) token ids; point into the open file, aligned to 4 bytes */
	uint32_t n;           /* tokens */
	uint32_t label_start; /* first index that is trained on: 0 = all, n = none */
};

/* A fact about the whole file, under a name: text, or a number when text is NULL. The usual ones:
 * "vocab_size", "max_length", "bos_id", "eos_id" (-1 = none), "truncated" (sequences cut), "tokenizer"
 * (digest text). */
struct tokens_meta {
	const char *name;
	const char *text;
	int64_t number;
};

struct tokens_writer;

/* Starts a tokens file at path, replacing what is there. NULL on failure. */
struct tokens_writer *tokens_create(const char *path, struct error *err);
/* Adds one sequence of n ids (copied), n < 2^28; label_start is at most n. */
int tokens_add(struct tokens_writer *w, uint64_t id, const int32_t *ids, uint32_t n, uint32_t label_start,
	       struct error *err);
/* Finishes the file with n facts, stored in the order given; w is gone afterwards. On failure there is no
 * file. */
int tokens_commit(struct tokens_writer *w, const struct tokens_meta *meta, size_t n, struct error *err);
/* Gives up: removes the file. NULL is fine. */
void tokens_abort(struct tokens_writer *w);

struct tokens; /* an open tokens file; may be read from several threads at once */

struct tokens *tokens_open(const char *path, struct error *err);
uint64_t tokens_count(const struct tokens *t);
/* Sequence i in file order; out->ids holds until tokens_close. ERR_USAGE when i is not there or the file is
 * damaged. That ids lie below the vocabulary's size is for the model to check. */
int tokens_get(const struct tokens *t, uint64_t i, struct tokens_item *out, struct error *err);
/* Facts of the file. They return 1 and fill *out, 0 when there is none of that name, -1 and ERR_USAGE when it
 * is of the other type. The text belongs to t. */
int tokens_meta_number(const struct tokens *t, const char *name, int64_t *out, struct error *err);
int tokens_meta_text(const struct tokens *t, const char *name, const char **out, struct error *err);
/* Fact i (0-based) of the file, in order, for listings: 1, or 0 behind the last. Text belongs to t. */
int tokens_meta_at(const struct tokens *t, size_t i, struct tokens_meta *out);
void tokens_close(struct tokens *t); /* NULL is fine */

#endif
