/* stages/exec.c: a user's command, its inputs and outputs, and what is said when it fails. */
#include "tests/unit/runtime/work_kind.h"

#include "data/rows.h"

extern const struct stage_kind stage_exec;

static void a_command_reads_inputs_and_makes_outputs(void **state)
{
	struct place *p = *state;

	assert_int_equal(
		place_run(p, "stage \"a\" {\n $N\n text = \"from a\"\n}\n"
			     "stage \"b\" {\n uses = \"exec\"\n inputs = { it = a.out }\n outputs = { made = "
			     "\"file\" }\n"
			     " command = \"tr a-z A-Z < $IN_it > $OUT_made; echo done; echo oops >&2\"\n}\n"),
		0);
	assert_string_equal(content(p, "b"), "FROM A");
	assert_true(told(p, "log b done\n"));
	assert_true(told(p, "log b oops\n"));
}

static void it_runs_beside_the_graph_with_its_files_and_environment(void **state)
{
	struct place *p = *state;
	struct error err = ERROR_INIT;
	char path[128];
	const char *text = "stage \"a\" {\n uses = \"exec\"\n files = [\"one.sh\", \"two.txt\"]\n env = "
			   "[\"WHO=me = you\"]\n"
			   " outputs = { made = \"file\" }\n command = \"sh $1 $2 > $OUT_made\"\n}\n";

	snprintf(path, sizeof path, "%s/two.txt", p->dir);
	assert_int_equal(file_write_atomic(path, "two", 3, &err), 0);
	snprintf(path, sizeof path, "%s/one.sh", p->dir);
	const char *script =
		"test -d \"$TMPDIR\" && printf '%s|%s|' \"$WHO\" \"$(ls two.txt)\" && cat \"$1\"\n";
	assert_int_equal(file_write_atomic(path, script, strlen(script), &err), 0);
	assert_int_equal(place_run(p, text), 0);
	assert_string_equal(content(p, "a"), "me = you|two.txt|two");
	assert_int_equal(place_run(p, text), 0);
	assert_int_equal(status_of_stage(p, "a"), STAGE_CACHED);
	script = "echo other; cat \"$1\"";
	assert_int_equal(file_write_atomic(path, script, strlen(script), &err), 0);
	assert_int_equal(place_run(p, text), 0);
	assert_string_equal(content(p, "a"), "other\ntwo");
	assert_non_null(strstr(recorded(p, "a").reason, "source files changed"));
}

static void rows_cross_as_json_lines_in_both_directions(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n outputs = { rows = \"rows\" }\n"
				      " command = \"for i in 1 2 3; do echo \\\"{\\\\\\\"n\\\\\\\": $i, "
				      "\\\\\\\"t\\\\\\\": \\\\\\\"ä\\\\\\\"}\\\"; done > $OUT_rows\"\n}\n"
				      "stage \"b\" {\n uses = \"exec\"\n inputs = { in = a.rows }\n outputs "
				      "= { made = \"file\" }\n"
				      " command = \"grep -v 2 $IN_in > $OUT_made\"\n}\n"),
			 0);
	assert_string_equal(content(p, "b"), "{\"n\": 1, \"t\": \"ä\"}\n{\"n\": 3, \"t\": \"ä\"}\n");
	struct result r = result_of(p, "a");
	assert_int_equal(r.outputs[0].kind, PORT_ROWS);
	assert_string_equal(r.facts[0].value, "3 rows");

	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n outputs = { rows = \"rows\" }\n"
				      " command = \"printf '{}\\\\n{\\\\n' > $OUT_rows\"\n}\n"),
			 3);
	assert_non_null(strstr(p->err.message, "$OUT_rows: row 2"));
}

static void a_failure_is_told_with_status_and_last_line(void **state)
{
	struct place *p = *state;

	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n command = \"echo first >&2; echo "
				      "last words >&2; exit 3\"\n}\n"),
			 3);
	assert_string_equal(p->err.message, "stage \"a\": the command ended with status 3: last words");
	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n command = \"kill -KILL $$\"\n}\n"),
			 3);
	assert_string_equal(p->err.message,
			    "stage \"a\": the command was killed by SIGKILL: probably out of memory");
	assert_int_equal(
		place_run(p, "stage \"a\" {\n uses = \"exec\"\n command = \"no-such-program-here\"\n}\n"), 3);
	assert_non_null(strstr(p->err.message, "status 127"));
	assert_non_null(strstr(p->err.message, "not found"));
	assert_non_null(strstr(p->err.hint, "a program was not found"));
	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n outputs = { x = \"file\" }\n "
				      "command = \"true\"\n}\n"),
			 3);
	assert_string_equal(p->err.message, "stage \"a\": it ended well but did not make its output \"x\"");
	assert_string_equal(p->err.hint, "the command has to write a file or directory at $OUT_x");
	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n outputs = { m = \"model\" }\n "
				      "command = \"touch $OUT_m\"\n}\n"),
			 3);
	assert_string_equal(p->err.message,
			    "stage \"a\": output \"m\" has to be a directory (model), but is a file");
}

static void a_timeout_ends_all_that_the_command_started(void **state)
{
	struct place *p = *state;

	double start = clock_mono();
	assert_int_equal(place_run(p, "stage \"a\" {\n uses = \"exec\"\n timeout = \"100ms\"\n command = "
				      "\"sleep 50 & sleep 50; true\"\n}\n"),
			 3);
	assert_non_null(strstr(p->err.message, "ran longer than its timeout of 100 ms"));
	assert_true(clock_mono() - start < 5);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_command_reads_inputs_and_makes_outputs),
		TEST(it_runs_beside_the_graph_with_its_files_and_environment),
		TEST(rows_cross_as_json_lines_in_both_directions),
		TEST(a_failure_is_told_with_status_and_last_line),
		TEST(a_timeout_ends_all_that_the_command_started),
	};

	place_kind = &stage_exec;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
