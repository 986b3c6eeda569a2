#include "net/exchange.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

#include "base/clock.h"
#include "base/dynlib.h"
#include "base/mem.h"

#define CURL_FUNCTIONS(F)                                                                                    \
	F(curl_global_init)                                                                                  \
	F(curl_easy_init)                                                                                    \
	F(curl_easy_setopt)                                                                                  \
	F(curl_easy_perform)                                                                                 \
	F(curl_easy_getinfo)                                                                                 \
	F(curl_easy_reset)                                                                                   \
	F(curl_easy_cleanup)                                                                                 \
	F(curl_easy_strerror)                                                                                \
	F(curl_slist_append)                                                                                 \
	F(curl_slist_free_all)                                                                               \
	F(curl_url)                                                                                          \
	F(curl_url_set)                                                                                      \
	F(curl_url_get)                                                                                      \
	F(curl_url_cleanup)                                                                                  \
	F(curl_free)
/* curl.h's checking macros of the same names are for direct calls. */
#undef curl_easy_setopt
#undef curl_easy_getinfo
#define DECLARE(name) static __typeof__(name) *p_##name;
CURL_FUNCTIONS(DECLARE)
#define SYMBOL(name) {#name, (void **)&p_##name},
static const struct dynlib_symbol symbols[] = {CURL_FUNCTIONS(SYMBOL){NULL, NULL}};

#define REDIRECTS_MAX  10
#define ERROR_BODY_MAX 4096
#define HEADERS_MAX    ((size_t)256 << 10)
#define WAIT_MAX       120.0
#define BACKOFF_MAX    32.0

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* A handle that is not in use: its open connections serve the next request. */
static _Atomic(CURL *) spare;

static CURL *take_handle(struct error *err)
{
	static bool ready;

	pthread_mutex_lock(&lock);
	int failed = dynlib_load("libcurl.so.4", "libcurl4", symbols, err);
	if (!failed && !ready && p_curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		failed = error_set(err, ERR_INFRA, "libcurl could not be initialised");
	ready = ready || !failed;
	pthread_mutex_unlock(&lock);
	if (failed)
		return NULL;
	CURL *c = atomic_exchange(&spare, NULL);
	if (!c)
		c = p_curl_easy_init();
	if (!c)
		error_set(err, ERR_INFRA, "libcurl could not be initialised");
	return c;
}

static void give_handle(CURL *c)
{
	p_curl_easy_reset(c);
	c = atomic_exchange(&spare, c);
	if (c)
		p_curl_easy_cleanup(c);
}

char *exchange_public_url(const char *url)
{
	/* User and password, which an address may hold, go as well. */
	const char *host = strstr(url, "://"), *end = url + strcspn(url, "?#");
	const char *at = host ? memchr(host + 3, '@', strcspn(host + 3, "/?#")) : NULL;
	struct strbuf b = STRBUF_INIT;

	if (at)
		strbuf_add(&b, url, (size_t)(host + 3 - url));
	const char *rest = at ? at + 1 : url;
	strbuf_add(&b, rest, (size_t)(end - rest));
	return strbuf_steal(&b);
}

bool exchange_passing_status(long status)
{
	return status == 408 || status == 429 || (status >= 500 && status < 600);
}

int exchange_retries(const struct http_options *o)
{
	return o->retries < 0 ? 0 : o->retries ? o->retries : 5;
}

int exchange_wait(const struct http_options *o, int n, double retry_after, uint64_t done, uint64_t total,
		  struct error *err)
{
	double most = (o->backoff > 0 ? o->backoff : 1) * (double)(1u << (n < 16 ? n : 16));
	uint32_t random = 0;

	/* Full jitter: many clients that failed together do not come back together. */
	if (getrandom(&random, sizeof random, 0) != sizeof random)
		random = (uint32_t)clock_mono_ns();
	double wait = (most < BACKOFF_MAX ? most : BACKOFF_MAX) * (double)random / (double)UINT32_MAX;
	if (retry_after > wait)
		wait = retry_after < WAIT_MAX ? retry_after : WAIT_MAX;
	for (double until = clock_mono() + wait;;) {
		if (o->on_progress && o->on_progress(done, total, o->arg))
			return error_set(err, ERR_INTERRUPTED, "stopped while waiting for another try");
		double left = until - clock_mono();
		if (left <= 0)
			return 0;
		struct timespec t = {0, (long)((left < 0.1 ? left : 0.1) * 1e9)};
		nanosleep(&t, NULL);
	}
}

/* State of one hop, for the callbacks. */
struct hop {
	struct exchange *x;
	CURL *curl;
	bool redirect; /* its body is of no interest */
	uint64_t sent; /* of the request's body */
	/* curl's own detector looks at the mean of some seconds, which hides that a fast transfer has stopped. */
	curl_off_t last_down, last_up;
	double last_change; /* clock_mono at the last byte either way */
	bool stalled;
	char text[CURL_ERROR_SIZE];
};

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
	struct hop *h = arg;
	struct strbuf *b = &h->x->response->headers;

	(void)one;
	if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) { /* a new answer: 100 Continue came before */
		strbuf_clear(b);
		return n;
	}
	if (b->len + n > HEADERS_MAX)
		return 0;
	size_t len = n;
	while (len && (line[len - 1] == '\r' || line[len - 1] == '\n'))
		len--;
	if (len) {
		strbuf_add(b, line, len);
		strbuf_addc(b, '\n');
	}
	return n;
}

