#include "serve/params.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/engine.h"

#define STOPS_MOST   16u
#define PROMPTS_MOST 64u

void params_init(struct params *p)
{
	memset(p, 0, sizeof *p);
	p->sampling = sampling_default();
	p->sampling.max_tokens = 16;
	p->sampling.temperature = 1;
	if (getrandom(&p->sampling.seed, sizeof p->sampling.seed, GRND_NONBLOCK) < 0)
		p->sampling.seed = clock_mono_ns();
}

void params_free(struct params *p)
{
	free(p->stop_ids);
	free(p->stop);
}

/* ---- single values ---- */

static int wrong_type(struct api_error *e, const char *key, const char *want, const json_t *value)
{
	return api_error_set(e, key, "%s must be %s, is %s", key, want, json_kind(value));
}

static int read_int(const char *key, const json_t *value, int64_t least, int64_t most, int64_t *out,
		    struct api_error *e)
{
	if (!json_is_integer(value))
		return wrong_type(e, key, "an integer", value);
	int64_t v = json_integer_value(value);
	if (v < least || v > most)
		return api_error_set(e, key, "%s must be %lld to %lld, is %lld", key, (long long)least,
				     (long long)most, (long long)v);
	*out = v;
	return 1;
}

static int read_float(const char *key, const json_t *value, double least, double most, float *out,
		      struct api_error *e)
{
	if (!json_is_number(value))
		return wrong_type(e, key, "a number", value);
	double v = json_number_value(value);
	if (!(v >= least && v <= most))
		return api_error_set(e, key, "%s must be %g to %g, is %g", key, least, most, v);
	*out = (float)v;
	return 1;
}

static int read_bool(const char *key, const json_t *value, bool *out, struct api_error *e)
{
	if (!json_is_boolean(value))
		return wrong_type(e, key, "true or false", value);
	*out = json_is_true(value);
	return 1;
}

static int read_stop(struct params *p, const json_t *value, struct api_error *e)
{
	size_t n = json_is_array(value) ? json_array_size(value) : 1;

	if (!json_is_array(value) && !json_is_string(value))
		return wrong_type(e, "stop", "a string or a list of strings", value);
	if (n > STOPS_MOST)
		return api_error_set(e, "stop", "stop has %zu strings, %u are the most", n, STOPS_MOST);
	free(p->stop);
	p->stop = xcalloc(n + 1, sizeof *p->stop);
	p->nstop = 0;
	for (size_t i = 0; i < n; i++) {
		const json_t *s = json_is_array(value) ? json_array_get(value, i) : value;
		if (!json_is_string(s))
			return wrong_type(e, "stop", "a list of strings", s);
		if (json_string_length(s) == 0 || strlen(json_string_value(s)) != json_string_length(s))
			return api_error_set(e, "stop", "stop has an empty string");
		p->stop[p->nstop++] = json_string_value(s);
	}
	return 1;
}

static int read_stop_ids(struct params *p, const json_t *value, struct api_error *e)
{
	if (!json_is_array(value))
		return wrong_type(e, "stop_token_ids", "a list of ids", value);
	size_t n = json_array_size(value);
	if (n > STOPS_MOST)
		return api_error_set(e, "stop_token_ids", "stop_token_ids has %zu ids, %u are the most", n,
				     STOPS_MOST);
	free(p->stop_ids);
	p->stop_ids = xcalloc(n + 1, sizeof *p->stop_ids);
	for (size_t i = 0; i < n; i++) {
		int64_t id = 0;
		if (read_int("stop_token_ids", json_array_get(value, i), 0, INT32_MAX, &id, e) < 0)
			return -1;
		p->stop_ids[i] = (int32_t)id;
	}
	p->sampling.stop = p->stop_ids;
	p->sampling.nstop = (int)n;
	return 1;
}

