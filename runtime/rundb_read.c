/* Reading the history, also of a run that is being written. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "runtime/canon.h"
#include "runtime/rundb_internal.h"

static const char *column_text(sqlite3_stmt *st, int i, struct arena *a)
{
	const char *text = (const char *)sqlite3_column_text(st, i);

	return text ? arena_strndup(a, text, (size_t)sqlite3_column_bytes(st, i)) : NULL;
}

int text_load(struct store *s, const struct digest *d, struct arena *a, const char **out, size_t *n,
	      struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_TEXT_FIND, err);
	int failed = 0;

	if (!st)
		return -1;
	bind_digest(st, 1, d);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		*n = (size_t)sqlite3_column_bytes(st, 0);
		*out = arena_strndup(a, *n ? sqlite3_column_blob(st, 0) : "", *n);
	} else if (code == SQLITE_DONE) {
		failed = error_set(err, ERR_INFRA, "%s/anneal.db: a text of the history is missing", s->dir);
	} else {
		failed = store_sql_error(s, "reading the history", err);
	}
	sqlite3_reset(st);
	return failed;
}

/* ---- stages ---- */

static bool unpack_stages(const char *bytes, size_t size, struct arena *a, struct run_stage **out, size_t *n)
{
	struct canon c = canon_open(bytes, size);

	if (!canon_get_array(&c, n))
		return false;
	*out = arena_calloc(a, *n, sizeof **out);
	for (size_t i = 0; i < *n; i++) {
		struct run_stage *st = &(*out)[i];
		struct canon_item it;
		st->name = st->kind = "";
		if (!canon_next(&c, &it))
			return false;
		if (it.type == CANON_NIL)
			continue;
		if (it.type != CANON_ARRAY || it.n != 4 || !canon_get_str(&c, a, &st->name) ||
		    !canon_get_str(&c, a, &st->kind) || !canon_get_str(&c, a, &st->reason) ||
		    !canon_get_digest(&c, &st->key) || !st->name || !st->kind)
			return false;
		st->has_key = true;
		st->status = STAGE_CACHED;
	}
	return c.p == c.end;
}

static void read_stage(sqlite3_stmt *st, struct arena *a, struct run_stage *r)
{
	*r = (struct run_stage){.name = column_text(st, 1, a), .kind = column_text(st, 2, a)};
	if (!r->name)
		r->name = "";
	if (!r->kind)
		r->kind = "";
	r->status = (enum stage_status)sqlite3_column_int(st, 3);
	r->reason = column_text(st, 4, a);
	r->has_key = column_digest(st, 5, &r->key);
	r->attempts = sqlite3_column_int(st, 6);
	r->seconds = sqlite3_column_double(st, 7);
	r->user_seconds = sqlite3_column_double(st, 8);
	r->system_seconds = sqlite3_column_double(st, 9);
	r->max_rss = (uint64_t)sqlite3_column_int64(st, 10);
	r->error = column_text(st, 11, a);
}

int run_stages_load(struct store *s, int64_t run, const struct digest *stages, struct arena *a,
		    struct run_stage **out, size_t *n, struct error *err)
{
	const char *bytes;
	size_t size;
	int code;

	if (text_load(s, stages, a, &bytes, &size, err))
		return -1;
	if (!unpack_stages(bytes, size, a, out, n))
		return error_set(err, ERR_INFRA, "%s/anneal.db: the stages of run %" PRId64 " are damaged",
				 s->dir, run);
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_STAGES, err);
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, run);
	while ((code = sqlite3_step(st)) == SQLITE_ROW) {
		int64_t i = sqlite3_column_int64(st, 0);
		if (i >= 0 && (uint64_t)i < *n)
			read_stage(st, a, &(*out)[i]);
	}
	int failed = code == SQLITE_DONE ? 0 : store_sql_error(s, "reading the stages of a run", err);
	sqlite3_reset(st);
	return failed;
}

/* ---- runs ---- */

static bool unpack_params(const void *bytes, size_t size, struct arena *a, struct run_info *r)
{
	struct canon c = canon_open(bytes, size);
	size_t members;

	if (!canon_get_array(&c, &r->nparams))
		return false;
	r->params = arena_calloc(a, r->nparams, sizeof *r->params);
	for (size_t i = 0; i < r->nparams; i++) {
		struct run_param *p = &r->params[i];
		if (!canon_get_array(&c, &members) || members != 3 || !canon_get_str(&c, a, &p->name) ||
		    !canon_get_str(&c, a, &p->value) || !canon_get_str(&c, a, &p->origin))
			return false;
	}
	return c.p == c.end;
}

/* What a row of runs points to. */
struct run_row {
	struct run_info info;
	struct digest graph, stages;
};

static int read_run(struct store *s, sqlite3_stmt *st, struct arena *a, struct run_row *out,
		    struct error *err)
{
	struct run_info *r = &out->info;

