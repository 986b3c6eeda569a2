#include "serve/server.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "serve/http.h"
#include "serve/mhd.h"

#define BODY_LIMIT   ((size_t)4 << 20)
#define CONNECTIONS  128
#define IDLE_SECONDS 60u

struct server {
	struct service service;
	struct MHD_Daemon *daemon;
	char *name, *url;
	int port;
	size_t body_limit;
	void (*log)(const char *line, void *arg);
	void *arg;
};

/* What a connection is in the middle of. */
struct visit {
	struct exchange x;
	bool too_large;
	double began;
	char *method, *path;
};

static const struct route {
	const char *method, *path;
	void (*answer)(struct exchange *x); /* NULL: health */
} routes[] = {
	{"GET", "/health", NULL},
	{"GET", "/v1/models", openai_models},
	{"POST", "/v1/completions", openai_completions},
	{"POST", "/generate", vllm_generate},
};

static void dispatch(struct exchange *x)
{
	struct api_error e;

	for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
		const struct route *r = routes + i;
		if (strcmp(r->path, x->path))
			continue;
		if (strcmp(r->method, x->method)) {
			api_error_set(&e, NULL, "%s %s: the method is %s", x->method, x->path, r->method);
			e.status = 405;
			reply_error(x, &e, r->method);
		} else if (r->answer) {
			r->answer(x);
		} else {
			reply_text(x, engine_alive(x->service->engine) ? 200 : 503, "", 0);
		}
		return;
	}
	api_error_set(&e, NULL,
		      "there is no %.200s here; there are GET /health, GET /v1/models, POST /v1/completions, "
		      "POST /generate",
		      x->path);
	e.status = 404;
	e.code = "not_found";
	reply_error(x, &e, NULL);
}

static void refuse_body(struct exchange *x, size_t limit)
{
	struct api_error e;

	api_error_set(&e, NULL, "the body is larger than %zu bytes", limit);
	e.status = 413;
	reply_error(x, &e, NULL);
}

/* The first call of a request has its head alone. True when a body that is announced is too large: answering at once
 * saves its transfer. */
static bool announced_too_large(struct MHD_Connection *c, size_t limit)
{
	const char *text = mhd.MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
	uint64_t n;

	return text && (!parse_u64(text, &n) || n > limit);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
				  const char *version, const char *data, size_t *size, void **state)
{
	struct server *s = arg;
	struct visit *v = *state;

	(void)version;
	if (!v) {
		v = xcalloc(1, sizeof *v);
		v->x.service = &s->service;
		v->x.connection = c;
		v->x.method = v->method = xstrdup(method);
		v->x.path = v->path = xstrdup(url);
		v->began = clock_mono();
		*state = v;
		if (announced_too_large(c, s->body_limit))
			refuse_body(&v->x, s->body_limit);
		return MHD_YES;
	}
	if (*size) {
		if (v->x.body.len + *size > s->body_limit)
			v->too_large = true;
		if (!v->too_large)
			strbuf_add(&v->x.body, data, *size);
		*size = 0;
		/* A body without an end and without an announced length: nothing can be answered before it ends. */
		return v->too_large && clock_mono() - v->began > IDLE_SECONDS ? MHD_NO : MHD_YES;
	}
	if (v->x.status)
		return MHD_YES;
	/* While an answer is made the connection is silent, which is no reason to close it. */
	mhd.MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	if (v->too_large)
		refuse_body(&v->x, s->body_limit);
	else
		dispatch(&v->x);
	if (!v->x.streaming)
		mhd.MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_SECONDS);
	return v->x.status ? MHD_YES : MHD_NO;
}

static void on_completed(void *arg, struct MHD_Connection *c, void **state,
			 enum MHD_RequestTerminationCode code)
{
	struct server *s = arg;
	struct visit *v = *state;
	char line[512], took[24];

	if (!v)
		return;
	if (v->x.streaming)
		mhd.MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_SECONDS);
	if (s->log) {
		format_duration(clock_mono() - v->began, took);
		int n = snprintf(line, sizeof line, "%s %.200s %d %s", v->x.method, v->x.path,
				 code == MHD_REQUEST_TERMINATED_COMPLETED_OK ? v->x.status : 499, took);
		if (v->x.tokens)
			snprintf(line + n, sizeof line - (size_t)n, ", %d + %d tokens", v->x.prompt_tokens,
				 v->x.tokens);
		s->log(line, s->arg);
	}
	strbuf_free(&v->x.body);
	free(v->method);
	free(v->path);
	free(v);
	*state = NULL;
}

