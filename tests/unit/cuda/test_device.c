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
	assert_said(", 64 MiB of 64 MiB are free");
	assert_non_null(strstr(err.hint, "smaller batch"));
	assert_non_null(strstr(err.hint, "nf4"));
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
		if (cuda_device(d)->failure != cudaSuccess &&
		    !strcmp(cuda_device(d)->failed_at, "sum_squares"))
			break;
		cuda_device(d)->failure = cudaSuccess;
	}
	/* What fails later does not matter any more. */
	cuda_fake_fail_after(2, cudaErrorIllegalAddress);
	d->ops->argmax(d, x, 1, 64, (int32_t *)out);
	cuda_fake_fail_after(0, cudaSuccess);
	/* … but by the next wait, and by every one after it. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(device_download(d, host, x, sizeof host, &err), -1);
		assert_int_equal(err.class, ERR_INFRA);
		assert_non_null(strstr(err.message, "sum_squares: "));
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

static void recordings_work_on_what_buffers_hold_when_they_are_replayed(void **state)
{
	struct device *d = gpu();
	struct recording *r[2] = {NULL, NULL};
	float host[1000], *x = memory(d, sizeof host), *y = memory(d, sizeof host);
	double *out = memory(d, 16), got[2];

	(void)state;
	assert_true(device_records(d));
	device_zero(d, x, sizeof host);
	d->ops->sum_squares(d, x, 1000, out);
	check(device_record_begin(d, &err));
	d->ops->sum_squares(d, x, 1000, out);
	device_copy(d, y, x, sizeof host);
	check(device_record_end(d, &r[0], &err));
	check(device_record_begin(d, &err));
	device_zero(d, x, sizeof host / 2);
	d->ops->sum_squares(d, y, 1000, out + 1);
	check(device_record_end(d, &r[1], &err));
	/* Scratch that grows now leaves recordings what they were made with. */
	assert_non_null(cuda_scratch(d, (size_t)20 << 20));
	for (int round = 1; round < 4; round++) {
		for (int i = 0; i < 1000; i++)
			host[i] = (float)round;
		device_upload(d, x, host, sizeof host);
		device_replay(d, r[0]);
		device_replay(d, r[1]);
		device_replay(d, r[0]);
		check(device_download(d, got, out, sizeof got, &err));
		assert_true(got[0] == 500.0 * round * round && got[1] == 1000.0 * round * round);
		check(device_download(d, host, y, sizeof host, &err));
		assert_true(host[0] == 0 && host[499] == 0 && host[500] == (float)round);
	}
	recording_free(d, r[0]);
	recording_free(d, r[1]);
	recording_free(d, NULL);
	device_close(d);
}

/* CUDA launches on the thread's current device; which that is, nobody who uses two of them has to know. */
static void a_thread_may_use_several_gpus_in_turn(void **state)
{
	struct device *d[2];
	double *out[2], got;
	float *x[2], host[64];

	(void)state;
	cuda_fake_set_device_count(2);
	for (int i = 0; i < 2; i++) {
		check(device_open(DEVICE_CUDA, i, DTYPE_F32, &d[i], &err));
		x[i] = memory(d[i], sizeof host);
		out[i] = memory(d[i], sizeof *out[i]);
	}
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < 64; k++)
			host[k] = (float)i + 2;
		device_upload(d[i], x[i], host, sizeof host);
	}
	for (int i = 0; i < 2; i++)
		d[i]->ops->sum_squares(d[i], x[i], 64, out[i]);
	for (int i = 0; i < 2; i++) {
		check(device_download(d[i], &got, out[i], sizeof got, &err));
		assert_true(got == 64.0 * (i + 2) * (i + 2));
		device_close(d[i]);
	}
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

