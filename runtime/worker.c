/* The life of a worker process, and the calls by which a stage reports. */
#include "runtime/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/outfile.h"
#include "runtime/store.h"

#define PROGRESS_INTERVAL_NS ((uint64_t)100 * 1000 * 1000)

static volatile sig_atomic_t stopping;
static volatile pid_t runner_pid;

/* SIGTERM: from the runner, to stop; or from the kernel because the runner is gone, and then nobody is left
 * to take a result, and whatever the stage has started goes down with it. */
static void on_terminate(int sig)
{
	(void)sig;
	if (getppid() != runner_pid)
		kill(0, SIGKILL);
	stopping = 1;
}

/* ---- in the worker ---- */

/* A worker that cannot reach its runner has nothing left to do. */
static void send_message(struct stage_ctx *ctx, const struct message *m)
{
	strbuf_clear(&ctx->frame);
	message_pack(&ctx->frame, m);
	for (size_t sent = 0; sent < ctx->frame.len;) {
		ssize_t n = send(WORKER_CONTROL, ctx->frame.data + sent, ctx->frame.len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			_exit(1);
		sent += (size_t)n;
	}
}

static void report(struct stage_ctx *ctx, const struct message *m)
{
	pthread_mutex_lock(&ctx->lock);
	send_message(ctx, m);
	pthread_mutex_unlock(&ctx->lock);
}

/* Waits for the answer to what was sent last. */
static void read_answer(struct message *m, struct arena *a)
{
	struct strbuf in = STRBUF_INIT;
	long used;

	while ((used = message_unpack(in.data, in.len, m, a, NULL)) == 0) {
		ssize_t n = read(WORKER_CONTROL, strbuf_reserve(&in, 4096), 4096);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(1);
		in.len += (size_t)n;
	}
	if (used < 0)
		_exit(1);
	strbuf_free(&in);
}

/* Tells the digest of a file of an output that was taken while it was written, or, of a large file, is taken here rather than in
 * the runner, which has others to look after. What cannot be read the runner will say. */
static int tell_file(const char *relative, const char *path, void *arg, struct error *err)
{
	struct stat before, after;
	struct digest digest;
	char text[DIGEST_TEXT_SIZE];

	(void)relative;
	(void)err;
	if (lstat(path, &before) < 0 || !S_ISREG(before.st_mode))
		return 0;
	if (!outfile_digest(&before, &digest) &&
	    ((uint64_t)before.st_size <= STORE_INLINE_MAX || digest_of_file(path, &digest, NULL, NULL) ||
	     lstat(path, &after) < 0 || !stat_same_file(&before, &after)))
		return 0;
	digest_text(&digest, text);
	send_message(arg, &(struct message){.type = MESSAGE_FILE,
					    .text = path,
					    .hint = text,
					    .step = (int64_t)before.st_ino,
					    .done = (uint64_t)before.st_size,
					    .total = (uint64_t)stat_modified_ns(&before)});
	return 0;
}

static void tell_files(struct stage_ctx *ctx)
{
	for (size_t o = 0; o < ctx->node->noutputs; o++) {
		struct stat st;

		if (lstat(ctx->outputs[o], &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode))
			tree_walk(ctx->outputs[o], tell_file, ctx, NULL);
		else
			tell_file("", ctx->outputs[o], ctx, NULL);
	}
}

static void set_signals(void)
{
	static const int defaults[] = {SIGINT, SIGHUP, SIGQUIT, SIGCHLD, SIGALRM, SIGUSR1, SIGUSR2};
	struct sigaction sa = {.sa_handler = on_terminate, .sa_flags = SA_RESTART};
	sigset_t none;

	sigemptyset(&sa.sa_mask);
	sigaction(SIGTERM, &sa, NULL);
	for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
		signal(defaults[i], SIG_DFL);
	signal(SIGPIPE, SIG_IGN); /* a broken connection is an error of a call, not a death */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Puts the descriptors at 0 to 3 and closes everything else. */
static bool set_descriptors(int control, int out, int errfd)
{
	int want[] = {open("/dev/null", O_RDONLY), out, errfd, control};

	for (size_t i = 0; i < 4; i++) /* out of the way first: they may lie on 0 to 3 */
		if (want[i] < 0 || (want[i] = fcntl(want[i], F_DUPFD, 10)) < 0)
			return false;
	for (int i = 0; i < 4; i++)
		if (dup2(want[i], i) < 0)
			return false;
	closefrom(4);
	return fcntl(WORKER_CONTROL, F_SETFD, FD_CLOEXEC) == 0;
}

static _Noreturn void worker_main(struct stage_ctx *ctx, int control, int out, int errfd, pid_t runner)
{
	const struct stage_kind *kind = (const struct stage_kind *)ctx->node->kind;
	static char lines[BUFSIZ];
	struct error err = ERROR_INIT;

	setpgid(0, 0);
	runner_pid = runner;
	stopping = 0;
	set_signals();
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != runner)
		_exit(1); /* the runner died before the kernel knew that we want to hear of it */
	if (!set_descriptors(control, out, errfd))
		_exit(1);
	setvbuf(stdout, lines, _IOLBF,
		sizeof lines); /* with a buffer given, glibc lets go of the runner's mode */
	if (ctx->devices)
		setenv("CUDA_VISIBLE_DEVICES", ctx->devices, 1);

	outfile_hashing();
	int rc = kind->run(ctx, &err);
	fflush(stdout);
	fflush(stderr);
	if (rc == 0)
		tell_files(ctx);
	if (rc < 0 && err.class == ERR_NONE)
		error_set(&err, ERR_STAGE, "failed without saying why");
	send_message(ctx, &(struct message){.type = MESSAGE_RESULT,
					    .code = rc < 0 ? (int)err.class : 0,
					    .text = rc < 0 ? err.message : "",
					    .hint = rc < 0 ? err.hint : ""});
	_exit(0);
}

/* ---- in the runner ---- */

static void close_pair(int fd[2])
{
	for (int i = 0; i < 2; i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

int worker_start(struct stage_ctx *ctx, struct worker *w, struct error *err)
{
	int control[2] = {-1, -1}, out[2] = {-1, -1}, errs[2] = {-1, -1};
	pid_t runner = getpid();

	pthread_mutex_init(&ctx->lock, NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    pipe2(errs, O_CLOEXEC) < 0) {
		error_errno(err, ERR_INFRA, "cannot make the pipes of a worker");
		goto fail;
	}
	fflush(stdout); /* or the child would print it again */
	pid_t pid = fork();
	if (pid < 0) {
		error_errno(err, ERR_INFRA, "cannot start a worker process");
		goto fail;
	}
	if (pid == 0)
		worker_main(ctx, control[1], out[1], errs[1], runner);
	setpgid(pid, pid); /* both sides do it: whoever comes first */
	close(control[1]);
	close(out[1]);
	close(errs[1]);
	fcntl(control[0], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(errs[0], F_SETFL, O_NONBLOCK);
	*w = (struct worker){pid, control[0], out[0], errs[0]};
	return 0;
fail:
	close_pair(control);
	close_pair(out);
	close_pair(errs);
	return -1;
}

/* ---- what a stage calls ---- */

bool ctx_stopping(const struct stage_ctx *ctx)
{
	(void)ctx;
	return stopping;
}

void ctx_log(struct stage_ctx *ctx, enum log_level level, const char *fmt, ...)
{
	va_list ap;
	char *line = NULL;

	va_start(ap, fmt);
	int n = vasprintf(&line, fmt, ap);
	va_end(ap);
	if (n >= 0)
		report(ctx, &(struct message){.type = MESSAGE_LOG, .code = (int)level, .text = line});
	free(line);
}

void ctx_progress(struct stage_ctx *ctx, uint64_t done, uint64_t total, const char *unit)
{
	uint64_t now = clock_mono_ns();

	pthread_mutex_lock(&ctx->lock);
	if (now - ctx->progress_sent_ns >= PROGRESS_INTERVAL_NS || (total > 0 && done == total)) {
		ctx->progress_sent_ns = now;
		send_message(ctx,
			     &(struct message){
				     .type = MESSAGE_PROGRESS, .done = done, .total = total, .name = unit});
	}
	pthread_mutex_unlock(&ctx->lock);
}

void ctx_metric(struct stage_ctx *ctx, int64_t step, const char *name, double value)
{
	report(ctx, &(struct message){.type = MESSAGE_METRIC, .step = step, .name = name, .value = value});
}

void ctx_summary(struct stage_ctx *ctx, const char *name, const char *fmt, ...)
{
	va_list ap;
	char *text = NULL;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n >= 0)
		report(ctx, &(struct message){.type = MESSAGE_SUMMARY, .name = name, .text = text});
	free(text);
}

const char *ctx_checkpoint(const struct stage_ctx *ctx, int64_t *step)
{
	if (ctx->checkpoint && step)
		*step = ctx->checkpoint_step;
	return ctx->checkpoint;
}

int ctx_checkpoint_save(struct stage_ctx *ctx, int64_t step, const char *path, struct error *err)
{
	struct arena a = ARENA_INIT;
	struct message answer;
	char *absolute = realpath(path, NULL); /* the runner may stand in another directory */
	int rc = 0;

	if (!absolute)
		return error_errno(err, ERR_STAGE, "checkpoint %s", path);
	pthread_mutex_lock(&ctx->lock);
	send_message(ctx, &(struct message){.type = MESSAGE_CHECKPOINT, .step = step, .text = absolute});
	read_answer(&answer, &a);
	pthread_mutex_unlock(&ctx->lock);
	if (answer.code != 0) {
		rc = error_set(err, (enum error_class)answer.code, "%s", answer.text);
		error_hint(err, "%s", answer.hint);
	}
	free(absolute);
	arena_free(&a);
	return rc;
}
