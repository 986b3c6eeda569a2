/* A job from its caller's side: it is queued, waited for, given up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/engine_state.h"

void job_free(struct job *j)
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

bool job_drop(struct job *j)
{
	return --j->holds == 0;
}

static bool ended(enum job_state s)
{
	return s != JOB_WAITING && s != JOB_RUNNING;
}

/* ---- the queue ---- */

static void queue_add(struct engine *e, struct job *j)
{
	if (e->last)
		e->last->next = j;
	else
		e->first = j;
	e->last = j;
	e->waiting++;
}

struct job *queue_pop(struct engine *e)
{
	struct job *j = e->first;

	if (!j)
		return NULL;
	e->first = j->next;
	if (!e->first)
		e->last = NULL;
	j->next = NULL;
	e->waiting--;
	return j;
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

/* Whether the engine takes no more. The lock is held. */
static int refused(const struct engine *e, struct error *err)
{
	if (atomic_load(&e->stopping))
		return error_set(err, ERR_INTERRUPTED, "the server is stopping");
	if (atomic_load(&e->broken)) {
		error_set(err, e->failure.class, "%s", e->failure.message);
		return error_hint(err, "%s", e->failure.hint);
	}
	/* A free slot is as good as taken: the thread may just not have come to it. */
	if (e->waiting + e->running >= e->queue + e->slots)
		return error_set(err, ERR_INFRA, "%d prompts are waiting already", e->queue);
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
	int failed = refused(e, err);
	if (!failed) {
		queue_add(e, j);
		pthread_cond_signal(&e->work);
	}
	pthread_mutex_unlock(&e->lock);
	if (failed)
		job_free(j);
	else
		*out = j;
	return failed;
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
