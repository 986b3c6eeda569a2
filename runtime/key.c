/* The key of a stage: the canonical record of everything that decides its result. docs/formats.md gives it to the
 * byte; tests/unit/runtime/test_key.c holds keys that must never change under one KEY_SCHEME. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/canon.h"
#include "runtime/plan.h"

struct named {
	const char *name;
	size_t index;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static void sort_named(struct named *v, size_t n)
{
	if (n > 32) {
		qsort(v, n, sizeof *v, by_name);
		return;
	}
	for (size_t i = 1; i < n; i++) {
		struct named x = v[i];
		size_t j = i;
		for (; j && strcmp(v[j - 1].name, x.name) > 0; j--)
			v[j] = v[j - 1];
		v[j] = x;
	}
}

/* The words of the key scheme, which stay what they are even if the language ever calls a kind differently. */
static const char *kind_word(enum port_kind kind)
{
	switch (kind) {
	case PORT_ROWS: return "rows";
	case PORT_TOKENS: return "tokens";
	case PORT_MODEL: return "model";
	case PORT_ADAPTER: return "adapter";
	case PORT_REPORT: return "report";
	case PORT_FILE: return "file";
	case PORT_ANY: break;
	}
	return "any";
}

/* scheme://… */
static bool is_url(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

	return n > 0 && strncmp(s + n, "://", 3) == 0;
}

/* "org/name", as models and datasets are called on the Hub. */
static bool is_hub_name(const char *s)
{
	static const char part[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
	size_t n = strspn(s, part), m = s[n] == '/' ? strspn(s + n + 1, part) : 0;

	return n > 0 && m > 0 && s[0] != '.' && s[n + 1 + m] == '\0';
}

static int put_source(struct store *s, const char *text, const char *path, struct strbuf *out,
		      struct error *err)
{
	struct digest d;

	canon_array(out, 2);
	if (is_url(text)) {
		canon_str(out, "url");
		canon_bin(out, text, strlen(text)); /* bin, as no list of strings has it */
		return 0;
	}
	if (store_digest_path(s, path ? path : text, &d, NULL, err)) {
		if (!path_exists(path ? path : text))
			error_hint(err, is_hub_name(text) ? "a repository of the Hugging Face Hub? Fetching "
							    "from it is not there yet "
							    "in this version: download it and give its path"
							  : "correct the path; relative ones start at the "
							    "graph's folder, with --set "
							    "and in the environment at the current one");
		return -1;
	}
	canon_str(out, "sha256");
	canon_digest(out, &d);
	return 0;
}

/* Absolute, without "//", "." and ".." parts. The path need not exist, so links in it are not looked at. */
static void put_target(const char *path, struct strbuf *out)
{
	struct strbuf full = STRBUF_INIT, clean = STRBUF_INIT;

	if (path[0] != '/') {
		char *cwd = getcwd(NULL, 0);
		strbuf_adds(&full, cwd ? cwd : "/");
		strbuf_addc(&full, '/');
		free(cwd);
	}
	strbuf_adds(&full, path);
	for (const char *p = full.data; *p;) {
		size_t n = strcspn(p, "/");
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			while (clean.len && clean.data[--clean.len] != '/')
				;
		} else if (n && !(n == 1 && p[0] == '.')) {
			strbuf_addc(&clean, '/');
			strbuf_add(&clean, p, n);
		}
		p += n + (p[n] == '/');
	}
	if (!clean.len)
		strbuf_addc(&clean, '/');
	clean.data[clean.len] = '\0';
	canon_str(out, clean.data);
	strbuf_free(&full);
	strbuf_free(&clean);
}

static void put_outputs(const struct stage_node *node, struct strbuf *out)
{
	struct named *names = xmalloc((node->noutputs + 1) * sizeof *names);

	for (size_t i = 0; i < node->noutputs; i++)
		names[i] = (struct named){node->outputs[i].name, i};
	sort_named(names, node->noutputs);
	canon_map(out, node->noutputs);
	for (size_t i = 0; i < node->noutputs; i++) {
		canon_str(out, names[i].name);
		canon_str(out, kind_word(node->outputs[names[i].index].kind));
	}
	free(names);
}

