/* Writing the history. A run of ten thousand cached stages is one row: the compact record of its cached stages and the
 * graph's text are kept once per content (table texts), so that repeating a run writes next to nothing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/canon.h"
#include "runtime/rundb_internal.h"

#define COLLECT_NS ((uint64_t)30 * 1000000)
enum { QUEUE_MAX = 1000 };

struct active_run {
	int64_t id;
	char *pipeline;
	int lock;          /* descriptor of runs/<id>.lock, locked */
	int64_t next_line; /* of its log */
};

struct queued {
	enum { QUEUED_STAGE, QUEUED_LOG, QUEUED_METRIC } what;
	int64_t run, stage;
	const char *pipeline; /* QUEUED_STAGE */
	struct run_stage st;
	int64_t number, wall_ms; /* QUEUED_LOG */
	int attempt;
	const char *stream, *text; /* text: the line, or the metric's name */
	int64_t step;
	double value;
};

struct run_writer {
	struct active_run *active;
	size_t nactive, active_cap;
	struct queued *queue;
	size_t nqueue, queue_cap;
	struct arena arena; /* the strings of the queue */
	uint64_t flushed_ns;
};

static struct run_writer *writer(struct store *s)
{
	if (!s->runs)
		s->runs = xcalloc(1, sizeof *s->runs);
	return s->runs;
}

static struct active_run *active_find(struct store *s, int64_t run)
{
	for (size_t i = 0; s->runs && i < s->runs->nactive; i++)
		if (s->runs->active[i].id == run)
			return &s->runs->active[i];
	return NULL;
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC);
}

/* ---- single rows ---- */

static int put_stage(struct store *s, int64_t run, int64_t i, const struct run_stage *r, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_STAGE_PUT, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, run);
	sqlite3_bind_int64(st, 2, i);
	bind_text(st, 3, r->name);
	bind_text(st, 4, r->kind);
	sqlite3_bind_int(st, 5, r->status);
	bind_text(st, 6, r->reason);
	if (r->has_key)
		bind_digest(st, 7, &r->key);
	else
		sqlite3_bind_null(st, 7);
	sqlite3_bind_int(st, 8, r->attempts);
	sqlite3_bind_double(st, 9, r->seconds);
	sqlite3_bind_double(st, 10, r->user_seconds);
	sqlite3_bind_double(st, 11, r->system_seconds);
	sqlite3_bind_int64(st, 12, (int64_t)r->max_rss);
	bind_text(st, 13, r->error);
	return store_step_done(s, st, "recording a stage", err);
}

static int put_key(struct store *s, const char *pipeline, int64_t run, const struct run_stage *r,
		   struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_STAGE_KEY_PUT, err);

	if (!st)
		return -1;
	bind_text(st, 1, pipeline);
	bind_text(st, 2, r->name);
	sqlite3_bind_int64(st, 3, run);
	bind_digest(st, 4, &r->key);
	sqlite3_bind_int(st, 5, status_good(r->status));
	return store_step_done(s, st, "recording a key", err);
}

static int put_seconds(struct store *s, const char *pipeline, const struct run_stage *r, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_SECONDS_PUT, err);

	if (!st)
		return -1;
	bind_text(st, 1, pipeline);
	bind_text(st, 2, r->name);
	sqlite3_bind_double(st, 3, r->seconds);
	return store_step_done(s, st, "recording a duration", err);
}

static int put_log(struct store *s, const struct queued *q, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_LOG_PUT, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, q->run);
	sqlite3_bind_int64(st, 2, q->number);
	sqlite3_bind_int64(st, 3, q->stage);
	sqlite3_bind_int(st, 4, q->attempt);
	bind_text(st, 5, q->stream);
	sqlite3_bind_int64(st, 6, q->wall_ms);
	bind_text(st, 7, q->text);
	return store_step_done(s, st, "writing a log", err);
}

static int put_metric(struct store *s, const struct queued *q, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_METRIC_PUT, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, q->run);
	sqlite3_bind_int64(st, 2, q->stage);
	bind_text(st, 3, q->text);
	sqlite3_bind_int64(st, 4, q->step);
	sqlite3_bind_double(st, 5, q->value);
	return store_step_done(s, st, "writing a metric", err);
}

/* ---- the queue ---- */

