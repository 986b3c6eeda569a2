/* qlora-train: trains an adapter beside a frozen base (or every weight), with checkpoints that resume to the bit. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/tokens.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/choice.h"
#include "model/trainer.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const char *const methods[] = {"qlora", "lora", "full", NULL};
static const char *const recipes[] = {"default", "codelab", NULL};
static const char *const schedulers[] = {"cosine", "linear", "constant", NULL};

static const struct attr_schema attrs[] = {
	{.name = "tokens",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_TOKENS,
	 .doc = "the sequences to train on"},
	{.name = "model",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_MODEL,
	 .doc = "the base model"},
	{.name = "eval",
	 .type = ATTR_INPUT,
	 .ports = PORT_TOKENS,
	 .doc = "held-out sequences: their loss is measured before and after, and every eval_steps"},
	{.name = "method",
	 .type = ATTR_CHOICE,
	 .choices = methods,
	 .fallback = "\"qlora\"",
	 .doc = "qlora: adapters beside a base quantised to NF4; lora: beside the base as stored; full: "
		"every weight"},
	{.name = "recipe",
	 .type = ATTR_CHOICE,
	 .choices = recipes,
	 .fallback = "\"default\"",
	 .doc = "codelab: the codelab's Python stack quirk by quirk (denominators one token a row too large, "
		"steps rounded down, "
		"weights through fp16 before NF4, \"gelu\" as the config spells it, and on a GPU fp16 with "
		"loss "
		"scaling)"},
	{.name = "r",
	 .type = ATTR_INT,
	 .fallback = "8",
	 .min = 1,
	 .max = 4096,
	 .doc = "rank of the adapters"},
	{.name = "alpha",
	 .type = ATTR_FLOAT,
	 .fallback = "16",
	 .min = 1e-6,
	 .max = 1e6,
	 .doc = "their scale is alpha / r"},
	{.name = "dropout",
	 .type = ATTR_FLOAT,
	 .fallback = "0.1",
	 .min = 0,
	 .max = 0.99,
	 .doc = "of the adapters' input; masks depend on seed, step and place alone"},
	{.name = "targets",
	 .type = ATTR_STRINGS,
	 .fallback = "[\"q_proj\", \"v_proj\"]",
	 .doc = "projections with an adapter: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"},
	{.name = "double_quant",
	 .type = ATTR_BOOL,
	 .fallback = "false",
	 .doc = "qlora: quantise the quantisation's scales too"},
	{.name = "epochs",
	 .type = ATTR_FLOAT,
	 .fallback = "1",
	 .min = 1e-6,
	 .max = 1e6,
	 .doc = "passes over the sequences"},
	{.name = "max_steps",
	 .type = ATTR_INT,
	 .fallback = "0",
	 .max = 1e12,
	 .doc = "optimizer steps; 0: by epochs"},
	{.name = "batch_size",
	 .type = ATTR_INT,
	 .fallback = "1",
	 .min = 1,
	 .max = 65536,
	 .doc = "sequences in a micro-batch"},
	{.name = "gradient_accumulation",
	 .type = ATTR_INT,
	 .fallback = "1",
	 .min = 1,
	 .max = 65536,
	 .doc = "micro-batches in an optimizer step"},
	{.name = "eval_batch_size",
	 .type = ATTR_INT,
	 .flags = ATTR_UNKEYED,
	 .fallback = "2",
	 .min = 1,
	 .max = 65536,
	 .doc = "accepted for the codelab's sake: sequences are packed by token_budget, and the result is "
		"the same"},
	{.name = "learning_rate",
	 .type = ATTR_FLOAT,
	 .fallback = "2e-4",
	 .min = 1e-12,
	 .max = 10,
	 .doc = "at its peak"},
	{.name = "weight_decay",
	 .type = ATTR_FLOAT,
	 .fallback = "0.001",
	 .min = 0,
	 .max = 1,
	 .doc = "of AdamW, after the update (bitsandbytes' form)"},
	{.name = "beta1",
	 .type = ATTR_FLOAT,
	 .fallback = "0.9",
	 .min = 0,
	 .max = 0.9999999,
	 .doc = "of AdamW"},
	{.name = "beta2",
	 .type = ATTR_FLOAT,
	 .fallback = "0.999",
	 .min = 0,
	 .max = 0.9999999,
	 .doc = "of AdamW"},
	{.name = "epsilon",
	 .type = ATTR_FLOAT,
	 .fallback = "1e-8",
	 .min = 1e-30,
	 .max = 1,
	 .doc = "of AdamW"},
	{.name = "max_grad_norm",
	 .type = ATTR_FLOAT,
	 .fallback = "0.3",
	 .min = 0,
	 .max = 1e9,
	 .doc = "gradients are scaled down to this norm; 0: never"},
	{.name = "warmup_ratio",
	 .type = ATTR_FLOAT,
	 .fallback = "0.03",
	 .min = 0,
	 .max = 1,
	 .doc = "of all steps, rounded up; the first one has learning rate 0"},
	{.name = "warmup_steps",
	 .type = ATTR_INT,
	 .fallback = "0",
	 .max = 1e12,
	 .doc = "instead of warmup_ratio"},
	{.name = "scheduler",
	 .type = ATTR_CHOICE,
	 .choices = schedulers,
	 .fallback = "\"cosine\"",
	 .doc = "of the learning rate after the warm-up"},
	{.name = "group_by_length",
	 .type = ATTR_BOOL,
	 .fallback = "true",
	 .doc = "sequences of like length together, in transformers' order; false: its random order"},
	{.name = "seed",
	 .type = ATTR_INT,
	 .fallback = "42",
	 .max = 9007199254740992.0,
	 .doc = "of the order, the adapters' start and dropout"},
	{.name = "token_budget",
	 .type = ATTR_INT,
	 .fallback = "8192",
	 .min = 1,
	 .max = 1e9,
	 .doc = "tokens in one pass at most: a larger optimizer step takes several, with the same numbers "
		"but for the order of "
		"sums"},
	{.name = "device",
	 .type = ATTR_CHOICE,
	 .choices = choice_devices,
	 .fallback = "\"auto\"",
	 .doc = "auto: a GPU when this build and machine have one, else the CPU (the log says which)"},
	{.name = "precision",
	 .type = ATTR_CHOICE,
	 .choices = choice_precisions,
	 .fallback = "\"auto\"",
	 .doc = "of products and activations: the CPU's is fp32; auto on a GPU: bf16, or fp16 with loss "
		"scaling for recipe codelab"},
	{.name = "weights",
	 .type = ATTR_CHOICE,
	 .choices = choice_weights,
	 .fallback = "\"auto\"",
	 .doc = "qlora: nf4: dequantised where they are used; resident: once, and kept (the same numbers, "
		"faster on cards with much memory); auto: by the card's memory and bandwidth"},
	{.name = "logging_steps",
	 .type = ATTR_INT,
	 .flags = ATTR_UNKEYED,
	 .fallback = "10",
	 .min = 1,
	 .max = 1e9,
	 .doc = "optimizer steps between two points of the metrics"},
	{.name = "eval_steps",
	 .type = ATTR_INT,
	 .flags = ATTR_UNKEYED,
	 .fallback = "0",
	 .max = 1e9,
	 .doc = "steps between two measurements on eval; 0: only before and after"},
	{.name = "checkpoint_seconds",
	 .type = ATTR_FLOAT,
	 .flags = ATTR_UNKEYED,
	 .fallback = "30",
	 .min = 0,
	 .max = 86400,
	 .doc = "seconds between two checkpoints; 0: after every step"},
	{0},
};

static const struct output_schema outputs[] = {
	{"adapter", PORT_ADAPTER,
	 "a PEFT adapter (adapter_config.json, adapter_model.safetensors); method full: docs/formats.md"},
	{0},
};

static const char *check(const struct stage_node *node, const char **attr)
{
	const struct value *targets = stage_attr(node, "targets");

	const char *precision = stage_attr(node, "precision")->str;

	if (strcmp(stage_attr(node, "device")->str, "cpu") == 0 && strcmp(precision, "auto") != 0 &&
	    strcmp(precision, "fp32") != 0) {
		*attr = "precision";
		return "the CPU computes in fp32; use \"auto\" or \"fp32\"";
	}
	*attr = "targets";
	if (targets->list.n == 0)
		return "at least one projection has to be trained";
	for (size_t i = 0; i < targets->list.n; i++)
		if (proj_of(targets->list.items[i]) < 0)
			return "the projections are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and "
			       "down_proj";
	*attr = NULL;
	return NULL;
}

/* ---- sequences ---- */