/* ---- starting and stopping ---- */

static int listen_at(const char *host, int port, int *actual, struct error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
	struct sockaddr_storage bound;
	socklen_t length = sizeof bound;
	char service[16];
	int on = 1;

	if (port < 0 || port > 65535)
		return error_set(err, ERR_USAGE, "port %d: ports go from 0 (any that is free) to 65535",
				 port);
	snprintf(service, sizeof service, "%d", port);
	int code = getaddrinfo(host, service, &hints, &found);
	if (code)
		return error_set(err, ERR_USAGE, "host %s: %s", host, gai_strerror(code));
	int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		freeaddrinfo(found);
		return error_errno(err, ERR_INFRA, "a socket for %s", host);
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, CONNECTIONS)) {
		int saved = errno;
		freeaddrinfo(found);
		close(fd);
		errno = saved;
		error_errno(err, saved == EADDRINUSE ? ERR_INFRA : ERR_USAGE, "%s:%d", host, port);
		if (saved == EADDRINUSE)
			error_hint(err, "port 0 takes one that is free");
		return -1;
	}
	freeaddrinfo(found);
	getsockname(fd, (struct sockaddr *)&bound, &length);
	char number[16] = "";
	getnameinfo((struct sockaddr *)&bound, length, NULL, 0, number, sizeof number, NI_NUMERICSERV);
	*actual = atoi(number);
	return fd;
}

/* The last part of the directory's name, whatever slashes follow it. */
static char *name_of(const char *dir)
{
	size_t n = strlen(dir);

	while (n > 1 && dir[n - 1] == '/')
		n--;
	char *trimmed = xstrndup(dir, n), *name = xstrdup(path_base(trimmed));
	free(trimmed);
	return name;
}

int server_start(const struct server_options *o, struct server **out, struct error *err)
{
	const char *host = o->host ? o->host : "127.0.0.1";
	struct server *s = xcalloc(1, sizeof *s);
	struct strbuf url = STRBUF_INIT;

	if (mhd_load(err)) {
		free(s);
		return -1;
	}
	/* The port first: that it is taken should not cost the time to load a model. */
	int fd = listen_at(host, o->port, &s->port, err);
	if (fd < 0) {
		free(s);
		return -1;
	}
	struct engine_options eo = {.model = o->model,
				    .device = o->device,
				    .precision = o->precision,
				    .weights = o->weights,
				    .slots = o->slots,
				    .context = o->context,
				    .queue = o->queue,
				    .progress = o->progress,
				    .arg = o->arg};
	if (engine_open(&eo, &s->service.engine, err)) {
		close(fd);
		free(s);
		return -1;
	}
	s->name = o->name ? xstrdup(o->name) : name_of(o->model);
	strbuf_addf(&url, strchr(host, ':') ? "http://[%s]:%d" : "http://%s:%d", host, s->port);
	s->url = strbuf_steal(&url);
	s->service.name = s->name;
	s->service.max_tokens = o->max_tokens ? o->max_tokens : engine_context(s->service.engine);
	s->service.created = time(NULL);
	s->body_limit = o->body_limit ? o->body_limit : BODY_LIMIT;
	s->log = o->log;
	s->arg = o->arg;
	s->daemon = mhd.MHD_start_daemon(
		MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC,
		0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_END);
	if (!s->daemon) {
		close(fd);
		server_stop(s);
		return error_set(err, ERR_INFRA, "the server on %s:%d did not start", host, o->port);
	}
	*out = s;
	return 0;
}

int server_port(const struct server *s)
{
	return s->port;
}

const char *server_url(const struct server *s)
{
	return s->url;
}

const char *server_name(const struct server *s)
{
	return s->name;
}

const char *server_device_text(const struct server *s)
{
	return engine_device_text(s->service.engine);
}

void server_wait(const struct server *s, volatile int *stop)
{
	const struct timespec pause = {0, 50000000};

	(void)s;
	while (!*stop)
		nanosleep(&pause, NULL);
}

void server_stop(struct server *s)
{
	if (!s)
		return;
	/* The jobs end first: connections that wait for them can then be closed. */
	engine_stop(s->service.engine);
	if (s->daemon)
		mhd.MHD_stop_daemon(s->daemon);
	engine_close(s->service.engine);
	free(s->name);
	free(s->url);
	free(s);
}
