#include "data/parquet.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "base/dynlib.h"
#include "base/mem.h"
#include "data/pack.h"
#include "data/parquet_meta.h"
#include "data/rows.h"

/* Loaded at its first use: linking it would bring libstdc++ to every start. */
static __typeof__(snappy_uncompress) *p_snappy_uncompress;
static const struct dynlib_symbol snappy_symbols[] = {{"snappy_uncompress", (void **)&p_snappy_uncompress},
						      {NULL, NULL}};

/* The largest page, decompressed. Writers aim at 1 MiB; a lie about it must not cost all memory. */
#define PAGE_MAX ((int64_t)1 << 30)

/* A cursor on the RLE / bit-packing hybrid: runs of one repeated value, or of values of `width` bits. */
struct hybrid {
	const uint8_t *p, *end;
	unsigned width; /* bits, 0..32 */
	bool packed;
	uint64_t left; /* values left in the current run */
	uint64_t bit;  /* packed: position of the next value behind p */
	uint32_t value;
};

struct column {
	const struct parquet_column *meta;
	const struct parquet_chunk *chunk;
	const uint8_t *p, *end;     /* the chunk's pages not read yet */
	int64_t chunk_left;         /* values of the chunk in those pages */
	int64_t page_left;          /* values of the current page not read yet, nulls included */
	uint8_t *page, *dictionary; /* decompressed */
	size_t page_cap, dictionary_cap;
	const uint8_t *values, *values_end; /* PLAIN: what has not been read */
	unsigned bit;                       /* PLAIN booleans: next bit of *values */
	bool indexed, rle;                  /* values are indices into the dictionary; RLE booleans */
	struct hybrid levels, indices;
	bool has_levels;
	size_t dictionary_count, dictionary_size;
	uint32_t *entries; /* (dictionary_count + 1) BYTE_ARRAY: where each entry's length stands */
	size_t entries_cap;
};

struct parquet {
	char *name;
	const uint8_t *data;
	struct arena arena;
	struct parquet_meta meta;
	struct column *columns;
	size_t group; /* the next row group */
	int64_t left; /* rows left in the current one */
	uint64_t row; /* 0-based, for messages */
};

static int fail(const struct parquet *p, const struct column *c, struct error *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int fail(const struct parquet *p, const struct column *c, struct error *err, const char *fmt, ...)
{
	char why[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	return error_set(err, ERR_USAGE, "%s: column \"%.200s\", row %" PRIu64 ": %s", p->name, c->meta->name,
			 p->row + 1, why);
}

static void hybrid_start(struct hybrid *h, const uint8_t *p, const uint8_t *end, unsigned width)
{
	*h = (struct hybrid){.p = p, .end = end, .width = width};
}

static bool hybrid_run(struct hybrid *h)
{
	uint64_t head = 0;
	unsigned bytes = (h->width + 7) / 8;

	for (unsigned shift = 0;; shift += 7) {
		if (h->p == h->end || shift > 35)
			return false;
		head |= (uint64_t)(*h->p & 0x7f) << shift;
		if (*h->p++ < 0x80)
			break;
	}
	h->packed = head & 1;
	if (h->packed) {
		/* Groups of eight. The last group may be cut off behind the values that count. */
		uint64_t have = (uint64_t)(h->end - h->p);
		h->left = (head >> 1) * 8;
		h->bit = 0;
		if (h->width && h->left > have * 8 / h->width)
			h->left = have * 8 / h->width;
		return h->left > 0;
	}
	h->left = head >> 1;
	h->value = 0;
	if ((size_t)(h->end - h->p) < bytes)
		return false;
	for (unsigned i = 0; i < bytes; i++)
		h->value |= (uint32_t)*h->p++ << (8 * i);
	return h->left > 0;
}

static bool hybrid_next(struct hybrid *h, uint32_t *v)
{
	if (h->left == 0) {
		if (h->packed) /* behind the run before */
			h->p += (h->bit + 7) / 8;
		h->packed = false;
		if (!hybrid_run(h))
			return false;
	}
	h->left--;
	if (!h->packed) {
		*v = h->value;
		return true;
	}
	uint64_t bits = 0;
	const uint8_t *at = h->p + h->bit / 8;
	size_t have = (size_t)(h->end - at);
	memcpy(&bits, at, have < 8 ? have : 8);
	*v = (uint32_t)(bits >> (h->bit % 8) & (((uint64_t)1 << h->width) - 1));
	h->bit += h->width;
	return true;
}

/* RFC 1952; one member, which is all that Parquet writers make. */
static bool gunzip(const uint8_t *in, size_t n, uint8_t *out, size_t size)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
		      .avail_in = (uInt)n,
		      .next_out = out,
		      .avail_out = (uInt)size};

	if (inflateInit2(&z, 15 + 32) != Z_OK)
		return false;
	int r = inflate(&z, Z_FINISH);
	bool ok = r == Z_STREAM_END && z.total_out == size;
	inflateEnd(&z);
	return ok;
}

