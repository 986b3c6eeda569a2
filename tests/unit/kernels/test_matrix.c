/* Weight formats: 16-bit floats and NF4. */
#include "tests/unit/kernels/check.h"

/* The value of a half by its definition. */
static double half_value(uint16_t h)
{
	int e = h >> 10 & 31, m = h & 1023;
	double v = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);

	if (e == 31)
		v = m ? NAN : INFINITY;
	return h & 0x8000 ? -v : v;
}

static void every_half_survives_the_way_to_float_and_back(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x10000; h++) {
		float x = f16_to_f32((uint16_t)h);
		double want = half_value((uint16_t)h);

		if (isnan(want)) {
			assert_true(isnan(x));
			assert_true(isnan(half_value(f16_from_f32(x))));
			continue;
		}
		assert_true(x == want && !signbit(x) == !signbit(want));
		assert_int_equal(f16_from_f32(x), h);
	}
}

static void floats_round_to_the_nearest_half_and_ties_to_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7c00; h++) {
		double low = half_value((uint16_t)h),
		       high = h == 0x7bff ? 65536 : half_value((uint16_t)(h + 1));
		float middle = (float)((low + high) / 2);

		assert_int_equal(f16_from_f32(middle), h + (h & 1));
		assert_int_equal(f16_from_f32(nextafterf(middle, 0)), h);
		assert_int_equal(f16_from_f32(nextafterf(middle, INFINITY)), h + 1);
		assert_int_equal(f16_from_f32(-middle), 0x8000 | (h + (h & 1)));
	}
	assert_int_equal(f16_from_f32(INFINITY), 0x7c00);
	assert_int_equal(f16_from_f32(3e38f), 0x7c00);
	assert_int_equal(f16_from_f32(1e-30f), 0);
}

static void floats_round_to_the_nearest_bfloat_and_ties_to_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7f80; h++) {
		uint32_t bits = h << 16 | 0x8000;
		float middle;

		memcpy(&middle, &bits, 4);
		assert_int_equal(bf16_from_f32(middle), h + (h & 1));
		assert_int_equal(bf16_from_f32(nextafterf(middle, 0)), h);
		assert_int_equal(bf16_from_f32(nextafterf(middle, INFINITY)), h + 1);
		assert_int_equal(bf16_from_f32(bf16_to_f32((uint16_t)h)), h);
	}
	assert_int_equal(bf16_from_f32(-INFINITY), 0xff80);
	assert_true(isnan(bf16_to_f32(bf16_from_f32(NAN))));
}

static void arrays_convert_as_single_values_do(void **state)
{
	float *x = random_floats(77, 100), back[77];
	uint16_t half[78];
	unsigned char *odd = (unsigned char *)half + 1; /* as in a file: not aligned */

	(void)state;
	for (int d = 0; d < 2; d++) {
		enum dtype dtype = d ? DTYPE_F16 : DTYPE_BF16;

		floats_to(dtype, x, 77, odd);
		floats_from(dtype, odd, 77, back);
		for (int i = 0; i < 77; i++)
			assert_true(back[i] ==
				    (d ? f16_to_f32(f16_from_f32(x[i])) : bf16_to_f32(bf16_from_f32(x[i]))));
	}
	free(x);
}

/* bitsandbytes' thresholds (spec and csrc/kernels.cu). */
static const float thresholds[15] = {-0.8480964004993439f,   -0.6106329262256622f,  -0.4599952697753906f,
				     -0.33967943489551544f,  -0.23460740596055984f, -0.13791173323988914f,
				     -0.045525018125772476f, 0.03979014977812767f,  0.1202552504837513f,
				     0.2035212516784668f,    0.2920137718319893f,   0.3893125355243683f,
				     0.5016634166240692f,    0.6427869200706482f,   0.8614784181118011f};

static void nf4_picks_the_upper_value_only_above_the_threshold(void **state)
{
	float x[64] = {1.0f}, absmax;
	uint8_t packed[32];

	(void)state;
	/* absmax 1, so that values are compared as they are. */
	for (int i = 0; i < 15; i++) {
		x[1 + 3 * i] = nextafterf(thresholds[i], -2);
		x[2 + 3 * i] = thresholds[i];
		x[3 + 3 * i] = nextafterf(thresholds[i], 2);
	}
	nf4_quantize(x, 64, false, packed, &absmax);
	assert_true(absmax == 1.0f);
	assert_int_equal(packed[0] >> 4, 15);
	for (int i = 0; i < 15; i++)
		for (int j = 0; j < 3; j++) {
			int at = 1 + 3 * i + j;

			assert_int_equal(at % 2 ? packed[at / 2] & 15 : packed[at / 2] >> 4,
					 j == 2 ? i + 1 : i);
		}
}

