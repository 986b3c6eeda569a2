/* serve-warmup: asks a model some prompts over HTTP, as its users will, and holds it to its answers. The model is served by
 * this process on a free loopback port, or an endpoint that is there already is asked. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/rows.h"
#include "data/template.h"
#include "model/choice.h"
#include "runtime/stage.h"
#include "serve/client.h"
#include "serve/server.h"
#include "stages/input.h"

static const char *const flavours[] = {"auto", "openai", "vllm", "vertex", NULL};

static const struct attr_schema attrs[] = {
	{.name = "model",
	 .type = ATTR_INPUT,
	 .ports = PORT_MODEL,
	 .doc = "the model to serve and ask; or url"},
	{.name = "rows", .type = ATTR_INPUT, .ports = PORT_ROWS, .doc = "rows to make prompts of"},
	{.name = "url",
	 .type = ATTR_STRING,
	 .doc = "an endpoint to ask instead: http://host:8000, or a Vertex endpoint's …:predict"},
	{.name = "flavour",
	 .type = ATTR_CHOICE,
	 .choices = flavours,
	 .fallback = "\"auto\"",
	 .doc = "how the endpoint is asked: OpenAI's completions, vLLM's /generate, Vertex predictions"},
	{.name = "model_name",
	 .type = ATTR_STRING,
	 .doc = "what an OpenAI endpoint calls the model; the first one it lists"},
	{.name = "token_env",
	 .type = ATTR_STRING,
	 .flags = ATTR_UNKEYED,
	 .doc = "the environment variable that holds the endpoint's bearer token"},
	{.name = "prompts",
	 .type = ATTR_STRINGS,
	 .fallback = "[]",
	 .doc = "prompts, asked before those of the rows"},
	{.name = "prompt",
	 .type = ATTR_STRING,
	 .fallback = "\"{prompt}\"",
	 .doc = "the template that makes a prompt of a row"},
	{.name = "expected",
	 .type = ATTR_STRING,
	 .fallback = "\"completion\"",
	 .doc = "the field of a row that holds the expected answer; exact matches are counted where a row "
		"has it"},
	{.name = "samples",
	 .type = ATTR_INT,
	 .fallback = "4",
	 .min = 1,
	 .max = 1e6,
	 .doc = "rows to ask, from the first on"},
	{.name = "max_tokens",
	 .type = ATTR_INT,
	 .fallback = "64",
	 .min = 1,
	 .max = 1e6,
	 .doc = "tokens an answer may have"},
	{.name = "temperature",
	 .type = ATTR_FLOAT,
	 .fallback = "0",
	 .min = 0,
	 .max = 2,
	 .doc = "0 takes the likeliest token each time"},
	{.name = "stop",
	 .type = ATTR_STRINGS,
	 .fallback = "[]",
	 .doc = "texts that end an answer, beside the model's own end"},
	{.name = "require_stop",
	 .type = ATTR_BOOL,
	 .fallback = "true",
	 .doc = "fail when an answer does not end by itself within max_tokens"},
	{.name = "slots",
	 .type = ATTR_INT,
	 .fallback = "1",
	 .min = 1,
	 .max = 1024,
	 .doc = "prompts asked at a time; a model that is served here answers so many at a time"},
	{.name = "device",
	 .type = ATTR_CHOICE,
	 .choices = choice_devices,
	 .fallback = "\"auto\"",
	 .doc = "where model is served; auto: a GPU when this build and machine have one, else the CPU (the "
		"log "
		"says which)"},
	{.name = "precision",
	 .type = ATTR_CHOICE,
	 .choices = choice_precisions,
	 .fallback = "\"auto\"",
	 .doc = "of its products and activations: the CPU's is fp32; auto on a GPU: bf16"},
	{.name = "weights",
	 .type = ATTR_CHOICE,
	 .choices = engine_weights,
	 .fallback = "\"stored\"",
	 .doc = "nf4: quantised while the model is loaded, for a quarter of the memory"},
	{.name = "deadline",
	 .type = ATTR_DURATION,
	 .flags = ATTR_UNKEYED,
	 .fallback = "\"10m\"",
	 .min = 0.001,
	 .max = 1e6,
	 .doc = "how long the endpoint may take to become healthy, and each answer to be whole"},
	{0},
};

static const struct output_schema outputs[] = {
	{"report", PORT_REPORT, "prompts, answers, how they ended, and how fast they came"},
	{0},
};

/* What is wrong with how the model is to be served. */
static const char *check_serving(const struct stage_node *node, bool model, const char **attr)
{
	static const char *const own[] = {"device", "precision", "weights"};
	const char *precision = stage_attr(node, "precision")->str;

	for (size_t i = 0; !model && i < sizeof own / sizeof *own; i++)
		if (!stage_attr(node, own[i])->is_default) {
			*attr = own[i];
			return "the endpoint at url is served elsewhere: this is for model";
		}
	if (strcmp(stage_attr(node, "device")->str, "cpu") == 0 && strcmp(precision, "auto") != 0 &&
	    strcmp(precision, "fp32") != 0) {
		*attr = "precision";
		return "the CPU computes in fp32; use \"auto\" or \"fp32\"";
	}
	return NULL;
}

