#include "tokenizer/bpe.h"

#include <stdio.h>
#include <stdlib.h>

#include "tokenizer/chars.h"

#define NONE UINT32_MAX

/* A run of text that is one token so far; symbols form a list in text order. */
struct symbol {
	uint32_t start, len; /* bytes of the word; len 0: merged into its left neighbour */
	uint32_t prev, next; /* symbols, NONE at the ends */
	int32_t id;          /* -1: not in the vocabulary */
};

/* A pair that could merge, as it was when it was found. */
struct candidate {
	uint64_t order; /* rank << 32 | left symbol: the smallest is next */
	uint32_t right; /* symbol */
	uint32_t len;   /* bytes of both */
	int32_t id;     /* of what they make */
};

struct piece {
	int32_t id;
	uint32_t end; /* bytes from the start of the word */
};

/* Words that were encoded before. Direct hits only cost a hash and a comparison; when it is full it starts
 * anew. */
enum { CACHE_SLOTS = 1 << 16, CACHE_WORDS = CACHE_SLOTS / 2, CACHE_LONGEST = 96 };

struct cached {
	uint64_t hash;
	uint32_t key;    /* offset in keys */
	uint32_t pieces; /* offset in the cache's pieces */
	uint16_t len;    /* bytes; 0: free */
	uint16_t n;      /* pieces */
};

struct bpe_work {
	struct symbol *symbols;
	size_t symbols_cap;
	struct candidate *heap;
	size_t heap_n, heap_cap;
	struct piece *pieces; /* of the word at hand */
	size_t pieces_n, pieces_cap;

	struct cached *cache; /* (CACHE_SLOTS) */
	size_t cached;
	char *keys;
	size_t keys_n, keys_cap;
	struct piece *cache_pieces;
	size_t cache_pieces_n, cache_pieces_cap;
};

void token_ids_reserve(struct token_ids *t, size_t n)
{
	if (t->n + n <= t->cap)
		return;
	size_t cap = t->cap ? t->cap : 64;
	while (cap < t->n + n)
		cap *= 2;
	t->ids = xreallocarray(t->ids, cap, sizeof *t->ids);
	t->ends = xreallocarray(t->ends, cap, sizeof *t->ends);
	t->cap = cap;
}

void bpe_reserve(struct bpe *b, size_t n)
{
	if (n <= b->n)
		return;
	b->text = xreallocarray(b->text, n, sizeof *b->text);
	b->len = xreallocarray(b->len, n, sizeof *b->len);
	memset(b->text + b->n, 0, (n - b->n) * sizeof *b->text);
	memset(b->len + b->n, 0, (n - b->n) * sizeof *b->len);
	b->n = n;
	strmap_reserve(&b->index, n);
}

int bpe_add(struct bpe *b, const char *text, size_t len, int32_t id)
{
	if (b->text[id])
		return -1;
	char *copy = xstrndup(text, len);
	if (strmap_add(&b->index, copy, len, id) >= 0) {
		free(copy);
		return -1;
	}
	b->text[id] = copy;
	b->len[id] = (uint32_t)len;
	return 0;
}

static inline size_t merge_hash(uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
	return (size_t)(h ^ h >> 32);
}

void bpe_reserve_merges(struct bpe *b, size_t n)
{
	size_t size = 16;

	while (size < 2 * n)
		size *= 2;
	b->merges = xreallocarray(NULL, size, sizeof *b->merges);
	for (size_t i = 0; i < size; i++)
		b->merges[i].rank = RANK_NONE;
	b->merge_mask = size - 1;
}

static inline const struct merge_slot *merge_find(const struct bpe *b, int32_t left, int32_t right)
{
	if (left < 0 || right < 0)
		return NULL;
	for (size_t i = merge_hash((uint32_t)left, (uint32_t)right) & b->merge_mask;;
	     i = (i + 1) & b->merge_mask) {
		const struct merge_slot *m = &b->merges[i];
		if (m->rank == RANK_NONE)
			return NULL;
		if (m->left == (uint32_t)left && m->right == (uint32_t)right)
			return m;
	}
}

