/* The life of one attempt in the runner: staging, inputs, start, stop, and what its end means. */
#include "runtime/run_state.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

#define GRACE_DEFAULT 10.0

/* ---- start ---- */

static const struct result_output *input_of(const struct runner *r, const struct edge *e)
{
	return &r->plan->stages[e->stage].result.outputs[e->output];
}

/* Makes the inputs in the staging directory and fills the context with all paths. */
static int prepare(struct runner *r, struct attempt *a, struct error *err)
{
	const struct stage_node *n = &r->graph->stages[a->stage];
	const struct plan_stage *st = &r->plan->stages[a->stage];
	struct stage_input *inputs = arena_calloc(&a->arena, n->ninputs + 1, sizeof *inputs);
	const char **outputs = arena_calloc(&a->arena, n->noutputs + 1, sizeof *outputs);

	a->ctx = (struct stage_ctx){
		.node = n, .pin = st->pin ? st->pin : "", .inputs = inputs, .outputs = outputs};
	for (size_t e = 0; e < n->ninputs; e++) {
		const struct artifact *in = &input_of(r, &n->inputs[e])->artifact;
		inputs[e].digest = in->digest;
		inputs[e].kind = input_of(r, &n->inputs[e])->kind;
		inputs[e].path = arena_printf(&a->arena, "%s/in.%s", a->dir, n->inputs[e].name);
		if (store_put_at(r->store, &in->digest, in->is_tree, inputs[e].path, err) < 0)
			return error_context(err, "input %s", n->inputs[e].name);
	}
	for (size_t o = 0; o < n->noutputs; o++)
		outputs[o] = arena_printf(&a->arena, "%s/out.%s", a->dir, n->outputs[o].name);
	a->ctx.scratch = a->dir;
	char *checkpoint = arena_printf(&a->arena, "%s/in.-checkpoint",
					a->dir); /* no name of an input begins so */
	int found = checkpoint_fetch(r->store, &st->key, checkpoint, &a->ctx.checkpoint_step, err);
	if (found > 0)
		a->ctx.checkpoint = checkpoint;
	return found < 0 ? -1 : 0;
}

/* A directory of its own for the attempt: that of one that ended, emptied, under a new name, which a straggler of the old one
 * does not know; making and removing directories is what costs most beside the stage's process. */
static int make_dir(struct runner *r, const char *path, struct error *err)
{
	while (r->nspare > 0) {
		char *spare = r->spare[--r->nspare];
		int rc = rename(spare, path);
		free(spare);
		if (rc == 0)
			return 0;
	}
	return mkdir(path, 0777) == 0 ? 0 : error_errno(err, error_class_of_errno(errno), "%s", path);
}

/* Empties the directory and keeps it for another attempt. */
static void clear_dir(struct runner *r, const char *path)
{
	DIR *d = opendir(path);
	struct dirent *entry;
	bool clean = d != NULL;

	while (clean && (entry = readdir(d))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(d), entry->d_name, 0) == 0)
			continue;
		char *inner = path_join(path, entry->d_name);
		clean = tree_remove(inner, NULL) == 0;
		free(inner);
	}
	if (d)
		closedir(d);
	if (!clean || r->nspare == r->jobs)
		tree_remove(path, NULL);
	else
		r->spare[r->nspare++] = xstrdup(path);
}

int attempt_start(struct runner *r, size_t i, struct error *err)
{
	const struct stage_node *n = &r->graph->stages[i];

	if (!r->staging && store_staging(r->store, &r->staging, err) < 0)
		return -1;
	struct attempt *a = xcalloc(1, sizeof *a);
	a->stage = i;
	a->number = r->tasks[i].record->attempts;
	a->worker = (struct worker){-1, -1, -1, -1};
	a->dir = arena_printf(&a->arena, "%s/%zu.%d", r->staging, i, a->number);
	if (make_dir(r, a->dir, err) < 0)
		goto fail;
	if (prepare(r, a, err) < 0)
		goto fail;
	share_take(r, n, &a->share, &a->arena, &a->ctx.devices);
	a->started = clock_mono();
	a->deadline = n->timeout > 0 ? a->started + n->timeout : 0;
	if (worker_start(&a->ctx, &a->worker, err) < 0)
		goto fail;
	r->attempts[r->nattempts++] = a;
	return 0;
fail:
	share_give_back(r, &a->share);
	attempt_free(r, a);
	return -1;
}

