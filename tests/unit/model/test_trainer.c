/* Training against float64 runs of PyTorch (tests/reference/train_reference.py), checkpoints against runs without
 * interruption. */
#include "tests/unit/cmocka_all.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "tests/unit/model/train_rows.h"

#define GOLDEN "tests/golden/train_stories260K.json"

static struct error err;

static void check(int failed)
{
	if (failed)
		fail_msg("%s", err.message);
}

struct log {
	double loss[64], grad_norm[64], rate[64], epoch[64];
	int n;
};

static void keep(const struct train_metrics *m, void *arg)
{
	struct log *l = arg;

	assert_int_equal(m->step, l->n + 1);
	assert_true(m->tokens_per_second > 0);
	l->loss[l->n] = m->loss;
	l->grad_norm[l->n] = m->grad_norm;
	l->rate[l->n] = m->learning_rate;
	l->epoch[l->n++] = m->epoch;
}

static struct trainer_options plain(enum recipe recipe, enum train_method method)
{
	struct trainer_options o = trainer_options_default(recipe);

	o.method = method;
	o.lora_dropout = 0;
	o.logging_steps = 1;
	return o;
}

static struct model *stories(const struct trainer_options *o)
{
	struct model_options mo = trainer_model_options(o, false);
	struct model *m;

	check(model_open(STORIES, &mo, NULL, NULL, &m, &err));
	return m;
}

/* The run of the golden called name. */
static void compare(const struct trainer_options *o, const char *name)
{
	SKIP_WITHOUT(SQL_ROWS);
	SKIP_WITHOUT(STORIES "/model.safetensors");
	json_t *golden = json_read(GOLDEN, &err);
	assert_non_null(golden);
	size_t count = (size_t)json_integer_value(json_object_get(golden, "rows")), i;
	struct train_sequence rows[64];
	assert_int_equal(
		rows_load(rows, count, (int)json_integer_value(json_object_get(golden, "max_tokens"))),
		count);
	const json_t *run = NULL, *at;
	json_array_foreach(json_object_get(golden, "runs"), i, at)
	{
		if (strcmp(json_string_value(json_object_get(at, "name")), name) == 0)
			run = at;
	}
	assert_non_null(run);
	for (size_t r = 0; r < count && o->recipe == RECIPE_CODELAB; r++)
		rows[r].label_start = 0;
	for (size_t r = 0; r < count && o->method == METHOD_FULL; r++)
		assert_true(rows[r].label_start > 0);
	struct model *m = stories(o);
	struct trainer *t;
	struct log l = {.n = 0};
	struct train_result result;
	check(trainer_new(o, m, rows, count, &t, &err));
	check(trainer_run(t, &(struct trainer_callbacks){.metrics = keep, .arg = &l}, &result, &err));
	const json_t *loss = json_object_get(run, "loss");
	assert_int_equal(l.n, json_array_size(loss));
	double total = 0, worst = 0, worst_norm = 0;
	for (int k = 0; k < l.n; k++) {
		double want = json_number_value(json_array_get(loss, (size_t)k));
		double norm = json_number_value(json_array_get(json_object_get(run, "grad_norm"), (size_t)k));
		double rate = json_real_value(
			json_array_get(json_object_get(run, "learning_rate"), (size_t)k));
		worst = fmax(worst, fabs(l.loss[k] - want));
		worst_norm = fmax(worst_norm, fabs(l.grad_norm[k] - norm) / norm);
		assert_true(fabs(l.rate[k] - rate) <= 1e-12);
		total += l.loss[k];
	}
	print_message("%s: loss differs by at most %.1e, gradient norm by %.1e of it\n", name, worst,
		      worst_norm);
	assert_true(worst < 1e-4);
	assert_true(worst_norm < 2e-3);
	assert_true(fabs(result.loss - total / l.n) < 1e-9);
	assert_true(l.loss[l.n - 1] < 0.7 * l.loss[0]);
	trainer_free(t);
	model_free(m);
	rows_free(rows, count);
	json_decref(golden);
}

