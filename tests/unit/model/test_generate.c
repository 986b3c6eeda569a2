/* Decoding and sampling; and a real pretrained model against its float64 golden. */
#include "tests/unit/cmocka_all.h"

#include "base/json.h"
#include "model/generate.h"
#include "tests/unit/model/tiny_model.h"

#define STORIES SHARED_DATA "stories260K"
#define GOLDEN  SHARED_DATA "golden/stories260K_greedy.json"

struct stories {
	struct model *model;
	struct transformer *t;
	int32_t ids[257]; /* BOS and 256 greedy ids */
	json_t *golden;
};

static void stories_open(struct stories *s)
{
	struct error err = ERROR_INIT;
	struct model_options o = {.format = WEIGHTS_AS_STORED};

	s->golden = json_read(GOLDEN, &err);
	assert_non_null(s->golden);
	json_t *list = json_object_get(s->golden, "greedy_ids");

	assert_int_equal(json_array_size(list), 257);
	for (size_t i = 0; i < 257; i++)
		s->ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
	if (model_open(STORIES, &o, NULL, NULL, &s->model, &err))
		fail_msg("%s", err.message);
	assert_int_equal(transformer_new(s->model, NULL, &s->t, &err), 0);
}

static void stories_close(struct stories *s)
{
	transformer_free(s->t);
	model_free(s->model);
	json_decref(s->golden);
}

static int feed(struct transformer *t, struct kv_cache *k, int slot, const int32_t *ids, int n, float *logits,
		struct error *err)
{
	return transformer_decode(t, k, &(struct decode_item){slot, n, ids}, 1, logits, NULL, err);
}