static int write_queued(struct store *s, const struct queued *q, struct error *err)
{
	switch (q->what) {
	case QUEUED_LOG: return put_log(s, q, err);
	case QUEUED_METRIC: return put_metric(s, q, err);
	case QUEUED_STAGE: break;
	}
	if (put_stage(s, q->run, q->stage, &q->st, err))
		return -1;
	if (q->st.has_key && put_key(s, q->pipeline, q->run, &q->st, err))
		return -1;
	return q->st.status == STAGE_DONE ? put_seconds(s, q->pipeline, &q->st, err) : 0;
}

int run_writer_flush(struct store *s, struct error *err)
{
	struct run_writer *w = s->runs;

	if (!w || !w->nqueue)
		return 0;
	if (s->tx != TX_WRITE) /* the commit calls back */
		return store_begin(s, false, err) || store_commit(s, "writing the history", err) ? -1 : 0;
	for (size_t i = 0; i < w->nqueue; i++)
		if (write_queued(s, &w->queue[i], err))
			return -1;
	/* If the commit itself fails now, these lines are lost; the caller hears of it. */
	w->nqueue = 0;
	arena_free(&w->arena);
	w->flushed_ns = clock_mono_ns();
	return 0;
}

int run_flush(struct store *s, struct error *err)
{
	return run_writer_flush(s, err);
}

static struct queued *enqueue(struct store *s, int64_t run, size_t stage)
{
	struct run_writer *w = writer(s);

	grow(&w->queue, &w->queue_cap, w->nqueue + 1, sizeof *w->queue);
	struct queued *q = &w->queue[w->nqueue++];
	*q = (struct queued){.run = run, .stage = (int64_t)stage};
	return q;
}

static int enqueued(struct store *s, struct error *err)
{
	const struct run_writer *w = s->runs;

	if (w->nqueue < QUEUE_MAX && clock_mono_ns() - w->flushed_ns < COLLECT_NS)
		return 0;
	return run_writer_flush(s, err);
}

static const char *keep(struct store *s, const char *text)
{
	return text ? arena_strdup(&writer(s)->arena, text) : NULL;
}

/* ---- the lock that says that a run's process lives ---- */

static char *lock_path(struct store *s, int64_t run)
{
	struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "%s/runs/%" PRId64 ".lock", s->dir, run);
	return strbuf_steal(&b);
}

static int lock_run(struct store *s, int64_t run, int *fd, struct error *err)
{
	char *path = lock_path(s, run);
	int failed = 0;

	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (*fd < 0 && errno == ENOENT) {
		char *dir = path_dir(path);
		if (dir_create(dir, NULL) == 0)
			*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		free(dir);
	}
	if (*fd < 0 || flock(*fd, LOCK_EX) < 0) {
		failed = store_errno(err, path);
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
	}
	free(path);
	return failed;
}

/* Marks the runs whose process is gone. Inside the transaction of run_begin, in which alone new locks are made: one
 * that can be taken here belongs to nobody. */
static int mark_crashed(struct store *s, struct error *err)
{
	char *dir = path_join(s->dir, "runs");
	DIR *d = opendir(dir);
	int failed = 0;

	for (struct dirent *e; d && !failed && (e = readdir(d));) {
		char *end;
		int64_t run = strtoll(e->d_name, &end, 10);
		if (run <= 0 || strcmp(end, ".lock") != 0)
			continue;
		int fd = openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
			sqlite3_stmt *st = store_stmt(s, SQL_RUN_CRASHED, err);
			if (st) {
				sqlite3_bind_int64(st, 1, run);
				sqlite3_bind_int(st, 2, RUN_CRASHED);
				sqlite3_bind_int(st, 3, RUN_RUNNING);
			}
			failed = !st || store_step_done(s, st, "marking a crashed run", err) ? -1 : 0;
			if (!failed)
				unlinkat(dirfd(d), e->d_name, 0);
		}
		if (fd >= 0)
			close(fd);
	}
	if (d)
		closedir(d);
	free(dir);
	return failed;
}

/* ---- begin, update, end ---- */

/* [[name, kind, reason, key] of a cached stage, nil of another …] */
static void pack_stages(const struct run_info *r, struct strbuf *b)
{
	canon_array(b, r->nstages);
	for (size_t i = 0; i < r->nstages; i++) {
		const struct run_stage *st = &r->stages[i];
		if (st->status != STAGE_CACHED || !st->has_key) {
			canon_nil(b);
			continue;
		}
		canon_array(b, 4);
		canon_str(b, st->name);
		canon_str(b, st->kind);
		canon_str(b, st->reason);
		canon_digest(b, &st->key);
	}
}

