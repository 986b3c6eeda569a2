/* Values: strings, heredocs, interpolation, numbers, durations, sizes. The values of heredocs and escapes are those
 * that `terraform console` (HCL 2) gives for the same text. */
#include "tests/unit/cmocka_all.h"

#include <string.h>

#include "base/str.h"
#include "tests/unit/graph/kinds.h"

static const char *environment(const char *name)
{
	return !strcmp(name, "HOST") ? "h\"o\\st" : NULL;
}

/* Checks the command of an exec stage that is written as text. */
static void command_is(const char *text, const char *expected)
{
	struct graph_options o = {.kinds = test_kinds, .getenv = environment};
	struct strbuf b = STRBUF_INIT;
	struct diags d = DIAGS_INIT;

	strbuf_addf(&b,
		    "param \"n\" {\n  type = \"int\"\n  default = 007\n}\nparam \"s\" {\n  type = "
		    "\"string\"\n  default = \"a "
		    "b\"\n}\nparam \"f\" {\n  type = \"float\"\n  default = 1e-4\n}\nparam \"t\" {\n  type = "
		    "\"bool\"\n  "
		    "default = true\n}\nstage \"x\" {\n  uses = \"exec\"\n  command = %s\n}\n",
		    text);
	struct graph *g = graph_load_text("t", ".", b.data, b.len, &o, &d);
	if (!g) {
		strbuf_clear(&b);
		diags_render(&d, false, &b);
		fail_msg("%s", b.data);
	}
	assert_string_equal(stage_attr(&g->stages[0], "command")->str, expected);
	graph_free(g);
	diags_free(&d);
	strbuf_free(&b);
}

static void escapes_are_those_of_hcl(void **state)
{
	(void)state;
	command_is("\"a\\n\\r\\t\\\"\\\\\\u00e9\\U0001f469\"", "a\n\r\t\"\\\xc3\xa9\xf0\x9f\x91\xa9");
	command_is("\"$${x} %%{y} $ % $$ %% $x {\"", "${x} %{y} $ % $$ %% $x {");
	command_is("\"\"", "");
	command_is("\"a\tb\"", "a\tb");
}

static void heredocs_keep_their_text(void **state)
{
	(void)state;
	command_is("<<EOT\n  a\\n \"b\"\n\n\tc\nEOT", "  a\\n \"b\"\n\n\tc\n");
	command_is("<<EOT\nEOT", "");
	command_is("<<EOT\nx\n   EOT", "x\n");
	command_is("<<EOT\nEOTX\n EO\nEOT", "EOTX\n EO\n");
	command_is("<<EOT\r\na\r\nb\r\nEOT\r\n", "a\nb\n");
	command_is("<<EOT\n$${x} ${param.s} %%{y} $\nEOT", "${x} a b %{y} $\n");
}

static void flush_heredocs_lose_the_indentation_all_lines_share(void **state)
{
	(void)state;
	command_is("<<-EOT\n    a\n      b\n    EOT", "a\n  b\n");
	command_is("<<-EOT\n    a\n\n  \n   b\n    EOT", " a\n\n  \nb\n");
	command_is("<<-EOT\n    ${param.s}\n     b\n    EOT", "a b\n b\n");
	command_is("<<-EOT\n  a\n  EOT", "a\n");
	command_is("<<-EOT\nb\n  a\n  EOT", "b\n  a\n");
	command_is("<<-EOT\n  ${param.s}\n    b\n   ${param.s} c\n  EOT", "a b\n  b\n a b c\n");
	command_is("<<-EOT\n   a ${param.s}\n  EOT", "a a b\n");
	command_is("<<-EOT\n\t\ta\n\tb\n\tEOT", "\ta\nb\n");
}

static void params_and_the_environment_stand_in_strings(void **state)
{
	(void)state;
	command_is("\"${param.n}/${ param.s }/${param.f}/${param.t}/${env.HOST}\"",
		   "007/a b/1e-4/true/h\"o\\st");
	command_is("param.s", "a b");
	command_is("\"${param.s}\"", "a b");
	command_is("env.HOST", "h\"o\\st");
	command_is("\"${env.HOST}\"", "h\"o\\st");
}

/* Loads one stage with the attribute and gives the stage. */
static struct graph *with(const char *line, struct diags *d)
{
	struct graph_options o = {.kinds = test_kinds, .getenv = environment};
	struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b,
		    "stage \"d\" {\n  uses = \"fetch\"\n  source = \"a\"\n}\nstage \"x\" {\n  uses = "
		    "\"shuffle-select\"\n  "
		    "rows = d.rows\n  %s\n}\n",
		    line);
	struct graph *g = graph_load_text("t", ".", b.data, b.len, &o, d);
	strbuf_free(&b);
	return g;
}

