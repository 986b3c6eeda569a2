/* A loopback HTTP/1.1 server for tests: answers the requests it gets, one connection each, by a script, and holds
 * them against it. Strict: a request that the script does not expect, or one more than the script has, is noted and
 * answered with 500. It ends by itself after 30 seconds. */
#ifndef TESTS_FAKES_HTTP_FAKE_H
#define TESTS_FAKES_HTTP_FAKE_H

#include <stdbool.h>
#include <stddef.h>

struct fake_step {
	const char *
		expect; /* must occur in the request (its head, "Name: value\r\n" lines, then the body); NULL = any */
	const char *refuse; /* must not occur in it; NULL = none */
	int status;         /* 0 = close the connection without an answer */
	const char *
		headers; /* further header lines, "Name: value\r\n" each; NULL = none. "%d" = the server's port */
	const char *body; /* NULL = none */
	size_t body_size; /* 0 = strlen(body) */
	size_t cut; /* > 0: close the connection after so many bytes of the body, short of Content-Length */
	bool ranges; /* answer a Range "bytes=a-" with 206 and the rest of body, when If-Range names the ETag given
			      * in headers; with 416 when a lies at or behind its end */
	bool chunked; /* Transfer-Encoding: chunked in chunks of 5 bytes, instead of Content-Length */
	int delay_ms; /* before the answer */
	int stall_ms; /* in the middle of the body */
};

struct http_fake;

/* Starts on a free port of 127.0.0.1. steps must live until http_fake_stop. */
struct http_fake *http_fake_start(const struct fake_step *steps, size_t n);
int http_fake_port(const struct http_fake *f);
/* Ends the server and gives what went against the script, "" when all steps were taken and nothing was wrong; valid
 * until the next call. */
const char *http_fake_stop(struct http_fake *f);

#endif