static void the_codelab_recipe_trains_adapters_as_pytorch_does(void **state)
{
	(void)state;
	struct trainer_options o = plain(RECIPE_CODELAB, METHOD_LORA);

	o.learning_rate = 1e-2;
	o.epochs = 2; /* of 5 steps by count; the first one takes 6, its last row alone */
	compare(&o, "codelab");
}

static void the_default_recipe_trains_adapters_on_completions_over_two_epochs(void **state)
{
	(void)state;
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA);

	o.learning_rate = 5e-3;
	o.weight_decay = 0.01;
	o.max_grad_norm = 0;
	o.grad_accumulation = 4;
	o.epochs = 2;
	o.schedule = SCHEDULE_LINEAR;
	o.warmup_ratio = 0.1;
	o.seed = 7;
	for (int p = 0; p < PROJ_COUNT; p++)
		o.target[p] = true;
	compare(&o, "default");
}

static void every_weight_is_trained_as_pytorch_does(void **state)
{
	(void)state;
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_FULL);

	o.learning_rate = 1e-3;
	o.weight_decay = 0.01;
	o.max_grad_norm = 1;
	o.grad_accumulation = 3;
	o.warmup_ratio = 0.1;
	o.seed = 1;
	compare(&o, "full");
}

/* ---- small runs on 12 real rows ---- */

#define SMALL 12

struct run {
	struct model *m;
	struct trainer *t;
	struct train_sequence rows[SMALL];
};

static void run_begin(struct run *r, const struct trainer_options *o)
{
	assert_int_equal(rows_load(r->rows, SMALL, 26), SMALL);
	for (int i = 0; i < SMALL; i++) {
		r->rows[i].n -= 5 * (i % 4); /* lengths differ */
		r->rows[i].label_start = 2 + i / 2;
	}
	r->m = stories(o);
	check(trainer_new(o, r->m, r->rows, SMALL, &r->t, &err));
}

static void run_end(struct run *r)
{
	trainer_free(r->t);
	model_free(r->m);
	rows_free(r->rows, SMALL);
}

static char *adapter_bytes(struct run *r, const struct trainer_options *o, const char *dir, size_t *n)
{
	if (o->method == METHOD_FULL)
		check(adapter_write_full(dir, r->m, "stories", &err));
	else
		check(adapter_write(dir, trainer_adapter(r->t), "stories", o->lora_dropout, &err));
	char *path = path_join(dir, o->method == METHOD_FULL ? ADAPTER_FULL : ADAPTER_WEIGHTS);
	char *bytes = file_read(path, n, &err);
	free(path);
	assert_non_null(bytes);
	return bytes;
}

struct stop {
	int64_t at;
	const char *path;
	struct log log;
	double loss; /* the last metrics' */
};

static bool stop_at(void *arg)
{
	struct stop *s = arg;

	return --s->at == 0;
}

static int save(struct trainer *t, int64_t step, void *arg, struct error *e)
{
	(void)step;
	return trainer_save(t, ((struct stop *)arg)->path, e);
}

static void last_loss(const struct train_metrics *m, void *arg)
{
	((struct stop *)arg)->loss = m->loss;
}

