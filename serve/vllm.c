/* POST /generate, as vLLM's api_server (the demonstration server that the codelab deploys) answers: the prompt is part of
 * the text, and a stream has one JSON document a line with all of the text so far. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "serve/engine.h"
#include "serve/params.h"

struct generation {
	struct exchange *x;
	json_t *body;
	struct params params;
	struct prompts prompts;
	struct job *job;
	struct strbuf text; /* the prompt and the answer so far */
	size_t length;      /* bytes of the answer in text */
};

static void generation_free(void *arg)
{
	struct generation *g = arg;

	if (g->job)
		job_release(g->job);
	prompts_free(&g->prompts);
	params_free(&g->params);
	json_decref(g->body);
	strbuf_free(&g->text);
	free(g);
}

static int read_request(struct generation *g, struct api_error *e)
{
	const struct service *s = g->x->service;
	const char *key;
	json_t *value;

	json_object_foreach(g->body, key, value)
	{
		int r = strcmp(key, "prompt") ? params_read(&g->params, key, value, s->max_tokens, e) : 1;
		if (r < 0)
			return -1;
		if (r == 0)
			return api_error_set(e, key,
					     "unknown key \"%.60s\": there are prompt, stream and vLLM's "
					     "SamplingParams",
					     key);
	}
	const json_t *prompt = json_object_get(g->body, "prompt");
	if (prompts_read(&g->prompts, s->engine, prompt, false, e))
		return -1;
	strbuf_add(&g->text, json_string_value(prompt), json_string_length(prompt));
	return 0;
}

/* {"text": [all so far]} */
static json_t *document(const struct generation *g)
{
	json_t *j = json_object(), *texts = json_array();

	json_array_append_new(texts, json_stringn(g->text.data ? g->text.data : "", g->text.len));
	json_object_set_new(j, "text", texts);
	return j;
}

static void count(struct generation *g)
{
	struct job_figures f;

	job_figures(g->job, &f);
	g->x->prompt_tokens = f.prompt_tokens;
	g->x->tokens = f.tokens;
}

static void answer_whole(struct generation *g)
{
	enum job_state state;
	struct api_error e;

	while (!job_finish_name(state = job_wait(g->job, &g->length, 200, &g->text)))
		if (exchange_gone(g->x))
			return;
	if (state == JOB_FAILED) {
		api_error_from(&e, job_error(g->job));
		e.status = e.status == 503 ? 503 : 500;
		e.type = "server_error";
		reply_error(g->x, &e, NULL);
		return;
	}
	count(g);
	reply_json(g->x, 200, document(g));
}

static int next(void *arg, struct strbuf *out)
{
	struct generation *g = arg;
	size_t before = g->length;
	enum job_state state = job_wait(g->job, &g->length, 200, &g->text);

	if (state == JOB_FAILED || state == JOB_CANCELLED)
		return -1;
	if (g->length > before) {
		json_t *j = document(g);
		char *text = json_dumps(j, JSON_COMPACT);
		strbuf_addf(out, "%s\n", text ? text : "{}");
		free(text);
		json_decref(j);
	}
	if (!job_finish_name(state))
		return 1;
	count(g);
	return 0;
}

void vllm_generate(struct exchange *x)
{
	struct generation *g = xcalloc(1, sizeof *g);
	struct api_error e;

	g->x = x;
	params_init(&g->params);
	g->body = body_read(x, &e);
	if (!g->body || read_request(g, &e) ||
	    prompts_submit(&g->prompts, 0, x->service->engine, &g->params, &g->job, &e)) {
		reply_error(x, &e, NULL);
		generation_free(g);
		return;
	}
	if (g->params.stream) {
		struct stream_source s = {next, generation_free, g};
		reply_stream(x, "application/x-ndjson", &s);
		return;
	}
	answer_whole(g);
	generation_free(g);
}
