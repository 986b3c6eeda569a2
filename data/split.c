#include "data/split.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "data/card.h"
#include "data/source.h"

static int not_a_split(const char *text, const char *why, struct error *err)
{
	error_set(err, ERR_USAGE, "split \"%.200s\": %s", text, why);
	return error_hint(err, "examples: train, train[:1000], train[10:20], train[:10%%], train[-5:]");
}

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
	       c == '.' || c == '-';
}

/* A bound at *p: digits, perhaps with '-' and '%'. Moves *p behind it. */
static bool bound(const char **p, bool *has, int64_t *v, bool *percent)
{
	const char *q = *p;
	bool minus = *q == '-';
	int64_t n = 0;

	q += minus;
	const char *digits = q;
	for (; (*q >= '0' && *q <= '9') || (q > digits && *q == '_'); q++) {
		if (*q != '_' && n > INT64_MAX / 20)
			return false;
		n = *q == '_' ? n : n * 10 + (*q - '0');
	}
	*has = q > digits;
	if (!*has)
		return !minus;
	*v = minus ? -n : n;
	*percent = *q == '%';
	*p = q + *percent;
	return true;
}

int split_parse(const char *text, struct split_spec *out, struct error *err)
{
	const char *p = text;
	bool from_percent = false, to_percent = false;

	*out = (struct split_spec){0};
	while (is_name_char(*p))
		p++;
	size_t n = (size_t)(p - text);
	if (n == 0 || n > SPLIT_NAME_MAX)
		return not_a_split(text, n ? "its name is too long" : "it has no name", err);
	memcpy(out->name, text, n);
	if (strchr(p, '+'))
		return not_a_split(text, "sums of splits are not supported", err);
	if (*p == '[') {
		p++;
		if (!bound(&p, &out->has_from, &out->from, &from_percent) || *p++ != ':' ||
		    !bound(&p, &out->has_to, &out->to, &to_percent) || *p++ != ']')
			return not_a_split(text, "its slice is not [from:to]", err);
		if (out->has_from && out->has_to && from_percent != to_percent)
			return not_a_split(text, "one bound is in percent, the other in rows", err);
		out->percent = from_percent || to_percent;
		if (out->percent && (llabs(out->from) > 100 || llabs(out->to) > 100))
			return not_a_split(text, "a percent lies between -100 and 100", err);
	}
	if (*p == '(') {
		out->whole_percents = strcmp(p, "(pct1_dropremainder)") == 0;
		if (!out->whole_percents && strcmp(p, "(closest)") != 0)
			return not_a_split(text, "its rounding is neither closest nor pct1_dropremainder",
					   err);
		p += strlen(p);
	}
	return *p ? not_a_split(text, "there is something behind it that does not belong there", err) : 0;
}

/* A bound as a row number from 0 to n. */
static uint64_t row_of(const struct split_spec *s, int64_t v, uint64_t n)
{
	if (s->percent && s->whole_percents)
		v *= (int64_t)(n / 100);
	else if (s->percent)
		v = (int64_t)nearbyint((double)((__int128)v * (__int128)n) / 100.0);
	if (v < 0)
		return (uint64_t)-v > n ? 0 : n - (uint64_t)-v;
	return (uint64_t)v > n ? n : (uint64_t)v;
}

int split_range(const struct split_spec *s, uint64_t n, uint64_t *first, uint64_t *end, struct error *err)
{
	if (s->percent && s->whole_percents && n < 100)
		return error_set(err, ERR_USAGE,
				 "split %s: pct1_dropremainder needs at least 100 rows, there are %" PRIu64,
				 s->name, n);
	*first = s->has_from ? row_of(s, s->from, n) : 0;
	*end = s->has_to ? row_of(s, s->to, n) : n;
	if (*end < *first)
		*end = *first;
	return 0;
}

static bool class_matches(const char **pattern, char c)
{
	const char *p = *pattern + 1;
	bool negated = *p == '!' || *p == '^', found = false;

	p += negated;
	for (bool first = true; *p && (first || *p != ']'); first = false, p++) {
		if (p[1] == '-' && p[2] && p[2] != ']') {
			found = found || (c >= p[0] && c <= p[2]);
			p += 2;
		} else {
			found = found || c == *p;
		}
	}
	*pattern = *p ? p + 1 : p;
	return found != negated && c != '/';
}

