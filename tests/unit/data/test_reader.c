/* Dataset readers: JSON, CSV, text, archives, Parquet. */
#include "tests/unit/data/data_test.h"

#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "data/pack.h"

#define FILES "tests/unit/data/files/"

/* Every row as one JSON line, or the error's message. */
static char *read_all(const struct reader_file *files, size_t n, const struct reader_options *o)
{
	struct error e = ERROR_INIT;
	struct strbuf row = STRBUF_INIT, out = STRBUF_INIT;
	uint64_t id, count = 0;
	struct reader *r = reader_open(files, n, o, &e);
	int got = r ? 1 : -1;

	strbuf_reserve(&out, 0)[0] = '\0';
	while (got > 0 && (got = reader_next(r, &id, &row, &e)) > 0) {
		assert_int_equal(id, count++);
		assert_true(pack_valid((const uint8_t *)row.data, row.len));
		struct row view = {id, (const uint8_t *)row.data, row.len};
		row_to_json(&view, &out);
		strbuf_addc(&out, '\n');
	}
	if (got < 0) {
		assert_int_not_equal(e.class, ERR_NONE);
		strbuf_addf(&out, "ERROR %s", e.message);
	}
	reader_close(r);
	strbuf_free(&row);
	return strbuf_steal(&out);
}

static char *read_path(const char *path, const struct reader_options *o)
{
	struct reader_file f = {path, NULL};
	return read_all(&f, 1, o);
}

/* The rows of a file of that name and text. */
static char *rows_of(const char *name, const char *text, size_t n, const struct reader_options *o)
{
	char *path = scratch_file(name, text, n), *out = read_path(path, o);
	unlink(path);
	free(path);
	return out;
}

static void expect(const char *name, const char *text, const char *expected)
{
	char *out = rows_of(name, text, strlen(text), NULL);
	assert_string_equal(out, expected);
	free(out);
}

static void expect_error_n(const char *name, const char *text, size_t n, const char *part)
{
	char *out = rows_of(name, text, n, NULL);
	if (!strstr(out, "ERROR ") || !strstr(out, part))
		fail_msg("%s: wanted an error with \"%s\", got \"%s\"", n < 1000 ? text : name, part, out);
	free(out);
}

static void expect_error(const char *name, const char *text, const char *part)
{
	expect_error_n(name, text, strlen(text), part);
}

