#include "serve/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/stop.h"

#define CONTEXT_MOST 8192
#define QUEUE_USUAL  64

struct job {
	struct engine *engine;
	struct job *next; /* in the queue */
	int holds;        /* the caller's and the engine's; under the engine's lock */
	int32_t *ids;
	size_t n;
	struct sampling sampling;
	char **stop;
	size_t nstop;
	atomic_bool cancelled;

	/* Under the engine's lock. */
	pthread_cond_t changed;
	enum job_state state;
	struct strbuf text; /* the answer so far */
	struct job_figures figures;
	struct error error;

	/* The engine thread's own. */
	struct token_stream *stream;
	struct stop_filter filter;
	struct strbuf piece, release;
	bool stop_string; /* one was met */
	double submitted;
};

struct engine {
	struct model *model;
	struct transformer *transformer;
	struct kv_cache *cache;
	struct tokenizer *tokenizer;
	int context, queue;

	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t work; /* the queue is not empty any more, or the engine stops */
	struct job *first, *last;
	int waiting;
	atomic_bool stopping;
};

static void job_free(struct job *j)
{
	for (size_t i = 0; i < j->nstop; i++)
		free(j->stop[i]);
	free(j->stop);
	free((void *)j->sampling.stop);
	free(j->ids);
	strbuf_free(&j->text);
	strbuf_free(&j->piece);
	strbuf_free(&j->release);
	stop_free(&j->filter);
	token_stream_free(j->stream);
	pthread_cond_destroy(&j->changed);
	free(j);
}

/* The lock is held. True when it was the last hold: the caller frees the job once the lock is released. */
static bool job_drop(struct job *j)
{
	return --j->holds == 0;
}

static bool ended(enum job_state s)
{
	return s != JOB_WAITING && s != JOB_RUNNING;
}

/* ---- the thread ---- */

/* Makes what was released part of the answer. The lock is not held. */
static void publish(struct job *j)
{
	struct engine *e = j->engine;

	pthread_mutex_lock(&e->lock);
	strbuf_add(&j->text, j->release.data, j->release.len);
	pthread_cond_broadcast(&j->changed);
	pthread_mutex_unlock(&e->lock);
	strbuf_clear(&j->release);
}

static int on_token(int32_t id, void *arg)
{
	struct job *j = arg;

	if (j->figures.tokens++ == 0)
		j->figures.first_token = clock_mono() - j->submitted;
	if (atomic_load(&j->cancelled) || atomic_load(&j->engine->stopping))
		return 1;
	strbuf_clear(&j->piece);
	if (token_stream_add(j->stream, id, &j->piece, &j->error))
		return 1;
	if (j->piece.len) {
		j->stop_string = stop_feed(&j->filter, j->piece.data, j->piece.len, &j->release);
		if (j->release.len)
			publish(j);
	}
	return j->stop_string;
}

static enum job_state answer(struct job *j)
{
	struct engine *e = j->engine;
	enum finish finish = FINISH_ABORTED;

	/* The prompt runs through the stream first, so that the answer keeps the space between the two, which a
	 * SentencePiece decoder drops at the beginning of a text. */
	j->stream = token_stream_new(e->tokenizer, TOKENIZER_SKIP_SPECIAL);
	for (size_t i = 0; i < j->n; i++)
		if (token_stream_add(j->stream, j->ids[i], &j->piece, &j->error))
			return JOB_FAILED;
	kv_cache_reset(e->cache, 0);
	if (generate(e->transformer, e->cache, 0, j->ids, (int)j->n, &j->sampling, on_token, j, &finish,
		     &j->error))
		return JOB_FAILED;
	if (j->error.class != ERR_NONE)
		return JOB_FAILED;
	if (j->stop_string)
		return JOB_STOPPED;
	if (finish == FINISH_ABORTED) {
		if (!atomic_load(&j->cancelled)) {
			error_set(&j->error, ERR_INTERRUPTED, "the server is stopping");
			return JOB_FAILED;
		}
		return JOB_CANCELLED;
	}
	strbuf_clear(&j->piece);
	token_stream_finish(j->stream, &j->piece);
	j->stop_string = stop_feed(&j->filter, j->piece.data ? j->piece.data : "", j->piece.len, &j->release);
	if (!j->stop_string)
		stop_finish(&j->filter, &j->release);
	return finish == FINISH_STOP || j->stop_string ? JOB_STOPPED : JOB_LENGTH;
}