	*r = (struct run_info){.id = sqlite3_column_int64(st, 0)};
	r->pipeline = column_text(st, 1, a);
	r->file = column_text(st, 2, a);
	r->status = (enum run_status)sqlite3_column_int(st, 3);
	r->exit_code = sqlite3_column_int(st, 4);
	r->started_ms = sqlite3_column_int64(st, 5);
	r->finished_ms = sqlite3_column_int64(st, 6);
	r->command = column_text(st, 8, a);
	if (!r->pipeline || !r->file || !r->command || !column_digest(st, 7, &out->graph) ||
	    !column_digest(st, 10, &out->stages) ||
	    !unpack_params(sqlite3_column_blob(st, 9), (size_t)sqlite3_column_bytes(st, 9), a, r))
		return error_set(err, ERR_INFRA, "%s/anneal.db: run %" PRId64 " is damaged", s->dir, r->id);
	return 0;
}

static bool process_lives(struct store *s, int64_t run)
{
	struct strbuf path = STRBUF_INIT;

	strbuf_addf(&path, "%s/runs/%" PRId64 ".lock", s->dir, run);
	int fd = open(path.data, O_RDONLY | O_CLOEXEC);
	bool lives = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
	if (fd >= 0)
		close(fd);
	strbuf_free(&path);
	return lives;
}

/* A run is crashed when it was not ended and nobody holds its lock. Asked in this order, with the row read again: a run
 * writes its end first and gives up the lock afterwards. */
static int settle_status(struct store *s, struct run_info *r, struct error *err)
{
	if (r->status != RUN_RUNNING || process_lives(s, r->id))
		return 0;
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_STATUS, err);
	if (!st)
		return -1;
	store_read_end(s);
	sqlite3_bind_int64(st, 1, r->id);
	if (sqlite3_step(st) == SQLITE_ROW) {
		r->status = (enum run_status)sqlite3_column_int(st, 0);
		r->exit_code = sqlite3_column_int(st, 1);
		r->finished_ms = sqlite3_column_int64(st, 2);
	}
	sqlite3_reset(st);
	if (r->status == RUN_RUNNING)
		r->status = RUN_CRASHED;
	return 0;
}

int runs_list(struct store *s, size_t n, struct arena *a, struct run_info **out, size_t *count,
	      struct error *err)
{
	struct run_row *rows = NULL;
	size_t nrows = 0, cap = 0, size;
	int code = SQLITE_DONE, failed = run_writer_flush(s, err);
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_NEWEST, err);

	*out = NULL;
	*count = 0;
	if (failed || !st)
		return -1;
	sqlite3_bind_int64(st, 1, n > INT64_MAX ? INT64_MAX : (int64_t)n);
	while (!failed && (code = sqlite3_step(st)) == SQLITE_ROW) {
		grow(&rows, &cap, nrows + 1, sizeof *rows);
		failed = read_run(s, st, a, &rows[nrows++], err);
	}
	if (!failed && code != SQLITE_DONE)
		failed = store_sql_error(s, "listing runs", err);
	sqlite3_reset(st);
	*out = arena_calloc(a, nrows, sizeof **out);
	for (size_t i = 0; !failed && i < nrows; i++) {
		struct run_info *r = &rows[i].info;
		if (i && digest_equal(&rows[i].graph, &rows[i - 1].graph))
			r->graph_text = (*out)[i - 1].graph_text;
		else
			failed = text_load(s, &rows[i].graph, a, &r->graph_text, &size, err);
		if (!failed)
			failed = settle_status(s, r, err);
		(*out)[i] = *r;
	}
	*count = nrows;
	free(rows);
	return failed;
}

static int no_run(struct store *s, int64_t id, const char *pipeline, struct error *err)
{
	if (id)
		error_set(err, ERR_USAGE, "there is no run %" PRId64 " in %s", id, s->dir);
	else if (pipeline)
		error_set(err, ERR_USAGE, "pipeline \"%s\" has no run in %s yet", pipeline, s->dir);
	else
		error_set(err, ERR_USAGE, "no runs yet in %s", s->dir);
	return error_hint(err, id ? "`anneal runs` lists them" : "`anneal run PIPELINE` makes one");
}

static int find_run(struct store *s, int64_t id, const char *pipeline, struct arena *a, struct run_row *out,
		    struct error *err)
{
	sqlite3_stmt *st = store_stmt(s,
				      id         ? SQL_RUN_BY_ID
				      : pipeline ? SQL_RUN_NEWEST_OF
						 : SQL_RUN_NEWEST,
				      err);
	int failed;

