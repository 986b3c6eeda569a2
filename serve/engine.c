/* One thread feeds all running jobs in one pass after the other: each answer's last token, and pieces of the prompts of jobs
 * that have just come. A matrix is read once for all of them, which is what decoding costs. */
#include "serve/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/engine_state.h"

#define CONTEXT_MOST 8192
#define QUEUE_USUAL  64
#define SLOTS_USUAL  8
/* How long a pass over prompts holds up running answers, and a cancellation: on a GPU products of this size are as fast as
 * they get; on a CPU they are so far earlier, and a pass takes tens of times longer. */
#define PROMPT_TOKENS_GPU 2048
#define PROMPT_TOKENS_CPU 256

const char *const engine_weights[] = {"stored", "nf4", NULL};

/* ---- a job in its slot ---- */

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

/* Prepares a job that has a slot. */
static int begin(struct job *j)
{
	struct engine *e = j->engine;

	kv_cache_reset(e->cache, j->slot);
	if (continuation_begin(&j->continuation, e->transformer, e->cache, j->slot, j->ids, (int)j->n,
			       &j->sampling, &j->error))
		return -1;
	/* The prompt runs through the stream first, so that the answer keeps the space between the two, which a
	 * SentencePiece decoder drops at the beginning of a text. */
	j->stream = token_stream_new(e->tokenizer, TOKENIZER_SKIP_SPECIAL);
	for (size_t i = 0; i < j->n; i++)
		if (token_stream_add(j->stream, j->ids[i], &j->piece, &j->error))
			return -1;
	return 0;
}

/* The text that is still held back belongs to the answer, which ended as `state` unless a stop string is in that text. */
static enum job_state conclude(struct job *j, enum job_state state)
{
	strbuf_clear(&j->piece);
	token_stream_finish(j->stream, &j->piece);
	if (stop_feed(&j->filter, j->piece.data ? j->piece.data : "", j->piece.len, &j->release))
		return JOB_STOPPED;
	stop_finish(&j->filter, &j->release);
	return state;
}

/* Goes one step on; JOB_RUNNING while there is more to come. */
static enum job_state advance(struct job *j, enum step step)
{
	if (step == STEP_PROMPT)
		return JOB_RUNNING;
	if (step == STEP_STOP)
		return conclude(j, JOB_STOPPED);
	if (j->tokens++ == 0)
		j->first_token = clock_mono() - j->submitted;
	strbuf_clear(&j->piece);
	if (token_stream_add(j->stream, j->continuation.id, &j->piece, &j->error))
		return JOB_FAILED;
	if (j->piece.len && stop_feed(&j->filter, j->piece.data, j->piece.len, &j->release))
		return JOB_STOPPED;
	if (step == STEP_LAST)
		return conclude(j, JOB_LENGTH);
	if (j->release.len)
		publish(j);
	return JOB_RUNNING;
}

/* The lock is held. */
static void settle(struct job *j, enum job_state state)
{
	double now = clock_mono() - j->submitted;

	strbuf_add(&j->text, j->release.data, j->release.len);
	j->figures.tokens = j->tokens;
	j->figures.total = now;
	j->figures.first_token = j->tokens ? j->first_token : now;
	j->state = state;
	pthread_cond_broadcast(&j->changed);
	if (job_drop(j))
		job_free(j);
}

/* ---- the thread ---- */

/* The at-th running job has ended: its slot is free for the next. */
static void retire(struct engine *e, int at, enum job_state state)
{
	struct job *j = e->jobs[at];

	pthread_mutex_lock(&e->lock);
	e->running--;
	e->free_slots[e->slots - e->running - 1] = j->slot;
	memmove(e->jobs + at, e->jobs + at + 1, (size_t)(e->running - at) * sizeof *e->jobs);
	settle(j, state);
	pthread_mutex_unlock(&e->lock);
}

/* Takes waiting jobs into free slots, and waits for one while there is nothing to do. False when the engine stops. */
static bool admit(struct engine *e)
{
	struct job *j;

	pthread_mutex_lock(&e->lock);
	while (!e->first && !e->running && !atomic_load(&e->stopping))
		pthread_cond_wait(&e->work, &e->lock);
	int before = e->running;

	while (!atomic_load(&e->stopping) && e->running < e->slots && (j = queue_pop(e))) {
		j->state = JOB_RUNNING;
		j->figures.started = clock_mono() - j->submitted;
		j->slot = e->free_slots[e->slots - e->running - 1];
		e->jobs[e->running++] = j;
	}
	int after = e->running;

	pthread_mutex_unlock(&e->lock);
	for (int i = after - 1; i >= before; i--)
		if (begin(e->jobs[i]))
			retire(e, i, JOB_FAILED);
	return !atomic_load(&e->stopping);
}

