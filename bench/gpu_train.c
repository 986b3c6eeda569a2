/* bench_gpu's whole model: Gemma 2B's shapes with random weights, written as a model directory and opened as any other; the
 * codelab's epoch, long batches and decoding on it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench/gpu_bench.h"
#include "bench/lengths.h"
#include "model/trainer.h"
#include "model/transformer.h"
#include "model/weights.h"

/* ---- counts ---- */

static double layer_weights(const struct model_config *c)
{
	double sum = 0;

	for (int p = 0; p < PROJ_COUNT; p++) {
		int rows, cols;

		proj_shape(c, (enum proj)p, &rows, &cols);
		sum += (double)rows * cols;
	}
	return sum * c->layers;
}

/* Bytes of all matrices, each read once: the layers' and, in 16 bits, the vocabulary's. */
static double weight_bytes(const struct model_config *c, bool nf4)
{
	return layer_weights(c) * (nf4 ? 0.5 + 4.0 / NF4_BLOCK : 2) + 2.0 * c->vocab_size * c->hidden_size;
}

/* A training step reads them there and back, and multiplies by them twice; nothing else is counted but attention over
 * `pairs` pairs of positions. */
static double step_flops(const struct model_config *c, double tokens, double pairs)
{
	return tokens * 4 * (layer_weights(c) + (double)c->vocab_size * c->hidden_size) +
	       14.0 * c->layers * c->heads * c->head_dim * pairs;
}

/* ---- the model's files ---- */

static const char *const file_names[] = {"model.safetensors", "config.json"};

/* Also from a signal handler: nothing but unlink and rmdir. */
void bench_files_remove(struct bench *b)
{
	char path[sizeof b->dir + 32];

	for (size_t i = 0; *b->dir && i < 2; i++) {
		size_t n = strlen(b->dir);

		memcpy(path, b->dir, n);
		path[n] = '/';
		strcpy(path + n + 1, file_names[i]);
		unlink(path);
	}
	if (*b->dir)
		rmdir(b->dir);
	*b->dir = 0;
}

/* Memory where there is enough of it, so that no disk is measured. */
static const char *place(double bytes)
{
	const char *tmp = getenv("TMPDIR");
	struct statvfs s;

	if (tmp && *tmp)
		return tmp;
	if (statvfs("/dev/shm", &s) == 0 && (double)s.f_bavail * (double)s.f_frsize > 1.5 * bytes)
		return "/dev/shm";
	return "/tmp";
}

static int write_config(const struct model_config *c, const char *path, struct error *err)
{
	struct strbuf s = STRBUF_INIT;

	strbuf_addf(&s,
		    "{\"architectures\": [\"GemmaForCausalLM\"], \"model_type\": \"gemma\", \"vocab_size\": "
		    "%d, \"hidden_size\": %d,\n"
		    " \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d,\n"
		    " \"num_key_value_heads\": %d, \"head_dim\": %d, \"max_position_embeddings\": %d, "
		    "\"rms_norm_eps\": 1e-6,\n"
		    " \"rope_theta\": 10000.0, \"hidden_act\": \"gelu\", \"bos_token_id\": 2, "
		    "\"eos_token_id\": 1, \"pad_token_id\": 0}\n",
		    c->vocab_size, c->hidden_size, c->intermediate_size, c->layers, c->heads, c->kv_heads,
		    c->head_dim, c->max_positions);
	int failed = file_write_atomic(path, s.data, s.len, err);

	strbuf_free(&s);
	return failed;
}

/* Random bf16 of transformers' standard deviation, the same few megabytes from other places on; zeros for norms. */
static int write_weights(const struct model_config *c, const char *path, struct error *err)
{
	const size_t period = (size_t)1 << 22;
	size_t n = weight_count(c), turn = 0;
	struct weight *weights = xcalloc(n, sizeof *weights);
	struct tensor *list = xcalloc(n, sizeof *list);
	float *x = xmalloc(period * sizeof *x);
	uint16_t *raw = xcalloc(period, sizeof *raw), *zeros = xcalloc(period, sizeof *zeros);
	struct tensors_writer *w = NULL;
	uint32_t state = 1;

	for (size_t i = 0; i < period; i++) {
		state = state * 1664525u + 1013904223u;
		x[i] = 0.035f * ((float)(state >> 8) * 0x1p-23f - 1);
	}
	floats_to(DTYPE_BF16, x, period, raw);
	for (size_t i = 0; i < n; i++) {
		weights[i] = weight_at(c, i);
		list[i] = (struct tensor){.name = weights[i].name,
					  .dtype = TENSOR_BF16,
					  .ndims = weights[i].cols ? 2 : 1,
					  .shape = {weights[i].rows, weights[i].cols}};
	}
	int failed = tensors_create(path, list, n, NULL, &w, err);

	for (size_t k = 0; k < n && !failed; k++) {
		const struct weight *one = &weights[tensors_order(w)[k]];
		size_t left = weight_elements(one), at = ++turn * 7919 % period;

		while (left && !failed) {
			size_t part = left < period - at ? left : period - at;

			failed = tensors_add(w, one->cols ? raw + at : zeros, part * 2, err);
			left -= part;
			at = 0;
		}
	}
	if (failed && w)
		tensors_abandon(w);
	else if (!failed)
		failed = tensors_commit(w, err);
	free(weights);
	free(list);
	free(x);
	free(raw);
	free(zeros);
	return failed;
}

