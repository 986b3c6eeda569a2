/* The key and its explanation, over every stage kind there is: change one attribute, and the comparison of the two records
 * names exactly that one; change one that is not keyed, and the records are equal. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "graph/graph.h"
#include "runtime/plan.h"
#include "stages/registry.h"

static char dir[] = "/tmp/anneal-why-XXXXXX";
static struct store *store;

static int set_up(void **state)
{
	struct error e = ERROR_INIT;
	char path[128];

	(void)state;
	assert_non_null(mkdtemp(dir));
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/source%d.jsonl", dir, i);
		assert_int_equal(file_write_atomic(path, i ? "{\"a\": 1}\n" : "{\"a\": 2}\n", 9, &e), 0);
	}
	snprintf(path, sizeof path, "%s/state", dir);
	assert_int_equal(store_open(path, false, &store, &e), 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	store_close(store);
	return tree_remove(dir, NULL);
}

/* A value for an attribute, in graph syntax: variant 0 or 1, two different ones inside its range. */
static const char *sample(struct arena *a, const struct attr_schema *s, int variant)
{
	double lo = s->min, hi = s->max;

	switch (s->type) {
	case ATTR_STRING:
		if (strcmp(s->name, "sha256") == 0)
			return arena_printf(a, "\"%064d\"", variant);
		if (strcmp(s->name, "url") == 0)
			return variant ? "\"http://localhost:2\"" : "\"http://localhost:1\"";
		return variant ? "\"two\"" : "\"one\"";
	case ATTR_INT:
		if (lo == 0 && hi == 0)
			return variant ? "6" : "4";
		/* Even, and the second a multiple of the first, for the sizes that have to divide one another. */
		return arena_printf(a, "%lld",
				    (long long)(lo > 2    ? lo + 2 * variant
						: hi >= 4 ? 2 + 2 * variant
							  : lo + variant));
	case ATTR_FLOAT:
		if (lo == 0 && hi == 0)
			return variant ? "0.5" : "0.25";
		return arena_printf(a, "%.17g", lo + (hi - lo) * (variant ? 0.5 : 0.25));
	case ATTR_BOOL: return variant ? "true" : "false";
	case ATTR_CHOICE: return arena_printf(a, "\"%s\"", s->choices[variant && s->choices[1]]);
	case ATTR_DURATION: return variant ? "\"90s\"" : "\"2m\"";
	case ATTR_STRINGS:
		if (strcmp(s->name, "env") == 0)
			return variant ? "[\"A=2\"]" : "[\"A=1\"]";
		return variant ? "[\"q_proj\", \"k_proj\"]" : "[\"q_proj\"]";
	case ATTR_SOURCE: return arena_printf(a, "\"%s/source%d.jsonl\"", dir, variant);
	case ATTR_SOURCES: return arena_printf(a, "[\"%s/source%d.jsonl\"]", dir, variant);
	case ATTR_TARGET: return arena_printf(a, "\"%s/out%d\"", dir, variant);
	case ATTR_OUTPUTS: return variant ? "{ y = \"rows\" }" : "{ y = \"file\" }";
	case ATTR_INPUT:
	case ATTR_INPUTS: break;
	}
	return NULL;
}

/* Combinations that a kind's check() allows: attributes that stand in for others get their partners. */
static bool set_by_default(const struct kind_schema *k, const char *attr)
{
	return (strcmp(k->name, "template-transform") == 0 && strcmp(attr, "template") == 0);
}

struct setting {
	const char *attr; /* the attribute that is varied, or NULL */
	int variant;      /* 0 and 1: two values; 2: left as it would be by default */
};