	if (!st || run_writer_flush(s, err))
		return -1;
	if (!id && pipeline)
		sqlite3_bind_text(st, 1, pipeline, -1, SQLITE_STATIC);
	else
		sqlite3_bind_int64(st, 1, id ? id : 1);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW)
		failed = read_run(s, st, a, out, err);
	else if (code == SQLITE_DONE)
		failed = no_run(s, id, pipeline, err);
	else
		failed = store_sql_error(s, "looking for a run", err);
	sqlite3_reset(st);
	return failed;
}

int run_load(struct store *s, int64_t id, const char *pipeline, struct arena *a, struct run_info *out,
	     struct error *err)
{
	struct run_row row;
	size_t size;

	if (find_run(s, id, pipeline, a, &row, err))
		return -1;
	*out = row.info;
	if (text_load(s, &row.graph, a, &out->graph_text, &size, err) ||
	    run_stages_load(s, out->id, &row.stages, a, &out->stages, &out->nstages, err))
		return -1;
	return settle_status(s, out, err);
}

/* ---- logs and metrics ---- */

/* The stages' names by index, and which one is asked for (-1: all). */
static int stage_names(struct store *s, int64_t run, const char *stage, struct arena *a,
		       struct run_stage **stages, size_t *n, int64_t *wanted, struct error *err)
{
	struct run_row row;

	*wanted = -1;
	if (find_run(s, run, NULL, a, &row, err) ||
	    run_stages_load(s, row.info.id, &row.stages, a, stages, n, err))
		return -1;
	if (!stage)
		return 0;
	const char **names = arena_calloc(a, *n, sizeof *names);
	for (size_t i = 0; i < *n; i++) {
		names[i] = (*stages)[i].name;
		if (strcmp(names[i], stage) == 0)
			*wanted = (int64_t)i;
	}
	if (*wanted >= 0)
		return 0;
	const char *near = nearest_name(stage, names, *n);
	error_set(err, ERR_USAGE, "run %" PRId64 " has no stage \"%s\"", row.info.id, stage);
	return near ? error_hint(err, "did you mean \"%s\"?", near) : -1;
}

static const char *name_of(const struct run_stage *stages, size_t n, int64_t i)
{
	return i >= 0 && (uint64_t)i < n ? stages[i].name : "";
}

int run_logs(struct store *s, int64_t run, const char *stage, int (*visit)(const struct log_line *, void *),
	     void *arg, struct error *err)
{
	struct arena a = ARENA_INIT;
	struct run_stage *stages;
	size_t n;
	int64_t wanted;
	int result = -1, code = SQLITE_ROW;

	sqlite3_stmt *st = store_stmt(s, SQL_LOGS, err);
	if (!st || stage_names(s, run, stage, &a, &stages, &n, &wanted, err))
		goto out;
	result = 0;
	sqlite3_bind_int64(st, 1, run);
	while (!result && (code = sqlite3_step(st)) == SQLITE_ROW) {
		int64_t i = sqlite3_column_int64(st, 0);
		if (wanted >= 0 && i != wanted)
			continue;
		struct log_line line = {.wall_ms = sqlite3_column_int64(st, 3),
					.stage = name_of(stages, n, i),
					.stream = (const char *)sqlite3_column_text(st, 2),
					.line = (const char *)sqlite3_column_text(st, 4),
					.attempt = sqlite3_column_int(st, 1)};
		result = visit(&line, arg);
	}
	if (!result && code != SQLITE_DONE)
		result = store_sql_error(s, "reading a log", err);
	sqlite3_reset(st);
out:
	arena_free(&a);
	return result;
}

int run_metrics(struct store *s, int64_t run, const char *stage,
		int (*visit)(const struct metric_point *, void *), void *arg, struct error *err)
{
	struct arena a = ARENA_INIT;
	struct run_stage *stages;
	size_t n;
	int64_t wanted;
	int result = -1, code = SQLITE_ROW;

	sqlite3_stmt *st = store_stmt(s, SQL_METRICS, err);
	if (!st || stage_names(s, run, stage, &a, &stages, &n, &wanted, err))
		goto out;
	result = 0;
	sqlite3_bind_int64(st, 1, run);
	while (!result && (code = sqlite3_step(st)) == SQLITE_ROW) {
		int64_t i = sqlite3_column_int64(st, 0);
		if (wanted >= 0 && i != wanted)
			continue;
		/* SQLite keeps a NaN as NULL; a loss that is NaN has to be seen. */
		bool nan_ = sqlite3_column_type(st, 3) == SQLITE_NULL;
		struct metric_point p = {.stage = name_of(stages, n, i),
					 .name = (const char *)sqlite3_column_text(st, 1),
					 .step = sqlite3_column_int64(st, 2),
					 .value = nan_ ? (double)NAN : sqlite3_column_double(st, 3)};
		result = visit(&p, arg);
	}
	if (!result && code != SQLITE_DONE)
		result = store_sql_error(s, "reading metrics", err);
	sqlite3_reset(st);
out:
	arena_free(&a);
	return result;
}
