#include "data/rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/frames.h"

/* A record is the array [id, fields]. */

struct rows_writer {
	struct frames_writer *frames;
	struct strbuf record;
};

struct rows_writer *rows_create(const char *path, struct error *err)
{
	struct frames_writer *f = frames_create(path, FRAMES_ROWS, err);
	if (!f)
		return NULL;
	struct rows_writer *w = xcalloc(1, sizeof *w);
	w->frames = f;
	return w;
}

static bool is_map(const uint8_t *p, size_t n)
{
	const uint8_t *q = p;
	struct pack_value v;
	return pack_read(&q, p + n, &v) && v.type == PACK_MAP && pack_valid(p, n);
}

int rows_add(struct rows_writer *w, uint64_t id, const void *fields, size_t len, struct error *err)
{
	if (len > ROW_SIZE_MAX)
		return error_set(err, ERR_USAGE, "row %" PRIu64 " is %zu bytes, more than the %zu allowed",
				 id, len, ROW_SIZE_MAX);
	if (!is_map(fields, len))
		return error_set(err, ERR_USAGE, "row %" PRIu64 " is not a valid map of fields", id);
	strbuf_clear(&w->record);
	pack_array(&w->record, 2);
	pack_u64(&w->record, id);
	strbuf_add(&w->record, fields, len);
	return frames_add(w->frames, w->record.data, w->record.len, err);
}

static void writer_free(struct rows_writer *w)
{
	strbuf_free(&w->record);
	free(w);
}

int rows_commit(struct rows_writer *w, struct error *err)
{
	static const uint8_t no_properties[] = {0x80};
	int failed = frames_commit(w->frames, no_properties, sizeof no_properties, err);

	writer_free(w);
	return failed;
}

void rows_abort(struct rows_writer *w)
{
	if (!w)
		return;
	frames_abort(w->frames);
	writer_free(w);
}

/* struct rows is the frames themselves; the type says what the records are. */
struct rows *rows_open(const char *path, struct error *err)
{
	return (struct rows *)frames_open(path, FRAMES_ROWS, err);
}

uint64_t rows_count(const struct rows *r)
{
	return ((const struct frames *)r)->count;
}

int rows_get(const struct rows *r, uint64_t i, struct row *out, struct error *err)
{
	const struct frames *f = (const struct frames *)r;
	const uint8_t *p;
	size_t n;
	struct pack_value pair, id;

	if (frames_get(f, i, &p, &n, err) < 0)
		return -1;
	const uint8_t *end = p + n;
	if (!pack_read(&p, end, &pair) || pair.type != PACK_ARRAY || pair.count != 2 ||
	    !pack_read(&p, end, &id) || !(id.type == PACK_UINT || (id.type == PACK_INT && id.i64 >= 0)) ||
	    !is_map(p, (size_t)(end - p)))
		return error_set(err, ERR_USAGE, "%s: record %" PRIu64 " is damaged", f->path, i);
	*out = (struct row){id.u64, p, (size_t)(end - p)};
	return 0;
}

void rows_close(struct rows *r)
{
	frames_close((struct frames *)r);
}

/* The member called name (n bytes) of the map at p, which is read to its value. */
static bool member(const uint8_t *p, const uint8_t *end, const char *name, size_t n, struct pack_value *out)
{
	struct pack_value map, key;

	if (!pack_read(&p, end, &map) || map.type != PACK_MAP)
		return false;
	for (uint32_t i = 0; i < map.count; i++) {
		if (!pack_read(&p, end, &key) || key.type != PACK_STR)
			return false;
		if (key.len == n && memcmp(key.body, name, n) == 0)
			return pack_read(&p, end, out);
		if (!pack_skip(&p, end))
			return false;
	}
	return false;
}

static bool element(const uint8_t *p, const uint8_t *end, const char *digits, size_t n,
		    struct pack_value *out)
{
	struct pack_value array;
	uint64_t at = 0;

	if (n == 0 || n > 10 || !pack_read(&p, end, &array) || array.type != PACK_ARRAY)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return false;
		at = at * 10 + (uint64_t)(digits[i] - '0');
	}
	if (at >= array.count)
		return false;
	while (at--)
		if (!pack_skip(&p, end))
			return false;
	return pack_read(&p, end, out);
}

bool row_field(const struct row *row, const char *name, struct pack_value *out)
{
	const uint8_t *p = row->fields, *end = p + row->len;

	if (member(p, end, name, strlen(name), out))
		return true;
	for (const char *part = name;;) {
		const char *dot = strchr(part, '.');
		size_t n = dot ? (size_t)(dot - part) : strlen(part);
		if (!member(p, end, part, n, out) && (part == name || !element(p, end, part, n, out)))
			return false;
		if (!dot)
			return true;
		p = out->start;
		part = dot + 1;
	}
}

void row_to_json(const struct row *row, struct strbuf *b)
{
	pack_to_json(row->fields, row->len, b); /* rows_get has checked the value */
}

/* The next key of a map that pack_read has just opened at *p; its value is skipped. */
static bool next_key(const uint8_t **p, const uint8_t *end, struct pack_value *key)
{
	return pack_read(p, end, key) && key->type == PACK_STR && pack_skip(p, end);
}

void row_names(const struct row *row, struct strbuf *b)
{
	const uint8_t *p = row->fields, *end = p + row->len;
	struct pack_value map, key;

	if (!pack_read(&p, end, &map) || map.type != PACK_MAP)
		return;
	if (map.count == 0)
		strbuf_adds(b, "none");
	for (uint32_t i = 0; i < map.count && next_key(&p, end, &key); i++) {
		if (i == 12) {
			strbuf_addf(b, ", … (%u in all)", map.count);
			return;
		}
		strbuf_addf(b, "%s%.*s", i ? ", " : "", (int)(key.len < 100 ? key.len : 100),
			    (const char *)key.body);
	}
}

bool row_nearest(const struct row *row, const char *name, struct strbuf *b)
{
	const uint8_t *p = row->fields, *end = p + row->len;
	char *part = xstrndup(name, strcspn(name, "."));
	struct arena a = ARENA_INIT;
	struct pack_value map, key;
	const char **names = NULL;
	size_t n = 0, cap = 0;

	if (pack_read(&p, end, &map) && map.type == PACK_MAP) {
		for (uint32_t i = 0; i < map.count && next_key(&p, end, &key); i++) {
			grow(&names, &cap, n + 1, sizeof *names);
			names[n++] = arena_strndup(&a, (const char *)key.body, key.len);
		}
	}
	const char *near = n ? nearest_name(part, names, n) : NULL;
	if (near)
		strbuf_adds(b, near);
	free(names);
	arena_free(&a);
	free(part);
	return near != NULL;
}
