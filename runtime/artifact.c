/* Artifacts into the store and out of it. What goes in is hashed first, outside any transaction; then blobs are added
 * in transactions of a bounded size, so that other processes get their turn; the tree comes last; only then is the
 * staged original removed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

struct knowledge {
	const struct known_file *files;
	size_t n;
};

/* Fills in st and digest from what is known of the file; false when nothing is, or it has changed since. */
static bool hash_known(struct blob_source *b, const struct knowledge *known)
{
	for (size_t i = 0; i < known->n; i++) {
		const struct known_file *k = &known->files[i];

		if (strcmp(k->path, b->path) != 0)
			continue;
		b->digest = k->digest;
		return lstat(b->path, &b->st) == 0 && S_ISREG(b->st.st_mode) &&
		       (uint64_t)b->st.st_ino == k->inode && (uint64_t)b->st.st_size == k->size &&
		       stat_modified_ns(&b->st) == k->modified_ns;
	}
	return false;
}

static int hash_entry(struct tree_entry *e, const struct knowledge *known, struct error *err)
{
	struct blob_source b = {.path = e->path};

	if (!hash_known(&b, known) && blob_hash(&b, err))
		return -1;
	e->st = b.st;
	e->size = (uint64_t)b.st.st_size;
	e->digest = b.digest;
	if (e->size <= STORE_INLINE_MAX)
		return 0;
	/* On disk before it is linked into blobs/, and before anybody has to wait for our transaction. */
	int fd = open(e->path, O_RDONLY | O_CLOEXEC), failed = 0;
	if (fd < 0 || fsync(fd) < 0)
		failed = store_errno(err, e->path);
	if (fd >= 0)
		close(fd);
	return failed;
}

static int put_tree(struct store *s, const struct digest *d, const struct strbuf *manifest, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_TREE_PUT, err);

	if (!st)
		return -1;
	bind_digest(st, 1, d);
	sqlite3_bind_blob64(st, 2, manifest->data, manifest->len, SQLITE_STATIC);
	return store_step_done(s, st, "recording a tree", err);
}

/* Adds entries from *next on, until the transaction holds enough or all are in. */
static int add_some(struct store *s, const struct tree *t, size_t *next, const struct digest *d,
		    const struct strbuf *manifest, struct error *err)
{
	size_t first = *next, i = first;
	bool *linked = xcalloc(t->n - first + 1, sizeof *linked);
	uint64_t bytes = 0;
	int failed = store_begin(s, false, err);

	for (; !failed && i < t->n && bytes < STORE_INLINE_MAX; i++) {
		const struct tree_entry *e = &t->entries[i];
		struct blob_source b = {e->path, e->st, e->digest};
		failed = blob_add(s, &b, &linked[i - first], err);
		bytes += e->size <= STORE_INLINE_MAX ? e->size : 0;
	}
	if (!failed && manifest && i == t->n)
		failed = put_tree(s, d, manifest, err);
	if (!failed)
		failed = store_commit(s, "storing an artifact", err);
	if (failed) {
		/* Only while the write lock is still ours: afterwards somebody may have recorded the same file. */
		for (size_t k = first; k < i && s->tx == TX_WRITE && !sqlite3_get_autocommit(s->db); k++)
			if (linked[k - first])
				blob_unlink(s, &t->entries[k].digest);
		store_rollback(s);
	}
	free(linked);
	*next = i;
	return failed;
}

static int add_all(struct store *s, const struct tree *t, const struct digest *d,
		   const struct strbuf *manifest, struct error *err)
{
	size_t next = 0;

	do {
		if (add_some(s, t, &next, d, manifest, err))
			return -1;
	} while (next < t->n);
	return 0;
}

static int take_tree(struct store *s, const char *path, const struct knowledge *known, struct artifact *out,
		     struct error *err)
{
	struct tree t;
	struct strbuf manifest = STRBUF_INIT;
	int failed = tree_list(path, false, &t, err);

