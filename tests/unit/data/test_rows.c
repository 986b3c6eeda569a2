/* pack, frames, rows, tokens. */
#include "tests/unit/data/data_test.h"

#include <math.h>

#include "base/hash.h"
#include "data/frames.h"
#include "data/tokens.h"

static void values_have_their_shortest_msgpack_form(void **state)
{
	struct strbuf b = STRBUF_INIT;
	static const struct {
		int64_t v;
		const char *bytes;
		size_t n;
	} ints[] = {
		{0, "\x00", 1},
		{127, "\x7f", 1},
		{128, "\xcc\x80", 2},
		{255, "\xcc\xff", 2},
		{256, "\xcd\x01\x00", 3},
		{65536, "\xce\x00\x01\x00\x00", 5},
		{4294967296, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 9},
		{-1, "\xff", 1},
		{-32, "\xe0", 1},
		{-33, "\xd0\xdf", 2},
		{-129, "\xd1\xff\x7f", 3},
		{-32769, "\xd2\xff\xff\x7f\xff", 5},
		{INT64_MIN, "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9},
	};

	(void)state;
	for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
		struct pack_value v;
		strbuf_clear(&b);
		pack_i64(&b, ints[i].v);
		assert_int_equal(b.len, ints[i].n);
		assert_memory_equal(b.data, ints[i].bytes, b.len);
		const uint8_t *p = (const uint8_t *)b.data, *end = p + b.len;
		assert_true(pack_read(&p, end, &v));
		assert_int_equal(v.type, PACK_INT);
		assert_true(v.i64 == ints[i].v);
		assert_ptr_equal(p, end);
	}
	strbuf_clear(&b);
	pack_f64(&b, 1.0);
	assert_memory_equal(b.data, "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", 9);
	static const size_t lengths[] = {0, 31, 32, 255, 256, 65535, 65536};
	static const size_t heads[] = {1, 1, 2, 2, 3, 3, 5};
	char *text = calloc(1, 65536);
	for (size_t i = 0; i < 7; i++) {
		strbuf_clear(&b);
		pack_str(&b, text, lengths[i]);
		assert_int_equal(b.len, lengths[i] + heads[i]);
		assert_true(pack_valid((const uint8_t *)b.data, b.len));
		assert_false(pack_valid((const uint8_t *)b.data, b.len - 1));
	}
	free(text);
	strbuf_free(&b);
}

static void floats_are_spelled_as_python_spells_them(void **state)
{
	/* repr() of CPython 3.11 */
	static const struct {
		double v;
		const char *text;
	} cases[] = {
		{0, "0.0"},
		{-0.0, "-0.0"},
		{1, "1.0"},
		{1.5, "1.5"},
		{-2.25, "-2.25"},
		{0.1, "0.1"},
		{0.1 + 0.2, "0.30000000000000004"},
		{1e15, "1000000000000000.0"},
		{1e16, "1e+16"},
		{1.5e16, "1.5e+16"},
		{123456789012345680.0, "1.2345678901234568e+17"},
		{0.0001, "0.0001"},
		{0.00012345, "0.00012345"},
		{0.00001, "1e-05"},
		{1e-5 / 3, "3.3333333333333337e-06"},
		{5e-324, "5e-324"},
		{1.7976931348623157e308, "1.7976931348623157e+308"},
		{2.2250738585072014e-308, "2.2250738585072014e-308"},
		{9007199254740993.0, "9007199254740992.0"},
		{100, "100.0"},
		{12345.678, "12345.678"},
		{1e22, "1e+22"},
		{INFINITY, "inf"},
		{-INFINITY, "-inf"},
		{NAN, "nan"},
	};
	char text[32];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		pack_f64_text(cases[i].v, text);
		assert_string_equal(text, cases[i].text);
	}
}

