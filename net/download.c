/* Downloads to a file: continued after a broken connection, also by a later process, and verified. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "net/exchange.h"

struct download {
	const char *url, *path;
	char *part, *tag_path; /* path.part, path.part.tag */
	int fd;                /* of part */
	uint64_t have;         /* bytes in part; hasher has seen exactly these */
	uint64_t total;        /* bytes in all; 0 = not known yet */
	char *tag;             /* what If-Range names: a strong ETag or a date; NULL = not resumable */
	struct hasher *hasher;
	bool begun;    /* the answer's headers have been looked at */
	bool mismatch; /* the server continued something else: start anew */
};

static int fail_part(const struct download *d, struct error *err)
{
	return error_errno(err, error_class_of_errno(errno), "%s", d->part);
}

/* Forgets what was downloaded. */
static int restart(struct download *d, struct error *err)
{
	struct digest ignored;

	if (ftruncate(d->fd, 0) < 0)
		return fail_part(d, err);
	hasher_finish(d->hasher, &ignored);
	d->have = d->total = 0;
	free(d->tag);
	d->tag = NULL;
	unlink(d->tag_path);
	return 0;
}

/* Takes up what an earlier call left. */
static int take_up(struct download *d, struct error *err)
{
	const size_t piece = (size_t)1 << 20;
	size_t n;

	d->fd = open(d->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (d->fd < 0)
		return fail_part(d, err);
	/* One process at a time; and when another has just finished, this may be its file under the final name. */
	struct stat mine, there;
	if (flock(d->fd, LOCK_EX | LOCK_NB) < 0 || fstat(d->fd, &mine) < 0 || stat(d->part, &there) < 0 ||
	    mine.st_ino != there.st_ino || mine.st_dev != there.st_dev) {
		error_set(err, ERR_INFRA, "%s: another process is downloading this file", d->part);
		return error_hint(err, "wait for it, then run again");
	}
	d->tag = path_exists(d->tag_path) ? file_read(d->tag_path, &n, NULL) : NULL;
	if (!d->tag || !*d->tag || strlen(d->tag) != n || d->tag[strcspn(d->tag, "\r\n")])
		return restart(d, err);
	char *buf = xmalloc(piece);
	ssize_t got;
	while ((got = pread(d->fd, buf, piece, (off_t)d->have)) > 0) {
		hasher_add(d->hasher, buf, (size_t)got);
		d->have += (uint64_t)got;
	}
	free(buf);
	return got < 0 ? fail_part(d, err) : 0;
}

/* What If-Range may name: an ETag that is not weak, else the date. */
static char *validator(const struct http_response *r)
{
	char *etag = http_response_header(r, "ETag");

	if (etag && etag[0] == '"')
		return etag;
	free(etag);
	return http_response_header(r, "Last-Modified");
}

/* "bytes 5-9/10" of a 206 and the total of "bytes *\/10" of a 416. */
static bool content_range(const struct http_response *r, uint64_t *from, uint64_t *total)
{
	char *v = http_response_header(r, "Content-Range");
	unsigned long long a = 0, b = 0, n = 0;
	int end = 0;
	bool ok = v &&
		  ((sscanf(v, "bytes %llu-%llu/%llu%n", &a, &b, &n, &end) == 3 && b >= a && n > b) ||
		   sscanf(v, "bytes */%llu%n", &n, &end) == 1) &&
		  v[end] == '\0';

	free(v);
	*from = a;
	*total = n;
	return ok;
}

/* At the first byte of a 2xx body: makes sure that the byte belongs behind those that are there. */
static int begin(struct exchange *x, struct download *d)
{
	const struct http_response *r = x->response;
	uint64_t from, total;

	d->begun = true;
	if (x->from && r->status == 206) {
		if (!content_range(r, &from, &total) || from != d->have || (d->total && d->total != total)) {
			d->mismatch = true;
			return error_set(x->err, ERR_INFRA,
					 "the server sent another range than was asked for");
		}
		d->total = total;
		return 0;
	}
	if (r->status != 200) {
		d->mismatch = true;
		return error_set(x->err, ERR_INFRA, "HTTP %ld where the whole file was asked for", r->status);
	}
	if (restart(d, x->err) < 0)
		return -1;
	char *length = http_response_header(r, "Content-Length");
	if (length && !parse_u64(length, &d->total))
		d->total = 0;
	free(length);
	x->progress_base = 0;
	x->progress_total = d->total;
	d->tag = validator(r);
	return d->tag ? file_write_atomic(d->tag_path, d->tag, strlen(d->tag), x->err) : 0;
}

static int store(struct exchange *x, const char *bytes, size_t n)
{
	struct download *d = x->arg;

	if (!d->begun && begin(x, d) < 0)
		return -1;
	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(d->fd, bytes + done, n - done, (off_t)(d->have + done));
		if (k < 0 && errno != EINTR)
			return fail_part(d, x->err);
		done += k > 0 ? (size_t)k : 0;
	}
	hasher_add(d->hasher, bytes, n);
	d->have += n;
	return 0;
}

enum outcome { DONE, AGAIN, FAILED };

/* What to do after an answer; AGAIN when err says what may pass. */
static enum outcome judge(struct exchange *x, struct download *d)
{
	const struct http_response *r = x->response;
	uint64_t from, total;

