/* model-fetch: a base model from where it lies into the store. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "runtime/stage.h"
#include "stages/input.h"
#include "tokenizer/tokenizer.h"

static const struct attr_schema attrs[] = {
	{.name = "source",
	 .type = ATTR_SOURCE,
	 .flags = ATTR_REQUIRED,
	 .doc = "a directory in Hugging Face layout: config.json, *.safetensors, tokenizer files"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "the model's directory"},
	{0},
};

/* What belongs to a model. Other files (the same weights in other formats, images, caches) stay behind. */
static bool wanted(const char *name)
{
	static const char *const names[] = {"config.json",
					    "generation_config.json",
					    "tokenizer.json",
					    "tokenizer.model",
					    "tokenizer_config.json",
					    "special_tokens_map.json",
					    "added_tokens.json",
					    "vocab.json",
					    "merges.txt",
					    "chat_template.jinja",
					    "README.md",
					    "LICENSE",
					    "LICENSE.txt",
					    "NOTICE",
					    "USE_POLICY.md",
					    "model.safetensors.index.json"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return str_ends(name, ".safetensors") && !str_starts(name, "consolidated") &&
	       !str_starts(name, "adapter_");
}

struct copy {
	struct stage_ctx *ctx;
	const char *to;
	uint64_t files, bytes;
};

static int copy_file(const char *relative, const char *path, void *arg, struct error *err)
{
	struct copy *c = arg;

	if (strchr(relative, '/') || !wanted(relative))
		return 0;
	if (stopping(c->ctx, err))
		return -1;
	char *to = path_join(c->to, relative);
	int failed = str_ends(relative, ".safetensors") ? file_copy_hashed(path, to, err)
							: file_copy(path, to, err);
	free(to);
	ctx_progress(c->ctx, ++c->files, 0, "files");
	return failed;
}

/* Reads the model as the later stages will, so that one that they cannot use is refused before it is copied. */
static int verify(struct stage_ctx *ctx, const char *dir, struct error *err)
{
	struct model_config config;
	struct tensors *tensors;
	struct tokenizer *tokenizer;
	uint64_t bytes = 0;

	if (model_config_read(dir, GELU_ARCHITECTURE, &config, err) || tensors_open(dir, &tensors, err))
		return -1;
	for (size_t i = 0; i < tensors_count(tensors); i++)
		bytes += tensors_at(tensors, i)->bytes;
	tensors_close(tensors);
	if (tokenizer_open(dir, &tokenizer, err))
		return -1;
	tokenizer_free(tokenizer);
	char size[16];
	format_bytes(bytes, size);
	ctx_summary(ctx, "architecture", "%s", config.arch == ARCH_GEMMA ? "Gemma" : "Llama");
	summary_count(ctx, "parameters", (uint64_t)model_config_parameters(&config));
	ctx_summary(ctx, "weights", "%s", size);
	return 0;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const char *source = ctx_path(ctx, "source");
	struct copy copy = {ctx, ctx_output(ctx, "model"), 0, 0};

	if (strstr(source, "://"))
		return not_there_yet(err, "models from hf://, gs:// and other URLs",
				     "download the model and give its directory: --set model=path/to/model");
	if (!path_is_dir(source)) {
		error_set(err, ERR_USAGE, "%s is not a directory", source);
		return error_hint(err, "give a model's directory in Hugging Face layout (config.json, "
				       "*.safetensors, tokenizer "
				       "files)");
	}
	if (verify(ctx, source, err) || dir_create(copy.to, err))
		return -1;
	return tree_walk(source, copy_file, &copy, err);
}

const struct stage_kind stage_model_fetch = {
	.schema = {.name = "model-fetch",
		   .version = 1,
		   .doc = "Takes a base model in Hugging Face layout",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
};