/* ---- stop ---- */

void attempt_ask_to_stop(struct runner *r, struct attempt *a)
{
	if (a->kill_at > 0)
		return;
	kill(-a->worker.pid, SIGTERM);
	a->kill_at = clock_mono() + (r->options->grace > 0 ? r->options->grace : GRACE_DEFAULT);
}

void attempt_kill(struct attempt *a)
{
	if (!a->killed)
		kill(-a->worker.pid, SIGKILL);
	a->killed = true;
}

/* ---- end ---- */

static void tell_crash(const struct attempt *a, int status, const struct rusage *used, struct error *err)
{
	struct strbuf last = STRBUF_INIT;

	for (size_t i = 0; i < TAIL_LINES; i++)
		if (a->tail[i])
			strbuf_addf(&last, "%s%s", last.len ? " | " : "; it last said: ", a->tail[i]);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		char rss[16];
		format_bytes((uint64_t)used->ru_maxrss * 1024, rss);
		error_set(err, ERR_STAGE, "attempt %d was killed (SIGKILL): probably out of memory, at %s%s",
			  a->number, rss, last.len ? last.data : "");
		error_hint(err,
			   "declare `memory` so that fewer stages run beside it, or make the stage smaller");
	} else if (WIFSIGNALED(status)) {
		const char *name = sigabbrev_np(WTERMSIG(status)), *what = sigdescr_np(WTERMSIG(status));
		error_set(err, ERR_STAGE, "attempt %d crashed with SIG%s (%s)%s", a->number,
			  name ? name : "?", what ? what : "unknown signal", last.len ? last.data : "");
	} else {
		error_set(err, ERR_STAGE, "attempt %d ended with status %d before it had a result%s",
			  a->number, WEXITSTATUS(status), last.len ? last.data : "");
	}
	strbuf_free(&last);
}

/* What the end of a worker without a result means. */
static void judge(const struct attempt *a, const struct stage_node *n, int status, const struct rusage *used,
		  struct error *err)
{
	char limit[24];

	*err = a->answer;
	if (a->timed_out) {
		format_duration(n->timeout, limit);
		if (a->answered && err->class == ERR_INTERRUPTED && a->checkpointed) {
			error_set(err, ERR_INTERRUPTED,
				  "its timeout of %s is up; the next run goes on from its checkpoint", limit);
			return;
		}
		if (!a->answered || err->class == ERR_INTERRUPTED || err->class == ERR_STAGE) {
			error_set(err, ERR_STAGE, "ran longer than its timeout of %s%s", limit,
				  a->killed ? " and was killed" : "");
			error_hint(err, "raise `timeout` in the stage");
		}
		return;
	}
	if (a->answered) {
		if (a->stopped && (err->class == ERR_STAGE || err->class == ERR_INFRA)) {
			struct error whole = *err; /* what broke off in the middle is no fault of the stage */
			error_set(err, ERR_INTERRUPTED, "stopped: %s", whole.message);
		} else if (err->class == ERR_STAGE && a->last_stderr &&
			   !strstr(err->message, a->last_stderr)) {
			struct error whole = *err;
			error_set(err, ERR_STAGE, "%s: %s", whole.message, a->last_stderr);
			error_hint(err, "%s", whole.hint);
		}
		return;
	}
	if (a->stopped)
		error_set(err, ERR_INTERRUPTED, "killed while the run was stopping");
	else
		tell_crash(a, status, used, err);
}

/* Ends the worker and all it started, and reads what they had still printed. The group is killed while its leader is not
 * reaped, so that no stranger can have its number. */
