/* Digests of files that are not the store's, remembered by (device, inode, size, mtime, ctime). The times only save
 * work: they are never part of a key. A file that changed within the last two seconds could change again within the
 * resolution of its times, so its digest is not remembered yet. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/canon.h"
#include "runtime/store_internal.h"

#define RACY_NS ((int64_t)2 * 1000000000)

static int64_t ns_of(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool recall(struct store *s, const struct stat *st, struct digest *out)
{
	sqlite3_stmt *q = store_stmt(s, SQL_STAT_FIND, NULL);

	if (!q)
		return false;
	sqlite3_bind_int64(q, 1, (int64_t)st->st_dev);
	sqlite3_bind_int64(q, 2, (int64_t)st->st_ino);
	bool found = sqlite3_step(q) == SQLITE_ROW && sqlite3_column_int64(q, 0) == (int64_t)st->st_size &&
		     sqlite3_column_int64(q, 1) == stat_modified_ns(st) &&
		     sqlite3_column_int64(q, 2) == ns_of(st->st_ctim) && column_digest(q, 3, out);
	sqlite3_reset(q);
	return found;
}

/* Only a cache: when it cannot be written, the next call reads the file again. */
static void remember(struct store *s, const struct tree_entry *const *entries, size_t n)
{
	bool view = s->tx == TX_READ;

	if (s->readonly || s->tx == TX_WRITE || store_begin(s, false, NULL))
		return;
	sqlite3_stmt *st = store_stmt(s, SQL_STAT_PUT, NULL);
	for (size_t i = 0; st && i < n; i++) {
		const struct stat *f = &entries[i]->st;
		sqlite3_bind_int64(st, 1, (int64_t)f->st_dev);
		sqlite3_bind_int64(st, 2, (int64_t)f->st_ino);
		sqlite3_bind_int64(st, 3, (int64_t)f->st_size);
		sqlite3_bind_int64(st, 4, stat_modified_ns(f));
		sqlite3_bind_int64(st, 5, ns_of(f->st_ctim));
		bind_digest(st, 6, &entries[i]->digest);
		if (store_step_done(s, st, "remembering a digest", NULL))
			break;
	}
	store_commit(s, "remembering digests", NULL);
	if (view)
		store_read_begin(s, NULL);
}

static int digest_entries(struct store *s, struct tree_entry *entries, size_t n, struct error *err)
{
	const struct tree_entry **fresh = xcalloc(n + 1, sizeof *fresh);
	size_t nfresh = 0;
	int failed = 0;

	for (size_t i = 0; !failed && i < n; i++) {
		struct tree_entry *e = &entries[i];
		if (recall(s, &e->st, &e->digest))
			continue;
		struct blob_source b = {.path = e->path};
		int64_t now = clock_wall_ms() * 1000000;
		failed = blob_hash(&b, err);
		if (failed) {
			if (err && err->class == ERR_STAGE) /* it is the user's file, not a stage's */
				err->class = ERR_USAGE;
			break;
		}
		e->st = b.st;
		e->size = (uint64_t)b.st.st_size;
		e->digest = b.digest;
		if (now - stat_modified_ns(&b.st) > RACY_NS && now - ns_of(b.st.st_ctim) > RACY_NS)
			fresh[nfresh++] = e;
	}
	if (nfresh)
		remember(s, fresh, nfresh);
	free(fresh);
	return failed;
}

int store_digest_path(struct store *s, const char *path, struct digest *out, bool *is_tree, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return store_errno(err, path);
	if (is_tree)
		*is_tree = S_ISDIR(st.st_mode);
	if (S_ISREG(st.st_mode)) {
		struct tree_entry e = {.path = (char *)(uintptr_t)path, .st = st};
		if (digest_entries(s, &e, 1, err))
			return -1;
		*out = e.digest;
		return 0;
	}
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ERR_USAGE, "%s: neither a regular file nor a directory", path);
	struct tree t;
	if (tree_list(path, true, &t, err))
		return -1;
	int failed = digest_entries(s, t.entries, t.n, err);
	if (!failed) {
		struct strbuf manifest = STRBUF_INIT;
		tree_manifest(&t, &manifest);
		digest_of(manifest.data, manifest.len, out);
		strbuf_free(&manifest);
	}
	tree_free(&t);
	return failed;
}
