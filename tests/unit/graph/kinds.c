#include "tests/unit/graph/kinds.h"

#include <float.h>
#include <stddef.h>

#define END                                                                                                  \
	{                                                                                                    \
		.name = NULL                                                                                 \
	}

static const char *const splits[] = {"train", "test", "validation", NULL};
static const char *const methods[] = {"qlora", "lora", "full", NULL};

static const struct attr_schema fetch_attrs[] = {
	{"source", ATTR_SOURCE, ATTR_REQUIRED, 0, NULL, 0, 0, NULL, "where the rows are"},
	{"split", ATTR_CHOICE, 0, 0, "\"train\"", 0, 0, splits, "which part"},
	{"revision", ATTR_STRING, 0, 0, NULL, 0, 0, NULL, "a commit"},
	{"files", ATTR_SOURCES, 0, 0, "[]", 0, 0, NULL, "more files"},
	END,
};
static const struct output_schema fetch_outputs[] = {{"rows", PORT_ROWS, "the rows"}, END};

static const struct attr_schema select_attrs[] = {
	{"rows", ATTR_INPUT, ATTR_REQUIRED, PORT_ROWS, NULL, 0, 0, NULL, "the rows"},
	{"seed", ATTR_INT, 0, 0, "42", 0, DBL_MAX, NULL, "seed"},
	{"limit", ATTR_INT, 0, 0, "-1", -1, 1000000, NULL, "how many"},
	{"shuffle", ATTR_BOOL, 0, 0, "true", 0, 0, NULL, "whether to shuffle"},
	END,
};

static const struct attr_schema template_attrs[] = {
	{"rows", ATTR_INPUT, ATTR_REQUIRED, PORT_ROWS, NULL, 0, 0, NULL, "the rows"},
	{"template", ATTR_STRING, 0, 0, NULL, 0, 0, NULL, "the whole text"},
	{"prompt", ATTR_STRING, 0, 0, NULL, 0, 0, NULL, "the prompt"},
	{"completion", ATTR_STRING, 0, 0, NULL, 0, 0, NULL, "the completion"},
	END,
};
static const struct output_schema template_outputs[] = {
	{"text", PORT_ROWS, "the texts"}, {"rowmap", PORT_REPORT, "which row became which"}, END};

static const char *check_template(const struct stage_node *s, const char **attr)
{
	if (s->attrs[1].type == VALUE_NONE && s->attrs[2].type == VALUE_NONE)
		return "template or prompt is needed";
	if (s->attrs[1].type != VALUE_NONE && s->attrs[2].type != VALUE_NONE) {
		*attr = "prompt";
		return "template and prompt exclude each other";
	}
	return NULL;
}

static const struct attr_schema model_attrs[] = {
	{"source", ATTR_SOURCE, ATTR_REQUIRED, 0, NULL, 0, 0, NULL, "where the model is"},
	{"token", ATTR_STRING, ATTR_UNKEYED, 0, NULL, 0, 0, NULL, "for gated models"},
	END,
};
static const struct output_schema model_outputs[] = {{"model", PORT_MODEL, "the model"}, END};

static const struct attr_schema tokenize_attrs[] = {
	{"rows", ATTR_INPUT, ATTR_REQUIRED, PORT_ROWS, NULL, 0, 0, NULL, "the texts"},
	{"model", ATTR_INPUT, ATTR_REQUIRED, PORT_MODEL, NULL, 0, 0, NULL, "whose tokenizer"},
	{"max_length", ATTR_INT, 0, 0, "512", 1, 131072, NULL, "tokens"},
	END,
};
static const struct output_schema tokenize_outputs[] = {{"tokens", PORT_TOKENS, "the tokens"}, END};

static const struct attr_schema train_attrs[] = {
	{"tokens", ATTR_INPUT, ATTR_REQUIRED, PORT_TOKENS, NULL, 0, 0, NULL, "the tokens"},
	{"model", ATTR_INPUT, ATTR_REQUIRED, PORT_MODEL, NULL, 0, 0, NULL, "the base"},
	{"eval", ATTR_INPUT, 0, PORT_TOKENS | PORT_ROWS, NULL, 0, 0, NULL, "tokens to evaluate on"},
	{"method", ATTR_CHOICE, 0, 0, "\"qlora\"", 0, 0, methods, "how"},
	{"learning_rate", ATTR_FLOAT, 0, 0, "2e-4", 1e-8, 1, NULL, "peak"},
	{"warmup", ATTR_DURATION, 0, 0, "\"0s\"", 0, 3600, NULL, "how long"},
	{"target_modules", ATTR_STRINGS, 0, 0, "[\"q_proj\", \"v_proj\"]", 0, 0, NULL, "which layers"},
	END,
};
static const struct output_schema train_outputs[] = {{"adapter", PORT_ADAPTER, "the adapter"}, END};

static const struct attr_schema export_attrs[] = {
	{"model", ATTR_INPUT, ATTR_REQUIRED, PORT_MODEL | PORT_ADAPTER, NULL, 0, 0, NULL, "what to export"},
	{"to", ATTR_TARGET, ATTR_REQUIRED, 0, NULL, 0, 0, NULL, "where to"},
	END,
};
static const struct output_schema export_outputs[] = {{"report", PORT_REPORT, "what was written"}, END};

static const struct attr_schema exec_attrs[] = {
	{"command", ATTR_STRING, ATTR_REQUIRED, 0, NULL, 0, 0, NULL, "for /bin/sh"},
	{"inputs", ATTR_INPUTS, 0, PORT_ANY, "{}", 0, 0, NULL, "IN_name"},
	{"outputs", ATTR_OUTPUTS, 0, 0, "{}", 0, 0, NULL, "OUT_name"},
	END,
};
static const struct output_schema no_outputs[] = {END};

static const struct kind_schema fetch = {"fetch", 1, "rows from somewhere", fetch_attrs, fetch_outputs, NULL};
static const struct kind_schema shuffle = {"shuffle-select", 2,   "some of the rows", select_attrs,
					   fetch_outputs,    NULL};
static const struct kind_schema template = {
	"template", 1, "texts from rows", template_attrs, template_outputs, check_template};
static const struct kind_schema model = {"model-fetch", 1, "a model", model_attrs, model_outputs, NULL};
static const struct kind_schema tokenize = {"tokenize",       3,   "tokens from texts", tokenize_attrs,
					    tokenize_outputs, NULL};
static const struct kind_schema train = {"train", 1, "an adapter", train_attrs, train_outputs, NULL};
static const struct kind_schema export = {"export", 1, "a directory", export_attrs, export_outputs, NULL};
static const struct kind_schema exec = {"exec", 1, "a command", exec_attrs, no_outputs, NULL};

const struct kind_schema *const test_kinds[] = {&fetch, &shuffle, &template, &model, &tokenize,
						&train, &export,  &exec,     NULL};
