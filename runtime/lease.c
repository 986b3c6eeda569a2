/* Leases: a kernel lock on .anneal/leases/<key>, one producer per key. The file is only what the lock hangs on; it is
 * removed by lease_release, or it stays, empty, when its holder was killed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

static char *lease_path(struct store *s, const struct digest *key)
{
	struct strbuf b = STRBUF_INIT;
	char hex[65];

	digest_hex(key, hex);
	strbuf_addf(&b, "%s/leases/%s", s->dir, hex);
	return strbuf_steal(&b);
}

/* True when path still names the file behind fd: a lock on a file that its last holder unlinked excludes nobody. */
static bool still_there(const char *path, int fd)
{
	struct stat a, b;

	return stat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int open_lease(const char *path, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0 && errno == ENOENT) {
		char *dir = path_dir(path);
		if (dir_create(dir, err) == 0)
			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		free(dir);
	}
	return fd < 0 ? store_errno(err, path) : fd;
}

int lease_try(struct store *s, const struct digest *key, int *fd, struct error *err)
{
	char *path = lease_path(s, key);
	int got = -1, file = -1;

	*fd = -1;
	store_read_end(
		s); /* whoever gets the lease looks the key up again, and has to see the last holder's result */
	if (store_want_write(s, err))
		goto out;
	for (;;) {
		file = open_lease(path, err);
		if (file < 0)
			goto out;
		if (flock(file, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EINTR) {
				close(file);
				continue;
			}
			got = errno == EWOULDBLOCK ? 0 : store_errno(err, path);
			close(file);
			goto out;
		}
		if (still_there(path, file))
			break;
		close(file);
	}
	*fd = file;
	got = 1;
out:
	free(path);
	return got;
}

void lease_release(struct store *s, const struct digest *key, int fd)
{
	char *path = lease_path(s, key);

	if (fd >= 0 && still_there(path, fd))
		unlink(path);
	if (fd >= 0)
		close(fd);
	free(path);
}
