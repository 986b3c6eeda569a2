/* Who runs next. A stage goes from blocked (inputs missing) over fresh (is it cached after all?) to ready,
 * running and final; one loop waits for workers, leases, retries and the order to stop. */
#include "runtime/run_state.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define LEASE_PAUSE_MIN 0.02
#define LEASE_PAUSE_MAX 0.2
#define BACKOFF_DEFAULT 0.5
#define BACKOFF_MAX     30.0
#define LOOK_AT_STOP    0.2 /* seconds: a signal may come just before poll does */

/* ---- the heap of ready stages ---- */

static void heap_push(struct runner *r, uint32_t i)
{
	size_t at = r->nheap++;

	for (; at > 0 && r->position[r->heap[(at - 1) / 2]] > r->position[i]; at = (at - 1) / 2)
		r->heap[at] = r->heap[(at - 1) / 2];
	r->heap[at] = i;
	r->tasks[i].state = TASK_READY;
}

static uint32_t heap_pop(struct runner *r)
{
	uint32_t top = r->heap[0], last = r->heap[--r->nheap];
	size_t at = 0;

	for (;;) {
		size_t child = 2 * at + 1;
		if (child >= r->nheap)
			break;
		if (child + 1 < r->nheap && r->position[r->heap[child + 1]] < r->position[r->heap[child]])
			child++;
		if (r->position[r->heap[child]] >= r->position[last])
			break;
		r->heap[at] = r->heap[child];
		at = child;
	}
	r->heap[at] = last;
	return top;
}

static void put_to_sleep(struct runner *r, uint32_t i, double seconds)
{
	r->tasks[i].state = TASK_SLEEPING;
	r->tasks[i].wake = clock_mono() + seconds;
	r->sleepers[r->nsleepers++] = i;
}

/* ---- becoming final ---- */

static void drop_lease(struct runner *r, uint32_t i)
{
	struct task *t = &r->tasks[i];

	if (t->lease >= 0)
		lease_release(r->store, &r->plan->stages[i].key, t->lease);
	t->lease = -1;
}

/* Records and tells the end of stage i. text: its reason or error; result: when there is one. */
static void make_final(struct runner *r, uint32_t i, enum stage_status status, const char *text,
		       const struct result *result)
{
	struct task *t = &r->tasks[i];

	t->state = TASK_FINAL;
	t->record->status = status;
	r->open--;
	drop_lease(r, i);
	run_record_stage(r, i);
	run_emit(r, &(struct event){.type = EVENT_STAGE_FINISHED,
				    .stage = i,
				    .attempt = t->record->attempts,
				    .status = status,
				    .seconds = t->record->seconds,
				    .message = text,
				    .result = result});
}

static void succeed(struct runner *r, uint32_t i, enum stage_status status, const char *text)
{
	struct plan_stage *st = &r->plan->stages[i];

	st->state = PLAN_CACHED; /* from here on its outputs are known */
	make_final(r, i, status, text, &st->result);
	for (uint32_t k = r->consumers_of[i]; k < r->consumers_of[i + 1]; k++) {
		struct task *t = &r->tasks[r->consumers[k]];
		t->resolve = true;
		if (t->state == TASK_BLOCKED && --t->missing == 0)
			r->fresh[r->nfresh++] = r->consumers[k];
	}
}

/* Marks everything that follows from stage i, which did not end well. */
static void skip_consumers(struct runner *r, uint32_t i)
{
	const char *end = r->records[r->position[i]].status == STAGE_INTERRUPTED ? "was interrupted"
										 : "failed";
	const char *reason = arena_printf(&r->arena, "needs %s, which %s", r->graph->stages[i].name, end);
	uint32_t *stack = xmalloc((r->graph->nstages + 1) * sizeof *stack);
	size_t n = 0;

	stack[n++] = i;
	while (n > 0) {
		uint32_t from = stack[--n];
		for (uint32_t k = r->consumers_of[from]; k < r->consumers_of[from + 1]; k++) {
			uint32_t c = r->consumers[k];
			if (r->tasks[c].state != TASK_BLOCKED)
				continue;
			r->tasks[c].record->reason = reason;
			make_final(r, c, STAGE_SKIPPED, reason, NULL);
			stack[n++] = c;
		}
	}
	free(stack);
}

