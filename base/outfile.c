#include "base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define PIECE ((size_t)1 << 20)

struct outfile {
	char *path;
	int fd;
	char *buffer; /* PIECE */
	size_t held;  /* bytes in it */
	void *hash;   /* NULL: none, or nothing was written yet */
	bool began;
};

static const struct outfile_hash *hashing;

void outfile_hash_with(const struct outfile_hash *how)
{
	hashing = how;
}

static int fail(const char *path, struct error *err)
{
	return error_errno(err, error_class_of_errno(errno), "%s", path);
}

int outfile_create(const char *path, struct outfile **out, struct error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0)
		return fail(path, err);
	*out = xcalloc(1, sizeof **out);
	**out = (struct outfile){.path = xstrdup(path), .fd = fd, .buffer = xmalloc(PIECE)};
	return 0;
}

/* Writes, and hashes beside it; bytes may still be read by the hashing thread afterwards. */
static int put(struct outfile *f, const void *bytes, size_t n, struct error *err)
{
	if (!f->began && hashing)
		f->hash = hashing->begin();
	f->began = true;
	if (f->hash)
		hashing->add(f->hash, bytes, n);
	return fd_write_all(f->fd, bytes, n, f->path, err);
}

static void settle(struct outfile *f)
{
	if (f->hash)
		hashing->wait(f->hash);
}

static int flush(struct outfile *f, struct error *err)
{
	int failed = f->held ? put(f, f->buffer, f->held, err) : 0;

	settle(f);
	f->held = 0;
	return failed;
}

int outfile_add(struct outfile *f, const void *bytes, size_t n, struct error *err)
{
	if (f->held + n > PIECE && flush(f, err))
		return -1;
	if (n >= PIECE) {
		int failed = put(f, bytes, n, err);
		settle(f);
		return failed;
	}
	if (n)
		memcpy(f->buffer + f->held, bytes, n);
	f->held += n;
	return 0;
}

int outfile_add_from(struct outfile *f, int from, const char *name, struct error *err)
{
	/* Two pieces by turns: one is read while the other may still be hashed. */
	char *pieces[2] = {xmalloc(4 * PIECE), xmalloc(4 * PIECE)};
	int failed = flush(f, err), turn = 0;
	ssize_t n;

	while (!failed && (n = read(from, pieces[turn], 4 * PIECE)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		failed = n < 0 ? fail(name, err) : put(f, pieces[turn], (size_t)n, err);
		turn ^= 1;
	}
	settle(f);
	free(pieces[0]);
	free(pieces[1]);
	return failed;
}

static void release(struct outfile *f, const struct stat *st)
{
	if (f->hash)
		hashing->end(f->hash, st);
	free(f->path);
	free(f->buffer);
	free(f);
}

int outfile_commit(struct outfile *f, struct error *err)
{
	struct stat st;
	/* A small file is left to whoever stores it: a thread would take longer than reading it. */
	bool small = !f->began;
	int failed = small && f->held ? fd_write_all(f->fd, f->buffer, f->held, f->path, err) : flush(f, err);

	if (!failed && (fsync(f->fd) < 0 || fstat(f->fd, &st) < 0))
		failed = fail(f->path, err);
	if (close(f->fd) < 0 && !failed)
		failed = fail(f->path, err);
	if (failed)
		unlink(f->path);
	release(f, failed ? NULL : &st);
	return failed;
}

void outfile_abandon(struct outfile *f)
{
	if (!f)
		return;
	settle(f);
	close(f->fd);
	unlink(f->path);
	release(f, NULL);
}

int file_copy_hashed(const char *from, const char *to, struct error *err)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	struct outfile *f;

	if (in < 0)
		return fail(from, err);
	if (outfile_create(to, &f, err)) {
		close(in);
		return -1;
	}
	int failed = ioctl(f->fd, FICLONE, in) == 0 ? 0 : outfile_add_from(f, in, from, err);
	close(in);
	if (!failed)
		return outfile_commit(f, err);
	outfile_abandon(f);
	return -1;
}