static void retire_cancelled(struct engine *e)
{
	for (int i = e->running - 1; i >= 0; i--)
		if (atomic_load(&e->jobs[i]->cancelled))
			retire(e, i, JOB_CANCELLED);
}

/* What the next pass feeds: every answer's last token, and so much of the prompts, the oldest first, as a pass may hold.
 * Gives the number of items; *sampled: one of them is to be drawn from its logits. */
static int compose(struct engine *e, bool *sampled)
{
	int room = e->prompt_tokens, count = 0;

	*sampled = false;
	for (int i = 0; i < e->running; i++) {
		struct job *j = e->jobs[i];
		const struct continuation *g = &j->continuation;
		struct decode_item item = continuation_feed(g, room);

		if (item.n == 0)
			continue;
		if (g->fed < g->n)
			room -= item.n;
		*sampled |= j->sampling.temperature > 0 && continuation_wants(g, &item);
		e->items[count] = item;
		e->fed[count++] = j;
	}
	return count;
}

static int pass(struct engine *e, struct error *err)
{
	size_t vocab = (size_t)e->model->config.vocab_size;
	bool sampled;
	int count = compose(e, &sampled);

	if (sampled && !e->logits)
		e->logits = xmalloc((size_t)e->slots * vocab * sizeof *e->logits);
	if (transformer_decode(e->transformer, e->cache, e->items, count, sampled ? e->logits : NULL,
			       e->chosen, err))
		return -1;
	/* Both lists have the same order, so the next job to retire is at or behind the last. */
	for (int i = 0, at = 0; i < count; i++) {
		struct job *j = e->fed[i];

		while (e->jobs[at] != j)
			at++;
		enum job_state state = advance(
			j, continuation_take(&j->continuation, &e->items[i],
					     sampled ? e->logits + (size_t)i * vocab : NULL, e->chosen[i]));

		if (state != JOB_RUNNING)
			retire(e, at, state);
	}
	return 0;
}

/* Fails every job there is. The lock is held. */
static void fail_all(struct engine *e, const struct error *why)
{
	struct job *j;

	for (int i = 0; i < e->running; i++) {
		e->jobs[i]->error = *why;
		settle(e->jobs[i], JOB_FAILED);
	}
	e->running = 0;
	while ((j = queue_pop(e))) {
		j->error = *why;
		settle(j, JOB_FAILED);
	}
}

