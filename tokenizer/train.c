/* Learning byte-level merges (Sennrich et al. 2016, arXiv:1508.07909), over words with their counts: every merge
 * rewrites only the words that contain its pair. */
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/strmap.h"

struct word {
	uint32_t *symbols; /* (n); points into the trainer's symbols */
	uint32_t n;
	int64_t count; /* occurrences in the texts */
};

struct pair {
	uint32_t left, right;
	int64_t count;   /* occurrences now, over all words */
	uint32_t *words; /* in which it is, or was; may repeat */
	size_t n, cap;
	bool dead; /* merged, or passed over */
};

/* A pair with the count that it had when it was put in the heap. */
struct ranked {
	int64_t count;
	uint32_t pair;
};

struct trainer {
	struct word *words;
	size_t n_words, words_cap;
	uint32_t *symbols;   /* of all words, back to back */
	struct strmap index; /* word text -> word */

	struct pair *pairs;
	size_t n_pairs, pairs_cap;
	uint32_t *slots; /* pair + 1 by (left, right); 0: free */
	size_t mask;

	struct ranked *heap; /* the best first */
	size_t heap_n, heap_cap;

	char **spelling; /* of symbol 256 + i */
	uint32_t *spelling_len;
	size_t n_merges;
	struct strmap spelt; /* every symbol's bytes -> symbol */
};

void bpe_merges_free(struct bpe_merges *m)
{
	free(m->merge);
	*m = (struct bpe_merges)BPE_MERGES_INIT;
}

static int count_words(struct trainer *t, const char *const *texts, const size_t *lengths, size_t n,
		       struct error *err)
{
	struct regex *regex;
	size_t begin, end, total = 0;
	int found = 0;

	if (regex_compile(GPT2_PATTERN, strlen(GPT2_PATTERN), &regex, err))
		return -1;
	struct regex_match *match = regex_match_new();
	for (size_t i = 0; i < n && found >= 0; i++) {
		size_t valid = utf8_valid(texts[i], lengths[i]);
		if (valid != lengths[i]) {
			found = error_set(err, ERR_USAGE, "text %zu is not valid UTF-8 at byte %zu", i,
					  valid);
			break;
		}
		for (size_t at = 0;
		     (found = regex_next(regex, match, texts[i], lengths[i], at, &begin, &end, err)) > 0;
		     at = end) {
			int32_t known = strmap_add(&t->index, texts[i] + begin, end - begin,
						   (int32_t)t->n_words);
			if (known >= 0) {
				t->words[known].count++;
				continue;
			}
			grow(&t->words, &t->words_cap, t->n_words + 1, sizeof *t->words);
			t->words[t->n_words++] = (struct word){NULL, (uint32_t)(end - begin), 1};
			total += end - begin;
		}
	}
	regex_match_free(match);
	regex_free(regex);
	if (found < 0)
		return -1;
	t->symbols = xmalloc(total * sizeof *t->symbols);
	uint32_t *next = t->symbols;
	for (size_t i = 0; i < t->n_words; i++) {
		t->words[i].symbols = next;
		next += t->words[i].n;
	}
	for (size_t i = 0; t->index.slots && i <= t->index.mask; i++) {
		const struct strmap_slot *s = &t->index.slots[i];
		for (uint32_t k = 0; s->s && k < s->len; k++)
			t->words[s->id].symbols[k] = (uint8_t)s->s[k];
	}
	return 0;
}

static size_t pair_hash(uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
	return (size_t)(h ^ h >> 32);
}

static uint32_t find_pair(struct trainer *t, uint32_t left, uint32_t right)
{
	if (2 * (t->n_pairs + 1) > t->mask + 1 || !t->slots) {
		size_t size = t->slots ? 2 * (t->mask + 1) : 4096;
		free(t->slots);
		t->slots = xcalloc(size, sizeof *t->slots);
		t->mask = size - 1;
		for (size_t k = 0; k < t->n_pairs; k++) {
			size_t i = pair_hash(t->pairs[k].left, t->pairs[k].right) & t->mask;
			while (t->slots[i])
				i = (i + 1) & t->mask;
			t->slots[i] = (uint32_t)k + 1;
		}
	}
	size_t i = pair_hash(left, right) & t->mask;
	for (; t->slots[i]; i = (i + 1) & t->mask) {
		const struct pair *p = &t->pairs[t->slots[i] - 1];
		if (p->left == left && p->right == right)
			return t->slots[i] - 1;
	}
	grow(&t->pairs, &t->pairs_cap, t->n_pairs + 1, sizeof *t->pairs);
	t->pairs[t->n_pairs] = (struct pair){.left = left, .right = right};
	t->slots[i] = (uint32_t)++t->n_pairs;
	return (uint32_t)t->n_pairs - 1;
}

