/* merge: an adapter into its base model. */
#include <string.h>

#include "base/file.h"
#include "model/merge.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const char *const dtypes[] = {"stored", "fp32", "fp16", "bf16", NULL};

static const struct attr_schema attrs[] = {
	{.name = "model", .type = ATTR_INPUT, .flags = ATTR_REQUIRED, .ports = PORT_MODEL, .doc = "the base model"},
	{.name = "adapter",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_ADAPTER,
	 .doc = "the adapter trained on it"},
	{.name = "dtype",
	 .type = ATTR_CHOICE,
	 .choices = dtypes,
	 .fallback = "\"stored\"",
	 .doc = "what the sum, computed in fp32, is rounded to once; stored: each tensor's own dtype, and unchanged tensors are "
		"copied byte for byte"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "the merged model"},
	{0},
};

static int run(struct stage_ctx *ctx, struct error *err)
{
	static const enum merge_dtype values[] = {MERGE_AS_STORED, MERGE_F32, MERGE_F16, MERGE_BF16};
	const char *out = ctx_output(ctx, "model"), *dtype = ctx_str(ctx, "dtype");
	struct merge_report report;
	size_t k = 0;
	char size[16];

	while (strcmp(dtypes[k], dtype) != 0)
		k++;
	if (dir_create(out, err) ||
	    merge_adapter(ctx_input(ctx, "model"), ctx_input(ctx, "adapter"), values[k], out, &report, err))
		return -1;
	ctx_summary(ctx, "tensors changed", "%llu of %llu", (unsigned long long)report.changed,
		    (unsigned long long)report.tensors);
	format_bytes(report.bytes, size);
	ctx_summary(ctx, "weights", "%s", size);
	return 0;
}

const struct stage_kind stage_merge = {
	.schema = {.name = "merge",
		   .version = 1,
		   .doc = "Adds a trained adapter to its base model: W + scale * B A, rounded once.",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
};
