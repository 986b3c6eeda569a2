/* The model on a GPU against the same model on the CPU, in every dtype of activations. Without a GPU the tests skip with a
 * message; the same program linked with a fake of the CUDA runtime (tests/fakes/cuda) always has one. */
#include "tests/unit/cmocka_all.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "model/init.h"
#include "tests/unit/model/tiny_model.h"

static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
static const bool some_projections[PROJ_COUNT] = {
	[PROJ_Q] = true, [PROJ_V] = true, [PROJ_O] = true, [PROJ_DOWN] = true};
static struct error err;

static void check(int failed)
{
	if (failed)
		fail_msg("%s", err.message);
}

static struct device *gpu(enum dtype act)
{
	struct device *d = NULL;

	check(device_open(DEVICE_CUDA, 0, act, &d, &err));
	return d;
}

#define SKIP_WITHOUT_GPU()                                                                                   \
	do {                                                                                                 \
		struct error why = ERROR_INIT;                                                               \
		if (device_cuda_count(&why) == 0) {                                                          \
			if (getenv("ANNEAL_REQUIRE_CUDA"))                                                   \
				fail_msg("%s", why.message);                                                 \
			print_message("skipped: %s\n", why.message);                                         \
			skip();                                                                              \
		}                                                                                            \
	} while (0)

/* How far a result may be from the CPU's, relative to the largest value of its kind. */
static double tolerance(enum dtype act)
{
	return act == DTYPE_F32 ? 2e-5 : act == DTYPE_BF16 ? 3e-2 : 4e-3;
}

/* Shapes that 16-bit activations take, none of them a multiple of a tile. */
static struct model_config shape(bool gemma)
{
	struct model_config c = tiny_config(gemma);

	c.hidden_size = 72;
	c.intermediate_size = 104;
	c.head_dim = 16;
	c.attn_scale = 0.25f;
	c.embed_scale = gemma ? sqrtf(72.0f) : 1.0f;
	return c;
}

struct pair {
	struct model *host, *there;
	struct lora_set *lora, *lora_there;
	struct transformer *cpu, *gpu;
	struct device *d;
};

static struct pair pair_open(bool gemma, enum dtype act)
{
	struct model_config c = shape(gemma);
	struct pair p = {.host = tiny_new(&c), .d = gpu(act)};

	for (int i = 0; i < c.layers; i++) /* logits of order 1 */
		for (int k = 0; k < PROJ_COUNT; k++) {
			struct matrix *w = &p.host->layers[i].proj[k];
			float *x = (float *)(uintptr_t)w->data;
			for (int j = 0; j < w->rows * w->cols; j++)
				x[j] *= 0.4f;
		}
	p.there = tiny_on(p.host, p.d);
	check(lora_set_new(NULL, &c, 3, 5.0f, some_projections, true, &p.lora, &err));
	check(lora_set_new(p.d, &c, 3, 5.0f, some_projections, true, &p.lora_there, &err));
	for (size_t i = 0; i < p.lora->count; i++)
		p.lora->params[i] = tiny_random(0.2f);
	lora_set_write(p.lora_there, p.lora->params);
	check(transformer_new(p.host, p.lora, &p.cpu, &err));
	check(transformer_new(p.there, p.lora_there, &p.gpu, &err));
	return p;
}

static void pair_close(struct pair *p)
{
	transformer_free(p->cpu);
	transformer_free(p->gpu);
	lora_set_free(p->lora);
	lora_set_free(p->lora_there);
	tiny_off(p->there);
	tiny_free(p->host);
	device_close(p->d);
}

static void assert_alike(const float *got, const float *want, size_t n, double tolerance, const char *what)
{
	double most = 0;

	for (size_t i = 0; i < n; i++)
		most = fmax(most, fabs(want[i]));
	for (size_t i = 0; i < n; i++)
		if (!(fabs(got[i] - want[i]) <= tolerance * most))
			fail_msg("%s[%zu] is %.7g, expected %.7g (largest %.3g)", what, i, got[i], want[i],
				 most);
}