static size_t on_write(char *bytes, size_t one, size_t n, void *arg)
{
	struct hop *h = arg;
	struct exchange *x = h->x;

	(void)one;
	p_curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &x->response->status);
	long status = x->response->status;
	if (status < 200 || status > 299) {
		struct strbuf *b = &x->response->body;
		size_t room = b->len < ERROR_BODY_MAX ? ERROR_BODY_MAX - b->len : 0;
		strbuf_add(b, bytes, n < room ? n : room);
		return n;
	}
	if (x->sink(x, bytes, n) != 0) {
		x->stopped = true;
		return n ? 0 : 1;
	}
	x->received += n;
	return n;
}

static size_t on_read(char *buf, size_t one, size_t n, void *arg)
{
	struct hop *h = arg;
	const struct http_request *q = h->x->request;
	uint64_t left = q->body_size - h->sent;

	n = one * n < left ? one * n : (size_t)left;
	if (q->body_is_file) {
		ssize_t got;
		do
			got = pread(q->body_fd, buf, n, (off_t)(q->body_offset + h->sent));
		while (got < 0 && errno == EINTR);
		if (got < 0 || (got == 0 && n))
			return CURL_READFUNC_ABORT;
		n = (size_t)got;
	} else {
		memcpy(buf, (const char *)q->body + h->sent, n);
	}
	h->sent += n;
	return n;
}

static int on_seek(void *arg, curl_off_t offset, int origin)
{
	struct hop *h = arg;

	if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > h->x->request->body_size)
		return CURL_SEEKFUNC_FAIL;
	h->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static double stall_timeout(const struct http_options *o)
{
	return o->stall_timeout > 0 ? o->stall_timeout : 30;
}

/* Before the first byte went out, connecting has its own limit. */
static double connect_timeout(const struct exchange *x, const struct hop *h)
{
	if (h->last_down || h->last_up)
		return 0;
	return x->options->connect_timeout > 0 ? x->options->connect_timeout : 20;
}

static int on_xfer(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now)
{
	struct hop *h = arg;
	struct exchange *x = h->x;
	bool up = x->request->body_size > 0;
	uint64_t in_all = up ? (uint64_t)up_total : (uint64_t)total;

	if (now != h->last_down || up_now != h->last_up) {
		h->last_down = now;
		h->last_up = up_now;
		h->last_change = clock_mono();
	} else if (clock_mono() - h->last_change > stall_timeout(x->options) + connect_timeout(x, h)) {
		h->stalled = true;
		return 1;
	}
	if (!x->options->on_progress)
		return 0;
	if (x->progress_total)
		in_all = x->progress_total;
	else if (in_all)
		in_all += x->progress_base;
	if (x->options->on_progress(x->progress_base + (up            ? (uint64_t)up_now
							: h->redirect ? 0
								      : (uint64_t)now),
				    in_all, x->options->arg) == 0)
		return 0;
	x->stopped = true;
	error_set(x->err, ERR_INTERRUPTED, "the transfer was stopped");
	return 1;
}

static bool clean(const char *s)
{
	return !s[strcspn(s, "\r\n")];
}

static bool is_secret(const char *header)
{
	return strncasecmp(header, "Authorization:", 14) == 0 ||
	       strncasecmp(header, "Proxy-Authorization:", 20) == 0 || strncasecmp(header, "Cookie:", 7) == 0;
}

static struct curl_slist *make_headers(const struct exchange *x, bool secrets, bool body)
{
	struct curl_slist *list = NULL;
	struct strbuf b = STRBUF_INIT;

	for (const char *const *h = x->options->headers; h && *h; h++)
		if (secrets || !is_secret(*h))
			list = p_curl_slist_append(list, *h);
	if (x->from) {
		strbuf_addf(&b, "Range: bytes=%llu-", (unsigned long long)x->from);
		list = p_curl_slist_append(list, b.data);
		strbuf_clear(&b);
		strbuf_addf(&b, "If-Range: %s", x->if_range);
		list = p_curl_slist_append(list, b.data);
	}
	/* Bytes are counted and hashed as they are stored, so no encoding on the way. */
	list = p_curl_slist_append(list, "Accept-Encoding: identity");
	/* A second of waiting for 100 Continue at every upload otherwise. */
	if (body)
		list = p_curl_slist_append(list, "Expect:");
	strbuf_free(&b);
	return list;
}

