/* The history: runs, stages, logs, metrics, last keys. */
#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/rundb.h"

static char root[64];
static struct store *s;
static struct arena arena;
static struct error err;

static int setup(void **state)
{
	(void)state;
	strcpy(root, "/tmp/anneal_rundb.XXXXXX");
	return mkdtemp(root) ? store_open(root, false, &s, &err) : -1;
}

static int teardown(void **state)
{
	(void)state;
	store_close(s);
	arena_free(&arena);
	return tree_remove(root, NULL);
}

static struct digest key_of(int i)
{
	struct digest d;
	digest_of(&i, sizeof i, &d);
	return d;
}

static struct run_stage stage_of(const char *name, enum stage_status status, int key)
{
	struct run_stage st = {
		.name = name, .kind = "exec", .status = status, .reason = "because", .has_key = key != 0};
	if (key)
		st.key = key_of(key);
	return st;
}

/* Begins a run of "p" with these stages; its id. */
static int64_t begin(struct run_stage *stages, size_t n)
{
	struct run_param param = {"limit", "10", "--set"};
	struct run_info r = {.pipeline = "p",
			     .file = "p.graph",
			     .graph_text = "stage \"a\" {}\n",
			     .command = "run p",
			     .params = &param,
			     .nparams = 1,
			     .stages = stages,
			     .nstages = n};
	if (run_begin(s, &r, &err))
		fail_msg("%s", err.message);
	return r.id;
}

static void finish(int64_t run)
{
	assert_int_equal(run_end(s, run, RUN_DONE, 0, &err), 0);
}

static void a_run_reads_back_as_it_was_written(void **state)
{
	struct run_stage stages[] = {stage_of("a", STAGE_CACHED, 1), stage_of("b", STAGE_PENDING, 2),
				     stage_of("c", STAGE_UNKNOWN, 0)};
	struct run_info r;
	(void)state;
	int64_t run = begin(stages, 3);
	assert_int_equal(run, 1);
	assert_int_equal(run_load(s, 0, "p", &arena, &r, &err), 0);
	assert_int_equal(r.status, RUN_RUNNING);
	struct run_stage done = stage_of("b", STAGE_DONE, 2);
	done.attempts = 2;
	done.seconds = 1.5;
	done.user_seconds = 1.25;
	done.max_rss = (uint64_t)5 << 30;
	assert_int_equal(run_stage_update(s, run, 1, &done, &err), 0);
	struct run_stage failed = stage_of("c", STAGE_FAILED, 3);
	failed.error = "no such file";
	assert_int_equal(run_stage_update(s, run, 2, &failed, &err), 0);
	assert_int_equal(run_end(s, run, RUN_FAILED, 3, &err), 0);
	store_close(s);
	assert_int_equal(store_open(root, true, &s, &err), 0);
	assert_int_equal(run_load(s, 1, NULL, &arena, &r, &err), 0);
	assert_int_equal(r.status, RUN_FAILED);
	assert_int_equal(r.exit_code, 3);
	assert_true(r.started_ms > 0 && r.finished_ms >= r.started_ms);
	assert_string_equal(r.graph_text, "stage \"a\" {}\n");
	assert_string_equal(r.command, "run p");
	assert_string_equal(r.params[0].origin, "--set");
	assert_int_equal(r.nstages, 3);
	assert_string_equal(r.stages[0].name, "a");
	assert_int_equal(r.stages[0].status, STAGE_CACHED);
	assert_string_equal(r.stages[0].reason, "because");
	struct digest key = key_of(1);
	assert_true(digest_equal(&r.stages[0].key, &key));
	assert_int_equal(r.stages[1].status, STAGE_DONE);
	assert_int_equal(r.stages[1].attempts, 2);
	assert_true(r.stages[1].seconds == 1.5 && r.stages[1].user_seconds == 1.25);
	assert_true(r.stages[1].max_rss == (uint64_t)5 << 30);
	assert_null(r.stages[1].error);
	assert_string_equal(r.stages[2].error, "no such file");
	assert_true(run_last_seconds(s, "p", "b") == 1.5);
	assert_true(run_last_seconds(s, "p", "c") == 0);
}