static float *fetch(struct device *d, const float *x, size_t n)
{
	float *host = xmalloc(sizeof *host * n);

	check(device_download(d, host, x, sizeof *host * n, &err));
	return host;
}

#define TOKENS 41
static int32_t ids[TOKENS], targets[TOKENS];
static const int32_t cu_seqlens[4] = {0, 17, 18, TOKENS};
static const struct batch packed = {TOKENS, 3, ids, cu_seqlens, targets};

static void make_batch(int vocab)
{
	for (int i = 0; i < TOKENS; i++) {
		ids[i] = i * 7919 % vocab;
		targets[i] = i % 3 == 1 ? -1 : (i * 7927 + 5) % vocab;
	}
}

static void logits_and_loss_are_the_cpus(void **state)
{
	(void)state;
	SKIP_WITHOUT_GPU();
	for (int i = 0; i < 6; i++) {
		enum dtype act = acts[i / 2];
		struct pair p = pair_open(i % 2, act);
		size_t n = (size_t)(TOKENS * p.host->config.vocab_size);
		float *want = xmalloc(n * sizeof *want), *got = xmalloc(n * sizeof *got);
		double loss, loss_there;
		int64_t labelled;

		make_batch(p.host->config.vocab_size);
		check(transformer_logits(p.cpu, &packed, want, &err));
		check(transformer_logits(p.gpu, &packed, got, &err));
		assert_alike(got, want, n, tolerance(act), "logits");
		check(transformer_loss(p.cpu, &packed, &loss, &labelled, &err));
		for (int k = 0; k < 3; k++) { /* asked, recorded, replayed */
			check(transformer_loss(p.gpu, &packed, &loss_there, &labelled, &err));
			assert_true(fabs(loss - loss_there) <= tolerance(act) * loss);
		}
		free(want);
		free(got);
		pair_close(&p);
	}
}

/* Dropout's masks are the same on every device, so gradients can be compared with dropout on. */
static void adapter_gradients_are_the_cpus_and_replays_repeat_them_to_the_bit(void **state)
{
	struct dropout drop = {0.3f, 0x123456789abcdef0, 17, NULL};

	(void)state;
	SKIP_WITHOUT_GPU();
	for (int i = 0; i < 6; i++) {
		enum dtype act = acts[i / 2];
		struct pair p = pair_open(i % 2, act);
		size_t count = p.lora->count;
		float *first = NULL;
		double loss, loss_there;
		int64_t labelled, labelled_there;

		make_batch(p.host->config.vocab_size);
		check(transformer_train(p.cpu, &packed, &drop, 0.5f, NULL, &loss, &labelled, &err));
		for (int k = 0; k < 3; k++) {
			device_zero(p.d, p.lora_there->grads, count * sizeof(float));
			check(transformer_train(p.gpu, &packed, &drop, 0.5f, NULL, &loss_there,
						&labelled_there, &err));
			float *grads = fetch(p.d, p.lora_there->grads, count);

			assert_int_equal(labelled, labelled_there);
			assert_true(fabs(loss - loss_there) <= tolerance(act) * loss);
			assert_alike(grads, p.lora->grads, count, tolerance(act), "gradient");
			if (first)
				assert_memory_equal(first, grads, count * sizeof *grads);
			else
				first = memcpy(xmalloc(count * sizeof *first), grads, count * sizeof *first);
			free(grads);
		}
		free(first);
		pair_close(&p);
	}
}