/* Decompresses n bytes to exactly size bytes at out. */
static int unpack(const struct parquet *p, const struct column *c, const uint8_t *in, size_t n, uint8_t *out,
		  size_t size, struct error *err)
{
	size_t got = size;
	bool ok = false;

	switch (c->chunk->codec) {
	case PARQUET_UNCOMPRESSED:
		ok = n == size;
		if (ok)
			memcpy(out, in, n);
		break;
	case PARQUET_SNAPPY:
		if (dynlib_load("libsnappy.so.1", "libsnappy1v5", snappy_symbols, err) < 0)
			return -1;
		ok = p_snappy_uncompress((const char *)in, n, (char *)out, &got) == SNAPPY_OK && got == size;
		break;
	case PARQUET_GZIP: ok = gunzip(in, n, out, size); break;
	case PARQUET_ZSTD: ok = ZSTD_decompress(out, size, in, n) == size; break;
	}
	return ok ? 0 : fail(p, c, err, "a page cannot be decompressed");
}

static int make_room(const struct parquet *p, const struct column *c, uint8_t **buf, size_t *cap,
		     int64_t need, struct error *err)
{
	if (need > PAGE_MAX)
		return fail(p, c, err, "a page of %" PRId64 " bytes is larger than the 1 GiB allowed", need);
	if ((size_t)need + 8 <= *cap)
		return 0;
	uint8_t *more = realloc(*buf, (size_t)need + 8);
	if (!more)
		return error_set(err, ERR_INFRA, "%s: no memory for a page of %" PRId64 " bytes", p->name,
				 need);
	*buf = more;
	*cap = (size_t)need + 8;
	return 0;
}

static uint32_t load_u32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, 4); /* the file is little-endian, as is the machine (asserted in tokens.c) */
	return v;
}

static size_t type_size(enum parquet_type t)
{
	return t == PARQUET_INT32 || t == PARQUET_FLOAT ? 4 : 8;
}

static int read_dictionary(struct parquet *p, struct column *c, const struct parquet_page *page,
			   const uint8_t *body, struct error *err)
{
	if (page->encoding != PARQUET_PLAIN && page->encoding != PARQUET_PLAIN_DICTIONARY)
		return fail(p, c, err, "a dictionary in encoding %d cannot be read", page->encoding);
	if (make_room(p, c, &c->dictionary, &c->dictionary_cap, page->uncompressed, err) < 0 ||
	    unpack(p, c, body, (size_t)page->compressed, c->dictionary, (size_t)page->uncompressed, err) < 0)
		return -1;
	size_t size = (size_t)page->uncompressed, at = 0;
	uint64_t count = (uint64_t)page->values;
	if (c->meta->type != PARQUET_BYTE_ARRAY) {
		if (c->meta->type == PARQUET_BOOLEAN || count > size / type_size(c->meta->type))
			return fail(p, c, err, "a damaged dictionary");
	} else {
		if (count > size / 4)
			return fail(p, c, err, "a damaged dictionary");
		grow(&c->entries, &c->entries_cap, (size_t)count + 1, sizeof *c->entries);
		for (uint64_t i = 0; i < count; i++) {
			c->entries[i] = (uint32_t)at;
			if (size - at < 4 || load_u32(c->dictionary + at) > size - at - 4)
				return fail(p, c, err, "a damaged dictionary");
			at += 4 + load_u32(c->dictionary + at);
		}
	}
	c->dictionary_count = (size_t)count;
	c->dictionary_size = size;
	return 0;
}

