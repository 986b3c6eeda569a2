/* One run: plan, record, schedule, close. */
#include "runtime/run.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "runtime/run_state.h"

/* The status that a planned stage has when the run begins; PENDING when it is still open. */
static enum stage_status status_of(const struct plan_stage *st)
{
	if (st->state == PLAN_CACHED)
		return STAGE_CACHED;
	return st->state == PLAN_SKIP ? STAGE_SKIPPED : STAGE_PENDING;
}

static void fill_records(struct runner *r)
{
	const struct graph *g = r->graph;

	r->records = arena_calloc(&r->arena, g->nstages + 1, sizeof *r->records);
	r->position = arena_alloc(&r->arena, (g->nstages + 1) * sizeof *r->position);
	for (size_t k = 0; k < g->nstages; k++) {
		uint32_t i = g->order[k];
		const struct plan_stage *st = &r->plan->stages[i];
		r->position[i] = (uint32_t)k;
		r->records[k] = (struct run_stage){.name = g->stages[i].name,
						   .kind = g->stages[i].kind->name,
						   .status = status_of(st),
						   .reason = st->reason,
						   .has_key = st->has_key,
						   .key = st->key};
		r->open += r->records[k].status == STAGE_PENDING;
	}
}

static int begin(struct runner *r, const char *command, struct error *err)
{
	const struct graph *g = r->graph;
	struct run_param *params = arena_calloc(&r->arena, g->nparams + 1, sizeof *params);
	struct run_info info = {.pipeline = g->name,
				.file = g->source ? g->source->name : "",
				.status = RUN_RUNNING,
				.started_ms = clock_wall_ms(),
				.graph_text = g->source ? g->source->text : "",
				.command = command ? command : "",
				.params = params,
				.nparams = g->nparams,
				.stages = r->records,
				.nstages = g->nstages};

	for (size_t i = 0; i < g->nparams; i++)
		params[i] = (struct run_param){g->params[i].name, g->params[i].text, g->params[i].origin};
	if (run_begin(r->store, &info, err) < 0)
		return -1;
	r->id = info.id;
	return 0;
}

/* Tells of every stage that the plan has settled already. */
static void emit_settled(struct runner *r)
{
	if (!r->options->observe)
		return;
	for (size_t k = 0; k < r->graph->nstages; k++) {
		uint32_t i = r->graph->order[k];
		const struct plan_stage *st = &r->plan->stages[i];
		if (r->records[k].status == STAGE_PENDING)
			continue;
		const char *text = st->ignored ? arena_printf(&r->arena, "%s; ignored: %s", st->reason,
							      st->ignored)
					       : st->reason;
		run_emit(r, &(struct event){.type = EVENT_STAGE_FINISHED,
					    .stage = i,
					    .status = r->records[k].status,
					    .message = text,
					    .result = st->result.noutputs ? &st->result : NULL});
	}
}

/* Tasks, edges downwards, and the stages that can start. */
static void prepare_tasks(struct runner *r)
{
	const struct graph *g = r->graph;
	size_t n = g->nstages, edges = 0;

	r->tasks = arena_calloc(&r->arena, n + 1, sizeof *r->tasks);
	r->consumers_of = arena_calloc(&r->arena, n + 2, sizeof *r->consumers_of);
	r->fresh = arena_alloc(&r->arena, (n + 1) * sizeof *r->fresh);
	r->heap = arena_alloc(&r->arena, (n + 1) * sizeof *r->heap);
	r->sleepers = arena_alloc(&r->arena, (n + 1) * sizeof *r->sleepers);
	for (size_t i = 0; i < n; i++)
		for (size_t e = 0; e < g->stages[i].ninputs; e++, edges++)
			r->consumers_of[g->stages[i].inputs[e].stage + 2]++;
	for (size_t i = 2; i < n + 2; i++)
		r->consumers_of[i] += r->consumers_of[i - 1];
	r->consumers = arena_alloc(&r->arena, (edges + 1) * sizeof *r->consumers);
	for (uint32_t i = 0; i < n; i++) {
		struct task *t = &r->tasks[i];
		t->record = &r->records[r->position[i]];
		t->lease = -1;
		t->state = t->record->status == STAGE_PENDING ? TASK_BLOCKED : TASK_FINAL;
		t->resolve = !r->plan->stages[i].has_key;
		for (size_t e = 0; e < g->stages[i].ninputs; e++) {
			uint32_t above = g->stages[i].inputs[e].stage;
			r->consumers[r->consumers_of[above + 1]++] = i;
			t->missing += r->records[r->position[above]].status == STAGE_PENDING;
		}
	}
	for (size_t k = n; k-- > 0;) {
		uint32_t i = g->order[k];
		if (r->tasks[i].state == TASK_BLOCKED && r->tasks[i].missing == 0)
			r->fresh[r->nfresh++] = i;
	}
	machine_measure(r);
	r->attempts = arena_alloc(&r->arena, (r->jobs + 1) * sizeof(struct attempt *));
	r->spare = arena_alloc(&r->arena, (r->jobs + 1) * sizeof(char *));
}

/* The exit code, and in err the failure that decides it. */
static int conclude(struct runner *r, enum run_status *status, struct error *err)
{
	if (r->first.class == ERR_NONE && r->was_stopped)
		error_set(&r->first, ERR_INTERRUPTED, "the run was stopped");
	if (r->first.class == ERR_INTERRUPTED && !*r->first.hint)
		error_hint(&r->first, "run the same command again: it goes on where this run was");
	if (r->first.class == ERR_NONE && r->unrecorded.class != ERR_NONE) {
		r->first = r->unrecorded;
		r->first.class = ERR_INFRA;
		error_context(&r->first, "the stages ran, but the history could not be written");
	}
	*status = RUN_DONE;
	if (r->first.class != ERR_NONE)
		*status = r->first.class == ERR_INTERRUPTED ? RUN_INTERRUPTED : RUN_FAILED;
	if (err && r->first.class != ERR_NONE)
		*err = r->first;
	return (int)r->first.class;
}

int run_graph(struct store *s, const struct graph *g, const struct run_options *o, int64_t *run_id,
	      struct error *err)
{
	struct runner r = {.store = s, .graph = g, .options = o};
	struct error local = ERROR_INIT, ended = ERROR_INIT;
	double started = clock_mono();
	enum run_status status;

	if (!err)
		err = &local;
	if (plan_make(s, g, &o->plan, &r.plan, err) < 0)
		return (int)err->class;
	fill_records(&r);
	if (begin(&r, o->command, err) < 0) {
		arena_free(&r.arena);
		plan_free(r.plan);
		return (int)err->class;
	}
	if (run_id)
		*run_id = r.id;
	run_emit(&r, &(struct event){.type = EVENT_RUN_STARTED});
	emit_settled(&r);
	if (r.open > 0) {
		prepare_tasks(&r);
		schedule_stages(&r);
		while (r.nspare > 0)
			free(r.spare[--r.nspare]);
		if (r.staging)
			store_staging_drop(
				s, r.staging,
				NULL); /* what stays is cleared away when the store is opened next */
		free(r.devices);
	}
	int code = conclude(&r, &status, err);
	if (run_end(s, r.id, status, code, &ended) < 0 && code == 0) {
		run_unrecorded(&r, &ended);
		code = conclude(&r, &status, err);
	}
	run_emit(&r, &(struct event){.type = EVENT_RUN_FINISHED,
				     .run_status = status,
				     .exit_code = code,
				     .seconds = clock_mono() - started});
	arena_free(&r.arena);
	plan_free(r.plan);
	return code;
}
