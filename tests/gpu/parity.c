/* Training and decoding on a GPU against the same on the CPU in fp32: the loss of every step, the bytes of adapters, tokens.
 * Makes its own small models and rows. A line per check with its figure; exit 1 when one fails, 77 without a GPU (1 where
 * ANNEAL_REQUIRE_CUDA is set).
 *   gpu_parity [--quick] [--only TEXT]
 * --quick: as small as the shapes allow, for the fake of the CUDA runtime, which runs kernels thread by thread. */
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/generate.h"
#include "model/init.h"
#include "model/trainer.h"

#define ROWS 64

struct sizes {
	int hidden, intermediate, layers, heads, head_dim, vocab;
	int steps, shortest, longest; /* rows' tokens */
	int answer;                   /* tokens to generate */
	double few; /* a loss over few tokens averages few of 16-bit activations' errors: limits are so many times larger */
};

static const struct sizes full_size = {256, 512, 4, 4, 64, 2048, 100, 24, 80, 64, 1};
static const struct sizes quick_size = {64, 128, 2, 4, 16, 128, 8, 6, 14, 12, 2};
static struct sizes size;

/* How one run trains. The first line is what numbers depend on, the second how a GPU computes them. */
struct setup {
	bool gemma, double_quant, codelab;
	enum train_method method;
	int token_budget;
	enum dtype act;
	bool resident;
	bool kill; /* the run saves its state every few steps, so that one that is killed can be resumed */
};

static char dir[256];
static const char *only;
static int failures, checks;

/* A test that cannot go on. */
static void die(const struct error *err)
{
	printf("FAIL  %s%s%s\n", err->message, *err->hint ? ": " : "", err->hint);
	tree_remove(dir, NULL);
	exit(1);
}

static void must(int failed, const struct error *err)
{
	if (failed)
		die(err);
}

/* value, which may be at most `limit`, of the check called name; detail may be empty. */
static void report(const char *name, const char *what, double value, double limit, const char *detail)
{
	bool ok = value <= limit; /* not for NaN */

	checks++;
	failures += !ok;
	printf("%-5s %-34s %s %.3g, at most %.3g%s%s\n", ok ? "ok" : "FAIL", name, what, value, limit,
	       *detail ? "; " : "", detail);
	fflush(stdout);
}

static bool wanted(const char *name)
{
	return !only || strstr(name, only);
}

/* ---- the models and the rows ---- */

static void model_path(bool gemma, char *path)
{
	snprintf(path, sizeof dir + 8, "%s/%s", dir, gemma ? "gemma" : "llama");
}

static void write_model(bool gemma)
{
	struct model_init init = {
		.config =
			{
				.arch = gemma ? ARCH_GEMMA : ARCH_LLAMA,
				.vocab_size = size.vocab,
				.hidden_size = size.hidden,
				.intermediate_size = size.intermediate,
				.layers = size.layers,
				.heads = size.heads,
				.kv_heads = gemma ? 1 : size.heads / 2,
				.head_dim = size.head_dim,
				.max_positions = 256,
				.rms_norm_eps = gemma ? 1e-6f : 1e-5f,
				.rope_theta = 10000,
				.act = gemma ? ACT_GELU_ERF : ACT_SILU,
				.tie_embeddings = gemma,
				.bos = 2,
				.pad = 0,
				.eos = {1},
				.n_eos = 1,
			},
		.initializer_range = 0.5 / sqrt(size.hidden), /* logits of order 1 */
		.bf16 = true,
		.seed = 11,
	};
	char path[sizeof dir + 8];
	struct error err = ERROR_INIT;

	model_path(gemma, path);
	must(model_init_write(&init, path, &err), &err);
}

static struct train_sequence rows[ROWS];

/* Walks in steps of 1 or 3 over a circle of an eighth of the vocabulary's ids: which they are, and then the step, can be
 * learned. */
static void make_rows(void)
{
	for (int r = 0; r < ROWS; r++) {
		int n = size.shortest + r * 37 % (size.longest - size.shortest + 1);
		int32_t *ids = xcalloc((size_t)n, sizeof *ids);

		ids[0] = 2;
		for (int i = 1; i < n; i++)
			ids[i] = 8 + (r * 5 + i * (r % 2 ? 1 : 3)) % (size.vocab / 8) * 7;
		rows[r] = (struct train_sequence){ids, n, r % 3 ? n / 3 : 0, r};
	}
}

