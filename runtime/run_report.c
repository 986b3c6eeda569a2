/* What a running stage says: frames and printed lines become events and history. */
#include "runtime/run_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define MAX_FACTS 256 /* of one result; the rest is dropped */

static const char *const level_names[] = {"info", "warning", "error"};

void run_emit(struct runner *r, struct event *e)
{
	if (!r->options->observe)
		return;
	e->run = r->id;
	e->wall_ms = clock_wall_ms();
	if (e->type != EVENT_RUN_STARTED && e->type != EVENT_RUN_FINISHED)
		e->name = r->graph->stages[e->stage].name;
	r->options->observe(e, r->options->arg);
}

void run_unrecorded(struct runner *r, const struct error *e)
{
	if (r->unrecorded.class == ERR_NONE)
		r->unrecorded = *e;
}

void run_record_stage(struct runner *r, size_t i)
{
	struct error e = ERROR_INIT;
	uint32_t at = r->position[i];

	if (run_stage_update(r->store, r->id, at, &r->records[at], &e) < 0)
		run_unrecorded(r, &e);
}

void run_flush_history(struct runner *r)
{
	struct error e = ERROR_INIT;

	if (run_flush(r->store, &e) < 0)
		run_unrecorded(r, &e);
}

/* ---- lines ---- */

static void keep_tail(struct attempt *a, const char *line)
{
	free(a->tail[0]);
	memmove(a->tail, a->tail + 1, (TAIL_LINES - 1) * sizeof *a->tail);
	a->tail[TAIL_LINES - 1] = xstrndup(line, strnlen(line, TAIL_BYTES));
}

void attempt_log(struct runner *r, struct attempt *a, const char *stream, enum log_level level,
		 const char *line)
{
	size_t n = strlen(line) + 1;
	struct error e = ERROR_INIT;

	if (a->logged > LOG_MAX_BYTES)
		return;
	a->logged += n;
	if (a->logged > LOG_MAX_BYTES) {
		stream = level_names[level = LOG_WARNING];
		line = "this attempt has printed too much: no further lines are kept";
	}
	if (run_log(r->store, r->id, r->position[a->stage], a->number, stream, clock_wall_ms(), line, &e) < 0)
		run_unrecorded(r, &e);
	run_emit(r, &(struct event){.type = EVENT_STAGE_LOG,
				    .stage = a->stage,
				    .attempt = a->number,
				    .level = level,
				    .message = line});
}

/* One printed line, which the caller gives up: only what stands behind the last carriage return, as a
 * terminal would show. */
static void take_line(struct runner *r, struct attempt *a, int which, char *line, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (line[i] == '\0')
			line[i] = ' ';
	while (n > 0 && line[n - 1] == '\r')
		n--;
	line[n] = '\0';
	char *shown = strrchr(line, '\r');
	shown = shown ? shown + 1 : line;
	keep_tail(a, shown);
	if (which == 1 && *shown) {
		free(a->last_stderr);
		a->last_stderr = xstrndup(shown, strnlen(shown, TAIL_BYTES));
	}
	attempt_log(r, a, which ? "stderr" : "stdout", LOG_INFO, shown);
}

static void take_lines(struct runner *r, struct attempt *a, int which)
{
	struct strbuf *b = &a->lines[which];
	size_t at = 0;

	while (at < b->len) {
		char *end = memchr(b->data + at, '\n', b->len - at);
		size_t n = end ? (size_t)(end - b->data) - at : b->len - at;
		if (!end && n < LINE_MAX_BYTES)
			break;
		if (n > LINE_MAX_BYTES) {
			/* A line without an end: broken where it is too long, at the start of a character. */
			n = LINE_MAX_BYTES;
			while (n > LINE_MAX_BYTES - 4 && (b->data[at + n] & 0xc0) == 0x80)
				n--;
			end = NULL;
		}
		char *line = xmalloc(n + 1);
		memcpy(line, b->data + at, n);
		take_line(r, a, which, line, n);
		free(line);
		at += n + (end != NULL);
	}
	if (at > 0) {
		memmove(b->data, b->data + at, b->len - at);
		b->len -= at;
	}
}

