/* Setting a run up: options and rows checked, parameters listed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/adapter.h"
#include "model/trainer_state.h"
#include "model/weights.h"

struct trainer_options trainer_options_default(enum recipe recipe)
{
	return (struct trainer_options){
		.method = METHOD_QLORA,
		.recipe = recipe,
		.epochs = 1,
		.batch_size = 1,
		.grad_accumulation = 2,
		.learning_rate = 2e-4,
		.weight_decay = 0.001,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.eps = 1e-8,
		.max_grad_norm = 0.3,
		.warmup_ratio = 0.03,
		.schedule = SCHEDULE_COSINE,
		.sampler = SAMPLER_LENGTH_GROUPED,
		.seed = 42,
		.lora_rank = 8,
		.lora_alpha = 16,
		.lora_dropout = 0.1,
		.target = {[PROJ_Q] = true, [PROJ_V] = true},
		.ignore_label = -1,
		.token_budget = 4096,
		.logging_steps = 10,
	};
}

struct model_options trainer_model_options(const struct trainer_options *o, bool double_quant)
{
	bool codelab = o->recipe == RECIPE_CODELAB;
	struct model_options m = {.gelu = codelab ? GELU_CONFIG : GELU_ARCHITECTURE};

	switch (o->method) {
	case METHOD_QLORA:
		m.format = double_quant ? WEIGHTS_NF4_DOUBLE : WEIGHTS_NF4;
		m.nf4_through_fp16 = codelab;
		break;
	case METHOD_LORA: m.format = WEIGHTS_AS_STORED; break;
	case METHOD_FULL: m.format = WEIGHTS_F32; break;
	}
	return m;
}

static void text_line(struct strbuf *b, const char *name, double value)
{
	char text[32];

	format_f64(value, text);
	strbuf_addf(b, "%s %s\n", name, text);
}

void trainer_options_text(const struct trainer_options *o, const struct device *d, struct strbuf *b)
{
	static const char *const methods[] = {"qlora", "lora", "full"};

	strbuf_addf(b, "device %s\n", d->ops->name);
	strbuf_addf(b, "method %s\nrecipe %s\n", methods[o->method],
		    o->recipe == RECIPE_CODELAB ? "codelab" : "default");
	text_line(b, "epochs", o->max_steps ? 0 : o->epochs);
	strbuf_addf(b, "max_steps %lld\nbatch_size %d\ngrad_accumulation %d\n", (long long)o->max_steps,
		    o->batch_size, o->grad_accumulation);
	text_line(b, "learning_rate", o->learning_rate);
	text_line(b, "weight_decay", o->weight_decay);
	text_line(b, "beta1", o->beta1);
	text_line(b, "beta2", o->beta2);
	text_line(b, "eps", o->eps);
	text_line(b, "max_grad_norm", o->max_grad_norm);
	strbuf_addf(b, "warmup_steps %lld\n", (long long)o->warmup_steps);
	text_line(b, "warmup_ratio", o->warmup_ratio);
	strbuf_addf(b, "schedule %s\nsampler %s\nseed %llu\n", schedule_kind_name(o->schedule),
		    sampler_kind_name(o->sampler), (unsigned long long)o->seed);
	if (o->method != METHOD_FULL) {
		strbuf_addf(b, "lora_rank %d\n", o->lora_rank);
		text_line(b, "lora_alpha", o->lora_alpha);
		text_line(b, "lora_dropout", o->lora_dropout);
		for (int p = 0; p < PROJ_COUNT; p++) {
			if (o->target[p])
				strbuf_addf(b, "target %s\n", proj_name((enum proj)p));
		}
	}
	strbuf_addf(b, "ignore_label %d\ntoken_budget %d\n", (int)o->ignore_label, o->token_budget);
}

/* ---- checks ---- */

static int check_range(const char *name, double v, double low, double high, bool open_end, struct error *err)
{
	if (v >= low && (open_end ? v < high : v <= high))
		return 0;
	return error_set(err, ERR_USAGE, "training: %s is %g, must be from %g to %s%g", name, v, low,
			 open_end ? "below " : "", high);
}

