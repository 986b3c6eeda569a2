/* base/: errors, strings, hashes, files, JSON. */
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "base/str.h"

static void an_error_keeps_class_context_and_hint(void **state)
{
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(error_set(&e, ERR_USAGE, "no field \"%s\"\nhere", "x"), -1);
	error_hint(&e, "there is y");
	error_context(&e, "row %d", 7);
	assert_string_equal(e.message, "row 7: no field \"x\" here");
	assert_string_equal(e.hint, "there is y");
	assert_int_equal(e.class, ERR_USAGE);
	errno = ENOSPC;
	error_errno(&e, error_class_of_errno(errno), "blob");
	assert_int_equal(e.class, ERR_INFRA);
	assert_string_equal(e.hint, "");
	assert_int_equal(error_set(NULL, ERR_INFRA, "nobody listens"), -1);
}

static void an_overlong_message_is_cut_not_overrun(void **state)
{
	struct error e = ERROR_INIT;
	char *text = xmalloc(5001);

	(void)state;
	memset(text, 'a', 5000);
	text[5000] = '\0';
	error_set(&e, ERR_STAGE, "%s", text);
	error_context(&e, "%s", text);
	assert_true(strlen(e.message) < sizeof e.message);
	free(text);
}

static void utf8_accepts_exactly_scalar_values(void **state)
{
	uint32_t cp;
	char out[4];

	(void)state;
	for (uint32_t c = 0; c < 0x110000; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		size_t n = utf8_encode(c, out);
		assert_int_equal(utf8_decode(out, n, &cp), n);
		assert_int_equal(cp, c);
		assert_int_equal(utf8_decode(out, n - 1, &cp), 0);
	}
	assert_int_equal(utf8_decode("\xc0\x80", 2, &cp), 0);
	assert_int_equal(utf8_decode("\xed\xa0\x80", 3, &cp), 0);
	assert_int_equal(utf8_decode("\xf4\x90\x80\x80", 4, &cp), 0);
	assert_int_equal(utf8_valid("ab\xff", 3), 2);
}

static void numbers_are_read_whole_or_not_at_all(void **state)
{
	int64_t i;
	uint64_t u;
	double d;
	char text[32];

	(void)state;
	assert_true(parse_i64("-12", &i) && i == -12);
	assert_false(parse_i64("12x", &i));
	assert_false(parse_i64(" 12", &i));
	assert_false(parse_i64("", &i));
	assert_false(parse_i64("99999999999999999999", &i));
	assert_true(parse_u64("18446744073709551615", &u) && u == UINT64_MAX);
	assert_false(parse_u64("-1", &u));
	assert_true(parse_f64("2e-4", &d) && d == 2e-4);
	assert_false(parse_f64("nan", &d));
	assert_false(parse_f64("0x10", &d));
	assert_false(parse_f64("1e999", &d));
	format_f64(2e-4, text);
	assert_string_equal(text, "0.0002");
	format_f64(1000, text);
	assert_string_equal(text, "1000");
	format_f64(-1.5e7, text);
	assert_string_equal(text, "-15000000");
	format_f64(1e-8, text);
	assert_string_equal(text, "1e-08");
	format_f64(0.1 + 0.2, text);
	assert_string_equal(text, "0.30000000000000004");
}

static void the_nearest_name_is_a_likely_typo_or_nothing(void **state)
{
	static const char *const names[] = {"rows", "source", "template", "learning_rate"};

	(void)state;
	assert_string_equal(nearest_name("row", names, 4), "rows");
	assert_string_equal(nearest_name("tempalte", names, 4), "template");
	assert_string_equal(nearest_name("learning-rate", names, 4), "learning_rate");
	assert_null(nearest_name("xyz", names, 4));
	assert_null(nearest_name("", names, 4));
}

