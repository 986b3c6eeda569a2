/* POST /v1/completions and GET /v1/models, as OpenAI documents them and `vllm serve` answers. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "serve/engine.h"
#include "serve/params.h"

/* One request, whole or streaming. */
struct completion {
	struct exchange *x;
	json_t *body; /* stop strings point into it */
	struct params params;
	struct prompts prompts;
	struct job **jobs; /* (prompts.n) */
	bool echo, include_usage;
	char id[40];
	long long created;
	/* streaming: */
	size_t at;     /* the prompt that is being sent */
	bool begun;    /* its echo was sent */
	size_t length; /* bytes of its answer that were sent */
	bool finished; /* all answers were sent: the closing lines remain */
	struct job_figures sum;
};

static void completion_free(void *arg)
{
	struct completion *c = arg;

	for (size_t i = 0; c->jobs && i < c->prompts.n; i++)
		if (c->jobs[i])
			job_release(c->jobs[i]);
	free(c->jobs);
	prompts_free(&c->prompts);
	params_free(&c->params);
	json_decref(c->body);
	free(c);
}

static int read_request(struct completion *c, struct api_error *e)
{
	const struct service *s = c->x->service;
	const char *key;
	json_t *value;

	json_object_foreach(c->body, key, value)
	{
		int r = params_read(&c->params, key, value, s->max_tokens, e);
		if (r < 0)
			return -1;
		if (r > 0 || !strcmp(key, "prompt") || !strcmp(key, "user"))
			continue;
		if (!strcmp(key, "model")) {
			if (!json_is_string(value))
				return api_error_set(e, key, "model must be a string, is %s",
						     json_kind(value));
			if (strcmp(json_string_value(value), s->name)) {
				api_error_set(e, key, "there is no model \"%.100s\" here, there is \"%s\"",
					      json_string_value(value), s->name);
				e->status = 404;
				e->code = "model_not_found";
				return -1;
			}
		} else if (!strcmp(key, "echo")) {
			if (!json_is_boolean(value) && !json_is_null(value))
				return api_error_set(e, key, "echo must be true or false, is %s",
						     json_kind(value));
			c->echo = json_is_true(value);
		} else if (!strcmp(key, "stream_options")) {
			const json_t *usage = json_object_get(value, "include_usage");
			if (!json_is_object(value) && !json_is_null(value))
				return api_error_set(e, key, "stream_options must be an object, is %s",
						     json_kind(value));
			c->include_usage = json_is_true(usage);
		} else {
			return api_error_set(e, key, "unknown key \"%.60s\"", key);
		}
	}
	return prompts_read(&c->prompts, s->engine, json_object_get(c->body, "prompt"), true, e);
}

static int submit_all(struct completion *c, struct api_error *e)
{
	c->jobs = xcalloc(c->prompts.n, sizeof(struct job *));
	for (size_t i = 0; i < c->prompts.n; i++)
		if (prompts_submit(&c->prompts, i, c->x->service->engine, &c->params, c->jobs + i, e))
			return -1;
	return 0;
}

/* ---- documents ---- */

static void add_prompt_text(const struct completion *c, size_t i, struct strbuf *out)
{
	const struct token_ids *ids = c->prompts.ids + i;

	/* Every id was accepted when its job was submitted. */
	tokenizer_decode(engine_tokenizer(c->x->service->engine), ids->ids, ids->n, TOKENIZER_SKIP_SPECIAL,
			 out, NULL);
}

static void add_choice(json_t *choices, size_t index, const struct strbuf *text, const char *finish)
{
	json_t *choice = json_object();

	json_object_set_new(choice, "index", json_integer((json_int_t)index));
	json_object_set_new(choice, "text", json_stringn(text->data ? text->data : "", text->len));
	json_object_set_new(choice, "logprobs", json_null());
	json_object_set_new(choice, "finish_reason", finish ? json_string(finish) : json_null());
	json_array_append_new(choices, choice);
}

static json_t *usage_json(const struct job_figures *f)
{
	json_t *usage = json_object();

	json_object_set_new(usage, "prompt_tokens", json_integer(f->prompt_tokens));
	json_object_set_new(usage, "completion_tokens", json_integer(f->tokens));
	json_object_set_new(usage, "total_tokens", json_integer(f->prompt_tokens + f->tokens));
	return usage;
}

static json_t *document(const struct completion *c, json_t *choices)
{
	json_t *j = json_object();

	json_object_set_new(j, "id", json_string(c->id));
	json_object_set_new(j, "object", json_string("text_completion"));
	json_object_set_new(j, "created", json_integer(c->created));
	json_object_set_new(j, "model", json_string(c->x->service->name));
	json_object_set_new(j, "choices", choices);
	return j;
}

