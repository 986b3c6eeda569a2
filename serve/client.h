/* The other side: asking an inference endpoint, whoever runs it, and measuring how it answers. */
#ifndef SERVE_CLIENT_H
#define SERVE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

enum flavour {
	FLAVOUR_AUTO,   /* found out by endpoint_wait */
	FLAVOUR_OPENAI, /* POST URL/v1/completions, streamed */
	FLAVOUR_VLLM, /* POST URL/generate: {"text": [prompt + answer]}, or {"predictions": [...]} as Vertex's image answers */
	FLAVOUR_VERTEX, /* POST URL: {"instances": [...]} -> {"predictions": [...]}; URL ends in ":predict" */
};
const char *flavour_name(enum flavour f); /* "auto", "openai", "vllm", "vertex" */
bool flavour_of(const char *name, enum flavour *out);

struct endpoint {
	const char *url; /* "http://127.0.0.1:8000", without a slash at the end */
	enum flavour flavour;
	char *model;       /* what an OpenAI endpoint calls the model; free. NULL: the first one it lists */
	const char *token; /* sent as bearer token; NULL: none. Never part of an error */
	double timeout;    /* seconds for one answer as a whole */
	bool direct;       /* past any proxy: this machine */
	bool (*stopping)(
		void *arg); /* asked about once a second: give up with ERR_INTERRUPTED; may be NULL */
	void *arg;
};

/* Waits until the endpoint is healthy, and finds out its flavour and model where they are not given; at most seconds. While
 * it starts, it may refuse connections or answer 429 and 503. ERR_INFRA when the time is up: says what came last. */
int endpoint_wait(struct endpoint *e, double seconds, struct error *err);

struct endpoint_question {
	const char *prompt;
	int64_t max_tokens;
	double temperature;
	const char *const *stop; /* (nstop) */
	size_t nstop;
};

struct endpoint_answer {
	struct strbuf text;    /* without the prompt */
	char finish[16];       /* "stop", "length"; "" where the endpoint does not tell */
	int64_t prompt_tokens; /* -1 where it does not tell */
	int64_t tokens;        /* of the answer; -1 likewise */
	double first_token;    /* seconds until the first text; negative where the answer is not streamed */
	double seconds;        /* in all */
};

/* Asks once; 429 and 503 are asked again until the endpoint's timeout is over. ERR_STAGE when the answer is not what the
 * flavour promises. The caller answer_frees out, also after a failure. */
int endpoint_ask(struct endpoint *e, const struct endpoint_question *q, struct endpoint_answer *out,
		 struct error *err);
void answer_free(struct endpoint_answer *a);

#endif
