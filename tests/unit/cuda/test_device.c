/* A GPU as a device, on the fake of the CUDA runtime: memory, copies, failures, recordings, and what is said where there is no
 * GPU that can be used. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include <cuda_fake.h>

#include "base/error.h"
#include "base/mem.h"
#include "kernels/cuda/cuda.h"

static struct error err;

static void check(int failed)
{
	if (failed)
		fail_msg("%s", err.message);
}

static struct device *gpu(void)
{
	struct device *d;

	check(device_open(DEVICE_CUDA, 0, DTYPE_F32, &d, &err));
	return d;
}

static void *memory(struct device *d, size_t size)
{
	void *p;

	check(device_alloc(d, size, &p, &err));
	return p;
}

static int reset(void **state)
{
	(void)state;
	cuda_fake_reset();
	return 0;
}

static void assert_said(const char *part)
{
	if (!strstr(err.message, part))
		fail_msg("\"%s\" does not say \"%s\"", err.message, part);
	assert_true(err.hint[0]);
}

static void what_is_missing_is_said_in_one_line(void **state)
{
	struct device *d;

	(void)state;
	cuda_fake_set_driver(0);
	assert_int_equal(device_cuda_count(&err), 0);
	assert_said("there is no NVIDIA driver on this machine");
	assert_int_equal(device_open(DEVICE_CUDA, 0, DTYPE_BF16, &d, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	cuda_fake_set_driver(12020);
	assert_int_equal(device_cuda_count(&err), 0);
	assert_said("the NVIDIA driver supports CUDA 12.2, this build needs 13.0");
	cuda_fake_reset();
	cuda_fake_set_device_count(0);
	assert_int_equal(device_cuda_count(&err), 0);
	assert_said("no GPU");
	setenv("CUDA_VISIBLE_DEVICES", "7", 1);
	assert_int_equal(device_cuda_count(&err), 0);
	assert_said("CUDA_VISIBLE_DEVICES is \"7\"");
	unsetenv("CUDA_VISIBLE_DEVICES");
	cuda_fake_reset();
	cuda_fake_set_capability(7, 5);
	assert_int_equal(device_cuda_count(&err), 0);
	assert_said("has compute capability 7.5, this build needs 8.0");
	cuda_fake_reset();
	assert_int_equal(device_cuda_count(&err), 1);
	assert_int_equal(device_open(DEVICE_CUDA, 3, DTYPE_BF16, &d, &err), -1);
	assert_said("there is no GPU 3");
}

static void memory_that_is_not_there_is_an_error_with_figures(void **state)
{
	struct device *d = gpu();
	uint64_t now, peak;
	void *p;

	(void)state;
	device_memory_used(d, &now, &peak);
	uint64_t before = now;
	void *one = memory(d, 1000);

	device_memory_used(d, &now, &peak);
	assert_int_equal(now, before + 1000);
	cuda_fake_set_memory((uint64_t)64 << 20);
	assert_int_equal(device_alloc(d, (size_t)3 << 30, &p, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_said("asked for 3.0 GiB");
	assert_int_equal(device_reserve(d, (size_t)3 << 30, &err), -1);
	assert_said("asked for 3.0 GiB");
	/* It goes on all the same. */
	check(device_wait(d, &err));
	device_free(d, one);
	device_memory_used(d, &now, &peak);
	assert_int_equal(now, before);
	assert_int_equal(peak, before + 1000);
	device_close(d);
}

