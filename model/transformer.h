/* The forward and backward pass over packed sequences, and decoding with a key/value cache, on the model's device. The
 * residual stream, norms, softmax and loss are fp32; what products read and write is in the device's activation dtype
 * (the CPU's is fp32); matrices are read in their own dtype. All reductions have a fixed order: the same input gives the
 * same bytes on the same kind of device, whatever the number of threads. */
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

/* lora may be NULL, and is on the model's device. Both must outlive the transformer. */
int transformer_new(const struct model *m, const struct lora_set *lora, struct transformer **out,
		    struct error *err);
void transformer_free(struct transformer *t);
/* Bytes of activations now held. */
uint64_t transformer_bytes(const struct transformer *t);
/* Makes room now for training passes of up to `tokens` tokens in `sequences` sequences of at most `positions` tokens: all
 * that such passes take, so that no later one fails for want of memory. full: with gradients of every weight. */
int transformer_reserve(struct transformer *t, int tokens, int sequences, int positions, bool full,
			struct error *err);

/* Logits (tokens, vocab) fp32 of every position: for tests and small models. */
int transformer_logits(struct transformer *t, const struct batch *b, float *logits, struct error *err);

/* *loss_sum = sum over labelled positions of -log softmax(logits)[target], summed in fp64 in token order;
 * *labelled = their number. The vocabulary projection runs in chunks over labelled rows only. Forward alone. */
int transformer_loss(struct transformer *t, const struct batch *b, double *loss_sum, int64_t *labelled,
		     struct error *err);

/* Two doubles in the device's memory, for sums that stay there until somebody downloads them. transformer_train adds its
 * loss_sum to the first; the second is the caller's. */
double *transformer_sums(struct transformer *t);

/* The same, and adds grad_scale * d(loss_sum)/d(parameter) to lora's gradients and, when full is not NULL, to
 * full's. At least one of lora (with gradients) and full must be there. drop may be NULL. loss_sum may be NULL: then the
 * loss is only added to transformer_sums, and nothing waits for the device; else those sums begin anew. */
int transformer_train(struct transformer *t, const struct batch *b, const struct dropout *drop,
		      float grad_scale, struct full_grads *full, double *loss_sum, int64_t *labelled,
		      struct error *err);

/* ---- decoding ---- */

/* Keys and values of up to slots sequences of up to capacity tokens each, on one device. */
struct kv_cache;
int kv_cache_new(struct device *d, const struct model_config *c, int slots, int capacity,
		 struct kv_cache **out, struct error *err);
void kv_cache_free(struct kv_cache *k);
void kv_cache_reset(struct kv_cache *k, int slot);       /* the slot holds no tokens */
int kv_cache_length(const struct kv_cache *k, int slot); /* tokens held */

/* More tokens for one slot. */
struct decode_item {
	int slot;
	int n;              /* at least 1 */
	const int32_t *ids; /* (n) */
};

/* Feeds every item's ids to its slot, all in one pass: prompts and single tokens of several sequences may stand side by
 * side; no slot twice. logits (count, vocab), chosen (count): of each item's last token, the logits and the id of the
 * largest one (the lowest of equals), on the host; either may be NULL. ERR_USAGE when a slot would overflow: nothing is fed
 * then. The numbers do not depend on how ids are cut into calls, nor on the other items, but for rounding. */
int transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items, int count,
		       float *logits, int32_t *chosen, struct error *err);

/* Makes room now for passes over this cache of up to `tokens` tokens of up to `count` items, so that no later one fails for
 * want of memory. ERR_USAGE when a pass does not take so many items. */
int transformer_reserve_decode(struct transformer *t, const struct kv_cache *k, int tokens, int count,
			       struct error *err);

#endif
