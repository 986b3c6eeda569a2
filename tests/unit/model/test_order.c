/* Sampler and schedule against vectors of torch 1.13 / 2.3 and transformers 4.51.3. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>

#include "model/sampler.h"
#include "model/schedule.h"

static void mt19937_gives_torch_outputs(void **state)
{
	(void)state;
	struct mt19937 g;
	const uint32_t first[] = {1608637542u, 3421126067u, 4083286876u, 787846414u};

	mt19937_seed(&g, 42);
	for (int i = 0; i < 4; i++)
		assert_int_equal(mt19937_u32(&g), first[i]);
	mt19937_seed(&g, 42);
	assert_true((mt19937_u64(&g) & INT64_MAX) == 6909045637428952499u);
}

static void randperm_gives_torch_permutations(void **state)
{
	(void)state;
	struct mt19937 g;
	uint32_t p[1000];
	const uint32_t ten42[] = {2, 6, 1, 8, 4, 5, 0, 9, 3, 7}, ten0[] = {4, 1, 7, 5, 3, 9, 0, 8, 6, 2};
	const uint32_t run[] = {876, 50, 408, 807, 800, 594, 790, 465, 538, 615, 90, 332, 827, 470, 307, 590};
	const uint32_t fresh[] = {542, 618, 816, 68};

	mt19937_seed(&g, 42);
	mt19937_randperm(&g, p, 10);
	assert_memory_equal(p, ten42, sizeof ten42);
	mt19937_seed(&g, 0);
	mt19937_randperm(&g, p, 10);
	assert_memory_equal(p, ten0, sizeof ten0);
	mt19937_seed(&g, 42);
	mt19937_randperm(&g, p, 1000);
	assert_memory_equal(p, fresh, sizeof fresh);
	mt19937_seed(&g, 42);
	mt19937_u64(&g);
	mt19937_randperm(&g, p, 1000);
	assert_memory_equal(p, run, sizeof run);
}

static int64_t weighted_sum(const uint32_t *order, uint32_t n)
{
	int64_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (int64_t)i * order[i];
	return sum;
}

/* Made with torch and the algorithm of trainer_pt_utils.py over lengths i * 7919 % 97 + 3. */
static void length_grouping_follows_transformers_over_epochs(void **state)
{
	(void)state;
	static int32_t lengths[1000];
	static uint32_t order[1000];
	const uint32_t first[3][8] = {{740, 668, 50, 790, 14, 984, 876, 294},
				      {837, 995, 25, 305, 948, 75, 463, 851},
				      {837, 632, 596, 693, 463, 560, 366, 75}};
	const int64_t sums[] = {249256336, 248086913, 247487617};
	const uint32_t small[2][13] = {{3, 4, 10, 0, 9, 12, 2, 5, 6, 1, 7, 11, 8},
				       {3, 8, 11, 0, 9, 1, 7, 10, 5, 6, 12, 4, 2}};
	struct sampler s;

	for (int i = 0; i < 1000; i++)
		lengths[i] = i * 7919 % 97 + 3;
	sampler_init(&s, SAMPLER_LENGTH_GROUPED, 42);
	for (int e = 0; e < 3; e++) {
		sampler_epoch(&s, e, lengths, 1000, 2, order);
		assert_memory_equal(order, first[e], sizeof first[e]);
		assert_int_equal(weighted_sum(order, 1000), sums[e]);
	}
	sampler_init(&s, SAMPLER_LENGTH_GROUPED, 7);
	for (int e = 0; e < 2; e++) {
		sampler_epoch(&s, e, lengths, 13, 4, order);
		assert_memory_equal(order, small[e], sizeof small[e]);
	}
}

static void random_order_is_a_fresh_permutation_per_epoch(void **state)
{
	(void)state;
	const uint32_t epochs[2][10] = {{2, 6, 1, 8, 4, 5, 0, 9, 3, 7}, {8, 4, 9, 0, 5, 1, 6, 7, 2, 3}};
	uint32_t order[10];
	struct sampler s;

	sampler_init(&s, SAMPLER_RANDOM, 42);
	for (int e = 0; e < 2; e++) {
		sampler_epoch(&s, e, NULL, 10, 1, order);
		assert_memory_equal(order, epochs[e], sizeof order);
	}
}

/* The rows that transformers 4.51.3's Trainer with accelerate 1.6.0 passed to a model in two epochs: 13 rows, batch size
 * 1, accumulation 2, seed 42, with and without group_by_length. */