static void scratch_that_cannot_grow_fails_at_the_next_wait(void **state)
{
	struct device *d = gpu();

	(void)state;
	void *small = cuda_scratch(d, 1000);

	assert_non_null(small);
	assert_ptr_equal(cuda_scratch(d, 10), small);
	/* A recording may use the old block: it stays. */
	uint64_t allocations = cuda_fake_count().allocations;
	void *large = cuda_scratch(d, (size_t)8 << 20);

	assert_non_null(large);
	assert_int_equal(cuda_fake_count().allocations, allocations + 1);
	check(device_reserve(d, (size_t)8 << 20, &err));
	assert_int_equal(cuda_fake_count().allocations, allocations + 1);
	check(device_record_begin(d, &err));
	assert_null(cuda_scratch(d, (size_t)1 << 30));
	struct recording *r = NULL;
	assert_int_equal(device_record_end(d, &r, &err), -1);
	assert_non_null(strstr(err.message, "more scratch memory while recording"));
	device_close(d);
	d = gpu();
	cuda_fake_set_memory((uint64_t)64 << 20);
	assert_null(cuda_scratch(d, (size_t)1 << 30));
	assert_int_equal(device_wait(d, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_said("scratch memory: asked for 1.0 GiB");
	device_close(d);
}

static void the_first_failure_is_told_with_its_operation(void **state)
{
	struct device *d = gpu();
	float host[64] = {0}, *x = memory(d, sizeof host);
	double *out = memory(d, sizeof *out);

	(void)state;
	device_upload(d, x, host, sizeof host);
	check(device_wait(d, &err));
	/* An operation that fails is not told where it is called … */
	for (int n = 1; n < 40; n++) {
		cuda_fake_fail_after(n, cudaErrorLaunchFailure);
		d->ops->sum_squares(d, x, 64, out);
		cuda_fake_fail_after(0, cudaSuccess);
		if (cuda_device(d)->failure != cudaSuccess)
			break;
	}
	/* … but by the next wait, and by every one after it. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(device_download(d, host, x, sizeof host, &err), -1);
		assert_int_equal(err.class, ERR_INFRA);
		assert_non_null(strstr(err.message, "cudaErrorLaunchFailure"));
	}
	device_close(d);
	/* Whatever call of opening and using a device fails: an error, nothing left behind. */
	struct cuda_fake_counts before = cuda_fake_count();
	int failures = 0;

	for (int n = 1; n < 80; n++) {
		struct device *one = NULL;
		void *p = NULL;

		cuda_fake_fail_after(n, cudaErrorLaunchFailure);
		int failed = device_open(DEVICE_CUDA, 0, DTYPE_BF16, &one, &err);
		if (!failed) {
			failed = device_alloc(one, 256, &p, &err);
			if (!failed) {
				device_upload(one, p, host, 256);
				one->ops->sum_squares(one, p, 64, p);
				failed = device_download(one, host, p, 256, &err);
			}
		}
		cuda_fake_fail_after(0, cudaSuccess);
		failures += failed != 0;
		if (failed)
			assert_int_not_equal(err.class, ERR_NONE);
		if (one)
			device_close(one);
		struct cuda_fake_counts after = cuda_fake_count();

		assert_int_equal(before.allocations, after.allocations);
		assert_int_equal(before.pinned, after.pinned);
		assert_int_equal(before.streams, after.streams);
		assert_int_equal(before.events, after.events);
	}
	assert_true(failures > 10);
}

static void copies_keep_their_order_whatever_their_size(void **state)
{
	struct device *d = gpu();
	const size_t large = ((size_t)40 << 20) + 12345; /* more than the whole ring */
	unsigned char *from = xmalloc(large), *back = xmalloc(large), *there = memory(d, large);

	(void)state;
	for (size_t i = 0; i < large; i++)
		from[i] = (unsigned char)(i * 2654435761u >> 24);
	device_upload(d, there, from, large);
	check(device_download(d, back, there, large, &err));
	assert_memory_equal(from, back, large);
	device_free(d, there); /* the fake opens and closes all that there is for each copy */
	there = memory(d, 40000);
	/* Small ones, whose source changes at once. */
	for (int i = 0; i < 10000; i++) {
		int value = i;

		device_upload(d, there + 4 * i, &value, 4);
		value = -1;
	}
	check(device_download(d, back, there, 40000, &err));
	for (int i = 0; i < 10000; i++) {
		int value;

		memcpy(&value, back + 4 * i, 4);
		assert_int_equal(value, i);
	}
	device_zero(d, there, 100);
	device_copy(d, there + 1000, there, 50);
	check(device_download(d, back, there, 2000, &err));
	for (int i = 0; i < 50; i++)
		assert_int_equal(back[1000 + i], 0);
	free(from);
	free(back);
	device_close(d);
}

static void uploads_do_not_belong_into_recordings(void **state)
{
	struct device *d = gpu();
	struct recording *r = NULL;
	void *p = memory(d, 64);
	char host[64] = {0};

	(void)state;
	check(device_record_begin(d, &err));
	device_upload(d, p, host, sizeof host);
	assert_int_equal(device_record_end(d, &r, &err), -1);
	assert_non_null(strstr(err.message, "upload while recording"));
	device_close(d);
}

static void nothing_is_left_when_a_device_is_closed(void **state)
{
	struct cuda_fake_counts before = cuda_fake_count();
	struct device *d = gpu();
	struct recording *r = NULL;
	float *x = memory(d, 4096);
	double *out = memory(d, 8);

	(void)state;
	device_zero(d, x, 4096);
	d->ops->sum_squares(d, x, 1024, out);
	check(device_record_begin(d, &err));
	d->ops->sum_squares(d, x, 1024, out);
	check(device_record_end(d, &r, &err));
	device_replay(d, r);
	check(device_wait(d, &err));
	recording_free(d, r);
	device_close(d);
	struct cuda_fake_counts after = cuda_fake_count();

	assert_int_equal(before.allocations, after.allocations);
	assert_int_equal(before.pinned, after.pinned);
	assert_int_equal(before.streams, after.streams);
	assert_int_equal(before.events, after.events);
	assert_int_equal(before.graphs, after.graphs);
	assert_int_equal(before.execs, after.execs);
	assert_int_equal(before.lt_objects, after.lt_objects);
}

/* A pass of this shape finds all the scratch that it needs after device_reserve. */
static void reserved_scratch_is_enough_for_a_pass(void **state)
{
	static const struct pass_shape shapes[] = {
		{.tokens = 96, .sequences = 3, .hidden = 128, .intermediate = 256, .vocab = 300, .heads = 4, .kv_heads = 1,
		 .head_dim = 32, .max_keys = 96, .logits = 96, .rank = 8, .train = true, .weights = DTYPE_NF4},
		{.tokens = 16, .sequences = 2, .hidden = 64, .intermediate = 128, .vocab = 1000, .heads = 2, .kv_heads = 2,
		 .head_dim = 32, .max_keys = 16, .logits = 16, .rank = 70, .train = true, .full = true, .weights = DTYPE_F32},
	};
	static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (int k = 0; k < 3; k++) {
			const struct pass_shape *s = &shapes[i];
			struct device *d;

			check(device_open(DEVICE_CUDA, 0, acts[k], &d, &err));
			size_t size = device_scratch_for(d, s);

			check(device_reserve(d, size, &err));
			size_t given = cuda_device(d)->scratch_size;
			float *logits = memory(d, (size_t)s->logits * (size_t)s->vocab * 4), *x = memory(d, 1 << 20);
			int32_t *target = memory(d, (size_t)s->logits * 4);
			double *loss = memory(d, 16);

			device_zero(d, logits, (size_t)s->logits * (size_t)s->vocab * 4);
			device_zero(d, target, (size_t)s->logits * 4);
			device_zero(d, x, 1 << 20);
			device_zero(d, loss, 16);
			d->ops->cross_entropy(d, target, s->logits, s->vocab, x, logits, NULL, loss);
			d->ops->sum_squares(d, logits, (size_t)s->logits * (size_t)s->vocab, loss + 1);
			d->ops->rmsnorm_grad(d, x, x, x, x, s->tokens, s->hidden, 0, memory(d, 1 << 20), NULL,
					     memory(d, 1 << 16));
			check(device_wait(d, &err));
			assert_int_equal(cuda_device(d)->scratch_size, given);
			device_close(d);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_missing_is_said_in_one_line, reset, reset),
		cmocka_unit_test_setup_teardown(memory_that_is_not_there_is_an_error_with_figures, reset, reset),
		cmocka_unit_test_setup_teardown(scratch_that_cannot_grow_fails_at_the_next_wait, reset, reset),
		cmocka_unit_test_setup_teardown(the_first_failure_is_told_with_its_operation, reset, reset),
		cmocka_unit_test_setup_teardown(copies_keep_their_order_whatever_their_size, reset, reset),
		cmocka_unit_test_setup_teardown(uploads_do_not_belong_into_recordings, reset, reset),
		cmocka_unit_test_setup_teardown(nothing_is_left_when_a_device_is_closed, reset, reset),
		cmocka_unit_test_setup_teardown(reserved_scratch_is_enough_for_a_pass, reset, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
