/* What training leaves behind and what becomes of it: adapters, merged models, exported directories, random models. */
#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/adapter.h"
#include "model/export.h"
#include "model/files.h"
#include "model/init.h"
#include "model/merge.h"
#include "model/weights.h"

static struct error err;
static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/anneal-artifacts-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return tree_remove(dir, &err);
}

static void check(int failed)
{
	if (failed)
		fail_msg("%s", err.message);
}

/* dir/name; at most eight at a time. */
static const char *at(const char *name)
{
	static char paths[8][160];
	static int next;
	char *p = paths[next++ % 8];

	snprintf(p, sizeof paths[0], "%s/%s", dir, name);
	return p;
}

static void put(const char *path, const char *text)
{
	check(file_write_atomic(path, text, strlen(text), &err));
}

static void same_file(const char *a, const char *b)
{
	size_t m, n;
	char *x = file_read(a, &m, &err), *y = file_read(b, &n, &err);

	if (!x || !y)
		fail_msg("%s", err.message);
	if (m != n || memcmp(x, y, n) != 0)
		fail_msg("%s differs from %s", a, b);
	free(x);
	free(y);
}

static void is_text(const char *path, const char *want)
{
	char *text = file_read(path, NULL, &err);

	if (!text)
		fail_msg("%s", err.message);
	assert_string_equal(text, want);
	free(text);
}

static struct model_init tiny(enum arch arch, bool bf16)
{
	return (struct model_init){
		.config = {.arch = arch,
			   .vocab_size = 96,
			   .hidden_size = 32,
			   .intermediate_size = 48,
			   .layers = 3,
			   .heads = 4,
			   .kv_heads = 2,
			   .head_dim = 8,
			   .max_positions = 64,
			   .rms_norm_eps = 1e-6f,
			   .rope_theta = 10000,
			   .act = arch == ARCH_GEMMA ? ACT_GELU_TANH : ACT_SILU,
			   .tie_embeddings = arch == ARCH_GEMMA,
			   .bos = 2,
			   .pad = 0,
			   .eos = {1},
			   .n_eos = 1},
		.initializer_range = 0.02,
		.bf16 = bf16,
		.seed = 42,
	};
}

/* ---- random models ---- */

static void a_random_model_opens_and_has_the_moments_asked_for(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, false);
	struct model_options o = {.format = WEIGHTS_F32};
	struct model *m;

	check(model_init_write(&init, at("m"), &err));
	check(model_open(at("m"), &o, NULL, NULL, &m, &err));
	const float *x = m->layers[1].proj[PROJ_GATE].data;
	double sum = 0, squares = 0;
	for (int i = 0; i < 48 * 32; i++) {
		sum += (double)x[i];
		squares += (double)x[i] * (double)x[i];
		assert_true(fabsf(x[i]) < 0.12f);
	}
	assert_true(fabs(sum / 1536) < 0.002);
	assert_true(fabs(sqrt(squares / 1536) - 0.02) < 0.001);
	assert_true(m->layers[2].input_norm[5] == 1 && m->final_norm[31] == 1);
	assert_int_equal(m->config.n_eos, 1);
	assert_int_equal(m->config.pad, 0);
	assert_true(m->config.rms_norm_eps == 1e-6f);
	assert_true(m->embed.data != m->lm_head.data);
	assert_int_equal(model_bytes(m), 4 * model_config_parameters(&m->config));
	model_free(m);
	init = tiny(ARCH_GEMMA, true);
	check(model_init_write(&init, at("g"), &err));
	o.format = WEIGHTS_AS_STORED;
	check(model_open(at("g"), &o, NULL, NULL, &m, &err));
	assert_int_equal(m->embed.dtype, DTYPE_BF16);
	assert_true(m->lm_head.data == m->embed.data);
	assert_true(m->layers[0].post_norm[0] == 0);
	model_free(m);
}

static void a_seed_gives_the_same_bytes_and_another_seed_others(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	size_t m, n;

	check(model_init_write(&init, at("a"), &err));
	check(model_init_write(&init, at("b"), &err));
	same_file(at("a/model.safetensors"), at("b/model.safetensors"));
	init.seed = 43;
	check(model_init_write(&init, at("b"), &err));
	char *x = file_read(at("a/model.safetensors"), &m, &err),
	     *y = file_read(at("b/model.safetensors"), &n, &err);
	assert_int_equal(m, n);
	assert_memory_not_equal(x, y, n);
	free(x);
	free(y);
	init.config.kv_heads = 3;
	assert_int_equal(model_init_write(&init, at("b"), &err), -1);
	assert_non_null(strstr(err.message, "not a multiple"));
}