static void make_files(struct bench *b)
{
	const struct model_config *c = &b->config;
	struct error err = ERROR_INIT;
	char path[sizeof b->dir + 32];
	double start = clock_mono();

	snprintf(b->dir, sizeof b->dir, "%.200s/anneal_bench_XXXXXX", place(weight_bytes(c, false)));
	if (!mkdtemp(b->dir)) {
		*b->dir = 0;
		bench_must(error_errno(&err, ERR_INFRA, "no directory for a model's files"), &err);
	}
	snprintf(path, sizeof path, "%s/%s", b->dir, file_names[1]);
	bench_must(write_config(c, path, &err), &err);
	snprintf(path, sizeof path, "%s/%s", b->dir, file_names[0]);
	bench_must(write_weights(c, path, &err), &err);
	printf("\nWrote a model of %.2f GB to %s in %.1f s.\n", weight_bytes(c, false) / 1e9, b->dir,
	       clock_mono() - start);
	fflush(stdout);
}

/* ---- training ---- */

struct rows {
	struct train_sequence *row;
	int32_t *ids;
	size_t n;
	double tokens, pairs;
};

/* Rows of random ids; length 0: the real rows' lengths. */
static struct rows rows_new(const struct bench *b, size_t n, int length)
{
	struct rows r = {.row = xcalloc(n, sizeof *r.row), .n = n};
	size_t at = 0, most = 0;
	uint32_t state = 7;

	for (size_t i = 0; i < n; i++)
		most += (size_t)(length ? length : row_lengths[i]);
	r.ids = xmalloc(most * sizeof *r.ids);
	for (size_t i = 0; i < most; i++) {
		state = state * 1664525u + 1013904223u;
		r.ids[i] = 3 + (int32_t)((state >> 4) % (uint32_t)(b->config.vocab_size - 3));
	}
	for (size_t i = 0; i < n; i++) {
		int len = length ? length : row_lengths[i];

		if (b->small && len > 24)
			len = 24;
		r.row[i] = (struct train_sequence){r.ids + at, len, 0, (int64_t)i};
		at += (size_t)len;
		r.tokens += len;
		r.pairs += len * (len + 1.0) / 2;
	}
	return r;
}

static void rows_free(struct rows *r)
{
	free(r->row);
	free(r->ids);
}

/* When each step ended. */
struct ticks {
	double at[512];
	int n;
};

static void tick(int64_t step, int64_t steps, void *arg)
{
	struct ticks *t = arg;

	(void)step;
	(void)steps;
	if (t->n < (int)(sizeof t->at / sizeof *t->at))
		t->at[t->n++] = clock_mono();
}

/* Median seconds of a step, those before `first` left out. */
static double median_step(const struct ticks *t, int first)
{
	double x[512];
	int n = 0;

	for (int i = first; i < t->n; i++)
		x[n++] = t->at[i] - t->at[i - 1];
	return bench_median(x, n);
}

struct variant {
	enum dtype act;
	enum recipe recipe;
	bool resident, all; /* all: long batches and decoding too */
};

static const char *variant_name(const struct variant *v)
{
	static char name[64];

	snprintf(name, sizeof name, "%s, %s%s", v->resident ? "resident" : "nf4",
		 v->act == DTYPE_F16 ? "fp16" : "bf16",
		 v->recipe == RECIPE_CODELAB ? ", recipe codelab" : "");
	return name;
}

