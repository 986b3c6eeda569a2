/* What runner and worker say to each other: a stream of frames, each 4 bytes of length (big-endian) and one
 * msgpack array [type, code, step, done, total, value, name, text, hint]. One shape for all types, so that
 * there is one encoder and one decoder to trust; a frame without names is about 16 bytes. */
#ifndef RUNTIME_PROTOCOL_H
#define RUNTIME_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

/* A longer frame than this is a broken worker. Longer texts are cut before they are sent. */
#define MESSAGE_MAX      ((size_t)1 << 20)
#define MESSAGE_TEXT_MAX ((size_t)64 << 10)

enum message_type {
	/* worker to runner */
	MESSAGE_LOG = 1,    /* code: enum log_level, text */
	MESSAGE_PROGRESS,   /* done, total, name: the unit */
	MESSAGE_METRIC,     /* step, name, value */
	MESSAGE_SUMMARY,    /* name, text */
	MESSAGE_CHECKPOINT, /* step, text: the path of the file; answered with MESSAGE_SAVED */
	MESSAGE_FILE,       /* text: a path, hint: digest, step: inode, done: bytes, total: mtime in ns */
	MESSAGE_RESULT,     /* code: 0 or enum error_class, text: message, hint. The last one of a worker */
	/* runner to worker; a request to stop is a signal (worker.h) */
	MESSAGE_SAVED, /* code: 0 or enum error_class, text: message, hint */
};

struct message {
	enum message_type type;
	int64_t code, step;
	uint64_t done, total;
	double value;
	const char *name, *text, *hint; /* never NULL when decoded; NULL is sent as "" */
};

/* Appends m as one frame. */
void message_pack(struct strbuf *out, const struct message *m);
/* Takes the first frame of n bytes. Returns the bytes it used, 0 when the frame is not whole yet, -1 and
 * ERR_STAGE when what is there is no message. Strings are copied to a. */
long message_unpack(const char *bytes, size_t n, struct message *m, struct arena *a, struct error *err);

#endif
