#include "data/source.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/dynlib.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define ARCHIVE_FUNCTIONS(F)                                                                                 \
	F(archive_read_new)                                                                                  \
	F(archive_read_free)                                                                                 \
	F(archive_read_support_filter_gzip)                                                                  \
	F(archive_read_support_filter_zstd)                                                                  \
	F(archive_read_support_filter_xz)                                                                    \
	F(archive_read_support_filter_bzip2)                                                                 \
	F(archive_read_support_format_tar)                                                                   \
	F(archive_read_support_format_zip)                                                                   \
	F(archive_read_support_format_raw)                                                                   \
	F(archive_read_support_format_empty)                                                                 \
	F(archive_read_open_filename)                                                                        \
	F(archive_read_next_header)                                                                          \
	F(archive_read_data)                                                                                 \
	F(archive_filter_bytes)                                                                              \
	F(archive_format)                                                                                    \
	F(archive_error_string)                                                                              \
	F(archive_entry_pathname)                                                                            \
	F(archive_entry_filetype)                                                                            \
	F(archive_entry_is_encrypted)
#define DECLARE(name) static __typeof__(name) *p_##name;
ARCHIVE_FUNCTIONS(DECLARE)
#define SYMBOL(name) {#name, (void **)&p_##name},
static const struct dynlib_symbol symbols[] = {ARCHIVE_FUNCTIONS(SYMBOL){NULL, NULL}};

static bool ends_with(const char *name, size_t n, const char *suffix)
{
	size_t m = strlen(suffix);
	return n > m && strncasecmp(name + n - m, suffix, m) == 0;
}

/* The length of name without one ending of a compression. */
static size_t without_compression(const char *name)
{
	static const char *const endings[] = {".gz", ".zst", ".xz", ".bz2"};
	size_t n = strlen(name);

	for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
		if (ends_with(name, n, endings[i]))
			return n - strlen(endings[i]);
	return n;
}

enum data_format data_format_of(const char *name)
{
	static const struct {
		const char *ending;
		enum data_format format;
	} table[] = {
		{".json", DATA_JSON},       {".jsonl", DATA_JSON},  {".ndjson", DATA_JSON},
		{".csv", DATA_CSV},         {".tsv", DATA_TSV},     {".txt", DATA_TEXT},
		{".parquet", DATA_PARQUET}, {".zip", DATA_ARCHIVE}, {".tar", DATA_ARCHIVE},
		{".tgz", DATA_ARCHIVE},     {".txz", DATA_ARCHIVE}, {".tzst", DATA_ARCHIVE},
	};
	const char *base = path_base(name);
	size_t n = without_compression(base);

	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (ends_with(base, n, table[i].ending))
			return table[i].format;
	return DATA_UNKNOWN;
}

static const char *const format_names[] = {"unknown", "json", "csv", "tsv", "parquet", "text", "archive"};

const char *data_format_name(enum data_format f)
{
	return format_names[f];
}

enum data_format data_format_parse(const char *name)
{
	for (int f = DATA_JSON; f <= DATA_TEXT; f++)
		if (strcmp(name, format_names[f]) == 0)
			return (enum data_format)f;
	return DATA_UNKNOWN;
}

bool data_file_ignored(const char *path)
{
	static const char *const names[] = {"README.md",          "config.json",    "dataset_info.json",
					    "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"};
	const char *base = path_base(path);

	for (const char *part = path; *part;) {
		size_t n = strcspn(part, "/");
		bool dots = n == strspn(part, ".") && n <= 2; /* "." and ".." */
		if (part[0] == '.' && !dots)
			return true;
		if (part[n] == '/' && str_starts(part, "__"))
			return true;
		part += n + (part[n] == '/');
	}
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(base, names[i]) == 0)
			return true;
	return false;
}