struct sequences {
	struct tokens *file;
	struct train_sequence *items; /* ids point into file */
	size_t n;
};

static void sequences_close(struct sequences *s)
{
	free(s->items);
	tokens_close(s->file);
}

static int sequences_open(const char *path, const struct model_config *c, struct sequences *out,
			  struct error *err)
{
	out->items = NULL;
	out->file = tokens_open(path, err);
	if (!out->file)
		return -1;
	out->n = tokens_count(out->file);
	out->items = xcalloc(out->n, sizeof *out->items);
	for (size_t i = 0; i < out->n; i++) {
		struct tokens_item t;
		if (tokens_get(out->file, i, &t, err))
			return -1;
		for (uint32_t k = 0; k < t.n; k++)
			if (t.ids[k] < 0 || t.ids[k] >= c->vocab_size)
				return error_set(err, ERR_USAGE,
						 "row %llu has the token id %d, but the model's vocabulary "
						 "has %d tokens",
						 (unsigned long long)t.id, t.ids[k], c->vocab_size);
		out->items[i] = (struct train_sequence){t.ids, (int)t.n, (int)t.label_start, (int64_t)t.id};
	}
	return 0;
}

/* ---- the run ---- */

struct job {
	struct stage_ctx *ctx;
	struct sequences eval;
	double checkpoint_seconds;
	double checkpoint_due; /* clock_mono */
	double first_loss, last_loss;
	bool any_loss, resumed;
	double eval_before, eval_after; /* loss on eval; valid where eval.n > 0 */
};

