#include "serve/client.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "net/http.h"

#define BODY_MOST ((size_t)16 << 20)

static const char *const names[] = {"auto", "openai", "vllm", "vertex"};

const char *flavour_name(enum flavour f)
{
	return names[f];
}

bool flavour_of(const char *name, enum flavour *out)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(names[i], name)) {
			*out = (enum flavour)i;
			return true;
		}
	return false;
}

void answer_free(struct endpoint_answer *a)
{
	strbuf_free(&a->text);
}

/* ---- requests ---- */

static int on_progress(uint64_t done, uint64_t total, void *arg)
{
	const struct endpoint *e = arg;

	(void)done;
	(void)total;
	return e->stopping && e->stopping(e->arg);
}

/* One request, tried once. on_body may be NULL: the body is in out then. */
static int request(const struct endpoint *e, const char *method, const char *path, const char *body,
		   double timeout, int (*on_body)(const char *, size_t, void *), void *arg,
		   struct http_response *out, struct error *err)
{
	struct strbuf url = STRBUF_INIT, auth = STRBUF_INIT;
	const char *headers[3] = {NULL, NULL, NULL};
	size_t n = 0;

	strbuf_addf(&url, "%s%s", e->url, path);
	if (body)
		headers[n++] = "Content-Type: application/json";
	if (e->token) {
		strbuf_addf(&auth, "Authorization: Bearer %s", e->token);
		headers[n++] = auth.data;
	}
	struct http_request q = {.method = method,
				 .url = url.data,
				 .body = body,
				 .body_size = body ? strlen(body) : 0,
				 .max_body = BODY_MOST,
				 .on_body = on_body,
				 .arg = arg};
	struct http_options o = {.headers = headers,
				 .timeout = timeout,
				 .stall_timeout = timeout,
				 .retries = -1,
				 .no_proxy = e->direct,
				 .on_progress = on_progress,
				 .arg = (void *)e};
	*out = (struct http_response){0};
	int code = http_request(&q, &o, out, err);
	strbuf_free(&url);
	strbuf_free(&auth);
	return code;
}

/* Sleeps in pieces. ERR_INTERRUPTED when the caller wants to stop. */
static int pause_for(const struct endpoint *e, double seconds, struct error *err)
{
	const struct timespec piece = {0, 50000000};
	double until = clock_mono() + seconds;

	while (clock_mono() < until) {
		if (e->stopping && e->stopping(e->arg))
			return error_set(err, ERR_INTERRUPTED, "stopped while waiting for %s", e->url);
		nanosleep(&piece, NULL);
	}
	return 0;
}

/* ---- waiting ---- */

/* The model that an OpenAI endpoint lists first. 1 when it is one, 0 when it is not, -1 on errors. */
static int list_models(struct endpoint *e, struct error *err)
{
	struct http_response r;
	int found = 0;

	if (request(e, "GET", "/v1/models", NULL, 30, NULL, NULL, &r, err)) {
		http_response_free(&r);
		return -1;
	}
	if (r.status == 200 && r.body.len) {
		json_t *j = json_loadb(r.body.data, r.body.len, 0, NULL);
		const char *id = json_string_value(
			json_object_get(json_array_get(json_object_get(j, "data"), 0), "id"));
		found = id != NULL;
		if (id && !e->model)
			e->model = xstrdup(id);
		json_decref(j);
	}
	http_response_free(&r);
	return found;
}

/* Whether it answers at all: 1 yes, 0 not yet (last says why), -1 stopped. */
static int probe(const struct endpoint *e, struct error *last)
{
	struct http_response r;
	int code = request(e, "GET", "/health", NULL, 10, NULL, NULL, &r, last);
	long status = r.status;

	http_response_free(&r);
	if (code)
		return last->class == ERR_INTERRUPTED ? -1 : 0;
	/* An endpoint without /health says 404 or the like: it is there. */
	if (status == 408 || status == 429 || status >= 500) {
		error_set(last, ERR_INFRA, "GET %s/health: %ld", e->url, status);
		return 0;
	}
	return 1;
}

