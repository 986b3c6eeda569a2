#include "model/init.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/safetensors.h"
#include "model/weights.h"

#define TILE ((size_t)1 << 16) /* elements made at a time */

/* Element i of tensor w: standard normal but for its tails. */
static float normal(uint64_t seed, uint32_t w, uint64_t i)
{
	uint64_t sum = 0;

	for (uint32_t k = 0; k < 3; k++) {
		uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), k, w}, word[4];
		philox(counter, seed, word);
		sum += (uint64_t)word[0] + word[1] + word[2] + word[3];
	}
	/* The mean of a word is 2^31 - 1/2: twelve of them, less that, over 2^32. */
	return (float)(((double)sum - 12 * 2147483647.5) / 4294967296.0);
}

static int write_weights(const struct model_init *init, const struct model_config *c, const char *dir,
			 struct error *err)
{
	size_t n = weight_count(c);
	struct weight *weights = xcalloc(n, sizeof *weights);
	struct tensor *list = xcalloc(n, sizeof *list);
	float *x = xmalloc(TILE * sizeof *x), *out = xmalloc(TILE * sizeof *out);
	float range = (float)init->initializer_range;
	char *path = path_join(dir, "model.safetensors");
	struct tensors_writer *w = NULL;

	for (size_t i = 0; i < n; i++) {
		weights[i] = weight_at(c, i);
		list[i] = (struct tensor){.name = weights[i].name,
					  .dtype = init->bf16 ? TENSOR_BF16 : TENSOR_F32,
					  .ndims = weights[i].cols ? 2 : 1,
					  .shape = {weights[i].rows, weights[i].cols}};
	}
	int failed = tensors_create(path, list, n, NULL, &w, err);
	for (size_t k = 0; k < n && !failed; k++) {
		size_t i = tensors_order(w)[k], count = weight_elements(&weights[i]);
		for (size_t first = 0; first < count && !failed; first += TILE) {
			size_t part = count - first < TILE ? count - first : TILE;
			for (size_t j = 0; j < part; j++)
				x[j] = weights[i].cols ? range * normal(init->seed, (uint32_t)i, first + j)
						       : 1 - c->norm_offset;
			floats_to(init->bf16 ? DTYPE_BF16 : DTYPE_F32, x, part, out);
			failed = tensors_add(w, out, part * tensor_dtype_size(list[i].dtype), err);
		}
	}
	if (failed)
		tensors_abandon(w);
	else
		failed = tensors_commit(w, err);
	free(path);
	free(weights);
	free(list);
	free(x);
	free(out);
	return failed;
}

static void add_eos(struct strbuf *b, const struct model_config *c)
{
	if (c->n_eos == 1)
		strbuf_addf(b, "  \"eos_token_id\": %d,\n", c->eos[0]);
	for (int i = 0; i < c->n_eos && c->n_eos > 1; i++)
		strbuf_addf(b, "%s\n    %d%s", i ? "," : "  \"eos_token_id\": [", c->eos[i],
			    i + 1 < c->n_eos ? "" : "\n  ],\n");
}

static void add_real(struct strbuf *b, const char *key, double v)
{
	char text[32];

	format_f64(v, text);
	strbuf_addf(b, "  \"%s\": %s,\n", key, text);
}

/* The shortest decimal that reads back as this float: 1e-06, not 9.99999997e-07. */
static double shortest(float v)
{
	char text[32];

	for (int digits = 1; digits < 10; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, (double)v);
		if (strtof(text, NULL) == v)
			break;
	}
	return strtod(text, NULL);
}

static void config_text(const struct model_init *init, const struct model_config *c, struct strbuf *b)
{
	static const char *const acts[] = {
		[ACT_SILU] = "silu", [ACT_GELU_ERF] = "gelu", [ACT_GELU_TANH] = "gelu_pytorch_tanh"};
	bool gemma = c->arch == ARCH_GEMMA;

	strbuf_addf(b,
		    "{\n  \"architectures\": [\n    \"%s\"\n  ],\n  \"attention_bias\": false,\n  "
		    "\"attention_dropout\": 0.0,\n",
		    gemma ? "GemmaForCausalLM" : "LlamaForCausalLM");
	if (c->bos >= 0)
		strbuf_addf(b, "  \"bos_token_id\": %d,\n", c->bos);
	add_eos(b, c);
	strbuf_addf(b, "  \"head_dim\": %d,\n  \"hidden_act\": \"%s\",\n", c->head_dim, acts[c->act]);
	strbuf_addf(b, "  \"hidden_size\": %d,\n", c->hidden_size);
	add_real(b, "initializer_range", init->initializer_range);
	strbuf_addf(b, "  \"intermediate_size\": %d,\n  \"max_position_embeddings\": %d,\n",
		    c->intermediate_size, c->max_positions);
	strbuf_addf(
		b,
		"  \"model_type\": \"%s\",\n  \"num_attention_heads\": %d,\n  \"num_hidden_layers\": %d,\n",
		gemma ? "gemma" : "llama", c->heads, c->layers);
	strbuf_addf(b, "  \"num_key_value_heads\": %d,\n", c->kv_heads);
	if (c->pad >= 0)
		strbuf_addf(b, "  \"pad_token_id\": %d,\n", c->pad);
	add_real(b, "rms_norm_eps", shortest(c->rms_norm_eps));
	add_real(b, "rope_theta", shortest(c->rope_theta));
	strbuf_addf(b, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n",
		    c->tie_embeddings ? "true" : "false", init->bf16 ? "bfloat16" : "float32");
	strbuf_addf(b, "  \"use_cache\": true,\n  \"vocab_size\": %d\n}\n", c->vocab_size);
}

static void generation_text(const struct model_config *c, struct strbuf *b)
{
	strbuf_adds(b, "{\n");
	if (c->bos >= 0)
		strbuf_addf(b, "  \"bos_token_id\": %d,\n", c->bos);
	add_eos(b, c);
	if (c->pad >= 0)
		strbuf_addf(b, "  \"pad_token_id\": %d,\n", c->pad);
	strbuf_adds(b, "  \"_from_model_config\": true\n}\n");
}

static int write_text(const char *dir, const char *name, const struct strbuf *b, struct error *err)
{
	char *path = path_join(dir, name);
	int failed = file_write_atomic(path, b->data, b->len, err);

	free(path);
	return failed;
}

int model_init_write(const struct model_init *init, const char *dir, struct error *err)
{
	struct strbuf config = STRBUF_INIT, generation = STRBUF_INIT;
	struct model_config c;

	if (!(init->initializer_range > 0 && init->initializer_range < 100))
		return error_set(err, ERR_USAGE, "initializer_range is %g, must be above 0",
				 init->initializer_range);
	config_text(init, &init->config, &config);
	generation_text(&init->config, &generation);
	int failed = dir_create(dir, err);
	if (!failed)
		failed = write_text(dir, "config.json", &config, err);
	if (!failed)
		failed = write_text(dir, "generation_config.json", &generation, err);
	/* Reading it back checks every value, and fills in what follows from the architecture. */
	if (!failed)
		failed = model_config_read(dir, GELU_CONFIG, &c, err);
	if (!failed)
		failed = write_weights(init, &c, dir, err);
	strbuf_free(&config);
	strbuf_free(&generation);
	return failed;
}