/* Whether a is merged before b. */
static bool better(const struct trainer *t, struct ranked a, struct ranked b)
{
	const struct pair *p = &t->pairs[a.pair], *q = &t->pairs[b.pair];

	if (a.count != b.count)
		return a.count > b.count;
	return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static void heap_push(struct trainer *t, uint32_t pair)
{
	struct ranked r = {t->pairs[pair].count, pair};

	grow(&t->heap, &t->heap_cap, t->heap_n + 1, sizeof *t->heap);
	size_t i = t->heap_n++;
	for (; i > 0 && better(t, r, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
		t->heap[i] = t->heap[(i - 1) / 2];
	t->heap[i] = r;
}

static struct ranked heap_pop(struct trainer *t)
{
	struct ranked top = t->heap[0], last = t->heap[--t->heap_n];
	size_t i = 0;

	for (size_t child; (child = 2 * i + 1) < t->heap_n; i = child) {
		if (child + 1 < t->heap_n && better(t, t->heap[child + 1], t->heap[child]))
			child++;
		if (!better(t, t->heap[child], last))
			break;
		t->heap[i] = t->heap[child];
	}
	t->heap[i] = last;
	return top;
}

/* Adds (sign 1) or takes away (-1) the pairs of word w. Pairs with symbol `made` are new in w: they learn of it, and,
 * grown, are ranked again. Counts that fall are seen to when they reach the top of the heap. */
static void count_pairs(struct trainer *t, uint32_t w, int sign, uint32_t made)
{
	const struct word *word = &t->words[w];

	for (uint32_t i = 0; i + 1 < word->n; i++) {
		uint32_t left = word->symbols[i], right = word->symbols[i + 1],
			 at = find_pair(t, left, right);
		struct pair *p = &t->pairs[at];
		p->count += sign * word->count;
		if (sign < 0 || (made != UINT32_MAX && left != made && right != made))
			continue;
		if (p->n == 0 || p->words[p->n - 1] != w) {
			grow(&p->words, &p->cap, p->n + 1, sizeof *p->words);
			p->words[p->n++] = w;
		}
		if (made != UINT32_MAX)
			heap_push(t, at);
	}
}

static void merge_in_word(struct trainer *t, uint32_t w, uint32_t left, uint32_t right, uint32_t made)
{
	struct word *word = &t->words[w];
	uint32_t n = 0;
	bool found = false;

	for (uint32_t i = 0; i + 1 < word->n && !found; i++)
		found = word->symbols[i] == left && word->symbols[i + 1] == right;
	if (!found)
		return;
	count_pairs(t, w, -1, made);
	for (uint32_t i = 0; i < word->n; n++) {
		bool here = i + 1 < word->n && word->symbols[i] == left && word->symbols[i + 1] == right;
		word->symbols[n] = here ? made : word->symbols[i];
		i += here ? 2 : 1;
	}
	word->n = n;
	count_pairs(t, w, 1, made);
}

/* Gives symbol 256 + n_merges the bytes of both; false when some symbol has them already. */
static bool spell(struct trainer *t, uint32_t left, uint32_t right)
{
	char bytes[2] = {(char)left, (char)right};
	const char *l = left < 256 ? &bytes[0] : t->spelling[left - 256];
	const char *r = right < 256 ? &bytes[1] : t->spelling[right - 256];
	size_t ln = left < 256 ? 1 : t->spelling_len[left - 256],
	       rn = right < 256 ? 1 : t->spelling_len[right - 256];
	char *joined = xmalloc(ln + rn);

	memcpy(joined, l, ln);
	memcpy(joined + ln, r, rn);
	if (strmap_add(&t->spelt, joined, ln + rn, (int32_t)t->n_merges) >= 0) {
		free(joined);
		return false;
	}
	t->spelling[t->n_merges] = joined;
	t->spelling_len[t->n_merges] = (uint32_t)(ln + rn);
	t->n_merges++;
	return true;
}

static void learn(struct trainer *t, size_t n_merges, struct bpe_merges *out)
{
	for (uint32_t w = 0; w < t->n_words; w++)
		count_pairs(t, w, 1, UINT32_MAX);
	for (uint32_t i = 0; i < t->n_pairs; i++)
		heap_push(t, i);
	while (out->n < n_merges && t->heap_n) {
		struct ranked top = heap_pop(t);
		struct pair *p = &t->pairs[top.pair];
		if (p->dead || p->count < 2)
			continue;
		if (p->count != top.count) {
			if (p->count < top.count)
				heap_push(t, top.pair);
			continue; /* else it is in the heap with its present count too */
		}
		p->dead = true;
		uint32_t left = p->left, right = p->right;
		if (!spell(t, left, right))
			continue;
		grow(&out->merge, &out->cap, out->n + 1, sizeof *out->merge);
		out->merge[out->n++] = (struct bpe_merge){left, right};
		/* The list is taken out first: counting makes new pairs, which may move them all. */
		uint32_t *words = p->words;
		size_t n = p->n;
		p->words = NULL;
		p->n = p->cap = 0;
		for (size_t i = 0; i < n; i++)
			merge_in_word(t, words[i], left, right, 255 + (uint32_t)out->n);
		free(words);
	}
}

int tokenizer_train_bpe(const char *const *texts, const size_t *lengths, size_t n, size_t n_merges,
			struct bpe_merges *out, struct error *err)
{
	struct trainer t = {0};
	size_t limit = (size_t)1 << 20;
	int failed = 0;

	bpe_merges_free(out);
	if (n_merges > limit)
		return error_set(err, ERR_USAGE, "%zu merges are too many to learn (at most %zu)", n_merges,
				 limit);
	failed = count_words(&t, texts, lengths, n, err);
	if (!failed) {
		t.spelling = xcalloc(n_merges, sizeof *t.spelling);
		t.spelling_len = xcalloc(n_merges, sizeof *t.spelling_len);
		learn(&t, n_merges, out);
	}
	for (size_t i = 0; i < t.n_pairs; i++)
		free(t.pairs[i].words);
	for (size_t i = 0; i < t.n_merges; i++)
		free(t.spelling[i]);
	free(t.spelling);
	free(t.spelling_len);
	free(t.words);
	free(t.symbols);
	free(t.pairs);
	free(t.slots);
	free(t.heap);
	strmap_free(&t.index);
	strmap_free(&t.spelt);
	return failed;
}