static struct trainer_options options(const struct setup *s)
{
	struct trainer_options o = trainer_options_default(s->codelab ? RECIPE_CODELAB : RECIPE_DEFAULT);

	o.method = s->method;
	o.max_steps = size.steps;
	/* Enough to learn, and not so much that a rounding decides where the steepest part of the curve lies. */
	o.learning_rate = s->method == METHOD_FULL ? 3e-5 : 1e-3;
	o.grad_accumulation = 4;
	o.logging_steps = 1;
	if (!s->codelab)
		o.target[PROJ_O] = o.target[PROJ_GATE] = o.target[PROJ_DOWN] = true;
	if (s->token_budget) {
		o.batch_size = 3;
		o.grad_accumulation = 2;
		o.token_budget = s->token_budget;
	}
	return o;
}

/* ---- a run ---- */

struct run {
	struct setup setup;
	struct device *device;
	struct model *model;
	struct trainer *trainer;
	double *losses; /* (size.steps) */
	struct train_result result;
	double grown; /* bytes that the run took beside what its trainer had taken */
	/* Stops after so many steps, 0: never, and saves its state then. */
	int stop_at;
	int kill_at; /* after so many steps the process ends itself by SIGKILL, 0: never; it saves its state every few */
	char checkpoint[sizeof dir + 32];
};

static void take_loss(const struct train_metrics *m, void *arg)
{
	((struct run *)arg)->losses[m->step - 1] = m->loss;
	((struct run *)arg)->result.steps = m->step;
}

static bool stops(void *arg)
{
	const struct run *r = arg;

	if (r->kill_at && r->result.steps == r->kill_at)
		raise(SIGKILL);
	return r->stop_at && r->result.steps == r->stop_at;
}

static int save(struct trainer *t, int64_t step, void *arg, struct error *err)
{
	(void)step;
	return trainer_save(t, ((struct run *)arg)->checkpoint, err);
}

static void run_close(struct run *r)
{
	trainer_free(r->trainer);
	model_free(r->model);
	device_close(r->device);
	free(r->losses);
	memset(r, 0, sizeof *r);
}

/* Everything that training takes, on the GPU or the CPU, and a trainer before its first step. */
static void run_open(struct run *r, const struct setup *s, bool gpu)
{
	struct trainer_options o = options(s);

	o.checkpoint_steps = s->kill ? 3 : 0;
	struct model_options m = trainer_model_options(&o, s->double_quant);
	struct error err = ERROR_INIT;
	char path[sizeof dir + 8];

	*r = (struct run){.setup = *s, .losses = xcalloc((size_t)size.steps, sizeof *r->losses)};
	snprintf(r->checkpoint, sizeof r->checkpoint, "%s/checkpoint", dir);
	must(device_open(gpu ? DEVICE_CUDA : DEVICE_CPU, 0, gpu ? s->act : DTYPE_F32, &r->device, &err),
	     &err);
	m.device = r->device;
	m.resident = gpu && s->resident;
	model_path(s->gemma, path);
	must(model_open(path, &m, NULL, NULL, &r->model, &err), &err);
	must(trainer_new(&o, r->model, rows, ROWS, &r->trainer, &err), &err);
}

static void run_train(struct run *r)
{
	struct trainer_callbacks cb = {
		.metrics = take_loss, .should_stop = stops, .checkpoint = save, .arg = r};
	struct train_result result;
	struct error err = ERROR_INIT;
	uint64_t before, after, peak;

	device_memory_used(r->device, &before, &peak);
	must(trainer_run(r->trainer, &cb, &result, &err), &err);
	device_memory_used(r->device, &after, &peak);
	r->result = result;
	r->grown = (double)after - (double)before;
}

/* Bytes of the files that the run leaves; the caller frees them. */
static char *run_files(struct run *r, size_t *n)
{
	struct error err = ERROR_INIT;
	char to[sizeof dir + 16], file[sizeof dir + 64];

	snprintf(to, sizeof to, "%s/adapter", dir);
	if (r->setup.method == METHOD_FULL)
		must(adapter_write_full(to, r->model, "model", &err), &err);
	else
		must(adapter_write(to, trainer_adapter(r->trainer), "model", 0.1, &err), &err);
	snprintf(file, sizeof file, "%s/%s", to,
		 r->setup.method == METHOD_FULL ? ADAPTER_FULL : ADAPTER_WEIGHTS);
	char *bytes = file_read(file, n, &err);
	must(!bytes, &err);
	return bytes;
}