static void nf4_of_its_own_codebook_is_exact_and_zeros_stay_zero(void **state)
{
	float x[200] = {0}, absmax[4], back[200];
	uint8_t packed[100];
	struct matrix m = {.dtype = DTYPE_NF4, .rows = 1, .cols = 200, .data = packed, .absmax = absmax};

	(void)state;
	for (int i = 0; i < 64; i++)
		x[64 + i] = 3.0f * nf4_codebook[i % 16];
	for (int i = 128; i < 200; i++)
		x[i] = -0.25f;
	nf4_quantize(x, 200, false, packed, absmax);
	assert_true(absmax[0] == 0 && absmax[1] == 3 && absmax[2] == 0.25f);
	for (int i = 0; i < 32; i++)
		assert_int_equal(packed[i], 0);
	assert_int_equal(packed[32], 0x01); /* first value in the high nibble */
	assert_int_equal(packed[39], 0xef);
	for (int first = 0; first < 200; first += 13)
		for (int count = 1; count <= 200 - first; count += 7) {
			nf4_dequantize(&m, (size_t)first, (size_t)count, back);
			for (int i = 0; i < count; i++)
				assert_true(back[i] == x[first + i]);
		}
}

static void nf4_through_fp16_rounds_before_and_after(void **state)
{
	float x[64], half[64], absmax, absmax_half, back[64];
	uint8_t packed[32], packed_half[32];
	float *random = random_floats(64, 1);

	(void)state;
	for (int i = 0; i < 64; i++) {
		x[i] = random[i];
		half[i] = f16_to_f32(f16_from_f32(x[i]));
	}
	nf4_quantize(x, 64, true, packed, &absmax);
	nf4_quantize(half, 64, false, packed_half, &absmax_half);
	assert_memory_equal(packed, packed_half, 32);
	assert_true(absmax == absmax_half);
	struct matrix m = {.dtype = DTYPE_NF4,
			   .round_fp16 = true,
			   .rows = 8,
			   .cols = 8,
			   .data = packed,
			   .absmax = &absmax};

	matrix_rows(&m, 0, 8, back);
	for (int i = 0; i < 64; i++) {
		int index = i % 2 ? packed[i / 2] & 15 : packed[i / 2] >> 4;

		assert_true(back[i] == f16_to_f32(f16_from_f32(nf4_codebook[index] * absmax)));
	}
	free(random);
}

static void the_dynamic_map_has_the_published_shape(void **state)
{
	const float *map = dynamic_map();

	(void)state;
	/* bitsandbytes' create_dynamic_map(signed=True): ascending, symmetric but for 1, 0 in the middle. */
	for (int i = 1; i < 256; i++)
		assert_true(map[i] > map[i - 1]);
	assert_true(map[127] == 0 && map[255] == 1);
	for (int i = 0; i < 127; i++)
		assert_true(map[i] == -map[254 - i]);
	assert_close(map[128], 0.55e-6, 1e-12, "map", 128);
	assert_close(map[254], 1 - 0.9 / 128, 1e-7, "map", 254);
	assert_close(map[191], 0.1 + 0.9 / 128, 1e-7, "map", 191);
}

static void quantised_absmax_comes_back_as_the_nearest_code(void **state)
{
	size_t blocks = 1000;
	float *absmax = random_floats(blocks, 0.5f), absmax2[4], offset;
	uint8_t *codes = xmalloc(blocks);
	const float *map = dynamic_map();
	double sum = 0;

	(void)state;
	for (size_t i = 0; i < blocks; i++)
		sum += absmax[i] = fabsf(absmax[i]);
	nf4_quantize_absmax(absmax, blocks, codes, absmax2, &offset);
	assert_close(offset, sum / (double)blocks, 1e-7, "offset", 0);
	for (size_t i = 0; i < blocks; i++) {
		float scaled = (absmax[i] - offset) / absmax2[i / 256];

		for (int j = 0; j < 256; j++)
			assert_true(fabsf(scaled - map[codes[i]]) <= fabsf(scaled - map[j]));
	}
	/* And a matrix with such absmax gives code * absmax2 + offset times the codebook. */
	uint8_t *packed = xmalloc(blocks * 32);
	float *values = xmalloc(sizeof *values * blocks * 64);
	struct matrix m = {.dtype = DTYPE_NF4,
			   .rows = 1000,
			   .cols = 64,
			   .data = packed,
			   .absmax_codes = codes,
			   .absmax2 = absmax2,
			   .absmax_offset = offset};

	for (size_t i = 0; i < blocks * 32; i++)
		packed[i] = (uint8_t)random_word();
	matrix_rows(&m, 0, 1000, values);
	for (size_t i = 0; i < blocks * 64; i++) {
		float a = map[codes[i / 64]] * absmax2[i / 64 / 256];

		a += offset;
		assert_close(values[i], nf4_codebook[i % 2 ? packed[i / 2] & 15 : packed[i / 2] >> 4] * a,
			     1e-7, "value", i);
	}
	free(absmax);
	free(codes);
	free(packed);
	free(values);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_half_survives_the_way_to_float_and_back),
		cmocka_unit_test(floats_round_to_the_nearest_half_and_ties_to_even),
		cmocka_unit_test(floats_round_to_the_nearest_bfloat_and_ties_to_even),
		cmocka_unit_test(arrays_convert_as_single_values_do),
		cmocka_unit_test(nf4_picks_the_upper_value_only_above_the_threshold),
		cmocka_unit_test(nf4_of_its_own_codebook_is_exact_and_zeros_stay_zero),
		cmocka_unit_test(nf4_through_fp16_rounds_before_and_after),
		cmocka_unit_test(the_dynamic_map_has_the_published_shape),
		cmocka_unit_test(quantised_absmax_comes_back_as_the_nearest_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
