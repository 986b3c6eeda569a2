/* What the kernel tests share: the devices that are here, buffers in their memory, random numbers, comparison with a float64
 * reference.
 *
 * Every test runs on every device: the CPU, and in builds with TEST_CUDA a GPU with activations of each dtype. A test makes
 * its inputs on the host, where act_in also rounds them to activations, so that the reference computes from the same
 * numbers; buffers of the device are freed by case_end. Outputs begin as NaN, so that what is not written shows. */
#ifndef TESTS_UNIT_KERNELS_CHECK_H
#define TESTS_UNIT_KERNELS_CHECK_H

#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "kernels/kernels.h"

/* ---- random numbers ---- */

static uint64_t random_state = 12345;

static inline uint32_t random_word(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(random_state >> 32);
}

/* 1 … most */
static inline int random_size(int most)
{
	return 1 + (int)(random_word() % (uint32_t)most);
}

/* n values in [-scale, scale); the caller frees them. */
static inline float *random_floats(size_t n, float scale)
{
	float *x = xmalloc(sizeof *x * (n ? n : 1));

	for (size_t i = 0; i < n; i++)
		x[i] = scale * ((float)(random_word() >> 8) * 0x1p-23f - 1.0f);
	return x;
}

static inline float *copy_floats(const float *x, size_t n)
{
	float *y = xmalloc(sizeof *y * (n ? n : 1));

	memcpy(y, x, sizeof *y * n);
	return y;
}

/* ---- devices ---- */

static struct device *test_devices[4];

static inline void check_device(int failed, const struct error *err)
{
	if (failed)
		fail_msg("%s", err->message);
}

/* The i-th device, or NULL. */
static inline struct device *device_at(size_t i)
{
#ifdef TEST_CUDA
	static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
	static bool tried;
	struct error err = ERROR_INIT;

	if (!tried) {
		tried = true;
		bool there = device_cuda_count(&err) > 0;

		if (!there)
			print_message("without a GPU: %s\n", err.message);
		if (!there && getenv("ANNEAL_REQUIRE_CUDA"))
			fail_msg("a GPU is required: %s", err.message);
		for (size_t k = 0; there && k < 3; k++)
			check_device(device_open(DEVICE_CUDA, 0, acts[k], &test_devices[k + 1], &err), &err);
	}
#endif
	test_devices[0] = &device_cpu;
	return i < 4 ? test_devices[i] : NULL;
}

/* For tools that make kernels a hundred times slower: the environment's TEST_DEVICE is the only device then ("cuda-bf16"), and
 * TEST_EVERY leaves every so-many-th case of a table. */
static inline bool device_wanted(const struct device *d)
{
	const char *only = getenv("TEST_DEVICE");

	return !only || strcmp(only, d->ops->name) == 0;
}

static inline bool case_wanted(size_t i)
{
	const char *every = getenv("TEST_EVERY");

	return !every || atoi(every) < 1 || i % (size_t)atoi(every) == 0;
}

#define EACH_DEVICE(d)                                                                                       \
	for (size_t each = 0; ((d) = device_at(each)); each++)                                               \
		if (device_wanted(d))

/* How many random cases: the fake GPU (tests/fakes/cuda) runs kernels thread by thread. */
static inline int rounds(const struct device *d, int n)
{
	return d->kind == DEVICE_CPU ? n : (n + 3) / 4;
}

/* A tolerance for fp32 and one rounding to activations (at most 2^-8 of a bf16's value, 2^-11 of an fp16's); steps: how many
 * roundings of intermediate activations of order 1 may add up. */
static inline double tolerance(const struct device *d, double fp32, double steps)
{
	return fp32 + (1 + steps) * (d->act == DTYPE_BF16 ? 0x1p-8 : d->act == DTYPE_F16 ? 0x1p-11 : 0);
}

/* ---- buffers ---- */

static struct {
	struct device *device;
	void *p;
} case_buffers[128];
static size_t case_count;