static void silence(struct runner *r, struct attempt *a)
{
	siginfo_t info;

	/* A worker that has answered has nothing left to do. Of one that has not, how it ended tells why: it must be seen first. */
	while (!a->answered && waitid(P_PID, (id_t)a->worker.pid, &info, WEXITED | WNOWAIT) < 0 &&
	       errno == EINTR)
		continue;
	kill(-a->worker.pid, SIGKILL);
	for (int which = 0; which < 2; which++)
		attempt_read_lines(r, a, which, (size_t)1 << 20);
	attempt_flush_lines(r, a);
}

/* Reaps the worker and adds up what it used. */
static void reap(struct runner *r, struct attempt *a, int *status, struct rusage *used)
{
	struct run_stage *rec = r->tasks[a->stage].record;

	while (wait4(a->worker.pid, status, 0, used) < 0 && errno == EINTR)
		continue;
	rec->user_seconds += (double)used->ru_utime.tv_sec + (double)used->ru_utime.tv_usec / 1e6;
	rec->system_seconds += (double)used->ru_stime.tv_sec + (double)used->ru_stime.tv_usec / 1e6;
	if ((uint64_t)used->ru_maxrss * 1024 > rec->max_rss)
		rec->max_rss = (uint64_t)used->ru_maxrss * 1024;
}

/* ---- results ---- */

static int check_output(const struct attempt *a, const struct stage_output *o, const char *path,
			struct error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0) {
		if (errno != ENOENT)
			return error_errno(err, ERR_INFRA, "output %s", o->name);
		error_set(err, ERR_STAGE, "it ended well but did not make its output \"%s\"", o->name);
		if (strcmp(a->ctx.node->kind->name, "exec") == 0)
			error_hint(err, "the command has to write a file or directory at $OUT_%s", o->name);
		return -1;
	}
	bool wants_dir = o->kind == PORT_MODEL || o->kind == PORT_ADAPTER,
	     any = o->kind == PORT_FILE || o->kind == PORT_ANY;
	if (!any && wants_dir != S_ISDIR(st.st_mode))
		return error_set(err, ERR_STAGE, "output \"%s\" has to be a %s (%s), but is a %s", o->name,
				 wants_dir ? "directory" : "file", port_kind_name(o->kind),
				 S_ISDIR(st.st_mode) ? "directory" : "file");
	return 0;
}

static bool same_outputs(const struct result *x, const struct result *y, const char **differs)
{
	*differs = "the number of outputs";
	if (x->noutputs != y->noutputs)
		return false;
	for (size_t i = 0; i < x->noutputs; i++)
		if (!digest_equal(&x->outputs[i].artifact.digest, &y->outputs[i].artifact.digest)) {
			*differs = x->outputs[i].name;
			return false;
		}
	return true;
}

static void warn_nondeterminism(struct runner *r, struct attempt *a, const char *output)
{
	char line[256];

	snprintf(line, sizeof line,
		 "not deterministic: output %s differs from the one on record for the same key", output);
	attempt_log(r, a, "warning", LOG_WARNING, line);
}

/* A stage that reads files of the user's may have read others than those that its key stands for: then nothing is recorded
 * under the key. */
static int check_sources(struct runner *r, const struct attempt *a, struct error *err)
{
	const struct stage_node *n = a->ctx.node;
	struct strbuf now = STRBUF_INIT;
	struct digest key;
	bool reads = false;

	for (const struct attr_schema *s = n->kind->attrs; s && s->name; s++)
		reads |= s->type == ATTR_SOURCE || s->type == ATTR_SOURCES;
	if (!reads)
		return 0;
	struct digest *inputs = xmalloc((n->ninputs + 1) * sizeof *inputs);
	for (size_t e = 0; e < n->ninputs; e++)
		inputs[e] = a->ctx.inputs[e].digest;
	int rc = key_preimage(r->store, n, a->ctx.pin, inputs, &now, err);
	free(inputs);
	if (rc == 0) {
		digest_of(now.data, now.len, &key);
		if (!digest_equal(&key, &r->plan->stages[a->stage].key)) {
			rc = error_set(
				err, ERR_STAGE,
				"a file that it reads was changed while it ran: its result is not kept");
			error_hint(err, "run the same command again");
		}
	}
	strbuf_free(&now);
	return rc;
}

