#include "cli/progress.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/text.h"

void progress_init(struct progress *p, const struct progress_options *o)
{
	memset(p, 0, sizeof *p);
	p->o = *o;
	if (!p->o.clock)
		p->o.clock = clock_mono;
	p->stages = xcalloc(o->graph->nstages + 1, sizeof *p->stages);
	for (size_t i = 0; i < o->graph->nstages; i++)
		p->stages[i] = (struct progress_stage){.status = STAGE_PENDING, .eta = -1};
}

void progress_free(struct progress *p)
{
	if (p->o.style == PROGRESS_TTY)
		progress_tty_end(p);
	for (size_t i = 0; i < p->o.graph->nstages; i++) {
		free(p->stages[i].facts);
		free(p->stages[i].message);
	}
	free(p->stages);
	strbuf_free(&p->idle.names);
	free(p->idle.reason);
}

static void set_message(struct progress_stage *s, const char *text)
{
	free(s->message);
	s->message = text && *text ? xstrdup(text) : NULL;
}

static void begin(struct progress_stage *s, const struct event *e, double now)
{
	s->status = STAGE_RUNNING;
	s->waiting = e->type == EVENT_STAGE_WAITING;
	s->attempt = e->attempt;
	s->began = now;
	s->at_first = 0;
	s->done = s->total = 0;
	s->eta = -1;
	s->metric[0] = '\0';
	s->told = now;
	set_message(s, e->message);
}

/* Brings what is known up to date; the styles then tell it. */
static void learn(struct progress *p, const struct event *e, double now)
{
	struct progress_stage *s = p->stages + e->stage;

	switch (e->type) {
	case EVENT_RUN_STARTED: p->run = e->run; break;
	case EVENT_STAGE_WAITING:
	case EVENT_STAGE_STARTED:
		begin(s, e, now);
		s->usual = p->o.usual ? p->o.usual(e->name, p->o.arg) : 0;
		break;
	case EVENT_STAGE_PROGRESS:
		s->done = e->done;
		s->total = e->total;
		s->eta = e->eta;
		s->at = now;
		snprintf(s->unit, sizeof s->unit, "%s", e->unit ? e->unit : "");
		if (s->at_first == 0) {
			s->at_first = now;
			s->done_first = e->done;
		}
		break;
	case EVENT_STAGE_METRIC: {
		char value[32];
		snprintf(s->metric, sizeof s->metric, "%.14s %s", e->message ? e->message : "",
			 text_number(e->value, value));
		break;
	}
	case EVENT_STAGE_FINISHED:
		s->status = e->status;
		s->waiting = false;
		s->seconds = e->seconds;
		set_message(s, e->message);
		if (e->result) {
			struct strbuf b = STRBUF_INIT;
			text_facts(&b, e->result);
			free(s->facts);
			s->facts = strbuf_steal(&b);
		}
		break;
	case EVENT_RUN_FINISHED:
		p->status = e->run_status;
		p->exit_code = e->exit_code;
		p->seconds = e->seconds;
		break;
	default: break;
	}
}

void progress_event(const struct event *e, void *arg)
{
	struct progress *p = arg;

	if (e->stage >= p->o.graph->nstages && e->type != EVENT_RUN_STARTED &&
	    e->type != EVENT_RUN_FINISHED && e->type != EVENT_TICK)
		return;
	learn(p, e, p->o.clock());
	switch (p->o.style) {
	case PROGRESS_TTY: progress_tty(p, e); break;
	case PROGRESS_PLAIN: progress_plain(p, e); break;
	case PROGRESS_JSON: progress_json(p, e); break;
	case PROGRESS_QUIET: break;
	}
}

static bool same_text(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

bool progress_idle_add(struct progress *p, const struct event *e)
{
	const char *reason = e->status == STAGE_SKIPPED ? e->message : NULL;

	if (e->type != EVENT_STAGE_FINISHED || (e->status != STAGE_CACHED && e->status != STAGE_SKIPPED))
		return false;
	if (p->idle.n && (p->idle.status != e->status || !same_text(p->idle.reason, reason)))
		return false;
	if (!p->idle.n) {
		p->idle.status = e->status;
		free(p->idle.reason);
		p->idle.reason = reason ? xstrdup(reason) : NULL;
	}
	strbuf_addf(&p->idle.names, "%s%s", p->idle.n++ ? ", " : "", e->name);
	return true;
}

bool progress_idle_take(struct progress *p, struct strbuf *out)
{
	if (!p->idle.n)
		return false;
	strbuf_addf(out, "%zu %s: %s", p->idle.n, stage_status_name(p->idle.status), p->idle.names.data);
	if (p->idle.reason && *p->idle.reason) {
		strbuf_adds(out, " (");
		text_clean(out, p->idle.reason);
		strbuf_addc(out, ')');
	}
	strbuf_clear(&p->idle.names);
	p->idle.n = 0;
	return true;
}

double progress_rate(const struct progress *p, const struct progress_stage *s)
{
	(void)p;
	double span = s->at - s->at_first;
	return span > 0.5 && s->done > s->done_first ? (double)(s->done - s->done_first) / span : 0;
}

double progress_left(const struct progress *p, size_t stage)
{
	const struct progress_stage *s = p->stages + stage;
	double now = p->o.clock();

	if (s->eta >= 0) {
		double left = s->eta - (now - s->at);
		return left > 0 ? left : 0;
	}
	if (s->usual > 0 && !s->waiting) {
		double left = s->usual - (now - s->began);
		return left > 0 ? left : -1;
	}
	return -1;
}

static void add_quantity(struct strbuf *out, double n, bool bytes)
{
	char text[32];

	if (bytes)
		format_bytes((uint64_t)n, text);
	else
		text_count((uint64_t)n, text);
	strbuf_adds(out, text);
}

void progress_amount(const struct progress *p, const struct progress_stage *s, struct strbuf *out)
{
	bool bytes = !strcmp(s->unit, "bytes");
	double rate = progress_rate(p, s);
	char text[32];

	if (s->at_first == 0)
		return;
	add_quantity(out, (double)s->done, bytes);
	if (s->total) {
		strbuf_adds(out, " / ");
		add_quantity(out, (double)s->total, bytes);
	}
	if (!bytes && s->unit[0])
		strbuf_addf(out, " %s", s->unit);
	if (rate > 0 && bytes) {
		format_bytes((uint64_t)rate, text);
		strbuf_addf(out, ", %s/s", text);
	} else if (rate > 0) {
		strbuf_addf(out, ", %s/s", text_number(rate, text));
	}
}