int bpe_add_merge(struct bpe *b, const char *left, size_t left_len, const char *right, size_t right_len)
{
	char small[128];
	size_t len = left_len + right_len;
	int32_t l = strmap_get(&b->index, left, left_len), r = strmap_get(&b->index, right, right_len);

	if (l < 0 || r < 0)
		return -1;
	char *joined = len <= sizeof small ? small : xmalloc(len);
	memcpy(joined, left, left_len);
	memcpy(joined + left_len, right, right_len);
	int32_t id = strmap_get(&b->index, joined, len);
	if (joined != small)
		free(joined);
	if (id < 0)
		return -1;
	size_t i = merge_hash((uint32_t)l, (uint32_t)r) & b->merge_mask;
	while (b->merges[i].rank != RANK_NONE &&
	       !(b->merges[i].left == (uint32_t)l && b->merges[i].right == (uint32_t)r))
		i = (i + 1) & b->merge_mask;
	b->merges[i] = (struct merge_slot){(uint32_t)l, (uint32_t)r, (uint32_t)b->n_merges++, id};
	return 0;
}

/* Whether s has U+2581 behind another character than itself. */
static bool has_inner_space(const char *s, size_t n)
{
	for (size_t i = 1; i + 3 <= n; i++) {
		if (memcmp(s + i, "\xe2\x96\x81", 3) == 0 &&
		    !(i >= 3 && memcmp(s + i - 3, "\xe2\x96\x81", 3) == 0))
			return true;
	}
	return false;
}

void bpe_finish(struct bpe *b)
{
	char name[8];

	if (!b->by_score && !b->merges)
		bpe_reserve_merges(b, 0);
	for (int i = 0; i < 256; i++) {
		snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
		b->byte[i] = b->byte_fallback ? strmap_get(&b->index, name, 6) : -1;
	}
	/* ▁ must be a token itself: an unknown ▁ would fuse with the unknown before it. */
	b->cut_at_space = !b->ignore_merges && strmap_get(&b->index, "\xe2\x96\x81", 3) >= 0;
	if (b->by_score) {
		for (size_t i = 0; i < b->n && b->cut_at_space; i++)
			b->cut_at_space = b->rank[i] == RANK_NONE || !has_inner_space(b->text[i], b->len[i]);
	} else {
		for (size_t i = 0; i <= b->merge_mask && b->cut_at_space; i++) {
			const struct merge_slot *m = &b->merges[i];
			b->cut_at_space = m->rank == RANK_NONE ||
					  !has_inner_space(b->text[m->id], b->len[m->id]);
		}
	}
}

void bpe_free(struct bpe *b)
{
	for (size_t i = 0; i < b->n; i++)
		free(b->text[i]);
	free(b->text);
	free(b->len);
	free(b->rank);
	free(b->merges);
	strmap_free(&b->index);
}

struct bpe_work *bpe_work_new(void)
{
	struct bpe_work *w = xcalloc(1, sizeof *w);

	w->cache = xcalloc(CACHE_SLOTS, sizeof *w->cache);
	return w;
}

void bpe_work_free(struct bpe_work *w)
{
	if (!w)
		return;
	free(w->symbols);
	free(w->heap);
	free(w->pieces);
	free(w->cache);
	free(w->keys);
	free(w->cache_pieces);
	free(w);
}

static void heap_push(struct bpe_work *w, struct candidate c)
{
	if (w->heap_n == w->heap_cap)
		grow(&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap);
	size_t i = w->heap_n++;
	for (; i > 0 && w->heap[(i - 1) / 2].order > c.order; i = (i - 1) / 2)
		w->heap[i] = w->heap[(i - 1) / 2];
	w->heap[i] = c;
}

static struct candidate heap_pop(struct bpe_work *w)
{
	struct candidate top = w->heap[0], last = w->heap[--w->heap_n];
	size_t i = 0;

	for (size_t child; (child = 2 * i + 1) < w->heap_n; i = child) {
		if (child + 1 < w->heap_n && w->heap[child + 1].order < w->heap[child].order)
			child++;
		if (last.order <= w->heap[child].order)
			break;
		w->heap[i] = w->heap[child];
	}
	w->heap[i] = last;
	return top;
}