static void on_metrics(const struct train_metrics *m, void *arg)
{
	struct job *job = arg;

	ctx_metric(job->ctx, m->step, "loss", m->loss);
	ctx_metric(job->ctx, m->step, "learning_rate", m->learning_rate);
	ctx_metric(job->ctx, m->step, "grad_norm", m->grad_norm);
	ctx_metric(job->ctx, m->step, "tokens_per_second", m->tokens_per_second);
	ctx_metric(job->ctx, m->step, "epoch", m->epoch);
	if (!job->any_loss)
		job->first_loss = m->loss;
	job->last_loss = m->loss;
	job->any_loss = true;
}

static void on_progress(int64_t step, int64_t steps, void *arg)
{
	struct job *job = arg;
	ctx_progress(job->ctx, (uint64_t)step, (uint64_t)steps, "steps");
}

static bool should_stop(void *arg)
{
	struct job *job = arg;
	return ctx_stopping(job->ctx);
}

static int on_checkpoint(struct trainer *t, int64_t step, void *arg, struct error *err)
{
	struct job *job = arg;
	const double now = clock_mono();

	/* The trainer offers every step; what is kept goes by the clock, for it costs the same whatever a step costs. */
	if (!ctx_stopping(job->ctx) && now < job->checkpoint_due)
		return 0;
	char *path = path_join(ctx_scratch(job->ctx), "checkpoint.safetensors");
	int failed = trainer_save(t, path, err) || ctx_checkpoint_save(job->ctx, step, path, err);
	free(path);
	job->checkpoint_due = clock_mono() + job->checkpoint_seconds;
	return failed ? -1 : 0;
}

static int evaluate(struct trainer *t, int64_t step, void *arg, struct error *err)
{
	struct job *job = arg;
	int64_t labelled;
	double loss;

	if (!job->eval.n)
		return 0;
	if (trainer_evaluate(t, job->eval.items, job->eval.n, &loss, &labelled, err))
		return error_context(err, "eval");
	ctx_metric(job->ctx, step, "eval_loss", loss);
	if (step == 0)
		job->eval_before = loss;
	job->eval_after = loss;
	return 0;
}

static int choose(const char *const *names, const char *name)
{
	int i = 0;
	while (strcmp(names[i], name) != 0)
		i++;
	return i;
}

static struct trainer_options read_options(const struct stage_ctx *ctx)
{
	static const enum train_method method[] = {METHOD_QLORA, METHOD_LORA, METHOD_FULL};
	static const enum recipe recipe[] = {RECIPE_DEFAULT, RECIPE_CODELAB};
	struct trainer_options o = trainer_options_default(recipe[choose(recipes, ctx_str(ctx, "recipe"))]);
	size_t n;

