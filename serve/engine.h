/* A model that answers: it is loaded once, and one thread continues several prompts at a time, every one as if it were
 * alone. They are taken up in the order in which they came, as soon as another has ended. What a prompt becomes can be
 * followed while it grows, and given up. */
#ifndef SERVE_ENGINE_H
#define SERVE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/str.h"
#include "model/sampling.h"
#include "tokenizer/tokenizer.h"

struct engine;

/* Words for engine_options.weights, ended by NULL. */
extern const char *const engine_weights[]; /* "stored", "nf4" */

struct engine_options {
	const char *model;     /* a Hugging Face model directory with its tokenizer */
	const char *device;    /* one of choice_devices (model/choice.h); NULL: "auto" */
	const char *precision; /* one of choice_precisions; NULL: "auto" */
	const char *
		weights; /* "stored": in 16 bits, or as the files have them; "nf4": quantised while loading, for a
	                        * quarter of the memory; NULL: "stored" */
	int slots;       /* prompts that are answered at a time; 0: 8. Each has memory for a whole context */
	int context;     /* tokens of prompt and answer together; 0: what the model allows, at most 8,192 */
	int prompt_tokens; /* of prompts in one pass, so that running answers do not stall; 0: 2,048, on the CPU 256 */
	int queue; /* prompts that may wait beside those that are being answered; 0: 64 */
	void (*progress)(uint64_t done, uint64_t all, void *arg); /* while loading, in bytes; may be NULL */
	void *arg;
};

/* ERR_USAGE for a word or a number that no engine takes; engine_open begins with it. */
int engine_options_check(const struct engine_options *o, struct error *err);
/* Loads model and tokenizer and starts the thread. ERR_USAGE for a model or a device that cannot be used; ERR_INFRA when
 * there is too little memory: the hint says how to fit. */
int engine_open(const struct engine_options *o, struct engine **out, struct error *err);
/* Ends every job (JOB_FAILED, ERR_INTERRUPTED) within one token, refuses new ones, ends the thread. Jobs stay valid until
 * they are released. */
void engine_stop(struct engine *e);
/* engine_stop, then frees. No job may be left. NULL is fine. */
void engine_close(struct engine *e);
/* False once it stops, and when a pass has failed: then the device is of no more use, every job there was has failed
 * (JOB_FAILED) with that error, and new ones are refused with it. */
bool engine_alive(const struct engine *e);
/* One line: where the model computes, and why there. */
const char *engine_device_text(const struct engine *e);
/* Tokens of prompt and answer together. */
int engine_context(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e);

/* A prompt's ids as the model was trained to see them: with <bos> where the tokenizer adds it. */
int engine_encode(const struct engine *e, const char *text, size_t n, struct token_ids *out,
		  struct error *err);

struct job_request {
	const int32_t *ids; /* (n) the prompt, copied; 1 <= n < engine_context */
	size_t n;
	struct sampling sampling; /* its stop ids are copied */
	const char *const *stop;  /* (nstop) strings that end the answer, copied */
	size_t nstop;
};

enum job_state {
	JOB_WAITING,
	JOB_RUNNING,
	JOB_STOPPED, /* ended by an end token or a stop string */
	JOB_LENGTH,  /* max_tokens or the context is used up */
	JOB_CANCELLED,
	JOB_FAILED, /* see job_error */
};

struct job;

/* Queues a prompt. ERR_USAGE when it is empty, too long, or has an id that the model does not know; ERR_INFRA when too
 * many are waiting or the engine's device has failed; ERR_INTERRUPTED when the engine stops. The caller releases the job. */
int job_submit(struct engine *e, const struct job_request *r, struct job **out, struct error *err);
/* Waits until the answer is longer than *length bytes or ended, at most ms milliseconds; appends the bytes from *length
 * on to text and advances *length. Always whole UTF-8 characters. */
enum job_state job_wait(struct job *j, size_t *length, int ms, struct strbuf *text);
/* The rest is not wanted: the job ends within one token. */
void job_cancel(struct job *j);
/* job_cancel, and the caller's hold on it ends. */
void job_release(struct job *j);
/* Figures of a job that ended: seconds since it was submitted. */
struct job_figures {
	int prompt_tokens;
	int tokens;         /* of the answer, without the one that ended it */
	double first_token; /* when the first token was there; the whole time when there was none */
	double started;     /* when it got a slot */
	double total;
};
void job_figures(struct job *j, struct job_figures *out);
const struct error *job_error(const struct job *j); /* of a JOB_FAILED one */
/* "stop", "length", "cancelled", "error"; NULL while it runs. */
const char *job_finish_name(enum job_state s);

#endif