static void *serve(void *arg)
{
	struct engine *e = arg;
	struct error why = ERROR_INIT;

	while (admit(e)) {
		retire_cancelled(e);
		if (e->running && pass(e, &why))
			break;
	}
	pthread_mutex_lock(&e->lock);
	if (why.class != ERR_NONE) {
		e->failure = why;
		atomic_store(&e->broken, true);
	} else {
		error_set(&why, ERR_INTERRUPTED, "the server is stopping");
	}
	fail_all(e, &why);
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* ---- opening and closing ---- */

static int word_check(const char *what, const char *word, const char *const *words, struct error *err)
{
	struct strbuf list = STRBUF_INIT;
	bool known = !word;

	for (size_t i = 0; words[i]; i++) {
		known |= word && !strcmp(word, words[i]);
		strbuf_addf(&list, "%s%s", i == 0 ? "" : words[i + 1] ? ", " : " or ", words[i]);
	}
	if (!known)
		error_set(err, ERR_USAGE, "%s \"%s\": it takes %s", what, word, list.data);
	strbuf_free(&list);
	return known ? 0 : -1;
}

int engine_options_check(const struct engine_options *o, struct error *err)
{
	if (word_check("device", o->device, choice_devices, err) ||
	    word_check("precision", o->precision, choice_precisions, err) ||
	    word_check("weights", o->weights, engine_weights, err))
		return -1;
	if (o->slots < 0)
		return error_set(err, ERR_USAGE, "slots %d: it takes 1 or more", o->slots);
	return 0;
}

static int open_model(struct engine *e, const struct engine_options *o, struct error *err)
{
	bool nf4 = o->weights && !strcmp(o->weights, "nf4");
	struct model_options how = {.format = nf4 ? WEIGHTS_NF4 : WEIGHTS_AS_STORED,
				    .gelu = GELU_ARCHITECTURE};

	if (device_choose(o->device ? o->device : "auto", o->precision ? o->precision : "auto", false,
			  &e->choice, err))
		return -1;
	how.device = e->choice.device;
	if (model_open(o->model, &how, o->progress, o->arg, &e->model, err) == 0)
		return 0;
	if (err->class == ERR_INFRA && !nf4 && e->choice.device->kind != DEVICE_CPU)
		error_hint(err, "weights nf4 take about a quarter of the memory");
	return -1;
}

/* The cache, and all that passes need, so that no answer breaks off for want of memory. */
static int open_cache(struct engine *e, const struct engine_options *o, struct error *err)
{
	const struct model_config *c = &e->model->config;
	bool cpu = e->choice.device->kind == DEVICE_CPU;
	char slot[16];

	e->context = o->context;
	if (e->context == 0)
		e->context = c->max_positions < CONTEXT_MOST ? c->max_positions : CONTEXT_MOST;
	if (e->context > c->max_positions || e->context < 2)
		return error_set(err, ERR_USAGE, "a context of %d tokens: %s allows 2 to %d", e->context,
				 o->model, c->max_positions);
	e->slots = o->slots ? o->slots : SLOTS_USUAL;
	e->queue = o->queue ? o->queue : QUEUE_USUAL;
	e->prompt_tokens = o->prompt_tokens ? o->prompt_tokens : cpu ? PROMPT_TOKENS_CPU : PROMPT_TOKENS_GPU;
	/* No more than all prompts together. */
	if (e->prompt_tokens / e->slots >= e->context)
		e->prompt_tokens = e->slots * e->context;
	if (transformer_new(e->model, NULL, &e->transformer, err))
		return -1;
	if (kv_cache_new(e->choice.device, c, e->slots, e->context, &e->cache, err) == 0 &&
	    transformer_reserve_decode(e->transformer, e->cache, e->prompt_tokens + e->slots, e->slots,
				       err) == 0)
		return 0;
	format_bytes((uint64_t)c->layers * 2 * (uint64_t)e->context * (uint64_t)c->kv_heads *
			     (uint64_t)c->head_dim * device_act_size(e->choice.device),
		     slot);
	return error_hint(err, "take fewer slots than %d, or a smaller context than %d tokens (%s a slot)",
			  e->slots, e->context, slot);
}

static int open_thread(struct engine *e, struct error *err)
{
	size_t slots = (size_t)e->slots;

	e->jobs = xcalloc(slots, sizeof(struct job *));
	e->fed = xcalloc(slots, sizeof(struct job *));
	e->items = xcalloc(slots, sizeof *e->items);
	e->chosen = xcalloc(slots, sizeof *e->chosen);
	e->free_slots = xcalloc(slots, sizeof *e->free_slots);
	for (int i = 0; i < e->slots; i++)
		e->free_slots[i] = e->slots - 1 - i;
	int code = pthread_create(&e->thread, NULL, serve, e);

	if (code)
		return error_set(err, ERR_INFRA, "no thread for the model: %s", strerror(code));
	e->started = true;
	return 0;
}

int engine_open(const struct engine_options *o, struct engine **out, struct error *err)
{
	if (engine_options_check(o, err))
		return -1;
	struct engine *e = xcalloc(1, sizeof *e);

	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->work, NULL);
	if (tokenizer_open(o->model, &e->tokenizer, err) || open_model(e, o, err) || open_cache(e, o, err) ||
	    open_thread(e, err)) {
		engine_close(e);
		return -1;
	}
	*out = e;
	return 0;
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
	device_close(e->choice.device);
	tokenizer_free(e->tokenizer);
	free(e->jobs);
	free(e->fed);
	free(e->items);
	free(e->chosen);
	free(e->free_slots);
	free(e->logits);
	pthread_cond_destroy(&e->work);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

bool engine_alive(const struct engine *e)
{
	return !atomic_load(&e->stopping) && !atomic_load(&e->broken);
}

int engine_context(const struct engine *e)
{
	return e->context;
}

const char *engine_device_text(const struct engine *e)
{
	return e->choice.text;
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