/* A recording holds for other batches of its size: other ids, cuts, labels and steps. */
static void a_replay_sees_the_batch_that_is_there_then(void **state)
{
	static const int32_t other_cu[4] = {0, 3, 25, TOKENS - 2};
	struct dropout drop = {0.2f, 9, 0, NULL};

	(void)state;
	SKIP_WITHOUT_GPU();
	struct pair p = pair_open(true, DTYPE_F32);
	size_t count = p.lora->count;

	make_batch(p.host->config.vocab_size);
	for (int k = 0; k < 5; k++) {
		struct batch b = packed;
		double loss, there;
		int64_t labelled;

		if (k % 2) { /* two tokens fewer: the same bucket */
			b.tokens = TOKENS - 2;
			b.cu_seqlens = other_cu;
		}
		for (int i = 0; i < TOKENS; i++)
			ids[i] = (ids[i] + 11 * k) % p.host->config.vocab_size;
		drop.step = (uint64_t)k;
		memset(p.lora->grads, 0, count * sizeof(float));
		device_zero(p.d, p.lora_there->grads, count * sizeof(float));
		check(transformer_train(p.cpu, &b, &drop, 1, NULL, &loss, &labelled, &err));
		check(transformer_train(p.gpu, &b, &drop, 1, NULL, &there, &labelled, &err));
		float *grads = fetch(p.d, p.lora_there->grads, count);

		assert_true(fabs(loss - there) <= 1e-5 * loss);
		assert_alike(grads, p.lora->grads, count, 2e-5, "gradient");
		free(grads);
	}
	pair_close(&p);
}

/* Also for passes that are filled up with more tokens than any of their sequences has. */
static void reserved_room_is_enough_for_smaller_passes(void **state)
{
	enum { MOST = 1152, FEWEST = 1025, LENGTH = 5 };
	int32_t many[FEWEST], next[FEWEST], cu[FEWEST / LENGTH + 1];
	const struct batch b = {FEWEST, FEWEST / LENGTH, many, cu, next};
	uint64_t now, before, peak;
	int64_t labelled;
	double loss;

	(void)state;
	SKIP_WITHOUT_GPU();
	struct pair p = pair_open(false, DTYPE_F32);

	for (int i = 0; i < FEWEST; i++) {
		many[i] = i % p.host->config.vocab_size;
		next[i] = i % 300 ? -1 : 1;
	}
	for (int s = 0; s <= FEWEST / LENGTH; s++)
		cu[s] = s * LENGTH;
	check(transformer_reserve(p.gpu, MOST, FEWEST / LENGTH, LENGTH, false, &err));
	device_memory_used(p.d, &before, &peak);
	check(transformer_train(p.gpu, &b, NULL, 1, NULL, &loss, &labelled, &err));
	device_memory_used(p.d, &now, &peak);
	assert_int_equal(now, before);
	assert_true(loss > 0);
	pair_close(&p);
}

static void every_weights_gradient_is_the_cpus(void **state)
{
	(void)state;
	SKIP_WITHOUT_GPU();
	for (int i = 0; i < 4; i++) {
		enum dtype act = acts[i / 2];
		struct pair p = pair_open(i % 2, act);
		struct full_grads *want, *there;
		double loss;
		int64_t labelled;

		make_batch(p.host->config.vocab_size);
		check(full_grads_new(p.host, &want, &err));
		check(full_grads_new(p.there, &there, &err));
		check(transformer_train(p.cpu, &packed, NULL, 1, want, &loss, &labelled, &err));
		check(transformer_train(p.gpu, &packed, NULL, 1, there, &loss, &labelled, &err));
		float *grads = fetch(p.d, there->grads, there->count);

		/* By tensor: their gradients differ by orders of magnitude. */
		assert_alike(grads, want->grads, (size_t)(p.host->config.vocab_size * 72), tolerance(act),
			     "embed");
		for (int k = 0; k < PROJ_COUNT; k++) {
			const struct matrix *w = &p.host->layers[1].proj[k];
			size_t n = (size_t)(w->rows * w->cols);

			assert_alike(grads + (there->layers[1].proj[k] - there->grads),
				     want->layers[1].proj[k], n, 2 * tolerance(act), proj_name((enum proj)k));
		}
		assert_alike(grads + (there->layers[0].input_norm - there->grads), want->layers[0].input_norm,
			     72, 2 * tolerance(act), "input_norm");
		assert_alike(grads + (there->final_norm - there->grads), want->final_norm, 72, tolerance(act),
			     "final_norm");
		free(grads);
		full_grads_free(want);
		full_grads_free(there);
		pair_close(&p);
	}
}

