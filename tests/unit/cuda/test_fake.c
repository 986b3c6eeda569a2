/* The fake of the CUDA runtime notices what a GPU would get wrong without a word: each mistake in a process of its own. */
#include "tests/unit/cmocka_all.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernels/device.h"
#include "tests/unit/cuda/fake_kernels.h"

#define N 64

/* What a process that makes this mistake ended with: its status, and what it wrote to stderr. host: it reads through the
 * device's pointer then. */
static int run(enum mistake mistake, const char *order, bool host, char *said, size_t size)
{
	int ends[2], status;
	size_t n = 0;

	assert_int_equal(pipe(ends), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct error err = ERROR_INIT;
		struct device *d;
		float x[N];
		void *there;

		signal(SIGSEGV, SIG_DFL); /* cmocka has handlers */
		signal(SIGABRT, SIG_DFL);
		dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		setenv("CUDA_FAKE_ORDER", order, 1);
		if (device_open(DEVICE_CUDA, 0, DTYPE_F32, &d, &err) ||
		    device_alloc(d, sizeof x, &there, &err))
			_exit(3);
		for (int i = 0; i < N; i++)
			x[i] = (float)i;
		device_upload(d, there, x, sizeof x);
		fake_reverse(d, mistake, there);
		if (device_download(d, x, there, sizeof x, &err)) {
			dprintf(STDERR_FILENO, "%s", err.message);
			_exit(4);
		}
		if (host)
			x[0] += *(volatile float *)there;
		for (int i = 0; i < N; i++)
			if (!(x[i] == (float)(N - 1 - i)))
				_exit(5);
		_exit(0);
	}
	close(ends[1]);
	for (ssize_t got; n + 1 < size && (got = read(ends[0], said + n, size - 1 - n)) > 0;)
		n += (size_t)got;
	said[n] = 0;
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static int ended(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void what_is_right_runs_in_every_order(void **state)
{
	static const char *const orders[] = {"forward", "reverse", "shuffle", "shuffle:5"};
	char said[2048];

	(void)state;
	for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
		assert_int_equal(ended(run(NO_MISTAKE, orders[i], false, said, sizeof said)), 0);
	assert_int_equal(ended(run(AHEAD_OF_NEXT, "forward", false, said, sizeof said)), 0);
}

static void a_barrier_that_is_missing_shows_in_some_order(void **state)
{
	char said[2048];

	(void)state;
	/* The first half reads what the second has not brought yet; backwards it is the other half: never right. */
	assert_int_equal(ended(run(NO_BARRIER, "forward", false, said, sizeof said)), 5);
	assert_int_equal(ended(run(NO_BARRIER, "reverse", false, said, sizeof said)), 5);
}

static void copies_arrive_when_they_are_waited_for(void **state)
{
	char said[2048];

	(void)state;
	assert_int_equal(ended(run(NO_COPY_WAIT, "forward", false, said, sizeof said)), 5);
}

static void mistakes_end_the_program_with_a_line(void **state)
{
	static const struct {
		enum mistake mistake;
		const char *says, *too;
	} cases[] = {
		{UNEVEN_BARRIER, "waits at __syncthreads", "has ended"},
		{UNEVEN_SHUFFLE, "waits at __shfl_sync", NULL},
		{NO_GRID_WAIT, "ends without a wait for the kernel before", NULL},
		{NEXT_TOO_EARLY, "grid_next", NULL},
		{AHEAD_OF_ANY, "reads weights before it waits", NULL},
		{TOO_MUCH_SHARED, "bytes of dynamic shared memory", NULL},
#ifndef __SANITIZE_ADDRESS__
		{BEYOND_MEMORY, "reverse_kernel", NULL},
		{BEYOND_SHARED, "writes beyond its 512 bytes of dynamic shared memory", NULL},
#endif
	};
	char said[2048];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status = run(cases[i].mistake, "forward", false, said, sizeof said);

		if (ended(status) == 0 || !strstr(said, "cuda fake: ") || !strstr(said, "reverse_kernel") ||
		    !strstr(said, cases[i].says) || (cases[i].too && !strstr(said, cases[i].too)))
			fail_msg("mistake %d: status %d, said \"%s\"", (int)cases[i].mistake, status, said);
	}
}

static void memory_is_guarded(void **state)
{
	char said[2048];

	(void)state;
	assert_int_not_equal(ended(run(BEYOND_MEMORY, "forward", false, said, sizeof said)), 0);
	assert_int_not_equal(ended(run(BEYOND_SHARED, "forward", false, said, sizeof said)), 0);
	/* The host has no business there. */
	assert_int_not_equal(ended(run(NO_MISTAKE, "forward", true, said, sizeof said)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_right_runs_in_every_order),
		cmocka_unit_test(a_barrier_that_is_missing_shows_in_some_order),
		cmocka_unit_test(copies_arrive_when_they_are_waited_for),
		cmocka_unit_test(mistakes_end_the_program_with_a_line),
		cmocka_unit_test(memory_is_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
