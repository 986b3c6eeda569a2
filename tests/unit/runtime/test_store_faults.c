/* The store among other processes, killed ones, damage, and full disks. */
#include "tests/unit/runtime/store_fixture.h"

/* ---- opening ---- */

static void reading_needs_a_store_that_is_there(void **state)
{
	struct store *r;
	struct artifact a;
	(void)state;
	assert_int_equal(store_open(at("nowhere"), true, &r, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	assert_non_null(strstr(err.message, "no runs yet"));
	assert_false(path_exists(at("nowhere")));
	assert_int_equal(store_open(dir, true, &r, &err), 0);
	puts_(at("in"), "x");
	assert_int_equal(store_take(r, at("in"), &a, &err), -1);
	assert_file(at("in"), "x");
	store_close(r);
}

static void a_database_that_is_not_ours_or_too_new_is_refused(void **state)
{
	char path[200];
	struct store *r;
	(void)state;
	assert_int_equal(sqlite3_exec(store_db(s), "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_open(dir, false, &r, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_non_null(strstr(err.message, "newer anneal (schema 99"));
	assert_int_equal(
		sqlite3_exec(store_db(s), "PRAGMA user_version=1; PRAGMA application_id=5", NULL, NULL, NULL),
		SQLITE_OK);
	assert_int_equal(store_open(dir, false, &r, &err), -1);
	assert_non_null(strstr(err.message, "not a database of anneal"));
	snprintf(path, sizeof path, "%s/other", root);
	assert_int_equal(dir_create(path, &err), 0);
	snprintf(path, sizeof path, "%s/other/anneal.db", root);
	puts_(path, "this is no database at all, however long one reads in it, and reads on, and on, and on, "
		    "and on");
	assert_int_equal(store_open(at("other"), false, &r, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_non_null(strstr(err.message, "damaged"));
	puts_(path, "");
	assert_int_equal(store_open(at("other"), false, &r, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
}

static void damage_in_the_database_is_an_error_never_a_wrong_answer(void **state)
{
	struct arena a = ARENA_INIT;
	char path[200];
	bool existing;
	(void)state;
	for (int i = 0; i < 300; i++) {
		char text[32];
		snprintf(text, sizeof text, "bytes %d", i);
		assert_int_equal(record_of(s, key_of(i), take_text(text), false, &existing), 0);
	}
	sqlite3_wal_checkpoint_v2(store_db(s), NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	store_close(s);
	s = NULL;
	snprintf(path, sizeof path, "%s/anneal.db", dir);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	int fd = open(path, O_RDWR | O_CLOEXEC), errors = 0;
	for (off_t at_ = 4096; at_ < st.st_size; at_ += 4096)
		assert_int_equal(pwrite(fd, "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a\xff\xff", 10, at_), 10);
	close(fd);
	if (store_open(dir, false, &s, &err) == 0) {
		for (int i = 0; i < 300; i++) {
			struct result r;
			enum result_state rs;
			struct digest key = key_of(i);
			if (result_find(s, &key, &a, true, &r, &rs, &err)) {
				assert_int_equal(err.class, ERR_INFRA);
				errors++;
			}
		}
	} else {
		errors = 1;
		assert_non_null(strstr(err.message, "damaged"));
	}
	assert_true(errors > 0);
	arena_free(&a);
}

/* ---- staging and leases ---- */

static void staging_of_the_dead_is_removed_and_that_of_the_living_kept(void **state)
{
	char *mine, *path, dead[300];
	int pipe_[2];
	(void)state;
	assert_int_equal(store_staging(s, &mine, &err), 0);
	assert_int_equal(pipe(pipe_), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct store *c;
		if (store_open(dir, false, &c, NULL) || store_staging(c, &path, NULL))
			_exit(1);
		char file[400];
		snprintf(file, sizeof file, "%s/locked", path);
		mkdir(file, 0500);
		if (write(pipe_[1], path, strlen(path) + 1) < 0)
			_exit(1);
		pause();
	}
	close(pipe_[1]);
	assert_true(read(pipe_[0], dead, sizeof dead) > 0);
	close(pipe_[0]);
	reopen(); /* mine is dropped with the store that made it */
	assert_false(path_exists(mine));
	free(mine);
	assert_true(path_exists(dead)); /* its process lives */
	int hold = store_staging_hold(dead);
	assert_true(hold >= 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	reopen();
	assert_true(path_exists(dead)); /* a worker holds it */
	close(hold);
	reopen();
	assert_false(path_exists(dead));
	assert_int_equal(store_staging(s, &mine, &err), 0);
	assert_int_equal(store_staging_drop(s, mine, &err), 0);
}

static void a_lease_has_one_holder_and_dies_with_it(void **state)
{
	struct digest key = key_of(1), other = key_of(2);
	int fd, fd2, pipe_[2];
	char c;
	(void)state;
	assert_int_equal(lease_try(s, &key, &fd, &err), 1);
	assert_int_equal(lease_try(s, &key, &fd2, &err), 0);
	assert_int_equal(lease_try(s, &other, &fd2, &err), 1);
	lease_release(s, &other, fd2);
	lease_release(s, &key, fd);
	assert_int_equal(pipe(pipe_), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct store *mine;
		if (store_open(dir, false, &mine, NULL) || lease_try(mine, &key, &fd, NULL) != 1 ||
		    write(pipe_[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	assert_int_equal(read(pipe_[0], &c, 1), 1);
	assert_int_equal(lease_try(s, &key, &fd, &err), 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(lease_try(s, &key, &fd, &err), 1);
	lease_release(s, &key, fd);
	close(pipe_[0]);
	close(pipe_[1]);
}

/* ---- many processes ---- */

static void eight_processes_open_a_fresh_directory_at_once(void **state)
{
	(void)state;
	for (int round = 0; round < 5; round++) {
		char fresh[64];
		int gate[2];
		snprintf(fresh, sizeof fresh, "%s/fresh%d", root, round);
		assert_int_equal(pipe(gate), 0);
		for (int i = 0; i < 8; i++) {
			if (fork() == 0) {
				struct store *mine;
				struct error e;
				char c;
				close(gate[1]);
				if (read(gate[0], &c, 1) != 0) /* all start when the parent closes its end */
					_exit(2);
				if (store_open(fresh, false, &mine, &e) || pin_record(mine, "a", "b", &e)) {
					fprintf(stderr, "%s\n", e.message);
					_exit(1);
				}
				store_close(mine);
				_exit(0);
			}
		}
		close(gate[0]);
		close(gate[1]);
		for (int i = 0; i < 8; i++) {
			int status;
			assert_true(wait(&status) > 0);
			assert_int_equal(status, 0);
		}
	}
}

enum { HAMMERS = 4, KEYS = 40 };

/* For every key: who gets the lease and finds no result makes one. */
static int hammer(int who)
{
	struct store *mine;
	struct error e;
	int made = 0;
	char in[200], text[64];
	if (store_open(dir, false, &mine, &e))
		return -1;
	snprintf(in, sizeof in, "%s/in%d", root, who);
	for (int i = 0; i < KEYS;) {
		struct digest key = key_of(i);
		struct arena a = ARENA_INIT;
		struct result r;
		enum result_state st;
		int fd, got = lease_try(mine, &key, &fd, &e);
		if (got < 0)
			return -1;
		if (!got) {
			usleep(200);
			continue;
		}
		if (result_find(mine, &key, &a, false, &r, &st, &e))
			return -1;
		if (st != RESULT_PRESENT) {
			struct artifact art;
			bool existing = true;
			snprintf(text, sizeof text, "key %d", i);
			puts_(in, text);
			if (store_take(mine, in, &art, &e) || record_of(mine, key, art, false, &existing) ||
			    existing)
				return -1;
			made++;
		}
		lease_release(mine, &key, fd);
		arena_free(&a);
		i++;
	}
	store_close(mine);
	return made;
}

static void each_key_is_made_once_however_many_processes_want_it(void **state)
{
	int total = 0, status;
	(void)state;
	for (int i = 0; i < HAMMERS; i++) {
		if (fork() == 0) {
			int made = hammer(i);
			_exit(made < 0 ? 255 : made);
		}
	}
	for (int i = 0; i < HAMMERS; i++) {
		assert_true(wait(&status) > 0);
		assert_true(WIFEXITED(status));
		assert_int_not_equal(WEXITSTATUS(status), 255);
		total += WEXITSTATUS(status);
	}
	assert_int_equal(total, KEYS);
}

/* Stores trees and results for ever, key i naming content i. */
static void store_for_ever(int from)
{
	struct store *mine;
	char *stage, path[400];
	char *bytes = malloc(600000);
	if (store_open(dir, false, &mine, NULL) || store_staging(mine, &stage, NULL))
		_exit(1);
	for (int i = from;; i++) {
		struct artifact art;
		bool existing;
		memset(bytes, 'a' + i % 26, 600000);
		snprintf(path, sizeof path, "%s/t", stage);
		mkdir(path, 0755);
		snprintf(path, sizeof path, "%s/t/large", stage);
		put(path, bytes, 600000 - (size_t)(i % 1000));
		snprintf(path, sizeof path, "%s/t/small", stage);
		put(path, &i, sizeof i);
		snprintf(path, sizeof path, "%s/t", stage);
		if (store_take(mine, path, &art, NULL) || record_of(mine, key_of(i), art, false, &existing))
			_exit(1);
	}
}

static int count(const char *relative, const char *path, void *arg, struct error *e)
{
	(void)path, (void)e;
	*(int *)arg += strcmp(relative, ".lock") != 0;
	return 0;
}

static void kill_9_at_any_instant_leaves_only_whole_results(void **state)
{
	struct arena a = ARENA_INIT;
	int next = 0, status;
	(void)state;
	srand(42);
	for (int round = 0; round < 25; round++) {
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0)
			store_for_ever(next);
		usleep(1000 + (useconds_t)(rand() % 30000));
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		assert_true(WIFSIGNALED(status));
		reopen();
		for (;; next++) {
			struct result r;
			enum result_state st;
			struct digest key = key_of(next), is;
			assert_int_equal(result_find(s, &key, &a, true, &r, &st, &err), 0);
			if (st == RESULT_NONE)
				break;
			assert_int_equal(st, RESULT_PRESENT);
			assert_int_equal(
				store_put_at(s, &r.outputs[0].artifact.digest, true, at("out"), &err), 0);
			assert_int_equal(store_digest_path(s, at("out"), &is, NULL, &err), 0);
			assert_true(digest_equal(&is, &r.outputs[0].artifact.digest));
			assert_int_equal(tree_remove(at("out"), &err), 0);
		}
	}
	assert_true(next > 0);
	char *staging = path_join(dir, "staging");
	int left = 0;
	tree_walk(staging, count, &left, NULL);
	assert_int_equal(left, 0);
	free(staging);
	arena_free(&a);
}

/* ---- full disks ---- */

static void a_full_disk_records_nothing_and_leaves_the_staged_file(void **state)
{
	struct store *small;
	struct artifact a;
	struct digest d;
	size_t n = 3 << 20;
	(void)state;
	assert_int_equal(mkdir(at("disk"), 0755), 0);
	if (mount("tmpfs", at("disk"), "tmpfs", 0, "size=6m") < 0) {
		print_message("skipped: mounting needs root\n");
		skip();
	}
	char *bytes = calloc(1, 2 * n);
	int failed = store_open(at("disk/.anneal"), false, &small, &err);
	if (!failed) {
		put(at("disk/in"), bytes, n);
		failed = store_take(small, at("disk/in"), &a, &err) == 0
				 ? 1
				 : 0; /* needs 6 MB more in the database */
		digest_of(bytes, n, &d);
		if (!failed && (err.class != ERR_INFRA || !strstr(err.message, "disk full") || !err.hint[0]))
			failed = 2;
		if (!failed && (store_has(small, &d, false) || !path_exists(at("disk/in"))))
			failed = 3;
		unlink(at("disk/in"));
		put(at("disk/in"), "small", 5);
		if (!failed && store_take(small, at("disk/in"), &a, &err))
			failed = 4; /* it goes on where there is room */
		store_close(small);
	}
	free(bytes);
	assert_int_equal(umount2(at("disk"), MNT_DETACH), 0);
	if (failed)
		fail_msg("case %d: %s", failed, err.message);
}

static void a_file_size_limit_is_an_error_not_a_crash(void **state)
{
	int status;
	(void)state;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct store *mine;
		struct artifact a;
		struct error e = ERROR_INIT;
		struct rlimit limit = {1 << 20, 1 << 20};
		char *bytes = calloc(1, 900000);
		put(at("in"), bytes, 900000);
		signal(SIGXFSZ, SIG_IGN);
		if (store_open(dir, false, &mine, &e))
			_exit(1);
		setrlimit(RLIMIT_FSIZE, &limit);
		int got = 0;
		for (int i = 0; i < 4 && !got; i++) { /* the write-ahead log grows beyond the limit */
			bytes[0] = (char)i;
			put(at("in"), bytes, 900000);
			got = store_take(mine, at("in"), &a, &e);
		}
		if (!got)
			_exit(2);
		_exit(e.class == ERR_INFRA && path_exists(at("in")) ? 0 : 3);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(reading_needs_a_store_that_is_there),
		T(a_database_that_is_not_ours_or_too_new_is_refused),
		T(damage_in_the_database_is_an_error_never_a_wrong_answer),
		T(staging_of_the_dead_is_removed_and_that_of_the_living_kept),
		T(a_lease_has_one_holder_and_dies_with_it),
		T(eight_processes_open_a_fresh_directory_at_once),
		T(each_key_is_made_once_however_many_processes_want_it),
		T(kill_9_at_any_instant_leaves_only_whole_results),
		T(a_full_disk_records_nothing_and_leaves_the_staged_file),
		T(a_file_size_limit_is_an_error_not_a_crash),
	};
	return cmocka_run_group_tests_name("store_faults", tests, NULL, NULL);
}