	if (r->status == 416 && x->from) {
		if (content_range(r, &from, &total) && total == d->have)
			return DONE;
		/* What is there is not the beginning of what the server has. */
		error_set(x->err, ERR_INFRA, "the server has another file than the one begun");
		return restart(d, x->err) < 0 ? FAILED : AGAIN;
	}
	if (r->status < 200 || r->status > 299) {
		http_status_error("GET", d->url, r, x->err);
		return exchange_passing_status(r->status) ? AGAIN : FAILED;
	}
	if (!d->begun && begin(x, d) < 0) /* an empty body */
		return FAILED;
	if (d->total && d->have != d->total) {
		error_set(x->err, ERR_INFRA, "%s: %" PRIu64 " of %" PRIu64 " bytes arrived", d->path, d->have,
			  d->total);
		return d->have > d->total && restart(d, x->err) < 0 ? FAILED : AGAIN;
	}
	return DONE;
}

static enum outcome attempt(struct download *d, const struct http_options *o, struct exchange *x)
{
	bool resume = d->have > 0 && d->tag;

	x->from = resume ? d->have : 0;
	x->if_range = d->tag;
	x->progress_base = resume ? d->have : 0;
	x->progress_total = resume ? d->total : 0;
	x->options = o;
	x->stopped = false;
	d->begun = d->mismatch = false;
	switch (exchange_run(x)) {
	case EXCHANGE_ANSWERED: return judge(x, d);
	case EXCHANGE_BROKEN: return AGAIN;
	case EXCHANGE_HOPELESS: break;
	}
	if (d->mismatch)
		return restart(d, x->err) < 0 ? FAILED : AGAIN;
	return FAILED;
}

static int finish(struct download *d, struct error *err)
{
	int failed = fsync(d->fd) < 0 || rename(d->part, d->path) < 0;

	if (failed)
		return error_errno(err, error_class_of_errno(errno), "%s", d->path);
	unlink(d->tag_path);
	return 0;
}

static int wrong_digest(const struct download *d, const struct digest *want, const struct digest *got,
			struct error *err)
{
	char *name = exchange_public_url(d->url);
	char a[65], b[65];

	digest_hex(want, a);
	digest_hex(got, b);
	error_set(err, ERR_INFRA, "%s: the bytes have SHA-256 %s, expected was %s", name, b, a);
	free(name);
	return error_hint(
		err, "it was downloaded twice; either the expected digest is wrong or the server's file is");
}

static int run(struct download *d, const struct digest *expected, const struct http_options *o,
	       struct http_download_result *out, struct error *err)
{
	const struct http_request q = {.method = "GET", .url = d->url};
	struct http_response response = {0};
	struct exchange x = {
		.request = &q, .low_speed = 1024, .sink = store, .arg = d, .err = err, .response = &response};
	int tries = 0, failed = -1;
	bool second = false;

	for (;;) {
		uint64_t before = d->have;
		enum outcome r = attempt(d, o, &x);
		if (r == FAILED)
			break;
		if (r == AGAIN) {
			tries = d->have > before ? 0 : tries + 1;
			if (o->retries < 0 || tries > exchange_retries(o) ||
			    exchange_wait(o, tries ? tries - 1 : 0, x.retry_after, d->have, d->total, err) <
				    0)
				break;
			continue;
		}
		hasher_finish(d->hasher, &out->sha256);
		if (!expected || digest_equal(expected, &out->sha256)) {
			failed = finish(d, err);
			break;
		}
		if (restart(d, err) < 0)
			break;
		if (second) {
			wrong_digest(d, expected, &out->sha256, err);
			break;
		}
		second = true;
	}
	out->status = response.status;
	out->size = d->have;
	out->etag = http_response_header(&response, "ETag");
	out->last_modified = http_response_header(&response, "Last-Modified");
	out->url = response.url ? xstrdup(response.url) : NULL;
	http_response_free(&response);
	return failed;
}

void http_download_result_free(struct http_download_result *r)
{
	free(r->etag);
	free(r->last_modified);
	free(r->url);
	*r = (struct http_download_result){0};
}

int http_download(const char *url, const char *path, const struct digest *expected,
		  const struct http_options *options, struct http_download_result *out, struct error *err)
{
	static const struct http_options none;
	struct download d = {.url = url, .path = path, .fd = -1, .hasher = hasher_new()};
	struct http_download_result result = {0};
	struct strbuf b = STRBUF_INIT;
	struct error local = ERROR_INIT;

	strbuf_addf(&b, "%s.part", path);
	d.part = strbuf_steal(&b);
	strbuf_addf(&b, "%s.part.tag", path);
	d.tag_path = strbuf_steal(&b);
	int failed = take_up(&d, &local);
	if (!failed)
		failed = run(&d, expected, options ? options : &none, &result, &local);
	if (failed && err)
		*err = local;
	if (d.fd >= 0)
		close(d.fd);
	hasher_free(d.hasher);
	free(d.tag);
	free(d.part);
	free(d.tag_path);
	if (failed || !out)
		http_download_result_free(&result);
	if (out)
		*out = result;
	return failed ? -1 : 0;
}
