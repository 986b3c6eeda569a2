/* The forward and backward pass over packed sequences, and decoding with a key/value cache. Everything between the
 * embedding and the loss is fp32 on the CPU; matrices are read in their own dtype. All reductions have a fixed order:
 * the same input gives the same bytes whatever the number of threads. */
#ifndef MODEL_TRANSFORMER_H
#define MODEL_TRANSFORMER_H

#include "model/model.h"

/* Sequences packed back to back, never padded; attention stays within a sequence, positions start at 0 in each. */
struct batch {
	int tokens; /* all sequences together */
	int sequences;
	const int32_t *ids;        /* (tokens) */
	const int32_t *cu_seqlens; /* (sequences + 1): sequence i is [cu_seqlens[i], cu_seqlens[i + 1]) */
	const int32_t
		*targets; /* (tokens): the id to predict AT this position (already shifted), -1: no label */
};

struct dropout {
	float p;       /* of LoRA's input; 0: none. Kept values are scaled by 1 / (1 - p) */
	uint64_t seed; /* Philox-4x32-10 key; the counter is (step, layer and projection, token, channel) */
	uint64_t step; /* optimizer step */
	const int32_t *
		token_base; /* (sequences): the index in the optimizer step of each sequence's first token, so that
	                            * the mask does not depend on how the step is cut into passes; NULL: cu_seqlens */
};

struct transformer; /* a workspace for one model: grows to the largest batch seen */

/* lora may be NULL. Both must outlive the transformer. */
int transformer_new(const struct model *m, const struct lora_set *lora, struct transformer **out,
		    struct error *err);
void transformer_free(struct transformer *t);
/* Bytes of activations and scratch now held. */
uint64_t transformer_bytes(const struct transformer *t);

/* Logits (tokens, vocab) fp32 of every position: for tests and small models. */
int transformer_logits(struct transformer *t, const struct batch *b, float *logits, struct error *err);

/* *loss_sum = sum over labelled positions of -log softmax(logits)[target], summed in fp64 in token order;
 * *labelled = their number. The vocabulary projection runs in chunks over labelled rows only. Forward alone. */
int transformer_loss(struct transformer *t, const struct batch *b, double *loss_sum, int64_t *labelled,
		     struct error *err);

/* The same, and adds grad_scale * d(loss_sum)/d(parameter) to lora's gradients and, when full is not NULL, to
 * full's. At least one of lora (with gradients) and full must be there. drop may be NULL. */
int transformer_train(struct transformer *t, const struct batch *b, const struct dropout *drop,
		      float grad_scale, struct full_grads *full, double *loss_sum, int64_t *labelled,
		      struct error *err);

/* ---- decoding ---- */

/* Keys and values of up to slots sequences of up to capacity tokens each. */
struct kv_cache;
int kv_cache_new(const struct model_config *c, int slots, int capacity, struct kv_cache **out,
		 struct error *err);
void kv_cache_free(struct kv_cache *k);
void kv_cache_reset(struct kv_cache *k, int slot);       /* the slot holds no tokens */
int kv_cache_length(const struct kv_cache *k, int slot); /* tokens held */

/* Feeds n ids to slot and writes the logits (vocab) of the last one. ERR_USAGE when the slot would overflow. Prefill and
 * single steps alike; n ids at once give the same numbers as one at a time to within fp32 rounding. */
int transformer_decode(struct transformer *t, struct kv_cache *k, int slot, const int32_t *ids, int n,
		       float *logits, struct error *err);

#endif
