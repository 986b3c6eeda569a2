/* runtime/plan.h: what would run, and why. */
#include "tests/unit/runtime/work_kind.h"

#define CHAIN                                                                                                \
	"stage \"a\" {\n $L text = \"A\"\n}\n"                                                               \
	"stage \"b\" {\n $L text = \"B\"\n in = a.out\n}\n"                                                  \
	"stage \"c\" {\n $L text = \"C\"\n in = b.out\n}\n"

/* The plan of text; the caller frees it. NULL and p->err when it cannot be made. */
static struct plan *plan_of(struct place *p, const char *text, struct plan_options o)
{
	struct plan *plan;

	p->err = (struct error)ERROR_INIT;
	place_graph(p, text);
	return plan_make(p->store, p->graph, &o, &plan, &p->err) < 0 ? NULL : plan;
}

/* "a cached, b run: never run …" */
static const char *states(struct place *p, const char *text, struct plan_options o)
{
	struct plan *plan = plan_of(p, text, o);
	struct strbuf b = STRBUF_INIT;

	if (!plan)
		return p->err.message;
	for (size_t k = 0; k < p->graph->nstages; k++) {
		size_t i = p->graph->order[k];
		const struct plan_stage *st = &plan->stages[i];
		strbuf_addf(&b, "%s%s %s", k ? ", " : "", p->graph->stages[i].name,
			    plan_state_name(st->state));
		if (st->state == PLAN_RUN || st->state == PLAN_UNKNOWN)
			strbuf_addf(&b, ": %s", st->reason);
		if (st->ignored)
			strbuf_addf(&b, " (ignored: %s)", st->ignored);
	}
	const char *line = arena_strdup(&p->arena, b.data ? b.data : "");
	strbuf_free(&b);
	plan_free(plan);
	return line;
}

#define ALL ((struct plan_options){0})

static void nothing_was_run_yet_and_then_everything_is_cached(void **state)
{
	struct place *p = *state;

	assert_string_equal(states(p, CHAIN, ALL),
			    "a run: never run, b unknown: depends on a, c unknown: depends on b");
	assert_int_equal(place_run(p, CHAIN), 0);
	assert_string_equal(states(p, CHAIN, ALL), "a cached, b cached, c cached");
	/* Names, order and comments are not part of a key. */
	assert_string_equal(states(p,
				   "# new\nstage \"z\" {\n $L text = \"C\"\n in = y.out\n}\nstage \"x\" {\n "
				   "$L text = \"A\"\n}\n"
				   "stage \"y\" {\n $L in = x.out\n text = \"B\"\n}\n",
				   ALL),
			    "x cached, y cached, z cached");
}

static void a_changed_attribute_is_named_with_both_values_and_its_place(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n $N\n number = 1000\n rate = 2e-4\n}\n"), 0);
	const char *now = states(p, "stage \"a\" {\n $N\n number = 500\n rate = 2e-4\n}\n", ALL);
	assert_non_null(strstr(now, "a run: attribute number: 1000 -> 500 (t.graph:4:11)"));
	assert_null(strstr(now, "rate"));
	now = states(p, "stage \"a\" {\n $N\n number = 500\n rate = 1e-4\n salt = \"again\"\n}\n", ALL);
	assert_non_null(strstr(now, "number"));
	assert_non_null(strstr(now, "rate"));
	assert_non_null(strstr(now, "salt"));
	/* What does not change the result is not part of the key. */
	assert_string_equal(
		states(p, "stage \"a\" {\n $N\n number = 1000\n rate = 2e-4\n sleep = 1\n retries = 3\n}\n",
		       ALL),
		"a cached");
}

static void a_changed_source_is_told_and_a_touched_one_is_not(void **state)
{
	struct place *p = *state;
	char path[128];
	struct error err = ERROR_INIT;
	const char *text = "stage \"a\" {\n $N\n source = \"words.txt\"\n}\n";

	snprintf(path, sizeof path, "%s/words.txt", p->dir);
	assert_int_equal(file_write_atomic(path, "one", 3, &err), 0);
	assert_int_equal(place_run(p, text), 0);
	assert_int_equal(file_write_atomic(path, "one", 3, &err),
			 0); /* another inode and time, the same bytes */
	assert_string_equal(states(p, text, ALL), "a cached");
	assert_int_equal(file_write_atomic(path, "two", 3, &err), 0);
	assert_string_equal(states(p, text, ALL), "a run: source source changed (t.graph:4:11)");
	unlink(path);
	const char *gone = states(p, text, ALL);
	assert_non_null(strstr(gone, "words.txt"));
	assert_non_null(strstr(gone, "stage \"a\""));
	assert_int_equal(p->err.class, ERR_USAGE);
}

