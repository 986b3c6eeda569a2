/* merge: an adapter into its base model. */
#include "model/merge.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const struct attr_schema attrs[] = {
	{.name = "model",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_MODEL,
	 .doc = "the base model"},
	{.name = "adapter",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_ADAPTER,
	 .doc = "the adapter trained on it"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "the merged model"},
	{0},
};

static void on_progress(uint64_t done, uint64_t all, void *arg)
{
	ctx_progress(arg, done, all, "bytes");
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	struct merge_report report;
	char size[16];

	if (model_merge(ctx_input(ctx, "model"), ctx_input(ctx, "adapter"), ctx_output(ctx, "model"),
			on_progress, ctx, &report, err))
		return -1;
	ctx_summary(ctx, "tensors changed", "%lld of %lld", (long long)report.changed,
		    (long long)report.tensors);
	format_bytes(report.bytes, size);
	ctx_summary(ctx, "weights", "%s", size);
	return 0;
}

const struct stage_kind stage_merge = {
	.schema = {.name = "merge",
		   .version = 1,
		   .doc = "Adds a trained adapter to its base model: W + scale * B A, rounded once to each "
			  "tensor's dtype",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
};