static int32_t argmax(const float *x, int n)
{
	int32_t best = 0;

	for (int32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

static void assert_golden_row(const json_t *golden, int position, const float *logits)
{
	char key[16];

	snprintf(key, sizeof key, "%d", position);
	json_t *row = json_object_get(json_object_get(golden, "logits_float64"), key);

	for (size_t i = 0; i < json_array_size(row); i++)
		if (fabs(logits[i] - json_real_value(json_array_get(row, i))) > 1e-4)
			fail_msg("logit %zu at position %d is %.7g, expected %.7g", i, position,
				 (double)logits[i], json_real_value(json_array_get(row, i)));
}

static void a_whole_story_has_the_golden_logits_ids_and_loss(void **state)
{
	struct stories s;
	struct error err = ERROR_INIT;
	int32_t cu[2] = {0, 256};
	double loss;
	int64_t labelled;

	(void)state;
	SKIP_WITHOUT(GOLDEN);
	float *logits = xmalloc(sizeof *logits * 256 * 512);
	stories_open(&s);
	struct batch b = {256, 1, s.ids, cu, s.ids + 1};

	assert_int_equal(transformer_logits(s.t, &b, logits, &err), 0);
	for (int i = 0; i < 256; i++) {
		assert_int_equal(argmax(logits + i * 512, 512), s.ids[i + 1]);
		assert_golden_row(s.golden, i, logits + i * 512);
	}
	assert_int_equal(json_object_size(json_object_get(s.golden, "logits_float64")), 5);
	assert_int_equal(transformer_loss(s.t, &b, &loss, &labelled, &err), 0);
	assert_int_equal(labelled, 256);
	assert_true(fabs(loss / 256 - json_real_value(json_object_get(s.golden, "mean_nll_of_greedy_ids"))) <
		    1e-5);
	free(logits);
	stories_close(&s);
}

static void decoding_token_by_token_tells_the_same_story(void **state)
{
	struct stories s;
	struct error err = ERROR_INIT;
	struct kv_cache *k = NULL;
	float logits[512];

	(void)state;
	SKIP_WITHOUT(GOLDEN);
	stories_open(&s);
	assert_int_equal(kv_cache_new(NULL, &s.model->config, 2, 256, &k, &err), 0);
	for (int i = 0; i < 256; i++) {
		assert_int_equal(feed(s.t, k, 1, s.ids + i, 1, logits, &err), 0);
		assert_int_equal(argmax(logits, 512), s.ids[i + 1]);
		assert_golden_row(s.golden, i, logits);
	}
	assert_int_equal(kv_cache_length(k, 1), 256);
	assert_int_equal(kv_cache_length(k, 0), 0);
	assert_int_equal(feed(s.t, k, 1, s.ids, 1, logits, &err), -1);
	assert_string_equal(err.message, "1 more tokens do not fit behind 256 in a cache of 256");
	/* Prefill in two uneven parts ends in the same place. */
	kv_cache_reset(k, 1);
	assert_int_equal(feed(s.t, k, 1, s.ids, 37, logits, &err), 0);
	assert_int_equal(feed(s.t, k, 1, s.ids + 37, 219, logits, &err), 0);
	assert_int_equal(argmax(logits, 512), s.ids[256]);
	kv_cache_free(k);
	stories_close(&s);
}

struct answer {
	int32_t ids[300];
	int n, abort_at;
};

static int remember(int32_t id, void *arg)
{
	struct answer *a = arg;

	a->ids[a->n++] = id;
	return a->n == a->abort_at;
}

static void greedy_generation_is_the_golden_story(void **state)
{
	struct stories s;
	struct error err = ERROR_INIT;
	struct kv_cache *k = NULL;
	struct sampling greedy = sampling_default();
	struct answer a = {.n = 0};
	enum finish finish;

	(void)state;
	SKIP_WITHOUT(GOLDEN);
	stories_open(&s);
	greedy.max_tokens = 256;
	assert_int_equal(kv_cache_new(NULL, &s.model->config, 1, 300, &k, &err), 0);
	assert_int_equal(generate(s.t, k, 0, s.ids, 1, &greedy, remember, &a, &finish, &err), 0);
	assert_int_equal(finish, FINISH_LENGTH);
	assert_int_equal(a.n, 256);
	assert_memory_equal(a.ids, s.ids + 1, sizeof *a.ids * 256);
	kv_cache_free(k);
	stories_close(&s);
}

static void generation_ends_at_stops_limits_and_the_callback(void **state)
{
	struct model_config c = tiny_config(false);
	struct model *m = tiny_new(&c);
	struct transformer *t = NULL;
	struct kv_cache *k = NULL;
	struct error err = ERROR_INIT;
	struct sampling s = sampling_default();
	struct answer a = {.n = 0};
	enum finish finish;
	const int32_t prompt[2] = {1, 2};
	int32_t stop;

	(void)state;
	assert_int_equal(transformer_new(m, NULL, &t, &err), 0);
	assert_int_equal(kv_cache_new(NULL, &c, 1, 10, &k, &err), 0);
	/* The cache holds the prompt and eight answers; the ninth answer needs no room. */
	assert_int_equal(generate(t, k, 0, prompt, 2, &s, remember, &a, &finish, &err), 0);
	assert_int_equal(finish, FINISH_LENGTH);
	assert_int_equal(a.n, 9);
	stop = a.ids[0];
	m->config.eos[0] = stop;
	m->config.n_eos = 1;
	kv_cache_reset(k, 0);
	a.n = 0;
	assert_int_equal(generate(t, k, 0, prompt, 2, &s, remember, &a, &finish, &err), 0);
	assert_int_equal(finish, FINISH_STOP);
	assert_int_equal(a.n, 0);
	s.ignore_eos = true;
	a.abort_at = 3;
	kv_cache_reset(k, 0);
	assert_int_equal(generate(t, k, 0, prompt, 2, &s, remember, &a, &finish, &err), 0);
	assert_int_equal(finish, FINISH_ABORTED);
	assert_int_equal(a.n, 3);
	s.stop = &stop;
	s.nstop = 1;
	kv_cache_reset(k, 0);
	assert_int_equal(generate(t, k, 0, prompt, 2, &s, remember, &a, &finish, &err), 0);
	assert_int_equal(finish, FINISH_STOP);
	s.max_tokens = 0;
	assert_int_equal(generate(t, k, 0, prompt, 2, &s, remember, &a, &finish, &err), -1);
	assert_string_equal(err.message, "max_tokens is 0, at least 1 is needed");
	kv_cache_free(k);
	assert_int_equal(kv_cache_new(NULL, &c, 1, 65, &k, &err), -1);
	transformer_free(t);
	tiny_free(m);
}

/* ---- several at a time ---- */

#define SEQUENCES 5

/* What each of these prompts becomes, `slots` at a time, with at most `piece` tokens of a prompt in one pass. */
static void continue_all(struct model *m, int slots, int piece, const struct sampling s[SEQUENCES],
			 struct answer out[SEQUENCES])
{
	static const int32_t prompt[SEQUENCES][12] = {
		{1, 2},
		{3},
		{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		{1, 2, 30, 31, 32},
		{36, 35, 34, 33, 20, 9, 9},
	};
	static const int lengths[SEQUENCES] = {2, 1, 12, 5, 7};
	const int vocab = m->config.vocab_size;
	struct continuation running[SEQUENCES];
	int whose[SEQUENCES]; /* -1: the slot is free */
	struct transformer *t = NULL;
	struct kv_cache *k = NULL;
	struct error err = ERROR_INIT;
	float *logits = xmalloc(sizeof *logits * SEQUENCES * (size_t)vocab);
	int32_t chosen[SEQUENCES];
	int next = 0, left = SEQUENCES;

	assert_int_equal(transformer_new(m, NULL, &t, &err), 0);
	assert_int_equal(kv_cache_new(NULL, &m->config, slots, 40, &k, &err), 0);
	assert_int_equal(transformer_reserve_decode(t, k, slots * 12, slots, &err), 0);
	for (int i = 0; i < slots; i++)
		whose[i] = -1;
	while (left) {
		struct decode_item items[SEQUENCES];
		int of[SEQUENCES], count = 0;

		for (int i = 0; i < slots; i++) {
			if (whose[i] < 0 && next < SEQUENCES) {
				whose[i] = next++;
				out[whose[i]].n = 0;
				kv_cache_reset(k, i);
				assert_int_equal(continuation_begin(&running[i], t, k, i, prompt[whose[i]],
								    lengths[whose[i]], &s[whose[i]], &err),
						 0);
			}
			if (whose[i] < 0)
				continue;
			items[count] = continuation_feed(&running[i], piece);
			of[count++] = i;
		}
		assert_int_equal(transformer_decode(t, k, items, count, logits, chosen, &err), 0);
		for (int i = 0; i < count; i++) {
			struct continuation *g = &running[of[i]];
			struct answer *a = &out[whose[of[i]]];

			assert_int_equal(chosen[i], argmax(logits + i * vocab, vocab));
			enum step step = continuation_take(g, &items[i], logits + i * vocab, chosen[i]);

			if (step == STEP_TOKEN || step == STEP_LAST)
				a->ids[a->n++] = g->id;
			if (step == STEP_LAST || step == STEP_STOP) {
				whose[of[i]] = -1;
				left--;
			}
		}
	}
	free(logits);
	kv_cache_free(k);
	transformer_free(t);
}

static void sequences_in_one_pass_become_what_each_becomes_alone(void **state)
{
	(void)state;
	for (int gemma = 0; gemma < 2; gemma++) {
		struct model_config c = tiny_config(gemma);
		struct model *m = tiny_new(&c);
		struct sampling s[SEQUENCES];
		struct answer alone[SEQUENCES], together[SEQUENCES];

		for (int i = 0; i < SEQUENCES; i++) {
			s[i] = sampling_default();
			s[i].max_tokens = i == 1 ? 4 : 25;
			s[i].temperature = i % 2 ? 1.0f : 0.0f;
			s[i].seed = (uint64_t)i;
		}
		m->config.eos[0] = 17;
		m->config.n_eos = 1;
		s[0].ignore_eos = s[2].ignore_eos = true;
		continue_all(m, 1, 100, s, alone);
		assert_int_equal(alone[0].n, 25);
		assert_int_equal(alone[2].n, 25);
		for (int slots = 2; slots <= SEQUENCES; slots++)
			for (int piece = 1; piece <= 11; piece += 5) {
				continue_all(m, slots, piece, s, together);
				for (int i = 0; i < SEQUENCES; i++) {
					assert_int_equal(together[i].n, alone[i].n);
					assert_memory_equal(together[i].ids, alone[i].ids,
							    sizeof *alone[i].ids * (size_t)alone[i].n);
				}
			}
		tiny_free(m);
	}
}

/* How often each of five ids comes out of 20,000 draws. */
static void count(const struct sampling *s, const float logits[5], int times[5])
{
	uint64_t seed = s->seed;

	memset(times, 0, 5 * sizeof *times);
	for (int i = 0; i < 20000; i++) {
		float x[5];

		memcpy(x, logits, sizeof x);
		times[sample_token(x, 5, s, &seed)]++;
	}
}

static void sampling_draws_with_the_asked_probabilities(void **state)
{
	/* Probabilities 0.1, 0.4, 0.2, 0.25, 0.05. */
	const float logits[5] = {-2.302585f, -0.916291f, -1.609438f, -1.386294f, -2.995732f};
	struct sampling s = {1, 1.0f, 1.0f, 0, 7, NULL, 0, false};
	int times[5];

	(void)state;
	count(&s, logits, times);
	assert_in_range(times[0], 1850, 2150);
	assert_in_range(times[1], 7800, 8200);
	assert_in_range(times[4], 880, 1120);
	s.top_p = 0.6f; /* 0.4 alone is not enough, with 0.25 it is */
	count(&s, logits, times);
	assert_int_equal(times[0] + times[2] + times[4], 0);
	assert_in_range(times[1], 12000, 12600);
	s.top_p = 1;
	s.top_k = 3;
	count(&s, logits, times);
	assert_int_equal(times[0] + times[4], 0);
	assert_in_range(times[2], 4500, 4920);
	s.top_p = 0.5f; /* of the three's mass 0.85, 0.4 is 47 % */
	count(&s, logits, times);
	assert_int_equal(times[2], 0);
	assert_in_range(times[1], 12000, 12600);
	s.top_k = 0;
	s.top_p = 1;
	s.temperature = 0.5f; /* probabilities squared: 0.4^2 of 0.275 */
	count(&s, logits, times);
	assert_in_range(times[1], 11400, 11880);
	s.temperature = 0;
	assert_int_equal(sample_token((float[5]){1, 3, 0, 3, 2}, 5, &s, &(uint64_t){0}), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_story_has_the_golden_logits_ids_and_loss),
		cmocka_unit_test(decoding_token_by_token_tells_the_same_story),
		cmocka_unit_test(greedy_generation_is_the_golden_story),
		cmocka_unit_test(generation_ends_at_stops_limits_and_the_callback),
		cmocka_unit_test(sequences_in_one_pass_become_what_each_becomes_alone),
		cmocka_unit_test(sampling_draws_with_the_asked_probabilities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
