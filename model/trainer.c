/* The loop of a run. A step: pick its rows, pack them, passes forward and backward, clip, update, log. */
#include "model/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "model/trainer_state.h"
#include "model/weights.h"

int64_t trainer_steps(const struct trainer *t)
{
	return t->steps;
}

struct lora_set *trainer_adapter(struct trainer *t)
{
	return t->lora;
}

/* ---- packing ---- */

/* Writes the target of every position of a row: the id that follows, or -1. Gives the number of labels. */
static int64_t fill_targets(const struct train_sequence *s, int32_t ignore, int32_t *targets)
{
	int64_t labelled = 0;

	for (int i = 0; i < s->n; i++) {
		bool label = i + 1 < s->n && i + 1 >= s->label_start && s->ids[i + 1] != ignore;
		targets[i] = label ? s->ids[i + 1] : -1;
		labelled += label;
	}
	return labelled;
}

/* What a row adds to the denominator. */
static int64_t labels_of(const struct trainer_options *o, const struct train_sequence *s)
{
	/* RECIPE_CODELAB: labels before the shift, so the first id counts although nothing predicts it. */
	int first = s->label_start > 1 ? s->label_start : o->recipe == RECIPE_CODELAB ? s->label_start : 1;
	int64_t n = 0;

	for (int i = first; i < s->n; i++)
		n += s->ids[i] != o->ignore_label;
	return n;
}

/* Packs rows pick[0 … count - 1] (or, when pick is NULL, rows[0 … count - 1]) as far as the budget goes, at least one.
 * token_base counts on from base. Gives the number of rows taken. */
static size_t pack(struct trainer *t, const struct train_sequence *rows, const uint32_t *pick, size_t count,
		   int64_t base, struct batch *b)
{
	size_t taken = 0, tokens = 0;

	for (; taken < count; taken++) {
		size_t n = (size_t)rows[pick ? pick[taken] : taken].n;
		if (taken && t->options.token_budget && tokens + n > (size_t)t->options.token_budget)
			break;
		tokens += n;
	}
	grow(&t->ids, &t->ids_cap, tokens, sizeof *t->ids);
	grow(&t->targets, &t->targets_cap, tokens, sizeof *t->targets);
	grow(&t->cu, &t->cu_cap, taken + 1, sizeof *t->cu);
	grow(&t->base, &t->base_cap, taken, sizeof *t->base);
	size_t at = 0;
	for (size_t i = 0; i < taken; i++) {
		const struct train_sequence *s = &rows[pick ? pick[i] : i];
		t->cu[i] = (int32_t)at;
		t->base[i] = (int32_t)(base + (int64_t)at);
		memcpy(t->ids + at, s->ids, (size_t)s->n * sizeof *t->ids);
		fill_targets(s, t->options.ignore_label, t->targets + at);
		at += (size_t)s->n;
	}
	t->cu[taken] = (int32_t)at;
	*b = (struct batch){(int)at, (int)taken, t->ids, t->cu, t->targets};
	return taken;
}

void trainer_draw_order(struct trainer *t)
{
	if (t->ordered)
		return;
	t->after = t->sampler;
	sampler_epoch(&t->after, t->epoch, t->lengths, t->nrows,
		      (uint32_t)t->options.batch_size * (uint32_t)t->options.grad_accumulation, t->order);
	t->ordered = true;
}

/* ---- one optimizer step ---- */

/* Adds the gradients of the step's rows, times the loss scale; *loss is their loss, *squares the sum of the squared
 * gradients. Nothing waits for the device before both are read together. */
static int accumulate(struct trainer *t, const uint32_t *pick, size_t count, double *loss, double *squares,
		      struct error *err)
{
	const struct trainer_options *o = &t->options;
	const bool dropping = t->lora && o->lora_dropout > 0;
	double *sums = transformer_sums(t->pass), read[2];
	int64_t denominator = 0, base = 0, labelled;