/* The page's values are at v; c->page_left says how many, nulls included. */
static int start_values(struct parquet *p, struct column *c, int encoding, const uint8_t *v,
			const uint8_t *end, struct error *err)
{
	static const char *const names[] = {"PLAIN",
					    "1",
					    "PLAIN_DICTIONARY",
					    "RLE",
					    "BIT_PACKED",
					    "DELTA_BINARY_PACKED",
					    "DELTA_LENGTH_BYTE_ARRAY",
					    "DELTA_BYTE_ARRAY",
					    "RLE_DICTIONARY",
					    "BYTE_STREAM_SPLIT"};

	c->indexed = encoding == PARQUET_RLE_DICTIONARY || encoding == PARQUET_PLAIN_DICTIONARY;
	c->rle = encoding == PARQUET_RLE && c->meta->type == PARQUET_BOOLEAN;
	c->values = v;
	c->values_end = end;
	c->bit = 0;
	if (encoding == PARQUET_PLAIN)
		return 0;
	if (c->rle) {
		if (end - v < 4 || load_u32(v) > (size_t)(end - v - 4))
			return fail(p, c, err, "a damaged page");
		hybrid_start(&c->indices, v + 4, v + 4 + load_u32(v), 1);
		return 0;
	}
	if (!c->indexed)
		return fail(p, c, err, "values in encoding %s cannot be read",
			    encoding >= 0 && encoding < 10 ? names[encoding] : "unknown");
	/* A page of nulls alone may have no byte here, not even the width. */
	if (v<end && * v> 32)
		return fail(p, c, err, "a damaged page");
	hybrid_start(&c->indices, v < end ? v + 1 : v, end, v < end ? *v : 0);
	return 0;
}

static int start_page_v1(struct parquet *p, struct column *c, const struct parquet_page *page,
			 const uint8_t *body, struct error *err)
{
	if (make_room(p, c, &c->page, &c->page_cap, page->uncompressed, err) < 0 ||
	    unpack(p, c, body, (size_t)page->compressed, c->page, (size_t)page->uncompressed, err) < 0)
		return -1;
	const uint8_t *v = c->page, *end = v + page->uncompressed;
	if (c->has_levels) {
		if (page->level_coding != PARQUET_RLE)
			return fail(p, c, err, "levels in the deprecated encoding BIT_PACKED cannot be read");
		if (end - v < 4 || load_u32(v) > (size_t)(end - v - 4))
			return fail(p, c, err, "a damaged page");
		uint32_t n = load_u32(v);
		hybrid_start(&c->levels, v + 4, v + 4 + n, 1);
		v += 4 + n;
	}
	return start_values(p, c, page->encoding, v, end, err);
}

static int start_page_v2(struct parquet *p, struct column *c, const struct parquet_page *page,
			 const uint8_t *body, struct error *err)
{
	int64_t levels = page->level_size;

	if (page->repetition_size || levels > page->compressed || levels > page->uncompressed)
		return fail(p, c, err, "a damaged page");
	hybrid_start(&c->levels, body, body + levels, 1);
	const uint8_t *packed = body + levels;
	int64_t size = page->uncompressed - levels, n = page->compressed - levels;
	if (!page->is_compressed || n == 0) {
		/* Only an empty part may say that it is compressed and have no bytes. */
		if (page->is_compressed && size)
			return fail(p, c, err, "a damaged page");
		return start_values(p, c, page->encoding, packed, packed + n, err);
	}
	if (make_room(p, c, &c->page, &c->page_cap, size, err) < 0 ||
	    unpack(p, c, packed, (size_t)n, c->page, (size_t)size, err) < 0)
		return -1;
	return start_values(p, c, page->encoding, c->page, c->page + size, err);
}

