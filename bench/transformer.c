/* Training and decoding speed of a model directory on random tokens.
 *   bench_transformer MODEL [ROWS [LENGTH [RANK]]] */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "model/transformer.h"

static int fail(const struct error *err)
{
	fprintf(stderr, "%s\n", err->message);
	return 1;
}

int main(int argc, char **argv)
{
	int rows = argc > 2 ? atoi(argv[2]) : 2, length = argc > 3 ? atoi(argv[3]) : 75,
	    rank = argc > 4 ? atoi(argv[4]) : 8;
	struct model_options o = {.format = WEIGHTS_AS_STORED};
	struct error err = ERROR_INIT;
	struct model *m;
	struct lora_set *s;
	struct transformer *t;
	static const bool target[PROJ_COUNT] = {[PROJ_Q] = true, [PROJ_V] = true};

	if (argc < 2) {
		fprintf(stderr, "usage: bench_transformer MODEL [ROWS [LENGTH [RANK]]]\n");
		return 2;
	}
	if (model_open(argv[1], &o, NULL, NULL, &m, &err) ||
	    lora_set_new(&m->config, rank, 16, target, true, &s, &err) || transformer_new(m, s, &t, &err))
		return fail(&err);
	lora_set_init(s, 1);
	int n = rows * length;
	int32_t *ids = xcalloc((size_t)n + 1, sizeof *ids), *cu = xcalloc((size_t)rows + 1, sizeof *cu);

	for (int i = 0; i <= n; i++)
		ids[i] = (int32_t)((int64_t)i * 7919 % m->config.vocab_size);
	for (int i = 0; i <= rows; i++)
		cu[i] = i * length;
	struct batch b = {n, rows, ids, cu, ids + 1};
	struct dropout drop = {0.1f, 1, 0, NULL};
	double best = 1e9, begin = clock_mono(), loss;
	int64_t labelled;

	for (int i = 0; i < 5 || clock_mono() - begin < 3; i++) {
		double start = clock_mono();

		drop.step++;
		if (transformer_train(t, &b, &drop, 1, NULL, &loss, &labelled, &err))
			return fail(&err);
		best = clock_mono() - start < best ? clock_mono() - start : best;
	}
	printf("train   %d x %d tokens, rank %d on q and v: %.0f tokens/s (%.3f ms a pass)\n", rows, length,
	       rank, n / best, best * 1e3);
	best = 1e9;
	begin = clock_mono();
	for (int i = 0; i < 3 || clock_mono() - begin < 1; i++) {
		double start = clock_mono();

		if (transformer_loss(t, &b, &loss, &labelled, &err))
			return fail(&err);
		best = clock_mono() - start < best ? clock_mono() - start : best;
	}
	printf("score   %d x %d tokens: %.0f tokens/s\n", rows, length, n / best);
	struct kv_cache *k;
	float *logits = xcalloc((size_t)m->config.vocab_size, sizeof *logits);
	int made = length < m->config.max_positions ? length : m->config.max_positions;

	if (kv_cache_new(&m->config, 1, made, &k, &err))
		return fail(&err);
	begin = clock_mono();
	for (int i = 0; i < made; i++)
		if (transformer_decode(t, k, 0, ids + i, 1, logits, &err))
			return fail(&err);
	printf("decode  %d tokens one by one: %.0f tokens/s\n", made, made / (clock_mono() - begin));
	kv_cache_free(k);
	free(logits);
	free(ids);
	free(cu);
	transformer_free(t);
	lora_set_free(s);
	model_free(m);
	return 0;
}
