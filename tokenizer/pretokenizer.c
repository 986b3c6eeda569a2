#include "tokenizer/pretokenizer.h"

#include <stdlib.h>

#include "base/str.h"
#include "tokenizer/chars.h"

struct pretokenizer *pretokenizers_add(struct pretokenizers *ps, enum pretokenizer_kind kind)
{
	grow(&ps->list, &ps->cap, ps->n + 1, sizeof *ps->list);
	ps->list[ps->n] = (struct pretokenizer){.kind = kind};
	return &ps->list[ps->n++];
}

void pretokenizers_free(struct pretokenizers *ps)
{
	for (size_t i = 0; i < ps->n; i++) {
		free(ps->list[i].text);
		regex_free(ps->list[i].regex);
	}
	free(ps->list);
	*ps = (struct pretokenizers){NULL, 0, 0};
}

static void add_span(struct spans *out, size_t from, size_t to)
{
	if (from == to)
		return;
	if (out->n == out->cap)
		grow(&out->list, &out->cap, out->n + 1, sizeof *out->list);
	out->list[out->n++] = (struct span){from, to};
}

/* The pieces of one span, matches and what is between them, arriving in order; joined as the behavior says.
 */
struct splitter {
	const struct pretokenizer *p;
	struct spans *out;
	size_t from, to; /* the piece that is not written yet; from == to: none */
	bool match_before;
};

static void splitter_piece(struct splitter *s, size_t from, size_t to, bool match)
{
	bool joins = false;

	if (from == to)
		return;
	match ^= s->p->invert;
	switch (s->p->behavior) {
	case SPLIT_REMOVED:
		if (match)
			return;
		break;
	case SPLIT_ISOLATED: break;
	case SPLIT_CONTIGUOUS: joins = s->match_before == match; break;
	case SPLIT_MERGED_PREVIOUS: joins = match && !s->match_before; break;
	case SPLIT_MERGED_NEXT: joins = !match && s->match_before; break;
	}
	if (!joins || s->from == s->to) {
		add_span(s->out, s->from, s->to);
		s->from = from;
	}
	s->to = to;
	s->match_before = match;
}

static int split_span(const struct pretokenizer *p, const struct aligned *a, struct span w, struct spans *out,
		      struct regex_match *m, struct error *err)
{
	struct splitter s = {.p = p, .out = out, .from = w.from, .to = w.from};
	const char *text = a->s + w.from;
	size_t n = w.to - w.from, done = 0, begin, end;
	uint32_t cp;

	for (size_t from = 0; from < n;) {
		if (p->kind == PRETOKENIZE_SPLIT_CLASS) {
			begin = from;
			end = from + utf8_decode(text + from, n - from, &cp);
			from = end;
			if (!p->in_class(cp))
				continue;
		} else if (p->kind == PRETOKENIZE_SPLIT_REGEX || p->kind == PRETOKENIZE_BYTE_LEVEL) {
			int found = regex_next(p->regex, m, text, n, from, &begin, &end, err);
			if (found < 0)
				return -1;
			if (!found)
				break;
			from = end > begin ? end : end + (end < n ? utf8_length(text[end]) : 1);
			if (end == begin)
				continue;
		} else {
			const char *hit = p->text_len ? memmem(text + from, n - from, p->text, p->text_len)
						      : NULL;
			if (!hit)
				break;
			begin = (size_t)(hit - text);
			from = end = begin + p->text_len;
		}
		splitter_piece(&s, w.from + done, w.from + begin, false);
		splitter_piece(&s, w.from + begin, w.from + end, true);
		done = end;
	}
	splitter_piece(&s, w.from + done, w.to, false);
	add_span(out, s.from, s.to);
	return 0;
}

/* Runs of word characters, and runs of what is neither word nor space. */
static void split_words(const struct aligned *a, struct span w, struct spans *out)
{
	size_t start = w.from;
	int before = 0; /* 0 space, 1 word, 2 other */
	uint32_t cp;

	for (size_t i = w.from, len; i < w.to; i += len) {
		len = utf8_decode(a->s + i, w.to - i, &cp);
		int now = char_is_word(cp) ? 1 : char_is_space(cp) ? 0 : 2;
		if (now != before) {
			if (before)
				add_span(out, start, i);
			start = i;
			before = now;
		}
	}
	if (before)
		add_span(out, start, w.to);
}