/* ---- opening ---- */

static void a_model_that_contradicts_its_config_is_refused_by_tensor(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, false);
	struct model_options o = {.format = WEIGHTS_AS_STORED};
	struct strbuf b = STRBUF_INIT;
	struct model *m;

	check(model_init_write(&init, at("m"), &err));
	char *config = file_read(at("m/config.json"), NULL, &err);
	char *end = strstr(config, "\"intermediate_size\": 48");
	strbuf_add(&b, config, (size_t)(end - config));
	strbuf_addf(&b, "\"intermediate_size\": 50%s", end + strlen("\"intermediate_size\": 48"));
	put(at("m/config.json"), b.data);
	assert_int_equal(model_open(at("m"), &o, NULL, NULL, &m, &err), -1);
	assert_non_null(strstr(
		err.message, "mlp.gate_proj.weight: expected shape (50, 32) by config.json, found (48, 32)"));
	strbuf_clear(&b);
	end = strstr(config, "\"num_hidden_layers\": 3");
	strbuf_add(&b, config, (size_t)(end - config));
	strbuf_addf(&b, "\"num_hidden_layers\": 4%s", end + strlen("\"num_hidden_layers\": 3"));
	put(at("m/config.json"), b.data);
	assert_int_equal(model_open(at("m"), &o, NULL, NULL, &m, &err), -1);
	assert_non_null(strstr(err.message, "model.layers.3.self_attn.q_proj.weight (32, 32) is missing"));
	b.data[end - config + (ptrdiff_t)strlen("\"num_hidden_layers\": ")] = '2';
	put(at("m/config.json"), b.data);
	assert_int_equal(model_open(at("m"), &o, NULL, NULL, &m, &err), -1);
	assert_non_null(strstr(err.message, "model.layers.2."));
	strbuf_free(&b);
	free(config);
}

static void quantised_models_hold_what_the_kernels_make_of_their_values(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	struct model *plain, *m;
	float want[48 * 32], got[48 * 32], absmax[24];
	uint8_t packed[768];

	check(model_init_write(&init, at("m"), &err));
	check(model_open(at("m"), &(struct model_options){.format = WEIGHTS_F32}, NULL, NULL, &plain, &err));
	for (int i = 0; i < 4; i++) {
		struct model_options o = {.format = i % 2 ? WEIGHTS_NF4_DOUBLE : WEIGHTS_NF4,
					  .nf4_through_fp16 = i / 2};
		check(model_open(at("m"), &o, NULL, NULL, &m, &err));
		const struct matrix *w = &m->layers[2].proj[PROJ_UP];
		const float *x = plain->layers[2].proj[PROJ_UP].data;
		assert_int_equal(w->dtype, DTYPE_NF4);
		assert_true(w->round_fp16 == (i / 2 == 1));
		nf4_quantize(x, 48 * 32, i / 2, packed, absmax);
		assert_memory_equal(w->data, packed, sizeof packed);
		struct matrix one = {.dtype = DTYPE_NF4,
				     .round_fp16 = i / 2,
				     .rows = 48,
				     .cols = 32,
				     .data = packed,
				     .absmax = absmax};
		matrix_rows(&one, 0, 48, want);
		matrix_rows(w, 0, 48, got);
		for (int k = 0; k < 48 * 32; k++)
			assert_true(fabsf(got[k] - want[k]) <= (i % 2 ? 0.01f : 0) * 0.08f);
		assert_int_equal(m->embed.dtype, DTYPE_BF16);
		assert_true(model_bytes(m) < model_bytes(plain) / 3);
		model_free(m);
	}
	model_free(plain);
}

/* ---- adapters ---- */

static struct lora_set *random_adapter(const struct model_config *c, const char *targets)
{
	bool target[PROJ_COUNT];
	struct lora_set *s;

