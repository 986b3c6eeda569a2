/* Sampling: temperature, then the top_k largest, then the smallest set of them that holds top_p of their mass, then one
 * draw. */
#include "model/generate.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/transformer_pass.h"

struct sampling sampling_default(void)
{
	return (struct sampling){128, 0, 1, 0, 0, NULL, 0, false};
}

/* SplitMix64 (Steele, Lea & Flood 2014), as a number in [0, 1). */
static double draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	z ^= z >> 31;
	return (double)(z >> 11) * 0x1p-53;
}

static int32_t largest(const float *x, int n)
{
	int32_t best = 0;

	for (int32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

struct candidate {
	float p; /* not normalised: exp((logit - largest) / temperature) */
	int32_t id;
};

static int likelier_first(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->p != y->p)
		return x->p > y->p ? -1 : 1;
	return x->id - y->id;
}

/* The id at which the running mass passes u * (the mass of all n). */
static int32_t pick(const struct candidate *c, int n, double u)
{
	double mass = 0, at = 0;

	for (int i = 0; i < n; i++)
		mass += c[i].p;
	for (int i = 0; i < n; i++) {
		at += c[i].p;
		if (at > u * mass)
			return c[i].id;
	}
	return c[n - 1].id;
}

int32_t sample_token(float *logits, int vocab, const struct sampling *s, uint64_t *state)
{
	int32_t best = largest(logits, vocab);
	bool filtered = (s->top_k > 0 && s->top_k < vocab) || s->top_p < 1;
	double mass = 0;
	int n = 0;

	if (s->temperature <= 0)
		return best;
	float top = logits[best];

	for (int i = 0; i < vocab; i++) {
		logits[i] = expf((logits[i] - top) / s->temperature);
		mass += logits[i];
	}
	/* What is left out here weighs less than 1 - top_p together, so the nucleus is among the rest; with top_k the
	 * mass that counts is smaller, and only an exact zero may go. */
	double least = s->top_k > 0 ? 0 : (1 - (double)s->top_p) * mass / vocab;
	struct candidate *c = xmalloc(sizeof *c * (size_t)vocab);

	for (int32_t i = 0; i < vocab; i++)
		if (logits[i] > 0 && (!filtered || logits[i] >= least))
			c[n++] = (struct candidate){logits[i], i};
	if (filtered) {
		qsort(c, (size_t)n, sizeof *c, likelier_first);
		if (s->top_k > 0 && n > s->top_k)
			n = s->top_k;
		double kept = 0, held = 0;

		for (int i = 0; i < n; i++)
			kept += s->top_k > 0 ? c[i].p : 0;
		kept = s->top_k > 0 ? kept : mass;
		for (int i = 0; i < n; i++) {
			held += c[i].p;
			if (held >= s->top_p * kept) {
				n = i + 1;
				break;
			}
		}
	}
	int32_t id = pick(c, n, draw(state));

	free(c);
	return id;
}

static bool stops(const struct model_config *c, const struct sampling *s, int32_t id)
{
	for (int i = 0; i < c->n_eos && !s->ignore_eos; i++)
		if (c->eos[i] == id)
			return true;
	for (int i = 0; i < s->nstop; i++)
		if (s->stop[i] == id)
			return true;
	return false;
}

int generate(struct transformer *t, struct kv_cache *k, int slot, const int32_t *prompt, int n,
	     const struct sampling *s, token_callback *emit, void *arg, enum finish *finish,
	     struct error *err)
{
	const struct model_config *c = &t->model->config;
	float *logits = xmalloc(sizeof *logits * (size_t)c->vocab_size);
	uint64_t state = s->seed;
	const int32_t *feed = prompt;
	int32_t id;
	int rc = -1;

	*finish = FINISH_LENGTH;
	if (s->max_tokens < 1) {
		error_set(err, ERR_USAGE, "max_tokens is %d, at least 1 is needed", s->max_tokens);
		goto out;
	}
	for (int made = 0;; made++) {
		if (made == s->max_tokens || (made && kv_cache_length(k, slot) == k->capacity))
			break;
		if (transformer_decode(t, k, slot, feed, made ? 1 : n, logits, err))
			goto out;
		id = sample_token(logits, c->vocab_size, s, &state);
		feed = &id;
		if (stops(c, s, id)) {
			*finish = FINISH_STOP;
			break;
		}
		if (emit && emit(id, arg)) {
			*finish = FINISH_ABORTED;
			break;
		}
	}
	rc = 0;
out:
	free(logits);
	return rc;
}
