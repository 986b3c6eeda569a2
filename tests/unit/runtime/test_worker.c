/* runtime/worker.h: what a stage sees and says, how it is stopped, and how it dies. */
#include "tests/unit/runtime/work_kind.h"

#include "runtime/protocol.h"
#include "runtime/worker.h"

/* ---- the protocol ---- */

static void a_message_comes_out_as_it_went_in_however_it_is_cut(void **state)
{
	struct strbuf b = STRBUF_INIT;
	struct arena a = ARENA_INIT;
	struct error err = ERROR_INIT;
	struct message in = {.type = MESSAGE_METRIC,
			     .code = -3,
			     .step = 1LL << 40,
			     .done = INT64_MAX,
			     .total = 7,
			     .value = -0.125,
			     .name = "loss",
			     .text = "täxt",
			     .hint = ""},
		       out;

	(void)state;
	message_pack(&b, &in);
	for (size_t n = 0; n < b.len; n++)
		assert_int_equal(message_unpack(b.data, n, &out, &a, &err), 0);
	assert_int_equal(message_unpack(b.data, b.len, &out, &a, &err), b.len);
	assert_int_equal(out.type, MESSAGE_METRIC);
	assert_int_equal(out.code, -3);
	assert_true(out.step == 1LL << 40 && out.done == INT64_MAX && out.total == 7 && out.value == -0.125);
	assert_string_equal(out.name, "loss");
	assert_string_equal(out.text, "täxt");
	assert_string_equal(out.hint, "");
	strbuf_free(&b);
	arena_free(&a);
}

static void a_broken_frame_is_refused_whatever_byte_is_wrong(void **state)
{
	struct strbuf b = STRBUF_INIT;
	struct arena a = ARENA_INIT;
	struct message m;

	(void)state;
	message_pack(&b, &(struct message){.type = MESSAGE_LOG, .text = "hello"});
	for (size_t i = 0; i < b.len; i++)
		for (int bit = 0; bit < 256; bit++) {
			char saved = b.data[i];
			b.data[i] = (char)bit;
			/* Refused, unfinished, or another message: never a crash or more bytes than there are. */
			long used = message_unpack(b.data, b.len, &m, &a, NULL);
			assert_true(used >= -1 && used <= (long)b.len);
			b.data[i] = saved;
		}
	assert_int_equal(message_unpack("\0\0\0\0", 4, &m, &a, NULL), -1);
	assert_int_equal(message_unpack("\xff\0\0\0", 4, &m, &a, NULL), -1);
	assert_int_equal(message_unpack("\0\0\0\1\xc0", 5, &m, &a, NULL), -1);
	strbuf_free(&b);
	arena_free(&a);
}

/* ---- what a stage sees ---- */

static void attributes_are_typed_and_defaults_filled_in(void **state)
{
	struct place *p = *state;
	size_t n;

	place_graph(p, "stage \"a\" {\n $N\n text = \"t\"\n words = [\"x\", \"y\"]\n source = "
		       "\"data/x.csv\"\n span = \"90s\"\n}\n");
	struct stage_ctx ctx = {.node = &p->graph->stages[0], .pin = "abc"};
	assert_string_equal(ctx_str(&ctx, "text"), "t");
	assert_int_equal(ctx_int(&ctx, "number"), 7);
	assert_true(ctx_float(&ctx, "rate") == 0.5);
	assert_true(ctx_float(&ctx, "span") == 90);
	assert_false(ctx_bool(&ctx, "flag"));
	const char *const *words = ctx_list(&ctx, "words", &n);
	assert_int_equal(n, 2);
	assert_string_equal(words[1], "y");
	assert_string_equal(ctx_str(&ctx, "source"), "data/x.csv");
	assert_true(str_ends(ctx_path(&ctx, "source"), "/data/x.csv"));
	assert_null(ctx_str(&ctx, "revision"));
	assert_false(ctx_given(&ctx, "revision"));
	assert_true(ctx_given(&ctx, "number"));
	assert_null(ctx_input(&ctx, "in"));
	assert_false(ctx_input_digest(&ctx, "in", &(struct digest){{0}}));
	assert_string_equal(ctx_pin(&ctx), "abc");
}

