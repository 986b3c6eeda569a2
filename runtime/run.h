/* Executing a plan: worker processes, parallel stages, retries, timeouts, stopping. */
#ifndef RUNTIME_RUN_H
#define RUNTIME_RUN_H

#include "runtime/plan.h"

enum event_type {
	EVENT_RUN_STARTED,    /* run */
	EVENT_STAGE_WAITING,  /* another process makes this key: message says which */
	EVENT_STAGE_STARTED,  /* stage, attempt, message: reason */
	EVENT_STAGE_PROGRESS, /* stage, done, total, unit, eta seconds (negative: unknown) */
	EVENT_STAGE_LOG,      /* stage, attempt, level, message */
	EVENT_STAGE_METRIC,   /* stage, step, message: name, value */
	EVENT_STAGE_RETRY,    /* stage, attempt: the one that failed, message: why; seconds: delay */
	EVENT_STAGE_FINISHED, /* stage, status, seconds, message: error or reason; result when cached or done
			       * (of a cached one in the light form of result_find: ask for the full one to
			       * show its facts) */
	EVENT_RUN_FINISHED,   /* status, exit_code, seconds */
	EVENT_TICK, /* several times a second while stages run: nothing happened, but clocks went on */
};

struct event {
	enum event_type type;
	int64_t run;
	int64_t wall_ms;
	size_t stage;     /* index into graph->stages */
	const char *name; /* its name */
	int attempt;      /* from 1 */
	enum stage_status status;
	enum run_status run_status;
	int exit_code;
	enum log_level level;
	const char *message;
	double seconds, eta, value;
	int64_t step;
	uint64_t done, total;
	const char *unit;
	const struct result *result;
};

struct run_options {
	struct plan_options plan;
	int jobs;                                          /* stages at once; 0: number of processors */
	const char *command;                               /* for the record */
	void (*observe)(const struct event *e, void *arg); /* called in the runner's thread; may be NULL */
	void *arg;
	volatile int *stop; /* set nonzero by the caller's signal handler (SIGINT, SIGTERM): the run winds
			     * down; a second increment kills at once. May be NULL */
	double grace;       /* seconds between asking a worker to stop and killing it; 0: 10 */
	double backoff;     /* seconds before the first retry of a stage; 0: 0.5. Doubles with every further
			     * failure of the     stage's own, quadruples with every failure of the infrastructure; at
			     * most 30 s */
};

/* Plans and runs g. The return value is the exit code: 0 done, else an error class; err tells the first
 * failure. The run is recorded also when it fails, unless planning fails already. When one stage fails,
 * stages that do not depend on it still finish; the rest are skipped. Runs that find another process making
 * the same key wait for it and take its result.
 *
 * A stage that fails (ERR_STAGE, a crash, its timeout) runs again as often as its `retries` say; one that
 * fails for its surroundings (ERR_INFRA) up to three times more; a mistake in its input (ERR_USAGE) is final.
 * A failure to store an output or to record a result is final too (ERR_INFRA): nothing is recorded then. A
 * stage whose timeout is up, and that has saved a checkpoint and returned ERR_INTERRUPTED, is interrupted:
 * the run ends with 5, and the next one goes on from the checkpoint.
 *
 * A stage that names files of the user's, one of which changed while it ran, fails, and its result is not kept.
 *
 * Must be called from a process with one thread: workers are forks of it (worker.h). *run_id may be NULL. */
int run_graph(struct store *s, const struct graph *g, const struct run_options *o, int64_t *run_id,
	      struct error *err);

#endif
