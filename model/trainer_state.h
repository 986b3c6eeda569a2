/* What a trainer is made of: shared by trainer.c, which moves it, and checkpoint.c, which keeps it. */
#ifndef MODEL_TRAINER_STATE_H
#define MODEL_TRAINER_STATE_H

#include "model/trainer.h"
#include "model/transformer.h"

/* One trained tensor. */
struct parameter {
	char name[128];      /* as in adapter_model.safetensors, or in the model's own file for METHOD_FULL */
	float *value, *grad; /* these and Adam's moments are in the device's memory */
	float *m, *v;
	size_t count;
	int rows, cols; /* (rows, cols), or a vector when cols is 0 */
	bool decay;
};

struct trainer {
	struct trainer_options options;
	struct model *model;
	struct device *device; /* the model's */
	const struct train_sequence *rows;
	uint32_t nrows;
	int32_t *lengths; /* (nrows) for the sampler */

	struct lora_set *lora;   /* NULL for METHOD_FULL */
	struct full_grads *full; /* METHOD_FULL */
	struct transformer *pass;
	struct parameter *params;
	size_t nparams;
	float *grads;   /* every gradient, in the order of params; owned by lora or full */
	float *moments; /* every m, then every v */
	size_t count;   /* values trained */
	int64_t steps_per_epoch, steps;
	struct schedule schedule;

	/* the state that a checkpoint holds, beside the parameters and moments */
	int64_t step;           /* optimizer steps done, skipped ones included */
	int64_t updates;        /* Adam's t: without skipped ones; also the position of the schedule */
	int64_t epoch;          /* the one in progress */
	uint32_t cursor;        /* rows of it that are done */
	struct sampler sampler; /* as it stood before this epoch's order was drawn */
	double loss_logged;     /* sum of the steps' losses since the last metrics */
	int64_t steps_logged;   /* their number */
	double loss_total;      /* the same since the beginning of the run */
	int64_t tokens, skipped;
	double loss_scale;  /* fp16 activations: gradients come multiplied by it; else 1 */
	int64_t scale_held; /* updates since it last changed */

	/* made again from that */
	uint32_t *order;                    /* (nrows) of this epoch */
	bool ordered;                       /* order is filled in */
	struct sampler after;               /* the sampler after this epoch's draw */
	double grad_norm, learning_rate;    /* of the last step */
	int32_t *ids, *targets, *cu, *base; /* scratch of one pass */
	size_t ids_cap, targets_cap, cu_cap, base_cap;
};

/* Draws the order of the epoch in progress unless that is done. */
void trainer_draw_order(struct trainer *t);

/* Whether activations are fp16, whose gradients need a loss scale. */
bool trainer_scales(const struct trainer *t);

#endif
