#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define SUPPORTED "LlamaForCausalLM and GemmaForCausalLM (Gemma 1)"

struct reader {
	const json_t *root;
	const char *name; /* the file's path, for messages */
	struct error *err;
};

static bool present(const struct reader *r, const char *key)
{
	const json_t *j = json_object_get(r->root, key);

	return j && !json_is_null(j);
}

static int unsupported(const struct reader *r, const char *key, const char *why)
{
	return error_set(r->err, ERR_USAGE, "%s: \"%s\" %s", r->name, key, why);
}

/* An integer in [low, high]. With a fallback (0 or more) the key may be missing. */
static int read_int(const struct reader *r, const char *key, int64_t low, int64_t high, int64_t fallback,
		    int *out)
{
	int64_t v = fallback;
	int found = json_get_i64(r->root, key, &v, r->name, r->err);

	if (found < 0)
		return -1;
	if (!found && fallback < 0)
		return error_set(r->err, ERR_USAGE, "%s: \"%s\" is missing", r->name, key);
	if (v < low || v > high)
		return error_set(r->err, ERR_USAGE, "%s: \"%s\" is %lld, must be from %lld to %lld", r->name,
				 key, (long long)v, (long long)low, (long long)high);
	*out = (int)v;
	return 0;
}

static int read_real(const struct reader *r, const json_t *obj, const char *key, double fallback, float *out)
{
	double v = fallback;
	int found = json_get_f64(obj, key, &v, r->name, r->err);

	if (found < 0)
		return -1;
	if (!found && fallback <= 0)
		return error_set(r->err, ERR_USAGE, "%s: \"%s\" is missing", r->name, key);
	if (!(v > 0 && v < 1e30))
		return error_set(r->err, ERR_USAGE, "%s: \"%s\" is %g, must be a positive number", r->name,
				 key, v);
	*out = (float)v;
	return 0;
}

static int read_arch(const struct reader *r, enum arch *out)
{
	const json_t *list = json_object_get(r->root, "architectures");
	const char *type = NULL;

	if (present(r, "architectures")) {
		const json_t *first = json_array_get(list, 0);
		if (!json_is_string(first))
			return unsupported(r, "architectures", "must be a list of names");
		const char *name = json_string_value(first);
		if (strcmp(name, "LlamaForCausalLM") == 0)
			*out = ARCH_LLAMA;
		else if (strcmp(name, "GemmaForCausalLM") == 0)
			*out = ARCH_GEMMA;
		else {
			error_set(r->err, ERR_USAGE, "%s: architecture \"%.100s\" is not supported", r->name,
				  name);
			return error_hint(r->err, "supported are " SUPPORTED);
		}
	}
	int found = json_get_str(r->root, "model_type", &type, r->name, r->err);
	if (found < 0)
		return -1;
	if (!found) {
		if (present(r, "architectures"))
			return 0;
		error_set(r->err, ERR_USAGE, "%s: neither \"architectures\" nor \"model_type\" is there",
			  r->name);
		return error_hint(r->err, "supported are " SUPPORTED);
	}
	bool llama = strcmp(type, "llama") == 0, gemma = strcmp(type, "gemma") == 0;
	if (!llama && !gemma) {
		error_set(r->err, ERR_USAGE, "%s: model_type \"%.100s\" is not supported", r->name, type);
		return error_hint(r->err, "supported are " SUPPORTED);
	}
	if (present(r, "architectures") && llama != (*out == ARCH_LLAMA))
		return error_set(r->err, ERR_USAGE, "%s: model_type \"%s\" contradicts architectures \"%s\"",
				 r->name, type, json_string_value(json_array_get(list, 0)));
	*out = llama ? ARCH_LLAMA : ARCH_GEMMA;
	return 0;
}

static int activation_of(const struct reader *r, const char *key, const char *value, enum activation *out)
{
	if (strcmp(value, "silu") == 0 || strcmp(value, "swish") == 0)
		*out = ACT_SILU;
	else if (strcmp(value, "gelu") == 0)
		*out = ACT_GELU_ERF;
	else if (strcmp(value, "gelu_pytorch_tanh") == 0)
		*out = ACT_GELU_TANH;
	else
		return error_set(r->err, ERR_USAGE,
				 "%s: \"%s\" is \"%.100s\"; supported are silu, gelu and gelu_pytorch_tanh",
				 r->name, key, value);
	return 0;
}

static int read_activation(const struct reader *r, enum gelu_choice gelu, struct model_config *c)
{
	const char *act = NULL, *activation = NULL;

	if (json_get_str(r->root, "hidden_act", &act, r->name, r->err) < 0 ||
	    json_get_str(r->root, "hidden_activation", &activation, r->name, r->err) < 0)
		return -1;
	if (c->arch == ARCH_LLAMA) {
		if (!act)
			return error_set(r->err, ERR_USAGE, "%s: \"hidden_act\" is missing", r->name);
		return activation_of(r, "hidden_act", act, &c->act);
	}
	/* GemmaConfig's own default for hidden_act is gelu_pytorch_tanh. */
	c->act = ACT_GELU_TANH;
	if ((activation && activation_of(r, "hidden_activation", activation, &c->act)) ||
	    (act && activation_of(r, "hidden_act", act, &c->act)))
		return -1;
	if (c->act == ACT_SILU)
		return unsupported(r, act ? "hidden_act" : "hidden_activation",
				   "is silu, which no Gemma uses");
	if (gelu == GELU_ARCHITECTURE)
		c->act = ACT_GELU_TANH;
	else if (!act)
		c->act = ACT_GELU_TANH;
	return 0;
}

