/* model-init: a small model with random weights, and a byte-level tokenizer for it. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/rows.h"
#include "model/init.h"
#include "runtime/stage.h"
#include "stages/input.h"
#include "tokenizer/tokenizer.h"

static const char *const architectures[] = {"gemma", "llama", NULL};

#define SIZE(n, d, lo, hi, text)                                                                             \
	{                                                                                                    \
		.name = n, .type = ATTR_INT, .fallback = d, .min = lo, .max = hi, .doc = text                \
	}

static const struct attr_schema attrs[] = {
	{.name = "architecture",
	 .type = ATTR_CHOICE,
	 .choices = architectures,
	 .fallback = "\"gemma\"",
	 .doc = "gemma (GemmaForCausalLM) or llama (LlamaForCausalLM)"},
	{.name = "seed",
	 .type = ATTR_INT,
	 .fallback = "0",
	 .max = 9007199254740992.0,
	 .doc = "of the weights"},
	{.name = "corpus",
	 .type = ATTR_INPUT,
	 .ports = PORT_ROWS,
	 .doc = "rows whose text the tokenizer's merges are learnt from; left out: one token a byte"},
	SIZE("vocab_size", "260", 260, 1e6,
	     "tokens: 4 special ones, 256 bytes, and merges learnt from the corpus"),
	SIZE("hidden_size", "64", 2, 65536, "width of the residual stream"),
	SIZE("intermediate_size", "256", 1, 262144, "width inside the MLP"),
	SIZE("layers", "2", 1, 1024, "decoder layers"),
	SIZE("heads", "4", 1, 1024, "query heads"),
	SIZE("kv_heads", "1", 1, 1024, "key and value heads; divides heads"),
	SIZE("head_dim", "16", 2, 512, "width of a head"),
	SIZE("max_positions", "512", 16, 1e6, "longest sequence, in tokens"),
	{.name = "initializer_range",
	 .type = ATTR_FLOAT,
	 .fallback = "0.02",
	 .min = 1e-6,
	 .max = 1,
	 .doc = "standard deviation of the weights"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "config.json, model.safetensors (fp32) and tokenizer files"},
	{0},
};

static const char *check(const struct stage_node *node, const char **attr)
{
	if (stage_attr(node, "heads")->i % stage_attr(node, "kv_heads")->i != 0) {
		*attr = "kv_heads";
		return "kv_heads must divide heads";
	}
	if (stage_attr(node, "head_dim")->i % 2 != 0) {
		*attr = "head_dim";
		return "head_dim must be even: rotary positions work on pairs";
	}
	if (stage_attr(node, "corpus")->type == VALUE_NONE && stage_attr(node, "vocab_size")->i != 260) {
		*attr = "vocab_size";
		return "a vocabulary beyond the 260 bytes and special tokens needs a corpus to learn it from";
	}
	return NULL;
}

/* The texts of the rows' fields text, or prompt and completion. They point into the open file. */
static int learn_merges(struct stage_ctx *ctx, size_t n_merges, struct bpe_merges *merges, struct error *err)
{
	static const char *const fields[] = {"text", "prompt", "completion"};
	struct rows *rows = rows_open(ctx_input(ctx, "corpus"), err);
	const char **texts = NULL;
	size_t *lengths = NULL, texts_cap = 0, lengths_cap = 0, n = 0;
	int failed = -1;

	if (!rows)
		return -1;
	for (uint64_t i = 0; i < rows_count(rows); i++) {
		struct row row;
		if (rows_get(rows, i, &row, err))
			goto done;
		for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
			const char *text;
			size_t len;
			if (!row_text(&row, fields[k], &text, &len))
				continue;
			grow(&texts, &texts_cap, n + 1, sizeof *texts);
			grow(&lengths, &lengths_cap, n + 1, sizeof *lengths);
			texts[n] = text;
			lengths[n++] = len;
		}
	}
	if (n == 0) {
		error_set(err, ERR_USAGE, "corpus: no row has a text, or a prompt and a completion");
		error_hint(err, "put a template-transform stage before this one");
		goto done;
	}
	failed = tokenizer_train_bpe(texts, lengths, n, n_merges, merges, err);
done:
	free(texts);
	free(lengths);
	rows_close(rows);
	return failed;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const char *dir = ctx_output(ctx, "model");
	struct bpe_merges merges = BPE_MERGES_INIT;
	struct tokenizer *tokenizer;
	int64_t vocab = ctx_int(ctx, "vocab_size");
	int failed = dir_create(dir, err);

	if (!failed && ctx_input(ctx, "corpus"))
		failed = learn_merges(ctx, (size_t)vocab - 260, &merges, err);
	if (!failed)
		failed = tokenizer_write_bytes(dir, &merges, err);
	if (!failed && (int64_t)merges.n + 260 < vocab)
		ctx_log(ctx, LOG_WARNING,
			"the corpus gives only %zu tokens; %lld of the vocabulary stay unused",
			merges.n + 260, (long long)vocab - 260 - (long long)merges.n);
	bpe_merges_free(&merges);
	if (failed || tokenizer_open(dir, &tokenizer, err))
		return -1;
	bool gemma = strcmp(ctx_str(ctx, "architecture"), "gemma") == 0;
	const struct model_init init = {
		.config = {.arch = gemma ? ARCH_GEMMA : ARCH_LLAMA,
			   .vocab_size = (int)vocab,
			   .hidden_size = (int)ctx_int(ctx, "hidden_size"),
			   .intermediate_size = (int)ctx_int(ctx, "intermediate_size"),
			   .layers = (int)ctx_int(ctx, "layers"),
			   .heads = (int)ctx_int(ctx, "heads"),
			   .kv_heads = (int)ctx_int(ctx, "kv_heads"),
			   .head_dim = (int)ctx_int(ctx, "head_dim"),
			   .max_positions = (int)ctx_int(ctx, "max_positions"),
			   .rms_norm_eps = 1e-6f,
			   .rope_theta = 10000,
			   .act = gemma ? ACT_GELU_TANH : ACT_SILU,
			   .tie_embeddings = true,
			   .bos = tokenizer_bos(tokenizer),
			   .pad = tokenizer_pad(tokenizer),
			   .eos = {tokenizer_eos(tokenizer)},
			   .n_eos = 1},
		.initializer_range = ctx_float(ctx, "initializer_range"),
		.seed = (uint64_t)ctx_int(ctx, "seed"),
	};
	tokenizer_free(tokenizer);
	struct model_config config;
	if (model_init_write(&init, dir, err) || model_config_read(dir, GELU_ARCHITECTURE, &config, err))
		return -1;
	summary_count(ctx, "parameters", (uint64_t)model_config_parameters(&config));
	summary_count(ctx, "vocabulary", (uint64_t)vocab);
	return 0;
}

const struct stage_kind stage_model_init = {
	.schema = {.name = "model-init",
		   .version = 1,
		   .doc = "Makes a small model with random weights: for quickstarts and tests",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