	for (int p = 0; p < PROJ_COUNT; p++)
		target[p] = strstr(targets, proj_name((enum proj)p)) != NULL;
	check(lora_set_new(NULL, c, 4, 8, target, false, &s, &err));
	lora_set_init(s, 9);
	for (size_t i = 0; i < s->count; i++)
		s->params[i] += 0.01f * (float)(i % 7) - 0.03f; /* B is not zero either */
	return s;
}

static void adapter_files_are_those_of_peft(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	struct tensors *t;

	check(model_init_write(&init, at("m"), &err));
	struct lora_set *s = random_adapter(&init.config, "v_proj q_proj down_proj");
	check(adapter_write(at("a"), s, "google/gemma-2b", 0.1, &err));
	is_text(at("a/adapter_config.json"),
		"{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n"
		"  \"base_model_name_or_path\": \"google/gemma-2b\",\n  \"bias\": \"none\",\n  "
		"\"fan_in_fan_out\": false,\n"
		"  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n  \"layer_replication\": "
		"null,\n"
		"  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n  \"loftq_config\": {},\n"
		"  \"lora_alpha\": 8,\n  \"lora_dropout\": 0.1,\n  \"megatron_config\": null,\n"
		"  \"megatron_core\": \"megatron.core\",\n  \"modules_to_save\": null,\n  \"peft_type\": "
		"\"LORA\",\n  \"r\": 4,\n"
		"  \"rank_pattern\": {},\n  \"revision\": null,\n  \"target_modules\": [\n    "
		"\"down_proj\",\n    \"q_proj\",\n"
		"    \"v_proj\"\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  "
		"\"use_rslora\": false\n}");
	check(tensors_open(at("a/adapter_model.safetensors"), &t, &err));
	assert_int_equal(tensors_count(t), 18);
	const struct tensor *b = tensors_find(
		t, "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight");
	assert_non_null(b);
	assert_true(b->dtype == TENSOR_F32 && b->shape[0] == 16 && b->shape[1] == 4);
	assert_memory_equal(b->data, s->entries[2 * PROJ_COUNT + PROJ_V].b, b->bytes);
	tensors_close(t);
	struct lora_set *back;
	check(adapter_load(at("a"), &init.config, &back, &err));
	assert_int_equal(back->count, s->count);
	assert_memory_equal(back->params, s->params, s->count * sizeof(float));
	assert_true(back->scale == 2);
	lora_set_free(back);
	struct model_config other = init.config;
	other.layers = 2;
	assert_int_equal(adapter_load(at("a"), &other, &back, &err), -1);
	assert_non_null(
		strstr(err.message, "the model has no place for tensor base_model.model.model.layers.2."));
	other.layers = 3;
	other.intermediate_size = 40;
	assert_int_equal(adapter_load(at("a"), &other, &back, &err), -1);
	assert_non_null(strstr(err.message, "down_proj.lora_A.weight: expected shape (4, 40)"));
	lora_set_free(s);
}

static void adapter_configs_that_mean_more_are_refused_by_key(void **state)
{
	(void)state;
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"[]", "must be a JSON object"},
		{"{}", "\"peft_type\" is \"\""},
		{"{\"peft_type\":\"LOHA\"}", "\"peft_type\" is \"LOHA\""},
		{"{\"peft_type\":\"LORA\"}", "\"r\" is missing"},
		{"{\"peft_type\":\"LORA\",\"r\":8}", "\"lora_alpha\" is missing"},
		{"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":16}", "\"r\" is 0"},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"use_dora\":true}",
		 "\"use_dora\" is set"},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"rank_pattern\":{\"q\":4}}",
		 "\"rank_pattern\" is set"},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"modules_to_save\":[\"lm_head\"]}",
		 "\"modules_to_save\""},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"bias\":\"all\"}", "\"bias\""},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"fan_in_fan_out\":true}",
		 "\"fan_in_fan_out\""},
		{"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16}", "adapter_model.safetensors"},
	};
	struct adapter a;

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		put(at("adapter_config.json"), cases[i].text);
		assert_int_equal(adapter_open(dir, &a, &err), -1);
		if (!strstr(err.message, cases[i].message))
			fail_msg("\"%s\" does not say \"%s\"", err.message, cases[i].message);
		adapter_close(&a);
	}
}

/* ---- merging ---- */