static void the_same_bytes_from_a_rerun_stage_keep_what_follows_cached(void **state)
{
	struct place *p = *state;
	const char *before =
		"stage \"a\" {\n $L text = \"xyz\"\n}\nstage \"b\" {\n $L does = \"short\"\n in = a.out\n}\n"
		"stage \"c\" {\n $L text = \"C\"\n in = b.out\n}\n";
	const char *after =
		"stage \"a\" {\n $L text = \"x--\"\n}\nstage \"b\" {\n $L does = \"short\"\n in = a.out\n}\n"
		"stage \"c\" {\n $L text = \"C\"\n in = b.out\n}\n";

	assert_int_equal(place_run(p, before), 0);
	assert_int_equal(place_run(p, after), 0);
	assert_int_equal(status_of_stage(p, "a"), STAGE_DONE);
	assert_int_equal(status_of_stage(p, "b"), STAGE_DONE);
	assert_int_equal(status_of_stage(p, "c"), STAGE_CACHED);
	assert_int_equal(executions(p, "c"), 1);
	assert_non_null(strstr(recorded(p, "b").reason, "input in changed (a.out)"));
}

static void until_from_and_only_select(void **state)
{
	struct place *p = *state;
	const char *y =
		"stage \"a\" {\n $L text = \"A\"\n}\nstage \"b\" {\n $L in = a.out\n}\n"
		"stage \"c\" {\n $L in = b.out\n also = side.out\n}\nstage \"side\" {\n $L text = \"S\"\n}\n";

	assert_string_equal(states(p, y, (struct plan_options){.until = "b"}),
			    "a run: never run, b unknown: depends on a, side skipped, c skipped");
	assert_int_equal(place_run(p, y), 0);
	assert_string_equal(states(p, y, (struct plan_options){.from = "b"}),
			    "a skipped, b run: --from starts here, side skipped, c unknown: depends on b");
	assert_string_equal(states(p, y, (struct plan_options){.from = "b", .until = "b"}),
			    "a skipped, b run: --from starts here, side skipped, c skipped");
	assert_string_equal(states(p, y, (struct plan_options){.only = "c"}),
			    "a skipped, b skipped, side skipped, c run: --only");
	assert_string_equal(states(p, y, (struct plan_options){.force = true, .until = "a"}),
			    "a run: forced, b skipped, side skipped, c skipped");
	assert_string_equal(states(p, y, (struct plan_options){.from = "side", .until = "b"}),
			    "--from side does not lead to --until b");
	assert_string_equal(states(p, y, (struct plan_options){.only = "c", .until = "c"}),
			    "--only cannot be combined with --from or --until");
	assert_string_equal(states(p, y, (struct plan_options){.from = "sidee"}),
			    "--from sidee: pipeline \"t\" has no such stage");
	assert_string_equal(p->err.hint, "did you mean \"side\"?");
}

static void from_takes_what_was_and_says_which_edits_it_ignores(void **state)
{
	struct place *p = *state;
	const char *edited =
		"stage \"a\" {\n $L text = \"edited\"\n}\nstage \"b\" {\n $L text = \"B\"\n in = a.out\n}\n"
		"stage \"c\" {\n $L text = \"C\"\n in = b.out\n}\n";
	struct plan_options from = {.from = "c"};

	assert_int_equal(place_run(p, CHAIN), 0);
	const char *now = states(p, edited, from);
	assert_non_null(
		strstr(now, "a skipped (ignored: attribute text: \"A\" -> \"edited\" (t.graph:4:9))"));
	assert_non_null(strstr(now, "c run: --from starts here"));
	assert_int_equal(place_run_with(p, edited, from), 0);
	assert_string_equal(content(p, "c"), "CBA");
	assert_int_equal(executions(p, "a"), 1);
	assert_int_equal(executions(p, "c"), 2);
}

static void from_without_what_it_needs_is_refused_with_a_list(void **state)
{
	struct place *p = *state;
	const char *y = "stage \"a\" {\n $L text = \"A\"\n}\nstage \"s\" {\n $L text = \"S\"\n}\n"
			"stage \"c\" {\n $L in = a.out\n also = s.out\n}\n";

	assert_string_equal(states(p, y, (struct plan_options){.from = "c"}),
			    "--from c needs results that are not there: a (it never ended well), s (it never "
			    "ended well)");
	assert_int_equal(p->err.class, ERR_USAGE);
	assert_int_equal(place_run(p, y), 0);
	evict(p, "s");
	assert_string_equal(states(p, y, (struct plan_options){.only = "c"}),
			    "--only c needs results that are not there: s (its bytes are gone)");
}