static void both_orders_are_those_of_a_real_trainer(void **state)
{
	(void)state;
	const uint32_t want[2][2][13] = {
		{{3, 11, 4, 8, 9, 1, 12, 0, 6, 2, 7, 5, 10}, {3, 0, 9, 1, 8, 2, 6, 12, 7, 10, 4, 5, 11}},
		{{5, 12, 11, 7, 4, 1, 2, 9, 8, 10, 6, 3, 0}, {4, 1, 7, 10, 8, 2, 0, 3, 5, 12, 11, 6, 9}}};
	const enum sampler_kind kinds[] = {SAMPLER_LENGTH_GROUPED, SAMPLER_RANDOM};
	int32_t lengths[13];
	uint32_t order[13];
	struct sampler s;

	for (int i = 0; i < 13; i++)
		lengths[i] = i * 7919 % 97 + 3;
	for (int k = 0; k < 2; k++) {
		sampler_init(&s, kinds[k], 42);
		for (int e = 0; e < 2; e++) {
			sampler_epoch(&s, e, lengths, 13, 2, order);
			assert_memory_equal(order, want[k][e], sizeof order);
		}
	}
}

static void sequential_order_and_single_rows_work(void **state)
{
	(void)state;
	const int32_t length = 5;
	uint32_t order[3];
	struct sampler s;

	sampler_init(&s, SAMPLER_SEQUENTIAL, 1);
	sampler_epoch(&s, 0, NULL, 3, 1, order);
	assert_int_equal(order[0], 0);
	assert_int_equal(order[2], 2);
	sampler_init(&s, SAMPLER_LENGTH_GROUPED, 1);
	sampler_epoch(&s, 0, &length, 1, 8, order);
	assert_int_equal(order[0], 0);
}

static void cosine_schedule_has_the_published_values(void **state)
{
	(void)state;
	const struct {
		int64_t u;
		double lr;
	} v[] = {{0, 0},
		 {1, 1.3333e-5},
		 {14, 1.86667e-4},
		 {15, 2e-4},
		 {16, 1.9999790e-4},
		 {100, 1.8522168e-4},
		 {257, 1.0032387e-4},
		 {499, 2.0979e-9}};
	struct schedule s = {SCHEDULE_COSINE, schedule_warmup(500, 0, 0.03), 500};

	assert_int_equal(s.warmup, 15);
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		double lr = 2e-4 * schedule_at(&s, v[i].u);
		if (lr < v[i].lr * (1 - 5e-5) || lr > v[i].lr * (1 + 5e-5))
			fail_msg("u=%lld: %.9g, expected %.9g", (long long)v[i].u, lr, v[i].lr);
	}
	assert_true(schedule_at(&s, 500) == 0);
}

static void linear_and_constant_schedules_end_where_they_should(void **state)
{
	(void)state;
	struct schedule s = {SCHEDULE_LINEAR, 10, 110};

	assert_true(schedule_at(&s, 5) == 0.5);
	assert_true(schedule_at(&s, 10) == 1);
	assert_true(schedule_at(&s, 60) == 0.5);
	assert_true(schedule_at(&s, 110) == 0);
	assert_true(schedule_at(&s, 500) == 0);
	s.kind = SCHEDULE_CONSTANT;
	assert_true(schedule_at(&s, 0) == 0);
	assert_true(schedule_at(&s, 109) == 1);
	s = (struct schedule){SCHEDULE_CONSTANT, 0, 3};
	assert_true(schedule_at(&s, 0) == 1);
	assert_int_equal(schedule_warmup(500, 7, 0.03), 7);
	s = (struct schedule){SCHEDULE_COSINE, 5, 3}; /* a warm-up longer than the run */
	assert_true(schedule_at(&s, 2) == 2 / 5.0);
	enum schedule_kind k;
	assert_true(schedule_kind_of("linear", &k) && k == SCHEDULE_LINEAR);
	assert_false(schedule_kind_of("polynomial", &k));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mt19937_gives_torch_outputs),
		cmocka_unit_test(randperm_gives_torch_permutations),
		cmocka_unit_test(length_grouping_follows_transformers_over_epochs),
		cmocka_unit_test(random_order_is_a_fresh_permutation_per_epoch),
		cmocka_unit_test(both_orders_are_those_of_a_real_trainer),
		cmocka_unit_test(sequential_order_and_single_rows_work),
		cmocka_unit_test(cosine_schedule_has_the_published_values),
		cmocka_unit_test(linear_and_constant_schedules_end_where_they_should),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