/* Every operation of a pass that takes scratch, for n <= shape->tokens tokens; all pointers are p, since nothing runs. */
static void pass_ask(struct device *d, const struct pass_shape *s, int n, void *p)
{
	int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, h = s->hidden, f = s->intermediate;
	int logits = n < s->logits ? n : s->logits;
	const int shapes[][2] = {{q + 2 * kv, h}, {q, h}, {kv, h}, {h, q}, {2 * f, h}, {f, h}, {h, f}};
	const struct dropout_mask mask = {0.1f, 1, p, p};
	struct lora_part parts[LORA_PARTS];

	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (int doubled = 0; doubled < 1 + (s->weights == DTYPE_NF4); doubled++) {
			int rows = shapes[i][0], cols = shapes[i][1];
			struct matrix w = {.dtype = s->weights, .rows = rows, .cols = cols, .data = p};

			w.absmax = doubled ? NULL : p;
			w.absmax_codes = p;
			w.absmax2 = p;
			d->ops->matmul(d, p, &w, n, STORE_ACT, p, rows);
			if (s->train)
				d->ops->matmul_grad_x(d, p, rows, &w, n, STORE_ACT, p);
			if (s->full)
				d->ops->matmul_grad_w(d, p, rows, p, n, rows, cols, p);
		}
	for (int group = 0; s->rank && group < 4; group++) {
		static const int counts[] = {3, 1, 2, 1};
		const int rows[] = {q, h, f, h}, cols[] = {h, q, h, f};

		for (int i = 0; i < LORA_PARTS; i++)
			parts[i] = (struct lora_part){p,       p, p, p, p, group == 0 && i ? kv : rows[group],
						      s->rank, 0, 0};
		for (int count = 1; count <= counts[group]; count++) {
			d->ops->lora(d, p, parts, count, n, cols[group], 1, &mask, ADD_ACT, p, rows[group]);
			if (s->train)
				d->ops->lora_grad(d, p, parts, count, n, cols[group], 1, &mask, p,
						  rows[group], p, ADD_ACT, p);
		}
	}
	for (int sequences = 1; sequences <= s->sequences && sequences <= n; sequences += 3) {
		struct attention a = {.sequences = sequences,
				      .cu_q = p,
				      .k_begin = p,
				      .k_end = p,
				      .queries = n,
				      .max_q = n - sequences + 1,
				      .max_k = s->train ? n - sequences + 1 : s->max_keys,
				      .heads = s->heads,
				      .kv_heads = s->kv_heads,
				      .head_dim = s->head_dim,
				      .q_stride = q + 2 * kv,
				      .k_stride = s->train ? q + 2 * kv : kv,
				      .scale = 1};

		for (; a.max_q >= (n + sequences - 1) / sequences && a.max_q > 0; a.max_q = a.max_q / 2) {
			d->ops->attention(d, &a, p, p, p, p, p);
			if (s->train)
				d->ops->attention_grad(d, &a, p, p, p, p, p, p, p, p, p);
		}
	}
	struct matrix head = {.dtype = s->weights == DTYPE_F32 ? DTYPE_F32 : d->act,
			      .rows = s->vocab,
			      .cols = h,
			      .data = p};

	d->ops->matmul(d, p, &head, logits, STORE_F32, p, s->vocab);
	if (s->train) {
		d->ops->matmul_grad_x(d, p, s->vocab, &head, logits, STORE_F32, p);
		d->ops->cross_entropy(d, p, logits, s->vocab, p, p, p, p);
		d->ops->sum_squares(d, p, (size_t)3 << 30, p);
		d->ops->rmsnorm_grad(d, p, p, p, p, n, h, 0, p, p, s->full ? p : NULL);
	}
	d->ops->argmax(d, p, logits, s->vocab, p);
}