static inline void *device_bytes(struct device *d, const void *bytes, size_t size)
{
	struct error err = ERROR_INIT;
	void *p;

	check_device(device_alloc(d, size ? size : 1, &p, &err), &err);
	assert_true(case_count < sizeof case_buffers / sizeof *case_buffers);
	case_buffers[case_count].device = d;
	case_buffers[case_count++].p = p;
	if (bytes) {
		device_upload(d, p, bytes, size);
	} else {
		void *nans = xmalloc(size + 1);

		memset(nans, 0xff, size + 1);
		device_upload(d, p, nans, size);
		free(nans);
	}
	return p;
}

/* Ends a case: waits, fails on any failure of the device, frees its buffers. */
static inline void case_end(struct device *d)
{
	struct error err = ERROR_INIT;

	check_device(device_wait(d, &err), &err);
	while (case_count > 0) {
		case_count--; /* one that failed may have left another device's */
		device_free(case_buffers[case_count].device, case_buffers[case_count].p);
	}
}

static inline float *f32_in(struct device *d, const float *x, size_t n)
{
	return device_bytes(d, x, n * sizeof *x);
}

static inline int32_t *i32_in(struct device *d, const int32_t *x, size_t n)
{
	return device_bytes(d, x, n * sizeof *x);
}

/* Activations; x becomes what they hold. */
static inline void *act_in(struct device *d, float *x, size_t n)
{
	void *raw = xmalloc(n * 4 + 1);

	floats_to(d->act, x, n, raw);
	floats_from(d->act, raw, n, x);
	void *p = device_bytes(d, raw, n * device_act_size(d));

	free(raw);
	return p;
}

static inline void *act_new(struct device *d, size_t n)
{
	return device_bytes(d, NULL, n * device_act_size(d));
}

static inline float *f32_new(struct device *d, size_t n)
{
	return device_bytes(d, NULL, n * sizeof(float));
}

static inline void *fetch(struct device *d, const void *p, size_t size)
{
	struct error err = ERROR_INIT;
	void *out = xmalloc(size + 1);

	check_device(device_download(d, out, p, size, &err), &err);
	return out;
}

static inline float *f32_out(struct device *d, const float *p, size_t n)
{
	return fetch(d, p, n * sizeof *p);
}

static inline float *act_out(struct device *d, const void *p, size_t n)
{
	void *raw = fetch(d, p, n * device_act_size(d));
	float *x = xmalloc(sizeof *x * (n + 1));

	floats_from(d->act, raw, n, x);
	free(raw);
	return x;
}

/* Of a product's result: fp32 or activations, as `how` says. */
static inline bool is_f32(enum store how)
{
	return how == STORE_F32 || how == ADD_F32;
}

static inline void *store_in(struct device *d, enum store how, float *x, size_t n)
{
	return is_f32(how) ? f32_in(d, x, n) : act_in(d, x, n);
}

static inline float *store_out(struct device *d, enum store how, const void *p, size_t n)
{
	return is_f32(how) ? f32_out(d, p, n) : act_out(d, p, n);
}

/* ---- comparison ---- */

static inline void assert_close(double got, double want, double tolerance, const char *what, size_t i)
{
	if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
		fail_msg("%s[%zu] is %.9g, expected %.9g", what, i, got, want);
}

static inline void assert_all_close(const struct device *d, const float *got, const double *want, size_t n,
				    double tolerance, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabs(got[i] - want[i]) <= tolerance * (1 + fabs(want[i]))))
			fail_msg("%s: %s[%zu] of %zu is %.9g, expected %.9g", d->ops->name, what, i, n,
				 (double)got[i], want[i]);
}

static inline void free_all(void **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i]);
}

#define FREE(...)                                                                                            \
	do {                                                                                                 \
		void *list[] = {__VA_ARGS__};                                                                \
		free_all(list, sizeof list / sizeof *list);                                                  \
	} while (0)

#endif
