/* Continuing a prompt: sampling and stopping. */
#ifndef MODEL_GENERATE_H
#define MODEL_GENERATE_H

#include "model/sampling.h"
#include "model/transformer.h"

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_ABORTED };

/* Called with every new id, not with the one that stops; nonzero ends the answer (FINISH_ABORTED). */
typedef int token_callback(int32_t id, void *arg);

/* One answer in the making. Who continues several sequences in one pass asks each what to feed, and gives each what the
 * pass made of that. */
struct continuation {
	const struct model_config *config;
	const struct sampling *sampling;
	const int32_t *prompt; /* (n) */
	int n, slot;
	int fed;        /* tokens of the prompt that are in the slot */
	int made, most; /* ids; at most so many: max_tokens, or what the cache has room for */
	int32_t id;     /* the last one, to be fed next */
	uint64_t state; /* of the random numbers */
};

enum step {
	STEP_PROMPT, /* the prompt goes on, there is no id yet */
	STEP_TOKEN,  /* id is the answer's next */
	STEP_LAST,   /* and its last: max_tokens, or the cache's capacity, is used up */
	STEP_STOP,   /* id ends the answer and is not part of it */
};

/* For an empty slot of k; s and prompt (n ids, at least 1) must outlive g. */
int continuation_begin(struct continuation *g, const struct transformer *t, const struct kv_cache *k,
		       int slot, const int32_t *prompt, int n, const struct sampling *s, struct error *err);
/* What to feed next: of the prompt at most `most` tokens (n is 0 when that is 0), or the last id. */
struct decode_item continuation_feed(const struct continuation *g, int most);
/* Whether the pass that feeds so many of the prompt's tokens, or the last id, is to give an id. */
bool continuation_wants(const struct continuation *g, const struct decode_item *fed);
/* What transformer_decode made of the item: logits (vocab), which are overwritten, where the sampling's temperature is
 * above 0, else chosen. */
enum step continuation_take(struct continuation *g, const struct decode_item *fed, float *logits,
			    int32_t chosen);

/* Feeds prompt (n ids, at least 1) to an empty slot and samples until stop, max_tokens or the end of the cache's
 * capacity (FINISH_LENGTH). */
int generate(struct transformer *t, struct kv_cache *k, int slot, const int32_t *prompt, int n,
	     const struct sampling *s, token_callback *emit, void *arg, enum finish *finish,
	     struct error *err);

/* Whether id ends an answer: one of the model's eos ids (unless ignored), or of s's stop ids. */
bool sampling_stops(const struct model_config *c, const struct sampling *s, int32_t id);

/* One id out of logits (vocab); *state is the generator's state, seeded with sampling.seed. logits are overwritten. */
int32_t sample_token(float *logits, int vocab, const struct sampling *s, uint64_t *state);

#endif
