#include "data/shuffle.h"

#define POOL 4

/* numpy's SeedSequence: the constants are those of numpy/random/bit_generator.pyx. */

static uint32_t hashmix(uint32_t v, uint32_t *hash)
{
	v ^= *hash;
	*hash *= 0x931e8875u;
	v *= *hash;
	return v ^ v >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y)
{
	uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
	return r ^ r >> 16;
}

/* Entropy is the seed's 32-bit words, low first; zeros fill the pool up, so a missing high word and one of
 * zero are the same. */
static void seed_pool(uint64_t seed, uint32_t pool[POOL])
{
	uint32_t hash = 0x43b0d7e5u;
	const uint32_t entropy[POOL] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};

	for (int i = 0; i < POOL; i++)
		pool[i] = hashmix(entropy[i], &hash);
	for (int from = 0; from < POOL; from++)
		for (int to = 0; to < POOL; to++)
			if (from != to)
				pool[to] = mix(pool[to], hashmix(pool[from], &hash));
}

static void generate_state(const uint32_t pool[POOL], uint64_t out[4])
{
	uint32_t hash = 0x8b51f9ddu;

	for (int i = 0; i < 8; i++) {
		uint32_t v = pool[i % POOL] ^ hash;
		hash *= 0x58f38dedu;
		v *= hash;
		v ^= v >> 16;
		out[i / 2] = i % 2 ? out[i / 2] | (uint64_t)v << 32 : v;
	}
}

static void step(struct pcg64 *g)
{
	const unsigned __int128 multiplier = (unsigned __int128)0x2360ed051fc65da4u << 64 |
					     0x4385df649fccf645u;
	g->state = g->state * multiplier + g->increment;
}

void pcg64_seed(struct pcg64 *g, uint64_t seed)
{
	uint32_t pool[POOL];
	uint64_t s[4];

	seed_pool(seed, pool);
	generate_state(pool, s);
	unsigned __int128 start = (unsigned __int128)s[0] << 64 | s[1];
	g->increment = ((unsigned __int128)s[2] << 64 | s[3]) << 1 | 1;
	g->state = 0;
	step(g);
	g->state += start;
	step(g);
	g->has_half = false;
	g->half = 0;
}

uint64_t pcg64_next64(struct pcg64 *g)
{
	step(g);
	uint64_t x = (uint64_t)(g->state >> 64) ^ (uint64_t)g->state;
	unsigned turn = (unsigned)(g->state >> 122);
	return x >> turn | x << (-turn & 63);
}

uint32_t pcg64_next32(struct pcg64 *g)
{
	if (g->has_half) {
		g->has_half = false;
		return g->half;
	}
	uint64_t x = pcg64_next64(g);
	g->has_half = true;
	g->half = (uint32_t)(x >> 32);
	return (uint32_t)x;
}

uint64_t pcg64_interval(struct pcg64 *g, uint64_t max)
{
	uint64_t v;

	if (max == 0)
		return 0;
	uint64_t mask = UINT64_MAX >> __builtin_clzll(max);
	do
		v = (max <= UINT32_MAX ? pcg64_next32(g) : pcg64_next64(g)) & mask;
	while (v > max);
	return v;
}

void shuffle_permutation(uint64_t seed, uint64_t *out, uint64_t n)
{
	struct pcg64 g;

	pcg64_seed(&g, seed);
	for (uint64_t i = 0; i < n; i++)
		out[i] = i;
	for (uint64_t i = n; i-- > 1;) {
		uint64_t j = pcg64_interval(&g, i), held = out[i];
		out[i] = out[j];
		out[j] = held;
	}
}