/* ---- trajectories ---- */

static bool same_on_cpu(const struct setup *a, const struct setup *b)
{
	return a->gemma == b->gemma && a->double_quant == b->double_quant && a->codelab == b->codelab &&
	       a->method == b->method && a->token_budget == b->token_budget;
}

/* The CPU's run of s; the last one is kept. */
static const struct run *reference(const struct setup *s)
{
	static struct run r;

	if (!r.model || !same_on_cpu(&r.setup, s)) {
		if (r.model)
			run_close(&r);
		run_open(&r, s, false);
		run_train(&r);
	}
	return &r;
}

static double mean(const double *x, int n)
{
	double sum = 0;

	for (int i = 0; i < n; i++)
		sum += x[i];
	return sum / n;
}

static void check_trajectory(const char *name, const struct setup *s, double limit)
{
	char detail[160], what[] = "loss differs by";
	struct run r;
	double most = 0;
	int tenth = size.steps / 10 > 2 ? size.steps / 10 : 2;

	if (!wanted(name))
		return;
	const struct run *cpu = reference(s);

	run_open(&r, s, true);
	run_train(&r);
	for (int i = 0; i < size.steps; i++)
		if (!(fabs(r.losses[i] - cpu->losses[i]) <= most))
			most = fabs(r.losses[i] - cpu->losses[i]);
	double begin = mean(r.losses, tenth), end = mean(r.losses + size.steps - tenth, tenth);
	snprintf(detail, sizeof detail, "%d steps, loss %.4f to %.4f, updates skipped %lld", size.steps,
		 begin, end, (long long)r.result.skipped);
	report(name, what, most, s->act == DTYPE_F32 ? limit : limit * size.few, detail);
	/* All memory is planned before the first step. */
	if (r.grown != 0)
		report(name, "memory that grew, bytes", r.grown, 0, "");
	/* Numbers that agree because nothing is learned would say little. */
	if (r.result.skipped != cpu->result.skipped)
		report(name, "updates skipped", (double)r.result.skipped, (double)cpu->result.skipped, "");
	if (size.steps >= 100)
		report(name, "loss at the end", end, 0.95 * begin, "");
	run_close(&r);
}

static void check_trajectories(void)
{
	static const struct {
		const char *name;
		struct setup s;
		double limit;
	} all[] = {
		{"fp32, llama, nf4", {.act = DTYPE_F32}, 1e-4},
		{"bf16, llama, nf4", {.act = DTYPE_BF16}, 2e-3},
		{"bf16, llama, resident", {.act = DTYPE_BF16, .resident = true}, 2e-3},
		{"fp32, gemma, nf4", {.gemma = true, .act = DTYPE_F32}, 1e-4},
		{"bf16, gemma, nf4", {.gemma = true, .act = DTYPE_BF16}, 2e-3},
		{"bf16, gemma, resident", {.gemma = true, .act = DTYPE_BF16, .resident = true}, 2e-3},
		{"fp16, gemma, recipe codelab", {.gemma = true, .codelab = true, .act = DTYPE_F16}, 2e-3},
		{"fp16, gemma, codelab, resident",
		 {.gemma = true, .codelab = true, .act = DTYPE_F16, .resident = true},
		 2e-3},
		{"bf16, llama, double_quant", {.double_quant = true, .act = DTYPE_BF16}, 2e-3},
		{"bf16, gemma, method lora", {.gemma = true, .method = METHOD_LORA, .act = DTYPE_BF16}, 2e-3},
		{"fp32, llama, method full", {.method = METHOD_FULL, .act = DTYPE_F32}, 1e-4},
		/* Adam makes a whole step of the sign of a gradient that is nearly zero, and here every weight has one. */
		{"bf16, llama, method full", {.method = METHOD_FULL, .act = DTYPE_BF16}, 3e-2},
		{"fp32, llama, several passes", {.token_budget = -1, .act = DTYPE_F32}, 1e-4},
		{"bf16, llama, several passes", {.token_budget = -1, .act = DTYPE_BF16}, 2e-3},
	};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct setup s = all[i].s;

		if (s.token_budget) /* six rows a step, two or three of them a pass */
			s.token_budget = 2 * size.longest;
		check_trajectory(all[i].name, &s, all[i].limit);
	}
}

/* ---- the same bytes ---- */

/* What the run that is killed trains. */
static const struct setup killed = {.gemma = true, .act = DTYPE_BF16, .kill = true};

