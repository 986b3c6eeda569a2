/* How fast a dataset streams, and in how much memory.
 *
 *     data_stream make lines|array|csv MIB PATH     writes a dataset of rows like those of sql-create-context
 *     data_stream read PATH                        reads it: rows, MB/s, peak memory
 *     data_stream convert PATH ROWS                reads it and writes a rows artifact, as dataset-fetch does
 *     data_stream shuffle N                        numpy's permutation of N */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/mem.h"
#include "data/reader.h"
#include "data/rows.h"
#include "data/shuffle.h"

static int make(const char *shape, uint64_t mib, const char *path)
{
	bool array = strcmp(shape, "array") == 0, csv = strcmp(shape, "csv") == 0;
	FILE *f = fopen(path, "wb");
	uint64_t bytes = 0;

	if (!f)
		return 1;
	fputs(array ? "[\n" : csv ? "question,context,answer\n" : "", f);
	for (unsigned i = 0; bytes < mib << 20; i++) {
		const char *format =
			csv ? "How many heads of the departments are older than %u ?,\"CREATE TABLE head_%u "
			      "(age INTEGER, name "
			      "VARCHAR)\",\"SELECT COUNT(*), \"\"x\"\" FROM head_%u WHERE age > %u\"\n"
			    : "{\"question\": \"How many heads of the departments are older than %u ?\", "
			      "\"context\": \"CREATE TABLE "
			      "head_%u (age INTEGER, name VARCHAR)\", \"answer\": \"SELECT COUNT(*), "
			      "\\\"x\\\" FROM head_%u WHERE "
			      "age > %u\"}\n";
		if (array && i)
			bytes += (uint64_t)fprintf(f, ",");
		bytes += (uint64_t)fprintf(f, format, i % 100, i, i, i % 100);
	}
	fputs(array ? "]\n" : "", f);
	return fclose(f) != 0;
}

static int read_rows(const char *path, const char *out)
{
	const struct reader_file file = {path, NULL};
	struct error e = ERROR_INIT;
	struct strbuf row = STRBUF_INIT;
	struct rusage usage;
	uint64_t id, rows = 0, packed = 0, done, total;
	double start = clock_mono();
	struct reader *r = reader_open(&file, 1, NULL, &e);
	struct rows_writer *w = out ? rows_create(out, &e) : NULL;
	int got = !r || (out && !w) ? -1 : 1;

	while (got > 0 && (got = reader_next(r, &id, &row, &e)) > 0) {
		rows++;
		packed += row.len;
		if (w && rows_add(w, id, row.data, row.len, &e) < 0)
			got = -1;
	}
	if (got == 0 && w)
		got = rows_commit(w, &e);
	if (got < 0) {
		fprintf(stderr, "%s\n", e.message);
		return 1;
	}
	double seconds = clock_mono() - start;
	reader_progress(r, &done, &total);
	getrusage(RUSAGE_SELF, &usage);
	printf("%" PRIu64 " rows, %.0f MB, %.0f MB of msgpack, %.2f s, %.0f MB/s, peak memory %ld MiB\n",
	       rows, (double)total / 1e6, (double)packed / 1e6, seconds, (double)total / 1e6 / seconds,
	       usage.ru_maxrss / 1024);
	reader_close(r);
	strbuf_free(&row);
	return 0;
}

static int shuffle(uint64_t n)
{
	uint64_t *p = xreallocarray(NULL, n, sizeof *p);
	double start = clock_mono();

	shuffle_permutation(42, p, n);
	printf("permutation of %" PRIu64 ": %.3f s\n", n, clock_mono() - start);
	free(p);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "make") == 0)
		return make(argv[2], strtoull(argv[3], NULL, 10), argv[4]);
	if (argc == 3 && strcmp(argv[1], "read") == 0)
		return read_rows(argv[2], NULL);
	if (argc == 4 && strcmp(argv[1], "convert") == 0)
		return read_rows(argv[2], argv[3]);
	if (argc == 3 && strcmp(argv[1], "shuffle") == 0)
		return shuffle(strtoull(argv[2], NULL, 10));
	fprintf(stderr, "usage: data_stream make lines|array|csv MIB PATH | read PATH | convert PATH ROWS | "
			"shuffle N\n");
	return 2;
}
