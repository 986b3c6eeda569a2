/* One JSON object per line. severity, message and time are those of Cloud Logging (a line becomes a structured entry on
 * Cloud Run); the other members are the event's own. docs/cli.md lists them. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "cli/progress.h"
#include "cli/text.h"

#define LINE_SECONDS 10

static const char *const event_names[] = {
	[EVENT_RUN_STARTED] = "run_started",     [EVENT_STAGE_WAITING] = "stage_waiting",
	[EVENT_STAGE_STARTED] = "stage_started", [EVENT_STAGE_PROGRESS] = "stage_progress",
	[EVENT_STAGE_LOG] = "stage_log",         [EVENT_STAGE_METRIC] = "stage_metric",
	[EVENT_STAGE_RETRY] = "stage_retry",     [EVENT_STAGE_FINISHED] = "stage_finished",
	[EVENT_RUN_FINISHED] = "run_finished",
};

static void add_text(struct strbuf *b, const char *key, const char *value)
{
	if (!value)
		return;
	strbuf_addf(b, ",\"%s\":", key);
	strbuf_add_json(b, value, strlen(value));
}

static void add_number(struct strbuf *b, const char *key, double value)
{
	char text[32];

	/* JSON has no words for these. */
	if (value != value || value - value != 0) {
		strbuf_addf(b, ",\"%s\":null", key);
		return;
	}
	format_f64(value, text);
	strbuf_addf(b, ",\"%s\":%s", key, text);
}

/* Seconds to the millisecond. */
static void add_seconds(struct strbuf *b, const char *key, double value)
{
	strbuf_addf(b, ",\"%s\":%.3f", key, value);
}

static const char *severity(const struct event *e)
{
	switch (e->type) {
	case EVENT_STAGE_LOG:
		return e->level == LOG_ERROR ? "ERROR" : e->level == LOG_WARNING ? "WARNING" : "INFO";
	case EVENT_STAGE_RETRY: return "WARNING";
	case EVENT_STAGE_FINISHED:
		return e->status == STAGE_FAILED        ? "ERROR"
		       : e->status == STAGE_INTERRUPTED ? "WARNING"
							: "INFO";
	case EVENT_RUN_FINISHED:
		return e->run_status == RUN_DONE          ? "NOTICE"
		       : e->run_status == RUN_INTERRUPTED ? "WARNING"
							  : "ERROR";
	case EVENT_STAGE_PROGRESS:
	case EVENT_STAGE_METRIC: return "DEBUG";
	default: return "INFO";
	}
}

/* The line as a person reads it. */
static void message(const struct progress *p, const struct event *e, struct strbuf *b)
{
	const struct progress_stage *s = p->stages + e->stage;
	const char *text = e->message ? e->message : "";
	char took[24], number[32];

	format_duration(e->seconds, took);
	switch (e->type) {
	case EVENT_RUN_STARTED:
		strbuf_addf(b, "run %" PRId64 " of %s started", e->run, p->o.graph->name);
		break;
	case EVENT_STAGE_WAITING: strbuf_addf(b, "%s: waiting: %s", e->name, text); break;
	case EVENT_STAGE_STARTED: strbuf_addf(b, "%s: started%s%s", e->name, *text ? ": " : "", text); break;
	case EVENT_STAGE_PROGRESS:
		strbuf_addf(b, "%s: ", e->name);
		progress_amount(p, s, b);
		break;
	case EVENT_STAGE_LOG: strbuf_addf(b, "%s: %s", e->name, text); break;
	case EVENT_STAGE_METRIC:
		strbuf_addf(b, "%s: step %" PRId64 ": %s %s", e->name, e->step, text,
			    text_number(e->value, number));
		break;
	case EVENT_STAGE_RETRY:
		strbuf_addf(b, "%s: attempt %d failed, next in %s: %s", e->name, e->attempt, took, text);
		break;
	case EVENT_STAGE_FINISHED:
		strbuf_addf(b, "%s: %s", e->name, stage_status_name(e->status));
		if (e->status != STAGE_CACHED && e->status != STAGE_SKIPPED)
			strbuf_addf(b, " in %s", took);
		if (e->status == STAGE_DONE && s->facts && *s->facts)
			strbuf_addf(b, ": %s", s->facts);
		else if (e->status != STAGE_DONE && *text)
			strbuf_addf(b, ": %s", text);
		break;
	case EVENT_RUN_FINISHED:
		strbuf_addf(b, "run %" PRId64 " of %s: %s in %s", e->run, p->o.graph->name,
			    run_status_name(e->run_status), took);
		break;
	default: break;
	}
}

