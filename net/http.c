#include "net/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "net/exchange.h"

char *http_response_header(const struct http_response *r, const char *name)
{
	size_t n = strlen(name);

	for (const char *line = r->headers.data; line && *line;) {
		size_t len = strcspn(line, "\n");
		if (len > n && line[n] == ':' && strncasecmp(line, name, n) == 0) {
			const char *v = line + n + 1, *end = line + len;
			while (v < end && (*v == ' ' || *v == '\t'))
				v++;
			while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
				end--;
			return xstrndup(v, (size_t)(end - v));
		}
		line += len + (line[len] == '\n');
	}
	return NULL;
}

void http_response_free(struct http_response *r)
{
	strbuf_free(&r->headers);
	strbuf_free(&r->body);
	free(r->url);
	*r = (struct http_response){0};
}

static int gather(struct exchange *x, const char *bytes, size_t n)
{
	const struct http_request *q = x->request;
	size_t most = q->max_body ? q->max_body : (size_t)16 << 20;
	struct strbuf *b = &x->response->body;

	if (q->on_body) {
		if (q->on_body(bytes, n, q->arg) == 0)
			return 0;
		return error_set(x->err, ERR_INTERRUPTED, "the transfer was stopped");
	}
	if (n > most - b->len) {
		char *name = exchange_public_url(q->url);
		error_set(x->err, ERR_USAGE, "%s: the answer is larger than %zu bytes", name, most);
		free(name);
		return -1;
	}
	strbuf_add(b, bytes, n);
	return 0;
}

int http_request(const struct http_request *q, const struct http_options *options, struct http_response *out,
		 struct error *err)
{
	static const struct http_options none;
	const struct http_options *o = options ? options : &none;
	bool may_repeat = q->retry || strcmp(q->method, "GET") == 0 || strcmp(q->method, "HEAD") == 0;
	int most = may_repeat ? exchange_retries(o) : 0;

	*out = (struct http_response){0};
	for (int attempt = 0;; attempt++) {
		struct exchange x = {.request = q,
				     .options = o,
				     .low_speed = 1,
				     .sink = gather,
				     .err = err,
				     .response = out};
		enum exchange_result r = exchange_run(&x);
		bool again = r == EXCHANGE_BROKEN ||
			     (r == EXCHANGE_ANSWERED && exchange_passing_status(out->status));
		if (!again || attempt >= most || (q->on_body && x.received)) {
			if (r == EXCHANGE_ANSWERED)
				return 0;
			http_response_free(out);
			return -1;
		}
		if (exchange_wait(o, attempt, x.retry_after, 0, 0, err) < 0) {
			http_response_free(out);
			return -1;
		}
	}
}

int http_head(const char *url, const struct http_options *options, struct http_response *out,
	      struct error *err)
{
	const struct http_request q = {.method = "HEAD", .url = url};
	return http_request(&q, options, out, err);
}

static const char *phrase(long status)
{
	switch (status) {
	case 400: return " (bad request)";
	case 401: return " (not authenticated)";
	case 403: return " (forbidden)";
	case 404: return " (not found)";
	case 408: return " (timed out)";
	case 409: return " (conflict)";
	case 410: return " (gone)";
	case 412: return " (precondition failed)";
	case 416: return " (range not satisfiable)";
	case 429: return " (too many requests)";
	case 500: return " (internal error)";
	case 502: return " (bad gateway)";
	case 503: return " (unavailable)";
	case 504: return " (gateway timed out)";
	default: return "";
	}
}

static const char *advice(long status)
{
	if (status == 401)
		return "the server wants credentials, or does not accept those that were sent";
	if (status == 403)
		return "these credentials may not do this, or the address was signed for a time that has "
		       "passed";
	if (status == 404 || status == 410)
		return "check the address for a typing error; some servers also say this of what they will "
		       "not show";
	if (status == 429)
		return "wait a while, or lower how much runs at the same time; the same run may succeed "
		       "later";
	if (status == 408 || status >= 500)
		return "the server has a problem; the same run may succeed later";
	return "the server does not accept the request";
}

/* The beginning of a text body on one line; nothing of pages and binary data. */
static void add_excerpt(struct strbuf *b, const struct http_response *r)
{
	char *type = http_response_header(r, "Content-Type");
	size_t n = r->body.len < 300 ? r->body.len : 300;

	if (n && type && (str_starts(type, "text/plain") || strstr(type, "json"))) {
		while (n && (utf8_valid(r->body.data, n) < n || strchr(" \r\n", r->body.data[n - 1])))
			n--;
		if (n)
			strbuf_addf(b, ": %.*s", (int)n, r->body.data);
	}
	free(type);
}

int http_status_error(const char *method, const char *url, const struct http_response *r, struct error *err)
{
	char *name = exchange_public_url(r->url ? r->url : url);
	struct strbuf text = STRBUF_INIT;

	strbuf_addf(&text, "%s %s: HTTP %ld%s", method, name, r->status, phrase(r->status));
	add_excerpt(&text, r);
	error_set(err, exchange_passing_status(r->status) ? ERR_INFRA : ERR_USAGE, "%s", text.data);
	error_hint(err, "%s", advice(r->status));
	strbuf_free(&text);
	free(name);
	return -1;
}