static int check_options(const struct trainer_options *o, struct error *err)
{
	bool adapter = o->method != METHOD_FULL;

	if (o->max_steps == 0 && !(o->epochs > 0 && o->epochs <= 1e6))
		return error_set(err, ERR_USAGE, "training: epochs is %g, must be above 0", o->epochs);
	if (check_range("max_steps", (double)o->max_steps, 0, 1e12, false, err) ||
	    check_range("batch_size", o->batch_size, 1, 65536, false, err) ||
	    check_range("grad_accumulation", o->grad_accumulation, 1, 65536, false, err) ||
	    check_range("learning_rate", o->learning_rate, 0, 1e3, false, err) ||
	    check_range("weight_decay", o->weight_decay, 0, 1e3, false, err) ||
	    check_range("beta1", o->beta1, 0, 1, true, err) ||
	    check_range("beta2", o->beta2, 0, 1, true, err) ||
	    check_range("eps", o->eps, 1e-30, 1, false, err) ||
	    check_range("max_grad_norm", o->max_grad_norm, 0, 1e30, false, err) ||
	    check_range("warmup_steps", (double)o->warmup_steps, 0, 1e12, false, err) ||
	    check_range("warmup_ratio", o->warmup_ratio, 0, 1, false, err) ||
	    check_range("token_budget", o->token_budget, 0, 1e9, false, err) ||
	    check_range("logging_steps", o->logging_steps, 1, 1e9, false, err) ||
	    check_range("checkpoint_steps", o->checkpoint_steps, 0, 2e9, false, err) ||
	    check_range("evaluate_steps", o->evaluate_steps, 0, 2e9, false, err))
		return -1;
	if ((int64_t)o->batch_size * o->grad_accumulation > 1 << 20)
		return error_set(err, ERR_USAGE,
				 "training: batch_size times grad_accumulation is above %d rows", 1 << 20);
	return adapter ? check_range("lora_dropout", o->lora_dropout, 0, 1, true, err) ||
				 check_range("lora_alpha", o->lora_alpha, 1e-6, 1e6, false, err)
		       : 0;
}

static int check_rows(const struct model_config *c, const struct train_sequence *rows, size_t n,
		      struct error *err)
{
	if (n == 0)
		return error_set(err, ERR_USAGE, "training: there are no rows");
	if (n > SAMPLER_MAX_ROWS)
		return error_set(err, ERR_USAGE,
				 "training: %zu rows are more than the %d that can be ordered", n,
				 SAMPLER_MAX_ROWS);
	for (size_t i = 0; i < n; i++) {
		const struct train_sequence *s = &rows[i];
		long long row = (long long)s->row;
		if (s->n < 1)
			return error_set(err, ERR_USAGE, "training: row %lld has no tokens", row);
		if (s->n > c->max_positions) {
			error_set(err, ERR_USAGE, "training: row %lld has %d tokens, the model takes %d", row,
				  s->n, c->max_positions);
			return error_hint(err, "set max_length of the tokenize stage to at most %d",
					  c->max_positions);
		}
		if (s->label_start < 0)
			return error_set(err, ERR_USAGE, "training: row %lld begins its labels at %d", row,
					 s->label_start);
		for (int k = 0; k < s->n; k++) {
			if (s->ids[k] < 0 || s->ids[k] >= c->vocab_size) {
				error_set(err, ERR_USAGE,
					  "training: row %lld has token id %d, the model's vocabulary ends "
					  "at %d",
					  row, (int)s->ids[k], c->vocab_size - 1);
				return error_hint(err, "tokenize with this model's own tokenizer");
			}
		}
	}
	return 0;
}

static bool any_label(const struct trainer_options *o, const struct train_sequence *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		for (int k = rows[i].label_start > 1 ? rows[i].label_start : 1; k < rows[i].n; k++) {
			if (rows[i].ids[k] != o->ignore_label)
				return true;
		}
	}
	return false;
}

/* ---- parameters ---- */

static void add_parameter(struct trainer *t, const char *name, float *value, float *grad, int rows, int cols,
			  bool decay)
{
	struct parameter *p = &t->params[t->nparams++];

	*p = (struct parameter){.value = value, .grad = grad, .rows = rows, .cols = cols, .decay = decay};
	snprintf(p->name, sizeof p->name, "%s", name);
	p->count = (size_t)rows * (cols ? (size_t)cols : 1);
	t->count += p->count;
}