static void json_lines_and_arrays_give_the_same_rows(void **state)
{
	static const char rows[] = "{\"a\": 1}\n{\"b\": [true, null]}\n";

	(void)state;
	expect("x.jsonl", "{\"a\":1}\n{\"b\":[true,null]}\n", rows);
	expect("x.jsonl", "{\"a\":1}\r\n\r\n  {\"b\":[true,null]} ", rows);
	expect("x.json", " [ {\"a\":1} ,\n {\"b\":[true,null]} ] \n", rows);
	expect("x.json", "\xef\xbb\xbf[{\"a\":1},{\"b\":[true,null]}]", rows);
	expect("x.jsonl", "\xef\xbb\xbf{\"a\":1}\n{\"b\":[true,null]}", rows);
	expect("x.json", "[]", "");
	expect("x.jsonl", "", "");
	expect("x.jsonl", " \n\n", "");
	expect("x.jsonl", "\"one\"\n\"t\\u0077o\"\n", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
	expect("x.json", "[\"one\", \"two\"]", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
}

static void numbers_and_strings_are_exact(void **state)
{
	(void)state;
	expect("x.jsonl", "{\"v\": [0, -0, 9223372036854775807, -9223372036854775808, 18446744073709551615]}",
	       "{\"v\": [0, 0, 9223372036854775807, -9223372036854775808, 18446744073709551615]}\n");
	/* Beyond 64 bits an integer becomes the nearest double. */
	expect("x.jsonl", "{\"v\": [18446744073709551616, -9223372036854775809, 100000000000000000000000]}",
	       "{\"v\": [1.8446744073709552e+19, -9.223372036854776e+18, 1e+23]}\n");
	expect("x.jsonl",
	       "{\"v\": [1.0, 0.1, 1e5, 1E-7, -0.0, 123456789.123456789, 5e-324, 2.2250738585072011e-308]}",
	       "{\"v\": [1.0, 0.1, 100000.0, 1e-07, -0.0, 123456789.12345679, 5e-324, "
	       "2.225073858507201e-308]}\n");
	/* Halfway cases and long mantissas, where a naive product of powers is off by one unit. */
	expect("x.jsonl",
	       "{\"v\": [9007199254740993.0, 8.98846567431158e307, 7.2057594037927933e16, "
	       "3.1415926535897932384626433832795028841971]}",
	       "{\"v\": [9007199254740992.0, 8.98846567431158e+307, 7.205759403792794e+16, "
	       "3.141592653589793]}\n");
	expect("x.jsonl", "{\"k\\n\": \"\\\"\\\\\\/\\b\\f\\r\\t \\u00e9 \\ud83d\\ude00 \xf0\x9f\x98\x80\"}",
	       "{\"k\\n\": \"\\\"\\\\/\\u0008\\u000c\\r\\t \xc3\xa9 \xf0\x9f\x98\x80 \xf0\x9f\x98\x80\"}\n");
}

static void what_is_not_json_is_an_error_with_file_row_and_byte(void **state)
{
	struct strbuf deep = STRBUF_INIT;

	(void)state;
	expect_error("x.jsonl", "{\"a\": 1}\n{\"a\": \xff}\n",
		     "x.jsonl: row 2 (byte 15): expected a value, found byte 0xff");
	expect_error("x.jsonl", "{\"a\": \"\xc3(\"}\n", "row 1 (byte 7): invalid UTF-8");
	expect_error("x.jsonl", "{\"a\": \"\xed\xa0\x80\"}\n", "invalid UTF-8");
	expect_error("x.jsonl", "{\"a\": 1, \"b\": 2, \"a\": 3}\n",
		     "row 1 (byte 17): the key \"a\" is there twice");
	expect_error("x.jsonl", "{\"o\": {\"k\": 1, \"\\u006b\": 3}}\n", "the key \"k\" is there twice");
	expect_error_n("x.jsonl", "{\"a\": \"x\0y\"}\n", 13, "a NUL byte in a string");
	expect_error_n("x.jsonl", "\0{}", 3, "a NUL byte");
	expect_error("x.jsonl", "{\"a\": \"x\\u0000y\"}\n", "NUL character");
	expect_error("x.jsonl", "{\"a\": \"\\ud800x\"}\n", "lone surrogate");
	expect_error("x.jsonl", "{\"a\": \"\\udc00\"}\n", "lone surrogate");
	expect_error("x.jsonl", "{\"a\": \"\\x\"}\n", "unknown escape");
	expect_error("x.jsonl", "{\"a\": \"tab\there\"}\n", "control character");
	expect_error("x.jsonl", "{\"a\": 01}\n", "leading zero");
	expect_error("x.jsonl", "{\"a\": 1.}\n", "expected a digit");
	expect_error("x.jsonl", "{\"a\": -}\n", "expected a digit");
	expect_error("x.jsonl", "{\"a\": 1e}\n", "expected a digit");
	expect_error("x.jsonl", "{\"a\": 1e999}\n", "too large for a double");
	expect_error("x.jsonl", "{\"a\": NaN}\n", "expected a value, found 'N'");
	expect_error("x.jsonl", "{'a': 1}\n", "expected a key in double quotes");
	expect_error("x.jsonl", "{\"a\": tru}\n", "expected a value");
	expect_error("x.jsonl", "{\"a\": 1,}\n", "expected a key");
	expect_error("x.jsonl", "{\"a\" 1}\n", "expected ':'");
	expect_error("x.jsonl", "{\"a\": 1\n}\n", "the text ends inside a value");
	expect_error("x.jsonl", "{\"a\": 1} {\"a\": 2}\n", "more text behind the row");
	expect_error("x.jsonl", "[1]\n", "row 1 (byte 1): a row must be an object, this one is an integer");
	expect_error("x.jsonl", "{}\nnull\n", "row 2 (byte 3): a row must be an object, this one is null");
	expect_error("x.json", "[{}, [1]]", "this one is an array");
	expect_error("x.json", "[{} {}]", "row 1 (byte 4): expected ',' or ']'");
	expect_error("x.json", "[{},]", "expected a value, found ']'");
	expect_error("x.json", "[{}", "the file ends inside the array");
	expect_error("x.json", "[{}, {\"a\": \"x", "ends inside a value");
	expect_error("x.json", "[{}] x", "more text behind the end");
	expect_error("x.bin", "{}", "cannot be told from its name");
	strbuf_adds(&deep, "{\"a\": ");
	for (int i = 0; i < 511; i++)
		strbuf_addc(&deep, '[');
	for (int i = 0; i < 511; i++)
		strbuf_addc(&deep, ']');
	strbuf_addc(&deep, '}');
	char *out = rows_of("x.jsonl", deep.data, deep.len, NULL);
	assert_null(strstr(out, "ERROR"));
	free(out);
	strbuf_clear(&deep);
	strbuf_adds(&deep, "{\"a\": ");
	for (int i = 0; i < 100000; i++)
		strbuf_addc(&deep, '[');
	expect_error("x.jsonl", deep.data, "nested more than 512 deep");
	strbuf_free(&deep);
}

static void an_object_with_very_many_keys_is_checked_for_duplicates(void **state)
{
	struct strbuf b = STRBUF_INIT;

	(void)state;
	strbuf_adds(&b, "{\"k0\": 0");
	for (int i = 1; i < 50000; i++)
		strbuf_addf(&b, ", \"k%d\": %d", i, i);
	strbuf_adds(&b, ", \"k777\": 1}");
	expect_error("x.jsonl", b.data, "the key \"k777\" is there twice");
	b.data[b.len - 6] = 'x'; /* k77x */
	char *out = rows_of("x.jsonl", b.data, b.len, NULL);
	assert_null(strstr(out, "ERROR"));
	free(out);
	strbuf_free(&b);
}

static void field_picks_the_array_under_one_key(void **state)
{
	static const struct reader_options o = {NULL, "data"};
	static const struct {
		const char *text, *expected;
	} cases[] = {
		{"{\"version\": \"a]}\\\"\", \"n\": 3, \"o\": {\"data\": [9]}, \"data\": [{\"a\": 1}, "
		 "{\"a\": 2}], \"z\": [[]]}",
		 "{\"a\": 1}\n{\"a\": 2}\n"},
		{"{\"data\":[]}", ""},
		{" {\"t\":true , \"d\\u0061ta\" : [\"x\"]} ", "{\"text\": \"x\"}\n"},
		{"{\"data\": 3}", "ERROR"},
		{"{\"daten\": [], \"rows\": 1}", "has no key \"data\"; its keys: daten, rows"},
		{"[1]", "must be one object"},
		{"{\"data\": [{}]", "ends inside the object"},
		{"{\"x\": [", "ends inside a value"},
		{"{}", "its keys: none"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *out = rows_of("x.json", cases[i].text, strlen(cases[i].text), &o);
		if (!strstr(out, cases[i].expected) || (!*cases[i].expected && *out))
			fail_msg("%s: %s", cases[i].text, out);
		free(out);
	}
}

/* Rows of every length around the window's refills, in both shapes. */
static void rows_across_the_window_boundary_are_whole(void **state)
{
	struct strbuf lines = STRBUF_INIT, array = STRBUF_INIT, csv = STRBUF_INIT, expected = STRBUF_INIT;

	(void)state;
	strbuf_addc(&array, '[');
	strbuf_adds(&csv, "t,n\n");
	for (int i = 0; i < 3000; i++) {
		int n = i % 1500 + (i == 2000 ? 3000000 : 0);
		char *text = malloc((size_t)n + 1);
		memset(text, 'a' + i % 26, (size_t)n);
		text[n] = '\0';
		strbuf_addf(&lines, "{\"t\": \"%s\\u00e9\xc3\xa9\", \"n\": %d.5}\n", text, i);
		strbuf_addf(&array, "%s{\"t\": \"%s\\u00e9\xc3\xa9\", \"n\": %d.5}", i ? ", " : "", text, i);
		strbuf_addf(&csv, "\"%s\xc3\xa9\xc3\xa9\",%d.5\r\n", text, i);
		strbuf_addf(&expected, "{\"t\": \"%s\xc3\xa9\xc3\xa9\", \"n\": %d.5}\n", text, i);
		free(text);
	}
	strbuf_addc(&array, ']');
	char *a = rows_of("x.jsonl", lines.data, lines.len, NULL),
	     *b = rows_of("x.json", array.data, array.len, NULL);
	assert_true(strcmp(a, expected.data) == 0);
	assert_true(strcmp(b, expected.data) == 0);
	char *c = rows_of("x.csv", csv.data, csv.len, NULL);
	size_t count = 0;
	for (char *p = c; *p; p++)
		count += *p == '\n';
	assert_int_equal(count, 3000);
	assert_null(strstr(c, "ERROR"));
	assert_int_equal(strlen(c), expected.len + 2 * 3000); /* the numbers are strings: two quotes each */
	free(a);
	free(b);
	free(c);
	strbuf_free(&lines);
	strbuf_free(&array);
	strbuf_free(&csv);
	strbuf_free(&expected);
}

static void a_row_above_64_mib_is_refused(void **state)
{
	size_t n = ((size_t)64 << 20) + 100;
	char *text = malloc(n);

	(void)state;
	memset(text, 'x', n);
	memcpy(text, "{\"a\":\"", 6);
	memcpy(text + n - 3, "\"}\n", 3);
	expect_error_n("big.jsonl", text, n, "larger than 64 MiB");
	memcpy(text, "[{\"a\":\"", 7);
	expect_error_n("big.json", text, n, "larger than 64 MiB");
	memset(text, 'x', n);
	memcpy(text, "a\n\"xxx", 6);
	text[n - 1] = '"';
	expect_error_n("big.csv", text, n, "larger than 64 MiB");
	free(text);
}

static void csv_is_read_as_rfc_4180_says(void **state)
{
	(void)state;
	expect("x.csv", "a,b\n1,x\n", "{\"a\": \"1\", \"b\": \"x\"}\n");
	expect("x.csv",
	       "\xef\xbb\xbf"
	       "a,b\r\n\"x, y\",\"say \"\"hi\"\"\"\r\n,\r\n\r\n007,\"l1\nl2\"",
	       "{\"a\": \"x, y\", \"b\": \"say \\\"hi\\\"\"}\n{\"a\": \"\", \"b\": \"\"}\n{\"a\": \"007\", "
	       "\"b\": \"l1\\nl2\"}\n");
	expect("x.csv", ",b,\n0,1,2\n", "{\"Unnamed: 0\": \"0\", \"b\": \"1\", \"Unnamed: 2\": \"2\"}\n");
	expect("x.tsv", "a\tb\n1,5\t6\" tall\n", "{\"a\": \"1,5\", \"b\": \"6\\\" tall\"}\n");
	expect("x.csv", "a\n\"\"\nx", "{\"a\": \"\"}\n{\"a\": \"x\"}\n");
	expect("x.csv", "", "");
	expect("x.csv", "a,b\n", "");
	expect_error("x.csv", "a,b\n1,2\n1,2,3\n", "row 2 (byte 8): 3 values, but the header has 2 columns");
	expect_error("x.csv", "a,b\n1\n", "1 values, but the header has 2 columns");
	expect_error("x.csv", "a,b\n1,\"x\n", "row 1 (byte 6): a quote that is never closed");
	expect_error("x.csv", "a,b\n1,\"x\"y\n", "text behind a closing quote");
	expect_error("x.csv", "a,b,a\n", "the column \"a\" twice");
	expect_error("x.csv", "a,b\n1,\xff\n", "row 1 (byte 6): invalid UTF-8");
	expect_error_n("x.csv", "a,b\n1,\0\n", 8, "NUL");
}

static void text_has_a_row_per_line(void **state)
{
	(void)state;
	expect("x.txt", "one\r\n\ntwo", "{\"text\": \"one\"}\n{\"text\": \"\"}\n{\"text\": \"two\"}\n");
	expect("x.txt", "one\n", "{\"text\": \"one\"}\n");
	expect_error("x.txt", "one\nt\xffo\n", "row 2 (byte 5): invalid UTF-8");
}

/* An archive of members, made by libarchive itself. */
static char *make_archive(const char *name, const char *filter, const char *format,
			  const char *const (*members)[2], size_t n)
{
	char *path = scratch_path(name);
	struct archive *a = archive_write_new();

	if (strcmp(filter, "none") != 0)
		assert_int_equal(archive_write_add_filter_by_name(a, filter), ARCHIVE_OK);
	assert_int_equal(archive_write_set_format_by_name(a, format), ARCHIVE_OK);
	assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
	for (size_t i = 0; i < n; i++) {
		struct archive_entry *e = archive_entry_new();
		size_t len = strlen(members[i][1]);
		archive_entry_set_pathname(e, members[i][0]);
		archive_entry_set_filetype(e, AE_IFREG);
		archive_entry_set_perm(e, 0644);
		archive_entry_set_size(e, (la_int64_t)len);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		assert_int_equal(archive_write_data(a, members[i][1], len), len);
		archive_entry_free(e);
	}
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return path;
}

static void compressed_files_and_archives_are_read_through(void **state)
{
	static const char *const one[][2] = {{"data", "{\"a\": 1}\n{\"a\": 2}\n"}};
	static const char *const many[][2] = {
		{"d/b.jsonl", "{\"a\": 1}\n"},       {"d/README.md", "no data"},
		{"d/.hidden.jsonl", "{\"a\": 9}\n"}, {"d/a.csv", "a\nx\n"},
		{"__MACOSX/b.jsonl", "junk"},        {"d/c.json", "[{\"a\": 3}]"}};
	static const char *const none[][2] = {{"readme", "nothing"}};
	static const char *const filters[][2] = {
		{"gzip", "x.jsonl.gz"}, {"zstd", "x.jsonl.zst"}, {"xz", "x.jsonl.xz"}};

	(void)state;
	for (int i = 0; i < 3; i++) {
		char *path = make_archive(filters[i][1], filters[i][0], "raw", one, 1),
		     *out = read_path(path, NULL);
		assert_string_equal(out, "{\"a\": 1}\n{\"a\": 2}\n");
		free(out);
		free(path);
	}
	static const char *const archives[][3] = {{"x.tar", "none", "ustar"},
						  {"x.tar.gz", "gzip", "paxr"},
						  {"x.zip", "none", "zip"},
						  {"x.tzst", "zstd", "gnutar"}};
	for (int i = 0; i < 4; i++) {
		char *path = make_archive(archives[i][0], archives[i][1], archives[i][2], many, 6);
		char *out = read_path(path, NULL);
		assert_string_equal(out, "{\"a\": 1}\n{\"a\": \"x\"}\n{\"a\": 3}\n");
		free(out);
		free(path);
	}
	static const char *const nested[][2] = {{"a.jsonl", "{}"}, {"b.jsonl.gz", "x"}};
	char *deep = make_archive("nested.tar", "none", "ustar", nested, 2), *error = read_path(deep, NULL);
	assert_non_null(strstr(error, "b.jsonl.gz: a compressed file inside an archive cannot be read"));
	free(error);
	free(deep);
	static const char *const nothing[][2] = {{"data", ""}};
	char *empty = make_archive("empty.jsonl.gz", "gzip", "raw", nothing, 1),
	     *no_rows = read_path(empty, NULL);
	assert_string_equal(no_rows, "");
	free(no_rows);
	free(empty);
	char *path = make_archive("none.zip", "none", "zip", none, 1), *out = read_path(path, NULL);
	assert_non_null(strstr(out, "there is no data file in the archive"));
	free(out);
	free(path);
}

static void a_damaged_archive_is_an_error(void **state)
{
	static const char *const one[][2] = {{"data", "{\"a\": 1}\n{\"a\": 2}\n"}};
	char *path = make_archive("cut.jsonl.gz", "gzip", "raw", one, 1);
	size_t n;
	char *bytes = file_read(path, &n, NULL);

	(void)state;
	assert_int_equal(file_write_atomic(path, bytes, n - 12, NULL), 0);
	char *out = read_path(path, NULL);
	assert_non_null(strstr(out, "cannot be unpacked"));
	free(out);
	free(bytes);
	free(path);
}

static void shards_follow_each_other_in_the_order_of_their_names(void **state)
{
	struct error e = ERROR_INIT;
	char *b = scratch_file("dir/b.jsonl", "{\"n\": 2}\n", 9),
	     *a = scratch_file("dir/a/z.csv", "n\n1\n", 4);
	char *md = scratch_file("dir/README.md", "# x", 3), *dir = scratch_path("dir"),
	     *c = scratch_file("blob", "{\"n\": 3}\n", 9);
	const struct reader_file files[] = {{dir, NULL}, {c, "train.jsonl"}};
	const struct reader_options as_json = {"json", NULL}, wrong = {"xml", NULL};

	(void)state;
	char *out = read_all(files, 2, NULL);
	assert_string_equal(out, "{\"n\": \"1\"}\n{\"n\": 2}\n{\"n\": 3}\n");
	free(out);
	out = read_path(c, &as_json);
	assert_string_equal(out, "{\"n\": 3}\n");
	free(out);
	assert_null(reader_open(files, 2, &wrong, &e));
	assert_non_null(strstr(e.hint, "parquet"));
	out = read_path("/nonexistent/x.jsonl", NULL);
	assert_non_null(strstr(out, "No such file"));
	free(out);
	unlink(b);
	free(a);
	free(b);
	free(c);
	free(md);
	free(dir);
}

static void parquet_gives_the_rows_that_pyarrow_wrote(void **state)
{
	static const char *const names[] = {"none_v1", "none_v2", "snappy_v1", "snappy_v2",
					    "gzip_v1", "gzip_v2", "zstd_v1",   "zstd_v2"};
	char *expected = file_read(FILES "rows.jsonl", NULL, NULL);
	char path[128];

	(void)state;
	assert_non_null(expected);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, FILES "%s.parquet", names[i]);
		char *out = read_path(path, NULL);
		assert_string_equal(out, expected);
		free(out);
	}
	free(expected);
	char *out = read_path(FILES "empty.parquet", NULL);
	assert_string_equal(out, "");
	free(out);
}

static void parquet_inside_an_archive_is_read_too(void **state)
{
	char *expected = file_read(FILES "rows.jsonl", NULL, NULL);
	size_t n;
	char *bytes = file_read(FILES "snappy_v1.parquet", &n, NULL), *path = scratch_path("p.zip");
	struct archive *a = archive_write_new();
	struct archive_entry *e = archive_entry_new();

	(void)state;
	archive_write_set_format_zip(a);
	archive_write_open_filename(a, path);
	archive_entry_set_pathname(e, "train.parquet");
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_size(e, (la_int64_t)n);
	archive_write_header(a, e);
	archive_write_data(a, bytes, n);
	archive_entry_free(e);
	archive_write_free(a);
	char *out = read_path(path, NULL);
	assert_string_equal(out, expected);
	free(out);
	free(path);
	free(bytes);
	free(expected);
}

static void what_parquet_cannot_give_is_named(void **state)
{
	static const char *const cases[][2] = {
		{"delta", "column \"i32\", row 1: values in encoding DELTA_BINARY_PACKED"},
		{"nested", "column \"tags\": nested values"},
		{"lz4", "column \"s\" is compressed with LZ4"}};
	char path[128];

	(void)state;
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, FILES "%s.parquet", cases[i][0]);
		char *out = read_path(path, NULL);
		if (!strstr(out, cases[i][1]))
			fail_msg("%s", out);
		free(out);
	}
	expect_error("x.parquet", "hello, this is text", "not a Parquet file");
}

