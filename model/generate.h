/* Continuing a prompt: sampling and stopping. */
#ifndef MODEL_GENERATE_H
#define MODEL_GENERATE_H

#include "model/transformer.h"

struct sampling {
	int max_tokens;      /* at least 1 */
	float temperature;   /* 0: greedy (the lowest id among equals) */
	float top_p;         /* (0, 1]; 1: all */
	int top_k;           /* 0: all */
	uint64_t seed;       /* the same seed, prompt and model give the same tokens */
	const int32_t *stop; /* ids that end the answer beside the model's eos ids */
	int nstop;
	bool ignore_eos;
};

/* {128, 0, 1, 0, 0, NULL, 0, false} */
struct sampling sampling_default(void);

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_ABORTED };

/* Called with every new id, not with the one that stops; nonzero ends the answer (FINISH_ABORTED). */
typedef int token_callback(int32_t id, void *arg);

/* Feeds prompt (n ids, at least 1) to an empty slot and samples until stop, max_tokens or the end of the cache's
 * capacity (FINISH_LENGTH). */
int generate(struct transformer *t, struct kv_cache *k, int slot, const int32_t *prompt, int n,
	     const struct sampling *s, token_callback *emit, void *arg, enum finish *finish,
	     struct error *err);

/* One id out of logits (vocab); *state is the generator's state, seeded with sampling.seed. logits are overwritten. */
int32_t sample_token(float *logits, int vocab, const struct sampling *s, uint64_t *state);

#endif
