/* Byte-pair encoding of one pre-tokenised piece of text.
 *
 * Two ways to say which pair is merged next, both always taking the leftmost of equals:
 *   - by rank (tokenizer.json): a table of pairs of ids; the lowest rank first;
 *   - by score (tokenizer.model): two neighbours merge when their joined text is a piece; the highest score
 * first. */
#ifndef TOKENIZER_BPE_H
#define TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer/aligned.h"
#include "tokenizer/strmap.h"
#include "tokenizer/tokenizer.h"

#define RANK_NONE UINT32_MAX

struct merge_slot {
	uint32_t left, right; /* ids */
	uint32_t rank;        /* RANK_NONE: the slot is free */
	int32_t id;           /* of what they make */
};

struct bpe {
	char **text;         /* (n) by id, NUL-terminated; NULL: the model has no such id */
	uint32_t *len;       /* (n) bytes */
	size_t n;            /* one more than the highest id of the model */
	struct strmap index; /* text -> id */

	bool by_score;
	uint32_t *rank; /* by score: (n) 0 for the highest score …; RANK_NONE: not made of text (control,
			   byte) */
	struct merge_slot *merges; /* by rank: open addressing, (merge_mask + 1) */
	size_t merge_mask;
	size_t n_merges;

	int32_t unk;   /* stands for characters that the vocabulary lacks; -1: they vanish */
	bool fuse_unk; /* one unk for a run of them */
	bool byte_fallback;
	bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
	int32_t byte[256];  /* byte fallback: the id of "<0xHH>", -1 */
	/* No token has U+2581 (▁) behind another character, so that words starting with ▁ can be encoded
	 * apart. */
	bool cut_at_space;
};

/* Makes room for ids below n. */
void bpe_reserve(struct bpe *b, size_t n);
/* Adds the token text (copied) with its id. -1 when the id or the text is taken. */
int bpe_add(struct bpe *b, const char *text, size_t len, int32_t id);
/* By rank: room for n merges, then each in order. -1 when a merge names tokens, or makes one, that is not in
 * the vocabulary. Of two equal merges the later counts, as in `tokenizers`. */
void bpe_reserve_merges(struct bpe *b, size_t n);
int bpe_add_merge(struct bpe *b, const char *left, size_t left_len, const char *right, size_t right_len);
/* Fills byte and cut_at_space; called once, after everything else is there. */
void bpe_finish(struct bpe *b);
void bpe_free(struct bpe *b);

struct bpe_work; /* scratch memory and a cache of words, for one thread and one model */

struct bpe_work *bpe_work_new(void);
void bpe_work_free(struct bpe_work *w);

/* Appends the ids of bytes [from, to) of a to *out. */
void bpe_encode(const struct bpe *b, struct bpe_work *w, const struct aligned *a, size_t from, size_t to,
		struct token_ids *out);

/* Makes room for n more tokens. */
void token_ids_reserve(struct token_ids *t, size_t n);

static inline void token_ids_add(struct token_ids *t, int32_t id, uint32_t end)
{
	if (t->n == t->cap)
		token_ids_reserve(t, 1);
	t->ids[t->n] = id;
	t->ends[t->n++] = end;
}

#endif
