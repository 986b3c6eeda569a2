/* Checkpoints: one file per key, .anneal/checkpoints/<key>/<step>-<digest>, and the row that says which one counts. The
 * file is whole and on disk before the row names it; the older one goes only afterwards. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

struct checkpoint {
	int64_t step;
	struct digest digest;
	uint64_t size;
};

static char *folder(struct store *s, const struct digest *key)
{
	struct strbuf b = STRBUF_INIT;
	char hex[65];

	digest_hex(key, hex);
	strbuf_addf(&b, "%s/checkpoints/%s", s->dir, hex);
	return strbuf_steal(&b);
}

static void file_name(const struct checkpoint *c, char out[64])
{
	char hex[65];

	digest_hex(&c->digest, hex);
	snprintf(out, 64, "%" PRId64 "-%.16s", c->step, hex);
}

void checkpoint_sweep(struct store *s, const struct digest *key, const char *keep)
{
	char *dir = folder(s, key);
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' && (!keep || strcmp(e->d_name, keep) != 0))
			unlinkat(dirfd(d), e->d_name, 0);
	if (d) {
		closedir(d);
		if (!keep)
			rmdir(dir);
	}
	free(dir);
}

static int find(struct store *s, const struct digest *key, struct checkpoint *out, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_CHECKPOINT_FIND, err);
	int found = -1;

	if (!st)
		return -1;
	bind_digest(st, 1, key);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		out->step = sqlite3_column_int64(st, 0);
		out->size = (uint64_t)sqlite3_column_int64(st, 2);
		found = column_digest(st, 1, &out->digest) ? 1 : 0;
	} else if (code == SQLITE_DONE) {
		found = 0;
	} else {
		store_sql_error(s, "looking for a checkpoint", err);
	}
	sqlite3_reset(st);
	return found;
}

/* The staged file under its final name: on disk, read-only, nobody else's. path itself stays for now. */
static int place(const char *path, const char *dir, const char *to, struct error *err)
{
	if (dir_create(dir, err))
		return -1;
	unlink(to);
	if (file_link_or_copy(path, to, err))
		return -1;
	int fd = open(to, O_RDONLY | O_CLOEXEC);
	int failed = fd < 0 || fsync(fd) < 0 || fchmod(fd, 0444) < 0 ? store_errno(err, to) : 0;
	if (fd >= 0)
		close(fd);
	return failed || dir_sync(dir, err) ? -1 : 0;
}

static int put_row(struct store *s, const struct digest *key, const struct checkpoint *c, struct error *err)
{
	if (store_begin(s, true, err))
		return -1;
	sqlite3_stmt *st = store_stmt(s, SQL_CHECKPOINT_PUT, err);
	int failed = -1;
	if (st) {
		bind_digest(st, 1, key);
		sqlite3_bind_int64(st, 2, c->step);
		bind_digest(st, 3, &c->digest);
		sqlite3_bind_int64(st, 4, (int64_t)c->size);
		failed = store_step_done(s, st, "recording a checkpoint", err);
	}
	if (failed) {
		store_rollback(s);
		return -1;
	}
	return store_commit(s, "recording a checkpoint", err);
}

int checkpoint_save(struct store *s, const struct digest *key, int64_t step, const char *path,
		    struct error *err)
{
	struct blob_source b = {.path = path};
	struct checkpoint old;
	char name[64];

	if (store_want_write(s, err) || blob_hash(&b, err))
		return -1;
	struct checkpoint c = {step, b.digest, (uint64_t)b.st.st_size};
	int found = find(s, key, &old, err);
	if (found < 0)
		return -1;
	file_name(&c, name);
	char *dir = folder(s, key), *to = path_join(dir, name);
	bool same = found && old.step == c.step && digest_equal(&old.digest, &c.digest) && path_exists(to);
	int failed = 0;
	if (!same) {
		failed = place(path, dir, to, err) || put_row(s, key, &c, err) ? -1 : 0;
		if (failed)
			unlink(to);
	}
	if (!failed) {
		checkpoint_sweep(s, key, name);
		if (unlink(path) < 0)
			failed = store_errno(err, path);
	}
	free(to);
	free(dir);
	return failed;
}

int checkpoint_fetch(struct store *s, const struct digest *key, const char *to, int64_t *step,
		     struct error *err)
{
	struct checkpoint c;
	char name[64];
	int found = find(s, key, &c, err);

	if (found <= 0)
		return found;
	file_name(&c, name);
	char *dir = folder(s, key), *path = path_join(dir, name);
	struct digest is;
	uint64_t size = 0;
	if (digest_of_file(path, &is, &size, NULL) || size != c.size || !digest_equal(&is, &c.digest)) {
		error_set(err, ERR_INFRA, "%s: the checkpoint of step %" PRId64 " is missing or damaged",
			  path, c.step);
		error_hint(err, "it was dropped: the next attempt starts this stage from its beginning");
		checkpoint_drop(s, key, NULL);
		found = -1;
	} else if (file_link_or_copy(path, to, err)) {
		found = -1;
	} else {
		*step = c.step;
	}
	free(path);
	free(dir);
	return found;
}

int checkpoint_drop(struct store *s, const struct digest *key, struct error *err)
{
	struct checkpoint c;
	int found = find(s, key, &c, err);

	if (found < 0)
		return -1;
	if (found) {
		if (store_begin(s, true, err))
			return -1;
		sqlite3_stmt *st = store_stmt(s, SQL_CHECKPOINT_DROP, err);
		if (st)
			bind_digest(st, 1, key);
		if (!st || store_step_done(s, st, "dropping a checkpoint", err)) {
			store_rollback(s);
			return -1;
		}
		if (store_commit(s, "dropping a checkpoint", err))
			return -1;
	}
	checkpoint_sweep(s, key, NULL);
	return 0;
}
