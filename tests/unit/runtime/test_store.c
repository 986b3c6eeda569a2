/* The store: artifacts, the stat cache, results, checkpoints, pins. */
#include "tests/unit/runtime/store_fixture.h"

/* ---- artifacts ---- */

static void a_file_goes_in_and_comes_out_read_only(void **state)
{
	struct stat st;
	struct digest d;
	(void)state;
	digest_of("hello", 5, &d);
	struct artifact a = take_text("hello"), again = take_text("hello");
	assert_true(digest_equal(&a.digest, &d));
	assert_true(digest_equal(&again.digest, &d));
	assert_int_equal(a.size, 5);
	assert_int_equal(a.files, 1);
	assert_true(store_has(s, &d, false));
	assert_int_equal(store_put_at(s, &d, false, at("out"), &err), 0);
	assert_file(at("out"), "hello");
	assert_int_equal(stat(at("out"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0444);
	assert_int_equal(store_put_at(s, &d, false, at("out"), &err), -1); /* it is there already */
	struct artifact empty = take_text("");
	assert_int_equal(store_put_at(s, &empty.digest, false, at("empty"), &err), 0);
	assert_file(at("empty"), "");
}

static void blobs_of_every_size_keep_their_bytes(void **state)
{
	static const size_t sizes[] = {
		1, 4096, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) + 7, 5 << 20};
	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		struct digest want, got;
		char *bytes = malloc(sizes[i]);
		for (size_t k = 0; k < sizes[i]; k++)
			bytes[k] = (char)(k * 2654435761u >> 13);
		digest_of(bytes, sizes[i], &want);
		put(at("in"), bytes, sizes[i]);
		struct artifact a = take(at("in"));
		assert_true(digest_equal(&a.digest, &want));
		assert_int_equal(store_put_at(s, &want, false, at("out"), &err), 0);
		assert_int_equal(digest_of_file(at("out"), &got, NULL, &err), 0);
		assert_true(digest_equal(&got, &want));
		unlink(at("out"));
		free(bytes);
	}
}

/* What is known of an unchanged file counts, which a wrong digest shows; of a changed one it does not. */
static void a_known_file_is_not_read_again(void **state)
{
	struct known_file known = {.path = at("in")};
	struct digest right;
	struct artifact a;
	struct stat st;
	(void)state;
	puts_(at("in"), "hello");
	assert_int_equal(stat(at("in"), &st), 0);
	known.inode = st.st_ino;
	known.size = (uint64_t)st.st_size;
	known.modified_ns = stat_modified_ns(&st);
	digest_of("jello", 5, &known.digest);
	digest_of("hello", 5, &right);
	assert_int_equal(store_take_known(s, at("in"), &known, 1, &a, &err), 0);
	assert_true(digest_equal(&a.digest, &known.digest));
	for (int i = 0; i < 4; i++) {
		struct known_file other = known;
		puts_(at("in"), "hello");
		assert_int_equal(stat(at("in"), &st), 0);
		other.inode = st.st_ino + (i == 0);
		other.size = 5 + (i == 1);
		other.modified_ns = stat_modified_ns(&st) + (i == 2);
		other.path = i == 3 ? "elsewhere" : at("in");
		assert_int_equal(store_take_known(s, at("in"), &other, 1, &a, &err), 0);
		assert_true(digest_equal(&a.digest, &right));
	}
}