/* Backtracks to the last * and the last ** alone, so the time is bounded by the product of the lengths, squared. */
bool split_glob(const char *pattern, const char *path)
{
	const char *p = pattern, *s = path;
	const char *star_p = NULL, *star_s = NULL, *deep_p = NULL, *deep_s = NULL;

	for (;;) {
		if (p[0] == '*' && p[1] == '*') {
			while (*p == '*')
				p++;
			/* "a/" + "**" + "/b" matches "a/b": the '/' behind the stars may be the one before them. */
			if (*p == '/' && (s == path || s[-1] == '/'))
				p++;
			deep_p = p;
			deep_s = s;
			star_p = NULL;
			continue;
		}
		if (*p == '*') {
			star_p = ++p;
			star_s = s;
			continue;
		}
		if (!*s && !*p)
			return true;
		const char *next = p;
		if (*s && *p &&
		    ((*p == '[' && class_matches(&next, *s)) || (*p == '?' && *s != '/') ||
		     (*p == *s && *p != '['))) {
			p = *p == '[' ? next : p + 1;
			s++;
			continue;
		}
		if (star_p && *star_s && *star_s != '/') {
			s = ++star_s;
			p = star_p;
		} else if (deep_p && *deep_s) {
			s = ++deep_s;
			/* Behind "**" and '/', only the start of a part will do. */
			while (deep_p[-1] == '/' && *s && s[-1] != '/')
				s++;
			deep_s = s;
			p = deep_p;
			star_p = NULL;
		} else {
			return false;
		}
	}
}

static const struct {
	const char *split;
	const char *words[5];
} keywords[] = {
	{"train", {"train", "training", NULL}},
	{"validation", {"validation", "valid", "dev", "val", NULL}},
	{"test", {"test", "testing", "eval", "evaluation", NULL}},
};

static bool is_separator(char c)
{
	return (c && strchr("-._ ", c)) || (c >= '0' && c <= '9');
}

/* Whether word stands in the n bytes of part with a boundary before it and behind it; the end of part counts as
 * one behind when open_end is set. */
static bool has_word(const char *part, size_t n, const char *word, bool open_end)
{
	size_t len = strlen(word);

	for (size_t i = 0; i + len <= n; i++) {
		if (memcmp(part + i, word, len) != 0 || (i && !is_separator(part[i - 1])))
			continue;
		if (i + len == n ? open_end : is_separator(part[i + len]))
			return true;
	}
	return false;
}

static bool part_is_of(const char *part, size_t n, int split, bool open_end)
{
	for (const char *const *w = keywords[split].words; *w; w++)
		if (has_word(part, n, *w, open_end))
			return true;
	return false;
}

static bool dir_is_of(const char *path, int split)
{
	const char *part = path, *slash;

	for (; (slash = strchr(part, '/')); part = slash + 1)
		if (part_is_of(part, (size_t)(slash - part), split, true))
			return true;
	return false;
}

static bool file_is_of(const char *path, int split)
{
	const char *base = path_base(path);
	return part_is_of(base, strlen(base), split, false);
}

/* data/NAME-00000-of-00001*.*: the length of NAME, or 0. */
static size_t sharded(const char *path)
{
	static const char digits[] = "-ddddd-of-ddddd";

	if (!str_starts(path, "data/") || strchr(path + 5, '/'))
		return 0;
	const char *name = path + 5;
	size_t n = strlen(name);
	/* The split name has no '-', so the first match is the only one. */
	for (size_t i = 1; i + sizeof digits - 1 < n; i++) {
		size_t k = 0;
		while (digits[k] && (digits[k] == 'd' ? name[i + k] >= '0' && name[i + k] <= '9'
						      : name[i + k] == digits[k]))
			k++;
		if (!digits[k] && strchr(name + i + k, '.'))
			return i;
	}
	return 0;
}

struct names {
	const char **list;
	size_t n, cap;
};

static void add_name(struct names *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->list[i], name) == 0)
			return;
	grow(&s->list, &s->cap, s->n + 1, sizeof *s->list);
	s->list[s->n++] = name;
}

static int no_split(const char *split, const struct names *there, struct error *err)
{
	struct strbuf b = STRBUF_INIT;

	for (size_t i = 0; i < there->n; i++)
		strbuf_addf(&b, "%s%s", i ? ", " : "", there->list[i]);
	error_set(err, ERR_USAGE, "the dataset has no split \"%s\"; there %s %s", split,
		  there->n == 1 ? "is" : "are", b.data ? b.data : "none");
	const char *near = nearest_name(split, there->list, there->n);
	if (near)
		error_hint(err, "did you mean \"%s\"?", near);
	strbuf_free(&b);
	return -1;
}

struct choice {
	const char *const *names;
	size_t *all; /* indices of the names that are data files, sorted by name */
	size_t n;
	const char *split;
	size_t *picked;
	size_t count;
};

/* Rule "sharded": 1 when it decides, 0 when no file is of that form. */
static int by_shard(struct choice *c, struct arena *a, struct names *there)
{
	for (size_t i = 0; i < c->n; i++) {
		const char *name = c->names[c->all[i]];
		size_t len = sharded(name);
		if (!len)
			continue;
		add_name(there, arena_strndup(a, name + 5, len));
		if (strlen(c->split) == len && memcmp(name + 5, c->split, len) == 0)
			c->picked[c->count++] = c->all[i];
	}
	return there->n > 0;
}

static int by_keyword(struct choice *c, bool (*is_of)(const char *, int), struct names *there)
{
	for (int s = 0; s < 3; s++) {
		for (size_t i = 0; i < c->n; i++) {
			if (!is_of(c->names[c->all[i]], s))
				continue;
			add_name(there, keywords[s].split);
			if (strcmp(c->split, keywords[s].split) == 0)
				c->picked[c->count++] = c->all[i];
		}
	}
	return there->n > 0;
}

