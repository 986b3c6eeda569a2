/* From a path or a text to a graph, and looking things up in it. */
#include "graph/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"

/* Places are 32 bits, and a graph that people write is a millionth of that. */
#define MAX_SIZE ((size_t)1 << 30)

static const struct span nowhere = {NULL, 0, 0, 0, 0};

static const char *stem_of(struct arena *a, const char *name)
{
	const char *base = path_base(name);
	const char *dot = strrchr(base, '.');

	return arena_strndup(a, base, dot && dot > base ? (size_t)(dot - base) : strlen(base));
}

static struct source *source_new(struct arena *a, const char *name, const char *basedir, const char *text,
				 size_t len)
{
	struct source *s = arena_calloc(a, 1, sizeof *s);

	s->name = arena_strdup(a, name);
	s->basedir = arena_strdup(a, basedir);
	s->text = arena_strndup(a, text, len);
	s->len = len;
	return s;
}

struct graph *graph_load_text(const char *name, const char *basedir, const char *text, size_t len,
			      const struct graph_options *o, struct diags *d)
{
	struct graph *g = xcalloc(1, sizeof *g);
	struct tree tree;
	struct checker c = {
		.g = g, .arena = &g->arena, .diags = d, .options = o, .tree = &tree, .errors = d->errors};
	size_t errors = d->errors, from = d->n;

	if (len > MAX_SIZE) {
		diag_error(d, nowhere, "%s is larger than 1 GiB", name);
		free(g);
		return NULL;
	}
	g->source = source_new(&g->arena, name, basedir, text, len);
	g->name = stem_of(&g->arena, name);
	parse_file(g->source, &g->arena, d, &tree);
	graph_check(&c);
	diags_finish(d, from);
	if (d->errors > errors) {
		graph_free(g);
		return NULL;
	}
	return g;
}

struct graph *graph_load(const char *path, const struct graph_options *o, struct diags *d)
{
	struct error err = ERROR_INIT;
	size_t size;
	char *text = file_read(path, &size, &err);

	if (!text) {
		diag_error(d, nowhere, "%s", err.message);
		if (*err.hint)
			diag_label(d, "%s", err.hint);
		return NULL;
	}
	char *dir = path_dir(path);
	struct graph *g = graph_load_text(path, dir, text, size, o, d);
	free(dir);
	free(text);
	return g;
}

void graph_free(struct graph *g)
{
	if (!g)
		return;
	arena_free(&g->arena);
	free(g);
}

int graph_stage(const struct graph *g, const char *name)
{
	uint32_t i = names_find(g->index, name, strlen(name));

	return i == NAMES_NONE ? -1 : (int)i;
}

const struct value *stage_attr(const struct stage_node *s, const char *name)
{
	for (size_t i = 0; s->kind->attrs[i].name; i++)
		if (!strcmp(s->kind->attrs[i].name, name))
			return &s->attrs[i];
	return NULL;
}

int stage_output(const struct stage_node *s, const char *name)
{
	for (size_t i = 0; i < s->noutputs; i++)
		if (!strcmp(s->outputs[i].name, name))
			return (int)i;
	return -1;
}
