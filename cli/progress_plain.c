/* Where no terminal looks: whole lines, in order, that read well in a CI log. */
#include <string.h>

#include "cli/progress.h"
#include "cli/text.h"

#define LINE_SECONDS 10

static void finished(struct progress *p, const struct event *e, struct strbuf *b)
{
	const struct progress_stage *s = p->stages + e->stage;
	const char *after = s->status == STAGE_DONE ? s->facts : s->message;
	char took[24];

	strbuf_addf(b, "%s: %s", e->name, stage_status_name(s->status));
	format_duration(s->seconds, took);
	strbuf_addf(b, " in %s", took);
	if (after && *after) {
		strbuf_adds(b, ": ");
		text_clean(b, after);
	}
	strbuf_addc(b, '\n');
}

static void running(struct progress *p, size_t stage, const char *name, struct strbuf *b)
{
	struct progress_stage *s = p->stages + stage;
	double now = p->o.clock(), left = progress_left(p, stage);
	char text[24];

	if (now - s->told < LINE_SECONDS)
		return;
	s->told = now;
	strbuf_addf(b, "%s: ", name);
	if (s->total)
		strbuf_addf(
			b, "%d %%, ",
			(int)(100.0 * (double)(s->done < s->total ? s->done : s->total) / (double)s->total));
	progress_amount(p, s, b);
	if (s->metric[0])
		strbuf_addf(b, ", %s", s->metric);
	if (left >= 0) {
		format_duration(left, text);
		strbuf_addf(b, ", %s left", text);
	}
	strbuf_addc(b, '\n');
}

static void settle_idle(struct progress *p, struct strbuf *b)
{
	if (progress_idle_take(p, b))
		strbuf_addc(b, '\n');
}

void progress_plain(struct progress *p, const struct event *e)
{
	struct strbuf b = STRBUF_INIT;
	char text[24];

	if (progress_idle_add(p, e))
		return;
	if (e->type != EVENT_TICK)
		settle_idle(p, &b);
	if (progress_idle_add(p, e))
		goto out;
	if (p->o.stop && *p->o.stop && !p->stop_told) {
		p->stop_told = true;
		strbuf_adds(&b, "stopping\n");
	}
	switch (e->type) {
	case EVENT_STAGE_WAITING:
	case EVENT_STAGE_STARTED:
		strbuf_addf(&b, "%s: %s", e->name, e->type == EVENT_STAGE_WAITING ? "waiting" : "started");
		if (e->attempt > 1)
			strbuf_addf(&b, " (attempt %d)", e->attempt);
		if (e->message && *e->message) {
			strbuf_adds(&b, ": ");
			text_clean(&b, e->message);
		}
		strbuf_addc(&b, '\n');
		break;
	case EVENT_STAGE_PROGRESS: running(p, e->stage, e->name, &b); break;
	case EVENT_STAGE_LOG:
		strbuf_addf(&b, "%s: %s", e->name,
			    e->level == LOG_ERROR     ? "error: "
			    : e->level == LOG_WARNING ? "warning: "
						      : "");
		text_clean(&b, e->message ? e->message : "");
		strbuf_addc(&b, '\n');
		break;
	case EVENT_STAGE_RETRY:
		format_duration(e->seconds, text);
		strbuf_addf(&b, "%s: attempt %d failed, next in %s: ", e->name, e->attempt, text);
		text_clean(&b, e->message ? e->message : "");
		strbuf_addc(&b, '\n');
		break;
	case EVENT_STAGE_FINISHED: finished(p, e, &b); break;
	default: break;
	}
out:
	if (b.len) {
		fwrite(b.data, 1, b.len, p->o.out);
		fflush(p->o.out);
	}
	strbuf_free(&b);
}
