/* What the tests of the store share: a store in a directory of its own for each test, and short ways to fill it. */
#ifndef TESTS_UNIT_RUNTIME_STORE_FIXTURE_H
#define TESTS_UNIT_RUNTIME_STORE_FIXTURE_H

#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/store.h"

static char root[64], dir[96];
static struct store *s;
static struct error err;

static inline int setup(void **state)
{
	(void)state;
	strcpy(root, "/tmp/anneal_store.XXXXXX");
	if (!mkdtemp(root))
		return -1;
	snprintf(dir, sizeof dir, "%s/.anneal", root);
	memset(&err, 0, sizeof err);
	s = NULL;
	return store_open(dir, false, &s, &err);
}

static inline int teardown(void **state)
{
	(void)state;
	store_close(s);
	s = NULL;
	return tree_remove(root, NULL);
}

static inline void reopen(void)
{
	store_close(s);
	assert_int_equal(store_open(dir, false, &s, &err), 0);
}

/* root/name; one buffer per call site's turn */
static const char *at(const char *name)
{
	static char ring[8][256];
	static int turn;
	char *p = ring[turn++ % 8];
	snprintf(p, 256, "%s/%s", root, name);
	return p;
}

static inline void put(const char *path, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, bytes, n, path, NULL), 0);
	close(fd);
}

static inline void puts_(const char *path, const char *text)
{
	put(path, text, strlen(text));
}

static inline struct artifact take(const char *path)
{
	struct artifact a;
	if (store_take(s, path, &a, &err))
		fail_msg("%s", err.message);
	assert_false(path_exists(path));
	return a;
}

static inline struct artifact take_text(const char *text)
{
	puts_(at("in"), text);
	return take(at("in"));
}

static inline void assert_file(const char *path, const char *text)
{
	size_t n;
	char *is = file_read(path, &n, &err);
	assert_non_null(is);
	assert_string_equal(is, text);
	free(is);
}

static inline struct digest key_of(int i)
{
	struct digest d;
	digest_of(&i, sizeof i, &d);
	return d;
}

static inline int record_of(struct store *st, struct digest key, struct artifact a, bool replace,
			    bool *existing)
{
	struct result_output o = {"out", PORT_FILE, a};
	struct result_fact f = {"rows", "1,000"};
	struct result r = {.key = key,
			   .kind = "tokenize",
			   .version = 3,
			   .outputs = &o,
			   .noutputs = 1,
			   .facts = &f,
			   .nfacts = 1,
			   .preimage = (const uint8_t *)"pre",
			   .preimage_len = 3,
			   .finished_ms = 123456,
			   .seconds = 1.5,
			   .run = 7};
	return result_record(st, &r, replace, existing, &err);
}

static inline void make_big(const char *path, char tail)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, &tail, 1, (off_t)STORE_INLINE_MAX),
			 1); /* one byte above the limit, sparse */
	close(fd);
}

static inline void big_path(const struct digest *d, char *out, size_t n)
{
	char hex[65];
	digest_hex(d, hex);
	snprintf(out, n, "%s/blobs/%.2s/%s", dir, hex, hex);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