static void decoding_gives_the_cpus_logits_alone_and_side_by_side(void **state)
{
	(void)state;
	SKIP_WITHOUT_GPU();
	for (int i = 0; i < 6; i++) {
		enum dtype act = acts[i / 2];
		struct pair p = pair_open(i % 2, act);
		size_t vocab = (size_t)p.host->config.vocab_size;
		struct kv_cache *k, *there;
		float *want = xmalloc(3 * vocab * sizeof *want), *got = xmalloc(3 * vocab * sizeof *got);

		make_batch(p.host->config.vocab_size);
		check(kv_cache_new(NULL, &p.host->config, 3, 40, &k, &err));
		check(kv_cache_new(p.d, &p.host->config, 3, 40, &there, &err));
		/* Prompts of three lengths, then tokens one at a time, enough for a replay. */
		const struct decode_item prompts[3] = {{2, 9, ids}, {0, 1, ids + 9}, {1, 23, ids + 10}};
		check(transformer_decode(p.cpu, k, prompts, 3, want, NULL, &err));
		check(transformer_decode(p.gpu, there, prompts, 3, got, NULL, &err));
		assert_alike(got, want, 3 * vocab, tolerance(act), "prompts' logits");
		for (int step = 0; step < 5; step++) {
			const struct decode_item next[2] = {{1, 1, ids + step}, {2, 1, ids + 20 + step}};
			int32_t chosen[2];

			check(transformer_decode(p.cpu, k, next, 2, want, NULL, &err));
			check(transformer_decode(p.gpu, there, next, 2, got, chosen, &err));
			assert_alike(got, want, 2 * vocab, tolerance(act), "next logits");
			for (int s = 0; s < 2; s++) {
				int32_t best = 0;
				for (int32_t v = 0; v < (int32_t)vocab; v++)
					best = got[(size_t)s * vocab + (size_t)v] >
							       got[(size_t)s * vocab + (size_t)best]
						       ? v
						       : best;
				assert_int_equal(chosen[s], best);
			}
		}
		assert_int_equal(kv_cache_length(there, 1), 28);
		kv_cache_free(k);
		kv_cache_free(there);
		free(want);
		free(got);
		pair_close(&p);
	}
}

/* ---- weights ---- */

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/anneal_device_XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return tree_remove(dir, &err);
}

static void model_files(void)
{
	struct model_init init = {.seed = 5};

	init.config = shape(true);
	init.config.hidden_size = 64;
	init.config.intermediate_size = 96;
	init.config.eos[0] = 1;
	init.config.n_eos = 1;
	init.bf16 = true;
	init.initializer_range = 0.1;
	check(model_init_write(&init, dir, &err));
}

/* The values that products see, from either device. */
static float *values_of(struct device *d, const struct matrix *m)
{
	size_t n = (size_t)m->rows * (size_t)m->cols;
	float *out = xmalloc(sizeof *out * n);
	char *raw = xmalloc(n * 4);
	void *act;

	check(device_alloc(d, n * device_act_size(d), &act, &err));
	d->ops->dequantize(d, m, act);
	check(device_download(d, raw, act, n * device_act_size(d), &err));
	floats_from(d->act, raw, n, out);
	device_free(d, act);
	free(raw);
	return out;
}

static void assert_weights(const struct model *want, const struct model *got)
{
	const struct matrix *a[] = {&want->embed,
				    &want->layers[1].proj[PROJ_Q],
				    &want->layers[1].proj[PROJ_K],
				    &want->layers[1].proj[PROJ_V],
				    &want->layers[0].proj[PROJ_UP],
				    &want->layers[1].proj[PROJ_DOWN]};
	const struct matrix *b[] = {&got->embed,
				    &got->layers[1].proj[PROJ_Q],
				    &got->layers[1].proj[PROJ_K],
				    &got->layers[1].proj[PROJ_V],
				    &got->layers[0].proj[PROJ_UP],
				    &got->layers[1].proj[PROJ_DOWN]};

	for (size_t i = 0; i < sizeof a / sizeof *a; i++) {
		float *x = values_of(&device_cpu, a[i]), *y = values_of(model_device(got), b[i]);
		size_t n = (size_t)a[i]->rows * (size_t)a[i]->cols;
		char *rounded = xmalloc(n * 4);

		/* The CPU's values, rounded once to the GPU's activations. */
		floats_to(model_device(got)->act, x, n, rounded);
		floats_from(model_device(got)->act, rounded, n, x);
		for (size_t k = 0; k < n; k++)
			if (x[k] != y[k])
				fail_msg("matrix %zu, value %zu is %.9g, expected %.9g", i, k, (double)y[k],
					 (double)x[k]);
		free(rounded);
		free(x);
		free(y);
	}
}