int endpoint_wait(struct endpoint *e, double seconds, struct error *err)
{
	double until = clock_mono() + seconds, pause = 0.05;

	if (e->flavour == FLAVOUR_AUTO && str_ends(e->url, ":predict"))
		e->flavour = FLAVOUR_VERTEX;
	if (e->flavour == FLAVOUR_VERTEX)
		return 0; /* it has nothing else to ask */
	for (;;) {
		struct error last = ERROR_INIT;
		int there = probe(e, &last);
		if (there > 0)
			break;
		if (there < 0) {
			*err = last;
			return -1;
		}
		if (clock_mono() + pause > until) {
			*err = last;
			err->class = ERR_INFRA;
			return error_context(err, "%s was not ready within %.0f s", e->url, seconds);
		}
		if (pause_for(e, pause, err))
			return -1;
		pause = pause < 2 ? pause * 1.5 : 2;
	}
	if (e->flavour == FLAVOUR_VLLM || (e->flavour == FLAVOUR_OPENAI && e->model))
		return 0;
	int found = list_models(e, err);
	if (found < 0)
		return -1;
	if (!found && e->flavour == FLAVOUR_OPENAI) {
		error_set(err, ERR_USAGE, "%s/v1/models lists no model", e->url);
		return error_hint(err, "name the model, or another flavour");
	}
	e->flavour = found ? FLAVOUR_OPENAI : FLAVOUR_VLLM;
	return 0;
}

/* ---- asking ---- */

/* What a stream has said so far. */
struct reading {
	struct endpoint_answer *out;
	double began;
	struct strbuf line;
	bool done;       /* [DONE] was met */
	char error[200]; /* the endpoint's own, or what is wrong with the stream */
};

static void take_error(struct reading *r, const json_t *error)
{
	const char *message = json_is_object(error) ? json_string_value(json_object_get(error, "message"))
						    : json_string_value(error);

	snprintf(r->error, sizeof r->error, "%s", message ? message : "an error without a message");
}

/* One chunk of a stream, or the whole answer: they differ in nothing that matters here. */
static void take_completion(struct reading *r, const json_t *j)
{
	const json_t *choice = json_array_get(json_object_get(j, "choices"), 0),
		     *usage = json_object_get(j, "usage");
	const json_t *text = json_object_get(choice, "text");
	const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
	int64_t n = -1;

	if (json_object_get(j, "error")) {
		take_error(r, json_object_get(j, "error"));
		return;
	}
	if (json_string_length(text)) {
		if (r->out->first_token < 0)
			r->out->first_token = clock_mono() - r->began;
		strbuf_add(&r->out->text, json_string_value(text), json_string_length(text));
	}
	if (finish)
		snprintf(r->out->finish, sizeof r->out->finish, "%s", finish);
	if (json_get_i64(usage, "prompt_tokens", &n, "usage", NULL) > 0)
		r->out->prompt_tokens = n;
	if (json_get_i64(usage, "completion_tokens", &n, "usage", NULL) > 0)
		r->out->tokens = n;
}

static void take_event(struct reading *r)
{
	const char *data = r->line.data;
	size_t n = r->line.len;

	if (n && data[n - 1] == '\r')
		n--;
	if (n < 5 || memcmp(data, "data:", 5))
		return;
	data += 5;
	n -= 5;
	while (n && *data == ' ') {
		data++;
		n--;
	}
	if (n == 6 && !memcmp(data, "[DONE]", 6)) {
		r->done = true;
		return;
	}
	json_t *j = json_loadb(data, n, 0, NULL);
	if (json_is_object(j))
		take_completion(r, j);
	else
		snprintf(r->error, sizeof r->error, "an event that is no JSON: %.100s", data);
	json_decref(j);
}

static int on_stream(const char *bytes, size_t n, void *arg)
{
	struct reading *r = arg;

	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '\n') {
			strbuf_addc(&r->line, bytes[i]);
			continue;
		}
		if (r->line.len)
			take_event(r);
		strbuf_clear(&r->line);
	}
	if (r->line.len + r->out->text.len > BODY_MOST) {
		snprintf(r->error, sizeof r->error, "the answer has no end");
		return 1;
	}
	return 0;
}

/* "Prompt:\n<prompt>\nOutput:\n<answer>", as Vertex's image decorates, or the prompt and the answer, or the answer. */
static const char *undecorated(const char *text, const char *prompt)
{
	size_t n = strlen(prompt);

	if (str_starts(text, "Prompt:\n") && !strncmp(text + 8, prompt, n) &&
	    str_starts(text + 8 + n, "\nOutput:\n"))
		return text + 8 + n + 9;
	return strncmp(text, prompt, n) ? text : text + n;
}

