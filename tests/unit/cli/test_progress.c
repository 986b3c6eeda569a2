/* cli/progress: canned events through the three styles. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/progress.h"

static struct stage_node nodes[] = {
	{.name = "sample"}, {.name = "tokens"}, {.name = "train"}, {.name = "merge"}};
static uint32_t order[] = {0, 1, 2, 3};
static const struct graph graph = {.name = "tune", .stages = nodes, .nstages = 4, .order = order};
static double now;

static double clock_now(void)
{
	return now;
}

/* A run that goes well at first: sample and tokens are cached or made, train is told about, fails, and merge is skipped. */
static void play(struct progress *p)
{
	static struct result_fact facts[] = {{"rows", "1,000"}, {"tokens", "76,100"}};
	static const struct result result = {.facts = facts, .nfacts = 2};
	const int64_t run = 12, wall = 1770000000123;
#define EVENT(...) progress_event(&(struct event){.run = run, .wall_ms = wall, __VA_ARGS__}, p)

	now = 100;
	EVENT(.type = EVENT_RUN_STARTED);
	EVENT(.type = EVENT_STAGE_FINISHED, .stage = 0, .name = "sample", .status = STAGE_CACHED);
	EVENT(.type = EVENT_STAGE_STARTED, .stage = 1, .name = "tokens", .attempt = 1,
	      .message = "never run");
	now = 101.25;
	EVENT(.type = EVENT_STAGE_FINISHED, .stage = 1, .name = "tokens", .status = STAGE_DONE,
	      .seconds = 1.2, .result = &result);
	EVENT(.type = EVENT_STAGE_STARTED, .stage = 2, .name = "train", .attempt = 1,
	      .message = "attribute lr: 1 -> 2");
	for (int step = 1; step <= 30; step++) {
		now += 1;
		EVENT(.type = EVENT_STAGE_PROGRESS, .stage = 2, .name = "train", .attempt = 1,
		      .done = (uint64_t)step, .total = 120, .unit = "steps", .eta = 120.0 - step);
	}
	EVENT(.type = EVENT_STAGE_METRIC, .stage = 2, .name = "train", .step = 30, .message = "loss",
	      .value = 0.431);
	EVENT(.type = EVENT_STAGE_LOG, .stage = 2, .name = "train", .attempt = 1, .level = LOG_WARNING,
	      .message = "bad \033[31mbytes");
	EVENT(.type = EVENT_STAGE_RETRY, .stage = 2, .name = "train", .attempt = 1,
	      .message = "out of memory", .seconds = 2);
	EVENT(.type = EVENT_STAGE_FINISHED, .stage = 2, .name = "train", .status = STAGE_FAILED,
	      .seconds = 30, .message = "out of memory");
	EVENT(.type = EVENT_STAGE_FINISHED, .stage = 3, .name = "merge", .status = STAGE_SKIPPED,
	      .message = "train failed");
	EVENT(.type = EVENT_TICK);
	EVENT(.type = EVENT_RUN_FINISHED, .run_status = RUN_FAILED, .exit_code = 3, .seconds = 31.2);
#undef EVENT
}

static char *show(enum progress_style style, bool color)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	struct progress_options o = {
		.style = style, .graph = &graph, .out = f, .color = color, .width = 70, .clock = clock_now};
	struct progress p;

	progress_init(&p, &o);
	play(&p);
	progress_free(&p);
	fclose(f);
	return text;
}

static void plain_lines_say_each_thing_once(void **state)
{
	(void)state;
	char *text = show(PROGRESS_PLAIN, false);
	assert_string_equal(text, "1 cached: sample\n"
				  "tokens: started: never run\n"
				  "tokens: done in 1.2 s: 1,000 rows, 76,100 tokens\n"
				  "train: started: attribute lr: 1 -> 2\n"
				  "train: 8 %, 10 / 120 steps, 1/s, 1 min 50 s left\n"
				  "train: 16 %, 20 / 120 steps, 1/s, 1 min 40 s left\n"
				  "train: 25 %, 30 / 120 steps, 1/s, 1 min 30 s left\n"
				  "train: warning: bad ?[31mbytes\n"
				  "train: attempt 1 failed, next in 2.0 s: out of memory\n"
				  "train: failed in 30.0 s: out of memory\n"
				  "1 skipped: merge (train failed)\n");
	free(text);
}