/* Reads pages until there is one with values. */
static int next_page(struct parquet *p, struct column *c, struct error *err)
{
	struct parquet_page page;
	size_t used;

	while (c->page_left == 0) {
		if (!parquet_page_read(c->p, c->end, &page, &used) ||
		    (uint64_t)page.compressed > (uint64_t)(c->end - c->p) - used)
			return fail(p, c, err, "a damaged page header");
		const uint8_t *body = c->p + used;
		c->p = body + page.compressed;
		if (page.type == PARQUET_INDEX)
			continue;
		if (page.values < 0)
			return fail(p, c, err, "a damaged page header");
		if (page.type == PARQUET_DICTIONARY) {
			if (read_dictionary(p, c, &page, body, err) < 0)
				return -1;
			continue;
		}
		if (page.type != PARQUET_DATA && page.type != PARQUET_DATA_V2)
			return fail(p, c, err, "a page of unknown type %d", page.type);
		if (page.values > c->chunk_left)
			return fail(p, c, err, "a page has more values than its row group");
		c->chunk_left -= page.values;
		c->page_left = page.values;
		if ((page.type == PARQUET_DATA ? start_page_v1 : start_page_v2)(p, c, &page, body, err) < 0)
			return -1;
	}
	return 0;
}

static int emit_string(struct parquet *p, struct column *c, const uint8_t *s, uint32_t n, struct strbuf *row,
		       struct error *err)
{
	if (n > ROW_SIZE_MAX || row->len + n > ROW_SIZE_MAX)
		return fail(p, c, err, "the row is larger than 64 MiB");
	if (utf8_valid((const char *)s, n) < n)
		return fail(p, c, err, "the value is not UTF-8 text");
	if (n && memchr(s, 0, n))
		return fail(p, c, err, "a NUL character in a string");
	pack_str(row, (const char *)s, n);
	return 0;
}

static void emit_fixed(const struct column *c, const uint8_t *v, struct strbuf *row)
{
	int32_t i32;
	int64_t i64;
	float f32;
	double f64;

	switch (c->meta->type) {
	case PARQUET_INT32:
		memcpy(&i32, v, 4);
		if (c->meta->is_unsigned)
			pack_u64(row, (uint32_t)i32);
		else
			pack_i64(row, i32);
		break;
	case PARQUET_INT64:
		memcpy(&i64, v, 8);
		if (c->meta->is_unsigned)
			pack_u64(row, (uint64_t)i64);
		else
			pack_i64(row, i64);
		break;
	case PARQUET_FLOAT:
		memcpy(&f32, v, 4);
		pack_f64(row, (double)f32);
		break;
	case PARQUET_DOUBLE:
		memcpy(&f64, v, 8);
		pack_f64(row, f64);
		break;
	case PARQUET_BOOLEAN:
	case PARQUET_BYTE_ARRAY: break;
	}
}

static int emit_indexed(struct parquet *p, struct column *c, struct strbuf *row, struct error *err)
{
	uint32_t i;

	if (!hybrid_next(&c->indices, &i) || i >= c->dictionary_count)
		return fail(p, c, err, "a damaged page: no such entry in the dictionary");
	if (c->meta->type != PARQUET_BYTE_ARRAY) {
		emit_fixed(c, c->dictionary + i * type_size(c->meta->type), row);
		return 0;
	}
	const uint8_t *entry = c->dictionary + c->entries[i];
	return emit_string(p, c, entry + 4, load_u32(entry), row, err);
}

