/* Files: whole reads, maps, durable writes, directory trees. Paths are byte strings, relative ones to the current
 * directory. Every function names the path in its error. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"

/* The whole file, NUL-terminated behind *size bytes; the caller frees it. */
char *file_read(const char *path, size_t *size, struct error *err);

/* A read-only map of a whole file. data is NULL when the file is empty. */
struct file_map {
	const uint8_t *data;
	size_t size; /* bytes */
};
int file_map(const char *path, struct file_map *out, struct error *err);
void file_unmap(struct file_map *m);

/* Writes n bytes to path so that a reader, also after a crash, sees the old file or the whole new one: a
 * temporary beside it, fsync, rename. On failure the old file stands and no temporary is left. */
int file_write_atomic(const char *path, const void *bytes, size_t n, struct error *err);
/* Writes all n bytes to fd, over short writes and EINTR. */
int fd_write_all(int fd, const void *bytes, size_t n, const char *name, struct error *err);

/* Creates path and its missing parents, mode 0777 less umask. */
int dir_create(const char *path, struct error *err);
/* Removes path and all below it; a path that is not there is fine. Does not follow links. */
int tree_remove(const char *path, struct error *err);
/* fsync of a file by its path. */
int file_sync(const char *path, struct error *err);
/* fsync of a directory, so that renames in it are durable. */
int dir_sync(const char *path, struct error *err);

/* Calls visit for every regular file below root in byte order of its relative path ("a/b.txt"); links are
 * followed. A visit that returns -1 stops the walk. Other kinds of file are an error. */
int tree_walk(const char *root,
	      int (*visit)(const char *relative, const char *path, void *arg, struct error *err), void *arg,
	      struct error *err);

/* A hard link where the file system allows it, else a copy. */
int file_link_or_copy(const char *from, const char *to, struct error *err);
int file_copy(const char *from, const char *to, struct error *err);
/* The same file, unchanged as far as its inode tells: device, inode, size, time of modification. */
bool stat_same_file(const struct stat *a, const struct stat *b);
int64_t stat_modified_ns(const struct stat *st);
bool path_exists(const char *path);
bool path_is_dir(const char *path);

/* dir and name with one '/' between; the caller frees it. An absolute name stands alone. */
char *path_join(const char *dir, const char *name);
/* The part before the last '/', or "."; the caller frees it. */
char *path_dir(const char *path);
/* The part behind the last '/'; points into path. */
const char *path_base(const char *path);

#endif
