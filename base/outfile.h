/* A large file that is written once, from front to back: what safetensors and copies of models are made with. Whoever stores such
 * a file needs its SHA-256; outfile_hashing() has it taken while the file is written, on a thread of its own, so that
 * the bytes need not be read again. */
#ifndef BASE_OUTFILE_H
#define BASE_OUTFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/hash.h"

struct outfile;

/* Errors are of the class that the system's reason has (error_class_of_errno): ERR_INFRA for a full disk, ERR_USAGE for a path that
 * cannot be.
 *
 * Creates the file at path, or empties it. The caller ends it with outfile_commit or outfile_abandon. */
int outfile_create(const char *path, struct outfile **out, struct error *err);
/* Appends n bytes; they are the caller's again when it returns. */
int outfile_add(struct outfile *f, const void *bytes, size_t n, struct error *err);
/* Appends all that is left to read of the descriptor from, which errors call name. */
int outfile_add_from(struct outfile *f, int from, const char *name, struct error *err);
/* Whole and on disk when it returns 0; on failure the file is removed. Frees f either way. */
int outfile_commit(struct outfile *f, struct error *err);
/* Removes the file and frees f; f may be NULL. */
void outfile_abandon(struct outfile *f);

/* Copies a file so; its blocks are shared, and nothing is hashed, where the file system can do that. */
int file_copy_hashed(const char *from, const char *to, struct error *err);

/* How the pieces of a file are hashed: what outfile_hashing installs (outfile_hash.c, which needs libcrypto; the numeric core
 * does without it). NULL: they are not. Set before the first file. */
struct outfile_hash {
	void *(*begin)(void); /* h, for one file */
	/* Returns at once; bytes stay as they are until the next call with h. */
	void (*add)(void *h, const void *bytes, size_t n);
	void (*wait)(void *h); /* until all that was added is hashed */
	/* st: the finished file, or NULL when it was abandoned. Frees h. */
	void (*end)(void *h, const struct stat *st);
};
void outfile_hash_with(const struct outfile_hash *how);

/* From now on this process hashes what it writes through an outfile, where that is more than a megabyte. */
void outfile_hashing(void);
/* The digest of a file that was written so and not changed since (device, inode, size, time of modification). */
bool outfile_digest(const struct stat *st, struct digest *out);

#endif
