/* HTTP and HTTPS, through libcurl (loaded at the first use). Plain addresses only; hf:// and gs:// are built on this.
 *
 * Redirects are followed by our own loop (10 at most): never from https to http; Authorization, Proxy-Authorization
 * and Cookie are dropped for good as soon as scheme, host or port differ. No .netrc, no cookies, no protocols but
 * http and https. There is no limit on the whole of a transfer unless asked for: a connection that stalls is what
 * ends it. Proxies (https_proxy, no_proxy) and the file of trusted certificates (CURL_CA_BUNDLE, SSL_CERT_FILE) are
 * taken from the environment as the curl command does.
 *
 * Failures that may pass are tried again after rand(0, min(32 s, backoff · 2^n)), or after what Retry-After says, but
 * at most 120 s: HTTP 408, 429 and 5xx, and broken, refused or stalled connections. Bytes that arrive reset the count.
 *
 * Errors name the address without its query (which may hold a signature), and never a header's value.
 * ERR_INFRA: the network, 408, 429, 5xx. ERR_USAGE: other 4xx, malformed addresses. ERR_INTERRUPTED: a callback
 * asked to stop. All functions may be called from several threads. */
#ifndef NET_HTTP_H
#define NET_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"

/* Everything may be 0 or NULL: the default. */
struct http_options {
	const char *const *headers; /* "Name: value", ended by NULL */
	double connect_timeout;     /* seconds; 0 = 20 */
	double stall_timeout;       /* whole seconds without a byte (downloads: under 1 KiB/s); 0 = 30 */
	double timeout;             /* seconds for one attempt as a whole; 0 = no limit */
	int retries;                /* attempts after the first without progress; 0 = 5, -1 = none */
	double backoff;             /* seconds; 0 = 1 */
	bool no_proxy;              /* go direct (the metadata server) */
	/* Called about once a second and oftener, also between attempts: bytes done, bytes in all (0 = not known).
	 * Not 0 = stop with ERR_INTERRUPTED. */
	int (*on_progress)(uint64_t done, uint64_t total, void *arg);
	void *arg;
};

/* What came back. Zeroed by the functions that fill it; http_response_free in the end. */
struct http_response {
	long status;           /* of the last answer, behind all redirects */
	struct strbuf headers; /* its header lines, "Name: value\n" each */
	struct strbuf body;    /* NUL-terminated when not empty; empty when it was streamed */
	char *url;             /* where it came from, in the end */
};

/* The value of the first header of that name (any case), as a copy that the caller frees; NULL when absent. */
char *http_response_header(const struct http_response *r, const char *name);
void http_response_free(struct http_response *r);

struct http_request {
	const char *method; /* "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH" */
	const char *url;
	/* The body, none by default: bytes in memory, or body_size bytes of the file body_fd from body_offset on,
	 * which is read with pread. Set Content-Type in the headers. */
	const void *body;
	size_t body_size;
	bool body_is_file;
	int body_fd;
	uint64_t body_offset;
	bool retry; /* try again although the method is not GET or HEAD: the request may be repeated safely */
	bool keep_redirects; /* give a redirect back as it is instead of following it */
	size_t max_body;     /* an answer larger than this is an error; 0 = 16 MiB */
	/* When set, the body of a 2xx answer goes there as it arrives (an empty response->body then), and nothing is
	 * tried again once it has begun. Not 0 = stop with ERR_INTERRUPTED. */
	int (*on_body)(const char *bytes, size_t n, void *arg);
	void *arg;
};

/* Sends the request. 0 when there was an answer, whatever its status: 4xx and, when trying again did not help, 5xx
 * too are for the caller to judge. -1 when there was none. options may be NULL. */
int http_request(const struct http_request *q, const struct http_options *options, struct http_response *out,
		 struct error *err);
/* A HEAD request, redirects followed. */
int http_head(const char *url, const struct http_options *options, struct http_response *out,
	      struct error *err);

/* The error for an answer that should have been 2xx: always returns -1. Names method, address, status and the
 * beginning of a text or JSON body, and hints at what to do. */
int http_status_error(const char *method, const char *url, const struct http_response *r, struct error *err);

struct http_download_result {
	long status;         /* of the last answer: 200 or 206 */
	char *etag;          /* as sent, quotes included; NULL when absent */
	char *last_modified; /* as sent; NULL when absent */
	char *url;           /* where it came from, in the end */
	uint64_t size;       /* bytes */
	struct digest sha256;
};
void http_download_result_free(struct http_download_result *r);

/* Downloads url to path. The bytes are gathered in path.part, with what identifies them (ETag or Last-Modified) in
 * path.part.tag; a transfer that broke is continued from there, in this call or in a later one, with Range and
 * If-Range, and begun anew when the server answers with the whole. The file appears at path, by rename, when it is
 * complete and, where expected is given, has that SHA-256: another digest is tried once more from the start, then
 * is ERR_INFRA. After a failure path.part stays, for the next call. out and options may be NULL. */
int http_download(const char *url, const char *path, const struct digest *expected,
		  const struct http_options *options, struct http_download_result *out, struct error *err);

#endif