/* rope_theta at the top, or inside rope_parameters (transformers 5); 10000 is the default of both classes. */
static int read_rope(const struct reader *r, struct model_config *c)
{
	static const char *const keys[] = {"rope_scaling", "rope_parameters"};
	const json_t *theta_in = r->root;

	for (int i = 0; i < 2; i++) {
		const json_t *rope = json_object_get(r->root, keys[i]);
		const char *type = "default", *old = NULL;
		if (!present(r, keys[i]))
			continue;
		if (!json_is_object(rope))
			return error_set(r->err, ERR_USAGE, "%s: \"%s\" must be an object, is %s", r->name,
					 keys[i], json_kind(rope));
		int found = json_get_str(rope, "rope_type", &type, r->name, r->err);
		if (found < 0 || json_get_str(rope, "type", &old, r->name, r->err) < 0)
			return -1;
		if (!found && old)
			type = old;
		if (strcmp(type, "default") != 0)
			return error_set(r->err, ERR_USAGE,
					 "%s: \"%s\" asks for rotary scaling of type \"%.100s\", which is "
					 "not supported",
					 r->name, keys[i], type);
		double partial = 1;
		if (json_get_f64(rope, "partial_rotary_factor", &partial, r->name, r->err) < 0)
			return -1;
		if (partial != 1)
			return unsupported(r, "partial_rotary_factor", "other than 1 is not supported");
		if (i == 1 && json_object_get(rope, "rope_theta")) {
			if (present(r, "rope_theta"))
				return unsupported(r, "rope_theta",
						   "is there twice, also inside \"rope_parameters\"");
			theta_in = rope;
		}
	}
	return read_real(r, theta_in, "rope_theta", 10000, &c->rope_theta);
}

/* Keys that change what the model computes and that are not computed here. */
static int refuse_extras(const struct reader *r)
{
	static const char *const flags[] = {"attention_bias", "mlp_bias"};
	double dropout = 0, partial = 1;
	bool window_used = true;

	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		bool on = false;
		if (json_get_bool(r->root, flags[i], &on, r->name, r->err) < 0)
			return -1;
		if (on)
			return unsupported(r, flags[i],
					   "is true; linear layers with a bias are not supported");
	}
	if (json_get_bool(r->root, "use_sliding_window", &window_used, r->name, r->err) < 0)
		return -1;
	if (window_used && present(r, "sliding_window"))
		return unsupported(r, "sliding_window", "is set; sliding-window attention is not supported");
	if (present(r, "quantization_config")) {
		unsupported(r, "quantization_config", "is there: the weights are quantised already");
		return error_hint(r->err,
				  "start from the unquantised model; qlora-train quantises it itself");
	}
	if (json_get_f64(r->root, "attention_dropout", &dropout, r->name, r->err) < 0 ||
	    json_get_f64(r->root, "partial_rotary_factor", &partial, r->name, r->err) < 0)
		return -1;
	if (dropout != 0)
		return unsupported(r, "attention_dropout", "other than 0 is not supported");
	if (partial != 1)
		return unsupported(r, "partial_rotary_factor", "other than 1 is not supported");
	return 0;
}

static int add_eos(const struct reader *r, const json_t *j, struct model_config *c)
{
	json_int_t id = json_integer_value(j);

	if (!json_is_integer(j))
		return error_set(r->err, ERR_USAGE,
				 "%s: \"eos_token_id\" must be an integer or a list of them, has %s", r->name,
				 json_kind(j));
	if (id < 0 || id >= c->vocab_size)
		return error_set(r->err, ERR_USAGE,
				 "%s: \"eos_token_id\" has %lld, outside the vocabulary of %d", r->name,
				 (long long)id, c->vocab_size);
	for (int i = 0; i < c->n_eos; i++) {
		if (c->eos[i] == id)
			return 0;
	}
	if (c->n_eos == (int)(sizeof c->eos / sizeof *c->eos))
		return unsupported(r, "eos_token_id", "has more than 8 ids");
	c->eos[c->n_eos++] = (int)id;
	return 0;
}

static int read_eos(const struct reader *r, struct model_config *c)
{
	const json_t *j = json_object_get(r->root, "eos_token_id");

	if (!present(r, "eos_token_id"))
		return 0;
	if (!json_is_array(j))
		return add_eos(r, j, c);
	for (size_t i = 0; i < json_array_size(j); i++) {
		if (add_eos(r, json_array_get(j, i), c))
			return -1;
	}
	return 0;
}

