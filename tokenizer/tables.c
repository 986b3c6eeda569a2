#include "tokenizer/tables.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/internal.h"

struct cursor {
	const char *p, *end, *start;
	const char *path, *key; /* for errors */
	struct error *err;
};

struct text {
	const char *s;
	size_t n;
};

static int bad(const struct cursor *c, const char *what)
{
	return error_set(c->err, ERR_USAGE, "%s: model: \"%s\" is malformed at byte %zu: %s", c->path, c->key,
			 (size_t)(c->p - c->start), what);
}

static char peek(struct cursor *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
		c->p++;
	return c->p < c->end ? *c->p : '\0';
}

static bool take(struct cursor *c, char want)
{
	if (peek(c) != want || c->p == c->end)
		return false;
	c->p++;
	return true;
}

/* Moves over a string, its quotes included. */
static bool skip_string(struct cursor *c)
{
	if (!take(c, '"'))
		return false;
	for (; c->p < c->end && *c->p != '"'; c->p++) {
		if (*c->p == '\\')
			c->p++;
	}
	if (c->p >= c->end)
		return false;
	c->p++;
	return true;
}

/* Moves over a value of any type; whether it is well-formed inside is for the parser that reads it. */
static bool skip_value(struct cursor *c)
{
	size_t depth = 0;

	do {
		char first = peek(c);
		if (first == '"') {
			if (!skip_string(c))
				return false;
			continue;
		}
		if (c->p == c->end)
			return false;
		if (first == '{' || first == '[') {
			depth++;
			c->p++;
		} else if (first == '}' || first == ']') {
			if (depth-- == 0)
				return false;
			c->p++;
		} else if (first == ',' || first == ':') {
			if (depth == 0)
				return false;
			c->p++;
		} else {
			while (c->p < c->end && !memchr(",:]}[{\" \n\r\t", *c->p, 11))
				c->p++;
		}
	} while (depth > 0);
	return true;
}

/* Moves to the value of a member of the object at c; false when there is none. */
static bool find_member(struct cursor *c, const char *key)
{
	size_t n = strlen(key);

	if (!take(c, '{'))
		return false;
	while (peek(c) == '"') {
		const char *name = c->p + 1;
		if (!skip_string(c))
			return false;
		bool found = (size_t)(c->p - 1 - name) == n && memcmp(name, key, n) == 0;
		if (!take(c, ':'))
			return false;
		if (found)
			return true;
		if (!skip_value(c) || !take(c, ','))
			return false;
	}
	return false;
}

static int hex4(struct cursor *c, uint32_t *out)
{
	*out = 0;
	for (int i = 0; i < 4; i++, c->p++) {
		char d = c->p < c->end ? *c->p : '\0', low = (char)(d | 0x20);
		if (d >= '0' && d <= '9')
			*out = *out * 16 + (uint32_t)(d - '0');
		else if (low >= 'a' && low <= 'f')
			*out = *out * 16 + (uint32_t)(low - 'a' + 10);
		else
			return bad(c, "\\u needs four hexadecimal digits");
	}
	return 0;
}

/* Writes the character behind a backslash; c is on it. */
static int read_escape(struct cursor *c, char **to)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	char e = *c->p++;
	uint32_t cp, low;

	if (e != 'u') {
		const char *at = e ? strchr(names, e) : NULL;
		if (!at)
			return bad(c, "an unknown escape");
		*(*to)++ = values[at - names];
		return 0;
	}
	if (hex4(c, &cp))
		return -1;
	if (cp >= 0xd800 && cp < 0xdc00) {
		if (c->end - c->p < 2 || memcmp(c->p, "\\u", 2) != 0)
			return bad(c, "half of a surrogate pair");
		c->p += 2;
		if (hex4(c, &low))
			return -1;
		if (low < 0xdc00 || low > 0xdfff)
			return bad(c, "half of a surrogate pair");
		cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
	} else if (cp >= 0xdc00 && cp <= 0xdfff) {
		return bad(c, "half of a surrogate pair");
	}
	*to += utf8_encode(cp, *to);
	return 0;
}