static void a_large_file_is_shared_by_link_never_copied(void **state)
{
	struct stat a, b;
	char path[300];
	(void)state;
	make_big(at("in"), 'x');
	struct artifact big = take(at("in"));
	assert_int_equal(big.size, STORE_INLINE_MAX + 1);
	big_path(&big.digest, path, sizeof path);
	assert_int_equal(store_put_at(s, &big.digest, false, at("out"), &err), 0);
	assert_int_equal(stat(path, &a), 0);
	assert_int_equal(stat(at("out"), &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(b.st_mode & 0777, 0444);
	/* An output that is a link to what came in: no second copy, and the blob stays. */
	struct artifact again = take(at("out"));
	assert_true(digest_equal(&again.digest, &big.digest));
	assert_true(store_has(s, &big.digest, false));
}

static void a_large_file_with_another_name_is_copied_not_shared(void **state)
{
	(void)state;
	make_big(at("mine"), 'y');
	assert_int_equal(link(at("mine"), at("in")), 0);
	struct artifact big = take(at("in"));
	puts_(at("mine"), "changed by its owner");
	struct digest is;
	assert_int_equal(store_put_at(s, &big.digest, false, at("out"), &err), 0);
	assert_int_equal(digest_of_file(at("out"), &is, NULL, &err), 0);
	assert_true(digest_equal(&is, &big.digest));
}

static void make_tree(void)
{
	assert_int_equal(dir_create(at("t/sub/deep"), &err), 0);
	assert_int_equal(dir_create(at("t/empty"), &err), 0);
	puts_(at("t/a.txt"), "A");
	puts_(at("t/sub/b"), "B");
	puts_(at("t/sub/deep/c"), "A");
	chmod(at("t/sub/b"), 0755);
}

static void a_tree_keeps_names_and_the_executable_bit(void **state)
{
	struct stat st;
	struct digest d;
	bool is_tree;
	(void)state;
	make_tree();
	assert_int_equal(store_digest_path(s, at("t"), &d, &is_tree, &err), 0);
	assert_true(is_tree);
	struct artifact a = take(at("t"));
	assert_true(a.is_tree);
	assert_int_equal(a.files, 3);
	assert_int_equal(a.size, 3);
	assert_true(digest_equal(&a.digest, &d));
	assert_true(store_has(s, &d, true));
	assert_false(store_has(s, &d, false));
	assert_int_equal(store_put_at(s, &d, true, at("out"), &err), 0);
	assert_file(at("out/sub/deep/c"), "A");
	assert_int_equal(stat(at("out/sub/b"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0555);
	assert_int_equal(stat(at("out/a.txt"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0444);
	assert_false(path_exists(at("out/empty")));
	assert_int_equal(store_digest_path(s, at("out"), &d, &is_tree, &err), 0);
	assert_true(digest_equal(&a.digest, &d));
}

static void the_digest_of_a_tree_is_that_of_its_documented_manifest(void **state)
{
	/* docs/formats.md, by hand: ["tree/1", [["a", 1, sha256("A"), false]]] */
	uint8_t manifest[64] = {0x92, 0xa6, 't',  'r', 'e',  'e',  '/', '1',
				0x91, 0x94, 0xa1, 'a', 0x01, 0xc4, 0x20};
	struct digest file, want;
	(void)state;
	digest_of("A", 1, &file);
	memcpy(manifest + 15, file.bytes, 32);
	manifest[47] = 0xc2;
	digest_of(manifest, 48, &want);
	assert_int_equal(dir_create(at("t"), &err), 0);
	puts_(at("t/a"), "A");
	struct artifact a = take(at("t"));
	assert_true(digest_equal(&a.digest, &want));
}

static void links_and_special_files_are_refused(void **state)
{
	struct artifact a;
	(void)state;
	assert_int_equal(symlink("/etc/passwd", at("link")), 0);
	assert_int_equal(store_take(s, at("link"), &a, &err), -1);
	assert_int_equal(err.class, ERR_STAGE);
	make_tree();
	assert_int_equal(symlink("a.txt", at("t/link")), 0);
	assert_int_equal(store_take(s, at("t"), &a, &err), -1);
	assert_int_equal(err.class, ERR_STAGE);
	assert_non_null(strstr(err.message, "t/link"));
	assert_file(at("t/a.txt"), "A");
	unlink(at("t/link"));
	assert_int_equal(mkfifo(at("t/pipe"), 0600), 0);
	assert_int_equal(store_take(s, at("t"), &a, &err), -1);
	assert_int_equal(err.class, ERR_STAGE);
}

/* ---- the stat cache ---- */

static void the_digest_of_a_path_follows_its_content_not_its_times(void **state)
{
	struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
	struct digest first, second;
	bool is_tree = true;
	(void)state;
	puts_(at("f"), "one");
	assert_int_equal(store_digest_path(s, at("f"), &first, &is_tree, &err), 0);
	assert_false(is_tree);
	/* Same size, same mtime: only ctime tells, and it is within the racy window. */
	utimensat(AT_FDCWD, at("f"), old, 0);
	assert_int_equal(store_digest_path(s, at("f"), &second, NULL, &err), 0);
	assert_true(digest_equal(&first, &second));
	puts_(at("f"), "two");
	utimensat(AT_FDCWD, at("f"), old, 0);
	assert_int_equal(store_digest_path(s, at("f"), &second, NULL, &err), 0);
	assert_false(digest_equal(&first, &second));
	assert_int_equal(store_digest_path(s, at("none"), &second, NULL, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
}

static void an_old_file_is_not_read_twice(void **state)
{
	/* A file of the distribution, whose times are old: remembered; then the remembered digest is what is given. */
	struct digest first, second, fake = key_of(1);
	(void)state;
	SKIP_WITHOUT("/etc/passwd");
	assert_int_equal(store_digest_path(s, "/etc/passwd", &first, NULL, &err), 0);
	sqlite3_stmt *st;
	assert_int_equal(sqlite3_prepare_v2(store_db(s), "UPDATE statcache SET digest = ?1", -1, &st, NULL),
			 SQLITE_OK);
	sqlite3_bind_blob(st, 1, fake.bytes, 32, SQLITE_STATIC);
	sqlite3_step(st);
	sqlite3_finalize(st);
	if (sqlite3_changes(store_db(s)) != 1) {
		print_message("skipped: /etc/passwd is too young\n");
		skip();
	}
	assert_int_equal(store_digest_path(s, "/etc/passwd", &second, NULL, &err), 0);
	assert_true(digest_equal(&second, &fake));
}

/* ---- results ---- */

static void a_result_comes_back_whole_after_reopening(void **state)
{
	struct arena a = ARENA_INIT;
	struct result r;
	enum result_state st;
	struct digest key = key_of(1);
	bool existing = true;
	(void)state;
	struct artifact art = take_text("bytes");
	assert_int_equal(record_of(s, key, art, false, &existing), 0);
	assert_false(existing);
	reopen();
	assert_int_equal(result_find(s, &key, &a, true, &r, &st, &err), 0);
	assert_int_equal(st, RESULT_PRESENT);
	assert_string_equal(r.kind, "tokenize");
	assert_int_equal(r.version, 3);
	assert_int_equal(r.noutputs, 1);
	assert_string_equal(r.outputs[0].name, "out");
	assert_int_equal(r.outputs[0].kind, PORT_FILE);
	assert_int_equal(r.outputs[0].artifact.size, 5);
	assert_true(digest_equal(&r.outputs[0].artifact.digest, &art.digest));
	assert_string_equal(r.facts[0].value, "1,000");
	assert_int_equal(r.preimage_len, 3);
	assert_memory_equal(r.preimage, "pre", 3);
	assert_int_equal(r.finished_ms, 123456);
	assert_int_equal(r.run, 7);
	assert_true(r.seconds == 1.5);
	key = key_of(2);
	assert_int_equal(result_find(s, &key, &a, false, &r, &st, &err), 0);
	assert_int_equal(st, RESULT_NONE);
	arena_free(&a);
}

static void the_first_result_of_a_key_stays_unless_replaced(void **state)
{
	struct arena a = ARENA_INIT;
	struct result r;
	enum result_state st;
	struct digest key = key_of(1);
	bool existing;
	(void)state;
	struct artifact one = take_text("one"), two = take_text("two");
	assert_int_equal(record_of(s, key, one, false, &existing), 0);
	assert_int_equal(record_of(s, key, two, false, &existing), 0);
	assert_true(existing);
	assert_int_equal(result_find(s, &key, &a, false, &r, &st, &err), 0);
	assert_true(digest_equal(&r.outputs[0].artifact.digest, &one.digest));
	assert_int_equal(record_of(s, key, two, true, &existing), 0);
	assert_true(existing);
	assert_int_equal(result_find(s, &key, &a, false, &r, &st, &err), 0);
	assert_true(digest_equal(&r.outputs[0].artifact.digest, &two.digest));
	arena_free(&a);
}

static void a_result_without_its_bytes_is_not_recorded(void **state)
{
	struct artifact nowhere = {key_of(9), false, 5, 1};
	bool existing;
	(void)state;
	assert_int_equal(record_of(s, key_of(1), nowhere, false, &existing), -1);
	assert_int_equal(err.class, ERR_INFRA);
}

static void a_deleted_or_cut_blob_evicts_its_result_and_can_be_made_again(void **state)
{
	struct arena a = ARENA_INIT;
	struct result r;
	enum result_state st;
	struct digest key = key_of(1), tree_key = key_of(2);
	char path[300];
	bool existing;
	(void)state;
	make_big(at("in"), 'z');
	struct artifact big = take(at("in"));
	assert_int_equal(dir_create(at("t"), &err), 0);
	make_big(at("t/weights"), 'z');
	struct artifact tree = take(at("t"));
	assert_int_equal(record_of(s, key, big, false, &existing), 0);
	assert_int_equal(record_of(s, tree_key, tree, false, &existing), 0);
	big_path(&big.digest, path, sizeof path);
	for (int round = 0; round < 2; round++) {
		if (round == 0)
			assert_int_equal(truncate(path, 1000), 0);
		else
			assert_int_equal(unlink(path), 0);
		assert_int_equal(result_find(s, &key, &a, false, &r, &st, &err), 0);
		assert_int_equal(st, RESULT_EVICTED);
		assert_int_equal(result_find(s, &tree_key, &a, false, &r, &st, &err), 0);
		assert_int_equal(st, RESULT_EVICTED);
		assert_int_equal(store_put_at(s, &tree.digest, true, at("out"), &err), -1);
		assert_int_equal(err.class, ERR_INFRA);
		assert_false(path_exists(at("out")));
		make_big(at("in"), 'z');
		take(at("in"));
		assert_int_equal(result_find(s, &tree_key, &a, false, &r, &st, &err), 0);
		assert_int_equal(st, RESULT_PRESENT);
	}
	arena_free(&a);
}

/* ---- checkpoints, pins ---- */

static void the_newest_checkpoint_counts_until_the_result_is_recorded(void **state)
{
	struct digest key = key_of(1);
	int64_t step = 0;
	bool existing;
	(void)state;
	assert_int_equal(checkpoint_fetch(s, &key, at("cp"), &step, &err), 0);
	puts_(at("c"), "fifty");
	assert_int_equal(checkpoint_save(s, &key, 50, at("c"), &err), 0);
	assert_false(path_exists(at("c")));
	puts_(at("c"), "hundred");
	assert_int_equal(checkpoint_save(s, &key, 100, at("c"), &err), 0);
	reopen();
	assert_int_equal(checkpoint_fetch(s, &key, at("cp"), &step, &err), 1);
	assert_int_equal(step, 100);
	assert_file(at("cp"), "hundred");
	assert_int_equal(record_of(s, key, take_text("done"), false, &existing), 0);
	assert_int_equal(checkpoint_fetch(s, &key, at("cp2"), &step, &err), 0);
	assert_int_equal(checkpoint_drop(s, &key, &err), 0);
}

static int damage(const char *relative, const char *path, void *arg, struct error *e)
{
	(void)relative, (void)e;
	if (strstr(path, "/checkpoints/")) {
		chmod(path, 0644);
		puts_(path, "garbage");
		++*(int *)arg;
	}
	return 0;
}

static void a_damaged_checkpoint_is_told_and_dropped(void **state)
{
	struct digest key = key_of(1);
	int64_t step;
	int n = 0;
	(void)state;
	puts_(at("c"), "fifty steps");
	assert_int_equal(checkpoint_save(s, &key, 50, at("c"), &err), 0);
	tree_walk(dir, damage, &n, NULL);
	assert_int_equal(n, 1);
	assert_int_equal(checkpoint_fetch(s, &key, at("cp"), &step, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_int_equal(checkpoint_fetch(s, &key, at("cp"), &step, &err), 0);
}

static void a_pin_is_kept_and_replaced(void **state)
{
	struct arena a = ARENA_INIT;
	const char *pin = NULL;
	(void)state;
	assert_int_equal(pin_find(s, "hf://a/b", &a, &pin, &err), 0);
	assert_int_equal(pin_record(s, "hf://a/b", "commit 1", &err), 0);
	assert_int_equal(pin_record(s, "hf://a/b", "commit 2", &err), 0);
	reopen();
	assert_int_equal(pin_find(s, "hf://a/b", &a, &pin, &err), 1);
	assert_string_equal(pin, "commit 2");
	arena_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_file_goes_in_and_comes_out_read_only),
		T(blobs_of_every_size_keep_their_bytes),
		T(a_known_file_is_not_read_again),
		T(a_large_file_is_shared_by_link_never_copied),
		T(a_large_file_with_another_name_is_copied_not_shared),
		T(a_tree_keeps_names_and_the_executable_bit),
		T(the_digest_of_a_tree_is_that_of_its_documented_manifest),
		T(links_and_special_files_are_refused),
		T(the_digest_of_a_path_follows_its_content_not_its_times),
		T(an_old_file_is_not_read_twice),
		T(a_result_comes_back_whole_after_reopening),
		T(the_first_result_of_a_key_stays_unless_replaced),
		T(a_result_without_its_bytes_is_not_recorded),
		T(a_deleted_or_cut_blob_evicts_its_result_and_can_be_made_again),
		T(the_newest_checkpoint_counts_until_the_result_is_recorded),
		T(a_damaged_checkpoint_is_told_and_dropped),
		T(a_pin_is_kept_and_replaced),
	};
	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
