/* The transformer against a float64 forward pass and its central differences, and against itself. */
#include "tests/unit/cmocka_all.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "tests/unit/model/tiny_model.h"

static const int32_t ids[15] = {3, 1, 36, 7, 7, 20, 0, 11, 5, 9, 30, 2, 2, 17, 8};
static const int32_t cu_seqlens[4] = {0, 5, 6, 15};
static const int32_t targets[15] = {1, -1, 7, 7, -1, 4, 11, 5, -1, 30, 2, -1, 17, 8, 33};
static const struct batch packed = {15, 3, ids, cu_seqlens, targets};
static const bool every_projection[PROJ_COUNT] = {true, true, true, true, true, true, true};

static void assert_near(double got, double want, double tolerance, const char *what, size_t i)
{
	if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
		fail_msg("%s[%zu] is %.9g, expected %.9g", what, i, got, want);
}

static struct lora_set *adapters(const struct model_config *c)
{
	struct lora_set *s = NULL;
	struct error err = ERROR_INIT;

	assert_int_equal(lora_set_new(NULL, c, 3, 5.0f, every_projection, true, &s, &err), 0);
	for (size_t i = 0; i < s->count; i++)
		s->params[i] = tiny_random(0.3f);
	return s;
}

static struct transformer *transformer_of(const struct model *m, const struct lora_set *s)
{
	struct transformer *t = NULL;
	struct error err = ERROR_INIT;

	assert_int_equal(transformer_new(m, s, &t, &err), 0);
	return t;
}

static void logits_and_loss_agree_with_float64(void **state)
{
	(void)state;
	for (int variant = 0; variant < 3; variant++) {
		struct model_config c = tiny_config(variant > 0);
		struct error err = ERROR_INIT;

		if (variant == 2)
			c.act = ACT_GELU_ERF;
		struct model *m = tiny_new(&c);
		struct lora_set *s = adapters(&c);
		struct transformer *t = transformer_of(m, s);
		float *logits = xcalloc((size_t)(15 * c.vocab_size), sizeof *logits);
		double *want = xcalloc((size_t)(15 * c.vocab_size), sizeof *want), loss;
		int64_t labelled;

		assert_int_equal(transformer_logits(t, &packed, logits, &err), 0);
		for (int i = 0; i < 3; i++)
			ref_logits(m, s, NULL, ids + cu_seqlens[i], cu_seqlens[i + 1] - cu_seqlens[i], 0,
				   want + cu_seqlens[i] * c.vocab_size);
		for (int i = 0; i < 15 * c.vocab_size; i++)
			assert_near(logits[i], want[i], 2e-5, "logits", (size_t)i);
		assert_int_equal(transformer_loss(t, &packed, &loss, &labelled, &err), 0);
		assert_int_equal(labelled, 11);
		assert_near(loss, ref_loss(m, s, NULL, &packed), 1e-5, "loss", 0);
		free(logits);
		free(want);
		transformer_free(t);
		lora_set_free(s);
		tiny_free(m);
	}
}

/* (loss(x + h) - loss(x - h)) / 2h, x one fp32 parameter: h is the step that was really taken. */
static double difference(const struct model *m, const struct lora_set *s, const struct dropout *d, float *x)
{
	float at = *x;

	*x = at + 2e-4f;
	double high = *x, up = ref_loss(m, s, d, &packed);

	*x = at - 2e-4f;
	double low = *x, down = ref_loss(m, s, d, &packed);

	*x = at;
	return (up - down) / (high - low);
}

static void adapter_gradients_are_the_differences_of_the_float64_loss(void **state)
{
	static const int32_t token_base[3] = {100, 7, 40};
	struct dropout drop = {0.3f, 0x123456789abcdef0, 17, token_base};

	(void)state;
	for (int gemma = 0; gemma < 2; gemma++) {
		struct model_config c = tiny_config(gemma);
		struct model *m = tiny_new(&c);
		struct lora_set *s = adapters(&c);
		struct transformer *t = transformer_of(m, s);
		struct error err = ERROR_INIT;
		double loss;
		int64_t labelled;

		assert_int_equal(transformer_train(t, &packed, &drop, 0.5f, NULL, &loss, &labelled, &err), 0);
		assert_near(loss, ref_loss(m, s, &drop, &packed), 1e-5, "loss", 0);
		for (size_t i = 0; i < s->count; i += 13)
			assert_near(s->grads[i], 0.5 * difference(m, s, &drop, &s->params[i]), 3e-4,
				    "gradient", i);
		transformer_free(t);
		lora_set_free(s);
		tiny_free(m);
	}
}