/* A string: a part of the text where it has no escapes, else put into arena. */
static int read_string(struct cursor *c, struct arena *arena, struct text *out)
{
	if (!take(c, '"'))
		return bad(c, "a string is wanted");
	const char *from = c->p;
	while (c->p < c->end && *c->p != '"' && *c->p != '\\' && (uint8_t)*c->p >= 0x20)
		c->p++;
	*out = (struct text){from, (size_t)(c->p - from)};
	if (c->p < c->end && *c->p == '\\') {
		const char *close = from;
		for (; close < c->end && *close != '"'; close++) {
			if (*close == '\\')
				close++;
		}
		if (close >= c->end)
			return bad(c, "a string without an end");
		/* Escapes are longer than what they stand for. */
		char *made = arena_alloc(arena, (size_t)(close - from)), *to = made;
		memcpy(to, from, out->n);
		to += out->n;
		while (c->p < close && (uint8_t)*c->p >= 0x20) {
			if (*c->p != '\\')
				*to++ = *c->p++;
			else if (c->p++, read_escape(c, &to))
				return -1;
		}
		*out = (struct text){made, (size_t)(to - made)};
	}
	if (c->p >= c->end || *c->p != '"')
		return bad(c, "a control character, or no end, in a string");
	c->p++;
	return utf8_valid(out->s, out->n) == out->n ? 0 : bad(c, "a string that is not valid UTF-8");
}

static int read_id(struct cursor *c, int32_t *out)
{
	int32_t v = 0;

	peek(c);
	const char *from = c->p;
	for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++) {
		v = v * 10 + (*c->p - '0');
		if (v > TOKENIZER_MAX_ID)
			return bad(c, "an id that is too high");
	}
	char next = peek(c);
	if (c->p == from || (next != ',' && next != '}'))
		return bad(c, "an id must be an integer of at least 0");
	*out = v;
	return 0;
}

struct entry {
	struct text text;
	int32_t id;
};

static int add_tokens(struct bpe *b, struct cursor *c, const struct entry *list, size_t n)
{
	int32_t highest = -1;

	for (size_t i = 0; i < n; i++)
		highest = list[i].id > highest ? list[i].id : highest;
	bpe_reserve(b, (size_t)(highest + 1));
	for (size_t i = 0; i < n; i++) {
		const struct entry *e = &list[i];
		if (bpe_add(b, e->text.s, e->text.n, e->id) == 0)
			continue;
		int shown = (int)(e->text.n < 100 ? e->text.n : 100);
		if (b->text[e->id])
			return error_set(c->err, ERR_USAGE,
					 "%s: model: \"vocab\": \"%.*s\" and \"%s\" both have the id %d",
					 c->path, shown, e->text.s, b->text[e->id], (int)e->id);
		return error_set(c->err, ERR_USAGE, "%s: model: \"vocab\": \"%.*s\" is there twice", c->path,
				 shown, e->text.s);
	}
	return 0;
}

static int read_vocab(struct bpe *b, struct cursor *c)
{
	struct arena arena = ARENA_INIT;
	struct entry *list = NULL;
	size_t n = 0, cap = 0;
	int failed = 0;

	c->p++;
	for (bool more = peek(c) != '}'; more && !failed; more = !failed && take(c, ',')) {
		grow(&list, &cap, n + 1, sizeof *list);
		failed = read_string(c, &arena, &list[n].text);
		if (!failed && !take(c, ':'))
			failed = bad(c, "a colon is wanted");
		failed = failed || read_id(c, &list[n].id) ? -1 : 0;
		n++;
	}
	if (!failed && !take(c, '}'))
		failed = bad(c, "a comma or } is wanted");
	if (!failed)
		failed = add_tokens(b, c, list, n);
	free(list);
	arena_free(&arena);
	return failed;
}