/* What the symbols left and right make, -1 for nothing; its rank in *rank. */
static inline int32_t pair_id(const struct bpe *b, const char *word, const struct symbol *left,
			      const struct symbol *right, uint32_t *rank)
{
	if (b->by_score) {
		int32_t id = strmap_get(&b->index, word + left->start, (size_t)left->len + right->len);
		if (id < 0 || b->rank[id] == RANK_NONE)
			return -1;
		*rank = b->rank[id];
		return id;
	}
	const struct merge_slot *m = merge_find(b, left->id, right->id);
	if (!m)
		return -1;
	*rank = m->rank;
	return m->id;
}

static inline void pair_push(const struct bpe *b, struct bpe_work *w, const char *word, uint32_t left,
			     uint32_t right)
{
	const struct symbol *l = &w->symbols[left], *r = &w->symbols[right];
	uint32_t rank;
	int32_t id = pair_id(b, word, l, r, &rank);

	if (id >= 0)
		heap_push(w, (struct candidate){(uint64_t)rank << 32 | left, right, l->len + r->len, id});
}

static void merge_all(const struct bpe *b, struct bpe_work *w, const char *word)
{
	while (w->heap_n) {
		struct candidate c = heap_pop(w);
		uint32_t left = (uint32_t)c.order, rank;
		struct symbol *l = &w->symbols[left];

		/* Stale candidates, whose symbols merged with others since, are passed over. What counts as
		 * stale differs between the two libraries in corner cases, and ids depend on it. */
		if (!l->len || l->next == NONE)
			continue;
		struct symbol *r = &w->symbols[b->by_score ? c.right : l->next];
		if (b->by_score ? !r->len || l->len + r->len != c.len : pair_id(b, word, l, r, &rank) != c.id)
			continue;
		l->id = c.id;
		l->len += r->len;
		l->next = r->next;
		r->len = 0;
		if (l->next != NONE) {
			w->symbols[l->next].prev = left;
			pair_push(b, w, word, left, l->next);
		}
		if (l->prev != NONE)
			pair_push(b, w, word, l->prev, left);
	}
}

static bool has_bytes(const struct bpe *b, const char *s, size_t n)
{
	if (!b->byte_fallback)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (b->byte[(uint8_t)s[i]] < 0)
			return false;
	}
	return true;
}

/* The word's characters, or bytes where byte fallback takes their place, as a list of symbols. By score, a
 * character outside the vocabulary stays whole with id -1, since it may still be part of a longer piece. */
static size_t split_symbols(const struct bpe *b, struct bpe_work *w, const char *word, size_t n)
{
	size_t count = 0;

	if (w->symbols_cap < n)
		grow(&w->symbols, &w->symbols_cap, n, sizeof *w->symbols);
	for (size_t i = 0, len; i < n; i += len) {
		len = utf8_length(word[i]);
		int32_t id = strmap_get(&b->index, word + i, len);
		if (id >= 0 && b->by_score && b->rank[id] == RANK_NONE)
			id = -1;
		bool bytes = id < 0 && !b->by_score && has_bytes(b, word + i, len);
		size_t step = bytes ? 1 : len;
		for (size_t k = 0; k < len; k += step, count++) {
			w->symbols[count] = (struct symbol){(uint32_t)(i + k), (uint32_t)step,
							    (uint32_t)count - 1, (uint32_t)count + 1,
							    bytes ? b->byte[(uint8_t)word[i + k]] : id};
		}
	}
	w->symbols[0].prev = NONE;
	w->symbols[count - 1].next = NONE;
	return count;
}

static void add_piece(struct bpe_work *w, int32_t id, uint32_t end)
{
	if (w->pieces_n == w->pieces_cap)
		grow(&w->pieces, &w->pieces_cap, w->pieces_n + 1, sizeof *w->pieces);
	w->pieces[w->pieces_n++] = (struct piece){id, end};
}

static void encode_word(const struct bpe *b, struct bpe_work *w, const char *word, size_t n)
{
	w->pieces_n = 0;
	if (b->ignore_merges) {
		int32_t id = strmap_get(&b->index, word, n);
		if (id >= 0) {
			add_piece(w, id, (uint32_t)n);
			return;
		}
	}
	size_t count = split_symbols(b, w, word, n);
	w->heap_n = 0;
	for (uint32_t i = 0; i + 1 < count; i++)
		pair_push(b, w, word, i, i + 1);
	merge_all(b, w, word);

	bool unk_before = false;
	for (uint32_t i = 0; i != NONE; i = w->symbols[i].next) {
		const struct symbol *s = &w->symbols[i];
		if (s->id >= 0) {
			add_piece(w, s->id, s->start + s->len);
		} else if (has_bytes(b, word + s->start, s->len)) {
			for (uint32_t k = 0; k < s->len; k++)
				add_piece(w, b->byte[(uint8_t)word[s->start + k]], s->start + k + 1);
		} else if (b->unk >= 0) {
			if (unk_before && b->fuse_unk)
				w->pieces[w->pieces_n - 1].end = s->start + s->len;
			else
				add_piece(w, b->unk, s->start + s->len);
			unk_before = true;
			continue;
		}
		unk_before = false;
	}
}

