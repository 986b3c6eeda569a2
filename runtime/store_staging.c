/* Staging directories. Each is locked (flock, shared) by who works in it; the kernel drops the lock with the process.
 * Whoever opens the store for writing takes the ones that nobody holds out of the way. .anneal/staging/.lock orders the
 * two: makers hold it shared while a directory has no lock of its own yet, the cleaner exclusively. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

static int open_lock(const char *staging, struct error *err)
{
	char *path = path_join(staging, ".lock");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0 && errno == ENOENT && dir_create(staging, err) == 0)
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		store_errno(err, path);
	free(path);
	return fd;
}

int store_staging_hold(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int staging_make(const char *dir, struct held_dir *out, struct error *err)
{
	char *staging = path_join(dir, "staging");
	int lock = open_lock(staging, err), failed = -1;
	struct strbuf path = STRBUF_INIT;

	out->path = NULL;
	out->fd = -1;
	if (lock < 0)
		goto out;
	if (flock(lock, LOCK_SH) < 0) {
		store_errno(err, staging);
		goto out;
	}
	strbuf_addf(&path, "%s/%ld.XXXXXX", staging, (long)getpid());
	if (!mkdtemp(path.data)) {
		store_errno(err, path.data);
		goto out;
	}
	out->fd = store_staging_hold(path.data);
	if (out->fd < 0) {
		store_errno(err, path.data);
		rmdir(path.data);
		goto out;
	}
	out->path = strbuf_steal(&path);
	failed = 0;
out:
	strbuf_free(&path);
	free(staging);
	if (lock >= 0)
		close(lock);
	return failed;
}

int store_staging(struct store *s, char **path, struct error *err)
{
	struct held_dir made;

	*path = NULL;
	if (store_want_write(s, err) || staging_make(s->dir, &made, err))
		return -1;
	grow(&s->staging, &s->staging_cap, s->nstaging + 1, sizeof *s->staging);
	s->staging[s->nstaging++] = made;
	*path = xstrdup(made.path);
	return 0;
}

/* A stage may leave directories that forbid their owner to delete in them. */
static int remove_stubborn(const char *path, struct error *err)
{
	struct tree unlocked = {NULL, 0, 0, 0};

	if (tree_remove(path, NULL) == 0)
		return 0;
	tree_list(path, false, &unlocked, NULL); /* makes directories writable on its way */
	tree_free(&unlocked);
	return tree_remove(path, err);
}

int store_staging_drop(struct store *s, char *path, struct error *err)
{
	int failed = remove_stubborn(path, err);

	for (size_t i = 0; i < s->nstaging; i++) {
		if (strcmp(s->staging[i].path, path) == 0) {
			close(s->staging[i].fd);
			free(s->staging[i].path);
			s->staging[i] = s->staging[--s->nstaging];
			break;
		}
	}
	free(path);
	return failed;
}

/* Best effort: what cannot be removed now is tried again by the next store_open. */
void staging_clean(const char *dir)
{
	char *staging = path_join(dir, "staging"), **dead = NULL;
	DIR *d = opendir(staging);
	size_t ndead = 0, cap = 0;
	int lock = -1;

	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		if (lock < 0) {
			lock = open_lock(staging, NULL);
			if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)
				break;
		}
		char *path = path_join(staging, e->d_name);
		int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
			/* Out of the way first: removing much takes long, and makers wait for the lock. */
			struct strbuf to = STRBUF_INIT;
			strbuf_addf(&to, "%s/dead.%ld.%s", staging, (long)getpid(), e->d_name);
			bool named = str_starts(e->d_name, "dead.") ||
				     strlen(to.data) - strlen(staging) > 200;
			if (named || rename(path, to.data) == 0) {
				grow(&dead, &cap, ndead + 1, sizeof *dead);
				dead[ndead++] = named ? xstrdup(path) : xstrdup(to.data);
			}
			strbuf_free(&to);
		}
		if (fd >= 0)
			close(fd);
		free(path);
	}
	if (d)
		closedir(d);
	if (lock >= 0)
		close(lock);
	for (size_t i = 0; i < ndead; i++) {
		remove_stubborn(dead[i], NULL);
		free(dead[i]);
	}
	free(dead);
	free(staging);
}
