/* The store of one state directory (.anneal): blobs and trees by digest, results by key, checkpoints, pins, and the
 * stat cache; one SQLite database (WAL) plus files. Any number of processes use it at once; within a process a struct
 * store belongs to one thread, and a forked child opens its own. Formats: docs/formats.md. */
#ifndef RUNTIME_STORE_H
#define RUNTIME_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"
#include "graph/schema.h"

struct store;
struct sqlite3;

/* Blobs up to this many bytes live inside the database, larger ones as files blobs/ab/<hex>. */
#define STORE_INLINE_MAX ((uint64_t)64 << 20)

/* Opens (and creates, unless readonly) dir/anneal.db. ERR_USAGE when readonly and absent ("no runs yet here"), ERR_INFRA
 * when it is corrupt, too new, or the disk is full. Takes no lock. */
int store_open(const char *dir, bool readonly, struct store **out, struct error *err);
void store_close(struct store *s);
const char *store_dir(const struct store *s);
struct sqlite3 *store_db(struct store *s); /* for rundb.c */

/* Between these two, every read sees the same instant and skips the locking of its own: for planning, which looks up
 * thousands of keys. Writing and lease_try end the view by themselves. Reads work without it too. Keep it short: a view
 * that is held open keeps the write-ahead log from being reused. */
int store_read_begin(struct store *s, struct error *err);
void store_read_end(struct store *s);

/* ---- staging: private directories in which outputs are made ---- */

/* Creates an empty directory below .anneal/staging, on the file system of the store; the caller frees *path. It is
 * locked to this process: when the process dies, however it dies, the next store_open for writing removes it. */
int store_staging(struct store *s, char **path, struct error *err);
/* Removes it with all that is in it, and frees path. */
int store_staging_drop(struct store *s, char *path, struct error *err);
/* Keeps a staging directory alive also when its creator dies: for a worker process that is busy in it. The descriptor
 * (close-on-exec) holds it; -1 when the directory is gone. */
int store_staging_hold(const char *path);

/* ---- artifacts ---- */

/* The content of one output: a blob (one file) or a tree (a directory: named blobs, no empty directories, modes only
 * "executable or not"). A tree's digest is that of its manifest, canonical msgpack (docs/formats.md). */
struct artifact {
	struct digest digest;
	bool is_tree;
	uint64_t size;  /* bytes, all files together */
	uint64_t files; /* 1 for a blob */
};

/* Moves the file or directory at path into the store; path is gone afterwards. The same bytes are kept once. Durable at
 * the latest with the result that names it (result_record). Symbolic links and special files are ERR_STAGE. On failure
 * (ERR_INFRA: disk full) nothing is recorded, and path is as it was. */
int store_take(struct store *s, const char *path, struct artifact *out, struct error *err);
/* A file whose digest is known already, and what it was like when that was taken. */
struct known_file {
	const char *path;     /* as store_take meets it: the path given, or below it */
	uint64_t inode, size; /* bytes */
	int64_t modified_ns;  /* st_mtim */
	struct digest digest;
};
/* store_take where the digests of some files are known: those that are as they were then are not read again. */
int store_take_known(struct store *s, const char *path, const struct known_file *known, size_t nknown,
		     struct artifact *out, struct error *err);
/* Makes the artifact at path `to`, which must not exist: files above STORE_INLINE_MAX as hard links (copies across file
 * systems), smaller ones written out; all read-only. ERR_INFRA when its bytes are not there any more. */
int store_put_at(struct store *s, const struct digest *d, bool is_tree, const char *to, struct error *err);
/* True when every byte of it is present. */
bool store_has(struct store *s, const struct digest *d, bool is_tree);

/* Digest of a path that is not the store's: of a file's content, or of a directory as store_take would give it. Answers
 * from the stat cache (dev, inode, size, mtime_ns, ctime_ns) unless the file changed within the last two seconds. */
int store_digest_path(struct store *s, const char *path, struct digest *out, bool *is_tree,
		      struct error *err);

/* ---- results: what a key produced ---- */

struct result_output {
	const char *name;
	enum port_kind kind;
	struct artifact artifact;
};

struct result_fact { /* from ctx_summary */
	const char *name, *value;
};

struct result {
	struct digest key;
	const char *kind; /* "tokenize" */
	int version;
	struct result_output *outputs; /* in the stage's order */
	size_t noutputs;
	struct result_fact *facts;
	size_t nfacts;
	const uint8_t *preimage; /* the canonical msgpack record whose digest the key is */
	size_t preimage_len;
	int64_t finished_ms; /* wall clock */
	double seconds;      /* of the attempt that made it */
	int64_t run;         /* id of the run that made it */
};

enum result_state { RESULT_NONE, RESULT_PRESENT, RESULT_EVICTED /* recorded, but bytes are gone */ };

/* Looks key up. The light form fills outputs only and is what planning uses (target: 5 microseconds); the full form fills all.
 * Memory comes from a. */
int result_find(struct store *s, const struct digest *key, struct arena *a, bool full, struct result *out,
		enum result_state *state, struct error *err);
/* Records r in one durable transaction, with its outputs' trees, replacing nothing: the first result of a key stays and
 * *existing tells so (the caller compares digests: a difference means the stage is not deterministic). With replace (a
 * forced run, an evicted result) r takes its place. The key's checkpoints are dropped in the same transaction. */
int result_record(struct store *s, const struct result *r, bool replace, bool *existing, struct error *err);

/* ---- checkpoints of a key ---- */
int checkpoint_save(struct store *s, const struct digest *key, int64_t step, const char *path,
		    struct error *err);
/* Writes the newest to path `to` (or links it); 1 when there was one, 0 when none. */
int checkpoint_fetch(struct store *s, const struct digest *key, const char *to, int64_t *step,
		     struct error *err);
int checkpoint_drop(struct store *s, const struct digest *key, struct error *err);

/* ---- pins: what a remote source resolved to, so that a rerun needs no network ---- */
/* 1 and the pin (from a) when there is one, 0 when none. */
int pin_find(struct store *s, const char *source, struct arena *a, const char **pin, struct error *err);
int pin_record(struct store *s, const char *source, const char *pin, struct error *err);

/* ---- leases: one producer per key, held by the kernel and gone with the process ---- */
/* 1: *fd holds the lease until it is closed by every process that has it; 0: somebody else has it. */
int lease_try(struct store *s, const struct digest *key, int *fd, struct error *err);
/* Gives the lease up, unless another process has inherited it. Closing fd does the same. */
void lease_release(struct store *s, const struct digest *key, int fd);

#endif
