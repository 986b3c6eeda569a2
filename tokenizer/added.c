#include "tokenizer/added.h"

#include <stdlib.h>

#include "base/str.h"
#include "tokenizer/chars.h"

static uint32_t matcher_node(struct matcher *m, uint8_t byte, uint32_t sibling)
{
	if (m->n == 0)
		m->n = 1;
	grow(&m->nodes, &m->cap, m->n + 1, sizeof *m->nodes);
	m->nodes[m->n] = (struct matcher_node){0, sibling, -1, byte};
	return (uint32_t)m->n++;
}

/* Of two tokens with the same string the first stays. */
static void matcher_add(struct matcher *m, const char *s, size_t len, int32_t token)
{
	uint32_t at = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t byte = (uint8_t)s[i];
		uint32_t first = i ? m->nodes[at].child : m->first[byte], next = first;
		while (next && m->nodes[next].byte != byte)
			next = m->nodes[next].sibling;
		if (!next) {
			next = matcher_node(m, byte, first);
			if (i)
				m->nodes[at].child = next;
			else
				m->first[byte] = next;
		}
		at = next;
	}
	if (at && m->nodes[at].token < 0)
		m->nodes[at].token = token;
}

int added_add(struct added *a, struct added_token token)
{
	token.content = xstrndup(token.content, token.len);
	if (strmap_add(&a->index, token.content, token.len, (int32_t)a->n) >= 0) {
		free(token.content);
		return -1;
	}
	grow(&a->list, &a->cap, a->n + 1, sizeof *a->list);
	a->list[a->n++] = token;
	return 0;
}

void added_search_raw(struct added *a, size_t i)
{
	matcher_add(&a->raw, a->list[i].content, a->list[i].len, (int32_t)i);
}

void added_search_normalized(struct added *a, size_t i, const char *text, size_t len)
{
	char *copy = xstrndup(text, len);

	grow(&a->owned, &a->owned_cap, a->n_owned + 1, sizeof *a->owned);
	a->owned[a->n_owned++] = copy;
	matcher_add(&a->normalized, copy, len, (int32_t)i);
}

void added_free(struct added *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->list[i].content);
	for (size_t i = 0; i < a->n_owned; i++)
		free(a->owned[i]);
	free(a->list);
	free(a->owned);
	free(a->raw.nodes);
	free(a->normalized.nodes);
	strmap_free(&a->index);
}

/* The longest string of m at s[at, n), -1 when there is none. */
static int32_t longest_at(const struct matcher *m, const char *s, size_t n, size_t at, size_t *len)
{
	int32_t token = -1;
	size_t i = at;

	for (uint32_t node = m->first[(uint8_t)s[at]]; node;) {
		i++;
		if (m->nodes[node].token >= 0) {
			token = m->nodes[node].token;
			*len = i - at;
		}
		node = i < n ? m->nodes[node].child : 0;
		while (node && m->nodes[node].byte != (uint8_t)s[i])
			node = m->nodes[node].sibling;
	}
	return token;
}

/* The start of the character that ends at s[at - 1]. */
static size_t char_before(const char *s, size_t at)
{
	do
		at--;
	while (((uint8_t)s[at] & 0xc0) == 0x80);
	return at;
}

static bool stands_alone(const char *s, size_t n, size_t begin, size_t end)
{
	uint32_t cp;

	if (begin > 0) {
		size_t at = char_before(s, begin);
		utf8_decode(s + at, begin - at, &cp);
		if (char_is_word(cp))
			return false;
	}
	if (end < n) {
		utf8_decode(s + end, n - end, &cp);
		if (char_is_word(cp))
			return false;
	}
	return true;
}

ptrdiff_t added_next(const struct added *a, const struct matcher *m, bool plain, const char *s, size_t n,
		     size_t from, size_t *begin, size_t *end)
{
	uint32_t cp;
	size_t len = 0;

	if (m->n == 0)
		return -1;
	for (size_t at = from; at < n; at++) {
		if (!m->first[(uint8_t)s[at]])
			continue;
		int32_t found = longest_at(m, s, n, at, &len);
		if (found < 0)
			continue;
		const struct added_token *t = &a->list[found];
		*begin = at;
		*end = at + len;
		/* A match that does not count still uses up its text, as in `tokenizers`. */
		if ((plain && t->special) || (t->single_word && !stands_alone(s, n, *begin, *end))) {
			at = *end - 1;
			continue;
		}
		while (t->lstrip && *begin > from) {
			size_t before = char_before(s, *begin);
			utf8_decode(s + before, *begin - before, &cp);
			if (!char_is_space(cp))
				break;
			*begin = before;
		}
		while (t->rstrip && *end < n) {
			size_t step = utf8_decode(s + *end, n - *end, &cp);
			if (!char_is_space(cp))
				break;
			*end += step;
		}
		return found;
	}
	return -1;
}