static int list_adapter(struct trainer *t, struct error *err)
{
	const struct trainer_options *o = &t->options;
	const struct model_config *c = &t->model->config;

	if (lora_set_new(t->device, c, o->lora_rank, (float)o->lora_alpha, o->target, true, &t->lora, err))
		return -1;
	lora_set_init(t->lora, o->seed);
	t->grads = t->lora->grads;
	t->params = xcalloc(2 * (size_t)c->layers * PROJ_COUNT, sizeof *t->params);
	for (int i = 0; i < c->layers * PROJ_COUNT; i++) {
		const struct lora *l = &t->lora->entries[i];
		char name[128];
		int rows, cols;
		if (!l->rank)
			continue;
		proj_shape(c, (enum proj)(i % PROJ_COUNT), &rows, &cols);
		for (int b = 0; b < 2; b++) {
			lora_tensor_name(i / PROJ_COUNT, (enum proj)(i % PROJ_COUNT), b, name, sizeof name);
			if (b)
				add_parameter(t, name, l->b, l->grad_b, rows, l->rank, true);
			else
				add_parameter(t, name, l->a, l->grad_a, l->rank, cols, true);
		}
	}
	return 0;
}

static int list_weights(struct trainer *t, struct error *err)
{
	const struct model_config *c = &t->model->config;
	size_t n = weight_count(c), at = 0;

	if (!model_writable(t->model))
		return error_set(err, ERR_USAGE, "training: method full needs a model opened as WEIGHTS_F32");
	if (full_grads_new(t->model, &t->full, err))
		return -1;
	t->grads = t->full->grads;
	t->params = xcalloc(n, sizeof *t->params);
	for (size_t i = 0; i < n; i++) {
		struct weight w = weight_at(c, i);
		add_parameter(t, w.name, model_weight_f32(t->model, &w), t->full->grads + at, w.rows, w.cols,
			      w.cols != 0);
		at += weight_elements(&w);
	}
	return 0;
}

static int give_moments(struct trainer *t, struct error *err)
{
	size_t at = 0, size = 2 * t->count * sizeof *t->moments;
	void *p;

	if (device_alloc(t->device, size, &p, err))
		return error_context(err, "the optimizer's moments");
	t->moments = p;
	device_zero(t->device, p, size);
	for (size_t i = 0; i < t->nparams; i++) {
		t->params[i].m = t->moments + at;
		t->params[i].v = t->moments + t->count + at;
		at += t->params[i].count;
	}
	return 0;
}

static void plan_steps(struct trainer *t)
{
	const struct trainer_options *o = &t->options;
	int64_t batches = ((int64_t)t->nrows + o->batch_size - 1) / o->batch_size,
		every = o->grad_accumulation;

	if (o->recipe == RECIPE_CODELAB)
		t->steps_per_epoch = batches / every > 0 ? batches / every : 1;
	else
		t->steps_per_epoch = (batches + every - 1) / every;
	t->steps = o->max_steps > 0 ? o->max_steps : (int64_t)ceil(o->epochs * (double)t->steps_per_epoch);
	t->schedule = (struct schedule){
		o->schedule, schedule_warmup(t->steps, o->warmup_steps, o->warmup_ratio), t->steps};
}

static int longest_first(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x < y) - (x > y);
}

/* What the passes of a run need at most. */
struct largest {
	size_t tokens, rows, longest;
};

static void largest_pass(struct largest *l, size_t tokens, size_t rows)
{
	l->tokens = tokens > l->tokens ? tokens : l->tokens;
	l->rows = rows > l->rows ? rows : l->rows;
}

/* By the orders that the rows will come in, packed as trainer.c does. Leaves t as it was: its order is not drawn yet. */
static struct largest largest_drawn(struct trainer *t, size_t step_rows)
{
	size_t budget = (size_t)t->options.token_budget;
	struct sampler s = t->sampler;
	struct largest l = {0};