static void weights_on_a_gpu_are_the_cpus_rounded_once(void **state)
{
	static const enum weight_format formats[] = {WEIGHTS_AS_STORED, WEIGHTS_NF4, WEIGHTS_NF4_DOUBLE};

	(void)state;
	SKIP_WITHOUT_GPU();
	model_files();
	for (size_t i = 0; i < 3; i++) {
		struct device *d = gpu(acts[i]);
		for (int k = 0; k < 12; k++) {
			struct model_options o = {.format = formats[k % 3], .nf4_through_fp16 = k / 3 % 2};
			struct model *want, *got;

			check(model_open(dir, &o, NULL, NULL, &want, &err));
			o.device = d;
			o.resident = k >= 6;
			check(model_open(dir, &o, NULL, NULL, &got, &err));
			assert_weights(want, got);
			assert_int_equal(got->layers[0].qkv.rows,
					 o.format == WEIGHTS_NF4_DOUBLE && !o.resident ? 0 : 96);
			model_free(want);
			model_free(got);
		}
		device_close(d);
	}
}

/* One product of q, k and v together, and three, give the same numbers. */
static void nf4_and_resident_weights_give_the_same_loss(void **state)
{
	(void)state;
	SKIP_WITHOUT_GPU();
	model_files();
	for (size_t i = 0; i < 3; i++) {
		struct device *d = gpu(acts[i]);
		double loss[3];

		for (int k = 0; k < 3; k++) {
			struct model_options o = {
				.device = k < 2 ? d : NULL, .format = WEIGHTS_NF4, .resident = k == 1};
			struct model *m;
			struct transformer *t;
			int64_t labelled;

			check(model_open(dir, &o, NULL, NULL, &m, &err));
			make_batch(m->config.vocab_size);
			check(transformer_new(m, NULL, &t, &err));
			check(transformer_loss(t, &packed, &loss[k], &labelled, &err));
			transformer_free(t);
			model_free(m);
		}
		/* The same numbers go into products; where sums of 16-bit products are cut differs. */
		assert_true(fabs(loss[0] - loss[1]) <=
			    (acts[i] == DTYPE_F32 ? 1e-5 : tolerance(acts[i]) / 8) * loss[0]);
		assert_true(fabs(loss[0] - loss[2]) <= tolerance(acts[i]) * loss[2]);
		device_close(d);
	}
}

static void head_sizes_that_tensor_cores_do_not_take_are_an_error(void **state)
{
	struct transformer *t;

	(void)state;
	SKIP_WITHOUT_GPU();
	struct model_config c = tiny_config(false);
	struct model *m = tiny_new(&c);
	struct device *d = gpu(DTYPE_BF16);
	struct model *there = tiny_on(m, d);

	assert_int_equal(transformer_new(there, NULL, &t, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	assert_string_equal(
		err.message,
		"config.json: head_dim 6: a GPU with 16-bit activations takes multiples of 16 up to 256");
	tiny_off(there);
	device_close(d);
	tiny_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logits_and_loss_are_the_cpus),
		cmocka_unit_test(adapter_gradients_are_the_cpus_and_replays_repeat_them_to_the_bit),
		cmocka_unit_test(a_replay_sees_the_batch_that_is_there_then),
		cmocka_unit_test(reserved_room_is_enough_for_smaller_passes),
		cmocka_unit_test(every_weights_gradient_is_the_cpus),
		cmocka_unit_test(decoding_gives_the_cpus_logits_alone_and_side_by_side),
		cmocka_unit_test_setup_teardown(weights_on_a_gpu_are_the_cpus_rounded_once, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(nf4_and_resident_weights_give_the_same_loss, make_dir,
						remove_dir),
		cmocka_unit_test(head_sizes_that_tensor_cores_do_not_take_are_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
