/* exec: the user's own command as a stage.
 *
 * The command is given to /bin/sh -c. It runs in the graph file's directory, so that it can be tried by hand
 * as it stands in the file; what it reads there without naming it in `files` is not part of the key. It finds
 *   IN_<name>   the path of each input, read-only; rows as JSON Lines, one object of fields per line
 *   OUT_<name>  where each output has to be made; rows as JSON Lines (they are numbered anew, from 0)
 *   $1, $2 …    the paths in `files`, in their order ("$@" is all of them)
 *   TMPDIR      a directory that is removed afterwards
 * beside the environment of the run and what `env` sets. What it prints is the stage's log. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/reader.h"
#include "data/rows.h"
#include "runtime/stage.h"

extern char **environ;

static const struct attr_schema attrs[] = {
	{.name = "command",
	 .type = ATTR_STRING,
	 .flags = ATTR_REQUIRED,
	 .doc = "given to /bin/sh -c in the graph file's directory; $IN_<name> and $OUT_<name> are the paths "
		"of inputs and outputs"},
	{.name = "inputs",
	 .type = ATTR_INPUTS,
	 .ports = PORT_ANY,
	 .doc = "{ name = stage.port }: each is read at $IN_<name>; rows as JSON Lines"},
	{.name = "outputs",
	 .type = ATTR_OUTPUTS,
	 .doc = "{ name = \"kind\" }: each has to be made at $OUT_<name>; rows as JSON Lines"},
	{.name = "files",
	 .type = ATTR_SOURCES,
	 .fallback = "[]",
	 .doc = "scripts and other files the command needs, as $1, $2 …; when their content changes, the "
		"stage runs again"},
	{.name = "env",
	 .type = ATTR_STRINGS,
	 .fallback = "[]",
	 .doc = "variables for the command, as \"NAME=value\""},
	{0},
};

static const struct output_schema outputs[] = {{0}};

/* A name that the shell takes for a variable's. */
static bool is_variable(const char *name, size_t n)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";

	return n > 0 && memchr(first, name[0], sizeof first - 1) &&
	       strspn(name, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			    "abcdefghijklmnopqrstuvwxyz_") >= n;
}

static const char *check(const struct stage_node *node, const char **attr)
{
	const struct value *files = stage_attr(node, "files"), *env = stage_attr(node, "env");

	*attr = "inputs";
	for (size_t i = 0; i < node->ninputs; i++)
		if (!is_variable(node->inputs[i].name, strlen(node->inputs[i].name)))
			return "the name of an input becomes the variable IN_<name>: letters, digits and _ "
			       "only";
	*attr = "outputs";
	for (size_t i = 0; i < node->noutputs; i++)
		if (!is_variable(node->outputs[i].name, strlen(node->outputs[i].name)))
			return "the name of an output becomes the variable OUT_<name>: letters, digits and _ "
			       "only";
	*attr = "files";
	for (size_t i = 0; files && files->type == VALUE_LIST && i < files->list.n; i++)
		if (strstr(files->list.items[i], "://"))
			return "files of a command are local paths; fetch an URL with a stage of its own";
	*attr = "env";
	for (size_t i = 0; env && env->type == VALUE_LIST && i < env->list.n; i++)
		if (!is_variable(env->list.items[i], strcspn(env->list.items[i], "=")) ||
		    !strchr(env->list.items[i], '='))
			return "each element has to read \"NAME=value\"";
	return NULL;
}

static void set_path(const char *prefix, const char *name, const char *path)
{
	struct strbuf variable = STRBUF_INIT;

	strbuf_addf(&variable, "%s_%s", prefix, name);
	setenv(variable.data, path, 1);
	strbuf_free(&variable);
}

static char *scratch_path(const struct stage_ctx *ctx, const char *prefix, const char *name)
{
	struct strbuf file = STRBUF_INIT;

	strbuf_addf(&file, "%s/%s.%s.jsonl", ctx_scratch(ctx), prefix, name);
	return strbuf_steal(&file);
}

