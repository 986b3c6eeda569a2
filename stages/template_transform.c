/* template-transform: rows of any shape into the text that a model reads. */
#include <string.h>

#include "data/rows.h"
#include "data/template.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const struct attr_schema attrs[] = {
	{.name = "rows",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_ROWS,
	 .doc = "the rows to transform"},
	{.name = "template",
	 .type = ATTR_STRING,
	 .doc = "the whole text: {field} is a field of the row, {a.b} a field of a field, {{ and }} are "
		"braces"},
	{.name = "prompt", .type = ATTR_STRING, .doc = "what the model is given; together with completion"},
	{.name = "completion",
	 .type = ATTR_STRING,
	 .doc = "what it has to answer; its text follows the prompt's directly"},
	{0},
};

static const struct output_schema outputs[] = {
	{"rows", PORT_ROWS, "rows with the field text, or with prompt and completion"},
	{0},
};

static const char *check(const struct stage_node *node, const char **attr)
{
	bool template = stage_attr(node, "template")->type != VALUE_NONE;
	bool prompt = stage_attr(node, "prompt")->type != VALUE_NONE;
	bool completion = stage_attr(node, "completion")->type != VALUE_NONE;

	if (template && (prompt || completion)) {
		*attr = "template";
		return "give either template, or prompt and completion";
	}
	if (prompt != completion) {
		*attr = prompt ? "prompt" : "completion";
		return prompt ? "prompt needs completion beside it" : "completion needs prompt beside it";
	}
	if (!template && !prompt)
		return "needs template, or prompt and completion";
	return NULL;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const char *names[2] = {"text", NULL};
	struct template *parts[2] = {NULL, NULL};
	struct rows_writer *out = NULL;
	struct rows *in = NULL;
	struct strbuf fields = STRBUF_INIT, text = STRBUF_INIT;
	uint32_t nparts = 1;
	int failed = -1;

	if (ctx_given(ctx, "prompt")) {
		names[0] = "prompt";
		names[1] = "completion";
		nparts = 2;
	}
	for (uint32_t k = 0; k < nparts; k++) {
		const char *attr = nparts == 1 ? "template" : names[k];
		parts[k] = template_compile(ctx_str(ctx, attr), attr, err);
		if (!parts[k])
			goto done;
	}
	in = rows_open(ctx_input(ctx, "rows"), err);
	out = in ? rows_create(ctx_output(ctx, "rows"), err) : NULL;
	if (!out)
		goto done;
	uint64_t n = rows_count(in), bytes = 0;
	for (uint64_t i = 0; i < n; i++) {
		struct row row;
		if (rows_get(in, i, &row, err))
			goto done;
		strbuf_clear(&fields);
		pack_map(&fields, nparts);
		for (uint32_t k = 0; k < nparts; k++) {
			strbuf_clear(&text);
			if (template_render(parts[k], &row, &text, err))
				goto done;
			pack_str(&fields, names[k], strlen(names[k]));
			pack_str(&fields, text.data ? text.data : "", text.len);
			bytes += text.len;
		}
		if (rows_add(out, row.id, fields.data, fields.len, err))
			goto done;
		if ((i & 1023) == 0 && stopping(ctx, err))
			goto done;
		ctx_progress(ctx, i, n, "rows");
	}
	failed = rows_commit(out, err);
	out = NULL;
	if (!failed) {
		summary_count(ctx, "rows", n);
		summary_count(ctx, "bytes", bytes);
	}
done:
	rows_abort(out);
	rows_close(in);
	template_free(parts[0]);
	template_free(parts[1]);
	strbuf_free(&fields);
	strbuf_free(&text);
	return failed;
}

const struct stage_kind stage_template_transform = {
	.schema = {.name = "template-transform",
		   .version = 1,
		   .doc = "Writes each row's fields into a text, or into a prompt and its completion",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
