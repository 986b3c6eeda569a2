#include "model/init.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "kernels/philox.h"
#include "model/shards.h"
#include "model/weights.h"

/* Tensor `index` of the file, element `i`: a standard normal variate but for the tails beyond 6. Twelve 16-bit uniforms from
 * two Philox blocks: their sum has mean 12 * 32767.5 and, to within 2^-32, variance 65536^2. */
static float normal(uint64_t seed, uint32_t index, uint64_t i)
{
	int32_t sum = 0;

	for (uint32_t half = 0; half < 2; half++) {
		const uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), index, half};
		uint32_t words[4];
		philox(counter, seed, words);
		for (int k = 0; k < 3; k++)
			sum += (int32_t)(words[k] & 0xffff) + (int32_t)(words[k] >> 16);
	}
	return (float)(sum - 12 * 32767 - 6) / 65536.0f;
}

struct init {
	const struct init_options *options;
	struct tensor *tensors;
};

static int produce(size_t i, struct tensors_writer *w, void *arg, struct error *err)
{
	const struct init *in = arg;
	const struct tensor *t = &in->tensors[i];
	int64_t n = tensor_elements(t);
	float *values = xreallocarray(NULL, (size_t)n, sizeof *values);

	for (int64_t k = 0; k < n; k++) {
		if (t->ndims == 1) /* a norm: Gemma stores its weights minus one */
			values[k] = in->options->arch == ARCH_GEMMA ? 0.0f : 1.0f;
		else
			values[k] = in->options->initializer_range * normal(in->options->seed, (uint32_t)i, (uint64_t)k);
	}
	int failed = tensors_add(w, values, (size_t)n * sizeof *values, err);
	free(values);
	return failed;
}

static int check(const struct init_options *o, struct error *err)
{
	if (o->heads % o->kv_heads != 0)
		return error_set(err, ERR_USAGE, "heads = %d is not a multiple of kv_heads = %d", o->heads, o->kv_heads);
	if (o->head_dim % 2 != 0)
		return error_set(err, ERR_USAGE, "head_dim = %d is odd; rotary positions need pairs", o->head_dim);
	return 0;
}

static int write_config(const char *dir, const struct init_options *o, struct error *err)
{
	bool gemma = o->arch == ARCH_GEMMA;
	char *path = path_join(dir, "config.json");
	struct strbuf b = STRBUF_INIT;
	char range[32];

	/* Written by hand: a JSON library would spell 1e-06 as 9.9999999999999995e-07. */
	format_f64((double)o->initializer_range, range);
	strbuf_addf(&b,
		    "{\n  \"architectures\": [\n    \"%s\"\n  ],\n  \"attention_bias\": false,\n  \"attention_dropout\": 0.0,\n"
		    "  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"head_dim\": %d,\n  \"hidden_act\": \"%s\",\n",
		    gemma ? "GemmaForCausalLM" : "LlamaForCausalLM", o->bos, o->eos, o->head_dim,
		    gemma ? "gelu_pytorch_tanh" : "silu");
	if (gemma)
		strbuf_adds(&b, "  \"hidden_activation\": \"gelu_pytorch_tanh\",\n");
	strbuf_addf(&b,
		    "  \"hidden_size\": %d,\n  \"initializer_range\": %s,\n  \"intermediate_size\": %d,\n"
		    "  \"max_position_embeddings\": %d,\n  \"model_type\": \"%s\",\n  \"num_attention_heads\": %d,\n"
		    "  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %d,\n  \"pad_token_id\": %d,\n"
		    "  \"rms_norm_eps\": 1e-06,\n  \"rope_theta\": 10000.0,\n  \"tie_word_embeddings\": true,\n"
		    "  \"torch_dtype\": \"float32\",\n  \"vocab_size\": %d\n}\n",
		    o->hidden_size, range, o->intermediate_size, o->max_positions, gemma ? "gemma" : "llama", o->heads,
		    o->layers, o->kv_heads, o->pad, o->vocab_size);
	int failed = file_write_atomic(path, b.data, b.len, err);
	free(path);
	strbuf_clear(&b);
	strbuf_addf(&b, "{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": %d\n}\n", o->bos, o->eos,
		    o->pad);
	path = path_join(dir, "generation_config.json");
	failed = failed ? failed : file_write_atomic(path, b.data, b.len, err);
	free(path);
	strbuf_free(&b);
	return failed;
}

int model_init(const char *dir, const struct init_options *o, struct error *err)
{
	const struct model_config shape = {.vocab_size = o->vocab_size,
					   .hidden_size = o->hidden_size,
					   .intermediate_size = o->intermediate_size,
					   .layers = o->layers,
					   .heads = o->heads,
					   .kv_heads = o->kv_heads,
					   .head_dim = o->head_dim,
					   .tie_embeddings = true};
	struct arena arena = ARENA_INIT;
	uint64_t total;

	if (check(o, err) || write_config(dir, o, err))
		return -1;
	size_t n = weight_count(&shape);
	struct tensor *t = arena_calloc(&arena, n, sizeof *t);
	for (size_t i = 0; i < n; i++) {
		struct weight w = weight_at(&shape, i);
		t[i] = (struct tensor){.name = arena_strdup(&arena, w.name),
				       .dtype = TENSOR_F32,
				       .ndims = w.cols ? 2 : 1,
				       .shape = {w.rows, w.cols}};
	}
	struct init in = {o, t};
	int failed = shards_write(dir, t, n, 5000000000u, produce, &in, &total, err);
	arena_free(&arena);
	return failed;
}