static void resume_everywhere(const struct trainer_options *o)
{
	char dir[] = "/tmp/anneal-trainer-XXXXXX";
	struct run r;
	struct train_result whole, part;
	size_t n, k;

	assert_non_null(mkdtemp(dir));
	char *path = path_join(dir, "checkpoint");
	struct stop s = {.at = -1, .path = path};
	struct trainer_callbacks cb = {
		.metrics = last_loss, .should_stop = stop_at, .checkpoint = save, .arg = &s};
	run_begin(&r, o);
	check(trainer_run(r.t, &cb, &whole, &err));
	int64_t steps = trainer_steps(r.t);
	double loss = s.loss;
	char *want = adapter_bytes(&r, o, dir, &n);
	run_end(&r);
	assert_false(whole.stopped);
	for (int64_t at = 1; at < steps; at++) {
		s.at = at;
		run_begin(&r, o);
		check(trainer_run(r.t, &cb, &part, &err));
		assert_true(part.stopped);
		assert_int_equal(part.steps, at);
		run_end(&r);
		s.at = -1;
		run_begin(&r, o);
		check(trainer_restore(r.t, path, &err));
		check(trainer_run(r.t, &cb, &part, &err));
		char *got = adapter_bytes(&r, o, dir, &k);
		assert_int_equal(k, n);
		assert_memory_equal(got, want, n);
		assert_true(part.loss == whole.loss && part.tokens == whole.tokens &&
			    part.steps == whole.steps);
		assert_true(s.loss == loss);
		free(got);
		run_end(&r);
	}
	free(want);
	free(path);
	check(tree_remove(dir, &err));
}

static void a_stopped_run_ends_with_the_same_bytes_wherever_it_stopped(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_CODELAB, METHOD_QLORA);

	o.epochs = 1.5; /* 4 steps each: stops inside and between epochs */
	o.grad_accumulation = 3;
	o.lora_dropout = 0.1;
	o.learning_rate = 1e-2;
	o.logging_steps = 4;
	resume_everywhere(&o);
}

static void a_stopped_full_run_resumes_too(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_FULL);

	o.sampler = SAMPLER_RANDOM;
	o.grad_accumulation = 5;
	o.epochs = 1.5;
	resume_everywhere(&o);
}

static void a_checkpoint_refuses_what_it_does_not_belong_to(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	char dir[] = "/tmp/anneal-trainer-XXXXXX";
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA), other = o;
	struct run r;
	size_t n;

	assert_non_null(mkdtemp(dir));
	char *path = path_join(dir, "checkpoint"), *again = path_join(dir, "again");
	run_begin(&r, &o);
	struct stop s = {.at = 3, .path = path};
	struct train_result result;
	check(trainer_run(r.t,
			  &(struct trainer_callbacks){.should_stop = stop_at, .checkpoint = save, .arg = &s},
			  &result, &err));
	check(trainer_save(r.t, again, &err));
	run_end(&r);
	char *bytes = file_read(path, &n, &err), *twin = file_read(again, NULL, &err);
	assert_memory_equal(bytes, twin, n); /* the same state, the same bytes */

	other.learning_rate = 3e-4;
	run_begin(&r, &other);
	assert_int_equal(trainer_restore(r.t, path, &err), -1);
	assert_non_null(strstr(err.message, "\"learning_rate 0.0002\" there, \"learning_rate 0.0003\" now"));
	run_end(&r);

	run_begin(&r, &o);
	((int32_t *)(uintptr_t)r.rows[3].ids)[5]++;
	assert_int_equal(trainer_restore(r.t, path, &err), -1);
	assert_non_null(strstr(err.message, "other rows"));
	run_end(&r);

	run_begin(&r, &o);
	/* One byte anywhere: an error or, in the padding of the header, the same state; never a crash. */
	for (size_t at = 0; at < n; at += at < 20000 ? 389 : 8191) {
		bytes[at] ^= 4;
		check(file_write_atomic(again, bytes, n, &err));
		bytes[at] ^= 4;
		assert_int_equal(trainer_restore(r.t, again, &err), -1);
	}
	for (size_t size = 0; size < n; size += 40009) {
		check(file_write_atomic(again, bytes, size, &err));
		assert_int_equal(trainer_restore(r.t, again, &err), -1);
	}
	check(trainer_restore(r.t, path, &err));
	run_end(&r);
	free(bytes);
	free(twin);
	free(path);
	free(again);
	check(tree_remove(dir, &err));
}