/* Passes of real sizes are recorded and never replayed: inside a recording, scratch that had to grow would fail. */
static void reserved_scratch_is_enough_for_a_pass_and_for_all_smaller_ones(void **state)
{
	static const struct pass_shape shapes[] = {
		/* Gemma 2B: trained with adapters, and decoding */
		{.tokens = 8192,
		 .sequences = 16,
		 .hidden = 2048,
		 .intermediate = 16384,
		 .vocab = 256000,
		 .heads = 8,
		 .kv_heads = 1,
		 .head_dim = 256,
		 .max_keys = 8192,
		 .logits = 512,
		 .rank = 64,
		 .train = true,
		 .weights = DTYPE_NF4},
		{.tokens = 300,
		 .sequences = 64,
		 .hidden = 2048,
		 .intermediate = 16384,
		 .vocab = 256000,
		 .heads = 8,
		 .kv_heads = 1,
		 .head_dim = 256,
		 .max_keys = 8192,
		 .logits = 64,
		 .rank = 8,
		 .weights = DTYPE_BF16},
		/* odd sizes: NF4 whose rows do not begin with a block, or whose absmax codes cannot be read by 4 */
		{.tokens = 96,
		 .sequences = 3,
		 .hidden = 144,
		 .intermediate = 320,
		 .vocab = 300,
		 .heads = 4,
		 .kv_heads = 2,
		 .head_dim = 32,
		 .max_keys = 96,
		 .logits = 96,
		 .rank = 8,
		 .train = true,
		 .weights = DTYPE_NF4},
		{.tokens = 96,
		 .sequences = 3,
		 .hidden = 192,
		 .intermediate = 320,
		 .vocab = 300,
		 .heads = 4,
		 .kv_heads = 4,
		 .head_dim = 48,
		 .max_keys = 96,
		 .logits = 96,
		 .rank = 20,
		 .train = true,
		 .weights = DTYPE_NF4},
		/* every weight */
		{.tokens = 2048,
		 .sequences = 9,
		 .hidden = 4096,
		 .intermediate = 11008,
		 .vocab = 32000,
		 .heads = 32,
		 .kv_heads = 32,
		 .head_dim = 128,
		 .max_keys = 2048,
		 .logits = 1024,
		 .train = true,
		 .full = true,
		 .weights = DTYPE_F32},
		{.tokens = 16,
		 .sequences = 2,
		 .hidden = 64,
		 .intermediate = 128,
		 .vocab = 1000,
		 .heads = 2,
		 .kv_heads = 2,
		 .head_dim = 32,
		 .max_keys = 16,
		 .logits = 16,
		 .rank = 70,
		 .train = true,
		 .weights = DTYPE_F16},
	};
	static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

	(void)state;
	cuda_fake_set_memory((uint64_t)40 << 30);
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (int k = 0; k < 3; k++) {
			const struct pass_shape *s = &shapes[i];
			struct matrix w = {.dtype = acts[k], .rows = 16, .cols = 16};
			struct recording *r = NULL;
			struct device *d;

			check(device_open(DEVICE_CUDA, 0, acts[k], &d, &err));
			check(device_reserve(d, device_scratch_for(d, s), &err));
			/* Room for every operand: nothing touches it. */
			char *p = memory(d, (size_t)12 << 30);

			/* cuBLASLt's workspace is made by the first product. */
			w.data = p;
			device_zero(d, p, 1 << 16);
			d->ops->matmul(d, p + 4096, &w, 16, STORE_F32, p + 8192, 16);
			check(device_wait(d, &err));
			uint64_t allocations = cuda_fake_count().allocations;

			check(device_record_begin(d, &err));
			for (int n = 1; n <= s->tokens; n = n < 12 ? n + 1
							    : n < s->tokens && 5 * n / 4 > s->tokens
								    ? s->tokens
								    : 5 * n / 4)
				pass_ask(d, s, n, p);
			check(device_record_end(d, &r, &err));
			assert_int_equal(cuda_fake_count().allocations, allocations);
			recording_free(d, r);
			device_close(d);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_missing_is_said_in_one_line, reset, reset),
		cmocka_unit_test_setup_teardown(memory_that_is_not_there_is_an_error_with_figures, reset,
						reset),
		cmocka_unit_test_setup_teardown(scratch_that_cannot_grow_fails_at_the_next_wait, reset,
						reset),
		cmocka_unit_test_setup_teardown(the_first_failure_is_told_with_its_operation, reset, reset),
		cmocka_unit_test_setup_teardown(copies_keep_their_order_whatever_their_size, reset, reset),
		cmocka_unit_test_setup_teardown(uploads_do_not_belong_into_recordings, reset, reset),
		cmocka_unit_test_setup_teardown(recordings_work_on_what_buffers_hold_when_they_are_replayed,
						reset, reset),
		cmocka_unit_test_setup_teardown(a_thread_may_use_several_gpus_in_turn, reset, reset),
		cmocka_unit_test_setup_teardown(nothing_is_left_when_a_device_is_closed, reset, reset),
		cmocka_unit_test_setup_teardown(
			reserved_scratch_is_enough_for_a_pass_and_for_all_smaller_ones, reset, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
