/* Splits: which files of a dataset are its "train" or "test", and slices such as train[:10%], by the rules of the
 * `datasets` library (datasets 2.19: data_files.py, arrow_reader.py), so that the same words select the same rows. */
#ifndef DATA_SPLIT_H
#define DATA_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SPLIT_NAME_MAX 63

/* "NAME", "NAME[from:to]" with rows or percent, negative ones counted from the end, and behind it optionally
 * "(closest)" or "(pct1_dropremainder)", the rounding of percents. */
struct split_spec {
	char name[SPLIT_NAME_MAX + 1];
	bool has_from, has_to; /* otherwise from the first row, to the last */
	int64_t from, to;      /* rows, or percents from -100 to 100 */
	bool percent;          /* what from and to are */
	bool whole_percents;   /* pct1_dropremainder: a percent is floor(n / 100) rows */
};

/* ERR_USAGE when text is not of that form, or mixes rows and percents. Sums ("train+test") are not supported. */
int split_parse(const char *text, struct split_spec *out, struct error *err);
/* The rows [*first, *end) of a split of n rows. Bounds beyond the split are cut to it; a slice whose end lies before
 * its start is empty. Percents round to the nearest row, halves to the even one, as Python's round(). ERR_USAGE
 * for pct1_dropremainder on fewer than 100 rows, as in datasets. */
int split_range(const struct split_spec *s, uint64_t n, uint64_t *first, uint64_t *end, struct error *err);

/* The files that make up a split, of a dataset whose files have the n relative paths names ('/' between parts):
 *   1. names that data_file_ignored or whose ending is of no data format are left out;
 *   2. when the dataset's card says which (readme, the text of its README.md, has `configs:` in its YAML header),
 *      that decides; see below;
 *   3. else the first of these that matches any file:
 *      data/SPLIT-00000-of-00001*.* for any split names;
 *      directories named after a split; files named after a split: the name holds a word of
 *        train: train, training; validation: validation, valid, dev, val; test: test, testing, eval, evaluation
 *      bounded by the start or one of "-._ 0-9" (in file names one must follow, too);
 *   4. else every file is of the split "train";
 *   5. of the split's files, those of its most frequent format are taken (for a tie, parquet, then jsonl, then json,
 *      then csv, then the ending that is last in byte order).
 * A single file is "train", whatever it is called: do not ask then.
 *
 * Of a card's `configs` this much is understood: config_name, `default: true`, and data_files as one path, a list of
 * paths, or a list of split and path (or paths), with *, **, ? and [] in paths. config picks one by its name; NULL =
 * the one called "default" or marked so, or the only one. Anything else there is ERR_USAGE, never ignored.
 *
 * picked, with room for n, gets the indices into names in byte order of the names, *count their number. ERR_USAGE,
 * with the splits there are, when there is no such split. */
int split_files(const char *const *names, size_t n, const char *readme, const char *config, const char *split,
		size_t *picked, size_t *count, struct error *err);

/* Whether pattern matches the whole path: * and ? within a part, ** over parts ("**" followed by '/' also over none),
 * [abc], [a-z], [!a]. */
bool split_glob(const char *pattern, const char *path);

#endif