static void several_passes_give_the_numbers_of_one(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA);
	struct log l[2] = {{.n = 0}, {.n = 0}};
	struct run r;
	struct train_result result;

	o.grad_accumulation = 6;
	o.epochs = 3;
	o.learning_rate = 1e-2;
	o.lora_dropout = 0.2; /* its mask must not depend on the passes */
	for (int i = 0; i < 2; i++) {
		o.token_budget = i ? 50 : 0;
		run_begin(&r, &o);
		check(trainer_run(r.t, &(struct trainer_callbacks){.metrics = keep, .arg = &l[i]}, &result,
				  &err));
		run_end(&r);
	}
	assert_int_equal(l[0].n, 6);
	assert_int_equal(l[1].n, 6);
	for (int k = 0; k < 6; k++) {
		assert_true(fabs(l[0].loss[k] - l[1].loss[k]) < 2e-4);
		assert_true(fabs(l[0].grad_norm[k] - l[1].grad_norm[k]) < 1e-3 * l[0].grad_norm[k]);
	}
	assert_true(l[0].epoch[0] == 0.5 && l[0].epoch[5] == 3);
}

static int evaluate(struct trainer *t, int64_t step, void *arg, struct error *e)
{
	struct log *l = arg;
	struct train_sequence rows[SMALL];
	int64_t labelled;
	size_t n = rows_load(rows, 2, 200);

	(void)step;
	int failed = trainer_evaluate(t, rows, n, &l->loss[l->n++], &labelled, e);
	int64_t want = 0;
	for (size_t i = 0; i < n; i++)
		want += rows[i].n > rows[i].label_start ? rows[i].n - rows[i].label_start : 0;
	assert_int_equal(labelled, want);
	rows_free(rows, n);
	return failed;
}

static void evaluation_runs_when_asked_and_leaves_training_alone(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA);
	struct log l = {.n = 0};
	struct run r;
	struct train_result with, without;

	o.learning_rate = 1e-2;
	o.epochs = 2;
	o.evaluate_steps = 4;
	run_begin(&r, &o);
	check(trainer_run(r.t, &(struct trainer_callbacks){.evaluate = evaluate, .arg = &l}, &with, &err));
	run_end(&r);
	assert_int_equal(l.n, 3); /* 12 steps */
	assert_true(l.loss[2] < l.loss[0]);
	o.evaluate_steps = 0;
	run_begin(&r, &o);
	check(trainer_run(r.t, &(struct trainer_callbacks){0}, &without, &err));
	run_end(&r);
	assert_true(with.loss == without.loss);
	assert_int_equal(with.parameters, 5 * 8 * (64 + 64 + 64 + 32));
}

static void recipes_count_steps_differently(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_CODELAB, METHOD_LORA);
	struct run r;

	o.grad_accumulation = 5;
	run_begin(&r, &o);
	assert_int_equal(trainer_steps(r.t), 2);
	run_end(&r);
	o.grad_accumulation = 50;
	run_begin(&r, &o);
	assert_int_equal(trainer_steps(r.t), 1);
	run_end(&r);
	o.recipe = RECIPE_DEFAULT;
	o.grad_accumulation = 5;
	run_begin(&r, &o);
	assert_int_equal(trainer_steps(r.t), 3);
	run_end(&r);
	/* transformers' Trainer on 13 rows, 3 epochs: 18 steps over 34 rows; here 12 rows, 2.5 epochs of 2 steps (3 done). */
	o.recipe = RECIPE_CODELAB;
	o.epochs = 2.5;
	run_begin(&r, &o);
	assert_int_equal(trainer_steps(r.t), 5);
	struct train_result result;
	check(trainer_run(r.t, &(struct trainer_callbacks){0}, &result, &err));
	assert_int_equal(result.steps, 5);
	run_end(&r);
	o.max_steps = 7;
	run_begin(&r, &o);
	assert_int_equal(trainer_steps(r.t), 7);
	run_end(&r);
}