static void count(struct completion *c, struct job *j)
{
	struct job_figures f;

	job_figures(j, &f);
	c->sum.prompt_tokens += f.prompt_tokens;
	c->sum.tokens += f.tokens;
	c->x->prompt_tokens = c->sum.prompt_tokens;
	c->x->tokens = c->sum.tokens;
}

static void failure(struct job *j, struct api_error *e)
{
	api_error_from(e, job_error(j));
	if (e->status != 503) {
		e->status = 500;
		e->type = "server_error";
	}
}

/* ---- whole ---- */

static void answer_whole(struct completion *c)
{
	json_t *choices = json_array();
	struct strbuf text = STRBUF_INIT;
	struct api_error e;

	for (size_t i = 0; i < c->prompts.n; i++) {
		enum job_state state;
		size_t length = 0;

		strbuf_clear(&text);
		if (c->echo)
			add_prompt_text(c, i, &text);
		while (!job_finish_name(state = job_wait(c->jobs[i], &length, 200, &text)))
			if (exchange_gone(c->x))
				goto gone;
		if (state == JOB_FAILED) {
			failure(c->jobs[i], &e);
			reply_error(c->x, &e, NULL);
			goto gone;
		}
		add_choice(choices, i, &text, job_finish_name(state));
		count(c, c->jobs[i]);
	}
	json_t *j = document(c, choices);
	json_object_set_new(j, "usage", usage_json(&c->sum));
	reply_json(c->x, 200, j);
	choices = NULL;
gone:
	json_decref(choices);
	strbuf_free(&text);
}

/* ---- streaming: server-sent events ---- */

static void add_event(struct strbuf *out, json_t *j)
{
	char *text = json_dumps(j, JSON_COMPACT);

	strbuf_addf(out, "data: %s\n\n", text ? text : "{}");
	free(text);
	json_decref(j);
}

static void add_chunk(struct completion *c, const struct strbuf *text, const char *finish, struct strbuf *out)
{
	json_t *choices = json_array();

	add_choice(choices, c->at, text, finish);
	add_event(out, document(c, choices));
}

static int next(void *arg, struct strbuf *out)
{
	struct completion *c = arg;
	struct strbuf text = STRBUF_INIT;

	if (c->finished) {
		if (c->include_usage) {
			json_t *j = document(c, json_array());
			json_object_set_new(j, "usage", usage_json(&c->sum));
			add_event(out, j);
		}
		strbuf_adds(out, "data: [DONE]\n\n");
		return 0;
	}
	if (!c->begun && c->echo)
		add_prompt_text(c, c->at, &text);
	c->begun = true;
	enum job_state state = job_wait(c->jobs[c->at], &c->length, text.len ? 0 : 200, &text);
	const char *finish = job_finish_name(state);
	if (state == JOB_FAILED) {
		/* The status line is out already: the error is an event, and no [DONE] follows. */
		json_t *j = json_object();
		json_object_set_new(j, "error",
				    json_pack("{s:s, s:s}", "message", job_error(c->jobs[c->at])->message,
					      "type", "server_error"));
		add_event(out, j);
		strbuf_free(&text);
		return 0;
	}
	if (text.len || finish)
		add_chunk(c, &text, finish, out);
	strbuf_free(&text);
	if (finish) {
		count(c, c->jobs[c->at]);
		c->at++;
		c->begun = false;
		c->length = 0;
		c->finished = c->at == c->prompts.n;
	}
	return 1;
}

void openai_completions(struct exchange *x)
{
	struct completion *c = xcalloc(1, sizeof *c);
	struct api_error e;

	c->x = x;
	c->created = time(NULL);
	snprintf(c->id, sizeof c->id, "cmpl-%llx-%llu", (unsigned long long)x->service->created,
		 __atomic_add_fetch(&x->service->serial, 1, __ATOMIC_RELAXED));
	params_init(&c->params);
	c->body = body_read(x, &e);
	if (!c->body || read_request(c, &e) || submit_all(c, &e)) {
		reply_error(x, &e, NULL);
		completion_free(c);
		return;
	}
	if (c->params.stream) {
		struct stream_source s = {next, completion_free, c};
		reply_stream(x, "text/event-stream", &s);
		return;
	}
	answer_whole(c);
	completion_free(c);
}

void openai_models(struct exchange *x)
{
	const struct service *s = x->service;
	json_t *model = json_object(), *data = json_array(), *j = json_object();

	json_object_set_new(model, "id", json_string(s->name));
	json_object_set_new(model, "object", json_string("model"));
	json_object_set_new(model, "created", json_integer(s->created));
	json_object_set_new(model, "owned_by", json_string("anneal"));
	json_object_set_new(model, "max_model_len", json_integer(engine_context(s->engine)));
	json_array_append_new(data, model);
	json_object_set_new(j, "object", json_string("list"));
	json_object_set_new(j, "data", data);
	reply_json(x, 200, j);
}