static void every_json_line_is_an_object_with_severity_message_and_time(void **state)
{
	static const struct {
		const char *event, *severity, *message;
	} want[] = {
		{"run_started", "INFO", "run 12 of tune started"},
		{"stage_finished", "INFO", "sample: cached"},
		{"stage_started", "INFO", "tokens: started: never run"},
		{"stage_finished", "INFO", "tokens: done in 1.2 s: 1,000 rows, 76,100 tokens"},
		{"stage_started", "INFO", "train: started: attribute lr: 1 -> 2"},
		{"stage_progress", "DEBUG", "train: 10 / 120 steps, 1/s"},
		{"stage_progress", "DEBUG", "train: 20 / 120 steps, 1/s"},
		{"stage_progress", "DEBUG", "train: 30 / 120 steps, 1/s"},
		{"stage_metric", "DEBUG", "train: step 30: loss 0.4310"},
		{"stage_log", "WARNING", "train: bad \033[31mbytes"},
		{"stage_retry", "WARNING", "train: attempt 1 failed, next in 2.0 s: out of memory"},
		{"stage_finished", "ERROR", "train: failed in 30.0 s: out of memory"},
		{"stage_finished", "INFO", "merge: skipped: train failed"},
		{"run_finished", "ERROR", "run 12 of tune: failed in 31.2 s"},
	};
	size_t i = 0;

	(void)state;
	char *text = show(PROGRESS_JSON, false);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), i++) {
		json_t *j = json_loads(line, 0, NULL);
		assert_non_null(j);
		assert_true(i < sizeof want / sizeof *want);
		assert_string_equal(json_string_value(json_object_get(j, "event")), want[i].event);
		assert_string_equal(json_string_value(json_object_get(j, "severity")), want[i].severity);
		assert_string_equal(json_string_value(json_object_get(j, "message")), want[i].message);
		assert_string_equal(json_string_value(json_object_get(j, "time")),
				    "2026-02-02T02:40:00.123Z");
		assert_int_equal(json_integer_value(json_object_get(j, "run")), 12);
		if (i == 3) {
			assert_string_equal(
				json_string_value(json_object_get(json_object_get(j, "facts"), "tokens")),
				"76,100");
			assert_string_equal(json_string_value(json_object_get(j, "status")), "done");
		}
		if (i == 13)
			assert_int_equal(json_integer_value(json_object_get(j, "exit_code")), 3);
		json_decref(j);
	}
	assert_int_equal(i, sizeof want / sizeof *want);
	free(text);
}

/* A terminal of 70 columns, as far as the drawing needs one: what is on it after all was written. */
static char *screen_after(const char *text)
{
	static char cells[200][512];
	size_t row = 0, last = 0;
	struct strbuf out = STRBUF_INIT, line = STRBUF_INIT;

	memset(cells, 0, sizeof cells);
	for (const char *s = text; *s;) {
		unsigned up;
		int n = 0;
		if (sscanf(s, "\033[%uA%n", &up, &n) == 1 && n) {
			assert_true(up <= row);
			row -= up;
			s += n;
		} else if (!strncmp(s, "\033[J", 3)) {
			for (size_t r = row; r < 200; r++)
				cells[r][0] = '\0';
			s += 3;
		} else if (*s == '\r') {
			s++;
		} else {
			size_t len = strcspn(s, "\n");
			assert_true(s[len] == '\n' && row < 199 && len < sizeof cells[0]);
			memcpy(cells[row], s, len);
			cells[row][len] = '\0';
			row++;
			s += len + 1;
		}
		last = row > last ? row : last;
	}
	for (size_t r = 0; r < row; r++)
		strbuf_addf(&out, "%s\n", cells[r]);
	strbuf_free(&line);
	return strbuf_steal(&out);
}

static void on_a_terminal_only_settled_lines_remain(void **state)
{
	(void)state;
	char *text = show(PROGRESS_TTY, false), *screen = screen_after(text);
	assert_string_equal(screen, "= 1 cached: sample\n"
				    "✓ tokens  1,000 rows, 76,100 tokens  1.2 s\n"
				    "train: bad ?[31mbytes\n"
				    "train: attempt 1 failed, next in 2.0 s: out of memory\n"
				    "✗ train   out of memory  30.0 s\n"
				    "- 1 skipped: merge (train failed)\n");
	/* In between there was a bar, a rate and the time that is left, and no line was wider than the terminal. */
	assert_non_null(strstr(text, " 25 %  1 min 30 s left  30 / 120 steps, 1/s"));
	free(screen);
	free(text);
}

static void drawing_is_held_back_to_ten_times_a_second(void **state)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	struct progress_options o = {
		.style = PROGRESS_TTY, .graph = &graph, .out = f, .width = 70, .clock = clock_now};
	struct progress p;

	(void)state;
	now = 5;
	progress_init(&p, &o);
	progress_event(
		&(struct event){.type = EVENT_STAGE_STARTED, .stage = 2, .name = "train", .attempt = 1}, &p);
	for (int i = 0; i < 1000; i++) { /* one second */
		now += 0.001;
		progress_event(&(struct event){.type = EVENT_STAGE_PROGRESS,
					       .stage = 2,
					       .name = "train",
					       .done = (uint64_t)i,
					       .total = 1000,
					       .unit = "rows",
					       .eta = -1},
			       &p);
	}
	progress_free(&p);
	fclose(f);
	size_t drawings = 0;
	for (const char *s = text; (s = strstr(s, "\033[J")); s++)
		drawings++;
	assert_in_range(drawings, 8, 12);
	free(text);
}

static void a_stage_without_reports_takes_as_long_as_last_time(void **state)
{
	struct progress_options o = {.style = PROGRESS_QUIET, .graph = &graph, .clock = clock_now};
	struct progress p;

	(void)state;
	now = 10;
	progress_init(&p, &o);
	progress_event(
		&(struct event){.type = EVENT_STAGE_STARTED, .stage = 2, .name = "train", .attempt = 1}, &p);
	assert_true(progress_left(&p, 2) < 0);
	p.stages[2].usual = 8;
	now = 13;
	assert_true(progress_left(&p, 2) == 5);
	/* Longer than last time: it is not known any more. */
	now = 20;
	assert_true(progress_left(&p, 2) < 0);
	progress_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_lines_say_each_thing_once),
		cmocka_unit_test(every_json_line_is_an_object_with_severity_message_and_time),
		cmocka_unit_test(on_a_terminal_only_settled_lines_remain),
		cmocka_unit_test(drawing_is_held_back_to_ten_times_a_second),
		cmocka_unit_test(a_stage_without_reports_takes_as_long_as_last_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
