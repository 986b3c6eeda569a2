/* What a request asks for: the prompt and how to sample, read from JSON strictly, with the key that is wrong named. */
#ifndef SERVE_PARAMS_H
#define SERVE_PARAMS_H

#include "serve/http.h"
#include "model/generate.h"
#include "tokenizer/tokenizer.h"

struct params {
	struct sampling sampling; /* its stop ids are owned by stop_ids */
	int32_t *stop_ids;
	const char **stop; /* (nstop) into the request's document */
	size_t nstop;
	bool stream;
};

/* OpenAI's and vLLM's defaults: 16 tokens, temperature 1, a seed of its own for every request. */
void params_init(struct params *p);
void params_free(struct params *p);

/* Reads one key that both protocols know: max_tokens, temperature, top_p, top_k, seed, stop, stop_token_ids, ignore_eos,
 * stream, n, and those that are accepted at their neutral value alone (presence_penalty 0 …). 1 when the key was one of
 * these, 0 when it is unknown, -1 and e when its value is wrong. limit: the most max_tokens. null is the default. */
int params_read(struct params *p, const char *key, const json_t *value, int limit, struct api_error *e);

/* The prompts of a request. */
struct prompts {
	struct token_ids *ids; /* (n) */
	size_t n;
};

/* value: a string; with many also a list of strings, a list of ids, or a list of lists of ids. NULL: missing, an error. */
int prompts_read(struct prompts *p, const struct engine *engine, const json_t *value, bool many,
		 struct api_error *e);
void prompts_free(struct prompts *p);

/* The body of x as a JSON object; NULL and e when it is none. */
json_t *body_read(const struct exchange *x, struct api_error *e);

struct job;
/* Submits prompt i; a prompt that is too long or a queue that is full is in e. */
int prompts_submit(const struct prompts *p, size_t i, struct engine *engine, const struct params *params,
		   struct job **out, struct api_error *e);

#endif
