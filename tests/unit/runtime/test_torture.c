/* kill -9 of the runner at any moment: the next run works without a flag, and ends with the right bytes. */
#include "tests/unit/runtime/work_kind.h"

#include <dirent.h>
#include <sys/prctl.h>

#define KILLS 40

static const char text[] = "stage \"a\" {\n $L text = \"a\"\n sleep = 0.004\n}\nstage \"b\" {\n $L text = "
			   "\"b\"\n in = a.out\n does = \"tree\"\n}\n"
			   "stage \"c\" {\n $L text = \"c\"\n in = a.out\n sleep = 0.004\n}\n"
			   "stage \"steps\" {\n $L text = \"s\"\n in = c.out\n does = \"steps\"\n}\n"
			   "stage \"d\" {\n $L text = \"d\"\n in = c.out\n also = steps.out\n}\n";

/* The run in a process of its own, whose store connection is its own too; its pid. */
static pid_t start_runner(struct place *p)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	struct error err = ERROR_INIT;
	if (store_open(p->state, false, &p->store, &err) < 0)
		_exit(20);
	_exit(place_run(p, text));
}

static void a_runner_killed_anywhere_leaves_nothing_in_the_way(void **state)
{
	struct place *p = *state;
	unsigned seed = 12345;
	int killed = 0, finished = 0;

	for (int i = 0; i < KILLS; i++) {
		pid_t pid = start_runner(p);
		int status;
		assert_true(pid > 0); /* kill(-1) would be for everybody */
		seed = seed * 1103515245 + 12345;
		usleep(500 + (seed >> 8) % 60000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		killed += WIFSIGNALED(status);
		if (!WIFEXITED(status))
			continue;
		assert_int_equal(WEXITSTATUS(status), 0);
		/* It was done before the blow: from the start, in a new state directory. */
		finished++;
		store_close(p->store);
		tree_remove(p->state, NULL);
		assert_int_equal(store_open(p->state, false, &p->store, &p->err), 0);
	}
	print_message("%d killed, %d came through\n", killed, finished);
	assert_true(killed > KILLS / 4);
	if (place_run(p, text) != 0)
		fail_msg("%s", p->err.message);
	assert_string_equal(content(p, "d"), "dcasca");
	assert_string_equal(content(p, "c"), "ca");
	/* What the dead ones left goes when the store is opened next. */
	char staging[128];
	int left = 0;
	snprintf(staging, sizeof staging, "%s/staging", p->state);
	store_close(p->store);
	assert_int_equal(store_open(p->state, false, &p->store, &p->err), 0);
	DIR *d = opendir(staging);
	for (struct dirent *entry; d && (entry = readdir(d));)
		left += entry->d_name[0] != '.';
	if (d)
		closedir(d);
	assert_int_equal(left, 0);
}

static void the_workers_of_a_killed_runner_die_with_it(void **state)
{
	struct place *p = *state;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err = ERROR_INIT;
		if (store_open(p->state, false, &p->store, &err) < 0)
			_exit(20);
		_exit(place_run(p, "stage \"a\" {\n $L sleep = 60\n does = \"stubborn\"\n}\n"));
	}
	assert_true(pid > 0);
	for (int i = 0; i < 500 && executions(p, "a") == 0; i++)
		usleep(10000);
	assert_int_equal(executions(p, "a"), 1);
	/* The worker becomes a child of this process when the runner dies, so that its end can be seen. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	kill(pid, SIGKILL);
	int status, seen = 0;
	double start = clock_mono();
	while (seen < 2 && clock_mono() - start < 10)
		if (waitpid(-1, &status, WNOHANG) > 0)
			seen++;
		else
			usleep(1000);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	assert_int_equal(seen, 2);
	/* And its lease went with it. */
	double again = clock_mono();
	assert_int_equal(place_run(p, "stage \"a\" {\n $L sleep = 0\n}\n"), 0);
	assert_true(clock_mono() - again < 5);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_runner_killed_anywhere_leaves_nothing_in_the_way),
		TEST(the_workers_of_a_killed_runner_die_with_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