#define SET(option, value) p_curl_easy_setopt(h->curl, option, value)

static void set_up(struct hop *h, const char *url, const char *method, bool body, struct curl_slist *headers)
{
	const struct exchange *x = h->x;
	const struct http_options *o = x->options;
	double stall = stall_timeout(o);

	p_curl_easy_reset(h->curl);
	SET(CURLOPT_URL, url);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_USERAGENT, "anneal/0.1");
	SET(CURLOPT_HTTPHEADER, headers);
	SET(CURLOPT_ERRORBUFFER, h->text);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(connect_timeout(x, h) * 1000));
	SET(CURLOPT_LOW_SPEED_LIMIT, x->low_speed);
	SET(CURLOPT_LOW_SPEED_TIME, stall < 1 ? 1L : (long)stall);
	if (o->timeout > 0)
		SET(CURLOPT_TIMEOUT_MS, (long)(o->timeout * 1000));
	/* As the curl command does; the library alone knows only the path it was built with. */
	const char *ca = getenv("CURL_CA_BUNDLE");
	if (!ca || !*ca)
		ca = getenv("SSL_CERT_FILE");
	if (ca && *ca)
		SET(CURLOPT_CAINFO, ca);
	if (o->no_proxy)
		SET(CURLOPT_PROXY, "");
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_BUFFERSIZE, 256L << 10);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, h);
	SET(CURLOPT_WRITEFUNCTION, on_write);
	SET(CURLOPT_WRITEDATA, h);
	SET(CURLOPT_NOPROGRESS, 0L);
	SET(CURLOPT_XFERINFOFUNCTION, on_xfer);
	SET(CURLOPT_XFERINFODATA, h);
	if (strcmp(method, "HEAD") == 0) {
		SET(CURLOPT_NOBODY, 1L);
	} else if (body) {
		SET(CURLOPT_UPLOAD, 1L);
		SET(CURLOPT_UPLOAD_BUFFERSIZE, 1L << 20);
		SET(CURLOPT_READFUNCTION, on_read);
		SET(CURLOPT_READDATA, h);
		SET(CURLOPT_SEEKFUNCTION, on_seek);
		SET(CURLOPT_SEEKDATA, h);
		SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)x->request->body_size);
		SET(CURLOPT_CUSTOMREQUEST, method);
	} else if (strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0) { /* with Content-Length: 0 */
		SET(CURLOPT_POSTFIELDS, "");
		SET(CURLOPT_POSTFIELDSIZE, 0L);
		SET(CURLOPT_CUSTOMREQUEST, method);
	} else if (strcmp(method, "GET") != 0) {
		SET(CURLOPT_CUSTOMREQUEST, method);
	}
}

/* Scheme, host and port of url, "https://host:443" in lower case; the caller frees it. NULL when it is malformed. */
static char *origin(const char *url)
{
	static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
	CURLU *u = p_curl_url();
	struct strbuf b = STRBUF_INIT;
	char *part;
	bool ok = u && p_curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK;

	for (size_t i = 0; ok && i < 3; i++) {
		ok = p_curl_url_get(u, parts[i], &part, CURLU_DEFAULT_PORT) == CURLUE_OK;
		if (ok) {
			strbuf_addf(&b, "%s%s", i == 0 ? "" : i == 1 ? "://" : ":", part);
			p_curl_free(part);
		}
	}
	p_curl_url_cleanup(u);
	for (size_t i = 0; i < b.len; i++)
		if (b.data[i] >= 'A' && b.data[i] <= 'Z')
			b.data[i] = (char)(b.data[i] + 32);
	if (ok)
		return strbuf_steal(&b);
	strbuf_free(&b);
	return NULL;
}

static enum exchange_result explain(struct hop *h, CURLcode code, const char *url)
{
	struct exchange *x = h->x;
	char *name = exchange_public_url(url);
	const char *why = h->text[0] ? h->text : p_curl_easy_strerror(code);
	enum exchange_result r = EXCHANGE_BROKEN;