static void rows_come_back_as_they_were_added(void **state)
{
	struct error e = ERROR_INIT;
	struct strbuf b = STRBUF_INIT, out = STRBUF_INIT;
	static const char *const json[] = {
		"{\"q\": \"h\\u00e9\\n\", \"n\": 12, \"f\": 2.0, \"b\": true, \"z\": null}",
		"{}",
		"{\"a\": {\"b\": [1, -2, {\"c\": \"d\"}]}, \"u\": 18446744073709551615}",
	};
	static const uint64_t ids[] = {7, UINT64_MAX, 0};
	char *path = scratch_path("r.rows");
	struct row row;

	(void)state;
	struct rows_writer *w = rows_create(path, &e);
	assert_non_null(w);
	for (int i = 0; i < 3; i++) {
		row = row_of(json[i], ids[i], &b);
		assert_int_equal(rows_add(w, row.id, row.fields, row.len, &e), 0);
	}
	assert_int_equal(rows_add(w, 1, "\x01", 1, &e), -1);
	assert_int_equal(rows_commit(w, &e), 0);

	struct rows *r = rows_open(path, &e);
	assert_non_null(r);
	assert_int_equal(rows_count(r), 3);
	for (int i = 2; i >= 0; i--) {
		assert_int_equal(rows_get(r, (uint64_t)i, &row, &e), 0);
		assert_true(row.id == ids[i]);
		strbuf_clear(&out);
		row_to_json(&row, &out);
		struct strbuf again = STRBUF_INIT;
		struct row same = row_of(out.data, 0, &again);
		assert_int_equal(same.len, row.len);
		assert_memory_equal(same.fields, row.fields, row.len);
		strbuf_free(&again);
	}
	assert_int_equal(rows_get(r, 0, &row, &e), 0);
	strbuf_clear(&out);
	row_to_json(&row, &out);
	assert_string_equal(out.data,
			    "{\"q\": \"h\xc3\xa9\\n\", \"n\": 12, \"f\": 2.0, \"b\": true, \"z\": null}");
	assert_int_equal(rows_get(r, 3, &row, &e), -1);
	assert_non_null(strstr(e.message, "no record 3, there are 3"));
	rows_close(r);
	free(path);
	strbuf_free(&b);
	strbuf_free(&out);
}

static void a_field_is_found_by_name_and_by_path(void **state)
{
	struct strbuf b = STRBUF_INIT, text = STRBUF_INIT;
	struct pack_value v;
	struct row row = row_of(
		"{\"a\": {\"b\": {\"c\": 1}, \"l\": [5, {\"x\": 6}]}, \"a.b\": 2, \"question\": 3}", 0, &b);

	(void)state;
	assert_true(row_field(&row, "a.b", &v) && v.i64 == 2); /* the field of that very name wins */
	assert_true(row_field(&row, "a.b.c", &v) && v.i64 == 1);
	assert_true(row_field(&row, "a.l.1.x", &v) && v.i64 == 6);
	assert_true(row_field(&row, "a", &v) && v.type == PACK_MAP);
	assert_false(row_field(&row, "a.l.2", &v));
	assert_false(row_field(&row, "a.b.c.d", &v));
	assert_false(row_field(&row, "a.", &v));
	assert_false(row_field(&row, "", &v));
	assert_false(row_field(&row, "0", &v));
	row_names(&row, &text);
	assert_string_equal(text.data, "a, a.b, question");
	strbuf_clear(&text);
	assert_true(row_nearest(&row, "qestion", &text));
	assert_string_equal(text.data, "question");
	strbuf_free(&b);
	strbuf_free(&text);
}