	for (size_t i = 0; i < count; i++) {
		denominator += labels_of(o, &t->rows[pick[i]]);
		t->tokens += t->rows[pick[i]].n;
	}
	device_zero(t->device, sums, sizeof read);
	for (size_t done = 0; done < count && denominator;) {
		struct batch b;

		done += pack(t, t->rows, pick + done, count - done, base, &b);
		struct dropout drop = {(float)o->lora_dropout, o->seed, (uint64_t)t->step, t->base};

		if (transformer_train(t->pass, &b, dropping ? &drop : NULL,
				      (float)(t->loss_scale / (double)denominator), t->full, NULL, &labelled,
				      err))
			return -1;
		base += b.tokens;
	}
	t->device->ops->sum_squares(t->device, t->grads, t->count, sums + 1);
	if (device_download(t->device, read, sums, sizeof read, err))
		return -1;
	*loss = denominator ? read[0] / (double)denominator : 0;
	*squares = read[1];
	return 0;
}

/* Clips, updates, and leaves the gradients zero. */
static void update(struct trainer *t)
{
	const struct trainer_options *o = &t->options;
	double clip = o->max_grad_norm > 0 ? o->max_grad_norm / (t->grad_norm + 1e-6) : 1;
	struct adamw a = {.beta1 = (float)o->beta1,
			  .beta2 = (float)o->beta2,
			  .eps = (float)o->eps,
			  .weight_decay = (float)o->weight_decay,
			  .grad_scale = (float)((clip < 1 ? clip : 1) / t->loss_scale),
			  .decay_first = false};

	t->learning_rate = o->learning_rate * schedule_at(&t->schedule, t->updates);
	t->updates++;
	a.lr = (float)t->learning_rate;
	a.step = t->updates;
	if (t->lora) { /* one vector, decayed as a whole */
		t->device->ops->adamw(t->device, &a, t->grads, t->count, t->lora->params, t->moments,
				      t->moments + t->count);
		return;
	}
	for (size_t i = 0; i < t->nparams; i++) {
		const struct parameter *p = &t->params[i];

		a.weight_decay = p->decay ? (float)o->weight_decay : 0;
		t->device->ops->adamw(t->device, &a, p->grad, p->count, p->value, p->m, p->v);
	}
}

/* torch.cuda.amp.GradScaler: half at an overflow, twice after 2000 updates without one. */
static void scale_changes(struct trainer *t, bool overflow)
{
	if (!trainer_scales(t))
		return;
	if (overflow) {
		t->loss_scale *= 0.5;
		t->scale_held = 0;
	} else if (++t->scale_held == 2000) {
		t->loss_scale *= 2;
		t->scale_held = 0;
	}
}

bool trainer_scales(const struct trainer *t)
{
	return t->device->act == DTYPE_F16;
}

/* The rows of a step, for a message. */
static int not_finite(const struct trainer *t, const uint32_t *pick, size_t count, const char *what,
		      double value, struct error *err)
{
	char rows[160];
	size_t n = 0;

	for (size_t i = 0; i < count && n < 100; i++)
		n += (size_t)snprintf(rows + n, sizeof rows - n, "%s%lld", i ? ", " : "",
				      (long long)t->rows[pick[i]].row);
	error_set(err, ERR_STAGE, "step %lld: the %s is %g (rows %s%s)", (long long)t->step + 1, what, value,
		  rows, n >= 100 ? ", …" : "");
	return error_hint(err, "lower learning_rate, or look at these rows");
}

