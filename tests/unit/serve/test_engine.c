/* serve/engine: many answers at a time. Every pass of its thread goes through a gate here, where it is counted, held, or
 * made to fail. */
#include "tests/unit/cmocka_all.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "model/transformer.h"
#include "serve/engine.h"

#define MODEL  SHARED_DATA "stories260K"
#define PASSES 4096

/* ---- the gate ---- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int passes, limit;  /* begun; more have to wait */
	int failing;        /* the pass that fails; 0: none */
	int items[PASSES];  /* of each pass */
	int tokens[PASSES]; /* of its items of more than one token */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int __real_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err);
int __wrap_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err);

int __wrap_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err)
{
	pthread_mutex_lock(&gate.lock);
	while (gate.passes >= gate.limit)
		pthread_cond_wait(&gate.changed, &gate.lock);
	int pass = gate.passes++;

	gate.items[pass % PASSES] = count;
	gate.tokens[pass % PASSES] = 0;
	for (int i = 0; i < count; i++)
		gate.tokens[pass % PASSES] += items[i].n > 1 ? items[i].n : 0;
	bool fails = gate.failing == pass + 1;

	pthread_mutex_unlock(&gate.lock);
	if (fails)
		return error_set(err, ERR_INFRA, "the device fell off the bus");
	return __real_transformer_decode(t, k, items, count, logits, chosen, err);
}