/* Every tensor of merged against the base and a float64 product. Gives the number that changed. */
static int compare_merged(const char *base, const char *merged, const struct lora_set *s)
{
	struct tensors *b, *m;
	int changed = 0;

	check(tensors_open(base, &b, &err));
	check(tensors_open(merged, &m, &err));
	assert_int_equal(tensors_count(b), tensors_count(m));
	for (size_t i = 0; i < tensors_count(b); i++) {
		const struct tensor *x = tensors_at(b, i), *y = tensors_at(m, i);
		const struct lora *l = NULL;
		assert_string_equal(x->name, y->name);
		assert_string_equal(path_base(x->file), path_base(y->file));
		assert_int_equal(x->dtype, y->dtype);
		for (int k = 0; k < s->layers * PROJ_COUNT; k++) {
			char name[128];
			snprintf(name, sizeof name, "model.layers.%d.%s.weight", k / PROJ_COUNT,
				 proj_path((enum proj)(k % PROJ_COUNT)));
			if (strcmp(name, x->name) == 0 && s->entries[k].rank)
				l = &s->entries[k];
		}
		if (!l) {
			assert_memory_equal(x->data, y->data, x->bytes);
			continue;
		}
		changed++;
		int64_t cols = x->shape[1];
		for (int64_t k = 0; k < tensor_elements(x); k++) {
			float old, now;
			enum dtype dtype = x->dtype == TENSOR_F32   ? DTYPE_F32
					   : x->dtype == TENSOR_F16 ? DTYPE_F16
								    : DTYPE_BF16;
			size_t size = tensor_dtype_size(x->dtype);
			floats_from(dtype, (const char *)x->data + (size_t)k * size, 1, &old);
			floats_from(dtype, (const char *)y->data + (size_t)k * size, 1, &now);
			double sum = 0;
			for (int r = 0; r < l->rank; r++)
				sum += (double)l->b[k / cols * l->rank + r] *
				       (double)l->a[r * cols + k % cols];
			double want = (double)old + (double)s->scale * sum,
			       ulp = fabs(want) * ldexp(1, dtype == DTYPE_F32 ? -23 : -8);
			assert_true(fabs((double)now - want) <= ulp * 1.02 + 3e-8);
		}
	}
	tensors_close(b);
	tensors_close(m);
	return changed;
}

static void merging_rounds_once_and_copies_the_rest(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	struct merge_report report;

	for (int bf16 = 0; bf16 < 2; bf16++) {
		init.bf16 = bf16;
		check(model_init_write(&init, at("m"), &err));
		put(at("m/tokenizer.json"), "{\"really\": \"bytes\"}");
		struct lora_set *s = random_adapter(&init.config, "q_proj v_proj gate_proj");
		check(adapter_write(at("a"), s, "x", 0, &err));
		check(model_merge(at("m"), at("a"), at("out"), NULL, NULL, &report, &err));
		assert_int_equal(report.changed, 9);
		assert_int_equal(report.tensors, 29);
		assert_int_equal(compare_merged(at("m"), at("out"), s), 9);
		same_file(at("m/config.json"), at("out/config.json"));
		same_file(at("m/generation_config.json"), at("out/generation_config.json"));
		same_file(at("m/tokenizer.json"), at("out/tokenizer.json"));
		lora_set_free(s);
	}
}

static void merging_keeps_shards_and_untouched_ones_whole(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, true);
	struct merge_report report;
	struct export_report exported;

	check(model_init_write(&init, at("m"), &err));
	check(model_export(at("m"), at("base"), &(struct export_options){.max_shard_size = 9000}, NULL, NULL,
			   &exported, &err));
	assert_true(exported.shards > 3);
	struct lora_set *s = random_adapter(&init.config, "down_proj");
	check(adapter_write(at("a"), s, "x", 0, &err));
	check(model_merge(at("base"), at("a"), at("out"), NULL, NULL, &report, &err));
	assert_int_equal(compare_merged(at("base"), at("out"), s), 3);
	same_file(at("base/model.safetensors.index.json"), at("out/model.safetensors.index.json"));
	lora_set_free(s);
}

