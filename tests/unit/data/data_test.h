/* What the tests of data/ share: a scratch directory, files in it, rows from JSON. */
#ifndef TESTS_UNIT_DATA_TEST_H
#define TESTS_UNIT_DATA_TEST_H

#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"
#include "data/jsonpack.h"
#include "data/reader.h"
#include "data/rows.h"

static char scratch[64];

static inline int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/anneal-data-XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static inline int drop_scratch(void **state)
{
	(void)state;
	return tree_remove(scratch, NULL);
}

/* scratch/name; the caller frees it. */
static inline char *scratch_path(const char *name)
{
	return path_join(scratch, name);
}

static inline char *scratch_file(const char *name, const void *bytes, size_t n)
{
	char *path = scratch_path(name), *dir = path_dir(path);
	assert_int_equal(dir_create(dir, NULL), 0);
	FILE *f = fopen(path, "wb"); /* not durably: an fsync per case would be most of the time */
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	free(dir);
	return path;
}

/* Fields from JSON text into b, as a row with that id. */
static inline struct row row_of(const char *json, uint64_t id, struct strbuf *b)
{
	struct jsonpack j = {0};
	size_t used;

	strbuf_clear(b);
	assert_int_equal(jsonpack_value(&j, json, strlen(json), true, &used, b), JSONPACK_OK);
	jsonpack_free(&j);
	return (struct row){id, (const uint8_t *)b->data, b->len};
}

#endif
