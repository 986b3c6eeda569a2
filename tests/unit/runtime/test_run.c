/* runtime/run.h: order, parallelism, failures, retries, other runs. */
#include "tests/unit/runtime/work_kind.h"

#include <sys/mount.h>
#include <sys/statvfs.h>

static void a_chain_runs_in_order_and_its_results_are_kept(void **state)
{
	struct place *p = *state;
	const char *text =
		"stage \"b\" {\n $L text = \"B\"\n in = a.out\n}\nstage \"a\" {\n $L text = \"A\"\n}\n";

	assert_int_equal(place_run(p, text), 0);
	assert_string_equal(
		p->events.data,
		"begin\nstarted a 1\nfinished a done\nstarted b 1\nfinished b done\nend done 0\n");
	assert_string_equal(content(p, "b"), "BA");
	struct run_stage b = recorded(p, "b");
	assert_int_equal(b.attempts, 1);
	assert_true(b.seconds > 0 && b.max_rss > 0);
	assert_string_equal(recorded(p, "a").reason, "never run");

	assert_int_equal(place_run(p, text), 0);
	assert_string_equal(p->events.data, "begin\nfinished a cached\nfinished b cached\nend done 0\n");
	assert_int_equal(executions(p, "a") + executions(p, "b"), 2);
	char left[160];
	snprintf(left, sizeof left, "%s/staging/1", p->state);
	assert_false(path_exists(left));
}

static void independent_stages_run_side_by_side(void **state)
{
	struct place *p = *state;
	const char *four = "stage \"a\" {\n $N\n number = 1\n sleep = 0.3\n}\nstage \"b\" {\n $N\n number = "
			   "2\n sleep = 0.3\n}\n"
			   "stage \"c\" {\n $N\n number = 3\n sleep = 0.3\n}\nstage \"d\" {\n $N\n number = "
			   "4\n sleep = 0.3\n}\n";

	p->jobs = 4;
	double start = clock_mono();
	assert_int_equal(place_run(p, four), 0);
	double took = clock_mono() - start;
	assert_true(took >= 0.3 && took < 0.9);
}

static void declared_memory_keeps_stages_apart(void **state)
{
	struct place *p = *state;
	char text[400];
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) >> 20;

	snprintf(text, sizeof text,
		 "stage \"a\" {\n $N\n number = 1\n sleep = 0.2\n memory = \"%lluMiB\"\n}\n"
		 "stage \"b\" {\n $N\n number = 2\n sleep = 0.2\n memory = \"%lluMiB\"\n}\n"
		 "stage \"small\" {\n $N\n number = 3\n}\n",
		 (unsigned long long)all * 2 / 3, (unsigned long long)all * 2 / 3);
	assert_int_equal(place_run(p, text), 0);
	/* The small one passes by, the second large one waits for the first. */
	assert_true(strstr(p->events.data, "started small") < strstr(p->events.data, "finished a"));
	assert_true(strstr(p->events.data, "finished a") < strstr(p->events.data, "started b"));

	snprintf(text, sizeof text, "stage \"a\" {\n $N\n memory = \"%lluMiB\"\n}\n",
		 (unsigned long long)all * 2);
	assert_int_equal(place_run(p, text), 2);
	assert_non_null(strstr(p->err.message, "stage \"a\": it needs "));
	assert_non_null(strstr(p->err.message, "of memory, this machine has"));
}

static void a_gpu_that_is_not_there_is_an_error_before_anything_starts(void **state)
{
	struct place *p = *state;

	setenv("CUDA_VISIBLE_DEVICES", "", 1);
	assert_int_equal(place_run(p, "stage \"a\" {\n $L gpus = 1\n}\n"), 2);
	assert_string_equal(p->err.message, "stage \"a\": it needs 1 GPU, this machine has 0");
	assert_int_equal(executions(p, "a"), 0);
	/* With two devices, two stages of one GPU each run at once, on different ones. */
	setenv("CUDA_VISIBLE_DEVICES", "4,7", 1);
	assert_int_equal(
		place_run(
			p,
			"stage \"a\" {\n $N\n gpus = 1\n}\nstage \"b\" {\n $N\n gpus = 2\n number = 1\n}\n"),
		0);
	assert_true(strstr(p->events.data, "finished a") < strstr(p->events.data, "started b"));
	unsetenv("CUDA_VISIBLE_DEVICES");
}

static void one_failure_skips_what_needs_it_and_nothing_else(void **state)
{
	struct place *p = *state;
	const char *text = "stage \"bad\" {\n $L fails = 9\n}\nstage \"below\" {\n $L in = bad.out\n}\n"
			   "stage \"lower\" {\n $L in = below.out\n also = good.out\n}\n"
			   "stage \"good\" {\n $L text = \"g\"\n sleep = 0.1\n}\nstage \"best\" {\n $L in = "
			   "good.out\n}\n";

	p->jobs = 1;
	assert_int_equal(place_run(p, text), 3);
	assert_string_equal(p->err.message, "stage \"bad\": failed on purpose");
	assert_int_equal(status_of_stage(p, "bad"), STAGE_FAILED);
	assert_string_equal(recorded(p, "bad").error, "failed on purpose");
	assert_int_equal(status_of_stage(p, "below"), STAGE_SKIPPED);
	assert_string_equal(recorded(p, "below").reason, "needs bad, which failed");
	assert_string_equal(recorded(p, "lower").reason, "needs bad, which failed");
	assert_int_equal(status_of_stage(p, "best"), STAGE_DONE);
	assert_true(told(p, "end failed 3\n"));
	/* The next run starts with what is missing alone. */
	assert_int_equal(place_run(p, text), 3);
	assert_int_equal(executions(p, "good"), 1);
	assert_int_equal(executions(p, "bad"), 2);
}

