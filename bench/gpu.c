/* The CUDA backend's speed beside what the card could do, on Gemma 2B's shapes: products in NF4, attention, every operation
 * of a step, the codelab's epoch, long batches, decoding. The card's two ceilings, bytes and operations a second, are
 * measured first; each row has what was achieved, the limit that those give, their ratio and the target.
 *   bench_gpu [--small] [--json FILE] [--sections NAME[,NAME…]] [--weights nf4|resident]
 * The sections: products attention operations epoch long decode.
 * --small: tiny shapes, to see that it runs. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "bench/gpu_bench.h"

static struct bench bench;

/* ---- rows ---- */

void bench_heading(const char *title)
{
	printf("\n%s\n\n| what | achieved | limit | of the limit | target | met "
	       "|\n|---|---|---|---|---|---|\n",
	       title);
}

static bool less_is_better(const struct figure *f)
{
	return strcmp(f->unit, "ms") == 0 || strcmp(f->unit, "us") == 0 || strcmp(f->unit, "GB") == 0;
}

/* Three digits, or all before the point. */
static void number(double v, char out[24])
{
	int digits = v != 0 && fabs(v) < 1000 ? 2 - (int)floor(log10(fabs(v))) : 0;

	snprintf(out, 24, "%.*f", digits < 0 ? 0 : digits > 6 ? 6 : digits, v);
}

static void json_row(struct bench *b, const struct figure *f, double ratio, bool met)
{
	struct strbuf s = STRBUF_INIT;
	const struct {
		const char *key, *value;
	} texts[] = {{"workload", f->workload},
		     {"name", f->name},
		     {"unit", f->unit},
		     {"device", b->info.name},
		     {"note", f->note}};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (texts[i].value) {
			strbuf_addf(&s, "%s\"%s\":", i ? "," : "{", texts[i].key);
			strbuf_add_json(&s, texts[i].value, strlen(texts[i].value));
		}
	strbuf_addf(&s, ",\"achieved\":%.6g", f->achieved);
	if (f->limit > 0)
		strbuf_addf(&s, ",\"limit\":%.6g,\"ratio\":%.4f", f->limit, ratio);
	if (f->target > 0)
		strbuf_addf(&s, ",\"target\":%.6g,\"met\":%s", f->target, met ? "true" : "false");
	if (f->predicted)
		strbuf_adds(&s, ",\"predicted\":true");
	fprintf(b->json, "%s}\n", s.data);
	fflush(b->json);
	strbuf_free(&s);
}

void bench_row(struct bench *b, const struct figure *f)
{
	bool less = less_is_better(f);
	double ratio = f->limit > 0 ? (less ? f->limit / f->achieved : f->achieved / f->limit) : 0;
	double compared = f->share ? ratio : f->achieved;
	bool met = less && !f->share ? compared <= f->target : compared >= f->target;
	char achieved[24], limit[24], target[48] = "", part[24] = "";

	number(f->achieved, achieved);
	number(f->limit, limit);
	if (f->limit > 0)
		snprintf(part, sizeof part, "%.0f %%", 100 * ratio);
	if (f->target > 0 && f->share) {
		snprintf(target, sizeof target, "%.0f %%", 100 * f->target);
	} else if (f->target > 0) {
		char value[24];

		number(f->target, value);
		snprintf(target, sizeof target, "%s %s", value, f->unit);
	}
	printf("| %s%s%s%s | %s %s | %s%s%s | %s | %s | %s |\n", f->name, f->note ? " (" : "",
	       f->note ? f->note : "", f->note ? ")" : "", achieved, f->unit, f->limit > 0 ? limit : "",
	       f->limit > 0 ? " " : "", f->limit > 0 ? f->unit : "", part, target,
	       f->target > 0 ? (met ? "yes" : "no") : "");
	fflush(stdout);
	if (b->json)
		json_row(b, f, ratio, met);
}

bool bench_wants(const struct bench *b, const char *section)
{
	return !b->sections || strstr(b->sections, section);
}

double bench_limit(const struct bench *b, double bytes, double flops)
{
	return fmax(bytes / b->bandwidth, flops / b->flops);
}

/* ---- an L4 ---- */

#define L4_BANDWIDTH 300e9  /* NVIDIA's data sheet */
#define L4_FLOPS     121e12 /* fp16, dense */

static struct prediction {
	char name[64];
	double limit, ratio;
} predictions[16];
static int n_predictions;

void bench_predict(struct bench *b, const char *name, double bytes, double flops, double seconds)
{
	struct prediction *p = &predictions[n_predictions];

	if (n_predictions == (int)(sizeof predictions / sizeof *predictions))
		return;
	n_predictions++;
	snprintf(p->name, sizeof p->name, "%s", name);
	p->limit = fmax(bytes / L4_BANDWIDTH, flops / L4_FLOPS);
	p->ratio = bench_limit(b, bytes, flops) / seconds;
}