static void epoch(struct bench *b, const struct variant *v, struct model *m)
{
	struct trainer_options o = trainer_options_default(v->recipe);
	struct rows rows = rows_new(b, b->small ? 16 : 1000, 0);
	struct trainer_callbacks cb = {.progress = tick, .arg = &(struct ticks){.n = 0}};
	const struct ticks *t = cb.arg;
	struct train_result result;
	struct error err = ERROR_INIT;
	struct trainer *trainer;
	uint64_t now, peak;
	char name[128], note[192];

	bench_must(trainer_new(&o, m, rows.row, rows.n, &trainer, &err), &err);
	double start = clock_mono(), steps = (double)trainer_steps(trainer);

	bench_must(trainer_run(trainer, &cb, &result, &err), &err);
	double seconds = (t->at[t->n - 1] - start) / steps;
	double bytes = 2 * weight_bytes(&b->config, !v->resident);
	double flops = step_flops(&b->config, rows.tokens, rows.pairs) / steps;
	bool chosen = model_wants_resident(&b->config, &b->info) == v->resident;

	device_memory_used(model_device(m), &now, &peak);
	snprintf(name, sizeof name, "codelab's epoch, a step, %s", variant_name(v));
	double median = median_step(t, 1), slow = 0;
	int slower = 0;

	for (int i = 1; i < t->n; i++)
		if (t->at[i] - t->at[i - 1] > 2 * median) {
			slow += t->at[i] - t->at[i - 1];
			slower++;
		}
	snprintf(note, sizeof note,
		 "median %.3g ms; the first %.3g ms, %d more above twice the median together %.3g ms; %.0f "
		 "tokens a step, loss %.2f, "
		 "skipped %lld",
		 1e3 * median, 1e3 * (t->at[0] - start), slower, 1e3 * slow, rows.tokens / steps, result.loss,
		 (long long)result.skipped);
	bench_row(b, &(struct figure){.workload = "epoch",
				      .name = name,
				      .unit = "ms",
				      .achieved = 1e3 * seconds,
				      .limit = 1e3 * bench_limit(b, bytes, flops),
				      .target = chosen ? 4 : 0,
				      .note = note});
	snprintf(name, sizeof name, "codelab's epoch, %s", variant_name(v));
	snprintf(note, sizeof note, "by bytes %.3g ms a step, by operations %.3g ms",
		 1e3 * bytes / b->bandwidth, 1e3 * flops / b->flops);
	bench_row(b, &(struct figure){.workload = "epoch-rate",
				      .name = name,
				      .unit = "tokens/s",
				      .achieved = rows.tokens / (seconds * steps),
				      .limit = rows.tokens / steps / bench_limit(b, bytes, flops),
				      .note = note});
	snprintf(name, sizeof name, "codelab's epoch, most memory, %s", variant_name(v));
	bench_row(b, &(struct figure){.workload = "epoch-memory",
				      .name = name,
				      .unit = "GB",
				      .achieved = (double)peak / 1e9,
				      .limit = weight_bytes(&b->config, !v->resident) / 1e9,
				      .target = v->resident ? 0 : 3.5,
				      .note = "limit: the weights"});
	if (v->act == DTYPE_BF16) {
		snprintf(name, sizeof name, "codelab's epoch, a step, %s", v->resident ? "resident" : "nf4");
		bench_predict(b, name, bytes, flops, seconds);
	}
	trainer_free(trainer);
	rows_free(&rows);
}

static void long_batches(struct bench *b, const struct variant *v, struct model *m)
{
	struct trainer_options o = trainer_options_default(v->recipe);
	int steps = b->small ? 4 : 12;
	struct rows rows = rows_new(b, (size_t)(16 * steps), b->small ? 24 : 512);
	struct trainer_callbacks cb = {.progress = tick, .arg = &(struct ticks){.n = 0}};
	struct train_result result;
	struct error err = ERROR_INIT;
	struct trainer *trainer;
	uint64_t now, peak;
	char name[128], note[96];

	o.batch_size = 16;
	o.grad_accumulation = 1;
	o.token_budget = 0;
	bench_must(trainer_new(&o, m, rows.row, rows.n, &trainer, &err), &err);
	bench_must(trainer_run(trainer, &cb, &result, &err), &err);
	double seconds = median_step(cb.arg, 3), tokens = rows.tokens / steps;
	double bytes = 2 * weight_bytes(&b->config, !v->resident);
	double flops = step_flops(&b->config, tokens, rows.pairs / steps);

	device_memory_used(model_device(m), &now, &peak);
	snprintf(name, sizeof name, "16 x %d tokens a step, %s", rows.row[0].n, variant_name(v));
	snprintf(note, sizeof note, "%.3g ms a step, most memory %.3g GB", 1e3 * seconds, (double)peak / 1e9);
	bench_row(b, &(struct figure){.workload = "long",
				      .name = name,
				      .unit = "tokens/s",
				      .achieved = tokens / seconds,
				      .limit = tokens / bench_limit(b, bytes, flops),
				      .target = 50000,
				      .note = note});
	snprintf(name, sizeof name, "16 x 512 tokens, a step, %s", v->resident ? "resident" : "nf4");
	bench_predict(b, name, bytes, flops, seconds);
	trainer_free(trainer);
	rows_free(&rows);
}

/* ---- decoding ---- */