static void retries_are_used_up_by_the_stage_s_own_failures(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $L fails = 2\n retries = 2\n}\n"), 0);
	assert_int_equal(executions(p, "a"), 3);
	assert_int_equal(recorded(p, "a").attempts, 3);
	assert_true(told(p, "retry a 1: failed on purpose\nstarted a 2\nretry a 2"));
	assert_int_equal(place_run(p, "stage \"b\" {\n $L text = \"b\"\n fails = 2\n retries = 1\n}\n"), 3);
	assert_int_equal(executions(p, "b"), 2);
	assert_int_equal(
		place_run(p, "stage \"c\" {\n $L text = \"c\"\n does = \"usage\"\n retries = 5\n}\n"), 2);
	assert_int_equal(executions(p, "c"), 1);
	assert_int_equal(place_run(p, "stage \"d\" {\n $L text = \"d\"\n does = \"infra\"\n}\n"), 4);
	assert_int_equal(executions(p, "d"), 4);
	assert_string_equal(p->err.message, "stage \"d\": no network");
}

static void an_output_that_was_not_made_is_named(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n does = \"nothing\"\n}\n"), 3);
	assert_string_equal(p->err.message, "stage \"a\": it ended well but did not make its output \"out\"");
}

static void a_source_that_changes_under_a_stage_poisons_nothing(void **state)
{
	struct place *p = *state;
	struct error err = ERROR_INIT;
	char path[128];
	const char *editing = "stage \"a\" {\n $L source = \"s.txt\"\n does = \"edit\"\n retries = 3\n}\n";
	const char *quiet = "stage \"a\" {\n $L source = \"s.txt\"\n}\n";

	snprintf(path, sizeof path, "%s/s.txt", p->dir);
	assert_int_equal(file_write_atomic(path, "one\n", 4, &err), 0);
	assert_int_equal(place_run(p, editing), 3);
	assert_non_null(strstr(p->err.message, "changed while it ran"));
	assert_int_equal(executions(p, "a"), 1);
	assert_int_equal(place_run(p, quiet), 0);
	assert_int_equal(status_of_stage(p, "a"), STAGE_DONE);
	assert_int_equal(file_write_atomic(path, "one\n", 4, &err), 0);
	assert_int_equal(place_run(p, quiet), 0);
	assert_int_equal(status_of_stage(p, "a"),
			 STAGE_DONE); /* nothing is on record for the first content */
}

static void directories_are_handed_on_too(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n text = \"deep\"\n does = \"tree\"\n}\n"), 0);
	struct result r = result_of(p, "a");
	assert_true(r.outputs[0].artifact.is_tree);
	assert_int_equal(r.outputs[0].artifact.size, 4);
}

/* The runner takes the digest that the worker has of what it wrote: shown by a file of which that is not true any more. */
static void what_a_worker_hashed_is_not_read_again(void **state)
{
	struct place *p = *state;
	enum { LARGE = 3 << 20 };
	char *bytes = xmalloc(LARGE);
	struct digest written;

	memset(bytes, 'a', LARGE);
	digest_of(bytes, LARGE, &written);
	free(bytes);
	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n does = \"deceive\"\n number = 3145728\n}\n"), 0);
	struct result r = result_of(p, "a");
	assert_int_equal(r.outputs[0].artifact.size, LARGE);
	assert_true(digest_equal(&r.outputs[0].artifact.digest, &written));
}

static void force_replaces_and_tells_of_other_bytes(void **state)
{
	struct place *p = *state;
	const char *sure = "stage \"a\" {\n $L text = \"x\"\n}\n",
		   *random = "stage \"r\" {\n $L does = \"random\"\n}\n";
	struct plan_options force = {.force = true};

	assert_int_equal(place_run(p, sure), 0);
	assert_int_equal(place_run_with(p, sure, force), 0);
	assert_int_equal(executions(p, "a"), 2);
	assert_false(told(p, "not deterministic"));
	assert_int_equal(place_run(p, random), 0);
	struct result before = result_of(p, "r");
	assert_int_equal(place_run_with(p, random, force), 0);
	assert_true(told(
		p, "log r not deterministic: output out differs from the one on record for the same key"));
	struct result after = result_of(p, "r");
	assert_false(digest_equal(&before.outputs[0].artifact.digest, &after.outputs[0].artifact.digest));
}