static void what_a_stage_says_becomes_log_metrics_and_facts(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n does = \"talk\"\n}\n"), 0);
	assert_true(told(p, "log a out 2\n"));
	assert_false(told(p, "out 1"));
	assert_true(told(p, "log a last without end\n"));
	assert_true(told(p, "log a err 1\n"));
	assert_true(told(p, "log a mind the gap\n"));
	assert_true(told(p, "progress a 5/10 rows\n"));
	assert_true(told(p, "metric a loss 3 0.25\n"));
	struct result r = result_of(p, "a");
	assert_int_equal(r.nfacts, 1);
	assert_string_equal(r.facts[0].name, "rows");
	assert_string_equal(r.facts[0].value, "10");
}

/* ---- how it dies ---- */

static void a_crash_costs_an_attempt_and_is_told_with_the_last_lines(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $L does = \"segv\"\n retries = 1\n}\nstage \"b\" {\n "
				      "$L text = \"b\"\n}\n"),
			 3);
	assert_string_equal(p->err.message,
			    "stage \"a\": attempt 2 crashed with SIGSEGV (Segmentation fault); it last said: "
			    "about to crash");
	assert_int_equal(executions(p, "a"), 2);
	assert_int_equal(status_of_stage(p, "b"), STAGE_DONE);
	assert_int_equal(place_run(p, "stage \"a\" {\n $L does = \"die\"\n}\n"), 3);
	assert_non_null(strstr(p->err.message, "was killed (SIGKILL): probably out of memory"));
	assert_int_equal(place_run(p, "stage \"a\" {\n $L does = \"exit\"\n}\n"), 3);
	assert_non_null(strstr(p->err.message, "attempt 1 ended with status 7 before it had a result"));
}

static void a_timeout_ends_a_stage_that_looks_and_one_that_does_not(void **state)
{
	struct place *p = *state;

	p->grace = 0.2;
	assert_int_equal(place_run(p, "stage \"a\" {\n $L sleep = 30\n timeout = \"100ms\"\n}\n"), 3);
	assert_string_equal(p->err.message, "stage \"a\": ran longer than its timeout of 100 ms");
	double start = clock_mono();
	assert_int_equal(
		place_run(p,
			  "stage \"a\" {\n $L sleep = 30\n timeout = \"100ms\"\n does = \"stubborn\"\n}\n"),
		3);
	assert_string_equal(p->err.message,
			    "stage \"a\": ran longer than its timeout of 100 ms and was killed");
	assert_true(clock_mono() - start < 5);
}

static void whatever_a_stage_started_ends_with_it(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n does = \"child\"\n}\n"), 0);
	struct result r = result_of(p, "a");
	pid_t child = (pid_t)atoi(r.facts[0].value);
	assert_true(child > 0);
	char path[64];
	size_t n;
	for (int i = 0; i < 200; i++) { /* a zombie until init takes it */
		snprintf(path, sizeof path, "/proc/%d/stat", child);
		char *stat = file_read(path, &n, NULL);
		bool gone = !stat || strstr(stat, ") Z ") || strstr(stat, ") X ");
		free(stat);
		if (gone)
			return;
		usleep(10000);
	}
	fail_msg("process %d is still there", child);
}

/* ---- how it is stopped, and goes on ---- */

static struct place *stop_place;

static void on_alarm(int sig)
{
	(void)sig;
	stop_place->stop++;
}

static void stop_after(struct place *p, double seconds, double then)
{
	struct itimerval t = {
		.it_value = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)},
		.it_interval = {(time_t)then, (suseconds_t)((then - (double)(time_t)then) * 1e6)}};

	stop_place = p;
	p->stop = 0;
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &t, NULL);
}