static void the_same_rows_are_the_same_bytes_and_the_format_is_the_documented_one(void **state)
{
	/* FORMAT.md, by hand: head, [0, {"a": 1}], properties {}, one index entry, footer. */
	static const uint8_t expected[] = "\x89"
					  "ANF\r\n\x1a\n\x01\0\0\0rows"
					  "\x92\0\x81\xa1"
					  "a\x01"
					  "\x80"
					  "\x10\0\0\0\0\0\0\0"
					  "\x16\0\0\0\0\0\0\0\x17\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0ANF end\n";
	struct strbuf b = STRBUF_INIT;
	char *path = scratch_path("same.rows");
	struct row row = row_of("{\"a\": 1}", 0, &b);
	size_t n;

	(void)state;
	for (int round = 0; round < 2; round++) {
		struct rows_writer *w = rows_create(path, NULL);
		assert_int_equal(rows_add(w, 0, row.fields, row.len, NULL), 0);
		assert_int_equal(rows_commit(w, NULL), 0);
		char *bytes = file_read(path, &n, NULL);
		assert_int_equal(n, sizeof expected - 1);
		assert_memory_equal(bytes, expected, n);
		free(bytes);
	}
	free(path);
	strbuf_free(&b);
}

static void an_aborted_or_unfinished_file_is_no_rows_file(void **state)
{
	struct error e = ERROR_INIT;
	char *path = scratch_path("gone.rows");

	(void)state;
	rows_abort(rows_create(path, &e));
	assert_false(path_exists(path));
	rows_abort(NULL);
	char *text = scratch_file("text.rows", "hello", 5),
	     *head = scratch_file("head.rows",
				  "\x89"
				  "ANF\r\n\x1a\n\x01\0\0\0rows",
				  16);
	assert_null(rows_open(text, &e));
	assert_non_null(strstr(e.message, "not an anneal row or token file"));
	assert_null(rows_open(head, &e));
	assert_non_null(strstr(e.message, "never finished"));
	assert_null(tokens_open(head, &e));
	assert_non_null(strstr(e.message, "another kind"));
	assert_int_equal(e.class, ERR_USAGE);
	free(path);
	free(text);
	free(head);
}

static void read_everything(const char *path)
{
	struct error e = ERROR_INIT;
	struct rows *r = rows_open(path, &e);
	struct tokens *t = tokens_open(path, &e);
	struct strbuf out = STRBUF_INIT;
	struct pack_value v;
	struct row row;
	struct tokens_item item;
	volatile int64_t sum = 0;

	for (uint64_t i = 0; r && i < rows_count(r) && i < 100; i++) {
		if (rows_get(r, i, &row, &e) == 0) {
			row_to_json(&row, &out);
			row_names(&row, &out);
			row_field(&row, "a.b", &v);
		}
	}
	for (uint64_t i = 0; t && i < tokens_count(t) && i < 100; i++)
		if (tokens_get(t, i, &item, &e) == 0)
			for (uint32_t k = 0; k < item.n; k++)
				sum += item.ids[k];
	rows_close(r);
	tokens_close(t);
	strbuf_free(&out);
}

/* Under the sanitizers this is the crash test; in any build no damaged file may hang or pass as longer. */
static void a_damaged_file_is_an_error_never_a_crash(void **state)
{
	struct strbuf b = STRBUF_INIT;
	char *path = scratch_path("whole"), *bad = scratch_path("bad");
	static const int32_t ids[] = {2, 10, 11, 1};
	static const struct tokens_meta meta[] = {{"tokenizer", "sha256:ab", 0}, {"eos_id", NULL, 1}};
	size_t n;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		if (kind == 0) {
			struct rows_writer *w = rows_create(path, NULL);
			struct row row = row_of("{\"a\": {\"b\": \"xyz\"}, \"l\": [1, 2.5, null]}", 300, &b);
			for (uint64_t i = 0; i < 3; i++)
				rows_add(w, i, row.fields, row.len, NULL);
			assert_int_equal(rows_commit(w, NULL), 0);
		} else {
			struct tokens_writer *w = tokens_create(path, NULL);
			for (uint64_t i = 0; i < 3; i++)
				tokens_add(w, i, ids, 4, 1, NULL);
			assert_int_equal(tokens_commit(w, meta, 2, NULL), 0);
		}
		char *bytes = file_read(path, &n, NULL);
		for (size_t cut = 0; cut < n; cut++) {
			free(scratch_file("bad", bytes, cut));
			assert_null(rows_open(bad, NULL));
			assert_null(tokens_open(bad, NULL));
		}
		static const uint8_t values[] = {0x00, 0xff, 0x80, 0xdf, 0xdd, 0xdb, 0xc1};
		for (size_t at = 0; at < n; at++) {
			char kept = bytes[at];
			for (size_t k = 0; k < sizeof values; k++) {
				FILE *f = fopen(bad, "wb");
				bytes[at] = (char)values[k];
				fwrite(bytes, 1, n, f);
				fclose(f);
				read_everything(bad);
			}
			bytes[at] = kept;
		}
		free(bytes);
	}
	free(path);
	free(bad);
	strbuf_free(&b);
}

