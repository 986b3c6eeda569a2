/* The container that rows and tokens lie in: a file of msgpack records with an index, written once from front
 * to back, then only read, through a map, at random. FORMAT.md documents it to the byte.
 *
 * The same records in the same order with the same properties give the same bytes. Writing keeps 8 bytes per
 * record in memory. Whatever a file holds, reading it is an error or the truth, never a crash. */
#ifndef DATA_FRAMES_H
#define DATA_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"

#define FRAMES_VERSION 1

/* What the records of a file are; the four characters stand in its head. */
#define FRAMES_ROWS   "rows"
#define FRAMES_TOKENS "toks"

struct frames_writer;

/* Starts a file at path, replacing what is there. NULL on failure. */
struct frames_writer *frames_create(const char *path, const char kind[4], struct error *err);
/* Adds one record, which the caller has encoded: exactly one msgpack value of n > 0 bytes. */
int frames_add(struct frames_writer *w, const void *record, size_t n, struct error *err);
/* Records added so far. */
uint64_t frames_writer_count(const struct frames_writer *w);
/* Writes properties (one msgpack map with string keys, n bytes), index and footer, and closes the file. w is
 * gone afterwards; on failure the file is removed. Does not fsync: the store does, once, for all it takes. */
int frames_commit(struct frames_writer *w, const void *properties, size_t n, struct error *err);
/* Gives up: removes the file. NULL is fine. */
void frames_abort(struct frames_writer *w);

/* An open file. Safe to read from several threads at once. */
struct frames {
	struct file_map map;
	char *path;                /* for messages */
	uint64_t count;            /* records */
	const uint8_t *properties; /* the msgpack map given to frames_commit */
	size_t properties_len;     /* bytes */
	uint64_t records_end;      /* offset behind the last record */
	const uint8_t *index;      /* count little-endian u64, not aligned */
};

/* Opens a file of that kind. NULL and ERR_USAGE when it is not one, or is damaged or unfinished. */
struct frames *frames_open(const char *path, const char kind[4], struct error *err);
/* The bytes of record i; *record points into the map and holds until frames_close. ERR_USAGE when i is not
 * below count or the index is damaged there. What the bytes mean is for the caller to check. */
int frames_get(const struct frames *f, uint64_t i, const uint8_t **record, size_t *n, struct error *err);
void frames_close(struct frames *f); /* NULL is fine */

#endif
