#include "tests/fakes/http_fake.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

#define LIFETIME 30.0

struct http_fake {
	const struct fake_step *steps;
	size_t n, taken;
	int listener, port;
	atomic_bool stop;
	double end;
	pthread_t thread;
	struct strbuf complaints;
};

static void nap(int ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
	nanosleep(&t, NULL);
}

/* Waits for input in short turns, so that stopping is quick. */
static bool readable(const struct http_fake *f, int fd)
{
	struct pollfd p = {fd, POLLIN, 0};

	while (!f->stop && clock_mono() < f->end)
		if (poll(&p, 1, 20) > 0)
			return true;
	return false;
}

static bool read_request(const struct http_fake *f, int fd, struct strbuf *b)
{
	size_t want = 0;

	for (;;) {
		char *end = b->data ? strstr(b->data, "\r\n\r\n") : NULL;
		if (end && !want) {
			char *length = strcasestr(b->data, "\r\nContent-Length:");
			want = (size_t)(end + 4 - b->data) +
			       (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
		}
		if (want && b->len >= want)
			return b->len == want;
		if (!readable(f, fd))
			return false;
		ssize_t got = recv(fd, strbuf_reserve(b, 65536), 65536, 0);
		if (got <= 0)
			return false;
		b->len += (size_t)got;
		b->data[b->len] = '\0';
	}
}

static void send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k <= 0)
			return;
		p += k;
		n -= (size_t)k;
	}
}

static void send_body(int fd, const struct fake_step *s, const char *body, size_t n)
{
	size_t most = s->cut && s->cut < n ? s->cut : n, half = s->stall_ms ? most / 2 : 0;
	struct strbuf b = STRBUF_INIT;

	if (s->chunked) {
		for (size_t i = 0; i < most; i += 5) {
			size_t k = most - i < 5 ? most - i : 5;
			strbuf_addf(&b, "%zx\r\n%.*s\r\n", k, (int)k, body + i);
		}
		if (most == n)
			strbuf_adds(&b, "0\r\n\r\n");
		send_all(fd, b.data, b.len);
	} else {
		send_all(fd, body, half);
		if (s->stall_ms) { /* until the peer gives up, to be there for its next try */
			struct pollfd p = {fd, POLLIN | POLLRDHUP, 0};
			poll(&p, 1, s->stall_ms);
		}
		send_all(fd, body + half, most - half);
	}
	strbuf_free(&b);
}

/* Where a Range header that may be honoured begins; 0 = send the whole. */
static size_t range_start(const struct fake_step *s, const char *request)
{
	const char *range = strstr(request, "\r\nRange: bytes="),
		   *if_range = strstr(request, "\r\nIf-Range: ");
	const char *etag = s->headers ? strstr(s->headers, "ETag: ") : NULL;

	if (!s->ranges || !range)
		return 0;
	if (if_range && (!etag || strncmp(if_range + 12, etag + 6, strcspn(etag + 6, "\r") + 1) != 0))
		return 0;
	return strtoul(range + 15, NULL, 10);
}

static void answer(struct http_fake *f, int fd, const struct fake_step *s, const char *request)
{
	const char *body = s->body ? s->body : "";
	size_t size = s->body_size ? s->body_size : strlen(body), from = range_start(s, request);
	int status = from >= size && from ? 416 : from ? 206 : s->status;
	struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "HTTP/1.1 %d Fake\r\nConnection: close\r\n", status);
	for (const char *h = s->headers ? s->headers : ""; *h; h++) {
		if (h[0] == '%' && h[1] == 'd')
			strbuf_addf(&b, "%d", f->port);
		else if (h == s->headers || h[-1] != '%' || h[0] != 'd')
			strbuf_addc(&b, *h);
	}
	if (status == 416)
		strbuf_addf(&b, "Content-Range: bytes */%zu\r\n", size);
	if (status == 206)
		strbuf_addf(&b, "Content-Range: bytes %zu-%zu/%zu\r\n", from, size - 1, size);
	size_t n = status == 416 ? 0 : size - from;
	if (s->chunked)
		strbuf_adds(&b, "Transfer-Encoding: chunked\r\n\r\n");
	else if (status == 204 || status == 304)
		strbuf_adds(&b, "\r\n");
	else
		strbuf_addf(&b, "Content-Length: %zu\r\n\r\n", n);
	send_all(fd, b.data, b.len);
	if (n && strncmp(request, "HEAD ", 5) != 0)
		send_body(fd, s, body + from, n);
	strbuf_free(&b);
}

static void complain(struct http_fake *f, const char *what, const char *text, const char *request)
{
	strbuf_addf(&f->complaints, "request %zu %s \"%s\" in \"%.600s\"; ", f->taken, what, text, request);
}

static void serve(struct http_fake *f, int fd)
{
	static const struct fake_step unexpected = {.status = 500};
	struct strbuf request = STRBUF_INIT;

	if (!read_request(f, fd, &request)) {
		strbuf_adds(&f->complaints, "a request was cut off or too long; ");
	} else {
		const struct fake_step *s = f->taken < f->n ? &f->steps[f->taken] : &unexpected;
		f->taken++;
		if (s == &unexpected)
			complain(f, "is one too many", "", request.data);
		if (!strstr(request.data, " HTTP/1.1\r\n") || !strstr(request.data, "\r\nHost: "))
			complain(f, "is no HTTP/1.1 request", "", request.data);
		if (s->expect && !strstr(request.data, s->expect))
			complain(f, "has no", s->expect, request.data);
		if (s->refuse && strstr(request.data, s->refuse))
			complain(f, "has", s->refuse, request.data);
		if (s->delay_ms)
			nap(s->delay_ms);
		if (s->status)
			answer(f, fd, s, request.data);
	}
	strbuf_free(&request);
}

static void *run(void *arg)
{
	struct http_fake *f = arg;

	while (readable(f, f->listener)) {
		int fd = accept(f->listener, NULL, NULL);
		if (fd < 0)
			continue;
		serve(f, fd);
		/* What the peer sent and nobody read would turn the close into a reset that loses the answer. */
		shutdown(fd, SHUT_WR);
		close(fd);
	}
	return NULL;
}

struct http_fake *http_fake_start(const struct fake_step *steps, size_t n)
{
	struct http_fake *f = calloc(1, sizeof *f);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;

	f->steps = steps;
	f->n = n;
	f->end = clock_mono() + LIFETIME;
	f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (f->listener < 0 || bind(f->listener, (struct sockaddr *)&a, sizeof a) < 0 ||
	    listen(f->listener, 8) < 0 || getsockname(f->listener, (struct sockaddr *)&a, &len) < 0 ||
	    pthread_create(&f->thread, NULL, run, f) != 0)
		abort();
	f->port = ntohs(a.sin_port);
	return f;
}

int http_fake_port(const struct http_fake *f)
{
	return f->port;
}

const char *http_fake_stop(struct http_fake *f)
{
	static char text[4096];

	f->stop = true;
	pthread_join(f->thread, NULL);
	close(f->listener);
	if (f->taken < f->n)
		strbuf_addf(&f->complaints, "only %zu of %zu requests came; ", f->taken, f->n);
	snprintf(text, sizeof text, "%s", f->complaints.data ? f->complaints.data : "");
	strbuf_free(&f->complaints);
	free(f);
	return text;
}
