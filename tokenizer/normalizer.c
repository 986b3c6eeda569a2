#include "tokenizer/normalizer.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "base/str.h"
#include "tokenizer/chars.h"

struct normalizer *normalizers_add(struct normalizers *ns, enum normalizer_kind kind)
{
	grow(&ns->list, &ns->cap, ns->n + 1, sizeof *ns->list);
	ns->list[ns->n] = (struct normalizer){.kind = kind};
	return &ns->list[ns->n++];
}

void normalizers_free(struct normalizers *ns)
{
	for (size_t i = 0; i < ns->n; i++) {
		free(ns->list[i].text);
		free(ns->list[i].content);
		regex_free(ns->list[i].regex);
	}
	free(ns->list);
	*ns = (struct normalizers){NULL, 0, 0};
}

int normalizer_form(const char *name)
{
	int base = UTF8PROC_STABLE;

	if (strcmp(name, "NFC") == 0)
		return base | UTF8PROC_COMPOSE;
	if (strcmp(name, "NFD") == 0)
		return base | UTF8PROC_DECOMPOSE;
	if (strcmp(name, "NFKC") == 0)
		return base | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
	if (strcmp(name, "NFKD") == 0)
		return base | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
	return -1;
}

static void replace(const struct normalizer *z, const struct aligned *a, struct aligned *out)
{
	size_t from = 0;

	if (z->text_len == 1 && z->content_len == 3) { /* " " -> "▁": one pass, without a search per space */
		aligned_reserve(out, 3 * a->n);
		for (size_t i = 0; i < a->n; i++) {
			if (a->s[i] != z->text[0]) {
				out->s[out->n] = a->s[i];
				out->end[out->n++] = a->end[i];
				continue;
			}
			for (size_t k = 0; k < 3; k++) {
				out->s[out->n] = z->content[k];
				out->end[out->n++] = a->end[i];
			}
		}
		return;
	}
	while (z->text_len && from < a->n) {
		const char *p = memmem(a->s + from, a->n - from, z->text, z->text_len);
		if (!p)
			break;
		size_t at = (size_t)(p - a->s);
		aligned_copy(out, a, from, at);
		from = at + z->text_len;
		aligned_add(out, z->content, z->content_len, a->end[from - 1]);
	}
	aligned_copy(out, a, from, a->n);
}

static int replace_regex(const struct normalizer *z, const struct aligned *a, struct aligned *out,
			 struct regex_match *m, struct error *err)
{
	size_t done = 0, from = 0, begin, end;
	int found;

	while (from <= a->n && (found = regex_next(z->regex, m, a->s, a->n, from, &begin, &end, err)) != 0) {
		if (found < 0)
			return -1;
		aligned_copy(out, a, done, begin);
		aligned_add(out, z->content, z->content_len, aligned_begin(a, end));
		done = end;
		from = end > begin ? end : end + (end < a->n ? utf8_length(a->s[end]) : 1);
	}
	aligned_copy(out, a, done, a->n);
	return 0;
}

static void strip(const struct normalizer *z, const struct aligned *a, struct aligned *out)
{
	size_t from = 0, to = a->n;
	uint32_t cp;

	while (z->left && from < to) {
		size_t len = utf8_decode(a->s + from, to - from, &cp);
		if (!char_is_space(cp))
			break;
		from += len;
	}
	while (z->right && from < to) {
		size_t at = to - 1;
		while (((uint8_t)a->s[at] & 0xc0) == 0x80)
			at--;
		utf8_decode(a->s + at, to - at, &cp);
		if (!char_is_space(cp))
			break;
		to = at;
	}
	aligned_copy(out, a, from, to);
}

/* Whether normalization never joins cp with what is before it: no mark, and no part of a Hangul or Kirat Rai
 * syllable that composes with its left neighbour. */