static void runs_are_listed_newest_first(void **state)
{
	struct run_stage a = stage_of("a", STAGE_CACHED, 1);
	struct run_info *list;
	size_t n;
	(void)state;
	for (int i = 0; i < 5; i++)
		finish(begin(&a, 1));
	assert_int_equal(runs_list(s, 3, &arena, &list, &n, &err), 0);
	assert_int_equal(n, 3);
	assert_int_equal(list[0].id, 5);
	assert_int_equal(list[2].id, 3);
	assert_string_equal(list[2].graph_text, "stage \"a\" {}\n");
	assert_int_equal(list[0].status, RUN_DONE);
}

static void what_is_not_there_is_said(void **state)
{
	struct run_info r;
	(void)state;
	assert_int_equal(run_load(s, 0, NULL, &arena, &r, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	assert_int_equal(run_load(s, 7, NULL, &arena, &r, &err), -1);
	assert_non_null(strstr(err.message, "no run 7"));
	assert_int_equal(run_load(s, 0, "q", &arena, &r, &err), -1);
	assert_non_null(strstr(err.message, "\"q\""));
}

/* ---- liveness ---- */

static void a_run_whose_process_was_killed_is_crashed(void **state)
{
	int pipe_[2];
	char c;
	struct run_info r;
	(void)state;
	assert_int_equal(pipe(pipe_), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct error e;
		if (store_open(root, false, &s, &e))
			_exit(1);
		struct run_stage st = stage_of("a", STAGE_RUNNING, 1);
		begin(&st, 1);
		if (write(pipe_[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	assert_int_equal(read(pipe_[0], &c, 1), 1);
	assert_int_equal(run_load(s, 1, NULL, &arena, &r, &err), 0);
	assert_int_equal(r.status, RUN_RUNNING);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(run_load(s, 1, NULL, &arena, &r, &err), 0);
	assert_int_equal(r.status, RUN_CRASHED);
	struct run_stage st = stage_of("a", STAGE_CACHED, 1);
	finish(begin(&st, 1));
	assert_int_equal(run_load(s, 1, NULL, &arena, &r, &err), 0);
	assert_int_equal(r.status, RUN_CRASHED);
	close(pipe_[0]);
	close(pipe_[1]);
}

/* ---- logs and metrics ---- */

struct seen {
	int n;
	char text[4096];
};

static int see_line(const struct log_line *l, void *arg)
{
	struct seen *seen = arg;
	seen->n++;
	if (strlen(seen->text) < 3000)
		sprintf(seen->text + strlen(seen->text), "%s/%d/%s/%s;", l->stage, l->attempt, l->stream,
			l->line);
	return 0;
}

static int see_point(const struct metric_point *p, void *arg)
{
	struct seen *seen = arg;
	seen->n++;
	sprintf(seen->text + strlen(seen->text), "%s/%s/%d/%s;", p->stage, p->name, (int)p->step,
		isnan(p->value)   ? "nan"
		: p->value == 0.5 ? "half"
				  : "other");
	return 0;
}

static int stop_at_once(const struct log_line *l, void *arg)
{
	(void)l, (void)arg;
	return 42;
}

static void log_lines_keep_their_order_and_their_stage(void **state)
{
	struct run_stage stages[] = {stage_of("a", STAGE_CACHED, 1), stage_of("b", STAGE_PENDING, 2)};
	struct seen all = {0}, one = {0};
	(void)state;
	int64_t run = begin(stages, 2);
	assert_int_equal(run_log(s, run, 1, 1, "stdout", 5, "first", &err), 0);
	assert_int_equal(run_log(s, run, 0, 1, "stderr", 4, "second", &err), 0);
	assert_int_equal(run_log(s, run, 1, 2, "stdout", 6, "third", &err), 0);
	assert_int_equal(run_logs(s, run, NULL, see_line, &all, &err), 0);
	assert_string_equal(all.text, "b/1/stdout/first;a/1/stderr/second;b/2/stdout/third;");
	assert_int_equal(run_logs(s, run, "b", see_line, &one, &err), 0);
	assert_string_equal(one.text, "b/1/stdout/first;b/2/stdout/third;");
	assert_int_equal(run_logs(s, run, NULL, stop_at_once, NULL, &err), 42);
	assert_int_equal(run_logs(s, run, "bb", see_line, &one, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	finish(run);
	assert_int_equal(run_log(s, run, 1, 2, "stdout", 6, "late", &err), -1);
}

static void a_metric_repeated_after_a_resume_has_its_last_value(void **state)
{
	struct run_stage st = stage_of("train", STAGE_RUNNING, 1);
	struct seen seen = {0};
	(void)state;
	int64_t run = begin(&st, 1);
	for (int step = 1; step <= 3; step++)
		assert_int_equal(run_metric(s, run, 0, step, "loss", 2.0, &err), 0);
	assert_int_equal(run_metric(s, run, 0, 3, "loss", 0.5, &err), 0);
	assert_int_equal(run_metric(s, run, 0, 4, "loss", (double)NAN, &err), 0);
	finish(run);
	assert_int_equal(run_metrics(s, run, NULL, see_point, &seen, &err), 0);
	assert_string_equal(seen.text,
			    "train/loss/1/other;train/loss/2/other;train/loss/3/half;train/loss/4/nan;");
}

static void a_reader_of_a_live_run_sees_what_was_flushed(void **state)
{
	struct run_stage st = stage_of("a", STAGE_RUNNING, 1);
	struct store *reader;
	struct seen seen = {0};
	(void)state;
	int64_t run = begin(&st, 1);
	for (int i = 0; i < 2500; i++)
		assert_int_equal(run_log(s, run, 0, 1, "stdout", i, "line", &err), 0);
	assert_int_equal(run_flush(s, &err), 0);
	assert_int_equal(store_open(root, true, &reader, &err), 0);
	assert_int_equal(run_logs(reader, run, "a", see_line, &seen, &err), 0);
	assert_int_equal(seen.n, 2500);
	store_close(reader);
	finish(run);
}

/* ---- last keys ---- */

static void assert_last(const char *stage, int64_t not, bool good, int64_t run, int key)
{
	int64_t got_run = 0;
	struct digest got, want = key_of(key);
	int found = run_last_key(s, "p", stage, not, good, &got_run, &got, &err);
	assert_int_equal(found, run != 0);
	if (run) {
		assert_int_equal(got_run, run);
		assert_true(digest_equal(&got, &want));
	}
}

static void the_last_key_is_that_of_the_newest_run_that_has_one(void **state)
{
	struct run_stage a = stage_of("a", STAGE_DONE, 1), b = stage_of("b", STAGE_CACHED, 9);
	struct run_stage two[] = {a, b};
	(void)state;
	assert_last("a", 0, false, 0, 0);
	finish(begin(two, 2)); /* 1: a=1 done */
	two[0] = stage_of("a", STAGE_CACHED, 1);
	finish(begin(two, 2)); /* 2: a=1 cached, nothing changed */
	finish(begin(two, 2)); /* 3 */
	assert_last("a", 0, false, 3, 1);
	assert_last("a", 3, false, 2, 1);
	assert_last("a", 1, false, 3, 1);
	assert_last("b", 0, true, 3, 9);
	two[0] = stage_of("a", STAGE_FAILED, 2);
	finish(begin(two, 2)); /* 4: a=2 failed */
	assert_last("a", 0, false, 4, 2);
	assert_last("a", 0, true, 3, 1);
	assert_last("a", 4, false, 3, 1);
	assert_last("b", 0, false, 4, 9);
	finish(begin(&b, 1)); /* 5: without a */
	assert_last("a", 0, false, 4, 2);
	assert_last("b", 5, false, 4, 9);
	two[0] = stage_of("a", STAGE_PENDING, 3);
	int64_t run = begin(two, 2); /* 6: a=3, running */
	assert_last("a", 0, false, 6, 3);
	assert_last("a", run, false, 4, 2);
	assert_last("a", 0, true, 3, 1);
	struct run_stage done = stage_of("a", STAGE_DONE, 3);
	assert_int_equal(run_stage_update(s, run, 0, &done, &err), 0);
	assert_last("a", 0, true, 6, 3);
	finish(run);
	two[0] = stage_of("a", STAGE_CACHED, 1);
	finish(begin(two, 2)); /* 7: back to a=1 */
	assert_last("a", 0, true, 7, 1);
	assert_last("a", 7, true, 6, 3);
	assert_last("c", 0, false, 0, 0);
	int64_t r;
	struct digest d;
	assert_int_equal(run_last_key(s, "q", "a", 0, false, &r, &d, &err), 0);
}

/* Against the definition, read run by run. */
static void last_keys_agree_with_the_runs_themselves(void **state)
{
	enum { RUNS = 60, STAGES = 4 };
	static const char *const names[STAGES] = {"a", "b", "c", "d"};
	struct run_stage was[RUNS + 1][STAGES];
	bool there[RUNS + 1][STAGES] = {{false}};
	(void)state;
	srand(7);
	for (int run = 1; run <= RUNS; run++) {
		struct run_stage stages[STAGES];
		size_t n = 0;
		bool repeat = run > 1 && rand() % 2;
		for (int i = 0; i < STAGES; i++) {
			static const enum stage_status any[] = {STAGE_CACHED, STAGE_DONE, STAGE_FAILED,
								STAGE_SKIPPED};
			if (repeat) {
				there[run][i] = there[run - 1][i];
				was[run][i] = was[run - 1][i];
			} else {
				there[run][i] = rand() % 4 != 0;
				was[run][i] = stage_of(names[i], any[rand() % 4], rand() % 4);
			}
			if (there[run][i])
				stages[n++] = was[run][i];
		}
		finish(begin(stages, n));
	}
	for (int i = 0; i < STAGES; i++) {
		for (int not = 0; not <= RUNS; not += 3) {
			for (int good = 0; good < 2; good++) {
				int want = 0;
				for (int run = RUNS; run && !want; run--) {
					const struct run_stage *st = &was[run][i];
					bool ok = st->status == STAGE_CACHED || st->status == STAGE_DONE;
					if (run != not &&there[run][i] && st->has_key && (ok || !good))
						want = run;
				}
				int64_t got = 0;
				struct digest key;
				assert_int_equal(run_last_key(s, "p", names[i], not, good, &got, &key, &err),
						 want != 0);
				assert_int_equal(got, want);
				if (want)
					assert_true(digest_equal(&key, &was[want][i].key));
			}
		}
	}
}

static void ten_thousand_cached_stages_cost_milliseconds_and_almost_no_space(void **state)
{
	enum { N = 10000 };
	struct run_stage *stages = calloc(N, sizeof *stages);
	double best = 1e9;
	(void)state;
	for (int i = 0; i < N; i++)
		stages[i] = stage_of(arena_printf(&arena, "stage%d", i), STAGE_CACHED, i + 1);
	finish(begin(stages, N));
	int64_t pages = 0;
	for (int round = 0; round < 20; round++) {
		double start = clock_mono();
		finish(begin(stages, N));
		double took = clock_mono() - start;
		best = took < best ? took : best;
		sqlite3_stmt *st;
		assert_int_equal(sqlite3_prepare_v2(store_db(s), "PRAGMA page_count", -1, &st, NULL),
				 SQLITE_OK);
		assert_int_equal(sqlite3_step(st), SQLITE_ROW);
		if (round == 0)
			pages = sqlite3_column_int64(st, 0);
		else
			assert_true(sqlite3_column_int64(st, 0) <= pages + 4);
		sqlite3_finalize(st);
	}
	print_message("begin and end of a run of %d cached stages: %.2f ms\n", N, best * 1e3);
	stages[77] = stage_of("stage77", STAGE_DONE, 123456);
	double start = clock_mono();
	finish(begin(stages, N));
	print_message("the same with one stage changed: %.2f ms\n", (clock_mono() - start) * 1e3);
	assert_last("stage77", 0, true, 22, 123456);
	assert_last("stage77", 22, true, 21, 78);
	assert_last("stage78", 0, true, 22, 79);
	free(stages);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_run_reads_back_as_it_was_written),
		T(runs_are_listed_newest_first),
		T(what_is_not_there_is_said),
		T(a_run_whose_process_was_killed_is_crashed),
		T(log_lines_keep_their_order_and_their_stage),
		T(a_metric_repeated_after_a_resume_has_its_last_value),
		T(a_reader_of_a_live_run_sees_what_was_flushed),
		T(the_last_key_is_that_of_the_newest_run_that_has_one),
		T(last_keys_agree_with_the_runs_themselves),
		T(ten_thousand_cached_stages_cost_milliseconds_and_almost_no_space),
	};
	return cmocka_run_group_tests_name("rundb", tests, NULL, NULL);
}