static void pack_params(const struct run_info *r, struct strbuf *b)
{
	canon_array(b, r->nparams);
	for (size_t i = 0; i < r->nparams; i++) {
		canon_array(b, 3);
		canon_str(b, r->params[i].name);
		canon_str(b, r->params[i].value);
		canon_str(b, r->params[i].origin);
	}
}

static int put_text(struct store *s, const struct digest *d, const void *bytes, size_t n, struct error *err)
{
	sqlite3_stmt *has = store_stmt(s, SQL_TEXT_HAS, err), *put = store_stmt(s, SQL_TEXT_PUT, err);

	if (!has || !put)
		return -1;
	bind_digest(has, 1, d);
	int code = sqlite3_step(has);
	sqlite3_reset(has);
	if (code == SQLITE_ROW)
		return 0;
	bind_digest(put, 1, d);
	sqlite3_bind_blob64(put, 2, n ? bytes : "", n, SQLITE_STATIC);
	return store_step_done(s, put, "recording a run", err);
}

/* Records the keys that differ from the pipeline's latest run. Cached stages that it had with the same key are
 * covered by what was recorded then. */
static int put_keys(struct store *s, const struct run_info *r, int64_t run, const struct digest *stages,
		    struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_LATEST_OF, err);
	struct run_table latest = {0};
	struct digest theirs;
	int64_t id = 0;
	int failed = 0;

	if (!st)
		return -1;
	bind_text(st, 1, r->pipeline);
	if (sqlite3_step(st) == SQLITE_ROW && column_digest(st, 1, &theirs))
		id = sqlite3_column_int64(st, 0);
	sqlite3_reset(st);
	if (id) {
		bool all_cached = true;
		for (size_t i = 0; i < r->nstages && all_cached; i++)
			all_cached = r->stages[i].status == STAGE_CACHED;
		if (all_cached && digest_equal(&theirs, stages)) {
			sqlite3_stmt *rows = store_stmt(s, SQL_RUN_STAGES, err);
			if (!rows)
				return -1;
			sqlite3_bind_int64(rows, 1, id);
			bool same = sqlite3_step(rows) == SQLITE_DONE;
			sqlite3_reset(rows);
			if (same)
				return 0;
		}
		if (run_table_load(s, id, &theirs, &latest, err))
			return -1;
	}
	for (size_t i = 0; !failed && i < r->nstages; i++) {
		const struct run_stage *mine = &r->stages[i], *before;
		if (!mine->has_key)
			continue;
		before = id ? run_table_find(&latest, mine->name) : NULL;
		if (before && before->has_key && digest_equal(&before->key, &mine->key) &&
		    status_good(before->status) == status_good(mine->status))
			continue;
		failed = put_key(s, r->pipeline, run, mine, err);
	}
	run_table_free(&latest);
	return failed;
}

static int put_run(struct store *s, const struct run_info *r, const struct strbuf *stages,
		   const struct strbuf *params, int *lock, int64_t *run, struct error *err)
{
	struct digest graph_digest, stages_digest;
	const char *graph = r->graph_text ? r->graph_text : "";
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_PUT, err);

	digest_of(graph, strlen(graph), &graph_digest);
	digest_of(stages->data, stages->len, &stages_digest);
	if (!st || mark_crashed(s, err) || put_text(s, &graph_digest, graph, strlen(graph), err) ||
	    put_text(s, &stages_digest, stages->data, stages->len, err))
		return -1;
	/* The next id, known before the row is: put_keys looks at the latest run before this one. */
	bind_text(st, 1, r->pipeline);
	bind_text(st, 2, r->file ? r->file : "");
	sqlite3_bind_int(st, 3, RUN_RUNNING);
	sqlite3_bind_int(st, 4, 0);
	sqlite3_bind_int64(st, 5, r->started_ms);
	bind_digest(st, 6, &graph_digest);
	bind_text(st, 7, r->command ? r->command : "");
	sqlite3_bind_blob64(st, 8, params->data, params->len, SQLITE_STATIC);
	bind_digest(st, 9, &stages_digest);
	int64_t next = 0;
	sqlite3_stmt *seq = store_stmt(s, SQL_RUN_NEXT, err);
	if (!seq)
		return -1;
	if (sqlite3_step(seq) == SQLITE_ROW)
		next = sqlite3_column_int64(seq, 0);
	sqlite3_reset(seq);
	if (put_keys(s, r, next + 1, &stages_digest, err) || store_step_done(s, st, "recording a run", err))
		return -1;
	*run = sqlite3_last_insert_rowid(s->db);
	for (size_t i = 0; i < r->nstages; i++)
		if ((r->stages[i].status != STAGE_CACHED || !r->stages[i].has_key) &&
		    put_stage(s, *run, (int64_t)i, &r->stages[i], err))
			return -1;
	return lock_run(s, *run, lock, err); /* held before anybody can see the run */
}