static int read_token(const struct reader *r, const char *key, int vocab, int *out)
{
	*out = -1;
	/* Some Llama configs write -1 for "no such token". */
	int64_t v = -1;
	if (json_get_i64(r->root, key, &v, r->name, r->err) < 0)
		return -1;
	if (v < -1 || v >= vocab)
		return error_set(r->err, ERR_USAGE, "%s: \"%s\" is %lld, outside the vocabulary of %d",
				 r->name, key, (long long)v, vocab);
	*out = (int)v;
	return 0;
}

static int read_sizes(const struct reader *r, struct model_config *c)
{
	const int64_t size = 1 << 20;
	bool gemma = c->arch == ARCH_GEMMA;

	if (read_int(r, "vocab_size", 2, 1 << 24, -1, &c->vocab_size) ||
	    read_int(r, "hidden_size", 2, size, -1, &c->hidden_size) ||
	    read_int(r, "intermediate_size", 1, size, -1, &c->intermediate_size) ||
	    read_int(r, "num_hidden_layers", 1, 1024, -1, &c->layers) ||
	    read_int(r, "num_attention_heads", 1, 4096, -1, &c->heads) ||
	    read_int(r, "max_position_embeddings", 1, 1 << 27, -1, &c->max_positions) ||
	    /* LlamaConfig falls back to one key head per head and an even split; GemmaConfig to fixed numbers
	     * that fit one model only, so there the keys must be present. */
	    read_int(r, "num_key_value_heads", 1, 4096, gemma ? -1 : c->heads, &c->kv_heads) ||
	    read_int(r, "head_dim", 2, 4096, gemma ? -1 : c->hidden_size / c->heads, &c->head_dim) ||
	    read_real(r, r->root, "rms_norm_eps", -1, &c->rms_norm_eps))
		return -1;
	if (c->heads % c->kv_heads)
		return error_set(
			r->err, ERR_USAGE,
			"%s: \"num_attention_heads\" %d is not a multiple of \"num_key_value_heads\" %d",
			r->name, c->heads, c->kv_heads);
	if (!present(r, "head_dim") && c->hidden_size % c->heads)
		return error_set(r->err, ERR_USAGE,
				 "%s: \"hidden_size\" %d is not a multiple of \"num_attention_heads\" %d",
				 r->name, c->hidden_size, c->heads);
	if (c->head_dim % 2)
		return unsupported(r, "head_dim", "is odd; rotary positions need an even one");
	return 0;
}

static int read_config(const struct reader *r, enum gelu_choice gelu, struct model_config *c)
{
	if (!json_is_object(r->root))
		return error_set(r->err, ERR_USAGE, "%s: must be a JSON object, is %s", r->name,
				 json_kind(r->root));
	if (read_arch(r, &c->arch) || refuse_extras(r) || read_sizes(r, c) || read_rope(r, c) ||
	    read_activation(r, gelu, c))
		return -1;
	c->tie_embeddings = c->arch == ARCH_GEMMA; /* the classes' defaults */
	if (json_get_bool(r->root, "tie_word_embeddings", &c->tie_embeddings, r->name, r->err) < 0)
		return -1;
	bool gemma = c->arch == ARCH_GEMMA;
	c->embed_scale = gemma ? sqrtf((float)c->hidden_size) : 1;
	c->norm_offset = gemma ? 1 : 0;
	c->attn_scale = (float)(1 / sqrt((double)c->head_dim));
	if (read_token(r, "bos_token_id", c->vocab_size, &c->bos) ||
	    read_token(r, "pad_token_id", c->vocab_size, &c->pad))
		return -1;
	return read_eos(r, c);
}

int model_config_read(const char *dir, enum gelu_choice gelu, struct model_config *out, struct error *err)
{
	char *path = path_join(dir, "config.json"), *generation = path_join(dir, "generation_config.json");
	json_t *root = json_read(path, err);
	int failed = root ? 0 : -1;

	memset(out, 0, sizeof *out);
	if (!failed)
		failed = read_config(&(struct reader){root, path, err}, gelu, out);
	json_decref(root);
	if (!failed && path_exists(generation)) {
		root = json_read(generation, err);
		if (!root)
			failed = -1;
		else if (!json_is_object(root))
			failed = error_set(err, ERR_USAGE, "%s: must be a JSON object, is %s", generation,
					   json_kind(root));
		else
			failed = read_eos(&(struct reader){root, generation, err}, out);
		json_decref(root);
	}
	free(path);
	free(generation);
	return failed;
}

int64_t model_config_parameters(const struct model_config *c)
{
	int64_t h = c->hidden_size, q = (int64_t)c->heads * c->head_dim,
		kv = (int64_t)c->kv_heads * c->head_dim;
	int64_t layer = 2 * h * q + 2 * h * kv + 3 * h * c->intermediate_size + 2 * h;

	return layer * c->layers + h + h * c->vocab_size * (c->tie_embeddings ? 1 : 2);
}