static const char *graph_text(struct arena *a, const struct kind_schema *k, struct setting set)
{
	struct strbuf b = STRBUF_INIT;
	bool pair = set.attr && strcmp(k->name, "template-transform") == 0 &&
		    (strcmp(set.attr, "prompt") == 0 || strcmp(set.attr, "completion") == 0);
	bool url = set.attr && strcmp(k->name, "serve-warmup") == 0 &&
		   (strcmp(set.attr, "url") == 0 || strcmp(set.attr, "token_env") == 0);

	strbuf_adds(&b, "stage \"all\" {\n  uses = \"exec\"\n  command = \"true\"\n  outputs = { rows = "
			"\"rows\", tokens = "
			"\"tokens\", model = \"model\", adapter = \"adapter\", report = \"report\", file = "
			"\"file\" }\n}\n");
	strbuf_addf(&b, "stage \"it\" {\n  uses = \"%s\"\n", k->name);
	for (const struct attr_schema *s = k->attrs; s->name; s++) {
		bool varied = set.attr && strcmp(s->name, set.attr) == 0;
		if (s->type == ATTR_INPUT) {
			/* Every input but those that exclude the attribute in question. */
			if ((url && strcmp(s->name, "model") == 0) ||
			    (!(s->flags & ATTR_REQUIRED) && !varied && strcmp(k->name, "model-init") != 0 &&
			     strcmp(k->name, "serve-warmup") != 0))
				continue;
			strbuf_addf(&b, "  %s = all.%s\n", s->name,
				    port_kind_name(s->ports & PORT_MODEL
							   ? PORT_MODEL
							   : (enum port_kind)(s->ports & -s->ports)));
		} else if (s->type == ATTR_INPUTS) {
			strbuf_addf(&b, "  %s = { x = all.rows }\n", s->name);
		} else if (varied && set.variant < 2) {
			strbuf_addf(&b, "  %s = %s\n", s->name, sample(a, s, set.variant));
		} else if (pair && (strcmp(s->name, "prompt") == 0 || strcmp(s->name, "completion") == 0)) {
			strbuf_addf(&b, "  %s = \"p\"\n", s->name);
		} else if ((s->flags & ATTR_REQUIRED) || (!pair && set_by_default(k, s->name)) ||
			   (url && strcmp(s->name, "url") == 0)) {
			strbuf_addf(&b, "  %s = %s\n", s->name, sample(a, s, 0));
		}
	}
	strbuf_adds(&b, "}\n");
	const char *text = arena_strdup(a, b.data);
	strbuf_free(&b);
	return text;
}

/* The record of stage "it" with distinct digests for its inputs; flip >= 0: that input's digest is another one. */
static void record(const char *text, int flip, struct strbuf *out)
{
	const struct graph_options o = {.kinds = stage_schemas()};
	struct diags d = {0};
	struct error e = ERROR_INIT;
	struct strbuf shown = STRBUF_INIT;
	struct graph *g = graph_load_text("test.graph", dir, text, strlen(text), &o, &d);

	if (!g) {
		diags_render(&d, false, &shown);
		fail_msg("%s\n%s", shown.data, text);
	}
	const struct stage_node *it = &g->stages[graph_stage(g, "it")];
	struct digest *inputs = xcalloc(it->ninputs + 1, sizeof *inputs);
	for (size_t i = 0; i < it->ninputs; i++)
		inputs[i].bytes[0] = (uint8_t)(i + 1 + ((int)i == flip ? 100 : 0));
	if (key_preimage(store, it, "", inputs, out, &e))
		fail_msg("%s", e.message);
	free(inputs);
	graph_free(g);
	diags_free(&d);
	strbuf_free(&shown);
}

static void differs_in(const struct strbuf *x, const struct strbuf *y, const char *kind, const char *name)
{
	struct arena a = ARENA_INIT;
	struct key_diff *diff;
	size_t n = key_compare((const uint8_t *)x->data, x->len, (const uint8_t *)y->data, y->len, &a, &diff);

	if (!name) {
		if (n != 0)
			fail_msg("%s: %s %s should not be part of the key", kind, diff[0].what, diff[0].name);
	} else {
		if (n != 1)
			fail_msg("%s.%s: %zu differences, not 1", kind, name, n);
		assert_string_equal(diff[0].name, name);
		assert_string_not_equal(diff[0].before ? diff[0].before : "",
					diff[0].after ? diff[0].after : "");
	}
	arena_free(&a);
}