/* "a b", or ["a", "b"] in newer files, where tokens may contain spaces. */
static int read_merge(struct cursor *c, struct arena *arena, size_t i, struct text pair[2])
{
	if (peek(c) == '[') {
		c->p++;
		if (read_string(c, arena, &pair[0]))
			return -1;
		if (take(c, ',')) {
			if (read_string(c, arena, &pair[1]))
				return -1;
			if (take(c, ']'))
				return 0;
		}
	} else {
		if (read_string(c, arena, &pair[0]))
			return -1;
		const char *space = memchr(pair[0].s, ' ', pair[0].n);
		if (space) {
			pair[1] = (struct text){space + 1, (size_t)(pair[0].s + pair[0].n - space - 1)};
			pair[0].n = (size_t)(space - pair[0].s);
			return 0;
		}
	}
	return error_set(c->err, ERR_USAGE, "%s: model: \"merges\"[%zu] must be two tokens", c->path, i);
}

static int read_merges(struct bpe *b, struct cursor *c, size_t bytes)
{
	struct arena arena = ARENA_INIT;
	struct text pair[2] = {{NULL, 0}, {NULL, 0}};
	size_t n = 0, commas = 0;
	int failed = 0;

	/* At least as many as there are merges: one comma or one bracket each. */
	for (size_t i = 0; i < bytes; i++)
		commas += c->p[i] == ',';
	bpe_reserve_merges(b, commas + 1);
	c->p++;
	for (bool more = peek(c) != ']'; more && !failed; more = !failed && take(c, ','), n++) {
		failed = read_merge(c, &arena, n, pair);
		if (!failed && bpe_add_merge(b, pair[0].s, pair[0].n, pair[1].s, pair[1].n))
			failed = error_set(c->err, ERR_USAGE,
					   "%s: model: \"merges\"[%zu]: \"%.*s\" and \"%.*s\", or what they "
					   "make, are not in "
					   "the vocabulary",
					   c->path, n, (int)(pair[0].n < 100 ? pair[0].n : 100), pair[0].s,
					   (int)(pair[1].n < 100 ? pair[1].n : 100), pair[1].s);
	}
	if (!failed && !take(c, ']'))
		failed = bad(c, "a comma or ] is wanted");
	arena_free(&arena);
	return failed;
}

/* Puts 0 and the line breaks of text[from, to) in its place and moves up what follows. */
static void cut(char *text, size_t *n, size_t from, size_t to)
{
	size_t at = from;

	text[at++] = '0';
	for (size_t i = from + 1; i < to; i++) {
		if (text[i] == '\n')
			text[at++] = '\n';
	}
	memmove(text + at, text + to, *n - to);
	*n -= to - at;
	text[*n] = '\0';
}

int tables_read(struct bpe *b, char *text, size_t *n, const char *path, struct error *err)
{
	struct cursor model = {text, text + *n, text, path, "model", err};
	struct {
		const char *key;
		char open;
		size_t from, to;
	} table[2] = {{"vocab", '{', 0, 0}, {"merges", '[', 0, 0}};

	if (!find_member(&model, "model"))
		return 0;
	for (int i = 0; i < 2; i++) {
		struct cursor c = model;
		if (!find_member(&c, table[i].key) || peek(&c) != table[i].open)
			continue;
		table[i].from = (size_t)(c.p - text);
		if (skip_value(&c))
			table[i].to = (size_t)(c.p - text);
	}
	for (int i = 0; i < 2; i++) {
		size_t from = table[i].from, to = table[i].to;
		struct cursor c = {text + from, text + to, text, path, table[i].key, err};
		if (!to)
			continue;
		if (i == 0 ? read_vocab(b, &c) : read_merges(b, &c, to - from))
			return -1;
	}
	int last = table[1].to > table[0].to; /* the later one first: its place must hold still */
	for (int i = last;; i = !last) {
		if (table[i].to)
			cut(text, n, table[i].from, table[i].to);
		if (i != last)
			break;
	}
	return 0;
}