	for (int64_t epoch = 0, step = 0; step < t->steps; epoch++) {
		sampler_epoch(&s, epoch, t->lengths, t->nrows, (uint32_t)step_rows, t->order);
		for (size_t at = 0; at < t->nrows && step < t->steps; step++) {
			size_t tokens = 0, rows = 0, left = t->nrows - at,
			       count = step_rows < left ? step_rows : left;

			for (size_t end = at + count; at < end; at++) {
				size_t n = (size_t)t->lengths[t->order[at]];

				if (rows && budget && tokens + n > budget) {
					largest_pass(&l, tokens, rows);
					tokens = rows = 0;
				}
				tokens += n;
				rows++;
				l.longest = n > l.longest ? n : l.longest;
			}
			largest_pass(&l, tokens, rows);
		}
	}
	return l;
}

/* By the longest rows, for runs so long that drawing all of their orders would take a while. */
static struct largest largest_possible(const struct trainer *t, size_t step_rows)
{
	size_t budget = (size_t)t->options.token_budget;
	int32_t *lengths = xreallocarray(NULL, t->nrows, sizeof *lengths);

	memcpy(lengths, t->lengths, t->nrows * sizeof *lengths);
	qsort(lengths, t->nrows, sizeof *lengths, longest_first);
	struct largest l = {.longest = (size_t)lengths[0]};

	for (; l.rows < step_rows && l.rows < t->nrows; l.rows++)
		l.tokens += (size_t)lengths[l.rows];
	free(lengths);
	if (budget && l.tokens > budget)
		l.tokens = l.longest > budget ? l.longest : budget;
	return l;
}

#define ROWS_DRAWN 4e6

/* On a GPU the memory of the largest pass is taken now, so that a run that does not fit says so before its first step. */
static int reserve(struct trainer *t, struct error *err)
{
	size_t rows = (size_t)t->options.batch_size * (size_t)t->options.grad_accumulation;
	bool draw = (double)rows * (double)t->steps <= ROWS_DRAWN;
	struct largest l = draw ? largest_drawn(t, rows) : largest_possible(t, rows);

	if (l.tokens > INT32_MAX)
		return error_set(err, ERR_USAGE,
				 "training: a step of %zu tokens is too large: set token_budget", l.tokens);
	return transformer_reserve(t->pass, (int)l.tokens, (int)l.rows, (int)l.longest, t->full != NULL, err);
}

int trainer_new(const struct trainer_options *o, struct model *m, const struct train_sequence *rows, size_t n,
		struct trainer **out, struct error *err)
{
	if (check_options(o, err) || check_rows(&m->config, rows, n, err))
		return -1;
	if (!any_label(o, rows, n)) {
		error_set(err, ERR_USAGE, "training: not one of the %zu rows has a token to learn", n);
		return error_hint(err, "is max_length so small that the completion is cut off?");
	}
	struct trainer *t = xcalloc(1, sizeof *t);
	t->options = *o;
	t->model = m;
	t->device = model_device(m);
	t->loss_scale = trainer_scales(t) ? 65536 : 1;
	t->rows = rows;
	t->nrows = (uint32_t)n;
	t->lengths = xreallocarray(NULL, n, sizeof *t->lengths);
	t->order = xreallocarray(NULL, n, sizeof *t->order);
	for (size_t i = 0; i < n; i++)
		t->lengths[i] = rows[i].n;
	sampler_init(&t->sampler, o->sampler, o->seed);
	plan_steps(t);
	int failed = o->method == METHOD_FULL ? list_weights(t, err) : list_adapter(t, err);
	if (!failed)
		failed = give_moments(t, err);
	if (!failed)
		failed = transformer_new(m, t->lora, &t->pass, err);
	if (!failed && t->device->kind != DEVICE_CPU)
		failed = reserve(t, err);
	if (failed) {
		trainer_free(t);
		return -1;
	}
	*out = t;
	return 0;
}

void trainer_free(struct trainer *t)
{
	if (!t)
		return;
	if (t->pass)
		transformer_free(t->pass);
	lora_set_free(t->lora);
	full_grads_free(t->full);
	free(t->params);
	device_free(t->device, t->moments);
	free(t->lengths);
	free(t->order);
	free(t->ids);
	free(t->targets);
	free(t->cu);
	free(t->base);
	free(t);
}
