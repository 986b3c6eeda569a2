/* Errors travel as values: a function returns 0 or -1 and fills a struct error; callers add context and pass
 * it on; only cli/ prints. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>

/* What kind of failure it was. The values are anneal's exit codes. */
enum error_class {
	ERR_NONE = 0,
	ERR_USAGE =
		2, /* wrong command line, graph, attribute or input data: the user has to change something */
	ERR_STAGE = 3,       /* a stage did its work and failed, or crashed */
	ERR_INFRA = 4,       /* network, quota, disk, memory: the same run may succeed later */
	ERR_INTERRUPTED = 5, /* stopped by SIGINT, SIGTERM or a time limit; the next run resumes */
};

struct error {
	enum error_class class;
	char message[1024]; /* one line: what, where, why; no trailing full stop or newline */
	char hint[512];     /* what to do about it; empty when the message says it all */
};

#define ERROR_INIT                                                                                           \
	{                                                                                                    \
		ERR_NONE, "", ""                                                                             \
	}

/* Fills e and returns -1, so that `return error_set(e, …)` reads well. e may be NULL: nothing is written then.
 * An error already in e is replaced. Newlines in the text become spaces. */
int error_set(struct error *e, enum error_class class, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set, with ": " and strerror(errno) behind the text. */
int error_errno(struct error *e, enum error_class class, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "text: " before e's message and returns -1: the place in which a lower floor's error happened. */
int error_context(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Replaces e's hint and returns -1. */
int error_hint(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The class for a failed system call: ERR_INFRA for a full disk, quota, memory, network and I/O errors,
 * ERR_USAGE for a missing file, wrong type or permission. */
enum error_class error_class_of_errno(int err);

/* "usage", "stage", "infra", "interrupted" or "none": the word in JSON and in the run database. */
const char *error_class_name(enum error_class class);

#endif