static void *serve(void *arg)
{
	struct engine *e = arg;

	pthread_mutex_lock(&e->lock);
	for (;;) {
		while (!e->first && !atomic_load(&e->stopping))
			pthread_cond_wait(&e->work, &e->lock);
		struct job *j = e->first;
		if (!j)
			break;
		e->first = j->next;
		if (!e->first)
			e->last = NULL;
		e->waiting--;
		j->state = JOB_RUNNING;
		pthread_mutex_unlock(&e->lock);

		enum job_state state;
		j->figures.started = clock_mono() - j->submitted;
		if (atomic_load(&e->stopping)) {
			error_set(&j->error, ERR_INTERRUPTED, "the server is stopping");
			state = JOB_FAILED;
		} else if (atomic_load(&j->cancelled)) {
			state = JOB_CANCELLED;
		} else {
			state = answer(j);
		}
		j->figures.total = clock_mono() - j->submitted;
		if (!j->figures.tokens)
			j->figures.first_token = j->figures.total;

		pthread_mutex_lock(&e->lock);
		strbuf_add(&j->text, j->release.data, j->release.len);
		j->state = state;
		pthread_cond_broadcast(&j->changed);
		if (job_drop(j))
			job_free(j);
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* ---- opening and closing ---- */

int engine_open(const struct engine_options *o, struct engine **out, struct error *err)
{
	struct engine *e = xcalloc(1, sizeof *e);
	struct model_options mo = {.format = WEIGHTS_AS_STORED, .gelu = GELU_ARCHITECTURE};

	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->work, NULL);
	if (tokenizer_open(o->model, &e->tokenizer, err) ||
	    model_open(o->model, &mo, o->progress, o->arg, &e->model, err))
		goto fail;
	const struct model_config *c = &e->model->config;
	e->context = o->context;
	if (e->context == 0)
		e->context = c->max_positions < CONTEXT_MOST ? c->max_positions : CONTEXT_MOST;
	if (e->context > c->max_positions || e->context < 2) {
		error_set(err, ERR_USAGE, "a context of %d tokens: %s allows 2 to %d", e->context, o->model,
			  c->max_positions);
		goto fail;
	}
	e->queue = o->queue ? o->queue : QUEUE_USUAL;
	if (transformer_new(e->model, NULL, &e->transformer, err) ||
	    kv_cache_new(c, 1, e->context, &e->cache, err))
		goto fail;
	int code = pthread_create(&e->thread, NULL, serve, e);
	if (code) {
		error_set(err, ERR_INFRA, "no thread for the model: %s", strerror(code));
		goto fail;
	}
	e->started = true;
	*out = e;
	return 0;
fail:
	engine_close(e);
	return -1;
}

void engine_stop(struct engine *e)
{
	if (!e->started)
		return;
	pthread_mutex_lock(&e->lock);
	atomic_store(&e->stopping, true);
	pthread_cond_broadcast(&e->work);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	e->started = false;
}

void engine_close(struct engine *e)
{
	if (!e)
		return;
	engine_stop(e);
	if (e->cache)
		kv_cache_free(e->cache);
	if (e->transformer)
		transformer_free(e->transformer);
	if (e->model)
		model_free(e->model);
	tokenizer_free(e->tokenizer);
	pthread_cond_destroy(&e->work);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

bool engine_alive(const struct engine *e)
{
	return !atomic_load(&e->stopping);
}

int engine_context(const struct engine *e)
{
	return e->context;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
	return e->tokenizer;
}

int engine_encode(const struct engine *e, const char *text, size_t n, struct token_ids *out,
		  struct error *err)
{
	return tokenizer_encode(e->tokenizer, text, n, TOKENIZER_ADD_SPECIAL, out, err);
}

/* ---- jobs ---- */

static int request_check(const struct engine *e, const struct job_request *r, struct error *err)
{
	if (r->n == 0)
		return error_set(err, ERR_USAGE, "the prompt has no tokens");
	if (r->n >= (size_t)e->context)
		return error_set(
			err, ERR_USAGE,
			"the prompt has %zu tokens, and the context of %d has to hold the answer too", r->n,
			e->context);
	for (size_t i = 0; i < r->n; i++)
		if (r->ids[i] < 0 || r->ids[i] >= e->model->config.vocab_size)
			return error_set(err, ERR_USAGE, "the prompt's token %d: the vocabulary has 0 to %d",
					 r->ids[i], e->model->config.vocab_size - 1);
	return 0;
}

int job_submit(struct engine *e, const struct job_request *r, struct job **out, struct error *err)
{
	if (request_check(e, r, err))
		return -1;

	struct job *j = xcalloc(1, sizeof *j);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&j->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	j->engine = e;
	j->n = r->n;
	j->ids = xreallocarray(NULL, r->n, sizeof *j->ids);
	memcpy(j->ids, r->ids, r->n * sizeof *j->ids);
	j->sampling = r->sampling;
	j->sampling.stop = NULL;
	if (r->sampling.nstop) {
		int32_t *ids = xreallocarray(NULL, (size_t)r->sampling.nstop, sizeof *ids);
		memcpy(ids, r->sampling.stop, (size_t)r->sampling.nstop * sizeof *ids);
		j->sampling.stop = ids;
	}
	j->stop = xcalloc(r->nstop + 1, sizeof *j->stop);
	for (size_t i = 0; i < r->nstop; i++)
		j->stop[j->nstop++] = xstrdup(r->stop[i]);
	j->filter = (struct stop_filter){(const char *const *)j->stop, j->nstop, STRBUF_INIT};
	j->figures.prompt_tokens = (int)r->n;
	j->submitted = clock_mono();
	j->holds = 2;

	pthread_mutex_lock(&e->lock);
	bool stopping = atomic_load(&e->stopping), full = e->waiting >= e->queue;
	if (!stopping && !full) {
		if (e->last)
			e->last->next = j;
		else
			e->first = j;
		e->last = j;
		e->waiting++;
		pthread_cond_signal(&e->work);
	}
	pthread_mutex_unlock(&e->lock);
	if (stopping || full) {
		job_free(j);
		return stopping ? error_set(err, ERR_INTERRUPTED, "the server is stopping")
				: error_set(err, ERR_INFRA, "%d prompts are waiting already", e->queue);
	}
	*out = j;
	return 0;
}

enum job_state job_wait(struct job *j, size_t *length, int ms, struct strbuf *text)
{
	struct engine *e = j->engine;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&e->lock);
	while (!ended(j->state) && j->text.len <= *length)
		if (pthread_cond_timedwait(&j->changed, &e->lock, &until) == ETIMEDOUT)
			break;
	enum job_state state = j->state;
	if (j->text.len > *length) {
		strbuf_add(text, j->text.data + *length, j->text.len - *length);
		*length = j->text.len;
	}
	pthread_mutex_unlock(&e->lock);
	return state;
}

/* Takes a waiting job out of the queue, so that it holds no place there. The lock is held. */
static void withdraw(struct job *j)
{
	struct engine *e = j->engine;
	struct job **at = &e->first, *before = NULL;

	while (*at != j) {
		before = *at;
		at = &before->next;
	}
	*at = j->next;
	if (e->last == j)
		e->last = before;
	e->waiting--;
	j->state = JOB_CANCELLED;
	pthread_cond_broadcast(&j->changed);
	job_drop(j); /* the engine's hold; the caller has one, too */
}

void job_cancel(struct job *j)
{
	struct engine *e = j->engine;

	atomic_store(&j->cancelled, true);
	pthread_mutex_lock(&e->lock);
	if (j->state == JOB_WAITING)
		withdraw(j);
	pthread_mutex_unlock(&e->lock);
}

void job_release(struct job *j)
{
	struct engine *e = j->engine;

	job_cancel(j);
	pthread_mutex_lock(&e->lock);
	bool last = job_drop(j);
	pthread_mutex_unlock(&e->lock);
	if (last)
		job_free(j);
}

void job_figures(struct job *j, struct job_figures *out)
{
	pthread_mutex_lock(&j->engine->lock);
	*out = j->figures;
	pthread_mutex_unlock(&j->engine->lock);
}

const struct error *job_error(const struct job *j)
{
	return &j->error;
}

const char *job_finish_name(enum job_state s)
{
	switch (s) {
	case JOB_STOPPED: return "stop";
	case JOB_LENGTH: return "length";
	case JOB_CANCELLED: return "cancelled";
	case JOB_FAILED: return "error";
	case JOB_WAITING:
	case JOB_RUNNING: break;
	}
	return NULL;
}