	o.method = method[choose(methods, ctx_str(ctx, "method"))];
	o.epochs = ctx_float(ctx, "epochs");
	o.max_steps = ctx_int(ctx, "max_steps");
	o.batch_size = (int)ctx_int(ctx, "batch_size");
	o.grad_accumulation = (int)ctx_int(ctx, "gradient_accumulation");
	o.learning_rate = ctx_float(ctx, "learning_rate");
	o.weight_decay = ctx_float(ctx, "weight_decay");
	o.beta1 = ctx_float(ctx, "beta1");
	o.beta2 = ctx_float(ctx, "beta2");
	o.eps = ctx_float(ctx, "epsilon");
	o.max_grad_norm = ctx_float(ctx, "max_grad_norm");
	o.warmup_steps = ctx_int(ctx, "warmup_steps");
	o.warmup_ratio = ctx_float(ctx, "warmup_ratio");
	schedule_kind_of(ctx_str(ctx, "scheduler"), &o.schedule);
	o.sampler = ctx_bool(ctx, "group_by_length") ? SAMPLER_LENGTH_GROUPED : SAMPLER_RANDOM;
	o.seed = (uint64_t)ctx_int(ctx, "seed");
	o.lora_rank = (int)ctx_int(ctx, "r");
	o.lora_alpha = ctx_float(ctx, "alpha");
	o.lora_dropout = ctx_float(ctx, "dropout");
	memset(o.target, 0, sizeof o.target);
	const char *const *targets = ctx_list(ctx, "targets", &n);
	for (size_t i = 0; i < n; i++)
		o.target[proj_of(targets[i])] = true;
	o.token_budget = (int)ctx_int(ctx, "token_budget");
	o.logging_steps = (int)ctx_int(ctx, "logging_steps");
	o.evaluate_steps = (int)ctx_int(ctx, "eval_steps");
	o.checkpoint_steps = 1; /* see on_checkpoint */
	return o;
}

/* Puts t where the newest checkpoint of this key stood, if there is one. A damaged one costs time, not the run. */
static bool resume(struct stage_ctx *ctx, struct trainer *t)
{
	struct error why = ERROR_INIT;
	int64_t step;
	const char *path = ctx_checkpoint(ctx, &step);

	if (!path)
		return false;
	if (trainer_restore(t, path, &why)) {
		ctx_log(ctx, LOG_WARNING,
			"the checkpoint of step %lld is not usable, training starts anew: %s",
			(long long)step, why.message);
		return false;
	}
	ctx_log(ctx, LOG_INFO, "resuming at step %lld of %lld", (long long)step, (long long)trainer_steps(t));
	return true;
}

static void report(struct job *job, const struct device *d, const struct train_result *r, double seconds)
{
	struct rusage usage;
	char text[24];

	summary_count(job->ctx, "steps", (uint64_t)r->steps);
	summary_count(job->ctx, "trained parameters", (uint64_t)r->parameters);
	ctx_summary(job->ctx, "device", "%s", d->ops->name);
	if (job->any_loss) {
		if (!job->resumed) /* the first one belongs to the attempt that began */
			ctx_summary(job->ctx, "first loss", "%.4f", job->first_loss);
		ctx_summary(job->ctx, "last loss", "%.4f", job->last_loss);
	}
	if (job->eval.n) {
		ctx_summary(job->ctx, "held-out loss before", "%.4f", job->eval_before);
		ctx_summary(job->ctx, "after", "%.4f", job->eval_after);
	}
	if (r->skipped)
		summary_count(job->ctx, "skipped updates", (uint64_t)r->skipped);
	if (seconds > 0)
		summary_count(job->ctx, "tokens/s", (uint64_t)((double)r->tokens / seconds));
	getrusage(RUSAGE_SELF, &usage);
	format_bytes((uint64_t)usage.ru_maxrss << 10, text);
	ctx_summary(job->ctx, "peak memory", "%s", text);
	if (d->kind != DEVICE_CPU) {
		uint64_t now, peak;

		device_memory_used(d, &now, &peak);
		format_bytes(peak, text);
		ctx_summary(job->ctx, "of the GPU", "%s", text);
	}
	if (d->act == DTYPE_F16)
		ctx_summary(job->ctx, "loss scale", "%g", r->loss_scale);
}

/* What training takes of a GPU, all of it planned before the first step. */
static void log_memory(struct stage_ctx *ctx, const struct model *m)
{
	uint64_t now, peak;
	char weights[16], all[16];

	if (model_device(m)->kind == DEVICE_CPU)
		return;
	device_memory_used(model_device(m), &now, &peak);
	format_bytes(model_bytes(m), weights);
	format_bytes(now, all);
	ctx_log(ctx, LOG_INFO, "memory: %s, %s of it weights", all, weights);
}

