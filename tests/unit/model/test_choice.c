/* Which device, how its memory is used, and which passes share a recording: rules that need no device. */
#include "tests/unit/cmocka_all.h"

#include <string.h>

#include "model/buckets.h"
#include "model/choice.h"
#include "model/model.h"

static void buckets_hold_their_size_and_waste_little(void **state)
{
	int buckets = 0;

	(void)state;
	for (int n = 1, last = 0; n <= 20000; n++) {
		int b = bucket_of(n);

		assert_true(b >= n && b >= last && b % 16 == 0);
		assert_int_equal(bucket_of(b), b);
		assert_true(b - n < 16 || b - n <= n / (n > 512 ? 8 : 4));
		buckets += b != last;
		last = b;
	}
	assert_in_range(buckets, 40, 80);
}

static struct model_config gemma(void)
{
	return (struct model_config){.arch = ARCH_GEMMA,
				     .vocab_size = 256000,
				     .hidden_size = 2048,
				     .intermediate_size = 16384,
				     .layers = 18,
				     .heads = 8,
				     .kv_heads = 1,
				     .head_dim = 256,
				     .tie_embeddings = true};
}

static void weights_are_resident_where_memory_is_large_and_fast(void **state)
{
	struct model_config c = gemma();
	struct device_info h200 = {.major = 9, .free_memory = 140000000000u, .bandwidth = 4800000000000u},
			   l4 = {.major = 8,
				 .minor = 9,
				 .free_memory = 23000000000u,
				 .bandwidth = 300000000000u};

	(void)state;
	/* 1,981,808,640 projection weights, 524,288,000 of the embedding, 75,776 of norms. */
	assert_int_equal(model_bytes_nf4(&c), 1981808640ull * 9 / 16 + 524288000ull * 2 + 75776 * 4);
	assert_int_equal(model_bytes_resident(&c), (1981808640ull + 524288000ull) * 2 + 75776 * 4);
	assert_true(model_wants_resident(&c, &h200));
	assert_false(model_wants_resident(&c, &l4));
	h200.free_memory = 6000000000u;
	assert_false(model_wants_resident(&c, &h200));
	h200.free_memory = 140000000000u;
	h200.bandwidth = 0; /* the driver does not tell */
	assert_true(model_wants_resident(&c, &h200));
	l4.bandwidth = 0;
	assert_false(model_wants_resident(&c, &l4));
}

static void the_cpu_is_taken_only_where_nobody_asked_for_more(void **state)
{
	struct device_choice c;
	struct error err = ERROR_INIT;
	struct model_config config = gemma();
	char text[160];

	(void)state;
	assert_int_equal(device_choose("cpu", "auto", true, &c, &err), 0);
	assert_ptr_equal(c.device, &device_cpu);
	assert_string_equal(c.text, "on the CPU in fp32");
	assert_false(weights_choose("auto", &c, &config, text));
	assert_true(weights_choose("resident", &c, &config, text));
	assert_int_equal(device_choose("cpu", "bf16", false, &c, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	assert_non_null(strstr(err.message, "precision bf16 needs a GPU"));
	if (device_cuda_count(NULL) > 0)
		return; /* the rest is about machines without */
	assert_int_equal(device_choose("auto", "auto", false, &c, &err), 0);
	assert_ptr_equal(c.device, &device_cpu);
	assert_non_null(strstr(c.text, "on the CPU in fp32: "));
	assert_int_equal(device_choose("auto", "fp16", false, &c, &err), -1);
	assert_int_equal(device_choose("cuda", "auto", false, &c, &err), -1);
	assert_non_null(strstr(err.message, "device cuda: "));
	assert_true(err.hint[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_hold_their_size_and_waste_little),
		cmocka_unit_test(weights_are_resident_where_memory_is_large_and_fast),
		cmocka_unit_test(the_cpu_is_taken_only_where_nobody_asked_for_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