static void durations_add_up(void **state)
{
	static const struct {
		const char *text;
		double seconds;
	} cases[] = {{"90s", 90},    {"55m", 3300},           {"1h30m", 5400}, {"500ms", 0.5},
		     {"1.5h", 5400}, {"1h2m3s4ms", 3723.004}, {"0.25s", 0.25}};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct diags d = DIAGS_INIT;
		char line[64];
		snprintf(line, sizeof line, "timeout = \"%s\"", cases[i].text);
		struct graph *g = with(line, &d);
		assert_non_null(g);
		assert_true(g->stages[1].timeout > cases[i].seconds - 1e-9);
		assert_true(g->stages[1].timeout < cases[i].seconds + 1e-9);
		graph_free(g);
		diags_free(&d);
	}
}

static void memory_is_in_binary_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {{"1B", 1},
		     {"2KiB", 2048},
		     {"1.5MiB", 1572864},
		     {"8GiB", 8589934592},
		     {"1TiB", 1099511627776}};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct diags d = DIAGS_INIT;
		char line[64];
		snprintf(line, sizeof line, "memory = \"%s\"", cases[i].text);
		struct graph *g = with(line, &d);
		assert_non_null(g);
		assert_true(g->stages[1].memory == cases[i].bytes);
		graph_free(g);
		diags_free(&d);
	}
}

static void integers_are_exact_to_the_last_bit(void **state)
{
	struct diags d = DIAGS_INIT;
	struct graph *g = with("seed = 9223372036854775807", &d);

	(void)state;
	assert_non_null(g);
	assert_true(stage_attr(&g->stages[1], "seed")->i == INT64_MAX);
	graph_free(g);
	diags_free(&d);
}

static void an_integer_is_a_number_and_a_number_no_integer(void **state)
{
	struct diags d = DIAGS_INIT;
	struct graph *g = with("cpus = 2", &d);

	(void)state;
	assert_non_null(g);
	assert_true(g->stages[1].cpus == 2);
	graph_free(g);
	assert_null(with("gpus = 2.0", &d));
	diags_free(&d);
}

static void a_value_from_outside_is_read_for_the_type_it_is_for(void **state)
{
	struct override set[] = {{"s", "true"}, {"n", "-1"}, {"f", "3"}, {"t", "false"}};
	struct graph_options o = {.kinds = test_kinds, .overrides = set, .noverrides = 4};
	static const char text[] = "param \"s\" {\n  type = \"string\"\n}\nparam \"n\" {\n  type = "
				   "\"int\"\n}\nparam \"f\" {\n  type = \"float\"\n}\n"
				   "param \"t\" {\n  type = \"bool\"\n}\nstage \"d\" {\n  uses = \"fetch\"\n "
				   " source = param.s\n  cpus = param.f\n}\n"
				   "stage \"x\" {\n  uses = \"shuffle-select\"\n  rows = d.rows\n  limit = "
				   "param.n\n  shuffle = param.t\n}\n";
	struct diags d = DIAGS_INIT;
	struct graph *g = graph_load_text("t", ".", text, strlen(text), &o, &d);

	(void)state;
	assert_non_null(g);
	assert_string_equal(stage_attr(&g->stages[0], "source")->str, "true");
	assert_true(g->stages[0].cpus == 3);
	assert_int_equal(stage_attr(&g->stages[1], "limit")->i, -1);
	assert_false(stage_attr(&g->stages[1], "shuffle")->b);
	assert_string_equal(g->params[2].text, "3");
	graph_free(g);
	set[0].value = "\xff";
	assert_null(graph_load_text("t", ".", text, strlen(text), &o, &d));
	assert_string_equal(d.items[0].message, "the value is not UTF-8");
	diags_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(escapes_are_those_of_hcl),
		cmocka_unit_test(heredocs_keep_their_text),
		cmocka_unit_test(flush_heredocs_lose_the_indentation_all_lines_share),
		cmocka_unit_test(params_and_the_environment_stand_in_strings),
		cmocka_unit_test(durations_add_up),
		cmocka_unit_test(memory_is_in_binary_units),
		cmocka_unit_test(integers_are_exact_to_the_last_bit),
		cmocka_unit_test(an_integer_is_a_number_and_a_number_no_integer),
		cmocka_unit_test(a_value_from_outside_is_read_for_the_type_it_is_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
