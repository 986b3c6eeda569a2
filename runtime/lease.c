/* Leases: a kernel lock (an open file description lock, fcntl(2)) on one byte of .anneal/leases/lock, one producer per key. The
 * byte's offset is the key's first 63 bits: no file is made per key, which costs more than the lock itself and would stay
 * behind when its holder is killed. Two keys that share an offset would wait for each other in vain, not go wrong. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/store_internal.h"

static off_t offset_of(const struct digest *key)
{
	uint64_t v = 0;

	for (size_t i = 0; i < 8; i++)
		v = v << 8 | key->bytes[i];
	return (off_t)((v >> 1) & (INT64_MAX - 1)); /* a lock's end must fit too */
}

static int open_leases(struct store *s, struct error *err)
{
	struct strbuf path = STRBUF_INIT;

	strbuf_addf(&path, "%s/leases/lock", s->dir);
	int fd = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 && errno == ENOENT) {
		char *dir = path_dir(path.data);
		if (dir_create(dir, err) == 0)
			fd = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		free(dir);
	}
	if (fd < 0)
		store_errno(err, path.data);
	strbuf_free(&path);
	return fd;
}

int lease_try(struct store *s, const struct digest *key, int *fd, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset_of(key), .l_len = 1};

	*fd = -1;
	store_read_end(
		s); /* whoever gets the lease looks the key up again, and has to see the last holder's result */
	if (store_want_write(s, err))
		return -1;
	int file = open_leases(s, err); /* a description of its own: it is the lock's holder */
	if (file < 0)
		return -1;
	if (fcntl(file, F_OFD_SETLK, &lock) < 0) {
		int got = errno == EAGAIN || errno == EACCES ? 0 : store_errno(err, "leases/lock");
		close(file);
		return got;
	}
	*fd = file;
	return 1;
}

void lease_release(struct store *s, const struct digest *key, int fd)
{
	(void)s;
	(void)key;
	if (fd >= 0)
		close(fd);
}