static void fail(struct runner *r, uint32_t i, const struct error *e)
{
	struct task *t = &r->tasks[i];
	bool interrupted = e->class == ERR_INTERRUPTED;

	if (r->first.class == ERR_NONE) {
		char place[160];
		snprintf(place, sizeof place, "stage \"%s\"", r->graph->stages[i].name);
		r->first = *e;
		if (!strstr(e->message, place)) /* errors of keys name attribute and stage themselves */
			error_context(&r->first, "%s", place);
	}
	t->record->error = *e->hint ? arena_printf(&r->arena, "%s (%s)", e->message, e->hint)
				    : arena_strdup(&r->arena, e->message);
	make_final(r, i, interrupted ? STAGE_INTERRUPTED : STAGE_FAILED, t->record->error, NULL);
	skip_consumers(r, i);
}

/* ---- starting ---- */

/* Computes the keys of stages whose inputs have become known. Some turn out to be cached (early cut-off),
 * which makes others known in turn. */
static void settle_fresh(struct runner *r)
{
	struct error e;

	while (r->nfresh > 0) {
		uint32_t i = r->fresh[--r->nfresh];
		const struct stage_node *n = &r->graph->stages[i];
		struct task *t = &r->tasks[i];
		struct plan_stage *st = &r->plan->stages[i];
		e = (struct error)ERROR_INIT;
		if (t->resolve) {
			struct digest *inputs = xmalloc((n->ninputs + 1) * sizeof *inputs);
			for (size_t k = 0; k < n->ninputs; k++)
				inputs[k] = r->plan->stages[n->inputs[k].stage]
						    .result.outputs[n->inputs[k].output]
						    .artifact.digest;
			int rc = plan_resolve(r->store, r->plan, i, inputs, &e);
			free(inputs);
			if (rc < 0) {
				fail(r, i, &e);
				continue;
			}
			t->record->has_key = true;
			t->record->key = st->key;
			t->record->reason = st->reason;
		}
		if (st->state == PLAN_CACHED)
			succeed(r, i, STAGE_CACHED, st->reason);
		else if (share_possible(r, n, &e) < 0)
			fail(r, i, &e);
		else
			heap_push(r, i);
	}
}

/* Whether a stage of this very run makes the same key now. */
static const char *twin(const struct runner *r, uint32_t i)
{
	for (size_t k = 0; k < r->nattempts; k++)
		if (digest_equal(&r->plan->stages[r->attempts[k]->stage].key, &r->plan->stages[i].key))
			return r->graph->stages[r->attempts[k]->stage].name;
	return NULL;
}

static void wait_for_lease(struct runner *r, uint32_t i)
{
	struct task *t = &r->tasks[i];

	if (!t->waiting) {
		const char *other = twin(r, i);
		const char *text = other ? arena_printf(&r->arena,
							"stage %s makes the same result now; waiting for it",
							other)
					 : "another run makes the same result now; waiting for it";
		t->waiting = true;
		t->pause = LEASE_PAUSE_MIN;
		run_emit(r, &(struct event){.type = EVENT_STAGE_WAITING, .stage = i, .message = text});
	}
	put_to_sleep(r, i, t->pause);
	t->pause = t->pause * 2 < LEASE_PAUSE_MAX ? t->pause * 2 : LEASE_PAUSE_MAX;
}

/* Deals with an attempt that failed: again, or final. */
static void after_failure(struct runner *r, uint32_t i, const struct error *e, bool final)
{
	const struct stage_node *n = &r->graph->stages[i];
	struct task *t = &r->tasks[i];
	double delay = r->options->backoff > 0 ? r->options->backoff : BACKOFF_DEFAULT;

	if (e->class == ERR_INFRA)
		final |= t->infra_failures++ >= INFRA_RETRIES;
	else
		final |= t->failures++ >= n->retries;
	if (final || r->stop > 0) {
		fail(r, i, e);
		return;
	}
	for (int k = 1; k < t->failures && delay < BACKOFF_MAX; k++)
		delay *= 2;
	for (int k = 1; k < t->infra_failures && delay < BACKOFF_MAX; k++)
		delay *= 4;
	if (delay > BACKOFF_MAX)
		delay = BACKOFF_MAX;
	run_emit(r, &(struct event){.type = EVENT_STAGE_RETRY,
				    .stage = i,
				    .attempt = t->record->attempts,
				    .message = e->message,
				    .seconds = delay});
	put_to_sleep(r, i, delay);
}