static int put_value(struct store *s, const struct stage_node *node, const struct attr_schema *schema,
		     const struct value *v, struct strbuf *out, struct error *err)
{
	switch (schema->type) {
	case ATTR_INT: canon_int(out, v->type == VALUE_FLOAT ? (int64_t)v->f : v->i); return 0;
	case ATTR_FLOAT:
	case ATTR_DURATION: canon_float(out, v->type == VALUE_INT ? (double)v->i : v->f); return 0;
	case ATTR_BOOL: canon_bool(out, v->b); return 0;
	case ATTR_STRING:
	case ATTR_CHOICE: canon_str(out, v->str); return 0;
	case ATTR_STRINGS:
		canon_array(out, v->list.n);
		for (size_t i = 0; i < v->list.n; i++)
			canon_str(out, v->list.items[i]);
		return 0;
	case ATTR_SOURCE: return put_source(s, v->str, v->path, out, err);
	case ATTR_SOURCES:
		canon_array(out, v->list.n);
		for (size_t i = 0; i < v->list.n; i++)
			if (put_source(s, v->list.items[i], v->paths ? v->paths[i] : NULL, out, err))
				return -1;
		return 0;
	case ATTR_TARGET:
		if (is_url(v->str))
			canon_str(out, v->str);
		else
			put_target(v->path ? v->path : v->str, out);
		return 0;
	case ATTR_OUTPUTS: put_outputs(node, out); return 0;
	case ATTR_INPUT:
	case ATTR_INPUTS: break; /* edges: among the inputs */
	}
	return 0;
}

static int attr_context(const struct stage_node *node, const struct attr_schema *schema,
			const struct value *v, struct error *err)
{
	error_context(err, "stage \"%s\", attribute %s", node->name, schema->name);
	if (v->span.source)
		error_context(err, "%s:%u:%u", v->span.source->name, (unsigned)v->span.line,
			      (unsigned)v->span.col);
	return -1;
}

static int put_attrs(struct store *s, const struct stage_node *node, struct strbuf *out, struct error *err)
{
	const struct attr_schema *schema = node->kind->attrs;
	struct named few[64], *names = few;
	size_t n = 0, all = 0;
	int failed = 0;

	while (schema[all].name)
		all++;
	if (all > sizeof few / sizeof *few)
		names = xmalloc(all * sizeof *names);
	for (size_t i = 0; i < all; i++) {
		const struct attr_schema *a = &schema[i];
		if ((a->flags & ATTR_UNKEYED) || node->attrs[i].type == VALUE_NONE || a->type == ATTR_INPUT ||
		    a->type == ATTR_INPUTS)
			continue;
		names[n++] = (struct named){a->name, i};
	}
	sort_named(names, n);
	canon_map(out, n);
	for (size_t i = 0; !failed && i < n; i++) {
		const struct attr_schema *a = &schema[names[i].index];
		const struct value *v = &node->attrs[names[i].index];
		canon_str(out, a->name);
		if (put_value(s, node, a, v, out, err))
			failed = attr_context(node, a, v, err);
	}
	if (names != few)
		free(names);
	return failed;
}

static void put_inputs(const struct stage_node *node, const struct digest *inputs, struct strbuf *out)
{
	struct named few[16], *names = few;

	if (node->ninputs > sizeof few / sizeof *few)
		names = xmalloc(node->ninputs * sizeof *names);
	for (size_t i = 0; i < node->ninputs; i++)
		names[i] = (struct named){node->inputs[i].name, i};
	sort_named(names, node->ninputs);
	canon_map(out, node->ninputs);
	for (size_t i = 0; i < node->ninputs; i++) {
		canon_str(out, names[i].name);
		canon_digest(out, &inputs[names[i].index]);
	}
	if (names != few)
		free(names);
}

int key_preimage(struct store *s, const struct stage_node *node, const char *pin, const struct digest *inputs,
		 struct strbuf *out, struct error *err)
{
	size_t start = out->len;

	canon_array(out, 7);
	canon_str(out, KEY_SCHEME);
	canon_str(out, node->kind->name);
	canon_int(out, node->kind->version);
	canon_str(out, node->salt ? node->salt : "");
	if (put_attrs(s, node, out, err)) {
		out->len = start;
		return -1;
	}
	put_inputs(node, inputs, out);
	canon_str(out, pin ? pin : "");
	return 0;
}
