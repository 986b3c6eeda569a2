/* How the next token is picked out of those that may follow. */
#ifndef MODEL_SAMPLING_H
#define MODEL_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

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

#endif
