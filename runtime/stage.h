/* A stage kind, and all that a running stage sees of the world: its attributes, its inputs as paths, the places of
 * its outputs, and calls to report. A stage runs in a worker process of its own; what it prints to stdout and stderr
 * becomes log lines. */
#ifndef RUNTIME_STAGE_H
#define RUNTIME_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"
#include "graph/graph.h"

struct stage_ctx;

struct stage_kind {
	struct kind_schema schema; /* first: a stage_node's kind pointer is also a pointer to this struct */

	/* Does the work, in the worker. Every output must exist when it returns 0. Class of the error: ERR_USAGE and
	 * ERR_STAGE are final for this attempt's input (retries still apply to ERR_STAGE), ERR_INFRA is retried with
	 * backoff without using up retries, ERR_INTERRUPTED means stage_stopping() was seen and the work can go on. */
	int (*run)(struct stage_ctx *ctx, struct error *err);

	/* Appends what a remote source resolves to now (a commit, an ETag), one line of text, which becomes part of the
	 * key. Called while planning, in the runner, at most once per stage and run, and only when the store holds no pin
	 * for the source or the run refreshes pins. NULL: the kind has no remote sources. Nothing appended: the source of
	 * this stage is local. */
	int (*pin)(const struct stage_node *node, struct strbuf *pin, struct error *err);

	/* For kinds that also write outside the store (export): 1 when what a recorded result published is still there, 0
	 * when the stage has to run again. outputs: the recorded result's digests, in the order of the schema. NULL: nothing
	 * outside. */
	int (*published)(const struct stage_node *node, const struct digest *outputs, size_t noutputs);
};

/* ---- attributes: by name, typed, defaults filled in. Asking for a name or type that the schema does not have is a
 * programming error and aborts. ---- */
const struct stage_node *ctx_node(const struct stage_ctx *ctx);
bool ctx_given(const struct stage_ctx *ctx, const char *attr);      /* has a value, by hand or by default */
const char *ctx_str(const struct stage_ctx *ctx, const char *attr); /* NULL when optional and left out */
int64_t ctx_int(const struct stage_ctx *ctx, const char *attr);
double ctx_float(const struct stage_ctx *ctx, const char *attr); /* also durations, in seconds */
bool ctx_bool(const struct stage_ctx *ctx, const char *attr);
const char *const *ctx_list(const struct stage_ctx *ctx, const char *attr, size_t *n);
/* ATTR_SOURCE, ATTR_TARGET: the path (absolute, or an URL). */
const char *ctx_path(const struct stage_ctx *ctx, const char *attr);
const char *const *ctx_paths(const struct stage_ctx *ctx, const char *attr, size_t *n); /* ATTR_SOURCES */
/* What the kind's pin() resolved to when the run was planned; "" when nothing. */
const char *ctx_pin(const struct stage_ctx *ctx);

/* ---- inputs and outputs ---- */
/* The path of an input: a file for rows, tokens, report and most file ports, a directory for model and adapter.
 * Read-only. NULL when the input is optional and left out. Valid while the stage runs. */
const char *ctx_input(const struct stage_ctx *ctx, const char *name);
/* Its content digest; false when the input is left out. */
bool ctx_input_digest(const struct stage_ctx *ctx, const char *name, struct digest *out);
/* What flows in: the kind of the output that it refers to. 0 when the input is left out. */
enum port_kind ctx_input_kind(const struct stage_ctx *ctx, const char *name);
/* Where the output has to be made: a path inside this attempt's staging directory that does not exist yet. A regular
 * file or a directory made there becomes the artifact. */
const char *ctx_output(const struct stage_ctx *ctx, const char *name);
/* A private directory for temporary files, removed afterwards. Names that begin with "in." or "out." are taken. */
const char *ctx_scratch(const struct stage_ctx *ctx);

/* ---- reports ---- */
enum log_level { LOG_INFO, LOG_WARNING, LOG_ERROR };
void ctx_log(struct stage_ctx *ctx, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* done of total (0: unknown) units ("rows", "bytes", "steps"). Cheap: sent at most ten times a second. */
void ctx_progress(struct stage_ctx *ctx, uint64_t done, uint64_t total, const char *unit);
/* One point of a series; kept with the run. step counts from 1. */
void ctx_metric(struct stage_ctx *ctx, int64_t step, const char *name, double value);
/* A fact about the result for the summary and for `show`: ("rows", "1,000"). Kept with the result, so that a cached
 * stage still tells it. The last one of a name wins. */
void ctx_summary(struct stage_ctx *ctx, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* True once the run was asked to stop (SIGINT, SIGTERM) or the stage's time is up; a stage that runs for more than a
 * second or so looks often, saves a checkpoint if it has them, and returns ERR_INTERRUPTED. A stage that does not look
 * is killed after a grace period. */
bool ctx_stopping(const struct stage_ctx *ctx);

/* ---- checkpoints inside a stage, kept under the stage's key until its result is recorded ---- */
/* The path of the newest checkpoint of this key (a file), and its step; NULL when there is none. */
const char *ctx_checkpoint(const struct stage_ctx *ctx, int64_t *step);
/* Publishes the file at path as the checkpoint of that step: durable when it returns; the file is gone from path; older
 * ones are dropped. */
int ctx_checkpoint_save(struct stage_ctx *ctx, int64_t step, const char *path, struct error *err);

#endif