static void sha256_equals_the_published_vectors(void **state)
{
	struct digest d, again;
	char hex[65], text[DIGEST_TEXT_SIZE];

	(void)state;
	digest_of("abc", 3, &d);
	digest_hex(&d, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	struct hasher *h = hasher_new();
	for (int round = 0; round < 2; round++) {
		hasher_add(h, "a", 1);
		hasher_add(h, "bc", 2);
		hasher_finish(h, &again);
		assert_true(digest_equal(&d, &again));
	}
	hasher_free(h);
	digest_text(&d, text);
	memset(&again, 0, sizeof again);
	assert_true(digest_parse(text, &again) && digest_equal(&d, &again));
	assert_true(digest_parse(hex, &again));
	assert_false(digest_parse("sha256:12", &again));
}

static int count_visit(const char *relative, const char *path, void *arg, struct error *err)
{
	struct strbuf *b = arg;

	(void)path;
	(void)err;
	strbuf_addf(b, "%s;", relative);
	return 0;
}

static void files_are_written_whole_and_walked_in_order(void **state)
{
	char dir[] = "/tmp/anneal-base-XXXXXX";
	struct error e = ERROR_INIT;
	struct strbuf seen = STRBUF_INIT;
	size_t n;

	(void)state;
	assert_non_null(mkdtemp(dir));
	char *sub = path_join(dir, "b/c"), *one = path_join(dir, "b/c/one"), *two = path_join(dir, "a.txt");
	char *linked = path_join(dir, "z");
	assert_int_equal(dir_create(sub, &e), 0);
	assert_int_equal(dir_create(sub, &e), 0);
	assert_int_equal(file_write_atomic(one, "hello", 5, &e), 0);
	assert_int_equal(file_write_atomic(two, "", 0, &e), 0);
	assert_int_equal(file_link_or_copy(one, linked, &e), 0);
	char *text = file_read(linked, &n, &e);
	assert_int_equal(n, 5);
	assert_string_equal(text, "hello");
	assert_int_equal(tree_walk(dir, count_visit, &seen, &e), 0);
	assert_string_equal(seen.data, "a.txt;b/c/one;z;");
	struct file_map m;
	assert_int_equal(file_map(two, &m, &e), 0);
	assert_null(m.data);
	file_unmap(&m);
	assert_int_equal(file_write_atomic("/nonexistent-dir/x", "a", 1, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	assert_int_equal(tree_remove(dir, &e), 0);
	assert_false(path_exists(dir));
	assert_int_equal(tree_remove(dir, &e), 0);
	free(text);
	free(sub);
	free(one);
	free(two);
	free(linked);
	strbuf_free(&seen);
}

/* Whether the file at path was hashed while it was written: with the right digest, then. */
static bool hashed(const char *path)
{
	struct digest known, read;
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	if (!outfile_digest(&st, &known))
		return false;
	assert_int_equal(digest_of_file(path, &read, NULL, NULL), 0);
	assert_true(digest_equal(&known, &read));
	return true;
}

static void an_outfile_is_hashed_while_it_is_written(void **state)
{
	static const size_t pieces[] = {1, 5, 700000, 400000, 1 << 20, 3, (1 << 20) - 3, 3000001, 2};
	char dir[] = "/tmp/anneal-base-XXXXXX";
	struct error e = ERROR_INIT;
	struct outfile *f;
	size_t all = 0, size;

	(void)state;
	assert_non_null(mkdtemp(dir));
	char *path = path_join(dir, "large"), *copy = path_join(dir, "copy"),
	     *small = path_join(dir, "small");
	char *bytes = xmalloc(8 << 20);
	for (size_t i = 0; i < 8 << 20; i++)
		bytes[i] = (char)(i * 2654435761u >> 11);
	/* Nobody asked for digests yet. */
	assert_int_equal(outfile_create(path, &f, &e), 0);
	assert_int_equal(outfile_add(f, bytes, 2 << 20, &e), 0);
	assert_int_equal(outfile_commit(f, &e), 0);
	assert_false(hashed(path));
	outfile_hashing();
	assert_int_equal(outfile_create(path, &f, &e), 0);
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		assert_int_equal(outfile_add(f, bytes + all, pieces[i], &e), 0);
		all += pieces[i];
	}
	assert_int_equal(outfile_commit(f, &e), 0);
	char *text = file_read(path, &size, &e);
	assert_int_equal(size, all);
	assert_memory_equal(text, bytes, all);
	free(text);
	assert_true(hashed(path));
	/* A copy is, unless the file system shares its blocks; a small file is not. */
	assert_int_equal(file_copy_hashed(path, copy, &e), 0);
	text = file_read(copy, &size, &e);
	assert_int_equal(size, all);
	assert_memory_equal(text, bytes, all);
	free(text);
	hashed(copy);
	assert_int_equal(outfile_create(small, &f, &e), 0);
	assert_int_equal(outfile_add(f, bytes, 10, &e), 0);
	assert_int_equal(outfile_commit(f, &e), 0);
	assert_false(hashed(small));
	/* Who writes to it afterwards makes it another one, and what is abandoned is gone. */
	int fd = open(path, O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	assert_false(hashed(path));
	assert_int_equal(outfile_create(path, &f, &e), 0);
	assert_int_equal(outfile_add(f, bytes, 3 << 20, &e), 0);
	outfile_abandon(f);
	assert_false(path_exists(path));
	assert_int_equal(file_copy_hashed("/nonexistent", copy, &e), -1);
	assert_int_equal(outfile_create("/nonexistent-dir/x", &f, &e), -1);
	outfile_hash_with(NULL);
	assert_int_equal(tree_remove(dir, &e), 0);
	free(bytes);
	free(path);
	free(copy);
	free(small);
}

static void paths_join_and_split(void **state)
{
	(void)state;
	static const char *const cases[][3] = {
		{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"a", "/b", "/b"}, {"", "b", "b"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *p = path_join(cases[i][0], cases[i][1]);
		assert_string_equal(p, cases[i][2]);
		free(p);
	}
	char *d = path_dir("/x");
	assert_string_equal(d, "/");
	free(d);
	d = path_dir("x");
	assert_string_equal(d, ".");
	free(d);
	assert_string_equal(path_base("a/b"), "b");
}

static void json_errors_name_the_place(void **state)
{
	struct error e = ERROR_INIT;
	int64_t i = 5;

	(void)state;
	assert_null(json_parse("{\"a\": }", 7, "config.json", &e));
	assert_non_null(strstr(e.message, "config.json:1:"));
	json_t *j = json_parse("{\"a\": \"x\", \"b\": 3}", 18, "config.json", &e);
	assert_non_null(j);
	assert_int_equal(json_get_i64(j, "none", &i, "config.json", &e), 0);
	assert_int_equal(i, 5);
	assert_int_equal(json_get_i64(j, "b", &i, "config.json", &e), 1);
	assert_int_equal(i, 3);
	assert_int_equal(json_get_i64(j, "a", &i, "config.json", &e), -1);
	assert_string_equal(e.message, "config.json: \"a\" must be an integer, is a string");
	json_decref(j);
}

static void an_arena_hands_out_aligned_memory(void **state)
{
	struct arena a = ARENA_INIT;

	(void)state;
	for (size_t i = 0; i < 10000; i++) {
		char *p = arena_alloc(&a, i % 97);
		assert_int_equal((uintptr_t)p % 16, 0);
		memset(p, 0xab, i % 97);
	}
	char *big = arena_calloc(&a, 1, 1 << 20);
	assert_int_equal(big[(1 << 20) - 1], 0);
	assert_string_equal(arena_printf(&a, "%d-%s", 4, "x"), "4-x");
	arena_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_error_keeps_class_context_and_hint),
		cmocka_unit_test(an_overlong_message_is_cut_not_overrun),
		cmocka_unit_test(utf8_accepts_exactly_scalar_values),
		cmocka_unit_test(numbers_are_read_whole_or_not_at_all),
		cmocka_unit_test(the_nearest_name_is_a_likely_typo_or_nothing),
		cmocka_unit_test(sha256_equals_the_published_vectors),
		cmocka_unit_test(files_are_written_whole_and_walked_in_order),
		cmocka_unit_test(an_outfile_is_hashed_while_it_is_written),
		cmocka_unit_test(paths_join_and_split),
		cmocka_unit_test(json_errors_name_the_place),
		cmocka_unit_test(an_arena_hands_out_aligned_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
