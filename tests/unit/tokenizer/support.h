/* What the tokenizer's tests share: goldens, temporary directories, one-call encoding. */
#ifndef TESTS_UNIT_TOKENIZER_SUPPORT_H
#define TESTS_UNIT_TOKENIZER_SUPPORT_H

#include <stdlib.h>
#include <string.h>

#include "tests/unit/cmocka_all.h"

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

static inline struct tokenizer *open_ok(const char *path)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t = NULL;

	if (tokenizer_open(path, &t, &err))
		fail_msg("%s (%s)", err.message, err.hint);
	return t;
}

/* A fresh directory in the current temporary directory; the caller removes it with temp_remove. */
static inline char *temp_dir(void)
{
	const char *base = getenv("TMPDIR");
	char *dir = path_join(base ? base : "/tmp", "anneal-tok-XXXXXX");

	assert_non_null(mkdtemp(dir));
	return dir;
}

static inline void temp_remove(char *dir)
{
	struct error err = ERROR_INIT;

	assert_int_equal(tree_remove(dir, &err), 0);
	free(dir);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
	struct error err = ERROR_INIT;
	char *path = path_join(dir, name);

	assert_int_equal(file_write_atomic(path, text, strlen(text), &err), 0);
	free(path);
}

static inline void encode_ok(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
			     struct token_ids *out)
{
	struct error err = ERROR_INIT;

	token_ids_clear(out);
	if (tokenizer_encode(t, text, n, flags, out, &err))
		fail_msg("%s", err.message);
}

static inline void check_ids(const struct token_ids *got, const int32_t *want, size_t n, const char *text)
{
	if (got->n != n)
		fail_msg("\"%s\": %zu ids, want %zu", text, got->n, n);
	for (size_t i = 0; i < n; i++) {
		if (got->ids[i] != want[i])
			fail_msg("\"%s\": id %zu is %d, want %d", text, i, (int)got->ids[i], (int)want[i]);
	}
}

#endif
