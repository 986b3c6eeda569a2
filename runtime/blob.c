/* Blobs: small ones as rows of blob_data, streamed in and out by SQLite's incremental I/O so that memory stays small;
 * large ones as files blobs/ab/<hex>, entered by hard link and only then recorded. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

#define PIECE ((size_t)1 << 20)
/* Up to this many bytes a blob is bound as a whole; beyond, opening it incrementally is cheaper than the copies. */
#define WHOLE ((uint64_t)256 << 10)

/* "ab/abcdef…" */
#define NAME_SIZE 68
static void file_name(const struct digest *d, char out[NAME_SIZE])
{
	digest_hex(d, out + 3);
	out[0] = out[3];
	out[1] = out[4];
	out[2] = '/';
}

static int changed(const char *path, struct error *err)
{
	error_set(err, ERR_STAGE, "%s changed while it was being stored", path);
	return error_hint(err, "does something that the stage started still write to it?");
}

int blob_hash(struct blob_source *b, struct error *err)
{
	struct stat after;
	struct hasher *h = NULL;
	char *piece = NULL;
	int failed = -1, fd = open(b->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 || fstat(fd, &b->st) < 0) {
		store_errno(err, b->path);
		goto out;
	}
	if (!S_ISREG(b->st.st_mode)) {
		error_set(err, ERR_STAGE, "%s: not a regular file", b->path);
		goto out;
	}
	size_t size = b->st.st_size < (off_t)PIECE ? (size_t)b->st.st_size + 1 : PIECE;
	piece = xmalloc(size);
	h = hasher_new();
	ssize_t n;
	while ((n = read(fd, piece, size)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			store_errno(err, b->path);
			goto out;
		}
		hasher_add(h, piece, (size_t)n);
	}
	hasher_finish(h, &b->digest);
	if (fstat(fd, &after) < 0)
		store_errno(err, b->path);
	else if (!stat_same_file(&b->st, &after))
		changed(b->path, err);
	else
		failed = 0;
out:
	hasher_free(h);
	free(piece);
	if (fd >= 0)
		close(fd);
	return failed;
}

/* ---- presence ---- */

/* 1: recorded, with its size and whether its bytes are inside the database; 0: not; -1 on error. */
static int blob_find(struct store *s, const struct digest *d, uint64_t *size, bool *inside, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_BLOB_FIND, err);
	int found = -1;

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, digest_id(d));
	bind_digest(st, 2, d);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		*size = (uint64_t)sqlite3_column_int64(st, 0);
		*inside = sqlite3_column_int(st, 1) != 0;
		found = 1;
	} else if (code == SQLITE_DONE) {
		found = 0;
	} else {
		store_sql_error(s, "looking for a blob", err);
	}
	sqlite3_reset(st);
	return found;
}

static bool file_present(struct store *s, const struct digest *d, uint64_t size)
{
	char name[NAME_SIZE];
	struct stat st;
	int fd = store_blobs_fd(s, NULL);

	file_name(d, name);
	return fd >= 0 && fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
	       (uint64_t)st.st_size == size;
}

bool blob_present(struct store *s, const struct digest *d, uint64_t *size)
{
	uint64_t n = 0;
	bool inside = false;

	if (blob_find(s, d, &n, &inside, NULL) != 1 || (!inside && !file_present(s, d, n)))
		return false;
	if (size)
		*size = n;
	return true;
}

/* ---- storing ---- */

static int record(struct store *s, const struct blob_source *b, bool inside, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_BLOB_PUT, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, digest_id(&b->digest));
	bind_digest(st, 2, &b->digest);
	sqlite3_bind_int64(st, 3, (int64_t)b->st.st_size);
	sqlite3_bind_int(st, 4, inside);
	return store_step_done(s, st, "recording a blob", err);
}

/* Reads until n bytes or the end of the file; the bytes read, or -1. */
static ssize_t read_full(int fd, char *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = read(fd, buf + done, n - done);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -1;
		if (k == 0)
			break;
		done += (size_t)k;
	}
	return (ssize_t)done;
}

