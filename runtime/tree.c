/* Trees: a directory as the list of its files. The manifest, whose digest names the tree, is canonical msgpack:
 * ["tree/1", [[name, size, digest, executable] …]], in byte order of name. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/canon.h"
#include "runtime/store_internal.h"

#define TREE_SCHEME "tree/1"
enum { DEPTH_MAX = 100 };

struct listing {
	bool follow;
	struct tree *tree;
};

static int bad_file(const struct listing *l, const char *path, const char *why, struct error *err)
{
	return error_set(err, l->follow ? ERR_USAGE : ERR_STAGE, "%s: %s", path, why);
}

static int list_dir(struct listing *l, const char *dir, const char *prefix, int depth, struct error *err);

static int list_one(struct listing *l, const char *dir, const char *prefix, const char *name, int depth,
		    struct error *err)
{
	struct stat st;
	char *path = path_join(dir, name), *relative = *prefix ? path_join(prefix, name) : xstrdup(name);
	int failed = 0;

	if ((l->follow ? stat(path, &st) : lstat(path, &st)) < 0) {
		failed = store_errno(err, path);
	} else if (S_ISDIR(st.st_mode)) {
		/* Our own directories have to be read and removed later, whatever mode a stage gave them. */
		if (!l->follow && (st.st_mode & 0700) != 0700)
			chmod(path, 0755);
		failed = list_dir(l, path, relative, depth + 1, err);
	} else if (S_ISLNK(st.st_mode)) {
		failed = bad_file(l, path, "a symbolic link cannot be part of an output", err);
		error_hint(err, "copy what it points to");
	} else if (!S_ISREG(st.st_mode)) {
		failed = bad_file(l, path, "neither a regular file nor a directory", err);
	} else if (utf8_valid(relative, strlen(relative)) != strlen(relative)) {
		failed = bad_file(l, path, "the name is not UTF-8", err);
	} else {
		struct tree *t = l->tree;
		grow(&t->entries, &t->cap, t->n + 1, sizeof *t->entries);
		t->entries[t->n++] = (struct tree_entry){.name = relative,
							 .path = path,
							 .size = (uint64_t)st.st_size,
							 .executable = (st.st_mode & 0111) != 0,
							 .st = st};
		relative = path = NULL;
	}
	free(relative);
	free(path);
	return failed;
}

static int list_dir(struct listing *l, const char *dir, const char *prefix, int depth, struct error *err)
{
	if (depth > DEPTH_MAX)
		return bad_file(l, dir, "directories are nested too deeply (a link to a directory above?)",
				err);
	DIR *d = opendir(dir);
	if (!d)
		return store_errno(err, dir);
	int failed = 0;
	for (struct dirent *e; !failed && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			failed = list_one(l, dir, prefix, e->d_name, depth, err);
	closedir(d);
	return failed;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct tree_entry *)a)->name, ((const struct tree_entry *)b)->name);
}

int tree_list(const char *path, bool follow, struct tree *out, struct error *err)
{
	struct listing l = {follow, out};
	struct stat st;

	*out = (struct tree){NULL, 0, 0, 0};
	if (!follow && stat(path, &st) == 0 && (st.st_mode & 0700) != 0700)
		chmod(path, 0755);
	if (list_dir(&l, path, "", 0, err)) {
		tree_free(out);
		return -1;
	}
	if (out->n)
		qsort(out->entries, out->n, sizeof *out->entries, by_name);
	for (size_t i = 0; i < out->n; i++)
		out->size += out->entries[i].size;
	return 0;
}

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->entries[i].name);
		free(t->entries[i].path);
	}
	free(t->entries);
	*t = (struct tree){NULL, 0, 0, 0};
}

void tree_manifest(const struct tree *t, struct strbuf *out)
{
	canon_array(out, 2);
	canon_str(out, TREE_SCHEME);
	canon_array(out, t->n);
	for (size_t i = 0; i < t->n; i++) {
		const struct tree_entry *e = &t->entries[i];
		canon_array(out, 4);
		canon_str(out, e->name);
		canon_int(out, (int64_t)e->size);
		canon_digest(out, &e->digest);
		canon_bool(out, e->executable);
	}
}

/* Relative, without empty, "." or ".." parts. */
static bool safe_name(const char *name, size_t n)
{
	if (n == 0 || memchr(name, '\0', n))
		return false;
	for (size_t i = 0; i <= n;) {
		const char *slash = memchr(name + i, '/', n - i);
		size_t len = slash ? (size_t)(slash - name) - i : n - i;
		if (len == 0 || (len == 1 && name[i] == '.') ||
		    (len == 2 && name[i] == '.' && name[i + 1] == '.'))
			return false;
		if (!slash)
			return true;
		i += len + 1;
	}
	return false;
}

static bool parse_entry(struct canon *c, struct tree *t)
{
	struct canon_item name;
	struct tree_entry e = {0};
	size_t n;
	int64_t size;

	if (!canon_get_array(c, &n) || n != 4 || !canon_next(c, &name) || name.type != CANON_STR ||
	    !safe_name((const char *)name.bytes, name.n) || !canon_get_int(c, &size) || size < 0 ||
	    !canon_get_digest(c, &e.digest) || !canon_get_bool(c, &e.executable))
		return false;
	e.size = (uint64_t)size;
	e.name = xstrndup((const char *)name.bytes, name.n);
	grow(&t->entries, &t->cap, t->n + 1, sizeof *t->entries);
	t->entries[t->n++] = e;
	t->size += e.size;
	return t->n < 2 || strcmp(t->entries[t->n - 2].name, e.name) < 0;
}

int tree_parse(const void *manifest, size_t size, struct tree *out, struct error *err)
{
	struct canon c = canon_open(manifest, size);
	struct canon_item scheme;
	size_t n;

	*out = (struct tree){NULL, 0, 0, 0};
	bool ok = canon_get_array(&c, &n) && n == 2 && canon_next(&c, &scheme) && scheme.type == CANON_STR &&
		  scheme.n == strlen(TREE_SCHEME) && memcmp(scheme.bytes, TREE_SCHEME, scheme.n) == 0 &&
		  canon_get_array(&c, &n);
	for (size_t i = 0; ok && i < n; i++)
		ok = parse_entry(&c, out);
	if (ok && c.p == c.end)
		return 0;
	tree_free(out);
	error_set(err, ERR_INFRA, "the list of files of a tree is damaged");
	return error_hint(err, "run with --force to make it anew");
}

int tree_load(struct store *s, const struct digest *d, struct tree *out, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_TREE_FIND, err);
	int found = -1;

	*out = (struct tree){NULL, 0, 0, 0};
	if (!st)
		return -1;
	bind_digest(st, 1, d);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		found = tree_parse(sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0), out, err)
				? -1
				: 1;
	else if (code == SQLITE_DONE)
		found = 0;
	else
		store_sql_error(s, "looking for a tree", err);
	sqlite3_reset(st);
	return found;
}
