/* anneal stages: the reference of stage kinds, made from the tables that the checker uses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/text.h"
#include "graph/schema.h"
#include "stages/registry.h"

extern const struct command cmd_stages;

static const char *type_name(enum attr_type t)
{
	switch (t) {
	case ATTR_STRING: return "string";
	case ATTR_INT: return "int";
	case ATTR_FLOAT: return "float";
	case ATTR_BOOL: return "bool";
	case ATTR_CHOICE: return "choice";
	case ATTR_DURATION: return "duration";
	case ATTR_STRINGS: return "list of strings";
	case ATTR_SOURCE: return "path or URL";
	case ATTR_SOURCES: return "list of paths or URLs";
	case ATTR_TARGET: return "path or URL to write";
	case ATTR_INPUT: return "input";
	case ATTR_INPUTS: return "inputs";
	case ATTR_OUTPUTS: return "outputs";
	}
	return "?";
}

static bool is_port(const struct attr_schema *a)
{
	return a->type == ATTR_INPUT || a->type == ATTR_INPUTS || a->type == ATTR_OUTPUTS;
}

/* "rows", "rows or tokens", "any". */
static void add_ports(unsigned ports, struct strbuf *b)
{
	bool first = true;

	if (ports == PORT_ANY || ports == 0) {
		strbuf_adds(b, "any");
		return;
	}
	for (unsigned bit = 1; bit < PORT_ANY; bit <<= 1)
		if (ports & bit) {
			strbuf_addf(b, "%s%s", first ? "" : " or ", port_kind_name((enum port_kind)bit));
			first = false;
		}
}

/* What values are taken: "one of …", "0 to 1", "at least 1". */
static void add_range(const struct attr_schema *a, struct strbuf *b)
{
	char low[32], high[32];

	if (a->type == ATTR_CHOICE && a->choices) {
		for (size_t i = 0; a->choices[i]; i++)
			strbuf_addf(b, "%s\"%s\"", i ? ", " : "", a->choices[i]);
	} else if (a->min != 0 || a->max != 0) {
		format_f64(a->min, low);
		format_f64(a->max, high);
		if (a->max >= 1e15)
			strbuf_addf(b, "at least %s", low);
		else if (a->min <= -1e15)
			strbuf_addf(b, "at most %s", high);
		else
			strbuf_addf(b, "%s to %s", low, high);
	}
}

/* ---- JSON ---- */

static json_t *attr_json(const struct attr_schema *a)
{
	json_t *j = json_object();
	struct strbuf b = STRBUF_INIT;

	json_object_set_new(j, "name", json_string(a->name));
	json_object_set_new(j, "type", json_string(type_name(a->type)));
	if (a->type == ATTR_INPUT || a->type == ATTR_INPUTS) {
		add_ports(a->ports, &b);
		json_object_set_new(j, "accepts", json_string(b.data));
	}
	json_object_set_new(j, "required", json_boolean(a->flags & ATTR_REQUIRED));
	json_object_set_new(j, "default", a->fallback ? json_string(a->fallback) : json_null());
	if (a->min != 0 || a->max != 0) {
		json_object_set_new(j, "min", json_real(a->min));
		json_object_set_new(j, "max", json_real(a->max));
	}
	if (a->choices) {
		json_t *choices = json_array();
		for (size_t i = 0; a->choices[i]; i++)
			json_array_append_new(choices, json_string(a->choices[i]));
		json_object_set_new(j, "choices", choices);
	}
	json_object_set_new(j, "keyed", json_boolean(!(a->flags & ATTR_UNKEYED)));
	json_object_set_new(j, "doc", json_string(a->doc ? a->doc : ""));
	strbuf_free(&b);
	return j;
}