/* ---- rows ---- */

/* Writes the rows file at from as JSON Lines to path. */
static int write_lines(const char *from, const char *path, struct error *err)
{
	struct rows *rows = rows_open(from, err);
	struct strbuf line = STRBUF_INIT;
	int rc = -1;

	if (!rows)
		return -1;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0) {
		error_errno(err, error_class_of_errno(errno), "%s", path);
		goto out;
	}
	for (uint64_t i = 0; i < rows_count(rows); i++) {
		struct row row;
		if (rows_get(rows, i, &row, err) < 0)
			goto out;
		row_to_json(&row, &line);
		strbuf_addc(&line, '\n');
		if (line.len < (size_t)1 << 16)
			continue;
		if (fd_write_all(fd, line.data, line.len, path, err) < 0)
			goto out;
		strbuf_clear(&line);
	}
	rc = fd_write_all(fd, line.len ? line.data : "", line.len, path, err);
out:
	if (fd >= 0 && close(fd) < 0 && rc == 0)
		rc = error_errno(err, error_class_of_errno(errno), "%s", path);
	strbuf_free(&line);
	rows_close(rows);
	return rc;
}

/* Makes the rows file at path of the JSON Lines that the command has written. */
static int read_lines(struct stage_ctx *ctx, const char *name, const char *lines, const char *path,
		      struct error *err)
{
	struct strbuf variable = STRBUF_INIT, fields = STRBUF_INIT;
	struct reader *in = NULL;
	struct rows_writer *out = NULL;
	uint64_t id, n = 0;
	int more = -1;

	strbuf_addf(&variable, "$OUT_%s", name);
	if (!path_exists(lines)) {
		error_set(err, ERR_STAGE, "the command ended well but wrote nothing to %s", variable.data);
		error_hint(err, "rows have to be written there, one JSON object per line");
		goto out;
	}
	struct reader_file file = {.path = lines};
	struct reader_options options = {.format = "json"};
	in = reader_open(&file, 1, &options, err);
	out = in ? rows_create(path, err) : NULL;
	if (!out)
		goto out;
	while ((more = reader_next(in, &id, &fields, err)) > 0) {
		if (rows_add(out, id, fields.data, fields.len, err) < 0) {
			more = -1;
			break;
		}
		n++;
	}
	if (more == 0) {
		more = rows_commit(out, err);
		out = NULL;
		ctx_summary(ctx, name, "%llu rows", (unsigned long long)n);
	}
out:
	rows_abort(out);
	reader_close(in);
	if (more < 0 && str_starts(err->message, lines)) { /* said in words that the user knows */
		struct error whole = *err;
		error_set(err, whole.class, "%s%s", variable.data, whole.message + strlen(lines));
		error_hint(err, "%s", whole.hint);
	}
	strbuf_free(&variable);
	strbuf_free(&fields);
	if (more < 0 && err->class == ERR_USAGE)
		err->class = ERR_STAGE; /* what the command wrote is at fault, not the graph */
	return more < 0 ? -1 : 0;
}

/* ---- the command ---- */

/* Its arguments behind `sh -c command`: a name for $0, then the files, absolute because the command starts
 * elsewhere. */
static char **arguments(const struct stage_ctx *ctx)
{
	size_t n;
	const char *const *files = ctx_paths(ctx, "files", &n);
	char **argv = xcalloc(n + 5, sizeof *argv);

	argv[0] = xstrdup("/bin/sh");
	argv[1] = xstrdup("-c");
	argv[2] = xstrdup(ctx_str(ctx, "command"));
	argv[3] = xstrdup(ctx_node(ctx)->name);
	for (size_t i = 0; i < n; i++) {
		argv[4 + i] = realpath(files[i], NULL);
		if (!argv[4 + i])
			argv[4 + i] = xstrdup(files[i]);
	}
	return argv;
}