/* Starts a ready stage, unless somebody else makes its result or has just made it. */
static void start(struct runner *r, uint32_t i)
{
	struct task *t = &r->tasks[i];
	struct plan_stage *st = &r->plan->stages[i];
	struct error e = ERROR_INIT;

	if (t->lease < 0) {
		int got = lease_try(r->store, &st->key, &t->lease, &e);
		if (got < 0) {
			fail(r, i, &e);
			return;
		}
		if (got == 0) {
			t->lease = -1;
			wait_for_lease(r, i);
			return;
		}
		struct result made;
		enum result_state state = RESULT_NONE;
		if (!st->forced &&
		    result_find(r->store, &st->key, &r->plan->arena, false, &made, &state, &e) < 0) {
			fail(r, i, &e);
			return;
		}
		if (state == RESULT_PRESENT) {
			st->result = made;
			st->reason = t->record->reason = t->waiting ? "made while this run waited"
								    : "made by another run";
			succeed(r, i, STAGE_CACHED, st->reason);
			return;
		}
	}
	t->state = TASK_RUNNING;
	t->record->status = STAGE_RUNNING;
	t->record->attempts++;
	if (attempt_start(r, i, &e) < 0) {
		after_failure(r, i, &e, e.class != ERR_INFRA);
		return;
	}
	run_record_stage(r, i);
	run_emit(r, &(struct event){.type = EVENT_STAGE_STARTED,
				    .stage = i,
				    .attempt = t->record->attempts,
				    .message = st->reason});
}

/* In the plan's order; a stage that the machine cannot hold now lets smaller ones pass. */
static void start_ready(struct runner *r)
{
	uint32_t *aside = NULL;
	size_t n = 0, cap = 0;

	for (;;) {
		settle_fresh(r);
		if (r->stop > 0 || r->nheap == 0 || r->nattempts >= r->jobs)
			break;
		uint32_t i = heap_pop(r);
		if (share_fits(r, &r->graph->stages[i])) {
			start(r, i);
			continue;
		}
		grow(&aside, &cap, n + 1, sizeof *aside);
		aside[n++] = i;
	}
	while (n > 0)
		heap_push(r, aside[--n]);
	free(aside);
}

static void wake_sleepers(struct runner *r)
{
	double now = clock_mono();
	size_t kept = 0;

	for (size_t k = 0; k < r->nsleepers; k++) {
		uint32_t i = r->sleepers[k];
		if (r->tasks[i].wake <= now)
			heap_push(r, i);
		else
			r->sleepers[kept++] = i;
	}
	r->nsleepers = kept;
}

/* ---- ending ---- */

static void end_attempt(struct runner *r, size_t k)
{
	struct attempt *a = r->attempts[k];
	uint32_t i = (uint32_t)a->stage;
	struct task *t = &r->tasks[i];
	struct error e = ERROR_INIT;
	struct result result = {0};
	bool final;

	int rc = attempt_end(r, a, &result, &final, &e);
	r->attempts[k] = r->attempts[--r->nattempts];
	share_give_back(r, &a->share);
	grow(&r->ended, &r->ended_cap, r->nended + 1, sizeof *r->ended);
	r->ended[r->nended++] = a;
	if (rc == 0) {
		r->plan->stages[i].result = result;
		succeed(r, i, STAGE_DONE, r->plan->stages[i].reason);
		for (size_t s = 0; s < r->nsleepers; s++) /* one of them may wait for just this key */
			if (r->tasks[r->sleepers[s]].waiting)
				r->tasks[r->sleepers[s]].wake = 0;
		return;
	}
	t->record->status = STAGE_FAILED;
	after_failure(r, i, &e, final);
}

/* ---- stopping ---- */