static void tokens_come_back_aligned_with_their_facts(void **state)
{
	struct error e = ERROR_INIT;
	static const int32_t one[] = {2, 106, 235349, 1};
	static const struct tokens_meta meta[] = {
		{"vocab_size", NULL, 256000}, {"tokenizer", "sha256:abcd", 0}, {"eos_id", NULL, -1}};
	struct tokens_meta m;
	struct tokens_item item;
	char *path = scratch_path("t.toks");
	const char *text;
	int64_t number;

	(void)state;
	struct tokens_writer *w = tokens_create(path, &e);
	assert_non_null(w);
	assert_int_equal(tokens_add(w, 40000000000u, one, 4, 2, &e), 0);
	assert_int_equal(tokens_add(w, 3, one, 1, 1, &e), 0);
	assert_int_equal(tokens_add(w, 4, NULL, 0, 0, &e), 0);
	assert_int_equal(tokens_add(w, 5, one, 3, 0, &e), 0);
	assert_int_equal(tokens_add(w, 6, one, 3, 4, &e), -1);
	assert_int_equal(tokens_commit(w, meta, 3, &e), 0);
	struct tokens *t = tokens_open(path, &e);
	assert_non_null(t);
	assert_int_equal(tokens_count(t), 4);
	assert_int_equal(tokens_get(t, 3, &item, &e), 0);
	assert_int_equal(item.id, 5);
	assert_int_equal(item.n, 3);
	assert_int_equal((uintptr_t)item.ids % 4, 0);
	assert_memory_equal(item.ids, one, 12);
	assert_int_equal(tokens_get(t, 0, &item, &e), 0);
	assert_int_equal(item.id, 40000000000u);
	assert_int_equal(item.label_start, 2);
	assert_memory_equal(item.ids, one, 16);
	assert_int_equal(tokens_get(t, 2, &item, &e), 0);
	assert_int_equal(item.n, 0);
	assert_int_equal(tokens_get(t, 4, &item, &e), -1);
	assert_int_equal(tokens_meta_number(t, "vocab_size", &number, &e), 1);
	assert_int_equal(number, 256000);
	assert_int_equal(tokens_meta_number(t, "eos_id", &number, &e), 1);
	assert_int_equal(number, -1);
	assert_int_equal(tokens_meta_number(t, "nothing", &number, &e), 0);
	assert_int_equal(tokens_meta_number(t, "tokenizer", &number, &e), -1);
	assert_int_equal(tokens_meta_text(t, "tokenizer", &text, &e), 1);
	assert_string_equal(text, "sha256:abcd");
	assert_int_equal(tokens_meta_at(t, 1, &m), 1);
	assert_string_equal(m.name, "tokenizer");
	assert_int_equal(tokens_meta_at(t, 3, &m), 0);
	tokens_close(t);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_have_their_shortest_msgpack_form),
		cmocka_unit_test(floats_are_spelled_as_python_spells_them),
		cmocka_unit_test(rows_come_back_as_they_were_added),
		cmocka_unit_test(a_field_is_found_by_name_and_by_path),
		cmocka_unit_test(the_same_rows_are_the_same_bytes_and_the_format_is_the_documented_one),
		cmocka_unit_test(an_aborted_or_unfinished_file_is_no_rows_file),
		cmocka_unit_test(a_damaged_file_is_an_error_never_a_crash),
		cmocka_unit_test(tokens_come_back_aligned_with_their_facts),
	};
	return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