static json_t *kind_json(const struct kind_schema *k)
{
	json_t *j = json_object(), *attrs = json_array(), *outputs = json_array();

	json_object_set_new(j, "kind", json_string(k->name));
	json_object_set_new(j, "version", json_integer(k->version));
	json_object_set_new(j, "doc", json_string(k->doc));
	for (const struct attr_schema *a = k->attrs; a->name; a++)
		json_array_append_new(attrs, attr_json(a));
	for (const struct output_schema *o = k->outputs; o->name; o++) {
		json_t *out = json_object();
		json_object_set_new(out, "name", json_string(o->name));
		json_object_set_new(out, "kind", json_string(port_kind_name(o->kind)));
		json_object_set_new(out, "doc", json_string(o->doc ? o->doc : ""));
		json_array_append_new(outputs, out);
	}
	json_object_set_new(j, "attributes", attrs);
	json_object_set_new(j, "outputs", outputs);
	return j;
}

/* ---- Markdown ---- */

/* A table cell: the one character that ends it is escaped. */
static void add_cell(struct strbuf *b, const char *s)
{
	for (; s && *s; s++) {
		if (*s == '|')
			strbuf_addc(b, '\\');
		strbuf_addc(b, *s);
	}
}

static void attrs_markdown(const struct attr_schema *attrs, bool ports, struct strbuf *b)
{
	for (const struct attr_schema *a = attrs; a->name; a++) {
		struct strbuf range = STRBUF_INIT;
		if (is_port(a) != ports)
			continue;
		add_range(a, &range);
		strbuf_addf(b, "| `%s` | ", a->name);
		if (ports && a->type != ATTR_OUTPUTS)
			add_ports(a->ports, b);
		else
			strbuf_adds(b, type_name(a->type));
		if (range.len) {
			strbuf_adds(b, ": ");
			add_cell(b, range.data);
		}
		strbuf_adds(b, " | ");
		if (a->flags & ATTR_REQUIRED)
			strbuf_adds(b, "required");
		else if (a->fallback)
			strbuf_addf(b, "`%s`", a->fallback);
		strbuf_adds(b, " | ");
		add_cell(b, a->doc);
		if (a->flags & ATTR_UNKEYED)
			strbuf_adds(b, " (not part of the key)");
		strbuf_adds(b, " |\n");
		strbuf_free(&range);
	}
}

static bool has(const struct attr_schema *attrs, bool ports)
{
	for (; attrs->name; attrs++)
		if (is_port(attrs) == ports)
			return true;
	return false;
}

static void kind_markdown(const struct kind_schema *k, struct strbuf *b)
{
	strbuf_addf(b, "\n## %s\n\n`%s` version %d: %s.\n", k->name, k->name, k->version, k->doc);
	if (has(k->attrs, true)) {
		strbuf_adds(b, "\n| input | kind | | |\n|---|---|---|---|\n");
		attrs_markdown(k->attrs, true, b);
	}
	if (k->outputs->name)
		strbuf_adds(b, "\n| output | kind | |\n|---|---|---|\n");
	for (const struct output_schema *o = k->outputs; o->name; o++) {
		strbuf_addf(b, "| `%s` | %s | ", o->name, port_kind_name(o->kind));
		add_cell(b, o->doc);
		strbuf_adds(b, " |\n");
	}
	if (has(k->attrs, false)) {
		strbuf_adds(b, "\n| attribute | type | default | |\n|---|---|---|---|\n");
		attrs_markdown(k->attrs, false, b);
	}
}

static void print_markdown(const struct kind_schema *only)
{
	struct strbuf b = STRBUF_INIT;

	if (!only)
		strbuf_adds(&b, "# Stage kinds\n\nMade by `anneal stages --markdown` from the tables that "
				"check graphs.\n"
				"\n## Every stage\n\n| attribute | type | default | |\n|---|---|---|---|\n");
	if (!only)
		attrs_markdown(common_attrs, false, &b);
	for (const struct kind_schema *const *k = stage_schemas(); *k; k++)
		if (!only || *k == only)
			kind_markdown(*k, &b);
	fputs(b.data, stdout);
	strbuf_free(&b);
}