static int emit_plain(struct parquet *p, struct column *c, struct strbuf *row, struct error *err)
{
	size_t have = (size_t)(c->values_end - c->values), size = type_size(c->meta->type);
	uint32_t bit;

	if (c->rle) {
		if (!hybrid_next(&c->indices, &bit))
			return fail(p, c, err, "a damaged page");
		pack_bool(row, bit);
	} else if (c->meta->type == PARQUET_BOOLEAN) {
		if (have == 0)
			return fail(p, c, err, "a damaged page");
		pack_bool(row, *c->values >> c->bit & 1);
		c->bit = (c->bit + 1) % 8;
		c->values += c->bit == 0;
	} else if (c->meta->type == PARQUET_BYTE_ARRAY) {
		uint32_t n = have < 4 ? 0 : load_u32(c->values);
		if (have < 4 || n > have - 4)
			return fail(p, c, err, "a damaged page");
		const uint8_t *s = c->values + 4;
		c->values = s + n;
		return emit_string(p, c, s, n, row, err);
	} else {
		if (have < size)
			return fail(p, c, err, "a damaged page");
		emit_fixed(c, c->values, row);
		c->values += size;
	}
	return 0;
}

static int emit_value(struct parquet *p, struct column *c, struct strbuf *row, struct error *err)
{
	uint32_t defined = 1;

	if (c->page_left == 0 && next_page(p, c, err) < 0)
		return -1;
	c->page_left--;
	if (c->has_levels && !hybrid_next(&c->levels, &defined))
		return fail(p, c, err, "a damaged page: too few levels");
	if (!defined) {
		pack_nil(row);
		return 0;
	}
	return c->indexed ? emit_indexed(p, c, row, err) : emit_plain(p, c, row, err);
}

struct parquet *parquet_open(const uint8_t *data, uint64_t size, const char *name, struct error *err)
{
	struct parquet *p = xcalloc(1, sizeof *p);

	p->name = xstrdup(name);
	p->data = data;
	if (parquet_meta_read(data, size, p->name, &p->arena, &p->meta, err) < 0) {
		parquet_close(p);
		return NULL;
	}
	p->columns = xcalloc(p->meta.column_count, sizeof *p->columns);
	for (size_t i = 0; i < p->meta.column_count; i++) {
		p->columns[i].meta = &p->meta.columns[i];
		p->columns[i].has_levels = p->meta.columns[i].optional;
	}
	return p;
}

static void start_group(struct parquet *p)
{
	size_t n = p->meta.column_count;

	for (size_t i = 0; i < n; i++) {
		struct column *c = &p->columns[i];
		c->chunk = &p->meta.chunks[p->group * n + i];
		c->p = p->data + c->chunk->offset;
		c->end = c->p + c->chunk->size;
		c->chunk_left = c->chunk->values;
		c->page_left = 0;
		c->dictionary_count = 0;
	}
	p->left = p->meta.group_rows[p->group++];
}

int parquet_next(struct parquet *p, struct strbuf *row, struct error *err)
{
	while (p->left == 0) {
		if (p->group == p->meta.group_count)
			return 0;
		start_group(p);
	}
	pack_map(row, (uint32_t)p->meta.column_count);
	for (size_t i = 0; i < p->meta.column_count; i++) {
		struct column *c = &p->columns[i];
		pack_str(row, c->meta->name, strlen(c->meta->name));
		if (emit_value(p, c, row, err) < 0)
			return -1;
	}
	p->left--;
	p->row++;
	return 1;
}

uint64_t parquet_rows(const struct parquet *p)
{
	return p->meta.rows;
}

void parquet_close(struct parquet *p)
{
	if (!p)
		return;
	for (size_t i = 0; p->columns && i < p->meta.column_count; i++) {
		free(p->columns[i].page);
		free(p->columns[i].dictionary);
		free(p->columns[i].entries);
	}
	free(p->columns);
	arena_free(&p->arena);
	free(p->name);
	free(p);
}