static void numbers_that_stop_being_finite_are_an_error_or_a_skipped_update(void **state)
{
	(void)state;
	SKIP_WITHOUT(SQL_ROWS);
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA);
	struct run r;
	struct train_result result;

	run_begin(&r, &o);
	trainer_adapter(r.t)->params[0] = NAN;
	assert_int_equal(trainer_run(r.t, &(struct trainer_callbacks){0}, &result, &err), -1);
	assert_int_equal(err.class, ERR_STAGE);
	assert_non_null(strstr(err.message, "step 1: the loss is"));
	run_end(&r);
	o.recipe = RECIPE_CODELAB;
	run_begin(&r, &o);
	trainer_adapter(r.t)->params[0] = NAN;
	check(trainer_run(r.t, &(struct trainer_callbacks){0}, &result, &err));
	assert_int_equal(result.skipped, 6);
	assert_int_equal(result.steps, 6);
	run_end(&r);
}

static void bad_options_and_rows_are_named(void **state)
{
	(void)state;
	SKIP_WITHOUT(STORIES "/model.safetensors");
	struct trainer_options o = plain(RECIPE_DEFAULT, METHOD_LORA), bad = o;
	struct model *m = stories(&o);
	int32_t ids[600] = {1, 2, 600};
	struct train_sequence row = {ids, 3, 0, 17};
	struct trainer *t;

	assert_int_equal(trainer_new(&o, m, &row, 1, &t, &err), -1);
	assert_non_null(strstr(err.message, "row 17 has token id 600, the model's vocabulary ends at 511"));
	ids[2] = 3;
	row.n = 600;
	assert_int_equal(trainer_new(&o, m, &row, 1, &t, &err), -1);
	assert_non_null(strstr(err.message, "row 17 has 600 tokens, the model takes 512"));
	row.n = 3;
	row.label_start = 3;
	assert_int_equal(trainer_new(&o, m, &row, 1, &t, &err), -1);
	assert_non_null(strstr(err.message, "not one of the 1 rows"));
	row.label_start = 0;
	assert_int_equal(trainer_new(&o, m, &row, 0, &t, &err), -1);
	bad.lora_dropout = 1;
	assert_int_equal(trainer_new(&bad, m, &row, 1, &t, &err), -1);
	assert_non_null(strstr(err.message, "lora_dropout is 1"));
	bad = o;
	bad.learning_rate = NAN;
	assert_int_equal(trainer_new(&bad, m, &row, 1, &t, &err), -1);
	bad = o;
	bad.batch_size = 65536;
	bad.grad_accumulation = 65536;
	assert_int_equal(trainer_new(&bad, m, &row, 1, &t, &err), -1);
	bad = o;
	bad.method = METHOD_FULL; /* the model is mapped, not writable */
	assert_int_equal(m->embed.dtype, DTYPE_F32);
	assert_int_equal(trainer_new(&bad, m, &row, 1, &t, &err), -1);
	assert_non_null(strstr(err.message, "WEIGHTS_F32"));
	model_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_codelab_recipe_trains_adapters_as_pytorch_does),
		cmocka_unit_test(the_default_recipe_trains_adapters_on_completions_over_two_epochs),
		cmocka_unit_test(every_weight_is_trained_as_pytorch_does),
		cmocka_unit_test(a_stopped_run_ends_with_the_same_bytes_wherever_it_stopped),
		cmocka_unit_test(a_stopped_full_run_resumes_too),
		cmocka_unit_test(a_checkpoint_refuses_what_it_does_not_belong_to),
		cmocka_unit_test(several_passes_give_the_numbers_of_one),
		cmocka_unit_test(evaluation_runs_when_asked_and_leaves_training_alone),
		cmocka_unit_test(recipes_count_steps_differently),
		cmocka_unit_test(numbers_that_stop_being_finite_are_an_error_or_a_skipped_update),
		cmocka_unit_test(bad_options_and_rows_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