/* In a process of its own: trains, and is killed between two checkpoints. */
static _Noreturn void be_killed(void)
{
	struct run r;

	run_open(&r, &killed, true);
	r.kill_at = size.steps / 2 + 1;
	run_train(&r);
	exit(1);
}

/* Whether such a process was killed as it should be. */
static bool see_it_killed(void)
{
	extern char **environ;
	char name[] = "gpu_parity", how[] = "--killed", quick[] = "--quick";
	char *args[] = {name, how, dir, size.steps == quick_size.steps ? quick : NULL, NULL};
	pid_t child;
	int status;

	return posix_spawn(&child, "/proc/self/exe", NULL, NULL, args, environ) == 0 &&
	       waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void check_bytes(const char *name, const struct setup *s, bool stopped)
{
	struct run r;
	struct error err = ERROR_INIT;
	size_t n, n_again;

	if (!wanted(name))
		return;
	run_open(&r, s, true);
	run_train(&r);
	char *bytes = run_files(&r, &n);

	tree_remove(r.checkpoint, NULL);
	run_close(&r);
	if (stopped && !s->kill) {
		run_open(&r, s, true);
		r.stop_at = size.steps / 2 + 1;
		run_train(&r);
		if (!r.result.stopped)
			report(name, "was not stopped: steps", (double)r.result.steps, 0, "");
		run_close(&r);
	} else if (stopped && !see_it_killed()) {
		report(name, "was not killed", 1, 0, "");
	}
	run_open(&r, s, true);
	if (stopped)
		must(trainer_restore(r.trainer, r.checkpoint, &err), &err);
	run_train(&r);
	char *again = run_files(&r, &n_again);
	char detail[64];
	size_t differ = n != n_again;

	for (size_t i = 0; i < n && i < n_again; i++)
		differ += bytes[i] != again[i];
	snprintf(detail, sizeof detail, "%zu bytes", n);
	report(name, "bytes that differ", (double)differ, 0, detail);
	free(bytes);
	free(again);
	run_close(&r);
}

/* ---- decoding ---- */

struct answer {
	int n;
	int32_t ids[256];
};

static int take_id(int32_t id, void *arg)
{
	struct answer *a = arg;

	a->ids[a->n++] = id;
	return 0;
}

/* r's model and adapter continue the first tokens of some rows greedily, one after the other, or all side by side. */
#define PROMPTS 5

static void decode(struct run *r, bool together, struct answer answers[PROMPTS])
{
	struct sampling s = sampling_default();
	struct continuation c[PROMPTS];
	struct kv_cache *k;
	struct transformer *t;
	struct error err = ERROR_INIT;
	enum finish finish;

	s.max_tokens = size.answer;
	s.ignore_eos = true;
	memset(answers, 0, PROMPTS * sizeof *answers);
	must(transformer_new(r->model, trainer_adapter(r->trainer), &t, &err), &err);
	must(kv_cache_new(r->device, &r->model->config, PROMPTS, 256, &k, &err), &err);
	for (int i = 0; i < PROMPTS; i++) {
		int n = 1 + i * (size.shortest - 1) / (PROMPTS - 1);

		if (together)
			must(continuation_begin(&c[i], t, k, i, rows[i].ids, n, &s, &err), &err);
		else
			must(generate(t, k, i, rows[i].ids, n, &s, take_id, &answers[i], &finish, &err),
			     &err);
	}
	for (bool more = together; more;) {
		struct decode_item items[PROMPTS];
		int32_t chosen[PROMPTS];
		int of[PROMPTS], count = 0;

		more = false;
		for (int i = 0; i < PROMPTS; i++)
			if (answers[i].n < size.answer) {
				of[count] = i;
				items[count++] = continuation_feed(&c[i], 64);
			}
		must(transformer_decode(t, k, items, count, NULL, chosen, &err), &err);
		for (int i = 0; i < count; i++) {
			enum step step = continuation_take(&c[of[i]], &items[i], NULL, chosen[i]);

			if (step == STEP_TOKEN || step == STEP_LAST)
				take_id(c[of[i]].id, &answers[of[i]]);
			more = more || answers[of[i]].n < size.answer;
		}
	}
	kv_cache_free(k);
	transformer_free(t);
}

static int ids_that_differ(const struct answer *a, const struct answer *b)
{
	int differ = 0;

	for (int i = 0; i < PROMPTS; i++) {
		differ += abs(a[i].n - b[i].n);
		for (int k = 0; k < a[i].n && k < b[i].n; k++)
			differ += a[i].ids[k] != b[i].ids[k];
	}
	return differ;
}

static void check_decoding(bool gemma)
{
	static struct answer host[PROMPTS], alone[PROMPTS], together[PROMPTS];
	struct setup s = {.gemma = gemma, .act = DTYPE_F32};
	struct run cpu, r;
	char name[64], detail[64];
	float *params;

	snprintf(name, sizeof name, "fp32, %s, greedy decoding", gemma ? "gemma" : "llama");
	if (!wanted(name))
		return;
	run_open(&cpu, &s, false);
	run_train(&cpu);
	run_open(&r, &s, true);
	/* The CPU's adapter, so that only decoding is compared. */
	const struct lora_set *from = trainer_adapter(cpu.trainer);
	struct error err = ERROR_INIT;

	params = xmalloc(from->count * sizeof *params);
	must(lora_set_read(from, params, &err), &err);
	lora_set_write(trainer_adapter(r.trainer), params);
	free(params);
	decode(&cpu, false, host);
	decode(&r, false, alone);
	decode(&r, true, together);
	snprintf(detail, sizeof detail, "%d prompts, %d tokens each", PROMPTS, size.answer);
	report(name, "tokens unlike the CPU's", ids_that_differ(host, alone), 0, detail);
	report(name, "tokens unlike alone", ids_that_differ(alone, together), 0, "side by side in one pass");
	run_close(&cpu);
	run_close(&r);
}

int main(int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct device_info info;
	const char *tmp = getenv("TMPDIR");
	double start = clock_mono();
	const char *in = NULL;
	bool quick = false;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--quick") == 0) {
			quick = true;
		} else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
			only = argv[++i];
		} else if (strcmp(argv[i], "--killed") == 0 && i + 1 < argc) { /* see_it_killed */
			in = argv[++i];
		} else {
			fprintf(stderr, "usage: gpu_parity [--quick] [--only TEXT]\n");
			return 2;
		}
	}
	size = quick ? quick_size : full_size;
	if (device_cuda_count(&err) == 0) {
		bool required = getenv("ANNEAL_REQUIRE_CUDA");

		printf("%s: %s\n", required ? "FAIL  a GPU is required" : "skipped", err.message);
		return required ? 1 : 77;
	}
	if (in) {
		snprintf(dir, sizeof dir, "%s", in);
		make_rows();
		be_killed();
	}
	must(device_cuda_info(0, &info, &err), &err);
	printf("on %s (%d.%d)\n", info.name, info.major, info.minor);
	snprintf(dir, sizeof dir, "%s/anneal_parity_XXXXXX", tmp && *tmp && strlen(tmp) < 200 ? tmp : "/tmp");
	if (!mkdtemp(dir)) {
		fprintf(stderr, "gpu_parity: no temporary directory at %s\n", dir);
		return 4;
	}
	write_model(false);
	write_model(true);
	make_rows();
	check_trajectories();
	check_bytes("bf16, nf4, two runs", &(struct setup){.gemma = true, .act = DTYPE_BF16}, false);
	check_bytes("bf16, resident, two runs", &(struct setup){.act = DTYPE_BF16, .resident = true}, false);
	check_bytes("fp16, codelab, two runs",
		    &(struct setup){.gemma = true, .codelab = true, .act = DTYPE_F16}, false);
	check_bytes("bf16, method full, two runs", &(struct setup){.method = METHOD_FULL, .act = DTYPE_BF16},
		    false);
	check_bytes("bf16, stopped and resumed", &(struct setup){.gemma = true, .act = DTYPE_BF16}, true);
	check_bytes("fp16, stopped and resumed",
		    &(struct setup){.gemma = true, .codelab = true, .act = DTYPE_F16}, true);
	check_bytes("fp32, full, stopped and resumed",
		    &(struct setup){.method = METHOD_FULL, .act = DTYPE_F32}, true);
	check_bytes("bf16, killed and resumed", &killed, true);
	check_bytes("bf16, several passes, resumed",
		    &(struct setup){.act = DTYPE_BF16, .resident = true, .token_budget = 2 * size.longest},
		    true);
	check_decoding(false);
	check_decoding(true);
	tree_remove(dir, NULL);
	printf("%d of %d checks failed, %.1f s\n", failures, checks, clock_mono() - start);
	return failures ? 1 : 0;
}
