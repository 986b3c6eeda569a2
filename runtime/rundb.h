/* The history: runs, what became of their stages, logs, metrics. In the store's database; readers never wait for a
 * running run. */
#ifndef RUNTIME_RUNDB_H
#define RUNTIME_RUNDB_H

#include "runtime/store.h"

enum stage_status {
	STAGE_UNKNOWN,
	STAGE_PENDING,
	STAGE_RUNNING,
	STAGE_CACHED,
	STAGE_DONE,
	STAGE_FAILED,
	STAGE_INTERRUPTED,
	STAGE_SKIPPED
};
enum run_status { RUN_RUNNING, RUN_DONE, RUN_FAILED, RUN_INTERRUPTED, RUN_CRASHED /* its process is gone */ };
const char *stage_status_name(enum stage_status s);
const char *run_status_name(enum run_status s);

struct run_param {
	const char *name, *value, *origin; /* origin: "--set", "$DATASET_LIMIT", "default" */
};

struct run_stage {
	const char *name, *kind;
	enum stage_status status;
	const char *reason; /* why it ran, or why it was cached or skipped: one line */
	bool has_key;
	struct digest key;
	int attempts;
	double seconds; /* of this run's work: 0 when cached */
	double user_seconds, system_seconds;
	uint64_t max_rss;  /* bytes */
	const char *error; /* NULL unless failed or interrupted */
};

struct run_info {
	int64_t id; /* from 1 */
	const char *pipeline;
	const char *file;
	enum run_status status;
	int exit_code;
	int64_t started_ms, finished_ms; /* wall clock; finished 0 while running */
	const char *graph_text;          /* as it was */
	const char *command;             /* the arguments, joined */
	struct run_param *params;
	size_t nparams;
	struct run_stage *stages; /* in plan order */
	size_t nstages;
};

/* ---- writing, by the runner ---- */
/* Records a new run with its stages (cached ones in one compact record) and gives its id. The recorder holds a kernel lock
 * by which readers see whether the run's process still lives. */
int run_begin(struct store *s, struct run_info *r, struct error *err);
int run_stage_update(struct store *s, int64_t run, size_t stage, const struct run_stage *st,
		     struct error *err);
int run_log(struct store *s, int64_t run, size_t stage, int attempt, const char *stream /* "stdout" … */,
	    int64_t wall_ms, const char *line, struct error *err);
int run_metric(struct store *s, int64_t run, size_t stage, int64_t step, const char *name, double value,
	       struct error *err);
/* Stage updates, log lines and metrics are collected for up to 30 ms and written together, by a later call of these
 * functions, with a result, or by this one; a crash loses at most what was collected. The runner calls it when it has
 * nothing else to do, so that readers of a live run see the last line of a burst. */
int run_flush(struct store *s, struct error *err);
int run_end(struct store *s, int64_t run, enum run_status status, int exit_code, struct error *err);

/* ---- reading ---- */
/* The newest n runs, newest first; stages are not filled in. Memory from a. */
int runs_list(struct store *s, size_t n, struct arena *a, struct run_info **out, size_t *count,
	      struct error *err);
/* id 0: the newest; pipeline not NULL: the newest of that pipeline. ERR_USAGE when there is none. */
int run_load(struct store *s, int64_t id, const char *pipeline, struct arena *a, struct run_info *out,
	     struct error *err);
/* The newest run of the pipeline in which a stage of that name has a key (excluding run `not`); its run id and key.
 * 1 found, 0 none. Used by --from and why. good: only where the stage ended cached or done. */
int run_last_key(struct store *s, const char *pipeline, const char *stage, int64_t not, bool good,
		 int64_t *run, struct digest *key, struct error *err);
/* Seconds the kind took when it last ran with success under that stage name in the pipeline; 0: never. For the ETA. */
double run_last_seconds(struct store *s, const char *pipeline, const char *stage);

struct log_line {
	int64_t wall_ms;
	const char *stage, *stream, *line;
	int attempt;
};
/* Every line in order; stage NULL: all stages. A visit that returns other than 0 stops the walk, which returns that; it
 * must not call functions of the history itself. ERR_USAGE when there is no such run or stage. */
int run_logs(struct store *s, int64_t run, const char *stage, int (*visit)(const struct log_line *, void *),
	     void *arg, struct error *err);
struct metric_point {
	const char *stage, *name;
	int64_t step;
	double value;
};
/* Every point, by stage, name and step; of a step that was done again after a resume, the last value. */
int run_metrics(struct store *s, int64_t run, const char *stage,
		int (*visit)(const struct metric_point *, void *), void *arg, struct error *err);

#endif