struct source {
	char *path;
	char *as;   /* the name that decides the format */
	char *name; /* of the current data file; NULL before the first */
	enum data_format format;
	int fd;            /* of a plain file, else -1 */
	uint64_t position; /* bytes read of a plain file */
	struct archive *archive;
	unsigned members; /* data files found so far */
	bool ended;       /* the archive has no more of them */
};

/* Whether the file begins as an archive or a compressed file does. */
static bool is_packed(int fd)
{
	unsigned char b[512];
	ssize_t n = pread(fd, b, sizeof b, 0);

	if (n < 4)
		return false;
	return (b[0] == 0x1f && b[1] == 0x8b) || memcmp(b, "\x28\xb5\x2f\xfd", 4) == 0 ||
	       memcmp(b, "BZh", 3) == 0 || memcmp(b, "PK\x03\x04", 4) == 0 ||
	       memcmp(b, "PK\x05\x06", 4) == 0 ||
	       (n >= 6 && memcmp(b,
				 "\xfd"
				 "7zXZ\0",
				 6) == 0) ||
	       (n == 512 && memcmp(b + 257, "ustar", 5) == 0);
}

static int archive_fail(struct source *s, struct error *err)
{
	const char *why = p_archive_error_string(s->archive);
	return error_set(err, ERR_USAGE, "%s: cannot be unpacked: %s", s->name ? s->name : s->path,
			 why ? why : "unknown reason");
}

static int open_archive(struct source *s, struct error *err)
{
	if (dynlib_load("libarchive.so.13", "libarchive13", symbols, err) < 0)
		return -1;
	s->archive = p_archive_read_new();
	if (!s->archive)
		return error_set(err, ERR_INFRA, "%s: out of memory", s->path);
	p_archive_read_support_filter_gzip(s->archive);
	p_archive_read_support_filter_zstd(s->archive);
	p_archive_read_support_filter_xz(s->archive);
	p_archive_read_support_filter_bzip2(s->archive);
	p_archive_read_support_format_tar(s->archive);
	p_archive_read_support_format_zip(s->archive);
	p_archive_read_support_format_raw(s->archive);
	p_archive_read_support_format_empty(s->archive);
	if (p_archive_read_open_filename(s->archive, s->path, (size_t)256 << 10) != ARCHIVE_OK)
		return archive_fail(s, err);
	return 0;
}

struct source *source_open(const char *path, const char *as, struct error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0) {
		error_errno(err, error_class_of_errno(errno), "%s", path);
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	if (!S_ISREG(st.st_mode)) {
		error_set(err, ERR_USAGE, "%s: not a regular file", path);
		close(fd);
		return NULL;
	}
	struct source *s = xcalloc(1, sizeof *s);
	s->path = xstrdup(path);
	s->as = xstrdup(as ? as : path);
	s->fd = fd;
	if (is_packed(fd)) {
		close(fd);
		s->fd = -1;
		if (open_archive(s, err) < 0) {
			source_close(s);
			return NULL;
		}
	}
	return s;
}