static int stream_in(struct store *s, int fd, int64_t row, uint64_t size, const char *path, struct error *err)
{
	sqlite3_blob *io;
	int failed = 0;

	if (sqlite3_blob_open(s->db, "main", "blob_data", "bytes", row, 1, &io) != SQLITE_OK)
		return store_sql_error(s, "storing a blob", err);
	char *piece = xmalloc(PIECE);
	for (uint64_t at = 0; !failed && at < size;) {
		ssize_t n = read_full(fd, piece, PIECE);
		if (n < 0)
			failed = store_errno(err, path);
		else if (n == 0 || (uint64_t)n > size - at)
			failed = changed(path, err);
		else if (sqlite3_blob_write(io, piece, (int)n, (int)at) != SQLITE_OK)
			failed = store_sql_error(s, "storing a blob", err);
		else
			at += (uint64_t)n;
	}
	free(piece);
	if (sqlite3_blob_close(io) != SQLITE_OK && !failed)
		failed = store_sql_error(s, "storing a blob", err);
	return failed;
}

static int add_inline(struct store *s, const struct blob_source *b, struct error *err)
{
	uint64_t size = (uint64_t)b->st.st_size;
	int fd = open(b->path, O_RDONLY | O_CLOEXEC), failed = -1;
	sqlite3_stmt *st = store_stmt(s, SQL_BLOB_DATA_PUT, err);
	struct stat now;
	char *whole = NULL;

	if (!st)
		goto out;
	if (fd < 0) {
		store_errno(err, b->path);
		goto out;
	}
	if (size <= WHOLE) {
		whole = xmalloc(size + 1);
		ssize_t n = read_full(fd, whole, size + 1);
		if (n < 0) {
			store_errno(err, b->path);
			goto out;
		}
		if ((uint64_t)n != size) {
			changed(b->path, err);
			goto out;
		}
		sqlite3_bind_blob64(st, 2, whole, size, SQLITE_STATIC);
	} else {
		sqlite3_bind_zeroblob64(st, 2, size);
	}
	sqlite3_bind_int64(st, 1, digest_id(&b->digest));
	failed = store_step_done(s, st, "storing a blob", err);
	sqlite3_bind_null(st, 2);
	if (!failed && !whole)
		failed = stream_in(s, fd, digest_id(&b->digest), size, b->path, err);
	if (!failed && fstat(fd, &now) < 0)
		failed = store_errno(err, b->path);
	if (!failed && !stat_same_file(&now, &b->st))
		failed = changed(b->path, err);
	if (!failed)
		failed = record(s, b, true, err);
out:
	free(whole);
	if (fd >= 0)
		close(fd);
	return failed;
}

/* A copy below blobs/ that is ours alone and on disk, under a temporary name of its directory. */
static int copy_in(const struct blob_source *b, const char *to, struct error *err)
{
	struct stat st;
	int failed = file_copy(b->path, to, err);
	int fd = failed ? -1 : open(to, O_RDONLY | O_CLOEXEC);

	if (!failed && (fd < 0 || fsync(fd) < 0 || fstat(fd, &st) < 0))
		failed = store_errno(err, to);
	else if (!failed && st.st_size != b->st.st_size)
		failed = changed(b->path, err);
	if (fd >= 0)
		close(fd);
	if (failed) {
		if (err && err->class == ERR_INFRA && !err->hint[0])
			error_hint(err, "is the disk full? nothing half-written was recorded");
		unlink(to);
	}
	return failed;
}

static int add_file(struct store *s, const struct blob_source *b, bool *linked, struct error *err)
{
	char name[NAME_SIZE];
	struct stat now;
	int failed = -1;

	file_name(&b->digest, name);
	struct strbuf path = STRBUF_INIT, tmp = STRBUF_INIT;
	strbuf_addf(&path, "%s/blobs/%s", s->dir, name);
	strbuf_addf(&tmp, "%s.%ld.tmp", path.data, (long)getpid());
	char *dir = path_dir(path.data), *blobs = path_dir(dir);
	if (!path_is_dir(dir) && (dir_create(dir, err) || dir_sync(blobs, err)))
		goto out;
	if (lstat(b->path, &now) < 0) {
		store_errno(err, b->path);
		goto out;
	}
	if (!stat_same_file(&now, &b->st)) {
		changed(b->path, err);
		goto out;
	}
	/* Another name of the file may be somebody's who goes on writing to it: only a copy is safe then. */
	unlink(tmp.data);
	if (now.st_nlink > 1 || link(b->path, tmp.data) < 0) {
		if (copy_in(b, tmp.data, err))
			goto out;
	}
	if (chmod(tmp.data, 0444) < 0 || rename(tmp.data, path.data) < 0) {
		store_errno(err, path.data);
		unlink(tmp.data);
		goto out;
	}
	*linked = true;
	failed = dir_sync(dir, err) || record(s, b, false, err) ? -1 : 0;
out:
	free(dir);
	free(blobs);
	strbuf_free(&path);
	strbuf_free(&tmp);
	return failed;
}