static void check_weights(const struct model *m, const struct lora_set *s, const float *grad,
			  const void *weights, int n, const char *what)
{
	float *x = (float *)(uintptr_t)weights;

	for (int i = 0; i < n; i += 17)
		assert_near(grad[i], difference(m, s, NULL, x + i), 3e-4, what, (size_t)i);
}

static void weight_gradients_are_the_differences_of_the_float64_loss(void **state)
{
	(void)state;
	for (int gemma = 0; gemma < 2; gemma++) {
		struct model_config c = tiny_config(gemma);
		struct model *m = tiny_new(&c);
		struct lora_set *s = gemma ? adapters(&c) : NULL;
		struct transformer *t = transformer_of(m, s);
		struct full_grads *g = NULL;
		struct error err = ERROR_INIT;
		double loss;
		int64_t labelled;

		assert_int_equal(full_grads_new(m, &g, &err), 0);
		assert_int_equal(transformer_train(t, &packed, NULL, 1.0f, g, &loss, &labelled, &err), 0);
		check_weights(m, s, g->embed, m->embed.data, c.vocab_size * c.hidden_size, "embed");
		check_weights(m, s, g->lm_head, m->lm_head.data, c.vocab_size * c.hidden_size, "lm_head");
		check_weights(m, s, g->final_norm, m->final_norm, c.hidden_size, "final_norm");
		for (int l = 0; l < c.layers; l++) {
			check_weights(m, s, g->layers[l].input_norm, m->layers[l].input_norm, c.hidden_size,
				      "input_norm");
			check_weights(m, s, g->layers[l].post_norm, m->layers[l].post_norm, c.hidden_size,
				      "post_norm");
			for (int p = 0; p < PROJ_COUNT; p++)
				check_weights(m, s, g->layers[l].proj[p], m->layers[l].proj[p].data,
					      m->layers[l].proj[p].rows * m->layers[l].proj[p].cols,
					      proj_name((enum proj)p));
		}
		full_grads_free(g);
		transformer_free(t);
		lora_set_free(s);
		tiny_free(m);
	}
}

static void a_packed_batch_trains_as_its_sequences_one_by_one(void **state)
{
	struct model_config c = tiny_config(false);
	struct model *m = tiny_new(&c);
	struct lora_set *s = adapters(&c);
	struct transformer *t = transformer_of(m, s);
	struct error err = ERROR_INIT;
	struct dropout drop = {0.1f, 42, 3, NULL};
	float *together = xcalloc(s->count, sizeof *together);
	double loss, sum = 0;
	int64_t labelled;

	(void)state;
	assert_int_equal(transformer_train(t, &packed, &drop, 1.0f, NULL, &loss, &labelled, &err), 0);
	memcpy(together, s->grads, sizeof *together * s->count);
	memset(s->grads, 0, sizeof *s->grads * s->count);
	for (int i = 0; i < 3; i++) {
		int at = cu_seqlens[i], n = cu_seqlens[i + 1] - at;
		int32_t cu[2] = {0, n};
		struct batch one = {n, 1, ids + at, cu, targets + at};
		double part;

		drop.token_base = &cu_seqlens[i];
		assert_int_equal(transformer_train(t, &one, &drop, 1.0f, NULL, &part, &labelled, &err), 0);
		sum += part;
	}
	assert_near(loss, sum, 1e-6, "loss", 0);
	for (size_t i = 0; i < s->count; i++)
		assert_near(s->grads[i], together[i], 1e-5, "gradient", i);
	free(together);
	transformer_free(t);
	lora_set_free(s);
	tiny_free(m);
}