static const char *check(const struct stage_node *node, const char **attr)
{
	bool model = false, rows = false;

	for (size_t i = 0; i < node->ninputs; i++) {
		model |= !strcmp(node->inputs[i].name, "model");
		rows |= !strcmp(node->inputs[i].name, "rows");
	}
	const struct value *url = stage_attr(node, "url"), *prompts = stage_attr(node, "prompts");
	bool given = url->type == VALUE_STRING;
	if (!model && !given)
		return "there is nothing to ask: give model or url";
	if (model && given) {
		*attr = "url";
		return "model is served here, so url has no use: give one of them";
	}
	if (given && !str_starts(url->str, "http://") && !str_starts(url->str, "https://")) {
		*attr = "url";
		return "an endpoint's address begins with http:// or https://";
	}
	if (!rows && prompts->type == VALUE_LIST && prompts->list.n == 0)
		return "there is nothing to ask: give prompts or rows";
	return check_serving(node, model, attr);
}

/* ---- questions ---- */

struct question {
	char *prompt;
	char *expected; /* NULL: nothing to compare with */
	struct endpoint_answer answer;
	bool asked; /* the answer is there, or the error why not; under warmup's lock */
	struct error error;
};

struct warmup {
	struct stage_ctx *ctx;
	struct server *server; /* NULL: an endpoint of somebody else's */
	struct endpoint endpoint;
	struct question *questions;
	size_t n, cap;
	bool require_stop;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t next;      /* to be asked; n: none any more */
	atomic_bool over; /* what is being asked is not wanted any more */
	double seconds;   /* from the first question to the last answer */
};

static struct question *add_question(struct warmup *w)
{
	grow(&w->questions, &w->cap, w->n + 1, sizeof *w->questions);
	w->questions[w->n] = (struct question){0};
	return w->questions + w->n++;
}

static int questions_of_rows(struct warmup *w, struct error *err)
{
	const char *field = ctx_str(w->ctx, "expected");
	struct template *t = template_compile(ctx_str(w->ctx, "prompt"), "prompt", err);
	struct rows *rows = t ? rows_open(ctx_input(w->ctx, "rows"), err) : NULL;
	int code = rows ? 0 : -1;

	if (rows && rows_count(rows) == 0)
		code = error_set(err, ERR_USAGE, "the input rows has no rows to ask");
	for (uint64_t i = 0; code == 0 && i < rows_count(rows) && i < (uint64_t)ctx_int(w->ctx, "samples");
	     i++) {
		struct strbuf prompt = STRBUF_INIT;
		const char *text;
		struct row row;
		size_t n;

		code = rows_get(rows, i, &row, err);
		if (code == 0)
			code = template_render(t, &row, &prompt, err);
		if (code == 0) {
			struct question *q = add_question(w);
			q->prompt = strbuf_steal(&prompt);
			if (row_text(&row, field, &text, &n))
				q->expected = xstrndup(text, n);
		}
		strbuf_free(&prompt);
	}
	rows_close(rows);
	template_free(t);
	return code;
}

static int collect(struct warmup *w, struct error *err)
{
	size_t n;
	const char *const *prompts = ctx_list(w->ctx, "prompts", &n);

	for (size_t i = 0; i < n; i++)
		add_question(w)->prompt = xstrdup(prompts[i]);
	return ctx_input(w->ctx, "rows") ? questions_of_rows(w, err) : 0;
}

/* ---- answers ---- */

/* The text without the white space around it. */
static size_t trimmed(const char **text, size_t n)
{
	static const char blank[] = " \t\r\n";

	while (n && strchr(blank, **text)) {
		++*text;
		n--;
	}
	while (n && strchr(blank, (*text)[n - 1]))
		n--;
	return n;
}