static void two_stages_of_one_key_are_made_once(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $L text = \"x\"\n sleep = 0.1\n}\n"
				      "stage \"twin\" {\n $L text = \"x\"\n sleep = 0.1\n}\n"),
			 0);
	assert_int_equal(executions(p, "a") + executions(p, "twin"), 1);
	assert_true(told(p, "waiting twin\n"));
	assert_int_equal(status_of_stage(p, "twin"), STAGE_CACHED);
}

static void runs_of_the_same_graph_at_once_execute_each_stage_once(void **state)
{
	struct place *p = *state;
	const char *text = "stage \"a\" {\n $L text = \"a\"\n sleep = 0.05\n}\nstage \"b\" {\n $L text = "
			   "\"b\"\n sleep = 0.05\n}\n"
			   "stage \"c\" {\n $L in = a.out\n also = b.out\n sleep = 0.05\n}\nstage \"d\" {\n "
			   "$L in = c.out\n text = \"d\"\n}\n";
	pid_t runners[8];

	for (size_t i = 0; i < 8; i++) {
		runners[i] = fork();
		if (runners[i] != 0)
			continue;
		struct error err = ERROR_INIT;
		if (store_open(p->state, false, &p->store, &err) < 0) /* a connection of its own */
			_exit(20);
		_exit(place_run(p, text));
	}
	for (size_t i = 0; i < 8; i++) {
		int status;
		assert_int_equal(waitpid(runners[i], &status, 0), runners[i]);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
	for (const char *name = "abcd"; *name; name++)
		assert_int_equal(executions(p, (char[]){*name, '\0'}), 1);
	assert_int_equal(place_run(p, text), 0);
	assert_string_equal(content(p, "d"), "dab");
	assert_int_equal(status_of_stage(p, "d"), STAGE_CACHED);
}

/* Leaves so many bytes free on the file system of path. */
static void fill_disk(const char *path, const char *filler, uint64_t leave)
{
	struct statvfs st;
	char command[300];

	assert_int_equal(statvfs(path, &st), 0);
	uint64_t has = (uint64_t)st.f_bavail * st.f_bsize;
	assert_true(has > leave);
	snprintf(command, sizeof command, "head -c %llu /dev/zero > %s", (unsigned long long)(has - leave),
		 filler);
	assert_int_equal(system(command), 0);
}

static void a_full_disk_is_exit_4_and_nothing_half_is_kept(void **state)
{
	struct place *p = *state;
	struct error err = ERROR_INIT;
	char disk[100], dir[120], filler[120];
	struct strbuf text = STRBUF_INIT;

	snprintf(disk, sizeof disk, "%s/disk", p->dir);
	snprintf(dir, sizeof dir, "%s/state", disk);
	snprintf(filler, sizeof filler, "%s/filler", disk);
	assert_int_equal(mkdir(disk, 0777), 0);
	if (geteuid() != 0 || mount("tmpfs", disk, "tmpfs", 0, "size=32m") < 0) {
		print_message("skipped: no right to mount a small file system\n");
		skip();
	}
	store_close(p->store);
	assert_int_equal(store_open(dir, false, &p->store, &err), 0);
	assert_int_equal(place_run(p, "stage \"small\" {\n $N\n text = \"fits\"\n}\n"), 0);
	/* Room for the output of 3 MiB in the staging directory, and none for it in the store. */
	strbuf_adds(&text, "stage \"large\" {\n $L number = 3145728\n does = \"large\"\n}\n");
	fill_disk(disk, filler, 4 << 20);
	assert_int_equal(place_run(p, text.data), 4);
	assert_int_equal(p->err.class, ERR_INFRA);
	assert_non_null(strstr(p->err.message, "stage \"large\": output \"out\": "));
	assert_non_null(strstr(p->err.message, "full"));
	assert_int_equal(executions(p, "large"), 1); /* to run it again would not help */
	assert_int_equal(unlink(filler), 0);
	assert_int_equal(place_run(p, text.data), 0);
	assert_int_equal(result_of(p, "large").outputs[0].artifact.size, 3 << 20);
	store_close(p->store);
	assert_int_equal(umount2(disk, MNT_DETACH), 0);
	assert_int_equal(store_open(p->state, false, &p->store, &err), 0);
	strbuf_free(&text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_chain_runs_in_order_and_its_results_are_kept),
		TEST(independent_stages_run_side_by_side),
		TEST(declared_memory_keeps_stages_apart),
		TEST(a_gpu_that_is_not_there_is_an_error_before_anything_starts),
		TEST(one_failure_skips_what_needs_it_and_nothing_else),
		TEST(retries_are_used_up_by_the_stage_s_own_failures),
		TEST(an_output_that_was_not_made_is_named),
		TEST(a_source_that_changes_under_a_stage_poisons_nothing),
		TEST(directories_are_handed_on_too),
		TEST(what_a_worker_hashed_is_not_read_again),
		TEST(force_replaces_and_tells_of_other_bytes),
		TEST(two_stages_of_one_key_are_made_once),
		TEST(runs_of_the_same_graph_at_once_execute_each_stage_once),
		TEST(a_full_disk_is_exit_4_and_nothing_half_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
