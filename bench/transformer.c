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

/* One token for each of `batch` sequences in every pass. */
static int decode(struct transformer *t, const struct model *m, int batch, int length, const int32_t *ids,
		  struct error *err)
{
	int made = length < m->config.max_positions ? length : m->config.max_positions;
	struct decode_item *items = xcalloc((size_t)batch, sizeof *items);
	int32_t *chosen = xcalloc((size_t)batch, sizeof *chosen);
	double best = 1e9, begin = clock_mono();
	struct kv_cache *k = NULL;
	int failed = kv_cache_new(m->device, &m->config, batch, made, &k, err) ||
		     transformer_reserve_decode(t, k, batch, batch, err);

	for (int round = 0; !failed && (round < 3 || clock_mono() - begin < 1); round++) {
		double start = clock_mono();

		for (int i = 0; i < batch; i++)
			kv_cache_reset(k, i);
		for (int n = 0; !failed && n < made; n++) {
			for (int i = 0; i < batch; i++)
				items[i] = (struct decode_item){i, 1, ids + n};
			failed = transformer_decode(t, k, items, batch, NULL, chosen, err);
		}
		best = clock_mono() - start < best ? clock_mono() - start : best;
	}
	if (!failed)
		printf("decode  %d sequences at a time to %d tokens: %.0f tokens/s\n", batch, made,
		       (double)batch * made / best);
	kv_cache_free(k);
	free(items);
	free(chosen);
	return failed ? -1 : 0;
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
	    lora_set_new(m->device, &m->config, rank, 16, target, true, &s, &err) ||
	    transformer_new(m, s, &t, &err))
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
	static const int batches[] = {1, 8, 32};

	for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
		if (decode(t, m, batches[i], length, ids, &err))
			return fail(&err);
	free(ids);
	free(cu);
	transformer_free(t);
	lora_set_free(s);
	model_free(m);
	return 0;
}