static bool matches(const struct question *q)
{
	const char *a = q->answer.text.data ? q->answer.text.data : "", *b = q->expected;
	size_t n = trimmed(&a, q->answer.text.len), m = trimmed(&b, strlen(b));

	return n == m && memcmp(a, b, n) == 0;
}

/* Seconds per token behind the first one, turned around; 0 when it cannot be told. */
static double rate(const struct endpoint_answer *a)
{
	double decoding = a->seconds - (a->first_token > 0 ? a->first_token : 0);
	int64_t n = a->first_token > 0 ? a->tokens - 1 : a->tokens;

	return n > 0 && decoding > 0 ? (double)n / decoding : 0;
}

/* The beginning of a text, in one line, for messages. */
static const char *brief(const char *text, char out[96])
{
	size_t n = 0;

	text = text ? text : "";
	while (text[n] && n < 80)
		n++;
	while (n && text[n] && (text[n] & 0xc0) == 0x80)
		n--; /* not inside a character */
	snprintf(out, 96, "\"%.*s\"%s", (int)n, text, text[n] ? "…" : "");
	for (char *s = out; *s; s++)
		if ((unsigned char)*s < 0x20)
			*s = ' ';
	return out;
}

/* What is wrong with the answer; NULL when it will do. */
static const char *fault(const struct warmup *w, const struct question *q)
{
	const char *text = q->answer.text.data ? q->answer.text.data : "";

	if (trimmed(&text, q->answer.text.len) == 0)
		return "the answer is empty";
	if (w->require_stop && q->answer.finish[0] && strcmp(q->answer.finish, "stop"))
		return "the answer did not stop within max_tokens";
	return NULL;
}

/* An endpoint that does not tell how answers end cannot be held to it: an error for who asked for that, else a warning. */
static int check_told(struct warmup *w, const struct endpoint_answer *a, struct error *err)
{
	if (!w->require_stop || a->finish[0])
		return 0;
	if (!stage_attr(ctx_node(w->ctx), "require_stop")->is_default) {
		error_set(err, ERR_USAGE,
			  "require_stop = true, but %s (%s) does not tell how its answers end",
			  w->endpoint.url, flavour_name(w->endpoint.flavour));
		return error_hint(err, "set require_stop = false, or ask an OpenAI endpoint");
	}
	ctx_log(w->ctx, LOG_WARNING,
		"%s (%s) does not tell how its answers end: whether they stop is not checked",
		w->endpoint.url, flavour_name(w->endpoint.flavour));
	w->require_stop = false;
	return 0;
}