void bench_predictions(struct bench *b)
{
	if (!n_predictions)
		return;
	bench_heading("Predictions for an L4 (300 GB/s, 121 TFLOP/s), not measured: the limit by the same "
		      "counts of bytes and "
		      "operations, and the time at the part of the limit that this card reached");
	for (int i = 0; i < n_predictions; i++)
		bench_row(b, &(struct figure){.workload = "prediction",
					      .name = predictions[i].name,
					      .unit = "ms",
					      .achieved = 1e3 * predictions[i].limit / predictions[i].ratio,
					      .limit = 1e3 * predictions[i].limit,
					      .predicted = true,
					      .note = "prediction, L4"});
}

/* ---- measuring ---- */

void bench_must(int failed, const struct error *err)
{
	if (!failed)
		return;
	fprintf(stderr, "bench_gpu: %s%s%s\n", err->message, *err->hint ? ": " : "", err->hint);
	bench_files_remove(&bench);
	exit(1);
}

struct device *bench_open(enum dtype act)
{
	struct error err = ERROR_INIT;
	struct device *d;

	bench_must(device_open(DEVICE_CUDA, 0, act, &d, &err), &err);
	return d;
}

void *bench_room(struct device *d, size_t bytes)
{
	struct error err = ERROR_INIT;
	void *p;

	bench_must(device_alloc(d, bytes, &p, &err), &err);
	return p;
}

#define PIECE ((size_t)1 << 20) /* values that repeat */

static void *random_values(struct device *d, enum dtype dtype, size_t n, float scale)
{
	static uint32_t state = 1;
	size_t size = matrix_data_size(dtype, 1, 1);
	char *to = bench_room(d, n * size), *raw = xmalloc(PIECE * size);
	float *x = xmalloc(PIECE * sizeof *x);

	for (size_t i = 0; i < PIECE; i++) {
		state = state * 1664525u + 1013904223u;
		x[i] = scale * ((float)(state >> 8) * 0x1p-23f - 1);
	}
	floats_to(dtype, x, PIECE, raw);
	for (size_t at = 0; at < n; at += PIECE) {
		size_t part = n - at < PIECE ? n - at : PIECE;

		device_upload(d, to + at * size, raw, part * size);
	}
	free(x);
	free(raw);
	return to;
}

void *bench_random(struct device *d, size_t n, float scale)
{
	return random_values(d, d->act, n, scale);
}

