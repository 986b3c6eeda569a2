#include "data/parquet_meta.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "data/formats.h"
#include "data/thrift.h"

/* A SchemaElement as it stands in the footer. */
struct element {
	const char *name;
	int64_t type, repetition, children, converted; /* -1 = absent */
	int logical;                                   /* field number in the union LogicalType; 0 = absent */
	bool logical_unsigned;
};

static int damaged(const char *name, const char *what, struct error *err)
{
	return error_set(err, ERR_USAGE, "%s: damaged Parquet file: %s", name, what);
}

static void read_logical(struct thrift *t, struct element *e)
{
	struct thrift_field f = {0, THRIFT_STOP}, g = {0, THRIFT_STOP};

	while (thrift_next(t, &f)) {
		e->logical = f.id;
		if (f.id != 10 || !thrift_struct(t, &f)) {
			if (f.id != 10)
				thrift_skip(t, f.type);
			continue;
		}
		while (thrift_next(t, &g)) {
			if (g.id == 2)
				e->logical_unsigned = !thrift_bool(t, &g);
			else
				thrift_skip(t, g.type);
		}
	}
}

static void read_element(struct thrift *t, struct element *e, struct arena *arena)
{
	struct thrift_field f = {0, THRIFT_STOP};
	const uint8_t *text;
	size_t n;

	*e = (struct element){"", -1, -1, 0, -1, 0, false};
	while (thrift_next(t, &f)) {
		switch (f.id) {
		case 1: e->type = thrift_int(t, &f); break;
		case 3: e->repetition = thrift_int(t, &f); break;
		case 4:
			text = thrift_binary(t, &f, &n);
			e->name = text ? arena_strndup(arena, (const char *)text, n) : "";
			break;
		case 5: e->children = thrift_int(t, &f); break;
		case 6: e->converted = thrift_int(t, &f); break;
		case 10:
			if (thrift_struct(t, &f))
				read_logical(t, e);
			break;
		default: thrift_skip(t, f.type);
		}
	}
}

/* Why values of the column cannot be read; NULL when they can. */
static const char *unsupported(const struct element *e)
{
	static const char *const converted[] = {
		NULL, "MAP", "MAP", "LIST", NULL, "DECIMAL", "DATE", "TIME", "TIME", "TIMESTAMP", "TIMESTAMP",
		NULL, NULL,  NULL,  NULL,   NULL, NULL,      NULL,   NULL,   NULL,   "BSON",      "INTERVAL"};
	static const char *const logical[] = {NULL,   NULL,   "MAP",       "LIST",   NULL, "DECIMAL",
					      "DATE", "TIME", "TIMESTAMP", NULL,     NULL, NULL,
					      NULL,   "BSON", "UUID",      "FLOAT16"};

	if (e->children > 0)
		return "nested values (a struct, list or map)";
	if (e->repetition == 2)
		return "repeated values";
	if (e->logical > 0 && (size_t)e->logical < sizeof logical / sizeof *logical && logical[e->logical])
		return logical[e->logical];
	if (e->converted > 0 && (size_t)e->converted < sizeof converted / sizeof *converted &&
	    converted[e->converted])
		return converted[e->converted];
	if (e->type == 3)
		return "INT96";
	if (e->type == 7)
		return "FIXED_LEN_BYTE_ARRAY";
	return e->type < 0 || e->type > 6 ? "an unknown type" : NULL;
}

static int read_schema(struct thrift *t, size_t n, const char *name, struct arena *arena,
		       struct parquet_meta *m, struct error *err)
{
	struct element e;

	if (n == 0)
		return damaged(name, "no schema", err);
	if (n > COLUMNS_MAX)
		return error_set(err, ERR_USAGE, "%s: %zu columns, more than the %d allowed", name, n - 1,
				 COLUMNS_MAX);
	read_element(t, &e, arena); /* the root */
	m->columns = arena_calloc(arena, n, sizeof *m->columns);
	for (size_t i = 1; i < n && !t->bad; i++) {
		read_element(t, &e, arena);
		const char *why = t->bad ? NULL : unsupported(&e);
		if (why) {
			error_set(err, ERR_USAGE, "%s: column \"%.200s\": %s cannot be read from Parquet",
				  name, e.name, why);
			return error_hint(err, "leave the column out, or convert the dataset to JSON Lines");
		}
		bool is_int = e.type == PARQUET_INT32 || e.type == PARQUET_INT64;
		bool is_unsigned = is_int && ((e.converted >= 11 && e.converted <= 14) || e.logical_unsigned);
		m->columns[m->column_count++] = (struct parquet_column){e.name, (enum parquet_type)e.type,
									e.repetition == 1, is_unsigned};
	}
	if (t->bad || m->column_count == 0)
		return damaged(name, "no columns in its schema", err);
	for (size_t i = 1; i < m->column_count; i++)
		for (size_t k = 0; k < i; k++)
			if (strcmp(m->columns[i].name, m->columns[k].name) == 0)
				return error_set(err, ERR_USAGE, "%s: the column \"%.200s\" is there twice",
						 name, m->columns[i].name);
	return 0;
}

