/* What the parts of the runner share: run.c (begin and end), run_schedule.c (who is next), run_attempt.c (a
 * worker's life), run_report.c (what it says), run_machine.c (processors, memory, devices). */
#ifndef RUNTIME_RUN_STATE_H
#define RUNTIME_RUN_STATE_H

#include "base/mem.h"
#include "runtime/run.h"
#include "runtime/worker.h"

/* A printed line longer than this is broken into several. */
#define LINE_MAX_BYTES ((size_t)8 << 10)
/* Lines of one attempt that are kept, in bytes; the rest is dropped, and the log says so. */
#define LOG_MAX_BYTES ((uint64_t)64 << 20)
#define TAIL_LINES    3
#define TAIL_BYTES    300 /* of each */
#define INFRA_RETRIES 3

enum task_state {
	TASK_BLOCKED,  /* producers are not final */
	TASK_READY,    /* in the heap: could start */
	TASK_SLEEPING, /* until wake: another process has the lease, or a retry is due */
	TASK_RUNNING,
	TASK_FINAL,
};

struct task { /* one per stage, same index */
	enum task_state state;
	uint32_t missing; /* inputs whose producer is not final */
	bool resolve; /* the key is not known, or a producer ran again: plan_resolve before anything else */
	bool waiting; /* EVENT_STAGE_WAITING was sent */
	int failures; /* of the stage's own */
	int infra_failures;
	int lease;          /* -1: none */
	double wake, pause; /* clock_mono; seconds between looks at a lease */
	struct run_stage *record;
};

/* What a running stage takes of the machine. */
struct share {
	double cpus;
	uint64_t memory, devices; /* devices: a bit each */
};

struct attempt {
	size_t stage;
	int number; /* from 1 */
	struct arena arena;
	struct stage_ctx ctx;
	struct worker worker;
	struct share share;
	char *dir; /* the staging directory */
	double started;
	double deadline;                 /* 0: no timeout */
	double kill_at;                  /* when the grace is over; 0: not asked to stop */
	bool timed_out, stopped, killed; /* asked because of its timeout, of the run; and killed by us */
	bool checkpointed, answered;
	struct error answer;             /* class ERR_NONE: it went well */
	struct strbuf control, lines[2]; /* read and not yet whole: frames; stdout, stderr */
	char *tail[TAIL_LINES];          /* the last lines, oldest first */
	char *last_stderr;
	uint64_t logged;
	struct result_fact *facts;
	size_t nfacts, facts_cap;
	struct known_file *files; /* whose digests the worker told */
	size_t nfiles, files_cap;
	double progress_since;
	uint64_t progress_from;
};

struct runner {
	struct store *store;
	const struct graph *graph;
	struct plan *plan;
	const struct run_options *options;
	int64_t id;
	struct run_stage *records; /* in plan order */
	uint32_t *position;        /* of a stage in the plan's order */

	struct task *tasks;
	uint32_t *consumers, *consumers_of; /* stage i feeds consumers[consumers_of[i]] …
					       consumers[consumers_of[i + 1] - 1] */
	size_t open;                        /* stages that are not final */
	uint32_t *fresh;                    /* stack: nothing is missing any more */
	size_t nfresh;
	uint32_t *heap; /* ready stages, first in the plan's order on top */
	size_t nheap;
	uint32_t *sleepers;
	size_t nsleepers;
	struct attempt **attempts;
	size_t nattempts;
	struct attempt **
		ended; /* to be freed, once what can start has started: their clearing away need not be waited for */
	size_t nended, ended_cap;
	size_t jobs;

	double cpus, cpus_used;
	uint64_t memory, memory_used;
	const char **devices; /* names for CUDA_VISIBLE_DEVICES */
	size_t ndevices;
	uint64_t devices_used;

	char *staging; /* of this run: a directory per attempt; NULL until the first stage starts */
	char **spare;  /* emptied directories of attempts, for the next ones; at most `jobs` */
	size_t nspare;
	int stop;                /* how often the run was asked to stop, as far as it is seen to */
	bool was_stopped;        /* a stage did not finish because of it */
	struct error first;      /* the first failure */
	struct error unrecorded; /* the first failure to write the history */
	struct arena arena;
};

/* ---- run_report.c ---- */
/* Fills in run, time and name, and calls the observer. */
void run_emit(struct runner *r, struct event *e);
/* Writes stage i's record to the history. */
void run_record_stage(struct runner *r, size_t i);
/* Nothing happens now: what the history has collected becomes visible to readers. */
void run_flush_history(struct runner *r);
/* Remembers a failure to write the history; the run goes on and ends with ERR_INFRA. */
void run_unrecorded(struct runner *r, const struct error *e);
void attempt_log(struct runner *r, struct attempt *a, const char *stream, enum log_level level,
		 const char *line);
/* Reads what the worker sent; false behind its answer and at the end of the stream. */
bool attempt_read_control(struct runner *r, struct attempt *a);
/* Reads what the worker printed to stdout (which 0) or stderr (1), up to limit bytes; false at the end. */
bool attempt_read_lines(struct runner *r, struct attempt *a, int which, size_t limit);
/* The rest of an unfinished line. */
void attempt_flush_lines(struct runner *r, struct attempt *a);

/* ---- run_machine.c ---- */
void machine_measure(struct runner *r);
/* ERR_USAGE when this machine can never hold the stage. */
int share_possible(const struct runner *r, const struct stage_node *n, struct error *err);
/* Takes what the stage needs; false when it is not free now. *devices gets a text for CUDA_VISIBLE_DEVICES
 * from a, or NULL. */
bool share_fits(const struct runner *r, const struct stage_node *n);
void share_take(struct runner *r, const struct stage_node *n, struct share *out, struct arena *a,
		const char **devices);
void share_give_back(struct runner *r, const struct share *s);

/* ---- run_attempt.c ---- */
/* Makes the staging directory with the inputs and starts the worker. */
int attempt_start(struct runner *r, size_t i, struct error *err);
void attempt_ask_to_stop(struct runner *r, struct attempt *a);
void attempt_kill(struct attempt *a);
/* After the end of what it has to say: collects the worker and stores what it made. 0: result holds the
 * recorded result. -1: err says why not; *final: to try again makes no sense. Frees nothing. */
int attempt_end(struct runner *r, struct attempt *a, struct result *result, bool *final, struct error *err);
/* Empties the attempt's directory and frees all memory. */
void attempt_free(struct runner *r, struct attempt *a);

/* ---- run_schedule.c ---- */
void schedule_stages(struct runner *r);

#endif