	for (size_t i = 0; !failed && i < t.n; i++)
		failed = hash_entry(&t.entries[i], known, err);
	if (!failed) {
		t.size = 0;
		for (size_t i = 0; i < t.n; i++)
			t.size += t.entries[i].size;
		tree_manifest(&t, &manifest);
		*out = (struct artifact){.is_tree = true, .size = t.size, .files = t.n};
		digest_of(manifest.data, manifest.len, &out->digest);
		failed = add_all(s, &t, &out->digest, &manifest, err) || tree_remove(path, err) ? -1 : 0;
	}
	strbuf_free(&manifest);
	tree_free(&t);
	return failed;
}

static int take_blob(struct store *s, const char *path, const struct knowledge *known, struct artifact *out,
		     struct error *err)
{
	struct tree_entry e = {.path = (char *)(uintptr_t)path};
	struct tree t = {&e, 1, 1, 0};

	if (hash_entry(&e, known, err))
		return -1;
	*out = (struct artifact){e.digest, false, e.size, 1};
	if (add_all(s, &t, NULL, NULL, err))
		return -1;
	return unlink(path) < 0 ? store_errno(err, path) : 0;
}

int store_take(struct store *s, const char *path, struct artifact *out, struct error *err)
{
	return store_take_known(s, path, NULL, 0, out, err);
}

int store_take_known(struct store *s, const char *path, const struct known_file *files, size_t n,
		     struct artifact *out, struct error *err)
{
	const struct knowledge known = {files, n};
	struct stat st;

	if (store_want_write(s, err))
		return -1;
	if (lstat(path, &st) < 0)
		return store_errno(err, path);
	if (S_ISDIR(st.st_mode))
		return take_tree(s, path, &known, out, err);
	if (S_ISREG(st.st_mode))
		return take_blob(s, path, &known, out, err);
	if (S_ISLNK(st.st_mode))
		error_set(err, ERR_STAGE, "%s: a symbolic link cannot be an output", path);
	else
		error_set(err, ERR_STAGE, "%s: neither a regular file nor a directory", path);
	return error_hint(err, "write the file itself");
}

/* ---- out ---- */

static int put_entry(struct store *s, const struct tree_entry *e, const char *root, struct error *err)
{
	char *path = path_join(root, e->name), *dir = path_dir(path);
	int failed = dir_create(dir, err) || blob_put_at(s, &e->digest, path, e->executable, err) ? -1 : 0;

	free(dir);
	free(path);
	return failed;
}

int store_put_at(struct store *s, const struct digest *d, bool is_tree, const char *to, struct error *err)
{
	struct tree t;
	struct stat st;

	if (lstat(to, &st) == 0)
		return error_set(err, ERR_USAGE, "%s: is there already", to);
	if (!is_tree)
		return blob_put_at(s, d, to, false, err);
	int found = tree_load(s, d, &t, err);
	if (found < 0)
		return -1;
	if (!found) {
		char text[DIGEST_TEXT_SIZE];
		digest_text(d, text);
		error_set(err, ERR_INFRA, "%s: the tree is not in the store any more", text);
		return error_hint(err, "run the pipeline again: the stage that made it runs anew");
	}
	int failed = mkdir(to, 0777) < 0 ? store_errno(err, to) : 0;
	for (size_t i = 0; !failed && i < t.n; i++) {
		failed = put_entry(s, &t.entries[i], to, err);
		if (failed)
			tree_remove(to, NULL);
	}
	tree_free(&t);
	return failed;
}

bool store_has(struct store *s, const struct digest *d, bool is_tree)
{
	struct tree t;

	if (!is_tree)
		return blob_present(s, d, NULL);
	if (tree_load(s, d, &t, NULL) != 1)
		return false;
	bool present = true;
	for (size_t i = 0; present && i < t.n; i++) {
		uint64_t size = 0;
		present = blob_present(s, &t.entries[i].digest, &size) && size == t.entries[i].size;
	}
	tree_free(&t);
	return present;
}