struct chunk_meta {
	int64_t type, codec, values, size, data, dictionary;
	bool encrypted, elsewhere;
};

static void read_chunk_meta(struct thrift *t, struct chunk_meta *c)
{
	struct thrift_field f = {0, THRIFT_STOP};

	while (thrift_next(t, &f)) {
		switch (f.id) {
		case 1: c->type = thrift_int(t, &f); break;
		case 4: c->codec = thrift_int(t, &f); break;
		case 5: c->values = thrift_int(t, &f); break;
		case 7: c->size = thrift_int(t, &f); break;
		case 9: c->data = thrift_int(t, &f); break;
		case 11: c->dictionary = thrift_int(t, &f); break;
		default: thrift_skip(t, f.type);
		}
	}
}

static void read_chunk(struct thrift *t, struct chunk_meta *c)
{
	struct thrift_field f = {0, THRIFT_STOP};

	*c = (struct chunk_meta){-1, -1, -1, -1, -1, 0, false, false};
	while (thrift_next(t, &f)) {
		if (f.id == 3 && thrift_struct(t, &f)) {
			read_chunk_meta(t, c);
			continue;
		}
		c->elsewhere = c->elsewhere || f.id == 1;
		c->encrypted = c->encrypted || f.id == 8 || f.id == 9;
		if (f.id != 3)
			thrift_skip(t, f.type);
	}
}

static const char *codec_name(int64_t codec)
{
	static const char *const names[] = {"UNCOMPRESSED", "SNAPPY", "GZIP", "LZO",
					    "BROTLI",       "LZ4",    "ZSTD", "LZ4_RAW"};
	return codec >= 0 && codec < 8 ? names[codec] : "an unknown codec";
}

static int check_chunk(const struct chunk_meta *c, const struct parquet_column *column, int64_t rows,
		       uint64_t size, const char *name, struct parquet_chunk *out, struct error *err)
{
	int64_t start = c->dictionary > 0 && c->dictionary < c->data ? c->dictionary : c->data;

	if (c->encrypted || c->elsewhere)
		return error_set(err, ERR_USAGE, "%s: column \"%.200s\" is %s, which cannot be read", name,
				 column->name, c->encrypted ? "encrypted" : "in another file");
	if (c->codec != PARQUET_UNCOMPRESSED && c->codec != PARQUET_SNAPPY && c->codec != PARQUET_GZIP &&
	    c->codec != PARQUET_ZSTD)
		return error_set(err, ERR_USAGE,
				 "%s: column \"%.200s\" is compressed with %s, which cannot be read", name,
				 column->name, codec_name(c->codec));
	if (rows == 0) { /* then writers leave the offsets at 0 */
		*out = (struct parquet_chunk){0};
		return 0;
	}
	if (c->type != (int64_t)column->type || c->values != rows || start < 4 || c->size < 0 ||
	    (uint64_t)start > size || (uint64_t)c->size > size - (uint64_t)start)
		return damaged(name, "a column chunk does not fit", err);
	*out = (struct parquet_chunk){(uint64_t)start, (uint64_t)c->size, c->values,
				      (enum parquet_codec)c->codec};
	return 0;
}

static int read_group(struct thrift *t, uint64_t size, const char *name, struct parquet_meta *m,
		      struct arena *arena, struct error *err)
{
	struct thrift_field f = {0, THRIFT_STOP};
	struct chunk_meta *found = arena_calloc(arena, m->column_count, sizeof *found);
	size_t columns = 0, group = m->group_count;
	int64_t rows = -1;

	while (thrift_next(t, &f)) {
		if (f.id == 1) {
			columns = thrift_list(t, &f, THRIFT_STRUCT);
			if (columns != m->column_count)
				return damaged(name, "a row group has other columns than the schema", err);
			for (size_t i = 0; i < columns; i++)
				read_chunk(t, &found[i]);
		} else if (f.id == 3) {
			rows = thrift_int(t, &f);
		} else {
			thrift_skip(t, f.type);
		}
	}
	if (t->bad || columns == 0 || rows < 0)
		return damaged(name, "a row group is malformed", err);
	for (size_t i = 0; i < columns; i++)
		if (check_chunk(&found[i], &m->columns[i], rows, size, name, &m->chunks[group * columns + i],
				err) < 0)
			return -1;
	m->group_rows[group] = rows;
	m->group_count++;
	return 0;
}

static int read_footer(struct thrift *t, uint64_t size, const char *name, struct arena *arena,
		       struct parquet_meta *m, struct error *err)
{
	struct thrift_field f = {0, THRIFT_STOP};
	int64_t rows = -1;
	uint64_t sum = 0;
	size_t n;