	if (x->stopped) {
		free(name);
		return EXCHANGE_HOPELESS;
	}
	if (h->stalled) {
		error_set(x->err, ERR_INFRA, "%s: no byte came for %.0f seconds", name,
			  stall_timeout(x->options));
		error_hint(x->err, "the same run may succeed later; what has been downloaded is kept");
		free(name);
		return EXCHANGE_BROKEN;
	}
	switch (code) {
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		error_set(x->err, ERR_USAGE, "%s: not an address of http or https", name);
		r = EXCHANGE_HOPELESS;
		break;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		error_set(x->err, ERR_INFRA, "%s: the server's certificate is not trusted: %s", name, why);
		error_hint(x->err,
			   "check the clock and the certificates of this machine (package ca-certificates)");
		r = EXCHANGE_HOPELESS;
		break;
	case CURLE_READ_ERROR:
	case CURLE_ABORTED_BY_CALLBACK:
		error_set(x->err, ERR_INFRA, "%s: the body to send could not be read", name);
		r = EXCHANGE_HOPELESS;
		break;
	case CURLE_WRITE_ERROR:
		error_set(x->err, ERR_INFRA, "%s: the answer's headers are too long", name);
		r = EXCHANGE_HOPELESS;
		break;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_CONNECT:
		error_set(x->err, ERR_INFRA, "%s: %s", name, why);
		error_hint(x->err, "check the address, the network and, where one is needed, https_proxy");
		break;
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
	case CURLE_HTTP2:
	case CURLE_HTTP2_STREAM:
	case CURLE_SSL_CONNECT_ERROR:
		error_set(x->err, ERR_INFRA, "%s: %s", name, why);
		error_hint(x->err, "the same run may succeed later; what has been downloaded is kept");
		break;
	default: error_set(x->err, ERR_INFRA, "%s: %s", name, why); r = EXCHANGE_HOPELESS;
	}
	free(name);
	return r;
}

static double parse_retry_after(CURL *curl)
{
	curl_off_t seconds = 0;
	p_curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &seconds);
	return seconds > 0 ? (double)seconds : 0;
}

/* Where the answer redirects to, as a copy; NULL when it does not. */
static char *redirect_of(CURL *curl, long status)
{
	char *to = NULL;

	if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308)
		return NULL;
	p_curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &to);
	return to ? xstrdup(to) : NULL;
}

static int refuse_redirect(struct exchange *x, const char *from, const char *to, const char *why)
{
	char *a = exchange_public_url(from), *b = exchange_public_url(to);

	error_set(x->err, ERR_USAGE, "%s redirects to %s: %s", a, b, why);
	free(a);
	free(b);
	return -1;
}

static int check_request(const struct exchange *x)
{
	if (!clean(x->request->url) || (x->if_range && !clean(x->if_range)))
		return error_set(x->err, ERR_USAGE, "an address with a line break in it");
	for (const char *const *h = x->options->headers; h && *h; h++)
		if (!clean(*h))
			return error_set(x->err, ERR_USAGE, "a request header with a line break in it");
	return 0;
}

enum exchange_result exchange_run(struct exchange *x)
{
	const struct http_request *q = x->request;
	const char *method = q->method;
	bool secrets = true, body = q->body_size > 0;
	enum exchange_result result = EXCHANGE_HOPELESS;
	struct http_response *r = x->response;

	http_response_free(r);
	x->retry_after = 0;
	x->received = 0;
	if (check_request(x) < 0)
		return EXCHANGE_HOPELESS;
	CURL *curl = take_handle(x->err);
	if (!curl)
		return EXCHANGE_HOPELESS;
	char *url = xstrdup(q->url), *home = origin(url);
	for (int hops = 0;; hops++) {
		struct hop h = {.x = x, .curl = curl, .last_change = clock_mono()};
		struct curl_slist *headers = make_headers(x, secrets, body);
		set_up(&h, url, method, body, headers);
		strbuf_clear(&r->headers);
		strbuf_clear(&r->body);
		r->status = 0;
		CURLcode code = p_curl_easy_perform(curl);
		p_curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &r->status);
		x->retry_after = parse_retry_after(curl);
		char *to = code == CURLE_OK && !q->keep_redirects ? redirect_of(curl, r->status) : NULL;
		p_curl_slist_free_all(headers);
		if (code != CURLE_OK) {
			result = explain(&h, code, url);
			break;
		}
		if (!to) {
			result = EXCHANGE_ANSWERED;
			break;
		}
		char *target = origin(to);
		const char *why = hops == REDIRECTS_MAX ? "there were too many redirects before"
				  : !target             ? "that is no address of http or https"
				  : str_starts(url, "https:") && !str_starts(target, "https:")
					  ? "from https to http, which is refused"
					  : NULL;
		secrets = secrets && home && target && strcmp(home, target) == 0;
		free(target);
		if (why) {
			refuse_redirect(x, url, to, why);
			free(to);
			break;
		}
		if (strcmp(method, "HEAD") != 0 && strcmp(method, "GET") != 0 && r->status <= 303) {
			method = "GET";
			body = false;
		}
		free(url);
		url = to;
	}
	r->url = url;
	free(home);
	give_handle(curl);
	return result;
}
