/* Inside the engine: what its thread (engine.c) and the callers' side of a job (job.c) share. */
#ifndef SERVE_ENGINE_STATE_H
#define SERVE_ENGINE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/choice.h"
#include "model/generate.h"
#include "serve/engine.h"
#include "serve/stop.h"

struct job {
	struct engine *engine;
	struct job *next; /* in the queue */
	int holds;        /* the caller's and the engine's; under the engine's lock */
	int32_t *ids;
	size_t n;
	struct sampling sampling;
	char **stop;
	size_t nstop;
	double submitted;
	atomic_bool cancelled;

	/* Under the engine's lock. */
	pthread_cond_t changed;
	enum job_state state;
	struct strbuf text; /* the answer so far */
	struct job_figures figures;
	struct error error; /* the thread's own until the job has ended */

	/* The engine thread's own. */
	int slot; /* of the cache */
	struct continuation continuation;
	struct token_stream *stream;
	struct stop_filter filter;
	struct strbuf piece, release;
	int tokens;         /* of the answer */
	double first_token; /* see job_figures */
};

struct engine {
	struct device_choice choice; /* device NULL: not yet opened */
	struct model *model;
	struct transformer *transformer;
	struct kv_cache *cache;
	struct tokenizer *tokenizer;
	int context, queue, slots, prompt_tokens;

	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t work; /* the queue is not empty any more, or the engine stops */
	struct job *first, *last;
	int waiting, running;
	atomic_bool stopping, broken;
	struct error failure; /* why it is broken */

	/* The thread's own. */
	struct job **jobs; /* (running) in the order in which they came */
	int *free_slots;   /* (slots - running) */
	/* A pass: (slots) of each. */
	struct decode_item *items;
	struct job **fed;
	int32_t *chosen;
	float *logits; /* (slots, vocab), made by the first job that samples */
};

/* The lock is held. True when it was the last hold: the caller job_frees the job. */
bool job_drop(struct job *j);
void job_free(struct job *j);
/* Takes the first job out of the queue; NULL when there is none. The lock is held. */
struct job *queue_pop(struct engine *e);

#endif