static void merging_refuses_what_does_not_fit(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, false);
	struct model_config other;
	struct merge_report report;

	check(model_init_write(&init, at("m"), &err));
	other = init.config;
	other.hidden_size = 16;
	struct lora_set *s = random_adapter(&other, "v_proj");
	check(adapter_write(at("a"), s, "x", 0, &err));
	assert_int_equal(model_merge(at("m"), at("a"), at("out"), NULL, NULL, &report, &err), -1);
	assert_non_null(
		strstr(err.message, "lora_A.weight: expected shape (4, 32) beside the base, found (4, 16)"));
	lora_set_free(s);
	other = init.config;
	other.layers = 4;
	s = random_adapter(&other, "v_proj");
	check(adapter_write(at("a"), s, "x", 0, &err));
	assert_int_equal(model_merge(at("m"), at("a"), at("out"), NULL, NULL, &report, &err), -1);
	assert_non_null(strstr(err.message, "no place for tensor base_model.model.model.layers.3."));
	lora_set_free(s);
	s = random_adapter(&init.config, "v_proj");
	s->params[0] = INFINITY;
	check(adapter_write(at("a"), s, "x", 0, &err));
	assert_int_equal(model_merge(at("m"), at("a"), at("out"), NULL, NULL, &report, &err), -1);
	assert_non_null(strstr(err.message, "not finite"));
	lora_set_free(s);
}

static void whole_trained_weights_are_taken_over(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	struct merge_report report;
	struct model *m, *out;

	check(model_init_write(&init, at("m"), &err));
	check(model_open(at("m"), &(struct model_options){.format = WEIGHTS_F32}, NULL, NULL, &m, &err));
	((float *)(uintptr_t)m->embed.data)[7] = 1.0009f; /* rounds to 1 in bf16 */
	m->final_norm[3] = 0.5f;
	check(adapter_write_full(at("a"), m, "x", &err));
	check(model_merge(at("m"), at("a"), at("out"), NULL, NULL, &report, &err));
	assert_int_equal(report.changed, report.tensors);
	check(model_open(at("out"), &(struct model_options){.format = WEIGHTS_F32}, NULL, NULL, &out, &err));
	assert_true(((const float *)out->embed.data)[7] == 1);
	assert_true(((const float *)out->embed.data)[8] == ((const float *)m->embed.data)[8]);
	assert_true(out->final_norm[3] == 0.5f);
	struct lora_set *s;
	assert_int_equal(adapter_load(at("a"), &init.config, &s, &err), -1);
	assert_non_null(strstr(err.message, "method full"));
	model_free(m);
	model_free(out);
}

/* ---- exporting ---- */

static void an_export_that_fits_is_one_file(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_GEMMA, true);
	struct export_report report;
	struct export_options o = {
		.card = {"tiny-sql", "google/gemma-2b", "b-mc2/sql-create-context", "gemma", "Trained."}};

	check(model_init_write(&init, at("m"), &err));
	put(at("m/tokenizer.model"), "bytes");
	put(at("m/pytorch_model.bin"), "pickle");
	put(at("m/.hidden"), "x");
	check(model_export(at("m"), at("out"), &o, NULL, NULL, &report, &err));
	assert_int_equal(report.shards, 1);
	assert_int_equal(report.bytes, 2 * model_config_parameters(&init.config));
	same_file(at("m/model.safetensors"), at("out/model.safetensors"));
	same_file(at("m/config.json"), at("out/config.json"));
	same_file(at("m/tokenizer.model"), at("out/tokenizer.model"));
	assert_false(path_exists(at("out/model.safetensors.index.json")));
	assert_false(path_exists(at("out/pytorch_model.bin")));
	assert_false(path_exists(at("out/.hidden")));
	is_text(at("out/README.md"),
		"---\nbase_model: \"google/gemma-2b\"\ndatasets:\n- \"b-mc2/sql-create-context\"\n"
		"license: \"gemma\"\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
		"# tiny-sql\n\nTrained.\n");
}