static void a_damaged_parquet_file_is_never_a_crash(void **state)
{
	size_t n;
	char *bytes = file_read(FILES "none_v2.parquet", &n, NULL), *path = scratch_path("bad.parquet");
	uint32_t random = 1;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		char kept = bytes[i];
		random = random * 1664525 + 1013904223;
		bytes[i] = (char)(i % 3 == 0 ? 0xff : random >> 24);
		FILE *f = fopen(path, "wb");
		fwrite(bytes, 1, n, f);
		fclose(f);
		free(read_path(path, NULL));
		bytes[i] = kept;
	}
	for (size_t cut = 0; cut < n; cut += 7) {
		FILE *f = fopen(path, "wb");
		fwrite(bytes, 1, cut, f);
		fclose(f);
		char *out = read_path(path, NULL);
		assert_non_null(strstr(out, "ERROR"));
		free(out);
	}
	free(bytes);
	free(path);
}

static void the_real_datasets_read_whole(void **state)
{
	static const struct {
		const char *path;
		size_t rows;
	} sets[] = {{SHARED_DATA "sql_create_context/rows.jsonl", 4000},
		    {SHARED_DATA "wikisql/train.jsonl", 1000},
		    {SHARED_DATA "spider/dev.json", 1034}};

	(void)state;
	SKIP_WITHOUT(SHARED_DATA "spider/dev.json");
	for (int i = 0; i < 3; i++) {
		char *out = read_path(sets[i].path, NULL);
		size_t lines = 0;
		for (char *p = out; *p; p++)
			lines += *p == '\n';
		assert_int_equal(lines, sets[i].rows);
		if (i == 0) /* the file is what json.dumps writes, so it must come back byte for byte */
		{
			char *bytes = file_read(sets[i].path, NULL, NULL);
			assert_true(strcmp(bytes, out) == 0);
			free(bytes);
		}
		free(out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_lines_and_arrays_give_the_same_rows),
		cmocka_unit_test(numbers_and_strings_are_exact),
		cmocka_unit_test(what_is_not_json_is_an_error_with_file_row_and_byte),
		cmocka_unit_test(an_object_with_very_many_keys_is_checked_for_duplicates),
		cmocka_unit_test(field_picks_the_array_under_one_key),
		cmocka_unit_test(rows_across_the_window_boundary_are_whole),
		cmocka_unit_test(a_row_above_64_mib_is_refused),
		cmocka_unit_test(csv_is_read_as_rfc_4180_says),
		cmocka_unit_test(text_has_a_row_per_line),
		cmocka_unit_test(compressed_files_and_archives_are_read_through),
		cmocka_unit_test(a_damaged_archive_is_an_error),
		cmocka_unit_test(shards_follow_each_other_in_the_order_of_their_names),
		cmocka_unit_test(parquet_gives_the_rows_that_pyarrow_wrote),
		cmocka_unit_test(parquet_inside_an_archive_is_read_too),
		cmocka_unit_test(what_parquet_cannot_give_is_named),
		cmocka_unit_test(a_damaged_parquet_file_is_never_a_crash),
		cmocka_unit_test(the_real_datasets_read_whole),
	};
	return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