static void evicted_bytes_are_made_again_only_when_somebody_needs_them(void **state)
{
	struct place *p = *state;
	const char *edited =
		"stage \"a\" {\n $L text = \"A\"\n}\nstage \"b\" {\n $L text = \"B\"\n in = a.out\n}\n"
		"stage \"c\" {\n $L text = \"new\"\n in = b.out\n}\n";

	assert_int_equal(place_run(p, CHAIN), 0);
	evict(p, "a");
	assert_string_equal(states(p, CHAIN, ALL), "a cached, b cached, c cached");
	evict(p, "b");
	assert_string_equal(states(p, CHAIN, ALL), "a cached, b cached, c cached");
	/* c runs again: it needs b, and b needs a. */
	assert_non_null(strstr(
		states(p, edited, ALL),
		"a run: recorded, but its bytes are gone, b run: recorded, but its bytes are gone, c"));
	assert_int_equal(place_run(p, edited), 0);
	assert_string_equal(content(p, "c"), "newBA");
	assert_int_equal(executions(p, "a"), 2);
	assert_int_equal(executions(p, "b"), 2);
	/* What nothing follows is what the pipeline is for. */
	evict(p, "c");
	assert_string_equal(states(p, edited, ALL),
			    "a cached, b cached, c run: recorded, but its bytes are gone");
}

static void a_remote_source_is_asked_once_and_again_when_told_to(void **state)
{
	struct place *p = *state;
	const char *text =
		"stage \"a\" {\n $N\n source = \"hf://some/data\"\n}\nstage \"b\" {\n $N\n text = \"x\"\n}\n";

	assert_int_equal(place_run(p, text), 0);
	assert_int_equal(work_pins, 1); /* b has nothing remote */
	work_pin_text = "commit-2";
	assert_string_equal(states(p, text, ALL), "a cached, b cached");
	assert_int_equal(work_pins, 1);
	const char *now = states(p, text, (struct plan_options){.refresh = true});
	assert_int_equal(work_pins, 2);
	assert_non_null(strstr(now, "a run: pin: \"commit-1\" -> \"commit-2\""));
	assert_non_null(strstr(now, "b cached"));
	/* Another revision is another source. */
	states(p, "stage \"a\" {\n $N\n source = \"hf://some/data\"\n revision = \"v2\"\n}\n", ALL);
	assert_int_equal(work_pins, 3);
}

static void a_stage_whose_published_copy_is_gone_runs_again(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, CHAIN), 0);
	work_is_published = false;
	assert_non_null(strstr(states(p, CHAIN, ALL), "a run: what it published is gone"));
	assert_int_equal(place_run(p, CHAIN), 0);
	assert_int_equal(executions(p, "a"), 2);
}

static void ten_thousand_cached_stages_are_planned_without_delay(void **state)
{
	struct place *p = *state;
	struct strbuf text = STRBUF_INIT;

	strbuf_adds(&text, "stage \"s0\" {\n $N\n}\n");
	for (int i = 1; i < 300; i++)
		strbuf_addf(&text, "stage \"s%d\" {\n $N\n number = %d\n in = s%d.out\n}\n", i, i, i - 1);
	assert_int_equal(place_run(p, text.data), 0);
	strbuf_clear(&text);
	/* The same 300 keys over and over: what is measured is the planning. */
	for (int copy = 0; copy < 34; copy++)
		for (int i = 0; i < 300; i++) {
			strbuf_addf(&text, "stage \"c%d-s%d\" {\n $N\n", copy, i);
			if (i > 0)
				strbuf_addf(&text, " number = %d\n in = c%d-s%d.out\n", i, copy, i - 1);
			strbuf_adds(&text, "}\n");
		}
	place_graph(p, text.data);
	struct plan *plan;
	double start = clock_mono();
	assert_int_equal(plan_make(p->store, p->graph, NULL, &plan, &p->err), 0);
	double took = clock_mono() - start;
	for (size_t i = 0; i < p->graph->nstages; i++)
		assert_int_equal(plan->stages[i].state, PLAN_CACHED);
	plan_free(plan);
	print_message("10,200 stages planned in %.1f ms\n", took * 1e3);
	assert_true(took < 2);
	strbuf_free(&text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_was_run_yet_and_then_everything_is_cached),
		TEST(a_changed_attribute_is_named_with_both_values_and_its_place),
		TEST(a_changed_source_is_told_and_a_touched_one_is_not),
		TEST(the_same_bytes_from_a_rerun_stage_keep_what_follows_cached),
		TEST(until_from_and_only_select),
		TEST(from_takes_what_was_and_says_which_edits_it_ignores),
		TEST(from_without_what_it_needs_is_refused_with_a_list),
		TEST(evicted_bytes_are_made_again_only_when_somebody_needs_them),
		TEST(a_remote_source_is_asked_once_and_again_when_told_to),
		TEST(a_stage_whose_published_copy_is_gone_runs_again),
		TEST(ten_thousand_cached_stages_are_planned_without_delay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