static void add_result(const struct result *r, struct strbuf *b)
{
	char digest[DIGEST_TEXT_SIZE];

	strbuf_adds(b, ",\"facts\":{");
	for (size_t i = 0; i < r->nfacts; i++) {
		strbuf_adds(b, i ? "," : "");
		strbuf_add_json(b, r->facts[i].name, strlen(r->facts[i].name));
		strbuf_addc(b, ':');
		strbuf_add_json(b, r->facts[i].value, strlen(r->facts[i].value));
	}
	strbuf_adds(b, "},\"outputs\":{");
	for (size_t i = 0; i < r->noutputs; i++) {
		digest_text(&r->outputs[i].artifact.digest, digest);
		strbuf_adds(b, i ? "," : "");
		strbuf_add_json(b, r->outputs[i].name, strlen(r->outputs[i].name));
		strbuf_addf(b, ":{\"digest\":\"%s\",\"bytes\":%" PRIu64 "}", digest,
			    r->outputs[i].artifact.size);
	}
	strbuf_addc(b, '}');
}

/* The event's own members. */
static void add_members(const struct progress *p, const struct event *e, struct strbuf *b)
{
	if (e->type != EVENT_RUN_STARTED && e->type != EVENT_RUN_FINISHED)
		add_text(b, "stage", e->name);
	else
		add_text(b, "pipeline", p->o.graph->name);
	switch (e->type) {
	case EVENT_STAGE_WAITING:
	case EVENT_STAGE_STARTED:
		strbuf_addf(b, ",\"attempt\":%d", e->attempt);
		add_text(b, "reason", e->message);
		break;
	case EVENT_STAGE_PROGRESS:
		strbuf_addf(b, ",\"done\":%" PRIu64 ",\"total\":%" PRIu64, e->done, e->total);
		add_text(b, "unit", e->unit);
		if (progress_left(p, e->stage) >= 0)
			add_seconds(b, "eta", progress_left(p, e->stage));
		break;
	case EVENT_STAGE_METRIC:
		strbuf_addf(b, ",\"step\":%" PRId64, e->step);
		add_text(b, "name", e->message);
		add_number(b, "value", e->value);
		break;
	case EVENT_STAGE_RETRY:
		strbuf_addf(b, ",\"attempt\":%d", e->attempt);
		add_seconds(b, "delay", e->seconds);
		add_text(b, "error", e->message);
		break;
	case EVENT_STAGE_FINISHED:
		add_text(b, "status", stage_status_name(e->status));
		add_seconds(b, "seconds", e->seconds);
		if (e->status == STAGE_FAILED || e->status == STAGE_INTERRUPTED)
			add_text(b, "error", e->message);
		else
			add_text(b, "reason", e->message);
		if (e->result)
			add_result(e->result, b);
		break;
	case EVENT_RUN_FINISHED:
		add_text(b, "status", run_status_name(e->run_status));
		strbuf_addf(b, ",\"exit_code\":%d", e->exit_code);
		add_seconds(b, "seconds", e->seconds);
		break;
	default: break;
	}
}

void progress_json(struct progress *p, const struct event *e)
{
	struct strbuf b = STRBUF_INIT, text = STRBUF_INIT;
	char time[32];

	if (e->type == EVENT_STAGE_PROGRESS) {
		struct progress_stage *s = p->stages + e->stage;
		double now = p->o.clock();
		if (now - s->told < LINE_SECONDS)
			return;
		s->told = now;
	}
	if ((size_t)e->type >= sizeof event_names / sizeof *event_names)
		return;
	clock_iso8601(e->wall_ms ? e->wall_ms : clock_wall_ms(), time);
	message(p, e, &text);
	strbuf_addf(&b, "{\"severity\":\"%s\",\"message\":", severity(e));
	strbuf_add_json(&b, text.data ? text.data : "", text.len);
	strbuf_addf(&b, ",\"time\":\"%s\",\"event\":\"%s\",\"run\":%" PRId64, time, event_names[e->type],
		    e->run ? e->run : p->run);
	add_members(p, e, &b);
	strbuf_adds(&b, "}\n");
	fwrite(b.data, 1, b.len, p->o.out);
	fflush(p->o.out);
	strbuf_free(&b);
	strbuf_free(&text);
}
