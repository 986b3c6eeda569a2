/* numpy's default_rng(seed).permutation(n), bit for bit: the order in which datasets.Dataset.shuffle(seed)
 * puts rows. SeedSequence feeds PCG64 (XSL-RR 128/64; O'Neill 2014, numpy/random/_pcg64.pyx), whose numbers
 * drive a Fisher-Yates shuffle with masked rejection (random_interval in numpy/random/src/distributions). */
#ifndef DATA_SHUFFLE_H
#define DATA_SHUFFLE_H

#include <stdbool.h>
#include <stdint.h>

/* numpy's PCG64 bit generator. */
struct pcg64 {
	unsigned __int128 state;
	unsigned __int128 increment; /* odd: chooses the stream */
	bool has_half; /* half holds the high 32 bits of the last 64-bit draw made for pcg64_next32 */
	uint32_t half;
};

/* As np.random.PCG64(seed). */
void pcg64_seed(struct pcg64 *g, uint64_t seed);
uint64_t pcg64_next64(struct pcg64 *g);
/* The low half of a 64-bit draw, then on the next call its high half; pcg64_next64 leaves a waiting half
 * alone. */
uint32_t pcg64_next32(struct pcg64 *g);
/* Uniform in 0..max, both included: draws under the smallest mask 2^k-1 >= max until one fits; from 32-bit
 * draws while max < 2^32, else from 64-bit draws. */
uint64_t pcg64_interval(struct pcg64 *g, uint64_t max);

/* Fills out with the n numbers of np.random.default_rng(seed).permutation(n): out[i] is the source index of
 * the row at place i after the shuffle. */
void shuffle_permutation(uint64_t seed, uint64_t *out, uint64_t n);

#endif
