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

bool sampling_stops(const struct model_config *c, const struct sampling *s, int32_t id)
{
	for (int i = 0; i < c->n_eos && !s->ignore_eos; i++)
		if (c->eos[i] == id)
			return true;
	for (int i = 0; i < s->nstop; i++)
		if (s->stop[i] == id)
			return true;
	return false;
}

int continuation_begin(struct continuation *g, const struct transformer *t, const struct kv_cache *k,
		       int slot, const int32_t *prompt, int n, const struct sampling *s, struct error *err)
{
	if (s->max_tokens < 1)
		return error_set(err, ERR_USAGE, "max_tokens is %d, at least 1 is needed", s->max_tokens);
	/* The last id needs no room: nothing is asked behind it. */
	int room = k->capacity - n + 1;

	*g = (struct continuation){.config = &t->model->config,
				   .sampling = s,
				   .prompt = prompt,
				   .n = n,
				   .slot = slot,
				   .most = s->max_tokens < room ? s->max_tokens : room,
				   .state = s->seed};
	return 0;
}

struct decode_item continuation_feed(const struct continuation *g, int most)
{
	int left = g->n - g->fed;

	if (left == 0)
		return (struct decode_item){g->slot, 1, &g->id};
	return (struct decode_item){g->slot, left < most ? left : most, g->prompt + g->fed};
}

bool continuation_wants(const struct continuation *g, const struct decode_item *fed)
{
	return g->fed == g->n || g->fed + fed->n == g->n;
}

enum step continuation_take(struct continuation *g, const struct decode_item *fed, float *logits,
			    int32_t chosen)
{
	bool wanted = continuation_wants(g, fed);

	if (g->fed < g->n)
		g->fed += fed->n;
	if (!wanted)
		return STEP_PROMPT;
	g->id = g->sampling->temperature > 0
			? sample_token(logits, g->config->vocab_size, g->sampling, &g->state)
			: chosen;
	if (sampling_stops(g->config, g->sampling, g->id))
		return STEP_STOP;
	return ++g->made < g->most ? STEP_TOKEN : STEP_LAST;
}

int generate(struct transformer *t, struct kv_cache *k, int slot, const int32_t *prompt, int n,
	     const struct sampling *s, token_callback *emit, void *arg, enum finish *finish,
	     struct error *err)
{
	size_t vocab = (size_t)t->model->config.vocab_size;
	float *logits = s->temperature > 0 ? xmalloc(sizeof *logits * vocab) : NULL;
	struct continuation g;
	int32_t chosen = -1;
	int rc = continuation_begin(&g, t, k, slot, prompt, n, s, err);

	*finish = FINISH_LENGTH;
	for (enum step step = STEP_PROMPT; rc == 0 && step != STEP_LAST;) {
		const struct decode_item item = continuation_feed(&g, n);

		rc = transformer_decode(t, k, &item, 1, logits, logits ? NULL : &chosen, err);
		if (rc)
			break;
		step = continuation_take(&g, &item, logits, chosen);
		if (step == STEP_STOP) {
			*finish = FINISH_STOP;
			break;
		}
		if (emit && emit(g.id, arg)) {
			*finish = FINISH_ABORTED;
			break;
		}
	}
	free(logits);
	return rc;
}