static void shards_are_packed_in_the_order_of_state_dict(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, true);
	struct export_report report;
	struct tensors *t;

	check(model_init_write(&init, at("m"), &err));
	unlink(at("m/generation_config.json"));
	/* bf16 bytes: embed 6144, a layer 2048 1024 1024 2048 3072 3072 3072 64 64, norm 64, lm_head 6144 */
	check(model_export(at("m"), at("out"), &(struct export_options){.max_shard_size = 7200}, NULL, NULL,
			   &report, &err));
	assert_int_equal(report.shards, 10);
	check(tensors_open(at("out"), &t, &err));
	assert_string_equal(path_base(tensors_find(t, "model.embed_tokens.weight")->file),
			    "model-00001-of-00010.safetensors");
	assert_string_equal(path_base(tensors_find(t, "model.layers.0.self_attn.o_proj.weight")->file),
			    "model-00002-of-00010.safetensors");
	assert_string_equal(path_base(tensors_find(t, "model.layers.0.mlp.gate_proj.weight")->file),
			    "model-00003-of-00010.safetensors");
	assert_string_equal(path_base(tensors_find(t, "lm_head.weight")->file),
			    "model-00010-of-00010.safetensors");
	tensors_close(t);
	json_t *index = json_read(at("out/model.safetensors.index.json"), &err);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")),
		report.bytes);
	json_decref(index);
	char *text = file_read(at("out/model.safetensors.index.json"), NULL, &err);
	assert_true(strncmp(text,
			    "{\n  \"metadata\": {\n    \"total_size\": 58816\n  },\n  \"weight_map\": {\n"
			    "    \"lm_head.weight\": \"model-00010-of-00010.safetensors\",\n    "
			    "\"model.embed_tokens.weight\"",
			    100) == 0);
	assert_true(str_ends(text, "\"model-00009-of-00010.safetensors\"\n  }\n}\n"));
	free(text);
	is_text(at("out/generation_config.json"),
		"{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 2,\n"
		"  \"eos_token_id\": 1,\n  \"pad_token_id\": 0\n}\n");
	/* A tensor above the limit stands alone and does not close the shard that is being filled. */
	check(model_export(at("m"), at("lone"), &(struct export_options){.max_shard_size = 3000}, NULL, NULL,
			   &report, &err));
	check(tensors_open(at("lone"), &t, &err));
	assert_string_equal(tensors_find(t, "model.layers.0.self_attn.o_proj.weight")->file,
			    tensors_find(t, "model.layers.0.input_layernorm.weight")->file);
	tensors_close(t);
}

static void a_dtype_is_converted_and_said_in_the_config(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, false);
	struct export_report report;
	struct tensors *a, *b;

	check(model_init_write(&init, at("m"), &err));
	check(model_export(at("m"), at("out"), &(struct export_options){.dtype = EXPORT_F16}, NULL, NULL,
			   &report, &err));
	check(tensors_open(at("m"), &a, &err));
	check(tensors_open(at("out"), &b, &err));
	const struct tensor *x = tensors_find(a, "lm_head.weight"), *y = tensors_find(b, "lm_head.weight");
	assert_int_equal(y->dtype, TENSOR_F16);
	for (size_t i = 0; i < x->bytes / 4; i++) {
		float v;
		uint16_t h;
		memcpy(&v, (const char *)x->data + 4 * i, 4);
		memcpy(&h, (const char *)y->data + 2 * i, 2);
		assert_int_equal(h, f16_from_f32(v));
	}
	tensors_close(a);
	tensors_close(b);
	char *before = file_read(at("m/config.json"), NULL, &err),
	     *after = file_read(at("out/config.json"), NULL, &err);
	char *place = strstr(after, "\"torch_dtype\": \"float16\"");
	assert_non_null(place);
	assert_memory_equal(before, after, (size_t)(place - after)); /* nothing else moved */
	assert_string_equal(strstr(before, "\"float32\"") + 9, strstr(after, "\"float16\"") + 9);
	free(before);
	free(after);
}