/* Lets so many more passes begin. */
static void gate_open(int passes)
{
	pthread_mutex_lock(&gate.lock);
	gate.limit = gate.passes + passes;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static void gate_reset(int limit)
{
	pthread_mutex_lock(&gate.lock);
	gate.passes = gate.failing = 0;
	gate.limit = limit;
	pthread_mutex_unlock(&gate.lock);
}

static int most_of(const int list[PASSES])
{
	int most = 0;

	pthread_mutex_lock(&gate.lock);
	assert_true(gate.passes <= PASSES);
	for (int i = 0; i < gate.passes; i++)
		most = list[i] > most ? list[i] : most;
	pthread_mutex_unlock(&gate.lock);
	return most;
}

/* ---- asking ---- */

struct prompt {
	const char *text;
	int repeat; /* the text so many times */
	int max_tokens;
	float temperature;
	uint64_t seed;
	const char *stop;
};

static const struct prompt prompts[] = {
	{"Once upon a time", 1, 40, 0, 0, NULL},
	{"", 1, 25, 0, 0, NULL},
	{"The dog", 1, 60, 1, 7, NULL},
	{"The dog", 1, 60, 1, 8, NULL},
	{"Lily and Ben went to the park. ", 5, 30, 0, 0, NULL},
	{"One day, ", 1, 1, 0, 0, NULL},
	{"Once upon a time", 1, 80, 0, 0, ". "},
	{"It was", 1, 50, 0.7f, 3, "."},
	{"Tom", 1, 200, 0, 0, NULL},
	{"She said", 20, 45, 1.2f, 11, NULL},
	{"Once upon a time", 1, 40, 0, 0, NULL},
};
#define N (sizeof prompts / sizeof *prompts)

static struct engine *open_engine(const struct engine_options *with)
{
	struct error err = ERROR_INIT;
	struct engine_options o = *with;
	struct engine *e;

	o.model = MODEL;
	if (engine_open(&o, &e, &err))
		fail_msg("%s (%s)", err.message, err.hint);
	return e;
}

static int submit(struct engine *e, const struct prompt *p, struct job **out, struct error *err)
{
	struct token_ids ids = TOKEN_IDS_INIT;
	struct strbuf text = STRBUF_INIT;
	struct sampling s = sampling_default();

	strbuf_adds(&text, "");
	for (int i = 0; i < p->repeat; i++)
		strbuf_adds(&text, p->text);
	assert_int_equal(engine_encode(e, text.data ? text.data : "", text.len, &ids, err), 0);
	s.max_tokens = p->max_tokens;
	s.temperature = p->temperature;
	s.seed = p->seed;
	s.ignore_eos = p->max_tokens >= 400;
	struct job_request r = {ids.ids, ids.n, s, &p->stop, p->stop != NULL};
	int code = job_submit(e, &r, out, err);

	token_ids_free(&ids);
	strbuf_free(&text);
	return code;
}

static struct job *start(struct engine *e, const struct prompt *p)
{
	struct error err = ERROR_INIT;
	struct job *j;

	if (submit(e, p, &j, &err))
		fail_msg("%s", err.message);
	return j;
}

struct answer {
	struct strbuf text;
	enum job_state state;
	struct job_figures figures;
};

/* Waits for the end, 60 s at most, and releases the job. */
static struct answer finish(struct job *j)
{
	struct answer a = {.text = STRBUF_INIT};
	double until = clock_mono() + 60;
	size_t length = 0;

	strbuf_adds(&a.text, "");
	while (!job_finish_name(a.state = job_wait(j, &length, 100, &a.text)))
		assert_true(clock_mono() < until);
	job_figures(j, &a.figures);
	job_release(j);
	return a;
}

static void alone(struct answer out[N])
{
	const struct engine_options o = {.slots = 1};
	struct engine *e = open_engine(&o);

	gate_reset(INT32_MAX);
	for (size_t i = 0; i < N; i++)
		out[i] = finish(start(e, &prompts[i]));
	engine_close(e);
	assert_int_equal(most_of(gate.items), 1);
}

static void assert_same(const struct answer *a, const struct answer *b)
{
	assert_int_equal(a->state, b->state);
	assert_int_equal(a->text.len, b->text.len);
	assert_memory_equal(a->text.data ? a->text.data : "", b->text.data ? b->text.data : "", a->text.len);
	assert_int_equal(a->figures.tokens, b->figures.tokens);
	assert_int_equal(a->figures.prompt_tokens, b->figures.prompt_tokens);
}

static void answers_free(struct answer a[N])
{
	for (size_t i = 0; i < N; i++)
		strbuf_free(&a[i].text);
}

#define NEED_MODEL()                                                                                         \
	do {                                                                                                 \
		(void)state;                                                                                 \
		SKIP_WITHOUT(MODEL "/config.json");                                                          \
	} while (0)

/* ---- the tests ---- */

static void jobs_at_a_time_answer_as_each_alone(void **state)
{
	struct answer want[N], got[N];
	struct job *jobs[N];

	NEED_MODEL();
	alone(want);
	/* More slots than jobs, as many as in a hurry, and fewer. */
	for (int slots = 16; slots >= 2; slots = slots == 16 ? 3 : slots - 1) {
		const struct engine_options o = {.slots = slots};
		struct engine *e = open_engine(&o);

		gate_reset(0);
		for (size_t i = 0; i < N; i++)
			jobs[i] = start(e, &prompts[i]);
		gate_open(INT32_MAX / 2);
		for (size_t i = 0; i < N; i++) {
			got[i] = finish(jobs[i]);
			assert_same(&got[i], &want[i]);
			assert_true(got[i].figures.started <= got[i].figures.first_token);
			assert_true(got[i].figures.first_token <= got[i].figures.total);
		}
		answers_free(got);
		int most = most_of(gate.items);
		assert_true(most > 1 && most <= slots);
		engine_close(e);
	}
	answers_free(want);
}

static void a_long_prompt_comes_in_pieces_and_says_the_same(void **state)
{
	struct answer want[N], got[N];
	struct job *jobs[N];

	NEED_MODEL();
	alone(want);
	for (int pieces = 1; pieces <= 10; pieces += 9) {
		const struct engine_options o = {.slots = 4, .prompt_tokens = pieces};
		struct engine *e = open_engine(&o);

		gate_reset(0);
		for (size_t i = 0; i < N; i++)
			jobs[i] = start(e, &prompts[i]);
		gate_open(INT32_MAX / 2);
		for (size_t i = 0; i < N; i++) {
			got[i] = finish(jobs[i]);
			assert_same(&got[i], &want[i]);
		}
		assert_int_equal(most_of(gate.tokens), pieces == 1 ? 0 : pieces);
		answers_free(got);
		engine_close(e);
	}
	answers_free(want);
}

static void a_short_answer_does_not_wait_for_a_long_one(void **state)
{
	static const struct prompt endless = {"Once", 1, 400, 1, 5, NULL},
				   brief = {"The dog", 1, 4, 0, 0, NULL};
	const struct engine_options o = {.slots = 2};
	struct strbuf text = STRBUF_INIT;
	size_t length = 0;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	gate_reset(10);
	struct job *one = start(e, &endless);

	while (job_wait(one, &length, 100, &text) != JOB_RUNNING || text.len == 0)
		;
	struct job *two = start(e, &brief);

	/* It may miss the pass that is being put together; then come its prompt and three more tokens. */
	gate_open(16);
	struct answer a = finish(two);

	assert_int_equal(a.state, JOB_LENGTH);
	assert_int_equal(a.figures.tokens, 4);
	length = 0;
	assert_int_equal(job_wait(one, &length, 0, &text), JOB_RUNNING);
	strbuf_free(&a.text);
	gate_open(INT32_MAX / 2);
	a = finish(one);
	strbuf_free(&a.text);
	strbuf_free(&text);
	engine_close(e);
}

static void one_that_is_cancelled_leaves_the_others_alone(void **state)
{
	static const struct prompt endless = {"Once", 1, 400, 1, 5, NULL};
	const struct engine_options o = {.slots = 3};
	struct answer want[N], got[N];
	struct job *jobs[N], *given_up[2], *waiting;
	size_t length = 0;

	NEED_MODEL();
	alone(want);
	struct engine *e = open_engine(&o);

	gate_reset(0);
	given_up[0] = start(e, &endless);
	jobs[0] = start(e, &prompts[0]);
	given_up[1] = start(e, &endless);
	for (size_t i = 1; i < N; i++)
		jobs[i] = start(e, &prompts[i]);
	waiting = start(e, &endless);
	gate_open(12);
	struct strbuf text = STRBUF_INIT;

	while (job_wait(given_up[1], &length, 100, &text) != JOB_RUNNING || text.len == 0)
		;
	job_cancel(given_up[1]);
	job_cancel(waiting);
	job_release(given_up[0]); /* nobody holds it but the engine */
	gate_open(INT32_MAX / 2);
	for (size_t i = 0; i < N; i++) {
		got[i] = finish(jobs[i]);
		assert_same(&got[i], &want[i]);
	}
	struct answer a = finish(given_up[1]);

	assert_int_equal(a.state, JOB_CANCELLED);
	assert_true(a.figures.tokens > 0 && a.figures.tokens <= 13);
	strbuf_free(&a.text);
	a = finish(waiting);
	assert_int_equal(a.state, JOB_CANCELLED);
	assert_int_equal(a.figures.tokens, 0);
	strbuf_free(&a.text);
	strbuf_free(&text);
	answers_free(got);
	answers_free(want);
	engine_close(e);
}

static void one_that_fails_leaves_the_others_alone(void **state)
{
	static const struct prompt wrong = {"Once", 1, 0, 0, 0, NULL};
	const struct engine_options o = {.slots = 3};
	struct answer a, b;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	gate_reset(0);
	struct job *one = start(e, &prompts[0]), *bad = start(e, &wrong), *two = start(e, &prompts[0]);
	size_t length = 0;
	struct strbuf text = STRBUF_INIT;

	gate_open(INT32_MAX / 2);
	a = finish(one);
	b = finish(two);
	assert_same(&a, &b);
	assert_int_equal(a.state, JOB_LENGTH);
	assert_int_equal(job_wait(bad, &length, 10000, &text), JOB_FAILED);
	assert_string_equal(job_error(bad)->message, "max_tokens is 0, at least 1 is needed");
	job_release(bad);
	assert_true(engine_alive(e));
	strbuf_free(&a.text);
	strbuf_free(&b.text);
	strbuf_free(&text);
	engine_close(e);
}

static void a_device_that_fails_ends_all_jobs_with_its_error(void **state)
{
	const struct engine_options o = {.slots = 2};
	struct error err = ERROR_INIT;
	struct strbuf text = STRBUF_INIT;
	struct job *jobs[4], *late;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	gate_reset(0);
	gate.failing = 5;
	for (size_t i = 0; i < 4; i++)
		jobs[i] = start(e, &prompts[0]);
	gate_open(INT32_MAX / 2);
	for (size_t i = 0; i < 4; i++) {
		double until = clock_mono() + 60;
		size_t length = 0;
		enum job_state ended;

		while (!job_finish_name(ended = job_wait(jobs[i], &length, 100, &text)))
			assert_true(clock_mono() < until);
		assert_int_equal(ended, JOB_FAILED);
		assert_int_equal(job_error(jobs[i])->class, ERR_INFRA);
		assert_string_equal(job_error(jobs[i])->message, "the device fell off the bus");
		job_release(jobs[i]);
	}
	assert_false(engine_alive(e));
	assert_int_equal(submit(e, &prompts[0], &late, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_string_equal(err.message, "the device fell off the bus");
	strbuf_free(&text);
	engine_close(e);
}

static void as_many_wait_as_the_queue_takes(void **state)
{
	const struct engine_options o = {.slots = 2, .queue = 3};
	struct error err = ERROR_INIT;
	struct job *jobs[5], *more;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	gate_reset(0);
	for (size_t i = 0; i < 5; i++)
		jobs[i] = start(e, &prompts[0]);
	assert_int_equal(submit(e, &prompts[0], &more, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_string_equal(err.message, "3 prompts are waiting already");
	job_cancel(jobs[4]);
	assert_int_equal(submit(e, &prompts[0], &more, &err), 0);
	job_release(more);
	gate_open(INT32_MAX / 2);
	for (size_t i = 0; i < 5; i++) {
		struct answer a = finish(jobs[i]);
		assert_int_equal(a.state, i < 4 ? JOB_LENGTH : JOB_CANCELLED);
		strbuf_free(&a.text);
	}
	engine_close(e);
}

static void an_engine_that_stops_fails_what_runs_and_what_waits(void **state)
{
	const struct engine_options o = {.slots = 2};
	struct error err = ERROR_INIT;
	struct job *jobs[4], *late;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	gate_reset(INT32_MAX);
	static const struct prompt endless = {"Once", 1, 400, 1, 5, NULL};

	for (size_t i = 0; i < 4; i++)
		jobs[i] = start(e, &endless);
	engine_stop(e);
	for (size_t i = 0; i < 4; i++) {
		struct strbuf text = STRBUF_INIT;
		size_t length = 0;

		/* A stop may come behind the end. */
		if (job_wait(jobs[i], &length, 0, &text) != JOB_LENGTH)
			assert_int_equal(job_error(jobs[i])->class, ERR_INTERRUPTED);
		job_release(jobs[i]);
		strbuf_free(&text);
	}
	assert_false(engine_alive(e));
	assert_int_equal(submit(e, &endless, &late, &err), -1);
	assert_int_equal(err.class, ERR_INTERRUPTED);
	engine_close(e);
}

static void options_that_no_engine_takes_are_told(void **state)
{
	static const struct {
		struct engine_options o;
		const char *message, *hint;
	} cases[] = {
		{{.device = "gpu"}, "device \"gpu\": it takes auto, cpu or cuda", ""},
		{{.precision = "fp8"}, "precision \"fp8\": it takes auto, fp32, bf16 or fp16", ""},
		{{.weights = "int8"}, "weights \"int8\": it takes stored or nf4", ""},
		{{.slots = -1}, "slots -1: it takes 1 or more", ""},
		{{.device = "cpu", .precision = "bf16"},
		 "precision bf16 needs a GPU",
		 "the CPU computes in fp32"},
		{{.device = "cpu", .slots = 3000, .context = 16},
		 "3000 sequences at once",
		 "fewer slots than 3000"},
		{{.device = "cpu", .slots = 2000000000}, "too large", "a smaller context than 512 tokens"},
		{{.device = "cpu", .context = 513}, "a context of 513 tokens", ""},
	};

	NEED_MODEL();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = ERROR_INIT;
		struct engine_options o = cases[i].o;
		struct engine *e;

		o.model = MODEL;
		assert_int_equal(engine_open(&o, &e, &err), -1);
		assert_int_equal(err.class, ERR_USAGE);
		if (!strstr(err.message, cases[i].message) || !strstr(err.hint, cases[i].hint))
			fail_msg("%s (%s)", err.message, err.hint);
	}
}

static void quantised_weights_answer_too(void **state)
{
	const struct engine_options o = {.device = "cpu", .weights = "nf4", .slots = 2};
	struct answer a;

	NEED_MODEL();
	struct engine *e = open_engine(&o);

	assert_string_equal(engine_device_text(e), "on the CPU in fp32");
	gate_reset(INT32_MAX);
	a = finish(start(e, &prompts[0]));
	assert_int_equal(a.state, JOB_LENGTH);
	assert_int_equal(a.figures.tokens, 40);
	strbuf_free(&a.text);
	engine_close(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jobs_at_a_time_answer_as_each_alone),
		cmocka_unit_test(a_long_prompt_comes_in_pieces_and_says_the_same),
		cmocka_unit_test(a_short_answer_does_not_wait_for_a_long_one),
		cmocka_unit_test(one_that_is_cancelled_leaves_the_others_alone),
		cmocka_unit_test(one_that_fails_leaves_the_others_alone),
		cmocka_unit_test(a_device_that_fails_ends_all_jobs_with_its_error),
		cmocka_unit_test(as_many_wait_as_the_queue_takes),
		cmocka_unit_test(an_engine_that_stops_fails_what_runs_and_what_waits),
		cmocka_unit_test(options_that_no_engine_takes_are_told),
		cmocka_unit_test(quantised_weights_answer_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