static int train(struct stage_ctx *ctx, const struct trainer_options *o, struct model *m,
		 const struct sequences *rows, struct job *job, struct error *err)
{
	const struct trainer_callbacks callbacks = {on_metrics,    on_progress, should_stop,
						    on_checkpoint, evaluate,    job};
	const char *out = ctx_output(ctx, "adapter");
	struct trainer *t;
	struct train_result result;
	char base[DIGEST_TEXT_SIZE];
	struct digest digest;

	if (trainer_new(o, m, rows->items, rows->n, &t, err))
		return -1;
	log_memory(ctx, m);
	if (evaluate(t, 0, job, err))
		goto fail;
	job->resumed = resume(ctx, t);
	double start = clock_mono();
	if (trainer_run(t, &callbacks, &result, err))
		goto fail;
	if (result.stopped) {
		error_set(err, ERR_INTERRUPTED, "stopped at step %lld of %lld", (long long)result.steps,
			  (long long)trainer_steps(t));
		error_hint(err, "the next run goes on from there");
		goto fail;
	}
	const double seconds = clock_mono() - start;
	ctx_input_digest(ctx, "model", &digest);
	digest_text(&digest, base);
	if (evaluate(t, result.steps, job, err) ||
	    (o->method == METHOD_FULL ? adapter_write_full(out, m, base, err)
				      : adapter_write(out, trainer_adapter(t), base, o->lora_dropout, err)))
		goto fail;
	report(job, model_device(m), &result, job->resumed ? 0 : seconds);
	trainer_free(t);
	return 0;
fail:
	trainer_free(t);
	return -1;
}

/* The device and how the model stands in its memory, told to the log. */
static int choose_device(struct stage_ctx *ctx, const struct trainer_options *o, struct device_choice *c,
			 struct model_options *how, struct error *err)
{
	struct model_config config;
	char text[160];

	if (model_config_read(ctx_input(ctx, "model"), how->gelu, &config, err) ||
	    device_choose(ctx_str(ctx, "device"), ctx_str(ctx, "precision"), o->recipe == RECIPE_CODELAB, c,
			  err))
		return -1;
	ctx_log(ctx, LOG_INFO, "training %s", c->text);
	how->device = c->device;
	if (o->method == METHOD_QLORA) {
		how->resident = weights_choose(ctx_str(ctx, "weights"), c, &config, text);
		if (c->device->kind != DEVICE_CPU)
			ctx_log(ctx, LOG_INFO, "%s", text);
	}
	return 0;
}

static int train_on(struct stage_ctx *ctx, struct trainer_options *o, const struct model_options *how,
		    struct error *err)
{
	struct sequences rows = {0};
	struct job job = {.ctx = ctx,
			  .checkpoint_seconds = ctx_float(ctx, "checkpoint_seconds"),
			  .checkpoint_due = clock_mono() + ctx_float(ctx, "checkpoint_seconds")};
	struct model *m;
	int failed = -1;

	if (model_open(ctx_input(ctx, "model"), how, NULL, NULL, &m, err))
		return -1;
	if (sequences_open(ctx_input(ctx, "tokens"), &m->config, &rows, err) == 0 &&
	    (!ctx_input(ctx, "eval") ||
	     sequences_open(ctx_input(ctx, "eval"), &m->config, &job.eval, err) == 0)) {
		/* The codelab's pad token is its end-of-sequence token, which is therefore never a label. */
		if (o->recipe == RECIPE_CODELAB && m->config.n_eos)
			o->ignore_label = m->config.eos[0];
		failed = train(ctx, o, m, &rows, &job, err);
	}
	sequences_close(&rows);
	sequences_close(&job.eval);
	model_free(m);
	return failed;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	struct trainer_options o = read_options(ctx);
	struct model_options how = trainer_model_options(&o, ctx_bool(ctx, "double_quant"));
	struct device_choice choice = {0};
	int failed = choose_device(ctx, &o, &choice, &how, err) || train_on(ctx, &o, &how, err) ? -1 : 0;

	device_close(choice.device);
	return failed;
}

const struct stage_kind stage_qlora_train = {
	.schema = {.name = "qlora-train",
		   .version = 2,
		   .doc = "Trains LoRA adapters beside a frozen (NF4) base model, or the whole model",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
