#include "data/tokens.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/frames.h"
#include "data/pack.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "token ids are read in place, as little-endian int32");

/* A record is the array [id, label_start, ids], with fixed-width encodings so that ids start 20 bytes behind
 * the record: the head of the file is 16 bytes, every record a multiple of 4, hence all ids are aligned. */
#define PREFIX 20
enum { TAG_ARRAY3 = 0x93, TAG_U64 = 0xcf, TAG_U32 = 0xce, TAG_BIN32 = 0xc6 };

static void store_be(uint8_t *out, uint64_t v, size_t width)
{
	for (size_t i = 0; i < width; i++)
		out[i] = (uint8_t)(v >> (8 * (width - 1 - i)));
}

static uint64_t load_be(const uint8_t *p, size_t width)
{
	uint64_t v = 0;

	for (size_t i = 0; i < width; i++)
		v = v << 8 | p[i];
	return v;
}

struct tokens_writer {
	struct frames_writer *frames;
	struct strbuf record;
};

struct tokens_writer *tokens_create(const char *path, struct error *err)
{
	struct frames_writer *f = frames_create(path, FRAMES_TOKENS, err);
	if (!f)
		return NULL;
	struct tokens_writer *w = xcalloc(1, sizeof *w);
	w->frames = f;
	return w;
}

int tokens_add(struct tokens_writer *w, uint64_t id, const int32_t *ids, uint32_t n, uint32_t label_start,
	       struct error *err)
{
	uint8_t prefix[PREFIX];

	if (n >= 1u << 28)
		return error_set(err, ERR_USAGE,
				 "row %" PRIu64 " gives %u tokens, more than a sequence may have", id, n);
	if (label_start > n)
		return error_set(err, ERR_USAGE, "row %" PRIu64 ": labels start at %u of %u tokens", id,
				 label_start, n);
	prefix[0] = TAG_ARRAY3;
	prefix[1] = TAG_U64;
	store_be(prefix + 2, id, 8);
	prefix[10] = TAG_U32;
	store_be(prefix + 11, label_start, 4);
	prefix[15] = TAG_BIN32;
	store_be(prefix + 16, 4 * (uint64_t)n, 4);
	strbuf_clear(&w->record);
	strbuf_add(&w->record, prefix, PREFIX);
	strbuf_add(&w->record, ids, 4 * (size_t)n);
	return frames_add(w->frames, w->record.data, w->record.len, err);
}

static void writer_free(struct tokens_writer *w)
{
	strbuf_free(&w->record);
	free(w);
}

int tokens_commit(struct tokens_writer *w, const struct tokens_meta *meta, size_t n, struct error *err)
{
	struct strbuf *b = &w->record;

	strbuf_clear(b);
	pack_map(b, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		pack_str(b, meta[i].name, strlen(meta[i].name));
		if (meta[i].text)
			pack_str(b, meta[i].text, strlen(meta[i].text));
		else
			pack_i64(b, meta[i].number);
	}
	int failed = frames_commit(w->frames, b->data, b->len, err);
	writer_free(w);
	return failed;
}

void tokens_abort(struct tokens_writer *w)
{
	if (!w)
		return;
	frames_abort(w->frames);
	writer_free(w);
}

struct tokens {
	struct frames *frames;
	struct arena texts; /* names and texts of meta */
	struct tokens_meta *meta;
	size_t meta_count;
};

/* frames_open has checked that the properties are a map with string keys; that the values are texts and
 * numbers is checked here. */
static int read_meta(struct tokens *t, struct error *err)
{
	const uint8_t *p = t->frames->properties, *end = p + t->frames->properties_len;
	struct pack_value map, key, v;

	pack_read(&p, end, &map);
	t->meta = arena_calloc(&t->texts, map.count, sizeof *t->meta);
	for (uint32_t i = 0; i < map.count; i++) {
		if (!pack_read(&p, end, &key) || !pack_read(&p, end, &v) ||
		    (v.type != PACK_INT && v.type != PACK_STR))
			return error_set(err, ERR_USAGE, "%s: has damaged properties", t->frames->path);
		t->meta[i].name = arena_strndup(&t->texts, (const char *)key.body, key.len);
		if (v.type == PACK_STR)
			t->meta[i].text = arena_strndup(&t->texts, (const char *)v.body, v.len);
		else
			t->meta[i].number = v.i64;
	}
	t->meta_count = map.count;
	return 0;
}

struct tokens *tokens_open(const char *path, struct error *err)
{
	struct frames *f = frames_open(path, FRAMES_TOKENS, err);
	if (!f)
		return NULL;
	struct tokens *t = xcalloc(1, sizeof *t);
	t->frames = f;
	if (read_meta(t, err) < 0) {
		tokens_close(t);
		return NULL;
	}
	return t;
}

uint64_t tokens_count(const struct tokens *t)
{
	return t->frames->count;
}

int tokens_get(const struct tokens *t, uint64_t i, struct tokens_item *out, struct error *err)
{
	const uint8_t *p;
	size_t n;

	if (frames_get(t->frames, i, &p, &n, err) < 0)
		return -1;
	uint64_t bytes = n < PREFIX ? 0 : n - PREFIX;
	if (n < PREFIX || bytes % 4 || p[0] != TAG_ARRAY3 || p[1] != TAG_U64 || p[10] != TAG_U32 ||
	    p[15] != TAG_BIN32 || load_be(p + 16, 4) != bytes || load_be(p + 11, 4) > bytes / 4 ||
	    (uintptr_t)(p + PREFIX) % 4)
		return error_set(err, ERR_USAGE, "%s: record %" PRIu64 " is damaged", t->frames->path, i);
	out->id = load_be(p + 2, 8);
	out->label_start = (uint32_t)load_be(p + 11, 4);
	out->n = (uint32_t)(bytes / 4);
	out->ids = (const int32_t *)(const void *)(p + PREFIX);
	return 0;
}

static const struct tokens_meta *find(const struct tokens *t, const char *name)
{
	for (size_t i = 0; i < t->meta_count; i++)
		if (strcmp(t->meta[i].name, name) == 0)
			return &t->meta[i];
	return NULL;
}

int tokens_meta_number(const struct tokens *t, const char *name, int64_t *out, struct error *err)
{
	const struct tokens_meta *m = find(t, name);

	if (!m)
		return 0;
	if (m->text)
		return error_set(err, ERR_USAGE, "%s: \"%s\" is a text, not a number", t->frames->path, name);
	*out = m->number;
	return 1;
}

int tokens_meta_text(const struct tokens *t, const char *name, const char **out, struct error *err)
{
	const struct tokens_meta *m = find(t, name);

	if (!m)
		return 0;
	if (!m->text)
		return error_set(err, ERR_USAGE, "%s: \"%s\" is a number, not a text", t->frames->path, name);
	*out = m->text;
	return 1;
}

int tokens_meta_at(const struct tokens *t, size_t i, struct tokens_meta *out)
{
	if (i >= t->meta_count)
		return 0;
	*out = t->meta[i];
	return 1;
}

void tokens_close(struct tokens *t)
{
	if (!t)
		return;
	frames_close(t->frames);
	arena_free(&t->texts);
	free(t);
}