static void cache_put(struct bpe_work *w, struct cached *slot, uint64_t hash, const char *word, size_t n)
{
	if (w->cached == CACHE_WORDS) {
		memset(w->cache, 0, CACHE_SLOTS * sizeof *w->cache);
		w->cached = w->keys_n = w->cache_pieces_n = 0;
		slot = &w->cache[hash % CACHE_SLOTS];
	}
	if (w->keys_cap < w->keys_n + n)
		grow(&w->keys, &w->keys_cap, w->keys_n + n, 1);
	memcpy(w->keys + w->keys_n, word, n);
	if (w->cache_pieces_cap < w->cache_pieces_n + w->pieces_n)
		grow(&w->cache_pieces, &w->cache_pieces_cap, w->cache_pieces_n + w->pieces_n,
		     sizeof *w->cache_pieces);
	if (w->pieces_n)
		memcpy(w->cache_pieces + w->cache_pieces_n, w->pieces, w->pieces_n * sizeof *w->pieces);
	*slot = (struct cached){hash, (uint32_t)w->keys_n, (uint32_t)w->cache_pieces_n, (uint16_t)n,
				(uint16_t)w->pieces_n};
	w->keys_n += n;
	w->cache_pieces_n += w->pieces_n;
	w->cached++;
}

/* One word, from the cache when it was seen before. */
static void encode_cached(const struct bpe *b, struct bpe_work *w, const struct aligned *a, size_t from,
			  size_t to, struct token_ids *out)
{
	const char *word = a->s + from;
	size_t n = to - from;
	const struct piece *pieces;
	size_t count;

	if (n > CACHE_LONGEST) {
		encode_word(b, w, word, n);
		pieces = w->pieces;
		count = w->pieces_n;
	} else {
		uint64_t hash = hash_string(word, n);
		struct cached *c = &w->cache[hash % CACHE_SLOTS];
		while (c->len && !(c->hash == hash && c->len == n && memcmp(w->keys + c->key, word, n) == 0))
			c = c + 1 == w->cache + CACHE_SLOTS ? w->cache : c + 1;
		if (!c->len) {
			encode_word(b, w, word, n);
			cache_put(w, c, hash, word, n);
			pieces = w->pieces;
			count = w->pieces_n;
		} else {
			pieces = w->cache_pieces + c->pieces;
			count = c->n;
		}
	}
	token_ids_reserve(out, count);
	for (size_t i = 0; i < count; i++) {
		out->ids[out->n] = pieces[i].id;
		out->ends[out->n++] = a->end[from + pieces[i].end - 1];
	}
}

/* The first ▁ in s[from, to) that has another character before it, or to. */
static size_t next_cut(const char *s, size_t from, size_t to)
{
	bool space_before = to - from >= 3 && memcmp(s + from, "\xe2\x96\x81", 3) == 0;
	size_t i = from + (space_before ? 3 : 1);

	while (i < to) {
		const char *p = memchr(s + i, 0xe2, to - i);
		if (!p)
			return to;
		size_t at = (size_t)(p - s);
		if (at != i)
			space_before = false;
		if (to - at >= 3 && (uint8_t)p[1] == 0x96 && (uint8_t)p[2] == 0x81) {
			if (!space_before)
				return at;
			i = at + 3;
		} else {
			space_before = false;
			i = at + 1;
		}
	}
	return to;
}

void bpe_encode(const struct bpe *b, struct bpe_work *w, const struct aligned *a, size_t from, size_t to,
		struct token_ids *out)
{
	while (from < to) {
		size_t end = b->cut_at_space ? next_cut(a->s, from, to) : to;
		encode_cached(b, w, a, from, end, out);
		from = end;
	}
}