static void changing_one_attribute_changes_the_key_by_that_attribute(void **state)
{
	size_t tried = 0;

	(void)state;
	for (const struct kind_schema *const *k = stage_schemas(); *k; k++) {
		for (const struct attr_schema *s = (*k)->attrs; s->name; s++) {
			struct arena a = ARENA_INIT;
			struct strbuf x = STRBUF_INIT, y = STRBUF_INIT;
			if (s->type == ATTR_INPUT || s->type == ATTR_INPUTS)
				continue;
			record(graph_text(&a, *k, (struct setting){s->name, 0}), -1, &x);
			record(graph_text(&a, *k, (struct setting){s->name, 1}), -1, &y);
			differs_in(&x, &y, (*k)->name, s->flags & ATTR_UNKEYED ? NULL : s->name);
			tried++;
			strbuf_free(&x);
			strbuf_free(&y);
			arena_free(&a);
		}
	}
	assert_true(tried > 60);
}

static void changing_one_input_changes_the_key_by_that_input(void **state)
{
	size_t tried = 0;

	(void)state;
	for (const struct kind_schema *const *k = stage_schemas(); *k; k++) {
		int position = 0;
		for (const struct attr_schema *s = (*k)->attrs; s->name; s++) {
			struct arena a = ARENA_INIT;
			struct strbuf x = STRBUF_INIT, y = STRBUF_INIT;
			if (s->type != ATTR_INPUT && s->type != ATTR_INPUTS)
				continue;
			const char *text = graph_text(&a, *k, (struct setting){s->name, 2});
			/* Inputs come in schema order; optional ones of other names may be left out before it. */
			for (position = 0;; position++) {
				strbuf_clear(&x);
				strbuf_clear(&y);
				record(text, -1, &x);
				record(text, position, &y);
				struct key_diff *diff;
				size_t n = key_compare((const uint8_t *)x.data, x.len,
						       (const uint8_t *)y.data, y.len, &a, &diff);
				if (n == 0)
					fail_msg("%s.%s: no input of that name in the key", (*k)->name,
						 s->name);
				assert_int_equal(n, 1);
				assert_string_equal(diff[0].what, "input");
				if (strcmp(diff[0].name, s->type == ATTR_INPUTS ? "x" : s->name) == 0)
					break;
			}
			tried++;
			strbuf_free(&x);
			strbuf_free(&y);
			arena_free(&a);
		}
	}
	assert_true(tried >= 12);
}

static void the_name_comments_and_order_of_stages_are_not_in_the_key(void **state)
{
	static const char one[] =
		"stage \"all\" {\n  uses = \"exec\"\n  command = \"true\"\n  outputs = { x = \"rows\" }\n}\n"
		"stage \"it\" {\n  uses = \"shuffle-select\"\n  rows = all.x\n  seed = 42\n}\n";
	static const char two[] =
		"# a comment\nstage \"it\" {\n  rows = other.x\n  uses = \"shuffle-select\"\n}\n"
		"stage \"other\" {\n  uses = \"exec\"\n  command = \"true\"\n  outputs = { x = \"rows\" "
		"}\n}\n";
	struct strbuf x = STRBUF_INIT, y = STRBUF_INIT;

	(void)state;
	record(one, -1, &x);
	record(two, -1, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	strbuf_free(&x);
	strbuf_free(&y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changing_one_attribute_changes_the_key_by_that_attribute),
		cmocka_unit_test(changing_one_input_changes_the_key_by_that_input),
		cmocka_unit_test(the_name_comments_and_order_of_stages_are_not_in_the_key),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