/* Asks one prompt after the other; several threads do. */
static void *ask(void *arg)
{
	struct warmup *w = arg;
	size_t nstop;
	const char *const *stop = ctx_list(w->ctx, "stop", &nstop);

	pthread_mutex_lock(&w->lock);
	while (w->next < w->n) {
		struct question *q = w->questions + w->next++;
		struct endpoint_question text = {q->prompt, ctx_int(w->ctx, "max_tokens"),
						 ctx_float(w->ctx, "temperature"), stop, nstop};

		pthread_mutex_unlock(&w->lock);
		endpoint_ask(&w->endpoint, &text, &q->answer, &q->error);
		pthread_mutex_lock(&w->lock);
		q->asked = true;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void wait_for(struct warmup *w, const struct question *q)
{
	pthread_mutex_lock(&w->lock);
	while (!q->asked)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

/* Takes the answers in the prompts' order. */
static int judge_all(struct warmup *w, struct error *err)
{
	struct error first = ERROR_INIT;
	char prompt[96], text[96];
	size_t faults = 0;

	for (size_t i = 0; i < w->n; i++) {
		struct question *q = w->questions + i;

		wait_for(w, q);
		if (stopping(w->ctx, err))
			return -1;
		if (q->error.class != ERR_NONE) {
			*err = q->error;
			return error_context(err, "prompt %zu, %s", i + 1, brief(q->prompt, prompt));
		}
		if (check_told(w, &q->answer, err))
			return -1;
		const char *wrong = fault(w, q);
		ctx_log(w->ctx, wrong ? LOG_ERROR : LOG_INFO, "%s -> %s%s%s", brief(q->prompt, prompt),
			brief(q->answer.text.data, text), wrong ? ": " : "", wrong ? wrong : "");
		if (wrong && !faults++)
			error_set(&first, ERR_STAGE, "prompt %zu, %s: %s: %s", i + 1, prompt, wrong, text);
		ctx_progress(w->ctx, i + 1, w->n, "prompts");
	}
	if (!faults)
		return 0;
	*err = first;
	if (faults > 1)
		error_context(err, "%zu of %zu answers are no good", faults, w->n);
	return error_hint(err,
			  "train longer, raise max_tokens, give stop texts, or set require_stop = false");
}

static int ask_all(struct warmup *w, struct error *err)
{
	size_t slots = (size_t)ctx_int(w->ctx, "slots"), n = w->n < slots ? w->n : slots, started = 0;
	pthread_t *threads = xcalloc(n, sizeof *threads);
	double began = clock_mono();
	int code = 0;

	while (started < n && code == 0) {
		code = pthread_create(&threads[started], NULL, ask, w);
		started += code == 0;
	}
	if (code)
		error_set(err, ERR_INFRA, "no thread to ask from: %s", strerror(code));
	code = code ? -1 : judge_all(w, err);
	w->seconds = clock_mono() - began;
	atomic_store(&w->over, true);
	pthread_mutex_lock(&w->lock);
	w->next = w->n;
	pthread_mutex_unlock(&w->lock);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	return code;
}

/* ---- the report ---- */

static json_t *number_or_null(double v, bool there)
{
	return there ? json_real(v) : json_null();
}

static json_t *question_json(const struct question *q)
{
	const struct endpoint_answer *a = &q->answer;
	json_t *j = json_object();

	json_object_set_new(j, "prompt", json_string(q->prompt));
	json_object_set_new(j, "answer", json_stringn(a->text.data ? a->text.data : "", a->text.len));
	if (q->expected) {
		json_object_set_new(j, "expected", json_string(q->expected));
		json_object_set_new(j, "exact", json_boolean(matches(q)));
	}
	json_object_set_new(j, "finish_reason", a->finish[0] ? json_string(a->finish) : json_null());
	json_object_set_new(j, "prompt_tokens",
			    a->prompt_tokens >= 0 ? json_integer(a->prompt_tokens) : json_null());
	json_object_set_new(j, "tokens", a->tokens >= 0 ? json_integer(a->tokens) : json_null());
	json_object_set_new(j, "first_token_seconds", number_or_null(a->first_token, a->first_token >= 0));
	json_object_set_new(j, "seconds", json_real(a->seconds));
	json_object_set_new(j, "tokens_per_second", number_or_null(rate(a), rate(a) > 0));
	return j;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* All answers together. */
struct sums {
	size_t stopped, compared, exact, timed;
	int64_t tokens;
	double seconds, first_median, first_worst, rate;
};

static struct sums sum_up(const struct warmup *w)
{
	double *first = xcalloc(w->n + 1, sizeof *first), decoding = 0;
	struct sums s = {0};
	int64_t decoded = 0;

	for (size_t i = 0; i < w->n; i++) {
		const struct question *q = w->questions + i;
		const struct endpoint_answer *a = &q->answer;

		s.stopped += !strcmp(a->finish, "stop");
		s.compared += q->expected != NULL;
		s.exact += q->expected && matches(q);
		s.seconds += a->seconds;
		s.tokens += a->tokens > 0 ? a->tokens : 0;
		if (a->first_token >= 0)
			first[s.timed++] = a->first_token;
		if (rate(a) > 0) {
			int64_t n = a->first_token > 0 ? a->tokens - 1 : a->tokens;
			decoded += n;
			decoding += (double)n / rate(a);
		}
	}
	if (s.timed) {
		qsort(first, s.timed, sizeof *first, by_value);
		s.first_median = first[s.timed / 2];
		s.first_worst = first[s.timed - 1];
	}
	s.rate = decoding > 0 ? (double)decoded / decoding : 0;
	free(first);
	return s;
}

static int write_report(const struct warmup *w, struct error *err)
{
	struct sums s = sum_up(w);
	json_t *j = json_object(), *list = json_array(), *all = json_object();
	char first[24], text[96];

	json_object_set_new(j, "endpoint", json_string(w->server ? "anneal" : w->endpoint.url));
	json_object_set_new(j, "flavour", json_string(flavour_name(w->endpoint.flavour)));
	json_object_set_new(j, "model", w->endpoint.model ? json_string(w->endpoint.model) : json_null());
	json_object_set_new(j, "device",
			    w->server ? json_string(server_device_text(w->server)) : json_null());
	json_object_set_new(all, "prompts", json_integer((json_int_t)w->n));
	json_object_set_new(all, "stopped", json_integer((json_int_t)s.stopped));
	json_object_set_new(all, "compared", json_integer((json_int_t)s.compared));
	json_object_set_new(all, "exact", json_integer((json_int_t)s.exact));
	json_object_set_new(all, "tokens", json_integer(s.tokens));
	json_object_set_new(all, "seconds", json_real(s.seconds));
	json_object_set_new(all, "slots", json_integer(ctx_int(w->ctx, "slots")));
	json_object_set_new(all, "wall_seconds", json_real(w->seconds));
	json_object_set_new(all, "first_token_seconds_median", number_or_null(s.first_median, s.timed > 0));
	json_object_set_new(all, "first_token_seconds_worst", number_or_null(s.first_worst, s.timed > 0));
	json_object_set_new(all, "tokens_per_second", number_or_null(s.rate, s.rate > 0));
	json_object_set_new(j, "summary", all);
	for (size_t i = 0; i < w->n; i++)
		json_array_append_new(list, question_json(w->questions + i));
	json_object_set_new(j, "answers", list);
	int code = json_write(ctx_output(w->ctx, "report"), j, err);
	json_decref(j);

	summary_count(w->ctx, "answers", w->n);
	if (s.compared)
		ctx_summary(w->ctx, "exact", "%zu of %zu", s.exact, s.compared);
	if (s.timed) {
		format_duration(s.first_median, first);
		ctx_summary(w->ctx, "first token", "%s", first);
	}
	if (s.rate > 0)
		summary_count(w->ctx, "tokens/s", (uint64_t)(s.rate + 0.5));
	for (size_t i = 0; i < w->n && i < 3; i++) {
		char name[24];
		snprintf(name, sizeof name, "answer %zu", i + 1);
		ctx_summary(w->ctx, name, "%s", brief(w->questions[i].answer.text.data, text));
	}
	return code;
}

/* ---- */

static bool asked_to_stop(void *arg)
{
	const struct warmup *w = arg;

	return ctx_stopping(w->ctx) || atomic_load(&w->over);
}

static int bearer(struct warmup *w, struct error *err)
{
	const char *name = ctx_str(w->ctx, "token_env");

	if (!name || !*name)
		return 0;
	w->endpoint.token = getenv(name);
	if (w->endpoint.token && *w->endpoint.token)
		return 0;
	error_set(err, ERR_USAGE, "token_env: the environment variable %s is not set", name);
	return error_hint(err, "export %s=…", name);
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	struct warmup w = {.ctx = ctx,
			   .require_stop = ctx_bool(ctx, "require_stop"),
			   .lock = PTHREAD_MUTEX_INITIALIZER,
			   .changed = PTHREAD_COND_INITIALIZER};
	const char *given = ctx_str(ctx, "url"), *name = ctx_str(ctx, "model_name");
	double deadline = ctx_float(ctx, "deadline");
	char *url = NULL;
	int code = -1;

	w.endpoint = (struct endpoint){.timeout = deadline, .stopping = asked_to_stop, .arg = &w};
	flavour_of(ctx_str(ctx, "flavour"), &w.endpoint.flavour);
	if (name)
		w.endpoint.model = xstrdup(name);
	if (collect(&w, err) || bearer(&w, err))
		goto out;
	if (given) {
		size_t n = strlen(given);
		while (n && given[n - 1] == '/')
			n--;
		w.endpoint.url = url = xstrndup(given, n);
	} else {
		struct server_options o = {.model = ctx_input(ctx, "model"),
					   .name = name ? name : "model",
					   .device = ctx_str(ctx, "device"),
					   .precision = ctx_str(ctx, "precision"),
					   .weights = ctx_str(ctx, "weights"),
					   .slots = (int)ctx_int(ctx, "slots")};
		if (server_start(&o, &w.server, err))
			goto out;
		ctx_log(ctx, LOG_INFO, "serving %s", server_device_text(w.server));
		w.endpoint.url = server_url(w.server);
		w.endpoint.direct = true;
	}
	if (endpoint_wait(&w.endpoint, deadline, err) || ask_all(&w, err))
		goto out;
	code = write_report(&w, err);
out:
	server_stop(w.server);
	for (size_t i = 0; i < w.n; i++) {
		free(w.questions[i].prompt);
		free(w.questions[i].expected);
		answer_free(&w.questions[i].answer);
	}
	free(w.questions);
	free(w.endpoint.model);
	free(url);
	return code;
}

const struct stage_kind stage_serve_warmup = {
	.schema = {.name = "serve-warmup",
		   .version = 2,
		   .doc = "asks a model some prompts over HTTP, measures, and fails when an answer is empty "
			  "or does not stop",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