static void decode(struct bench *b, const struct variant *v, struct model *m, int batch)
{
	const struct model_config *c = &b->config;
	int prompt = b->small ? 8 : 64, steps = b->small ? 6 : 136, first = b->small ? 2 : 8;
	struct decode_item *items = xcalloc((size_t)batch, sizeof *items);
	int32_t *ids = xcalloc((size_t)(batch * prompt), sizeof *ids),
		*chosen = xcalloc((size_t)batch, sizeof *chosen);
	double *times = xcalloc((size_t)steps, sizeof *times);
	struct error err = ERROR_INIT;
	struct transformer *t;
	struct kv_cache *k;
	char name[128], key[32], note[64];

	bench_must(transformer_new(m, NULL, &t, &err), &err);
	bench_must(kv_cache_new(m->device, c, batch, prompt + steps, &k, &err), &err);
	for (int i = 0; i < batch * prompt; i++)
		ids[i] = (int32_t)((int64_t)i * 7919 % c->vocab_size);
	for (int i = 0; i < batch; i++)
		items[i] = (struct decode_item){i, prompt, ids + i * prompt};
	double start = clock_mono();

	bench_must(transformer_decode(t, k, items, batch, NULL, chosen, &err), &err);
	double prefill = clock_mono() - start;

	for (int s = 0; s < steps; s++) {
		for (int i = 0; i < batch; i++)
			items[i] = (struct decode_item){i, 1, chosen + i};
		start = clock_mono();
		bench_must(transformer_decode(t, k, items, batch, NULL, chosen, &err), &err);
		times[s] = clock_mono() - start;
	}
	double seconds = bench_median(times + first, steps - first), kept = prompt + steps / 2.0;
	double width = (double)c->kv_heads * c->head_dim;
	double bytes = weight_bytes(c, !v->resident) + batch * kept * c->layers * width * 4;
	double flops = 2 * batch * (layer_weights(c) + (double)c->vocab_size * c->hidden_size);

	snprintf(name, sizeof name, "decoding, batch %d, %s", batch, variant_name(v));
	snprintf(note, sizeof note, "%.3g ms a token, %.0f GB/s; first pass %.3g ms", 1e3 * seconds,
		 bytes / seconds / 1e9, 1e3 * prefill);
	snprintf(key, sizeof key, "decode-%d", batch);
	bench_row(b, &(struct figure){.workload = key,
				      .name = name,
				      .unit = "tokens/s",
				      .achieved = batch / seconds,
				      .limit = batch / bench_limit(b, bytes, flops),
				      .target = batch == 1 ? 0.7 : 0,
				      .share = true,
				      .note = note});
	snprintf(name, sizeof name, "decoding, batch %d, a token, %s", batch,
		 v->resident ? "16 bits" : "nf4");
	bench_predict(b, name, bytes, flops, seconds);
	kv_cache_free(k);
	transformer_free(t);
	free(items);
	free(ids);
	free(chosen);
	free(times);
}

void bench_model(struct bench *b)
{
	static const struct variant variants[] = {
		{DTYPE_BF16, RECIPE_DEFAULT, true, true},
		{DTYPE_BF16, RECIPE_DEFAULT, false, true},
		{DTYPE_F16, RECIPE_CODELAB, true, false},
		{DTYPE_F16, RECIPE_CODELAB, false, false},
	};
	bool epochs = bench_wants(b, "epoch"), longs = bench_wants(b, "long"),
	     decodes = bench_wants(b, "decode");

	make_files(b);
	bench_heading("Training and decoding: 18 layers of Gemma 2B's shapes, random weights; LoRA of rank 8 "
		      "on q and v, dropout 0.1; "
		      "limits count weights and attention alone");
	for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
		const struct variant *v = &variants[i];
		struct trainer_options o = trainer_options_default(v->recipe);
		struct model_options mo = trainer_model_options(&o, false);
		struct error err = ERROR_INIT;
		struct model *m;
		char name[96];

		if ((!epochs && !v->all) ||
		    (b->weights && strcmp(b->weights, v->resident ? "resident" : "nf4")))
			continue;
		struct device *d = bench_open(v->act);

		mo.device = d;
		mo.resident = v->resident;
		double start = clock_mono();

		bench_must(model_open(b->dir, &mo, NULL, NULL, &m, &err), &err);
		bench_must(device_wait(d, &err), &err);
		double seconds = clock_mono() - start;

		snprintf(name, sizeof name, "loading, of 16-bit files, %s", variant_name(v));
		bench_row(b, &(struct figure){.workload = "load",
					      .name = name,
					      .unit = "GB/s",
					      .achieved = weight_bytes(&b->config, false) / seconds / 1e9});
		if (epochs)
			epoch(b, v, m);
		if (longs && v->all)
			long_batches(b, v, m);
		if (decodes && v->all) {
			decode(b, v, m, 1);
			decode(b, v, m, b->small ? 3 : 32);
		}
		model_free(m);
		device_close(d);
	}
	bench_files_remove(b);
}
