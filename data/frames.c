#include "data/frames.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/pack.h"

#define HEAD_SIZE   ((uint64_t)16)
#define FOOTER_SIZE ((uint64_t)32)
#define BUFFER_SIZE ((size_t)1 << 20)

/* As in PNG: the first byte catches 7-bit transfers, the line ends catch text conversions. */
static const char head_magic[8] = {'\x89', 'A', 'N', 'F', '\r', '\n', '\x1a', '\n'};
static const char foot_magic[8] = {'A', 'N', 'F', ' ', 'e', 'n', 'd', '\n'};

static void store_le(uint8_t *out, uint64_t v, size_t width)
{
	for (size_t i = 0; i < width; i++)
		out[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t load_le(const uint8_t *p, size_t width)
{
	uint64_t v = 0;

	for (size_t i = width; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

struct frames_writer {
	char *path;
	int fd;
	uint64_t written;  /* bytes given to the file or the buffer: the offset of what comes next */
	uint64_t *offsets; /* of every record */
	size_t count, cap;
	size_t filled; /* bytes in buffer */
	uint8_t buffer[BUFFER_SIZE];
};

static int flush(struct frames_writer *w, struct error *err)
{
	size_t n = w->filled;

	w->filled = 0;
	return fd_write_all(w->fd, w->buffer, n, w->path, err);
}

static int put(struct frames_writer *w, const void *bytes, size_t n, struct error *err)
{
	w->written += n;
	if (n > BUFFER_SIZE - w->filled && flush(w, err) < 0)
		return -1;
	if (n > BUFFER_SIZE)
		return fd_write_all(w->fd, bytes, n, w->path, err);
	memcpy(w->buffer + w->filled, bytes, n);
	w->filled += n;
	return 0;
}

static void writer_free(struct frames_writer *w)
{
	free(w->offsets);
	free(w->path);
	free(w);
}

struct frames_writer *frames_create(const char *path, const char kind[4], struct error *err)
{
	uint8_t head[HEAD_SIZE];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0) {
		error_errno(err, error_class_of_errno(errno), "%s", path);
		return NULL;
	}
	struct frames_writer *w = xmalloc(sizeof *w);
	w->path = xstrdup(path);
	w->fd = fd;
	w->written = 0;
	w->offsets = NULL;
	w->count = w->cap = w->filled = 0;
	memcpy(head, head_magic, 8);
	store_le(head + 8, FRAMES_VERSION, 4);
	memcpy(head + 12, kind, 4);
	put(w, head, sizeof head, err); /* into the empty buffer: cannot fail */
	return w;
}

int frames_add(struct frames_writer *w, const void *record, size_t n, struct error *err)
{
	grow(&w->offsets, &w->cap, w->count + 1, sizeof *w->offsets);
	w->offsets[w->count++] = w->written;
	return put(w, record, n, err);
}

uint64_t frames_writer_count(const struct frames_writer *w)
{
	return w->count;
}

int frames_commit(struct frames_writer *w, const void *properties, size_t n, struct error *err)
{
	uint8_t footer[FOOTER_SIZE], entry[8];
	uint64_t properties_at = w->written;
	int failed = put(w, properties, n, err);

	store_le(footer, properties_at, 8);
	store_le(footer + 8, w->written, 8);
	store_le(footer + 16, w->count, 8);
	memcpy(footer + 24, foot_magic, 8);
	for (size_t i = 0; !failed && i < w->count; i++) {
		store_le(entry, w->offsets[i], 8);
		failed = put(w, entry, 8, err);
	}
	failed = failed || put(w, footer, sizeof footer, err) < 0 || flush(w, err) < 0;
	if (close(w->fd) < 0 && !failed)
		failed = error_errno(err, error_class_of_errno(errno), "%s", w->path);
	if (failed)
		unlink(w->path);
	writer_free(w);
	return failed ? -1 : 0;
}

void frames_abort(struct frames_writer *w)
{
	if (!w)
		return;
	close(w->fd);
	unlink(w->path);
	writer_free(w);
}

/* Finds the parts of the mapped file; NULL when they fit, else what is wrong. */
static const char *locate(struct frames *f, const char kind[4], bool *other_kind)
{
	const uint8_t *p = f->map.data;
	uint64_t size = f->map.size;

	if (size < HEAD_SIZE || memcmp(p, head_magic, 8) != 0)
		return "not an anneal row or token file";
	if (load_le(p + 8, 4) != FRAMES_VERSION)
		return "written in another version of the format";
	if (memcmp(p + 12, kind, 4) != 0) {
		*other_kind = true;
		return "holds records of another kind";
	}
	if (size < HEAD_SIZE + FOOTER_SIZE || memcmp(p + size - 8, foot_magic, 8) != 0)
		return "has no footer: it was cut off or never finished";
	const uint8_t *footer = p + size - FOOTER_SIZE;
	uint64_t properties = load_le(footer, 8), index = load_le(footer + 8, 8),
		 count = load_le(footer + 16, 8);
	uint64_t room = size - FOOTER_SIZE;
	if (index > room || count > (room - index) / 8 || index + 8 * count != room ||
	    properties < HEAD_SIZE || properties >= index || (count == 0) != (properties == HEAD_SIZE))
		return "has a damaged footer";
	f->count = count;
	f->records_end = properties;
	f->index = p + index;
	f->properties = p + properties;
	f->properties_len = (size_t)(index - properties);
	if (count && load_le(f->index, 8) != HEAD_SIZE)
		return "has a damaged index";
	const uint8_t *q = f->properties;
	struct pack_value v;
	if (!pack_valid(q, f->properties_len) || !pack_read(&q, q + f->properties_len, &v) ||
	    v.type != PACK_MAP)
		return "has damaged properties";
	return NULL;
}

struct frames *frames_open(const char *path, const char kind[4], struct error *err)
{
	struct frames *f = xcalloc(1, sizeof *f);
	bool other_kind = false;

	if (file_map(path, &f->map, err) < 0) {
		free(f);
		return NULL;
	}
	f->path = xstrdup(path);
	const char *wrong = locate(f, kind, &other_kind);
	if (wrong) {
		if (other_kind)
			error_set(err, ERR_USAGE, "%s: %s (\"%.4s\", not \"%.4s\")", path, wrong,
				  (const char *)f->map.data + 12, kind);
		else
			error_set(err, ERR_USAGE, "%s: %s", path, wrong);
		frames_close(f);
		return NULL;
	}
	return f;
}

int frames_get(const struct frames *f, uint64_t i, const uint8_t **record, size_t *n, struct error *err)
{
	if (i >= f->count)
		return error_set(err, ERR_USAGE, "%s: no record %" PRIu64 ", there are %" PRIu64, f->path, i,
				 f->count);
	uint64_t from = load_le(f->index + 8 * i, 8);
	uint64_t to = i + 1 < f->count ? load_le(f->index + 8 * (i + 1), 8) : f->records_end;
	if (from < HEAD_SIZE || to <= from || to > f->records_end)
		return error_set(err, ERR_USAGE, "%s: the index is damaged at record %" PRIu64, f->path, i);
	*record = f->map.data + from;
	*n = (size_t)(to - from);
	return 0;
}

void frames_close(struct frames *f)
{
	if (!f)
		return;
	file_unmap(&f->map);
	free(f->path);
	free(f);
}
