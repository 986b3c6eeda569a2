/* Loading: spans, overrides, the environment, edges, order, drawing, diagnostics as text. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/unit/graph/dump.h"
#include "tests/unit/graph/kinds.h"

#define DATA "stage \"data\" {\n  uses   = \"fetch\"\n  source = \"rows.jsonl\"\n}\n"
#define LIMIT                                                                                                \
	"param \"limit\" {\n  type    = \"int\"\n  default = 5\n  env     = \"DATASET_LIMIT\"\n}\n"          \
	"stage \"pick\" {\n  uses  = \"shuffle-select\"\n  rows  = data.rows\n  limit = param.limit\n}\n"

static struct diags diags = DIAGS_INIT;

static struct graph *load(const char *text, const struct graph_options *o)
{
	diags_free(&diags);
	return graph_load_text("dir/test.graph", "dir", text, strlen(text), o, &diags);
}

static struct graph *load_good(const char *text, const struct graph_options *o)
{
	struct graph *g = load(text, o);
	struct strbuf out = STRBUF_INIT;

	if (!g) {
		diags_render(&diags, false, &out);
		fail_msg("%s", out.data);
	}
	return g;
}

static const struct graph_options plain = {.kinds = test_kinds};

static const struct value *attr_of(const struct graph *g, const char *stage, const char *attr)
{
	int s = graph_stage(g, stage);

	assert_true(s >= 0);
	return stage_attr(&g->stages[s], attr);
}

static void spans_are_bytes_lines_and_code_points(void **state)
{
	const char *text =
		"# é\n" DATA
		"stage \"x\" {\n  uses = \"exec\"\n  command = \"é\"\n  inputs = { \n a = data.rows }\n}\n";
	struct graph *g = load_good(text, &plain);
	const struct stage_node *s = &g->stages[1];
	const struct value *v = stage_attr(s, "command");

	(void)state;
	assert_string_equal(g->name, "test");
	assert_int_equal(s->span.line, 6);
	assert_int_equal(s->span.col, 7);
	assert_int_equal(s->span.len, 3);
	assert_memory_equal(g->source->text + s->span.offset, "\"x\"", 3);
	assert_int_equal(v->span.line, 8);
	assert_int_equal(v->span.col, 13);
	assert_int_equal(v->span.len, 4);
	assert_memory_equal(text + v->span.offset, "\"é\"", 4);
	assert_int_equal(s->inputs[0].span.line, 10);
	assert_int_equal(s->inputs[0].span.col, 6);
	assert_int_equal(s->inputs[0].span.len, 9);
	graph_free(g);
}

static void defaults_are_filled_in_and_marked(void **state)
{
	struct graph *g = load_good(DATA, &plain);
	const struct value *split = attr_of(g, "data", "split"), *files = attr_of(g, "data", "files");

	(void)state;
	assert_string_equal(split->str, "train");
	assert_true(split->is_default);
	assert_null(split->span.source);
	assert_int_equal(files->type, VALUE_LIST);
	assert_int_equal(files->list.n, 0);
	assert_int_equal(attr_of(g, "data", "revision")->type, VALUE_NONE);
	assert_false(attr_of(g, "data", "source")->is_default);
	assert_int_equal(g->stages[0].retries, 0);
	assert_true(g->stages[0].timeout == 0);
	assert_string_equal(g->stages[0].salt, "");
	assert_null(stage_attr(&g->stages[0], "nothing"));
	assert_int_equal(graph_stage(g, "nothing"), -1);
	assert_int_equal(stage_output(&g->stages[0], "rows"), 0);
	assert_int_equal(stage_output(&g->stages[0], "text"), -1);
	graph_free(g);
}

static const char *environment(const char *name)
{
	return !strcmp(name, "DATASET_LIMIT") ? "77"
	       : !strcmp(name, "EMPTY")       ? ""
	       : !strcmp(name, "DIR")         ? "over/there"
					      : NULL;
}

static void a_param_is_set_then_from_the_environment_then_its_default(void **state)
{
	struct override set[] = {{"limit", "8"}, {"limit", "9"}};
	struct graph_options o = {.kinds = test_kinds};
	struct graph *g = load_good(DATA LIMIT, &o);

	(void)state;
	assert_int_equal(attr_of(g, "pick", "limit")->i, 5);
	assert_string_equal(g->params[0].origin, "default");
	assert_string_equal(g->params[0].text, "5");
	assert_int_equal(attr_of(g, "pick", "limit")->span.line, 7);
	graph_free(g);
	o.getenv = environment;
	g = load_good(DATA LIMIT, &o);
	assert_int_equal(attr_of(g, "pick", "limit")->i, 77);
	assert_string_equal(g->params[0].origin, "$DATASET_LIMIT");
	assert_string_equal(g->params[0].span.source->name, "$DATASET_LIMIT");
	graph_free(g);
	o.overrides = set;
	o.noverrides = 2;
	g = load_good(DATA LIMIT, &o);
	const struct value *v = attr_of(g, "pick", "limit");
	assert_int_equal(v->i, 9);
	assert_string_equal(g->params[0].origin, "--set");
	assert_string_equal(v->span.source->name, "--set limit=9");
	assert_memory_equal(v->span.source->text + v->span.offset, "9", 2);
	graph_free(g);
}

static void an_empty_variable_counts_as_not_set(void **state)
{
	struct graph_options o = {.kinds = test_kinds, .getenv = environment};
	struct graph *g = load_good(
		"param \"r\" {\n  type    = \"string\"\n  default = \"main\"\n  env     = \"EMPTY\"\n}\n"
		"stage \"x\" {\n  uses     = \"fetch\"\n  source   = \"a\"\n  revision = param.r\n}\n",
		&o);

	(void)state;
	assert_string_equal(attr_of(g, "x", "revision")->str, "main");
	graph_free(g);
}

static void an_override_changes_any_attribute_of_a_stage(void **state)
{
	struct override set[] = {
		{"pick.limit", "3"},
		{"pick.shuffle", "false"},
		{"pick.retries", "4"},
		{"pick.timeout", "1h30m"},
		{"data.source", "new.jsonl"},
		{"data.split", "\"te\\u0073t\""},
		{"pick.limit", "6"},
		{"pick.rows", "data2.rows"},
		{"data.files", "[\"a\", \"/b\"]"},
		{"run.command", "x ${y}"},
		{"run.outputs", "{ z = \"file\" }"},
		{"data2.uses", "fetch@1"},
	};
	struct graph_options o = {
		.kinds = test_kinds, .overrides = set, .noverrides = sizeof set / sizeof *set};
	struct graph *g = load_good(DATA LIMIT
				    "stage \"data2\" {\n  uses   = \"nothing\"\n  source = \"b\"\n}\n"
				    "stage \"run\" {\n  uses    = \"exec\"\n  command = \"true\"\n}\n",
				    &o);
	const struct stage_node *pick = &g->stages[graph_stage(g, "pick")];

	(void)state;
	assert_int_equal(stage_attr(pick, "limit")->i, 6);
	assert_false(stage_attr(pick, "shuffle")->b);
	assert_int_equal(pick->retries, 4);
	assert_true(pick->timeout == 5400);
	assert_string_equal(g->stages[pick->inputs[0].stage].name, "data2");
	assert_string_equal(pick->inputs[0].span.source->name, "--set pick.rows=data2.rows");
	const struct value *source = attr_of(g, "data", "source");
	assert_string_equal(source->str, "new.jsonl");
	assert_string_equal(source->path, "new.jsonl");
	assert_string_equal(attr_of(g, "data", "split")->str, "test");
	assert_string_equal(attr_of(g, "data", "files")->paths[1], "/b");
	assert_string_equal(attr_of(g, "run", "command")->str, "x ${y}");
	assert_string_equal(g->stages[graph_stage(g, "run")].outputs[0].name, "z");
	graph_free(g);
}

static void paths_belong_to_the_file_or_to_where_the_override_is_given(void **state)
{
	struct override set[] = {{"given", "a/b"}};
	struct graph_options o = {
		.kinds = test_kinds, .overrides = set, .noverrides = 1, .getenv = environment};
	struct graph *g = load_good(
		"param \"given\" {\n  type    = \"string\"\n  default = \"x\"\n}\n"
		"param \"here\" {\n  type    = \"string\"\n  default = \"y\"\n}\n"
		"stage \"a\" {\n  uses   = \"fetch\"\n  source = param.given\n  files  = [\"q\", "
		"param.given, \"/r\", "
		"\"gs://b/c\", param.here, \"${param.given}/s\", env.DIR]\n}\n"
		"stage \"b\" {\n  uses   = \"fetch\"\n  source = \"../up\"\n}\n"
		"stage \"e\" {\n  uses  = \"export\"\n  model = m.model\n  to    = \"out\"\n}\n"
		"stage \"m\" {\n  uses   = \"model-fetch\"\n  source = \"hf://o/n\"\n}\n",
		&o);
	static const char *const expected[] = {"dir/q", "a/b",       "/r",        "gs://b/c",
					       "dir/y", "dir/a/b/s", "over/there"};
	const struct value *files = attr_of(g, "a", "files");

	(void)state;
	assert_string_equal(attr_of(g, "a", "source")->path, "a/b");
	assert_string_equal(attr_of(g, "b", "source")->path, "dir/../up");
	assert_string_equal(attr_of(g, "e", "to")->path, "out");
	assert_string_equal(attr_of(g, "m", "source")->path, "hf://o/n");
	assert_int_equal(files->list.n, 7);
	for (size_t i = 0; i < 7; i++)
		assert_string_equal(files->paths[i], expected[i]);
	assert_string_equal(files->list.items[0], "q");
	assert_null(attr_of(g, "a", "split")->path);
	graph_free(g);
}

static void an_exec_stage_declares_its_own_ports(void **state)
{
	struct graph *g = load_good(
		DATA "stage \"b\" {\n  uses    = \"exec\"\n  command = \"true\"\n  inputs = {\n    "
		     "second = a.log\n    first  = a.rows\n    third = data.rows\n  }\n}\n"
		     "stage \"a\" {\n  uses    = \"exec\"\n  command = \"true\"\n  outputs = { rows = "
		     "\"rows\", log = \"file\" }\n}\n",
		&plain);
	const struct stage_node *b = &g->stages[1], *a = &g->stages[2];
	const struct value *inputs = stage_attr(b, "inputs"), *outputs = stage_attr(a, "outputs");

	(void)state;
	assert_int_equal(b->ninputs, 3);
	assert_string_equal(b->inputs[0].name, "second");
	assert_int_equal(b->inputs[0].stage, 2);
	assert_int_equal(b->inputs[0].output, 1);
	assert_string_equal(b->inputs[1].name, "first");
	assert_int_equal(inputs->type, VALUE_EDGES);
	assert_string_equal(inputs->list.items[2], "third");
	assert_int_equal(outputs->type, VALUE_PORTS);
	assert_int_equal(a->noutputs, 2);
	assert_int_equal(a->outputs[1].kind, PORT_FILE);
	assert_int_equal(stage_attr(b, "outputs")->type, VALUE_PORTS);
	assert_int_equal(b->noutputs, 0);
	assert_int_equal(g->order[0], 0);
	assert_int_equal(g->order[1], 2);
	assert_int_equal(g->order[2], 1);
	graph_free(g);
}

static void many_outputs_are_found_by_name(void **state)
{
	struct strbuf text = STRBUF_INIT;

	(void)state;
	strbuf_adds(&text, "stage \"a\" {\n  uses    = \"exec\"\n  command = \"true\"\n  outputs = {\n");
	for (int i = 0; i < 100; i++)
		strbuf_addf(&text, "    o%d = \"file\"\n", i);
	strbuf_adds(&text, "  }\n}\nstage \"b\" {\n  uses    = \"exec\"\n  command = \"true\"\n  inputs = { "
			   "x = a.o73 }\n}\n");
	struct graph *g = load_good(text.data, &plain);
	assert_int_equal(g->stages[1].inputs[0].output, 73);
	graph_free(g);
	strbuf_free(&text);
}

static void optional_inputs_may_be_left_out(void **state)
{
	struct graph *g = load_good(
		DATA "stage \"m\" {\n  uses   = \"model-fetch\"\n  source = \"m\"\n}\n"
		     "stage \"k\" {\n  uses  = \"tokenize\"\n  model = m.model\n  rows  = data.rows\n}\n"
		     "stage \"t\" {\n  uses   = \"train\"\n  model  = m.model\n  tokens = k.tokens\n}\n",
		&plain);
	const struct stage_node *t = &g->stages[3];

	(void)state;
	assert_int_equal(t->ninputs, 2);
	assert_string_equal(t->inputs[0].name, "tokens");
	assert_string_equal(t->inputs[1].name, "model");
	assert_int_equal(stage_attr(t, "eval")->type, VALUE_NONE);
	assert_int_equal(stage_attr(t, "model")->i, 1);
	graph_free(g);
}

static void a_graph_is_drawn_as_dot_and_mermaid(void **state)
{
	struct strbuf out = STRBUF_INIT;
	struct graph *g = load_good("pipeline \"p\" {}\n" DATA LIMIT, &plain);

	(void)state;
	graph_dot(g, &out);
	assert_string_equal(
		out.data,
		"digraph \"p\" {\n  rankdir=LR;\n  node [shape=box];\n  s0 [label=\"data\\nfetch\"];\n"
		"  s1 [label=\"pick\\nshuffle-select\"];\n  s0 -> s1 [label=\"rows\"];\n}\n");
	strbuf_clear(&out);
	graph_mermaid(g, &out);
	assert_string_equal(out.data,
			    "flowchart LR\n  s0[\"data<br>fetch\"]\n  s1[\"pick<br>shuffle-select\"]\n"
			    "  s0 -->|rows| s1\n");
	strbuf_free(&out);
	graph_free(g);
}

static void a_diagnostic_shows_the_line_and_underlines_the_range(void **state)
{
	struct strbuf out = STRBUF_INIT;

	(void)state;
	assert_null(load("stage \"données\" {}\n", &plain));
	diags_render(&diags, false, &out);
	assert_string_equal(
		out.data,
		"dir/test.graph:1:7: error: \"données\" is not a name\n"
		"    1 | stage \"données\" {}\n"
		"      |       ^~~~~~~~~ a name is letters, digits, \"_\" and \"-\", and begins with a "
		"letter or \"_\"\n");
	strbuf_clear(&out);
	assert_null(load("stage \"x\" {\n\tuses\t= \"世界\" + 1\x1b[31m\n}\n", &plain));
	diags_render(&diags, false, &out);
	assert_string_equal(out.data, "dir/test.graph:2:14: error: operators are not part of the language\n"
				      "    2 | \tuses\t= \"世界\" + 1\xef\xbf\xbd[31m\n"
				      "      | \t    \t         ^ write the result\n");
	strbuf_clear(&out);
	diags_render(&diags, true, &out);
	assert_non_null(strstr(out.data, "\033[1;31merror:\033[0m "));
	assert_null(strstr(out.data, "\033[31m\n"));
	strbuf_clear(&out);
	diags_render_json(&diags, &out);
	assert_string_equal(
		out.data,
		"[\n  {\"severity\": \"error\", \"file\": \"dir/test.graph\", \"line\": 2, \"column\": 14, "
		"\"end_column\": 15, \"message\": \"operators are not part of the language\", "
		"\"label\": \"write the result\"}\n]\n");
	strbuf_free(&out);
}

static void a_long_line_is_shown_in_part(void **state)
{
	struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;

	(void)state;
	strbuf_adds(&text, "stage \"x\" {\n  uses = [");
	for (int i = 0; i < 5000; i++)
		strbuf_adds(&text, "\"é\", ");
	strbuf_adds(&text, "?]\n}\n");
	assert_null(load(text.data, &plain));
	diags_render(&diags, false, &out);
	assert_true(out.len < 600);
	assert_int_equal(utf8_valid(out.data, out.len), out.len);
	strbuf_free(&text);
	strbuf_free(&out);
}

static void at_most_twenty_errors_are_kept_and_all_are_counted(void **state)
{
	struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;

	(void)state;
	for (int i = 0; i < 100; i++)
		strbuf_addf(&text, "stage \"s%d\" {\n  uses = \"none\"\n}\n", i);
	assert_null(load(text.data, &plain));
	assert_int_equal(diags.errors, 100);
	assert_int_equal(diags.n, 20);
	diags_render(&diags, false, &out);
	assert_non_null(strstr(out.data, "80 more errors are not shown\n"));
	strbuf_free(&text);
	strbuf_free(&out);
}

static void diagnostics_outlive_the_graph_and_several_loads(void **state)
{
	struct strbuf out = STRBUF_INIT;
	const char *unused = "param \"p\" {\n  type    = \"int\"\n  default = 1\n}\n" DATA;

	(void)state;
	diags_free(&diags);
	for (int i = 0; i < 3; i++) {
		struct graph *g = graph_load_text(i ? "second" : "first", ".", unused, strlen(unused), &plain,
						  &diags);
		assert_non_null(g);
		graph_free(g);
	}
	diags_render(&diags, false, &out);
	assert_non_null(strstr(out.data, "first:1:7: warning: param \"p\" is not used\n"));
	assert_non_null(strstr(out.data, "second:1:7: warning: param \"p\" is not used\n"));
	strbuf_free(&out);
}

static void a_file_is_read_and_its_paths_are_beside_it(void **state)
{
	char dir[] = "/tmp/anneal-graph-XXXXXX";
	struct strbuf path = STRBUF_INIT, expected = STRBUF_INIT;

	(void)state;
	assert_non_null(mkdtemp(dir));
	strbuf_addf(&path, "%s/some.graph", dir);
	strbuf_addf(&expected, "%s/rows.jsonl", dir);
	assert_int_equal(file_write_atomic(path.data, DATA, strlen(DATA), NULL), 0);
	diags_free(&diags);
	struct graph *g = graph_load(path.data, &plain, &diags);
	assert_non_null(g);
	assert_string_equal(g->name, "some");
	assert_string_equal(attr_of(g, "data", "source")->path, expected.data);
	graph_free(g);
	assert_int_equal(tree_remove(dir, NULL), 0);
	assert_null(graph_load(path.data, &plain, &diags));
	assert_int_equal(diags.errors, 1);
	assert_null(diags.items[0].span.source);
	assert_non_null(strstr(diags.items[0].message, path.data));
	strbuf_free(&path);
	strbuf_free(&expected);
}

static void a_long_cycle_is_shown_in_part(void **state)
{
	struct strbuf text = STRBUF_INIT;

	(void)state;
	for (int i = 0; i < 100; i++)
		strbuf_addf(&text, "stage \"s%d\" {\n  uses = \"shuffle-select\"\n  rows = s%d.rows\n}\n", i,
			    (i + 1) % 100);
	assert_null(load(text.data, &plain));
	assert_int_equal(diags.errors, 1);
	assert_int_equal(diags.n, 52);
	assert_string_equal(diags.items[0].label, "a cycle of 100 edges");
	assert_string_equal(diags.items[51].message, "and 50 more edges");
	strbuf_free(&text);
}

/* Each of these took the square of its length, or the stack, in a naive reader. */
static void hostile_files_take_no_more_than_their_length(void **state)
{
	static const struct {
		const char *start, *middle, *end;
	} cases[] = {
		{"stage \"x\" {\n  a = ", "[", ""},
		{"stage \"x\" {\n  a = ", "{ b = ", ""},
		{"", "stage <<E\n", ""},
		{"stage \"x\" {\n  a = \"", "${x ", "\"\n}\n"},
		{"stage \"x\" {\n", "  a = 1\n", "}\n"},
		{"stage \"x\" {\n  uses = \"exec\"\n  command = <<E\n", "${param.p}\n", "E\n}\n"},
		{"", "/* ", ""},
		{"", "stage \"x\" {\n", ""},
		{"", "}", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct strbuf text = STRBUF_INIT;
		strbuf_adds(&text, cases[i].start);
		for (int k = 0; k < 50000; k++)
			strbuf_adds(&text, cases[i].middle);
		strbuf_adds(&text, cases[i].end);
		assert_null(load(text.data, &plain));
		assert_true(diags.errors > 0);
		strbuf_free(&text);
	}
}

static int done(void **state)
{
	(void)state;
	diags_free(&diags);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spans_are_bytes_lines_and_code_points),
		cmocka_unit_test(defaults_are_filled_in_and_marked),
		cmocka_unit_test(a_param_is_set_then_from_the_environment_then_its_default),
		cmocka_unit_test(an_empty_variable_counts_as_not_set),
		cmocka_unit_test(an_override_changes_any_attribute_of_a_stage),
		cmocka_unit_test(paths_belong_to_the_file_or_to_where_the_override_is_given),
		cmocka_unit_test(an_exec_stage_declares_its_own_ports),
		cmocka_unit_test(many_outputs_are_found_by_name),
		cmocka_unit_test(optional_inputs_may_be_left_out),
		cmocka_unit_test(a_graph_is_drawn_as_dot_and_mermaid),
		cmocka_unit_test(a_diagnostic_shows_the_line_and_underlines_the_range),
		cmocka_unit_test(a_long_line_is_shown_in_part),
		cmocka_unit_test(at_most_twenty_errors_are_kept_and_all_are_counted),
		cmocka_unit_test(diagnostics_outlive_the_graph_and_several_loads),
		cmocka_unit_test(a_file_is_read_and_its_paths_are_beside_it),
		cmocka_unit_test(a_long_cycle_is_shown_in_part),
		cmocka_unit_test(hostile_files_take_no_more_than_their_length),
	};
	return cmocka_run_group_tests(tests, NULL, done);
}