int run_begin(struct store *s, struct run_info *r, struct error *err)
{
	struct strbuf stages = STRBUF_INIT, params = STRBUF_INIT;
	int64_t run = 0;
	int lock = -1, failed;

	if (store_want_write(s, err))
		return -1;
	r->status = RUN_RUNNING;
	if (!r->started_ms)
		r->started_ms = clock_wall_ms();
	pack_stages(r, &stages);
	pack_params(r, &params);
	failed = store_begin(s, false, err);
	if (!failed) {
		failed = put_run(s, r, &stages, &params, &lock, &run, err);
		if (failed)
			store_rollback(s);
		else
			failed = store_commit(s, "recording a run", err);
	}
	if (!failed) {
		struct run_writer *w = writer(s);
		grow(&w->active, &w->active_cap, w->nactive + 1, sizeof *w->active);
		w->active[w->nactive++] = (struct active_run){run, xstrdup(r->pipeline), lock, 1};
		r->id = run;
	} else if (lock >= 0) {
		char *path = lock_path(s, run);
		unlink(path);
		close(lock);
		free(path);
	}
	strbuf_free(&stages);
	strbuf_free(&params);
	return failed;
}

static int not_ours(int64_t run, struct error *err)
{
	return error_set(err, ERR_USAGE, "run %" PRId64 " is not being recorded by this process", run);
}

int run_stage_update(struct store *s, int64_t run, size_t stage, const struct run_stage *st,
		     struct error *err)
{
	const struct active_run *a = active_find(s, run);

	if (!a)
		return not_ours(run, err);
	struct queued *q = enqueue(s, run, stage);
	q->what = QUEUED_STAGE;
	q->pipeline = keep(s, a->pipeline);
	q->st = *st;
	q->st.name = keep(s, st->name);
	q->st.kind = keep(s, st->kind);
	q->st.reason = keep(s, st->reason);
	q->st.error = keep(s, st->error);
	return enqueued(s, err);
}

int run_log(struct store *s, int64_t run, size_t stage, int attempt, const char *stream, int64_t wall_ms,
	    const char *line, struct error *err)
{
	struct active_run *a = active_find(s, run);

	if (!a)
		return not_ours(run, err);
	struct queued *q = enqueue(s, run, stage);
	q->what = QUEUED_LOG;
	q->number = a->next_line++;
	q->attempt = attempt;
	q->stream = keep(s, stream);
	q->wall_ms = wall_ms;
	q->text = keep(s, line);
	return enqueued(s, err);
}

int run_metric(struct store *s, int64_t run, size_t stage, int64_t step, const char *name, double value,
	       struct error *err)
{
	if (!active_find(s, run))
		return not_ours(run, err);
	struct queued *q = enqueue(s, run, stage);
	q->what = QUEUED_METRIC;
	q->step = step;
	q->text = keep(s, name);
	q->value = value;
	return enqueued(s, err);
}

static void forget(struct store *s, struct active_run *a)
{
	char *path = lock_path(s, a->id);

	unlink(path);
	free(path);
	close(a->lock);
	free(a->pipeline);
	*a = s->runs->active[--s->runs->nactive];
}

int run_end(struct store *s, int64_t run, enum run_status status, int exit_code, struct error *err)
{
	struct active_run *a = active_find(s, run);

	if (!a)
		return not_ours(run, err);
	if (store_begin(s, false, err))
		return -1;
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_END, err);
	if (st) {
		sqlite3_bind_int64(st, 1, run);
		sqlite3_bind_int(st, 2, status);
		sqlite3_bind_int(st, 3, exit_code);
		sqlite3_bind_int64(st, 4, clock_wall_ms());
	}
	if (!st || store_step_done(s, st, "ending a run", err)) {
		store_rollback(s);
		return -1;
	}
	if (store_commit(s, "ending a run", err))
		return -1;
	forget(s, a);
	return 0;
}

void run_writer_free(struct store *s)
{
	struct run_writer *w = s->runs;

	if (!w)
		return;
	run_writer_flush(s, NULL);
	for (size_t i = 0; i < w->nactive;
	     i++) { /* not ended: to readers it crashed, so its lock file stays */
		close(w->active[i].lock);
		free(w->active[i].pipeline);
	}
	free(w->active);
	free(w->queue);
	arena_free(&w->arena);
	free(w);
	s->runs = NULL;
}
