/* How long planning waits for the store: opening it, and looking keys up, each with its output verified present.
 *   store_lookup [RESULTS] [LOOKUPS]      (100,000 and 10,000)
 * Prints one line of JSON. The store is made in a temporary directory; opening is the median of 51 times. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/store.h"

static struct error err;

static void die(const char *what)
{
	fprintf(stderr, "store_lookup: %s: %s\n", what, err.message);
	exit(1);
}

static void key_of(size_t i, struct digest *key)
{
	digest_of(&i, sizeof i, key);
}

static void fill(struct store *s, const char *dir, size_t n)
{
	uint8_t preimage[200] = {0};
	char *path = path_join(dir, "output");

	for (size_t i = 0; i < n; i++) {
		char text[64];
		struct result_output o = {.name = "rows", .kind = PORT_ROWS};
		struct result r = {.kind = "bench",
				   .outputs = &o,
				   .noutputs = 1,
				   .preimage = preimage,
				   .preimage_len = sizeof preimage,
				   .run = 1};
		bool existing;
		int len = snprintf(text, sizeof text, "output %zu", i);
		FILE *f = fopen(path, "wb");
		if (!f || fwrite(text, 1, (size_t)len, f) != (size_t)len || fclose(f))
			die(path);
		key_of(i, &r.key);
		if (store_take(s, path, &o.artifact, &err) || result_record(s, &r, false, &existing, &err))
			die("fill");
	}
	free(path);
}

static double look_up(struct store *s, size_t results, size_t lookups)
{
	struct arena a = ARENA_INIT;
	double start = clock_mono();

	if (store_read_begin(s, &err))
		die("read");
	for (size_t i = 0; i < lookups; i++) {
		struct digest key;
		struct result r;
		enum result_state state;
		key_of((i * 7919) % results, &key);
		if (result_find(s, &key, &a, false, &r, &state, &err) || state != RESULT_PRESENT)
			die("find");
	}
	store_read_end(s);
	double seconds = clock_mono() - start;
	arena_free(&a);
	return seconds;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	size_t results = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
	size_t lookups = argc > 2 ? strtoul(argv[2], NULL, 10) : 10000;
	char dir[] = "/tmp/store_lookup.XXXXXX";
	double opens[51], firsts[51], again = 0;
	struct store *s;

	if (!results || !mkdtemp(dir) || store_open(dir, false, &s, &err))
		die("open");
	double start = clock_mono();
	fill(s, dir, results);
	double filled = clock_mono() - start;
	store_close(s);
	for (size_t i = 0; i < 51; i++) {
		start = clock_mono();
		if (store_open(dir, false, &s, &err))
			die("open");
		opens[i] = clock_mono() - start;
		firsts[i] = look_up(s, results, lookups);
		again = look_up(s, results, lookups);
		store_close(s);
	}
	qsort(opens, 51, sizeof *opens, by_value);
	qsort(firsts, 51, sizeof *firsts, by_value);
	printf("{\"results\": %zu, \"lookups\": %zu, \"open_ms\": %.3f, \"lookup_us\": %.3f, "
	       "\"lookup_again_us\": %.3f, "
	       "\"open_and_lookups_ms\": %.2f, \"record_us\": %.1f}\n",
	       results, lookups, opens[25] * 1e3, firsts[25] / (double)lookups * 1e6,
	       again / (double)lookups * 1e6, (opens[25] + firsts[25]) * 1e3, filled / (double)results * 1e6);
	tree_remove(dir, NULL);
	return 0;
}
