/* Training: rows in the sampler's order, gradients over packed batches, clipping, AdamW, a schedule, a loss log.
 *
 * Two recipes. RECIPE_DEFAULT is what is right: the loss of an optimizer step is the mean over exactly its labelled
 * targets, a last incomplete step of an epoch counts, a loss or gradient that is not finite is an error.
 * RECIPE_CODELAB computes what transformers 4.51.3 with trl 0.8.6, peft 0.11.1 and bitsandbytes 0.45.5 compute:
 *   - the denominator is the number of labels before the shift (one too many per row);
 *   - steps per epoch = batches / accumulation, rounded down (at least one);
 *   - an update whose gradient is not finite is skipped and the schedule waits (as GradScaler does), and such a loss is
 *     replaced by the running mean in the log (logging_nan_inf_filter; there per micro-batch, here per step).
 * In both the first update has learning rate 0 when there is a warm-up, and AdamW is bitsandbytes' form: decay after the
 * update, with the current learning rate (PyTorch's differs by O(lr^2 * decay)).
 * With fp16 activations (a GPU; the codelab's autocast) gradients carry a loss scale as GradScaler's: 65536 at first, halved
 * and the update skipped when a gradient overflows, doubled after 2000 updates without. RECIPE_DEFAULT then allows
 * gradients that are not finite while the scale is above 1.
 * Not reproduced, on any device: torch's dropout masks (they depend on the GPU's number of processors), and, with a batch
 * size above 1, transformers' remainder that is counted in rows instead of batches. On the CPU everything is fp32. */
#ifndef MODEL_TRAINER_H
#define MODEL_TRAINER_H

#include "base/str.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/schedule.h"

enum train_method {
	METHOD_QLORA, /* adapters beside a frozen base in NF4 */
	METHOD_LORA,  /* adapters beside a frozen base as stored */
	METHOD_FULL,  /* every weight, in fp32 */
};

enum recipe { RECIPE_DEFAULT, RECIPE_CODELAB };

/* One row. */
struct train_sequence {
	const int32_t *ids; /* (n) */
	int n;              /* tokens, at least 1, at most the model's max_positions */
	int label_start; /* index of the first id that is learned; 0: all (but the first, which nothing predicts) */
	int64_t row; /* what messages call it */
};

struct trainer_options {
	enum train_method method;
	enum recipe recipe;
	double epochs;         /* passes over the rows, may be a fraction; not used when max_steps is set */
	int64_t max_steps;     /* optimizer steps; 0: by epochs */
	int batch_size;        /* rows per micro-batch */
	int grad_accumulation; /* micro-batches per optimizer step */
	double learning_rate;  /* at the schedule's peak */
	double weight_decay;   /* of all but norm weights */
	double beta1, beta2, eps;
	double max_grad_norm; /* 0: no clipping */
	int64_t warmup_steps; /* 0: by warmup_ratio */
	double warmup_ratio;  /* of all steps, rounded up */
	enum schedule_kind schedule;
	enum sampler_kind sampler;
	uint64_t seed; /* of the order, the adapter's initial A and dropout */
	int lora_rank; /* these four: METHOD_QLORA and METHOD_LORA */
	double lora_alpha;
	double lora_dropout; /* [0, 1) */
	bool target[PROJ_COUNT];
	int32_t ignore_label; /* an id that is never a label (the Python stack: the pad token); -1: none */
	int token_budget; /* most tokens of one forward and backward pass; an optimizer step above it takes several
	                          * passes, with the same numbers up to fp32 summation order; 0: no limit */
	int logging_steps;    /* metrics every so many steps, and at the last one */
	int checkpoint_steps; /* 0: none but when stopped */
	int evaluate_steps;   /* 0: never */
};

/* What spec and codelab agree on: rank 8, alpha 16, dropout 0.1 on q and v, one epoch, batch 1, accumulation 2, learning
 * rate 2e-4, decay 0.001, betas 0.9 and 0.999, eps 1e-8, clip 0.3, warm-up 3 %, cosine, length-grouped, seed 42. */
struct trainer_options trainer_options_default(enum recipe recipe);
/* How model_open has to open the base for this method; double_quant is for METHOD_QLORA alone. */
struct model_options trainer_model_options(const struct trainer_options *o, bool double_quant);
/* The device and all options that the numbers depend on as "name value" lines: what a checkpoint is compared by. */
void trainer_options_text(const struct trainer_options *o, const struct device *d, struct strbuf *out);

struct train_metrics {
	int64_t step, steps;      /* optimizer steps done, and in all */
	double epoch;             /* passes over the rows done, fractional */
	double loss;              /* mean of the steps' losses since the last metrics */
	double learning_rate;     /* of the last update */
	double grad_norm;         /* of the last step, before clipping */
	double tokens_per_second; /* since the last metrics; all tokens of the rows, labelled or not */
};

struct trainer; /* a run in progress */

/* Any member may be NULL. A nonzero return of checkpoint or evaluate ends the run with their error. */
struct trainer_callbacks {
	void (*metrics)(const struct train_metrics *m, void *arg);
	void (*progress)(int64_t step, int64_t steps, void *arg); /* after every step */
	bool (*should_stop)(void *arg);                           /* asked after every step but the last */
	/* Every checkpoint_steps steps (not at the last), and before a stop: calls trainer_save. */
	int (*checkpoint)(struct trainer *t, int64_t step, void *arg, struct error *err);
	/* Every evaluate_steps steps, and at the last one when evaluate_steps is set: calls trainer_evaluate. */
	int (*evaluate)(struct trainer *t, int64_t step, void *arg, struct error *err);
	void *arg;
};

struct train_result {
	int64_t steps;      /* done, over all processes that worked at this run */
	double loss;        /* mean over all of them: transformers' train_loss */
	int64_t skipped;    /* updates skipped because of a gradient that was not finite */
	double loss_scale;  /* at the end; 1 without fp16 */
	int64_t tokens;     /* of the rows passed */
	int64_t parameters; /* trained */
	bool stopped;       /* should_stop said so; the run continues from the checkpoint */
};

/* Training runs on the device that m was opened on. Checks options and rows and makes the adapter (A random, B zero) or takes the model's weights as parameters: METHOD_FULL
 * changes m. m and the rows must outlive the trainer. Rows without a label teach nothing; that all are so is an
 * error. */
int trainer_new(const struct trainer_options *o, struct model *m, const struct train_sequence *rows, size_t n,
		struct trainer **out, struct error *err);
void trainer_free(struct trainer *t);
/* Trains to the end, or until should_stop. ERR_STAGE when the numbers stop being finite (RECIPE_DEFAULT). */
int trainer_run(struct trainer *t, const struct trainer_callbacks *cb, struct train_result *out,
		struct error *err);
/* The optimizer steps of the whole run. */
int64_t trainer_steps(const struct trainer *t);
/* The adapter, on the model's device; NULL for METHOD_FULL. Its params may be set (lora_set_write) before the first step. */
struct lora_set *trainer_adapter(struct trainer *t);
/* Mean loss per labelled token over rows, with the present parameters and without dropout; *labelled their number (0: the
 * loss is 0). */
int trainer_evaluate(struct trainer *t, const struct train_sequence *rows, size_t n, double *loss,
		     int64_t *labelled, struct error *err);

#endif