static void heed_stop(struct runner *r)
{
	int asked = r->options->stop ? *r->options->stop : 0;

	if (asked <= r->stop)
		return;
	r->stop = asked;
	for (size_t k = 0; k < r->nattempts; k++) {
		r->attempts[k]->stopped = true;
		if (asked > 1)
			attempt_kill(r->attempts[k]);
		else
			attempt_ask_to_stop(r, r->attempts[k]);
	}
	r->nheap = r->nsleepers = r->nfresh = 0;
	for (size_t k = 0; k < r->graph->nstages; k++) {
		uint32_t i = r->graph->order[k];
		struct task *t = &r->tasks[i];
		if (t->state == TASK_FINAL || t->state == TASK_RUNNING)
			continue;
		r->was_stopped = true;
		t->record->reason = "the run was stopped before it";
		make_final(r, i, STAGE_SKIPPED, t->record->reason, NULL);
	}
}

static void heed_deadlines(struct runner *r)
{
	double now = clock_mono();

	for (size_t k = 0; k < r->nattempts; k++) {
		struct attempt *a = r->attempts[k];
		if (a->deadline > 0 && now >= a->deadline && a->kill_at <= 0) {
			a->timed_out = true;
			attempt_ask_to_stop(r, a);
		}
		if (a->kill_at > 0 && now >= a->kill_at)
			attempt_kill(a);
	}
}

/* ---- waiting ---- */

static int milliseconds_to_wait(const struct runner *r)
{
	double now = clock_mono(), until = now + LOOK_AT_STOP;

	for (size_t k = 0; k < r->nsleepers; k++)
		if (r->tasks[r->sleepers[k]].wake < until)
			until = r->tasks[r->sleepers[k]].wake;
	for (size_t k = 0; k < r->nattempts; k++) {
		const struct attempt *a = r->attempts[k];
		double due = a->kill_at > 0 ? a->kill_at : a->deadline;
		if (due > 0 && !a->killed && due < until)
			until = due;
	}
	return until <= now ? 0 : (int)((until - now) * 1000) + 1;
}

/* A worker may be gone while a process that it forked holds the control socket open: the end of file never
 * comes. */
static void end_silent(struct runner *r)
{
	for (size_t k = r->nattempts; k-- > 0;) {
		siginfo_t info = {0};
		if (waitid(P_PID, (id_t)r->attempts[k]->worker.pid, &info, WEXITED | WNOWAIT | WNOHANG) < 0 ||
		    info.si_pid == 0)
			continue;
		attempt_read_control(r, r->attempts[k]);
		end_attempt(r, k);
	}
}

static void wait_for_workers(struct runner *r, struct pollfd *fds)
{
	size_t n = r->nattempts;

	for (size_t k = 0; k < n; k++) {
		const struct worker *w = &r->attempts[k]->worker;
		fds[3 * k] = (struct pollfd){.fd = w->control, .events = POLLIN};
		fds[3 * k + 1] = (struct pollfd){.fd = w->out, .events = POLLIN};
		fds[3 * k + 2] = (struct pollfd){.fd = w->err, .events = POLLIN};
	}
	int ready = poll(fds, 3 * n, milliseconds_to_wait(r));
	if (ready == 0) {
		run_flush_history(r);
		end_silent(r);
	}
	if (ready <= 0)
		return;
	for (size_t k = n;
	     k-- > 0;) { /* backwards: an ended attempt's place is taken by one that was handled already */
		struct attempt *a = r->attempts[k];
		for (int which = 0; which < 2; which++) {
			int *fd = which ? &a->worker.err : &a->worker.out;
			if (fds[3 * k + 1 + (size_t)which].revents &&
			    !attempt_read_lines(r, a, which, (size_t)256 << 10)) {
				close(*fd);
				*fd = -1;
			}
		}
		if (fds[3 * k].revents && !attempt_read_control(r, a))
			end_attempt(r, k);
	}
}

void schedule_stages(struct runner *r)
{
	struct pollfd *fds = xmalloc((3 * r->jobs + 1) * sizeof *fds);

	for (;;) {
		heed_stop(r);
		wake_sleepers(r);
		start_ready(r);
		while (r->nended > 0)
			attempt_free(r, r->ended[--r->nended]);
		if (r->open == 0)
			break;
		heed_deadlines(r);
		wait_for_workers(r, fds);
		run_emit(r, &(struct event){.type = EVENT_TICK});
	}
	free(r->ended);
	free(fds);
}