int blob_add(struct store *s, const struct blob_source *b, bool *linked, struct error *err)
{
	*linked = false;
	if (blob_present(s, &b->digest, NULL))
		return 0;
	return (uint64_t)b->st.st_size <= STORE_INLINE_MAX ? add_inline(s, b, err)
							   : add_file(s, b, linked, err);
}

void blob_unlink(struct store *s, const struct digest *d)
{
	char name[NAME_SIZE];
	int fd = store_blobs_fd(s, NULL);

	file_name(d, name);
	if (fd >= 0)
		unlinkat(fd, name, 0);
}

/* ---- giving out ---- */

static int gone(const struct digest *d, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];

	digest_text(d, text);
	error_set(err, ERR_INFRA, "%s: its bytes are not in the store any more", text);
	return error_hint(err, "run the pipeline again: the stage that made it runs anew");
}

static int stream_out(struct store *s, uint64_t size, int fd, const struct digest *d, const char *to,
		      struct error *err)
{
	sqlite3_blob *io;
	int failed = 0;

	if (sqlite3_blob_open(s->db, "main", "blob_data", "bytes", digest_id(d), 0, &io) != SQLITE_OK)
		return sqlite3_errcode(s->db) == SQLITE_ERROR ? gone(d, err)
							      : store_sql_error(s, "reading a blob", err);
	if ((uint64_t)sqlite3_blob_bytes(io) != size)
		failed = gone(d, err);
	char *piece = xmalloc(PIECE);
	for (uint64_t at = 0; !failed && at < size;) {
		size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
		if (sqlite3_blob_read(io, piece, (int)n, (int)at) != SQLITE_OK)
			failed = store_sql_error(s, "reading a blob", err);
		else
			failed = fd_write_all(fd, piece, n, to, err);
		at += n;
	}
	free(piece);
	sqlite3_blob_close(io);
	return failed;
}

static int write_out(struct store *s, uint64_t size, int fd, const struct digest *d, const char *to,
		     struct error *err)
{
	if (size > WHOLE)
		return stream_out(s, size, fd, d, to, err);
	sqlite3_stmt *st = store_stmt(s, SQL_BLOB_DATA_GET, err);
	int failed = -1;
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, digest_id(d));
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW && (uint64_t)sqlite3_column_bytes(st, 0) == size)
		failed = fd_write_all(fd, sqlite3_column_blob(st, 0), size, to, err);
	else if (code == SQLITE_ROW || code == SQLITE_DONE)
		gone(d, err);
	else
		store_sql_error(s, "reading a blob", err);
	sqlite3_reset(st);
	return failed;
}

static int full_hint(struct error *err)
{
	if (err && err->class == ERR_INFRA && !err->hint[0])
		error_hint(err, "is the disk full?");
	return -1;
}

static int put_file(struct store *s, const struct digest *d, uint64_t size, const char *to, bool executable,
		    struct error *err)
{
	char name[NAME_SIZE];

	if (!file_present(s, d, size))
		return gone(d, err);
	file_name(d, name);
	struct strbuf path = STRBUF_INIT;
	strbuf_addf(&path, "%s/blobs/%s", s->dir, name);
	/* A link shares its mode with every other link, so an executable one has to be a file of its own. */
	int failed = executable ? file_copy(path.data, to, err) : file_link_or_copy(path.data, to, err);
	if (failed)
		full_hint(err);
	else if (chmod(to, executable ? 0555 : 0444) < 0)
		failed = store_errno(err, to);
	strbuf_free(&path);
	return failed;
}

int blob_put_at(struct store *s, const struct digest *d, const char *to, bool executable, struct error *err)
{
	uint64_t size = 0;
	bool inside = false;
	int found = blob_find(s, d, &size, &inside, err);

	if (found < 0)
		return -1;
	if (!found)
		return gone(d, err);
	if (!inside)
		return put_file(s, d, size, to, executable, err);
	int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, executable ? 0555 : 0444);
	if (fd < 0)
		return store_errno(err, to);
	int failed = write_out(s, size, fd, d, to, err);
	if (close(fd) < 0 && !failed)
		failed = store_errno(err, to);
	if (failed) {
		full_hint(err);
		unlink(to);
	}
	return failed;
}