/* ---- text ---- */

static void attrs_text(const struct cli *cli, const struct attr_schema *attrs)
{
	struct table t = {.columns = 4};

	for (const struct attr_schema *a = attrs; a->name; a++) {
		struct strbuf type = STRBUF_INIT;
		if (a->type == ATTR_INPUT || a->type == ATTR_INPUTS)
			add_ports(a->ports, &type);
		else if (a->type == ATTR_CHOICE)
			add_range(a, &type);
		else
			strbuf_adds(&type, type_name(a->type));
		if (a->type != ATTR_CHOICE && (a->min != 0 || a->max != 0)) {
			strbuf_adds(&type, ", ");
			add_range(a, &type);
		}
		table_add(&t, a->name);
		table_add(&t, type.data);
		table_add(&t, a->flags & ATTR_REQUIRED ? "required" : a->fallback ? a->fallback : "");
		table_add(&t, a->doc);
		strbuf_free(&type);
	}
	table_print(&t, stdout, "  ", false, cli->color);
}

static void kind_text(const struct cli *cli, const struct kind_schema *k)
{
	struct table t = {.columns = 3};

	printf("%s%s%s (version %d): %s\n\n", paint(PAINT_BOLD, cli->color), k->name,
	       paint(PAINT_NONE, cli->color), k->version, k->doc);
	attrs_text(cli, k->attrs);
	if (k->outputs->name)
		printf("\noutputs\n");
	for (const struct output_schema *o = k->outputs; o->name; o++) {
		table_add(&t, o->name);
		table_add(&t, port_kind_name(o->kind));
		table_add(&t, o->doc);
	}
	table_print(&t, stdout, "  ", false, cli->color);
	printf("\nevery stage\n");
	attrs_text(cli, common_attrs);
}

/* ---- */

static const struct kind_schema *find(const char *name, struct error *err)
{
	const char *names[64];
	struct strbuf all = STRBUF_INIT;
	size_t n = 0;

	for (const struct kind_schema *const *k = stage_schemas(); *k; k++) {
		if (!strcmp((*k)->name, name)) {
			strbuf_free(&all);
			return *k;
		}
		if (n < 64)
			names[n++] = (*k)->name;
		strbuf_addf(&all, "%s%s", all.len ? ", " : "", (*k)->name);
	}
	const char *near = nearest_name(name, names, n);
	error_set(err, ERR_USAGE, "there is no stage kind \"%s\"%s%s%s", name,
		  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	error_hint(err, "there are: %s", all.data ? all.data : "none");
	strbuf_free(&all);
	return NULL;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	bool markdown = false;
	const struct option options[] = {
		{"markdown", 0, OPTION_FLAG, &markdown, NULL, "as docs/stages.md"},
		{0},
	};
	const struct kind_schema *only = NULL;
	int code = options_parse(cli, &cmd_stages, options, &argc, argv, 0, 1);

	if (code >= 0)
		return code;
	if (argc && !(only = find(argv[0], &err)))
		return cli_fail(cli, &err);
	if (markdown) {
		print_markdown(only);
	} else if (cli->json) {
		json_t *list = json_array();
		for (const struct kind_schema *const *k = stage_schemas(); *k; k++)
			if (!only || *k == only)
				json_array_append_new(list, kind_json(*k));
		cli_print_json(list);
	} else if (only) {
		kind_text(cli, only);
	} else {
		struct table t = {.columns = 2};
		for (const struct kind_schema *const *k = stage_schemas(); *k; k++) {
			table_add(&t, (*k)->name);
			table_add(&t, (*k)->doc);
		}
		table_print(&t, stdout, "", false, cli->color);
	}
	return 0;
}

const struct command cmd_stages = {
	.name = "stages",
	.args = "[KIND]",
	.summary = "the kinds of stages, their inputs, outputs and attributes",
	.run = run,
};
