/* cli/options, cli/pipeline: what is typed. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/pipeline.h"

static const struct command command = {.name = "test", .args = "FILE", .summary = "a command for tests"};

struct given {
	bool force;
	const char *from;
	int64_t jobs;
	double heat;
	struct text_list sets;
	char **rest;
	int n;
};

/* What the command's own stderr says meanwhile. */
static char said[4096];

static int parse(struct given *g, int least, int most, char **argv)
{
	struct cli cli = {.state = ".anneal"};
	const struct option options[] = {
		{"force", 0, OPTION_FLAG, &g->force, NULL, ""}, {"from", 0, OPTION_TEXT, &g->from, "S", ""},
		{"jobs", 'j', OPTION_INT, &g->jobs, "N", ""},   {"heat", 0, OPTION_FLOAT, &g->heat, "T", ""},
		{"set", 's', OPTION_LIST, &g->sets, "K=V", ""}, {0},
	};
	char name[] = "/tmp/anneal-test-XXXXXX";
	int fd = mkstemp(name), kept = dup(STDERR_FILENO), n = 0;

	assert_true(fd >= 0);
	while (argv[n])
		n++;
	fflush(stderr);
	dup2(fd, STDERR_FILENO);
	int code = options_parse(&cli, &command, options, &n, argv, least, most);
	fflush(stderr);
	dup2(kept, STDERR_FILENO);
	close(kept);
	ssize_t len = pread(fd, said, sizeof said - 1, 0);
	said[len > 0 ? len : 0] = '\0';
	close(fd);
	unlink(name);
	g->rest = argv;
	g->n = n;
	return code;
}

#define PARSE(g, least, most, ...) parse(&(g), least, most, (char *[]){__VA_ARGS__, NULL})

static void options_may_stand_anywhere_and_in_both_spellings(void **state)
{
	struct given g = {0};

	(void)state;
	char a[] = "--from=x", b[] = "file", c[] = "-j4", d[] = "--set", e[] = "lr=1", f[] = "-s",
	     h[] = "b=--c", i[] = "--force", j[] = "--heat", k[] = "0.5";
	assert_int_equal(PARSE(g, 1, 1, a, b, c, d, e, f, h, i, j, k), -1);
	assert_string_equal(g.from, "x");
	assert_int_equal(g.jobs, 4);
	assert_true(g.force);
	assert_true(g.heat == 0.5);
	assert_int_equal(g.sets.n, 2);
	assert_string_equal(g.sets.items[0], "lr=1");
	assert_string_equal(g.sets.items[1], "b=--c");
	assert_int_equal(g.n, 1);
	assert_string_equal(g.rest[0], "file");
	free(g.sets.items);
}

static void two_dashes_end_the_options(void **state)
{
	struct given g = {0};

	(void)state;
	char a[] = "--", b[] = "--force";
	assert_int_equal(PARSE(g, 1, 1, a, b), -1);
	assert_false(g.force);
	assert_string_equal(g.rest[0], "--force");
}

static void mistakes_are_usage_errors_that_say_what_was_meant(void **state)
{
	static const struct {
		const char *args[3];
		const char *says;
	} cases[] = {
		{{"--forse", "f"}, "did you mean --force?"},
		{{"--zzz", "f"}, "no option --zzz"},
		{{"-x", "f"}, "no option -x"},
		{{"f", "--from"}, "--from needs a value"},
		{{"f", "-j", "many"}, "it takes an integer"},
		{{"f", "--heat", "hot"}, "it takes a number"},
		{{"f", "--force=1"}, "takes no value"},
		{{NULL}, "needs more arguments"},
		{{"f", "g"}, "\"g\" is one argument too many"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct given g = {0};
		char text[3][32], *argv[4] = {NULL};
		for (int k = 0; k < 3 && cases[i].args[k]; k++) {
			snprintf(text[k], sizeof text[k], "%s", cases[i].args[k]);
			argv[k] = text[k];
		}
		assert_int_equal(parse(&g, 1, 1, argv), ERR_USAGE);
		assert_true(str_starts(said, "anneal: "));
		if (!strstr(said, cases[i].says))
			fail_msg("\"%s\" does not say \"%s\"", said, cases[i].says);
	}
}

static void runs_are_numbers_or_last(void **state)
{
	struct error err = ERROR_INIT;
	int64_t id = -1;

	(void)state;
	assert_int_equal(run_number(NULL, &id, &err), 0);
	assert_int_equal(id, 0);
	assert_int_equal(run_number("last", &id, &err), 0);
	assert_int_equal(id, 0);
	assert_int_equal(run_number("12", &id, &err), 0);
	assert_int_equal(id, 12);
	assert_int_equal(run_number("0", &id, &err), -1);
	assert_int_equal(run_number("train", &id, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
}

static void a_set_is_split_at_the_first_equals_sign(void **state)
{
	struct error err = ERROR_INIT;
	const char *value;
	char *name;

	(void)state;
	assert_int_equal(set_split("train.lr=a=b", &name, &value, &err), 0);
	assert_string_equal(name, "train.lr");
	assert_string_equal(value, "a=b");
	free(name);
	assert_int_equal(set_split("train.lr", &name, &value, &err), -1);
	assert_int_equal(set_split("=1", &name, &value, &err), -1);
}

static void a_pipeline_is_found_by_path_or_by_name(void **state)
{
	struct error err = ERROR_INIT;
	char dir[] = "/tmp/anneal-test-XXXXXX", file[64], first[64], second[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(first, sizeof first, "%s/a", dir);
	snprintf(second, sizeof second, "%s/b", dir);
	assert_int_equal(dir_create(first, &err), 0);
	assert_int_equal(dir_create(second, &err), 0);
	snprintf(file, sizeof file, "%s/tune.graph", second);
	assert_int_equal(file_write_atomic(file, "", 0, &err), 0);
	const char *both[] = {first, second};
	struct text_list folders = {both, 2, 2};

	char *found = pipeline_find("tune", &folders, &err);
	assert_string_equal(found, file);
	free(found);
	/* The first folder that has it wins. */
	char again[64];
	snprintf(again, sizeof again, "%s/tune.graph", first);
	assert_int_equal(file_write_atomic(again, "", 0, &err), 0);
	found = pipeline_find("tune", &folders, &err);
	assert_string_equal(found, again);
	free(found);
	/* Paths are taken as they are. */
	found = pipeline_find("./tune", &folders, &err);
	assert_string_equal(found, "./tune");
	free(found);
	found = pipeline_find("x.graph", &folders, &err);
	assert_string_equal(found, "x.graph");
	free(found);

	assert_null(pipeline_find("tone", &folders, &err));
	assert_int_equal(err.class, ERR_USAGE);
	assert_non_null(strstr(err.message, "did you mean \"tune\"?"));
	assert_non_null(strstr(err.hint, "there are: tune;"));
	assert_int_equal(tree_remove(dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_may_stand_anywhere_and_in_both_spellings),
		cmocka_unit_test(two_dashes_end_the_options),
		cmocka_unit_test(mistakes_are_usage_errors_that_say_what_was_meant),
		cmocka_unit_test(runs_are_numbers_or_last),
		cmocka_unit_test(a_set_is_split_at_the_first_equals_sign),
		cmocka_unit_test(a_pipeline_is_found_by_path_or_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