static bool starts_run(uint32_t cp)
{
	if (cp < 0x300)
		return true;
	if ((cp >= 0x1160 && cp <= 0x11ff) || (cp >= 0xd7b0 && cp <= 0xd7ff) ||
	    (cp >= 0x16d40 && cp <= 0x16d7f))
		return false;
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
	return c != UTF8PROC_CATEGORY_MN && c != UTF8PROC_CATEGORY_MC && c != UTF8PROC_CATEGORY_ME &&
	       c != UTF8PROC_CATEGORY_CN;
}

/* A run is normalised as a whole: all that it becomes ends where it ends, unless it does not change. */
static int unicode(const struct normalizer *z, const struct aligned *a, struct aligned *out,
		   struct error *err)
{
	uint32_t cp;

	for (size_t from = 0, to; from < a->n; from = to) {
		bool ascii = (uint8_t)a->s[from] < 0x80;
		to = from + utf8_length(a->s[from]);
		for (size_t len; to < a->n; to += len) {
			len = utf8_decode(a->s + to, a->n - to, &cp);
			if (starts_run(cp))
				break;
			ascii = false;
		}
		if (ascii) {
			aligned_copy(out, a, from, to);
			continue;
		}
		utf8proc_uint8_t *made = NULL;
		utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)a->s + from,
						  (utf8proc_ssize_t)(to - from), &made,
						  (utf8proc_option_t)z->form);
		if (n < 0) {
			free(made);
			return error_set(err, ERR_USAGE,
					 "Unicode normalization failed at byte %u of the text: %s",
					 (unsigned)aligned_begin(a, from), utf8proc_errmsg(n));
		}
		if ((size_t)n == to - from && memcmp(made, a->s + from, (size_t)n) == 0)
			aligned_copy(out, a, from, to);
		else
			aligned_add(out, (char *)made, (size_t)n, a->end[to - 1]);
		free(made);
	}
	return 0;
}

static void map_chars(const struct normalizer *z, const struct aligned *a, struct aligned *out)
{
	char bytes[4];
	uint32_t cp;

	for (size_t i = 0, len; i < a->n; i += len) {
		len = utf8_decode(a->s + i, a->n - i, &cp);
		utf8proc_int32_t c = (utf8proc_int32_t)cp;
		if (z->kind == NORMALIZE_STRIP_ACCENTS) {
			utf8proc_category_t k = utf8proc_category(c);
			if (k < UTF8PROC_CATEGORY_MN || k > UTF8PROC_CATEGORY_ME)
				aligned_copy(out, a, i, i + len);
			continue;
		}
		if (cp == 0x130) { /* the only character whose lower case is two: i and a dot above */
			aligned_add(out, "i\xcc\x87", 3, a->end[i + len - 1]);
			continue;
		}
		uint32_t lower = (uint32_t)utf8proc_tolower(c);
		if (lower == cp)
			aligned_copy(out, a, i, i + len);
		else
			aligned_add(out, bytes, utf8_encode(lower, bytes), a->end[i + len - 1]);
	}
}

int normalizers_apply(const struct normalizers *ns, struct aligned *a, struct aligned *tmp,
		      struct regex_match *m, struct error *err)
{
	for (size_t i = 0; i < ns->n; i++) {
		const struct normalizer *z = &ns->list[i];

		tmp->n = 0;
		tmp->base = a->base;
		switch (z->kind) {
		case NORMALIZE_REPLACE: replace(z, a, tmp); break;
		case NORMALIZE_REPLACE_REGEX:
			if (replace_regex(z, a, tmp, m, err))
				return -1;
			break;
		case NORMALIZE_PREPEND:
			if (a->n == 0)
				break;
			aligned_add(tmp, z->content, z->content_len, a->base);
			aligned_copy(tmp, a, 0, a->n);
			break;
		case NORMALIZE_STRIP: strip(z, a, tmp); break;
		case NORMALIZE_UNICODE:
			if (unicode(z, a, tmp, err))
				return -1;
			break;
		case NORMALIZE_LOWERCASE:
		case NORMALIZE_STRIP_ACCENTS: map_chars(z, a, tmp); break;
		}
		aligned_swap(a, tmp);
	}
	return 0;
}