float *bench_random_f32(struct device *d, size_t n, float scale)
{
	return random_values(d, DTYPE_F32, n, scale);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *x, int n)
{
	qsort(x, (size_t)n, sizeof *x, by_value);
	return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static double time_runs(const struct bench *b, struct device *d, bench_run *run, void *arg, int variants,
			bool record)
{
	struct error err = ERROR_INIT;
	struct recording *r = NULL;
	double times[7], start;
	int batches = b->small ? 2 : 7, repeat = b->small ? 2 : 400;

	for (int i = 0; i < variants; i++)
		run(d, arg, i);
	bench_must(device_wait(d, &err), &err);
	start = clock_mono();
	for (int i = 0; i < 4; i++)
		run(d, arg, i % variants);
	bench_must(device_wait(d, &err), &err);
	double enough = 12e-3 / ((clock_mono() - start) / 4);

	if (enough < repeat)
		repeat = enough < 4 ? 4 : (int)enough;
	if (record && device_records(d)) {
		bench_must(device_record_begin(d, &err), &err);
		for (int i = 0; i < repeat; i++)
			run(d, arg, i % variants);
		bench_must(device_record_end(d, &r, &err), &err);
	}
	for (int k = -1; k < batches; k++) { /* the first one warms up */
		bench_must(device_wait(d, &err), &err);
		start = clock_mono();
		if (r)
			device_replay(d, r);
		else
			for (int i = 0; i < repeat; i++)
				run(d, arg, i % variants);
		bench_must(device_wait(d, &err), &err);
		if (k >= 0)
			times[k] = (clock_mono() - start) / repeat;
	}
	recording_free(d, r);
	return bench_median(times, batches);
}

double bench_time(const struct bench *b, struct device *d, bench_run *run, void *arg, int variants)
{
	return time_runs(b, d, run, arg, variants, true);
}

/* ---- the ceilings ---- */

struct ceiling {
	size_t bytes;
	char *from, *to;
	void *x, *y;
	double *sum;
	struct matrix w;
};

static void run_copy(struct device *d, void *arg, int i)
{
	struct ceiling *c = arg;

	device_copy(d, i ? c->from : c->to, i ? c->to : c->from, c->bytes);
}

static void run_read(struct device *d, void *arg, int i)
{
	struct ceiling *c = arg;

	(void)i;
	d->ops->sum_squares(d, (const float *)(void *)c->from, c->bytes / sizeof(float), c->sum);
}

static void run_product(struct device *d, void *arg, int i)
{
	struct ceiling *c = arg;

	(void)i;
	d->ops->matmul(d, c->x, &c->w, c->w.rows, STORE_ACT, c->y, c->w.rows);
}

static void measure_ceilings(struct bench *b)
{
	struct device *d = bench_open(DTYPE_BF16);
	int side = b->small ? 64 : 8192;
	size_t n = (size_t)side * (size_t)side;
	struct ceiling c = {.bytes = b->small ? 1 << 16 : (size_t)2 << 30};

	c.from = bench_room(d, c.bytes);
	c.to = bench_room(d, c.bytes);
	device_zero(d, c.from, c.bytes);
	c.sum = bench_room(d, sizeof *c.sum);
	/* Inside a recording a copy may go by way of a copy engine, which is slower. */
	double copies = 2 * (double)c.bytes / time_runs(b, d, run_copy, &c, 2, false);
	double reads = (double)c.bytes / bench_time(b, d, run_read, &c, 1);

	b->bandwidth = fmax(copies, reads);
	device_free(d, c.from);
	device_free(d, c.to);
	c.x = bench_random(d, n, 1);
	c.y = bench_room(d, n * 2);
	c.w = (struct matrix){.dtype = DTYPE_BF16, .rows = side, .cols = side, .data = bench_random(d, n, 1)};
	b->flops = 2 * (double)n * side / bench_time(b, d, run_product, &c, 1);
	device_close(d);
	bench_heading("Ceilings");
	bench_row(b, &(struct figure){.workload = "bandwidth",
				      .name = "copying within the card, bytes read and written",
				      .unit = "GB/s",
				      .achieved = copies / 1e9,
				      .limit = (double)b->info.bandwidth / 1e9});
	bench_row(b, &(struct figure){
			     .workload = "bandwidth",
			     .name = "reading (sum of squares); the faster of these two is a limit below",
			     .unit = "GB/s",
			     .achieved = reads / 1e9,
			     .limit = (double)b->info.bandwidth / 1e9});
	bench_row(b, &(struct figure){.workload = "flops",
				      .name = "8192 x 8192 x 8192 in bf16",
				      .unit = "TFLOP/s",
				      .achieved = b->flops / 1e12});
}

/* ---- the program ---- */

static void on_signal(int number)
{
	bench_files_remove(&bench);
	_exit(number == SIGTERM ? 1 : 128 + number);
}

static struct model_config shapes(bool small)
{
	return (struct model_config){
		.arch = ARCH_GEMMA,
		.vocab_size = small ? 512 : 256000,
		.hidden_size = small ? 64 : 2048,
		.intermediate_size = small ? 128 : 16384,
		.layers = small ? 2 : 18,
		.heads = small ? 4 : 8,
		.kv_heads = 1,
		.head_dim = small ? 16 : 256,
		.max_positions = 8192,
		.rms_norm_eps = 1e-6f,
		.rope_theta = 10000,
		.act = ACT_GELU_TANH,
		.tie_embeddings = true,
		.embed_scale = small ? 8 : sqrtf(2048),
		.norm_offset = 1,
		.attn_scale = small ? 0.25f : 0.0625f,
		.bos = 2,
		.pad = 0,
		.eos = {1},
		.n_eos = 1,
	};
}

int main(int argc, char **argv)
{
	struct error err = ERROR_INIT;
	const char *json = NULL;
	double start = clock_mono();

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--small") == 0) {
			bench.small = true;
		} else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
			json = argv[++i];
		} else if (strcmp(argv[i], "--sections") == 0 && i + 1 < argc) {
			bench.sections = argv[++i];
		} else if (strcmp(argv[i], "--weights") == 0 && i + 1 < argc &&
			   (strcmp(argv[i + 1], "nf4") == 0 || strcmp(argv[i + 1], "resident") == 0)) {
			bench.weights = argv[++i];
		} else {
			fprintf(stderr,
				"usage: bench_gpu [--small] [--json FILE] [--sections NAME[,NAME...]] "
				"[--weights nf4|resident]\n"
				"sections: products attention operations epoch long decode\n");
			return 2;
		}
	}
	if (device_cuda_count(&err) == 0) {
		fprintf(stderr, "bench_gpu: %s\n", err.message);
		return 4;
	}
	bench_must(device_cuda_info(0, &bench.info, &err), &err);
	if (json && !(bench.json = fopen(json, "w"))) {
		fprintf(stderr, "bench_gpu: %s cannot be written\n", json);
		return 4;
	}
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	bench.config = shapes(bench.small);
	printf("On %s, compute capability %d.%d, %d multiprocessors, %.1f GB, driver for CUDA %d.%d, built "
	       "with %d.%d%s.\n",
	       bench.info.name, bench.info.major, bench.info.minor, bench.info.multiprocessors,
	       (double)bench.info.memory / 1e9, bench.info.driver / 1000, bench.info.driver % 1000 / 10,
	       bench.info.runtime / 1000, bench.info.runtime % 1000 / 10,
	       bench.small ? "; tiny shapes, the figures mean nothing" : "");
	measure_ceilings(&bench);
	if (bench_wants(&bench, "epoch") || bench_wants(&bench, "long") || bench_wants(&bench, "decode"))
		bench_model(&bench);
	if (bench_wants(&bench, "products"))
		bench_products(&bench);
	if (bench_wants(&bench, "attention"))
		bench_attention(&bench);
	if (bench_wants(&bench, "operations"))
		bench_operations(&bench);
	bench_predictions(&bench);
	printf("\nAll of it took %.0f s.\n", clock_mono() - start);
	if (bench.json)
		fclose(bench.json);
	return 0;
}
