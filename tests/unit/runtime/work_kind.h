/* A stage kind that does what its attributes say, a store in a temporary directory, and runs of graphs given as text: for the tests
 * of plan, runner and worker. */
#ifndef TESTS_UNIT_RUNTIME_WORK_KIND_H
#define TESTS_UNIT_RUNTIME_WORK_KIND_H

#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "runtime/run.h"

/* ---- the kind ---- */

static const struct attr_schema work_attrs[] = {
	{.name = "in", .type = ATTR_INPUT, .ports = PORT_ANY},
	{.name = "also", .type = ATTR_INPUT, .ports = PORT_ANY},
	{.name = "text", .type = ATTR_STRING, .fallback = "\"\""},
	{.name = "number", .type = ATTR_INT, .fallback = "7"},
	{.name = "rate", .type = ATTR_FLOAT, .fallback = "0.5"},
	{.name = "flag", .type = ATTR_BOOL, .fallback = "false"},
	{.name = "words", .type = ATTR_STRINGS, .fallback = "[]"},
	{.name = "span", .type = ATTR_DURATION, .fallback = "\"1m\""},
	{.name = "source", .type = ATTR_SOURCE},
	{.name = "revision", .type = ATTR_STRING},
	/* how it behaves; none of these changes what it makes */
	{.name = "does", .type = ATTR_STRING, .flags = ATTR_UNKEYED, .fallback = "\"\""},
	{.name = "sleep", .type = ATTR_FLOAT, .flags = ATTR_UNKEYED, .fallback = "0"},
	{.name = "fails",
	 .type = ATTR_INT,
	 .flags = ATTR_UNKEYED,
	 .fallback = "0"}, /* so many times, then no more */
	{.name = "notes",
	 .type = ATTR_STRING,
	 .flags = ATTR_UNKEYED}, /* a file that gets a line per execution */
	{0},
};

static const struct output_schema work_outputs[] = {{"out", PORT_FILE, "text, and what came in"}, {0}};

static void work_note(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
	char text[256];
	int n = snprintf(text, sizeof text, "%s\n", line);

	if (fd < 0 || write(fd, text, (size_t)n) != n) /* at once: others append too */
		_exit(9);
	close(fd);
}

static int work_count(const char *path, const char *line)
{
	size_t size;
	char *all = file_read(path, &size, NULL), *rest = all, *one;
	int n = 0;

	while (all && (one = strsep(&rest, "\n")))
		n += strcmp(one, line) == 0;
	free(all);
	return n;
}

static int work_sleep(struct stage_ctx *ctx, double seconds, bool stubborn, struct error *err)
{
	double until = clock_mono() + seconds;

	while (clock_mono() < until) {
		if (!stubborn && ctx_stopping(ctx))
			return error_set(err, ERR_INTERRUPTED, "stopped");
		usleep(2000);
	}
	return 0;
}

/* Counts to 100, a checkpoint every step, and says where it began. */
static int work_steps(struct stage_ctx *ctx, struct error *err)
{
	int64_t step = 0;
	const char *checkpoint = ctx_checkpoint(ctx, &step);

	if (checkpoint) {
		size_t n;
		char *text = file_read(checkpoint, &n, NULL);
		if (!text || atoi(text) != step)
			return error_set(err, ERR_STAGE, "checkpoint %lld holds something else",
					 (long long)step);
		free(text);
	}
	ctx_log(ctx, LOG_INFO, "from step %lld", (long long)step);
	while (step < 100) {
		char path[512], text[32];
		step++;
		snprintf(path, sizeof path, "%s/state", ctx_scratch(ctx));
		snprintf(text, sizeof text, "%lld", (long long)step);
		if (file_write_atomic(path, text, strlen(text), err) < 0 ||
		    ctx_checkpoint_save(ctx, step, path, err) < 0)
			return -1;
		ctx_metric(ctx, step, "loss", 1.0 / (double)step);
		if (work_sleep(ctx, ctx_float(ctx, "sleep"), false, err) < 0)
			return -1;
	}
	return 0;
}

