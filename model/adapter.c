#include "model/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/weights.h"

#define PREFIX "base_model.model."

void lora_tensor_name(int layer, enum proj p, bool b, char *out, size_t size)
{
	snprintf(out, size, PREFIX "model.layers.%d.%s.lora_%c.weight", layer, proj_path(p), b ? 'B' : 'A');
}

/* ---- writing ---- */

/* A number as Python's json writes it. lora_alpha is an integer in Python where it has no fraction. */
static void add_number(struct strbuf *b, double v, bool python_float)
{
	char text[32];

	format_f64(v, text);
	strbuf_adds(b, text);
	if (python_float && !strpbrk(text, ".en"))
		strbuf_adds(b, ".0");
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int write_config(const char *dir, const struct strbuf *text, struct error *err)
{
	char *path = path_join(dir, ADAPTER_CONFIG);
	int failed = file_write_atomic(path, text->data, text->len, err);

	free(path);
	return failed;
}

static int write_lora_config(const char *dir, const struct lora_set *s, const char *base, double dropout,
			     struct error *err)
{
	struct strbuf b = STRBUF_INIT;
	const char *targets[PROJ_COUNT];
	size_t n = 0;

	for (int p = 0; p < PROJ_COUNT; p++) {
		if (s->target[p])
			targets[n++] = proj_name((enum proj)p);
	}
	qsort(targets, n, sizeof *targets, by_text);
	strbuf_adds(
		&b,
		"{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
	strbuf_add_json(&b, base, strlen(base));
	strbuf_adds(&b,
		    ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n"
		    "  \"init_lora_weights\": true,\n  \"layer_replication\": null,\n  \"layers_pattern\": "
		    "null,\n"
		    "  \"layers_to_transform\": null,\n  \"loftq_config\": {},\n  \"lora_alpha\": ");
	add_number(&b, (double)s->alpha, false);
	strbuf_adds(&b, ",\n  \"lora_dropout\": ");
	add_number(&b, dropout, true);
	strbuf_adds(&b, ",\n  \"megatron_config\": null,\n  \"megatron_core\": \"megatron.core\",\n  "
			"\"modules_to_save\": null,\n"
			"  \"peft_type\": \"LORA\",\n");
	strbuf_addf(&b,
		    "  \"r\": %d,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": [\n",
		    s->rank);
	for (size_t i = 0; i < n; i++)
		strbuf_addf(&b, "    \"%s\"%s\n", targets[i], i + 1 < n ? "," : "");
	strbuf_adds(
		&b,
		"  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": false\n}");
	int failed = write_config(dir, &b, err);
	strbuf_free(&b);
	return failed;
}

/* Writes F32 tensors whose data pointers are set, into d's memory. */
static int write_tensors(const char *dir, const char *name, const struct tensor *list, size_t n,
			 struct device *d, struct error *err)
{
	char *path = path_join(dir, name);
	struct tensors_writer *w = NULL;
	int failed = tensors_create(path, list, n, NULL, &w, err);

	for (size_t k = 0; k < n && !failed; k++) {
		const struct tensor *t = &list[tensors_order(w)[k]];
		size_t size = (size_t)tensor_elements(t) * sizeof(float);
		void *host = xmalloc(size);
		failed = device_download(d, host, t->data, size, err) || tensors_add(w, host, size, err) ? -1
													 : 0;
		free(host);
	}
	if (failed)
		tensors_abandon(w);
	else
		failed = tensors_commit(w, err);
	free(path);
	return failed;
}

int adapter_write(const char *dir, const struct lora_set *s, const char *base, double dropout,
		  struct error *err)
{
	size_t n = 0, most = 2 * (size_t)s->layers * PROJ_COUNT;
	float *params = xreallocarray(NULL, s->count, sizeof *params);
	struct tensor *list = xcalloc(most, sizeof *list);
	char(*names)[128] = xcalloc(most, sizeof *names);

	for (int i = 0; i < s->layers * PROJ_COUNT; i++) {
		const struct lora *l = &s->entries[i];
		if (!l->rank)
			continue;
		/* The entries stand back to back: A, B, the next A … */
		const float *end = s->params + s->count;
		for (int e = i + 1; e < s->layers * PROJ_COUNT; e++) {
			if (s->entries[e].rank) {
				end = s->entries[e].a;
				break;
			}
		}
		int64_t cols = (l->b - l->a) / l->rank, rows = (end - l->b) / l->rank;
		for (int b = 0; b < 2; b++) {
			lora_tensor_name(i / PROJ_COUNT, (enum proj)(i % PROJ_COUNT), b, names[n],
					 sizeof names[n]);
			list[n] = (struct tensor){.name = names[n], .dtype = TENSOR_F32, .ndims = 2};
			list[n].shape[0] = b ? rows : l->rank;
			list[n].shape[1] = b ? l->rank : cols;
			list[n++].data = params + ((b ? l->b : l->a) - s->params);
		}
	}
	int failed = lora_set_read(s, params, err);
	if (!failed)
		failed = dir_create(dir, err);
	if (!failed)
		failed = write_tensors(dir, ADAPTER_WEIGHTS, list, n, &device_cpu, err);
	if (!failed)
		failed = write_lora_config(dir, s, base, dropout, err);
	free(list);
	free(names);
	free(params);
	return failed;
}

int adapter_write_full(const char *dir, struct model *m, const char *base, struct error *err)
{
	size_t n = weight_count(&m->config);
	struct weight *weights = xcalloc(n, sizeof *weights);
	struct tensor *list = xcalloc(n, sizeof *list);
	struct strbuf b = STRBUF_INIT;

	for (size_t i = 0; i < n; i++) {
		const struct weight *w = &weights[i];
		weights[i] = weight_at(&m->config, i);
		list[i] = (struct tensor){.name = w->name, .dtype = TENSOR_F32, .ndims = w->cols ? 2 : 1};
		list[i].shape[0] = w->rows;
		list[i].shape[1] = w->cols;
		list[i].data = model_weight_f32(m, w);
	}
	strbuf_adds(&b, "{\n  \"base_model_name_or_path\": ");
	strbuf_add_json(&b, base, strlen(base));
	strbuf_adds(&b, ",\n  \"peft_type\": \"FULL\",\n  \"task_type\": \"CAUSAL_LM\"\n}");
	int failed = dir_create(dir, err);
	if (!failed)
		failed = write_tensors(dir, ADAPTER_FULL, list, n, model_device(m), err);
	if (!failed)
		failed = write_config(dir, &b, err);
	strbuf_free(&b);
	free(weights);
	free(list);
	return failed;
}

/* ---- reading ---- */

/* Keys that change what the adapter means, and the values in which they do not. */
static int refuse_extras(const json_t *root, const char *path, struct error *err)
{
	static const char *const empty[] = {
		"alpha_pattern",           "rank_pattern",    "modules_to_save",
		"layer_replication",       "megatron_config", "layers_to_transform",
		"trainable_token_indices", "exclude_modules", "target_parameters"};
	static const char *const off[] = {"fan_in_fan_out", "use_dora", "lora_bias", "use_qalora",
					  "alora_invocation_tokens"};
	const json_t *bias = json_object_get(root, "bias");

	for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
		const json_t *j = json_object_get(root, empty[i]);
		/* Only these layers or all of them: the tensors say which. */
		bool harmless = strcmp(empty[i], "layers_to_transform") == 0 ||
				strcmp(empty[i], "exclude_modules") == 0 ||
				strcmp(empty[i], "megatron_config") == 0;
		if (j && !harmless && !json_is_null(j) &&
		    !((json_is_object(j) || json_is_array(j)) &&
		      json_object_size(j) + json_array_size(j) == 0))
			return error_set(err, ERR_USAGE, "%s: \"%s\" is set, which is not supported", path,
					 empty[i]);
	}
	for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
		const json_t *j = json_object_get(root, off[i]);
		if (j && !json_is_null(j) && !json_is_false(j))
			return error_set(err, ERR_USAGE, "%s: \"%s\" is set, which is not supported", path,
					 off[i]);
	}
	if (bias && !(json_is_string(bias) && strcmp(json_string_value(bias), "none") == 0))
		return error_set(err, ERR_USAGE,
				 "%s: \"bias\" must be \"none\": trained biases are not supported", path);
	return 0;
}

static int read_config(const json_t *root, const char *path, struct adapter *a, struct error *err)
{
	const char *type = NULL;
	int64_t rank = 0;
	bool rslora = false;

	if (!json_is_object(root))
		return error_set(err, ERR_USAGE, "%s: must be a JSON object, is %s", path, json_kind(root));
	if (json_get_str(root, "peft_type", &type, path, err) < 0)
		return -1;
	if (type && strcmp(type, "FULL") == 0) {
		a->full = true;
		return 0;
	}
	if (!type || strcmp(type, "LORA") != 0)
		return error_set(err, ERR_USAGE, "%s: \"peft_type\" is \"%.60s\", must be \"LORA\"", path,
				 type ? type : "");
	if (refuse_extras(root, path, err))
		return -1;
	int has_rank = json_get_i64(root, "r", &rank, path, err);
	int has_alpha = json_get_f64(root, "lora_alpha", &a->alpha, path, err);
	if (has_rank < 0 || has_alpha < 0 || json_get_bool(root, "use_rslora", &rslora, path, err) < 0)
		return -1;
	if (!has_rank || !has_alpha)
		return error_set(err, ERR_USAGE, "%s: \"%s\" is missing", path,
				 has_rank ? "lora_alpha" : "r");
	if (rank < 1 || rank > 4096)
		return error_set(err, ERR_USAGE, "%s: \"r\" is %lld, must be from 1 to 4096", path,
				 (long long)rank);
	if (!isfinite(a->alpha))
		return error_set(err, ERR_USAGE, "%s: \"lora_alpha\" is not a finite number", path);
	a->rank = (int)rank;
	a->scale = rslora ? (float)(a->alpha / sqrt((double)rank)) : (float)(a->alpha / (double)rank);
	return 0;
}

int adapter_open(const char *dir, struct adapter *out, struct error *err)
{
	char *config = path_join(dir, ADAPTER_CONFIG), *weights = NULL;
	json_t *root = json_read(config, err);
	int failed = root ? 0 : -1;

	*out = (struct adapter){0};
	if (!failed)
		failed = read_config(root, config, out, err);
	if (!failed) {
		weights = path_join(dir, out->full ? ADAPTER_FULL : ADAPTER_WEIGHTS);
		failed = tensors_open(weights, &out->tensors, err);
	}
	json_decref(root);
	free(config);
	free(weights);
	return failed;
}

void adapter_close(struct adapter *a)
{
	tensors_close(a->tensors);
	a->tensors = NULL;
}

static int load_one(const struct tensor *t, int rows, int cols, float *out, struct error *err)
{
	if (t->ndims != 2 || t->shape[0] != rows || t->shape[1] != cols)
		return error_set(err, ERR_USAGE, "%s: tensor %.200s: expected shape (%d, %d), found another",
				 t->file, t->name, rows, cols);
	return tensor_to_f32(t, out, err);
}

static int load_entries(const struct adapter *a, const struct model_config *c, struct lora_set *s,
			struct error *err)
{
	size_t used = 0;

	for (int i = 0; i < c->layers * PROJ_COUNT; i++) {
		struct lora *l = &s->entries[i];
		enum proj p = (enum proj)(i % PROJ_COUNT);
		char name[2][128];
		const struct tensor *t[2];
		int rows, cols;
		for (int b = 0; b < 2; b++) {
			lora_tensor_name(i / PROJ_COUNT, p, b, name[b], sizeof name[b]);
			t[b] = tensors_find(a->tensors, name[b]);
		}
		if (!t[0] && !t[1])
			continue; /* a and b stay zero: no change */
		if (!t[0] || !t[1])
			return error_set(err, ERR_USAGE, "the adapter has %s but not %s", name[t[0] ? 0 : 1],
					 name[t[0] ? 1 : 0]);
		proj_shape(c, p, &rows, &cols);
		if (load_one(t[0], a->rank, cols, l->a, err) || load_one(t[1], rows, a->rank, l->b, err))
			return -1;
		used += 2;
	}
	for (size_t i = 0; i < tensors_count(a->tensors) && used < tensors_count(a->tensors); i++) {
		int layer, at = 0;
		const char *name = tensors_at(a->tensors, i)->name;
		bool known = false;
		if (sscanf(name, PREFIX "model.layers.%d.%n", &layer, &at) == 1 && at && layer >= 0 &&
		    layer < c->layers) {
			for (int k = 0; k < 2 * PROJ_COUNT && !known; k++) {
				char expect[128];
				lora_tensor_name(layer, (enum proj)(k / 2), k % 2, expect, sizeof expect);
				known = strcmp(expect, name) == 0;
			}
		}
		if (!known)
			return error_set(err, ERR_USAGE, "%s: the model has no place for tensor %.200s",
					 tensors_at(a->tensors, i)->file, name);
	}
	return 0;
}

int adapter_load(const char *dir, const struct model_config *c, struct lora_set **out, struct error *err)
{
	struct adapter a;
	struct lora_set *s = NULL;
	bool target[PROJ_COUNT] = {false};
	char name[128];
	int failed = adapter_open(dir, &a, err);

	if (!failed && a.full)
		failed = error_set(err, ERR_USAGE, "%s: holds whole weights (method full): merge it first",
				   dir);
	for (int i = 0; i < c->layers * PROJ_COUNT && !failed; i++) {
		lora_tensor_name(i / PROJ_COUNT, (enum proj)(i % PROJ_COUNT), false, name, sizeof name);
		if (tensors_find(a.tensors, name))
			target[i % PROJ_COUNT] = true;
	}
	if (!failed)
		failed = lora_set_new(NULL, c, a.rank, (float)a.alpha, target, false, &s, err);
	if (!failed) {
		s->scale = a.scale;
		failed = load_entries(&a, c, s, err);
	}
	adapter_close(&a);
	if (failed) {
		lora_set_free(s);
		return error_context(err, "adapter %s", dir);
	}
	*out = s;
	return 0;
}
