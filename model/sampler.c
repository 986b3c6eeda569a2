#include "model/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define N 624
#define M 397

void mt19937_seed(struct mt19937 *g, uint64_t seed)
{
	g->state[0] = (uint32_t)seed;
	for (uint32_t i = 1; i < N; i++)
		g->state[i] = 1812433253u * (g->state[i - 1] ^ g->state[i - 1] >> 30) + i;
	g->next = N;
}

static uint32_t twist(uint32_t upper, uint32_t lower, uint32_t far)
{
	uint32_t mixed = (upper & 0x80000000u) | (lower & 0x7fffffffu);

	return far ^ mixed >> 1 ^ (lower & 1 ? 0x9908b0dfu : 0);
}

uint32_t mt19937_u32(struct mt19937 *g)
{
	if (g->next >= N) {
		for (int i = 0; i < N; i++)
			g->state[i] = twist(g->state[i], g->state[(i + 1) % N], g->state[(i + M) % N]);
		g->next = 0;
	}
	uint32_t y = g->state[g->next++];
	y ^= y >> 11;
	y ^= y << 7 & 0x9d2c5680u;
	y ^= y << 15 & 0xefc60000u;
	return y ^ y >> 18;
}

uint64_t mt19937_u64(struct mt19937 *g)
{
	uint64_t high = mt19937_u32(g);

	return high << 32 | mt19937_u32(g);
}

void mt19937_randperm(struct mt19937 *g, uint32_t *out, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = i;
	for (uint32_t i = 0; i + 1 < n; i++) {
		uint32_t j = i + mt19937_u32(g) % (n - i), keep = out[i];
		out[i] = out[j];
		out[j] = keep;
	}
}

const char *sampler_kind_name(enum sampler_kind k)
{
	static const char *const names[] = {"length-grouped", "random", "sequential"};

	return names[k];
}

void sampler_init(struct sampler *s, enum sampler_kind kind, uint64_t seed)
{
	s->kind = kind;
	s->seed = seed;
	mt19937_seed(&s->generator, seed);
}

struct place {
	int32_t length;
	uint32_t at; /* where the random order has it: equal lengths keep that order */
	uint32_t row;
};

static int by_falling_length(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->length != y->length)
		return x->length > y->length ? -1 : 1;
	return x->at < y->at ? -1 : 1;
}

/* transformers 4.51.3, trainer_pt_utils.py, get_length_grouped_indices. */
static void group_by_length(const int32_t *lengths, uint32_t n, uint32_t batch, uint32_t *order)
{
	uint32_t multiple = (uint32_t)(n / ((uint64_t)batch * 4));
	uint64_t size = (uint64_t)(multiple > 50 ? 50 : multiple ? multiple : 1) * batch;
	uint32_t mega = size > n ? n : (uint32_t)size, longest = 0;
	struct place *places = xreallocarray(NULL, n, sizeof *places);

	for (uint32_t i = 0; i < n; i++)
		places[i] = (struct place){lengths[order[i]], i, order[i]};
	for (uint32_t begin = 0; begin < n; begin += mega) {
		uint32_t count = n - begin < mega ? n - begin : mega;
		qsort(places + begin, count, sizeof *places, by_falling_length);
		if (places[begin].length > places[longest].length)
			longest = begin; /* the first megabatch among equals, as argmax */
	}
	for (uint32_t i = 0; i < n; i++)
		order[i] = places[i].row;
	uint32_t keep = order[0];
	order[0] = order[longest];
	order[longest] = keep;
	free(places);
}

void sampler_epoch(struct sampler *s, int64_t epoch, const int32_t *lengths, uint32_t n, uint32_t batch,
		   uint32_t *order)
{
	struct mt19937 fresh;

	switch (s->kind) {
	case SAMPLER_LENGTH_GROUPED:
		mt19937_u64(
			&s->generator); /* the base seed of the iterator, for workers that are not there */
		mt19937_randperm(&s->generator, order, n);
		group_by_length(lengths, n, batch, order);
		break;
	case SAMPLER_RANDOM:
		mt19937_seed(&fresh, s->seed + (uint64_t)epoch);
		mt19937_randperm(&fresh, order, n);
		break;
	case SAMPLER_SEQUENTIAL:
		for (uint32_t i = 0; i < n; i++)
			order[i] = i;
		break;
	}
}