static int take_document(struct reading *r, const struct http_response *response, const char *prompt)
{
	json_t *j = json_loadb(response->body.data ? response->body.data : "", response->body.len, 0, NULL);
	const json_t *list = json_object_get(j, "text");
	const char *text;

	if (!list)
		list = json_object_get(j, "predictions");
	text = json_string_value(json_is_array(list) ? json_array_get(list, 0) : list);
	if (json_object_get(j, "error"))
		take_error(r, json_object_get(j, "error"));
	else if (!text)
		snprintf(r->error, sizeof r->error, "there is neither \"text\" nor \"predictions\" in %.100s",
			 response->body.data ? response->body.data : "an empty body");
	else
		strbuf_adds(&r->out->text, undecorated(text, prompt));
	json_decref(j);
	return r->error[0] ? -1 : 0;
}

static char *body_of(const struct endpoint *e, const struct endpoint_question *q)
{
	json_t *j = json_object();

	json_object_set_new(j, "prompt", json_string(q->prompt));
	json_object_set_new(j, "max_tokens", json_integer(q->max_tokens));
	json_object_set_new(j, "temperature", json_real(q->temperature));
	if (q->nstop) {
		json_t *stop = json_array();
		for (size_t i = 0; i < q->nstop; i++)
			json_array_append_new(stop, json_string(q->stop[i]));
		json_object_set_new(j, "stop", stop);
	}
	if (e->flavour == FLAVOUR_OPENAI) {
		json_object_set_new(j, "model", json_string(e->model ? e->model : ""));
		json_object_set_new(j, "stream", json_true());
		json_object_set_new(j, "stream_options", json_pack("{s:b}", "include_usage", 1));
	} else if (e->flavour == FLAVOUR_VERTEX) {
		j = json_pack("{s:[o]}", "instances", j);
	}
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

/* Asks until something other than "not now" comes back. */
static int ask(struct endpoint *e, const char *body, struct reading *r, struct http_response *response,
	       struct error *err)
{
	static const char *const paths[] = {[FLAVOUR_AUTO] = "",
					    [FLAVOUR_OPENAI] = "/v1/completions",
					    [FLAVOUR_VLLM] = "/generate",
					    [FLAVOUR_VERTEX] = ""};
	double until = clock_mono() + e->timeout;
	bool streamed = e->flavour == FLAVOUR_OPENAI;

	for (double pause = 0.2;; pause = pause < 5 ? pause * 2 : 5) {
		r->began = clock_mono();
		if (request(e, "POST", paths[e->flavour], body, e->timeout, streamed ? on_stream : NULL, r,
			    response, err))
			return -1;
		if ((response->status != 429 && response->status != 503) || clock_mono() + pause > until)
			return 0;
		http_response_free(response);
		if (pause_for(e, pause, err))
			return -1;
	}
}

int endpoint_ask(struct endpoint *e, const struct endpoint_question *q, struct endpoint_answer *out,
		 struct error *err)
{
	struct reading r = {.out = out};
	struct http_response response = {0};
	char *body = NULL;
	int code = -1;

	*out = (struct endpoint_answer){.prompt_tokens = -1, .tokens = -1, .first_token = -1};
	if (utf8_valid(q->prompt, strlen(q->prompt)) != strlen(q->prompt))
		return error_set(err, ERR_USAGE, "the prompt is not valid UTF-8");
	body = body_of(e, q);
	if (ask(e, body, &r, &response, err)) {
		if (r.error[0])
			error_set(err, ERR_STAGE, "%s: %s", e->url, r.error);
		goto out;
	}
	if (response.status < 200 || response.status > 299) {
		http_status_error("POST", e->url, &response, err);
		goto out;
	}
	out->seconds = clock_mono() - r.began;
	if (e->flavour != FLAVOUR_OPENAI)
		take_document(&r, &response, q->prompt);
	else if (!r.done && !r.error[0])
		snprintf(r.error, sizeof r.error, "the stream ended before [DONE]");
	code = r.error[0] ? error_set(err, ERR_STAGE, "%s: %s", e->url, r.error) : 0;
out:
	http_response_free(&response);
	strbuf_free(&r.line);
	free(body);
	return code;
}
