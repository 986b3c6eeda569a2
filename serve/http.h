/* One HTTP exchange, as the protocols see it: the request with its whole body, and the ways to answer. Hides
 * libmicrohttpd, which is loaded at the first server_start. */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "base/str.h"

struct engine;

/* What every exchange of a server shares. */
struct service {
	struct engine *engine;
	const char *name;          /* what the model is called */
	int max_tokens;            /* the most that a request may ask for */
	long long created;         /* seconds since 1970: when the server started */
	unsigned long long serial; /* of requests, for their ids; under no lock: atomic */
};

struct exchange {
	struct service *service;
	const char *method, *path; /* "POST", "/v1/completions" */
	struct strbuf body;        /* whole */
	void *connection;          /* struct MHD_Connection */
	bool streaming;            /* a stream was started: the rest is the stream's */
	int status;                /* answered with, 0: not yet */
	int prompt_tokens, tokens; /* for the log */
};

/* What is wrong with a request, in OpenAI's words. */
struct api_error {
	int status;       /* HTTP: 400, 404 … */
	const char *type; /* "invalid_request_error" … */
	const char *code; /* "model_not_found" or NULL */
	char param[64];   /* the key that is wrong, "" for none */
	char message[1024];
};

/* Fills e with status 400 and type invalid_request_error; param may be NULL. Returns -1. */
int api_error_set(struct api_error *e, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* From an error of a lower floor: 400 for ERR_USAGE, 429 where too many are waiting, 503 while stopping, else 500. */
int api_error_from(struct api_error *e, const struct error *err);

/* Answers with a JSON document; j is consumed. */
void reply_json(struct exchange *x, int status, json_t *j);
/* Answers with n bytes of plain text. */
void reply_text(struct exchange *x, int status, const char *text, size_t n);
/* Answers with {"error":{message,type,param,code}}. allow: the methods for status 405, else NULL. */
void reply_error(struct exchange *x, const struct api_error *e, const char *allow);

/* Answers piece by piece. next appends a piece to out, waiting a fraction of a second at most for one (it may append
 * nothing then), and returns 1 while there is more to come, 0 after the last, -1 to break the connection. release frees arg, also when the client
 * goes away early. */
struct stream_source {
	int (*next)(void *arg, struct strbuf *out);
	void (*release)(void *arg);
	void *arg;
};
void reply_stream(struct exchange *x, const char *content_type, const struct stream_source *s);

/* True when the other side has closed the connection: what it asked for is not wanted any more. */
bool exchange_gone(const struct exchange *x);

/* The protocols: each answers x. */
void openai_completions(struct exchange *x);
void openai_models(struct exchange *x);
void vllm_generate(struct exchange *x);

#endif
