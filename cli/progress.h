/* What a run looks like while it runs, from the runner's events: live lines on a terminal, plain lines elsewhere, one JSON
 * object per line for programs and on Cloud Run. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/str.h"
#include "runtime/run.h"

enum progress_style {
	PROGRESS_TTY, /* one line per running stage, drawn anew at most ten times a second; ended stages stay above */
	PROGRESS_PLAIN, /* a line when a stage starts and ends, one at most every ten seconds in between */
	PROGRESS_JSON,  /* docs/cli.md lists the objects */
	PROGRESS_QUIET, /* nothing */
};

struct progress_options {
	enum progress_style style;
	const struct graph *graph;
	FILE *out;
	bool color, verbose;
	int width; /* columns; 0: as the terminal says at each drawing */
	/* Seconds that a stage took last time, 0: never ran. Asked when it starts; may be NULL. */
	double (*usual)(const char *stage, void *arg);
	void *arg;
	double (*clock)(void);    /* NULL: clock_mono */
	const volatile int *stop; /* nonzero: the user asked to stop; may be NULL */
};

/* What is known of a stage. */
struct progress_stage {
	enum stage_status status; /* STAGE_PENDING until it begins */
	bool waiting;             /* another process makes its result */
	int attempt;
	double began;         /* clock when the attempt started */
	double usual;         /* seconds it took last time, 0: unknown */
	double seconds;       /* once it ended */
	uint64_t done, total; /* of the attempt; total 0: unknown */
	uint64_t done_first;  /* done when the attempt first told, and the clock then: for the rate */
	double at_first;
	double at;  /* clock of the last report */
	double eta; /* seconds, negative: unknown */
	char unit[16];
	char metric[48]; /* the last one: "loss 0.431" */
	char *facts;     /* of its result, in one line */
	char *message;   /* why it was cached, failed or skipped */
	double told;     /* clock of the last line about it (plain, JSON) */
};

struct progress {
	struct progress_options o;
	int64_t run;
	struct progress_stage *stages; /* one per graph stage */
	enum run_status status;
	int exit_code;
	double seconds;
	bool stop_told;
	/* the terminal's */
	size_t lines; /* that are drawn below the settled ones */
	double drawn; /* clock of the last drawing */
	/* Stages that ended without work, one after the other and for the same reason, share a line (terminal, plain). */
	struct {
		enum stage_status status; /* STAGE_CACHED or STAGE_SKIPPED */
		char *reason;             /* of skipped ones; may be NULL */
		struct strbuf names;
		size_t n;
	} idle;
};

void progress_init(struct progress *p, const struct progress_options *o);
/* run_options.observe; arg is the struct progress. */
void progress_event(const struct event *e, void *arg);
/* Takes the live lines away and shows the cursor again. */
void progress_free(struct progress *p);

/* ---- the styles ---- */
void progress_tty(struct progress *p, const struct event *e);
void progress_tty_end(struct progress *p);
void progress_plain(struct progress *p, const struct event *e);
void progress_json(struct progress *p, const struct event *e);

/* Takes a finished stage into the group. False when it is not of its kind, or of another status or reason than those that are
 * in it: settle them first. */
bool progress_idle_add(struct progress *p, const struct event *e);
/* Appends "12 cached: a, b, c" or "skipped: a, b (reason)" and empties the group; nothing when it is empty. */
bool progress_idle_take(struct progress *p, struct strbuf *out);
/* Units a second since the attempt's first report, 0 when it cannot be told yet. */
double progress_rate(const struct progress *p, const struct progress_stage *s);
/* Seconds left: as the stage's reports say, else from the time it usually takes; negative when unknown. */
double progress_left(const struct progress *p, size_t stage);
/* Appends "1,204 / 2,880 steps", "12.4 MiB / 1.2 GiB", and the rate. */
void progress_amount(const struct progress *p, const struct progress_stage *s, struct strbuf *out);

#endif
