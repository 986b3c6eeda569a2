/* One attempt of a stage in a process of its own.
 *
 * A worker is a fork of the runner that goes on without exec: the runner has one thread and starts no OpenMP
 * or other thread pool, so its memory is whole in the child, and a stage starts in a fraction of a
 * millisecond with all it needs already in struct stage_ctx. The child
 *   - leads a process group of its own, so that all a stage starts can be killed with it;
 *   - keeps four descriptors alone: stdin (/dev/null), stdout and stderr (pipes to the runner, which makes
 * log lines of them) and the control socket. Store, leases and other workers' pipes are closed without
 * touching SQLite: only the runner writes to the database;
 *   - takes SIGTERM as the request to stop (stage_stopping). The runner sends it to the whole group, so that
 * a stage's own children hear of it. The kernel sends it too when the runner dies; then the whole group is
 * killed at once. */
#ifndef RUNTIME_WORKER_H
#define RUNTIME_WORKER_H

#include <pthread.h>
#include <sys/types.h>

#include "base/mem.h"
#include "runtime/protocol.h"
#include "runtime/stage.h"

/* The descriptor of the control socket in the worker. */
#define WORKER_CONTROL 3

struct stage_input {
	const char *path;
	struct digest digest;
	enum port_kind kind;
};

struct stage_ctx {
	/* filled by the runner before the fork; paths are absolute */
	const struct stage_node *node;
	const char *pin;                  /* "" for none */
	const struct stage_input *inputs; /* one per node->inputs, same order */
	const char *const *outputs;       /* one per node->outputs, same order: where they are to be made */
	const char *
		scratch; /* the attempt's directory itself: a further one would cost more than it keeps apart */
	const char *checkpoint; /* NULL when there is none */
	int64_t checkpoint_step;
	const char *devices; /* CUDA_VISIBLE_DEVICES for the stage; NULL: as inherited */

	/* the worker's own */
	pthread_mutex_t lock;      /* a stage may report from several threads */
	uint64_t progress_sent_ns; /* clock of the last progress message */
	struct strbuf frame;       /* being sent */
};

struct worker {
	pid_t pid;
	int control;  /* stream socket to the worker; its end of file tells that the worker is gone */
	int out, err; /* what it prints */
};

/* Forks; the child runs ctx->node's kind and never returns. The descriptors in w are close-on-exec and
 * non-blocking, and the caller's to close. ERR_INFRA when the system is out of processes or descriptors. */
int worker_start(struct stage_ctx *ctx, struct worker *w, struct error *err);

#endif