/* Takes the outputs into the store and records the result. *final when trying the stage again is of no use.
 */
static int store_result(struct runner *r, struct attempt *a, struct result *out, bool *final,
			struct error *err)
{
	const struct stage_node *n = &r->graph->stages[a->stage];
	struct plan_stage *st = &r->plan->stages[a->stage];
	struct result_output *outputs = arena_calloc(&r->plan->arena, n->noutputs + 1, sizeof *outputs);
	struct result_fact *facts = arena_calloc(&r->plan->arena, a->nfacts + 1, sizeof *facts);
	const char *differs;
	bool existing = false;

	for (size_t o = 0; o < n->noutputs; o++)
		if (check_output(a, &n->outputs[o], a->ctx.outputs[o], err) < 0)
			return -1;
	if (check_sources(r, a, err) < 0) {
		*final = true;
		return -1;
	}
	for (size_t o = 0; o < n->noutputs; o++) {
		outputs[o] = (struct result_output){.name = n->outputs[o].name, .kind = n->outputs[o].kind};
		if (store_take_known(r->store, a->ctx.outputs[o], a->files, a->nfiles, &outputs[o].artifact,
				     err) < 0) {
			*final = err->class == ERR_INFRA;
			return error_context(err, "output \"%s\"", n->outputs[o].name);
		}
	}
	for (size_t f = 0; f < a->nfacts; f++)
		facts[f] = (struct result_fact){arena_strdup(&r->plan->arena, a->facts[f].name),
						arena_strdup(&r->plan->arena, a->facts[f].value)};
	*out = (struct result){.key = st->key,
			       .kind = n->kind->name,
			       .version = n->kind->version,
			       .outputs = outputs,
			       .noutputs = n->noutputs,
			       .facts = facts,
			       .nfacts = a->nfacts,
			       .preimage = st->preimage,
			       .preimage_len = st->preimage_len,
			       .finished_ms = clock_wall_ms(),
			       .seconds = clock_mono() - a->started,
			       .run = r->id};
	*final = true;
	if (result_record(r->store, out, st->replace, &existing, err) < 0)
		return -1;
	if (st->replace && st->result.noutputs > 0 && !same_outputs(&st->result, out, &differs))
		warn_nondeterminism(r, a, differs);
	if (existing && !st->replace) {
		/* The first result of a key stays, and what follows has to stand on it. */
		struct result first;
		enum result_state state;
		if (result_find(r->store, &st->key, &r->plan->arena, false, &first, &state, err) < 0)
			return -1;
		if (state == RESULT_PRESENT && !same_outputs(&first, out, &differs)) {
			warn_nondeterminism(r, a, differs);
			*out = first;
		}
	}
	return 0;
}

int attempt_end(struct runner *r, struct attempt *a, struct result *result, bool *final, struct error *err)
{
	const struct stage_node *n = &r->graph->stages[a->stage];
	struct rusage used = {0};
	int status = 0;

	int rc = -1;

	*final = false;
	silence(r, a);
	if (a->answered && a->answer.class == ERR_NONE)
		rc = store_result(r, a, result, final,
				  err); /* while the worker's memory is taken down beside it */
	reap(r, a, &status, &used);
	r->tasks[a->stage].record->seconds += clock_mono() - a->started;
	if (a->answered && a->answer.class == ERR_NONE)
		return rc;
	judge(a, n, status, &used, err);
	*final = err->class == ERR_USAGE || err->class == ERR_INTERRUPTED;
	return -1;
}

void attempt_free(struct runner *r, struct attempt *a)
{
	int fds[] = {a->worker.control, a->worker.out, a->worker.err};

	for (size_t i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	clear_dir(r, a->dir);
	for (size_t i = 0; i < TAIL_LINES; i++)
		free(a->tail[i]);
	free(a->last_stderr);
	free(a->facts);
	free(a->files);
	strbuf_free(&a->control);
	strbuf_free(&a->lines[0]);
	strbuf_free(&a->lines[1]);
	arena_free(&a->arena);
	free(a);
}