static void a_tied_head_is_dropped_when_it_is_the_embedding(void **state)
{
	(void)state;
	struct model_init init = tiny(ARCH_LLAMA, true);
	struct export_report report;
	struct strbuf b = STRBUF_INIT;

	check(model_init_write(&init, at("m"), &err)); /* untied: lm_head differs from the embedding */
	char *config = file_read(at("m/config.json"), NULL, &err),
	     *place = strstr(config, "\"tie_word_embeddings\": false");
	strbuf_add(&b, config, (size_t)(place - config));
	strbuf_addf(&b, "\"tie_word_embeddings\": true%s", place + strlen("\"tie_word_embeddings\": false"));
	put(at("m/config.json"), b.data);
	assert_int_equal(
		model_export(at("m"), at("out"), &(struct export_options){0}, NULL, NULL, &report, &err), -1);
	assert_non_null(strstr(err.message, "lm_head.weight differs from the embedding"));
	struct tensors *t;
	struct tensors_writer *w;
	check(tensors_open(at("m"), &t, &err));
	size_t n = tensors_count(t);
	struct tensor *list = xcalloc(n, sizeof *list);
	for (size_t i = 0; i < n; i++)
		list[i] = *tensors_at(t, i);
	check(tensors_create(at("m/new.safetensors"), list, n, NULL, &w, &err));
	for (size_t k = 0; k < n; k++) {
		const struct tensor *src = &list[tensors_order(w)[k]];
		if (strcmp(src->name, "lm_head.weight") == 0)
			src = tensors_find(t, "model.embed_tokens.weight");
		check(tensors_add(w, src->data, src->bytes, &err));
	}
	check(tensors_commit(w, &err));
	tensors_close(t);
	assert_int_equal(rename(at("m/new.safetensors"), at("m/model.safetensors")), 0);
	check(model_export(at("m"), at("out"), &(struct export_options){0}, NULL, NULL, &report, &err));
	assert_int_equal(report.tied, 1);
	assert_int_equal(report.tensors, n - 1);
	check(tensors_open(at("out"), &t, &err));
	assert_null(tensors_find(t, "lm_head.weight"));
	tensors_close(t);
	free(list);
	free(config);
	strbuf_free(&b);
}

static void json_texts_are_edited_in_place(void **state)
{
	(void)state;
	static const struct {
		const char *in, *set, *drop;
	} cases[] = {
		{"{\"k\": \"a\"}", "{\"k\": \"v\"}", "{}"},
		{"{\n  \"k\": {\"k\": [1, \"}\\\"\"]},\n  \"b\": 2\n}", "{\n  \"k\": \"v\",\n  \"b\": 2\n}",
		 "{\n  \"b\": 2\n}"},
		{"{\"a\": {\"k\": 1}, \"k\": 5}", "{\"a\": {\"k\": 1}, \"k\": \"v\"}", "{\"a\": {\"k\": 1}}"},
		{"{\"a\":\"\\\"k\\\": 1\",\"k\" : null , \"z\":[ ]}",
		 "{\"a\":\"\\\"k\\\": 1\",\"k\" : \"v\" , \"z\":[ ]}",
		 "{\"a\":\"\\\"k\\\": 1\" , \"z\":[ ]}"},
		{"{\"a\":1}", "{\n  \"k\": \"v\",\"a\":1}", "{\"a\":1}"},
		{"{}", "{\n  \"k\": \"v\"\n}", "{}"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct strbuf b = STRBUF_INIT;
		bool found;
		check(json_text_set(cases[i].in, "k", "v", &b, &err));
		assert_string_equal(b.data, cases[i].set);
		strbuf_clear(&b);
		check(json_text_drop(cases[i].in, "k", &found, &b, &err));
		assert_string_equal(b.data, cases[i].drop);
		assert_true(found == (strcmp(cases[i].in, cases[i].drop) != 0));
		strbuf_free(&b);
	}
	struct strbuf b = STRBUF_INIT;
	bool found;
	assert_int_equal(json_text_set("[1]", "k", "v", &b, &err), -1);
	assert_int_equal(json_text_drop("{\"k\":", "k", &found, &b, &err), -1);
	strbuf_free(&b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_random_model_opens_and_has_the_moments_asked_for),
		TEST(a_seed_gives_the_same_bytes_and_another_seed_others),
		TEST(a_model_that_contradicts_its_config_is_refused_by_tensor),
		TEST(quantised_models_hold_what_the_kernels_make_of_their_values),
		TEST(adapter_files_are_those_of_peft),
		TEST(adapter_configs_that_mean_more_are_refused_by_key),
		TEST(merging_rounds_once_and_copies_the_rest),
		TEST(merging_keeps_shards_and_untouched_ones_whole),
		TEST(merging_refuses_what_does_not_fit),
		TEST(whole_trained_weights_are_taken_over),
		TEST(an_export_that_fits_is_one_file),
		TEST(shards_are_packed_in_the_order_of_state_dict),
		TEST(a_dtype_is_converted_and_said_in_the_config),
		TEST(a_tied_head_is_dropped_when_it_is_the_embedding),
		TEST(json_texts_are_edited_in_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