bool attempt_read_lines(struct runner *r, struct attempt *a, int which, size_t limit)
{
	int fd = which ? a->worker.err : a->worker.out;
	struct strbuf *b = &a->lines[which];

	for (size_t done = 0; done < limit;) {
		size_t room = 16 << 10;
		ssize_t n = read(fd, strbuf_reserve(b, room), room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		b->len += (size_t)n;
		done += (size_t)n;
		take_lines(r, a, which);
		if ((size_t)n < room)
			break; /* most likely all there is: poll knows better than another read */
	}
	return true;
}

void attempt_flush_lines(struct runner *r, struct attempt *a)
{
	for (int which = 0; which < 2; which++)
		if (a->lines[which].len > 0) {
			strbuf_addc(&a->lines[which], '\n');
			take_lines(r, a, which);
		}
}

/* ---- frames ---- */

static void take_progress(struct runner *r, struct attempt *a, const struct message *m)
{
	double now = clock_mono(), eta = -1;

	if (a->progress_since == 0) {
		a->progress_since =
			now; /* a resumed stage starts in the middle: its rate counts from there */
		a->progress_from = m->done;
	} else if (m->total > m->done && m->done > a->progress_from) {
		eta = (now - a->progress_since) * (double)(m->total - m->done) /
		      (double)(m->done - a->progress_from);
	} else if (m->total > 0 && m->done >= m->total) {
		eta = 0;
	}
	run_emit(r, &(struct event){.type = EVENT_STAGE_PROGRESS,
				    .stage = a->stage,
				    .attempt = a->number,
				    .done = m->done,
				    .total = m->total,
				    .unit = m->name,
				    .eta = eta,
				    .seconds = now - a->started});
}

static void take_metric(struct runner *r, struct attempt *a, const struct message *m)
{
	struct error e = ERROR_INIT;

	if (run_metric(r->store, r->id, r->position[a->stage], m->step, m->name, m->value, &e) < 0)
		run_unrecorded(r, &e);
	run_emit(r, &(struct event){.type = EVENT_STAGE_METRIC,
				    .stage = a->stage,
				    .attempt = a->number,
				    .step = m->step,
				    .message = m->name,
				    .value = m->value});
}

static void take_summary(struct attempt *a, const struct message *m)
{
	size_t i = 0;

	while (i < a->nfacts && strcmp(a->facts[i].name, m->name) != 0)
		i++;
	if (i == a->nfacts) {
		if (i == MAX_FACTS)
			return;
		grow(&a->facts, &a->facts_cap, a->nfacts + 1, sizeof *a->facts);
		a->facts[a->nfacts++].name = arena_strdup(&a->arena, m->name);
	}
	a->facts[i].value = arena_strdup(&a->arena, m->text);
}

static void take_file(struct attempt *a, const struct message *m)
{
	struct known_file f = {
		arena_strdup(&a->arena, m->text), (uint64_t)m->step, m->done, (int64_t)m->total, {{0}}};

	if (!digest_parse(m->hint, &f.digest))
		return;
	grow(&a->files, &a->files_cap, a->nfiles + 1, sizeof *a->files);
	a->files[a->nfiles++] = f;
}

static void take_checkpoint(struct runner *r, struct attempt *a, const struct message *m)
{
	struct plan_stage *st = &r->plan->stages[a->stage];
	struct strbuf out = STRBUF_INIT;
	struct error e = ERROR_INIT;

	if (checkpoint_save(r->store, &st->key, m->step, m->text, &e) < 0) {
		if (e.class == ERR_NONE)
			error_set(&e, ERR_INFRA, "the checkpoint could not be kept");
	} else {
		a->checkpointed = true;
	}
	message_pack(&out,
		     &(struct message){
			     .type = MESSAGE_SAVED, .code = (int)e.class, .text = e.message, .hint = e.hint});
	/* The worker waits for this one frame, so that it always fits the socket's buffer; a worker that died
	 * meanwhile is seen at the end of its stream. */
	ssize_t ignored = send(a->worker.control, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)ignored;
	strbuf_free(&out);
}

static void take_message(struct runner *r, struct attempt *a, const struct message *m)
{
	switch (m->type) {
	case MESSAGE_LOG: {
		enum log_level level = m->code < LOG_INFO || m->code > LOG_ERROR ? LOG_INFO
										 : (enum log_level)m->code;
		keep_tail(a, m->text);
		attempt_log(r, a, level_names[level], level, m->text);
		break;
	}
	case MESSAGE_PROGRESS: take_progress(r, a, m); break;
	case MESSAGE_METRIC: take_metric(r, a, m); break;
	case MESSAGE_SUMMARY: take_summary(a, m); break;
	case MESSAGE_CHECKPOINT: take_checkpoint(r, a, m); break;
	case MESSAGE_FILE: take_file(a, m); break;
	case MESSAGE_RESULT:
		a->answered = true;
		if (m->code == 0)
			break;
		bool known = m->code == ERR_USAGE || m->code == ERR_INFRA || m->code == ERR_INTERRUPTED;
		error_set(&a->answer, known ? (enum error_class)m->code : ERR_STAGE, "%s", m->text);
		error_hint(&a->answer, "%s", m->hint);
		break;
	case MESSAGE_SAVED: break; /* never sent by a worker */
	}
}

/* Handles every whole frame. A stream that is no longer in step ends the attempt. */
static void take_messages(struct runner *r, struct attempt *a)
{
	struct arena scratch = ARENA_INIT;
	struct message m;
	size_t at = 0;
	long used;

	while ((used = message_unpack(a->control.data + at, a->control.len - at, &m, &scratch, &a->answer)) >
	       0) {
		at += (size_t)used;
		take_message(r, a, &m);
	}
	if (used < 0) {
		a->answered = true; /* with the error that message_unpack gave */
		attempt_kill(a);
		at = a->control.len;
	}
	if (at > 0) {
		memmove(a->control.data, a->control.data + at, a->control.len - at);
		a->control.len -= at;
	}
	arena_free(&scratch);
}

bool attempt_read_control(struct runner *r, struct attempt *a)
{
	for (int i = 0; i < 64; i++) { /* then the others have their turn */
		ssize_t n = read(a->worker.control, strbuf_reserve(&a->control, 4096), 4096);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		a->control.len += (size_t)n;
		take_messages(r, a);
		if (a->answered)
			return false;
	}
	return true;
}
