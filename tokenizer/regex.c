#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

/* Unicode White_Space, which Oniguruma's \s is. PCRE2's has U+180E besides. */
#define SPACE                                                                                                \
	"\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"     \
	"3000}"
/* Oniguruma's \w. PCRE2's lacks combining marks, or not, depending on its version. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

struct regex {
	pcre2_code *code;
};

struct regex_match {
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack; /* the default of 32 KiB is too small for long words */
};

/* Writes one escape, of which p points behind the backslash. */
static int translate_escape(char c, bool in_class, struct strbuf *out, struct error *err)
{
	const char *set = c == 's' || c == 'S'   ? SPACE
			  : c == 'w' || c == 'W' ? WORD
			  : c == 'h'             ? "0-9a-fA-F"
						 : NULL;

	if (set && (c == 'S' || c == 'W')) {
		if (in_class && c == 'W')
			return error_set(err, ERR_USAGE, "\\W inside [] is not supported");
		if (in_class)
			strbuf_adds(out, "\\S");
		else
			strbuf_addf(out, "[^%s]", set);
	} else if (set) {
		strbuf_addf(out, in_class ? "%s" : "[%s]", set);
	} else if (c == 'H' || c == 'Z' || c == 'G' || c == 'R' || c == 'X' || c == 'K' || c == 'g' ||
		   c == 'y') {
		return error_set(err, ERR_USAGE, "the escape \\%c is not supported", c);
	} else {
		strbuf_addc(out, '\\');
		strbuf_addc(out, c);
	}
	return 0;
}

static int translate(const char *p, size_t n, struct strbuf *out, struct error *err)
{
	bool in_class = false;
	size_t class_start = 0;

	for (size_t i = 0; i < n; i++) {
		char c = p[i];
		if (c == '\\' && i + 1 < n) {
			if (translate_escape(p[++i], in_class, out, err))
				return error_context(err, "at byte %zu of the pattern", i - 1);
			continue;
		}
		if (!in_class && c == '[') {
			in_class = true;
			class_start = i + 1;
			if (class_start < n && p[class_start] == '^')
				class_start++;
		} else if (in_class && c == ']' && i > class_start) {
			in_class = false;
		} else if (in_class && c == '[' && !(i + 1 < n && p[i + 1] == ':')) {
			return error_set(err, ERR_USAGE,
					 "a [] inside [] at byte %zu of the pattern is not supported", i);
		} else if (in_class && c == '[') {
			const char *close = memmem(p + i, n - i, ":]", 2);
			if (close) {
				strbuf_add(out, p + i, (size_t)(close + 2 - (p + i)));
				i = (size_t)(close + 1 - p);
				continue;
			}
		} else if (in_class && c == '&' && i + 1 < n && p[i + 1] == '&') {
			return error_set(err, ERR_USAGE,
					 "&& inside [] at byte %zu of the pattern is not supported", i);
		}
		strbuf_addc(out, c);
	}
	return 0;
}

int regex_compile(const char *pattern, size_t n, struct regex **out, struct error *err)
{
	struct strbuf b = STRBUF_INIT;
	PCRE2_UCHAR text[160];
	PCRE2_SIZE at;
	int code;

	if (utf8_valid(pattern, n) != n)
		return error_set(err, ERR_USAGE, "the pattern is not valid UTF-8");
	if (translate(pattern, n, &b, err)) {
		strbuf_free(&b);
		return -1;
	}
	pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
	pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
	pcre2_code *re = pcre2_compile((PCRE2_SPTR)(b.data ? b.data : ""), b.len,
				       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
				       &code, &at, cc);
	pcre2_compile_context_free(cc);
	if (!re) {
		pcre2_get_error_message(code, text, sizeof text);
		error_set(err, ERR_USAGE, "the pattern does not compile: %s near \"%.40s\"", (char *)text,
			  b.data && at < b.len ? b.data + at : "its end");
		strbuf_free(&b);
		return -1;
	}
	strbuf_free(&b);
	pcre2_jit_compile(
		re, PCRE2_JIT_COMPLETE); /* where there is no JIT, the interpreter gives the same matches */
	*out = xmalloc(sizeof **out);
	(*out)->code = re;
	return 0;
}

void regex_free(struct regex *r)
{
	if (!r)
		return;
	pcre2_code_free(r->code);
	free(r);
}

struct regex_match *regex_match_new(void)
{
	struct regex_match *m = xmalloc(sizeof *m);

	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	m->stack = pcre2_jit_stack_create((size_t)32 << 10, (size_t)16 << 20, NULL);
	pcre2_jit_stack_assign(m->context, NULL, m->stack);
	return m;
}

void regex_match_free(struct regex_match *m)
{
	if (!m)
		return;
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	pcre2_jit_stack_free(m->stack);
	free(m);
}

int regex_next(const struct regex *r, struct regex_match *m, const char *s, size_t n, size_t from,
	       size_t *begin, size_t *end, struct error *err)
{
	int rc = pcre2_match(r->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
	const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->data);

	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0) {
		PCRE2_UCHAR text[160];
		pcre2_get_error_message(rc, text, sizeof text);
		return error_set(err, ERR_USAGE, "the tokenizer's pattern failed at byte %zu of the text: %s",
				 from, (char *)text);
	}
	*begin = v[0];
	*end = v[1] < v[0] ? v[0] : v[1]; /* \K could put them the wrong way round */
	return 1;
}
