/* The part of a dataset card's YAML header that says which files are which split (`configs:` in README.md). Only
 * the lines that the Hub itself writes are understood, see split.h; YAML at large is not. */
#ifndef DATA_CARD_H
#define DATA_CARD_H

#include <stddef.h>

#include "base/error.h"
#include "base/mem.h"

struct card_files {
	const char *split;
	const char *pattern; /* relative to the dataset's root */
};

struct card {
	struct card_files *files; /* of the config that was chosen, in the order of the card */
	size_t n;
};

/* Reads the card's text; what out points at lives in arena. 1, or 0 when the card has no `configs`, or -1 and
 * ERR_USAGE with the line when it has something there that is not understood, or no config of that name. config may
 * be NULL. */
int card_read(const char *readme, const char *config, struct arena *arena, struct card *out,
	      struct error *err);

#endif
