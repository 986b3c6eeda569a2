/* A stage's attributes, inputs and outputs by name. A name or type that the kind's schema does not have is a
 * mistake in the kind, found by its first test: it aborts with one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/worker.h"

static _Noreturn void misuse(const struct stage_ctx *ctx, const char *name, const char *what)
{
	fprintf(stderr, "stage kind %s asks for \"%s\": %s\n", ctx->node->kind->name, name, what);
	abort();
}

const struct stage_node *ctx_node(const struct stage_ctx *ctx)
{
	return ctx->node;
}

/* The value of an attribute; aborts unless its type is one of the bits in types (1 << enum attr_type). */
static const struct value *attr(const struct stage_ctx *ctx, const char *name, unsigned types)
{
	const struct attr_schema *schema = ctx->node->kind->attrs;

	for (size_t i = 0; schema && schema[i].name; i++) {
		if (strcmp(schema[i].name, name) != 0)
			continue;
		if (!(types & 1u << schema[i].type))
			misuse(ctx, name, "its schema gives it another type");
		return &ctx->node->attrs[i];
	}
	misuse(ctx, name, "its schema has no such attribute");
}

/* As attr, for types that have no value to stand for "left out". */
static const struct value *attr_present(const struct stage_ctx *ctx, const char *name, unsigned types)
{
	const struct value *v = attr(ctx, name, types);

	if (v->type == VALUE_NONE)
		misuse(ctx, name, "it was left out; ask ctx_given first");
	return v;
}

bool ctx_given(const struct stage_ctx *ctx, const char *name)
{
	return attr(ctx, name, ~0u)->type != VALUE_NONE;
}

const char *ctx_str(const struct stage_ctx *ctx, const char *name)
{
	const struct value *v = attr(
		ctx, name, 1u << ATTR_STRING | 1u << ATTR_CHOICE | 1u << ATTR_SOURCE | 1u << ATTR_TARGET);

	return v->type == VALUE_NONE ? NULL : v->str;
}

int64_t ctx_int(const struct stage_ctx *ctx, const char *name)
{
	return attr_present(ctx, name, 1u << ATTR_INT)->i;
}

double ctx_float(const struct stage_ctx *ctx, const char *name)
{
	return attr_present(ctx, name, 1u << ATTR_FLOAT | 1u << ATTR_DURATION)->f;
}

bool ctx_bool(const struct stage_ctx *ctx, const char *name)
{
	return attr_present(ctx, name, 1u << ATTR_BOOL)->b;
}

const char *const *ctx_list(const struct stage_ctx *ctx, const char *name, size_t *n)
{
	const struct value *v = attr(ctx, name, 1u << ATTR_STRINGS | 1u << ATTR_SOURCES);

	*n = v->type == VALUE_NONE ? 0 : v->list.n;
	return *n ? v->list.items : NULL;
}

const char *ctx_path(const struct stage_ctx *ctx, const char *name)
{
	const struct value *v = attr(ctx, name, 1u << ATTR_SOURCE | 1u << ATTR_TARGET);

	return v->type == VALUE_NONE ? NULL : v->path;
}

const char *const *ctx_paths(const struct stage_ctx *ctx, const char *name, size_t *n)
{
	const struct value *v = attr(ctx, name, 1u << ATTR_SOURCES);

	*n = v->type == VALUE_NONE ? 0 : v->list.n;
	return *n ? v->paths : NULL;
}

const char *ctx_pin(const struct stage_ctx *ctx)
{
	return ctx->pin;
}

/* The input called name, or NULL when it is left out. */
static const struct stage_input *input(const struct stage_ctx *ctx, const char *name)
{
	const struct stage_node *node = ctx->node;

	for (size_t i = 0; i < node->ninputs; i++)
		if (strcmp(node->inputs[i].name, name) == 0)
			return &ctx->inputs[i];
	attr(ctx, name, 1u << ATTR_INPUT);
	return NULL;
}

const char *ctx_input(const struct stage_ctx *ctx, const char *name)
{
	const struct stage_input *in = input(ctx, name);

	return in ? in->path : NULL;
}

bool ctx_input_digest(const struct stage_ctx *ctx, const char *name, struct digest *out)
{
	const struct stage_input *in = input(ctx, name);

	if (in)
		*out = in->digest;
	return in != NULL;
}

enum port_kind ctx_input_kind(const struct stage_ctx *ctx, const char *name)
{
	const struct stage_input *in = input(ctx, name);

	return in ? in->kind : (enum port_kind)0;
}

const char *ctx_output(const struct stage_ctx *ctx, const char *name)
{
	for (size_t i = 0; i < ctx->node->noutputs; i++)
		if (strcmp(ctx->node->outputs[i].name, name) == 0)
			return ctx->outputs[i];
	misuse(ctx, name, "it has no such output");
}

const char *ctx_scratch(const struct stage_ctx *ctx)
{
	return ctx->scratch;
}