	while (thrift_next(t, &f)) {
		switch (f.id) {
		case 2:
			if (m->column_count)
				return damaged(name, "two schemas", err);
			n = thrift_list(t, &f, THRIFT_STRUCT);
			if (read_schema(t, n, name, arena, m, err) < 0)
				return -1;
			break;
		case 3: rows = thrift_int(t, &f); break;
		case 4:
			n = thrift_list(t, &f, THRIFT_STRUCT);
			/* Every chunk of every group takes a byte at least. */
			if (m->column_count == 0 || m->chunks ||
			    n > (size_t)(t->end - t->p) / m->column_count)
				return damaged(name, "its row groups are not where they belong", err);
			m->chunks = arena_calloc(arena, n * m->column_count, sizeof *m->chunks);
			m->group_rows = arena_calloc(arena, n, sizeof *m->group_rows);
			for (size_t i = 0; i < n; i++)
				if (read_group(t, size, name, m, arena, err) < 0)
					return -1;
			break;
		case 8: return error_set(err, ERR_USAGE, "%s: encrypted Parquet files cannot be read", name);
		default: thrift_skip(t, f.type);
		}
	}
	for (size_t i = 0; i < m->group_count; i++)
		sum += (uint64_t)m->group_rows[i];
	if (t->bad || m->column_count == 0 || rows < 0 || sum != (uint64_t)rows)
		return damaged(name, "its footer is malformed", err);
	m->rows = sum;
	return 0;
}

int parquet_meta_read(const uint8_t *data, uint64_t size, const char *name, struct arena *arena,
		      struct parquet_meta *out, struct error *err)
{
	*out = (struct parquet_meta){0};
	if (size >= 12 && memcmp(data + size - 4, "PARE", 4) == 0)
		return error_set(err, ERR_USAGE, "%s: encrypted Parquet files cannot be read", name);
	if (size < 12 || memcmp(data, "PAR1", 4) != 0 || memcmp(data + size - 4, "PAR1", 4) != 0)
		return error_set(err, ERR_USAGE, "%s: not a Parquet file, or cut off", name);
	uint32_t footer;
	memcpy(&footer, data + size - 8, 4);
	if (footer > size - 12)
		return damaged(name, "its footer is longer than the file", err);
	struct thrift t = {data + size - 8 - footer, data + size - 8, false};
	return read_footer(&t, size - 8 - footer, name, arena, out, err);
}

static void read_data_header(struct thrift *t, struct parquet_page *page)
{
	struct thrift_field f = {0, THRIFT_STOP};

	while (thrift_next(t, &f)) {
		switch (f.id) {
		case 1: page->values = thrift_int(t, &f); break;
		case 2: page->encoding = (int)thrift_int(t, &f); break;
		case 3: page->level_coding = (int)thrift_int(t, &f); break;
		default: thrift_skip(t, f.type);
		}
	}
}

static void read_data_header_v2(struct thrift *t, struct parquet_page *page)
{
	struct thrift_field f = {0, THRIFT_STOP};

	while (thrift_next(t, &f)) {
		switch (f.id) {
		case 1: page->values = thrift_int(t, &f); break;
		case 4: page->encoding = (int)thrift_int(t, &f); break;
		case 5: page->level_size = thrift_int(t, &f); break;
		case 6: page->repetition_size = thrift_int(t, &f); break;
		case 7: page->is_compressed = thrift_bool(t, &f); break;
		default: thrift_skip(t, f.type);
		}
	}
}

bool parquet_page_read(const uint8_t *p, const uint8_t *end, struct parquet_page *out, size_t *used)
{
	struct thrift t = {p, end, false};
	struct thrift_field f = {0, THRIFT_STOP};

	*out = (struct parquet_page){.type = -1,
				     .uncompressed = -1,
				     .compressed = -1,
				     .values = -1,
				     .encoding = -1,
				     .level_coding = -1,
				     .is_compressed = true};
	while (thrift_next(&t, &f)) {
		if (f.id == 1)
			out->type = (int)thrift_int(&t, &f);
		else if (f.id == 2)
			out->uncompressed = thrift_int(&t, &f);
		else if (f.id == 3)
			out->compressed = thrift_int(&t, &f);
		else if ((f.id == 5 || f.id == 7) && thrift_struct(&t, &f))
			read_data_header(&t, out);
		else if (f.id == 8 && thrift_struct(&t, &f))
			read_data_header_v2(&t, out);
		else if (f.id != 5 && f.id != 7 && f.id != 8)
			thrift_skip(&t, f.type);
	}
	*used = (size_t)(t.p - p);
	return !t.bad && out->uncompressed >= 0 && out->compressed >= 0 && out->level_size >= 0 &&
	       out->repetition_size >= 0;
}