static int by_card(struct choice *c, const struct card *card, struct names *there, struct error *err)
{
	for (size_t k = 0; k < card->n; k++) {
		add_name(there, card->files[k].split);
		if (strcmp(card->files[k].split, c->split) != 0)
			continue;
		size_t before = c->count;
		for (size_t i = 0; i < c->n; i++) {
			bool have = false;
			for (size_t j = 0; j < c->count; j++)
				have = have || c->picked[j] == c->all[i];
			if (!have && split_glob(card->files[k].pattern, c->names[c->all[i]]))
				c->picked[c->count++] = c->all[i];
		}
		if (c->count == before)
			return error_set(
				err, ERR_USAGE,
				"the dataset's card lists \"%s\" for split \"%s\", but no data file matches",
				card->files[k].pattern, c->split);
	}
	return 1;
}

static const char *ending(const char *name)
{
	const char *base = path_base(name);
	size_t n = strlen(base);
	static const char *const packed[] = {".gz", ".zst", ".xz", ".bz2"};

	for (size_t i = 0; i < 4; i++)
		if (n > strlen(packed[i]) && strcasecmp(base + n - strlen(packed[i]), packed[i]) == 0) {
			const char *dot = memrchr(base, '.', n - strlen(packed[i]));
			return dot ? dot : base;
		}
	const char *dot = strrchr(base, '.');
	return dot ? dot : base;
}

/* How much an ending is preferred when two are equally frequent. */
static int preference(const char *e)
{
	static const char *const order[] = {".csv", ".json", ".jsonl", ".parquet"};

	for (int i = 3; i >= 0; i--)
		if (str_starts(e, order[i]))
			return i + 1;
	return 0;
}

/* Keeps the files of the most frequent format alone. */
static void keep_majority(struct choice *c)
{
	size_t best = 0, best_count = 0;

	for (size_t i = 0; i < c->count; i++) {
		const char *e = ending(c->names[c->picked[i]]), *b = ending(c->names[c->picked[best]]);
		size_t n = 0;
		for (size_t k = 0; k < c->count; k++)
			n += strcmp(ending(c->names[c->picked[k]]), e) == 0;
		int by_preference = preference(e) - preference(b);
		if (n > best_count ||
		    (n == best_count && (by_preference > 0 || (by_preference == 0 && strcmp(e, b) > 0)))) {
			best = i;
			best_count = n;
		}
	}
	size_t kept = 0;
	enum data_format f = c->count ? data_format_of(c->names[c->picked[best]]) : DATA_UNKNOWN;
	for (size_t i = 0; i < c->count; i++)
		if (data_format_of(c->names[c->picked[i]]) == f)
			c->picked[kept++] = c->picked[i];
	c->count = kept;
}

static int by_name(const void *a, const void *b, void *names)
{
	const char *const *list = names;
	return strcmp(list[*(const size_t *)a], list[*(const size_t *)b]);
}

int split_files(const char *const *names, size_t n, const char *readme, const char *config, const char *split,
		size_t *picked, size_t *count, struct error *err)
{
	struct choice c = {.names = names, .split = split, .picked = picked};
	struct arena arena = ARENA_INIT;
	struct names there = {0};
	struct card card = {0};
	int decided = readme ? card_read(readme, config, &arena, &card, err) : 0;

	if (config && decided == 0)
		decided = error_set(err, ERR_USAGE, "config \"%s\": the dataset's card lists no configs",
				    config);
	c.all = xreallocarray(NULL, n, sizeof *c.all);
	for (size_t i = 0; i < n; i++)
		if (!data_file_ignored(names[i]) && data_format_of(names[i]) != DATA_UNKNOWN)
			c.all[c.n++] = i;
	qsort_r(c.all, c.n, sizeof *c.all, by_name, (void *)(uintptr_t)names);
	if (decided == 0 && c.n == 0) {
		decided = error_set(err, ERR_USAGE, "there is no data file in the dataset");
		error_hint(err, "data files end in .json .jsonl .csv .tsv .parquet .txt, also in .gz .zst "
				".xz .zip .tar");
	}
	if (decided > 0)
		decided = by_card(&c, &card, &there, err);
	if (decided == 0)
		decided = by_shard(&c, &arena, &there) || by_keyword(&c, dir_is_of, &there) ||
			  by_keyword(&c, file_is_of, &there);
	if (decided == 0) {
		add_name(&there, "train");
		if (strcmp(split, "train") == 0)
			for (; c.count < c.n; c.count++)
				picked[c.count] = c.all[c.count];
	}
	if (decided >= 0 && c.count == 0)
		decided = no_split(split, &there, err);
	if (decided >= 0) {
		qsort_r(picked, c.count, sizeof *picked, by_name, (void *)(uintptr_t)names);
		keep_majority(&c);
	}
	*count = c.count;
	free(c.all);
	free(there.list);
	arena_free(&arena);
	return decided < 0 ? -1 : 0;
}