/* Keys of the two protocols that ask for what is not there. At these values they ask for nothing. */
static const struct neutral {
	const char *key;
	enum { NEUTRAL_NUMBER, NEUTRAL_TRUE, NEUTRAL_FALSE, NEUTRAL_EMPTY, NEUTRAL_NULL } kind;
	double number;
} neutrals[] = {
	{"n", NEUTRAL_NUMBER, 1},
	{"best_of", NEUTRAL_NUMBER, 1},
	{"presence_penalty", NEUTRAL_NUMBER, 0},
	{"frequency_penalty", NEUTRAL_NUMBER, 0},
	{"repetition_penalty", NEUTRAL_NUMBER, 1},
	{"min_p", NEUTRAL_NUMBER, 0},
	{"min_tokens", NEUTRAL_NUMBER, 0},
	{"length_penalty", NEUTRAL_NUMBER, 1},
	{"logprobs", NEUTRAL_NULL, 0},
	{"prompt_logprobs", NEUTRAL_NULL, 0},
	{"suffix", NEUTRAL_NULL, 0},
	{"truncate_prompt_tokens", NEUTRAL_NULL, 0},
	{"logit_bias", NEUTRAL_EMPTY, 0},
	{"bad_words", NEUTRAL_EMPTY, 0},
	{"use_beam_search", NEUTRAL_FALSE, 0},
	{"include_stop_str_in_output", NEUTRAL_FALSE, 0},
	{"skip_special_tokens", NEUTRAL_TRUE, 0},
	{"spaces_between_special_tokens", NEUTRAL_TRUE, 0},
	{"detokenize", NEUTRAL_TRUE, 0},
};

static int read_neutral(const char *key, const json_t *value, struct api_error *e)
{
	for (size_t i = 0; i < sizeof neutrals / sizeof *neutrals; i++) {
		const struct neutral *u = neutrals + i;
		if (strcmp(u->key, key))
			continue;
		switch (u->kind) {
		case NEUTRAL_NUMBER:
			if (json_is_number(value) && json_number_value(value) == u->number)
				return 1;
			return api_error_set(e, key, "%s is not there: %g is the only value", key, u->number);
		case NEUTRAL_TRUE:
		case NEUTRAL_FALSE:
			if (u->kind == NEUTRAL_TRUE ? json_is_true(value) : json_is_false(value))
				return 1;
			return api_error_set(e, key, "%s is not there: %s is the only value", key,
					     u->kind == NEUTRAL_TRUE ? "true" : "false");
		case NEUTRAL_EMPTY:
			if ((json_is_object(value) && json_object_size(value) == 0) ||
			    (json_is_array(value) && json_array_size(value) == 0))
				return 1;
			break;
		case NEUTRAL_NULL: break;
		}
		return api_error_set(e, key, "%s is not there", key);
	}
	return 0;
}

int params_read(struct params *p, const char *key, const json_t *value, int limit, struct api_error *e)
{
	static const char *const known[] = {"max_tokens", "temperature",    "top_p",      "top_k", "seed",
					    "stop",       "stop_token_ids", "ignore_eos", "stream"};
	int64_t i = 0;
	int r;

	if (json_is_null(value)) {
		for (size_t k = 0; k < sizeof known / sizeof *known; k++)
			if (!strcmp(known[k], key))
				return 1;
		for (size_t k = 0; k < sizeof neutrals / sizeof *neutrals; k++)
			if (!strcmp(neutrals[k].key, key))
				return 1;
		return 0;
	}
	if (!strcmp(key, "max_tokens")) {
		r = read_int(key, value, 1, limit, &i, e);
		p->sampling.max_tokens = r > 0 ? (int)i : 1;
		return r;
	}
	if (!strcmp(key, "temperature"))
		return read_float(key, value, 0, 100, &p->sampling.temperature, e);
	if (!strcmp(key, "top_p")) {
		r = read_float(key, value, 0, 1, &p->sampling.top_p, e);
		if (r > 0 && p->sampling.top_p <= 0)
			return api_error_set(e, key, "top_p must be above 0 and at most 1, is 0");
		return r;
	}
	if (!strcmp(key, "top_k")) {
		r = read_int(key, value, -1, INT_MAX, &i, e);
		p->sampling.top_k = r > 0 && i > 0 ? (int)i : 0;
		return r;
	}
	if (!strcmp(key, "seed")) {
		r = read_int(key, value, INT64_MIN, INT64_MAX, &i, e);
		if (r > 0)
			p->sampling.seed = (uint64_t)i;
		return r;
	}
	if (!strcmp(key, "stop"))
		return read_stop(p, value, e);
	if (!strcmp(key, "stop_token_ids"))
		return read_stop_ids(p, value, e);
	if (!strcmp(key, "ignore_eos"))
		return read_bool(key, value, &p->sampling.ignore_eos, e);
	if (!strcmp(key, "stream"))
		return read_bool(key, value, &p->stream, e);
	return read_neutral(key, value, e);
}

