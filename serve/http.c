/* Answers through libmicrohttpd. Every connection has a thread of its own, so that an answer may wait for the model. */
#include "serve/http.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/dynlib.h"
#include "base/mem.h"
#include "serve/mhd.h"

struct mhd mhd;

int mhd_load(struct error *err)
{
#define SYMBOL(name) {#name, (void **)&mhd.name},
	static const struct dynlib_symbol symbols[] = {MHD_FUNCTIONS(SYMBOL){NULL, NULL}};
	return dynlib_load("libmicrohttpd.so.12", "libmicrohttpd12", symbols, err);
}

int api_error_set(struct api_error *e, const char *param, const char *fmt, ...)
{
	va_list ap;

	e->status = 400;
	e->type = "invalid_request_error";
	e->code = NULL;
	snprintf(e->param, sizeof e->param, "%s", param ? param : "");
	va_start(ap, fmt);
	vsnprintf(e->message, sizeof e->message, fmt, ap);
	va_end(ap);
	return -1;
}

int api_error_from(struct api_error *e, const struct error *err)
{
	api_error_set(e, NULL, "%s", err->message);
	switch (err->class) {
	case ERR_USAGE: break;
	case ERR_INFRA:
		e->status = 429;
		e->type = "rate_limit_error";
		break;
	case ERR_INTERRUPTED:
		e->status = 503;
		e->type = "server_error";
		break;
	default:
		e->status = 500;
		e->type = "server_error";
		break;
	}
	return -1;
}

/* ---- whole answers ---- */

/* text is the response's from here on (free). */
static void reply(struct exchange *x, int status, const char *type, char *text, size_t n, const char *allow)
{
	struct MHD_Response *r = mhd.MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);

	x->status = status;
	if (!r) {
		free(text);
		return;
	}
	mhd.MHD_add_response_header(r, "Content-Type", type);
	if (allow)
		mhd.MHD_add_response_header(r, "Allow", allow);
	mhd.MHD_queue_response(x->connection, (unsigned)status, r);
	mhd.MHD_destroy_response(r);
}

void reply_text(struct exchange *x, int status, const char *text, size_t n)
{
	reply(x, status, "text/plain; charset=utf-8", xstrndup(text, n), n, NULL);
}

static void reply_document(struct exchange *x, int status, json_t *j, const char *allow)
{
	char *text = json_dumps(j, JSON_COMPACT);

	json_decref(j);
	if (!text)
		text = xstrdup("{}");
	reply(x, status, "application/json", text, strlen(text), allow);
}

void reply_json(struct exchange *x, int status, json_t *j)
{
	reply_document(x, status, j, NULL);
}

void reply_error(struct exchange *x, const struct api_error *e, const char *allow)
{
	/* A message may quote what the client sent: anything but valid UTF-8 is dropped on the way. */
	struct strbuf message = STRBUF_INIT;
	uint32_t cp;

	for (const char *s = e->message; *s;) {
		size_t k = utf8_decode(s, strlen(s), &cp);
		if (k)
			strbuf_add(&message, s, k);
		s += k ? k : 1;
	}
	json_t *error = json_object();
	json_object_set_new(error, "message", json_string(message.data ? message.data : ""));
	json_object_set_new(error, "type", json_string(e->type));
	json_object_set_new(error, "param",
			    e->param[0] && utf8_valid(e->param, strlen(e->param)) == strlen(e->param)
				    ? json_string(e->param)
				    : json_null());
	json_object_set_new(error, "code", e->code ? json_string(e->code) : json_null());
	json_t *j = json_object();
	json_object_set_new(j, "error", error);
	strbuf_free(&message);
	reply_document(x, e->status, j, allow);
}

/* ---- answers that grow ---- */

struct stream {
	struct stream_source source;
	int fd;
	struct strbuf pending; /* pieces that are not sent yet */
	size_t sent;           /* bytes of pending that are */
	int more;              /* what next said last */
};

static bool fd_gone(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

static int connection_fd(void *connection)
{
	const union MHD_ConnectionInfo *info = mhd.MHD_get_connection_info(connection,
									   MHD_CONNECTION_INFO_CONNECTION_FD);

	return info ? info->connect_fd : -1;
}

bool exchange_gone(const struct exchange *x)
{
	return fd_gone(connection_fd(x->connection));
}

static ssize_t stream_read(void *arg, uint64_t at, char *out, size_t max)
{
	struct stream *s = arg;

	(void)at;
	while (s->sent == s->pending.len) {
		if (s->more == 0)
			return MHD_CONTENT_READER_END_OF_STREAM;
		if (s->more < 0 || fd_gone(s->fd))
			return MHD_CONTENT_READER_END_WITH_ERROR;
		strbuf_clear(&s->pending);
		s->sent = 0;
		s->more = s->source.next(s->source.arg, &s->pending);
	}
	size_t n = s->pending.len - s->sent;
	n = n < max ? n : max;
	memcpy(out, s->pending.data + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

static void stream_release(void *arg)
{
	struct stream *s = arg;

	s->source.release(s->source.arg);
	strbuf_free(&s->pending);
	free(s);
}

void reply_stream(struct exchange *x, const char *content_type, const struct stream_source *source)
{
	struct stream *s = xcalloc(1, sizeof *s);

	s->source = *source;
	s->fd = connection_fd(x->connection);
	s->more = 1;
	x->status = 200;
	x->streaming = true;
	struct MHD_Response *r = mhd.MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read,
								       s, stream_release);
	if (!r) {
		stream_release(s);
		return;
	}
	mhd.MHD_add_response_header(r, "Content-Type", content_type);
	mhd.MHD_add_response_header(r, "Cache-Control", "no-cache");
	mhd.MHD_queue_response(x->connection, 200, r);
	mhd.MHD_destroy_response(r);
}