static int step(struct trainer *t, struct error *err)
{
	const struct trainer_options *o = &t->options;
	bool codelab = o->recipe == RECIPE_CODELAB;
	double loss, squares;

	if (t->cursor >= t->nrows) {
		t->epoch++;
		t->cursor = 0;
		t->sampler = t->after;
		t->ordered = false;
	}
	trainer_draw_order(t);
	uint64_t want = (uint64_t)o->batch_size * (uint64_t)o->grad_accumulation;
	uint32_t left = t->nrows - t->cursor, count = want < left ? (uint32_t)want : left;
	const uint32_t *pick = t->order + t->cursor;
	if (accumulate(t, pick, count, &loss, &squares, err))
		return -1;
	t->grad_norm = sqrt(squares) / t->loss_scale;
	bool overflow = !isfinite(t->grad_norm);
	/* With a loss scale an overflow is how a scale is found to be too large, down to a scale of 1. */
	bool expected = codelab || (trainer_scales(t) && t->loss_scale > 1);
	if (!codelab && !isfinite(loss))
		return not_finite(t, pick, count, "loss", loss, err);
	if (overflow && !expected)
		return not_finite(t, pick, count, "gradient's norm", t->grad_norm, err);
	if (overflow) {
		device_zero(t->device, t->grads, t->count * sizeof *t->grads);
		t->skipped++;
	} else {
		update(t);
	}
	scale_changes(t, overflow);
	if (!isfinite(loss))
		loss = t->loss_logged / (double)(1 + t->steps_logged);
	t->cursor += count;
	t->step++;
	t->loss_logged += loss;
	t->loss_total += loss;
	t->steps_logged++;
	return 0;
}

/* ---- the run ---- */

static void report(struct trainer *t, const struct trainer_callbacks *cb, double seconds, int64_t tokens)
{
	uint64_t size = (uint64_t)t->options.batch_size;
	double batches = (double)((t->nrows + size - 1) / size),
	       done = (double)((t->cursor + size - 1) / size);
	struct train_metrics m = {
		.step = t->step,
		.steps = t->steps,
		.epoch = (double)t->epoch + done / batches,
		.loss = t->loss_logged / (double)t->steps_logged,
		.learning_rate = t->learning_rate,
		.grad_norm = t->grad_norm,
		.tokens_per_second = seconds > 0 ? (double)tokens / seconds : 0,
	};

	t->loss_logged = 0;
	t->steps_logged = 0;
	if (cb->metrics)
		cb->metrics(&m, cb->arg);
}

static bool due(int64_t step, int every)
{
	return every > 0 && step % every == 0;
}

int trainer_run(struct trainer *t, const struct trainer_callbacks *cb, struct train_result *out,
		struct error *err)
{
	const struct trainer_options *o = &t->options;
	double since = clock_mono();
	int64_t tokens = t->tokens;
	bool stopped = false;

	while (t->step < t->steps && !stopped) {
		if (step(t, err))
			return -1;
		bool last = t->step == t->steps;
		if (last || due(t->step, o->logging_steps)) {
			double now = clock_mono();
			report(t, cb, now - since, t->tokens - tokens);
			since = now;
			tokens = t->tokens;
		}
		if (cb->progress)
			cb->progress(t->step, t->steps, cb->arg);
		if (cb->evaluate && o->evaluate_steps && (last || due(t->step, o->evaluate_steps)) &&
		    cb->evaluate(t, t->step, cb->arg, err))
			return -1;
		stopped = !last && cb->should_stop && cb->should_stop(cb->arg);
		if (cb->checkpoint && (stopped || (!last && due(t->step, o->checkpoint_steps))) &&
		    cb->checkpoint(t, t->step, cb->arg, err))
			return -1;
	}
	*out = (struct train_result){
		.steps = t->step,
		.loss = t->step ? t->loss_total / (double)t->step : 0,
		.skipped = t->skipped,
		.loss_scale = t->loss_scale,
		.tokens = t->tokens,
		.parameters = (int64_t)t->count,
		.stopped = stopped,
	};
	return 0;
}

int trainer_evaluate(struct trainer *t, const struct train_sequence *rows, size_t n, double *loss,
		     int64_t *labelled, struct error *err)
{
	double sum = 0;

	*labelled = 0;
	for (size_t done = 0; done < n;) {
		struct batch b;
		double part;
		int64_t count;
		size_t most = n - done < 64 ? n - done : 64; /* also without a token budget */
		done += pack(t, rows + done, NULL, most, 0, &b);
		if (transformer_loss(t->pass, &b, &part, &count, err))
			return -1;
		sum += part;
		*labelled += count;
	}
	*loss = *labelled ? sum / (double)*labelled : 0;
	return 0;
}
