#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static int fail(const char *path, struct error *err)
{
	return error_errno(err, error_class_of_errno(errno), "%s", path);
}

char *file_read(const char *path, size_t *size, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fail(path, err);
		return NULL;
	}
	size_t cap = fstat(fd, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size + 1 : 4096, len = 0;
	char *buf = xmalloc(cap);
	for (;;) {
		if (len + 1 >= cap)
			buf = xrealloc(buf, cap *= 2);
		ssize_t n = read(fd, buf + len, cap - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			fail(path, err);
			free(buf);
			close(fd);
			return NULL;
		}
		if (n == 0)
			break;
		len += (size_t)n;
	}
	close(fd);
	buf[len] = '\0';
	if (size)
		*size = len;
	return buf;
}

int file_map(const char *path, struct file_map *out, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*out = (struct file_map){NULL, 0};
	if (fd < 0)
		return fail(path, err);
	if (fstat(fd, &st) < 0) {
		fail(path, err);
		close(fd);
		return -1;
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return error_set(err, ERR_USAGE, "%s: not a regular file", path);
	}
	if (st.st_size > 0) {
		void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) {
			fail(path, err);
			close(fd);
			return -1;
		}
		out->data = p;
		out->size = (size_t)st.st_size;
	}
	close(fd);
	return 0;
}

void file_unmap(struct file_map *m)
{
	if (m->data)
		munmap((void *)(uintptr_t)m->data, m->size);
	*m = (struct file_map){NULL, 0};
}