static void stop_never(struct place *p)
{
	setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
	signal(SIGALRM, SIG_DFL);
	p->stop = 0;
}

static void a_stopped_run_is_interrupted_and_the_next_one_goes_on(void **state)
{
	struct place *p = *state;
	const char *text = "stage \"first\" {\n $L text = \"1\"\n}\nstage \"long\" {\n $L in = first.out\n "
			   "sleep = 30\n}\n"
			   "stage \"last\" {\n $L in = long.out\n}\n";
	const char *again = "stage \"first\" {\n $L text = \"1\"\n}\nstage \"long\" {\n $L in = first.out\n "
			    "sleep = 0\n}\n"
			    "stage \"last\" {\n $L in = long.out\n}\n";

	stop_after(p, 0.2, 0);
	assert_int_equal(place_run(p, text), 5);
	stop_never(p);
	assert_int_equal(p->err.class, ERR_INTERRUPTED);
	assert_int_equal(status_of_stage(p, "first"), STAGE_DONE);
	assert_int_equal(status_of_stage(p, "long"), STAGE_INTERRUPTED);
	assert_int_equal(status_of_stage(p, "last"), STAGE_SKIPPED);
	assert_true(told(p, "end interrupted 5\n"));
	assert_int_equal(place_run(p, again), 0);
	assert_int_equal(executions(p, "first"), 1);
}

static void a_second_signal_kills_at_once(void **state)
{
	struct place *p = *state;

	p->grace = 60;
	stop_after(p, 0.1, 0.2);
	double start = clock_mono();
	assert_int_equal(place_run(p, "stage \"a\" {\n $L sleep = 60\n does = \"stubborn\"\n}\n"), 5);
	stop_never(p);
	assert_true(clock_mono() - start < 5);
	assert_string_equal(p->err.message, "stage \"a\": killed while the run was stopping");
}

static void a_stage_with_checkpoints_goes_on_where_it_was(void **state)
{
	struct place *p = *state;
	const char *slow = "stage \"a\" {\n $L text = \"x\"\n does = \"steps\"\n sleep = 0.01\n timeout = "
			   "\"300ms\"\n}\n";
	const char *fast = "stage \"a\" {\n $L text = \"x\"\n does = \"steps\"\n}\n";
	int code, runs = 0;

	assert_int_equal(place_run(p, slow), 5);
	assert_string_equal(
		p->err.message,
		"stage \"a\": its timeout of 300 ms is up; the next run goes on from its checkpoint");
	assert_int_equal(status_of_stage(p, "a"), STAGE_INTERRUPTED);
	assert_true(told(p, "log a from step 0\n"));
	while ((code = place_run(p, slow)) == 5 && runs++ < 40)
		assert_false(told(p, "log a from step 0\n"));
	assert_int_equal(code, 0);
	assert_string_equal(content(p, "a"), "x");
	/* The checkpoints went when the result came. */
	assert_int_equal(place_run_with(p, fast, (struct plan_options){.force = true}), 0);
	assert_true(told(p, "log a from step 0\n"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_comes_out_as_it_went_in_however_it_is_cut),
		cmocka_unit_test(a_broken_frame_is_refused_whatever_byte_is_wrong),
		TEST(attributes_are_typed_and_defaults_filled_in),
		TEST(what_a_stage_says_becomes_log_metrics_and_facts),
		TEST(a_crash_costs_an_attempt_and_is_told_with_the_last_lines),
		TEST(a_timeout_ends_a_stage_that_looks_and_one_that_does_not),
		TEST(whatever_a_stage_started_ends_with_it),
		TEST(a_stopped_run_is_interrupted_and_the_next_one_goes_on),
		TEST(a_second_signal_kills_at_once),
		TEST(a_stage_with_checkpoints_goes_on_where_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
