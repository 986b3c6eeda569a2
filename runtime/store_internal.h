/* What the files of the store share: the open database, its statements, transactions. Not for anyone else. */
#ifndef RUNTIME_STORE_INTERNAL_H
#define RUNTIME_STORE_INTERNAL_H

#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "runtime/store.h"
#include "runtime/store_sql.h"

enum store_statement {
#define STORE_ENUM(name, sql) SQL_##name,
	STORE_STATEMENTS(STORE_ENUM)
#undef STORE_ENUM
		SQL_COUNT
};

struct run_writer; /* rundb: the runs this process records, and what of them is not written yet */
struct run_tables; /* rundb: the stages of a few runs, for run_last_key */

struct held_dir {
	char *path;
	int fd; /* carries the lock */
};

struct store {
	char *dir; /* absolute */
	bool readonly;
	sqlite3 *db;
	sqlite3_stmt *statements[SQL_COUNT];
	enum { TX_NONE, TX_READ, TX_WRITE } tx;
	bool durable;   /* synchronous=FULL is set, else NORMAL */
	int wal_frames; /* in the write-ahead log after this process's last commit */
	int blobs_fd;   /* of .anneal/blobs; -1 until needed */
	struct held_dir *staging;
	size_t nstaging, staging_cap;
	uint64_t commits;          /* write transactions of this process so far */
	struct run_writer *runs;   /* NULL until run_begin */
	struct run_tables *tables; /* NULL until run_last_key */
};

/* ---- store.c ---- */
/* The statement, prepared, reset and unbound-as-left; NULL with err filled. */
sqlite3_stmt *store_stmt(struct store *s, enum store_statement which, struct error *err);
/* Fills err from the database's last error: a full disk, damage, a lock held too long. doing: "recording a result". */
int store_sql_error(struct store *s, const char *doing, struct error *err);
/* Runs a statement that gives no rows, and resets it. */
int store_step_done(struct store *s, sqlite3_stmt *st, const char *doing, struct error *err);
/* A write transaction. durable: its commit outlives a power cut; otherwise only a crash of the process, until the next
 * durable commit carries it along. Ends a read view. */
int store_begin(struct store *s, bool durable, struct error *err);
int store_commit(struct store *s, const char *doing, struct error *err);
void store_rollback(struct store *s);
/* Class ERR_INFRA with the hint for a full disk when errno says so. */
int store_errno(struct error *err, const char *path);
int store_blobs_fd(struct store *s, struct error *err);
/* ERR_USAGE unless the store is open for writing. */
int store_want_write(struct store *s, struct error *err);

static inline void bind_digest(sqlite3_stmt *st, int i, const struct digest *d)
{
	sqlite3_bind_blob(st, i, d->bytes, (int)sizeof d->bytes, SQLITE_STATIC);
}

/* The row of a digest in results, blobs and blob_data: its first 8 bytes, most significant first. */
static inline int64_t digest_id(const struct digest *d)
{
	uint64_t id = 0;

	for (int i = 0; i < 8; i++)
		id = id << 8 | d->bytes[i];
	return (int64_t)id;
}

static inline bool column_digest(sqlite3_stmt *st, int i, struct digest *d)
{
	if (sqlite3_column_bytes(st, i) != (int)sizeof d->bytes)
		return false;
	memcpy(d->bytes, sqlite3_column_blob(st, i), sizeof d->bytes);
	return true;
}

/* ---- store_staging.c ---- */
int staging_make(const char *dir, struct held_dir *out, struct error *err);
void staging_clean(const char *dir);

/* ---- blob.c: bytes by digest ---- */
struct blob_source { /* a regular file that is about to be stored */
	const char *path;
	struct stat st; /* as it was when it was hashed */
	struct digest digest;
};
/* Opens, hashes and closes the file. */
int blob_hash(struct blob_source *b, struct error *err);
/* True when a blob of these bytes is recorded and present; *size gets its length. */
bool blob_present(struct store *s, const struct digest *d, uint64_t *size);
/* Makes sure that the bytes of b are in the store, inside the caller's write transaction. linked is set when a file was
 * newly made in blobs/, which the caller removes again (blob_unlink) when the transaction fails. */
int blob_add(struct store *s, const struct blob_source *b, bool *linked, struct error *err);
void blob_unlink(struct store *s, const struct digest *d);
/* Makes the blob the file at `to`, which must not exist, read-only. */
int blob_put_at(struct store *s, const struct digest *d, const char *to, bool executable, struct error *err);

/* ---- tree.c: directories as manifests ---- */
struct tree_entry {
	char *name; /* relative path, '/' between parts */
	char *path;
	uint64_t size;
	struct digest digest;
	bool executable;
	struct stat st;
};
struct tree {
	struct tree_entry *entries; /* in byte order of name */
	size_t n, cap;
	uint64_t size;
};
/* Finds the files below path; follow: through symbolic links (for paths that are not ours), otherwise they are ERR_STAGE. */
int tree_list(const char *path, bool follow, struct tree *out, struct error *err);
void tree_free(struct tree *t);
void tree_manifest(const struct tree *t, struct strbuf *out);
/* Reads a manifest; names that would leave the directory are refused. */
int tree_parse(const void *manifest, size_t n, struct tree *out, struct error *err);
/* 1 and the tree, 0 when no such tree is recorded, -1 on error. */
int tree_load(struct store *s, const struct digest *d, struct tree *out, struct error *err);

/* ---- checkpoint.c ---- */
/* Removes the files of a key's checkpoints but the named one (NULL: all). */
void checkpoint_sweep(struct store *s, const struct digest *key, const char *keep);

/* ---- rundb_write.c ---- */
/* Writes what run_log and its kin have queued; within the open write transaction if there is one. */
int run_writer_flush(struct store *s, struct error *err);
void run_writer_free(struct store *s);
/* ---- rundb_keys.c ---- */
void run_tables_free(struct store *s);

#endif