/* ---- prompts ---- */

static int add_text(struct prompts *p, const struct engine *engine, const json_t *s, struct api_error *e)
{
	struct error err = ERROR_INIT;
	struct token_ids *ids = p->ids + p->n++;

	*ids = (struct token_ids)TOKEN_IDS_INIT;
	if (engine_encode(engine, json_string_value(s), json_string_length(s), ids, &err)) {
		api_error_from(e, &err);
		snprintf(e->param, sizeof e->param, "prompt");
		return -1;
	}
	return 0;
}

static int add_ids(struct prompts *p, const json_t *list, struct api_error *e)
{
	struct token_ids *ids = p->ids + p->n++;

	*ids = (struct token_ids)TOKEN_IDS_INIT;
	ids->ids = xcalloc(json_array_size(list) + 1, sizeof *ids->ids);
	for (size_t i = 0; i < json_array_size(list); i++) {
		int64_t id = 0;
		if (read_int("prompt", json_array_get(list, i), 0, INT32_MAX, &id, e) < 0)
			return -1;
		ids->ids[ids->n++] = (int32_t)id;
	}
	return 0;
}

int prompts_read(struct prompts *p, const struct engine *engine, const json_t *value, bool many,
		 struct api_error *e)
{
	*p = (struct prompts){NULL, 0};
	if (!value || json_is_null(value))
		return api_error_set(e, "prompt", "prompt is missing");
	size_t n = json_is_array(value) ? json_array_size(value) : 1;
	bool ids = json_is_array(value) && json_is_integer(json_array_get(value, 0));

	if (!json_is_string(value) && !(many && json_is_array(value)))
		return wrong_type(e, "prompt", many ? "a string or a list" : "a string", value);
	if (n == 0)
		return api_error_set(e, "prompt", "prompt is empty");
	if (!ids && n > PROMPTS_MOST)
		return api_error_set(e, "prompt", "prompt has %zu prompts, %u are the most", n, PROMPTS_MOST);
	p->ids = xcalloc(ids ? 1 : n, sizeof *p->ids);
	if (ids)
		return add_ids(p, value, e);
	for (size_t i = 0; i < n; i++) {
		const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
		int r;
		if (json_is_string(one))
			r = add_text(p, engine, one, e);
		else if (json_is_array(one))
			r = add_ids(p, one, e);
		else
			r = wrong_type(e, "prompt", "a list of strings or of ids", one);
		if (r)
			return -1;
	}
	return 0;
}

void prompts_free(struct prompts *p)
{
	for (size_t i = 0; i < p->n; i++)
		token_ids_free(p->ids + i);
	free(p->ids);
	*p = (struct prompts){NULL, 0};
}

json_t *body_read(const struct exchange *x, struct api_error *e)
{
	struct error err = ERROR_INIT;
	json_t *j = json_parse(x->body.data ? x->body.data : "", x->body.len, "the body", &err);

	if (!j) {
		api_error_from(e, &err);
		return NULL;
	}
	if (!json_is_object(j)) {
		api_error_set(e, NULL, "the body must be an object, is %s", json_kind(j));
		json_decref(j);
		return NULL;
	}
	return j;
}

int prompts_submit(const struct prompts *p, size_t i, struct engine *engine, const struct params *params,
		   struct job **out, struct api_error *e)
{
	struct error err = ERROR_INIT;
	struct job_request r = {p->ids[i].ids, p->ids[i].n, params->sampling, params->stop, params->nstop};

	if (job_submit(engine, &r, out, &err) == 0)
		return 0;
	api_error_from(e, &err);
	if (err.class == ERR_USAGE) {
		snprintf(e->param, sizeof e->param, "prompt");
		e->code = p->ids[i].n >= (size_t)engine_context(engine) ? "context_length_exceeded" : NULL;
	} else if (!engine_alive(engine)) {
		e->status = 503; /* its device has failed: this is not "too many requests" */
		e->type = "server_error";
	}
	return -1;
}