static int spawn(const struct stage_ctx *ctx, pid_t *pid, struct error *err)
{
	const struct span *span = &ctx_node(ctx)->span;
	const char *dir = span->source && span->source->basedir ? span->source->basedir : ".";
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t how;
	sigset_t defaults;
	char **argv = arguments(ctx);

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addchdir_np(&actions, dir);
	posix_spawnattr_init(&how);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE); /* ignored in the worker; `yes | head` relies on it */
	posix_spawnattr_setsigdefault(&how, &defaults);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGDEF);
	errno = posix_spawn(pid, argv[0], &actions, &how, argv, environ);
	int rc = errno ? error_errno(err, errno == ENOENT ? ERR_USAGE : ERR_INFRA,
				     "cannot start /bin/sh in %s", dir)
		       : 0;
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&actions);
	for (size_t i = 0; argv[i]; i++)
		free(argv[i]);
	free(argv);
	return rc;
}

/* Waits for the command. What it printed last is added to the message by the runner. */
static int await(const struct stage_ctx *ctx, pid_t pid, struct error *err)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, ERR_INFRA, "waiting for the command");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (ctx_stopping(ctx))
		return error_set(err, ERR_INTERRUPTED, "the command was stopped");
	if (WIFSIGNALED(status)) {
		const char *name = sigabbrev_np(WTERMSIG(status));
		return error_set(err, ERR_STAGE, "the command was killed by SIG%s%s", name ? name : "?",
				 WTERMSIG(status) == SIGKILL ? ": probably out of memory" : "");
	}
	error_set(err, ERR_STAGE, "the command ended with status %d", WEXITSTATUS(status));
	if (WEXITSTATUS(status) == 127)
		error_hint(err, "127 means that a program was not found; relative paths start at the graph "
				"file's directory");
	return -1;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const struct stage_node *node = ctx_node(ctx);
	char **lines = xcalloc(node->noutputs + 1, sizeof *lines);
	size_t nenv;
	const char *const *env = ctx_list(ctx, "env", &nenv);
	pid_t pid;
	int rc = -1;

	for (size_t i = 0; i < nenv; i++) {
		char *name = xstrndup(env[i], strcspn(env[i], "="));
		setenv(name, strchr(env[i], '=') + 1, 1);
		free(name);
	}
	setenv("TMPDIR", ctx_scratch(ctx), 1);
	for (size_t i = 0; i < node->ninputs; i++) {
		const char *name = node->inputs[i].name, *path = ctx_input(ctx, name);
		if (ctx_input_kind(ctx, name) != PORT_ROWS) {
			set_path("IN", name, path);
			continue;
		}
		char *jsonl = scratch_path(ctx, "in", name);
		int failed = write_lines(path, jsonl, err);
		set_path("IN", name, jsonl);
		free(jsonl);
		if (failed) {
			error_context(err, "input %s", name);
			goto out;
		}
	}
	for (size_t i = 0; i < node->noutputs; i++) {
		const struct stage_output *o = &node->outputs[i];
		if (o->kind == PORT_ROWS)
			lines[i] = scratch_path(ctx, "out", o->name);
		set_path("OUT", o->name, lines[i] ? lines[i] : ctx_output(ctx, o->name));
	}
	if (spawn(ctx, &pid, err) < 0 || await(ctx, pid, err) < 0)
		goto out;
	for (size_t i = 0; i < node->noutputs; i++)
		if (lines[i] && read_lines(ctx, node->outputs[i].name, lines[i],
					   ctx_output(ctx, node->outputs[i].name), err) < 0)
			goto out;
	rc = 0;
out:
	for (size_t i = 0; i < node->noutputs; i++)
		free(lines[i]);
	free(lines);
	return rc;
}

const struct stage_kind stage_exec = {
	.schema = {.name = "exec",
		   .version = 1,
		   .doc = "runs a command of your own",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