/* number bytes "a", hashed while they are written, one of which then becomes a "b" in a way that the file's inode does not tell. */
static int work_deceive(struct stage_ctx *ctx, struct error *err)
{
	const char *path = ctx_output(ctx, "out");
	size_t n = (size_t)ctx_int(ctx, "number");
	char *bytes = xmalloc(n);
	struct outfile *f;
	struct stat st;

	memset(bytes, 'a', n);
	if (outfile_create(path, &f, err) || outfile_add(f, bytes, n, err) || outfile_commit(f, err))
		return -1;
	free(bytes);
	int fd = open(path, O_WRONLY);
	if (fd < 0 || fstat(fd, &st) < 0 || pwrite(fd, "b", 1, 0) != 1 ||
	    futimens(fd, (struct timespec[]){st.st_atim, st.st_mtim}) < 0)
		_exit(9);
	close(fd);
	return 0;
}

static int work_run(struct stage_ctx *ctx, struct error *err)
{
	const char *does = ctx_str(ctx, "does"), *name = ctx_node(ctx)->name;
	const char *const inputs[] = {ctx_input(ctx, "in"), ctx_input(ctx, "also")};
	struct strbuf made = STRBUF_INIT;

	if (ctx_given(ctx, "notes")) {
		work_note(ctx_str(ctx, "notes"), name);
		if (ctx_int(ctx, "fails") > 0 &&
		    work_count(ctx_str(ctx, "notes"), name) <= ctx_int(ctx, "fails"))
			return error_set(err, ERR_STAGE, "failed on purpose");
	}
	if (strcmp(does, "segv") == 0) {
		puts("about to crash");
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	if (strcmp(does, "die") == 0)
		raise(SIGKILL);
	if (strcmp(does, "exit") == 0)
		_exit(7);
	if (strcmp(does, "usage") == 0)
		return error_set(err, ERR_USAGE, "row 3 has no field \"x\"");
	if (strcmp(does, "infra") == 0)
		return error_set(err, ERR_INFRA, "no network");
	if (strcmp(does, "nothing") == 0)
		return 0;
	if (strcmp(does, "deceive") == 0)
		return work_deceive(ctx, err);
	if (strcmp(does, "edit") == 0) /* as a user might meanwhile */
		work_note(ctx_path(ctx, "source"), "more");
	if (strcmp(does, "child") == 0) { /* leaves a process behind that would live for long */
		pid_t pid = fork();
		if (pid == 0) {
			for (int i = 0; i < 3000; i++)
				usleep(10000);
			_exit(0);
		}
		char text[32];
		snprintf(text, sizeof text, "%d", pid);
		ctx_summary(ctx, "child", "%s", text);
	}
	if (strcmp(does, "talk") == 0) {
		printf("out 1\r\rout 2\nlast without end");
		fprintf(stderr, "err 1\n");
		ctx_log(ctx, LOG_WARNING, "mind the %s", "gap");
		ctx_progress(ctx, 5, 10, "rows");
		ctx_metric(ctx, 3, "loss", 0.25);
		ctx_summary(ctx, "rows", "%d", 9);
		ctx_summary(ctx, "rows", "%d", 10);
	}
	if (strcmp(does, "steps") == 0) {
		if (work_steps(ctx, err) < 0)
			return -1;
	} else if (work_sleep(ctx, ctx_float(ctx, "sleep"), strcmp(does, "stubborn") == 0, err) < 0) {
		return -1;
	}

	strbuf_adds(&made, ctx_str(ctx, "text"));
	if (strcmp(does, "large") == 0) { /* number bytes that no compression makes less */
		uint64_t random = 1;
		for (int64_t i = 0; i < ctx_int(ctx, "number"); i++)
			strbuf_addc(&made, (char)((random = random * 6364136223846793005u + 1) >> 56));
	}
	if (strcmp(does, "random") == 0)
		strbuf_addf(&made, "%llu", (unsigned long long)clock_mono_ns());
	for (int i = 0; i < 2; i++)
		if (inputs[i]) {
			size_t n;
			char *text = file_read(inputs[i], &n, err);
			if (!text)
				return -1;
			/* "short": what came in matters only by its first letter */
			strbuf_add(&made, text, strcmp(does, "short") == 0 && n > 1 ? 1 : n);
			free(text);
		}
	if (strcmp(does, "tree") == 0) {
		if (mkdir(ctx_output(ctx, "out"), 0777) < 0)
			return error_errno(err, ERR_INFRA, "out");
		char path[512];
		snprintf(path, sizeof path, "%s/file", ctx_output(ctx, "out"));
		return file_write_atomic(path, made.data ? made.data : "", made.len, err);
	}
	int rc = file_write_atomic(ctx_output(ctx, "out"), made.data ? made.data : "", made.len, err);
	strbuf_free(&made);
	return rc;
}

/* What the remote source says; tests change it. */
static const char *work_pin_text = "commit-1";
static int work_pins;

static int work_pin(const struct stage_node *node, struct strbuf *pin, struct error *err)
{
	(void)node;
	(void)err;
	work_pins++;
	strbuf_adds(pin, work_pin_text);
	return 0;
}

static bool work_is_published = true;

static int work_published(const struct stage_node *node, const struct digest *digests, size_t n)
{
	(void)node;
	(void)digests;
	return n == 1 && work_is_published;
}

static const struct stage_kind work_kind = {
	.schema =
		{.name = "work", .version = 1, .doc = "works", .attrs = work_attrs, .outputs = work_outputs},
	.run = work_run,
	.pin = work_pin,
	.published = work_published,
};

/* ---- a place ---- */

struct place {
	char dir[64];   /* temporary, removed at the end */
	char notes[96]; /* dir/notes */
	char state[96]; /* dir/state: the store's */
	struct store *store;
	struct graph *graph; /* of the last run */
	struct error err;    /* of the last run */
	int64_t run;
	struct arena arena;
	struct strbuf events; /* one line each: "started a 1", "finished a done" … */
	int jobs;
	double grace;
	volatile int stop;
};

static int place_setup(void **state)
{
	struct place *p = xcalloc(1, sizeof *p);
	struct error err = ERROR_INIT;

	strcpy(p->dir, "/tmp/anneal-run-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	snprintf(p->notes, sizeof p->notes, "%s/notes", p->dir);
	snprintf(p->state, sizeof p->state, "%s/state", p->dir);
	if (store_open(p->state, false, &p->store, &err) < 0) {
		print_error("%s\n", err.message);
		return -1;
	}
	work_is_published = true;
	work_pin_text = "commit-1";
	work_pins = 0;
	*state = p;
	return 0;
}

static int place_teardown(void **state)
{
	struct place *p = *state;

	if (p->graph)
		graph_free(p->graph);
	char disk[100];
	snprintf(disk, sizeof disk, "%s/disk", p->dir);
	store_close(p->store);
	if (path_exists(disk))
		umount2(disk, MNT_DETACH); /* a test that failed half-way left it */
	tree_remove(p->dir, NULL);
	arena_free(&p->arena);
	strbuf_free(&p->events);
	free(p);
	return 0;
}

/* One more kind for the graphs of a test program; NULL: none. */
static const struct stage_kind *place_kind;

/* Loads text; $N in it becomes `uses = "work"`, $L the same with the notes file. */
static struct graph *place_graph(struct place *p, const char *text)
{
	const struct kind_schema *const kinds[] = {&work_kind.schema, place_kind ? &place_kind->schema : NULL,
						   NULL};
	struct graph_options options = {.kinds = kinds};
	struct strbuf full = STRBUF_INIT, shown = STRBUF_INIT;
	struct diags diags = {0};

	for (; *text; text++)
		if (text[0] == '$' && text[1] == 'N') {
			strbuf_adds(&full, "uses = \"work\"\n");
			text++;
		} else if (text[0] == '$' && text[1] == 'L') {
			strbuf_addf(&full, "uses = \"work\"\n notes = \"%s\"\n", p->notes);
			text++;
		} else {
			strbuf_addc(&full, *text);
		}
	if (p->graph)
		graph_free(p->graph);
	p->graph = graph_load_text("t.graph", p->dir, full.data, full.len, &options, &diags);
	if (!p->graph) {
		diags_render(&diags, false, &shown);
		print_error("%s\n", shown.data ? shown.data : "?");
		strbuf_free(&shown);
	}
	diags_free(&diags);
	strbuf_free(&full);
	assert_non_null(p->graph);
	return p->graph;
}

static void place_observe(const struct event *e, void *arg)
{
	struct place *p = arg;

	switch (e->type) {
	case EVENT_TICK: break;
	case EVENT_RUN_STARTED: strbuf_adds(&p->events, "begin\n"); break;
	case EVENT_STAGE_WAITING: strbuf_addf(&p->events, "waiting %s\n", e->name); break;
	case EVENT_STAGE_STARTED: strbuf_addf(&p->events, "started %s %d\n", e->name, e->attempt); break;
	case EVENT_STAGE_PROGRESS:
		strbuf_addf(&p->events, "progress %s %d/%d %s\n", e->name, (int)e->done, (int)e->total,
			    e->unit);
		break;
	case EVENT_STAGE_LOG: strbuf_addf(&p->events, "log %s %s\n", e->name, e->message); break;
	case EVENT_STAGE_METRIC:
		strbuf_addf(&p->events, "metric %s %s %d %g\n", e->name, e->message, (int)e->step, e->value);
		break;
	case EVENT_STAGE_RETRY:
		strbuf_addf(&p->events, "retry %s %d: %s\n", e->name, e->attempt, e->message);
		break;
	case EVENT_STAGE_FINISHED:
		strbuf_addf(&p->events, "finished %s %s\n", e->name, stage_status_name(e->status));
		break;
	case EVENT_RUN_FINISHED:
		strbuf_addf(&p->events, "end %s %d\n", run_status_name(e->run_status), e->exit_code);
		break;
	}
}

static inline int place_run_with(struct place *p, const char *text, struct plan_options plan)
{
	struct run_options o = {.plan = plan,
				.jobs = p->jobs ? p->jobs : 2,
				.command = "test",
				.observe = place_observe,
				.arg = p,
				.stop = &p->stop,
				.grace = p->grace ? p->grace : 1,
				.backoff = 0.01};

	strbuf_clear(&p->events);
	p->err = (struct error)ERROR_INIT;
	return run_graph(p->store, place_graph(p, text), &o, &p->run, &p->err);
}

static inline int place_run(struct place *p, const char *text)
{
	return place_run_with(p, text, (struct plan_options){0});
}

static inline bool told(const struct place *p, const char *line)
{
	return p->events.data && strstr(p->events.data, line);
}

/* The record of a stage in the last run. */
static inline struct run_stage recorded(struct place *p, const char *name)
{
	struct error err = ERROR_INIT;
	struct run_info info;

	if (run_load(p->store, p->run, NULL, &p->arena, &info, &err) < 0)
		fail_msg("%s", err.message);
	for (size_t i = 0; i < info.nstages; i++)
		if (strcmp(info.stages[i].name, name) == 0)
			return info.stages[i];
	fail_msg("no stage %s in the record", name);
	return (struct run_stage){0};
}

static inline enum stage_status status_of_stage(struct place *p, const char *name)
{
	return recorded(p, name).status;
}

/* How often a stage with $L was executed. */
static inline int executions(const struct place *p, const char *name)
{
	return work_count(p->notes, name);
}

/* The recorded result of a stage of the last run. */
static inline struct result result_of(struct place *p, const char *name)
{
	struct run_stage st = recorded(p, name);
	struct error err = ERROR_INIT;
	enum result_state found;
	struct result r;

	assert_true(st.has_key);
	assert_int_equal(result_find(p->store, &st.key, &p->arena, true, &r, &found, &err), 0);
	assert_int_equal(found, RESULT_PRESENT);
	return r;
}

/* What a stage of the last run made, as text. */
static inline const char *content(struct place *p, const char *name)
{
	struct result r = result_of(p, name);
	struct error err = ERROR_INIT;
	char path[128];
	size_t n;

	snprintf(path, sizeof path, "%s/content", p->dir);
	tree_remove(path, NULL);
	assert_int_equal(store_put_at(p->store, &r.outputs[0].artifact.digest, false, path, &err), 0);
	char *text = file_read(path, &n, &err), *kept = arena_strdup(&p->arena, text);
	free(text);
	return kept;
}

/* As if garbage collection had taken the bytes of a stage's output. */
static inline void evict(struct place *p, const char *name)
{
	struct result r = result_of(p, name);
	sqlite3_stmt *gone;

	assert_int_equal(sqlite3_prepare_v2(store_db(p->store), "DELETE FROM blobs WHERE digest = ?1", -1,
					    &gone, NULL),
			 SQLITE_OK);
	sqlite3_bind_blob(gone, 1, r.outputs[0].artifact.digest.bytes, 32, SQLITE_STATIC);
	assert_int_equal(sqlite3_step(gone), SQLITE_DONE);
	assert_int_equal(sqlite3_changes(store_db(p->store)), 1);
	sqlite3_finalize(gone);
}

#endif
