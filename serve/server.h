/* The inference server: a model behind HTTP, in the words of OpenAI's completions and of vLLM's api_server.
 *
 *   GET  /health          200 while it answers
 *   GET  /v1/models       the one model there is
 *   POST /v1/completions  OpenAI: prompt (text, list of texts, ids, list of ids), max_tokens (16), temperature (1), top_p,
 *                         top_k, seed, stop, stop_token_ids, ignore_eos, echo, stream, stream_options
 *   POST /generate        vLLM's demonstration server: prompt and SamplingParams; the prompt is part of the text
 *
 * What is not there is said: an unknown key, n other than 1 and log probabilities are errors. */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include "serve/engine.h"

struct server;

struct server_options {
	const char *model; /* a Hugging Face model directory */
	const char *name;  /* what requests call it; NULL: the directory's last part */
	const char *host;  /* NULL: "127.0.0.1" */
	int port;          /* 0: one that is free */
	int max_tokens;    /* the most that a request may ask for; 0: what the context allows */
	const char *device, *precision, *weights; /* see engine_options, as the next three */
	int slots;
	int context;
	int queue;
	size_t body_limit; /* bytes of a request's body; 0: 4 MiB */
	/* One line for each request that was answered, without a newline; from several threads at once. May be NULL. */
	void (*log)(const char *line, void *arg);
	void (*progress)(uint64_t done, uint64_t all, void *arg); /* while loading, in bytes; may be NULL */
	void *arg;
};

/* Loads the model, then listens: when it returns, requests are answered. ERR_USAGE when the model or the address cannot be
 * used, ERR_INFRA when the port is taken or libmicrohttpd is not installed. */
int server_start(const struct server_options *o, struct server **out, struct error *err);
/* "127.0.0.1", 8000; the URL is "http://127.0.0.1:8000". */
int server_port(const struct server *s);
const char *server_url(const struct server *s);
const char *server_name(const struct server *s);
const char *server_device_text(const struct server *s); /* engine_device_text */
/* Returns once *stop is nonzero. */
void server_wait(const struct server *s, volatile int *stop);
/* Breaks off what is being answered, closes every connection, frees. NULL is fine. */
void server_stop(struct server *s);

#endif