int fd_write_all(int fd, const void *bytes, size_t n, const char *name, struct error *err)
{
	const char *p = bytes;

	while (n) {
		ssize_t k = write(fd, p, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return fail(name, err);
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

int file_write_atomic(const char *path, const void *bytes, size_t n, struct error *err)
{
	char *tmp = xmalloc(strlen(path) + 32);
	int fd, failed;

	sprintf(tmp, "%s.%ld.tmp", path, (long)getpid());
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0) {
		fail(tmp, err);
		free(tmp);
		return -1;
	}
	failed = fd_write_all(fd, bytes, n, path, err);
	if (!failed && fsync(fd) < 0)
		failed = fail(path, err);
	if (close(fd) < 0 && !failed)
		failed = fail(path, err);
	if (!failed && rename(tmp, path) < 0)
		failed = fail(path, err);
	if (failed) {
		unlink(tmp);
	} else {
		char *dir = path_dir(path);
		failed = dir_sync(dir, err);
		free(dir);
	}
	free(tmp);
	return failed;
}

int dir_create(const char *path, struct error *err)
{
	if (mkdir(path, 0777) == 0 || (errno == EEXIST && path_is_dir(path)))
		return 0;
	if (errno != ENOENT)
		return fail(path, err);
	char *parent = path_dir(path);
	int failed = strcmp(parent, path) == 0 ? fail(path, err) : dir_create(parent, err);
	free(parent);
	if (failed)
		return -1;
	if (mkdir(path, 0777) < 0 && errno != EEXIST)
		return fail(path, err);
	return 0;
}

int file_sync(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail(path, err);
	int failed = fsync(fd) < 0 ? fail(path, err) : 0;
	close(fd);
	return failed;
}

int dir_sync(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(path, err);
	/* Some file systems have no fsync on directories; their renames are as durable as they get. */
	int failed = fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP ? fail(path, err) : 0;
	close(fd);
	return failed;
}

int tree_remove(const char *path, struct error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : fail(path, err);
	if (!S_ISDIR(st.st_mode))
		return unlink(path) < 0 && errno != ENOENT ? fail(path, err) : 0;
	DIR *d = opendir(path);
	if (!d)
		return fail(path, err);
	int failed = 0;
	for (struct dirent *e; !failed && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		char *child = path_join(path, e->d_name);
		failed = tree_remove(child, err);
		free(child);
	}
	closedir(d);
	if (!failed && rmdir(path) < 0 && errno != ENOENT)
		failed = fail(path, err);
	return failed;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct walk {
	int (*visit)(const char *, const char *, void *, struct error *);
	void *arg;
	char **files; /* relative paths found so far */
	size_t n, cap;
};

static int collect(struct walk *w, const char *root, const char *relative, struct error *err)
{
	char *dir = *relative ? path_join(root, relative) : xstrdup(root);
	DIR *d = opendir(dir);
	int failed = 0;

	if (!d) {
		failed = fail(dir, err);
		free(dir);
		return failed;
	}
	for (struct dirent *e; !failed && (e = readdir(d));) {
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		char *child = *relative ? path_join(relative, e->d_name) : xstrdup(e->d_name);
		char *path = path_join(dir, e->d_name);
		if (stat(path, &st) < 0) {
			failed = fail(path, err);
		} else if (S_ISDIR(st.st_mode)) {
			failed = collect(w, root, child, err);
		} else if (S_ISREG(st.st_mode)) {
			grow(&w->files, &w->cap, w->n + 1, sizeof *w->files);
			w->files[w->n++] = child;
			child = NULL;
		} else {
			failed = error_set(err, ERR_USAGE, "%s: neither a regular file nor a directory",
					   path);
		}
		free(child);
		free(path);
	}
	closedir(d);
	free(dir);
	return failed;
}

int tree_walk(const char *root, int (*visit)(const char *, const char *, void *, struct error *), void *arg,
	      struct error *err)
{
	struct walk w = {visit, arg, NULL, 0, 0};
	int failed = collect(&w, root, "", err);

	if (w.n)
		qsort(w.files, w.n, sizeof *w.files, by_name);
	for (size_t i = 0; i < w.n; i++) {
		if (!failed) {
			char *path = path_join(root, w.files[i]);
			failed = visit(w.files[i], path, arg, err);
			free(path);
		}
		free(w.files[i]);
	}
	free(w.files);
	return failed;
}

int file_copy(const char *from, const char *to, struct error *err)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return fail(from, err);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (out < 0) {
		fail(to, err);
		close(in);
		return -1;
	}
	int failed = 0;
	ssize_t n = copy_file_range(in, NULL, out, NULL, (size_t)1 << 30, 0);
	while (n > 0)
		n = copy_file_range(in, NULL, out, NULL, (size_t)1 << 30, 0);
	if (n < 0) { /* across file systems, or an old kernel: from where both offsets stand */
		char *buf = xmalloc((size_t)1 << 20);
		while (!failed && (n = read(in, buf, (size_t)1 << 20)) != 0) {
			if (n > 0)
				failed = fd_write_all(out, buf, (size_t)n, to, err);
			else if (errno != EINTR)
				failed = fail(from, err);
		}
		free(buf);
	}
	close(in);
	if (close(out) < 0 && !failed)
		failed = fail(to, err);
	if (failed)
		unlink(to);
	return failed;
}

int file_link_or_copy(const char *from, const char *to, struct error *err)
{
	if (link(from, to) == 0)
		return 0;
	if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != ENOTSUP && errno != EACCES)
		return fail(to, err);
	return file_copy(from, to, err);
}

bool stat_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       stat_modified_ns(a) == stat_modified_ns(b);
}

int64_t stat_modified_ns(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

bool path_exists(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0;
}

bool path_is_dir(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *dir, const char *name)
{
	size_t n = strlen(dir), m = strlen(name);

	if (name[0] == '/' || n == 0)
		return xstrdup(name);
	while (n > 1 && dir[n - 1] == '/')
		n--;
	char *p = xmalloc(n + m + 2);
	memcpy(p, dir, n);
	p[n] = '/';
	memcpy(p + n + (dir[n - 1] != '/'), name, m + 1);
	return p;
}

char *path_dir(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return xstrdup(".");
	return slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

const char *path_base(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}