static int metaspace(const struct pretokenizer *p, const struct aligned *a, struct span w,
		     struct aligned *out, struct spans *words, struct regex_match *m, struct error *err)
{
	struct span made = {out->n, 0};
	bool starts = a->s[w.from] == ' ' ||
		      (w.to - w.from >= p->text_len && memcmp(a->s + w.from, p->text, p->text_len) == 0);
	uint32_t begin = aligned_begin(a, w.from);

	if (!starts && (p->prepend == PREPEND_ALWAYS || (p->prepend == PREPEND_FIRST && begin == 0)))
		aligned_add(out, p->text, p->text_len, begin);
	for (size_t i = w.from; i < w.to; i++) {
		if (a->s[i] == ' ')
			aligned_add(out, p->text, p->text_len, a->end[i]);
		else
			aligned_copy(out, a, i, i + 1);
	}
	made.to = out->n;
	if (!p->split) {
		add_span(words, made.from, made.to);
		return 0;
	}
	struct pretokenizer cut = {.kind = PRETOKENIZE_SPLIT_TEXT,
				   .behavior = SPLIT_MERGED_NEXT,
				   .text = p->text,
				   .text_len = p->text_len};
	return split_span(&cut, out, made, words, m, err);
}

/* Writes bytes [from, to) of a in the byte-level alphabet. */
static void write_bytes(const struct aligned *a, size_t from, size_t to, struct aligned *out)
{
	aligned_reserve(out, 2 * (to - from));
	for (size_t i = from; i < to; i++) {
		uint32_t cp = byte_level_char((uint8_t)a->s[i]);
		if (cp >= 0x80) {
			out->s[out->n] = (char)(0xc0 | cp >> 6);
			out->end[out->n++] = a->end[i];
			cp = 0x80 | (cp & 0x3f);
		}
		out->s[out->n] = (char)cp;
		out->end[out->n++] = a->end[i];
	}
}

static int byte_level(const struct pretokenizer *p, const struct aligned *a, const struct spans *in,
		      struct aligned *out, struct spans *words, struct regex_match *m, struct error *err)
{
	struct aligned spaced = {.base = a->base};
	struct spans cut = {NULL, 0, 0};
	const struct aligned *source = a;
	int failed = 0;

	for (size_t i = 0; i < in->n && !failed; i++) {
		struct span w = in->list[i];
		if (p->add_space && a->s[w.from] != ' ') {
			spaced.n = 0;
			aligned_add(&spaced, " ", 1, aligned_begin(a, w.from));
			aligned_copy(&spaced, a, w.from, w.to);
			source = &spaced;
			w = (struct span){0, spaced.n};
		} else {
			source = a;
		}
		cut.n = 0;
		if (p->split)
			failed = split_span(p, source, w, &cut, m, err);
		else
			add_span(&cut, w.from, w.to);
		for (size_t k = 0; k < cut.n; k++) {
			size_t from = out->n;
			write_bytes(source, cut.list[k].from, cut.list[k].to, out);
			add_span(words, from, out->n);
		}
	}
	free(spaced.s);
	free(spaced.end);
	free(cut.list);
	return failed;
}

int pretokenizers_apply(const struct pretokenizers *ps, struct aligned *a, struct aligned *tmp,
			struct spans *words, struct spans *spare, struct regex_match *m, struct error *err)
{
	words->n = 0;
	add_span(words, 0, a->n);
	for (size_t i = 0; i < ps->n; i++) {
		const struct pretokenizer *p = &ps->list[i];
		spare->n = 0;
		tmp->n = 0;
		tmp->base = a->base;
		if (p->kind == PRETOKENIZE_BYTE_LEVEL) {
			if (byte_level(p, a, words, tmp, spare, m, err))
				return -1;
			aligned_swap(a, tmp);
		} else {
			for (size_t k = 0; k < words->n; k++) {
				struct span w = words->list[k];
				if (p->kind == PRETOKENIZE_WORDS)
					split_words(a, w, spare);
				else if (p->kind == PRETOKENIZE_METASPACE
						 ? metaspace(p, a, w, tmp, spare, m, err)
						 : split_span(p, a, w, spare, m, err))
					return -1;
			}
			if (p->kind == PRETOKENIZE_METASPACE)
				aligned_swap(a, tmp);
		}
		struct spans t = *words;
		*words = *spare;
		*spare = t;
	}
	return 0;
}
