/* In which order an epoch visits the rows: bit for bit what transformers 4.51.3 with torch 2.3.0 and
 * accelerate 1.6.0 does on one device, by replaying torch's CPU generator. */
#ifndef MODEL_SAMPLER_H
#define MODEL_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* torch's CPU generator: mt19937 (Matsumoto & Nishimura 1998), 32-bit. */
struct mt19937 {
	uint32_t state[624];
	uint32_t next; /* the word of state to give next, 0 … 624; 624: all are used up */
};

/* torch.manual_seed: the low 32 bits of seed count. */
void mt19937_seed(struct mt19937 *g, uint64_t seed);
/* torch's random(): the next output. */
uint32_t mt19937_u32(struct mt19937 *g);
/* torch's random64(): two outputs, the first one in the high half. */
uint64_t mt19937_u64(struct mt19937 *g);
/* torch.randperm(n): out (n). n below 214,748,364, where torch changes its method. */
void mt19937_randperm(struct mt19937 *g, uint32_t *out, uint32_t n);

/* The largest number of rows that a sampler orders. */
#define SAMPLER_MAX_ROWS 214748363

enum sampler_kind {
	/* group_by_length = true: the DataLoader's iterator draws its base seed (one random64), then
	 * LengthGroupedSampler: randperm, megabatches of min(n / (4 * batch), 50) batches (at least one),
	 * each sorted by falling length (stable), and the longest row of all swapped to the front. The
	 * generator, seeded once, continues from epoch to epoch. */
	SAMPLER_LENGTH_GROUPED,
	/* group_by_length = false: accelerate's SeedableRandomSampler, which transformers asks for by
	 * default: in epoch e, randperm of a fresh generator seeded with seed + e. */
	SAMPLER_RANDOM,
	SAMPLER_SEQUENTIAL, /* 0, 1, 2 … */
};

const char *sampler_kind_name(enum sampler_kind k); /* "length-grouped", "random", "sequential" */

struct sampler {
	enum sampler_kind kind;
	uint64_t seed;
	struct mt19937 generator; /* SAMPLER_LENGTH_GROUPED: as it stands before the next epoch */
};

void sampler_init(struct sampler *s, enum sampler_kind kind, uint64_t seed);
/* order (n) = the rows of epoch (0, 1, 2 …; every epoch once and in turn). lengths (n) in tokens; batch =
 * rows of one optimizer step (batch size * accumulation), both for SAMPLER_LENGTH_GROUPED. n from 1 to
 * SAMPLER_MAX_ROWS. */
void sampler_epoch(struct sampler *s, int64_t epoch, const int32_t *lengths, uint32_t n, uint32_t batch,
		   uint32_t *order);

#endif