static void the_number_of_threads_changes_no_byte(void **state)
{
#ifdef _OPENMP
	struct model_config c = tiny_config(false);
	struct error err = ERROR_INIT;
	struct dropout drop = {0.1f, 42, 3, NULL};
	int32_t *many = xcalloc(400, sizeof *many), *next = xcalloc(400, sizeof *next);
	int32_t cu[5] = {0, 60, 161, 299, 400};
	float *first = NULL, *full_first = NULL;
	int threads = omp_get_max_threads();
	double loss_first = 0;

	(void)state;
	c.vocab_size = 300;
	c.hidden_size = 96;
	c.intermediate_size = 172;
	c.head_dim = 24;
	c.max_positions = 200;
	struct model *m = tiny_new(&c);
	struct lora_set *s = adapters(&c);
	struct full_grads *g = NULL;

	assert_int_equal(full_grads_new(m, &g, &err), 0);
	for (int i = 0; i < 400; i++) {
		many[i] = i * 7919 % 300;
		next[i] = i % 3 ? i * 7927 % 300 : -1;
	}
	for (int n = 1; n <= 3; n++) {
		struct batch b = {400, 4, many, cu, next};
		struct transformer *t = transformer_of(m, s);
		double loss;
		int64_t labelled;

		omp_set_num_threads(n);
		memset(s->grads, 0, sizeof *s->grads * s->count);
		memset(g->grads, 0, sizeof *g->grads * g->count);
		assert_int_equal(transformer_train(t, &b, &drop, 1.0f, g, &loss, &labelled, &err), 0);
		if (n == 1) {
			first = xmalloc(sizeof *first * s->count);
			memcpy(first, s->grads, sizeof *first * s->count);
			full_first = xmalloc(sizeof *full_first * g->count);
			memcpy(full_first, g->grads, sizeof *full_first * g->count);
			loss_first = loss;
		}
		assert_true(loss == loss_first);
		assert_memory_equal(first, s->grads, sizeof *first * s->count);
		assert_memory_equal(full_first, g->grads, sizeof *full_first * g->count);
		transformer_free(t);
	}
	omp_set_num_threads(threads);
	free(first);
	free(full_first);
	free(many);
	free(next);
	full_grads_free(g);
	lora_set_free(s);
	tiny_free(m);
#else
	(void)state;
	skip();
#endif
}

static void a_wrong_batch_is_an_error_that_says_what(void **state)
{
	struct model_config c = tiny_config(false);
	struct model *m = tiny_new(&c);
	struct transformer *t = transformer_of(m, NULL);
	int32_t bad_ids[2] = {3, 37}, cu[2] = {0, 2}, cut[3] = {0, 2, 2}, bad_target[2] = {1, 37};
	int32_t longer[65] = {0}, cu_longer[2] = {0, 65};
	float logits[65 * 37];
	double loss;
	int64_t labelled;
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(transformer_logits(t, &(struct batch){2, 1, bad_ids, cu, NULL}, logits, &err), -1);
	assert_string_equal(err.message, "token 1 is id 37, the model knows 0 to 36");
	assert_int_equal(
		transformer_loss(t, &(struct batch){2, 1, ids, cu, bad_target}, &loss, &labelled, &err), -1);
	assert_string_equal(err.message, "target 1 is id 37, the model knows 0 to 36");
	assert_int_equal(transformer_logits(t, &(struct batch){2, 2, ids, cut, NULL}, logits, &err), -1);
	assert_string_equal(err.message, "sequence 1 has 0 tokens, the model takes 1 to 64");
	assert_int_equal(transformer_logits(t, &(struct batch){65, 1, longer, cu_longer, NULL}, logits, &err),
			 -1);
	assert_string_equal(err.message, "sequence 0 has 65 tokens, the model takes 1 to 64");
	assert_int_equal(transformer_loss(t, &(struct batch){2, 1, ids, cu, NULL}, &loss, &labelled, &err),
			 -1);
	assert_int_equal(transformer_train(t, &packed, NULL, 1, NULL, &loss, &labelled, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	transformer_free(t);
	tiny_free(m);
}

static void a_batch_without_labels_has_no_loss_and_no_gradient(void **state)
{
	struct model_config c = tiny_config(false);
	struct model *m = tiny_new(&c);
	struct lora_set *s = adapters(&c);
	struct transformer *t = transformer_of(m, s);
	int32_t none[15];
	struct error err = ERROR_INIT;
	double loss = 1;
	int64_t labelled = 1;

	(void)state;
	memset(none, -1, sizeof none);
	assert_int_equal(transformer_train(t, &(struct batch){15, 3, ids, cu_seqlens, none}, NULL, 1, NULL,
					   &loss, &labelled, &err),
			 0);
	assert_true(loss == 0);
	assert_int_equal(labelled, 0);
	for (size_t i = 0; i < s->count; i++)
		assert_true(s->grads[i] == 0);
	transformer_free(t);
	lora_set_free(s);
	tiny_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logits_and_loss_agree_with_float64),
		cmocka_unit_test(adapter_gradients_are_the_differences_of_the_float64_loss),
		cmocka_unit_test(weight_gradients_are_the_differences_of_the_float64_loss),
		cmocka_unit_test(a_packed_batch_trains_as_its_sequences_one_by_one),
		cmocka_unit_test(the_number_of_threads_changes_no_byte),
		cmocka_unit_test(a_wrong_batch_is_an_error_that_says_what),
		cmocka_unit_test(a_batch_without_labels_has_no_loss_and_no_gradient),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