static int next_member(struct source *s, struct error *err)
{
	struct archive_entry *entry;
	int r;

	if (s->ended)
		return 0;
	while ((r = p_archive_read_next_header(s->archive, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		int format = p_archive_format(s->archive);
		bool raw = format == ARCHIVE_FORMAT_RAW;
		if (!raw) {
			const char *member = p_archive_entry_pathname(entry);
			enum data_format f = member ? data_format_of(member) : DATA_UNKNOWN;
			if (p_archive_entry_filetype(entry) != AE_IFREG || !member ||
			    data_file_ignored(member) || f == DATA_UNKNOWN)
				continue;
			if (f == DATA_ARCHIVE || without_compression(member) != strlen(member))
				return error_set(err, ERR_USAGE,
						 "%s:%s: a compressed file inside an archive cannot be read; "
						 "unpack the archive",
						 s->path, member);
			struct strbuf b = STRBUF_INIT;
			strbuf_addf(&b, "%s:%s", s->path, member);
			free(s->name);
			s->name = strbuf_steal(&b);
			s->format = f;
			if (p_archive_entry_is_encrypted(entry))
				return error_set(err, ERR_USAGE, "%s: is encrypted", s->name);
		} else {
			free(s->name);
			s->name = xstrdup(s->path);
			s->format = data_format_of(s->as);
		}
		s->members++;
		return 1;
	}
	if (r != ARCHIVE_EOF)
		return archive_fail(s, err);
	s->ended = true;
	/* The "empty" format: a compressed file with nothing in it is one empty data file. */
	if (s->members == 0 && p_archive_format(s->archive) == ARCHIVE_FORMAT_EMPTY) {
		s->name = xstrdup(s->path);
		s->format = data_format_of(s->as);
		s->members++;
		return 1;
	}
	if (s->members == 0) {
		error_set(err, ERR_USAGE, "%s: there is no data file in the archive", s->path);
		return error_hint(err,
				  "its files are told by their ending: .json .jsonl .csv .tsv .parquet .txt");
	}
	return 0;
}

int source_next(struct source *s, struct error *err)
{
	if (s->archive)
		return next_member(s, err);
	if (s->members++)
		return 0;
	s->name = xstrdup(s->path);
	s->format = data_format_of(s->as);
	return 1;
}

const char *source_name(const struct source *s)
{
	return s->name ? s->name : s->path;
}

enum data_format source_format(const struct source *s)
{
	return s->format;
}

bool source_is_plain(const struct source *s)
{
	return !s->archive;
}

const char *source_path(const struct source *s)
{
	return s->path;
}

int64_t source_read(struct source *s, void *buf, size_t n, struct error *err)
{
	if (s->archive) {
		if (p_archive_format(s->archive) == ARCHIVE_FORMAT_EMPTY)
			return 0;
		la_ssize_t got = p_archive_read_data(s->archive, buf, n);
		return got < 0 ? archive_fail(s, err) : got;
	}
	for (;;) {
		ssize_t got = read(s->fd, buf, n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, error_class_of_errno(errno), "%s", s->path);
		s->position += (uint64_t)got;
		return got;
	}
}

uint64_t source_position(const struct source *s)
{
	if (!s->archive)
		return s->position;
	la_int64_t n = p_archive_filter_bytes(s->archive, -1);
	return n > 0 ? (uint64_t)n : 0;
}

void source_close(struct source *s)
{
	if (!s)
		return;
	if (s->archive)
		p_archive_read_free(s->archive);
	if (s->fd >= 0)
		close(s->fd);
	free(s->path);
	free(s->as);
	free(s->name);
	free(s);
}

#define WINDOW_FIRST ((size_t)1 << 20)

void window_start(struct window *w, struct source *s)
{
	w->source = s;
	w->pos = w->len = 0;
	w->base = 0;
	w->eof = false;
}

int window_more(struct window *w, size_t limit, const char *what, struct error *err)
{
	size_t unused = w->len - w->pos;

	if (unused > limit)
		return error_set(err, ERR_USAGE, "%s: %s is larger than %zu MiB", source_name(w->source),
				 what, limit >> 20);
	if (w->pos) {
		memmove(w->data, w->data + w->pos, unused);
		w->base += w->pos;
		w->pos = 0;
		w->len = unused;
	}
	if (w->cap - w->len < WINDOW_FIRST / 2)
		w->data = xrealloc(w->data, w->cap = w->cap ? 2 * w->cap : WINDOW_FIRST);
	/* Filled up, since a row that is cut off is read again from its start. */
	while (!w->eof && w->len < w->cap) {
		int64_t got = source_read(w->source, w->data + w->len, w->cap - w->len, err);
		if (got < 0)
			return -1;
		w->eof = got == 0;
		w->len += (size_t)got;
	}
	return 0;
}

uint64_t window_offset(const struct window *w)
{
	return w->base + w->pos;
}

void window_free(struct window *w)
{
	free(w->data);
	*w = (struct window){0};
}
